"""A price that is read here is the price that the program trades at, and what is none there is none here."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.solana_local_feeds import chainlink_account, pyth_account
from oracle.solana_feeds import (
    CHAINLINK_STORE,
    PYTH_RECEIVER,
    Feed,
    FeedKind,
    Missing,
    SolanaPrice,
    chainlink_rounds,
    pyth_account_of,
    read_price,
)
from tests.solana.world import CHAINLINK, PYTH, World

NOW_S = 1_790_000_000
AT = "4vdnoyQJ2fTLr1tp8DcyoR5TQNQtr6BTBNz6GArXoFYz"
LINK = Feed(kind=FeedKind.CHAINLINK, source=AT, max_age_s=3600, decimals=8, least_e8=10**4, most_e8=10**14)
PYTH_AT = pyth_account_of(bytes(32))
PYTH_FEED = Feed(
    kind=FeedKind.PYTH, source=PYTH_AT, decimals=0, max_age_s=60, max_confidence_bps=50, least_e8=10**4, most_e8=10**14
)
ROUND = [(7, NOW_S - 10, 2_000 * 10**8)]


def link(data: bytes, **how: object) -> SolanaPrice:
    return read_price(LINK, AT, CHAINLINK_STORE, data, **{"now_s": NOW_S, **how})  # type: ignore[arg-type]


def pyth(data: bytes, **how: object) -> SolanaPrice:
    return read_price(PYTH_FEED, PYTH_AT, PYTH_RECEIVER, data, **{"now_s": NOW_S, **how})  # type: ignore[arg-type]


def test_why_chainlink_has_no_price() -> None:
    good = chainlink_account(ROUND, decimals=8)
    assert read_price(LINK, AT, None, b"", now_s=NOW_S).missing is Missing.NO_ACCOUNT
    assert read_price(LINK, AT, PYTH_RECEIVER, good, now_s=NOW_S).missing is Missing.WRONG_OWNER
    assert read_price(LINK, "other", CHAINLINK_STORE, good, now_s=NOW_S).missing is Missing.WRONG_FEED
    assert link(good[: -48 * 1024 + 1]).missing is Missing.MALFORMED
    assert link(b"\0" * 8 + good[8:]).missing is Missing.MALFORMED
    assert link(chainlink_account(ROUND, decimals=9)).missing is Missing.MALFORMED
    assert link(good, now_s=NOW_S - 71).missing is Missing.FROM_THE_FUTURE
    assert link(good, now_s=NOW_S - 70).missing is None
    assert link(good, now_s=NOW_S + 3590).missing is None
    assert link(good, now_s=NOW_S + 3591).missing is Missing.STALE
    assert link(good, used_s=NOW_S - 9).missing is Missing.OLDER_THAN_USED
    assert link(chainlink_account([(7, NOW_S, -5)], decimals=8)).missing is Missing.NOT_POSITIVE
    assert link(chainlink_account([(7, NOW_S, 2**63)], decimals=8)).missing is Missing.NOT_POSITIVE
    assert link(chainlink_account([(7, NOW_S, 10**14 + 1)], decimals=8)).missing is Missing.OUT_OF_BOUNDS
    assert link(chainlink_account([(7, NOW_S, 9_999)], decimals=8)).missing is Missing.OUT_OF_BOUNDS


def test_why_pyth_has_no_price() -> None:
    make = lambda **how: pyth_account(bytes(32), how.pop("price", 2_000 * 10**8), how.pop("at_s", NOW_S), **how)  # noqa: E731
    assert pyth(make()).price_e8 == 2_000 * 10**8
    assert pyth(pyth_account(b"\1" * 32, 2_000 * 10**8, NOW_S)).missing is Missing.WRONG_FEED
    assert pyth(make(is_full=False)).missing is Missing.NOT_VERIFIED
    assert pyth(make(confidence=10 * 10**8)).missing is None
    assert pyth(make(confidence=10 * 10**8 + 1)).missing is Missing.TOO_UNCERTAIN
    assert pyth(make(price=-1)).missing is Missing.NOT_POSITIVE
    assert pyth(make(exponent=1)).missing is Missing.UNSCALABLE
    assert pyth(make(exponent=-28)).missing is Missing.UNSCALABLE
    assert pyth(make(at_s=NOW_S - 61)).missing is Missing.STALE
    assert pyth(make()[:133]).missing is Missing.MALFORMED
    assert pyth(make(price=2_000 * 10**5, exponent=-5)).price_e8 == 2_000 * 10**8
    assert pyth(make(price=2_000 * 10**10 + 99, exponent=-10)).price_e8 == 2_000 * 10**8


def test_where_pyth_keeps_a_feed_is_where_mainnet_has_it() -> None:
    """USDC / USD and SOL / USD, as public code quotes feeds and accounts."""
    usdc = bytes.fromhex("eaa020c61cc479712813461ce153894a96a6c00b21ed0cfc2798d1f9a9e9c94a")
    sol = bytes.fromhex("ef0d8b6fda2ceba41da15d4095d1da392a0d2f8ed0c6c7bc0f4cfac8c280b56d")
    assert pyth_account_of(usdc) == "Dpw1EAVrSB1ibxiDQyTAW6Zip3J4Btk2x4SgApQCeFbX"
    assert pyth_account_of(sol) == "7UVimffxr9ow1uXYxsr4LHAcV58mLzhmwaeKvJ1pjLiE"


def test_the_rounds_that_an_account_still_has_are_told_newest_first() -> None:
    rounds = [(number, NOW_S + number, number * 10**8) for number in range(1, 12)]
    data = chainlink_account(rounds, decimals=8, length=8)
    assert list(chainlink_rounds(data)) == rounds[::-1][:8]
    assert list(chainlink_rounds(chainlink_account(rounds[:3], decimals=8, length=8))) == rounds[2::-1]
    with pytest.raises(ValueError, match="no Transmissions"):
        list(chainlink_rounds(data[:100]))


def test_chainlink_s_own_test_vector_is_read() -> None:
    """Figures as in chainlink-solana's pkg/solana/cache_test.go: an answer of 14 at 1633364819, with 18 decimals."""
    data = bytearray(
        chainlink_account([(11, 1633364817, 12), (12, 1633364818, 13), (13, 1633364819, 14)], decimals=18, length=3)
    )
    assert len(data) == 8 + 192 + 3 * 48 == 344
    feed = Feed(kind=FeedKind.CHAINLINK, source=AT, max_age_s=60, decimals=18, least_e8=1)
    told = read_price(feed, AT, CHAINLINK_STORE, bytes(data), now_s=1633364819)
    assert (told.answer, told.round_id, told.published_s) == (14, 13, 1633364819)
    assert told.missing is Missing.OUT_OF_BOUNDS  # 14e-18 is nothing with 8 decimals


