"""The port through which an intent becomes a trade, and what may come of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from agents.contracts import RevertReason, decode_logs
from agents.intent import Intent
from agents.ledger import LedgerEntry, entries_in
from oracle.vault_state import reason_names

# keccak256("trade((address,bool,uint64,uint64,uint256,uint256,bytes32,bytes32,bytes32))"), its first four bytes.
TRADE = bytes.fromhex("a73f6a6c")


class Ended(StrEnum):
    """How a sent order ended."""

    TRADED = "traded"
    # By the vault, which was past a limit already: nothing moved, the flip is kept.
    REFUSED = "refused"
    # By the vault, because this trade would have broken a limit; or by the market.
    REVERTED = "reverted"
    # Not at all: the account's nonce was used by a transaction that is not ours.
    REPLACED = "replaced"
    # It was only there to use a nonce up.
    FILLED = "filled"


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

    @property
    def trade_id(self) -> str | None:
        """The trade's id in the ledger."""
        return self.entry.id if self.entry else None


class Execution(Protocol):
    """`VaultExecution` on a chain, or `PaperExecution`."""

    def submit(self, order: Order, *, journal_row: int) -> Outcome:
        """Trades, or says why not. Never raises for what the vault decides."""
        ...


def reverted(reason: RevertReason, receipt: Any = None) -> Outcome:
    """The outcome of a transaction that was mined and did nothing, or that the node says would."""
    return Outcome(ended=Ended.REVERTED, error=reason.name, detail=str(reason), receipt=receipt)


def outcome_of(receipt: Any) -> Outcome:
    """What the receipt of a call that did not revert says: traded, or refused with the vault's reasons; a poke is
    filled."""
    for entry in entries_in(receipt):
        return Outcome(ended=Ended.TRADED, entry=entry, receipt=receipt)
    for event in decode_logs(receipt):
        if event.name == "TradeRefused":
            reasons = ", ".join(reason_names(event.args["reasons"]))
            return Outcome(ended=Ended.REFUSED, error="TradeRefused", detail=reasons, receipt=receipt)
    return Outcome(ended=Ended.FILLED, receipt=receipt)


def call_data(order: Order) -> bytes:
    """`IStrategyVault.trade(order)`, encoded: nine words after the selector."""
    intent = order.intent
    numbers = (int(intent.is_buy), order.nonce, order.deadline_s, intent.amount_in, intent.min_amount_out)
    hashes = (order.artefact_hash, order.explanation_hash, order.observation_hash)
    return (
        TRADE
        + bytes.fromhex(intent.asset[2:]).rjust(32, b"\0")
        + b"".join(number.to_bytes(32, "big") for number in numbers)
        + b"".join(bytes.fromhex(h[2:]) for h in hashes)
    )
