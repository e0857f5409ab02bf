"""`spot_vault` compiled by numba: the same source, thousands of vaults at once, the same integers.

Nothing of the model is written again here. Every function of `spot_vault` is handed to numba as it stands; only
`mul_div_down`, whose product Python computes with as many digits as it takes, gets a version for 64 bits. The loops
below carry vaults from rows of an array into tuples and back.

Machine code is kept between processes in a folder named by the source it was made from, so that a change of the model
can never meet old code: below MARKETFLOW_CACHE_DIR, else ~/.cache/marketflow. Each file carries its SHA-256, since
machine code with one bit wrong may run and give other numbers: a file that was damaged is compiled anew. This is no
defence against somebody who writes to that folder.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np
from numba import types
from numba.core import config as numba_config
from numba.core.caching import IndexDataCacheFile
from numba.extending import overload, register_jitable
from numba.np.unsafe.ndarray import to_fixed_tuple

from offchain_rl import episode, fixedpoint, reward, spot_vault
from offchain_rl.episode import (
    CLOSE_E8,
    CLOSE_S,
    OPEN_E8,
    OPEN_S,
    Int16Array,
    Market,
    Params,
    draw_start,
    initial,
    observation,
    terminal,
)
from offchain_rl.fixedpoint import IntArray
from offchain_rl.spot_vault import Terms, Vault

VAULT_WIDTH: Final = len(Vault._fields)
_PEAK: Final = Vault._fields.index("peak_value")
_HALTED: Final = Vault._fields.index("halted_at_s")
_TERMS: Final = len(Terms._fields)
_WHOLE: Final = len(Params._fields) - 3
# For those functions of the model that look at one of the market's two arrays only.
_NO_BARS: Final = np.zeros((1, 4), dtype=np.int64)
_NO_FEATURES: Final = np.zeros((1, 1), dtype=np.int16)
_NO_RANGE: Final = (0, 0)
# Environments that are stepped together.
_BLOCK: Final = 64
# Bars that are valued ahead, as if nothing were ordered in them.
_AHEAD: Final = 32
_FOLDER: Final = Path(__file__).parent
_DIGEST_BYTES: Final = hashlib.sha256().digest_size
_SOURCES: Final = [_FOLDER / f"{name}.py" for name in ("fixedpoint", "spot_vault", "reward", "episode", "compiled")]


@overload(spot_vault.mul_div_down)
def _mul_div_down_int64(a: Any, b: Any, c: Any) -> Any:
    """The quotient is guessed in floating point and put right by its remainder.

    The remainder is a * b - q * c modulo 2^64, and exact because its true size is below 2^63: the guess is off by at
    most q * 2^-51 + 1, and a * b < 2^110 with c < 2^60 keeps (q * 2^-51 + 1) * c below 2^60.
    """
    if not all(isinstance(x, types.Integer) for x in (a, b, c)):
        return None

    def implementation(a: Any, b: Any, c: Any) -> Any:  # numba wants the names and hints of the function above
        a, b, c = np.int64(a), np.int64(b), np.int64(c)
        quotient = np.int64(np.float64(a) * np.float64(b) * (1.0 / np.float64(c)))
        remainder = a * b - quotient * c
        if remainder < 0 or remainder >= c:
            quotient += remainder // c
        return quotient

    return implementation


@overload(spot_vault.value_div_down)
def _value_div_down_int64(a: Any, b: Any, c: Any) -> Any:
    """As above; the guess is off by less than 1 + 2^-2, so that its whole part is off by at most one."""
    if not all(isinstance(x, types.Integer) for x in (a, b, c)):
        return None

    def implementation(a: Any, b: Any, c: Any) -> Any:  # numba wants the names and hints of the function above
        a, b, c = np.int64(a), np.int64(b), np.int64(c)
        quotient = np.int64(np.float64(a) * np.float64(b) * (1.0 / np.float64(c)))
        remainder = a * b - quotient * c
        return quotient + np.int64(remainder >= c) - np.int64(remainder < 0)

    return implementation


@overload(spot_vault.day_of)
def _day_of_int64(now_s: Any) -> Any:
    """A division of floats is exact to less than a second as long as the seconds are, up to 2^52."""

    def implementation(now_s: Any) -> Any:
        return np.int64(np.float64(now_s) / 86_400.0)

    return implementation


@overload(episode.random_bits)
def _random_bits_uint64(seed: Any, index: Any, count: Any) -> Any:
    """The same in a type that wraps by itself."""

    def implementation(seed: Any, index: Any, count: Any) -> Any:  # numba wants the names and hints of the one above
        first, second = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
        golden = np.uint64(0x9E3779B97F4A7C15)
        x = np.uint64(seed) * golden + np.uint64(index) * first + np.uint64(count) * second
        for _ in range(2):
            x = x + golden
            x = (x ^ (x >> np.uint64(30))) * first
            x = (x ^ (x >> np.uint64(27))) * second
            x = x ^ (x >> np.uint64(31))
        return np.int64(x >> np.uint64(1))

    return implementation


@overload(fixedpoint.tanh_q12)
def _tanh_q12_int64(value_q12: Any) -> Any:
    """The same on an array: numba unrolls tuples, and the table has 257 entries."""
    table, entries = np.array(fixedpoint.TANH_TABLE, dtype=np.int64), len(fixedpoint.TANH_TABLE)

    def implementation(value_q12: Any) -> Any:
        magnitude = abs(value_q12)
        index = magnitude >> 7
        if index >= entries - 1:
            result = 4096
        else:
            exact = (table[index] << 7) + (table[index + 1] - table[index]) * (magnitude & 127)
            result = (exact + (1 << 14)) >> 15
        return result if value_q12 >= 0 else -result

    return implementation


# Every function that the model is made of: numba then finds them wherever they are called. What runs in every bar is
# inlined, so that a vault stays in registers; what runs when something is ordered is not.
for _module, _names, _is_inlined in (
    (spot_vault, "worth_down worth_up mul_div_up is_below_by share_bps weight_bps_of drawdown_bps_of", True),
    (spot_vault, "is_reducing is_quiet decayed asset_for_down plan _wish _review _may_trade _no_order _pay_gas", True),
    (spot_vault, "fill_price fill sync sync_at slippage_after trade place", True),
    (spot_vault, "open_vault auction sell_lot close_bar pass_bar", False),
    (reward, "step_reward", True),
    (episode, "clipped_weight is_far observation share_feature saturated reward terminal", True),
    (episode, "initial draw_start", False),
):
    for _name in _names.split():
        register_jitable(forceinline=_is_inlined)(getattr(_module, _name))


def _cache_folder() -> str:
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in _SOURCES)).hexdigest()[:16]
    named = os.environ.get("MARKETFLOW_CACHE_DIR")
    return str(Path(named or Path.home() / ".cache" / "marketflow") / "compiled" / digest)


class _CheckedFiles(IndexDataCacheFile):  # type: ignore[misc]  # numba has no types
    """numba's index and machine code files, each after the SHA-256 of what it holds.

    In one file and not beside it: two processes that write at once then never leave the hash of the one with the code
    of the other. What does not match its hash is not there, so that it is compiled anew and written over.
    """

    def _load_index(self) -> dict[Any, str]:
        content = _read_checked(self._index_path)
        version, stamp, overloads = pickle.loads(content) if content else (None, None, {})
        return overloads if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write_checked(self._index_path, self._dump((self._version, self._source_stamp, overloads)))

    def _load_data(self, name: str) -> Any:
        content = _read_checked(self._data_path(name))
        if content is None:
            raise OSError(f"{name} is damaged")  # which numba takes for a file that is gone
        return pickle.loads(content)

    def _save_data(self, name: str, data: Any) -> None:
        self._write_checked(self._data_path(name), self._dump(data))

    def _write_checked(self, path: str, content: bytes) -> None:
        with self._open_for_write(path) as file:
            file.write(hashlib.sha256(content).digest() + content)


def _read_checked(path: str) -> bytes | None:
    """What a file holds; None where there is none, or its hash is another one."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return None
    digest, rest = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return rest if hashlib.sha256(rest).digest() == digest else None


