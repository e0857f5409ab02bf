"""Builds the Solana programs, contracts/solana, into agents/solana_programs, or says if what lies there is old.

    python tools/build_solana.py                   compiles, links, writes the lock file (`make solana-build`)
    python tools/build_solana.py --headers         writes only what C takes from the interfaces; needs no compiler
    python tools/build_solana.py --check           compares hashes; needs neither compiler nor packages
    python tools/build_solana.py --check --full    compiles again elsewhere and compares every byte

A program's interface (IDL) is marketflow_NAME.json; its numbers (what instructions, accounts and events begin with, and
the errors) become src/generated_NAME.h, so that C and the clients can't disagree. The compiler is the clang in Zig's
Python package, pinned with its hash in contracts/solana/requirements.txt; it has no linker for this machine, so
tools/solana_link.py does that. One version of it gives the same bytes in any folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]
# Started as a program, Python looks in tools/ alone.
sys.path.insert(0, str(ROOT))

from tools.solana_link import LinkError, link  # noqa: E402

FORMAT = "marketflow/solana-build/1"
PROGRAMS: Final = ("ledger", "pool")
# What tests attack with: built into its own folder, and not shipped.
HOSTILE: Final = "tests/solana/hostile/venue"
COMPILER: Final = "ziglang 0.17.1"
FLAGS: Final = tuple(
    "-target bpfel-freestanding -O2 -mcpu=v2 -ffreestanding -fno-builtin -fno-jump-tables "
    "-fno-asynchronous-unwind-tables -fno-unwind-tables -Wall -Wextra -Werror -mllvm -bpf-stack-size=4096".split()
)
FIRST_ERROR: Final = 6000  # Anchor's numbering of a program's own errors
AGAIN = "run `make solana-build`"


class ProgramsOutdated(Exception):
    """What is committed is not what the sources give."""


class BuildImpossible(Exception):
    """The compiler is missing, or the sources don't compile or link."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 with one sentence on standard error."""
    parser = argparse.ArgumentParser(description="Build the Solana programs, or check those that are there.")
    parser.add_argument("--headers", action="store_true", help="write only the generated headers")
    parser.add_argument("--check", action="store_true", help="change nothing; say whether the build is up to date")
    parser.add_argument("--full", action="store_true", help="with --check: compile again elsewhere and compare bytes")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            check(ROOT, full=options.full)
            print(f"agents/solana_programs/ is up to date: {len(PROGRAMS)} programs.")
        elif options.headers:
            write_headers(ROOT)
        else:
            build(ROOT, ROOT / "agents/solana_programs")
    except (ProgramsOutdated, BuildImpossible) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


# Building


def build(root: Path, output: Path) -> None:
    """Writes the headers beside the sources; programs, interfaces and the lock file into `output`."""
    write_headers(root)
    with tempfile.TemporaryDirectory(prefix="solana-") as folder:
        # A copy: what is edited while this runs is neither in the programs nor in the lock file's hashes.
        copy = Path(folder)
        for path in source_files(root):
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, copy / path)
        sources = source_hashes(copy)
        made = {file_name(name): compile_program(copy, name, python=compiler_python(root)) for name in PROGRAMS}
        made |= {f"marketflow_{name}.json": _idl_file(copy, name).read_bytes() for name in PROGRAMS}
        hostile = compile_file(copy, f"{HOSTILE}.c", python=compiler_python(root))
    (output.parent.parent / HOSTILE).with_suffix(".so").write_bytes(hostile)
    output.mkdir(parents=True, exist_ok=True)
    for name, content in made.items():
        (output / name).write_bytes(content)
    programs = {name: _sha256(content) for name, content in made.items() if name.endswith(".so")}
    programs["venue.so"] = _sha256(hostile)
    write_lock(output, sources, programs)
    for name in filter(made.__contains__, programs):
        print(f"{name}: {len(made[name]):,} bytes, sha256 {programs[name]}")


