"""A guardian signs only what the DAO's outbox holds in a final block, and only after reading in words what it does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_utils import keccak
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.pubkey import Pubkey

from agents.errors import Misconfigured, Retryable
from agents.localnet.evm import LocalEvm, start_evm
from agents.solana_decisions import (
    OF_GUARDIANS,
    OF_THE_DAO,
    Attestation,
    Decision,
    NotInTheOutbox,
    combine,
    describe,
    payload_of,
    read_decision,
    recover,
    sign,
    to_json,
)
from agents.solana_program import Ledger
from tests.solana.world import World, guardian_keys

LEDGER = Ledger(Pubkey.from_bytes(b"\x07" * 32))
PROGRAM, PROTOCOL, VAULT = bytes(LEDGER.id), b"\x02" * 32, b"\x03" * 32
OUTBOX = "0x" + "0a" * 20
GUARDIANS = guardian_keys(7)
ADDRESSES = [key.address for key in GUARDIANS]
DAY_S = 86_400
# The curve's order: r with s, and r with what s lacks to it, sign the same.
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def payload(name: str, *args: Any, subject: bytes = VAULT) -> bytes:
    """Of an instruction by its name, with whatever accounts."""
    anywhere = dict.fromkeys(LEDGER.accounts_of(name), Pubkey.default())
    return payload_of(bytes(LEDGER.instruction(name, anywhere, *args, LEDGER.decision(0)).data), subject)


DECISION = Decision(
    program=PROGRAM, protocol=PROTOCOL, evm_chain_id=31337, outbox=OUTBOX, nonce=4, expires_s=1_800_000_000,
    payload=payload("allocate", 1000),
)  # fmt: skip


def attestations(decision: Decision = DECISION, *, of: tuple[int, ...] = (0, 1)) -> list[Attestation]:
    return [sign(decision, GUARDIANS[number]) for number in of]


def saved(folder: Path, **changes: Any) -> Path:
    """An attestation's file, with its fields changed; those of the decision by `decision={…}`."""
    told = json.loads(to_json(attestations()[0], DECISION))
    told["decision"] |= changes.pop("decision", {})
    path = folder / "attestation.json"
    path.write_text(json.dumps(told | changes))
    return path


# What is no decision


@pytest.mark.parametrize(
    "change",
    [
        {"program": PROGRAM + PROTOCOL[:1], "protocol": PROTOCOL[1:]},
        {"protocol": b""}, {"outbox": OUTBOX + "00"}, {"outbox": "0x"}, {"outbox": "an outbox"},
        {"nonce": -1}, {"nonce": 2**64}, {"expires_s": -1}, {"evm_chain_id": 2**64}, {"kind": 2}, {"kind": 256},
    ],
)  # fmt: skip
def test_words_of_another_size_which_could_read_as_another_decision_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"bytes|bits|kind|hexadecimal"):
        replace(DECISION, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"program": b"\x09" * 32}, {"protocol": b"\x09" * 32}, {"evm_chain_id": 1}, {"outbox": "0x" + "0b" * 20},
        {"nonce": 5}, {"expires_s": 1_800_000_001}, {"payload": payload("allocate", 1001)}, {"kind": OF_GUARDIANS},
    ],
)  # fmt: skip
def test_a_signature_of_one_decision_is_none_of_another(change: dict[str, Any]) -> None:
    other = replace(DECISION, **change)
    assert other.digest != DECISION.digest
    with pytest.raises(Misconfigured, match=f"0 of 2 guardians.*{ADDRESSES[0]} signed another decision"):
        combine(attestations(), other, ADDRESSES, 2)


# Signatures


@pytest.mark.parametrize(
    "signature",
    [b"", bytes(64), bytes(65), bytes(64) + b"\x1b", b"\xff" * 64 + b"\x00", bytes(66)],
    ids=["empty", "short", "zeros", "recovery id 27", "beyond the order", "long"],
)
def test_what_is_no_signature_is_told_so(signature: bytes) -> None:
    with pytest.raises(ValueError, match="no signature"):
        recover(DECISION.digest, signature)


