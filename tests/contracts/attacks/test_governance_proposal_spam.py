"""A flood of proposals: to hide one that matters, to make voting dear, or to get one past tired voters."""

from __future__ import annotations

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import (
    THRESHOLD,
    TREASURY_QUOTE,
    amount,
    attacker,
    drain,
    treasury_quote,
)
from tests.contracts.world import World, one

FLOOD = 40


def gas_of_an_honest_proposal(world: World, text: str) -> tuple[int, int, int]:
    """Of proposing, of a vote, of queueing; the proposal is left to expire."""
    calls = [world.treasury.functions.setOutflowCap(world.book.quote, 0)]
    propose = world.dao.functions.propose(
        [c.address for c in calls], [0], [c._encode_transaction_data() for c in calls], text
    )
    proposed = world.evm.send(propose, world.proposer)["gasUsed"]
    created = [e.args["proposalId"] for e in world.history(world.dao) if e.name == "ProposalCreated"]
    proposal_id = int(created[-1])
    world.to_voting(proposal_id)
    voted = world.evm.send(world.dao.functions.voteStrategy(proposal_id), world.voter_a)["gasUsed"]
    world.to_deadline(proposal_id)
    queued = world.evm.send(world.dao.functions.deployApproved(proposal_id), world.stranger)["gasUsed"]
    return proposed, voted, queued


def test_a_flood_of_proposals_makes_no_honest_one_dearer_and_passes_by_nobody(world: World, attack: Report):
    """Forty attempts at the treasury; voters need do nothing against any of them."""
    world.propose([world.treasury.functions.setOutflowCap(world.book.quote, 0)], "the first of all, which is dearer")
    before = world.evm.snapshot()
    alone = gas_of_an_honest_proposal(world, "honest")
    world.evm.revert(before)
    spammer = attacker(world, THRESHOLD)
    flood = [spammer.proposes([drain(world, spammer.address)], f"spam {i:03}") for i in range(FLOOD)]
    among_spam = gas_of_an_honest_proposal(world, "honest")
    assert among_spam == alone
    assert {world.state(each) for each in flood} == {"Defeated"}
    assert treasury_quote(world) == TREASURY_QUOTE
    attack.outcome(
        gained=f"nothing: an honest proposal costs {alone[0]:,} gas, a vote {alone[1]:,}, as before",
        cost=f"{spammer.gas // FLOOD:,} gas for each of {FLOOD}, {amount(THRESHOLD)} held meanwhile",
        stopped_by="the quorum: what nobody votes for is defeated",
    )


def test_one_threshold_of_tokens_passed_on_proposes_from_many_accounts_one_second_apart(world: World, attack: Report):
    """The threshold bounds who proposes, not how often: tokens that were passed on serve the next account."""
    chain = [world.stranger, world.relayer, world.bidder, world.observer]
    first = attacker(world, THRESHOLD, chain[0])
    proposals = [first.proposes([drain(world, first.address)], "0")]
    gas = first.gas
    for giver, taker in zip(chain, chain[1:], strict=False):
        next_one = attacker(world, THRESHOLD, taker, source=giver)
        last_s = world.now_s()
        call = world.dao.functions.propose([world.d.treasury], [0], [b""], taker.address)
        world.evm.next_block_at(last_s + 1)
        proposals.append(int(one(next_one.does(call), "ProposalCreated")["proposalId"]))
        gas += next_one.gas
    world.to_deadline(proposals[-1])
    assert {world.state(each) for each in proposals} == {"Defeated"}
    attack.outcome(
        gained=f"{len(proposals)} proposals of {len(chain)} accounts with the tokens of one",
        cost=f"{amount(THRESHOLD)} held, {gas:,} gas",
        stopped_by="the quorum; the threshold is no limit to how many",
    )
