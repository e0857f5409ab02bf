"""No handler without a test: on graph-node's own runtime and store (`gnd test`), and, where its tests can't say what an
event carries, on a chain."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agents.localnet.graphnode import find_gnd
from agents.localnet.postgres import LocalPostgres
from agents.subgraph import POOLS, PROTOCOL, Subgraph, build, read_manifest
from tests.contracts.world import HOUR_S, World, usd
from tests.graph.conftest import Graph

SUBGRAPHS = pytest.mark.parametrize("subgraph", [PROTOCOL, POOLS], ids=lambda subgraph: subgraph.folder.name)
PARTS = 4
# gnd 0.45.0 takes no structs in the events of tests, so trades are none of them, and vaults hold nothing to be sold.
ON_A_CHAIN = {"CeilingsSet", "RulesSet", "VaultUpdated", "TradeRecorded", "AuctionFilled", "WrittenOff"}


def events_of_manifest(subgraph: Subgraph) -> Iterator[tuple[str, str]]:
    """Address of the contract (none, when it is a template's) and event, as `name(types)`."""
    manifest = read_manifest(build(subgraph) / "subgraph.yaml")
    for source in (*manifest["dataSources"], *manifest.get("templates", ())):
        for handler in source["mapping"]["eventHandlers"]:
            yield source["source"].get("address", ""), handler["event"].replace("indexed ", "")


def events_of_tests(subgraph: Subgraph) -> Iterator[tuple[str, str]]:
    """The same of the events in the tests; an address that no data source has is a template's."""
    for file in (subgraph.folder / "tests").glob("*.json"):
        for block in json.loads(file.read_text(encoding="utf-8"))["blocks"]:
            for event in block.get("events", ()):
                name, parameters = event["event"].removesuffix(")").split("(", 1)
                types = ",".join(parameter.split()[0] for parameter in parameters.split(",") if parameter)
                is_fixed = event["address"] in subgraph.test_addresses.values()
                yield event["address"] if is_fixed else "", f"{name}({types})"


@SUBGRAPHS
def test_every_handler_has_a_test_of_its_own_but_those_that_need_a_chain(subgraph: Subgraph) -> None:
    untested = {event.split("(")[0] for _, event in set(events_of_manifest(subgraph)) - set(events_of_tests(subgraph))}
    assert untested <= ON_A_CHAIN


def test_what_needs_a_chain_happens_on_one(world: World, graph: Graph) -> None:
    """What the entities then say is compared with the contracts in the tests of each half."""
    strategy, eth_token = world.deploy_strategy(), world.token_of("ETH")
    world.buy(strategy, usd(100_000))
    world.as_timelock(world.strategies.functions.halt(strategy.id))
    world.travel(2 * HOUR_S)
    _, quote_in, _ = world.view(strategy.vault.functions.auctionQuote(eth_token))
    world.market.give_quote(world.bidder, quote_in)
    world.send(world.quote.functions.approve(strategy.vault.address, quote_in), world.bidder)
    world.send(strategy.vault.functions.fillAuction(eth_token, quote_in), world.bidder)
    world.as_timelock(world.strategies.functions.writeOff(strategy.id, eth_token))
    vault = strategy.vault.address.lower()
    found = graph.query(
        f"""{{
          ceilings: constitutionChanges(where: {{ kind: "CEILINGS" }}) {{ id }}
          rules: constitutionChanges(where: {{ kind: "RULES" }}) {{ id }}
          limits: vaults(where: {{ id: "{vault}", limits_not: null }}) {{ id }}
          trades(where: {{ vault: "{vault}" }}) {{ id }}
          auctionFills(where: {{ vault: "{vault}" }}) {{ id }}
          writtenOff: capitalFlows(where: {{ vault: "{vault}", kind: "WRITTEN_OFF" }}) {{ id }}
        }}"""
    )
    assert all(found.values()), found


@SUBGRAPHS
def test_handlers_do_what_their_tests_say(subgraph: Subgraph) -> None:
    """In several processes, because each mostly waits."""
    build(subgraph)
    files = sorted(map(str, (subgraph.folder / "tests").glob("*.json")))
    parts = [files[start::PARTS] for start in range(PARTS)]
    with ThreadPoolExecutor() as workers:
        said = list(workers.map(lambda part: run_tests(subgraph, part), parts))
    assert sum(said) == len(files)


def run_tests(subgraph: Subgraph, files: list[str]) -> int:
    """How many there were; raises when one fails."""
    with LocalPostgres() as database:
        command = [find_gnd(), "test", "--skip-build", "--postgres-url", database.url, *files]
        done = subprocess.run(command, cwd=subgraph.folder, capture_output=True, text=True, timeout=170)
    passed = re.search(r"(\d+) passed, 0 failed", done.stdout + done.stderr)
    assert done.returncode == 0 and passed, f"{done.stdout[-5000:]}{done.stderr[-2000:]}"
    return int(passed[1])
