"""Deployments interrupted at every transaction in turn, on chains with each network's quirks. Resumes where it was.

    tools/deploy_campaign.py                                     every network, every point, every transaction
    tools/deploy_campaign.py --networks base-sepolia --points after-send
    tools/deploy_campaign.py --every 7                           each seventh transaction only

Each case is a process that is killed with SIGKILL at one point of one transaction's life, and the same command again.
What then is on the chain has to be, to the byte of every contract's storage, what an undisturbed deployment leaves;
with as many transactions of the account, as many contracts, and nothing for check_config to say.
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
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.e2e.interrupted import NETWORKS, POINTS, Kill, Network, Processes  # noqa: E402 -- the root is on the path now

STATE = ROOT / ".build" / "deploy_campaign.jsonl"
# When one of these changes, everything is done again.
_CODE = (
    "agents/deploying.py agents/deployment.py agents/deployments.py agents/logs.py agents/config_check.py "
    "agents/commands/deploy.py agents/commands/check_config.py tests/e2e/interrupted.py agents/abi/manifest.json "
    "deployments/genesis/local.toml"
).split()
# Transactions of a deployment with the local genesis configuration.
TRANSACTIONS = 28

Case = tuple[str, str, int]


def main() -> int:
    arguments = parse()
    work = [
        (network, point, number)
        for network in arguments.networks
        for number in range(1, TRANSACTIONS + 1, arguments.every)
        for point in arguments.points
    ]
    done = load()
    left = [case for case in work if key(case) not in done]
    print(f"{len(work)} interruptions, {len(work) - len(left)} of them are done")
    with Progress(TextColumn("deployments"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("deployments", total=len(left))
        for case, found in run_all(left, arguments.workers):
            done[key(case)] = found
            keep(case, found)
            progress.advance(task)
            if found["broken"]:
                progress.console.print(f"[red]BROKEN[/] {' '.join(map(str, case))}: {found['broken']}")
    return report(work, done)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--points", nargs="+", choices=POINTS, default=list(POINTS))
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th transaction only")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def run_all(cases: list[Case], workers: int) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Each case with what was found, as they end. A worker takes a share of one network's, on one chain of its own."""
    shares = [
        [case for case in cases if case[0] == network][part::workers] for network in NETWORKS for part in range(workers)
    ]
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        answers = manager.Queue()
        running = [pool.submit(run_share, share, answers) for share in shares if share]
        for _ in cases:
            while answers.empty():
                if ended := [future for future in running if future.done() and future.exception()]:
                    ended[0].result()
                time.sleep(0.1)
            yield answers.get()
        for future in as_completed(running):
            future.result()


def run_share(cases: list[Case], answers: Any) -> None:
    """The cases of one network, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(Path(folder) / "home")
        try:
            with Network(NETWORKS[cases[0][0]], Path(folder) / "deployments") as network:
                ended = network.deploy(processes)
                if ended.code:
                    raise RuntimeError(f"{cases[0][0]}: an undisturbed deployment fails: {ended.output[-1000:]}")
                undisturbed = network.state()
                for case in cases:
                    answers.put((case, one(network, processes, case, undisturbed)))
        finally:
            processes.close()


def one(network: Network, processes: Processes, case: Case, undisturbed: dict[str, Any]) -> dict[str, Any]:
    """One interruption, and what is broken after it; nothing, as it should be."""
    begun = time.perf_counter()
    network.restart()
    _, point, number = case
    broken = list(_look(network, processes, Kill(point, number), undisturbed))  # type: ignore[arg-type]
    return {"broken": "; ".join(broken), "took_s": round(time.perf_counter() - begun, 2)}


def _look(network: Network, processes: Processes, kill: Kill, undisturbed: dict[str, Any]) -> Iterator[str]:
    killed = network.deploy(processes, kill=kill)
    if killed.code != -9:
        yield f"it was not killed: {killed.code}, {killed.output[-300:]}"
        return
    resumed = network.deploy(processes)
    if resumed.code:
        yield f"it does not go on: {resumed.output[-500:]}"
        return
    state = network.state()
    for name in undisturbed:
        if state[name] != undisturbed[name]:
            yield f"{name} is {state[name]}, undisturbed {undisturbed[name]}"
    if network.partial.exists():
        yield f"{network.partial.name} is still there"
    checked = network.check(processes)
    if checked.code or "no difference" not in checked.output:
        yield f"check_config: {checked.output[-500:]}"


def report(work: list[Case], done: dict[str, dict[str, Any]]) -> int:
    """A table, and 1 when anything is broken."""
    table = Table("network", "interrupted", *POINTS, "seconds each", title="deployments interrupted and resumed")
    broken = 0
    for network in dict.fromkeys(case[0] for case in work):
        cases = [case for case in work if case[0] == network]
        found = [done[key(case)] for case in cases]
        columns = []
        for point in POINTS:
            results = [done[key(case)]["broken"] for case in cases if case[1] == point]
            broken += sum(map(bool, results))
            columns.append(f"{results.count('')} of {len(results)}" if results else "")
        seconds = sum(result["took_s"] for result in found) / len(found)
        table.add_row(network, str(len(cases)), *columns, f"{seconds:.1f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(f"{len(work)} interruptions: {broken} left another state than an undisturbed deployment")
    return 1 if broken else 0


def key(case: Case) -> str:
    return " ".join((*map(str, case), code()))


@cache
def code() -> str:
    digest = hashlib.sha256()
    for name in _CODE:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()[:16]


def load() -> dict[str, dict[str, Any]]:
    if not STATE.exists():
        return {}
    lines = [json.loads(line) for line in STATE.read_text().splitlines() if line.endswith("}")]
    return {line["key"]: line for line in lines}


def keep(case: Case, found: dict[str, Any]) -> None:
    STATE.parent.mkdir(exist_ok=True)
    with STATE.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"key": key(case), **found}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
