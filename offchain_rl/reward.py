"""What training is rewarded for. The one place, with `env` and `train_ppo`, where floats are at home.

    reward = ln(value after / value before)          growth; fees, slippage and gas are already in it
             - drawdown_weight * new drawdown        what the drawdown grew by in this step, as a fraction
             - ruin_price if the vault was stopped   once, when the drawdown limit is reached

A sum of log growth is the growth of the whole (Kelly 1956), so an episode's undiscounted reward is the
log of its final value, less what it put the owner through.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# A value that has gone to nothing counts as this fraction of what it was: the logarithm stays finite.
_LEAST_GROWTH = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """How growth is weighed against what it costs in drawdown."""

    drawdown_weight: float = 0.1
    ruin_price: float = 0.1

    def __post_init__(self) -> None:
        if not (self.drawdown_weight >= 0 and self.ruin_price >= 0):
            raise ValueError("drawdown_weight and ruin_price are not negative")


def compute_reward(
    value_before: FloatArray | float,
    value_after: FloatArray | float,
    drawdown_before: FloatArray | float,
    drawdown_after: FloatArray | float,
    is_ruined: npt.NDArray[np.bool_] | bool,
    config: RewardConfig,
) -> FloatArray:
    """The reward of one step, element by element. Drawdowns are fractions; `is_ruined` is true once."""
    growth = np.log(np.maximum(np.divide(value_after, value_before), _LEAST_GROWTH))
    deepened = np.maximum(np.subtract(drawdown_after, drawdown_before), 0.0)
    return growth - config.drawdown_weight * deepened - config.ruin_price * np.asarray(is_ruined)