def compile_cached(function: Any, **options: Any) -> Any:
    """The function compiled, without the interpreter's checks; kept on disk for the next process where that can be.

    `options` are numba's. Files of a function in another module are made anew when that module changes. Where they
    can't be written, each process compiles for itself; a disk that turns out full is warned of once.
    """
    options = {"error_model": "numpy", "nogil": True} | options
    before, numba_config.CACHE_DIR = numba_config.CACHE_DIR, _cache_folder()
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # the folder can't be written
        return numba.njit(**options)(function)
    finally:
        numba_config.CACHE_DIR = before
    cache = compiled._cache
    if not Path(cache.cache_path).is_relative_to(_cache_folder()):  # numba's next best, which knows one source only
        return numba.njit(**options)(function)
    files = cache._cache_file
    cache._cache_file = _CheckedFiles(cache.cache_path, cache._impl.filename_base, files._source_stamp)
    _forgive_failures(cache)
    return compiled


def _forgive_failures(cache: Any) -> None:
    """A cache that can't be read or written costs time and nothing else."""
    load, save = cache.load_overload, cache.save_overload

    def load_or_forget(signature: Any, context: Any) -> Any:
        try:
            return load(signature, context)
        except Exception:  # whole, and yet not what this numba can read
            with suppress(OSError):
                cache.flush()
            return None

    def save_or_do_without(signature: Any, data: Any) -> None:
        try:
            save(signature, data)
        except OSError:
            cache.disable()
            _warn_once(_cache_folder())

    cache.load_overload, cache.save_overload = load_or_forget, save_or_do_without


