"""A backtest is the same everywhere, knows no future, and its figures are right."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offchain_rl.artefact import ActionSpec, Layer
from offchain_rl.backtest import (
    BacktestConfig,
    cross_targets_bps,
    is_compilable,
    max_drawdown_bps,
    run_backtest,
    run_compiled,
    run_plain,
    run_targets,
    sharpe_e2,
    vault_state,
)
from offchain_rl.episode import build_market
from offchain_rl.observation import BadObservation, ObservationSpec, build_observation
from offchain_rl.policy import BuyAndHold, ConstantWeight, HoldPolicy, MlpPolicy, MovingAverageRule, Policy
from offchain_rl.prices import Bars
from offchain_rl.spot_vault import UNLIMITED, Costs, Limits, Rules, open_vault, pass_bar, terms_of

ROOT = Path(__file__).resolve().parents[3]
SPEC = ObservationSpec(lookback=50, vol_window=48, features=("ma_cross_z:8:48", "weight", "drawdown"))
RULE = MovingAverageRule(SPEC, ActionSpec(max_weight_bps=8_000, deadband_bps=300), feature="ma_cross_z:8:48")
VALUES = st.lists(st.integers(1, 10**15), min_size=3, max_size=40)
CreateBars = Callable[..., Bars]

# Prices without randomness, a rule and its run, in a process that can import neither torch nor gymnasium.
PROGRAM = """
import sys
sys.modules["torch"] = sys.modules["gymnasium"] = None
import numpy as np
from offchain_rl.backtest import run_backtest
from offchain_rl.evaluate import walk_forward
from offchain_rl.observation import ObservationSpec
from offchain_rl.policy import MovingAverageRule
from offchain_rl.prices import Bars
close = 10**11 + np.cumsum((np.arange(600) * 2654435761 % 1000003 - 500001) * 1000)
bars = Bars(source="formula", bar_s=1800, timestamps_s=1700352000 + 1800 * np.arange(600), open_e8=np.roll(close, 1),
            high_e8=close * 2, low_e8=close // 2, close_e8=close)
spec = ObservationSpec(lookback=50, vol_window=48, features=("ma_cross_z:8:48", "weight", "drawdown"))
run = run_backtest(MovingAverageRule(spec, feature="ma_cross_z:8:48"), bars)
print(run.run_hash(), run.performance())
"""


# Refusals


def test_backtest_without_history_or_without_a_bar_to_trade_in_is_refused(create_bars: CreateBars) -> None:
    bars = create_bars(60)
    for start in (48, 59):
        with pytest.raises(BadObservation, match="starts between bar 49 and bar 58"):
            run_backtest(RULE, bars, start=start)
    with pytest.raises(BadObservation, match="starts between"):
        run_backtest(RULE, bars.slice(0, 50))


# The same everywhere


def test_two_processes_without_torch_give_the_same_bytes() -> None:
    outputs = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert outputs[0].split()[0] == "0x45736f8331a5d0666e98000c1b8ef9fea4ff04ce7c0e360cfccb304e77cc04ab"


def test_decisions_are_those_of_full_observations(create_bars: CreateBars) -> None:
    """What a live cycle computes bar by bar is what the backtest computed all at once."""
    bars = create_bars(200)
    run = run_backtest(RULE, bars)
    vault = open_vault(run.values[0], 0, int(bars.close_e8[49]), run.start_s, 10**8)
    terms = terms_of(Costs(), Limits(), Rules(), unit=10**8)
    opens_s, opens, closes = bars.timestamps_s.tolist(), bars.open_e8.tolist(), bars.close_e8.tolist()
    for bar in range(49, 199):
        observation = build_observation(SPEC, closes[bar - 49 : bar + 1], vault_state(vault, run.values[0]))
        decision = RULE.decide(observation)
        target = decision.target_weight_bps if decision.is_rebalance else None
        assert target == run.targets_bps[bar - 49]
        close_s = opens_s[bar] + 1800
        vault = pass_bar(
            vault, decision.is_rebalance, decision.target_weight_bps, close_s, opens_s[bar + 1], opens[bar + 1],
            closes[bar + 1], close_s + 1800, 1800, terms,
        )  # fmt: skip
        assert vault.equity == run.values[bar - 48]
    assert vault == run.vault


def create_network(seed: int) -> MlpPolicy:
    rng = np.random.default_rng(seed)
    layers = []
    for inputs, outputs in ((3, 16), (16, 16), (16, 1)):
        weights = rng.integers(-6_000, 6_000, (outputs, inputs)).tolist()
        biases = rng.integers(-(10**7), 10**7, outputs).tolist()
        layers.append(Layer(weights=tuple(map(tuple, weights)), biases=tuple(biases), weight_bits=12))
    return MlpPolicy(SPEC, ActionSpec(max_weight_bps=9_000, deadband_bps=300 * (seed % 2)), layers)


@pytest.mark.parametrize(
    "limits",
    [Limits(), Limits(max_daily_loss_bps=150, max_drawdown_bps=400, hard_drawdown_bps=500), UNLIMITED],
    ids=["roomy", "tight", "none"],
)
@pytest.mark.parametrize(
    "policy",
    [
        create_network(1),
        create_network(2),
        RULE,
        BuyAndHold(SPEC, ActionSpec(max_weight_bps=9_000)),
        ConstantWeight(SPEC, ActionSpec(max_weight_bps=9_000, deadband_bps=100), 4_000),
        HoldPolicy(SPEC),
    ],
    ids=["network 1", "network 2", "moving average", "buy and hold", "constant", "hold"],
)
def test_compiled_and_plain_runs_are_equal_to_the_last_unit(
    create_bars: CreateBars, policy: Policy, limits: Limits
) -> None:
    bars = create_bars(700, step_bps=120)
    config = BacktestConfig(limits=limits, costs=Costs(latency_s=60))
    plain, compiled = run_plain(policy, bars, config), run_compiled(policy, bars, config)
    assert plain == compiled
    assert plain.run_hash() == compiled.run_hash()
    assert run_backtest(policy, bars.slice(0, 300), config).values == plain.values[:251]


@pytest.mark.parametrize("price_e8", [1, 1_000, 250_000, 10**8, (1 << 50) // 4])
@pytest.mark.parametrize(("unit", "start_quote"), [(10**6, 10**6), (10**8, 10**11), (10**12, 1 << 41)])
def test_at_any_price_and_with_any_decimals_a_run_is_right_or_refused(
    create_bars: CreateBars, price_e8: int, unit: int, start_quote: int
) -> None:
    bars = scaled(create_bars(300, step_bps=120), price_e8)
    costs = Costs(gas_quote=0, fee_bps=30, slippage_bps=30)
    config = BacktestConfig(asset_unit=unit, start_quote=start_quote, limits=UNLIMITED, costs=costs)
    policy = create_network(1)
    plain = run_plain(policy, bars, config)
    assert run_backtest(policy, bars, config) == plain
    if is_compilable(bars, config):
        assert run_compiled(policy, bars, config) == plain
    else:
        with pytest.raises(ValueError, match="compiled code"):
            run_compiled(policy, bars, config)


def scaled(bars: Bars, price_e8: int) -> Bars:
    columns = {
        name: np.clip((getattr(bars, name) * (price_e8 / 2e11)).astype(np.int64), 1, (1 << 50) - 1)
        for name in ("open_e8", "high_e8", "low_e8", "close_e8")
    }
    return Bars(source=bars.source, bar_s=bars.bar_s, timestamps_s=bars.timestamps_s, **columns)


def test_a_vault_that_outgrows_the_compiled_code_runs_plain(create_bars: CreateBars) -> None:
    bars, policy = create_bars(400, step_bps=1, drift_bps=200), BuyAndHold(SPEC, ActionSpec(max_weight_bps=9_000))
    with pytest.raises(OverflowError, match="more than 32 times its start"):
        run_compiled(policy, bars)
    assert run_backtest(policy, bars) == run_plain(policy, bars)


def test_a_spike_beyond_what_can_be_counted_runs_plain(create_bars: CreateBars) -> None:
    bars = scaled(create_bars(200, step_bps=10), 100_000)
    close_e8, high_e8 = bars.close_e8.copy(), bars.high_e8.copy()
    close_e8[120] = high_e8[120] = 10**15
    spiked = Bars(
        source="spike", bar_s=1800, timestamps_s=bars.timestamps_s, open_e8=bars.open_e8, high_e8=high_e8,
        low_e8=bars.low_e8, close_e8=close_e8,
    )  # fmt: skip
    policy, config = ConstantWeight(SPEC, ActionSpec(max_weight_bps=9_000), 5_000), BacktestConfig(limits=UNLIMITED)
    with pytest.raises(ValueError, match="prices go from"):
        run_compiled(policy, spiked, config)
    assert run_backtest(policy, spiked, config) == run_plain(policy, spiked, config)


def test_everything_can_be_sold_where_nothing_is_limited(create_bars: CreateBars) -> None:
    bars = create_bars(200)
    targets = np.array([10_000, 0] * 100, dtype=np.int32)[:199]
    run = run_targets(targets, build_market([bars], SPEC), 1800, BacktestConfig(limits=UNLIMITED))
    assert run.vault.trades == 199


def test_bars_of_another_length_than_observed_are_refused(create_bars: CreateBars) -> None:
    for run in (run_plain, run_compiled, run_backtest):
        with pytest.raises(BadObservation, match="bars of 3600 s, the observation asks for 1800 s"):
            run(RULE, create_bars(200, bar_s=3600))


def test_an_unknown_kind_of_policy_runs_plain(create_bars: CreateBars) -> None:
    class Alternating(ConstantWeight):
        def wanted_weight_bps(self, vector: Sequence[int], weight_bps: int) -> int:
            return 4_000 if weight_bps < 2_000 else 0

    policy = Alternating(SPEC, ActionSpec(deadband_bps=0))
    run = run_backtest(policy, create_bars(100), BacktestConfig(limits=UNLIMITED))
    assert run.targets_bps[:4] == (4_000, 0, 4_000, 0)


def test_targets_that_are_given_are_asked_for_as_they_are(create_bars: CreateBars) -> None:
    bars = create_bars(200)
    targets = np.array([0, 5_000] * 100, dtype=np.int32)[:199]
    run = run_targets(targets, build_market([bars], SPEC), 1800, BacktestConfig(limits=UNLIMITED))
    assert run.targets_bps[1:5].tolist() == [5_000, 0, 5_000, 0]
    assert (run.weights_bps[2::2] > 4_900).all()


def test_future_bars_change_nothing_before_them(create_bars: CreateBars) -> None:
    bars = create_bars(300)
    known = 180
    columns = {}
    for name in ("open_e8", "high_e8", "low_e8", "close_e8"):
        columns[name] = getattr(bars, name).copy()
        columns[name][known + 1 :] //= 3
    other = Bars(source="x", bar_s=1800, timestamps_s=bars.timestamps_s, **columns)
    ours, theirs = run_backtest(RULE, bars), run_backtest(RULE, other)
    bars_known = known - 49
    assert ours.targets_bps[: bars_known + 1] == theirs.targets_bps[: bars_known + 1]
    assert ours.values[: bars_known + 1] == theirs.values[: bars_known + 1]
    assert ours.values[bars_known + 1] != theirs.values[bars_known + 1]


def test_late_start_needs_only_its_own_history(create_bars: CreateBars) -> None:
    bars = create_bars(300)
    late = run_backtest(RULE, bars, start=200)
    assert late.run_hash() == run_backtest(RULE, bars.slice(151, 300)).run_hash()


# Figures


def test_cash_stays_what_it_is(create_bars: CreateBars) -> None:
    figures = run_backtest(HoldPolicy(SPEC), create_bars(200)).performance().to_dict()
    assert figures.pop("bars") == 150
    assert set(figures.values()) == {0}


def test_buy_and_hold_returns_what_the_price_did(create_bars: CreateBars) -> None:
    bars = create_bars(400, drift_bps=3)
    config = BacktestConfig(
        costs=Costs(fee_bps=0, slippage_bps=0, gas_quote=0, depth_quote=1 << 59, latency_s=0), limits=UNLIMITED
    )
    figures = run_backtest(BuyAndHold(SPEC, ActionSpec(max_weight_bps=10_000)), bars, config).performance()
    price_bps = int(bars.close_e8[-1] - bars.open_e8[50]) * 10_000 // int(bars.open_e8[50])
    assert abs(figures.total_return_bps - price_bps) <= 1
    assert (figures.trades, figures.costs_bps) == (1, 0)


def test_costs_are_never_free_money(create_bars: CreateBars) -> None:
    bars = create_bars(400)
    cheap, dear = (
        run_backtest(RULE, bars, BacktestConfig(costs=Costs(fee_bps=fee_bps), limits=UNLIMITED)) for fee_bps in (0, 100)
    )
    assert cheap.vault.trades > 0
    assert dear.values[-1] < cheap.values[-1]


@given(VALUES)
def test_largest_drawdown_is_the_worst_of_all_pairs_rounded_up(values: list[int]) -> None:
    pairs = [(a, b) for i, a in enumerate(values) for b in values[i:]]
    worst = max((a - b) * 10_000 / a for a, b in pairs)
    assert worst - 1e-6 <= max_drawdown_bps(values) < worst + 1 + 1e-6


@given(st.lists(st.integers(9_000, 11_000), min_size=3, max_size=60))
def test_sharpe_ratio_is_that_of_the_textbook(growth: list[int]) -> None:
    values = [10**14]
    for factor in growth:
        values.append(values[-1] * factor // 10_000)
    returns = np.diff(values) / np.array(values[:-1])
    deviation = statistics.stdev(returns.tolist())
    if deviation < 1e-6:
        return
    expected = returns.mean() / deviation * (365 * 48) ** 0.5 * 100
    assert abs(sharpe_e2(values, bar_s=1800) - expected) < 2 + abs(expected) * 1e-4


def test_sharpe_ratio_of_nothing_is_zero() -> None:
    assert sharpe_e2([5, 5, 5], bar_s=60) == 0
    assert sharpe_e2([5, 6], bar_s=60) == 0


# Stretches that are skipped, and signals that are computed at once


class Scripted(ConstantWeight):
    """Asks for what it was told to, one bar after the other."""

    targets: list[int]

    def wanted_weight_bps(self, vector: Sequence[int], weight_bps: int) -> int:
        return self.targets.pop(0)


@pytest.mark.parametrize("seed", range(12))
def test_quiet_stretches_are_skipped_without_a_difference(create_bars: CreateBars, seed: int) -> None:
    """Many days of few orders, with gaps, falls and every limit in reach: plain Python looks at each bar."""
    rng = np.random.default_rng(seed)
    bars = create_bars(1_200, seed=seed, step_bps=int(rng.integers(5, 250)), drift_bps=int(rng.integers(-4, 5)))
    times_s = bars.timestamps_s + 1800 * np.cumsum(rng.random(1_200) < 0.01) * int(rng.integers(1, 90))
    bars = Bars(
        source="gaps", bar_s=1800, timestamps_s=times_s, open_e8=bars.open_e8, high_e8=bars.high_e8,
        low_e8=bars.low_e8, close_e8=bars.close_e8,
    )  # fmt: skip
    tight = Limits(max_daily_loss_bps=100, max_drawdown_bps=900, hard_drawdown_bps=1_000)
    limits = (UNLIMITED, Limits(), tight)[seed % 3]
    config, deadband_bps = BacktestConfig(limits=limits), int(rng.integers(0, 2_000))
    targets = np.repeat(rng.integers(0, 9_001, 60), 20)[:1_199].astype(np.int32)
    spec = ObservationSpec(lookback=2, vol_window=1, features=("return_z:1",))
    policy = Scripted(spec, ActionSpec(max_weight_bps=10_000, deadband_bps=deadband_bps))
    policy.targets = targets[1:].tolist()
    plain = run_plain(policy, bars, config)
    market = build_market([bars.slice(1, 1_200)], spec)
    fast = run_targets(targets[1:], market, 1800, config, deadband_bps=deadband_bps)
    assert fast.values.tolist() == list(plain.values)
    assert fast.weights_bps.tolist() == list(plain.weights_bps)
    assert fast.vault == plain.vault


def test_a_crossing_of_averages_is_exact_and_refuses_what_makes_no_sense(create_bars: CreateBars) -> None:
    close_e8 = create_bars(400).close_e8
    found = cross_targets_bps(close_e8, 5, 30, wanted_bps=7_000).tolist()
    closes = close_e8.tolist()
    for t in range(399):
        is_above = t >= 29 and sum(closes[t - 4 : t + 1]) * 30 > sum(closes[t - 29 : t + 1]) * 5
        assert found[t] == (7_000 if is_above else 0), t
    for fast, slow in ((0, 5), (5, 5), (9, 5)):
        with pytest.raises(ValueError, match="give 0 < fast < slow"):
            cross_targets_bps(close_e8, fast, slow)
    with pytest.raises(ValueError, match="too long for prices as high"):
        cross_targets_bps(close_e8, 5_000, 50_000)
