"""Trades of a ledger become steps to learn from; what is not proven to belong together is left out, and counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest

from agents.cycle import explain
from agents.explanation import DocumentStore
from agents.intent import plan_intent, weight_bps
from agents.ledger import LedgerEntry
from agents.logged_trades import (
    FORGED,
    NOT_HELD,
    PAST_DRAWDOWN,
    UNEXPLAINED,
    UNKNOWN_ARTEFACT,
    LoggedTrades,
    log_trades,
)
from offchain_rl.artefact import ActionSpec, Artefact
from offchain_rl.logged_steps import BadSteps, load_steps
from offchain_rl.observation import ObservationSpec, VaultState, build_observation
from offchain_rl.policy import policy_from_artefact
from offchain_rl.reward import RewardConfig
from oracle.chain import BlockRef
from oracle.vault_state import Reason, VaultReading
from oracle.vault_state import VaultState as State
from tests.unit.oracle.readings import ETH, NOW_S, QUOTE, USD, WAD, position, reading

SPEC = ObservationSpec(bar_s=600, lookback=5, vol_window=4, features=("return_z:1", "weight", "drawdown"))
ARTEFACT = Artefact(
    name="crossing", kind="moving_average", observation=SPEC, action=ActionSpec(max_weight_bps=4000, deadband_bps=500),
    parameters={"feature": "return_z:1", "weight_above_bps": 4000, "weight_below_bps": 0},
)  # fmt: skip
OTHER = replace(ARTEFACT, observation=replace(SPEC, lookback=6))
GROWTH_ONLY = RewardConfig(drawdown_weight=0.0, ruin_price=0.0)
VAULT = reading().address


class Ledger:
    """Trades of vaults as cycle and ledger would write them."""

    def __init__(self, folder: Path) -> None:
        self.documents = DocumentStore(folder)
        self.folder = folder
        self.entries: list[LedgerEntry] = []

    def trade(
        self, *, held: int = 0, nav: int, shortfall: int = 0, artefact: Artefact = ARTEFACT, skip: int = 0, **over: Any
    ) -> LedgerEntry:
        """One more trade: a purchase without anything `held` (units of 1e18), else a sale. `nav` in dollars."""
        sequence = len(self.entries) + skip
        at = BlockRef(number=100 + sequence, hash="0x" + "cd" * 32, timestamp_s=NOW_S + 600 * 7 * sequence)
        vault = reading(
            position(ETH, held * WAD), quote_held=1_000_000 * USD - held * 2000 * USD,
            **{"block": at, "nonce": sequence, "artefact_hash": artefact.artefact_hash} | over,
        )  # fmt: skip
        fields = self._explained(artefact, vault, rises=not held) | {
            "netAssetValue": nav * USD, "shortfall": shortfall * USD, "amountOut": 1,
        }  # fmt: skip
        entry = LedgerEntry(
            id=f"0x{sequence}", vault=vault.address, block=at.number + 1, transaction_hash="0x", fields=fields
        )
        self.entries.append(entry)
        return entry

    def _explained(self, artefact: Artefact, vault: VaultReading, *, rises: bool) -> dict[str, Any]:
        last = 2010 if rises else 1990
        answers = [2000 * 10**8] * (artefact.observation.lookback - 1) + [last * 10**8]
        state = VaultState(
            value=vault.value, weight_bps=weight_bps(vault, ETH), unit_price_wad=vault.unit_price_wad,
            peak_wad=max(vault.peak_wad, vault.unit_price_wad),
        )  # fmt: skip
        observation = build_observation(artefact.observation, answers, state)
        decision = policy_from_artefact(artefact).decide(observation)
        intent = plan_intent(vault, ETH, decision)
        assert intent is not None
        document = explain(1, artefact, vault, observation, decision, intent, ())
        name, said = self.documents.put(document), document["entry"]
        return {
            "agentId": vault.agent_id, "sequence": vault.nonce, "reasons": vault.reasons,
            "strategyId": as_bytes(vault.strategy_id), "artefactHash": as_bytes(artefact.artefact_hash),
            "explanationHash": as_bytes(name), "observationHash": as_bytes(said["observationHash"]),
            "tokenIn": said["tokenIn"], "tokenOut": said["tokenOut"], "amountIn": intent.amount_in,
        }  # fmt: skip

    def rewrite(self, number: int, change: Callable[[dict[str, Any]], Any]) -> None:
        """Another document for a trade, and the ledger names it."""
        entry = self.entries[number]
        document = self.documents.get("0x" + entry.fields["explanationHash"].hex())
        change(document)
        fields = entry.fields | {"explanationHash": as_bytes(self.documents.put(document))}
        self.entries[number] = replace(entry, fields=fields)

    def log(self, **options: Any) -> LoggedTrades:
        artefacts = {a.artefact_hash: a for a in (ARTEFACT, OTHER)}
        return log_trades(self.entries, self.documents, **{"artefacts": artefacts, "reward": GROWTH_ONLY} | options)


def as_bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Bought at a loss of 500, sold at one of 300, bought again."""
    made = Ledger(tmp_path / "explanations")
    made.trade(nav=999_500, shortfall=500)
    made.trade(held=200, nav=1_019_700, shortfall=300)
    made.trade(nav=1_019_000, shortfall=-200)
    return made


