"""The figures are those of the papers; where libraries disagree, these say which of them is right, and why."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest
from phacker.cscv import cscv as phacker_cscv
from purgedcv import deflated_sharpe_ratio as purgedcv_dsr
from purgedcv import min_track_record_length as purgedcv_min_track_record
from purgedcv import probability_of_backtest_overfitting as purgedcv_pbo

from offchain_rl.statistics import (
    BadRecord,
    Moments,
    Trials,
    choose_block,
    combinatorial_splits,
    deflated_sharpe,
    expected_max_sharpe,
    min_track_record,
    moments,
    overfitting_probability,
    probabilistic_sharpe,
    resample,
    sharpe,
    variance_of_sharpes,
    yearly,
)

# The example of Bailey and López de Prado (2014): 5 years of days, 100 trials; 1/2 and 2.5 are yearly.
PAPER = Moments(periods=1250, sharpe=2.5 / sqrt(250), skew=-3.0, kurtosis=10.0)
PAPER_VARIANCE = 0.5 / 250


def noise(periods: int, trials: int, seed: int = 0) -> np.ndarray:
    """Returns [periods, trials] without any skill."""
    return np.random.default_rng(seed).standard_normal((periods, trials)) * 0.01


def as_trials(matrix: np.ndarray) -> Trials:
    return Trials(np.arange(len(matrix)) * 86_400, {f"t{k}": matrix[:, k] for k in range(matrix.shape[1])})


# Records


@pytest.mark.parametrize(
    ("times_s", "columns", "says"),
    [
        ([1, 2, 3], {"a": [0.0, 0.0]}, r"returns of 'a' have the shape \(2,\), there are 3 periods"),
        ([1, 2], {"a": [[0.0, 0.0], [0.0, 0.0]]}, r"returns of 'a' have the shape \(2, 2\)"),
        ([1, 2], {"a": [0.0, float("nan")]}, "return 1 of 'a' is not a number"),
        ([1, 2], {"a": [0.0, -1.5]}, "return 1 of 'a' loses more than everything"),
        ([2, 1], {"a": [0.0, 0.0]}, "rising unix seconds"),
        ([1, 2], {}, "at least one column"),
    ],
)
def test_a_record_that_is_none_is_refused_by_name(times_s: list[int], columns: dict, says: str) -> None:
    with pytest.raises(BadRecord, match=says):
        Trials(times_s, columns)


def test_a_matrix_of_the_wrong_orientation_cannot_be_given() -> None:
    """Even a square one: a record is made of named columns."""
    square = noise(64, 64)
    with pytest.raises(BadRecord, match="shape"):
        Trials(np.arange(64), {"all": square})
    assert as_trials(square).matrix[3, 5] == square[3, 5]


def test_records_of_other_periods_or_the_same_names_do_not_join() -> None:
    one = Trials([1, 2], {"a": [0.1, 0.0]})
    assert one.joined(Trials([1, 2], {"b": [0.0, 0.2]})).names == ("a", "b")
    with pytest.raises(BadRecord, match="different periods"):
        one.joined(Trials([1, 3], {"b": [0.0, 0.2]}))
    with pytest.raises(BadRecord, match="the name 'a'"):
        one.joined(one)
    with pytest.raises(BadRecord, match="no record of 'c'; there is one of a"):
        one.column("c")
    with pytest.raises(ValueError, match="read-only"):
        one.matrix[0, 0] = 1.0


# Sharpe ratios


def test_the_example_of_the_paper() -> None:
    assert expected_max_sharpe(100, PAPER_VARIANCE) == pytest.approx(0.11317, abs=5e-6)
    assert deflated_sharpe(PAPER, trials=100, variance=PAPER_VARIANCE) == pytest.approx(0.90040, abs=5e-6)


def test_one_trial_is_not_deflated_and_more_trials_deflate_more() -> None:
    assert expected_max_sharpe(1, 0.5) == 0.0
    assert deflated_sharpe(PAPER, trials=1, variance=1.0) == probabilistic_sharpe(PAPER)
    found = [deflated_sharpe(PAPER, trials=n, variance=PAPER_VARIANCE) for n in (2, 10, 100, 1000)]
    assert found == sorted(found, reverse=True)
    with pytest.raises(ValueError, match="at least 1"):
        expected_max_sharpe(0, 1.0)


def test_the_expected_maximum_is_that_of_independent_trials() -> None:
    best = np.random.default_rng(1).standard_normal((20_000, 50)).max(axis=1).mean()
    assert expected_max_sharpe(50, 1.0) == pytest.approx(best, rel=0.02)


def test_deflated_sharpe_agrees_with_another_implementation() -> None:
    returns = noise(500, 1, seed=3)[:, 0] + 0.0004
    theirs = purgedcv_dsr(returns, 20, 0.002)
    # It takes the deviation with n and unbiased moments, we n - 1 and those of the sample.
    assert deflated_sharpe(moments(returns), trials=20, variance=0.002) == pytest.approx(theirs, abs=1e-3)


def test_a_track_record_of_the_needed_length_is_just_enough() -> None:
    record = Moments(periods=100, sharpe=0.1, skew=-1.0, kurtosis=6.0)
    needed = min_track_record(record, 0.02)
    assert needed == purgedcv_min_track_record(0.1, 0.02, 0.05, -1.0, 6.0)

    def probability(periods: float) -> float:
        return probabilistic_sharpe(Moments(periods=int(periods), sharpe=0.1, skew=-1.0, kurtosis=6.0), 0.02)

    assert probability(needed) >= 0.95 > probability(needed - 1)
    assert min_track_record(record, 0.1) == inf


def test_probability_is_of_the_skew_and_kurtosis_too() -> None:
    normal = Moments(periods=250, sharpe=0.1)
    assert probabilistic_sharpe(Moments(periods=250, sharpe=0.1, skew=-2.0, kurtosis=12.0)) < probabilistic_sharpe(
        normal
    )


def test_a_record_that_never_moved_has_no_skill() -> None:
    still = np.zeros(50)
    assert sharpe(still) == 0.0
    assert moments(still).sharpe == 0.0
    assert probabilistic_sharpe(moments(still)) == 0.5
    # A constant that is no power of two: its deviation would be a rounding error, its ratio a trillion.
    assert sharpe(np.full(50, 0.1)) == 0.0


def test_too_short_a_record_has_no_moments() -> None:
    with pytest.raises(BadRecord, match="7 periods of returns, at least 8 are needed"):
        moments(np.zeros(7))
    with pytest.raises(BadRecord, match="one trial has no variance"):
        variance_of_sharpes(as_trials(noise(20, 1)))


def test_a_year_has_the_root_of_its_periods() -> None:
    assert yearly(0.1, 365.0) == pytest.approx(0.1 * sqrt(365))


# Overfitting


def test_overfitting_agrees_with_both_libraries_where_they_agree() -> None:
    """phacker takes [periods, trials], purgedcv [trials, periods]. 10 divides 1000."""
    matrix = noise(1000, 50)
    ours = overfitting_probability(as_trials(matrix), blocks=10)
    assert ours.halvings == 252
    assert ours.probability == pytest.approx(phacker_cscv(matrix, 10)[0], abs=1e-12)
    assert ours.probability == pytest.approx(purgedcv_pbo(matrix.T, 10).pbo, abs=1e-12)


def test_the_wrong_orientation_gives_a_plausible_number_and_ours_is_the_right_one() -> None:
    """One of twenty trials has great skill in every block: choosing it can't be overfitting."""
    matrix = noise(240, 20, seed=5)
    matrix[:, 7] += 0.01
    assert overfitting_probability(as_trials(matrix), blocks=6).probability == 0.0
    assert phacker_cscv(matrix, 6)[0] == 0.0
    assert purgedcv_pbo(matrix.T, 6).pbo == 0.0
    # Turned round, days compete for the best trial: neither library notices, both say something believable.
    assert 0.1 < phacker_cscv(matrix.T, 6)[0] < 0.9
    assert 0.1 < purgedcv_pbo(matrix, 6).pbo < 0.9


