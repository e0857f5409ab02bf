"""Links one BPF object file into a program that Solana's loader takes (SBPF version 0).

    python tools/solana_link.py program.o program.so

clang has a back end for BPF and lld has none, so what a linker would do is done here: sections are laid out so that
file offset and address agree, calls become relative to the next instruction or, of a system call, a relocation by name,
and addresses of constants become relocations that the loader adds the program's base to.

Format: https://github.com/anza-xyz/sbpf, src/elf.rs and src/elf_parser; relocation types 1, 8 and 10 of its
`BpfRelocationType`. What version 0 can't run is refused here, because the loader would only notice when it is executed:
32-bit arithmetic of newer instruction sets, atomics, calls through a register, writable data, a system call that does
not exist.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Object files of clang: https://docs.kernel.org/bpf/llvm_reloc.html
R_64_64, R_64_RELATIVE, R_64_32 = 1, 8, 10
EM_BPF, ET_DYN, ET_REL = 247, 3, 1
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_NOBITS, SHT_REL, SHT_DYNSYM, SHT_DYNAMIC = 1, 2, 3, 8, 9, 11, 6
SHF_WRITE, SHF_ALLOC, SHF_EXEC = 1, 2, 4
INSTRUCTION: Final = 8
LDDW, CALL, CALLX = 0x18, 0x85, 0x8D
# Instruction classes: BPF_JMP32 is of version 3 of the instruction set, BPF_STX with these modes is atomic.
CLASS_JMP32, CLASS_STX, MODE_ATOMIC = 0x06, 0x03, 0xC0

SYSCALLS: Final = frozenset(
    "abort sol_panic_ sol_log_ sol_log_64_ sol_log_pubkey sol_log_compute_units_ sol_log_data sol_memcpy_ sol_memmove_ "
    "sol_memset_ sol_memcmp_ sol_sha256 sol_keccak256 sol_secp256k1_recover sol_create_program_address "
    "sol_try_find_program_address sol_invoke_signed_c sol_get_clock_sysvar sol_get_rent_sysvar sol_set_return_data "
    "sol_get_return_data sol_get_stack_height".split()
)


class LinkError(ValueError):
    """The object can't become a program; says which section, symbol or instruction."""


@dataclass(frozen=True, slots=True)
class Section:
    name: str
    kind: int
    flags: int
    content: bytes
    link: int
    info: int


@dataclass(frozen=True, slots=True)
class Symbol:
    name: str
    section: int
    value: int
    is_function: bool


@dataclass(frozen=True, slots=True)
class Relocation:
    offset: int
    symbol: Symbol
    kind: int


def link(obj: bytes, *, entry: str = "entrypoint") -> bytes:
    """The program's bytes. Raises LinkError."""
    sections = list(_sections(obj))
    symbols = list(_symbols(sections))
    code = _only_code(sections)
    constants = [i for i, s in enumerate(sections) if s.flags & SHF_ALLOC and i != code and s.content]
    for index in constants:
        _refuse_data(sections[index], sections, index)
    start = 64 + 3 * 56
    at, offset = {code: start}, _aligned(start + len(sections[code].content))
    for index in constants:
        at[index] = offset
        offset = _aligned(offset + len(sections[index].content))
    text = bytearray(sections[code].content)
    dynamic = _relocate(text, list(_relocations(sections, symbols, code)), at, code)
    _refuse_instructions(text)
    entries = [s for s in symbols if s.name == entry and s.section == code]
    if not entries:
        raise LinkError(f"there is no function {entry}")
    image = bytearray(start) + text
    for index in constants:
        image += b"\0" * (at[index] - len(image)) + sections[index].content
    # One section: the loader takes .rodata and no other name.
    constants_at = at[constants[0]] if constants else len(image)
    constants_span = (constants_at, len(image) - constants_at)
    return _finish(image, start, len(text), constants_span, dynamic, start + entries[0].value)


# Reading the object


