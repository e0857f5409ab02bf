"""Every way into REDUCING and HALTED, and every way out. Exactly at a limit is within it.

The vault holds 250 ETH and 500,000 in quote, so 1,800 USD for ETH is a loss of 5 %, and one step of the feed's last
digit decides. "Leaves by vote" is tested as the timelock's call.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from agents.localnet.evm import TransactionReverted
from tests.contracts.vaults import (
    MAX_UINT,
    Desk,
    Reason,
    State,
    allocate,
    book,
    condition,
    faulty_feed,
    guard,
    halt,
    limits,
    recall,
    resume,
    stop,
    tighten,
)
from tests.contracts.world import (
    DAY_S,
    HOUR_S,
    RULES,
    WAD,
    WINDOW_S,
    World,
    eth,
    none_of,
    one,
    usd,
)

STEP = Decimal("0.00000001")  # the last digit of a feed's answer
FINE = (State.ACTIVE, Reason(0))


@pytest.fixture
def desk(world: World) -> Desk:
    desk = Desk(world)
    desk.buy(usd(500_000), eth(250))
    return desk


def set_eth(world: World, price_usd: int | Decimal) -> None:
    """The oracle's price only: the desk's venue has no pool."""
    world.set_price("ETH", price_usd, pool_follows=False)


def reducing(*reasons: Reason) -> tuple[State, Reason]:
    return State.REDUCING, Reason(sum(reasons))


def midnight_after(world: World, days: int = 1) -> int:
    return (world.now_s() // DAY_S + days) * DAY_S


# Deriving and persisting


def test_a_new_vault_is_active(world: World) -> None:
    desk = Desk(world, capital=0)
    assert condition(world, desk.s) == FINE
    assert world.status(desk.s) == (State.ACTIVE, 0, True, 0, WAD, 0, 0)
    allocate(world, desk.s, usd(1_000_000))
    assert world.status(desk.s) == (State.ACTIVE, 0, True, usd(1_000_000), WAD, 0, usd(40_000))


def test_anybody_can_persist_what_a_price_has_done(world: World, desk: Desk) -> None:
    set_eth(world, 1600)
    seen = world.status(desk.s)
    assert guard(world, desk.s).reasons == 0
    changed = one(world.poke(desk.s), "StateChanged")
    reasons = Reason.DAY_LOSS
    assert changed == {"state": State.REDUCING, "reasons": reasons, "unitPriceWad": WAD * 9 // 10}
    remembered = guard(world, desk.s)
    assert (remembered.reasons, remembered.lastUnitPrice) == (reasons, WAD * 9 // 10)
    assert remembered.dayBreachedOn == remembered.day == world.now_s() // DAY_S
    assert world.view(desk.s.vault.functions.positionOf(world.token_of("ETH"))).lastPriceWad == 1600 * WAD
    assert world.status(desk.s) == seen


def test_persisting_twice_says_it_once(world: World, desk: Desk) -> None:
    set_eth(world, 1600)
    world.poke(desk.s)
    assert none_of(world.poke(desk.s), "StateChanged")


def test_a_return_to_active_is_said_too(world: World, desk: Desk) -> None:
    stop(world, desk.s, HOUR_S)
    world.poke(desk.s)
    world.travel(HOUR_S)
    changed = one(world.poke(desk.s), "StateChanged")
    assert changed == {"state": State.ACTIVE, "reasons": 0, "unitPriceWad": WAD}


def test_a_poke_short_of_gas_persists_nothing_rather_than_a_missing_price(world: World, desk: Desk) -> None:
    """A feed or token that is given too little gas looks dead: then nothing may be left to write it down with."""
    enough = world.evm.send(desk.s.vault.functions.poke(), world.stranger)["gasUsed"] * 64 // 63
    for gas in range(30_000, enough, 4000):
        with pytest.raises(TransactionReverted):
            world.send(desk.s.vault.functions.poke(), world.stranger, gas=gas)
    assert guard(world, desk.s).reasons == 0


# The day's loss


def test_a_loss_of_the_day_past_its_limit_reduces(world: World, desk: Desk) -> None:
    set_eth(world, 1800)
    assert condition(world, desk.s) == FINE
    set_eth(world, 1800 - STEP)
    assert condition(world, desk.s) == reducing(Reason.DAY_LOSS)


def test_a_day_s_loss_is_latched_until_midnight_though_the_price_recovers(world: World, desk: Desk) -> None:
    set_eth(world, 1799)
    world.poke(desk.s)
    set_eth(world, 2000)
    assert condition(world, desk.s) == reducing(Reason.DAY_LOSS)
    midnight = midnight_after(world)
    world.travel_to(midnight - 10)
    world.evm.travel_to(midnight - 1)
    assert condition(world, desk.s) == reducing(Reason.DAY_LOSS)
    world.evm.travel_to(midnight)
    assert condition(world, desk.s) == FINE


def test_a_loss_that_nobody_persisted_before_it_recovered_was_none(world: World, desk: Desk) -> None:
    set_eth(world, 1799)
    set_eth(world, 2000)
    assert none_of(world.poke(desk.s), "StateChanged")
    assert condition(world, desk.s) == FINE


@pytest.mark.parametrize("somebody_pokes", [True, False])
def test_a_loss_that_stays_is_the_level_to_lose_from_after_two_midnights(
    world: World, desk: Desk, somebody_pokes: bool
) -> None:
    set_eth(world, 1799)
    world.poke(desk.s)
    first, second = midnight_after(world), midnight_after(world, 2)
    world.travel_to(first)
    if somebody_pokes:
        world.poke(desk.s)
    assert condition(world, desk.s) == reducing(Reason.DAY_LOSS)  # still 5 % below the day before yesterday
    world.travel_to(second - 10)
    assert condition(world, desk.s) == reducing(Reason.DAY_LOSS)
    world.travel_to(second)
    assert condition(world, desk.s) == FINE


def test_a_day_s_loss_counts_from_the_higher_of_the_last_prices_before_today_and_before_yesterday(
    world: World, desk: Desk
) -> None:
    set_eth(world, 2400)  # 1.10 for each unit
    world.poke(desk.s)
    world.travel_to(midnight_after(world))
    set_eth(world, 2240)  # 1.06: 3.6 % lost
    world.poke(desk.s)
    world.travel_to(midnight_after(world))
    set_eth(world, 2180)  # 1.045: 1.4 % below yesterday, 5 % below the day before
    assert condition(world, desk.s) == FINE
    set_eth(world, 2180 - STEP)
    assert condition(world, desk.s) == reducing(Reason.DAY_LOSS)


def test_a_high_of_today_is_not_what_today_s_loss_counts_from(world: World, desk: Desk) -> None:
    set_eth(world, 2400)
    world.poke(desk.s)
    set_eth(world, 2000)  # 9.1 % below the day's high
    assert condition(world, desk.s) == FINE


def test_after_days_without_a_call_the_last_price_known_stands_for_both_days(world: World, desk: Desk) -> None:
    set_eth(world, 2400)
    world.poke(desk.s)
    world.travel_to(midnight_after(world, 3))
    set_eth(world, 2180)
    assert condition(world, desk.s) == FINE
    set_eth(world, 2180 - STEP)
    assert condition(world, desk.s) == reducing(Reason.DAY_LOSS)
    world.poke(desk.s)
    remembered = guard(world, desk.s)
    assert (remembered.beforeToday, remembered.beforeYesterday) == (WAD * 11 // 10, WAD * 11 // 10)


def test_the_unit_price_after_a_trade_is_the_last_of_its_day(world: World, desk: Desk) -> None:
    desk.buy(usd(50_000), eth(35))  # 20,000 gained
    world.travel_to(midnight_after(world))
    set_eth(world, 2000 - Decimal(1_020_000 * 5) / 100 / 285)
    assert condition(world, desk.s) == FINE
    set_eth(world, 2000 - Decimal(1_020_000 * 5) / 100 / 285 - STEP)
    assert condition(world, desk.s) == reducing(Reason.DAY_LOSS)


def test_a_vote_does_not_end_a_day_s_loss(world: World, desk: Desk) -> None:
    set_eth(world, 1799)
    world.poke(desk.s)
    resume(world, desk.s)
    assert condition(world, desk.s) == reducing(Reason.DAY_LOSS)


# The drawdown


@pytest.fixture
def at_peak(world: World, desk: Desk) -> Desk:
    """The guard has seen 1.10 for each unit: a drawdown of 10 % is 0.99, at 1,960 USD for ETH."""
    set_eth(world, 2400)
    world.poke(desk.s)
    return desk


def test_a_drawdown_past_its_limit_reduces(world: World, at_peak: Desk) -> None:
    set_eth(world, 1960)
    assert condition(world, at_peak.s) == FINE
    set_eth(world, 1960 - STEP)
    assert condition(world, at_peak.s) == reducing(Reason.DRAWDOWN)


def test_neither_time_nor_a_better_price_ends_a_drawdown(world: World, at_peak: Desk) -> None:
    set_eth(world, 1959)
    world.poke(at_peak.s)
    set_eth(world, 3000)
    world.travel(3 * DAY_S)
    assert condition(world, at_peak.s) == reducing(Reason.DRAWDOWN)
    assert guard(world, at_peak.s).drawdownLatched


def test_a_vote_ends_a_drawdown_and_the_present_price_is_the_peak(world: World, at_peak: Desk) -> None:
    set_eth(world, 1959)
    world.poke(at_peak.s)
    set_eth(world, 2000)
    events = resume(world, at_peak.s)
    assert one(events, "Resumed") == {"peakWad": WAD}
    assert [e.args["state"] for e in events if e.name == "StateChanged"] == [State.ACTIVE]
    remembered = guard(world, at_peak.s)
    assert (remembered.peak, remembered.drawdownLatched, remembered.reasons) == (WAD, False, 0)
    assert condition(world, at_peak.s) == FINE
    # Counted from the new peak; the day's loss is as large, and by now latched for the day.
    world.travel_to(midnight_after(world))
    set_eth(world, 1600)
    assert condition(world, at_peak.s) == reducing(Reason.DAY_LOSS)
    set_eth(world, 1600 - STEP)
    assert condition(world, at_peak.s) == reducing(Reason.DAY_LOSS, Reason.DRAWDOWN)


def test_a_vote_never_resets_the_agent_s_account(world: World, at_peak: Desk) -> None:
    move = world.settle(at_peak.s)
    assert move == world.account(at_peak.s).credited > 0
    set_eth(world, 1959)
    world.poke(at_peak.s)
    account = world.account(at_peak.s)
    resume(world, at_peak.s)
    assert world.account(at_peak.s) == account


def test_a_resumption_needs_every_price(world: World, at_peak: Desk) -> None:
    set_eth(world, 1959)
    world.poke(at_peak.s)
    world.evm.travel(2 * HOUR_S)
    with world.reverts("VaultNotPriced", reasons=Reason.DRAWDOWN | Reason.PRICE_MISSING):
        resume(world, at_peak.s)


def test_a_resumption_ends_no_other_reason(world: World, at_peak: Desk) -> None:
    set_eth(world, 1959)
    stop(world, at_peak.s)
    world.poke(at_peak.s)
    events = resume(world, at_peak.s)
    changed = one(events, "StateChanged")
    assert (changed["state"], changed["reasons"]) == (State.REDUCING, Reason.GUARDIAN)
    assert condition(world, at_peak.s) == reducing(Reason.GUARDIAN)


def test_the_peak_rises_with_every_call_and_never_falls(world: World, at_peak: Desk) -> None:
    set_eth(world, 2300)
    world.poke(at_peak.s)
    assert guard(world, at_peak.s).peak == WAD * 11 // 10
    set_eth(world, 2500)
    world.poke(at_peak.s)
    assert guard(world, at_peak.s).peak == WAD * 1125 // 1000


# What reduces while it lasts


def test_collateral_below_the_worst_case_reduces_until_it_is_there_again(world: World, desk: Desk) -> None:
    kept = Decimal("0.85") * Decimal("0.95") * Decimal("0.95")  # drawdown, auction, gap
    exposed = usd(1_000_000) - int(kept * usd(1_000_000))
    required = exposed * desk.s.manifest["rewardRate"]
    slash = world.agents.functions.slashBond
    bond = world.bond_of(desk.s.agent_id)
    assert world.view(desk.s.vault.functions.worstProfit()) == -exposed
    world.as_timelock(slash(desk.s.agent_id, bond - required))
    assert condition(world, desk.s) == FINE
    world.as_timelock(slash(desk.s.agent_id, 1))
    assert condition(world, desk.s) == reducing(Reason.COLLATERAL)
    world.post_bond(desk.s.agent_id, 1)
    assert condition(world, desk.s) == FINE


def test_a_bond_below_the_constitution_s_least_reduces_until_it_is_there_again(world: World) -> None:
    """Whatever the reward rate: identity has a price."""
    desk = Desk(world, rewardRate=1)
    least, bond = RULES.min_bond_wei, world.bond_of(desk.s.agent_id)
    world.as_timelock(world.agents.functions.slashBond(desk.s.agent_id, bond - least))
    assert condition(world, desk.s) == FINE
    world.as_timelock(world.agents.functions.slashBond(desk.s.agent_id, 1))
    assert condition(world, desk.s) == reducing(Reason.COLLATERAL)
    world.post_bond(desk.s.agent_id, 1)
    assert condition(world, desk.s) == FINE


def test_collateral_counts_from_the_highest_peak(world: World, at_peak: Desk) -> None:
    """What the agent could still lose grows with what the guard lets it lose from, and stays when the price falls."""
    set_eth(world, 2300)
    world.poke(at_peak.s)
    kept = Decimal("0.85") * Decimal("0.95") * Decimal("0.95")
    assert world.view(at_peak.s.vault.functions.worstProfit()) == int(kept * usd(1_100_000)) - usd(1_000_000)


def test_below_its_worst_case_a_vault_is_worth_what_it_is_worth(world: World, desk: Desk) -> None:
    set_eth(world, 800)
    world.poke(desk.s)
    assert world.view(desk.s.vault.functions.worstProfit()) == -usd(300_000)


def test_a_deposit_below_both_slippage_caps_reduces_until_it_is_there_again(world: World) -> None:
    """1 % and 3 % of value, each rounded up: what can be taken before the DAO can react."""
    agent_id = world.register_agent(deposit=usd(40_000))
    desk = Desk(world, agent_id=agent_id)
    assert condition(world, desk.s) == FINE
    allocate(world, desk.s, 1)
    assert condition(world, desk.s) == reducing(Reason.DEPOSIT)
    assert world.status(desk.s).requiredDeposit == usd(40_000) + 2
    world.market.give_quote(world.controller, 2)
    world.send(world.quote.functions.approve(world.d.agents, 2), world.controller)
    world.send(world.agents.functions.postDeposit(agent_id, 2), world.controller)
    assert condition(world, desk.s) == FINE


def test_what_slippage_took_stays_covered_until_it_could_have_decayed(world: World, desk: Desk) -> None:
    desk.buy(usd(100_000), eth("49.75"))  # 500 below the oracle
    recall(world, desk.s, world.book.quote)
    recall(world, desk.s, world.token_of("ETH"))
    assert world.status(desk.s).value == 0
    assert world.status(desk.s).requiredDeposit == usd(500)
    traded_at = guard(world, desk.s).slippage.updatedAt
    world.evm.travel_to(traded_at + RULES.slippage_decay_s - 1)
    assert world.status(desk.s).requiredDeposit == usd(500)
    world.evm.travel_to(traded_at + RULES.slippage_decay_s)
    assert world.status(desk.s).requiredDeposit == 0


def test_what_slippage_took_while_reducing_stays_covered_too(world: World, desk: Desk) -> None:
    set_eth(world, 1750)
    desk.sell(eth(100), usd(172_000))  # 3,000 below the oracle
    recall(world, desk.s, world.book.quote)
    recall(world, desk.s, world.token_of("ETH"))
    assert world.status(desk.s).requiredDeposit == usd(3000)


def test_a_gain_can_outgrow_the_deposit(world: World) -> None:
    desk = Desk(world, agent_id=world.register_agent(deposit=usd(44_000)))
    desk.buy(usd(500_000), eth(250))
    set_eth(world, 2400)
    assert condition(world, desk.s) == FINE
    set_eth(world, 2400 + STEP)
    assert condition(world, desk.s) == reducing(Reason.DEPOSIT)


def test_tighter_slippage_ceilings_need_a_smaller_deposit(world: World, desk: Desk) -> None:
    tighten(world, max_cumulative_slippage_bps=50, max_reduce_cumulative_slippage_bps=100)
    assert world.status(desk.s).requiredDeposit == usd(15_000)


def test_a_held_asset_without_a_fresh_price_reduces_until_it_has_one(world: World, desk: Desk) -> None:
    set_eth(world, 2000)
    published_at = world.now_s()
    world.evm.travel_to(published_at + 2 * HOUR_S)
    assert condition(world, desk.s) == FINE
    world.evm.travel_to(published_at + 2 * HOUR_S + 1)
    assert condition(world, desk.s) == reducing(Reason.PRICE_MISSING)
    seen = world.status(desk.s)
    assert (seen.priced, seen.value, seen.unitPriceWad) == (False, usd(500_000), WAD)
    changed = one(world.poke(desk.s), "StateChanged")
    assert changed == {"state": State.REDUCING, "reasons": Reason.PRICE_MISSING, "unitPriceWad": WAD}
    set_eth(world, 2000)
    assert condition(world, desk.s) == FINE


@pytest.mark.parametrize("mode", ["Revert", "BurnGas", "ShortData", "OversizedRoundId", "Empty"])
def test_whatever_a_feed_does_the_state_can_be_derived(world: World, desk: Desk, mode: str) -> None:
    modes = ("Answer", "Revert", "BurnGas", "ShortData", "OversizedRoundId", "Empty")
    feed = faulty_feed(world, "ETH")
    world.send(feed.functions.setMode(modes.index(mode)), world.deployer)
    assert one(world.poke(desk.s), "StateChanged")["reasons"] == Reason.PRICE_MISSING


def test_a_missing_price_hides_no_loss_and_makes_none(world: World, at_peak: Desk) -> None:
    """Without a price of its half in ETH the vault would look 50 % down."""
    world.evm.travel(2 * HOUR_S)
    world.poke(at_peak.s)
    assert condition(world, at_peak.s) == reducing(Reason.PRICE_MISSING)
    set_eth(world, 1000)
    assert condition(world, at_peak.s)[0] == State.HALTED


@pytest.fixture
def with_dust(world: World) -> Desk:
    """400,000 in ETH, 60 dollars in BTC, whose feed is then gone; the rest in quote."""
    desk = Desk(world, assets=("ETH", "BTC"))
    desk.buy(usd(400_000), eth(200))
    desk.buy(usd(60), 10**5, symbol="BTC")
    world.as_timelock(world.oracle.functions.removeFeed(world.token_of("BTC")))
    return desk


def test_a_dead_feed_of_dust_blinds_no_limit(world: World, with_dust: Desk) -> None:
    """What has no price counts at its last one, for the guard's limits only."""
    set_eth(world, 1750)
    assert condition(world, with_dust.s) == reducing(Reason.PRICE_MISSING)
    set_eth(world, 1750 - STEP)
    assert condition(world, with_dust.s) == reducing(Reason.PRICE_MISSING, Reason.DAY_LOSS)
    set_eth(world, 1500 - STEP)
    expected = reducing(Reason.PRICE_MISSING, Reason.DAY_LOSS, Reason.DRAWDOWN)
    assert condition(world, with_dust.s) == expected
    set_eth(world, 1250 - STEP)
    assert condition(world, with_dust.s) == (State.HALTED, expected[1] | Reason.HALTED)
    assert world.status(with_dust.s).value == usd(849_940) - 2  # of what has a price


