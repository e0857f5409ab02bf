"""Steps to learn from, out of a real ledger: trades that the cycle made, and explanations that it wrote."""

from __future__ import annotations

from math import log
from pathlib import Path

import pytest

from agents.commands.audit import log_steps
from agents.errors import Misconfigured
from agents.logged_trades import NOT_HELD, UNEXPLAINED, log_trades
from offchain_rl.logged_steps import BadSteps, load_steps
from offchain_rl.reward import RewardConfig
from tests.contracts.world import usd
from tests.e2e.conftest import Agent

RISING, FALLING = (2010, 2030), (2000, 1960, 1950)
GROWTH_ONLY = RewardConfig(drawdown_weight=0.0, ruin_price=0.0)


@pytest.fixture
def traded(agent: Agent) -> Agent:
    """Bought and sold, twice."""
    for prices in (RISING, FALLING, RISING, FALLING):
        agent.bars(*prices)
        agent.run()
    assert len(agent.entries()) == 4
    return agent


def test_steps_of_a_real_ledger_tell_what_was_seen_wanted_and_gained(traded: Agent, tmp_path: Path) -> None:
    entries, artefacts = traded.entries(), {traded.artefact.artefact_hash: traded.artefact}
    found = log_trades(entries, traded.documents, artefacts, reward=GROWTH_ONLY, audit=traded.audit)
    steps = found.steps
    assert (found.trades, found.left_out, found.is_audited) == (4, {}, True)
    assert steps.spec == traded.artefact.observation
    assert steps.weights_bps.tolist() == [4000, 0, 4000, 0]
    assert steps.is_timeout.tolist() == [False, False, False, True]
    before = [entry.fields["netAssetValue"] + entry.fields["shortfall"] for entry in entries]
    gained = [log(after / value) for value, after in zip(before, before[1:], strict=False)]
    assert steps.rewards.tolist() == pytest.approx([*gained, 0.0])
    assert gained[0] < 0, "bought, and it fell"
    decided = [traded.documents.get("0x" + e.fields["explanationHash"].hex())["vault"]["block"] for e in entries]
    assert steps.times_s.tolist() == [int(block["timestamp_s"]) for block in decided]

    found.save(tmp_path / "trades", "eth")
    assert load_steps(tmp_path / "trades").data_hash() == steps.data_hash()


def test_capital_that_came_in_between_is_no_gain(agent: Agent) -> None:
    """The vault is worth half as much again, each unit of it the same."""
    agent.bars(*RISING)
    agent.run()
    world = agent.world
    world.as_timelock(world.treasury.functions.allocate(agent.strategy.id, usd(500_000)))
    agent.bars(*FALLING)
    agent.run()
    entries, artefacts = agent.entries(), {agent.artefact.artefact_hash: agent.artefact}
    assert entries[1].fields["netAssetValue"] > 14 * entries[0].fields["netAssetValue"] // 10
    [reward, _] = log_trades(entries, agent.documents, artefacts, reward=GROWTH_ONLY).steps.rewards.tolist()
    held = 0.4 * 1_000_000 / 1_500_000
    assert reward == pytest.approx(held * (1950 / 2030 - 1), abs=0.001)


def test_a_trade_that_nobody_explains_is_left_out_and_counted(traded: Agent) -> None:
    entries, artefacts = traded.entries(), {traded.artefact.artefact_hash: traded.artefact}
    name = "0x" + entries[1].fields["explanationHash"].hex()
    (traded.folder / "explanations" / f"{name}.json").unlink()
    found = log_trades(entries, traded.documents, artefacts)
    assert (found.left_out, found.is_audited) == ({UNEXPLAINED: 1}, False)
    assert found.steps.weights_bps.tolist() == [4000, 4000, 0]
    assert found.steps.is_timeout.tolist() == [True, False, True]


def test_a_trade_that_does_not_hold_teaches_nothing(traded: Agent) -> None:
    artefacts = {traded.artefact.artefact_hash: traded.artefact}
    with pytest.raises(BadSteps, match=rf"not one of 4 trades can be learnt from \(4 {NOT_HELD}\)"):
        log_trades(traded.entries(), traded.documents, artefacts, audit=lambda entry: traded.audit(entry, artefacts={}))


def test_the_audit_command_writes_the_trades_that_hold(traded: Agent, tmp_path: Path) -> None:
    entries, artefacts = traded.entries(), {traded.artefact.artefact_hash: traded.artefact}
    findings_of = {entry.id: [] for entry in entries} | {entries[0].id: ["amountIn"]}
    logged = log_steps(entries, traded.folder / "explanations", artefacts, findings_of)
    logged.save(tmp_path, "eth")
    assert (logged.left_out, logged.is_audited) == ({NOT_HELD: 1}, True)
    assert len(load_steps(tmp_path)) == 3
    with pytest.raises(Misconfigured, match="--steps: not one of 4 trades"):
        log_steps(entries, traded.folder / "explanations", artefacts, {key: ["amountIn"] for key in findings_of})
