"""The auction of a halted vault: bring quote, take a lot at oracle x (1 - discount); the discount grows with the time
since the halt or the asset's last fill, so waiting is cheap once only.

The vault holds 250 ETH at 2,000: lots of a quarter, 62.5 ETH or 125,000. Four hours to the largest discount, 5 %.
"""

from __future__ import annotations

import pytest

from agents.contracts import EventLog
from agents.localnet.evm import Account
from tests.contracts.vaults import (
    MAX_UINT,
    Desk,
    Reason,
    State,
    book,
    condition,
    guard,
    halt,
    recall,
    resume,
    turn_faulty,
)
from tests.contracts.world import DAY_S, HOUR_S, RULES, WAD, World, eth, none_of, one, usd

LOT, FULL_PRICE = eth("62.5"), usd(125_000)


@pytest.fixture
def desk(world: World) -> Desk:
    desk = Desk(world)
    desk.buy(usd(500_000), eth(250))
    world.market.give_quote(world.bidder, usd(10_000_000))
    world.send(world.quote.functions.approve(desk.s.vault.address, MAX_UINT), world.bidder)
    return desk


@pytest.fixture
def halted(world: World, desk: Desk) -> Desk:
    halt(world, desk.s)
    return desk


def bid(
    world: World,
    desk: Desk,
    *,
    symbol: str = "ETH",
    limit: int = MAX_UINT,
    after_s: int | None = None,
    bidder: Account | None = None,
) -> list[EventLog]:
    """In the block after a new round. `after_s`: that many seconds after the halt."""
    if after_s is not None:
        world.evm.next_block_at(guard(world, desk.s).haltedAt + after_s - 1)
    world.new_round(symbol)
    if after_s is not None:
        world.evm.next_block_at(guard(world, desk.s).haltedAt + after_s)
    fill = desk.s.vault.functions.fillAuction(world.token_of(symbol), limit)
    return world.send(fill, bidder or world.bidder)


def offer(world: World, desk: Desk, symbol: str = "ETH") -> tuple[int, int, int]:
    """What the next fill would give, cost, and its discount, in the latest block."""
    return tuple(world.view(desk.s.vault.functions.auctionQuote(world.token_of(symbol))))


# Refusals


def test_only_a_halted_vault_is_auctioned(world: World, desk: Desk) -> None:
    with world.reverts("VaultNotHalted"):
        bid(world, desk)
    assert offer(world, desk) == (0, 0, 0)
    world.set_price("ETH", 1500, pool_follows=False)  # reducing is not enough
    world.poke(desk.s)
    with world.reverts("VaultNotHalted"):
        bid(world, desk)


def test_only_listed_assets_are_auctioned(world: World, halted: Desk) -> None:
    for token in (world.token_of("BTC"), world.book.quote):
        with world.reverts("VaultUnknownAsset", token=token):
            world.send(halted.s.vault.functions.fillAuction(token, MAX_UINT), world.bidder)
        with world.reverts("VaultUnknownAsset", token=token):
            world.view(halted.s.vault.functions.auctionQuote(token))


def fill_now(world: World, desk: Desk) -> list[EventLog]:
    """Without a new round."""
    return world.send(desk.s.vault.functions.fillAuction(world.token_of("ETH"), MAX_UINT), world.bidder)


def updated_at(world: World) -> int:
    return int(world.view(world.oracle.functions.read(world.token_of("ETH"))).updatedAt)


def test_nothing_is_auctioned_at_the_round_of_the_halt(world: World, desk: Desk) -> None:
    """One wrong round could halt a vault and buy it in one transaction."""
    world.set_price("ETH", 1300, pool_follows=False)
    halted_at = world.now_s() + 10
    world.evm.next_block_at(halted_at)
    with world.reverts("VaultAuctionNeedsNewerRound", updatedAt=updated_at(world), since=halted_at):
        fill_now(world, desk)
    world.poke(desk.s)
    assert offer(world, desk) == (0, 0, 0)
    bid(world, desk)


