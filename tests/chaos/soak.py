"""A real daemon, left running for many bars while everything happens to it, and what is measured meanwhile.

A bar of ten minutes lasts a few seconds here: the chain's clock is moved, the machine's is not. So what the daemon
waits for by the machine's clock (nodes that rest, the breaker) is scaled by as much; that a killed daemon needs as long
to begin again as it does is not. Its imports are done before, as in `zygote`.

Of the bars that are counted, one is available when in it, before the next one begins, a daemon was up, had reconciled,
and ended a cycle in the state `trading` at a block that has the bar's new price. Bars in which no node answered at any
moment are not counted, because nobody could trade in them.

Not done here: jumps of the machine's clock, which belongs to all processes of it. Bits of an answer are not flipped
either: a client that trusts one node can't notice that, and TLS does not let it pass.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from agents import rpc, service
from agents.daemon import EXIT_STOPPED
from agents.errors import AgentError
from agents.journal import Journal
from agents.localnet.process import free_port
from agents.metering import journal_bytes
from tests.chaos.chainlab import Fate, LabError
from tests.chaos.kills import Street, Visit, _is_alive
from tests.chaos.lives import Story
from tests.chaos.proxy import ChaosProxy, Fault, Kind, Plan
from tests.contracts.world import World
from tests.e2e.conftest import BAR_S
from tests.e2e.daemons import settings_for

PRICES_USD = (1940, 1965, 1990, 2000, 2015, 2040, 2065)
AGENTS = 4
TRADES_PER_DAY = 50
# Blocks of a bar after its price, and the chain's seconds between them.
BLOCKS, BLOCK_S = 8, 25
# Every so many bars each of these happens once: a kill, a reorg, a foreign transaction, one of two nodes gone.
HOUR: Final = 6
# Every so many bars no node answers for one to three bars.
OUTAGE_EVERY: Final = 24
# Cycles of a life that are not looked at for growth: caches fill.
WARM_UP: Final = 60
KIB, MIB = 2**10, 2**20
BPS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What must hold at the end. Growth is that of the last life, which nobody kills, after its first cycles."""

    available_bps: int = 9_990
    operator_bps: int = 200
    # For 1,000 cycles. An allocator gives back late: so much may be noise.
    memory_bytes: int = 16 * MIB
    open_files: int = 8
    # For each decision, with its explanation, transaction and indexes.
    journal_bytes: int = 32 * KIB
    # Written ahead of the journal, at most: SQLite takes it over at 4 MiB, and between two transactions.
    ahead_bytes: int = 8 * MIB
    # Of one trade for each agent and bar, as far as the constitution allows so many in a day: that it is no idle soak.
    trades_bps: int = 3_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What happens in a bar. `kill_at`: how much of it has passed, in percent. Nodes are numbered from 0."""

    price_usd: int
    kill_at: int | None = None
    reorg: int = 0
    is_foreign: bool = False
    nodes_off: frozenset[int] = frozenset()


def plan(seed: int, bars: int) -> list[Bar]:
    """A function of its arguments. In the last third nobody is killed, so that growth is seen."""
    rng = random.Random(f"soak:{seed}")
    made = [Bar(price_usd=rng.choice(PRICES_USD)) for _ in range(bars)]
    for hour in range(0, bars, HOUR):
        reorg, foreign, off = (rng.randrange(hour, hour + HOUR) for _ in range(3))
        changes: list[tuple[int, dict[str, Any]]] = [
            (reorg, {"reorg": rng.randint(1, 3)}), (foreign, {"is_foreign": True}),
            (off, {"nodes_off": frozenset({rng.randrange(2)})}),
        ]  # fmt: skip
        if hour < (quiet := bars * 2 // 3):
            changes.append((rng.randrange(hour, min(hour + HOUR, quiet)), {"kill_at": rng.randint(0, 90)}))
        for number, change in changes:
            if number < bars:
                made[number] = replace(made[number], **change)
    for first in range(OUTAGE_EVERY // 2, bars - 3, OUTAGE_EVERY):
        for number in range(first, first + rng.randint(1, 3)):
            made[number] = replace(made[number], nodes_off=frozenset({0, 1}), reorg=0)
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A look at the daemon from outside. `number`: of its cycles, those that failed too. Sizes in bytes."""

    at: float
    pid: int
    state: str
    head: int
    number: int
    failed: int
    cycle_ms: int
    needs_operator: bool
    resident: int
    open_files: int
    threads: int


