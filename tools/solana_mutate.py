"""Takes one check after the other out of the Solana program, and says which of them no test misses.

    python tools/solana_mutate.py [--only guard.h] [--tests "tests/solana/test_attacks.py …"] [--json out.json]

A mutant compiles with the condition of one CHECK, or the outcome of one TRY, left out; what the condition does besides
is still done. Needs the compiler of `make solana-build`. Each mutant takes some seconds; a survivor is a check that the
tests do not know of, or one that another check makes superfluous. Works in a copy: nothing here is changed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.build_solana import FLAGS  # noqa: E402
from tools.solana_link import link  # noqa: E402

SOURCES = ("ledger.c", "decision.h", "guard.h", "reward.h", "oracle.h", "accounts.h", "context.h", "sol.h")
_NAMES = ("every_account", "attacks", "ledger", "agreement", "model")
TESTS = " ".join(f"tests/solana/test_{name}.py" for name in _NAMES)
WORD = re.compile(r"\b(CHECK|TRY)\(")


@dataclass(frozen=True)
class Mutant:
    """One check left out."""

    file: str
    line: int
    text: str
    source: str


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """All of a file, in order."""
    for match in WORD.finditer(source):
        before = source[: match.start()]
        if before.rsplit("\n", 1)[-1].startswith("#define"):
            continue
        inside = _argument(source, match.end())
        whole = source[match.start() : match.end() + len(inside) + 1]
        if match[1] == "CHECK":
            condition, error = inside.rsplit(",", 1)
            other = f"CHECK(({condition}) || 1,{error})"
        else:
            other = f"(void)({inside})"
        changed = before + other + source[match.start() + len(whole) :]
        yield Mutant(file, before.count("\n") + 1, " ".join(whole.split()), changed)


def _argument(source: str, start: int) -> str:
    depth = 1
    for at in range(start, len(source)):
        depth += {"(": 1, ")": -1}.get(source[at], 0)
        if depth == 0:
            return source[start:at]
    raise ValueError("a parenthesis stays open")


def build(sources: Path, out: Path, compiler: Path) -> None:
    """The ledger program from those sources. Raises CalledProcessError, LinkError."""
    obj = out.with_suffix(".o")
    command = [compiler, "-m", "ziglang", "cc", *(f for f in FLAGS if f != "-Werror"), "-c", "ledger.c", "-o", obj]
    subprocess.run([str(word) for word in command], cwd=sources, check=True, capture_output=True)
    out.write_bytes(link(obj.read_bytes()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=SOURCES, action="append")
    parser.add_argument("--tests", default=TESTS)
    parser.add_argument("--compiler", type=Path, default=ROOT / ".venv-solana/bin/python")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tests = [test for test in options.tests.split() if (ROOT / test).exists()]
    survivors: list[Mutant] = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "marketflow"
        skip = shutil.ignore_patterns(".git", ".venv*", "node_modules", "out", "build", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=skip)
        (copy / "node_modules").symlink_to(ROOT / "node_modules")
        sources = copy / "contracts/solana/src"
        binary = copy / "agents/solana_programs/marketflow_ledger.so"
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
        environment = os.environ | {"PYTHONPATH": str(copy)}
        build(sources, binary, options.compiler)
        clean = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
        if clean.returncode:
            sys.exit(f"the tests fail without a mutant:\n{clean.stdout[-2000:]}")
        number = 0
        for file in options.only or SOURCES:
            original = (sources / file).read_text()
            for mutant in mutants(file, original):
                number += 1
                begun = time.monotonic()
                (sources / file).write_text(mutant.source)
                try:
                    build(sources, binary, options.compiler)
                    killed = subprocess.run(command, cwd=copy, env=environment, capture_output=True).returncode != 0
                finally:
                    (sources / file).write_text(original)
                word = "killed  " if killed else "SURVIVED"
                where = f"{mutant.file}:{mutant.line}"
                print(f"{number:>4} {word} {time.monotonic() - begun:5.1f} s  {where:<16} {mutant.text}", flush=True)
                if not killed:
                    survivors.append(mutant)
    print(f"{number - len(survivors)} of {number} killed")
    if options.json:
        options.json.write_text(json.dumps([[m.file, m.line, m.text] for m in survivors], indent=2) + "\n")


if __name__ == "__main__":
    main()
