"""ape run localgraph: a graph-node of one's own, over a deployment on a running node."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import click

from agents.commands._chain import Connection, on_chain, say, show
from agents.deployments import load_deployment
from agents.errors import Misconfigured
from agents.localnet.graphnode import LocalGraph
from agents.subgraph import write_local_manifest

# A local chain takes seconds.
INDEXING_TIMEOUT_S = 3600


@click.command()
@click.option(
    "--deployment", "file", type=click.Path(path_type=Path),
    help="What to index: a file such as out/demo/deployment.json. Default: this network's, in --deployments.",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8000, show_default=True,
    help="Where queries are answered; 0 for any that is free.",
)  # fmt: skip
@on_chain
def cli(here: Connection, file: Path | None, port: int, as_json: bool) -> None:
    """Index the protocol on a running node such as `ape run node` starts, say where to query it, and wait to be
    interrupted. Nothing is kept."""
    if not here.url:
        raise Misconfigured("graph-node needs the URL of a node: --network http://127.0.0.1:8545 for a local one")
    found = load_deployment(file, chain_id=here.chain.chain_id) if file else here.deployed()
    with LocalGraph(here.url, [write_local_manifest(found.protocol)], port=port or None) as graph:
        head = here.chain.w3.eth.block_number
        say(f"indexing up to block {head}")
        graph.wait_for_block(head, timeout_s=INDEXING_TIMEOUT_S)
        show({"query": graph.endpoint(), "block": head}, as_json=as_json)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
