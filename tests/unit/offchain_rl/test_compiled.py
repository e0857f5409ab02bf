"""The cache of machine code saves time and never changes a number, whatever happens to its files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offchain_rl.compiled import compile_cached

ROOT = Path(__file__).resolve().parents[3]
# Eight bytes that are found again in the machine code.
ADDED = 0x1234_5678_9ABC_DEF0


def plus(x: int) -> int:
    return x + 0x1234_5678_9ABC_DEF0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where machine code is kept in this test."""
    monkeypatch.setenv("MARKETFLOW_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def compiled_and_called() -> tuple[int, bool]:
    """What a new process gets for plus(1), and whether it was kept from before."""
    function: Any = compile_cached(plus)
    return int(function(1)), bool(function.stats.cache_hits)


def kept(folder: Path, suffix: str) -> Path:
    [path] = folder.rglob(f"*.{suffix}")
    return path


def flip_constant(path: Path) -> None:
    """One bit of the number that is added, wherever the code holds it."""
    content, wanted = path.read_bytes(), ADDED.to_bytes(8, "little")
    assert wanted in content
    path.write_bytes(content.replace(wanted, (ADDED ^ 1).to_bytes(8, "little")))


def flip(at: float) -> Callable[[Path], None]:
    """One bit at that share of the file."""

    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(at * (len(content) - 1))] ^= 1
        path.write_bytes(bytes(content))

    return change


def test_code_is_kept_for_the_next_process(folder: Path) -> None:
    assert compiled_and_called() == (ADDED + 1, False)
    assert compiled_and_called() == (ADDED + 1, True)


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("nbc", flip_constant),
        ("nbc", flip(0)),
        ("nbc", flip(1)),
        ("nbi", flip(0)),
        ("nbi", flip(0.5)),
        ("nbi", flip(1)),
        ("nbc", lambda path: path.write_bytes(path.read_bytes()[:100])),
        ("nbi", lambda path: path.write_bytes(b"")),
        ("nbc", lambda path: path.unlink()),
    ],
)
def test_a_damaged_file_is_compiled_anew_and_gives_no_other_number(
    folder: Path, suffix: str, damage: Callable[[Path], None]
) -> None:
    compiled_and_called()
    damage(kept(folder, suffix))
    assert compiled_and_called() == (ADDED + 1, False)
    assert compiled_and_called() == (ADDED + 1, True), "and is whole again"


FULL_DISK = """
import resource, sys, warnings
from offchain_rl.compiled import compile_cached
def plus(x):
    return x + 1
def minus(x):
    return x - 1
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
print(compile_cached(plus)(1), compile_cached(minus)(1))
"""


@pytest.mark.parametrize("most_bytes", [0, 600])
def test_a_full_disk_costs_the_cache_and_one_warning(folder: Path, tmp_path: Path, most_bytes: int) -> None:
    """No file may grow beyond so many bytes: the index, or the code after it, can't be written."""
    program = tmp_path / "program.py"
    program.write_text(FULL_DISK)
    done = subprocess.run(
        [sys.executable, program, str(most_bytes)], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "2 0\n"), done.stderr
    assert done.stderr.count("compiled code can't be kept in") == 1
    assert f"{folder}/compiled" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_can_not_be_made_leaves_nothing_beside_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numba would keep the code in __pycache__ instead, where a change of another module of the model goes unseen."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MARKETFLOW_CACHE_DIR", str(tmp_path / "file"))
    assert [compiled_and_called() for _ in range(2)] == [(ADDED + 1, False)] * 2
