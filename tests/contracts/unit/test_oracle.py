"""PriceOracle: a fresh Chainlink price, or the reason why there is none. It never reverts because of a feed.

Most tests list a token whose feed does what it is told (`Told`). Bounds are exclusive, ages inclusive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from eth_utils import keccak
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web3.contract import Contract

from agents.deployment import ZERO_ADDRESS
from tests.contracts.world import DAY_S, HOUR_S, WAD, World, one, usd

STATUSES = (
    "OK", "NO_FEED", "CALL_FAILED", "INVALID_ANSWER", "FUTURE_DATED", "STALE", "OUT_OF_BOUNDS", "DECIMALS_CHANGED",
    "SEQUENCER_DOWN", "SEQUENCER_GRACE", "QUOTE_UNHEALTHY",
)  # fmt: skip
MODES = ("Answer", "Revert", "BurnGas", "ShortData", "OversizedRoundId", "Empty")
REDUCING, PRICE_MISSING, QUOTE_UNHEALTHY = 1, 16, 256

MAX_AGE_S = HOUR_S
DECIMALS = 8
ANSWER = 5 * 10**8
FLOOR, CEILING = 10**8, 10**10
MAX_PRICE_USD = 10**12
PHASE_1, PHASE_2 = 1 << 64, 2 << 64
ROUND = PHASE_1 | 7


@dataclass(frozen=True, slots=True)
class Told:
    """A listed token, and its feed."""

    token: str
    feed: Contract


def deploy_feed(world: World, *, decimals: int = DECIMALS, **told: Any) -> Contract:
    feed = world.evm.deploy("FaultyFeed", decimals, "TOLD / USD", sender=world.deployer)
    tell(world, feed, **told)
    return feed


def tell(
    world: World,
    feed: Contract,
    *,
    mode: str = "Answer",
    answer: int = ANSWER,
    round_id: int = ROUND,
    age_s: int = 0,
    updated_at_s: int | None = None,
    started_at_s: int | None = None,
) -> None:
    """The feed answers this from now on; `age_s` is exact for what is read before the next block."""
    world.send(feed.functions.setMode(MODES.index(mode)), world.stranger)
    at_s = world.now_s() + 1 - age_s if updated_at_s is None else updated_at_s
    told = (round_id, answer, at_s if started_at_s is None else started_at_s, at_s, round_id)
    world.send(feed.functions.setRound(told), world.stranger)


def list_token(
    world: World, *, decimals: int = DECIMALS, bounds: tuple[int, int] = (FLOOR, CEILING), **told: Any
) -> Told:
    token = world.evm.deploy("MockToken", "Told", "TOLD", 18, sender=world.deployer)
    feed = deploy_feed(world, decimals=decimals, **told)
    world.as_timelock(world.oracle.functions.setFeed(token.address, feed.address, MAX_AGE_S, *bounds))
    return Told(token.address, feed)


@pytest.fixture
def told(world: World) -> Told:
    return list_token(world)


def deploy_oracle(world: World, *, sequencer: str = ZERO_ADDRESS, grace_s: int = HOUR_S) -> Contract:
    """An oracle of its own with the world's feeds."""
    feeds = [feed.as_tuple() for feed in world.genesis.feeds]
    return world.evm.deploy(
        "PriceOracle", world.d.timelock, world.book.quote, feeds, sequencer, grace_s, sender=world.deployer
    )


def read(world: World, token: str, oracle: Contract | None = None) -> Any:
    return world.view((oracle or world.oracle).functions.read(token))


def status_of(world: World, token: str, oracle: Contract | None = None) -> str:
    return STATUSES[read(world, token, oracle).status]


def set_feed(
    world: World, aggregator: str, *, max_age_s: int = MAX_AGE_S, low: int = FLOOR, high: int = CEILING
) -> Any:
    return world.oracle.functions.setFeed(world.token_of("ETH"), aggregator, max_age_s, low, high)


def push(word: int) -> bytes:
    return b"\x7f" + word.to_bytes(32, "big")


