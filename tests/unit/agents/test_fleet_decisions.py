"""A fleet decides what each of its agents would decide alone: the same steps, the same orders, the same bytes."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import pytest

from agents.constitution import OperatorLimits
from agents.cycle import Cycle, Step
from agents.errors import Misconfigured
from agents.execution import Ended, Order, Outcome
from agents.fleet_decisions import AgentDecision, FleetAgent, LoadedArtefact, decide_fleet
from offchain_rl.artefact import ActionSpec, Artefact, canonical_bytes, hash_bytes
from offchain_rl.calibration import MIN_ANSWERS, ReturnInterval, next_return_interval
from offchain_rl.observation import ObservationSpec, observation_hash
from oracle.chain import BlockRef
from oracle.chainlink import Round
from oracle.consensus import CHAINLINK, SPOT, TWAP, Consensus, ConsensusRules, MissingPrice, SourcePrice, compare
from oracle.errors import ReadingFailed
from oracle.vault_state import Reason, VaultReading, VaultState
from tests.unit.oracle.readings import BTC, ETH, NOW_S, USD, WAD, position, reading

CHAIN_ID = 31337
TWO_SOURCES = ConsensusRules(min_sources=2)
TINY, NEW = "0x" + "4" * 40, "0x" + "5" * 40
DECIMALS = {ETH: 8, BTC: 18, TINY: 8, NEW: 8}
SHORT = ObservationSpec(bar_s=600, lookback=9, vol_window=8, features=("ma_cross_z:2:4", "weight", "log_vol:3"))
LONG = ObservationSpec(bar_s=300, lookback=25, vol_window=12, features=("drawdown", "return_z:6", "weight"))
BLIND = ObservationSpec(bar_s=300, lookback=3, vol_window=2, features=("weight",))
# Enough answers for an interval of the next return.
FAR = ObservationSpec(bar_s=100, lookback=MIN_ANSWERS + 11, vol_window=99, features=("return_z:60", "weight"))


class Feeds:
    """Rounds every five minutes or so. TINY publishes nonsense; NEW has begun an hour ago."""

    def __init__(self) -> None:
        rng, self.asked = random.Random(5), Counter[str]()
        self.rounds = {
            token: [
                Round(token=token, round_id=i, answer=answer(rng) * 10 ** (DECIMALS[token] - 2), updated_at_s=at_s)
                for i, at_s in enumerate(range(since_s, NOW_S, 290), start=1)
            ]
            for token, since_s, answer in (
                (ETH, NOW_S - 20_000, lambda rng: rng.randrange(190_000, 210_000)),
                (BTC, NOW_S - 30_000, lambda rng: rng.randrange(5_900_000, 6_100_000)),
                (TINY, NOW_S - 20_000, lambda rng: 0),
                (NEW, NOW_S - 3600, lambda rng: rng.randrange(100, 110)),
            )
        }

    def fetch_since(self, last: Round, since_s: int) -> tuple[Round, ...]:
        self.asked[last.token] += 1
        if last.round_id == 13:
            raise ReadingFailed(f"the node does not answer for {last.token}")
        return tuple(self.rounds[last.token])


class Sources:
    """A consensus that objects to BTC; a node that does not answer for NEW."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def fetch(self, vault: VaultReading, asset: str, rules: ConsensusRules) -> Consensus:
        self.asked[asset] += 1
        if asset == NEW:
            raise ReadingFailed("no answer")
        chainlink = Fraction(vault.position(asset).price_wad, WAD)
        prices: list[SourcePrice | MissingPrice] = [
            SourcePrice(source=CHAINLINK, price=chainlink, age_s=60),
            SourcePrice(source=TWAP, price=chainlink * (2 if asset == BTC else 1), age_s=1800),
            MissingPrice(source=SPOT, reason='a "pool" — without liquidity'),
        ]
        return compare(asset, vault.block, prices, rules)


def network(seed: int, spec: ObservationSpec) -> Artefact:
    rng = random.Random(seed)
    widths = [len(spec.features), 8, 4, 1]
    layers = [
        {
            "weights": [[rng.randrange(-3000, 3000) for _ in range(inputs)] for _ in range(outputs)],
            "biases": [rng.randrange(-(10**6), 10**6) for _ in range(outputs)],
            "weight_bits": 10, "storage": "int16",
        }
        for inputs, outputs in zip(widths, widths[1:], strict=False)
    ]  # fmt: skip
    return artefact("mlp", spec, {"layers": layers}, deadband_bps=rng.choice((1, 300)))


