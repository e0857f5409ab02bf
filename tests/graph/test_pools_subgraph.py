"""The pools subgraph and its reader, number by number, against real Uniswap v3 pools on a local chain."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from graphql import build_client_schema, build_schema, get_introspection_query

from agents.contracts import third_party
from agents.localnet import LocalMarket, start_evm
from agents.localnet.graphnode import LocalGraph
from agents.localnet.uniswap import FOREVER_S, TICK_SPACING, approve, sort_tokens
from oracle.chain import fetch_block
from oracle.pools import HOUR_S, POOLS_SDL, PoolsReader
from oracle.thegraph import GraphClient
from tests.graph.conftest import Graph
from tests.graph.pool_states import PoolOnChain
from tests.unit.oracle.schemas import missing

_STATE = "liquidity sqrtPrice tick token0Price token1Price volumeToken0 volumeToken1 txCount"
_CANDLE = f"id {_STATE} open high low close"
_EVENT = "id timestamp logIndex amount0 amount1"
_POSITION = f"{_EVENT} owner tickLower tickUpper"
QUERY = f"""{{
  factories {{ id poolCount }}
  pools(orderBy: createdAtBlockNumber) {{
    id createdAtTimestamp createdAtBlockNumber feeTier {_STATE} totalValueLockedToken0 totalValueLockedToken1
    token0 {{ id symbol name decimals }} token1 {{ id symbol name decimals }}
    poolHourData(first: 1000, orderBy: periodStartUnix) {{ {_CANDLE} periodStartUnix }}
    poolDayData(first: 1000, orderBy: date) {{ {_CANDLE} date }}
    mints(first: 1000, orderBy: timestamp) {{ {_POSITION} amount }}
    burns(first: 1000, orderBy: timestamp) {{ {_POSITION} amount }}
    collects(first: 1000, orderBy: timestamp) {{ {_POSITION} }}
    swaps(first: 1000, orderBy: timestamp) {{ {_EVENT} sender recipient sqrtPriceX96 tick }}
  }}
}}"""


@pytest.fixture(scope="module")
def market() -> Iterator[LocalMarket]:
    """Two pools, with tokens of 6, 8 and 18 decimals and different fees, and some hours of life in them."""
    with start_evm("anvil") as evm:
        made = LocalMarket.deploy(evm, base_price_usd=Decimal(3000))
        made.add_asset("BTC", price_usd=Decimal(60_000), decimals=8, pool_fee=500)
        for symbol in ("ETH", "BTC"):
            live(made, symbol)
        yield made


@pytest.fixture(scope="module")
def graph(market: LocalMarket, pools_manifest: Callable[[str], Path]) -> Iterator[Graph]:
    with LocalGraph(str(market.evm.url), [pools_manifest(market.book.factory)]) as node:
        yield Graph(node, market.evm)


@pytest.fixture
def reader(market: LocalMarket, graph: Graph) -> Iterator[PoolsReader]:
    client = GraphClient(
        [graph.endpoint], POOLS_SDL, chain=market.evm, max_lag_blocks=0, max_age_s=60, now_s=market.evm.now_s
    )
    with client:
        yield PoolsReader(client)


def live(market: LocalMarket, symbol: str) -> None:
    """What can happen to a pool: trades in and out of a narrow position, fees, a loan, hours without anything."""
    evm, asset, provider = market.evm, market.book.asset(symbol), market.deployer
    pool = evm.at(third_party("UniswapV3Pool"), asset.pool)
    evm.send(pool.functions.setFeeProtocol(4, 5), provider)
    position = add_narrow_position(market, symbol)
    trade(market, symbol, quote=50_000, asset_share=Decimal("0.9"))
    evm.travel(2 * HOUR_S + 17)
    # Out of the narrow range, upwards and downwards.
    trade(market, symbol, quote=3_000_000, asset_share=Decimal(2))
    remove_position(market, position)
    evm.travel(30 * HOUR_S)
    lender = evm.deploy("AttackFlashLoan", sender=provider)
    market.give_base(symbol, str(lender.address), 10**asset.decimals)
    evm.send(lender.functions.borrow(asset.pool, asset.token, 10**asset.decimals, []), provider)
    trade(market, symbol, quote=777, asset_share=Decimal("0.123456789"))
    evm.send(pool.functions.collectProtocol(provider.address, 2**128 - 1, 2**128 - 1), provider)


def trade(market: LocalMarket, symbol: str, *, quote: int, asset_share: Decimal) -> None:
    """Buys for that many quote tokens, then sells that part of what it bought; gets more of the asset where needed."""
    trader = market.evm.accounts[1]
    amount = quote * 10**market.book.quote_decimals
    market.give_quote(trader, amount)
    bought = market.buy(symbol, amount, sender=trader)
    if asset_share > 1:
        market.give_base(symbol, trader, bought)
    market.sell(symbol, int(bought * asset_share), sender=trader)


def add_narrow_position(market: LocalMarket, symbol: str) -> int:
    """One that is active within some ticks of the present price, and one that is not: the first one's id."""
    evm, asset, provider = market.evm, market.book.asset(symbol), market.deployer
    token0, token1 = sort_tokens(asset.token, market.book.quote)
    slot0 = evm.call(evm.at(third_party("UniswapV3Pool"), asset.pool).functions.slot0())
    spacing = TICK_SPACING[asset.pool_fee]
    middle = slot0.tick // spacing * spacing
    amounts = {asset.token: 40 * 10**asset.decimals, market.book.quote: 200_000 * 10**market.book.quote_decimals}
    market.give_base(symbol, provider, 2 * amounts[asset.token])
    market.give_quote(provider, 2 * amounts[market.book.quote])
    positions = evm.at(third_party("NonfungiblePositionManager"), market.book.positions)
    for lower, upper in ((middle - spacing, middle + 2 * spacing), (middle + 3 * spacing, middle + 4 * spacing)):
        for token, amount in amounts.items():
            approve(evm, token, market.book.positions, amount, owner=provider)
        limits = (amounts[token0], amounts[token1], 0, 0, provider.address, FOREVER_S)
        evm.send(positions.functions.mint((token0, token1, asset.pool_fee, lower, upper, *limits)), provider)
    return int(evm.call(positions.functions.totalSupply())) - 1


