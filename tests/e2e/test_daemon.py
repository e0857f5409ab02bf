"""A real daemon on a real chain, in a process of its own: what it refuses, how it ends, and what it says meanwhile."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from web3 import Web3

from agents import service
from agents.daemon import EXIT_HUNG, EXIT_STOPPED, Daemon
from agents.explanation import explanation_hash
from agents.fleet import CLOSE_ALL, PAUSED
from agents.journal import Journal
from agents.localnet.process import free_port
from agents.telemetry import Telemetry
from tests.chaos.chainlab import ChainLab
from tests.chaos.proxy import ChaosProxy, Fault, Plan
from tests.chaos.soak import Forge, exit_code
from tests.conftest import find_program
from tests.contracts.world import World
from tests.e2e.conftest import Agent, Hire, constant
from tests.e2e.daemons import PASSPHRASE, settings_for, start, write_files

ACCESS_KEY = "b41dc0ffee5a7e11fe0fd15ea5e0ddba"
# Longer than anything here takes, so that what hangs fails.
PATIENCE_S = 60.0
HANGS_MS = 120_000


def until(holds: Callable[[], Any], what: str) -> Any:
    """What it returns when that is true."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(OSError, http.client.HTTPException):
            if found := holds():
                return found
        time.sleep(0.02)
    raise AssertionError(f"never: {what}")


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Office:
    """An operator's folder with one agent, a proxy before the node, and the daemons that were started there."""

    def __init__(self, world: World, agent: Agent, folder: Path, node: ChaosProxy, forge: Forge) -> None:
        self.world, self.agent, self.folder, self.node, self._forge = world, agent, folder, node, forge
        self.port, self.pids, self.processes = free_port(), list[int](), list[subprocess.Popen[str]]()
        self.url = f"{node.url}/v2/{ACCESS_KEY}"
        self.lab = ChainLab(world.evm)
        write_files(world, folder, [("agent 0", agent.strategy.vault, agent.artefact, agent.key)])

    def fork(self, **over: Any) -> int:
        """A daemon, quickly."""
        pid = self._forge.fork(
            self.folder, urls=[self.url], chain_id=self.world.d.chain_id, port=self.port, scale=100, over=over
        )
        self.pids.append(pid)
        return pid

    def command(self, **environment: str) -> subprocess.Popen[str]:
        """`marketflow agent run`, as an operator starts it."""
        settings = {
            "RPC_URLS": self.url, "CHAIN_ID": self.world.d.chain_id, "DEPLOYMENT": self.folder / "deployment.json",
            "AGENTS": self.folder / "agents.toml", "JOURNAL": self.folder / "journal.sqlite",
            "KEYFILE_PASSPHRASE": PASSPHRASE, "HTTP_PORT": self.port, "POLL_S": 0.05, "CONSENSUS": "false",
            "FINALITY_BLOCKS": 3,
        }  # fmt: skip
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MARKETFLOW_")}
        told = {f"MARKETFLOW_{name}": str(value) for name, value in settings.items()}
        command = [sys.executable, "-c", "from agents.cli import main; main()", "agent", "run"]
        with (self.folder / "daemon.log").open("w") as log:
            process = subprocess.Popen(
                command, env=clean | told | environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True
            )
        self.processes.append(process)
        return process

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(get(self.port, "/status")[1])
        return found

    def wait_for(self, state: str) -> dict[str, Any]:
        def is_there() -> dict[str, Any] | None:
            found = self.status()
            return found if found["state"] == state else None

        found: dict[str, Any] = until(is_there, f"{state}; the log: {self.log()[-2000:]}")
        return found

    def end(self, pid: int, number: signal.Signals = signal.SIGTERM) -> int | None:
        os.kill(pid, number)
        return self.code(pid)

    def code(self, pid: int) -> int | None:
        until(lambda: not Path(f"/proc/{pid}").exists(), "the daemon ended")
        return exit_code(pid, self.folder)

    def log(self) -> str:
        path = self.folder / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def journal(self) -> Journal:
        return Journal(self.folder / "journal.sqlite")

    def rows(self) -> list[dict[str, Any]]:
        with self.journal() as journal:
            return journal.rows()

    def bar(self, price_usd: int) -> None:
        with self.node.held():  # nobody sees a price that the pool has not followed yet
            self.agent.bar(price_usd)

    def close(self) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    made = Forge()
    yield made
    made.close()


