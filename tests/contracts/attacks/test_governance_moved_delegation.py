"""One stake that votes twice: passed on or delegated elsewhere while the vote runs. And a delegate who turns."""

from __future__ import annotations

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import AGAINST, FOR, Attacker, amount, attacker, snapshot_s
from tests.contracts.world import World, tokens


def test_one_stake_handed_from_voter_to_voter_counts_once(world: World, attack: Report):
    """400,000 tokens go through four accounts, each of which votes as soon as it has them."""
    stake = tokens(400_000)
    chain = [world.stranger, world.relayer, world.bidder, world.observer]
    accounts = [attacker(world, stake if i == 0 else 0, each) for i, each in enumerate(chain)]
    proposal_id = world.propose([world.treasury.functions.setOutflowCap(world.book.quote, 0)])
    world.to_voting(proposal_id)
    weights = []
    for i, each in enumerate(accounts):
        weights.append(each.votes(proposal_id))
        if i + 1 < len(accounts):
            each.does(world.token.functions.transfer(accounts[i + 1].address, stake))
    assert weights == [stake, 0, 0, 0]
    assert world.view(world.dao.functions.proposalVotes(proposal_id)).forVotes == stake
    attack.outcome(
        gained=f"{amount(stake)} of votes, once",
        cost=f"{sum(each.gas for each in accounts):,} gas for three ballots of no weight",
        stopped_by="the snapshot",
    )


def test_a_delegation_moved_in_mid_vote_gives_nobody_a_second_vote(world: World, attack: Report):
    """The same without moving a token: delegate, let the delegate vote, delegate to the next, back to oneself."""
    holder = attacker(world, tokens(400_000))
    delegates = [Attacker(world, who) for who in (world.relayer, world.bidder)]
    holder.does(world.token.functions.delegate(delegates[0].address))
    proposal_id = world.propose([world.treasury.functions.setOutflowCap(world.book.quote, 0)])
    world.to_voting(proposal_id)
    assert delegates[0].votes(proposal_id) == tokens(400_000)
    for who in (delegates[1], holder):
        holder.does(world.token.functions.delegate(who.address))
        world.evm.travel(1)
        assert who.votes(proposal_id) == 0
    attack.outcome(
        gained=f"{amount(tokens(400_000))} of votes, once",
        cost=f"{holder.gas + sum(each.gas for each in delegates):,} gas",
        stopped_by="the snapshot",
    )


def test_moving_everything_in_the_second_of_the_snapshot_leaves_one_of_two_the_votes(world: World, attack: Report):
    """In that very second both are tried: whoever has them at its end votes."""
    first = attacker(world, tokens(400_000))
    second = attacker(world, 0, world.relayer)
    proposal_id = world.propose([world.treasury.functions.setOutflowCap(world.book.quote, 0)])
    world.evm.next_block_at(snapshot_s(world, proposal_id))
    first.does(world.token.functions.transfer(second.address, tokens(400_000)))
    assert world.now_s() == snapshot_s(world, proposal_id)
    world.evm.travel(1)
    assert (first.votes(proposal_id), second.votes(proposal_id)) == (0, tokens(400_000))
    attack.outcome(
        gained=f"{amount(tokens(400_000))} of votes, once", cost=f"{first.gas + second.gas:,} gas",
        stopped_by="one checkpoint for each second",
    )  # fmt: skip


def test_a_delegate_who_turns_has_this_vote_and_no_other(world: World, attack: Report):
    """800,000 votes in trust: their owner can't take them out of a vote that has begun, only out of the next."""
    traitor = Attacker(world, world.relayer)
    world.send(world.token.functions.delegate(traitor.address), world.voter_b)
    proposals = [
        world.propose([world.treasury.functions.setOutflowCap(world.book.quote, 0)], text) for text in ("this", "next")
    ]
    world.to_voting(proposals[0])
    world.send(world.token.functions.delegate(world.voter_b.address), world.voter_b)
    assert traitor.votes(proposals[0], AGAINST) == tokens(800_000)
    third = world.propose([world.treasury.functions.setOutflowCap(world.book.quote, 0)], "the one after")
    world.to_voting(third)
    assert traitor.votes(third, AGAINST) == 0
    world.vote(third, FOR, [world.voter_b])
    assert world.view(world.dao.functions.proposalVotes(third)).forVotes == tokens(800_000)
    attack.outcome(
        gained=f"{amount(tokens(800_000))} against, in votes that had begun",
        cost=f"the delegation, for good; {traitor.gas:,} gas",
        stopped_by="delegating elsewhere before the next snapshot",
    )
