"""The guard's arithmetic against exact fractions: every result is the exact one, rounded the way its name says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agents.localnet.evm import start_evm
from tests.contracts.world import WAD

BPS = 10_000
UNITS_PER_QUOTE = 10**12
Call = Callable[..., int]

amounts = st.integers(0, 2**128 - 1)
# Base units of quote x 1e18 per whole token: up to the oracle's largest price, in a quote token of 18 decimals.
prices = st.integers(0, 10**12 * 10**18 * 10**18 * 100 // 98)
decimals = st.integers(0, 24)  # the registry lists no token with more
shares = st.integers(0, BPS)
values = st.integers(0, 10**30)  # a trillion dollars in 18 decimals
unit_prices = st.integers(1, 10**24)  # up to a million times the first capital
seconds = st.integers(0, 2**32 - 1)
durations = st.integers(1, 2**32 - 1)
levels = st.integers(0, 2**128 - 1)

checked = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def call() -> Iterator[Call]:
    """Calls a function of the library by name. A chain of its own: it must not move the other tests' addresses."""
    with start_evm() as evm:
        harness = evm.deploy("GuardMathHarness", sender=evm.accounts[0])
        yield lambda name, *args: evm.call(harness.functions[name](*args))


# Values


@checked
@given(amount=amounts, price=prices, d=decimals)
@example(amount=2**128 - 1, price=10**12 * 10**36, d=0)
@example(amount=10**18, price=2000 * 10**24, d=18)
def test_a_value_is_rounded_down_for_what_is_held_and_up_for_what_is_owed(
    call: Call, amount: int, price: int, d: int
) -> None:
    exact = Fraction(amount * price, 10 ** (18 + d))
    assert (call("valueDown", amount, price, d), call("valueUp", amount, price, d)) == (floor(exact), ceil(exact))


@checked
@given(a=st.integers(0, 2**127), b=st.integers(0, 2**127), price=st.integers(0, 10**48), d=decimals)
def test_parts_are_never_worth_more_than_the_whole(call: Call, a: int, b: int, price: int, d: int) -> None:
    parts = call("valueDown", a, price, d) + call("valueDown", b, price, d)
    assert 0 <= call("valueDown", a + b, price, d) - parts <= 1


# Units


def test_capital_without_units_is_worth_one_a_unit(call: Call) -> None:
    assert call("unitPriceDown", 0, 0) == call("unitPriceDown", 10**30, 0) == WAD


@checked
@given(value=st.integers(1, 10**26))
def test_first_capital_makes_units_of_one_dollar(call: Call, value: int) -> None:
    units = call("unitsDown", value, WAD)
    assert units == value * UNITS_PER_QUOTE
    assert call("unitPriceDown", value, units) == WAD


@checked
@given(value=values, units=st.integers(1, 2**128 - 1))
def test_a_unit_price_is_rounded_down(call: Call, value: int, units: int) -> None:
    assert call("unitPriceDown", value, units) == floor(Fraction(value * WAD * UNITS_PER_QUOTE, units))


@checked
@given(value=values, unit_price=unit_prices, units=amounts)
def test_units_and_their_value_are_rounded_down(call: Call, value: int, unit_price: int, units: int) -> None:
    assert call("unitsDown", value, unit_price) == floor(Fraction(value * WAD * UNITS_PER_QUOTE, unit_price))
    assert call("unitsValueDown", units, unit_price) == floor(Fraction(units * unit_price, WAD * UNITS_PER_QUOTE))


@checked
@given(value=st.integers(1, 10**24), first=st.integers(1, 10**24), added=st.integers(0, 10**24))
def test_new_capital_never_lowers_the_unit_price_and_raises_it_by_less_than_dust(
    call: Call, value: int, first: int, added: int
) -> None:
    """Capital of `first` is worth `value` now, and `added` comes in."""
    units = first * UNITS_PER_QUOTE
    price = call("unitPriceDown", value, units)
    if price == 0:
        return
    minted = call("unitsDown", added, price)
    after = call("unitPriceDown", value + added, units + minted)
    # The price's own rounding, and one unit not minted.
    assert price <= after <= price + 1 + ceil(Fraction(price, units + minted))


