"""A day's worth of bars in minutes, with faults: whether the daemon can trade, what it needs, and what grows.

    tools/soak.py                       144 bars of ten minutes, one every 2.5 s
    tools/soak.py --bars 300 --seed 7

Prints the figures, keeps them in .build/soak/report.json, and ends with 1 when a bound is broken. How each is computed
is said in tests/chaos/soak.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agents.localnet.evm import start_evm  # noqa: E402 -- the root must be on the path before
from tests.chaos.soak import Bounds, Report, Told, as_json, compute_report, plan, soak  # noqa: E402
from tests.contracts.world import World  # noqa: E402

BUILD = ROOT / ".build" / "soak"


def main() -> int:
    arguments = parse()
    bars, console, begun = plan(arguments.seed, arguments.bars), Console(), time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder, start_evm("anvil") as evm:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("a soak", total=len(bars))

            def advance(_: int, told: Told) -> None:
                said = f"{len(told.lives)} daemons, {told.kills} kills, {told.reorgs} reorgs"
                progress.update(task, advance=1, description=said)

            told = soak(
                World(evm), Path(folder) / "operator", bars, seed=arguments.seed, bar_s=arguments.bar_s,
                fault_bps=arguments.fault_bps, advance=advance,
            )  # fmt: skip
        (BUILD / "daemon.log").write_bytes((Path(folder) / "operator" / "daemon.log").read_bytes())
    report = compute_report(told)
    keep(report, arguments, took_s=round(time.monotonic() - begun))
    show(report, console)
    return 1 if report.broken else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", type=int, default=144)
    parser.add_argument("--bar-s", type=float, default=2.5, help="how long a bar lasts here, in seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault-bps", type=int, default=150, help="of requests to each node, how many meet a fault")
    return parser.parse_args()


def keep(report: Report, arguments: argparse.Namespace, *, took_s: int) -> None:
    content = {"arguments": vars(arguments), "took_s": took_s, **as_json(report)}
    (BUILD / "report.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def show(report: Report, console: Console) -> None:
    """The figures with what is promised of them."""
    bounds, table = Bounds(), Table(show_header=True)
    for name in ("figure", "value", "bound"):
        table.add_column(name)
    for name, value in report.figures.items():
        table.add_row(name, str(value), str(getattr(bounds, name, "")))
    console.print(table)
    for said in report.broken:
        console.print(f"[red]BROKEN[/] {said}", highlight=False)
    console.print(f"kept in {BUILD / 'report.json'}, the daemons' log beside it")


if __name__ == "__main__":
    sys.exit(main())
