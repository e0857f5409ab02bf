"""Beanstalk, April 2022: a loan of one transaction voted, passed and executed a payment to its borrower.

Here the loan is Uniswap v3's own `flash`, from a real pool of the DAO's token: four times the quorum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from web3.contract import Contract

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import (
    POOL_FEE,
    QUORUM,
    THRESHOLD,
    TREASURY_QUOTE,
    Attacker,
    amount,
    drain,
    list_token,
    not_deployable,
    proposal,
    snapshot_s,
    step,
    treasury_quote,
)
from tests.contracts.world import World, one, tokens

LOAN = tokens(480_000)
FEE = LOAN * POOL_FEE // 10**6


@dataclass(frozen=True, slots=True)
class Borrower:
    """An attacker's contract, and the pool it borrows from."""

    world: World
    owner: Attacker
    contract: Contract
    pool: Contract

    def run(self, *calls: Any) -> Any:
        return self.contract.functions.run([step(call) for call in calls])

    def borrow(self, *calls: Any) -> Any:
        return self.contract.functions.borrow(
            self.pool.address, self.world.d.token, LOAN, [step(call) for call in calls]
        )

    def delegate(self) -> Any:
        return self.world.token.functions.delegate(self.contract.address)

    def vote(self, proposal_id: int) -> Any:
        return self.world.dao.functions.voteStrategy(proposal_id)

    def owns(self, amount_wei: int) -> None:
        """Tokens of the attacker's own, with their votes."""
        self.world.send(self.world.token.functions.transfer(self.contract.address, amount_wei), self.world.controller)
        self.owner.does(self.run(self.delegate()))

    def proposes_to_drain(self) -> int:
        call = self.world.dao.functions.propose(*proposal([drain(self.world, self.owner.address)], "BIP-18"))
        return int(one(self.owner.does(self.run(call)), "ProposalCreated")["proposalId"])

    def balance(self) -> int:
        return int(self.world.view(self.world.token.functions.balanceOf(self.contract.address)))


@pytest.fixture
def borrower(world: World) -> Borrower:
    owner = Attacker(world, world.stranger)
    return Borrower(world, owner, world.evm.deploy("AttackFlashLoan", sender=world.stranger), list_token(world))


def test_votes_borrowed_for_a_transaction_make_no_proposal(world: World, borrower: Borrower, attack: Report):
    propose = world.dao.functions.propose(*proposal([drain(world, borrower.owner.address)], "BIP-18"))
    borrower.owner.fails(
        borrower.borrow(borrower.delegate(), propose),
        "GovernorInsufficientProposerVotes",
        proposer=borrower.contract.address,
        votes=0,
        threshold=THRESHOLD,
    )
    attack.outcome(
        gained="nothing", cost=f"{borrower.owner.gas:,} gas", stopped_by="GovernorInsufficientProposerVotes(votes 0)"
    )


def test_a_proposal_made_before_is_not_voted_through_and_executed_with_a_loan(
    world: World, borrower: Borrower, attack: Report
):
    """As it happened: the proposal a day earlier with tokens of one's own, then vote and execution in one go."""
    borrower.owns(THRESHOLD)
    proposal_id = borrower.proposes_to_drain()
    world.to_voting(proposal_id)
    execute = world.dao.functions.deployApproved(proposal_id)
    borrower.owner.fails(
        borrower.borrow(borrower.delegate(), borrower.vote(proposal_id), execute),
        "DaoNotDeployable",
        **not_deployable(proposal_id, "Active"),
    )
    # Less greedy: only the vote. It counts with what was theirs at the snapshot, and the loan still costs its fee.
    events = borrower.owner.does(borrower.borrow(borrower.delegate(), borrower.vote(proposal_id)))
    assert one(events, "VoteCast")["weight"] == THRESHOLD < QUORUM < LOAN
    assert THRESHOLD - borrower.balance() == FEE
    world.to_deadline(proposal_id)
    assert world.state(proposal_id) == "Defeated"
    borrower.owner.fails(execute, "DaoNotDeployable", **not_deployable(proposal_id, "Defeated"))
    assert treasury_quote(world) == TREASURY_QUOTE
    attack.outcome(
        gained="nothing",
        cost=f"{amount(FEE)} of fee, {amount(THRESHOLD)} held until the snapshot, {borrower.owner.gas:,} gas",
        stopped_by="the snapshot: DaoNotDeployable(Active), then Defeated",
    )


def test_a_loan_in_the_very_second_of_the_snapshot_counts_for_less_than_nothing(
    world: World, borrower: Borrower, attack: Report
):
    """What counts is what is left at the end of the block: the borrower's own tokens, less the fee."""
    borrower.owns(THRESHOLD)
    proposal_id = borrower.proposes_to_drain()
    world.evm.next_block_at(snapshot_s(world, proposal_id))
    borrower.owner.does(borrower.borrow(borrower.delegate()))
    assert world.now_s() == snapshot_s(world, proposal_id)
    world.evm.travel(1)
    weight = one(borrower.owner.does(borrower.run(borrower.vote(proposal_id))), "VoteCast")["weight"]
    assert weight == THRESHOLD - FEE
    attack.outcome(
        gained=f"{amount(0)} of weight: {amount(weight)} instead of {amount(THRESHOLD)}",
        cost=f"{amount(FEE)} of fee, {borrower.owner.gas:,} gas",
        stopped_by="one checkpoint for each second",
    )


def test_a_loan_put_into_the_sink_in_the_second_of_the_snapshot_does_not_lower_the_quorum(
    world: World, borrower: Borrower, attack: Report
):
    """The sink's votes are left out of the quorum: 480,000 tokens in it would bring the quorum to its floor."""
    sinkhole = world.evm.deploy("AttackFlashLoan", sender=world.stranger)
    borrower.owner.does(sinkhole.functions.run([step(world.token.functions.delegate(world.d.token))]))
    borrower.owns(THRESHOLD)
    proposal_id = borrower.proposes_to_drain()
    give_back = world.token.functions.transfer(borrower.contract.address, LOAN)
    world.evm.next_block_at(snapshot_s(world, proposal_id))
    borrower.owner.does(
        borrower.borrow(
            world.token.functions.transfer(sinkhole.address, LOAN), sinkhole.functions.run([step(give_back)])
        )
    )
    world.evm.travel(1)
    assert world.view(world.dao.functions.quorum(snapshot_s(world, proposal_id))) == QUORUM
    attack.outcome(
        gained=f"nothing: the quorum stays {amount(QUORUM)}",
        cost=f"{amount(FEE)} of fee, {borrower.owner.gas:,} gas",
        stopped_by="one checkpoint for each second",
    )
