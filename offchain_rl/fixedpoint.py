"""Integer arithmetic with the same bits on every machine.

A number in `q24` is a real number times 2**24, kept as an integer; likewise for `q12`. Nothing here
uses floating point in a way that can reach a result. Each function says how it rounds. Every scalar
function has an array twin (`..._array`, numpy int64) that returns the same bits.

    q12   observations, activations          1.0 = 4096         range of an int16: -8 … 7.99976
    q24   logarithms, returns, volatility    1.0 = 16777216
"""

from __future__ import annotations

from math import isqrt
from typing import Final

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

Q12_BITS: Final = 12
Q12_ONE: Final = 1 << Q12_BITS
Q24_BITS: Final = 24
Q24_ONE: Final = 1 << Q24_BITS

INT8_MAX: Final = (1 << 7) - 1
INT16_MAX: Final = (1 << 15) - 1
INT16_MIN: Final = -(1 << 15)

# `log2_q24` takes integers from 1 up to, not including, this.
LOG2_LIMIT: Final = 1 << 62
_MANTISSA_BITS: Final = 30

# The tanh table covers [0, 8) in steps of 1/32; beyond 8, tanh is 1 to the last bit of q12.
_TANH_STEP_BITS: Final = 7
_TANH_ENTRIES: Final = (8 << Q12_BITS >> _TANH_STEP_BITS) + 1
_TANH_VALUE_BITS: Final = 20


def saturate_int16(value: int) -> int:
    """The nearest int16 to `value`."""
    return min(max(value, INT16_MIN), INT16_MAX)


def saturate_int16_array(values: IntArray) -> IntArray:
    """`saturate_int16` of each element."""
    return np.clip(values, INT16_MIN, INT16_MAX)


def shift_right_round(value: int, bits: int) -> int:
    """`value / 2**bits`, to the nearest integer, halves towards plus infinity."""
    if bits == 0:
        return value
    return (value + (1 << (bits - 1))) >> bits


def shift_right_round_array(values: IntArray, bits: int) -> IntArray:
    """`shift_right_round` of each element."""
    if bits == 0:
        return values
    return (values + (1 << (bits - 1))) >> bits


def log2_q24(value: int) -> int:
    """Base-two logarithm in q24, rounded towards minus infinity to within 2 units of q24.

    The leading 31 bits of `value` are kept and squared 24 times; each squaring gives one bit of the
    fraction (Knuth, TAOCP 1, exercise 1.2.2-25). Raises ValueError outside [1, 2**62).
    """
    if not 1 <= value < LOG2_LIMIT:
        raise ValueError(f"log2_q24 takes integers from 1 to 2**62 - 1, not {value}")
    exponent = value.bit_length() - 1
    if exponent <= _MANTISSA_BITS:
        mantissa = value << (_MANTISSA_BITS - exponent)
    else:
        mantissa = value >> (exponent - _MANTISSA_BITS)
    result = exponent
    for _ in range(Q24_BITS):
        mantissa = (mantissa * mantissa) >> _MANTISSA_BITS
        bit = mantissa >> (_MANTISSA_BITS + 1)
        mantissa >>= bit
        result = (result << 1) | bit
    return result


def log2_q24_array(values: IntArray) -> IntArray:
    """`log2_q24` of each element."""
    values = np.asarray(values, dtype=np.int64)
    if values.size and not (1 <= int(values.min()) and int(values.max()) < LOG2_LIMIT):
        raise ValueError("log2_q24 takes integers from 1 to 2**62 - 1")
    exponent = _bit_length_array(values) - 1
    mantissa = np.where(
        exponent <= _MANTISSA_BITS,
        values << np.maximum(_MANTISSA_BITS - exponent, 0),
        values >> np.maximum(exponent - _MANTISSA_BITS, 0),
    )
    result = exponent
    for _ in range(Q24_BITS):
        mantissa = (mantissa * mantissa) >> _MANTISSA_BITS
        bit = mantissa >> (_MANTISSA_BITS + 1)
        mantissa >>= bit
        result = (result << 1) | bit
    return result