def test_one_round_sells_one_lot(world: World, halted: Desk) -> None:
    bid(world, halted)
    round_of, filled_at = updated_at(world), world.now_s()
    world.evm.travel(HOUR_S)
    with world.reverts("VaultAuctionNeedsNewerRound", updatedAt=round_of, since=filled_at):
        fill_now(world, halted)
    assert offer(world, halted) == (0, 0, 0)
    bid(world, halted)


def test_nothing_is_auctioned_without_a_fresh_price(world: World, halted: Desk) -> None:
    world.evm.travel(2 * HOUR_S + 1)
    with world.reverts("VaultNotPriced", reasons=Reason.HALTED | Reason.PRICE_MISSING):
        fill_now(world, halted)
    assert offer(world, halted) == (0, 0, 0)


def test_nothing_is_auctioned_while_the_quote_token_is_unhealthy(world: World, halted: Desk) -> None:
    world.set_price("MUSD", "0.97")
    with world.reverts("VaultNotPriced", reasons=Reason.HALTED | Reason.PRICE_MISSING | Reason.QUOTE_UNHEALTHY):
        bid(world, halted)
    assert offer(world, halted) == (0, 0, 0)


def test_what_is_not_held_is_not_sold(world: World, halted: Desk) -> None:
    recall(world, halted.s, world.token_of("ETH"))
    with world.reverts("VaultZeroAmount"):
        bid(world, halted)


def test_a_bidder_pays_no_more_than_he_said(world: World, halted: Desk) -> None:
    with world.reverts("VaultAuctionTooDear", quoteIn=FULL_PRICE, maxQuoteIn=FULL_PRICE - 1):
        bid(world, halted, limit=FULL_PRICE - 1, after_s=5)
    bid(world, halted, limit=FULL_PRICE, after_s=10)


def test_a_bidder_who_does_not_pay_gets_nothing(world: World, halted: Desk) -> None:
    poor = {"spender": halted.s.vault.address, "allowance": 0, "needed": FULL_PRICE}
    with world.reverts("ERC20InsufficientAllowance", **poor):
        bid(world, halted, bidder=world.stranger)


def test_a_quote_token_that_keeps_a_fee_does_not_pay_for_a_lot(world: World, halted: Desk) -> None:
    token = turn_faulty(world, world.book.quote, 6)
    world.send(token.functions.setFeeBps(1), world.deployer)
    with world.reverts("VaultShortPaid", received=usd("124987.5"), due=FULL_PRICE):
        bid(world, halted, after_s=5)


# A fill


def test_a_fill_gives_a_lot_for_quote_and_the_books_follow(world: World, halted: Desk) -> None:
    weth, vault = world.token_of("ETH"), halted.s.vault.address
    bidder_before = world.market.balance(world.book.quote, world.bidder)
    filled = one(bid(world, halted, after_s=HOUR_S), "AuctionFilled")
    price = usd(125_000) * (10_000 - 125) // 10_000
    assert filled == {
        "asset": weth, "buyer": world.bidder.address, "amount": LOT, "quoteIn": price, "discountBps": 125,
    }  # fmt: skip
    assert world.market.balance(weth, world.bidder) == LOT
    assert world.market.balance(world.book.quote, world.bidder) == bidder_before - price
    assert world.held(halted.s) == world.market.balance(weth, vault) == eth(250) - LOT
    assert book(world, halted.s).quoteHeld == world.market.balance(world.book.quote, vault) == usd(500_000) + price
    assert world.status(halted.s).profit == price - usd(125_000)
    # A fill is no flow, and no trade of the agent's.
    assert book(world, halted.s).netFlow == -usd(1_000_000)
    assert guard(world, halted.s).nonce == 1


def test_anybody_can_bid(world: World, halted: Desk) -> None:
    world.market.give_quote(world.stranger, FULL_PRICE)
    world.send(world.quote.functions.approve(halted.s.vault.address, FULL_PRICE), world.stranger)
    bid(world, halted, bidder=world.stranger, after_s=10)
    assert world.market.balance(world.token_of("ETH"), world.stranger) == LOT


def test_a_fill_returns_what_it_gave_and_took(world: World, halted: Desk) -> None:
    fill = halted.s.vault.functions.fillAuction(world.token_of("ETH"), MAX_UINT)
    world.new_round()
    assert tuple(world.evm.call(fill, world.bidder)) == (LOT, FULL_PRICE)


