"""A Solana node, asked through solana-py's client; its faults sorted by what is done about them.

    NodeFault (Retryable)   it did not answer, is behind, wants fewer requests, or lacks what it should have by now
    Misconfigured           it will never answer this: a wrong address or key, a method or a history it does not have

Answers are read as plain JSON. The client's own readers panic on an error without data, and know neither the codes of
providers nor the errors of validators that are newer than they are: just then a transaction's fate must not be lost.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, Final

import httpx
from solana.rpc.api import Client
from solders.hash import Hash
from solders.message import Message
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from agents.errors import Misconfigured, Retryable

SETTING: Final = "MARKETFLOW_SOLANA_RPC_URL"
# What is believed for good. A confirmed block has never been taken back, a final one can't be.
FINAL: Final = "finalized"
_RECENT: Final = "confirmed"
_LONGEST_WAIT_S: Final = 60.0
# What no other moment will change: no history, a kind of transaction or of request that the node does not know.
_NEVER: Final = {-32700, -32600, -32601, -32602, -32010, -32011, -32013, -32015}
_PREFLIGHT: Final = -32002


class NodeFault(Retryable):
    """The node can't say now. `wait_s`: for how long it asks to be left alone; 0 when it does not say."""

    def __init__(self, message: str, *, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class NotTaken(NodeFault):
    """The node does not pass a transaction on: by its own look at it, `err` would come of it. Others may see it
    otherwise: only the chain says how it ends."""

    def __init__(self, message: str, err: Any) -> None:
        super().__init__(message)
        self.err = err


class Rpc:
    """The questions that execution asks. Heights, slots, lamports and micro-lamports are whole numbers."""

    def __init__(self, client: Client) -> None:
        self._client, self._count = client, 0

    def close(self) -> None:
        """Ends the connection."""
        self._client._provider.session.close()

    # The chain

    def genesis(self) -> str:
        """What tells clusters apart."""
        return str(self.ask("getGenesisHash"))

    def final_block(self) -> tuple[int, int]:
        """Slot and height of the last block that can't be taken back."""
        told = self.ask("getEpochInfo", {"commitment": FINAL})
        return _whole(told, "absoluteSlot"), _whole(told, "blockHeight")

    def latest_blockhash(self) -> tuple[Hash, int]:
        """And the last height at which a transaction with it may land."""
        told = _value(self.ask("getLatestBlockhash", {"commitment": _RECENT}))
        try:
            return Hash.from_string(told["blockhash"]), _whole(told, "lastValidBlockHeight")
        except Exception as error:  # solders raises various
            raise NodeFault(f"the node's blockhash makes no sense: {error!r}") from error

    def account(self, key: Pubkey, *, min_slot: int = 0) -> bytes | None:
        """What a final account holds, at that slot or later; None where there is none."""
        config = {"encoding": "base64", "commitment": FINAL} | ({"minContextSlot": min_slot} if min_slot else {})
        told = _value(self.ask("getAccountInfo", str(key), config))
        try:
            return None if told is None else base64.b64decode(told["data"][0], validate=True)
        except (LookupError, TypeError, ValueError) as error:
            raise NodeFault(f"the node's account {key} makes no sense: {error!r}") from error

    def balance(self, key: Pubkey) -> int:
        """Lamports."""
        return _whole(self.ask("getBalance", str(key), {"commitment": _RECENT}), "value")

    def priority_fees(self, writable: Sequence[Pubkey]) -> list[int]:
        """For each recent slot: micro-lamports a compute unit that the least payer paid who wrote to one of those."""
        told = self.ask("getRecentPrioritizationFees", [str(key) for key in writable[:128]])
        if not isinstance(told, list):
            raise NodeFault("the node's list of priority fees is none")
        return [_whole(one, "prioritizationFee") for one in told]

    # Transactions

    def simulate(self, message: Message) -> dict[str, Any]:
        """`err`, `logs` and `unitsConsumed` of running it now, whatever its blockhash and without signatures."""
        count = message.header.num_required_signatures
        unsigned = VersionedTransaction.populate(message, [Signature.default()] * count)
        config = {"encoding": "base64", "sigVerify": False, "replaceRecentBlockhash": True, "commitment": _RECENT}
        told = _value(self.ask("simulateTransaction", _base64(bytes(unsigned)), config))
        if not isinstance(told, dict) or "err" not in told:
            raise NodeFault("the node's simulation makes no sense")
        return told

    def send(self, raw: bytes) -> None:
        """Hands a signed transaction over, to be passed on once: who sends it sends it again."""
        config = {"encoding": "base64", "skipPreflight": True, "maxRetries": 0}
        self.ask("sendTransaction", _base64(raw), config)

    def statuses(self, signatures: Sequence[str]) -> tuple[int, list[dict[str, Any] | None]]:
        """The slot that the node looks from, and what it knows of each, its history included."""
        told = self.ask("getSignatureStatuses", list(signatures), {"searchTransactionHistory": True})
        found = _value(told)
        if not isinstance(found, list) or len(found) != len(signatures):
            raise NodeFault("the node's signature statuses make no sense")
        return _whole(told["context"], "slot"), found

    def transaction(self, signature: str) -> dict[str, Any]:
        """A final transaction with `slot`, `blockTime`, and `meta` with `err` and `logMessages`.

        Raises NodeFault when the node does not have it (yet).
        """
        config = {"encoding": "base64", "commitment": FINAL, "maxSupportedTransactionVersion": 0}
        told = self.ask("getTransaction", signature, config)
        if not isinstance(told, dict) or not isinstance(told.get("meta"), dict):
            raise NodeFault(f"the node does not have transaction {signature}")
        return told

    def signatures_for(self, key: Pubkey, *, before: str = "", count: int = 1_000) -> list[dict[str, Any]]:
        """Final transactions that name an account, newest first."""
        config = {"commitment": FINAL, "limit": count} | ({"before": before} if before else {})
        told = self.ask("getSignaturesForAddress", str(key), config)
        if not isinstance(told, list) or not all(isinstance(one, dict) and "signature" in one for one in told):
            raise NodeFault(f"the node's signatures of {key} make no sense")
        return told

    # One question

    def ask(self, method: str, *params: Any) -> Any:
        """The `result` of a method. Raises NodeFault, NotTaken or Misconfigured; none tells the node's address, which
        contains its access key."""
        self._count += 1
        body = json.dumps({"jsonrpc": "2.0", "id": self._count, "method": method, "params": params})
        # Of the client only the connection: it has no public way to ask and read the answer oneself.
        http = self._client._provider
        headers = {"Content-Type": "application/json"} | (http.extra_headers or {})
        try:
            answer = http.session.post(http.endpoint_uri, content=body, headers=headers)
        except (httpx.UnsupportedProtocol, httpx.InvalidURL):
            raise Misconfigured(f"{SETTING} is no address of a node: it begins with https://") from None
        except httpx.HTTPError as error:
            raise NodeFault(f"the node did not answer {method}: {type(error).__name__}") from None
        _check_status(method, answer)
        try:
            told = json.loads(answer.content)
            if "error" in told:
                raise _fault(method, told["error"])
            return told["result"]
        except (ValueError, LookupError, TypeError, AttributeError):
            raise NodeFault(f"the node answered {method} with something that is no JSON-RPC") from None


def _check_status(method: str, answer: httpx.Response) -> None:
    code = answer.status_code
    if code == 429:
        raise NodeFault(f"the node wants fewer requests (HTTP 429, {method})", wait_s=_asked_to_wait(answer))
    if code in (401, 403, 404, 405):
        raise Misconfigured(f"the node answers HTTP {code}: {SETTING} has a wrong address or access key")
    if code == 413:
        raise Misconfigured(f"{method} is too large for the node (HTTP 413): name another one with {SETTING}")
    # A JSON-RPC error may come with 400 or 500, and says more.
    if code != 200 and b'"jsonrpc"' not in answer.content:
        raise NodeFault(f"the node answered {method} with HTTP {code}", wait_s=_asked_to_wait(answer))


def _asked_to_wait(answer: httpx.Response) -> float:
    text = answer.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_WAIT_S) if text.isdecimal() else 0.0


def _fault(method: str, error: Any) -> NodeFault | Misconfigured:
    code, text = error.get("code"), str(error.get("message", ""))[:300]
    said = f"the node answered {method} with {code}: {text}"
    if method == "sendTransaction" and code == _PREFLIGHT:
        return NotTaken(said, (error.get("data") or {}).get("err"))
    if code in _NEVER:
        return Misconfigured(f"{said}; name a node that can with {SETTING}")
    return NodeFault(said)


def _value(told: Any) -> Any:
    """Of an answer with a context."""
    if not isinstance(told, dict) or "value" not in told:
        raise NodeFault("the node's answer has no value")
    return told["value"]


def _whole(told: Any, name: str) -> int:
    value = told.get(name) if isinstance(told, dict) else None
    if type(value) is not int or value < 0:
        raise NodeFault(f"the node's {name} is no whole number")
    return value


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
