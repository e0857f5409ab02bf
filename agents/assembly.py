"""From settings to a fleet that can trade: nodes, deployment, keys, journal, and what connects them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from web3 import Web3

from agents.chain import RemoteChain
from agents.deployments import NetworkDeployment, load_deployment
from agents.errors import Misconfigured
from agents.fees import FeePolicy
from agents.fleet import Agent, Fleet, Marks, Meter
from agents.fleet_decisions import LoadedArtefact
from agents.journal import Journal, nothing
from agents.localnet.market import pool_readers
from agents.manifest import load_artefact
from agents.node import Node
from agents.outbox import Outbox, OutboxRules
from agents.reconcile import Reconciler
from agents.rpc import EndpointPool
from agents.secrets import Redactor
from agents.settings import AgentsFile, Settings, load_agents
from agents.signer import Ask, Keystore, VaultSigner
from oracle.chain import BlockRef, fetch_block
from oracle.chainlink import ChainlinkReader
from oracle.consensus import ConsensusReader
from oracle.fleet_state import FleetReader
from oracle.multicall import fetch_many
from oracle.vault_state import VaultReading

# Of one trade, several times what it takes: a bound for the signer, not an estimate.
MAX_GAS = 5_000_000


@dataclass(slots=True, kw_only=True)
class Assembly:
    """Everything of one process. `accounts`: of each vault's signing key, empty for one on paper."""

    settings: Settings
    chain: RemoteChain
    node: Node
    deployment: NetworkDeployment
    file: AgentsFile
    agents: tuple[Agent, ...]
    signers: Mapping[str, VaultSigner]
    journal: Journal
    outbox: Outbox
    reconciler: Reconciler
    readings: FleetReader
    rounds: ChainlinkReader
    fleet: Fleet
    marks: Marks
    # Of each token's round, by the protocol's oracle.
    max_age_s: Mapping[str, int]
    # Of each token's feed.
    decimals: Mapping[str, int]

    def close(self) -> None:
        """Lets go of the journal and of the connections."""
        self.journal.close()
        self.readings.close()
        self.chain.w3.provider.close()  # type: ignore[attr-defined]  # an EndpointPool


def assemble(
    settings: Settings,
    *,
    ask: Ask | None = None,
    redactor: Redactor | None = None,
    with_keys: bool = True,
    exclusive: bool = True,
    meter: Meter | None = None,
    on_request: Callable[..., None] | None = None,
    at: Callable[[str], None] = nothing,
) -> Assembly:
    """Builds all of it and sends nothing. `ask` gets a prompt and answers with a passphrase; without keys nobody can
    sign, without `exclusive` others may write the journal.

    Raises Misconfigured naming the setting, file or agent that is wrong; Retryable when no node answers.
    """
    with ExitStack() as opened:
        pool = EndpointPool(
            settings.urls(), chain_id=_chain_id(settings), timeout_s=settings.rpc_timeout_s,
            requests_per_s=settings.requests_per_s, on_request=on_request,
        )  # fmt: skip
        opened.callback(pool.close)
        chain = RemoteChain(Web3(pool), chain_id=settings.chain_id)
        deployment = load_deployment(settings.deployment, chain_id=settings.chain_id)
        file = load_agents(settings.agents)
        signers = load_signers(file, settings, ask, redactor) if with_keys else {}
        agents = tuple(_agents(file, signers))
        journal = Journal(settings.journal, exclusive=exclusive, at=at)
        opened.callback(journal.close)
        assembly = _connect(settings, chain, deployment, file, agents, signers, journal, meter, at, opened)
        opened.pop_all()
    return assembly


