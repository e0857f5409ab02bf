"""Why there is no price, or no reading.

OracleError
├── NoPrice             the feed answered something that is not a price
├── StalePrice          it is a price, but too old
├── FeedMismatch        the feed is not the one it should be: other decimals, other description
├── SequencerDown       an L2 whose sequencer is down, or has just come back
├── Disagreement        two sources say different things about one price
├── WrongChain          the endpoint, or the file, is of another chain
├── HistoryDamaged      a downloaded history is not what the feed published
├── ReadingFailed       the node or the contract gave no answer
│   └── NothingThere    the node did, the contract has nothing to say: no such round, a revert, no code
└── GraphError          a Graph endpoint gave no answer that we are willing to use
    ├── GraphUnavailable     no answer, or one that another attempt may better: every endpoint was tried
    ├── GraphRefused         the question, the key or the address is wrong: asking again won't help
    │   └── GraphTooLong     the answer is larger than we take
    ├── GraphBehind          the indexer is behind the chain, or what it knows is too old
    ├── GraphForked          the indexer is on a block that the chain does not have
    └── GraphIndexingFailed  a handler of the subgraph failed: what it says may be wrong
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


class SequencerDown(OracleError):
    """Prices of an L2 are not to be used while its sequencer is down, nor in the grace period afterwards."""


class Disagreement(OracleError):
    """Sources of one price are further apart than allowed; the message names both and the bound."""


class WrongChain(OracleError):
    """What answers is of another chain than what was configured."""


class HistoryDamaged(OracleError):
    """A history on disk, or what was to be added to it, is not what the feed published."""


class GraphError(OracleError):
    """No answer of a Graph endpoint that we are willing to use. Messages name the endpoint, never its key."""


class GraphUnavailable(GraphError):
    """No endpoint answered; another attempt may succeed."""


class GraphRefused(GraphError):
    """The endpoint will never answer this: a malformed question, a wrong key, an unknown subgraph."""


class GraphTooLong(GraphRefused):
    """The answer is larger than we take: ask for fewer rows at once."""


class GraphBehind(GraphError):
    """The indexer is too far behind the chain, or has not reached the wanted block."""


class GraphForked(GraphError):
    """The block that the indexer answered for is not the chain's block of that number."""


class GraphIndexingFailed(GraphError):
    """The subgraph stopped at a failing handler."""
