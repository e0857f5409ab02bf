"""The history of a feed in a parquet file: every round that it published, through all its phases.

A row is a round, exactly as the feed answers it, in the order of ids. Numbers under which nothing was published have
no row. An answer of zero or below has one: it was published, and who makes prices of it has to refuse it, as
`offchain_rl.prices` does. Phases overlap in time, and an aggregator that was replaced may publish for ever:
`updated_at_s` rises within a phase only, and nothing is left out for that.

All reads are at one block, so that what is on disk is of one state. While it grows it lies beside the file, with
`.partial` at its end; each state of either is written whole and put in its place at once. So a download can be cut at
any moment, and goes on where it was; a finished file goes on with what was published since.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from oracle.chain import BlockRef, ChainReader, fetch_block
from oracle.chainlink import LONGEST_HOLE, PHASE_SHIFT, find_last_number
from oracle.errors import FeedMismatch, HistoryDamaged, ReadingFailed, WrongChain
from oracle.feeds import Feed, bind_feed, check_feeds
from oracle.multicall import fetch_many, try_many

# Rounds in one request.
BATCH = 200
# Rounds between two states on disk: what a kill costs at most.
SAVE_EVERY = 2_000
# The last rounds known of each phase, which are read again before a history goes on.
RECHECKED = 20

_SCHEMA = pa.schema(
    [
        pa.field("round_id", pa.decimal128(25, 0), nullable=False),
        pa.field("answer", pa.decimal128(38, 0), nullable=False),
        pa.field("started_at_s", pa.int64(), nullable=False),
        pa.field("updated_at_s", pa.int64(), nullable=False),
    ]
)
_METADATA = b"marketflow_history"
# What the columns hold.
_WAY_OUT = "name another file, or move this one away"
_MAX, _MAX_TIME_S = 10**38 - 1, 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRound:
    """A row. `answer` is in the feed's own decimals."""

    round_id: int
    answer: int
    started_at_s: int
    updated_at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a file holds: the rounds published from `since_s` on, as they were at `block`."""

    feed: Feed
    since_s: int
    block: BlockRef
    # Phases that are part of the feed and have no round: their aggregators answer nothing.
    silent_phases: tuple[int, ...]
    rounds: tuple[PublishedRound, ...]


def download_history(
    chain: ChainReader,
    feed: Feed,
    into: Path,
    *,
    since_s: int = 0,
    block: int | str = "latest",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> History:
    """Brings the file up to `block`, from nothing or from where it is, and returns what is in it.

    `progress` is told how many rounds are read and how many there are to be read. Raises WrongChain or FeedMismatch
    when the feed is not the one described, HistoryDamaged when the file is not what the feed published, ReadingFailed
    when the node gives no answer: what was read until then is kept.
    """
    at = fetch_block(chain, block)
    check_feeds(chain, [feed], block=at.number)
    partly = into.with_name(into.name + ".partial")
    known = _read_known(partly if partly.exists() else into, feed, since_s, at)
    reader = _Reader(chain, feed, at)
    reader.recheck(into, known)
    last_numbers = reader.fetch_last_numbers()
    wanted = reader.find_wanted(last_numbers, known, since_s)
    total, done = sum(map(len, wanted.values())), 0
    made = partial(
        History, feed=feed, since_s=since_s, block=at,
        silent_phases=tuple(phase for phase, last in last_numbers.items() if not last),
    )  # fmt: skip
    rounds, unsaved = list(known), 0
    progress(done, total)
    try:
        for numbers in _batches(wanted):
            found = reader.fetch(numbers)
            rounds += found
            done, unsaved = done + len(numbers), unsaved + len(found)
            if unsaved >= SAVE_EVERY:
                _write(made(rounds=_in_order(rounds)), partly)
                unsaved = 0
            progress(done, total)
    except BaseException:  # an interrupt too
        _write(made(rounds=_in_order(rounds)), partly)
        raise
    history = made(rounds=_in_order(rounds))
    _write(history, into)
    partly.unlink(missing_ok=True)
    return history


def load_history(path: Path) -> History:
    """What is in a file. Raises HistoryDamaged when it is none that `download_history` wrote, OSError."""
    try:
        with path.open("rb") as file:
            table = pq.read_table(file)
        about = json.loads(table.schema.metadata[_METADATA])
        rounds = tuple(
            PublishedRound(round_id=int(i), answer=int(answer), started_at_s=started, updated_at_s=updated)
            for i, answer, started, updated in zip(*(column.to_pylist() for column in table.columns), strict=True)
        )
        history = History(
            feed=Feed(**about["feed"]),
            since_s=about["since_s"],
            block=BlockRef(**about["block"]),
            silent_phases=tuple(about["silent_phases"]),
            rounds=rounds,
        )
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise HistoryDamaged(f"{path} is no history of a feed ({error}): {_WAY_OUT}") from error
    if any(b.round_id <= a.round_id for a, b in zip(rounds, rounds[1:], strict=False)):
        raise HistoryDamaged(f"{path}: its rounds are not in the order of their ids: {_WAY_OUT}")
    return history


class _Reader:
    """Reads one feed at one block."""

    def __init__(self, chain: ChainReader, feed: Feed, at: BlockRef) -> None:
        self._chain, self._feed, self._block, self._now_s = chain, feed, at.number, at.timestamp_s
        self._proxy = bind_feed(chain, feed.address).functions

    def fetch(self, round_ids: Sequence[int]) -> list[PublishedRound]:
        """Those of the rounds that were published. Raises HistoryDamaged for one that can't be."""
        answers = try_many(self._chain, [self._proxy.getRoundData(i) for i in round_ids], block=self._block)
        found = []
        for round_id, a in zip(round_ids, answers, strict=True):
            if a is None or a.updatedAt == 0:
                continue
            if a.roundId != round_id or a.updatedAt > self._now_s or a.startedAt > _MAX_TIME_S or abs(a.answer) > _MAX:
                raise HistoryDamaged(f"feed {self._feed.description} answers for round {round_id} what can't be: {a}")
            found.append(
                PublishedRound(round_id=round_id, answer=a.answer, started_at_s=a.startedAt, updated_at_s=a.updatedAt)
            )
        return found

    def recheck(self, path: Path, known: Sequence[PublishedRound]) -> None:
        """Raises HistoryDamaged when the last rounds known of a phase are not what the feed says now."""
        by_phase: dict[int, list[PublishedRound]] = {}
        for round_ in known:
            by_phase.setdefault(_phase(round_), []).append(round_)
        last = [round_ for rounds in by_phase.values() for round_ in rounds[-RECHECKED:]]
        found = {round_.round_id: round_ for round_ in self.fetch([round_.round_id for round_ in last])}
        for round_ in last:
            if found.get(round_.round_id) != round_:
                raise HistoryDamaged(
                    f"{path}: round {round_.round_id} is {round_} in the file, and {found.get(round_.round_id)} on the "
                    "chain: delete the file to download it again"
                )

    def fetch_last_numbers(self) -> dict[int, int]:
        """The number of the last round by phase, 0 where its aggregator answers nothing. Raises FeedMismatch."""
        [latest] = fetch_many(self._chain, [self._proxy.latestRoundData()], block=self._block)
        current = latest.roundId >> PHASE_SHIFT
        self._check_aggregators(range(1, current + 1))
        ended = {phase: find_last_number(partial(self._has_any, phase)) for phase in range(1, current)}
        return ended | {current: latest.roundId & ((1 << PHASE_SHIFT) - 1)}

    def _check_aggregators(self, phases: Sequence[int]) -> None:
        calls = [self._proxy.phaseAggregators(phase) for phase in phases]
        aggregators = fetch_many(self._chain, calls, block=self._block)
        calls = [bind_feed(self._chain, aggregator).functions.decimals() for aggregator in aggregators]
        for phase, decimals in zip(phases, try_many(self._chain, calls, block=self._block), strict=True):
            if decimals not in (None, self._feed.decimals):
                raise FeedMismatch(
                    f"feed {self._feed.description} at {self._feed.address}: its aggregator of phase {phase} has "
                    f"{decimals} decimals, the feed has {self._feed.decimals}: rounds of both can't be in one history"
                )

    def find_wanted(
        self, last_numbers: Mapping[int, int], known: Sequence[PublishedRound], since_s: int
    ) -> dict[int, range]:
        """The ids to be read by phase: after those known, or from the first one published at or after `since_s`."""
        newest = {_phase(round_): round_.round_id for round_ in known}
        wanted = {}
        for phase, last in last_numbers.items():
            end = (phase << PHASE_SHIFT) + last + 1
            start = newest[phase] + 1 if phase in newest else self._find_first(phase, last, since_s)
            wanted[phase] = range(start, end)
        return wanted

    def _find_first(self, phase: int, last: int, since_s: int) -> int:
        low, high = 1, last + 1 if since_s else 1  # the first is in [low, high]
        while low < high:
            middle = (low + high) // 2
            if self._published_before(since_s, phase, range(middle, high)):
                low = middle + 1
            else:
                high = middle
        return (phase << PHASE_SHIFT) + low

    def _published_before(self, since_s: int, phase: int, numbers: range) -> bool:
        """Whether the first of these that was published was so before `since_s`."""
        for start in range(numbers.start, numbers.stop, LONGEST_HOLE):
            some = range(start, min(start + LONGEST_HOLE, numbers.stop))
            if found := self.fetch([(phase << PHASE_SHIFT) | n for n in some]):
                return found[0].updated_at_s < since_s
        return False

    def _has_any(self, phase: int, numbers: Sequence[int]) -> bool:
        return bool(self.fetch([(phase << PHASE_SHIFT) | n for n in numbers]))


