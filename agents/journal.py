"""What the agents decided and did, written down before it is done.

    intent → reviewed → signed → sent → mined → final          intent, reviewed → refused | abandoned

One row for each decision that wants a trade. Whatever was signed is in the journal before anybody else sees it, with
its nonce, its bytes and its hash in the transaction that reserved the nonce: so a restart sends the same bytes again,
and a nonce that was given out is never given to another decision. A fee bump is a further transaction of the same
decision with the same nonce. `mined` says how it ended: traded, refused (by the vault), reverted, or replaced (its
nonce was used by a transaction that is not ours); a reorg takes it back to `sent`. `final` is deeper than any reorg
that is expected. An intent that was never signed is over after a restart: nothing can come of it.

Beside the decisions: the explanations they name, what happened that an operator wants to know (`notes`), what the
operator asked for (`controls`), and facts such as the chain that all of it is about.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Self

from agents.errors import Halted, Misconfigured, Retryable
from oracle.chain import BlockRef

SCHEMA_VERSION: Final = 3
# How long another process may hold the file before this one gives up.
_BUSY_TIMEOUT_S: Final = 10
_LOCK_TRIES, _LOCK_PAUSE_S = 6, 0.05
_SCHEMA = """
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL DEFAULT 'trade' CHECK (kind IN ('trade', 'filler')),
    vault TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    block INTEGER NOT NULL,
    decided_at_s INTEGER NOT NULL,
    deadline_s INTEGER NOT NULL DEFAULT 0,
    explanation_hash TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN
        ('intent', 'reviewed', 'refused', 'abandoned', 'signed', 'sent', 'mined', 'final')),
    broken TEXT NOT NULL DEFAULT '[]',
    account TEXT,
    account_nonce INTEGER,
    transaction_hash TEXT,
    block_number INTEGER,
    block_hash TEXT,
    outcome TEXT,
    trade_id TEXT,
    detail TEXT
) STRICT;
CREATE UNIQUE INDEX nonces ON decisions (account, account_nonce) WHERE account_nonce IS NOT NULL AND account != 'paper';
CREATE INDEX by_state ON decisions (state, block_number);
CREATE INDEX by_vault ON decisions (vault, id);
CREATE INDEX traded ON decisions (vault, block_number) WHERE outcome = 'traded';
CREATE INDEX by_trade ON decisions (trade_id) WHERE trade_id IS NOT NULL;
CREATE TABLE transactions (
    hash TEXT PRIMARY KEY,
    decision INTEGER NOT NULL REFERENCES decisions (id),
    raw BLOB NOT NULL,
    max_fee_wei INTEGER NOT NULL DEFAULT 0,
    tip_wei INTEGER NOT NULL DEFAULT 0,
    signed_at_s INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX by_decision ON transactions (decision);
CREATE TABLE documents (hash TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT;
CREATE TABLE notes (
    id INTEGER PRIMARY KEY,
    at_s INTEGER NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE TABLE controls (name TEXT PRIMARY KEY, value TEXT NOT NULL, set_at_s INTEGER NOT NULL) STRICT;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""
# Version 1 kept the one transaction of a decision in its row, and not the block that it was mined in: so the chain is
# asked again about what was mined.
_FROM_VERSION_1 = """
ALTER TABLE decisions RENAME TO old_decisions;
DROP INDEX IF EXISTS unfinished;
{schema}
INSERT INTO decisions (id, vault, sequence, block, decided_at_s, explanation_hash, state, broken, account,
    account_nonce, transaction_hash, outcome, trade_id, detail)
    SELECT id, vault, sequence, block, decided_at_s, explanation_hash, state, broken, account, account_nonce,
    transaction_hash, outcome, trade_id, detail FROM old_decisions;
INSERT INTO transactions (hash, decision, raw)
    SELECT transaction_hash, id, raw FROM old_decisions WHERE length(raw) > 0;
UPDATE decisions SET state = 'sent', outcome = NULL, trade_id = NULL, detail = NULL
    WHERE state = 'mined' AND id IN (SELECT decision FROM transactions);
DROP TABLE old_decisions;
"""
# Version 2 knew only transactions that are good for ever.
_FROM_VERSION_2 = "ALTER TABLE transactions ADD COLUMN last_valid_block_height INTEGER NOT NULL DEFAULT 0"
# From which states a decision may come to one.
_BEFORE: Final[Mapping[str, tuple[str, ...]]] = {
    "reviewed": ("intent",),
    "refused": ("intent", "reviewed"),
    "abandoned": ("intent", "reviewed"),
    "signed": ("reviewed",),
    "sent": ("signed", "sent"),
    "mined": ("signed", "sent", "mined"),
    "final": ("mined",),
}
PAPER: Final = "paper"
_UNMINE = (
    "UPDATE decisions SET state = 'sent', outcome = NULL, trade_id = NULL, detail = NULL, block_number = NULL,"
    " block_hash = NULL WHERE id = ?"
)


class Note(StrEnum):
    """What an operator may want to know afterwards."""

    REORGED = "reorged"
    BUMPED = "bumped"
    REPLACED = "replaced"
    REBROADCAST = "rebroadcast"
    ADOPTED = "adopted"
    ABANDONED = "abandoned"
    FOREIGN = "foreign"
    STUCK = "stuck"
    STOPPED = "stopped"
    RECONCILED = "reconciled"
    REPAIRED = "repaired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One signed transaction of a decision. Fees in wei for a unit of gas."""

    hash: str
    raw: bytes
    max_fee_wei: int = 0
    tip_wei: int = 0
    signed_at_s: int = 0
    # On Solana: no block above this height takes it. 0: it is good until its nonce is used.
    last_valid_block_height: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A decision that was signed and is not final. `attempts`: oldest first; all have the same nonce."""

    id: int
    vault: str
    sequence: int
    state: str
    account: str
    account_nonce: int
    deadline_s: int
    block_number: int | None
    block_hash: str | None
    outcome: str | None
    trade_id: str | None
    attempts: tuple[Attempt, ...]

    @property
    def last(self) -> Attempt:
        return self.attempts[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDecision:
    """A decision that wants a trade, to be written down. `broken`: the clauses the review says it would break."""

    vault: str
    sequence: int
    block: int
    decided_at_s: int
    explanation_hash: str
    # Canonical bytes of the explanation; None when a folder keeps it.
    document: bytes | None = None
    deadline_s: int = 0
    broken: tuple[tuple[str, str], ...] = ()


def nothing(point: str) -> None:
    """What is done at the points of the journal at which a fault laboratory dies."""


class Journal:
    """An SQLite file in write-ahead mode; every method is one transaction, on disk when it returns, unless it is inside
    `transaction()`. May be used by several threads; by one writing process when `exclusive`.

    Raises Misconfigured, here and in every method, when the file can't be read or written, and Retryable when another
    process does not let go of it. `at` is called with the name
    of each transition before and after it is on disk.
    """

    def __init__(self, path: Path | str, *, exclusive: bool = False, at: Callable[[str], None] = nothing) -> None:
        self.path, self._at = path, at
        self._lock, self._depth, self._is_spoilt = threading.RLock(), 0, False
        self._committed: list[str] = []
        self._db: sqlite3.Connection | None = None
        self._exclusive_to_us = _lock_file(Path(path)) if exclusive and path != ":memory:" else None
        try:
            self._connect()
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        with self._usable():
            if self.path != ":memory:":
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, timeout=_BUSY_TIMEOUT_S,
                cached_statements=256,
            )  # fmt: skip

    def _prepare(self) -> None:
        self._execute("PRAGMA journal_mode=WAL")
        self._execute("PRAGMA synchronous=FULL")
        self._execute("PRAGMA foreign_keys=ON")
        if self._value("PRAGMA user_version") == SCHEMA_VERSION:
            return  # who only looks does not wait for who writes
        with self.transaction():
            version = self._value("PRAGMA user_version")
            tables = {name for (name,) in self._fetch("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if version > SCHEMA_VERSION:
                raise Misconfigured(
                    f"the journal {self.path} is of version {version}, this program knows {SCHEMA_VERSION}: "
                    "use the newer program, or name another file"
                )
            if version < 2:
                script = _FROM_VERSION_1.format(schema=_SCHEMA) if "decisions" in tables else _SCHEMA
                for statement in script.split(";"):
                    self._execute(statement)
            if version < SCHEMA_VERSION:
                self._execute(_FROM_VERSION_2)
                self._execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Calling it again does nothing."""
        if self._db:
            self._db.close()
        if self._exclusive_to_us:
            self._exclusive_to_us.close()
            self._exclusive_to_us = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is on disk together or not at all. May be nested: an error that leaves any of them undoes
        the outermost, even where somebody catches it in between."""
        with self._lock:
            if self._depth:
                yield from self._nested()
                return
            try:
                self._depth, self._is_spoilt = 1, False
                self._execute("BEGIN IMMEDIATE")
                yield
                self._commit()
            except BaseException:
                self._rollback()
                raise
            finally:
                self._depth = 0
                committed, self._committed = self._committed, []
        for point in committed:
            self._at(f"after {point}")

    def _nested(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._is_spoilt = True
            raise

    def _commit(self) -> None:
        if self._is_spoilt:
            raise ValueError("a part of this transaction failed, so all of it is undone: let the error through")
        for point in self._committed:
            self._at(f"before {point}")
        self._execute("COMMIT")

    # From an intent to its end

    def record(self, decisions: Sequence[NewDecision]) -> list[int]:
        """New rows, each with its explanation: reviewed, or refused when the review found clauses. Their ids."""
        with self.transaction():
            return [self._record_one(new) for new in decisions]

    def _record_one(self, new: NewDecision) -> int:
        if new.document is not None:
            values = (new.explanation_hash, new.document)
            self._execute("INSERT OR IGNORE INTO documents (hash, content) VALUES (?, ?)", values)
        state = "refused" if new.broken else "reviewed"
        cursor = self._execute(
            "INSERT INTO decisions (vault, sequence, block, decided_at_s, explanation_hash, deadline_s, state, broken)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (new.vault, new.sequence, new.block, new.decided_at_s, new.explanation_hash, new.deadline_s, state,
             json.dumps(list(new.broken))),
        )  # fmt: skip
        self._committed += ("intent", state)
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def open_intent(
        self, *, vault: str, sequence: int, block: int, decided_at_s: int, explanation_hash: str, deadline_s: int = 0
    ) -> int:
        """A new row in state intent; its id."""
        with self.transaction():
            cursor = self._execute(
                "INSERT INTO decisions (vault, sequence, block, decided_at_s, explanation_hash, deadline_s, state)"
                " VALUES (?, ?, ?, ?, ?, ?, 'intent')",
                (vault, sequence, block, decided_at_s, explanation_hash, deadline_s),
            )
            self._committed.append("intent")
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def reviewed(self, row: int) -> None:
        """The review found nothing: intent → reviewed."""
        self._move(row, "reviewed")

    def refuse(self, row: int, broken: Sequence[tuple[str, str]]) -> None:
        """The review, or the node before anything was signed, said no: with the clauses and their numbers."""
        self._move(row, "refused", broken=json.dumps(list(broken)))

    def abandon_unsigned(self, *, at_s: int) -> int:
        """Ends what was never signed; how many there were. For a restart only: nothing else may be deciding."""
        with self.transaction():
            rows = [i for (i,) in self._fetch("SELECT id FROM decisions WHERE state IN ('intent', 'reviewed')")]
            for row in rows:
                self._move(row, "abandoned")
            if rows:
                self.note(Note.ABANDONED, "", f"{len(rows)} decisions were never signed", at_s=at_s)
        return len(rows)

    def next_nonce(self, account: str, chain_nonce: int) -> int:
        """The nonce for an account's next transaction: never one that was given out, never one the chain has seen.

        Inside the `transaction()` that signs with it.
        """
        found = self._value(
            "SELECT max(account_nonce) FROM decisions WHERE account = ? AND account_nonce IS NOT NULL"
            " AND account != 'paper'", (account,)
        )  # fmt: skip
        return chain_nonce if found is None else max(chain_nonce, found + 1)

    def gave_out(self, account: str, account_nonce: int) -> bool:
        """Whether a decision has that nonce."""
        statement = "SELECT 1 FROM decisions WHERE account = ? AND account_nonce = ? AND account != 'paper'"
        return bool(self._fetch(statement, (account, account_nonce)))

    def sign(
        self, row: int, *, account: str, account_nonce: int, raw: bytes, transaction_hash: str, **fees: int
    ) -> None:
        """reviewed → signed, with everything needed to send it again. `fees`: as in Attempt. Raises ValueError for a
        nonce that another decision has."""
        with self.transaction():
            if self.gave_out(account, account_nonce):
                raise ValueError(f"journal row {row} can't have nonce {account_nonce} of {account}: another has it")
            self._move(
                row, "signed", account=account, account_nonce=account_nonce, transaction_hash=transaction_hash
            )
            if raw:
                self._add_attempt(row, Attempt(hash=transaction_hash, raw=raw, **fees))

    def bump(self, row: int, attempt: Attempt) -> None:
        """Another transaction of the same decision with the same nonce: at a higher fee, or where the last one can no
        longer land."""
        with self.transaction():
            state = self._value("SELECT state FROM decisions WHERE id = ?", (row,)) or "missing"
            if state not in ("signed", "sent"):
                raise ValueError(f"journal row {row} can't be bumped: it is {state}")
            self._add_attempt(row, attempt)
            self._execute("UPDATE decisions SET transaction_hash = ? WHERE id = ?", (attempt.hash, row))
            self._committed.append("bumped")
            height = attempt.last_valid_block_height
            detail = f"good up to block height {height}" if height else f"{attempt.max_fee_wei} wei at most"
            detail = f"decision {row}: {detail}"
            self.note(Note.BUMPED, attempt.hash, detail, at_s=attempt.signed_at_s)

    def sent(self, *rows: int) -> None:
        """signed → sent, handed to a node; sent again stays sent."""
        if not rows:
            return
        with self.transaction():
            for row in rows:
                self._move(row, "sent")

    def mined(
        self,
        row: int,
        outcome: str,
        *,
        trade_id: str | None = None,
        detail: str = "",
        transaction_hash: str | None = None,
        block_number: int | None = None,
        block_hash: str | None = None,
    ) -> None:
        """How it ended: traded, refused, reverted or replaced. Mined again, in another block, it may end otherwise."""
        known = {} if transaction_hash is None else {"transaction_hash": transaction_hash}
        self._move(
            row, "mined", outcome=outcome, trade_id=trade_id, detail=detail,
            block_number=block_number, block_hash=block_hash, **known,
        )  # fmt: skip

    def unmine_block(self, block_hash: str, *, at_s: int) -> int:
        """mined → sent for everything in a block that a reorg took; how many. A trade that was only adopted was never
        this journal's to send: it is gone."""
        with self.transaction():
            rows = self._query(
                "SELECT id, account FROM decisions WHERE state = 'mined' AND block_hash = ?", (block_hash,)
            )
            for row in rows:
                if row["account"] is None:
                    self._execute("DELETE FROM decisions WHERE id = ?", (row["id"],))
                else:
                    self._execute(_UNMINE, (row["id"],))
                self._committed.append("unmined")
                detail = f"block {block_hash} is no longer part of the chain"
                self.note(Note.REORGED, str(row["id"]), detail, at_s=at_s)
        return len(rows)

    def put_right(
        self, row: int, *, trade_id: str, transaction_hash: str, block_number: int, block_hash: str, at_s: int
    ) -> bool:
        """mined or final, by what a node said wrongly → mined, traded: the ledger has the trade. Whether it was so;
        what is not mined yet is left to the outbox."""
        with self.transaction():
            changed = self._execute(
                "UPDATE decisions SET state = 'mined', outcome = 'traded', trade_id = ?, transaction_hash = ?,"
                " block_number = ?, block_hash = ?, detail = 'put right by the ledger' WHERE id = ?"
                " AND state IN ('mined', 'final') AND outcome IS NOT 'traded'",
                (trade_id, transaction_hash, block_number, block_hash, row),
            )
            if changed.rowcount:
                self._committed.append("mined")
                self.note(Note.REPAIRED, str(row), f"the ledger has it as trade {trade_id}", at_s=at_s)
        return bool(changed.rowcount)

    def reopen(self, after_block: int, *, at_s: int) -> int:
        """final → mined for everything above a block: only for a repair after a reorg that was deeper than expected."""
        with self.transaction():
            cursor = self._execute(
                "UPDATE decisions SET state = 'mined' WHERE state = 'final' AND block_number > ?", (after_block,)
            )
            self._execute("DELETE FROM facts WHERE name IN ('checkpoint', 'ledger cursor')")
            self.note(
                Note.REPAIRED, str(after_block), f"{cursor.rowcount} final decisions are looked at again", at_s=at_s
            )
        return cursor.rowcount

    def finalise(self, *rows: int, checkpoint: BlockRef | None = None) -> None:
        """mined → final: no reorg is expected to reach it, and none that reaches the checkpoint is believed. An earlier
        checkpoint than the last is no news."""
        with self.transaction():
            for row in rows:
                self._move(row, "final")
            known = self.fact("checkpoint")
            if checkpoint and (known is None or checkpoint.number > known["number"]):
                self.set_fact("checkpoint", {"number": checkpoint.number, "hash": checkpoint.hash})

    def open_filler(self, *, vault: str, block: int, at_s: int) -> int:
        """A row, reviewed, for a transaction that only uses a nonce up; its id."""
        cursor = self._execute(
            "INSERT INTO decisions (kind, vault, sequence, block, decided_at_s, explanation_hash, state)"
            " VALUES ('filler', ?, -1, ?, ?, '', 'reviewed')", (vault, block, at_s)
        )  # fmt: skip
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def adopt(
        self, *, vault: str, sequence: int, block: int, block_hash: str, explanation_hash: str, trade_id: str,
        transaction_hash: str, at_s: int,
    ) -> int:  # fmt: skip
        """A trade of our vault that the chain's ledger has and this journal did not: mined, traded. Its id."""
        with self.transaction():
            cursor = self._execute(
                "INSERT INTO decisions (vault, sequence, block, decided_at_s, explanation_hash, state, outcome,"
                " trade_id, transaction_hash, block_number, block_hash, detail)"
                " VALUES (?, ?, ?, ?, ?, 'mined', 'traded', ?, ?, ?, ?, 'adopted from the ledger')",
                (vault, sequence, block, at_s, explanation_hash, trade_id, transaction_hash, block, block_hash),
            )
            self._committed.append("adopted")
            self.note(Note.ADOPTED, trade_id, f"trade {sequence} of {vault} was not in the journal", at_s=at_s)
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    # What is known

    def unfinished(self, *states: str) -> list[Unfinished]:
        """Decisions in one of the states (default: signed or sent), oldest first, those on paper left out."""
        wanted = states or ("signed", "sent")
        return self._unfinished(f"d.state IN ({', '.join('?' for _ in wanted)})", wanted)

    def replaced(self) -> list[Unfinished]:
        """Decisions whose nonce another transaction seems to have used, and that are not final."""
        return self._unfinished("d.state = 'mined' AND d.outcome = 'replaced'", ())

    def mined_with_transactions(self, block: int) -> list[Unfinished]:
        """Decisions that were mined in that block or before and are not final, without those that were only adopted."""
        return self._unfinished("d.state = 'mined' AND d.block_number <= ?", (block,))

    def _unfinished(self, condition: str, values: Sequence[Any]) -> list[Unfinished]:
        columns = ", ".join([*(f"d.{name}" for name in _UNFINISHED), *(f"t.{name}" for name in _ATTEMPT)])
        found = self._fetch(
            f"SELECT {columns} FROM decisions d CROSS JOIN transactions t ON t.decision = d.id"
            f" WHERE {condition} AND d.account IS NOT NULL ORDER BY d.id, t.rowid", values
        )  # fmt: skip
        return [_row_with_attempts(list(of)) for _, of in groupby(found, key=lambda row: row[0])]

    def mined_blocks(self) -> list[tuple[int, str]]:
        """Numbers and hashes of the blocks with decisions that are not final."""
        return self._fetch(
            "SELECT DISTINCT block_number, block_hash FROM decisions WHERE state = 'mined' AND block_number IS NOT NULL"
        )

    def mined_up_to(self, block: int) -> list[int]:
        """Decisions that were mined in that block or before, and are not final."""
        statement = "SELECT id FROM decisions WHERE state = 'mined' AND block_number <= ? ORDER BY id"
        return [row for (row,) in self._fetch(statement, (block,))]

    def in_flight(self, head: int) -> set[str]:
        """Vaults with an order that was signed and is not mined, or in a block above `head`: nothing else may be
        ordered for them."""
        found = self._fetch(
            "SELECT DISTINCT vault FROM decisions WHERE state IN ('signed', 'sent')"
            " OR (state = 'mined' AND block_number > ?)", (head,)
        )  # fmt: skip
        return {vault for (vault,) in found}

    def rows(self, **where: Any) -> list[dict[str, Any]]:
        """Rows in order of decision, as dicts; `where` compares columns."""
        condition = " AND ".join(f"{column} = ?" for column in where) or "1"
        return self._query(f"SELECT * FROM decisions WHERE {condition} ORDER BY id", tuple(where.values()))

    def latest(self, count: int, *, vault: str | None = None) -> list[dict[str, Any]]:
        """The last rows, newest first."""
        condition, values = ("WHERE vault = ?", (vault,)) if vault else ("", ())
        return self._query(f"SELECT * FROM decisions {condition} ORDER BY id DESC LIMIT ?", (*values, count))

    def open_counts(self) -> dict[str, int]:
        """How many decisions are in each state that is not an end; quick, however long the journal is."""
        found = self._execute(
            "SELECT state, count(*) FROM decisions WHERE state IN ('intent', 'reviewed', 'signed', 'sent', 'mined')"
            " GROUP BY state"
        )
        return dict(found.fetchall())

    def counts(self) -> dict[str, int]:
        """How many decisions are in each state."""
        return dict(self._fetch("SELECT state, count(*) FROM decisions GROUP BY state"))

    def trades(self, *, up_to_block: int) -> dict[str, int]:
        """How many trades each vault has made up to a block, by what is mined or final."""
        found = self._fetch(
            "SELECT vault, count(*) FROM decisions WHERE outcome = 'traded' AND block_number <= ? GROUP BY vault",
            (up_to_block,),
        )
        return dict(found)

    def known_trades(self, trade_ids: Iterable[str]) -> set[str]:
        """Those of the ids that a row has."""
        return {i for i in trade_ids if self._fetch("SELECT 1 FROM decisions WHERE trade_id = ? LIMIT 1", (i,))}

    def decision_of(self, transaction_hash: str) -> int | None:
        """The decision that a signed transaction is of, or None."""
        found = self._value("SELECT decision FROM transactions WHERE hash = ?", (transaction_hash,))
        return None if found is None else int(found)

    def last_decided(self) -> dict[str, int]:
        """When each vault was last decided about, by the chain's time: what became an order, or a review denied. What
        something passing was in the way of is left out."""
        statement = (
            "SELECT vault, max(decided_at_s) FROM decisions WHERE kind = 'trade' AND (account IS NOT NULL OR (state ="
            " 'refused' AND substr(broken, 1, 6) NOT IN ('[[\"nod', '[[\"fee', '[[\"acc', '[[\"pau'))) GROUP BY vault"
        )
        return dict(self._fetch(statement))

    def attempts(self, row: int) -> list[Attempt]:
        """The signed transactions of a decision, oldest first."""
        columns = ", ".join(_ATTEMPT)
        found = self._fetch(f"SELECT {columns} FROM transactions WHERE decision = ? ORDER BY rowid", (row,))
        return [Attempt(**dict(zip(_ATTEMPT, fields, strict=True))) for fields in found]

    def document(self, explanation_hash: str) -> bytes | None:
        """Canonical bytes of an explanation, or None."""
        found = self._value("SELECT content FROM documents WHERE hash = ?", (explanation_hash,))
        return None if found is None else bytes(found)

    def check(self) -> None:
        """Raises Misconfigured when the file is damaged."""
        answer = self._value("PRAGMA quick_check(1)")
        if answer != "ok":
            raise Misconfigured(
                f"the journal {self.path} is damaged ({answer}): put back a copy, or begin a new one; "
                "what the chain's ledger has is taken over from there"
            )

    # Beside the decisions

    def note(self, kind: Note, subject: str, detail: str, *, at_s: int) -> None:
        """Something that an operator may want to know afterwards."""
        self._execute(
            "INSERT INTO notes (at_s, kind, subject, detail) VALUES (?, ?, ?, ?)", (at_s, str(kind), subject, detail)
        )

    def notes(self, count: int = 100) -> list[dict[str, Any]]:
        """The last notes, newest first."""
        return self._query("SELECT * FROM notes ORDER BY id DESC LIMIT ?", (count,))

    def note_counts(self) -> dict[str, int]:
        """How many notes there are of each kind."""
        return dict(self._fetch("SELECT kind, count(*) FROM notes GROUP BY kind"))

    def set_control(self, name: str, value: Any, *, at_s: int) -> None:
        """What the operator asks a running daemon for; None takes it back."""
        if value is None:
            self._execute("DELETE FROM controls WHERE name = ?", (name,))
            return
        self._execute(
            "INSERT OR REPLACE INTO controls (name, value, set_at_s) VALUES (?, ?, ?)", (name, json.dumps(value), at_s)
        )

    def controls(self) -> dict[str, Any]:
        """Everything that the operator asks for."""
        return {name: json.loads(value) for name, value in self._fetch("SELECT name, value FROM controls")}

    def set_fact(self, name: str, value: Any) -> None:
        """Something that this journal is about, or has come to."""
        self._execute("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, json.dumps(value)))

    def fact(self, name: str) -> Any:
        """What is known under that name, or None."""
        found = self._value("SELECT value FROM facts WHERE name = ?", (name,))
        return None if found is None else json.loads(found)

    # Inside

    def _add_attempt(self, row: int, attempt: Attempt) -> None:
        values = (attempt.hash, row, attempt.raw, attempt.max_fee_wei, attempt.tip_wei, attempt.signed_at_s,
                  attempt.last_valid_block_height)  # fmt: skip
        self._execute("INSERT INTO transactions (hash, decision, raw, max_fee_wei, tip_wei, signed_at_s,"
                      " last_valid_block_height) VALUES (?, ?, ?, ?, ?, ?, ?)", values)  # fmt: skip

    def _move(self, row: int, after: str, **columns: Any) -> None:
        allowed = _BEFORE[after]
        assignments = ", ".join(f"{column} = ?" for column in ("state", *columns))
        marks = ", ".join("?" for _ in allowed)
        with self.transaction():
            changed = self._execute(
                f"UPDATE decisions SET {assignments} WHERE id = ? AND state IN ({marks})",
                (after, *columns.values(), row, *allowed),
            )
            if changed.rowcount != 1:
                raise ValueError(f"journal row {row} can't become {after}: it is not {' or '.join(allowed)}")
            self._committed.append(after)

    def _query(self, statement: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        with self._lock, self._usable():
            cursor = self._execute(statement, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def _fetch(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows at once: what another thread does in between is not among them."""
        with self._lock, self._usable():
            return self._execute(statement, values).fetchall()

    def _value(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """The first column of the first row, or None."""
        found = self._fetch(statement, values)
        return found[0][0] if found else None

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        with self._lock, self._usable():
            assert self._db is not None
            return self._db.execute(statement, values)

    def _rollback(self) -> None:
        self._committed.clear()
        if self._db is not None and self._db.in_transaction:
            self._execute("ROLLBACK")

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise self._unusable(error) from error
            message = f"another process writes the journal {self.path} for more than {_BUSY_TIMEOUT_S} s"
            raise Retryable(message) from error
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> Misconfigured | Halted:
        """A disk that is full, or that fails for a moment, is no wrong setting: the process stays until it is over."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return Halted(f"the journal {self.path} can't be written or read: {error}; make room on its disk")
        return Misconfigured(f"the journal {self.path} can't be used: {error}; name another file")


_ATTEMPT = ("hash", "raw", "max_fee_wei", "tip_wei", "signed_at_s", "last_valid_block_height")
_UNFINISHED = tuple(
    "id vault sequence state account account_nonce deadline_s block_number block_hash outcome trade_id".split()
)


def _row_with_attempts(found: Sequence[Sequence[Any]]) -> Unfinished:
    """Of one decision: its columns, which are the same in each row, and one transaction in each."""
    width = len(_UNFINISHED)
    attempts = tuple(Attempt(**dict(zip(_ATTEMPT, row[width:], strict=True))) for row in found)
    return Unfinished(**dict(zip(_UNFINISHED, found[0][:width], strict=True)), attempts=attempts)


def _lock_file(path: Path) -> Any:
    """A lock that ends with the process, however it ends. Raises Misconfigured when another process has it."""
    path = path.resolve()  # one file by another name is the same file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(path.name + ".lock").open("w")
    except OSError as error:
        raise Misconfigured(f"the journal {path} can't be locked: {error}; name another file") from error
    for left in reversed(range(_LOCK_TRIES)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if left:  # `status` holds it for an instant, to see whether a daemon does
                time.sleep(_LOCK_PAUSE_S)
                continue
            file.close()
            raise Misconfigured(f"another daemon runs on the journal {path}: stop it, or name another file") from None
    return file
