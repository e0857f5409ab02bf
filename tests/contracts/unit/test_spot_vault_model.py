"""The vault that policies are trained and tested in (`offchain_rl.spot_vault`) beside the contract: after each call the
same books, the same memory of the guard, the same answer to the same order, to the base unit.

Prices are drawn so that every state is reached. The venue fills as told, mostly what the model's pool would pay,
sometimes more or less, so that slippage limits bind too. Orders that an agent would not send are sent too: the guard
has to say what the model says.
"""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from agents.localnet.evm import TransactionReverted
from offchain_rl import spot_vault as model
from offchain_rl.spot_vault import BUY, REFUSED, REVERTED, SELL, TRADED, Costs, Planned, Rules, Vault
from oracle.vault_state import Reason
from tests.contracts.vaults import MAX_UINT, UNITS_PER_QUOTE, Desk, book, condition, guard
from tests.contracts.world import LIMITS, RULES, WAD, World, eth, none_of, usd

START = usd(1_000_000)
PER_VALUE = WAD * UNITS_PER_QUOTE // (START * UNITS_PER_QUOTE)  # a unit price for one base unit of value, exactly
BAR_S = 3 * 3600
BARS = 20
TERMS = model.terms_of(
    Costs(latency_s=24, slippage_bps=20, depth_quote=usd(400_000_000)),
    model.Limits(**{name: getattr(LIMITS, name) for name in model.Limits.__slots__}),
    Rules(
        slippage_decay_s=RULES.slippage_decay_s,
        auction_duration_s=RULES.auction_duration_s,
        auction_max_discount_bps=RULES.auction_max_discount_bps,
        auction_lot_bps=RULES.auction_lot_bps,
    ),
    unit=eth(1),
)


