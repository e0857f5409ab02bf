"""A Uniswap v3 pool as it is at one block: what the market says beside the oracle. Nothing is decided on it alone."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

from oracle.chain import BlockRef, ChainReader
from oracle.multicall import fetch_many

_Q96 = 1 << 96
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
        if base not in (self.token0, self.token1):
            raise KeyError(f"{base} is not traded in pool {self.address}")
        with localcontext(prec=_DIGITS):
            token1_per_token0 = (Decimal(self.sqrt_price_x96) / _Q96) ** 2
            raw = token1_per_token0 if base == self.token0 else 1 / token1_per_token0
            return raw.scaleb(base_decimals - quote_decimals)


class PoolReader:
    """Reads one pool. `pool`: a bound web3 contract of it."""

    def __init__(self, chain: ChainReader, pool: Any) -> None:
        self._chain, self._pool = chain, pool
        f = pool.functions
        self._token0, self._token1, self._fee = fetch_many(chain, [f.token0(), f.token1(), f.fee()])

    def fetch(self, block: BlockRef) -> PoolReading:
        """The pool at a block, in one request. Raises ReadingFailed when it does not answer."""
        f = self._pool.functions
        slot0, liquidity = fetch_many(self._chain, [f.slot0(), f.liquidity()], block=block.number)
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
