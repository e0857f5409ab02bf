"""Whether a track record is more than luck: figures that say what was tried as well as what was found.

All functions take returns of equal periods (`offchain_rl.evaluate` gives days) and speak of Sharpe ratios
*of one period*; `yearly` makes them yearly. Floats: these are statistics about decisions, no decision
depends on them, and what is kept of them is rounded to integers (`offchain_rl.verdict`).

    probabilistic_sharpe     Bailey and López de Prado, The Sharpe ratio efficient frontier (2012), eq. 9
    min_track_record         the same, eq. 11
    expected_max_sharpe      Bailey and López de Prado, The deflated Sharpe ratio (2014), eq. 1
    deflated_sharpe          the same, eq. 2
    overfitting_probability  Bailey, Borwein, López de Prado and Zhu, The probability of backtest overfitting (2017)
    combinatorial_splits     López de Prado, Advances in financial machine learning (2018), chapters 7 and 12
    Resampling               Politis and Romano, The stationary bootstrap (1994); block length of Politis and White

None of them knows of a trial that nobody wrote down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import ceil, e, inf, sqrt
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

from offchain_rl.fixedpoint import IntArray

FloatArray = npt.NDArray[np.float64]

EULER_MASCHERONI: Final = 0.5772156649015329
# Fewer periods have no fourth moment worth the name.
MIN_PERIODS: Final = 8
# As the paper of the method: 12,870 ways to halve a record.
DEFAULT_BLOCKS: Final = 16
_MAX_BLOCKS: Final = 20
_NORMAL: Final = NormalDist()


class BadRecord(ValueError):
    """Returns from which nothing can be computed. The message names the column and what is wrong with it."""


@dataclass(frozen=True, slots=True, init=False, eq=False)
class Trials:
    """Returns of one or more trials over the same periods.

    Made from named columns only, each as long as the times: a matrix of the wrong orientation can't be
    given, not even a square one. What reads `matrix` gets periods down and trials across.
    """

    # End of each period, unix seconds, strictly rising.
    times_s: IntArray
    names: tuple[str, ...]
    # [periods, trials], read-only.
    matrix: FloatArray

    def __init__(self, times_s: npt.ArrayLike, columns: Mapping[str, npt.ArrayLike]) -> None:
        times = np.array(times_s, dtype=np.int64)
        if times.ndim != 1 or not len(times) or (np.diff(times) <= 0).any():
            raise BadRecord("the times of a record are one row of rising unix seconds")
        if not columns:
            raise BadRecord("a record has at least one column of returns")
        checked = [_check_column(name, column, len(times)) for name, column in columns.items()]
        matrix = np.column_stack(checked)
        matrix.flags.writeable = times.flags.writeable = False
        object.__setattr__(self, "times_s", times)
        object.__setattr__(self, "names", tuple(columns))
        object.__setattr__(self, "matrix", matrix)

    def __len__(self) -> int:
        """Periods."""
        return len(self.times_s)

    def column(self, name: str) -> FloatArray:
        """The returns of one trial. Raises BadRecord when there is none of that name."""
        if name not in self.names:
            raise BadRecord(f"there is no record of {name!r}; there is one of {', '.join(self.names)}")
        return self.matrix[:, self.names.index(name)]

    def joined(self, other: Trials) -> Trials:
        """The columns of both, which are of the same periods and have different names."""
        if not np.array_equal(self.times_s, other.times_s):
            raise BadRecord("two records of different periods can't be compared")
        if twice := sorted(set(self.names) & set(other.names)):
            raise BadRecord(f"two records have the name {twice[0]!r}")
        return Trials(self.times_s, {name: one.column(name) for one in (self, other) for name in one.names})


# A millionfold in one period: a price in another unit, not a gain.
MAX_RETURN: Final = 1e6


def _check_column(name: str, column: npt.ArrayLike, periods: int) -> FloatArray:
    raw = np.asarray(column)
    if raw.dtype.kind not in "fiu":
        raise BadRecord(f"the returns of {name!r} are {raw.dtype}, not numbers")
    returns = raw.astype(np.float64)
    if returns.shape != (periods,):
        raise BadRecord(f"the returns of {name!r} have the shape {returns.shape}, there are {periods} periods")
    if not np.isfinite(returns).all():
        raise BadRecord(f"return {int(np.argmin(np.isfinite(returns)))} of {name!r} is not a number")
    if (returns < -1).any():
        raise BadRecord(f"return {int(np.argmin(returns))} of {name!r} loses more than everything")
    if (returns > MAX_RETURN).any():
        raise BadRecord(f"return {int(np.argmax(returns))} of {name!r} is {returns.max():.3g}: no market does that")
    return returns


# The Sharpe ratio and what it is worth


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What the uncertainty of a Sharpe ratio depends on."""

    periods: int
    # Mean over deviation (with n - 1) of one period; 0 for a record in which nothing moved.
    sharpe: float
    # Of the population; the kurtosis of a normal distribution is 3.
    skew: float = 0.0
    kurtosis: float = 3.0

    @property
    def spread(self) -> float:
        """Deviation of the estimated Sharpe ratio, times the root of periods - 1."""
        # The expression is positive for all moments that a sample can have (kurtosis >= 1 + skew^2).
        return sqrt(max(1 - self.skew * self.sharpe + (self.kurtosis - 1) / 4 * self.sharpe**2, 0.0))


