"""A pool at a block and on average before it, read from the real Uniswap v3 byte code on both EVMs."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.contracts import third_party
from agents.localnet import LocalEvm, LocalMarket, start_evm
from agents.localnet.anvil import find_anvil
from oracle.chain import fetch_block
from oracle.errors import NothingThere, ReadingFailed
from oracle.pool_state import PoolReader, harmonic_mean_liquidity, mean_tick

UNITS = {"base_decimals": 18, "quote_decimals": 6}
KINDS = [
    pytest.param("anvil", marks=pytest.mark.skipif(find_anvil() is None, reason="anvil is not installed")),
    "py-evm",
]


@pytest.fixture(scope="module", params=KINDS)
def evm(request: pytest.FixtureRequest) -> Iterator[LocalEvm]:
    with start_evm(request.param) as started:
        yield started


@pytest.fixture(scope="module")
def deployed(evm: LocalEvm) -> LocalMarket:
    return LocalMarket.deploy(evm, base_price_usd=Decimal(2000))


@pytest.fixture
def market(deployed: LocalMarket) -> Iterator[LocalMarket]:
    snapshot = deployed.evm.snapshot()
    yield deployed
    deployed.evm.revert(snapshot)


@pytest.fixture
def reader(evm: LocalEvm, market: LocalMarket) -> PoolReader:
    return PoolReader(evm, evm.at(third_party("UniswapV3Pool"), market.book.asset("ETH").pool))


def test_an_address_without_a_pool_is_named(evm: LocalEvm) -> None:
    nobody = "0x00000000000000000000000000000000000000AA"
    with pytest.raises(ReadingFailed, match=nobody):
        PoolReader(evm, evm.at(third_party("UniswapV3Pool"), nobody))


def test_a_token_of_another_pool_has_no_price_here(evm: LocalEvm, market: LocalMarket, reader: PoolReader) -> None:
    with pytest.raises(KeyError, match=market.book.router):
        reader.fetch(fetch_block(evm)).price(market.book.router, base_decimals=18, quote_decimals=6)


def test_a_pool_that_nobody_has_opened_has_no_price(evm: LocalEvm, market: LocalMarket) -> None:
    factory = evm.at(third_party("UniswapV3Factory"), market.book.factory)
    tokens = market.book.quote, market.book.weth
    evm.send(factory.functions.createPool(*tokens, 10_000), market.deployer)
    address = evm.call(factory.functions.getPool(*tokens, 10_000))
    reader = PoolReader(evm, evm.at(third_party("UniswapV3Pool"), address))
    for fetch in (lambda block: reader.fetch(block), lambda block: reader.fetch_twap(block, 60)):
        with pytest.raises(NothingThere, match=f"{address} has no price yet"):
            fetch(fetch_block(evm))


def test_a_mean_longer_than_the_pool_remembers_is_refused_with_the_way_out(
    evm: LocalEvm, market: LocalMarket, reader: PoolReader
) -> None:
    """A new pool has room for one observation: every trade overwrites it."""
    move(market, 2200)
    evm.travel(100)
    block = fetch_block(evm)
    assert reader.fetch_twap(block, 100).tick
    with pytest.raises(NothingThere) as refusal:
        reader.fetch_twap(block, 101)
    said = str(refusal.value)
    assert said.startswith(f"pool {market.book.asset('ETH').pool} remembers 100 s at block {block.number}")
    assert "101 s is wanted; it has room for 1 observations" in said
    assert "increaseObservationCardinalityNext" in said
    assert "\n" not in said


def test_how_long_a_pool_remembers_is_told_when_its_room_is_full_and_when_it_is_not(
    evm: LocalEvm, market: LocalMarket, reader: PoolReader
) -> None:
    market.remember("ETH", 3)
    written = [fetch_block(evm).timestamp_s]
    for index in range(5):
        evm.travel(50)
        move(market, 2100 + 100 * index)
        written.append(fetch_block(evm).timestamp_s)
        block = fetch_block(evm)
        remembered_s = block.timestamp_s - written[max(len(written) - 3, 0)]
        if index < 2:  # the first observation is from when the pool was opened
            remembered_s = block.timestamp_s - opened_s(market)
        reader.fetch_twap(block, remembered_s)
        with pytest.raises(NothingThere, match=f"remembers {remembered_s} s .* room for 3 observations"):
            reader.fetch_twap(block, remembered_s + 1)


@pytest.mark.parametrize("window_s", [0, -1])
def test_a_mean_over_no_time_is_refused(evm: LocalEvm, reader: PoolReader, window_s: int) -> None:
    with pytest.raises(ValueError, match=f"window_s is {window_s}"):
        reader.fetch_twap(fetch_block(evm), window_s)


# The pool as it is


def test_a_reading_stays_at_its_block_and_prices_both_ways(
    evm: LocalEvm, market: LocalMarket, reader: PoolReader
) -> None:
    asset, before = market.book.asset("ETH"), fetch_block(evm)
    market.publish("ETH", Decimal(2400))
    market.arbitrage("ETH")
    then, now = reader.fetch(before), reader.fetch(fetch_block(evm))
    assert {then.token0, then.token1} == {asset.token, market.book.quote}
    assert then.fee == asset.pool_fee
    assert then.liquidity == now.liquidity > 0
    was, price = (reading.price(asset.token, base_decimals=18, quote_decimals=6) for reading in (then, now))
    assert was == pytest.approx(Decimal(2000), rel=Decimal("1e-6"))
    assert price == pytest.approx(market.pool_price("ETH"), rel=Decimal("1e-12"))
    inverse = now.price(market.book.quote, base_decimals=6, quote_decimals=18)
    assert inverse * price == pytest.approx(Decimal(1), rel=Decimal("1e-20"))


# The pool as it was on average


def test_the_mean_is_what_every_second_adds_up_to(evm: LocalEvm, market: LocalMarket, reader: PoolReader) -> None:
    """Seconds before a block's own belong to the tick that the block before left, and to its liquidity."""
    market.remember("ETH", 20)
    blocks = [fetch_block(evm)]
    for price_usd, seconds in ((2200, 37), (1700, 600), (1701, 1), (2500, 5), (2490, 240)):
        move(market, price_usd)
        more_liquidity(market, seconds * 1000)
        evm.travel(seconds)
        blocks += [fetch_block(evm, n) for n in range(blocks[-1].number + 1, evm.w3.eth.block_number + 1)]
    seconds = [
        reading
        for before, after in zip(blocks, blocks[1:], strict=False)
        for reading in [reader.fetch(before)] * (after.timestamp_s - before.timestamp_s)
    ]
    assert len({second.tick for second in seconds}) >= 5
    assert len({second.liquidity for second in seconds}) >= 5
    for window_s in (1, 5, 241, 600, 900):
        mean, last = reader.fetch_twap(blocks[-1], window_s), seconds[-window_s:]
        assert mean.tick == sum(second.tick for second in last) // window_s
        harmonic = window_s / sum(Fraction(1, second.liquidity) for second in last)
        assert abs(mean.liquidity / harmonic - 1) < Fraction(1, 10**12)
        assert (mean.window_s, mean.block) == (window_s, blocks[-1])


