"""A loss that was taken comes back: is the recovery paid more often than the loss was taken?"""

from __future__ import annotations

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import (
    CAP,
    branch,
    credited,
    deploy_invested,
    least_bond,
    paid_less_taken,
    profit,
    say_tokens,
    settle_at,
)
from tests.contracts.world import REWARD_RATE, World, tokens


def test_a_recovery_returns_what_was_taken_once(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    start = settle_at(world, s, 2000)
    taken = settle_at(world, s, 1850)
    for window in ((2000, 1850), (1850, 2000), (2000,), (2000,), (2000, 2050), (2000, 2000)):
        settle_at(world, s, *window)
    assert credited(world, s) == start, "returned once, however often it was seen"
    assert paid_less_taken(world, s) == start * REWARD_RATE
    attack.outcome(
        gained="0 tokens",
        cost=f"{say_tokens(-taken * REWARD_RATE)} were away, and come back vesting",
        stopped_by="the signed account",
    )


def test_a_loss_that_was_taken_in_part_returns_in_part(world: World, attack: Report) -> None:
    """Collateral covered half of the fall; bond posted meanwhile pays more of it; then the price is back."""
    least = least_bond(world)
    s = deploy_invested(world, agent_id=world.register_agent(bond_wei=least))
    start = settle_at(world, s, 2000)
    settle_at(world, s, 200)
    assert credited(world, s) - profit(world, s) > 0, "part of the loss is open"
    first = -paid_less_taken(world, s)
    world.post_bond(s.agent_id, tokens(3_000))
    settle_at(world, s, 200)
    second = -paid_less_taken(world, s)
    assert second == first + tokens(3_000) // REWARD_RATE * REWARD_RATE
    returned = 0
    while move := settle_at(world, s, 2000):
        assert 0 < move * REWARD_RATE <= CAP
        returned += move * REWARD_RATE
    assert returned == second + start * REWARD_RATE, "no more than was taken"
    assert credited(world, s) == start
    attack.outcome(
        gained="0 tokens",
        cost=f"{say_tokens(second)} away for {-(-returned // CAP)} weeks: the way back is capped",
        stopped_by="A falls only by what was collected",
    )


@pytest.mark.parametrize("way", [(1900, 2050, 1900, 2050), (2080, 1900, 2080, 1900), (1700, 2100, 1900, 2000)])
def test_no_order_of_dips_and_recoveries_pays_more_than_the_profit(
    world: World, attack: Report, way: tuple[int, ...]
) -> None:
    s = deploy_invested(world)
    for price in way:
        settle_at(world, s, price)
        assert credited(world, s) <= profit(world, s)
        assert paid_less_taken(world, s) <= profit(world, s) * REWARD_RATE
    with branch(world):
        settle_at(world, s, way[-1])
        assert credited(world, s) == profit(world, s), "and the next quiet window ends what the cap delayed"
    attack.outcome(
        gained=f"{say_tokens(paid_less_taken(world, s))} for {way}: rate x account",
        cost="the same in the other direction",
        stopped_by="the signed account",
    )
