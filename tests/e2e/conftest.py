"""A running protocol, and agents that trade on it with the code that trades everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from agents.audit import Auditor, Finding
from agents.constitution import OperatorLimits
from agents.cycle import Cycle, Step
from agents.explanation import DocumentStore
from agents.journal import Journal
from agents.ledger import LedgerEntry, fetch_entries
from agents.localnet.evm import Account, LocalEvm, start_evm
from agents.vault_execution import VaultExecution
from offchain_rl.artefact import ActionSpec, Artefact
from offchain_rl.observation import ObservationSpec
from oracle.chain import BlockRef, fetch_block
from oracle.chainlink import ChainlinkReader
from oracle.vault_state import VaultReader, VaultReading
from tests.contracts.world import LIMITS, Strategy, World

BAR_S = 600
_seconds = count(1)
FEED_DECIMALS = 8
SPEC = ObservationSpec(bar_s=BAR_S, lookback=5, vol_window=4, features=("ma_cross_z:2:4", "weight"))


def moving_average(weight_bps: int = 4000, **over: Any) -> Artefact:
    """Holds that weight while the average of two bars is above that of four, else nothing."""
    parameters = {"feature": "ma_cross_z:2:4", "weight_above_bps": weight_bps, "weight_below_bps": 0}
    fields: dict[str, Any] = {
        "name": "crossing", "kind": "moving_average", "observation": SPEC, "parameters": parameters,
        "action": ActionSpec(max_weight_bps=weight_bps, deadband_bps=500),
    }  # fmt: skip
    return Artefact(**fields | over)


def constant(weight_bps: int, *, deadband_bps: int = 1) -> Artefact:
    """Always wants the same weight of every asset."""
    return Artefact(
        name=f"constant-{weight_bps}", kind="constant", observation=SPEC, parameters={"weight_bps": weight_bps},
        action=ActionSpec(max_weight_bps=weight_bps, deadband_bps=deadband_bps),
    )  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Agent:
    """An agent in office: its vault, and everything that its cycle and its auditor are made of."""

    world: World
    strategy: Strategy
    artefact: Artefact
    folder: Path
    reader: VaultReader
    rounds: ChainlinkReader
    documents: DocumentStore
    journal: Journal
    operator: OperatorLimits

    def cycle(self, **over: Any) -> Cycle:
        options: dict[str, Any] = {
            "chain_id": self.world.d.chain_id, "artefact": self.artefact, "vaults": self.reader, "rounds": self.rounds,
            "execution": self.execution(), "journal": self.journal, "documents": self.documents,
            "decimals": self.decimals, "operator": self.operator,
        }  # fmt: skip
        return Cycle(**options | over)

    def execution(self, chain: Any = None) -> VaultExecution:
        world = self.world
        return VaultExecution(chain or world.evm, self.strategy.vault, world.signer, self.journal)

    @property
    def key(self) -> Account:
        """Of the account that may sign for the vault."""
        return self.world.signer

    def run(self, **over: Any) -> list[Step]:
        """One cycle at the latest block."""
        return self.cycle(**over).run(self.block())

    def auditor(self, **over: Any) -> Auditor:
        options: dict[str, Any] = {
            "chain_id": self.world.d.chain_id, "artefacts": {self.artefact.artefact_hash: self.artefact},
            "vaults": self.reader, "rounds": new_rounds(self.world), "documents": self.documents,
            "decimals": self.decimals, "fetch_block": self.block,
        }  # fmt: skip
        return Auditor(**options | over)

    def audit(self, entry: LedgerEntry, claimed: Any = None, **over: Any) -> list[Finding]:
        return self.auditor(**over).audit(entry, claimed)

    def entries(self) -> list[LedgerEntry]:
        return fetch_entries(self.world.evm, self.world.ledger, self.strategy.vault.address)

    def reading(self) -> VaultReading:
        return self.reader.fetch(self.block())

    def block(self, number: int | str = "latest") -> BlockRef:
        return fetch_block(self.world.evm, number)

    @property
    def decimals(self) -> dict[str, int]:
        book = self.world.book
        return dict.fromkeys((book.quote, *(asset.token for asset in book.assets)), FEED_DECIMALS)

    def bar(self, price_usd: int | str | Decimal, symbol: str = "ETH") -> None:
        """The next bar: time passes, every feed publishes, this one at a new price, and the pool follows."""
        self.world.travel(BAR_S)
        self.world.set_price(symbol, price_usd)

    def bars(self, *prices_usd: int | str, symbol: str = "ETH") -> None:
        for price_usd in prices_usd:
            self.bar(price_usd, symbol)


def new_rounds(world: World) -> ChainlinkReader:
    """A reader that has kept no rounds yet."""
    feeds = {asset.token: asset.feed for asset in world.book.assets} | {world.book.quote: world.book.quote_feed}
    return ChainlinkReader(world.evm, {token: world.evm.at("FeedProxy", feed) for token, feed in feeds.items()})


def vault_reader(world: World, strategy: Strategy) -> VaultReader:
    return VaultReader(
        world.evm, vault=strategy.vault, constitution=world.constitution, oracle=world.oracle,
        quote=world.book.quote, quote_unit=10**6,
    )  # fmt: skip


def put_in_office(world: World, folder: Path, artefact: Artefact | None = None, **options: Any) -> Agent:
    """An agent whose strategy manages a million dollars; `limits` are changes to the world's."""
    artefact = artefact or moving_average()
    limits = replace(LIMITS, **options.pop("limits", {}))
    strategy = world.deploy_strategy(
        limits=limits, **{"artefactHash": bytes.fromhex(artefact.artefact_hash[2:])} | options
    )
    return Agent(
        world=world, strategy=strategy, artefact=artefact, folder=folder, reader=vault_reader(world, strategy),
        rounds=new_rounds(world), documents=DocumentStore(folder / "explanations"),
        journal=Journal(folder / "journal.sqlite"), operator=OperatorLimits(),
    )  # fmt: skip


@pytest.fixture(scope="session")
def evm() -> Iterator[LocalEvm]:
    with start_evm() as started:
        yield started


@pytest.fixture(scope="session")
def deployed(evm: LocalEvm) -> World:
    return World(evm)


@pytest.fixture
def world(deployed: World) -> Iterator[World]:
    with borrowed(deployed) as world:
        yield world


@contextmanager
def borrowed(deployed: World) -> Iterator[World]:
    """The world, to be returned as it was. Each time begins at another second, so that no two blocks have one hash:
    anvil finds past states by hash, and forgets them with the oldest block that had it."""
    snapshot = deployed.evm.snapshot()
    deployed.evm.travel(next(_seconds))
    yield deployed
    deployed.evm.revert(snapshot)


Hire = Callable[..., Agent]


@pytest.fixture
def hire(world: World, tmp_path: Path) -> Iterator[Hire]:
    """A factory of agents: see `put_in_office`."""
    hired: list[Agent] = []

    def build(artefact: Artefact | None = None, **options: Any) -> Agent:
        hired.append(put_in_office(world, tmp_path / f"agent {len(hired)}", artefact, **options))
        return hired[-1]

    yield build
    for agent in hired:
        agent.journal.close()


@pytest.fixture
def agent(hire: Hire) -> Agent:
    """A moving average with enough history to decide, and nothing bought yet."""
    hired = hire()
    hired.bars(*[2000] * SPEC.lookback)
    return hired
