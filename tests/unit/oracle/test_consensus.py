"""Sources of one price are compared exactly: who is too far away, or missing, is named with its numbers or reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.localnet import LocalEvm, LocalMarket, feeds, start_evm
from agents.localnet.market import pool_readers
from oracle.chain import BlockRef, fetch_block
from oracle.chainlink import ChainlinkReader
from oracle.consensus import (
    CHAINLINK,
    SPOT,
    TWAP,
    Consensus,
    ConsensusReader,
    ConsensusRules,
    MissingPrice,
    OtherFeeds,
    SourcePrice,
    agree,
    as_text,
    compare,
)
from oracle.errors import Disagreement, ReadingFailed
from oracle.vault_state import VaultReading
from tests.unit.oracle.readings import ETH, WAD, position, reading

BLOCK = BlockRef(number=100, hash="0x" + "cd" * 32, timestamp_s=1_750_000_000)
RULES = ConsensusRules(bound_bps=100, min_sources=2, twap_window_s=600)


def says(source: str, price: Any, age_s: int = 0) -> SourcePrice:
    return SourcePrice(source=source, price=Fraction(price), age_s=age_s)


def compared(*readings: SourcePrice | MissingPrice, rules: ConsensusRules = RULES) -> Consensus:
    return compare(ETH, BLOCK, readings, rules)


# Refusals


def test_sources_too_far_apart_are_both_named_with_prices_difference_and_bound() -> None:
    apart = says(CHAINLINK, 2000), says(TWAP, 2010), says(SPOT, "2020.002")
    with pytest.raises(Disagreement) as refusal:
        agree(ETH, BLOCK, apart, RULES)
    assert str(refusal.value) == (
        f"{ETH} at block 100: chainlink says 2000, pool spot 2020.002: 101 bps apart, 100 are allowed"
    )


def test_a_difference_of_exactly_the_bound_is_allowed_and_the_least_bit_more_is_not() -> None:
    assert compared(says(CHAINLINK, 2000), says(SPOT, 2020)).objection == ""
    least = Fraction(1, 10**60)
    for more in (says(SPOT, 2020 + least), says(SPOT, Fraction(200_000, 101) - least)):
        found = compared(says(CHAINLINK, 2000), more)
        assert (bool(found.objection), found.widest_bps) == (True, 101)


def test_too_few_sources_are_refused_with_the_reason_of_each_that_is_missing() -> None:
    absent = MissingPrice(source=TWAP, reason="the pool is young"), MissingPrice(source=SPOT, reason="no such pool")
    found = compared(says(CHAINLINK, 2000), *absent)
    assert found.objection == (
        "1 sources have a price, 2 are needed (pool twap: the pool is young; pool spot: no such pool)"
    )
    assert found.missing == absent
    assert compared().objection == "0 sources have a price, 2 are needed (no other was asked)"


def test_several_feeds_of_one_source_do_not_make_up_for_a_missing_one() -> None:
    assert compared(says(CHAINLINK, 2000), says(CHAINLINK, 2000)).objection.startswith("1 sources have a price")


@pytest.mark.parametrize("price", [0, -1])
def test_what_is_no_price_is_refused(price: int) -> None:
    found = compared(says(CHAINLINK, 2000), says(SPOT, price))
    assert found.objection == f"pool spot says {price}, which is no price"


@pytest.mark.parametrize(
    ("name", "value"), [("bound_bps", -1), ("min_sources", 0), ("twap_window_s", 0), ("twap_window_s", 2**32)]
)
def test_rules_that_can_not_be_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}={value}"):
        ConsensusRules(**{name: value})


# Agreement


def test_a_missing_source_is_kept_with_its_reason_where_enough_others_agree() -> None:
    absent = MissingPrice(source=TWAP, reason="the pool is young")
    found = agree(ETH, BLOCK, [says(CHAINLINK, 2000, 60), absent, says(SPOT, 2001)], RULES)
    assert (found.objection, found.missing) == ("", (absent,))
    assert found.widest_bps == 5


@pytest.mark.parametrize(
    ("prices", "middle"), [((2000,), 2000), ((2000, 1), 1000), ((9999, 2000, 1), 2000), ((1, 2000, 2001, 9999), 2000)]
)
def test_several_feeds_count_as_their_median_and_one_of_three_that_lies_changes_nothing(
    prices: tuple[int, ...], middle: int
) -> None:
    """Of an even number it is the mean of the two in the middle, exactly."""
    found = compared(*(says(CHAINLINK, price, age) for age, price in enumerate(prices)), says(SPOT, 2000))
    expected = Fraction(sum(sorted(prices)[(len(prices) - 1) // 2 : len(prices) // 2 + 1]), 2 - len(prices) % 2)
    assert found.prices[0] == SourcePrice(source=CHAINLINK, price=expected, age_s=len(prices) - 1)
    assert int(expected) == middle


@given(
    st.lists(st.fractions(min_value=Fraction(1, 10**9), max_value=10**9), min_size=2, max_size=4),
    st.integers(0, 20_000),
    st.randoms(),
)
def test_the_order_of_sources_does_not_matter_and_the_widest_pair_decides(
    prices: list[Fraction], bound_bps: int, random: Any
) -> None:
    rules = replace(RULES, bound_bps=bound_bps)
    sources = [says(f"source {index}", price) for index, price in enumerate(prices)]
    shuffled = random.sample(sources, len(sources))
    one, other = compared(*sources, rules=rules), compared(*shuffled, rules=rules)
    is_apart = (max(prices) - min(prices)) * 10_000 > bound_bps * min(prices)
    assert bool(one.objection) == bool(other.objection) == is_apart
    assert one.widest_bps == other.widest_bps
    assert bool(one.objection) == (one.widest_bps > bound_bps)


def test_a_comparison_is_stored_as_integers_and_texts() -> None:
    found = compared(says(CHAINLINK, Fraction(2000, 3), 60), says(SPOT, 667), MissingPrice(source=TWAP, reason="young"))
    assert json.loads(json.dumps(found.as_plain())) == {
        "asset": ETH,
        "block": 100,
        "rules": {"bound_bps": 100, "min_sources": 2, "twap_window_s": 600},
        "prices": [
            {"source": "chainlink", "price": "666.666666666666667", "age_s": 60},
            {"source": "pool spot", "price": "667", "age_s": 0},
        ],
        "missing": [{"source": "pool twap", "reason": "young"}],
        "widest_bps": 5,
        "objection": "",
    }


@pytest.mark.parametrize(("price", "text"), [(Fraction(1, 10**12), "0.000000000001"), (10**20, "1" + "0" * 20)])
def test_prices_are_written_without_an_exponent(price: Fraction | int, text: str) -> None:
    assert as_text(Fraction(price)) == text


# On a chain


@pytest.fixture(scope="module")
def evm() -> Iterator[LocalEvm]:
    with start_evm("py-evm") as started:
        yield started


@pytest.fixture(scope="module")
def deployed(evm: LocalEvm) -> LocalMarket:
    market = LocalMarket.deploy(evm, base_price_usd=Decimal(2000))
    market.remember("ETH", 10)
    market.publish("ETH", Decimal(2100))
    market.arbitrage("ETH")
    evm.travel(600)
    return market


@pytest.fixture
def market(deployed: LocalMarket) -> Iterator[LocalMarket]:
    snapshot = deployed.evm.snapshot()
    yield deployed
    deployed.evm.revert(snapshot)


def vault_at(market: LocalMarket, *, quote_usd: str = "1", has_price: bool = True) -> VaultReading:
    """A vault that prices ETH as the feed does at the latest block."""
    asset, block = market.book.asset("ETH"), fetch_block(market.evm)
    price_usd = feeds.fetch_round(market.evm, asset.feed)
    held = position(asset.token)
    round_ = replace(held.round, answer=price_usd.answer, updated_at_s=price_usd.updated_at_s)
    price_wad = price_usd.answer * 10**10 * 10**18 // int(Decimal(quote_usd) * 10**18) if has_price else 0
    made = reading(replace(held, price_wad=price_wad, round=round_), block=block)
    updated_at_s = block.timestamp_s - 700
    return replace(made, quote_round=replace(made.quote_round, token=market.book.quote, updated_at_s=updated_at_s))


def fetch(market: LocalMarket, vault: VaultReading, *others: OtherFeeds, **rules: int) -> Consensus:
    reader = ConsensusReader(pool_readers(market.evm, market.book), feeds=others)
    return reader.fetch(vault, market.book.weth, ConsensusRules(**{"twap_window_s": 600, "bound_bps": 50} | rules))


def other_feeds(market: LocalMarket, eth_usd: str) -> OtherFeeds:
    """Another network's feeds, with 18 decimals."""
    evm, prices = market.evm, {market.book.weth: Decimal(eth_usd), market.book.quote: Decimal(1)}
    made = {}
    for token, price_usd in prices.items():
        made[token] = feeds.deploy_feed(evm, "OTHER / USD", 18, owner=market.deployer, transmitter=market.publisher)
        feeds.publish(evm, made[token], int(price_usd * WAD), transmitter=market.publisher)
    rounds = ChainlinkReader(evm, {token: evm.at("FeedProxy", feed) for token, feed in made.items()})
    return OtherFeeds(rounds=rounds, decimals=dict.fromkeys(made, 18), max_age_s=dict.fromkeys(made, 3600))