def moments(returns: FloatArray) -> Moments:
    """The moments of a record. Raises BadRecord when it is shorter than MIN_PERIODS."""
    periods = len(returns)
    if periods < MIN_PERIODS:
        raise BadRecord(f"{periods} periods of returns, at least {MIN_PERIODS} are needed")
    centred = returns - returns.mean()
    variance = float((centred**2).mean())
    if _is_flat(returns):
        return Moments(periods=periods, sharpe=0.0)
    return Moments(
        periods=periods,
        sharpe=sharpe(returns),
        skew=float((centred**3).mean()) / variance**1.5,
        kurtosis=float((centred**4).mean()) / variance**2,
    )


def sharpe(returns: FloatArray) -> float:
    """Mean over deviation (with n - 1) of one period's return over cash at zero; 0 when nothing moved."""
    return float(_sharpes(np.asarray(returns, dtype=np.float64)[None, :])[0])


def yearly(sharpe_of_period: float, periods_a_year: float) -> float:
    """A Sharpe ratio of one period as one of a year, as if periods were independent."""
    return sharpe_of_period * sqrt(periods_a_year)


def _is_flat(returns: FloatArray) -> bool:
    return bool(np.ptp(returns) == 0)


def _sharpes(rows: FloatArray) -> FloatArray:
    """The Sharpe ratio of each row; 0 where nothing moved."""
    deviation = rows.std(axis=1, ddof=1)
    is_flat = np.ptp(rows, axis=1) == 0
    return np.where(is_flat, 0.0, rows.mean(axis=1) / np.where(is_flat, 1.0, deviation))


def probabilistic_sharpe(record: Moments, benchmark: float = 0.0) -> float:
    """The probability that the true Sharpe ratio is above `benchmark`, between 0 and 1.

    Normal in the limit; skew and kurtosis are allowed for, dependence between periods is not.
    """
    if record.spread == 0:
        return 1.0 if record.sharpe > benchmark else 0.0
    return _NORMAL.cdf((record.sharpe - benchmark) * sqrt(record.periods - 1) / record.spread)


def expected_max_sharpe(trials: int, variance: float) -> float:
    """The Sharpe ratio that the best of `trials` shows where none has any; 0 for a single trial.

    `variance` is that of the trials' Sharpe ratios, of the same period. An approximation for many
    independent trials.
    """
    if trials < 1 or variance < 0:
        raise ValueError("trials is at least 1 and the variance of their Sharpe ratios is not negative")
    if trials == 1:
        return 0.0
    return sqrt(variance) * (
        (1 - EULER_MASCHERONI) * _NORMAL.inv_cdf(1 - 1 / trials)
        + EULER_MASCHERONI * _NORMAL.inv_cdf(1 - 1 / (trials * e))
    )


def deflated_sharpe(record: Moments, *, trials: int, variance: float) -> float:
    """The probability that the true Sharpe ratio is above what the best of so many trials shows by luck."""
    return probabilistic_sharpe(record, expected_max_sharpe(trials, variance))


def min_track_record(record: Moments, benchmark: float = 0.0, *, confidence: float = 0.95) -> float:
    """Periods needed to say with `confidence` that such a record is above `benchmark`.

    Infinite when it is not above it: no length would do.
    """
    if record.sharpe <= benchmark:
        return inf
    return 1.0 + ceil((_NORMAL.inv_cdf(confidence) * record.spread / (record.sharpe - benchmark)) ** 2)


