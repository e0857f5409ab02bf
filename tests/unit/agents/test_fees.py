"""What is offered for a unit of gas, and what never is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agents.errors import Retryable
from agents.fees import FeePolicy, Fees, FeeTooHigh

GWEI = 10**9
wei = st.integers(0, 10**13)


@st.composite
def policies(draw: st.DrawFn) -> FeePolicy:
    low, high = sorted((draw(wei), draw(wei)))
    percent = draw(st.integers(100, 400))
    return FeePolicy(max_fee_wei=draw(wei) + 1, min_tip_wei=low, max_tip_wei=high, base_fee_percent=percent)


@pytest.mark.parametrize(
    "wrong", [{"max_fee_wei": 0}, {"min_tip_wei": -1}, {"min_tip_wei": 2, "max_tip_wei": 1}, {"base_fee_percent": 99}]
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="tips are from 0 up to a maximum"):
        FeePolicy(**wrong)


def test_gas_above_the_ceiling_is_waited_for() -> None:
    policy = FeePolicy(max_fee_wei=30 * GWEI, min_tip_wei=GWEI)
    with pytest.raises(FeeTooHigh, match=r"costs 29000000001 wei, MARKETFLOW_MAX_FEE_WEI allows 30000000000") as caught:
        policy.first(29 * GWEI + 1, 0)
    assert isinstance(caught.value, Retryable)
    assert policy.first(29 * GWEI, 0) == Fees(tip_wei=GWEI, max_fee_wei=30 * GWEI)


def test_the_base_fee_may_double_and_the_tip_is_the_nodes_within_bounds() -> None:
    policy = FeePolicy(min_tip_wei=2, max_tip_wei=5)
    for suggested, tip in ((0, 2), (3, 3), (9, 5)):
        assert policy.first(GWEI, suggested) == Fees(tip_wei=tip, max_fee_wei=2 * GWEI + tip)


def test_without_a_base_fee_a_tip_is_enough() -> None:
    assert FeePolicy().first(0, 7) == Fees(tip_wei=7, max_fee_wei=7)
    assert FeePolicy().first(0, 0) == Fees(tip_wei=0, max_fee_wei=0)


def test_a_bump_stops_at_the_ceiling() -> None:
    policy = FeePolicy(max_fee_wei=100, max_tip_wei=100)
    assert policy.higher(Fees(tip_wei=1, max_fee_wei=87), 1, 0) == Fees(tip_wei=3, max_fee_wei=100)
    assert policy.higher(Fees(tip_wei=1, max_fee_wei=88), 1, 0) is None
    assert policy.higher(Fees(tip_wei=1, max_fee_wei=100), 1, 0) is None


def test_a_bump_stops_at_the_highest_tip() -> None:
    """A node takes a replacement only when the tip, too, is higher."""
    policy = FeePolicy(max_tip_wei=10)
    assert policy.higher(Fees(tip_wei=7, max_fee_wei=100), 1, 0) == Fees(tip_wei=9, max_fee_wei=114)
    assert policy.higher(Fees(tip_wei=9, max_fee_wei=100), 1, 0) is None


def test_a_bump_follows_the_base_fee_when_that_has_risen_more() -> None:
    assert FeePolicy().higher(Fees(tip_wei=1, max_fee_wei=10), 50, 7) == Fees(tip_wei=7, max_fee_wei=107)


@given(policy=policies(), base=wei, tip=wei)
def test_nothing_above_the_ceilings_is_ever_offered(policy: FeePolicy, base: int, tip: int) -> None:
    try:
        fees = policy.first(base, tip)
    except FeeTooHigh:
        assert base + policy.min_tip_wei > policy.max_fee_wei
        return
    assert 0 <= fees.tip_wei <= min(fees.max_fee_wei, policy.max_tip_wei)
    assert base + policy.min_tip_wei <= fees.max_fee_wei <= policy.max_fee_wei, "and it pays the next block"


@given(policy=policies(), before=st.tuples(wei, wei), base=wei, tip=wei)
def test_a_bump_is_within_the_ceilings_and_what_nodes_take(
    policy: FeePolicy, before: tuple[int, int], base: int, tip: int
) -> None:
    offered = Fees(tip_wei=min(before), max_fee_wei=max(before))
    fees = policy.higher(offered, base, tip)
    assume(fees is not None)
    assert fees is not None
    assert 0 <= fees.tip_wei <= min(fees.max_fee_wei, policy.max_tip_wei)
    assert fees.max_fee_wei <= policy.max_fee_wei
    for new, old in ((fees.tip_wei, offered.tip_wei), (fees.max_fee_wei, offered.max_fee_wei)):
        assert new > old, "geth wants more even of nothing"
        assert 8 * new >= 9 * old, "an eighth, which is more than geth's tenth"


@given(policy=policies(), base=wei, tip=wei)
def test_bumps_come_to_an_end(policy: FeePolicy, base: int, tip: int) -> None:
    offered: Fees | None = Fees(tip_wei=0, max_fee_wei=0)
    for _ in range(400):
        if offered is None:
            return
        offered = policy.higher(offered, base, tip)
    raise AssertionError(offered)
