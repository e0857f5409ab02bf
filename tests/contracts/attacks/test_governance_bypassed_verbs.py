"""Past the verbs: by a generic proposal, by the timelock's own doors, by an approval used twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from web3 import Web3

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import (
    THRESHOLD,
    Attacker,
    amount,
    attacker,
    data_of,
    days,
    dollars,
    drain,
    in_state,
    not_deployable,
    proposal,
)
from tests.contracts.world import DAY_S, Strategy, World, struct, usd

PROPOSER, EXECUTOR, CANCELLER = (
    bytes(Web3.keccak(text=f"{name}_ROLE")) for name in ("PROPOSER", "EXECUTOR", "CANCELLER")
)
BATCH_SALT = bytes(32)
# A call, the error that refuses it, and the error's arguments.
Shortcut = tuple[Any, str, dict[str, Any]]


@pytest.fixture
def insider(world: World) -> Attacker:
    """Controls an agent, may propose, and is believed: everybody votes for what they propose."""
    return attacker(world, THRESHOLD, world.controller)


def voted_in(world: World, insider: Attacker, *calls: Any, text: str = "trust me") -> int:
    """Passed by everybody, and due."""
    proposal_id = insider.proposes(calls, text)
    world.to_voting(proposal_id)
    world.vote(proposal_id)
    world.to_deadline(proposal_id)
    insider.does(world.dao.functions.deployApproved(proposal_id))
    world.travel_to(world.view(world.dao.functions.proposalEta(proposal_id)) + 1)
    return proposal_id


def by_the_timelock(call: Callable[[World, Strategy, bytes], Any], error: str) -> Callable[..., Shortcut]:
    """A call that not even the timelock may make."""
    return lambda w, s, h: (call(w, s, h), error, {"caller": w.d.timelock})


# Ways to a vault, or out of one, that leave a check out: the call, and what refuses it at the execution.
SHORTCUTS: dict[str, Callable[[World, Strategy, bytes], Shortcut]] = {
    "deploy without approval": lambda w, s, h: (
        w.factory.functions.deployVault(h), "VaultFactoryNotApproved", {"manifestHash": h},
    ),
    "approve what was never submitted": lambda w, s, h: (
        w.strategies.functions.approve(b"\x07" * 32), "StrategyRegistryWrongStage", {"id": b"\x07" * 32, "stage": 0},
    ),
    "mark a vault of one's own as deployed": by_the_timelock(
        lambda w, s, h: w.strategies.functions.markDeployed(h, w.stranger.address), "StrategyRegistryUnauthorized"
    ),
    "initialise a running vault anew": by_the_timelock(
        lambda w, s, h: s.vault.functions.initialize(
            (h, b"\x01" * 32, w.d.venue, s.agent_id, s.manifest["limits"], [])
        ),
        "VaultUnauthorized",
    ),
    "change a vault's limits without a manifest": by_the_timelock(
        lambda w, s, h: s.vault.functions.update(b"\x01" * 32, s.manifest["limits"], []), "VaultUnauthorized"
    ),
    "recall to the timelock": by_the_timelock(
        lambda w, s, h: s.vault.functions.recall(w.book.quote, usd(1), 0), "VaultUnauthorized"
    ),
    "allocate past the treasury": by_the_timelock(
        lambda w, s, h: s.vault.functions.allocate(usd(1)), "VaultUnauthorized"
    ),
    "register a vault for rewards": by_the_timelock(
        lambda w, s, h: w.pool.functions.registerVault(w.stranger.address, 1, 1, 1), "RewardPoolUnauthorized"
    ),
    "open a book in the ledger": by_the_timelock(
        lambda w, s, h: w.ledger.functions.openBook(w.stranger.address), "TradeLedgerUnauthorized"
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", SHORTCUTS)
def test_a_generic_proposal_that_everybody_voted_for_leaves_no_check_out(
    world: World, strategy: Strategy, insider: Attacker, attack: Report, way: str
):
    """The voters are fooled completely; the contracts refuse all the same."""
    other = world.manifest(world.register_agent(world.other_controller, world.other_signer))
    call, error, arguments = SHORTCUTS[way](world, strategy, world.submit(other))
    began_s = world.now_s()
    proposal_id = voted_in(world, insider, call)
    insider.fails(world.dao.functions.deployApproved(proposal_id), error, **arguments)
    attack.outcome(
        gained="nothing",
        cost=f"{days(world.now_s() - began_s)}, {amount(THRESHOLD)} to propose, {insider.gas:,} gas",
        stopped_by=error,
    )


def test_the_timelock_s_own_doors_are_closed_before_and_after_a_vote(world: World, insider: Attacker, attack: Report):
    """Scheduling without a vote, executing early, executing once expired, taking out what others voted."""
    timelock = world.timelock.functions
    theft = drain(world, insider.address)
    one_call = (theft.address, 0, data_of(theft), bytes(32), BATCH_SALT)
    missing = lambda role: {"account": insider.address, "neededRole": role}  # noqa: E731
    denied = "AccessControlUnauthorizedAccount"
    batch = ([theft.address], [0], [data_of(theft)], bytes(32), BATCH_SALT)
    insider.fails(timelock.schedule(*one_call, DAY_S), denied, **missing(PROPOSER))
    insider.fails(timelock.scheduleBatch(*batch, DAY_S), denied, **missing(PROPOSER))
    relay = world.dao.functions.relay(world.d.timelock, 0, data_of(timelock.scheduleBatch(*batch, DAY_S)))
    insider.fails(relay, "GovernorOnlyExecutor", account=insider.address)

    wanted = world.propose([world.treasury.functions.setOutflowCap(world.book.quote, 0)], "wanted")
    world.to_voting(wanted)
    world.vote(wanted)
    world.to_deadline(wanted)
    world.queue(wanted)
    targets, values, calldatas, description_hash = world.view(world.dao.functions.proposalDetails(wanted))
    governor = bytes.fromhex(world.d.dao[2:]) + bytes(12)
    salt = bytes(a ^ b for a, b in zip(governor, description_hash, strict=True))
    queued = (targets, values, calldatas, bytes(32), salt)
    operation = world.view(timelock.hashOperationBatch(*queued))
    assert world.view(timelock.isOperationPending(operation))
    insider.fails(timelock.cancel(operation), denied, **missing(CANCELLER))
    insider.fails(timelock.executeBatch(*queued), denied, **missing(EXECUTOR))
    world.travel_to(world.view(world.dao.functions.proposalEta(wanted)) + world.view(world.dao.functions.graceS()) + 1)
    assert world.view(timelock.isOperationReady(operation))  # the timelock itself knows no expiry
    insider.fails(timelock.executeBatch(*queued), denied, **missing(EXECUTOR))
    insider.fails(world.dao.functions.execute(wanted), "GovernorUnexpectedProposalState",
                  **in_state(wanted, "Expired", "Queued"))  # fmt: skip
    attack.outcome(gained="nothing", cost=f"{insider.gas:,} gas", stopped_by=denied)


def test_an_approval_is_used_once_whatever_the_salt(world: World, insider: Attacker, attack: Report):
    """A payment was voted and made. The same payment again: same text, other text, old salt, new salt."""
    amount_ = usd(1_000_000)
    payment, text = drain(world, insider.address, amount_), "for services"
    paid = voted_in(world, insider, payment, text=text)
    insider.does(world.dao.functions.deployApproved(paid))
    assert insider.quote == amount_

    targets, values, calldatas, _ = arguments = proposal([payment], text)
    insider.fails(
        world.dao.functions.propose(*arguments), "GovernorUnexpectedProposalState", **in_state(paid, "Executed")
    )
    insider.fails(
        world.dao.functions.execute(targets, values, calldatas, Web3.keccak(text=text)),
        "GovernorUnexpectedProposalState",
        **in_state(paid, "Executed", "Queued"),
    )
    other_hash = Web3.keccak(text="for services ")
    other = int(world.view(world.dao.functions.getProposalId(targets, values, calldatas, other_hash)))
    for function in ("queue", "execute"):
        call = world.dao.functions[f"{function}(address[],uint256[],bytes[],bytes32)"]
        insider.fails(call(targets, values, calldatas, other_hash), "GovernorNonexistentProposal", proposalId=other)
    # As a new proposal it is one: without votes it is defeated.
    again = insider.proposes([payment], "for services ")
    assert again == other
    world.to_deadline(again)
    insider.fails(world.dao.functions.deployApproved(again), "DaoNotDeployable", **not_deployable(again, "Defeated"))
    assert insider.quote == amount_
    attack.outcome(
        gained=f"$0 beyond the {dollars(amount_)} that were voted",
        cost=f"{insider.gas:,} gas",
        stopped_by="GovernorUnexpectedProposalState, GovernorNonexistentProposal, and a vote of its own",
    )


def test_an_approved_manifest_carries_no_other_terms(world: World, insider: Attacker, attack: Report):
    """Voted: a manifest with a limit. Executed with: the same calls for a manifest that is laxer by one field."""
    agent_id = world.register_agent()
    manifest = world.manifest(agent_id)
    lax = manifest | {"rewardCap": manifest["rewardCap"] * 2}
    voted, swapped = world.submit(manifest), world.submit(lax)
    assert voted != swapped
    insider.does(world.dao.functions.proposeStrategy(struct(manifest), "a strategy"))
    proposal_id = int(world.history(world.dao)[-1].args["proposalId"])
    world.to_voting(proposal_id)
    world.vote(proposal_id)
    world.to_deadline(proposal_id)
    insider.does(world.dao.functions.deployApproved(proposal_id))
    world.travel_to(world.view(world.dao.functions.proposalEta(proposal_id)) + 1)
    details = world.view(world.dao.functions.proposalDetails(proposal_id))
    laxer = world.view(world.strategies.functions.callsOf(swapped))
    unknown = int(world.view(world.dao.functions.getProposalId(*laxer, details.descriptionHash)))
    execute = world.dao.functions["execute(address[],uint256[],bytes[],bytes32)"]
    insider.fails(execute(*laxer, details.descriptionHash), "GovernorNonexistentProposal", proposalId=unknown)
    insider.does(world.dao.functions.deployApproved(proposal_id))
    assert world.view(world.strategies.functions.liveStrategyOf(agent_id)) == voted
    assert world.view(world.strategies.functions.stageOf(swapped)) == 1  # SUBMITTED, and that it stays
    attack.outcome(gained="nothing", cost=f"{insider.gas:,} gas", stopped_by="GovernorNonexistentProposal")
