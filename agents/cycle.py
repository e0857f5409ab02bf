"""One cycle of an agent: observe, decide, review, execute, journal, explain.

    what is true (oracle) → what we wish (policy) → what is allowed (review) → what is done (execution) → what happened

Backtests, paper and live trading run this same code with another chain, clock and execution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from agents.constitution import BrokenClause, OperatorLimits, review
from agents.errors import Misconfigured
from agents.execution import Execution, Order, Outcome
from agents.explanation import FORMAT, FORMAT_WITHOUT_INTERVAL, DocumentStore, plain
from agents.intent import Intent, plan_intent, weight_bps
from agents.journal import Journal
from offchain_rl.artefact import Artefact
from offchain_rl.calibration import next_return_interval
from offchain_rl.observation import (
    BadObservation,
    Observation,
    ObservationSpec,
    VaultState,
    build_observation,
    observation_hash,
)
from offchain_rl.policy import Decision, policy_from_artefact
from offchain_rl.prices import BadPriceData, sample_rounds
from offchain_rl.prices import Round as PriceRound
from oracle.chain import BlockRef
from oracle.chainlink import Round
from oracle.consensus import Consensus, ConsensusRules, ConsensusSource
from oracle.errors import OracleError
from oracle.vault_state import VaultReading, as_plain, reason_names

# How long after its decision an order may be mined.
ORDER_LIFETIME_S = 600
# What `observe` raises when there is no price to decide on, or not enough history.
NO_OBSERVATION = (BadPriceData, BadObservation, OracleError)


class RoundSource(Protocol):
    """`oracle.chainlink.ChainlinkReader`."""

    def fetch_since(self, last: Round, since_s: int) -> tuple[Round, ...]: ...


class VaultSource(Protocol):
    """`oracle.vault_state.VaultReader`."""

    def fetch(self, block: BlockRef) -> VaultReading: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one cycle did about one asset. `outcome` is None when nothing was tried."""

    asset: str
    observation: Observation | None = None
    decision: Decision | None = None
    intent: Intent | None = None
    broken: tuple[BrokenClause, ...] = ()
    explanation_hash: str = ""
    outcome: Outcome | None = None
    # Why there was no decision (no price, not enough history), or why it had to wait.
    silent_because: str = ""


@dataclass(slots=True, kw_only=True)
class Cycle:
    """An agent with one vault. `decimals`: of each feed, by token; an observation has 8."""

    # On Solana, which has none, its CAIP-2 name.
    chain_id: int | str
    artefact: Artefact
    vaults: VaultSource
    rounds: RoundSource
    execution: Execution
    journal: Journal
    documents: DocumentStore
    decimals: Mapping[str, int]
    operator: OperatorLimits = field(default_factory=OperatorLimits)
    # Without one, prices are taken as the vault has them.
    consensus: ConsensusSource | None = None
    consensus_rules: ConsensusRules = field(default_factory=ConsensusRules)

    def run(self, block: BlockRef) -> list[Step]:
        """Decides about every listed asset at a block; the steps in the order they were taken, sales first.

        At most one order is tried: it changes what the other decisions were made on, so they wait for the next cycle.
        Raises Misconfigured when the DAO has approved another artefact than the one loaded.
        """
        vault = self.vaults.fetch(block)
        if vault.artefact_hash != self.artefact.artefact_hash:
            raise Misconfigured(
                f"artefact {self.artefact.artefact_hash} is loaded, the DAO approved {vault.artefact_hash}: "
                "load the approved file"
            )
        wishes = [self._decide(vault, position.token) for position in vault.positions]
        wishes.sort(key=lambda wish: wish.intent is not None and wish.intent.is_buy)
        steps: list[Step] = []
        for wish in wishes:
            if wish.intent and any(step.outcome for step in steps):
                wish = replace(wish, intent=None, silent_because="another order of this cycle came first")
            steps.append(self._act(vault, wish, wish.intent) if wish.intent else wish)
        return steps

    def _decide(self, vault: VaultReading, asset: str) -> Step:
        try:
            observation = observe(self.artefact, self.rounds, vault, asset, self.decimals[asset])
        except NO_OBSERVATION as error:
            return Step(asset=asset, silent_because=str(error))
        decision = policy_from_artefact(self.artefact).decide(observation)
        intent = plan_intent(vault, asset, decision)
        return Step(asset=asset, observation=observation, decision=decision, intent=intent)

    def _act(self, vault: VaultReading, wish: Step, intent: Intent) -> Step:
        assert wish.observation is not None
        assert wish.decision is not None
        consensus = self.consensus.fetch(vault, intent.asset, self.consensus_rules) if self.consensus else None
        broken = review(
            intent, vault, artefact_hash=self.artefact.artefact_hash, operator=self.operator, consensus=consensus
        )
        document = explain(
            self.chain_id, self.artefact, vault, wish.observation, wish.decision, intent, broken, consensus
        )
        name = self.documents.put(document)
        row = self.journal.open_intent(
            vault=vault.address, sequence=vault.nonce, block=vault.block.number,
            decided_at_s=vault.block.timestamp_s, explanation_hash=name,
        )  # fmt: skip
        if broken:
            self.journal.refuse(row, [(b.clause, b.detail) for b in broken])
            return replace(wish, broken=broken, explanation_hash=name)
        self.journal.reviewed(row)
        order = Order(
            intent=intent, nonce=vault.nonce, deadline_s=vault.block.timestamp_s + ORDER_LIFETIME_S,
            artefact_hash=self.artefact.artefact_hash, explanation_hash=name,
            observation_hash=document["observation"]["hash"],
        )  # fmt: skip
        outcome = self.execution.submit(order, journal_row=row)
        return replace(wish, explanation_hash=name, outcome=outcome)