def code_answering(words: Sequence[int], *, otherwise: int | None) -> bytes:
    """Byte code: `latestRoundData()` answers these words; everything else answers `otherwise`, or reverts."""
    other = bytes.fromhex("5f5ffd") if otherwise is None else push(otherwise) + bytes.fromhex("5f5260205ff3")
    head = bytes.fromhex("5f3560e01c63") + keccak(text="latestRoundData()")[:4] + bytes.fromhex("1460")
    target = len(head) + 2 + len(other)
    store = b"".join(push(word) + bytes([0x60, 32 * index, 0x52]) for index, word in enumerate(words))
    return head + bytes([target, 0x57]) + other + b"\x5b" + store + bytes([0x60, 32 * len(words), 0x5F, 0xF3])


# Listing a feed


def test_only_the_timelock_lists_and_delists(world: World) -> None:
    feed = deploy_feed(world)
    for caller in (world.stranger, world.deployer, world.guardian):
        with world.reverts("PriceOracleUnauthorized", caller=caller.address):
            world.send(set_feed(world, feed.address), caller)
        with world.reverts("PriceOracleUnauthorized", caller=caller.address):
            world.send(world.oracle.functions.removeFeed(world.token_of("ETH")), caller)


@pytest.mark.parametrize(
    ("low", "high", "max_age_s"),
    [
        (CEILING, CEILING, MAX_AGE_S),
        (CEILING, CEILING - 1, MAX_AGE_S),
        (FLOOR, CEILING, 0),
        (FLOOR, MAX_PRICE_USD * 10**DECIMALS + 1, MAX_AGE_S),
    ],
    ids=["empty range", "inverted range", "no age", "above a trillion dollars"],
)
def test_bounds_that_bound_nothing_are_refused(world: World, low: int, high: int, max_age_s: int) -> None:
    feed = deploy_feed(world)
    with world.reverts("PriceOracleInvalidBounds", minAnswer=low, maxAnswer=high, maxAgeS=max_age_s):
        world.as_timelock(set_feed(world, feed.address, low=low, high=high, max_age_s=max_age_s))


def test_bounds_may_reach_a_trillion_dollars(world: World) -> None:
    feed = deploy_feed(world)
    world.as_timelock(set_feed(world, feed.address, high=MAX_PRICE_USD * 10**DECIMALS))
    assert status_of(world, world.token_of("ETH")) == "OK"


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("CALL_FAILED", {"mode": "Revert"}),
        ("INVALID_ANSWER", {"answer": 0}),
        ("FUTURE_DATED", {"age_s": -DAY_S}),
        ("STALE", {"age_s": MAX_AGE_S + 1}),
        ("OUT_OF_BOUNDS", {"answer": CEILING}),
    ],
)
def test_a_feed_without_a_usable_answer_is_not_listed(world: World, status: str, told: dict[str, Any]) -> None:
    before = world.view(world.oracle.functions.feedOf(world.token_of("ETH")))
    feed = deploy_feed(world, **told)
    with world.reverts(
        "PriceOracleInvalidFeed", token=world.token_of("ETH"), aggregator=feed.address, status=STATUSES.index(status)
    ):
        world.as_timelock(set_feed(world, feed.address))
    assert world.view(world.oracle.functions.feedOf(world.token_of("ETH"))) == before


def test_an_address_without_code_is_not_listed(world: World) -> None:
    with world.reverts("NoReason"):
        world.as_timelock(set_feed(world, world.stranger.address))


def test_a_feed_of_so_many_decimals_that_its_bounds_overflow_is_not_listed(world: World) -> None:
    feed = deploy_feed(world, decimals=80)
    with world.reverts("Panic", code=0x11, meaning="arithmetic overflow"):
        world.as_timelock(set_feed(world, feed.address))


def test_deployment_refuses_what_a_vote_could_not_list(world: World) -> None:
    stale = deploy_feed(world, age_s=MAX_AGE_S + 1)
    listed = [(world.book.quote, stale.address, MAX_AGE_S, FLOOR, CEILING)]
    with world.reverts(
        "PriceOracleInvalidFeed", token=world.book.quote, aggregator=stale.address, status=STATUSES.index("STALE")
    ):
        world.evm.deploy(
            "PriceOracle", world.d.timelock, world.book.quote, listed, ZERO_ADDRESS, 0, sender=world.deployer
        )


