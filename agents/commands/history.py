"""ape run history: download every round of a Chainlink feed to a parquet file, which `ape run train --data` takes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
from eth_utils import is_address, to_checksum_address
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agents.commands._chain import Connection, at, on_chain, show
from agents.errors import Misconfigured
from oracle.feeds import Feed, bind_feed, find_feed
from oracle.multicall import fetch_many


@click.command()
@click.argument("feed")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The parquet file.")
@click.option("--since", default="1970-01-01", show_default=True, help="Rounds published from this day on (UTC).")
@on_chain
def cli(here: Connection, feed: str, out: Path, since: str, as_json: bool) -> None:
    """Download FEED, such as "ETH / USD" or a proxy's address, into --out.

    Goes on where it was when it was cut, and with what was published since when --out is there.
    """
    try:
        # Here, because pyarrow takes long to import, and `ape run` imports every command to find one.
        from oracle.history import download_history
    except ImportError as error:
        raise Misconfigured(f"pyarrow is not installed ({error}): run `make install`") from error
    since_s = parse_day_s(since)
    require_folder(out)
    chosen = choose(here, feed)
    console = Console(stderr=True)
    with progress_bar(console) as bar:
        task = bar.add_task(chosen.description, total=None)
        found = download_history(
            here.chain, chosen, out, since_s=since_s, block="latest" if here.is_local else "finalized",
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    rounds = found.rounds
    show(
        {
            "feed": f"{chosen.description} at {chosen.address}",
            "rounds": len(rounds),
            "first": at(min(r.updated_at_s for r in rounds)) if rounds else "none",
            "last": at(max(r.updated_at_s for r in rounds)) if rounds else "none",
            "block": found.block.number,
            "silent phases": list(found.silent_phases) or "none",
            "file": str(out),
        },
        as_json=as_json,
    )


def choose(here: Connection, text: str) -> Feed:
    """A known feed by description; one by address is taken as it describes itself."""
    if not is_address(text):
        return find_feed(here.chain.chain_id, text)
    address = to_checksum_address(text)
    f = bind_feed(here.chain, address).functions
    description, decimals = fetch_many(here.chain, [f.description(), f.decimals()])
    return Feed(chain_id=here.chain.chain_id, address=address, description=description, decimals=decimals)


def parse_day_s(text: str) -> int:
    """Midnight UTC of a day. Raises Misconfigured."""
    try:
        return max(int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()), 0)
    except ValueError:
        raise Misconfigured(f"--since {text!r} is no day: write it as 2024-01-31") from None


def require_folder(out: Path) -> None:
    """Raises Misconfigured before minutes are spent on what could not be written, or read afterwards."""
    if out.suffix != ".parquet":
        raise Misconfigured(f"--out {out} is no parquet file: name it .parquet, so that it is known as one")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"--out {out} can't be written ({error.strerror}): name another file") from error


def progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console,
    )  # fmt: skip
