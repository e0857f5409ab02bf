"""What the DAO decides for other chains is sent by vote only, numbered, and kept for whoever compares."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web3 import Web3
from web3.contract import Contract

from agents.contracts import EventLog, load_artifact
from tests.contracts.world import DAY_S, HOUR_S, World, one

PROGRAM, PROTOCOL, OTHER = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
PAYLOAD = bytes(range(8)) + b"\x0a" * 32 + b"arguments"
TTL_S = 7 * DAY_S
# Eight bytes that name an instruction and the account it is about; and what fits into a transaction on Solana.
MIN_BYTES, MAX_BYTES = 40, 900
MIN_TTL_S, MAX_TTL_S = HOUR_S, 30 * DAY_S


@pytest.fixture
def outbox(world: World) -> Contract:
    return world.evm.deploy("DecisionOutbox", world.d.timelock, sender=world.deployer)


def sending(
    outbox: Contract, payload: bytes = PAYLOAD, *, program: bytes = PROGRAM, protocol: bytes = PROTOCOL,
    ttl_s: int = TTL_S,
) -> Any:  # fmt: skip
    return outbox.functions.send(program, protocol, ttl_s, payload)


def decide(world: World, outbox: Contract, payload: bytes = PAYLOAD, **how: Any) -> dict[str, Any]:
    """What the event of a decision says."""
    return dict(one(world.as_timelock(sending(outbox, payload, **how)), "DecisionSent"))


def digest_of(world: World, outbox: Contract, sent: dict[str, Any], *, kind: int = 0) -> bytes:
    """The words that the program on Solana hashes, told without the contract's own code."""
    return bytes(
        Web3.solidity_keccak(
            ["string", "uint8", "bytes32", "bytes32", "uint64", "address", "uint64", "uint64", "bytes32"],
            [
                "MarketFlow decision v1", kind, sent["program"], sent["protocol"], world.w3.eth.chain_id,
                outbox.address, sent["nonce"], sent["expiresAt"], Web3.keccak(sent["payload"]),
            ],
        )
    )  # fmt: skip


def count_of(world: World, outbox: Contract, program: bytes = PROGRAM, protocol: bytes = PROTOCOL) -> int:
    return int(world.view(outbox.functions.countOf(program, protocol)))


def stored(world: World, outbox: Contract, nonce: int, program: bytes = PROGRAM, protocol: bytes = PROTOCOL) -> bytes:
    return bytes(world.view(outbox.functions.digestOf(program, protocol, nonce)))


# Refusals


@pytest.mark.parametrize("who", ["stranger", "guardian", "proposer", "deployer", "dao", "treasury"])
def test_nobody_but_the_timelock_sends_not_even_the_governor_or_who_deployed_it(
    world: World, outbox: Contract, who: str
) -> None:
    caller = getattr(world, who).address
    world.evm.impersonate(caller)
    world.evm.set_balance(caller, 10**18)
    with world.reverts("DecisionOutboxUnauthorized", caller=caller):
        world.send(sending(outbox), caller)
    assert count_of(world, outbox) == 0


@pytest.mark.parametrize("size", [0, 8, MIN_BYTES - 1, MAX_BYTES + 1, 5000])
def test_a_payload_that_can_t_be_an_instruction_or_can_t_be_carried_is_refused(
    world: World, outbox: Contract, size: int
) -> None:
    with world.reverts("DecisionOutboxBadPayload", size=size):
        world.as_timelock(sending(outbox, bytes(size)))


@pytest.mark.parametrize("ttl_s", [0, MIN_TTL_S - 1, MAX_TTL_S + 1, 2**64 - 1])
def test_a_decision_that_expires_before_it_arrives_or_blocks_the_next_for_long_is_refused(
    world: World, outbox: Contract, ttl_s: int
) -> None:
    with world.reverts("DecisionOutboxBadTtl", ttlS=ttl_s):
        world.as_timelock(sending(outbox, ttl_s=ttl_s))


def test_a_refused_decision_uses_up_no_number(world: World, outbox: Contract) -> None:
    with world.reverts("DecisionOutboxBadPayload", size=0):
        world.as_timelock(sending(outbox, b""))
    assert decide(world, outbox)["nonce"] == 0


def test_what_was_sent_is_neither_changed_nor_taken_back(outbox: Contract) -> None:
    writes = [
        entry["name"] for entry in load_artifact("DecisionOutbox").abi
        if entry["type"] in ("function", "fallback", "receive") and entry["stateMutability"] not in ("view", "pure")
    ]  # fmt: skip
    assert writes == ["send"]


# What is sent


