"""The economy simulation is what it says: real books, honest twins, repeatable; `make economy` has the figures.

A few agents for two weeks on two price paths: enough to see each cheat act, far too few to measure what it earns.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.economy.__main__ import main
from benchmarks.economy.paths import GAP, draw, load_source
from benchmarks.economy.report import (
    KNOWN_TO_PAY,
    Estimate,
    break_even,
    compute_report,
    estimate,
    format_table,
    summary,
    to_json,
)
from benchmarks.economy.simulate import ROLES, TWINS, Config, Outcome, simulate

SMALL = Config(epochs=2, fair_assets=2, gap_assets=1, drift_assets=0, seeds=1)
DOCS = Path(__file__).parents[2] / "docs" / "economy.md"


def play() -> list[Outcome]:
    return simulate(SMALL, load_source(None, np.random.default_rng([1])), 7, lambda step: None)


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return play()


def pairs(outcomes: list[Outcome], cheat: str) -> list[tuple[Outcome, Outcome]]:
    """(cheat, honest twin) on each fair path."""
    twins = {(o.path, o.seed): o for o in outcomes if o.kind == TWINS[cheat] and o.market == "fair"}
    found = [(o, twins[o.path, o.seed]) for o in outcomes if o.kind == cheat]
    assert len(found) == SMALL.fair_assets * SMALL.seeds
    return found


def test_the_same_seed_gives_the_same_figures_to_the_last_digit(outcomes: list[Outcome]) -> None:
    again = play()
    assert again == outcomes
    assert to_json(compute_report(again), {}) == to_json(compute_report(outcomes), {})


def test_every_kind_of_cheat_has_acted_beside_a_twin(outcomes: list[Outcome]) -> None:
    for cheat in ROLES:
        for acted, twin in pairs(outcomes, cheat):
            assert acted.transactions["trade"] > 0
            assert twin.transactions.keys() == {"trade"}


@pytest.mark.parametrize("cheat", ["donates before the window", "its only observer", "takes its bond out"])
def test_what_moves_no_position_moves_no_reward(outcomes: list[Outcome], cheat: str) -> None:
    for acted, twin in pairs(outcomes, cheat):
        assert (acted.tokens, acted.dao) == (twin.tokens, twin.dao)


def test_a_gift_is_lost_to_the_last_cent(outcomes: list[Outcome]) -> None:
    for acted, _ in pairs(outcomes, "donates before the window"):
        assert acted.dollars == pytest.approx(-500 * SMALL.epochs, abs=0.01)


def test_reward_is_bought_at_one_over_the_rate_at_the_best(outcomes: list[Outcome]) -> None:
    """Ten dollars a token, less what the vault's own trades cost its twin."""
    for acted, twin in pairs(outcomes, "buys reward with own money"):
        bought = (acted.tokens - acted.market_gain / 10) - (twin.tokens - twin.market_gain / 10)
        assert 0 < bought < -acted.dollars / 8


def test_where_somebody_reads_the_ledger_the_deposit_restores_what_was_taken(outcomes: list[Outcome]) -> None:
    caught = [acted for acted, _ in pairs(outcomes, "self-dealing, watched")]
    for acted in caught:
        assert acted.dollars <= 0.01
        assert acted.dao >= acted.market_gain - 0.01


def test_where_nobody_looks_self_dealing_takes_more_than_a_week_s_allowance(outcomes: list[Outcome]) -> None:
    for acted, twin in pairs(outcomes, "self-dealing, nobody looks"):
        assert acted.dollars > 1000
        assert acted.dao - acted.market_gain < twin.dao - twin.market_gain - 1000


def test_an_expected_value_comes_with_its_interval() -> None:
    assert estimate([2.0, 2.0, 2.0]) == Estimate(2.0, 0.0)
    found = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3.0
    assert found.half == pytest.approx(2.776 * np.std([1, 2, 3, 4, 5], ddof=1) / np.sqrt(5), rel=0.01)


def test_the_break_even_price_of_a_token_is_where_both_coins_cancel() -> None:
    sure = lambda mean: Estimate(mean, 0.0)  # noqa: E731
    assert break_even(sure(-100.0), sure(500.0)) == "below $5.00"
    assert break_even(sure(100.0), sure(-500.0)) == "above $5.00"
    assert break_even(sure(-1.0), sure(-1.0)) == "never"
    assert break_even(sure(1.0), sure(1.0)) == "always"
    assert break_even(Estimate(1.0, 2.0), sure(-1.0)) == "never"


def test_in_a_fair_market_the_expected_price_is_today_s() -> None:
    rng = np.random.default_rng(5)
    source = load_source(None, rng)
    for market, tolerance in (("fair", 3.0), ("gap", 8.0)):
        ends = [draw(source, market, 24 * 42, rng)[-1] for _ in range(3000)]
        assert np.mean(ends) == pytest.approx(100, abs=tolerance)


def test_a_gap_market_falls_between_two_hours() -> None:
    rng = np.random.default_rng(5)
    source = load_source(None, rng)
    worst = min(np.min(path[1:] / path[:-1]) for path in (draw(source, "gap", 24 * 365, rng) for _ in range(5)))
    assert worst < 1 - GAP + 0.1


def test_what_pays_and_was_not_known_to_is_a_surprise(outcomes: list[Outcome]) -> None:
    kind = "its only observer"
    gifts = [replace(o, dollars=1000.0) if o.kind == kind else o for o in outcomes]
    assert kind not in compute_report(outcomes).surprises()
    assert kind in compute_report(gifts).surprises()


def test_the_command_prints_a_table_and_writes_json_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, picture = tmp_path / "economy.json", tmp_path / "economy.png"
    with pytest.raises(SystemExit) as ended:
        main(["--quick", "--workers", "1", "--json", str(figures), "--picture", str(picture)])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1].startswith("economy: ")
    assert all(kind in said for kind in ROLES)
    assert {row["kind"] for row in json.loads(figures.read_text())["cheats"]} == set(ROLES)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_document_names_every_kind_and_owns_up_to_what_pays(outcomes: list[Outcome]) -> None:
    text = DOCS.read_text(encoding="utf-8")
    report = compute_report(outcomes)
    for row in report.cheats + report.gamblers:
        assert row.kind in text
    for kind in KNOWN_TO_PAY:
        assert f"**{kind}**" in text
    assert format_table(report).count("\n") > 20
    assert summary(report).startswith("economy: ")
