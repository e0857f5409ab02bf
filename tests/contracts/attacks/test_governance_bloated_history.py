"""Dust sent to a voter, second after second, makes their history of votes long: does voting become dear?"""

from __future__ import annotations

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import Attacker
from tests.contracts.world import World, tokens

DUST_TRANSFERS = 120


def gas_of_a_vote(world: World) -> int:
    proposal_id = world.propose([world.treasury.functions.setOutflowCap(world.book.quote, 0)], "honest")
    world.to_voting(proposal_id)
    return int(world.evm.send(world.dao.functions.voteStrategy(proposal_id), world.voter_a)["gasUsed"])


def test_a_history_bloated_by_dust_makes_voting_a_little_dearer_and_the_attacker_much(world: World, attack: Report):
    """A checkpoint for each second; reading one out of n takes log n steps. The dust is the victim's to keep."""
    before = world.evm.snapshot()
    short = gas_of_a_vote(world)
    world.evm.revert(before)
    bully = Attacker(world, world.other_controller)
    for _ in range(DUST_TRANSFERS):
        bully.does(world.token.functions.transfer(world.voter_a.address, 1))
    checkpoints = world.view(world.token.functions.numCheckpoints(world.voter_a.address))
    assert checkpoints == DUST_TRANSFERS + 1
    long = gas_of_a_vote(world)
    more = long - short
    assert 0 < more < 20_000
    # The next doubling costs the victim one more step, and the attacker as much again as all before.
    step_gas = more / DUST_TRANSFERS.bit_length()
    assert step_gas < 4_000
    assert world.view(world.token.functions.getVotes(world.voter_a.address)) == tokens(1_000_000) + DUST_TRANSFERS
    attack.outcome(
        gained=f"{more:,} gas more for one vote of {short:,}, after {DUST_TRANSFERS} transfers",
        cost=f"{bully.gas:,} gas, {bully.gas // more:,} for each that a vote costs more",
        stopped_by="a binary search in the checkpoints",
    )
