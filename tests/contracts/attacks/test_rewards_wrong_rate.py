"""A reward rate set ten times too high by a vote (Compound's proposal 62): the most that is lost, and how it stops."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import (
    claim,
    close_at,
    credited,
    paid_less_taken,
    releasable,
    say_tokens,
    settle_at,
    unclaimed,
    withdraw_bond,
)
from tests.contracts.world import DAY_S, REWARD_RATE, RULES, Strategy, World, struct, tokens, usd

WRONG = 10 * REWARD_RATE
# The whole budget of an epoch, the worst that a manifest may ask for.
BUDGET_CAP = tokens(20_000)


@pytest.fixture
def generous(world: World) -> Strategy:
    assert WRONG <= RULES.max_reward_rate, "within the constitution: the vote alone was wrong"
    s = world.deploy_strategy(world.register_agent(bond_wei=tokens(240_000)), rewardRate=WRONG, rewardCap=BUDGET_CAP)
    world.buy(s, usd(500_000))
    return s


def vote_in(world: World, calls: list[Any]) -> int:
    """Seconds from the proposal to its execution."""
    begun_s = world.now_s()
    world.pass_proposal(world.propose(calls))
    return world.now_s() - begun_s


def test_a_rate_above_the_constitution_s_never_runs(world: World, attack: Report) -> None:
    manifest = world.manifest(world.register_agent(bond_wei=tokens(240_000)), rewardRate=RULES.max_reward_rate + 1)
    with world.reverts("StrategyRegistryRateTooHigh", rate=RULES.max_reward_rate + 1, highest=RULES.max_reward_rate):
        world.send(world.dao.functions.proposeStrategy(struct(manifest), "too much"), world.proposer)
    attack.outcome(gained="0 tokens", cost="gas", stopped_by="StrategyRegistryRateTooHigh")


def test_a_wrong_rate_costs_one_window_s_cap_before_a_vote_ends_it(
    world: World, generous: Strategy, attack: Report
) -> None:
    """Seen in the first result; the update that lowers the cap to one unit is voted in before the next window."""
    move = close_at(world, generous, 2200)
    world.apply(generous, move)
    wrong = paid_less_taken(world, generous)
    assert wrong == BUDGET_CAP, "one cap"
    update = generous.manifest | {"updates": generous.id, "capital": 0, "rewardCap": WRONG}
    begun_s, epoch = world.now_s(), world.current_epoch()
    world.pass_proposal(world.propose_strategy(update, "stop it"))
    took_s = world.now_s() - begun_s
    assert world.current_epoch() == epoch, "before the next window opens"
    for price in (2200, 2250, 2300):
        settle_at(world, generous, price)
    more = paid_less_taken(world, generous) - wrong
    assert more == 3 * WRONG, "one unit a window"
    attack.outcome(
        gained=f"{say_tokens(wrong)}, of {say_tokens(tokens(300_000))} in the pool, and "
        f"{more / 10**18:.6f} tokens in the three windows after",
        cost=f"a stake of {say_tokens(tokens(240_000))}; a fall takes the same rate back",
        stopped_by=f"the cap, which is within the budget; an update voted in {took_s / DAY_S:.1f} days",
    )


def test_a_stop_of_claims_and_a_slash_bring_a_wrong_reward_back(
    world: World, generous: Strategy, attack: Report
) -> None:
    """The agent takes out at once what it may; the guardian stops claims; a vote takes the reward from the bond."""
    move = close_at(world, generous, 2200)
    world.apply(generous, move)
    wrong, bond = paid_less_taken(world, generous), world.bond_of(generous.agent_id)
    freed = releasable(world, generous)
    assert 0 < freed < bond - wrong
    withdraw_bond(world, generous, freed)
    world.send(world.constitution.functions.stopClaims(7 * DAY_S), world.guardian)
    world.travel(DAY_S)
    with world.reverts("RewardPoolClaimsStopped"):
        world.send(world.pool.functions.claim(generous.vault.address), world.controller)
    took_s = vote_in(
        world,
        [
            world.agents.functions.slashBond(generous.agent_id, wrong),
            world.strategies.functions.retire(generous.id),
        ],
    )
    assert took_s < 7 * DAY_S, "while claims are stopped"
    assert world.bond_of(generous.agent_id) == bond - freed - wrong
    assert unclaimed(world, generous) == wrong, "and what is vesting covers losses; what is left is its own again"
    attack.outcome(
        gained=f"0 tokens: {say_tokens(wrong)} paid, as much slashed",
        cost="its vault; nothing if the vote does not come",
        stopped_by=f"stopClaims, then slashBond and retire in {took_s / DAY_S:.1f} days, from a bond of several caps",
    )


def test_every_window_until_somebody_looks_costs_one_cap_and_never_more_than_the_budget(
    world: World, generous: Strategy, attack: Report
) -> None:
    budget = world.view(world.pool.functions.budgetPerEpoch())
    paid, prices = 0, (2200, 2250, 2300, 2350)
    for windows, price in enumerate(prices, start=1):
        paid += settle_at(world, generous, price) * WRONG
        assert paid == paid_less_taken(world, generous) <= windows * budget
    world.assert_books_balance()
    claimed = claim(world, generous)
    assert claimed < paid // 2, "most of it still vests"
    settle_at(world, generous, 2000)
    assert credited(world, generous) <= 0, "a fall takes all of it back"
    attack.outcome(
        gained=f"{say_tokens(paid)} in {len(prices)} windows, of which {say_tokens(claimed)} could be claimed by then",
        cost="all of it again when the price is back",
        stopped_by="the budget per epoch; vesting; the signed account",
    )
