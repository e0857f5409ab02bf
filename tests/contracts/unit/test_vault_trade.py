"""What one trade must pass while the vault is ACTIVE: who, what, and every limit met to the base unit.

The desk's venue fills as told, so arithmetic is by hand: one million dollars, ETH at 2,000. Exactly at a limit is
within it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agents.localnet import feeds
from agents.localnet.evm import Account
from tests.contracts.vaults import Desk, book, guard, limits, never_decay, tighten, turn_faulty
from tests.contracts.world import (
    ANY,
    CEILINGS,
    DAY_S,
    EXPLANATION,
    LIMITS,
    OBSERVATION,
    RULES,
    WAD,
    Strategy,
    World,
    eth,
    none_of,
    one,
    struct,
    usd,
)

ONE_UNIT_OF_ETH = 5 * 10**8  # wei worth one base unit of quote at 2,000 USD


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)


# Who, and with what words


@pytest.mark.parametrize("role", ["stranger", "controller", "guardian"])
def test_nobody_trades_but_the_signing_key(world: World, desk: Desk, role: str) -> None:
    caller: Account = getattr(world, role)
    with world.reverts("VaultNotSigningKey", caller=caller.address, signingKey=world.signer.address):
        desk.buy(usd(2000), eth(1), sender=caller)


def test_a_rotated_key_trades_at_once_and_the_old_one_never_again(world: World, desk: Desk) -> None:
    new_key = world.other_signer
    world.send(world.agents.functions.setSigningKey(desk.s.agent_id, new_key.address), world.controller)
    with world.reverts("VaultNotSigningKey", caller=world.signer.address, signingKey=new_key.address):
        desk.buy(usd(2000), eth(1), sender=world.signer)
    desk.buy(usd(2000), eth(1), sender=new_key)
    assert world.held(desk.s) == eth(1)


def test_an_order_is_good_until_the_second_of_its_deadline(world: World, desk: Desk) -> None:
    deadline = world.now_s() + 100
    with world.reverts("VaultDeadlinePassed", deadline=deadline, now_=deadline + 1):
        desk.buy(usd(2000), eth(1), deadline=deadline, at_s=deadline + 1)
    deadline = world.now_s() + 100
    desk.buy(usd(2000), eth(1), deadline=deadline, at_s=deadline)
    assert world.held(desk.s) == eth(1)


def test_orders_come_in_sequence(world: World, desk: Desk) -> None:
    for skipped in (1, 2**64 - 1):
        with world.reverts("VaultWrongNonce", expected=0, given=skipped):
            desk.buy(usd(2000), eth(1), nonce=skipped)
    desk.buy(usd(2000), eth(1), nonce=0)
    with world.reverts("VaultWrongNonce", expected=1, given=0):
        desk.buy(usd(2000), eth(1), nonce=0)
    desk.buy(usd(2000), eth(1), nonce=1)
    assert guard(world, desk.s).nonce == 2


def test_an_order_names_the_artefact_that_was_approved(world: World, desk: Desk) -> None:
    approved, other = desk.s.manifest["artefactHash"], b"\x99" * 32
    with world.reverts("VaultWrongArtefact", expected=approved, given=other):
        desk.buy(usd(2000), eth(1), artefactHash=other)


@pytest.mark.parametrize("missing", ["explanationHash", "observationHash"])
def test_an_order_says_why_and_on_what(world: World, desk: Desk, missing: str) -> None:
    with world.reverts("VaultUnexplained"):
        desk.buy(usd(2000), eth(1), **{missing: bytes(32)})


@pytest.mark.parametrize("buy", [True, False])
def test_an_order_is_for_something(world: World, desk: Desk, buy: bool) -> None:
    with world.reverts("VaultZeroAmount"):
        world.trade(desk.s, 0, buy=buy)


@pytest.mark.parametrize("buy", [True, False])
def test_only_listed_assets_are_traded(world: World, desk: Desk, buy: bool) -> None:
    for token in (world.token_of("BTC"), world.book.quote, world.d.token):
        with world.reverts("VaultUnknownAsset", token=token):
            world.trade(desk.s, usd(1), buy=buy, asset=token)


# No more than there is


def test_a_buy_spends_no_more_than_the_books_hold(world: World, desk: Desk) -> None:
    world.market.give_quote(desk.s.vault.address, usd(5))  # a donation is not for spending
    needed = usd(1_000_000) + 1
    with world.reverts("VaultInsufficientHoldings", token=world.book.quote, held=usd(1_000_000), needed=needed):
        desk.buy(needed, eth(500))


def test_a_sale_sells_no_more_than_the_books_hold(world: World, desk: Desk) -> None:
    desk.buy(usd(20_000), eth(10))
    weth = world.token_of("ETH")
    world.market.give_base("ETH", desk.s.vault.address, eth(5))  # nor is this one for selling
    with world.reverts("VaultInsufficientHoldings", token=weth, held=eth(10), needed=eth(10) + 1):
        desk.sell(eth(10) + 1, usd(20_000))
    desk.sell(eth(10), usd(20_000))
    assert world.held(desk.s) == 0
    assert world.market.balance(weth, desk.s.vault.address) == eth(5)


# The price of one trade


def test_a_buy_may_lose_the_trade_slippage_to_the_oracle_and_no_more(world: World, desk: Desk) -> None:
    with world.reverts("VaultSlippageExceeded", shortfall=usd(600) + 1, allowed=usd(600)):
        desk.buy(usd(100_000), eth("49.7") - 1)
    events = desk.buy(usd(100_000), eth("49.7"))
    assert one(events, "TradeRecorded")["trade"]["shortfall"] == usd(600)


def test_a_sale_may_lose_the_trade_slippage_to_the_oracle_and_no_more(world: World, desk: Desk) -> None:
    desk.buy(usd(100_000), eth(50))
    with world.reverts("VaultSlippageExceeded", shortfall=usd(600) + 1, allowed=usd(600)):
        desk.sell(eth(50), usd(99_400) - 1)
    events = desk.sell(eth(50), usd(99_400))
    assert one(events, "TradeRecorded")["trade"]["shortfall"] == usd(600)


def test_a_dust_trade_may_lose_nothing_because_its_allowance_rounds_down(world: World, desk: Desk) -> None:
    with world.reverts("VaultSlippageExceeded", shortfall=1, allowed=0):
        desk.buy(2, ONE_UNIT_OF_ETH)
    desk.buy(2, 2 * ONE_UNIT_OF_ETH)


def test_the_agent_may_ask_for_a_better_price_than_the_guard_does(world: World, desk: Desk) -> None:
    with world.reverts("VaultShortPaid", received=eth("49.9"), due=eth("49.9") + 1):
        desk.buy(usd(100_000), eth("49.9"), minAmountOut=eth("49.9") + 1)
    desk.buy(usd(100_000), eth("49.9"), minAmountOut=eth("49.9"))


def test_a_gain_against_the_oracle_has_no_limit(world: World, desk: Desk) -> None:
    events = desk.buy(usd(100_000), eth(60))
    assert one(events, "TradeRecorded")["trade"]["shortfall"] == -usd(20_000)
    assert world.status(desk.s).profit == usd(20_000)


# The sum of what trades have lost

SUM_LIMITS = limits(max_trade_slippage_bps=100, max_cumulative_slippage_bps=20)  # at most 2,000 of a million


def test_all_trades_together_may_lose_the_cumulative_slippage_and_no_more(world: World) -> None:
    never_decay(world)
    desk = Desk(world, SUM_LIMITS)
    with world.reverts("VaultCumulativeSlippageExceeded", level=usd(2000) + 1, cap=usd(2000)):
        desk.buy(usd(300_000), eth(149) - 1)
    desk.buy(usd(300_000), eth(149))
    # What was lost lowers the value, and so the cap.
    with world.reverts("VaultCumulativeSlippageExceeded", level=usd(2000) + 1, cap=usd(1996)):
        desk.sell(eth(50), usd(100_000) - 1)


def test_gains_against_the_oracle_are_netted_but_never_saved_up(world: World) -> None:
    never_decay(world)
    desk = Desk(world, SUM_LIMITS)
    desk.buy(usd(300_000), eth(149))
    desk.buy(usd(100_000), eth("50.5"))  # 1,000 gained
    assert guard(world, desk.s).slippage.level == usd(1000)
    desk.buy(usd(100_000), eth(60))  # 20,000 gained
    assert guard(world, desk.s).slippage.level == 0
    cap = 2 * (1_000_000 - 2000 + 1000 + 20_000) * usd(1) // 1000
    with world.reverts("VaultCumulativeSlippageExceeded", level=cap + 1, cap=cap):
        desk.sell(eth(150), usd(300_000) - cap - 1)
    desk.sell(eth(150), usd(300_000) - cap)


def test_a_trade_that_loses_nothing_passes_whatever_was_lost_before(world: World) -> None:
    never_decay(world)
    desk = Desk(world, SUM_LIMITS)
    desk.buy(usd(300_000), eth(149))
    tighten(world, max_cumulative_slippage_bps=1)
    with world.reverts("VaultCumulativeSlippageExceeded", level=usd(2000) + 1, cap=usd("99.8")):
        desk.sell(eth(50), usd(100_000) - 1)
    desk.sell(eth(50), usd(100_000))
    assert guard(world, desk.s).slippage.level == usd(2000)


def test_the_sum_decays_by_its_cap_in_the_decay_time(world: World) -> None:
    desk = Desk(world, SUM_LIMITS)
    desk.buy(usd(300_000), eth(149))
    lost_at_s, cap = guard(world, desk.s).slippage.updatedAt, usd(1996)  # of the 998,000 that are left

    def spare_at(time_s: int) -> int:
        return cap - (usd(2000) - cap * (time_s - lost_at_s) // RULES.slippage_decay_s)

    half_time = lost_at_s + RULES.slippage_decay_s // 2
    world.travel_to(half_time - 60)
    assert spare_at(half_time) == usd(994)
    with world.reverts("VaultCumulativeSlippageExceeded", level=cap + 1, cap=cap):
        desk.sell(eth(100), usd(200_000) - spare_at(half_time) - 1, at_s=half_time)
    desk.sell(eth(100), usd(200_000) - spare_at(half_time + 2), at_s=half_time + 2)
    assert guard(world, desk.s).slippage == (cap, half_time + 2)


def test_the_sum_is_gone_after_the_decay_time_without_a_trade(world: World) -> None:
    world.as_timelock(world.constitution.functions.setRules(replace(RULES, slippage_decay_s=DAY_S).as_tuple()))
    desk = Desk(world, SUM_LIMITS)
    desk.buy(usd(300_000), eth(149))
    tighten(world, max_cumulative_slippage_bps=1)  # 99.80: so little that 2,000 would take weeks to go
    forgotten_at = guard(world, desk.s).slippage.updatedAt + DAY_S
    world.travel_to(forgotten_at - 60)
    with world.reverts("VaultCumulativeSlippageExceeded", level=ANY, cap=usd("99.8")):
        desk.sell(eth(50), usd(100_000) - 1, at_s=forgotten_at - 1)
    desk.sell(eth(50), usd(100_000) - usd("99.8"), at_s=forgotten_at + 1)


# How much, how often


def test_turnover_of_a_day_is_a_multiple_of_value(world: World) -> None:
    desk = Desk(world, limits(max_daily_turnover_bps=10_000))
    desk.buy(usd(600_000), eth(300))
    over = usd(1_000_000) + 1  # a sale counts at its oracle value, rounded up
    with world.reverts("VaultTurnoverExceeded", turnover=over, allowed=usd(1_000_000)):
        desk.sell(eth(200) + 1, usd(400_000))
    desk.sell(eth(200), usd(400_000))
    assert guard(world, desk.s).turnoverToday == usd(1_000_000)


def test_trades_of_a_day_are_counted(world: World) -> None:
    desk = Desk(world, limits(max_trades_per_day=2))
    desk.buy(usd(2000), eth(1))
    desk.sell(eth(1), usd(2000))
    with world.reverts("VaultTradeCountExceeded", trades=3, allowed=2):
        desk.buy(usd(2000), eth(1))
    assert guard(world, desk.s).tradesToday == 2


def test_count_and_turnover_begin_anew_at_midnight_utc(world: World) -> None:
    desk = Desk(world, limits(max_trades_per_day=1, max_daily_turnover_bps=5000))
    desk.buy(usd(500_000), eth(250))
    midnight = (world.now_s() // DAY_S + 1) * DAY_S
    world.travel_to(midnight - 60)
    with world.reverts("VaultTradeCountExceeded", trades=2, allowed=1):
        desk.sell(eth(1), usd(2000), at_s=midnight - 1)
    desk.sell(eth(250), usd(500_000), at_s=midnight + 1)
    remembered = guard(world, desk.s)
    assert (remembered.day, remembered.tradesToday, remembered.turnoverToday) == (midnight // DAY_S, 1, usd(500_000))


# What the trade leaves behind


def test_a_buy_leaves_no_asset_above_its_weight(world: World, desk: Desk) -> None:
    over, allowed = usd(600_000) + 1, usd(600_000)
    with world.reverts("VaultPositionExceeded", asset=world.token_of("ETH"), positionValue=over, allowed=allowed):
        desk.buy(over, eth(300) + ONE_UNIT_OF_ETH)
    desk.buy(allowed, eth(300))


def test_an_asset_that_grew_above_its_weight_may_be_sold_but_not_bought(world: World, desk: Desk) -> None:
    desk.buy(usd(600_000), eth(300))
    world.set_price("ETH", 2500, pool_follows=False)  # 750,000 of 1,150,000
    weight = {"asset": world.token_of("ETH"), "positionValue": usd(752_500), "allowed": usd(690_000)}
    with world.reverts("VaultPositionExceeded", **weight):
        desk.buy(usd(2500), eth(1))
    desk.sell(eth(1), usd(2500))


def test_a_trade_brings_no_loss_of_the_day_past_its_limit(world: World) -> None:
    desk = Desk(world, limits(max_daily_loss_bps=40, max_trade_slippage_bps=100))
    below = WAD * 996 // 1000 - 10**6  # one base unit of a million dollars
    with world.reverts("VaultDailyLossExceeded", unitPriceWad=below, refPriceWad=WAD, limitBps=40):
        desk.buy(usd(500_000), eth(248) - 1)
    desk.buy(usd(500_000), eth(248))
    assert world.status(desk.s).unitPriceWad == WAD * 996 // 1000


def test_a_trade_brings_no_drawdown_past_its_limit(world: World) -> None:
    desk = Desk(world, limits(max_drawdown_bps=40, max_trade_slippage_bps=100))
    below = WAD * 996 // 1000 - 10**6
    with world.reverts("VaultDrawdownExceeded", unitPriceWad=below, peakWad=WAD, limitBps=40):
        desk.buy(usd(500_000), eth(248) - 1)
    desk.buy(usd(500_000), eth(248))


def test_drawdown_after_a_trade_counts_from_a_peak_that_nobody_has_persisted(world: World) -> None:
    desk = Desk(world, limits(max_drawdown_bps=40, max_trade_slippage_bps=100))
    desk.buy(usd(500_000), eth(250))
    world.set_price("ETH", 2400, pool_follows=False)  # 1.1 dollars for each unit, as nobody but the trade sees
    limit = WAD * 11 * 996 // 10_000
    with world.reverts("VaultDrawdownExceeded", unitPriceWad=limit - 10**6, peakWad=WAD * 11 // 10, limitBps=40):
        desk.sell(eth(250), usd(600_000) - usd(4400) - 1)
    desk.sell(eth(250), usd(600_000) - usd(4400))


# A venue that lies


def test_a_venue_that_takes_more_than_was_offered_is_refused(world: World, desk: Desk) -> None:
    desk.fill(usd(100_000) + 1, eth(50))
    too_much = {"spender": desk.venue.address, "allowance": usd(100_000), "needed": usd(100_000) + 1}
    with world.reverts("ERC20InsufficientAllowance", **too_much):
        world.buy(desk.s, usd(100_000))


def test_a_token_that_takes_more_than_was_offered_is_refused(world: World, desk: Desk) -> None:
    token = turn_faulty(world, world.book.quote, 6)
    burn = token.functions.burn(desk.s.vault.address, 1)._encode_transaction_data()
    world.send(token.functions.setHook(token.address, burn), world.deployer)
    too_much = {"token": token.address, "held": usd(100_000), "needed": usd(100_000) + 1}
    with world.reverts("VaultInsufficientHoldings", **too_much):
        desk.buy(usd(100_000), eth(50))


def test_a_venue_that_pays_less_than_it_says_is_measured(world: World, desk: Desk) -> None:
    desk.fill(usd(100_000), eth("49.7") - 1, claimed=eth(50))
    with world.reverts("VaultSlippageExceeded", shortfall=usd(600) + 1, allowed=usd(600)):
        world.buy(desk.s, usd(100_000))
    with world.reverts("VaultShortPaid", received=eth("49.7") - 1, due=eth("49.7")):
        world.buy(desk.s, usd(100_000), minAmountOut=eth("49.7"))


def test_what_arrives_beyond_the_venue_s_word_is_a_donation(world: World, desk: Desk) -> None:
    desk.fill(usd(100_000), eth(60), claimed=eth(50))
    events = world.buy(desk.s, usd(100_000))
    assert one(events, "TradeRecorded")["trade"]["amountOut"] == world.held(desk.s) == eth(50)
    assert world.status(desk.s).profit == 0


@pytest.mark.parametrize(("taken", "paid"), [(0, eth(50)), (usd(100_000), 0)])
def test_a_swap_with_one_side_only_is_no_trade(world: World, desk: Desk, taken: int, paid: int) -> None:
    desk.fill(taken, paid)
    with world.reverts("VaultZeroAmount"):
        world.buy(desk.s, usd(100_000))


def test_a_part_that_was_not_taken_is_neither_spent_nor_judged(world: World, desk: Desk) -> None:
    desk.fill(usd(40_000), eth(20))
    events = world.buy(desk.s, usd(100_000))
    assert one(events, "TradeRecorded")["trade"]["amountIn"] == usd(40_000)
    assert book(world, desk.s).quoteHeld == usd(960_000)
    assert guard(world, desk.s).turnoverToday == usd(40_000)


# A ceiling of the constitution, tightened, binds the next trade of a running vault

AFTER_BOTH_WAD = WAD * 9992 // 10_000
TIGHT = {
    "max_position_bps": (
        3000, "VaultPositionExceeded", {"asset": ANY, "positionValue": usd(400_000), "allowed": usd(299_760)},
    ),
    "max_trade_slippage_bps": (30, "VaultSlippageExceeded", {"shortfall": usd(400), "allowed": usd("301.2")}),
    "max_cumulative_slippage_bps": (7, "VaultCumulativeSlippageExceeded", {"level": usd(800), "cap": usd("699.72")}),
    "max_trades_per_day": (1, "VaultTradeCountExceeded", {"trades": 2, "allowed": 1}),
    "max_daily_turnover_bps": (3000, "VaultTurnoverExceeded", {"turnover": usd(400_800), "allowed": usd(299_880)}),
    "max_daily_loss_bps": (
        6, "VaultDailyLossExceeded", {"unitPriceWad": AFTER_BOTH_WAD, "refPriceWad": WAD, "limitBps": 6},
    ),
    "max_drawdown_bps": (
        6, "VaultDrawdownExceeded", {"unitPriceWad": AFTER_BOTH_WAD, "peakWad": WAD, "limitBps": 6},
    ),
}  # fmt: skip


@pytest.mark.parametrize("ceiling", TIGHT)
def test_a_tightened_ceiling_binds_the_next_trade(world: World, desk: Desk, ceiling: str) -> None:
    never_decay(world)
    desk.buy(usd(300_400), eth(150))
    tightened, error, arguments = TIGHT[ceiling]
    tighten(world, **{ceiling: tightened})
    with world.reverts(error, **arguments):
        desk.buy(usd(100_400), eth(50))
    tighten(world)
    desk.buy(usd(100_400), eth(50))


def test_a_ceiling_looser_than_the_strategy_s_limit_changes_nothing(world: World, desk: Desk) -> None:
    tighten(world, max_trade_slippage_bps=CEILINGS.max_trade_slippage_bps, max_position_bps=10_000)
    with world.reverts("VaultSlippageExceeded", shortfall=usd(600) + 1, allowed=usd(600)):
        desk.buy(usd(100_000), eth("49.7") - 1)


# What happened, at a genuine Uniswap pool


def rounds_of(world: World, *symbols: str) -> list[dict[str, Any]]:
    """The price points a trade must name now: the quote token's first, then those of the assets held or traded."""
    book, points = world.book, []
    for symbol in (book.quote_symbol, *symbols):
        is_quote = symbol == book.quote_symbol
        latest = feeds.fetch_round(world.evm, book.quote_feed if is_quote else book.asset(symbol).feed)
        token = book.quote if is_quote else book.asset(symbol).token
        points.append({"token": token, "roundId": latest.round_id, "answer": latest.answer})
    return points