def test_blocks_that_do_not_divide_the_record_are_uneven_and_drop_nothing() -> None:
    """1000 days in 16 blocks: purgedcv makes uneven blocks, as we do; phacker leaves out the last 8 days."""
    matrix = noise(1000, 12, seed=8)
    ours = overfitting_probability(as_trials(matrix)).probability
    trimmed = overfitting_probability(as_trials(matrix[:992])).probability
    assert trimmed == pytest.approx(phacker_cscv(matrix, 16)[0], abs=1e-12)
    assert trimmed == pytest.approx(phacker_cscv(matrix[:992], 16)[0], abs=1e-12)
    assert ours != trimmed
    # The same uneven blocks, few enough for the slow library.
    matrix = noise(203, 12, seed=9)
    assert overfitting_probability(as_trials(matrix), blocks=8).probability == pytest.approx(
        purgedcv_pbo(matrix.T, 8).pbo, abs=1e-12
    )


def test_at_the_median_and_tied_counts_as_overfitted() -> None:
    """With an odd number of trials one may be the median itself: phacker counts it, purgedcv does not, we do."""
    matrix = noise(240, 3, seed=2)
    ours = overfitting_probability(as_trials(matrix), blocks=6).probability
    assert ours == pytest.approx(phacker_cscv(matrix, 6)[0], abs=1e-12)
    assert ours > purgedcv_pbo(matrix.T, 6).pbo
    same = np.repeat(noise(240, 1, seed=2), 4, axis=1)
    assert overfitting_probability(as_trials(same), blocks=6).probability == 1.0


def test_trials_without_skill_are_overfitted_about_half_of_the_time() -> None:
    found = [overfitting_probability(as_trials(noise(320, 20, seed)), blocks=10).probability for seed in range(40)]
    assert 0.4 < float(np.mean(found)) < 0.6


