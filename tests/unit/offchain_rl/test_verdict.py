"""A PASS is hard to get: each test here takes one thing away from a strategy that deserves it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from offchain_rl.artefact import Artefact, canonical_bytes
from offchain_rl.observation import ObservationSpec
from offchain_rl.statistics import BadRecord, Trials
from offchain_rl.verdict import (
    CHECKS,
    DAY_S,
    FAIL,
    NOT_ENOUGH_DATA,
    PASS,
    PROCEDURE,
    Evidence,
    Verdict,
    judge,
    read_verdict,
    record_hash,
    trial_variance,
    verdict_warnings,
)

DAYS = 400
CreateEvidence = Callable[..., Evidence]


def returns(days: int, mean: float, seed: int, deviation: float = 0.01) -> np.ndarray:
    """Daily returns whose mean and deviation are exactly these."""
    drawn = np.random.default_rng(seed).standard_normal(days)
    return (drawn - drawn.mean()) / drawn.std(ddof=1) * deviation + mean


def create_evidence(
    *, mean: float = 0.003, seed_means: tuple[float, ...] = (0.003, 0.003), days: int = DAYS, **changed: Any
) -> Evidence:
    """A strategy with a yearly Sharpe ratio of 5.7 on each of three seeds, and a market without any."""
    times = np.arange(1, days + 1) * DAY_S
    columns = {"ppo 1": returns(days, mean, 1)}
    columns |= {f"ppo {k + 2}": returns(days, one, k + 2) for k, one in enumerate(seed_means)}
    baselines = {"buy and hold": returns(days, 0.0002, 91, 0.03), "moving average": returns(days, -0.0001, 92)}
    fields: dict[str, Any] = {
        "source": "made up",
        "trials": Trials(times, columns),
        "chosen": "ppo 1",
        "seeds": tuple(columns),
        "baselines": Trials(times, baselines),
        "trials_made": 12,
        "trades": 200,
        "max_drawdown_bps": 900,
        "drawdown_limit_bps": 2000,
    }
    return Evidence(**{**fields, **changed})


def outcomes(verdict: Verdict) -> dict[str, str]:
    return {check.name: check.outcome for check in verdict.checks}


# Not a PASS


@pytest.mark.parametrize(
    ("changed", "outcome", "check", "says"),
    [
        ({"days": 179}, NOT_ENOUGH_DATA, "days", "the record out of sample has 179 days, 180 are needed"),
        ({"trades": 29}, NOT_ENOUGH_DATA, "trades", "made 29 trades, 30 are needed"),
        ({"seeds": ("ppo 1", "ppo 2")}, NOT_ENOUGH_DATA, "seeds", "trained with 2 seeds, 3 are needed"),
        ({"max_drawdown_bps": 2001}, FAIL, "drawdown", "from a peak is 20.01 %, the limit is 20.0 %"),
        ({"mean": 0.0004, "seed_means": (0.0004, 0.0004)}, FAIL, "deflated", "best of 12 trials shows by luck"),
        ({"mean": -0.002, "seed_means": (-0.002, -0.002)}, FAIL, "cash", "cash returns 0.0 %"),
        ({"seed_means": (0.003, 0.0014)}, FAIL, "seeds_agree", "with its worst seed the Sharpe ratio is"),
        ({"paths": (1.0, 0.5, 0.2, -0.1, -0.3)}, FAIL, "paths", "60.0 % of 5 paths"),
        ({"needs_paths": True}, NOT_ENOUGH_DATA, "paths", "cross-validation is missing: the record is too short"),
        ({"trials_made": 10**9}, FAIL, "deflated", "the best of 1000000000 trials"),
    ],
)
def test_one_thing_missing_is_not_a_pass(changed: dict[str, Any], outcome: str, check: str, says: str) -> None:
    if check == "deflated" and "trials_made" in changed:
        changed = {**changed, "mean": 0.0022, "seed_means": (0.0022, 0.0022)}
    verdict = judge(create_evidence(**changed))
    assert verdict.outcome == outcome
    assert outcomes(verdict)[check] == outcome
    assert any(says in reason for reason in verdict.reasons), verdict.reasons


def test_a_strategy_that_is_its_market_fails_however_much_it_earned() -> None:
    """Half of a coin that rose: profit, a high Sharpe ratio, and nothing that holding would not have done."""
    market = returns(DAYS, 0.006, 5, 0.02)
    times = np.arange(1, DAYS + 1) * DAY_S
    evidence = create_evidence(
        trials=Trials(times, {"half": market / 2}), chosen="half", seeds=(), is_trained=False,
        baselines=Trials(times, {"buy and hold": market}), trials_made=1,
    )  # fmt: skip
    verdict = judge(evidence)
    assert verdict.outcome == FAIL
    assert outcomes(verdict)["cash"] == outcomes(verdict)["deflated"] == PASS
    assert outcomes(verdict)["baselines"] == FAIL
    assert any("less that of buy and hold is" in reason for reason in verdict.reasons)


def test_every_baseline_has_to_be_beaten_not_the_mean_of_them() -> None:
    evidence = create_evidence()
    good = evidence.baselines.joined(Trials(evidence.baselines.times_s, {"a good rule": returns(DAYS, 0.0028, 93)}))
    verdict = judge(create_evidence(baselines=good))
    assert verdict.outcome == FAIL
    assert any("that of a good rule" in reason for reason in verdict.reasons)


def test_the_best_of_many_that_are_alike_is_overfitted() -> None:
    times = np.arange(1, DAYS + 1) * DAY_S
    matrix = np.random.default_rng(3).standard_normal((DAYS, 60)) * 0.01
    best = int(matrix.mean(axis=0).argmax())
    trials = Trials(times, {f"t{k}": matrix[:, k] for k in range(60)})
    verdict = judge(
        create_evidence(trials=trials, chosen=f"t{best}", seeds=(), is_trained=False, trials_made=60)
    )
    assert verdict.outcome == FAIL
    assert outcomes(verdict)["overfitting"] == outcomes(verdict)["deflated"] == FAIL


def test_too_short_a_record_is_not_judged_but_a_breached_limit_is() -> None:
    short = judge(create_evidence(days=60))
    assert short.outcome == NOT_ENOUGH_DATA
    assert set(outcomes(short)) == set(CHECKS[:4])
    assert judge(create_evidence(days=60, max_drawdown_bps=2500)).outcome == FAIL


def test_a_promising_record_asks_for_more_data_and_a_poor_one_does_not() -> None:
    promising = judge(create_evidence(mean=0.0016, seed_means=(0.0016, 0.0016)))
    assert promising.outcome == NOT_ENOUGH_DATA
    assert promising.figures["track_record_needed"] <= 2 * DAYS
    assert judge(create_evidence(mean=0.001, seed_means=(0.001, 0.001))).outcome == FAIL


# Counting trials


def test_trials_left_out_do_not_make_the_benchmark_lower() -> None:
    all_recorded = create_evidence(trials_made=3)
    variance, is_measured = trial_variance(all_recorded)
    assert (variance, is_measured) == (1 / (DAYS - 1), False)
    benchmarks = [
        judge(create_evidence(trials_made=made)).figures["benchmark_sharpe_e2"] for made in (3, 4, 12, 1000)
    ]
    assert benchmarks == sorted(benchmarks)
    assert benchmarks[-1] > 2 * benchmarks[0]


def test_the_variance_is_never_below_that_of_luck_however_many_trials_are_alike() -> None:
    times = np.arange(1, DAYS + 1) * DAY_S
    alike = {f"t{k}": returns(DAYS, 0.003, 1) + 1e-5 * k for k in range(10)}
    evidence = create_evidence(trials=Trials(times, alike), chosen="t0", seeds=(), is_trained=False, trials_made=10)
    assert trial_variance(evidence) == (1 / (DAYS - 1), True)
    hidden = create_evidence(trials=Trials(times, alike), chosen="t0", seeds=(), is_trained=False, trials_made=11)
    assert trial_variance(hidden) == (1 / (DAYS - 1), False)
    wide = {f"t{k}": returns(DAYS, 0.003 * k, k) for k in range(10)}
    spread = create_evidence(trials=Trials(times, wide), chosen="t9", seeds=(), is_trained=False, trials_made=10)
    assert trial_variance(spread)[0] > 1 / (DAYS - 1)


def test_trials_that_do_nothing_help_nobody() -> None:
    """The best of forty without skill, and then the same with a thousand records of almost nothing beside it."""
    times = np.arange(1, DAYS + 1) * DAY_S
    columns = {f"t{k}": returns(DAYS, 0.0, k) for k in range(40)}
    best = max(columns, key=lambda name: columns[name].mean() / columns[name].std())
    nothing = np.where(np.arange(DAYS) % 2, 1e-4, -1e-4) - 1e-6
    padded = columns | {f"nothing {k}": nothing for k in range(1_000)}
    fields = {"chosen": best, "seeds": (), "is_trained": False}
    honest = judge(create_evidence(trials=Trials(times, columns), trials_made=40, **fields)).figures
    shown = judge(create_evidence(trials=Trials(times, padded), trials_made=1_040, **fields)).figures
    assert shown["dsr_bps"] < honest["dsr_bps"]
    assert shown["pbo_bps"] >= honest["pbo_bps"] - 100


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"trials_made": 2}, "2 trials made, and 3 have a record"),
        ({"chosen": "ppo 9"}, "no record of 'ppo 9'"),
        ({"seeds": ("ppo 2", "ppo 3")}, "'ppo 1' is judged and is not one of its own seeds"),
        ({"baselines": Trials([1, 2], {"buy and hold": [0.0, 0.0]})}, "record of the same periods"),
    ],
)
def test_evidence_that_contradicts_itself_is_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRecord, match=says):
        create_evidence(**changed)


# PASS


def test_a_strategy_that_deserves_it_passes_and_says_what_that_rests_on() -> None:
    verdict = judge(create_evidence(paths=(1.0, 0.5, 0.2, 0.1, -0.3)))
    assert verdict.outcome == PASS, verdict.reasons
    assert tuple(outcomes(verdict)) == CHECKS
    assert len(verdict.reasons) == len(CHECKS)
    assert verdict.figures["sharpe_e2"] == 573
    assert verdict.figures["dsr_bps"] >= 9500


def test_the_same_evidence_gives_the_same_bytes() -> None:
    first, again = (canonical_bytes(judge(create_evidence()).to_dict()) for _ in range(2))
    assert first == again
    assert record_hash(create_evidence()) == record_hash(create_evidence())
    assert record_hash(create_evidence()) != record_hash(create_evidence(mean=0.0031))


def test_a_verdict_fits_an_artefact_and_is_read_from_it() -> None:
    for evidence in (create_evidence(), create_evidence(days=60), create_evidence(mean=0.0)):
        verdict = judge(evidence)
        artefact = Artefact(
            name="hold", kind="hold", observation=ObservationSpec(), report={"verdict": verdict.to_dict()}
        )
        assert read_verdict(artefact.report) == verdict


# What voters read


def test_voters_are_warned_unless_it_is_a_pass() -> None:
    assert verdict_warnings("a", {"verdict": judge(create_evidence()).to_dict()}) == []
    (failed,) = verdict_warnings("a", {"verdict": judge(create_evidence(max_drawdown_bps=2500)).to_dict()})
    assert failed == "the verdict on artefact a is FAIL: the largest loss from a peak is 25.0 %, the limit is 20.0 %"
    (short,) = verdict_warnings("a", {"verdict": judge(create_evidence(days=60)).to_dict()})
    assert short.startswith("the verdict on artefact a is NOT ENOUGH DATA: the record out of sample has 60 days")
    assert verdict_warnings("a", {}) == [
        "artefact a has no verdict: nobody has asked whether its results are more than luck"
    ]


def edited(**changed: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(judge(create_evidence(mean=0.0)).to_dict())), **changed}


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        (edited(outcome=PASS), "says PASS, and its own check 'deflated' did not pass"),
        (edited(outcome=PASS, checks=[]), "says PASS, and its own check 'drawdown' did not pass"),
        (edited(outcome="GOOD"), "'GOOD', which is none"),
        (edited(procedure="mine/1"), "comes from the procedure 'mine/1'"),
        ("PASS", "has not the form of one"),
        ({"outcome": PASS}, "has not the form of one"),
        (edited(checks=[{"name": "days"}]), "has not the form of one"),
    ],
)
def test_a_verdict_that_was_made_up_warns(verdict: Any, says: str) -> None:
    (warning,) = verdict_warnings("a", {"verdict": verdict})
    assert says in warning
    assert warning.endswith("do not count on it")


# Reading what a stranger wrote


PASSED = {
    "days": 400, "trades": 50, "dsr_bps": 9_900, "pbo_bps": 100,
}  # fmt: skip


def written(**changed: Any) -> dict[str, Any]:
    checks = [{"name": name, "outcome": PASS, "reason": "looked at"} for name in CHECKS]
    verdict = {"checks": checks, "figures": PASSED, "outcome": PASS, "procedure": PROCEDURE, "reasons": []}
    return {"verdict": verdict | changed}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"figures": PASSED | {"dsr_bps": 0}}, "its own figure dsr_bps is 0"),
        ({"figures": PASSED | {"days": 1}}, "its own figure days is 1"),
        ({"figures": PASSED | {"trades": "many"}}, "its own figure trades is 'many'"),
        ({"figures": PASSED | {"pbo_bps": 5_000}}, "its own figure pbo_bps is 5000"),
        ({"figures": {}}, "its own figure days is None"),
        ({"checks": [{"name": ["a"], "outcome": PASS, "reason": ""}]}, "has not the form of one"),
        ({"checks": [{"name": "days", "outcome": PASS, "reason": 7}]}, "has not the form of one"),
        ({"checks": [*written()["verdict"]["checks"], written()["verdict"]["checks"][0]]}, "each once"),
        (
            {"checks": [{"name": "days", "outcome": FAIL, "reason": ""}, *written()["verdict"]["checks"]]},
            "are not those of this version, each once",
        ),
    ],
)
def test_a_pass_that_contradicts_itself_is_refused(changed: dict[str, Any], says: str) -> None:
    assert read_verdict(written()).outcome == PASS
    with pytest.raises(ValueError, match=re.escape(says)):
        read_verdict(written(**changed))


def test_what_would_steer_a_terminal_is_not_printed() -> None:
    checks = [{"name": name, "outcome": FAIL, "reason": "\x1b[2Jthe verdict is PASS"} for name in CHECKS]
    (line,) = verdict_warnings("eth", written(checks=checks, outcome=FAIL))
    assert "\x1b" not in line
    assert "?[2Jthe verdict is PASS" in line
