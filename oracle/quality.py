"""Is a price series fit to be learnt from? Each check with a verdict, the rows it is about, and plain numbers.

A reader refuses what can't be read; this says what the readable is like. `warn` is for what real markets do (an
exchange stands still, a price jumps), `fail` for what no use of the series survives. Reports hold integers and texts
only, and are the same for the same series: they go into the provenance of what was learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from oracle.chainlink import PHASE_SHIFT

IntArray = npt.NDArray[np.int64]
Verdict = Literal["pass", "warn", "fail"]

BPS = 10_000
# So many of the rows that a check is about are named.
ROWS_NAMED = 10
_MICRO = 1_000_000
# What makes the median absolute deviation of a normal variable its standard deviation, x 10,000.
_MAD_TO_SIGMA = 14_826
# A price that hardly moves has no deviation to speak of: five basis points at least.
_LEAST_MAD_MICRO = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRules:
    """Where a warning begins, and where a failure."""

    # Missing time, or missing numbers, beyond this share of all: fail. Any at all: warn.
    max_missing_bps: int = 100
    # Robust standard deviations (of the logarithmic step from row to row) from which a row is an outlier: warn.
    outlier_sigmas: int = 20
    # Outliers beyond this share of rows: fail.
    max_outliers_bps: int = 500
    # A price that is so many times the last one, or that part of it: fail. No market that is traded does this; a
    # misplaced decimal point does.
    max_step_factor: int = 2
    # A price that stood still for longer: warn.
    max_flat_s: int = 86_400
    # Stood still for more than this share of the time: fail.
    max_flat_bps: int = 2000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """What is checked: arrays of one length, prices in any unit.

    `step_s`: seconds from row to row, 0 when rows come as they come (the rounds of a feed); these may be up to
    `heartbeat_s` apart, and two of them may share a second.
    """

    source: str
    times_s: IntArray
    close: IntArray
    open: IntArray | None = None
    high: IntArray | None = None
    low: IntArray | None = None
    step_s: int = 0
    heartbeat_s: int = 0
    # Round ids: consecutive within a phase.
    numbers: Sequence[int] = ()
    # Stretches without data that the rows don't show, because they were filled: seconds, by when they ended.
    filled_s: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check's outcome. `rows` counts from 1 and names the first of `count`."""

    check: str
    verdict: Verdict
    says: str
    rows: tuple[int, ...] = ()
    count: int = 0
    numbers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityReport:
    """All checks of one series."""

    source: str
    rows: int
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the checks."""
        found = {check.verdict for check in self.checks}
        return "fail" if "fail" in found else "warn" if "warn" in found else "pass"

    @property
    def refusal(self) -> str:
        """Why the series must not be used, in one sentence naming source, row and check; empty when it may."""
        failed = next((check for check in self.checks if check.verdict == "fail"), None)
        if failed is None:
            return ""
        where = f", row {failed.rows[0]}" if failed.rows else ""
        return f"{self.source}{where}: the check of {failed.check} failed: {failed.says}"

    def as_plain(self) -> dict[str, Any]:
        """JSON values."""
        checks = [
            {
                "check": c.check,
                "count": c.count,
                "numbers": dict(c.numbers),
                "rows": list(c.rows),
                "says": c.says,
                "verdict": c.verdict,
            }
            for c in self.checks
        ]
        return {"checks": checks, "rows": self.rows, "source": self.source, "verdict": self.verdict}


def check_quality(series: Series, rules: QualityRules = QualityRules()) -> QualityReport:
    """Every check that the series allows; those of steps and stillness only where prices and times make sense."""
    if len(series.close) < 2:
        says = f"{len(series.close)} rows, at least 2 are needed"
        return _report(series, [Check(check="length", verdict="fail", says=says)])
    checks = [_time(series), _prices(series)]
    if series.open is not None:
        checks.append(_ohlc(series))
    if any(check.verdict == "fail" for check in checks):
        return _report(series, checks)
    further: list[Callable[[Series, QualityRules], Check]] = [_gaps if series.step_s else _ages]
    if len(series.numbers):
        further.append(_numbers)
    return _report(series, [*checks, *(check(series, rules) for check in (*further, _outliers, _stillness))])


def _report(series: Series, checks: Sequence[Check]) -> QualityReport:
    return QualityReport(source=series.source, rows=len(series.close), checks=tuple(checks))


def _time(series: Series) -> Check:
    steps = np.diff(series.times_s)
    same, back = np.flatnonzero(steps == 0), np.flatnonzero(steps < 0)
    numbers = {"backwards": len(back), "same": len(same)}
    if series.step_s:
        off_grid = np.flatnonzero(steps % series.step_s)
        numbers["off_grid"] = len(off_grid)
        wrong = np.flatnonzero((steps <= 0) | (steps % series.step_s != 0))
    else:
        wrong = back
    if len(wrong):
        step_s = int(steps[wrong[0]])
        return _about("time", "fail", f"it is {step_s} s after the row before", wrong + 1, numbers)
    if len(same):
        return _about("time", "warn", f"{len(same)} rows share a second with the row before", same + 1, numbers)
    return _about("time", "pass", "strictly increasing", (), numbers)


def _prices(series: Series) -> Check:
    columns = [column for column in (series.open, series.high, series.low, series.close) if column is not None]
    wrong = np.flatnonzero(np.min(columns, axis=0) <= 0)
    if len(wrong):
        return _about("prices", "fail", f"{len(wrong)} rows have a price that is not above zero", wrong)
    return _about("prices", "pass", "all above zero")


def _ohlc(series: Series) -> Check:
    assert series.open is not None and series.high is not None and series.low is not None
    above = np.maximum(series.open, series.close) > series.high
    below = np.minimum(series.open, series.close) < series.low
    wrong = np.flatnonzero(above | below)
    if len(wrong):
        return _about("high and low", "fail", f"{len(wrong)} rows open or close outside their high and low", wrong)
    return _about("high and low", "pass", "open and close lie within")


def _gaps(series: Series, rules: QualityRules) -> Check:
    """What is missing of regular rows, and what was filled in where a feed was silent."""
    missing_s = np.diff(series.times_s) - series.step_s
    gaps = dict(series.filled_s)
    gaps |= {int(series.times_s[i + 1]): int(missing_s[i]) for i in np.flatnonzero(missing_s)}
    span_s = int(series.times_s[-1] - series.times_s[0]) + series.step_s
    rows = np.searchsorted(series.times_s, np.array(sorted(gaps), dtype=np.int64))
    total_s, longest_s = sum(gaps.values()), max(gaps.values(), default=0)
    share_bps = _share_bps(total_s, span_s)
    numbers = {"longest_s": longest_s, "missing_rows": total_s // series.step_s, "missing_s": total_s}
    numbers |= {"share_bps": share_bps}
    if not gaps:
        return _about("gaps", "pass", "nothing is missing", (), numbers)
    says = (
        f"{numbers['missing_rows']} rows are missing in {len(gaps)} gaps, the longest of {longest_s} s; "
        f"{share_bps} bps of the time, {rules.max_missing_bps} are allowed"
    )
    return _about("gaps", "fail" if share_bps > rules.max_missing_bps else "warn", says, rows, numbers)


def _ages(series: Series, rules: QualityRules) -> Check:
    """How old a round was when the next one came."""
    ages_s = np.diff(series.times_s)
    ordered = np.sort(ages_s)
    numbers = {f"p{percent}_s": int(ordered[-(-len(ordered) * percent // 100) - 1]) for percent in (50, 99)}
    late = np.flatnonzero(ages_s > series.heartbeat_s)
    late_s = int((ages_s[late] - series.heartbeat_s).sum())
    share_bps = _share_bps(late_s, int(ages_s.sum()))
    numbers |= {"max_s": int(ordered[-1]), "late_s": late_s, "share_bps": share_bps, "heartbeat_s": series.heartbeat_s}
    if not len(late):
        return _about("ages", "pass", f"no round was older than {series.heartbeat_s} s", (), numbers)
    says = (
        f"{len(late)} rounds came more than {series.heartbeat_s} s after the one before, {numbers['max_s']} s at most; "
        f"late {share_bps} bps of the time, {rules.max_missing_bps} are allowed"
    )
    return _about("ages", "fail" if share_bps > rules.max_missing_bps else "warn", says, late + 1, numbers)


def _numbers(series: Series, rules: QualityRules) -> Check:
    ids = series.numbers
    skipped = [
        (row, after - before - 1)
        for row, (before, after) in enumerate(zip(ids, ids[1:], strict=False), 1)
        if before >> PHASE_SHIFT == after >> PHASE_SHIFT and after - before != 1
    ]
    missing = sum(count for _, count in skipped)
    share_bps = _share_bps(missing, missing + len(ids))
    numbers = {"missing_rounds": missing, "share_bps": share_bps}
    if not skipped:
        return _about("round numbers", "pass", "consecutive in each phase", (), numbers)
    first = ids[skipped[0][0] - 1] + 1
    says = f"{missing} rounds are missing, the first is {first}; {share_bps} bps, {rules.max_missing_bps} are allowed"
    verdict: Verdict = "fail" if share_bps > rules.max_missing_bps else "warn"
    return _about("round numbers", verdict, says, np.array([row for row, _ in skipped]), numbers)


def _outliers(series: Series, rules: QualityRules) -> Check:
    """By the median absolute deviation of logarithmic steps, which outliers themselves do not move. Rows at which the
    price did not change are left out of it: a feed that is silent most of the time would else have none."""
    steps = np.rint(np.diff(np.log(series.close)) * _MICRO).astype(np.int64)
    moves = steps[steps != 0] if steps.any() else steps
    middle = int(np.median(moves))
    mad = max(int(np.median(np.abs(moves - middle))), _LEAST_MAD_MICRO)
    far = np.flatnonzero(np.abs(steps - middle) * BPS > rules.outlier_sigmas * _MAD_TO_SIGMA * mad)
    high, low = np.maximum(series.close[1:], series.close[:-1]), np.minimum(series.close[1:], series.close[:-1])
    broken = np.flatnonzero(high // rules.max_step_factor >= low)
    largest = int(np.abs(steps).max())
    share_bps = _share_bps(len(far), len(steps))
    numbers = {"largest_step_micro": largest, "mad_micro": mad, "share_bps": share_bps, "torn": len(broken)}
    if len(broken):
        says = f"the price goes from {series.close[broken[0]]} to {series.close[broken[0] + 1]} in one step"
        return _about("outliers", "fail", says, broken + 1, numbers)
    if not len(far):
        return _about("outliers", "pass", f"no step beyond {rules.outlier_sigmas} sigmas", (), numbers)
    says = (
        f"{len(far)} steps beyond {rules.outlier_sigmas} robust sigmas; {share_bps} bps of rows, "
        f"{rules.max_outliers_bps} are allowed"
    )
    return _about("outliers", "fail" if share_bps > rules.max_outliers_bps else "warn", says, far + 1, numbers)


def _stillness(series: Series, rules: QualityRules) -> Check:
    """The longest stretch in which the price never changed."""
    changed = np.flatnonzero(np.diff(series.close)) + 1
    starts, ends = np.concatenate([[0], changed]), np.concatenate([changed, [len(series.close)]]) - 1
    longest = int(np.argmax(ends - starts))
    first, last = int(starts[longest]), int(ends[longest])
    flat_s, span_s = (int(series.times_s[b] - series.times_s[a]) for a, b in ((first, last), (0, -1)))
    unchanged_bps = _share_bps(len(series.close) - 1 - len(changed), len(series.close) - 1)
    share_bps = _share_bps(flat_s, span_s)
    numbers = {"longest_rows": last - first + 1, "longest_s": flat_s, "unchanged_bps": unchanged_bps}
    says = f"the price stood still for {flat_s} s at most"
    if share_bps > rules.max_flat_bps:
        says += f", {share_bps} bps of the time, {rules.max_flat_bps} are allowed"
        return _about("stillness", "fail", says, np.array([first]), numbers)
    if flat_s > rules.max_flat_s:
        return _about("stillness", "warn", says, np.array([first]), numbers)
    return _about("stillness", "pass", says, (), numbers)


def _about(
    check: str,
    verdict: Verdict,
    says: str,
    rows: IntArray | Sequence[int] = (),
    numbers: Mapping[str, int] | None = None,
) -> Check:
    """`rows` are indices, from 0."""
    named = tuple(int(row) + 1 for row in rows[:ROWS_NAMED])
    return Check(check=check, verdict=verdict, says=says, rows=named, count=len(rows), numbers=numbers or {})


def _share_bps(part: int, whole: int) -> int:
    """Rounded up: a little is not nothing."""
    return -(-part * BPS // whole) if whole else 0
