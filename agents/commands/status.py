"""ape run status: what is going on in the protocol, from its subgraph or, without one, from the contracts' events."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from enum import IntEnum
from typing import Any

import click

from agents.commands._chain import Connection, amount, at, on_chain, say, tokens, warn
from agents.commands._tables import open_console, print_table
from agents.contracts import decode_logs
from agents.deployment import CONTRACTS
from agents.deployments import NetworkDeployment
from oracle.chain import BlockRef
from oracle.protocol import Proposal, ProtocolReader, open_protocol_reader
from oracle.protocol_events import EventProtocolReader
from oracle.protocol_graph import GraphProtocolReader, protocol_schema
from oracle.thegraph import GraphClient
from oracle.vault_state import reason_names

# An indexer further behind the node is not asked.
MAX_LAG_BLOCKS, MAX_AGE_S = 50, 900


@click.command()
@click.option("--graph", "endpoints", multiple=True, help="The subgraph's URL; repeated, the others are for fail-over.")
@on_chain
def cli(here: Connection, endpoints: tuple[str, ...], as_json: bool) -> None:
    """Proposals, strategies, vaults and agents at one block. The subgraph is quick; events need no one but a node."""
    found = here.deployed()
    with ExitStack() as stack:
        graph = None
        if endpoints:
            client = stack.enter_context(graph_client(here, found, endpoints))
            graph = GraphProtocolReader(client, dao=found.protocol.dao)
        events = event_reader(here, found)
        answer = read(open_protocol_reader(events=events, graph=graph, warn=lambda reason: warn([reason])))
    if as_json:
        click.echo(json.dumps(named(answer), indent=2))
    else:
        print_tables(answer, found)


def event_reader(here: Connection, found: NetworkDeployment) -> EventProtocolReader:
    contracts = {name: found.protocol.contract(here.chain, name) for name in CONTRACTS}
    return EventProtocolReader(
        here.chain, contracts, from_block=found.protocol.deployed_at_block, decode=decode_logs, progress=tell_progress
    )


def tell_progress(done: int, wanted: int) -> None:
    if done < wanted:
        say(f"events up to block {done:,} of {wanted:,}")


def graph_client(here: Connection, found: NetworkDeployment, endpoints: Sequence[str]) -> GraphClient:
    return GraphClient(
        endpoints, protocol_schema(), chain=here.chain, chain_id=found.protocol.chain_id,
        max_lag_blocks=MAX_LAG_BLOCKS, max_age_s=MAX_AGE_S,
        now_s=here.chain.now_s if here.is_local else lambda: int(time.time()),
    )  # fmt: skip


def read(reader: ProtocolReader) -> dict[str, Any]:
    """Everything at one block, as JSON has it."""
    block = reader.fetch_head()
    return {
        "block": asdict(block),
        "totals": asdict(reader.fetch_totals(block)),
        "proposals": [as_row(proposal, block) for proposal in reader.fetch_proposals(block).items],
        "strategies": [asdict(strategy) for strategy in reader.fetch_strategies(block).items],
        "vaults": [asdict(vault) for vault in reader.fetch_vaults(block).items],
        "agents": [asdict(agent) for agent in reader.fetch_agents(block).items],
        "source": reader.source,
    }


def as_row(proposal: Proposal, block: BlockRef) -> dict[str, Any]:
    """With its state and its deadline. The id is text: JSON readers lose digits of larger numbers."""
    state, votes = proposal.state_at(block.timestamp_s), [asdict(vote) for vote in proposal.votes]
    own = asdict(proposal) | {"id": str(proposal.id), "state": state, "deadline_s": proposal.deadline_s}
    return own | {"votes": [vote | {"proposal_id": str(proposal.id)} for vote in votes]}


def named(value: Any) -> Any:
    """States and stages by their names."""
    if isinstance(value, dict):
        return {key: named(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [named(item) for item in value]
    return value.name if isinstance(value, IntEnum) else value


def print_tables(answer: dict[str, Any], found: NetworkDeployment) -> None:
    """What people look for first; the rest is in `--json`."""
    block, totals, decimals = answer["block"], answer["totals"], found.market.quote_decimals
    quote = lambda units: "" if units is None else amount(units, decimals)  # noqa: E731
    console = open_console()
    console.print(f"block {block['number']} ({at(block['timestamp_s'])}), read from {answer['source']}")
    console.print(
        f"{totals['trade_count']} trades worth {quote(totals['volume'])}, {totals['refusal_count']} refused; "
        f"{quote(totals['allocated'])} allocated, {quote(totals['recalled'])} recalled; "
        f"{tokens(totals['rewarded_wei'])} tokens paid for profit, {tokens(totals['clawed_back_wei'])} taken back"
    )
    print_table(
        console, "proposals", ("id", "title", "state", "for", "against", "quorum", "vote ends"),
        [
            (p["id"], title(p), p["state"].name.lower(), tokens(p["for_votes_wei"]), tokens(p["against_votes_wei"]),
             tokens(p["quorum_wei"]), at(p["deadline_s"]))
            for p in answer["proposals"]
        ],
    )  # fmt: skip
    print_table(
        console, "strategies", ("id", "agent", "stage", "versions", "vault"),
        [
            (s["id"], str(s["agent_id"]), s["stage"].name.lower(), str(len(s["versions"])), s["vault"])
            for s in answer["strategies"]
        ],
    )  # fmt: skip
    print_table(
        console, "vaults, as they were measured last", ("vault", "state", "worth", "profit", "account", "trades"),
        [
            (v["address"], ", ".join([v["state"].name.lower(), *reason_names(v["reasons"])]),
             quote(v["net_asset_value"]), quote(v["profit"]), quote(v["account"]["credited"]), str(v["trade_count"]))
            for v in answer["vaults"]
        ],
    )  # fmt: skip
    print_table(
        console, "agents", ("agent", "controller", "bond", "deposit", "unclaimed", "trades"),
        [
            (str(a["id"]), a["controller"], tokens(a["bond_wei"]), quote(a["deposit"]), tokens(a["unclaimed_wei"]),
             str(a["trade_count"]))
            for a in answer["agents"]
        ],
    )  # fmt: skip


def title(proposal: dict[str, Any]) -> str:
    """The first line of what it says, without who proposed it."""
    return str(proposal["description"]).split("#proposer=")[0].partition("\n")[0]
