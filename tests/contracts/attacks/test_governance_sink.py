"""The sink leaves tokens out of the quorum. Does anybody gain by putting tokens there, or by putting others' there?"""

from __future__ import annotations

from eth_account import Account as EthAccount

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import (
    AGAINST,
    QUORUM,
    Attacker,
    amount,
    attacker,
    drain,
    snapshot_s,
)
from tests.contracts.world import GOVERNANCE, World, tokens

FLOOR = GOVERNANCE.quorum_floor_wei


def quorum_now(world: World) -> int:
    return int(world.view(world.dao.functions.quorum(world.now_s() - 1)))


def test_lowering_the_quorum_takes_twenty_five_tokens_for_one_and_ends_at_the_floor(world: World, attack: Report):
    """An attacker one token short of the floor sinks a million of their own, for good, and is still one token short."""
    short = tokens(1)
    voter = attacker(world, FLOOR - short)
    sunk = Attacker(world, world.relayer)
    quorums = []
    for giver, sinking in ((world.controller, tokens(400_000)), (world.voter_a, tokens(600_000))):
        world.send(world.token.functions.transfer(sunk.address, sinking), giver)
        if not quorums:
            sunk.does(world.token.functions.delegate(world.d.token))
        world.evm.travel(2)
        quorums.append(quorum_now(world))
    assert quorums == [QUORUM - tokens(400_000) // 25, FLOOR]
    theft = voter.proposes([drain(world, voter.address)])
    world.to_voting(theft)
    assert voter.votes(theft) == FLOOR - short
    world.to_deadline(theft)
    assert world.state(theft) == "Defeated"
    sunk.fails(world.token.functions.delegate(sunk.address), "MarketFlowTokenDelegatedForGood", account=sunk.address)
    attack.outcome(
        gained=f"a quorum of {amount(FLOOR)} instead of {amount(QUORUM)}",
        cost=f"the votes of {amount(tokens(1_000_000))}, 25 for one of the quorum; {voter.gas + sunk.gas:,} gas",
        stopped_by="the quorum's floor",
    )


def test_votes_sunk_by_a_stolen_signature_come_back_when_the_tokens_move(world: World, attack: Report):
    """A victim is talked into signing a delegation to the token: 800,000 votes are gone until the tokens move."""
    thief = Attacker(world, world.stranger)
    victim = world.voter_b
    message = {"delegatee": world.d.token, "nonce": 0, "expiry": world.now_s() + 600}
    domain = {
        "name": world.view(world.token.functions.name()), "version": "1", "chainId": world.w3.eth.chain_id,
        "verifyingContract": world.d.token,
    }  # fmt: skip
    kinds = ("address", "uint256", "uint256")
    types = {"Delegation": [{"name": n, "type": k} for n, k in zip(message, kinds, strict=True)]}
    signed = EthAccount.sign_typed_data(victim.key, domain, types, message)
    thief.does(
        world.token.functions.delegateBySig(*message.values(), signed.v, signed.r.to_bytes(32), signed.s.to_bytes(32))
    )
    assert world.view(world.token.functions.getVotes(victim.address)) == 0
    with world.reverts("MarketFlowTokenDelegatedForGood", account=victim.address):
        world.send(world.token.functions.delegate(victim.address), victim)

    shelter = world.observer
    world.send(world.token.functions.delegate(shelter.address), shelter)
    world.send(world.token.functions.transfer(shelter.address, tokens(800_000)), victim)
    proposal_id = world.propose([world.treasury.functions.setOutflowCap(world.book.quote, 0)])
    world.to_voting(proposal_id)
    world.vote(proposal_id, AGAINST, [shelter])
    assert world.view(world.dao.functions.proposalVotes(proposal_id)).againstVotes == tokens(800_000)
    attack.outcome(
        gained="800,000 votes less in the proposals whose snapshot came before the victim moved",
        cost=f"{thief.gas:,} gas and the victim's signature",
        stopped_by="the sink holds an account's votes, not its tokens",
    )


def test_bonds_posted_and_withdrawn_around_the_snapshot_carry_no_vote_through_it(world: World, attack: Report):
    """Bonds sink, so a whale can lower the quorum by posting one and take it back. What it posts does not vote then."""
    whale = attacker(world, tokens(500_000), world.bidder)
    agent_id = world.register_agent(whale.account, world.other_signer, bond_wei=0, deposit=0)
    before = quorum_now(world)
    theft = whale.proposes([drain(world, whale.address)])
    bond = tokens(390_000)
    whale.does(world.token.functions.approve(world.d.agents, bond))
    world.evm.next_block_at(snapshot_s(world, theft) - 5)
    whale.does(world.agents.functions.postBond(agent_id, bond))
    world.evm.travel_to(snapshot_s(world, theft) + 1)
    lowered = int(world.view(world.dao.functions.quorum(snapshot_s(world, theft))))
    assert before - lowered == bond // 25
    weight = whale.votes(theft)
    assert weight == tokens(110_000)
    world.vote(theft, AGAINST, [world.proposer])
    world.to_deadline(theft)
    assert world.state(theft) == "Defeated"
    attack.outcome(
        gained=f"a quorum of {amount(lowered)} instead of {amount(before)}",
        cost=f"{amount(bond)} of votes; {whale.gas:,} gas",
        stopped_by="what is bonded at the snapshot does not vote, and the majority rule stays",
    )
