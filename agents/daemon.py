"""A fleet left running: heads come in, one cycle at a time goes out, and every error has one of three ends.

    retry   the next head tries again; after several in a row a breaker opens, and only what was sent is followed
    halt    nothing is traded; what was sent is followed, and the process stays to say why
    stop    the process ends with code 78: nothing will work until somebody changes what the message names

A cycle runs in a thread, so that health and metrics answer while it does. A stop waits for the cycle that runs and
leaves what is in flight in the journal: the next start goes on from there. A cycle that hangs, or that takes longer
than a stop may wait, ends with the process: a thread can't be ended otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic, time
from typing import Any, Final

from requests import RequestException
from web3.exceptions import Web3Exception

from agents.alerts import Notifier
from agents.errors import AgentError, Halted, Misconfigured
from agents.fees import FeeTooHigh
from agents.fleet import PAUSED, Fleet, Tick
from agents.journal import Journal, Note
from agents.telemetry import Telemetry
from oracle.chain import BlockRef
from oracle.errors import OracleError

log = logging.getLogger("marketflow.daemon")

EXIT_STOPPED: Final = 78  # EX_CONFIG: a supervisor need not start it again
EXIT_HUNG: Final = 70
EXIT_NO_HEADS: Final = 69  # EX_UNAVAILABLE: to be started again; also where placement ended
# A warning about the same thing is logged again after this.
_QUIET_S: Final = 300.0
# What a daemon that ends may say of itself.
_LAST: Final = ("halted", "stopped", "stopping")


class Action(StrEnum):
    """What is done about an error."""

    RETRY = "retry"
    HALT = "halt"
    STOP = "stop"


_COUNTED: Final = {Action.RETRY: "retried", Action.HALT: "halted", Action.STOP: "stopped"}


def action_for(error: BaseException) -> Action:
    """The one place where errors become actions. What nobody foresaw is tried again, and counted by the breaker."""
    if isinstance(error, Misconfigured):
        return Action.STOP
    if isinstance(error, Halted):
        return Action.HALT
    return Action.RETRY


def is_foreseen(error: BaseException) -> bool:
    """Whether an error is one that a node or a feed can cause: no bug, and no traceback in the log."""
    return isinstance(error, AgentError | OracleError | Web3Exception | RequestException | OSError)


@dataclass(slots=True, kw_only=True)
class Breaker:
    """Opens after several failures in a row, for a while that doubles up to sixteen times its first length."""

    after: int
    open_s: float
    failures: int = 0
    opened: int = 0
    open_until: float = 0.0

    def failed(self, now: float) -> bool:
        """Counts a failure; whether this one opened it."""
        self.failures += 1
        if self.failures < self.after:
            return False
        self.failures = 0
        self.open_until = now + self.open_s * 2 ** min(self.opened, 4)
        self.opened += 1
        return True

    def succeeded(self) -> None:
        """Closes it."""
        self.failures = self.opened = 0
        self.open_until = 0.0

    def is_open(self, now: float) -> bool:
        return now < self.open_until


@dataclass(slots=True, kw_only=True)
class Health:
    """What the daemon says of itself."""

    started_at_s: float
    state: str = "starting"
    because: str = ""
    head: BlockRef | None = None
    cycles: int = 0
    failed_cycles: int = 0
    last_cycle_at: float = 0.0
    last_cycle_ms: int = 0
    skew_s: int = 0
    parked: dict[str, str] = field(default_factory=dict)
    stuck: dict[str, str] = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        return self.state == "trading"


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonRules:
    """Of the process, not of the trading. Seconds of the machine's clock."""

    breaker_after: int = 5
    breaker_s: float = 60.0
    watchdog_s: float = 300.0
    grace_s: float = 30.0
    max_clock_skew_s: int = 60
    # How long there may be no head before it counts as a fault.
    max_silence_s: float = 300.0