def _sections(obj: bytes) -> Iterator[Section]:
    if obj[:6] != b"\x7fELF\x02\x01":
        raise LinkError("no little-endian ELF file of 64 bits")
    kind, machine = struct.unpack_from("<HH", obj, 16)
    if (kind, machine) != (ET_REL, EM_BPF):
        raise LinkError("no BPF object file: compile with -target bpfel -c")
    (table,), (size, count, names) = struct.unpack_from("<Q", obj, 40), struct.unpack_from("<HHH", obj, 58)
    rows = [struct.unpack_from("<IIQQQQIIQQ", obj, table + i * size) for i in range(count)]
    strings = obj[rows[names][4] : rows[names][4] + rows[names][5]]
    for name, kind, flags, _, offset, length, link_, info, _, _ in rows:
        content = b"\0" * length if kind == SHT_NOBITS else obj[offset : offset + length]
        yield Section(_text(strings, name), kind, flags, content, link_, info)


def _symbols(sections: list[Section]) -> Iterator[Symbol]:
    table = next((s for s in sections if s.kind == SHT_SYMTAB), None)
    if table is None:
        raise LinkError("the object has no symbols")
    strings = sections[table.link].content
    for name, info, _, section, value, _ in struct.iter_unpack("<IBBHQQ", table.content):
        yield Symbol(_text(strings, name), section, value, info & 15 == 2)


def _relocations(sections: list[Section], symbols: list[Symbol], of: int) -> Iterator[Relocation]:
    for section in sections:
        if section.kind == SHT_REL and section.info == of:
            for offset, info in struct.iter_unpack("<QQ", section.content):
                yield Relocation(offset, symbols[info >> 32], info & 0xFFFFFFFF)


def _only_code(sections: list[Section]) -> int:
    found = [i for i, s in enumerate(sections) if s.flags & SHF_EXEC and s.content]
    if [sections[i].name for i in found] != [".text"]:
        raise LinkError(f"code is to be in .text alone, found {[sections[i].name for i in found]}")
    return found[0]


def _refuse_data(section: Section, sections: list[Section], index: int) -> None:
    if section.flags & SHF_WRITE:
        raise LinkError(f"{section.name} is writable: a program has no variables of its own")
    if any(s.kind == SHT_REL and s.info == index for s in sections):
        raise LinkError(f"{section.name} has addresses in it: keep pointers out of constants")


# Relocating


