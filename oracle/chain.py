"""What reading needs of a chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRef:
    """A block that readings are pinned to. `hash` is 0x-hex."""

    number: int
    hash: str
    timestamp_s: int


class ChainReader(Protocol):
    """`agents.localnet.evm.LocalEvm`, or `agents.chain.RemoteChain` for any node."""

    w3: Any

    def call(self, what: Any, sender: Any = None, *, block: int | str = "latest") -> Any:
        """What a bound contract function returns, structs as named tuples; for a dict with `to` and `data` bytes."""
        ...


def fetch_block(chain: ChainReader, number: int | str = "latest") -> BlockRef:
    """The block of that number. Raises web3's BlockNotFound."""
    block = chain.w3.eth.get_block(number)
    return BlockRef(number=block["number"], hash="0x" + bytes(block["hash"]).hex(), timestamp_s=block["timestamp"])
