"""Which node may use which signing key, when agents run on several machines. Never two nodes at once.

    LeaseStore   a few named values in a store that several nodes share; written by compare-and-set
    Member       the rules, without a clock or a network: what this node sees, holds, writes next
    KeyGuard     asked before each signature; says no once this node can't be sure any more
    Placement    runs a member against a store: `watch` yields the keys to run

Each node has one lease, its *session*, and renews it all the time; a key belongs to a session, and is as good as that.
So a thousand keys cost one write for each beat. Which node should have a key is rendezvous hashing over the nodes that
are there: nobody decides it, and a node that joins or leaves moves only its own share.

Nobody compares clocks. A node uses its keys until TTL - margin after it *asked* for its last renewal. Others take them
when they have watched its lease stay the same for a whole TTL. Assumed for this:

- A write that the store has confirmed is neither lost nor undone, and its compare-and-set is one.
- In a TTL, two nodes' clocks drift apart by less than the margin, less what lies between `KeyGuard.check` and the last
  byte sent. The clock goes on while a process is stopped and while a machine sleeps; it does not in a virtual machine
  that is paused or restored from a snapshot.

If that breaks, two nodes may sign with one key. What still holds is the chain's: of two transactions with the same
nonce of the account one is mined, and a vault takes an order only with its own next nonce. So a trade is not doubled;
what is lost is gas, and a transaction that replaces another.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, Self

from agents.errors import Misconfigured, Retryable

if TYPE_CHECKING:  # else a node that only looks would load all that signs
    from agents.signer import Signed, TransactionFields

log = logging.getLogger("marketflow.placement")

_NODE, _KEY = "node.", "key."
_NAME: Final = re.compile("[A-Za-z0-9_-]{1,64}")
_ADDRESS: Final = re.compile("0x[0-9a-fA-F]{40}")
_WRITES_AT_ONCE: Final = 64


class LeaseLost(Retryable):
    """This node does not hold the key, or can't be sure of it: nothing may be signed with it here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRules:
    """Seconds. All nodes should have the same `ttl_s`; each lease says its own.

    Raises Misconfigured when two renewals in a row could not be lost without losing the lease.
    """

    # After how long without a renewal others take a node's keys.
    ttl_s: float = 15.0
    # How long before that the node itself stops using them.
    margin_s: float = 3.0
    # How often a lease is renewed.
    beat_s: float = 3.0
    # How long the nodes that are there must be the same ones before a key moves away from one that is well.
    settle_s: float = 5.0
    # How long a key that moves away may still be used to finish what is under way.
    handover_s: float = 120.0
    # How many keys a node gives away at once.
    max_moves: int = 20

    def __post_init__(self) -> None:
        if min(self.ttl_s, self.margin_s, self.beat_s) <= 0 or self.margin_s + 3 * self.beat_s > self.ttl_s:
            raise Misconfigured(
                f"a lease of {self.ttl_s} s with a margin of {self.margin_s} s and a renewal each {self.beat_s} s "
                "does not survive two lost renewals: ttl_s must be at least margin_s + 3 * beat_s"
            )
        if self.max_moves < 1 or min(self.settle_s, self.handover_s) < 0:
            raise Misconfigured("max_moves is at least 1, settle_s and handover_s are not negative")


def uptime_s() -> float:
    """Since the machine started, with the time it slept where the system counts that. Never set back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


# What is stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A value of the store. `revision`: higher than that of whatever the store took before, under any name."""

    name: str
    revision: int
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """To be done only if the value under that name still has the revision `after`; 0 when there must be none."""

    name: str
    value: bytes
    after: int