def test_a_value_at_last_prices_is_remembered_as_no_price_of_a_unit(world: World, with_dust: Desk) -> None:
    set_eth(world, 2400)
    world.poke(with_dust.s)
    remembered = guard(world, with_dust.s)
    assert (remembered.peak, remembered.lastUnitPrice) == (WAD, WAD)
    set_eth(world, 1749)
    changed = one(world.poke(with_dust.s), "StateChanged")
    assert (changed["reasons"], changed["unitPriceWad"]) == (Reason.PRICE_MISSING | Reason.DAY_LOSS, WAD)
    assert guard(world, with_dust.s).dayBreachedOn == world.now_s() // DAY_S


def test_an_unhealthy_quote_token_makes_no_loss(world: World, desk: Desk) -> None:
    """Nothing has a price then, and everything counts at its last one."""
    set_eth(world, 2400)
    world.poke(desk.s)
    world.set_price("MUSD", "0.5")
    assert condition(world, desk.s) == reducing(Reason.QUOTE_UNHEALTHY, Reason.PRICE_MISSING)


def test_a_price_missing_of_what_is_not_held_is_no_reason(world: World) -> None:
    desk = Desk(world)
    world.evm.travel(3 * HOUR_S)
    assert condition(world, desk.s) == FINE


def test_an_unsettled_epoch_reduces_until_it_is_closed(world: World, desk: Desk) -> None:
    window_ends = world.epoch_start_s(1) + WINDOW_S
    world.travel_to(window_ends - 30)
    world.poke(desk.s)
    world.evm.travel_to(window_ends - 1)
    assert condition(world, desk.s) == FINE
    world.evm.travel_to(window_ends)
    assert condition(world, desk.s) == reducing(Reason.UNSETTLED)
    world.send(world.pool.functions.closeWindow(desk.s.vault.address), world.stranger)
    assert condition(world, desk.s) == FINE


