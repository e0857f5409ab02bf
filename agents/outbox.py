"""From an order to a final transaction: signed once, sent until it is mined, watched until no reorg can reach it.

    place    reserves nonces, signs and journals in one transaction, then sends
    follow   at each new head: undoes what a reorg took, reads receipts, sends again, raises fees, finalises

`follow` looks at the chain as it is and moves the journal there, whatever happened since: a crash at any point, a
message that was lost or doubled, a foreign use of the key. So it is also how a restart recovers. It converges: asked
again about the same chain it changes nothing.

Not promised: that a trade happens. An order that comes too late for its deadline is mined and reverts, because its
nonce must be used before the next one can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

from eth_account.typed_transactions import TypedTransaction
from hexbytes import HexBytes

from agents.contracts import RevertReason
from agents.errors import AgentError, Halted, Retryable
from agents.execution import Ended, Outcome, outcome_of, reverted
from agents.fees import FeePolicy, Fees, FeeTooHigh
from agents.journal import Attempt, Journal, Note, Unfinished, nothing
from agents.ledger import is_trade
from agents.node import AccountState, Node
from agents.rpc import RpcError
from agents.signer import Signed, TransactionFields
from oracle.chain import BlockRef

GAS_MARGIN_PERCENT, GAS_MARGIN = 25, 100_000
# What nodes say of a transaction that they have, or had.
_TAKEN_BEFORE = ("already known", "already imported", "known transaction", "nonce too low")


class Signer(Protocol):
    """`agents.signer.VaultSigner`."""

    address: str

    def sign(self, fields: TransactionFields) -> Signed: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRules:
    """How the outbox behaves. Times are the chain's."""

    # How many blocks on top of its own make a transaction final: the deepest reorg that is expected.
    finality_blocks: int = 12
    # When a waiting transaction is offered more.
    bump_after_s: int = 60
    # When an operator is told that one still waits, and a nonce that nobody uses is used up.
    stuck_after_s: int = 600
    # Whether the node is asked before something is signed. Costs a question for each order.
    simulate: bool = True
    # Used where nothing is asked.
    gas: int = 1_500_000
    # Whether `look_ahead` may be believed. Foreign use of a key since then is found out by what comes of the order.
    may_look_ahead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """An order for a vault, journalled as `row` and reviewed. `data`: the call."""

    row: int
    vault: str
    account: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What became of an order: `transaction_hash` when it was signed, else why not."""

    row: int
    transaction_hash: str = ""
    is_sent: bool = False
    refused: RevertReason | None = None
    waits_because: str = ""


@dataclass(slots=True, kw_only=True)
class Followed:
    """What one look at the chain changed."""

    ended: list[tuple[int, str, Outcome]] = field(default_factory=list)
    finalised: int = 0
    reorged: int = 0
    replaced: int = 0
    rebroadcast: int = 0
    bumped: int = 0
    # Accounts whose oldest transaction waits for longer than is normal, and why.
    stuck: dict[str, str] = field(default_factory=dict)


class Outbox:
    """The transactions of all accounts in one journal. `signers` by account; used by one thread at a time."""

    def __init__(
        self,
        *,
        chain_id: int,
        node: Node,
        journal: Journal,
        signers: Mapping[str, Signer],
        fees: FeePolicy | None = None,
        rules: OutboxRules | None = None,
        at: Callable[[str], None] = nothing,
    ) -> None:
        self.chain_id, self.node, self.journal = chain_id, node, journal
        self.signers = dict(signers)
        self.fees, self.rules, self._at = fees or FeePolicy(), rules or OutboxRules(), at
        self._ahead: dict[str, AccountState] = {}
        # Rows whose account could not pay for them when they were last sent: to offer more would not help.
        self._unpaid: set[int] = set()
        # Asked before anything is sent again; a lease of the key may have run out.
        self.may_use: Callable[[str], bool] = lambda _: True

    # Placing

    def place(self, orders: Sequence[Outgoing], head: BlockRef) -> list[Placed]:
        """Signs, journals and sends. Orders that can't go now end as refused, with the reason.

        Raises Retryable when the node does not answer, or gas costs more than is allowed: what was signed by then is
        sent by `follow`, the rest has ended as refused.
        """
        if not orders:
            return []
        try:
            gas, refused = self._gas(orders)
            ready = [order for order in orders if order.row not in refused]
            fees = self.fees.first(*self.node.fees()) if ready else Fees(tip_wei=0, max_fee_wei=0)
            nonces, waiting = self._nonces(ready, gas, fees)
        except AgentError as error:
            clause = "fee" if isinstance(error, FeeTooHigh) else "node"
            self._refuse([(order.row, clause, str(error)) for order in orders])
            raise
        ready = [order for order in ready if order.account not in waiting]
        with self.journal.transaction():
            signed = self._sign(ready, gas, nonces, fees, head, refused)
            self._refuse([(row, reason.name, str(reason)) for row, reason in refused.items()])
            late = [order for order in orders if order.row not in refused and order.account in waiting]
            self._refuse([(order.row, "account", waiting[order.account]) for order in late])
        self._at("signed, not sent")
        sent = self._send({row: (attempt,) for row, attempt in signed.items()})
        self._at("sent, not journalled")
        self.journal.sent(*sent)
        return [self._placed(order, signed, sent, refused, waiting) for order in orders]

    def _placed(
        self, order: Outgoing, signed: Mapping[int, Attempt], sent: Sequence[int],
        refused: Mapping[int, RevertReason], waiting: Mapping[str, str],
    ) -> Placed:  # fmt: skip
        if order.row in signed:
            return Placed(row=order.row, transaction_hash=signed[order.row].hash, is_sent=order.row in sent)
        if order.row in refused:
            return Placed(row=order.row, refused=refused[order.row])
        return Placed(row=order.row, waits_because=waiting[order.account])

    def _refuse(self, reasons: Sequence[tuple[int, str, str]]) -> None:
        with self.journal.transaction():
            for row, clause, detail in reasons:
                self.journal.refuse(row, [(clause, detail)])

    def _gas(self, orders: Sequence[Outgoing]) -> tuple[dict[int, int], dict[int, RevertReason]]:
        if not self.rules.simulate:
            return {order.row: self.rules.gas for order in orders}, {}
        calls = [{"from": o.account, "to": o.vault, "data": "0x" + o.data.hex()} for o in orders]
        gas, refused = {}, {}
        for order, estimate in zip(orders, self.node.estimate(calls), strict=True):
            if isinstance(estimate, RevertReason):
                refused[order.row] = estimate
            else:
                gas[order.row] = estimate * (100 + GAS_MARGIN_PERCENT) // 100 + GAS_MARGIN
        return gas, refused

    def _nonces(
        self, orders: Sequence[Outgoing], gas: Mapping[int, int], fees: Fees
    ) -> tuple[dict[str, int], dict[str, str]]:
        """The chain's nonce of each account; and why some must wait."""
        cost_wei: dict[str, int] = {}
        for order in orders:
            cost_wei[order.account] = cost_wei.get(order.account, 0) + gas[order.row] * fees.max_fee_wei
        states = {account: self._ahead.pop(account) for account in cost_wei.keys() & self._ahead.keys()}
        states |= self.node.accounts(sorted(cost_wei.keys() - states.keys()))
        reasons = {account: self._why_wait(account, state, cost_wei[account]) for account, state in states.items()}
        waiting = {account: reason for account, reason in reasons.items() if reason}
        return {account: state.nonce for account, state in states.items()}, waiting

    def _why_wait(self, account: str, state: AccountState, cost_wei: int) -> str:
        """Because of a transaction in the node that is not ours: what becomes of its nonce, nobody knows until it is
        mined. Or because what can't be paid would be in the way of all that comes later."""
        ours = self.journal.next_nonce(account, state.nonce)
        if state.pending_nonce > ours:
            return (
                f"{state.pending_nonce - ours} transactions of {account} are pending that are not this journal's: "
                "trading waits until they are mined"
            )
        if state.pending_nonce < state.nonce:
            return f"the node says that {account} has sent {state.pending_nonce} and that {state.nonce} are mined"
        if state.balance_wei < cost_wei:
            return f"{account} has {state.balance_wei} wei, gas may cost {cost_wei}: send it some"
        return ""

    def _sign(
        self, orders: Sequence[Outgoing], gas: Mapping[int, int], nonces: Mapping[str, int], fees: Fees, head: BlockRef,
        refused: dict[int, RevertReason],
    ) -> dict[int, Attempt]:  # fmt: skip
        """Nonce, bytes and hash of all of them. What the signer will not sign joins the refused."""
        signed: dict[int, Attempt] = {}
        for account, group in groupby(sorted(orders, key=lambda o: o.account), key=lambda o: o.account):
            nonce = self.journal.next_nonce(account, nonces[account])
            for order in group:
                try:
                    attempt = self._attempt(account, order.vault, order.data, nonce, gas[order.row], fees, head)
                except AgentError as error:  # a refusal, or a lease of the key that has run out
                    refused[order.row] = RevertReason(type(error).__name__, {"because": str(error)})
                    continue
                self._journal_signed(order.row, account, nonce, attempt)
                signed[order.row] = attempt
                nonce += 1
        return signed

    def _journal_signed(self, row: int, account: str, nonce: int, attempt: Attempt) -> None:
        self.journal.sign(
            row, account=account, account_nonce=nonce, raw=attempt.raw, transaction_hash=attempt.hash,
            max_fee_wei=attempt.max_fee_wei, tip_wei=attempt.tip_wei, signed_at_s=attempt.signed_at_s,
        )  # fmt: skip

    def _attempt(
        self, account: str, to: str, data: bytes, nonce: int, gas: int, fees: Fees, head: BlockRef
    ) -> Attempt:
        transaction = TransactionFields(
            chain_id=self.chain_id, nonce=nonce, gas=gas, to=to, value_wei=0, data=data,
            max_fee_per_gas_wei=fees.max_fee_wei, max_priority_fee_per_gas_wei=fees.tip_wei,
        )  # fmt: skip
        signed = self.signers[account].sign(transaction)
        return Attempt(
            hash=signed.hash, raw=signed.raw, max_fee_wei=fees.max_fee_wei, tip_wei=fees.tip_wei,
            signed_at_s=head.timestamp_s,
        )  # fmt: skip

    def _send(self, attempts: Mapping[int, Sequence[Attempt]]) -> list[int]:
        """The rows of which a node has taken a transaction now, or had it before."""
        pairs = [(row, attempt.raw) for row, of_row in attempts.items() for attempt in of_row]
        answers = self.node.send([raw for _, raw in pairs])
        taken = {row for (row, _), answer in zip(pairs, answers, strict=True) if _was_taken(answer)}
        unpaid = {row for (row, _), answer in zip(pairs, answers, strict=True) if _can_not_be_paid(answer)}
        self._unpaid = (self._unpaid - attempts.keys()) | (unpaid - taken)
        return [row for row in attempts if row in taken]

    def look_ahead(self, accounts: Iterable[str]) -> None:
        """Asks about accounts between two cycles, so that the next `place` need not. Raises Retryable."""
        if self.rules.may_look_ahead:
            self._ahead = self.node.accounts(sorted(accounts))

    # Following

    def follow(self, head: BlockRef) -> Followed:
        """Moves the journal to where the chain is at `head`. Raises Halted when a reorg went deeper than is expected,
        Retryable when the node does not answer, or is not at `head`; what was done until then is done."""
        done = Followed()
        self._undo_reorged(head, done)
        final = head.number - self.rules.finality_blocks
        unread = self._settle(final, head, done)
        ready = [row for row in self.journal.mined_up_to(final) if row not in unread]
        if ready:
            self.journal.finalise(*ready, checkpoint=self._checkpoint(final))
        done.finalised = len(ready)
        return done

    def _checkpoint(self, number: int) -> BlockRef | None:
        [block] = self.node.blocks([max(number, 0)])
        return block

    def _undo_reorged(self, head: BlockRef, done: Followed) -> None:
        """Takes back what was mined in blocks that the chain no longer has. A node that is behind knows nothing about
        what comes after its head."""
        seen = [(number, block_hash) for number, block_hash in self.journal.mined_blocks() if number <= head.number]
        checkpoint = self.journal.fact("checkpoint")
        if checkpoint and checkpoint["number"] > head.number:
            checkpoint = None
        asked = {number for number, _ in seen} | ({checkpoint["number"]} if checkpoint else set())
        canonical = self._canonical(asked, head)
        if checkpoint and canonical[checkpoint["number"]] != checkpoint["hash"]:
            raise Halted(
                f"block {checkpoint['number']} was final and is not part of the chain any more: a reorg of more than "
                f"{self.rules.finality_blocks} blocks, or another chain. Look at the node; when it is right, "
                "`marketflow agent repair` goes back and reads everything again"
            )
        with self.journal.transaction():
            for number, block_hash in seen:
                if canonical[number] != block_hash:
                    done.reorged += self.journal.unmine_block(block_hash, at_s=head.timestamp_s)

    def _canonical(self, numbers: set[int], head: BlockRef) -> dict[int, str]:
        """Hashes of the blocks below a head, by the chain that it is of."""
        if not numbers:
            return {}
        asked = sorted({*numbers, head.number})
        hashes = {}
        for number, block in zip(asked, self.node.blocks(asked), strict=True):
            if block is None or (number == head.number and block.hash != head.hash):
                raise Retryable(f"the node is not at block {head.number} ({head.hash}) any more, or not yet")
            hashes[number] = block.hash
        return hashes

    def _settle(self, final: int, head: BlockRef, done: Followed) -> set[int]:
        """What has no end yet, or one that may turn out to be another's, or is about to be final and is read once more.
        The rows of the last kind that could not be read."""
        replaced, maturing = self.journal.replaced(), self.journal.mined_with_transactions(final)
        rows = list({row.id: row for row in (*self.journal.unfinished(), *replaced, *maturing)}.values())
        if not rows:
            return set()
        used, receipts = self._look(rows, head)
        news = [row for row in rows if row.id in receipts and not _says_the_same(row, receipts[row.id])]
        outcomes = {row.id: self.read_outcome(receipts[row.id]) for row in news}
        open_rows = [row for row in rows if row.outcome is None and row.id not in receipts]
        doubtful = [row for row in open_rows if used[row.account] > row.account_nonce]
        gone = self._confirm_replaced(doubtful, head)
        with self.journal.transaction():
            for row in news:
                self._end(row, receipts[row.id], outcomes[row.id], done)
            for row in gone:
                self._end_as_replaced(row, head, done)
        self._push([row for row in open_rows if used[row.account] <= row.account_nonce], used, head, done)
        return {row.id for row in maturing if row.outcome != Ended.REPLACED and row.id not in receipts}

    def _look(
        self, rows: Sequence[Unfinished], head: BlockRef
    ) -> tuple[dict[str, int], dict[int, dict[str, Any]]]:
        """Nonces used at `head`, and receipts by row: at most one of a row's transactions can have been mined, because
        they share a nonce. What was mined after `head` is the next head's."""
        pairs = [(row.id, attempt.hash) for row in rows for attempt in row.attempts]
        accounts = sorted({row.account for row in rows})
        used, receipts = self.node.look(accounts, [transaction_hash for _, transaction_hash in pairs], head)
        mined = zip(pairs, receipts, strict=True)
        return used, {row: found for (row, _), found in mined if found and found["blockNumber"] <= head.number}

    def _confirm_replaced(self, doubtful: Sequence[Unfinished], head: BlockRef) -> list[Unfinished]:
        """Those whose nonce is used and that have no receipt, asked a second time: one wrong answer ends nothing."""
        if not doubtful:
            return []
        used, receipts = self._look(doubtful, head)
        return [row for row in doubtful if row.id not in receipts and used[row.account] > row.account_nonce]

    def _end(self, row: Unfinished, receipt: Mapping[str, Any], outcome: Outcome, done: Followed) -> None:
        self.journal.mined(
            row.id, outcome.ended, trade_id=outcome.trade_id, detail=outcome.detail,
            transaction_hash=receipt["transactionHash"], block_number=receipt["blockNumber"],
            block_hash=receipt["blockHash"],
        )  # fmt: skip
        if row.outcome != outcome.ended:
            done.ended.append((row.id, row.vault, outcome))

    def _end_as_replaced(self, row: Unfinished, head: BlockRef, done: Followed) -> None:
        detail = f"nonce {row.account_nonce} of {row.account} was used by a transaction that is not in this journal"
        self.journal.mined(row.id, Ended.REPLACED, detail=detail, block_number=head.number, block_hash=head.hash)
        self.journal.note(Note.REPLACED, str(row.id), detail, at_s=head.timestamp_s)
        done.replaced += 1
        done.ended.append((row.id, row.vault, Outcome(ended=Ended.REPLACED, detail=detail)))

    # What waits

    def _push(self, rows: Sequence[Unfinished], used: Mapping[str, int], head: BlockRef, done: Followed) -> None:
        """Sends what the node does not know; offers more for what waits; uses up a nonce that blocks the others. Only
        with keys that are ours to use now: what another machine does with one is its own business."""
        rows = [row for row in rows if self.may_use(row.account)]
        known = self.node.knows([row.last.hash for row in rows])
        lost = [row for row, is_known in zip(rows, known, strict=True) if not is_known]
        found = [row.id for row, is_known in zip(rows, known, strict=True) if is_known and row.state == "signed"]
        affordable = {row.id: self._within_ceiling(row, done) for row in lost}
        taken = self._send({row: attempts for row, attempts in affordable.items() if attempts})
        self._at("sent again, not journalled")
        self.journal.sent(*found, *taken)
        done.rebroadcast += len(lost)
        oldest = [next(group) for _, group in groupby(sorted(rows, key=_by_nonce), key=lambda row: row.account)]
        self._hurry([r for r in oldest if r.account_nonce == used[r.account] and r.id not in self._unpaid], head, done)
        for row in oldest:
            waits_s = head.timestamp_s - row.last.signed_at_s
            if row.account_nonce > used[row.account] and waits_s >= self.rules.stuck_after_s:
                self._fill(row, used[row.account], head, done)

    def _within_ceiling(self, row: Unfinished, done: Followed) -> list[Attempt]:
        """The ceiling may be lower than when it was signed."""
        found = [attempt for attempt in row.attempts if attempt.max_fee_wei <= self.fees.max_fee_wei]
        if not found:
            done.stuck[row.account] = (
                f"transaction {row.last.hash} offers {row.last.max_fee_wei} wei for a unit of gas, "
                f"MARKETFLOW_MAX_FEE_WEI allows {self.fees.max_fee_wei}: it is not sent again"
            )
        return found

    def _hurry(self, rows: Sequence[Unfinished], head: BlockRef, done: Followed) -> None:
        """Only an account's oldest: the others wait for it, whatever they offer."""
        for row in rows:
            if head.timestamp_s - row.attempts[0].signed_at_s >= self.rules.stuck_after_s:
                since_s, offer_wei = row.attempts[0].signed_at_s, row.last.max_fee_wei
                done.stuck[row.account] = f"transaction {row.last.hash} waits since {since_s} at {offer_wei} wei"
        patient = head.timestamp_s - self.rules.bump_after_s
        late = [row for row in rows if row.last.signed_at_s <= patient]
        if not late:
            return
        now = self.node.fees()
        bumps = {row.id: attempt for row in late if (attempt := self._bump(row, now, head, done))}
        with self.journal.transaction():
            for row_id, attempt in bumps.items():
                self.journal.bump(row_id, attempt)
        self._at("bumped, not sent")
        sent = self._send({row_id: (attempt,) for row_id, attempt in bumps.items()})
        self._at("bump sent, not journalled")
        self.journal.sent(*sent)
        done.bumped += len(bumps)

    def _bump(self, row: Unfinished, now: tuple[int, int], head: BlockRef, done: Followed) -> Attempt | None:
        """The same call with the same nonce and higher fees; None when the ceiling or the signer does not allow it."""
        before = _decoded(row.last.raw)
        if before is None or row.account not in self.signers:
            return None
        offered = Fees(tip_wei=int(before["maxPriorityFeePerGas"]), max_fee_wei=int(before["maxFeePerGas"]))
        fees = self.fees.higher(offered, *now)
        if fees is None:
            return None
        data, gas = bytes(before["data"]), int(before["gas"])
        try:
            return self._attempt(row.account, row.vault, data, row.account_nonce, gas, fees, head)
        except AgentError as error:
            done.stuck[row.account] = f"transaction {row.last.hash} waits, and no more is offered for it: {error}"
            return None

    def _fill(self, blocked: Unfinished, nonce: int, head: BlockRef, done: Followed) -> None:
        """A foreign transaction that was dropped, or that a reorg took, has left a nonce that nobody will use. A poke
        of the vault uses it up, so that what waits behind it can be mined."""
        account = blocked.account
        if account not in self.signers or self.journal.gave_out(account, nonce):
            return  # the second: this node is behind, and has not seen our own transaction mined
        if self.node.nonces([account], "pending")[account] > nonce:
            return
        done.stuck[account] = detail = f"nonce {nonce} of {account} was never used: a poke of the vault uses it up"
        try:
            fees = self.fees.first(*self.node.fees())
            attempt = self._attempt(account, blocked.vault, POKE, nonce, self.rules.gas, fees, head)
        except AgentError as error:
            done.stuck[account] = f"nonce {nonce} of {account} was never used, and can't be used up: {error}"
            return
        with self.journal.transaction():
            row = self.journal.open_filler(vault=blocked.vault, block=head.number, at_s=head.timestamp_s)
            self._journal_signed(row, account, nonce, attempt)
            self.journal.note(Note.REPAIRED, account, detail, at_s=head.timestamp_s)
        self._at("filler signed, not sent")
        self.journal.sent(*self._send({row: (attempt,)}))

    def read_outcome(self, receipt: Mapping[str, Any]) -> Outcome:
        """How a mined transaction of ours ended, by its receipt."""
        if receipt["status"] == 1:
            return outcome_of(receipt)
        return reverted(self.node.revert_reason(receipt["transactionHash"], receipt["blockNumber"]), receipt)


# keccak256("poke()"), its first four bytes.
POKE = bytes.fromhex("18178358")


def _says_the_same(row: Unfinished, receipt: Mapping[str, Any]) -> bool:
    """Whether a trade's receipt, read again, is what the journal has of it; without decoding it once more."""
    return (
        row.trade_id is not None
        and row.block_hash == receipt["blockHash"]
        and receipt["status"] == 1
        and any(is_trade(log) and HexBytes(log["topics"][1]) == HexBytes(row.trade_id) for log in receipt["logs"])
    )


def _was_taken(answer: str | RpcError) -> bool:
    return isinstance(answer, str) or any(said in answer.message.lower() for said in _TAKEN_BEFORE)


def _can_not_be_paid(answer: str | RpcError) -> bool:
    return isinstance(answer, RpcError) and "insufficient funds" in answer.message.lower()


def _by_nonce(row: Unfinished) -> tuple[str, int]:
    return row.account, row.account_nonce


def _decoded(raw: bytes) -> dict[str, Any] | None:
    """The fields of an EIP-1559 transaction; None for another kind, for which nothing is offered."""
    return TypedTransaction.from_bytes(HexBytes(raw)).as_dict() if raw[:1] == b"\x02" else None
