"""The pool model: what it refuses, the constants of Uniswap's own tests, and real pools replayed to the last unit.

`tests/contracts/unit/test_uniswap_v3_model.py` runs it beside the real byte code.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, dataclass, replace
from functools import cache
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offchain_rl import spot_vault
from offchain_rl.uniswap_v3 import (
    MAX_SQRT_RATIO,
    MAX_TICK,
    MIN_SQRT_RATIO,
    MIN_TICK,
    Q96,
    PoolState,
    Swap,
    SwapStep,
    Tick,
    Ticks,
    approximate_fill,
    approximate_swap,
    burn,
    compute_swap_step,
    empty_pool,
    max_liquidity_per_tick,
    mint,
    next_price_from_input,
    next_price_from_output,
    price_e8,
    sqrt_ratio_at_tick,
    swap,
    tick_at_sqrt_ratio,
    virtual_quote_reserve,
)

WAD = 10**18
# Enough to reach any price limit.
ENDLESS = 2**200
checked = settings(max_examples=100, deadline=None, derandomize=True)


def price_of(amount1: int, amount0: int) -> int:
    return isqrt((amount1 << 192) // amount0)


def create_pool(fee: int = 3000, tick_spacing: int = 60, tick: int = 0) -> PoolState:
    """Three ranges around a tick, the narrowest with the most liquidity."""
    pool = empty_pool(fee=fee, tick_spacing=tick_spacing, sqrt_price_x96=sqrt_ratio_at_tick(tick) + 1)
    middle = tick // tick_spacing * tick_spacing
    for width, liquidity in ((100, 10**20), (10, 10**21), (1, 10**22)):
        lower, upper = middle - width * tick_spacing, middle + width * tick_spacing
        pool = mint(pool, tick_lower=lower, tick_upper=upper, liquidity=liquidity).pool
    return pool


# Refusals


@pytest.mark.parametrize("tick", [MIN_TICK - 1, MAX_TICK + 1])
def test_a_tick_without_a_price_is_refused(tick: int) -> None:
    with pytest.raises(ValueError, match=f"tick {tick} lies outside"):
        sqrt_ratio_at_tick(tick)


@pytest.mark.parametrize("price", [0, MIN_SQRT_RATIO - 1, MAX_SQRT_RATIO])
def test_a_price_without_a_tick_is_refused(price: int) -> None:
    with pytest.raises(ValueError, match=f"sqrt_price_x96 {price} lies outside"):
        tick_at_sqrt_ratio(price)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fee": -1}, "fee is -1"),
        ({"fee": 1_000_000}, "fee is 1000000"),
        ({"tick_spacing": 0}, "tick_spacing is 0"),
        ({"tick_spacing": 16_384}, "tick_spacing is 16384"),
        ({"fee_protocol0": 3}, "fee_protocol is 3"),
        # In one file of a real pool the observations stand in this field.
        ({"fee_protocol1": 200}, "fee_protocol is 200"),
        ({"sqrt_price_x96": 1}, "sqrt_price_x96 1 lies outside"),
        ({"tick": 1}, "tick 1 is not that of sqrt_price_x96"),
        ({"tick": -1}, "tick -1 is not that of sqrt_price_x96"),
        ({"liquidity": 5}, "liquidity is 5, but the ticks up to 0 sum to"),
        ({"ticks": Ticks(first=60, last=120)}, "outside the window of known ticks, 60 to 120: read more"),
        ({"ticks": Ticks(first=-120, last=-60)}, "outside the window of known ticks, -120 to -60: read more"),
    ],
)
def test_a_state_that_no_pool_can_be_in_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(create_pool(), **change)


@pytest.mark.parametrize(
    ("ticks", "sentence"),
    [
        (lambda: Ticks((Tick(60, 1, 1), Tick(0, 1, -1))), "tick 0 comes after tick 60: sort"),
        (lambda: Ticks((Tick(0, 1, 1), Tick(0, 1, -1))), "tick 0 comes after tick 0"),
        (lambda: Ticks((Tick(0, 0, 0),)), "tick 0: liquidity_gross is 0"),
        (lambda: Ticks((Tick(0, 2**128, 0),)), "tick 0: liquidity_gross is"),
        (lambda: Ticks((Tick(0, 1, 3), Tick(60, 3, -3))), "tick 0: liquidity_net 3 can't be of liquidity_gross 1"),
        (lambda: Ticks((Tick(0, 2, 1), Tick(60, 1, -1))), "tick 0: liquidity_net 1 can't be of liquidity_gross 2"),
        (lambda: Ticks((Tick(0, 1, -1), Tick(60, 1, 1))), "tick 0: above it -1 of liquidity"),
        (lambda: Ticks((Tick(0, 1, 1), Tick(60, 3, -3)), last=60), "tick 60: above it -2 of liquidity"),
        (lambda: Ticks((Tick(0, 5, 5),)), "sums to 5, not 0: some are missing"),
        (lambda: Ticks(first=60, last=0), "the window of ticks from 60 to 0"),
        (lambda: Ticks(first=MIN_TICK - 1), "the window of ticks from -887273"),
        (lambda: Ticks(last=MAX_TICK + 1), "the window of ticks from -887272 to 887273"),
        (lambda: Ticks((Tick(0, 1, 1), Tick(60, 1, -1)), last=59), "tick 60 lies outside the window from -887272"),
        (lambda: Ticks((Tick(0, 1, 1),), first=1, last=60), "tick 0 lies outside the window from 1 to 60"),
        (lambda: Ticks(liquidity_below=1, last=60), "liquidity_below is 1"),
        (lambda: Ticks(liquidity_below=-1, first=0), "liquidity_below is -1"),
    ],
)
def test_ticks_that_no_pool_can_have_are_refused(ticks: Callable[[], Ticks], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ticks()


@pytest.mark.parametrize("zero_for_one", [True, False])
@pytest.mark.parametrize("amount", [0, 2**255, -(2**255)])
def test_a_swap_of_nothing_or_of_too_much_is_refused(zero_for_one: bool, amount: int) -> None:
    with pytest.raises(ValueError, match="amount_specified is"):
        swap(create_pool(), zero_for_one=zero_for_one, amount_specified=amount)


@pytest.mark.parametrize(
    ("zero_for_one", "limit"),
    [
        (True, Q96 + 1),
        (True, Q96 * 2),
        (True, MIN_SQRT_RATIO),
        (False, Q96 + 1),
        (False, Q96 // 2),
        (False, MAX_SQRT_RATIO),
    ],
)
def test_a_limit_behind_the_price_or_beyond_all_prices_is_refused(zero_for_one: bool, limit: int) -> None:
    assert create_pool().sqrt_price_x96 == Q96 + 1
    with pytest.raises(ValueError, match=f"sqrt_price_limit_x96 is {limit}"):
        swap(create_pool(), zero_for_one=zero_for_one, amount_specified=1, sqrt_price_limit_x96=limit)


@pytest.mark.parametrize("name", ["mint", "burn"])
@pytest.mark.parametrize(
    ("lower", "upper", "sentence"),
    [
        (60, 60, "tick_lower 60 is not below tick_upper 60"),
        (120, 60, "tick_lower 120 is not below"),
        (-887_280, 60, "tick_lower -887280 lies outside the known ticks"),
        (60, 887_280, "tick_upper 887280 lies outside the known ticks"),
        (61, 120, "tick_lower 61 is no multiple of the spacing, 60"),
        (60, 121, "tick_upper 121 is no multiple of the spacing, 60"),
    ],
)
def test_a_range_that_can_not_be_is_refused(name: str, lower: int, upper: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        {"mint": mint, "burn": burn}[name](create_pool(), tick_lower=lower, tick_upper=upper, liquidity=1)


def test_minting_nothing_or_more_than_a_tick_may_have_is_refused() -> None:
    pool, most = create_pool(), max_liquidity_per_tick(60)
    with pytest.raises(ValueError, match="liquidity is 0"):
        mint(pool, tick_lower=120, tick_upper=180, liquidity=0)
    full = mint(pool, tick_lower=120, tick_upper=180, liquidity=most).pool
    with pytest.raises(ValueError, match=r"tick 180 would have \d+ of liquidity, more than the \d+ that a tick may"):
        mint(full, tick_lower=0, tick_upper=180, liquidity=1)


def test_burning_what_a_range_has_not_is_refused() -> None:
    pool = create_pool()
    with pytest.raises(ValueError, match="liquidity is -1"):
        burn(pool, tick_lower=-60, tick_upper=60, liquidity=-1)
    with pytest.raises(ValueError, match=r"tick -60 has 1\d+ of liquidity: \d+ can't be burnt"):
        burn(pool, tick_lower=-60, tick_upper=60, liquidity=10**22 + 1)
    with pytest.raises(ValueError, match="tick 120 has 0 of liquidity"):
        burn(pool, tick_lower=-60, tick_upper=120, liquidity=1)
    # Both ticks have as much, but as ends: no range can begin where one ends.
    with pytest.raises(ValueError, match="tick 60: liquidity_net"):
        burn(pool, tick_lower=60, tick_upper=600, liquidity=10**21)


def test_a_swap_that_leaves_the_known_ticks_is_refused() -> None:
    whole = create_pool()
    rows = [row for row in whole.ticks.rows if abs(row.index) <= 600]
    window = Ticks.of_window(rows, first=-660, last=660, tick=0, liquidity=whole.liquidity)
    part = replace(whole, ticks=window)
    for zero_for_one in (True, False):
        amount = WAD
        inside, there = (swap(p, zero_for_one=zero_for_one, amount_specified=amount) for p in (part, whole))
        assert inside[1:] == there[1:]
        with pytest.raises(ValueError, match=r"outside the window of known ticks, -660 to 660: read more of them"):
            swap(part, zero_for_one=zero_for_one, amount_specified=WAD * WAD)
    with pytest.raises(ValueError, match="tick_upper 720 lies outside the known ticks, -660 to 660"):
        mint(part, tick_lower=0, tick_upper=720, liquidity=1)


def test_a_price_beyond_160_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="put in less"):
        next_price_from_input(Q96, 1, 2**160, zero_for_one=False)
    with pytest.raises(ValueError, match="take less"):
        next_price_from_output(Q96, 2**127, 2**127 - 1, zero_for_one=False)


@pytest.mark.parametrize("zero_for_one", [True, False])
def test_more_than_the_liquidity_has_can_not_come_out(zero_for_one: bool) -> None:
    with pytest.raises(ValueError, match="liquidity 1024 has not 1024 of token"):
        next_price_from_output(Q96, 1024, 1024, zero_for_one=zero_for_one)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"amount_in": -1}, "amount_in is -1"),
        ({"price_e8": 0}, "price_e8 is 0"),
        ({"depth_quote": 0}, "depth_quote is 0"),
        ({"unit": 0}, "unit is 0"),
        ({"quote_unit": 0}, "quote_unit is 0"),
        ({"fee_bps": -1}, "fee_bps is -1"),
        ({"fee_bps": 10_000}, "fee_bps is 10000"),
    ],
)
def test_an_approximation_of_nonsense_is_refused(change: dict[str, int], sentence: str) -> None:
    arguments = {"amount_in": 1, "price_e8": 1, "depth_quote": 1, "fee_bps": 5, "unit": 1, "quote_unit": 1, **change}
    with pytest.raises(ValueError, match=sentence):
        approximate_fill(arguments.pop("amount_in"), is_buy=True, **arguments)


def test_a_pool_without_liquidity_or_with_part_of_a_basis_point_has_no_approximation() -> None:
    empty = empty_pool(fee=500, tick_spacing=10, sqrt_price_x96=Q96)
    with pytest.raises(ValueError, match="no liquidity is in range at tick 0"):
        approximate_swap(empty, 1, is_buy=True, quote_is_token0=True, unit=WAD)
    with pytest.raises(ValueError, match="fee 450 is no whole number of basis points"):
        approximate_swap(replace(create_pool(), fee=450), 1, is_buy=True, quote_is_token0=True, unit=WAD)


def test_a_state_can_not_be_changed() -> None:
    pool = create_pool()
    swap(pool, zero_for_one=True, amount_specified=10 * WAD)
    mint(pool, tick_lower=0, tick_upper=60, liquidity=1)
    assert pool == create_pool()
    with pytest.raises(FrozenInstanceError):
        pool.tick = 1  # type: ignore[misc]


# What Uniswap's own tests say: https://github.com/Uniswap/v3-core/tree/v1.0.0/test


def test_ticks_have_the_prices_of_tick_math() -> None:
    assert sqrt_ratio_at_tick(0) == Q96
    assert sqrt_ratio_at_tick(MIN_TICK) == MIN_SQRT_RATIO == 4_295_128_739
    assert sqrt_ratio_at_tick(MIN_TICK + 1) == 4_295_343_490
    assert sqrt_ratio_at_tick(MAX_TICK - 1) == 1_461_373_636_630_004_318_706_518_188_784_493_106_690_254_656_249
    assert sqrt_ratio_at_tick(MAX_TICK) == MAX_SQRT_RATIO


def test_prices_have_the_ticks_of_tick_math() -> None:
    pairs = {MIN_SQRT_RATIO: MIN_TICK, 4_295_343_490: MIN_TICK + 1, Q96: 0, MAX_SQRT_RATIO - 1: MAX_TICK - 1}
    assert {price: tick_at_sqrt_ratio(price) for price in pairs} == pairs


@checked
@given(tick=st.integers(MIN_TICK + 1, MAX_TICK - 1))
def test_a_tick_begins_at_its_price_and_not_before(tick: int) -> None:
    price = sqrt_ratio_at_tick(tick)
    assert (tick_at_sqrt_ratio(price - 1), tick_at_sqrt_ratio(price)) == (tick - 1, tick)


def test_liquidity_per_tick_is_bounded_as_in_the_contract() -> None:
    assert max_liquidity_per_tick(10) == 1_917_569_901_783_203_986_719_870_431_555_990
    assert max_liquidity_per_tick(60) == 11_505_743_598_341_114_571_880_798_222_544_994
    assert max_liquidity_per_tick(200) == 38_350_317_471_085_141_830_651_933_667_504_588


CAPPED = SwapStep(price_of(101, 100), 9_975_124_224_178_055, 9_925_619_580_021_728, 5_988_667_735_148)
LOW = 20_282_409_603_651_670_423_947_251_286_016


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((price_of(1, 1), price_of(101, 100), 2 * WAD, WAD, 600), CAPPED),
        ((price_of(1, 1), price_of(101, 100), 2 * WAD, -WAD, 600), CAPPED),
        (
            (price_of(1, 1), price_of(1000, 100), 2 * WAD, WAD, 600),
            SwapStep(118_818_475_322_642_227_089_037_862_318, 999_400 * 10**12, 666_399_946_655_997_866, 600 * 10**12),
        ),
        (
            (price_of(1, 1), price_of(10_000, 100), 2 * WAD, -WAD, 600),
            SwapStep(2 * Q96, 2 * WAD, WAD, 1_200_720_432_259_356),
        ),
        (
            (417332158212080721273783715441582, 1452870262520218020823638996, 159344665391607089467575320103, -1, 1),
            SwapStep(417332158212080721273783715441581, 1, 1, 1),
        ),
        (
            (2, 1, 1, 3915081100057732413702495386755767, 1),
            SwapStep(1, 39614081257132168796771975168, 0, 39614120871253040049813),
        ),
        ((2413, 79887613182836312, 1985041575832132834610021537970, 10, 1872), SwapStep(2413, 0, 0, 10)),
        ((LOW, LOW * 11 // 10, 1024, -4, 3000), SwapStep(LOW * 11 // 10, 26_215, 0, 79)),
        ((LOW, LOW * 9 // 10, 1024, -263_000, 3000), SwapStep(LOW * 9 // 10, 1, 26_214, 1)),
    ],
)
def test_steps_are_those_of_swap_math(arguments: tuple[int, ...], expected: SwapStep) -> None:
    assert compute_swap_step(*arguments) == expected


# The swap loop


pools = st.builds(
    create_pool, fee=st.sampled_from([100, 500, 3000]), tick_spacing=st.sampled_from([1, 10, 60]),
    tick=st.integers(-200_000, 200_000),
)  # fmt: skip


@checked
@given(pool=pools, zero_for_one=st.booleans(), power=st.floats(0, 70))
def test_going_there_and_back_never_pays(pool: PoolState, zero_for_one: bool, power: float) -> None:
    there = swap(pool, zero_for_one=zero_for_one, amount_specified=int(2**power))
    got = -(there.amount1 if zero_for_one else there.amount0)
    if got == 0:
        return
    back = swap(there.pool, zero_for_one=not zero_for_one, amount_specified=got)
    assert there.amount0 + back.amount0 >= 0
    assert there.amount1 + back.amount1 >= 0


@checked
@given(pool=pools, zero_for_one=st.booleans(), ticks=st.integers(2, 50), part=st.floats(0.01, 0.99))
def test_two_parts_never_pay_more_than_the_whole(pool: PoolState, zero_for_one: bool, ticks: int, part: float) -> None:
    """Without a fee: of a fee the first part leaves something for the pool, and the second a little less."""
    free = replace(pool, fee=0)
    limit = sqrt_ratio_at_tick(pool.tick + (-ticks if zero_for_one else ticks))
    at_once = swap(free, zero_for_one=zero_for_one, amount_specified=ENDLESS, sqrt_price_limit_x96=limit)
    whole = max(at_once.amount0, at_once.amount1)
    first = int(whole * part)
    if not 0 < first < whole:
        return
    at_once = swap(free, zero_for_one=zero_for_one, amount_specified=whole)
    one = swap(free, zero_for_one=zero_for_one, amount_specified=first)
    two = swap(one.pool, zero_for_one=zero_for_one, amount_specified=whole - first)
    assert one.amount0 + two.amount0 >= at_once.amount0
    assert one.amount1 + two.amount1 >= at_once.amount1


def test_a_swap_stops_at_its_limit() -> None:
    limit = sqrt_ratio_at_tick(-30)
    done = swap(create_pool(), zero_for_one=True, amount_specified=ENDLESS, sqrt_price_limit_x96=limit)
    assert (done.pool.sqrt_price_x96, done.pool.tick) == (limit, -30)
    assert 0 < done.amount0 < ENDLESS


def test_exactly_what_is_asked_for_comes_out() -> None:
    done = swap(create_pool(), zero_for_one=False, amount_specified=-70 * WAD)
    assert done.amount0 == -70 * WAD
    assert done.ticks_crossed == 2


def test_an_exhausted_pool_gives_what_it_has() -> None:
    """As the contract does; that less came out is for the caller to see."""
    done = swap(create_pool(), zero_for_one=True, amount_specified=ENDLESS)
    assert (done.pool.sqrt_price_x96, done.pool.liquidity, done.ticks_crossed) == (MIN_SQRT_RATIO + 1, 0, 3)
    assert 0 < done.amount0 < ENDLESS


def test_a_tick_reached_from_above_is_crossed_and_left_below() -> None:
    limit = sqrt_ratio_at_tick(-60)
    done = swap(create_pool(), zero_for_one=True, amount_specified=ENDLESS, sqrt_price_limit_x96=limit)
    assert (done.pool.sqrt_price_x96, done.pool.tick, done.ticks_crossed) == (limit, -61, 1)
    assert done.pool.liquidity == 10**21 + 10**20


def test_the_protocol_takes_its_part_of_the_fee_and_nothing_of_the_swap() -> None:
    pool = create_pool()
    shared = replace(pool, fee_protocol0=4, fee_protocol1=10)
    for zero_for_one, part in ((True, 4), (False, 10)):
        plain, taken = (swap(p, zero_for_one=zero_for_one, amount_specified=WAD) for p in (pool, shared))
        assert plain[1:] == taken[1:]
        assert taken.pool.protocol_fees0 + taken.pool.protocol_fees1 == taken.fee_amount // part
        for name in ("fee_growth_global0_x128", "fee_growth_global1_x128"):
            assert getattr(taken.pool, name) <= getattr(plain.pool, name)


def test_what_was_minted_and_burnt_is_as_if_it_had_never_been() -> None:
    pool = create_pool()
    minted = mint(pool, tick_lower=-120, tick_upper=240, liquidity=12_345)
    burnt = burn(minted.pool, tick_lower=-120, tick_upper=240, liquidity=12_345)
    assert burnt.pool == pool
    assert 0 <= minted.amount0 - burnt.amount0 <= 1
    assert 0 <= minted.amount1 - burnt.amount1 <= 1
    assert burn(pool, tick_lower=-60, tick_upper=60, liquidity=0).pool == pool


# The approximation


@checked
@given(
    side=st.sampled_from([spot_vault.BUY, spot_vault.SELL]),
    amount=st.integers(1, 2**45),
    price=st.integers(1, 10**13),
    depth=st.integers(1, 2**60 - 1),
    fee_bps=st.integers(0, 100),
    decimals=st.integers(6, 12),
)
def test_the_approximation_is_the_fill_of_the_vaults(
    side: int, amount: int, price: int, depth: int, fee_bps: int, decimals: int
) -> None:
    costs = spot_vault.Costs(fee_bps=fee_bps, slippage_bps=0, depth_quote=depth)
    terms = spot_vault.terms_of(costs, spot_vault.UNLIMITED, spot_vault.Rules(), unit=10**decimals)
    ours = approximate_fill(
        amount, is_buy=side == spot_vault.BUY, price_e8=price, depth_quote=depth, fee_bps=fee_bps, unit=10**decimals
    )
    assert ours == spot_vault.fill(side, amount, price, terms)


@pytest.mark.parametrize("quote_is_token0", [True, False])
def test_reserve_and_price_are_those_of_the_quote(quote_is_token0: bool) -> None:
    """At 4 of token1 for one token0, 10^20 of liquidity is 5 x 10^19 of token0 and 2 x 10^20 of token1."""
    wide = mint(
        empty_pool(fee=500, tick_spacing=10, sqrt_price_x96=2 * Q96), tick_lower=0, tick_upper=50_000, liquidity=10**20
    ).pool
    depth = virtual_quote_reserve(wide, quote_is_token0=quote_is_token0)
    assert depth == (5 * 10**19 if quote_is_token0 else 2 * 10**20)
    price = price_e8(wide, quote_is_token0=quote_is_token0, unit=WAD, quote_unit=WAD)
    assert price == (25_000_000 if quote_is_token0 else 400_000_000)


@checked
@given(
    tick=st.integers(190_000, 210_000), quote_is_token0=st.booleans(), is_buy=st.booleans(), share=st.floats(-6, -2)
)
def test_within_one_range_the_approximation_is_all_but_exact(
    tick: int, quote_is_token0: bool, is_buy: bool, share: float
) -> None:
    """And never better than the pool: what is rounded is rounded against the trader."""
    at = tick if quote_is_token0 else -tick
    pool = empty_pool(fee=500, tick_spacing=10, sqrt_price_x96=sqrt_ratio_at_tick(at) + 1)
    pool = mint(pool, tick_lower=-887_270, tick_upper=887_270, liquidity=10**19).pool
    units = {"unit": WAD, "quote_unit": 10**6}
    amount = int(virtual_quote_reserve(pool, quote_is_token0=quote_is_token0) * 10**share)
    if not is_buy:
        amount = amount * WAD * 100 // price_e8(pool, quote_is_token0=quote_is_token0, **units)
    exact = swap(pool, zero_for_one=is_buy == quote_is_token0, amount_specified=amount)
    got = -min(exact.amount0, exact.amount1)
    guess = approximate_swap(pool, amount, is_buy=is_buy, quote_is_token0=quote_is_token0, **units)
    assert got - got // 10**6 - 2 <= guess <= got


# Real pools


class SwapEvent(NamedTuple):
    amount0: int
    amount1: int
    sqrt_price_x96: int
    tick: int
    liquidity: int


class RangeEvent(NamedTuple):
    """A mint, or, with a negative delta, a burn. No amounts: not known."""

    tick_lower: int
    tick_upper: int
    delta: int
    amounts: tuple[int, int] | None


def same_swap(pool: PoolState, event: SwapEvent) -> tuple[str, Swap] | None:
    """The swap that leaves what the event says: its caller gave the input, the output, or a limit for the price."""
    zero_for_one = event.amount0 > 0
    given_in, taken_out = sorted((event.amount0, event.amount1), reverse=True)
    for how, amount, limit in (("in", given_in, None), ("out", taken_out, None), ("limit", ENDLESS, event[2])):
        try:
            done = swap(pool, zero_for_one=zero_for_one, amount_specified=amount, sqrt_price_limit_x96=limit)
        except ValueError:  # it would have left the known ticks, or the price has not moved
            continue
        after = done.pool
        if (done.amount0, done.amount1, after.sqrt_price_x96, after.tick, after.liquidity) == event:
            return how, done
    return None


def load(folder: Path, pattern: str) -> Any:
    (path,) = folder.glob(f"uniswap_v3/{pattern}")
    with gzip.open(path, "rt") as file:
        return list(csv.DictReader(file)) if ".csv" in path.name else json.load(file)["data"]


def wbtc_pool(data: dict[str, Any]) -> PoolState:
    """The file has a window of 600 ticks. Its "feeProtocol" is another field of slot0: the fees earned say none."""
    rows = {int(index): (row["liquidityGross"], row["liquidityNet"]) for index, row in data["ticks"].items()}
    tick, liquidity = data["slot0"]["tick"], data["liquidity"]
    triples = [(index, *row) for index, row in rows.items()]
    ticks = Ticks.of_window(triples, first=min(rows), last=max(rows), tick=tick, liquidity=liquidity)
    return PoolState(
        fee=data["fee"],
        tick_spacing=data["tickSpacing"],
        sqrt_price_x96=data["slot0"]["sqrtPriceX96"],
        tick=tick,
        liquidity=liquidity,
        ticks=ticks,
        fee_growth_global0_x128=data["feeGrowthGlobal0X128"],
        fee_growth_global1_x128=data["feeGrowthGlobal1X128"],
    )


@cache
def wbtc_day(folder: Path) -> tuple[list[PoolState], Counter[str]]:
    """The states of the WBTC-WETH pool, before and after each of the day's transactions, all of which must match."""
    states, how = [wbtc_pool(load(folder, "*.pool.json.gz"))], Counter[str]()
    for row in load(folder, "*.transactions.json.gz"):
        if row["method"] == "SWAP":
            event = SwapEvent(*(row[k] for k in ("amount0", "amount1", "sqrtPriceX96", "tick", "liquidity")))
            found = same_swap(states[-1], event)
            assert found, row
            how[found[0]] += 1
            states.append(found[1].pool)
            continue
        is_mint = row["method"] == "MINT"
        change = (mint if is_mint else burn)(
            states[-1], tick_lower=row["tickLower"], tick_upper=row["tickUpper"], liquidity=row["amount"]
        )
        assert change.amount1 == row["amount1"], row
        # In the file the amount0 of a burn repeats its liquidity.
        assert change.amount0 == row["amount0"] or not is_mint, row
        how[row["method"]] += 1
        states.append(change.pool)
    return states, how


