"""RewardPool, the clock: epoch e is followed by the window that observes it; who may close it, when, and what waits.

A window is [start, start + WINDOW_S): its first and last second count, and it can be closed from the second after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from oracle.vault_state import Reason, VaultState
from tests.contracts.world import (
    EPOCH_S,
    HOUR_S,
    REWARD_RATE,
    WINDOW_S,
    Strategy,
    World,
    eth,
    none_of,
    one,
    struct,
    tokens,
    usd,
)  # fmt: skip


@pytest.fixture
def invested(world: World, strategy: Strategy) -> Strategy:
    world.buy(strategy, usd(500_000))
    return strategy


@pytest.fixture(autouse=True)
def books_balance(world: World) -> Iterator[None]:
    yield
    world.assert_books_balance()


def mine_at(world: World, timestamp_s: int, call: Any) -> list:
    """The call in a block of exactly that second, at prices a minute old."""
    world.travel_to(timestamp_s - 60)
    world.evm.next_block_at(timestamp_s)
    return world.send(call, world.stranger)


def close_call(world: World, s: Strategy) -> Any:
    return world.pool.functions.closeWindow(s.vault.address)


def next_window_s(world: World) -> int:
    return world.epoch_start_s(world.current_epoch() + 1)


def is_settled(world: World, s: Strategy) -> bool:
    return bool(world.view(world.pool.functions.isSettled(s.agent_id)))


# --------------------------------------------------------------- what a window sees


@pytest.mark.parametrize(
    ("second", "is_observed"),
    [(-1, False), (0, True), (1, True), (WINDOW_S - 1, True), (WINDOW_S, False), (WINDOW_S + 1, False)],
)
def test_a_window_observes_from_its_first_to_its_last_second(
    world: World, invested: Strategy, second: int, is_observed: bool
) -> None:
    epoch, start_s = world.current_epoch(), next_window_s(world)
    expected = {
        "vault": invested.vault.address, "epoch": epoch, "profit": world.status(invested).profit,
        "observer": world.stranger.address,
    }  # fmt: skip
    events = mine_at(world, start_s + second, invested.vault.functions.poke())
    assert [e.args for e in events if e.name == "ProfitObserved"] == [expected] * is_observed


def test_nothing_is_observed_at_stale_prices(world: World, invested: Strategy) -> None:
    world.to_next_window()
    world.evm.travel(2 * HOUR_S + 60)
    assert none_of(world.poke(invested), "ProfitObserved")
    world.refresh()
    assert one(world.poke(invested), "ProfitObserved")


def test_a_window_remembers_the_lowest_and_the_highest_profit_and_begins_anew(world: World, invested: Strategy) -> None:
    for _ in range(2):
        epoch = world.to_next_window()
        profits = world.observe_at(invested, 2010, 1990, 2020, 2000)
        window = world.view(world.pool.functions.windowOf(invested.vault.address))
        assert (window.epoch, window.observations) == (epoch, 4)
        assert (window.lowest, window.highest) == (min(profits), max(profits))
        assert (window.lowest, window.highest) == (profits[1], profits[2])


def test_only_a_registered_vault_is_observed(world: World) -> None:
    world.to_next_window()
    with world.reverts("RewardPoolUnknownVault", vault=world.stranger.address):
        world.send(world.pool.functions.sync(usd(1_000_000), 0, True, 0, world.stranger.address), world.stranger)


def test_anybody_asks_how_a_vault_would_stand(world: World, invested: Strategy) -> None:
    covered = -(world.bond_of(invested.agent_id) // REWARD_RATE)
    bond = world.bond_of(invested.agent_id)
    standing = lambda worst_profit: world.view(  # noqa: E731
        world.pool.functions.standing(invested.vault.address, worst_profit, bond)
    )
    assert (standing(0), standing(covered), standing(covered - 1)) == (0, 0, Reason.COLLATERAL)
    world.to_next_window()
    world.to_window_end()
    assert (standing(covered), standing(covered - 1)) == (Reason.UNSETTLED, Reason.UNSETTLED | Reason.COLLATERAL)


# ---------------------------------------------------------------- a vault's first window


def test_a_vault_deployed_in_a_window_is_not_observed_in_it(world: World) -> None:
    epoch = world.to_next_window()
    s = world.deploy_strategy()
    assert none_of(world.poke(s), "ProfitObserved")
    world.to_window_end()
    assert is_settled(world, s)
    with world.reverts("RewardPoolNothingToClose", vault=s.vault.address, nextEpoch=epoch + 1):
        world.send(close_call(world, s), world.stranger)
    world.settle(s)
    assert world.account(s).nextEpoch == epoch + 2


def test_a_vault_deployed_in_the_last_second_of_an_epoch_is_observed_a_second_later(world: World) -> None:
    strategy_id = world.submit(world.manifest(world.register_agent()))
    epoch, start_s = world.current_epoch(), next_window_s(world)
    world.travel_to(start_s - 60)
    world.as_timelock(world.strategies.functions.approve(strategy_id))
    world.evm.next_block_at(start_s - 1)
    world.as_timelock(world.factory.functions.deployVault(strategy_id))
    s = Strategy(strategy_id, world.vault_of(strategy_id), 1, {})
    assert world.account(s).nextEpoch == epoch
    assert one(world.poke(s), "ProfitObserved")["epoch"] == epoch


def test_before_the_first_epoch_nothing_is_observed_and_nothing_is_due(world: World) -> None:
    begins_s = world.now_s() + 3 * EPOCH_S
    later = World(world.evm, rewards=replace(world.genesis.rewards, genesis_s=begins_s))
    s = later.deploy_strategy()
    assert none_of(later.poke(s), "ProfitObserved")
    assert is_settled(later, s)
    later.travel_to(begins_s + 60)
    assert none_of(later.poke(s), "ProfitObserved"), "epoch 0 has only begun"
    with later.reverts("RewardPoolNothingToClose", vault=s.vault.address, nextEpoch=0):
        later.send(close_call(later, s), later.stranger)
    assert later.settle(s) == 0
    assert later.account(s).nextEpoch == 1


# --------------------------------------------------------------------------- closing


def test_an_unknown_vault_has_no_window(world: World) -> None:
    with world.reverts("RewardPoolUnknownVault", vault=world.stranger.address):
        world.send(world.pool.functions.closeWindow(world.stranger.address), world.stranger)


def test_there_is_nothing_to_close_before_the_first_window(world: World, invested: Strategy) -> None:
    with world.reverts("RewardPoolNothingToClose", vault=invested.vault.address, nextEpoch=0):
        world.send(close_call(world, invested), world.stranger)


def test_a_window_closes_only_after_its_last_second(world: World, invested: Strategy) -> None:
    epoch = world.to_next_window()
    world.poke(invested)
    end_s = world.epoch_start_s(epoch + 1) + WINDOW_S
    world.travel_to(end_s - 60)
    world.evm.next_block_at(end_s - 1)
    with world.reverts("RewardPoolNothingToClose", vault=invested.vault.address, nextEpoch=epoch):
        world.send(close_call(world, invested), world.stranger)
    assert is_settled(world, invested), "unsettled only after the window"
    closed = one(world.send(close_call(world, invested), world.stranger), "WindowClosed")
    assert (closed["epoch"], world.now_s()) == (epoch, end_s)


def test_a_window_closes_once(world: World, strategy: Strategy) -> None:
    epoch = world.to_next_window()
    world.poke(strategy)
    world.to_window_end()
    world.close(strategy)
    with world.reverts("RewardPoolNothingToClose", vault=strategy.vault.address, nextEpoch=epoch + 1):
        world.close(strategy)


def test_a_window_that_nobody_observed_cannot_be_closed(world: World, invested: Strategy) -> None:
    epoch = world.to_next_window()
    world.to_window_end()
    with world.reverts("RewardPoolWindowMissed", vault=invested.vault.address, epoch=epoch):
        world.close(invested)


def test_a_window_can_be_closed_until_the_next_is_observed(world: World, invested: Strategy) -> None:
    epoch = world.to_next_window()
    world.observe_at(invested, 2100)
    world.to_next_window()
    assert world.close(invested) > 0, "in the next window, which nobody has observed yet"
    world.apply(invested, world.account(invested).pendingMove)
    world.observe_at(invested, 2000)
    world.to_next_window()
    world.observe_at(invested, 2000)
    with world.reverts("RewardPoolWindowMissed", vault=invested.vault.address, epoch=epoch + 1):
        world.close(invested)


def test_the_next_window_closes_only_when_the_result_has_been_applied(world: World, invested: Strategy) -> None:
    world.to_next_window()
    [first] = world.observe_at(invested, 2050)
    world.to_window_end()
    assert world.close(invested) == first
    world.to_next_window()
    [second] = world.observe_at(invested, 2100)
    world.to_window_end()
    with world.reverts("RewardPoolResultPending", vault=invested.vault.address, move=first):
        world.close(invested)
    world.apply(invested, first)
    assert world.close(invested) == second - first
    world.apply(invested, second - first)


def test_the_cap_cannot_change_under_a_frozen_result(world: World, invested: Strategy) -> None:
    update = invested.manifest | {"updates": invested.id, "capital": 0, "rewardCap": tokens(1_000)}
    update_id = world.submit(update)
    world.as_timelock(world.strategies.functions.approve(update_id))
    world.to_next_window()
    [move] = world.observe_at(invested, 2100)
    world.to_window_end()
    world.close(invested)
    with world.reverts("RewardPoolResultPending", vault=invested.vault.address, move=move):
        world.as_timelock(world.strategies.functions.applyUpdate(update_id))
    world.apply(invested, move)
    world.as_timelock(world.strategies.functions.applyUpdate(update_id))
    assert world.account(invested).cap == tokens(1_000)


# ------------------------------------------------------------------ what waits for it


def leave_unclosed(world: World, s: Strategy) -> Callable[[], None]:
    world.to_next_window()
    world.observe_at(s, 2090)
    world.to_window_end()
    return lambda: world.apply(s, world.close(s))


def leave_unapplied(world: World, s: Strategy) -> Callable[[], None]:
    world.to_next_window()
    world.observe_at(s, 2090)
    world.to_window_end()
    move = world.close(s)
    return lambda: world.apply(s, move)


def leave_unobserved(world: World, s: Strategy) -> Callable[[], None]:
    world.to_next_window()
    world.to_window_end()
    world.set_price("ETH", 2090, pool_follows=False)
    return lambda: world.settle(s)


Leave = Callable[[World, Strategy], Callable[[], None]]
WAYS = pytest.mark.parametrize("leave", [leave_unclosed, leave_unapplied, leave_unobserved])


@pytest.fixture
def vesting(world: World, invested: Strategy) -> Strategy:
    world.set_price("ETH", 2100)
    world.settle(invested)
    return invested


@WAYS
def test_unsettled_stops_claims(world: World, vesting: Strategy, leave: Leave) -> None:
    settle = leave(world, vesting)
    claim = world.pool.functions.claim(vesting.vault.address)
    with world.reverts("RewardPoolUnsettled", vault=vesting.vault.address):
        world.send(claim, world.controller)
    settle()
    assert one(world.send(claim, world.controller), "Claimed")["amount"] > 0


@WAYS
def test_unsettled_keeps_bond_and_deposit(world: World, vesting: Strategy, leave: Leave) -> None:
    settle = leave(world, vesting)
    withdrawals = [
        world.agents.functions.withdrawBond(vesting.agent_id, 1),
        world.agents.functions.withdrawDeposit(vesting.agent_id, 1),
    ]
    for withdraw in withdrawals:
        with world.reverts("AgentRegistryUnsettled", agentId=vesting.agent_id):
            world.send(withdraw, world.controller)
    settle()
    for withdraw in withdrawals:
        world.send(withdraw, world.controller)


@WAYS
def test_unsettled_keeps_the_agent_where_it_is(world: World, vesting: Strategy, leave: Leave) -> None:
    settle = leave(world, vesting)
    transfer = world.agents.functions.transferFrom(
        world.controller.address, world.other_controller.address, vesting.agent_id
    )
    with world.reverts("AgentRegistryUnsettled", agentId=vesting.agent_id):
        world.send(transfer, world.controller)
    settle()
    world.send(transfer, world.controller)
    assert world.view(world.agents.functions.controllerOf(vesting.agent_id)) == world.other_controller.address


@WAYS
def test_unsettled_refuses_buys_and_lets_sales_through(world: World, vesting: Strategy, leave: Leave) -> None:
    settle = leave(world, vesting)
    order = world.order(vesting, usd(1_000), buy=True)
    refused = one(world.send(vesting.vault.functions.trade(struct(order)), world.signer), "TradeRefused")
    assert (refused["reasons"], refused["nonce"]) == (Reason.UNSETTLED, order["nonce"])
    status = world.status(vesting)
    assert (status.state, status.reasons) == (VaultState.REDUCING, Reason.UNSETTLED)
    assert one(world.sell(vesting, eth(1)), "TradeRecorded")
    settle()
    assert world.status(vesting).reasons == 0
    assert one(world.buy(vesting, usd(1_000)), "TradeRecorded")


def test_inside_the_window_the_agent_trades_and_is_paid(world: World, vesting: Strategy) -> None:
    world.to_next_window()
    assert is_settled(world, vesting)
    assert one(world.buy(vesting, usd(1_000)), "TradeRecorded")
    assert one(world.send(world.pool.functions.claim(vesting.vault.address), world.relayer), "Claimed")


def test_an_account_without_a_vault_is_settled(world: World) -> None:
    agent_id = world.register_agent()
    world.to_next_window()
    world.to_window_end()
    assert world.view(world.pool.functions.isSettled(agent_id))


def test_a_result_stays_the_same_however_late_it_is_applied(world: World, invested: Strategy) -> None:
    world.to_next_window()
    [move] = world.observe_at(invested, 2100)
    world.to_window_end()
    world.close(invested)
    for _ in range(3):
        world.to_next_window()
        world.observe_at(invested, 1500)
        world.to_window_end()
    assert one(world.apply(invested, move), "Rewarded")["reward"] == move * REWARD_RATE
    assert world.close(invested) == world.status(invested).profit - move, "and only the last of the others is left"
