"""The Chainlink feeds of public networks: where they are, what they should answer, and whether they do.

The data, with the source of each figure, is feeds.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from oracle.chain import ChainReader
from oracle.errors import FeedMismatch, SequencerDown, WrongChain
from oracle.multicall import fetch_many

_DATA = Path(__file__).with_name("feeds.json")
_ROUND = ("uint80 roundId", "int256 answer", "uint256 startedAt", "uint256 updatedAt", "uint80 answeredInRound")


def _view(name: str, inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, Any]:
    def typed(item: str) -> dict[str, str]:
        kind, _, called = item.partition(" ")
        return {"type": kind, "name": called}

    ends = {"inputs": [typed(i) for i in inputs], "outputs": [typed(o) for o in outputs]}
    return {"type": "function", "stateMutability": "view", "name": name, **ends}


# What is read of Chainlink's EACAggregatorProxy, and of the aggregators behind it.
FEED_ABI = [
    _view("description", [], ["string"]),
    _view("decimals", [], ["uint8"]),
    _view("latestRoundData", [], _ROUND),
    _view("getRoundData", ["uint80 roundId"], _ROUND),
    _view("phaseId", [], ["uint16"]),
    _view("phaseAggregators", ["uint16 phase"], ["address"]),
    _view("latestRound", [], ["uint256"]),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """A price feed. `address` is the proxy's."""

    chain_id: int
    address: str
    description: str
    decimals: int
    # Chainlink's promises: the longest time without a round, and the move that brings one. None where no source is.
    heartbeat_s: int | None = None
    deviation_bps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SequencerFeed:
    """Tells whether an L2's sequencer is up. `grace_s`: how long after its return prices are not to be used."""

    chain_id: int
    address: str
    grace_s: int


def load_feeds(chain_id: int) -> tuple[Feed, ...]:
    """The known feeds of a chain. Raises WrongChain where none are known."""
    return tuple(_pick(Feed, chain_id, entry) for entry in _network(chain_id)["feeds"])


def find_feed(chain_id: int, description: str) -> Feed:
    """The feed of that description, such as "ETH / USD". Raises WrongChain, FeedMismatch naming those there are."""
    feeds = {feed.description: feed for feed in load_feeds(chain_id)}
    if description not in feeds:
        raise FeedMismatch(f"no feed {description!r} is known on chain {chain_id}; known are {', '.join(feeds)}")
    return feeds[description]


def find_sequencer(chain_id: int) -> SequencerFeed | None:
    """The sequencer's feed; None on a chain that has no sequencer. Raises WrongChain where no feeds are known."""
    entry = _network(chain_id)["sequencer"]
    return entry and _pick(SequencerFeed, chain_id, entry)


def bind_feed(chain: ChainReader, address: str) -> Any:
    """The feed's contract, for reading."""
    return chain.w3.eth.contract(address=address, abi=FEED_ABI)


def check_feeds(chain: ChainReader, feeds: Sequence[Feed], *, block: int | str = "latest") -> None:
    """Whether each feed is what it should be. Raises WrongChain, FeedMismatch, ReadingFailed."""
    chain_id = chain.w3.eth.chain_id
    for feed in feeds:
        if feed.chain_id != chain_id:
            raise WrongChain(f"feed {feed.description} is of chain {feed.chain_id}, the node is on chain {chain_id}")
    contracts = [bind_feed(chain, feed.address).functions for feed in feeds]
    calls = [call for f in contracts for call in (f.description(), f.decimals())]
    answers = iter(fetch_many(chain, calls, block=block))
    for feed in feeds:
        for what, expected in (("description", feed.description), ("decimals", feed.decimals)):
            if (found := next(answers)) != expected:
                raise FeedMismatch(
                    f"feed {feed.description} at {feed.address}: its {what} should be {expected!r} and is {found!r}"
                )


def check_sequencer(chain: ChainReader, address: str, *, now_s: int, grace_s: int, block: int | str = "latest") -> None:
    """Whether prices of an L2 may be used. Raises SequencerDown as the contracts' PriceOracle does, ReadingFailed.

    https://docs.chain.link/data-feeds/l2-sequencer-feeds: answer 0 is up, 1 is down, and it counts from `startedAt`.
    """
    [latest] = fetch_many(chain, [bind_feed(chain, address).functions.latestRoundData()], block=block)
    if latest.startedAt == 0:
        raise SequencerDown(f"sequencer feed {address} is not initialised: nobody knows whether the sequencer is up")
    if latest.answer != 0:
        raise SequencerDown(f"the sequencer is down since {latest.startedAt}, says {address}")
    if latest.startedAt > now_s:
        raise SequencerDown(f"sequencer feed {address} says that it is up from {latest.startedAt}, which is to come")
    if (up_s := now_s - latest.startedAt) <= grace_s:
        raise SequencerDown(f"the sequencer is up for {up_s} s, says {address}; prices count after {grace_s} s")


@cache
def _networks() -> dict[str, Any]:
    return dict(json.loads(_DATA.read_text(encoding="utf-8"))["networks"])


def _network(chain_id: int) -> dict[str, Any]:
    networks = _networks()
    if str(chain_id) not in networks:
        known = ", ".join(f"{key} ({network['name']})" for key, network in networks.items())
        raise WrongChain(f"no feeds are known on chain {chain_id}; known are those of {known}")
    return dict(networks[str(chain_id)])


def _pick(kind: type[Any], chain_id: int, entry: dict[str, Any]) -> Any:
    """The fields of a dataclass out of an entry that also says where they are from."""
    return kind(chain_id=chain_id, **{key: entry[key] for key in kind.__slots__ if key != "chain_id"})