def write_lock(output: Path, sources: dict[str, str], programs: dict[str, str]) -> None:
    """Notes down the hashes of what the programs in `output` were made of, and theirs."""
    lock = {"format": FORMAT, "compiler": COMPILER, "flags": " ".join(FLAGS), "sources": sources, "programs": programs}
    (output / "lock.json").write_text(json.dumps(lock, indent=1) + "\n", encoding="utf-8")


def compile_program(root: Path, name: str, *, python: Path) -> bytes:
    """The linked program of the sources in `root`. Raises BuildImpossible with what compiler or linker said."""
    return compile_file(root, f"contracts/solana/src/{name}.c", python=python)


def compile_file(root: Path, name: str, *, python: Path) -> bytes:
    """The same of one file in C. Raises BuildImpossible."""
    source = root / name
    with tempfile.TemporaryDirectory(prefix="solana-object-") as folder:
        object_file = Path(folder) / "program.o"
        command = [str(python), "-m", "ziglang", "cc", *FLAGS, "-c", str(source), "-o", str(object_file)]
        caches = {"ZIG_GLOBAL_CACHE_DIR": folder, "ZIG_LOCAL_CACHE_DIR": folder}
        done = subprocess.run(command, env={**os.environ, **caches}, capture_output=True, text=True)
        if done.returncode:
            raise BuildImpossible(f"{name} does not compile:\n{done.stderr.strip()[-4000:]}")
        try:
            return link(object_file.read_bytes())
        except LinkError as error:
            raise BuildImpossible(f"{name} compiles but does not link: {error}") from error


def compiler_python(root: Path) -> Path:
    """The interpreter of the environment that has the pinned compiler. Raises BuildImpossible."""
    python = root / ".venv-solana/bin/python"
    if not python.exists():
        raise BuildImpossible("the compiler is not installed: `make solana-build` puts it into .venv-solana (411 MB)")
    ask = "import importlib.metadata as m; print('ziglang', m.version('ziglang'))"
    found = subprocess.run([str(python), "-c", ask], capture_output=True, text=True).stdout.strip()
    if found != COMPILER:
        raise BuildImpossible(f".venv-solana has {found or 'no ziglang'}, not {COMPILER}: delete it and {AGAIN}")
    return python


# What C takes from an interface


def write_headers(root: Path) -> None:
    """Writes those that differ, so that a build tool sees no change where there is none."""
    for name in PROGRAMS:
        text, path = header(read_idl(root, name), name), _header_file(root, name)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def header(idl: dict[str, Any], name: str) -> str:
    """The C header of one program's interface. Raises BuildImpossible when its errors are not numbered from 6000 on."""
    lines = [f"/* Generated from marketflow_{name}.json by tools/build_solana.py. */"]
    lines += [f"#ifndef GENERATED_{name.upper()}_H", f"#define GENERATED_{name.upper()}_H", ""]
    lines += ["/* What instructions, accounts and events begin with: eight bytes, as a little-endian number. */"]
    for prefix, space, kind in (("IX", "global", "instructions"), ("ACCOUNT", "account", "accounts"),
                                ("EVENT", "event", "events")):  # fmt: skip
        for item in idl.get(kind, []):
            hashed = snake_case(item["name"]) if kind == "instructions" else item["name"]
            constant = f"{prefix}_{snake_case(item['name']).upper()}"
            lines.append(f"#define {constant} {discriminator(f'{space}:{hashed}'):#018x}UL")
    errors = idl["errors"]
    if [error["code"] for error in errors] != list(range(FIRST_ERROR, FIRST_ERROR + len(errors))):
        raise BuildImpossible(f"marketflow_{name}.json: number the errors {FIRST_ERROR}, {FIRST_ERROR + 1} and so on")
    names = [snake_case(error["name"]).upper() for error in errors]
    names[0] += f" = {FIRST_ERROR}"
    lines += ["", "enum {", *(f"    {constant}," for constant in names), "};", "", "#endif"]
    return "\n".join(lines) + "\n"


def discriminator(preimage: str) -> int:
    """The first eight bytes of the SHA-256 as Anchor's clients send them, read as little-endian.
    https://www.anchor-lang.com/docs/basics/idl#discriminators"""
    return int.from_bytes(hashlib.sha256(preimage.encode()).digest()[:8], "little")


