"""Whoever executes chooses the gas: can a voted proposal be used up by an execution that runs out of it?"""

from __future__ import annotations

from agents.localnet.evm import TransactionReverted
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import Attacker
from tests.contracts.world import World, one

# From hardly more than a transaction costs to a little less than what is needed.
SHARES = [5, 10, 20, 35, 50, 65, 80, 90, 95, 98]


def test_an_execution_without_enough_gas_uses_nothing_up(world: World, attack: Report):
    """Each attempt ends somewhere else inside: in the governor, the timelock, the registry, the factory, the vault."""
    saboteur = Attacker(world, world.stranger)
    proposal_id = world.propose_strategy(world.manifest(world.register_agent()))
    world.to_voting(proposal_id)
    world.vote(proposal_id)
    world.to_deadline(proposal_id)
    world.queue(proposal_id)
    world.travel_to(world.view(world.dao.functions.proposalEta(proposal_id)) + 1)
    execute = world.dao.functions.deployApproved(proposal_id)
    snapshot = world.evm.snapshot()
    needed = world.evm.send(execute, world.relayer)["gasUsed"]
    world.evm.revert(snapshot)
    refused = 0
    for share in SHARES:
        try:
            world.evm.send(execute, saboteur.account, gas=max(60_000, needed * share // 100))
        except TransactionReverted as failure:
            saboteur.gas += failure.receipt["gasUsed"]
            refused += 1
        assert world.state(proposal_id) == "Queued"
    assert refused == len(SHARES)
    events = world.send(execute, world.relayer)
    assert one(events, "ProposalExecuted") == {"proposalId": proposal_id}
    assert one(events, "CapitalAllocated")["amount"] == 1_000_000 * 10**6
    attack.outcome(
        gained=f"nothing in {refused} attempts",
        cost=f"{saboteur.gas:,} gas",
        stopped_by="one transaction, all or nothing",
    )
