"""Chainlink rounds: parsed, aged, and read again by id years later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from oracle.chain import ChainReader
from oracle.errors import FeedMismatch, NoPrice, NothingThere, StalePrice
from oracle.multicall import fetch_many

# A proxy's round id is (phase << 64) | the aggregator's own round id.
PHASE_SHIFT = 64
_BATCH = 200


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


class ChainlinkReader:
    """Reads the feeds of several tokens. `feeds`: bound AggregatorV3 contracts by token address."""

    def __init__(self, chain: ChainReader, feeds: Mapping[str, Any]) -> None:
        self._chain, self._feeds = chain, dict(feeds)
        self._rounds: dict[str, dict[int, Round]] = {}
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
        found: list[Round] = []
        for start in range(0, len(round_ids), _BATCH):
            batch = round_ids[start : start + _BATCH]
            calls = [self._feed(token).functions.getRoundData(round_id) for round_id in batch]
            for round_id, answer in zip(batch, fetch_many(self._chain, calls), strict=True):
                if answer[3] == 0:
                    raise NothingThere(f"feed of {token} has no round {round_id}")
                found.append(Round(token=token, round_id=round_id, answer=answer[1], updated_at_s=answer[3]))
        return tuple(found)

    def fetch_since(self, last: Round, since_s: int) -> tuple[Round, ...]:
        """The rounds up to and including `last`, oldest first, back to the first one published before `since_s`.

        Fewer when the feed does not reach back that far. Rounds are kept, so a second call fetches only new ones. Goes
        back across phases: a phase's rounds are numbered from 1, and the last one of an earlier phase is found by
        bisection, because an aggregator does not say how many rounds it has had. Where two phases overlap in time, the
        newer one counts from its first round on: an aggregator that was replaced may publish for ever.
        """
        kept = self._rounds.setdefault(last.token, {})
        kept[last.round_id] = last
        found, next_id = [last], self._previous(last.token, last.round_id)
        while found[-1].updated_at_s >= since_s and next_id:
            if next_id not in kept:
                first_of_phase = ((next_id >> PHASE_SHIFT) << PHASE_SHIFT) + 1
                ids = range(max(next_id - _BATCH + 1, first_of_phase), next_id + 1)
                missing = [round_id for round_id in ids if round_id not in kept]
                kept.update({r.round_id: r for r in self.fetch_rounds(last.token, missing)})
            earlier, newer = kept[next_id], found[-1]
            is_same_phase = earlier.round_id >> PHASE_SHIFT == newer.round_id >> PHASE_SHIFT
            if is_same_phase or earlier.updated_at_s < newer.updated_at_s:
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
                self._ended[token, phase] = self._last_round_of_phase(token, phase)
            if newest := self._ended[token, phase]:
                return (phase << PHASE_SHIFT) | newest
        return 0

    def _last_round_of_phase(self, token: str, phase: int) -> int:
        """The aggregator's own number of it; 0 when the phase has no rounds."""
        low, high = 0, 1
        while self._has_round(token, phase, high):
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._has_round(token, phase, middle) else (low, middle)
        return low

    def _has_round(self, token: str, phase: int, aggregator_round: int) -> bool:
        try:
            self.fetch_rounds(token, [(phase << PHASE_SHIFT) | aggregator_round])
        except NothingThere:
            return False
        return True

    def _feed(self, token: str) -> Any:
        try:
            return self._feeds[token]
        except KeyError:
            raise FeedMismatch(f"no feed is configured for {token}") from None
