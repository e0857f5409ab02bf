"""The integer functions are close to the real ones, and the array versions have the same bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from eth_utils import keccak
from hypothesis import given
from hypothesis import strategies as st

from offchain_rl.fixedpoint import (
    LOG2_LIMIT,
    Q12_ONE,
    Q24_ONE,
    TANH_TABLE,
    isqrt_array,
    log2_q24,
    log2_q24_array,
    saturate_int16,
    saturate_int16_array,
    shift_right_round,
    shift_right_round_array,
    tanh_q12,
    tanh_q12_array,
)

INT48 = st.integers(-(1 << 48), 1 << 48)
POSITIVE = st.integers(0, 61).flatmap(lambda bits: st.integers(1 << bits, (2 << bits) - 1))


@pytest.mark.parametrize("value", [0, -1, LOG2_LIMIT])
def test_logarithm_refuses_what_has_none(value: int) -> None:
    with pytest.raises(ValueError, match="log2_q24 takes integers from 1"):
        log2_q24(value)
    with pytest.raises(ValueError, match="log2_q24 takes integers from 1"):
        log2_q24_array(np.array([5, value]))


def test_array_square_root_refuses_negative_numbers() -> None:
    with pytest.raises(ValueError, match="isqrt_array takes integers from 0"):
        isqrt_array(np.array([4, -1]))


@given(POSITIVE)
def test_logarithm_is_below_the_real_one_by_at_most_two_units(value: int) -> None:
    error = log2_q24(value) - math.log2(value) * Q24_ONE
    assert -2 < error < 0.01


@given(st.integers(0, 61))
def test_logarithm_of_a_power_of_two_is_exact(bits: int) -> None:
    assert log2_q24(1 << bits) == bits * Q24_ONE


@given(POSITIVE)
def test_logarithm_never_falls(value: int) -> None:
    assert log2_q24(value) <= log2_q24(min(value + 1, LOG2_LIMIT - 1))


def test_tanh_is_odd_monotone_and_close_over_its_whole_range() -> None:
    values = list(range(-40_000, 40_001))
    results = [tanh_q12(value) for value in values]
    assert results == sorted(results)
    assert results == [-result for result in reversed(results)]
    assert max(abs(r - math.tanh(v / Q12_ONE) * Q12_ONE) for v, r in zip(values, results, strict=True)) < 1
    assert (results[0], results[40_000], results[-1]) == (-Q12_ONE, 0, Q12_ONE)
    assert tanh_q12_array(np.array(values)).tolist() == results


def test_tanh_table_is_the_known_one() -> None:
    body = b"".join(entry.to_bytes(4, "big") for entry in TANH_TABLE)
    assert keccak(body).hex() == "964bf6bef0b12274669a73db3c9eec95645ee78e38514c3246920ee3be1407d6"


@pytest.mark.parametrize(("value", "bits", "expected"), [(3, 1, 2), (-3, 1, -1), (-5, 2, -1), (6, 2, 2), (7, 0, 7)])
def test_shift_rounds_to_nearest_with_halves_up(value: int, bits: int, expected: int) -> None:
    assert shift_right_round(value, bits) == expected


@given(st.lists(POSITIVE, min_size=1))
def test_array_logarithm_and_root_have_the_same_bits(values: list[int]) -> None:
    array = np.array(values, dtype=np.int64)
    assert log2_q24_array(array).tolist() == [log2_q24(value) for value in values]
    assert isqrt_array(array).tolist() == [math.isqrt(value) for value in values]


@given(st.integers(0, (1 << 31) - 1), st.integers(-1, 1))
def test_array_root_is_exact_next_to_squares(root: int, offset: int) -> None:
    value = max(root * root + offset, 0)
    assert isqrt_array(np.array([value])).tolist() == [math.isqrt(value)]


@given(st.lists(INT48, min_size=1), st.integers(0, 40))
def test_array_rounding_has_the_same_bits(values: list[int], bits: int) -> None:
    array = np.array(values, dtype=np.int64)
    assert shift_right_round_array(array, bits).tolist() == [shift_right_round(value, bits) for value in values]
    assert saturate_int16_array(array).tolist() == [saturate_int16(value) for value in values]
    assert tanh_q12_array(array).tolist() == [tanh_q12(value) for value in values]
