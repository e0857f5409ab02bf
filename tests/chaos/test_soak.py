"""The soak in short, and that each of its bounds can be broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.localnet.evm import start_evm
from tests.chaos.soak import (
    AGENTS,
    BLOCKS,
    HOUR,
    KIB,
    MIB,
    TRADES_PER_DAY,
    WARM_UP,
    Bar,
    Sample,
    Told,
    compute_report,
    plan,
    soak,
)
from tests.contracts.world import World

BARS, CYCLES = 20, 10


def sample(number: int, **over: Any) -> Sample:
    """Of a daemon that is well, a tenth of a second after the one before, in the bar of its number."""
    fields: dict[str, Any] = {
        "at": number / CYCLES, "pid": 7, "state": "trading", "head": number // CYCLES, "number": number, "failed": 0,
        "cycle_ms": 10, "needs_operator": False, "resident": 90 * MIB, "open_files": 20, "threads": 5,
    }  # fmt: skip
    return Sample(**fields | over)


def told(samples: Sequence[Sample] | None = None, **over: Any) -> Told:
    """A soak in which everything went well: a bar a second, a block a bar, ten cycles in each."""
    fields: dict[str, Any] = {
        "bars": [(float(bar), bar + 1.0, bar, True) for bar in range(BARS)],
        "samples": [sample(number) for number in range(BARS * CYCLES)] if samples is None else list(samples),
        "lives": [7], "exits": [0], "decisions": {"final": 100}, "journal_bytes": 100 * 8 * KIB,
        "trades": AGENTS * BARS,
    }  # fmt: skip
    return Told(**fields | over)


def altered(first: int, last: int, **over: Any) -> list[Sample]:
    return [sample(n, **(over if first <= n < last else {})) for n in range(BARS * CYCLES)]


def growing(what: str, least: int, each: int) -> list[Sample]:
    return [sample(n, **{what: least + n * each}) for n in range(BARS * CYCLES)]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (told(altered(50, 60, state="halted")), "available_bps is 9500"),
        (told(altered(50, 60, head=4)), "available_bps is 9500"),
        (told([s for s in altered(0, 0) if not 5.0 <= s.at < 6.0]), "available_bps is 9500"),
        (told(altered(40, 45, needs_operator=True)), "operator_bps is 251"),
        (told(growing("resident", 90 * MIB, 20 * KIB)), f"memory_bytes is {20_000 * KIB}"),
        (told(growing("open_files", 20, 1)), "open_files is 1000"),
        (told(journal_bytes=100 * 33 * KIB), f"journal_bytes is {33 * KIB}"),
        (told(ahead_bytes=9 * MIB), f"ahead_bytes is {9 * MIB}"),
        (told(trades=5), "trades_bps is 625"),
        (told(lost_or_doubled="Broken: a decision was traded twice"), "traded twice"),
        (told(exits=[70, 0]), "codes [70, 0]"),
        (told(exits=[-9]), "codes [-9]"),
    ],
    ids=[
        "halted", "behind", "gone", "operator", "memory", "files", "journal", "ahead", "idle", "doubled", "died",
        "does not stop",
    ],
)  # fmt: skip
def test_each_bound_can_be_broken(case: Told, said: str) -> None:
    [broken] = compute_report(case).broken
    assert said in broken


def test_a_good_soak_breaks_none() -> None:
    report = compute_report(told())
    assert report.broken == ()
    assert report.figures["available_bps"] == 10_000
    assert report.figures["cycles seen"] == BARS * CYCLES - 1, "the first had not ended one"


def test_bars_without_a_node_are_not_counted() -> None:
    good = told([s for s in altered(0, 0) if not 5.0 <= s.at < 6.0])
    good.bars[5] = (5.0, 6.0, 5, False)
    report = compute_report(good)
    assert report.broken == ()
    assert (report.figures["bars"], report.figures["bars counted"]) == (BARS, BARS - 1)


def test_growth_is_that_of_the_last_life_after_its_first_cycles() -> None:
    first = [sample(n, pid=6, resident=n * MIB) for n in range(100)]
    last = [sample(n, resident=n * MIB if n < WARM_UP else 90 * MIB) for n in range(BARS * CYCLES)]
    assert compute_report(told([*first, *last], lives=[6, 7])).figures["memory_bytes"] == 0


def test_a_plan_is_a_function_of_its_seed_and_everything_happens_in_it() -> None:
    bars = plan(1, 144)
    assert bars == plan(1, 144) != plan(2, 144)
    assert {bar.reorg for bar in bars} == {0, 1, 2, 3}
    assert sum(bar.is_foreign for bar in bars) == 144 // HOUR
    assert sum(bar.kill_at is not None for bar in bars) == 96 // HOUR
    assert all(bar.kill_at is None for bar in bars[96:])
    assert {len(bar.nodes_off) for bar in bars} == {0, 1, 2}
    assert BLOCKS * 25 < 600
    assert TRADES_PER_DAY <= 50


def test_a_daemon_that_is_killed_and_has_bad_nodes_loses_nothing(tmp_path: Path) -> None:
    bars = plan(4, HOUR)
    assert any(bar.kill_at is not None for bar in bars)
    bars = [replace(bars[0], nodes_off=frozenset({0})), *bars[1:-1], Bar(price_usd=2000)]
    with start_evm("anvil") as evm:
        found = soak(World(evm), tmp_path / "operator", bars, seed=4, bar_s=1.0)
    figures = compute_report(found).figures
    assert found.lost_or_doubled == ""
    assert found.exits == [0]
    assert (figures["kills"], figures["daemons"], figures["cycles needing an operator"]) == (1, 2, 0)
    assert figures["trades"] > 0
    assert figures["reorgs"] == 1