def test_a_listed_feed_is_remembered_with_its_decimals_and_phase(world: World) -> None:
    feed = deploy_feed(world, decimals=10, answer=5 * 10**10, round_id=3 << 64 | 9)
    events = world.as_timelock(set_feed(world, feed.address, low=1, high=10**12, max_age_s=77))
    eth_token = world.token_of("ETH")
    assert one(events, "FeedSet") == {
        "token": eth_token, "aggregator": feed.address, "maxAgeS": 77, "minAnswer": 1, "maxAnswer": 10**12,
    }  # fmt: skip
    assert world.view(world.oracle.functions.feedOf(eth_token))._asdict() == {
        "aggregator": feed.address, "maxAgeS": 77, "feedDecimals": 10, "phaseId": 3,
        "minAnswer": 1, "maxAnswer": 10**12,
    }  # fmt: skip
    assert read(world, eth_token).priceWad == 5 * WAD


def test_a_delisted_token_has_no_price(world: World, told: Told) -> None:
    events = world.as_timelock(world.oracle.functions.removeFeed(told.token))
    assert one(events, "FeedRemoved") == {"token": told.token}
    assert read(world, told.token)._asdict() == {
        "status": STATUSES.index("NO_FEED"), "roundId": 0, "answer": 0, "updatedAt": 0, "priceWad": 0,
    }  # fmt: skip
    assert status_of(world, world.token_of("BTC")) == "OK"


def test_a_token_that_was_never_listed_has_no_price(world: World) -> None:
    assert status_of(world, world.d.token) == "NO_FEED"


# Reading one feed: each status, just inside and just outside


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("OK", {"age_s": 0}),
        ("OK", {"age_s": MAX_AGE_S}),
        ("STALE", {"age_s": MAX_AGE_S + 1}),
        ("STALE", {"updated_at_s": 1}),
        ("INVALID_ANSWER", {"updated_at_s": 0}),
        ("FUTURE_DATED", {"age_s": -1}),
        ("FUTURE_DATED", {"updated_at_s": 2**64 - 1}),
        ("FUTURE_DATED", {"updated_at_s": 2**256 - 1}),
        ("INVALID_ANSWER", {"answer": 0}),
        ("INVALID_ANSWER", {"answer": -1}),
        ("INVALID_ANSWER", {"answer": -(2**255)}),
        ("INVALID_ANSWER", {"round_id": 0}),
        ("OK", {"answer": FLOOR + 1}),
        ("OUT_OF_BOUNDS", {"answer": FLOOR}),
        ("OUT_OF_BOUNDS", {"answer": 1}),
        ("OK", {"answer": CEILING - 1}),
        ("OUT_OF_BOUNDS", {"answer": CEILING}),
        ("OUT_OF_BOUNDS", {"answer": 2**255 - 1}),
        ("CALL_FAILED", {"mode": "Revert"}),
        ("CALL_FAILED", {"mode": "BurnGas"}),
        ("CALL_FAILED", {"mode": "ShortData"}),
        ("CALL_FAILED", {"mode": "OversizedRoundId"}),
        ("CALL_FAILED", {"mode": "Empty"}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()),
)
def test_an_answer_is_a_price_or_says_why_not(world: World, told: Told, expected: str, answer: dict[str, Any]) -> None:
    tell(world, told.feed, **answer)
    reading = read(world, told.token)
    assert STATUSES[reading.status] == expected
    assert (reading.priceWad > 0) == (expected == "OK")


def test_a_feed_at_its_own_floor_is_no_price(world: World) -> None:
    """LUNA, May 2022: the aggregator's minimum answer was 0.10 USD, and it kept saying so while the market was at 0.01.

    https://rekt.news/venus-blizz-rekt
    """
    floor = 10**7
    luna = list_token(world, bounds=(floor, 10**11), answer=80 * 10**8)
    tell(world, luna.feed, answer=floor)
    assert status_of(world, luna.token) == "OUT_OF_BOUNDS"
    tell(world, luna.feed, answer=floor + 1)
    assert status_of(world, luna.token) == "OK"


