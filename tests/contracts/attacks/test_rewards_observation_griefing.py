"""An enemy of the agent observes at every bad moment of every window, as often as it can."""

from __future__ import annotations

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import branch, credited, deploy_invested, paid_less_taken, profit, say_tokens
from tests.contracts.world import REWARD_RATE, Strategy, World, none_of

# ETH in six windows: it rises by 25 dollars a week and falls by 30 for a moment in each.
LEVELS = (2025, 2050, 2075, 2100, 2125, 2150)
DIP = 30


def weeks(world: World, s: Strategy, *, griefed: bool) -> list[int]:
    """What stands to the agent's credit after each window."""
    seen = []
    for level in LEVELS:
        world.to_next_window()
        world.observe_at(s, level)
        if griefed:
            world.observe_at(s, *[level - DIP] * 5)
            world.observe_at(s, level)
        world.to_window_end()
        if move := world.close(s):
            world.apply(s, move)
        seen.append(credited(world, s))
    return seen


def test_the_worst_moments_delay_a_reward_and_take_none(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    with branch(world):
        free = weeks(world, s, griefed=False)
    griefed = weeks(world, s, griefed=True)
    assert all(a >= b for a, b in zip(free, griefed, strict=True))
    assert griefed == sorted(griefed), "nothing was ever taken"
    behind = free[-1] - griefed[-1]
    assert 0 < behind < 250 * 10**6 * (DIP + 1), "never further behind than one dip"
    world.to_next_window()
    world.observe_at(s, LEVELS[-1])
    world.to_window_end()
    world.apply(s, world.close(s))
    assert credited(world, s) == profit(world, s) == free[-1]
    assert paid_less_taken(world, s) == free[-1] * REWARD_RATE
    attack.outcome(
        gained=f"{say_tokens(behind * REWARD_RATE)} of another's reward for a week, and then all of it is paid",
        cost=f"gas of {len(LEVELS) * 5} pokes, each at a moment that must really happen",
        stopped_by="the account waits; nothing that was not paid is lost",
    )


def test_an_enemy_s_observations_cannot_stop_trades_or_the_close(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    world.to_next_window()
    for _ in range(60):
        world.poke(s)
    assert none_of(world.buy(s, 10**6), "TradeRefused")
    observations = world.view(world.pool.functions.windowOf(s.vault.address)).observations
    assert observations == 61
    world.to_window_end()
    world.apply(s, world.close(s))
    attack.outcome(gained="nothing", cost="gas of 60 pokes", stopped_by="a window keeps two numbers, however often")
