"""Slipping past the loss limits: in small steps, across midnight, with new capital, by undoing what was noted.

The vault holds half a million in ETH and half in quote: 1,800 dollars for ETH is 5 % of value, 1,600 is 10 %.
"""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import Attacker, dollars
from tests.contracts.vaults import Desk, Reason, State, allocate, book, condition, guard, never_decay, recall
from tests.contracts.world import ANY, DAY_S, LIMITS, WAD, Strategy, World, eth, one, usd

PEAK = usd(1_000_000)


@pytest.fixture
def desk(world: World) -> Desk:
    desk = Desk(world)
    desk.buy(usd(500_000), eth(250))
    return desk


def set_eth(world: World, price_usd: int | Decimal) -> None:
    world.set_price("ETH", price_usd, pool_follows=False)


def midnight_after(world: World) -> int:
    return (world.now_s() // DAY_S + 1) * DAY_S


def go_to(world: World, timestamp_s: int) -> None:
    """There, with rounds that are some seconds old."""
    world.travel_to(timestamp_s - 10)
    world.evm.travel_to(timestamp_s)


def quiet_days(world: World, s: Strategy) -> None:
    """The price stays, and becomes what the day's loss counts from."""
    for _ in range(3):
        world.travel(DAY_S)
        world.poke(s)


def test_losing_a_little_less_than_the_limit_again_and_again(world: World, desk: Desk, attack: Report) -> None:
    """4 % each time breaks no day's limit; the agent buys more into every fall. The drawdown counts from the peak, not
    from the last days: the third fall is the last."""
    for price in (Decimal(1840), Decimal(1700)):
        set_eth(world, price)
        desk.buy(usd(30_000), usd(30_000) * 10**20 // int(price * 10**8))
        quiet_days(world, desk.s)
        assert condition(world, desk.s) == (State.ACTIVE, Reason(0))
    set_eth(world, 1570)
    lost = PEAK - world.status(desk.s).value
    assert one(desk.buy(usd(30_000), eth(20)), "TradeRefused")["reasons"] & Reason.DRAWDOWN
    set_eth(world, 2500)
    quiet_days(world, desk.s)
    assert one(desk.buy(usd(30_000), eth(12)), "TradeRefused")["reasons"] & Reason.DRAWDOWN
    assert PEAK // 10 < lost < PEAK * 13 // 100
    attack.outcome(
        gained="two more buys", cost=f"{dollars(lost)} lost on the way: the limit and the last step beyond it",
        stopped_by="REDUCING (drawdown), which neither time nor a better price ends",
    )  # fmt: skip


def test_losing_the_day_s_limit_on_both_sides_of_midnight(world: World, desk: Desk, attack: Report) -> None:
    """4.5 % a minute before midnight and 0.6 % a minute after: the day's loss counts from the higher of the last two
    days' ends."""
    midnight = midnight_after(world)
    go_to(world, midnight - 60)
    set_eth(world, 1820)
    world.poke(desk.s)
    assert condition(world, desk.s) == (State.ACTIVE, Reason(0))
    go_to(world, midnight + 60)
    set_eth(world, Decimal("1799.99"))
    assert condition(world, desk.s) == (State.REDUCING, Reason.DAY_LOSS)
    assert one(desk.buy(usd(1000), eth(1)), "TradeRefused")["reasons"] == Reason.DAY_LOSS
    lost = PEAK - world.status(desk.s).value
    attack.outcome(
        gained="nothing",
        cost=f"{dollars(lost)} on both sides of midnight together",
        stopped_by="the higher of two references",
    )


def test_a_day_s_turnover_twice_within_seconds(world: World, attack: Report) -> None:
    """Days are days of UTC, so two allowances meet at midnight. What can be lost by trading does not double: its sum
    knows no midnight."""
    never_decay(world)
    desk = Desk(world)
    midnight = midnight_after(world)
    go_to(world, midnight - 20)
    began_s, lost, traded = world.now_s(), 0, 0
    for buy in (True, False, True, False):  # 0.4 % each: a sum of 1 % leaves that for five
        lost += _trade(desk, buy=buy)
        traded += usd(490_000)
    with world.reverts("VaultTurnoverExceeded", turnover=ANY, allowed=ANY):
        _trade(desk, buy=True)
    world.evm.travel_to(midnight)
    lost += _trade(desk, buy=True)
    traded += usd(490_000)
    with world.reverts("VaultCumulativeSlippageExceeded", level=ANY, cap=ANY):
        _trade(desk, buy=False)
    for buy in (False, True, False):
        _trade(desk, buy=buy, bps=0)
        traded += usd(490_000)
    seconds = world.now_s() - began_s
    assert traded > 390 * PEAK // 100
    assert lost == PEAK - world.status(desk.s).value <= PEAK // 100
    attack.outcome(
        gained=f"{dollars(traded)} of turnover within {seconds} seconds, twice the day's limit",
        cost=f"{dollars(lost)} of slippage: no more than without midnight",
        stopped_by="VaultTurnoverExceeded once a day, VaultCumulativeSlippageExceeded over both",
    )


def _trade(desk: Desk, *, buy: bool, bps: int = 40) -> int:
    base = usd(490_000)
    taken = base * bps // 10_000
    if buy:
        desk.buy(base, (base - taken) * 5 * 10**8)
    else:
        amount = min(desk.world.held(desk.s), base * 5 * 10**8)
        taken = amount // (5 * 10**8) * bps // 10_000
        desk.sell(amount, amount // (5 * 10**8) - taken)
    return taken


def test_new_capital_dilutes_no_drawdown(world: World, desk: Desk, attack: Report) -> None:
    """Nine parts of fresh capital on a vault that is 9.9 % down: by value the loss is 1 % then, by unit price it is
    9.9 % still. Recalling most of it changes as little."""
    never_decay(world)
    set_eth(world, 1604)
    quiet_days(world, desk.s)
    assert condition(world, desk.s) == (State.ACTIVE, Reason(0))
    before = guard(world, desk.s)
    agent_needs = usd(400_000)
    world.market.give_quote(world.controller, agent_needs)
    world.send(world.quote.functions.approve(world.d.agents, agent_needs), world.controller)
    world.send(world.agents.functions.postDeposit(desk.s.agent_id, agent_needs), world.controller)
    world.post_bond(desk.s.agent_id, eth(300_000))
    allocate(world, desk.s, usd(8_000_000))
    after = guard(world, desk.s)
    assert (after.peak, after.beforeToday, after.beforeYesterday) == (
        before.peak,
        before.beforeToday,
        before.beforeYesterday,
    )
    assert abs(after.lastUnitPrice - before.lastUnitPrice) <= 1
    assert condition(world, desk.s) == (State.ACTIVE, Reason(0))
    recall(world, desk.s, world.book.quote, usd(8_400_000))
    assert abs(world.status(desk.s).unitPriceWad - before.lastUnitPrice) < 10**6
    set_eth(world, 1598)
    assert condition(world, desk.s)[1] & Reason.DRAWDOWN
    attack.outcome(
        gained="nothing", cost="two votes", stopped_by="unit prices: flows mint and burn units at them"
    )  # fmt: skip


def test_undoing_a_flip_with_a_trade_that_reverts(world: World, attack: Report) -> None:
    """The agent's key is a contract that undoes its transaction when the trade was refused, or has it revert, so that
    its own attempts leave no trace of the drawdown. They leave no trade either, and anybody's poke notes it for
    good."""
    attacker = Attacker(world)
    s = world.deploy_strategy(world.register_agent(signer=attacker.contract))
    attacker.run([attacker.trade(s, usd(500_000), buy=True)])
    nonce, held = guard(world, s).nonce, world.held(s)
    set_eth(world, 1590)
    undo = world.treasury.functions.pay(world.book.quote, attacker.address, 1)
    with world.reverts("TreasuryUnauthorized", caller=attacker.address):
        attacker.run([attacker.trade(s, usd(1000), buy=True), undo])
    with world.reverts("VenueInsufficientOutput", amountOut=ANY, minAmountOut=usd(3000)):
        attacker.run([attacker.trade(s, eth(1), buy=False, minAmountOut=usd(3000))])
    assert not guard(world, s).drawdownLatched
    assert (guard(world, s).nonce, world.held(s)) == (nonce, held)
    cost = world.evm.send(s.vault.functions.poke(), world.stranger)["gasUsed"]
    set_eth(world, 2500)
    attacker.run([attacker.trade(s, usd(1000), buy=True)])
    assert guard(world, s).nonce == nonce
    assert condition(world, s)[1] & Reason.DRAWDOWN
    attack.outcome(
        gained="nothing: no flip, but no trade", cost="gas of each attempt",
        stopped_by=f"anybody's poke, {cost:,} gas; the price of the moment decides, not who asks",
    )  # fmt: skip


def test_a_trade_may_not_step_over_a_limit_itself(world: World, desk: Desk, attack: Report) -> None:
    """Just above the drawdown limit, one bad fill within slippage would step over it: then the fill is too much."""
    set_eth(world, 1602)
    quiet_days(world, desk.s)
    assert condition(world, desk.s) == (State.ACTIVE, Reason(0))
    value = world.status(desk.s).value
    spend = usd(40_000)
    fair = spend * 10**20 // (1602 * 10**8)
    with world.reverts("VaultPositionExceeded", asset=ANY, positionValue=ANY, allowed=ANY):
        desk.buy(usd(400_000), 10 * fair)
    bad = fair * 9945 // 10_000
    room = value - PEAK * 9 // 10
    assert room > spend * 55 // 10_000 > 0
    lost = one(desk.buy(spend, bad), "TradeRecorded")["trade"]["shortfall"]
    with world.reverts("VaultDrawdownExceeded", unitPriceWad=ANY, peakWad=WAD, limitBps=LIMITS.max_drawdown_bps):
        for _ in range(4):
            desk.sell(eth(50), eth(50) * 1602 * 9945 // 10_000 // 10**12)
    assert book(world, desk.s).units == PEAK * 10**12
    assert world.status(desk.s).value >= PEAK * 9 // 10
    attack.outcome(
        gained=f"at most {dollars(room)}, what was left to the limit; {dollars(lost)} by the first trade",
        cost="the trades", stopped_by="VaultDrawdownExceeded",
    )  # fmt: skip
