"""Which bars episodes start at while training goes on: real regimes, the easy ones first.

Each possible start gets one regime by what had happened up to it, worst first:

    stressed   the price is far below its peak of the lookback: the deepest fifth of the series
    wild       volatility over the lookback is in the highest third
    rising     the price rose by more than half of what it typically moves in a lookback
    falling    it fell by as much
    quiet      none of these

By what had happened, never by what came next: a start chosen for its future would teach that this future is likely.
Chosen by the past, what follows an observation is as likely as it is in the whole series, whatever the stage.

The thresholds are quantiles of the training series alone. Floats, so nothing that is decided later may depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from offchain_rl.fixedpoint import IntArray
from offchain_rl.prices import Bars

REGIMES: Final = ("quiet", "rising", "falling", "wild", "stressed")

_DEEPEST_SHARE: Final = 0.2
_WILDEST_SHARE: Final = 1 / 3
# In typical moves over the lookback.
_TREND: Final = 0.5

Labels = npt.NDArray[np.int8]
FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stretch of training and the starts it draws from."""

    name: str
    # Where the stage ends, percent of all updates.
    until_pct: int
    regimes: tuple[str, ...] = REGIMES
    # Every regime as often as every other, instead of as often as it is.
    is_balanced: bool = False

    def __post_init__(self) -> None:
        if not self.regimes or not set(self.regimes) <= set(REGIMES):
            raise ValueError(f"stage {self.name}: regimes are some of {', '.join(REGIMES)}, not {self.regimes}")


# Calm markets, then every regime alike, then the market as it is: that is what the policy will meet.
DEFAULT_STAGES: Final = (
    Stage(name="calm", until_pct=30, regimes=("quiet", "rising", "falling")),
    Stage(name="balanced", until_pct=60, is_balanced=True),
    Stage(name="natural", until_pct=100),
)


def check_stages(stages: Sequence[Stage]) -> None:
    """Raises ValueError for stages that do not follow each other up to the end. None at all is no curriculum."""
    ends = [stage.until_pct for stage in stages]
    if stages and (ends != sorted(set(ends)) or ends[0] < 1 or ends[-1] != 100):
        raise ValueError(f"the stages of the curriculum end at {ends} percent, expected rising numbers up to 100")


def stage_at(stages: Sequence[Stage], update: int, updates: int) -> Stage:
    """The stage of update number `update`, counted from 0, of `updates`."""
    return next(stage for stage in stages if update * 100 < stage.until_pct * updates)


def classify(series: Sequence[Bars], lookback: int) -> Labels:
    """The regime of each bar as its number in REGIMES, int8 [T], the series one after the other.

    -1 where fewer than `lookback` bars are known. `lookback` is at least 3 bars.
    """
    if lookback < 3:
        raise ValueError(f"regimes need a lookback of at least 3 bars, not {lookback}")
    return np.concatenate([_classify_one(one.close_e8, lookback) for one in series])


def choose_starts(stage: Stage, labels: Labels, start_bars: IntArray) -> IntArray:
    """The bars a stage starts from, some of them several times where regimes are balanced.

    `start_bars`: all legal ones, numbers into `labels`. All of them where the series has none of the stage's regimes.
    """
    found = [start_bars[labels[start_bars] == REGIMES.index(name)] for name in stage.regimes]
    found = [bars for bars in found if len(bars)]
    if not found:
        return start_bars
    most = max(map(len, found))
    copies = [round(most / len(bars)) if stage.is_balanced else 1 for bars in found]
    return np.sort(np.concatenate([np.repeat(bars, count) for bars, count in zip(found, copies, strict=True)]))


def count_regimes(labels: Labels, start_bars: IntArray) -> dict[str, int]:
    """How many of the legal starts are in each regime."""
    counts = np.bincount(labels[start_bars], minlength=len(REGIMES))
    return dict(zip(REGIMES, counts.tolist(), strict=True))


def _classify_one(close_e8: IntArray, lookback: int) -> Labels:
    labels = np.full(len(close_e8), -1, dtype=np.int8)
    if len(close_e8) < lookback:
        return labels
    volatility, trend, drawdown = _measure(close_e8, lookback)
    known = np.full(len(trend), REGIMES.index("quiet"), dtype=np.int8)
    known[trend > _TREND] = REGIMES.index("rising")
    known[trend < -_TREND] = REGIMES.index("falling")
    known[volatility > np.quantile(volatility, 1 - _WILDEST_SHARE)] = REGIMES.index("wild")
    known[drawdown > np.quantile(drawdown, 1 - _DEEPEST_SHARE)] = REGIMES.index("stressed")
    labels[lookback - 1 :] = known
    return labels


def _measure(close_e8: IntArray, lookback: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Volatility of a bar, the move over the lookback in typical moves, and drawdown, at each bar with history."""
    logs = np.log(close_e8.astype(np.float64))
    windows = np.lib.stride_tricks.sliding_window_view(logs, lookback)
    steps = np.lib.stride_tricks.sliding_window_view(np.diff(logs), lookback - 1)
    volatility = steps.std(axis=1)
    typical = np.maximum(volatility * np.sqrt(lookback - 1), 1e-12)
    return volatility, (logs[lookback - 1 :] - windows[:, 0]) / typical, windows.max(axis=1) - logs[lookback - 1 :]
