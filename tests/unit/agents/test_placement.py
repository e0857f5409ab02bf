"""Placement without a network: what a node may use, takes and gives away, whatever comes late, twice or never."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agents.errors import Misconfigured
from agents.placement import (
    Entry,
    GuardedSigner,
    KeyGuard,
    LeaseLost,
    Member,
    MemoryStore,
    Placement,
    PlacementRules,
    Write,
    rank,
)

RULES = PlacementRules(ttl_s=10, margin_s=2, beat_s=2, settle_s=3, handover_s=4, max_moves=2)
KEYS = [f"0x{number:040x}" for number in range(1, 13)]


@dataclass(slots=True)
class Sent:
    """A write under way."""

    node: SimNode
    write: Write
    is_applied: bool = False
    revision: int | None = None
    found: Entry | None = None


@dataclass(slots=True)
class SimNode:
    """A member with a clock that is not the others', and what its guard was last told."""

    member: Member
    rate: float = 1.0
    offset_s: float = 0.0
    fences: dict[str, int] = field(default_factory=dict)
    until_s: float = float("-inf")

    def now_s(self, true_s: float) -> float:
        return self.offset_s + true_s * self.rate

    def may_use(self, true_s: float) -> dict[str, int]:
        return self.fences if self.now_s(true_s) < self.until_s else {}


class World:
    """Nodes, one store, and everything that was sent between them and has not arrived."""

    def __init__(self, keys: Iterable[str] = KEYS) -> None:
        self.true_s, self.keys = 0.0, list(keys)
        self.store, self.history = MemoryStore(), [[]]  # type: MemoryStore, list[list[Entry]]
        self.nodes: dict[str, SimNode] = {}
        self.under_way: list[Sent] = []
        self._tokens = itertools.count()
        # Called whenever time has passed or somebody has done something.
        self.check: Callable[[], None] = lambda: None

    def join(
        self, name: str, *, rate: float = 1.0, offset_s: float = 0.0, keys: Iterable[str] = (), process: str = ""
    ) -> SimNode:
        """`process`: what the test calls it, when two have one name."""
        member = Member(name, list(keys) or self.keys, RULES, token=lambda: f"t{next(self._tokens)}")
        self.nodes[process or name] = SimNode(member, rate, offset_s)
        return self.nodes[process or name]

    def step(self, node: SimNode) -> None:
        """As the edge does it: plan, tell the guard, send."""
        writes = node.member.plan(node.now_s(self.true_s))
        node.fences, node.until_s = node.member.fences(), node.member.valid_until_s
        self.under_way += [Sent(node, write) for write in writes]

    def apply(self, sent: Sent) -> None:
        sent.is_applied, sent.revision = True, self.store.write_now(sent.write)
        if sent.revision is None:
            sent.found = next((e for e in self.store.entries() if e.name == sent.write.name), None)
        self.history.append(self.store.entries())

    def answer(self, sent: Sent) -> None:
        self.under_way.remove(sent)
        member, now_s = sent.node.member, sent.node.now_s(self.true_s)
        if sent.revision is not None:
            member.answered(sent.write, sent.revision, now_s)
        else:
            member.refused(sent.write, sent.found, now_s)

    def look(self, node: SimNode, back: int = 0) -> None:
        """All that the store has, or had that many writes ago."""
        for entry in self.history[max(0, len(self.history) - 1 - back)]:
            node.member.seen(entry, node.now_s(self.true_s))

    def run(self, seconds: float, *names: str, each_s: float = 0.5) -> None:
        """Without any trouble, but for the nodes that are not named: they do nothing."""
        for _ in range(int(seconds / each_s)):
            self.true_s += each_s
            for node in [self.nodes[name] for name in names or self.nodes]:
                self.look(node)
                self.step(node)
                for sent in [sent for sent in self.under_way if sent.node is node]:
                    self.apply(sent)
                    self.answer(sent)
                node.fences, node.until_s = node.member.fences(), node.member.valid_until_s
                self.check()

    def holders(self) -> dict[str, list[str]]:
        used = [(key, name) for name, node in self.nodes.items() for key in node.may_use(self.true_s)]
        return {key: [name for one, name in used if one == key] for key in self.keys}

    def held(self, name: str) -> set[str]:
        return set(self.nodes[name].may_use(self.true_s))


def session_in(store: MemoryStore, name: str) -> dict[str, Any]:
    return next((json.loads(entry.value) for entry in store.entries() if entry.name == f"node.{name}"), {})


def key_names() -> set[str]:
    return {f"key.{key}" for key in KEYS}


# Refusals