@pytest.fixture
def office(world: World, hire: Hire, tmp_path: Path, forge: Forge) -> Iterator[Office]:
    agent = hire(constant(2000))
    agent.bars(*[2000] * 5)
    with ChaosProxy(world.evm.url or "", 1, Plan(delay_ms=(HANGS_MS, HANGS_MS))) as node:
        made = Office(world, agent, tmp_path / "operator", node, forge)
        yield made
        made.close()


# What it refuses


def test_a_wrong_chain_is_refused_with_78_and_a_sentence_without_the_access_key(office: Office) -> None:
    process = office.command(MARKETFLOW_CHAIN_ID="5")
    assert process.wait(PATIENCE_S) == EXIT_STOPPED
    said = office.log()
    assert re.search(r"^error: .*chain 31337.*5", said, re.MULTILINE)
    assert ACCESS_KEY not in said
    assert "Traceback" not in said


def test_a_second_daemon_on_one_journal_is_refused_and_the_first_goes_on(office: Office) -> None:
    first = office.fork()
    office.wait_for("trading")
    second = office.fork(http_port=None)
    until(lambda: (office.folder / "exit").exists(), "the second ended")
    assert office.code(second) == EXIT_STOPPED
    assert "another daemon runs on the journal" in office.log()
    office.bar(2010)
    assert office.wait_for("trading")["cycles"] > 0
    assert office.end(first) == 0


def test_a_daemon_that_finds_no_node_waits_for_one(office: Office) -> None:
    office.node.cut()
    pid = office.fork()
    until(lambda: "can't begin yet" in office.log(), "said that it waits")
    office.node.cut(False)
    office.wait_for("trading")
    assert ACCESS_KEY not in office.log()
    assert office.end(pid) == 0


def test_a_daemon_that_waits_for_a_node_ends_when_it_is_told_to(office: Office) -> None:
    office.node.cut()
    process = office.command()
    until(lambda: "can't begin yet" in office.log(), "said that it waits")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    assert "Traceback" not in office.log()


# What hangs


def test_a_cycle_that_hangs_is_ended_with_70_and_pages_answer_until_then(office: Office) -> None:
    process = office.command(MARKETFLOW_RPC_TIMEOUT_S="100", MARKETFLOW_WATCHDOG_S="4")
    office.wait_for("trading")
    until(lambda: office.rows()[0]["state"] == "mined", "the first order")
    office.node.force("eth_call", *[Fault.DELAY] * 100)
    office.bar(2010)
    until(lambda: any(decision.forced for decision in office.node.log), "a cycle hangs")
    cycles = office.status()["cycles"]
    name = office.rows()[0]["explanation_hash"]
    pages = {path: get(office.port, path) for path in ("/healthz", "/metrics", f"/explanations/{name}", "/status")}
    assert {path: status for path, (status, _) in pages.items()} == dict.fromkeys(pages, 200)
    assert explanation_hash(json.loads(pages[f"/explanations/{name}"][1])) == name
    assert b"marketflow_heartbeat_timestamp_seconds" in pages["/metrics"][1]
    assert json.loads(pages["/status"][1])["cycles"] == cycles
    assert process.wait(PATIENCE_S) == EXIT_HUNG
    assert "a cycle takes more than 4 s: ending, to be started again" in office.log()
    assert "most recent call first" in office.log(), "where every thread was"


def test_a_stop_does_not_wait_for_ever_for_a_cycle_that_hangs(office: Office) -> None:
    process = office.command(MARKETFLOW_RPC_TIMEOUT_S="100", MARKETFLOW_GRACE_S="0.3")
    office.wait_for("trading")
    office.node.force("eth_call", *[Fault.DELAY] * 100)
    office.bar(2010)
    until(lambda: any(decision.forced for decision in office.node.log), "a cycle hangs")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == EXIT_HUNG
    assert "takes more than 0.3 s: left to the journal" in office.log()


