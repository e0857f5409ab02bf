"""Chainlink-shaped feeds on a local chain: a proxy that consumers read, and an aggregator behind it for each phase."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, NamedTuple

from agents.localnet.evm import Account, LocalEvm

# Zero is up, one is down: https://docs.chain.link/data-feeds/l2-sequencer-feeds
SEQUENCER_UP, SEQUENCER_DOWN = 0, 1


class Round(NamedTuple):
    """A round as the proxy answers it: `answer` in 10^-decimals, times in unix seconds, ids with the phase in them."""

    round_id: int
    answer: int
    started_at_s: int
    updated_at_s: int
    answered_in_round: int


def to_answer(price: Decimal, decimals: int) -> int:
    """A price as a feed answers it, rounded half to even."""
    return int(price.scaleb(decimals).to_integral_value(ROUND_HALF_EVEN))


def deploy_feed(evm: LocalEvm, description: str, decimals: int, *, owner: Account, transmitter: Account) -> str:
    """Address of the proxy of a new feed, in phase 1 and without rounds."""
    aggregator = evm.deploy("FeedAggregator", decimals, description, transmitter.address, sender=owner)
    return str(evm.deploy("FeedProxy", aggregator.address, owner.address, sender=owner).address)


def begin_phase(evm: LocalEvm, proxy: str, *, owner: Account, transmitter: Account) -> str:
    """Put a new aggregator behind the proxy, as Chainlink does on upgrades; its address. It has no rounds yet."""
    feed = evm.at("FeedProxy", proxy)
    decimals, description = evm.call(feed.functions.decimals()), evm.call(feed.functions.description())
    aggregator = evm.deploy("FeedAggregator", decimals, description, transmitter.address, sender=owner)
    evm.send(feed.functions.proposeAggregator(aggregator.address), owner)
    evm.send(feed.functions.confirmAggregator(aggregator.address), owner)
    return str(aggregator.address)


def publish(evm: LocalEvm, proxy: str, answer: int, *, transmitter: Account, at_s: int | None = None) -> int:
    """Publish a round observed `at_s` (default: at its block's time) and return its id, phase included.

    Raises TransactionReverted when `at_s` is before the last round or in the future.
    """
    feed = evm.at("FeedProxy", proxy)
    aggregator = evm.at("FeedAggregator", evm.call(feed.functions.aggregator()))
    evm.send(aggregator.functions.transmit(answer, at_s or 0), transmitter)
    return int(evm.call(feed.functions.latestRound()))


def fetch_round(evm: LocalEvm, proxy: str, round_id: int | None = None) -> Round:
    """The latest round, or the one with that id (zeros when its phase has no such round)."""
    functions: Any = evm.at("FeedProxy", proxy).functions
    return Round(*evm.call(functions.latestRoundData() if round_id is None else functions.getRoundData(round_id)))


def fetch_price(evm: LocalEvm, proxy: str) -> Decimal:
    """The latest answer as a price, whatever its age and sign."""
    decimals = evm.call(evm.at("FeedProxy", proxy).functions.decimals())
    return Decimal(fetch_round(evm, proxy).answer).scaleb(-decimals)