@pytest.mark.parametrize(
    "wrong", [{"ttl_s": 5, "margin_s": 3, "beat_s": 3}, {"margin_s": 0}, {"max_moves": 0}, {"settle_s": -1}]
)
def test_rules_that_lose_a_lease_with_two_renewals_or_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(Misconfigured):
        PlacementRules(**wrong)


@pytest.mark.parametrize(("name", "key"), [("a.b", KEYS[0]), ("", KEYS[0]), ("a", "0x12"), ("a", "vault")])
def test_names_and_addresses_that_a_store_could_not_hold_are_refused(name: str, key: str) -> None:
    with pytest.raises(Misconfigured):
        Member(name, [key], RULES)


def test_foreign_values_in_the_store_end_the_placement_instead_of_being_read() -> None:
    for name, value in [("other.x", b"{}"), ("key.0x1", b"no JSON"), ("node.b", b"{}")]:
        with pytest.raises(Misconfigured, match=name):
            Member("a", KEYS, RULES).seen(Entry(name=name, revision=1, value=value), 0)


def test_guard_refuses_a_key_that_is_not_held_and_every_key_once_the_time_is_over() -> None:
    now = [100.0]
    guard = KeyGuard(clock=lambda: now[0])
    with pytest.raises(LeaseLost, match="does not hold"):
        guard.check(KEYS[0])
    guard.permit({KEYS[10]: 7}, 110.0)
    assert guard.check(KEYS[10].upper().replace("X", "x")) == 7
    with pytest.raises(LeaseLost, match="does not hold"):
        guard.check(KEYS[0])
    now[0] = 110.0
    with pytest.raises(LeaseLost, match="ended"):
        guard.check(KEYS[10])


@pytest.mark.parametrize("meanwhile", ["the time was over", "it was elsewhere"])
def test_what_was_signed_too_late_is_thrown_away(meanwhile: str) -> None:
    now = [0.0]
    guard = KeyGuard(clock=lambda: now[0])
    guard.permit({KEYS[0]: 1}, 10.0)

    def slow(fields: object) -> object:
        now[0] = 10.0
        if meanwhile == "it was elsewhere":
            guard.permit({KEYS[0]: 3}, 20.0)
        return fields

    signer = GuardedSigner(SimpleNamespace(address=KEYS[0], sign=slow), guard)
    with pytest.raises(LeaseLost):
        signer.sign("a trade")


def test_nothing_is_signed_without_a_lease() -> None:
    asked: list[object] = []
    signer = GuardedSigner(SimpleNamespace(address=KEYS[0], sign=asked.append), KeyGuard(clock=lambda: 0.0))
    with pytest.raises(LeaseLost):
        signer.sign("a trade")
    assert not asked


def test_a_lease_counts_from_the_question_not_from_the_answer() -> None:
    world = World()
    node = world.join("a")
    world.step(node)
    (sent,) = world.under_way
    world.true_s = 5
    world.apply(sent)
    world.answer(sent)
    assert node.member.valid_until_s == RULES.ttl_s - RULES.margin_s


def test_an_answer_that_never_came_counts_from_its_own_question() -> None:
    world = World()
    node = world.join("a")
    world.step(node)
    first = world.under_way.pop()
    node.member.unknown(first.write)
    world.true_s = 3
    world.step(node)
    world.apply(first)  # the first one arrives after all, the second is refused because of it
    world.apply(world.under_way[0])
    world.answer(world.under_way[0])
    assert node.member.valid_until_s == RULES.ttl_s - RULES.margin_s


def test_a_node_takes_nothing_in_its_first_ttl() -> None:
    world = World()
    world.join("a")
    world.run(RULES.ttl_s)
    assert not world.held("a")
    world.run(2)
    assert world.held("a") == set(KEYS)


def test_keys_of_a_node_that_is_silent_are_taken_after_a_ttl_and_not_before() -> None:
    world = World()
    world.join("a"), world.join("b")
    world.run(15)
    before = world.held("a")
    world.run(RULES.ttl_s - 1, "b")
    assert before and world.held("b") == set(KEYS) - before
    world.run(3, "b")
    assert world.held("b") == set(KEYS)


def test_a_namesake_waits_until_the_one_before_must_have_stopped() -> None:
    world = World()
    before = world.join("a")
    world.join("b")
    world.run(15)
    theirs = world.held("a")
    world.join("a", process="a again")
    world.run(RULES.ttl_s - 1, "a again", "b")
    assert theirs and not theirs & (world.held("b") | world.held("a again"))
    assert not before.may_use(world.true_s)
    world.run(40, "a again", "b")
    assert world.held("a again") == theirs


