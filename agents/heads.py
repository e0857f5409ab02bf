"""New heads of a chain as they come: by WebSocket where there is one, by asking the nodes where it fails.

    async with HeadStream(pool, ws_urls=["wss://a.example/KEY"]) as heads:
        async for head in heads:
            ...

Addresses of nodes contain access keys: only their hosts are ever said or logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from web3.types import RPCEndpoint
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from agents.errors import AgentError, Misconfigured, Retryable
from agents.rpc import EndpointPool
from oracle.chain import BlockRef

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 30.0
MAX_MESSAGE_BYTES = 2**20

_LOG = logging.getLogger(__name__)
# The library writes addresses, with their keys, into its log: one that nobody reads.
_SILENT = logging.Logger("agents.heads.websocket", logging.CRITICAL + 1)

_CHAIN_ID, _SUBSCRIBE = 1, 2


class HeadStream:
    """An async iterator of heads, for one consumer. To be used in an `async with`, which ends all its tasks.

    Each head comes at most once, and only the newest when the consumer is slow: heights may be left out. A head that is
    lower than the one before, or another at the same height, is delivered: the chain was reorganised, and what that
    means is the consumer's business. A lower head of a node that is only late is not.

    While no WebSocket has brought a head for `silence_s`, the pool is asked every `poll_s`; a silent or broken
    connection is made anew, the addresses in turn, with pauses that double. A WebSocket of another chain is not used.

    Raises Misconfigured (an address that is none; the pool's endpoints, or the first WebSocket that answers, on another
    chain). Nodes that do not answer raise nothing: there is no head then.
    """

    def __init__(
        self,
        pool: EndpointPool,
        *,
        ws_urls: Sequence[str] = (),
        poll_s: float = 2.0,
        silence_s: float = 30.0,
        timeout_s: float = 10.0,
        first_backoff_s: float = FIRST_BACKOFF_S,
    ) -> None:
        self._hosts = {url: _host_of(url, place) for place, url in enumerate(ws_urls, start=1)}
        self._pool, self._poll_s, self._silence_s, self._timeout_s = pool, poll_s, silence_s, timeout_s
        self._first_backoff_s = first_backoff_s
        self._tasks: list[asyncio.Task[None]] = []
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="heads")
        # The head that waits for the consumer, and the newest that was offered.
        self._waiting: BlockRef | None = None
        self._newest: BlockRef | None = None
        self._offers, self._heard_at_s = 0, float("-inf")
        self._changed = asyncio.Event()
        self._error: AgentError | None = None
        self._was_right, self._is_poll_failing = False, False
        self._is_closed = False
        # How often a WebSocket was opened.
        self.connections = 0

    @property
    def source(self) -> Literal["websocket", "polling"]:
        """Where heads come from now."""
        return "websocket" if _now_s() - self._heard_at_s < self._silence_s else "polling"

    async def __aenter__(self) -> Self:
        self._tasks.append(asyncio.create_task(self._guard(self._poll), name="heads-poll"))
        if self._hosts:
            self._tasks.append(asyncio.create_task(self._guard(self._follow), name="heads-websocket"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all tasks, and wait for the question that is being asked, the pool's time-outs at most.

        Again does nothing.
        """
        if self._is_closed:
            return
        self._is_closed = True
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        is_idle = False
        try:
            # What is asked last is answered last.
            await _finished(self._worker.submit(bool))
            is_idle = True
        finally:
            self._worker.shutdown(wait=is_idle, cancel_futures=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BlockRef:
        """The next head. Raises Misconfigured; RuntimeError outside the `async with`."""
        while self._waiting is None:
            if self._error:
                raise self._error
            if not self._tasks:
                raise RuntimeError("a HeadStream is used in an `async with`")
            self._changed.clear()
            await self._changed.wait()
        head, self._waiting = self._waiting, None
        return head

    async def _guard(self, work: Callable[[], Any]) -> None:
        """Ends the stream with an error that nobody but an operator can mend."""
        try:
            await work()
        except Misconfigured as error:
            self._error = error
        except Exception as error:
            _LOG.exception("heads")
            self._error = AgentError(f"the stream of heads failed: {type(error).__name__}")
        self._changed.set()

    def _offer(self, head: BlockRef) -> None:
        if self._newest and (self._newest.number, self._newest.hash) == (head.number, head.hash):
            return
        self._newest = self._waiting = head
        self._offers += 1
        self._changed.set()

    # Asking

    async def _poll(self) -> None:
        while True:
            if self.source == "polling":
                offers = self._offers
                try:
                    head = await self._in_thread(self._fetch, self._newest)
                except Retryable as error:
                    self._log_once(error)
                else:
                    self._is_poll_failing = False
                    # What the WebSocket brought meanwhile is newer.
                    if head and offers == self._offers:
                        self._offer(head)
            await asyncio.sleep(self._poll_s)

    def _log_once(self, error: Retryable) -> None:
        if not self._is_poll_failing:
            _LOG.warning("no new heads: %s", error)
        self._is_poll_failing = True

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.wrap_future(self._worker.submit(work, *arguments))

    def _fetch(self, newest: BlockRef | None) -> BlockRef | None:
        """The pool's latest block, None when it is only late. In the thread."""
        head = _head(self._ask_block("latest"))
        return head if head and not self._is_late(head, newest) else None

    def _is_late(self, head: BlockRef, newest: BlockRef | None) -> bool:
        """Whether the chain still has the newest head, so that whoever told of a lower one is behind. In the thread."""
        if newest is None or head.number >= newest.number:
            return False
        there = _head(self._ask_block(hex(newest.number)))
        return there is not None and there.hash == newest.hash

    def _ask_block(self, which: str) -> Any:
        return self._pool.make_request(RPCEndpoint("eth_getBlockByNumber"), [which, False]).get("result")

    # WebSocket

    async def _follow(self) -> None:
        pause_s = self._first_backoff_s
        for attempt in itertools.count():
            heard_at_s = self._heard_at_s
            url, host = list(self._hosts.items())[attempt % len(self._hosts)]
            reason = await self._follow_one(url)
            if self._heard_at_s > heard_at_s:
                pause_s = self._first_backoff_s
            _LOG.warning("WebSocket %s: %s; the nodes are asked for heads until it is back", host, reason)
            self._heard_at_s = float("-inf")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_BACKOFF_S)

    async def _follow_one(self, url: str) -> str:
        """Offers its heads until it ends; why it ended."""
        options: dict[str, Any] = {"open_timeout": self._timeout_s, "close_timeout": 1, "max_size": MAX_MESSAGE_BYTES}
        try:
            # Without the proxies of the environment: the key goes where the address says.
            async with connect(url, proxy=None, logger=_SILENT, **options) as socket:
                self.connections += 1
                await self._subscribe(socket, url)
                while True:
                    head = await self._next_head(socket)
                    await self._offer_if_new(head)
        except TimeoutError:
            return "silent"
        except (_Unusable, Retryable) as error:
            return str(error)
        except (OSError, WebSocketException, ValueError, RecursionError) as error:
            return _reason(error)

    async def _subscribe(self, socket: ClientConnection, url: str) -> None:
        actual = await self._ask(socket, _CHAIN_ID, "eth_chainId", [])
        try:
            chain_id = int(actual, 16)
        except (TypeError, ValueError):
            raise _Unusable("told no chain id") from None
        if chain_id != self._pool.chain_id:
            refusal = f"is on chain {chain_id}, expected is chain {self._pool.chain_id}"
            if not self._was_right:
                raise Misconfigured(f"WebSocket {self._hosts[url]} {refusal}: correct MARKETFLOW_WS_URL")
            raise _Unusable(refusal)
        self._was_right = True
        if not isinstance(await self._ask(socket, _SUBSCRIBE, "eth_subscribe", ["newHeads"]), str):
            raise _Unusable("takes no subscription to heads")

    async def _ask(self, socket: ClientConnection, identity: int, method: str, params: list[Any]) -> Any:
        """The result, None for an error. Raises TimeoutError."""
        await socket.send(json.dumps({"jsonrpc": "2.0", "id": identity, "method": method, "params": params}))
        async with asyncio.timeout(self._timeout_s):
            while (message := _parse(await socket.recv())).get("id") != identity:
                pass
        return message.get("result")

    async def _next_head(self, socket: ClientConnection) -> BlockRef:
        """Raises TimeoutError after `silence_s`, _Unusable for what is no head."""
        async with asyncio.timeout(self._silence_s):
            while (message := _parse(await socket.recv())).get("method") != "eth_subscription":
                pass
        params = message.get("params")
        head = _head(params.get("result") if isinstance(params, dict) else None)
        if head is None:
            raise _Unusable("sent a head that is none")
        return head

    async def _offer_if_new(self, head: BlockRef) -> None:
        """A lower one is compared with the chain first; until the nodes answer it is not offered."""
        newest = self._newest
        if newest is None or head.number >= newest.number or not await self._in_thread(self._is_late, head, newest):
            self._heard_at_s = _now_s()
            self._offer(head)


