"""Signed ballots in the wrong hands: replayed, forged, from another chain, another governor, another wallet."""

from __future__ import annotations

from typing import Any

import pytest
from eth_keys.constants import SECPK1_N

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import AGAINST, FOR, Attacker, amount, attacker, data_of, drain
from tests.contracts.world import GOVERNANCE, World, tokens


@pytest.fixture
def forger(world: World) -> Attacker:
    """Has what it takes to propose, and has seen every ballot that was ever signed."""
    return attacker(world, GOVERNANCE.proposal_threshold_wei)


def open_drain(world: World, forger: Attacker, text: str = "give it to me") -> int:
    proposal_id = forger.proposes([drain(world, forger.address)], text)
    world.to_voting(proposal_id)
    return proposal_id


def votes_for(world: World, proposal_id: int) -> int:
    return int(world.view(world.dao.functions.proposalVotes(proposal_id)).forVotes)


def deliver(world: World, proposal_id: int, support: int, voter: str, signature: bytes) -> Any:
    return world.dao.functions.voteStrategyBySig(proposal_id, support, voter, signature)


def defeated(world: World, forger: Attacker, proposal_id: int) -> None:
    world.to_deadline(proposal_id)
    assert (votes_for(world, proposal_id), world.state(proposal_id), forger.quote) == (0, "Defeated", 0)


def test_a_ballot_for_something_good_votes_for_nothing_else(world: World, forger: Attacker, attack: Report):
    """A million votes, signed for an honest proposal: replayed on it, moved to another, turned round, malleated."""
    voter = world.voter_a
    honest = world.propose([world.treasury.functions.setOutflowCap(world.book.quote, 0)], "honest")
    theft = open_drain(world, forger)
    signature = world.sign_ballot(voter, honest, FOR)
    r, s, v = signature[:32], int.from_bytes(signature[32:64], "big"), signature[64]
    twin = r + (SECPK1_N - s).to_bytes(32, "big") + bytes([55 - v])
    refused = {"voter": voter.address}
    # Before it is delivered: elsewhere, turned round, for another voter, and in its other mathematical form.
    forger.fails(deliver(world, theft, FOR, voter.address, signature), "GovernorInvalidSignature", **refused)
    forger.fails(deliver(world, honest, AGAINST, voter.address, signature), "GovernorInvalidSignature", **refused)
    forger.fails(deliver(world, honest, FOR, voter.address, twin), "GovernorInvalidSignature", **refused)
    other = {"voter": world.voter_b.address}
    forger.fails(deliver(world, honest, FOR, world.voter_b.address, signature), "GovernorInvalidSignature", **other)
    # Delivered, by the attacker even; then again, in both forms.
    forger.does(deliver(world, honest, FOR, voter.address, signature))
    for again in (signature, twin):
        forger.fails(deliver(world, honest, FOR, voter.address, again), "GovernorInvalidSignature", **refused)
    assert votes_for(world, honest) == tokens(1_000_000)
    defeated(world, forger, theft)
    attack.outcome(
        gained="no vote",
        cost=f"{forger.gas:,} gas, and the honest ballot delivered",
        stopped_by="GovernorInvalidSignature",
    )


def test_ballots_of_another_chain_or_governor_count_for_nothing_here(world: World, forger: Attacker, attack: Report):
    """The same DAO on a test network, where votes are free; and a second governor of the same token on this chain."""
    settings = GOVERNANCE.as_tuple()
    arguments = (world.d.token, world.d.timelock, world.d.strategies, world.d.pool, settings)
    second = world.evm.deploy("MARKETFLOW_DAO", *arguments, sender=forger.account)
    theft = open_drain(world, forger)
    voter = world.voter_a
    foreign = [
        {"chainId": 1},
        {"chainId": 11_155_111},
        {"chainId": 0},
        {"verifyingContract": second.address},
        {"verifyingContract": world.d.token},
        {"name": "MARKETFLOW"},
        {"version": "2"},
    ]
    for domain in foreign:
        signature = world.sign_ballot(voter, theft, FOR, **domain)
        forger.fails(
            deliver(world, theft, FOR, voter.address, signature), "GovernorInvalidSignature", voter=voter.address
        )
    defeated(world, forger, theft)
    attack.outcome(
        gained="no vote", cost=f"{forger.gas:,} gas", stopped_by="the domain: chain, contract, name, version"
    )