def test_pages_answer_while_the_journal_is_held(office: Office) -> None:
    settings = settings_for(office.folder, office.url, office.world.d.chain_id, http_port=0)
    assembly = start(settings)
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with assembly.journal.transaction():
            begun.set()
            go_on.wait(PATIENCE_S)

    async def ask() -> list[int]:
        daemon = Daemon(assembly.fleet, journal=assembly.journal, heads=lambda: None, telemetry=Telemetry())  # type: ignore[arg-type, return-value]
        with Journal(settings.journal) as pages:
            async with service._serve(settings, assembly, daemon, pages) as served:
                holder.start()
                await asyncio.to_thread(begun.wait, PATIENCE_S)
                paths = ("/status", "/readyz", "/metrics", f"/explanations/0x{'ab' * 32}")
                return [(await asyncio.to_thread(get, served.port, path))[0] for path in paths]

    holder = threading.Thread(target=hold)
    try:
        assert asyncio.run(ask()) == [200, 503, 200, 404]
    finally:
        go_on.set()
        holder.join()
        assembly.close()


# How it ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_leaves_what_is_in_flight_to_the_next_start_which_ends_it(
    office: Office, number: signal.Signals
) -> None:
    office.lab.hold_mining()
    try:
        pid = office.fork()
        until(lambda: [row["state"] for row in office.rows()] == ["sent"], "the order was sent")
        assert office.end(pid, number) == 0
        assert [row["state"] for row in office.rows()] == ["sent"]
        with office.journal() as journal:
            assert journal.notes(1)[0]["detail"] == "asked to"
    finally:
        office.lab.release_mining()
    office.fork()
    office.wait_for("trading")
    until(lambda: office.rows()[0]["outcome"] == "traded", "the next start read its end")
    assert len(office.agent.entries()) == 1


def test_a_halted_daemon_stays_up_says_why_and_recovers_when_the_cause_is_gone(office: Office) -> None:
    pid = office.fork()
    number = office.wait_for("trading")["head"]["number"]
    with office.journal() as journal:
        journal.set_fact("checkpoint", {"number": number - 1, "hash": "0x" + "ab" * 32})
        office.bar(2010)
        said = office.wait_for("halted")["because"]
        assert "is not part of the chain any more" in said
        status, reason = get(office.port, "/readyz")
        assert (status, json.loads(reason)["reason"]) == (503, said)
        assert get(office.port, "/healthz")[0] == 200
        assert b"marketflow_operator_needed 1.0" in get(office.port, "/metrics")[1]
        office.world.evm.mine()
        assert office.log().count("halted: ") <= 2, "said when it begins, not at every head"
        block = office.agent.block(number - 1)
        journal.set_fact("checkpoint", {"number": block.number, "hash": block.hash})
    office.world.evm.mine()
    office.wait_for("trading")
    assert get(office.port, "/readyz")[0] == 200
    assert office.end(pid) == 0


def test_a_node_that_dies_in_the_middle_of_a_cycle_is_replaced_by_the_next(office: Office) -> None:
    with ChaosProxy(office.world.evm.url or "", 2) as second:
        cut = []

        def at(point: str) -> None:
            if point == "before intent":  # everything was read, nothing was sent
                office.node.cut()
                cut.append(point)

        settings = settings_for(office.folder, "", office.world.d.chain_id, rpc_urls=(office.url, second.url))
        assembly = start(settings, at=at)
        try:
            assembly.fleet.reconcile(office.agent.block())
            asked = len(second.log)
            tick = assembly.fleet.tick(office.agent.block())
            assert cut == ["before intent"]
            assert [placed.is_sent for placed in tick.placed] == [True]
            assert len(second.log) > asked
        finally:
            assembly.close()


# A life


