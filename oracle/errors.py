"""Why there is no price, or no reading.

OracleError
├── NoPrice           the feed answered something that is not a price
├── StalePrice        it is a price, but too old
├── FeedMismatch      the feed is not the one it should be: other decimals, other description
└── ReadingFailed     the node or the contract gave no answer
    └── NothingThere  the node did, the contract has nothing to say: no such round, a revert, no code
"""

from __future__ import annotations


class OracleError(Exception):
    """No reading; the message names the feed or the contract."""


class NoPrice(OracleError):
    """An answer that is zero or negative, from the future, or of no round."""


class StalePrice(OracleError):
    """A price older than the feed allows."""

    def __init__(self, feed: str, age_s: int, max_age_s: int) -> None:
        super().__init__(f"{feed}: the last round is {age_s} s old, {max_age_s} s are allowed")
        self.feed, self.age_s, self.max_age_s = feed, age_s, max_age_s


class FeedMismatch(OracleError):
    """The feed at this address is not the one that was configured."""


class ReadingFailed(OracleError):
    """A contract did not answer, or not what its ABI says."""


class NothingThere(ReadingFailed):
    """The contract has no such round, reverts, or is not there. Without Multicall3 a silent node looks the same."""
