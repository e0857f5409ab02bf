"""A gap beyond the collateral: the one option that is left. What it is worth, and who pays, over a range of gaps.

The agent has exactly the bond that a vault needs and everything in assets, half ETH and half BTC. All prices jump
between two rounds by a share, up or down with the same chance: a fair market, in which honest profit is worth nothing.
"""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import (
    branch,
    credited,
    least_bond,
    paid_less_taken,
    profit,
    say_tokens,
    settle_at,
)
from tests.contracts.world import REWARD_RATE, Strategy, World, tokens, usd

ASSETS = ("ETH", "BTC")
START = {"ETH": Decimal(2000), "BTC": Decimal(60_000)}


@pytest.fixture
def all_in(world: World) -> Strategy:
    agent_id = world.register_agent(bond_wei=least_bond(world, assets=ASSETS))
    s = world.deploy_strategy(agent_id, assets=ASSETS, rewardCap=tokens(20_000))
    world.buy(s, usd(500_000))
    world.buy(s, usd(499_000), symbol="BTC")
    settle_at(world, s, 2000)
    return s


def jump(world: World, s: Strategy, share: Decimal) -> tuple[int, int]:
    """Token wei paid less taken after that jump, once every window has had its turn; and the loss left open."""
    world.set_price("BTC", START["BTC"] * (1 + share), pool_follows=False)
    while settle_at(world, s, START["ETH"] * (1 + share)) and credited(world, s) < profit(world, s):
        pass
    return paid_less_taken(world, s), max(0, credited(world, s) - profit(world, s))


def test_what_a_gap_beyond_the_collateral_is_worth_and_who_pays(world: World, all_in: Strategy, attack: Report) -> None:
    fee = paid_less_taken(world, all_in)
    stake = world.bond_of(all_in.agent_id)
    covered = Decimal(stake) / REWARD_RATE / usd(1_000_000)
    worth = {}
    for percent in (10, 20, 25, 30, 40, 60, 90):
        share = Decimal(percent) / 100
        with branch(world):
            up, _ = jump(world, all_in, share)
        with branch(world):
            down, still_open = jump(world, all_in, -share)
            left = world.bond_of(all_in.agent_id)
        worth[percent] = (up - fee) + (down - fee)
        rounding = 4 * REWARD_RATE
        assert abs(worth[percent] - still_open * REWARD_RATE) <= rounding, "the option is the loss left open, exactly"
        if share < covered - Decimal("0.005"):
            assert still_open == 0 and abs(worth[percent]) <= rounding, "within the collateral there is no option"
        else:
            assert left < REWARD_RATE, "beyond it, all that there was has been taken"
    assert worth[20] <= 4 * REWARD_RATE < worth[25]
    table = ", ".join(f"{percent} %: {Decimal(total) / 2 / 10**18:,.0f}" for percent, total in worth.items())
    attack.outcome(
        gained=f"expected tokens a jump of a million dollars by (up or down, each with chance 1/2) {table}",
        cost=f"{say_tokens(stake)} of stake, which covers a fall of {covered:.1%} and is all lost in a larger one",
        stopped_by="collateral up to there; beyond it the pool pays: the loss stays open against the agent",
    )


def test_what_a_gap_left_open_is_not_earned_again(world: World, all_in: Strategy, attack: Report) -> None:
    """The agent stays: it gets nothing until its profit is above the account, and no new vault either."""
    with branch(world):
        jump(world, all_in, Decimal("-0.6"))
        world.set_price("BTC", START["BTC"] * Decimal("0.7"), pool_follows=False)
        assert settle_at(world, all_in, START["ETH"] * Decimal("0.7")) < 0, "still below: asked for again, in vain"
        taken = paid_less_taken(world, all_in)
        world.set_price("BTC", START["BTC"], pool_follows=False)
        while settle_at(world, all_in, START["ETH"]):
            pass
        assert paid_less_taken(world, all_in) - taken <= -taken, "the way back returns what was taken and no more"
        assert credited(world, all_in) == profit(world, all_in)
    attack.outcome(
        gained="0 tokens for an agent that stays",
        cost="its whole stake until the profit is back",
        stopped_by="the account stands where it was collected to",
    )