def test_a_reading_without_a_price_still_says_what_the_feed_said(world: World, told: Told) -> None:
    tell(world, told.feed, answer=-3, round_id=PHASE_1 | 9, updated_at_s=12)
    assert read(world, told.token)._asdict() == {
        "status": STATUSES.index("INVALID_ANSWER"), "roundId": PHASE_1 | 9, "answer": -3, "updatedAt": 12,
        "priceWad": 0,
    }  # fmt: skip


def test_a_time_too_large_for_a_reading_is_cut_not_wrapped(world: World, told: Told) -> None:
    tell(world, told.feed, updated_at_s=2**64 + 12)
    reading = read(world, told.token)
    assert (STATUSES[reading.status], reading.updatedAt) == ("FUTURE_DATED", 2**64 - 1)


def test_a_feed_whose_code_is_gone_is_no_price(world: World, told: Told) -> None:
    world.evm.set_code(told.feed.address, b"")
    assert status_of(world, told.token) == "CALL_FAILED"


def test_a_price_says_which_round_it_is_from(world: World) -> None:
    eth_token = world.token_of("ETH")
    round_id = world.market.publish("ETH", world.market.oracle_price("ETH") + 5)
    assert read(world, eth_token)._asdict() == {
        "status": STATUSES.index("OK"),
        "roundId": round_id,
        "answer": 2005 * 10**8,
        "updatedAt": world.now_s(),
        "priceWad": 2005 * WAD,
    }


# Phases of a feed


def test_a_new_aggregator_keeps_pricing_and_anyone_records_its_phase(world: World) -> None:
    eth_token = world.token_of("ETH")
    world.market.begin_phase("ETH")
    assert status_of(world, eth_token) == "INVALID_ANSWER", "no round yet"
    with world.reverts(
        "PriceOracleInvalidFeed",
        token=eth_token,
        aggregator=world.book.asset("ETH").feed,
        status=STATUSES.index("INVALID_ANSWER"),
    ):
        world.send(world.oracle.functions.syncPhase(eth_token), world.stranger)

    world.set_price("ETH", 2100)
    assert read(world, eth_token).priceWad == 2100 * WAD
    assert world.view(world.oracle.functions.feedOf(eth_token)).phaseId == 1
    events = world.send(world.oracle.functions.syncPhase(eth_token), world.stranger)
    assert one(events, "FeedPhaseSynced") == {"token": eth_token, "phaseId": 2}
    assert world.view(world.oracle.functions.feedOf(eth_token)).phaseId == 2
    assert read(world, eth_token).priceWad == 2100 * WAD


def test_recording_a_phase_saves_every_reader_the_question(world: World) -> None:
    eth_token = world.token_of("ETH")

    def asked() -> int:
        return world.w3.eth.estimate_gas(
            {"to": world.oracle.address, "data": world.oracle.functions.read(eth_token)._encode_transaction_data()}
        )

    before = asked()
    world.market.begin_phase("ETH")
    world.set_price("ETH", 2000)
    unsynced = asked()
    world.send(world.oracle.functions.syncPhase(eth_token), world.stranger)
    assert asked() < unsynced
    assert abs(asked() - before) < 500


def test_a_token_without_a_feed_has_no_phase_to_record(world: World) -> None:
    with world.reverts(
        "PriceOracleInvalidFeed", token=world.d.token, aggregator=ZERO_ADDRESS, status=STATUSES.index("NO_FEED")
    ):
        world.send(world.oracle.functions.syncPhase(world.d.token), world.stranger)


def test_decimals_that_change_with_the_phase_are_no_price(world: World, told: Told) -> None:
    world.send(told.feed.functions.setDecimals(18), world.stranger)
    tell(world, told.feed, round_id=PHASE_2 | 1)
    assert status_of(world, told.token) == "DECIMALS_CHANGED"
    with world.reverts(
        "PriceOracleInvalidFeed",
        token=told.token,
        aggregator=told.feed.address,
        status=STATUSES.index("DECIMALS_CHANGED"),
    ):
        world.send(world.oracle.functions.syncPhase(told.token), world.stranger)

    world.send(told.feed.functions.setDecimals(DECIMALS), world.stranger)
    assert status_of(world, told.token) == "OK", "the phase that is recorded was never changed"


