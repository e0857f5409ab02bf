"""Many contract reads in one request, all at the same block.

Multicall3 lies at the same address on the public chains (https://www.multicall3.com); where it does not, the reads are
made one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eth_abi.exceptions import DecodingError

from oracle.abi import CODEC, decode_outputs
from oracle.chain import ChainReader
from oracle.errors import NothingThere, ReadingFailed

MULTICALL3 = "0xcA11bde05977b3631167028862bE2a173976CA11"
# aggregate3((address target, bool allowFailure, bytes callData)[]) -> (bool success, bytes returnData)[]
_AGGREGATE3 = bytes.fromhex("82ad56cb")


def fetch_many(chain: ChainReader, calls: Sequence[Any], *, block: int | str = "latest") -> list[Any]:
    """What each bound contract function returns, in order.

    Raises NothingThere naming the first call that reverted, ReadingFailed when the node or the ABI is at fault.
    """
    requests = [_request(call) for call in calls]
    returned = _fetch_batch(chain, requests, block)
    if returned is None:
        returned = [_call_alone(chain, to, data, block) for to, data in requests]
    return [_decoded(call, data, block) for call, data in zip(calls, returned, strict=True)]


def try_many(chain: ChainReader, calls: Sequence[Any], *, block: int | str = "latest") -> list[Any]:
    """As `fetch_many`, but None for each call that the contract has nothing to say to.

    Raises ReadingFailed, also where Multicall3 is not: one by one, a revert can't be told from a node that is silent.
    """
    returned = _fetch_batch(chain, [_request(call) for call in calls], block)
    if returned is None:
        raise ReadingFailed(f"there is no Multicall3 at {MULTICALL3} at block {block}: is the node of the right chain?")
    return [_decoded(call, data, block) if data else None for call, data in zip(calls, returned, strict=True)]


def _request(call: Any) -> tuple[str, bytes]:
    return call.address, bytes.fromhex(call._encode_transaction_data()[2:])


def _fetch_batch(chain: ChainReader, requests: Sequence[tuple[str, bytes]], block: int | str) -> list[bytes] | None:
    """What each returned, empty for a revert; None where Multicall3 is not."""
    if not requests:
        return []
    packed = CODEC.encode(["(address,bool,bytes)[]"], [[(to, True, data) for to, data in requests]])
    answer = _call(chain, MULTICALL3, _AGGREGATE3 + packed, block)
    if not answer:  # what a call answers where there is no code
        return None
    [results] = CODEC.decode(["(bool,bytes)[]"], answer)
    return [data if ok else b"" for ok, data in results]


def _call(chain: ChainReader, to: str, data: bytes, block: int | str) -> bytes:
    try:
        return bytes(chain.call({"to": to, "data": "0x" + data.hex()}, block=block))
    except Exception as error:  # each kind of chain has its own
        raise ReadingFailed(f"{to} gave no answer at block {block}: {error}") from error


def _call_alone(chain: ChainReader, to: str, data: bytes, block: int | str) -> bytes:
    try:
        return _call(chain, to, data, block)
    except ReadingFailed as error:
        raise NothingThere(str(error)) from error


def _decoded(call: Any, returned: bytes, block: int | str) -> Any:
    if not returned:
        raise NothingThere(f"{call.fn_name} of {call.address} gave no answer at block {block}")
    try:
        return decode_outputs(call.abi["outputs"], returned)
    except DecodingError as error:
        message = f"{call.fn_name} of {call.address} answered what its ABI does not say at block {block}: {error}"
        raise ReadingFailed(message) from error
