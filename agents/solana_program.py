"""The programs on Solana, as Python sees them: addresses, instructions, accounts, events and errors.

All of it follows from the IDL beside the built program, by anchorpy. Nothing here talks to a chain.
"""

from __future__ import annotations

import base64
import copyreg
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from anchorpy import Context, Idl, Program, Provider
from construct import ConstructError
from pyheck import snake
from solders.instruction import Instruction
from solders.pubkey import Pubkey

from oracle.vault_state import reason_names

PROGRAMS: Final = Path(__file__).parent / "solana_programs"
TOKEN_PROGRAM: Final = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
SYSTEM_PROGRAM: Final = Pubkey.default()
# Of a unit price, and of a price in quote.
UNIT_PRICE_ONE: Final = 10**9
PRICE_ONE: Final = 10**8
# The head of a ledger without entries.
NO_HEAD: Final = bytes(32)

# anchorpy copies structures deeply, and solders' keys of this version don't say how they are copied.
copyreg.pickle(Pubkey, lambda key: (Pubkey.from_bytes, (bytes(key),)))

# How Anchor marks an event that is the data of a call.
_EVENT_TAG: Final = hashlib.sha256(b"anchor:event").digest()[:8][::-1]
_INVOKE = re.compile(r"^Program (\w+) invoke \[\d+\]$")
_FAILED = re.compile(r"^Program (\w+) failed: custom program error: 0x([0-9a-f]+)$")
_RETURN = re.compile(r"^Program (\w+) (?:success|failed.*)$")


@dataclass(frozen=True, slots=True)
class Event:
    """What a program said. `fields` by the IDL's names in snake_case; keys are `Pubkey`, hashes are bytes."""

    name: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ProgramError(Exception):
    """The program refused: its error's name and sentence, from the IDL."""

    code: int
    name: str
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


class AnchorProgram:
    """One program at one address.

    Args:
        name: Of the files in `solana_programs`: "marketflow_ledger" or "marketflow_pool".
        program_id: Where it is deployed.
    """

    def __init__(self, name: str, program_id: Pubkey) -> None:
        self.name, self.id = name, program_id
        idl = Idl.from_json((PROGRAMS / f"{name}.json").read_text())
        # The provider is what anchorpy would send with: we send ourselves.
        self._program = Program(idl, program_id, Provider(None, None))
        self.types: Mapping[str, Any] = self._program.type
        self.errors = {e.code: ProgramError(e.code, e.name, e.msg or "") for e in idl.errors or ()}
        self.docs = {snake(i.name): " ".join(i.docs or ()) for i in idl.instructions}
        self._arguments = {snake(i.name): [snake(a.name) for a in i.args] for i in idl.instructions}
        self._accounts = {snake(i.name): [snake(a.name) for a in i.accounts] for i in idl.instructions}

    @property
    def binary(self) -> bytes:
        """The built program: an ELF file."""
        return (PROGRAMS / f"{self.name}.so").read_bytes()

    def accounts_of(self, instruction: str) -> list[str]:
        """Names of the accounts that an instruction takes, in order."""
        return self._accounts[instruction]

    def arguments_of(self, instruction: str) -> list[str]:
        """Names of an instruction's arguments, in order."""
        return self._arguments[instruction]

    def instruction(self, name: str, known: Mapping[str, Pubkey], *args: Any) -> Instruction:
        """An instruction by its name in snake_case; of the `known` accounts it takes those that the IDL lists.

        Raises:
            KeyError: An account that the instruction takes is not among the known ones.
        """
        accounts = {account: known[account] for account in self.accounts_of(name)}
        return self._program.instruction[name](*args, ctx=Context(accounts=accounts))

    def decode_arguments(self, data: bytes) -> tuple[str, dict[str, Any]]:
        """Name and arguments of an instruction's data.

        Raises:
            KeyError: It begins as none does.
            ValueError: It is longer or shorter than its arguments.
        """
        try:
            decoded = self._program.coder.instruction.parse(data)
        except ConstructError as error:
            raise ValueError(f"the data ends before its arguments: {error}") from error
        if self._program.coder.instruction.build(decoded) != data:
            raise ValueError(f"the data of {decoded.name} has another size than its arguments")
        return decoded.name, {k: v for k, v in decoded.data.items() if not k.startswith("_")}

    def encode(self, kind: str, value: Any) -> bytes:
        """A value of a type of the IDL, in Borsh."""
        return self._program.coder.types.encode(kind, value)

    def decode(self, data: bytes) -> Any:
        """What one of the program's accounts holds.

        Raises:
            KeyError: It is of no kind that the IDL lists.
        """
        return self._program.coder.accounts.decode(data)

    def kind_of(self, data: bytes) -> str:
        """The IDL's name of that kind of account."""
        return self._program.coder.accounts.discriminator_to_acc_name[data[:8]]

    def discriminator(self, kind: str) -> bytes:
        """How accounts of that kind begin."""
        return self._program.coder.accounts.acc_name_to_discriminator[kind]

    def events(self, logs: Iterable[str]) -> Iterator[Event]:
        """The events that this program wrote; what other programs wrote in calls between is theirs."""
        stack: list[str] = []
        for line in logs:
            if match := _INVOKE.match(line):
                stack.append(match[1])
            elif _RETURN.match(line) and stack:
                stack.pop()
            elif line.startswith("Program data: ") and stack and stack[-1] == str(self.id):
                event = self._program.coder.events.parse(base64.b64decode(line.removeprefix("Program data: ")))
                if event is not None:
                    yield Event(event.name, {name: _plain(value) for name, value in vars(event.data).items()})

    def entries(self, calls: Iterable[tuple[Pubkey, bytes]]) -> Iterator[Event]:
        """The events that the program wrote as data of calls of itself: a log can be cut, calls can't.

        Args:
            calls: The calls that a transaction's instructions made of programs, in order: which program, and the data.
                Not the transaction's own instructions: those anybody writes.
        """
        for program, data in calls:
            if program == self.id and data[:8] == _EVENT_TAG:
                event = self._program.coder.events.parse(data[8:])
                if event is not None:
                    yield Event(event.name, {name: _plain(value) for name, value in vars(event.data).items()})

    def encode_event(self, event: Event) -> bytes:
        """The bytes that the event was written as, with its kind's eight in front."""
        kind = hashlib.sha256(f"event:{event.name}".encode()).digest()[:8]
        return kind + self._program.coder.events.layouts[event.name].build(event.fields)

    def error(self, code: int) -> ProgramError:
        """The error of that number."""
        return self.errors.get(code) or ProgramError(code, f"Error{code}", "the program has no error of this number")

    @staticmethod
    def text_of(key: bytes) -> str:
        """A key in base58."""
        return str(Pubkey.from_bytes(key))

    def address(self, *seeds: bytes) -> Pubkey:
        """The address that those seeds give to the program."""
        return Pubkey.find_program_address(list(seeds), self.id)[0]


