"""A loss is coming: take the bond out, move the agent's token, retire, or begin anew before it is collected."""

from __future__ import annotations

from oracle.vault_state import Reason
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import (
    branch,
    credited,
    deploy_invested,
    least_bond,
    paid_less_taken,
    profit,
    releasable,
    retire_fully,
    say_tokens,
    settle_at,
    unclaimed,
    withdraw_bond,
)
from tests.contracts.vaults import MAX_UINT, State, condition, resume
from tests.contracts.world import DAY_S, REWARD_RATE, World, tokens

FALL = 1700


def test_bond_leaves_only_as_far_as_the_worst_case_does_not_need_it(world: World, attack: Report) -> None:
    """At every moment around a fall the agent takes all that it may; the loss is collected in full all the same."""
    s = deploy_invested(world)
    settle_at(world, s, 2090)
    out = 0

    def take() -> None:
        nonlocal out
        free = releasable(world, s)
        with world.reverts("AgentRegistryNotReleasable", agentId=s.agent_id, requested=free + 1, releasable=free):
            withdraw_bond(world, s, free + 1)
        if free:
            withdraw_bond(world, s, free)
        out += free

    take()
    world.travel(2 * DAY_S)
    world.set_price("ETH", 1900, pool_follows=False)
    take()  # nobody has poked the fall yet
    world.poke(s)
    take()
    world.set_price("ETH", FALL, pool_follows=False)
    take()
    world.to_next_window()
    take()
    world.poke(s)
    world.to_window_end()
    with world.reverts("AgentRegistryUnsettled", agentId=s.agent_id):
        withdraw_bond(world, s, 1)
    loss = world.close(s)
    with world.reverts("AgentRegistryUnsettled", agentId=s.agent_id):
        withdraw_bond(world, s, 1)
    world.apply(s, loss)
    assert credited(world, s) == profit(world, s), "all of it was there"
    assert paid_less_taken(world, s) == profit(world, s) * REWARD_RATE
    assert world.bond_of(s.agent_id) + unclaimed(world, s) > 0
    attack.outcome(
        gained=f"0 tokens; {say_tokens(out)} of its own excess withdrawn",
        cost=f"{say_tokens(-loss * REWARD_RATE)} taken, all that was lost",
        stopped_by="AgentRegistryNotReleasable, AgentRegistryUnsettled",
    )


def test_moving_the_agent_s_token_moves_the_loss_with_it(world: World, attack: Report) -> None:
    """To a second wallet of the same person, between the fall and the window: the stake is the agent's."""
    s = deploy_invested(world, agent_id=world.register_agent(bond_wei=(bond := least_bond(world))))
    settle_at(world, s, 2000)
    world.set_price("ETH", FALL, pool_follows=False)
    transfer = world.agents.functions.transferFrom(world.controller.address, world.stranger.address, s.agent_id)
    world.send(transfer, world.controller)
    assert releasable(world, s) == 0
    with world.reverts("AgentRegistryUnauthorized", caller=world.controller.address):
        withdraw_bond(world, s, 1)
    with world.reverts("AgentRegistryNotReleasable", agentId=s.agent_id, requested=1, releasable=0):
        withdraw_bond(world, s, 1, world.stranger)
    world.to_next_window()
    world.poke(s)
    world.to_window_end()
    back = world.agents.functions.transferFrom(world.stranger.address, world.controller.address, s.agent_id)
    with world.reverts("AgentRegistryUnsettled", agentId=s.agent_id):
        world.send(back, world.stranger)
    world.apply(s, world.close(s))
    assert world.bond_of(s.agent_id) == bond + profit(world, s) * REWARD_RATE
    attack.outcome(
        gained="0 tokens",
        cost=say_tokens(-profit(world, s) * REWARD_RATE),
        stopped_by="the bond belongs to the agent; AgentRegistryUnsettled after the window",
    )


