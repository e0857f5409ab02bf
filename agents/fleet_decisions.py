"""What many agents decide at one block: to the last byte what the `Cycle` of each would decide alone.

What agents have in common is computed once: an asset's history, and the features that depend on prices only, for all
who observe it in the same way; a network, for all who run it, as one product of matrices. What is an agent's own is
done one by one: observation, intent, review, explanation. One agent's error is that agent's value, and nobody else's.

Nothing is sent, written or journalled here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from json.encoder import encode_basestring
from operator import attrgetter, itemgetter
from typing import Any, Self

import numpy as np
from eth_hash.auto import keccak as default_keccak
from eth_hash.main import Keccak256

from agents.constitution import BrokenClause, OperatorLimits, review
from agents.cycle import NO_OBSERVATION, ORDER_LIFETIME_S, RoundSource, Step, observed_state, sampled_answers, sentence
from agents.errors import Misconfigured
from agents.execution import Order
from agents.explanation import FORMAT, plain
from agents.intent import Intent, plan_intent
from offchain_rl.artefact import Artefact, canonical_bytes
from offchain_rl.calibration import next_return_interval
from offchain_rl.observation import (
    OBSERVATION_TAG,
    BadObservation,
    Observation,
    ObservationSpec,
    VaultState,
    build_market_matrix,
    build_observation,
    feature_positions,
    fill_vault_features,
)
from offchain_rl.policy import ConstantWeight, Decision, MlpPolicy, Policy, policy_from_artefact
from oracle.chainlink import Round
from oracle.consensus import Consensus, ConsensusRules, ConsensusSource
from oracle.vault_state import EffectiveLimits, PositionReading, VaultReading

try:
    from eth_hash.backends import pysha3

    # The only one of eth-hash's backends whose unfinished hashes can be copied without hashing everything again.
    _KECCAK = Keccak256(pysha3.backend)
except ImportError:
    _KECCAK = default_keccak

# A text as JSON, as `json.dumps(..., ensure_ascii=False)` writes it.
_text = encode_basestring


def _template(names: Iterable[str]) -> str:
    """An object of numbers, with a place for each."""
    return "{" + ",".join(f'"{name}":"%d"' for name in names) + "}"


_LIMIT_NAMES = sorted(limit.name for limit in fields(EffectiveLimits))
_LIMITS, _limits_in_order = _template(_LIMIT_NAMES), attrgetter(*_LIMIT_NAMES)
# Price features do not depend on the vault: they are computed for this one.
_NO_VAULT = VaultState(value=0, weight_bps=0, unit_price_wad=0, peak_wad=0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedArtefact:
    """An artefact and what follows from it, made once: to hash one takes longer than to decide.

    Agents that run the same one should share this object: then their network is evaluated together.
    """

    artefact: Artefact
    artefact_hash: str
    policy: Policy
    # As it stands in explanations.
    encoded: str
    # Its features as they stand there, with a place for each number; and the numbers of a vector in that order.
    features: str
    in_order: Callable[[tuple[int, ...]], Any]

    @classmethod
    def of(cls, artefact: Artefact) -> Self:
        name, kind, found = artefact.name, artefact.kind, artefact.artefact_hash
        features = sorted((feature, place) for place, feature in enumerate(artefact.observation.features))
        return cls(
            artefact=artefact,
            artefact_hash=found,
            policy=policy_from_artefact(artefact),
            encoded=f'{{"hash":{_text(found)},"kind":{_text(kind)},"name":{_text(name)}}}',
            features=_template(feature for feature, _ in features),
            in_order=itemgetter(*(place for _, place in features)),
        )

    @property
    def spec(self) -> ObservationSpec:
        return self.artefact.observation


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetAgent:
    """An agent for one cycle. `vault`: as `FleetReader` has it, so perhaps the reason why it can't be read."""

    artefact: LoadedArtefact
    vault: VaultReading | Exception
    operator: OperatorLimits = field(default_factory=OperatorLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidedStep:
    """A step of `Cycle.run` before its order is sent: `step.outcome` is None."""

    step: Step
    # The explanation's canonical bytes, which `step.explanation_hash` is the hash of; empty without an intent.
    document: bytes = b""
    # What is to be sent; at most one step of an agent has one.
    order: Order | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentDecision:
    """What one agent decided, in the order of `Cycle.run`: sales first. `error`: why it went no further than that."""

    steps: tuple[DecidedStep, ...] = ()
    error: Exception | None = None


def decide_fleet(
    chain_id: int,
    agents: Sequence[FleetAgent],
    *,
    rounds: RoundSource,
    decimals: Mapping[str, int],
    consensus: ConsensusSource | None = None,
    consensus_rules: ConsensusRules | None = None,
) -> list[AgentDecision]:
    """The decisions of all agents at once: see `FleetDecider`."""
    decider = FleetDecider(
        chain_id, rounds=rounds, decimals=decimals, consensus=consensus, consensus_rules=consensus_rules
    )
    return decider.decide(agents)


class FleetDecider:
    """Decides for agents of one chain, and remembers for one block what they share: make another one for the next.

    `decimals`: of each feed, by token. `rounds` and `consensus` are asked once about each asset at a block, however
    many agents want to know.
    """

    def __init__(
        self, chain_id: int, *, rounds: RoundSource, decimals: Mapping[str, int],
        consensus: ConsensusSource | None = None, consensus_rules: ConsensusRules | None = None,
    ) -> None:  # fmt: skip
        self.chain_id = chain_id
        self._rounds, self._decimals = rounds, decimals
        self._consensus, self._rules = consensus, consensus_rules or ConsensusRules()
        self._windows: dict[Any, _Window] = {}
        self._agreed: dict[Any, tuple[Consensus, str] | Exception] = {}

    def decide(self, agents: Sequence[FleetAgent]) -> list[AgentDecision]:
        """The decisions of agents whose vaults were read, in the order given; never raises for one of them.

        May be called for one part of a fleet after the other. An agent whose vault has another artefact approved gets
        Misconfigured.
        """
        wishes = [_observed(self, agent) for agent in agents]
        _decide([wish for found in wishes if not isinstance(found, Exception) for wish in found if wish.observation])
        return [
            AgentDecision(error=found) if isinstance(found, Exception) else _concluded(self, agent, found)
            for agent, found in zip(agents, wishes, strict=True)
        ]

    def window(self, spec: ObservationSpec, vault: VaultReading, position: PositionReading) -> _Window:
        """Raises KeyError for an asset whose feed's decimals nobody has told."""
        key = (position.round, position.price_wad == 0, vault.block, position.token, spec)
        if (found := self._windows.get(key)) is None:
            asset, decimals = position.token, self._decimals[position.token]
            found = _Window(spec, lambda: sampled_answers(spec, self._rounds, vault, asset, decimals))
            self._windows[key] = found
        return found

    def consensus(self, vault: VaultReading, asset: str) -> tuple[Consensus | None, str]:
        """What the sources of an asset's price say, and the same as it stands in explanations. Raises as they do."""
        if not self._consensus:
            return None, ""
        position = replace(vault.position(asset), amount=0)  # what a vault holds changes no price
        key = (asset, vault.block, position, vault.quote_round, vault.quote_unit)
        if key not in self._agreed:
            try:
                found = self._consensus.fetch(vault, asset, self._rules)
                self._agreed[key] = found, canonical_bytes(plain(found.as_plain())).decode()
            except Exception as error:  # it will be the error of every agent that wants to know
                self._agreed[key] = error
        answer = self._agreed[key]
        if isinstance(answer, Exception):
            raise answer.with_traceback(None)  # or it would grow with each who is told
        return answer


@dataclass(slots=True, kw_only=True)
class _Wish:
    """What is known and wanted about one asset of one agent, as it becomes known."""

    agent: FleetAgent
    asset: str
    window: _Window
    observation: Observation | None = None
    observation_hash: str = ""
    silent_because: str = ""
    decision: Decision | None = None


# What is shared


class _Window:
    """The history of one asset as all see it who observe it by one spec at one block. `silent_because`: why there is
    none; `unusable`: what is wrong with it. Texts, so that no exception is raised a thousand times."""

    def __init__(self, spec: ObservationSpec, sample: Callable[[], tuple[int, ...]]) -> None:
        self._spec = spec
        self.answers: tuple[int, ...] = ()
        self.vector: tuple[int, ...] = ()
        self.silent_because = self.unusable = ""
        try:
            self.answers = sample()
        except NO_OBSERVATION as error:
            self.silent_because = str(error)
            return
        try:
            self.vector = _market_vector(spec, self.answers)
        except BadObservation as error:
            self.unusable = str(error)

    @cached_property
    def hashed(self) -> Any:
        """An unfinished hash of what all observations begin with: `Observation.to_bytes` up to the vault."""
        words = _words(len(self.answers), *self.answers)
        return _KECCAK.new(OBSERVATION_TAG + self._spec.spec_hash() + words)

    @cached_property
    def interval(self) -> str:
        """The interval of the next return as it stands in explanations."""
        found = next_return_interval(self.answers, bar_s=self._spec.bar_s)
        return canonical_bytes(plain(found.to_dict())).decode() if found else "{}"

    def observe(self, state: VaultState) -> tuple[Observation, str]:
        """As `build_observation`, and its hash. Raises BadObservation."""
        if self.unusable:
            raise BadObservation(self.unusable)
        vector = tuple(fill_vault_features(self._spec, list(self.vector), state))
        observation = Observation(spec=self._spec, answers_e8=self.answers, vault=state, vector=vector)
        own = self.hashed.copy()
        own.update(_words(state.value, state.weight_bps, state.unit_price_wad, state.peak_wad, len(vector), *vector))
        return observation, "0x" + own.digest().hex()


def _market_vector(spec: ObservationSpec, answers: tuple[int, ...]) -> tuple[int, ...]:
    """The observation of a vault without anything: its price features are everybody's. Raises BadObservation."""
    try:
        [features] = build_market_matrix(spec, np.array(answers, dtype=np.int64)).tolist()
    except (BadObservation, OverflowError):  # the slow way says which answer it is
        return build_observation(spec, answers, _NO_VAULT).vector
    vector = [0] * len(spec.features)
    for place, feature in zip(feature_positions(spec)[0], features, strict=True):
        vector[place] = feature
    return tuple(vector)


# Observe and decide


def _observed(fleet: FleetDecider, agent: FleetAgent) -> list[_Wish] | Exception:
    """One wish for each listed asset, without a decision so far; or why the agent may not even look."""
    vault, loaded = agent.vault, agent.artefact
    if isinstance(vault, Exception):
        return vault
    if vault.artefact_hash != loaded.artefact_hash:
        return Misconfigured(
            f"artefact {loaded.artefact_hash} is loaded, the DAO approved {vault.artefact_hash}: load the approved file"
        )
    try:
        return [_wish(fleet, agent, vault, position) for position in vault.positions]
    except Exception as error:  # whatever it is, it is not the other agents'
        return error


def _wish(fleet: FleetDecider, agent: FleetAgent, vault: VaultReading, position: PositionReading) -> _Wish:
    window = fleet.window(agent.artefact.spec, vault, position)
    wish = _Wish(agent=agent, asset=position.token, window=window)
    if window.silent_because:
        wish.silent_because = window.silent_because
        return wish
    try:
        wish.observation, wish.observation_hash = window.observe(observed_state(vault, position.token))
    except BadObservation as error:
        wish.silent_because = str(error)
    return wish


def _decide(wishes: Sequence[_Wish]) -> None:
    networks: dict[LoadedArtefact, list[_Wish]] = {}
    for wish in wishes:
        if isinstance(wish.agent.artefact.policy, MlpPolicy):
            networks.setdefault(wish.agent.artefact, []).append(wish)
        else:
            wish.decision = _decided(wish.agent.artefact.policy, wish)
    for loaded, together in networks.items():
        assert isinstance(loaded.policy, MlpPolicy)
        vectors = np.array([_observation(wish).vector for wish in together], dtype=np.int64)
        wanted = loaded.policy.wanted_weight_bps_array(vectors).tolist()
        for wish, weight_bps in zip(together, wanted, strict=True):
            # What a network wants, once it is known, is decided about like any weight that somebody wants.
            wish.decision = _decided(ConstantWeight(loaded.spec, loaded.artefact.action, weight_bps), wish)


def _decided(policy: Policy, wish: _Wish) -> Decision:
    observation = _observation(wish)
    return policy.decide_vector(observation.vector, observation.vault.weight_bps)


def _observation(wish: _Wish) -> Observation:
    assert wish.observation is not None
    return wish.observation


# Plan, review, explain


def _concluded(fleet: FleetDecider, agent: FleetAgent, wishes: Sequence[_Wish]) -> AgentDecision:
    """As `Cycle.run` goes on: sales first, until one order is ready."""
    vault, steps = agent.vault, list[DecidedStep]()
    assert isinstance(vault, VaultReading)
    try:
        planned = [(wish, wish.decision and plan_intent(vault, wish.asset, wish.decision)) for wish in wishes]
        planned.sort(key=lambda pair: pair[1] is not None and pair[1].is_buy)
        is_ordered = False
        for wish, intent in planned:
            if intent is None:
                steps.append(DecidedStep(step=_step(wish)))
            elif is_ordered:
                steps.append(DecidedStep(step=_step(wish, silent_because="another order of this cycle came first")))
            else:
                steps.append(_acted(fleet, vault, wish, intent))
                is_ordered = steps[-1].order is not None
    except Exception as error:  # whatever it is, it is not the other agents'
        return AgentDecision(steps=tuple(steps), error=error)
    return AgentDecision(steps=tuple(steps))


def _step(wish: _Wish, *, silent_because: str = "", **more: Any) -> Step:
    return Step(
        asset=wish.asset, observation=wish.observation, decision=wish.decision,
        silent_because=silent_because or wish.silent_because, **more,
    )  # fmt: skip


def _acted(fleet: FleetDecider, vault: VaultReading, wish: _Wish, intent: Intent) -> DecidedStep:
    loaded = wish.agent.artefact
    consensus, encoded_consensus = fleet.consensus(vault, intent.asset)
    broken = review(
        intent, vault, artefact_hash=loaded.artefact_hash, operator=wish.agent.operator, consensus=consensus
    )
    document = _document(fleet.chain_id, vault, wish, intent, broken, encoded_consensus)
    name = "0x" + _KECCAK(document).hex()
    step = _step(wish, intent=intent, broken=broken, explanation_hash=name)
    if broken:
        return DecidedStep(step=step, document=document)
    order = Order(
        intent=intent, nonce=vault.nonce, deadline_s=vault.block.timestamp_s + ORDER_LIFETIME_S,
        artefact_hash=loaded.artefact_hash, explanation_hash=name, observation_hash=wish.observation_hash,
    )  # fmt: skip
    return DecidedStep(step=step, document=document, order=order)


# Documents: the canonical bytes of what `agents.cycle.explain` returns, written down at once. Keys are in their order.


def _document(
    chain_id: int, vault: VaultReading, wish: _Wish, intent: Intent, broken: tuple[BrokenClause, ...], consensus: str
) -> bytes:
    assert wish.decision is not None
    decision, text = wish.decision, sentence(vault, wish.decision, intent, broken)
    return (
        f'{{"artefact":{wish.agent.artefact.encoded},"chain_id":"{chain_id}",'
        + (f'"consensus":{consensus},' if consensus else "")
        + f'"decision":{{"is_rebalance":{_boolean(decision.is_rebalance)},"reason":{_text(decision.reason)},'
        f'"target_weight_bps":"{decision.target_weight_bps}","wanted_weight_bps":"{decision.wanted_weight_bps}"}},'
        f'"entry":{_entry(vault, wish, intent)},"format":{_text(FORMAT)},'
        f'"intent":{{"amount_in":"{intent.amount_in}","asset":{_text(intent.asset)},'
        f'"is_buy":{_boolean(intent.is_buy)},"min_amount_out":"{intent.min_amount_out}","value":"{intent.value}"}},'
        f'"interval":{wish.window.interval},'
        f'"observation":{_observed_part(vault, wish)},'
        f'"review":[{",".join(_clause(b) for b in broken)}],"text":{_text(text)},"vault":{_vault(vault)}}}'
    ).encode()


def _entry(vault: VaultReading, wish: _Wish, intent: Intent) -> str:
    quote = vault.quote_round.token
    sold, bought = (quote, intent.asset) if intent.is_buy else (intent.asset, quote)
    rounds = (vault.quote_round, *(p.round for p in vault.priced_with(intent.asset)))
    prices = (f'{{"answer":"{r.answer}","roundId":"{r.round_id}","token":{_text(r.token)}}}' for r in rounds)
    return (
        f'{{"agentId":"{vault.agent_id}","amountIn":"{intent.amount_in}",'
        f'"artefactHash":{_text(wish.agent.artefact.artefact_hash)},'
        f'"observationHash":{_text(wish.observation_hash)},"prices":[{",".join(prices)}],'
        f'"reasons":"{vault.reasons:d}","sequence":"{vault.nonce}","strategyId":{_text(vault.strategy_id)},'
        f'"tokenIn":{_text(sold)},"tokenOut":{_text(bought)}}}'
    )


def _observed_part(vault: VaultReading, wish: _Wish) -> str:
    loaded = wish.agent.artefact
    features = loaded.features % loaded.in_order(_observation(wish).vector)
    last_round = _round(vault.position(wish.asset).round)
    return (
        f'{{"asset":{_text(wish.asset)},"features":{features},"hash":{_text(wish.observation_hash)},'
        f'"last_round":{last_round}}}'
    )


def _vault(v: VaultReading) -> str:
    b = v.block
    return (
        f'{{"address":{_text(v.address)},"agent_id":"{v.agent_id}","artefact_hash":{_text(v.artefact_hash)},'
        f'"block":{{"hash":{_text(b.hash)},"number":"{b.number}","timestamp_s":"{b.timestamp_s}"}},'
        f'"limits":{_LIMITS % _limits_in_order(v.limits)},"nonce":"{v.nonce}","peak_wad":"{v.peak_wad}",'
        f'"positions":[{",".join(_position(p) for p in v.positions)}],"profit":"{v.profit}",'
        f'"quote_held":"{v.quote_held}","quote_round":{_round(v.quote_round)},"quote_unit":"{v.quote_unit}",'
        f'"reasons":"{v.reasons:d}","recorded_reasons":"{v.recorded_reasons:d}","reference_wad":"{v.reference_wad}",'
        f'"slippage_at_s":"{v.slippage_at_s}","slippage_decay_s":"{v.slippage_decay_s}",'
        f'"slippage_level":"{v.slippage_level}","state":{_text(v.state.name)},"strategy_id":{_text(v.strategy_id)},'
        f'"trades_today":"{v.trades_today}","turnover_today":"{v.turnover_today}",'
        f'"unit_price_wad":"{v.unit_price_wad}","value":"{v.value}"}}'
    )


def _position(p: PositionReading) -> str:
    return (
        f'{{"amount":"{p.amount}","price_wad":"{p.price_wad}","round":{_round(p.round)},'
        f'"token":{_text(p.token)},"unit":"{p.unit}"}}'
    )


def _round(r: Round) -> str:
    return (
        f'{{"answer":"{r.answer}","round_id":"{r.round_id}","token":{_text(r.token)},'
        f'"updated_at_s":"{r.updated_at_s}"}}'
    )


def _clause(broken: BrokenClause) -> str:
    return f'{{"clause":{_text(broken.clause)},"detail":{_text(broken.detail)}}}'


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _words(*numbers: int) -> bytes:
    """32 bytes for each, big-endian two's complement."""
    return b"".join(number.to_bytes(32, "big", signed=True) for number in numbers)
