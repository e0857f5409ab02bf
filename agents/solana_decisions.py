"""Decisions of the DAO for its programs on Solana: what they say, and how guardians carry them over.

The timelock sends a payload to `DecisionOutbox`, which keeps its digest under a nonce. A guardian finds it there in a
final block, reads in words what it does, and signs the digest as an EIP-191 message with an Ethereum account's key.
Whoever has signatures of enough guardians sends them with the instruction; the program recovers the signers.

    payload = the instruction's first eight bytes ‖ the account it is about (32) ‖ its arguments, but for the decision
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils import keccak, to_checksum_address

from agents.errors import Misconfigured, Retryable
from agents.logs import fetch_logs
from oracle.chain import ChainReader

TAG: Final = b"MarketFlow decision v1"
OF_THE_DAO, OF_GUARDIANS = 0, 1
MAX_SIGNATURES: Final = 5
FORMAT: Final = "marketflow/solana-attestation/1"
# How the IDL says who may call an instruction.
_SAID_BY: Final = {OF_THE_DAO: "By decision", OF_GUARDIANS: "The guardians alone"}
_SENT: Final = bytes(keccak(text="DecisionSent(bytes32,bytes32,uint64,uint64,bytes,bytes32)"))


class NotInTheOutbox(Misconfigured):
    """What a guardian was asked to sign is not what the DAO has decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One decision. `program` and `protocol` are addresses on Solana, 32 bytes; `kind` 1: the guardians' own word."""

    program: bytes
    protocol: bytes
    evm_chain_id: int
    outbox: str
    nonce: int
    expires_s: int
    payload: bytes
    kind: int = OF_THE_DAO

    def __post_init__(self) -> None:
        """Raises ValueError: packed words of other sizes could read as another decision's."""
        sizes = (len(self.program), len(self.protocol), len(bytes.fromhex(self.outbox.removeprefix("0x"))))
        if sizes != (32, 32, 20):
            raise ValueError(f"program, protocol and outbox have {sizes} bytes, not (32, 32, 20)")
        if not all(0 <= number < 2**64 for number in (self.evm_chain_id, self.nonce, self.expires_s)):
            raise ValueError("chain id, nonce and expiry are numbers of 64 bits")
        if self.kind not in (OF_THE_DAO, OF_GUARDIANS):
            raise ValueError(f"there is no kind {self.kind} of decision")

    @property
    def digest(self) -> bytes:
        """What is signed: the words that `DecisionOutbox` packs."""
        words = (
            TAG, bytes([self.kind]), self.program, self.protocol, self.evm_chain_id.to_bytes(8, "big"),
            bytes.fromhex(self.outbox.removeprefix("0x")), self.nonce.to_bytes(8, "big"),
            self.expires_s.to_bytes(8, "big"), keccak(self.payload),
        )  # fmt: skip
        return bytes(keccak(b"".join(words)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """A guardian's signature of one decision. `signature` is r ‖ s and the recovery id 0 or 1: 65 bytes."""

    guardian: str
    digest: bytes
    signature: bytes

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "format": FORMAT, "guardian": self.guardian, "digest": "0x" + self.digest.hex(),
            "signature": "0x" + self.signature.hex(),
        }  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> Attestation:
        """From a file. Raises Misconfigured when it is none, or its signature is not of the guardian it names."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw["format"] != FORMAT:
                raise ValueError(f"its format is {raw['format']!r}, not {FORMAT!r}")
            found = cls(
                guardian=to_checksum_address(raw["guardian"]), digest=_bytes(raw["digest"], 32),
                signature=_bytes(raw["signature"], 65),
            )  # fmt: skip
            signer = recover(found.digest, found.signature)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Misconfigured(f"{path} is no attestation ({error}): ask the guardian for it again") from error
        if signer != found.guardian:
            raise Misconfigured(f"{path} names guardian {found.guardian}, but {signer} signed it")
        return found

    @staticmethod
    def read_decision(path: Path) -> Decision:
        """What the attestation in a file is of. Raises Misconfigured when it is not what was signed."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            told = raw["decision"]
            keys = {name: bytes.fromhex(told.pop(name)) for name in ("program", "protocol", "payload")}
            decision = Decision(**told, **keys)
            if decision.digest != _bytes(raw["digest"], 32):
                raise ValueError("its decision has another digest than the one that was signed")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Misconfigured(f"{path} is no attestation ({error}): ask the guardian for it again") from error
        return decision


def _bytes(text: str, size: int) -> bytes:
    data = bytes.fromhex(text.removeprefix("0x"))
    if len(data) != size:
        raise ValueError(f"{text[:20]}… has {len(data)} bytes, not {size}")
    return data


def sign(decision: Decision, key: Any) -> Attestation:
    """The attestation by an Ethereum key (bytes, hex, or an eth-account account)."""
    account = key if hasattr(key, "sign_message") else Account.from_key(key)
    signed = account.sign_message(encode_defunct(decision.digest))
    signature = signed.r.to_bytes(32, "big") + signed.s.to_bytes(32, "big") + bytes([signed.v % 27])
    return Attestation(guardian=account.address, digest=decision.digest, signature=signature)


def recover(digest: bytes, signature: bytes) -> str:
    """Who signed. Raises ValueError for what is no signature."""
    if len(signature) != 65 or signature[64] > 1:
        raise ValueError("no signature: it is r, s and a recovery id of 0 or 1, 65 bytes")
    try:
        raw = signature[:64] + bytes([signature[64] + 27])
        return str(Account.recover_message(encode_defunct(digest), signature=raw))
    except Exception as error:  # eth-keys raises several kinds
        raise ValueError(f"no signature: {error}") from error


def combine(
    attestations: Sequence[Attestation], decision: Decision, guardians: Sequence[str], threshold: int
) -> list[tuple[int, int, bytes]]:
    """The signatures as the program wants them: guardian's place, recovery id, r ‖ s, in order, no more than needed.

    Raises Misconfigured when there are too few, and names those that don't count.
    """
    if not 1 <= threshold <= MAX_SIGNATURES:
        raise Misconfigured(f"a threshold of {threshold}: the program takes 1 to {MAX_SIGNATURES} signatures")
    places = {to_checksum_address(guardian): place for place, guardian in enumerate(guardians)}
    found: dict[int, tuple[int, int, bytes]] = {}
    useless = []
    for one in attestations:
        if one.digest != decision.digest:
            useless.append(f"{one.guardian} signed another decision")
        elif one.guardian not in places:
            useless.append(f"{one.guardian} is no guardian of this protocol")
        elif not _is_signed(one):
            useless.append(f"{one.guardian} did not sign what names it")
        else:
            place = places[one.guardian]
            found[place] = (place, one.signature[64], one.signature[:64])
    if len(found) < threshold:
        why = f" ({'; '.join(useless)})" if useless else ""
        raise Misconfigured(
            f"{len(found)} of {threshold} guardians signed decision {decision.nonce}{why}: ask more of them"
        )
    return [found[place] for place in sorted(found)][:threshold]


def _is_signed(one: Attestation) -> bool:
    try:
        return recover(one.digest, one.signature) == one.guardian
    except ValueError:
        return False


# The outbox


def deploy_outbox(chain: Any, timelock: str, *, sender: Any) -> Any:
    """A new outbox that only this timelock writes to, bound; anybody may deploy it. Whose it is never changes.

    Args:
        chain: `agents.localnet.evm.LocalEvm`, or `agents.chain.RemoteChain`.

    Raises:
        Misconfigured: No contract is at the timelock's address.
    """
    if not chain.w3.eth.get_code(to_checksum_address(timelock)):
        raise Misconfigured(f"no contract is at {timelock}: give the timelock's address from the deployment's file")
    return chain.deploy("DecisionOutbox", to_checksum_address(timelock), sender=sender)


def read_decision(
    chain: ChainReader, outbox: Any, *, program: bytes, protocol: bytes, nonce: int, finality: str | int = "finalized"
) -> Decision:
    """A decision as the chain's last final block has it, checked against the digest that is stored there.

    Args:
        outbox: The bound contract `DecisionOutbox`.
        finality: Which block is believed, a tag or a number: "latest" only on a chain of one's own, where nothing is
            taken back.

    Raises:
        NotInTheOutbox: There is none of that nonce, or its event and what is stored differ.
        Retryable: It is there, but not final yet.
    """
    final = int(chain.w3.eth.get_block(finality)["number"])
    asked = outbox.functions.digestOf(program, protocol, nonce)
    is_there = chain.w3.eth.get_code(outbox.address, block_identifier=final)
    stored = bytes(chain.call(asked, block=final)) if is_there else bytes(32)
    if not any(stored):
        if chain.w3.eth.get_code(outbox.address) and any(chain.call(asked)):
            raise Retryable(f"decision {nonce} is not in a final block yet: wait some minutes")
        raise NotInTheOutbox(f"outbox {outbox.address} has no decision {nonce} for this protocol")
    sent = outbox.events.DecisionSent()
    words = (_SENT, program, protocol, nonce.to_bytes(32, "big"))
    for log in fetch_logs(chain, outbox.address, ["0x" + word.hex() for word in words], from_block=None):
        told = sent.process_log(log)["args"]
        decision = Decision(
            program=program, protocol=protocol, evm_chain_id=int(chain.w3.eth.chain_id), outbox=outbox.address,
            nonce=nonce, expires_s=int(told["expiresAt"]), payload=bytes(told["payload"]),
        )  # fmt: skip
        if decision.digest == stored:
            return decision
    raise NotInTheOutbox(f"outbox {outbox.address}: the events of decision {nonce} are not what is stored")


# What it says


def payload_of(instruction_data: bytes, subject: bytes, *, decision_bytes: int = 12) -> bytes:
    """Of an instruction that was built with an empty decision (an expiry and no signatures: 12 bytes)."""
    return instruction_data[:8] + subject + instruction_data[8:-decision_bytes]


def describe(payload: bytes, ledger: Any, *, kind: int = OF_THE_DAO) -> dict[str, Any]:
    """A payload in words: the instruction, what it is for, the account it is about, and its arguments by name.

    Args:
        ledger: `agents.solana_program.Ledger`.
        kind: Whose word it is. A decision of the DAO can't be what guardians say alone, nor the other way round.

    Raises:
        Misconfigured: It is no instruction that takes such a decision, so it will never be carried out, and holds up
            those behind it until it expires.
    """
    from construct import ConstructError

    try:
        name, arguments = ledger.decode_arguments(payload[:8] + payload[40:] + bytes(12))
    except (KeyError, ValueError, ConstructError) as error:
        raise Misconfigured(f"the payload is no instruction of the program ({error}): do not sign it") from error
    if _SAID_BY[kind] not in ledger.docs[name]:
        raise Misconfigured(f"the payload is {name}, which takes no such decision: do not sign it")
    decision = arguments["decision"]
    if decision.expires_s or decision.signatures:
        raise Misconfigured(f"the payload has more than the arguments of {name}: do not sign it")
    return {
        "instruction": name, "about": ledger.text_of(payload[8:40]), "purpose": ledger.docs[name],
        "arguments": {key: plain(value) for key, value in arguments.items() if key != "decision"},
    }  # fmt: skip


def plain(value: Any) -> Any:
    """Decoded values as JSON: hashes as hex, keys in base58."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items() if not str(key).startswith("_")}
    if hasattr(value, "__dataclass_fields__"):
        return {key: plain(getattr(value, key)) for key in value.__dataclass_fields__}
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, int) for item in value) and len(value) in (7, 20, 32, 64):
            return "0x" + bytes(value).hex()
        return [plain(item) for item in value]
    return value if isinstance(value, int | str | bool) else str(value)


def to_json(attestation: Attestation, decision: Decision) -> str:
    """A file's content: the signature, and what it is of."""
    told = {
        "program": decision.program.hex(), "protocol": decision.protocol.hex(), "evm_chain_id": decision.evm_chain_id,
        "outbox": decision.outbox, "nonce": decision.nonce, "expires_s": decision.expires_s,
        "payload": decision.payload.hex(), "kind": decision.kind,
    }  # fmt: skip
    return json.dumps(attestation.to_dict() | {"decision": told}, indent=2) + "\n"
