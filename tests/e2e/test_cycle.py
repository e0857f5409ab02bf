"""One cycle, from the chain and back: it decides, it says no and why, it trades, and it is silent without a price."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agents.constitution import OperatorLimits
from agents.cycle import Step
from agents.errors import Misconfigured
from agents.execution import Ended, Order, Outcome
from agents.explanation import DocumentStore
from agents.journal import Journal
from agents.localnet import feeds
from agents.localnet.market import MULTICALL3
from agents.paper_execution import PaperExecution
from oracle.errors import ReadingFailed
from oracle.vault_state import VaultState
from tests.contracts.world import HOUR_S, World, eth, usd
from tests.e2e.conftest import BAR_S, SPEC, Agent, Hire, constant, moving_average, new_rounds, vault_reader

RISING, FALLING = (2010, 2030), (2000, 1960, 1950)


def only(steps: list[Step]) -> Step:
    [step] = steps
    return step


def clauses(row: dict[str, Any]) -> list[str]:
    return [clause for clause, _ in json.loads(row["broken"])]


# What happens


def test_an_agent_buys_into_a_rise_and_sells_into_a_fall(agent: Agent) -> None:
    assert only(agent.run()).decision is not None, "at a standstill it decides to hold nothing"
    assert agent.entries() == []
    agent.bars(*RISING)
    bought = only(agent.run())
    agent.bars(*FALLING)
    sold = only(agent.run())
    for step, is_buy in ((bought, True), (sold, False)):
        assert step.intent is not None
        assert step.outcome is not None
        assert (step.outcome.ended, step.intent.is_buy, step.broken) == (Ended.TRADED, is_buy, ())
    assert agent.world.held(agent.strategy) == 0
    assert agent.entries() == [bought.outcome.entry, sold.outcome.entry]  # type: ignore[union-attr]
    assert [e.fields["sequence"] for e in agent.entries()] == [0, 1]


def test_the_journal_the_ledger_and_the_explanation_name_each_other(agent: Agent) -> None:
    agent.bars(*RISING)
    block = agent.block()
    step = only(agent.run())
    [entry], [row] = agent.entries(), agent.journal.rows()
    document = agent.documents.get(step.explanation_hash)
    assert "0x" + entry.fields["explanationHash"].hex() == row["explanation_hash"] == step.explanation_hash
    assert (row["state"], row["outcome"], row["trade_id"]) == ("mined", "traded", entry.id)
    assert (row["vault"], row["sequence"], row["block"]) == (agent.strategy.vault.address, 0, block.number)
    assert (row["account"], row["decided_at_s"]) == (agent.world.signer.address, block.timestamp_s)
    assert row["transaction_hash"] == entry.transaction_hash
    assert document["vault"]["block"] == {
        "number": str(block.number), "hash": block.hash, "timestamp_s": str(block.timestamp_s)
    }  # fmt: skip
    assert document["entry"]["observationHash"] == "0x" + entry.fields["observationHash"].hex()
    asset = agent.world.token_of("ETH")
    assert document["text"] == (
        f"The policy wants 40.00 % of the vault in {asset}: rebalance. It holds 0.00 %; "
        f"to buy for {usd(400_000)} of quote is what changes that."
    )


def test_a_vault_that_may_only_reduce_is_sold_whatever_the_policy_wants(agent: Agent) -> None:
    agent.bars(*RISING)
    agent.run()
    world, stop = agent.world, agent.world.constitution.functions.stopVault
    world.send(stop(agent.strategy.vault.address, HOUR_S), world.guardian)
    agent.bar(2060)  # the policy would hold
    step = only(agent.run())
    assert step.outcome is not None
    assert step.outcome.ended is Ended.TRADED
    assert world.held(agent.strategy) == 0
    text = agent.documents.get(step.explanation_hash)["text"]
    assert text.startswith("The vault may only reduce (GUARDIAN). It holds 40.")


# One order at a time


def test_sales_come_first_and_at_most_one_order_is_sent(hire: Hire) -> None:
    """ETH, listed first, rises; BTC, which is held, falls."""
    agent = hire(assets=("ETH", "BTC"))
    world = agent.world
    agent.bars(*[60_000] * SPEC.lookback, 60_500, 61_000, symbol="BTC")
    bitcoin, ether = world.token_of("BTC"), world.token_of("ETH")
    bought = {step.asset: step for step in agent.run()}
    assert bought[bitcoin].outcome is not None
    for btc, price in zip((60_500, 60_000, 59_500), (2000, 2010, 2030), strict=True):
        agent.bar(btc, "BTC")
        world.set_price("ETH", price)
    first, second = agent.run()
    assert (first.asset, second.asset) == (bitcoin, ether)
    assert first.outcome is not None
    assert first.outcome.ended is Ended.TRADED
    assert (second.intent, second.outcome) == (None, None)
    assert second.silent_because == "another order of this cycle came first"
    assert second.decision is not None
    assert second.decision.is_rebalance
    assert len(agent.journal.rows()) == 2
    later = {step.asset: step for step in agent.run()}
    assert later[ether].outcome is not None
    assert later[ether].outcome.ended is Ended.TRADED
    for entry in agent.entries():
        assert agent.audit(entry) == []


# Saying no


def test_what_the_review_denies_is_kept_with_its_clauses_and_not_sent(agent: Agent) -> None:
    agent.operator = OperatorLimits(min_trade_value=usd(500_000), max_trade_bps=3000)
    agent.bars(*RISING)
    block = agent.world.w3.eth.block_number
    step = only(agent.run())
    assert [b.clause for b in step.broken] == ["dust", "trade size"]
    assert step.outcome is None
    assert agent.world.w3.eth.block_number == block, "nothing was sent"
    [row] = agent.journal.rows()
    assert (row["state"], clauses(row)) == ("refused", ["dust", "trade size"])
    assert agent.journal.attempts(row["id"]) == []
    document = agent.documents.get(row["explanation_hash"])
    assert [b["clause"] for b in document["review"]] == ["dust", "trade size"]
    assert document["text"].endswith("Denied: dust, trade size.")


def test_what_the_vault_refuses_is_journalled_with_its_reasons(agent: Agent) -> None:
    """It decides at a block at which all was well, and its order is mined when the guardian has stopped the vault."""
    agent.bars(*RISING)
    block = agent.block()
    world, vault = agent.world, agent.strategy.vault
    world.send(world.constitution.functions.stopVault(vault.address, HOUR_S), world.guardian)
    step = only(agent.cycle().run(block))
    assert step.outcome is not None
    assert (step.outcome.ended, step.outcome.error, step.outcome.detail) == (Ended.REFUSED, "TradeRefused", "GUARDIAN")
    [row] = agent.journal.rows()
    assert (row["state"], row["outcome"], row["trade_id"], row["detail"]) == ("mined", "refused", None, "GUARDIAN")
    assert agent.entries() == []


def test_what_reverts_is_journalled_with_its_error(agent: Agent) -> None:
    agent.bars(*RISING)
    block = agent.block()
    agent.world.buy(agent.strategy, usd(1000))  # the key was used elsewhere: the vault's nonce has moved on
    step = only(agent.cycle().run(block))
    assert step.outcome is not None
    assert (step.outcome.ended, step.outcome.error) == (Ended.REVERTED, "VaultWrongNonce")
    assert step.outcome.detail == "VaultWrongNonce(expected=1, given=0)"
    [row] = agent.journal.rows()
    assert (row["state"], row["outcome"], row["detail"]) == ("mined", "reverted", step.outcome.detail)
    assert len(agent.entries()) == 1


def test_an_order_that_waited_too_long_is_not_mined(agent: Agent) -> None:
    agent.bars(*RISING)
    block = agent.block()
    agent.world.travel(BAR_S + 1)
    step = only(agent.cycle().run(block))
    assert step.outcome is not None
    assert step.outcome.error == "VaultDeadlinePassed"


# The artefact


def test_another_artefact_than_the_approved_one_stops_the_agent(agent: Agent) -> None:
    agent.bars(*RISING)
    other = moving_average(3999)
    with pytest.raises(Misconfigured) as caught:
        agent.run(artefact=other)
    assert str(caught.value) == (
        f"artefact {other.artefact_hash} is loaded, the DAO approved {agent.artefact.artefact_hash}: "
        "load the approved file"
    )
    assert agent.journal.rows() == []
    assert agent.entries() == []


def test_an_update_by_the_dao_stops_the_agent_that_runs_the_old_artefact(agent: Agent) -> None:
    agent.bars(*RISING)
    world, s, new = agent.world, agent.strategy, moving_average(3999)
    updated = s.manifest | {
        "artefactHash": bytes.fromhex(new.artefact_hash[2:]), "updates": s.id, "capital": 0, "salt": b"\x01" * 32
    }  # fmt: skip
    update = world.submit(updated)
    world.as_timelock(world.strategies.functions.approve(update))
    world.as_timelock(world.strategies.functions.applyUpdate(update))
    with pytest.raises(Misconfigured, match=f"the DAO approved {new.artefact_hash}"):
        agent.run()


# No price


def stale(agent: Agent) -> None:
    agent.world.evm.travel(2 * HOUR_S + 1)


def answers(value: int) -> Callable[[Agent], None]:
    def publish(agent: Agent) -> None:
        world = agent.world
        feeds.publish(world.evm, world.book.asset("ETH").feed, value, transmitter=world.market.publisher)

    return publish


def missing(agent: Agent) -> None:
    agent.world.market.begin_phase("ETH")


def quote_depegged(agent: Agent) -> None:
    agent.world.set_price(agent.world.book.quote_symbol, "0.97")


@pytest.mark.parametrize("is_invested", [False, True])
@pytest.mark.parametrize(
    "spoil",
    [stale, answers(0), answers(-1), missing, quote_depegged],
    ids=["stale", "zero", "negative", "missing", "quote depegged"],
)
def test_without_a_price_the_agent_is_silent_with_its_reason(
    agent: Agent, spoil: Callable[[Agent], None], is_invested: bool
) -> None:
    agent.bars(*RISING)
    if is_invested:
        agent.run()
        agent.bars(*FALLING)
    before = agent.entries(), agent.journal.rows()
    spoil(agent)
    step = only(agent.run())
    asset = agent.world.token_of("ETH")
    assert step == Step(
        asset=asset, silent_because=f"{asset} has no fresh price at block {agent.world.w3.eth.block_number}"
    )
    assert (agent.entries(), agent.journal.rows()) == before


def test_one_asset_without_a_price_does_not_silence_another(hire: Hire) -> None:
    agent = hire(assets=("ETH", "BTC"))
    agent.bars(*[2000] * SPEC.lookback, *RISING)
    agent.world.market.begin_phase("BTC")
    eth_step, btc_step = sorted(agent.run(), key=lambda step: bool(step.silent_because))
    assert eth_step.outcome is not None
    assert eth_step.outcome.ended is Ended.TRADED
    assert "has no fresh price" in btc_step.silent_because


@pytest.mark.parametrize("answer", [0, -1, 1 << 60])
def test_a_round_that_was_no_price_silences_as_long_as_it_is_looked_at(agent: Agent, answer: int) -> None:
    answers(answer)(agent)
    agent.bars(2000, 2010, 2030)
    step = only(agent.run())
    assert step.silent_because == f"answer 1 is {answer}, expected an integer from 1 to {(1 << 50) - 1}"
    agent.bars(2050, 2070)
    assert only(agent.run()).outcome is not None


def test_with_too_short_a_history_the_agent_is_silent(hire: Hire) -> None:
    long = replace(SPEC, lookback=4000)
    agent = hire(moving_average(observation=long))
    agent.bars(*RISING)
    step = only(agent.run())
    assert "4000 answers 600 s apart need a longer history" in step.silent_because
    assert (step.decision, step.outcome, agent.journal.rows()) == (None, None, [])


def test_a_node_that_can_not_tell_the_history_silences(agent: Agent) -> None:
    class Forgetful:
        def fetch_since(self, *_: Any) -> Any:
            raise ReadingFailed("missing trie node")

    agent.bars(*RISING)
    assert only(agent.run(rounds=Forgetful())).silent_because == "missing trie node"


def test_a_round_published_in_the_very_block_is_known(agent: Agent) -> None:
    agent.bars(*RISING)
    agent.world.market.publish("ETH", Decimal(2077))
    step = only(agent.run(execution=PaperExecution(agent.journal)))
    assert step.observation is not None
    assert step.observation.answers_e8[-1] == 2077 * 10**8


# The same again


def test_the_same_block_gives_the_same_explanation(agent: Agent, tmp_path: Path) -> None:
    """With other readers, from another node's history, years later: nothing but the block matters."""
    world = agent.world
    agent.bars(*RISING)
    block, hashes = agent.block(), set()
    for attempt, has_multicall in enumerate((True, True, False)):
        if not has_multicall:
            world.evm.set_code(MULTICALL3, b"")
        with Journal(tmp_path / f"{attempt}.sqlite") as journal:
            step = only(
                agent.cycle(
                    vaults=vault_reader(world, agent.strategy), rounds=new_rounds(world), journal=journal,
                    execution=PaperExecution(journal), documents=DocumentStore(tmp_path / str(attempt)),
                ).run(block)
            )  # fmt: skip
        assert step.intent is not None
        hashes.add(step.explanation_hash)
        agent.bars(2040, 2050)  # what comes later does not matter
    assert len(hashes) == 1