def _connect(
    settings: Settings, chain: RemoteChain, deployment: NetworkDeployment, file: AgentsFile, agents: tuple[Agent, ...],
    signers: Mapping[str, VaultSigner], journal: Journal, meter: Meter | None, at: Callable[[str], None],
    opened: ExitStack,
) -> Assembly:  # fmt: skip
    protocol, market = deployment.protocol, deployment.market
    node, marks = Node(chain.w3), Marks(at)
    outbox = Outbox(
        chain_id=chain.chain_id, node=node, journal=journal, at=marks,
        signers={signer.address: signer for signer in signers.values()},
        fees=FeePolicy(
            max_fee_wei=settings.max_fee_wei, min_tip_wei=settings.min_tip_wei, max_tip_wei=settings.max_tip_wei
        ),
        rules=OutboxRules(
            finality_blocks=settings.finality_blocks, bump_after_s=settings.bump_after_s,
            stuck_after_s=settings.stuck_after_s, simulate=settings.simulate, may_look_ahead=not settings.simulate,
        ),
    )  # fmt: skip
    vaults = [agent.vault for agent in agents]
    reconciler = Reconciler(
        chain_id=chain.chain_id, node=node, journal=journal, outbox=outbox, ledger=protocol.ledger,
        first_block=protocol.deployed_at_block, vaults=vaults,
    )  # fmt: skip
    oracle = protocol.contract(chain, "oracle")
    readings = FleetReader(
        chain, vaults=vaults, constitution=protocol.contract(chain, "constitution"), oracle=oracle,
        quote=market.quote, quote_unit=10**market.quote_decimals,
    )  # fmt: skip
    opened.callback(readings.close)
    book = (market.quote, *(asset.token for asset in market.assets))
    tokens = sorted({*book, *_tokens(readings.fetch(fetch_block(chain)))})
    listed = {token: chain.call(oracle.functions.feedOf(token)) for token in tokens}
    rounds = ChainlinkReader(chain, {token: chain.at("FeedProxy", feed.aggregator) for token, feed in listed.items()})
    decimals = {token: feed.feedDecimals for token, feed in listed.items()}
    fleet = Fleet(
        agents, chain_id=chain.chain_id, readings=readings, rounds=rounds,
        round_ids=partial(_round_ids, chain, oracle, tokens),
        decimals=decimals,
        journal=journal, outbox=outbox, reconciler=reconciler, operator=file.limits,
        consensus=ConsensusReader(pool_readers(chain, market)) if settings.consensus else None,
        meter=meter, marks=marks,
    )  # fmt: skip
    return Assembly(
        settings=settings, chain=chain, node=node, deployment=deployment, file=file, agents=agents, signers=signers,
        journal=journal, outbox=outbox, reconciler=reconciler, readings=readings, rounds=rounds, fleet=fleet,
        marks=marks, max_age_s={token: feed.maxAgeS for token, feed in listed.items()}, decimals=decimals,
    )  # fmt: skip


def load_signers(
    file: AgentsFile, settings: Settings, ask: Ask | None = None, redactor: Redactor | None = None
) -> dict[str, VaultSigner]:
    """A signer for each agent that has a key, by vault; one key is opened once and may serve several vaults."""
    by_key: dict[str, list[str]] = {}
    for entry in file.agents:
        if entry.key:
            by_key.setdefault(entry.key, []).append(entry.vault)
    keys = Keystore(settings.keyfile_passphrase, ask, ape_folder=settings.ape_data_folder, redactor=redactor)
    signers: dict[str, VaultSigner] = {}
    for name, vaults in by_key.items():
        signer = VaultSigner(
            keys.key(name), chain_id=settings.chain_id, vaults=vaults, max_fee_per_gas_wei=settings.max_fee_wei,
            max_gas=MAX_GAS,
        )
        signers |= dict.fromkeys(vaults, signer)
    return signers


def _agents(file: AgentsFile, signers: Mapping[str, VaultSigner]) -> Sequence[Agent]:
    loaded = {path: LoadedArtefact.of(load_artefact(path)) for path in {entry.artefact for entry in file.agents}}
    return [
        Agent(
            name=entry.name, vault=entry.vault, artefact=loaded[entry.artefact],
            account=signers[entry.vault].address if entry.vault in signers else "",
        )
        for entry in file.agents
    ]  # fmt: skip


def _tokens(readings: Sequence[Any]) -> set[str]:
    return {p.token for reading in readings if isinstance(reading, VaultReading) for p in reading.positions}


def _round_ids(chain: RemoteChain, oracle: Any, tokens: Sequence[str], block: BlockRef) -> dict[str, int]:
    [(_, found)] = fetch_many(chain, [oracle.functions.readMany(list(tokens))], block=block.number)
    return {token: reading.roundId for token, reading in zip(tokens, found, strict=True)}


def _chain_id(settings: Settings) -> int:
    if not settings.chain_id:
        raise Misconfigured("MARKETFLOW_CHAIN_ID is not set: name the chain, so that no other is ever traded on")
    return settings.chain_id
