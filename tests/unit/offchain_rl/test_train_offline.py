"""Logged steps are checked before anything is learnt from them; what is learnt beats the behaviour that made them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offchain_rl.artefact import ActionSpec, Artefact, load, save
from offchain_rl.backtest import BacktestConfig, run_backtest
from offchain_rl.logged_steps import (
    BadSteps,
    LogConfig,
    LoggedSteps,
    join_steps,
    load_steps,
    log_runs,
    vector_of,
)
from offchain_rl.observation import BadObservation, ObservationSpec
from offchain_rl.policy import BuyAndHold, ConstantWeight, MovingAverageRule, Policy
from offchain_rl.prices import Bars
from offchain_rl.quantise import quantise
from offchain_rl.spot_vault import UNLIMITED, Limits
from offchain_rl.train_offline import (
    METHODS,
    OfflineConfig,
    actor_weights,
    build_algorithm,
    find_behaviour,
    float_weights_bps,
    main,
    train,
)
from tests.unit.offchain_rl.conftest import START_S, CreateBars

ROOT = Path(__file__).resolve().parents[3]
SPEC = ObservationSpec(lookback=17, vol_window=16, features=("return_z:4", "return_z:8", "weight", "drawdown"))
ACTION = ActionSpec(max_weight_bps=5000, deadband_bps=300)
FREE = BacktestConfig(limits=UNLIMITED)
LOG = LogConfig(backtest=FREE, episode_steps=50, bars_per_step=4, explore_bps=5000, passes=2)
SHORT = OfflineConfig(gradient_steps=60, batch_size=32)


def planted(bars: int, seed: int) -> Bars:
    """Every four bars the drift keeps its direction with probability 0.8: the last four bars tell it."""
    rng = np.random.default_rng(seed)
    turns = np.where(rng.random(bars // 4 + 1) < 0.8, 1, -1)
    drift = np.repeat(np.cumprod(turns), 4)[:bars] * 0.006
    close = (2000e8 * np.exp(np.cumsum(drift + rng.normal(size=bars) * 0.006))).astype(np.int64)
    opens = np.concatenate([close[:1], close[:-1]])
    return Bars(
        source=f"planted {seed}", bar_s=1800, timestamps_s=START_S + 1800 * np.arange(bars), open_e8=opens,
        high_e8=np.maximum(opens, close), low_e8=np.minimum(opens, close), close_e8=close,
    )  # fmt: skip


def make_steps(**over: Any) -> LoggedSteps:
    """Two vaults, three steps and two."""
    fields: dict[str, Any] = {
        "source": "notes", "spec": SPEC, "action": ACTION, "step_s": 7200, "vaults": ("a", "b"),
        "vault_of": np.array([0, 0, 0, 1, 1]), "times_s": np.array([0, 7200, 21600, 0, 7200]),
        "observations": np.arange(20).reshape(5, 4), "weights_bps": np.array([0, 2500, 5000, 100, 200]),
        "rewards": np.array([0.1, 0.2, 0.0, -0.1, -0.2]), "is_terminal": np.array([False, False, False, False, True]),
        "is_timeout": np.array([False, False, True, False, False]),
    }  # fmt: skip
    return LoggedSteps(**fields | over)


def mean_reward_bps(policy: Policy, bars: Bars) -> float:
    """Of a decision, without exploring."""
    return float(log_runs(policy, bars, replace(LOG, explore_bps=0, passes=1)).rewards.mean() * 10_000)


@pytest.fixture(scope="module")
def behaved() -> LoggedSteps:
    """A behaviour that knows nothing: it holds a quarter, and half of the time anything."""
    return log_runs(ConstantWeight(SPEC, ACTION, 2500), planted(9000, 11), LOG)


# Refusals


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"rewards": np.array([0.1, np.nan, 0.0, 0.0, 0.0])}, r"row 1 \(vault a, 7200 s\): the reward is nan"),
        ({"rewards": np.array([0.1, np.inf, 0.0, 0.0, 0.0])}, r"row 1 .* the reward is inf"),
        ({"times_s": np.array([0, 21600, 7200, 0, 7200])}, r"row 2 \(vault a, 7200 s\): the step comes before"),
        ({"times_s": np.array([0, 7200, 7200, 0, 7200])}, r"row 2 \(vault a, 7200 s\): the step is there twice"),
        ({"vault_of": np.array([0, 1, 0, 1, 1])}, "the steps of a vault do not follow each other; sort them"),
        ({"vault_of": np.array([0, 0, 0, 2, 2])}, "vault_of has a number outside the 2 vaults"),
        ({"vaults": ("a", "a")}, "vault a is named twice"),
        ({"weights_bps": np.array([0, 5001, 0, 0, 0])}, r"row 1 .* a weight of 5001 bps, allowed are 0 to 5000"),
        ({"weights_bps": np.array([0, -1, 0, 0, 0])}, r"row 1 .* a weight of -1 bps"),
        ({"is_timeout": np.array([False] * 5)}, r"row 2 .* last step is terminal or a timeout, this one is neither"),
        ({"is_timeout": np.array([False, False, True, False, True])}, r"row 4 .* terminal or a timeout, not both"),
        ({"observations": np.arange(15).reshape(5, 3)}, r"observations has shape \(5, 3\), expected \(5, 4\)"),
        ({"observations": np.full((5, 4), 40_000)}, "observations has a number outside -32768 to 32767"),
        ({"observations": np.full((5, 4), np.nan)}, "observations has numbers of type float64, expected integers"),
        ({"times_s": np.array([0.0, np.nan, 2.0, 0.0, 1.0])}, "times_s has numbers of type float64"),
        ({"is_terminal": np.zeros(5)}, "is_terminal has values of type float64, expected true and false"),
        ({"rewards": np.zeros(4)}, r"rewards has shape \(4,\), expected \(5,\)"),
        ({"step_s": 0}, "step_s is 0, expected a positive number of seconds"),
    ],
)
def test_steps_that_can_not_be_true_are_refused_in_one_sentence(over: dict[str, Any], says: str) -> None:
    with pytest.raises(BadSteps, match=says):
        make_steps(**over)


def test_no_steps_are_refused() -> None:
    empty = {name: getattr(make_steps(), name)[:0] for name in ("vault_of", "times_s", "observations", "weights_bps")}
    more = {name: getattr(make_steps(), name)[:0] for name in ("rewards", "is_terminal", "is_timeout")}
    with pytest.raises(BadSteps, match="notes: there are no steps"):
        make_steps(**empty, **more)


def test_steps_that_lead_nowhere_are_refused_by_the_trainer() -> None:
    with pytest.raises(BadSteps, match="notes: not one step has a next one"):
        train(make_steps(is_terminal=np.zeros(5, dtype=bool), is_timeout=np.ones(5, dtype=bool)), SHORT)


def test_logs_of_different_observations_are_not_mixed() -> None:
    with pytest.raises(BadSteps, match="other has another observation than notes: train on logs of one kind"):
        join_steps([make_steps(), make_steps(source="other", vaults=("c", "d"), spec=replace(SPEC, vol_window=8))])
    with pytest.raises(BadSteps, match="another time between decisions"):
        join_steps([make_steps(), make_steps(vaults=("c", "d"), step_s=1800)])
    with pytest.raises(BadSteps, match="another action"):
        join_steps([make_steps(), make_steps(vaults=("c", "d"), action=ActionSpec(max_weight_bps=6000))])
    with pytest.raises(BadSteps, match="there are no steps to join"):
        join_steps([])


def test_unknown_and_missing_features_are_named() -> None:
    numbers = dict.fromkeys(SPEC.features, "1")
    with pytest.raises(BadSteps, match="here: the observation has the unknown moon_phase; the spec has return_z:4"):
        vector_of(numbers | {"moon_phase": "1"}, SPEC, "here")
    with pytest.raises(BadSteps, match="lacks weight"):
        vector_of({key: value for key, value in numbers.items() if key != "weight"}, SPEC, "here")
    with pytest.raises(BadSteps, match="a feature is not an integer"):
        vector_of(numbers | {"weight": "nan"}, SPEC, "here")
    with pytest.raises(BadSteps, match="does not fit an int16"):
        vector_of(numbers | {"weight": "32768"}, SPEC, "here")


def rewrite(path: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    with zipfile.ZipFile(path) as archive:
        contents = {item: archive.read(item) for item in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for item, content in contents.items():
            archive.writestr(item, change(content) if item == f"{name}.npy" else content)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("rewards", lambda content: content[:-1] + b"\x01", "the steps hash to 0x"),
        ("header", lambda content: content.replace(b"return_z:4", b"return_y:4"), "unknown feature 'return_y'"),
        ("header", lambda content: content.replace(b"logged-steps", b"logged-stepz"), "not a file of logged steps"),
        ("header", lambda content: content.replace(b'"version": 1', b'"version": 7', 1), "version"),
        ("header", lambda content: content.replace(b'{"action"', b'["action"'), "not a file of logged steps"),
    ],
)
def test_a_file_that_was_changed_is_refused(tmp_path: Path, name: str, change: Any, says: str) -> None:
    path = tmp_path / "a.steps.npz"
    make_steps().save(path)
    rewrite(path, name, change)
    with pytest.raises(BadSteps, match=says) as refusal:
        load_steps(path)
    assert str(path) in str(refusal.value)


def test_what_is_no_such_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.steps.npz"
    with pytest.raises(BadSteps, match=r"a\.steps\.npz can't be read"):
        load_steps(path)
    path.write_bytes(b"prices")
    with pytest.raises(BadSteps, match=r"a\.steps\.npz can't be read"):
        load_steps(path)
    np.savez(path.with_suffix(""), a=np.zeros(3))
    with pytest.raises(BadSteps, match=r"has no .*header"):
        load_steps(path)
    path.unlink()
    with pytest.raises(BadSteps, match=r"has no file that ends in \.steps\.npz"):
        load_steps(tmp_path)


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"method": "cql"}, "method is one of td3_bc, iql, awac, bc, not 'cql'"),
        ({"gradient_steps": 0}, "at least 1"),
        ({"hidden": (16, 0)}, "at least 1"),
        ({"seed": -1}, "seed lies between"),
        ({"gamma": 1.0}, "gamma lies between 0 and 1"),
        ({"reward_scale": float("nan")}, "reward_scale is nan, expected a positive number"),
    ],
)
def test_an_impossible_configuration_is_refused(over: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        OfflineConfig(**over)


def test_an_impossible_log_is_refused(create_bars: CreateBars) -> None:
    with pytest.raises(ValueError, match="explore_bps lies between"):
        LogConfig(explore_bps=10_001)
    with pytest.raises(ValueError, match="at least 1"):
        LogConfig(passes=0)
    with pytest.raises(BadObservation, match="random walk: 200 bars, a logged run needs 218"):
        log_runs(ConstantWeight(SPEC, ACTION), create_bars(200), LOG)


def test_weights_that_are_not_finite_become_no_artefact() -> None:
    algorithm = build_algorithm(SHORT)
    algorithm.create_impl((4,), 1)
    list(algorithm.impl.modules.policy.parameters())[-1].data[0] = float("nan")
    with pytest.raises(ValueError, match="not finite; training has diverged: lower the learning rates"):
        actor_weights(algorithm)


def test_a_missing_library_is_named_with_the_way_to_install_it() -> None:
    program = "import sys; sys.modules['d3rlpy'] = None; from offchain_rl.train_offline import main; sys.exit(main([]))"
    done = run_program(program)
    assert (done.returncode, done.stderr) == (1, "offline training needs d3rlpy and torch: pip install -e '.[rl]'\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["behaviour"], "--behaviour behaviour: name moving_average, artefact FILE or ledger FOLDER"),
        (["artefact"], "name moving_average, artefact FILE or ledger FOLDER"),
        (["ledger", "nowhere"], "nowhere can't be read"),
    ],
)
def test_a_behaviour_that_there_is_not_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(BadSteps, match=says):
        find_behaviour(words, 1800)


def test_a_rule_an_artefact_and_a_ledger_can_be_learnt_from(behaved: LoggedSteps, tmp_path: Path) -> None:
    fields = {"kind": "constant", "observation": SPEC, "parameters": {"weight_bps": 2500}}
    save(Artefact(name="half", **fields, provenance={"data": [{"end_s": 1_600_000_000}]}), tmp_path / "a.json")
    save(Artefact(name="unknown", **fields), tmp_path / "b.json")
    with pytest.raises(BadObservation, match="artefact unknown does not say which bars it was made from"):
        find_behaviour(["artefact", str(tmp_path / "b.json")], 1800)
    assert find_behaviour(["artefact", str(tmp_path / "a.json")], 1800).seen_until_s == 1_600_000_000
    behaved.save(tmp_path / "a.steps.npz")
    assert isinstance(find_behaviour(["moving_average"], 1800).policy, MovingAverageRule)
    artefact, bars = find_behaviour(["artefact", str(tmp_path / "a.json")], 1800), planted(900, 1)
    assert artefact.log([bars], replace(LOG, explore_bps=0)).weights_bps.tolist()[:2] == [2500, 2500]
    ledger = find_behaviour(["ledger", str(tmp_path)], 1800)
    assert ledger.log([bars], LOG).times_s.max() <= bars.end_s, "what comes after the train bars is not known"


# The log


def test_steps_join_and_become_transitions() -> None:
    """A timeout teaches nothing, a terminal step has no next one, and time between steps is counted."""
    both = join_steps([make_steps(), make_steps(vaults=("c", "d"))])
    assert (len(both), both.vaults, both.vault_of[5:].tolist()) == (10, ("a", "b", "c", "d"), [2, 2, 2, 3, 3])
    found = make_steps().transitions()
    assert found.observations[:, 0].tolist() == pytest.approx([0, 4 / 4096, 12 / 4096, 16 / 4096])
    assert found.next_observations[:, 0].tolist() == pytest.approx([4 / 4096, 8 / 4096, 16 / 4096, 16 / 4096])
    assert found.actions.tolist() == pytest.approx([-1.0, 0.0, -0.96, -0.92])
    assert found.next_actions.tolist() == pytest.approx([0.0, 1.0, -0.92, 0.0])
    assert found.is_terminal.tolist() == [0, 0, 0, 1]
    assert found.intervals.tolist() == [1, 2, 1, 1]


def test_what_was_not_over_yet_is_not_known() -> None:
    found = make_steps().until(10_000)
    assert found.times_s.tolist() == [0, 7200, 0, 7200]
    assert found.is_timeout.tolist() == [False, True, False, True]
    assert found.rewards.tolist() == [0.1, 0.0, -0.1, 0.0]
    assert make_steps().until(30_000).data_hash() == make_steps().data_hash()
    assert make_steps(times_s=np.array([0, 7200, 21600, 50_000, 60_000])).until(30_000).vaults == ("a",)
    with pytest.raises(BadSteps, match="no step was decided until -1 s"):
        make_steps().until(-1)


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    steps = make_steps()
    assert steps.save(tmp_path / "a.steps.npz") == steps.data_hash() == load_steps(tmp_path).data_hash()
    steps.save(tmp_path / "b.npz")
    assert (tmp_path / "a.steps.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert make_steps(rewards=np.array([0.1, 0.2, 0.0, -0.1, -0.3])).data_hash() != steps.data_hash()
    assert make_steps(vaults=("a", "c")).data_hash() != steps.data_hash()


def test_a_behaviour_that_never_explores_is_logged_as_its_backtest_ran(create_bars: CreateBars) -> None:
    """With a decision at every bar, the log's growth is the backtest's."""
    rule = MovingAverageRule(replace(SPEC, features=("ma_cross_z:2:8", "weight")), ACTION, feature="ma_cross_z:2:8")
    bars = create_bars(118)
    config = replace(LOG, episode_steps=100, bars_per_step=1, explore_bps=0, passes=1)
    steps = log_runs(rule, bars, config)
    run = run_backtest(rule, bars.slice(0, 118), FREE, start=16)
    values = np.array(run.values, dtype=float)
    plain = replace(config, reward=replace(config.reward, drawdown_weight=0.0))
    assert log_runs(rule, bars, plain).rewards[:-1] == pytest.approx(np.log(values[1:101] / values[:100]))
    assert set(steps.weights_bps.tolist()) == {0, 5000}
    assert steps.times_s[0] == bars.timestamps_s[16] + 1800
    assert (len(steps), steps.is_timeout.sum(), steps.is_timeout[-1]) == (101, 1, True)


def test_a_run_that_reaches_its_drawdown_ends_in_a_terminal_step(create_bars: CreateBars) -> None:
    falling = create_bars(400, step_bps=10, drift_bps=-30)
    limits = Limits(max_drawdown_bps=1000, max_daily_loss_bps=10_000)
    config = replace(LOG, backtest=BacktestConfig(limits=limits), explore_bps=0, passes=1)
    steps = log_runs(BuyAndHold(SPEC, ACTION), falling, config)
    assert steps.is_terminal[steps.times_s == steps.times_s[steps.vault_of == 0][-1]].all()
    assert steps.rewards[steps.is_terminal].max() < -config.reward.ruin_price
    assert not steps.is_timeout[steps.vault_of == 0].any()


def test_same_seed_logs_the_same_and_another_another(create_bars: CreateBars) -> None:
    bars, rule = create_bars(600), ConstantWeight(SPEC, ACTION, 2500)
    assert log_runs(rule, bars, LOG).data_hash() == log_runs(rule, bars, LOG).data_hash()
    assert log_runs(rule, bars, replace(LOG, seed=2)).data_hash() != log_runs(rule, bars, LOG).data_hash()


# Learning


def test_a_planted_signal_is_learnt_better_than_its_behaviour_and_its_clone_have_it(behaved: LoggedSteps) -> None:
    """On bars that nobody has seen. The behaviour loses: half of it is noise that pays fees."""
    unseen = planted(4000, 2)
    learnt = train(behaved, OfflineConfig(gradient_steps=500, batch_size=128))
    clone = train(behaved, OfflineConfig(method="bc", gradient_steps=300, batch_size=128))
    behaviour = mean_reward_bps(ConstantWeight(SPEC, ACTION, 2500), unseen)
    assert mean_reward_bps(clone.policy, unseen) < behaviour + 3
    assert mean_reward_bps(learnt.policy, unseen) > behaviour + 15
    assert learnt.artefact.provenance["integer_gap_bps"] <= 5
    assert learnt.artefact.provenance["method"] == "offline awac"
    assert learnt.artefact.provenance["data"][0]["data_hash"] == behaved.data_hash()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_a_policy_within_its_limits(behaved: LoggedSteps, method: str) -> None:
    events: list[dict[str, Any]] = []
    trained = train(behaved, replace(SHORT, method=method), log=events.append)
    wanted = trained.policy.wanted_weight_bps_array(behaved.observations.astype(np.int64))
    assert (trained.policy.spec, trained.policy.action) == (SPEC, ACTION)
    assert 0 <= wanted.min()
    assert wanted.max() <= ACTION.max_weight_bps
    assert [event["step"] for event in events] == list(range(6, 61, 6))
    assert json.loads(json.dumps(events)) == events


def test_the_artefact_is_the_actor_that_was_trained(behaved: LoggedSteps) -> None:
    """d3rlpy's own answer, the exported weights and the integers are the same decision."""
    algorithm = build_algorithm(SHORT)
    algorithm.create_impl((4,), 1)
    weights = actor_weights(algorithm)
    assert [weight.shape for weight, _ in weights] == [(16, 4), (16, 16), (1, 16)]
    own = algorithm.predict(behaved.observations.astype(np.float32) / 4096)[:, 0]
    assert float_weights_bps(weights, behaved) == pytest.approx(5000 * (1 + own) / 2, abs=0.01)
    assert len(quantise(weights, SPEC.scale_bits)) == 3


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False, timeout=120
    )


