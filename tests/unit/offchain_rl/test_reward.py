"""The reward is growth after costs, less drawdown, and ruin has a price."""

from __future__ import annotations

import math

import pytest

from offchain_rl.reward import RewardConfig, step_reward


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="not negative"):
        RewardConfig(ruin_price=-1.0)
    with pytest.raises(ValueError, match="not negative"):
        RewardConfig(drawdown_weight=math.nan)


def test_rewards_of_an_episode_add_up_to_its_growth() -> None:
    values = [100.0, 90.0, 120.0, 110.0]
    total = sum(step_reward(a, b, 0.0, 0.0, False, 0.0, 0.0) for a, b in zip(values, values[1:], strict=False))
    assert total == pytest.approx(math.log(1.1))


def test_only_a_deeper_drawdown_is_charged() -> None:
    assert step_reward(1.0, 1.0, 0.1, 0.3, False, 0.5, 0.0) == pytest.approx(-0.1)
    assert step_reward(1.0, 1.0, 0.3, 0.1, False, 0.5, 0.0) == 0.0


def test_ruin_has_a_price_and_nothing_left_is_not_infinite() -> None:
    assert step_reward(1.0, 1.0, 0.0, 0.0, True, 0.0, 2.0) == -2.0
    assert step_reward(1.0, 0.0, 0.0, 0.0, False, 0.0, 2.0) == pytest.approx(math.log(1e-6))