class SideBySide:
    """A vault on the chain, and the model's."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.rng = world, random.Random(seed)
        self.desk = Desk(world)
        self.price_e8 = 2000 * 10**8
        world.market.give_quote(world.bidder, usd(10_000_000))
        world.send(world.quote.functions.approve(self.desk.s.vault.address, MAX_UINT), world.bidder)
        self.at_s = world.now_s() // BAR_S * BAR_S + 2 * BAR_S
        self.v = model.open_vault(START, 0, self.price_e8, self.at_s, TERMS.unit)
        self.seen: Counter[str] = Counter()
        self.close_bar(self.price_e8)
        # The contract has been called when capital came: as far as days go, so has the model.
        on_chain = guard(world, self.desk.s)
        self.v = self.v._replace(day=on_chain.day, before_today=START, before_yesterday=START)

    def close_bar(self, price_e8: int) -> None:
        """A round, a fill of the auction where there is one, and a poke."""
        world, s = self.world, self.desk.s
        self.price_e8 = price_e8
        world.evm.next_block_at(self.at_s - 10)
        world.refresh()
        world.set_price("ETH", Decimal(price_e8) / 10**8, pool_follows=False)
        self.v = model.sync(self.v, price_e8, self.poke(), TERMS)
        if self.v.halted_at_s and self.v.asset and world.now_s() > max(self.v.halted_at_s, self.v.filled_at_s):
            world.set_price("ETH", Decimal(price_e8) / 10**8, pool_follows=False)
            world.send(s.vault.functions.fillAuction(world.token_of("ETH"), MAX_UINT), world.bidder)
            now_s = world.now_s()
            self.v = model.auction(model.sync(self.v, price_e8, now_s, TERMS), now_s, TERMS)
            self.seen["auction"] += 1
            self.v = model.sync(self.v, price_e8, self.poke(), TERMS)

    def poke(self) -> int:
        self.world.poke(self.desk.s)
        return self.world.now_s()

    def order(self) -> Planned:
        """What an agent would send, or what it would not: too much, of what is not held, past a limit."""
        v, rng = self.v, self.rng
        planned = model.plan(v, True, rng.choice([0, 1500, 3000, 5000, 6000, 9000]), self.at_s, TERMS)
        if planned.is_allowed and rng.random() < 0.7:
            return planned
        side = rng.choice([BUY, SELL])
        held = v.quote if side == BUY else v.asset
        return Planned(side, max(held * rng.randint(1, 10_100) // 10_000, 1), 1, 0, 1)

    def trade(self, opening_bps: int = 0) -> None:
        """A drawn order and fill, or the planned ones for `opening_bps`."""
        order = model.plan(self.v, True, opening_bps, self.at_s, TERMS) if opening_bps else self.order()
        paid = model.fill(order.side, order.amount_in, self.price_e8, TERMS)
        if not opening_bps:
            paid = paid * self.rng.choice([9_750, 9_900, 9_960, 10_000, 10_000, 10_000, 10_050]) // 10_000
        self.at_s += TERMS.latency_s
        self.v, expected = model.trade(self.v, order, paid, self.price_e8, self.at_s, TERMS)
        assert self.sent(order, paid) == expected
        self.seen[{TRADED: "traded", REVERTED: "reverted", REFUSED: "refused"}[expected]] += 1

    def sent(self, order: Planned, paid: int) -> int:
        over: dict[str, Any] = {"at_s": self.at_s, "minAmountOut": order.least_out}
        act = self.desk.buy if order.side == BUY else self.desk.sell
        try:
            events = act(order.amount_in, paid, **over)
        except TransactionReverted:
            return REVERTED
        return TRADED if none_of(events, "TradeRefused") else REFUSED

    def assert_equal(self) -> None:
        g, b, v = guard(self.world, self.desk.s), book(self.world, self.desk.s), self.v
        on_chain = {
            "quote": b.quoteHeld,
            "asset": self.world.held(self.desk.s),
            "last_value": g.lastUnitPrice,
            "peak_value": g.peak,
            "before_today": g.beforeToday,
            "before_yesterday": g.beforeYesterday,
            "day": g.day,
            "trades_today": g.tradesToday,
            "turnover_today": g.turnoverToday,
            "slippage_level": g.slippage.level,
            "reduce_level": g.reduceSlippage.level,
            "slippage_at_s": g.slippage.updatedAt,
            "reduce_at_s": g.reduceSlippage.updatedAt,
            "is_drawdown": int(g.drawdownLatched),
            "halted_at_s": g.haltedAt,
            "trades": g.nonce,
        }
        ours = {name: getattr(v, name) * (PER_VALUE if is_unit_price(name) else 1) for name in on_chain}
        assert ours == on_chain
        if v.breached_day >= 0:
            assert v.breached_day == g.dayBreachedOn
        state, reasons = condition(self.world, self.desk.s)
        assert not reasons & ~(Reason.DAY_LOSS | Reason.DRAWDOWN | Reason.HALTED), "the story left the model's states"
        assert model.is_reducing(v) == bool(reasons)
        self.seen[state.name] += 1


def is_unit_price(name: str) -> bool:
    return name in ("last_value", "peak_value", "before_today", "before_yesterday")


def play(world: World, seed: int, moves: list[int], opening_bps: int = 0) -> SideBySide:
    """Bars whose prices move by these basis points, an order in each, the first for `opening_bps`."""
    side = SideBySide(world, seed)
    side.assert_equal()
    for i, move_bps in enumerate(moves):
        side.trade(opening_bps if i == 0 else 0)
        side.assert_equal()
        side.at_s += BAR_S
        side.close_bar(side.price_e8 * (10_000 + move_bps) // 10_000)
        side.assert_equal()
    return side


def test_an_active_vault_and_the_model_agree_on_every_call(world: World) -> None:
    rng = random.Random(5)
    side = play(world, 1, [rng.randint(-80, 90) for _ in range(BARS)])
    assert side.seen["ACTIVE"] > BARS, side.seen
    assert side.seen["traded"] > 3, side.seen
    assert side.seen["reverted"] > 3, side.seen


def test_a_day_of_loss_reduces_and_the_next_day_is_active_again_in_both(world: World) -> None:
    side = play(world, 2, [-1000, -30, 20, *[10] * 19], opening_bps=5500)
    assert side.seen["REDUCING"] > 2, side.seen
    assert side.seen["ACTIVE"] > 5, side.seen
    assert side.seen["refused"] > 0, side.seen


def test_a_crash_halts_both_and_the_auction_sells_the_same_lots_at_the_same_price(world: World) -> None:
    side = play(world, 4, [-4500, -100, 50, 20, 10, 10], opening_bps=5500)
    assert side.seen["HALTED"] > 4, side.seen
    assert side.seen["auction"] > 3, side.seen


@pytest.mark.parametrize("unit", [10**6, 10**8, 10**18])
def test_an_order_for_nothing_is_no_order_whatever_the_decimals(unit: int) -> None:
    terms = TERMS._replace(unit=unit)
    v: Vault = model.open_vault(START, 0, 2000 * 10**8, 10**9, unit)
    assert model.plan(v, True, 0, 10**9, terms).side == model.NOTHING
    assert model.plan(v, False, 5000, 10**9, terms).side == model.NOTHING
