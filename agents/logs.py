"""Events of one contract, from nodes that answer for all blocks and from those that take a few thousand at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eth_utils import to_checksum_address
from requests import HTTPError
from web3.exceptions import Web3RPCError, Web3ValueError

# What is tried first where all at once is refused; halved until the node answers.
FIRST_SPAN = 50_000


def fetch_logs(
    chain: Any, address: str, topics: Sequence[str | None], *, from_block: int | None
) -> list[Mapping[str, Any]]:
    """In the chain's order. With no `from_block` they are looked for backwards, to the first block that has any.

    Raises the node's error when it answers for no span at all.
    """
    latest = chain.w3.eth.block_number
    wanted = {"address": to_checksum_address(address), "topics": list(topics)}
    if from_block is not None:
        return _forwards(chain, wanted, from_block, latest)
    try:
        return list(chain.w3.eth.get_logs({**wanted, "fromBlock": 0, "toBlock": latest}))
    except (Web3RPCError, Web3ValueError, HTTPError):
        return _backwards(chain, wanted, latest)


def _forwards(chain: Any, wanted: Mapping[str, Any], start: int, end: int) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    span = end - start + 1
    while start <= end:
        try:
            found += chain.w3.eth.get_logs({**wanted, "fromBlock": start, "toBlock": min(end, start + span - 1)})
        except (Web3RPCError, Web3ValueError, HTTPError):
            if span <= 1:
                raise
            span = min(FIRST_SPAN, span // 2)
            continue
        start += span
    return found


def _backwards(chain: Any, wanted: Mapping[str, Any], end: int) -> list[Mapping[str, Any]]:
    """Of the last span that has any."""
    span = FIRST_SPAN
    while end >= 0:
        start = max(0, end - span + 1)
        try:
            found = chain.w3.eth.get_logs({**wanted, "fromBlock": start, "toBlock": end})
        except (Web3RPCError, Web3ValueError, HTTPError):
            if span <= 1:
                raise
            span //= 2
            continue
        if found:
            return list(found)
        end = start - 1
    return []
