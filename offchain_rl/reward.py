"""What training is rewarded for. The one place, with `env` and `train_ppo`, where floats are at home.

    reward = ln(value after / value before)          growth; fees, slippage and gas are already in it
             - drawdown_weight * new drawdown        what the drawdown grew by in this step, as a fraction
             - ruin_price if the vault was stopped   once, when the drawdown limit is reached

A sum of log growth is the growth of the whole (Kelly 1956), so an episode's undiscounted reward is the
log of its final value, less what it put the owner through.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Final

# A value that has gone to nothing counts as this fraction of what it was: the logarithm stays finite.
LEAST_GROWTH: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """How growth is weighed against what it costs in drawdown."""

    drawdown_weight: float = 0.1
    ruin_price: float = 0.1

    def __post_init__(self) -> None:
        if not (self.drawdown_weight >= 0 and self.ruin_price >= 0):
            raise ValueError("drawdown_weight and ruin_price are not negative")


def step_reward(
    value_before: float,
    value_after: float,
    drawdown_before: float,
    drawdown_after: float,
    is_ruined: bool,
    drawdown_weight: float,
    ruin_price: float,
) -> float:
    """The reward of one step. Drawdowns are fractions; `is_ruined` is true once."""
    growth = log(max(value_after / value_before, LEAST_GROWTH))
    deepened = max(drawdown_after - drawdown_before, 0.0)
    return growth - drawdown_weight * deepened - (ruin_price if is_ruined else 0.0)