def test_every_block_has_its_own_explanation(agent: Agent, tmp_path: Path) -> None:
    agent.bars(*RISING)
    with Journal(tmp_path / "paper.sqlite") as journal:
        cycle = agent.cycle(journal=journal, execution=PaperExecution(journal))
        first = only(cycle.run(agent.block()))
        agent.world.evm.mine()
        second = only(cycle.run(agent.block()))
    assert first.intent == second.intent
    assert first.explanation_hash != second.explanation_hash


# On paper


def test_paper_journals_the_trade_and_moves_nothing(agent: Agent) -> None:
    agent.bars(*RISING)
    block, reading = agent.world.w3.eth.block_number, agent.reading()
    step = only(agent.run(execution=PaperExecution(agent.journal)))
    assert step.outcome is not None
    assert step.intent is not None
    expected = f"paper: {step.intent.amount_in} for at least {step.intent.min_amount_out}"
    assert step.outcome == Outcome(ended=Ended.TRADED, detail=expected)
    [row] = agent.journal.rows()
    assert (row["state"], row["outcome"], row["account"]) == ("mined", "traded", "paper")
    assert agent.journal.attempts(row["id"]) == []
    assert (row["detail"], row["trade_id"]) == (expected, None)
    assert agent.documents.get(row["explanation_hash"])["intent"]["amount_in"] == str(step.intent.amount_in)
    assert agent.world.w3.eth.block_number == block
    assert agent.reading() == reading
    assert agent.entries() == []


