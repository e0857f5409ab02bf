"""What is going on in the protocol at one block: proposals, strategies, agents, vaults, trades, rewards.

The same answers come from the subgraph (`oracle.protocol_graph`) and from the contracts' events
(`oracle.protocol_events`). Units are those of `subgraph/schema.graphql`: `_wei` is 1e-18 of the protocol's token,
`_wad` a unit price x 1e18, `_s` unix seconds or seconds, `_bps` 1/10,000; money with none is base units
of the protocol's quote token. Addresses are checksummed, hashes 0x-hex. Where an answer has several, the oldest comes
first; of one block, the order is that of the fields in `_ORDER`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from operator import attrgetter
from typing import Any, Generic, TypeVar

from oracle.chain import BlockRef
from oracle.errors import GraphBehind, GraphForked, GraphIndexingFailed, GraphUnavailable
from oracle.vault_state import EffectiveLimits, VaultState

__all__ = [
    "Account",
    "Agent",
    "Answer",
    "Claim",
    "FallbackReader",
    "Governance",
    "Limits",
    "Manifest",
    "Position",
    "Proposal",
    "ProposalState",
    "ProtocolReader",
    "Refusal",
    "Settlement",
    "Stage",
    "Strategy",
    "Support",
    "Totals",
    "Trade",
    "TradePrice",
    "Vault",
    "Vote",
    "quorum_wei",
]

T = TypeVar("T")
BPS = 10_000


class ProposalState(IntEnum):
    """IGovernor.ProposalState, in its order."""

    PENDING = 0
    ACTIVE = 1
    CANCELED = 2
    DEFEATED = 3
    SUCCEEDED = 4
    QUEUED = 5
    EXPIRED = 6
    EXECUTED = 7


class Support(IntEnum):
    """What a ballot says, as OpenZeppelin counts it."""

    AGAINST = 0
    FOR = 1
    ABSTAIN = 2


class Stage(IntEnum):
    """IStrategyRegistry.Stage, in its order."""

    SUBMITTED = 1
    APPROVED = 2
    LIVE = 3
    SUPERSEDED = 4
    RETIRING = 5
    RETIRED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[T]):
    """What there is of one kind, and the block that it is of."""

    block: BlockRef
    items: tuple[T, ...]


# Governance


@dataclass(frozen=True, slots=True, kw_only=True)
class Governance:
    """The DAO's settings."""

    dao: str
    token: str
    timelock: str
    voting_delay_s: int
    voting_period_s: int
    proposal_threshold_wei: int
    quorum_floor_wei: int
    # Share of the circulating votes.
    quorum_bps: int
    # After which what succeeded, or was queued and due, expires.
    grace_s: int
    timelock_delay_s: int
    total_supply_wei: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One counted ballot."""

    proposal_id: int
    voter: str
    support: Support
    weight_wei: int
    reason: str
    # Who sent the transaction: not the voter when it brought a signed ballot, or the voter is a contract.
    submitter: str
    at_s: int
    block: int
    transaction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A proposal and its votes. Times are None for what has not happened."""

    id: int
    proposer: str
    targets: tuple[str, ...]
    values_wei: tuple[int, ...]
    calldatas: tuple[str, ...]
    description: str
    # What is voted on, when it came by `proposeStrategy`.
    manifest_hash: str | None
    # Votes count as they were then; nobody votes in that second.
    vote_start_s: int
    # Without an objection period; the last second of the vote.
    vote_end_s: int
    objection_ends_at_s: int | None
    queued_at_s: int | None
    # From then on it can be executed.
    eta_s: int | None
    executed_at_s: int | None
    canceled_at_s: int | None
    # At the snapshot; before it, as it would be if no more votes moved.
    quorum_wei: int
    grace_s: int
    for_votes_wei: int
    against_votes_wei: int
    abstain_votes_wei: int
    created_at_s: int
    created_at_block: int
    transaction: str
    votes: tuple[Vote, ...]

    @property
    def deadline_s(self) -> int:
        """The last second of the vote, after the objection period if one was opened."""
        return self.vote_end_s if self.objection_ends_at_s is None else self.objection_ends_at_s

    def state_at(self, now_s: int) -> ProposalState:
        """What MARKETFLOW_DAO.state() says at `now_s` if nobody does anything until then.

        Not seen: an operation that a vote cancels in the timelock itself, past the DAO.
        """
        if self.executed_at_s is not None:
            return ProposalState.EXECUTED
        if self.canceled_at_s is not None:
            return ProposalState.CANCELED
        if now_s <= self.vote_start_s:
            return ProposalState.PENDING
        if now_s <= self.deadline_s:
            return ProposalState.ACTIVE
        if not self.is_passing:
            return ProposalState.DEFEATED
        due_s = self.deadline_s if self.eta_s is None else self.eta_s
        if now_s > due_s + self.grace_s:
            return ProposalState.EXPIRED
        return ProposalState.SUCCEEDED if self.eta_s is None else ProposalState.QUEUED

    @property
    def is_passing(self) -> bool:
        """Whether it would succeed if the vote ended now."""
        has_quorum = self.for_votes_wei + self.abstain_votes_wei >= self.quorum_wei
        return has_quorum and self.for_votes_wei > self.against_votes_wei


