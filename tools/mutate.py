"""Mutation testing of the contracts: change one thing, and see whether a test notices: `make mutate`.

    python tools/mutate.py --sample 150 --seed 1     a sample, stratified over the core contracts
    python tools/mutate.py --minutes 60              the whole set, an hour of it; call again to go on
    python tools/mutate.py --list                    every mutant with its id; tests nothing
    python tools/mutate.py --survivors               what has survived so far, as diffs
    python tools/mutate.py --ids 1a2b3c4d,...        these

One process collects the tests and stays warm; each mutant is a fork of it that deploys the protocol with the mutant's
byte code on a chain of its own and runs the tests that can reach the change, the likeliest to notice first, until one
fails. Which tests reach what is recorded once, from the calls anvil saw. Results are kept in build/mutation/: while the
contracts are the same, a mutant is tried again only when the test that killed it has changed, a survivor only on tests
that are new to it.

Score: (killed + timed out) / (killed + timed out + survived). What does not compile, or compiles to the byte code of
the original or of another mutant, is no mutant. Survivors that no test could kill are explained in docs/mutants.md,
and count as survivors.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import random
import selectors
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from build_artifacts import ROOT
from mutation.compiler import Code, Compiler, Contracts
from mutation.operators import Mutant, mutants_of
from mutation.suite import Child, Suite

CORE = [
    "contracts/governance/MARKETFLOW_DAO.sol",
    "contracts/governance/GovernorObjection.sol",
    "contracts/vaults/StrategyVault.sol",
    "contracts/rewards/RewardPool.sol",
    "contracts/ledger/TradeLedger.sol",
    "contracts/oracle/PriceOracle.sol",
    "contracts/libraries/GuardMath.sol",
]
REST = [
    "contracts/governance/Treasury.sol",
    "contracts/governance/DecisionOutbox.sol",
    "contracts/strategies/StrategyRegistry.sol",
    "contracts/agents/AgentRegistry.sol",
    "contracts/constitution/Constitution.sol",
    "contracts/vaults/VaultFactory.sol",
    "contracts/vaults/UniswapV3Venue.sol",
]
TESTS = ["tests/contracts/unit", "tests/contracts/attacks"]
STATE = ROOT / "build" / "mutation"
EXPLAINED = ROOT / "docs" / "mutants.md"
DECIDED = ("killed", "timeout", "survived")
# A mutant that this many tests have not killed waits until the others have had their turn.
LIKELIEST = 250


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--sample", type=int, help="that many mutants, in proportion to each contract's share")
    options.add_argument("--seed", type=int, default=1, help="which sample (default 1)")
    options.add_argument("--ids", default="", help="only these mutants")
    options.add_argument("--contracts", default="", help="only these, e.g. TradeLedger,Treasury (default: the core)")
    options.add_argument("--all", action="store_true", help="the other contracts too")
    options.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="chains at once")
    options.add_argument("--minutes", type=float, help="stop after this; the next call goes on")
    options.add_argument("--at-least", type=float, default=90, help="fail below this score (default 90)")
    options.add_argument("--tests", default=" ".join(TESTS), help="test files or folders")
    options.add_argument("--list", action="store_true", help="list the mutants; test nothing")
    options.add_argument("--survivors", action="store_true", help="show what survived so far; test nothing")
    chosen = options.parse_args()

    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    compiler = Compiler()
    STATE.mkdir(parents=True, exist_ok=True)
    contracts = Contracts(compiler, STATE)
    files = CORE + (REST if chosen.all or chosen.contracts else [])
    names = set(filter(None, chosen.contracts.split(",")))
    mutants = [
        mutant
        for file in files
        if not names or Path(file).stem in names
        for mutant in mutants_of(file, contracts.trees[file], contracts.trees)
    ]
    if ids := set(filter(None, chosen.ids.split(","))):
        mutants = [mutant for mutant in mutants if mutant.id in ids]
    if chosen.list:
        print("\n".join(describe(mutant, contracts) for mutant in mutants))
        print(f"{len(mutants)} mutants: " + ", ".join(f"{n} {c}" for c, n in count(mutants).items()))
        return

    results = Results(contracts.key)
    if chosen.survivors:
        print("\n".join(diff(m, contracts) for m in mutants if results.last.get(m.id, {}).get("outcome") == "survived"))
        return
    campaign = Campaign(
        contracts=contracts, compiler=compiler, results=results, workers=chosen.workers,
        plan=sample(mutants, chosen.sample, chosen.seed), wanted=quotas(mutants, chosen.sample),
        until=time.monotonic() + 60 * chosen.minutes if chosen.minutes else float("inf"),
    )  # fmt: skip
    run_in_pytest(campaign, chosen.tests.split())
    compiler.close()
    done = campaign.finished
    print("\n".join(diff(mutant, contracts) for mutant in mutants if done.get(mutant.id) == "survived"))
    print(table(mutants, done))
    sys.exit(0 if score(Counter(done.values())) >= chosen.at_least else 1)


# ------------------------------------------------------------------- choosing


def count(mutants: Sequence[Mutant]) -> Counter[str]:
    return Counter(mutant.contract for mutant in mutants)


def quotas(mutants: Sequence[Mutant], size: int | None) -> dict[str, int]:
    """How many of each contract: its share of `size`, at least one, by largest remainders; all without a size."""
    counts = count(mutants)
    if size is None or size >= len(mutants):
        return dict(counts)
    shares = {name: size * number / len(mutants) for name, number in counts.items()}
    chosen = {name: max(1, int(share)) for name, share in shares.items()}
    for name in sorted(shares, key=lambda name: int(shares[name]) - shares[name]):
        if sum(chosen.values()) < size:
            chosen[name] += 1
    return chosen


def sample(mutants: Sequence[Mutant], size: int | None, seed: int) -> dict[str, list[Mutant]]:
    """The mutants of each contract, in the order they are tried: shuffled by the seed when only some are wanted, since
    one that turns out not to compile is replaced by the next."""
    plan: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        plan[mutant.contract].append(mutant)
    if size is not None:
        for name, own in plan.items():
            random.Random(f"{seed} {name}").shuffle(own)
    return dict(plan)


# ------------------------------------------------------------------- remembering


class Results:
    """What is known about mutants, one JSON line each time something is learnt; for this byte code only."""

    def __init__(self, key: str) -> None:
        self.key, self.path = key, STATE / f"{key}.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.last: dict[str, dict[str, Any]] = {record["id"]: record for record in map(json.loads, lines)}

    def add(self, mutant: Mutant, record: dict[str, Any]) -> None:
        self.last[mutant.id] = {"id": mutant.id, "contract": mutant.contract, "function": mutant.function} | record
        with self.path.open("a") as file:
            file.write(json.dumps(self.last[mutant.id]) + "\n")


@dataclass(slots=True)
class Reach:
    """Which tests reach which functions, how long they take, and whether they pass at all; by file, while it is the
    same. `of` orders the tests that may see a mutant: near kills first, then tests named for the contract, then quick
    ones."""

    results: Results
    hashes: dict[str, str]
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    kills: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def path(self) -> Path:
        return STATE / f"{self.results.key}.map.json"

    def load(self) -> list[str]:
        """What has been recorded; answers the files that have to be recorded again."""
        kept = json.loads(self.path.read_text()) if self.path.exists() else {}
        same = {file: entry for file, entry in kept.items() if self.hashes.get(file) == entry["hash"]}
        for entry in same.values():
            self.tests |= entry["tests"]
        for record in self.results.last.values():
            if record["outcome"] == "killed":
                self.learn(record["contract"], record["function"], record["by"])
        return sorted(self.hashes.keys() - same.keys())

    def save(self, recorded: dict[str, dict[str, Any]]) -> None:
        self.tests |= recorded
        files: dict[str, dict[str, Any]] = {f: {"hash": digest, "tests": {}} for f, digest in self.hashes.items()}
        for test, entry in self.tests.items():
            files[file_of(test)]["tests"][test] = entry
        self.path.write_text(json.dumps(files))

    def learn(self, contract: str, function: str, test: str) -> None:
        self.kills[contract, function][test] += 1
        self.kills[contract, ""][test] += 1

    def of(self, mutant: Mutant, contracts: Contracts) -> list[str]:
        names = [name for own in contracts.targets_of(mutant.file).values() for name in own]
        entries = contracts.entries_to(mutant.declaration)
        tests = [
            test
            for test, entry in self.tests.items()
            if not entry["failure"]
            and (entries is None or any(entries.intersection(entry["calls"].get(name, ())) for name in names))
        ]
        near, same = self.kills[mutant.contract, mutant.function], self.kills[mutant.contract, ""]
        topic = set(TOPICS.get(mutant.contract, "").split())
        return sorted(
            tests,
            key=lambda test: (
                -near[test], not topic & set(Path(file_of(test)).stem.split("_")), -same[test], self.tests[test]["s"],
            ),
        )  # fmt: skip

    def seconds(self, tests: Sequence[str]) -> float:
        return sum(self.tests[test]["s"] for test in tests)


# Words in the names of the test files that are about a contract.
TOPICS = {
    "MARKETFLOW_DAO": "dao votes timelock mutants",
    "GovernorObjection": "objection mutants",
    "StrategyVault": "vault mutants",
    "RewardPool": "rewards mutants",
    "TradeLedger": "ledger mutants",
    "PriceOracle": "oracle mutants",
    "GuardMath": "math mutants",
    "Treasury": "treasury mutants",
    "StrategyRegistry": "strategy mutants",
    "AgentRegistry": "agent mutants",
    "Constitution": "constitution mutants",
    "VaultFactory": "factory mutants",
    "UniswapV3Venue": "venue mutants",
}


def file_of(test: str) -> str:
    return test.split("::")[0]


# ------------------------------------------------------------------- working


@dataclass(slots=True)
class Campaign:
    """Compiles ahead, keeps `workers` forks busy, writes down what each found."""

    contracts: Contracts
    compiler: Compiler
    results: Results
    workers: int
    plan: dict[str, list[Mutant]]
    wanted: dict[str, int]
    until: float
    finished: dict[str, str] = field(default_factory=dict)
    suite: Suite | None = None
    reach: Reach | None = None
    codes: dict[str, str] = field(default_factory=dict)
    # Alive after the likeliest tests: the others are for later, when more is known about which tests kill.
    later: list[tuple[Mutant, dict[str, Code], list[str], dict[str, Any]]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def run(self, suite: Suite) -> None:
        self.suite = suite
        files = sorted({file_of(test) for test in suite.items})
        hashes = {file: hashlib.sha256((ROOT / file).read_bytes()).hexdigest()[:16] for file in files}
        self.reach = Reach(self.results, hashes)
        if new := self.reach.load():
            self.record(set(new))
        broken = [test for test, entry in self.reach.tests.items() if entry["failure"]]
        say(f"{len(self.reach.tests)} tests, {len(broken)} of them fail without a mutant and are left out")
        say("".join(f"  {test}: {self.reach.tests[test]['failure']}\n" for test in broken[:10]).rstrip())
        self.remember()
        self.work()

    def record(self, files: set[str]) -> None:
        tests = [test for test in self.suite.items if file_of(test) in files]
        say(f"recording what {len(tests)} tests in {len(files)} files reach ...")
        shares = [[t for t in tests if file_of(t) in sorted(files)[i :: self.workers]] for i in range(self.workers)]
        children = [
            self.suite.fork(None, lambda own=share: self.suite.record(own), limit_s=3600) for share in shares if share
        ]
        answers = [child.finish() for child in children]
        if problem := next((answer["why"] for answer in answers if answer.get("outcome") == "error"), ""):
            sys.exit(f"The tests do not run: {problem}")
        self.reach.save({test: entry for answer in answers for test, entry in answer.items()})

    def remember(self) -> None:
        """Byte codes seen before, so that a second mutant with the same is known as a duplicate."""
        for record in self.results.last.values():
            if record["outcome"] in DECIDED and record.get("code"):
                self.codes.setdefault(record["code"], record["id"])

    def work(self) -> None:
        running: list[Child] = []
        ready: list[tuple[Mutant, dict[str, Code], list[str], dict[str, Any]]] = []
        compiling: tuple[Mutant, float] | None = None
        ahead = self.candidates(running, ready)
        upcoming = next(ahead, None)
        while upcoming or compiling or ready or running or (self.later and time.monotonic() < self.until):
            if upcoming and not compiling and len(ready) < 2:
                self.compile(upcoming)
                compiling, upcoming = (upcoming, time.monotonic()), None
            while ready and len(running) < self.workers:
                running.append(self.start(*ready.pop(0)))
            while self.later and not (ready or upcoming or compiling) and len(running) < self.workers:
                running.append(self.start(*self.later.pop(0), first=None))
            with selectors.DefaultSelector() as waiting:
                for source in running + ([self.compiler] if compiling else []):
                    waiting.register(source, selectors.EVENT_READ, source)
                events = [key.data for key, _ in waiting.select(timeout=5)]
            if compiling and self.compiler in events:
                mutant, since = compiling
                compiling = None
                if prepared := self.compiled(mutant, time.monotonic() - since):
                    ready.append(prepared)
            for child in list(running):
                if child in events or time.monotonic() > child.deadline:
                    running.remove(child)
                    self.end(child, timed_out=child not in events)
            if not compiling and upcoming is None:
                upcoming = next(ahead, None)
                if upcoming is None and (running or ready):  # one of those may yet be no mutant: ask again
                    ahead = self.candidates(running, ready)

    def candidates(self, running: list[Child], ready: list[Any]) -> Iterator[Mutant]:
        """What is still to be tried, one after the other; known results are taken over on the way."""
        for name, mutants in self.plan.items():
            for mutant in mutants:
                if time.monotonic() > self.until:
                    return
                busy = sum(other.contract == name for other in self.at_work(running, ready))
                decided = sum(self.finished.get(m.id) in DECIDED for m in mutants)
                if busy + decided >= self.wanted[name]:
                    break
                if mutant.id in self.finished or any(m.id == mutant.id for m in self.at_work(running, ready)):
                    continue
                if outcome := self.known(mutant):
                    self.finished[mutant.id] = outcome
                else:
                    yield mutant

    def at_work(self, running: list[Child], ready: list[Any]) -> Iterator[Mutant]:
        yield from (child.job[0] for child in running)
        yield from (prepared[0] for prepared in ready + self.later)

    def known(self, mutant: Mutant) -> str | None:
        """The outcome of an earlier run, if it still says the same."""
        record = self.results.last.get(mutant.id, {})
        outcome = record.get("outcome")
        if outcome == "killed" and self.reach.hashes.get(file_of(record["by"])) != record["by_hash"]:
            return None
        if outcome == "survived" and self.unseen(mutant, record):
            return None
        return outcome if outcome != "error" else None

    def unseen(self, mutant: Mutant, record: dict[str, Any]) -> list[str]:
        """The tests that a survivor has not met, or not as they are now."""
        seen = record.get("seen", {})
        tests = self.reach.of(mutant, self.contracts)
        return [test for test in tests if seen.get(file_of(test)) != self.reach.hashes[file_of(test)]]

    def compile(self, mutant: Mutant) -> None:
        text = mutant.apply(self.contracts.trees[mutant.file]["source"]).decode()
        self.compiler.start(self.contracts.targets_of(mutant.file), {mutant.file: text})

    def compiled(self, mutant: Mutant, seconds: float) -> tuple | None:
        codes = self.compiler.finish()
        if codes is None:
            self.settle(mutant, {"outcome": "invalid", "compile_s": seconds})
            return None
        changed = {name: code for name, code in codes.items() if code != self.contracts.codes[name]}
        digest = hashlib.sha256(repr(sorted(changed.items())).encode()).hexdigest()
        if not changed:
            self.settle(mutant, {"outcome": "same", "compile_s": seconds})
            return None
        if self.codes.setdefault(digest, mutant.id) != mutant.id:
            self.settle(mutant, {"outcome": "duplicate", "of": self.codes[digest], "compile_s": seconds})
            return None
        before = self.results.last.get(mutant.id, {})
        tests = self.unseen(mutant, before if before.get("outcome") == "survived" else {})
        return mutant, changed, tests, {"code": digest, "compile_s": seconds}

    def start(
        self, mutant: Mutant, codes: dict[str, Code], tests: list[str], record: dict[str, Any],
        *, first: int | None = LIKELIEST,
    ) -> Child:  # fmt: skip
        now, rest = tests[:first], tests[first:] if first else []
        job = mutant, codes, rest, record
        return self.suite.fork(job, lambda: self.suite.judge(codes, now), limit_s=120 + 5 * self.reach.seconds(now))

    def end(self, child: Child, *, timed_out: bool) -> None:
        mutant, codes, rest, record = child.job
        if timed_out:
            child.kill()
            answer = {"outcome": "timeout", "why": "took longer than five times as long as without a mutant"}
        else:
            answer = child.finish()
        for figure in ("tests", "s"):
            answer[figure] = answer.get(figure, 0) + record.get(figure, 0)
        record |= answer
        if record["outcome"] == "survived" and rest:
            say(f"     alive after {record['tests']} tests: {describe(mutant, self.contracts)}")
            self.later.append((mutant, codes, rest, record))
            return
        if record["outcome"] == "killed":
            record["by_hash"] = self.reach.hashes[file_of(record["by"])]
            self.reach.learn(mutant.contract, mutant.function, record["by"])
        if record["outcome"] == "survived":
            record["seen"] = {file_of(test): self.reach.hashes[file_of(test)] for test in self.reach.tests}
        self.settle(mutant, record)

    def settle(self, mutant: Mutant, record: dict[str, Any]) -> None:
        self.results.add(mutant, record)
        self.finished[mutant.id] = record["outcome"]
        decided = sum(outcome in DECIDED for outcome in self.finished.values())
        times = f"{record.get('compile_s', 0):.1f} s + {record.get('s', 0):.1f} s, {record.get('tests', 0)} tests"
        by = record.get("by", record.get("why", "")).rsplit("::", 1)[-1]
        say(
            f"{decided:4}/{sum(self.wanted.values())} {time.monotonic() - self.started:6.0f} s  {record['outcome']:9} "
            f"{describe(mutant, self.contracts)}  [{times}] {by}"
        )


def run_in_pytest(campaign: Campaign, tests: Sequence[str]) -> None:
    """pytest collects and is then led by the campaign; its own words go nowhere."""
    arguments = ["-q", "-s", "-p", "no:cacheprovider", "-o", "timeout=180", "--no-header", *tests]
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", buffering=1) as out, Path(os.devnull).open("w") as nowhere:
        SAY.append(out)
        kept = os.dup(1), os.dup(2)
        os.dup2(nowhere.fileno(), 1)
        try:
            code = pytest.main(arguments, plugins=[Suite(campaign.run, campaign.contracts)])
        finally:
            os.dup2(kept[0], 1)
            SAY.clear()
    if code not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        sys.exit(f"pytest could not collect the tests ({code!r}): run it by hand")


SAY: list[Any] = []


def say(text: str) -> None:
    if text:
        print(text, file=SAY[-1] if SAY else sys.stdout, flush=True)


# ------------------------------------------------------------------- reporting


def describe(mutant: Mutant, contracts: Contracts) -> str:
    old = contracts.trees[mutant.file]["source"][mutant.start : mutant.end].decode()
    change = f"{' '.join(old.split())} -> {' '.join(mutant.text.split()) or 'nothing'}"
    return f"{mutant.id} {mutant.contract}.{mutant.function}:{mutant.line} {mutant.operator}: {change:.110}"


def diff(mutant: Mutant, contracts: Contracts) -> str:
    source = contracts.trees[mutant.file]["source"]
    before, after = source.decode().splitlines(), mutant.apply(source).decode().splitlines()
    lines = list(difflib.unified_diff(before, after, lineterm="", n=1))[2:]
    explained = EXPLAINED.exists() and mutant.id in EXPLAINED.read_text()
    note = "explained in docs/mutants.md" if explained else "NOT explained"
    return "\n".join([f"survived {describe(mutant, contracts)} ({note})", *(f"    {line}" for line in lines), ""])


def score(outcomes: Counter[str]) -> float:
    caught, all_ = outcomes["killed"] + outcomes["timeout"], sum(outcomes[name] for name in DECIDED)
    return 100 * caught / all_ if all_ else 0.0


def table(mutants: Sequence[Mutant], finished: dict[str, str]) -> str:
    rows: dict[str, Counter[str]] = {name: Counter() for name in count(mutants)}
    for mutant in mutants:
        if mutant.id in finished:
            rows[mutant.contract][finished[mutant.id]] += 1
    lines = [f"{'contract':<20}{'mutants':>8}{'killed':>8}{'timeout':>8}{'survived':>9}{'score':>8}"]
    for name, row in rows.items():
        if decided := sum(row[outcome] for outcome in DECIDED):
            figures = f"{decided:>8}{row['killed']:>8}{row['timeout']:>8}{row['survived']:>9}{score(row):>7.1f}%"
            lines.append(f"{name:<20}{figures}")
    total = sum(rows.values(), Counter())
    decided = sum(total[outcome] for outcome in DECIDED)
    dropped = f"{total['invalid']} did not compile, {total['same']} compiled to the same, {total['duplicate']} twice"
    lines.append(
        f"mutation: {decided} mutants of {len(mutants)}, {total['killed']} killed, {total['timeout']} timed out, "
        f"{total['survived']} survived, {total['error']} undecided, score {score(total):.1f} % ({dropped})"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
