"""What the contracts themselves say at a block, against what readers say of it: every number that both know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.contracts import decode_logs
from agents.deployment import CONTRACTS, ZERO_ADDRESS, Deployment
from agents.localnet.evm import LocalEvm
from oracle.chain import BlockRef, ChainReader
from oracle.multicall import fetch_many
from oracle.protocol import (
    Agent,
    Answer,
    Claim,
    Governance,
    Manifest,
    Proposal,
    ProtocolReader,
    Refusal,
    Settlement,
    Strategy,
    Totals,
    Trade,
    Vault,
)
from oracle.protocol_events import EventProtocolReader
from oracle.protocol_graph import protocol_schema
from oracle.thegraph import GraphClient

KINDS = (Governance, Totals, Proposal, Manifest, Strategy, Agent, Vault, Trade, Refusal, Settlement, Claim)

# Calls in one request; a node takes no more gas for one than for a block.
_BATCH = 100


def event_reader(chain: ChainReader, d: Deployment, **options: Any) -> EventProtocolReader:
    contracts = {name: d.contract(chain, name) for name in CONTRACTS}  # type: ignore[arg-type]
    return EventProtocolReader(chain, contracts, from_block=d.deployed_at_block, decode=decode_logs, **options)


def graph_client(url: str, chain: LocalEvm, **options: Any) -> GraphClient:
    """Of a local chain, whose time is its own."""
    return GraphClient(
        [url], protocol_schema(), chain=chain, max_lag_blocks=5, max_age_s=3600, now_s=chain.now_s, **options
    )


def everything(reader: ProtocolReader, block: BlockRef) -> dict[type, Answer[Any]]:
    return {kind: reader.fetch(kind, block) for kind in KINDS}


class Truth:
    """Collects what a reader said and the call that says it truly; `check` compares them."""

    def __init__(self, chain: LocalEvm, d: Deployment, block: BlockRef) -> None:
        self._chain, self._d, self._block = chain, d, block
        self._said: list[Any] = []
        self._calls: list[Any] = []

    def expect(self, call: Any, said: Any) -> None:
        self._calls.append(call)
        self._said.append(said)

    def check(self) -> int:
        """How many calls were compared; fails with the first that says something else."""
        for start in range(0, len(self._calls), _BATCH):
            calls = self._calls[start : start + _BATCH]
            for call, said, found in zip(
                calls, self._said[start:], fetch_many(self._chain, calls, block=self._block.number), strict=False
            ):
                is_part = isinstance(said, Mapping)
                true = {name: _plain(getattr(found, name)) for name in said} if is_part else _plain(found)
                assert said == true, f"{call.fn_name}{call.args}"
        return len(self._calls)

    def of(self, name: str) -> Any:
        """The functions of one of the protocol's contracts."""
        return self._d.contract(self._chain, name).functions

    def governance(self, g: Governance) -> None:
        dao = self.of("dao")
        assert (g.dao, g.token, g.timelock) == (self._d.dao, self._d.token, self._d.timelock)
        self.expect(dao.votingDelay(), g.voting_delay_s)
        self.expect(dao.votingPeriod(), g.voting_period_s)
        self.expect(dao.proposalThreshold(), g.proposal_threshold_wei)
        self.expect(dao.quorumFloor(), g.quorum_floor_wei)
        self.expect(dao.quorumBps(), g.quorum_bps)
        self.expect(dao.graceS(), g.grace_s)
        self.expect(self.of("timelock").getMinDelay(), g.timelock_delay_s)
        self.expect(self.of("token").totalSupply(), g.total_supply_wei)

    def proposal(self, p: Proposal) -> None:
        dao = self.of("dao")
        self.expect(dao.state(p.id), p.state_at(self._block.timestamp_s))
        self.expect(dao.proposalVotes(p.id), {
            "forVotes": p.for_votes_wei, "againstVotes": p.against_votes_wei, "abstainVotes": p.abstain_votes_wei,
        })  # fmt: skip
        self.expect(dao.proposalSnapshot(p.id), p.vote_start_s)
        self.expect(dao.proposalDeadline(p.id), p.deadline_s)
        self.expect(dao.objectionDeadline(p.id), p.objection_ends_at_s or 0)
        self.expect(dao.proposalEta(p.id), p.eta_s or 0)
        self.expect(dao.proposalProposer(p.id), p.proposer)
        self.expect(dao.manifestOf(p.id), p.manifest_hash or "0x" + 64 * "0")
        if self._block.timestamp_s > p.vote_start_s:
            self.expect(dao.quorum(p.vote_start_s), p.quorum_wei)
        for vote in p.votes:
            self.expect(dao.hasVoted(p.id, vote.voter), True)

    def manifest(self, m: Manifest) -> None:
        registry = self.of("strategies")
        self.expect(registry.stageOf(_bytes(m.hash)), m.stage)
        self.expect(registry.manifestOf(_bytes(m.hash)), {
            "artefactHash": m.artefact_hash, "agentId": m.agent_id, "updates": m.updates or "0x" + 64 * "0",
            "limits": _limits(m.limits), "rewardRate": m.reward_rate, "rewardCap": m.reward_cap_wei,
            "capital": m.capital, "assets": [list(asset) for asset in zip(m.assets, m.routes, strict=True)],
        })  # fmt: skip

    def strategy(self, s: Strategy) -> None:
        registry = self.of("strategies")
        self.expect(registry.strategyOf(_bytes(s.id)), {
            "version": s.version, "vault": s.vault, "agentId": s.agent_id, "stage": s.stage,
        })  # fmt: skip

    def agent(self, a: Agent) -> None:
        registry, pool = self.of("agents"), self.of("pool")
        self.expect(registry.agentOf(a.id), {
            "signingKey": a.signing_key, "registeredAt": a.registered_at_s, "bond": a.bond_wei, "deposit": a.deposit,
        })  # fmt: skip
        self.expect(registry.controllerOf(a.id), a.controller)
        self.expect(registry.tokenURI(a.id), a.uri)
        self.expect(pool.vaultOf(a.id), a.vault or ZERO_ADDRESS)

    def vault(self, v: Vault, tokens: list[str]) -> None:
        f, pool, account = self._d.vault(self._chain, v.address).functions, self.of("pool"), v.account
        self.expect(f.book(), {"units": v.units, "quoteHeld": v.quote_held, "netFlow": v.net_flow})
        held = {position.token: position.amount for position in v.positions}
        for token in tokens:
            self.expect(f.positionOf(token), {"amount": held.pop(token, 0)})
        assert not held
        self.expect(f.guard(), {"nonce": v.nonce, "reasons": v.reasons})
        self.expect(f.artefactHash(), v.artefact_hash)
        self.expect(f.agentId(), v.agent_id)
        self.expect(f.strategyId(), v.strategy_id)
        self.expect(f.limits(), _limits(v.limits))
        self.expect(self.of("ledger").headOf(v.address), v.head)
        if v.measured_at_block is not None:
            # Capital that came later in that block changed its value, and not its profit.
            assert v.profit == self._chain.call(f.status(), block=v.measured_at_block).profit
        is_stopped = v.stopped_until_s is not None and v.stopped_until_s > self._block.timestamp_s
        self.expect(self.of("constitution").standing(v.address), {"stopped": is_stopped})
        self.expect(pool.accountOf(v.address), {
            "rate": account.rate, "credited": account.credited, "cap": account.cap_wei,
            "unvested": account.unvested_wei, "vested": account.vested_wei,
            "vestUpdatedAt": account.vest_updated_at_s, "vestEndsAt": account.vest_ends_at_s,
            "agentId": v.agent_id, "nextEpoch": account.next_epoch, "live": account.is_live,
            "pending": account.pending_move is not None, "pendingMove": account.pending_move or 0,
        })  # fmt: skip
        assert account.rewarded_wei - account.clawed_back_wei == account.rate * account.credited


    def trade(self, t: Trade) -> None:
        status = self._chain.call(self._d.vault(self._chain, t.vault).functions.status(), block=t.block)
        assert (t.net_asset_value, t.profit, t.unit_price_wad) == (status.value, status.profit, status.unitPriceWad)