class _Unusable(Exception):
    """A WebSocket that has to be made anew."""


def _now_s() -> float:
    return asyncio.get_running_loop().time()


async def _finished(work: Future[Any]) -> None:
    """Waits for what runs in a thread. Whoever stops waiting does not stop it."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    work.add_done_callback(lambda _: loop.call_soon_threadsafe(done.set))
    await done.wait()


def _parse(message: str | bytes) -> dict[str, Any]:
    parsed = json.loads(message)
    if not isinstance(parsed, dict):
        raise _Unusable("sent what is no JSON-RPC")
    return parsed


def _head(block: Any) -> BlockRef | None:
    """None for what is no block. Numbers that JSON-RPC would not allow are none."""
    if not isinstance(block, dict) or not isinstance(block.get("hash"), str):
        return None
    with contextlib.suppress(KeyError, TypeError, ValueError):
        number, timestamp_s = int(block["number"], 16), int(block["timestamp"], 16)
        if len(bytes.fromhex(block["hash"].removeprefix("0x"))) == 32 and number >= 0 and timestamp_s >= 0:
            return BlockRef(number=number, hash=block["hash"], timestamp_s=timestamp_s)
    return None


def _host_of(url: str, place: int) -> str:
    """Raises Misconfigured, which says where in the list the address stands and not what it is."""
    refusal = Misconfigured(f"WebSocket {place} is no address: it begins with wss:// or ws:// and has a host")
    if not url.isascii() or any(character <= " " or character == "\x7f" for character in url):
        raise refusal
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise refusal from None
    if parts.scheme not in ("ws", "wss") or not host or parts.fragment:
        raise refusal
    return f"{host}:{port}" if port else host


def _reason(error: Exception) -> str:
    """Never the error's own words, which may have the address in them."""
    if isinstance(error, InvalidStatus):
        return f"HTTP {error.response.status_code}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not valid"
    if isinstance(error, ConnectionRefusedError):
        return "refused the connection"
    if isinstance(error, ConnectionClosed | ConnectionError):
        return "hung up"
    if isinstance(error, ValueError | RecursionError):
        return "sent what is no JSON"
    return f"can't be reached ({type(error).__name__})"
