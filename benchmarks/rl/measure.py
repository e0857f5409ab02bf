"""Rates per second of processor time, their medians and ratios, and the table of them.

Only the standard library: the peers' environments import this too.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

# Below this a figure has three digits and a point, above it is whole.
_WHOLE: Final = 100.0


def measure_rates(
    work: Callable[[], int], *, repetitions: int, least_s: float, clock: Callable[[], float] = time.process_time
) -> list[float]:
    """Units per second of processor time of this process, all of its threads, one figure for each repetition.

    `work` does some and answers how many units; it is called until `least_s` of processor time are over, and once
    before, for what the first call compiles or allocates. Time that the process waits for a core does not count; that
    others share its caches does. Another `clock` is for what is done elsewhere, on an accelerator.
    """
    work()
    rates = []
    for _ in range(repetitions):
        gc.collect()
        units, began_s = 0, clock()
        while (taken_s := clock() - began_s) < least_s or not units:
            units += work()
        rates.append(units / taken_s)
    return rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What one contender reached."""

    section: str
    name: str
    # What is counted, such as "steps".
    unit: str
    # Units per second of processor time, one for each repetition.
    rates: tuple[float, ...]
    is_ours: bool = False
    note: str = ""

    @property
    def median(self) -> float:
        """Of the repetitions."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> float:
        """Half of what lies between the least and the most, as a share of the median."""
        return (max(self.rates) - min(self.rates)) / 2 / self.median if self.median else 0.0


def join_rounds(rounds: Iterable[Sequence[Figure]]) -> list[Figure]:
    """Figures of the same contender from several rounds as one, in the order in which they came first."""
    joined: dict[tuple[str, str], Figure] = {}
    for figure in (each for round_ in rounds for each in round_):
        key = (figure.section, figure.name)
        earlier = joined[key].rates if key in joined else ()
        joined[key] = Figure(**{**asdict(figure), "rates": earlier + tuple(figure.rates)})
    return list(joined.values())


def ratio(ours: Figure, theirs: Figure) -> float:
    """How many times as many of the same units: of the medians. Raises ValueError for different units."""
    if ours.unit != theirs.unit:
        raise ValueError(f"{ours.name} counts {ours.unit}, {theirs.name} counts {theirs.unit}: there is no ratio")
    if theirs.median <= 0:
        raise ValueError(f"{theirs.name} did nothing: there is no ratio")
    return ours.median / theirs.median


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """That ours does at least `times` as much as `base`. Both are beginnings of names: the best of each counts."""

    ours: str
    base: str
    times: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """An aim, and what was reached by whom; None where a figure is missing."""

    aim: Aim
    reached: float | None
    ours: str = ""
    base: str = ""

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.reached is None:
            return "not measured"
        return "reached" if self.reached >= self.aim.times else "missed"


def judge(figures: Sequence[Figure], aims: Sequence[Aim]) -> list[Judged]:
    """Each aim with the ratio of the medians."""

    def best(beginning: str) -> Figure | None:
        found = [figure for figure in figures if figure.name.startswith(beginning)]
        return max(found, key=lambda each: each.median, default=None)

    judged = []
    for aim in aims:
        ours, base = best(aim.ours), best(aim.base)
        if ours and base:
            judged.append(Judged(aim=aim, reached=ratio(ours, base), ours=ours.name, base=base.name))
        else:
            judged.append(Judged(aim=aim, reached=None, ours=aim.ours, base=aim.base))
    return judged


def rows_of(figures: Sequence[Figure], base: str) -> list[tuple[str, ...]]:
    """Lines of a table, slowest first: contender, units per CPU-second, spread, times `base` where it is among them."""
    [anchor] = [figure for figure in figures if figure.name == base] or [None]
    return [
        (
            figure.name,
            format_number(figure.median),
            f"± {figure.spread:.0%}",
            f"{format_ratio(ratio(figure, anchor))} x" if anchor and figure.unit == anchor.unit else "",
            figure.note,
        )
        for figure in sorted(figures, key=lambda each: each.median)
    ]


def format_number(value: float) -> str:
    """Whole with commas from a hundred on, otherwise with three digits."""
    return f"{value:,.0f}" if abs(value) >= _WHOLE else f"{value:.3g}"


def format_ratio(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if value >= _WHOLE else f"{value:.3g}" if value >= 0.001 else f"{value:.5f}"


def load_average() -> tuple[float, float, float]:
    """Processes that want a core, over one, five and fifteen minutes; zeros where the system does not say."""
    try:
        return os.getloadavg()
    except OSError:
        return (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a contender."""

    # A file of numpy's with the closing prices, float64 [T], of bars of `bar_s`.
    prices: str
    bar_s: int
    repetitions: int
    least_s: float
    # How many environments at once, where a peer has that.
    sizes: tuple[int, ...] = ()
    fee_bps: int = 10

    @property
    def fee(self) -> float:
        """As a share of the amount."""
        return self.fee_bps / 10_000

    def closes(self) -> Any:
        """Float64 [T]."""
        import numpy as np

        return np.load(self.prices)

    def figure(
        self, section: str, name: str, unit: str, work: Callable[[], int], note: str = "", *, is_ours: bool = False
    ) -> Figure:
        """Measured as often and as long as asked."""
        rates = measure_rates(work, repetitions=self.repetitions, least_s=self.least_s)
        return Figure(section=section, name=name, unit=unit, rates=tuple(rates), note=note, is_ours=is_ours)


def request_from(text: str) -> Request:
    """A request out of JSON."""
    read = json.loads(text)
    return Request(**{**read, "sizes": tuple(read.get("sizes", ()))})


def figure_from(answer: dict[str, Any]) -> Figure:
    """A figure out of JSON."""
    return Figure(**{**answer, "rates": tuple(answer["rates"])})