class LeaseStore(Protocol):
    """What nodes share. Each method raises Retryable when it can't tell, also when a write may have been done."""

    async def write(self, write: Write) -> int | None:
        """The new revision; None when the value is another one by now."""
        ...

    async def read(self, name: str) -> Entry | None: ...

    def changes(self) -> AsyncIterator[Entry]:
        """All there is, then what changes. Late, twice or in another order does no harm."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A node's lease. `epoch`: the revision that it began with, 0 in the entry that begins it."""

    epoch: int
    # Made up by the process, which so knows its own.
    token: str
    ttl_s: float
    # Of the list of keys: nodes share keys only with those that have the same list.
    keys: str
    beat: int
    # Whether it takes keys.
    is_ready: bool = False
    has_ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Of a key: a node and its session; no node when it was released."""

    node: str = ""
    epoch: int = 0


class _Seen(NamedTuple):
    what: Any
    revision: int
    # By this node's clock, the first time that it was seen so.
    since_s: float


def _dump(what: Session | Owner) -> bytes:
    return json.dumps({name: getattr(what, name) for name in what.__slots__}).encode()


def _parse(entry: Entry) -> Session | Owner:
    """Raises Misconfigured for what no node of ours has written."""
    kind = Session if entry.name.startswith(_NODE) else Owner
    try:
        values = json.loads(entry.value)
        return kind(**{name: values[name] for name in kind.__slots__ if name in values})
    except (ValueError, TypeError):
        raise Misconfigured(f"{entry.name} in the store is no lease: give placement a store of its own") from None


# Who should hold what


def rank(key: str, nodes: Iterable[str]) -> list[str]:
    """The nodes, the one that should hold the key first (rendezvous hashing). The same on every machine.

    https://www.eecs.umich.edu/techreports/cse/96/CSE-TR-316-96.pdf
    """
    return sorted(nodes, key=lambda node: (_score(key, node), node), reverse=True)


def _score(key: str, node: str) -> bytes:
    return hashlib.blake2b(f"{node}\0{key}".encode(), digest_size=16).digest()


def _digest(keys: Iterable[str]) -> str:
    return hashlib.blake2b("\0".join(sorted(keys)).encode(), digest_size=16).hexdigest()


# What stands between a key and its use


class KeyGuard:
    """Asked before each signature and each sending. Any thread may ask; it needs no network and never waits."""

    __slots__ = ("_clock", "_state")

    def __init__(self, clock: Callable[[], float] = uptime_s) -> None:
        self._clock = clock
        self._state: tuple[Mapping[str, int], float] = ({}, 0.0)  # replaced whole: a thread never sees half of it

    def check(self, address: str) -> int:
        """The key's fence, a number that grows each time that the key gets another holder. Raises LeaseLost."""
        fences, until_s = self._state
        fence = fences.get(address.lower())
        if fence is None:
            raise LeaseLost(f"this node does not hold the key of {address}: another one may")
        if (late_s := self._clock() - until_s) >= 0:
            raise LeaseLost(f"this node's lease ended {late_s:.1f} s ago: another one may use the key of {address}")
        return fence

    def permit(self, fences: Mapping[str, int], until_s: float) -> None:
        """For whoever holds the lease: from now on these keys, until then."""
        self._state = (MappingProxyType(dict(fences)), until_s)


class _Signer(Protocol):
    address: str

    def sign(self, fields: TransactionFields) -> Signed: ...


class GuardedSigner:
    """A signer that signs only while this node holds its key. Asks again afterwards: what took too long is thrown
    away. Raises LeaseLost, and what the signer raises."""

    __slots__ = ("_guard", "_signer", "address")

    def __init__(self, signer: _Signer, guard: KeyGuard) -> None:
        self.address = signer.address
        self._signer, self._guard = signer, guard

    def sign(self, fields: TransactionFields) -> Signed:
        before = self._guard.check(self.address)
        signed = self._signer.sign(fields)
        if self._guard.check(self.address) != before:
            raise LeaseLost(f"the key of {self.address} was elsewhere while this was signed: it is thrown away")
        return signed


# The rules


