"""A window that nobody has closed yet when the next one opens: whoever pokes first ends it."""

from __future__ import annotations

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import branch, credited, deploy_invested, paid_less_taken, say_tokens, settle_at
from tests.contracts.world import DAY_S, REWARD_RATE, Strategy, World, tokens


def observe_only(world: World, s: Strategy, price: int) -> None:
    world.to_next_window()
    world.observe_at(s, price)
    world.to_window_end()


def overwrite(world: World, s: Strategy) -> None:
    """In the next window's first seconds, before anybody closes."""
    world.to_next_window()
    world.poke(s, world.controller)
    with world.reverts("RewardPoolWindowMissed", vault=s.vault.address, epoch=world.account(s).nextEpoch):
        world.close(s)


@pytest.mark.parametrize("first", [1900, 2080])
def test_a_result_wiped_out_by_the_next_window_changes_no_total(world: World, attack: Report, first: int) -> None:
    """Up or down by as much afterwards, each with the same chance: exact totals of both ways."""
    s = deploy_invested(world)
    settle_at(world, s, 2000)
    totals = {}
    for late in (False, True):
        totals[late] = 0
        for second in (first + 60, first - 60):
            with branch(world):
                observe_only(world, s, first)
                if not late:
                    world.apply(s, world.close(s))
                world.set_price("ETH", second, pool_follows=False)
                if late:
                    overwrite(world, s)
                    world.to_window_end()
                    if move := world.close(s):
                        world.apply(s, move)
                else:
                    settle_at(world, s, second)
                settle_at(world, s, second)  # a quiet week for both
                totals[late] += paid_less_taken(world, s)
    assert totals[True] == totals[False]
    attack.outcome(
        gained=f"{say_tokens(totals[True] - totals[False])} over both ways, after a move to {first}",
        cost="seven days in which nobody closes for a bounty, and no trade meanwhile",
        stopped_by="the account only moves to where profit is",
    )


def test_anybody_who_closes_within_the_week_ends_the_race(world: World, attack: Report) -> None:
    """A rival wants a winner's result gone; it has six days and eighteen hours to lose against one close."""
    s = deploy_invested(world)
    settle_at(world, s, 2000)
    observe_only(world, s, 2080)
    world.travel(6 * DAY_S)
    closed = world.close(s)
    world.to_next_window()
    world.poke(s, world.controller)
    world.apply(s, closed)
    assert paid_less_taken(world, s) == credited(world, s) * REWARD_RATE > 0
    assert world.view(world.pool.functions.bountyOf(world.stranger.address)) >= tokens(1)
    attack.outcome(gained="nothing", cost="gas", stopped_by="one close, by anybody, for a bounty")


def test_a_frozen_gain_is_no_shield_for_the_loss_after_it(world: World, attack: Report) -> None:
    """The gain's result is left unapplied, so that no later window can be closed over it."""
    s = deploy_invested(world)
    settle_at(world, s, 2000)
    observe_only(world, s, 2080)
    gain = world.close(s)
    for _ in range(3):
        observe_only(world, s, 1900)
        with world.reverts("RewardPoolResultPending", vault=s.vault.address, move=gain):
            world.close(s)
    with world.reverts("RewardPoolUnsettled", vault=s.vault.address):
        world.send(world.pool.functions.claim(s.vault.address), world.controller)
    world.apply(s, gain)  # anybody
    world.apply(s, loss := world.close(s))
    assert loss < -gain
    assert paid_less_taken(world, s) == credited(world, s) * REWARD_RATE < 0
    attack.outcome(
        gained="0 tokens", cost="three weeks without claims or trades", stopped_by="anybody applies; then the loss"
    )
