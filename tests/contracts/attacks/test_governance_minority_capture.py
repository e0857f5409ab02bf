"""Build Finance, February 2022: a minority passed a vote while nobody looked, took the minting key, minted and sold."""

from __future__ import annotations

from typing import Any

import pytest
from web3 import Web3

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import (
    AGAINST,
    OUTFLOW_CAP,
    QUORUM,
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
from tests.contracts.world import DAY_S, GOVERNANCE, World, tokens

PERIOD_S = 30 * DAY_S
ROLES = [bytes(Web3.keccak(text=f"{name}_ROLE")) for name in ("PROPOSER", "EXECUTOR")]


@pytest.fixture
def minority(world: World) -> Attacker:
    """Just the quorum, 1.2 % of the supply, and nobody else votes."""
    return attacker(world, QUORUM)


def unnoticed(world: World, minority: Attacker, *calls: Any, text: str = "housekeeping") -> int:
    """A proposal for which only the minority votes, executed as soon as it can be."""
    proposal_id = minority.proposes(calls, text)
    world.to_voting(proposal_id)
    minority.votes(proposal_id)
    world.to_deadline(proposal_id)
    minority.does(world.dao.functions.deployApproved(proposal_id))
    world.travel_to(world.view(world.dao.functions.proposalEta(proposal_id)))
    return proposal_id


def test_a_minority_that_nobody_answers_still_mints_nothing(world: World, minority: Attacker, attack: Report):
    supply = world.view(world.token.functions.totalSupply())
    mint = bytes(Web3.keccak(text="mint(address,uint256)")[:4]) + bytes.fromhex(
        minority.address[2:].lower().zfill(64) + f"{tokens(1_000_000):064x}"
    )
    proposal_id = int(
        minority.does(world.dao.functions.propose([world.d.token], [0], [mint], "a key"))[0].args["proposalId"]
    )
    began_s = world.now_s()
    world.to_voting(proposal_id)
    minority.votes(proposal_id)
    world.to_deadline(proposal_id)
    minority.does(world.dao.functions.deployApproved(proposal_id))
    world.travel_to(world.view(world.dao.functions.proposalEta(proposal_id)))
    minority.fails(world.dao.functions.deployApproved(proposal_id), "FailedCall")
    assert world.view(world.token.functions.totalSupply()) == supply
    attack.outcome(
        gained="no token",
        cost=f"{days(world.now_s() - began_s)} with {amount(QUORUM)}, {minority.gas:,} gas",
        stopped_by="a token without a mint function (FailedCall)",
    )


def test_a_minority_that_votes_in_the_last_second_is_answered(world: World, minority: Attacker, attack: Report):
    """Unnoticed until it is too late to vote is what worked; here that opens a day in which only Against counts."""
    proposal_id = minority.proposes([drain(world, minority.address)])
    world.to_voting(proposal_id)
    last_s = deadline_s(world, proposal_id)
    minority.votes(proposal_id, at_s=last_s)
    answer_s = deadline_s(world, proposal_id) - last_s
    assert answer_s == GOVERNANCE.objection_period_s
    world.travel_to(last_s + answer_s - 60)
    world.vote(proposal_id, AGAINST, [world.proposer])
    world.to_deadline(proposal_id)
    minority.fails(
        world.dao.functions.deployApproved(proposal_id), "DaoNotDeployable", **not_deployable(proposal_id, "Defeated")
    )
    assert (minority.quote, treasury_quote(world)) == (0, TREASURY_QUOTE)
    attack.outcome(
        gained=f"$0 of {dollars(TREASURY_QUOTE)}",
        cost=f"{amount(QUORUM)} until the snapshot, {minority.gas:,} gas",
        stopped_by=f"the objection period: {days(answer_s)} for anybody with more votes",
    )


def test_a_minority_that_nobody_answers_takes_the_cap_and_no_more(world: World, minority: Attacker, attack: Report):
    """Who sleeps through the vote and the timelock loses that much; the rest waits for thirty days."""
    began_s = world.now_s()
    too_much = unnoticed(world, minority, drain(world, minority.address, TREASURY_QUOTE), text="everything")
    exceeded = {"token": world.book.quote, "amount": TREASURY_QUOTE, "available": OUTFLOW_CAP}
    minority.fails(world.dao.functions.deployApproved(too_much), "TreasuryOutflowExceeded", **exceeded)
    # With what may leave, and a higher cap for the next time, it works.
    raised = world.treasury.functions.setOutflowCap(world.book.quote, TREASURY_QUOTE)
    capped = unnoticed(world, minority, drain(world, minority.address), raised, text="as much as may leave")
    minority.does(world.dao.functions.deployApproved(capped))
    assert minority.quote == OUTFLOW_CAP
    rest = unnoticed(world, minority, drain(world, minority.address, 1), text="one more")
    exceeded = {"token": world.book.quote, "amount": 1, "available": 0}
    minority.fails(world.dao.functions.deployApproved(rest), "TreasuryOutflowExceeded", **exceeded)
    took_s = world.now_s() - began_s
    assert took_s < PERIOD_S
    attack.outcome(
        gained=f"{dollars(minority.quote)} of {dollars(TREASURY_QUOTE)} when nobody answers",
        cost=f"{amount(QUORUM)} at two snapshots, {days(took_s)} of waiting, {minority.gas:,} gas",
        stopped_by="TreasuryOutflowExceeded: the cap of 30 days, and 30 days for a higher cap",
    )


def test_a_timelock_taken_over_for_good_is_still_held_to_the_cap(world: World, minority: Attacker, attack: Report):
    """One vote gives the attacker the timelock's roles and no delay: from then on there are no votes, only the cap."""
    timelock = world.timelock.functions
    takeover = unnoticed(
        world,
        minority,
        *(timelock.grantRole(role, minority.address) for role in ROLES),
        timelock.updateDelay(0),
        world.treasury.functions.setOutflowCap(world.book.quote, 2**200),
    )
    minority.does(world.dao.functions.deployApproved(takeover))
    began_s = world.now_s()

    def order(call: Any, error: str | None = None, **arguments: Any) -> None:
        """Scheduled and executed in the same breath."""
        salt = world.w3.keccak(text=f"{minority.gas}")
        what = (call.address, 0, call._encode_transaction_data(), bytes(32), salt)
        minority.does(timelock.schedule(*what, 0))
        if error:
            minority.fails(timelock.execute(*what), error, **arguments)
        else:
            minority.does(timelock.execute(*what))

    order(drain(world, minority.address))
    exceeded = {"token": world.book.quote, "amount": 1, "available": 0}
    for day in (1, 15, 29):
        world.travel_to(began_s + day * DAY_S)
        order(drain(world, minority.address, 1), "TreasuryOutflowExceeded", **exceeded)
    assert minority.quote == OUTFLOW_CAP
    attack.outcome(
        gained=f"{dollars(minority.quote)} of {dollars(TREASURY_QUOTE)} in 29 days",
        cost=f"{amount(QUORUM)} at one snapshot, {minority.gas:,} gas",
        stopped_by="TreasuryOutflowExceeded, which no role lifts",
    )
