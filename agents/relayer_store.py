"""What a relayer has on disk: the ballots it took, and every transaction before a node sees it.

A ballot's id is what was signed (`ballots.ballot_digest`), so the same vote is there once. A batch is one nonce of the
relayer's account; its ballots, the nonce and the first signed bytes are written in one transaction, and each
replacement at the same nonce before it is sent. A restart sends the same bytes again.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.errors import Misconfigured

# queued -> sent -> mined, or failed; sent -> queued when its transaction can no longer be mined.
QUEUED, SENT, MINED, FAILED = "queued", "sent", "mined", "failed"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS relayer (chain_id INTEGER NOT NULL, dao TEXT NOT NULL, account TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS ballots (
    id TEXT PRIMARY KEY, document TEXT NOT NULL, voter TEXT NOT NULL, received_at_s INTEGER NOT NULL,
    status TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, batch INTEGER, block INTEGER, transaction_hash TEXT,
    reason TEXT
);
CREATE INDEX IF NOT EXISTS ballots_by_status ON ballots (status, received_at_s);
CREATE INDEX IF NOT EXISTS ballots_by_voter ON ballots (voter, status);
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT, nonce INTEGER NOT NULL, state TEXT NOT NULL, opened_at_s INTEGER NOT NULL,
    block INTEGER, block_hash TEXT, cost_wei TEXT
);
CREATE TABLE IF NOT EXISTS transactions (
    hash TEXT PRIMARY KEY, batch INTEGER NOT NULL, raw BLOB NOT NULL, tip_wei TEXT NOT NULL, max_fee_wei TEXT NOT NULL,
    signed_at_s INTEGER NOT NULL
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBallot:
    id: str
    document: Mapping[str, Any]
    status: str
    attempts: int
    block: int | None
    transaction: str | None
    reason: str | None

    def to_dict(self) -> dict[str, Any]:
        """As the API answers."""
        return {
            "id": self.id, "status": self.status, "transaction": self.transaction, "block": self.block,
            "reason": self.reason, "proposal_id": self.document["proposal_id"], "voter": self.document["voter"],
            "support": self.document["support"],
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedTransaction:
    hash: str
    raw: bytes
    tip_wei: int
    max_fee_wei: int
    signed_at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One nonce: the ballots in it, and every transaction that was signed for it, oldest first."""

    id: int
    nonce: int
    opened_at_s: int
    ballots: tuple[StoredBallot, ...]
    transactions: tuple[SignedTransaction, ...]
    block: int | None
    block_hash: str | None


