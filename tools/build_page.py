"""Builds the voting page, agents/page (TypeScript) into agents/voting_page (what is served), or says if it is old.

    python tools/build_page.py                   builds, and writes the lock file
    python tools/build_page.py --check           compares the hashes of sources and build with the lock file
    python tools/build_page.py --check --full    builds again elsewhere and compares every byte

The lock file has the hash of everything that the build is made of, and of every file that was made. ABIs count as
sources: the page takes them from agents/abi, so a contract whose interface changed makes the build old.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FORMAT = "marketflow/page-build/1"
# Of agents/page; what else lies there (tests, installed packages, notes) does not reach the build.
SOURCE_FILES = ("index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts")
SOURCE_FOLDERS = ("src", "plugins", "public")
AGAIN = "run `python tools/build_page.py`"


class PageOutdated(Exception):
    """The committed build is not what the sources give."""


class BuildImpossible(Exception):
    """Node or its packages are missing, or the sources don't compile."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 with one sentence on standard error."""
    parser = argparse.ArgumentParser(description="Build the voting page, or check the build that is there.")
    parser.add_argument("--check", action="store_true", help="change nothing; say whether the build is up to date")
    parser.add_argument("--full", action="store_true", help="with --check: build again elsewhere and compare bytes")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            check(ROOT, full=options.full)
        else:
            build(ROOT)
    except (PageOutdated, BuildImpossible) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def build(root: Path) -> None:
    """Builds into agents/voting_page and writes the lock file."""
    # Before the build: what is edited while it runs is not in it.
    sources = source_hashes(root)
    run_vite(root, root / "agents/voting_page")
    write_lock(root, sources)


def write_lock(root: Path, sources: dict[str, str]) -> None:
    """Notes down that the build that lies there was made of these sources."""
    outputs = output_hashes(root / "agents/voting_page")
    lock = {"format": FORMAT, "sources": total(sources), "files": sources, "outputs": outputs}
    _lock_file(root).write_text(json.dumps(lock, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def check(root: Path, *, full: bool) -> None:
    """Raises PageOutdated naming the first difference; without `full` it takes milliseconds and needs no Node."""
    lock = _read_lock(root)
    now, then = source_hashes(root), lock["files"]
    if changed := sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name)):
        raise PageOutdated(f"the voting page is older than {changed[0]}: {AGAIN}")
    _compare(output_hashes(root / "agents/voting_page"), lock["outputs"])
    if full:
        with tempfile.TemporaryDirectory(prefix="page-") as folder:
            run_vite(root, Path(folder) / "out")
            _compare(output_hashes(Path(folder) / "out"), lock["outputs"])


def _compare(found: dict[str, str], expected: dict[str, str]) -> None:
    if wrong := sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)):
        raise PageOutdated(f"agents/voting_page/{wrong[0]} is not what the sources give: {AGAIN}")


def source_hashes(root: Path) -> dict[str, str]:
    """SHA-256 by path from the root. Of an ABI file only the interface counts, not its byte code."""
    found = {str(path.relative_to(root)): _sha256(path.read_bytes()) for path in _sources(root / "agents/page")}
    for path in sorted((root / "agents/abi").glob("*.json")):
        content = json.loads(path.read_bytes())
        if "abi" in content:
            found[str(path.relative_to(root))] = _sha256(json.dumps(content["abi"], sort_keys=True).encode())
    return found


def _sources(page: Path) -> Iterator[Path]:
    yield from (page / name for name in SOURCE_FILES if (page / name).is_file())
    for folder in SOURCE_FOLDERS:
        for path in sorted((page / folder).rglob("*")):
            if path.is_file() and ".test." not in path.name:
                yield path


def output_hashes(output: Path) -> dict[str, str]:
    """SHA-256 of every file of a build, by its path in it."""
    paths = sorted(path for path in output.rglob("*") if path.is_file())
    return {path.relative_to(output).as_posix(): _sha256(path.read_bytes()) for path in paths}


def total(hashes: dict[str, str]) -> str:
    """One hash of many."""
    return _sha256(json.dumps(hashes, sort_keys=True).encode())


def run_vite(root: Path, output: Path) -> None:
    """Type-checks and bundles into `output`. Installs the locked packages when they are not there. Raises
    BuildImpossible."""
    page = root / "agents/page"
    npm = shutil.which("npm")
    if npm is None:
        raise BuildImpossible("npm is not installed: install Node 20 or later to build the voting page")
    if not _is_installed(page):
        # Scripts of packages are not run: none of ours needs one.
        _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], page)
    _run([npm, "run", "--silent", "check"], page)
    _run([npm, "exec", "--", "vite", "build", "--logLevel", "warn", "--outDir", str(output), "--emptyOutDir"], page)


def _is_installed(page: Path) -> bool:
    """Whether what npm noted down when it installed is what is locked now."""
    try:
        installed = json.loads((page / "node_modules/.package-lock.json").read_bytes())["packages"]
    except (OSError, ValueError, KeyError):
        return False
    locked = json.loads((page / "package-lock.json").read_bytes())["packages"]
    wanted = {name: p["version"] for name, p in locked.items() if name and not p.get("optional")}
    return all(installed.get(name, {}).get("version") == version for name, version in wanted.items())


def _run(command: Sequence[str], folder: Path) -> None:
    environment = {**os.environ, "NODE_ENV": "production", "TZ": "UTC"}
    if "ci" in command:
        # In production npm would leave out what builds.
        del environment["NODE_ENV"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise BuildImpossible(f"`{' '.join(command[1:])}` failed in agents/page:\n{said}")


def _read_lock(root: Path) -> dict[str, Any]:
    try:
        lock: dict[str, Any] = json.loads(_lock_file(root).read_bytes())
    except FileNotFoundError:
        raise PageOutdated(f"the voting page was never built: {AGAIN}") from None
    except ValueError as error:
        raise PageOutdated(f"agents/page/build.lock is not JSON ({error}): {AGAIN}") from error
    if lock.get("format") != FORMAT:
        raise PageOutdated(f"agents/page/build.lock has the format {lock.get('format')!r}, not {FORMAT!r}: {AGAIN}")
    return lock


def _lock_file(root: Path) -> Path:
    return root / "agents/page/build.lock"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
