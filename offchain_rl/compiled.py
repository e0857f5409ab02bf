"""`spot_vault` compiled by numba: the same source, thousands of vaults at once, the same integers.

Nothing of the model is written again here. Every function of `spot_vault` is handed to numba as it stands; only
`mul_div_down`, whose product Python computes with as many digits as it takes, gets a version for 64 bits. The loops
below carry vaults from rows of an array into tuples and back.

Machine code is kept between processes in a folder named by the source it was made from, so that a change of the model
can never meet old code: below MARKETFLOW_CACHE_DIR, else ~/.cache/marketflow.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np
from numba import types
from numba.core import config as numba_config
from numba.extending import overload, register_jitable

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
from offchain_rl.spot_vault import Vault

VAULT_WIDTH: Final = len(Vault._fields)
# Environments that are stepped together.
_BLOCK: Final = 64
HALTED_AT: Final = Vault._fields.index("halted_at_s")
_FOLDER: Final = Path(__file__).parent
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
            step = remainder // c
            quotient += step
        return quotient

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
    (spot_vault, "sync close_bar pass_bar", True),
    (spot_vault, "worth_down worth_up mul_div_up is_below_by decayed weight_bps_of drawdown_bps_of is_reducing", False),
    (spot_vault, "open_vault asset_for_down plan _review _may_trade _no_order _pay_gas fill_price", False),
    (spot_vault, "fill slippage_after trade place auction", False),
    (reward, "step_reward", False),
    (episode, "observation reward", True),
    (episode, "terminal saturated initial draw_start", False),
):
    for _name in _names.split():
        register_jitable(forceinline=_is_inlined)(getattr(_module, _name))


def _cache_folder() -> str:
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in _SOURCES)).hexdigest()[:16]
    named = os.environ.get("MARKETFLOW_CACHE_DIR")
    return str(Path(named or Path.home() / ".cache" / "marketflow") / "compiled" / digest)


def compile_cached(function: Any, **options: Any) -> Any:
    """The function compiled, without the interpreter's checks; kept on disk for the next process where that can be.

    `options` are numba's. Files of a function in another module are made anew when that module changes.
    """
    options = {"error_model": "numpy", "nogil": True} | options
    before = numba_config.CACHE_DIR
    numba_config.CACHE_DIR = _cache_folder()
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # the folder can't be written: compiled anew each time
        return numba.njit(**options)(function)
    finally:
        numba_config.CACHE_DIR = before
    _forgive_damage(compiled._cache)
    return compiled


def _forgive_damage(cache: Any) -> None:
    """Files that were cut short, by a full disk or a power cut, are thrown away and made again."""
    load = cache.load_overload

    def load_or_forget(signature: Any, context: Any) -> Any:
        try:
            return load(signature, context)
        except Exception:
            cache.flush()
            return None

    cache.load_overload = load_or_forget


@register_jitable(forceinline=True)
def load_vault(row: Any) -> Vault:
    """A vault from a row of VAULT_WIDTH integers, in the order of the tuple's fields."""
    return Vault(
        row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], row[9], row[10], row[11],
        row[12], row[13], row[14], row[15], row[16], row[17], row[18], row[19], row[20], row[21], row[22], row[23],
    )  # fmt: skip


@register_jitable(forceinline=True)
def store_vault(v: Vault, row: Any) -> None:
    """The vault written back into its row."""
    (
        row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], row[9], row[10], row[11],
        row[12], row[13], row[14], row[15], row[16], row[17], row[18], row[19], row[20], row[21], row[22], row[23],
    ) = v  # fmt: skip


@compile_cached
def restart(
    market: Market, p: Params, starts: IntArray, seed: int, flat: bool, i: int, rows: IntArray, bars: IntArray,
    steps: IntArray, counts: IntArray,
) -> None:  # fmt: skip
    """A new episode in environment `i`."""
    bar, weight_bps = draw_start(starts, p, seed, i, counts[i])
    counts[i] += 1
    bars[i], steps[i] = bar, 0
    store_vault(initial(market, p, bar, 0 if flat else weight_bps), rows[i])


@compile_cached
def restart_all(
    market: Market, p: Params, starts: IntArray, seed: int, flat: bool, rows: IntArray, bars: IntArray,
    steps: IntArray, counts: IntArray, observations: Int16Array,
) -> None:  # fmt: skip
    """New episodes everywhere, and what they see first."""
    for i in range(rows.shape[0]):
        restart(market, p, starts, seed, flat, i, rows, bars, steps, counts)
        observation(market, p, load_vault(rows[i]), bars[i], observations[i])


