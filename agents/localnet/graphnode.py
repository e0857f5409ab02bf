"""A graph-node of one's own: real indexing and the hosted query API, on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Self

import yaml

from agents.errors import Misconfigured
from agents.localnet.postgres import LocalPostgres
from agents.localnet.process import OwnedProcess, free_port, is_taken

SUBGRAPH = Path(__file__).resolve().parents[2] / "subgraph"
# What manifests call the chain, whichever it is: a label that graph-node compares with its own.
NETWORK = "mainnet"

_GND = SUBGRAPH / "node_modules" / "@graphprotocol" / "gnd-linux-x64" / "bin" / "gnd"
# Of version 0.45.0. npm checks what it downloads against the lock; this, what is about to run.
_GND_SHA256 = "18531a9fe5c50ead2a7c027d89964ecec53be237e3661da545f9fedc162d290b"
_START_TIMEOUT_S = 120
_ANSWER_TIMEOUT_S = 30
_POLL_S = 0.05
_PORTS = ("http", "index-node", "admin", "metrics")
_SETTINGS = {
    "ETHEREUM_POLLING_INTERVAL": "100",
    # It now and then misses that the chain has moved, and would notice after 30 s.
    "GRAPH_CHAIN_HEAD_WATCHER_TIMEOUT": "1",
    "GRAPH_LOG": "error",
    "NO_PROXY": "127.0.0.1",
}
_WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_STATUS = """query ($ids: [String!]) { indexingStatuses(subgraphs: $ids) {
  synced health fatalError { message } chains { chainHeadBlock { number } latestBlock { number hash } }
} }"""


class LocalGraphFailed(RuntimeError):
    """The graph-node, or a handler that it ran, failed; the message has what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexingStatus:
    """How far one subgraph is. Blocks are None before the first."""

    synced: bool
    # healthy, unhealthy or failed
    health: str
    head_block: int | None
    latest_block: int | None
    # With 0x.
    latest_hash: str | None
    error: str | None


