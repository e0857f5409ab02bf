"""A Uniswap v3 pool in integers: what its contract would do with a swap, a mint or a burn, to the last unit.

    pool = PoolState(fee=500, tick_spacing=10, sqrt_price_x96=..., tick=..., liquidity=..., ticks=Ticks(...))
    done = swap(pool, zero_for_one=True, amount_specified=10**9)
    done.amount1, done.pool.tick

Formulas, names and roundings are those of the contracts (https://github.com/Uniswap/v3-core at v1.0.0: TickMath,
SqrtPriceMath, SwapMath, TickBitmap, UniswapV3Pool). A state is never changed: each action answers with a new one.

What a pool has besides, and this model leaves out: who owns a range and the fees owed to it, the price oracle, flash
loans, the tokens' balances. So a burn takes liquidity from a range without asking whose it is.

A swap takes some 25 microseconds, and some 10 more for each tick or word of the bitmap (256 spacings) that it passes.

The approximation (`approximate_swap`) is what training uses: the whole swap at the liquidity in range before it, a
constant product on virtual reserves, in the integers of `spot_vault.fill`. Its error, in basis points of what comes
out, of 6,031 real swaps of a dollar or more in the USDC-WETH 0.05 % pool on 2024-01-05, by the multiples of the tick
spacing that they crossed, and by their size as a share of D, the virtual reserve of quote (median 551 million dollars):

    ticks    swaps    median      90 %      99 %       max
    0        5,358    0.0000    0.0000    0.0009     0.010
    1          590    0.0001    0.013     2.2       25.7
    2-3         64    0.0227    0.48      1.2        1.3
    more        19    0.51     15        22         22.7
    all      6,031    0.0000    0.0001    0.096     25.7

    to 0.01 %   4,900 swaps    0.84 at most
    to 0.1 %    1,065          0.003 at 90 %, 0.51 at 99 %, 6.7 at most
    to 1 %         66          2.2   at 90 %, 24 at 99 %, 25.7 at most

It favours nobody (mean -0.002; a positive error is a fill too good). The worst are swaps into a single range that
somebody has made 3 to 45 times deeper than its neighbours, which fill better (to -25.7), or out of one (to 22.7).
Where neighbours are alike the error follows from the size. The WBTC-WETH 0.30 % pool on 2023-03-31 (D 699,000 WETH),
a buy and a sale of a share of D at each fourth of its 379 states that day:

    share of D    ticks crossed    median       99 %       max
    0.001 %       0-1              0.0000       0.000      0.001
    0.01 %        0-1              0.0000       0.009      0.028
    0.1 %         0-1              0.0000       0.27       0.30
    0.3 %         0-2              0.21         0.88       0.89
    1 %           3-4              2.2          6.1        6.2
    3 %           8-13            21           43         44

So up to a thousandth of D the error is about a tenth of the pool's fee or less, in 99 of 100 trades; from a hundredth
on, compute the swap itself. Prices are whole 1e-8 dollars: below 0.0001 dollars rounding the price is the larger error.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate
from typing import Final, NamedTuple, Self

Q96: Final = 1 << 96
Q128: Final = 1 << 128
UINT128_MAX: Final = (1 << 128) - 1
UINT160_MAX: Final = (1 << 160) - 1
UINT256_MAX: Final = (1 << 256) - 1
INT256_MAX: Final = (1 << 255) - 1

MIN_TICK: Final = -887_272
MAX_TICK: Final = 887_272
# The prices at these ticks. A pool's price lies in [MIN_SQRT_RATIO, MAX_SQRT_RATIO).
MIN_SQRT_RATIO: Final = 4_295_128_739
MAX_SQRT_RATIO: Final = 1_461_446_703_485_210_103_287_273_052_203_988_822_378_723_970_342
# Fees count in hundredths of a basis point.
FEE_UNIT: Final = 1_000_000
FEES_PER_BPS: Final = 100
MAX_TICK_SPACING: Final = 16_383
# Ticks that one word of the pool's bitmap holds: a swap pauses, and rounds, at the end of every word.
_WORD_BITS: Final = 8
_BPS: Final = 10_000
_E8: Final = 10**8

# sqrt(1.0001^-(2^i)) x 2^128, from TickMath.
_RATIOS_X128: Final = (
    0xFFFCB933BD6FAD37AA2D162D1A594001, 0xFFF97272373D413259A46990580E213A, 0xFFF2E50F5F656932EF12357CF3C7FDCC,
    0xFFE5CACA7E10E4E61C3624EAA0941CD0, 0xFFCB9843D60F6159C9DB58835C926644, 0xFF973B41FA98C081472E6896DFB254C0,
    0xFF2EA16466C96A3843EC78B326B52861, 0xFE5DEE046A99A2A811C461F1969C3053, 0xFCBE86C7900A88AEDCFFC83B479AA3A4,
    0xF987A7253AC413176F2B074CF7815E54, 0xF3392B0822B70005940C7A398E4B70F3, 0xE7159475A2C29B7443B29C7FA6E889D9,
    0xD097F3BDFD2022B8845AD8F792AA5825, 0xA9F746462D870FDF8A65DC1F90E061E5, 0x70D869A156D2A1B890BB3DF62BAF32F7,
    0x31BE135F97D08FD981231505542FCFA6, 0x09AA508B5B7A84E1C677DE54F3E99BC9, 0x005D6AF8DEDB81196699C329225EE604,
    0x00002216E584F5FA1EA926041BEDFE98, 0x00000000048A170391F7DC42444E8FA2,
)  # fmt: skip
# 2^64 / log2(sqrt(1.0001)) and the bounds of its error, from TickMath.
_LOG_SQRT10001_X64: Final = 255_738_958_999_603_826_347_141
_TICK_ERROR_LOW: Final = 3_402_992_956_809_132_418_596_140_100_660_247_210
_TICK_ERROR_HIGH: Final = 291_339_464_771_989_622_907_027_621_153_398_088_495


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)


def mul_div_up(a: int, b: int, c: int) -> int:
    """a * b / c, rounded up. Arguments are not negative."""
    return -(-a * b // c)


# TickMath


@lru_cache(maxsize=1 << 16)
def sqrt_ratio_at_tick(tick: int) -> int:
    """sqrt(1.0001^tick) x 2^96, rounded up from TickMath's 128 bits. Raises ValueError beyond MIN_TICK and MAX_TICK."""
    if not MIN_TICK <= tick <= MAX_TICK:
        raise ValueError(f"tick {tick} lies outside [{MIN_TICK}, {MAX_TICK}], the ticks that have a price")
    rest, ratio = abs(tick), Q128
    for factor in _RATIOS_X128:
        if rest & 1:
            ratio = ratio * factor >> 128
        rest >>= 1
    if tick > 0:
        ratio = UINT256_MAX // ratio
    return -(-ratio >> 32)


