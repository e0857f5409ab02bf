"""Base units harvested from rounding, over many tiny trades and settlements."""

from __future__ import annotations

from decimal import Decimal

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import claim, credited, paid_less_taken, profit, settle_at
from tests.contracts.world import REWARD_RATE, World, eth, tokens


def test_no_tiny_trade_leaves_more_profit_than_it_found(world: World, attack: Report) -> None:
    """The smallest amounts that the limits let through, to and fro, at a price that divides badly."""
    s = world.deploy_strategy()
    world.set_price("ETH", Decimal("1999.99999937"))
    world.buy(s, 1_000_003)
    with world.reverts("VaultZeroAmount"):
        world.buy(s, 1)
    with world.reverts("VaultSlippageExceeded", shortfall=2, allowed=0):
        world.buy(s, 100)
    before, seen = profit(world, s), []
    for amount in (1_003, 777, 10_007, 333_333):
        world.buy(s, amount)
        seen.append(profit(world, s))
        world.sell(s, int(eth(amount) / 2000 / 10**6))
        seen.append(profit(world, s))
    assert seen == sorted(seen, reverse=True) and seen[0] <= before, "each costs, none adds"
    assert credited(world, s) == 0 > settle_at(world, s, 2000)
    attack.outcome(
        gained=f"{seen[-1] - before} base units of quote in {len(seen)} trades",
        cost="the pool's fees, and gas",
        stopped_by="rounding down; VaultSlippageExceeded for dust",
    )


def test_many_settlements_of_a_unit_pay_no_more_than_one(world: World, attack: Report) -> None:
    """A rate and a cap that don't divide: the account moves by whole units, and the sum telescopes."""
    rate = 3 * REWARD_RATE + 7
    s = world.deploy_strategy(world.register_agent(bond_wei=tokens(90_000)), rewardRate=rate, rewardCap=5 * rate + 6)
    world.buy(s, 2_000_000)  # a thousandth of an ETH: a cent of its price is ten base units of profit
    steps = ("2003", "2003.009", "2003.02", "2003.011", "2003.05", "2003.049", "2003.07", "2003.07", "2003.07")
    for price in steps:
        settle_at(world, s, Decimal(price))
        assert paid_less_taken(world, s) == credited(world, s) * rate
        assert credited(world, s) <= profit(world, s)
    world.assert_books_balance()
    total = paid_less_taken(world, s)
    assert total <= max(0, profit(world, s)) * rate
    attack.outcome(
        gained=f"{total} wei in {len(steps)} settlements: rate x account, to the wei",
        cost="gas of 36 transactions",
        stopped_by="whole units of the account",
    )


def test_vesting_claimed_every_minute_pays_no_wei_more(world: World, attack: Report) -> None:
    s = world.deploy_strategy()
    world.buy(s, 500_000 * 10**6)
    reward = settle_at(world, s, 2090) * REWARD_RATE
    paid = 0
    for _ in range(30):
        world.evm.travel(60)
        paid += claim(world, s)
    vested, unvested = world.view(world.pool.functions.vestedOf(s.vault.address))
    assert paid + vested + unvested == reward
    account = world.account(s)
    ends_in = account.vestEndsAt - world.now_s()
    assert abs(unvested - reward * ends_in // (30 * 86_400)) <= 31, "a wei a claim at most, and it stays behind"
    attack.outcome(gained="0 wei in 30 claims", cost="gas", stopped_by="what is not vested yet stays unvested")
