"""LUNA, May 2022: the market was at a tenth of a cent, the feed stood at its aggregator's `minAnswer` of ten cents
(https://rekt.news/venus-blizz-rekt). Whoever believes the floor buys worthless tokens at ten cents.
"""

from __future__ import annotations

from decimal import Decimal

import pytest

from agents.localnet import feeds
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import Listing, dollars
from tests.contracts.vaults import Reason, State, condition
from tests.contracts.world import ANY, DAY_S, HOUR_S, WAD, Strategy, World, one, tokens, usd

FLOOR_E8 = 10**7  # ten cents


def crashed(world: World, monkeypatch: pytest.MonkeyPatch, *, voted_floor: int) -> Strategy:
    """A strategy in LUNA at 80 dollars, of which it holds a little; then the pool falls to a tenth of a cent and the
    feed to its floor."""
    Listing(world, monkeypatch).token(
        symbol="T", price_usd="80", liquidity_usd=200_000_000, bounds=(voted_floor, 10**12)
    )
    s = world.deploy_strategy(assets=("T",))
    world.buy(s, usd(1000), symbol="T")
    asset = world.book.asset("T")
    feeds.publish(world.evm, asset.feed, 10**5, transmitter=world.market.publisher)
    world.market.arbitrage("T")
    feeds.publish(world.evm, asset.feed, FLOOR_E8, transmitter=world.market.publisher)
    assert world.market.pool_price("T") < Decimal("0.0011")
    return s


def test_a_feed_at_its_floor_sells_no_worthless_tokens_to_a_vault(
    world: World, monkeypatch: pytest.MonkeyPatch, attack: Report
) -> None:
    """The bound that was voted is the aggregator's floor, and bounds are exclusive."""
    s = crashed(world, monkeypatch, voted_floor=FLOOR_E8)
    refused = one(world.buy(s, usd(500), symbol="T"), "TradeRefused")
    assert refused["reasons"] == Reason.PRICE_MISSING
    assert condition(world, s) == (State.REDUCING, Reason.PRICE_MISSING)
    assert world.status(s).profit < 0
    attack.outcome(gained="nothing", cost="nothing", stopped_by="OUT_OF_BOUNDS: exclusive bounds")


def test_a_floor_that_the_voters_overlooked_prints_less_than_it_costs(
    world: World, monkeypatch: pytest.MonkeyPatch, attack: Report
) -> None:
    """They voted half the aggregator's floor. The agent buys at a tenth of a cent what the oracle values at ten: profit
    out of nothing, as much as weight allows, and the window confirms it. Rewards wait for vesting; when the feed is
    voted out the profit goes, and all of it is taken back."""
    s = crashed(world, monkeypatch, voted_floor=FLOOR_E8 // 2)
    with world.reverts("VaultPositionExceeded", asset=ANY, positionValue=ANY, allowed=ANY):
        world.buy(s, usd(50_000), symbol="T")
    spent = usd(10_000)
    world.buy(s, spent, symbol="T")
    printed = world.status(s).profit
    assert usd(500_000) < printed < usd(1_500_000)
    world.evm.travel_to(world.epoch_start_s(world.current_epoch() + 1) + 60)
    republish(world)
    world.poke(s)
    world.evm.travel(7 * HOUR_S)
    move = world.close(s)
    world.apply(s, move)
    cap = s.manifest["rewardCap"]
    assert move * s.manifest["rewardRate"] == cap == tokens(5000)

    # The vote takes some days, in which a sixth vests; the real price comes with another feed.
    world.evm.travel(5 * DAY_S)
    feed = feeds.deploy_feed(world.evm, "T / USD", 8, owner=world.deployer, transmitter=world.market.publisher)
    feeds.publish(world.evm, feed, 10**5, transmitter=world.market.publisher)
    token = world.token_of("T")
    world.as_timelock(world.oracle.functions.setFeed(token, feed, 2 * HOUR_S, 1, 10**12))
    world.market.publish("MUSD", Decimal(1))
    claimed = one(world.send(world.pool.functions.claim(s.vault.address), world.controller), "Claimed")["amount"]
    world.evm.travel_to(world.epoch_start_s(world.current_epoch() + 1) + 60)
    feeds.publish(world.evm, feed, 10**5, transmitter=world.market.publisher)
    world.market.publish("MUSD", Decimal(1))
    lost = -one(world.poke(s), "ProfitObserved")["profit"]
    world.evm.travel(7 * HOUR_S)
    back = one(world.apply(s, world.close(s)), "ClawedBack")
    assert 0 < claimed < cap // 4
    taken = back["fromUnclaimed"] + back["fromBond"]
    # What was paid less what was taken is the rate times the account, and the account is the real loss now.
    assert cap - taken == -lost * s.manifest["rewardRate"] < 0
    assert world.account(s).credited == -lost
    attack.outcome(
        gained=f"{dollars(printed)} on paper, {cap / WAD:,.0f} tokens for it, {claimed / WAD:,.0f} of them claimed",
        cost=f"{taken / WAD:,.0f} tokens taken back, for {dollars(lost)} really lost",
        stopped_by="maxPositionBps, rewardCap, vesting, claw-back",
    )  # fmt: skip


def republish(world: World) -> None:
    feeds.publish(world.evm, world.book.asset("T").feed, FLOOR_E8, transmitter=world.market.publisher)
    world.market.publish("MUSD", Decimal(1))