@pytest.mark.parametrize("size", [MIN_BYTES, MAX_BYTES])
@pytest.mark.parametrize("ttl_s", [MIN_TTL_S, MAX_TTL_S])
def test_what_is_just_within_the_bounds_is_sent(world: World, outbox: Contract, size: int, ttl_s: int) -> None:
    payload = bytes(n % 251 for n in range(size))
    sent = decide(world, outbox, payload, ttl_s=ttl_s)
    assert (sent["payload"], sent["expiresAt"]) == (payload, world.now_s() + ttl_s)
    assert stored(world, outbox, 0) == sent["digest"] == digest_of(world, outbox, sent)


def test_decisions_are_numbered_from_zero_for_each_protocol_of_each_program(world: World, outbox: Contract) -> None:
    pairs = [(PROGRAM, PROTOCOL), (PROGRAM, OTHER), (OTHER, PROTOCOL), (PROTOCOL, PROGRAM)]
    for number in range(3):
        for program, protocol in pairs:
            assert decide(world, outbox, program=program, protocol=protocol)["nonce"] == number
    assert [count_of(world, outbox, *pair) for pair in pairs] == [3] * 4
    assert count_of(world, outbox, OTHER, OTHER) == 0


def test_the_caller_is_told_number_and_digest(world: World, outbox: Contract) -> None:
    decide(world, outbox)
    told = world.evm.call(sending(outbox), world.d.timelock)
    assert told.nonce == 1
    assert len(told.digest) == 32
    assert any(told.digest)


def test_there_is_no_digest_of_what_was_not_sent(world: World, outbox: Contract) -> None:
    decide(world, outbox)
    assert any(stored(world, outbox, 0))
    for nonce, program, protocol in ((1, PROGRAM, PROTOCOL), (2**64 - 1, PROGRAM, PROTOCOL), (0, OTHER, PROTOCOL)):
        assert stored(world, outbox, nonce, program, protocol) == bytes(32)


def test_the_same_payload_sent_twice_is_two_decisions(world: World, outbox: Contract) -> None:
    first, second = decide(world, outbox), decide(world, outbox)
    assert first["digest"] != second["digest"]
    assert [stored(world, outbox, n) for n in range(2)] == [first["digest"], second["digest"]]


def test_another_outbox_gives_the_same_decision_another_digest(world: World, outbox: Contract) -> None:
    other = world.evm.deploy("DecisionOutbox", world.d.timelock, sender=world.deployer)
    sent, elsewhere = decide(world, outbox), decide(world, other)
    assert digest_of(world, other, sent) != sent["digest"]
    assert elsewhere["digest"] == digest_of(world, other, elsewhere)


def test_a_decision_of_the_dao_is_not_what_guardians_say_alone(world: World, outbox: Contract) -> None:
    sent = decide(world, outbox)
    assert sent["digest"] == digest_of(world, outbox, sent, kind=0) != digest_of(world, outbox, sent, kind=1)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    program=st.binary(min_size=32, max_size=32),
    protocol=st.binary(min_size=32, max_size=32),
    payload=st.binary(min_size=MIN_BYTES, max_size=MAX_BYTES),
    ttl_s=st.integers(MIN_TTL_S, MAX_TTL_S),
)
def test_whatever_is_sent_the_digest_is_that_of_its_event(
    world: World, outbox: Contract, program: bytes, protocol: bytes, payload: bytes, ttl_s: int
) -> None:
    before = count_of(world, outbox, program, protocol)
    sent = decide(world, outbox, payload, program=program, protocol=protocol, ttl_s=ttl_s)
    assert (sent["program"], sent["protocol"], sent["payload"]) == (program, protocol, payload)
    assert sent["nonce"] == before
    assert sent["digest"] == stored(world, outbox, before, program, protocol) == digest_of(world, outbox, sent)


def test_decisions_are_found_by_program_protocol_and_number(world: World, outbox: Contract) -> None:
    for protocol in (PROTOCOL, OTHER):
        for _ in range(2):
            decide(world, outbox, protocol=protocol)
    wanted = {"program": PROGRAM, "protocol": OTHER, "nonce": 1}
    [log] = outbox.events.DecisionSent().get_logs(from_block=0, argument_filters=wanted)
    assert log["args"]["digest"] == stored(world, outbox, 1, protocol=OTHER)


# By vote


def test_a_vote_sends_two_decisions_in_the_proposal_s_order(world: World, outbox: Contract) -> None:
    payloads = [PAYLOAD + b"first", PAYLOAD + b"second"]
    proposal_id = world.propose([sending(outbox, payload) for payload in payloads], "two decisions for Solana")
    assert count_of(world, outbox) == 0
    events: list[EventLog] = world.pass_proposal(proposal_id)
    sent = [event.args for event in events if event.name == "DecisionSent"]
    assert [(one["nonce"], one["payload"]) for one in sent] == list(enumerate(payloads))
    # Time runs from when it is carried out, not from when it was proposed.
    assert {one["expiresAt"] for one in sent} == {world.now_s() + TTL_S}
    assert [stored(world, outbox, n) for n in range(2)] == [one["digest"] for one in sent]