def remove_position(market: LocalMarket, position: int) -> None:
    """Burns a third of it, and collects that with the fees; what is burnt after that stays uncollected."""
    evm, owner = market.evm, market.deployer
    f = evm.at(third_party("NonfungiblePositionManager"), market.book.positions).functions
    third = evm.call(f.positions(position)).liquidity // 3
    evm.send(f.decreaseLiquidity((position, third, 0, 0, FOREVER_S)), owner)
    evm.send(f.collect((position, owner.address, 2**128 - 1, 2**128 - 1)), owner)
    evm.send(f.decreaseLiquidity((position, third, 0, 0, FOREVER_S)), owner)


def numbers(value: Any) -> Any:
    """An answer with its numbers as numbers, whatever form they came in."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return Decimal(value) if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value) else value


def require_same(market: LocalMarket, graph: Graph) -> dict[str, Any]:
    """The subgraph's answer at the chain's head, once it was compared with the chain."""
    found = numbers(graph.query(QUERY))
    factory = market.book.factory
    pools = [PoolOnChain(evm=market.evm, address=asset.pool, factory=factory) for asset in market.book.assets]
    assert found["factories"] == [{"id": factory.lower(), "poolCount": len(pools)}]
    assert found["pools"] == [pool.entity() for pool in pools]
    return found


def test_every_number_is_the_pools_own(market: LocalMarket, graph: Graph) -> None:
    """To the last digit: state and tokens held as stored, sums as its events say, prices to 34 digits."""
    for pool in require_same(market, graph)["pools"]:
        for happened, at_least in (("mints", 3), ("burns", 3), ("collects", 1), ("swaps", 6), ("poolDayData", 2)):
            assert len(pool[happened]) >= at_least


def test_after_a_reorg_nothing_is_left_of_what_was(market: LocalMarket, graph: Graph) -> None:
    require_same(market, graph)
    before = market.evm.snapshot()
    # `gnd dev` goes back ten blocks at most.
    remove_position(market, position=1)
    trade(market, "BTC", quote=123_456, asset_share=Decimal("0.5"))
    was = require_same(market, graph)

    market.evm.revert(before)
    trade(market, "ETH", quote=99, asset_share=Decimal("0.5"))
    market.evm.travel(HOUR_S)
    trade(market, "ETH", quote=98, asset_share=Decimal("0.5"))
    # graph-node follows another chain only when that is the longer one.
    market.evm.mine(5)
    now = require_same(market, graph)

    def ids(answer: dict[str, Any]) -> set[str]:
        return {swap["id"] for pool in answer["pools"] for swap in pool["swaps"]}

    assert ids(was) - ids(now)
    assert ids(now) - ids(was)


def test_the_reader_asks_for_nothing_that_our_api_lacks(graph: Graph) -> None:
    ours = build_client_schema(graph.query(get_introspection_query()))  # type: ignore[arg-type]
    assert missing(build_schema(POOLS_SDL), ours) == []


def test_the_reader_gives_what_the_pool_says_and_names_the_hours_that_it_does_not_know(
    market: LocalMarket, graph: Graph, reader: PoolsReader
) -> None:
    graph.wait()
    block = fetch_block(market.evm)
    asset = market.book.asset("BTC")
    on_chain = PoolOnChain(evm=market.evm, address=asset.pool, factory=market.book.factory).entity()
    [pool] = reader.fetch_pools(asset.token, market.book.quote)
    assert (pool.block, pool.address, pool.fee) == (block, asset.pool, asset.pool_fee)
    assert {pool.token0.address, pool.token1.address} == {asset.token, market.book.quote}
    assert (pool.liquidity, pool.sqrt_price_x96, pool.tick, pool.tx_count) == tuple(
        on_chain[key] for key in ("liquidity", "sqrtPrice", "tick", "txCount")
    )
    assert (pool.volume0, pool.volume1, pool.locked0, pool.locked1) == tuple(
        on_chain[key] for key in ("volumeToken0", "volumeToken1", "totalValueLockedToken0", "totalValueLockedToken1")
    )
    assert pool.price(asset.token) == pytest.approx(market.pool_price("BTC"), rel=Decimal("1e-33"))

    since_s = pool.created_at_s // HOUR_S * HOUR_S
    hours = reader.fetch_hours(pool, since_s, since_s + 1000 * HOUR_S)
    over = [row for row in on_chain["poolHourData"] if row["periodStartUnix"] + HOUR_S <= block.timestamp_s]
    assert hours.until_s == block.timestamp_s // HOUR_S * HOUR_S
    assert [hour.start_s for hour in hours.hours] == [row["periodStartUnix"] for row in over]
    assert sorted((*hours.missing_s, *(hour.start_s for hour in hours.hours))) == [
        *range(since_s, hours.until_s, HOUR_S)
    ]
    assert len(hours.missing_s) > 1
    assert hours.volume0 == sum(row["volumeToken0"] for row in over)
    assert hours.volume1 == sum(row["volumeToken1"] for row in over)
    for candle, row in zip(hours.candles(pool.token1.address), over, strict=True):
        assert (candle.open, candle.high, candle.low, candle.close) == tuple(
            row[key] for key in ("open", "high", "low", "close")
        )


def test_a_reading_stays_at_its_block(market: LocalMarket, graph: Graph, reader: PoolsReader) -> None:
    asset, then = market.book.asset("ETH"), fetch_block(market.evm)
    since_s = then.timestamp_s // HOUR_S * HOUR_S
    market.evm.travel(HOUR_S)
    trade(market, "ETH", quote=5, asset_share=Decimal(1))
    market.evm.travel(HOUR_S)
    graph.wait()
    [before] = reader.fetch_pools(asset.token, market.book.quote, block=then)
    [after] = reader.fetch_pools(asset.token, market.book.quote)
    assert before.tx_count == after.tx_count - 2
    assert reader.fetch_hours(before, since_s, since_s + 2 * HOUR_S).hours == ()
    assert reader.fetch_hours(after, since_s, since_s + 2 * HOUR_S).hours[-1].tx_count == 2
