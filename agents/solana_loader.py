"""Deploying a program by Solana's upgradeable loader: a buffer, writes, deployment; then nobody can replace it.

Imports solders and the standard library alone: the same steps are taken on newer runtimes, where nothing else of ours
runs (`tools/solana_replay.py`).

Instructions and layouts: https://docs.rs/solana-loader-v3-interface.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, create_account

LOADER: Final = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
SYSTEM: Final = Pubkey.default()
RENT: Final = Pubkey.from_string("SysvarRent111111111111111111111111111111111")
CLOCK: Final = Pubkey.from_string("SysvarC1ock11111111111111111111111111111111")
# What stands in front of a program in a buffer and in its data, and how large the program's own account is.
BUFFER_HEADER, DATA_HEADER, PROGRAM_SIZE = 37, 45, 36
# Of a program in one transaction, which has at most 1,232 bytes.
CHUNK: Final = 900
_INITIALISE_BUFFER, _WRITE, _DEPLOY, _SET_AUTHORITY = 0, 1, 2, 4


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction: its instructions, and whose signatures it needs beside the payer's ("buffer", "program")."""

    what: str
    instructions: list[Instruction]
    signers: tuple[str, ...] = ()


def data_address(program: Pubkey) -> Pubkey:
    """Where the loader keeps a program's code."""
    return Pubkey.find_program_address([bytes(program)], LOADER)[0]


def upgrade_authority(data: bytes) -> Pubkey | None:
    """Who may replace the code, told by the account at `data_address`; None when nobody can.

    Raises ValueError when it is no program's data.
    """
    if len(data) < DATA_HEADER or data[:4] != b"\x03\0\0\0":
        raise ValueError("no program's data")
    return Pubkey.from_bytes(data[13:45]) if data[12] else None


def deployment(
    code: bytes,
    *,
    payer: Pubkey,
    program: Pubkey,
    buffer: Pubkey,
    rent_lamports: Callable[[int], int],
    is_final: bool = True,
    written: bytes | None = None,
) -> Iterator[Step]:
    """The transactions that deploy a program, in order.

    Args:
        payer: Pays, and may upgrade unless `is_final`.
        program, buffer: New addresses, whose keys sign once.
        rent_lamports: What an account of so many bytes must keep.
        is_final: Afterwards nobody can replace the code.
        written: What the buffer's account holds already, when an earlier attempt was interrupted.
    """
    if written is None:
        make = _create(payer, buffer, BUFFER_HEADER + len(code), rent_lamports)
        begin = _loader(struct.pack("<I", _INITIALISE_BUFFER), (buffer, "w"), (payer, ""))
        yield Step("buffer", [make, begin], ("buffer",))
    for at in range(0, len(code), CHUNK):
        chunk = code[at : at + CHUNK]
        if written and written[BUFFER_HEADER + at : BUFFER_HEADER + at + len(chunk)] == chunk:
            continue
        data = struct.pack("<IIQ", _WRITE, at, len(chunk)) + chunk
        yield Step(f"write {at}", [_loader(data, (buffer, "w"), (payer, "s"))])
    code_at = data_address(program)
    deploy = _loader(
        struct.pack("<IQ", _DEPLOY, len(code)), (payer, "sw"), (code_at, "w"), (program, "w"), (buffer, "w"),
        (RENT, ""), (CLOCK, ""), (SYSTEM, ""), (payer, "s"),
    )  # fmt: skip
    yield Step("deploy", [_create(payer, program, PROGRAM_SIZE, rent_lamports), deploy], ("program",))
    if is_final:
        give_up = _loader(struct.pack("<I", _SET_AUTHORITY), (code_at, "w"), (payer, "s"))
        yield Step("give up the right to upgrade", [give_up])


def _create(payer: Pubkey, made: Pubkey, size: int, rent_lamports: Callable[[int], int]) -> Instruction:
    return create_account(
        CreateAccountParams(
            from_pubkey=payer, to_pubkey=made, lamports=rent_lamports(size), space=size, owner=LOADER
        )
    )


def _loader(data: bytes, *accounts: tuple[Pubkey, str]) -> Instruction:
    """An instruction of the loader; of each account: s when it signs, w when it is written to."""
    return Instruction(LOADER, data, [AccountMeta(key, "s" in role, "w" in role) for key, role in accounts])
