"""The tests, collected once in one warm process; each mutant is a fork of it with other byte code.

A child starts a chain of its own, runs the tests it is given, and stops at the first that fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from build_artifacts import ROOT

from mutation.compiler import Code, Contracts

# What a test says when the machine failed and not the mutant: such a run decides nothing.
MACHINE = ("EvmUnavailable", "ConnectionRefused", "BrokenPipe", "MemoryError", "OSError", "Cannot allocate")


@dataclass(slots=True, eq=False)
class Child:
    """A fork at work; `read` has its answer, a line of JSON, when it is done."""

    pid: int
    read: int
    deadline: float
    job: Any = None

    def fileno(self) -> int:
        return self.read

    def finish(self) -> dict[str, Any]:
        with os.fdopen(self.read) as answer:
            text = answer.read()
        os.waitpid(self.pid, 0)
        return json.loads(text) if text else {"outcome": "error", "why": "the child died"}

    def kill(self) -> None:
        """Anvil notices that its parent is gone and goes too."""
        os.kill(self.pid, signal.SIGKILL)
        os.close(self.read)
        os.waitpid(self.pid, 0)


@dataclass(slots=True, eq=False)
class Suite:
    """A pytest plugin: collects, then calls `main` with itself instead of running tests."""

    main: Callable[[Suite], None]
    contracts: Contracts
    items: dict[str, pytest.Item] = field(default_factory=dict)
    session: pytest.Session | None = None

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings  # not before pytest has seen its plugin

        # A counterexample need not be made small, and every run tries the same.
        settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), derandomize=True, database=None)
        settings.load_profile("mutants")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        allow_any_size()
        self.session, self.items = session, {item.nodeid: item for item in session.items}
        self.main(self)
        return True

    def fork(self, job: Any, work: Callable[[], dict[str, Any]], *, limit_s: float) -> Child:
        read, write = os.pipe()
        if pid := os.fork():
            os.close(write)
            return Child(pid, read, time.monotonic() + limit_s, job)
        try:
            os.close(read)
            answer = json.dumps(work())
            with os.fdopen(write, "w") as out:
                out.write(answer)
        except BaseException as error:  # of a fork: whatever it is, it must not go on as a second pytest
            with contextlib.suppress(OSError):
                os.write(write, json.dumps({"outcome": "error", "why": repr(error)[:500]}).encode())
        finally:
            os._exit(0)

    def judge(self, codes: dict[str, Code], tests: Iterable[str]) -> dict[str, Any]:
        """In a child: run the tests with these codes in place of the contracts', until one fails."""
        use(self.contracts.codes | codes)
        started, count = time.monotonic(), 0
        for count, (test, failure, _) in enumerate(self.results(tests), 1):
            if failure:
                outcome = "error" if any(word in failure for word in MACHINE) else "killed"
                outcome = "timeout" if failure.startswith("Failed: Timeout") else outcome
                return {"outcome": outcome, "by": test, "why": failure, "tests": count, "s": time.monotonic() - started}
        return {"outcome": "survived", "tests": count, "s": time.monotonic() - started}

    def record(self, tests: Iterable[str]) -> dict[str, Any]:
        """In a child: for each test whether it passes, how long it takes, and which functions of ours it reaches."""
        use(self.contracts.codes)
        recorder = Recorder(self.contracts.codes)
        found = {}
        for test, failure, seconds in self.results(tests):
            calls = {name: sorted(selectors) for name, selectors in recorder.take().items()}
            found[test] = {"failure": failure, "s": seconds, "calls": calls}
        return found

    def results(self, tests: Iterable[str]) -> Iterator[tuple[str, str, float]]:
        """(test, why it failed or nothing, seconds) for each; the chain is closed at the end, or when left early."""
        items = [self.items[test] for test in tests]
        watcher = _Watcher()
        self.session.config.pluginmanager.register(watcher)
        try:
            for item, following in zip(items, [*items[1:], None], strict=True):
                started = time.monotonic()
                watcher.failure = ""
                self.session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                yield item.nodeid, watcher.failure, time.monotonic() - started
        finally:
            with contextlib.suppress(Exception):
                self.session._setupstate.teardown_exact(None)


class _Watcher:
    def __init__(self) -> None:
        self.failure = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failure:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.failure = (crash.message if crash else str(report.longrepr)).splitlines()[0][:300]


def use(codes: dict[str, Code]) -> None:
    """From now on these contracts have this creation and deployed code."""
    import agents.contracts as ours

    parse = ours._parse_artifact

    def parse_with(name: str, raw: dict[str, Any]) -> Any:
        if name in codes:
            raw = raw | {"bytecode": "0x" + codes[name][0], "deployedBytecode": "0x" + codes[name][1]}
        return parse(name, raw)

    ours._parse_artifact = parse_with
    ours.load_artifact.cache_clear()


def allow_any_size() -> None:
    """From now on anvil takes contracts of any size."""
    from agents.localnet import anvil

    wrapper = ROOT / "build" / "mutation" / "anvil"
    wrapper.write_text(f'#!/bin/sh\nexec "{anvil.find_anvil()}" --disable-code-size-limit "$@"\n')
    wrapper.chmod(0o755)
    anvil.find_anvil = lambda: wrapper


class Recorder:
    """Asks anvil for the calls of every transaction and view; keeps which functions of which contracts they were."""

    def __init__(self, codes: dict[str, Code]) -> None:
        from agents.localnet.anvil import AnvilProvider

        self._creation = {name: creation for name, (creation, _) in codes.items()}
        self._names: dict[str, str] = {}
        self._calls: dict[str, set[str]] = {}
        raw, decoded = AnvilProvider.request_raw, AnvilProvider.make_request

        def request_raw(provider: Any, method: str, params: Any) -> Any:
            answer = raw(provider, method, params)
            self._trace(lambda *request: raw(provider, *request), method, params, answer)
            return answer

        def make_request(provider: Any, method: str, params: Any) -> Any:
            answer = decoded(provider, method, params)
            if method == "eth_call":
                self._trace(lambda *request: decoded(provider, *request), method, params, answer)
            return answer

        AnvilProvider.request_raw, AnvilProvider.make_request = request_raw, make_request

    def take(self) -> dict[str, set[str]]:
        calls, self._calls = self._calls, {}
        return calls

    def _trace(self, ask: Callable[..., Any], method: str, params: Any, answer: Any) -> None:
        tracer = {"tracer": "callTracer"}
        if method == "eth_call":
            traced = ask("debug_traceCall", [params[0], params[1] if len(params) > 1 else "latest", tracer])
        elif method in ("eth_sendTransactionSync", "eth_sendRawTransaction") and answer.get("result"):
            result = answer["result"]
            mined = result if isinstance(result, str) else result["transactionHash"]
            traced = ask("debug_traceTransaction", [mined, tracer])
        else:
            return
        if frame := traced.get("result"):
            self._keep(frame)

    def _keep(self, frame: dict[str, Any]) -> None:
        to, data = frame.get("to"), frame.get("input", "0x").removeprefix("0x")
        if frame.get("type", "").startswith("CREATE"):  # what waits to be mined has no frames
            created = next((n for n, code in self._creation.items() if code and data.startswith(code)), None)
            if created and to:
                self._names[to] = created
                self._calls.setdefault(created, set()).add("constructor")
        elif to in self._names:
            self._calls.setdefault(self._names[to], set()).add(data[:8])
        for inner in frame.get("calls", []):
            self._keep(inner)
