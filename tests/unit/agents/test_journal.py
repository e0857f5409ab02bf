"""The journal knows what was decided before it is done, and forgets nothing that is on disk."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.errors import Misconfigured
from agents.journal import Journal, Unfinished

VAULT = "0x" + "e" * 40
SIGNED = {"account": "0xkey", "account_nonce": 7, "raw": b"\x02raw", "transaction_hash": "0xhash"}


def open_row(journal: Journal, **over: Any) -> int:
    intent = {"vault": VAULT, "sequence": 3, "block": 100, "decided_at_s": 1_750_000_000, "explanation_hash": "0xwhy"}
    return journal.open_intent(**intent | over)


def advance(journal: Journal, row: int, *states: str) -> None:
    steps: dict[str, Callable[[], None]] = {
        "refused": lambda: journal.refuse(row, [("turnover", "2, the limit is 1")]),
        "signed": lambda: journal.sign(row, **SIGNED),
        "sent": lambda: journal.sent(row),
        "mined": lambda: journal.mined(row, "traded", trade_id="0xtrade", detail="fine"),
    }
    for state in states:
        steps[state]()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "journal.sqlite"


# Transitions

PATHS: dict[str, tuple[str, ...]] = {
    "intent": (),
    "refused": ("refused",),
    "signed": ("signed",),
    "sent": ("signed", "sent"),
    "mined": ("signed", "sent", "mined"),
}
ALLOWED = {("intent", "refused"), ("intent", "signed"), ("signed", "sent"), ("sent", "sent"), ("sent", "mined")}


@pytest.mark.parametrize("before", PATHS)
@pytest.mark.parametrize("after", ["refused", "signed", "sent", "mined"])
def test_only_the_transitions_that_happen_are_allowed(before: str, after: str) -> None:
    with Journal(":memory:") as journal:
        row = open_row(journal)
        advance(journal, row, *PATHS[before])
        kept = journal.rows()
        if (before, after) in ALLOWED:
            advance(journal, row, after)
            assert journal.rows()[0]["state"] == after
        else:
            with pytest.raises(ValueError, match=f"journal row {row} can't become {after}: it is not "):
                advance(journal, row, after)
            assert journal.rows() == kept


def test_a_row_that_does_not_exist_becomes_nothing() -> None:
    with Journal(":memory:") as journal, pytest.raises(ValueError, match="journal row 42 can't become signed"):
        journal.sign(42, **SIGNED)


def test_a_decision_is_told_from_its_intent_to_its_end() -> None:
    with Journal(":memory:") as journal:
        row = open_row(journal)
        advance(journal, row, "signed", "sent", "mined")
        assert journal.rows() == [
            {
                "id": row, "vault": VAULT, "sequence": 3, "block": 100, "decided_at_s": 1_750_000_000,
                "explanation_hash": "0xwhy", "state": "mined", "broken": "[]", "account": "0xkey", "account_nonce": 7,
                "raw": b"\x02raw", "transaction_hash": "0xhash", "outcome": "traded", "trade_id": "0xtrade",
                "detail": "fine",
            }
        ]  # fmt: skip


def test_a_refused_intent_is_kept_with_its_clauses_and_their_numbers() -> None:
    with Journal(":memory:") as journal:
        journal.refuse(open_row(journal), [("turnover", "2, the limit is 1"), ("position", "9, the limit is 8")])
        [row] = journal.rows(state="refused")
        assert json.loads(row["broken"]) == [["turnover", "2, the limit is 1"], ["position", "9, the limit is 8"]]


def test_rows_are_found_by_what_they_say_in_the_order_they_were_written() -> None:
    with Journal(":memory:") as journal:
        rows = [open_row(journal, sequence=n % 2) for n in range(4)]
        advance(journal, rows[2], "refused")
        assert [row["id"] for row in journal.rows()] == rows
        assert [row["id"] for row in journal.rows(sequence=0)] == [rows[0], rows[2]]
        assert [row["id"] for row in journal.rows(sequence=0, state="refused")] == [rows[2]]
        assert journal.rows(vault="another") == []


# After a restart


def test_what_is_written_survives_a_restart(path: Path) -> None:
    with Journal(path) as journal:
        for states in PATHS.values():
            advance(journal, open_row(journal), *states)
        written = journal.rows()
    with Journal(path) as journal:
        assert journal.rows() == written


def test_what_is_written_is_there_when_the_process_dies(path: Path) -> None:
    """Never closed: another connection sees all of it at once."""
    journal = Journal(path)
    advance(journal, open_row(journal), "signed")
    with Journal(path) as other:
        assert other.rows() == journal.rows()
    journal.close()


def test_signed_and_sent_transactions_are_unfinished_oldest_first(path: Path) -> None:
    with Journal(path) as journal:
        rows = {state: open_row(journal) for state in PATHS}
        for state, row in rows.items():
            advance(journal, row, *PATHS[state])
    with Journal(path) as journal:
        unfinished = {"vault": VAULT, "raw": b"\x02raw", "transaction_hash": "0xhash"}
        assert journal.unfinished() == [
            Unfinished(id=rows["signed"], **unfinished), Unfinished(id=rows["sent"], **unfinished)
        ]  # fmt: skip
        advance(journal, rows["signed"], "sent", "mined")
        advance(journal, rows["sent"], "sent", "mined")
        assert journal.unfinished() == []


def test_what_is_on_paper_only_is_never_sent_after_a_restart() -> None:
    with Journal(":memory:") as journal:
        journal.sign(open_row(journal), account="paper", account_nonce=0, raw=b"", transaction_hash="")
        assert journal.unfinished() == []


# A file that can't be used


def test_a_path_that_can_not_be_made_is_misconfigured_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path / "file" / "journal.sqlite", tmp_path):
        with pytest.raises(Misconfigured, match=f"the journal {path} can't be used: .*; name another file") as caught:
            Journal(path)
        assert "\n" not in str(caught.value)


def test_a_file_that_is_no_journal_is_misconfigured_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, and no database\n" * 100)
    with pytest.raises(Misconfigured, match="file is not a database"):
        Journal(path)
    assert path.read_text().startswith("these are my notes")


def test_a_full_disk_is_misconfigured_and_writes_nothing_half(path: Path) -> None:
    with Journal(path) as journal:
        row = open_row(journal)
        _allow_no_more_pages(journal)
        with pytest.raises(Misconfigured, match=r"can't be used: .*full; name another file or make room"):
            journal.sign(row, **SIGNED | {"raw": b"x" * 100_000})
        assert [r["state"] for r in journal.rows()] == ["intent"]


def _allow_no_more_pages(journal: Journal) -> None:
    """As a disk that is full: SQLite's own limit has the same effect."""
    connection: sqlite3.Connection = journal._db
    connection.execute("PRAGMA max_page_count = 1")
