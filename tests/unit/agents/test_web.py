"""The daemon's pages, asked over real connections: what is shown, and all that is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from eth_utils import keccak
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from agents.telemetry import Telemetry
from agents.web import Served, Views, WebRules, is_loopback, serve

DOCUMENT = b'{"version":1}'
NAME = "0x" + keccak(DOCUMENT).hex()
DAMAGED = "0x" + "11" * 32


class Daemon:
    """What the pages are about, changed by the tests."""

    def __init__(self) -> None:
        self.telemetry = Telemetry()
        self.heartbeat_age_s: float | None = 1.0
        self.because = ""
        self.status: Callable[[], Any] = lambda: {"head": 7}
        self.documents = {NAME: DOCUMENT, DAMAGED: b"{}"}
        self.asked: list[str] = []

    def explanation(self, name: str) -> bytes | None:
        self.asked.append(name)
        return self.documents.get(name)

    def views(self) -> Views:
        return Views(
            registry=self.telemetry.registry,
            heartbeat_age_s=lambda: self.heartbeat_age_s,
            not_ready_because=lambda: self.because,
            status=lambda: self.status(),
            explanation=self.explanation,
        )


class Asker:
    """A client of a running server."""

    def __init__(self, served: Served, session: aiohttp.ClientSession) -> None:
        self.served, self._session = served, session

    async def ask(self, path: str, method: str = "GET", **options: Any) -> tuple[int, bytes, Any]:
        """Status, body and headers."""
        async with self._session.request(method, self.served.url + path, **options) as answer:
            return answer.status, await answer.read(), answer.headers

    async def raw(self, sent: bytes) -> bytes:
        """All that comes back for some bytes, until the server closes."""
        reader, writer = await asyncio.open_connection(self.served.host, self.served.port)
        try:
            writer.write(sent)
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def running(daemon: Daemon, rules: WebRules | None = None) -> AsyncIterator[Asker]:
    async with serve(daemon.views(), rules=rules) as served, aiohttp.ClientSession() as session:
        yield Asker(served, session)


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


def on(daemon: Daemon, story: Callable[[Asker], Coroutine[Any, Any, None]], rules: WebRules | None = None) -> None:
    """Runs a story against a server that shows a daemon."""

    async def main() -> None:
        async with running(daemon, rules) as asker:
            await story(asker)

    asyncio.run(main())


# Refusals


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", ["/status", "/metrics", f"/explanations/{NAME}", "/nowhere"])
def test_nothing_can_be_written(daemon: Daemon, method: str, path: str) -> None:
    async def story(asker: Asker) -> None:
        status, body, headers = await asker.ask(path, method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
        assert json.loads(body)["error"]

    on(daemon, story)
    assert daemon.asked == []


@pytest.mark.parametrize("headers", [b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_request_with_a_body_is_refused(daemon: Daemon, headers: bytes) -> None:
    async def story(asker: Asker) -> None:
        body = b"hi" if b"Length" in headers else b"2\r\nhi\r\n0\r\n\r\n"
        answer = await asker.raw(b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n" + headers + b"\r\n" + body)
        assert answer.startswith(b"HTTP/1.1 413 ")

    on(daemon, story)


@pytest.mark.parametrize(
    "name",
    [
        "0x12",
        NAME.upper(),
        NAME[2:],
        NAME + "0",
        NAME + ".html",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e",
        "0x" + "%00" * 32,
        NAME + "%0a",
        NAME + "/..",
    ],
)
def test_what_is_no_hash_is_never_looked_up(daemon: Daemon, name: str) -> None:
    async def story(asker: Asker) -> None:
        answer = await asker.raw(f"GET /explanations/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 ")
        assert json.loads(body)["error"]

    on(daemon, story)
    assert daemon.asked == []


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/explanations/../../etc/passwd", "/static/x", "/", "//status"])
def test_there_is_no_way_to_a_file(daemon: Daemon, path: str) -> None:
    async def story(asker: Asker) -> None:
        answer = await asker.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 404 ")

    on(daemon, story)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9464", "127.0.0.1.evil.example", ""])
def test_a_page_of_another_site_that_leads_here_reads_nothing(daemon: Daemon, host: str) -> None:
    async def story(asker: Asker) -> None:
        status, body, _ = await asker.ask("/status", headers={"Host": host})
        assert status == 421
        assert b"head" not in body

    on(daemon, story)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9464", "localhost:1", "LOCALHOST", "[::1]:9464"])
def test_this_machine_may_be_asked_by_its_own_names(daemon: Daemon, host: str) -> None:
    async def story(asker: Asker) -> None:
        assert (await asker.ask("/status", headers={"Host": host}))[0] == 200

    on(daemon, story)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.org", False)],
)  # fmt: skip
def test_only_a_loopback_address_counts_as_this_machine(host: str, is_local: bool) -> None:
    assert is_loopback(host) is is_local


def test_it_listens_on_this_machine_only_by_default(daemon: Daemon) -> None:
    async def story(asker: Asker) -> None:
        assert asker.served.host == "127.0.0.1"

    on(daemon, story)


def test_a_client_that_never_ends_its_request_is_cut_off(daemon: Daemon) -> None:
    async def story(asker: Asker) -> None:
        assert await asker.raw(b"GET /status HTTP/1.1\r\nHost: local") == b""
        assert await asker.raw(b"") == b""

    on(daemon, story, WebRules(timeout_s=0.1))


def test_a_client_that_does_not_read_its_answer_is_cut_off(daemon: Daemon) -> None:
    daemon.status = lambda: {"text": "x" * 20_000_000}

    async def story(asker: Asker) -> None:
        _, writer = await asyncio.open_connection(asker.served.host, asker.served.port, limit=1024)
        writer.write(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while not writer.transport.is_closing():
            writer.write(b" ")  # of a connection that was cut this is the end
            await asyncio.sleep(0.01)

    on(daemon, story, WebRules(timeout_s=0.3))


def test_more_connections_than_allowed_are_refused_and_the_rest_is_served(daemon: Daemon) -> None:
    async def story(asker: Asker) -> None:
        idle = [await asyncio.open_connection(asker.served.host, asker.served.port) for _ in range(2)]
        assert await asker.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
        while not (await asker.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")).startswith(b"HTTP/1.1 200"):
            await asyncio.sleep(0.01)

    on(daemon, story, WebRules(max_connections=2))


def test_what_fails_says_nothing_of_why_to_whoever_asked(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("password is topsecret")

    daemon.status = fail

    async def story(asker: Asker) -> None:
        status, body, _ = await asker.ask("/status")
        assert status == 500
        assert b"topsecret" not in body

    on(daemon, story)
    assert "/status could not be answered" in caplog.text


def test_bytes_that_are_no_request_get_an_error_and_the_server_lives(daemon: Daemon) -> None:
    async def story(asker: Asker) -> None:
        assert (await asker.raw(b"\x16\x03\x01\x00\xa5\r\n\r\n")).startswith(b"HTTP/1.0 400 ")
        assert (await asker.ask("/healthz"))[0] == 200

    on(daemon, story)


# Health


@pytest.mark.parametrize(
    ("age_s", "status", "reason"),
    [(None, 503, "no heartbeat yet"), (121, 503, "the last heartbeat was 121 s ago, 120 s are allowed"),
     (120, 200, None), (0, 200, None)],
)  # fmt: skip
def test_healthy_while_the_heartbeat_is_young(
    daemon: Daemon, age_s: float | None, status: int, reason: str | None
) -> None:
    daemon.heartbeat_age_s = age_s

    async def story(asker: Asker) -> None:
        found, body, _ = await asker.ask("/healthz")
        assert (found, json.loads(body).get("reason")) == (status, reason)

    on(daemon, story)


def test_ready_only_when_it_trades_and_says_why_not(daemon: Daemon) -> None:
    async def story(asker: Asker) -> None:
        assert (await asker.ask("/readyz"))[0] == 200
        daemon.because = "paused by the operator"
        status, body, _ = await asker.ask("/readyz")
        assert (status, json.loads(body)) == (503, {"ready": False, "reason": "paused by the operator"})
        assert (await asker.ask("/healthz"))[0] == 200

    on(daemon, story)


# What is shown


def test_metrics_are_prometheus_text(daemon: Daemon) -> None:
    daemon.telemetry.count("reorgs_total", 3)

    async def story(asker: Asker) -> None:
        status, body, headers = await asker.ask("/metrics")
        assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        found = {family.name: family for family in parse_text(body.decode())}
        assert found["marketflow_reorgs"].samples[0].value == 3

    on(daemon, story)


def test_metrics_are_openmetrics_where_that_is_asked_for(daemon: Daemon) -> None:
    async def story(asker: Asker) -> None:
        wanted = "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.5"
        _, body, headers = await asker.ask("/metrics", headers={"Accept": wanted})
        assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert body.endswith(b"# EOF\n")
        assert {family.name for family in parse_openmetrics(body.decode())} >= {"marketflow_paused"}

    on(daemon, story)


def test_status_may_be_ready_or_be_waited_for(daemon: Daemon) -> None:
    async def story(asker: Asker) -> None:
        _, body, headers = await asker.ask("/status")
        assert (json.loads(body), headers["Cache-Control"]) == ({"head": 7}, "no-store")

        async def later() -> dict[str, int]:
            return {"head": 8}

        daemon.status = later
        assert json.loads((await asker.ask("/status"))[1]) == {"head": 8}

    on(daemon, story)


@pytest.mark.parametrize("suffix", ["", ".json"])
def test_an_explanation_is_the_bytes_that_its_name_is_the_hash_of(daemon: Daemon, suffix: str) -> None:
    async def story(asker: Asker) -> None:
        status, body, headers = await asker.ask(f"/explanations/{NAME}{suffix}")
        assert (status, body, headers["Content-Type"]) == (200, DOCUMENT, "application/json")
        assert headers["ETag"] == f'"{NAME}"'
        assert "immutable" in headers["Cache-Control"]
        again = await asker.ask(f"/explanations/{NAME}", headers={"If-None-Match": headers["ETag"]})
        assert again[:2] == (304, b"")

    on(daemon, story)


def test_an_unknown_explanation_is_404_and_not_remembered(daemon: Daemon) -> None:
    async def story(asker: Asker) -> None:
        status, body, headers = await asker.ask("/explanations/0x" + "22" * 32)
        assert (status, headers["Cache-Control"]) == (404, "no-store")
        assert "is not in this journal" in json.loads(body)["error"]

    on(daemon, story)


def test_a_damaged_explanation_is_never_shown(daemon: Daemon) -> None:
    async def story(asker: Asker) -> None:
        status, body, headers = await asker.ask(f"/explanations/{DAMAGED}")
        assert (status, headers["Cache-Control"]) == (500, "no-store")
        assert "damaged" in json.loads(body)["error"]

    on(daemon, story)


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/status", f"/explanations/{NAME}", "/nowhere"])
def test_every_answer_has_the_headers_that_keep_browsers_from_using_it(daemon: Daemon, path: str) -> None:
    async def story(asker: Asker) -> None:
        _, _, headers = await asker.ask(path)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["Connection"] == "close"
        assert "Access-Control-Allow-Origin" not in headers
        assert "aiohttp" not in headers["Server"]

    on(daemon, story)


def test_a_connection_is_one_request(daemon: Daemon) -> None:
    async def story(asker: Asker) -> None:
        answers = await asker.raw(2 * b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answers.count(b"HTTP/1.1 200") == 1

    on(daemon, story)


def test_head_is_get_without_the_body(daemon: Daemon) -> None:
    async def story(asker: Asker) -> None:
        assert (await asker.ask("/healthz", "HEAD"))[:2] == (200, b"")

    on(daemon, story)


def test_it_is_gone_after_the_block(daemon: Daemon) -> None:
    async def main() -> None:
        async with running(daemon) as asker:
            served = asker.served
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(served.host, served.port)

    asyncio.run(main())
