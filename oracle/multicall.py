"""Many contract reads in one request, all at the same block.

Multicall3 lies at the same address on the public chains (https://www.multicall3.com); where it does not, the reads are
made one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eth_abi import decode, encode

from oracle.abi import decode_outputs
from oracle.chain import ChainReader
from oracle.errors import ReadingFailed

MULTICALL3 = "0xcA11bde05977b3631167028862bE2a173976CA11"
# aggregate3((address target, bool allowFailure, bytes callData)[]) -> (bool success, bytes returnData)[]
_AGGREGATE3 = bytes.fromhex("82ad56cb")
_has_multicall: dict[int, bool] = {}


def fetch_many(chain: ChainReader, calls: Sequence[Any], *, block: int | str = "latest") -> list[Any]:
    """What each bound contract function returns, in order. Raises ReadingFailed naming the first that failed."""
    if not _is_available(chain):
        return [chain.call(call, block=block) for call in calls]
    packed = [(call.address, True, bytes.fromhex(call._encode_transaction_data()[2:])) for call in calls]
    data = _AGGREGATE3 + encode(["(address,bool,bytes)[]"], [packed])
    answer = chain.call({"to": MULTICALL3, "data": "0x" + data.hex()}, block=block)
    [results] = decode(["(bool,bytes)[]"], answer)
    decoded = []
    for call, (ok, returned) in zip(calls, results, strict=True):
        if not ok or not returned:
            raise ReadingFailed(f"{call.fn_name} of {call.address} gave no answer at block {block}")
        decoded.append(decode_outputs(call.abi["outputs"], returned))
    return decoded


def _is_available(chain: ChainReader) -> bool:
    key = id(chain.w3)
    if key not in _has_multicall:
        _has_multicall[key] = bool(chain.w3.eth.get_code(MULTICALL3))
    return _has_multicall[key]
