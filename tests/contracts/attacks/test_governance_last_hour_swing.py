"""Compound's proposal 289, July 2024: a block of votes turned up at the end and took $24 million that looked safe."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from agents.localnet.evm import Account
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import (
    AGAINST,
    FOR,
    OUTFLOW_CAP,
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
from tests.contracts.world import GOVERNANCE, World, none_of, tokens


@dataclass(frozen=True, slots=True)
class Gang:
    """Three accounts of one attacker. The community: one who votes against it early, and a million that looks away."""

    world: World
    accounts: tuple[Attacker, Attacker, Attacker]
    proposal_id: int
    deadline_s: int

    @property
    def gas(self) -> int:
        return sum(each.gas for each in self.accounts)

    @property
    def last_stretch_s(self) -> int:
        return self.deadline_s - GOVERNANCE.last_stretch_s

    def answered_by(self, voter: Account, seconds_before_the_end: int) -> None:
        """The community wakes up as late as it can, and the proposal is over."""
        world = self.world
        world.evm.travel_to(deadline_s(world, self.proposal_id) - seconds_before_the_end)
        world.vote(self.proposal_id, AGAINST, [voter])
        world.to_deadline(self.proposal_id)
        self.accounts[0].fails(
            world.dao.functions.deployApproved(self.proposal_id),
            "DaoNotDeployable",
            **not_deployable(self.proposal_id, "Defeated"),
        )
        assert (self.accounts[0].quote, treasury_quote(world)) == (0, TREASURY_QUOTE)


@pytest.fixture
def gang(world: World) -> Gang:
    first = attacker(world, tokens(300_000), world.stranger)
    second = attacker(world, tokens(200_000), world.relayer)
    third = attacker(world, tokens(450_000), world.bidder, source=world.controller)
    proposal_id = first.proposes([drain(world, first.address)], "a better use of idle money")
    world.to_voting(proposal_id)
    world.vote(proposal_id, AGAINST, [world.proposer])
    return Gang(world, (first, second, third), proposal_id, deadline_s(world, proposal_id))


def test_votes_that_all_come_in_the_last_second_leave_a_day_to_answer(world: World, gang: Gang, attack: Report):
    third = gang.accounts[2]
    third.votes(gang.proposal_id, at_s=gang.deadline_s)
    time_to_answer_s = deadline_s(world, gang.proposal_id) - world.now_s()
    assert time_to_answer_s == GOVERNANCE.objection_period_s
    gang.answered_by(world.voter_a, seconds_before_the_end=10)
    attack.outcome(
        gained=f"$0 of {dollars(OUTFLOW_CAP)}",
        cost=f"{amount(tokens(450_000))} until the snapshot, {gang.gas:,} gas",
        stopped_by=f"the objection period: {days(time_to_answer_s)} in which only Against counts",
    )


def test_a_swing_to_passing_and_back_and_to_passing_again_wins_no_time(world: World, gang: Gang, attack: Report):
    """Turned, turned back so that everybody goes home, and turned once more in the last second."""
    first, second, third = gang.accounts
    first.votes(gang.proposal_id, FOR, at_s=gang.last_stretch_s)
    end_s = deadline_s(world, gang.proposal_id)
    assert end_s == gang.deadline_s + GOVERNANCE.objection_period_s
    second.votes(gang.proposal_id, AGAINST)  # 300,000 For, 400,000 Against: it fails again
    third.votes(gang.proposal_id, FOR, at_s=gang.deadline_s)
    assert deadline_s(world, gang.proposal_id) == end_s
    time_to_answer_s = end_s - world.now_s()
    gang.answered_by(world.voter_a, seconds_before_the_end=10)
    attack.outcome(
        gained=f"$0 of {dollars(OUTFLOW_CAP)}",
        cost=f"{amount(tokens(950_000))} until the snapshot, 200,000 of them spent Against, {gang.gas:,} gas",
        stopped_by=f"the objection period, opened by the first swing: {days(time_to_answer_s)} after the last",
    )


def test_a_swing_just_before_the_last_stretch_leaves_the_whole_of_it_to_answer(
    world: World, gang: Gang, attack: Report
):
    """Round the rule: no objection period, but half a day of ordinary voting, in which both sides count."""
    third = gang.accounts[2]
    world.evm.next_block_at(gang.last_stretch_s - 1)
    events = third.does(world.dao.functions.voteStrategy(gang.proposal_id))
    assert none_of(events, "ObjectionPeriodOpened")
    time_to_answer_s = deadline_s(world, gang.proposal_id) - world.now_s()
    assert time_to_answer_s > GOVERNANCE.last_stretch_s
    gang.answered_by(world.voter_a, seconds_before_the_end=10)
    attack.outcome(
        gained=f"$0 of {dollars(OUTFLOW_CAP)}",
        cost=f"{amount(tokens(450_000))} until the snapshot, {gang.gas:,} gas",
        stopped_by=f"the last stretch: {days(time_to_answer_s)} to answer",
    )