def observe(
    artefact: Artefact, rounds: RoundSource, vault: VaultReading, asset: str, decimals: int
) -> Observation:
    """The observation of one asset at the reading's block.

    Depends only on rounds and state that can be read again. Raises one of NO_OBSERVATION.
    """
    answers = sampled_answers(artefact.observation, rounds, vault, asset, decimals)
    return build_observation(artefact.observation, answers, observed_state(vault, asset))


def sampled_answers(
    spec: ObservationSpec, rounds: RoundSource, vault: VaultReading, asset: str, decimals: int
) -> tuple[int, ...]:
    """What an observation takes from an asset's feed: of the vault, only its block and round matter. Raises one of
    NO_OBSERVATION."""
    position = vault.position(asset)
    if position.price_wad == 0:
        raise BadPriceData(f"{asset} has no fresh price at block {vault.block.number}")
    end_s = vault.block.timestamp_s + 1  # what the block knows, it knows
    history = rounds.fetch_since(position.round, end_s - spec.bar_s * (spec.lookback - 1))
    priced = [
        PriceRound(round_id=r.round_id, answer_e8=to_e8(r.answer, decimals), updated_at_s=r.updated_at_s)
        for r in history
    ]
    return sample_rounds(priced, end_s=end_s, bar_s=spec.bar_s, count=spec.lookback)


def observed_state(vault: VaultReading, asset: str) -> VaultState:
    """What an observation takes from the vault."""
    return VaultState(
        value=vault.value,
        weight_bps=weight_bps(vault, asset),
        unit_price_wad=vault.unit_price_wad,
        peak_wad=max(vault.peak_wad, vault.unit_price_wad),
    )


def explain(
    chain_id: int | str,
    artefact: Artefact,
    vault: VaultReading,
    observation: Observation,
    decision: Decision,
    intent: Intent,
    broken: tuple[BrokenClause, ...],
    consensus: Consensus | None = None,
    document_format: str = FORMAT,
) -> dict[str, Any]:
    """The document whose hash goes into the ledger: what was known, what was decided, what was wanted.

    `document_format`: FORMAT, or FORMAT_WITHOUT_INTERVAL for an auditor who compares with an older one.
    """
    observed = observation_hash(observation)
    document: dict[str, Any] = {
        "format": document_format,
        "chain_id": chain_id,
        "vault": as_plain(vault),
        "artefact": {"hash": artefact.artefact_hash, "name": artefact.name, "kind": artefact.kind},
        "observation": {
            "hash": observed,
            "asset": intent.asset,
            "last_round": vault.position(intent.asset).round.as_plain(),
            "features": dict(zip(artefact.observation.features, observation.vector, strict=True)),
        },
        "decision": asdict(decision),
        "intent": asdict(intent),
        # What the ledger entry will say of this trade, as far as it is known before it is made.
        "entry": {
            "agentId": vault.agent_id,
            "sequence": vault.nonce,
            "reasons": vault.reasons,
            "strategyId": vault.strategy_id,
            "artefactHash": artefact.artefact_hash,
            "observationHash": observed,
            "tokenIn": vault.quote_round.token if intent.is_buy else intent.asset,
            "tokenOut": intent.asset if intent.is_buy else vault.quote_round.token,
            "amountIn": intent.amount_in,
            "prices": [
                {"token": r.token, "roundId": r.round_id, "answer": r.answer}
                for r in (vault.quote_round, *(p.round for p in vault.priced_with(intent.asset)))
            ],
        },
        "review": [asdict(b) for b in broken],
        "text": sentence(vault, decision, intent, broken),
    }
    if consensus:
        document["consensus"] = consensus.as_plain()
    if document_format != FORMAT_WITHOUT_INTERVAL:
        interval = next_return_interval(observation.answers_e8, bar_s=artefact.observation.bar_s)
        # Empty where the policy looks at too little history for one.
        document["interval"] = interval.to_dict() if interval else {}
    plain_document: dict[str, Any] = plain(document)
    return plain_document


def sentence(vault: VaultReading, decision: Decision, intent: Intent, broken: tuple[BrokenClause, ...]) -> str:
    """The document's text: why, and what for."""
    held = weight_bps(vault, intent.asset)
    verb = "buy" if intent.is_buy else "sell"
    if vault.is_reducing:
        why = f"The vault may only reduce ({', '.join(reason_names(vault.reasons))})."
    else:
        wanted = _percent(decision.wanted_weight_bps)
        why = f"The policy wants {wanted} of the vault in {intent.asset}: {decision.reason}."
    denied = f" Denied: {', '.join(b.clause for b in broken)}." if broken else ""
    return f"{why} It holds {_percent(held)}; to {verb} for {intent.value} of quote is what changes that.{denied}"


def _percent(bps: int) -> str:
    return f"{bps // 100}.{bps % 100:02d} %"


def to_e8(answer: int, decimals: int) -> int:
    """A feed's answer with 8 decimals, rounded down."""
    return answer * 10 ** (8 - decimals) if decimals <= 8 else answer // 10 ** (decimals - 8)