@functools.cache
def _warn_once(folder: str) -> None:
    warnings.warn(
        f"compiled code can't be kept in {folder}, so every process compiles anew, which takes seconds: make room "
        "there, or set MARKETFLOW_CACHE_DIR to another folder",
        RuntimeWarning,
        stacklevel=2,
    )


@register_jitable(forceinline=True)
def unpacked(numbers: IntArray, others: Any) -> Params:
    """What `Params.packed` was made of."""
    terms = Terms(*to_fixed_tuple(numbers[:_TERMS], _TERMS))
    return Params(*((terms,) + to_fixed_tuple(numbers[_TERMS:], _WHOLE) + (others[0], others[1])))  # noqa: RUF005


@register_jitable(forceinline=True)
def load_vault(columns: Any, i: int) -> Vault:
    """The vault in column `i` of an array [VAULT_WIDTH, N], in the order of the tuple's fields."""
    return Vault(
        columns[0, i], columns[1, i], columns[2, i], columns[3, i], columns[4, i], columns[5, i],
        columns[6, i], columns[7, i], columns[8, i], columns[9, i], columns[10, i], columns[11, i],
        columns[12, i], columns[13, i], columns[14, i], columns[15, i], columns[16, i], columns[17, i],
        columns[18, i], columns[19, i], columns[20, i], columns[21, i], columns[22, i], columns[23, i],
    )  # fmt: skip


@register_jitable(forceinline=True)
def store_vault(v: Vault, columns: Any, i: int) -> None:
    """The vault written back into its column."""
    (
        columns[0, i], columns[1, i], columns[2, i], columns[3, i], columns[4, i], columns[5, i],
        columns[6, i], columns[7, i], columns[8, i], columns[9, i], columns[10, i], columns[11, i],
        columns[12, i], columns[13, i], columns[14, i], columns[15, i], columns[16, i], columns[17, i],
        columns[18, i], columns[19, i], columns[20, i], columns[21, i], columns[22, i], columns[23, i],
    ) = v  # fmt: skip


