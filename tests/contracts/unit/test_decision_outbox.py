"""The DAO's decisions for programs on other chains: only the timelock writes, nothing changes, everybody reads."""

from __future__ import annotations

from typing import Any

import pytest
from eth_utils import keccak
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.contracts import load_artifact
from agents.errors import Misconfigured, Retryable
from agents.solana_decisions import Decision, NotInTheOutbox, deploy_outbox, read_decision
from tests.contracts.world import DAY_S, HOUR_S, World, one

PROGRAM, PROTOCOL = b"\x01" * 32, b"\x02" * 32
PAYLOAD = bytes(range(60))


@pytest.fixture
def outbox(world: World) -> Any:
    return deploy_outbox(world.evm, world.d.timelock, sender=world.stranger)


def send(world: World, outbox: Any, payload: bytes = PAYLOAD, ttl_s: int = DAY_S, **of: bytes) -> dict[str, Any]:
    program, protocol = of.get("program", PROGRAM), of.get("protocol", PROTOCOL)
    return one(world.as_timelock(outbox.functions.send(program, protocol, ttl_s, payload)), "DecisionSent")


def test_an_outbox_that_nobody_could_ever_use_is_not_deployed(world: World) -> None:
    with pytest.raises(Misconfigured, match="no contract is at"):
        deploy_outbox(world.evm, world.stranger.address, sender=world.stranger)


def test_an_outbox_is_the_timelock_s_whoever_deployed_it(world: World, outbox: Any) -> None:
    assert world.view(outbox.functions.timelock()) == world.d.timelock


def test_nobody_but_the_timelock_decides(world: World, outbox: Any) -> None:
    for who in (world.deployer, world.guardian, world.proposer, world.stranger):
        with world.reverts("DecisionOutboxUnauthorized", caller=who.address):
            world.send(outbox.functions.send(PROGRAM, PROTOCOL, DAY_S, PAYLOAD), who)


@pytest.mark.parametrize("size", [0, 39, 901])
def test_a_payload_that_could_be_no_instruction_or_fits_into_no_transaction_is_refused(
    world: World, outbox: Any, size: int
) -> None:
    with world.reverts("DecisionOutboxBadPayload", size=size):
        send(world, outbox, bytes(size))


@pytest.mark.parametrize("ttl_s", [0, HOUR_S - 1, 30 * DAY_S + 1, 2**64 - 1])
def test_a_decision_can_be_carried_out_for_an_hour_to_thirty_days(world: World, outbox: Any, ttl_s: int) -> None:
    with world.reverts("DecisionOutboxBadTtl", ttlS=ttl_s):
        send(world, outbox, ttl_s=ttl_s)
    for good in (HOUR_S, 30 * DAY_S):
        send(world, outbox, ttl_s=good)


@pytest.mark.parametrize("name", ["dao", "treasury"])
def test_not_even_another_contract_of_the_dao_s_decides(world: World, outbox: Any, name: str) -> None:
    caller = getattr(world, name).address
    world.evm.impersonate(caller)
    world.evm.set_balance(caller, 10**18)
    with world.reverts("DecisionOutboxUnauthorized", caller=caller):
        world.send(outbox.functions.send(PROGRAM, PROTOCOL, DAY_S, PAYLOAD), caller)


def test_a_refused_decision_uses_up_no_number(world: World, outbox: Any) -> None:
    with world.reverts("DecisionOutboxBadPayload", size=0):
        send(world, outbox, b"")
    assert world.view(outbox.functions.countOf(PROGRAM, PROTOCOL)) == 0
    assert send(world, outbox)["nonce"] == 0


def test_what_was_sent_is_neither_changed_nor_taken_back() -> None:
    abi = load_artifact("DecisionOutbox").abi
    entries = [entry for entry in abi if entry["type"] in ("function", "fallback", "receive")]
    assert [entry["name"] for entry in entries if entry["stateMutability"] not in ("view", "pure")] == ["send"]


@pytest.mark.parametrize("size", [40, 900])
@pytest.mark.parametrize("ttl_s", [HOUR_S, 30 * DAY_S])
def test_what_is_just_within_the_bounds_is_sent_and_expires_when_it_says(
    world: World, outbox: Any, size: int, ttl_s: int
) -> None:
    payload = bytes(n % 251 for n in range(size))
    told = send(world, outbox, payload, ttl_s=ttl_s)
    assert (told["payload"], told["expiresAt"]) == (payload, world.now_s() + ttl_s)