def test_a_mean_stays_at_its_block(evm: LocalEvm, market: LocalMarket, reader: PoolReader) -> None:
    market.remember("ETH", 20)
    move(market, 2200)
    evm.travel(300)
    block = fetch_block(evm)
    then = reader.fetch_twap(block, 300)
    move(market, 3000)
    evm.travel(300)
    assert reader.fetch_twap(block, 300) == then
    assert reader.fetch_twap(fetch_block(evm), 300).tick != then.tick


def test_a_price_that_stood_still_is_met_within_two_basis_points(
    evm: LocalEvm, market: LocalMarket, reader: PoolReader
) -> None:
    """token1 for one token0 is never above the true mean, and less than 1.0001 squared below it."""
    move(market, "2345.6789")
    evm.travel(300)
    spot, mean = reader.fetch(fetch_block(evm)), reader.fetch_twap(fetch_block(evm), 300)
    for token in (spot.token0, spot.token1):
        true, found = (reading.price(token, base_decimals=0, quote_decimals=0) for reading in (spot, mean))
        ratio = true / found if token == spot.token0 else found / true
        assert 1 <= ratio < Decimal("1.0001") ** 2
    assert mean.price(market.book.weth, **UNITS) == pytest.approx(Decimal("2345.6789"), rel=Decimal("2e-4"))
    with pytest.raises(KeyError, match="is not traded in pool"):
        mean.price(market.book.router, **UNITS)


@given(before=st.integers(-(2**55), 2**55 - 1), tick=st.integers(-887_272, 887_272), window_s=st.integers(1, 2**32 - 1))
def test_the_mean_tick_survives_an_accumulator_that_wraps(before: int, tick: int, window_s: int) -> None:
    now = (before + tick * window_s + 2**55) % 2**56 - 2**55
    assert mean_tick(before, now, window_s) == tick


@pytest.mark.parametrize(("delta", "expected"), [(-1, -1), (-10, -1), (-11, -2), (0, 0), (9, 0), (10, 1)])
def test_the_mean_tick_is_rounded_towards_negative_infinity(delta: int, expected: int) -> None:
    assert mean_tick(5, 5 + delta, 10) == expected


@given(liquidity=st.integers(1, 2**96), window_s=st.integers(1, 10**6), before=st.integers(0, 2**160 - 1))
def test_constant_liquidity_is_its_own_mean_even_when_the_accumulator_wraps(
    liquidity: int, window_s: int, before: int
) -> None:
    """But for what is rounded off: one at most below, one part in 2^32 at most above for liquidity up to 2^96."""
    now = (before + (window_s << 128) // liquidity) % 2**160
    assert -1 <= harmonic_mean_liquidity(before, now, window_s) - liquidity <= liquidity >> 31


def move(market: LocalMarket, price_usd: int | str) -> None:
    """The feed and the pool at a new price."""
    market.publish("ETH", Decimal(price_usd))
    market.arbitrage("ETH")


def more_liquidity(market: LocalMarket, usd: int) -> None:
    market._add_liquidity(market.book.asset("ETH"), market.oracle_price("ETH"), Decimal(usd))


def opened_s(market: LocalMarket) -> int:
    pool: Any = market.evm.at(third_party("UniswapV3Pool"), market.book.asset("ETH").pool)
    return int(market.evm.call(pool.functions.observations(0)).blockTimestamp)
