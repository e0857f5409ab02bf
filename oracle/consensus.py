"""Do the sources of one price agree? Chainlink, a pool's present price and its mean, compared at one block.

Each can be wrong alone: a feed that is late or captured, a pool that somebody has just pushed, a mean that lags behind
a fall. What they say is compared exactly, as fractions; a source that has no answer is named with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from itertools import combinations
from statistics import median
from typing import Any, Protocol

from oracle.chain import BlockRef
from oracle.chainlink import ChainlinkReader
from oracle.errors import Disagreement, FeedMismatch, NoPrice, NothingThere, StalePrice
from oracle.pool_state import PoolReader
from oracle.vault_state import WAD, VaultReading

BPS = 10_000
CHAINLINK, SPOT, TWAP = "chainlink", "pool spot", "pool twap"
# What a chain says when a source has no price; a node that does not answer is no such reason.
_NO_ANSWER = (NothingThere, NoPrice, StalePrice, FeedMismatch)
# Digits of a price as text: for reading, what is compared is exact.
_TEXT = Context(prec=18, rounding=ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePrice:
    """What one source says. `price`: whole quote tokens for one whole token, exactly."""

    source: str
    price: Fraction
    # Of the oldest thing that the price is made of: a round's age, a mean's window.
    age_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingPrice:
    """A source without an answer, and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusRules:
    """How far apart sources may be. The defaults fit pools that are traded all day; a mean lags in a fast market."""

    # Of the lower price.
    bound_bps: int = 500
    # How many sources must have answered.
    min_sources: int = 3
    twap_window_s: int = 1800

    def __post_init__(self) -> None:
        if self.bound_bps < 0 or self.min_sources < 1 or not 1 <= self.twap_window_s < 1 << 32:
            raise ValueError(f"{self}: a bound is 0 or more, min_sources at least 1, a window 1 second to 2^32 - 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Consensus:
    """What was compared, and the outcome: `objection` is empty when the sources agree."""

    asset: str
    block: BlockRef
    rules: ConsensusRules
    prices: tuple[SourcePrice, ...]
    missing: tuple[MissingPrice, ...]
    # The largest difference between two sources, rounded up; 0 when there are fewer than two.
    widest_bps: int
    objection: str

    def as_plain(self) -> dict[str, Any]:
        """JSON values; prices as decimal text of 18 digits."""
        return {
            "asset": self.asset,
            "block": self.block.number,
            "rules": {
                "bound_bps": self.rules.bound_bps,
                "min_sources": self.rules.min_sources,
                "twap_window_s": self.rules.twap_window_s,
            },
            "prices": [{"source": p.source, "price": as_text(p.price), "age_s": p.age_s} for p in self.prices],
            "missing": [{"source": m.source, "reason": m.reason} for m in self.missing],
            "widest_bps": self.widest_bps,
            "objection": self.objection,
        }


def compare(
    asset: str, block: BlockRef, readings: Sequence[SourcePrice | MissingPrice], rules: ConsensusRules
) -> Consensus:
    """Every source against every other. Several prices of one source count once, as their median: the middle one, or
    the mean of the two middle ones."""
    prices = tuple(_medians([r for r in readings if isinstance(r, SourcePrice)]))
    missing = tuple(r for r in readings if isinstance(r, MissingPrice))
    objection, widest = "", 0
    if nonsense := [p for p in prices if p.price <= 0]:
        objection = f"{nonsense[0].source} says {as_text(nonsense[0].price)}, which is no price"
    elif len(prices) < rules.min_sources:
        absent = "; ".join(f"{m.source}: {m.reason}" for m in missing) or "no other was asked"
        objection = f"{len(prices)} sources have a price, {rules.min_sources} are needed ({absent})"
    elif pairs := list(combinations(prices, 2)):
        one, other = max(pairs, key=lambda pair: _apart(*pair))
        widest = -(-_apart(one, other) // 1)
        if _apart(one, other) > rules.bound_bps:
            objection = (
                f"{one.source} says {as_text(one.price)}, {other.source} {as_text(other.price)}: "
                f"{widest} bps apart, {rules.bound_bps} are allowed"
            )
    return Consensus(
        asset=asset, block=block, rules=rules, prices=prices, missing=missing, widest_bps=widest, objection=objection
    )


def agree(
    asset: str, block: BlockRef, readings: Sequence[SourcePrice | MissingPrice], rules: ConsensusRules
) -> Consensus:
    """As `compare`, for who can't go on without a price. Raises Disagreement with the objection."""
    found = compare(asset, block, readings, rules)
    if found.objection:
        raise Disagreement(f"{asset} at block {block.number}: {found.objection}")
    return found


def as_text(price: Fraction) -> str:
    """A price to 18 digits, the same on every machine."""
    return f"{_TEXT.divide(Decimal(price.numerator), Decimal(price.denominator)).normalize(_TEXT):f}"


def _apart(one: SourcePrice, other: SourcePrice) -> Fraction:
    """Basis points of the lower price."""
    low, high = sorted((one.price, other.price))
    return (high - low) * BPS / low


def _medians(prices: Sequence[SourcePrice]) -> list[SourcePrice]:
    """One for each source, in the order in which they first occur; as old as the oldest."""
    sources: dict[str, list[SourcePrice]] = {}
    for price in prices:
        sources.setdefault(price.source, []).append(price)
    return [
        SourcePrice(source=source, price=median(p.price for p in found), age_s=max(p.age_s for p in found))
        for source, found in sources.items()
    ]


class ConsensusSource(Protocol):
    """What a cycle and an audit need of `ConsensusReader`."""

    def fetch(self, vault: VaultReading, asset: str, rules: ConsensusRules) -> Consensus: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherFeeds:
    """Further USD feeds of the same tokens, beside those that the protocol's oracle reads; both dicts by token."""

    rounds: ChainlinkReader
    decimals: Mapping[str, int]
    max_age_s: Mapping[str, int]

    def fetch(self, vault: VaultReading, asset: str) -> tuple[Fraction, int]:
        """The price in quote and the age of its older round. Raises one of `_NO_ANSWER`, or ReadingFailed."""
        block, quote = vault.block, vault.quote_round.token
        found = self.rounds.fetch_latest(
            [asset, quote], now_s=block.timestamp_s, max_age_s=self.max_age_s, block=block.number
        )
        usd = {token: Fraction(r.answer, 10 ** self.decimals[token]) for token, r in found.items()}
        return usd[asset] / usd[quote], block.timestamp_s - min(r.updated_at_s for r in found.values())


class ConsensusReader:
    """Compares the price that a vault trades at with its asset's pool. `pools`: of asset and quote, by asset."""

    def __init__(self, pools: Mapping[str, PoolReader], *, feeds: Sequence[OtherFeeds] = ()) -> None:
        self._pools, self._feeds = dict(pools), tuple(feeds)

    def fetch(self, vault: VaultReading, asset: str, rules: ConsensusRules) -> Consensus:
        """Everything as of the vault's block. Raises ReadingFailed when the node does not answer."""
        block = vault.block
        units = {"base_decimals": _digits(vault.position(asset).unit), "quote_decimals": _digits(vault.quote_unit)}

        def spot() -> tuple[Fraction, int]:
            return Fraction(self._pool(asset).fetch(block).price(asset, **units)), 0

        def twap() -> tuple[Fraction, int]:
            mean = self._pool(asset).fetch_twap(block, rules.twap_window_s)
            return Fraction(mean.price(asset, **units)), mean.window_s

        readings = [
            _read(CHAINLINK, lambda: _vault_price(vault, asset)),
            *(_read(CHAINLINK, lambda f=feed: f.fetch(vault, asset)) for feed in self._feeds),  # type: ignore[misc]
            _read(TWAP, twap),
            _read(SPOT, spot),
        ]
        return compare(asset, block, readings, rules)

    def _pool(self, asset: str) -> PoolReader:
        try:
            return self._pools[asset]
        except KeyError:
            raise NothingThere(f"no pool is configured for {asset}") from None


def _read(source: str, fetch: Callable[[], tuple[Fraction, int]]) -> SourcePrice | MissingPrice:
    try:
        price, age_s = fetch()
    except _NO_ANSWER as error:
        return MissingPrice(source=source, reason=str(error))
    return SourcePrice(source=source, price=price, age_s=age_s)


def _vault_price(vault: VaultReading, asset: str) -> tuple[Fraction, int]:
    position = vault.position(asset)
    if position.price_wad == 0:
        raise NoPrice(f"{asset} has no fresh price at block {vault.block.number}")
    oldest_s = min(position.round.updated_at_s, vault.quote_round.updated_at_s)
    return Fraction(position.price_wad, WAD), vault.block.timestamp_s - oldest_s


def _digits(unit: int) -> int:
    return len(str(unit)) - 1