def test_a_result_that_nobody_applied_is_unsettled(world: World, at_peak: Desk) -> None:
    world.to_next_window()
    world.poke(at_peak.s)
    world.to_window_end()
    move = world.close(at_peak.s)
    assert condition(world, at_peak.s) == reducing(Reason.UNSETTLED)
    world.apply(at_peak.s, move)
    assert condition(world, at_peak.s) == FINE


def test_the_guardian_s_stop_reduces_to_its_last_second(world: World, desk: Desk) -> None:
    stop(world, desk.s, HOUR_S)
    until = world.now_s() + HOUR_S
    assert condition(world, desk.s) == reducing(Reason.GUARDIAN)
    world.evm.travel_to(until - 1)
    assert condition(world, desk.s) == reducing(Reason.GUARDIAN)
    world.evm.travel_to(until)
    assert condition(world, desk.s) == FINE


def test_a_stop_can_be_lifted(world: World, desk: Desk) -> None:
    stop(world, desk.s)
    world.as_timelock(world.constitution.functions.liftVaultStop(desk.s.vault.address))
    assert condition(world, desk.s) == FINE


def test_a_stop_of_another_vault_is_none_of_this_one(world: World, desk: Desk) -> None:
    world.send(world.constitution.functions.stopVault(world.stranger.address, HOUR_S), world.guardian)
    assert condition(world, desk.s) == FINE