def test_one_that_wakes_up_leaves_the_lease_of_its_namesake_alone() -> None:
    world = World()
    before = world.join("a")
    world.run(14)
    world.join("a", process="a again")
    world.run(RULES.ttl_s + 1, "a again")
    world.look(before)
    world.step(before)
    assert not world.under_way and not before.may_use(world.true_s)


def test_two_processes_of_one_name_never_share_a_lease() -> None:
    world = World()
    world.join("a"), world.join("a", process="other a")
    world.run(60)
    assert sorted(map(len, (world.held("a"), world.held("other a")))) == [0, len(KEYS)]


def test_a_node_that_wakes_up_after_its_keys_were_taken_uses_none_of_them() -> None:
    world = World()
    world.join("a"), world.join("b")
    world.run(15)
    world.run(15, "b")
    assert world.held("a") == set()
    world.step(world.nodes["a"])
    assert world.held("a") == set()
    world.run(1)
    assert world.held("a") == set() and world.held("b") == set(KEYS)


def test_a_lease_that_others_ended_is_not_renewed_but_begun_anew() -> None:
    world = World()
    world.join("a"), world.join("b")
    world.run(15)
    world.run(RULES.ttl_s + 1, "b")
    ended = session_in(world.store, "a")
    world.run(1)
    begun = session_in(world.store, "a")
    assert ended["has_ended"] and not begun["has_ended"] and begun["token"] != ended["token"]


def test_a_node_that_the_store_has_forgotten_uses_nothing() -> None:
    world = World()
    node = world.join("a")
    world.run(14)
    world.store, world.history = MemoryStore(), [[]]
    world.true_s += 2
    world.step(node)
    world.apply(world.under_way[0])
    world.answer(world.under_way[0])
    world.step(node)
    assert world.held("a") == set()
    world.run(RULES.ttl_s - 1)
    assert world.held("a") == set(), "whoever held a key in the store that is lost may still use it"
    world.run(3)
    assert world.held("a") == set(KEYS)


def test_a_store_that_was_set_back_ends_the_leases() -> None:
    world = World()
    node = world.join("a")
    world.run(14)
    world.true_s += 2
    world.step(node)
    (sent,) = world.under_way
    node.member.answered(sent.write, 3, world.true_s)
    world.step(node)
    assert world.held("a") == set()


@pytest.mark.parametrize("times_given", [1, 2])
def test_an_old_state_of_the_store_brings_no_key_back(times_given: int) -> None:
    world = World()
    node = world.join("a")
    world.run(14)
    old = len(world.history)
    for time in range(times_given):
        world.join("b")
        world.run(40)
        given = world.held("b")
        if time < times_given - 1:
            world.nodes["b"].member.leave()
            world.run(2)
            del world.nodes["b"]
            assert world.held("a") == set(KEYS)
    assert given
    world.look(node, back=len(world.history) - old)
    world.step(node)
    assert not given & world.held("a")


def test_an_old_state_of_the_store_makes_no_key_free() -> None:
    world = World()
    world.join("a")
    world.run(14)
    world.nodes["a"].member.leave()
    world.run(1)
    old = next(entry for entry in world.store.entries() if entry.name == "node.a")
    world.join("a")
    world.run(14)
    late = world.join("b")
    for _ in range(30):
        world.run(0.5, "a")
        for entry in [old, *(entry for entry in world.store.entries() if entry.name != "node.a")]:
            late.member.seen(entry, world.true_s)
        world.step(late)
        for sent in list(world.under_way):
            world.apply(sent)
            world.answer(sent)
    assert late.member._is_ready(world.true_s) and not world.held("b")
    assert world.held("a") == set(KEYS)


def test_an_entry_that_arrives_after_a_newer_one_changes_nothing() -> None:
    world = World()
    node = world.join("a")
    world.run(14)
    for entry in world.history[len(world.history) // 2]:
        node.member.seen(entry, world.true_s)
    world.run(0.5)
    assert world.held("a") == set(KEYS) and len(world.history) < 1000
    assert node.member.valid_until_s > world.true_s


def test_a_node_with_another_list_of_keys_is_given_none() -> None:
    world = World()
    world.join("a")
    world.run(14)
    world.join("b", keys=[*KEYS, f"0x{99:040x}"])
    world.run(30)
    assert world.held("a") == set(KEYS) and world.held("b") == {f"0x{99:040x}"}


# What it does


@given(st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=2, max_size=6, unique=True))
def test_a_node_that_leaves_moves_only_its_own_keys(nodes: list[str]) -> None:
    for key in KEYS:
        first, second, *_ = rank(key, nodes)
        for gone in nodes:
            left = [node for node in nodes if node != gone]
            assert rank(key, reversed(left))[0] == (second if gone == first else first)


