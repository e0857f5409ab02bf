"""Uniswap v3 pools as a subgraph sees them: liquidity, volume, hourly prices, all at one block.

The hosted Uniswap v3 subgraph answers these questions, and so does ours (`subgraph/pools`). Nothing is asked in USD:
that is the subgraph's opinion of which pools are to be believed.

    with GraphClient([url], POOLS_SDL, chain=chain, chain_id=1, max_lag_blocks=20, max_age_s=600) as graph:
        reader = PoolsReader(graph)
        [pool, *_] = reader.fetch_pools(weth, usdc)
        reader.fetch_hours(pool, since_s, until_s).candles(weth)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from importlib.resources import files
from typing import Any

from eth_utils import to_checksum_address

from oracle.chain import BlockRef
from oracle.errors import GraphRefused, NoPrice
from oracle.thegraph import GraphClient

HOUR_S = 3600
POOLS_SDL = files("oracle").joinpath("schemas/pools.graphql").read_text(encoding="utf-8")
# A BigDecimal of graph-node has 34; a sum of many has some more.
_DIGITS = 34
_SUM_DIGITS = 60

_POOL = """
  createdAtTimestamp token0 { id symbol decimals } token1 { id symbol decimals } feeTier
  liquidity sqrtPrice tick token0Price token1Price
  volumeToken0 volumeToken1 totalValueLockedToken0 totalValueLockedToken1 txCount
"""
_HOUR = "periodStartUnix open high low close liquidity sqrtPrice tick volumeToken0 volumeToken1 txCount"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolToken:
    """`symbol` is what the token calls itself: anything at all."""

    address: str
    symbol: str
    decimals: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedPool:
    """A pool after `block`. Amounts are whole tokens."""

    block: BlockRef
    address: str
    created_at_s: int
    token0: PoolToken
    token1: PoolToken
    # In millionths of the amount in.
    fee: int
    # What is active at the present price.
    liquidity: int
    # As Uniswap defines it; 0 in a pool without a price yet.
    sqrt_price_x96: int
    tick: int | None
    # Token0 for one token1, and the reverse, to 34 digits.
    token0_price: Decimal
    token1_price: Decimal
    # Of all swaps so far, what came in and what went out together, fees included.
    volume0: Decimal
    volume1: Decimal
    # The hosted subgraph's and ours may count uncollected amounts differently.
    locked0: Decimal
    locked1: Decimal
    tx_count: int

    def price(self, base: str) -> Decimal:
        """Quote tokens for one `base`, without the pool's fee. Raises NoPrice, KeyError for a token of another pool."""
        price = self.token1_price if self.is_token0(base) else self.token0_price
        if price <= 0:
            raise NoPrice(f"pool {self.address} has no price yet at block {self.block.number}: wait for a swap")
        return price

    def is_token0(self, token: str) -> bool:
        """Raises KeyError for a token of another pool."""
        if token not in (self.token0.address, self.token1.address):
            raise KeyError(f"{token} is not traded in pool {self.address}")
        return token == self.token0.address


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolHour:
    """An hour with events of the pool. Prices are token0 for one token1 after each of them; `open` is the first."""

    start_s: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    # After the last event.
    liquidity: int
    sqrt_price_x96: int
    tick: int | None
    # Of the swaps within the hour, in whole tokens.
    volume0: Decimal
    volume1: Decimal
    tx_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candle:
    """Prices of one hour, in quote tokens for one base token."""

    start_s: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolHours:
    """The hours from `since_s` to before `until_s` that had events, all of them over at the pool's block."""

    pool: IndexedPool
    since_s: int
    # The hour of the pool's block and what comes after it are not over: earlier than asked for, then.
    until_s: int
    hours: tuple[PoolHour, ...]

    @property
    def missing_s(self) -> tuple[int, ...]:
        """Where the hours begin of which nothing is known: without an event the price stood still, or was not yet."""
        known = {hour.start_s for hour in self.hours}
        return tuple(start_s for start_s in range(self.since_s, self.until_s, HOUR_S) if start_s not in known)

    @property
    def volume0(self) -> Decimal:
        return _sum(hour.volume0 for hour in self.hours)

    @property
    def volume1(self) -> Decimal:
        return _sum(hour.volume1 for hour in self.hours)

    def candles(self, base: str) -> tuple[Candle, ...]:
        """Of the known hours only. Raises NoPrice when one has none, KeyError for a token of another pool."""
        is_token0 = self.pool.is_token0(base)
        for hour in self.hours:
            if min(hour.open, hour.low) <= 0:
                raise NoPrice(f"pool {self.pool.address} had no price in the hour from {hour.start_s}: begin later")
        return tuple(_inverse(hour) if is_token0 else _candle(hour) for hour in self.hours)


