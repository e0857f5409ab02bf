"""Who votes, with how much, when, and by whose signature; how much is enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from agents.contracts import RevertReason, decode_revert
from agents.localnet.evm import Account
from tests.contracts.world import (
    DAY_S,
    GOVERNANCE,
    PROPOSAL_STATES,
    World,
    one,
    proposal_states,
    struct,
    tokens,
    usd,
)

AGAINST, FOR, ABSTAIN = 0, 1, 2
# 4 % of what circulates: 10,000,000 less what treasury and pool hold.
CIRCULATING, QUORUM = tokens(3_005_000), tokens(120_200)


@dataclass(frozen=True, slots=True)
class Signatory:
    """Whom a ballot counts for, and whose key signs it."""

    address: str
    key: Account

    def sign(self, world: World, proposal_id: int, support: int, **over: Any) -> bytes:
        return world.sign_ballot(self.key, proposal_id, support, signatory=self.address, **over)


@pytest.fixture(params=["EOA", "ERC-1271"])
def signatory(request: pytest.FixtureRequest, world: World) -> Signatory:
    """With 100,000 votes or more: an account, or a contract wallet that an account without votes signs for."""
    if request.param == "EOA":
        return Signatory(world.voter_a.address, world.voter_a)
    wallet = world.evm.deploy("SmartWallet", world.relayer.address, sender=world.relayer)
    delegate = world.token.functions.delegate(wallet.address)._encode_transaction_data()
    world.send(wallet.functions.execute(world.d.token, delegate), world.relayer)
    world.send(world.token.functions.transfer(wallet.address, tokens(100_000)), world.voter_b)
    return Signatory(wallet.address, world.relayer)


both_doors = pytest.mark.parametrize("door", ["voteStrategyBySig", "castVoteBySig"])


def propose(world: World, text: str = "a proposal") -> int:
    return world.propose([world.treasury.functions.setOutflowCap(world.book.quote, 0)], text)


def open_vote(world: World) -> int:
    proposal_id = propose(world)
    world.evm.travel_to(snapshot_s(world, proposal_id) + 1)
    return proposal_id


def close_vote(world: World, proposal_id: int) -> str:
    world.evm.travel_to(world.view(world.dao.functions.proposalDeadline(proposal_id)) + 1)
    return world.state(proposal_id)


def snapshot_s(world: World, proposal_id: int) -> int:
    return int(world.view(world.dao.functions.proposalSnapshot(proposal_id)))


def votes(world: World, proposal_id: int) -> tuple[int, int, int]:
    """Against, for, abstain."""
    return tuple(world.view(world.dao.functions.proposalVotes(proposal_id)))


def give(world: World, to: str, amount: int) -> None:
    world.send(world.token.functions.transfer(to, amount), world.voter_b)


def delegate_to_self(world: World, who: Account) -> None:
    world.send(world.token.functions.delegate(who.address), who)


def not_active(proposal_id: int, state: str) -> dict[str, Any]:
    return {
        "proposalId": proposal_id,
        "current": PROPOSAL_STATES.index(state),
        "expectedStates": proposal_states("Active"),
    }


# When


def test_nobody_votes_on_what_does_not_exist(world: World):
    with world.reverts("GovernorNonexistentProposal", proposalId=7):
        world.send(world.dao.functions.voteStrategy(7), world.voter_a)


def test_a_vote_in_the_second_of_the_snapshot_is_too_early_and_one_second_later_counts(world: World):
    proposal_id = propose(world)
    world.evm.next_block_at(snapshot_s(world, proposal_id))
    with world.reverts("GovernorUnexpectedProposalState", **not_active(proposal_id, "Pending")):
        world.send(world.dao.functions.voteStrategy(proposal_id), world.voter_a)
    world.send(world.dao.functions.voteStrategy(proposal_id), world.voter_a)
    assert world.now_s() == snapshot_s(world, proposal_id) + 1
    assert votes(world, proposal_id) == (0, tokens(1_000_000), 0)


@pytest.mark.parametrize(("support", "state"), [(AGAINST, "Defeated"), (FOR, "Succeeded")])
def test_a_vote_in_the_last_second_counts_and_one_second_later_is_too_late(world: World, support: int, state: str):
    proposal_id = open_vote(world)
    world.send(world.dao.functions.voteStrategy(proposal_id, support), world.voter_a)
    world.evm.next_block_at(world.view(world.dao.functions.proposalDeadline(proposal_id)))
    world.send(world.dao.functions.voteStrategy(proposal_id, support), world.voter_b)
    with world.reverts("GovernorUnexpectedProposalState", **not_active(proposal_id, state)):
        world.send(world.dao.functions.voteStrategy(proposal_id, support), world.small_holder)
    assert sum(votes(world, proposal_id)) == tokens(1_800_000)


# How


def test_a_fourth_kind_of_vote_does_not_exist(world: World):
    proposal_id = open_vote(world)
    with world.reverts("GovernorInvalidVoteType"):
        world.send(world.dao.functions.voteStrategy(proposal_id, 3), world.voter_a)


def test_nobody_votes_twice_whichever_door_they_take(world: World):
    proposal_id = open_vote(world)
    functions = world.dao.functions
    world.send(functions.voteStrategy(proposal_id), world.voter_a)
    ballot = world.sign_ballot(world.voter_a, proposal_id, AGAINST)
    for call in (
        functions.voteStrategy(proposal_id),
        functions.voteStrategy(proposal_id, AGAINST),
        functions.castVote(proposal_id, AGAINST),
        functions.castVoteWithReason(proposal_id, AGAINST, "changed my mind"),
        functions.castVoteWithReasonAndParams(proposal_id, AGAINST, "", b"\x01"),
        functions.voteStrategyBySig(proposal_id, AGAINST, world.voter_a.address, ballot),
        functions.castVoteBySig(proposal_id, AGAINST, world.voter_a.address, ballot),
    ):
        with world.reverts("GovernorAlreadyCastVote", voter=world.voter_a.address):
            world.send(call, world.voter_a)
    assert votes(world, proposal_id) == (0, tokens(1_000_000), 0)


def test_the_verb_votes_for(world: World):
    proposal_id = open_vote(world)
    events = world.send(world.dao.functions.voteStrategy(proposal_id), world.voter_a)
    assert one(events, "VoteCast") == {
        "voter": world.voter_a.address, "proposalId": proposal_id, "support": FOR, "weight": tokens(1_000_000),
        "reason": "",
    }  # fmt: skip
    assert votes(world, proposal_id) == (0, tokens(1_000_000), 0)
    assert world.view(world.dao.functions.hasVoted(proposal_id, world.voter_a.address))


@pytest.mark.parametrize("support", [AGAINST, FOR, ABSTAIN])
def test_the_verb_votes_as_told(world: World, support: int):
    proposal_id = open_vote(world)
    events = world.send(world.dao.functions.voteStrategy(proposal_id, support), world.voter_b)
    assert one(events, "VoteCast") == {
        "voter": world.voter_b.address, "proposalId": proposal_id, "support": support, "weight": tokens(800_000),
        "reason": "",
    }  # fmt: skip
    assert votes(world, proposal_id) == tuple(tokens(800_000) if kind == support else 0 for kind in range(3))


def test_a_vote_can_give_its_reason(world: World):
    proposal_id = open_vote(world)
    events = world.send(world.dao.functions.castVoteWithReason(proposal_id, AGAINST, "too much risk"), world.voter_b)
    assert one(events, "VoteCast")["reason"] == "too much risk"


# By signature


def forged(world: World, who: Signatory, proposal_id: int) -> bytes:
    return Signatory(who.address, world.stranger).sign(world, proposal_id, FOR)


def for_another_voter(world: World, who: Signatory, proposal_id: int) -> bytes:
    return Signatory(world.stranger.address, who.key).sign(world, proposal_id, FOR)


def with_a_later_nonce(world: World, who: Signatory, proposal_id: int) -> bytes:
    return who.sign(world, proposal_id, FOR, nonce=1)


def for_another_chain(world: World, who: Signatory, proposal_id: int) -> bytes:
    return who.sign(world, proposal_id, FOR, chainId=1)


def for_another_contract(world: World, who: Signatory, proposal_id: int) -> bytes:
    return who.sign(world, proposal_id, FOR, verifyingContract=world.d.token)


def for_another_name(world: World, who: Signatory, proposal_id: int) -> bytes:
    return who.sign(world, proposal_id, FOR, name="MarketFlow")


def for_another_version(world: World, who: Signatory, proposal_id: int) -> bytes:
    return who.sign(world, proposal_id, FOR, version="2")


def for_another_proposal(world: World, who: Signatory, proposal_id: int) -> bytes:
    return who.sign(world, proposal_id + 1, FOR)


def with_another_support(world: World, who: Signatory, proposal_id: int) -> bytes:
    return who.sign(world, proposal_id, AGAINST)


def cut_short(world: World, who: Signatory, proposal_id: int) -> bytes:
    return who.sign(world, proposal_id, FOR)[:-1]


def empty(world: World, who: Signatory, proposal_id: int) -> bytes:
    return b""


@both_doors
@pytest.mark.parametrize(
    "ballot",
    [
        forged,
        for_another_voter,
        with_a_later_nonce,
        for_another_chain,
        for_another_contract,
        for_another_name,
        for_another_version,
        for_another_proposal,
        with_another_support,
        cut_short,
        empty,
    ],
)
def test_a_ballot_that_is_not_exactly_what_was_signed_is_refused(
    world: World, signatory: Signatory, door: str, ballot: Callable[[World, Signatory, int], bytes]
):
    proposal_id = open_vote(world)
    signature = ballot(world, signatory, proposal_id)
    with world.reverts("GovernorInvalidSignature", voter=signatory.address):
        world.send(world.dao.functions[door](proposal_id, FOR, signatory.address, signature), world.relayer)
    assert votes(world, proposal_id) == (0, 0, 0)
    assert world.view(world.dao.functions.nonces(signatory.address)) == 0


@both_doors
def test_a_ballot_counts_once(world: World, signatory: Signatory, door: str):
    proposal_id = open_vote(world)
    call = world.dao.functions[door](proposal_id, FOR, signatory.address, signatory.sign(world, proposal_id, FOR))
    world.send(call, world.relayer)
    with world.reverts("GovernorInvalidSignature", voter=signatory.address):
        world.send(call, world.relayer)


def test_a_nonce_serves_one_ballot_on_any_proposal(world: World, signatory: Signatory):
    first, second = propose(world, "first"), propose(world, "second")
    world.evm.travel_to(snapshot_s(world, second) + 1)
    ballots = {id_: signatory.sign(world, id_, FOR) for id_ in (first, second)}
    cast = world.dao.functions.castVoteBySig
    world.send(cast(first, FOR, signatory.address, ballots[first]), world.relayer)
    with world.reverts("GovernorInvalidSignature", voter=signatory.address):
        world.send(cast(second, FOR, signatory.address, ballots[second]), world.relayer)


def test_the_owner_of_a_wallet_does_not_vote_for_it_with_a_ballot_of_their_own(world: World):
    wallet = world.evm.deploy("SmartWallet", world.voter_a.address, sender=world.voter_a)
    proposal_id = open_vote(world)
    own = world.sign_ballot(world.voter_a, proposal_id, FOR)
    with world.reverts("GovernorInvalidSignature", voter=wallet.address):
        world.send(world.dao.functions.castVoteBySig(proposal_id, FOR, wallet.address, own), world.relayer)


@both_doors
@pytest.mark.parametrize("support", [AGAINST, FOR, ABSTAIN])
def test_anyone_delivers_a_signed_ballot(world: World, signatory: Signatory, door: str, support: int):
    proposal_id = open_vote(world)
    signature = signatory.sign(world, proposal_id, support)
    call = world.dao.functions[door](proposal_id, support, signatory.address, signature)
    weight = tokens(1_000_000 if signatory.key is world.voter_a else 100_000)
    assert one(world.send(call, world.stranger), "VoteCast") == {
        "voter": signatory.address, "proposalId": proposal_id, "support": support, "weight": weight, "reason": "",
    }  # fmt: skip
    assert votes(world, proposal_id) == tuple(weight if kind == support else 0 for kind in range(3))
    assert world.view(world.dao.functions.nonces(signatory.address)) == 1


# With how much


def test_a_voter_without_power_counts_for_nothing(world: World):
    proposal_id = open_vote(world)
    events = world.send(world.dao.functions.voteStrategy(proposal_id), world.stranger)
    assert one(events, "VoteCast")["weight"] == 0
    assert votes(world, proposal_id) == (0, 0, 0)


def test_tokens_that_nobody_was_given_the_votes_of_do_not_vote(world: World):
    proposal_id = open_vote(world)
    assert world.view(world.token.functions.balanceOf(world.controller.address)) == tokens(500_000)
    events = world.send(world.dao.functions.voteStrategy(proposal_id), world.controller)
    assert one(events, "VoteCast")["weight"] == 0


@pytest.mark.parametrize(("seconds_after", "weight"), [(0, tokens(300_000)), (1, 0)])
def test_tokens_bought_up_to_the_snapshot_vote_and_those_bought_a_second_later_do_not(
    world: World, seconds_after: int, weight: int
):
    delegate_to_self(world, world.stranger)
    proposal_id = propose(world)
    world.evm.next_block_at(snapshot_s(world, proposal_id) + seconds_after)
    give(world, world.stranger.address, tokens(300_000))
    world.evm.travel(1)
    bought = one(world.send(world.dao.functions.voteStrategy(proposal_id), world.stranger), "VoteCast")
    sold = one(world.send(world.dao.functions.voteStrategy(proposal_id), world.voter_b), "VoteCast")
    assert (bought["weight"], sold["weight"]) == (weight, tokens(800_000) - weight)


@pytest.mark.parametrize(("seconds_after", "weight"), [(0, tokens(500_000)), (1, 0)])
def test_votes_delegated_up_to_the_snapshot_count_and_those_delegated_a_second_later_do_not(
    world: World, seconds_after: int, weight: int
):
    proposal_id = propose(world)
    world.evm.next_block_at(snapshot_s(world, proposal_id) + seconds_after)
    world.send(world.token.functions.delegate(world.stranger.address), world.controller)
    world.evm.travel(1)
    events = world.send(world.dao.functions.voteStrategy(proposal_id), world.stranger)
    assert one(events, "VoteCast")["weight"] == weight


def test_the_snapshot_lies_before_the_vote_and_after_the_proposal(world: World):
    proposal_id = propose(world)
    proposed_s = world.now_s()
    assert snapshot_s(world, proposal_id) == proposed_s + GOVERNANCE.voting_delay_s
    world.evm.travel_to(snapshot_s(world, proposal_id))
    assert world.state(proposal_id) == "Pending"
    world.evm.travel(1)
    assert world.state(proposal_id) == "Active"


# Who proposes


def proposing(world: World) -> list[Any]:
    """Every way to propose."""
    strategy = world.deploy_strategy()
    manifest = world.manifest(world.register_agent(world.other_controller, world.other_signer))
    functions = world.dao.functions
    return [
        functions.propose([world.d.treasury], [0], [b""], "by hand"),
        functions.proposeStrategy(struct(manifest), "a strategy"),
        functions.proposeRecall(strategy.id, [(world.book.quote, usd(1), 0)], "a recall"),
        functions.proposeRetirement(strategy.id, "a retirement"),
    ]


@pytest.mark.parametrize("way", range(4), ids=["propose", "proposeStrategy", "proposeRecall", "proposeRetirement"])
def test_one_wei_below_the_threshold_nobody_proposes_and_at_it_anyone_does(world: World, way: int):
    threshold = GOVERNANCE.proposal_threshold_wei
    call = proposing(world)[way]
    delegate_to_self(world, world.stranger)
    give(world, world.stranger.address, threshold - 1)
    with world.reverts(
        "GovernorInsufficientProposerVotes",
        proposer=world.stranger.address, votes=threshold - 1, threshold=threshold,
    ):  # fmt: skip
        world.send(call, world.stranger)
    give(world, world.stranger.address, 1)
    created = one(world.send(call, world.stranger), "ProposalCreated")
    assert created["proposer"] == world.stranger.address


def test_votes_borrowed_for_one_transaction_do_not_propose(world: World):
    borrower = world.evm.deploy("LocalMulticall", sender=world.stranger)
    give(world, borrower.address, tokens(500_000))
    step = lambda call: (call.address, call._encode_transaction_data())  # noqa: E731
    borrow = step(world.token.functions.delegate(borrower.address))
    submit = step(world.dao.functions.propose([world.d.treasury], [0], [b""], "by hand"))

    borrowed, refused = world.view(borrower.functions.tryAggregate(False, [borrow, submit]))
    assert borrowed.success
    threshold = GOVERNANCE.proposal_threshold_wei
    assert decode_revert(refused.returnData) == RevertReason(
        "GovernorInsufficientProposerVotes", {"proposer": borrower.address, "votes": 0, "threshold": threshold}
    )
    world.send(borrower.functions.aggregate([borrow]), world.stranger)
    created = one(world.send(borrower.functions.aggregate([submit]), world.stranger), "ProposalCreated")
    assert created["proposer"] == borrower.address  # a second later they are its own


# How much is enough


def quorum(world: World) -> int:
    world.evm.travel(1)
    return int(world.view(world.dao.functions.quorum(world.now_s() - 1)))


def test_the_quorum_of_the_future_is_unknown(world: World):
    now_s = world.now_s()
    with world.reverts("ERC5805FutureLookup", timepoint=now_s, clock=now_s):
        world.view(world.dao.functions.quorum(now_s))


def test_the_quorum_is_a_share_of_what_circulates(world: World):
    held = [world.view(world.token.functions.balanceOf(at)) for at in (world.d.treasury, world.d.pool)]
    assert world.view(world.token.functions.totalSupply()) - sum(held) == CIRCULATING
    assert quorum(world) == QUORUM == CIRCULATING * GOVERNANCE.quorum_bps // 10_000


def test_the_quorum_never_falls_below_its_floor(world: World):
    world.send(world.token.functions.delegate(world.d.token), world.controller)
    assert quorum(world) == (CIRCULATING - tokens(500_000)) * GOVERNANCE.quorum_bps // 10_000 == tokens(100_200)
    world.send(world.token.functions.delegate(world.d.token), world.other_controller)
    assert quorum(world) == GOVERNANCE.quorum_floor_wei == tokens(100_000)


def test_the_quorum_of_a_proposal_is_that_of_its_snapshot(world: World):
    proposal_id = open_vote(world)
    world.send(world.token.functions.delegate(world.d.token), world.other_controller)
    world.evm.travel(1)
    assert world.view(world.dao.functions.quorum(snapshot_s(world, proposal_id))) == QUORUM
    assert quorum(world) < QUORUM


def into_a_bond(world: World, amount: int) -> None:
    world.send(world.token.functions.approve(world.d.agents, amount), world.voter_b)
    agent_id = world.register_agent(bond_wei=0, deposit=0)
    world.send(world.agents.functions.postBond(agent_id, amount), world.voter_b)


def into_the_reward_fund(world: World, amount: int) -> None:
    world.send(world.token.functions.approve(world.d.pool, amount), world.voter_b)
    world.send(world.pool.functions.fund(amount), world.voter_b)


def into_the_treasury(world: World, amount: int) -> None:
    give(world, world.d.treasury, amount)


def into_an_unvested_grant(world: World, amount: int) -> None:
    arguments = (world.d.token, world.stranger.address, world.now_s(), 365 * DAY_S)
    grant = world.evm.deploy("TokenGrant", *arguments, sender=world.stranger)
    give(world, grant.address, amount)


@pytest.mark.parametrize(
    "put", [into_a_bond, into_the_reward_fund, into_the_treasury, into_an_unvested_grant], ids=lambda put: put.__name__
)
def test_what_goes_into_custody_loses_its_votes_and_leaves_the_quorum(world: World, put: Callable[[World, int], None]):
    sink_before = world.view(world.token.functions.getVotes(world.d.token))
    put(world, tokens(250_000))
    assert world.view(world.token.functions.getVotes(world.voter_b.address)) == tokens(550_000)
    assert world.view(world.token.functions.getVotes(world.d.token)) == sink_before + tokens(250_000)
    assert quorum(world) == QUORUM - tokens(10_000)


def test_what_comes_out_of_custody_circulates_again(world: World):
    world.as_timelock(world.treasury.functions.pay(world.d.token, world.voter_b.address, tokens(250_000)))
    assert quorum(world) == QUORUM + tokens(10_000)
    assert world.view(world.token.functions.getVotes(world.voter_b.address)) == tokens(1_050_000)


def test_what_is_in_custody_never_votes(world: World):
    world.register_agent()
    holders = (world.d.treasury, world.d.pool, world.d.agents)
    assert {world.view(world.token.functions.delegates(holder)) for holder in holders} == {world.d.token}
    held = sum(world.view(world.token.functions.balanceOf(holder)) for holder in holders)
    assert world.view(world.token.functions.getVotes(world.d.token)) == held > tokens(7_000_000)

    proposal_id = open_vote(world)
    for voter in (world.d.token, *holders):
        ballot = world.sign_ballot(world.stranger, proposal_id, FOR, signatory=voter)
        with world.reverts("GovernorInvalidSignature", voter=voter):
            world.send(world.dao.functions.castVoteBySig(proposal_id, FOR, voter, ballot), world.stranger)


@pytest.mark.parametrize(("missing_wei", "state"), [(1, "Defeated"), (0, "Succeeded")])
def test_a_proposal_needs_the_whole_quorum(world: World, missing_wei: int, state: str):
    delegate_to_self(world, world.stranger)
    give(world, world.stranger.address, QUORUM - missing_wei)
    proposal_id = open_vote(world)
    world.send(world.dao.functions.voteStrategy(proposal_id), world.stranger)
    assert close_vote(world, proposal_id) == state


def test_a_proposal_needs_more_for_than_against(world: World):
    delegate_to_self(world, world.stranger)
    give(world, world.stranger.address, tokens(200_000))
    tied, won = propose(world, "tied"), propose(world, "won")
    world.evm.travel_to(snapshot_s(world, won) + 1)
    for proposal_id in (tied, won):
        world.vote(proposal_id, FOR, [world.proposer])
        world.vote(proposal_id, AGAINST, [world.stranger])
    world.vote(won, FOR, [world.small_holder])
    assert votes(world, tied) == (tokens(200_000), tokens(200_000), 0)
    assert close_vote(world, won) == "Succeeded"
    assert world.state(tied) == "Defeated"


def test_abstentions_count_for_the_quorum_and_votes_against_do_not(world: World):
    delegate_to_self(world, world.stranger)
    give(world, world.stranger.address, tokens(110_000))
    abstained, opposed = propose(world, "abstained"), propose(world, "opposed")
    world.evm.travel_to(snapshot_s(world, opposed) + 1)
    for proposal_id in (abstained, opposed):
        world.vote(proposal_id, FOR, [world.stranger])
    world.vote(abstained, ABSTAIN, [world.proposer])
    world.vote(opposed, AGAINST, [world.small_holder])
    assert close_vote(world, opposed) == "Defeated"
    assert world.state(abstained) == "Succeeded"


def test_a_vote_that_nobody_took_part_in_is_defeated(world: World):
    assert close_vote(world, open_vote(world)) == "Defeated"
