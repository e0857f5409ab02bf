"""Capital moved in or out around the settlement, so that the flow is paid as profit."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import (
    MOST,
    branch,
    credited,
    deploy_invested,
    profit,
    say_tokens,
    say_usd,
)
from tests.contracts.vaults import MAX_UINT
from tests.contracts.world import HOUR_S, REWARD_RATE, Strategy, World, eth, one, usd

PRICES = (2010, 2080, 2040, 2090)


def total_moved(world: World, s: Strategy, between: Callable[[int], None]) -> int:
    """All that four windows credit, when something happens between the observations of each."""
    moved = 0
    for index, price in enumerate(PRICES):
        world.to_next_window()
        world.observe_at(s, price)
        between(index)
        world.observe_at(s, price)
        world.to_window_end()
        if move := world.close(s):
            world.apply(s, move)
        moved += move
    return moved


def test_capital_in_and_out_around_every_settlement_pays_nothing(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    with branch(world):
        untouched = total_moved(world, s, lambda _: None)

    def flow(index: int) -> None:
        if index % 2 == 0:
            world.as_timelock(world.treasury.functions.allocate(s.id, usd(400_000)))
        else:
            world.as_timelock(world.treasury.functions.recall(s.id, world.book.quote, usd(399_999), 0))

    flows = total_moved(world, s, flow)
    assert flows == untouched > 0
    attack.outcome(
        gained="0 tokens more than without four flows of 400,000 USD",
        cost="four votes",
        stopped_by="profit = value + recalled - allocated",
    )


def test_recalls_in_kind_between_observations_round_against_the_agent(world: World, attack: Report) -> None:
    """At one price all along, so that what is left behind is rounding and nothing else."""
    s = deploy_invested(world)
    world.to_next_window()
    [before] = world.observe_at(s, Decimal("2077.77777777"))
    amounts = (1, 10**9, 10**12 + 7, eth("0.123456789123456789"), eth(3) + 1) * 2
    for amount in amounts:
        world.as_timelock(world.treasury.functions.recall(s.id, world.token_of("ETH"), amount, 0))
    [after] = world.observe_at(s, Decimal("2077.77777777"))
    assert before - 2 * len(amounts) <= after <= before
    world.to_window_end()
    assert world.close(s) == after
    attack.outcome(
        gained=f"{after - before} base units of profit in {len(amounts)} recalls",
        cost="up to 2 base units a recall",
        stopped_by="rounding down",
    )


def due_recall(world: World, s: Strategy) -> Callable[[], None]:
    """A recall of all ETH that has been voted in and is due: anybody may execute it, for a week."""
    items = [(world.token_of("ETH"), MAX_UINT, 0)]
    events = world.send(world.dao.functions.proposeRecall(s.id, items, "all ETH back"), world.proposer)
    proposal_id = int(one(events, "ProposalCreated")["proposalId"])
    world.to_voting(proposal_id)
    world.vote(proposal_id)
    world.to_deadline(proposal_id)
    world.queue(proposal_id)
    world.travel_to(int(world.view(world.dao.functions.proposalEta(proposal_id))) + 1)

    def execute() -> None:
        world.send(world.dao.functions.deployApproved(proposal_id), world.relayer)

    return execute


def settle_all(world: World, s: Strategy) -> tuple[int, int]:
    """What windows move until one moves nothing, and how many that takes."""
    moved, windows = 0, 0
    while (move := world.settle(s)) or windows == 0:
        moved, windows = moved + move, windows + 1
    return moved, windows


@pytest.mark.parametrize(("spike", "who"), [(2400, "the agent"), (1600, "an enemy of the agent")])
def test_a_voted_recall_in_kind_books_the_round_it_is_executed_in_so_it_is_executed_at_once(
    world: World, attack: Report, spike: int, who: str
) -> None:
    """A known limitation. Whoever waits for a wrong round within the week books it for good, since the ETH is gone; who
    executes in the first second leaves nothing to wait for."""
    s = deploy_invested(world)
    execute = due_recall(world, s)
    honest, held = profit(world, s), world.held(s)
    with branch(world):
        execute()
        world.set_price("ETH", spike, pool_follows=False)
        assert settle_all(world, s) == (honest, 1), "executed at once: the wrong round moves nothing"
    world.set_price("ETH", spike, pool_follows=False)
    execute()
    world.set_price("ETH", 2000, pool_follows=False)
    world.travel(HOUR_S)
    booked = profit(world, s) - honest
    assert abs(booked - held * (spike - 2000) * 10**6 // eth(1)) <= 1, "recalled ETH x what the round was off"
    moved, windows = settle_all(world, s)
    assert moved == honest + booked == credited(world, s)
    assert moved <= windows * MOST, "a gain within the cap of each window"
    attack.outcome(
        gained=f"by {who}: {say_tokens(moved * REWARD_RATE)} in {windows} windows, kept; {say_usd(booked)} booked "
        "that the market never paid",
        cost="gas, a vote of others, and a wrong round in the week after it",
        stopped_by="whoever executes the vote in its first second (a limitation)",
    )