class RelayerStore:
    """One file, one process. Everything that changes is one transaction, on disk when it returns."""

    def __init__(self, path: Path, *, chain_id: int, dao: str, account: str) -> None:
        """Raises Misconfigured when the file is of another DAO or account, is in use, or can't be opened."""
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=0.2)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            self._claim(chain_id, dao, account, path)
        except Misconfigured:
            self._close_opened()
            raise
        except (OSError, sqlite3.Error) as error:
            self._close_opened()
            raise Misconfigured(
                f"the relayer's file {path} can't be used ({error}): another relayer may have it; name another with "
                "--store"
            ) from error

    def _claim(self, chain_id: int, dao: str, account: str, path: Path) -> None:
        with self._write() as db:
            row = db.execute("SELECT chain_id, dao, account FROM relayer").fetchone()
            if row is None:
                db.execute("INSERT INTO relayer VALUES (?, ?, ?)", (chain_id, dao, account))
            elif tuple(row) != (chain_id, dao, account):
                raise Misconfigured(
                    f"{path} belongs to a relayer of DAO {row['dao']} on chain {row['chain_id']} with account "
                    f"{row['account']}: name another file with --store"
                )

    def _close_opened(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # Ballots

    def add(self, ballot_id: str, document: Mapping[str, Any], *, now_s: int) -> StoredBallot:
        """Queues a ballot, again when it failed before; one that is there otherwise stays as it is."""
        with self._write() as db:
            db.execute(
                "INSERT INTO ballots (id, document, voter, received_at_s, status) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET status = excluded.status, document = excluded.document, "
                "received_at_s = excluded.received_at_s, attempts = 0, reason = NULL WHERE ballots.status = ?",
                (ballot_id, json.dumps(document), document["voter"], now_s, QUEUED, FAILED),
            )
        found = self.ballot(ballot_id)
        assert found is not None
        return found

    def ballot(self, ballot_id: str) -> StoredBallot | None:
        with self._lock:
            row = self._db.execute("SELECT * FROM ballots WHERE id = ?", (ballot_id,)).fetchone()
        return _ballot(row) if row else None

    def waiting_of(self, voter: str) -> list[StoredBallot]:
        """The voter's ballots that are not decided yet."""
        sql = "SELECT * FROM ballots WHERE voter = ? AND status IN (?, ?)"
        with self._lock:
            return [_ballot(row) for row in self._db.execute(sql, (voter, QUEUED, SENT))]

    def queued(self, most: int) -> list[StoredBallot]:
        """Oldest first."""
        sql = "SELECT * FROM ballots WHERE status = ? ORDER BY received_at_s, rowid LIMIT ?"
        with self._lock:
            return [_ballot(row) for row in self._db.execute(sql, (QUEUED, most))]

    def count(self, status: str) -> int:
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM ballots WHERE status = ?", (status,)).fetchone()[0])

    def fail(self, ballot_id: str, reason: str) -> None:
        with self._write() as db:
            db.execute("UPDATE ballots SET status = ?, reason = ? WHERE id = ?", (FAILED, reason, ballot_id))

    def try_again(self, ballot_id: str) -> None:
        """Counted as an attempt: it will be alone."""
        with self._write() as db:
            _requeue(db, [ballot_id])

    # Batches

    def open_batch(self, nonce: int, ballots: Sequence[str], transaction: SignedTransaction) -> None:
        """Nonce, bytes and ballots, before any node sees them."""
        with self._write() as db:
            cursor = db.execute(
                "INSERT INTO batches (nonce, state, opened_at_s) VALUES (?, 'open', ?)",
                (nonce, transaction.signed_at_s),
            )
            batch = cursor.lastrowid
            marks = [(SENT, batch, transaction.hash, ballot) for ballot in ballots]
            db.executemany("UPDATE ballots SET status = ?, batch = ?, transaction_hash = ? WHERE id = ?", marks)
            _insert(db, batch, transaction)

    def replace(self, batch: Batch, transaction: SignedTransaction) -> None:
        """Another transaction at the batch's nonce."""
        with self._write() as db:
            _insert(db, batch.id, transaction)

    def batches(self, state: str, *, since_block: int = 0) -> list[Batch]:
        """Those that are `open`, or were `mined` in that block or later."""
        sql = "SELECT * FROM batches WHERE state = ? AND (state = 'open' OR block >= ?) ORDER BY nonce"
        with self._lock:
            return [self._batch(row) for row in self._db.execute(sql, (state, since_block)).fetchall()]

    def settle(
        self, batch: Batch, *, transaction: str, block: int, block_hash: str, cost_wei: int, counted: Sequence[str],
        failed: Mapping[str, str], again: Sequence[str],
    ) -> None:  # fmt: skip
        """The batch was mined: which ballots were counted, which failed and why, and which are to be tried again."""
        with self._write() as db:
            db.execute(
                "UPDATE batches SET state = 'mined', block = ?, block_hash = ?, cost_wei = ? WHERE id = ?",
                (block, block_hash, str(cost_wei), batch.id),
            )
            done = "UPDATE ballots SET status = ?, block = ?, transaction_hash = ?, reason = ? WHERE id = ?"
            db.executemany(done, [(MINED, block, transaction, None, ballot) for ballot in counted])
            db.executemany(done, [(FAILED, block, transaction, why, ballot) for ballot, why in failed.items()])
            _requeue(db, again)

    def reopen(self, batch: Batch) -> None:
        """The block that had it is gone: it has to be mined again."""
        with self._write() as db:
            db.execute("UPDATE batches SET state = 'open', block = NULL, block_hash = NULL WHERE id = ?", (batch.id,))
            back = "UPDATE ballots SET status = ?, block = NULL, reason = NULL WHERE batch = ? AND status IN (?, ?)"
            db.execute(back, (SENT, batch.id, MINED, FAILED))

    def abandon(self, batch: Batch) -> None:
        """Something else used its nonce: its ballots wait for another."""
        with self._write() as db:
            db.execute("UPDATE batches SET state = 'void' WHERE id = ?", (batch.id,))
            _requeue(db, [ballot.id for ballot in batch.ballots if ballot.status == SENT])

    def spent_since_wei(self, since_s: int) -> int:
        """What transactions cost that were signed since then and mined."""
        sql = "SELECT cost_wei FROM batches WHERE state = 'mined' AND opened_at_s >= ?"
        with self._lock:
            return sum(int(row[0]) for row in self._db.execute(sql, (since_s,)))

    def _batch(self, row: sqlite3.Row) -> Batch:
        ballots = self._db.execute("SELECT * FROM ballots WHERE batch = ? ORDER BY rowid", (row["id"],))
        signed = self._db.execute("SELECT * FROM transactions WHERE batch = ? ORDER BY rowid", (row["id"],))
        return Batch(
            id=row["id"], nonce=row["nonce"], opened_at_s=row["opened_at_s"], block=row["block"],
            block_hash=row["block_hash"], ballots=tuple(map(_ballot, ballots)),
            transactions=tuple(
                SignedTransaction(
                    hash=s["hash"], raw=bytes(s["raw"]), tip_wei=int(s["tip_wei"]), max_fee_wei=int(s["max_fee_wei"]),
                    signed_at_s=s["signed_at_s"],
                )
                for s in signed
            ),
        )  # fmt: skip

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def _insert(db: sqlite3.Connection, batch: int | None, t: SignedTransaction) -> None:
    values = (t.hash, batch, t.raw, str(t.tip_wei), str(t.max_fee_wei), t.signed_at_s)
    db.execute("INSERT INTO transactions VALUES (?, ?, ?, ?, ?, ?)", values)


def _requeue(db: sqlite3.Connection, ballots: Sequence[str]) -> None:
    sql = (
        "UPDATE ballots SET status = ?, batch = NULL, block = NULL, transaction_hash = NULL, attempts = attempts + 1 "
        "WHERE id = ?"
    )
    db.executemany(sql, [(QUEUED, ballot) for ballot in ballots])


def _ballot(row: sqlite3.Row) -> StoredBallot:
    return StoredBallot(
        id=row["id"], document=json.loads(row["document"]), status=row["status"], attempts=row["attempts"],
        block=row["block"], transaction=row["transaction_hash"], reason=row["reason"],
    )  # fmt: skip
