"""Measure what the Solidity tests reach of our own contracts, with `forge coverage`: `make coverage`.

    python tools/coverage.py

Runs tests/solidity/unit and prints a table, one row a contract; contracts/mocks and contracts/interfaces don't count.
Fails below 100 % of the lines or 95 % of the branches, lists what was not reached, and ends with one line. Forge
compiles without the optimizer for this, so that every instruction still belongs to a line of source; no contract needs
`--ir-minimum`, but the limit of code size is lifted. Forge's branches are the ways out of an `if`, of which it
counts the way past only where there is an `else`; `?:`, `&&` and `||` it does not count.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ROOT / "contracts"
BUILD = ROOT / "build" / "solidity-coverage"
LCOV = BUILD / "lcov.info"
NOT_OURS = {"mocks", "interfaces"}
# What makes lines that can run; a file of types or constants has none.
HAS_CODE = re.compile(r"\bfunction\b|\bconstructor\b|\bmodifier\b")
LEAST_LINES, LEAST_BRANCHES = 100, 95

# Lines that nothing can reach, by file and text, with the reason. They count as missed in the table and in the first
# figure of the summary, and are left out of the second. An entry that is reached, or that no line has, is an error.
UNREACHABLE: dict[tuple[str, str], str] = {}


@dataclass(frozen=True, slots=True)
class Count:
    hit: int = 0
    total: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.hit + other.hit, self.total + other.total)

    @property
    def percent(self) -> float:
        return 100 * self.hit / self.total if self.total else 100.0

    def __str__(self) -> str:
        return f"{self.percent:6.2f} % {self.hit:>4}/{self.total:<4}"


@dataclass(slots=True, kw_only=True)
class Report:
    """What forge says of one file: how often each line ran, which branches were taken, which functions were called."""

    path: str
    lines: dict[int, int] = field(default_factory=dict)
    # (line, branch, way) -> taken
    branches: dict[tuple[int, str, str], bool] = field(default_factory=dict)
    functions: list[bool] = field(default_factory=list)

    def line_count(self, *, without: frozenset[int] = frozenset()) -> Count:
        return count(hits > 0 for line, hits in self.lines.items() if line not in without)

    def branch_count(self, *, without: frozenset[int] = frozenset()) -> Count:
        return count(taken for (line, *_), taken in self.branches.items() if line not in without)

    def function_count(self) -> Count:
        return count(self.functions)

    def source_of(self, line: int) -> str:
        return (ROOT / self.path).read_text().splitlines()[line - 1].strip()

    def missed(self) -> list[tuple[int, str]]:
        """Line numbers that never ran, or from which one way was never taken; and which of the two."""
        found = {line: "line" for line, hits in self.lines.items() if hits == 0}
        for (line, *_), taken in self.branches.items():
            if not taken:
                found.setdefault(line, "branch")
        return sorted(found.items())

    def unreachable(self) -> frozenset[int]:
        return frozenset(line for line, _ in self.missed() if (self.path, self.source_of(line)) in UNREACHABLE)


def main() -> None:
    run_forge()
    reports = [report for report in parse_lcov(LCOV.read_text()) if is_own(report.path)]
    problems = [f"{path}: forge reports nothing of it" for path in unreported(reports)]
    problems += [f"{path}: answered as unreachable, but reached or gone: {text}" for path, text in stale(reports)]

    width = max(len(report.path) for report in reports)
    print(f"\n{'contract':<{width}}  {'lines':<18}  {'branches':<18}  functions")
    for report in reports:
        row = (report.line_count(), report.branch_count(), report.function_count())
        print(f"{report.path:<{width}}  {'  '.join(str(cell) for cell in row)}")
        for line, what in report.missed():
            reason = UNREACHABLE.get((report.path, report.source_of(line)))
            print(f"    {line}: {what} not reached: {report.source_of(line)}" + (f"  ({reason})" if reason else ""))

    lines = total(report.line_count() for report in reports)
    branches = total(report.branch_count() for report in reports)
    functions = total(report.function_count() for report in reports)
    adjusted_lines = total(report.line_count(without=report.unreachable()) for report in reports)
    adjusted_branches = total(report.branch_count(without=report.unreachable()) for report in reports)
    if adjusted_lines.percent < LEAST_LINES:
        problems.append(f"lines: {adjusted_lines.percent:.2f} %, not {LEAST_LINES}")
    if adjusted_branches.percent < LEAST_BRANCHES:
        problems.append(f"branches: {adjusted_branches.percent:.2f} %, not {LEAST_BRANCHES}")
    for problem in problems:
        print(f"PROBLEM  {problem}")
    print(
        f"\ncoverage: {len(reports)} contracts; lines {words(lines)}, branches {words(branches)}, "
        f"functions {words(functions)}; {len(UNREACHABLE)} lines unreachable, without them "
        f"{adjusted_lines.percent:.2f} % and {adjusted_branches.percent:.2f} %; {len(problems)} problems"
    )
    sys.exit(bool(problems))


def run_forge() -> None:
    """Folders of its own: what forge compiles for coverage is not what it compiles for tests."""
    environment = os.environ | {
        "FOUNDRY_PROFILE": "solidity",
        "FOUNDRY_TEST": "tests/solidity/unit",
        "FOUNDRY_OUT": str((BUILD / "out").relative_to(ROOT)),
        "FOUNDRY_CACHE_PATH": str((BUILD / "cache").relative_to(ROOT)),
        "FOUNDRY_CODE_SIZE_LIMIT": str(1 << 20),
        "PATH": f"{ROOT / 'node_modules' / '.bin'}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    BUILD.mkdir(parents=True, exist_ok=True)
    LCOV.unlink(missing_ok=True)
    command = ["forge", "coverage", "--offline", "--report", "lcov", "--report-file", str(LCOV)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode or not LCOV.exists():
        print(*(line for line in done.stdout.splitlines() if not line.startswith("[PASS]")), sep="\n")
        sys.exit("coverage: forge failed, see above")
    print(*re.findall(r"^Ran \d+ test suites? .*", done.stdout, re.MULTILINE), sep="\n")


def parse_lcov(text: str) -> list[Report]:
    """The files of an lcov trace (geninfo(1) says what its records mean), in its order."""
    reports: list[Report] = []
    for line in text.splitlines():
        kind, _, rest = line.partition(":")
        if kind == "SF":
            reports.append(Report(path=rest))
        elif kind == "DA":
            number, hits = rest.split(",")[:2]
            reports[-1].lines[int(number)] = int(hits)
        elif kind == "BRDA":
            number, branch, way, taken = rest.split(",")
            reports[-1].branches[int(number), branch, way] = taken not in ("-", "0")
        elif kind == "FNDA":
            reports[-1].functions.append(int(rest.split(",")[0]) > 0)
    return reports


def is_own(path: str) -> bool:
    parts = Path(path).parts
    return parts[0] == "contracts" and parts[1] not in NOT_OURS


def unreported(reports: list[Report]) -> list[str]:
    """Our files that have code and are not in the trace: they must not look as if they were covered."""
    known = {report.path for report in reports}
    paths = [path for path in sorted(CONTRACTS.rglob("*.sol")) if HAS_CODE.search(path.read_text())]
    own = [str(path.relative_to(ROOT)) for path in paths if is_own(str(path.relative_to(ROOT)))]
    return [path for path in own if path not in known]


def stale(reports: list[Report]) -> list[tuple[str, str]]:
    missed = {(report.path, report.source_of(line)) for report in reports for line, _ in report.missed()}
    return sorted(set(UNREACHABLE) - missed)


def count(flags: Iterable[bool]) -> Count:
    values = list(flags)
    return Count(sum(values), len(values))


def total(counts: Iterable[Count]) -> Count:
    return sum(counts, Count())


def words(counted: Count) -> str:
    return f"{counted.percent:.2f} % ({counted.hit} of {counted.total})"


if __name__ == "__main__":
    main()
