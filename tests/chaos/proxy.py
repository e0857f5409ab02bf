"""A JSON-RPC proxy that treats its client badly, by a plan that a seed replays.

What happens to a call depends on the seed, the method, and how many calls of that method came before it; on no clock
and no thread. So a client that asks the same again meets the same faults again. Where several threads share a method,
which of them meets a fault is up to them: that the n-th call of the method meets it is not.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self
from urllib.parse import urlsplit

import rlp
from eth_account import Account as EthAccount
from eth_account.typed_transactions import TypedTransaction
from eth_utils import keccak, to_bytes
from hexbytes import HexBytes

__all__ = ["CONTENT_FAULTS", "TRANSPORT_FAULTS", "ChaosProxy", "Decision", "Fault", "Kind", "Plan", "kind_of"]

BPS: Final = 10_000
_UPSTREAM_TIMEOUT_S: Final = 60
_LOGGED: Final = 200_000
# What geth and its kin want of a replacement, of the fee and of the tip; anvil is content with one wei more of the fee.
_PRICE_BUMP_PERCENT: Final = 10
_HTML_502: Final = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>\n"


class Kind(StrEnum):
    """What a call is for: each kind has its own rates."""

    SEND = "send"
    RECEIPT = "receipt"
    READ = "read"


class Fault(StrEnum):
    """What may happen to a call. Nothing else does: what has no fault is passed on as it is."""

    # The connection is reset; the node has seen nothing.
    DROP_BEFORE = "drop-before"
    # The connection is reset; the node has done what it was asked, and the client never learns.
    DROP_AFTER = "drop-after"
    DELAY = "delay"
    # The node gets it twice; the client gets the first answer, or the second.
    DUPLICATE = "duplicate"
    # It waits until a later request has been answered by the node, or until `hold_s` have passed.
    REORDER = "reorder"
    # The node has done it, but the answer is half of the JSON, is for another id, an HTML page, or nothing.
    TRUNCATED = "truncated"
    WRONG_ID = "wrong-id"
    BAD_GATEWAY = "bad-gateway"
    EMPTY = "empty"
    # One hex digit of the result is another. A client cannot notice that in what it has no second source for.
    BIT_FLIP = "bit-flip"
    # 429 with Retry-After; the node has seen nothing.
    RATE_LIMIT = "rate-limit"
    # As a node answers that lacks the last blocks: whatever asks for `latest`, and receipts.
    BEHIND = "behind"
    # The node has seen nothing, the client gets the transaction's hash: a mempool that dropped it.
    SWALLOW = "swallow"


# Those that a JSON-RPC batch meets as a whole, for its first call that meets any; the others, each call for itself.
CONTENT_FAULTS: Final = frozenset({Fault.BIT_FLIP, Fault.BEHIND, Fault.SWALLOW, Fault.WRONG_ID})
TRANSPORT_FAULTS: Final = frozenset(Fault) - CONTENT_FAULTS
_SENDS: Final = ("eth_sendRawTransaction", "eth_sendRawTransactionSync", "eth_sendTransaction")
_RECEIPTS: Final = ("eth_getTransactionReceipt", "eth_getTransactionByHash", "eth_getBlockReceipts")
# Where the block stands among the parameters.
_BLOCK_AT: Final[Mapping[str, int]] = {
    "eth_getBlockByNumber": 0,
    "eth_call": 1,
    "eth_getBalance": 1,
    "eth_getTransactionCount": 1,
    "eth_getCode": 1,
    "eth_getStorageAt": 2,
    "eth_getBlockReceipts": 0,
}
_BEHIND_CHANGES: Final = frozenset({"eth_blockNumber", *_BLOCK_AT, *_RECEIPTS})


def kind_of(method: str) -> Kind:
    """Which rates a method has."""
    if method in _SENDS:
        return Kind.SEND
    return Kind.RECEIPT if method in _RECEIPTS else Kind.READ


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How often each fault happens, and how large it is. The faults of one kind may come to 10,000 bps together.

    A fault that means nothing for a method (SWALLOW for a read, BEHIND for a send) is passed over: no other takes its
    share. `as_geth`: transactions are refused in geth's words, and a replacement needs 10 % more of fee and tip.
    """

    rates_bps: Mapping[Kind, Mapping[Fault, int]] = field(default_factory=dict)
    delay_ms: tuple[int, int] = (5, 100)
    # How long REORDER waits for a later request.
    hold_ms: int = 300
    behind_blocks: tuple[int, int] = (1, 6)
    retry_after_s: int = 1
    as_geth: bool = False

    def __post_init__(self) -> None:
        for kind, rates in self.rates_bps.items():
            if min(rates.values(), default=0) < 0 or sum(rates.values()) > BPS:
                raise ValueError(f"the rates of {kind} come to {sum(rates.values())} bps, or one is negative")

    @classmethod
    def evenly(cls, bps: int, *, faults: frozenset[Fault] = frozenset(Fault), **more: Any) -> Self:
        """Every kind meets some fault with about that rate, shared evenly among `faults`."""
        return cls(rates_bps={kind: {each: bps // len(faults) for each in sorted(faults)} for kind in Kind}, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided for the `count`-th call (from 0) of a method. `size` is the fault's own random number."""

    method: str
    count: int
    fault: Fault | None
    size: int = 0
    forced: bool = False


def decide(seed: int, plan: Plan, method: str, count: int) -> Decision:
    """The decision for one call: a function of its arguments only."""
    digest = sha256(f"{seed}:{method}:{count}".encode()).digest()
    drawn, size = int.from_bytes(digest[:8]) % BPS, int.from_bytes(digest[8:16])
    for fault, rate_bps in sorted(plan.rates_bps.get(kind_of(method), {}).items()):
        if drawn < rate_bps:
            return Decision(method=method, count=count, fault=fault if _applies(fault, method) else None, size=size)
        drawn -= rate_bps
    return Decision(method=method, count=count, fault=None, size=size)


def _applies(fault: Fault, method: str) -> bool:
    if fault is Fault.SWALLOW:
        return method == "eth_sendRawTransaction"
    return fault is not Fault.BEHIND or method in _BEHIND_CHANGES


class Reset(Exception):
    """The client's connection is to be reset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the client gets."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class ChaosProxy:
    """Listens on `url` once started and passes on to `upstream_url`, badly. Use it in a `with`, or `start` and `stop`.

    `log` has every decision in the order in which they were made. HTTP only: no WebSocket.
    """

    def __init__(self, upstream_url: str, seed: int, plan: Plan | None = None, *, port: int = 0) -> None:
        where = urlsplit(upstream_url)
        if where.scheme != "http" or not where.hostname:
            raise ValueError(f"{upstream_url} is not http://HOST:PORT")
        self.seed, self.plan = seed, plan or Plan()
        self._host, self._upstream_port, self._wanted_port = where.hostname, where.port or 80, port
        self._lock, self._open, self._stopping = threading.RLock(), threading.Event(), threading.Event()
        self._passed_on = threading.Condition(self._lock)
        self._passed_on_count = 0
        self._counts: Counter[str] = Counter()
        self._forced: dict[str, deque[Fault | None]] = {}
        self._log: deque[Decision] = deque(maxlen=_LOGGED)
        self._server: _Server | None = None
        self._lag_blocks = 0
        self._cut = False
        self._open.set()

    # Life

    @property
    def port(self) -> int:
        """The one it listens on. Raises RuntimeError before it is started."""
        if self._server is None:
            raise RuntimeError("the proxy is not started")
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Listen. Raises OSError when the wanted port is taken."""
        self._stopping.clear()
        self._server = _Server(self, self._wanted_port)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), name="chaos-proxy").start()
        return self

    def stop(self) -> None:
        """End every connection and every wait. Calling it again does nothing."""
        if self._server is not None:
            self._stopping.set()
            self._open.set()
            self._let_held_ones_go()
            self._server.shutdown()
            self._server.close_clients()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What a test may do to it

    @property
    def log(self) -> tuple[Decision, ...]:
        """Every decision (the last 200,000), oldest first."""
        with self._lock:
            return tuple(self._log)

    def faults(self) -> Counter[Fault]:
        """How often each fault happened."""
        return Counter(decision.fault for decision in self.log if decision.fault)

    def force(self, method: str, *faults: Fault | None) -> None:
        """The next calls of that method meet these, whatever the plan says; None is no fault."""
        for fault in faults:
            if fault is not None and not _applies(fault, method):
                raise ValueError(f"{fault} means nothing for {method}")
        with self._lock:
            self._forced.setdefault(method, deque()).extend(faults)

    def lag(self, blocks: int) -> None:
        """From now on every answer is that of a node so many blocks behind; 0 ends it."""
        self._lag_blocks = blocks

    def cut(self, off: bool = True) -> None:
        """From now on, or no longer, every connection is reset before anything is passed on."""
        self._cut = off

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Meanwhile requests wait: nobody sees the chain while a test changes it in several steps."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    # One request

    def answer(self, body: bytes, upstream: _Upstream) -> Reply:
        """What the client gets for one body. Raises Reset."""
        self._open.wait()
        if self._cut:
            raise Reset
        try:
            asked = json.loads(body)
            calls = asked if isinstance(asked, list) else [asked]
            decisions = [self._decide(str(call.get("method"))) for call in calls]
        except (ValueError, AttributeError):
            return self._pass_on(body, upstream)
        whole = next((each for each in decisions if each.fault in TRANSPORT_FAULTS), None)
        return self._with_transport_fault(asked, calls, decisions, whole, upstream)

    def _decide(self, method: str) -> Decision:
        with self._lock:
            count = self._counts[method]
            self._counts[method] += 1
            decision = decide(self.seed, self.plan, method, count)
            if forced := self._forced.get(method):
                decision = Decision(method=method, count=count, fault=forced.popleft(), size=decision.size, forced=True)
            self._log.append(decision)
            return decision

    def _with_transport_fault(
        self, asked: Any, calls: list[Any], decisions: list[Decision], whole: Decision | None, upstream: _Upstream
    ) -> Reply:
        fault, size = (whole.fault, whole.size) if whole else (None, 0)
        if fault is Fault.DROP_BEFORE:
            raise Reset
        if fault is Fault.RATE_LIMIT:
            return self._too_many(calls)
        if fault is Fault.DELAY:
            self._stopping.wait(_between(self.plan.delay_ms, size) / 1000)
        if fault is Fault.REORDER:
            self._wait_for_a_later_one()
        replies = [self._ask(asked, calls, decisions, upstream) for _ in range(2 if fault is Fault.DUPLICATE else 1)]
        if fault is Fault.DROP_AFTER:
            raise Reset
        return _spoiled(replies[size % len(replies)], fault, size)

    def _too_many(self, calls: list[Any]) -> Reply:
        error = {"code": -32005, "message": "rate limit exceeded"}
        body = {"jsonrpc": "2.0", "id": calls[0].get("id") if calls else None, "error": error}
        return Reply(body=json.dumps(body).encode(), status=429, headers={"Retry-After": str(self.plan.retry_after_s)})

    def _wait_for_a_later_one(self) -> None:
        with self._passed_on:
            before = self._passed_on_count
            self._passed_on.wait_for(
                lambda: self._passed_on_count > before or self._stopping.is_set(), self.plan.hold_ms / 1000
            )

    def _pass_on(self, body: bytes, upstream: _Upstream) -> Reply:
        try:
            return upstream.post(body)
        except (OSError, http.client.HTTPException):
            return Reply(body=_HTML_502, status=502, content_type="text/html")
        finally:
            self._let_held_ones_go()

    def _let_held_ones_go(self) -> None:
        with self._passed_on:
            self._passed_on_count += 1
            self._passed_on.notify_all()

    def _ask(self, asked: Any, calls: list[Any], decisions: list[Decision], upstream: _Upstream) -> Reply:
        """Passes on; as it is where no call of it needs anything done to its question or its answer."""
        special = self.plan.as_geth or self._lag_blocks or any(each.fault in CONTENT_FAULTS for each in decisions)
        if not special:
            return self._pass_on(json.dumps(asked).encode(), upstream)
        try:
            answers = [self._one(call, each, upstream) for call, each in zip(calls, decisions, strict=True)]
        except (OSError, http.client.HTTPException):
            return Reply(body=_HTML_502, status=502, content_type="text/html")
        finally:
            self._let_held_ones_go()
        return Reply(body=json.dumps(answers if isinstance(asked, list) else answers[0]).encode())

    def _one(self, call: dict[str, Any], decision: Decision, upstream: _Upstream) -> dict[str, Any]:
        if decision.fault is Fault.SWALLOW:
            return _result(call, "0x" + keccak(to_bytes(hexstr=call["params"][0])).hex())
        lag = _between(self.plan.behind_blocks, decision.size) if decision.fault is Fault.BEHIND else self._lag_blocks
        if self.plan.as_geth and kind_of(decision.method) is Kind.SEND:
            answer = _as_geth(call, upstream)
        elif lag and decision.method in _BEHIND_CHANGES:
            answer = _behind(call, lag, upstream)
        else:
            answer = upstream.ask(call)
        if decision.fault is Fault.WRONG_ID:
            return {**answer, "id": _another_id(answer.get("id"))}
        return _bit_flipped(answer, decision.size) if decision.fault is Fault.BIT_FLIP else answer


# What is done to questions and answers


def _between(bounds: tuple[int, int], size: int) -> int:
    low, high = bounds
    return low + size % (high - low + 1)


def _result(call: Mapping[str, Any], result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call.get("id"), "result": result}


def _another_id(identity: Any) -> Any:
    return identity + 1 if isinstance(identity, int) else f"{identity}-other"


def _spoiled(reply: Reply, fault: Fault | None, size: int) -> Reply:
    if fault is Fault.TRUNCATED:
        return Reply(body=reply.body[: 1 + size % max(1, len(reply.body) - 2)])
    if fault is Fault.EMPTY:
        return Reply(body=b"")
    if fault is Fault.BAD_GATEWAY:
        return Reply(body=_HTML_502, status=502, content_type="text/html")
    return reply


def _bit_flipped(answer: dict[str, Any], size: int) -> dict[str, Any]:
    """The same with one hex digit of the result changed to another; untouched when there is none."""
    places = list(_hex_places(answer, "result"))
    if not places:
        return answer
    holder, key = places[size % len(places)]
    text = holder[key]
    at = 2 + (size >> 16) % (len(text) - 2)
    flipped = format(int(text[at], 16) ^ (1 << (size >> 48) % 4), "x")
    holder[key] = text[:at] + flipped + text[at + 1 :]
    return answer


def _hex_places(holder: Any, key: Any) -> Iterator[tuple[Any, Any]]:
    """Where in a JSON value hex strings are."""
    value = holder.get(key) if isinstance(holder, dict) else holder[key]
    if isinstance(value, str) and value.startswith("0x") and len(value) > 2:
        yield holder, key
    elif isinstance(value, dict | list):
        for inner in sorted(value) if isinstance(value, dict) else range(len(value)):
            yield from _hex_places(value, inner)


def _behind(call: dict[str, Any], blocks: int, upstream: _Upstream) -> dict[str, Any]:
    """As a node answers that has not got the last `blocks`; an account's pending nonce is its last one there."""
    method, params = call["method"], list(call.get("params") or [])
    seen = max(0, int(upstream.call("eth_blockNumber"), 16) - blocks)
    if method == "eth_blockNumber":
        return _result(call, hex(seen))
    if method in _BLOCK_AT:
        at = _BLOCK_AT[method]
        params += ["latest"] * (at + 1 - len(params))
        if params[at] in ("latest", "pending"):
            params[at] = hex(seen)
        elif _is_after(params[at], seen):
            return _result(call, None) if method.startswith("eth_getBlock") else _unknown_block(call)
        return upstream.ask({**call, "params": params})
    answer = upstream.ask(call)
    found = answer.get("result")
    if found and found.get("blockNumber") and int(found["blockNumber"], 16) > seen:
        return _result(call, None)
    return answer


def _is_after(block: Any, seen: int) -> bool:
    return isinstance(block, str) and block.startswith("0x") and len(block) < 66 and int(block, 16) > seen


def _unknown_block(call: Mapping[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call.get("id"), "error": {"code": -32000, "message": "header not found"}}


# geth's ways, which anvil does not have


def _as_geth(call: dict[str, Any], upstream: _Upstream) -> dict[str, Any]:
    """Refuses a replacement that pays too little more, and says what anvil says in geth's words."""
    try:
        raw = to_bytes(hexstr=call["params"][0])
        sender, ours = EthAccount.recover_transaction(raw), _fields(raw)
    except Exception:  # what cannot be read is for the node to refuse
        return upstream.ask(call)
    nonce = ours["nonce"]
    there = upstream.call("eth_getTransactionBySenderAndNonce", sender, hex(nonce))
    known = "0x" + keccak(raw).hex()
    if there and not there["blockNumber"] and there["hash"] != known and not _pays_enough(ours, there):
        return _refused(call, "replacement transaction underpriced")
    answer = upstream.ask(call)
    if "error" in answer:
        return _refused(call, _geth_words(answer["error"]["message"], sender, nonce, upstream))
    return answer


def _refused(call: Mapping[str, Any], message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call.get("id"), "error": {"code": -32000, "message": message}}


def _fields(raw: bytes) -> dict[str, int]:
    """Nonce, fee and tip (wei for a unit of gas) of a signed transaction."""
    if raw[0] > 0x7F:
        nonce, price = (int.from_bytes(part) for part in rlp.decode(raw)[:2])
        return {"nonce": nonce, "fee": price, "tip": price}
    typed = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    price = typed.get("gasPrice", 0)
    fee, tip = typed.get("maxFeePerGas", price), typed.get("maxPriorityFeePerGas", price)
    return {"nonce": int(typed["nonce"]), "fee": int(fee), "tip": int(tip)}


def _pays_enough(new: Mapping[str, int], there: Mapping[str, Any]) -> bool:
    fee, tip = (int(there.get(name) or there["gasPrice"], 16) for name in ("maxFeePerGas", "maxPriorityFeePerGas"))
    wanted = 100 + _PRICE_BUMP_PERCENT
    return new["fee"] * 100 >= fee * wanted and new["tip"] * 100 >= tip * wanted


def _geth_words(message: str, sender: str, nonce: int, upstream: _Upstream) -> str:
    if message == "transaction already imported":
        return "already known"
    if message == "nonce too low":
        return f"nonce too low: next nonce {int(upstream.call('eth_getTransactionCount', sender, 'latest'), 16)}, " + (
            f"tx nonce {nonce}"
        )
    return "insufficient funds for gas * price + value" if message.startswith("Insufficient funds") else message


# HTTP


class _Upstream:
    """One kept-alive connection to the node."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=_UPSTREAM_TIMEOUT_S)

    def post(self, body: bytes) -> Reply:
        """The node's answer. Raises OSError or HTTPException when it does not come."""
        try:
            if self._connection.sock is None:
                self._connection.connect()
                self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection.request("POST", "/", body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            return Reply(body=response.read(), status=response.status)
        except BaseException:
            self._connection.close()
            raise

    def ask(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one call."""
        answer: dict[str, Any] = json.loads(self.post(json.dumps(call).encode()).body)
        return answer

    def call(self, method: str, *params: Any) -> Any:
        """The result of a call of our own. Raises OSError when there is none."""
        answer = self.ask({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)})
        if "error" in answer:
            raise OSError(f"{method}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        self._connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close, request_queue_size = False, True, 1024

    def __init__(self, proxy: ChaosProxy, port: int) -> None:
        self.proxy, self._clients, self._guard = proxy, set[socket.socket](), threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def upstream(self) -> _Upstream:
        return _Upstream(self.proxy._host, self.proxy._upstream_port)

    def remember(self, client: socket.socket) -> None:
        with self._guard:
            self._clients.add(client)

    def forget(self, client: socket.socket) -> None:
        with self._guard:
            self._clients.discard(client)

    def close_clients(self) -> None:
        with self._guard:
            for client in self._clients:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is nothing to write about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm, wbufsize = "HTTP/1.1", True, -1
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._upstream = self.server.upstream()
        self.server.remember(self.connection)

    def finish(self) -> None:
        self.server.forget(self.connection)
        self._upstream.close()
        with contextlib.suppress(OSError):
            super().finish()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            reply = self.server.proxy.answer(body, self._upstream)
        except Reset:
            self._reset()
            return
        self.send_response(reply.status)
        headers = {"Content-Type": reply.content_type, "Content-Length": str(len(reply.body)), **reply.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def _reset(self) -> None:
        """Ends the connection with a reset instead of a farewell."""
        self.close_connection = True
        self.server.forget(self.connection)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""
