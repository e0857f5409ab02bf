"""What the daemon makes of errors, of signals, of silence and of the end. Its fleet does what the test says; the loop,
the threads and the journal are real."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from requests import ConnectionError as RequestsConnectionError
from requests import Timeout
from web3.exceptions import BadFunctionCallOutput, TransactionNotFound, Web3RPCError

from agents import service
from agents.alerts import Systemd
from agents.constitution import OperatorLimits
from agents.daemon import (
    EXIT_HUNG,
    EXIT_NO_HEADS,
    EXIT_STOPPED,
    Action,
    Breaker,
    Daemon,
    DaemonRules,
    action_for,
    is_foreseen,
)
from agents.errors import AgentError, Halted, Misconfigured, Retryable
from agents.fees import FeeTooHigh
from agents.fleet import PAUSED, Tick
from agents.journal import Journal
from agents.outbox import Followed
from agents.reconcile import Reconciled
from agents.rpc import BlockNotReached
from agents.signer import SigningRefused
from oracle.chain import BlockRef
from oracle.errors import OracleError, ReadingFailed

NOW_S = 1_800_000_000
# Longer than anything here takes, so that what hangs fails.
PATIENCE_S = 20.0


def block(number: int = 1, timestamp_s: int = NOW_S) -> BlockRef:
    return BlockRef(number=number, hash=f"0x{number:064x}", timestamp_s=timestamp_s)


class Scripted:
    """A fleet of which each tick does what comes next; when nothing comes next, it does nothing."""

    def __init__(self, *script: Any) -> None:
        self.script, self.calls = list(script), list[str]()
        self.operator = OperatorLimits()
        self.held: frozenset[str] | None = None

    def reconcile(self, _: BlockRef) -> Reconciled:
        self.calls.append("reconcile")
        return Reconciled(abandoned=0, adopted=0, followed=Followed())

    def follow(self, _: BlockRef) -> Followed:
        self.calls.append("follow")
        return Followed()

    def tick(self, head: BlockRef) -> Tick:
        self.calls.append("tick")
        found = self.script.pop(0) if self.script else None
        if isinstance(found, BaseException):
            raise found
        if isinstance(found, Tick):
            return found
        if callable(found):
            found()
        return Tick(head=head)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Alerts:
    """Whoever is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def send(self, event: str, _severity: str, text: str) -> bool:
        self.told.append((event, text))
        return True


class Heads:
    """Heads that come when the test puts them, and an error or an end."""

    def __init__(self) -> None:
        self.coming: asyncio.Queue[Any] = asyncio.Queue()
        self.is_closed = False

    def __aiter__(self) -> Heads:
        return self

    async def __anext__(self) -> BlockRef:
        found = await self.coming.get()
        if isinstance(found, BaseException):
            raise found
        assert isinstance(found, BlockRef)
        return found

    async def aclose(self) -> None:
        self.is_closed = True


class Bench:
    """A daemon, and everything it touches."""

    def __init__(self, folder: Path, fleet: Scripted, **over: Any) -> None:
        self.fleet, self.clock, self.alerts, self.heads = fleet, Clock(), Alerts(), Heads()
        self.journal = Journal(folder / "journal.sqlite")
        self.ended: list[int] = []
        self.numbers = count(1)
        rules = {"breaker_after": 3, "breaker_s": 60.0, "grace_s": PATIENCE_S} | over.pop("rules", {})
        options: dict[str, Any] = {
            "journal": self.journal, "heads": lambda: self.heads, "rules": DaemonRules(**rules), "now": lambda: NOW_S,
            "notifier": self.alerts, "clock": self.clock, "end": self.ended.append,
        }  # fmt: skip
        self.daemon = Daemon(fleet, **options | over)  # type: ignore[arg-type]

    @property
    def health(self) -> Any:
        return self.daemon.health

    async def head(self, **over: int) -> None:
        """Another head, and the end of its cycle."""
        seen = self.daemon._heads_seen
        self.heads.coming.put_nowait(block(next(self.numbers), **over))
        await until(lambda: self.daemon._heads_seen > seen and self.daemon._working is None)

    async def living(self, life: Callable[[], Coroutine[Any, Any, None]]) -> int:
        """Runs the daemon while `life` goes on, then stops it; its exit code."""
        running = asyncio.ensure_future(self.daemon.run())
        living = asyncio.ensure_future(life())
        await asyncio.wait({running, living}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        if living.done():
            living.result()
        else:
            living.cancel()
        self.daemon.stop()
        return await asyncio.wait_for(running, PATIENCE_S)

    def run(self, life: Callable[[], Coroutine[Any, Any, None]]) -> int:
        """As `living`, and nothing is left when it has ended: no task, no thread."""

        async def main() -> int:
            code = await self.living(life)
            await asyncio.sleep(0)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks are left: {left}"
            return code

        threads = set(threading.enumerate())
        code = asyncio.run(main())
        for thread in set(threading.enumerate()) - threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), f"{thread.name} is left"
        return code


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.001)


