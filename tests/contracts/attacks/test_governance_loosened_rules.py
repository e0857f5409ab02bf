"""One captured vote changes the rules of voting: to make the next one easy, or to let there be no next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agents.localnet.evm import CallReverted, TransactionReverted
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import (
    AGAINST,
    QUORUM,
    THRESHOLD,
    TREASURY_QUOTE,
    Attacker,
    amount,
    attacker,
    days,
    deadline_s,
    dollars,
    drain,
    not_deployable,
    treasury_quote,
)
from tests.contracts.world import DAY_S, GOVERNANCE, World


@pytest.fixture
def minority(world: World) -> Attacker:
    return attacker(world, QUORUM)


def captured(world: World, minority: Attacker, *calls: Any) -> None:
    """A vote in which nobody but the minority took part, executed."""
    proposal_id = minority.proposes(calls, "modernise")
    world.to_voting(proposal_id)
    minority.votes(proposal_id)
    world.to_deadline(proposal_id)
    minority.does(world.dao.functions.deployApproved(proposal_id))
    world.travel_to(world.view(world.dao.functions.proposalEta(proposal_id)))
    minority.does(world.dao.functions.deployApproved(proposal_id))


def test_with_every_delay_voted_away_a_day_of_objections_is_left(world: World, minority: Attacker, attack: Report):
    """The shortest delay and vote that there can be, and no timelock: objections are not in anybody's hands."""
    dao, timelock = world.dao.functions, world.timelock.functions
    captured(
        world,
        minority,
        dao.setVotingDelay(1),
        dao.setVotingPeriod(GOVERNANCE.last_stretch_s),
        dao.setProposalThreshold(0),
        timelock.updateDelay(0),
    )
    theft = minority.proposes([drain(world, minority.address)], "quickly")
    world.evm.travel(1)
    minority.votes(theft)
    time_to_answer_s = deadline_s(world, theft) - world.now_s()
    assert time_to_answer_s > GOVERNANCE.objection_period_s
    minority.fails(dao.deployApproved(theft), "DaoNotDeployable", **not_deployable(theft, "Active"))
    world.evm.travel_to(deadline_s(world, theft) - 10)
    world.vote(theft, AGAINST, [world.proposer])
    world.to_deadline(theft)
    minority.fails(dao.deployApproved(theft), "DaoNotDeployable", **not_deployable(theft, "Defeated"))
    assert (minority.quote, treasury_quote(world)) == (0, TREASURY_QUOTE)
    attack.outcome(
        gained=f"$0 of {dollars(TREASURY_QUOTE)}: a second vote with {days(time_to_answer_s)} to answer it",
        cost=f"{amount(QUORUM)} at two snapshots, {minority.gas:,} gas",
        stopped_by="the objection period, which no vote shortens",
    )


LOCKS: dict[str, Callable[[World], Any]] = {
    "a threshold above the supply": lambda w: w.dao.functions.setProposalThreshold(2**256 - 1),
    "a voting delay beyond time": lambda w: w.dao.functions.setVotingDelay(2**48 - 1),
    # One second, where blocks come every twelve.
    "a vote shorter than a block": lambda w: w.dao.functions.setVotingPeriod(1),
    "a vote of 136 years": lambda w: w.dao.functions.setVotingPeriod(2**32 - 1),
    "a timelock of longer than time": lambda w: w.timelock.functions.updateDelay(2**255),
}


def can_undo(world: World) -> bool:
    """Whether everybody together, a majority of all votes, can still change a rule within ninety days."""
    rule = world.dao.functions.setProposalThreshold(THRESHOLD)
    latest_s = world.now_s() + 90 * DAY_S
    try:
        undo = world.propose([rule], "undo it", proposer=world.voter_a)
        if deadline_s(world, undo) > latest_s:
            return False
        world.pass_proposal(undo)
    except (CallReverted, TransactionReverted, ValueError):
        return False
    return world.now_s() <= latest_s


def test_rules_made_worse_by_one_captured_vote_are_changed_back(world: World, minority: Attacker, attack: Report):
    """Ten times the threshold and a month of waiting, the worst there is: a nuisance that a majority ends."""
    dao = world.dao.functions
    captured(world, minority, dao.setProposalThreshold(10 * THRESHOLD), dao.setVotingDelay(30 * DAY_S))
    began_s = world.now_s()
    assert can_undo(world)
    attack.outcome(
        gained=f"{days(world.now_s() - began_s)} of it",
        cost=f"{amount(QUORUM)} at one snapshot, {minority.gas:,} gas",
        stopped_by="a majority",
    )


@pytest.mark.parametrize("lock", LOCKS)
def test_one_captured_vote_does_not_lock_governance_up(world: World, minority: Attacker, attack: Report, lock: str):
    """Extortion, spite, or a slip in a unit: nothing could be paid or recalled any more, and nobody could change it."""
    stopped_by = "the timelock's longest delay"
    try:
        captured(world, minority, LOCKS[lock](world))
    except TransactionReverted as refusal:
        stopped_by = refusal.reason.name
    undone = can_undo(world)
    attack.outcome(
        gained="nothing" if undone else f"{dollars(treasury_quote(world))} that nobody can move any more",
        cost=f"{amount(QUORUM)} at one snapshot, {minority.gas:,} gas",
        stopped_by=stopped_by,
    )
    assert undone
