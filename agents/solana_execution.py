"""Trades through a vault on Solana: signed and journalled first, then sent until it landed or no longer can.

A signed transaction is good up to a block height. Until the last final block is above it, the same bytes are sent
again and again; landing twice is impossible, one signature lands once. Only when that height is passed, the node's
history has none of the signatures and the vault's own nonce has not moved is the same order signed anew. The vault's
nonce is in the order: should all of this err, the second of two transactions is refused by the program.

Everything is read at the commitment "finalized": what the journal says then is final at once, no fork takes it back.
It takes some 13 seconds longer than "confirmed"; trades are minutes apart.

In the journal: `account` is the signing key in base58, `account_nonce` a number of its own for each decision (the
vault's nonce is in the signed bytes, and used again after a refusal), `transaction_hash` the signature, blocks are
slots, and a trade's id is the vault's head after it.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import based58
from solana.rpc.api import Client
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import CompiledInstruction, Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from agents.errors import AgentError, Halted, Misconfigured, Retryable
from agents.execution import Ended, Order, Outcome
from agents.journal import Attempt, Journal, nothing
from agents.ledger import LedgerEntry
from agents.secrets import Redactor
from agents.settings import Settings
from agents.solana_program import AnchorProgram, Event, Ledger, Pool, states
from agents.solana_rpc import FINAL, NodeFault, NotTaken, Rpc
from agents.solana_rpc import SETTING as NODE_SETTING
from agents.solana_signer import MAX_UNITS, TRADE, TradeSigner, load_key_file, units_and_price

log = logging.getLogger("marketflow.solana")

LAMPORTS_PER_SIGNATURE: Final = 5_000
# What an account without data must keep so as not to vanish.
RENT_EXEMPT_LAMPORTS: Final = 890_880
# How far back somebody else's use of the vault's nonce is looked for.
_LOOK_BACK: Final = 1_000
_FAILED: Final = re.compile(r"^Program (\w+) failed: (.*)$")
_CUSTOM: Final = re.compile(r"custom program error: 0x([0-9a-f]+)$")
# What the runtime says of a transaction as a whole, by what is done about it.
_UNPAID: Final = {"AccountNotFound", "InsufficientFundsForFee", "InsufficientFundsForRent", "InvalidAccountForFee"}
_NO_PROGRAM: Final = {"ProgramAccountNotFound", "InvalidProgramForExecution"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRules:
    """How transactions are paid for, sent and awaited."""

    # Of recent payers who wrote to the same accounts, so many percent paid no more than what is offered.
    fee_percentile: int = 75
    # Nothing above it is signed: micro-lamports for a compute unit.
    max_priority_fee_micro_lamports: int = 1_000_000
    # On top of the compute units that the simulation took: what the vault does depends on what it finds.
    units_margin_percent: int = 25
    units_margin: int = 10_000
    poll_s: float = 1.0
    # Nodes drop what their leaders did not take.
    resend_after_s: float = 2.0
    # How long one call waits. What is left open is taken up by the next.
    patience_s: float = 180.0
    # How often the same order is signed: each can land for about a minute.
    max_attempts: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.fee_percentile <= 100 or self.max_priority_fee_micro_lamports < 0 or self.max_attempts < 1:
            raise ValueError(f"{self}: a percentile is from 1 to 100, a fee at least 0, one attempt the least")


class Signer(Protocol):
    """`agents.solana_signer.TradeSigner`, or `FeePayer`."""

    pubkey: Pubkey

    def sign(self, message: Message) -> VersionedTransaction: ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a transaction did, or would do, nothing: named as the program names it, else as the runtime does."""

    name: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """A transaction in a final block. Without a refusal it did what it says; `events` are the ledger program's."""

    signature: str
    slot: int
    at_s: int
    refusal: Refusal | None = None
    events: list[Event] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gone:
    """None of the signed transactions can land any more, as the chain is at that final slot."""

    slot: int


