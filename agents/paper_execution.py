"""Trades that nobody sends: what an agent without a signer does."""

from __future__ import annotations

from agents.execution import Ended, Order, Outcome
from agents.journal import Journal


class PaperExecution:
    """Journals every order as traded on paper. Nothing moves, so the vault it reads stays as it is."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def submit(self, order: Order, *, journal_row: int) -> Outcome:
        """intent → signed → sent → mined, with nothing signed."""
        self._journal.sign(journal_row, account="paper", account_nonce=order.nonce, raw=b"", transaction_hash="")
        self._journal.sent(journal_row)
        detail = f"paper: {order.intent.amount_in} for at least {order.intent.min_amount_out}"
        self._journal.mined(journal_row, Ended.TRADED, detail=detail)
        return Outcome(ended=Ended.TRADED, detail=detail)
