"""A walk-forward test sees nothing it was trained on, and says so in integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log2

import numpy as np
import pytest

from offchain_rl.artefact import ActionSpec, Artefact, canonical_bytes
from offchain_rl.backtest import BacktestConfig, run_backtest
from offchain_rl.evaluate import (
    BASELINES,
    MOVING_AVERAGE,
    VOLATILITY_TARGET,
    CrossValidationConfig,
    VolatilityTarget,
    WalkForwardConfig,
    baseline_spec,
    cross_validate,
    daily_returns,
    day_unit,
    exp2_q12,
    format_report,
    join_runs,
    plan_folds,
    simple_policies,
    walk_all,
    walk_forward,
)
from offchain_rl.observation import BadObservation, ObservationSpec
from offchain_rl.policy import ConstantWeight, HoldPolicy, MovingAverageRule, Policy
from offchain_rl.prices import Bars
from offchain_rl.statistics import BadRecord
from offchain_rl.verdict import FAIL, NOT_ENOUGH_DATA, read_verdict

SPEC = ObservationSpec(lookback=400, features=("ma_cross_z:48:336", "weight"))
CONFIG = WalkForwardConfig(train_bars=500, test_bars=200, embargo_bars=20, trials=3)
CreateBars = Callable[..., Bars]


def test_too_short_a_series_is_refused_with_what_it_needs(create_bars: CreateBars) -> None:
    with pytest.raises(BadObservation, match="1119 bars, one fold of the walk-forward evaluation needs 1120"):
        walk_forward(create_bars(1_119), lambda bars: HoldPolicy(SPEC), SPEC, CONFIG)
    assert len(plan_folds(1_120, 400, CONFIG)) == 1


def test_policy_that_observes_something_else_is_refused(create_bars: CreateBars) -> None:
    with pytest.raises(BadObservation, match="observes something else"):
        walk_forward(create_bars(1_120), lambda bars: HoldPolicy(ObservationSpec()), SPEC, CONFIG)


def test_windows_without_length_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        WalkForwardConfig(test_bars=0)
    with pytest.raises(ValueError, match="embargo_bars is not negative"):
        WalkForwardConfig(embargo_bars=-1)


def test_no_bar_a_test_looks_at_was_trained_on_or_is_under_embargo() -> None:
    folds = plan_folds(2_020, 400, CONFIG)
    assert len(folds) == 5
    for fold, following in zip(folds, folds[1:], strict=False):
        first_bar_seen = fold.test_start - 399
        assert first_bar_seen == fold.train_end + 20
        assert fold.test_end - fold.test_start == 201
        # The last value of one test is the first of the next: no bar is skipped or counted twice.
        assert following.test_start == fold.test_end - 1
    assert folds[-1].test_end <= 2_020


def test_training_gets_the_train_window_and_nothing_else(create_bars: CreateBars) -> None:
    bars, seen = create_bars(1_600), []

    def make_policy(train_bars: Bars) -> HoldPolicy:
        seen.append((train_bars.start_s, len(train_bars)))
        return HoldPolicy(SPEC)

    report = walk_forward(bars, make_policy, SPEC, CONFIG)
    assert seen == [(bars.start_s + 1800 * 200 * i, 500) for i in range(len(report.folds))]
    assert set(report.policy.to_dict().values()) == {0, 200 * len(report.folds)}


def test_policies_are_compared_over_the_same_bars(create_bars: CreateBars) -> None:
    bars = create_bars(1_900, drift_bps=1)
    action = ActionSpec(max_weight_bps=5_000, deadband_bps=1_000)
    report = walk_forward(bars, lambda train_bars: MovingAverageRule(SPEC, action), SPEC, CONFIG)
    # The rule as a policy and the rule as the comparison see the same prices, so they do the same.
    assert report.policy == report.moving_average
    assert [fold.policy_bps for fold in report.folds] == [fold.moving_average_bps for fold in report.folds]
    assert report.buy_and_hold.mean_weight_bps > 9_500
    assert report.buy_and_hold.bars == report.policy.bars == 200 * len(report.folds)


def test_joined_runs_are_one_after_the_other(create_bars: CreateBars) -> None:
    policy = ConstantWeight(SPEC, ActionSpec(max_weight_bps=10_000), 8_000)
    runs = [run_backtest(policy, create_bars(600, seed=seed, drift_bps=drift)) for seed, drift in ((1, 2), (2, -2))]
    joined = join_runs(runs)
    growth = [1 + run.performance().total_return_bps / 10_000 for run in runs]
    assert joined.total_return_bps == pytest.approx((growth[0] * growth[1] - 1) * 10_000, abs=3)
    assert joined.max_drawdown_bps >= max(run.performance().max_drawdown_bps for run in runs) - 1
    assert joined.trades == sum(run.vault.trades for run in runs)


def test_report_fits_an_artefact_and_promises_nothing(create_bars: CreateBars) -> None:
    report = walk_forward(create_bars(1_300), lambda bars: HoldPolicy(SPEC), SPEC, CONFIG)
    artefact = Artefact(name="hold", kind="hold", observation=SPEC, report=report.to_dict())
    assert canonical_bytes(report.to_dict()) in artefact.to_bytes()
    text = format_report(report.to_dict())
    assert text == report.to_text()
    for words in ("total return", "buy and hold", "cash returns", "tried before this one: 2", "promises nothing"):
        assert words in text


def test_a_report_from_before_volatility_targets_can_still_be_shown(create_bars: CreateBars) -> None:
    report = walk_forward(create_bars(1_300), lambda bars: HoldPolicy(SPEC), SPEC, CONFIG).to_dict()
    for key in ("volatility_target", "verdict", "embargo_bars"):
        del report[key]
    for fold in report["folds"]:
        del fold["volatility_target_bps"]
    text = format_report(report)
    assert "volatility target" not in text
    assert "Verdict" not in text


# Baselines


def test_volatility_target_holds_less_the_wilder_the_market_is(create_bars: CreateBars) -> None:
    """Uniform steps of so many basis points in half an hour; the deviation of a year is step / sqrt(3) * 132.4."""
    spec, action = baseline_spec(1800), ActionSpec(max_weight_bps=8_000, deadband_bps=0)
    held = {}
    for step_bps in (20, 50, 100, 200):
        run = run_backtest(VolatilityTarget(spec, action), create_bars(500, step_bps=step_bps))
        held[step_bps] = np.array([target for target in run.targets_bps if target is not None])
    assert set(held[20].tolist()) == {8_000}
    for step_bps in (50, 100, 200):
        expected = 8_000 * 0.4 / (step_bps / 10_000 / 3**0.5 * (365 * 48) ** 0.5)
        assert held[step_bps].mean() == pytest.approx(min(expected, 8_000), rel=0.05)


def test_powers_of_two_are_near_enough_and_never_rise() -> None:
    exact = [2 ** (-x / 4096) * 4096 for x in range(5 * 4096)]
    found = [exp2_q12(x) for x in range(5 * 4096)]
    assert max(abs(a - b) for a, b in zip(exact, found, strict=True)) < 10
    assert found == sorted(found, reverse=True)
    assert [exp2_q12(k * 4096) for k in (0, 1, 4, 40)] == [4096, 2048, 256, 0]


def test_volatility_target_without_a_volatility_or_a_target_is_refused() -> None:
    with pytest.raises(ValueError, match="observes log_vol"):
        VolatilityTarget(SPEC)
    with pytest.raises(ValueError, match="target from 1"):
        VolatilityTarget(baseline_spec(1800), target_bps=0)


@pytest.mark.parametrize("bar_s", [60, 300, 1800, 3600, 14_400, 86_400])
def test_rules_can_be_computed_on_bars_of_any_length(bar_s: int) -> None:
    spec = baseline_spec(bar_s)
    assert spec.bar_s == bar_s
    assert 6 <= day_unit(bar_s) <= 292
    # A deviation at the target's level is held in full: the level is between log2 of the feature's ends.
    assert 0 < 2 ** (VolatilityTarget(spec)._level / 4096) < 128
    expected = log2(128 * 0.4 / (365 * 86_400 // bar_s) ** 0.5 / np.log(2))
    assert VolatilityTarget(spec)._level / 4096 == pytest.approx(expected, abs=0.001)


# Records


def test_days_are_those_of_utc_and_no_return_is_lost() -> None:
    day = 86_400
    # Two bars of the first day, none of the second, a close at midnight that ends the third, one of the fourth.
    times = (100, 200, 300, 3 * day, 3 * day + 50)
    ends, returns = daily_returns(times, (100, 110, 121, 242, 121))
    assert ends.tolist() == [day, 3 * day, 4 * day]
    assert returns == pytest.approx([0.21, 1.0, -0.5])


def test_the_daily_record_compounds_to_the_figures_of_the_report(create_bars: CreateBars) -> None:
    action = ActionSpec(max_weight_bps=8_000, deadband_bps=0)
    walk = walk_all(create_bars(2_200), {"rule": lambda bars: MovingAverageRule(SPEC, action)}, SPEC, CONFIG)
    for record in (*walk.policies.values(), *walk.baselines.values()):
        _, returns = record.daily()
        assert np.prod(1 + np.array(returns)) == pytest.approx(1 + record.performance.total_return_bps / 1e4, abs=2e-4)
        assert len(record.times_s) == len(record.values) == record.performance.bars + 1
    assert tuple(walk.baselines) == BASELINES


def test_one_seed_of_a_trained_policy_is_never_a_pass(create_bars: CreateBars) -> None:
    report = walk_forward(create_bars(1_320), lambda bars: HoldPolicy(SPEC), SPEC, CONFIG)
    assert report.verdict.outcome == NOT_ENOUGH_DATA
    assert any("trained with 1 seeds, 3 are needed" in reason for reason in report.verdict.reasons)
    assert read_verdict(report.to_dict()) == report.verdict


def test_a_strategy_that_holds_a_rising_coin_fails(create_bars: CreateBars) -> None:
    """Profit on every fold, on every seed, with trades enough: and it is the market's."""
    config = WalkForwardConfig(train_bars=60, test_bars=600, embargo_bars=6, trials=3)
    spec, action = baseline_spec(14_400), ActionSpec(max_weight_bps=6_000, deadband_bps=0)
    bars = create_bars(1_500, bar_s=14_400, drift_bps=20, step_bps=150)

    def make(train_bars: Bars) -> Policy:
        return ConstantWeight(spec, action, 6_000)

    report = walk_forward(bars, make, spec, config, other_seeds=(make, make))
    assert report.policy.total_return_bps > 5_000
    assert report.policy.trades >= 30
    assert report.verdict.outcome == FAIL
    assert "baselines" in {check.name for check in report.verdict.checks if check.outcome == FAIL}