# The quote token


@pytest.mark.parametrize(("healthy", "depegged"), [("0.98", "0.97999999"), ("1.02", "1.02000001")])
def test_a_quote_token_off_its_peg_stops_everything_until_it_is_back(
    world: World, desk: Desk, healthy: str, depegged: str
) -> None:
    # Prices are in quote: what is held is worth as many dollars as before.
    set_eth(world, 2000 * Decimal(healthy))
    world.set_price("MUSD", healthy)
    assert condition(world, desk.s) == FINE
    world.set_price("MUSD", depegged)
    assert condition(world, desk.s) == reducing(Reason.QUOTE_UNHEALTHY, Reason.PRICE_MISSING)
    assert one(world.poke(desk.s), "StateChanged")["reasons"] == Reason.QUOTE_UNHEALTHY | Reason.PRICE_MISSING
    world.set_price("MUSD", healthy)
    assert condition(world, desk.s) == FINE


def test_a_stale_quote_feed_stops_everything_until_it_speaks(world: World, desk: Desk) -> None:
    world.set_price("MUSD", 1)
    published_at = world.now_s()
    world.evm.travel_to(published_at + 25 * HOUR_S - 10)
    set_eth(world, 2000)
    world.evm.travel_to(published_at + 25 * HOUR_S)
    assert condition(world, desk.s) == FINE
    world.evm.travel_to(published_at + 25 * HOUR_S + 1)
    assert condition(world, desk.s) == reducing(Reason.QUOTE_UNHEALTHY, Reason.PRICE_MISSING)
    world.set_price("MUSD", 1)
    assert condition(world, desk.s) == FINE