def test_paper_is_refused_by_the_same_review(agent: Agent) -> None:
    agent.operator = OperatorLimits(max_trades_per_day=0)
    agent.bars(*RISING)
    step = only(agent.run(execution=PaperExecution(agent.journal)))
    assert ([b.clause for b in step.broken], step.outcome) == (["trades per day"], None)


# Nothing half-done


def test_an_explanation_that_can_not_be_kept_stops_the_agent_before_it_journals_or_sends(agent: Agent) -> None:
    agent.bars(*RISING)
    folder = agent.folder / "explanations"
    folder.rmdir()
    folder.write_text("in the way")
    with pytest.raises(Misconfigured, match="explanations can't be kept in"):
        agent.run()
    assert (agent.journal.rows(), agent.entries()) == ([], [])


def test_the_explanation_and_the_intent_are_written_before_the_order_is_given(agent: Agent) -> None:
    class Watching:
        def submit(self, order: Order, *, journal_row: int) -> Outcome:
            [row] = agent.journal.rows(id=journal_row)
            assert row["state"] == "reviewed"
            assert agent.documents.get(order.explanation_hash)
            raise KeyboardInterrupt

    agent.bars(*RISING)
    with pytest.raises(KeyboardInterrupt):
        agent.run(execution=Watching())
    assert [row["state"] for row in agent.journal.rows()] == ["reviewed"]


