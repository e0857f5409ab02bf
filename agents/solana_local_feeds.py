"""Accounts of price feeds as Chainlink's and Pyth's programs would write them, for a local chain.

Layouts: `oracle.solana_feeds`, which reads them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from oracle.solana_feeds import PRICE_UPDATE, TRANSMISSIONS


def chainlink_account(rounds: Sequence[tuple[int, int, int]], *, decimals: int, length: int = 1024) -> bytes:
    """A `Transmissions` account whose ring of `length` got those rounds: number from 1 on, unix seconds, answer."""
    ring = bytearray(48 * length)
    for number, at_s, answer in rounds[-length:]:
        at = (number - 1) % length * 48
        struct.pack_into("<QI4x", ring, at, number, at_s)
        ring[at + 16 : at + 32] = answer.to_bytes(16, "little", signed=True)
    header = bytearray(192)
    header[0], header[130] = 2, decimals
    latest = rounds[-1][0] if rounds else 0
    struct.pack_into("<IBII", header, 135, latest, 0, length, latest % length)
    return TRANSMISSIONS + bytes(header) + bytes(ring)


def pyth_account(
    feed_id: bytes, price: int, published_s: int, *, confidence: int = 0, exponent: int = -8, is_full: bool = True
) -> bytes:
    """A `PriceUpdateV2` account with one update; `is_full`: all of its signatures were checked."""
    verification = b"\x01" if is_full else b"\x00\x05"
    numbers = (price, confidence, exponent, published_s, published_s, price, confidence)
    message = feed_id + struct.pack("<qQiqqqQ", *numbers)
    return (PRICE_UPDATE + bytes(32) + verification + message + struct.pack("<Q", 1)).ljust(134, b"\0")
