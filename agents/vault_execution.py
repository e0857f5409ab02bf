"""Trades through a vault on a chain whose blocks come at once: signed and journalled first, then sent and awaited.

For a demo, a backtest, a script. What runs for days does not wait: `agents.outbox`.
"""

from __future__ import annotations

from typing import Any, Protocol

from web3 import Web3
from web3.exceptions import TransactionNotFound

from agents.contracts import RevertReason
from agents.execution import Order, Outcome, outcome_of, reverted
from agents.journal import Journal
from agents.localnet.evm import CallReverted, TransactionReverted


class SigningChain(Protocol):
    """What execution needs of a chain: to sign without sending, and to send without signing."""

    w3: Any

    def call(self, what: Any, sender: Any = None, *, block: int | str = "latest") -> Any: ...
    def sign(self, what: Any, sender: Any) -> tuple[bytes, str, int]: ...
    def send_raw(self, raw: bytes) -> Any: ...


class VaultExecution:
    """One vault, traded by one signing key."""

    def __init__(self, chain: SigningChain, vault: Any, signer: Any, journal: Journal) -> None:
        self._chain, self._vault, self._signer, self._journal = chain, vault, signer, journal

    def submit(self, order: Order, *, journal_row: int) -> Outcome:
        """Signs, journals, sends, waits. A restart in between finds the signed transaction and sends the same again."""
        call = self._vault.functions.trade(order_tuple(order))
        try:
            raw, transaction_hash, nonce = self._chain.sign(call, self._signer)
        except CallReverted as error:  # the node knows before it is sent; nothing was signed
            self._journal.refuse(journal_row, [(error.reason.name, str(error.reason))])
            return reverted(error.reason)
        self._journal.sign(
            journal_row,
            account=self._signer.address, account_nonce=nonce, raw=raw, transaction_hash=transaction_hash,
        )  # fmt: skip
        return self._send(journal_row, raw)

    def recover(self) -> list[Outcome]:
        """Ends what an earlier run left unfinished: reads what became of it, or sends the same transaction again."""
        unfinished = (left for left in self._journal.unfinished() if left.vault == self._vault.address)
        return [self._send(left.id, left.last.raw, self._mined_already(left.last.raw)) for left in unfinished]

    def _send(self, row: int, raw: bytes, outcome: Outcome | None = None) -> Outcome:
        self._journal.sent(row)
        if outcome is None:
            try:
                outcome = outcome_of(self._chain.send_raw(raw))
            except TransactionReverted as error:
                outcome = reverted(error.reason, error.receipt)
        self._journal.mined(row, outcome.ended, trade_id=outcome.trade_id, detail=outcome.detail, **_place(outcome))
        return outcome

    def _mined_already(self, raw: bytes) -> Outcome | None:
        eth, transaction_hash = self._chain.w3.eth, Web3.keccak(raw)
        try:
            receipt = eth.get_transaction_receipt(transaction_hash)
        except TransactionNotFound:
            return None
        if receipt["status"] == 1:
            return outcome_of(receipt)
        sent, reason = eth.get_transaction(transaction_hash), RevertReason("NoReason")
        try:  # once more, on the state before its block
            again = {"to": sent["to"], "data": Web3.to_hex(sent["input"])}
            self._chain.call(again, sent["from"], block=receipt["blockNumber"] - 1)
        except CallReverted as error:
            reason = error.reason
        return reverted(reason, receipt)


def _place(outcome: Outcome) -> dict[str, Any]:
    block_hash = Web3.to_hex(outcome.receipt["blockHash"])
    return {"block_number": int(outcome.receipt["blockNumber"]), "block_hash": block_hash}


def order_tuple(order: Order) -> tuple[Any, ...]:
    """`IStrategyVault.Order`, in its order of fields."""
    intent = order.intent
    hashes = (order.artefact_hash, order.explanation_hash, order.observation_hash)
    return (
        intent.asset, intent.is_buy, order.nonce, order.deadline_s, intent.amount_in, intent.min_amount_out,
        *(bytes.fromhex(h[2:]) for h in hashes),
    )  # fmt: skip
