"""The subgraph and the contracts' events tell the same of the protocol, to the last digit, before and after a reorg."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agents.deployment import ZERO_ADDRESS
from agents.localnet.evm import start_evm
from agents.localnet.graphnode import LocalGraph
from agents.subgraph import write_local_manifest
from oracle.chain import fetch_block
from oracle.errors import GraphRefused
from oracle.protocol import Claim, Trade
from oracle.protocol_graph import GraphProtocolReader, protocol_schema
from oracle.thegraph import GraphClient
from tests.contracts import story
from tests.contracts.truth import assert_true, event_reader, everything, graph_client
from tests.contracts.world import Strategy, World, usd
from tests.graph.conftest import Graph
from tools.graph_schema import fetch_schema


class Told:
    """After the story, with both readers, on a chain of its own."""

    def __init__(self, world: World, graph: Graph, client: GraphClient, strategy: Strategy) -> None:
        self.world, self.graph, self.client, self.strategy = world, graph, client, strategy
        self.by_graph = GraphProtocolReader(client, dao=world.d.dao)
        self.by_events = event_reader(world.evm, world.d)

    def assert_the_same(self) -> None:
        """At the newest block, for every kind of answer, and as the contracts have it."""
        self.graph.wait()
        head = self.by_graph.fetch_head()
        assert head == self.by_events.fetch_head()
        found = everything(self.by_graph, head)
        for kind, answer in everything(self.by_events, head).items():
            assert found[kind] == answer, kind.__name__
            assert answer.items
        tokens = [asset.token for asset in self.world.book.assets]
        assert assert_true(self.world.evm, self.world.d, self.by_graph, head, tokens) > 100


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    with start_evm("anvil") as evm:
        world = World(evm)
        strategy, _ = story.tell(world)
        manifest = write_local_manifest(world.d)
        with LocalGraph(str(evm.url), [manifest]) as node, graph_client(node.endpoint(), evm) as client:
            yield Told(world, Graph(node, evm), client, strategy)


def test_the_subgraph_of_another_dao_gives_no_answer(told: Told) -> None:
    reader = GraphProtocolReader(told.client, dao=ZERO_ADDRESS)
    with pytest.raises(GraphRefused, match=f"knows nothing of the DAO at {ZERO_ADDRESS}"):
        reader.fetch_head()


def test_the_schema_that_questions_are_checked_against_is_what_graph_node_makes_of_ours(told: Told) -> None:
    assert fetch_schema(told.graph.endpoint) == protocol_schema(), "run tools/graph_schema.py"


def test_after_a_life_in_which_everything_happened_both_say_the_same(told: Told) -> None:
    told.assert_the_same()


def test_both_say_the_same_of_earlier_blocks(told: Told) -> None:
    told.graph.wait()
    first, last = told.world.d.deployed_at_block, told.world.w3.eth.block_number
    for number in range(first + 60, last, (last - first) // 5):
        block = fetch_block(told.world.evm, number)
        assert everything(told.by_graph, block) == everything(told.by_events, block), number


def test_after_a_reorg_both_forget_what_was_taken_back_and_say_the_same_of_what_came_instead(told: Told) -> None:
    world, s = told.world, told.strategy
    world.apply(s, world.account(s).pendingMove)
    world.settle(s)
    before = world.evm.snapshot()
    world.refresh()
    world.buy(s, usd(30_000))
    world.send(world.pool.functions.claim(s.vault.address), world.stranger)
    told.assert_the_same()
    lost = told.by_graph.fetch_head()
    undone = everything(told.by_graph, lost)

    world.evm.revert(before)
    world.evm.travel(9)
    world.refresh()
    world.buy(s, usd(20_000))
    world.evm.mine(lost.number + 2 - world.w3.eth.block_number)
    told.assert_the_same()
    now = everything(told.by_graph, told.by_graph.fetch_head())
    assert len(now[Claim].items) == len(undone[Claim].items) - 1
    assert [trade.amount_in for trade in now[Trade].items if trade not in undone[Trade].items] == [usd(20_000)]
