"""The bounties of observers drained, or used to keep honest observers away."""

from __future__ import annotations

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import (
    credited,
    deploy_invested,
    paid_less_taken,
    profit,
    retire_fully,
    say_tokens,
    settle_at,
)
from tests.contracts.world import REWARD_RATE, WINDOW_S, Strategy, World, none_of, tokens

BOUNTY = tokens(1)
PER_WINDOW = 5  # four observations and a close


def bounty_of(world: World) -> int:
    return int(world.view(world.pool.functions.bountyOf(world.stranger.address)))


def poke_through(world: World, vaults: list[Strategy], every_s: int) -> int:
    """Pokes all the vaults through the next window, and closes and applies everything; the number of pokes."""
    start_s = world.epoch_start_s(world.current_epoch() + 1)
    moments = range(start_s + 60, start_s + WINDOW_S - 60, every_s)
    for moment_s in moments:
        world.travel_to(moment_s)
        for s in vaults:
            world.poke(s)
    world.to_window_end()
    for s in vaults:
        if move := world.close(s):
            world.apply(s, move)
    return len(moments) * len(vaults)


def test_bounties_are_five_a_window_however_often_one_pokes(world: World, attack: Report) -> None:
    """Two vaults, one of them empty and retired half way: who pokes every quarter of an hour earns no more."""
    vaults = [deploy_invested(world), world.deploy_strategy(world.register_agent())]
    fund = world.view(world.pool.functions.bountyFund())
    pokes = poke_through(world, vaults, 900)
    assert bounty_of(world) == 2 * PER_WINDOW * BOUNTY
    retire_fully(world, vaults[1])
    earned = bounty_of(world)
    pokes += poke_through(world, vaults[:1], 900)
    world.poke(vaults[1])
    assert bounty_of(world) == earned + PER_WINDOW * BOUNTY, "nothing for a released vault"
    with world.reverts("RewardPoolNothingToClose", vault=vaults[0].vault.address, nextEpoch=world.current_epoch()):
        world.close(vaults[0])
    spent = fund - world.view(world.pool.functions.bountyFund())
    assert spent == bounty_of(world)
    attack.outcome(
        gained=f"{say_tokens(bounty_of(world))} for {pokes} pokes, at most 5 tokens a vault and window",
        cost="gas of each poke",
        stopped_by="a quarter of the window between bounties; released vaults earn none",
    )


def test_an_agent_that_takes_every_bounty_itself_still_has_four_moments_only(world: World, attack: Report) -> None:
    """It observes at its best moment of each quarter, so that nobody is paid for looking in between."""
    s = deploy_invested(world)
    settle_at(world, s, 2000)
    quarters = ((2010, 2040, 1990), (2030, 2000, 2060), (1985, 2020, 2015), (2050, 2045, 1995))
    epoch = world.to_next_window()
    start_s = world.epoch_start_s(epoch + 1)
    lowest = profit(world, s)
    for index, walk in enumerate(quarters):
        world.travel_to(start_s + index * WINDOW_S // 4 + 120)
        for price in walk:
            world.set_price("ETH", price, pool_follows=False)
            if price == max(walk):
                world.poke(s, world.controller)
            elif price == min(walk):
                lowest = min(lowest, profit(world, s))
    world.to_window_end()
    move = world.close(s)
    world.apply(s, move)
    alone = credited(world, s)
    assert alone > 0 and alone > lowest
    assert none_of(world.history(world.pool), "BountyClaimed")
    earned = int(world.view(world.pool.functions.bountyOf(world.controller.address)))
    assert earned == 3 * BOUNTY, "its moments were too close for the fourth, which is left to others"
    settle_at(world, s, 1995)
    assert credited(world, s) == profit(world, s)
    assert paid_less_taken(world, s) == profit(world, s) * REWARD_RATE
    advantage = (alone - max(0, lowest)) * REWARD_RATE
    attack.outcome(
        gained=f"{say_tokens(advantage)} for a week, and {say_tokens(earned)} of bounties; 0 in the end",
        cost="gas of four pokes",
        stopped_by="the lowest of its own four; the next window; an observer who looks without a bounty",
    )


def test_an_empty_bounty_fund_delays_nobody_who_settles_himself(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    for _ in range(3):
        poke_through(world, [s], WINDOW_S // 4)
    assert bounty_of(world) == 3 * PER_WINDOW * BOUNTY
    fund = int(world.view(world.pool.functions.bountyFund()))
    windows = -(-fund // (PER_WINDOW * BOUNTY))
    attack.outcome(
        gained=f"the fund of {say_tokens(fund)} lasts {windows} windows of one vault: no poke makes that shorter",
        cost="gas",
        stopped_by="five bounties a vault and window; the DAO's own observer",
    )
