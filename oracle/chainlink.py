"""Chainlink rounds: parsed, aged, and read again by id years later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from oracle.chain import ChainReader
from oracle.errors import FeedMismatch, NoPrice, NothingThere, StalePrice
from oracle.multicall import fetch_many

# A proxy's round id is (phase << 64) | the aggregator's own round id.
PHASE_SHIFT = 64
_BATCH = 200
# A phase has ended where so many numbers follow each other without a round. An aggregator may leave out single ones.
LONGEST_HOLE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One published round. `answer` is in the feed's own decimals; `token` is what it prices."""

    token: str
    round_id: int
    answer: int
    updated_at_s: int

    def as_plain(self) -> dict[str, Any]:
        return asdict(self)


def parse_round(token: str, round_id: int, answer: int, updated_at_s: int, *, now_s: int, max_age_s: int) -> Round:
    """A round that we are willing to decide on. Raises NoPrice or StalePrice; `now_s` and `max_age_s` in seconds."""
    if round_id <= 0 or updated_at_s <= 0:
        raise NoPrice(f"{token}: no round has been published")
    if answer <= 0:
        raise NoPrice(f"{token}: the answer of round {round_id} is {answer}")
    if updated_at_s > now_s:
        raise NoPrice(f"{token}: round {round_id} is {updated_at_s - now_s} s in the future")
    if (age_s := now_s - updated_at_s) > max_age_s:
        raise StalePrice(token, age_s, max_age_s)
    return Round(token=token, round_id=round_id, answer=answer, updated_at_s=updated_at_s)


def price_of(round_: Round, decimals: int) -> Decimal:
    """The answer in whole units, exactly."""
    return Decimal(round_.answer).scaleb(-decimals)


def find_last_number(has_any: Callable[[Sequence[int]], bool]) -> int:
    """The aggregator's own number of a phase's last round; 0 when there is none.

    `has_any`: whether there is a round under one of some numbers. By bisection, because only those whom an aggregator
    knows may ask it for its last number, and Multicall3 is not one of them.
    """
    low, high = 0, 1
    while has_any(range(high, high + LONGEST_HOLE)):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if has_any(range(middle, middle + LONGEST_HOLE)) else (low, middle)
    return low


class ChainlinkReader:
    """Reads the feeds of several tokens. `feeds`: bound AggregatorV3 contracts by token address."""

    def __init__(self, chain: ChainReader, feeds: Mapping[str, Any]) -> None:
        self._chain, self._feeds = chain, dict(feeds)
        # None where a number was given out and nothing published.
        self._rounds: dict[str, dict[int, Round | None]] = {}
        # The last round of a phase that is over, by token and phase.
        self._ended: dict[tuple[str, int], int] = {}

    def check(self, decimals: Mapping[str, int]) -> None:
        """Raises FeedMismatch when a feed's decimals are not the configured ones."""
        tokens = list(decimals)
        answers = fetch_many(self._chain, [self._feed(token).functions.decimals() for token in tokens])
        for token, answer in zip(tokens, answers, strict=True):
            if answer != decimals[token]:
                raise FeedMismatch(f"feed of {token} has {answer} decimals, configured are {decimals[token]}")

    def fetch_latest(
        self, tokens: Sequence[str], *, now_s: int, max_age_s: Mapping[str, int], block: int | str = "latest"
    ) -> dict[str, Round]:
        """The latest round of each token, in one request. Raises NoPrice, StalePrice, ReadingFailed."""
        calls = [self._feed(token).functions.latestRoundData() for token in tokens]
        answers = fetch_many(self._chain, calls, block=block)
        return {
            token: parse_round(token, a[0], a[1], a[3], now_s=now_s, max_age_s=max_age_s[token])
            for token, a in zip(tokens, answers, strict=True)
        }

    def fetch_rounds(self, token: str, round_ids: Sequence[int]) -> tuple[Round, ...]:
        """Rounds by id, as they were published. Raises NothingThere for one that does not exist, ReadingFailed."""
        found = self._fetch_rounds(token, round_ids)
        for round_id, round_ in found.items():
            if round_ is None:
                raise NothingThere(f"feed of {token} has no round {round_id}")
        return tuple(found[round_id] for round_id in round_ids)

    def _fetch_rounds(self, token: str, round_ids: Sequence[int]) -> dict[int, Round | None]:
        found: dict[int, Round | None] = {}
        for start in range(0, len(round_ids), _BATCH):
            batch = round_ids[start : start + _BATCH]
            calls = [self._feed(token).functions.getRoundData(round_id) for round_id in batch]
            for round_id, a in zip(batch, fetch_many(self._chain, calls), strict=True):
                published = Round(token=token, round_id=round_id, answer=a[1], updated_at_s=a[3])
                found[round_id] = published if published.updated_at_s else None
        return found

    def fetch_since(self, last: Round, since_s: int) -> tuple[Round, ...]:
        """The rounds up to and including `last`, oldest first, back to the first one published before `since_s`.

        Fewer when the feed does not reach back that far. Rounds are kept, so a second call fetches only new ones. Goes
        back across phases, whose rounds are numbered from 1, and over numbers under which nothing was published. Where
        two phases overlap in time, the newer one counts from its first round on: an aggregator that was replaced may
        publish for ever.
        """
        kept = self._rounds.setdefault(last.token, {})
        kept[last.round_id] = last
        found, next_id = [last], self._previous(last.token, last.round_id)
        while found[-1].updated_at_s >= since_s and next_id:
            if next_id not in kept:
                first_of_phase = ((next_id >> PHASE_SHIFT) << PHASE_SHIFT) + 1
                ids = range(max(next_id - _BATCH + 1, first_of_phase), next_id + 1)
                missing = [round_id for round_id in ids if round_id not in kept]
                kept.update(self._fetch_rounds(last.token, missing))
            earlier, newer = kept[next_id], found[-1]
            is_same_phase = next_id >> PHASE_SHIFT == newer.round_id >> PHASE_SHIFT
            if earlier and (is_same_phase or earlier.updated_at_s < newer.updated_at_s):
                found.append(earlier)
            next_id = self._previous(last.token, next_id)
        return tuple(reversed(found))

    def _previous(self, token: str, round_id: int) -> int:
        """The id before this one, or 0 at the beginning of the feed."""
        phase, own = round_id >> PHASE_SHIFT, round_id & ((1 << PHASE_SHIFT) - 1)
        if own > 1:
            return round_id - 1
        while phase > 1:
            phase -= 1
            if (token, phase) not in self._ended:
                self._ended[token, phase] = find_last_number(partial(self._has_any, token, phase))
            if newest := self._ended[token, phase]:
                return (phase << PHASE_SHIFT) | newest
        return 0

    def _has_any(self, token: str, phase: int, numbers: Sequence[int]) -> bool:
        try:
            return any(self._fetch_rounds(token, [(phase << PHASE_SHIFT) | n for n in numbers]).values())
        except NothingThere:  # a number that an old aggregator does not have takes the whole batch with it
            return len(numbers) > 1 and any(self._has_any(token, phase, [n]) for n in numbers)

    def _feed(self, token: str) -> Any:
        try:
            return self._feeds[token]
        except KeyError:
            raise FeedMismatch(f"no feed is configured for {token}") from None