@register_jitable
def order(
    prices: IntArray, numbers: IntArray, others: Any, columns: IntArray, i: int, bar: int, is_rebalance: bool,
    wanted_bps: int,
) -> None:  # fmt: skip
    """What was decided at the close of `bar` meets the market of the next one: the rare part of `pass_bar`."""
    p, after = unpacked(numbers, others), bar + 1
    price_e8 = spot_vault.fill_price(prices[after, OPEN_E8], prices[after, CLOSE_E8], p.terms.latency_s, p.bar_s)
    v = load_vault(columns, i)
    v = spot_vault.place(v, is_rebalance, wanted_bps, prices[bar, CLOSE_S], prices[after, OPEN_S], price_e8, p.terms)
    store_vault(v, columns, i)


@register_jitable
def settle(prices: IntArray, numbers: IntArray, others: Any, columns: IntArray, i: int, bar: int) -> None:
    """The auction of a vault that is halted at the close of `bar`: the rare part of `close_bar`."""
    p = unpacked(numbers, others)
    v = spot_vault.sell_lot(load_vault(columns, i), prices[bar, CLOSE_E8], prices[bar, CLOSE_S], p.terms)
    store_vault(v, columns, i)


@register_jitable
def restart(
    prices: IntArray, numbers: IntArray, others: Any, starts: IntArray, seed: int, flat: bool, i: int,
    columns: IntArray, bars: IntArray, steps: IntArray, counts: IntArray,
) -> None:  # fmt: skip
    """A new episode in environment `i`."""
    p = unpacked(numbers, others)
    bar, weight_bps = draw_start(starts, p, seed, i, counts[i])
    counts[i] += 1
    bars[i], steps[i] = bar, 0
    store_vault(initial(Market(prices, _NO_FEATURES, _NO_RANGE), p, bar, 0 if flat else weight_bps), columns, i)


@register_jitable
def observe(
    features: Int16Array, numbers: IntArray, others: Any, columns: IntArray, i: int, bar: int, row: Any
) -> None:
    """What an episode that has just begun sees."""
    p = unpacked(numbers, others)
    observation(Market(_NO_BARS, features, _NO_RANGE), p, load_vault(columns, i), bar, row)


@compile_cached
def restart_all(
    prices: IntArray, features: Int16Array, numbers: IntArray, others: Any, starts: IntArray, seed: int, flat: bool,
    columns: IntArray, bars: IntArray, steps: IntArray, counts: IntArray, observations: Int16Array,
) -> None:  # fmt: skip
    """New episodes everywhere, and what they see first."""
    for i in range(columns.shape[1]):
        restart(prices, numbers, others, starts, seed, flat, i, columns, bars, steps, counts)
        observe(features, numbers, others, columns, i, bars[i], observations[i])


