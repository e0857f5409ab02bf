"""What was voted waits, can be done for a while, and then expires. Nobody but the governor moves the timelock."""

from __future__ import annotations

from typing import Any

import pytest
from web3 import Web3

from agents.deployment import ZERO_ADDRESS
from tests.contracts.world import DAY_S, GOVERNANCE, PROPOSAL_STATES, World, one, proposal_states

ADMIN = bytes(32)
PROPOSER, EXECUTOR, CANCELLER = (
    bytes(Web3.keccak(text=f"{name}_ROLE")) for name in ("PROPOSER", "EXECUTOR", "CANCELLER")
)
# TimelockController.OperationState.Ready, as the bitmap in its errors.
READY = (1 << 2).to_bytes(32, "big")


def propose(world: World, text: str = "a proposal") -> int:
    return world.propose([world.treasury.functions.setOutflowCap(world.book.quote, 0)], text)


def succeeded(world: World) -> int:
    proposal_id = propose(world)
    world.to_voting(proposal_id)
    world.vote(proposal_id)
    world.to_deadline(proposal_id)
    return proposal_id


def queued(world: World) -> int:
    proposal_id = succeeded(world)
    world.queue(proposal_id)
    return proposal_id


def deadline_s(world: World, proposal_id: int) -> int:
    return int(world.view(world.dao.functions.proposalDeadline(proposal_id)))


def eta_s(world: World, proposal_id: int) -> int:
    return int(world.view(world.dao.functions.proposalEta(proposal_id)))


def governor_calls(world: World, name: str, proposal_id: int) -> list[Any]:
    """`queue` or `execute`, by id and by content."""
    details = world.view(world.dao.functions.proposalDetails(proposal_id))
    functions = world.dao.functions
    return [
        functions[f"{name}(uint256)"](proposal_id),
        functions[f"{name}(address[],uint256[],bytes[],bytes32)"](*details),
    ]


def batch(world: World, proposal_id: int) -> tuple[Any, ...]:
    """The arguments by which the timelock knows a queued proposal."""
    targets, values, calldatas, description_hash = world.view(world.dao.functions.proposalDetails(proposal_id))
    governor = bytes.fromhex(world.d.dao.removeprefix("0x")) + bytes(12)
    salt = bytes(a ^ b for a, b in zip(governor, description_hash, strict=True))
    return targets, values, calldatas, bytes(32), salt


def in_state(proposal_id: int, state: str, *expected: str) -> dict[str, Any]:
    return {
        "proposalId": proposal_id,
        "current": PROPOSAL_STATES.index(state),
        "expectedStates": proposal_states(*expected),
    }


def not_deployable(proposal_id: int, state: str) -> dict[str, Any]:
    return {"proposalId": proposal_id, "state": PROPOSAL_STATES.index(state)}


# Roles


def everybody(world: World) -> list[str]:
    people = (world.deployer, world.guardian, world.proposer, world.voter_a, world.controller, world.stranger)
    contracts = (world.d.deployer_contract, world.d.treasury, world.d.strategies, world.d.factory, world.d.pool)
    return [*(person.address for person in people), *contracts, world.d.timelock, ZERO_ADDRESS]


def test_the_governor_alone_proposes_executes_and_cancels_and_nobody_is_admin(world: World):
    has_role = world.timelock.functions.hasRole
    for role in (PROPOSER, EXECUTOR, CANCELLER):
        assert world.view(has_role(role, world.d.dao))
        assert not any(world.view(has_role(role, who)) for who in everybody(world))
    # The timelock administers itself: only a vote changes roles.
    assert [who for who in [*everybody(world), world.d.dao] if world.view(has_role(ADMIN, who))] == [world.d.timelock]


def test_no_role_was_ever_given_to_anybody_else(world: World):
    granted = {(e.args["role"], e.args["account"]) for e in world.history(world.timelock) if e.name == "RoleGranted"}
    assert granted == {
        (ADMIN, world.d.timelock),
        (PROPOSER, world.d.dao),
        (CANCELLER, world.d.dao),
        (EXECUTOR, world.d.dao),
    }


def test_nobody_moves_the_timelock_past_the_governor(world: World):
    proposal_id = queued(world)
    world.travel_to(eta_s(world, proposal_id))
    call, timelock = batch(world, proposal_id), world.timelock.functions
    operation_id = world.view(timelock.hashOperationBatch(*call))
    assert world.view(timelock.isOperationReady(operation_id))
    one_call = (world.d.treasury, 0, b"", bytes(32), bytes(32))
    forbidden = [
        (timelock.schedule(*one_call, DAY_S), PROPOSER),
        (timelock.scheduleBatch(*call, DAY_S), PROPOSER),
        (timelock.execute(*one_call), EXECUTOR),
        (timelock.executeBatch(*call), EXECUTOR),
        (timelock.cancel(operation_id), CANCELLER),
    ]
    for who in everybody(world):
        for attempt, role in forbidden:
            with world.reverts("AccessControlUnauthorizedAccount", account=who, neededRole=role):
                world.evm.call(attempt, who)