class Courier:
    """Prepares transactions of one instruction, sends them and finds out what became of them. Keeps nothing."""

    def __init__(
        self, rpc: Rpc, ledger: Ledger, *, venue: AnchorProgram | None = None, rules: SendRules | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.rpc, self.ledger, self.rules, self._sleep = rpc, ledger, rules or SendRules(), sleep
        self._programs = {str(program.id): program for program in (ledger, venue) if program}

    # Before it is signed

    def plan(self, message: Message) -> Message | Refusal:
        """The message with a limit of compute units by what it takes now; or why it would do nothing.

        Raises Misconfigured when it can't run at all, Retryable when the node can't say.
        """
        told = self.rpc.simulate(with_limits(message, units=MAX_UNITS, price=0))
        if (err := told["err"]) is not None:
            if refusal := self._refusal(err, told.get("logs")):
                return refusal
            raise self._cannot_run(err, message)
        used = told.get("unitsConsumed") or 0
        rules = self.rules
        units = min(MAX_UNITS, used + used * rules.units_margin_percent // 100 + rules.units_margin)
        return with_limits(message, units=units)

    def price(self, message: Message, *, least: int = 0) -> Message:
        """The message with what is offered for a compute unit: by what others paid, `least` and the highest allowed."""
        fees = sorted(self.rpc.priority_fees(writable_accounts(message)))
        usual = fees[-(-len(fees) * self.rules.fee_percentile // 100) - 1] if fees else 0
        price = min(max(usual, least), self.rules.max_priority_fee_micro_lamports)
        priced = with_limits(message, price=price)
        self._check_funds(priced)
        return priced

    def _check_funds(self, message: Message) -> None:
        units, price = units_and_price(message)
        fee = LAMPORTS_PER_SIGNATURE * message.header.num_required_signatures - -units * price // 10**6
        payer, needed = message.account_keys[0], fee + RENT_EXEMPT_LAMPORTS
        if (balance := self.rpc.balance(payer)) < needed:
            raise Misconfigured(f"{payer} has {balance} lamports, a transaction needs {needed}: send it some SOL")

    def seal(self, message: Message, signer: Signer, at_s: int, is_known: Callable[[str], bool]) -> Attempt:
        """Signed, on the latest blockhash. A signature that is known already would be another's: the same order on the
        same blockhash. Then the limit is a unit higher."""
        blockhash, height = self.rpc.latest_blockhash()
        units, _ = units_and_price(message)
        while True:
            transaction = signer.sign(with_limits(message, units=units, blockhash=blockhash))
            signature = str(transaction.signatures[0])
            if not is_known(signature):
                break
            units += 1 if units < MAX_UNITS else -1_000
        raw = bytes(transaction)
        return Attempt(hash=signature, raw=raw, signed_at_s=at_s, last_valid_block_height=height)

    # After

    def follow(
        self, attempts: Sequence[Attempt], *, is_new: bool, vault: Pubkey | None = None, on_sent: Callable[[], None]
    ) -> Landed | Gone:
        """Waits until one of the transactions is final, or none can land any more, and sends the last one meanwhile.

        Raises Retryable when neither was to be seen in time.
        """
        waited_s, next_send_s, may_send, fault = 0.0, 0.0, is_new, None
        while waited_s <= self.rules.patience_s:
            pause_s = self.rules.poll_s
            try:
                if may_send and waited_s >= next_send_s:
                    next_send_s = waited_s + self.rules.resend_after_s
                    self._send(attempts[-1])
                    on_sent()
                seen = self.look(attempts)
                if isinstance(seen, Landed | Gone):
                    return seen
                may_send, fault = not seen, None
            except NodeFault as error:
                fault, pause_s = error, max(pause_s, error.wait_s)
            self._sleep(pause_s)
            waited_s += pause_s
        why = f": {fault}" if fault else ""
        raise Retryable(f"transaction {attempts[-1].hash} is neither final nor past after {waited_s:.0f} s{why}")

    def _send(self, attempt: Attempt) -> None:
        try:
            self.rpc.send(attempt.raw)
        except NotTaken as fault:
            log.info("transaction %s: %s; it is sent again while it can land", attempt.hash, fault)

    def look(self, attempts: Sequence[Attempt]) -> Landed | Gone | bool:
        """What the chain says of them now; True when one is in a block that is not final yet, False when the last can
        still land and is in none."""
        _, statuses = self.rpc.statuses([attempt.hash for attempt in attempts])
        if any(statuses):
            return self._landed(attempts, statuses)
        slot, height = self.rpc.final_block()
        if height <= max(attempt.last_valid_block_height for attempt in attempts):
            return False
        # It may have landed between the two questions; and a node behind others knows nothing of late blocks.
        seen_from, statuses = self.rpc.statuses([attempt.hash for attempt in attempts])
        if any(statuses):
            return self._landed(attempts, statuses)
        if seen_from < slot:
            raise NodeFault(f"the node looks from slot {seen_from}, which is before {slot}")
        return Gone(slot)

    def _landed(self, attempts: Sequence[Attempt], statuses: Sequence[dict[str, Any] | None]) -> Landed | bool:
        for attempt, status in zip(attempts, statuses, strict=True):
            if status and _is_final(status):
                return self.read(attempt.hash)
        return True

    def read(self, signature: str) -> Landed:
        """A final transaction with its events. Raises NodeFault when the node has it not (yet)."""
        told = self.rpc.transaction(signature)
        meta, slot, at_s = told["meta"], told.get("slot"), told.get("blockTime")
        logs = meta.get("logMessages")
        if type(slot) is not int or not isinstance(logs, list):
            raise NodeFault(f"the node does not have all of transaction {signature}")
        if (err := meta.get("err")) is not None:
            refusal = self._refusal(err, logs) or Refusal(_name(err), f"the runtime said {json.dumps(err)}")
            return Landed(signature=signature, slot=slot, at_s=at_s or 0, refusal=refusal, told=told)
        events = [*self.ledger.events(logs), *self.ledger.entries(_calls(told))]
        return Landed(signature=signature, slot=slot, at_s=at_s or 0, events=events, told=told)

    # What errors mean

    def _refusal(self, err: Any, logs: Sequence[str] | None) -> Refusal | None:
        """What a program said; None for what the runtime did before one ran. Of calls within calls the innermost
        failed: its number passes through those around it."""
        if not (isinstance(err, dict) and "InstructionError" in err):
            return None
        failed = next((match for line in logs or () if (match := _FAILED.match(line))), None)
        why = err["InstructionError"][1]
        code = why.get("Custom") if isinstance(why, dict) else None
        if code is None:
            return Refusal(_name(why), failed[2] if failed else "the runtime stopped the program")
        if failed and (custom := _CUSTOM.search(failed[2])):
            code = int(custom[1], 16)
        program = self._programs.get(failed[1]) if failed else self.ledger
        if program is None:
            return Refusal(f"Custom{code}", f"program {failed[1] if failed else ''} refused with number {code}")
        error = program.error(code)
        return Refusal(error.name, error.message if program is self.ledger else f"the venue: {error.message}")

    def _cannot_run(self, err: Any, message: Message) -> Misconfigured | NodeFault:
        name, payer = _name(err), message.account_keys[0]
        if name in _UNPAID:
            return Misconfigured(f"{payer} can't pay for a transaction ({name}): send it some SOL")
        if name in _NO_PROGRAM:
            program = message.account_keys[message.instructions[-1].program_id_index]
            return Misconfigured(f"program {program} is not deployed there ({name}): is it the right cluster?")
        return NodeFault(f"the transaction can't run now: {json.dumps(err)}")


class SolanaExecution:
    """One vault, traded by one signing key. Used by one thread at a time.

    Args:
        known: The accounts of the instruction `trade`, by the IDL's names; `fetch_accounts` finds them.
        clock: Unix seconds, for the journal.
        at: Called with the name of each point at which a fault laboratory dies.
    """

    def __init__(
        self, courier: Courier, *, known: Mapping[str, Pubkey], signer: Signer, journal: Journal,
        clock: Callable[[], float] = time.time, at: Callable[[str], None] = nothing,
    ) -> None:  # fmt: skip
        self._courier, self._signer, self._journal, self._clock, self._at = courier, signer, journal, clock, at
        self._ledger, self.rpc, self._rules = courier.ledger, courier.rpc, courier.rules
        self._known = {**known, "signing_key": signer.pubkey}
        self._vault, self._is_identified, self._is_reconciled = known["vault"], False, False

    def submit(self, order: Order, *, journal_row: int) -> Outcome:
        """Signs, journals, sends, waits. What an earlier run left open is ended first.

        Raises Retryable, or Misconfigured with the setting. Before anything was signed the row is refused with that;
        after, it is not known yet what came of it, and `recover` goes on with the same transaction.
        """
        try:
            self.recover()
            planned = self._courier.plan(self._message(order))
            if isinstance(planned, Message):
                planned = self._courier.price(planned)
                attempt = self._sign(journal_row, order, planned)
        except AgentError as error:
            if self._journal.rows(id=journal_row)[0]["state"] in ("intent", "reviewed"):
                self._journal.refuse(journal_row, [(_clause(error), str(error))])
            raise
        if isinstance(planned, Refusal):  # the node knows before it is sent; nothing was signed
            self._journal.refuse(journal_row, [(planned.name, planned.message)])
            return Outcome(ended=Ended.REVERTED, error=planned.name, detail=planned.message)
        self._at("signed, not sent")
        return self._finish(journal_row, [attempt], is_new=True)

    def recover(self) -> list[Outcome]:
        """Ends what an earlier run left unfinished, by what the chain says: reads what became of it, sends the same
        bytes again while they can land, and only then signs anew. To be called at the start.

        The first time it also takes over the trades that the ledger has and the journal has not. Raises Misconfigured
        for a journal of another cluster or program, Halted when the two can't be reconciled, Retryable when it is not
        known yet.
        """
        self._identify()
        ours = [left for left in self._journal.unfinished() if left.vault == str(self._vault)]
        ended = [self._finish(left.id, list(left.attempts), is_new=False) for left in ours]
        if not self._is_reconciled:
            self.adopt()
            self._is_reconciled = True
        return ended

    def adopt(self) -> int:
        """Takes over trades of the vault that the journal does not have: of a journal that was lost, or of the same key
        in other hands. How many."""
        count = self._state().sequence
        if count == self._count_trades():
            return 0
        unknown = []
        for landed, trade in self.trades():
            known = self._journal.known_trades([_trade_id(trade)])
            if not known:
                unknown.append((landed, trade))
        for landed, trade in reversed(unknown):
            self._take(landed, trade)
        if count != (ours := self._count_trades()):
            raise Halted(
                f"vault {self._vault} has made {count} trades, the journal has {ours}: nothing is traded until they "
                "agree; name a node with MARKETFLOW_SOLANA_RPC_URL that keeps the vault's whole history"
            )
        return len(unknown)

    def _take(self, landed: Landed, trade: dict[str, Any]) -> None:
        signature, trade_id = landed.signature, _trade_id(trade)
        with self._journal.transaction():
            row = self._journal.decision_of(signature)
            if row is not None:
                self._journal.put_right(
                    row, trade_id=trade_id, transaction_hash=signature, block_number=landed.slot, block_hash="",
                    at_s=landed.at_s,
                )  # fmt: skip
            else:
                row = self._journal.adopt(
                    vault=str(self._vault), sequence=trade["sequence"], block=landed.slot, block_hash="",
                    explanation_hash="0x" + trade["explanation_hash"].hex(), trade_id=trade_id,
                    transaction_hash=signature, at_s=landed.at_s,
                )  # fmt: skip
            self._journal.finalise(row)

    def _count_trades(self) -> int:
        return self._journal.trades(up_to_block=2**63 - 1).get(str(self._vault), 0)

    def _state(self, *, min_slot: int = 0) -> Any:
        """The vault as it is in the last final block, at that slot or later."""
        data = self.rpc.account(self._vault, min_slot=min_slot)
        if data is None:
            raise Misconfigured(f"there is no vault {self._vault} on this cluster")
        return self._ledger.decode(data)

    # Signing

    def _message(self, order: Order) -> Message:
        if order.intent.asset != str(self._known["base_mint"]):
            raise Misconfigured(
                f"the order is for {order.intent.asset}, vault {self._vault} trades {self._known['base_mint']}"
            )
        arguments = self._ledger.types["Order"](
            nonce=order.nonce, deadline_s=order.deadline_s, amount_in=order.intent.amount_in,
            least_out=order.intent.min_amount_out, artefact_hash=_hash(order.artefact_hash),
            explanation_hash=_hash(order.explanation_hash), observation_hash=_hash(order.observation_hash),
            is_buy=order.intent.is_buy, reserved=[0] * 7,
        )  # fmt: skip
        return unsealed(self._ledger.instruction("trade", self._known, arguments), self._signer.pubkey)

    def _sign(self, row: int, order: Order, message: Message) -> Attempt:
        """On disk before anybody else sees it."""
        attempt = self._courier.seal(message, self._signer, int(self._clock()), self._is_known)
        account = str(self._signer.pubkey)
        with self._journal.transaction():
            self._journal.sign(
                row, account=account, account_nonce=self._journal.next_nonce(account, order.nonce), raw=attempt.raw,
                transaction_hash=attempt.hash, signed_at_s=attempt.signed_at_s,
                last_valid_block_height=attempt.last_valid_block_height,
            )  # fmt: skip
        return attempt

    def _is_known(self, signature: str) -> bool:
        return self._journal.decision_of(signature) is not None

    # From signed to its end

    def _finish(self, row: int, attempts: list[Attempt], *, is_new: bool) -> Outcome:
        while True:
            seen = self._courier.follow(attempts, is_new=is_new, on_sent=lambda: self._sent(row))
            if isinstance(seen, Gone):
                seen = self._after(seen, attempts)
            if isinstance(seen, Landed):
                return self._end(row, self._outcome(seen, vault_nonce(attempts[-1].raw)), seen)
            if isinstance(seen, Outcome):
                return self._end(row, seen)
            again = self._sign_anew(row, attempts)
            if isinstance(again, Outcome):
                return self._end(row, again)
            attempts, is_new = [*attempts, again], True
            self._at("signed anew, not sent")

    def _sent(self, row: int) -> None:
        self._at("sent, not journalled")
        self._journal.sent(row)

    def _after(self, gone: Gone, attempts: Sequence[Attempt]) -> Landed | Outcome | None:
        """Whether the vault's nonce was used after all, and by which transaction; None when it was not."""
        wanted = vault_nonce(attempts[-1].raw)
        nonce = self._state(min_slot=gone.slot).nonce
        if nonce == wanted:
            return None
        if nonce < wanted:
            return _expired(f"the order's nonce is {wanted}, the vault is at {nonce}")
        ours = {attempt.hash for attempt in attempts}
        for landed, trade in self.trades(look_back=_LOOK_BACK):
            if trade["nonce"] == wanted:
                if landed.signature in ours:  # the node had forgotten its status
                    return landed
                detail = f"transaction {landed.signature} used the vault's nonce {wanted}"
                return Outcome(ended=Ended.REPLACED, error="Replaced", detail=detail, receipt=landed.told)
            if trade["nonce"] < wanted:
                break
        raise Misconfigured(
            f"vault {self._vault} is past nonce {wanted}, and the node does not have the trade that used it: name one "
            "with MARKETFLOW_SOLANA_RPC_URL that keeps the history of transactions"
        )

    def trades(self, *, look_back: int | None = None) -> Iterator[tuple[Landed, dict[str, Any]]]:
        """The vault's trades, newest first, each with the fields of its event, as far as the node keeps them; or those
        among so many of its last transactions."""
        before, count = "", 0
        while (look_back is None or count < look_back) and (
            found := self.rpc.signatures_for(self._vault, before=before)
        ):
            for one in found:
                count, before = count + 1, one["signature"]
                if one.get("err") is None:
                    landed = self._courier.read(one["signature"])
                    for trade in self._events(landed, "TradeRecorded"):
                        yield landed, trade

    def _sign_anew(self, row: int, attempts: Sequence[Attempt]) -> Attempt | Outcome:
        """The same order on another blockhash, for more; or why it is not worth it."""
        message = VersionedTransaction.from_bytes(attempts[-1].raw).message
        if message.account_keys[0] != self._signer.pubkey:
            return _expired("it was signed by a key that is used no longer")
        if len(attempts) >= self._rules.max_attempts:
            return _expired(f"no block took it, though it was signed {len(attempts)} times")
        planned = self._courier.plan(message)
        if isinstance(planned, Refusal):
            return Outcome(ended=Ended.REVERTED, error=planned.name, detail=f"no block took it; now {planned.message}")
        planned = self._courier.price(planned, least=2 * units_and_price(message)[1])
        attempt = self._courier.seal(planned, self._signer, int(self._clock()), self._is_known)
        if attempt.last_valid_block_height <= attempts[-1].last_valid_block_height:
            raise NodeFault("the node's latest blockhash is an old one")
        self._journal.bump(row, attempt)
        return attempt

    def _outcome(self, landed: Landed, nonce: int) -> Outcome:
        if landed.refusal:
            name, message = landed.refusal.name, landed.refusal.message
            return Outcome(ended=Ended.REVERTED, error=name, detail=message, receipt=landed.told)
        for trade in self._events(landed, "TradeRecorded"):
            return Outcome(ended=Ended.TRADED, entry=self._entry(landed, trade), receipt=landed.told)
        for refused in self._events(landed, "TradeRefused"):
            reasons = states(refused["reasons"])
            return Outcome(ended=Ended.REFUSED, error="TradeRefused", detail=reasons, receipt=landed.told)
        # The runtime cuts long logs off. What did not go through, the vault refused: nothing else succeeds.
        if self._state(min_slot=landed.slot).nonce > nonce:
            return Outcome(ended=Ended.TRADED, detail="the log was cut off before the trade", receipt=landed.told)
        detail = "the log was cut off before the reasons"
        return Outcome(ended=Ended.REFUSED, error="TradeRefused", detail=detail, receipt=landed.told)

    def _events(self, landed: Landed, name: str) -> list[dict[str, Any]]:
        found = (event.fields for event in landed.events if event.name == name)
        return [fields for fields in found if fields["vault"] == self._vault]

    def _entry(self, landed: Landed, trade: dict[str, Any]) -> LedgerEntry:
        return LedgerEntry(
            id=_trade_id(trade), vault=str(self._vault), block=landed.slot,
            transaction_hash=landed.signature, fields=trade,
        )  # fmt: skip

    def _end(self, row: int, outcome: Outcome, landed: Landed | None = None) -> Outcome:
        place = {"transaction_hash": landed.signature, "block_number": landed.slot} if landed else {}
        name = outcome.error if outcome.ended is Ended.REVERTED else ""
        detail = f"{name}: {outcome.detail}" if name else outcome.detail
        with self._journal.transaction():
            self._journal.mined(row, outcome.ended, trade_id=outcome.trade_id, detail=detail, **place)
            self._journal.finalise(row)
        return outcome

    def _identify(self) -> None:
        """On another cluster nothing of ours was ever seen, and everything would be signed anew."""
        if self._is_identified:
            return
        here = {"genesis": self.rpc.genesis(), "ledger": str(self._ledger.id)}
        for name, value in here.items():
            known = self._journal.fact(name)
            if known is None:
                self._journal.set_fact(name, value)
            elif known != value:
                raise Misconfigured(
                    f"the journal is about the {name} {known}, the node is about {value}: name the journal of this "
                    "cluster with MARKETFLOW_JOURNAL, or begin a new one"
                )
        self._is_identified = True


class FeePayer:
    """Signs anything that needs no other signature than its own: for a key that owns nothing but lamports for fees."""

    def __init__(self, key: Keypair) -> None:
        self.pubkey, self._key = key.pubkey(), key

    def sign(self, message: Message) -> VersionedTransaction:
        """Whatever it is."""
        return VersionedTransaction(message, [self._key])

    def __repr__(self) -> str:
        return f"<FeePayer {self.pubkey}>"


class SolanaKeeper:
    """What anybody may ask of a vault, paid by any key. Nothing is journalled: each of these can be asked for again,
    and what was done already is refused by the program (`NothingToClose`, `NoResult`, `NothingToClaim`)."""

    def __init__(
        self, courier: Courier, *, known: Mapping[str, Pubkey], payer: Signer, clock: Callable[[], float] = time.time
    ) -> None:
        self._courier, self._known, self._payer, self._clock = courier, dict(known), payer, clock

    def observe(self) -> Landed:
        """Derives the vault's state and keeps it; inside a window also the profit."""
        return self.ask("observe")

    def close_window(self) -> Landed:
        """Freezes the result of the last window that ended."""
        return self.ask("close_window")

    def reward(self, pnl: int) -> Landed:
        """Applies the frozen result, which must be that: base units of quote, negative for a loss."""
        return self.ask("reward_agent", pnl)

    def claim(self, destination: Pubkey) -> Landed:
        """Pays what has vested to a token account of the controller's."""
        return self.ask("claim", destination=destination)

    def pending(self) -> int | None:
        """The frozen result that `reward` wants; None when there is none."""
        data = self._courier.rpc.account(self._known["vault"])
        if data is None:
            raise Misconfigured(f"there is no vault {self._known['vault']} on this cluster")
        reward = self._courier.ledger.decode(data).reward
        return reward.pending_move if reward.is_pending else None

    def ask(self, name: str, *args: Any, **known: Pubkey) -> Landed:
        """Sent until it landed. A refusal that the node foresees is answered without sending: no signature, no slot."""
        courier, attempts = self._courier, list[Attempt]()
        message = unsealed(courier.ledger.instruction(name, self._known | known, *args), self._payer.pubkey)
        least = 0
        while len(attempts) < courier.rules.max_attempts:
            planned = courier.plan(message)
            if isinstance(planned, Refusal):
                return Landed(signature="", slot=0, at_s=0, refusal=planned)
            planned = courier.price(planned, least=least)
            least = 2 * units_and_price(planned)[1]
            ours = [attempt.hash for attempt in attempts]
            attempts.append(courier.seal(planned, self._payer, int(self._clock()), lambda one, ours=ours: one in ours))
            seen = courier.follow(attempts, is_new=True, on_sent=lambda: None)
            if isinstance(seen, Landed):
                return seen
        raise Retryable(f"no block took {name}, though it was signed {len(attempts)} times")


def open_execution(
    settings: Settings, *, ledger: Ledger, vault: Pubkey, journal: Journal, redactor: Redactor | None = None
) -> SolanaExecution:
    """By the operator's settings: the node, the key, the highest fee.

    Raises Misconfigured naming the one that is wrong, Retryable when the node does not answer.
    """
    if settings.solana_rpc_url is None:
        raise Misconfigured(f"{NODE_SETTING} is empty: name a node that keeps the history of transactions")
    if redactor:
        redactor.add_url(settings.solana_rpc_url)
    key, most = load_key_file(settings.solana_key_file, redactor=redactor), settings.max_priority_fee_micro_lamports
    rpc = Rpc(Client(settings.solana_rpc_url.get_secret_value(), timeout=settings.rpc_timeout_s))
    known = fetch_accounts(rpc, ledger, vault)
    courier = Courier(rpc, ledger, venue=Pool(known["venue"]), rules=SendRules(max_priority_fee_micro_lamports=most))
    signer = TradeSigner(key, ledger=ledger, vault=vault, max_priority_fee_micro_lamports=most)
    return SolanaExecution(courier, known=known, signer=signer, journal=journal)


def fetch_accounts(rpc: Rpc, ledger: Ledger, vault: Pubkey) -> dict[str, Pubkey]:
    """The accounts of a vault's instructions, by the IDL's names. The pool's two are those of `marketflow_pool`.

    Raises Misconfigured when there is no such vault.
    """
    found = _decoded(rpc, ledger, vault, "vault")
    protocol, manifest = _decoded(rpc, ledger, found.protocol, "protocol"), found.manifest
    of_pool = {name: _pool_account(name, manifest) for name in ("quote", "base")}
    return ledger.known(found.protocol, vault=vault) | {
        "agent": manifest.agent, "base_mint": manifest.base_mint, "quote_mint": protocol.config.quote_mint,
        "base_feed": manifest.feed.source, "quote_feed": protocol.config.quote_feed.source,
        "venue": manifest.venue, "pool": manifest.pool,
        "pool_quote": of_pool["quote"], "pool_base": of_pool["base"],
    }  # fmt: skip


def _pool_account(name: str, manifest: Any) -> Pubkey:
    return Pubkey.find_program_address([name.encode(), bytes(manifest.pool)], manifest.venue)[0]


def _decoded(rpc: Rpc, ledger: Ledger, key: Pubkey, what: str) -> Any:
    data = rpc.account(key)
    try:
        if data is not None and ledger.kind_of(data).lower() == what:
            return ledger.decode(data)
    except KeyError:
        pass
    raise Misconfigured(f"{key} is no {what} of program {ledger.id} on this cluster: correct the addresses")


# Messages: two limits and one instruction


def unsealed(instruction: Instruction, payer: Pubkey) -> Message:
    """Without a blockhash, with the highest limit and no price."""
    limits = [set_compute_unit_limit(MAX_UNITS), set_compute_unit_price(0)]
    return Message.new_with_blockhash([*limits, instruction], payer, Hash.default())


def with_limits(
    message: Message, *, units: int | None = None, price: int | None = None, blockhash: Hash | None = None
) -> Message:
    """The same message but for what is named; the instruction stays, byte for byte."""
    head, (limit, offer, instruction) = message.header, message.instructions
    if units is not None:
        limit = CompiledInstruction(limit.program_id_index, set_compute_unit_limit(units).data, limit.accounts)
    if price is not None:
        offer = CompiledInstruction(offer.program_id_index, set_compute_unit_price(price).data, offer.accounts)
    return Message.new_with_compiled_instructions(
        head.num_required_signatures, head.num_readonly_signed_accounts, head.num_readonly_unsigned_accounts,
        message.account_keys, blockhash or message.recent_blockhash, [limit, offer, instruction],
    )  # fmt: skip


def writable_accounts(message: Message) -> list[Pubkey]:
    """Those that the transaction may write to, which is what others compete for."""
    head, keys = message.header, message.account_keys
    signed = head.num_required_signatures
    last = len(keys) - head.num_readonly_unsigned_accounts
    return [*keys[: signed - head.num_readonly_signed_accounts], *keys[signed:last]]


def vault_nonce(raw: bytes) -> int:
    """The vault's nonce in a signed trade: `Order` begins with it."""
    data = bytes(VersionedTransaction.from_bytes(raw).message.instructions[2].data)
    if data[:8] != TRADE:
        raise ValueError("the transaction is no trade")
    return int.from_bytes(data[8:16], "little")


def _trade_id(trade: Mapping[str, Any]) -> str:
    """The vault's head after it."""
    return "0x" + str(trade["head"].hex())


def _calls(told: Mapping[str, Any]) -> Iterator[tuple[Pubkey, bytes]]:
    """What a transaction's instructions called: program and data of each, in order."""
    message = VersionedTransaction.from_bytes(base64.b64decode(told["transaction"][0])).message
    loaded = told["meta"].get("loadedAddresses") or {}
    keys = [*message.account_keys, *(Pubkey.from_string(key) for key in loaded.get("writable", ()))]
    keys += [Pubkey.from_string(key) for key in loaded.get("readonly", ())]
    for group in told["meta"].get("innerInstructions") or ():
        for call in group["instructions"]:
            yield keys[call["programIdIndex"]], based58.b58decode(call["data"].encode())


def _is_final(status: Mapping[str, Any]) -> bool:
    """`confirmations` is null for what is rooted, also from nodes that name no commitment."""
    return status.get("confirmationStatus", FINAL if status.get("confirmations") is None else "") == FINAL


def _name(err: Any) -> str:
    return str(next(iter(err))) if isinstance(err, dict) and err else str(err)


def _hash(text: str) -> list[int]:
    return list(bytes.fromhex(text.removeprefix("0x")))


def _expired(detail: str) -> Outcome:
    return Outcome(ended=Ended.REVERTED, error="Expired", detail=detail)


def _clause(error: AgentError) -> str:
    return "account" if isinstance(error, Misconfigured) else "node"