@compile_cached
def step_all(
    prices: IntArray, features: Int16Array, numbers: IntArray, others: Any, starts: IntArray, seed: int, flat: bool,
    wanted_bps: Any, columns: IntArray, bars: IntArray, steps: IntArray, counts: IntArray, observations: Int16Array,
    finals: Int16Array, rewards: Any, terminated: Any, truncated: Any,
) -> int:  # fmt: skip
    """One decision in every environment, and a new episode where one has ended; the largest value seen.

    `transition`, `reward`, `terminal` and `observation`, but one thing after the other for a block of environments, one
    column for each number of a vault: loops without branches run on eight vaults at once. What is rare has its own
    loop, and is not inlined.
    """
    p, terms = unpacked(numbers, others), unpacked(numbers, others).terms
    largest, width = 0, observations.shape[1]
    old, now = np.empty((VAULT_WIDTH, _BLOCK), dtype=np.int64), np.empty((VAULT_WIDTH, _BLOCK), dtype=np.int64)
    wanted, closes_e8, closes_s = (
        np.empty(_BLOCK, dtype=np.int64), np.empty(_BLOCK, dtype=np.int64), np.empty(_BLOCK, dtype=np.int64),
    )  # fmt: skip
    asked, due = np.empty(_BLOCK, dtype=np.bool_), np.empty(_BLOCK, dtype=np.bool_)
    weights, drawdowns = np.empty(_BLOCK, dtype=np.int64), np.empty(_BLOCK, dtype=np.int64)
    ended, late = np.empty(_BLOCK, dtype=np.bool_), np.empty(_BLOCK, dtype=np.bool_)
    observations_flat, finals_flat = observations.reshape(-1), finals.reshape(-1)
    for low in range(0, columns.shape[1], _BLOCK):
        count = min(_BLOCK, columns.shape[1] - low)
        for k in range(VAULT_WIDTH):
            for j in range(count):
                old[k, j] = columns[k, np.uintp(low + j)]
        for k in range(VAULT_WIDTH):
            for j in range(count):
                now[k, j] = old[k, j]
        for j in range(count):
            wanted[j] = episode.clipped_weight(wanted_bps[np.uintp(low + j)], p)
        for j in range(count):
            v = load_vault(now, j)
            asked[j] = episode.is_far(spot_vault.weight_bps_of(v), wanted[j], p)
        for _ in range(p.bars_per_step):
            for j in range(count):
                due[j] = asked[j] or spot_vault.is_reducing(load_vault(now, j))
            for j in range(count):
                if due[j]:
                    order(prices, numbers, others, now, j, bars[low + j], asked[j], wanted[j])
                asked[j] = False
            for j in range(count):
                bars[low + j] += 1
                closes_e8[j], closes_s[j] = prices[bars[low + j], CLOSE_E8], prices[bars[low + j], CLOSE_S]
            for j in range(count):
                store_vault(spot_vault.sync(load_vault(now, j), closes_e8[j], closes_s[j], terms), now, j)
            for j in range(count):
                if now[_HALTED, j] != 0:
                    settle(prices, numbers, others, now, j, bars[low + j])
        for k in range(VAULT_WIDTH):
            for j in range(count):
                columns[k, np.uintp(low + j)] = now[k, j]
        for j in range(count):
            rewards[np.uintp(low + j)] = episode.reward(load_vault(old, j), load_vault(now, j), p)
        for j in range(count):
            largest = max(largest, now[_PEAK, j])
        for j in range(count):
            steps[np.uintp(low + j)] += 1
            ended[j] = terminal(load_vault(old, j), load_vault(now, j))
            late[j] = steps[np.uintp(low + j)] >= p.episode_steps and not ended[j]
        for j in range(count):
            terminated[np.uintp(low + j)], truncated[np.uintp(low + j)] = ended[j], late[j]
        for j in range(count):
            v = load_vault(now, j)
            weights[j] = episode.share_feature(spot_vault.weight_bps_of(v), p)
            drawdowns[j] = episode.share_feature(spot_vault.drawdown_bps_of(v), p)
        for j in range(count):
            bar = bars[low + j]
            for k in range(width):
                observations[low + j, k] = features[bar, k]
            if p.weight_column >= 0:
                observations[low + j, p.weight_column] = weights[j]
            if p.drawdown_column >= 0:
                observations[low + j, p.drawdown_column] = drawdowns[j]
        for k in range(low * width, (low + count) * width):
            finals_flat[np.uintp(k)] = observations_flat[np.uintp(k)]
        for i in range(low, low + count):
            if terminated[i] or truncated[i]:
                restart(prices, numbers, others, starts, seed, flat, i, columns, bars, steps, counts)
                observe(features, numbers, others, columns, i, bars[i], observations[i])
    return largest


# A policy over a series, one bar after the other.

@compile_cached
def network_output_q12(shape: IntArray, weights: IntArray, biases: IntArray, shifts: IntArray, row: Any) -> int:
    """The output of an integer network before it is squashed: see `policy`. `row`: int16 [F].

    `shape`: widths of all layers, the input's first; weights and biases of all layers one after the other; `shifts`: by
    how much the sums of each layer are shifted to q12.
    """
    values, sums = np.empty(256, dtype=np.int64), np.empty(256, dtype=np.int64)
    for k in range(shape[0]):
        values[k] = row[k]
    at, bias_at, layers = 0, 0, len(shape) - 1
    for layer in range(layers):
        inputs, outputs, shift = shape[layer], shape[layer + 1], shifts[layer]
        for out in range(outputs):
            total = biases[bias_at]
            bias_at += 1
            for k in range(inputs):
                total += weights[at + k] * values[k]
            at += inputs
            if shift > 0:
                total = (total + (1 << (shift - 1))) >> shift
            elif shift < 0:
                total = total << -shift
            sums[out] = total if layer == layers - 1 else fixedpoint.tanh_q12(total)
        values, sums = sums, values
    return values[0]