Build = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Build]:
    built: list[Bench] = []

    def build(*script: Any, **over: Any) -> Bench:
        built.append(Bench(tmp_path / str(len(built)), Scripted(*script), **over))
        return built[-1]

    yield build
    for one in built:
        one.journal.close()


# Errors and actions


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (Misconfigured("x"), Action.STOP), (Halted("x"), Action.HALT),
        (Retryable("x"), Action.RETRY), (BlockNotReached("x"), Action.RETRY), (FeeTooHigh("x"), Action.RETRY),
        (AgentError("x"), Action.RETRY), (OracleError("x"), Action.RETRY),
        (ReadingFailed("0x", "x"), Action.RETRY), (Web3RPCError("x"), Action.RETRY),
        (TransactionNotFound("x"), Action.RETRY), (BadFunctionCallOutput("x"), Action.RETRY),
        (RequestsConnectionError("x"), Action.RETRY), (Timeout("x"), Action.RETRY), (OSError("x"), Action.RETRY),
        (TimeoutError("x"), Action.RETRY), (ConnectionResetError("x"), Action.RETRY),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)  # fmt: skip
def test_every_error_has_one_of_three_ends_and_was_foreseen(error: Exception, action: Action) -> None:
    assert action_for(error) is action
    assert is_foreseen(error)


def _all_errors(base: type[BaseException]) -> Iterator[type[BaseException]]:
    for child in base.__subclasses__():
        yield child
        yield from _all_errors(child)


def test_no_kind_of_error_of_ours_is_left_out() -> None:
    """Every error is of one of the three kinds, or a plain AgentError, which is retried."""
    kinds = (Misconfigured, Halted, Retryable)
    strange = [kind for kind in _all_errors(AgentError) if not issubclass(kind, kinds)]
    assert [kind.__name__ for kind in strange if kind.__module__.startswith("agents.")] in ([], ["SigningRefused"])
    assert action_for(SigningRefused("x")) is Action.RETRY or issubclass(SigningRefused, kinds)