@lru_cache(maxsize=1 << 12)
def tick_at_sqrt_ratio(sqrt_price_x96: int) -> int:
    """The greatest tick whose price is at most this one. Raises ValueError outside [MIN_SQRT_RATIO, MAX_SQRT_RATIO)."""
    if not MIN_SQRT_RATIO <= sqrt_price_x96 < MAX_SQRT_RATIO:
        raise ValueError(
            f"sqrt_price_x96 {sqrt_price_x96} lies outside [{MIN_SQRT_RATIO}, {MAX_SQRT_RATIO}), the prices of a pool"
        )
    exponent = sqrt_price_x96.bit_length() + 31
    mantissa = sqrt_price_x96 << 32 >> exponent - 127 if exponent >= 128 else sqrt_price_x96 << 159 - exponent
    log2_x64 = exponent - 128 << 64
    for bit in range(63, 49, -1):
        mantissa = mantissa * mantissa >> 127
        carry = mantissa >> 128
        log2_x64 |= carry << bit
        mantissa >>= carry
    log_x128 = log2_x64 * _LOG_SQRT10001_X64
    low, high = log_x128 - _TICK_ERROR_LOW >> 128, log_x128 + _TICK_ERROR_HIGH >> 128
    return high if low == high or sqrt_ratio_at_tick(high) <= sqrt_price_x96 else low


