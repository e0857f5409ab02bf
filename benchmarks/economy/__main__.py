"""Does it pay to cheat? Plays the worlds, prints the table, draws the picture.

    python -m benchmarks.economy                       some minutes on two cores
    python -m benchmarks.economy --quick               a small world, in seconds: shows that it runs, proves nothing
    python -m benchmarks.economy --json out/economy.json --picture docs/economy.png

With MARKETFLOW_DATA_DIR set, paths are cut from the real prices in that folder. The same arguments give the same table.
Ends with 1 when something pays that was not known to.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.economy.paths import load_source
from benchmarks.economy.report import compute_report, draw_picture, format_table, summary, to_json
from benchmarks.economy.simulate import Config
from benchmarks.economy.worlds import play

QUICK = Config(epochs=2, fair_assets=2, gap_assets=1, drift_assets=1, seeds=1)
WORLDS, QUICK_WORLDS = 6, 1


def main(arguments: list[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    config = QUICK if asked.quick else Config()
    worlds = asked.worlds or (QUICK_WORLDS if asked.quick else WORLDS)
    folder = os.environ.get("MARKETFLOW_DATA_DIR")
    source = load_source(Path(folder) if folder else None, np.random.default_rng([asked.seed, 0]))
    outcomes = play(config, source, [asked.seed * 1000 + world for world in range(worlds)], workers=asked.workers)
    report = compute_report(outcomes)
    print(f"Prices: {source.name}. {config.epochs} weeks, {worlds} worlds, seed {asked.seed}.")
    print(format_table(report))
    print()
    print(summary(report))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        settings = {**asdict(config), "worlds": worlds, "seed": asked.seed, "prices": source.name}
        asked.json.write_text(to_json(report, settings), encoding="utf-8")
    if asked.picture:
        asked.picture.parent.mkdir(parents=True, exist_ok=True)
        draw_picture(report, asked.picture)
    sys.exit(1 if report.surprises() and not asked.quick else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.economy", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small world, in seconds")
    parser.add_argument("--worlds", type=int, help=f"how many worlds of about a thousand agents (default {WORLDS})")
    parser.add_argument("--seed", type=int, default=1, help="another seed is another set of price paths (default 1)")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes (default 2)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--picture", type=Path, help="where to draw the picture")
    return parser


if __name__ == "__main__":
    main()
