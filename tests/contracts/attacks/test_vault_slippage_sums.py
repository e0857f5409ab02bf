"""Games with the decaying sums of slippage and the deposit that covers them.

The venue fills as told, which is the best an agent that trades with itself can arrange: it takes what the guard allows,
to the base unit. The vault has a million; 1 % may be lost in trades and 3 % in sales while reducing.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import dollars
from tests.contracts.vaults import Desk, Reason, State, allocate, condition, guard, halt, never_decay, recall
from tests.contracts.world import ANY, LIMITS, RULES, World, eth, usd

WEI_PER_UNIT = 5 * 10**8  # of ETH for one base unit of quote, at 2,000 dollars
LOOSE = replace(LIMITS, max_trades_per_day=50, max_daily_turnover_bps=40_000)


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world, LOOSE)


def take_by_buying(desk: Desk, base: int, bps: int = 60) -> int:
    """The venue keeps that share of a buy; returns it."""
    taken = base * bps // 10_000
    desk.buy(base, (base - taken) * WEI_PER_UNIT)
    return taken


def take_by_selling(desk: Desk, base: int, bps: int = 60) -> int:
    taken = base * bps // 10_000
    desk.sell(base * WEI_PER_UNIT, base - taken)
    return taken


def lost(desk: Desk) -> int:
    return usd(1_000_000) - desk.world.status(desk.s).value


def drain(desk: Desk) -> int:
    """All but a little of the first sum: $9,900; about 168 ETH are left in the vault."""
    take_by_buying(desk, usd(500_000))
    take_by_selling(desk, usd(497_000))
    take_by_buying(desk, usd(500_000))
    rest = usd(9900) - lost(desk)
    desk.sell(usd(160_000) * WEI_PER_UNIT, usd(160_000) - rest)
    return lost(desk)


def test_both_sums_taken_one_after_the_other_are_covered_by_the_deposit(
    world: World, desk: Desk, attack: Report
) -> None:
    """First the agent drains the sum for trades. Then its controller withdraws what the deposit releases, so that the
    next rise in price makes the vault REDUCING, which opens the larger allowance for sales."""
    never_decay(world)
    first = drain(desk)
    with world.reverts("VaultCumulativeSlippageExceeded", level=ANY, cap=ANY):
        take_by_buying(desk, usd(50_000))
    release = usd(60_000) - world.status(desk.s).requiredDeposit
    world.send(world.agents.functions.withdrawDeposit(desk.s.agent_id, release), world.controller)
    world.set_price("ETH", 2200, pool_follows=False)
    assert condition(world, desk.s) == (State.REDUCING, Reason.DEPOSIT)
    with world.reverts("VaultSlippageExceeded", shortfall=usd(880) + 1, allowed=usd(880)):
        desk.sell(eth(20), usd(43_120) - 1)
    second = 0
    while world.held(desk.s) >= eth(20):
        desk.sell(eth(20), usd(43_120))
        second += usd(880)
    covered = usd(60_000) - release
    assert guard(world, desk.s).reduceSlippage.level == pytest.approx(second, abs=200)
    assert first + second < covered
    attack.outcome(
        gained=f"{dollars(first)} + {dollars(second)} of a million, and the vault holds nothing more to sell",
        cost=f"{dollars(covered)} of deposit that can not leave and that a vote can award",
        stopped_by="VaultCumulativeSlippageExceeded; then VaultSlippageExceeded on what is left",
    )


def test_trading_often_so_that_the_sum_decays_faster(world: World, desk: Desk, attack: Report) -> None:
    """Dust trades that touch the sum every second gain nothing by rounding: it decays by whole base units only."""
    drain(desk)
    before, began_s = guard(world, desk.s).slippage, world.now_s()
    for _ in range(10):
        take_by_selling(desk, 2)
    after = guard(world, desk.s).slippage
    elapsed_s = after.updatedAt - before.updatedAt
    cap = world.status(desk.s).value * LOOSE.max_cumulative_slippage_bps // 10_000
    assert elapsed_s == world.now_s() - began_s > 0
    assert before.level - after.level <= cap * elapsed_s // RULES.slippage_decay_s
    attack.outcome(
        gained=f"nothing: {dollars(before.level - after.level)} decayed in {elapsed_s} s, as without trades",
        cost="ten trades of the day's fifty",
        stopped_by="decay rounded down",
    )


def test_a_gift_empties_the_sum_but_nobody_gains_by_it(world: World, desk: Desk, attack: Report) -> None:
    """Fills better than the oracle's lower the sum. The agent pays for them, takes the same again, and is where it
    was."""
    never_decay(world)
    first = drain(desk)
    level = guard(world, desk.s).slippage.level
    gift = usd(5000)
    desk.sell(world.held(desk.s), world.held(desk.s) // WEI_PER_UNIT + gift)
    assert guard(world, desk.s).slippage.level == pytest.approx(level - gift, abs=200)
    take_by_buying(desk, usd(500_000))
    take_by_selling(desk, usd(330_000))
    assert lost(desk) <= first
    with world.reverts("VaultCumulativeSlippageExceeded", level=ANY, cap=ANY):
        take_by_selling(desk, usd(20_000))
    attack.outcome(gained="nothing", cost=f"{dollars(gift)} given, as much taken back", stopped_by="a net sum")


def test_capital_that_arrives_makes_room_and_asks_for_deposit(world: World, desk: Desk, attack: Report) -> None:
    """The cap is a share of value: after an allocation as much again can be taken, and as much more deposit is due."""
    never_decay(world)
    first = drain(desk)
    allocate(world, desk.s, usd(1_000_000))
    assert condition(world, desk.s) == (State.REDUCING, Reason.DEPOSIT)
    with world.reverts("VaultSlippageExceeded", shortfall=ANY, allowed=ANY):
        desk.sell(eth(10), usd(20_000) - usd(401))
    required = world.status(desk.s).requiredDeposit
    assert required == pytest.approx(usd(2_000_000) * 4 // 100, rel=0.01)
    attack.outcome(
        gained=f"{dollars(first)} and nothing more", cost=f"{dollars(required)} of deposit before the next trade",
        stopped_by="REDUCING (deposit)",
    )  # fmt: skip


def test_what_was_taken_stays_covered_when_capital_is_recalled(world: World, desk: Desk, attack: Report) -> None:
    """The agent drains the first sum. The DAO, unaware, recalls the capital (or retires the strategy): the controller
    would leave with the deposit that should pay for it, long before a vote could award it."""
    never_decay(world)
    taken = drain(desk)
    halt(world, desk.s)
    recall(world, desk.s, world.token_of("ETH"))
    recall(world, desk.s, world.book.quote)
    deposit = world.view(world.agents.functions.agentOf(desk.s.agent_id)).deposit
    held_back = world.status(desk.s).requiredDeposit
    world.send(world.agents.functions.withdrawDeposit(desk.s.agent_id, deposit - held_back), world.controller)
    left = world.view(world.agents.functions.agentOf(desk.s.agent_id)).deposit
    assert left >= guard(world, desk.s).slippage.level >= taken - 100
    with world.reverts("AgentRegistryNotReleasable", agentId=desk.s.agent_id, requested=1, releasable=0):
        world.send(world.agents.functions.withdrawDeposit(desk.s.agent_id, 1), world.controller)
    world.as_timelock(world.agents.functions.awardDeposit(desk.s.agent_id, left))
    attack.outcome(
        gained=f"{dollars(taken)} until the vote", cost=f"{dollars(left)} of deposit, awarded",
        stopped_by="AgentRegistryNotReleasable: a sum stays covered until it has decayed",
    )  # fmt: skip


def test_a_retirement_just_before_a_window_frees_no_deposit(world: World, desk: Desk, attack: Report) -> None:
    """Anybody executes a retirement that was voted, so a thief picks the second: takes the sum, retires, settles in the
    next window, and would be gone before a vote on its deposit."""
    s, window_s = desk.s, world.epoch_start_s(world.current_epoch() + 1)
    world.travel_to(window_s - 600)
    taken = drain(desk)
    world.as_timelock(world.strategies.functions.retire(s.id))
    recall(world, s, world.token_of("ETH"))
    recall(world, s, world.book.quote)
    world.travel_to(window_s + 60)
    world.poke(s)
    world.to_window_end()
    if move := world.close(s):
        world.apply(s, move)
    world.send(world.strategies.functions.finishRetirement(s.id), world.stranger)

    deposit = world.view(world.agents.functions.agentOf(s.agent_id)).deposit
    kept = world.status(s).requiredDeposit
    assert kept >= usd(9899)
    with world.reverts(
        "AgentRegistryNotReleasable", agentId=s.agent_id, requested=deposit, releasable=deposit - kept
    ):
        world.send(world.agents.functions.withdrawDeposit(s.agent_id, deposit), world.controller)
    world.as_timelock(world.agents.functions.awardDeposit(s.agent_id, kept))
    attack.outcome(
        gained=dollars(taken), cost=f"{dollars(kept)} of deposit, awarded by vote",
        stopped_by="what the sums hold stays covered after the vault is gone",
    )  # fmt: skip
    world.travel(RULES.slippage_decay_s)
    left = world.view(world.agents.functions.agentOf(s.agent_id)).deposit
    world.send(world.agents.functions.withdrawDeposit(s.agent_id, left), world.controller)