@pytest.mark.parametrize("recovery_id", [2, 8, 27, 28])
def test_a_good_signature_in_another_notation_than_the_program_s_is_refused(recovery_id: int) -> None:
    [good] = attestations(of=(0,))
    assert recover(DECISION.digest, good.signature) == ADDRESSES[0]
    with pytest.raises(ValueError, match="recovery id of 0 or 1"):
        recover(DECISION.digest, good.signature[:64] + bytes([recovery_id]))


def test_too_few_guardians_are_told_how_many_are_missing_and_who_does_not_count() -> None:
    with pytest.raises(Misconfigured, match="1 of 2 guardians signed decision 4: ask more"):
        combine(attestations(of=(0,)), DECISION, ADDRESSES, 2)
    with pytest.raises(Misconfigured, match="1 of 2"):
        combine(attestations(of=(0, 0, 0)), DECISION, ADDRESSES, 2)
    with pytest.raises(Misconfigured, match=f"{ADDRESSES[6]} is no guardian of this protocol"):
        combine(attestations(of=(0, 6)), DECISION, ADDRESSES[:6], 2)
    with pytest.raises(Misconfigured, match="0 of 1"):
        combine([], DECISION, ADDRESSES, 1)


def test_a_signature_by_somebody_else_in_a_guardian_s_name_does_not_count() -> None:
    first, second = attestations()
    stolen = replace(first, signature=second.signature)
    with pytest.raises(Misconfigured, match=f"{ADDRESSES[0]} did not sign what names it"):
        combine([stolen, second], DECISION, ADDRESSES, 2)


def test_a_broken_signature_does_not_spoil_those_that_are_enough() -> None:
    first, second, third = attestations(of=(0, 1, 2))
    broken = replace(first, signature=b"\xff" * 65)
    assert [place for place, _, _ in combine([broken, second, third], DECISION, ADDRESSES, 2)] == [1, 2]


@pytest.mark.parametrize("threshold", [-1, 0, 6])
def test_a_threshold_that_the_program_does_not_take_is_refused(threshold: int) -> None:
    with pytest.raises(Misconfigured, match="1 to 5"):
        combine(attestations(of=tuple(range(7))), DECISION, ADDRESSES, threshold)


def test_the_program_gets_signatures_in_the_guardians_order_and_no_more_than_it_needs() -> None:
    found = combine(attestations(of=(6, 2, 4, 0, 2)), DECISION, [a.lower() for a in ADDRESSES], 3)
    assert [place for place, _, _ in found] == [0, 2, 4]
    for place, recovery_id, rs in found:
        assert recover(DECISION.digest, rs + bytes([recovery_id])) == ADDRESSES[place]


@settings(max_examples=30, deadline=None)
@given(secret=st.binary(min_size=32, max_size=32).filter(lambda s: 0 < int.from_bytes(s, "big") < N),
       nonce=st.integers(0, 2**64 - 1))  # fmt: skip
def test_whoever_signs_is_recovered_and_s_is_in_the_lower_half(secret: bytes, nonce: int) -> None:
    decision = replace(DECISION, nonce=nonce)
    made = sign(decision, secret)
    assert made.guardian == recover(decision.digest, made.signature) == Account.from_key(secret).address
    assert len(made.signature) == 65
    assert made.signature[64] in (0, 1)
    assert 0 < int.from_bytes(made.signature[32:64], "big") <= N // 2


def test_what_is_signed_is_an_ethereum_message_so_that_any_wallet_can_sign_it() -> None:
    signed = GUARDIANS[0].unsafe_sign_hash(keccak(b"\x19Ethereum Signed Message:\n32" + DECISION.digest))
    assert attestations()[0].signature == signed.signature[:64] + bytes([signed.v - 27])


# Files


@pytest.mark.parametrize(
    "change",
    [
        {"format": "another"}, {"signature": "0x00"}, {"signature": "0x" + "00" * 65}, {"signature": 7},
        {"digest": "0x12"}, {"guardian": "0x12"}, {"guardian": None}, {"digest": "words"},
    ],
)  # fmt: skip
def test_a_file_that_is_no_attestation_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    path = saved(tmp_path, **change)
    with pytest.raises(Misconfigured, match=f"{path.name} is no attestation"):
        Attestation.read(path)


