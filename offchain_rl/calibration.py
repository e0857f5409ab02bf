"""How far the price may move until the next bar: an interval that nine of ten moves stay in, the same bits everywhere.

The interval of one bar's return is a function of the answers that an observation is made of, and of nothing else, so an
auditor who reads the same rounds gets the same interval. Returns are base-two logarithms in q24 (`fixedpoint`); the
horizon is one bar, `bar_s` seconds after the last answer.

How it is made, one step for each return of the window, oldest first, with integers only:

    size       |L now - L before|, at most one (a factor of two), as for an observation's volatility
    scale      mean of four exponential averages of the sizes so far, over about 4, 16, 64 and 512 bars: a regime that
               begins is seen by the quick ones within bars, and the slow ones remember what is usual. Averages of
               sizes, not of squares: one outlier counts once. HAR-like (Corsi 2009).
    multiple   half-width = multiple x scale. After a hit it shrinks by a small share, after a miss it grows by as much
               as nine hits shrink it: it stands still where one size of ten is a miss. Quantile tracking, the
               proportional part of conformal PID control (Angelopoulos, Candes, Tibshirani 2023,
               https://arxiv.org/abs/2307.16895), on the logarithm of the multiple, with steps that become smaller
               (Angelopoulos, Barber, Bates 2024, https://arxiv.org/abs/2402.01139).

The interval is plus and minus the last half-width. Nothing in it is infinite: `scale` and `multiple` have bounds.

Chosen by measurement, on ten real series (`python -m benchmarks.calibration`). Adaptive conformal inference (Gibbs and
Candes 2021) with sample quantiles of the same scores: with a small step as good an interval score, but more stretches
with a wrong coverage; with a step that is as quick, a score 1 to 2 % worse. A multiple for each side: 0.3 % worse. The
score is better than that of GARCH(1,1) with Student's t on all ten, by 0.2 to 0.9 % (10 % on rounds of Chainlink);
where that one covers less than nine of ten, it is narrower by up to 5 %.

Not promised: nine of ten *given* anything. What adapts to a new regime has missed its first bars. A feed that stands
still most of the time is inside any interval that has a zero in it, so its coverage is above nine of ten. The moves of
one bar are what coverage is promised for, not what a vault loses by trading on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from math import isfinite, log, sqrt
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from offchain_rl.fixedpoint import Q24_ONE, IntArray, log2_q24_array
from offchain_rl.observation import BPS, MAX_BAR_S, VOL_FLOOR_Q24
from offchain_rl.prices import MAX_PRICE_E8

# Another way of making intervals is another name: documents say which they were made in.
METHOD: Final = "marketflow/interval/1"
COVERAGE_BPS: Final = 9000
# Answers that an interval needs: 32 returns to begin with, 96 to find the multiple.
MIN_ANSWERS: Final = 129

_WARM_UP: Final = 32
_SIZE_LIMIT_Q24: Final = Q24_ONE
# Averages over 2**k bars, in q36.
_DECAY_BITS: Final = (2, 4, 6, 9)
_EXTRA_BITS: Final = 12
# `scale` is the sum of the averages, so four times their mean, in q30: a size in q24 times 2**8.
_SUM_TO_SCALE_BITS: Final = 6
_SCALE_BITS: Final = 8
_SCALE_FLOOR: Final = VOL_FLOOR_Q24 << _SCALE_BITS
# The multiple in q20. 2.1 is where it is on most of the real series, so an early interval is no surprise.
_MULTIPLE_BITS: Final = 20
_MULTIPLE_START: Final = 21 * (1 << _MULTIPLE_BITS) // 10
_MULTIPLE_LOW: Final = 1 << _MULTIPLE_BITS >> 4
_MULTIPLE_HIGH: Final = 32 << _MULTIPLE_BITS
# Up to, not including, so many steps after the warm-up: by how many 512ths a hit shrinks the multiple. With one less at
# the end, a regime of 400 bars that is four times as wild is covered to 87.6 %; with one more, intervals on real series
# are 0.7 % wider.
_STEPS: Final = ((64, 8), (256, 4), (1 << 62, 3))
_STEP_BITS: Final = 9
_UP_BITS: Final = 24
_HITS_PER_MISS: Final = COVERAGE_BPS // (BPS - COVERAGE_BPS)

# Natural logarithm in basis points of one unit of q24.
BPS_PER_Q24: Final = log(2) * BPS / Q24_ONE

FloatArray = npt.NDArray[np.float64]


class BadInterval(ValueError):
    """Numbers that no interval can be made of, or that are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnInterval:
    """Where the next return is expected: between `low_q24` and `high_q24`, both included, in nine cases of ten."""

    horizon_s: int
    # Base-two logarithms of price after over price before, q24.
    low_q24: int
    high_q24: int
    coverage_bps: int = COVERAGE_BPS
    method: str = METHOD

    def __post_init__(self) -> None:
        for name in ("horizon_s", "low_q24", "high_q24", "coverage_bps"):
            if isinstance(number := getattr(self, name), bool) or not isinstance(number, int):
                raise BadInterval(f"{name} is {number!r}, expected an integer")
        _require_horizon(self.horizon_s)
        if self.low_q24 > self.high_q24:
            raise BadInterval(f"an interval from {self.low_q24} to {self.high_q24} has nothing in it")
        if not 0 < self.coverage_bps < BPS:
            raise BadInterval(f"coverage_bps is {self.coverage_bps}, expected 1 to {BPS - 1}")

    def to_dict(self) -> dict[str, Any]:
        """As it stands in an explanation."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """From an explanation, where integers are decimal text. Raises BadInterval for what is none."""
        try:
            numbers = {name: int(values[name]) for name in ("horizon_s", "low_q24", "high_q24", "coverage_bps")}
            return cls(**numbers, method=str(values["method"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadInterval(f"{values!r} is no interval: {error}") from error


def next_return_interval(answers_e8: Sequence[int], *, bar_s: int) -> ReturnInterval | None:
    """The interval of the return from the last answer to the one `bar_s` later; answers oldest first, `bar_s` apart.

    None with fewer than MIN_ANSWERS: too little is known to promise anything. Raises BadInterval for an answer that is
    not between 1 and MAX_PRICE_E8, or a `bar_s` that an observation can't have.
    """
    _require_horizon(bar_s)
    logs = _logs_q24(answers_e8)
    if len(answers_e8) < MIN_ANSWERS:
        return None
    half_width = _half_width(np.minimum(np.abs(np.diff(logs)), _SIZE_LIMIT_Q24).tolist())
    return ReturnInterval(horizon_s=bar_s, low_q24=-half_width, high_q24=half_width)


def interval_series(answers_e8: Sequence[int] | IntArray, *, lookback: int) -> IntArray:
    """The bounds at every bar that has `lookback` answers, int64, one row (low, high) in q24 for each.

    Row `i` belongs to bar `i + lookback - 1` and has the same bits as `next_return_interval` on the `lookback` answers
    up to that bar. Raises BadInterval for a bad answer, a short series, or a `lookback` below MIN_ANSWERS.
    """
    if lookback < MIN_ANSWERS:
        raise BadInterval(f"lookback is {lookback}: with fewer than {MIN_ANSWERS} answers there is no interval")
    logs = _logs_q24(answers_e8)
    if len(logs) < lookback:
        raise BadInterval(f"{len(logs)} answers, an interval is made of {lookback}")
    sizes = np.minimum(np.abs(np.diff(logs)), _SIZE_LIMIT_Q24)
    half_widths = _half_width_array(sizes, lookback - 1)
    return np.stack([-half_widths, half_widths], axis=1)


def next_returns_q24(answers_e8: Sequence[int] | IntArray, *, lookback: int) -> IntArray:
    """What the rows of `interval_series` are about: one fewer, for nobody knows what followed the last."""
    return np.diff(_logs_q24(answers_e8)[lookback - 1 :])


def return_q24(before_e8: int, after_e8: int) -> int:
    """The base-two logarithm of `after_e8 / before_e8` in q24, from the same logarithms as intervals are made of."""
    return int(np.diff(_logs_q24((before_e8, after_e8)))[0])


# One window, plain integers


def _half_width(sizes_q24: list[int]) -> int:
    start = (sum(sizes_q24[:_WARM_UP]) << _EXTRA_BITS) // _WARM_UP
    a = b = c = d = start
    k, m, n, o = _DECAY_BITS
    scale = max((a + b + c + d) >> _SUM_TO_SCALE_BITS, _SCALE_FLOOR)
    multiple, shift = _MULTIPLE_START, _SCALE_BITS + _MULTIPLE_BITS
    for first, last, step, up in _stages(len(sizes_q24)):
        for size in sizes_q24[first:last]:
            if size > multiple * scale >> shift:
                multiple = min(multiple * up >> _UP_BITS, _MULTIPLE_HIGH)
            else:
                multiple = max(multiple - (multiple * step >> _STEP_BITS), _MULTIPLE_LOW)
            now = size << _EXTRA_BITS
            a += (now - a) >> k
            b += (now - b) >> m
            c += (now - c) >> n
            d += (now - d) >> o
            scale = max((a + b + c + d) >> _SUM_TO_SCALE_BITS, _SCALE_FLOOR)
    return multiple * scale >> shift


def _stages(returns: int) -> Iterator[tuple[int, int, int, int]]:
    """First return, end, step and growth after a miss, q24, of each stretch of a window."""
    first = _WARM_UP
    for steps, step in _STEPS:
        last = min(_WARM_UP + steps, returns)
        if first < last:
            yield first, last, step, _growth_q24(step)
        first = max(first, last)


def _growth_q24(step: int) -> int:
    """What undoes nine hits: (1 - step / 512)**-9, rounded down."""
    return (1 << (_HITS_PER_MISS * _STEP_BITS + _UP_BITS)) // ((1 << _STEP_BITS) - step) ** _HITS_PER_MISS


# Many windows at once, numpy int64: all take their j-th step together. Averages stay below 2**36, scales below 2**33,
# multiples below 2**26, so that no product reaches 2**62.


def _half_width_array(sizes_q24: IntArray, returns: int) -> IntArray:
    windows = len(sizes_q24) - returns + 1
    total = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes_q24, dtype=np.int64)])
    start = ((total[_WARM_UP:] - total[:-_WARM_UP])[:windows] << _EXTRA_BITS) // _WARM_UP
    averages = [start.copy() for _ in _DECAY_BITS]
    multiple = np.full(windows, _MULTIPLE_START, dtype=np.int64)
    half_width = _product(multiple, _scale(averages))
    for first, last, step, up in _stages(returns):
        for bar in range(first, last):
            size = sizes_q24[bar : bar + windows]
            grown = np.minimum(multiple * up >> _UP_BITS, _MULTIPLE_HIGH)
            shrunk = np.maximum(multiple - (multiple * step >> _STEP_BITS), _MULTIPLE_LOW)
            multiple = np.where(size > half_width, grown, shrunk)
            now = size << _EXTRA_BITS
            for average, decay in zip(averages, _DECAY_BITS, strict=True):
                average += (now - average) >> decay
            half_width = _product(multiple, _scale(averages))
    return half_width


def _scale(averages: list[IntArray]) -> IntArray:
    a, b, c, d = averages
    return np.maximum((a + b + c + d) >> _SUM_TO_SCALE_BITS, _SCALE_FLOOR)


def _product(multiple: IntArray, scale: IntArray) -> IntArray:
    return multiple * scale >> (_SCALE_BITS + _MULTIPLE_BITS)


# Guards


def _require_horizon(bar_s: int) -> None:
    if isinstance(bar_s, bool) or not isinstance(bar_s, int) or not 1 <= bar_s <= MAX_BAR_S:
        raise BadInterval(f"the horizon is {bar_s!r} s, expected one bar: an integer from 1 to {MAX_BAR_S}")


def _logs_q24(answers_e8: Sequence[int] | IntArray) -> IntArray:
    answers = np.asarray(answers_e8)
    if answers.ndim != 1 or (answers.size and answers.dtype.kind != "i"):
        raise BadInterval(f"answers are {answers.dtype} of shape {answers.shape}, expected one row of integers")
    wrong = np.flatnonzero((answers < 1) | (answers > MAX_PRICE_E8))
    if wrong.size:
        found = answers[wrong[0]]
        raise BadInterval(f"answer {wrong[0]} is {found}, expected an integer from 1 to {MAX_PRICE_E8}")
    return log2_q24_array(answers.astype(np.int64))


# Scoring. Floats from here on: statistics, nothing that is decided or recomputed.

# Coverage that we call right, as shares.
LOWEST_COVERAGE: Final = 0.88
HIGHEST_COVERAGE: Final = 0.92
# A share of 0.9 is known to within 0.02, in 95 of 100 cases, from this many outcomes on.
ENOUGH_ROWS: Final = 865
# With fewer, a coverage is called neither right nor wrong: two misses of four are bad luck.
FEWEST_ROWS: Final = 30
# What counts as a fault of the method, see `score_intervals`.
_WIDE: Final = 3.0
_NEVER_MISSED: Final = 0.995
_LEAK: Final = 0.1
_ROWS_FOR_FAULTS: Final = 200


class Verdict(StrEnum):
    """Whether coverage is what was promised."""

    PASS = "PASS"
    FAIL = "FAIL"
    NOT_ENOUGH_DATA = "NOT ENOUGH DATA"


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalScore:
    """What intervals were worth. Widths and scores are basis points of the natural logarithm; less is better."""

    rows: int
    # Share of the outcomes that were inside, and where the true share lies in 95 of 100 cases (Wilson).
    coverage: float
    coverage_low: float
    coverage_high: float
    mean_width_bps: float
    # Width plus 20 times how far outside an outcome was (Winkler 1972; Gneiting and Raftery 2007, eq. 43).
    interval_score_bps: float
    # Width against that of the one constant interval that leaves a twentieth of these outcomes on each side.
    width_ratio: float
    # What can't be right, however good the figures look.
    faults: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """FAIL when something can't be right, or the coverage is known not to be 88 to 92 of 100."""
        is_known = self.rows >= ENOUGH_ROWS
        is_wrong = self.coverage_high < LOWEST_COVERAGE or self.coverage_low > HIGHEST_COVERAGE
        if self.faults or (is_wrong and self.rows >= FEWEST_ROWS):
            return Verdict.FAIL
        if LOWEST_COVERAGE <= self.coverage <= HIGHEST_COVERAGE:
            return Verdict.PASS if is_known else Verdict.NOT_ENOUGH_DATA
        return Verdict.FAIL if is_known else Verdict.NOT_ENOUGH_DATA

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no number for what is not finite: None."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        finite = {name: None if isinstance(v, float) and not isfinite(v) else v for name, v in own.items()}
        return finite | {"faults": list(self.faults), "verdict": str(self.verdict)}


