"""What an outbox asks a node: many questions in one request, answers as plain values, refusals as values too."""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eth_utils import to_bytes
from hexbytes import HexBytes
from web3 import Web3

from agents.contracts import RevertReason, decode_revert
from agents.errors import Retryable
from agents.rpc import RpcError
from oracle.chain import BlockRef


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """`nonce`: of the account's next transaction by the latest block; `pending_nonce`: by what the node has waiting."""

    nonce: int
    pending_nonce: int
    balance_wei: int


class Node:
    """A node behind web3: batches where the provider can (`agents.rpc.EndpointPool`), else one by one.

    Every method raises Retryable when the node does not answer, or answers what makes no sense.
    """

    def __init__(self, w3: Web3) -> None:
        self.w3: Any = w3

    def ask(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        """The result of each call, or the RpcError it was answered with."""
        if not calls:
            return []
        provider = self.w3.provider
        if hasattr(provider, "batch"):
            answers: list[Any] = provider.batch(calls)
            return answers
        return [self._ask_alone(method, parameters) for method, parameters in calls]

    def _ask_alone(self, method: str, parameters: list[Any]) -> Any:
        try:
            answer = self.w3.provider.make_request(method, parameters)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Retryable(f"the node does not answer {method}: {error}") from error
        if error := answer.get("error"):
            data = error.get("data")
            return RpcError(code=error.get("code", 0), message=str(error.get("message")), data=data)
        return answer.get("result")

    def _all(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        """As `ask`, where a refusal means that the node can't now."""
        answers = self.ask(calls)
        for (method, _), answer in zip(calls, answers, strict=True):
            if isinstance(answer, RpcError):
                raise Retryable(f"the node refused {method}: {answer.message}")
        return answers

    def head(self) -> BlockRef:
        """The latest block."""
        [block] = self._all([("eth_getBlockByNumber", ["latest", False])])
        return _block(block)

    def blocks(self, numbers: Sequence[int]) -> list[BlockRef | None]:
        """The blocks of those heights, None where there is none."""
        found = self._all([("eth_getBlockByNumber", [hex(number), False]) for number in numbers])
        blocks = [_block(block) if block else None for block in found]
        for number, block in zip(numbers, blocks, strict=True):
            if block and block.number != number:
                raise Retryable(f"the node was asked for block {number} and answered with {block.number}")
        return blocks

    def fees(self) -> tuple[int, int]:
        """Base fee of the next block as far as the latest tells, and the tip that the node suggests; wei."""
        block, tip = self.ask([("eth_getBlockByNumber", ["latest", False]), ("eth_maxPriorityFeePerGas", [])])
        if not isinstance(block, dict):
            raise Retryable(f"the node does not tell the latest block: {block}")
        return _number(block.get("baseFeePerGas", "0x0")), 0 if isinstance(tip, RpcError) else _number(tip)

    def nonces(self, accounts: Sequence[str], block: int | str) -> dict[str, int]:
        """How many transactions of each account the chain has at a block, or the node with those that are `pending`."""
        at = hex(block) if isinstance(block, int) else block
        answers = self._all([("eth_getTransactionCount", [account, at]) for account in accounts])
        return {account: _number(answer) for account, answer in zip(accounts, answers, strict=True)}

    def balances(self, accounts: Sequence[str]) -> dict[str, int]:
        """Wei of each account."""
        answers = self._all([("eth_getBalance", [account, "latest"]) for account in accounts])
        return {account: _number(answer) for account, answer in zip(accounts, answers, strict=True)}

    def accounts(self, accounts: Sequence[str]) -> dict[str, AccountState]:
        """Each account now. What is mined is asked before what is pending, which is never less then."""
        latest = [("eth_getTransactionCount", [account, "latest"]) for account in accounts]
        pending = [("eth_getTransactionCount", [account, "pending"]) for account in accounts]
        balances = [("eth_getBalance", [account, "latest"]) for account in accounts]
        numbers = [_number(answer) for answer in self._all([*latest, *pending, *balances])]
        count = len(accounts)
        return {
            account: AccountState(nonce=nonce, pending_nonce=pending_nonce, balance_wei=balance_wei)
            for account, nonce, pending_nonce, balance_wei in zip(
                accounts, numbers[:count], numbers[count : 2 * count], numbers[2 * count :], strict=True
            )
        }

    def receipts(self, hashes: Sequence[str]) -> list[dict[str, Any] | None]:
        """The receipt of each transaction, None when no block has it."""
        return _receipts(hashes, self._all([("eth_getTransactionReceipt", [h]) for h in hashes]))

    def look(
        self, accounts: Sequence[str], hashes: Sequence[str], head: BlockRef
    ) -> tuple[dict[str, int], list[dict[str, Any] | None]]:
        """The nonces that accounts have used at a head, and the receipts of transactions, of one and the same chain.

        Nonces are asked first, for they need a node that has the head; that it still has it is asked last. Raises
        Retryable when it has not: a used nonce without a receipt would mean something else then.
        """
        nonces = [("eth_getTransactionCount", [account, hex(head.number)]) for account in accounts]
        receipts = [("eth_getTransactionReceipt", [h]) for h in hashes]
        answers = self._all([*nonces, *receipts, ("eth_getBlockByNumber", [hex(head.number), False])])
        if answers[-1] is None or _block(answers[-1]).hash != head.hash:
            raise Retryable(f"the node is not at block {head.number} ({head.hash}) any more, or not yet")
        used = {account: _number(answer) for account, answer in zip(accounts, answers, strict=False)}
        return used, _receipts(hashes, answers[len(accounts) : -1])

    def knows(self, hashes: Sequence[str]) -> list[bool]:
        """Whether the node has each transaction, mined or not."""
        return [bool(answer) for answer in self._all([("eth_getTransactionByHash", [h]) for h in hashes])]

    def estimate(self, calls: Sequence[dict[str, Any]]) -> list[int | RevertReason]:
        """Gas of each call by the latest state, or why it would revert."""
        answers = self.ask([("eth_estimateGas", [call, "latest"]) for call in calls])
        return [_estimate(answer) for answer in answers]

    def send(self, raws: Sequence[bytes]) -> list[str | RpcError]:
        """Hands over signed transactions; the hash of each, or why the node did not take it."""
        return self.ask([("eth_sendRawTransaction", ["0x" + raw.hex()]) for raw in raws])

    def revert_reason(self, transaction_hash: str, block_number: int) -> RevertReason:
        """Why a mined transaction reverted: by the node that knows, or called again on the state before its block."""
        asked, sent = self.ask(
            [("ots_getTransactionError", [transaction_hash]), ("eth_getTransactionByHash", [transaction_hash])]
        )
        if isinstance(asked, str):
            return decode_revert(to_bytes(hexstr=asked))
        if not isinstance(sent, dict):
            return decode_revert(b"")
        call = {key: sent[key] for key in ("from", "to", "value") if sent.get(key)} | {"data": sent.get("input", "0x")}
        [again] = self.ask([("eth_call", [call, hex(block_number - 1)])])
        return decode_revert(_revert_data(again) if isinstance(again, RpcError) else b"")


def _block(block: Any) -> BlockRef:
    try:
        return BlockRef(number=int(block["number"], 16), hash=block["hash"], timestamp_s=int(block["timestamp"], 16))
    except (KeyError, TypeError, ValueError) as error:
        raise Retryable(f"the node's block makes no sense: {error!r}") from error


def _number(answer: Any) -> int:
    try:
        return int(answer, 16)
    except (TypeError, ValueError) as error:
        raise Retryable(f"the node's number makes no sense: {error}") from error


def _receipts(hashes: Sequence[str], answers: Sequence[Any]) -> list[dict[str, Any] | None]:
    found = [None if answer is None else _receipt(answer) for answer in answers]
    for transaction_hash, receipt in zip(hashes, found, strict=True):
        if receipt and receipt["transactionHash"] != transaction_hash:
            raise Retryable(f"the node was asked for the receipt of {transaction_hash} and answered with another")
    return found


def _receipt(raw: dict[str, Any]) -> dict[str, Any] | None:
    """None for one of a transaction that waits, which some nodes make."""
    try:
        if raw["blockNumber"] is None:
            return None
        logs = [
            {
                "address": log["address"], "topics": log["topics"], "data": log["data"],
                "blockNumber": int(log["blockNumber"], 16), "transactionHash": HexBytes(log["transactionHash"]),
            }
            for log in raw["logs"]
        ]  # fmt: skip
        return {
            "status": int(raw["status"], 16), "blockNumber": int(raw["blockNumber"], 16), "blockHash": raw["blockHash"],
            "transactionHash": raw["transactionHash"], "gasUsed": int(raw["gasUsed"], 16), "logs": logs,
        }  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise Retryable(f"the node's receipt makes no sense: {error!r}") from error


def _estimate(answer: Any) -> int | RevertReason:
    """What is wrong with one call is not what is wrong with the others: all refusals are values."""
    if not isinstance(answer, RpcError):
        return _number(answer)
    if "revert" in answer.message.lower() or _revert_data(answer):
        return decode_revert(_revert_data(answer))
    if "insufficient funds" in answer.message.lower():
        return RevertReason("NoEther", {"node": answer.message})
    return RevertReason("NodeRefused", {"node": answer.message})


def _revert_data(error: RpcError) -> bytes:
    data = error.data.get("data") if isinstance(error.data, dict) else error.data
    try:
        return to_bytes(hexstr=data) if isinstance(data, str) and data.startswith("0x") else b""
    except ValueError:  # no hex: it says nothing
        return b""
