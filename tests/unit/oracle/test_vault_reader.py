"""A reading of a vault is what the contracts say one by one, to the last digit, at one block."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

import pytest

from agents.localnet.market import MULTICALL3
from offchain_rl.artefact import canonical_bytes
from oracle.chain import fetch_block
from oracle.chainlink import ChainlinkReader, Round
from oracle.errors import NothingThere, ReadingFailed
from oracle.multicall import fetch_many
from oracle.vault_state import EffectiveLimits, Reason, VaultReader, VaultReading, VaultState, as_plain, reason_names
from tests.contracts.world import CEILINGS, DAY_S, LIMITS, Strategy, World, eth, usd
from tests.unit.oracle.readings import ETH, reading

QUOTE_UNIT = 10**6


def reader_of(world: World, s: Strategy) -> VaultReader:
    return VaultReader(
        world.evm, vault=s.vault, constitution=world.constitution, oracle=world.oracle,
        quote=world.book.quote, quote_unit=QUOTE_UNIT,
    )  # fmt: skip


def read(world: World, s: Strategy) -> VaultReading:
    return reader_of(world, s).fetch(fetch_block(world.evm))


def call(world: World, function: Any) -> Any:
    return world.evm.call(function)


@pytest.fixture
def traded(world: World) -> Strategy:
    """Holds ETH and BTC, has traded today, and is below its peak."""
    s = world.deploy_strategy(assets=("ETH", "BTC"))
    world.buy(s, usd(300_000))
    world.buy(s, usd(200_000) + 1, symbol="BTC")
    world.set_price("ETH", "1987.654321")
    world.sell(s, eth("12.345678901234567891"))
    return s


@pytest.mark.parametrize("has_multicall", [True, False], ids=["multicall", "one by one"])
def test_a_reading_equals_single_contract_reads_to_the_last_digit(
    world: World, traded: Strategy, has_multicall: bool
) -> None:
    if not has_multicall:
        world.evm.set_code(MULTICALL3, b"")
    f, found, block = traded.vault.functions, read(world, traded), fetch_block(world.evm)
    status, guard, book = (call(world, c()) for c in (f.status, f.guard, f.book))
    own_limits = tuple(call(world, f.limits()))
    limits, rules = call(world, world.constitution.functions.regime(own_limits))
    assert found.block == block
    assert found.block.hash == "0x" + bytes(world.w3.eth.get_block("latest")["hash"]).hex()
    assert found.address == traded.vault.address
    assert found.strategy_id == "0x" + traded.id.hex()
    assert found.artefact_hash == "0x" + bytes(call(world, f.artefactHash())).hex()
    assert found.agent_id == traded.agent_id == call(world, f.agentId())
    assert (found.state, found.reasons) == (VaultState.ACTIVE, 0) == (status.state, status.reasons)
    assert found.recorded_reasons == guard.reasons
    assert found.value == status.value
    assert found.unit_price_wad == status.unitPriceWad
    assert found.profit == status.profit
    assert found.quote_held == book.quoteHeld
    assert found.quote_unit == QUOTE_UNIT
    assert found.peak_wad == guard.peak
    assert found.reference_wad == max(guard.beforeToday, guard.beforeYesterday)
    assert found.nonce == guard.nonce == 3
    assert found.trades_today == guard.tradesToday == 3
    assert found.turnover_today == guard.turnoverToday
    assert (found.slippage_level, found.slippage_at_s) == tuple(guard.slippage)
    assert found.slippage_decay_s == rules.slippageDecayS
    assert tuple(getattr(found.limits, field.name) for field in fields(EffectiveLimits)) == tuple(limits)
    for symbol, position in zip(("ETH", "BTC"), found.positions, strict=True):
        token = world.token_of(symbol)
        price = call(world, world.oracle.functions.read(token))
        assert position.token == token
        assert position.unit == 10 ** world.book.asset(symbol).decimals
        assert position.amount == call(world, f.positionOf(token)).amount > 0
        assert position.price_wad == price.priceWad > 0
        assert position.round == Round(
            token=token, round_id=price.roundId, answer=price.answer, updated_at_s=price.updatedAt
        )
    quote = call(world, world.oracle.functions.read(world.book.quote))
    assert (found.quote_round.round_id, found.quote_round.answer) == (quote.roundId, quote.answer)
    assert found.value == found.quote_held + sum(found.asset_value(p.token) for p in found.positions)


def test_a_reading_of_a_block_does_not_know_what_came_later(world: World, traded: Strategy) -> None:
    reader, block = reader_of(world, traded), fetch_block(world.evm)
    before = reader.fetch(block)
    world.set_price("ETH", 2100)
    world.buy(traded, usd(1000))
    world.as_timelock(world.treasury.functions.allocate(traded.id, usd(5000)))
    world.as_timelock(world.constitution.functions.setCeilings(replace(CEILINGS, max_position_bps=100).as_tuple()))
    world.travel(2 * DAY_S)
    assert reader.fetch(block) == before
    assert read(world, traded) != before


def test_the_stricter_of_vault_and_constitution_is_read(world: World, traded: Strategy) -> None:
    assert read(world, traded).limits.max_position_bps == LIMITS.max_position_bps
    world.as_timelock(world.constitution.functions.setCeilings(replace(CEILINGS, max_position_bps=123).as_tuple()))
    assert read(world, traded).limits.max_position_bps == 123


def test_a_new_day_begins_without_trades_and_with_yesterdays_price_as_reference(
    world: World, traded: Strategy
) -> None:
    """As the vault will see it in its next action, before any action has told it that the day is new."""
    guard = call(world, traded.vault.functions.guard())
    for days in (1, 2):
        world.travel_to((guard.day + days) * DAY_S + 5)
        found = read(world, traded)
        assert (found.trades_today, found.turnover_today) == (0, 0)
        expected = max(guard.lastUnitPrice, guard.beforeToday) if days == 1 else guard.lastUnitPrice
        assert found.reference_wad == expected
    world.poke(traded)
    rolled = call(world, traded.vault.functions.guard())
    assert read(world, traded).reference_wad == max(rolled.beforeToday, rolled.beforeYesterday) == expected


def test_a_stale_feed_has_no_price_but_its_round_is_read(world: World, traded: Strategy) -> None:
    world.evm.travel(3 * 3600)
    world.market.publish("BTC", Decimal(60_000))
    found = read(world, traded)
    stale, fresh = found.position(world.token_of("ETH")), found.position(world.token_of("BTC"))
    assert (stale.price_wad, found.asset_value(stale.token)) == (0, 0)
    assert stale.round.answer == 1987_65432100
    assert fresh.price_wad == 60_000 * 10**18
    assert found.state is VaultState.REDUCING
    assert reason_names(found.reasons) == ["PRICE_MISSING"]
    assert found.recorded_reasons == 0, "nothing has happened that could have written it down"
    world.poke(traded)
    assert read(world, traded).recorded_reasons == found.reasons


def test_reasons_are_named_lowest_bit_first() -> None:
    assert reason_names(0) == []
    assert reason_names(Reason.HALTED | Reason.DAY_LOSS | Reason.QUOTE_UNHEALTHY) == [
        "DAY_LOSS", "HALTED", "QUOTE_UNHEALTHY"
    ]  # fmt: skip


def test_an_address_without_a_vault_can_not_be_read(world: World) -> None:
    nobody = world.d.vault(world.evm, world.stranger.address)
    with pytest.raises(NothingThere, match=f"strategyId of {world.stranger.address} gave no answer"):
        VaultReader(
            world.evm, vault=nobody, constitution=world.constitution, oracle=world.oracle,
            quote=world.book.quote, quote_unit=QUOTE_UNIT,
        )  # fmt: skip


def test_an_unlisted_token_is_refused_with_those_there_are() -> None:
    with pytest.raises(KeyError, match=f"lists.*{ETH}"):
        reading().position("0x" + "9" * 40)


def test_a_reading_as_plain_values_is_a_document_and_loses_nothing(world: World, traded: Strategy) -> None:
    found = read(world, traded)
    plain = as_plain(found)
    assert plain["state"] == "ACTIVE"
    assert plain["block"] == {
        "number": found.block.number, "hash": found.block.hash, "timestamp_s": found.block.timestamp_s
    }  # fmt: skip
    assert plain["positions"][1]["round"] == found.positions[1].round.as_plain()
    assert set(plain) == {field.name for field in fields(VaultReading)}
    texts = json.loads(json.dumps(plain), parse_int=str)
    canonical_bytes(texts)  # raises for what has no canonical form


# Through Multicall3 and without


def both_ways(world: World, read_once: Callable[[], Any]) -> tuple[Any, Any]:
    batched = read_once()
    world.evm.set_code(MULTICALL3, b"")
    return batched, read_once()


def test_feeds_answer_the_same_on_a_real_chain_with_multicall_and_without(world: World) -> None:
    feeds = {a.token: world.evm.at("FeedProxy", a.feed) for a in world.book.assets}
    for price in (2001, 2002, 2003):
        world.set_price("ETH", price, pool_follows=False)
    world.market.begin_phase("BTC")
    world.set_price("BTC", 61_000, pool_follows=False)

    def read_once() -> Any:
        reader = ChainlinkReader(world.evm, feeds)
        latest = reader.fetch_latest(list(feeds), now_s=world.now_s(), max_age_s=dict.fromkeys(feeds, 7200))
        return latest, [reader.fetch_since(r, 0) for r in latest.values()]

    batched, alone = both_ways(world, read_once)
    assert batched == alone
    [eth_rounds, btc_rounds] = batched[1]
    assert [r.answer for r in eth_rounds[-3:]] == [2001_00000000, 2002_00000000, 2003_00000000]
    assert btc_rounds[-1].round_id >> 64 == 2
    assert btc_rounds[-2].round_id >> 64 == 1, "history crosses into the first phase"


def test_a_call_that_reverts_is_named_with_multicall_and_without(world: World) -> None:
    good, bad = world.oracle.functions.quote(), world.strategies.functions.manifestOf(b"\x07" * 32)

    def read_once() -> str:
        with pytest.raises(ReadingFailed) as caught:
            fetch_many(world.evm, [good, bad])
        assert isinstance(caught.value, NothingThere)
        return str(caught.value)

    for message in both_ways(world, read_once):
        assert world.strategies.address in message


def test_an_answer_that_is_too_short_is_not_what_the_abi_says(world: World) -> None:
    feed = world.evm.deploy("FaultyFeed", 8, "ETH / USD", sender=world.deployer)
    world.send(feed.functions.setMode(3), world.deployer)  # four words instead of five

    def read_once() -> str:
        with pytest.raises(ReadingFailed, match=r"latestRoundData of .* answered what its ABI does not say") as caught:
            fetch_many(world.evm, [feed.functions.latestRoundData()])
        return str(caught.value)

    batched, alone = both_ways(world, read_once)
    assert batched == alone


def test_nothing_is_asked_for_nothing(world: World) -> None:
    assert fetch_many(None, []) == []
