"""A Uniswap v3 pool as it is at one block, or was on average before it: what the market says beside the oracle.

Nothing is decided on it alone. Formulas are those of Uniswap's OracleLibrary, in integers:
https://github.com/Uniswap/v3-periphery/blob/main/contracts/libraries/OracleLibrary.sol
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

from oracle.chain import BlockRef, ChainReader
from oracle.errors import NothingThere
from oracle.multicall import fetch_many

_Q96 = 1 << 96
_MAX_UINT160 = (1 << 160) - 1
_TICK_BASE = Decimal("1.0001")
# A square root price has 160 bits: 49 digits, and twice as many in its square.
_DIGITS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReading:
    """`sqrt_price_x96` and `tick` as Uniswap defines them; `liquidity` is what is active at that price."""

    block: BlockRef
    address: str
    token0: str
    token1: str
    fee: int
    sqrt_price_x96: int
    tick: int
    liquidity: int

    def price(self, base: str, *, base_decimals: int, quote_decimals: int) -> Decimal:
        """Whole quote tokens for one whole `base`, without the pool's fee. Raises KeyError for a token of another pool.

        Source: https://docs.uniswap.org/contracts/v3/reference/core/interfaces/pool/IUniswapV3PoolState
        """
        with localcontext(prec=_DIGITS):
            return _price(self, (Decimal(self.sqrt_price_x96) / _Q96) ** 2, base, base_decimals - quote_decimals)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwapReading:
    """The mean of a pool over the `window_s` seconds that end with the block.

    `tick` is the arithmetic mean of the ticks, rounded towards negative infinity, which makes its price a geometric
    mean; `liquidity` is the harmonic mean of what was active.
    """

    block: BlockRef
    address: str
    token0: str
    token1: str
    window_s: int
    tick: int
    liquidity: int

    def price(self, base: str, *, base_decimals: int, quote_decimals: int) -> Decimal:
        """Whole quote tokens for one whole `base`. Raises KeyError for a token of another pool.

        A tick is the logarithm of a price, rounded down, and so is their mean: the geometric mean of token1 for one
        token0 lies less than 2 basis points (1.0001 squared) above this, that of token0 for one token1 below it.
        """
        with localcontext(prec=_DIGITS):
            return _price(self, _TICK_BASE**self.tick, base, base_decimals - quote_decimals)


class PoolReader:
    """Reads one pool. `pool`: a bound web3 contract of it."""

    def __init__(self, chain: ChainReader, pool: Any) -> None:
        self._chain, self._pool = chain, pool
        f = pool.functions
        self._token0, self._token1, self._fee = fetch_many(chain, [f.token0(), f.token1(), f.fee()])

    def fetch(self, block: BlockRef) -> PoolReading:
        """The pool at a block, in one request. Raises ReadingFailed when it does not answer, or has no price yet."""
        f = self._pool.functions
        slot0, liquidity = fetch_many(self._chain, [f.slot0(), f.liquidity()], block=block.number)
        if slot0.sqrtPriceX96 == 0:
            raise NothingThere(f"pool {self._pool.address} has no price yet at block {block.number}")
        return PoolReading(
            block=block,
            address=self._pool.address,
            token0=self._token0,
            token1=self._token1,
            fee=self._fee,
            sqrt_price_x96=slot0.sqrtPriceX96,
            tick=slot0.tick,
            liquidity=liquidity,
        )

    def fetch_twap(self, block: BlockRef, window_s: int) -> TwapReading:
        """The mean over `window_s` seconds (at least 1) up to a block, in one request.

        Raises NothingThere when the pool does not remember that long, ReadingFailed when it does not answer.
        """
        if window_s < 1:
            raise ValueError(f"window_s is {window_s}, a mean needs at least 1 second")
        observe = self._pool.functions.observe([window_s, 0])
        try:
            [(ticks, per_liquidity)] = fetch_many(self._chain, [observe], block=block.number)
        except NothingThere as error:
            raise NothingThere(self._why_no_twap(block, window_s)) from error
        return TwapReading(
            block=block,
            address=self._pool.address,
            token0=self._token0,
            token1=self._token1,
            window_s=window_s,
            tick=mean_tick(ticks[0], ticks[1], window_s),
            liquidity=harmonic_mean_liquidity(per_liquidity[0], per_liquidity[1], window_s),
        )

    def _why_no_twap(self, block: BlockRef, window_s: int) -> str:
        """Raises NothingThere when there is no pool at all."""
        f = self._pool.functions
        slot0, first = fetch_many(self._chain, [f.slot0(), f.observations(0)], block=block.number)
        if slot0.observationCardinality == 0:
            return f"pool {self._pool.address} has no price yet at block {block.number}"
        next_index = (slot0.observationIndex + 1) % slot0.observationCardinality
        [oldest] = fetch_many(self._chain, [f.observations(next_index)], block=block.number)
        remembered_s = block.timestamp_s - (oldest if oldest.initialized else first).blockTimestamp
        return (
            f"pool {self._pool.address} remembers {remembered_s} s at block {block.number}, a mean over {window_s} s "
            f"is wanted; it has room for {slot0.observationCardinality} observations: more room with "
            "increaseObservationCardinalityNext (anybody may call it), or a shorter window"
        )


def mean_tick(cumulative_before: int, cumulative_now: int, window_s: int) -> int:
    """The arithmetic mean tick, rounded towards negative infinity; the accumulators are int56, which may wrap."""
    delta = (cumulative_now - cumulative_before + (1 << 55)) % (1 << 56) - (1 << 55)
    return delta // window_s


def harmonic_mean_liquidity(per_liquidity_before: int, per_liquidity_now: int, window_s: int) -> int:
    """The harmonic mean of active liquidity, rounded down; the accumulators are uint160 x 2^128, which may wrap."""
    delta = (per_liquidity_now - per_liquidity_before) & _MAX_UINT160
    return (window_s * _MAX_UINT160) // (delta << 32)


def _price(reading: PoolReading | TwapReading, token1_per_token0: Decimal, base: str, decimals: int) -> Decimal:
    """In whole tokens, under the caller's precision."""
    if base not in (reading.token0, reading.token1):
        raise KeyError(f"{base} is not traded in pool {reading.address}")
    return (token1_per_token0 if base == reading.token0 else 1 / token1_per_token0).scaleb(decimals)