class Daemon:
    """Runs a fleet until it is told to stop. `reload` reads the operator's limits again; `after_tick` is told of each
    cycle, and may fail; `end` ends the process at once."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        journal: Journal,
        heads: Callable[[], AsyncIterator[BlockRef]],
        rules: DaemonRules | None = None,
        telemetry: Telemetry | None = None,
        notifier: Notifier | None = None,
        reload: Callable[[], Any] | None = None,
        after_tick: Callable[[Tick], None] | None = None,
        now: Callable[[], float] = time,
        clock: Callable[[], float] = monotonic,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self.fleet, self._journal, self._heads = fleet, journal, heads
        self.rules = rules or DaemonRules()
        self.telemetry, self._notifier = telemetry or Telemetry(), notifier
        self._reload, self._after_tick, self._now, self._clock, self._end = reload, after_tick, now, clock, end
        self.breaker = Breaker(after=self.rules.breaker_after, open_s=self.rules.breaker_s)
        self.health = Health(started_at_s=now())
        self._stopping, self._is_over = asyncio.Event(), threading.Event()
        self._failure: tuple[int, str] | None = None
        self._working: asyncio.Future[None] | None = None
        self._busy_since: float | None = None
        self._head_at, self._heads_seen = clock(), 0
        self._quiet_until: dict[str, float] = {}
        # When the event loop last said that it lives, by `monotonic`.
        self.beat_at = 0.0
        self._is_reconciled = False
        self._held = fleet.held
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cycle")

    async def run(self) -> int:
        """Until SIGTERM, SIGINT, or an error that stops. The exit code: 0 only when it was told to stop."""
        self._listen()
        watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        watchdog.start()
        asked, code = asyncio.ensure_future(self._stopping.wait()), None
        try:
            code = await self._follow_heads(asked)
        finally:
            because = self.health.because if code else "asked to"
            if code is None and self._failure:
                code, because = self._failure
            self._set_state("stopping", because)
            self._stopping.set()
            code = await self._finish(because) or code
            self._is_over.set()
            watchdog.join()
        return code or 0

    def hold(self, accounts: frozenset[str]) -> None:
        """From the next cycle on only these accounts' keys are this machine's. One that comes has been used elsewhere
        meanwhile: everything is reconciled first."""
        self._held = accounts

    def stop(self) -> None:
        """Ends after the cycle that runs. From the loop's thread."""
        self._stopping.set()

    def fail(self, code: int, because: str) -> None:
        """As `stop`, and the process ends with this code: something that the daemon can't be without is gone. Only the
        first call counts. From the loop's thread."""
        if self._stopping.is_set():
            return
        self._failure = code, because
        log.critical("%s: ending, with code %s", because, code)
        self._alert("failed", "critical", because)
        self._set_state("stopped", because)
        self.stop()

    # One cycle

    async def _follow_heads(self, asked: asyncio.Future[Any]) -> int | None:
        """A cycle for each head. The exit code when it ends for another reason than that it was asked to."""
        try:
            async with contextlib.aclosing(self._until_stopped(self._heads(), asked)) as heads:
                async for head in heads:
                    if (code := await self._cycle(head, asked)) is not None:
                        return code
        except Exception as error:
            return self._lost_heads(error)
        return None if self._stopping.is_set() else self._lost_heads(EOFError("the stream of heads ended"))

    def _lost_heads(self, error: Exception) -> int:
        """Nothing comes any more: a daemon without heads would seem to live, and do nothing."""
        if action_for(error) is Action.STOP:
            self._failed(error)
            return EXIT_STOPPED
        said = _said(error)
        log.critical("no more heads: %s: ending, to be started again", said, exc_info=_trace_of(error))
        self._alert("heads", "critical", said)
        self._set_state("stopped", said)
        return EXIT_NO_HEADS

    async def _cycle(self, head: BlockRef, asked: asyncio.Future[Any]) -> int | None:
        """The exit code when the error is one that stops. When a stop is asked for meanwhile, `_finish` waits."""
        self._head_at = self._busy_since = self._clock()
        self._working = asyncio.get_running_loop().run_in_executor(self._worker, self._work, head)
        await asyncio.wait({self._working, asked}, return_when=asyncio.FIRST_COMPLETED)
        return self._ended(self._working) if self._working.done() else None

    def _ended(self, working: asyncio.Future[None]) -> int | None:
        self._working = self._busy_since = None
        error = working.exception()
        if error is None or isinstance(error, Exception):
            return self._failed(error) if error else None
        raise error

    def _work(self, head: BlockRef) -> None:
        """In the worker's thread."""
        begun = self._clock()
        held = self._held  # once: the loop's thread may change it meanwhile
        if held != self.fleet.held:
            self._is_reconciled &= not (held or frozenset()) - (self.fleet.held or frozenset())
            self.fleet.held = held
        self._look_at_clock(head)
        self.health.head = head
        if not self.breaker.is_open(begun):
            self._trade(head)
        elif self._is_reconciled:
            self.fleet.follow(head)
        self.health.last_cycle_ms = int(1000 * (self._clock() - begun))

    def _trade(self, head: BlockRef) -> None:
        if not self._is_reconciled:
            self._reconcile(head)
        self._tick(head)

    def _reconcile(self, head: BlockRef) -> None:
        if self.health.state != "halted":  # stays so until it is over
            self._set_state("reconciling", self.health.because)
        found = self.fleet.reconcile(head)
        self._is_reconciled = True
        log.info(
            "the journal is where the chain is at block %s: %s abandoned, %s adopted, %s ended",
            head.number, found.abandoned, found.adopted, len(found.followed.ended),
        )  # fmt: skip

    def _tick(self, head: BlockRef) -> None:
        tick = self.fleet.tick(head)
        self.breaker.succeeded()
        self.health.cycles += 1
        self.health.last_cycle_at = self._now()
        # A head at which no vault was read says nothing new about why an agent is parked.
        kept = {vault: why for vault, why in self.health.parked.items() if vault not in tick.readings}
        self.health.parked, self.health.stuck = kept | tick.parked, tick.followed.stuck
        paused = self._journal.controls().get(PAUSED)
        self._set_state("paused" if paused else "trading", str(paused or ""))
        self._journal.set_fact("heartbeat", {"at_s": int(self._now()), "block": head.number, "pid": os.getpid()})
        self.telemetry.count("cycles_total", outcome="ok")
        self._tell_of(tick)

    def _tell_of(self, tick: Tick) -> None:
        """What can't be said or measured is no reason to stop trading."""
        try:
            self._say(tick)
            if self._after_tick:
                self._after_tick(tick)
        except Exception:
            log.exception("the cycle at block %s could not be reported", tick.head.number)

    def _failed(self, error: Exception) -> int | None:
        action, said = action_for(error), _said(error)
        self.health.failed_cycles += 1
        self.telemetry.count("cycles_total", outcome=_COUNTED[action])
        if action is Action.STOP:
            log.error("stopped: %s", said)
            self._alert("stopped", "critical", said)
            self._set_state("stopped", said)
            return EXIT_STOPPED
        if action is Action.HALT:
            self._is_reconciled = False  # the next head looks at everything again
            if self.health.state != "halted":
                log.error("halted: %s", said)
                self._alert("halted", "critical", said)
            self._set_state("halted", said)
            return None
        if isinstance(error, FeeTooHigh):
            self._wait_for_cheaper_gas(said)
            return None
        log.warning("cycle failed: %s", said, exc_info=_trace_of(error))
        if self.breaker.failed(self._clock()):
            self._warn("breaker", f"{self.rules.breaker_after} cycles in a row failed: {said}")
            self._set_state("waiting", said)
        elif self.health.state == "reconciling":
            self._set_state("reconciling", said)
        return None

    def _wait_for_cheaper_gas(self, said: str) -> None:
        """Nothing is wrong, and the next head may be cheap: no matter for the breaker."""
        self._warn("fee", said)
        self._set_state(self.health.state if self.health.state == "paused" else "trading", said)

    # Around it

    def _say(self, tick: Tick) -> None:
        for row, vault, outcome in tick.followed.ended:
            log.info("decision %s of %s: %s %s", row, vault, outcome.ended, outcome.detail)
        for placed in tick.placed:
            if placed.transaction_hash:
                log.info("decision %s: sent as %s", placed.row, placed.transaction_hash)
            else:
                log.info("decision %s: not sent: %s", placed.row, placed.refused or placed.waits_because)
        for vault, decision in tick.decisions.items():
            for step in (decided.step for decided in decision.steps if decided.step.broken):
                clauses = "; ".join(f"{b.clause} ({b.detail})" for b in step.broken)
                log.info("a trade of %s in %s: denied by %s", vault, step.asset, clauses)
        for vault, said in tick.parked.items():
            if vault in tick.decisions:
                self._warn(f"parked {vault}", f"{vault}: {said}")
        if tick.followed.reorged:
            self._warn("reorg", f"{tick.followed.reorged} decisions were in blocks that a reorg took")
        for account, said in tick.followed.stuck.items():
            self._warn(f"stuck {account}", said)

    def _look_at_clock(self, head: BlockRef) -> None:
        """Decisions use the chain's time only; but a machine whose clock is wrong misjudges what is late. The first
        head may be old; one that came while it ran is not."""
        self.health.skew_s = int(self._now()) - head.timestamp_s
        self._heads_seen += 1
        self.telemetry.gauge("clock_skew_seconds", self.health.skew_s)
        if self.health.skew_s < -self.rules.max_clock_skew_s:
            self._warn("clock", f"the machine's clock is {-self.health.skew_s} s behind block {head.number}")
        elif self.health.skew_s > self.rules.max_clock_skew_s and self._heads_seen > 1:
            said = f"the machine's clock is {self.health.skew_s} s ahead of block {head.number}, or the node is late"
            self._warn("clock", said)

    def notice_silence(self) -> None:
        """Says so when no heads come: then no cycle fails, and nothing is traded. From the loop's thread, often."""
        is_silent = self._working is None and self._clock() - self._head_at > self.rules.max_silence_s
        if is_silent and self.health.state not in ("silent", "halted", "stopped", "stopping"):
            said = f"no new head for more than {self.rules.max_silence_s:g} s: no node answers, or they are behind"
            self._warn("silence", said)
            self._set_state("silent", said)

    def _set_state(self, state: str, because: str) -> None:
        if self._stopping.is_set() and state not in _LAST:
            return  # the cycle that was running does not make a daemon that ends look well
        if (state, because) != (self.health.state, self.health.because):
            log.info("%s%s", state, f": {because}" if because else "")
        self.health.state, self.health.because = state, because
        self.telemetry.gauge("paused", int(state == "paused"))
        self.telemetry.gauge("circuit_open", int(state == "waiting"))
        self.telemetry.gauge("operator_needed", int(state in ("halted", "stopped") or bool(self.health.stuck)))

    def _alert(self, event: str, severity: str, text: str) -> None:
        if self._notifier:
            self._notifier.send(event, severity, text)

    def _warn(self, event: str, text: str) -> None:
        """Tells of what may go on for long: once in a while in the log."""
        if self._clock() >= self._quiet_until.get(event, float("-inf")):
            self._quiet_until[event] = self._clock() + _QUIET_S
            log.warning("%s", text)
        self._alert(event, "warning", text)

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # not in the main thread
                loop.add_signal_handler(number, self.stop)
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(signal.SIGHUP, self.reload)

    def reload(self) -> None:
        """Reads the operator's limits again; keeps the old ones when the file is wrong."""
        if self._reload is None:
            return
        try:
            self.fleet.operator = self._reload()
        except (AgentError, OSError, ValueError) as error:
            log.error("the limits stay as they are: %s", error)
            self._alert("reload", "warning", f"the limits stay as they are: {error}")
        else:
            log.info("the operator's limits are %s", self.fleet.operator)

    async def _until_stopped(
        self, heads: AsyncIterator[BlockRef], asked: asyncio.Future[Any]
    ) -> AsyncGenerator[BlockRef, None]:
        coming: asyncio.Future[BlockRef] | None = None
        try:
            while not self._stopping.is_set():
                coming = asyncio.ensure_future(anext(heads))
                await asyncio.wait({coming, asked}, return_when=asyncio.FIRST_COMPLETED)
                if self._stopping.is_set():
                    return
                try:
                    head = coming.result()
                except StopAsyncIteration:
                    return
                yield head
        finally:
            if coming:
                await _cancelled(coming)
            if close := getattr(heads, "aclose", None):
                await close()

    async def _finish(self, because: str) -> int | None:
        """Waits for the cycle that runs; what it leaves is in the journal. The exit code when its error is one that
        stops."""
        code = None
        self._worker.shutdown(wait=False)
        if self._working is not None:
            await asyncio.wait({self._working}, timeout=self.rules.grace_s)
            if not self._working.done():
                self._give_up(f"the cycle that runs takes more than {self.rules.grace_s:g} s: left to the journal")
                return EXIT_HUNG
            code = self._ended(self._working)
        with contextlib.suppress(AgentError):  # a note is no reason to lose the exit code
            self._journal.note(Note.STOPPED, "", because, at_s=int(self._now()))
        return code

    def _watch(self) -> None:
        """A cycle that hangs holds everything up: end the process and let the supervisor start it again."""
        while not self._is_over.wait(min(1.0, self.rules.watchdog_s / 4)):
            since = self._busy_since
            if since is not None and self._clock() - since > self.rules.watchdog_s:
                self._give_up(f"a cycle takes more than {self.rules.watchdog_s:g} s: ending, to be started again")
                return

    def _give_up(self, said: str) -> None:
        """Says where every thread is, and ends."""
        log.critical("%s", said)
        with contextlib.suppress(Exception):  # standard error may be no file, or closed
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        self._end(EXIT_HUNG)


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or repr(error)


def _trace_of(error: BaseException) -> BaseException | None:
    """Only of what nobody foresaw."""
    return None if is_foreseen(error) else error


async def _cancelled(work: asyncio.Future[Any]) -> None:
    """Ends it, whatever it ends with."""
    work.cancel()
    await asyncio.wait({work})
    if not work.cancelled():
        work.exception()