def isqrt_array(values: IntArray) -> IntArray:
    """`math.isqrt` of each element: the square root, rounded down.

    The float square root is only a first guess, never off by more than one; the guess is corrected
    with integers, so the result does not depend on it. Elements lie in [0, 2**62).
    """
    values = np.asarray(values, dtype=np.int64)
    if values.size and not (0 <= int(values.min()) and int(values.max()) < LOG2_LIMIT):
        raise ValueError("isqrt_array takes integers from 0 to 2**62 - 1")
    guess = np.sqrt(values.astype(np.float64)).astype(np.int64)
    guess -= guess * guess > values
    guess += (guess + 1) * (guess + 1) <= values
    return guess


def sqrt_q8(value: int) -> int:
    """Square root of an integer in q8 (1.0 = 256), rounded down."""
    return isqrt(value << 16)


def tanh_q12(value_q12: int) -> int:
    """Hyperbolic tangent, q12 to q12, odd, monotone, within 1 unit of q12 of the real one.

    Linear between table entries 1/32 apart; halves round away from zero. The result is within
    [-4096, 4096].
    """
    magnitude = abs(value_q12)
    index = magnitude >> _TANH_STEP_BITS
    if index >= _TANH_ENTRIES - 1:
        result = Q12_ONE
    else:
        low, high = TANH_TABLE[index], TANH_TABLE[index + 1]
        part = magnitude & ((1 << _TANH_STEP_BITS) - 1)
        exact = (low << _TANH_STEP_BITS) + (high - low) * part
        result = shift_right_round(exact, _TANH_STEP_BITS + _TANH_VALUE_BITS - Q12_BITS)
    return result if value_q12 >= 0 else -result


def tanh_q12_array(values_q12: IntArray) -> IntArray:
    """`tanh_q12` of each element."""
    magnitude = np.abs(np.asarray(values_q12, dtype=np.int64))
    magnitude = np.minimum(magnitude, ((_TANH_ENTRIES - 1) << _TANH_STEP_BITS))
    index = np.minimum(magnitude >> _TANH_STEP_BITS, _TANH_ENTRIES - 2)
    part = magnitude - (index << _TANH_STEP_BITS)
    low, high = _TANH_ARRAY[index], _TANH_ARRAY[index + 1]
    exact = (low << _TANH_STEP_BITS) + (high - low) * part
    result = shift_right_round_array(exact, _TANH_STEP_BITS + _TANH_VALUE_BITS - Q12_BITS)
    return np.where(values_q12 >= 0, result, -result)


def _bit_length_array(values: IntArray) -> IntArray:
    """`int.bit_length` of each element, none of them negative."""
    rest, length = values.copy(), np.zeros(values.shape, dtype=np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        large = rest >= (1 << step)
        length += np.where(large, step, 0)
        rest = np.where(large, rest >> step, rest)
    return length + (rest > 0)


def _build_tanh_table() -> tuple[int, ...]:
    """tanh(k / 32) in q20 for k = 0 … 256, to the nearest integer, computed with integers only.

    tanh(x) = (E - 1) / (E + 1) with E = exp(2x) from its Taylor series in 2**-160; what the series
    leaves out is far below the rounding. The last entry is exactly 1, so that tanh is continuous.
    """
    bits = 160
    table = []
    for k in range(_TANH_ENTRIES):
        term = total = 1 << bits
        n = 1
        while term:
            term = term * k // (16 * n)
            total += term
            n += 1
        top, bottom = (total - (1 << bits)) << _TANH_VALUE_BITS, total + (1 << bits)
        table.append((2 * top + bottom) // (2 * bottom))
    table[-1] = 1 << _TANH_VALUE_BITS
    return tuple(table)


TANH_TABLE: Final = _build_tanh_table()
_TANH_ARRAY: Final = np.array(TANH_TABLE, dtype=np.int64)
