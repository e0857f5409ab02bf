"""What the agent decided and did, written down before it is done.

One row for each decision that wants a trade. States: intent → refused | signed → sent → mined, and mined says how it
ended: traded, refused (by the vault) or reverted. The raw signed transaction is stored before it is sent, so a restart
sends the same one again instead of signing another. An intent that was never signed is over: nothing can come of it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from agents.errors import Misconfigured

_SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
    id INTEGER PRIMARY KEY,
    vault TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    block INTEGER NOT NULL,
    decided_at_s INTEGER NOT NULL,
    explanation_hash TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('intent', 'refused', 'signed', 'sent', 'mined')),
    broken TEXT NOT NULL DEFAULT '[]',
    account TEXT,
    account_nonce INTEGER,
    raw BLOB,
    transaction_hash TEXT,
    outcome TEXT,
    trade_id TEXT,
    detail TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS unfinished ON decisions (state) WHERE state IN ('signed', 'sent');
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A transaction that was signed and whose end is not known."""

    id: int
    vault: str
    raw: bytes
    transaction_hash: str


class Journal:
    """An SQLite file in write-ahead mode; every method is one transaction, on disk when it returns.

    Raises Misconfigured, here and in every method, when the file can't be read or written.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = path
        with self._usable():
            if path != ":memory:":
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None)
        try:
            self._execute("PRAGMA journal_mode=WAL")
            self._execute("PRAGMA synchronous=FULL")
            with self._usable():
                self._db.executescript(_SCHEMA)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Calling it again does nothing."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open_intent(self, *, vault: str, sequence: int, block: int, decided_at_s: int, explanation_hash: str) -> int:
        """A new row in state intent; its id."""
        cursor = self._execute(
            "INSERT INTO decisions (vault, sequence, block, decided_at_s, explanation_hash, state)"
            " VALUES (?, ?, ?, ?, ?, 'intent')",
            (vault, sequence, block, decided_at_s, explanation_hash),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def refuse(self, row: int, broken: Sequence[tuple[str, str]]) -> None:
        """The review said no: intent → refused, with the clauses and their numbers."""
        self._move(row, "intent", "refused", broken=json.dumps(list(broken)))

    def sign(self, row: int, *, account: str, account_nonce: int, raw: bytes, transaction_hash: str) -> None:
        """intent → signed, with everything needed to send it again."""
        self._move(
            row, "intent", "signed",
            account=account, account_nonce=account_nonce, raw=raw, transaction_hash=transaction_hash,
        )  # fmt: skip

    def sent(self, row: int) -> None:
        """signed → sent; sent again stays sent."""
        self._move(row, ("signed", "sent"), "sent")

    def mined(self, row: int, outcome: str, *, trade_id: str | None = None, detail: str = "") -> None:
        """sent → mined, ended as traded, refused or reverted."""
        self._move(row, "sent", "mined", outcome=outcome, trade_id=trade_id, detail=detail)

    def unfinished(self) -> list[Unfinished]:
        """Signed transactions whose end is not known, oldest first: to be sent again before anything else."""
        rows = self._execute(
            "SELECT id, vault, raw, transaction_hash FROM decisions"
            " WHERE state IN ('signed', 'sent') AND length(raw) > 0 ORDER BY id"  # what is on paper has no bytes
        )
        return [Unfinished(id=i, vault=vault, raw=raw, transaction_hash=h) for i, vault, raw, h in rows]

    def rows(self, **where: Any) -> list[dict[str, Any]]:
        """Rows in order of decision, as dicts; `where` compares columns."""
        condition = " AND ".join(f"{column} = ?" for column in where) or "1"
        cursor = self._execute(f"SELECT * FROM decisions WHERE {condition} ORDER BY id", tuple(where.values()))
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def _move(self, row: int, before: str | tuple[str, ...], after: str, **columns: Any) -> None:
        allowed = (before,) if isinstance(before, str) else before
        assignments = ", ".join(f"{column} = ?" for column in ("state", *columns))
        marks = ", ".join("?" for _ in allowed)
        changed = self._execute(
            f"UPDATE decisions SET {assignments} WHERE id = ? AND state IN ({marks})",
            (after, *columns.values(), row, *allowed),
        )
        if changed.rowcount != 1:
            raise ValueError(f"journal row {row} can't become {after}: it is not {' or '.join(allowed)}")

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        with self._usable():
            return self._db.execute(statement, values)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            message = f"the journal {self._path} can't be used: {error}; name another file or make room"
            raise Misconfigured(message) from error
