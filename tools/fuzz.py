"""Random actors against the whole protocol, and after each act every promise of docs/invariants.md.

    python tools/fuzz.py fast                       a fixed seed, seconds: for every commit
    python tools/fuzz.py campaign [--seed N]        1,024 runs of 32 acts for each cast; 100,000 runs of each property
    python tools/fuzz.py campaign --seed N          goes on where the campaign of that seed was stopped; when it has
                                                    ended, `--again` tells the same stories from the start
    python tools/fuzz.py campaign --only Trading    one suite

forge does the work (profile `fuzz` of foundry.toml). Fails if a promise is broken. A whole campaign fails, too, if an
actor never got anything done, or one of the events that matter never came about: its other figures would mean little.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "fuzz"
# Written by the contracts, a line for each run: how often what matters came about.
TALLY = BUILD / "tally.csv"
CASTS = ("TradingInvariants", "RewardInvariants", "GovernanceInvariants", "OpenInvariants")
PROPERTIES = ("GuardMathProperties", "ProtocolProperties")
DEPTH = 32
FAST_SEED, FAST_RUNS, FAST_PROPERTY_RUNS = 4, 24, 256
CAMPAIGN_RUNS, CAMPAIGN_PROPERTY_RUNS = 1024, 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", choices=["fast", "campaign"])
    parser.add_argument("--seed", type=lambda text: int(text, 0), help="the same seed tells the same stories")
    parser.add_argument("--runs", type=int, help="stories for each cast of actors")
    parser.add_argument("--property-runs", type=int, help="inputs for each property")
    parser.add_argument("--only", default="", help="suites whose name contains this")
    parser.add_argument("--again", action="store_true", help="do not reuse what this seed's campaign has finished")
    options = parser.parse_args()
    fast = options.how == "fast"
    seed = options.seed if options.seed is not None else FAST_SEED if fast else secrets.randbits(64)
    runs = options.runs or (FAST_RUNS if fast else CAMPAIGN_RUNS)
    property_runs = options.property_runs or (FAST_PROPERTY_RUNS if fast else CAMPAIGN_PROPERTY_RUNS)
    suites = [name for name in (*CASTS, *PROPERTIES) if options.only.lower() in name.lower()]
    if not suites:
        sys.exit(f"no suite is called {options.only!r}; there are: {', '.join((*CASTS, *PROPERTIES))}")

    BUILD.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed:#x}", flush=True)
    began = time.monotonic()
    build()
    print(f"compiled in {time.monotonic() - began:.0f} s", flush=True)
    kept = BUILD / f"{options.how}-{seed:#x}-{runs}-{property_runs}.json"
    results = json.loads(kept.read_text()) if kept.exists() and not (fast or options.again) else {}
    began = time.monotonic()
    # Together, where it is short: forge spreads suites over the cores. One by one, where it can be interrupted.
    for batch in [suites] if fast else [[suite] for suite in suites]:
        if all(suite in results for suite in batch):
            print(f"{batch[0]}: finished before")
            continue
        results |= run(batch, seed, runs, property_runs)
        kept.write_text(json.dumps({suite: tests for suite, tests in results.items() if passed(tests)}))
    whole = not fast and len(suites) == len(CASTS) + len(PROPERTIES)
    report(results, seed, time.monotonic() - began, must_happen=whole)


def build() -> None:
    command = ["forge", "build", "--offline", "--quiet", "tests/solidity/invariants"]
    if code := subprocess.run(command, cwd=ROOT, env=environment()).returncode:
        sys.exit(code)


def run(suites: list[str], seed: int, runs: int, property_runs: int) -> dict[str, dict]:
    """forge's results by suite, and the tally of each batch of casts under its first name."""
    TALLY.unlink(missing_ok=True)
    variables = {
        "FOUNDRY_INVARIANT_RUNS": str(runs),
        "FOUNDRY_INVARIANT_DEPTH": str(DEPTH),
        "FOUNDRY_FUZZ_RUNS": str(property_runs),
    }
    began = time.monotonic()
    command = ["forge", "test", "--offline", "--json", "--fuzz-seed", hex(seed)]
    command += ["--match-contract", f"^({'|'.join(suites)})$"]
    done = subprocess.run(command, cwd=ROOT, env=environment() | variables, capture_output=True, text=True)
    try:
        # forge may tell about a failure in a line of its own before the results.
        answer = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith('{"tests/')))
    except StopIteration:
        sys.exit(f"forge gave no results (code {done.returncode}):\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    results = {name.split(":")[1]: suite["test_results"] for name, suite in answer.items()}
    tally: Counter[str] = Counter()
    for line in TALLY.read_text().splitlines() if TALLY.exists() else []:
        tally.update({name: int(count) for name, count in (pair.split("=") for pair in line.split())})
    results[suites[0]] = results[suites[0]] | {"tally": tally}
    print(f"{', '.join(suites)}: {time.monotonic() - began:.0f} s", flush=True)
    return results


def passed(tests: dict[str, dict]) -> bool:
    return all(result["status"] == "Success" for name, result in tests.items() if name != "tally")


def report(results: dict[str, dict], seed: int, took_s: float, *, must_happen: bool) -> None:
    """Print actors, events, failures and the summary line. Ends the program with 1 if something is wrong."""
    actors: dict[str, Counter[str]] = {}
    tally: Counter[str] = Counter()
    stories = acts = properties = inputs = 0
    wrong: list[str] = []
    for suite, tests in results.items():
        tally.update(tests.get("tally", {}))
        for test, result in tests.items():
            if test == "tally":
                continue
            if result["status"] != "Success":
                wrong.append(f"{suite}.{test}: {result['reason']}\n{json.dumps(result.get('counterexample'))[:4000]}")
            if figures := result["kind"].get("Invariant"):
                stories, acts = stories + figures["runs"], acts + figures["calls"]
                for name, counts in figures["metrics"].items():
                    actors.setdefault(name.split(".")[-1], Counter()).update(counts)
            elif figures := result["kind"].get("Fuzz"):
                properties, inputs = properties + 1, inputs + figures["runs"]

    if actors:
        print(f"\n{'actor':26}{'tried':>9}{'done':>9}{'refused':>9}{'nothing to do':>15}")
    for name, counts in sorted(actors.items()):
        done = counts["calls"] - counts["reverts"] - counts["discards"]
        print(f"{name:26}{counts['calls']:9}{done:9}{counts['reverts']:9}{counts['discards']:15}")
        if must_happen and done == 0:
            wrong.append(f"{name} never got anything done")
    if tally:
        print("\nwhat came about: " + ", ".join(f"{count} {name}" for name, count in tally.items()))
        wrong += [f"{name}: never came about" for name, count in tally.items() if must_happen and not count]
    refused = sum(counts["reverts"] for counts in actors.values())
    for text in wrong:
        print(f"\nFAILED {text}")
    print(
        f"\nfuzz: {promises()} invariants after each of {acts:,} acts in {stories:,} stories of {len(actors)} actors "
        f"({refused:,} acts refused); {properties} properties, {inputs:,} inputs; {len(wrong)} failures; "
        f"{took_s:.0f} s; seed {seed:#x}"
    )
    sys.exit(1 if wrong else 0)


def promises() -> int:
    """How many sentences docs/invariants.md has in its tables."""
    lines = (ROOT / "docs" / "invariants.md").read_text().splitlines()
    return sum(line.startswith("| ") and line[2].isupper() and line[3].isdigit() for line in lines)


def environment() -> dict[str, str]:
    path = f"{ROOT / 'node_modules' / '.bin'}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "FOUNDRY_PROFILE": "fuzz"}


if __name__ == "__main__":
    main()