class Member:
    """What one node knows and does next. Calls come in any order; `now_s` is this node's own clock, of any beginning.

    `plan` answers with writes; for each of them comes `answered`, `refused` or `unknown`, sooner or later or never.
    """

    def __init__(
        self, name: str, keys: Iterable[str], rules: PlacementRules, *, token: Callable[[], str] = secrets.token_hex
    ) -> None:
        if not _NAME.fullmatch(name):
            raise Misconfigured(f"{name!r} is no name for a node: up to 64 letters, digits, - and _")
        self.name, self.rules = name, rules
        self.keys = frozenset(_lower(key) for key in keys)
        self._keys_digest, self._new_token = _digest(self.keys), token
        self._nodes: dict[str, _Seen] = {}
        self._owners: dict[str, _Seen] = {}
        self._highest = 0
        # Writes under way, and the highest revision that was known when they were planned.
        self._pending: dict[str, int] = {}
        self._is_leaving = False
        self._begin_anew()
        # Which nodes there are, since when, and who should hold each key.
        self._peers: tuple[str, ...] = ()
        self._peers_since_s = float("-inf")
        self._wanted_by: dict[str, str] = {}
        # The same with those that will soon take keys: for keys that nobody ever had.
        self._present: tuple[str, ...] = ()
        self._wanted_first: dict[str, str] = {}

    def _begin_anew(self) -> None:
        """Without a session: nothing may be used."""
        self._token, self._epoch, self._epoch_since_s = self._new_token(), 0, 0.0
        self._me = Owner(node=self.name)
        self._beat, self._sent_s = 0, {}  # type: int, dict[int, float]
        self.valid_until_s = float("-inf")
        # Keys that move away, and until when they may be used.
        self._moving: dict[str, float] = {}
        # Keys that were given away, and the revision that they were last held with: never used with that one again,
        # whatever old state the store shows.
        self._dropped: dict[str, int] = {}

    # What comes in

    def seen(self, entry: Entry, now_s: float) -> None:
        """An entry of the store, old or new."""
        self._highest = max(self._highest, entry.revision)
        where, name = self._place(entry.name)
        if (known := where.get(name)) and known.revision >= entry.revision:
            return
        what = _parse(entry)
        if isinstance(what, Session) and not what.epoch:
            what = replace(what, epoch=entry.revision)
        where[name] = _Seen(what, entry.revision, now_s)
        if where is self._nodes and name == self.name:
            self._seen_own(what, now_s)

    def answered(self, write: Write, revision: int, now_s: float) -> None:
        """A write was done."""
        known = self._pending.pop(write.name, 0)
        if revision <= known:
            self._forget("the store has lost what it had confirmed")
        self.seen(Entry(name=write.name, revision=revision, value=write.value), now_s)

    def refused(self, write: Write, found: Entry | None, now_s: float) -> None:
        """A write was not done, because `found` is there."""
        self._pending.pop(write.name, None)
        if found is not None:
            self.seen(found, now_s)
        elif write.name == _NODE + self.name and self._epoch:
            self._forget("the store has lost it")

    def unknown(self, write: Write) -> None:
        """A write was done, or not, or will be."""
        self._pending.pop(write.name, None)

    def at_rest(self, key: str) -> None:
        """A key that moves away is not needed here any more."""
        if (key := _lower(key)) in self._moving:
            self._moving[key] = float("-inf")

    def leave(self) -> None:
        """From now on nothing is used, and everything is given away."""
        self._is_leaving = True

    # What may be used

    def fences(self) -> dict[str, int]:
        """The keys that may be used until `valid_until_s`, with their fences."""
        if not self._epoch or self._is_leaving:
            return {}
        me, keys, dropped = self._me, self.keys, self._dropped
        return {
            key: seen.revision
            for key, seen in self._owners.items()
            if seen.what == me and key in keys and seen.revision > dropped.get(key, 0)
        }

    def to_run(self) -> frozenset[str]:
        """The same without those that move away."""
        return frozenset(self.fences().keys() - self._moving.keys())

    @property
    def has_left(self) -> bool:
        own = self._nodes.get(self.name)
        return self._is_leaving and (not self._epoch or own is None or own.what.has_ended)

    def _is_given_away(self, key: str) -> bool:
        """Whether the key is still ours for the others, but not for us."""
        seen = self._owners.get(key)
        return seen is not None and seen.what == self._me and seen.revision <= self._dropped.get(key, 0)

    # What goes out

    def plan(self, now_s: float) -> list[Write]:
        """What is to be written now. From a call on, what moves away may be out of `fences`: look at them first, then
        write."""
        writes = [self._own_lease(now_s)]
        if self._epoch and not self._is_leaving:
            self._look_who_is_there(now_s)
            writes += [self._end(name, seen) for name, seen in self._nodes.items() if self._is_dead(name, seen, now_s)]
            if self._is_ready(now_s) and now_s < self.valid_until_s:
                self._start_moves(now_s)
                writes += [self._key(key, now_s) for key in self.keys]
        ready = [write for write in writes if write and write.name not in self._pending]
        self._pending |= {write.name: self._highest for write in ready}
        return ready

    def _own_lease(self, now_s: float) -> Write | None:
        own = self._nodes.get(self.name)
        if not self._epoch:
            if self._is_leaving or (own and not own.what.has_ended and not self._is_stale(own, now_s)):
                return None  # a namesake, or we ourselves before a crash: nobody knows that it has stopped
            return self._beat_write(own.revision if own else 0, now_s)
        assert own is not None
        if self._is_leaving:
            return None if own.what.has_ended else self._end(self.name, own)
        is_due = now_s - self._sent_s.get(self._beat, float("-inf")) >= self.rules.beat_s
        is_news = self._is_ready(now_s) != own.what.is_ready
        return self._beat_write(own.revision, now_s) if is_due or is_news else None

    def _beat_write(self, after: int, now_s: float) -> Write | None:
        name = _NODE + self.name
        if name in self._pending:
            return None
        self._beat += 1
        self._sent_s = {beat: at_s for beat, at_s in self._sent_s.items() if beat > self._beat - 1000}
        self._sent_s[self._beat] = now_s
        session = Session(
            epoch=self._epoch, token=self._token, ttl_s=self.rules.ttl_s, keys=self._keys_digest, beat=self._beat,
            is_ready=self._is_ready(now_s),
        )  # fmt: skip
        return Write(name=name, value=_dump(session), after=after)

    def _end(self, name: str, seen: _Seen) -> Write:
        """Takes a session's lease away for good: its next renewal will fail."""
        return Write(name=_NODE + name, value=_dump(replace(seen.what, has_ended=True)), after=seen.revision)

    def _key(self, key: str, now_s: float) -> Write | None:
        seen = self._owners.get(key)
        if seen is None or self._is_free(seen.what):
            wanted_by = self._wanted_by if seen else self._wanted_first
            wants = wanted_by.get(key) == self.name
            return self._own(key, self._me, seen.revision if seen else 0) if wants else None
        if seen.what != self._me:
            return None
        if self._moving.get(key, float("inf")) <= now_s:
            self._dropped[key] = seen.revision
            del self._moving[key]
        return self._own(key, Owner(), seen.revision) if self._is_given_away(key) else None

    @staticmethod
    def _own(key: str, owner: Owner, after: int) -> Write:
        return Write(name=_KEY + key, value=_dump(owner), after=after)

    def _start_moves(self, now_s: float) -> None:
        held = self.fences()
        for key in [key for key in self._moving if self._wanted_by.get(key) == self.name or key not in held]:
            del self._moving[key]
        if now_s - self._peers_since_s < self.rules.settle_s:
            return
        under_way = len(self._moving) + sum(map(self._is_given_away, self._dropped))
        leaving = sorted(key for key in held.keys() - self._moving.keys() if self._wanted_by[key] != self.name)
        for key in leaving[: max(0, self.rules.max_moves - under_way)]:
            self._moving[key] = now_s + self.rules.handover_s

    # What it makes of what it sees

    def _seen_own(self, session: Session, now_s: float) -> None:
        if session.token != self._token or session.has_ended:
            if self._epoch and not self._is_leaving:
                self._lose("others have taken it, because it was not renewed in time")
            return
        if not self._epoch:
            self._epoch, self._epoch_since_s = session.epoch, now_s
            self._me = Owner(node=self.name, epoch=session.epoch)
        sent_s = self._sent_s.get(session.beat, float("-inf"))
        self.valid_until_s = max(self.valid_until_s, sent_s + self.rules.ttl_s - self.rules.margin_s)

    def _lose(self, because: str) -> None:
        log.warning("the lease of node %s is lost: %s", self.name, because)
        self._begin_anew()

    def _forget(self, because: str) -> None:
        """The store is not the one that it was: nor is what it held."""
        self._lose(because)
        self._nodes, self._owners, self._highest = {}, {}, 0

    def _is_ready(self, now_s: float) -> bool:
        """Not in its first TTL: whoever held a key when a store was lost or set back has stopped by then."""
        return bool(self._epoch) and now_s - self._epoch_since_s >= self.rules.ttl_s

    def _is_dead(self, name: str, seen: _Seen, now_s: float) -> bool:
        return name != self.name and not seen.what.has_ended and self._is_stale(seen, now_s)

    @staticmethod
    def _is_stale(seen: _Seen, now_s: float) -> bool:
        return now_s - seen.since_s >= seen.what.ttl_s

    def _is_free(self, owner: Owner) -> bool:
        """Only what is known for good: a session that has ended, or was followed by another, never comes back."""
        if not owner.node:
            return True
        seen = self._nodes.get(owner.node)
        return seen is not None and (
            seen.what.epoch > owner.epoch or (seen.what.epoch == owner.epoch and seen.what.has_ended)
        )

    def _look_who_is_there(self, now_s: float) -> None:
        present = tuple(sorted(name for name, seen in self._nodes.items() if self._is_present(name, seen, now_s)))
        if present != self._present:
            self._present, self._wanted_first = present, self._wanted(present)
        peers = tuple(name for name in present if self._takes_keys(name, now_s))
        if peers != self._peers:
            self._peers, self._peers_since_s, self._wanted_by = peers, now_s, self._wanted(peers)

    def _wanted(self, nodes: Sequence[str]) -> dict[str, str]:
        return {key: rank(key, nodes)[0] for key in self.keys} if nodes else {}

    def _is_present(self, name: str, seen: _Seen, now_s: float) -> bool:
        is_well = name == self.name or not self._is_stale(seen, now_s)
        return is_well and not seen.what.has_ended and seen.what.keys == self._keys_digest

    def _takes_keys(self, name: str, now_s: float) -> bool:
        return self._is_ready(now_s) if name == self.name else self._nodes[name].what.is_ready

    def _place(self, name: str) -> tuple[dict[str, _Seen], str]:
        where = {_NODE: self._nodes, _KEY: self._owners}[_kind(name)]
        return where, name.removeprefix(_kind(name))


