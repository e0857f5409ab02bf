"""Prices of Chainlink and Pyth on Solana, read from the accounts that their programs own.

The same bytes are read by the program that trades (`contracts/solana/src/oracle.h`), with the same refusals and the
same rounding: a price here is a price there. That there is none is an answer, with the reason; it is no error.

Chainlink: `Transmissions` version 2 of https://github.com/smartcontractkit/chainlink-solana (contracts/programs/store).
An account is a header and a ring of rounds. Pyth: `PriceUpdateV2` of https://github.com/pyth-network/pyth-crosschain
(target_chains/solana).

Prices are dollars x 1e8, rounded down; times unix seconds.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from oracle.chainlink import Round

# Where the programs lie on mainnet and devnet. Sources: docs.chain.link "Solana data feeds", docs.pyth.network
# "contract addresses on Solana".
CHAINLINK_STORE: Final = "HEvSKofvBgfaexv23kMabbYqxasxU3mQ4ibBMEmJWHny"
PYTH_RECEIVER: Final = "rec5EKMGg6MxZYaMdyBfgwp4d5rB9T1VQH5pJv5LtFJ"
PYTH_PUSH_ORACLE: Final = "pythWSnswVUd12oZpeFP8e9CVaEqJg25g1Vtc2biRsT"

TRANSMISSIONS: Final = hashlib.sha256(b"account:Transmissions").digest()[:8]
PRICE_UPDATE: Final = hashlib.sha256(b"account:PriceUpdateV2").digest()[:8]
PRICE_DECIMALS: Final = 8
BPS: Final = 10_000
_HEADER_BYTES, _ROUND_BYTES = 8 + 192, 48
_PYTH_BYTES: Final = 134
_FULLY: Final = 1
# A cluster's clock may lag behind the one that a price was published by.
_AHEAD_S: Final = 60
_U63: Final = 2**63
_U64: Final = 2**64


class FeedKind(IntEnum):
    """Whose account it is, as the program numbers them."""

    CHAINLINK = 1
    PYTH = 2


class Missing(StrEnum):
    """Why there is no price."""

    NO_ACCOUNT = "there is no such account"
    WRONG_OWNER = "the account belongs to another program"
    WRONG_FEED = "the account is of another feed"
    MALFORMED = "the account has another layout, or no round"
    NOT_VERIFIED = "not all signatures of the update were checked"
    NOT_POSITIVE = "the answer is not positive, or has more than 63 bits"
    TOO_UNCERTAIN = "the confidence interval is wider than allowed"
    UNSCALABLE = "the exponent makes no price with 8 decimals of it"
    FROM_THE_FUTURE = "it was published after the chain's time"
    STALE = "it is older than allowed"
    OUT_OF_BOUNDS = "it is outside of the feed's bounds"
    OLDER_THAN_USED = "the vault has used a newer one already"


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Where a price comes from, and when it is good enough: `Feed` of the program.

    `source`: the address of the feed's account, base58; of Pyth's the one that its push oracle keeps.
    """

    kind: FeedKind
    source: str
    max_age_s: int
    max_confidence_bps: int = 100
    # Of Pyth, which says its own exponent, the shard.
    decimals: int = 8
    least_e8: int = 1
    most_e8: int = _U63


@dataclass(frozen=True, slots=True, kw_only=True)
class SolanaPrice:
    """What an account said. `price_e8` is 0 where that is no price, and `missing` says why."""

    price_e8: int = 0
    # As it was published, in the feed's own decimals.
    answer: int = 0
    # Chainlink: the round's number. Pyth: when it was published.
    round_id: int = 0
    published_s: int = 0
    missing: Missing | None = None

    def round_of(self, token: str) -> Round:
        """The same, as every other reader gives it."""
        return Round(token=token, round_id=self.round_id, answer=self.answer, updated_at_s=self.published_s)


def read_price(
    feed: Feed, address: str, owner: str | None, data: bytes, *, now_s: int, used_s: int = 0,
    chainlink: str = CHAINLINK_STORE, pyth: str = PYTH_RECEIVER,
) -> SolanaPrice:  # fmt: skip
    """What an account says of a feed's price now.

    Args:
        address: Of the account, base58.
        owner: The program that owns it, base58; None where there is no account.
        now_s: The chain's time.
        used_s: When the newest price that the vault has used was published.
        chainlink: Chainlink's program there, and `pyth` Pyth's.
    """
    if owner is None:
        return SolanaPrice(missing=Missing.NO_ACCOUNT)
    if address != feed.source:
        return SolanaPrice(missing=Missing.WRONG_FEED)
    if owner != (chainlink if feed.kind is FeedKind.CHAINLINK else pyth):
        return SolanaPrice(missing=Missing.WRONG_OWNER)
    said = _chainlink(feed, data) if feed.kind is FeedKind.CHAINLINK else _pyth(feed, data)
    if isinstance(said, Missing):
        return SolanaPrice(missing=said)
    missing = _why_not(said, feed, now_s, used_s)
    if missing:
        return SolanaPrice(
            answer=said.answer, round_id=said.round_id, published_s=said.published_s, missing=missing
        )
    return said


