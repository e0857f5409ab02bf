"""A walk-forward test sees nothing it was trained on, and says so in integers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from offchain_rl.artefact import ActionSpec, Artefact, canonical_bytes
from offchain_rl.backtest import run_backtest
from offchain_rl.evaluate import WalkForwardConfig, format_report, join_runs, plan_folds, walk_forward
from offchain_rl.observation import BadObservation, ObservationSpec
from offchain_rl.policy import ConstantWeight, HoldPolicy, MovingAverageRule
from offchain_rl.prices import Bars

SPEC = ObservationSpec(lookback=400, features=("ma_cross_z:48:336", "weight"))
CONFIG = WalkForwardConfig(train_bars=500, test_bars=200, trials=3)
CreateBars = Callable[..., Bars]


def test_too_short_a_series_is_refused_with_what_it_needs(create_bars: CreateBars) -> None:
    with pytest.raises(BadObservation, match="1099 bars, one fold of the walk-forward evaluation needs 1100"):
        walk_forward(create_bars(1_099), lambda bars: HoldPolicy(SPEC), SPEC, CONFIG)
    assert len(plan_folds(1_100, 400, CONFIG)) == 1


def test_policy_that_observes_something_else_is_refused(create_bars: CreateBars) -> None:
    with pytest.raises(BadObservation, match="observes something else"):
        walk_forward(create_bars(1_100), lambda bars: HoldPolicy(ObservationSpec()), SPEC, CONFIG)


def test_windows_without_length_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        WalkForwardConfig(test_bars=0)


def test_no_bar_a_test_looks_at_was_trained_on() -> None:
    folds = plan_folds(2_000, 400, CONFIG)
    assert len(folds) == 5
    for fold, following in zip(folds, folds[1:], strict=False):
        first_bar_seen = fold.test_start - 399
        assert first_bar_seen == fold.train_end
        assert fold.test_end - fold.test_start == 201
        # The last value of one test is the first of the next: no bar is skipped or counted twice.
        assert following.test_start == fold.test_end - 1
    assert folds[-1].test_end <= 2_000


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