class PoolsReader:
    """Reads pools from a client that was made with POOLS_SDL. Raises what its `fetch_all` raises."""

    def __init__(self, graph: GraphClient) -> None:
        self._graph = graph

    def fetch_pools(
        self, token_a: str, token_b: str, *, block: BlockRef | int | str | None = None
    ) -> tuple[IndexedPool, ...]:
        """The pools of two tokens, one for each fee, the deepest at its present price first."""
        token0, token1 = sorted((token_a.lower(), token_b.lower()))
        answer = self._graph.fetch_all("pools", _POOL, where={"token0": token0, "token1": token1}, block=block)
        pools = (_parse_pool(row, answer.block) for row in answer.data["pools"])
        return tuple(sorted(pools, key=lambda pool: pool.liquidity, reverse=True))

    def fetch_hours(self, pool: IndexedPool, since_s: int, until_s: int) -> PoolHours:
        """The pool's hours as they were at its block. Raises ValueError unless both are full hours, in order."""
        if since_s % HOUR_S or until_s % HOUR_S or since_s > until_s:
            raise ValueError(f"hours begin at multiples of {HOUR_S} and end after that: not {since_s} to {until_s}")
        until_s = max(since_s, min(until_s, pool.block.timestamp_s // HOUR_S * HOUR_S))
        where = {"pool": pool.address.lower(), "periodStartUnix_gte": since_s, "periodStartUnix_lt": until_s}
        answer = self._graph.fetch_all("poolHourDatas", _HOUR, where=where, block=pool.block)
        hours = sorted(map(_parse_hour, answer.data["poolHourDatas"]), key=lambda hour: hour.start_s)
        if len({hour.start_s for hour in hours} & set(range(since_s, until_s, HOUR_S))) != len(hours):
            raise GraphRefused(f"{answer.endpoint} gives hours that it was not asked for, or one twice: don't use it")
        return PoolHours(pool=pool, since_s=since_s, until_s=until_s, hours=tuple(hours))


def _parse_pool(row: Mapping[str, Any], block: BlockRef) -> IndexedPool:
    return IndexedPool(
        block=block,
        address=to_checksum_address(row["id"]),
        created_at_s=row["createdAtTimestamp"],
        token0=_parse_token(row["token0"]),
        token1=_parse_token(row["token1"]),
        fee=row["feeTier"],
        liquidity=row["liquidity"],
        sqrt_price_x96=row["sqrtPrice"],
        tick=row["tick"],
        token0_price=row["token0Price"],
        token1_price=row["token1Price"],
        volume0=row["volumeToken0"],
        volume1=row["volumeToken1"],
        locked0=row["totalValueLockedToken0"],
        locked1=row["totalValueLockedToken1"],
        tx_count=row["txCount"],
    )


def _parse_token(row: Mapping[str, Any]) -> PoolToken:
    return PoolToken(address=to_checksum_address(row["id"]), symbol=row["symbol"], decimals=row["decimals"])


def _parse_hour(row: Mapping[str, Any]) -> PoolHour:
    return PoolHour(
        start_s=row["periodStartUnix"],
        open=row["open"],
        high=row["high"],
        low=row["low"],
        close=row["close"],
        liquidity=row["liquidity"],
        sqrt_price_x96=row["sqrtPrice"],
        tick=row["tick"],
        volume0=row["volumeToken0"],
        volume1=row["volumeToken1"],
        tx_count=row["txCount"],
    )


def _candle(hour: PoolHour) -> Candle:
    return Candle(start_s=hour.start_s, open=hour.open, high=hour.high, low=hour.low, close=hour.close)


def _inverse(hour: PoolHour) -> Candle:
    """Where the price of one token was highest, the other's was lowest."""
    with localcontext(prec=_DIGITS):
        return Candle(
            start_s=hour.start_s, open=1 / hour.open, high=1 / hour.low, low=1 / hour.high, close=1 / hour.close
        )


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    with localcontext(prec=_SUM_DIGITS):
        return sum(amounts, Decimal(0))