def assert_true(chain: LocalEvm, d: Deployment, reader: ProtocolReader, block: BlockRef, tokens: list[str]) -> int:
    """Everything that the reader says at the block is what the contracts say; how many calls that took."""
    truth = Truth(chain, d, block)
    truth.governance(reader.fetch_governance(block))
    for proposal in reader.fetch_proposals(block).items:
        truth.proposal(proposal)
    for manifest in reader.fetch_manifests(block).items:
        truth.manifest(manifest)
    for strategy in reader.fetch_strategies(block).items:
        truth.strategy(strategy)
    for agent in reader.fetch_agents(block).items:
        truth.agent(agent)
    vaults = reader.fetch_vaults(block).items
    for vault in vaults:
        truth.vault(vault, tokens)
    totals = reader.fetch_totals(block)
    truth.expect(d.contract(chain, "agents").functions.agentCount(), totals.agent_count)
    trades = reader.fetch_trades(block).items
    for trade in trades:
        truth.trade(trade)
    for vault in vaults:
        own = [trade for trade in trades if trade.vault == vault.address]
        assert [trade.sequence for trade in own] == list(range(vault.trade_count))
        assert own == [] or own[-1].id == vault.head
    return truth.check()


def _limits(limits: Any) -> list[int]:
    return [getattr(limits, name) for name in limits.__dataclass_fields__]


def _bytes(value: str) -> bytes:
    return bytes.fromhex(value[2:])


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
