from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from graphql import GraphQLSchema, build_schema

from oracle.chain import BlockRef
from oracle.errors import GraphRefused, NoPrice
from oracle.pools import HOUR_S, POOLS_SDL, IndexedPool, PoolHour, PoolHours, PoolsReader, PoolToken
from oracle.thegraph import GraphClient
from tests.unit.oracle.misbehaving import Asked, MisbehavingServer, Reply
from tests.unit.oracle.schemas import missing

ETH = "0x4200000000000000000000000000000000000006"
USD = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
START_S = 1_700_002_800
BLOCK = BlockRef(number=9, hash="0x" + "99" * 32, timestamp_s=START_S + 3 * HOUR_S + 1)
POOL = IndexedPool(
    block=BLOCK,
    address="0xd0b53D9277642d899DF5C87A3966A349A798F224",
    created_at_s=START_S,
    token0=PoolToken(address=ETH, symbol="WETH", decimals=18),
    token1=PoolToken(address=USD, symbol="USDC", decimals=6),
    fee=500,
    liquidity=10**18,
    sqrt_price_x96=3543191142285914205922034323214,
    tick=-200_311,
    token0_price=Decimal("0.0005"),
    token1_price=Decimal(2000),
    volume0=Decimal(1),
    volume1=Decimal(2000),
    locked0=Decimal(5),
    locked1=Decimal(10_000),
    tx_count=7,
)
HOUR = PoolHour(
    start_s=START_S,
    open=Decimal("0.0005"),
    high=Decimal("0.000625"),
    low=Decimal("0.0004"),
    close=Decimal("0.0005"),
    liquidity=10**18,
    sqrt_price_x96=3543191142285914205922034323214,
    tick=-200_311,
    volume0=Decimal(1),
    volume1=Decimal(2000),
    tx_count=7,
)
POOL_ROW: dict[str, Any] = {
    "id": POOL.address.lower(),
    "createdAtTimestamp": str(START_S),
    "token0": {"id": ETH.lower(), "symbol": "WETH", "decimals": "18"},
    "token1": {"id": USD.lower(), "symbol": "USDC", "decimals": "6"},
    "feeTier": "500",
    "liquidity": "1000000000000000000",
    "sqrtPrice": "3543191142285914205922034323214",
    "tick": "-200311",
    "token0Price": "0.0005",
    "token1Price": "2000",
    "volumeToken0": "1",
    "volumeToken1": "2000",
    "totalValueLockedToken0": "5",
    "totalValueLockedToken1": "10000",
    "txCount": "7",
}
HOUR_ROW = {
    "id": "1",
    "periodStartUnix": START_S,
    "open": "0.0005",
    "high": "0.000625",
    "low": "0.0004",
    "close": "0.0005",
    "liquidity": "1000000000000000000",
    "sqrtPrice": "3543191142285914205922034323214",
    "tick": "-200311",
    "volumeToken0": "1",
    "volumeToken1": "2000",
    "txCount": "7",
}


def hours_of(*hours: PoolHour, pool: IndexedPool = POOL) -> PoolHours:
    return PoolHours(pool=pool, since_s=START_S, until_s=START_S + 3 * HOUR_S, hours=hours)


Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
def rows() -> Rows:
    """What the endpoint of `reader` answers."""
    return {"pools": [POOL_ROW], "poolHourDatas": [HOUR_ROW]}


@pytest.fixture
def reader(rows: Rows) -> Iterator[PoolsReader]:
    block = {"number": BLOCK.number, "hash": BLOCK.hash, "timestamp": BLOCK.timestamp_s}
    meta = {"block": block, "hasIndexingErrors": False, "deployment": "Qm"}

    def answer(asked: Asked) -> Reply:
        field = re.search("pools|poolHourDatas", asked.body["query"])
        assert field
        return Reply(body={"data": {field[0]: rows[field[0]], "_indexer": meta}})

    with (
        MisbehavingServer(answer) as server,
        GraphClient([server.url], POOLS_SDL, max_lag_blocks=0, max_age_s=1, now_s=lambda: BLOCK.timestamp_s) as client,
    ):
        yield PoolsReader(client)


@pytest.mark.parametrize(("since_s", "until_s"), [(1, HOUR_S), (0, HOUR_S + 1), (HOUR_S, 0)])
def test_hours_that_are_none_are_not_asked_for(reader: PoolsReader, since_s: int, until_s: int) -> None:
    with pytest.raises(ValueError, match=f"not {since_s} to {until_s}"):
        reader.fetch_hours(POOL, since_s, until_s)


