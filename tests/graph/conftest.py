"""One chain with the whole protocol on it, and one graph-node that indexes it, for all tests of this folder.

That chain only grows: graph-node keeps what it has until another chain is longer. What goes back to a snapshot takes a
chain of its own.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agents.localnet.evm import LocalEvm, start_evm
from agents.localnet.graphnode import IndexingStatus, LocalGraph
from agents.subgraph import POOLS, write_built_manifest, write_local_manifest
from tests.contracts.world import World


@dataclass(frozen=True, slots=True)
class Graph:
    """A chain, and a graph-node that indexes it."""

    node: LocalGraph
    evm: LocalEvm

    @property
    def endpoint(self) -> str:
        return self.node.endpoint()

    def wait(self) -> IndexingStatus:
        """Until the chain's latest block is the last that was indexed."""
        latest = self.evm.w3.eth.get_block("latest")
        return self.node.wait_for_block(latest["number"], latest["hash"].to_0x_hex())

    def query(self, text: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The data as of the chain's latest block."""
        self.wait()
        return self.node.query(text, variables)


@pytest.fixture(scope="session", autouse=True)
def platform_with_a_graph_node() -> None:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("there is no graph-node for this platform")


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    with start_evm("anvil") as evm:
        yield World(evm)


@pytest.fixture(scope="session")
def graph(world: World) -> Iterator[Graph]:
    with LocalGraph(str(world.evm.url), [write_local_manifest(world.d)]) as node:
        yield Graph(node, world.evm)


@pytest.fixture(scope="session")
def pools_manifest(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A factory of built manifests: of the pools that the Uniswap v3 factory at an address has made."""

    def write(factory: str) -> Path:
        into = tmp_path_factory.mktemp("pools") / "pools.yaml"
        return write_built_manifest(into, addresses={"UniswapV3Factory": factory}, start_block=0, subgraph=POOLS)

    return write