def snake_case(name: str) -> str:
    """`setSigningKey` and `SigningKeySet` in words with underscores."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


# Checking


def check(root: Path, *, full: bool = False) -> None:
    """Raises ProgramsOutdated naming the first difference; without `full` it takes milliseconds."""
    for name in PROGRAMS:
        text, path = header(read_idl(root, name), name), _header_file(root, name)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            raise ProgramsOutdated(f"{path.relative_to(root)} is not what the interface gives: {AGAIN}")
    output = root / "agents/solana_programs"
    lock = _read_lock(output)
    built_by = {"compiler": COMPILER, "flags": " ".join(FLAGS)}
    if changed := [key for key, value in built_by.items() if lock.get(key) != value]:
        raise ProgramsOutdated(f"the Solana programs were built with another {changed[0]}: {AGAIN}")
    now, then = source_hashes(root), lock["sources"]
    if different := sorted(path for path in now.keys() | then.keys() if now.get(path) != then.get(path)):
        raise ProgramsOutdated(f"the Solana programs are older than {different[0]}: {AGAIN}")
    for name in PROGRAMS:
        idl = output / f"marketflow_{name}.json"
        if not idl.exists() or idl.read_bytes() != _idl_file(root, name).read_bytes():
            raise ProgramsOutdated(f"agents/solana_programs/{idl.name} is not a copy of contracts/solana's: {AGAIN}")
        program = output / file_name(name)
        if not program.exists() or _sha256(program.read_bytes()) != lock["programs"].get(program.name):
            raise ProgramsOutdated(f"agents/solana_programs/{program.name} is not the file that was built: {AGAIN}")
    hostile = (root / HOSTILE).with_suffix(".so")
    if not hostile.exists() or _sha256(hostile.read_bytes()) != lock["programs"].get(hostile.name):
        raise ProgramsOutdated(f"{HOSTILE}.so is not the file that was built: {AGAIN}")
    if full:
        with tempfile.TemporaryDirectory(prefix="solana-check-") as folder:
            copy = Path(folder)
            shutil.copytree(root / "contracts/solana", copy / "contracts/solana")
            for name in PROGRAMS:
                again = compile_program(copy, name, python=compiler_python(root))
                if _sha256(again) != lock["programs"][file_name(name)]:
                    raise ProgramsOutdated(f"{file_name(name)} is not what the sources compile to: {AGAIN}")


def source_files(root: Path) -> list[Path]:
    """Everything that decides the bytes of a program, from the root."""
    paths = [*(root / "contracts/solana/src").glob("*.[ch]"), *(_idl_file(root, name) for name in PROGRAMS)]
    others = (root / f"{HOSTILE}.c", root / "tools/solana_link.py")
    return sorted(path.relative_to(root) for path in [*paths, *others] if path.exists())


def source_hashes(root: Path) -> dict[str, str]:
    return {path.as_posix(): _sha256((root / path).read_bytes()) for path in source_files(root)}


def file_name(program: str) -> str:
    return f"marketflow_{program}.so"


def read_idl(root: Path, name: str) -> dict[str, Any]:
    idl: dict[str, Any] = json.loads(_idl_file(root, name).read_bytes())
    return idl


def _idl_file(root: Path, name: str) -> Path:
    return root / f"contracts/solana/marketflow_{name}.json"


def _header_file(root: Path, name: str) -> Path:
    return root / f"contracts/solana/src/generated_{name}.h"


def _read_lock(output: Path) -> dict[str, Any]:
    try:
        lock: dict[str, Any] = json.loads((output / "lock.json").read_bytes())
    except FileNotFoundError:
        raise ProgramsOutdated(f"the Solana programs were never built: {AGAIN}") from None
    except ValueError as error:
        raise ProgramsOutdated(f"agents/solana_programs/lock.json is not JSON ({error}): {AGAIN}") from error
    if lock.get("format") != FORMAT:
        raise ProgramsOutdated(f"agents/solana_programs/lock.json is not of the format {FORMAT!r}: {AGAIN}")
    return lock


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
