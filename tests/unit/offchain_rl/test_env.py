"""The environments follow the vault, are seeded, and know nothing of the future."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from offchain_rl.artefact import ActionSpec
from offchain_rl.backtest import BacktestConfig, run_backtest
from offchain_rl.env import EnvConfig, TradingEnv, VectorTradingEnv
from offchain_rl.observation import ObservationSpec, build_observation
from offchain_rl.policy import ConstantWeight, MovingAverageRule
from offchain_rl.prices import Bars
from offchain_rl.spot_vault import Costs, Limits

SPEC = ObservationSpec(
    lookback=50, vol_window=48, features=("return_z:4", "ma_cross_z:8:48", "log_vol:48", "weight", "drawdown")
)
CONFIG = EnvConfig(
    observation=SPEC,
    action=ActionSpec(max_weight_bps=8_000, deadband_bps=300),
    costs=Costs(fee_bps=10, slippage_bps=10, gas_quote=10**6),
    limits=Limits(max_drawdown_bps=1_500, max_daily_loss_bps=400, max_turnover_bps=12_000),
    episode_steps=40,
    bars_per_step=3,
)
CreateBars = Callable[..., Bars]


def with_other_future(bars: Bars, last_known: int) -> Bars:
    """The same bars up to `last_known`, and twice the price afterwards."""
    columns = {}
    for name in ("open_e8", "high_e8", "low_e8", "close_e8"):
        columns[name] = getattr(bars, name).copy()
        columns[name][last_known + 1 :] *= 2
    return Bars(source=bars.source, bar_s=bars.bar_s, timestamps_s=bars.timestamps_s, **columns)


# Refusals


def test_too_few_bars_for_an_episode_are_refused(create_bars: CreateBars) -> None:
    with pytest.raises(ValueError, match="169 bars, an episode needs at least 170"):
        TradingEnv(create_bars(169), CONFIG)
    with pytest.raises(ValueError, match="169 bars, an episode needs at least 170"):
        VectorTradingEnv([create_bars(300), create_bars(169)], CONFIG, 4)


def test_start_without_history_and_action_that_is_no_number_are_refused(create_bars: CreateBars) -> None:
    env = TradingEnv(create_bars(300), CONFIG)
    with pytest.raises(ValueError, match="an episode starts between bar 49 and bar 179, not at 48"):
        env.reset(options={"start": 48})
    env.reset(seed=1)
    with pytest.raises(ValueError, match="not a number"):
        env.step(np.array([np.nan], dtype=np.float32))


def test_empty_episode_and_empty_vector_are_refused(create_bars: CreateBars) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EnvConfig(episode_steps=0)
    with pytest.raises(ValueError, match="at least one series"):
        VectorTradingEnv([], CONFIG, 4)


# One environment


def test_gymnasium_finds_nothing_wrong(create_bars: CreateBars) -> None:
    check_env(TradingEnv(create_bars(300), CONFIG), skip_render_check=True)


def test_seed_decides_the_episode(create_bars: CreateBars) -> None:
    env, other = TradingEnv(create_bars(600), CONFIG), TradingEnv(create_bars(600), CONFIG)
    starts = []
    for seed in (1, 2, 3):
        first, info = env.reset(seed=seed)
        again, same = other.reset(seed=seed)
        assert first.tolist() == again.tolist()
        assert info == same
        starts.append(info["bar"])
    assert len(set(starts)) > 1
    assert env.reset()[1]["bar"] == other.reset()[1]["bar"]


def test_observation_is_the_one_an_auditor_computes(create_bars: CreateBars) -> None:
    bars = create_bars(300)
    env = TradingEnv(bars, CONFIG)
    observation, info = env.reset(seed=3)
    rng = np.random.default_rng(3)
    for _ in range(20):
        observation, _, _, _, info = env.step(rng.random(1, dtype=np.float32))
        bar = info["bar"]
        expected = build_observation(SPEC, bars.close_e8[bar - 49 : bar + 1].tolist(), env.vault.observe())
        assert tuple(observation.tolist()) == expected.vector


def test_nothing_after_the_decision_reaches_what_came_before(create_bars: CreateBars) -> None:
    bars = create_bars(300)
    start, steps = 60, 10
    known = start + steps * CONFIG.bars_per_step
    one, other = TradingEnv(bars, CONFIG), TradingEnv(with_other_future(bars, known), CONFIG)
    rng = np.random.default_rng(1)
    seen = [env.reset(options={"start": start})[0].tolist() for env in (one, other)]
    assert seen[0] == seen[1]
    for _ in range(steps):
        action = rng.random(1, dtype=np.float32)
        ours, theirs = one.step(action), other.step(action)
        assert ours[0].tolist() == theirs[0].tolist()
        assert ours[1:] == theirs[1:]
    action = np.ones(1, dtype=np.float32)
    assert one.step(action)[0].tolist() != other.step(action)[0].tolist()


def test_trade_is_filled_after_the_decision(create_bars: CreateBars) -> None:
    """A price that only the bar of the decision shows can not be had."""
    bars = create_bars(300, step_bps=1)
    opens = bars.open_e8.copy()
    opens[61] = opens[61] * 101 // 100
    bars = Bars(
        source="x",
        bar_s=1800,
        timestamps_s=bars.timestamps_s,
        open_e8=opens,
        high_e8=np.maximum(bars.high_e8, opens),
        low_e8=bars.low_e8,
        close_e8=bars.close_e8,
    )
    env = TradingEnv(bars, replace(CONFIG, costs=Costs(fee_bps=0, slippage_bps=0, gas_quote=0)))
    env.reset(options={"start": 60})
    info = env.step(np.ones(1, dtype=np.float32))[4]
    # 80 % of the value was bought 1 % above the market.
    assert -85 < (info["value"] - CONFIG.start_quote) * 10_000 // CONFIG.start_quote < -70


def test_ruin_ends_the_episode_and_is_punished(create_bars: CreateBars) -> None:
    bars = create_bars(300, step_bps=20, drift_bps=-100)
    limits = Limits(max_drawdown_bps=300, max_daily_loss_bps=10_000)
    env = TradingEnv(bars, replace(CONFIG, limits=limits))
    env.reset(seed=1)
    _, reward, terminated, truncated, _ = env.step(np.ones(1, dtype=np.float32))
    while not terminated:
        _, reward, terminated, truncated, _ = env.step(np.ones(1, dtype=np.float32))
    assert not truncated
    assert reward < -CONFIG.reward.ruin_price


def test_environment_and_backtest_agree_to_the_last_unit(create_bars: CreateBars) -> None:
    bars = create_bars(300)
    config = replace(CONFIG, bars_per_step=1, episode_steps=250)
    run = run_backtest(
        ConstantWeight(SPEC, CONFIG.action, 5_000), bars, BacktestConfig(costs=CONFIG.costs, limits=CONFIG.limits)
    )
    env = TradingEnv(bars, config)
    env.reset(options={"start": 49})
    values = [env.step(np.array([0.625], dtype=np.float32))[4]["value"] for _ in range(250)]
    assert tuple(values) == run.values[1:]


# Many environments


def test_vector_environment_follows_the_single_one(create_bars: CreateBars) -> None:
    """The single environment counts in integers, the vector in floats: they differ by rounding only."""
    bars, ends = create_bars(400, step_bps=150), {"terminated": 0, "truncated": 0}
    config = replace(CONFIG, limits=replace(CONFIG.limits, max_drawdown_bps=450))
    single, vector = TradingEnv(bars, config), VectorTradingEnv(bars, config, 1, starts_flat=True)
    rng = np.random.default_rng(0)
    for episode in range(12):
        first = vector.reset(seed=episode)
        observation, _ = single.reset(options={"start": int(vector.bar[0])})
        assert observation.tolist() == first[0].tolist()
        is_over = False
        while not is_over:
            share = float(np.float32(rng.random()))
            observation, reward, terminated, truncated, info = single.step(np.array([share], dtype=np.float32))
            step = vector.step(np.array([int(share * 8_000 + 0.5)]))
            assert np.abs(observation - step.final_observations[0]).max() <= 1
            assert reward == pytest.approx(float(step.rewards[0]), abs=1e-7)
            assert (terminated, truncated and not terminated) == (step.is_terminated[0], step.is_truncated[0])
            is_over = terminated or truncated
            if not is_over:
                assert info["value"] / CONFIG.start_quote == pytest.approx(float(vector.values[0]), abs=1e-7)
        ends["terminated" if terminated else "truncated"] += 1
    assert min(ends.values()) > 0


def test_vector_environment_is_seeded_and_restarts_what_ended(create_bars: CreateBars) -> None:
    series = [create_bars(300, seed=1), create_bars(260, seed=2)]
    one, other = (VectorTradingEnv(series, CONFIG, 16) for _ in range(2))
    assert one.reset(seed=7).tolist() == other.reset(seed=7).tolist()
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(60):
        wanted = rng.integers(0, 8_001, 16)
        ours, theirs = one.step(wanted), other.step(wanted)
        assert ours.observations.tolist() == theirs.observations.tolist()
        assert ours.rewards.tolist() == theirs.rewards.tolist()
        done = ours.is_terminated | ours.is_truncated
        ended += int(done.sum())
        assert (one._steps[done] == 0).all()
    assert ended >= 16
    assert one.reset(seed=8).tolist() != other.reset(seed=7).tolist()


def test_vector_observations_are_known_from_their_past(create_bars: CreateBars) -> None:
    bars = create_bars(400)
    one, other = (VectorTradingEnv(some, CONFIG, 8) for some in (bars, with_other_future(bars, 300)))
    ours, theirs = one.reset(seed=1), other.reset(seed=1)
    for _ in range(30):
        known = one.bar <= 300
        assert ours[known].tolist() == theirs[known].tolist()
        wanted = np.full(8, 4_000)
        ours, theirs = one.step(wanted).final_observations, other.step(wanted).final_observations


def test_moving_average_rule_earns_in_a_trend(create_bars: CreateBars) -> None:
    bars = create_bars(1_000, step_bps=30, drift_bps=8)
    rule = MovingAverageRule(SPEC, CONFIG.action, feature="ma_cross_z:8:48")
    assert run_backtest(rule, bars).performance().total_return_bps > 1_000