def _why_not(said: SolanaPrice, feed: Feed, now_s: int, used_s: int) -> Missing | None:
    if said.published_s > now_s + _AHEAD_S:
        return Missing.FROM_THE_FUTURE
    if now_s - said.published_s > feed.max_age_s:
        return Missing.STALE
    if not max(1, feed.least_e8) <= said.price_e8 <= feed.most_e8:
        return Missing.OUT_OF_BOUNDS
    return Missing.OLDER_THAN_USED if said.published_s < used_s else None


def _chainlink(feed: Feed, data: bytes) -> SolanaPrice | Missing:
    header = _header(data)
    if header is None or data[8 + 130] != feed.decimals:
        return Missing.MALFORMED
    latest_round, length, cursor = header
    at_s, answer = _ring(data, (cursor or length) - 1)
    if not 0 < answer < _U63:
        return Missing.NOT_POSITIVE
    price_e8 = _scaled(answer, feed.decimals)
    if price_e8 is None:
        return Missing.UNSCALABLE
    return SolanaPrice(price_e8=price_e8, answer=answer, round_id=latest_round, published_s=at_s)


def _header(data: bytes) -> tuple[int, int, int] | None:
    """Number of the last round, length of the ring and its cursor; None when it is no `Transmissions` account."""
    if len(data) < _HEADER_BYTES or data[:8] != TRANSMISSIONS or data[8] != 2:
        return None
    (latest,), (length, cursor) = struct.unpack_from("<I", data, 8 + 135), struct.unpack_from("<II", data, 8 + 140)
    if length == 0 or cursor >= length or _HEADER_BYTES + length * _ROUND_BYTES > len(data):
        return None
    return latest, length, cursor


def _ring(data: bytes, index: int) -> tuple[int, int]:
    """Time and answer of a round."""
    at = _HEADER_BYTES + index * _ROUND_BYTES
    (at_s,) = struct.unpack_from("<I", data, at + 8)
    return at_s, int.from_bytes(data[at + 16 : at + 32], "little", signed=True)


def chainlink_rounds(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The rounds that an account still has, newest first: number, time, answer in the feed's own decimals.

    Raises ValueError when it is no `Transmissions` account.
    """
    header = _header(data)
    if header is None:
        raise ValueError("no Transmissions account of version 2, or one without rounds")
    latest, length, cursor = header
    for back in range(min(length, latest)):
        at_s, answer = _ring(data, (cursor - 1 - back) % length)
        if at_s == 0:
            return
        yield latest - back, at_s, answer


def pyth_account_of(feed_id: bytes, shard: int = 0) -> str:
    """Where Pyth's push oracle keeps a feed: the address, base58."""
    from solders.pubkey import Pubkey  # not everybody who reads prices has it

    oracle = Pubkey.from_string(PYTH_PUSH_ORACLE)
    return str(Pubkey.find_program_address([shard.to_bytes(2, "little"), feed_id], oracle)[0])


def _pyth(feed: Feed, data: bytes) -> SolanaPrice | Missing:
    if len(data) < _PYTH_BYTES or data[:8] != PRICE_UPDATE:
        return Missing.MALFORMED
    if data[40] != _FULLY:
        return Missing.NOT_VERIFIED
    if pyth_account_of(data[41:73], feed.decimals) != feed.source:
        return Missing.WRONG_FEED
    answer, confidence, exponent, published_s = struct.unpack_from("<qQiq", data, 73)
    if answer <= 0:
        return Missing.NOT_POSITIVE
    if confidence > answer * feed.max_confidence_bps // BPS:
        return Missing.TOO_UNCERTAIN
    price_e8 = None if exponent > 0 else _scaled(answer, -exponent)
    if price_e8 is None:
        return Missing.UNSCALABLE
    return SolanaPrice(price_e8=price_e8, answer=answer, round_id=published_s % _U64, published_s=published_s)


def _scaled(answer: int, decimals: int) -> int | None:
    """With 8 decimals, rounded down; None when it does not fit into what the program has for it."""
    if abs(decimals - PRICE_DECIMALS) > 19:
        return None
    scaled = answer * 10**PRICE_DECIMALS // 10**decimals
    return scaled if scaled < _U64 else None
