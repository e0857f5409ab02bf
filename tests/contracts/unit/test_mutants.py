"""Promises that a changed contract could break unnoticed: each test was written against a mutant (`tools/mutate.py`).

The desk holds 250 ETH at 2,000 USD and 500,000 in quote until a test says otherwise.
"""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.contracts.vaults import Desk, Reason, State, condition, halt, recall, stop, tighten
from tests.contracts.world import DAY_S, Strategy, World, eth, none_of, usd

STEP = Decimal("0.00000001")  # the last digit of a feed's answer
# PUSH3 size, PUSH0, RETURN: about all that the gas given to a token can buy.
RETURN_200_KIB = bytes.fromhex("620323005ff3")


@pytest.fixture
def desk(world: World) -> Desk:
    desk = Desk(world)
    desk.buy(usd(500_000), eth(250))
    return desk


def set_eth(world: World, price_usd: int | Decimal) -> None:
    """The oracle's price only: the desk's venue has no pool."""
    world.set_price("ETH", price_usd, pool_follows=False)


# The vault's state


def test_one_base_unit_without_a_price_is_a_price_missing(world: World, desk: Desk) -> None:
    recall(world, desk.s, world.token_of("ETH"), eth(250) - 1)
    world.as_timelock(world.oracle.functions.removeFeed(world.token_of("ETH")))
    assert not world.status(desk.s).priced
    assert Reason.PRICE_MISSING in condition(world, desk.s)[1]


def test_what_is_latched_hides_no_other_reason(world: World) -> None:
    """Everything that can be wrong at once, as the derivation after the one that latched it tells it."""
    desk = Desk(world, agent_id=world.register_agent(deposit=usd(44_000), bond_wei=51_000 * 10**18))
    desk.buy(usd(500_000), eth(250))
    world.as_timelock(world.agents.functions.slashBond(desk.s.agent_id, 50_500 * 10**18))
    set_eth(world, 2401)
    world.poke(desk.s)
    halt(world, desk.s)
    world.travel(DAY_S)
    stop(world, desk.s)
    set_eth(world, 1900)
    world.poke(desk.s)
    world.as_timelock(world.agents.functions.awardDeposit(desk.s.agent_id, usd(20_000)))
    expected = Reason.DAY_LOSS | Reason.DRAWDOWN | Reason.HALTED | Reason.DEPOSIT | Reason.COLLATERAL | Reason.GUARDIAN
    assert condition(world, desk.s) == (State.HALTED, expected)
    set_eth(world, 2401)  # only what is latched keeps the first three
    assert condition(world, desk.s) == (State.HALTED, expected)
    world.market.publish(world.book.quote_symbol, Decimal("0.9"))
    unpriced = expected ^ Reason.DEPOSIT | Reason.QUOTE_UNHEALTHY | Reason.PRICE_MISSING  # ETH is worth nothing now
    assert condition(world, desk.s) == (State.HALTED, unpriced)


def test_a_poke_today_changes_nothing_about_what_today_s_loss_counts_from(world: World, desk: Desk) -> None:
    set_eth(world, 2400)  # 1.10 for each unit
    world.poke(desk.s)
    world.travel_to((world.now_s() // DAY_S + 1) * DAY_S)
    set_eth(world, 2240)  # 1.06
    world.poke(desk.s)
    world.travel_to((world.now_s() // DAY_S + 1) * DAY_S)
    set_eth(world, 2180)  # 1.045, 5 % below the day before yesterday
    assert none_of(world.poke(desk.s), "StateChanged")
    set_eth(world, 2180 - STEP)
    assert condition(world, desk.s) == (State.REDUCING, Reason.DAY_LOSS)


# What only gas shows


def gas_of_recall(world: World, s: Strategy) -> int:
    call = world.treasury.functions.recall(s.id, world.book.quote, 1, 0)
    return int(world.evm.send(call, world.d.timelock)["gasUsed"])


@pytest.mark.parametrize("what", ["token", "feed"])
def test_a_second_flood_costs_no_more_than_the_first(world: World, what: str) -> None:
    """What a token or a feed answers is forgotten before the next one is asked; else memory's price would grow with
    the square of their number."""
    s = world.deploy_strategy(assets=("ETH", "BTC"))
    for symbol in ("ETH", "BTC"):
        world.buy(s, usd(100_000), symbol=symbol)
    gas_of_recall(world, s)
    gas = [gas_of_recall(world, s)]
    for symbol in ("ETH", "BTC"):
        world.evm.set_code(getattr(world.book.asset(symbol), what), RETURN_200_KIB)
        gas.append(gas_of_recall(world, s))
    first, second = gas[1] - gas[0], gas[2] - gas[1]
    assert first > 100_000
    assert second <= first


def test_a_change_of_the_constitution_is_read_once(world: World, desk: Desk) -> None:
    """The next call keeps what binds; later ones need not ask for it again."""
    gas_of_poke = lambda: int(world.evm.send(desk.s.vault.functions.poke(), world.stranger)["gasUsed"])  # noqa: E731
    gas_of_poke()
    kept = gas_of_poke()
    tighten(world, max_position_bps=7000)
    assert gas_of_poke() > kept + 10_000
    assert abs(gas_of_poke() - kept) < 1000
