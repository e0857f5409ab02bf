"""Feeds read per second: in one request, against one request each as web3 makes it, on the same local chain."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from web3 import HTTPProvider, Web3

from agents.chain import RemoteChain
from agents.localnet.evm import start_evm
from benchmarks.oracle.history import replay
from oracle.chainlink import ChainlinkReader
from oracle.feeds import bind_feed

FEEDS, REPEATS = 30, 15
NOW_S = 1_700_000_000


def measure() -> dict[str, float]:
    """Medians, in feeds per second, and how many times as many the batch reads."""
    with start_evm("anvil") as evm:
        made = [replay(evm, f"F{n} / USD", [[(100 + n, NOW_S)]]) for n in range(FEEDS)]
        # Both through the same provider of web3's.
        chain = RemoteChain(Web3(HTTPProvider(str(evm.url))))
        bound = {feed.description: bind_feed(chain, feed.address) for feed in made}
        reader, ages = ChainlinkReader(chain, bound), dict.fromkeys(bound, 3600)

        def batched() -> list[int]:
            return [r.answer for r in reader.fetch_latest(list(bound), now_s=NOW_S, max_age_s=ages).values()]

        def one_by_one() -> list[int]:
            return [contract.functions.latestRoundData().call()[1] for contract in bound.values()]

        assert batched() == one_by_one() == [100 + n for n in range(FEEDS)]
        batch_s, single_s = _median_s(batched), _median_s(one_by_one)
    return {
        "feeds": FEEDS,
        "batched_feeds_per_s": FEEDS / batch_s,
        "web3_one_by_one_feeds_per_s": FEEDS / single_s,
        "batched_ratio": single_s / batch_s,
    }


def _median_s(what: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        what()
        times.append(time.perf_counter() - started)
    return statistics.median(times)
