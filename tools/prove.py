"""Prove what the contracts promise: `make prove`, or `tools/prove.py --fast` for what takes less than a minute.

The arithmetic is proved over the integers by tests/solidity/proofs/arithmetic.py, on the code that solc makes of it.
The pool and the ledger are run by halmos from any state: each `check_` function in tests/solidity/proofs is a property.
What is not proved in time, or not at all, is a failure, and so is a counterexample. Properties that nobody has seen
proved yet are OPEN: counted apart, never as proved, and tried with `--open` (half an hour each).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROOFS = ROOT / "tests" / "solidity" / "proofs"
VENV = ROOT / ".venv-prover"
# Which proofs of which contract by halmos, the most seconds for each, and the range in words. Fast ones first.
SYMBOLIC = [
    ("LedgerProof", "any head, any caller, any trade of 0, 1, 2 or 9 prices", True, 300),
    ("LedgerCollisions", "any heads, any trades of 0 to 2 prices, keccak taken to be without collisions", True, 300),
    ("PoolWords", "any state", True, 300),
    ("PoolConservation", "any state, any caller and arguments, any time below 2^40; one schedule", False, 1800),
    ("PoolClaims", "any state, any time below 2^40; one schedule", False, 1800),
]
# Written, never refuted, and not seen to finish.
OPEN = re.compile(r"check_(applyResult|claim)_|check_a_(second_claim_pays|gain|window)_")
QUICK = re.compile(r"check_(setBudget|withdraw|releaseVault|fund|fundBounties|claimBounty|setCap|closeByVote)_")
REMAPPINGS = ["@openzeppelin/contracts/", "@chainlink/contracts/", "@uniswap/v3-core/"]


@dataclass(frozen=True)
class Result:
    name: str
    tool: str
    range: str
    paths: int
    seconds: float
    answer: str


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--fast", action="store_true", help="what takes less than a minute in all")
    options.add_argument("--open", action="store_true", help="try what is open, too: up to half an hour each")
    options.add_argument("--contracts", type=Path, default=ROOT / "contracts", help="prove another copy of contracts/")
    options.add_argument("--out", type=Path, default=ROOT / "build" / "prove", help="where to build")
    options.add_argument("--only", default="", help="a regular expression that the names of the properties match")
    options.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    chosen = options.parse_args()
    subprocess.run([sys.executable, ROOT / "tools" / "bootstrap.py", "--prover"], check=True)
    if Path(sys.prefix) != VENV:
        os.execv(VENV / "bin" / "python", [str(VENV / "bin" / "python"), __file__, *sys.argv[1:]])

    started = time.monotonic()
    check_expressions(chosen.contracts)
    exact = build(chosen.out / "exact", chosen.contracts, lemmas=False)
    short = build(chosen.out / "short", chosen.contracts, lemmas=True)
    missing = unproved_functions(short)
    results = []
    with ThreadPoolExecutor(chosen.jobs) as jobs:
        symbolic = list(symbolic_jobs(short, chosen))
        left_open = [] if chosen.open else [check for _, check, *_ in symbolic if OPEN.match(check)]
        waiting = [jobs.submit(prove_by_halmos, short, *job) for job in symbolic if job[1] not in left_open]
        for result in prove_arithmetic(exact, chosen):
            results.append(report(result))
        for job in waiting:
            results.append(report(job.result()))
    failed = [result for result in results if result.answer != "proved"]
    for name in missing:
        print(f"RewardPool.{name} has no proof that it conserves")
    for name in left_open:
        print(f"open     {name}")
    paths, took = sum(result.paths for result in results), f"{time.monotonic() - started:.0f} s"
    print(
        f"prove: {len(results) - len(failed)} of {len(results)} properties proved, {len(failed)} not, "
        f"{len(left_open)} more open, {paths} paths, {took}"
    )
    return 1 if failed or missing or not results else 0


def report(result: Result) -> Result:
    print(
        f"{result.answer:<8} {result.tool:<8} {result.paths:>5} paths {result.seconds:>6.1f} s  "
        f"{result.name}  [{result.range}]",
        flush=True,
    )
    return result


# Building


def check_expressions(contracts: Path) -> None:
    """Refuse to run when a text that Expressions.sol repeats is no longer in the contract it names."""
    text = (PROOFS / "Expressions.sol").read_text()
    for name, expression in re.findall(r"// from (\S+): (.+)", text):
        if expression not in (contracts / name).read_text():
            sys.exit(f"prove: {name} no longer says `{expression}`, which Expressions.sol proves")


def build(root: Path, contracts: Path, *, lemmas: bool) -> Path:
    """A project of its own: the contracts, the proofs, and with `lemmas` the short Math in the library's place."""
    for source, target in ((contracts, root / "contracts"), (PROOFS, root / "tests" / "solidity" / "proofs")):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".cache", "__pycache__"))
    symbolic = {"Symbolic.sol", "Ledger.sol", "Pool.sol", "Math.sol"}
    for file in (root / "tests").rglob("*.sol"):
        if (file.name in symbolic) != lemmas:
            file.unlink()
    if not lemmas:
        shutil.copy(contracts / "mocks" / "GuardMathHarness.sol", root / "tests" / "solidity" / "proofs")
        harness = root / "tests" / "solidity" / "proofs" / "GuardMathHarness.sol"
        harness.write_text(harness.read_text().replace('"../libraries/', '"../../../contracts/libraries/'))
    remappings = [f"{name}={ROOT / 'node_modules' / name}/" for name in REMAPPINGS]
    if lemmas:
        math = "@openzeppelin/contracts/utils/math/Math.sol"
        remappings.insert(0, f"contracts/:{math}=tests/solidity/proofs/lemmas/Math.sol")
    (root / "foundry.toml").write_text(
        "[profile.default]\n"
        'src = "tests/solidity/proofs"\ntest = "tests/solidity/proofs"\nout = "out"\ncache_path = "cache"\n'
        f'libs = ["{ROOT / "node_modules"}"]\nallow_paths = ["{ROOT}"]\nauto_detect_remappings = false\n'
        f"remappings = {json.dumps(remappings)}\n"
        f'solc = "{ROOT / ".solcx" / "solc-v0.8.30"}"\nevm_version = "prague"\n'
        'optimizer = true\noptimizer_runs = 200\nvia_ir = false\nbytecode_hash = "none"\n'
        "[lint]\nlint_on_build = false\n"
    )
    # The very command that halmos gives later, so that it then finds nothing to do.
    command = ["forge", "build", "--ast", "--root", root, "--extra-output", "storageLayout", "metadata"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit("prove: the proofs do not compile\n" + done.stdout + done.stderr)
    return root


def artefact(root: Path, file: str, name: str) -> dict:
    return json.loads((root / "out" / f"{file}.sol" / f"{name}.json").read_text())


def unproved_functions(root: Path) -> list[str]:
    """Functions of the pool that change its state and have no check of their own."""
    pool = artefact(root, "RewardPool", "RewardPool")["abi"]
    changing = {f["name"] for f in pool if f["type"] == "function" and f["stateMutability"] == "nonpayable"}
    checks = artefact(root, "Pool", "PoolConservation")["methodIdentifiers"]
    return sorted(changing - {name.split("_")[1] for name in checks if name.startswith("check_")})


# Proving


def prove_arithmetic(root: Path, chosen: argparse.Namespace) -> Iterator[Result]:
    sys.path.insert(0, str(PROOFS))
    from arithmetic import PROPERTIES, Calls
    from words import Unmodelled, prove

    artefacts = [artefact(root, name, name) for name in ("GuardMathHarness", "Expressions")]
    for wanted in PROPERTIES:
        if (chosen.fast and not wanted.fast) or not re.search(chosen.only, wanted.name):
            continue
        started, calls, answer, count = time.monotonic(), Calls(artefacts), "proved", 0
        try:
            for constraints, claim, products in wanted.claims(calls):
                count += 1
                answer, model = prove(constraints, claim, products)
                if answer != "proved":
                    print(f"  {answer}: {claim}\n  {model or ''}")
                    break
        except Unmodelled as unmodelled:
            answer = "unknown"
            print(f"  not modelled: {unmodelled}")
        if count == 0 and answer == "proved":
            answer = "unknown"  # nothing was claimed
        yield Result(wanted.name, "z3", wanted.range, calls.paths, time.monotonic() - started, answer)


def symbolic_jobs(root: Path, chosen: argparse.Namespace) -> Iterator[tuple[str, str, str, int]]:
    for contract, over, fast, limit_s in SYMBOLIC:
        file = "Ledger" if contract.startswith("Ledger") else "Pool"
        for signature in artefact(root, file, contract)["methodIdentifiers"]:
            check = signature.split("(")[0]
            wanted = check.startswith("check_") and re.search(chosen.only, check)
            if wanted and (fast or not chosen.fast or QUICK.match(check)):
                yield contract, check, over, limit_s


def prove_by_halmos(root: Path, contract: str, check: str, over: str, limit_s: int) -> Result:
    started = time.monotonic()
    command = [
        *(VENV / "bin" / "halmos", "--root", root, "--contract", contract),
        *("--match-test", f"^{check}\\(", "--no-status", "--statistics", "--loop", "12"),
        *("--default-array-lengths", "0,1,2" if contract == "LedgerCollisions" else "0,1,2,9"),
        *("--solver-timeout-assertion", "300s", "--solver-threads", "1"),
    ]
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=limit_s)
        output = done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        return Result(check, "halmos", over, 0, time.monotonic() - started, "unknown")
    paths = sum(map(int, re.findall(r"\(paths: (\d+)", output)))
    passed = "[PASS]" in re.sub(r"\x1b\[\d+m", "", output) and "1 passed; 0 failed" in output
    if done.returncode == 0 and passed and "loop unrolling bound" not in output:
        answer = "proved"
    else:
        answer = "refuted" if "Counterexample" in output else "unknown"
        print(output[-4000:])
    return Result(check, "halmos", over, paths, time.monotonic() - started, answer)


if __name__ == "__main__":
    sys.exit(main())