# Cross-validation


def test_paths_are_tested_on_bars_that_were_not_trained_on(create_bars: CreateBars) -> None:
    bars, trained = create_bars(3_600), []

    def make(runs: Sequence[Bars]) -> Policy:
        trained.append([(one.start_s, one.end_s) for one in runs])
        return HoldPolicy(SPEC)

    paths = cross_validate(bars, make, SPEC, CrossValidationConfig(groups=6, test_groups=2, embargo_bars=20))
    assert len(trained) == 15
    assert len(paths) == 5
    assert {(path.sharpe, path.total_return_bps) for path in paths} == {(0.0, 0)}
    # Groups of 600 bars; on each side of a test the 400 of the lookback are left out, and 20 more behind it.
    first, last = {600 * k - 400 for k in (1, 2, 3, 4)}, {600 * k - 420 for k in (1, 2, 3, 4)}
    between = {600 * k - 820 for k in (2, 3, 4)}
    assert {(end - start) // 1800 for runs in trained for start, end in runs} == first | last | between


def test_paths_say_how_far_they_are_from_the_best_baseline(create_bars: CreateBars) -> None:
    bars = create_bars(3_600, drift_bps=3)
    config = CrossValidationConfig(groups=4, test_groups=2, embargo_bars=20)
    paths = cross_validate(bars, lambda runs: HoldPolicy(SPEC), SPEC, config)
    assert len(paths) == 3
    assert all(path.excess == path.sharpe - path.best_baseline_sharpe < 0 for path in paths)
    assert {path.best_baseline for path in paths} <= set(BASELINES)


def test_cross_validation_without_bars_to_train_on_is_refused(create_bars: CreateBars) -> None:
    with pytest.raises(BadRecord, match="1200 bars in 6 groups are 200 each"):
        cross_validate(create_bars(1_200), lambda runs: HoldPolicy(SPEC), SPEC)
    config = CrossValidationConfig(embargo_bars=20, min_train_bars=10_000)
    with pytest.raises(BadObservation, match="split 1 has no 10000 bars in a row"):
        cross_validate(create_bars(3_600), lambda runs: HoldPolicy(SPEC), SPEC, config)


def test_a_policy_does_not_decide_how_good_its_baselines_are() -> None:
    """A deadband that stills them, or a weight that does not pay for their gas, would make anything look better."""
    for action in (ActionSpec(deadband_bps=10_000), ActionSpec(max_weight_bps=5, deadband_bps=0)):
        policies = simple_policies(action, 14_400, BacktestConfig())
        for name in (MOVING_AVERAGE, VOLATILITY_TARGET):
            found = policies[name][0].action
            assert found.deadband_bps == ActionSpec().deadband_bps
            assert found.max_weight_bps >= 4 * found.deadband_bps
