"""For every field of a ledger entry: changed in what somebody claims, in the explanation or in the artefact, the audit
fails with that field's name."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agents.audit import Finding
from agents.explanation import FORMAT_WITHOUT_INTERVAL, DocumentStore
from agents.ledger import LedgerEntry
from offchain_rl.artefact import ActionSpec, hash_bytes
from offchain_rl.calibration import MIN_ANSWERS
from offchain_rl.observation import ObservationSpec
from tests.contracts.world import World
from tests.e2e.conftest import SPEC, Agent, borrowed, moving_average, put_in_office

FIELDS = (
    "agentId", "sequence", "reasons", "strategyId", "artefactHash", "explanationHash", "observationHash", "tokenIn",
    "tokenOut", "amountIn", "amountOut", "shortfall", "netAssetValue", "prices",
)  # fmt: skip
# Where an explanation says what the ledger says. The other fields are known only when the trade is made, and its own
# hash is in no document.
IN_EXPLANATION = {
    "agentId": ["entry.agentId", "vault.agent_id"],
    "sequence": ["entry.sequence", "vault.nonce"],
    "reasons": ["entry.reasons", "vault.reasons"],
    "strategyId": ["entry.strategyId", "vault.strategy_id"],
    "artefactHash": ["entry.artefactHash", "artefact.hash", "vault.artefact_hash"],
    "observationHash": ["entry.observationHash", "observation.hash"],
    "tokenIn": ["entry.tokenIn"],
    "tokenOut": ["entry.tokenOut"],
    "amountIn": ["entry.amountIn", "intent.amount_in"],
    "prices": [
        "entry.prices.0.answer", "entry.prices.1.answer", "entry.prices.1.roundId", "entry.prices.0.token",
        "vault.quote_round.answer", "vault.quote_round.round_id", "vault.positions.0.round.answer",
        "vault.positions.0.round.updated_at_s", "observation.last_round.answer", "observation.last_round.round_id",
    ],
}  # fmt: skip
# What else an explanation says, and under which name a lie about it is reported.
OTHER_PARTS = {
    "format": "format",
    "chain_id": "chain_id",
    "vault.value": "vault",
    "vault.block.hash": "vault",
    "vault.limits.max_position_bps": "vault",
    "vault.positions.0.amount": "vault",
    "artefact.kind": "artefact",
    "observation.asset": "observation",
    "observation.features.weight": "observation",
    "decision.target_weight_bps": "decision",
    "decision.reason": "decision",
    "intent.min_amount_out": "intent",
    "intent.value": "intent",
    "text": "text",
}
TRADES = ("purchase", "sale")


@dataclass(slots=True, kw_only=True)
class Case:
    """A trade that holds, with a copy of its explanation that may be spoilt."""

    agent: Agent
    entry: LedgerEntry
    folder: Path

    @property
    def name(self) -> str:
        return "0x" + self.entry.fields["explanationHash"].hex()

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / f"{self.name}.json").read_bytes())
        return document

    def audit(self, claimed: Any = None, *, entry: LedgerEntry | None = None, **over: Any) -> list[Finding]:
        return self.agent.audit(entry or self.entry, claimed, documents=DocumentStore(self.folder), **over)

    def forged(self, document: dict[str, Any]) -> set[str]:
        """What is found when the document is put in the place of the true one."""
        (self.folder / f"{self.name}.json").write_bytes(as_bytes(document))
        return {finding.field for finding in self.audit()}

    def committed(self, document: dict[str, Any]) -> set[str]:
        """What is found when the agent had committed to this document, so that its hash is the ledger's."""
        content = as_bytes(document)
        name = hash_bytes(content)
        (self.folder / f"{name}.json").write_bytes(content)
        fields = self.entry.fields | {"explanationHash": bytes.fromhex(name[2:])}
        return {finding.field for finding in self.audit(entry=replace(self.entry, fields=fields))}


