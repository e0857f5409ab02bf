"""A fleet at work on a real chain: what is due is decided, once, journalled and sent; who can't go on is parked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.assembly import Assembly
from agents.audit import Auditor
from agents.errors import Halted, Misconfigured
from agents.explanation import ExplanationMissing, explanation_hash
from agents.fleet import CLOSE_ALL, CLOSE_VAULTS, PAUSED, Tick
from agents.ledger import fetch_entries
from agents.rpc import RpcError
from offchain_rl.artefact import Artefact
from oracle.chain import BlockRef
from tests.contracts.world import World, usd
from tests.e2e.conftest import BAR_S, Agent, Hire, constant, moving_average, new_rounds
from tests.e2e.daemons import settings_for, start, write_files


class Desk:
    """An assembly on a test's world, and the world's clock."""

    def __init__(self, world: World, folder: Path, agents: list[Agent], *, on_paper: bool = False) -> None:
        self.world, self.folder, self.agents = world, folder, agents
        self.opened: list[Assembly] = []
        named = [
            (f"agent {i}", a.strategy.vault, a.artefact, None if on_paper else a.key) for i, a in enumerate(agents)
        ]
        self.settings = write_files(world, folder, named)

    def start(self, **over: Any) -> Assembly:
        assembly = start(settings_for(self.folder, self.world.evm.url or "", self.world.d.chain_id, **over))
        self.opened.append(assembly)
        assembly.fleet.reconcile(self.head())
        return assembly

    def head(self) -> BlockRef:
        return self.agents[0].block()

    def bar(self, price_usd: int = 2000) -> None:
        self.agents[0].bar(price_usd)

    def close(self) -> None:
        for assembly in self.opened:
            assembly.close()


@pytest.fixture
def desk(world: World, hire: Hire, tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    opened: list[Desk] = []

    def build(*artefacts: Artefact, on_paper: bool = False) -> Desk:
        agents = []
        for i, artefact in enumerate(artefacts or (constant(2000),)):
            if i == 0:
                agents.append(hire(artefact))
            else:
                agents.append(hire(artefact, agent_id=world.register_agent(world.other_controller, world.signer)))
        agents[0].bars(*[2000] * 5)
        opened.append(Desk(world, tmp_path / f"desk {len(opened)}", agents, on_paper=on_paper))
        return opened[-1]

    yield build
    for one in opened:
        one.close()


def run(assembly: Assembly, desk: Desk) -> Tick:
    """A tick at the latest block; returns when what it sent is mined."""
    tick = assembly.fleet.tick(desk.head())
    for placed in (p for p in tick.placed if p.transaction_hash):
        desk.world.w3.eth.wait_for_transaction_receipt(placed.transaction_hash, poll_latency=0.005)
    return tick


def test_a_vault_with_another_artefact_is_parked_and_the_others_trade(desk: Callable[..., Desk]) -> None:
    one = desk(constant(2000), constant(3000))
    text = (one.folder / "agents.toml").read_text().replace("constant-2000.json", "constant-3000.json", 1)
    (one.folder / "agents.toml").write_text(text)
    assembly = one.start()
    tick = run(assembly, one)
    wrong, right = (a.strategy.vault.address for a in one.agents)
    assert "the DAO approved" in tick.parked[wrong]
    assert right not in tick.parked
    assert [len(a.entries()) for a in one.agents] == [0, 1]


def test_a_journal_of_another_chain_is_refused(desk: Callable[..., Desk]) -> None:
    one = desk()
    assembly = one.start()
    assembly.journal.set_fact("genesis", "0x" + "ab" * 32)
    with pytest.raises(Misconfigured, match=r"the journal is about the genesis 0xabab.* MARKETFLOW_JOURNAL"):
        assembly.fleet.reconcile(one.head())


def test_a_second_daemon_on_one_journal_is_refused(desk: Callable[..., Desk]) -> None:
    one = desk()
    one.start()
    with pytest.raises(Misconfigured, match="another daemon runs on the journal"):
        one.start()


def test_what_is_due_is_traded_once_and_the_journal_follows_it_to_its_end(desk: Callable[..., Desk]) -> None:
    one = desk()
    assembly = one.start()
    tick = run(assembly, one)
    [placed] = tick.placed
    assert placed.is_sent
    assert run(assembly, one).placed == [], "the bar has been decided about"
    [row] = assembly.journal.rows()
    assert (row["state"], row["outcome"]) == ("mined", "traded")
    [entry] = one.agents[0].entries()
    assert (row["trade_id"], row["transaction_hash"]) == (entry.id, entry.transaction_hash)
    one.world.evm.mine(3)
    assert run(assembly, one).followed.finalised == 1
    assert [row["state"] for row in assembly.journal.rows()] == ["final"]


def test_the_explanation_in_the_journal_is_the_one_the_ledger_names_and_holds_in_an_audit(
    desk: Callable[..., Desk],
) -> None:
    one = desk()
    assembly = one.start()
    run(assembly, one)
    [entry] = one.agents[0].entries()
    name = "0x" + bytes(entry.fields["explanationHash"]).hex()
    content = assembly.journal.document(name)
    assert content is not None
    assert explanation_hash(json.loads(content)) == name

    class Stored:
        def get(self, wanted: str) -> Any:
            found = assembly.journal.document(wanted)
            if found is None:
                raise ExplanationMissing(wanted)
            return json.loads(found)

    agent = one.agents[0]
    auditor = Auditor(
        chain_id=one.world.d.chain_id, artefacts={agent.artefact.artefact_hash: agent.artefact}, vaults=agent.reader,
        rounds=new_rounds(one.world), documents=Stored(), decimals=agent.decimals, fetch_block=agent.block,
    )  # type: ignore[arg-type]  # fmt: skip
    assert auditor.audit(entry) == []


def test_a_restart_decides_nothing_again_in_the_same_bar(desk: Callable[..., Desk]) -> None:
    one = desk(moving_average())
    one.bar(2050)
    first = one.start()
    run(first, one)
    first.close()
    second = one.start()
    assert run(second, one).decisions == {}
    assert len(one.agents[0].entries()) == 1


def test_a_lost_journal_is_made_good_from_the_ledger_and_nothing_is_traded_twice(desk: Callable[..., Desk]) -> None:
    one = desk(constant(2000, deadband_bps=100))
    first = one.start()
    run(first, one)
    first.close()
    for path in one.folder.glob("journal.sqlite*"):
        path.unlink()
    second = one.start()
    [row] = second.journal.rows()
    assert (row["outcome"], row["detail"]) == ("traded", "adopted from the ledger")
    assert run(second, one).placed == [], "the vault holds what is wanted"
    assert len(one.agents[0].entries()) == 1


def test_a_trade_by_hand_is_adopted_before_anything_else_is_decided(desk: Callable[..., Desk]) -> None:
    one = desk()
    assembly = one.start()
    run(assembly, one)
    one.world.buy(one.agents[0].strategy, usd(1000))
    one.bar(2010)
    tick = run(assembly, one)
    [vault] = tick.parked
    assert "the vault has made 2 trades, the journal has 1" in tick.parked[vault]
    one.bar(2010)
    assert vault not in run(assembly, one).parked
    assert [row["sequence"] for row in assembly.journal.rows(outcome="traded")][:2] == [0, 1]


def test_a_vault_whose_trades_the_ledger_can_not_tell_halts(desk: Callable[..., Desk]) -> None:
    one = desk()
    assembly = one.start()
    vault = one.agents[0].strategy.vault.address
    with pytest.raises(Halted, match=r"has made 3 trades, the journal has 0.*agent repair"):
        assembly.reconciler.run(one.head(), {vault: 3})


def test_a_trade_that_was_taken_for_replaced_is_put_right_at_the_next_start(desk: Callable[..., Desk]) -> None:
    """As when a node had no receipts for so long that it became final."""
    one = desk(constant(2000, deadband_bps=100))
    first = one.start()
    run(first, one)
    one.world.evm.mine(4)
    run(first, one)
    first.journal._execute("UPDATE decisions SET outcome = 'replaced', trade_id = NULL")
    first.close()
    second = one.start()
    [row], [entry] = second.journal.rows(), one.agents[0].entries()
    assert (row["outcome"], row["trade_id"], row["detail"]) == ("traded", entry.id, "put right by the ledger")
    assert run(second, one).placed == []


def test_an_agent_that_is_moved_here_brings_its_trades_along(desk: Callable[..., Desk]) -> None:
    one = desk(constant(2000, deadband_bps=100), constant(3000, deadband_bps=100))
    both = (one.folder / "agents.toml").read_text()
    head, first, second = both.split("[[agent]]")
    (one.folder / "agents.toml").write_text(f"{head}[[agent]]{second}")
    elsewhere = one.start(journal=one.folder / "elsewhere.sqlite")
    run(elsewhere, one)
    elsewhere.close()
    (one.folder / "agents.toml").write_text(f"{head}[[agent]]{first}")
    here = one.start()
    run(here, one)
    one.world.evm.mine(5)
    run(here, one)
    here.close()
    (one.folder / "agents.toml").write_text(both)
    moved = one.start()
    assert sorted(row["vault"] for row in moved.journal.rows(outcome="traded")) == sorted(
        agent.strategy.vault.address for agent in one.agents
    )
    assert run(moved, one).placed == []


def test_a_node_that_answers_for_few_blocks_is_asked_for_few(desk: Callable[..., Desk]) -> None:
    one = desk(constant(2000, deadband_bps=100))
    first = one.start()
    run(first, one)
    first.close()
    for path in one.folder.glob("journal.sqlite*"):
        path.unlink()
    assembly = start(one.settings)
    one.opened.append(assembly)
    ask = assembly.node.ask

    def sparing(calls: Any) -> list[Any]:
        method, parameters = calls[0] if calls else ("", [])
        if method == "eth_getLogs" and int(parameters[0]["toBlock"], 16) - int(parameters[0]["fromBlock"], 16) > 9:
            return [RpcError(code=-32602, message="query exceeds max block range 10")]
        return ask(calls)

    assembly.node.ask = sparing  # type: ignore[method-assign]
    assembly.fleet.reconcile(one.head())
    assert [row["outcome"] for row in assembly.journal.rows()] == ["traded"]


def test_paused_agents_decide_nothing_until_they_are_resumed(desk: Callable[..., Desk]) -> None:
    one = desk()
    assembly = one.start()
    assembly.journal.set_control(PAUSED, "lunch", at_s=0)
    assert list(run(assembly, one).parked.values()) == ["paused: lunch"]
    assembly.journal.set_control(PAUSED, None, at_s=0)
    assert len(run(assembly, one).placed) == 1


def test_close_all_sells_everything_whatever_the_policy_wants(desk: Callable[..., Desk]) -> None:
    one = desk(constant(3000))
    assembly = one.start()
    run(assembly, one)
    assembly.journal.set_control(CLOSE_ALL, True, at_s=0)
    run(assembly, one)
    [position] = one.agents[0].reading().positions
    assert position.amount == 0
    assert [e.fields["tokenOut"] == one.world.book.quote for e in one.agents[0].entries()] == [False, True]


def test_close_all_is_not_held_up_by_the_operators_own_limits(desk: Callable[..., Desk]) -> None:
    one = desk(constant(3000))
    assembly = one.start()
    run(assembly, one)
    assembly.fleet.operator = replace(assembly.fleet.operator, max_trade_bps=100, min_trade_value=usd(10**9))
    assembly.journal.set_control(CLOSE_ALL, True, at_s=0)
    run(assembly, one)
    assert one.agents[0].reading().positions[0].amount == 0


def test_what_can_not_be_closed_is_not_tried_again_at_every_head(desk: Callable[..., Desk]) -> None:
    one = desk(constant(3000))
    assembly = one.start()
    run(assembly, one)
    world, vault = one.world, one.agents[0].strategy.vault
    world.send(world.agents.functions.setSigningKey(one.agents[0].strategy.agent_id, world.stranger.address),
               world.controller)  # fmt: skip
    assembly.journal.set_control(CLOSE_VAULTS, [vault.address], at_s=0)
    for _ in range(5):
        world.evm.mine()
        run(assembly, one)
    assert len(assembly.journal.rows(state="refused")) == 1
    one.bar(2010)
    run(assembly, one)
    assert len(assembly.journal.rows(state="refused")) == 2, "a new price is another matter"


def test_a_pause_that_comes_while_a_cycle_decides_holds_its_orders_back(desk: Callable[..., Desk]) -> None:
    one = desk()
    assembly = one.start()
    record = assembly.journal.record

    def pausing(decisions: Any) -> Any:
        assembly.journal.set_control(PAUSED, "just now", at_s=0)
        return record(decisions)

    assembly.journal.record = pausing  # type: ignore[method-assign]
    assert run(assembly, one).placed == []
    [row] = assembly.journal.rows()
    assert (row["state"], json.loads(row["broken"])) == ("refused", [["paused", "just now"]])


def test_what_passes_costs_no_bar(desk: Callable[..., Desk]) -> None:
    one = desk()
    assembly = one.start()
    key = one.agents[0].key
    one.world.evm.set_balance(key.address, 0)
    [placed] = assembly.fleet.tick(one.head()).placed
    assert "send it some" in placed.waits_because or placed.refused is not None
    one.world.evm.set_balance(key.address, 10**20)
    one.world.evm.travel(60)
    [placed] = run(assembly, one).placed
    assert placed.is_sent


def test_agents_of_one_key_trade_in_one_batch_with_nonces_in_a_row(desk: Callable[..., Desk]) -> None:
    one = desk(constant(1000), constant(2000), constant(3000))
    assembly = one.start()
    tick = run(assembly, one)
    assert [placed.is_sent for placed in tick.placed] == [True] * 3
    run(assembly, one)
    rows = assembly.journal.rows(outcome="traded")
    nonces = sorted(row["account_nonce"] for row in rows)
    assert nonces == list(range(nonces[0], nonces[0] + 3))
    assert [len(agent.entries()) for agent in one.agents] == [1, 1, 1]


def test_on_paper_nothing_is_signed_and_everything_is_written_down(desk: Callable[..., Desk]) -> None:
    one = desk(on_paper=True)
    assembly = one.start()
    run(assembly, one)
    [row] = assembly.journal.rows()
    assert (row["account"], row["state"], row["outcome"]) == ("paper", "final", "traded")
    assert one.agents[0].entries() == []
    assert assembly.journal.attempts(row["id"]) == []


def test_the_operators_limits_deny_and_are_written_down(desk: Callable[..., Desk]) -> None:
    one = desk()
    assembly = one.start()
    assembly.fleet.operator = replace(assembly.fleet.operator, max_trade_bps=100)
    assert run(assembly, one).placed == []
    [row] = assembly.journal.rows()
    assert row["state"] == "refused"
    assert "operator" in row["broken"] or "trade" in row["broken"]


def test_nothing_is_read_while_no_price_moves_and_no_bar_ends(desk: Callable[..., Desk]) -> None:
    one = desk(constant(2000, deadband_bps=3000))
    assembly = one.start()
    run(assembly, one)
    one.world.evm.mine()
    assert run(assembly, one).readings == {}
    one.world.travel(BAR_S)
    assert len(run(assembly, one).readings) == 1


def test_entries_of_the_ledger_agree_with_the_journal(desk: Callable[..., Desk]) -> None:
    one = desk(moving_average())
    assembly = one.start()
    for price in (2040, 2080, 2000, 1950, 1900, 2000, 2100):
        one.bar(price)
        run(assembly, one)
    run(assembly, one)
    world, vault = one.world, one.agents[0].strategy.vault.address
    entries = fetch_entries(world.evm, world.ledger, vault)
    assert [e.id for e in entries] == [r["trade_id"] for r in assembly.journal.rows(outcome="traded")]
    assert len(entries) >= 2