def test_only_the_timelock_itself_changes_roles_and_delay(world: World):
    timelock = world.timelock.functions
    for who in {*everybody(world), world.d.dao} - {world.d.timelock}:
        for attempt in (timelock.grantRole(PROPOSER, who), timelock.revokeRole(PROPOSER, world.d.dao)):
            with world.reverts("AccessControlUnauthorizedAccount", account=who, neededRole=ADMIN):
                world.evm.call(attempt, who)
        with world.reverts("TimelockUnauthorizedCaller", caller=who):
            world.evm.call(timelock.updateDelay(0), who)


def test_a_vote_changes_the_delay(world: World):
    assert world.view(world.timelock.functions.getMinDelay()) == GOVERNANCE.timelock_delay_s
    events = world.pass_proposal(world.propose([world.timelock.functions.updateDelay(2 * DAY_S)]))
    assert one(events, "MinDelayChange") == {"oldDuration": GOVERNANCE.timelock_delay_s, "newDuration": 2 * DAY_S}
    world.queue(later := succeeded(world))
    assert eta_s(world, later) == world.now_s() + 2 * DAY_S


def test_no_delay_is_longer_than_a_month_whatever_was_voted(world: World):
    """Or one vote, or one slip in a unit, could lock everything for ever."""
    update = world.timelock.functions.updateDelay(2**255)
    world.pass_proposal(world.propose([update]))
    assert world.view(world.timelock.functions.getMinDelay()) == 30 * DAY_S
    proposal_id = queued(world)
    assert world.view(world.dao.functions.proposalEta(proposal_id)) == world.now_s() + 30 * DAY_S


def test_the_timelock_holds_nothing(world: World):
    world.pass_proposal(world.propose_strategy(world.manifest(world.register_agent())))
    for token in (world.token, world.quote):
        assert world.view(token.functions.balanceOf(world.d.timelock)) == 0
        assert world.view(token.functions.balanceOf(world.d.dao)) == 0


# The wait


@pytest.mark.parametrize("path", ["deployApproved", "by id", "by content"])
def test_a_queued_proposal_waits_for_its_time_to_the_second(world: World, path: str):
    proposal_id = queued(world)
    call = {
        "deployApproved": world.dao.functions.deployApproved(proposal_id),
        "by id": governor_calls(world, "execute", proposal_id)[0],
        "by content": governor_calls(world, "execute", proposal_id)[1],
    }[path]
    assert eta_s(world, proposal_id) == world.now_s() + GOVERNANCE.timelock_delay_s
    operation_id = world.view(world.timelock.functions.hashOperationBatch(*batch(world, proposal_id)))
    world.evm.next_block_at(eta_s(world, proposal_id) - 1)
    with world.reverts("TimelockUnexpectedOperationState", operationId=operation_id, expectedStates=READY):
        world.send(call, world.stranger)
    events = world.send(call, world.stranger)
    assert world.now_s() == eta_s(world, proposal_id)
    assert one(events, "ProposalExecuted") == {"proposalId": proposal_id}


def test_the_governor_does_not_execute_what_was_not_queued(world: World):
    proposal_id = succeeded(world)
    for call in governor_calls(world, "execute", proposal_id):
        with world.reverts("GovernorUnexpectedProposalState", **in_state(proposal_id, "Succeeded", "Queued")):
            world.send(call, world.stranger)


def test_what_was_executed_is_not_executed_again(world: World):
    proposal_id = queued(world)
    world.execute(proposal_id)
    for call in governor_calls(world, "execute", proposal_id):
        with world.reverts("GovernorUnexpectedProposalState", **in_state(proposal_id, "Executed", "Queued")):
            world.send(call, world.stranger)


# Expiry


def test_a_succeeded_proposal_can_be_queued_until_grace_is_over_and_not_a_second_longer(world: World):
    proposal_id = succeeded(world)
    last_s = deadline_s(world, proposal_id) + GOVERNANCE.grace_s
    world.evm.travel_to(last_s)
    assert world.state(proposal_id) == "Succeeded"
    with world.reverts("DaoNotDeployable", **not_deployable(proposal_id, "Expired")):
        world.queue(proposal_id)
    for call in governor_calls(world, "queue", proposal_id):
        with world.reverts("GovernorUnexpectedProposalState", **in_state(proposal_id, "Expired", "Succeeded")):
            world.send(call, world.stranger)


