"""Training and backtests beside their peers: ours and theirs in one run on one machine, per second of processor time.

    python -m benchmarks.rl                       all of it; ten minutes on two cores, some more the first time
    python -m benchmarks.rl --quick               a minute or two: one round, short
    python -m benchmarks.rl --only env,ppo        some of env, ppo and backtest
    python -m benchmarks.rl --resume              without the sections that out/bench-rl.json has already

Peers are installed in .venv-bench and .venv-bench-torchtrade and run as processes of their own with one thread, ours
too. A section is several rounds, each of which measures everybody in turn, so that what else the machine does meets
all of them; given are medians, and how far the rates lie apart. Ends with 1 when two backtests of the same rule
disagree.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.rl import sections
from benchmarks.rl.measure import Figure, figure_from, join_rounds, judge, load_average, rows_of
from benchmarks.rl.sections import QUICK, SECTIONS, Effort, Section

DEFAULT_OUT = Path("out") / "bench-rl.json"
Report = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parse(arguments)
    # In a file or a pipe as wide as the longest row.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)
    kept: Report = json.loads(asked.json.read_text(encoding="utf-8")) if asked.resume and asked.json.exists() else {}
    effort = QUICK if asked.quick else Effort()
    if asked.rounds:
        effort = replace(effort, rounds=asked.rounds)
    for name in asked.only:
        if name in kept:
            console.print(f"[dim]{name}: measured on {kept[name]['at']}, kept[/dim]")
        else:
            kept[name] = measure(SECTIONS[name], effort, console)
            # After each section, so that what was measured survives an interruption.
            asked.json.parent.mkdir(parents=True, exist_ok=True)
            asked.json.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    disagreements = [show(SECTIONS[name], kept[name], console) for name in asked.only]
    console.print(f"[dim]written to {asked.json}[/dim]")
    return 1 if any(disagreements) else 0


def measure(section: Section, effort: Effort, console: Console) -> Report:
    """All rounds of a section, as JSON."""
    with console.status(section.name) as status:

        def say(text: str) -> None:
            status.update(f"{section.name}: {text}")

        contenders, missing = sections.prepare(section, console.print)
        loads = [load_average()]
        with tempfile.TemporaryDirectory() as folder:
            request = sections.write_prices(section, effort, Path(folder))
            rounds = []
            for number in range(effort.rounds):
                label = f"round {number + 1} of {effort.rounds}, "
                rounds.append(sections.play_round(contenders, request, lambda text, at=label: say(at + text)))
                loads.append(load_average())
    machine = {name: statistics.median(each.machine[name] for each in rounds) for name in rounds[0].machine}
    figures = join_rounds([each.figures for each in rounds])
    if section is sections.TRAINING:
        figures.append(sections.bound_of_training(machine, _inputs()))
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "on": f"{platform.machine()}, Python {platform.python_version()}",
        "effort": asdict(effort),
        "load_average": loads,
        "figures": [asdict(figure) for figure in figures],
        "machine": machine,
        "outcomes": rounds[-1].outcomes,
        "missing": sorted({*missing, *(line for each in rounds for line in each.missing)}),
    }


def show(section: Section, report: Report, console: Console) -> bool:
    """The section's tables; whether two of its backtests disagree."""
    figures = [figure_from(each) for each in report["figures"]]
    console.print(f"\n[bold]{section.title}[/bold]")
    console.print(_table(figures, section))
    loads = " … ".join(f"{load[0]:.1f}" for load in report["load_average"])
    console.print(f"{report['at']}, {report['on']}; load average before and after each round: {loads}")
    for line in report["missing"]:
        console.print(f"[yellow]not measured:[/yellow] {line}", markup=True)
    for judged in judge(figures, section.aims):
        reached = "-" if judged.reached is None else f"{judged.reached:.3g} x"
        console.print(f"aim {judged.aim.times:.3g} x: {judged.ours} / {judged.base} = {reached}: {judged.verdict}")
    for line in sections.explain_bounds(section, figures, report["machine"]):
        console.print(line)
    return _show_agreement(report["outcomes"], console)


def _table(figures: Sequence[Figure], section: Section) -> Table:
    table = Table("contender", f"{figures[0].unit} / CPU-s", "spread", f"to {section.base}", "")
    for column in table.columns[1:4]:
        column.justify = "right"
    ours = {figure.name for figure in figures if figure.is_ours}
    for row in rows_of(figures, section.base):
        table.add_row(*row, style="bold" if row[0] in ours else None)
    return table


def _show_agreement(outcomes: dict[str, dict[str, float]], console: Console) -> bool:
    for name, outcome in outcomes.items():
        console.print(f"{name}: ends with {outcome['final']:.8f} after {outcome['round_trips']:,} round trips")
    found = sections.compare_outcomes(outcomes)
    for each in found:
        verdict = "agree" if each.holds else "[red]disagree[/red]"
        apart = f"{each.difference:.2e} apart, at most {each.tolerance:g}"
        console.print(f"{each.first} and {each.second} {verdict}: {apart}")
    return not all(each.holds for each in found)


def _inputs() -> int:
    from benchmarks.rl.contest import env_config

    return len(env_config().observation.features)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rl", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_names, default=list(SECTIONS), help="sections, with commas between")
    parser.add_argument("--quick", action="store_true", help="one round, short: to see that it runs")
    parser.add_argument("--rounds", type=int, help=f"how many (default {Effort().rounds})")
    parser.add_argument("--resume", action="store_true", help="keep the sections that --json has already")
    parser.add_argument("--json", type=Path, default=DEFAULT_OUT, help=f"what was measured (default {DEFAULT_OUT})")
    asked = parser.parse_args(arguments)
    if asked.rounds is not None and asked.rounds < 1:
        parser.error("--rounds is at least 1")
    return asked


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in SECTIONS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(SECTIONS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
