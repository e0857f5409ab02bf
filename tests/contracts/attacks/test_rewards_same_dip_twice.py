"""An enemy of the agent has one dip punished more than once: again, after a missed window, by vote, after an update."""

from __future__ import annotations

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import (
    close_at,
    credited,
    deploy_invested,
    paid_less_taken,
    profit,
    say_tokens,
    settle_at,
)
from tests.contracts.world import REWARD_RATE, World, tokens


def test_one_dip_is_taken_once_through_every_door(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    settle_at(world, s, 1900)
    punished = credited(world, s)
    assert punished == profit(world, s) < 0
    for window in ((1900,), (1900, 1890), (1890, 1900)):
        assert settle_at(world, s, *window) == 0, "again"
    world.to_next_window()
    world.to_window_end()
    assert settle_at(world, s, 1900) == 0, "after a missed window"
    for flow in (
        world.treasury.functions.allocate(s.id, 10**11),
        world.treasury.functions.recall(s.id, world.book.quote, 10**11, 0),
    ):
        world.as_timelock(flow)
        assert settle_at(world, s, 1900) == 0, "after a flow"
    update = s.manifest | {"updates": s.id, "capital": 0, "rewardCap": tokens(1000)}
    update_id = world.submit(update)
    world.as_timelock(world.strategies.functions.approve(update_id))
    world.as_timelock(world.strategies.functions.applyUpdate(update_id))
    assert settle_at(world, s, 1900) == 0, "after an update"
    assert paid_less_taken(world, s) == punished * REWARD_RATE
    attack.outcome(
        gained="0 tokens of another's bond in eight further windows",
        cost="gas",
        stopped_by="down to the highest observation only",
    )


def test_a_dip_that_a_vote_punishes_again_comes_back_in_the_next_window(world: World, attack: Report) -> None:
    """The timelock may close after three missed windows and name a loss that was taken already."""
    s = deploy_invested(world)
    settle_at(world, s, 1900)
    loss = credited(world, s)
    for _ in range(3):
        world.to_next_window()
        world.to_window_end()
    world.as_timelock(world.pool.functions.closeByVote(s.vault.address, loss))
    world.apply(s, loss)
    assert credited(world, s) == 2 * loss
    returned = close_at(world, s, 1900)
    world.apply(s, returned)
    assert (returned, credited(world, s)) == (-loss, profit(world, s))
    assert paid_less_taken(world, s) == loss * REWARD_RATE
    attack.outcome(
        gained=f"0 tokens; {say_tokens(-loss * REWARD_RATE)} away for a week, back vesting",
        cost="a vote, after three windows that nobody observed",
        stopped_by="the next completed window",
    )
