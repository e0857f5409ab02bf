"""Griefing by poking, and by gifts: what anybody can do to a vault without being anybody."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import Listing, dollars, fund_bidder
from tests.contracts.vaults import MAX_UINT, Reason, State, book, condition, guard, recall, resume
from tests.contracts.world import ANY, HOUR_S, WINDOW_S, Strategy, World, eth, one, tokens, usd


@pytest.fixture
def invested(world: World, strategy: Strategy) -> Strategy:
    world.buy(strategy, usd(500_000))
    return strategy


def test_poking_all_day(world: World, invested: Strategy, attack: Report) -> None:
    """Outside a window a poke earns nothing; inside, four bounties a window, whoever comes and however often."""
    before, gas = world.status(invested), 0
    for _ in range(20):
        gas += int(world.evm.send(invested.vault.functions.poke(), world.stranger)["gasUsed"])
    earned = world.pool.functions.bountyOf(world.stranger.address)
    assert world.view(earned) == 0
    assert world.status(invested) == before
    world.to_next_window()
    pokes = 24
    for _ in range(pokes):
        world.poke(invested)
        world.travel(WINDOW_S // pokes - 10)
    assert world.view(earned) == tokens(4)
    world.buy(invested, usd(1000))
    attack.outcome(
        gained=f"{world.view(earned) // 10**18} tokens in a window, as for any observer",
        cost=f"{gas // 20:,} gas a poke", stopped_by="bounties a quarter of a window apart; nothing else changes",
    )  # fmt: skip


def test_poking_in_a_wrong_high_round_to_have_the_vault_halted(
    world: World, invested: Strategy, attack: Report
) -> None:
    """A round half too high, poked by anybody, is the guard's peak; the true price is then a drawdown past the hard
    limit, and the vault is for sale. It is sold at true prices, a lot a round; a vote ends it and resets the peak."""
    value = world.status(invested).value
    world.set_price("ETH", 3000, pool_follows=False)
    gas = int(world.evm.send(invested.vault.functions.poke(), world.stranger)["gasUsed"])
    world.set_price("ETH", 2000, pool_follows=False)
    assert condition(world, invested)[0] == State.HALTED
    fund_bidder(world, invested)
    world.poke(invested)
    world.travel(HOUR_S // 2)
    filled = one(
        world.send(invested.vault.functions.fillAuction(world.token_of("ETH"), MAX_UINT), world.bidder), "AuctionFilled"
    )
    lost = value - world.status(invested).value
    assert 0 < lost <= value * 500 // 10_000 // 4
    resume(world, invested)
    assert guard(world, invested).haltedAt == 0
    assert guard(world, invested).peak == world.status(invested).unitPriceWad
    attack.outcome(
        gained=f"a halt until the next vote; {dollars(lost)} for who bought a lot at {filled['discountBps']} bps below",
        cost=f"{gas:,} gas and a wrong round", stopped_by="resume, by vote; the auction's own price",
    )  # fmt: skip


def test_gifts_inflate_no_unit(world: World, attack: Report) -> None:
    """The first depositor's trick: a gift before the first capital, between two flows, and after, to make units worth
    more than was paid for them, weights larger, or dust of a recall a fortune."""
    s = world.deploy_strategy(capital=0)
    gift = usd(3_000_000)
    world.market.give_quote(s.vault.address, gift)
    world.as_timelock(world.treasury.functions.allocate(s.id, 1))
    world.market.give_quote(s.vault.address, gift)
    world.as_timelock(world.treasury.functions.allocate(s.id, usd(1_000_000)))
    assert book(world, s).units == (usd(1_000_000) + 1) * 10**12
    world.market.give_base("ETH", s.vault.address, eth(1000))
    with world.reverts("VaultPositionExceeded", asset=ANY, positionValue=ANY, allowed=ANY):
        world.buy(s, usd(601_000))
    world.buy(s, usd(500_000))
    status = world.status(s)
    assert usd(999_000) < status.value < usd(1_000_000)
    recalled = one(recall(world, s, world.book.quote), "Recalled")["amount"]
    assert recalled == usd(500_000) + 1
    skimmed = 0
    for token, price in ((world.book.quote, Decimal(1)), (world.token_of("ETH"), Decimal(2000) / 10**12)):
        skimmed += one(world.send(s.vault.functions.skim(token), world.stranger), "Skimmed")["amount"] * price
    assert skimmed == 2 * gift + usd(2_000_000)
    assert world.status(s).profit == status.profit
    attack.outcome(
        gained="nothing", cost=f"{dollars(skimmed)}, which the treasury has now", stopped_by="books, and skim"
    )


def test_a_gift_of_an_asset_without_a_price_stops_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, attack: Report
) -> None:
    """Holding what has no price makes a vault REDUCING; a listed asset whose feed has died, sent by a stranger, would
    be such, if gifts were held."""
    Listing(world, monkeypatch).token(symbol="T")
    s = world.deploy_strategy(assets=("ETH", "T"))
    world.as_timelock(world.oracle.functions.removeFeed(world.token_of("T")))
    world.market.give_base("T", s.vault.address, eth(1000))
    world.poke(s)
    assert condition(world, s) == (State.ACTIVE, Reason(0))
    one(world.buy(s, usd(100_000)), "TradeRecorded")
    skimmed = one(world.send(s.vault.functions.skim(world.token_of("T")), world.stranger), "Skimmed")["amount"]
    assert skimmed == eth(1000)
    attack.outcome(gained="nothing", cost="1,000 tokens", stopped_by="the vault's own books")


def test_skimming_what_is_booked_or_in_motion(world: World, invested: Strategy, attack: Report) -> None:
    """`skim` sends what is above the books, to the treasury: in every state it finds nothing of the vault's."""

    def skim() -> list[int]:
        return [one(world.send(invested.vault.functions.skim(token), world.stranger), "Skimmed")["amount"]
                for token in (world.book.quote, world.token_of("ETH"), world.token_of("BTC"))]  # fmt: skip

    found = skim()
    world.as_timelock(world.strategies.functions.halt(invested.id))
    found += skim()
    fund_bidder(world, invested)
    world.travel(60)
    world.send(invested.vault.functions.fillAuction(world.token_of("ETH"), MAX_UINT), world.bidder)
    found += skim()
    recall(world, invested, world.token_of("ETH"), eth(1))
    found += skim()
    assert found == [0] * 12
    attack.outcome(gained="nothing", cost="gas of twelve calls", stopped_by="books that follow every transfer")