class Supervisor:
    """What systemd listens with."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)
        self.told: list[str] = []

    def read(self) -> list[str]:
        with suppress(BlockingIOError):
            while True:
                self.told.append(self._socket.recv(4096).decode())
        return self.told

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path)
    yield made
    made.close()


def test_a_life_from_its_start_to_a_signal(office: Office, supervisor: Supervisor) -> None:
    """Traded, paused, resumed, with other limits, closed, stopped; and no secret in all it said."""
    process = office.command(NOTIFY_SOCKET=str(supervisor.path))
    office.wait_for("trading")
    until(lambda: "READY=1" in supervisor.read(), "told that it is ready")
    until(lambda: [row["outcome"] for row in office.rows()] == ["traded"], "the first trade")
    with office.journal() as journal:
        _pause_and_resume(office, journal)
        _reload(office, process)
        journal.set_control(CLOSE_ALL, True, at_s=0)
        office.world.evm.mine()
        until(lambda: not any(p.amount for p in office.agent.reading().positions), "everything was sold")
    office.node.force("eth_call", Fault.BAD_GATEWAY, Fault.EMPTY, Fault.TRUNCATED, Fault.RATE_LIMIT)
    office.bar(2000)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0, office.log()
    said = office.log()
    assert supervisor.read()[-1] == "STOPPING=1"
    key = Web3.to_hex(office.agent.key.key).removeprefix("0x")
    for secret in (ACCESS_KEY, PASSPHRASE, key, key.upper()):
        assert secret not in said
    assert "MARKETFLOW_CHAIN_ID=31337" in said
    assert "Traceback" not in said


def _pause_and_resume(office: Office, journal: Journal) -> None:
    journal.set_control(PAUSED, "lunch", at_s=0)
    office.bar(2040)
    assert office.wait_for("paused")["because"] == "lunch"
    assert get(office.port, "/readyz")[0] == 503
    assert len(office.rows()) == 1
    journal.set_control(PAUSED, None, at_s=0)
    office.world.evm.mine()
    office.wait_for("trading")
    until(lambda: len(office.rows()) == 2, "it decides again")


def _reload(office: Office, process: subprocess.Popen[str]) -> None:
    """First with a file that is wrong, which changes nothing; then nothing may be traded any more."""
    path = office.folder / "agents.toml"
    before = path.read_text()
    path.write_text(before.replace("[limits]", "[limits]\nmax_trades = 7"))
    process.send_signal(signal.SIGHUP)
    _wait_until_said(office, "the limits stay as they are")
    until(lambda: office.rows()[-1]["state"] in ("mined", "final"), "nothing is under way")
    office.bar(1960)
    until(lambda: len(office.rows()) == 3, "it decides by the old limits")
    assert office.rows()[-1]["broken"] == "[]"
    path.write_text(before.replace("[limits]", "[limits]\nmax_trades_per_day = 0"))
    process.send_signal(signal.SIGHUP)
    _wait_until_said(office, "max_trades_per_day=0")
    until(lambda: office.rows()[-1]["state"] in ("mined", "final"), "nothing is under way")
    office.bar(2040)
    until(lambda: len(office.rows()) == 4, "it decides by the new limits")
    assert office.rows()[-1]["state"] == "refused"
    path.write_text(before)
    process.send_signal(signal.SIGHUP)
    _wait_until_said(office, "max_trades_per_day=1000000")


def _wait_until_said(office: Office, said: str) -> None:
    until(lambda: said in office.log(), said)


@pytest.mark.program("promtool")
def test_prometheus_finds_nothing_wrong_with_the_page_of_a_daemon_that_trades(office: Office) -> None:
    office.command()
    office.wait_for("trading")
    until(lambda: [row["outcome"] for row in office.rows()] == ["traded"], "the first trade")
    page = get(office.port, "/metrics")[1]
    assert b"marketflow_decision_to_signed_seconds_count 1.0" in page
    check = [str(find_program("promtool")), "check", "metrics"]
    done = subprocess.run(check, input=page, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
