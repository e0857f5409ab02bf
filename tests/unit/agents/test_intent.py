"""What would be traded: exact sizes, clipped to what there is, and the least that the guard would take for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.constitution import review
from agents.intent import BPS, Intent, plan_intent, weight_bps
from offchain_rl.policy import NOTHING_TO_DO, REBALANCE, WITHIN_DEADBAND, Decision
from oracle.vault_state import Reason, VaultReading, VaultState
from tests.unit.oracle.readings import ARTEFACT_HASH, BTC, ETH, USD, WAD, position, reading


def wants(target_bps: int, *, reason: str = REBALANCE) -> Decision:
    return Decision(
        target_weight_bps=target_bps, is_rebalance=reason == REBALANCE, wanted_weight_bps=target_bps, reason=reason
    )


def plan(vault: VaultReading, target_bps: int) -> Intent:
    intent = plan_intent(vault, ETH, wants(target_bps))
    assert intent is not None
    return intent


def holding(eth: int | float, quote: int, **over: Any) -> VaultReading:
    """At 2,000 dollars for one ETH."""
    return reading(position(amount=int(eth * WAD)), quote_held=quote * USD, **over)


# Sizes


def test_a_purchase_brings_the_asset_exactly_to_its_weight() -> None:
    intent = plan(holding(50, 900_000), 4000)  # 100,000 of 1,000,000 held, 400,000 wanted
    assert intent == Intent(
        asset=ETH, is_buy=True, amount_in=300_000 * USD, value=300_000 * USD,
        min_amount_out=149_100_000_000_000_000_000,  # 150 ETH less 0.6 %
    )  # fmt: skip


def test_a_sale_brings_the_asset_exactly_to_its_weight() -> None:
    intent = plan(holding(200, 600_000), 1000)  # 400,000 of 1,000,000 held, 100,000 wanted
    assert intent == Intent(
        asset=ETH, is_buy=False, amount_in=150 * WAD, value=300_000 * USD, min_amount_out=298_200 * USD
    )


def test_a_weight_of_zero_sells_the_last_base_unit() -> None:
    vault = reading(position(amount=123_456_789_012_345_678_901))
    assert plan(vault, 0).amount_in == 123_456_789_012_345_678_901


@pytest.mark.parametrize("reason", [WITHIN_DEADBAND, NOTHING_TO_DO])
def test_a_decision_that_wants_no_trade_plans_none(reason: str) -> None:
    assert plan_intent(holding(50, 900_000), ETH, wants(4000, reason=reason)) is None


def test_at_its_weight_already_there_is_nothing_to_trade() -> None:
    assert plan_intent(holding(200, 600_000), ETH, wants(4000)) is None


def test_the_weight_held_is_rounded_down_and_zero_in_an_empty_vault() -> None:
    assert weight_bps(holding(1, 4000), ETH) == 3333
    assert weight_bps(holding(0, 0), ETH) == 0


# Clipped


def test_a_purchase_never_exceeds_the_quote_there_is() -> None:
    vault = reading(position(), position(BTC, amount=490 * WAD), quote_held=20_000 * USD)
    assert plan(vault, 6000).amount_in == 20_000 * USD


def test_a_trade_never_exceeds_what_is_left_of_the_days_turnover() -> None:
    spent = 1_999_000 * USD  # of 2,000,000
    assert plan(holding(0, 1_000_000, turnover_today=spent), 4000).amount_in == 1000 * USD
    assert plan(holding(200, 600_000, turnover_today=spent), 1000).value == 1000 * USD
    part = plan(holding(200, 600_000, turnover_today=spent), 0)
    assert (part.amount_in, part.value) == (WAD // 2, 1000 * USD), "selling all of it would be too much"


def test_without_turnover_left_nothing_is_traded() -> None:
    for spent in (2_000_000 * USD, 2_000_001 * USD):
        assert plan_intent(holding(0, 1_000_000, turnover_today=spent), ETH, wants(4000)) is None
        assert plan_intent(holding(200, 600_000, turnover_today=spent), ETH, wants(0)) is None


def test_selling_everything_counts_rounded_up_as_the_guard_counts_it() -> None:
    """A sale worth 400,000 and a fraction of a base unit is 400,000.000001 to the guard."""
    everything = position(amount=200 * WAD + 1)
    limit = 2_000_000 * USD
    fits = plan(reading(everything, quote_held=600_000 * USD, turnover_today=limit - 400_000 * USD - 1), 0)
    assert (fits.amount_in, fits.value) == (200 * WAD + 1, 400_000 * USD + 1)
    short = plan(reading(everything, quote_held=600_000 * USD, turnover_today=limit - 400_000 * USD), 0)
    assert (short.amount_in, short.value) == (200 * WAD, 400_000 * USD)


# Reducing


@pytest.mark.parametrize(
    ("state", "reasons", "least_usd"),
    [
        (VaultState.REDUCING, Reason.DAY_LOSS, 392_000),
        (VaultState.REDUCING, Reason.DAY_LOSS | Reason.UNSETTLED, 392_000),
        (VaultState.REDUCING, Reason.UNSETTLED, 397_600),  # no emergency: the limit of every day
        (VaultState.HALTED, Reason.HALTED, 392_000),
    ],
)
@pytest.mark.parametrize("decision", [wants(6000), wants(4000, reason=WITHIN_DEADBAND), wants(0)])
def test_a_vault_that_may_only_reduce_sells_everything_whatever_is_wanted(
    state: VaultState, reasons: Reason, least_usd: int, decision: Decision
) -> None:
    vault = holding(200, 600_000, state=state, reasons=int(reasons), turnover_today=2_000_000 * USD)
    intent = plan_intent(vault, ETH, decision)
    assert intent is not None
    assert (intent.is_buy, intent.amount_in) == (False, 200 * WAD)
    assert intent.min_amount_out == least_usd * USD


def test_a_vault_that_may_only_reduce_and_holds_nothing_plans_nothing() -> None:
    assert plan_intent(holding(0, 1000, state=VaultState.REDUCING), ETH, wants(4000)) is None


# No price


@pytest.mark.parametrize("state", list(VaultState))
@pytest.mark.parametrize("target_bps", [0, 4000])
def test_without_a_price_nothing_is_planned(state: VaultState, target_bps: int) -> None:
    vault = reading(position(amount=200 * WAD, price_usd=0), state=state)
    assert plan_intent(vault, ETH, wants(target_bps)) is None


# The least to be received


def guard_accepts(vault: VaultReading, intent: Intent, received: int, slippage_bps: int) -> bool:
    """`StrategyVault._checkSlippage`, in its own rounding."""
    base = intent.amount_in if intent.is_buy else vault.value_up(ETH, intent.amount_in)
    got = vault.value_of(ETH, received) if intent.is_buy else received
    return base - got <= base * slippage_bps // BPS


def test_what_is_too_small_for_the_assets_base_unit_is_not_planned() -> None:
    """A base unit of 60,000 dollars with 8 decimals is worth 600 base units of quote."""
    bitcoin = position(price_usd=60_000, unit=10**8)
    assert plan_intent(reading(bitcoin, quote_held=1999), ETH, wants(5000)) is None
    assert plan(reading(bitcoin, quote_held=2_400_000), 5000).min_amount_out == 1988
    dust = position(amount=1)  # one wei of ETH
    assert plan_intent(reading(dust), ETH, wants(0)) is None
    assert plan_intent(reading(dust, state=VaultState.REDUCING), ETH, wants(0)) is None


@st.composite
def vaults(draw: st.DrawFn) -> VaultReading:
    unit = 10 ** draw(st.sampled_from([6, 8, 18]))
    price_wad = draw(st.integers(10**15, 10**23))
    held = draw(st.integers(0, 10**6 * unit))
    limits = {
        "max_trade_slippage_bps": draw(st.integers(0, 500)),
        "max_reduce_slippage_bps": draw(st.integers(500, 1000)),
        "max_position_bps": draw(st.integers(0, BPS)),
        "max_daily_turnover_bps": draw(st.integers(0, 50_000)),
        "max_daily_loss_bps": 9_999,
        "max_drawdown_bps": 9_999,
    }
    state = draw(st.sampled_from([VaultState.ACTIVE, VaultState.ACTIVE, VaultState.REDUCING]))
    asset = position(amount=held, unit=unit)
    asset = type(asset)(token=ETH, unit=unit, amount=held, price_wad=price_wad, round=asset.round)
    reasons = int(Reason.DAY_LOSS) if state is VaultState.REDUCING else 0
    vault = reading(asset, quote_held=draw(st.integers(0, 10**13)), limits=limits, state=state, reasons=reasons)
    spent = draw(st.integers(0, vault.value * limits["max_daily_turnover_bps"] // BPS + 1))
    return replace(vault, turnover_today=spent)


@settings(deadline=None)
@given(vault=vaults(), target_bps=st.integers(0, BPS))
def test_the_least_to_be_received_is_the_least_that_the_guard_takes(vault: VaultReading, target_bps: int) -> None:
    if (intent := plan_intent(vault, ETH, wants(target_bps))) is None:
        return
    limits = vault.limits
    slippage_bps = limits.max_reduce_slippage_bps if vault.is_reducing else limits.max_trade_slippage_bps
    assert guard_accepts(vault, intent, intent.min_amount_out, slippage_bps)
    assert not guard_accepts(vault, intent, intent.min_amount_out - 1, slippage_bps)
    at_oracle = intent.amount_in * vault.position(ETH).unit * WAD // (vault.position(ETH).price_wad * USD)
    best = at_oracle if intent.is_buy else vault.value_of(ETH, intent.amount_in)
    assert intent.min_amount_out <= best, "what the oracle's own price would pay is enough"


@settings(deadline=None)
@given(vault=vaults(), target_bps=st.integers(0, BPS))
def test_a_plan_never_goes_beyond_holdings_turnover_or_weight(vault: VaultReading, target_bps: int) -> None:
    if (intent := plan_intent(vault, ETH, wants(target_bps))) is None:
        return
    broken = {b.clause for b in review(intent, vault, artefact_hash=ARTEFACT_HASH)}
    assert broken <= {"position"}, "which is the only limit that a decision can be beyond"
    held, wanted = vault.asset_value(ETH), vault.value * target_bps // BPS
    if vault.is_reducing:
        return
    if intent.is_buy:
        assert held + intent.value <= wanted
    else:
        assert held - intent.value <= held
        assert held - intent.value >= wanted or target_bps == 0


@settings(deadline=None)
@given(vault=vaults(), share=st.integers(0, BPS))
def test_a_plan_within_the_position_limit_is_accepted_by_the_review(vault: VaultReading, share: int) -> None:
    """Within: with room for a fill as much better than the oracle as it may be worse."""
    limits = vault.limits
    room = limits.max_position_bps * BPS // (BPS + limits.max_trade_slippage_bps)
    intent = plan_intent(vault, ETH, wants(room * share // BPS))
    if intent is not None:
        assert review(intent, vault, artefact_hash=ARTEFACT_HASH) == ()