def test_a_pool_that_was_just_pushed_disagrees_with_its_own_mean_and_with_the_feed(market: LocalMarket) -> None:
    trader = market.evm.accounts[3]
    market.give_quote(trader, 10**12)
    market.buy("ETH", 10**12, sender=trader)
    found = fetch(market, vault_at(market), bound_bps=1000)
    apart = {price.source: price.price for price in found.prices}
    assert apart[SPOT] > apart[CHAINLINK] * Fraction(12, 10)
    assert abs(apart[TWAP] / apart[CHAINLINK] - 1) < Fraction(1, 100)
    assert ", pool spot 25" in found.objection
    assert found.objection.endswith(f"{found.widest_bps} bps apart, 1000 are allowed")


def test_a_feed_that_does_not_follow_disagrees_with_both(market: LocalMarket) -> None:
    market.publish("ETH", Decimal(1900))
    found = fetch(market, vault_at(market))
    assert "chainlink says 1900" in found.objection


def test_sources_that_have_no_price_are_missing_with_their_reasons(market: LocalMarket) -> None:
    young = fetch(market, vault_at(market), twap_window_s=10_000)
    [missing] = young.missing
    assert (missing.source, "increaseObservationCardinalityNext" in missing.reason) == (TWAP, True)
    assert young.objection.startswith("2 sources have a price, 3 are needed (pool twap: pool 0x")
    [stale] = fetch(market, vault_at(market, has_price=False)).missing
    assert (stale.source, "has no fresh price" in stale.reason) == (CHAINLINK, True)
    vault = vault_at(market)
    bare = ConsensusReader({}).fetch(vault, market.book.weth, ConsensusRules())
    assert {m.source: m.reason for m in bare.missing} == dict.fromkeys(
        (TWAP, SPOT), f"no pool is configured for {market.book.weth}"
    )


