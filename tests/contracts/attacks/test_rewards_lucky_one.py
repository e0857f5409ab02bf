"""Many agents of one person, each betting differently; the lucky ones are kept, the others are never touched again.

Every way the market can go is played, each with the same chance: the totals are exact, no sample.
"""

from __future__ import annotations

from itertools import product

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import (
    branch,
    claim,
    credited,
    least_bond,
    paid_less_taken,
    profit,
    releasable,
    retire_fully,
    say_tokens,
    settle_at,
    withdraw_bond,
)
from tests.contracts.world import DAY_S, REWARD_RATE, Strategy, World, usd

START = {"ETH": 2000, "BTC": 60_000}


@pytest.fixture
def crowd(world: World) -> dict[str, Strategy]:
    """One person's agents at their least bond, by the asset that each bets its half million on."""
    agents = {}
    for symbol in START:
        agent_id = world.register_agent(bond_wei=least_bond(world))
        agents[symbol] = world.deploy_strategy(agent_id, assets=(symbol,))
        world.buy(agents[symbol], usd(500_000), symbol=symbol)
    return agents


def settle_all(world: World, crowd: dict[str, Strategy]) -> None:
    """One window for all; what the person does not settle, anybody does."""
    world.to_next_window()
    for s in crowd.values():
        world.poke(s)
    world.to_window_end()
    for s in crowd.values():
        if move := world.close(s):
            world.apply(s, move)


@pytest.mark.parametrize("percent", [4, 9, 30])
def test_the_lucky_ones_win_no_more_than_the_unlucky_lose(
    world: World, crowd: dict[str, Strategy], attack: Report, percent: int
) -> None:
    stakes = {symbol: world.bond_of(s.agent_id) for symbol, s in crowd.items()}
    total = lucky = expected = 0
    ways = list(product((1, -1), repeat=len(crowd)))
    for way in ways:
        with branch(world):
            for symbol, sign in zip(START, way, strict=True):
                world.set_price(symbol, START[symbol] * (100 + sign * percent) // 100, pool_follows=False)
            settle_all(world, crowd)
            for symbol, s in crowd.items():
                expected += profit(world, s) * REWARD_RATE
                won = paid_less_taken(world, s)
                total += won
                if won > 0:
                    lucky += won
                else:  # abandoned: its person takes what it may, and that is not what was lost
                    withdraw_bond(world, s, releasable(world, s))
                    assert world.bond_of(s.agent_id) >= -profit(world, s) * REWARD_RATE - stakes[symbol]
    assert lucky > 0 > total, "the fees of buying"
    assert total <= expected
    if percent * usd(5_000) <= usd(50_000):
        assert total == expected, "rate x profit, summed over every way, to the wei"
    attack.outcome(
        gained=f"{say_tokens(total // len(ways))} expected for {len(crowd)} agents and moves of {percent} %, "
        f"of which the lucky ones {say_tokens(lucky // len(ways))}",
        cost="the unlucky ones' stakes, and the pool's fees",
        stopped_by="linear both ways; the cap cuts gains only",
    )


def test_stopping_when_lucky_gains_nothing_over_every_path(world: World, attack: Report) -> None:
    """One agent plays three rounds and retires for good after the first gain: the best one can do with luck."""
    agent_id = world.register_agent(bond_wei=least_bond(world))
    s = world.deploy_strategy(agent_id)
    world.buy(s, usd(500_000))
    start = settle_at(world, s, 2000)
    outcomes: list[tuple[int, int]] = []  # how many of the eight paths, and what they were paid

    def play(price: int, paths: int) -> None:
        for step in (60, -60):
            with branch(world):
                settle_at(world, s, price + step)
                if credited(world, s) > 0 or paths == 2:
                    if credited(world, s) > 0:
                        retire_fully(world, s)
                    outcomes.append((paths // 2, paid_less_taken(world, s)))
                else:
                    play(price + step, paths // 2)

    play(2000, 8)
    assert sum(paths for paths, _ in outcomes) == 8
    total = sum(paths * paid for paths, paid in outcomes)
    won = sum(paths for paths, paid in outcomes if paid > 0)
    assert won > 4, "it does win more often than not"
    fee = start * REWARD_RATE
    assert abs(total - 8 * fee) <= 16 * REWARD_RATE, "and what it wins is what the losing paths lose, to rounding"
    attack.outcome(
        gained=f"{say_tokens(total // 8)} expected, winning on {won} of 8 paths",
        cost="the fees of buying",
        stopped_by="linear both ways: stopping early changes no expectation",
    )


def test_a_winner_that_leaves_at_once_takes_no_more_than_its_account(
    world: World, crowd: dict[str, Strategy], attack: Report
) -> None:
    world.set_price("ETH", 2080, pool_follows=False)
    world.set_price("BTC", 57_600, pool_follows=False)
    settle_all(world, crowd)
    winner, loser = crowd["ETH"], crowd["BTC"]
    stakes = world.bond_of(winner.agent_id)
    before = world.market.balance(world.d.token, world.controller)
    retire_fully(world, winner)
    withdraw_bond(world, winner, releasable(world, winner))
    world.to_next_window()
    world.to_window_end()
    world.travel(30 * DAY_S)
    claim(world, winner)
    out = world.market.balance(world.d.token, world.controller) - before
    assert out == stakes + paid_less_taken(world, winner)
    both = paid_less_taken(world, winner) + paid_less_taken(world, loser)
    assert both < 0
    attack.outcome(
        gained=f"{say_tokens(both)} for both together",
        cost=f"{say_tokens(-paid_less_taken(world, loser))} of the loser's stake, gone before it could be taken out",
        stopped_by="the loser's bond was taken in the same window",
    )
