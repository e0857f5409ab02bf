"""An auditor who has the chain, the artefact and the explanations: honest trades hold, whatever the world did between
decision and trade; and what does not follow from public data is found out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from agents.cycle import ORDER_LIFETIME_S
from agents.execution import Ended, Order, Outcome
from agents.explanation import plain
from agents.ledger import LedgerBroken, LedgerEntry, verify_chain
from agents.localnet.market import MULTICALL3
from oracle.chain import BlockRef
from oracle.errors import NothingThere, ReadingFailed
from oracle.vault_state import VaultReading
from tests.contracts.vaults import faulty_feed, stop
from tests.contracts.world import World, usd
from tests.e2e.conftest import BAR_S, SPEC, Agent, Hire, constant, moving_average, new_rounds

RISING, FALLING = (2010, 2030), (2000, 1960, 1950)


@pytest.fixture
def traded(agent: Agent) -> Agent:
    """Bought, and sold everything again."""
    agent.bars(*RISING)
    agent.run()
    agent.bars(*FALLING)
    agent.run()
    assert len(agent.entries()) == 2
    return agent


def fields_of(findings: list[Any]) -> set[str]:
    return {finding.field for finding in findings}


# Honest trades


def test_every_trade_of_an_honest_agent_holds(hire: Hire) -> None:
    """Days of buying and selling in two assets, at prices that move and pools that follow."""
    agent = hire(assets=("ETH", "BTC"))
    agent.bars(*[2000] * SPEC.lookback)
    for day in range(3):
        for eth, btc in ((2030, 60_900), (2060, 61_500), (2050, 61_000), (2020, 60_200), (1990, 59_700)):
            agent.bar(eth + 7 * day)
            agent.world.set_price("BTC", btc)
            agent.run()
        agent.world.travel(3600)
    entries = agent.entries()
    assert len(entries) >= 6
    assert {entry.fields["tokenIn"] == agent.world.book.quote for entry in entries} == {True, False}
    assert [agent.audit(entry) for entry in entries] == [[]] * len(entries)


def test_an_audit_needs_no_multicall(traded: Agent) -> None:
    traded.world.evm.set_code(MULTICALL3, b"")
    assert [traded.audit(entry) for entry in traded.entries()] == [[], []]


def test_what_an_export_tells_truly_holds(traded: Agent) -> None:
    """With numbers as JSON numbers or as text, and with more about the trade than the ledger says."""
    for entry in traded.entries():
        assert traded.audit(entry, entry.fields) == []
        assert traded.audit(entry, json.loads(json.dumps(plain(entry.fields))) | {"id": entry.id, "block": 5}) == []


def test_the_ledger_of_a_vault_is_whole(traded: Agent) -> None:
    world, vault, entries = traded.world, traded.strategy.vault.address, traded.entries()
    ledger = world.ledger.functions
    genesis, head = (bytes(world.view(function(vault))) for function in (ledger.genesisOf, ledger.headOf))
    verify_chain(entries, genesis=genesis, head=head)
    for wrong in (entries[:1], entries[1:], entries[::-1], [*entries, entries[1]]):
        with pytest.raises(LedgerBroken):
            verify_chain(wrong, genesis=genesis, head=head)


class Between:
    """Something happens after the decision and before its order is sent."""

    def __init__(self, agent: Agent, happen: Callable[[], Any], **changed: int) -> None:
        self._inner, self._happen, self._changed = agent.execution(), happen, changed

    def submit(self, order: Order, *, journal_row: int) -> Outcome:
        self._happen()
        return self._inner.submit(replace(order, **self._changed), journal_row=journal_row)


def trade_after(agent: Agent, happen: Callable[[], Any], **changed: int) -> LedgerEntry:
    [step] = agent.run(execution=Between(agent, happen, **changed))
    assert step.outcome is not None
    assert step.outcome.ended is Ended.TRADED
    assert step.outcome.entry is not None
    return step.outcome.entry


def test_a_trade_made_at_newer_rounds_than_it_was_decided_on_holds(agent: Agent) -> None:
    world = agent.world
    agent.bars(*RISING)

    def publish() -> None:
        world.set_price("ETH", 2033)
        world.market.publish(world.book.quote_symbol, Decimal(1))

    entry = trade_after(agent, publish)
    said = agent.documents.get("0x" + entry.fields["explanationHash"].hex())["entry"]["prices"]
    told = plain(entry.fields["prices"])
    assert [int(t["roundId"]) - int(s["roundId"]) for t, s in zip(told, said, strict=True)] == [1, 1]
    assert told[1]["answer"] != said[1]["answer"]
    assert agent.audit(entry) == []


def silence_btc(world: World, is_reverting: bool) -> None:
    if is_reverting:
        world.send(faulty_feed(world, "BTC").functions.setMode(1), world.deployer)
    else:
        world.market.begin_phase("BTC")


@pytest.mark.parametrize("is_reverting", [False, True], ids=["new phase", "reverts"])
def test_a_trade_beside_an_asset_that_is_not_held_and_whose_feed_says_nothing_holds(
    hire: Hire, is_reverting: bool
) -> None:
    """It has no part in the trade, so the ledger does not name it."""
    agent = hire(assets=("ETH", "BTC"))
    agent.bars(*[2000] * SPEC.lookback, *RISING)
    silence_btc(agent.world, is_reverting)
    agent.run()
    [entry] = agent.entries()
    assert agent.world.token_of("BTC") not in [point["token"] for point in entry.fields["prices"]]
    assert agent.audit(entry) == []


@pytest.mark.parametrize("is_reverting", [False, True], ids=["new phase", "reverts"])
def test_a_sale_beside_an_asset_that_is_held_and_whose_feed_says_nothing_holds(
    hire: Hire, is_reverting: bool
) -> None:
    """The ledger keeps zeros for its price: under the number of a phase without rounds, or under none."""
    agent = hire(assets=("ETH", "BTC"))
    world = agent.world
    agent.bars(*[2000] * SPEC.lookback, *RISING)
    agent.run()
    world.buy(agent.strategy, usd(10_000), symbol="BTC")
    silence_btc(world, is_reverting)
    agent.run()
    entry = agent.entries()[-1]
    assert entry.fields["tokenIn"] == world.token_of("ETH")
    assert entry.fields["prices"][2]["roundId"] == (0 if is_reverting else 2 << 64)
    assert entry.fields["prices"][2]["answer"] == 0
    assert agent.audit(entry) == []


def test_a_sale_made_while_reducing_that_was_decided_while_active_holds(traded: Agent) -> None:
    agent, world = traded, traded.world
    agent.bars(*RISING, 2060)
    agent.run()
    agent.bars(*FALLING)
    entry = trade_after(agent, lambda: stop(world, agent.strategy))
    assert entry.fields["reasons"] != 0
    assert agent.audit(entry) == []


def test_a_sale_that_a_stop_demanded_holds(traded: Agent) -> None:
    agent = traded
    agent.bars(*RISING, 2060)
    agent.run()
    stop(agent.world, agent.strategy)
    agent.bar(2070)
    agent.run()
    last = agent.entries()[-1]
    assert last.fields["reasons"] != 0
    assert agent.audit(last) == []


def test_trades_before_an_update_hold_by_the_artefact_of_their_time(traded: Agent) -> None:
    agent, world, s, new = traded, traded.world, traded.strategy, constant(2000)
    changed = {"artefactHash": bytes.fromhex(new.artefact_hash[2:]), "updates": s.id, "capital": 0}
    update = world.submit(s.manifest | changed)
    world.as_timelock(world.strategies.functions.approve(update))
    world.as_timelock(world.strategies.functions.applyUpdate(update))
    agent.bar(2000)
    agent.run(artefact=new)
    both = {a.artefact_hash: a for a in (agent.artefact, new)}
    entries = agent.entries()
    assert len(entries) == 3
    assert [agent.audit(entry, artefacts=both) for entry in entries] == [[], [], []]
    assert fields_of(agent.audit(entries[2])) == {"artefactHash"}, "the new one is not had"


# What is not had


def test_a_trade_whose_explanation_is_missing_is_unexplained(traded: Agent) -> None:
    entry = traded.entries()[0]
    name = "0x" + entry.fields["explanationHash"].hex()
    (traded.folder / "explanations" / f"{name}.json").unlink()
    [finding] = traded.audit(entry)
    assert (finding.field, finding.expected) == ("explanation", name)
    assert str(finding).startswith(f"explanation: expected {name}, found no document {name}")


def test_a_trade_past_the_cycle_is_unexplained(traded: Agent) -> None:
    traded.world.buy(traded.strategy, usd(1000))
    assert fields_of(traded.audit(traded.entries()[-1])) == {"explanation"}


def test_without_the_artefact_a_trade_does_not_hold(traded: Agent) -> None:
    for entry in traded.entries():
        [finding] = traded.audit(entry, artefacts={})
        assert (finding.field, finding.expected, finding.found) == ("artefactHash", traded.artefact.artefact_hash, None)


def test_another_file_under_the_artefacts_name_is_found_out(traded: Agent) -> None:
    other = moving_average(3999)
    for entry in traded.entries():
        [finding] = traded.audit(entry, artefacts={traded.artefact.artefact_hash: other})
        assert (finding.field, finding.found) == ("artefactHash", other.artefact_hash)


def test_an_audit_that_can_not_be_made_says_so_and_finds_nothing(traded: Agent) -> None:
    class DownNode:
        def fetch(self, *_: Any) -> Any:
            raise ReadingFailed("connection refused")

    with pytest.raises(ReadingFailed):
        traded.audit(traded.entries()[0], vaults=DownNode())


# Lies


def test_a_trade_that_the_artefact_did_not_decide_is_found_out(agent: Agent) -> None:
    """The agent declares the approved artefact, and lets another one decide."""
    agent.bars(*RISING)
    liar = moving_average(3500)

    class Declared:
        """The approved artefact's hash on another's decisions."""

        observation, kind, name, action, parameters, layers = (
            getattr(liar, f) for f in ("observation", "kind", "name", "action", "parameters", "layers")
        )
        artefact_hash = agent.artefact.artefact_hash

    [step] = agent.run(artefact=Declared())
    assert step.outcome is not None
    assert step.outcome.entry is not None
    assert fields_of(agent.audit(step.outcome.entry)) >= {"amountIn", "decision", "intent", "text"}


def test_a_decision_older_than_an_orders_life_is_found_out(agent: Agent) -> None:
    """An agent that keeps its decisions, and trades on the one that turned out well."""
    agent.bars(*RISING)
    late = agent.world.now_s() + 10 * ORDER_LIFETIME_S
    entry = trade_after(agent, lambda: agent.bar(2040), deadline_s=late)
    [finding] = agent.audit(entry)
    assert finding.field == "block"
    document = agent.documents.get("0x" + entry.fields["explanationHash"].hex())
    assert str(finding.found) == document["vault"]["block"]["number"]
    assert finding.expected == f"a block at most 600 s before block {entry.block}"


def test_a_decision_on_a_vault_that_was_not_there_yet_is_found_out(world: World, hire: Hire) -> None:
    for _ in range(SPEC.lookback):
        world.travel(BAR_S)
    before = world.w3.eth.block_number
    agent = hire(constant(1000))
    [step] = agent.run()
    [entry] = agent.entries()
    document = agent.documents.get(step.explanation_hash)
    document["vault"]["block"]["number"] = str(before)
    fields = entry.fields | {"explanationHash": bytes.fromhex(agent.documents.put(document)[2:])}
    assert agent.audit(entry) == []
    assert fields_of(agent.audit(replace(entry, fields=fields))) == {"block"}


def test_a_decision_within_an_orders_life_holds(agent: Agent) -> None:
    agent.bars(*RISING)
    wait = agent.world.evm.travel
    entry = trade_after(agent, lambda: wait(ORDER_LIFETIME_S - 5))
    assert agent.audit(entry) == []


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("prices", lambda f: {"prices": [f["prices"][0], f["prices"][1] | {"answer": 2031 * 10**8}]}),
        ("prices", lambda f: {"prices": [f["prices"][0], f["prices"][1] | {"roundId": 2**64 + 9999}]}),
        ("prices", lambda f: {"prices": [f["prices"][0] | {"roundId": 0}, f["prices"][1]]}),
        ("prices", lambda f: {"prices": [*f["prices"], {"token": "0x" + "99" * 20, "roundId": 1, "answer": 1}]}),
        ("shortfall", lambda f: {"shortfall": f["shortfall"] - 1}),
        ("netAssetValue", lambda f: {"netAssetValue": f["netAssetValue"] + 1}),
        ("reasons", lambda f: {"reasons": 64}),
        ("amountOut", lambda f: {"amountOut": f["amountOut"] * 99 // 100}),
        ("amountIn", lambda f: {"amountIn": f["amountIn"] + 1}),
        ("agentId", lambda f: {"agentId": 7}),
        ("sequence", lambda f: {"sequence": 7}),
        ("strategyId", lambda f: {"strategyId": b"\x01" * 32}),
        ("observationHash", lambda f: {"observationHash": b"\x01" * 32}),
        ("tokenOut", lambda f: {"tokenOut": "0x" + "99" * 20}),
    ],
)
def test_a_ledger_that_lied_would_be_found_out(
    traded: Agent, field: str, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """No vault of ours writes such an entry; an auditor would not believe it."""
    entry = traded.entries()[0]
    assert field in fields_of(traded.audit(replace(entry, fields=entry.fields | change(entry.fields))))


@pytest.mark.parametrize(
    "more",
    [
        lambda at_end: {"nonce": at_end.nonce + 1},  # another trade of the vault
        lambda at_end: {"quote_held": at_end.quote_held + usd(5000)},  # capital
        lambda at_end: {"quote_round": replace(at_end.quote_round, round_id=at_end.quote_round.round_id + 1)},
        lambda at_end: {"positions": (replace(at_end.positions[0], amount=at_end.positions[0].amount + 1),)},
    ],
    ids=["trade", "flow of quote", "price", "flow of the asset"],
)
def test_more_that_happened_in_the_trades_block_is_not_held_against_it(
    traded: Agent, more: Callable[[VaultReading], dict[str, Any]]
) -> None:
    """At the end of such a block the vault is worth something else than the trade left it with."""

    class Busy:
        def fetch(self, block: BlockRef) -> VaultReading:
            found = traded.reader.fetch(block)
            if block.number != entry.block:
                return found
            return replace(found, value=found.value + usd(5000), recorded_reasons=64, **more(found))

    for entry in traded.entries():
        assert traded.audit(entry, vaults=Busy()) == []


def test_a_vault_that_was_not_there_a_block_before_is_not_held_against_its_trade(traded: Agent) -> None:
    class New:
        def fetch(self, block: BlockRef) -> VaultReading:
            if block.number == entry.block - 1 and block.number != int(decided):
                raise NothingThere("no code")
            return traded.reader.fetch(block)

    entry = traded.entries()[0]
    decided = traded.documents.get("0x" + entry.fields["explanationHash"].hex())["vault"]["block"]["number"]
    assert traded.audit(entry, vaults=New()) == []


def test_a_history_that_the_node_can_not_tell_is_not_held_against_a_trade(traded: Agent) -> None:
    """Nothing is found; the audit could not be made."""

    class Forgetful:
        def fetch_rounds(self, *arguments: Any) -> Any:
            return new_rounds(traded.world).fetch_rounds(*arguments)

        def fetch_since(self, *_: Any) -> Any:
            raise ReadingFailed("missing trie node")

    with pytest.raises(ReadingFailed, match="missing trie node"):
        traded.audit(traded.entries()[0], rounds=Forgetful())


def test_rounds_that_do_not_exist_are_held_against_a_trade(traded: Agent) -> None:
    class Gone:
        def fetch_rounds(self, *arguments: Any) -> Any:
            return new_rounds(traded.world).fetch_rounds(*arguments)

        def fetch_since(self, *_: Any) -> Any:
            raise NothingThere("feed has no round 5")

    assert fields_of(traded.audit(traded.entries()[0], rounds=Gone())) == {"observation"}
