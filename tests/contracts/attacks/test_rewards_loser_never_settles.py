"""An agent with a loss does nothing any more: no observation, no close, no application."""

from __future__ import annotations

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import close_at, credited, deploy_invested, profit, say_tokens, settle_at
from tests.contracts.world import REWARD_RATE, World, one, tokens, usd


def test_a_loser_who_does_nothing_is_settled_by_anybody(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    bond = world.bond_of(s.agent_id)
    loss = close_at(world, s, 1800)  # all of it by a stranger, who earns two bounties
    assert loss == profit(world, s) < -usd(50_000)
    assert one(world.apply(s, loss), "ClawedBack")["fromBond"] == -loss * REWARD_RATE
    assert world.bond_of(s.agent_id) == bond + loss * REWARD_RATE
    assert world.view(world.pool.functions.bountyOf(world.stranger.address)) == tokens(2)
    attack.outcome(
        gained="0 tokens",
        cost=f"{say_tokens(-loss * REWARD_RATE)} of its bond",
        stopped_by="anybody closes and applies",
    )


def test_when_nobody_at_all_settles_nothing_leaves_and_a_vote_takes_the_loss(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    settle_at(world, s, 2090)
    gain, bond = credited(world, s), world.bond_of(s.agent_id)
    world.set_price("ETH", 1800)
    for _ in range(3):
        world.to_next_window()
        world.to_window_end()
    taking = {
        "RewardPoolUnsettled": (world.pool.functions.claim(s.vault.address), {"vault": s.vault.address}),
        "AgentRegistryUnsettled": (
            world.agents.functions.withdrawBond(s.agent_id, 1),
            {"agentId": s.agent_id},
        ),
    }
    for error, (call, arguments) in taking.items():
        with world.reverts(error, **arguments):
            world.send(call, world.controller)
    with world.reverts("AgentRegistryUnsettled", agentId=s.agent_id):
        world.send(
            world.agents.functions.transferFrom(world.controller.address, world.stranger.address, s.agent_id),
            world.controller,
        )
    loss = profit(world, s) - gain
    world.pass_proposal(world.propose([world.pool.functions.closeByVote(s.vault.address, loss)]))
    taken = one(world.apply(s, loss), "ClawedBack")
    assert taken["fromUnclaimed"] == gain * REWARD_RATE, "all that was earned and never could be claimed"
    assert taken["fromUnclaimed"] + taken["fromBond"] == -loss * REWARD_RATE
    assert world.bond_of(s.agent_id) == bond - taken["fromBond"]
    assert credited(world, s) == profit(world, s)
    attack.outcome(
        gained="0 tokens",
        cost=f"{say_tokens(-loss * REWARD_RATE)}, and three weeks without trading",
        stopped_by="UNSETTLED, closeByVote",
    )
