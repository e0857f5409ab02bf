"""An agent that compares sources trades where they agree, says no where they do not, and its auditor compares again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from agents.cycle import Cycle, Step
from agents.execution import Ended
from agents.localnet.market import pool_readers
from agents.paper_execution import PaperExecution
from offchain_rl.artefact import canonical_bytes, hash_bytes
from oracle.consensus import ConsensusReader, ConsensusRules
from tests.contracts.world import HOUR_S, usd
from tests.e2e.conftest import BAR_S, SPEC, Agent, Hire

RULES = ConsensusRules(twap_window_s=BAR_S)


@pytest.fixture
def agent(hire: Hire) -> Agent:
    """It wants to buy, and the pool remembers long enough."""
    hired = hire()
    hired.world.market.remember("ETH", 30)
    hired.bars(*[2000] * SPEC.lookback, 2010, 2030)
    return hired


def comparing(agent: Agent, **over: Any) -> Cycle:
    return agent.cycle(**{"consensus": sources(agent), "consensus_rules": RULES} | over)


def sources(agent: Agent) -> ConsensusReader:
    return ConsensusReader(pool_readers(agent.world.evm, agent.world.book))


def run(agent: Agent, **over: Any) -> Step:
    [step] = comparing(agent, **over).run(agent.block())
    return step


def push(agent: Agent) -> None:
    """Somebody moves the pool up by some six per cent, in the block before the decision."""
    market = agent.world.market
    pusher, before = market.evm.accounts[9], market.pool_price("ETH")
    market.give_quote(pusher, usd(30_000_000))
    market.buy("ETH", usd(30_000_000), sender=pusher)
    assert market.pool_price("ETH") > before * 105 / 100


# Saying no


def test_a_pool_that_was_just_pushed_denies_the_trade_and_the_refusal_is_kept(agent: Agent) -> None:
    push(agent)
    block = agent.world.w3.eth.block_number
    step = run(agent)
    [clause] = step.broken
    assert (clause.clause, step.outcome) == ("consensus", None)
    assert "pool spot" in clause.detail and clause.detail.endswith("bps apart, 500 are allowed")
    assert agent.world.w3.eth.block_number == block, "nothing was sent"
    [row] = agent.journal.rows()
    assert (row["state"], json.loads(row["broken"])) == ("refused", [["consensus", clause.detail]])
    document = agent.documents.get(row["explanation_hash"])
    assert document["consensus"]["objection"] == document["review"][0]["detail"] == clause.detail
    assert document["text"].endswith("Denied: consensus.")


def test_a_pool_that_does_not_remember_long_enough_denies_the_trade_with_the_way_out(agent: Agent) -> None:
    [clause] = run(agent, consensus_rules=ConsensusRules(twap_window_s=10**9)).broken
    assert clause.clause == "consensus"
    assert clause.detail.startswith("2 sources have a price, 3 are needed (pool twap: pool 0x")


def test_a_vault_that_may_only_reduce_is_sold_though_sources_disagree(agent: Agent) -> None:
    """What disagrees in a fall is mostly the mean, and staying in costs more."""
    run(agent)
    world = agent.world
    world.send(world.constitution.functions.stopVault(agent.strategy.vault.address, HOUR_S), world.guardian)
    push(agent)
    step = run(agent)
    assert step.outcome is not None
    assert (step.outcome.ended, step.broken, world.held(agent.strategy)) == (Ended.TRADED, (), 0)
    assert agent.documents.get(step.explanation_hash)["consensus"]["objection"]
    assert [agent.audit(entry, consensus=sources(agent)) for entry in agent.entries()] == [[], []]


# Where they agree


def test_a_trade_keeps_what_was_compared_and_its_audit_compares_again(agent: Agent) -> None:
    step = run(agent)
    assert step.outcome is not None
    assert step.outcome.ended is Ended.TRADED
    said = agent.documents.get(step.explanation_hash)["consensus"]
    assert [price["source"] for price in said["prices"]] == ["chainlink", "pool twap", "pool spot"]
    assert (said["objection"], said["missing"], said["rules"]["twap_window_s"]) == ("", [], str(BAR_S))
    agent.bars(2500, 2600)
    [entry] = agent.entries()
    assert agent.audit(entry, consensus=sources(agent)) == []


def test_a_comparison_that_the_auditor_can_not_make_does_not_hold(agent: Agent) -> None:
    run(agent)
    [entry] = agent.entries()
    [finding] = agent.audit(entry)
    assert (finding.field, finding.expected) == ("consensus", None)


@pytest.mark.parametrize(
    ("forge", "found"),
    [
        (lambda said: said["prices"][1].update(price="1"), {"consensus"}),
        (lambda said: said["prices"].pop(), {"consensus"}),
        (lambda said: said.update(objection="none"), {"consensus"}),
        (lambda said: said["rules"].update(bound_bps="1"), {"consensus", "review", "text"}),
        (lambda said: said["rules"].update(min_sources="none"), {"consensus"}),
        (lambda said: said["rules"].update(twap_window_s=str(2**40)), {"consensus"}),
        (lambda said: said.clear(), {"consensus"}),
    ],
    ids=["price", "source", "objection", "bound that was broken", "rule that is none", "no window", "nothing"],
)
def test_a_comparison_that_was_forged_is_found_out(
    agent: Agent, forge: Callable[[dict[str, Any]], Any], found: set[str]
) -> None:
    """The agent had committed to it: its hash is the ledger's."""
    step = run(agent, execution=PaperExecution(agent.journal))
    document = copy.deepcopy(agent.documents.get(step.explanation_hash))
    forge(document["consensus"])
    content = canonical_bytes(document)
    (agent.folder / "explanations" / f"{hash_bytes(content)}.json").write_bytes(content)

    class Forging:
        def put(self, _: Any) -> str:
            return hash_bytes(content)

    run(agent, documents=Forging())
    [entry] = agent.entries()
    assert {finding.field for finding in agent.audit(entry, consensus=sources(agent))} == found