# Refusals


def test_trades_out_of_order_or_given_twice_are_refused(ledger: Ledger) -> None:
    first, second, _ = ledger.entries
    ledger.entries = [second, first]
    with pytest.raises(BadSteps, match=f"vault {VAULT}: trade 0 comes after trade 1"):
        ledger.log()
    ledger.entries = [first, first]
    with pytest.raises(BadSteps, match="trade 0 comes after trade 0"):
        ledger.log()


def test_decisions_of_artefacts_that_observe_differently_are_not_mixed(ledger: Ledger) -> None:
    ledger.trade(held=200, nav=1_000_000, artefact=OTHER)
    both = f"{ARTEFACT.artefact_hash} and {OTHER.artefact_hash}"
    with pytest.raises(BadSteps, match=f"{both} observe or act differently"):
        ledger.log()


def test_nothing_to_learn_from_is_refused_with_the_reasons(ledger: Ledger) -> None:
    with pytest.raises(BadSteps, match=r"not one of 3 trades can be learnt from \(3 unknown artefact\)"):
        ledger.log(artefacts={})
    ledger.entries = []
    with pytest.raises(BadSteps, match=r"not one of 0 trades can be learnt from \(there are none\)"):
        ledger.log()


# What is left out


def test_a_missing_explanation_leaves_its_trade_out_and_breaks_the_chain(ledger: Ledger) -> None:
    name = "0x" + ledger.entries[1].fields["explanationHash"].hex()
    (ledger.folder / f"{name}.json").unlink()
    found = ledger.log()
    assert found.left_out == {UNEXPLAINED: 1}
    assert found.steps.is_timeout.tolist() == [True, True], "never joined over what is not known"


def test_a_forged_file_is_left_out(ledger: Ledger) -> None:
    name = "0x" + ledger.entries[1].fields["explanationHash"].hex()
    path = ledger.folder / f"{name}.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"text": "because"}))
    assert ledger.log().left_out == {FORGED: 1}
    path.write_text("not a document")
    assert ledger.log().left_out == {FORGED: 1}


def set_decision(document: dict[str, Any]) -> None:
    document["decision"]["wanted_weight_bps"] = "3999"


@pytest.mark.parametrize(
    "change",
    [
        set_decision,
        lambda d: d["observation"]["features"].update({"return_z:1": "900"}),
        lambda d: d["observation"]["features"].update({"moon_phase": "1"}),
        lambda d: d["observation"]["features"].pop("weight"),
        lambda d: d["observation"]["features"].update({"weight": "1e99"}),
        lambda d: d["observation"].update({"hash": "0x" + "11" * 32}),
        lambda d: d["observation"].update({"asset": "0x" + "9" * 40}),
        lambda d: d["artefact"].update({"hash": "0x" + "11" * 32}),
        lambda d: d["entry"].update({"amountIn": "1"}),
        lambda d: d["entry"].pop("sequence"),
        lambda d: d["vault"].update({"address": "0x" + "9" * 40}),
        lambda d: d["vault"].update({"unit_price_wad": "0"}),
        lambda d: d["vault"].update({"positions": []}),
        lambda d: d["vault"]["block"].pop("timestamp_s"),
        lambda d: d.update({"vault": "none"}),
        lambda d: d.update({"format": "marketflow/explanation/9"}),
        lambda d: d.pop("decision"),
    ],
)  # fmt: skip
def test_a_document_that_is_not_of_this_trade_or_not_what_the_artefact_decides_is_forged(
    ledger: Ledger, change: Callable[[dict[str, Any]], Any]
) -> None:
    ledger.rewrite(1, change)
    found = ledger.log()
    assert found.left_out == {FORGED: 1}
    assert len(found.steps) == 2