def variance_of_sharpes(trials: Trials) -> float:
    """The variance (with n - 1) of the trials' Sharpe ratios; at least 2 of them."""
    if len(trials.names) < 2:
        raise BadRecord("one trial has no variance between trials")
    return float(_sharpes(np.ascontiguousarray(trials.matrix.T)).var(ddof=1))


# Overfitting


@dataclass(frozen=True, slots=True, kw_only=True)
class Overfitting:
    """What choosing the best of the trials on one half of the record is worth on the other half."""

    # Share of the halvings in which the chosen one is not above the median of the other half.
    probability: float
    # Share in which its Sharpe ratio there is below zero.
    loss_probability: float
    halvings: int
    blocks: int


def overfitting_probability(trials: Trials, *, blocks: int = DEFAULT_BLOCKS) -> Overfitting:
    """The probability of backtest overfitting, by combinatorially symmetric cross-validation.

    Choices where implementations differ: blocks are as even as they can be and no period is dropped
    (np.array_split); a tie ranks low; a chosen one exactly at the median counts as overfitted. Both
    make the figure larger rather than smaller. Raises BadRecord for fewer than 2 trials, or fewer than 2
    periods a block.
    """
    if blocks % 2 or not 2 <= blocks <= _MAX_BLOCKS:
        raise ValueError(f"blocks is even and between 2 and {_MAX_BLOCKS}, not {blocks}")
    periods, count = trials.matrix.shape
    if count < 2:
        raise BadRecord("the probability of overfitting needs at least 2 trials to choose from")
    if periods < 2 * blocks:
        raise BadRecord(f"{periods} periods, {blocks} blocks need at least {2 * blocks}")
    inside, outside = _halve(trials.matrix, blocks)
    rows = np.arange(len(inside))
    chosen = inside.argmax(axis=1)
    reached = outside[rows, chosen]
    rank = 1 + (outside < reached[:, None]).sum(axis=1)
    return Overfitting(
        probability=float((2 * rank <= count + 1).mean()),
        loss_probability=float((reached < 0).mean()),
        halvings=len(rows),
        blocks=blocks,
    )