def _relocate(text: bytearray, relocations: list[Relocation], at: dict[int, int], code: int) -> list[tuple[int, str]]:
    """Changes the code in place; what the loader has to do: place in the code, and the system call ("": an address)."""
    dynamic: list[tuple[int, str]] = []
    for relocation in sorted(relocations, key=lambda r: r.offset):
        symbol, place = relocation.symbol, relocation.offset
        if relocation.kind == R_64_32 and symbol.section == code:
            (addend,) = struct.unpack_from("<i", text, place + 4)
            target = symbol.value // INSTRUCTION + (0 if symbol.is_function else addend + 1)
            struct.pack_into("<i", text, place + 4, target - place // INSTRUCTION - 1)
        elif relocation.kind == R_64_32 and symbol.section == 0:
            if symbol.name not in SYSCALLS:
                raise LinkError(f"{symbol.name} is neither defined nor a system call")
            text[place + 1] = 0x10  # source register 1: a call by immediate
            struct.pack_into("<i", text, place + 4, -1)
            dynamic.append((place, symbol.name))
        elif relocation.kind == R_64_64 and symbol.section in at:
            low, high = struct.unpack_from("<I", text, place + 4)[0], struct.unpack_from("<I", text, place + 12)[0]
            address = at[symbol.section] + symbol.value + (high << 32 | low)
            struct.pack_into("<I", text, place + 4, address & 0xFFFFFFFF)
            struct.pack_into("<I", text, place + 12, address >> 32)
            dynamic.append((place, ""))
        else:
            raise LinkError(f"relocation {relocation.kind} of {symbol.name or 'a section'} at {place} can't be done")
    return dynamic


def _refuse_instructions(text: bytes) -> None:
    index = 0
    while index < len(text):
        code = text[index]
        if code & 7 == CLASS_JMP32 or (code & 7 == CLASS_STX and code & 0xE0 == MODE_ATOMIC):
            raise LinkError(f"instruction {code:#x} at {index} is of a newer set: compile with -mcpu=v2")
        if code & 7 == 4:
            raise LinkError(f"32-bit arithmetic at {index}: compile with -mcpu=v2, without alu32")
        if code == CALLX:
            raise LinkError(f"a call through a register at {index}: call functions by their names")
        index += 2 * INSTRUCTION if code == LDDW else INSTRUCTION


# Writing the program


def _finish(
    image: bytearray, start: int, text_size: int, constants: tuple[int, int], dynamic: list[tuple[int, str]], entry: int
) -> bytes:
    calls = sorted({name for _, name in dynamic if name})
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in calls)
    name_at = {name: strings.index(b"\0" + name.encode() + b"\0") + 1 for name in calls}
    symbols = bytes(24) + b"".join(struct.pack("<IBBHQQ", name_at[n], 0x10, 0, 0, 0, 0) for n in calls)
    relocations = b"".join(
        struct.pack("<QQ", start + place, calls.index(name) + 1 << 32 | R_64_32 if name else R_64_RELATIVE)
        for place, name in dynamic
    )
    rows = [(".text", SHT_PROGBITS, SHF_ALLOC | SHF_EXEC, start, text_size, 0, 0)]
    if constants[1]:
        rows.append((".rodata", SHT_PROGBITS, SHF_ALLOC, *constants, 0, 0))

    def add(name: str, kind: int, content: bytes, link_: int = 0, entry_size: int = 0, flags: int = SHF_ALLOC) -> int:
        image.extend(b"\0" * (_aligned(len(image)) - len(image)))
        rows.append((name, kind, flags, len(image), len(content), link_, entry_size))
        image.extend(content)
        return rows[-1][3]

    string_table = len(rows) + 3
    sym_at = add(".dynsym", SHT_DYNSYM, symbols, string_table, 24)
    rel_at = add(".rel.dyn", SHT_REL, relocations, string_table - 2, 16)
    str_at = add(".dynstr", SHT_STRTAB, strings)
    # A table without rows is refused: of a program that needs no relocation nothing is said of them.
    tags = [(17, rel_at), (18, len(relocations)), (19, 16)] if relocations else []
    tags += [(6, sym_at), (11, 24), (5, str_at), (10, len(strings)), (0, 0)]
    table = b"".join(struct.pack("<QQ", *tag) for tag in tags)
    dynamic_at = add(".dynamic", SHT_DYNAMIC, table, string_table, 16)
    names = b"\0" + b"".join(row[0].encode() + b"\0" for row in rows) + b".shstrtab\0"
    add(".shstrtab", SHT_STRTAB, names, flags=0)
    image.extend(b"\0" * (_aligned(len(image)) - len(image)))
    table_at = len(image)
    image.extend(bytes(64))
    for name, kind, flags, at, size, link_, entry_size in rows:
        name_offset = names.index(b"\0" + name.encode() + b"\0") + 1
        address = at if flags else 0
        image.extend(struct.pack("<IIQQQQIIQQ", name_offset, kind, flags, address, at, size, link_, 0, 8, entry_size))
    ends = sum(constants)
    data_at = start + text_size
    segments = [(1, 5, start, text_size), (1, 4, data_at, ends - data_at), (2, 4, dynamic_at, len(table))]
    count = len(rows) + 1
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH", ET_DYN, EM_BPF, 1, entry, 64, table_at, 0, 64, 56, len(segments), 64, count, len(rows)
    )
    for kind, flags, at, size in segments:
        header += struct.pack("<IIQQQQQQ", kind, flags, at, at, at, size, size, 8)
    image[: len(header)] = header
    return bytes(image)


def _aligned(offset: int) -> int:
    return offset + 7 & ~7


def _text(strings: bytes, at: int) -> str:
    return strings[at : strings.index(b"\0", at)].decode()


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    try:
        target.write_bytes(link(source.read_bytes()))
    except LinkError as error:
        sys.exit(f"{source}: {error}")


if __name__ == "__main__":
    main()