@compile_cached
def pass_bars(
    market: Market, p: Params, low: int, high: int, is_asked: bool, wanted_bps: Any, rows: IntArray, bars: IntArray
) -> None:
    """`episode.next_bar` for the environments from `low` to `high`, `is_asked` in the first bar of a step.

    What most vaults need in most bars, `sync`, has a loop of its own: beside the calls that few need, a vault would not
    stay in registers.
    """
    t = p.terms
    for i in range(low, high):
        v, bar = load_vault(rows[i]), bars[i]
        wanted = min(max(np.int64(wanted_bps[i]), 0), p.max_weight_bps)
        is_rebalance = is_asked and abs(wanted - spot_vault.weight_bps_of(v)) >= max(p.deadband_bps, 1)
        if is_rebalance or spot_vault.is_reducing(v):
            row = market.bars[bar + 1]
            price_e8 = spot_vault.fill_price(row[OPEN_E8], row[CLOSE_E8], t.latency_s, p.bar_s)
            decided_s = market.bars[bar, CLOSE_S]
            store_vault(spot_vault.place(v, is_rebalance, wanted, decided_s, row[OPEN_S], price_e8, t), rows[i])
    for i in range(low, high):
        bars[i] += 1
        row = market.bars[bars[i]]
        store_vault(spot_vault.sync(load_vault(rows[i]), row[CLOSE_E8], row[CLOSE_S], t), rows[i])
    for i in range(low, high):
        if rows[i, HALTED_AT] != 0:
            row = market.bars[bars[i]]
            store_vault(spot_vault.close_bar(load_vault(rows[i]), row[CLOSE_E8], row[CLOSE_S], t), rows[i])


@compile_cached
def step_all(
    market: Market, p: Params, starts: IntArray, seed: int, flat: bool, wanted_bps: Any, rows: IntArray, bars: IntArray,
    steps: IntArray, counts: IntArray, observations: Int16Array, finals: Int16Array, rewards: Any, terminated: Any,
    truncated: Any,
) -> int:  # fmt: skip
    """One decision in every environment, and a new episode where one has ended; the largest value seen.

    Some environments at a time, so that they stay in the fastest cache, and one thing after the other for all of them,
    so that each loop stays in registers: half the time of doing everything for one environment after the other.
    """
    largest, width = 0, observations.shape[1]
    before = np.empty((_BLOCK, VAULT_WIDTH), dtype=np.int64)
    for low in range(0, rows.shape[0], _BLOCK):
        high = min(low + _BLOCK, rows.shape[0])
        for i in range(low, high):
            for k in range(VAULT_WIDTH):
                before[i - low, k] = rows[i, k]
        for k in range(p.bars_per_step):
            pass_bars(market, p, low, high, k == 0, wanted_bps, rows, bars)
        for i in range(low, high):
            steps[i] += 1
        for i in range(low, high):
            old, new = load_vault(before[i - low]), load_vault(rows[i])
            rewards[i] = episode.reward(old, new, p)
            terminated[i] = terminal(old, new)
            truncated[i] = steps[i] >= p.episode_steps and not terminated[i]
            largest = max(largest, new.peak_value)
        for i in range(low, high):
            observation(market, p, load_vault(rows[i]), bars[i], observations[i])
        for i in range(low, high):
            for k in range(width):
                finals[i, k] = observations[i, k]
        for i in range(low, high):
            if terminated[i] or truncated[i]:
                restart(market, p, starts, seed, flat, i, rows, bars, steps, counts)
                observation(market, p, load_vault(rows[i]), bars[i], observations[i])
    return largest


# A policy over a series, one bar after the other.

WANTED: Final = 0
BUY_AND_HOLD: Final = 1
NETWORK: Final = 2


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
def run_bars(
    market: Market, p: Params, first: int, v: Vault, mode: int, wanted: Any, shape: IntArray, weights: IntArray,
    biases: IntArray, shifts: IntArray, values: IntArray, weights_bps: Any, targets_bps: Any,
) -> Vault:  # fmt: skip
    """The vault at the end of a series. Decides at every bar from `first` on; writes the equity and the weight at the
    close of each bar, and what was asked for at the bar before, -1 for nothing."""
    row = np.zeros(market.features.shape[1], dtype=np.int16)
    values[0], weights_bps[0] = v.last_value, spot_vault.weight_bps_of(v)
    held_bps = spot_vault.weight_bps_of(v)
    for i in range(len(values) - 1):
        bar = first + i
        if mode == WANTED:
            wanted_bps = wanted[i]
        elif mode == BUY_AND_HOLD:
            wanted_bps = p.max_weight_bps if held_bps < p.max_weight_bps // 100 else held_bps
        else:
            observation(market, p, v, bar, row)
            squashed = fixedpoint.tanh_q12(network_output_q12(shape, weights, biases, shifts, row))
            wanted_bps = (p.max_weight_bps * (squashed + 4096) + 4096) >> 13
        distance = abs(wanted_bps - held_bps)
        is_rebalance = distance > 0 and distance >= p.deadband_bps
        v = spot_vault.pass_bar(
            v, is_rebalance, wanted_bps, market.bars[bar, 3], market.bars[bar + 1, 2], market.bars[bar + 1, 0],
            market.bars[bar + 1, 1], market.bars[bar + 1, 3], p.bar_s, p.terms,
        )  # fmt: skip
        held_bps = spot_vault.weight_bps_of(v)
        values[i + 1], weights_bps[i + 1] = v.last_value - v.gas_spent, held_bps
        targets_bps[i] = wanted_bps if is_rebalance else -1
    return v