def _kind(name: str) -> str:
    for kind in (_NODE, _KEY):
        if name.startswith(kind):
            return kind
    raise Misconfigured(f"{name} in the store is no lease: give placement a store of its own")


def _lower(key: str) -> str:
    if not _ADDRESS.fullmatch(key):
        raise Misconfigured(f"{key!r} is no address of a signing key: expected 0x and 40 hexadecimal digits")
    return key.lower()


# At the edge


class Placement:
    """This node among the others, for an `async with`: joins, and leaves when it ends.

    `keys`: the addresses of all signing keys of the fleet, the same list on each node. All agents of a key go together.
    `guard` is for the signers. What is raised inside while it runs ends `watch`; the guard then lets its time run out.
    """

    def __init__(
        self,
        store: LeaseStore,
        *,
        name: str,
        keys: Collection[str],
        rules: PlacementRules | None = None,
        clock: Callable[[], float] = uptime_s,
    ) -> None:
        self.rules = rules or PlacementRules()
        self.guard = KeyGuard(clock)
        self._store, self._clock = store, clock
        self._member = Member(name, keys, self.rules)
        self._given = {key.lower(): key for key in keys}
        self._to_run: frozenset[str] = frozenset()
        self._changed, self._wake = asyncio.Event(), asyncio.Event()
        self._slots = asyncio.Semaphore(_WRITES_AT_ONCE)
        self._task: asyncio.Task[None] | None = None

    async def watch(self) -> AsyncIterator[frozenset[str]]:
        """The keys to run, now and after each change. One that is missing may be finished with until `at_rest` says
        so, or for `handover_s`; one that the guard refuses was lost, and nothing can be finished.

        For one reader. Raises what ended the placement.
        """
        last: frozenset[str] | None = None
        while True:
            self._changed.clear()
            if self._to_run != last:
                last = self._to_run
                yield last
                continue
            changed = asyncio.ensure_future(self._changed.wait())
            assert self._task is not None, "watch inside of `async with`"
            try:
                await asyncio.wait({changed, self._task}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            if self._task.done():
                self._task.result()
                return

    def at_rest(self, keys: Iterable[str]) -> None:
        """Nothing is under way with these keys that `watch` has left out: another node may have them."""
        for key in keys:
            self._member.at_rest(key)
        self._wake.set()

    async def leave(self) -> None:
        """Gives up everything; returns when the store knows, or when the lease has run out. First end what is under
        way: the guard refuses from now on."""
        self._member.leave()
        self._wake.set()
        until_s = self._clock() + self.rules.ttl_s
        while not self._member.has_left and self._clock() < until_s and not (self._task and self._task.done()):
            await asyncio.sleep(self.rules.beat_s / 50)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.leave()
        finally:
            assert self._task is not None
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self.guard.permit({}, 0.0)

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                group.create_task(self._drive(group))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _drive(self, group: asyncio.TaskGroup) -> None:
        while not _is_cancelled():
            self._wake.clear()
            writes = self._member.plan(self._clock())
            self._publish()  # before anything is given away
            for write in writes:
                group.create_task(self._write(write))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.rules.beat_s / 10):
                    await self._wake.wait()
            await asyncio.sleep(min(0.01, self.rules.beat_s / 50))  # what comes together is looked at together

    def _publish(self) -> None:
        until_s = self._member.valid_until_s
        self.guard.permit(self._member.fences(), until_s)
        to_run = self._member.to_run() if self._clock() < until_s else frozenset()
        given = frozenset(self._given[key] for key in to_run)
        if given != self._to_run:
            self._to_run = given
            self._changed.set()

    async def _write(self, write: Write) -> None:
        # A renewal waits for no other write.
        slot = contextlib.nullcontext() if write.name.startswith(_NODE) else self._slots
        found: Entry | None = None
        try:
            async with slot, asyncio.timeout(self.rules.beat_s):
                revision = await self._store.write(write)
                if revision is None:
                    found = await self._store.read(write.name)
        except (Retryable, TimeoutError) as error:
            log.debug("%s was not written, or was: %s", write.name, error)
            self._member.unknown(write)
        else:
            if revision is None:
                self._member.refused(write, found, self._clock())
            else:
                self._member.answered(write, revision, self._clock())
        self._wake.set()

    async def _follow(self) -> None:
        """Sees what changes. Our own renewals come by too: when nothing does, begins again."""
        while not _is_cancelled():
            changes = self._store.changes()
            try:
                await self._follow_one(changes)
            except (Retryable, TimeoutError, StopAsyncIteration) as error:
                log.debug("the store is looked at again: %s", error)
                await asyncio.sleep(self.rules.beat_s / 10)
            finally:
                await changes.aclose()  # type: ignore[attr-defined]

    async def _follow_one(self, changes: AsyncIterator[Entry]) -> None:
        while not _is_cancelled():
            async with asyncio.timeout(2 * self.rules.beat_s):
                entry = await anext(changes)
            self._member.seen(entry, self._clock())
            self._wake.set()