def test_within_a_phase_decimals_are_not_asked_again(world: World, told: Told) -> None:
    """They can't change: a Chainlink aggregator's decimals are immutable, and a new aggregator is a new phase."""
    world.send(told.feed.functions.setDecimals(18), world.stranger)
    tell(world, told.feed)
    assert read(world, told.token).priceWad == ANSWER * 10**10


def test_a_vote_takes_a_feed_back_with_its_new_decimals(world: World, told: Told) -> None:
    world.send(told.feed.functions.setDecimals(18), world.stranger)
    tell(world, told.feed, round_id=PHASE_2 | 1, answer=5 * WAD)
    world.as_timelock(world.oracle.functions.setFeed(told.token, told.feed.address, MAX_AGE_S, 1, 10**20))
    assert read(world, told.token).priceWad == 5 * WAD


@pytest.mark.parametrize("decimals", [None, 2**255 + DECIMALS], ids=["reverting", "dirty"])
def test_a_new_phase_that_can_not_tell_its_decimals_is_no_price(world: World, told: Told, decimals: int | None) -> None:
    words = (PHASE_2 | 1, ANSWER, world.now_s(), world.now_s(), PHASE_2 | 1)
    world.evm.set_code(told.feed.address, code_answering(words, otherwise=DECIMALS))
    assert status_of(world, told.token) == "OK"
    world.evm.set_code(told.feed.address, code_answering(words, otherwise=decimals))
    reading = read(world, told.token)
    assert (STATUSES[reading.status], reading.answer, reading.priceWad) == ("DECIMALS_CHANGED", ANSWER, 0)


# The L2 sequencer


@dataclass(frozen=True, slots=True)
class Sequenced:
    """An oracle on a chain with a sequencer, and the sequencer's uptime feed."""

    oracle: Contract
    uptime: Contract


UP, DOWN = 0, 1


@pytest.fixture
def sequenced(world: World) -> Sequenced:
    uptime = deploy_feed(world, decimals=0, answer=UP, age_s=DAY_S)
    return Sequenced(deploy_oracle(world, sequencer=uptime.address), uptime)


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("SEQUENCER_DOWN", {"answer": DOWN, "age_s": DAY_S}),
        ("SEQUENCER_DOWN", {"answer": -1, "age_s": DAY_S}),
        ("SEQUENCER_DOWN", {"answer": UP, "started_at_s": 0}),
        ("SEQUENCER_DOWN", {"answer": UP, "age_s": -1}),
        ("SEQUENCER_DOWN", {"mode": "Revert"}),
        ("SEQUENCER_DOWN", {"mode": "BurnGas"}),
        ("SEQUENCER_DOWN", {"mode": "ShortData"}),
        ("SEQUENCER_DOWN", {"mode": "Empty"}),
        ("SEQUENCER_GRACE", {"answer": UP, "age_s": 0}),
        ("SEQUENCER_GRACE", {"answer": UP, "age_s": HOUR_S}),
        ("OK", {"answer": UP, "age_s": HOUR_S + 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()),
)
def test_after_an_outage_nothing_has_a_price_until_the_grace_has_passed(
    world: World, sequenced: Sequenced, expected: str, answer: dict[str, Any]
) -> None:
    tell(world, sequenced.uptime, **answer)
    tokens = [world.token_of("ETH"), world.token_of("BTC")]
    quote, readings = world.view(sequenced.oracle.functions.readMany(tokens))
    assert {STATUSES[reading.status] for reading in (quote, *readings)} == {expected}
    assert all((reading.priceWad > 0) == (expected == "OK") for reading in (quote, *readings))


def test_a_chain_without_a_sequencer_needs_none(world: World) -> None:
    assert world.view(world.oracle.functions.sequencerFeed()) == ZERO_ADDRESS
    assert status_of(world, world.token_of("ETH")) == "OK"


# The quote token


