"""Several nodes, each a process, around a real NATS server: killed, stopped and woken, joined, left; the server too."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from agents.localnet.nats import LocalNats
from agents.placement import PlacementRules, rank, uptime_s

RULES = PlacementRules(ttl_s=1.5, margin_s=0.3, beat_s=0.3, settle_s=0.3, handover_s=1.0, max_moves=50)
KEYS = [f"0x{number:040x}" for number in range(1, 301)]
# For a machine that does many other things; what it took is printed.
_PATIENCE_S = 60.0


class Use(NamedTuple):
    key: str
    fence: int
    node: str
    at_s: float


class Nodes:
    """Processes that write one log."""

    def __init__(self, server: LocalNats, folder: Path) -> None:
        self.server, self.log = server, folder / "uses"
        self.log.touch()
        self._reader, self._rest = self.log.open(), ""
        self._uses: list[Use] = []
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str) -> None:
        for name in names:
            arguments = [name, self.server.url, str(self.log), json.dumps(KEYS), json.dumps(asdict(RULES))]
            self.processes[name] = subprocess.Popen([sys.executable, "-m", "tests.e2e.placement_node", *arguments])

    def send(self, name: str, number: signal.Signals) -> None:
        self.processes[name].send_signal(number)

    def end(self, name: str, number: signal.Signals) -> int:
        self.send(name, number)
        return self.processes[name].wait(timeout=_PATIENCE_S)

    def uses(self, *, after_s: float = 0.0) -> list[Use]:
        # A reader may see the beginning of a line before its end.
        whole, _, self._rest = (self._rest + self._reader.read()).rpartition("\n")
        rows = map(str.split, whole.splitlines())
        self._uses += [Use(row[0], int(row[1]), row[2], float(row[3])) for row in rows]
        return [use for use in self._uses if use.at_s >= after_s]

    def await_all_used_by(self, *names: str, since_s: float) -> float:
        """Until each key was used by one of these nodes since then; how long it took from then on."""
        return self._await(since_s, lambda uses: {use.key for use in uses if use.node in names} == set(KEYS))

    def await_spread(self, *names: str) -> float:
        """Until each node alone uses just those keys that it should have."""
        wanted = {(key, rank(key, names)[0]) for key in KEYS}

        def is_spread(_: list[Use]) -> bool:
            recent = self.uses(after_s=uptime_s() - 0.5)
            return {(use.key, use.node) for use in recent} == wanted

        return self._await(uptime_s(), is_spread)

    def _await(self, since_s: float, is_so: Callable[[list[Use]], bool]) -> float:
        while not is_so(uses := self.uses(after_s=since_s)):
            assert uptime_s() - since_s < _PATIENCE_S, f"{len({use.key for use in uses})} keys are used"
            time.sleep(0.05)
        return uptime_s() - since_s

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        self._reader.close()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with LocalNats() as server:
        started = Nodes(server, tmp_path)
        try:
            yield started
        finally:
            started.close()


def assert_never_two(uses: list[Use]) -> None:
    """A fence has one node, and a key's fences only grow: so what one node does with it ends before another begins."""
    assert len({(use.key, use.fence) for use in uses}) == len({(use.key, use.fence, use.node) for use in uses})
    for key, of_key in groupby(sorted(uses, key=lambda use: (use.key, use.at_s)), key=lambda use: use.key):
        assert all(before.fence <= after.fence for before, after in pairwise(of_key)), key


def moves(uses: list[Use]) -> int:
    """How often a key changed its node."""
    by_time = sorted(uses, key=lambda use: (use.key, use.at_s))
    return sum(one.key == two.key and one.node != two.node for one, two in pairwise(by_time))


@pytest.mark.parametrize("second", [Use("k", 2, "b", 1.5), Use("k", 1, "b", 3.0)])
def test_two_holders_at_one_time_would_be_noticed(second: Use) -> None:
    with pytest.raises(AssertionError):
        assert_never_two([Use("k", 1, "a", 1.0), Use("k", 1, "a", 2.0), second])


def test_no_key_is_used_by_two_nodes_when_one_is_killed_one_stopped_one_joins_and_the_store_restarts(
    nodes: Nodes,
) -> None:
    started_s = uptime_s()
    nodes.start("a", "b", "c")
    took_s = nodes.await_spread("a", "b", "c")
    print(f"started: all keys are used after {took_s:.2f} s, the lease being {RULES.ttl_s} s")

    killed_s = uptime_s()
    assert nodes.end("a", signal.SIGKILL) == -signal.SIGKILL
    took_s = nodes.await_all_used_by("b", "c", since_s=killed_s)
    print(f"killed: all keys are used again after {took_s:.2f} s")
    uses = nodes.uses()
    orphans = {use.key for use in uses if use.node == "a"}
    taken_s = min(use.at_s for use in uses if use.key in orphans and use.node != "a" and use.at_s > killed_s)
    assert taken_s - killed_s > RULES.ttl_s - RULES.margin_s - RULES.beat_s, "not while it could still be alive"
    assert moves(nodes.uses(after_s=killed_s - RULES.beat_s)) <= len(orphans), "only its own keys move"

    stopped_s = uptime_s()
    nodes.send("b", signal.SIGUSR1)  # it stops in the middle of a signature
    took_s = nodes.await_all_used_by("c", since_s=stopped_s)
    print(f"stopped: all keys are used again after {took_s:.2f} s")
    nodes.start("d")
    woken_s = uptime_s()
    nodes.send("b", signal.SIGCONT)
    took_s = nodes.await_spread("b", "c", "d")
    print(f"woken, and another joined: the keys are spread again after {took_s:.2f} s")
    assert moves(nodes.uses(after_s=woken_s)) <= 2 * sum(rank(key, "bcd")[0] != "c" for key in KEYS)

    nodes.server.kill()
    nodes.server.start()
    took_s = nodes.await_all_used_by("b", "c", "d", since_s=uptime_s())
    print(f"store restarted: all keys are used again after {took_s:.2f} s")

    left_s = uptime_s()
    assert nodes.end("c", signal.SIGTERM) == 0
    took_s = nodes.await_all_used_by("b", "d", since_s=left_s)
    print(f"left: all keys are used again after {took_s:.2f} s")

    uses = nodes.uses()
    assert_never_two(uses)
    print(f"{len(uses)} uses of {len(KEYS)} keys, {moves(uses)} moves, in {uptime_s() - started_s:.1f} s")