@pytest.fixture(scope="module")
def world() -> World:
    return World.trading()


def what_the_program_says(world: World) -> int:
    """The price that it would trade the base token at; 0 for none."""
    vault = world.state("vault")
    sent = world.trade(2**63, is_buy=False)
    if sent.error == "":  # refused for want of a price
        return 0
    assert sent.error == "InsufficientHoldings", sent.error
    assert vault.base_held < 2**63
    return 1


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_program_and_the_reader_agree_on_any_account(world: World, data: st.DataObject) -> None:
    """Whether there is a price, of accounts that are changed in any byte; and which, when one is used."""
    good = bytearray(chainlink_account([(5, world.now_s - data.draw(st.integers(-70, 3700)), data.draw(
        st.integers(-5, 2**70)))], decimals=8, length=4))  # fmt: skip
    for _ in range(data.draw(st.integers(0, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    raw = bytes(good[: data.draw(st.one_of(st.just(len(good)), st.integers(0, len(good))))])
    owner = data.draw(st.sampled_from([CHAINLINK, PYTH]))
    world.put(world.base_source, raw, owner)
    used_s = world.state("vault").last_base_s
    feed = Feed(
        kind=FeedKind.CHAINLINK,
        source=str(world.base_source),
        max_age_s=3600,
        decimals=8,
        least_e8=10**4,
        most_e8=10**14,
    )
    said = read_price(feed, str(world.base_source), str(owner), raw, now_s=world.now_s, used_s=used_s)
    assert bool(what_the_program_says(world)) == (said.missing is None)
    done = world.call("observe")
    assert done.error == ""
    if said.missing is None:
        assert world.state("vault").last_price_e8 == said.price_e8


@settings(max_examples=100, deadline=None)
@given(
    price=st.integers(-(2**63), 2**63 - 1), exponent=st.integers(-40, 3), confidence=st.integers(0, 2**64 - 1),
    age_s=st.integers(-70, 70), is_full=st.booleans(),
)  # fmt: skip
def test_a_pyth_account_never_breaks_the_reader(
    price: int, exponent: int, confidence: int, age_s: int, is_full: bool
) -> None:
    raw = pyth_account(bytes(32), price, NOW_S - age_s, confidence=confidence, exponent=exponent, is_full=is_full)
    said = pyth(raw)
    assert (said.missing is None) == (said.price_e8 > 0)