@pytest.mark.parametrize(
    ("healthy", "dollars"),
    [(True, "0.98"), (False, "0.97999999"), (True, "1.02"), (False, "1.02000001"), (False, "0.5")],
)
def test_a_quote_token_off_its_peg_takes_every_price_away(world: World, healthy: bool, dollars: str) -> None:
    world.set_price("MUSD", dollars)
    quote, readings = world.view(world.oracle.functions.readMany([world.token_of("ETH"), world.token_of("BTC")]))
    expected = "OK" if healthy else "QUOTE_UNHEALTHY"
    assert [STATUSES[reading.status] for reading in (quote, *readings)] == [expected] * 3
    assert all((reading.priceWad > 0) == healthy for reading in (quote, *readings))
    assert quote.answer == int(Decimal(dollars) * 10**8)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda world: world.evm.travel(25 * HOUR_S + 1),
        lambda world: world.as_timelock(world.oracle.functions.removeFeed(world.book.quote)),
    ],
    ids=["stale", "delisted"],
)
def test_without_a_quote_price_no_asset_has_one(world: World, spoil: Callable[[World], Any]) -> None:
    spoil(world)
    for symbol in ("ETH", "BTC"):
        world.set_price(symbol, 2000, pool_follows=False)
    quote, readings = world.view(world.oracle.functions.readMany([world.token_of("ETH"), world.token_of("BTC")]))
    assert STATUSES[quote.status] in ("STALE", "NO_FEED")
    assert [STATUSES[reading.status] for reading in readings] == ["QUOTE_UNHEALTHY"] * 2
    assert [reading.priceWad for reading in (quote, *readings)] == [0] * 3


def test_an_asset_keeps_its_own_reason_when_the_quote_token_has_one_too(world: World, told: Told) -> None:
    world.set_price("MUSD", "0.9")
    tell(world, told.feed, answer=0)
    assert status_of(world, told.token) == "INVALID_ANSWER"


# Arithmetic and the two ways to read


def test_prices_are_in_quote_tokens_not_in_dollars(world: World) -> None:
    world.set_price("MUSD", "0.99")
    assert read(world, world.token_of("ETH")).priceWad == 2000 * WAD * WAD // (99 * WAD // 100)
    assert read(world, world.book.quote).priceWad == 99 * WAD // 100


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_price_is_the_integer_model_s_to_the_last_digit(world: World, data: st.DataObject) -> None:
    snapshot = world.evm.snapshot()
    decimals = data.draw(st.integers(0, 24), label="decimals of the asset's feed")
    quote_decimals = data.draw(st.integers(2, 24), label="decimals of the quote token's feed")
    # Exclusive bounds of a trillion dollars, and of what 128 bits hold.
    most = min(MAX_PRICE_USD * 10**decimals, 2**128 - 1)
    answer = data.draw(st.integers(1, most - 1), label="answer")
    quote_answer = data.draw(
        st.integers(98 * 10 ** (quote_decimals - 2), 102 * 10 ** (quote_decimals - 2)), label="quote answer"
    )
    token = world.token_of("ETH")
    for listed, d, a, high in (
        (token, decimals, answer, most), (world.book.quote, quote_decimals, quote_answer, 2 * 10**quote_decimals),
    ):  # fmt: skip
        feed = deploy_feed(world, decimals=d, answer=a)
        world.as_timelock(world.oracle.functions.setFeed(listed, feed.address, DAY_S, 0, high))

    reading = read(world, token)
    in_usd, quote_in_usd = answer * WAD // 10**decimals, quote_answer * WAD // 10**quote_decimals
    assert STATUSES[reading.status] == "OK"
    assert reading.priceWad == in_usd * WAD // quote_in_usd
    assert read(world, world.book.quote).priceWad == quote_in_usd
    world.evm.revert(snapshot)


def test_reading_many_is_reading_each(world: World, told: Told) -> None:
    stale = list_token(world)
    tell(world, stale.feed, age_s=MAX_AGE_S + 1)
    tokens = [world.token_of("ETH"), told.token, world.d.token, stale.token, world.token_of("BTC"), told.token]
    quote, readings = world.view(world.oracle.functions.readMany(tokens))
    assert readings == [read(world, token) for token in tokens]
    assert quote == read(world, world.book.quote)
    assert [STATUSES[r.status] for r in readings] == ["OK", "OK", "NO_FEED", "STALE", "OK", "OK"]


