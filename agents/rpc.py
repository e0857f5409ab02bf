"""Several JSON-RPC nodes as one web3 provider: the healthiest is asked, the next when it can't answer.

    with EndpointPool(["https://a.example/v2/KEY", "https://b.example"], chain_id=1) as pool:
        w3 = Web3(pool)
        results = pool.batch([("eth_sendRawTransaction", [raw]) for raw in signed])

Addresses of nodes contain access keys: only host and port of an address are ever said, logged or counted. For that
urllib3 logs nothing in a process that imports this.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import unquote

import urllib3
from pydantic_core import from_json
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError
from urllib3.util import Retry, Timeout, Url, parse_url
from web3 import Web3
from web3.exceptions import MethodNotSupported
from web3.providers import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from agents.errors import AgentError, Misconfigured, Retryable

OnRequest = Callable[[str, str, float, str], None]

# So many failures in a row open an endpoint's circuit; it is tried again after a pause that doubles to the longest.
FAILURES_TO_OPEN = 3
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 60.0
# Whoever says "too many requests" and no more rests so long; nobody is obeyed for longer than the longest.
DEFAULT_REST_S, LONGEST_REST_S = 1.0, 60.0
# How long a request waits for a rest to end, or for a block to come, before it is given up.
PATIENCE_S, PAUSE_S = 2.0, 0.2
# Heads are asked for when they were last heard of so long ago.
HEAD_REFRESH_S = 2.0
# A head counts so long for what the others lag behind, also when the endpoint that showed it is down.
HEAD_MEMORY_S = 60.0
# A failure counts so long when the healthiest is looked for.
FORGIVEN_AFTER_S = 30.0
MAX_BATCH = 100
MAX_ANSWER_BYTES = 64 * 2**20
# The weight of the newest request in an endpoint's latency.
_NEWEST_WEIGHT = 0.2
_KEPT_CONNECTIONS = 8
_CHUNK_BYTES = 2**16
_REASON_CHARACTERS = 160
_REFUSALS_OF_BATCHES = frozenset({400, 405, 413, 415, 422, 501})

_LOGGER = logging.getLogger(__name__)
# What it logs has keys in it: the path of each request, and the whole address when a header can't be read.
logging.getLogger("urllib3").setLevel(logging.CRITICAL)

# What may be asked twice, because nothing happens by it, or, for a raw transaction, nothing more the second time.
_REPEATABLE = re.compile(
    r"eth_(accounts|blobBaseFee|blockNumber|call|chainId|createAccessList|estimateGas|feeHistory|gasPrice|get\w+"
    r"|maxPriorityFeePerGas|protocolVersion|sendRawTransaction|simulateV1|syncing)"
    r"|net_(listening|peerCount|version)|web3_(clientVersion|sha3)|(debug_trace|trace_|ots_|txpool_)\w+"
)
# They make something in one node, which the others do not know.
_OF_ONE_NODE = re.compile(r"eth_(new\w*Filter|getFilter\w+|uninstallFilter|subscribe|unsubscribe)")
# Where in its parameters a method has the number of the block whose state it is about.
_BLOCK_PARAMETER = {
    **dict.fromkeys(("debug_traceBlockByNumber", "eth_getBlockReceipts", "trace_block"), 0),
    **dict.fromkeys(("eth_getBlockTransactionCountByNumber", "eth_getTransactionByBlockNumberAndIndex"), 0),
    **dict.fromkeys(("eth_call", "eth_createAccessList", "eth_estimateGas", "eth_simulateV1", "debug_traceCall"), 1),
    **dict.fromkeys(("eth_feeHistory", "eth_getBalance", "eth_getCode", "eth_getTransactionCount"), 1),
    **dict.fromkeys(("eth_getProof", "eth_getStorageAt"), 2),
}

# Errors that tell of the node and not of the request. Of the first kind it must rest; of the second it is as well as
# before, but lacks the block or the state; of the third it is ill.
_LIMITED_CODES = frozenset({-32005, -32029, 429})
_LIMITED = re.compile(r"rate.?limit|too many requests|request limit|compute units|throughput|quota", re.I)
_LACKS = re.compile(r"header .*not found|missing trie node|unknown block|block not found|state .*not available", re.I)
_ILL = re.compile(
    r"^internal( server)? error\W*$|time[d ]?.?out|try again|temporarily|unavailable|overloaded|bad gateway|upstream"
    r"|not synced|syncing|(txpool|transaction pool) is full", re.I,
)  # fmt: skip
_TIMED_OUT_CODE = -32002
# What these say is about the request, whatever words a contract's author chose.
_IS_ANSWER = re.compile(r"revert|more than \d+ results|nonce|insufficient funds|already known|underpriced", re.I)


class BlockNotReached(Retryable):
    """No endpoint has the block that the request is pinned to; later one will."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcError:
    """A JSON-RPC error as a value: what a node answered."""

    code: int
    message: str
    data: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer(RpcError):
    """In a batch: no endpoint answered this call, while others were answered. It may have been carried out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointHealth:
    """One endpoint as it is now."""

    # The last block number seen, None before the first.
    head: int | None
    consecutive_errors: int
    requests: int
    failures: int
    # Half-open: its pause is over, the next request tries it.
    circuit: Literal["closed", "open", "half-open"]
    # How long it is left alone, because of its circuit or because it asked for it.
    rests_s: float
    # The chain that it was last found on when that was not the wanted one.
    wrong_chain_id: int | None
    last_failure: str | None


class EndpointPool(JSONBaseProvider):
    """A web3 provider over several HTTP(S) endpoints of one chain, for several threads.

    A request goes to the healthiest endpoint whose head is at most `max_head_lag_blocks` behind the best, and on to the
    next when that one can't answer, unless it is of a kind that must not be done twice. A node's refusal (reverted,
    nonce too low) is an answer. State pinned to a block number is only asked of endpoints that have reached it.

    The chain id of each endpoint is checked before its first use and after each failed connection; when a connection
    was lost in between, before an answer that came over the new one is believed. `timeout_s` is for one try at one
    endpoint, which may last twice as long when the answer begins late and comes slowly. `requests_per_s` is for each
    endpoint and counts a batch's calls. `on_request(host, method, seconds, outcome)` is told of each try; outcomes are
    `ok`, `error` (an answer), `network`, `http`, `batch` (too long, or not taken), `limited`, `malformed`, `lacks`,
    `ill`.

    Raises Retryable when no endpoint answered, with the reason of each; Misconfigured for addresses that are none, and
    for endpoints on another chain: at the first request for any of them, later when there is no other.
    """

    def __init__(
        self, urls: Sequence[str], *, chain_id: int, timeout_s: float = 10, requests_per_s: float | None = None,
        max_head_lag_blocks: int = 3, on_request: OnRequest | None = None,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        super().__init__()
        if not urls:
            raise Misconfigured("no RPC endpoint is named: name at least one address")
        if requests_per_s is not None and requests_per_s <= 0:
            raise Misconfigured(f"requests per second are {requests_per_s}: at least a little, or none for no limit")
        self.chain_id = chain_id
        self._timeout_s, self._max_lag_blocks, self._on_request = timeout_s, max_head_lag_blocks, on_request
        self._clock, self._sleep = clock, sleep
        self._endpoints: list[_Endpoint] = []
        for place, url in enumerate(dict.fromkeys(urls), start=1):
            endpoint = _Endpoint(url, place, requests_per_s, clock)
            if endpoint.name in self.heads():
                endpoint.name += f"#{place}"
            self._endpoints.append(endpoint)
        self._preferred = self._endpoints[0]
        self._check_lock, self._wrong_at_start = threading.Lock(), None
        self._looks = ThreadPoolExecutor(max_workers=2 * len(self._endpoints), thread_name_prefix="rpc-heads")
        self._is_closed = False

    def __repr__(self) -> str:
        return f"EndpointPool({', '.join(endpoint.name for endpoint in self._endpoints)}; chain {self.chain_id})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; waits for the questions in the background. Again does nothing."""
        self._is_closed = True
        self._looks.shutdown(wait=True, cancel_futures=True)
        for endpoint in self._endpoints:
            endpoint.http.close()

    # Asking

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """The answer of one endpoint, a node's refusal included. Raises Retryable, Misconfigured."""
        call = self._call(method, params)
        answers, _ = self._deliver([call])
        return answers[call.id]

    def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """For each call its result, or an RpcError; NoAnswer where no endpoint answered.

        In HTTP requests of up to 100 calls, fewer where an endpoint takes fewer. For calls that may be repeated.
        Raises Retryable when not one call was answered, else as `make_request`; ValueError for other calls.
        """
        prepared = [self._call(method, params) for method, params in calls]
        if once := next((call.method for call in prepared if not call.is_repeatable), None):
            raise ValueError(f"{once} may not be repeated, so it has no place in a batch: send it alone")
        answers, reasons = self._deliver(prepared) if prepared else ({}, {})
        values = {id_: RpcError(**a["error"]) if "error" in a else a["result"] for id_, a in answers.items()}
        lost = NoAnswer(code=0, message=_sentence("this call", reasons))
        return [values.get(call.id, lost) for call in prepared]

    def is_connected(self, show_traceback: bool = False) -> bool:
        """Whether an endpoint of the right chain answers."""
        with contextlib.suppress(*() if show_traceback else (AgentError,)):
            self.make_request(RPCEndpoint("eth_blockNumber"), [])
            return True
        return False

    def check(self) -> None:
        """Look at all endpoints before the first request. Raises Misconfigured when one is on another chain."""
        with self._check_lock:
            if self._wrong_at_start is None:
                self._look_at_all(self._endpoints)
                self._wrong_at_start = [e for e in self._endpoints if e.wrong_chain_id is not None]
        if self._wrong_at_start:
            raise self._wrong_chain(self._wrong_at_start)

    def heads(self) -> dict[str, EndpointHealth]:
        """Each endpoint's health by its host, with the port where it is not the usual one."""
        now_s = self._clock()
        return {endpoint.name: endpoint.health(now_s) for endpoint in self._endpoints}

    # One request over several endpoints

    def _call(self, method: str, params: Any) -> _Call:
        if _OF_ONE_NODE.fullmatch(method):
            raise MethodNotSupported(f"{method} lives in one node of several: use eth_getLogs or HeadStream")
        return _Call(id=next(self.request_counter), method=method, params=list(params or ()))

    def _deliver(self, calls: list[_Call]) -> tuple[_Answers, dict[str, str]]:
        """Answers by id, one at least; and why each endpoint that did not answer all did not."""
        if self._is_closed:
            raise Retryable("the RPC endpoints are closed")
        self.check()
        self._start_due_looks()
        left, answers, reasons = calls, {}, {}
        search = _Search(calls, self._clock() + min(PATIENCE_S, self._timeout_s))
        while left and (endpoint := self._choose(search, reasons)):
            found, failure = self._ask(endpoint, left)
            answers |= found
            left = [call for call in left if call.id not in found]
            if failure:
                reasons[endpoint.name] = str(failure)
                once = next((call.method for call in left if not call.is_repeatable), None)
                if once and failure.was_sent:
                    doubt = "it may be done, look before you repeat it"
                    raise Retryable(f"{endpoint.name} was sent {once} and {failure}: {doubt}")
        if answers:
            return answers, reasons
        wrong = [endpoint for endpoint in self._endpoints if endpoint.wrong_chain_id is not None]
        if len(wrong) == len(self._endpoints):
            raise self._wrong_chain(wrong)
        what = calls[0].method if len(calls) == 1 else "the batch"
        raise (BlockNotReached if search.is_behind else Retryable)(_sentence(what, reasons))

    def _wrong_chain(self, endpoints: Sequence[_Endpoint]) -> Misconfigured:
        found = ", ".join(f"{endpoint.name} is on chain {endpoint.wrong_chain_id}" for endpoint in endpoints)
        way_out = "correct MARKETFLOW_RPC_URLS or MARKETFLOW_CHAIN_ID"
        return Misconfigured(f"{found}, expected is chain {self.chain_id}: {way_out}")

    def _ask(self, endpoint: _Endpoint, calls: list[_Call]) -> _Found:
        """Answers of one endpoint, in as many requests as it wants; and what it failed at."""
        answers: _Answers = {}
        failure: _Failure | None = None
        while calls:
            part = calls[: endpoint.max_batch]
            try:
                found, left_out = self._post_verified(endpoint, part)
            except _Failure as error:
                if error.kind != "batch":
                    return answers, error
                endpoint.max_batch = max(1, len(part) // 10)
                continue
            answers |= found
            failure = failure or left_out
            calls = calls[len(part) :]
        return answers, failure

    def _post_verified(self, endpoint: _Endpoint, calls: list[_Call], *, is_look: bool = False) -> _Found:
        """As `_post`, to an endpoint that is on our chain."""
        if not endpoint.is_verified:
            self._verify(endpoint)
        answers = self._post(endpoint, calls, is_look=is_look)
        if not endpoint.is_verified:
            # Over a new connection: who listens there now may be another node.
            self._verify(endpoint)
        return answers

    # Choosing

    def _choose(self, search: _Search, reasons: dict[str, str]) -> _Endpoint | None:
        """The healthiest endpoint that was not tried; waits a little for one. None with all reasons given."""
        while True:
            now_s = self._clock()
            states = {e: self._obstacle(e, search, now_s) for e in self._endpoints if e.name not in reasons}
            if ready := [endpoint for endpoint, obstacle in states.items() if obstacle is None]:
                return min(ready, key=lambda endpoint: self._rank(endpoint, search, now_s))
            obstacles = {endpoint: obstacle for endpoint, obstacle in states.items() if obstacle}
            if blind := [endpoint for endpoint, obstacle in obstacles.items() if obstacle.wants_head]:
                self._look_at_all(blind)
                now_s = self._clock()
                if any(self._obstacle(endpoint, search, now_s) is None for endpoint in blind):
                    continue
                if search.gives_up_question(self._best_head(now_s)):
                    continue
            pause_s = min((obstacle.wait_s for obstacle in obstacles.values()), default=float("inf"))
            if now_s + pause_s > search.deadline_s:
                search.is_behind = search.state_block is not None and bool(blind)
                reasons |= {endpoint.name: obstacle.reason for endpoint, obstacle in obstacles.items()}
                return None
            self._sleep(pause_s)

    def _obstacle(self, endpoint: _Endpoint, search: _Search, now_s: float) -> _Obstacle | None:
        """Why the endpoint can't be asked now, None when it can."""
        if rest_s := endpoint.rests_s(now_s):
            return _Obstacle(f"{endpoint.last_failure}; rests for {rest_s:.1f} s", wait_s=rest_s)
        head, wanted, asked = endpoint.head, search.state_block, search.asked_block
        if wanted is not None and (head is None or head < wanted):
            at = endpoint.last_failure or "has told no block" if head is None else f"is at block {head}"
            return _Obstacle(f"{at}, not yet at {wanted}", wants_head=True)
        if asked is not None and (head is None or head < asked):
            return _Obstacle(f"has no block {asked}", wants_head=True)
        lag = 0 if search.bears_lag else self._lag(endpoint, now_s)
        return _Obstacle(f"is {lag} blocks behind", wants_head=True) if lag else None

    def _lag(self, endpoint: _Endpoint, now_s: float) -> int:
        """By how many blocks the endpoint is behind the best, 0 when that is not too many."""
        lag = self._best_head(now_s) - endpoint.head if endpoint.head is not None else 0
        return lag if lag > self._max_lag_blocks else 0

    def _best_head(self, now_s: float) -> int:
        """The highest that any endpoint has shown lately, 0 when none has.

        Of three or more the second highest: one that makes heads up must not shut the honest ones out.
        """
        heads = [e.head for e in self._endpoints if e.head is not None and now_s - e.head_at_s <= HEAD_MEMORY_S]
        return 0 if not heads else sorted(heads)[-2] if len(heads) >= 3 else max(heads)

    def _rank(self, endpoint: _Endpoint, search: _Search, now_s: float) -> tuple[Any, ...]:
        """The lowest is asked. The one that was asked last is left only for one twice as fast: what a node was told,
        it knows before the others."""
        latency_s = (endpoint.latency_s or 0.0) / (2 if endpoint is self._preferred else 1)
        lag = self._lag(endpoint, now_s) if search.bears_lag else 0
        return lag, endpoint.is_open, endpoint.recent_errors(now_s), endpoint.bucket.is_empty(), latency_s

    # Heads and chain ids

    def _look_at_all(self, endpoints: Sequence[_Endpoint]) -> None:
        """Asks all at once and waits. An endpoint that does not answer has that in its health."""
        list(self._looks.map(self._look_at, endpoints))

    def _start_due_looks(self) -> None:
        """In the background, for what the next requests want to know; of one endpoint alone that is nothing."""
        for endpoint in self._endpoints if len(self._endpoints) > 1 else ():
            if endpoint.takes_look(self._clock()):
                self._looks.submit(self._look_at, endpoint)

    def _look_at(self, endpoint: _Endpoint) -> None:
        with contextlib.suppress(_Failure):
            self._post_verified(endpoint, [self._call("eth_blockNumber", [])], is_look=True)
        endpoint.is_looked_at = False

    def _verify(self, endpoint: _Endpoint) -> None:
        """Raises _Failure unless the endpoint says that it is on our chain."""
        call = self._call("eth_chainId", [])
        answer = self._post(endpoint, [call], is_look=True)[0][call.id]
        if error := answer.get("error"):
            failure = _Failure(f"refused {call.method} with {error['code']}", "ill", was_sent=False)
            endpoint.failed(failure)
            raise failure
        actual = int(answer["result"], 16)
        endpoint.found(actual, wanted=self.chain_id)
        if actual != self.chain_id:
            _LOGGER.error("RPC endpoint %s is on chain %s, not %s", endpoint.name, actual, self.chain_id)
            raise _Failure(f"is on chain {actual}", "malformed", was_sent=False)

    # One HTTP request

    def _post(self, endpoint: _Endpoint, calls: list[_Call], *, is_look: bool = False) -> _Found:
        """What was answered, and the first reason for what was not. Raises _Failure when nothing was."""
        wait_s = endpoint.bucket.reserve(len(calls), self._timeout_s)
        if wait_s is None:
            raise _Failure("is asked as often as requests_per_s allows", "limited", was_sent=False)
        if wait_s:
            self._sleep(wait_s)
        started_s = self._clock()
        answers: _Answers = {}
        try:
            answers, failure = _read(*endpoint.exchange(calls, self._timeout_s), calls, endpoint)
        except _Failure as error:
            failure = error
        took_s = self._clock() - started_s
        if failure:
            endpoint.failed(failure)
            _LOGGER.info("RPC endpoint %s: %s", endpoint.name, failure)
        else:
            endpoint.succeeded(took_s if len(calls) == 1 else None, is_look=is_look)
            self._preferred = self._preferred if is_look else endpoint
        for call in calls:
            if (head := call.head_of(answers.get(call.id, {}))) is not None:
                endpoint.head, endpoint.head_at_s = head, self._clock()
        has_error = any("error" in answer for answer in answers.values())
        self._tell(endpoint, calls, took_s, failure.kind if failure else "error" if has_error else "ok")
        if failure and not answers:
            raise failure
        return answers, failure

    def _tell(self, endpoint: _Endpoint, calls: list[_Call], took_s: float, outcome: str) -> None:
        """A counter that fails must not stop trading."""
        if self._on_request is None:
            return
        try:
            self._on_request(endpoint.name, calls[0].method if len(calls) == 1 else "batch", took_s, outcome)
        except Exception:
            _LOGGER.exception("on_request failed")


# What is asked and answered

_Answers = dict[int, dict[str, Any]]
_Found = tuple[_Answers, "_Failure | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    id: int
    method: str
    params: list[Any]

    @property
    def is_repeatable(self) -> bool:
        return _REPEATABLE.fullmatch(self.method) is not None

    @property
    def state_block(self) -> int | None:
        """The number of the block whose state is asked for."""
        if self.method == "eth_getLogs":
            query = self.params[0] if self.params and isinstance(self.params[0], Mapping) else {}
            return _highest(_block_number(query.get(name)) for name in ("fromBlock", "toBlock"))
        place = _BLOCK_PARAMETER.get(self.method, len(self.params))
        return _block_number(self.params[place]) if place < len(self.params) else None

    @property
    def asked_block(self) -> int | None:
        """The number of a block that is asked for itself: that there is none is an answer."""
        return _block_number(self.params[0]) if self.method == "eth_getBlockByNumber" and self.params else None

    def head_of(self, answer: Mapping[str, Any]) -> int | None:
        """The chain's head when that was asked for."""
        result = answer.get("result")
        if self.method == "eth_getBlockByNumber" and self.params[:1] == ["latest"] and result:
            return int(result["number"], 16)
        return int(result, 16) if self.method == "eth_blockNumber" and result else None


def _block_number(parameter: Any) -> int | None:
    """Of a plain number, as int, hex, or EIP-1898's object; None for tags and hashes."""
    if isinstance(parameter, Mapping):
        parameter = parameter.get("blockNumber")
    if isinstance(parameter, int) and not isinstance(parameter, bool):
        return parameter
    is_hex = isinstance(parameter, str) and re.fullmatch("0x[0-9a-fA-F]{1,16}", parameter)
    return int(parameter, 16) if is_hex else None


def _highest(numbers: Iterable[int | None]) -> int | None:
    return max((number for number in numbers if number is not None), default=None)


class _Search:
    """What one request needs of an endpoint, and until when one is waited for."""

    def __init__(self, calls: Sequence[_Call], deadline_s: float) -> None:
        self.deadline_s, self.is_behind = deadline_s, False
        self.state_block = _highest(call.state_block for call in calls)
        self.asked_block = _highest(call.asked_block for call in calls)
        # The state of a block is the same everywhere, and a transaction is good for every mempool.
        self.bears_lag = all(c.state_block is not None or c.method == "eth_sendRawTransaction" for c in calls)

    def gives_up_question(self, best_head: int) -> bool:
        """Whether a block was asked for that nobody has, now that the heads are known: then that is the answer."""
        if self.asked_block is None or not 0 < best_head < self.asked_block:
            return False
        self.asked_block = best_head
        return True


class _Obstacle(NamedTuple):
    reason: str
    wait_s: float = PAUSE_S
    # It may be gone: ask for the head.
    wants_head: bool = False


class _Failure(Exception):
    """An endpoint did not answer. `kind` is a word for metrics; `was_sent`: it may have done what was asked."""

    def __init__(self, reason: str, kind: str, *, was_sent: bool = True, rest_s: float = 0) -> None:
        super().__init__(reason)
        self.kind, self.was_sent, self.rest_s = kind, was_sent, rest_s


def _sentence(what: str, reasons: Mapping[str, str]) -> str:
    return f"no endpoint answered {what}: " + ", ".join(f"{name} ({reason})" for name, reason in reasons.items())


# Reading an answer


def _read(response: urllib3.BaseHTTPResponse, body: bytes, calls: list[_Call], endpoint: _Endpoint) -> _Found:
    """Answers by id, and why some are missing. Raises _Failure."""
    status, is_batch, is_limit = response.status, len(calls) > 1, response.status == 429
    if is_limit or (status >= 500 and not (status == 501 and is_batch)):
        rest_s = _rest_s(response) if status in (429, 503) else 0
        raise _Failure(f"HTTP {status}", "limited" if is_limit else "http", was_sent=not is_limit, rest_s=rest_s)
    try:
        # It has a bound of its own for how deep JSON is nested, which json only has by Python's recursion limit.
        parsed = from_json(body)
    except ValueError:
        parsed = None
    if isinstance(parsed, dict) and parsed.get("error") is not None:
        # Of the whole answer, and without an id when the request was not even read.
        _raise_unless_answer(parsed["error"], endpoint)
    is_refusal = status in _REFUSALS_OF_BATCHES or (status == 200 and parsed is not None)
    if is_batch and is_refusal and not isinstance(parsed, list):
        raise _Failure("takes no batch, or none so long", "batch")
    if parsed is None:
        raise _Failure("answered with no JSON", "malformed") if status == 200 else _Failure(f"HTTP {status}", "http")
    answers: _Answers = {}
    failure: _Failure | None = None
    items = parsed if isinstance(parsed, list) else [parsed]
    found = {item["id"]: item for item in items if isinstance(item, dict) and type(item.get("id")) is int}
    for call in calls:
        try:
            answers[call.id] = _read_one(found.get(call.id, {}), call, endpoint)
        except _Failure as error:
            failure = failure or error
    return answers, failure


def _read_one(parsed: dict[str, Any], call: _Call, endpoint: _Endpoint) -> dict[str, Any]:
    """An answer as web3 wants it. Raises _Failure for what is none, or tells of the node only."""
    error, result = parsed.get("error"), parsed.get("result")
    if error is not None:
        _raise_unless_answer(error, endpoint)
        # Without the node's address, which some gateways quote.
        cleaned = {name: endpoint.hide(error[name]) for name in ("code", "message", "data") if name in error}
        if result is None:
            return {"jsonrpc": "2.0", "id": call.id, "error": cleaned}
    elif "result" in parsed and _fits(call, result, endpoint):
        return {"jsonrpc": "2.0", "id": call.id, "result": result}
    raise _Failure(f"answered {call.method} with what is none", "malformed")


def _raise_unless_answer(error: Any, endpoint: _Endpoint) -> None:
    """Raises _Failure when an error is none, or says that the node can't now."""
    if not isinstance(error, dict) or type(error.get("code")) is not int or not isinstance(error.get("message"), str):
        raise _Failure("answered with an error that is none", "malformed")
    code, message = error["code"], error["message"]
    if code == 3 or _IS_ANSWER.search(message):
        return
    short = endpoint.hide(message)[:_REASON_CHARACTERS]
    said = f"said {code}: " + "".join(character if character.isprintable() else " " for character in short)
    if code in _LIMITED_CODES or _LIMITED.search(message):
        raise _Failure(said, "limited", was_sent=False, rest_s=DEFAULT_REST_S)
    if _LACKS.search(message):
        raise _Failure(said, "lacks", was_sent=False)
    if code == _TIMED_OUT_CODE or _ILL.search(message):
        raise _Failure(said, "ill")


def _rest_s(response: urllib3.BaseHTTPResponse) -> float:
    """How long Retry-After asks to rest, in seconds or as a date."""
    try:
        asked_s = Retry().get_retry_after(response)
    except (HTTPError, ValueError, OverflowError):
        asked_s = None
    return DEFAULT_REST_S if asked_s is None else min(asked_s, LONGEST_REST_S)


# The shapes of the results that all else rests on: what does not fit would fail far from here and name nobody.

_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_DATA = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_HASH = re.compile(r"0x[0-9a-fA-F]{64}")
_BLOCK = {"number": _QUANTITY, "hash": _HASH, "parentHash": _HASH, "timestamp": _QUANTITY}
_LOG = {"address": _DATA, "topics": [_HASH], "data": _DATA}
_NUMBERS = "blockNumber chainId estimateGas gasPrice getBalance getTransactionCount maxPriorityFeePerGas"
_SHAPES: dict[str, Any] = {
    **dict.fromkeys((f"eth_{name}" for name in _NUMBERS.split()), _QUANTITY),
    **dict.fromkeys(("eth_call", "eth_getCode", "eth_getStorageAt"), _DATA),
    "eth_getBlockByNumber": _BLOCK,
    "eth_getLogs": [_LOG],
    "eth_sendRawTransaction": _HASH,
}


def _fits(call: _Call, result: Any, endpoint: _Endpoint) -> bool:
    if call.method == "eth_getBlockByNumber" and result is None:
        # Behind one address there may be several nodes, not all as far as the head that was seen.
        number = call.asked_block
        return call.params[:1] != ["latest"] and (number is None or number > (endpoint.head or -1))
    return call.method not in _SHAPES or call.params[:1] == ["pending"] or _matches(_SHAPES[call.method], result)


def _matches(shape: Any, value: Any) -> bool:
    if isinstance(shape, list):
        return isinstance(value, list) and all(_matches(shape[0], item) for item in value)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(_matches(shape[name], value.get(name)) for name in shape)
    return isinstance(value, str) and shape.fullmatch(value) is not None


# One endpoint


def _parse_address(url: str, place: int) -> Url:
    """Raises Misconfigured, which says where in the list the address stands and not what it is."""
    with contextlib.suppress(HTTPError):
        address = parse_url(url)
        is_plain = url.isascii() and url.isprintable() and " " not in url
        if is_plain and address.scheme in ("http", "https") and address.host:
            return address
    raise Misconfigured(f"RPC endpoint {place} is no address: it begins with https:// or http:// and has a host")


def _secrets(url: str, address: Url) -> list[str]:
    """What of an address must not be repeated, the longest first."""
    target, credentials = address.request_uri, unquote(address.auth or "").split(":")
    pieces = {piece for text in (url, unquote(url), target) for piece in re.split(r"[/?&=@:#]", text)} | {target}
    long = {piece for piece in pieces if len(piece) >= 6} | {piece for piece in credentials if len(piece) >= 3}
    return sorted(long, key=len, reverse=True)


class _Endpoint:
    """One node's address, connections and health."""

    def __init__(self, url: str, place: int, rate: float | None, clock: Callable[[], float]) -> None:
        address = _parse_address(url, place)
        is_usual = address.port in (None, 443 if address.scheme == "https" else 80)
        self.name, self._clock = str(address.host if is_usual else address.netloc), clock
        self._target, self._secrets = address.request_uri, _secrets(url, address)
        self._headers = {"Content-Type": "application/json"}
        if address.auth:
            self._headers["Authorization"] = "Basic " + base64.b64encode(unquote(address.auth).encode()).decode()
        self.http = _open(address, self)
        self.bucket = _Bucket(rate, clock)
        # What a second allows is also what one batch may have, lest it wait for itself.
        self.max_batch = MAX_BATCH if rate is None else max(1, min(MAX_BATCH, int(rate)))
        self.head: int | None = None
        self.head_at_s, self.latency_s = 0.0, None
        self.is_verified, self.wrong_chain_id, self.is_open, self.is_looked_at = False, None, False, False
        self.last_failure: str | None = None
        self._errors, self._failed_at_s, self._requests, self._failures = 0, 0.0, 0, 0
        self._not_before_s, self._backoff_s, self._looked_at_s = 0.0, 0.0, clock()
        self._lock = threading.Lock()

    # What happened

    def succeeded(self, took_s: float | None, *, is_look: bool) -> None:
        """A look that is answered does not make what requests failed at good."""
        with self._lock:
            self._requests += 1
            if took_s is not None:
                before_s = took_s if self.latency_s is None else self.latency_s
                self.latency_s = before_s + _NEWEST_WEIGHT * (took_s - before_s)
            if not is_look:
                self._errors, self._backoff_s, self.is_open = 0, 0.0, False

    def failed(self, failure: _Failure) -> None:
        with self._lock:
            self._requests, self._failures = self._requests + 1, self._failures + 1
            self.last_failure, now_s = str(failure), self._clock()
            self._not_before_s = max(self._not_before_s, now_s + failure.rest_s)
            self.is_verified = self.is_verified and failure.kind != "network"
            if failure.kind not in ("lacks", "batch"):
                self._errors, self._failed_at_s = self._errors + 1, now_s
                if self._errors >= FAILURES_TO_OPEN:
                    self._open(now_s)

    def _open(self, now_s: float) -> None:
        self.is_open, self.is_verified = True, False
        self._backoff_s = min(max(2 * self._backoff_s, FIRST_BACKOFF_S), LONGEST_BACKOFF_S)
        self._not_before_s = max(self._not_before_s, now_s + self._backoff_s)

    def found(self, chain_id: int, *, wanted: int) -> None:
        with self._lock:
            self.is_verified = chain_id == wanted
            self.wrong_chain_id = None if self.is_verified else chain_id
            if not self.is_verified:
                self.last_failure, self.head = f"is on chain {chain_id}", None
                self._errors = max(self._errors, FAILURES_TO_OPEN)
                self._open(self._clock())
            elif self.is_open:
                # The next failure opens it again, for longer.
                self.is_open, self._errors = False, FAILURES_TO_OPEN - 1

    def takes_look(self, now_s: float) -> bool:
        """Whether it is time to look at it; then nobody else is told so until that is done."""
        with self._lock:
            heard_s = max(self.head_at_s, self._looked_at_s)
            if self.is_looked_at or now_s < self._not_before_s or now_s - heard_s < HEAD_REFRESH_S:
                return False
            self.is_looked_at, self._looked_at_s = True, now_s
            return True

    # How it is

    def rests_s(self, now_s: float) -> float:
        """How long it is to be left alone."""
        return max(self._not_before_s - now_s, 0.0)

    def recent_errors(self, now_s: float) -> int:
        return self._errors if now_s - self._failed_at_s < FORGIVEN_AFTER_S else 0

    def health(self, now_s: float) -> EndpointHealth:
        with self._lock:
            rests_s = self.rests_s(now_s)
            return EndpointHealth(
                head=self.head, consecutive_errors=self._errors, requests=self._requests, failures=self._failures,
                circuit="closed" if not self.is_open else "open" if rests_s else "half-open", rests_s=rests_s,
                wrong_chain_id=self.wrong_chain_id, last_failure=self.last_failure,
            )  # fmt: skip

    def hide(self, value: Any) -> Any:
        """A text without what of the address must not be repeated."""
        for secret in self._secrets if isinstance(value, str) else ():
            value = value.replace(secret, "[hidden]")
        return value

    # HTTP

    def exchange(self, calls: list[_Call], timeout_s: float) -> tuple[urllib3.BaseHTTPResponse, bytes]:
        """One HTTP request over a kept connection, and the answer's body. Raises _Failure."""
        requests: Any = [{"jsonrpc": "2.0", "id": c.id, "method": c.method, "params": c.params} for c in calls]
        body = Web3.to_json(requests if len(calls) > 1 else requests[0])
        deadline_s = self._clock() + timeout_s
        try:
            response = self.http.urlopen(
                "POST", self._target, body, self._headers, timeout=Timeout(total=timeout_s), retries=False,
                redirect=False, preload_content=False,
            )  # fmt: skip
            with contextlib.closing(response):
                # Also when half-read: the rest must not be the next one's answer. A whole one has left its connection.
                chunks = bytearray()
                while chunk := response.read1(_CHUNK_BYTES):
                    chunks += chunk
                    if len(chunks) > MAX_ANSWER_BYTES:
                        raise _Failure("answered with too much", "malformed")
                    if self._clock() > deadline_s:
                        raise TimeoutError
                return response, bytes(chunks)
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            was_sent = not isinstance(error, NewConnectionError | ConnectTimeoutError)
            failure = _Failure(_reason(error), "network", was_sent=was_sent)
        # Not within `except`: what urllib3 raised knows the address.
        raise failure


def _open(address: Url, endpoint: _Endpoint) -> urllib3.HTTPConnectionPool:
    """Connections to one address; a new one has the endpoint verified. Neither proxies nor ~/.netrc are known,
    so that a key goes where its address says and nowhere else."""
    tls = {"ssl_context": ssl.create_default_context()} if address.scheme == "https" else {}
    pool = urllib3.connection_from_url(f"{address.scheme}://{address.netloc}", maxsize=_KEPT_CONNECTIONS, **tls)

    class Doubting(pool.ConnectionCls):  # type: ignore[name-defined, misc]  # that of HTTP or of HTTPS
        def connect(self) -> None:
            endpoint.is_verified = False
            super().connect()

    pool.ConnectionCls = Doubting
    return pool


def _reason(error: BaseException) -> str:
    """What an operator can do something with. Never the error's own words, which may have the address in them."""
    if cause := next((inner for inner in (error.__cause__, *error.args) if isinstance(inner, Exception)), None):
        return _reason(cause)
    reasons: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
        ((TimeoutError, urllib3.exceptions.TimeoutError), "did not answer in time"),
        (ssl.SSLCertVerificationError, "its certificate is not valid"),
        (ssl.SSLError, "does not speak TLS"),
        (socket.gaierror, "its name is not known"),
        (ConnectionRefusedError, "refused the connection"),
        (ConnectionError, "hung up"),
        (http.client.IncompleteRead, "hung up in mid-answer"),
        (http.client.HTTPException, "does not speak HTTP"),
    )
    found = (reason for kind, reason in reasons if isinstance(error, kind))
    return next(found, f"can't be reached ({type(error).__name__})")


class _Bucket:
    """Tokens: `rate` come in a second, and as many can be saved. Without a rate there is no limit."""

    def __init__(self, rate: float | None, clock: Callable[[], float]) -> None:
        self._rate, self._clock, self._lock = rate, clock, threading.Lock()
        self._most = max(rate or 0.0, 1.0)
        self._tokens, self._at_s = self._most, clock()

    def is_empty(self) -> bool:
        return self._rate is not None and self._filled() < 1

    def reserve(self, tokens: int, longest_s: float) -> float | None:
        """How long to wait before what takes so many tokens is sent; None, and nothing taken, when that is too long."""
        if self._rate is None:
            return 0.0
        with self._lock:
            left = self._filled() - tokens
            wait_s = max(-left / self._rate, 0.0)
            if wait_s > longest_s:
                return None
            self._tokens, self._at_s = left, self._clock()
            return wait_s

    def _filled(self) -> float:
        return min(self._tokens + (self._clock() - self._at_s) * (self._rate or 0.0), self._most)
