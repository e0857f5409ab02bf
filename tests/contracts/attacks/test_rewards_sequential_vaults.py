"""One agent, one vault after the other: a loss left behind with the old one, a gain kept."""

from __future__ import annotations

from itertools import product

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import (
    branch,
    claim,
    credited,
    least_bond,
    paid_less_taken,
    profit,
    retire_fully,
    say_tokens,
    settle_at,
)
from tests.contracts.world import DAY_S, REWARD_RATE, Strategy, World, usd


def next_vault(world: World, agent_id: int, number: int) -> Strategy:
    world.set_price("ETH", 2000)
    s = world.deploy_strategy(agent_id, salt=number.to_bytes(32))
    world.buy(s, usd(500_000))
    return s


def test_a_series_of_vaults_earns_what_one_would_over_all_ways_of_the_market(world: World, attack: Report) -> None:
    """Three vaults, each retired after one move up or down by 4 %: eight ways, each with the same chance."""
    total = fees = 0
    with branch(world):
        agent_id = world.register_agent()
        for way in product((2080, 1920), repeat=3):
            with branch(world):
                for number, price in enumerate(way, start=1):
                    s = next_vault(world, agent_id, number)
                    fees += profit(world, s)
                    settle_at(world, s, price)
                    retire_fully(world, s)
                    assert paid_less_taken(world, s) == profit(world, s) * REWARD_RATE
                    total += paid_less_taken(world, s)
                world.assert_books_balance()
    assert abs(total - fees * REWARD_RATE) <= 8 * 3 * 3 * REWARD_RATE
    assert total < 0
    attack.outcome(
        gained=f"{say_tokens(total // 8)} expected over three vaults",
        cost="fees of buying, six votes",
        stopped_by="each vault's account ends at its own profit",
    )


def test_rewards_of_an_earlier_vault_are_not_taken_for_the_next_one_s_loss(world: World, attack: Report) -> None:
    """A limit that is known: each vault has its own account and the bond is all that they share. So what an agent
    earned before, and has not claimed, adds to what it keeps when a gap exceeds the stake."""
    agent_id = world.register_agent(bond_wei=least_bond(world))
    first = next_vault(world, agent_id, 1)
    settle_at(world, first, 2090)
    earned = paid_less_taken(world, first)
    retire_fully(world, first)
    second = next_vault(world, agent_id, 2)
    bond = world.bond_of(agent_id)
    settle_at(world, second, 100)
    assert world.bond_of(agent_id) < REWARD_RATE, "all of the bond is gone"
    debt = credited(world, second) - profit(world, second)
    assert debt > 0
    with world.reverts("RewardPoolNothingToClose", vault=first.vault.address, nextEpoch=world.account(first).nextEpoch):
        world.close(first)
    world.travel(31 * DAY_S)
    while world.account(second).nextEpoch < world.current_epoch():
        world.settle(second)
    kept = claim(world, first)
    assert kept == earned
    attack.outcome(
        gained=f"{say_tokens(kept)} of an earlier vault, claimed with {say_tokens(debt * REWARD_RATE)} open",
        cost=f"{say_tokens(bond)} of bond, and no new vault",
        stopped_by="nothing: an earlier reward was earned",
    )