@pytest.mark.parametrize("error", [ZeroDivisionError("by hand"), KeyError("vault"), AssertionError("never")])
def test_what_nobody_foresaw_is_retried_with_its_traceback_in_the_log(
    bench: Build, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    one = bench(error)

    async def life() -> None:
        await one.head()
        await one.head()
        assert one.health.state == "trading"

    assert one.run(life) == 0
    [record] = [record for record in caplog.records if record.getMessage().startswith("cycle failed")]
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert one.fleet.calls == ["reconcile", "tick", "tick"]


def test_what_was_foreseen_has_no_traceback(bench: Build, caplog: pytest.LogCaptureFixture) -> None:
    one = bench(Retryable("the node sleeps"))
    one.run(one.head)
    [record] = [record for record in caplog.records if "the node sleeps" in record.getMessage()]
    assert not record.exc_info


def test_what_is_misconfigured_stops_with_78_and_is_told_and_noted(bench: Build) -> None:
    one = bench(Misconfigured("the gauge is\nbroken: replace it"))

    async def life() -> None:
        await one.head()
        await asyncio.sleep(PATIENCE_S)

    assert one.run(life) == EXIT_STOPPED == 78
    assert one.alerts.told == [("stopped", "the gauge is broken: replace it")]
    assert one.journal.notes(1)[0]["detail"] == "the gauge is broken: replace it", "why, not that it was asked to"


def test_a_halted_daemon_stays_says_why_once_and_goes_on_when_the_cause_is_gone(
    bench: Build, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one = bench(*[Halted("the guardian said stop")] * 3)

    async def life() -> None:
        for _ in range(3):
            await one.head()
            assert (one.health.state, one.health.because) == ("halted", "the guardian said stop")
            assert not one.health.is_ready
        await one.head()
        assert one.health.is_ready

    assert one.run(life) == 0
    assert one.fleet.calls == ["reconcile", "tick"] * 4, "everything is looked at again"
    assert one.alerts.told == [("halted", "the guardian said stop")]
    said = [record.getMessage() for record in caplog.records]
    assert sum("halted" in line and "guardian" in line for line in said) <= 2
    assert sum(line.startswith("reconciling") for line in said) == 1


def test_a_halt_does_not_open_the_breaker(bench: Build) -> None:
    one = bench(*[Halted("stop")] * 5)

    async def life() -> None:
        for _ in range(5):
            await one.head()
        assert one.daemon.breaker.opened == 0

    one.run(life)


# The breaker


def test_the_breaker_opens_after_so_many_failures_in_a_row_doubles_and_closes() -> None:
    breaker = Breaker(after=2, open_s=10.0)
    assert [breaker.failed(0.0), breaker.failed(0.0)] == [False, True]
    assert breaker.is_open(9.9)
    assert not breaker.is_open(10.0)
    for length_s in (20.0, 40.0, 80.0, 160.0, 160.0, 160.0):
        breaker.failed(1000.0)
        assert breaker.failed(1000.0)
        assert breaker.open_until == 1000.0 + length_s
    breaker.succeeded()
    assert not breaker.is_open(0.0)
    breaker.failed(0.0)
    assert breaker.failed(0.0)
    assert breaker.open_until == 10.0


def test_failures_that_are_not_in_a_row_do_not_open_it() -> None:
    breaker = Breaker(after=2, open_s=10.0)
    for _ in range(5):
        assert not breaker.failed(0.0)
        breaker.succeeded()


def test_while_the_breaker_is_open_only_what_was_sent_is_followed(bench: Build) -> None:
    one = bench(None, *[OSError("the node is gone")] * 3)

    async def life() -> None:
        for _ in range(4):
            await one.head()
        assert (one.health.state, one.health.because) == ("waiting", "the node is gone")
        await one.head()
        assert one.fleet.calls[-1] == "follow"
        one.clock.now_s = 60.0
        await one.head()
        assert one.fleet.calls[-1] == "tick"
        assert one.health.is_ready
        assert one.daemon.breaker.opened == 0

    one.run(life)
    assert one.fleet.calls == ["reconcile", *["tick"] * 4, "follow", "tick"]
    assert [event for event, _ in one.alerts.told] == ["breaker"]


def test_while_the_breaker_is_open_a_journal_that_was_never_reconciled_is_not_followed(bench: Build) -> None:
    one = bench(None, rules={"breaker_after": 1})
    one.fleet.reconcile = lambda _: (_ for _ in ()).throw(Retryable("no genesis"))  # type: ignore[method-assign]

    async def life() -> None:
        await one.head()
        await one.head()

    one.run(life)
    assert one.fleet.calls == []


def test_keys_that_come_from_another_machine_are_used_after_everything_is_reconciled(bench: Build) -> None:
    one = bench()

    async def life() -> None:
        for accounts in ({"a", "b"}, {"a"}, {"a", "c"}):
            await one.head()
            one.daemon.hold(frozenset(accounts))
        await one.head()
        assert one.fleet.held == {"a", "c"}

    one.run(life)
    assert one.fleet.calls == ["reconcile", "tick", "reconcile", "tick", "tick", "reconcile", "tick"]


def test_gas_that_costs_too_much_is_no_failure_and_is_said(bench: Build, caplog: pytest.LogCaptureFixture) -> None:
    one = bench(None, *[FeeTooHigh("a unit of gas costs 50 wei")] * 10)

    async def life() -> None:
        for _ in range(11):
            await one.head()
        assert (one.health.state, one.health.because) == ("trading", "a unit of gas costs 50 wei")
        assert (one.daemon.breaker.failures, one.daemon.breaker.opened) == (0, 0)
        await one.head()
        assert (one.health.state, one.health.because) == ("trading", "")

    one.run(life)
    assert one.fleet.calls == ["reconcile", *["tick"] * 12], "at each head it is tried again"
    assert sum("a unit of gas" in r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING) == 1


# After a cycle


def test_why_an_agent_is_parked_is_kept_until_its_vault_was_read_again(bench: Build) -> None:
    parked = Tick(head=block(), parked={"0xa": "no such feed", "0xb": "an order is under way"})
    read = Tick(head=block(), readings={"0xb": SimpleNamespace()})  # type: ignore[dict-item]
    one = bench(parked, None, read)

    async def life() -> None:
        for expected in (parked.parked, parked.parked, {"0xa": "no such feed"}):
            await one.head()
            assert one.health.parked == expected

    one.run(life)


def test_a_report_that_fails_does_not_fail_the_cycle(bench: Build, caplog: pytest.LogCaptureFixture) -> None:
    def after_tick(_: Tick) -> None:
        raise ValueError("a label is no host")

    one = bench(after_tick=after_tick)

    async def life() -> None:
        for _ in range(5):
            await one.head()
        assert one.health.is_ready
        assert (one.health.cycles, one.health.failed_cycles) == (5, 0)

    one.run(life)
    assert any("could not be reported" in record.getMessage() and record.exc_info for record in caplog.records)


def test_a_paused_fleet_is_not_ready_and_says_why(bench: Build) -> None:
    one = bench()
    one.journal.set_control(PAUSED, "lunch", at_s=0)

    async def life() -> None:
        await one.head()
        assert (one.health.state, one.health.because, one.health.is_ready) == ("paused", "lunch", False)

    one.run(life)


@pytest.mark.parametrize(
    ("skews_s", "told"),
    [
        ((61,), "the machine's clock is 61 s behind block 1"),
        ((0, -61), "the machine's clock is 61 s ahead of block 2, or the node is late"),
        ((60, -60), ""),
        ((-3600, 0), ""),
    ],
    ids=["behind", "ahead", "within what is allowed", "the first head may be old"],
)
def test_a_clock_that_is_wrong_is_noticed(
    bench: Build, caplog: pytest.LogCaptureFixture, skews_s: tuple[int, ...], told: str
) -> None:
    one = bench()

    async def life() -> None:
        for skew_s in skews_s:
            await one.head(timestamp_s=NOW_S + skew_s)

    one.run(life)
    assert one.alerts.told == ([("clock", told)] if told else [])
    assert (told in [record.getMessage() for record in caplog.records]) == bool(told)


def test_a_warning_that_goes_on_is_logged_once_in_a_while(bench: Build, caplog: pytest.LogCaptureFixture) -> None:
    one = bench()

    async def life() -> None:
        for _ in range(5):
            await one.head(timestamp_s=NOW_S + 1000)
        one.clock.now_s += 300.0
        await one.head(timestamp_s=NOW_S + 1000)

    one.run(life)
    assert len([r for r in caplog.records if "clock is" in r.getMessage()]) == 2


# Heads


def test_no_heads_for_long_are_noticed_and_the_next_one_ends_it(bench: Build) -> None:
    one = bench(rules={"max_silence_s": 100.0})

    async def life() -> None:
        await one.head()
        one.daemon.notice_silence()
        assert one.health.is_ready
        one.clock.now_s = 101.0
        one.daemon.notice_silence()
        one.daemon.notice_silence()
        assert one.health.state == "silent"
        assert one.health.because.startswith("no new head for more than 100 s")
        await one.head()
        assert one.health.is_ready

    one.run(life)
    assert [event for event, _ in one.alerts.told] == ["silence"]


@pytest.mark.parametrize(
    ("error", "code", "event"),
    [
        (Misconfigured("WebSocket a.example is on chain 5"), EXIT_STOPPED, "stopped"),
        (AgentError("the stream of heads failed"), EXIT_NO_HEADS, "heads"),
        (RuntimeError("a bug"), EXIT_NO_HEADS, "heads"),
        (StopAsyncIteration(), EXIT_NO_HEADS, "heads"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_heads_that_end_do_not_end_the_daemon_in_silence(
    bench: Build, caplog: pytest.LogCaptureFixture, error: Exception, code: int, event: str
) -> None:
    one = bench()

    async def life() -> None:
        await one.head()
        one.heads.coming.put_nowait(error)
        await asyncio.sleep(PATIENCE_S)

    assert one.run(life) == code
    assert [event for event, _ in one.alerts.told] == [event]
    assert one.heads.is_closed
    assert any(record.levelno >= logging.ERROR for record in caplog.records)
    assert one.journal.notes(1)[0]["detail"] != "asked to"


def test_heads_as_a_generator_are_closed_too(bench: Build) -> None:
    closed = []

    async def heads() -> AsyncIterator[BlockRef]:
        try:
            for number in count(1):
                yield block(number)
                await asyncio.sleep(0)
        finally:
            closed.append(True)

    one = bench(heads=heads)

    async def life() -> None:
        await until(lambda: one.health.cycles >= 3)

    assert one.run(life) == 0
    assert closed == [True]


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_during_a_cycle_lets_it_finish_and_ends_with_0(bench: Build, number: signal.Signals) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)

    one = bench(slow)

    async def life() -> None:
        one.heads.coming.put_nowait(block())
        await until(begun.is_set)
        os.kill(os.getpid(), number)
        await until(one.daemon._stopping.is_set)
        one.heads.coming.put_nowait(block(2))
        await until(lambda: one.health.state == "stopping")
        go_on.set()
        await until(lambda: one.daemon._is_over.is_set())

    assert one.run(life) == 0
    assert one.fleet.calls == ["reconcile", "tick"], "finished, and no other was begun"
    assert one.health.cycles == 1
    assert one.heads.is_closed
    assert one.journal.notes(1)[0]["detail"] == "asked to"
    assert one.ended == []


def test_an_error_that_stops_during_a_stop_has_its_code(bench: Build) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        raise Misconfigured("the journal is full")

    one = bench(slow)

    async def life() -> None:
        one.heads.coming.put_nowait(block())
        await until(begun.is_set)
        one.daemon.stop()
        await until(lambda: one.health.state == "stopping")
        go_on.set()
        await until(one.daemon._is_over.is_set)

    assert one.run(life) == EXIT_STOPPED


def test_a_journal_that_another_process_holds_does_not_take_the_exit_code(bench: Build) -> None:
    def note(*_: Any, **__: Any) -> None:
        raise Retryable("another process writes the journal")

    one = bench(Misconfigured("load the approved file"))
    one.journal.note = note  # type: ignore[method-assign]

    async def life() -> None:
        await one.head()
        await asyncio.sleep(PATIENCE_S)

    assert one.run(life) == EXIT_STOPPED


def test_a_daemon_that_fails_ends_with_its_code_and_says_why(bench: Build, caplog: pytest.LogCaptureFixture) -> None:
    one = bench()

    async def life() -> None:
        await one.head()
        one.daemon.fail(EXIT_NO_HEADS, "placement ended")
        assert (one.health.state, one.health.is_ready) == ("stopped", False)
        one.daemon.fail(EXIT_HUNG, "something else")
        await asyncio.sleep(PATIENCE_S)

    assert one.run(life) == EXIT_NO_HEADS == 69
    assert one.alerts.told == [("failed", "placement ended")]
    assert one.journal.notes(1)[0]["detail"] == "placement ended"
    assert any(r.levelno == logging.CRITICAL and "placement ended" in r.getMessage() for r in caplog.records)


def test_a_daemon_that_failed_before_its_first_head_ends_at_once(bench: Build) -> None:
    one = bench()
    one.daemon.fail(EXIT_NO_HEADS, "placement ended")
    assert asyncio.run(one.daemon.run()) == EXIT_NO_HEADS


def test_the_last_cycle_of_a_daemon_that_failed_does_not_make_it_look_well(bench: Build) -> None:
    begun, go_on = threading.Event(), threading.Event()
    one = bench(lambda: begun.set() or go_on.wait(PATIENCE_S))

    async def life() -> None:
        one.heads.coming.put_nowait(block())
        await until(begun.is_set)
        one.daemon.fail(EXIT_NO_HEADS, "placement ended")
        go_on.set()
        await until(one.daemon._is_over.is_set)

    assert one.run(life) == EXIT_NO_HEADS
    assert one.health.cycles == 1
    assert (one.health.state, one.health.because) == ("stopping", "placement ended")


def test_a_failure_after_a_stop_was_asked_for_changes_nothing(bench: Build) -> None:
    one = bench()

    async def life() -> None:
        one.daemon.stop()
        one.daemon.fail(EXIT_NO_HEADS, "placement ended")

    assert one.run(life) == 0
    assert one.alerts.told == []


def test_a_cycle_that_outlives_the_grace_of_a_stop_ends_with_the_process(bench: Build) -> None:
    begun, go_on = threading.Event(), threading.Event()
    one = bench(lambda: begun.set() or go_on.wait(PATIENCE_S), rules={"grace_s": 0.01})

    async def life() -> None:
        one.heads.coming.put_nowait(block())
        await until(begun.is_set)
        one.daemon.stop()
        try:
            await until(one.daemon._is_over.is_set)
        finally:
            go_on.set()

    assert one.run(life) == EXIT_HUNG
    assert one.ended == [EXIT_HUNG]


@pytest.mark.parametrize("is_stopping", [False, True], ids=["running", "stopping"])
def test_the_watchdog_ends_a_cycle_that_hangs_also_during_a_stop(bench: Build, is_stopping: bool) -> None:
    begun, go_on = threading.Event(), threading.Event()
    one = bench(lambda: begun.set() or go_on.wait(PATIENCE_S), rules={"watchdog_s": 0.04, "grace_s": 3 * PATIENCE_S})

    async def life() -> None:
        one.heads.coming.put_nowait(block())
        await until(begun.is_set)
        if is_stopping:
            one.daemon.stop()
        await asyncio.sleep(0.05)
        assert one.ended == []
        one.clock.now_s = 1.0
        await until(lambda: bool(one.ended))
        go_on.set()

    one.run(life)
    assert one.ended == [EXIT_HUNG]


def test_a_daemon_whose_task_is_cancelled_waits_for_its_cycle_and_leaves_nothing(bench: Build) -> None:
    begun, go_on = threading.Event(), threading.Event()
    one = bench(lambda: begun.set() or go_on.wait(PATIENCE_S))

    async def main() -> None:
        running = asyncio.ensure_future(one.daemon.run())
        one.heads.coming.put_nowait(block())
        await until(begun.is_set)
        running.cancel()
        await until(lambda: one.health.state == "stopping")
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert one.health.cycles == 1
    assert one.heads.is_closed


def test_a_daemon_that_is_stopped_while_it_waits_leaves_no_task(bench: Build) -> None:
    one = bench()

    async def life() -> None:
        await asyncio.sleep(0.01)

    assert one.run(life) == 0
    assert one.heads.is_closed


# SIGHUP


@pytest.mark.parametrize(
    "error", [Misconfigured("agents.toml: 7"), PermissionError("no"), UnicodeDecodeError("utf-8", b"", 0, 1, "no")]
)
def test_limits_that_are_wrong_leave_the_old_ones(bench: Build, error: Exception) -> None:
    def reload() -> OperatorLimits:
        raise error

    one = bench(reload=reload)
    before = one.fleet.operator

    async def life() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: bool(one.alerts.told))

    assert one.run(life) == 0
    assert one.fleet.operator is before
    assert one.alerts.told[0][0] == "reload"
    assert "stay as they are" in one.alerts.told[0][1]


def test_sighup_reads_the_limits_again(bench: Build) -> None:
    after = OperatorLimits(max_trade_bps=7)
    one = bench(reload=lambda: after)

    async def life() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: one.fleet.operator is after)

    assert one.run(life) == 0


def test_sighup_before_the_daemon_listens_does_not_end_the_process() -> None:
    before = signal.getsignal(signal.SIGHUP)

    def begun(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        raise InterruptedError("the process is still there")

    try:
        signal.signal(signal.SIGHUP, lambda *_: pytest.fail("the signal came through"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(service, "redactor_of", begun)
            with pytest.raises(InterruptedError, match="still there"):
                service.run(SimpleNamespace())  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGHUP, before)


# The servers of a placement


def test_a_store_of_leases_that_is_away_at_the_start_is_waited_for(
    bench: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "_BEGIN_AGAIN_S", 0.0)
    one, answers = bench(), [Retryable("no NATS server answers"), Retryable("no NATS server answers"), "a store"]

    async def connect() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert asyncio.run(service._connected(connect, one.daemon)) == "a store"
    assert one.health.because == "no NATS server answers"
    assert sum("can't begin yet" in record.getMessage() for record in caplog.records) == 2


def test_a_store_of_leases_that_is_of_no_use_is_not_waited_for(bench: Build) -> None:
    async def connect() -> Any:
        raise Misconfigured("the bucket forgets leases")

    with pytest.raises(Misconfigured, match="forgets"):
        asyncio.run(service._connected(connect, bench().daemon))


# The heartbeat


class Nodes:
    """An assembly of which only the nodes' health is asked."""

    def __init__(self, health: Callable[[], Any]) -> None:
        self.chain = SimpleNamespace(w3=SimpleNamespace(provider=SimpleNamespace(heads=health)))


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd listens with."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(PATIENCE_S)
        yield listening


def beaten(one: Bench, nodes: Nodes, address: str, beats: int = 1) -> None:
    """So many heartbeats."""

    async def main() -> None:
        beat = asyncio.ensure_future(service._beat(one.daemon, one.daemon.telemetry, nodes, Systemd(address)))  # type: ignore[arg-type]
        last = 0.0
        for _ in range(beats):
            await until(lambda last=last: one.daemon.beat_at > last)  # type: ignore[misc]
            last = one.daemon.beat_at
        beat.cancel()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("state", "is_ready"),
    [
        ("starting", False), ("reconciling", False),
        ("trading", True), ("paused", True), ("halted", True), ("waiting", True), ("silent", True),
    ],
)  # fmt: skip
def test_systemd_is_told_ready_when_it_has_caught_up_also_where_it_does_not_trade(
    bench: Build, supervisor: socket.socket, state: str, is_ready: bool
) -> None:
    one = bench()
    one.health.state = state
    beaten(one, Nodes(dict), supervisor.getsockname())
    first = supervisor.recv(4096).decode()
    assert first == ("READY=1" if is_ready else "WATCHDOG=1")


def test_a_measure_that_fails_does_not_stop_the_heartbeat(
    bench: Build, supervisor: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def health() -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(service, "_FIRST_BEAT_S", 0.001)
    beaten(bench(), Nodes(health), supervisor.getsockname(), beats=3)
    assert len([record for record in caplog.records if "could not be measured" in record.getMessage()]) >= 2


def test_nodes_are_measured_while_no_cycle_ends(bench: Build, supervisor: socket.socket) -> None:
    one = bench()
    one.health.head = block(timestamp_s=1)
    beaten(one, Nodes(lambda: {"a.example": SimpleNamespace(circuit="open")}), supervisor.getsockname())
    registry = one.daemon.telemetry.registry
    assert registry.get_sample_value("marketflow_rpc_up", {"host": "a.example"}) == 0
    lag_s = registry.get_sample_value("marketflow_head_lag_seconds")
    assert lag_s is not None
    assert lag_s > 1_000_000