def failure(logs: Iterable[str], *programs: AnchorProgram) -> ProgramError | None:
    """Which of the programs refused first, and why: its error passes through those that called it as a bare number."""
    named = {str(program.id): program for program in programs}
    for line in logs:
        if (match := _FAILED.match(line)) and match[1] in named:
            return named[match[1]].error(int(match[2], 16))
    return None


def _plain(value: Any) -> Any:
    """Arrays of bytes, which the coder gives as lists, as bytes."""
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        return bytes(value)
    return value


class Ledger(AnchorProgram):
    """`marketflow_ledger` at one address, and the addresses of what it keeps."""

    def __init__(self, program_id: Pubkey) -> None:
        super().__init__("marketflow_ledger", program_id)

    def protocol(self, config: Any) -> Pubkey:
        """Of a protocol that begins with that configuration."""
        return self.address(b"protocol", hashlib.sha256(self.encode("Config", config)).digest())

    def agent(self, protocol: Pubkey, controller: Pubkey) -> Pubkey:
        """Of that controller's agent."""
        return self.address(b"agent", bytes(protocol), bytes(controller))

    def vault(self, protocol: Pubkey, manifest: Any) -> Pubkey:
        """Of the vault that is opened for that manifest."""
        return self.address(b"vault", bytes(protocol), hashlib.sha256(self.encode("Manifest", manifest)).digest())

    def decision(self, expires_s: int, signatures: Iterable[tuple[int, int, bytes]] = ()) -> Any:
        """What stands behind the arguments of a decided instruction: guardian's place, recovery id, r ‖ s of each."""
        make = self.types["Signature"]
        made = [make(guardian=place, recovery_id=id_, signature=list(rs)) for place, id_, rs in signatures]
        return self.types["Decision"](expires_s=expires_s, signatures=made)

    def known(self, protocol: Pubkey, *, vault: Pubkey | None = None) -> dict[str, Pubkey]:
        """The accounts of a protocol, and of one of its vaults, that follow from their addresses."""
        found = {
            "protocol": protocol,
            "treasury": self.address(b"treasury", bytes(protocol)),
            "rewards": self.address(b"rewards", bytes(protocol)),
            "token_program": TOKEN_PROGRAM,
            "system_program": SYSTEM_PROGRAM,
            "ledger_program": self.id,
        }
        if vault is not None:
            found |= {
                "vault": vault,
                "vault_quote": self.address(b"quote", bytes(vault)),
                "vault_base": self.address(b"base", bytes(vault)),
            }
        return found


class Pool(AnchorProgram):
    """`marketflow_pool` at one address."""

    def __init__(self, program_id: Pubkey) -> None:
        super().__init__("marketflow_pool", program_id)

    def known(self, maker: Pubkey, quote_mint: Pubkey, base_mint: Pubkey) -> dict[str, Pubkey]:
        """The accounts of a maker's pool."""
        pool = self.address(b"pool", bytes(maker), bytes(quote_mint), bytes(base_mint))
        return {
            "maker": maker, "quote_mint": quote_mint, "base_mint": base_mint, "pool": pool,
            "pool_quote": self.address(b"quote", bytes(pool)), "pool_base": self.address(b"base", bytes(pool)),
            "token_program": TOKEN_PROGRAM, "system_program": SYSTEM_PROGRAM,
        }  # fmt: skip


class LedgerBroken(ValueError):
    """The events do not hash to the vault's head: one is missing, added or changed."""


def verify_chain(ledger: Ledger, trades: Sequence[Event], head: bytes) -> None:
    """Recomputes a vault's chain of hashes from its `TradeRecorded` events, oldest first.

    Raises:
        LedgerBroken: Names the first entry that does not follow from those before it.
    """
    running = NO_HEAD
    for number, trade in enumerate(trades):
        running = next_head(ledger, running, trade)
        if trade.fields["sequence"] != number or running != trade.fields["head"]:
            raise LedgerBroken(f"entry {number}: it does not follow from those before it")
    if running != head:
        raise LedgerBroken(f"{len(trades)} events hash to {running.hex()}, the vault's head is {head.hex()}")


def next_head(ledger: Ledger, head: bytes, trade: Event) -> bytes:
    """sha256(head ‖ the event's fields in Borsh, but for the last), as the program computes it."""
    return hashlib.sha256(head + ledger.encode_event(trade)[8:-32]).digest()


def states(reasons: int) -> str:
    """Why a vault may only reduce, in words; "" when it may do all."""
    return ", ".join(reason_names(reasons))
