"""Run the test groups, and say at the end what each counted and took: `make test`.

    python tools/run_tests.py [GROUP ...]

Each group is a process of its own, so that one cannot leave a chain, a thread or a setting behind for the next. They
run one after the other; those that only compute run beside them, one at a time, where there is a second core.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    name: str
    # Glob patterns of what pytest gets; or a command, which counts as one test.
    tests: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    # It computes, and neither waits nor measures: it may run beside another. Its output comes when it has ended.
    aside: bool = False

    def paths(self) -> list[Path]:
        return sorted(path for pattern in self.tests for path in ROOT.glob(pattern))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    passed: int
    failed: int
    skipped: int = 0
    note: str = ""


# Quick ones first: what is wrong with the set-up shows before the long groups start.
GROUPS = [
    Group(name="install", command=(PYTHON, "-m", "pip", "check")),
    Group(name="tooling", tests=("tests/unit/test_*.py",)),
    Group(name="artifacts", command=(PYTHON, "tools/build_artifacts.py", "--check", "--full")),
    Group(name="oracle", tests=("tests/unit/oracle",), aside=True),
    Group(name="offchain_rl", tests=("tests/unit/offchain_rl",), aside=True),
    Group(name="agents", tests=("tests/unit/agents",)),
    Group(name="scripts", tests=("tests/unit/scripts",)),
    Group(name="contracts", tests=("tests/contracts/unit", "tests/contracts/test_*.py")),
    Group(name="attacks", tests=("tests/contracts/attacks",)),
    Group(name="fuzz", command=(PYTHON, "tools/fuzz.py", "fast")),
    Group(name="solana", tests=("tests/solana",), aside=True),
    Group(name="graph", tests=("tests/graph",)),
    Group(name="page", command=("npm", "test", "--silent", "--prefix", "agents/page")),
    Group(name="people", tests=("tests/people",)),
    Group(name="e2e", tests=("tests/e2e",)),
    Group(name="chaos", tests=("tests/chaos",)),
    Group(name="fork", tests=("tests/fork",)),
]


def main() -> None:
    known = {group.name: group for group in GROUPS}
    if unknown := sorted(set(sys.argv[1:]) - known.keys()):
        sys.exit(f"No such test group: {', '.join(unknown)}. There are: {', '.join(known)}.")
    chosen = [known[name] for name in sys.argv[1:]] or GROUPS
    if forgotten := tests_outside_groups():
        sys.exit("No test group runs these; add them to tools/run_tests.py:\n  " + "\n  ".join(forgotten))

    results: dict[str, tuple[Result, float]] = {}
    beside = [group for group in chosen if group.aside] if (os.cpu_count() or 1) > 1 and len(chosen) > 1 else []
    lane = threading.Thread(target=run_aside, args=(beside, results))
    lane.start()
    for group in chosen:
        if group not in beside:
            print(f"\n--- {group.name} ---", flush=True)
            started = time.monotonic()
            results[group.name] = run(group), time.monotonic() - started
    lane.join()

    lines, total = [], Result(passed=0, failed=0)
    for group in chosen:
        result, seconds = results[group.name]
        took = f"{seconds:7.1f} s"
        counts = f"{result.passed:5} passed {result.failed:4} failed {result.skipped:4} skipped"
        lines.append(f"{group.name:<12} {took} {counts}  {result.note}".rstrip())
        total = Result(
            passed=total.passed + result.passed,
            failed=total.failed + result.failed,
            skipped=total.skipped + result.skipped,
        )
    print("\n" + "\n".join(lines))
    print(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped")
    sys.exit(0 if total.passed and not total.failed else 1)


def run_aside(groups: list[Group], results: dict[str, tuple[Result, float]]) -> None:
    """One after the other; what each printed comes in one piece."""
    for group in groups:
        started = time.monotonic()
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            result = run(group, output)
            results[group.name] = result, time.monotonic() - started
            output.seek(0)
            print(f"\n--- {group.name}, beside the others ---\n{output.read()}", flush=True)


def run(group: Group, output: TextIO | None = None) -> Result:
    """What a group's tests counted; they print to `output`, or to where this process does."""
    streams = {"stdout": output, "stderr": subprocess.STDOUT if output else None}
    if group.command:
        passed = subprocess.run(group.command, cwd=ROOT, **streams).returncode == 0
        return Result(passed=int(passed), failed=int(not passed))
    if not (paths := group.paths()):
        return Result(passed=0, failed=0, note="absent")
    # Two threads of tensor arithmetic on a busy machine wait for each other; and one thread gives one result.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [PYTHON, "-m", "pytest", f"--junitxml={report}", *map(str, paths)]
        code = subprocess.run(command, cwd=ROOT, env=environment, **streams).returncode
        result = count(report) if report.exists() else Result(passed=0, failed=0)
    if code and not result.failed:
        # It collected nothing, or ended without a report: no reason to call it green.
        return Result(passed=result.passed, failed=1, skipped=result.skipped, note=f"pytest ended with {code}")
    return result


def count(report: Path) -> Result:
    suite = ElementTree.parse(report).getroot().find("testsuite")
    tests, skipped = int(suite.get("tests")), int(suite.get("skipped"))
    failed = int(suite.get("failures")) + int(suite.get("errors"))
    return Result(passed=max(0, tests - failed - skipped), failed=failed, skipped=skipped)


def tests_outside_groups() -> list[str]:
    claimed = [path for group in GROUPS for path in group.paths()]
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(f.relative_to(ROOT)) for f in files if not any(f == path or path in f.parents for path in claimed)]


if __name__ == "__main__":
    main()