@pytest.mark.parametrize(
    ("after_s", "discount_bps"),
    [(2, 0), (28, 0), (29, 1), (HOUR_S, 125), (2 * HOUR_S, 250), (14_399, 499), (14_400, 500)],
)
def test_the_discount_grows_with_time_to_its_largest(
    world: World, halted: Desk, after_s: int, discount_bps: int
) -> None:
    assert RULES.auction_duration_s == 14_400
    if after_s > 60:
        world.travel(after_s - 30)
    filled = one(bid(world, halted, after_s=after_s), "AuctionFilled")
    assert filled["discountBps"] == discount_bps
    assert filled["quoteIn"] == FULL_PRICE * (10_000 - discount_bps) // 10_000


def test_the_discount_stays_at_its_largest(world: World, halted: Desk) -> None:
    world.travel(30 * DAY_S)
    assert offer(world, halted) == (LOT, FULL_PRICE * 95 // 100, 500)


def test_the_view_is_the_next_fill(world: World, halted: Desk) -> None:
    world.travel(90 * 60)
    amount, quote_in, discount_bps = offer(world, halted)
    filled = one(bid(world, halted, limit=quote_in), "AuctionFilled")
    assert (filled["amount"], filled["quoteIn"], filled["discountBps"]) == (amount, quote_in, discount_bps)
    assert discount_bps == 187


def test_the_price_is_the_oracle_s_of_the_moment(world: World, halted: Desk) -> None:
    world.set_price("ETH", "1234.56789012", pool_follows=False)
    quote_in = -(-LOT * 123_456_789_012 // 10**20)  # in the vault's favour: rounded up
    assert offer(world, halted)[:2] == (LOT, quote_in)


def test_the_discounted_price_is_rounded_in_the_vault_s_favour(world: World, halted: Desk) -> None:
    world.set_price("ETH", "1234.56789012", pool_follows=False)
    full = -(-LOT * 123_456_789_012 // 10**20)
    world.travel(HOUR_S)
    assert offer(world, halted) == (LOT, -(-full * (10_000 - 125) // 10_000), 125)


# One lot after another


def test_the_discount_starts_again_after_each_fill(world: World, halted: Desk) -> None:
    bid(world, halted, after_s=10)
    world.travel(2 * HOUR_S)
    assert offer(world, halted)[2] == 250
    bid(world, halted)
    filled_at = world.now_s()
    world.new_round()
    assert offer(world, halted)[2] == 0
    world.travel_to(filled_at + HOUR_S - 3)  # three feeds are refreshed, a second each
    assert offer(world, halted)[2] == 125


def test_lots_are_equal_until_everything_is_sold(world: World, halted: Desk) -> None:
    for _ in range(4):
        assert one(bid(world, halted), "AuctionFilled")["amount"] == LOT
    assert world.held(halted.s) == 0
    with world.reverts("VaultZeroAmount"):
        bid(world, halted)
    assert book(world, halted.s).quoteHeld == world.status(halted.s).value == usd(1_000_000)


def test_a_position_that_does_not_divide_leaves_a_smaller_last_lot(world: World, desk: Desk) -> None:
    desk.sell(eth(250) - 10, usd(500_000))
    halt(world, desk.s)
    amounts = [one(bid(world, desk), "AuctionFilled")["amount"] for _ in range(4)]
    assert amounts == [3, 3, 3, 1]


def test_even_the_smallest_lot_costs_something(world: World, desk: Desk) -> None:
    desk.sell(eth(250) - 10, usd(500_000))
    halt(world, desk.s)
    world.travel(DAY_S)
    assert offer(world, desk) == (3, 1, 500)


def test_no_bidder_can_reset_the_discount_with_dust(world: World, halted: Desk) -> None:
    """The lot is the vault's choice: what is sent to the vault does not change it, and a fill takes all of it."""
    world.travel(2 * HOUR_S)
    before = offer(world, halted)
    world.market.give_base("ETH", halted.s.vault.address, 1)
    world.market.give_base("ETH", halted.s.vault.address, eth(1000))
    assert offer(world, halted) == before == (LOT, FULL_PRICE * 975 // 1000, 250)


def test_a_recall_in_between_leaves_a_smaller_last_lot(world: World, halted: Desk) -> None:
    bid(world, halted)
    recall(world, halted.s, world.token_of("ETH"), eth(100))
    assert [one(bid(world, halted), "AuctionFilled")["amount"] for _ in range(2)] == [LOT, eth(25)]


def test_each_asset_has_an_auction_of_its_own(world: World) -> None:
    desk = Desk(world, assets=("ETH", "BTC"))
    desk.buy(usd(400_000), eth(200))
    desk.buy(usd(300_000), 5 * 10**8, symbol="BTC")
    world.market.give_quote(world.bidder, usd(1_000_000))
    world.send(world.quote.functions.approve(desk.s.vault.address, MAX_UINT), world.bidder)
    halt(world, desk.s)
    world.travel(2 * HOUR_S)
    filled = one(bid(world, desk, symbol="ETH"), "AuctionFilled")
    assert (filled["amount"], filled["quoteIn"]) == (eth(50), usd(97_500))
    world.new_round()
    assert offer(world, desk, "ETH")[2] == 0
    filled = one(bid(world, desk, symbol="BTC"), "AuctionFilled")
    assert (filled["amount"], filled["quoteIn"]) == (125_000_000, usd(73_125))


def test_an_asset_is_sold_though_another_has_no_price(world: World) -> None:
    desk = Desk(world, assets=("ETH", "BTC"))
    desk.buy(usd(400_000), eth(200))
    desk.buy(usd(300_000), 5 * 10**8, symbol="BTC")
    world.market.give_quote(world.bidder, usd(1_000_000))
    world.send(world.quote.functions.approve(desk.s.vault.address, MAX_UINT), world.bidder)
    halt(world, desk.s)
    world.as_timelock(world.oracle.functions.removeFeed(world.token_of("BTC")))
    assert one(bid(world, desk, symbol="ETH"), "AuctionFilled")["amount"] == eth(50)
    with world.reverts("VaultNotPriced", reasons=Reason.HALTED | Reason.PRICE_MISSING):
        bid(world, desk, symbol="BTC")


# Halts


def test_who_first_sees_the_hard_drawdown_persists_it_and_bids_at_the_next_round(world: World, desk: Desk) -> None:
    world.set_price("ETH", 1300, pool_follows=False)
    assert offer(world, desk) == (0, 0, 0)  # nobody has persisted the halt
    assert one(world.poke(desk.s), "StateChanged")["state"] == State.HALTED
    assert guard(world, desk.s).haltedAt == world.now_s()
    filled = one(bid(world, desk), "AuctionFilled")
    assert (filled["quoteIn"], filled["discountBps"]) == (usd(81_250), 0)


def test_no_vote_to_halt_again_restarts_the_auction(world: World, halted: Desk) -> None:
    world.travel(2 * HOUR_S)
    halt(world, halted.s)
    assert offer(world, halted)[2] == 250


def test_a_later_halt_is_an_auction_of_its_own(world: World, halted: Desk) -> None:
    bid(world, halted)
    resume(world, halted.s)
    assert offer(world, halted) == (0, 0, 0)
    world.travel(HOUR_S)
    halt(world, halted.s)
    world.new_round()
    # A quarter of what is held now.
    assert offer(world, halted) == (eth("46.875"), usd(93_750), 0)
    assert one(bid(world, halted), "AuctionFilled")["amount"] == eth("46.875")


def test_the_auction_s_own_discount_is_a_loss_like_any_other(world: World, halted: Desk) -> None:
    world.travel(DAY_S)
    for _ in range(4):
        bid(world, halted)
        world.travel(4 * HOUR_S)
    status = world.status(halted.s)
    assert status.profit == -usd(25_000)
    assert status.unitPriceWad == WAD * 975 // 1000
    assert condition(world, halted.s) == (State.HALTED, Reason.HALTED)


def test_tokens_leave_a_halted_vault_by_auction_and_recall_only(world: World, halted: Desk) -> None:
    events = halted.sell(eth(1), usd(2000))
    assert none_of(events, "TradeRecorded")
    assert one(events, "TradeRefused")["reasons"] == Reason.HALTED