@dataclass(slots=True, kw_only=True)
class Told:
    """What happened, and when, by `monotonic`."""

    # Begin, end, first block with the bar's price, and whether a node answered in it.
    bars: list[tuple[float, float, int, bool]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    lives: list[int] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    kills: int = 0
    reorgs: int = 0
    foreign: int = 0
    outage_bars: int = 0
    decisions: dict[str, int] = field(default_factory=dict)
    # At the end, when all of it is in one file; and the largest that was written ahead of it.
    journal_bytes: int = 0
    ahead_bytes: int = 0
    trades: int = 0
    lost_or_doubled: str = ""
    faults: dict[str, int] = field(default_factory=dict)


# The daemon


class Forge:
    """The process that forks daemons, which write their exit code into the file `exit` of their folder."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.soak"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def fork(self, folder: Path, **wanted: Any) -> int:
        """The process id of a new daemon. `wanted`: see `main`."""
        assert self._process.stdin and self._process.stdout
        (folder / "exit").unlink(missing_ok=True)
        self._process.stdin.write(json.dumps({"folder": str(folder), **wanted}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=10)


def exit_code(pid: int, folder: Path) -> int | None:
    """Of a daemon of the forge that has ended; None for one that was killed."""
    path = folder / "exit"
    return int(path.read_text() or 1) if path.exists() and not _is_alive(pid) else None


class Keeper:
    """Starts a daemon, looks at it, and starts it again at once when it has died: as systemd would, without its pause.

    One that ends with 78 stays ended.
    """

    def __init__(self, told: Told, folder: Path, port: int, **wanted: Any) -> None:
        self._told, self._folder, self._port, self._wanted = told, folder, port, wanted | {"port": port}
        self._forge = Forge()
        self.pid, self._is_over = 0, threading.Event()
        self._threads = [threading.Thread(target=work, name="keeper") for work in (self._keep, self._look)]

    def __enter__(self) -> Self:
        self._start()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        if self.pid and _is_alive(self.pid):
            os.kill(self.pid, signal.SIGKILL)
        self._forge.close()

    def kill(self) -> None:
        """SIGKILL to whoever lives now."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
            self._told.kills += 1

    def stop(self, patience_s: float = 60.0) -> int | None:
        """SIGTERM; the exit code, None when it does not end, or was killed."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        _wait_for(lambda: not _is_alive(self.pid), patience_s)
        return exit_code(self.pid, self._folder)

    def wait_until_trading(self, patience_s: float = 60.0) -> None:
        """Raises TimeoutError when it does not."""
        if not _wait_for(lambda: any(s.state == "trading" for s in self._told.samples), patience_s):
            raise TimeoutError("the daemon did not begin to trade")

    def _start(self) -> None:
        self.pid = self._forge.fork(self._folder, **self._wanted)
        self._told.lives.append(self.pid)

    def _keep(self) -> None:
        while not self._is_over.wait(0.01):
            if _is_alive(self.pid):
                continue
            code = exit_code(self.pid, self._folder)
            if code is not None:
                self._told.exits.append(code)
            if code == EXIT_STOPPED:
                return
            self._start()

    def _look(self) -> None:
        while not self._is_over.wait(0.04):
            with suppress(OSError, ValueError, http.client.HTTPException):
                self._told.samples.append(look(self.pid, self._port))
                ahead = (self._folder / "journal.sqlite-wal").stat().st_size
                self._told.ahead_bytes = max(self._told.ahead_bytes, ahead)


def look(pid: int, port: int) -> Sample:
    """Asks a daemon how it is, and the system what it holds. Raises OSError, ValueError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/status")
        said = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    proc = Path(f"/proc/{pid}")
    return Sample(
        at=time.monotonic(), pid=pid, state=said["state"], head=(said["head"] or {"number": -1})["number"],
        number=said["cycles"] + said["failed_cycles"], failed=said["failed_cycles"], cycle_ms=said["last_cycle_ms"],
        needs_operator=said["state"] in ("halted", "stopped") or bool(said["stuck"]),
        resident=int((proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        open_files=sum(1 for _ in (proc / "fd").iterdir()), threads=sum(1 for _ in (proc / "task").iterdir()),
    )  # fmt: skip


# The day


def soak(
    world: World, folder: Path, bars: Sequence[Bar], *, seed: int, bar_s: float, fault_bps: int = 150,
    advance: Callable[[int, Told], None] = lambda *_: None,
) -> Told:  # fmt: skip
    """Lives through the bars, each `bar_s` long; stops the daemon, and looks at what is left as its next start
    would."""
    told, street = Told(), Street(world, agents=AGENTS)
    with street.visit(folder) as visit, ExitStack() as opened:
        nodes = [opened.enter_context(_proxy(world, seed + node, fault_bps)) for node in range(2)]
        urls = [f"{node.url}/v2/access-key-of-node-{number}" for number, node in enumerate(nodes)]
        keeper = opened.enter_context(
            Keeper(told, folder, free_port(), urls=urls, chain_id=world.d.chain_id, scale=BAR_S / bar_s)
        )
        keeper.wait_until_trading()
        for number, bar in enumerate(bars):
            _live(street, nodes, keeper, bar, bar_s, told)
            advance(number, told)
        told.exits.append(_code(keeper.stop()))
        told.journal_bytes = journal_bytes(folder / "journal.sqlite")
        told.faults = {str(k): sum(node.faults()[k] for node in nodes) for k in Fault if k is not Fault.BIT_FLIP}
        _close(visit, folder, told)
    return told


def _proxy(world: World, seed: int, fault_bps: int) -> ChaosProxy:
    """What is sent meets eight times as many faults as what is asked: it is rare, and matters most."""
    faults = sorted(frozenset(Fault) - {Fault.BIT_FLIP})
    shares = {kind: fault_bps * (8 if kind is Kind.SEND else 1) // len(faults) for kind in Kind}
    rates = {kind: dict.fromkeys(faults, share) for kind, share in shares.items()}
    return ChaosProxy(world.evm.url or "", seed, Plan(rates_bps=rates, delay_ms=(5, 60), as_geth=True))


def _code(code: int | None) -> int:
    """A daemon that does not end when it is told to has no code: it counts as killed."""
    return -signal.SIGKILL if code is None else code


def _live(
    street: Street, nodes: Sequence[ChaosProxy], keeper: Keeper, bar: Bar, bar_s: float, told: Told
) -> None:  # fmt: skip
    begun = time.monotonic()
    for number, node in enumerate(nodes):
        node.cut(number in bar.nodes_off)
    if bar.reorg:
        _reorg(street, nodes, bar.reorg, told)
    with _held(nodes):  # nobody sees a price that the pool has not followed yet
        street.world.travel(BAR_S - BLOCKS * BLOCK_S)
        street.world.set_price("ETH", bar.price_usd)
        first = street.lab.head()
    kill_at = None if bar.kill_at is None else begun + bar_s * bar.kill_at / 100
    for block in range(1, BLOCKS + 1):
        kill_at = _wait(begun + bar_s * block / (BLOCKS + 1), kill_at, keeper)
        street.world.evm.travel(BLOCK_S)
        if bar.is_foreign and block == BLOCKS // 2:
            with suppress(LabError):
                street.lab.foreign_transaction(bytes(street.world.signer.key))
                told.foreign += 1
    _wait(begun + bar_s, kill_at, keeper)
    has_node = len(bar.nodes_off) < len(nodes)
    told.outage_bars += not has_node
    told.bars.append((begun, time.monotonic(), first, has_node))


def _wait(until: float, kill_at: float | None, keeper: Keeper) -> float | None:
    """Sleeps, and kills when its time has come; the time of a kill that is still to come."""
    if kill_at is not None and kill_at <= until:
        time.sleep(max(kill_at - time.monotonic(), 0))
        keeper.kill()
        kill_at = None
    time.sleep(max(until - time.monotonic(), 0))
    return kill_at


def _reorg(street: Street, nodes: Sequence[ChaosProxy], depth: int, told: Told) -> None:
    fates = [Fate.KEPT, Fate.LATER, Fate.DROPPED, Fate.RETURNED]
    rng, ours = random.Random(len(told.bars)), {key.address.lower() for *_, key in street.agents}
    with _held(nodes):
        street.lab.reorg(depth, lambda tx: rng.choice(fates) if tx.sender.lower() in ours else Fate.KEPT)
    told.reorgs += 1


@contextmanager
def _held(nodes: Sequence[ChaosProxy]) -> Iterator[None]:
    with ExitStack() as held:
        for node in nodes:
            held.enter_context(node.held())
        yield


def _close(visit: Visit, folder: Path, told: Told) -> None:
    try:
        visit._look(Story(seed=0))
    except Exception as error:  # what does not hold is a figure like the others
        told.lost_or_doubled = f"{type(error).__name__}: {error}"
    with Journal(folder / "journal.sqlite") as journal:
        told.decisions = journal.counts()
        told.trades = len(journal.rows(outcome="traded"))


# What it comes to


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Figures, and the bounds that were broken. Shares in basis points, growth for 1,000 cycles, times in ms."""

    figures: Mapping[str, Any]
    broken: tuple[str, ...]


def compute_report(told: Told, bounds: Bounds | None = None) -> Report:
    """From what happened to what is promised."""
    bounds = bounds or Bounds()
    counted = [bar for bar in told.bars if bar[3]]
    available = [bar for bar in counted if _is_available(bar, told.samples)]
    cycles = _cycles(told.samples)
    needing = {key for key in cycles if any(s.needs_operator for s in cycles[key])}
    times = sorted(samples[0].cycle_ms for samples in cycles.values())
    last = [s for s in told.samples if told.lives and s.pid == told.lives[-1] and s.number >= WARM_UP]
    decisions = sum(told.decisions.values())
    figures = {
        "bars": len(told.bars), "bars counted": len(counted), "bars available": len(available),
        "available_bps": _share(len(available), len(counted)),
        "seconds without trading of a day": round(_idle_s(told), 1),
        "cycles seen": len(cycles), "cycles that failed": _failed(told.samples),
        "cycles needing an operator": len(needing), "operator_bps": _share(len(needing), len(cycles)),
        "cycle_ms": {"p50": _quantile(times, 50), "p99": _quantile(times, 99)},
        "last life": {"cycles": last[-1].number if last else 0},
        "memory_bytes": _growth(last, lambda s: s.resident),
        "resident_bytes": max((s.resident for s in told.samples), default=0),
        "open_files": _growth(last, lambda s: s.open_files),
        "most open files": max((s.open_files for s in told.samples), default=0),
        "journal_bytes": told.journal_bytes // max(decisions, 1),
        "journal bytes for 1,000 cycles": told.journal_bytes * 1000 // max(len(cycles), 1),
        "ahead_bytes": told.ahead_bytes,
        "decisions": told.decisions, "trades": told.trades,
        "trades_bps": _share(told.trades, AGENTS * min(len(counted), TRADES_PER_DAY)),
        "lost or doubled": told.lost_or_doubled or 0,
        "daemons": len(told.lives), "kills": told.kills, "exit codes": told.exits, "reorgs": told.reorgs,
        "foreign transactions": told.foreign, "bars without a node": told.outage_bars, "faults": told.faults,
    }  # fmt: skip
    return Report(figures=figures, broken=tuple(_broken(figures, told, bounds)))


def _broken(figures: Mapping[str, Any], told: Told, bounds: Bounds) -> Iterator[str]:
    for name in ("available_bps", "trades_bps"):
        if figures[name] < (least := getattr(bounds, name)):
            yield f"{name} is {figures[name]}, at least {least} is promised"
    for name in ("operator_bps", "memory_bytes", "open_files", "journal_bytes", "ahead_bytes"):
        if figures[name] > (most := getattr(bounds, name)):
            yield f"{name} is {figures[name]}, at most {most} is promised"
    if told.lost_or_doubled:
        yield told.lost_or_doubled
    if any(told.exits):
        yield f"daemons ended by themselves, with the codes {told.exits}; the last one was told to"


def _is_available(bar: tuple[float, float, int, bool], samples: Sequence[Sample]) -> bool:
    begun, ended, first, _ = bar
    return any(s.state == "trading" and s.head >= first for s in samples if begun <= s.at < ended)


def _idle_s(told: Told) -> float:
    """Seconds of the machine's clock in which a node answered and the daemon was not there, or not trading: what such
    events cost of a real day, where they take as long and a bar does not."""
    idle = 0.0
    for begun, ended, _, has_node in told.bars:
        inside = [s for s in told.samples if begun <= s.at < ended]
        up = sum(1 for s in inside if s.state == "trading")
        gaps = [b.at - a.at for a, b in zip(inside, inside[1:], strict=False) if a.pid != b.pid]
        if has_node:
            idle += sum(gaps) + (ended - begun - sum(gaps)) * (1 - up / len(inside) if inside else 1)
    return idle


def _cycles(samples: Sequence[Sample]) -> dict[tuple[int, int], list[Sample]]:
    found: dict[tuple[int, int], list[Sample]] = {}
    for sample in samples:
        if sample.number:
            found.setdefault((sample.pid, sample.number), []).append(sample)
    return found


def _failed(samples: Sequence[Sample]) -> int:
    last = {sample.pid: sample.failed for sample in samples}
    return sum(last.values())


def _growth(samples: Sequence[Sample], of: Callable[[Sample], int]) -> int:
    """The slope of the line through them, for 1,000 cycles; 0 where there are too few for one."""
    points = [(s.number, of(s)) for s in samples]
    if len({x for x, _ in points}) < WARM_UP:
        return 0
    mean_x, mean_y = (sum(part) / len(points) for part in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return round(1000 * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread)


def _share(part: int, whole: int) -> int:
    return part * BPS // whole if whole else 0


def _quantile(ordered: Sequence[int], percent: int) -> int:
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] if ordered else 0


def as_json(report: Report) -> dict[str, Any]:
    """For a file."""
    return asdict(report)


def _wait_for(holds: Callable[[], bool], patience_s: float) -> bool:
    until = time.monotonic() + patience_s
    while not holds() and time.monotonic() < until:
        time.sleep(0.01)
    return holds()


# The process that forks daemons


def main() -> None:
    """Until standard input ends. A line is {folder, urls, chain_id, port, scale, over}; the answer is a process id.
    `over`: other settings."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    for line in sys.stdin:
        wanted = json.loads(line)
        if not (pid := os.fork()):
            _be_daemon(wanted)
        print(pid, flush=True)


def _be_daemon(wanted: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    folder, scale = Path(wanted["folder"]), float(wanted["scale"])
    with (folder / "daemon.log").open("a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 2)
    os.close(0)
    _hurry(scale)
    options: dict[str, Any] = {
        "rpc_urls": tuple(wanted["urls"]), "http_port": int(wanted["port"]), "poll_s": 0.05, "rpc_timeout_s": 3.0,
        "finality_blocks": 8, "breaker_s": 60 / scale, "watchdog_s": 60.0,
    }  # fmt: skip
    settings = settings_for(folder, "", int(wanted["chain_id"]), **options | wanted.get("over", {}))
    code = 1
    try:
        code = service.run(settings)
    except AgentError as error:
        print(f"refused to start: {error}", file=sys.stderr, flush=True)
        code = EXIT_STOPPED
    finally:
        (folder / "exit").write_text(str(code))
        os._exit(code)


def _hurry(scale: float) -> None:
    """A node that failed rests as much shorter as a bar is."""
    rpc.FIRST_BACKOFF_S, rpc.LONGEST_BACKOFF_S = 0.5 / scale, 60.0 / scale  # type: ignore[misc]
    rpc.DEFAULT_REST_S, rpc.LONGEST_REST_S = 1.0 / scale, 60.0 / scale  # type: ignore[misc]
    service._BEGIN_AGAIN_S = 5.0 / scale


if __name__ == "__main__":
    main()
