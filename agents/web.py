"""What the daemon shows over HTTP: metrics, health, status, and the explanations that trades name. Nothing is writable.

    /metrics                 Prometheus' text, or OpenMetrics where Accept asks for it
    /healthz                 200 while the heartbeat is young, else 503: for what restarts the process
    /readyz                  200 while it trades: reconciled, not paused, not halted
    /status                  JSON: what `marketflow agent status` shows
    /explanations/0x...      the bytes whose keccak is that hash; `.json` may follow

It listens on this machine only, unless it is told otherwise: there is no password. A request is one connection, which
is closed after its answer, and cut when it takes too long, in whichever direction.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any, Final

from aiohttp import web
from eth_utils import keccak
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

log = logging.getLogger("marketflow.web")

_HASH: Final = re.compile(r"(0x[0-9a-f]{64})(\.json)?")
_LOCAL_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HEADERS: Final = {
    "Server": "marketflow",
    "Connection": "close",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
_READ: Final = ("GET", "HEAD")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """What is shown. Everything is called in the loop's thread, so it is to answer at once."""

    registry: CollectorRegistry
    # Seconds since the daemon last said that it lives; None before the first time.
    heartbeat_age_s: Callable[[], float | None]
    # Why it does not trade; empty when it does.
    not_ready_because: Callable[[], str]
    status: Callable[[], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]
    # The document of a hash.
    explanation: Callable[[str], bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebRules:
    """How the server behaves."""

    max_heartbeat_age_s: float = 120.0
    # From a connection's first byte to its last.
    timeout_s: float = 10.0
    max_connections: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Where it is served."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


@asynccontextmanager
async def serve(
    views: Views, *, host: str = "127.0.0.1", port: int = 0, rules: WebRules | None = None
) -> AsyncIterator[Served]:
    """Serves while the block runs. Raises OSError when the address is taken; the port 0 takes a free one."""
    rules = rules or WebRules()
    runner = web.AppRunner(make_app(views, rules, only_local=is_loopback(host)), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        accept = _limited(runner.server, rules)
        server = await asyncio.get_running_loop().create_server(accept, host, port)
        try:
            yield Served(host=host, port=server.sockets[0].getsockname()[1])
        finally:
            server.close()
    finally:
        await runner.cleanup()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_app(views: Views, rules: WebRules, *, only_local: bool) -> web.Application:
    """The application. `only_local`: a request must name this machine, so that a page of another site, whose name was
    made to lead here, reads nothing."""
    app = web.Application(middlewares=[_guard(only_local)], client_max_size=1)
    app.on_response_prepare.append(_finish)
    shown = _Shown(views, rules)
    for path, handler in (
        ("/metrics", shown.metrics),
        ("/healthz", shown.healthz),
        ("/readyz", shown.readyz),
        ("/status", shown.status),
        ("/explanations/{name}", shown.explanation),
    ):
        app.router.add_get(path, handler)
    return app


class _Shown:
    def __init__(self, views: Views, rules: WebRules) -> None:
        self._views, self._rules = views, rules

    async def metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # A thousand agents are a megabyte: written beside the loop, not in it.
        page = await asyncio.to_thread(encode, self._views.registry)
        return web.Response(body=page, headers={"Content-Type": content_type})

    async def healthz(self, _request: web.Request) -> web.Response:
        age_s, most_s = self._views.heartbeat_age_s(), self._rules.max_heartbeat_age_s
        if age_s is None:
            return _json(503, {"healthy": False, "reason": "no heartbeat yet"})
        if age_s > most_s:
            return _json(503, {"healthy": False, "reason": f"the last heartbeat was {age_s:.0f} s ago, {most_s:.0f} s"
                               " are allowed"})  # fmt: skip
        return _json(200, {"healthy": True})

    async def readyz(self, _request: web.Request) -> web.Response:
        because = self._views.not_ready_because()
        return _json(503, {"ready": False, "reason": because}) if because else _json(200, {"ready": True})

    async def status(self, _request: web.Request) -> web.Response:
        found = self._views.status()
        return _json(200, await found if isawaitable(found) else found)

    async def explanation(self, request: web.Request) -> web.Response:
        if not (asked := _HASH.fullmatch(request.match_info["name"])):
            return _json(404, {"error": "no hash: 0x and 64 small hexadecimal digits are expected"})
        name = asked[1]
        content = self._views.explanation(name)
        if content is None:
            return _json(404, {"error": f"{name} is not in this journal"})
        if "0x" + keccak(content).hex() != name:
            log.error("the journal's document %s has another hash: the file is damaged", name)
            return _json(500, {"error": f"the document of {name} is damaged"})
        unchanging = {"ETag": f'"{name}"', "Cache-Control": "public, max-age=31536000, immutable"}
        if request.headers.get("If-None-Match") == unchanging["ETag"]:
            return web.Response(status=304, headers=unchanging)
        return web.Response(body=content, content_type="application/json", headers=unchanging)


def _guard(only_local: bool) -> Any:
    """Refuses what is not a plain reading of this server, and answers every error in JSON."""

    @web.middleware
    async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
        if request.method not in _READ:
            return _json(405, {"error": "nothing can be changed here"}, {"Allow": ", ".join(_READ)})
        if request.body_exists:
            return _json(413, {"error": "a request has no body here"})
        if only_local and _name_of(request.headers.get("Host", "")) not in _LOCAL_NAMES:
            return _json(421, {"error": "ask for this machine by its own name, such as 127.0.0.1"})
        try:
            return await handler(request)
        except web.HTTPException as error:
            return _json(error.status, {"error": error.reason})
        except Exception:
            log.exception("%s could not be answered", request.path)
            return _json(500, {"error": "could not be answered; the daemon's log says why"})

    return guard


def _name_of(host: str) -> str:
    """A Host header without its port."""
    return re.sub(r":\d*$", "", host).lower()


async def _finish(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")
    response.force_close()


def _json(status: int, content: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    text = json.dumps(content, default=str, separators=(",", ":"))
    return web.Response(status=status, text=text, content_type="application/json", headers=headers)


class _TooMany(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.abort()  # type: ignore[attr-defined]


def _limited(server: Any, rules: WebRules) -> Callable[[], asyncio.BaseProtocol]:
    """Connections that end: aiohttp itself waits for ever for one that sends or reads a byte now and then."""
    loop = asyncio.get_running_loop()

    def accept() -> asyncio.BaseProtocol:
        if len(server.connections) >= rules.max_connections:
            return _TooMany()
        protocol = server()
        loop.call_later(rules.timeout_s, _cut, protocol)
        return protocol

    return accept


def _cut(protocol: Any) -> None:
    if protocol.transport is not None:
        protocol.transport.abort()