def test_a_succeeded_proposal_is_queued_in_the_last_second_of_grace(world: World):
    proposal_id = succeeded(world)
    world.evm.next_block_at(deadline_s(world, proposal_id) + GOVERNANCE.grace_s)
    world.queue(proposal_id)
    assert world.state(proposal_id) == "Queued"


def test_a_queued_proposal_is_executed_in_the_last_second_of_grace(world: World):
    proposal_id = queued(world)
    world.evm.next_block_at(eta_s(world, proposal_id) + GOVERNANCE.grace_s)
    world.queue(proposal_id)
    assert world.state(proposal_id) == "Executed"


def test_a_queued_proposal_expires_and_no_path_executes_it_any_more(world: World):
    proposal_id = queued(world)
    world.evm.travel_to(eta_s(world, proposal_id) + GOVERNANCE.grace_s)
    assert world.state(proposal_id) == "Queued"
    world.evm.travel(1)
    assert world.state(proposal_id) == "Expired"

    with world.reverts("DaoNotDeployable", **not_deployable(proposal_id, "Expired")):
        world.queue(proposal_id)
    for call in governor_calls(world, "execute", proposal_id):
        with world.reverts("GovernorUnexpectedProposalState", **in_state(proposal_id, "Expired", "Queued")):
            world.send(call, world.stranger)
    for call in governor_calls(world, "queue", proposal_id):
        with world.reverts("GovernorUnexpectedProposalState", **in_state(proposal_id, "Expired", "Succeeded")):
            world.send(call, world.stranger)
    # The timelock has no expiry of its own, but lets only the governor in.
    directly = world.timelock.functions.executeBatch(*batch(world, proposal_id))
    assert world.view(world.timelock.functions.isOperationReady(
        world.view(world.timelock.functions.hashOperationBatch(*batch(world, proposal_id)))
    ))  # fmt: skip
    for who in everybody(world):
        with world.reverts("AccessControlUnauthorizedAccount", account=who, neededRole=EXECUTOR):
            world.evm.call(directly, who)


def test_an_expired_proposal_does_not_come_back_by_being_proposed_again(world: World):
    proposal_id = succeeded(world)
    world.evm.travel(GOVERNANCE.grace_s)
    with world.reverts("GovernorUnexpectedProposalState", **in_state(proposal_id, "Expired")):
        propose(world)
    assert one(world.pass_proposal(propose(world, "once more")), "OutflowCapSet")["cap"] == 0


def test_a_vote_can_clear_an_expired_operation_from_the_timelock(world: World):
    """Otherwise it stays ready there, and a vote that gave anybody else the executor's role would revive it."""
    expired = queued(world)
    world.evm.travel_to(eta_s(world, expired) + GOVERNANCE.grace_s + 1)
    operation_id = world.view(world.timelock.functions.hashOperationBatch(*batch(world, expired)))
    cancel = bytes.fromhex(world.timelock.functions.cancel(operation_id)._encode_transaction_data().removeprefix("0x"))
    events = world.pass_proposal(world.propose([world.dao.functions.relay(world.d.timelock, 0, cancel)], "clear"))
    assert one(events, "Cancelled") == {"id": operation_id}
    assert not world.view(world.timelock.functions.isOperation(operation_id))
    assert world.state(expired) == "Canceled"


def test_nobody_cancels_what_was_voted(world: World):
    proposal_id = queued(world)
    with world.reverts("GovernorUnableToCancel", proposalId=proposal_id, account=world.proposer.address):
        world.send(world.dao.functions.cancel(proposal_id), world.proposer)


def test_a_longer_delay_voted_meanwhile_does_not_postpone_what_is_queued(world: World):
    proposal_id = queued(world)
    before_s = eta_s(world, proposal_id)
    world.as_timelock(world.timelock.functions.updateDelay(5 * DAY_S))
    assert eta_s(world, proposal_id) == before_s
    assert one(world.execute(proposal_id), "ProposalExecuted") == {"proposalId": proposal_id}


@pytest.mark.parametrize("role", [PROPOSER, EXECUTOR, CANCELLER], ids=["proposer", "executor", "canceller"])
@pytest.mark.parametrize("verb", ["revokeRole", "renounceRole"])
def test_no_vote_takes_the_governor_s_roles(world: World, role: bytes, verb: str):
    """Or nothing could be carried out any more, not even giving them back."""
    account = world.d.dao
    if verb == "revokeRole":
        proposal_id = world.propose([world.timelock.functions.revokeRole(role, account)])
    else:
        relay = world.dao.functions.relay(
            world.d.timelock, 0, world.timelock.functions.renounceRole(role, account)._encode_transaction_data()
        )
        proposal_id = world.propose([relay])
    with world.reverts("TimelockRoleFixed", role=role):
        world.pass_proposal(proposal_id)