def test_reading_nothing_still_reads_the_quote_token(world: World) -> None:
    quote, readings = world.view(world.oracle.functions.readMany([]))
    assert (STATUSES[quote.status], quote.priceWad, readings) == ("OK", WAD, [])


# A hostile feed in a vault

# PUSH3 0x03e000, PUSH0, RETURN: about all that 150,000 gas can buy.
RETURN_248_KIB = bytes.fromhex("6203e0005ff3")


def relist(world: World, symbol: str, dollars: int) -> Contract:
    """The asset's price comes from a feed that does what it is told."""
    feed = deploy_feed(world, answer=dollars * 10**8)
    token = world.book.quote if symbol == "MUSD" else world.token_of(symbol)
    world.as_timelock(world.oracle.functions.setFeed(token, feed.address, DAY_S, 10**6, 10**14))
    return feed


def test_one_feed_that_burns_all_gas_only_takes_its_own_price_away(world: World) -> None:
    strategy = world.deploy_strategy(assets=("ETH", "BTC"))
    world.buy(strategy, usd(100_000))
    feed = relist(world, "ETH", 2000)
    world.poke(strategy)
    healthy = world.evm.send(strategy.vault.functions.poke(), world.stranger)["gasUsed"]

    tell(world, feed, mode="BurnGas")
    events = world.poke(strategy)
    changed = one(events, "StateChanged")
    assert (changed["state"], changed["reasons"]) == (REDUCING, PRICE_MISSING)
    burnt = world.evm.send(strategy.vault.functions.poke(), world.stranger)["gasUsed"]
    assert burnt - healthy < 160_000, "one feed costs its allowance and no more"
    events = world.buy(strategy, usd(1000), symbol="BTC")
    assert one(events, "TradeRefused")["reasons"] == PRICE_MISSING


@pytest.mark.parametrize(("misbehave", "share_of_block"), [("burn", 10), ("flood", 2)])
def test_when_all_feeds_misbehave_a_full_vault_is_still_poked_and_recalled(
    world: World, monkeypatch: pytest.MonkeyPatch, misbehave: str, share_of_block: int
) -> None:
    """Eight assets and the quote token: every feed burns its gas allowance, or answers as much as it can buy, which the
    reader has to copy before it can look at it."""
    others = [f"A{index}" for index in range(6)]
    for holder in (world.market, world):  # what is listed here must not outlive this test's chain
        monkeypatch.setattr(holder, "book", world.book)
    for symbol in others:
        world.market.add_asset(symbol, price_usd=Decimal(100), pool_fee=500)
    world.book = world.market.book
    prices = {"ETH": 2000, "BTC": 60_000, "MUSD": 1, **dict.fromkeys(others, 100)}
    feeds = [relist(world, symbol, dollars) for symbol, dollars in prices.items()]
    strategy = world.deploy_strategy(assets=["ETH", "BTC", *others])
    world.buy(strategy, usd(100_000))
    for feed in feeds:
        if misbehave == "burn":
            tell(world, feed, mode="BurnGas")
        else:
            world.evm.set_code(feed.address, RETURN_248_KIB)

    receipt = world.evm.send(strategy.vault.functions.poke(), world.stranger)
    assert world.view(strategy.vault.functions.guard()).reasons == PRICE_MISSING | QUOTE_UNHEALTHY
    assert receipt["gasUsed"] < world.evm.block_gas_limit // share_of_block
    held = world.held(strategy)
    events = world.as_timelock(world.treasury.functions.recall(strategy.id, world.token_of("ETH"), held, 2000 * WAD))
    assert one(events, "CapitalRecalled") == {"strategyId": strategy.id, "token": world.token_of("ETH"), "amount": held}
    assert one(world.as_timelock(world.treasury.functions.recall(strategy.id, world.book.quote, usd(1), 0)), "Recalled")


def test_a_feed_that_answers_far_too_much_is_read_like_any_other(world: World, told: Told) -> None:
    """Its first words are zeros here; nothing reverts."""
    world.evm.set_code(told.feed.address, RETURN_248_KIB)
    assert status_of(world, told.token) == "INVALID_ANSWER"
