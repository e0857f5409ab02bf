"""A quorum bought on the market: after the vote has begun, or for the second of the snapshot only."""

from __future__ import annotations

from agents.localnet import uniswap
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import (
    AGAINST,
    QUORUM,
    THRESHOLD,
    amount,
    attacker,
    buy_token,
    dollars,
    drain,
    list_token,
    sell_token,
    snapshot_s,
)
from tests.contracts.world import World, tokens, usd

BUDGET = usd(160_000)


def test_tokens_bought_once_the_vote_has_begun_do_not_count(world: World, attack: Report):
    """Half the quorum was there; the rest is bought while the vote runs, in a real pool, and sold afterwards."""
    list_token(world)
    buyer = attacker(world, THRESHOLD, source=world.controller)
    proposal_id = buyer.proposes([drain(world, buyer.address)])
    world.to_voting(proposal_id)
    world.market.give_quote(buyer.account, BUDGET)
    bought = buy_token(world, buyer.account, BUDGET)
    assert bought + THRESHOLD > QUORUM
    world.evm.travel(1)
    assert buyer.votes(proposal_id) == THRESHOLD
    lost = BUDGET - sell_token(world, buyer.account, bought)
    assert 0 < lost < BUDGET // 100
    world.to_deadline(proposal_id)
    assert world.state(proposal_id) == "Defeated"
    attack.outcome(
        gained="no vote",
        cost=f"{dollars(lost)} of fees for {amount(bought)}, {buyer.gas:,} gas",
        stopped_by="the snapshot before the vote",
    )


def test_tokens_held_for_the_second_of_the_snapshot_vote_and_are_answered(world: World, attack: Report):
    """Bought in that second and sold in the next, a quorum costs the pool's fees: the snapshot is no protection here.
    The others' votes are, and they have the whole vote for it."""
    list_token(world)
    buyer = attacker(world, THRESHOLD, source=world.controller)
    proposal_id = buyer.proposes([drain(world, buyer.address)])
    world.market.give_quote(buyer.account, BUDGET)
    for token in (world.book.quote, world.d.token):
        uniswap.approve(world.evm, token, world.book.router, 2**255, owner=buyer.account)
    world.evm.next_block_at(snapshot_s(world, proposal_id))
    bought = buy_token(world, buyer.account, BUDGET)
    lost = BUDGET - sell_token(world, buyer.account, bought)
    exposed_s = world.now_s() - snapshot_s(world, proposal_id)
    assert exposed_s == 1
    weight = buyer.votes(proposal_id)
    assert weight == THRESHOLD + bought > QUORUM
    world.vote(proposal_id, AGAINST, [world.proposer])
    world.to_deadline(proposal_id)
    assert (world.state(proposal_id), buyer.quote - (BUDGET - lost)) == ("Defeated", 0)
    attack.outcome(
        gained=f"a quorum of {amount(weight)}, outvoted by {amount(tokens(200_000))}",
        cost=f"{dollars(lost)} of fees, {dollars(BUDGET)} at risk for {exposed_s} s, {buyer.gas:,} gas",
        stopped_by="Against, at any time in the vote, and a day more if it was late",
    )


def test_buying_out_an_open_vote_is_dearer_than_the_pool_is_deep(world: World, attack: Report):
    """Enough to outvote a million: the pool has half of that, and its price runs away."""
    list_token(world)
    buyer = attacker(world, THRESHOLD, source=world.controller)
    proposal_id = buyer.proposes([drain(world, buyer.address)])
    world.market.give_quote(buyer.account, usd(10_000_000))
    bought = buy_token(world, buyer.account, usd(10_000_000))
    world.to_voting(proposal_id)
    weight = buyer.votes(proposal_id)
    assert weight == THRESHOLD + bought < tokens(500_000)
    world.vote(proposal_id, AGAINST, [world.voter_a])
    world.to_deadline(proposal_id)
    assert world.state(proposal_id) == "Defeated"
    left = sell_token(world, buyer.account, bought)
    attack.outcome(
        gained=f"{amount(weight)} of votes",
        cost=f"{dollars(usd(10_000_000) - left)} when nobody trades in between, {buyer.gas:,} gas",
        stopped_by="what circulates in the pool: less than one large holder has",
    )
