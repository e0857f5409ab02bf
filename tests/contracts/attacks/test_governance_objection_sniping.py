"""The objection period itself as a weapon: to pass something at its end, to kill something good, or to delay it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import (
    ABSTAIN,
    AGAINST,
    FOR,
    Attacker,
    amount,
    attacker,
    days,
    deadline_s,
    drain,
)
from tests.contracts.world import GOVERNANCE, World, none_of, tokens


@dataclass(frozen=True, slots=True)
class Vote:
    """Something good that the community wants soon: it lowers what may leave the treasury."""

    world: World
    sniper: Attacker
    wanted: Any

    def proposed(self, text: str) -> int:
        proposal_id = self.world.propose([self.wanted], text)
        self.world.to_voting(proposal_id)
        return proposal_id


@pytest.fixture
def vote(world: World) -> Vote:
    sniper = attacker(world, tokens(450_000))
    return Vote(world, sniper, world.treasury.functions.setOutflowCap(world.book.quote, 0))


def test_no_vote_for_can_be_sniped_at_the_end_of_the_objection_period(world: World, vote: Vote, attack: Report):
    """The attacker keeps most votes back for the second in which nobody can answer any more."""
    accomplice = attacker(world, tokens(40_000), world.relayer)
    proposal_id = vote.sniper.proposes([drain(world, vote.sniper.address)])
    world.to_voting(proposal_id)
    world.vote(proposal_id, AGAINST, [world.small_holder])
    end_s = deadline_s(world, proposal_id) + GOVERNANCE.objection_period_s
    vote.sniper.votes(proposal_id, at_s=deadline_s(world, proposal_id))
    assert deadline_s(world, proposal_id) == end_s
    world.vote(proposal_id, AGAINST, [world.voter_b])
    for support in (FOR, ABSTAIN):
        world.evm.travel(1)
        accomplice.fails(
            world.dao.functions.voteStrategy(proposal_id, support),
            "GovernorObjectionOnlyAgainst",
            proposalId=proposal_id,
            support=support,
        )
    world.evm.next_block_at(end_s)
    accomplice.fails(
        world.dao.functions.voteStrategy(proposal_id, FOR),
        "GovernorObjectionOnlyAgainst",
        proposalId=proposal_id,
        support=FOR,
    )
    assert world.now_s() == end_s
    world.evm.travel(1)
    assert world.state(proposal_id) == "Defeated"
    attack.outcome(
        gained="nothing",
        cost=f"{amount(tokens(490_000))} until the snapshot, {vote.sniper.gas + accomplice.gas:,} gas",
        stopped_by="GovernorObjectionOnlyAgainst",
    )


def test_killing_a_late_proposal_at_the_end_of_its_objection_period_buys_one_round(
    world: World, vote: Vote, attack: Report
):
    """Voted late, it can be shot in the last second. Voted early, by more than the sniper has, it can't."""
    began_s = world.now_s()
    late = vote.proposed("late")
    world.evm.next_block_at(deadline_s(world, late) - 60)
    world.vote(late, FOR, [world.proposer])
    vote.sniper.votes(late, AGAINST, at_s=deadline_s(world, late))
    world.evm.travel(1)
    assert world.state(late) == "Defeated"
    bought_s = world.now_s() - began_s
    # From the second before the proposal to the second after its end.
    assert bought_s == 2 + GOVERNANCE.voting_delay_s + GOVERNANCE.voting_period_s + GOVERNANCE.objection_period_s

    early = vote.proposed("early")
    world.vote(early, FOR, [world.voter_a])
    events = vote.sniper.does(world.dao.functions.voteStrategy(early, AGAINST))
    assert none_of(events, "ObjectionPeriodOpened")
    world.to_deadline(early)
    world.queue(early)
    assert world.state(early) == "Queued"
    attack.outcome(
        gained=f"{days(bought_s)} of delay",
        cost=f"{amount(tokens(450_000))} until the snapshot, more than voted for it, {vote.sniper.gas:,} gas",
        stopped_by="voting before the last stretch",
    )


def test_who_is_outvoted_cannot_force_a_day_of_objections(world: World, vote: Vote, attack: Report):
    """What passes before the last stretch opens no objection period, whatever a minority votes in it."""
    proposal_id = vote.proposed("urgent")
    world.vote(proposal_id, FOR, [world.voter_a])
    before_s = deadline_s(world, proposal_id)
    vote.sniper.votes(proposal_id, AGAINST, at_s=before_s - 1)
    world.vote(proposal_id, FOR, [world.voter_b])
    assert (world.now_s(), deadline_s(world, proposal_id)) == (before_s, before_s)
    world.evm.travel(1)
    assert world.state(proposal_id) == "Succeeded"
    attack.outcome(
        gained="not a second of delay",
        cost=f"{amount(tokens(450_000))} until the snapshot, {vote.sniper.gas:,} gas",
        stopped_by="only a turn from failing to passing opens one",
    )


def test_a_majority_that_lets_itself_be_turned_delays_by_one_day_and_once(world: World, vote: Vote, attack: Report):
    """The most that delaying gets: outvote those who came early, so that the rest has to turn it late."""
    proposal_id = vote.proposed("urgent")
    regular_s = deadline_s(world, proposal_id)
    world.vote(proposal_id, FOR, [world.proposer])
    vote.sniper.votes(proposal_id, AGAINST)
    world.evm.next_block_at(regular_s - 100)
    world.vote(proposal_id, FOR, [world.voter_a])
    end_s = deadline_s(world, proposal_id)
    delay_s = end_s - regular_s
    assert delay_s == GOVERNANCE.objection_period_s
    vote.sniper.fails(
        world.dao.functions.voteStrategy(proposal_id, AGAINST), "GovernorAlreadyCastVote", voter=vote.sniper.address
    )
    world.to_deadline(proposal_id)
    assert deadline_s(world, proposal_id) == end_s
    world.queue(proposal_id)
    vote.sniper.fails(
        world.dao.functions.cancel(proposal_id),
        "GovernorUnableToCancel",
        proposalId=proposal_id,
        account=vote.sniper.address,
    )
    assert world.state(proposal_id) == "Queued"
    attack.outcome(
        gained=f"{days(delay_s)} of delay, once",
        cost=f"{amount(tokens(450_000))} until the snapshot, {vote.sniper.gas:,} gas",
        stopped_by="one objection period for each proposal",
    )