def test_a_trial_that_never_traded_ranks_as_cash() -> None:
    matrix = noise(160, 2, seed=4) - 0.01
    matrix = np.column_stack([matrix, np.zeros(160)])
    found = overfitting_probability(as_trials(matrix), blocks=8)
    assert found.probability == 0.0
    assert found.loss_probability == 0.0


def test_overfitting_of_nothing_to_choose_from_is_refused() -> None:
    with pytest.raises(BadRecord, match="at least 2 trials"):
        overfitting_probability(as_trials(noise(100, 1)))
    with pytest.raises(BadRecord, match="31 periods, 16 blocks need at least 32"):
        overfitting_probability(as_trials(noise(31, 3)))
    with pytest.raises(ValueError, match="blocks is even"):
        overfitting_probability(as_trials(noise(100, 3)), blocks=7)


# Splits


@pytest.mark.parametrize(("horizon", "lookback", "embargo"), [(1, 1, 0), (10, 1, 5), (1, 40, 0), (24, 40, 12)])
def test_no_train_sample_shares_a_bar_with_a_test(horizon: int, lookback: int, embargo: int) -> None:
    """A sample at bar t knows bars t - lookback + 1 to t, its label bars t + 1 to t + horizon."""
    for split in combinatorial_splits(
        1_203, groups=6, test_groups=2, purge_bars=lookback - 1 + horizon, embargo_bars=embargo
    ):
        tested = np.concatenate(split.tests)
        seen = {int(bar) + shift for bar in tested for shift in range(1 - lookback, horizon + 1)}
        known = {int(bar) + shift for bar in split.train for shift in range(1 - lookback, horizon + 1)}
        assert not seen & known
        for group in split.tests:
            behind = split.train[split.train > group[-1]]
            assert not len(behind) or behind[0] > group[-1] + embargo


def test_without_the_purge_it_would_leak() -> None:
    splits = combinatorial_splits(600, groups=6, test_groups=2, purge_bars=0, embargo_bars=0)
    train = set(splits[0].train.tolist())
    assert any(int(group[-1]) + 1 in train for group in splits[0].tests)


def test_every_bar_is_tested_once_on_every_path() -> None:
    splits = combinatorial_splits(603, groups=6, test_groups=2, purge_bars=3, embargo_bars=2)
    assert len(splits) == 15
    seen: dict[int, list[int]] = {}
    for split in splits:
        for group, path in zip(split.tests, split.paths, strict=True):
            seen.setdefault(path, []).extend(group.tolist())
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert all(sorted(bars) == list(range(603)) for bars in seen.values())


def test_train_bars_come_in_runs() -> None:
    for split in combinatorial_splits(603, groups=6, test_groups=2, purge_bars=3, embargo_bars=2):
        runs = split.train_runs()
        assert np.array_equal(np.concatenate([np.arange(a, b) for a, b in runs]), split.train)
        assert all(after[0] > before[1] for before, after in zip(runs, runs[1:], strict=False))


def test_groups_shorter_than_what_is_left_out_are_refused() -> None:
    with pytest.raises(BadRecord, match="60 bars in 6 groups are 10 each, and 8 of purge and 2 of embargo"):
        combinatorial_splits(60, groups=6, test_groups=2, purge_bars=8, embargo_bars=2)


# Intervals


def test_draws_depend_on_the_seed_and_nothing_else() -> None:
    returns = noise(100, 1)[:, 0]
    first, again, other = (resample(returns, seed=seed, repetitions=50).draws for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (50, 100)


def test_an_interval_is_where_the_truth_is_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(100):
        returns = noise(200, 1, seed)[:, 0] + 0.001
        found = resample(returns, seed=seed, repetitions=300, confidence=0.9).mean(returns)
        hits += found.low <= 0.001 <= found.high
    assert 82 <= hits <= 97


def test_blocks_keep_together_what_belongs_together() -> None:
    """Returns that come in streaks of ten: drawn one by one, the interval would be far too narrow."""
    streaks = np.repeat(noise(40, 1, seed=6)[:, 0], 10)
    assert choose_block(streaks) > 10
    wide, narrow = (resample(streaks, seed=1, repetitions=500, block=block).mean(streaks) for block in (None, 1.0))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_a_twin_differs_from_its_original_by_nothing() -> None:
    returns = noise(120, 1)[:, 0]
    draws = resample(returns, seed=1, repetitions=100)
    found = draws.sharpe_difference(2 * returns, returns)
    assert max(abs(found.low), abs(found.high), abs(found.estimate)) < 1e-12
    assert draws.mean_difference(returns, returns).high == 0.0
    interval = draws.sharpe(returns)
    assert interval.low < interval.estimate < interval.high


def test_draws_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BadRecord, match="7 periods"):
        resample(np.zeros(7), seed=1)
    with pytest.raises(ValueError, match="confidence lies between"):
        resample(np.zeros(20), seed=1, confidence=1.0)
    assert choose_block(np.zeros(27)) == pytest.approx(3.0)
