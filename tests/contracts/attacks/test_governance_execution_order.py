"""Anybody executes what was voted, and so chooses the order: what does that give an agent who dislikes a limit?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import Attacker, days, not_deployable
from tests.contracts.world import ANY, CEILINGS, GOVERNANCE, LIMITS, Strategy, World, usd

LOOSE, STRICT = LIMITS, replace(LIMITS, max_position_bps=1000)


@pytest.fixture
def agent(world: World) -> Attacker:
    """The agent's controller, who may execute like anybody."""
    return Attacker(world, world.controller)


def update(world: World, strategy: Strategy, limits: Any, number: int) -> dict[str, Any]:
    return world.manifest(
        strategy.agent_id, limits=limits, updates=strategy.id, capital=0, salt=bytes([number]) * 32
    )  # fmt: skip


def queued(world: World, *proposals: int) -> None:
    """All of them voted in and due."""
    world.to_voting(proposals[-1])
    for each in proposals:
        world.vote(each)
    world.to_deadline(proposals[-1])
    for each in proposals:
        world.queue(each)
    world.travel_to(world.view(world.dao.functions.proposalEta(proposals[-1])) + 1)


def test_the_loose_update_executed_first_voids_the_strict_one_but_not_the_constitution(
    world: World, strategy: Strategy, agent: Attacker, attack: Report
):
    """The strict update was voted last, and is stale once the agent has executed the other. A ceiling is not."""
    manifests = [update(world, strategy, limits, i) for i, limits in enumerate((LOOSE, STRICT), 1)]
    loose, strict = (world.propose_strategy(m, f"update {i}") for i, m in enumerate(manifests))
    ceilings = world.propose(
        [world.constitution.functions.setCeilings(replace(CEILINGS, max_position_bps=1000).as_tuple())], "urgent"
    )
    queued(world, loose, strict, ceilings)
    agent.does(world.dao.functions.deployApproved(loose))
    hashes = [bytes(world.view(world.dao.functions.manifestOf(each))) for each in (loose, strict)]
    agent.fails(
        world.dao.functions.deployApproved(strict),
        "StrategyRegistryStaleUpdate",
        manifestHash=hashes[1],
        running=hashes[0],
    )
    # Nothing that the agent does keeps anybody from executing the ceiling; it binds at once.
    world.queue(ceilings)
    with world.reverts("VaultPositionExceeded", asset=world.token_of("ETH"), positionValue=ANY, allowed=ANY):
        world.buy(strategy, usd(110_000))
    world.buy(strategy, usd(90_000))
    attack.outcome(
        gained="one update instead of another, both of which were voted",
        cost=f"{agent.gas:,} gas",
        stopped_by="the constitution's ceilings, which no update overtakes",
    )


def test_an_old_approval_is_not_kept_for_later(world: World, strategy: Strategy, agent: Attacker, attack: Report):
    """A generous update, voted in long ago and never executed, is no option that the agent holds."""
    generous = world.propose_strategy(update(world, strategy, LOOSE, 1), "generous")
    queued(world, generous)
    eta_s = int(world.view(world.dao.functions.proposalEta(generous)))
    world.travel_to(eta_s + GOVERNANCE.grace_s + 1)
    agent.fails(world.dao.functions.deployApproved(generous), "DaoNotDeployable", **not_deployable(generous, "Expired"))
    attack.outcome(
        gained=f"a choice of {days(GOVERNANCE.grace_s)}, when to execute",
        cost=f"{agent.gas:,} gas",
        stopped_by="expiry: DaoNotDeployable(Expired)",
    )


def test_an_update_that_was_overtaken_stays_void_in_every_order(
    world: World, strategy: Strategy, agent: Attacker, attack: Report
):
    """Three in the queue; whichever is first is the only one."""
    manifests = [update(world, strategy, replace(LIMITS, max_trades_per_day=i), i) for i in (1, 2, 3)]
    proposals = [world.propose_strategy(m, f"update {i}") for i, m in enumerate(manifests)]
    hashes = [bytes(world.view(world.dao.functions.manifestOf(each))) for each in proposals]
    queued(world, *proposals)
    snapshot = world.evm.snapshot()
    for first in range(3):
        agent.does(world.dao.functions.deployApproved(proposals[first]))
        for later in {0, 1, 2} - {first}:
            agent.fails(
                world.dao.functions.deployApproved(proposals[later]),
                "StrategyRegistryStaleUpdate",
                manifestHash=hashes[later],
                running=hashes[first],
            )
        world.evm.revert(snapshot)
    attack.outcome(
        gained="the choice of one among what was voted",
        cost=f"{agent.gas:,} gas",
        stopped_by="StrategyRegistryStaleUpdate for every other",
    )


def test_a_retirement_is_not_outrun_by_an_update_that_brings_more_capital(
    world: World, strategy: Strategy, agent: Attacker, attack: Report
):
    """The agent executes the update, and its half a million, in the second before the retirement: it is halted all the
    same, and nothing of it can be traded."""
    more = update(world, strategy, LIMITS, 1) | {"capital": usd(500_000)}
    update_id = world.propose_strategy(more, "more capital")
    retirement = world.propose([world.strategies.functions.retire(strategy.id)], "retire it")
    queued(world, update_id, retirement)
    agent.does(world.dao.functions.deployApproved(update_id))
    agent.does(world.dao.functions.deployApproved(retirement))
    refused = world.buy(strategy, usd(100_000))
    assert [e.name for e in refused] == ["TradeRefused"]
    assert world.status(strategy).value == usd(1_500_000)
    attack.outcome(
        gained="nothing: the capital lies in a halted vault",
        cost=f"{agent.gas:,} gas",
        stopped_by="HALTED: TradeRefused",
    )