def score_intervals(
    low_q24: npt.ArrayLike, high_q24: npt.ArrayLike, outcome_q24: npt.ArrayLike, *, is_consecutive: bool = False
) -> IntervalScore:
    """The score of intervals by their outcomes, all in q24 and of one length; a bound that is hit is inside.

    `is_consecutive`: each row is the bar after the row before, so that a look-ahead can be told. Faults are bounds that
    are not finite; a mean width three times that of the constant interval, which says nothing; hardly a miss in 200
    rows and yet narrower than the constant interval, or widths that grow with their own outcome more than with the one
    before, which nobody can know. Raises BadInterval for no rows, rows that do not match, a bound that is not a number,
    or bounds in the wrong order.
    """
    low, high, outcome = (np.asarray(values, dtype=np.float64) for values in (low_q24, high_q24, outcome_q24))
    _require_rows(low, high, outcome)
    width = high - low
    outside = np.maximum(np.maximum(low - outcome, outcome - high), 0.0)
    coverage = float(np.mean(outside == 0))
    below, above = wilson(coverage, len(outcome))
    tail = (BPS - COVERAGE_BPS) / BPS / 2
    constant = float(np.subtract(*np.quantile(outcome, [1 - tail, tail])))
    ratio = float(np.mean(width)) / constant if constant else float("nan")
    score = IntervalScore(
        rows=len(outcome), coverage=coverage, coverage_low=below, coverage_high=above,
        mean_width_bps=float(np.mean(width)) * BPS_PER_Q24,
        interval_score_bps=float(np.mean(width + outside / tail)) * BPS_PER_Q24, width_ratio=ratio,
    )  # fmt: skip
    faults = _faults(score, width, outcome, is_consecutive=is_consecutive)
    return IntervalScore(**{field.name: getattr(score, field.name) for field in fields(score)} | {"faults": faults})