@pytest.mark.parametrize("buy", [True, False])
def test_the_ledger_says_what_happened(world: World, buy: bool) -> None:
    s = world.deploy_strategy(assets=("ETH", "BTC"))
    world.buy(s, usd(300_000))
    world.set_price("ETH", "2011.12345678")
    quote, weth, vault = world.book.quote, world.token_of("ETH"), s.vault.address
    token_in, token_out = (quote, weth) if buy else (weth, quote)
    amount_in = usd("12345.678901") if buy else eth("6.123456789012345678")
    before = {token: world.market.balance(token, vault) for token in (quote, weth)}
    previous_head = world.view(world.ledger.functions.headOf(vault))

    recorded = one(world.trade(s, amount_in, buy=buy), "TradeRecorded")

    trade = recorded["trade"]
    paid, got = (abs(world.market.balance(token, vault) - before[token]) for token in (token_in, token_out))
    quote_side, eth_side = (paid, got) if buy else (got, paid)
    worth = eth_side * 201_112_345_678 * 10**6 // 10**8 // 10**18
    assert trade == {
        "agentId": s.agent_id,
        "sequence": 1,
        "reasons": 0,
        "strategyId": s.id,
        "artefactHash": s.manifest["artefactHash"],
        "explanationHash": EXPLANATION,
        "observationHash": OBSERVATION,
        "tokenIn": token_in,
        "tokenOut": token_out,
        "amountIn": paid,
        "amountOut": got,
        # For the vault: what it gave rounds up, what it got rounds down.
        "shortfall": quote_side - worth if buy else worth + 1 - quote_side,
        "netAssetValue": world.status(s).value,
        "prices": rounds_of(world, "ETH"),
    }
    assert paid == amount_in
    assert 0 < trade["shortfall"] < quote_side * LIMITS.max_trade_slippage_bps // 10_000
    assert (recorded["vault"], recorded["agentId"]) == (vault, s.agent_id)
    assert recorded["id"] == world.view(world.ledger.functions.headOf(vault)) != previous_head


