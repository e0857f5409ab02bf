"""The hour after an L2's sequencer comes back: who is first trades at prices from before the outage.

The oracle gets, at its address and with its storage, the code it would have on an L2; the uptime feed is a proxy with
an aggregator like Chainlink's (https://docs.chain.link/data-feeds/l2-sequencer-feeds).
"""

from __future__ import annotations

import pytest

from agents.localnet import feeds
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import Attacker, dollars
from tests.contracts.vaults import Reason, condition, recall
from tests.contracts.world import ANY, HOUR_S, Strategy, World, eth, one, usd

UP, DOWN = feeds.SEQUENCER_UP, feeds.SEQUENCER_DOWN
GRACE_S = HOUR_S


@pytest.fixture
def uptime(world: World) -> str:
    """The sequencer's feed; it has been up for long."""
    feed = feeds.deploy_feed(world.evm, "L2 Sequencer", 0, owner=world.deployer, transmitter=world.market.publisher)
    say(world, feed, UP)
    listed = [entry.as_tuple() for entry in world.genesis.feeds]
    on_l2 = world.evm.deploy(
        "PriceOracle", world.d.timelock, world.book.quote, listed, feed, GRACE_S, sender=world.deployer
    )
    world.evm.set_code(world.d.oracle, bytes(world.w3.eth.get_code(on_l2.address)))
    world.travel(2 * GRACE_S)
    return feed


def say(world: World, feed: str, status: int) -> None:
    feeds.publish(world.evm, feed, status, transmitter=world.market.publisher)


def test_trading_at_prices_from_before_an_outage(world: World, uptime: str, attack: Report) -> None:
    """The sequencer is down for half an hour in which ETH falls by 15 % everywhere else. The last round is young
    enough, the pool stands where it stood. As the chain comes back the agent's contract has the vault buy the ETH that
    it unloads into the pool."""
    attacker = Attacker(world)
    attacker.fund(quote=usd(1_000_000), base=eth(1000))
    s = world.deploy_strategy(world.register_agent(signer=attacker.contract))
    fair = attacker.wealth(price_usd=1700)
    world.refresh()
    say(world, uptime, DOWN)
    world.evm.travel(HOUR_S // 2)
    assert condition(world, s)[1] & Reason.QUOTE_UNHEALTHY
    say(world, uptime, UP)
    unload = [attacker.trade(s, usd(500_000), buy=True), attacker.swap(eth(250), buy=False)]
    attacker.run(unload)
    refused = world.history(s.vault)[-1]
    assert refused.name == "TradeRefused"
    assert refused.args["reasons"] & Reason.QUOTE_UNHEALTHY
    assert world.held(s) == 0

    world.evm.travel(GRACE_S - 30)
    world.set_price("ETH", 1700, pool_follows=False)  # and at last a round
    assert condition(world, s)[1] & Reason.QUOTE_UNHEALTHY
    world.evm.travel(60)
    world.refresh()
    assert condition(world, s)[1] == 0
    with world.reverts("VaultSlippageExceeded", shortfall=ANY, allowed=usd(3000)):
        attacker.run([attacker.trade(s, usd(500_000), buy=True)])
    assert world.status(s).value == usd(1_000_000)
    gained = attacker.wealth(price_usd=1700) - fair
    attack.outcome(
        gained=f"nothing from the vault; {dollars(gained)} from the pool's providers, who have no oracle",
        cost="nothing", stopped_by="SEQUENCER_GRACE, then VaultSlippageExceeded at the first fresh round",
    )  # fmt: skip


def test_a_sequencer_feed_that_never_says_up_traps_nothing(world: World, uptime: str, attack: Report) -> None:
    """Down for good, or the feed itself is dead: nothing trades, everything can be recalled."""
    s: Strategy = world.deploy_strategy()
    world.buy(s, usd(300_000))
    held = world.held(s)
    say(world, uptime, DOWN)
    world.evm.set_code(uptime, b"\xfe")
    assert one(world.sell(s, held), "TradeRefused")["reasons"] & Reason.QUOTE_UNHEALTHY
    assert one(recall(world, s, world.token_of("ETH")), "Recalled")["amount"] == held
    recall(world, s, world.book.quote)
    assert world.view(s.vault.functions.isEmpty())
    attack.outcome(gained="nothing", cost="nothing", stopped_by="SEQUENCER_DOWN; recall needs no price")