def _is_cancelled() -> bool:
    """A cancellation may get lost: until Python 3.12 in `asyncio.wait_for`, which clients of stores use."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class MemoryStore:
    """A store for nodes of one process. For tests, and for a placement of one."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._revision = 0
        self._watchers: list[asyncio.Queue[Entry]] = []

    def write_now(self, write: Write) -> int | None:
        """As `write`."""
        known = self._entries.get(write.name)
        if (known.revision if known else 0) != write.after:
            return None
        self._revision += 1
        entry = Entry(name=write.name, revision=self._revision, value=write.value)
        self._entries[write.name] = entry
        for watcher in self._watchers:
            watcher.put_nowait(entry)
        return self._revision

    def entries(self) -> list[Entry]:
        """All, as they were written."""
        return sorted(self._entries.values(), key=lambda entry: entry.revision)

    async def write(self, write: Write) -> int | None:
        return self.write_now(write)

    async def read(self, name: str) -> Entry | None:
        return self._entries.get(name)

    async def changes(self) -> AsyncIterator[Entry]:
        watcher: asyncio.Queue[Entry] = asyncio.Queue()
        self._watchers.append(watcher)
        try:
            for entry in self.entries():
                yield entry
            while True:
                yield await watcher.get()
        finally:
            self._watchers.remove(watcher)
