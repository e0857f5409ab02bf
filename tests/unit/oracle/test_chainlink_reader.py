"""The reader asks in batches, keeps what it has read, and finds its way back through the phases of a feed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle.chainlink import PHASE_SHIFT, ChainlinkReader, Round
from oracle.errors import FeedMismatch, NoPrice, NothingThere, ReadingFailed, StalePrice
from tests.unit.oracle.readings import BTC, ETH, NOW_S, FeedChain

MAX_AGE_S = {ETH: 3600, BTC: 7200}
HOUR_S = 3600


def reader_of(chain: FeedChain) -> ChainlinkReader:
    return ChainlinkReader(chain, {token: chain.feed(token) for token in (ETH, BTC)})


@pytest.fixture(params=[True, False], ids=["multicall", "one by one"])
def chain(request: pytest.FixtureRequest) -> FeedChain:
    return FeedChain(has_multicall=request.param)


def hourly(chain: FeedChain, count: int, *, phase: int = 1, start_s: int = 0) -> list[Round]:
    """That many rounds of ETH, an hour apart, priced by their number."""
    reader_of(chain)
    return [
        chain.publish(ETH, i, phase * 10**6 + i, start_s + HOUR_S * i, phase=phase) for i in range(1, count + 1)
    ]


# The latest rounds


def test_the_latest_rounds_are_the_same_with_multicall_and_without(chain: FeedChain) -> None:
    reader = reader_of(chain)
    eth = chain.publish(ETH, 1, 2000_00000000, NOW_S - 5)
    btc = chain.publish(BTC, 9, 60_000_00000000, NOW_S - 7200)
    assert reader.fetch_latest([ETH, BTC], now_s=NOW_S, max_age_s=MAX_AGE_S) == {ETH: eth, BTC: btc}
    assert chain.requests == (1 if chain.has_multicall else 3)


def test_one_stale_feed_of_several_is_named(chain: FeedChain) -> None:
    reader = reader_of(chain)
    chain.publish(ETH, 1, 2000_00000000, NOW_S - 5)
    chain.publish(BTC, 1, 60_000_00000000, NOW_S - 7201)
    with pytest.raises(StalePrice, match=f"{BTC}: the last round is 7201 s old"):
        reader.fetch_latest([ETH, BTC], now_s=NOW_S, max_age_s=MAX_AGE_S)


def test_a_feed_that_has_published_nothing_has_no_price(chain: FeedChain) -> None:
    with pytest.raises(NoPrice, match=f"{ETH}: no round has been published"):
        reader_of(chain).fetch_latest([ETH], now_s=NOW_S, max_age_s=MAX_AGE_S)


def test_a_node_that_is_down_is_not_taken_for_a_missing_price(chain: FeedChain) -> None:
    reader = reader_of(chain)
    chain.is_down = True
    with pytest.raises(ReadingFailed, match="connection refused"):
        reader.fetch_latest([ETH], now_s=NOW_S, max_age_s=MAX_AGE_S)


# What a feed is


def test_a_feed_with_other_decimals_than_configured_does_not_match(chain: FeedChain) -> None:
    reader = reader_of(chain)
    reader.check({ETH: 8, BTC: 8})
    with pytest.raises(FeedMismatch, match=f"feed of {BTC} has 8 decimals, configured are 18"):
        reader.check({ETH: 8, BTC: 18})


def test_a_token_without_a_feed_does_not_match(chain: FeedChain) -> None:
    reader = ChainlinkReader(chain, {ETH: chain.feed(ETH)})
    with pytest.raises(FeedMismatch, match=f"no feed is configured for {BTC}"):
        reader.fetch_latest([BTC], now_s=NOW_S, max_age_s=MAX_AGE_S)
    with pytest.raises(FeedMismatch, match=f"no feed is configured for {BTC}"):
        reader.fetch_rounds(BTC, [1])


# Rounds by id


def test_rounds_are_read_by_id_in_the_order_asked_for(chain: FeedChain) -> None:
    first, second, third = hourly(chain, 3)
    ids = [r.round_id for r in (third, first, second)]
    assert reader_of(chain).fetch_rounds(ETH, ids) == (third, first, second)


@pytest.mark.parametrize("reverts", [False, True], ids=["zeros", "revert"])
def test_a_round_that_does_not_exist_is_refused_by_name(chain: FeedChain, reverts: bool) -> None:
    [only] = hourly(chain, 1)
    chain.reverting_phases = {1} if reverts else set()
    with pytest.raises(NothingThere):
        reader_of(chain).fetch_rounds(ETH, [only.round_id, only.round_id + 1])


def test_more_rounds_than_one_batch_are_read_in_several(chain: FeedChain) -> None:
    rounds = hourly(chain, 401)
    assert reader_of(chain).fetch_rounds(ETH, [r.round_id for r in rounds]) == tuple(rounds)
    if chain.has_multicall:
        assert chain.requests == 3


# History


def test_history_reaches_back_to_the_last_round_before_the_moment_asked_for(chain: FeedChain) -> None:
    rounds = hourly(chain, 10)
    reader = reader_of(chain)
    assert reader.fetch_since(rounds[-1], 5 * HOUR_S + 1) == tuple(rounds[4:])
    assert reader.fetch_since(rounds[-1], 5 * HOUR_S) == tuple(rounds[3:]), "a round of that very second is not before"
    assert reader.fetch_since(rounds[-1], 10 * HOUR_S + 1) == (rounds[-1],)
    assert reader.fetch_since(rounds[-1], 0) == tuple(rounds), "the feed does not reach back further"
    assert reader.fetch_since(rounds[6], 6 * HOUR_S) == tuple(rounds[4:7]), "a decision of earlier knows no later round"


def test_a_second_call_fetches_only_what_is_new(chain: FeedChain) -> None:
    rounds = hourly(chain, 220)
    reader = reader_of(chain)
    reader.fetch_since(rounds[-1], 50 * HOUR_S)
    assert len(chain.asked) == len(set(chain.asked)), "no round is asked for twice"
    chain.asked.clear()
    reader.fetch_since(rounds[-1], 50 * HOUR_S)
    assert chain.asked == []
    newer = [chain.publish(ETH, i, i, HOUR_S * i) for i in range(221, 224)]
    history = reader.fetch_since(newer[-1], 50 * HOUR_S)
    assert history == (*rounds[48:], *newer)
    assert chain.asked == [r.round_id for r in newer[:-1]], "the latest is known, the rest is kept"


def test_each_token_has_its_own_history(chain: FeedChain) -> None:
    eth = hourly(chain, 3)
    btc = [chain.publish(BTC, i, 60_000 + i, HOUR_S * i) for i in range(1, 4)]
    reader = reader_of(chain)
    assert reader.fetch_since(eth[-1], 0) == tuple(eth)
    assert reader.fetch_since(btc[-1], 0) == tuple(btc)


@pytest.mark.parametrize("reverts", [False, True], ids=["zeros", "revert"])
@pytest.mark.parametrize("before", [1, 2, 3, 8, 9, 210])
def test_history_crosses_into_earlier_phases(chain: FeedChain, before: int, reverts: bool) -> None:
    chain.reverting_phases = {1, 2, 3} if reverts else set()
    old = hourly(chain, before)
    newer = hourly(chain, 4, phase=4, start_s=HOUR_S * before)  # phases 2 and 3 never published
    reader = reader_of(chain)
    assert reader.fetch_since(newer[-1], 0) == (*old, *newer)
    chain.asked.clear()
    assert reader.fetch_since(newer[-1], 0) == (*old, *newer)
    assert chain.asked == [], "where a phase ends is kept too"


@pytest.mark.parametrize("left_out", [{1}, {8}, {16}, {15, 16, 17}, {4, 8, 12, 16, 19}])
def test_numbers_that_were_left_out_do_not_end_a_phase(chain: FeedChain, left_out: set[int]) -> None:
    """Among them those where its end is searched for first, the powers of two."""
    old = hourly(chain, 20)
    newer = hourly(chain, 2, phase=2, start_s=20 * HOUR_S)
    for number in left_out:
        del chain.rounds[ETH][old[number - 1].round_id]
    expected = [r for number, r in enumerate(old, start=1) if number not in left_out]
    assert reader_of(chain).fetch_since(newer[-1], 0) == (*expected, *newer)


def test_a_number_within_a_phase_that_reverts_is_refused_as_a_silent_node_would_be(chain: FeedChain) -> None:
    old = hourly(chain, 20)
    newer = hourly(chain, 2, phase=2, start_s=20 * HOUR_S)
    del chain.rounds[ETH][old[7].round_id]
    chain.reverting_phases = {1}
    with pytest.raises(NothingThere):
        reader_of(chain).fetch_since(newer[-1], 0)


def test_where_two_phases_overlap_the_newer_counts_from_its_first_round_on(chain: FeedChain) -> None:
    old = hourly(chain, 10)
    newer = hourly(chain, 3, phase=2, start_s=6 * HOUR_S + 60)  # begins between the 7th and the 8th
    history = reader_of(chain).fetch_since(newer[-1], 0)
    assert history == (*old[:7], *newer)
    times = [r.updated_at_s for r in history]
    assert times == sorted(times)


def test_what_a_replaced_aggregator_publishes_later_changes_no_history(chain: FeedChain) -> None:
    old = hourly(chain, 10)
    newer = hourly(chain, 5, phase=2, start_s=10 * HOUR_S)
    decided_on = reader_of(chain).fetch_since(newer[-1], 0)
    for i in range(11, 30):
        chain.publish(ETH, i, 1, HOUR_S * i, phase=1)
    assert reader_of(chain).fetch_since(newer[-1], 0) == decided_on == (*old, *newer)


def test_a_node_that_fails_while_looking_for_the_end_of_a_phase_is_not_the_end_of_a_phase() -> None:
    chain = FeedChain()
    old = hourly(chain, 10)
    newer = hourly(chain, 1, phase=2, start_s=10 * HOUR_S)
    reader = reader_of(chain)
    chain.is_down = True
    with pytest.raises(ReadingFailed, match="connection refused"):
        reader.fetch_since(newer[-1], 0)
    chain.is_down = False
    assert reader.fetch_since(newer[-1], 0) == (*old, *newer)


@settings(max_examples=30, deadline=None)
@given(phases=st.lists(st.integers(0, 9), min_size=1, max_size=4), since=st.integers(0, 40), asked=st.data())
def test_history_is_what_was_published_whatever_is_kept_already(
    phases: list[int], since: int, asked: st.DataObject
) -> None:
    chain = FeedChain()
    everything: list[Round] = []
    for phase, count in enumerate(phases, start=1):
        everything += hourly(chain, count, phase=phase, start_s=HOUR_S * len(everything))
    if not everything:
        return
    reader = reader_of(chain)
    for end in sorted(asked.draw(st.sets(st.integers(1, len(everything)), max_size=3)) | {len(everything)}):
        known = everything[:end]
        earlier = [i for i, r in enumerate(known) if r.updated_at_s < HOUR_S * since]
        expected = known[earlier[-1] if earlier else 0 :]
        assert reader.fetch_since(known[-1], HOUR_S * since) == tuple(expected)


def test_ids_carry_the_phase_above_the_aggregators_own_number() -> None:
    chain = FeedChain()
    reader_of(chain)
    assert chain.publish(ETH, 3, 1, 1, phase=2).round_id == (2 << PHASE_SHIFT) + 3
