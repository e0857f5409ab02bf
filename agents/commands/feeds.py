"""ape run feeds: the Chainlink feeds that are known on a network, and whether they are what they should be."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from agents.commands._chain import Connection, on_chain
from oracle.feeds import Feed, check_feeds, check_sequencer, find_sequencer, load_feeds


@click.command()
@on_chain
def cli(here: Connection, as_json: bool) -> None:
    """Check the network's feeds by description and decimals, and that its sequencer is up."""
    chain_id = here.chain.chain_id
    feeds, sequencer = load_feeds(chain_id), find_sequencer(chain_id)
    check_feeds(here.chain, feeds)
    if sequencer:
        check_sequencer(here.chain, sequencer.address, now_s=here.chain.now_s(), grace_s=sequencer.grace_s)
    if as_json:
        answer = {"feeds": [asdict(feed) for feed in feeds], "sequencer": sequencer and asdict(sequencer)}
        click.echo(json.dumps(answer, indent=2))
    else:
        Console(highlight=False, width=120).print(as_table(feeds, here.name))


def as_table(feeds: tuple[Feed, ...], network: str) -> Table:
    """A line for each feed; what no source says is left open."""
    table = Table(title=f"{network}: {len(feeds)} feeds, all as they should be", title_justify="left")
    for column in ("feed", "address", "decimals", "heartbeat", "deviation"):
        table.add_column(column)
    for feed in feeds:
        heartbeat = "" if feed.heartbeat_s is None else f"{feed.heartbeat_s} s"
        deviation = "" if feed.deviation_bps is None else f"{feed.deviation_bps} bps"
        table.add_row(feed.description, feed.address, str(feed.decimals), heartbeat, deviation)
    return table