def test_a_file_that_is_not_there_or_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nothing.json"
    for reading in (Attestation.read, Attestation.read_decision):
        with pytest.raises(Misconfigured, match=r"nothing\.json is no attestation"):
            reading(path)
    path.write_text("[]")
    for reading in (Attestation.read, Attestation.read_decision):
        with pytest.raises(Misconfigured, match=r"nothing\.json is no attestation"):
            reading(path)


def test_a_file_in_another_guardian_s_name_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, guardian=ADDRESSES[1])
    with pytest.raises(Misconfigured, match=f"names guardian {ADDRESSES[1]}, but {ADDRESSES[0]} signed it"):
        Attestation.read(path)


@pytest.mark.parametrize(
    "change",
    [
        {"payload": payload("allocate", 9999).hex()}, {"nonce": 5}, {"nonce": -1}, {"nonce": "4"}, {"kind": 1},
        {"program": PROGRAM.hex() + "02", "protocol": PROTOCOL.hex()[2:]}, {"note": "an extra"}, {"outbox": 5},
    ],
)  # fmt: skip
def test_a_file_whose_decision_is_not_what_was_signed_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = saved(tmp_path, decision=change)
    with pytest.raises(Misconfigured, match="is no attestation"):
        Attestation.read_decision(path)


def test_a_file_holds_the_signature_and_what_it_is_of(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert Attestation.read(path) == attestations()[0]
    assert Attestation.read_decision(path) == DECISION


# What it says


@pytest.mark.parametrize(
    "data",
    [
        b"", DECISION.payload[:20], DECISION.payload[:40], DECISION.payload[:-1], DECISION.payload + b"\0",
        b"\xff" * 8 + DECISION.payload[8:],
        # The beginning of a decision with one signature, so that the empty one's zeros end it.
        DECISION.payload + bytes(8) + b"\x01\0\0\0" + bytes(54),
    ],
    ids=["empty", "no subject", "no arguments", "short", "long", "unknown", "with a decision's beginning"],
)  # fmt: skip
def test_a_payload_that_will_never_be_carried_out_is_not_signed(data: bytes) -> None:
    with pytest.raises(Misconfigured, match="do not sign it"):
        describe(data, LEDGER)


def test_a_payload_that_is_not_the_dao_s_to_decide_is_not_signed() -> None:
    skip = payload("skip_decision", list(bytes(32)))
    for data in (payload("halt"), payload("stop_claims", 5), skip):
        with pytest.raises(Misconfigured, match="takes no such decision"):
            describe(data, LEDGER)
    with pytest.raises(Misconfigured, match="takes no such decision"):
        describe(DECISION.payload, LEDGER, kind=OF_GUARDIANS)
    assert describe(payload("halt"), LEDGER, kind=OF_GUARDIANS)["instruction"] == "halt"
    assert describe(payload("stop_claims", 5), LEDGER, kind=OF_GUARDIANS)["arguments"] == {"until_s": 5}


def test_every_instruction_that_takes_a_decision_says_whose_it_is() -> None:
    idl = json.loads((Path(__file__).parents[2] / "contracts/solana/marketflow_ledger.json").read_text())
    for instruction in idl["instructions"]:
        docs = " ".join(instruction["docs"])
        takes = any(argument["name"] == "decision" for argument in instruction["args"])
        said = ("By decision" in docs) + ("The guardians alone" in docs) + (instruction["name"] == "skipDecision")
        assert said == takes, instruction["name"]


def test_a_guardian_reads_in_words_what_a_payload_does() -> None:
    said = describe(DECISION.payload, LEDGER)
    assert said == {
        "instruction": "allocate", "about": str(Pubkey.from_bytes(VAULT)),
        "purpose": "Moves capital from the treasury into a vault. By decision about the vault.",
        "arguments": {"amount": 1000},
    }  # fmt: skip
    mint = Pubkey.from_bytes(b"\x05" * 32)
    recalled = describe(payload("recall", mint, 2**64 - 1, 3), LEDGER)["arguments"]
    assert recalled == {"mint": str(mint), "amount": 2**64 - 1, "fallback_price_e8": 3}
    assert describe(payload("close_by_decision", -(2**63)), LEDGER)["arguments"] == {"move": -(2**63)}


def test_new_guardians_are_shown_by_address() -> None:
    places = [list(bytes.fromhex(address[2:])) for address in ADDRESSES[:3]] + [[0] * 20] * 13
    said = describe(payload("set_guardians", places, 3, 2, subject=PROTOCOL), LEDGER)["arguments"]
    assert said["guardians"][:3] == [address.lower() for address in ADDRESSES[:3]]
    assert (said["guardian_count"], said["threshold"]) == (3, 2)


def test_a_manifest_is_shown_to_its_last_field() -> None:
    world = World()
    manifest = world.manifest()
    said = describe(payload("open_vault", manifest), LEDGER)["arguments"]["manifest"]
    assert said["artefact_hash"] == "0x" + bytes(manifest.artefact_hash).hex()
    assert said["agent"] == str(manifest.agent)
    assert said["limits"]["max_drawdown_bps"] == manifest.limits.max_drawdown_bps
    assert set(said) == set(vars(manifest)) - {"_io"}
    json.dumps(said)


# The outbox


@dataclass
class Dao:
    """An outbox on a chain, and whoever decides there."""

    evm: LocalEvm
    outbox: Any
    timelock: Any

    def send(self, data: bytes, *, program: bytes = PROGRAM, protocol: bytes = PROTOCOL, ttl_s: int = DAY_S) -> None:
        self.evm.send(self.outbox.functions.send(program, protocol, ttl_s, data), self.timelock)

    def read(self, nonce: int = 0, **how: Any) -> Decision:
        how = {"program": PROGRAM, "protocol": PROTOCOL} | how
        return read_decision(self.evm, how.pop("outbox", self.outbox), nonce=nonce, **how)


@pytest.fixture
def dao() -> Iterator[Dao]:
    with start_evm() as evm:
        timelock = evm.accounts[1]
        yield Dao(evm, evm.deploy("DecisionOutbox", timelock.address, sender=evm.accounts[0]), timelock)


def test_what_the_outbox_does_not_hold_is_not_signed(dao: Dao) -> None:
    dao.send(DECISION.payload)
    dao.evm.mine(100)
    for how in ({"nonce": 1}, {"protocol": VAULT}, {"program": VAULT}):
        with pytest.raises(NotInTheOutbox, match="has no decision"):
            dao.read(**how)
    nowhere = dao.evm.at("DecisionOutbox", dao.evm.accounts[5].address)
    with pytest.raises(NotInTheOutbox, match="has no decision"):
        dao.read(outbox=nowhere)


def test_what_is_not_final_yet_is_not_signed(dao: Dao) -> None:
    dao.send(payload("allocate", 5), protocol=VAULT)
    with pytest.raises(Retryable, match="not in a final block yet"):  # nor is the outbox
        dao.read(protocol=VAULT)
    dao.evm.mine(100)
    dao.send(DECISION.payload)
    with pytest.raises(Retryable, match="not in a final block yet"):
        dao.read()
    assert dao.read(finality="latest").payload == DECISION.payload
    dao.evm.mine(100)
    assert dao.read().payload == DECISION.payload


def test_a_decision_that_a_reorganisation_took_back_is_gone(dao: Dao) -> None:
    snapshot = dao.evm.snapshot()
    dao.send(payload("allocate", 1))
    taken_back = dao.read(finality="latest")
    dao.evm.revert(snapshot)
    with pytest.raises(NotInTheOutbox):
        dao.read(finality="latest")
    dao.send(payload("allocate", 2))
    assert dao.read(finality="latest").digest != taken_back.digest


def test_an_outbox_whose_event_is_not_what_it_stored_is_not_believed(dao: Dao) -> None:
    """Code of its own stands where the outbox was voted to be: its view answers anything, its event another payload."""
    dao.send(DECISION.payload)
    # Whatever is asked, 32 bytes of ones.
    dao.evm.set_code(dao.outbox.address, bytes.fromhex("60001960005260206000f3"))
    with pytest.raises(NotInTheOutbox, match="not what is stored"):
        dao.read(finality="latest")


def test_the_decision_read_is_the_one_of_that_number_among_many(dao: Dao) -> None:
    for amount in range(5):
        dao.send(payload("allocate", amount))
        dao.send(payload("allocate", 100 + amount), protocol=VAULT)
    for nonce in range(5):
        read = dao.read(nonce, finality="latest")
        assert (read.nonce, read.kind, read.payload) == (nonce, OF_THE_DAO, payload("allocate", nonce))
        stored = dao.evm.call(dao.outbox.functions.digestOf(PROGRAM, PROTOCOL, nonce))
        assert read.digest == bytes(stored)


# From the vote's chain to Solana's


def test_what_the_timelock_sent_on_one_chain_is_carried_out_on_the_other_in_its_order(dao: Dao) -> None:
    world = World(
        start_s=dao.evm.now_s(), config_changes={"outbox": list(bytes.fromhex(dao.outbox.address[2:]))}
    )  # fmt: skip
    world.initialise()
    program, protocol, ledger = bytes(world.ledger.id), bytes(world.protocol), world.ledger
    new = guardian_keys(5)
    places = [list(bytes.fromhex(key.address[2:])) for key in new] + [[0] * 20] * 11

    def decided(name: str, *args: Any, ttl_s: int = DAY_S) -> None:
        data = bytes(ledger.instruction(name, world.known, *args, ledger.decision(0)).data)
        dao.send(payload_of(data, protocol), program=program, protocol=protocol, ttl_s=ttl_s)

    def carry(nonce: int, name: str, *args: Any, keys: list[Any], threshold: int, skip: bool = False) -> str:
        decision = dao.read(nonce, program=program, protocol=protocol, finality="latest")
        addresses = [key.address for key in (guardian_keys(3) if threshold == 2 else new)]
        proof = combine([sign(decision, key) for key in keys], decision, addresses, threshold)
        if skip:
            name, args = "skip_decision", (list(keccak(decision.payload)),)
        word = ledger.decision(decision.expires_s, proof)
        return world.send(ledger.instruction(name, world.known, *args, word)).error

    decided("set_budget", 7)
    decided("set_guardians", places, 5, 3)
    decided("set_budget", 8, ttl_s=3600)
    decided("set_budget", 9)
    old = guardian_keys(3)
    assert carry(1, "set_guardians", places, 5, 3, keys=old, threshold=2) == "BadAttestation"
    assert carry(0, "set_budget", 8, keys=old, threshold=2) == "BadAttestation"
    assert carry(0, "set_budget", 7, keys=old[1:], threshold=2) == ""
    assert carry(0, "set_budget", 7, keys=old[1:], threshold=2) == "BadAttestation"
    assert carry(1, "set_guardians", places, 5, 3, keys=old, threshold=2) == ""
    assert carry(2, "set_budget", 8, keys=old[:2], threshold=2) == "NotEnoughGuardians"
    world.set_clock(world.now_s + 4000)
    assert carry(2, "set_budget", 8, keys=new[1:], threshold=3) == "DecisionExpired"
    assert carry(2, "", keys=new[1:], threshold=3, skip=True) == ""
    assert carry(3, "set_budget", 9, keys=new, threshold=3) == ""
    state = world.state("protocol")
    assert (state.nonce, state.config.budget_per_epoch, state.config.threshold) == (4, 9, 3)


def test_the_outbox_s_digest_is_what_a_guardian_signs_whatever_the_payload(dao: Dao) -> None:
    for size in (40, 41, 67, 900):
        dao.send(bytes(n * n % 256 for n in range(size)), ttl_s=30 * DAY_S)
    for nonce in range(4):
        assert dao.read(nonce, finality="latest").digest


def test_without_solana_s_packages_decisions_are_still_read_and_signed() -> None:
    code = (
        "import sys\n"
        "for name in ('solders', 'anchorpy', 'solana', 'construct'): sys.modules[name] = None\n"
        "from agents.solana_decisions import Decision, combine, sign\n"
        "d = Decision(program=bytes(32), protocol=bytes(32), evm_chain_id=1, outbox='0x' + '00' * 20, nonce=0,\n"
        "             expires_s=0, payload=b'')\n"
        "a = sign(d, b'\\x01' * 32)\n"
        "print(len(combine([a], d, [a.guardian], 1)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr
