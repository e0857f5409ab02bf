"""The programs are built of what lies beside them; the linker refuses what the runtime would notice too late."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from anchorpy.coder.common import _sighash
from pyheck import snake
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction
from solders.transaction_metadata import FailedTransactionMetadata, TransactionMetadata

from tools import build_solana
from tools.build_solana import BuildImpossible, ProgramsOutdated
from tools.solana_link import R_64_32, R_64_64, SHF_ALLOC, SHF_EXEC, SHF_WRITE, LinkError, link

ROOT = Path(__file__).resolve().parents[2]

# Linking. Instructions: https://www.kernel.org/doc/html/latest/bpf/standardization/instruction-set.html
EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)
NOTHING_WRONG = struct.pack("<BBhi", 0xB7, 0, 0, 0) + EXIT
CALL = struct.pack("<BBhi", 0x85, 0x10, 0, -1)
TEXT, CONSTANTS, OUTSIDE = 1, 2, 0


def move(register: int, value: int) -> bytes:
    return struct.pack("<BBhi", 0xB7, register, 0, value)


def load_address(register: int, offset: int = 0) -> bytes:
    return struct.pack("<BBhiBBhi", 0x18, register, 0, offset, 0, 0, 0, 0)


def make_object(
    code: bytes,
    *,
    symbols: Sequence[tuple[str, int, int]] = (("entrypoint", TEXT, 0),),
    relocations: Sequence[tuple[int, int, int]] = (),
    constants: bytes = b"",
    constants_flags: int = SHF_ALLOC,
    constants_relocations: Sequence[tuple[int, int, int]] = (),
    code_name: str = ".text",
    machine: int = 247,
) -> bytes:
    """An object as clang writes it: symbols are (name, section, value), relocations (offset, symbol's number, kind)."""
    names = ["", code_name, ".rodata", ".rel.text", ".rel.rodata", ".symtab", *(name for name, _, _ in symbols)]
    strings = b"\0".join(name.encode() for name in names) + b"\0"
    at = {name: len(b"\0".join(n.encode() for n in names[:i])) + (i > 0) for i, name in enumerate(names)}
    table = bytes(24)
    for name, section, value in symbols:
        table += struct.pack("<IBBHQQ", at[name], 0x12 if section == TEXT else 0x10, 0, section, value, 0)
    tables = [
        b"".join(struct.pack("<QQ", offset, number + 1 << 32 | kind) for offset, number, kind in rows)
        for rows in (relocations, constants_relocations)
    ]
    # The sixth and last but one holds all the names.
    contents = [
        ("", 0, 0, b"", 0, 0), (code_name, 1, SHF_ALLOC | SHF_EXEC, code, 0, 0),
        (".rodata", 1, constants_flags, constants, 0, 0), (".rel.text", 9, 0, tables[0], 5, TEXT),
        (".rel.rodata", 9 if constants_relocations else 0, 0, tables[1], 5, CONSTANTS),
        (".symtab", 2, 0, table, 6, 0), ("", 3, 0, strings, 0, 0),
    ]  # fmt: skip
    image, rows = bytearray(64), []
    for name, kind, flags, content, linked, info in contents:
        rows.append((at[name], kind, flags, 0, len(image), len(content), linked, info, 8, 0))
        image += content + bytes(-len(content) % 8)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 1, machine, 1, 0, 0, len(image), 0, 64, 0, 0, 64, len(rows), len(rows) - 1)
    image[:64] = header
    return bytes(image) + b"".join(struct.pack("<IIQQQQIIQQ", *row) for row in rows)


def run(program: bytes) -> TransactionMetadata | FailedTransactionMetadata:
    svm, payer, program_id = LiteSVM(), Keypair(), Pubkey.new_unique()
    svm.airdrop(payer.pubkey(), 10**9)
    svm.add_program(program_id, program)
    message = Message([Instruction(program_id, b"", [])], payer.pubkey())
    return svm.send_transaction(Transaction([payer], message, svm.latest_blockhash()))


def test_what_was_linked_runs() -> None:
    assert isinstance(run(link(make_object(NOTHING_WRONG))), TransactionMetadata)


def test_the_entry_point_is_where_the_symbol_says() -> None:
    first = move(0, 7) + EXIT
    program = link(make_object(first + NOTHING_WRONG, symbols=[("entrypoint", TEXT, len(first))]))
    assert isinstance(run(program), TransactionMetadata)
    assert isinstance(run(link(make_object(first + NOTHING_WRONG))), FailedTransactionMetadata)


def test_constants_system_calls_and_own_functions_are_found() -> None:
    """It logs a constant that lies after another, by a function of its own."""
    log = load_address(1, 5) + move(2, 5) + CALL + NOTHING_WRONG
    code = struct.pack("<BBhi", 0x85, 0x10, 0, -1) + NOTHING_WRONG + log
    symbols = [("entrypoint", TEXT, 0), ("sol_log_", OUTSIDE, 0), ("words", CONSTANTS, 0), ("write", TEXT, 24)]
    relocations = [(0, 3, R_64_32), (24, 2, R_64_64), (24 + 24, 1, R_64_32)]
    made = make_object(code, symbols=symbols, relocations=relocations, constants=b"wronghello")
    result = run(link(made))
    assert isinstance(result, TransactionMetadata)
    assert "Program log: hello" in result.logs()


JUMP_32 = struct.pack("<BBhi", 0x16, 0, 0, 0)
ADD_32 = struct.pack("<BBhi", 0x04, 0, 0, 1)
ATOMIC_ADD = struct.pack("<BBhi", 0xDB, 0x10, 0, 0)
CALL_REGISTER = struct.pack("<BBhi", 0x8D, 0, 0, 1)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (make_object(JUMP_32 + NOTHING_WRONG), "newer set"),
        (make_object(ADD_32 + NOTHING_WRONG), "32-bit arithmetic"),
        (make_object(ATOMIC_ADD + NOTHING_WRONG), "newer set"),
        (make_object(CALL_REGISTER + NOTHING_WRONG), "through a register"),
        (make_object(NOTHING_WRONG, symbols=[("main", TEXT, 0)]), "no function entrypoint"),
        (make_object(NOTHING_WRONG, code_name=".text.unlikely"), r"in \.text alone"),
        (make_object(NOTHING_WRONG, constants=b"x", constants_flags=SHF_ALLOC | SHF_WRITE), "writable"),
        (make_object(NOTHING_WRONG, constants=bytes(8), constants_relocations=[(0, 0, 2)]), "has addresses in it"),
        (make_object(load_address(1) + NOTHING_WRONG, relocations=[(0, 0, 99)]), "can't be done"),
        (make_object(NOTHING_WRONG, machine=62), "no BPF object"),
        (b"#!/bin/sh", "no little-endian ELF"),
    ],
)
def test_what_the_runtime_can_not_run_is_not_linked(made: bytes, said: str) -> None:
    with pytest.raises(LinkError, match=said):
        link(made)


def test_a_misspelt_system_call_is_not_linked() -> None:
    """The runtime would say so when that line is executed, and not before."""
    symbols = [("entrypoint", TEXT, 0), ("sol_sha265", OUTSIDE, 0)]
    with pytest.raises(LinkError, match="sol_sha265 is neither defined nor a system call"):
        link(make_object(CALL + NOTHING_WRONG, symbols=symbols, relocations=[(0, 1, R_64_32)]))


# What C takes from the interface


def test_instructions_accounts_and_events_begin_as_clients_expect() -> None:
    """Anchor's own vector, and every instruction beside the client's."""
    known = int.from_bytes(bytes.fromhex("afaf6d1f0d989bed"), "little")
    assert build_solana.discriminator("global:initialize") == known
    for program in build_solana.PROGRAMS:
        header = build_solana.header(build_solana.read_idl(ROOT, program), program)
        for instruction in build_solana.read_idl(ROOT, program)["instructions"]:
            name = snake(instruction["name"])
            number = int.from_bytes(_sighash(name), "little")
            assert f"#define IX_{name.upper()} {number:#018x}UL\n" in header


def test_errors_that_are_not_numbered_in_order_are_refused() -> None:
    idl = build_solana.read_idl(ROOT, "pool")
    idl["errors"][3]["code"] += 1
    with pytest.raises(BuildImpossible, match="number the errors 6000, 6001"):
        build_solana.header(idl, "pool")


# Whether the build is old


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A copy of what the check looks at, up to date even while somebody is changing the sources."""
    for folder in ("contracts/solana", "agents/solana_programs", "tests/solana/hostile"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/solana_link.py", tmp_path / "tools")
    build_solana.write_headers(tmp_path)
    output = tmp_path / "agents/solana_programs"
    for program in build_solana.PROGRAMS:
        shutil.copy(tmp_path / f"contracts/solana/marketflow_{program}.json", output)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.rglob("*.so")}
    build_solana.write_lock(output, build_solana.source_hashes(tmp_path), hashes)
    return tmp_path


def test_a_build_of_the_same_bytes_is_up_to_date(built: Path) -> None:
    build_solana.check(built)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("contracts/solana/src/ledger.c", r"older than contracts/solana/src/ledger\.c"),
        ("contracts/solana/src/math.h", r"older than contracts/solana/src/math\.h"),
        ("tools/solana_link.py", r"older than tools/solana_link\.py"),
        ("contracts/solana/marketflow_ledger.json", r"older than contracts/solana/marketflow_ledger\.json"),
        ("contracts/solana/src/generated_pool.h", r"generated_pool\.h is not what the interface gives"),
        ("agents/solana_programs/marketflow_pool.json", r"marketflow_pool\.json is not a copy"),
        ("agents/solana_programs/marketflow_ledger.so", r"marketflow_ledger\.so is not the file that was built"),
        ("agents/solana_programs/lock.json", "is not JSON"),
    ],
)
def test_one_byte_more_anywhere_makes_the_build_old(built: Path, path: str, said: str) -> None:
    with (built / path).open("ab") as file:
        # In JSON a blank changes no meaning: the interface's own bytes count.
        file.write(b"!" if path.endswith("lock.json") else b"\n")
    with pytest.raises(ProgramsOutdated, match=f"{said}.*make solana-build"):
        build_solana.check(built)


def test_a_source_that_came_or_went_makes_the_build_old(built: Path) -> None:
    (built / "contracts/solana/src/more.h").write_text("")
    with pytest.raises(ProgramsOutdated, match=r"more\.h"):
        build_solana.check(built)
    (built / "contracts/solana/src/more.h").unlink()
    (built / "contracts/solana/src/math.h").unlink()
    with pytest.raises(ProgramsOutdated, match=r"math\.h"):
        build_solana.check(built)


@pytest.mark.parametrize("key", ["compiler", "flags", "format"])
def test_another_compiler_flag_or_format_makes_the_build_old(built: Path, key: str) -> None:
    lock = built / "agents/solana_programs/lock.json"
    lock.write_text(json.dumps(json.loads(lock.read_text()) | {key: "another"}))
    with pytest.raises(ProgramsOutdated, match=key):
        build_solana.check(built)


def test_a_build_without_the_compiler_says_how_to_get_it(built: Path) -> None:
    with pytest.raises(BuildImpossible, match="make solana-build"):
        build_solana.build(built, built / "agents/solana_programs")
    with pytest.raises(BuildImpossible, match="make solana-build"):
        build_solana.check(built, full=True)