def test_same_seed_gives_the_same_artefact_in_another_process_and_another_seed_another(
    behaved: LoggedSteps, tmp_path: Path
) -> None:
    behaved.save(tmp_path / "a.steps.npz")
    program = (
        "from pathlib import Path\n"
        "from offchain_rl.logged_steps import load_steps\n"
        "from offchain_rl.train_offline import OfflineConfig, train\n"
        f"steps = load_steps(Path({str(tmp_path / 'a.steps.npz')!r}))\n"
        "print(train(steps, OfflineConfig(gradient_steps=60, batch_size=32)).artefact.artefact_hash)\n"
    )
    done = run_program(program)
    assert done.stderr == "", "neither gym's notice nor a log"
    here = train(load_steps(tmp_path / "a.steps.npz"), SHORT).artefact
    assert done.stdout == here.artefact_hash + "\n"
    assert train(behaved, replace(SHORT, seed=2)).artefact.parameters != here.parameters


# The command


def write_prices(path: Path, bars: Bars) -> Path:
    rows = zip(bars.timestamps_s, bars.open_e8, bars.high_e8, bars.low_e8, bars.close_e8, strict=True)
    lines = [f"{t},{o / 1e8:.8f},{h / 1e8:.8f},{low / 1e8:.8f},{c / 1e8:.8f}" for t, o, h, low, c in rows]
    path.write_text("timestamp,open,high,low,close\n" + "\n".join(lines) + "\n")
    return path