def test_a_vault_of_quote_alone_is_not_priced_without_the_quote_token(world: World) -> None:
    desk = Desk(world)
    world.set_price("MUSD", "0.97")
    assert condition(world, desk.s) == reducing(Reason.QUOTE_UNHEALTHY, Reason.PRICE_MISSING)
    assert not world.status(desk.s).priced


# HALTED


def test_a_drawdown_past_the_hard_limit_halts(world: World, at_peak: Desk) -> None:
    set_eth(world, 1740)  # 0.935: 15 % below 1.10
    assert condition(world, at_peak.s) == reducing(Reason.DAY_LOSS, Reason.DRAWDOWN)
    set_eth(world, 1740 - STEP)
    expected = Reason.DAY_LOSS | Reason.DRAWDOWN | Reason.HALTED
    assert condition(world, at_peak.s) == (State.HALTED, expected)
    changed = one(world.poke(at_peak.s), "StateChanged")
    assert changed == {"state": State.HALTED, "reasons": expected, "unitPriceWad": WAD * 935 // 1000 - 3 * 10**6}
    assert guard(world, at_peak.s).haltedAt == world.now_s()


def test_neither_time_nor_a_better_price_ends_a_halt(world: World, at_peak: Desk) -> None:
    set_eth(world, 1739)
    world.poke(at_peak.s)
    halted_at = guard(world, at_peak.s).haltedAt
    set_eth(world, 3000)
    world.travel(3 * DAY_S)
    world.poke(at_peak.s)
    assert condition(world, at_peak.s) == (State.HALTED, Reason.HALTED | Reason.DRAWDOWN)
    assert guard(world, at_peak.s).haltedAt == halted_at


def test_a_vote_halts(world: World, desk: Desk) -> None:
    changed = one(halt(world, desk.s), "StateChanged")
    assert changed == {"state": State.HALTED, "reasons": Reason.HALTED, "unitPriceWad": WAD}
    assert condition(world, desk.s) == (State.HALTED, Reason.HALTED)
    assert guard(world, desk.s).haltedAt == world.now_s()


def test_a_vote_to_halt_what_is_halted_keeps_the_first_halt(world: World, desk: Desk) -> None:
    halt(world, desk.s)
    halted_at = guard(world, desk.s).haltedAt
    assert none_of(halt(world, desk.s), "StateChanged")
    assert guard(world, desk.s).haltedAt == halted_at


@pytest.mark.parametrize("by_vote", [True, False])
def test_a_vote_ends_a_halt(world: World, at_peak: Desk, by_vote: bool) -> None:
    if by_vote:
        halt(world, at_peak.s)
    set_eth(world, 2400 if by_vote else 1600)
    world.poke(at_peak.s)
    world.travel_to(midnight_after(world, 2))
    resume(world, at_peak.s)
    assert condition(world, at_peak.s) == FINE
    remembered = guard(world, at_peak.s)
    assert (remembered.haltedAt, remembered.drawdownLatched) == (0, False)
    assert remembered.peak == world.status(at_peak.s).unitPriceWad
    at_peak.sell(eth(1), usd(2400 if by_vote else 1600))


# Ceilings of the constitution bind at once

TIGHT = {
    "max_daily_loss_bps": (449, reducing(Reason.DAY_LOSS)),
    "max_drawdown_bps": (449, reducing(Reason.DRAWDOWN)),
    "hard_drawdown_bps": (449, (State.HALTED, Reason.HALTED)),
}


@pytest.mark.parametrize("ceiling", TIGHT)
def test_a_tightened_ceiling_changes_the_state_of_a_running_vault(world: World, desk: Desk, ceiling: str) -> None:
    set_eth(world, 1820)  # 4.5 % lost
    assert condition(world, desk.s) == FINE
    tightened, expected = TIGHT[ceiling]
    soft = {"max_drawdown_bps": 448} if ceiling == "hard_drawdown_bps" else {}
    tighten(world, **{ceiling: tightened}, **soft)
    if soft:
        expected = (State.HALTED, Reason.HALTED | Reason.DRAWDOWN)
    assert condition(world, desk.s) == expected
    # Not persisted, it ends with the ceiling; persisted, a drawdown is for a vote to end.
    tighten(world)
    assert condition(world, desk.s) == FINE


def test_the_strategy_s_own_limits_bind_below_the_ceilings(world: World) -> None:
    desk = Desk(world, limits(max_daily_loss_bps=100))
    desk.buy(usd(500_000), eth(250))
    set_eth(world, 1960)
    assert condition(world, desk.s) == FINE
    set_eth(world, 1960 - STEP)
    assert condition(world, desk.s) == reducing(Reason.DAY_LOSS)


# Which calls persist


@pytest.mark.parametrize("call", ["poke", "trade", "allocate", "halt", "update", "write off"])
def test_every_call_but_recall_persists_the_state(world: World, desk: Desk, call: str) -> None:
    set_eth(world, 1600)
    calls: dict[str, Callable[[], object]] = {
        "poke": lambda: world.poke(desk.s),
        "trade": lambda: desk.sell(eth(1), usd(1600)),
        "allocate": lambda: allocate(world, desk.s, usd(1)),
        "halt": lambda: halt(world, desk.s),
        "update": lambda: update(world, desk),
        "write off": lambda: world.as_timelock(world.strategies.functions.writeOff(desk.s.id, world.token_of("ETH"))),
    }
    calls[call]()
    assert Reason(guard(world, desk.s).reasons) & Reason.DAY_LOSS


def update(world: World, desk: Desk) -> None:
    world.evm.impersonate(world.d.strategies)
    manifest = desk.s.manifest
    call = desk.s.vault.functions.update(manifest["artefactHash"], manifest["limits"], manifest["assets"])
    world.send(call, world.d.strategies)


def test_recall_persists_nothing(world: World, desk: Desk) -> None:
    set_eth(world, 1700)
    recall(world, desk.s, world.book.quote, usd(1))
    assert guard(world, desk.s).reasons == 0
    assert condition(world, desk.s) == reducing(Reason.DAY_LOSS)


def test_an_emptied_vault_loses_nothing(world: World, desk: Desk) -> None:
    set_eth(world, 2600)
    desk.sell(eth(250), usd(650_000))
    recall(world, desk.s, world.book.quote, MAX_UINT)
    assert guard(world, desk.s).peak == WAD * 115 // 100
    assert world.status(desk.s).unitPriceWad == WAD  # of no units: no drawdown
    world.poke(desk.s)
    assert condition(world, desk.s) == FINE
    assert book(world, desk.s).units == 0


def test_a_sale_while_only_unsettled_has_no_emergency_s_slippage(world: World, desk: Desk) -> None:
    """Every window's end leaves each vault unsettled for a moment; that must not open the second allowance."""
    world.to_next_window()
    world.poke(desk.s)
    world.to_window_end()
    assert condition(world, desk.s) == reducing(Reason.UNSETTLED)
    with world.reverts("VaultSlippageExceeded", shortfall=usd(120) + 1, allowed=usd(120)):
        desk.sell(eth(10), usd(19_880) - 1)
    desk.sell(eth(10), usd(19_880))
    assert guard(world, desk.s).slippage.level == usd(120)
    assert guard(world, desk.s).reduceSlippage.level == 0


def test_the_year_2149_stops_no_vault(world: World, desk: Desk) -> None:
    """Days are counted in sixteen bits; the last of them has a next one."""
    last_day_s = (2**16 - 1) * DAY_S
    world.travel_to(last_day_s + HOUR_S)
    world.poke(desk.s)
    world.travel_to(last_day_s + DAY_S + HOUR_S)
    world.poke(desk.s)
    assert guard(world, desk.s).day == 0
