"""Voters are told what the artefact's verdict is, and what it lacks, unless it is a PASS."""

from __future__ import annotations

from typing import Any

import pytest

from agents.manifest import report_warnings
from offchain_rl.artefact import Artefact
from offchain_rl.observation import ObservationSpec
from offchain_rl.verdict import CHECKS, FAIL, NOT_ENOUGH_DATA, PASS, Check, Verdict


def artefact(**report: Any) -> Artefact:
    return Artefact(name="still", kind="hold", observation=ObservationSpec(), report=report)


def verdict(outcome: str, *refused: str) -> dict[str, Any]:
    checks = tuple(
        Check(name=name, outcome=outcome if name in refused else PASS, reason=f"{name} was looked at")
        for name in CHECKS
    )
    figures = {"days": 400, "trades": 50, "dsr_bps": 9_900, "pbo_bps": 100}
    return Verdict(outcome=outcome, checks=checks, figures=figures).to_dict()


def returns(policy: int, moving_average: int = 0, buy_and_hold: int = 0) -> dict[str, Any]:
    figures = {"policy": policy, "moving_average": moving_average, "buy_and_hold": buy_and_hold}
    return {name: {"total_return_bps": bps} for name, bps in figures.items()}


NO_VERDICT = "artefact still has no verdict: nobody has asked whether its results are more than luck"


@pytest.mark.parametrize(
    ("report", "warned"),
    [
        ({}, ["artefact still has no report: nobody has measured it out of sample"]),
        (returns(100), [NO_VERDICT]),
        ({"method": "hope"}, [NO_VERDICT]),
        (returns(-150, -200, -300), [NO_VERDICT, "out of sample, artefact still returned -1.5 %, holding cash 0.0 %"]),
        (
            {**returns(900), "verdict": verdict(FAIL, "deflated", "overfitting")},
            ["the verdict on artefact still is FAIL: deflated was looked at; overfitting was looked at"],
        ),
        (
            {**returns(900), "verdict": verdict(NOT_ENOUGH_DATA, "trades")},
            ["the verdict on artefact still is NOT ENOUGH DATA: trades was looked at"],
        ),
        ({"verdict": "good"}, ["artefact still: its verdict has not the form of one; do not count on it"]),
        (
            {"verdict": {**verdict(FAIL, "paths"), "outcome": PASS}},
            ["artefact still: its verdict says PASS, and its own check 'paths' did not pass; do not count on it"],
        ),
        ({**returns(-900), "verdict": verdict(PASS)}, []),
    ],
)
def test_voters_are_warned_unless_the_verdict_is_a_pass(report: dict[str, Any], warned: list[str]) -> None:
    assert report_warnings(artefact(**report)) == warned
