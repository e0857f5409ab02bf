"""`ape run retrain`: a dry run over real networks, and one sentence for what can't be."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from agents.commands import retrain
from offchain_rl.canaries import MarketSize, random_walk
from tests.unit.scripts.conftest import Refuse


def test_what_can_not_be_is_refused(tmp_path: Path, refuse: Refuse):
    assert "has no champion before the present one" in refuse(retrain.cli, str(tmp_path / "a"), "--rollback")
    assert "seeds is 0, expected at least 1" in refuse(retrain.cli, str(tmp_path / "a"), "--seeds", "0")
    absent = str(tmp_path / "absent.csv")
    assert "absent.csv" in refuse(retrain.cli, str(tmp_path / "a"), "--data", absent)


def test_a_dry_run_trains_and_decides_and_leaves_its_trial_only(tmp_path: Path):
    bars = random_walk(4, MarketSize(days=670))
    rows = zip(bars.timestamps_s, bars.open_e8, bars.high_e8, bars.low_e8, bars.close_e8, strict=True)
    lines = [f"{t},{o / 1e8:.8f},{h / 1e8:.8f},{low / 1e8:.8f},{c / 1e8:.8f}" for t, o, h, low, c in rows]
    (tmp_path / "p.csv").write_text("timestamp,open,high,low,close\n" + "\n".join(lines) + "\n")
    options = ["--now", str(bars.end_s), "--train-days", "360", "--window-days", "185", "--steps", "8192"]
    arguments = [str(tmp_path / "a"), "--data", str(tmp_path / "p.csv"), *options, "--seeds", "1", "--dry-run"]
    done = CliRunner(mix_stderr=False).invoke(retrain.cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["decision"], answer["champion_kind"], answer["is_dry_run"]) == ("kept", "hold", True)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"history.jsonl", "lock"}
    lines = (tmp_path / "a" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["trying", "tried"]
