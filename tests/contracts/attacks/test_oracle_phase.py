"""A feed whose aggregator is exchanged, with other decimals or other manners: what Chainlink's proxies allow."""

from __future__ import annotations

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import dollars
from tests.contracts.vaults import Reason, State, condition, recall
from tests.contracts.world import HOUR_S, Strategy, World, none_of, one, usd


def exchange_aggregator(world: World, symbol: str, decimals: int, answer: int) -> None:
    """A new phase of the real proxy, with an aggregator of these decimals and one round."""
    publisher, owner = world.market.publisher, world.market.deployer
    proxy = world.evm.at("FeedProxy", world.book.asset(symbol).feed)
    aggregator = world.evm.deploy("FeedAggregator", decimals, f"{symbol} / USD", publisher.address, sender=owner)
    world.send(proxy.functions.proposeAggregator(aggregator.address), owner)
    world.send(proxy.functions.confirmAggregator(aggregator.address), owner)
    world.send(aggregator.functions.transmit(answer, 0), publisher)


def test_changed_decimals_print_no_profit(world: World, strategy: Strategy, attack: Report) -> None:
    """18 decimals where there were 8 would make each ETH worth ten billion times as much. Nobody can make the oracle
    accept them either, but a vote."""
    world.buy(strategy, usd(300_000))
    profit = world.status(strategy).profit
    exchange_aggregator(world, "ETH", 18, 2000 * 10**18)
    world.poke(strategy)
    assert condition(world, strategy) == (State.REDUCING, Reason.PRICE_MISSING)
    assert one(world.sell(strategy, world.held(strategy)), "TradeRefused")["reasons"] == Reason.PRICE_MISSING
    feed = world.view(world.oracle.functions.feedOf(world.token_of("ETH"))).aggregator
    # 2e21 is not below the ceiling that was voted for 8 decimals: that alone refuses it.
    out_of_bounds, decimals_changed = 6, 7
    with world.reverts("PriceOracleInvalidFeed", token=world.token_of("ETH"), aggregator=feed, status=out_of_bounds):
        world.send(world.oracle.functions.syncPhase(world.token_of("ETH")), world.stranger)
    # Fewer decimals stay within the bounds, and are refused for what they are.
    exchange_aggregator(world, "ETH", 6, 2000 * 10**6)
    with world.reverts("PriceOracleInvalidFeed", token=world.token_of("ETH"), aggregator=feed, status=decimals_changed):
        world.send(world.oracle.functions.syncPhase(world.token_of("ETH")), world.stranger)
    assert condition(world, strategy) == (State.REDUCING, Reason.PRICE_MISSING)

    relist = world.oracle.functions.setFeed(world.token_of("ETH"), feed, 2 * HOUR_S, 10**6, 10**12)
    world.as_timelock(relist)
    assert condition(world, strategy) == (State.ACTIVE, Reason(0))
    assert world.status(strategy).profit == profit
    attack.outcome(
        gained="nothing: profit is the same before and after", cost="trading until a vote lists the feed anew",
        stopped_by="OUT_OF_BOUNDS, DECIMALS_CHANGED",
    )  # fmt: skip


def test_a_phase_change_is_no_moment_to_trade_at_the_old_price(
    world: World, strategy: Strategy, attack: Report
) -> None:
    """In a new phase without rounds the proxy answers zeros. The market has fallen by a tenth; the agent would sell at
    the old price, or record the empty phase as the feed's."""
    world.buy(strategy, usd(300_000))
    held = world.held(strategy)
    world.market.begin_phase("ETH")
    refused = one(world.sell(strategy, held), "TradeRefused")
    assert refused["reasons"] == Reason.PRICE_MISSING
    feed = world.view(world.oracle.functions.feedOf(world.token_of("ETH"))).aggregator
    invalid_answer = 3
    with world.reverts("PriceOracleInvalidFeed", token=world.token_of("ETH"), aggregator=feed, status=invalid_answer):
        world.send(world.oracle.functions.syncPhase(world.token_of("ETH")), world.stranger)
    world.set_price("ETH", 1800)
    sold = one(world.sell(strategy, held), "TradeRecorded")["trade"]
    lost = usd(1_000_000) - world.status(strategy).value
    assert usd(30_000) < lost < usd(31_000)
    assert sold["amountOut"] < held * 1800 // 10**12
    attack.outcome(
        gained="nothing",
        cost=f"{dollars(lost)}, the fall, as for anybody",
        stopped_by="INVALID_ANSWER until the first round",
    )


def test_an_honest_new_aggregator_stops_nothing(world: World, strategy: Strategy, attack: Report) -> None:
    """A denial of service by upgrading the feed: the next round of the same decimals is traded on at once."""
    world.buy(strategy, usd(100_000))
    before = world.evm.send(strategy.vault.functions.poke(), world.stranger)["gasUsed"]
    exchange_aggregator(world, "ETH", 8, 2001 * 10**8)
    assert condition(world, strategy) == (State.ACTIVE, Reason(0))
    after = world.evm.send(strategy.vault.functions.poke(), world.stranger)["gasUsed"]
    events = world.buy(strategy, usd(1000))
    assert none_of(events, "TradeRefused")
    assert one(events, "TradeRecorded")["trade"]["prices"][1]["roundId"] == (2 << 64) + 1
    world.send(world.oracle.functions.syncPhase(world.token_of("ETH")), world.stranger)
    assert one(recall(world, strategy, world.token_of("ETH")), "Recalled")["value"] > usd(100_000)
    assert after - before < 30_000
    attack.outcome(
        gained="nothing", cost=f"{after - before:,} gas more for a poke until anybody records the phase",
        stopped_by="decimals asked once a phase",
    )  # fmt: skip
