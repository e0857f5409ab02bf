"""What reading costs: feeds in a batch and one by one, a history's download, the Graph client beside bare requests.

    python -m benchmarks.oracle                        a minute on two cores
    python -m benchmarks.oracle --json out/oracle.json

With MARKETFLOW_DATA_DIR set, the history is the 11,106 real rounds in that folder, each compared to the last digit;
without, as many made up.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.oracle import client, feeds, history

ROUNDS = 11_106


def main(arguments: list[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    folder = os.environ.get("MARKETFLOW_DATA_DIR")
    rounds = history.read_real_rounds(Path(folder)) if folder else history.make_rounds(ROUNDS)
    figures = {
        "feeds": feeds.measure(),
        "history": history.measure(rounds[: asked.rounds]),
        "client": client.measure(),
    }
    table = Table("measured", "what", "figure")
    for name, measured in figures.items():
        for what, figure in measured.items():
            table.add_row(name, what, f"{figure:,.0f}" if figure >= 100 else f"{figure:.2f}")
    Console(highlight=False).print(table)
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.oracle", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of the history (default {ROUNDS})")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return parser


if __name__ == "__main__":
    main()