def test_a_ballot_of_one_wallet_does_not_count_for_its_owner_s_other_wallet(
    world: World, forger: Attacker, attack: Report
):
    """ERC-1271 wallets that check only their owner's signature are safe, as the ballot names its voter."""
    wallets = [world.evm.deploy("SmartWallet", world.relayer.address, sender=world.relayer) for _ in range(2)]
    for wallet in wallets:
        delegate = data_of(world.token.functions.delegate(wallet.address))
        world.send(wallet.functions.execute(world.d.token, delegate), world.relayer)
        world.send(world.token.functions.transfer(wallet.address, tokens(100_000)), world.controller)
    theft = open_drain(world, forger)
    first, second = (wallet.address for wallet in wallets)
    signature = world.sign_ballot(world.relayer, theft, FOR, signatory=first)
    for voter in (second, world.relayer.address):
        forger.fails(deliver(world, theft, FOR, voter, signature), "GovernorInvalidSignature", voter=voter)
    # The other way round: a ballot of the owner's own account, and one that a stranger signed for the wallet.
    for wrong in (
        world.sign_ballot(world.relayer, theft, FOR),
        world.sign_ballot(forger.account, theft, FOR, signatory=first),
    ):
        forger.fails(deliver(world, theft, FOR, first, wrong), "GovernorInvalidSignature", voter=first)
    defeated(world, forger, theft)
    attack.outcome(
        gained="no vote",
        cost=f"{forger.gas:,} gas",
        stopped_by="the voter's address in the ballot: GovernorInvalidSignature",
    )


def test_a_relayer_that_keeps_a_ballot_back_does_not_bind_a_voter_who_thinks_again(
    world: World, forger: Attacker, attack: Report
):
    """It keeps the ballot For until the last second; the voter has learned better and voted Against meanwhile."""
    theft = open_drain(world, forger)
    kept = world.sign_ballot(world.voter_a, theft, FOR)
    world.vote(theft, AGAINST, [world.voter_a])
    world.evm.next_block_at(int(world.view(world.dao.functions.proposalDeadline(theft))))
    forger.fails(
        deliver(world, theft, FOR, world.voter_a.address, kept), "GovernorAlreadyCastVote", voter=world.voter_a.address
    )
    defeated(world, forger, theft)
    attack.outcome(
        gained="no vote",
        cost=f"{forger.gas:,} gas",
        stopped_by="GovernorAlreadyCastVote: one vote, whichever way it came",
    )


def test_ballots_signed_in_advance_serve_one_proposal_only(world: World, forger: Attacker, attack: Report):
    """A voter signs for two proposals with one nonce; who delivers chooses one, and the other is void."""
    honest = world.propose([world.treasury.functions.setOutflowCap(world.book.quote, 0)], "honest")
    theft = open_drain(world, forger)
    voter = world.voter_a
    good, bad = (world.sign_ballot(voter, each, support) for each, support in ((honest, FOR), (theft, AGAINST)))
    forger.does(deliver(world, honest, FOR, voter.address, good))
    forger.fails(deliver(world, theft, AGAINST, voter.address, bad), "GovernorInvalidSignature", voter=voter.address)
    # What the attacker suppressed that way is signed again, with the next nonce.
    world.send(deliver(world, theft, AGAINST, voter.address, world.sign_ballot(voter, theft, AGAINST)), world.relayer)
    defeated(world, forger, theft)
    attack.outcome(
        gained="one ballot held up until it was signed again",
        cost=f"{forger.gas:,} gas and {amount(tokens(1_000_000))} delivered for the other proposal",
        stopped_by="the voter's next nonce",
    )