def test_a_node_that_does_not_answer_is_no_missing_source(market: LocalMarket) -> None:
    readers, vault = pool_readers(market.evm, market.book), vault_at(market)

    class Silent:
        w3 = market.evm.w3

        def call(self, *_: Any, **__: Any) -> Any:
            raise ConnectionError("connection refused")

    for pool in readers.values():
        pool._chain = Silent()
    with pytest.raises(ReadingFailed, match="connection refused"):
        ConsensusReader(readers).fetch(vault, market.book.weth, ConsensusRules())


def test_sources_at_the_market_agree_and_say_how_old_they_are(market: LocalMarket) -> None:
    vault = vault_at(market)
    found = fetch(market, vault)
    assert (found.objection, found.missing, found.block) == ("", (), vault.block)
    assert [price.source for price in found.prices] == [CHAINLINK, TWAP, SPOT]
    assert [price.age_s for price in found.prices] == [700, 600, 0]
    assert found.prices[0].price == 2100
    assert found.widest_bps <= 2


def test_the_price_is_in_quote_whatever_a_quote_token_is_worth(market: LocalMarket) -> None:
    market.publish(market.book.quote_symbol, Decimal("0.5"))
    market.arbitrage("ETH")
    market.evm.travel(600)
    found = fetch(market, vault_at(market, quote_usd="0.5"))
    assert (found.objection, found.prices[0].price) == ("", 4200)


def test_with_three_feeds_one_that_lies_is_outvoted(market: LocalMarket) -> None:
    honest, lying = other_feeds(market, "2101"), other_feeds(market, "9000")
    assert "chainlink says 5550" in fetch(market, vault_at(market), lying).objection
    found = fetch(market, vault_at(market), honest, lying)
    assert (found.objection, found.prices[0].price) == ("", 2101)


def test_another_feed_that_is_stale_is_missing_and_the_rest_decides(market: LocalMarket) -> None:
    other = replace(other_feeds(market, "2100"), max_age_s=dict.fromkeys((market.book.weth, market.book.quote), 0))
    market.evm.travel(1)
    found = fetch(market, vault_at(market), other)
    assert found.objection == ""
    [missing] = found.missing
    assert (missing.source, "0 s are allowed" in missing.reason) == (CHAINLINK, True)


def test_the_same_block_gives_the_same_comparison_later(market: LocalMarket) -> None:
    vault = vault_at(market)
    then = fetch(market, vault)
    market.publish("ETH", Decimal(3000))
    market.arbitrage("ETH")
    assert fetch(market, vault) == then
