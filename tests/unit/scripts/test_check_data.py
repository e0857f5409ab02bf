"""`ape run check_data`: a table for people, JSON for machines, and exit code 1 for what training would refuse."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from agents.commands.check_data import cli
from tests.unit.scripts.conftest import Refuse
from tests.unit.scripts.test_train import BAR_S, START_S, write_bars


def test_a_file_that_can_not_be_read_is_a_sentence(tmp_path: Path, refuse: Refuse):
    assert "No such file" in refuse(cli, str(tmp_path / "nothing.csv"))
    (tmp_path / "empty.csv").write_text("")
    assert refuse(cli, str(tmp_path / "empty.csv")) == "empty.csv: the file is empty"


def test_what_training_would_refuse_is_shown_and_ends_with_exit_code_1(tmp_path: Path):
    path = write_bars(tmp_path / "bars.csv", line_100=f"{START_S + BAR_S * 99},2000,900000,2000,900000")
    result = CliRunner(mix_stderr=False).invoke(cli, [str(path), "--json"])
    assert result.exit_code == 1
    [report] = json.loads(result.stdout)
    assert (report["source"], report["verdict"]) == ("bars.csv", "fail")
    [failed] = [check for check in report["checks"] if check["verdict"] == "fail"]
    assert (failed["check"], failed["rows"]) == ("outliers", [100, 101])


def test_a_series_in_good_order_is_a_table_with_every_check(tmp_path: Path):
    result = CliRunner(mix_stderr=False).invoke(cli, [str(write_bars(tmp_path / "bars.csv"))])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("bars.csv: 900 bars, pass")
    for check in ("time", "prices", "high and low", "gaps", "outliers", "stillness"):
        assert f"│ {check} " in result.stdout


def test_of_a_history_of_rounds_both_the_rounds_and_their_bars_are_checked(tmp_path: Path):
    lines = [f"{i},{2000 * 10**8 + i % 7},{3600 * i},{3600 * i},{i}" for i in range(1, 200) if i != 50]
    path = tmp_path / "feed.csv"
    path.write_text("\n".join(["roundId,answer,startedAt,updatedAt,answeredInRound", *lines]))
    result = CliRunner(mix_stderr=False).invoke(cli, [str(path), "--json", "--max-round-age-s", "3700"])
    rounds, bars = json.loads(result.stdout)
    warned = {check["check"]: check["rows"] for check in rounds["checks"] if check["verdict"] == "warn"}
    assert warned == {"ages": [50], "round numbers": [50]}
    assert bars["rows"] > rounds["rows"]
