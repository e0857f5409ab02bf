"""Decisions on their way from the outbox to the program: what is signed, what is refused, and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.errors import Misconfigured
from agents.solana_decisions import Attestation, Decision, combine, describe, payload_of, recover, sign, to_json
from tests.solana.world import World, guardian_keys

KEYS = guardian_keys(4)
GUARDIANS = [key.address for key in KEYS[:3]]


@pytest.fixture
def world() -> World:
    return World.trading()


@pytest.fixture
def decision(world: World) -> Decision:
    """To give the vault a hundred base units of quote."""
    instruction = world.ledger.instruction("allocate", world.known, 100, world.ledger.decision(0))
    return Decision(
        program=bytes(world.ledger.id), protocol=bytes(world.protocol), evm_chain_id=31337,
        outbox="0x" + world.outbox.hex(), nonce=world.state("protocol").nonce, expires_s=world.now_s + 60,
        payload=payload_of(bytes(instruction.data), bytes(world.known["vault"])),
    )  # fmt: skip


def test_what_guardians_sign_here_is_what_the_program_takes(world: World, decision: Decision) -> None:
    world.mint_to(world.known["treasury"], world.quote_mint, 100)
    signed = [sign(decision, key) for key in (KEYS[2], KEYS[0])]
    proof = world.ledger.decision(decision.expires_s, combine(signed, decision, GUARDIANS, 2))
    assert world.send(world.ledger.instruction("allocate", world.known, 100, proof)).error == ""


def test_too_few_signatures_and_those_that_do_not_count_are_named(decision: Decision) -> None:
    good, stranger = sign(decision, KEYS[0]), sign(decision, KEYS[3])
    other = sign(Decision(**{**vars_of(decision), "nonce": 99}), KEYS[1])
    with pytest.raises(Misconfigured, match=r"1 of 2 guardians.*no guardian.*another decision"):
        combine([good, stranger, other], decision, GUARDIANS, 2)
    with pytest.raises(Misconfigured, match="1 of 2"):
        combine([good, good], decision, GUARDIANS, 2)


def test_no_more_signatures_are_sent_than_are_needed_and_they_are_in_order(decision: Decision) -> None:
    combined = combine([sign(decision, key) for key in reversed(KEYS[:3])], decision, GUARDIANS, 2)
    assert [place for place, _, _ in combined] == [0, 1]


def test_a_signature_that_was_changed_is_of_somebody_else(decision: Decision) -> None:
    signed = sign(decision, KEYS[0])
    assert recover(signed.digest, signed.signature) == KEYS[0].address
    forged = Attestation(guardian=KEYS[1].address, digest=signed.digest, signature=signed.signature)
    with pytest.raises(Misconfigured, match="0 of 1"):
        combine([forged], decision, GUARDIANS, 1)
    with pytest.raises(ValueError, match="no signature"):
        recover(signed.digest, bytes(65))


def test_an_attestation_survives_its_file_and_a_changed_file_is_refused(decision: Decision, tmp_path: Path) -> None:
    path, signed = tmp_path / "attestation.json", sign(decision, KEYS[0])
    path.write_text(to_json(signed, decision))
    assert (Attestation.read(path), Attestation.read_decision(path)) == (signed, decision)
    raw = json.loads(path.read_text())
    changes: tuple[tuple[Any, str], ...] = (
        ({"guardian": KEYS[1].address}, "signed it"),
        ({"signature": "0x12"}, "no attestation"),
        ({"format": "other"}, "no attestation"),
        ({"digest": None}, "no attestation"),
    )
    for change, said in changes:
        path.write_text(json.dumps(raw | change))
        with pytest.raises(Misconfigured, match=said):
            Attestation.read(path)
    path.write_text(json.dumps(raw | {"decision": raw["decision"] | {"nonce": 99}}))
    with pytest.raises(Misconfigured, match="another digest"):
        Attestation.read_decision(path)
    with pytest.raises(Misconfigured, match="no attestation"):
        Attestation.read(tmp_path / "missing.json")


def test_a_guardian_reads_in_words_what_is_to_be_signed(world: World, decision: Decision) -> None:
    told = describe(decision.payload, world.ledger)
    assert told["instruction"] == "allocate"
    assert told["about"] == str(world.known["vault"])
    assert told["arguments"] == {"amount": 100}
    assert "treasury" in told["purpose"]
    for wrong in (b"", bytes(60), decision.payload[:-1], decision.payload + b"\0"):
        with pytest.raises(Misconfigured, match="do not sign"):
            describe(wrong, world.ledger)


def vars_of(decision: Decision) -> dict[str, Any]:
    return {name: getattr(decision, name) for name in Decision.__dataclass_fields__}
