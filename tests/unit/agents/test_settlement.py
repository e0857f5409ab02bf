"""Settling: a window is observed while it is open, closed when it has ended, and its result applied once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agents.localnet.evm import LocalEvm, start_evm
from agents.settlement import Act, Due, Settlement, Settler
from tests.contracts.world import EPOCH_S, REWARD_RATE, WINDOW_S, Strategy, World, none_of, usd


@pytest.fixture(scope="module")
def evm() -> Iterator[LocalEvm]:
    with start_evm() as started:
        yield started


@pytest.fixture(scope="module")
def deployed(evm: LocalEvm) -> World:
    return World(evm)


@pytest.fixture
def world(deployed: World) -> Iterator[World]:
    snapshot = deployed.evm.snapshot()
    yield deployed
    deployed.evm.revert(snapshot)


@pytest.fixture
def strategy(world: World) -> Strategy:
    """Half of its million dollars is in ETH, so that its profit follows the price."""
    s = world.deploy_strategy()
    world.buy(s, usd(500_000))
    return s


@pytest.fixture
def settler(world: World, strategy: Strategy) -> Settler:
    return Settler(world.evm, world.d, strategy.vault, world.observer)


def profit(world: World, s: Strategy) -> int:
    return int(world.status(s).profit)


# When


@pytest.mark.parametrize(
    ("second", "is_open"), [(-1, False), (0, True), (1, True), (WINDOW_S - 1, True), (WINDOW_S, False)]
)
def test_a_window_is_open_exactly_when_the_contract_observes(
    world: World, strategy: Strategy, settler: Settler, second: int, is_open: bool
) -> None:
    at_s = world.epoch_start_s(world.current_epoch() + 1) + second
    world.travel_to(at_s - 60)
    world.evm.next_block_at(at_s)
    assert none_of(world.poke(strategy), "ProfitObserved") is not is_open
    assert world.now_s() == at_s
    assert settler.in_window(at_s) is is_open


@pytest.mark.parametrize("second", [0, 1, WINDOW_S - 1, WINDOW_S, WINDOW_S + 1, EPOCH_S - 1])
def test_an_epoch_is_over_when_its_window_has_ended(world: World, settler: Settler, second: int) -> None:
    third = world.epoch_start_s(3) + second
    assert settler.last_ended(third) == (2 if second >= WINDOW_S else 1)
    assert settler.next_window_s(third) == world.epoch_start_s(4)


def test_before_the_first_window_has_ended_nothing_is_over(world: World, settler: Settler) -> None:
    first = world.epoch_start_s(1)
    assert settler.last_ended(world.epoch_start_s(0)) is None
    assert settler.last_ended(first + WINDOW_S - 1) is None
    assert settler.last_ended(first + WINDOW_S) == 0
    assert not settler.in_window(world.epoch_start_s(0) + 1), "the first epoch has no window at its beginning"
    assert settler.next_window_s(world.epoch_start_s(0) - 5) == first


# What


def test_a_gain_is_observed_closed_and_paid_once(world: World, strategy: Strategy, settler: Settler) -> None:
    world.set_price("ETH", 2100)
    epoch = world.to_next_window()
    assert settler.due(world.now_s()) == Due(act=Act.OBSERVE, agent_id=strategy.agent_id, epoch=epoch)
    assert settler.step(world.now_s()) is None
    world.to_window_end()
    assert settler.due(world.now_s()) == Due(act=Act.CLOSE, agent_id=strategy.agent_id, epoch=epoch)
    pnl = profit(world, strategy)
    assert pnl > usd(20_000)
    assert settler.step(world.now_s()) == Settlement(
        agent_id=strategy.agent_id, vault=strategy.vault.address, epoch=epoch, pnl=pnl, reward_wei=pnl * REWARD_RATE
    )
    assert settler.due(world.now_s()) == Due(act=Act.NOTHING, agent_id=strategy.agent_id)
    assert settler.step(world.now_s()) is None
    assert world.account(strategy).credited == pnl
    world.assert_books_balance()


def test_a_loss_is_taken_back(world: World, strategy: Strategy, settler: Settler) -> None:
    world.set_price("ETH", 1900)
    epoch = world.to_next_window()
    settler.step(world.now_s())
    world.to_window_end()
    pnl = profit(world, strategy)
    assert pnl < usd(-20_000)
    assert settler.step(world.now_s()) == Settlement(
        agent_id=strategy.agent_id, vault=strategy.vault.address, epoch=epoch, pnl=pnl,
        clawed_back_wei=-pnl * REWARD_RATE,
    )  # fmt: skip


def test_a_window_between_gain_and_loss_settles_with_nothing(
    world: World, settler: Settler, strategy: Strategy
) -> None:
    epoch = world.to_next_window()
    world.observe_at(strategy, 1900, 2100)
    world.to_window_end()
    assert settler.step(world.now_s()) == Settlement(
        agent_id=strategy.agent_id, vault=strategy.vault.address, epoch=epoch, pnl=0
    )
    assert settler.due(world.now_s()).act is Act.NOTHING


def test_a_window_that_nobody_observed_is_missed_and_nothing_is_sent(
    world: World, strategy: Strategy, settler: Settler
) -> None:
    epoch = world.to_next_window()
    world.to_window_end()
    block = world.w3.eth.block_number
    assert settler.due(world.now_s()) == Due(act=Act.MISSED, agent_id=strategy.agent_id, epoch=epoch)
    assert settler.step(world.now_s()) is None
    assert world.w3.eth.block_number == block


def test_a_result_that_somebody_else_froze_is_applied_before_anything_else(
    world: World, strategy: Strategy, settler: Settler
) -> None:
    world.set_price("ETH", 2100)
    epoch = world.to_next_window()
    world.poke(strategy)
    world.to_window_end()
    move = world.close(strategy)
    world.to_next_window()  # is open, but could not be closed before the result is applied
    assert settler.due(world.now_s()) == Due(act=Act.APPLY, agent_id=strategy.agent_id, epoch=epoch, pnl=move)
    settled = settler.step(world.now_s())
    assert settled is not None
    assert (settled.epoch, settled.pnl, settled.reward_wei) == (epoch, move, move * REWARD_RATE)
    assert settler.due(world.now_s()).act is Act.OBSERVE