@cache
def find_gnd() -> Path:
    """The graph-node program. Raises Misconfigured when it is not there, or not the one that is expected."""
    if not _GND.is_file():
        raise Misconfigured(
            "graph-node is not installed: run `make graph`. It exists for Linux on x86-64 only; elsewhere any Graph "
            "endpoint answers the same queries, and the contracts' events can be read directly"
        )
    with _GND.open("rb") as program:
        found = hashlib.file_digest(program, "sha256").hexdigest()
    if found != _GND_SHA256:
        raise Misconfigured(f"{_GND} is not the expected program (SHA-256 {found}): remove it and run `make graph`")
    return _GND


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest with all values as text: gnd writes addresses without quotes, which YAML takes for numbers."""
    return dict(yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader))


def check_manifest(path: Path) -> None:
    """Raises Misconfigured naming what would end graph-node, which says nothing itself."""
    try:
        manifest = read_manifest(path)
        sources = [*manifest["dataSources"], *manifest.get("templates", ())]
        networks = {source["network"] for source in sources}
        files = [file["file"] for s in sources for file in (s["mapping"], *s["mapping"]["abis"])]
        files.append(manifest["schema"]["file"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        raise Misconfigured(f"{path} is no manifest of a subgraph ({type(error).__name__}: {error})") from error
    if networks != {NETWORK}:
        raise Misconfigured(f"{path} is for {', '.join(sorted(networks))}, graph-node here calls its chain {NETWORK}")
    if missing := [file for file in files if not (path.parent / file).is_file()]:
        raise Misconfigured(f"{path} names {missing[0]}, which is not there: was the subgraph built?")
    if unbuilt := [file for file in files if file.endswith(".ts")]:
        raise Misconfigured(f"{path} names {unbuilt[0]}, which is not compiled: give the manifest that the build wrote")


class LocalGraph:
    """Indexes built manifests from the node at `rpc_url`, for a `with`. Answers queries once the constructor returns.

    PostgreSQL, graph-node and what they wrote are gone when it is closed or when this process ends, however it ends.
    graph-node listens on all interfaces and can't be told otherwise: whoever reaches this machine can query it and, on
    its admin port, deploy to it. It does not follow anvil through a reorganisation of more than ten blocks at once,
    because anvil forgets what it took back, and still calls itself healthy then: `status` tells by its latest block.
    Raises Misconfigured when a program is missing, LocalGraphFailed when one fails.
    """

    def __init__(self, rpc_url: str, manifests: Sequence[Path], *, port: int | None = None) -> None:
        program = find_gnd()
        self.manifests = [manifest.resolve() for manifest in manifests]
        for manifest in self.manifests:
            check_manifest(manifest)
        if port is not None and is_taken(port):
            raise LocalGraphFailed(f"port {port} is taken: choose another, or none to get a free one")
        self._ports = {name: free_port() for name in _PORTS} | ({"http": port} if port else {})
        with ExitStack() as starting:
            database = starting.enter_context(LocalPostgres())
            self.folder = database.folder
            ipfs = starting.enter_context(_ipfs())
            self._log = starting.enter_context((self.folder / "graph-node.log").open("w+"))
            options = {"--ipfs": ipfs} | {f"--{name}-port": str(number) for name, number in self._ports.items()}
            command = [str(program), "dev", *(part for option in options.items() for part in option)]
            for manifest in self.manifests:
                command += ["--manifests", f"{manifest}:{manifest.parent}"]
            # Not among the options, which everybody on this machine can read: an address of a node may hold a key.
            addresses = {"ETHEREUM_RPC": f"{NETWORK}:{rpc_url}", "POSTGRES_URL": database.url}
            environment = os.environ | _SETTINGS | addresses
            self._process = OwnedProcess(command, stdout=self._log, env=environment, cwd="/")
            starting.callback(self._process.close)
            self._wait_until_answering()
            self._running = starting.pop_all()

    def close(self) -> None:
        """End everything. Calling it again does nothing."""
        self._running.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def endpoint(self, index: int = 0) -> str:
        """Where the subgraph of that manifest is queried."""
        return f"http://127.0.0.1:{self._ports['http']}/subgraphs/name/subgraph-{index}"

    def query(self, text: str, variables: Mapping[str, Any] | None = None, *, index: int = 0) -> dict[str, Any]:
        """The data of an answer. Raises LocalGraphFailed with its errors."""
        return _ask(self.endpoint(index), text, variables)

    def status(self, index: int = 0) -> IndexingStatus:
        """How far the subgraph of that manifest is."""
        url = f"http://127.0.0.1:{self._ports['index-node']}/graphql"
        found = _ask(url, _STATUS, {"ids": [str(self.manifests[index])]})["indexingStatuses"]
        if not found:
            raise LocalGraphFailed(f"graph-node does not know {self.manifests[index]} yet")
        return _parse_status(found[0])

    def wait_for_block(
        self, number: int, block_hash: str | None = None, *, index: int = 0, timeout_s: float = 60
    ) -> IndexingStatus:
        """Returns when the subgraph has seen that block; with `block_hash`, when that block is its latest.

        Raises LocalGraphFailed when a handler fails, or after the time.
        """
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            self._require_running()
            status = self.status(index)
            if status.health == "failed":
                raise LocalGraphFailed(f"a handler of {self.manifests[index].name} failed: {status.error}")
            # A failing handler's block is there first, as "unhealthy".
            is_there = (status.latest_block or 0) >= number and block_hash in (None, status.latest_hash)
            if is_there and status.health == "healthy":
                return status
            time.sleep(_POLL_S)
        raise LocalGraphFailed(f"block {number} was not indexed in {timeout_s} s: {status}")

    def _wait_until_answering(self) -> None:
        until_s = time.monotonic() + _START_TIMEOUT_S
        for index in range(len(self.manifests)):
            while not self._is_answering(index):
                self._require_running()
                if time.monotonic() > until_s:
                    raise LocalGraphFailed(f"graph-node does not answer after {_START_TIMEOUT_S} s: {self._said()}")
                time.sleep(_POLL_S)

    def _is_answering(self, index: int) -> bool:
        with contextlib.suppress(OSError, LocalGraphFailed):
            status = self.status(index)
            return status.latest_block is not None or status.health == "failed"
        return False

    def _require_running(self) -> None:
        if self._process.has_ended:
            manifests = ", ".join(map(str, self.manifests))
            raise LocalGraphFailed(f"graph-node has ended while it indexed {manifests}: {self._said()}")

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().split("Stack backtrace")[0].strip()[-1000:] or "it gives no reason"


class _Ipfs(BaseHTTPRequestHandler):
    """graph-node asks for a version when it starts, and for nothing else: its files come from disk."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def _ipfs() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Ipfs) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _ask(url: str, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
    body = json.dumps({"query": query, "variables": variables or {}}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with _WITHOUT_PROXY.open(request, timeout=_ANSWER_TIMEOUT_S) as answer:
        found = json.load(answer)
    if errors := found.get("errors"):
        raise LocalGraphFailed("; ".join(error["message"] for error in errors))
    return dict(found["data"])


def _parse_status(raw: Mapping[str, Any]) -> IndexingStatus:
    [chain] = raw["chains"]
    head, latest, error = chain["chainHeadBlock"], chain["latestBlock"], raw["fatalError"]
    return IndexingStatus(
        synced=raw["synced"],
        health=raw["health"],
        head_block=head and int(head["number"]),
        latest_block=latest and int(latest["number"]),
        latest_hash=latest and f"0x{latest['hash'].removeprefix('0x')}",
        error=error and error["message"],
    )
