"""An agent trades with itself: its vault with its own money, or its one vault with its other."""

from __future__ import annotations

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import OwnPool, credited, deploy_at, paid_less_taken, profit, say_tokens, say_usd
from tests.contracts.world import ANY, REWARD_RATE, RULES, Strategy, World, tokens, usd


@pytest.fixture
def own_pool(world: World) -> OwnPool:
    return OwnPool(world, world.controller)


def settle_all(world: World, *strategies: Strategy) -> None:
    world.to_next_window()
    for s in strategies:
        world.poke(s)
    world.to_window_end()
    for s in strategies:
        if move := world.close(s):
            world.apply(s, move)


def test_profit_bought_with_one_s_own_money_costs_what_it_is_worth(
    world: World, own_pool: OwnPool, attack: Report
) -> None:
    """The agent sells to its vault below the market. The tokens are dear: at 1 / rate each, and up to the cap."""
    s = deploy_at(world, own_pool)
    before = own_pool.wealth()
    given = -own_pool.deal(s, 300_000, buy=True, shortfall_bps=-500)
    lost = before - own_pool.wealth()
    assert abs(lost - given) <= 100 and given > usd(14_000)
    settle_all(world, s)
    bought = paid_less_taken(world, s)
    assert bought <= given * REWARD_RATE
    assert profit(world, s) >= credited(world, s), "the treasury has the money"
    attack.outcome(
        gained=f"{say_tokens(bought)}, vesting",
        cost=f"{say_usd(lost)}, to the treasury: {lost / 10**6 / (bought / 1e18):.2f} USD a token, 1 / rate",
        stopped_by="the price, the cap; not by a rule",
    )


def test_profit_given_and_taken_back_again_leaves_nothing(world: World, own_pool: OwnPool, attack: Report) -> None:
    """Given just before the window, observed, and taken back through slippage afterwards, as far as its sum allows."""
    s = deploy_at(world, own_pool)
    before = own_pool.wealth()
    own_pool.deal(s, 200_000, buy=True, shortfall_bps=-480)
    world.to_next_window()
    world.poke(s)
    for is_buy in (False, True, False, True, False):
        own_pool.deal(s, 200_000, buy=is_buy, shortfall_bps=55)
    world.to_window_end()
    world.apply(s, world.close(s))
    while_it_lasts = paid_less_taken(world, s)
    assert while_it_lasts > 0
    settle_all(world, s)
    lost = before - own_pool.wealth()
    assert paid_less_taken(world, s) == profit(world, s) * REWARD_RATE
    assert abs(profit(world, s) - lost) <= 100, "what it did not get back is all that it was paid for"
    attack.outcome(
        gained=f"{say_tokens(paid_less_taken(world, s))} in the end ({say_tokens(while_it_lasts)} for a week)",
        cost=f"{say_usd(lost)} that did not come back",
        stopped_by="the next window",
    )


def move_value(world: World, pool: OwnPool, loser: Strategy, winner: Strategy) -> int:
    """The one vault buys dear what the other sells dear, and the reverse, until the slippage sum is used up: what the
    one lost to the other."""
    pool.deal(winner, 300_000, buy=True, shortfall_bps=0)
    lost = 0
    for is_buy in (True, False, True, False, True):
        lost += pool.deal(loser, 300_000, buy=is_buy, shortfall_bps=57)
        pool.deal(winner, 300_000, buy=not is_buy, shortfall_bps=-57)
    with world.reverts("VaultCumulativeSlippageExceeded", level=ANY, cap=ANY):
        pool.deal(loser, 300_000, buy=False, shortfall_bps=57)
    return lost


def test_two_vaults_that_trade_with_each_other_earn_nothing_together(
    world: World, own_pool: OwnPool, attack: Report
) -> None:
    loser, winner = deploy_at(world, own_pool), deploy_at(world, own_pool)
    before = own_pool.wealth()
    lost = move_value(world, own_pool, loser, winner)
    assert lost > usd(8_000)
    settle_all(world, loser, winner)
    both = paid_less_taken(world, loser) + paid_less_taken(world, winner)
    gained = own_pool.wealth() - before
    assert abs(profit(world, loser) + profit(world, winner) + gained) <= 100, "value is conserved"
    assert abs(both + gained * REWARD_RATE) <= 100 * REWARD_RATE, "rate x what came from the person's own pocket"
    attack.outcome(
        gained=f"{say_tokens(both)} for {say_usd(lost)} moved from one vault to the other",
        cost=f"{say_usd(-gained)} of its own, and the one's slippage sum used up for a week",
        stopped_by="one rate: what the one is paid, the other loses",
    )


def test_two_vaults_with_different_rates_earn_the_difference_within_the_slippage_sum(
    world: World, own_pool: OwnPool, attack: Report
) -> None:
    """A limit that is known: value moved out of a vault is income, and buys tokens at the other's 1 / rate."""
    loser = deploy_at(world, own_pool)
    winner = deploy_at(
        world, own_pool, rewardRate=RULES.max_reward_rate, bond_wei=tokens(240_000), rewardCap=tokens(10_000)
    )
    lost = move_value(world, own_pool, loser, winner)
    settle_all(world, loser, winner)
    both = paid_less_taken(world, loser) + paid_less_taken(world, winner)
    assert both == profit(world, winner) * RULES.max_reward_rate + profit(world, loser) * REWARD_RATE
    assert both > tokens(7_000), "it pays"
    level = world.view(loser.vault.functions.guard()).slippage.level
    assert level <= usd(10_000) and lost - level < usd(10), "all of it stands in the loser's slippage sum"
    deposit = world.view(world.agents.functions.agentOf(loser.agent_id)).deposit
    assert deposit >= world.status(loser).requiredDeposit > lost, "which its deposit covers"
    attack.outcome(
        gained=f"{say_tokens(both)} for {say_usd(lost)} moved from a vault at 0.1 to one at 1 token a dollar",
        cost=f"up to {say_usd(deposit)} of deposit, if a vote awards it",
        stopped_by="the slippage sum (1 % a week here); the deposit covers it; one rate for all ends it",
    )
