"""Feeds are data with a source, and nothing is read from one that is not what the data says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_utils import to_checksum_address

from agents.localnet.evm import CHAIN_ID, LocalEvm
from agents.localnet.feeds import SEQUENCER_DOWN, SEQUENCER_UP, deploy_feed, publish
from oracle import feeds as feeds_module
from oracle.errors import FeedMismatch, NothingThere, SequencerDown, WrongChain
from oracle.feeds import Feed, check_feeds, check_sequencer, find_feed, find_sequencer, load_feeds

DATA: dict[str, Any] = json.loads(Path(feeds_module.__file__).with_name("feeds.json").read_text())
MAINNETS = {"ethereum": 1, "polygon": 137, "arbitrum": 42161, "base": 8453, "optimism": 10}
ENTRIES = [
    pytest.param(entry, id=f"{network['name']} {entry.get('description', 'sequencer')}")
    for network in DATA["networks"].values()
    for entry in [*network["feeds"], *([network["sequencer"]] if network["sequencer"] else [])]
]
GRACE_S = 3600


@pytest.fixture
def chain(evm: LocalEvm) -> Iterator[LocalEvm]:
    snapshot = evm.snapshot()
    yield evm
    evm.revert(snapshot)


@pytest.fixture
def feed(chain: LocalEvm) -> Feed:
    owner = chain.accounts[0]
    address = deploy_feed(chain, "ETH / USD", 8, owner=owner, transmitter=owner)
    return Feed(chain_id=CHAIN_ID, address=address, description="ETH / USD", decimals=8)


@pytest.fixture
def uptime(chain: LocalEvm) -> str:
    owner = chain.accounts[0]
    return deploy_feed(chain, "L2 Sequencer Uptime Status Feed", 0, owner=owner, transmitter=owner)


# Refusals


def test_a_chain_without_known_feeds_is_named() -> None:
    for ask in (load_feeds, find_sequencer, lambda chain_id: find_feed(chain_id, "ETH / USD")):
        with pytest.raises(WrongChain, match=r"no feeds are known on chain 56; known are those of 1 \(ethereum\), 137"):
            ask(56)


def test_a_feed_that_is_not_known_is_answered_with_those_that_are() -> None:
    with pytest.raises(FeedMismatch, match="no feed 'ETH/USD' is known on chain 8453; known are ETH / USD, BTC / USD,"):
        find_feed(8453, "ETH/USD")


def test_a_node_of_another_chain_is_refused_before_anything_is_read(chain: LocalEvm) -> None:
    with pytest.raises(WrongChain, match="feed ETH / USD is of chain 1, the node is on chain 31337"):
        check_feeds(chain, load_feeds(1))


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"description": "BTC / USD"}, "feed BTC / USD at .*: its description should be 'BTC / USD' and is 'ETH /"),
        ({"decimals": 18}, "feed ETH / USD at .*: its decimals should be 18 and is 8"),
    ],
)
def test_a_feed_that_answers_something_else_is_refused_by_name(
    chain: LocalEvm, feed: Feed, over: dict[str, Any], says: str
) -> None:
    values = {"chain_id": CHAIN_ID, "address": feed.address, "description": "ETH / USD", "decimals": 8, **over}
    with pytest.raises(FeedMismatch, match=says):
        check_feeds(chain, [feed, Feed(**values)])


def test_an_address_without_a_feed_is_refused(chain: LocalEvm, feed: Feed) -> None:
    nowhere = Feed(chain_id=CHAIN_ID, address="0x" + "11" * 20, description="ETH / USD", decimals=8)
    with pytest.raises(NothingThere, match="description of 0x1111111111111111111111111111111111111111 gave no answer"):
        check_feeds(chain, [feed, nowhere])


def test_prices_of_a_sequencer_that_is_down_are_refused(chain: LocalEvm, uptime: str) -> None:
    publish(chain, uptime, SEQUENCER_DOWN, transmitter=chain.accounts[0], at_s=1000)
    with pytest.raises(SequencerDown, match=f"the sequencer is down since 1000, says {uptime}"):
        check_sequencer(chain, uptime, now_s=10**9, grace_s=GRACE_S)


def test_a_sequencer_feed_that_is_not_initialised_is_no_sequencer_that_is_up(chain: LocalEvm, uptime: str) -> None:
    with pytest.raises(SequencerDown, match="is not initialised"):
        check_sequencer(chain, uptime, now_s=10**9, grace_s=GRACE_S)


@pytest.mark.parametrize(("up_s", "is_refused"), [(0, True), (GRACE_S, True), (GRACE_S + 1, False)])
def test_prices_count_when_the_grace_period_is_over(
    chain: LocalEvm, uptime: str, up_s: int, is_refused: bool
) -> None:
    publish(chain, uptime, SEQUENCER_DOWN, transmitter=chain.accounts[0], at_s=500)
    publish(chain, uptime, SEQUENCER_UP, transmitter=chain.accounts[0], at_s=1000)
    if not is_refused:
        check_sequencer(chain, uptime, now_s=1000 + up_s, grace_s=GRACE_S)
        return
    with pytest.raises(SequencerDown, match=f"is up for {up_s} s, says {uptime}; prices count after 3600 s"):
        check_sequencer(chain, uptime, now_s=1000 + up_s, grace_s=GRACE_S)


def test_a_sequencer_that_is_up_from_a_moment_to_come_is_not_up(chain: LocalEvm, uptime: str) -> None:
    publish(chain, uptime, SEQUENCER_UP, transmitter=chain.accounts[0], at_s=1000)
    with pytest.raises(SequencerDown, match="up from 1000, which is to come"):
        check_sequencer(chain, uptime, now_s=999, grace_s=GRACE_S)


# The data


def test_a_feed_that_is_what_it_should_be_passes(chain: LocalEvm, feed: Feed) -> None:
    check_feeds(chain, [feed])
    check_feeds(chain, [])


@pytest.mark.parametrize("network", list(MAINNETS))
def test_every_network_has_the_feeds_that_are_always_needed(network: str) -> None:
    known = {feed.description for feed in load_feeds(MAINNETS[network])}
    assert {"ETH / USD", "BTC / USD", "USDC / USD", "USDT / USD", "LINK / USD"} <= known
    own = {"polygon": "MATIC / USD", "arbitrum": "ARB / USD", "optimism": "OP / USD"}.get(network, "ETH / USD")
    assert find_feed(MAINNETS[network], own).description == own


@pytest.mark.parametrize(("network", "has_one"), [("ethereum", False), ("polygon", False), ("arbitrum", True),
                                                  ("base", True), ("optimism", True)])  # fmt: skip
def test_rollups_have_a_sequencer_and_a_grace_period(network: str, has_one: bool) -> None:
    found = find_sequencer(MAINNETS[network])
    assert (found is not None) == has_one
    assert found is None or found.grace_s >= 3600


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_address_is_checksummed_and_says_where_it_is_from(entry: dict[str, Any]) -> None:
    assert entry["address"] == to_checksum_address(entry["address"])
    assert entry["address_sources"] and set(entry["address_sources"]) <= set(DATA["sources"])


@pytest.mark.parametrize("entry", [each for each in ENTRIES if "decimals" in each.values[0]])
def test_a_figure_has_a_source_or_is_left_open(entry: dict[str, Any]) -> None:
    for figure, source in (("heartbeat_s", "heartbeat_source"), ("deviation_bps", "deviation_source")):
        assert (entry[figure] is None) == (entry[source] is None)
        assert entry[figure] is None or (entry[figure] > 0 and entry[source] in DATA["sources"])


def test_no_address_is_given_twice_on_a_chain() -> None:
    for chain_id in MAINNETS.values():
        addresses = [feed.address for feed in load_feeds(chain_id)]
        assert len(addresses) == len(set(addresses)) == len({feed.description for feed in load_feeds(chain_id)})