def _read_known(path: Path, feed: Feed, since_s: int, at: BlockRef) -> tuple[PublishedRound, ...]:
    if not path.exists():
        return ()
    history = load_history(path)
    if history.feed.chain_id != feed.chain_id:
        raise WrongChain(f"{path} is of chain {history.feed.chain_id}, the feed is on chain {feed.chain_id}")
    for what in ("address", "description", "decimals"):
        if (stored := getattr(history.feed, what)) != (wanted := getattr(feed, what)):
            raise FeedMismatch(f"{path} is of a feed whose {what} is {stored!r}, not {wanted!r}: name another file")
    if history.since_s != since_s:
        raise ValueError(f"{path} is since {history.since_s} s, not {since_s} s: ask for that, or name another file")
    if at.number < history.block.number:
        raise ReadingFailed(f"{path} is of block {history.block.number}, and the node has only come to {at.number}")
    return history.rounds


def _phase(round_: PublishedRound) -> int:
    return round_.round_id >> PHASE_SHIFT


def _batches(wanted: Mapping[int, range]) -> Iterator[range]:
    for ids in wanted.values():
        for start in range(ids.start, ids.stop, BATCH):
            yield range(start, min(start + BATCH, ids.stop))


def _in_order(rounds: Sequence[PublishedRound]) -> tuple[PublishedRound, ...]:
    return tuple(sorted(rounds, key=lambda r: r.round_id))


def _write(history: History, path: Path) -> None:
    """In its place at once, and on the disk: a kill at any moment leaves the old file or the new one."""
    about = {
        "feed": {key: asdict(history.feed)[key] for key in ("chain_id", "address", "description", "decimals")},
        "since_s": history.since_s,
        "block": asdict(history.block),
        "silent_phases": history.silent_phases,
    }
    arrays = [pa.array([getattr(r, field.name) for r in history.rounds], field.type) for field in _SCHEMA]
    schema = _SCHEMA.with_metadata({_METADATA: json.dumps(about).encode()})
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            pq.write_table(pa.Table.from_arrays(arrays, schema=schema), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:  # a full disk, mostly
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
