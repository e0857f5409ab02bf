"""The port through which an intent becomes a trade, and what may come of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from agents.intent import Intent
from agents.ledger import LedgerEntry


class Ended(StrEnum):
    """How a sent order ended."""

    TRADED = "traded"
    # By the vault, which was past a limit already: nothing moved, the flip is kept.
    REFUSED = "refused"
    # By the vault, because this trade would have broken a limit; or by the market.
    REVERTED = "reverted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An intent with everything the vault's `trade` wants."""

    intent: Intent
    nonce: int
    deadline_s: int
    artefact_hash: str
    explanation_hash: str
    observation_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`entry` for a trade; `error` and `detail` for what the vault refused, named as the contract names it."""

    ended: Ended
    entry: LedgerEntry | None = None
    error: str = ""
    detail: str = ""
    receipt: Any = None


class Execution(Protocol):
    """`VaultExecution` on a chain, or `PaperExecution`."""

    def submit(self, order: Order, *, journal_row: int) -> Outcome:
        """Trades, or says why not. Never raises for what the vault decides."""
        ...