@pytest.mark.shared_data
def test_a_real_pool_is_replayed_to_the_state_that_it_came_to(shared_data: Path) -> None:
    states, how = wbtc_day(shared_data)
    after, expected = states[-1], wbtc_pool(load(shared_data, "*.poolAfter.json.gz"))
    assert how == {"in": 313, "out": 16, "MINT": 19, "BURN": 31}
    for name in ("sqrt_price_x96", "tick", "liquidity", "fee_growth_global0_x128", "fee_growth_global1_x128"):
        assert getattr(after, name) == getattr(expected, name), name
    # The second file's window is one tick lower than the first's.
    first, last = after.ticks.first, expected.ticks.last
    assert [row for row in after.ticks.rows if row.index <= last] == [
        row for row in expected.ticks.rows if row.index >= first
    ]


@pytest.mark.shared_data
def test_on_a_real_pool_the_error_grows_with_the_ticks_that_a_trade_crosses(shared_data: Path) -> None:
    """The second table of the module: the largest error, in basis points of what comes out, at each share of D."""
    worst: dict[float, float] = defaultdict(float)
    for pool in wbtc_day(shared_data)[0][::8]:
        depth = virtual_quote_reserve(pool, quote_is_token0=False)
        for share in (0.0001, 0.001, 0.01, 0.03):
            quote = int(depth * share)
            for is_buy, amount in ((True, quote), (False, (quote << 192) // pool.sqrt_price_x96**2)):
                done = swap(pool, zero_for_one=not is_buy, amount_specified=amount)
                guess = approximate_swap(
                    pool, amount, is_buy=is_buy, quote_is_token0=False, unit=10**8, quote_unit=10**18
                )
                worst[share] = max(worst[share], abs(error_bps(guess, -min(done.amount0, done.amount1))))
    assert worst[0.0001] < 0.03 < worst[0.001] < 0.3 < worst[0.01] < 6.2 < worst[0.03] < 45


def error_bps(guess: int, got: int) -> float:
    return (guess / got - 1) * 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A real swap: the pool as far as the day tells of it, ticks it crossed, and whether all of them are known."""

    event: SwapEvent
    pool: PoolState
    crossed: list[int]
    is_known: bool


SPACING = 10
# More than any range of the pool has: what other ranges begin or end at a tick is not in the events.
UNKNOWN_GROSS = 2**91


def usdc_events(folder: Path) -> Iterator[SwapEvent | RangeEvent]:
    for row in load(folder, "*USDC-WETH*.events.csv.gz"):
        amounts = int(row["amount0"]), int(row["amount1"])
        if row["tx_type"] == "SWAP":
            tick = int(float(row["current_tick"]))
            yield SwapEvent(*amounts, int(row["sqrtPriceX96"]), tick, int(row["total_liquidity"]))
        elif row["tx_type"] in ("MINT", "BURN") and int(row["liquidity"]):
            sign = 1 if row["tx_type"] == "MINT" else -1
            ticks = (int(float(row[name])) for name in ("tick_lower", "tick_upper"))
            yield RangeEvent(*ticks, sign * int(row["liquidity"]), amounts)


def crossed_between(before: int, after: int) -> list[int]:
    low, high = sorted((before, after))
    return list(range((low // SPACING + 1) * SPACING, high + 1, SPACING))


def learn_ticks(events: list[SwapEvent | RangeEvent]) -> dict[int, int]:
    """Net liquidity at the day's first swap, of every tick for which the day's swaps determine it.

    A swap says what the ticks that it crossed have in sum: where all but one are known, so is that one.
    """
    at, added, sums = events[0], Counter[int](), []
    tick, liquidity = at.tick, at.liquidity
    for event in events[1:]:
        if isinstance(event, RangeEvent):
            added[event.tick_lower] += event.delta
            added[event.tick_upper] -= event.delta
            liquidity += event.delta if event.tick_lower <= tick < event.tick_upper else 0
            continue
        crossed, sign = crossed_between(tick, event.tick), 1 if event.tick > tick else -1
        sums.append((crossed, sign * (event.liquidity - liquidity) - sum(added[i] for i in crossed)))
        tick, liquidity = event.tick, event.liquidity
    known: dict[int, int] = {}
    while True:
        before = len(known)
        for crossed, total in sums:
            if len(unknown := [i for i in crossed if i not in known]) == 1:
                known[unknown[0]] = total - sum(known.get(i, 0) for i in crossed)
        if len(known) == before:
            return known


@cache
def usdc_day(folder: Path) -> tuple[list[Replayed], Counter[str]]:
    """Each swap with the pool before it; mints and burns, counted by whether the model has their amounts."""
    events = list(usdc_events(folder))
    base, added, swaps, ranges = learn_ticks(events), Counter[int](), [], Counter[str]()
    price, tick, liquidity = events[0][2:]
    for event in events[1:]:
        if isinstance(event, RangeEvent):
            ranges[f"{'mint' if event.delta > 0 else 'burn'} {range_amounts(event, price, tick) == event.amounts}"] += 1
            added[event.tick_lower] += event.delta
            added[event.tick_upper] -= event.delta
            liquidity += event.delta if event.tick_lower <= tick < event.tick_upper else 0
            continue
        crossed = crossed_between(tick, event.tick)
        net = {i: base.get(i, 0) + added[i] for i in crossed}
        is_known = all(i in base for i in crossed)
        low, high = sorted((tick, event.tick))
        window = {"first": low // SPACING * SPACING + 1, "last": (high // SPACING + 1) * SPACING - 1}
        rows = [(i, abs(n) + UNKNOWN_GROSS, n) for i, n in net.items() if n] if is_known else []
        ticks = Ticks.of_window(rows, **window, tick=tick, liquidity=liquidity)
        pool = PoolState(
            fee=500, tick_spacing=SPACING, sqrt_price_x96=price, tick=tick, liquidity=liquidity, ticks=ticks
        )
        swaps.append(Replayed(event=event, pool=pool, crossed=crossed, is_known=is_known))
        price, tick, liquidity = event[2:]
    return swaps, ranges


def range_amounts(event: RangeEvent, price: int, tick: int) -> tuple[int, int]:
    """What the mint or burn moves, in a pool at this price that has just enough to burn."""
    ends = {"tick_lower": event.tick_lower, "tick_upper": event.tick_upper}
    pool = replace(empty_pool(fee=500, tick_spacing=SPACING, sqrt_price_x96=price), tick=tick)
    minted = mint(pool, **ends, liquidity=abs(event.delta))
    done = minted if event.delta > 0 else burn(minted.pool, **ends, liquidity=-event.delta)
    return done.amount0, done.amount1


@pytest.mark.shared_data
def test_a_real_day_of_swaps_is_replayed_as_far_as_its_events_determine_it(shared_data: Path) -> None:
    """Events alone, no state: the first gives none before it; 13 cross ticks of which only sums are known."""
    swaps, ranges = usdc_day(shared_data)
    assert (len(swaps), sum(not s.is_known for s in swaps)) == (6045, 13)
    found = [(s, same_swap(s.pool, s.event)) for s in swaps if s.is_known]
    assert [s for s, match in found if match is None] == []
    assert Counter(min(len(s.crossed), 2) for s, _ in found) == {0: 5372, 1: 590, 2: 70}
    assert ranges == {"mint True": 54, "burn True": 55}


@pytest.mark.shared_data
def test_the_error_of_the_approximation_on_real_swaps_is_what_the_module_says(shared_data: Path) -> None:
    """Of swaps of a dollar or more: of less, the base unit of USDC is more than the error."""
    errors = defaultdict(list)
    for s in usdc_day(shared_data)[0]:
        given_in, got = max(s.event[:2]), -min(s.event[:2])
        if abs(s.event.amount0) >= 10**6:
            guess = approximate_swap(
                s.pool, given_in, is_buy=s.event.amount0 > 0, quote_is_token0=True, unit=WAD, quote_unit=10**6
            )
            errors[min(len(s.crossed), 2)].append(error_bps(guess, got))
    everything = np.concatenate(list(errors.values()))
    assert len(everything) == 6031
    assert abs(everything.mean()) < 0.003
    size = np.abs(everything)
    assert np.percentile(size, 90) < 0.0002
    assert 0.05 < np.percentile(size, 99) < 0.1
    assert 25 < size.max() < 26
    assert np.abs(errors[0]).max() < 0.011
    assert np.percentile(np.abs(errors[1]), 90) < 0.013
