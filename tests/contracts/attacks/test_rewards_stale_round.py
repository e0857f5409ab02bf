"""The market has fallen, the feed has not said so yet: settle and take out at the old price."""

from __future__ import annotations

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import (
    credited,
    deploy_invested,
    least_bond,
    paid_less_taken,
    profit,
    releasable,
    say_tokens,
    settle_at,
    unclaimed,
)
from tests.contracts.world import DAY_S, HOUR_S, REWARD_RATE, World, none_of, one

MAX_AGE_S = 2 * HOUR_S


def test_a_round_within_its_age_is_believed_and_taken_back(world: World, attack: Report) -> None:
    """The feed is silent for the last two hours of the window, in which ETH falls by a tenth; nobody else observed."""
    s = deploy_invested(world, agent_id=world.register_agent(bond_wei=least_bond(world)))
    settle_at(world, s, 2000)
    start = credited(world, s)
    world.set_price("ETH", 2100, pool_follows=False)
    world.to_next_window()
    world.evm.travel(MAX_AGE_S - 60)  # no feed publishes; the market is at 1,890 by now
    stale = int(one(world.poke(s, world.controller), "ProfitObserved")["profit"])
    world.set_price("ETH", 1890, pool_follows=False)
    world.to_window_end()
    world.apply(s, move := world.close(s))
    assert move == stale - start > 0
    held = unclaimed(world, s) + world.bond_of(s.agent_id)
    assert held - releasable(world, s) >= (credited(world, s) - profit(world, s)) * REWARD_RATE
    settle_at(world, s, 1890)
    assert credited(world, s) == profit(world, s) < start
    assert paid_less_taken(world, s) == profit(world, s) * REWARD_RATE
    attack.outcome(
        gained=f"0 tokens in the end; {say_tokens(move * REWARD_RATE)} for a week, as stake that can't leave",
        cost="a feed silent for two hours, and that nobody observed before",
        stopped_by="claw-back in the next window",
    )


def test_a_stale_round_neither_settles_nor_releases_anything(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    settle_at(world, s, 2090)
    world.travel(DAY_S)
    world.to_next_window()
    world.evm.travel(MAX_AGE_S + 60)
    assert none_of(world.poke(s), "ProfitObserved")
    with world.reverts("RewardPoolNothingToClaim", vault=s.vault.address):
        world.send(world.pool.functions.claim(s.vault.address), world.controller)
    with world.reverts("AgentRegistryNotReleasable", agentId=s.agent_id, requested=1, releasable=0):
        world.send(world.agents.functions.withdrawBond(s.agent_id, 1), world.controller)
    with world.reverts("AgentRegistryNotReleasable", agentId=s.agent_id, requested=1, releasable=0):
        world.send(world.agents.functions.withdrawDeposit(s.agent_id, 1), world.controller)
    attack.outcome(gained="0 tokens", cost="nothing leaves while it lasts", stopped_by="PRICE_MISSING")
