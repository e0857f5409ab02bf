"""Rounds per second of a history's download, from feeds that real rounds are replayed to."""

from __future__ import annotations

import csv
import gzip
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from eth_utils import keccak
from web3 import HTTPProvider, Web3

from agents.chain import RemoteChain
from agents.contracts import load_artifact
from agents.localnet.evm import CHAIN_ID, Account, LocalEvm, start_evm
from agents.localnet.feeds import begin_phase, deploy_feed
from oracle.feeds import Feed
from oracle.history import PublishedRound, download_history, load_history
from oracle.multicall import MULTICALL3

# What one transaction publishes: about 30,000 gas each.
_IN_ONE_TRANSACTION = 400
# FeedAggregator's mapping of rounds.
_ROUNDS_SLOT = 2


def measure(rounds: Sequence[PublishedRound]) -> dict[str, float]:
    """Rounds per second downloaded, and published again to be so; each is compared with what was to be downloaded."""
    with start_evm("anvil") as evm, tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        feed = replay(evm, "ETH / USD", as_phases(rounds))
        published_s = time.perf_counter() - started
        chain, path = RemoteChain(Web3(HTTPProvider(str(evm.url)))), Path(folder) / "history.parquet"
        started = time.perf_counter()
        found = download_history(chain, feed, path).rounds
        downloaded_s = time.perf_counter() - started
        if found != tuple(rounds) or load_history(path).rounds != found:
            raise AssertionError("the history is not what was published")
        return {
            "rounds": len(found),
            "downloaded_rounds_per_s": len(found) / downloaded_s,
            "published_rounds_per_s": len(found) / published_s,
            "bytes_per_round": path.stat().st_size / len(found),
        }


def make_rounds(count: int) -> list[PublishedRound]:
    """For who has no real ones: an hour apart, in phase 1."""
    return [
        PublishedRound(
            round_id=(1 << 64) + n, answer=2000_00000000 + n, started_at_s=3600 * n, updated_at_s=3600 * n
        )
        for n in range(1, count + 1)
    ]


def replay(evm: LocalEvm, description: str, phases: Sequence[Sequence[tuple[int, int] | None]]) -> Feed:
    """A feed with 8 decimals and these phases, each with these rounds: answer and time. None is a number left out.

    Multicall3 is the transmitter, so that hundreds are published in one transaction. Times rise within a phase.
    """
    evm.set_code(MULTICALL3, load_artifact("LocalMulticall").deployed_bytecode)
    owner, transmitter = evm.accounts[0], Account(MULTICALL3, evm.accounts[0].key)
    address = deploy_feed(evm, description, 8, owner=owner, transmitter=transmitter)
    for number, rounds in enumerate(phases):
        if number:
            begin_phase(evm, address, owner=owner, transmitter=transmitter)
        publish_many(evm, address, rounds)
    return Feed(chain_id=CHAIN_ID, address=address, description=description, decimals=8)


def publish_many(evm: LocalEvm, address: str, rounds: Sequence[tuple[int, int] | None]) -> None:
    """Rounds of the current phase of a feed that was made by `replay`."""
    aggregator = evm.at("FeedAggregator", evm.call(evm.at("FeedProxy", address).functions.aggregator()))
    first = evm.call(aggregator.functions.latestRound()) + 1
    filled: list[tuple[int, int]] = []
    for each in rounds:
        filled.append(each or (1, filled[-1][1]))
    calls = [(aggregator.address, False, aggregator.encode_abi("transmit", args=list(each))) for each in filled]
    multicall = evm.at("LocalMulticall", MULTICALL3).functions
    for start in range(0, len(calls), _IN_ONE_TRANSACTION):
        evm.send(multicall.aggregate3(calls[start : start + _IN_ONE_TRANSACTION]), evm.accounts[0])
    for number, each in enumerate(rounds, start=first):
        if each is None:
            slot = keccak(number.to_bytes(32, "big") + _ROUNDS_SLOT.to_bytes(32, "big"))
            where = [aggregator.address, "0x" + slot.hex(), "0x" + "00" * 32]
            evm.w3.provider.make_request("anvil_setStorageAt", where)  # type: ignore[arg-type]


def read_real_rounds(folder: Path) -> list[PublishedRound]:
    """The rounds of Ethereum's ETH / USD feed in the folder of real data."""
    [path] = folder.glob("chainlink/ethereum_ETH-USD_*.csv.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [
            PublishedRound(
                round_id=int(row["roundId"]),
                answer=int(row["answer"]),
                started_at_s=int(row["startedAt"]),
                updated_at_s=int(row["updatedAt"]),
            )
            for row in csv.DictReader(file)
        ]


def as_phases(rounds: Sequence[PublishedRound]) -> list[list[tuple[int, int] | None]]:
    """For `replay`, so that the feed's rounds get these ids: rounds of one phase, the first its number 1."""
    [phase] = {round_.round_id >> 64 for round_ in rounds}
    by_number = {round_.round_id & (2**64 - 1): (round_.answer, round_.updated_at_s) for round_ in rounds}
    return [[]] * (phase - 1) + [[by_number.get(number) for number in range(1, max(by_number) + 1)]]