def _halve(matrix: FloatArray, blocks: int) -> tuple[FloatArray, FloatArray]:
    """Sharpe ratios [halvings, trials] of every half of the blocks, and of the other half each time."""
    centre = matrix.mean(axis=0)
    parts = np.array_split(matrix - centre, blocks)
    sizes = np.array([len(part) for part in parts], dtype=np.float64)
    sums = np.array([part.sum(axis=0) for part in parts])
    squares = np.array([(part**2).sum(axis=0) for part in parts])
    # Exactly, whether a trial moved at all in a block: a flat one has a Sharpe ratio of 0, not of noise over noise.
    moved = np.array([np.abs(part).sum(axis=0) for part in np.array_split(matrix, blocks)])
    chosen = np.zeros((len(list(combinations(range(blocks), blocks // 2))), blocks))
    for row, picked in enumerate(combinations(range(blocks), blocks // 2)):
        chosen[row, list(picked)] = 1.0

    def sharpes(mask: FloatArray) -> FloatArray:
        count = (mask @ sizes)[:, None]
        shift = mask @ sums / count
        variance = (mask @ squares - count * shift**2) / (count - 1)
        is_flat = mask @ moved == 0
        deviation = np.sqrt(np.maximum(variance, 1e-300))
        return np.where(is_flat, 0.0, (centre + shift) / np.where(is_flat, 1.0, deviation))

    return sharpes(chosen), sharpes(1.0 - chosen)


# Splits


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One way to train on some groups of bars and test on the others, as numbers of bars."""

    # Rising; bars purged and embargoed are in neither.
    train: IntArray
    # Each group of neighbouring bars that is tested on, and the path that its result belongs to.
    tests: tuple[IntArray, ...]
    paths: tuple[int, ...]

    def train_runs(self) -> tuple[tuple[int, int], ...]:
        """The stretches of neighbouring train bars: first, and the one after the last."""
        cuts = np.flatnonzero(np.diff(self.train) > 1) + 1
        return tuple((int(run[0]), int(run[-1]) + 1) for run in np.split(self.train, cuts) if len(run))


def combinatorial_splits(
    bars: int, *, groups: int = 6, test_groups: int = 2, purge_bars: int, embargo_bars: int
) -> tuple[Split, ...]:
    """Every way to test on `test_groups` of `groups`, without the bars that would leak.

    `purge_bars` are left out on both sides of a test, `embargo_bars` more behind it. A sample whose
    features or label reach at most `purge_bars` bars shares none with a test. Every group is tested
    once on each path. Raises BadRecord when a group is not longer than what is left out of it.
    """
    # Here: its import takes seconds.
    from skfolio.model_selection import CombinatorialPurgedCV

    if bars // groups <= purge_bars + embargo_bars + 1:
        raise BadRecord(
            f"{bars} bars in {groups} groups are {bars // groups} each, and {purge_bars} of purge and "
            f"{embargo_bars} of embargo leave nothing of one: give more bars or fewer groups"
        )
    plan = CombinatorialPurgedCV(
        n_folds=groups, n_test_folds=test_groups, purged_size=purge_bars, embargo_size=embargo_bars
    )
    paths = plan.get_path_ids()
    return tuple(
        Split(train=train, tests=tuple(tests), paths=tuple(int(path) for path in paths[number]))
        for number, (train, tests) in enumerate(plan.split(np.zeros((bars, 1))))
    )


# Intervals


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and what it may be as well."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """A record drawn again and again in blocks of random length, so that what depends stays together.

    The same draws serve all figures, so that a strategy and its baseline are compared on the same days.
    """

    # [repetitions, periods], numbers of periods.
    draws: IntArray
    # Mean length of a block, periods.
    block: float
    confidence: float

    def mean(self, returns: FloatArray) -> Interval:
        """Of the mean return of a period."""
        return self._interval(float(returns.mean()), returns[self.draws].mean(axis=1))

    def sharpe(self, returns: FloatArray) -> Interval:
        """Of the Sharpe ratio of a period."""
        return self._interval(sharpe(returns), _sharpes(returns[self.draws]))

    def mean_difference(self, returns: FloatArray, baseline: FloatArray) -> Interval:
        """Of the mean return less the baseline's."""
        return self.mean(returns - baseline)

    def sharpe_difference(self, returns: FloatArray, baseline: FloatArray) -> Interval:
        """Of the Sharpe ratio less the baseline's: the excess over a baseline brought to the same risk."""
        drawn = _sharpes(returns[self.draws]) - _sharpes(baseline[self.draws])
        return self._interval(sharpe(returns) - sharpe(baseline), drawn)

    def _interval(self, estimate: float, drawn: FloatArray) -> Interval:
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail])
        return Interval(estimate=estimate, low=float(low), high=float(high))


def resample(
    returns: FloatArray, *, seed: int, repetitions: int = 2000, confidence: float = 0.95, block: float | None = None
) -> Resampling:
    """The draws for records of the periods of `returns`, which also say how long a block has to be.

    The same arguments give the same draws in every process. Raises BadRecord when it is shorter than
    MIN_PERIODS.
    """
    # Here: its import takes seconds.
    from arch.bootstrap import StationaryBootstrap

    if len(returns) < MIN_PERIODS:
        raise BadRecord(f"{len(returns)} periods of returns, at least {MIN_PERIODS} are needed")
    if not 0 < confidence < 1 or repetitions < 1:
        raise ValueError("confidence lies between 0 and 1, and repetitions is at least 1")
    length = choose_block(returns) if block is None else block
    plan = StationaryBootstrap(length, np.arange(len(returns)), seed=np.random.default_rng(seed))
    draws = np.stack([plan.update_indices() for _ in range(repetitions)]).astype(np.int64)
    return Resampling(draws=draws, block=length, confidence=confidence)


def choose_block(returns: FloatArray) -> float:
    """The mean length of a block, by Politis and White; between the cube root and a quarter of the record.

    The lower end because the rule sees dependence of the returns and not of their size, which clusters.
    """
    from arch.bootstrap import optimal_block_length

    least, most = len(returns) ** (1 / 3), len(returns) / 4
    if _is_flat(returns):
        return least
    found = float(optimal_block_length(returns)["stationary"].iloc[0])
    return min(max(found, least), most) if np.isfinite(found) else least
