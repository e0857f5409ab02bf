"""The model of the vault gives no value away, and its limits bind. Beside the contract it is tested in
tests/contracts/unit/test_spot_vault_model.py."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offchain_rl import spot_vault as model
from offchain_rl.spot_vault import BUY, DAY_S, SELL, UNLIMITED, Costs, Limits, Planned, Rules, Terms, Vault

PRICE = 2_000 * 10**8
START = 100_000 * 10**6
UNIT = 10**8
BAR_S = 1800
# The deepest pool there is: an order of a tenth of the vault still moves its price by a ten-millionth.
FREE = Costs(fee_bps=0, slippage_bps=0, gas_quote=0, depth_quote=1 << 59, latency_s=0)
COSTS = Costs(fee_bps=30, slippage_bps=20, gas_quote=10**6, latency_s=0)
NOON = 19_000 * DAY_S + DAY_S // 2


def terms(limits: Limits = UNLIMITED, costs: Costs = FREE, **rules: int) -> Terms:
    return model.terms_of(costs, limits, Rules(**rules), unit=UNIT)


def create_vault(asset: int = 0, at_s: int = NOON) -> Vault:
    return model.open_vault(START, asset, PRICE, at_s, UNIT)


def passed(
    v: Vault, target_bps: int | None, t: Terms, *, open_e8: int = 0, close_e8: int = 0, at_s: int = NOON
) -> Vault:
    """A bar after a decision at `at_s`; prices stay unless given."""
    open_e8 = open_e8 or v.price_e8
    wanted = (target_bps is not None, target_bps or 0)
    return model.pass_bar(v, *wanted, at_s, at_s, open_e8, close_e8 or open_e8, at_s + BAR_S, BAR_S, t)


# Refusals


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Costs(fee_bps=10_000), "fee_bps lies between"),
        (lambda: Costs(slippage_bps=-1), "slippage_bps lies between"),
        (lambda: Costs(gas_quote=-1), "gas_quote lies between"),
        (lambda: Costs(depth_quote=0), "depth_quote lies between"),
        (lambda: Costs(latency_s=-1), "latency_s is not negative"),
        (lambda: Limits(max_position_bps=65_537), "max_position_bps lies between"),
        (lambda: Limits(max_trade_slippage_bps=-1), "max_trade_slippage_bps is not negative"),
        (lambda: Limits(max_daily_turnover_bps=0), "max_daily_turnover_bps lies between"),
        (lambda: Limits(max_drawdown_bps=0), "max_drawdown_bps lies between"),
        (lambda: Rules(slippage_decay_s=0), "slippage_decay_s lies between"),
        (lambda: Rules(auction_lot_bps=10_001), "auction_lot_bps is at most"),
        (lambda: Rules(order_lifetime_s=0), "order_lifetime_s is positive"),
    ],
)
def test_impossible_settings_are_refused(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_fill_too_far_from_the_round_reverts_and_costs_its_gas() -> None:
    t = terms(Limits(max_trade_slippage_bps=100), COSTS)
    v = passed(create_vault(), 5_000, t, open_e8=PRICE * 102 // 100, close_e8=PRICE)
    assert (v.asset, v.quote, v.reverted, v.trades) == (0, START, 1, 0)
    assert (v.gas_spent, v.equity) == (10**6, START - 10**6)


def test_an_order_that_would_end_above_the_largest_position_is_not_sent() -> None:
    t = terms(Limits(max_position_bps=4_000))
    assert model.plan(create_vault(), True, 4_000, NOON, t).is_allowed == 0  # at its worst fill it would be above
    assert model.plan(create_vault(), True, 3_900, NOON, t).is_allowed == 1
    forced = Planned(BUY, START // 2, 0, START // 2, 1)
    assert model.trade(create_vault(), forced, 25 * UNIT, PRICE, NOON, t)[1] == model.REVERTED


def test_orders_smaller_than_the_operator_wants_are_not_sent() -> None:
    t = terms(min_trade_value=10_000 * 10**6)
    assert passed(create_vault(), 900, t).trades == 0
    assert passed(create_vault(), 1_000, t).trades == 1


def test_an_order_that_arrives_after_its_deadline_reverts() -> None:
    """A gap in the data: the bar after the decision opens an hour late."""
    t = terms(costs=COSTS)
    v = model.pass_bar(create_vault(), True, 5_000, NOON, NOON + 3600, PRICE, PRICE, NOON + 3600 + BAR_S, BAR_S, t)
    assert (v.asset, v.reverted) == (0, 1)


def test_a_day_turns_over_no_more_than_allowed_and_the_next_day_again() -> None:
    t = terms(Limits(max_daily_turnover_bps=3_000))
    v = passed(create_vault(), 5_000, t)
    assert model.weight_bps_of(v) in (2_999, 3_000)
    assert passed(v, 5_000, t).trades == 1
    tomorrow = passed(v, None, t, at_s=NOON + DAY_S)
    assert model.weight_bps_of(passed(tomorrow, 5_000, t, at_s=NOON + DAY_S)) in (4_999, 5_000)


def test_more_trades_than_a_day_has_are_not_sent() -> None:
    t = terms(Limits(max_trades_per_day=2))
    v = create_vault()
    for target_bps in (1_000, 2_000, 3_000):
        v = passed(v, target_bps, t)
    assert v.trades == 2
    assert model.weight_bps_of(v) in (1_999, 2_000)


def test_slippage_adds_up_until_nothing_may_be_bought_and_decays() -> None:
    limits = Limits(max_trade_slippage_bps=200, max_cumulative_slippage_bps=50)
    t = terms(limits, Costs(fee_bps=100, slippage_bps=0, gas_quote=0, latency_s=0))
    v = passed(create_vault(), 3_000, t)  # costs 30 bps of the value
    assert passed(v, 6_000, t).reverted == 1
    later = NOON + 6 * DAY_S
    v = passed(passed(v, None, t, at_s=later), 6_000, t, at_s=later)
    assert model.weight_bps_of(v) > 5_900


def test_past_the_daily_loss_the_asset_is_sold_and_bought_again_when_the_loss_is_history() -> None:
    limits = Limits(max_daily_loss_bps=300, max_daily_turnover_bps=6_000, max_drawdown_bps=5_000)
    t = terms(limits)
    v = passed(create_vault(), 5_000, t, open_e8=PRICE, close_e8=PRICE * 93 // 100)
    assert model.is_reducing(v)
    sold = passed(v, 5_000, t)  # a sale that the day's turnover has no room for: it is exempt
    assert (sold.asset, sold.is_drawdown) == (0, 0)
    assert passed(sold, 5_000, t).asset == 0
    tomorrow = passed(sold, None, t, at_s=NOON + DAY_S)
    later = passed(tomorrow, None, t, at_s=NOON + 2 * DAY_S)
    assert passed(tomorrow, 5_000, t, at_s=NOON + DAY_S).asset == 0
    assert passed(later, 5_000, t, at_s=NOON + 2 * DAY_S).asset > 0


def test_past_the_drawdown_nothing_is_bought_any_more() -> None:
    t = terms(Limits(max_drawdown_bps=500, max_daily_loss_bps=10_000))
    v = passed(create_vault(), 5_000, t, close_e8=PRICE * 89 // 100)
    assert v.is_drawdown == 1
    sold = passed(v, None, t)
    recovered = passed(sold, 5_000, t, close_e8=2 * PRICE, at_s=NOON + 30 * DAY_S)
    assert (sold.asset, recovered.asset, recovered.is_drawdown) == (0, 0, 1)


def test_past_the_hard_limit_nobody_trades_and_a_lot_is_sold_with_each_round_at_a_discount() -> None:
    limits = Limits(max_drawdown_bps=500, hard_drawdown_bps=1_000, max_daily_loss_bps=10_000)
    t = terms(limits, auction_duration_s=2 * BAR_S, auction_max_discount_bps=400)
    v = passed(create_vault(), 5_000, t, close_e8=PRICE * 79 // 100)
    held = v.asset
    assert (v.halted_at_s, v.filled_at_s) == (NOON + BAR_S, 0)
    assert model.trade(v, Planned(SELL, held, 0, 0, 1), 1, v.price_e8, NOON + BAR_S, t)[1] == model.REFUSED
    v = passed(v, None, t, at_s=NOON + BAR_S)
    lot = -(-held // 4)
    worth = -(-lot * v.price_e8 // (100 * UNIT))
    assert v.asset == held - lot
    assert v.quote == START // 2 - (-worth * 9_800 // 10_000)  # half of the time, half of the discount
    for i in range(2, 6):
        v = passed(v, None, t, at_s=NOON + i * BAR_S)
    assert v.asset == 0


# What a trade does


def test_a_trade_pays_fee_impact_and_slippage_out_of_the_vault_and_gas_out_of_the_agent() -> None:
    costs = Costs(fee_bps=30, slippage_bps=20, gas_quote=10**6, depth_quote=START * 50, latency_s=0)
    v = passed(create_vault(), 5_000, terms(costs=costs))
    net = START // 2 * 9_970 // 10_000
    price = -(-PRICE * 10_020 // 10_000)
    price = -(-price * (START * 50 + net) // (START * 50))
    assert v.quote == START // 2
    assert v.asset == net * UNIT * 100 // price
    assert v.costs == START - v.equity
    assert 145 < (START - v.last_value) * 10_000 // (START // 2) < 155  # 30 + 20 + a hundredth of the reserve, at half


def test_a_trade_moves_the_price_by_twice_its_share_of_the_reserve() -> None:
    """Constant product: what a hundredth of the reserve buys costs a hundredth more on average."""
    t = terms(costs=Costs(fee_bps=0, slippage_bps=0, depth_quote=10**12, latency_s=0))
    assert model.fill(BUY, 10**10, PRICE, t) == 10**10 * UNIT * 100 // (PRICE * 101 // 100)
    assert model.fill(SELL, 5 * UNIT, PRICE, t) == 10**10 * 100 // 101


def test_what_is_bought_and_sold_at_once_loses_both_ways() -> None:
    t = terms(costs=COSTS)
    v = passed(passed(create_vault(), 9_000, t), 0, t)
    lost_bps = (START - v.last_value) * 10_000 // (START * 9 // 10)
    assert v.asset == 0
    assert 100 <= lost_bps <= 105  # twice 30 + 20, and the impact of 90,000 on a reserve of 400 million


def test_latency_fills_between_open_and_close() -> None:
    assert model.fill_price(1000, 2000, 0, BAR_S) == 1000
    assert model.fill_price(1000, 2000, 900, BAR_S) == 1500
    assert model.fill_price(2000, 1000, 900, BAR_S) == 1500


STEPS = st.lists(
    st.tuples(
        st.none() | st.integers(-500, 11_000),
        st.integers(-2_000, 2_000),
        st.integers(-2_000, 2_000),
        st.integers(0, 200),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150)
@given(
    STEPS,
    st.builds(
        Costs,
        fee_bps=st.integers(0, 300),
        slippage_bps=st.integers(0, 300),
        gas_quote=st.integers(0, 10**9),
        depth_quote=st.integers(10**9, 1 << 59),
        latency_s=st.integers(0, BAR_S - 1),
    ),
)
def test_a_vault_never_owes_never_buys_above_its_limit_and_accounts_for_every_unit(
    steps: list[tuple[int | None, int, int, int]], costs: Costs
) -> None:
    limits = Limits(max_position_bps=6_000, max_trade_slippage_bps=5_000, max_cumulative_slippage_bps=10_000)
    t = terms(limits, costs)
    v, at_s = create_vault(), NOON
    for target_bps, gap_bps, move_bps, half_hours in steps:
        open_e8 = v.price_e8 * (10_000 + gap_bps) // 10_000
        close_e8 = open_e8 * (10_000 + move_bps) // 10_000
        before = v
        order = model.plan(v, target_bps is not None, max(target_bps or 0, 0), at_s, t)
        wanted_bps = None if target_bps is None else max(target_bps, 0)
        v = passed(v, wanted_bps, t, open_e8=open_e8, close_e8=close_e8, at_s=at_s)
        at_s += BAR_S + 1800 * half_hours
        assert min(v.quote, v.asset) >= 0
        assert v.last_value == v.quote + v.asset * v.price_e8 // (100 * UNIT)
        assert v.peak_value >= v.last_value
        if v.trades > before.trades and order.side == BUY:
            at_round = v.quote + v.asset * before.price_e8 // (100 * UNIT)
            assert v.asset * before.price_e8 // (100 * UNIT) * 10_000 <= 6_000 * at_round + 10_000
        if v.trades == before.trades and v.halted_at_s == 0:
            assert (v.quote, v.asset) == (before.quote, before.asset)