def artefact(kind: str, spec: ObservationSpec, parameters: dict[str, Any], *, deadband_bps: int = 100) -> Artefact:
    return Artefact(
        name=f"{kind.replace('_', '-')}-{deadband_bps}", kind=kind, observation=spec, parameters=parameters,
        action=ActionSpec(max_weight_bps=6000, deadband_bps=deadband_bps),
    )  # fmt: skip


CROSSING = {"feature": "ma_cross_z:2:4", "weight_above_bps": 5000, "weight_below_bps": 0}
ARTEFACTS = [
    LoadedArtefact.of(made)
    for made in (
        network(1, SHORT), network(2, SHORT), network(3, LONG), artefact("moving_average", SHORT, CROSSING),
        artefact("constant", LONG, {"weight_bps": 4000}), artefact("constant", BLIND, {"weight_bps": 0}),
        artefact("buy_and_hold", SHORT, {}), artefact("hold", LONG, {}),
        artefact("constant", FAR, {"weight_bps": 3000}), network(4, FAR),
    )
]  # fmt: skip
CONSTANT, NOTHING = ARTEFACTS[4:6]
FAR_SIGHTED = ARTEFACTS[8]


def any_vault(rng: random.Random, number: int, approved: LoadedArtefact) -> VaultReading:
    """A reading that might be of a real vault, or of one that nobody would want to have."""
    price = {ETH: 2000, BTC: 60_000, TINY: 1, NEW: 1}
    positions = [
        replace(
            position(
                token, rng.choice((0, rng.randrange(10**20), 2 * 10**10)),
                rng.choice((0, *[price[token], price[token] + 1] * 4)), unit=10 ** rng.choice((6, 8, 18)),
            ),
            round=Round(token=token, round_id=rng.choice((7, 7, 7, 13)), answer=10**8, updated_at_s=NOW_S - 60),
        )
        for token in rng.sample((ETH, BTC, TINY, NEW), rng.randrange(5))
    ] or [position()]  # fmt: skip
    state, reasons = rng.choice(
        [(VaultState.ACTIVE, Reason(0))] * 5
        + [(VaultState.REDUCING, Reason.UNSETTLED), (VaultState.REDUCING, Reason.GUARDIAN | Reason.DAY_LOSS)]
        + [(VaultState.HALTED, Reason.HALTED)]
    )
    over: dict[str, Any] = {"value": rng.choice((0, 2**255))} if rng.random() < 0.1 else {}
    if rng.random() < 0.4:  # one that breaks a limit or another, most of the time
        over |= {
            "unit_price_wad": rng.randrange(1, 2 * WAD), "peak_wad": rng.randrange(2 * WAD),
            "reference_wad": rng.randrange(2 * WAD), "trades_today": rng.randrange(12),
            "turnover_today": rng.randrange(10**12), "slippage_level": rng.randrange(10**11),
        }  # fmt: skip
    return reading(
        *positions, quote_held=rng.choice((0, rng.randrange(10**13))), state=state, reasons=reasons,
        recorded_reasons=int(reasons), address=f"0x{number:040x}", artefact_hash=approved.artefact_hash,
        agent_id=number, nonce=rng.randrange(2**40), profit=rng.randrange(-(10**12), 10**12),
        slippage_at_s=NOW_S - rng.randrange(10**6),
        limits={"max_trade_slippage_bps": rng.randrange(200)}, **over,
    )  # fmt: skip


def any_agent(rng: random.Random, number: int) -> FleetAgent:
    loaded = rng.choice(ARTEFACTS)
    approved = loaded if rng.random() < 0.95 else rng.choice(ARTEFACTS)
    operator = OperatorLimits(max_trade_bps=3000, min_trade_value=50 * USD) if rng.random() < 0.3 else OperatorLimits()
    return FleetAgent(artefact=loaded, vault=any_vault(rng, number, approved), operator=operator)