def test_the_same_payload_sent_twice_is_two_decisions(world: World, outbox: Any) -> None:
    first, second = send(world, outbox), send(world, outbox)
    assert first["digest"] != second["digest"]
    stored = [world.view(outbox.functions.digestOf(PROGRAM, PROTOCOL, nonce)) for nonce in range(2)]
    assert stored == [first["digest"], second["digest"]]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    program=st.binary(min_size=32, max_size=32),
    protocol=st.binary(min_size=32, max_size=32),
    payload=st.binary(min_size=40, max_size=900),
    ttl_s=st.integers(HOUR_S, 30 * DAY_S),
)
def test_whatever_the_dao_sends_a_guardian_reads_the_digest_that_is_stored(
    world: World, outbox: Any, program: bytes, protocol: bytes, payload: bytes, ttl_s: int
) -> None:
    told = send(world, outbox, payload, ttl_s=ttl_s, program=program, protocol=protocol)
    found = read_decision(
        world.evm, outbox, program=program, protocol=protocol, nonce=told["nonce"], finality="latest"
    )  # fmt: skip
    assert (found.payload, found.digest) == (payload, told["digest"])
    assert world.view(outbox.functions.digestOf(program, protocol, told["nonce"])) == told["digest"]


def test_a_proposal_s_decisions_keep_its_order_and_their_time_runs_from_when_it_is_carried_out(
    world: World, outbox: Any
) -> None:
    payloads = [PAYLOAD + b"first", PAYLOAD + b"second"]
    calls = [outbox.functions.send(PROGRAM, PROTOCOL, DAY_S, payload) for payload in payloads]
    events = world.pass_proposal(world.propose(calls, "two decisions for Solana"))
    sent = [event.args for event in events if event.name == "DecisionSent"]
    assert [(told["nonce"], told["payload"]) for told in sent] == list(enumerate(payloads))
    assert {told["expiresAt"] for told in sent} == {world.now_s() + DAY_S}


def test_decisions_of_a_protocol_are_numbered_by_themselves(world: World, outbox: Any) -> None:
    assert [send(world, outbox)["nonce"], send(world, outbox)["nonce"]] == [0, 1]
    assert send(world, outbox, protocol=b"\x03" * 32)["nonce"] == 0
    assert send(world, outbox, program=b"\x04" * 32)["nonce"] == 0
    assert send(world, outbox)["nonce"] == 2
    assert world.view(outbox.functions.countOf(PROGRAM, PROTOCOL)) == 3
    assert world.view(outbox.functions.digestOf(PROGRAM, PROTOCOL, 3)) == bytes(32)


def test_the_digest_is_over_every_word_that_makes_the_decision_this_one(world: World, outbox: Any) -> None:
    told = send(world, outbox)
    words = (
        b"MarketFlow decision v1", b"\0", PROGRAM, PROTOCOL, world.w3.eth.chain_id.to_bytes(8, "big"),
        bytes.fromhex(outbox.address[2:]), (0).to_bytes(8, "big"), told["expiresAt"].to_bytes(8, "big"),
        keccak(PAYLOAD),
    )  # fmt: skip
    assert told["digest"] == keccak(b"".join(words))
    assert world.view(outbox.functions.digestOf(PROGRAM, PROTOCOL, 0)) == told["digest"]
    assert told["payload"] == PAYLOAD


def test_a_vote_reaches_the_outbox(world: World, outbox: Any) -> None:
    proposal = world.propose([outbox.functions.send(PROGRAM, PROTOCOL, DAY_S, PAYLOAD)], "a decision for Solana")
    told = one(world.pass_proposal(proposal), "DecisionSent")
    assert told["payload"] == PAYLOAD
    found = read_decision(world.evm, outbox, program=PROGRAM, protocol=PROTOCOL, nonce=0, finality="latest")
    assert found.digest == told["digest"]
    assert (found.payload, found.expires_s, found.evm_chain_id) == (PAYLOAD, told["expiresAt"], world.w3.eth.chain_id)


def test_a_guardian_finds_no_decision_that_the_dao_did_not_make(world: World, outbox: Any) -> None:
    with pytest.raises(NotInTheOutbox, match="no decision 0"):
        read_decision(world.evm, outbox, program=PROGRAM, protocol=PROTOCOL, nonce=0, finality="latest")
    send(world, outbox)
    with pytest.raises(NotInTheOutbox, match="no decision 1"):
        read_decision(world.evm, outbox, program=PROGRAM, protocol=PROTOCOL, nonce=1, finality="latest")


def test_what_is_not_final_yet_is_waited_for(world: World, outbox: Any) -> None:
    final = world.w3.eth.block_number
    send(world, outbox)
    with pytest.raises(Retryable, match="not in a final block"):
        read_decision(world.evm, outbox, program=PROGRAM, protocol=PROTOCOL, nonce=0, finality=final)


def test_a_decision_that_differs_in_any_word_has_another_digest() -> None:
    given: dict[str, Any] = {
        "program": PROGRAM, "protocol": PROTOCOL, "evm_chain_id": 1, "outbox": "0x" + "11" * 20, "nonce": 3,
        "expires_s": 4, "payload": PAYLOAD, "kind": 0,
    }  # fmt: skip
    changes: dict[str, Any] = {
        "program": PROTOCOL, "protocol": PROGRAM, "evm_chain_id": 2, "outbox": "0x" + "12" * 20, "nonce": 4,
        "expires_s": 5, "payload": PAYLOAD + b"\0", "kind": 1,
    }  # fmt: skip
    digests = {Decision(**given).digest} | {Decision(**given | {k: v}).digest for k, v in changes.items()}
    assert len(digests) == 1 + len(changes)