def test_books_follow_the_trade(world: World, strategy: Strategy) -> None:
    weth, vault = world.token_of("ETH"), strategy.vault.address
    trade = one(world.buy(strategy, usd(300_000)), "TradeRecorded")["trade"]
    assert book(world, strategy).quoteHeld == world.market.balance(world.book.quote, vault) == usd(700_000)
    assert world.held(strategy) == world.market.balance(weth, vault) == trade["amountOut"]
    position = world.view(strategy.vault.functions.positionOf(weth))
    assert position == (trade["amountOut"], 2000 * WAD)
    remembered = guard(world, strategy)
    assert (remembered.nonce, remembered.tradesToday, remembered.turnoverToday) == (1, 1, usd(300_000))
    assert remembered.slippage.level == trade["shortfall"]
    assert remembered.reduceSlippage.level == 0
    unit_price = trade["netAssetValue"] * WAD // usd(1_000_000)
    assert remembered.lastUnitPrice == world.status(strategy).unitPriceWad == unit_price
    assert remembered.peak == WAD


def test_a_trade_returns_what_it_received(world: World, strategy: Strategy) -> None:
    order = strategy.vault.functions.trade(struct(world.order(strategy, usd(300_000), buy=True)))
    expected = world.evm.call(order, world.signer)
    assert one(world.send(order, world.signer), "TradeRecorded")["trade"]["amountOut"] == expected


def test_a_trade_that_changes_no_state_says_nothing_of_it(world: World, strategy: Strategy) -> None:
    events = world.buy(strategy, usd(300_000))
    assert none_of(events, "StateChanged")
    assert none_of(events, "TradeRefused")
