"""A vault with one asset, in integers: `StrategyVault.sol`, its guard, and the agent's own care before it sends.

The one model that environment, backtest and evaluation share. What a call to the contract does, a function here does
with the same integers and in the same order; tests run both side by side on a real EVM. Everything is a function of
tuples of integers, so that the same source runs as plain Python, which this file documents, and compiled by numba
(`compiled`), thousands of vaults at once.

    sync        what every call does first: value, references, peak, and the latches of day loss, drawdown and halt
    plan        the order an agent makes of a wanted weight (`agents.intent.plan_intent`), and whether it may be sent
                (`agents.constitution.review`)
    trade       the order executed: the pool's fill, then every limit of the guard; a revert changes nothing but gas
    auction     of a halted vault, one lot for each newer round
    pass_bar    all of it for one bar of prices

    position      a buy never brings the asset above `max_position_bps`
    turnover      what is traded in one UTC day, and how often
    slippage      of one trade against the oracle, and the decaying net sum of all
    daily loss    below the day's reference: only sales until the next day
    drawdown      below the peak: only sales, for good; past the hard limit: nobody trades, the asset is auctioned

On chain a vault that may only reduce does not sell by itself; the agent does, as `plan_intent` says.

The fill is Uniswap v3's within one range of ticks: a constant product on virtual reserves, of which `depth_quote` is
the one in quote (liquidity x square root of the price). Fees first, then price impact; all rounding against the vault.
`offchain_rl.uniswap_v3` measures what this leaves out where a trade crosses ticks. The pool's price is the market's at
the time of the fill, made worse by `slippage_bps` for what a model can't know: pools that lag, others that trade first.

Left out, and why: other assets, a deposit or bond that runs low, the guardian and unsettled windows (states of other
contracts, with the same effect as the day loss here), feeds that stop. One allocation at the start and none later; the
contract's unit prices are then values times a constant, exactly so when the start is a divisor of 10^18.

Units: quote in 1e-6, asset in `unit`ths, prices in 1e-8 dollars with one quote token worth one dollar, times in unix
seconds. Compiled, amounts are int64: `check_compilable` says for which prices, decimals and values that is enough.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

BPS: Final = 10_000
DAY_S: Final = 86_400
# quote (1e-6) = asset * price_e8 / (unit * this)
PRICE_SCALE: Final = 100
# The compiled code's largest value in base units of quote: times any share in basis points it fits an int64.
MAX_VALUE: Final = 1 << 46
# What a vault may grow to there, in multiples of its start; beyond is an error.
MAX_GROWTH: Final = 32
MAX_SHARE_BPS: Final = 1 << 16
MAX_UNIT: Final = 10**12
BUY: Final = 1
SELL: Final = -1
NOTHING: Final = 0

# Why a planned order is not sent, or what became of one that was.
DENIED: Final = 1
TRADED: Final = 2
REVERTED: Final = 3
REFUSED: Final = 4


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What trading costs. The defaults are a 0.05 % pool with two million dollars within a per cent of the price,
    0.05 % for what the model can't know, half a dollar of gas and two blocks of twelve seconds until the fill."""

    fee_bps: int = 5
    slippage_bps: int = 5
    # Paid by the agent for each transaction, reverted ones too, base units of quote. Not out of the vault.
    gas_quote: int = 500_000
    # The pool's virtual reserve of quote in base units: a trade of a hundredth of it moves the price by two hundredths.
    depth_quote: int = 400_000_000 * 10**6
    # From the decision to the fill.
    latency_s: int = 24

    def __post_init__(self) -> None:
        _require(0 <= self.fee_bps < BPS, "fee_bps lies between 0 and 9999")
        _require(0 <= self.slippage_bps < BPS, "slippage_bps lies between 0 and 9999")
        _require(0 <= self.gas_quote < 1 << 40, "gas_quote lies between 0 and 2**40")
        _require(0 < self.depth_quote <= 1 << 59, "depth_quote lies between 1 and 2**59")
        _require(0 <= self.latency_s, "latency_s is not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`Limits` of Types.sol. `UNLIMITED` is a vault that stops nobody."""

    max_position_bps: int = 10_000
    max_trade_slippage_bps: int = 200
    max_cumulative_slippage_bps: int = 300
    max_reduce_slippage_bps: int = 500
    max_reduce_cumulative_slippage_bps: int = 1_000
    max_trades_per_day: int = 48
    max_daily_turnover_bps: int = 20_000
    max_daily_loss_bps: int = 500
    max_drawdown_bps: int = 2_000
    hard_drawdown_bps: int = 3_000

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            _require(value >= 0, f"{name} is not negative")
        _require(self.max_position_bps <= MAX_SHARE_BPS, "max_position_bps lies between 0 and 65536")
        _require(0 < self.max_trades_per_day < 1 << 32, "max_trades_per_day lies between 1 and 2**32")
        _require(0 < self.max_daily_turnover_bps < 1 << 32, "max_daily_turnover_bps lies between 1 and 2**32")
        for name in ("max_daily_loss_bps", "max_drawdown_bps", "hard_drawdown_bps"):
            _require(0 < getattr(self, name) <= BPS, f"{name} lies between 1 and 10000")


UNLIMITED: Final = Limits(
    # One less than everything: a sale of all is worth its value rounded up, and the worst fill of that must leave 0.
    max_position_bps=MAX_SHARE_BPS, max_trade_slippage_bps=BPS - 1, max_cumulative_slippage_bps=BPS,
    max_reduce_slippage_bps=BPS, max_reduce_cumulative_slippage_bps=BPS, max_trades_per_day=1 << 30,
    max_daily_turnover_bps=1 << 30, max_daily_loss_bps=BPS, max_drawdown_bps=BPS, hard_drawdown_bps=BPS,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What of `Rules` of Types.sol binds one vault, as deployments/genesis has it, and what its operator wishes."""

    slippage_decay_s: int = 7 * DAY_S
    auction_duration_s: int = 14_400
    auction_max_discount_bps: int = 500
    auction_lot_bps: int = 2_500
    # An order may be mined so long after its decision: `agents.cycle.ORDER_LIFETIME_S`.
    order_lifetime_s: int = 600
    # Of the operator: smaller trades are not worth their gas, base units of quote.
    min_trade_value: int = 0

    def __post_init__(self) -> None:
        for name in ("slippage_decay_s", "auction_duration_s", "auction_lot_bps"):
            _require(0 < getattr(self, name) < 1 << 32, f"{name} lies between 1 and 2**32")
        _require(self.auction_lot_bps <= BPS, "auction_lot_bps is at most 10000")
        _require(0 <= self.auction_max_discount_bps < BPS, "auction_max_discount_bps lies between 0 and 9999")
        _require(self.order_lifetime_s > 0, "order_lifetime_s is positive")
        _require(0 <= self.min_trade_value <= MAX_VALUE, "min_trade_value is not negative")


class Terms(NamedTuple):
    """Costs, limits, rules and the asset's unit as the arithmetic takes them: plain integers."""

    unit: int
    fee_bps: int
    slippage_bps: int
    gas_quote: int
    depth_quote: int
    latency_s: int
    max_position_bps: int
    max_trade_slippage_bps: int
    max_cumulative_slippage_bps: int
    max_reduce_slippage_bps: int
    max_reduce_cumulative_slippage_bps: int
    max_trades_per_day: int
    max_daily_turnover_bps: int
    max_daily_loss_bps: int
    max_drawdown_bps: int
    hard_drawdown_bps: int
    slippage_decay_s: int
    auction_duration_s: int
    auction_max_discount_bps: int
    auction_lot_bps: int
    order_lifetime_s: int
    min_trade_value: int


def terms_of(costs: Costs, limits: Limits, rules: Rules, *, unit: int = 10**8) -> Terms:
    """What a vault's arithmetic depends on. `unit`: base units of one whole token of the asset."""
    _require(unit > 0, "unit is positive")
    return Terms(unit=unit, **asdict(costs), **asdict(limits), **asdict(rules))


def check_compilable(start_quote: int, unit: int, lowest_price_e8: int, highest_price_e8: int) -> None:
    """Raises ValueError unless every amount of a run fits the compiled code: values up to MAX_GROWTH times the start,
    as much of the asset as that buys at the lowest price, and what that is worth at the highest."""
    _require(
        start_quote * MAX_GROWTH <= MAX_VALUE,
        f"start_quote is {start_quote}: at most {MAX_VALUE // MAX_GROWTH} fits the compiled code",
    )
    _require(unit <= MAX_UNIT, f"asset_unit is {unit}: at most {MAX_UNIT} fits the compiled code")
    _require(
        start_quote * MAX_GROWTH * unit * PRICE_SCALE // lowest_price_e8 < 1 << 62,
        f"at a price of {lowest_price_e8}e-8 dollars, {start_quote} of start_quote buys more units of 1/{unit} than "
        "the compiled code can count: give a smaller asset_unit or start_quote",
    )
    _require(
        start_quote * MAX_GROWTH * highest_price_e8 // lowest_price_e8 < 1 << 62,
        f"prices go from {lowest_price_e8}e-8 to {highest_price_e8}e-8 dollars: what {start_quote} of start_quote buys "
        "at the one is worth more at the other than the compiled code can count: give a smaller start_quote",
    )


class Vault(NamedTuple):
    """The books, the guard's memory and what the agent has paid, after the last call. A step answers with a new one."""

    # Base units held, and the round in force at the last call, at which everything is valued.
    quote: int
    asset: int
    price_e8: int
    # Values: at the last call, the highest so far, and the last ones before today and before yesterday.
    last_value: int
    peak_value: int
    before_today: int
    before_yesterday: int
    # UTC day number of the last call, and what was traded in it.
    day: int
    trades_today: int
    turnover_today: int
    # The decaying sums of shortfall, in ordinary and in emergency sales, and when they were written.
    slippage_level: int
    slippage_at_s: int
    reduce_level: int
    reduce_at_s: int
    # The day on which the daily loss was reached last, -1: never.
    breached_day: int
    # Past the drawdown: 1, for good.
    is_drawdown: int
    # Since when nobody trades, 0: it is not so. The auction's lot and last fill.
    halted_at_s: int
    lot: int
    filled_at_s: int
    # Trades so far, orders that reverted, value traded, net shortfall against the oracle, gas.
    trades: int
    reverted: int
    turnover: int
    shortfall: int
    gas_spent: int

    @property
    def costs(self) -> int:
        """What trading has cost so far: the net shortfall against the oracle, and gas."""
        return self.shortfall + self.gas_spent

    @property
    def equity(self) -> int:
        """What it is all worth to who paid for it: the value at the last call, less gas."""
        return self.last_value - self.gas_spent


class Planned(NamedTuple):
    """An order: BUY, SELL or NOTHING; base units to give, the least to take, its worth, and whether it may be sent."""

    side: int
    amount_in: int
    least_out: int
    value: int
    is_allowed: int


# Arithmetic, named by rounding. Arguments are not negative.


def mul_div_down(a: int, b: int, c: int) -> int:
    """a * b / c, rounded down. Compiled: exact while c <= 2^60, the quotient < 2^62 and a * b < 2^110."""
    return a * b // c


def value_div_down(a: int, b: int, c: int) -> int:
    """The same where the quotient is a value or a share. Compiled: without a branch, and exact while it is < 2^49."""
    return a * b // c


def mul_div_up(a: int, b: int, c: int) -> int:
    """a * b / c, rounded up."""
    down = mul_div_down(a, b, c)
    return down + (1 if down * c != a * b else 0)


def worth_down(asset: int, price_e8: int, unit: int) -> int:
    """Base units of quote that an amount of the asset is worth, rounded down (`GuardMath.valueDown`)."""
    return value_div_down(asset, price_e8, unit * PRICE_SCALE)


def worth_up(asset: int, price_e8: int, unit: int) -> int:
    """The same, rounded up."""
    down = worth_down(asset, price_e8, unit)
    return down + (1 if down * (unit * PRICE_SCALE) != asset * price_e8 else 0)


def is_below_by(current: int, base: int, bps: int) -> bool:
    """Whether `current` is more than `bps` below `base`; exactly at the limit is within it (`GuardMath.isBelowBy`)."""
    return current * BPS < base * (BPS - bps)


def decayed(level: int, cap: int, elapsed_s: int, duration_s: int) -> int:
    """What is left of a sum that loses `cap / duration_s` each second (`GuardMath.decayed`)."""
    if elapsed_s >= duration_s:
        return 0
    return max(level - mul_div_down(cap, elapsed_s, duration_s), 0)


# Reading a vault that was synced: its value is `last_value`


def weight_bps_of(v: Vault) -> int:
    """Share of the asset in the value, rounded down; 0 for an empty vault."""
    return share_bps(v.last_value - v.quote, v.last_value)


def share_bps(part: int, whole: int) -> int:
    """The part in basis points of the whole, rounded down; 0 of nothing."""
    return value_div_down(part, BPS, whole) if whole > 0 else 0


def drawdown_bps_of(v: Vault) -> int:
    """Loss from the peak, rounded down."""
    return value_div_down(v.peak_value - v.last_value, BPS, v.peak_value)


def day_of(now_s: int) -> int:
    """The UTC day, counted from 1970."""
    return now_s // DAY_S


def is_reducing(v: Vault) -> bool:
    """Whether the vault takes sales only, or nothing at all."""
    return v.is_drawdown == 1 or v.halted_at_s != 0 or v.breached_day == v.day


def is_quiet(v: Vault, lowest: int, highest: int, t: Terms) -> bool:
    """Whether a synced vault reaches no limit at rounds that value it between these two, today or later.

    What is left of such rounds is the highest, the last one, and the last of each day: every value that a limit will be
    counted from is one of those. May say no where no limit would be reached.
    """
    peak_value = max(v.peak_value, highest)
    reference = max(v.before_today, v.before_yesterday, v.last_value, highest)
    return not (
        is_reducing(v)
        or is_below_by(lowest, reference, t.max_daily_loss_bps)
        or is_below_by(lowest, peak_value, t.max_drawdown_bps)
        or is_below_by(lowest, peak_value, t.hard_drawdown_bps)
    )


# Acting on it


def open_vault(quote: int, asset: int, price_e8: int, now_s: int, unit: int) -> Vault:
    """A vault that was just given `quote` and `asset` at this price: nothing has been gained or lost yet."""
    value = quote + worth_down(asset, price_e8, unit)
    return Vault(
        quote, asset, price_e8,
        value, value, value, value,
        day_of(now_s), 0, 0,
        0, 0, 0, 0,
        -1, 0,
        0, 0, 0,
        0, 0, 0, 0, 0,
    )  # fmt: skip


def sync(v: Vault, price_e8: int, now_s: int, t: Terms) -> Vault:
    """What every call does first (`_derive` and `_persist`): the state at this price and time, written down."""
    return sync_at(v, price_e8, v.quote + worth_down(v.asset, price_e8, t.unit), now_s, day_of(now_s), t)


def sync_at(v: Vault, price_e8: int, value: int, now_s: int, day: int, t: Terms) -> Vault:
    """The same, where the value at this price and the day are known."""
    before_today, before_yesterday = v.before_today, v.before_yesterday
    trades_today, turnover_today = v.trades_today, v.turnover_today
    if day != v.day:
        before_yesterday = v.before_today if day == v.day + 1 else v.last_value
        before_today = v.last_value
        trades_today, turnover_today = 0, 0
    peak_value = max(v.peak_value, value)
    breached_day, is_drawdown, halted_at_s = v.breached_day, v.is_drawdown, v.halted_at_s
    if is_below_by(value, max(before_today, before_yesterday), t.max_daily_loss_bps):
        breached_day = day
    if is_below_by(value, peak_value, t.max_drawdown_bps):
        is_drawdown = 1
    if halted_at_s == 0 and is_below_by(value, peak_value, t.hard_drawdown_bps):
        halted_at_s = now_s
    return Vault(
        v.quote, v.asset, price_e8,
        value, peak_value, before_today, before_yesterday,
        day, trades_today, turnover_today,
        v.slippage_level, v.slippage_at_s, v.reduce_level, v.reduce_at_s,
        breached_day, is_drawdown,
        halted_at_s, v.lot, v.filled_at_s,
        v.trades, v.reverted, v.turnover, v.shortfall, v.gas_spent,
    )  # fmt: skip


def plan(v: Vault, is_rebalance: bool, target_bps: int, now_s: int, t: Terms) -> Planned:
    """The order that brings a synced vault to the decided weight, as an agent makes and reviews it."""
    side, amount = _wish(v, is_rebalance, target_bps, t)
    return _review(v, side, amount, now_s, t) if amount > 0 else _no_order()


def _wish(v: Vault, is_rebalance: bool, target_bps: int, t: Terms) -> tuple[int, int]:
    """What to trade and how much of what is given; nothing for an amount that is not positive.

    A vault that may only reduce sells everything, whatever is wanted.
    """
    value = v.last_value
    if is_reducing(v):
        return SELL, v.asset
    if not is_rebalance:
        return NOTHING, 0
    room = mul_div_down(value, t.max_daily_turnover_bps, BPS) - v.turnover_today
    difference = value * target_bps // BPS - (value - v.quote)
    if difference > 0:
        return BUY, min(difference, room, v.quote)
    if target_bps == 0 and worth_up(v.asset, v.price_e8, t.unit) <= room:
        return SELL, v.asset
    to_sell = min(-difference, room)
    if to_sell <= 0:
        return NOTHING, 0
    return SELL, min(asset_for_down(to_sell, v.price_e8, t.unit), v.asset)


def asset_for_down(worth: int, price_e8: int, unit: int) -> int:
    """Base units of the asset that are worth so much quote, rounded down."""
    return mul_div_down(worth, unit * PRICE_SCALE, price_e8)


def _no_order() -> Planned:
    return Planned(NOTHING, 0, 0, 0, 0)


def _review(v: Vault, side: int, amount: int, now_s: int, t: Terms) -> Planned:
    """The order with the least it takes, and whether the guard would let it pass at its worst fill."""
    reducing = is_reducing(v)
    slippage_bps = t.max_reduce_slippage_bps if reducing else t.max_trade_slippage_bps
    value = amount if side == BUY else worth_up(amount, v.price_e8, t.unit)
    least = value - value * slippage_bps // BPS
    if side == BUY:
        at_oracle = asset_for_down(amount, v.price_e8, t.unit)
        least = mul_div_up(least, t.unit * PRICE_SCALE, v.price_e8)
    else:
        at_oracle = worth_down(amount, v.price_e8, t.unit)
    if at_oracle < least:  # so little that rounding alone is more than the limit allows
        return _no_order()
    is_allowed = v.halted_at_s == 0 and value >= t.min_trade_value
    if is_allowed and not reducing:
        is_allowed = _may_trade(v, side, value, now_s, t)
    return Planned(side, amount, least, value, 1 if is_allowed else 0)


def _may_trade(v: Vault, side: int, value: int, now_s: int, t: Terms) -> bool:
    vault_value = v.last_value
    cap = vault_value * t.max_cumulative_slippage_bps // BPS
    if decayed(v.slippage_level, cap, now_s - v.slippage_at_s, t.slippage_decay_s) > cap:
        return False
    worst_loss = value * t.max_trade_slippage_bps // BPS
    after = vault_value - worst_loss
    if v.trades_today + 1 > t.max_trades_per_day:
        return False
    if v.turnover_today + value > mul_div_down(vault_value, t.max_daily_turnover_bps, BPS):
        return False
    if side == BUY:
        position = vault_value - v.quote + value + worst_loss
        if position > vault_value * t.max_position_bps // BPS:
            return False
    reference = max(v.before_today, v.before_yesterday)
    return not (
        is_below_by(after, reference, t.max_daily_loss_bps) or is_below_by(after, v.peak_value, t.max_drawdown_bps)
    )


def fill(side: int, amount_in: int, fill_price_e8: int, t: Terms) -> int:
    """What the pool pays for `amount_in` when its price is `fill_price_e8`, less what the model can't know."""
    net = mul_div_down(amount_in, BPS - t.fee_bps, BPS)
    if side == BUY:
        price_e8 = mul_div_up(fill_price_e8, BPS + t.slippage_bps, BPS)
        price_e8 = mul_div_up(price_e8, t.depth_quote + net, t.depth_quote)
        return mul_div_down(net, t.unit * PRICE_SCALE, price_e8)
    gross = worth_down(net, mul_div_down(fill_price_e8, BPS - t.slippage_bps, BPS), t.unit)
    return value_div_down(gross, t.depth_quote, t.depth_quote + gross)


def trade(v: Vault, order: Planned, received: int, price_e8: int, now_s: int, t: Terms) -> tuple[Vault, int]:
    """The vault after an order met a fill of `received`, and TRADED, REFUSED or REVERTED (`StrategyVault.trade`)."""
    m = sync(v, price_e8, now_s, t)
    reducing = is_reducing(m)
    if m.halted_at_s != 0 or (reducing and order.side == BUY):
        return _pay_gas(m, t, 0), REFUSED
    held = m.quote if order.side == BUY else m.asset
    if order.amount_in > held or received <= 0 or received < order.least_out:
        return _pay_gas(v, t, 1), REVERTED
    base = order.amount_in if order.side == BUY else worth_up(order.amount_in, price_e8, t.unit)
    got = worth_down(received, price_e8, t.unit) if order.side == BUY else received
    shortfall = base - got
    level = slippage_after(m, shortfall, base, now_s, reducing, t)
    is_too_active = not reducing and (
        m.trades_today + 1 > t.max_trades_per_day
        or m.turnover_today + base > mul_div_down(m.last_value, t.max_daily_turnover_bps, BPS)
    )
    if level < 0 or is_too_active:
        return _pay_gas(v, t, 1), REVERTED
    quote = m.quote - order.amount_in if order.side == BUY else m.quote + received
    asset = m.asset + received if order.side == BUY else m.asset - order.amount_in
    position = worth_down(asset, price_e8, t.unit)
    value = quote + position
    if not reducing and (
        (order.side == BUY and position > value * t.max_position_bps // BPS)
        or is_below_by(value, max(m.before_today, m.before_yesterday), t.max_daily_loss_bps)
        or is_below_by(value, m.peak_value, t.max_drawdown_bps)
    ):
        return _pay_gas(v, t, 1), REVERTED
    return (
        Vault(
            quote, asset, price_e8,
            value, m.peak_value, m.before_today, m.before_yesterday,
            m.day, m.trades_today + (0 if reducing else 1), m.turnover_today + (0 if reducing else base),
            m.slippage_level if reducing else level, m.slippage_at_s if reducing else now_s,
            level if reducing else m.reduce_level, now_s if reducing else m.reduce_at_s,
            m.breached_day, m.is_drawdown,
            m.halted_at_s, m.lot, m.filled_at_s,
            m.trades + 1, m.reverted, m.turnover + base, m.shortfall + shortfall, m.gas_spent + t.gas_quote,
        ),
        TRADED,
    )  # fmt: skip


def slippage_after(m: Vault, shortfall: int, base: int, now_s: int, reducing: bool, t: Terms) -> int:
    """The slippage sum after a trade, or -1 when the trade breaks its own limit or the sum's (`_checkSlippage`)."""
    if reducing:
        allowed_bps, cap_bps = t.max_reduce_slippage_bps, t.max_reduce_cumulative_slippage_bps
        level, at_s = m.reduce_level, m.reduce_at_s
    else:
        allowed_bps, cap_bps = t.max_trade_slippage_bps, t.max_cumulative_slippage_bps
        level, at_s = m.slippage_level, m.slippage_at_s
    if shortfall > base * allowed_bps // BPS:
        return -1
    cap = m.last_value * cap_bps // BPS
    level = max(decayed(level, cap, now_s - at_s, t.slippage_decay_s) + shortfall, 0)
    return -1 if shortfall > 0 and level > cap else level


def _pay_gas(v: Vault, t: Terms, reverted: int) -> Vault:
    return Vault(
        v.quote, v.asset, v.price_e8,
        v.last_value, v.peak_value, v.before_today, v.before_yesterday,
        v.day, v.trades_today, v.turnover_today,
        v.slippage_level, v.slippage_at_s, v.reduce_level, v.reduce_at_s,
        v.breached_day, v.is_drawdown,
        v.halted_at_s, v.lot, v.filled_at_s,
        v.trades, v.reverted + reverted, v.turnover, v.shortfall, v.gas_spent + t.gas_quote,
    )  # fmt: skip


def auction(v: Vault, now_s: int, t: Terms) -> Vault:
    """A synced vault after somebody took the lot that its auction offers for a round of now; the same if none is.

    The buyer is taken to come with each round: the discount has then grown for one bar (`fillAuction`).
    """
    since_s = v.filled_at_s if v.filled_at_s > v.halted_at_s else v.halted_at_s
    if v.halted_at_s == 0 or v.asset == 0 or now_s <= since_s:
        return v
    lot = v.lot if v.filled_at_s > v.halted_at_s else mul_div_up(v.asset, t.auction_lot_bps, BPS)
    amount = min(lot, v.asset)
    elapsed_s = min(now_s - since_s, t.auction_duration_s)
    discount_bps = t.auction_max_discount_bps * elapsed_s // t.auction_duration_s
    paid = mul_div_up(worth_up(amount, v.price_e8, t.unit), BPS - discount_bps, BPS)
    return Vault(
        v.quote + paid, v.asset - amount, v.price_e8,
        v.last_value, v.peak_value, v.before_today, v.before_yesterday,
        v.day, v.trades_today, v.turnover_today,
        v.slippage_level, v.slippage_at_s, v.reduce_level, v.reduce_at_s,
        v.breached_day, v.is_drawdown,
        v.halted_at_s, lot, now_s,
        v.trades, v.reverted, v.turnover, v.shortfall, v.gas_spent,
    )  # fmt: skip


def fill_price(open_e8: int, close_e8: int, latency_s: int, bar_s: int) -> int:
    """The market's price so long after a bar has opened, on the straight line from its open to its close."""
    return open_e8 + (close_e8 - open_e8) * latency_s // bar_s


def pass_bar(
    v: Vault,
    is_rebalance: bool,
    target_bps: int,
    decided_s: int,
    open_s: int,
    open_e8: int,
    close_e8: int,
    close_s: int,
    bar_s: int,
    t: Terms,
) -> Vault:
    """One bar: an order planned at the close before, filled in this bar, and the vault poked at its close.

    `v` was synced at `decided_s`, the close of the bar before; `is_rebalance` and `target_bps` are what was decided
    then. An order that reaches the chain after its deadline, past a gap in the data, reverts.
    """
    if is_rebalance or is_reducing(v):
        v = place(v, is_rebalance, target_bps, decided_s, open_s, fill_price(open_e8, close_e8, t.latency_s, bar_s), t)
    return close_bar(v, close_e8, close_s, t)


def close_bar(v: Vault, close_e8: int, close_s: int, t: Terms) -> Vault:
    """A round, what the auction of a halted vault sells at it, and a poke."""
    v = sync(v, close_e8, close_s, t)
    return v if v.halted_at_s == 0 else sell_lot(v, close_e8, close_s, t)


def sell_lot(v: Vault, close_e8: int, close_s: int, t: Terms) -> Vault:
    """What follows the round where the vault is halted."""
    return sync(auction(v, close_s, t), close_e8, close_s, t)


def place(
    v: Vault, is_rebalance: bool, target_bps: int, decided_s: int, open_s: int, fill_price_e8: int, t: Terms
) -> Vault:
    """The vault after what was decided at `decided_s` has met the market, if anything was ordered."""
    order = plan(v, is_rebalance, target_bps, decided_s, t)
    if order.is_allowed == 0:
        return v
    now_s = open_s + t.latency_s
    if now_s > decided_s + t.order_lifetime_s:
        return _pay_gas(v, t, 1)
    received = fill(order.side, order.amount_in, fill_price_e8, t)
    return trade(v, order, received, v.price_e8, now_s, t)[0]