def max_liquidity_per_tick(tick_spacing: int) -> int:
    """What all ranges that begin or end at one tick may have in sum (`Tick.tickSpacingToMaxLiquidityPerTick`)."""
    return UINT128_MAX // (MAX_TICK // tick_spacing * 2 + 1)


# SqrtPriceMath


def amount0_delta(sqrt_a_x96: int, sqrt_b_x96: int, liquidity: int, *, rounding_up: bool) -> int:
    """Token0 between two prices, in either order: liquidity / sqrt(low) - liquidity / sqrt(high)."""
    low, high = (sqrt_a_x96, sqrt_b_x96) if sqrt_a_x96 <= sqrt_b_x96 else (sqrt_b_x96, sqrt_a_x96)
    numerator = (liquidity << 96) * (high - low)
    if rounding_up:
        return -(-numerator // high // low)
    return numerator // high // low


def amount1_delta(sqrt_a_x96: int, sqrt_b_x96: int, liquidity: int, *, rounding_up: bool) -> int:
    """Token1 between two prices, in either order: liquidity x (sqrt(high) - sqrt(low))."""
    numerator = liquidity * abs(sqrt_b_x96 - sqrt_a_x96)
    return -(-numerator >> 96) if rounding_up else numerator >> 96


def next_price_from_input(sqrt_price_x96: int, liquidity: int, amount_in: int, *, zero_for_one: bool) -> int:
    """The price after `amount_in` went in without fee, rounded so that the pool never gives too much."""
    if zero_for_one:
        return _price_after_token0_in(sqrt_price_x96, liquidity, amount_in)
    after = sqrt_price_x96 + (amount_in << 96) // liquidity
    if after > UINT160_MAX:
        raise ValueError(f"{amount_in} of token1 lift the price beyond 160 bits: put in less")
    return after


def next_price_from_output(sqrt_price_x96: int, liquidity: int, amount_out: int, *, zero_for_one: bool) -> int:
    """The price after `amount_out` came out. Raises ValueError when the liquidity has not that much."""
    if zero_for_one:
        after = sqrt_price_x96 - mul_div_up(amount_out, Q96, liquidity)
        if after <= 0:
            raise ValueError(f"liquidity {liquidity} has not {amount_out} of token1 below this price: take less")
        return after
    left = (liquidity << 96) - amount_out * sqrt_price_x96
    if left <= 0:
        raise ValueError(f"liquidity {liquidity} has not {amount_out} of token0 above this price: take less")
    after = mul_div_up(liquidity << 96, sqrt_price_x96, left)
    if after > UINT160_MAX:
        raise ValueError(f"taking {amount_out} of token0 lifts the price beyond 160 bits: take less")
    return after


def _price_after_token0_in(sqrt_price_x96: int, liquidity: int, amount: int) -> int:
    """Where the product passes 256 bits the contract takes a less precise formula, and so do we."""
    scaled, product = liquidity << 96, amount * sqrt_price_x96
    if product <= UINT256_MAX and (denominator := scaled + product) <= UINT256_MAX:
        return mul_div_up(scaled, sqrt_price_x96, denominator)
    return -(-scaled // (scaled // sqrt_price_x96 + amount))


# SwapMath


class SwapStep(NamedTuple):
    """A swap within one range: the price it ends at, what goes in and comes out, and the fee on top of what goes in."""

    sqrt_price_x96: int
    amount_in: int
    amount_out: int
    fee_amount: int


def compute_swap_step(sqrt_now_x96: int, sqrt_target_x96: int, liquidity: int, remaining: int, fee: int) -> SwapStep:
    """Swap towards the target until `remaining` is used up (`SwapMath.computeSwapStep`).

    `remaining`: base units still to go in, fee included, or, negative, still to come out. `fee` in hundredths of a
    basis point. The direction follows from the two prices.
    """
    zero_for_one = sqrt_now_x96 >= sqrt_target_x96
    delta_in, delta_out = (amount0_delta, amount1_delta) if zero_for_one else (amount1_delta, amount0_delta)
    if remaining >= 0:
        spendable = remaining * (FEE_UNIT - fee) // FEE_UNIT
        amount_in = delta_in(sqrt_now_x96, sqrt_target_x96, liquidity, rounding_up=True)
        if spendable >= amount_in:
            after = sqrt_target_x96
        else:
            after = next_price_from_input(sqrt_now_x96, liquidity, spendable, zero_for_one=zero_for_one)
        if after != sqrt_target_x96:
            amount_in = delta_in(sqrt_now_x96, after, liquidity, rounding_up=True)
            amount_out = delta_out(sqrt_now_x96, after, liquidity, rounding_up=False)
            return SwapStep(after, amount_in, amount_out, remaining - amount_in)
        amount_out = delta_out(sqrt_now_x96, after, liquidity, rounding_up=False)
    else:
        amount_out = delta_out(sqrt_now_x96, sqrt_target_x96, liquidity, rounding_up=False)
        if -remaining >= amount_out:
            after = sqrt_target_x96
        else:
            after = next_price_from_output(sqrt_now_x96, liquidity, -remaining, zero_for_one=zero_for_one)
            if after != sqrt_target_x96:
                amount_out = delta_out(sqrt_now_x96, after, liquidity, rounding_up=False)
            amount_out = min(amount_out, -remaining)
        amount_in = delta_in(sqrt_now_x96, after, liquidity, rounding_up=True)
    return SwapStep(after, amount_in, amount_out, mul_div_up(amount_in, fee, FEE_UNIT - fee))


# The pool


class Tick(NamedTuple):
    """An initialised tick: liquidity of all ranges that begin or end there, and what crossing it upwards adds."""

    index: int
    liquidity_gross: int
    liquidity_net: int


@dataclass(frozen=True, slots=True)
class Ticks:
    """The initialised ticks of a pool, in order: all of them, or all within a window.

    Raises ValueError, naming the tick, when they can't be a pool's.
    """

    rows: tuple[Tick, ...] = ()
    # Every initialised tick from `first` to `last`, both included, is among the rows.
    first: int = MIN_TICK
    last: int = MAX_TICK
    # The liquidity in range below the first row: of ranges that begin before the window.
    liquidity_below: int = 0
    indexes: tuple[int, ...] = field(init=False, repr=False, compare=False)
    # The liquidity in range from each row to the next.
    active: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rows = tuple(Tick(*row) for row in self.rows)
        indexes = tuple(row.index for row in rows)
        sums = accumulate((row.liquidity_net for row in rows), initial=self.liquidity_below)
        for name, value in (("rows", rows), ("indexes", indexes), ("active", tuple(sums)[1:])):
            object.__setattr__(self, name, value)
        _check_window(self)
        for before, after in zip(indexes, indexes[1:], strict=False):
            if before >= after:
                raise ValueError(f"tick {after} comes after tick {before}: sort the ticks, and give each once")
        for row, in_range in zip(rows, self.active, strict=True):
            _check_tick(row, in_range)

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int, int]]) -> Self:
        """All ticks of a pool, from (index, liquidity_gross, liquidity_net) in any order; those of 0 are left out."""
        return cls(tuple(Tick(*row) for row in sorted(rows) if row[1]))

    @classmethod
    def of_window(
        cls, rows: Iterable[tuple[int, int, int]], *, first: int, last: int, tick: int, liquidity: int
    ) -> Self:
        """The ticks from `first` to `last`, as `of`, of a pool that has this liquidity in range at this tick."""
        known = tuple(Tick(*row) for row in sorted(rows) if row[1])
        return cls(known, first, last, liquidity - sum(row.liquidity_net for row in known if row.index <= tick))

    def active_at(self, tick: int) -> int:
        """Liquidity in range at a tick."""
        position = bisect_right(self.indexes, tick)
        return self.active[position - 1] if position else self.liquidity_below

    def gross_at(self, tick: int) -> int:
        """Liquidity of all ranges that begin or end at a tick; 0 where none does."""
        position = bisect_left(self.indexes, tick)
        found = position < len(self.indexes) and self.indexes[position] == tick
        return self.rows[position].liquidity_gross if found else 0

    def with_range(self, tick_lower: int, tick_upper: int, liquidity_delta: int) -> Ticks:
        """The ticks after liquidity was added to a range, or taken; a tick that no range needs is gone."""
        rows = {row.index: row for row in self.rows}
        for index, net in ((tick_lower, liquidity_delta), (tick_upper, -liquidity_delta)):
            old = rows.get(index, Tick(index, 0, 0))
            rows[index] = Tick(index, old.liquidity_gross + liquidity_delta, old.liquidity_net + net)
        return replace(self, rows=tuple(rows[index] for index in sorted(rows) if rows[index].liquidity_gross))


