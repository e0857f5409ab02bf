"""Everything that can go wrong, thousands of times: what must hold is looked at after each. Resumes where it was.

    tools/chaos.py                      10,000 runs in process and 300 with killed daemons
    tools/chaos.py --runs 500 --kills 20 --seed 7
    tools/chaos.py --replay life:3      one life of the campaign again, with its story

A life or visit is a function of the seed and its number, but for what a real daemon does in the milliseconds before it
is killed. What was done with other code is done again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agents.localnet.evm import start_evm  # noqa: E402 -- the root must be on the path before
from tests.chaos import kills, lives  # noqa: E402
from tests.contracts.world import World  # noqa: E402

STATE = ROOT / ".build" / "chaos"
# What each kind runs: when one of these changes, it is done again.
_OUTBOX = "journal outbox node fees execution reconcile ledger signer contracts"
_CODE = {
    "life": [f"agents/{name}.py" for name in _OUTBOX.split()] + ["tests/chaos/lives.py", "contracts"],
    "visit": ["agents", "oracle", "tests/chaos/kills.py", "tests/e2e/daemons.py", "contracts"],
}
# Numbers of lives and visits begin here for each seed.
_STRIDE = 1_000_000
_stage: dict[str, Any] = {}


def main() -> int:
    arguments = parse()
    if arguments.replay:
        kind, _, number = arguments.replay.partition(":")
        print(json.dumps(one(kind, int(number), _runs(kind)), indent=2))
        return 0
    work = plan(arguments)
    state = load_state()
    left = [job for job in work if key(job) not in state]
    print(f"{len(work)} lives and visits, {len(work) - len(left)} of them are done")
    with Progress(TextColumn("chaos"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("chaos", total=len(left))
        for job, found in run_all(left, arguments.workers):
            state[key(job)] = found
            save_state(state)
            progress.advance(task)
            if found["broken"]:
                progress.console.print(f"[red]BROKEN[/] {found['broken']}")
                progress.console.print(f"again: tools/chaos.py --replay {job[0]}:{job[1]}")
    return report([state[key(job)] for job in work])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000, help="runs in process")
    parser.add_argument("--kills", type=int, default=300, help="killed daemons")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--replay", metavar="life:N|visit:N")
    return parser.parse_args()


def plan(arguments: argparse.Namespace) -> list[tuple[str, int, int]]:
    """Kind, number, and how many runs of it."""
    jobs = []
    for kind, wanted, most in (("life", arguments.runs, lives.RUNS), ("visit", arguments.kills, kills.ROUNDS)):
        first = arguments.seed * _STRIDE
        for index, begun in enumerate(range(0, wanted, most)):
            jobs.append((kind, first + index, min(most, wanted - begun)))
    return jobs


def run_all(jobs: list[tuple[str, int, int]], workers: int) -> Any:
    """Each job with what was found, as they end. A worker keeps its chain."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        running: dict[Future[Any], tuple[str, int, int]] = {pool.submit(one, *job): job for job in jobs}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()


def one(kind: str, number: int, runs: int) -> dict[str, Any]:
    """One life or visit; stops at what is broken."""
    begun, faults, done = time.perf_counter(), Counter[str](), 0
    broken = ""
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as folder:
        try:
            with _open(kind, Path(folder)) as subject:
                for index in range(runs):
                    step = subject.run if kind == "life" else subject.round
                    faults += step(number * 1000 + index).faults
                    done += 1
        except lives.Broken as error:
            broken = str(error)
        except Exception:  # of the laboratory itself; its chain may be spoilt
            broken = traceback.format_exc()
            _stage.pop(kind, None)
    return {
        "kind": kind, "number": number, "runs": done, "broken": broken, "faults": dict(faults),
        "seconds": round(time.perf_counter() - begun, 1),
    }  # fmt: skip


def _open(kind: str, folder: Path) -> Any:
    """A life or a visit on this worker's chain of that kind."""
    if kind not in _stage:
        evm = _stage.setdefault("evm of " + kind, start_evm("anvil"))
        _stage[kind] = lives.Stage(World(evm)) if kind == "life" else kills.Street(World(evm))
    if kind == "life":
        return _stage[kind].life(folder)
    return _stage[kind].visit(folder, _stage.setdefault("zygote", kills.Zygote()))


def _runs(kind: str) -> int:
    return lives.RUNS if kind == "life" else kills.ROUNDS


def _fast_folder() -> str | None:
    """Journals are written through to the disk, which is quick in memory. Nobody cuts the power here."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def report(found: list[dict[str, Any]]) -> int:
    """Prints and keeps what was found; 1 when something did not hold."""
    broken = [one for one in found if one["broken"]]
    runs = Counter[str]()
    faults: dict[str, Counter[str]] = {"life": Counter(), "visit": Counter()}
    for result in found:
        runs[result["kind"]] += result["runs"]
        faults[result["kind"]] += Counter(result["faults"])
    summary = {
        "code": {kind: code_hash(kind) for kind in _CODE},
        "runs in process": runs["life"], "killed daemons": runs["visit"],
        "broken": [one["broken"] for one in broken],
        "faults in process": dict(faults["life"].most_common()),
        "faults with daemons": dict(faults["visit"].most_common()),
    }  # fmt: skip
    (STATE / "report.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(f"{runs['life']} runs in process and {runs['visit']} killed daemons: {len(broken)} did not hold")
    for kind, counted in faults.items():
        print(f"  {kind}: " + ", ".join(f"{name} {times}" for name, times in counted.most_common()))
    print(f"kept in {STATE / 'report.json'}")
    return 1 if broken else 0


def key(job: tuple[str, int, int]) -> str:
    return f"{code_hash(job[0])} {job[0]} {job[1]} {job[2]}"


@cache
def code_hash(kind: str) -> str:
    """Of everything that a kind of campaign runs."""
    digest = hashlib.sha256()
    for name in _CODE[kind]:
        path = ROOT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix in (".py", ".sol"):
                digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def load_state() -> dict[str, Any]:
    path = STATE / "state.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: value for name, value in found.items() if name.split()[0] in {code_hash(kind) for kind in _CODE}}


def save_state(state: dict[str, Any]) -> None:
    STATE.mkdir(parents=True, exist_ok=True)
    temporary = STATE / "state.partial"
    temporary.write_text(json.dumps(state), encoding="utf-8")
    temporary.replace(STATE / "state.json")


if __name__ == "__main__":
    sys.exit(main())
