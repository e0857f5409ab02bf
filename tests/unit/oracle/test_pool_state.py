from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest

from agents.contracts import third_party
from agents.localnet import LocalEvm, LocalMarket, start_evm
from oracle.chain import fetch_block
from oracle.errors import ReadingFailed
from oracle.pool_state import PoolReader


@pytest.fixture(scope="module")
def evm() -> Iterator[LocalEvm]:
    with start_evm("py-evm") as started:
        yield started


@pytest.fixture(scope="module")
def market(evm: LocalEvm) -> LocalMarket:
    return LocalMarket.deploy(evm, base_price_usd=Decimal(2000))


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
