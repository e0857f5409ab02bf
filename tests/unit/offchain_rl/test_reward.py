"""The reward is growth after costs, less drawdown, and ruin has a price."""

from __future__ import annotations

import math

import numpy as np
import pytest

from offchain_rl.reward import RewardConfig, compute_reward

PLAIN = RewardConfig(drawdown_weight=0.0, ruin_price=0.0)


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="not negative"):
        RewardConfig(ruin_price=-1.0)
    with pytest.raises(ValueError, match="not negative"):
        RewardConfig(drawdown_weight=math.nan)


def test_rewards_of_an_episode_add_up_to_its_growth() -> None:
    values = [100.0, 90.0, 120.0, 110.0]
    total = sum(compute_reward(a, b, 0.0, 0.0, False, PLAIN) for a, b in zip(values, values[1:], strict=False))
    assert total == pytest.approx(math.log(1.1))


def test_only_a_deeper_drawdown_is_charged() -> None:
    config = RewardConfig(drawdown_weight=0.5, ruin_price=0.0)
    charged = compute_reward(
        np.ones(2), np.ones(2), np.array([0.1, 0.3]), np.array([0.3, 0.1]), np.zeros(2, bool), config
    )
    assert charged.tolist() == pytest.approx([-0.1, 0.0])


def test_ruin_has_a_price_and_nothing_left_is_not_infinite() -> None:
    config = RewardConfig(drawdown_weight=0.0, ruin_price=2.0)
    assert compute_reward(1.0, 1.0, 0.0, 0.0, True, config) == -2.0
    assert compute_reward(1.0, 0.0, 0.0, 0.0, False, config) == pytest.approx(math.log(1e-6))
