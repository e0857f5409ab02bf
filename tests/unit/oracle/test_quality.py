"""What is wrong with a series is found by row, what real markets do is a warning, and the report is plain."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offchain_rl.artefact import canonical_bytes
from oracle.chainlink import PHASE_SHIFT
from oracle.quality import ROWS_NAMED, Check, QualityReport, Series, check_quality

START_S, BAR_S = 1_700_352_000, 1800


def bars(count: int = 1000, **over: Any) -> Series:
    """A random walk of half hours, of some 0.2 % each."""
    steps = np.random.default_rng(7).integers(-40, 41, count)
    close = (2 * 10**11 * np.cumprod(1 + steps / 10_000)).astype(np.int64)
    opens = np.concatenate([close[:1], close[:-1]])
    fields = {
        "source": "walk.csv", "times_s": START_S + BAR_S * np.arange(count), "close": close, "open": opens,
        "high": np.maximum(opens, close), "low": np.minimum(opens, close), "step_s": BAR_S,
    }  # fmt: skip
    return Series(**fields | over)


def rounds(count: int = 1000, **over: Any) -> Series:
    """One each hour, heartbeat and a minute."""
    fields = {
        "source": "feed.csv", "times_s": START_S + 3600 * np.arange(count), "close": bars(count).close,
        "heartbeat_s": 3660, "numbers": [(6 << PHASE_SHIFT) + 1 + i for i in range(count)],
    }  # fmt: skip
    return Series(**fields | over)


def with_rows(series: Series, column: str, changes: dict[int, int]) -> Series:
    """Changed in the rows named, which count from 1."""
    changed = getattr(series, column).copy()
    for row, value in changes.items():
        changed[row - 1] = value
    return replace(series, **{column: changed})


def without(series: Series, *rows: int) -> Series:
    """With these rows, which count from 1, taken out."""
    drop = [row - 1 for row in rows]
    arrays = {
        name: np.delete(column, drop)
        for name in ("times_s", "close", "open", "high", "low")
        if (column := getattr(series, name)) is not None
    }
    numbers = [number for i, number in enumerate(series.numbers) if i not in drop]
    return replace(series, **arrays, numbers=numbers)


def found(series: Series, check: str) -> Check:
    return next(c for c in check_quality(series).checks if c.check == check)


# What must not be used


def refusal(series: Series) -> str:
    report = check_quality(series)
    assert report.verdict == "fail"
    assert "\n" not in report.refusal
    return report.refusal


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_rows_are_refused(count: int) -> None:
    assert refusal(bars(count)) == f"walk.csv: the check of length failed: {count} rows, at least 2 are needed"


@pytest.mark.parametrize(
    ("offset_s", "says"), [(-BAR_S, "0 s"), (-BAR_S - 7, "-7 s"), (1, "1801 s")], ids=["same", "back", "off the grid"]
)
def test_a_time_that_does_not_follow_is_refused_by_its_row(offset_s: int, says: str) -> None:
    series = bars()
    wrong = with_rows(series, "times_s", {500: int(series.times_s[499]) + offset_s})
    assert refusal(wrong) == f"walk.csv, row 500: the check of time failed: it is {says} after the row before"


def test_rounds_that_go_back_in_time_are_refused_and_two_in_one_second_are_a_warning() -> None:
    series = rounds()
    same = int(series.times_s[498])
    back = with_rows(series, "times_s", {500: same - 1})
    assert "row 500: the check of time failed: it is -1 s after" in refusal(back)
    check = found(with_rows(series, "times_s", {500: same}), "time")
    assert (check.verdict, check.rows, check.numbers["same"]) == ("warn", (500,), 1)


@pytest.mark.parametrize("column", ["open", "high", "low", "close"])
@pytest.mark.parametrize("price", [0, -5])
def test_a_price_that_is_not_above_zero_is_refused_by_its_row(column: str, price: int) -> None:
    wrong = with_rows(bars(), column, {7: price, 9: price})
    assert refusal(wrong) == "walk.csv, row 7: the check of prices failed: 2 rows have a price that is not above zero"


@pytest.mark.parametrize(("column", "by"), [("high", -1), ("low", 1)])
def test_a_high_or_low_that_does_not_enclose_is_refused_by_its_row(column: str, by: int) -> None:
    series = bars()
    wrong = with_rows(series, column, {7: int(getattr(series, column)[6]) + by})
    assert "walk.csv, row 7: the check of high and low failed: 1 rows" in refusal(wrong)


@pytest.mark.parametrize("factor", [2, 100])
def test_a_price_that_jumps_by_a_factor_is_refused_by_its_row_in_both_directions(factor: int) -> None:
    calm = 10**9 + np.arange(500)
    rising = np.concatenate([calm[::-1], calm * factor])
    for close in (rising, rising[::-1]):
        says = f"row 501: the check of outliers failed: the price goes from {close[499]} to {close[500]} in one step"
        assert says in refusal(rounds(close=close))


def test_too_many_outliers_are_refused() -> None:
    series = rounds()
    close = series.close.copy()
    close[100:200:2] = close[100:200:2] * 3 // 2
    says = "100 steps beyond 20 robust sigmas; 1002 bps of rows, 500 are allowed"
    assert says in refusal(replace(series, close=close))


def test_too_much_that_is_missing_is_refused_by_the_row_after_the_first_gap() -> None:
    """Ten of a thousand are one per cent, and allowed."""
    assert found(without(bars(), *range(500, 510)), "gaps").verdict == "warn"
    assert refusal(without(bars(), *range(500, 511))) == (
        "walk.csv, row 500: the check of gaps failed: 11 rows are missing in 1 gaps, the longest of 19800 s; "
        "110 bps of the time, 100 are allowed"
    )


def test_a_feed_that_is_late_too_often_is_refused() -> None:
    assert "the check of ages failed: 999 rounds came more than 1800 s after" in refusal(rounds(heartbeat_s=1800))


def test_too_many_rounds_that_are_missing_are_refused() -> None:
    series = without(rounds(heartbeat_s=86_400), *range(500, 511))
    assert "row 500: the check of round numbers failed: 11 rounds are missing, the first is 1106" in refusal(series)


def test_a_price_that_stood_still_for_a_fifth_of_the_time_is_refused() -> None:
    series = rounds()
    close = series.close.copy()
    close[400:602] = close[400]
    says = "row 401: the check of stillness failed: the price stood still for 723600 s at most, 2013 bps of the time"
    assert says in refusal(replace(series, close=close))


# What is worth knowing


def test_a_series_in_good_order_passes_every_check() -> None:
    for series in (bars(), rounds()):
        report = check_quality(series)
        assert (report.verdict, report.refusal, report.rows) == ("pass", "", 1000)
        assert {check.verdict for check in report.checks} == {"pass"}


def test_gaps_are_counted_with_the_longest_and_the_share() -> None:
    check = found(without(bars(), 100, 101, 102, 700), "gaps")
    assert (check.verdict, check.rows, check.count) == ("warn", (100, 697), 2)
    assert check.numbers == {"longest_s": 3 * BAR_S, "missing_rows": 4, "missing_s": 4 * BAR_S, "share_bps": 40}


def test_a_silence_that_was_filled_with_the_last_price_is_a_gap_too() -> None:
    series = bars()
    check = found(replace(series, filled_s={int(series.times_s[499]): 3 * BAR_S}), "gaps")
    assert (check.rows, check.numbers["missing_s"]) == ((500,), 3 * BAR_S)


def test_one_round_that_was_dropped_is_found_by_its_number() -> None:
    check = found(without(rounds(), 500), "round numbers")
    assert (check.verdict, check.rows, check.numbers["missing_rounds"]) == ("warn", (500,), 1)
    assert str((6 << PHASE_SHIFT) + 500) in check.says


def test_the_first_round_of_another_phase_follows_whatever_its_number() -> None:
    series = rounds()
    numbers = [*series.numbers[:500], *((7 << PHASE_SHIFT) + 1 + i for i in range(500))]
    assert found(replace(series, numbers=numbers), "round numbers").verdict == "pass"


def test_ages_of_rounds_are_told_by_rank() -> None:
    times_s = START_S + np.cumsum([0, *range(1, 101)])
    check = found(rounds(101, times_s=times_s, heartbeat_s=98), "ages")
    assert check.numbers == {
        "p50_s": 50, "p99_s": 99, "max_s": 100, "late_s": 1 + 2, "share_bps": 6, "heartbeat_s": 98
    }  # fmt: skip
    assert (check.verdict, check.rows) == ("warn", (100, 101))


def test_a_crash_that_is_real_is_a_warning_with_its_row() -> None:
    series = rounds()
    close = series.close.copy()
    close[499:] = close[499:] * 7 // 10
    check = found(replace(series, close=close), "outliers")
    assert (check.verdict, check.rows) == ("warn", (500,))
    assert check.numbers["largest_step_micro"] == pytest.approx(356_675, abs=5000)


def test_a_price_that_hardly_ever_changes_has_no_outliers_for_that() -> None:
    """Bars made of rare rounds repeat the last price; what moves is measured by what else moves."""
    close = np.repeat(bars(100).close, 10)
    check = found(rounds(close=close), "outliers")
    assert check.verdict == "pass"
    assert check.numbers["mad_micro"] == found(rounds(100), "outliers").numbers["mad_micro"]


def test_a_long_stretch_without_a_change_is_a_warning_with_its_first_row() -> None:
    series = rounds()
    close = series.close.copy()
    close[400:426] = close[400]
    check = found(replace(series, close=close), "stillness")
    assert (check.verdict, check.rows, check.numbers["longest_rows"]) == ("warn", (401,), 26)
    assert check.numbers["longest_s"] == 25 * 3600


# The report


def test_rows_are_named_up_to_ten_and_counted_in_full() -> None:
    check = found(with_rows(bars(), "low", dict.fromkeys(range(1, 31), 0)), "prices")
    assert (check.rows, check.count) == (tuple(range(1, ROWS_NAMED + 1)), 30)


def test_the_worst_check_is_the_verdict() -> None:
    def verdict(*verdicts: Any) -> str:
        checks = tuple(Check(check=str(i), verdict=v, says="so") for i, v in enumerate(verdicts))
        return QualityReport(source="x", rows=2, checks=checks).verdict

    assert [verdict("pass", "warn", "fail"), verdict("warn", "pass"), verdict("pass")] == ["fail", "warn", "pass"]


@given(st.lists(st.tuples(st.integers(-100, 4000), st.integers(-2, 10**6)), max_size=40), st.booleans())
def test_whatever_it_is_given_the_report_is_plain_and_the_same_again(
    rows: list[tuple[int, int]], regular: bool
) -> None:
    times_s = START_S + np.cumsum([step for step, _ in rows], dtype=np.int64)
    close = np.array([price for _, price in rows], dtype=np.int64)
    kind: dict[str, Any] = {"step_s": 60} if regular else {"heartbeat_s": 60, "numbers": [1 << 80] * len(rows)}
    series = Series(source="any", times_s=times_s, close=close, **kind)
    plain = check_quality(series).as_plain()
    assert canonical_bytes(plain) == canonical_bytes(check_quality(series).as_plain())
    assert json.loads(canonical_bytes(plain)) == plain