def test_keys_are_spread_evenly() -> None:
    wanted = [rank(f"0x{number:040x}", ["a", "b", "c"])[0] for number in range(3000)]
    assert all(900 < wanted.count(node) < 1100 for node in "abc")


def test_a_joining_node_is_given_its_share_a_few_at_a_time_and_finishing_is_allowed() -> None:
    world = World()
    first = world.join("a")
    world.run(14)
    world.join("b")
    wanted = {key for key in KEYS if rank(key, ["a", "b"])[0] == "b"}
    assert len(wanted) > 2 * RULES.max_moves
    for _ in range(100):
        world.run(0.5)
        moving = world.held("a") - first.member.to_run()
        assert len(moving) <= RULES.max_moves
        assert moving <= world.held("a")
    assert world.held("b") == wanted and world.held("a") == set(KEYS) - wanted


def test_nodes_that_start_together_have_nothing_to_move() -> None:
    world = World()
    world.join("a")
    world.run(3)
    world.join("b"), world.join("c")
    world.run(30)
    assert all(world.held(name) == {key for key in KEYS if rank(key, "abc")[0] == name} for name in "abc")
    writes = Counter(entry.name for entries in world.history for entry in entries[-1:] if entry.name in key_names())
    assert set(writes.values()) == {1}


def test_what_is_under_way_is_not_written_again() -> None:
    world = World()
    node = world.join("a")
    world.run(RULES.ttl_s)
    world.true_s += 1
    world.step(node)
    assert len(world.under_way) == 1 + len(KEYS)
    world.step(node)
    assert len(world.under_way) == 1 + len(KEYS)


def test_nothing_moves_before_the_nodes_have_been_the_same_for_a_while() -> None:
    world = World()
    node = world.join("a")
    world.run(14)
    world.join("b")
    while not session_in(world.store, "b").get("is_ready"):
        world.run(0.5)
    world.run(RULES.settle_s - 1)
    assert node.member.to_run() == set(KEYS)
    world.run(1.5)
    assert node.member.to_run() != set(KEYS)


def test_a_key_at_rest_moves_at_once() -> None:
    world = World()
    node = world.join("a")
    world.run(14)
    world.join("b")
    while node.member.to_run() == set(KEYS):
        world.run(0.5)
    moving = set(KEYS) - node.member.to_run()
    assert moving <= world.held("a")
    for key in moving:
        node.member.at_rest(key)
    world.run(1)
    assert moving <= world.held("b")


def test_a_node_that_leaves_gives_everything_away_at_once() -> None:
    world = World()
    world.join("a"), world.join("b")
    world.run(15)
    world.nodes["a"].member.leave()
    world.step(world.nodes["a"])
    assert world.held("a") == set()
    world.run(1.5)
    assert world.nodes["a"].member.has_left and world.held("b") == set(KEYS)


# One that each node should have.
FEW_KEYS = [next(key for key in KEYS if rank(key, "abc")[0] == node) for node in "abc"]


