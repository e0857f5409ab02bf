"""What a vault that is past a limit still allows: asset to quote, at its own slippage; and what it says to the rest.

A refused trade does not revert: it would take the flip back. It persists the state, says `TradeRefused`, returns zero
and leaves nonce, books and tokens alone.
"""

from __future__ import annotations

from typing import Any

import pytest

from agents.contracts import EventLog
from tests.contracts.vaults import (
    Desk,
    Reason,
    State,
    allocate,
    book,
    condition,
    guard,
    halt,
    limits,
    never_decay,
    stop,
    tighten,
)
from tests.contracts.world import (
    DAY_S,
    EXPLANATION,
    HOUR_S,
    WAD,
    WINDOW_S,
    World,
    eth,
    none_of,
    one,
    struct,
    usd,
)


@pytest.fixture
def desk(world: World) -> Desk:
    """Half in ETH, half in quote."""
    desk = Desk(world)
    desk.buy(usd(500_000), eth(250))
    return desk


def memory(world: World, desk: Desk) -> tuple[Any, ...]:
    """All that a refused trade must leave alone."""
    vault = desk.s.vault.address
    tokens = [world.book.quote, *(world.token_of(symbol) for symbol in ("ETH", "BTC"))]
    return (
        guard(world, desk.s).nonce,
        book(world, desk.s),
        world.held(desk.s),
        [world.market.balance(token, vault) for token in tokens],
        world.view(world.ledger.functions.headOf(vault)),
    )


def refusal(desk: Desk, events: list[EventLog]) -> tuple[Any, ...]:
    refused = one(events, "TradeRefused")
    assert none_of(events, "TradeRecorded")
    assert refused["explanationHash"] == EXPLANATION
    return refused["nonce"], refused["asset"], refused["buy"], Reason(refused["reasons"])


# What is refused


def test_a_buy_is_refused_with_the_reasons_and_the_flip_stays(world: World, desk: Desk) -> None:
    stop(world, desk.s)
    before = memory(world, desk)
    events = desk.buy(usd(2000), eth(1))
    assert refusal(desk, events) == (1, world.token_of("ETH"), True, Reason.GUARDIAN)
    changed = one(events, "StateChanged")
    assert changed == {"state": State.REDUCING, "reasons": Reason.GUARDIAN, "unitPriceWad": WAD}
    assert guard(world, desk.s).reasons == Reason.GUARDIAN
    assert memory(world, desk) == before


def test_a_refused_trade_returns_zero(world: World, desk: Desk) -> None:
    stop(world, desk.s)
    desk.fill(usd(2000), eth(1))
    order = struct(world.order(desk.s, usd(2000), buy=True))
    assert world.evm.call(desk.s.vault.functions.trade(order), world.signer) == 0


def test_the_nonce_of_a_refused_order_is_still_the_next(world: World, desk: Desk) -> None:
    stop(world, desk.s, HOUR_S)
    for _ in range(2):
        desk.buy(usd(2000), eth(1), nonce=1)
    world.travel(HOUR_S)
    desk.buy(usd(2000), eth(1), nonce=1)
    assert guard(world, desk.s).nonce == 2


def test_a_second_refusal_says_no_second_time_that_the_state_changed(world: World, desk: Desk) -> None:
    stop(world, desk.s)
    desk.buy(usd(2000), eth(1))
    assert none_of(desk.buy(usd(2000), eth(1)), "StateChanged")


def test_a_buy_that_would_also_break_limits_is_refused_not_reverted(world: World, desk: Desk) -> None:
    stop(world, desk.s)
    events = desk.buy(usd(10_000_000), 1)
    assert refusal(desk, events)[2:] == (True, Reason.GUARDIAN)


def test_an_order_that_is_nobody_s_or_nothing_reverts_in_any_state(world: World, desk: Desk) -> None:
    stop(world, desk.s)
    with world.reverts("VaultNotSigningKey", caller=world.stranger.address, signingKey=world.signer.address):
        desk.buy(usd(2000), eth(1), sender=world.stranger)
    with world.reverts("VaultWrongNonce", expected=1, given=0):
        desk.buy(usd(2000), eth(1), nonce=0)
    with world.reverts("VaultUnknownAsset", token=world.token_of("BTC")):
        desk.buy(usd(2000), eth(1), asset=world.token_of("BTC"))
    with world.reverts("VaultZeroAmount"):
        desk.sell(0, usd(2000))
    assert guard(world, desk.s).reasons == 0