@pytest.mark.parametrize("start_s", [START_S, START_S - HOUR_S, START_S + HOUR_S + 1, START_S + 2 * HOUR_S])
def test_an_hour_twice_or_one_not_asked_for_is_refused(reader: PoolsReader, rows: Rows, start_s: int) -> None:
    rows["poolHourDatas"].append({**HOUR_ROW, "id": "2", "periodStartUnix": start_s})
    with pytest.raises(GraphRefused, match="not asked for, or one twice"):
        reader.fetch_hours(POOL, START_S, START_S + 2 * HOUR_S)


def test_a_pool_or_an_hour_without_a_price_gives_none() -> None:
    unborn = replace(POOL, token0_price=Decimal(0), token1_price=Decimal(0))
    with pytest.raises(NoPrice, match=POOL.address):
        unborn.price(ETH)
    with pytest.raises(NoPrice, match=str(START_S)):
        hours_of(replace(HOUR, open=Decimal(0), low=Decimal(0))).candles(ETH)


def test_a_token_of_another_pool_has_no_price_here() -> None:
    for ask in (POOL.price, hours_of(HOUR).candles):
        with pytest.raises(KeyError, match=POOL.address):
            ask(POOL.address)


def test_an_hour_that_is_not_over_at_the_block_is_not_given(reader: PoolsReader, rows: Rows) -> None:
    hours = reader.fetch_hours(POOL, START_S, START_S + 100 * HOUR_S)
    assert (hours.until_s, hours.hours) == (START_S + 3 * HOUR_S, (HOUR,))
    rows["poolHourDatas"].clear()
    future = reader.fetch_hours(POOL, START_S + 50 * HOUR_S, START_S + 100 * HOUR_S)
    assert (future.until_s, future.hours, future.missing_s) == (START_S + 50 * HOUR_S, (), ())


def test_hours_without_events_are_named_not_filled() -> None:
    hours = hours_of(HOUR, replace(HOUR, start_s=START_S + 2 * HOUR_S))
    assert hours.missing_s == (START_S + HOUR_S,)
    assert [candle.start_s for candle in hours.candles(USD)] == [START_S, START_S + 2 * HOUR_S]


def test_prices_are_given_in_either_token_and_high_stays_above_low() -> None:
    assert (POOL.price(ETH), POOL.price(USD)) == (2000, Decimal("0.0005"))
    [eth], [usd] = hours_of(HOUR).candles(ETH), hours_of(HOUR).candles(USD)
    assert (eth.open, eth.high, eth.low, eth.close) == (2000, 2500, 1600, 2000)
    assert (usd.open, usd.high, usd.low, usd.close) == (HOUR.open, HOUR.high, HOUR.low, HOUR.close)


def test_volume_adds_up_to_the_last_digit() -> None:
    volumes = [Decimal(volume) for volume in ("1000000000000000", "0.000000000000000001", "0.000000000000000001")]
    hours = hours_of(*(replace(HOUR, volume0=volume, volume1=2 * volume) for volume in volumes))
    assert hours.volume0 == Decimal("1000000000000000.000000000000000002")
    assert hours.volume1 == Decimal("2000000000000000.000000000000000004")


def test_pools_come_with_the_deepest_first_and_none_is_an_answer(reader: PoolsReader, rows: Rows) -> None:
    deeper = {**POOL_ROW, "id": "0xff" + POOL_ROW["id"][4:], "liquidity": str(POOL.liquidity + 1)}
    rows["pools"].append(deeper)
    first, second = reader.fetch_pools(USD, ETH)
    assert (first.liquidity, second) == (POOL.liquidity + 1, POOL)
    rows["pools"].clear()
    assert reader.fetch_pools(ETH, USD) == ()


def test_what_is_asked_can_be_asked_of_the_hosted_subgraph(hosted: GraphQLSchema) -> None:
    assert missing(build_schema(POOLS_SDL), hosted) == []


def test_every_entity_and_field_of_ours_is_one_of_the_hosted_subgraphs(hosted: GraphQLSchema) -> None:
    ours = Path(__file__).parents[3].joinpath("subgraph", "pools", "schema.graphql").read_text()
    known_to_graph_node = (
        "scalar BigDecimal scalar BigInt scalar Bytes "
        "directive @entity(immutable: Boolean) on OBJECT directive @derivedFrom(field: String) on FIELD_DEFINITION "
    )
    assert missing(build_schema(known_to_graph_node + ours), hosted) == []


@pytest.fixture(scope="module")
def hosted() -> GraphQLSchema:
    return build_schema(Path(__file__).with_name("hosted_pools.graphql").read_text())
