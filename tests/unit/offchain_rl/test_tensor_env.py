"""On tensors, on any device, the environment is the compiled one bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from offchain_rl import spot_vault
from offchain_rl.artefact import ActionSpec
from offchain_rl.env import EnvConfig, VectorTradingEnv
from offchain_rl.observation import ObservationSpec
from offchain_rl.prices import Bars
from offchain_rl.spot_vault import Costs, Limits, Rules, Vault, open_vault
from offchain_rl.tensor_env import TensorTradingEnv, close_bar, mul_div_down, random_bits

SPEC = ObservationSpec(
    lookback=50, vol_window=48, features=("return_z:4", "ma_cross_z:8:48", "log_vol:48", "weight", "drawdown")
)
CONFIG = EnvConfig(
    observation=SPEC,
    action=ActionSpec(max_weight_bps=8_000, deadband_bps=300),
    costs=Costs(fee_bps=10, slippage_bps=10, gas_quote=10**6, depth_quote=10**14),
    rules=Rules(min_trade_value=10**9),
    episode_steps=12,
    bars_per_step=3,
)
TIGHT = Limits(
    max_daily_loss_bps=300, max_drawdown_bps=500, hard_drawdown_bps=550, max_trade_slippage_bps=45,
    max_cumulative_slippage_bps=60, max_trades_per_day=7, max_daily_turnover_bps=9_000, max_position_bps=7_000,
)  # fmt: skip
CreateBars = Callable[..., Bars]


def test_nothing_to_run_and_bars_of_another_length_are_refused(create_bars: CreateBars) -> None:
    with pytest.raises(ValueError, match="at least one series"):
        TensorTradingEnv([], CONFIG, 4)
    with pytest.raises(ValueError, match="bars of 3600 s"):
        TensorTradingEnv(create_bars(300, bar_s=3600), CONFIG, 4)


def test_a_device_that_is_not_there_is_an_error(create_bars: CreateBars) -> None:
    with pytest.raises((RuntimeError, AssertionError)):
        TensorTradingEnv(create_bars(300), CONFIG, 4, device=f"cuda:{torch.cuda.device_count()}")


def assert_equal_runs(config: EnvConfig, bars: list[Bars], device: str, seed: int = 3) -> int:
    """Both environments over the same random actions; how many episodes were terminated."""
    compiled, tensors = VectorTradingEnv(bars, config, 64), TensorTradingEnv(bars, config, 64, device=device)
    assert compiled.start(seed).tolist() == tensors.start(seed).tolist()
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(40):
        wanted = rng.integers(-500, 9_000, 64)
        ours, theirs = tensors.advance(torch.from_numpy(wanted).to(device)), compiled.advance(wanted)
        assert tensors.rows().tolist() == [list(v) for v in compiled.vaults]
        for name in ("observations", "final_observations", "is_terminated", "is_truncated"):
            assert getattr(ours, name).tolist() == getattr(theirs, name).tolist(), name
        assert np.allclose(ours.rewards.cpu().numpy(), theirs.rewards, rtol=1e-12, atol=1e-12)
        ended += int(theirs.is_terminated.sum())
    return ended


@pytest.mark.parametrize("unit", [10**6, 10**8, 10**12])
def test_tensors_are_the_compiled_environment_bit_for_bit(create_bars: CreateBars, unit: int) -> None:
    bars = [create_bars(300, seed=1, step_bps=150), create_bars(260, seed=2, step_bps=300)]
    assert_equal_runs(replace(CONFIG, asset_unit=unit), bars, "cpu")


def test_in_every_state_of_the_vault(create_bars: CreateBars) -> None:
    bars = [create_bars(300, seed=1, step_bps=700), create_bars(260, seed=2, step_bps=200)]
    assert assert_equal_runs(replace(CONFIG, limits=TIGHT), bars, "cpu") > 20


def test_a_halted_vault_is_auctioned_alike() -> None:
    """An episode ends with its halt, so the environments above show no auction: here are vaults in the midst of one."""
    terms = replace(CONFIG, limits=TIGHT).params().terms
    at_s, close_e8 = 1_700_352_000, 150_000_000_000
    halted = [
        open_vault(10**10, asset, 2 * 10**11, at_s, terms.unit)._replace(
            halted_at_s=halted_at_s, filled_at_s=filled_at_s, lot=lot, is_drawdown=1
        )
        for asset in (0, 1, 7 * 10**7, 10**10)
        for halted_at_s, filled_at_s, lot in ((0, 0, 0), (at_s - 900, 0, 0), (at_s - 9_000, at_s - 1_800, 3 * 10**7))
    ]
    stacked = Vault(*(torch.tensor(column) for column in zip(*halted, strict=True)))
    count = len(halted)
    after = close_bar(stacked, torch.full((count,), close_e8), torch.full((count,), at_s + 1_800), terms)
    expected = [spot_vault.close_bar(v, close_e8, at_s + 1_800, terms) for v in halted]
    assert torch.stack(list(after), dim=1).tolist() == [list(v) for v in expected]
    assert sum(v.filled_at_s == at_s + 1_800 for v in expected) >= 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_an_accelerator_too(create_bars: CreateBars) -> None:
    bars = [create_bars(300, seed=1, step_bps=700), create_bars(260, seed=2, step_bps=200)]
    assert_equal_runs(replace(CONFIG, limits=TIGHT), bars, "cuda")


def test_wide_products_are_exact() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        c = rng.integers(1, 1 << 60, 64)
        a, b = rng.integers(0, 1 << 50, 64), rng.integers(0, 1 << 58, 64)
        a = np.minimum(a, (c.astype(object) * (1 << 61) // np.maximum(b, 1)).clip(max=1 << 50).astype(np.int64))
        found = mul_div_down(torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(c)).tolist()
        assert found == [int(x) * int(y) // int(z) for x, y, z in zip(a, b, c, strict=True)]


def test_random_bits_are_those_of_the_plain_source() -> None:
    from offchain_rl.episode import random_bits as plain

    index, count = torch.arange(50), torch.arange(50) * 7
    for seed in (0, 1, (1 << 53) - 1):
        expected = [plain(seed, i, c) for i, c in zip(index.tolist(), count.tolist(), strict=True)]
        assert random_bits(seed, index, count).tolist() == expected
