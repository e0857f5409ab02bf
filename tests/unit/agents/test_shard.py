"""A daemon whose placement ends by itself, or whose journal is busy. The store is of one process; everything else is
real but the fleet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.daemon import EXIT_NO_HEADS, Daemon
from agents.errors import Retryable
from agents.journal import Journal
from agents.placement import MemoryStore, Placement, PlacementRules, Write
from agents.shard import placed
from oracle.chain import BlockRef

ACCOUNT = f"0x{1:040x}"
RULES = PlacementRules(ttl_s=1.0, margin_s=0.2, beat_s=0.1, settle_s=0.05)
PATIENCE_S = 20.0


class Fleet:
    """What a placement asks of a fleet. `errors` are raised first when it is asked what is at rest."""

    def __init__(self, *errors: Exception) -> None:
        self.held: frozenset[str] | None = None
        self.errors, self.asked = list(errors), 0

    def at_rest(self) -> set[str]:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return set()


class Bench:
    """A daemon that waits for heads, its alerts, and what a placement needs of an assembly."""

    def __init__(self, journal: Journal, *errors: Exception) -> None:
        self.fleet, self.store, self.told = Fleet(*errors), MemoryStore(), list[tuple[str, str]]()
        signer = SimpleNamespace(address=ACCOUNT)
        self.assembly: Any = SimpleNamespace(
            signers={"one": signer}, fleet=self.fleet, outbox=SimpleNamespace(signers={ACCOUNT: signer}, may_use=None)
        )
        self.daemon = Daemon(self.fleet, journal=journal, heads=_no_heads, notifier=self)  # type: ignore[arg-type]

    def send(self, event: str, _severity: str, text: str) -> bool:
        self.told.append((event, text))
        return True

    def run(self, life: Callable[[Bench, Placement], Awaitable[None]]) -> int:
        """The daemon within a placement; its exit code. `life` begins when it holds its key."""

        async def main() -> int:
            async with placed(self.assembly, self.daemon, self.store, name="one", rules=RULES) as placement:
                assert (self.daemon._held, self.fleet.held) == (frozenset(), frozenset()), "not all, before it is said"
                running = asyncio.ensure_future(self.daemon.run())
                await until(lambda: self.daemon._held == {ACCOUNT})
                self.fleet.held = self.daemon._held  # as the next cycle does it
                await life(self, placement)
                return await asyncio.wait_for(running, PATIENCE_S)

        return asyncio.run(main())


async def _no_heads() -> AsyncIterator[BlockRef]:
    await asyncio.sleep(PATIENCE_S)
    yield BlockRef(number=0, hash="0x", timestamp_s=0)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.005)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.sqlite") as opened:
        yield opened


async def _the_store_fails(one: Bench, _: Placement) -> None:
    async def broken(_: Write) -> int | None:
        raise RuntimeError("what nobody foresaw")

    one.store.write = broken  # type: ignore[method-assign]


async def _it_is_cancelled(_: Bench, placement: Placement) -> None:
    assert placement._task is not None
    placement._task.cancel()


async def _nobody_knows_what_is_at_rest(one: Bench, _: Placement) -> None:
    one.fleet.errors.append(RuntimeError("what nobody foresaw"))


@pytest.mark.parametrize("how", [_the_store_fails, _it_is_cancelled, _nobody_knows_what_is_at_rest])
def test_a_daemon_whose_placement_ends_holds_nothing_and_ends_to_be_started_again(
    journal: Journal, caplog: pytest.LogCaptureFixture, how: Callable[[Bench, Placement], Awaitable[None]]
) -> None:
    one = Bench(journal)
    assert one.run(how) == EXIT_NO_HEADS
    assert (one.daemon._held, one.fleet.held) == (frozenset(), frozenset())
    [(event, text)] = one.told
    assert event == "failed"
    assert text.startswith("placement ended: ")
    assert not one.daemon.health.is_ready
    assert any(r.levelno == logging.CRITICAL and "placement ended" in r.getMessage() for r in caplog.records)


def test_a_journal_that_is_busy_does_not_end_a_placement(journal: Journal) -> None:
    one = Bench(journal, *[Retryable("another process writes the journal")] * 2)

    async def life(one: Bench, _: Placement) -> None:
        await until(lambda: one.fleet.asked > 3)
        assert one.daemon._held == {ACCOUNT}
        one.daemon.stop()

    assert one.run(life) == 0
    assert one.told == [], "a placement that is ended is no failure"