class NeverTwice(RuleBasedStateMachine):
    """Messages that are late or lost, old states, nodes that stand still, and clocks ten percent apart from true."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(FEW_KEYS)
        for index, (name, rate) in enumerate([("a", 0.9), ("b", 1.1), ("c", 1.0)]):
            self.world.join(name, rate=rate, offset_s=1000.0 * index)
        self.world.join("a", process="namesake", offset_s=7.0)
        self.last: dict[str, tuple[int, str]] = {}
        self.world.check = self.no_key_is_used_by_two_nodes_and_fences_only_grow
        self.world.run(14, "a", "b", "c")

    def _node(self, index: int) -> SimNode:
        return list(self.world.nodes.values())[index]

    def _sent(self, index: int, which: Callable[[Sent], bool]) -> Sent | None:
        found = [sent for sent in self.world.under_way if which(sent)]
        return found[index % len(found)] if found else None

    @rule(seconds=st.sampled_from([0.3, 1.0, 2.5, 8.0, 10.5]))
    def time_passes(self, seconds: float) -> None:
        self.world.true_s += seconds

    @rule(seconds=st.sampled_from([1.0, 3.0, 7.0, 12.0]), awake=st.sets(st.integers(0, 3), min_size=1))
    def some_are_well(self, seconds: float, awake: set[int]) -> None:
        names = list(self.world.nodes)
        self.world.run(seconds, *(names[index] for index in sorted(awake)))

    @rule(index=st.integers(0, 3))
    def a_node_acts(self, index: int) -> None:
        self.world.step(self._node(index))

    @rule(index=st.integers(0, 3), back=st.sampled_from([0, 0, 1, 3, 10]))
    def a_node_looks(self, index: int, back: int) -> None:
        self.world.look(self._node(index), back)

    @rule(index=st.integers(0, 50))
    def a_write_arrives(self, index: int) -> None:
        if sent := self._sent(index, lambda sent: not sent.is_applied):
            self.world.apply(sent)

    @rule(index=st.integers(0, 50))
    def an_answer_arrives(self, index: int) -> None:
        if sent := self._sent(index, lambda sent: sent.is_applied and sent.write.name in sent.node.member._pending):
            self.world.answer(sent)

    @rule(index=st.integers(0, 50))
    def a_node_waits_no_longer(self, index: int) -> None:
        if sent := self._sent(index, lambda sent: sent.write.name in sent.node.member._pending):
            sent.node.member.unknown(sent.write)
            if sent.is_applied:
                self.world.under_way.remove(sent)

    @rule(
        index=st.integers(0, 3),
        seconds=st.sampled_from([3.0, 8.0, 9.0, 9.5, 10.0, 11.0, 13.0]),
        does_arrive=st.booleans(),
        is_answered=st.booleans(),
    )
    def the_net_is_slow(self, index: int, seconds: float, does_arrive: bool, is_answered: bool) -> None:
        """What a node sends arrives while the others go on, or later; so does the answer."""
        node = self._node(index)
        self.world.step(node)
        own = [sent for sent in self.world.under_way if sent.node is node and not sent.is_applied]
        for sent in own if does_arrive else ():
            self.world.apply(sent)
        self.world.run(seconds, *(name for name, other in self.world.nodes.items() if other is not node))
        for sent in own if does_arrive and is_answered else ():
            if sent.write.name in node.member._pending:
                self.world.answer(sent)
        self.world.step(node)

    @rule(index=st.integers(0, 3), key=st.sampled_from(FEW_KEYS))
    def a_key_is_at_rest(self, index: int, key: str) -> None:
        self._node(index).member.at_rest(key)

    @rule(index=st.integers(0, 3))
    def a_node_crashes_and_is_started_again(self, index: int) -> None:
        name, before = list(self.world.nodes.items())[index]
        self.world.under_way = [sent for sent in self.world.under_way if sent.node is not before or not sent.is_applied]
        self.world.join(before.member.name, rate=before.rate, offset_s=before.offset_s, process=name)

    @invariant()
    def no_key_is_used_by_two_nodes_and_fences_only_grow(self) -> None:
        for name, node in self.world.nodes.items():
            for key, fence in node.may_use(self.world.true_s).items():
                last_fence, last_name = self.last.get(key, (0, ""))
                assert fence > last_fence or (fence, name) == (last_fence, last_name)
                self.last[key] = (fence, name)
        assert all(len(names) <= 1 for names in self.world.holders().values())


NeverTwice.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None, derandomize=True)
TestNoKeyIsEverUsedByTwoNodes = NeverTwice.TestCase


# At the edge, in one process


def test_watch_yields_the_keys_to_run_and_the_guard_agrees() -> None:
    rules = PlacementRules(ttl_s=0.4, margin_s=0.1, beat_s=0.1, settle_s=0.1, handover_s=0.1)
    keys = ["0x" + "aB" * 20, KEYS[0]]

    async def hold(store: MemoryStore, name: str) -> frozenset[str]:
        async with Placement(store, name=name, keys=keys, rules=rules) as placement:
            async for held in placement.watch():
                assert all(placement.guard.check(key) for key in held)
                if len(held) == len(keys):
                    return held
        raise AssertionError("the placement ended")

    async def one_after_the_other() -> None:
        store = MemoryStore()
        assert await hold(store, "a") == await hold(store, "b") == set(keys)

    asyncio.run(one_after_the_other())


def test_watch_raises_what_ended_the_placement() -> None:
    class Foreign(MemoryStore):
        async def read(self, name: str) -> Entry | None:
            return Entry(name="surprise", revision=1, value=b"")

        async def write(self, write: Write) -> int | None:
            return None

    async def run() -> None:
        async with Placement(Foreign(), name="a", keys=KEYS, rules=RULES) as placement:
            async for _ in placement.watch():
                pass

    with pytest.raises(Misconfigured, match="surprise"):
        asyncio.run(run())