def _check_window(ticks: Ticks) -> None:
    first, last, below = ticks.first, ticks.last, ticks.liquidity_below
    _require(
        MIN_TICK <= first <= last <= MAX_TICK,
        f"the window of ticks from {first} to {last} is none within [{MIN_TICK}, {MAX_TICK}]",
    )
    for index in ticks.indexes:
        if not first <= index <= last:
            raise ValueError(f"tick {index} lies outside the window from {first} to {last}")
    above = ticks.active[-1] if ticks.active else below
    _require(
        below == 0 or (below > 0 and first > MIN_TICK),
        f"liquidity_below is {below}: it is not negative, and 0 where nothing is below the window",
    )
    _require(
        above == 0 or last < MAX_TICK,
        f"the liquidity_net of all ticks sums to {above}, not 0: some are missing; if these are the ticks around the "
        "price only, give them as a window",
    )


def _check_tick(row: Tick, in_range: int) -> None:
    if not 0 < row.liquidity_gross <= UINT128_MAX:
        raise ValueError(f"tick {row.index}: liquidity_gross is {row.liquidity_gross}: it is positive, below 2**128")
    # Gross is the sum, net the difference, of what begins and what ends here.
    if abs(row.liquidity_net) > row.liquidity_gross or (row.liquidity_gross - row.liquidity_net) % 2:
        raise ValueError(
            f"tick {row.index}: liquidity_net {row.liquidity_net} can't be of liquidity_gross {row.liquidity_gross}"
        )
    if not 0 <= in_range <= UINT128_MAX:
        raise ValueError(
            f"tick {row.index}: above it {in_range} of liquidity would be in range: ticks are missing, or of "
            "different blocks"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """A pool at one moment. Raises ValueError when price, tick, liquidity and ticks are not of one moment."""

    # Hundredths of a basis point: 500 is 0.05 %.
    fee: int
    tick_spacing: int
    # Square root of token1 per token0, both in base units, x 2^96.
    sqrt_price_x96: int
    tick: int
    # In range at the price.
    liquidity: int
    ticks: Ticks
    # The protocol takes 1/n of the fees paid in token0 and in token1; 0: none.
    fee_protocol0: int = 0
    fee_protocol1: int = 0
    # Fees ever earned by one unit of liquidity, x 2^128, modulo 2^256 as in the contract.
    fee_growth_global0_x128: int = 0
    fee_growth_global1_x128: int = 0
    # What waits for the protocol, base units.
    protocol_fees0: int = 0
    protocol_fees1: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.fee < FEE_UNIT:
            raise ValueError(f"fee is {self.fee}: it lies between 0 and {FEE_UNIT - 1}")
        if not 1 <= self.tick_spacing <= MAX_TICK_SPACING:
            raise ValueError(f"tick_spacing is {self.tick_spacing}: it lies between 1 and {MAX_TICK_SPACING}")
        for share in (self.fee_protocol0, self.fee_protocol1):
            if share and not 4 <= share <= 10:
                raise ValueError(f"fee_protocol is {share}: it is 0, or between 4 and 10")
        _check_moment(self)


def _check_moment(pool: PoolState) -> None:
    price, tick, ticks = pool.sqrt_price_x96, pool.tick, pool.ticks
    actual = tick_at_sqrt_ratio(price)
    # A swap that stops exactly on a tick, coming from above, leaves the pool one tick below its price.
    if tick != actual and not (tick == actual - 1 and sqrt_ratio_at_tick(actual) == price):
        raise ValueError(f"tick {tick} is not that of sqrt_price_x96 {price}: {actual} is")
    if not ticks.first - 1 <= tick <= ticks.last:
        raise ValueError(
            f"tick {tick} lies outside the window of known ticks, {ticks.first} to {ticks.last}: read more of them"
        )
    if pool.liquidity != (expected := ticks.active_at(tick)):
        raise ValueError(
            f"liquidity is {pool.liquidity}, but the ticks up to {tick} sum to {expected}: they are not all, or not "
            "of one block"
        )


def empty_pool(*, fee: int, tick_spacing: int, sqrt_price_x96: int) -> PoolState:
    """A pool just initialised at a price, without liquidity."""
    return PoolState(
        fee=fee,
        tick_spacing=tick_spacing,
        sqrt_price_x96=sqrt_price_x96,
        tick=tick_at_sqrt_ratio(sqrt_price_x96),
        liquidity=0,
        ticks=Ticks(),
    )


class Swap(NamedTuple):
    """What a swap did. Amounts in base units as the pool sees them: positive came in, negative went out."""

    pool: PoolState
    amount0: int
    amount1: int
    # Of the input token, part of its amount; the protocol's share included.
    fee_amount: int
    # Initialised ticks only.
    ticks_crossed: int


def swap(
    pool: PoolState, *, zero_for_one: bool, amount_specified: int, sqrt_price_limit_x96: int | None = None
) -> Swap:
    """Swap token0 for token1, or the other way, as `UniswapV3Pool.swap` does.

    `amount_specified`: base units to put in, fee included, or, negative, to take out. The swap stops at the limit
    (default: the end of all prices), and there less than what was specified may have been swapped: compare the amounts.
    Raises ValueError for an amount of 0 or beyond 255 bits, for a limit on the wrong side of the price, and when the
    swap leaves the window of known ticks.
    """
    if not 0 < abs(amount_specified) <= INT256_MAX:
        raise ValueError(f"amount_specified is {amount_specified}: it is not 0, and lies within 255 bits")
    limit = _limit_of(pool, zero_for_one, sqrt_price_limit_x96)
    indexes, rows = pool.ticks.indexes, pool.ticks.rows
    price, tick, liquidity = pool.sqrt_price_x96, pool.tick, pool.liquidity
    # Where the next initialised tick is among all of them, in the direction of the swap.
    position = bisect_right(indexes, tick) - 1 if zero_for_one else bisect_right(indexes, tick)
    direction, end = (-1, -1) if zero_for_one else (1, len(indexes))
    share = pool.fee_protocol0 if zero_for_one else pool.fee_protocol1
    remaining, calculated, fees, growth, protocol_fees, crossed = amount_specified, 0, 0, 0, 0, 0
    while remaining != 0 and price != limit:
        boundary = _end_of_word(tick, pool.tick_spacing, zero_for_one)
        is_initialised = position != end and (indexes[position] - boundary) * direction <= 0
        next_tick = indexes[position] if is_initialised else boundary
        next_price = sqrt_ratio_at_tick(next_tick)
        target = max(next_price, limit) if zero_for_one else min(next_price, limit)
        before = price
        price, amount_in, amount_out, fee_amount = compute_swap_step(price, target, liquidity, remaining, pool.fee)
        if amount_specified > 0:
            remaining -= amount_in + fee_amount
            calculated -= amount_out
        else:
            remaining += amount_out
            calculated += amount_in + fee_amount
        fees += fee_amount
        if share:
            protocol_fees += fee_amount // share
            fee_amount -= fee_amount // share
        if liquidity:
            growth += (fee_amount << 128) // liquidity
        if price == next_price:
            if is_initialised:
                liquidity += rows[position].liquidity_net * direction
                position += direction
                crossed += 1
            tick = next_tick - 1 if zero_for_one else next_tick
        elif price != before:
            tick = tick_at_sqrt_ratio(price)
    specified = amount_specified - remaining
    amount0, amount1 = (specified, calculated) if zero_for_one == (amount_specified > 0) else (calculated, specified)
    after = _after_swap(pool, zero_for_one, price, tick, liquidity, growth, protocol_fees)
    return Swap(after, amount0, amount1, fees, crossed)


def _limit_of(pool: PoolState, zero_for_one: bool, limit: int | None) -> int:
    price = pool.sqrt_price_x96
    low, high = (MIN_SQRT_RATIO, price) if zero_for_one else (price, MAX_SQRT_RATIO)
    if limit is None:
        limit = low + 1 if zero_for_one else high - 1
    if not low < limit < high:
        raise ValueError(f"sqrt_price_limit_x96 is {limit}: in this direction it lies between {low} and {high}")
    return limit


def _end_of_word(tick: int, tick_spacing: int, zero_for_one: bool) -> int:
    """The furthest tick that the pool looks at in one step (`TickBitmap.nextInitializedTickWithinOneWord`)."""
    compressed = tick // tick_spacing
    if zero_for_one:
        return max((compressed >> _WORD_BITS << _WORD_BITS) * tick_spacing, MIN_TICK)
    return min((compressed + 1 | (1 << _WORD_BITS) - 1) * tick_spacing, MAX_TICK)


def _after_swap(
    pool: PoolState, zero_for_one: bool, price: int, tick: int, liquidity: int, growth: int, protocol_fees: int
) -> PoolState:
    growth0, growth1 = (growth, 0) if zero_for_one else (0, growth)
    fees0, fees1 = (protocol_fees, 0) if zero_for_one else (0, protocol_fees)
    return PoolState(
        fee=pool.fee,
        tick_spacing=pool.tick_spacing,
        sqrt_price_x96=price,
        tick=tick,
        liquidity=liquidity,
        ticks=pool.ticks,
        fee_protocol0=pool.fee_protocol0,
        fee_protocol1=pool.fee_protocol1,
        fee_growth_global0_x128=pool.fee_growth_global0_x128 + growth0 & UINT256_MAX,
        fee_growth_global1_x128=pool.fee_growth_global1_x128 + growth1 & UINT256_MAX,
        protocol_fees0=pool.protocol_fees0 + fees0 & UINT128_MAX,
        protocol_fees1=pool.protocol_fees1 + fees1 & UINT128_MAX,
    )


class LiquidityChange(NamedTuple):
    """What a mint took or a burn owes, base units, both not negative."""

    pool: PoolState
    amount0: int
    amount1: int


def mint(pool: PoolState, *, tick_lower: int, tick_upper: int, liquidity: int) -> LiquidityChange:
    """Add liquidity to a range; amounts are rounded up. Raises ValueError for what the pool would refuse."""
    _check_range(pool, tick_lower, tick_upper)
    _require(liquidity > 0, f"liquidity is {liquidity}: minting takes more than 0")
    most = max_liquidity_per_tick(pool.tick_spacing)
    for tick in (tick_lower, tick_upper):
        gross = pool.ticks.gross_at(tick) + liquidity
        _require(gross <= most, f"tick {tick} would have {gross} of liquidity, more than the {most} that a tick may")
    return _change(pool, tick_lower, tick_upper, liquidity)


def burn(pool: PoolState, *, tick_lower: int, tick_upper: int, liquidity: int) -> LiquidityChange:
    """Take liquidity from a range; amounts are rounded down, and 0 changes nothing.

    Whose liquidity it is, is not known here: a burn is refused with ValueError when its ticks have not so much, or
    when no ranges could be left that have the rest.
    """
    _check_range(pool, tick_lower, tick_upper)
    _require(liquidity >= 0, f"liquidity is {liquidity}: burning takes 0 or more")
    for tick in (tick_lower, tick_upper):
        gross = pool.ticks.gross_at(tick)
        _require(gross >= liquidity, f"tick {tick} has {gross} of liquidity: {liquidity} can't be burnt")
    return _change(pool, tick_lower, tick_upper, -liquidity)


def _check_range(pool: PoolState, tick_lower: int, tick_upper: int) -> None:
    _require(tick_lower < tick_upper, f"tick_lower {tick_lower} is not below tick_upper {tick_upper}")
    for name, tick in (("tick_lower", tick_lower), ("tick_upper", tick_upper)):
        known = pool.ticks.first <= tick <= pool.ticks.last
        _require(known, f"{name} {tick} lies outside the known ticks, {pool.ticks.first} to {pool.ticks.last}")
        _require(tick % pool.tick_spacing == 0, f"{name} {tick} is no multiple of the spacing, {pool.tick_spacing}")


def _change(pool: PoolState, tick_lower: int, tick_upper: int, delta: int) -> LiquidityChange:
    price, rounding_up = pool.sqrt_price_x96, delta > 0
    low, high = sqrt_ratio_at_tick(tick_lower), sqrt_ratio_at_tick(tick_upper)
    is_below, is_inside = pool.tick < tick_lower, tick_lower <= pool.tick < tick_upper
    # The contract compares ticks, not prices: on a tick's own price the two may differ.
    from_price = low if is_below else price if is_inside else high
    amount0 = amount0_delta(from_price, high, abs(delta), rounding_up=rounding_up)
    amount1 = amount1_delta(low, from_price, abs(delta), rounding_up=rounding_up)
    after = replace(
        pool,
        ticks=pool.ticks.with_range(tick_lower, tick_upper, delta) if delta else pool.ticks,
        liquidity=pool.liquidity + (delta if is_inside else 0),
    )
    return LiquidityChange(after, amount0, amount1)


# The approximation


def virtual_quote_reserve(pool: PoolState, *, quote_is_token0: bool) -> int:
    """What the pool would hold of the quote token if its range had no ends, base units, rounded down.

    It is liquidity x sqrt(price), or liquidity / sqrt(price) where the quote is token0: `Costs.depth_quote`.
    """
    if quote_is_token0:
        return (pool.liquidity << 96) // pool.sqrt_price_x96
    return pool.liquidity * pool.sqrt_price_x96 >> 96


def price_e8(
    pool: PoolState, *, quote_is_token0: bool, unit: int, quote_unit: int = 10**6, rounding_up: bool = False
) -> int:
    """Price of one whole token of the asset in whole tokens of quote, in 1e-8. The units: base units of one token."""
    numerator, denominator = pool.sqrt_price_x96**2, 1 << 192
    if quote_is_token0:
        numerator, denominator = denominator, numerator
    numerator, denominator = numerator * unit * _E8, denominator * quote_unit
    return -(-numerator // denominator) if rounding_up else numerator // denominator


def approximate_fill(
    amount_in: int, *, is_buy: bool, price_e8: int, depth_quote: int, fee_bps: int, unit: int, quote_unit: int = 10**6
) -> int:
    """What comes out, by a constant product on virtual reserves: the fill of `spot_vault`, before `slippage_bps`.

    A buy takes quote and answers with the asset, a sale the other way, all in base units and rounded against the
    trader. `price_e8` before the trade, `depth_quote` as `virtual_quote_reserve` answers.
    """
    _require(amount_in >= 0, f"amount_in is {amount_in}: it is not negative")
    positive = {"price_e8": price_e8, "depth_quote": depth_quote, "unit": unit, "quote_unit": quote_unit}
    for name, value in positive.items():
        _require(value > 0, f"{name} is {value}: it is positive")
    _require(0 <= fee_bps < _BPS, f"fee_bps is {fee_bps}: it lies between 0 and {_BPS - 1}")
    net = amount_in * (_BPS - fee_bps) // _BPS
    if is_buy:
        effective_e8 = mul_div_up(price_e8, depth_quote + net, depth_quote)
        return net * unit * _E8 // (effective_e8 * quote_unit)
    value = net * price_e8 * quote_unit // (unit * _E8)
    return value * depth_quote // (depth_quote + value)


def approximate_swap(
    pool: PoolState, amount_in: int, *, is_buy: bool, quote_is_token0: bool, unit: int, quote_unit: int = 10**6
) -> int:
    """`approximate_fill` in a pool as it stands: the whole swap at the liquidity in range now.

    Raises ValueError when none is in range, and for a fee that is no whole number of basis points.
    """
    _require(pool.liquidity > 0, f"no liquidity is in range at tick {pool.tick}: a swap here has no approximation")
    _require(pool.fee % FEES_PER_BPS == 0, f"fee {pool.fee} is no whole number of basis points, which vaults count in")
    return approximate_fill(
        amount_in,
        is_buy=is_buy,
        price_e8=price_e8(
            pool, quote_is_token0=quote_is_token0, unit=unit, quote_unit=quote_unit, rounding_up=is_buy
        ),
        depth_quote=virtual_quote_reserve(pool, quote_is_token0=quote_is_token0),
        fee_bps=pool.fee // FEES_PER_BPS,
        unit=unit,
        quote_unit=quote_unit,
    )
