"""Faults inside a process: a crash at a named point, a disk that takes no more, a clock that jumps."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn, Self

__all__ = ["Crash", "CrashPoints", "FullDisk", "SkewedClock", "die", "full_sqlite", "raise_crash"]


class Crash(BaseException):
    """The process dies here. No BaseException handler of the code under test may act as if it did not."""

    def __init__(self, point: str, visit: int) -> None:
        super().__init__(f"{point}:{visit}")
        self.point, self.visit = point, visit


def raise_crash(point: str, visit: int) -> NoReturn:
    """Unwinds the stack to whoever started the code under test. `finally` blocks run, which a SIGKILL would not let."""
    raise Crash(point, visit)


def die(point: str, visit: int) -> NoReturn:
    """A real SIGKILL of this process: nothing more runs."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


class CrashPoints:
    """Called with a point's name wherever the code under test may die; dies at the chosen visits of chosen points.

    `plan` are pairs of a point and a visit, from 1; each happens once, so a run that is restarted with the same object
    gets on, or dies again at another pair. Without a plan nothing happens but counting: `visits` of a first run is the
    census from which `seeded` draws. Threads may share it. `how` is `raise_crash`, or `die` in a process of its own.
    """

    def __init__(self, plan: Iterable[tuple[str, int]] = (), *, how: Callable[[str, int], Any] = raise_crash) -> None:
        self._left, self._how = set(plan), how
        self._lock = threading.Lock()
        self.visits: Counter[str] = Counter()
        self.crashed: list[tuple[str, int]] = []

    @classmethod
    def seeded(
        cls, seed: int, census: Mapping[str, int], *, crashes: int = 1, how: Callable[[str, int], Any] = raise_crash
    ) -> Self:
        """Points drawn evenly, rare ones as often as frequent ones, then a visit of each that the census had."""
        rng = random.Random(f"crash:{seed}")
        points = sorted(point for point, visits in census.items() if visits)
        drawn = (rng.choice(points) for _ in range(crashes))
        return cls([(point, rng.randint(1, census[point])) for point in drawn], how=how)

    @classmethod
    def parse(cls, text: str, *, how: Callable[[str, int], Any] = die) -> Self:
        """From `POINT:VISIT,POINT:VISIT`, as it is handed to another process. Raises ValueError."""
        pairs = (part.rsplit(":", 1) for part in text.split(",") if part)
        return cls([(point, int(visit)) for point, visit in pairs], how=how)

    def __str__(self) -> str:
        """What is left of the plan, as `parse` reads it."""
        return ",".join(f"{point}:{visit}" for point, visit in sorted(self._left))

    def __call__(self, point: str) -> None:
        """This is the point. Raises Crash, or kills the process, when the plan says so."""
        with self._lock:
            self.visits[point] += 1
            here = (point, self.visits[point])
            if here not in self._left:
                return
            self._left.remove(here)
            self.crashed.append(here)
        self._how(*here)


def full_sqlite(connection: sqlite3.Connection, *, spare_pages: int = 0) -> Callable[[], None]:
    """From now on the database may grow by that many pages only; what is returned ends that.

    What comes is SQLite's own SQLITE_FULL ("database or disk is full"), from the same place as with a full disk. Holds
    for this connection alone, and only for new pages: free ones are used first. The write-ahead log may still grow.
    """
    before = int(connection.execute("PRAGMA max_page_count").fetchone()[0])
    pages = int(connection.execute("PRAGMA page_count").fetchone()[0])
    connection.execute(f"PRAGMA max_page_count = {pages + spare_pages}")
    return lambda: connection.execute(f"PRAGMA max_page_count = {before}") and None


class FullDisk:
    """No file of a process grows past `limit_bytes`: a full disk, in this process or in another of the same user.

    Every write beyond fails: in Python with OSError (EFBIG, where a full disk says ENOSPC), in SQLite as SQLITE_IOERR
    ("disk I/O error") or, when a part still fitted, as SQLITE_FULL. Needs no rights. It holds for *all* regular files
    of the process and all its threads, logs too; not for pipes and sockets. Linux only. Python ignores SIGXFSZ; a
    program that does not is killed by it.
    """

    def __init__(self, limit_bytes: int, *, pid: int = 0) -> None:
        self._limit_bytes, self._pid, self._before = limit_bytes, pid, (0, 0)

    def fill(self) -> None:
        """From now on."""
        self._before = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (self._limit_bytes, self._before[1]))

    def free(self) -> None:
        """No longer; somebody has tidied up."""
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(self._pid, resource.RLIMIT_FSIZE, self._before)

    def __enter__(self) -> Self:
        self.fill()
        return self

    def __exit__(self, *_: object) -> None:
        self.free()


class SkewedClock:
    """A wall clock that jumps: `clock()` as `time.time()`, in seconds since 1970. `base` is the clock that is right.

    `plan` maps the number of a reading (from 1) to seconds by which the clock jumps just before it.
    """

    def __init__(self, base: Callable[[], float] = time.time, plan: Mapping[int, int] | None = None) -> None:
        self._base, self._plan = base, dict(plan or {})
        self._lock = threading.Lock()
        self.offset_s, self.readings = 0, 0
        self.jumps: list[int] = []

    @classmethod
    def seeded(
        cls,
        seed: int,
        base: Callable[[], float] = time.time,
        *,
        jumps: int = 3,
        largest_s: int = 3_600,
        within_readings: int = 100,
    ) -> Self:
        """That many jumps, forwards and backwards, at readings drawn from the first `within_readings`."""
        rng = random.Random(f"clock:{seed}")
        when = rng.sample(range(1, within_readings + 1), jumps)
        return cls(base, {reading: rng.choice((-1, 1)) * rng.randint(1, largest_s) for reading in when})

    def jump(self, seconds: int) -> None:
        """Forwards, or with a negative number backwards."""
        with self._lock:
            self._jump(seconds)

    def __call__(self) -> float:
        """What time it says it is."""
        with self._lock:
            self.readings += 1
            self._jump(self._plan.pop(self.readings, 0))
            return self._base() + self.offset_s

    def now_s(self) -> int:
        """The same in whole seconds, rounded down."""
        return int(self())

    @contextlib.contextmanager
    def wrong_by(self, seconds: int) -> Iterator[None]:
        """Wrong by so much, and right by as much again afterwards."""
        self.jump(seconds)
        try:
            yield
        finally:
            self.jump(-seconds)

    def _jump(self, seconds: int) -> None:
        if seconds:
            self.offset_s += seconds
            self.jumps.append(seconds)
