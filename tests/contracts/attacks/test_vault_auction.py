"""A halted vault that is sold too cheaply, or that nobody can buy from.

The vault holds about 250 ETH, 500,000 dollars, bought in the real pool. Lots are a quarter; the discount grows to 5 %
in four hours and starts again with each fill.
"""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import Attacker, dollars, fund_bidder
from tests.contracts.vaults import MAX_UINT, Reason, book, halt, recall
from tests.contracts.world import ANY, HOUR_S, RULES, Strategy, World, one, usd


@pytest.fixture
def invested(world: World, strategy: Strategy) -> Strategy:
    world.buy(strategy, usd(500_000))
    return strategy


def fill(world: World, s: Strategy) -> int:
    """The bidder buys a lot and sells it in the pool at once; what that earned."""
    before = world.market.balance(world.book.quote, world.bidder)
    filled = one(
        world.send(s.vault.functions.fillAuction(world.token_of("ETH"), MAX_UINT), world.bidder), "AuctionFilled"
    )
    world.market.sell("ETH", filled["amount"], sender=world.bidder)
    world.market.arbitrage("ETH")
    return world.market.balance(world.book.quote, world.bidder) - before


def test_a_bidder_who_waits_without_a_rival(world: World, invested: Strategy, attack: Report) -> None:
    """The most the auction itself can lose at honest prices: every lot at the largest discount."""
    halt(world, invested)
    fund_bidder(world, invested)
    assets, value = world.status(invested).value - book(world, invested).quoteHeld, world.status(invested).value
    began_s, gained = world.now_s(), 0
    while world.held(invested):
        world.travel(RULES.auction_duration_s)
        gained += fill(world, invested)
    lost = value - world.status(invested).value
    assert lost == pytest.approx(assets * RULES.auction_max_discount_bps // 10_000, abs=4)
    assert gained < lost
    hours = (world.now_s() - began_s) // HOUR_S
    assert hours == 4 * RULES.auction_duration_s // HOUR_S == 16
    attack.outcome(
        gained=f"{dollars(gained)} of {dollars(assets)}, the vault lost {dollars(lost)}: 5.00 % of what was sold",
        cost=f"{hours} hours in which no rival may bid",
        stopped_by="auctionMaxDiscountBps, which collateral covers",
    )


def test_a_bidder_who_waits_with_a_rival(world: World, invested: Strategy, attack: Report) -> None:
    """A rival takes each lot as soon as it earns him a tenth of a percent after the pool's fee."""
    halt(world, invested)
    fund_bidder(world, invested)
    assets, value = world.status(invested).value - book(world, invested).quoteHeld, world.status(invested).value
    gained, fills = 0, 0
    while world.held(invested):
        # One basis point more each 28.8 seconds: 20 in ten minutes.
        world.travel(580)
        gained += fill(world, invested)
        fills += 1
    lost = value - world.status(invested).value
    assert fills == 4
    assert 0 < gained < lost < assets * 22 // 10_000
    attack.outcome(
        gained=f"nothing by the one who waited; the rival {dollars(gained)}, the vault lost {dollars(lost)}",
        cost="the lots he waited for",
        stopped_by=f"competition: {Decimal(lost * 10_000) / assets:.0f} bps of what was sold",
    )


@pytest.mark.parametrize(("heartbeat_s", "lost_bps"), [(HOUR_S, 124), (24 * HOUR_S, 500)])
def test_a_slow_feed_sells_cheaply_even_with_a_rival(
    world: World, invested: Strategy, attack: Report, heartbeat_s: int, lost_bps: int
) -> None:
    """A known limitation: each lot waits for a newer round, and the discount grows meanwhile. Here the price stands
    still, the feed keeps its heartbeat only, and somebody takes each lot in the first possible second."""
    feed = world.book.asset("ETH").feed
    world.as_timelock(
        world.oracle.functions.setFeed(world.token_of("ETH"), feed, heartbeat_s + HOUR_S, 10**8, 10**14)
    )
    halt(world, invested)
    fund_bidder(world, invested)
    assets = world.status(invested).value - book(world, invested).quoteHeld
    quote_before = book(world, invested).quoteHeld
    while world.held(invested):
        world.travel(heartbeat_s - 10)
        fill(world, invested)
    lost = assets - (book(world, invested).quoteHeld - quote_before)
    assert abs(lost * 10_000 - lost_bps * assets) < 2 * assets
    attack.outcome(
        gained=f"the vault lost {dollars(lost)}, {lost_bps} bps of what was sold",
        cost="a race for the first second after each round",
        stopped_by="auctionMaxDiscountBps; auctionDurationS well above the slowest heartbeat",
    )


def test_resetting_the_discount_to_keep_a_vault_unsold(world: World, invested: Strategy, attack: Report) -> None:
    """Each fill starts the discount again; but a fill is a whole lot at the oracle's price, so the saboteur buys it
    all."""
    halt(world, invested)
    fund_bidder(world, invested)
    value = world.status(invested).value
    gained = 0
    for _ in range(4):
        world.travel(10)  # a lot needs a round after the last fill
        gained += fill(world, invested)
    assert world.held(invested) == 0
    assert world.status(invested).value >= value
    assert -usd(1000) < gained < 0
    attack.outcome(
        gained=f"{dollars(gained)}, and the vault is sold in a minute at the full price",
        cost="half a million dollars and the pool's fee on them",
        stopped_by="lots that the vault chooses",
    )


def test_one_wrong_low_round_sells_nothing_and_two_sell_a_lot(world: World, invested: Strategy, attack: Report) -> None:
    """A round a third too low halts the vault; in the same transaction the attacker would buy all lots at that round's
    price and sell them in the pool. The price must be of a round after the halt, and after each fill: chunks bound what
    wrong rounds sell."""
    attacker = Attacker(world)
    attacker.fund(quote=usd(1_000_000))
    attacker.approve(world.book.quote, invested.vault.address)
    wealth, held = attacker.wealth(), world.held(invested)
    buy = invested.vault.functions.fillAuction(world.token_of("ETH"), MAX_UINT)
    world.set_price("ETH", 1300, pool_follows=False)
    with world.reverts("VaultAuctionNeedsNewerRound", updatedAt=ANY, since=ANY):
        attacker.run([buy] * 4)
    world.poke(invested)
    with world.reverts("VaultAuctionNeedsNewerRound", updatedAt=ANY, since=ANY):
        attacker.run([buy])
    world.set_price("ETH", 1300, pool_follows=False)  # wrong once more
    with world.reverts("VaultAuctionNeedsNewerRound", updatedAt=ANY, since=ANY):
        attacker.run([buy] * 2)
    attacker.run([buy, attacker.swap(held // 4, buy=False)])
    world.set_price("ETH", 2000)
    gained, lost = attacker.wealth() - wealth, usd(1_000_000) - world.status(invested).value
    assert world.held(invested) >= held * 3 // 4 - 1
    assert 0 < gained < lost < usd(45_000)
    attack.outcome(
        gained=f"nothing by the first wrong round, {dollars(gained)} by a second; the vault lost {dollars(lost)}",
        cost="two rounds that are wrong by a third and pass the feed's bounds",
        stopped_by="VaultAuctionNeedsNewerRound: a lot a round",
    )


def test_a_halted_vault_that_nobody_can_buy_from(world: World, invested: Strategy, attack: Report) -> None:
    """Feeds stay silent for good, so no lot has a price; the treasury takes everything back in kind."""
    halt(world, invested)
    fund_bidder(world, invested)
    held, weth = world.held(invested), world.token_of("ETH")
    world.evm.travel(100 * HOUR_S)
    reasons = Reason.HALTED | Reason.PRICE_MISSING | Reason.QUOTE_UNHEALTHY
    with world.reverts("VaultNotPriced", reasons=reasons):
        fill(world, invested)
    before = world.market.balance(world.book.quote, world.d.treasury)
    assert one(recall(world, invested, weth, fallback_wad=0), "Recalled")["amount"] == held
    recall(world, invested, world.book.quote)
    assert world.market.balance(weth, world.d.treasury) == held
    assert world.market.balance(world.book.quote, world.d.treasury) - before == usd(500_000)
    assert world.view(invested.vault.functions.isEmpty())
    attack.outcome(gained="nothing", cost="nothing", stopped_by="recall in kind, which needs no price")
