"""Several JSON-RPC nodes as one web3 provider: the healthiest is asked, the next when it can't answer.

    with EndpointPool(["https://a.example/v2/KEY", "https://b.example"], chain_id=1) as pool:
        w3 = Web3(pool)
        results = pool.batch([("eth_sendRawTransaction", [raw]) for raw in signed])

Addresses of nodes contain access keys: only host and port of an address are ever said, logged or counted.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import logging
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit

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
_REASON_CHARACTERS = 160
_REFUSALS_OF_BATCHES = frozenset({400, 405, 413, 415, 422, 501})

_LOG = logging.getLogger(__name__)

# What may be asked twice, because nothing happens by it, or, for a raw transaction, nothing more the second time.
_REPEATABLE = frozenset(
    "eth_accounts eth_blobBaseFee eth_blockNumber eth_call eth_chainId eth_createAccessList eth_estimateGas "
    "eth_feeHistory eth_gasPrice eth_maxPriorityFeePerGas eth_protocolVersion eth_sendRawTransaction eth_simulateV1 "
    "eth_syncing net_listening net_peerCount net_version web3_clientVersion web3_sha3".split()
)
_REPEATABLE_PREFIXES = ("eth_get", "debug_trace", "trace_", "ots_", "txpool_")
# They make something in one node, which the others do not know.
_OF_ONE_NODE = frozenset(
    "eth_newFilter eth_newBlockFilter eth_newPendingTransactionFilter eth_getFilterChanges eth_getFilterLogs "
    "eth_uninstallFilter eth_subscribe eth_unsubscribe".split()
)
_BLOCK_PARAMETER = {
    "debug_traceBlockByNumber": 0,
    "debug_traceCall": 1,
    "eth_call": 1,
    "eth_createAccessList": 1,
    "eth_estimateGas": 1,
    "eth_feeHistory": 1,
    "eth_getBalance": 1,
    "eth_getBlockReceipts": 0,
    "eth_getBlockTransactionCountByNumber": 0,
    "eth_getCode": 1,
    "eth_getProof": 2,
    "eth_getStorageAt": 2,
    "eth_getTransactionByBlockNumberAndIndex": 0,
    "eth_getTransactionCount": 1,
    "eth_simulateV1": 1,
    "trace_block": 0,
}

# Errors that tell of the node and not of the request. Of the first kind it must rest; of the second it is as well as
# before, but lacks the block or the state; of the third it is ill.
_LIMITED_CODES = frozenset({-32005, -32029, 429})
_LIMITED = re.compile(r"rate.?limit|too many requests|request limit|compute units|throughput|quota", re.I)
_LACKS = re.compile(
    r"header (for hash )?not found|missing trie node|unknown block|block not found|state .{0,40}not available", re.I
)
_ILL = re.compile(
    r"^internal( server)? error\W*$|time[d ]?.?out|try again|temporarily|unavailable|overloaded|bad gateway|upstream"
    r"|not synced|syncing|txpool is full|transaction pool is full",
    re.I,
)
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
    """One endpoint as it is now. Seconds are of the pool's clock."""

    # The last block number seen, and how long ago; None before the first.
    head: int | None
    head_age_s: float | None
    # Moving average over single requests.
    latency_s: float | None
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

    The chain id of each endpoint is checked before its first use, and again whenever the connection was lost: one on
    another chain is not used. `timeout_s` is for one try at one endpoint, `requests_per_s` for each endpoint and counts
    a batch's calls. `on_request(host, method, seconds, outcome)` is told of each try; outcomes are `ok`, `error` (an
    answer), `network`, `http`, `limited`, `malformed`, `lacks`, `ill`.

    Raises Retryable when no endpoint answered, with the reason of each; Misconfigured for addresses that are none, and
    for endpoints on another chain: at the first request for any of them, later when there is no other.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        chain_id: int,
        timeout_s: float = 10,
        requests_per_s: float | None = None,
        max_head_lag_blocks: int = 3,
        on_request: OnRequest | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__()
        addresses = [_parse_address(url, place) for place, url in enumerate(dict.fromkeys(urls), start=1)]
        if not addresses:
            raise Misconfigured("no RPC endpoint is named: name at least one address")
        if requests_per_s is not None and requests_per_s <= 0:
            raise Misconfigured(f"requests per second are {requests_per_s}: at least a little, or none for no limit")
        self.chain_id = chain_id
        self._timeout_s, self._max_lag_blocks, self._on_request = timeout_s, max_head_lag_blocks, on_request
        self._clock, self._sleep = clock, sleep
        self._endpoints = [
            _Endpoint(address, name, requests_per_s, clock)
            for address, name in zip(addresses, _unique_names(addresses), strict=True)
        ]
        self._preferred = self._endpoints[0]
        self._check_lock, self._is_checked, self._wrong_at_start = threading.Lock(), False, ""
        self._prober: ThreadPoolExecutor | None = None
        if len(addresses) > 1:
            self._prober = ThreadPoolExecutor(max_workers=len(addresses), thread_name_prefix="rpc-heads")
        self._is_closed = False

    def __repr__(self) -> str:
        return f"EndpointPool({', '.join(endpoint.name for endpoint in self._endpoints)}; chain {self.chain_id})"

    __str__ = __repr__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; waits for questions in the background, `timeout_s` at most. Again does nothing."""
        self._is_closed = True
        if self._prober:
            self._prober.shutdown(wait=True, cancel_futures=True)
        for endpoint in self._endpoints:
            endpoint.close()

    # Asking

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """The answer of one endpoint, a node's refusal included. Raises Retryable, Misconfigured."""
        call = self._call(method, params)
        answers, reasons, behind = self._deliver([call])
        if answer := answers.get(call.id):
            return answer
        raise self._nobody(method, reasons, behind)

    def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """For each call its result, or an RpcError; NoAnswer where no endpoint answered.

        In HTTP requests of up to 100 calls, fewer where an endpoint takes fewer. For calls that may be repeated.
        Raises Retryable when not one call was answered, else as `make_request`; ValueError for other calls.
        """
        prepared = [self._call(method, params) for method, params in calls]
        answers, reasons = self._deliver_many(prepared)
        lost = NoAnswer(code=0, message=_sentence("this call", reasons))
        return [_value_of(answers[call.id]) if call.id in answers else lost for call in prepared]

    def make_batch_request(self, requests: list[tuple[RPCEndpoint, Any]]) -> list[RPCResponse]:
        """For web3's `batch_requests()`. Raises Retryable unless all are answered."""
        prepared = [self._call(method, params) for method, params in requests]
        answers, reasons = self._deliver_many(prepared)
        if len(answers) < len(prepared):
            raise Retryable(_sentence("the whole batch", reasons))
        return [answers[call.id] for call in prepared]

    def is_connected(self, show_traceback: bool = False) -> bool:
        """Whether an endpoint of the right chain answers."""
        try:
            self.make_request(RPCEndpoint("eth_blockNumber"), [])
        except AgentError:
            if show_traceback:
                raise
            return False
        return True

    def check(self) -> None:
        """Look at all endpoints before the first request. Raises Misconfigured when one is on another chain."""
        with self._check_lock:
            if not self._is_checked:
                self._probe(self._endpoints)
                wrong = [endpoint for endpoint in self._endpoints if endpoint.wrong_chain_id is not None]
                self._wrong_at_start = _wrong_chains(wrong, self.chain_id)
                self._is_checked = True
        if self._wrong_at_start:
            raise Misconfigured(self._wrong_at_start)

    def refresh(self) -> None:
        """Ask every endpoint that does not rest for its head, and those that were down for their chain id."""
        now_s = self._clock()
        self._probe([endpoint for endpoint in self._endpoints if not endpoint.rests_s(now_s)])

    def heads(self) -> dict[str, EndpointHealth]:
        """Each endpoint's health by its host, with the port where it is not the usual one."""
        now_s = self._clock()
        return {endpoint.name: endpoint.health(now_s) for endpoint in self._endpoints}

    # One request over several endpoints

    def _call(self, method: str, params: Any) -> _Call:
        if method in _OF_ONE_NODE:
            raise MethodNotSupported(f"{method} lives in one node of several: use eth_getLogs or HeadStream")
        return _Call(id=next(self.request_counter), method=method, params=list(params or ()))

    def _deliver_many(self, calls: list[_Call]) -> tuple[_Answers, dict[str, str]]:
        if once := next((call.method for call in calls if not call.is_repeatable), None):
            raise ValueError(f"{once} may not be repeated, so it has no place in a batch: send it alone")
        if not calls:
            return {}, {}
        answers, reasons, behind = self._deliver(calls)
        if not answers:
            raise self._nobody(calls[0].method if len(calls) == 1 else "the batch", reasons, behind)
        return answers, reasons

    def _deliver(self, calls: Iterable[_Call]) -> tuple[_Answers, dict[str, str], bool]:
        """Answers by id; why each endpoint did not answer all; whether that was for a block that none has."""
        self.check()
        self._start_due_probes()
        left, answers, reasons = {call.id: call for call in calls}, {}, {}
        search = _Search(left.values(), self._clock() + min(PATIENCE_S, self._timeout_s))
        while left and (endpoint := self._choose(search, reasons)):
            found, failure = self._ask(endpoint, list(left.values()))
            answers |= found
            left = {key: call for key, call in left.items() if key not in found}
            if failure:
                reasons[endpoint.name] = str(failure)
                _refuse_to_repeat(endpoint, failure, left.values())
        return answers, reasons, search.is_behind

    def _nobody(self, what: str, reasons: Mapping[str, str], is_behind: bool) -> AgentError:
        wrong = [endpoint for endpoint in self._endpoints if endpoint.wrong_chain_id is not None]
        if len(wrong) == len(self._endpoints):
            return Misconfigured(_wrong_chains(wrong, self.chain_id))
        return (BlockNotReached if is_behind else Retryable)(_sentence(what, reasons))

    def _ask(self, endpoint: _Endpoint, calls: list[_Call]) -> tuple[_Answers, _Failure | None]:
        """Answers of one endpoint, in as many requests as it wants; and what it failed at."""
        answers: _Answers = {}
        failure: _Failure | None = None
        while calls:
            part = calls[: endpoint.max_batch]
            try:
                found, left_out = self._post_verified(endpoint, part)
            except _BatchRefused:
                endpoint.max_batch = max(1, len(part) // 10)
                continue
            except _Failure as error:
                return answers, error
            answers |= found
            failure = failure or left_out
            calls = calls[len(part) :]
        return answers, failure

    def _post_verified(self, endpoint: _Endpoint, calls: list[_Call]) -> tuple[_Answers, _Failure | None]:
        """As `_post`, to an endpoint that is on our chain; once more when the kept connection turns out to be dead."""
        if not endpoint.is_connected_to_ours():
            self._verify(endpoint)
        try:
            return self._post(endpoint, calls)
        except _Failure as failure:
            if not failure.was_stale or not all(call.is_repeatable for call in calls):
                raise
        self._verify(endpoint)
        return self._post(endpoint, calls)

    # Choosing

    def _choose(self, search: _Search, reasons: dict[str, str]) -> _Endpoint | None:
        """The healthiest endpoint that was not tried; waits a little for one. None with all reasons given."""
        while True:
            now_s = self._clock()
            states = {e: self._obstacle(e, search, now_s) for e in self._endpoints if e.name not in reasons}
            ready = [endpoint for endpoint, obstacle in states.items() if obstacle is None]
            if ready:
                return min(ready, key=lambda endpoint: self._rank(endpoint, search, now_s))
            blind = [e for e, obstacle in states.items() if obstacle is not None and obstacle.wants_head]
            if blind:
                self._probe(blind)
                now_s = self._clock()
                if any(self._obstacle(endpoint, search, now_s) is None for endpoint in blind):
                    continue
                if search.gives_up_question(self._best_head(now_s)):
                    continue
            pause_s = min((obstacle.wait_s for obstacle in states.values() if obstacle), default=float("inf"))
            if self._clock() + pause_s > search.deadline_s:
                search.is_behind = search.state_block is not None and bool(blind)
                reasons |= {endpoint.name: obstacle.reason for endpoint, obstacle in states.items() if obstacle}
                return None
            self._sleep(pause_s)

    def _obstacle(self, endpoint: _Endpoint, search: _Search, now_s: float) -> _Obstacle | None:
        """Why the endpoint can't be asked now, None when it can."""
        if rest_s := endpoint.rests_s(now_s):
            return _Obstacle(f"{endpoint.last_failure}; rests for {rest_s:.1f} s", wait_s=rest_s)
        head, wanted = endpoint.head, search.state_block
        if wanted is not None and (head is None or head < wanted):
            at = endpoint.last_failure or "has told no block" if head is None else f"is at block {head}"
            return _Obstacle(f"{at}, not yet at {wanted}", wait_s=PAUSE_S, wants_head=True)
        if search.asked_block is not None and (head is None or head < search.asked_block):
            return _Obstacle(f"has no block {search.asked_block}", wait_s=PAUSE_S, wants_head=True)
        if search.bears_lag or not (lag := self._lag(endpoint, now_s)):
            return None
        return _Obstacle(f"is {lag} blocks behind", wait_s=PAUSE_S, wants_head=True)

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
        latency_s = endpoint.latency_s or 0.0
        if endpoint is self._preferred:
            latency_s /= 2
        lag = self._lag(endpoint, now_s) if search.bears_lag else 0
        return lag, endpoint.is_open, endpoint.recent_errors(now_s), endpoint.bucket.is_empty(), latency_s

    # Heads and chain ids

    def _probe(self, endpoints: Sequence[_Endpoint]) -> None:
        """Asks all at once and waits. An endpoint that does not answer has that in its health."""
        if self._prober and len(endpoints) > 1 and not self._is_closed:
            wait_for([self._prober.submit(self._look_at, endpoint) for endpoint in endpoints])
        else:
            for endpoint in endpoints:
                self._look_at(endpoint)

    def _start_due_probes(self) -> None:
        """In the background, for what the next requests want to know."""
        now_s = self._clock()
        for endpoint in self._endpoints:
            if self._prober and not self._is_closed and endpoint.takes_probe(now_s):
                future = self._prober.submit(self._look_at, endpoint)
                future.add_done_callback(endpoint.forget_probe)

    def _look_at(self, endpoint: _Endpoint) -> None:
        with contextlib.suppress(_Failure):
            if not endpoint.is_connected_to_ours():
                self._verify(endpoint)
            self._ask_simply(endpoint, "eth_blockNumber")

    def _verify(self, endpoint: _Endpoint) -> None:
        """Raises _Failure unless the endpoint says that it is on our chain."""
        actual = int(self._ask_simply(endpoint, "eth_chainId"), 16)
        if actual == self.chain_id:
            endpoint.found_right()
            return
        endpoint.found_wrong(actual)
        _LOG.error("RPC endpoint %s is on chain %s and not %s: it is not used", endpoint.name, actual, self.chain_id)
        raise _Failure(str(endpoint.last_failure), kind="malformed", was_sent=False)

    def _ask_simply(self, endpoint: _Endpoint, method: str) -> str:
        call = self._call(method, [])
        answers, failure = self._post(endpoint, [call], is_probe=True)
        if failure:
            raise failure
        if error := answers[call.id].get("error"):
            failure = _Failure(f"refused {method} with {error['code']}", kind="ill", was_sent=False)
            endpoint.failed(failure)
            raise failure
        return str(answers[call.id]["result"])

    # One HTTP request

    def _post(
        self, endpoint: _Endpoint, calls: list[_Call], *, is_probe: bool = False
    ) -> tuple[_Answers, _Failure | None]:
        """What was answered, and the first reason for what was not. Raises _Failure when nothing was."""
        self._wait_for_tokens(endpoint, len(calls))
        started_s = self._clock()
        try:
            reply = endpoint.exchange(_encode(calls), started_s + self._timeout_s)
            answers, failure = _read(reply, calls, endpoint)
        except _Failure as error:
            answers, failure = {}, error
        except _BatchRefused:
            self._tell(endpoint, calls, self._clock() - started_s, "http")
            raise
        took_s = self._clock() - started_s
        self._take_note(endpoint, calls, answers, failure, took_s, is_probe=is_probe)
        if failure and not answers:
            raise failure
        return answers, failure

    def _wait_for_tokens(self, endpoint: _Endpoint, calls: int) -> None:
        """Waits its turn under `requests_per_s`. Raises _Failure when that takes longer than an answer may."""
        wait_s = endpoint.bucket.reserve(calls, self._timeout_s)
        if wait_s is None:
            raise _Failure("is asked as often as requests_per_s allows", kind="limited", was_sent=False)
        if wait_s:
            self._sleep(wait_s)

    def _take_note(
        self,
        endpoint: _Endpoint,
        calls: list[_Call],
        answers: _Answers,
        failure: _Failure | None,
        took_s: float,
        *,
        is_probe: bool,
    ) -> None:
        if failure:
            endpoint.failed(failure)
            _LOG.info("RPC endpoint %s: %s", endpoint.name, failure)
        else:
            endpoint.succeeded(took_s if len(calls) == 1 else None, is_probe=is_probe)
            if not is_probe:
                self._preferred = endpoint
        for call in calls:
            if (answer := answers.get(call.id)) and (head := call.head_of(answer)) is not None:
                endpoint.saw_head(head)
        has_error = any("error" in answer for answer in answers.values())
        self._tell(endpoint, calls, took_s, failure.kind if failure else "error" if has_error else "ok")

    def _tell(self, endpoint: _Endpoint, calls: list[_Call], took_s: float, outcome: str) -> None:
        """A counter that fails must not stop trading."""
        if self._on_request is None:
            return
        try:
            self._on_request(endpoint.name, calls[0].method if len(calls) == 1 else "batch", took_s, outcome)
        except Exception:
            _LOG.exception("on_request failed")


# What is asked and answered

_Answers = dict[int, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    id: int
    method: str
    params: list[Any]

    @property
    def is_repeatable(self) -> bool:
        return self.method in _REPEATABLE or self.method.startswith(_REPEATABLE_PREFIXES)

    @property
    def state_block(self) -> int | None:
        """The number of the block whose state is asked for."""
        if self.method == "eth_getLogs":
            query = self.params[0] if self.params and isinstance(self.params[0], Mapping) else {}
            bounds = [_block_number(query.get(name)) for name in ("fromBlock", "toBlock")]
            return max((bound for bound in bounds if bound is not None), default=None)
        place = _BLOCK_PARAMETER.get(self.method)
        return None if place is None or place >= len(self.params) else _block_number(self.params[place])

    @property
    def asked_block(self) -> int | None:
        """The number of a block that is asked for itself: that there is none is an answer."""
        return _block_number(self.params[0]) if self.method == "eth_getBlockByNumber" and self.params else None

    def head_of(self, answer: Mapping[str, Any]) -> int | None:
        """The chain's head when that was asked for."""
        result = answer.get("result")
        if self.method == "eth_blockNumber" and result:
            return int(result, 16)
        if self.method == "eth_getBlockByNumber" and self.params[:1] == ["latest"] and result:
            return int(result["number"], 16)
        return None


def _block_number(parameter: Any) -> int | None:
    """Of a plain number, as int, hex, or EIP-1898's object; None for tags and hashes."""
    if isinstance(parameter, Mapping):
        parameter = parameter.get("blockNumber")
    if isinstance(parameter, int) and not isinstance(parameter, bool):
        return parameter
    return int(parameter, 16) if _is_quantity(parameter) else None


class _Search:
    """What one request needs of an endpoint, and until when one is waited for."""

    def __init__(self, calls: Iterable[_Call], deadline_s: float) -> None:
        calls = list(calls)
        self.deadline_s, self.is_behind = deadline_s, False
        self.state_block = max((c.state_block for c in calls if c.state_block is not None), default=None)
        self.asked_block = max((c.asked_block for c in calls if c.asked_block is not None), default=None)
        # The state of a block is the same everywhere, and a transaction is good for every mempool.
        self.bears_lag = all(c.state_block is not None or c.method == "eth_sendRawTransaction" for c in calls)

    def gives_up_question(self, best_head: int) -> bool:
        """Whether a block was asked for that nobody has, now that the heads are known: then that is the answer."""
        if self.asked_block is None or not 0 < best_head < self.asked_block:
            return False
        self.asked_block = best_head
        return True


@dataclass(frozen=True, slots=True)
class _Obstacle:
    reason: str
    wait_s: float
    # It may be gone: ask for the head.
    wants_head: bool = False


class _Failure(Exception):
    """An endpoint did not answer. `kind` is a word for metrics; `was_sent`: it may have done what was asked."""

    def __init__(self, reason: str, *, kind: str, was_sent: bool, rest_s: float = 0, was_stale: bool = False) -> None:
        super().__init__(reason)
        self.kind, self.was_sent, self.rest_s = kind, was_sent, rest_s
        # A kept connection was found closed: no sign of an illness.
        self.was_stale = was_stale


class _BatchRefused(Exception):
    """The endpoint takes no batch, or none so long."""


def _refuse_to_repeat(endpoint: _Endpoint, failure: _Failure, calls: Iterable[_Call]) -> None:
    for call in calls:
        if failure.was_sent and not call.is_repeatable:
            raise Retryable(
                f"{endpoint.name} was sent {call.method} and {failure}: it may be done, look before you repeat it"
            )


def _sentence(what: str, reasons: Mapping[str, str]) -> str:
    return f"no endpoint answered {what}: " + ", ".join(f"{name} ({reason})" for name, reason in reasons.items())


def _wrong_chains(endpoints: Sequence[_Endpoint], chain_id: int) -> str:
    if not endpoints:
        return ""
    found = ", ".join(f"{endpoint.name} is on chain {endpoint.wrong_chain_id}" for endpoint in endpoints)
    return f"{found}, expected is chain {chain_id}: correct MARKETFLOW_RPC_URLS or MARKETFLOW_CHAIN_ID"


def _value_of(answer: Mapping[str, Any]) -> Any:
    if "error" not in answer:
        return answer["result"]
    error = answer["error"]
    return RpcError(code=error["code"], message=error["message"], data=error.get("data"))


def _encode(calls: list[_Call]) -> bytes:
    requests = [{"jsonrpc": "2.0", "id": c.id, "method": c.method, "params": c.params} for c in calls]
    return json.dumps(requests if len(calls) > 1 else requests[0], default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return "0x" + value.hex()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no value of JSON-RPC")


# Reading an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


def _read(reply: _Reply, calls: list[_Call], endpoint: _Endpoint) -> tuple[_Answers, _Failure | None]:
    """Answers by id, and why some are missing. Raises _Failure, _BatchRefused."""
    if reply.status in (429, 503):
        rest_s = _rest_s(reply.headers)
        kind = "limited" if reply.status == 429 else "http"
        raise _Failure(f"HTTP {reply.status}", kind=kind, was_sent=reply.status != 429, rest_s=rest_s)
    if reply.status >= 500 and not (reply.status == 501 and len(calls) > 1):
        raise _Failure(f"HTTP {reply.status}", kind="http", was_sent=True)
    try:
        parsed = json.loads(reply.body)
    except (ValueError, RecursionError):
        parsed = None
    if len(calls) > 1:
        return _read_batch(parsed, reply.status, calls, endpoint)
    if parsed is None:
        what = "no JSON" if reply.status == 200 else f"HTTP {reply.status}"
        raise _Failure(f"answered with {what}", kind="malformed" if reply.status == 200 else "http", was_sent=True)
    return {calls[0].id: _read_one(parsed, calls[0], endpoint)}, None


def _read_batch(parsed: Any, status: int, calls: list[_Call], endpoint: _Endpoint) -> tuple[_Answers, _Failure | None]:
    if not isinstance(parsed, list):
        if isinstance(parsed, dict) and isinstance(parsed.get("error"), dict):
            _raise_unless_answer(parsed["error"], endpoint)
        if status == 200 and parsed is None:
            raise _Failure("answered with no JSON", kind="malformed", was_sent=True)
        if status != 200 and status not in _REFUSALS_OF_BATCHES:
            raise _Failure(f"HTTP {status}", kind="http", was_sent=True)
        raise _BatchRefused
    found = {item.get("id"): item for item in parsed if isinstance(item, dict) and type(item.get("id")) is int}
    answers: _Answers = {}
    failure: _Failure | None = None
    for call in calls:
        try:
            answers[call.id] = _read_one(found.get(call.id, {}), call, endpoint)
        except _Failure as error:
            failure = failure or error
    return answers, failure


def _read_one(parsed: Any, call: _Call, endpoint: _Endpoint) -> dict[str, Any]:
    """An answer as web3 wants it. Raises _Failure for what is none, or tells of the node only."""
    if not isinstance(parsed, dict):
        raise _Failure("answered with no JSON-RPC", kind="malformed", was_sent=True)
    error = parsed.get("error")
    if error is not None:
        _raise_unless_answer(error, endpoint)
    if type(parsed.get("id")) is not int or parsed["id"] != call.id:
        raise _Failure("answered something else", kind="malformed", was_sent=True)
    if error is not None:
        if parsed.get("result") is not None:
            raise _Failure("answered with result and error", kind="malformed", was_sent=True)
        return {"jsonrpc": "2.0", "id": call.id, "error": _clean(error, endpoint)}
    if "result" not in parsed or not _fits(call, parsed["result"], endpoint):
        raise _Failure(f"answered {call.method} with what is none", kind="malformed", was_sent=True)
    return {"jsonrpc": "2.0", "id": call.id, "result": parsed["result"]}


def _raise_unless_answer(error: Any, endpoint: _Endpoint) -> None:
    """Raises _Failure when an error is none, or says that the node can't now."""
    if not isinstance(error, dict) or type(error.get("code")) is not int or not isinstance(error.get("message"), str):
        raise _Failure("answered with an error that is none", kind="malformed", was_sent=True)
    code, message = error["code"], error["message"]
    if code == 3 or _IS_ANSWER.search(message):
        return
    said = f"said {code}: {endpoint.scrub(message)}"
    if code in _LIMITED_CODES or _LIMITED.search(message):
        raise _Failure(said, kind="limited", was_sent=False, rest_s=DEFAULT_REST_S)
    if _LACKS.search(message):
        raise _Failure(said, kind="lacks", was_sent=False)
    if code == _TIMED_OUT_CODE or _ILL.search(message):
        raise _Failure(said, kind="ill", was_sent=True)


def _clean(error: Mapping[str, Any], endpoint: _Endpoint) -> dict[str, Any]:
    """A node's refusal, without its address: some gateways quote it."""
    cleaned = {"code": error["code"], "message": endpoint.without_secrets(error["message"])}
    data = error.get("data")
    if data is not None:
        cleaned["data"] = endpoint.without_secrets(data) if isinstance(data, str) else data
    return cleaned


def _rest_s(headers: Mapping[str, str]) -> float:
    """How long Retry-After asks to rest, in seconds or as a date; a date is compared with the answer's own."""
    asked = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", asked):
        return min(float(asked), LONGEST_REST_S)
    try:
        until, said = parsedate_to_datetime(asked), parsedate_to_datetime(headers.get("date", ""))
        return min(max((until - said).total_seconds(), 0.0), LONGEST_REST_S)
    except (ValueError, TypeError, IndexError, OverflowError):
        return DEFAULT_REST_S


# The shapes of results: what does not fit would fail far from here, with an error that names nobody


_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}\Z")
_DATA = re.compile(r"0x(?:[0-9a-fA-F]{2})*\Z")


def _is_quantity(value: Any) -> bool:
    return isinstance(value, str) and _QUANTITY.match(value) is not None


def _is_data(value: Any) -> bool:
    return isinstance(value, str) and _DATA.match(value) is not None


def _is_hash(value: Any) -> bool:
    return _is_data(value) and len(value) == 66


def _is_address(value: Any) -> bool:
    return _is_data(value) and len(value) == 42


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _record(fields: Mapping[str, Callable[[Any], bool]]) -> Callable[[Any], bool]:
    """A dict with at least these fields. Those whose name ends in ? may be missing or None."""
    needed = {name: fits for name, fits in fields.items() if not name.endswith("?")}
    optional = {name[:-1]: fits for name, fits in fields.items() if name.endswith("?")}

    def fits(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and all(name in value and fit(value[name]) for name, fit in needed.items())
            and all(value.get(name) is None or fit(value[name]) for name, fit in optional.items())
        )

    return fits


_is_log = _record(
    {
        "address": _is_address,
        "topics": _list_of(_is_hash),
        "data": _is_data,
        "blockNumber?": _is_quantity,
        "blockHash?": _is_hash,
        "transactionHash?": _is_hash,
        "logIndex?": _is_quantity,
        "transactionIndex?": _is_quantity,
    }
)
_BLOCK = {
    "parentHash": _is_hash,
    "timestamp": _is_quantity,
    "gasLimit?": _is_quantity,
    "gasUsed?": _is_quantity,
    "baseFeePerGas?": _is_quantity,
    "transactions?": _list_of(lambda value: isinstance(value, str | dict)),
}
_is_block = _record({"number": _is_quantity, "hash": _is_hash, **_BLOCK})
_is_pending_block = _record({"number?": _is_quantity, "hash?": _is_hash, **_BLOCK})
_is_transaction = _record(
    {
        "hash": _is_hash,
        "from": _is_address,
        "to?": _is_address,
        "input": _is_data,
        "value": _is_quantity,
        "gas": _is_quantity,
        "nonce": _is_quantity,
        "gasPrice?": _is_quantity,
        "maxFeePerGas?": _is_quantity,
        "maxPriorityFeePerGas?": _is_quantity,
        "blockNumber?": _is_quantity,
        "blockHash?": _is_hash,
        "transactionIndex?": _is_quantity,
    }
)
_is_receipt = _record(
    {
        "transactionHash": _is_hash,
        "blockNumber": _is_quantity,
        "blockHash": _is_hash,
        "gasUsed": _is_quantity,
        "logs": _list_of(_is_log),
        "status?": _is_quantity,
        "contractAddress?": _is_address,
        "effectiveGasPrice?": _is_quantity,
        "transactionIndex?": _is_quantity,
    }
)
_FITS: dict[str, Callable[[Any], bool]] = {
    "eth_blockNumber": _is_quantity,
    "eth_call": _is_data,
    "eth_chainId": _is_quantity,
    "eth_estimateGas": _is_quantity,
    "eth_feeHistory": _record({"oldestBlock": _is_quantity, "baseFeePerGas?": _list_of(_is_quantity)}),
    "eth_gasPrice": _is_quantity,
    "eth_getBalance": _is_quantity,
    "eth_getBlockByHash": _or_none(_is_block),
    "eth_getBlockByNumber": _or_none(_is_block),
    "eth_getCode": _is_data,
    "eth_getLogs": _list_of(_is_log),
    "eth_getStorageAt": _is_data,
    "eth_getTransactionByHash": _or_none(_is_transaction),
    "eth_getTransactionCount": _is_quantity,
    "eth_getTransactionReceipt": _or_none(_is_receipt),
    "eth_maxPriorityFeePerGas": _is_quantity,
    "eth_sendRawTransaction": _is_hash,
    "net_version": lambda value: isinstance(value, str),
    "web3_clientVersion": lambda value: isinstance(value, str),
}


def _fits(call: _Call, result: Any, endpoint: _Endpoint) -> bool:
    if call.method == "eth_getBlockByNumber":
        if call.params[:1] == ["pending"]:
            return _or_none(_is_pending_block)(result)
        if result is None:
            # Behind one address there may be several nodes, not all as far as the head that was seen.
            number = call.asked_block
            return call.params[:1] != ["latest"] and (number is None or number > (endpoint.head or -1))
    return _FITS.get(call.method, lambda _: True)(result)


# One endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    host: str
    port: int
    is_tls: bool
    target: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    @property
    def name(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"


def _parse_address(url: str, place: int) -> _Address:
    """Raises Misconfigured, which says where in the list the address stands and not what it is."""
    refusal = Misconfigured(f"RPC endpoint {place} is no address: it begins with https:// or http:// and has a host")
    if not url.isascii() or any(character <= " " or character == "\x7f" for character in url):
        raise refusal
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise refusal from None
    if parts.scheme not in ("http", "https") or not host:
        raise refusal
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    is_tls = parts.scheme == "https"
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return _Address(
        host=host,
        port=port or (443 if is_tls else 80),
        is_tls=is_tls,
        target=target,
        headers={"Content-Type": "application/json", "Accept": "application/json", **_credentials(user, password)},
        secrets=_secrets(target, user, password),
    )


def _credentials(user: str, password: str) -> dict[str, str]:
    if not user and not password:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def _secrets(target: str, user: str, password: str) -> tuple[str, ...]:
    """What of an address must not be repeated, the longest first."""
    pieces = {piece for text in (target, unquote(target)) for piece in (text, *re.split(r"[/?&=]", text))}
    found = {piece for piece in pieces if len(piece) >= 6} | {piece for piece in (user, password) if len(piece) >= 3}
    return tuple(sorted(found, key=len, reverse=True))


def _unique_names(addresses: Sequence[_Address]) -> list[str]:
    """Host names; the second of the same host is told apart by a number."""
    seen: dict[str, int] = {}
    names = []
    for address in addresses:
        seen[address.name] = seen.get(address.name, 0) + 1
        names.append(address.name if seen[address.name] == 1 else f"{address.name}#{seen[address.name]}")
    return names


class _Endpoint:
    """One node's address, connections and health."""

    def __init__(self, address: _Address, name: str, requests_per_s: float | None, clock: Callable[[], float]) -> None:
        self.name, self._address, self._clock = name, address, clock
        self.bucket = _Bucket(requests_per_s, clock)
        # What a second allows is also what one batch may have, lest it wait for itself.
        self.max_batch = MAX_BATCH if requests_per_s is None else max(1, min(MAX_BATCH, int(requests_per_s)))
        self.head: int | None = None
        self.head_at_s, self.latency_s = 0.0, None
        self.is_verified, self.wrong_chain_id, self.is_open = False, None, False
        self.last_failure: str | None = None
        self._errors, self._failed_at_s, self._requests, self._failures = 0, 0.0, 0, 0
        self._not_before_s, self._backoff_s, self._looked_at_s, self._is_probed = 0.0, 0.0, clock(), False
        self._lock, self._idle, self._is_closed = threading.Lock(), [], False
        self._tls = ssl.create_default_context() if address.is_tls else None

    # What happened

    def succeeded(self, took_s: float | None, *, is_probe: bool) -> None:
        """A probe that is answered closes the circuit, but does not make what requests failed at good."""
        with self._lock:
            self._requests += 1
            if took_s is not None:
                before_s = took_s if self.latency_s is None else self.latency_s
                self.latency_s = before_s + _NEWEST_WEIGHT * (took_s - before_s)
            if not is_probe:
                self._errors, self._backoff_s, self.is_open = 0, 0.0, False

    def failed(self, failure: _Failure) -> None:
        with self._lock:
            self._requests, self._failures = self._requests + 1, self._failures + 1
            self.last_failure, now_s = str(failure), self._clock()
            self._not_before_s = max(self._not_before_s, now_s + failure.rest_s)
            if failure.kind == "lacks":
                return
            if failure.kind == "network":
                self.is_verified = False
            if failure.was_stale:
                return
            self._errors, self._failed_at_s = self._errors + 1, now_s
            if self._errors >= FAILURES_TO_OPEN:
                self._open(now_s)

    def _open(self, now_s: float) -> None:
        self.is_open, self.is_verified = True, False
        self._backoff_s = min(max(2 * self._backoff_s, FIRST_BACKOFF_S), LONGEST_BACKOFF_S)
        self._not_before_s = max(self._not_before_s, now_s + self._backoff_s)

    def found_right(self) -> None:
        with self._lock:
            self.is_verified, self.wrong_chain_id = True, None
            if self.is_open:
                # The next failure opens it again, for longer.
                self.is_open, self._errors = False, FAILURES_TO_OPEN - 1

    def found_wrong(self, actual: int) -> None:
        with self._lock:
            self.wrong_chain_id, self.last_failure = actual, f"is on chain {actual}"
            self.head = None
            self._errors = max(self._errors, FAILURES_TO_OPEN)
            self._open(self._clock())

    def saw_head(self, head: int) -> None:
        with self._lock:
            self.head, self.head_at_s = head, self._clock()

    def takes_probe(self, now_s: float) -> bool:
        """Whether it is time to look at it; then nobody else is told so until `forget_probe`."""
        with self._lock:
            heard_s = max(self.head_at_s, self._looked_at_s)
            if self._is_probed or now_s < self._not_before_s or now_s - heard_s < HEAD_REFRESH_S:
                return False
            self._is_probed, self._looked_at_s = True, now_s
            return True

    def forget_probe(self, _: Future[None]) -> None:
        self._is_probed = False

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
                head=self.head,
                head_age_s=None if self.head is None else now_s - self.head_at_s,
                latency_s=self.latency_s,
                consecutive_errors=self._errors,
                requests=self._requests,
                failures=self._failures,
                circuit="closed" if not self.is_open else "open" if rests_s else "half-open",
                rests_s=rests_s,
                wrong_chain_id=self.wrong_chain_id,
                last_failure=self.last_failure,
            )

    # What it said

    def without_secrets(self, text: str) -> str:
        for secret in self._address.secrets:
            text = text.replace(secret, "[hidden]")
        return text

    def scrub(self, text: str) -> str:
        """For a sentence: without secrets, on one line, not long."""
        short = self.without_secrets(text)[:_REASON_CHARACTERS]
        return "".join(character if character.isprintable() else " " for character in short)

    # Connections

    def is_connected_to_ours(self) -> bool:
        """False when its chain id is to be asked for: at first, after failures, and when it hung up in between; who
        listens there now may be another node."""
        with self._lock:
            dropped = [wire for wire in self._idle if wire.is_dropped]
            for wire in dropped:
                self._idle.remove(wire)
                wire.close()
            self.is_verified = self.is_verified and not dropped
            return self.is_verified

    def exchange(self, body: bytes, deadline_s: float) -> _Reply:
        """One HTTP request over a kept connection. Raises _Failure."""
        wire = self._take_wire()
        try:
            return wire.exchange(body, deadline_s)
        finally:
            self._give_back(wire)

    def _take_wire(self) -> _Wire:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return _Wire(self._address, self._tls, self._clock)

    def _give_back(self, wire: _Wire) -> None:
        with self._lock:
            if wire.is_open and not self._is_closed and len(self._idle) < _KEPT_CONNECTIONS:
                self._idle.append(wire)
                return
        wire.close()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            for wire in self._idle:
                wire.close()
            self._idle.clear()


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


# One connection. The standard library's HTTP logs nothing, follows nothing, and knows no proxies and no ~/.netrc, so
# that a key goes where its address says and nowhere else.


class _Wire:
    """A kept connection, for one exchange at a time, each of which ends by its deadline whatever comes."""

    def __init__(self, address: _Address, tls: ssl.SSLContext | None, clock: Callable[[], float]) -> None:
        self._address, self._tls, self._clock = address, tls, clock
        self._socket: socket.socket | None = None
        self._deadline_s = 0.0

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    @property
    def is_dropped(self) -> bool:
        """Whether the other side hung up, or sent what nobody asked for."""
        if self._socket is None:
            return True
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def exchange(self, body: bytes, deadline_s: float) -> _Reply:
        """Raises _Failure; then the connection is closed, half an exchange must not be the next one's answer."""
        self._deadline_s, was_kept = deadline_s, self.is_open
        try:
            if not was_kept:
                self._open()
            return self._exchange(body)
        except TimeoutError:
            failure = _Failure("did not answer in time", kind="network", was_sent=self.is_open)
        except (OSError, http.client.HTTPException, ValueError) as error:
            stale = was_kept and isinstance(error, ConnectionError)
            failure = _Failure(_reason(error), kind="network", was_sent=self.is_open, was_stale=stale)
        except BaseException:
            self.close()
            raise
        self.close()
        raise failure

    def _exchange(self, body: bytes) -> _Reply:
        connection = http.client.HTTPConnection(self._address.host, self._address.port)
        connection.sock = _Lent(self)  # type: ignore[assignment]
        connection.request("POST", self._address.target, body, dict(self._address.headers))
        response = connection.getresponse()
        data = response.read(MAX_ANSWER_BYTES + 1)
        if len(data) > MAX_ANSWER_BYTES:
            raise http.client.HTTPException("too long")
        if response.length and not response.chunked:
            raise http.client.IncompleteRead(b"")
        if response.will_close:
            self.close()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return _Reply(status=response.status, headers=headers, body=data)

    def _open(self) -> None:
        found = socket.create_connection((self._address.host, self._address.port), timeout=self._left_s())
        try:
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            found.settimeout(self._left_s())
            self._socket = self._tls.wrap_socket(found, server_hostname=self._address.host) if self._tls else found
        except BaseException:
            found.close()
            raise

    def send(self, data: Any) -> None:
        assert self._socket is not None
        self._socket.settimeout(self._left_s())
        self._socket.sendall(data)

    def receive_into(self, buffer: Any) -> int:
        assert self._socket is not None
        self._socket.settimeout(self._left_s())
        return self._socket.recv_into(buffer)

    def _left_s(self) -> float:
        left_s = self._deadline_s - self._clock()
        if left_s <= 0:
            raise TimeoutError
        return left_s


class _Lent:
    """A connection as http.client uses one, which stays ours: it is closed by nobody else, and keeps the deadline."""

    def __init__(self, wire: _Wire) -> None:
        self.sendall, self._wire = wire.send, wire

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(_Reading(self._wire))

    def close(self) -> None:
        """Not here."""


class _Reading(io.RawIOBase):
    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.receive_into(buffer)


def _reason(error: Exception) -> str:
    """What an operator can do something with. Never the error's own words, which may have the address in them."""
    reasons: tuple[tuple[type[Exception], str], ...] = (
        (ssl.SSLCertVerificationError, "its certificate is not valid"),
        (ssl.SSLError, "does not speak TLS"),
        (socket.gaierror, "its name is not known"),
        (ConnectionRefusedError, "refused the connection"),
        (http.client.RemoteDisconnected, "hung up"),
        (ConnectionError, "hung up"),
        (http.client.IncompleteRead, "hung up in mid-answer"),
        (http.client.HTTPException, "does not speak HTTP"),
    )
    for kind, reason in reasons:
        if isinstance(error, kind):
            return reason
    return f"can't be reached ({type(error).__name__})"
