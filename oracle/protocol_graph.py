"""The protocol as its subgraph tells it: the same answers as from the contracts' events, in a few requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from importlib.resources import files
from typing import Any, TypeVar

from eth_utils import to_checksum_address

from oracle.chain import BlockRef
from oracle.errors import GraphRefused
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
from oracle.thegraph import GraphClient
from oracle.vault_state import VaultState

T = TypeVar("T")
Row = Mapping[str, Any]

_LIMITS = """limits {
  maxPositionBps maxTradeSlippageBps maxCumulativeSlippageBps maxReduceSlippageBps maxReduceCumulativeSlippageBps
  maxTradesPerDay maxDailyTurnoverBps maxDailyLossBps maxDrawdownBps hardDrawdownBps
}"""
_WHEN = "timestamp block transaction"
# What is asked of each plural field of the schema; `id` comes with all.
SELECTIONS = {
    "governances": """token timelock votingDelay votingPeriod proposalThreshold quorumFloor quorumBps grace
        timelockDelay totalSupply""",
    "protocols": """proposalCount voteCount agentCount strategyCount vaultCount tradeCount refusalCount volume
        shortfall allocated recalled rewarded clawedBack clawedBackFromBonds claimed""",
    "delegateVotesChanges": "votes timestamp",
    "proposals": """proposer targets values calldatas description manifest { id } voteStart voteEnd objectionEndsAt
        queuedAt eta executedAt canceledAt forVotes againstVotes abstainVotes createdAt createdAtBlock transaction""",
    "votes": f"proposal {{ id }} voter support weight reason submitter {_WHEN}",
    "manifests": f"""artefactHash agent {{ id }} updates {{ id }} strategy {{ id }} stage {_LIMITS} assets routes venue
        venueCodeHash vaultImplementation vaultCodeHash rewardRate rewardCap capital salt submitter submittedAt
        submittedAtBlock transaction""",
    "strategies": "agent { id } vault { id } version { id } stage deployedAt updatedAt",
    "agents": """controller signingKey uri bond deposit unclaimed rewarded clawedBack claimed tradeCount vault { id }
        registeredAt transaction""",
    "vaults": f"""strategy {{ id }} agent {{ id }} implementation artefactHash {_LIMITS} state reasons units quoteHeld
        netFlow allocated recalled netAssetValue profit unitPrice highestUnitPrice measuredAt measuredAtBlock nonce
        tradeCount refusalCount volume shortfall head stop {{ until }} createdAt createdAtBlock transaction
        positions(first: 1000) {{ token amount }}
        account {{
          rate cap credited unvested vested vestUpdatedAt vestEndsAt nextEpoch isLive pendingMove rewarded clawedBack
          clawedBackFromBond claimed
        }}""",
    "trades": f"""vault {{ id }} agent {{ id }} strategyId sequence reasons artefactHash explanationHash observationHash
        tokenIn tokenOut amountIn amountOut isBuy shortfall netAssetValue profit unitPrice {_WHEN}
        prices(orderBy: id) {{ token roundId answer }}""",
    "tradeRefusals": f"vault {{ id }} nonce asset isBuy reasons explanationHash {_WHEN}",
    "settlements": f"vault {{ id }} agent {{ id }} pnl reward fromUnclaimed fromBond credited {_WHEN}",
    "claims": f"account {{ id }} agent {{ id }} to amount {_WHEN}",
}


def protocol_schema() -> str:
    """What graph-node makes of `subgraph/schema.graphql`, for a `GraphClient`."""
    return files("oracle").joinpath("schemas/protocol.graphql").read_text(encoding="utf-8")


class GraphProtocolReader(ProtocolReader):
    """Asks one subgraph. `dao`: whose it has to be; of another it gives no answer. Raises what the client raises."""

    def __init__(self, client: GraphClient, *, dao: str) -> None:
        self._client, self._dao = client, dao
        self.source = "the subgraph"

    def fetch_head(self) -> BlockRef:
        answer = self._client.query("{ governances { id } }")
        self.source = f"the subgraph at {answer.endpoint}"
        if not any(_address(row) == self._dao for row in answer.data["governances"]):
            raise GraphRefused(f"{answer.endpoint} knows nothing of the DAO at {self._dao}: name its subgraph")
        return answer.block

    def fetch(self, kind: type[T], block: BlockRef) -> Answer[T]:
        return Answer(block=block, items=in_order(kind, _READ[kind](self, block)))

    def _rows(self, field: str, block: BlockRef, where: Row | None = None) -> list[dict[str, Any]]:
        answer = self._client.fetch_all(field, SELECTIONS[field], where=where, block=block)
        return list(answer.data[field])

    def _governance(self, block: BlockRef) -> Iterator[Governance]:
        for row in self._rows("governances", block):
            yield Governance(
                dao=_address(row), token=_at(row["token"]), timelock=_at(row["timelock"]),
                voting_delay_s=row["votingDelay"], voting_period_s=row["votingPeriod"],
                proposal_threshold_wei=row["proposalThreshold"], quorum_floor_wei=row["quorumFloor"],
                quorum_bps=row["quorumBps"], grace_s=row["grace"], timelock_delay_s=row["timelockDelay"],
                total_supply_wei=row["totalSupply"],
            )  # fmt: skip

    def _totals(self, block: BlockRef) -> Iterator[Totals]:
        for row in self._rows("protocols", block):
            yield Totals(
                proposal_count=row["proposalCount"], vote_count=row["voteCount"], agent_count=row["agentCount"],
                strategy_count=row["strategyCount"], vault_count=row["vaultCount"], trade_count=row["tradeCount"],
                refusal_count=row["refusalCount"], volume=row["volume"], shortfall=row["shortfall"],
                allocated=row["allocated"], recalled=row["recalled"], rewarded_wei=row["rewarded"],
                clawed_back_wei=row["clawedBack"], clawed_back_from_bonds_wei=row["clawedBackFromBonds"],
                claimed_wei=row["claimed"],
            )  # fmt: skip

    def _proposals(self, block: BlockRef) -> Iterator[Proposal]:
        [governance] = self._governance(block)
        changes = self._rows("delegateVotesChanges", block, {"delegate": governance.token.lower()})
        # The last four bytes of an event's id are its log's index, the lowest first.
        changes.sort(key=lambda row: (row["timestamp"], int.from_bytes(bytes.fromhex(row["id"][-8:]), "little")))
        votes = list(self._votes(block))
        for row in self._rows("proposals", block):
            proposal_id, vote_start_s = int(row["id"]), row["voteStart"]
            sink_wei = next((c["votes"] for c in reversed(changes) if c["timestamp"] <= vote_start_s), 0)
            yield Proposal(
                id=proposal_id, proposer=_at(row["proposer"]), targets=tuple(map(_at, row["targets"])),
                values_wei=tuple(row["values"]), calldatas=tuple(row["calldatas"]), description=row["description"],
                manifest_hash=_id(row["manifest"]), vote_start_s=vote_start_s, vote_end_s=row["voteEnd"],
                objection_ends_at_s=row["objectionEndsAt"], queued_at_s=row["queuedAt"], eta_s=row["eta"],
                executed_at_s=row["executedAt"], canceled_at_s=row["canceledAt"],
                quorum_wei=quorum_wei(governance, sink_wei), grace_s=governance.grace_s,
                for_votes_wei=row["forVotes"], against_votes_wei=row["againstVotes"],
                abstain_votes_wei=row["abstainVotes"], created_at_s=row["createdAt"],
                created_at_block=row["createdAtBlock"], transaction=row["transaction"],
                votes=in_order(Vote, (vote for vote in votes if vote.proposal_id == proposal_id)),
            )  # fmt: skip

    def _votes(self, block: BlockRef) -> Iterator[Vote]:
        for row in self._rows("votes", block):
            yield Vote(
                proposal_id=int(row["proposal"]["id"]), voter=_at(row["voter"]), support=Support[row["support"]],
                weight_wei=row["weight"], reason=row["reason"], submitter=_at(row["submitter"]), **_when(row),
            )  # fmt: skip

    def _manifests(self, block: BlockRef) -> Iterator[Manifest]:
        for row in self._rows("manifests", block):
            yield Manifest(
                hash=row["id"], artefact_hash=row["artefactHash"], agent_id=int(row["agent"]["id"]),
                updates=_id(row["updates"]), strategy_id=_id(row["strategy"]), stage=Stage[row["stage"]],
                limits=_limits(row["limits"]), assets=tuple(map(_at, row["assets"])), routes=tuple(row["routes"]),
                venue=_at(row["venue"]), venue_code_hash=row["venueCodeHash"],
                vault_implementation=_at(row["vaultImplementation"]), vault_code_hash=row["vaultCodeHash"],
                reward_rate=row["rewardRate"], reward_cap_wei=row["rewardCap"], capital=row["capital"],
                salt=row["salt"], submitter=_at(row["submitter"]), submitted_at_s=row["submittedAt"],
                submitted_at_block=row["submittedAtBlock"], transaction=row["transaction"],
            )  # fmt: skip

    def _strategies(self, block: BlockRef) -> Iterator[Strategy]:
        manifests = list(self._manifests(block))
        for row in self._rows("strategies", block):
            yield Strategy(
                id=row["id"], agent_id=int(row["agent"]["id"]), vault=_address(row["vault"]),
                version=row["version"]["id"], stage=Stage[row["stage"]], deployed_at_s=row["deployedAt"],
                updated_at_s=row["updatedAt"],
                versions=in_order(Manifest, (m for m in manifests if m.strategy_id == row["id"])),
            )  # fmt: skip

    def _agents(self, block: BlockRef) -> Iterator[Agent]:
        for row in self._rows("agents", block):
            yield Agent(
                id=int(row["id"]), controller=_at(row["controller"]), signing_key=_at(row["signingKey"]),
                uri=row["uri"], bond_wei=row["bond"], deposit=row["deposit"], unclaimed_wei=row["unclaimed"],
                rewarded_wei=row["rewarded"], clawed_back_wei=row["clawedBack"], claimed_wei=row["claimed"],
                trade_count=row["tradeCount"], vault=None if row["vault"] is None else _address(row["vault"]),
                registered_at_s=row["registeredAt"], transaction=row["transaction"],
            )  # fmt: skip

    def _vaults(self, block: BlockRef) -> Iterator[Vault]:
        for row in self._rows("vaults", block):
            held = (Position(token=_at(p["token"]), amount=p["amount"]) for p in row["positions"] if p["amount"])
            yield Vault(
                address=_address(row), strategy_id=row["strategy"]["id"], agent_id=int(row["agent"]["id"]),
                implementation=_at(row["implementation"]), artefact_hash=row["artefactHash"],
                limits=_limits(row["limits"]), state=VaultState[row["state"]], reasons=row["reasons"],
                units=row["units"], quote_held=row["quoteHeld"], net_flow=row["netFlow"],
                allocated=row["allocated"], recalled=row["recalled"], net_asset_value=row["netAssetValue"],
                profit=row["profit"], unit_price_wad=row["unitPrice"],
                highest_unit_price_wad=row["highestUnitPrice"], measured_at_s=row["measuredAt"],
                measured_at_block=row["measuredAtBlock"], nonce=row["nonce"], trade_count=row["tradeCount"],
                refusal_count=row["refusalCount"], volume=row["volume"], shortfall=row["shortfall"],
                head=row["head"], stopped_until_s=None if row["stop"] is None else row["stop"]["until"],
                created_at_s=row["createdAt"], created_at_block=row["createdAtBlock"],
                transaction=row["transaction"], positions=in_order(Position, held),
                account=_account(row["account"]),
            )  # fmt: skip

    def _trades(self, block: BlockRef) -> Iterator[Trade]:
        for row in self._rows("trades", block):
            yield Trade(
                id=row["id"], vault=_address(row["vault"]), agent_id=int(row["agent"]["id"]),
                strategy_id=row["strategyId"], sequence=row["sequence"], reasons=row["reasons"],
                artefact_hash=row["artefactHash"], explanation_hash=row["explanationHash"],
                observation_hash=row["observationHash"], token_in=_at(row["tokenIn"]),
                token_out=_at(row["tokenOut"]), amount_in=row["amountIn"], amount_out=row["amountOut"],
                is_buy=row["isBuy"], shortfall=row["shortfall"], net_asset_value=row["netAssetValue"],
                profit=row["profit"], unit_price_wad=row["unitPrice"], **_when(row),
                prices=tuple(
                    TradePrice(token=_at(p["token"]), round_id=p["roundId"], answer=p["answer"])
                    for p in row["prices"]
                ),
            )  # fmt: skip

    def _refusals(self, block: BlockRef) -> Iterator[Refusal]:
        for row in self._rows("tradeRefusals", block):
            yield Refusal(
                vault=_address(row["vault"]), nonce=row["nonce"], asset=_at(row["asset"]), is_buy=row["isBuy"],
                reasons=row["reasons"], explanation_hash=row["explanationHash"], **_when(row),
            )  # fmt: skip

    def _settlements(self, block: BlockRef) -> Iterator[Settlement]:
        for row in self._rows("settlements", block):
            yield Settlement(
                vault=_address(row["vault"]), agent_id=int(row["agent"]["id"]), pnl=row["pnl"],
                reward_wei=row["reward"], from_unclaimed_wei=row["fromUnclaimed"], from_bond_wei=row["fromBond"],
                credited=row["credited"], **_when(row),
            )  # fmt: skip

    def _claims(self, block: BlockRef) -> Iterator[Claim]:
        for row in self._rows("claims", block):
            yield Claim(
                vault=_address(row["account"]), agent_id=int(row["agent"]["id"]), to=_at(row["to"]),
                amount_wei=row["amount"], **_when(row),
            )  # fmt: skip


_READ: dict[type, Callable[[GraphProtocolReader, BlockRef], Iterator[Any]]] = {
    Governance: GraphProtocolReader._governance,
    Totals: GraphProtocolReader._totals,
    Proposal: GraphProtocolReader._proposals,
    Vote: GraphProtocolReader._votes,
    Manifest: GraphProtocolReader._manifests,
    Strategy: GraphProtocolReader._strategies,
    Agent: GraphProtocolReader._agents,
    Vault: GraphProtocolReader._vaults,
    Trade: GraphProtocolReader._trades,
    Refusal: GraphProtocolReader._refusals,
    Settlement: GraphProtocolReader._settlements,
    Claim: GraphProtocolReader._claims,
}


def _account(row: Row) -> Account:
    return Account(
        rate=row["rate"], cap_wei=row["cap"], credited=row["credited"], unvested_wei=row["unvested"],
        vested_wei=row["vested"], vest_updated_at_s=row["vestUpdatedAt"], vest_ends_at_s=row["vestEndsAt"],
        next_epoch=row["nextEpoch"], is_live=row["isLive"], pending_move=row["pendingMove"],
        rewarded_wei=row["rewarded"], clawed_back_wei=row["clawedBack"],
        clawed_back_from_bond_wei=row["clawedBackFromBond"], claimed_wei=row["claimed"],
    )  # fmt: skip


def _limits(row: Row) -> Limits:
    return Limits(**{field.name: row[_camel(field.name)] for field in fields(Limits)})


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def _when(row: Row) -> dict[str, Any]:
    return {"at_s": row["timestamp"], "block": row["block"], "transaction": row["transaction"]}


def _id(row: Row | None) -> str | None:
    return None if row is None else row["id"]


def _address(row: Row) -> str:
    return _at(row["id"])


def _at(address: str) -> str:
    return to_checksum_address(address)