@dataclass
class Alone:
    """What the cycle of one agent does, with everything that it hands out kept."""

    steps: list[Step] = field(default_factory=list)
    documents: dict[str, bytes] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    error: Exception | None = None

    def put(self, document: Any) -> str:
        content = canonical_bytes(document)
        self.documents[hash_bytes(content)] = content
        return hash_bytes(content)

    def submit(self, order: Order, *, journal_row: int) -> Outcome:
        self.orders.append(order)
        return Outcome(ended=Ended.TRADED)

    def fetch(self, block: BlockRef) -> VaultReading:
        return self.vault

    def __getattr__(self, name: str) -> Callable[..., int]:
        """The journal, which has nothing to say in a decision."""
        return lambda *_, **__: 0

    def run(self, agent: FleetAgent, **sources: Any) -> Alone:
        self.vault = agent.vault
        here: Any = self
        cycle = Cycle(
            chain_id=CHAIN_ID, artefact=agent.artefact.artefact, vaults=here, execution=here, journal=here,
            documents=here, operator=agent.operator, decimals=DECIMALS, **sources,
        )  # fmt: skip
        try:
            self.steps = [replace(step, outcome=None) for step in cycle.run(self.vault.block)]
        except Exception as error:
            self.error = error
        return self


def decide(agents: list[FleetAgent], **sources: Any) -> list[AgentDecision]:
    return decide_fleet(CHAIN_ID, agents, decimals=DECIMALS, **sources)


def one(agent: FleetAgent, **sources: Any) -> AgentDecision:
    [decision] = decide([agent], **{"rounds": Feeds()} | sources)
    return decision


def wanting(*held: Any, wants: LoadedArtefact = CONSTANT, **over: Any) -> FleetAgent:
    """An agent that wants 40 % of each asset, or what else it is told to."""
    return FleetAgent(artefact=wants, vault=reading(*held, artefact_hash=wants.artefact_hash, **over))


def assert_same(decided: AgentDecision, alone: Alone) -> None:
    assert (type(decided.error), str(decided.error)) == (type(alone.error), str(alone.error))
    if alone.error is None:
        assert [found.step for found in decided.steps] == alone.steps
    assert [found.order for found in decided.steps if found.order] == alone.orders
    documents = {found.step.explanation_hash: found.document for found in decided.steps if found.document}
    assert documents == {name: alone.documents[name] for name in documents}
    assert alone.error or documents == alone.documents


# One agent's trouble


def test_an_agent_with_another_artefact_than_the_approved_one_is_told_so_and_the_others_decide() -> None:
    wrong = replace(wanting(), artefact=ARTEFACTS[0])
    first, refused, last = decide([wanting(), wrong, wanting()], rounds=Feeds())
    assert isinstance(refused.error, Misconfigured)
    assert "load the approved file" in str(refused.error)
    assert refused.steps == ()
    assert first == last
    assert first.steps[0].order is not None


def test_a_vault_that_could_not_be_read_has_its_reason_and_the_others_decide() -> None:
    silent = ReadingFailed("status of 0x… gave no answer")
    found, ok = decide([FleetAgent(artefact=CONSTANT, vault=silent), wanting()], rounds=Feeds())
    assert (found.error, found.steps) == (silent, ())
    assert ok.steps[0].order is not None


def test_an_asset_whose_feed_nobody_knows_is_that_agents_error_only() -> None:
    unknown = "0x" + "9" * 40
    found, ok = decide([wanting(position(unknown)), wanting()], rounds=Feeds())
    assert isinstance(found.error, KeyError)
    assert ok.steps[0].order is not None


def test_a_source_that_does_not_answer_is_the_error_of_those_who_needed_it_after_what_they_did() -> None:
    """Both assets are to be sold. The first is denied and explained; about the second nobody could be asked."""
    agent = wanting(position(BTC, 2 * WAD, 60_000), position(NEW, 120_000 * WAD, 1), wants=NOTHING)
    found, ok = decide([agent, wanting()], rounds=Feeds(), consensus=Sources(), consensus_rules=TWO_SOURCES)
    [denied] = found.steps
    assert [clause.clause for clause in denied.step.broken] == ["consensus"]
    assert b"Denied: consensus." in denied.document
    assert isinstance(found.error, ReadingFailed)
    assert ok.error is None


