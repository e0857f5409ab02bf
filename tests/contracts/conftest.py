"""One chain and one deployment for the whole session; every test starts from its snapshot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agents.localnet.evm import LocalEvm, start_evm
from tests.contracts.world import Strategy, World


@pytest.fixture(scope="session")
def evm() -> Iterator[LocalEvm]:
    with start_evm() as started:
        yield started


@pytest.fixture(scope="session")
def deployed(evm: LocalEvm) -> World:
    return World(evm)


@pytest.fixture
def world(deployed: World) -> Iterator[World]:
    snapshot = deployed.evm.snapshot()
    yield deployed
    deployed.evm.revert(snapshot)


@pytest.fixture
def strategy(world: World) -> Strategy:
    """A running strategy with one million dollars, all of it in quote."""
    return world.deploy_strategy()