@checked
@given(value=st.integers(1, 10**24), first=st.integers(1, 10**24), data=st.data())
def test_capital_that_leaves_takes_no_more_than_its_units(
    call: Call, value: int, first: int, data: st.DataObject
) -> None:
    """As `recall` does it: units are burned in proportion, rounded down."""
    units = first * UNITS_PER_QUOTE
    taken = data.draw(st.integers(0, value - 1))
    burned = units * taken // value
    before = Fraction(value * WAD * UNITS_PER_QUOTE, units)
    after = call("unitPriceDown", value - taken, units - burned)
    assert floor(before) - 1 - ceil(before / (units - burned)) <= after <= before


# Shares


@checked
@given(value=values, bps=st.integers(0, 2**32 - 1))
def test_a_share_is_rounded_as_its_name_says(call: Call, value: int, bps: int) -> None:
    exact = Fraction(value * bps, BPS)
    assert (call("shareDown", value, bps), call("shareUp", value, bps)) == (floor(exact), ceil(exact))


@checked
@given(value=values, bps=shares)
def test_a_share_and_the_rest_are_the_whole(call: Call, value: int, bps: int) -> None:
    assert call("shareUp", value, bps) + call("shareDown", value, BPS - bps) == value


# Limits


@checked
@given(base=unit_prices, bps=shares)
def test_exactly_at_a_limit_is_within_it(call: Call, base: int, bps: int) -> None:
    limit = ceil(Fraction(base * (BPS - bps), BPS))
    assert not call("isBelowBy", limit, base, bps)
    if limit > 0:
        assert call("isBelowBy", limit - 1, base, bps)


@checked
@given(base=unit_prices, current=unit_prices, bps=st.integers(BPS, 2**16 - 1))
def test_nothing_is_below_by_all_of_it(call: Call, base: int, current: int, bps: int) -> None:
    assert not call("isBelowBy", current, base, bps)
    assert not call("isBelowBy", 0, base, bps)


# Decay


@checked
@given(level=levels, cap=levels, elapsed_s=seconds, duration_s=durations)
def test_a_sum_loses_its_cap_in_the_decay_time(
    call: Call, level: int, cap: int, elapsed_s: int, duration_s: int
) -> None:
    left = call("decayed", level, cap, elapsed_s, duration_s)
    lost = floor(Fraction(cap * elapsed_s, duration_s))
    assert left == (0 if elapsed_s >= duration_s else max(0, level - lost))


@checked
@given(level=levels, cap=levels, elapsed_s=seconds, longer_s=seconds, duration_s=durations)
def test_a_sum_never_grows_by_waiting(
    call: Call, level: int, cap: int, elapsed_s: int, longer_s: int, duration_s: int
) -> None:
    sooner, later = sorted((elapsed_s, longer_s))
    after_both = call("decayed", level, cap, later, duration_s)
    assert after_both <= call("decayed", level, cap, sooner, duration_s) <= level


def test_a_full_sum_is_empty_after_the_decay_time_and_half_after_half(call: Call) -> None:
    assert [call("decayed", 1000, 1000, at, 100) for at in (0, 1, 50, 99, 100, 101)] == [1000, 990, 500, 10, 0, 0]


# The worst case


@checked
@given(value=values, drawdown=st.integers(0, 2**16 - 1), discount=shares, gap=shares)
def test_the_worst_case_is_the_drawdown_then_the_discount_then_the_gap(
    call: Call, value: int, drawdown: int, discount: int, gap: int
) -> None:
    worst = call("worstValueDown", value, drawdown, discount, gap)
    kept = (BPS - min(drawdown, BPS), BPS - discount, BPS - gap)
    exact = Fraction(value * kept[0] * kept[1] * kept[2], BPS**3)
    assert exact - 3 < worst <= exact <= value
