"""A node of the placement's test: signs with each key that it holds, all the time, each signature a line of a file that
all nodes share.

    python -m tests.e2e.placement_node NAME SERVER LOG KEYS RULES

A line: key, fence, node, and when it was signed by the machine's clock, which all nodes here share. SIGTERM: leave.
SIGUSR1: stop, as by SIGSTOP, in the middle of the next signature.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agents.placement import GuardedSigner, KeyGuard, LeaseLost, Placement, PlacementRules, uptime_s
from agents.placement_nats import NatsLeaseStore

_EACH_S = 0.05


class Clerk:
    """Instead of a signature, the time of it."""

    stops_next = False

    def __init__(self, address: str) -> None:
        self.address = address

    def sign(self, _fields: Any) -> Any:
        if Clerk.stops_next:
            Clerk.stops_next = False
            os.kill(os.getpid(), signal.SIGSTOP)
        return uptime_s()


def stop_in_next_signature() -> None:
    Clerk.stops_next = True


def sign_with_all(keys: Iterable[str], guard: KeyGuard, name: str, log: int) -> None:
    """Every key, held or not: it is the guard that must refuse."""
    for key in keys:
        with contextlib.suppress(LeaseLost):
            fence = guard.check(key)
            signed_s: Any = GuardedSigner(Clerk(key), guard).sign(None)  # type: ignore[arg-type]
            # One write for each line: lines of several processes don't mix.
            os.write(log, f"{key} {fence} {name} {signed_s:.6f}\n".encode())


async def run(name: str, server: str, log_path: Path, keys: list[str], rules: PlacementRules) -> None:
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    leaving = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, leaving.set)
    loop.add_signal_handler(signal.SIGUSR1, stop_in_next_signature)
    async with (
        await NatsLeaseStore.connect([server]) as store,
        Placement(store, name=name, keys=keys, rules=rules) as placement,
    ):
        watching = asyncio.create_task(_let_go(placement))
        while not leaving.is_set():
            sign_with_all(keys, placement.guard, name, log)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EACH_S):
                    await leaving.wait()
        watching.cancel()


async def _let_go(placement: Placement) -> None:
    """Nothing is ever under way for long here: what moves away is at rest at once."""
    last: frozenset[str] = frozenset()
    async for held in placement.watch():
        placement.at_rest(last - held)
        last = held


if __name__ == "__main__":
    _, own_name, own_server, own_log, own_keys, own_rules = sys.argv
    asyncio.run(
        run(own_name, own_server, Path(own_log), json.loads(own_keys), PlacementRules(**json.loads(own_rules)))
    )
