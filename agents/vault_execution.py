"""Trades through a vault on a chain: signed and journalled first, then sent."""

from __future__ import annotations

from typing import Any, Protocol

from agents.contracts import decode_logs
from agents.execution import Ended, Order, Outcome
from agents.journal import Journal
from agents.ledger import entries_in
from agents.localnet.evm import CallReverted, TransactionReverted
from oracle.vault_state import reason_names


class SigningChain(Protocol):
    """What execution needs of a chain: to sign without sending, and to send without signing."""

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
            return Outcome(ended=Ended.REVERTED, error=error.reason.name, detail=str(error.reason))
        self._journal.sign(
            journal_row,
            account=self._signer.address, account_nonce=nonce, raw=raw, transaction_hash=transaction_hash,
        )  # fmt: skip
        return self._send(journal_row, raw)

    def recover(self) -> list[Outcome]:
        """Ends what an earlier run left unfinished, by sending the same transactions again."""
        return [self._send(left.id, left.raw) for left in self._journal.unfinished() if left.vault == self._vault.address]

    def _send(self, row: int, raw: bytes) -> Outcome:
        self._journal.sent(row)
        try:
            receipt = self._chain.send_raw(raw)
        except TransactionReverted as error:
            outcome = Outcome(
                ended=Ended.REVERTED, error=error.reason.name, detail=str(error.reason), receipt=error.receipt
            )
        else:
            outcome = read_outcome(receipt)
        trade_id = outcome.entry.id if outcome.entry else None
        self._journal.mined(row, outcome.ended, trade_id=trade_id, detail=outcome.detail)
        return outcome


def read_outcome(receipt: Any) -> Outcome:
    """What the receipt of a `trade` that did not revert says: traded, or refused with the vault's reasons."""
    for entry in entries_in(receipt):
        return Outcome(ended=Ended.TRADED, entry=entry, receipt=receipt)
    refused = next(event for event in decode_logs(receipt) if event.name == "TradeRefused")
    reasons = ", ".join(reason_names(refused.args["reasons"]))
    return Outcome(ended=Ended.REFUSED, error="TradeRefused", detail=reasons, receipt=receipt)


def order_tuple(order: Order) -> tuple[Any, ...]:
    """`IStrategyVault.Order`, in its order of fields."""
    intent = order.intent
    hashes = (order.artefact_hash, order.explanation_hash, order.observation_hash)
    return (
        intent.asset, intent.is_buy, order.nonce, order.deadline_s, intent.amount_in, intent.min_amount_out,
        *(bytes.fromhex(h[2:]) for h in hashes),
    )  # fmt: skip