def test_the_command_learns_from_a_ledger_and_compares_with_cloning(
    behaved: LoggedSteps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trades").mkdir()
    logged = behaved.until(START_S + 1800 * 4000)
    logged.save(tmp_path / "trades" / "a.steps.npz")
    prices, out, log = write_prices(tmp_path / "p.csv", planted(4400, 11)), tmp_path / "out.json", tmp_path / "log"
    words = ["--behaviour", "ledger", str(tmp_path / "trades"), "--data", str(prices), "--out", str(out)]
    arguments = [*words, "--steps", "60", "--test-days", "3", "--log", str(log)]
    assert main(arguments) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("out of sample", "awac", "bc", load(out).artefact_hash))
    until_s = START_S + 1800 * load(out).report["train_bars"]
    assert until_s > logged.times_s.max(), "tested after the ledger's last step only"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert {event["event"] for event in events} == {"train", "fold"}


def test_the_command_answers_bad_input_with_one_sentence(
    behaved: LoggedSteps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    behaved.save(tmp_path / "a.steps.npz")
    early = replace(planted(900, 1), timestamps_s=START_S + 10**9 + 1800 * np.arange(900))
    prices = write_prices(tmp_path / "p.csv", early)
    ledger, other = ["--behaviour", "ledger", str(tmp_path)], tmp_path / "other.json"
    save(Artefact(name="other", kind="hold", observation=replace(SPEC, bar_s=600)), other)
    for arguments, says in (
        (["--data", str(tmp_path / "absent.csv")], "absent.csv"),
        (["--data", str(prices), *ledger], "begins after the ledger's last trade"),
        (["--data", str(prices), "--behaviour", "artefact", str(tmp_path / "absent.json")], "absent.json"),
        (["--data", str(prices), "--steps", "0"], "at least 1"),
        (["--data", str(prices), "--seeds", "0"], "--seeds 0: at least one"),
        (["--data", str(prices), "--behaviour", "artefact", str(other)], "bars of 600 s, p.csv has 1800 s"),
    ):
        assert main([*arguments, "--out", str(tmp_path / "out.json")]) == 1
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
