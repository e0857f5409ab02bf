"""The protocol as its contracts' events tell it, where there is no Graph endpoint, or none that is to be believed.

What a contract never says in an event is read by call, as the subgraph does: manifests, settings, a changed URI.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from eth_utils import keccak
from requests.exceptions import HTTPError, Timeout
from web3.exceptions import BlockNotFound, Web3RPCError

from oracle.abi import type_signature
from oracle.chain import BlockRef, ChainReader, fetch_block
from oracle.errors import ReadingFailed
from oracle.multicall import fetch_many
from oracle.protocol import (
    Account,
    Agent,
    Answer,
    Claim,
    Governance,
    Limits,
    Manifest,
    Position,
    Proposal,
    ProtocolReader,
    Refusal,
    Settlement,
    Stage,
    Strategy,
    Support,
    Totals,
    Trade,
    TradePrice,
    Vault,
    Vote,
    in_order,
    quorum_wei,
)
from oracle.vault_state import WAD, Reason, VaultState

T = TypeVar("T")

# Most public nodes answer that many at once; those that don't are asked for fewer.
BLOCKS_PER_REQUEST = 10_000
# How deep a reorganisation may go, in readings, before everything is read again.
_MARKS_KEPT = 256
# GuardMath.UNITS_PER_QUOTE.
_UNITS_PER_QUOTE = 10**12
_NO_HASH = "0x" + 64 * "0"
# How a node says that it was asked for too much at once.
_TOO_MUCH = (Web3RPCError, HTTPError, Timeout)


class EventProtocolReader(ProtocolReader):
    """Reads events once and keeps them. What a reorganisation took back is read again.

    `contracts`: bound web3 contracts by their field in `agents.deployment.Deployment`; `decode`: the events of a
    receipt, as `agents.contracts.decode_logs`; `progress` gets the last block read and the last that is wanted.
    """

    source = "the contracts' events"

    def __init__(
        self,
        chain: ChainReader,
        contracts: Mapping[str, Any],
        *,
        from_block: int,
        decode: Callable[[Mapping[str, Any]], Sequence[Any]],
        progress: Callable[[int, int], None] = lambda done, wanted: None,
        blocks_per_request: int = BLOCKS_PER_REQUEST,
    ) -> None:
        self._chain, self._contracts, self._from_block = chain, contracts, from_block
        self._decode, self._progress, self._span = decode, progress, blocks_per_request
        self._names = {contract.address: name for name, contract in contracts.items()}
        self._ours = {contracts[key].address for key, _ in _HANDLERS if key != "token"}
        self._topics = [_topic(contracts[key], name) for key, name in _HANDLERS if key != "token"]
        self._events: list[_Event] = []
        # Last block of each stretch that was read, and its hash.
        self._marks: deque[tuple[int, str]] = deque(maxlen=_MARKS_KEPT)
        self._manifests: dict[str, Any] = {}
        self._folded: tuple[str, _Books] | None = None
        pool, quote = contracts["pool"].functions, contracts["strategies"].functions.quote()
        self._fixed = _Fixed(*fetch_many(chain, [quote, pool.genesis(), pool.epochLengthS(), pool.vestingS()]))

    def fetch_head(self) -> BlockRef:
        return fetch_block(self._chain)

    def fetch(self, kind: type[T], block: BlockRef) -> Answer[T]:
        if self._folded is None or self._folded[0] != block.hash:
            self._folded = (block.hash, self._fold(block))
        return Answer(block=block, items=in_order(kind, self._folded[1].frozen(kind)))

    # Reading

    def _fold(self, block: BlockRef) -> _Books:
        self._read_until(block)
        events = self._events[: bisect_right(self._events, block.number, key=lambda e: e.block)]
        books = _Books(fixed=self._fixed, governance=self._governance(block), manifests=self._contents(events, block))
        for event in events:
            _HANDLERS[event.contract, event.name](books, event)
        # The first change comes with the registration.
        changed = [agent_id for agent_id, changes in books.uri_changes.items() if changes > 1]
        token_uri = self._contracts["agents"].functions.tokenURI
        uris = self._fetch_parts([token_uri(agent_id) for agent_id in changed], block)
        for agent_id, uri in zip(changed, uris, strict=True):
            books.agents[agent_id]["uri"] = _stored(uri)
        if fetch_block(self._chain, block.number).hash != block.hash:
            raise ReadingFailed(f"block {block.number} is not {block.hash} any more: read the head again")
        return books

    def _read_until(self, block: BlockRef) -> None:
        self._forget_forked()
        first = self._marks[-1][0] + 1 if self._marks else self._from_block
        span = self._span
        while first <= block.number:
            last = min(first + span - 1, block.number)
            mark = last, block.hash if last == block.number else fetch_block(self._chain, last).hash
            try:
                read = self._read(first, last)
            except _TOO_MUCH as error:
                if first == last:
                    raise ReadingFailed(f"the node gives no events of block {first}: {error}") from error
                span = (last - first + 1) // 2
                continue
            self._events += read
            self._marks.append(mark)
            self._progress(last, block.number)
            first = last + 1

    def _forget_forked(self) -> None:
        """Back to the last mark that is still on the chain."""
        while self._marks and not self._is_on_chain(*self._marks[-1]):
            self._marks.pop()
        known = self._marks[-1][0] if self._marks else -1
        self._events = self._events[: bisect_right(self._events, known, key=lambda e: e.block)]

    def _is_on_chain(self, number: int, block_hash: str) -> bool:
        try:
            return fetch_block(self._chain, number).hash == block_hash
        except BlockNotFound:
            return False

    def _read(self, first: int, last: int) -> list[_Event]:
        """The events of some blocks. Vaults that begin in them are asked in a second request."""
        token = self._contracts["token"]
        sink = "0x" + token.address[2:].lower().rjust(64, "0")
        known = [e.args["vault"] for e in self._events if e.name == "VaultCreated"]
        logs = self._logs(first, last, [token.address], [_topic(token, "DelegateVotesChanged"), sink])
        logs += self._logs(first, last, [*self._ours, *known], [self._topics])
        new = [e.args["vault"] for log in logs for e in self._decode({"logs": [log]}) if e.name == "VaultCreated"]
        if new:
            logs += self._logs(first, last, new, [self._topics])
        times: dict[bytes, int] = {}
        logs.sort(key=lambda log: (log["blockNumber"], log["logIndex"]))
        return [self._event(log, decoded, times) for log in logs for decoded in self._decode({"logs": [log]})]

    def _logs(self, first: int, last: int, addresses: list[str], topics: list[Any]) -> list[Any]:
        query: Any = {"fromBlock": first, "toBlock": last, "address": addresses, "topics": topics}
        return list(self._chain.w3.eth.get_logs(query))

    def _fetch_parts(self, calls: Sequence[Any], block: BlockRef) -> list[Any]:
        """In halves where all at once is more than the node does in one call, which anybody's long text can make it."""
        try:
            return fetch_many(self._chain, calls, block=block.number)
        except ReadingFailed:
            if len(calls) == 1:
                raise
        half = len(calls) // 2
        return self._fetch_parts(calls[:half], block) + self._fetch_parts(calls[half:], block)

    def _event(self, log: Any, decoded: Any, times: dict[bytes, int]) -> _Event:
        transaction = "0x" + bytes(log["transactionHash"]).hex()
        is_vote = decoded.name in ("VoteCast", "VoteCastWithParams")
        return _Event(
            contract=self._names.get(decoded.address, "vault_implementation"), name=decoded.name,
            address=decoded.address, args={name: _stored(value) for name, value in decoded.args.items()},
            block=log["blockNumber"], at_s=self._time_of(log, times), transaction=transaction,
            submitter=self._chain.w3.eth.get_transaction(transaction)["from"] if is_vote else None,  # type: ignore[arg-type]
        )  # fmt: skip

    def _time_of(self, log: Any, times: dict[bytes, int]) -> int:
        """Some nodes say it in the log; else it is in the block."""
        if (said := log.get("blockTimestamp")) is not None:
            return int(said, 16) if isinstance(said, str) else int(said)
        if (block_hash := bytes(log["blockHash"])) not in times:
            times[block_hash] = self._chain.w3.eth.get_block(block_hash)["timestamp"]  # type: ignore[arg-type]
        return times[block_hash]

    def _contents(self, events: Sequence[_Event], block: BlockRef) -> dict[str, Any]:
        """Manifests by hash. A hash has one content, so what was read once is kept."""
        hashes = (e.args["manifestHash"] for e in events if e.name == "ManifestSubmitted")
        missing = [h for h in hashes if _hex(h) not in self._manifests]
        manifest_of = self._contracts["strategies"].functions.manifestOf
        contents = self._fetch_parts([manifest_of(h) for h in missing], block)
        self._manifests |= {_hex(h): content for h, content in zip(missing, contents, strict=True)}
        return self._manifests

    def _governance(self, block: BlockRef) -> Governance:
        dao, token, timelock = (self._contracts[name] for name in ("dao", "token", "timelock"))
        f = dao.functions
        calls = {
            "voting_delay_s": f.votingDelay(), "voting_period_s": f.votingPeriod(),
            "proposal_threshold_wei": f.proposalThreshold(), "quorum_floor_wei": f.quorumFloor(),
            "quorum_bps": f.quorumBps(), "grace_s": f.graceS(), "timelock_delay_s": timelock.functions.getMinDelay(),
            "total_supply_wei": token.functions.totalSupply(),
        }  # fmt: skip
        found = fetch_many(self._chain, list(calls.values()), block=block.number)
        return Governance(
            dao=dao.address, token=token.address, timelock=timelock.address, **dict(zip(calls, found, strict=True))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    # Whose it is, by field of `Deployment`; every vault is the `vault_implementation`.
    contract: str
    name: str
    address: str
    args: dict[str, Any]
    block: int
    at_s: int
    transaction: str
    # Of votes only.
    submitter: str | None


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What never changes: the quote token, and the pool's constants."""

    quote: str
    genesis_s: int
    epoch_s: int
    vesting_s: int

    def epoch_at(self, time_s: int) -> int:
        return max(0, (time_s - self.genesis_s) // self.epoch_s)


@dataclass(slots=True, kw_only=True)
class _Books:
    """Everything as the events so far have left it, as arguments of what it will be."""

    fixed: _Fixed
    governance: Governance
    # Content of each, by hash.
    manifests: Mapping[str, Any]
    totals: dict[str, int] = field(default_factory=lambda: dict.fromkeys((f.name for f in fields(Totals)), 0))
    proposals: dict[int, dict[str, Any]] = field(default_factory=dict)
    votes: list[Vote] = field(default_factory=list)
    # When the token's own votes changed, and what they were from then on.
    sink_votes: list[tuple[int, int]] = field(default_factory=list)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    strategies: dict[str, dict[str, Any]] = field(default_factory=dict)
    agents: dict[int, dict[str, Any]] = field(default_factory=dict)
    uri_changes: dict[int, int] = field(default_factory=dict)
    vaults: dict[str, dict[str, Any]] = field(default_factory=dict)
    positions: dict[str, dict[str, int]] = field(default_factory=dict)
    accounts: dict[str, dict[str, Any]] = field(default_factory=dict)
    # When the guardian's last stop of a vault ends; one may be stopped before it is there.
    stops: dict[str, int] = field(default_factory=dict)
    trades: list[Trade] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    def frozen(self, kind: type[Any]) -> list[Any]:
        """All there are of a kind."""
        return _FROZEN[kind](self)

    def frozen_proposals(self) -> list[Proposal]:
        return [
            Proposal(
                **values,
                quorum_wei=quorum_wei(self.governance, self._sink_votes_at(values["vote_start_s"])),
                votes=in_order(Vote, (vote for vote in self.votes if vote.proposal_id == values["id"])),
            )
            for values in self.proposals.values()
        ]

    def frozen_manifests(self) -> list[Manifest]:
        return [Manifest(**values) for values in self.versions.values()]

    def frozen_strategies(self) -> list[Strategy]:
        versions = self.frozen_manifests()
        return [
            Strategy(**values, versions=in_order(Manifest, (v for v in versions if v.strategy_id == values["id"])))
            for values in self.strategies.values()
        ]

    def frozen_vaults(self) -> list[Vault]:
        return [
            Vault(
                **values,
                stopped_until_s=self.stops.get(address),
                positions=in_order(
                    Position, (Position(token=t, amount=a) for t, a in self.positions[address].items() if a)
                ),
                account=Account(**self.accounts[address]),
            )
            for address, values in self.vaults.items()
        ]

    def _sink_votes_at(self, time_s: int) -> int:
        """Votes.getPastVotes of the token's own address."""
        count = bisect_right(self.sink_votes, time_s, key=lambda change: change[0])
        return self.sink_votes[count - 1][1] if count else 0


_FROZEN: dict[type, Callable[[_Books], list[Any]]] = {
    Governance: lambda books: [books.governance],
    Totals: lambda books: [Totals(**books.totals)],
    Proposal: _Books.frozen_proposals,
    Vote: lambda books: books.votes,
    Manifest: _Books.frozen_manifests,
    Strategy: _Books.frozen_strategies,
    Agent: lambda books: [Agent(**values) for values in books.agents.values()],
    Vault: _Books.frozen_vaults,
    Trade: lambda books: books.trades,
    Refusal: lambda books: books.refusals,
    Settlement: lambda books: books.settlements,
    Claim: lambda books: books.claims,
}

# What an event changes; its keys are the events that are read.
_Handler = Callable[[_Books, _Event], None]
_HANDLERS: dict[tuple[str, str], _Handler] = {}


def _on(contract: str, *names: str) -> Callable[[_Handler], _Handler]:
    def register(handler: _Handler) -> _Handler:
        _HANDLERS.update({(contract, name): handler for name in names})
        return handler

    return register


# Governance


@_on("token", "DelegateVotesChanged")
def _sink_votes_changed(books: _Books, e: _Event) -> None:
    books.sink_votes.append((e.at_s, e.args["newVotes"]))


@_on("dao", "ProposalCreated")
def _proposal_created(books: _Books, e: _Event) -> None:
    unknown = "manifest_hash objection_ends_at_s queued_at_s eta_s executed_at_s canceled_at_s".split()
    books.proposals[e.args["proposalId"]] = {
        "id": e.args["proposalId"],
        "proposer": e.args["proposer"],
        "targets": tuple(e.args["targets"]),
        "values_wei": tuple(e.args["values"]),
        "calldatas": tuple(map(_hex, e.args["calldatas"])),
        "description": e.args["description"],
        "vote_start_s": e.args["voteStart"],
        "vote_end_s": e.args["voteEnd"],
        "grace_s": books.governance.grace_s,
        **dict.fromkeys(unknown),
        **dict.fromkeys(("for_votes_wei", "against_votes_wei", "abstain_votes_wei"), 0),
        "created_at_s": e.at_s,
        "created_at_block": e.block,
        "transaction": e.transaction,
    }
    books.totals["proposal_count"] += 1


@_on("dao", "StrategyProposed")
def _strategy_proposed(books: _Books, e: _Event) -> None:
    books.proposals[e.args["proposalId"]]["manifest_hash"] = _hex(e.args["manifestHash"])


@_on("dao", "VoteCast", "VoteCastWithParams")
def _vote_cast(books: _Books, e: _Event) -> None:
    assert e.submitter is not None
    vote = Vote(
        proposal_id=e.args["proposalId"], voter=e.args["voter"], support=Support(e.args["support"]),
        weight_wei=e.args["weight"], reason=e.args["reason"], submitter=e.submitter, **_when(e),
    )  # fmt: skip
    books.votes.append(vote)
    books.proposals[vote.proposal_id][f"{vote.support.name.lower()}_votes_wei"] += vote.weight_wei
    books.totals["vote_count"] += 1


@_on("dao", "ObjectionPeriodOpened")
def _objection_opened(books: _Books, e: _Event) -> None:
    books.proposals[e.args["proposalId"]]["objection_ends_at_s"] = e.args["endsAt"]


@_on("dao", "ProposalQueued")
def _proposal_queued(books: _Books, e: _Event) -> None:
    books.proposals[e.args["proposalId"]] |= {"queued_at_s": e.at_s, "eta_s": e.args["etaSeconds"]}


@_on("dao", "ProposalExecuted")
def _proposal_executed(books: _Books, e: _Event) -> None:
    books.proposals[e.args["proposalId"]]["executed_at_s"] = e.at_s


@_on("dao", "ProposalCanceled")
def _proposal_canceled(books: _Books, e: _Event) -> None:
    books.proposals[e.args["proposalId"]]["canceled_at_s"] = e.at_s


@_on("constitution", "VaultStopped")
def _vault_stopped(books: _Books, e: _Event) -> None:
    books.stops[e.args["vault"]] = e.args["until"]


@_on("constitution", "VaultStopLifted")
def _vault_stop_lifted(books: _Books, e: _Event) -> None:
    if (vault := e.args["vault"]) in books.stops:
        books.stops[vault] = min(books.stops[vault], e.at_s)


# Strategies and agents


@_on("strategies", "ManifestSubmitted")
def _manifest_submitted(books: _Books, e: _Event) -> None:
    manifest_hash = _hex(e.args["manifestHash"])
    content = books.manifests[manifest_hash]
    updates = _hex(content.updates)
    books.versions[manifest_hash] = {
        "hash": manifest_hash,
        "artefact_hash": _hex(content.artefactHash),
        "agent_id": content.agentId,
        "updates": None if updates == _NO_HASH else updates,
        "strategy_id": None,
        "stage": Stage.SUBMITTED,
        "limits": _limits(content.limits),
        "assets": tuple(asset.token for asset in content.assets),
        "routes": tuple(asset.route for asset in content.assets),
        "venue": content.venue,
        "venue_code_hash": _hex(content.venueCodeHash),
        "vault_implementation": content.vaultImplementation,
        "vault_code_hash": _hex(content.vaultCodeHash),
        "reward_rate": content.rewardRate,
        "reward_cap_wei": content.rewardCap,
        "capital": content.capital,
        "salt": _hex(content.salt),
        "submitter": e.args["submitter"],
        "submitted_at_s": e.at_s,
        "submitted_at_block": e.block,
        "transaction": e.transaction,
    }


@_on("strategies", "ManifestApproved")
def _manifest_approved(books: _Books, e: _Event) -> None:
    books.versions[_hex(e.args["manifestHash"])]["stage"] = Stage.APPROVED


@_on("strategies", "StrategyDeployed")
def _strategy_deployed(books: _Books, e: _Event) -> None:
    strategy_id = _hex(e.args["strategyId"])
    books.strategies[strategy_id] = {
        "id": strategy_id, "agent_id": e.args["agentId"], "vault": e.args["vault"], "deployed_at_s": e.at_s,
    }  # fmt: skip
    _run(books, strategy_id, strategy_id, e)
    books.totals["strategy_count"] += 1


@_on("strategies", "StrategyUpdated")
def _strategy_updated(books: _Books, e: _Event) -> None:
    strategy_id = _hex(e.args["strategyId"])
    books.versions[books.strategies[strategy_id]["version"]]["stage"] = Stage.SUPERSEDED
    _run(books, strategy_id, _hex(e.args["version"]), e)


def _run(books: _Books, strategy_id: str, version: str, e: _Event) -> None:
    books.strategies[strategy_id] |= {"version": version, "stage": Stage.LIVE, "updated_at_s": e.at_s}
    books.versions[version] |= {"strategy_id": strategy_id, "stage": Stage.LIVE}


@_on("strategies", "StrategyRetiring", "StrategyRetired")
def _strategy_ended(books: _Books, e: _Event) -> None:
    stage = Stage.RETIRING if e.name == "StrategyRetiring" else Stage.RETIRED
    strategy = books.strategies[_hex(e.args["strategyId"])]
    strategy |= {"stage": stage, "updated_at_s": e.at_s}
    books.versions[strategy["version"]]["stage"] = stage


@_on("agents", "Registered")
def _agent_registered(books: _Books, e: _Event) -> None:
    nothing = "bond_wei deposit unclaimed_wei rewarded_wei clawed_back_wei claimed_wei trade_count".split()
    books.agents[e.args["agentId"]] = {
        "id": e.args["agentId"],
        "controller": e.args["owner"],
        "uri": e.args["agentURI"],
        **dict.fromkeys(nothing, 0),
        "vault": None,
        "registered_at_s": e.at_s,
        "transaction": e.transaction,
    }
    books.totals["agent_count"] += 1


@_on("agents", "SigningKeySet")
def _signing_key_set(books: _Books, e: _Event) -> None:
    books.agents[e.args["agentId"]]["signing_key"] = e.args["signingKey"]


@_on("agents", "Transfer")
def _agent_transferred(books: _Books, e: _Event) -> None:
    books.agents[e.args["tokenId"]]["controller"] = e.args["to"]


@_on("agents", "MetadataUpdate")
def _agent_uri_changed(books: _Books, e: _Event) -> None:
    agent_id = e.args["_tokenId"]
    books.uri_changes[agent_id] = books.uri_changes.get(agent_id, 0) + 1


@_on("agents", "BondPosted")
def _bond_posted(books: _Books, e: _Event) -> None:
    books.agents[e.args["agentId"]]["bond_wei"] += e.args["amount"]


@_on("agents", "BondWithdrawn", "BondSeized")
def _bond_taken(books: _Books, e: _Event) -> None:
    books.agents[e.args["agentId"]]["bond_wei"] -= e.args["amount"]


@_on("agents", "DepositPosted")
def _deposit_posted(books: _Books, e: _Event) -> None:
    books.agents[e.args["agentId"]]["deposit"] += e.args["amount"]


@_on("agents", "DepositWithdrawn", "DepositAwarded")
def _deposit_taken(books: _Books, e: _Event) -> None:
    books.agents[e.args["agentId"]]["deposit"] -= e.args["amount"]


# Vaults


@_on("factory", "VaultCreated")
def _vault_created(books: _Books, e: _Event) -> None:
    nothing = "units quote_held net_flow allocated recalled nonce trade_count refusal_count volume shortfall reasons"
    unmeasured = "net_asset_value profit unit_price_wad highest_unit_price_wad measured_at_s measured_at_block"
    strategy_id = _hex(e.args["strategyId"])
    books.vaults[e.args["vault"]] = {
        "address": e.args["vault"],
        "strategy_id": strategy_id,
        "implementation": e.args["implementation"],
        "limits": _limits(books.manifests[strategy_id].limits),
        "state": VaultState.ACTIVE,
        **dict.fromkeys(nothing.split(), 0),
        **dict.fromkeys(unmeasured.split()),
        "created_at_s": e.at_s,
        "created_at_block": e.block,
        "transaction": e.transaction,
    }
    books.positions[e.args["vault"]] = {}
    books.totals["vault_count"] += 1


@_on("vault_implementation", "VaultInitialised")
def _vault_initialised(books: _Books, e: _Event) -> None:
    books.vaults[e.address] |= {"agent_id": e.args["agentId"], "artefact_hash": _hex(e.args["artefactHash"])}


@_on("vault_implementation", "VaultUpdated")
def _vault_updated(books: _Books, e: _Event) -> None:
    limits = _limits(tuple(e.args["limits"].values()))
    books.vaults[e.address] |= {"artefact_hash": _hex(e.args["artefactHash"]), "limits": limits}


@_on("vault_implementation", "StateChanged")
def _state_changed(books: _Books, e: _Event) -> None:
    books.vaults[e.address] |= {"state": VaultState(e.args["state"]), "reasons": e.args["reasons"]}


@_on("vault_implementation", "Allocated")
def _allocated(books: _Books, e: _Event) -> None:
    vault, amount = books.vaults[e.address], e.args["amount"]
    _book(books, e.address, books.fixed.quote, amount)
    vault["units"] += e.args["units"]
    vault["net_flow"] -= amount
    vault["allocated"] += amount
    books.totals["allocated"] += amount


@_on("vault_implementation", "Recalled")
def _recalled(books: _Books, e: _Event) -> None:
    vault, value = books.vaults[e.address], e.args["value"]
    _book(books, e.address, e.args["token"], -e.args["amount"])
    vault["units"] -= e.args["units"]
    vault["net_flow"] += value
    vault["recalled"] += value
    books.totals["recalled"] += value


@_on("vault_implementation", "WrittenOff")
def _written_off(books: _Books, e: _Event) -> None:
    vault, positions = books.vaults[e.address], books.positions[e.address]
    positions[e.args["token"]] = 0
    if vault["quote_held"] == 0 and not any(positions.values()):
        vault["units"] = 0


@_on("vault_implementation", "AuctionFilled")
def _auction_filled(books: _Books, e: _Event) -> None:
    _book(books, e.address, e.args["asset"], -e.args["amount"])
    _book(books, e.address, books.fixed.quote, e.args["quoteIn"])


@_on("vault_implementation", "TradeRefused")
def _trade_refused(books: _Books, e: _Event) -> None:
    refusal = Refusal(
        vault=e.address, nonce=e.args["nonce"], asset=e.args["asset"], is_buy=e.args["buy"],
        reasons=e.args["reasons"], explanation_hash=_hex(e.args["explanationHash"]), **_when(e),
    )  # fmt: skip
    books.refusals.append(refusal)
    books.vaults[e.address]["refusal_count"] += 1
    books.totals["refusal_count"] += 1


@_on("ledger", "BookOpened")
def _book_opened(books: _Books, e: _Event) -> None:
    books.vaults[e.args["vault"]]["head"] = _hex(e.args["genesis"])


@_on("ledger", "TradeRecorded")
def _trade_recorded(books: _Books, e: _Event) -> None:
    entry, address = e.args["trade"], e.args["vault"]
    vault, agent = books.vaults[address], books.agents[entry["agentId"]]
    is_buy = entry["tokenIn"] == books.fixed.quote
    volume = entry["amountIn"] if is_buy else entry["amountOut"]
    _book(books, address, entry["tokenIn"], -entry["amountIn"])
    _book(books, address, entry["tokenOut"], entry["amountOut"])
    is_measured = not entry["reasons"] & Reason.PRICE_MISSING and _measure(vault, entry["netAssetValue"], e)
    trade = Trade(
        id=_hex(e.args["id"]), vault=address, agent_id=entry["agentId"], strategy_id=_hex(entry["strategyId"]),
        sequence=entry["sequence"], reasons=entry["reasons"], artefact_hash=_hex(entry["artefactHash"]),
        explanation_hash=_hex(entry["explanationHash"]), observation_hash=_hex(entry["observationHash"]),
        token_in=entry["tokenIn"], token_out=entry["tokenOut"], amount_in=entry["amountIn"],
        amount_out=entry["amountOut"], is_buy=is_buy, shortfall=entry["shortfall"],
        net_asset_value=entry["netAssetValue"], profit=vault["profit"] if is_measured else None,
        unit_price_wad=vault["unit_price_wad"] if is_measured else None,
        prices=tuple(
            TradePrice(token=p["token"], round_id=p["roundId"], answer=p["answer"]) for p in entry["prices"]
        ), **_when(e),
    )  # fmt: skip
    books.trades.append(trade)
    vault |= {"head": trade.id, "nonce": trade.sequence + 1}
    agent["trade_count"] += 1
    for counted in (vault, books.totals):
        counted["trade_count"] += 1
        counted["volume"] += volume
        counted["shortfall"] += trade.shortfall


def _book(books: _Books, address: str, token: str, amount: int) -> None:
    """Adds to what a vault's books hold of an asset, or of quote."""
    if token == books.fixed.quote:
        books.vaults[address]["quote_held"] += amount
    else:
        positions = books.positions[address]
        positions[token] = positions.get(token, 0) + amount


def _measure(vault: dict[str, Any], net_asset_value: int, e: _Event) -> bool:
    """Whether it was done: not in a vault's first block, in which the subgraph learns of its flows last."""
    if e.block == vault["created_at_block"]:
        return False
    units = vault["units"]
    unit_price_wad = net_asset_value * WAD * _UNITS_PER_QUOTE // units if units else WAD
    vault |= {
        "net_asset_value": net_asset_value,
        "profit": net_asset_value + vault["net_flow"],
        "unit_price_wad": unit_price_wad,
        "highest_unit_price_wad": max(unit_price_wad, vault["highest_unit_price_wad"] or 0),
        "measured_at_s": e.at_s,
        "measured_at_block": e.block,
    }
    return True


# Rewards


@_on("pool", "VaultRegistered")
def _vault_registered(books: _Books, e: _Event) -> None:
    nothing = (
        "credited unvested_wei vested_wei vest_updated_at_s vest_ends_at_s rewarded_wei clawed_back_wei "
        "clawed_back_from_bond_wei claimed_wei"
    ).split()
    books.accounts[e.args["vault"]] = {
        "rate": e.args["rate"],
        "cap_wei": e.args["cap"],
        **dict.fromkeys(nothing, 0),
        "next_epoch": books.fixed.epoch_at(e.at_s),
        "is_live": True,
        "pending_move": None,
    }
    books.agents[e.args["agentId"]]["vault"] = e.args["vault"]


@_on("pool", "CapSet")
def _cap_set(books: _Books, e: _Event) -> None:
    books.accounts[e.args["vault"]]["cap_wei"] = e.args["cap"]


@_on("pool", "VaultReleased")
def _vault_released(books: _Books, e: _Event) -> None:
    books.accounts[e.args["vault"]] |= {"cap_wei": 0, "is_live": False}


@_on("pool", "ProfitObserved")
def _profit_observed(books: _Books, e: _Event) -> None:
    vault = books.vaults[e.args["vault"]]
    _measure(vault, e.args["profit"] - vault["net_flow"], e)


@_on("pool", "WindowClosed")
def _window_closed(books: _Books, e: _Event) -> None:
    books.accounts[e.args["vault"]] |= {"next_epoch": e.args["epoch"] + 1, "pending_move": e.args["move"] or None}


@_on("pool", "Rewarded")
def _rewarded(books: _Books, e: _Event) -> None:
    account, reward = books.accounts[e.args["vault"]], e.args["reward"]
    _accrue(account, e.at_s)
    remaining_s = max(account["vest_ends_at_s"] - e.at_s, 0)
    total = account["unvested_wei"] + reward
    weighted = account["unvested_wei"] * remaining_s + reward * books.fixed.vesting_s
    account |= {"unvested_wei": total, "vest_ends_at_s": e.at_s + -(-weighted // total)}
    for paid in (account, books.agents[e.args["agentId"]], books.totals):
        paid["rewarded_wei"] += reward
    books.agents[e.args["agentId"]]["unclaimed_wei"] += reward
    _settled(books, e, reward=reward, from_unclaimed=0, from_bond=0)


@_on("pool", "ClawedBack")
def _clawed_back(books: _Books, e: _Event) -> None:
    account, agent = books.accounts[e.args["vault"]], books.agents[e.args["agentId"]]
    from_unclaimed, from_bond = e.args["fromUnclaimed"], e.args["fromBond"]
    _accrue(account, e.at_s)
    from_unvested = min(from_unclaimed, account["unvested_wei"])
    account["unvested_wei"] -= from_unvested
    account["vested_wei"] -= from_unclaimed - from_unvested
    account["clawed_back_from_bond_wei"] += from_bond
    books.totals["clawed_back_from_bonds_wei"] += from_bond
    for taken in (account, agent, books.totals):
        taken["clawed_back_wei"] += from_unclaimed + from_bond
    agent["unclaimed_wei"] -= from_unclaimed
    _settled(books, e, reward=0, from_unclaimed=from_unclaimed, from_bond=from_bond)


@_on("pool", "Claimed")
def _claimed(books: _Books, e: _Event) -> None:
    account, agent, amount = books.accounts[e.args["vault"]], books.agents[e.args["agentId"]], e.args["amount"]
    _accrue(account, e.at_s)
    account["vested_wei"] -= amount
    agent["unclaimed_wei"] -= amount
    for claimed in (account, agent, books.totals):
        claimed["claimed_wei"] += amount
    books.claims.append(
        Claim(vault=e.args["vault"], agent_id=e.args["agentId"], to=e.args["to"], amount_wei=amount, **_when(e))
    )


def _accrue(account: dict[str, Any], now_s: int) -> None:
    """RewardPool._accrue: what has vested linearly since the last time."""
    newly = account["unvested_wei"]
    if now_s < account["vest_ends_at_s"]:
        whole_s = account["vest_ends_at_s"] - account["vest_updated_at_s"]
        newly = newly * (now_s - account["vest_updated_at_s"]) // whole_s
    account["vested_wei"] += newly
    account["unvested_wei"] -= newly
    account["vest_updated_at_s"] = now_s


def _settled(books: _Books, e: _Event, *, reward: int, from_unclaimed: int, from_bond: int) -> None:
    books.accounts[e.args["vault"]] |= {"credited": e.args["credited"], "pending_move": None}
    books.settlements.append(
        Settlement(
            vault=e.args["vault"], agent_id=e.args["agentId"], pnl=e.args["pnl"], reward_wei=reward,
            from_unclaimed_wei=from_unclaimed, from_bond_wei=from_bond, credited=e.args["credited"], **_when(e),
        )
    )  # fmt: skip


# Values


def _when(e: _Event) -> dict[str, Any]:
    return {"at_s": e.at_s, "block": e.block, "transaction": e.transaction}


def _limits(values: Sequence[int]) -> Limits:
    return Limits(**dict(zip((f.name for f in fields(Limits)), values, strict=True)))


def _stored(value: Any) -> Any:
    """Text as a subgraph has it: PostgreSQL stores no U+0000, so graph-node leaves it out."""
    return value.replace("\0", "") if isinstance(value, str) else value


def _hex(value: bytes) -> str:
    return "0x" + bytes(value).hex()


def _topic(contract: Any, event: str) -> str:
    abi = next(item for item in contract.abi if item["type"] == "event" and item["name"] == event)
    return "0x" + keccak(text=f"{event}({','.join(map(type_signature, abi['inputs']))})").hex()