def wilson(share: float, rows: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share that was seen in `rows` cases, with 95 % confidence unless `z` says otherwise."""
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def block_coverage(is_inside: npt.NDArray[np.bool_], block: int) -> FloatArray:
    """Share of `True` in every stretch of `block` rows, as a block slides over them; none when there are fewer."""
    total = np.concatenate([[0], np.cumsum(is_inside)])
    return (total[block:] - total[:-block]) / block if len(is_inside) >= block else np.empty(0)


def _require_rows(low: FloatArray, high: FloatArray, outcome: FloatArray) -> None:
    if not low.shape == high.shape == outcome.shape or low.ndim != 1:
        shapes = f"{low.shape} lower bounds, {high.shape} upper bounds, {outcome.shape} outcomes"
        raise BadInterval(f"{shapes}: give one row of each, of one length")
    if not len(outcome):
        raise BadInterval("there is nothing to score: no interval has an outcome yet")
    for name, values in (("lower bound", low), ("upper bound", high), ("outcome", outcome)):
        if np.isnan(values).any():
            raise BadInterval(f"row {int(np.isnan(values).argmax())}: the {name} is not a number")
    if (low > high).any():
        raise BadInterval(f"row {int((low > high).argmax())}: the lower bound is above the upper one")


def _faults(
    score: IntervalScore, width: FloatArray, outcome: FloatArray, *, is_consecutive: bool
) -> tuple[str, ...]:
    if not np.isfinite(width).all():
        row = int((~np.isfinite(width)).argmax())
        return (f"row {row}: an interval without an end covers everything and says nothing",)
    if score.rows < _ROWS_FOR_FAULTS:
        return ()
    found = []
    if score.width_ratio > _WIDE:
        found.append(f"{score.width_ratio:.1f} times as wide as one interval for all outcomes: it says nothing")
    if score.coverage > _NEVER_MISSED and score.width_ratio < 1:
        found.append("narrower than one interval for all outcomes, and hardly ever missed: it has seen them")
    growth = np.diff(np.log(np.maximum(width, 1)))
    own, before = _goes_with(growth, outcome[1:]), _goes_with(growth, outcome[:-1])
    if is_consecutive and own > before + _LEAK:
        found.append(
            f"it grows with its own outcome ({own:.2f}) more than with the one before ({before:.2f}): it has seen them"
        )
    return tuple(found)


def _goes_with(growth: FloatArray, outcome: FloatArray) -> float:
    """Correlation of the ranks of how widths change and of the sizes of outcomes; 0 when one of them is constant."""
    ranks = [np.unique(values, return_inverse=True)[1] for values in (growth, np.abs(outcome))]
    if any(rank.max() == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])
