"""A feed that can't be believed, and somebody who has moved the pool to profit from whoever believes it.

The vault holds about 250 ETH. The feed's rounds are those of a real proxy and aggregator, but the future-dated one,
which no aggregator takes. While there is no price nothing can be traded, released or earned, and everything can be
recalled.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from agents.localnet import feeds
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import Attacker, dollars
from tests.contracts.vaults import Reason, State, condition, faulty_feed, recall
from tests.contracts.world import ANY, DAY_S, HOUR_S, WAD, Strategy, World, eth, one, usd


def publish(world: World, answer: int) -> None:
    feeds.publish(world.evm, world.book.asset("ETH").feed, answer, transmitter=world.market.publisher)


def stale(world: World) -> None:
    """Two hours and a second; the quote token's feed is fresh."""
    world.evm.travel(2 * HOUR_S + 1)
    world.market.publish("MUSD", Decimal(1))


def future_dated(world: World) -> None:
    feed, at_s = faulty_feed(world, "ETH"), world.now_s() + DAY_S
    world.send(feed.functions.setRound((1 << 64 | 9, 2000 * 10**8, at_s, at_s, 1 << 64 | 9)), world.deployer)


BAD: dict[str, Callable[[World], object]] = {
    "stale": stale,
    "zero": lambda world: publish(world, 0),
    "negative": lambda world: publish(world, -2000 * 10**8),
    "future-dated": future_dated,
    "at the floor": lambda world: publish(world, 10**8),
    "at the ceiling": lambda world: publish(world, 10**14),
    "beyond the ceiling": lambda world: publish(world, 2**190),
    "a new phase without a round": lambda world: world.market.begin_phase("ETH"),
}


@pytest.mark.parametrize("how", BAD)
def test_nothing_is_gained_from_a_round_that_is_no_price(world: World, attack: Report, how: str) -> None:
    """The agent's key is a contract that has pushed the pool 30 % down and would sell the vault's ETH there; then 30 %
    up to buy. The controller would leave with its bond and deposit."""
    attacker = Attacker(world)
    attacker.fund(quote=usd(500_000_000), base=eth(250_000))
    s = world.deploy_strategy(world.register_agent(signer=attacker.contract))
    attacker.run([attacker.trade(s, usd(500_000), buy=True)])
    held, value = world.held(s), world.status(s).value
    wealth = attacker.wealth()
    BAD[how](world)

    for buy, push, amount in ((False, eth(80_000), held), (True, usd(180_000_000), usd(100_000))):
        pushing = attacker.swap(push, buy=buy)
        pushed = int.from_bytes(attacker.simulate([pushing])[0], "big")
        refused = attacker.trade(s, amount, buy=buy)
        attacker.run([pushing, refused, attacker.swap(pushed, buy=not buy)])
        assert condition(world, s) == (State.REDUCING, Reason.PRICE_MISSING)
    release = world.agents.functions.withdrawDeposit(s.agent_id, 1)
    with world.reverts("AgentRegistryNotReleasable", agentId=s.agent_id, requested=1, releasable=0):
        world.send(release, world.controller)
    with world.reverts("AgentRegistryNotReleasable", agentId=s.agent_id, requested=1, releasable=0):
        world.send(world.agents.functions.withdrawBond(s.agent_id, 1), world.controller)
    assert world.held(s) == held

    assert one(recall(world, s, world.token_of("ETH"), fallback_wad=1900 * WAD), "Recalled")["amount"] == held
    recall(world, s, world.book.quote)
    assert world.view(s.vault.functions.isEmpty())
    cost = wealth - attacker.wealth(price_usd=2000)
    assert cost > usd(100_000)
    attack.outcome(
        gained=f"nothing of {dollars(value)}", cost=f"{dollars(cost)} of the pool's fees",
        stopped_by="PRICE_MISSING: TradeRefused, AgentRegistryNotReleasable; recall needs no price",
    )  # fmt: skip


def test_a_price_chosen_for_a_recall_can_not_print_profit(world: World, strategy: Strategy, attack: Report) -> None:
    """Without a round the proposal names the price at which a recall counts: an agent with friends among the voters
    would name a high one."""
    world.buy(strategy, usd(500_000))
    world.poke(strategy)
    profit = world.status(strategy).profit
    publish(world, 0)
    with world.reverts("VaultFallbackPriceTooHigh", priceWad=2000 * WAD + 1, lastPriceWad=2000 * WAD):
        recall(world, strategy, world.token_of("ETH"), fallback_wad=2000 * WAD + 1)
    counted = one(recall(world, strategy, world.token_of("ETH"), fallback_wad=2000 * WAD), "Recalled")["value"]
    assert world.status(strategy).profit <= profit
    attack.outcome(
        gained=f"nothing: {dollars(counted)} counted, what the last accepted price said", cost="a vote",
        stopped_by="VaultFallbackPriceTooHigh",
    )  # fmt: skip


def test_a_loss_is_not_hidden_by_letting_the_feed_die(world: World, attack: Report) -> None:
    """While ETH has no price the market falls by half. The guard counts it at the last price, so nothing is halted; but
    the vault may not buy, no window can be observed, nothing is released; and the first price that comes back halts."""
    s = world.deploy_strategy(assets=("ETH", "BTC"))
    world.buy(s, usd(500_000))
    world.poke(s)
    stale(world)
    world.market.publish("BTC", Decimal(60_000))
    assert one(world.buy(s, usd(10_000), symbol="BTC"), "TradeRefused")["reasons"] == Reason.PRICE_MISSING
    world.evm.travel_to(world.epoch_start_s(world.current_epoch() + 1) + 60)
    world.market.publish("BTC", Decimal(60_000))
    world.market.publish("MUSD", Decimal(1))
    assert all(event.name != "ProfitObserved" for event in world.poke(s))
    world.evm.travel(7 * HOUR_S)
    with world.reverts("RewardPoolWindowMissed", vault=s.vault.address, epoch=ANY):
        world.close(s)
    world.refresh()
    world.set_price("ETH", 1000)
    assert condition(world, s)[0] == State.HALTED
    assert one(world.buy(s, usd(10_000), symbol="BTC"), "TradeRefused")["reasons"] & Reason.HALTED
    lost = usd(1_000_000) - world.status(s).value
    attack.outcome(
        gained="nothing: neither a trade nor a window nor a release in between",
        cost=f"{dollars(lost)} shown at once when the price is back", stopped_by="PRICE_MISSING, then HALTED",
    )  # fmt: skip