# The same as alone


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sources", [None, Sources])
def test_a_fleet_decides_to_the_last_byte_what_each_agent_decides_alone(
    seed: int, sources: Callable[[], Any] | None
) -> None:
    rng = random.Random(seed)
    agents = [any_agent(rng, number) for number in range(100)]
    asked: dict[str, Any] = {"consensus": sources and sources(), "consensus_rules": TWO_SOURCES}
    together = decide(agents, rounds=Feeds(), **asked)
    alone = [Alone().run(agent, rounds=Feeds(), **asked) for agent in agents]
    for decided, expected in zip(together, alone, strict=True):
        assert_same(decided, expected)
    seen = [step for decided in together for step in decided.steps]
    assert any(found.order and found.step.intent.is_buy for found in seen)  # type: ignore[union-attr]
    assert any(found.order and not found.step.intent.is_buy for found in seen)  # type: ignore[union-attr]
    assert any(found.step.broken for found in seen)
    assert any(found.step.silent_because for found in seen)
    assert {b'"interval":{}' in found.document for found in seen if found.document} == {True, False}


def test_a_decision_is_stored_with_the_interval_of_what_it_was_made_on() -> None:
    [found] = one(wanting(wants=FAR_SIGHTED)).steps
    assert found.step.observation is not None
    expected = next_return_interval(found.step.observation.answers_e8, bar_s=FAR.bar_s)
    assert ReturnInterval.from_dict(json.loads(found.document)["interval"]) == expected


def test_a_decision_on_too_little_history_is_stored_with_an_empty_interval() -> None:
    [found] = one(wanting()).steps
    assert json.loads(found.document)["interval"] == {}


def test_the_interval_of_an_asset_is_computed_once_for_all_who_see_it_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(answers_e8: Any, *, bar_s: int) -> Any:
        asked.append(bar_s)
        return next_return_interval(answers_e8, bar_s=bar_s)

    monkeypatch.setattr("agents.fleet_decisions.next_return_interval", counted)
    decide([wanting(wants=FAR_SIGHTED, address=f"0x{n:040x}") for n in range(20)], rounds=Feeds())
    assert asked == [FAR.bar_s]


def test_the_names_of_documents_and_observations_are_their_hashes() -> None:
    [found] = one(wanting()).steps
    assert found.order is not None
    assert found.step.observation is not None
    assert found.order.explanation_hash == found.step.explanation_hash == hash_bytes(found.document)
    assert found.order.observation_hash == observation_hash(found.step.observation)


def test_sales_come_first_and_at_most_one_order_is_ready() -> None:
    rich = wanting(position(ETH), position(BTC, amount=10**18, price_usd=60_000, unit=10**18), quote_held=10_000 * USD)
    sold, waits = one(rich).steps
    assert (sold.step.asset, waits.step.asset) == (BTC, ETH)
    assert sold.order is not None
    assert not sold.order.intent.is_buy
    assert (waits.order, waits.document, waits.step.intent) == (None, b"", None)
    assert waits.step.silent_because == "another order of this cycle came first"


def test_what_is_denied_is_explained_and_makes_room_for_the_next() -> None:
    """A purchase of ETH is too large for the operator; a sale of BTC that comes first is small enough to be dust."""
    agent = replace(wanting(position(ETH), position(BTC, price_usd=60_000)), operator=OperatorLimits(max_trade_bps=1))
    for found in one(agent).steps:
        assert [clause.clause for clause in found.step.broken] == ["trade size"]
        assert found.order is None
        assert b"Denied: trade size." in found.document


def test_what_all_observe_is_asked_for_once() -> None:
    feeds, sources = Feeds(), Sources()
    agents = [wanting(position(ETH), position(BTC, price_usd=60_000), address=f"0x{n:040x}") for n in range(20)]
    decide(agents, rounds=feeds, consensus=sources, consensus_rules=TWO_SOURCES)
    assert feeds.asked == {ETH: 1, BTC: 1}
    assert sources.asked == {ETH: 1}


def test_a_price_that_only_the_next_block_knows_is_asked_for_again() -> None:
    """Two vaults read at different blocks share nothing, though they hold the same."""
    feeds, now = Feeds(), wanting()
    assert isinstance(now.vault, VaultReading)
    later = replace(now, vault=replace(now.vault, block=BlockRef(number=101, hash="0x00", timestamp_s=NOW_S + 4000)))
    first, second = decide([now, later], rounds=feeds)
    assert feeds.asked == {ETH: 2}
    assert first.steps[0].step.observation != second.steps[0].step.observation


def test_nobody_decides_nothing() -> None:
    assert decide([], rounds=Feeds()) == []
