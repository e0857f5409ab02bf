"""Rewards made to vest faster, or taken out before they vest: by updates, by a new vault, by the bond."""

from __future__ import annotations

from decimal import Decimal

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import (
    branch,
    claim,
    credited,
    deploy_invested,
    least_bond,
    paid_less_taken,
    profit,
    releasable,
    retire_fully,
    say_tokens,
    settle_at,
    unclaimed,
    withdraw_bond,
)
from tests.contracts.world import DAY_S, REWARD_RATE, VESTING_S, Strategy, World, tokens


def update(world: World, s: Strategy, cap: int) -> None:
    manifest = s.manifest | {"updates": s.id, "capital": 0, "rewardCap": cap, "salt": cap.to_bytes(32)}
    update_id = world.submit(manifest)
    world.as_timelock(world.strategies.functions.approve(update_id))
    world.as_timelock(world.strategies.functions.applyUpdate(update_id))


def vested_at(world: World, s: Strategy, at_s: int) -> int:
    with branch(world):
        world.travel_to(at_s)
        return int(world.view(world.pool.functions.vestedOf(s.vault.address))[0])


def test_neither_update_nor_retirement_nor_a_new_vault_vests_anything_sooner(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    settle_at(world, s, 2090)
    later_s = world.now_s() + 25 * DAY_S
    untouched = vested_at(world, s, later_s)
    assert abs(untouched - unclaimed(world, s) * 25 * DAY_S // VESTING_S) < tokens(1)
    for cap in (tokens(1), tokens(15_000), tokens(5_000)):
        update(world, s, cap)
        assert vested_at(world, s, later_s) == untouched
    with branch(world):
        retire_fully(world, s)
        assert vested_at(world, s, later_s) <= untouched
    retire_fully(world, s)
    again = world.manifest(s.agent_id, salt=b"\x01" * 32)
    strategy_id = world.submit(again)
    world.as_timelock(world.strategies.functions.approve(strategy_id))
    world.as_timelock(world.factory.functions.deployVault(strategy_id))
    assert vested_at(world, s, later_s) <= untouched
    attack.outcome(gained="0 tokens sooner", cost="five votes", stopped_by="each vault's own schedule")


def test_a_small_gain_hurries_no_large_one(world: World, attack: Report) -> None:
    """Token-seconds are conserved: what the weighted end gives to the one it takes from the other."""
    s = deploy_invested(world)
    settle_at(world, s, 2000)
    settle_at(world, s, 2150)
    end_s = world.account(s).vestEndsAt
    for price in (2151, 2152, 2153):
        before = world.view(world.pool.functions.vestedOf(s.vault.address))
        settle_at(world, s, price)
        account = world.account(s)
        assert account.unvested < before.unvested + tokens(30)
        assert account.vested > before.vested
        assert account.vestEndsAt > end_s, "never sooner"
        moved_s, end_s = account.vestEndsAt - end_s, account.vestEndsAt
        assert moved_s < 2 * DAY_S, "nor much later"
    attack.outcome(
        gained="0 s: three small gains move the end of a large one back only",
        cost=f"{Decimal(moved_s) / DAY_S:.2f} days later for the last of them",
        stopped_by="the mean of the ends, weighted by amount, rounded up",
    )


def test_bond_against_what_still_vests_is_liquid_at_once_but_no_stake_is_lost(world: World, attack: Report) -> None:
    """A fact rather than a theft: what vests counts as collateral, so as much of the bond may leave on the first day.
    What stays still covers the worst case, and all of it is taken when that comes."""
    s = deploy_invested(world, agent_id=world.register_agent(bond_wei=least_bond(world)))
    settle_at(world, s, 2000)
    reward = settle_at(world, s, 2190) * REWARD_RATE
    assert sum(world.view(world.pool.functions.vestedOf(s.vault.address))) == reward
    early = releasable(world, s)
    assert 0 < early < reward
    withdraw_bond(world, s, early)
    held = unclaimed(world, s) + world.bond_of(s.agent_id)
    worst = world.view(s.vault.functions.worstProfit())
    assert held == (credited(world, s) - worst) * REWARD_RATE, "exactly what the worst case takes"
    # The worst case comes: the hard drawdown, which halts, then the largest discount and the gap on top.
    settle_at(world, s, 1555)
    assert credited(world, s) == profit(world, s) > worst
    assert paid_less_taken(world, s) == profit(world, s) * REWARD_RATE
    attack.outcome(
        gained=f"{say_tokens(early)} of {say_tokens(reward)} liquid 30 days early, as bond",
        cost="its own bond, exchanged for what vests",
        stopped_by="collateral: what is left covers the worst case to the wei; out of slashBond's reach, though",
    )


def test_all_that_may_be_claimed_before_a_loss_leaves_enough_for_it(world: World, attack: Report) -> None:
    """Claimed and withdrawn to the wei in the second before the fall is observed."""
    s = deploy_invested(world, agent_id=world.register_agent(bond_wei=(bond := least_bond(world))))
    settle_at(world, s, 2090)
    world.travel(6 * DAY_S)
    world.set_price("ETH", 1700, pool_follows=False)
    world.to_next_window()
    claimed = claim(world, s)
    withdraw_bond(world, s, releasable(world, s))
    out = claimed + bond - world.bond_of(s.agent_id)
    with world.reverts("RewardPoolNothingToClaim", vault=s.vault.address):
        world.send(world.pool.functions.claim(s.vault.address), world.controller)
    world.poke(s)
    world.to_window_end()
    loss = world.close(s)
    world.apply(s, loss)
    assert credited(world, s) == profit(world, s), "all of it was there"
    assert -loss * REWARD_RATE > out
    attack.outcome(
        gained=f"0 tokens; {say_tokens(out)} out before",
        cost=f"{say_tokens(-loss * REWARD_RATE)} taken after",
        stopped_by="claims and withdrawals release the excess only",
    )
