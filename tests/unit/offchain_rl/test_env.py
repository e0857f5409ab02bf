"""The environments follow the vault, are seeded, and know nothing of the future."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from offchain_rl.artefact import ActionSpec
from offchain_rl.backtest import BacktestConfig, run_backtest, vault_state
from offchain_rl.env import EnvConfig, TradingEnv, VectorTradingEnv
from offchain_rl.observation import ObservationSpec, build_observation
from offchain_rl.policy import ConstantWeight, MovingAverageRule
from offchain_rl.prices import Bars
from offchain_rl.spot_vault import Costs, Limits, weight_bps_of

SPEC = ObservationSpec(
    lookback=50, vol_window=48, features=("return_z:4", "ma_cross_z:8:48", "log_vol:48", "weight", "drawdown")
)
CONFIG = EnvConfig(
    observation=SPEC,
    action=ActionSpec(max_weight_bps=8_000, deadband_bps=300),
    costs=Costs(fee_bps=10, slippage_bps=10, gas_quote=10**6),
    limits=Limits(max_drawdown_bps=1_500, max_daily_loss_bps=400, max_daily_turnover_bps=12_000),
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


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"start_quote": (1 << 41) + 1}, "start_quote is 2199023255553: at most 2199023255552 fits"),
        ({"asset_unit": 10**13}, "asset_unit is 10000000000000: at most"),
        ({"asset_unit": 10**12}, "at a price of .*e-8 dollars, 100000000000 of start_quote buys more units"),
    ],
)
def test_amounts_that_do_not_fit_the_compiled_code_are_refused(
    create_bars: CreateBars, changes: dict[str, int], sentence: str
) -> None:
    config, bars = replace(CONFIG, **changes), create_bars(300)
    if changes.get("asset_unit") == 10**12:
        bars = with_price(bars, 200_000)  # a fifth of a cent
    with pytest.raises(ValueError, match=sentence):
        VectorTradingEnv(bars, config, 4)
    TradingEnv(bars, config).reset(seed=1)  # plain Python counts as far as it takes


def with_price(bars: Bars, price_e8: int) -> Bars:
    """The same moves from another first price."""
    columns = {
        name: np.maximum(getattr(bars, name) * price_e8 // int(bars.open_e8[0]), 1)
        for name in ("open_e8", "high_e8", "low_e8", "close_e8")
    }
    return Bars(source=bars.source, bar_s=bars.bar_s, timestamps_s=bars.timestamps_s, **columns)


def test_a_fill_later_than_its_bar_is_refused() -> None:
    with pytest.raises(ValueError, match="latency_s is 1800"):
        EnvConfig(costs=Costs(latency_s=1800))


def test_a_vault_that_outgrows_the_compiled_code_is_an_error_and_not_a_wrong_number(create_bars: CreateBars) -> None:
    bars = create_bars(400, step_bps=1, drift_bps=200)
    config = replace(CONFIG, start_quote=1 << 41, bars_per_step=300, episode_steps=1, costs=Costs(gas_quote=0))
    env = VectorTradingEnv(bars, config, 4)
    env.start(1)
    with pytest.raises(OverflowError, match="more than 32 times its start"):
        env.advance(np.full(4, 8_000))


def test_bars_of_another_length_than_observed_are_refused(create_bars: CreateBars) -> None:
    for create in (lambda bars: TradingEnv(bars, CONFIG), lambda bars: VectorTradingEnv(bars, CONFIG, 4)):
        with pytest.raises(ValueError, match="bars of 3600 s, the observation asks for 1800 s"):
            create(create_bars(300, bar_s=3600))


def test_actions_for_another_number_of_environments_and_starts_without_history_are_refused(
    create_bars: CreateBars,
) -> None:
    env = VectorTradingEnv(create_bars(300), CONFIG, 4)
    env.start(1)
    for wrong in (np.zeros(3, dtype=np.int32), np.zeros((4, 1), dtype=np.int32), np.zeros(4), np.zeros(4, np.uint64)):
        with pytest.raises(ValueError, match=r"wanted_bps is .*: give integers, \[4\]"):
            env.advance(wrong)
    with pytest.raises(ValueError, match="an action is missing"):
        TradingEnv(create_bars(300), CONFIG).step(np.zeros(0, dtype=np.float32))
    with pytest.raises(ValueError, match="action 2 is not a number"):
        env.step(np.array([[0.1], [0.2], [np.nan], [0.3]], dtype=np.float32))
    for starts in ([], [48], [60, 10_000]):
        with pytest.raises(ValueError, match="in start_bars"):
            env.set_starts(np.array(starts, dtype=np.int64))


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
        state = vault_state(env.vault, CONFIG.start_quote)
        expected = build_observation(SPEC, bars.close_e8[bar - 49 : bar + 1].tolist(), state)
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
    env = TradingEnv(bars, replace(CONFIG, costs=Costs(fee_bps=0, slippage_bps=0, gas_quote=0, latency_s=0)))
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
    infos = [env.step(np.array([0.625], dtype=np.float32))[4] for _ in range(250)]
    values = [info["value"] - info["gas_spent"] for info in infos]
    assert tuple(values) == run.values[1:]


# Many environments


def test_gymnasium_s_vector_interface_is_kept(create_bars: CreateBars) -> None:
    env = VectorTradingEnv(create_bars(300), CONFIG, 3)
    first, info = env.reset(seed=1)
    assert env.observation_space.contains(first)
    assert info == {}
    env.action_space.seed(1)
    for _ in range(CONFIG.episode_steps):
        observations, rewards, terminated, truncated, info = env.step(env.action_space.sample())
        assert env.observation_space.contains(observations)
        assert rewards.shape == terminated.shape == truncated.shape == (3,)
    assert truncated.any()
    assert info["_final_obs"].tolist() == (terminated | truncated).tolist()
    assert info["final_obs"][truncated].tolist() != observations[truncated].tolist()


@pytest.mark.parametrize("unit", [10**6, 10**8, 10**12])
def test_compiled_environments_are_the_plain_one_bit_for_bit(create_bars: CreateBars, unit: int) -> None:
    """Plain Python with integers of any size, and machine code with 64 bits: the same vaults, in every field."""
    bars, ended = create_bars(400, step_bps=150), {"terminated": 0, "truncated": 0}
    limits = replace(CONFIG.limits, max_drawdown_bps=450, hard_drawdown_bps=600)
    config = replace(CONFIG, limits=limits, asset_unit=unit)
    plain, compiled = TradingEnv(bars, config), VectorTradingEnv(bars, config, 1)
    rng = np.random.default_rng(0)
    seen = compiled.start(seed=3).copy()
    for _ in range(12):
        weight_bps = compiled.vaults[0].asset * int(bars.close_e8[compiled.bars_now[0]]) // (100 * unit)
        plain.reset(options={"start": int(compiled.bars_now[0])})
        plain.vault = compiled.vaults[0]
        assert plain._observe().tolist() == seen[0].tolist(), weight_bps
        is_over = False
        while not is_over:
            share = np.float32(rng.random())
            observation, reward, terminated, truncated, _ = plain.step(np.array([share]))
            step = compiled.advance(np.array([int(float(share) * 8_000 + 0.5)]))
            assert observation.tolist() == step.final_observations[0].tolist()
            assert reward == pytest.approx(float(step.rewards[0]), rel=1e-12, abs=1e-15)
            assert (terminated, truncated) == (step.is_terminated[0], step.is_truncated[0])
            is_over = terminated or truncated
            if not is_over:
                assert plain.vault == compiled.vaults[0]
        seen = step.observations
        ended["terminated" if terminated else "truncated"] += 1
    assert min(ended.values()) > 0


def test_a_seed_makes_everything_repeatable_and_episodes_start_again(create_bars: CreateBars) -> None:
    series = [create_bars(300, seed=1), create_bars(260, seed=2)]
    one, other = (VectorTradingEnv(series, CONFIG, 16) for _ in range(2))
    assert one.start(seed=7).tolist() == other.start(seed=7).tolist()
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(60):
        wanted = rng.integers(0, 8_001, 16)
        ours, theirs = one.advance(wanted), other.advance(wanted)
        assert ours.observations.tolist() == theirs.observations.tolist()
        assert ours.rewards.tolist() == theirs.rewards.tolist()
        ended += int((ours.is_terminated | ours.is_truncated).sum())
    assert ended >= 16
    assert one.vaults == other.vaults
    assert one.start(seed=8).tolist() != other.start(seed=7).tolist()
    assert one.start().tolist() != one.start().tolist()  # without a seed, the next episodes


def test_starts_are_spread_over_all_bars_and_half_of_them_hold_something(create_bars: CreateBars) -> None:
    env = VectorTradingEnv(create_bars(400), CONFIG, 4096)
    env.start(1)
    counts = np.bincount(env.bars_now)[env.start_bars[0] : env.start_bars[-1] + 1]
    assert len(counts) == len(env.start_bars)
    assert counts.min() > 0
    weights = np.array([weight_bps_of(v) for v in env.vaults])
    assert 0.45 < (weights == 0).mean() < 0.55
    assert weights.max() > 7_900
    flat = VectorTradingEnv(create_bars(400), CONFIG, 64, starts_flat=True)
    flat.start(1)
    assert all(v.asset == 0 for v in flat.vaults)


def test_episodes_start_only_where_they_are_told_to(create_bars: CreateBars) -> None:
    env = VectorTradingEnv(create_bars(400), CONFIG, 32)
    env.set_starts(np.array([100, 200]))
    env.start(1)
    assert set(env.bars_now.tolist()) == {100, 200}


def test_a_snapshot_goes_on_bit_for_bit(create_bars: CreateBars) -> None:
    bars = create_bars(400)
    one, other = (VectorTradingEnv(bars, CONFIG, 8) for _ in range(2))
    one.set_starts(one.start_bars[:100])
    one.start(5)
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 8_001, (80, 8))
    for wanted in actions[:40]:
        one.advance(wanted)
    other.restore(one.snapshot())
    for wanted in actions[40:]:
        assert one.advance(wanted).observations.tolist() == other.advance(wanted).observations.tolist()
    assert one.vaults == other.vaults


def test_a_snapshot_of_anything_else_is_refused_and_changes_nothing(create_bars: CreateBars) -> None:
    env, kept = VectorTradingEnv(create_bars(400), CONFIG, 8), VectorTradingEnv(create_bars(400), CONFIG, 8)
    for one in (env, kept):
        one.start(5)
    good = env.snapshot()
    other_series = VectorTradingEnv(create_bars(400, seed=2), CONFIG, 8)
    other_series.start(1)
    cheaper = VectorTradingEnv(create_bars(400), replace(CONFIG, costs=Costs(fee_bps=1)), 8)
    cheaper.start(1)
    wrong = [
        (VectorTradingEnv(create_bars(400), CONFIG, 4).snapshot(), "for bars, here it is int64"),
        ({name: array for name, array in good.items() if name != "seed"}, "the snapshot has nothing for seed"),
        (good | {"rows": good["rows"].astype(np.float64)}, "the snapshot has float64"),
        (other_series.snapshot(), "other series or of another configuration"),
        (cheaper.snapshot(), "other series or of another configuration"),
        (good | {"bars": good["bars"] + 10**6}, "at bars that the series does not have"),
        (good | {"steps": good["steps"] - 10**6}, "at bars that the series does not have"),
    ]
    for snapshot, sentence in wrong:
        with pytest.raises(ValueError, match=sentence):
            env.restore(snapshot)
    wanted = np.full(8, 4_000)
    assert env.advance(wanted).observations.tolist() == kept.advance(wanted).observations.tolist()
    assert env.vaults == kept.vaults


def test_nothing_is_stepped_before_it_has_begun_or_after_it_has_ended(create_bars: CreateBars) -> None:
    with pytest.raises(RuntimeError, match=r"call start\(\) or reset\(\) first"):
        VectorTradingEnv(create_bars(300), CONFIG, 2).advance(np.zeros(2, dtype=np.int32))
    with pytest.raises(ValueError, match="lies outside 0 and"):
        VectorTradingEnv(create_bars(300), CONFIG, 2).start(1 << 63)
    env = TradingEnv(create_bars(300), replace(CONFIG, episode_steps=2))
    env.reset(seed=1)
    for _ in range(2):
        env.step(np.zeros(1, dtype=np.float32))
    with pytest.raises(RuntimeError, match="the episode is over"):
        env.step(np.zeros(1, dtype=np.float32))


def test_an_episode_starts_with_what_a_vault_can_hold(create_bars: CreateBars) -> None:
    env = TradingEnv(create_bars(300), CONFIG)
    for options, sentence in (
        ({"weight_bps": 10_001}, "with a weight between 0 and 10000 bps, not with 10001"),
        ({"weight_bps": -5}, "not with -5"),
        ({"weight_bps": "x"}, r"options\['weight_bps'\] is 'x', not a whole number"),
        ({"start": 60.5}, r"options\['start'\] is 60.5"),
    ):
        with pytest.raises(ValueError, match=sentence):
            env.reset(options=options)
    held = env.reset(options={"start": 60, "weight_bps": np.int64(500)})[1]["weight_bps"]
    assert held in (499, 500)


def test_vector_observations_are_known_from_their_past(create_bars: CreateBars) -> None:
    bars = create_bars(400)
    one, other = (VectorTradingEnv(some, CONFIG, 8) for some in (bars, with_other_future(bars, 300)))
    ours, theirs = one.start(seed=1).copy(), other.start(seed=1).copy()
    compared = 0
    for _ in range(30):
        known = one.bars_now <= 300
        compared += int(known.sum())
        assert ours[known].tolist() == theirs[known].tolist()
        wanted = np.full(8, 4_000)
        ours, theirs = one.advance(wanted).observations.copy(), other.advance(wanted).observations.copy()
    assert compared > 100


def test_moving_average_rule_earns_in_a_trend(create_bars: CreateBars) -> None:
    bars = create_bars(1_000, step_bps=30, drift_bps=8)
    rule = MovingAverageRule(SPEC, CONFIG.action, feature="ma_cross_z:8:48")
    assert run_backtest(rule, bars).performance().total_return_bps > 1_000
