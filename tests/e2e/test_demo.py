"""The demo, short and in process: what it promises holds on any prices, and on py-evm."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agents.commands.demo import cli

BARS = 90
HISTORY = 780


def write_prices(path: Path, *, bars: int = HISTORY + BARS, drop: int | None = None, bad: str | None = None) -> Path:
    """Half-hour bars that rise and then fall."""
    walk, price = random.Random(7), 2000.0
    lines = ["timestamp,open,high,low,close,volume"]
    for i in range(bars):
        before, price = price, price * (1 + walk.gauss(0.0004 if i < HISTORY + 70 else -0.02, 0.004))
        stamp = datetime.fromtimestamp(1_600_000_200 + 1800 * i, tz=UTC).isoformat()
        close = bad if bad is not None and i == drop else f"{price:.2f}"
        if drop == i and bad is None:
            continue
        lines.append(f"{stamp},{before:.2f},{max(before, price):.2f},{min(before, price):.2f},{close},1")
    path.write_text("\n".join(lines) + "\n")
    return path


def run_demo(out: Path, prices: Path, *more: str) -> Any:
    options = ["--bars", str(BARS), "--data", str(prices), "--train-steps", "8192", "--out", str(out), *more]
    return CliRunner().invoke(cli, options)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: write_prices(p, drop=500, bad="nan"), "502"),
        (lambda p: write_prices(p, drop=500, bad="-5"), "502"),
        (lambda p: write_prices(p, bars=300), "bars"),
        (lambda p: p.with_name("absent.csv"), "absent.csv"),
    ],
    ids=["nan", "negative", "too short", "no file"],
)
def test_bad_prices_end_in_one_sentence_that_names_the_file_or_row(make: Any, says: str, tmp_path: Path) -> None:
    result = run_demo(tmp_path / "out", make(tmp_path / "prices.csv"))
    assert result.exit_code == 1
    assert says in result.output
    assert "Traceback" not in result.output


def test_more_bars_than_there_are_is_refused_with_the_way_out(tmp_path: Path) -> None:
    result = run_demo(tmp_path / "out", write_prices(tmp_path / "prices.csv"), "--bars", "5000")
    assert result.exit_code == 1
    assert "--bars" in result.output


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two runs with one seed: on whatever is fastest here, and in process."""
    folder = tmp_path_factory.mktemp("demo")
    prices = write_prices(folder / "prices.csv")
    found = []
    for name, kind in (("a", "auto"), ("b", "py-evm")):
        result = run_demo(folder / name, prices, "--evm", kind)
        assert result.exit_code == 0, result.output
        assert (folder / name / "demo.png").stat().st_size > 10_000
        found.append(json.loads((folder / name / "report.json").read_text()))
    return found


def test_two_runs_with_one_seed_give_the_same_report_on_either_evm(reports: list[dict[str, Any]]) -> None:
    first, second = ({k: v for k, v in r.items() if k not in ("timing", "evm")} for r in reports)
    assert first == second
    assert reports[1]["evm"] == "py-evm"


def test_votes_were_counted_on_both_ways_and_one_proposal_was_voted_down(reports: list[dict[str, Any]]) -> None:
    report = reports[0]
    assert report["votes"]["direct"] > 0
    assert report["votes"]["by_signature"] == 2 * report["votes"]["direct"]
    assert [p["state"] for p in report["proposals"]].count("Defeated") == 1


def test_every_explained_trade_holds_and_the_rogue_s_are_unexplained(reports: list[dict[str, Any]]) -> None:
    report = reports[0]
    assert report["audit"]["checked"] > 0
    assert report["audit"]["failed"] == 0
    rogue = next(s for s in report["strategies"] if s["kind"] == "rogue")
    assert report["audit"]["unexplained"] == rogue["trades"]
    assert report["trades"] == report["audit"]["checked"] + rogue["trades"]


def test_the_intervals_of_all_decisions_are_scored(reports: list[dict[str, Any]]) -> None:
    """Too few decisions for a verdict, and each is accounted for."""
    found = reports[0]["intervals"]
    counted = sum(found[name] for name in ("without", "repeated", "pending", "unpriced"))
    assert found["explanations"] == counted + found["score"]["rows"]
    assert found["explanations"] >= reports[0]["audit"]["checked"]
    assert found["score"]["rows"] > 0
    assert 0 < found["score"]["mean_width_bps"] < 1000


def test_the_rogue_met_the_clauses_that_need_no_luck(reports: list[dict[str, Any]]) -> None:
    assert reports[0]["refusals"].keys() >= {
        "VaultNotSigningKey", "VaultDeadlinePassed", "VaultWrongNonce", "VaultWrongArtefact", "VaultUnexplained",
        "VaultZeroAmount", "VaultUnknownAsset", "VaultInsufficientHoldings", "VaultSlippageExceeded",
    }  # fmt: skip