@compile_cached
def run_wanted(
    prices: IntArray, numbers: IntArray, others: Any, first: int, wanted: Any, book: IntArray, values: IntArray,
    weights_bps: Any, targets_bps: Any,
) -> None:  # fmt: skip
    """A series where all weights that are wanted are known before. Decides at every bar from `first` on.

    `book`, [VAULT_WIDTH, 1]: the vault, at the start and then at the end. Writes the equity and the weight at the close
    of each bar, and what was asked for at the bar before, -1 for nothing.
    """
    p, terms, end, i = unpacked(numbers, others), unpacked(numbers, others).terms, len(values) - 1, 0
    days, worths = np.empty(_AHEAD, dtype=np.int64), np.empty(_AHEAD, dtype=np.int64)
    closes_e8, closes_s = np.empty(_AHEAD, dtype=np.int64), np.empty(_AHEAD, dtype=np.int64)
    shares, asked_bps = np.empty(_AHEAD + 1, dtype=np.int64), np.empty(_AHEAD, dtype=np.int64)
    v = load_vault(book, 0)
    values[0], weights_bps[0] = v.last_value - v.gas_spent, spot_vault.weight_bps_of(v)
    while i < end:
        # Some bars ahead, as if nothing were ordered in them; what turns out otherwise is written again.
        v, count = load_vault(book, 0), min(_AHEAD, end - i)
        for j in range(count):
            closes_e8[j] = prices[np.uintp(first + i + 1 + j), CLOSE_E8]
            closes_s[j] = prices[np.uintp(first + i + 1 + j), CLOSE_S]
            asked_bps[j] = wanted[np.uintp(i + j)]
        shares[0] = weights_bps[i]
        for j in range(count):
            worth = spot_vault.worth_down(v.asset, closes_e8[j], terms.unit)
            worths[j], days[j] = v.quote + worth, spot_vault.day_of(closes_s[j])
            shares[j + 1] = spot_vault.share_bps(worth, v.quote + worth)
        far = 0
        for j in range(count):
            far += np.int64(episode.is_far(shares[j], asked_bps[j], p))
        quiet = count
        if far > 0:
            quiet = 0
            while not episode.is_far(shares[quiet], asked_bps[quiet], p):
                quiet += 1
        for j in range(quiet):
            values[np.uintp(i + 1 + j)] = worths[j] - v.gas_spent
        for j in range(quiet):
            weights_bps[np.uintp(i + 1 + j)] = shares[j + 1]
        for j in range(quiet):
            targets_bps[np.uintp(i + j)] = -1
        lowest, highest = v.last_value, v.last_value
        for j in range(quiet):
            lowest, highest = min(lowest, worths[j]), max(highest, worths[j])
        if spot_vault.is_quiet(v, lowest, highest, terms):
            if quiet > 0:
                v = skip(v, closes_e8, closes_s, days, worths, quiet, highest, terms)
                i += quiet
        else:
            until = i + quiet
            while i < until and not spot_vault.is_reducing(v):
                i += 1
                v = spot_vault.sync(v, prices[first + i, CLOSE_E8], prices[first + i, CLOSE_S], terms)
        store_vault(v, book, 0)
        if i < end:
            is_asked = episode.is_far(weights_bps[i], wanted[i], p)
            if is_asked or spot_vault.is_reducing(v):
                pass_one(prices, numbers, others, book, first + i, is_asked, wanted[i])
                targets_bps[i] = wanted[i] if is_asked else -1
                i += 1
                v = load_vault(book, 0)
                values[i], weights_bps[i] = v.last_value - v.gas_spent, spot_vault.weight_bps_of(v)


