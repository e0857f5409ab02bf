"""An agent is sold in mid-epoch: with an open loss, with rewards that vest, with a key that still trades."""

from __future__ import annotations

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import (
    OwnPool,
    claim,
    credited,
    deploy_at,
    deploy_invested,
    paid_less_taken,
    profit,
    releasable,
    say_tokens,
    say_usd,
    settle_at,
    unclaimed,
    withdraw_bond,
)
from tests.contracts.world import DAY_S, REWARD_RATE, World, one, usd


def sell_agent(world: World, agent_id: int) -> None:
    """To somebody else, who pays for it elsewhere."""
    transfer = world.agents.functions.transferFrom(world.controller.address, world.other_controller.address, agent_id)
    world.send(transfer, world.controller)


def test_an_open_loss_is_sold_with_the_agent_and_seen_by_the_buyer(world: World, attack: Report) -> None:
    """The fall was after the last settlement: the sale is allowed, and what it will cost stands on the chain."""
    s = deploy_invested(world)
    settle_at(world, s, 2090)
    world.travel(DAY_S)
    claimed = claim(world, s)
    withdraw_bond(world, s, releasable(world, s))
    world.set_price("ETH", 1800, pool_follows=False)
    sell_agent(world, s.agent_id)
    open_loss = credited(world, s) - profit(world, s)
    stake = unclaimed(world, s) + world.bond_of(s.agent_id)
    assert open_loss > 0 and stake > open_loss * REWARD_RATE
    before = world.market.balance(world.d.token, world.controller)
    settle_at(world, s, 1800)
    assert unclaimed(world, s) + world.bond_of(s.agent_id) == stake - open_loss * REWARD_RATE
    assert world.market.balance(world.d.token, world.controller) == before, "the seller gets nothing more"
    attack.outcome(
        gained=f"by the seller: {say_tokens(claimed)} that had vested, its own excess, and the price",
        cost=f"for the buyer {say_tokens(open_loss * REWARD_RATE)}, readable before: account, profit, bond",
        stopped_by="the stake stays with the agent",
    )


def test_after_the_window_nobody_sells_until_the_loss_is_taken(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    world.set_price("ETH", 1800, pool_follows=False)
    world.to_next_window()
    world.poke(s)
    world.to_window_end()
    with world.reverts("AgentRegistryUnsettled", agentId=s.agent_id):
        sell_agent(world, s.agent_id)
    loss = world.close(s)
    with world.reverts("AgentRegistryUnsettled", agentId=s.agent_id):
        sell_agent(world, s.agent_id)
    world.apply(s, loss)
    sell_agent(world, s.agent_id)
    attack.outcome(gained="0 tokens", cost=say_tokens(-loss * REWARD_RATE), stopped_by="AgentRegistryUnsettled")


def test_the_seller_s_key_trades_until_the_buyer_changes_it(world: World, attack: Report) -> None:
    """The seller is the pool: it bleeds the vault after the sale, and the buyer's bond pays."""
    pool = OwnPool(world, world.controller)
    s = deploy_at(world, pool)
    settle_at(world, s, 2000)
    sell_agent(world, s.agent_id)
    before = pool.wealth()
    for is_buy in (True, False, True, False, True):
        pool.deal(s, 300_000, buy=is_buy, shortfall_bps=57)
    gained = pool.wealth() - before
    assert usd(8_000) < gained <= usd(10_000), "one slippage sum"
    world.send(world.agents.functions.setSigningKey(s.agent_id, world.other_signer.address), world.other_controller)
    with world.reverts("VaultNotSigningKey", caller=world.signer.address, signingKey=world.other_signer.address):
        pool.deal(s, 10_000, buy=True, shortfall_bps=0)
    bond = world.bond_of(s.agent_id)
    settle_at(world, s, 2000)
    assert world.bond_of(s.agent_id) == bond + paid_less_taken(world, s) < bond
    attack.outcome(
        gained=f"by the seller: {say_usd(gained)}",
        cost=f"for the buyer {say_tokens(bond - world.bond_of(s.agent_id))} of bond, and the deposit behind it",
        stopped_by="VaultNotSigningKey once the buyer has set its own key; the slippage sum before",
    )


def test_what_vests_goes_to_who_holds_the_agent_when_it_is_claimed(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    settle_at(world, s, 2090)
    world.travel(2 * DAY_S)
    sell_agent(world, s.agent_id)
    payout = world.pool.functions.claim(s.vault.address)
    claimed = one(world.send(payout, world.controller), "Claimed")
    assert claimed["to"] == world.other_controller.address
    with world.reverts("AgentRegistryUnauthorized", caller=world.controller.address):
        withdraw_bond(world, s, 1)
    attack.outcome(
        gained="by the seller: 0 tokens after the sale",
        cost=f"{say_tokens(claimed['amount'])} that it had not claimed",
        stopped_by="controllerOf",
    )