def test_retiring_or_beginning_anew_comes_after_the_claw_back(world: World, attack: Report) -> None:
    s = deploy_invested(world, agent_id=world.register_agent(bond_wei=least_bond(world)))
    settle_at(world, s, 2000)
    anew = world.manifest(s.agent_id, salt=b"\x07" * 32)
    with world.reverts("StrategyRegistryAgentBusy", agentId=s.agent_id, strategyId=s.id):
        world.submit(anew)
    world.set_price("ETH", FALL, pool_follows=False)
    world.as_timelock(world.strategies.functions.retire(s.id))
    for token in (world.token_of("ETH"), world.book.quote):
        world.as_timelock(world.treasury.functions.recall(s.id, token, MAX_UINT, 0))
    loss = profit(world, s)
    owed = (credited(world, s) - loss) * REWARD_RATE
    assert releasable(world, s) == world.bond_of(s.agent_id) - owed, "an empty vault needs what it lost, no more"
    with world.reverts("StrategyRegistryNotFinished", strategyId=s.id):
        world.send(world.strategies.functions.finishRetirement(s.id), world.controller)
    with world.reverts("StrategyRegistryAgentBusy", agentId=s.agent_id, strategyId=s.id):
        world.submit(anew)
    withdraw_bond(world, s, releasable(world, s))
    world.settle(s)
    assert world.bond_of(s.agent_id) == 0
    world.send(world.strategies.functions.finishRetirement(s.id), world.controller)
    assert paid_less_taken(world, s) == loss * REWARD_RATE
    attack.outcome(
        gained="0 tokens", cost=say_tokens(-loss * REWARD_RATE), stopped_by="a last window before the stake is free"
    )


def test_an_agent_that_owes_gets_no_new_vault_but_its_person_a_new_agent(world: World, attack: Report) -> None:
    """A fall beyond all stake. Identities are free: what a new one can't avoid is a new stake."""
    s = deploy_invested(world, agent_id=world.register_agent(bond_wei=(bond := least_bond(world))))
    settle_at(world, s, 2000)
    settle_at(world, s, 500)
    retire_fully(world, s)
    debt = world.view(world.pool.functions.debtOf(s.agent_id))
    assert debt == credited(world, s) - profit(world, s) > 0
    world.post_bond(s.agent_id, tokens(30_000))
    world.set_price("ETH", 2000)
    world.travel(DAY_S)
    with world.reverts("StrategyRegistryAgentInDebt", agentId=s.agent_id, debt=debt):
        world.submit(world.manifest(s.agent_id, salt=b"\x07" * 32))
    free = releasable(world, s)
    assert free == world.bond_of(s.agent_id) - debt * REWARD_RATE
    needed = least_bond(world)
    other = world.register_agent(bond_wei=needed - 1)
    with world.reverts("StrategyRegistryBondTooSmall", agentId=other, bond=needed - 1, needed=needed):
        world.submit(world.manifest(other))
    world.post_bond(other, 1)
    world.submit(world.manifest(other))
    attack.outcome(
        gained=f"{say_tokens(debt * REWARD_RATE)} left open for good",
        cost=f"{say_tokens(bond)} lost with the old agent, {say_tokens(needed)} for the new one, and a new vote",
        stopped_by="StrategyRegistryAgentInDebt for the agent; the stake and the voters for its person",
    )


def test_bond_freed_by_a_peak_that_never_was_is_missed_only_after_a_vote(world: World, attack: Report) -> None:
    """One wrong round outside the windows lifts the guard's peak, and with it what the worst case is worth: the guard
    would halt sooner. A vote that resets the peak brings the worst case back, but not the bond."""
    s = deploy_invested(world, agent_id=world.register_agent(bond_wei=(bond := least_bond(world))))
    settle_at(world, s, 2000)
    bond += paid_less_taken(world, s)
    assert releasable(world, s) == 0
    world.set_price("ETH", 2330, pool_follows=False)
    world.poke(s)
    world.set_price("ETH", 2000, pool_follows=False)
    world.poke(s)
    freed = releasable(world, s)
    withdraw_bond(world, s, freed)
    assert condition(world, s) == (State.ACTIVE, Reason(0))
    worst = world.view(s.vault.functions.worstProfit())
    assert world.bond_of(s.agent_id) >= (credited(world, s) - worst) * REWARD_RATE, "covered: it would be halted sooner"
    with branch(world):
        settle_at(world, s, 1660)
        assert condition(world, s)[0] is State.HALTED
        assert credited(world, s) == profit(world, s)
    resume(world, s)
    assert condition(world, s) == (State.REDUCING, Reason.COLLATERAL)
    worst = world.view(s.vault.functions.worstProfit())
    missing = (credited(world, s) - worst) * REWARD_RATE - world.bond_of(s.agent_id)
    assert 0 < missing <= freed * 101 // 100
    attack.outcome(
        gained=f"{say_tokens(freed)} of {say_tokens(bond)} freed; after a vote that resumes, {say_tokens(missing)} "
        "of the worst case are not covered",
        cost="a wrong round of 16 %, and a vault that may only reduce after that vote",
        stopped_by="the higher peak halts sooner; COLLATERAL after the vote",
    )