@register_jitable(forceinline=True)
def skip(
    v: Vault, closes_e8: IntArray, closes_s: IntArray, days: IntArray, worths: IntArray, count: int, highest: int,
    t: Terms,
) -> Vault:  # fmt: skip
    """A quiet vault after `count` bars whose days and values are known: see `spot_vault.is_quiet`."""
    last = count - 1
    for j in range(count):
        if days[j] != v.day:
            if j > 0:
                v = spot_vault.sync_at(v, closes_e8[j - 1], worths[j - 1], closes_s[j - 1], days[j - 1], t)
            v = spot_vault.sync_at(v, closes_e8[j], worths[j], closes_s[j], days[j], t)
    v = spot_vault.sync_at(v, closes_e8[last], highest, closes_s[last], days[last], t)
    return spot_vault.sync_at(v, closes_e8[last], worths[last], closes_s[last], days[last], t)


@register_jitable
def pass_one(
    prices: IntArray, numbers: IntArray, others: Any, book: IntArray, bar: int, is_rebalance: bool, wanted_bps: int
) -> None:
    """A bar with an order."""
    p, after = unpacked(numbers, others), bar + 1
    v = spot_vault.pass_bar(
        load_vault(book, 0), is_rebalance, wanted_bps, prices[bar, CLOSE_S], prices[after, OPEN_S],
        prices[after, OPEN_E8], prices[after, CLOSE_E8], prices[after, CLOSE_S], p.bar_s, p.terms,
    )  # fmt: skip
    store_vault(v, book, 0)


@compile_cached
def run_decided(
    prices: IntArray, features: Int16Array, numbers: IntArray, others: Any, first: int, shape: IntArray,
    weights: IntArray, biases: IntArray, shifts: IntArray, book: IntArray, values: IntArray, weights_bps: Any,
    targets_bps: Any,
) -> None:  # fmt: skip
    """`run_wanted` where what is wanted depends on the vault: a network's answer, or buy and hold without one."""
    p, row = unpacked(numbers, others), np.zeros(features.shape[1], dtype=np.int16)
    v = load_vault(book, 0)
    values[0], weights_bps[0] = v.last_value - v.gas_spent, spot_vault.weight_bps_of(v)
    for i in range(len(values) - 1):
        held_bps = spot_vault.weight_bps_of(v)
        if len(shape) > 1:
            observation(Market(prices, features, _NO_RANGE), p, v, first + i, row)
            squashed = fixedpoint.tanh_q12(network_output_q12(shape, weights, biases, shifts, row))
            wanted_bps = (p.max_weight_bps * (squashed + 4096) + 4096) >> 13
        else:
            wanted_bps = p.max_weight_bps if held_bps < p.max_weight_bps // 100 else held_bps
        is_rebalance = episode.is_far(held_bps, wanted_bps, p)
        pass_one(prices, numbers, others, book, first + i, is_rebalance, wanted_bps)
        v = load_vault(book, 0)
        values[i + 1], weights_bps[i + 1] = v.last_value - v.gas_spent, spot_vault.weight_bps_of(v)
        targets_bps[i] = wanted_bps if is_rebalance else -1


@compile_cached
def cross(close_e8: IntArray, fast: int, slow: int, wanted_bps: int, targets_bps: Any) -> None:
    """`wanted_bps` where the mean of the last `fast` closes is above that of the last `slow`, 0 elsewhere."""
    of_fast, of_slow = 0, 0
    for t in range(len(targets_bps)):
        of_fast += close_e8[t]
        of_slow += close_e8[t]
        if t >= fast:
            of_fast -= close_e8[np.uintp(t - fast)]
        if t >= slow:
            of_slow -= close_e8[np.uintp(t - slow)]
        is_above = t >= slow - 1 and of_fast * slow > of_slow * fast
        targets_bps[t] = wanted_bps if is_above else 0
