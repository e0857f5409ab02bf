"""The guardian has stopped claims: the ways around it."""

from __future__ import annotations

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import (
    claim,
    credited,
    deploy_invested,
    least_bond,
    paid_less_taken,
    profit,
    releasable,
    say_tokens,
    settle_at,
    unclaimed,
    withdraw_bond,
)
from tests.contracts.world import DAY_S, REWARD_RATE, World


def test_a_stop_of_claims_holds_for_everybody_and_the_bond_stands_in_for_what_vests_only(
    world: World, attack: Report
) -> None:
    s = deploy_invested(world, agent_id=world.register_agent(bond_wei=(bond := least_bond(world))))
    settle_at(world, s, 2000)
    settle_at(world, s, 2150)
    world.travel(3 * DAY_S)
    world.send(world.constitution.functions.stopClaims(7 * DAY_S), world.guardian)
    payout = world.pool.functions.claim(s.vault.address)
    world.send(
        world.agents.functions.transferFrom(world.controller.address, world.other_controller.address, s.agent_id),
        world.controller,
    )
    for caller in (world.controller, world.other_controller, world.stranger, world.signer):
        with world.reverts("RewardPoolClaimsStopped"):
            world.send(payout, caller)
    freed = releasable(world, s)
    withdraw_bond(world, s, freed, world.other_controller)
    worst = world.view(s.vault.functions.worstProfit())
    assert unclaimed(world, s) + world.bond_of(s.agent_id) == (credited(world, s) - worst) * REWARD_RATE
    assert world.bond_of(s.agent_id) > bond - freed - bond // 100
    settle_at(world, s, 1950)
    assert paid_less_taken(world, s) == profit(world, s) * REWARD_RATE, "a loss is collected all the same"
    attack.outcome(
        gained=f"0 tokens of reward; {say_tokens(freed)} of its own bond, for which what vests stands in",
        cost="nothing that it had not",
        stopped_by="RewardPoolClaimsStopped; collateral",
    )


def test_a_stop_ends_by_itself_and_cannot_be_renewed_at_once(world: World, attack: Report) -> None:
    """The other way round: a guardian that would like to keep a reward from its agent for good."""
    s = deploy_invested(world)
    settle_at(world, s, 2090)
    world.send(world.constitution.functions.stopClaims(7 * DAY_S), world.guardian)
    until_s = world.view(world.constitution.functions.claimsStoppedUntil())
    world.travel(3 * DAY_S)
    again = world.constitution.functions.stopClaims(7 * DAY_S)
    with world.reverts("ConstitutionStopCooldown", allowedFrom=until_s + 7 * DAY_S):
        world.send(again, world.guardian)
    settle_at(world, s, 2090)
    world.travel_to(until_s + DAY_S)
    with world.reverts("ConstitutionStopCooldown", allowedFrom=until_s + 7 * DAY_S):
        world.send(again, world.guardian)
    paid = claim(world, s)
    assert paid > 0
    attack.outcome(
        gained=f"a week's delay; then {say_tokens(paid)} are claimed",
        cost="the guardian's next stop is a week away",
        stopped_by="ConstitutionStopCooldown",
    )