def test_the_limit_that_a_price_has_broken_is_persisted_by_the_refused_trade(world: World, desk: Desk) -> None:
    world.set_price("ETH", 1500, pool_follows=False)  # 12.5 % lost
    events = desk.buy(usd(2000), eth(1))
    reasons = Reason.DAY_LOSS | Reason.DRAWDOWN
    assert refusal(desk, events)[3] == reasons
    changed = one(events, "StateChanged")
    assert changed == {"state": State.REDUCING, "reasons": reasons, "unitPriceWad": WAD * 875 // 1000}
    assert guard(world, desk.s).drawdownLatched
    assert guard(world, desk.s).dayBreachedOn == world.now_s() // DAY_S


def test_all_reasons_are_given_at_once(world: World, desk: Desk) -> None:
    world.as_timelock(world.agents.functions.slashBond(desk.s.agent_id, 40_000 * WAD))
    allocate(world, desk.s, usd(1_000_000))
    world.travel_to(world.epoch_start_s(1) + WINDOW_S)
    stop(world, desk.s)
    world.set_price("ETH", 1000, pool_follows=False)  # 1.75 million left of two: 12.5 % lost
    events = desk.buy(usd(2000), eth(1))
    expected = (
        Reason.DAY_LOSS | Reason.DRAWDOWN | Reason.COLLATERAL | Reason.DEPOSIT | Reason.UNSETTLED | Reason.GUARDIAN
    )
    assert refusal(desk, events)[3] == expected
    assert condition(world, desk.s) == (State.REDUCING, expected)


@pytest.mark.parametrize("buy", [True, False])
def test_nobody_trades_a_halted_vault(world: World, desk: Desk, buy: bool) -> None:
    halt(world, desk.s)
    before = memory(world, desk)
    events = desk.buy(usd(2000), eth(1)) if buy else desk.sell(eth(1), usd(2000))
    assert refusal(desk, events) == (1, world.token_of("ETH"), buy, Reason.HALTED)
    assert memory(world, desk) == before


@pytest.mark.parametrize("buy", [True, False])
def test_nothing_trades_while_the_quote_token_is_unhealthy(world: World, desk: Desk, buy: bool) -> None:
    world.set_price("MUSD", "0.97")
    before = memory(world, desk)
    events = desk.buy(usd(2000), eth(1)) if buy else desk.sell(eth(1), usd(2000))
    expected = Reason.QUOTE_UNHEALTHY | Reason.PRICE_MISSING
    assert refusal(desk, events) == (1, world.token_of("ETH"), buy, expected)
    assert memory(world, desk) == before


# What passes


def test_a_sale_passes_and_says_in_the_ledger_why_the_vault_was_reducing(world: World, desk: Desk) -> None:
    stop(world, desk.s)
    events = desk.sell(eth(100), usd(200_000))
    trade = one(events, "TradeRecorded")["trade"]
    assert (trade["reasons"], trade["sequence"]) == (Reason.GUARDIAN, 1)
    assert none_of(events, "TradeRefused")
    assert world.held(desk.s) == eth(150)
    assert guard(world, desk.s).nonce == 2


def test_a_sale_passes_whatever_was_traded_today(world: World) -> None:
    desk = Desk(world, limits(max_trades_per_day=2, max_daily_turnover_bps=5000))
    desk.buy(usd(400_000), eth(200))
    desk.sell(eth(1), usd(2000))
    stop(world, desk.s)
    for _ in range(2):
        desk.sell(eth(50), usd(100_000))
    assert world.held(desk.s) == eth(99)
    # Nor does it count for the rest of the day.
    remembered = guard(world, desk.s)
    assert (remembered.tradesToday, remembered.turnoverToday) == (2, usd(402_000))


def test_a_sale_passes_whatever_the_loss(world: World, desk: Desk) -> None:
    world.set_price("ETH", 1500, pool_follows=False)
    desk.sell(eth(250), usd(375_000))
    assert book(world, desk.s).quoteHeld == usd(875_000)


def test_a_sale_sells_no_more_than_is_held_in_any_state(world: World, desk: Desk) -> None:
    stop(world, desk.s)
    weth = world.token_of("ETH")
    with world.reverts("VaultInsufficientHoldings", token=weth, held=eth(250), needed=eth(250) + 1):
        desk.sell(eth(250) + 1, usd(500_000))


def test_a_sale_may_lose_the_reduce_slippage_to_the_oracle_and_no_more(world: World, desk: Desk) -> None:
    stop(world, desk.s)
    with world.reverts("VaultSlippageExceeded", shortfall=usd(4000) + 1, allowed=usd(4000)):
        desk.sell(eth(100), usd(196_000) - 1)
    desk.sell(eth(100), usd(196_000))
    remembered = guard(world, desk.s)
    assert remembered.reduceSlippage.level == usd(4000)
    assert remembered.slippage.level == 0


def test_sales_together_may_lose_the_cumulative_reduce_slippage_and_no_more(world: World) -> None:
    never_decay(world)
    desk = Desk(world, limits(max_reduce_cumulative_slippage_bps=20))  # 2,000 of a million
    desk.buy(usd(500_000), eth(250))
    stop(world, desk.s)
    with world.reverts("VaultCumulativeSlippageExceeded", level=usd(2000) + 1, cap=usd(2000)):
        desk.sell(eth(250), usd(498_000) - 1)
    desk.sell(eth(200), usd(398_000))
    with world.reverts("VaultCumulativeSlippageExceeded", level=usd(2000) + 1, cap=usd(1996)):
        desk.sell(eth(50), usd(100_000) - 1)
    desk.sell(eth(50), usd(100_000))


def test_sales_while_reducing_have_an_allowance_of_their_own(world: World) -> None:
    never_decay(world)
    desk = Desk(world, limits(max_cumulative_slippage_bps=30))
    desk.buy(usd(500_000), eth("248.5"))  # 3,000: all that trades may lose
    stop(world, desk.s, HOUR_S)
    desk.sell(eth(50), usd(98_000))
    remembered = guard(world, desk.s)
    assert (remembered.slippage.level, remembered.reduceSlippage.level) == (usd(3000), usd(2000))
    # And what was lost while reducing does not weigh on trading afterwards.
    world.travel(HOUR_S)
    tighten(world, max_reduce_cumulative_slippage_bps=1)
    desk.sell(eth(50), usd(100_000))


TIGHT = {
    "max_reduce_slippage_bps": (60, "VaultSlippageExceeded", {"shortfall": usd(1300), "allowed": usd(1200)}),
    "max_reduce_cumulative_slippage_bps": (
        12, "VaultCumulativeSlippageExceeded", {"level": usd(1300), "cap": usd(1200)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("ceiling", TIGHT)
def test_a_tightened_ceiling_binds_the_next_sale(world: World, desk: Desk, ceiling: str) -> None:
    stop(world, desk.s)
    tightened, error, arguments = TIGHT[ceiling]
    # A trade may never lose more than a sale while reducing.
    tighten(world, max_trade_slippage_bps=60, **{ceiling: tightened})
    with world.reverts(error, **arguments):
        desk.sell(eth(100), usd(198_700))
    tighten(world)
    desk.sell(eth(100), usd(198_700))


# An asset without a price


@pytest.fixture
def two_assets(world: World) -> Desk:
    desk = Desk(world, assets=("ETH", "BTC"))
    desk.buy(usd(400_000), eth(200))
    desk.buy(usd(300_000), 5 * 10**8, symbol="BTC")
    return desk


def without_price(world: World, symbol: str) -> None:
    """All feeds but this one publish on."""
    world.evm.travel(2 * HOUR_S)
    for other in {"MUSD", "ETH", "BTC"} - {symbol}:
        world.set_price(other, {"MUSD": 1, "ETH": 2000, "BTC": 60_000}[other], pool_follows=False)


def test_an_asset_without_a_price_can_be_neither_bought_nor_sold(world: World, two_assets: Desk) -> None:
    without_price(world, "BTC")
    before = memory(world, two_assets)
    for buy in (True, False):
        events = world.trade(two_assets.s, 10**8, buy=buy, symbol="BTC")
        assert refusal(two_assets, events) == (2, world.token_of("BTC"), buy, Reason.PRICE_MISSING)
    assert memory(world, two_assets) == before


def test_a_missing_price_leaves_other_assets_for_sale(world: World, two_assets: Desk) -> None:
    without_price(world, "BTC")
    assert refusal(two_assets, two_assets.buy(usd(2000), eth(1)))[3] == Reason.PRICE_MISSING
    trade = one(two_assets.sell(eth(50), usd(100_000)), "TradeRecorded")["trade"]
    assert trade["reasons"] == Reason.PRICE_MISSING
    # The value that is known: 300,000 in quote, and what ETH is worth.
    assert trade["netAssetValue"] == world.status(two_assets.s).value == usd(700_000)
    # A partial value is no price of a unit.
    assert guard(world, two_assets.s).lastUnitPrice == world.status(two_assets.s).unitPriceWad == WAD


def test_a_missing_price_of_what_is_not_held_only_stops_its_purchase(world: World) -> None:
    desk = Desk(world, assets=("ETH", "BTC"))
    without_price(world, "BTC")
    events = world.trade(desk.s, usd(60_000), buy=True, symbol="BTC")
    assert refusal(desk, events) == (0, world.token_of("BTC"), True, Reason.PRICE_MISSING)
    assert none_of(events, "StateChanged")
    assert condition(world, desk.s) == (State.ACTIVE, Reason(0))
    desk.buy(usd(2000), eth(1))
    assert world.held(desk.s) == eth(1)