# The whole way of an order


def test_a_weight_at_the_limit_of_the_vault_is_reached_and_kept(hire: Hire) -> None:
    """Turnover for one purchase a day only: the rest of it comes tomorrow, and nothing reverts in between."""
    agent = hire(constant(3000), limits={"max_daily_turnover_bps": 2000})
    agent.bars(*[2000] * SPEC.lookback)
    first = only(agent.run())
    assert first.intent is not None
    assert first.intent.value == usd(200_000)
    agent.bar(2000)
    assert only(agent.run()).intent is None, "nothing is left of the day's turnover"
    agent.world.travel(24 * HOUR_S)
    agent.bars(*[2000] * SPEC.lookback)
    agent.run()
    value = agent.reading()
    assert value.asset_value(agent.world.token_of("ETH")) * 10_000 // value.value == pytest.approx(3000, abs=2)
    assert {row["outcome"] for row in agent.journal.rows()} == {"traded"}


def test_a_halted_vault_is_left_alone(agent: Agent) -> None:
    agent.bars(*RISING)
    agent.run()
    agent.world.as_timelock(agent.world.strategies.functions.halt(agent.strategy.id))
    agent.bar(2050)
    held = agent.world.held(agent.strategy)
    assert held > eth(1)
    step = only(agent.run())
    assert agent.reading().state is VaultState.HALTED
    assert [b.clause for b in step.broken] == ["halted"]
    assert agent.world.held(agent.strategy) == held


def test_prices_of_other_decimals_are_brought_to_the_observations_eight(agent: Agent) -> None:
    """The same feed read as if it had 6 or 10 decimals: a hundred times dearer, or cheaper."""
    agent.bars(*RISING)
    token = agent.world.token_of("ETH")
    seen = {}
    for decimals in (6, 8, 10):
        step = only(agent.run(decimals={token: decimals}, execution=PaperExecution(agent.journal)))
        assert step.observation is not None
        seen[decimals] = step.observation.answers_e8
    assert seen[6] == tuple(100 * answer for answer in seen[8])
    assert seen[10] == tuple(answer // 100 for answer in seen[8])


def test_the_feed_follows_the_market_it_is_said_to(world: World) -> None:
    """What the other tests rest on."""
    world.set_price("ETH", 2030)
    assert abs(world.market.pool_price("ETH") / Decimal(2030) - 1) < Decimal("0.0006")
