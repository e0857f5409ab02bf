"""A late flip to passing can be answered: one objection period, in which only Against counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from eth_account import Account as EthAccount

from agents.contracts import EventLog
from agents.localnet.evm import Account
from tests.contracts.world import GOVERNANCE, PROPOSAL_STATES, World, none_of, one, proposal_states, tokens

AGAINST, FOR, ABSTAIN = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Ballot:
    """A proposal that is voted on now."""

    world: World
    id: int
    deadline_s: int

    @property
    def last_stretch_s(self) -> int:
        """The first second of the last stretch."""
        return self.deadline_s - GOVERNANCE.last_stretch_s

    @property
    def objections_end_s(self) -> int:
        return self.deadline_s + GOVERNANCE.objection_period_s

    def vote(self, voter: Account, support: int, *, at_s: int | None = None) -> list[EventLog]:
        if at_s is not None:
            self.world.evm.next_block_at(at_s)
        return self.world.send(self.world.dao.functions.voteStrategy(self.id, support), voter)

    def flip_late(self) -> list[EventLog]:
        """A million For, an hour before the end."""
        return self.vote(self.world.voter_a, FOR, at_s=self.deadline_s - 3600)

    def state_at(self, second_s: int) -> str:
        self.world.evm.travel_to(second_s)
        return self.world.state(self.id)

    def opened(self) -> dict[str, Any]:
        return {"proposalId": self.id, "endsAt": self.objections_end_s}

    def ended(self, state: str) -> dict[str, Any]:
        return {
            "proposalId": self.id,
            "current": PROPOSAL_STATES.index(state),
            "expectedStates": proposal_states("Active"),
        }


@pytest.fixture
def ballot(world: World) -> Ballot:
    """Nobody has voted; the stranger has 200,001 votes, just more than the proposer."""
    world.send(world.token.functions.delegate(world.stranger.address), world.stranger)
    world.send(world.token.functions.transfer(world.stranger.address, tokens(200_001)), world.voter_b)
    proposal_id = world.propose([world.treasury.functions.setOutflowCap(world.book.quote, 0)])
    world.evm.travel_to(world.view(world.dao.functions.proposalSnapshot(proposal_id)) + 1)
    return Ballot(world, proposal_id, world.view(world.dao.functions.proposalDeadline(proposal_id)))


# Refused: anything but Against


def extended_ballot(world: World, voter: Account, proposal_id: int, support: int) -> bytes:
    domain = {
        "name": "MARKETFLOW_DAO", "version": "1", "chainId": world.w3.eth.chain_id, "verifyingContract": world.d.dao,
    }  # fmt: skip
    message = {
        "proposalId": proposal_id, "support": support, "voter": voter.address, "nonce": 0, "reason": "why",
        "params": b"\x01",
    }  # fmt: skip
    kinds = ("uint256", "uint8", "address", "uint256", "string", "bytes")
    fields = [{"name": name, "type": kind} for name, kind in zip(message, kinds, strict=True)]
    return bytes(EthAccount.sign_typed_data(voter.key, domain, {"ExtendedBallot": fields}, message).signature)


def doors(world: World, voter: Account, proposal_id: int, support: int) -> list[Any]:
    """Every way to cast a vote."""
    functions, who = world.dao.functions, voter.address
    signature = world.sign_ballot(voter, proposal_id, support)
    extended = extended_ballot(world, voter, proposal_id, support)
    calls = [
        functions.voteStrategy(proposal_id, support),
        functions.voteStrategyBySig(proposal_id, support, who, signature),
        functions.castVote(proposal_id, support),
        functions.castVoteWithReason(proposal_id, support, "why"),
        functions.castVoteWithReasonAndParams(proposal_id, support, "why", b"\x01"),
        functions.castVoteBySig(proposal_id, support, who, signature),
        functions.castVoteWithReasonAndParamsBySig(proposal_id, support, who, "why", b"\x01", extended),
    ]
    return [*calls, functions.voteStrategy(proposal_id)] if support == FOR else calls


@pytest.mark.parametrize("support", [FOR, ABSTAIN])
def test_in_the_objection_period_no_door_takes_anything_but_against(world: World, ballot: Ballot, support: int):
    ballot.flip_late()
    world.evm.travel_to(ballot.deadline_s)
    for call in doors(world, world.voter_b, ballot.id, support):
        with world.reverts("GovernorObjectionOnlyAgainst", proposalId=ballot.id, support=support):
            world.send(call, world.voter_b)


@pytest.mark.parametrize("door", range(7))
def test_in_the_objection_period_every_door_takes_against(world: World, ballot: Ballot, door: int):
    ballot.flip_late()
    world.evm.travel_to(ballot.deadline_s)
    world.send(doors(world, world.voter_b, ballot.id, AGAINST)[door], world.voter_b)
    against, *_ = world.view(world.dao.functions.proposalVotes(ballot.id))
    assert against == tokens(599_999)


def test_who_voted_before_cannot_object(world: World, ballot: Ballot):
    ballot.flip_late()
    world.evm.travel_to(ballot.deadline_s)
    with world.reverts("GovernorAlreadyCastVote", voter=world.voter_a.address):
        ballot.vote(world.voter_a, AGAINST)


def test_for_counts_until_the_deadline_and_not_a_second_longer(world: World, ballot: Ballot):
    ballot.flip_late()
    ballot.vote(world.small_holder, FOR, at_s=ballot.deadline_s)
    with world.reverts("GovernorObjectionOnlyAgainst", proposalId=ballot.id, support=FOR):
        ballot.vote(world.proposer, FOR)


def test_objections_count_until_the_period_ends_and_not_a_second_longer(world: World, ballot: Ballot):
    ballot.flip_late()
    ballot.vote(world.proposer, AGAINST, at_s=ballot.objections_end_s)
    with world.reverts("GovernorUnexpectedProposalState", **ballot.ended("Succeeded")):
        ballot.vote(world.voter_b, AGAINST)


def test_without_an_objection_period_the_deadline_ends_the_vote(world: World, ballot: Ballot):
    world.evm.travel_to(ballot.deadline_s)
    for support in (AGAINST, FOR):
        with world.reverts("GovernorUnexpectedProposalState", **ballot.ended("Defeated")):
            ballot.vote(world.voter_a, support)


def test_a_proposal_in_its_objection_period_cannot_be_queued_or_deployed(world: World, ballot: Ballot):
    ballot.flip_late()
    world.evm.travel_to(ballot.objections_end_s - 10)
    active = PROPOSAL_STATES.index("Active")
    with world.reverts("DaoNotDeployable", proposalId=ballot.id, state=active):
        world.queue(ballot.id)
    with world.reverts(
        "GovernorUnexpectedProposalState",
        proposalId=ballot.id, current=active, expectedStates=proposal_states("Succeeded"),
    ):  # fmt: skip
        world.send(world.dao.functions.queue(ballot.id), world.stranger)


# What opens none


def opens_none(ballot: Ballot, events: list[EventLog]) -> bool:
    view, functions = ballot.world.view, ballot.world.dao.functions
    unchanged = view(functions.proposalDeadline(ballot.id)) == ballot.deadline_s
    return none_of(events, "ObjectionPeriodOpened") and unchanged and view(functions.objectionDeadline(ballot.id)) == 0


def test_passing_a_second_before_the_last_stretch_opens_none(world: World, ballot: Ballot):
    assert opens_none(ballot, ballot.vote(world.voter_a, FOR, at_s=ballot.last_stretch_s - 1))
    assert ballot.state_at(ballot.deadline_s) == "Active"
    assert ballot.state_at(ballot.deadline_s + 1) == "Succeeded"


def test_a_late_vote_on_what_passes_already_opens_none(world: World, ballot: Ballot):
    ballot.vote(world.voter_a, FOR)
    assert opens_none(ballot, ballot.vote(world.voter_b, FOR, at_s=ballot.deadline_s - 2))
    assert opens_none(ballot, ballot.vote(world.proposer, AGAINST, at_s=ballot.deadline_s - 1))
    assert opens_none(ballot, ballot.vote(world.small_holder, ABSTAIN, at_s=ballot.deadline_s))
    assert ballot.state_at(ballot.deadline_s + 1) == "Succeeded"


def test_a_late_vote_that_leaves_it_failing_opens_none(world: World, ballot: Ballot):
    ballot.vote(world.voter_b, AGAINST)
    assert opens_none(ballot, ballot.vote(world.stranger, FOR, at_s=ballot.deadline_s))
    assert ballot.state_at(ballot.deadline_s + 1) == "Defeated"


def test_a_late_vote_below_the_quorum_opens_none(world: World, ballot: Ballot):
    assert opens_none(ballot, ballot.vote(world.small_holder, FOR, at_s=ballot.deadline_s))
    assert ballot.state_at(ballot.deadline_s + 1) == "Defeated"


def test_a_late_flip_to_failing_opens_none(world: World, ballot: Ballot):
    ballot.vote(world.proposer, FOR)
    assert opens_none(ballot, ballot.vote(world.stranger, AGAINST, at_s=ballot.deadline_s))
    assert ballot.state_at(ballot.deadline_s + 1) == "Defeated"


# What opens one


@pytest.mark.parametrize("moment", ["first second of the last stretch", "last second of the vote"])
def test_a_late_flip_to_passing_opens_one(world: World, ballot: Ballot, moment: str):
    at_s = ballot.last_stretch_s if "first" in moment else ballot.deadline_s
    events = ballot.vote(world.voter_a, FOR, at_s=at_s)
    assert one(events, "ObjectionPeriodOpened") == ballot.opened()
    assert world.view(world.dao.functions.objectionDeadline(ballot.id)) == ballot.objections_end_s
    assert world.view(world.dao.functions.proposalDeadline(ballot.id)) == ballot.objections_end_s
    assert ballot.state_at(ballot.objections_end_s) == "Active"
    assert ballot.state_at(ballot.objections_end_s + 1) == "Succeeded"


def test_a_late_abstention_that_completes_the_quorum_opens_one(world: World, ballot: Ballot):
    ballot.vote(world.small_holder, FOR)
    assert one(ballot.vote(world.voter_a, ABSTAIN, at_s=ballot.deadline_s), "ObjectionPeriodOpened") == ballot.opened()


def test_a_late_ballot_by_signature_opens_one(world: World, ballot: Ballot):
    signature = world.sign_ballot(world.voter_a, ballot.id, FOR)
    call = world.dao.functions.voteStrategyBySig(ballot.id, FOR, world.voter_a.address, signature)
    world.evm.next_block_at(ballot.deadline_s)
    assert one(world.send(call, world.relayer), "ObjectionPeriodOpened") == ballot.opened()


def test_what_passed_early_and_was_turned_late_opens_one_when_it_is_turned_back(world: World, ballot: Ballot):
    ballot.vote(world.proposer, FOR)
    ballot.vote(world.stranger, AGAINST, at_s=ballot.deadline_s - 2)
    assert one(ballot.vote(world.small_holder, FOR), "ObjectionPeriodOpened") == ballot.opened()


def test_a_second_flip_opens_none_and_the_first_period_stays_as_it_was(world: World, ballot: Ballot):
    assert one(ballot.vote(world.proposer, FOR, at_s=ballot.last_stretch_s), "ObjectionPeriodOpened") == ballot.opened()
    ballot.vote(world.stranger, AGAINST, at_s=ballot.deadline_s - 10)
    events = ballot.vote(world.voter_a, FOR, at_s=ballot.deadline_s)
    assert none_of(events, "ObjectionPeriodOpened")
    assert world.view(world.dao.functions.proposalDeadline(ballot.id)) == ballot.objections_end_s
    # It still answers the second flip.
    world.evm.travel(1)
    ballot.vote(world.voter_b, AGAINST)
    assert ballot.state_at(ballot.objections_end_s) == "Active"


# How it ends


def test_objections_defeat_a_proposal(world: World, ballot: Ballot):
    ballot.vote(world.proposer, FOR, at_s=ballot.deadline_s)
    ballot.vote(world.stranger, AGAINST, at_s=ballot.objections_end_s)
    assert world.state(ballot.id) == "Active"
    assert ballot.state_at(ballot.objections_end_s + 1) == "Defeated"
    with world.reverts("DaoNotDeployable", proposalId=ballot.id, state=PROPOSAL_STATES.index("Defeated")):
        world.queue(ballot.id)


def test_objections_that_are_too_few_do_not(world: World, ballot: Ballot):
    ballot.vote(world.stranger, FOR, at_s=ballot.deadline_s)
    ballot.vote(world.proposer, AGAINST, at_s=ballot.objections_end_s)
    assert ballot.state_at(ballot.objections_end_s + 1) == "Succeeded"
    world.queue(ballot.id)
    assert one(world.execute(ballot.id), "ProposalExecuted") == {"proposalId": ballot.id}


def test_nothing_brings_a_defeated_proposal_back_in_the_objection_period(world: World, ballot: Ballot):
    ballot.vote(world.proposer, FOR, at_s=ballot.deadline_s)
    ballot.vote(world.stranger, AGAINST)
    world.evm.travel_to(ballot.objections_end_s - 10)
    for support in (FOR, ABSTAIN):
        for call in doors(world, world.voter_a, ballot.id, support):
            with world.reverts("GovernorObjectionOnlyAgainst", proposalId=ballot.id, support=support):
                world.evm.call(call, world.voter_a)
    assert ballot.state_at(ballot.objections_end_s + 1) == "Defeated"


def test_what_was_turned_back_before_the_deadline_cannot_pass_in_the_period_that_it_opened(
    world: World, ballot: Ballot
):
    ballot.vote(world.proposer, FOR, at_s=ballot.last_stretch_s)
    ballot.vote(world.stranger, AGAINST, at_s=ballot.deadline_s)
    with world.reverts("GovernorObjectionOnlyAgainst", proposalId=ballot.id, support=FOR):
        ballot.vote(world.voter_a, FOR)
    assert ballot.state_at(ballot.objections_end_s) == "Active"
    assert ballot.state_at(ballot.objections_end_s + 1) == "Defeated"


def test_grace_counts_from_the_end_of_the_objection_period(world: World, ballot: Ballot):
    ballot.flip_late()
    assert ballot.state_at(ballot.objections_end_s + GOVERNANCE.grace_s) == "Succeeded"
    assert ballot.state_at(ballot.objections_end_s + GOVERNANCE.grace_s + 1) == "Expired"


# What can be deployed


@pytest.mark.parametrize("missing", ["last_stretch_s", "objection_period_s"])
def test_periods_of_no_length_are_refused(world: World, missing: str):
    settings = replace(GOVERNANCE, **{missing: 0}).as_tuple()
    arguments = (world.d.token, world.d.timelock, world.d.strategies, world.d.pool, settings)
    with world.reverts("GovernorObjectionInvalidPeriods"):
        world.evm.deploy("MARKETFLOW_DAO", *arguments, sender=world.stranger)