@pytest.fixture(scope="module")
def veteran(deployed: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent that has bought and sold; nothing in this module changes the chain."""
    with borrowed(deployed) as world:
        agent = put_in_office(world, tmp_path_factory.mktemp("veteran"))
        agent.bars(*[2000] * SPEC.lookback, 2010, 2030)
        agent.run()
        agent.bars(2000, 1960, 1950)
        agent.run()
        yield agent
        agent.journal.close()


@pytest.fixture(params=TRADES)
def case(request: pytest.FixtureRequest, veteran: Agent, tmp_path: Path) -> Case:
    folder = tmp_path / "explanations"
    shutil.copytree(veteran.folder / "explanations", folder)
    return Case(agent=veteran, entry=veteran.entries()[TRADES.index(request.param)], folder=folder)


def as_bytes(document: dict[str, Any]) -> bytes:
    """As an honest agent writes it, and a liar may write what no honest one could."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bytes):
        return bytes([value[0] ^ 1]) + value[1:]
    if isinstance(value, int):
        return value + 1
    if isinstance(value, list):
        return [*value[:-1], value[-1] | {"answer": value[-1]["answer"] + 1}]
    if value.startswith("0x"):
        return value[:-1] + ("0" if value[-1] != "0" else "1")
    return str(int(value) + 1) if value.lstrip("-").isdigit() else value + "!"


def changed(document: dict[str, Any], path: str, change: Callable[[Any], Any] = other) -> dict[str, Any]:
    """A copy of the document with one value changed."""
    result = copy.deepcopy(document)
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    place: Any = result
    for part in parents:
        place = place[part]
    assert place[last] != change(place[last])
    place[last] = change(place[last])
    return result


def test_the_fields_are_those_of_the_ledger(case: Case) -> None:
    assert set(FIELDS) == set(case.entry.fields)
    assert set(IN_EXPLANATION) == set(case.document()["entry"])
    assert case.audit() == []
    assert case.forged(case.document()) == case.committed(case.document()) == set()


# What somebody claims


@pytest.mark.parametrize("field", FIELDS)
def test_a_changed_claim_is_found_out_by_name(case: Case, field: str) -> None:
    true = case.entry.fields
    [finding] = case.audit(true | {field: other(true[field])})
    assert finding.field == field


@pytest.mark.parametrize("field", FIELDS)
def test_a_claim_that_leaves_a_field_out_is_found_out_by_name(case: Case, field: str) -> None:
    [finding] = case.audit({name: value for name, value in case.entry.fields.items() if name != field})
    assert (finding.field, finding.found) == (field, None)


def test_every_changed_field_is_found_at_once(case: Case) -> None:
    claimed = {field: other(value) for field, value in case.entry.fields.items()}
    assert [finding.field for finding in case.audit(claimed)] == list(FIELDS)


# The explanation


@pytest.mark.parametrize(("field", "path"), [(f, path) for f, paths in IN_EXPLANATION.items() for path in paths])
def test_a_field_changed_in_the_explanation_is_found_out_by_name(case: Case, field: str, path: str) -> None:
    document = changed(case.document(), path)
    assert case.committed(document) == {field}
    assert case.forged(document) == {"explanation", field}


@pytest.mark.parametrize(("path", "part"), OTHER_PARTS.items())
def test_anything_else_changed_in_the_explanation_is_found_out(case: Case, path: str, part: str) -> None:
    document = changed(case.document(), path)
    assert case.committed(document) == {part}
    assert case.forged(document) == {"explanation", part}


def test_a_lie_about_the_side_of_the_trade_is_found_out(case: Case) -> None:
    document = changed(case.document(), "intent.is_buy", lambda is_buy: not is_buy)
    assert case.committed(document) == {"intent"}


@pytest.mark.parametrize("part", ["entry", "decision", "intent", "observation", "artefact", "review", "text", "format"])
def test_an_explanation_that_leaves_a_part_out_is_found_out(case: Case, part: str) -> None:
    document = case.document()
    del document[part]
    assert case.committed(document) == {part}


def test_an_explanation_that_says_more_than_follows_is_found_out(case: Case) -> None:
    assert case.committed(case.document() | {"promise": "It will rise."}) == {"promise"}
    assert case.committed(case.document() | {"review": [{"clause": "dust", "detail": "none"}]}) == {"review"}


# The interval of the next return


@pytest.fixture(scope="module")
def foresighted(deployed: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent that looks at enough history for an interval, and has bought."""
    spec = ObservationSpec(bar_s=60, lookback=MIN_ANSWERS + 1, vol_window=120, features=SPEC.features)
    with borrowed(deployed) as world:
        agent = put_in_office(world, tmp_path_factory.mktemp("foresighted"), moving_average(observation=spec))
        agent.bars(*[2000, 2004, 1998] * 5, 2010, 2030)
        agent.run()
        yield agent
        agent.journal.close()


@pytest.fixture
def promise(foresighted: Agent, tmp_path: Path) -> Case:
    """A trade whose explanation has an interval."""
    folder = tmp_path / "promises"
    shutil.copytree(foresighted.folder / "explanations", folder)
    [entry] = foresighted.entries()
    return Case(agent=foresighted, entry=entry, folder=folder)


@pytest.mark.parametrize("part", ["low_q24", "high_q24", "horizon_s", "coverage_bps", "method"])
def test_an_interval_that_does_not_follow_from_the_rounds_is_found_out(promise: Case, part: str) -> None:
    assert promise.audit() == []
    document = changed(promise.document(), f"interval.{part}")
    assert promise.committed(document) == {"interval"}
    assert promise.forged(document) == {"explanation", "interval"}


@pytest.mark.parametrize("interval", [None, {}, "wide", {"low_q24": "-1", "high_q24": "1"}])
def test_an_interval_that_was_left_out_is_found_out(promise: Case, interval: Any) -> None:
    assert promise.committed(promise.document() | {"interval": interval}) == {"interval"}
    document = promise.document()
    del document["interval"]
    assert promise.committed(document) == {"interval"}


def test_an_interval_where_there_was_too_little_history_for_one_is_found_out(case: Case, promise: Case) -> None:
    assert case.document()["interval"] == {}
    assert case.committed(case.document() | {"interval": promise.document()["interval"]}) == {"interval"}


def test_an_older_explanation_has_no_interval_and_holds_as_before(case: Case, promise: Case) -> None:
    for made in (case, promise):
        older = made.document() | {"format": FORMAT_WITHOUT_INTERVAL}
        assert made.committed(older) == {"interval"}, "no older agent wrote one"
        del older["interval"]
        assert made.committed(older) == set()
        assert made.committed(changed(older, "decision.reason")) == {"decision"}


@pytest.mark.parametrize(
    "number", ["-1", "0", "1", "99999999", "soon", None, "the trade's own"], ids=lambda number: f"block {number}"
)
def test_a_decision_at_a_block_where_it_can_not_have_been_made_is_found_out(case: Case, number: str | None) -> None:
    block = str(case.entry.block) if number == "the trade's own" else number
    document = changed(case.document(), "vault.block.number", lambda _: block)
    assert case.committed(document) == {"block"}
    assert case.forged(document) == {"explanation", "block"}


def test_an_explanation_without_a_vault_is_no_explanation(case: Case) -> None:
    for vault in (None, [], "none", {}, {"block": "5"}):
        assert case.committed(case.document() | {"vault": vault}) == {"block"}


@pytest.mark.parametrize("content", [b"", b"{", b"[1,2]", b"\xff"])
def test_bytes_that_are_no_document_are_found_out(case: Case, content: bytes) -> None:
    (case.folder / f"{case.name}.json").write_bytes(content)
    assert [finding.field for finding in case.audit()] == ["explanation"]


def test_the_explanation_of_another_trade_does_not_do(case: Case) -> None:
    [first, second] = case.agent.entries()
    wrong = second if case.entry == first else first
    document = json.loads((case.folder / f"0x{wrong.fields['explanationHash'].hex()}.json").read_bytes())
    assert case.forged(document) >= {"explanation", "sequence", "tokenIn", "tokenOut", "amountIn", "observationHash"}


# The artefact


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "another"},
        {"action": ActionSpec(max_weight_bps=4000, deadband_bps=501)},
        {"provenance": {"seed": 1}},
        {"report": {"bars": 1}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_changed_artefact_is_found_out_by_name(case: Case, changes: dict[str, Any]) -> None:
    spoilt = moving_average(**changes)
    [finding] = case.audit(artefacts={case.agent.artefact.artefact_hash: spoilt})
    assert finding.field == "artefactHash"
    assert (finding.expected, finding.found) == (case.agent.artefact.artefact_hash, spoilt.artefact_hash)


def test_a_lie_is_found_out_without_the_artefact_too(case: Case) -> None:
    """As far as the chain alone can tell."""
    true = case.document()
    for field in ("agentId", "sequence", "tokenIn", "amountIn", "observationHash"):
        (case.folder / f"{case.name}.json").write_bytes(as_bytes(changed(true, f"entry.{field}")))
        assert {f.field for f in case.audit(artefacts={})} == {"artefactHash", "explanation", field}