def test_another_artefact_under_the_name_is_not_believed(ledger: Ledger) -> None:
    with pytest.raises(BadSteps, match=f"3 {UNKNOWN_ARTEFACT}"):
        ledger.log(artefacts={ARTEFACT.artefact_hash: OTHER})


def test_what_an_audit_finds_is_left_out(ledger: Ledger) -> None:
    wrong = ledger.entries[0]
    found = ledger.log(audit=lambda entry: ["amountOut"] if entry is wrong else [])
    assert (found.left_out, found.is_audited, len(found.steps)) == ({NOT_HELD: 1}, True, 2)


def test_a_gap_in_the_sequence_is_not_joined_over(ledger: Ledger) -> None:
    del ledger.entries[1]
    found = ledger.log()
    assert found.steps.is_timeout.tolist() == [True, True]


# What is learnt from


def test_a_trade_is_charged_with_its_own_cost_and_what_came_after(ledger: Ledger) -> None:
    found = ledger.log()
    steps = found.steps
    assert (found.trades, found.left_out, steps.vaults) == (3, {}, (f"{VAULT} {ETH}",))
    assert steps.rewards.tolist() == pytest.approx([log(1_020_000 / 1_000_000), log(1_018_800 / 1_020_000), 0.0])
    assert steps.weights_bps.tolist() == [4000, 0, 4000]
    assert steps.times_s.tolist() == [NOW_S, NOW_S + 4200, NOW_S + 8400]
    transitions = steps.transitions()
    assert transitions.intervals.tolist() == [7.0, 7.0], "a trade lasts until the next one, seven bars later"
    assert "executed trades only" in str(found)


def test_the_vector_is_what_was_observed(ledger: Ledger) -> None:
    name = "0x" + ledger.entries[1].fields["explanationHash"].hex()
    features = ledger.documents.get(name)["observation"]["features"]
    assert ledger.log().steps.observations[1].tolist() == [int(features[feature]) for feature in SPEC.features]


def test_capital_that_came_in_between_is_no_gain(tmp_path: Path) -> None:
    """Twice the value at the same unit price: twice the units."""
    ledger = Ledger(tmp_path)
    ledger.trade(nav=1_000_000)
    ledger.trade(held=200, nav=2_000_000, value=2_000_000 * USD)
    assert ledger.log().steps.rewards[0] == pytest.approx(0.0, abs=1e-9)


def test_a_new_drawdown_costs(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.trade(nav=1_000_000)
    ledger.trade(held=200, nav=900_000, value=900_000 * USD, unit_price_wad=9 * WAD // 10)
    reward = ledger.log(reward=RewardConfig(drawdown_weight=0.5)).steps.rewards[0]
    assert reward == pytest.approx(log(0.9) - 0.5 * 0.1)


def test_a_vault_that_is_stopped_ends_in_a_terminal_step_that_pays_for_ruin(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.trade(nav=1_000_000)
    stopped = {"state": State.REDUCING, "reasons": int(Reason.DRAWDOWN), "recorded_reasons": int(Reason.DRAWDOWN)}
    ledger.trade(held=200, nav=1_000_000, **stopped)
    found = ledger.log(reward=RewardConfig(drawdown_weight=0.0, ruin_price=0.25))
    assert found.left_out == {PAST_DRAWDOWN: 1}
    assert found.steps.is_terminal.tolist() == [True]
    assert found.steps.rewards.tolist() == pytest.approx([-0.25])


def test_several_vaults_are_kept_apart(ledger: Ledger) -> None:
    other = "0x" + "7" * 40
    ledger.trade(nav=1_000_000, address=other)
    found = ledger.log()
    assert found.steps.vaults == (f"{VAULT} {ETH}", f"{other} {ETH}")
    assert found.steps.vault_of.tolist() == [0, 0, 0, 1]
    assert found.steps.is_timeout.tolist() == [False, False, True, True]


def test_what_is_saved_is_what_training_loads(ledger: Ledger, tmp_path: Path) -> None:
    found = ledger.log()
    data_hash = found.save(tmp_path / "trades", "all")
    loaded = load_steps(tmp_path / "trades")
    assert loaded.data_hash() == found.steps.data_hash() == data_hash
    assert QUOTE not in loaded.vaults[0]