def quorum_wei(governance: Governance, sink_votes_wei: int) -> int:
    """MARKETFLOW_DAO.quorum(): `sink_votes_wei` are those that the token itself held at the snapshot."""
    circulating_wei = governance.total_supply_wei - sink_votes_wei
    return max(governance.quorum_floor_wei, circulating_wei * governance.quorum_bps // BPS)


# Strategies and agents


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(EffectiveLimits):
    """`Limits` of Types.sol as they were voted, whatever the constitution's ceilings are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is voted on: one version of a strategy."""

    hash: str
    artefact_hash: str
    agent_id: int
    # The running strategy that it is to change; None: it is to be a new one.
    updates: str | None
    # The strategy that it became a version of; None: it never ran.
    strategy_id: str | None
    stage: Stage
    limits: Limits
    assets: tuple[str, ...]
    # The venue's key of each asset's market.
    routes: tuple[int, ...]
    venue: str
    venue_code_hash: str
    vault_implementation: str
    vault_code_hash: str
    # Wei for one base unit of profit.
    reward_rate: int
    # In one epoch at most.
    reward_cap_wei: int
    capital: int
    salt: str
    submitter: str
    submitted_at_s: int
    submitted_at_block: int
    transaction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A strategy that was voted in. Its id is the hash of its first manifest."""

    id: str
    agent_id: int
    vault: str
    # Hash of the manifest that runs.
    version: str
    stage: Stage
    deployed_at_s: int
    updated_at_s: int
    # All that have run, oldest first by submission.
    versions: tuple[Manifest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """Sums are over all vaults that the agent has had."""

    id: int
    controller: str
    signing_key: str
    uri: str
    bond_wei: int
    deposit: int
    unclaimed_wei: int
    rewarded_wei: int
    clawed_back_wei: int
    claimed_wei: int
    trade_count: int
    # The one that the pool pays it for now.
    vault: str | None
    registered_at_s: int
    transaction: str


# Vaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """What a vault's books hold of one asset, in its base units; never 0."""

    token: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The signed account: rewarded less clawed back is rate x credited, always."""

    # Wei for one base unit of profit.
    rate: int
    cap_wei: int
    credited: int
    # As they were at `vest_updated_at_s`.
    unvested_wei: int
    vested_wei: int
    vest_updated_at_s: int
    vest_ends_at_s: int
    # The first epoch that is not settled.
    next_epoch: int
    is_live: bool
    # The frozen result that waits to be applied; None: none does.
    pending_move: int | None
    rewarded_wei: int
    clawed_back_wei: int
    # Of what was clawed back.
    clawed_back_from_bond_wei: int
    claimed_wei: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Vault:
    """A vault's books as they are, and its worth when it was measured last: by a trade, or by an observation."""

    address: str
    strategy_id: str
    agent_id: int
    implementation: str
    artefact_hash: str
    limits: Limits
    # As the vault wrote it down last; prices may have moved it on since.
    state: VaultState
    # Bits of oracle.vault_state.Reason.
    reasons: int
    units: int
    quote_held: int
    # Recalled less allocated.
    net_flow: int
    allocated: int
    recalled: int
    # None before the first measurement.
    net_asset_value: int | None
    profit: int | None
    unit_price_wad: int | None
    highest_unit_price_wad: int | None
    measured_at_s: int | None
    measured_at_block: int | None
    nonce: int
    trade_count: int
    refusal_count: int
    volume: int
    # Below the oracle's prices, net.
    shortfall: int
    # Hash-chain head of its trades.
    head: str
    # When the guardian's last stop ends, or ended.
    stopped_until_s: int | None
    created_at_s: int
    created_at_block: int
    transaction: str
    # By token.
    positions: tuple[Position, ...]
    account: Account


@dataclass(frozen=True, slots=True, kw_only=True)
class TradePrice:
    """An oracle round that a trade was judged by; the answer in the feed's own decimals."""

    token: str
    round_id: int
    answer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """One entry of the ledger. Its id is the head of the hash chain after it."""

    id: str
    vault: str
    agent_id: int
    strategy_id: str
    sequence: int
    reasons: int
    artefact_hash: str
    explanation_hash: str
    observation_hash: str
    token_in: str
    token_out: str
    # Base units of each token.
    amount_in: int
    amount_out: int
    is_buy: bool
    shortfall: int
    # After the trade, of what had a price.
    net_asset_value: int
    # None when something held had no price, or in the vault's first block.
    profit: int | None
    unit_price_wad: int | None
    at_s: int
    block: int
    transaction: str
    # The quote token's first.
    prices: tuple[TradePrice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A trade that a vault did not make because it was past a limit already."""

    vault: str
    nonce: int
    asset: str
    is_buy: bool
    reasons: int
    explanation_hash: str
    at_s: int
    block: int
    transaction: str


# Rewards


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """A result that was applied: a reward, or a claw-back."""

    vault: str
    agent_id: int
    # What `rewardAgent` was called with.
    pnl: int
    # Begin to vest; 0 for a loss.
    reward_wei: int
    from_unclaimed_wei: int
    from_bond_wei: int
    # The account afterwards.
    credited: int
    at_s: int
    block: int
    transaction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    vault: str
    agent_id: int
    to: str
    amount_wei: int
    at_s: int
    block: int
    transaction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The protocol in numbers."""

    proposal_count: int
    vote_count: int
    agent_count: int
    strategy_count: int
    vault_count: int
    trade_count: int
    refusal_count: int
    volume: int
    shortfall: int
    allocated: int
    recalled: int
    rewarded_wei: int
    clawed_back_wei: int
    clawed_back_from_bonds_wei: int
    claimed_wei: int


# Both readers sort by these, so that their answers can be compared.
_ORDER: dict[type, Callable[[Any], Any]] = {
    Governance: lambda _: (),
    Totals: lambda _: (),
    Vote: attrgetter("block", "transaction", "voter"),
    Proposal: attrgetter("created_at_block", "id"),
    Manifest: attrgetter("submitted_at_block", "hash"),
    Strategy: attrgetter("deployed_at_s", "id"),
    Agent: attrgetter("id"),
    Vault: attrgetter("created_at_block", "address"),
    Position: attrgetter("token"),
    Trade: attrgetter("block", "vault", "sequence"),
    Refusal: attrgetter("block", "transaction", "vault", "nonce"),
    Settlement: attrgetter("block", "transaction", "vault"),
    Claim: attrgetter("block", "transaction", "vault"),
}


def in_order(kind: type[T], items: Iterable[T]) -> tuple[T, ...]:
    """Oldest first, as this module promises."""
    return tuple(sorted(items, key=_ORDER[kind]))


class ProtocolReader(ABC):
    """Answers about the protocol at a block: one of its own `fetch_head`, or any that its source still has."""

    # Where the answers come from, for people.
    source: str

    @abstractmethod
    def fetch_head(self) -> BlockRef:
        """The latest block that it can answer for. Raises OracleError."""

    @abstractmethod
    def fetch(self, kind: type[T], block: BlockRef) -> Answer[T]:
        """All there are of a kind: of Governance and Totals one. Raises OracleError when there is no answer, and when
        the block is not the chain's."""

    def fetch_governance(self, block: BlockRef) -> Governance:
        return self.fetch(Governance, block).items[0]

    def fetch_totals(self, block: BlockRef) -> Totals:
        return self.fetch(Totals, block).items[0]

    def fetch_proposals(self, block: BlockRef) -> Answer[Proposal]:
        return self.fetch(Proposal, block)

    def fetch_strategies(self, block: BlockRef) -> Answer[Strategy]:
        return self.fetch(Strategy, block)

    def fetch_manifests(self, block: BlockRef) -> Answer[Manifest]:
        return self.fetch(Manifest, block)

    def fetch_agents(self, block: BlockRef) -> Answer[Agent]:
        return self.fetch(Agent, block)

    def fetch_vaults(self, block: BlockRef) -> Answer[Vault]:
        return self.fetch(Vault, block)

    def fetch_trades(self, block: BlockRef) -> Answer[Trade]:
        return self.fetch(Trade, block)

    def fetch_refusals(self, block: BlockRef) -> Answer[Refusal]:
        return self.fetch(Refusal, block)

    def fetch_settlements(self, block: BlockRef) -> Answer[Settlement]:
        return self.fetch(Settlement, block)

    def fetch_claims(self, block: BlockRef) -> Answer[Claim]:
        return self.fetch(Claim, block)


# Errors after which the events are asked instead. A question that is refused for good is for the operator to correct.
_FALL_BACK_ON = (GraphUnavailable, GraphBehind, GraphForked, GraphIndexingFailed)


class FallbackReader(ProtocolReader):
    """Asks the subgraph, and the contracts' events from when it fails until the next head. `warn` gets the reason."""

    def __init__(self, graph: ProtocolReader, events: ProtocolReader, warn: Callable[[str], None]) -> None:
        self._graph, self._events, self._warn, self._current = graph, events, warn, graph

    @property
    def source(self) -> str:  # type: ignore[override]
        return self._current.source

    def fetch_head(self) -> BlockRef:
        self._current = self._graph
        return self._ask(lambda reader: reader.fetch_head())

    def fetch(self, kind: type[T], block: BlockRef) -> Answer[T]:
        return self._ask(lambda reader: reader.fetch(kind, block))

    def _ask(self, question: Callable[[ProtocolReader], T]) -> T:
        try:
            return question(self._current)
        except _FALL_BACK_ON as error:
            self._warn(f"{self._graph.source} gave no answer ({error}): reading {self._events.source} instead")
            self._current = self._events
            return question(self._current)


def open_protocol_reader(
    *, events: ProtocolReader, graph: ProtocolReader | None, warn: Callable[[str], None]
) -> ProtocolReader:
    """The subgraph where an endpoint is configured, with the contracts' events behind it; else those alone."""
    return events if graph is None else FallbackReader(graph, events, warn)
