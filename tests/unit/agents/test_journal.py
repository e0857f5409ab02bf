"""The journal knows what was decided before it is done, and forgets nothing that is on disk."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.errors import Halted, Misconfigured, Retryable
from agents.journal import PAPER, SCHEMA_VERSION, Attempt, Journal, NewDecision, Note
from oracle.chain import BlockRef

VAULT, ACCOUNT = "0x" + "e" * 40, "0xkey"
STATES = ("intent", "reviewed", "refused", "abandoned", "signed", "sent", "mined", "final")
CHECKPOINT = BlockRef(number=90, hash="0x90", timestamp_s=1)


class Crash(BaseException):
    """The process dies."""


def open_row(journal: Journal, **over: Any) -> int:
    intent = {"vault": VAULT, "sequence": 3, "block": 100, "decided_at_s": 1_750_000_000, "explanation_hash": "0xwhy"}
    return journal.open_intent(**intent | over)


def sign(journal: Journal, row: int, *, nonce: int | None = None, account: str = ACCOUNT, **over: Any) -> None:
    number = row if nonce is None else nonce
    raw, name = b"\x02raw %d" % row, f"0xhash {row}"
    fields = {"account": account, "account_nonce": number, "raw": raw, "transaction_hash": name}
    journal.sign(row, **fields | over)


def mine(journal: Journal, row: int, block: int = 110, outcome: str = "traded", **over: Any) -> None:
    fields: dict[str, Any] = {"trade_id": f"0xtrade {row}", "detail": "fine", "block_hash": f"0x{block}"}
    journal.mined(row, outcome, block_number=block, **fields | over)


def advance(journal: Journal, row: int, *states: str) -> None:
    steps: dict[str, Callable[[], object]] = {
        "reviewed": lambda: journal.reviewed(row),
        "refused": lambda: journal.refuse(row, [("turnover", "2, the limit is 1")]),
        "abandoned": lambda: journal.abandon_unsigned(at_s=1),
        "signed": lambda: sign(journal, row),
        "sent": lambda: journal.sent(row),
        "mined": lambda: mine(journal, row),
        "final": lambda: journal.finalise(row),
    }
    for state in states:
        steps[state]()


def row_at(journal: Journal, state: str, **over: Any) -> int:
    row = open_row(journal, **over)
    advance(journal, row, *PATHS[state])
    return row


def state_of(journal: Journal, row: int) -> str:
    return str(journal.rows(id=row)[0]["state"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "journal.sqlite"


# Transitions

PATHS: dict[str, tuple[str, ...]] = {
    "intent": (),
    "reviewed": ("reviewed",),
    "refused": ("reviewed", "refused"),
    "abandoned": ("abandoned",),
    "signed": ("reviewed", "signed"),
    "sent": ("reviewed", "signed", "sent"),
    "mined": ("reviewed", "signed", "sent", "mined"),
    "final": ("reviewed", "signed", "sent", "mined", "final"),
}
ALLOWED = {
    ("intent", "reviewed"), ("intent", "refused"), ("reviewed", "refused"), ("reviewed", "signed"),
    ("signed", "sent"), ("signed", "mined"), ("sent", "sent"), ("sent", "mined"), ("mined", "mined"),
    ("mined", "final"),
}  # fmt: skip


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("after", ["reviewed", "refused", "signed", "sent", "mined", "final"])
def test_only_the_transitions_that_happen_are_allowed(before: str, after: str) -> None:
    with Journal(":memory:") as journal:
        row = row_at(journal, before)
        kept, attempts = journal.rows(), journal.attempts(row)
        if (before, after) in ALLOWED:
            advance(journal, row, after)
            assert state_of(journal, row) == after
        else:
            with pytest.raises(ValueError, match=f"journal row {row} can't (become {after}|have nonce)"):
                advance(journal, row, after)
            assert (journal.rows(), journal.attempts(row)) == (kept, attempts)


@pytest.mark.parametrize("before", STATES)
def test_a_restart_abandons_what_was_never_signed_and_nothing_else(before: str) -> None:
    with Journal(":memory:") as journal:
        row = row_at(journal, before)
        is_unsigned = before in ("intent", "reviewed")
        notes = len(journal.notes())
        assert journal.abandon_unsigned(at_s=5) == is_unsigned
        assert state_of(journal, row) == ("abandoned" if is_unsigned else before)
        assert len(journal.notes()) == notes + is_unsigned
        assert journal.abandon_unsigned(at_s=6) == 0


def test_a_row_that_does_not_exist_becomes_nothing() -> None:
    with Journal(":memory:") as journal:
        with pytest.raises(ValueError, match="journal row 42 can't become signed"):
            sign(journal, 42)
        with pytest.raises(ValueError, match="journal row 42 can't be bumped: it is missing"):
            journal.bump(42, Attempt(hash="0x1", raw=b"1"))
        assert (journal.rows(), journal.decision_of("0xhash 42")) == ([], None)


def test_a_decision_is_told_from_its_intent_to_its_end() -> None:
    with Journal(":memory:") as journal:
        row = row_at(journal, "final", deadline_s=1_750_000_600)
        assert journal.rows() == [
            {
                "id": row, "kind": "trade", "vault": VAULT, "sequence": 3, "block": 100,
                "decided_at_s": 1_750_000_000, "deadline_s": 1_750_000_600, "explanation_hash": "0xwhy",
                "state": "final", "broken": "[]", "account": ACCOUNT, "account_nonce": row,
                "transaction_hash": f"0xhash {row}", "block_number": 110, "block_hash": "0x110", "outcome": "traded",
                "trade_id": f"0xtrade {row}", "detail": "fine",
            }
        ]  # fmt: skip
        assert journal.attempts(row) == [Attempt(hash=f"0xhash {row}", raw=b"\x02raw %d" % row)]


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
        assert [row["id"] for row in journal.latest(3)] == rows[:0:-1]
        assert journal.latest(3, vault="another") == []


def test_many_decisions_are_written_at_once_with_their_explanations() -> None:
    new = NewDecision(
        vault=VAULT, sequence=1, block=7, decided_at_s=70, deadline_s=80, explanation_hash="0xa", document=b"why"
    )
    denied = NewDecision(
        vault="0xother", sequence=2, block=7, decided_at_s=71, explanation_hash="0xb", broken=(("dust", "1 < 2"),)
    )
    with Journal(":memory:") as journal:
        first, second, third = journal.record([new, denied, new])
        assert [state_of(journal, row) for row in (first, second, third)] == ["reviewed", "refused", "reviewed"]
        assert (journal.document("0xa"), journal.document("0xb")) == (b"why", None)
        assert journal.rows(id=first)[0]["deadline_s"] == 80
        assert journal.last_decided() == {"0xother": 71}, "what was never signed is decided about again"
        assert journal.counts() == {"reviewed": 2, "refused": 1}


# Nonces


def test_a_nonce_that_was_given_out_is_given_to_nothing_else() -> None:
    with Journal(":memory:") as journal:
        assert journal.next_nonce(ACCOUNT, 4) == 4
        first, second = row_at(journal, "reviewed"), row_at(journal, "reviewed")
        sign(journal, first, nonce=4)
        assert journal.next_nonce(ACCOUNT, 4) == 5
        assert journal.next_nonce(ACCOUNT, 9) == 9, "a foreign transaction has used those in between"
        assert journal.next_nonce("0xanother", 2) == 2
        assert [journal.gave_out(ACCOUNT, nonce) for nonce in (3, 4, 5)] == [False, True, False]
        with pytest.raises(ValueError, match=f"journal row {second} can't have nonce 4 of {ACCOUNT}: another has it"):
            sign(journal, second, nonce=4)
        assert state_of(journal, second) == "reviewed"
        sign(journal, second, nonce=4, account="0xanother")


def test_paper_has_as_many_nonces_as_it_likes() -> None:
    with Journal(":memory:") as journal:
        for _ in range(2):
            journal.sign(row_at(journal, "reviewed"), account=PAPER, account_nonce=0, raw=b"", transaction_hash="")
        assert journal.next_nonce(PAPER, 3) == 3


# Fees are raised


@pytest.mark.parametrize("before", [state for state in STATES if state not in ("signed", "sent")])
def test_only_what_waits_is_bumped(before: str) -> None:
    with Journal(":memory:") as journal:
        row = row_at(journal, before)
        with pytest.raises(ValueError, match=f"journal row {row} can't be bumped: it is {before}"):
            journal.bump(row, Attempt(hash="0xmore", raw=b"more"))
        assert journal.note_counts().get("bumped") is None


@pytest.mark.parametrize("before", ["signed", "sent"])
def test_a_bump_is_one_more_transaction_of_the_same_decision(before: str) -> None:
    with Journal(":memory:") as journal:
        row = row_at(journal, before)
        more = Attempt(hash="0xmore", raw=b"more", max_fee_wei=11, tip_wei=2, signed_at_s=99)
        journal.bump(row, more)
        [left] = journal.unfinished()
        assert (left.last, len(left.attempts), left.account_nonce, left.state) == (more, 2, row, before)
        assert left.attempts == tuple(journal.attempts(row))
        assert journal.decision_of("0xmore") == journal.decision_of(f"0xhash {row}") == row
        assert journal.rows()[0]["transaction_hash"] == "0xmore"
        assert journal.note_counts() == {"bumped": 1}


def test_the_transaction_that_was_mined_is_the_decisions(path: Path) -> None:
    with Journal(path) as journal:
        row = row_at(journal, "sent")
        journal.bump(row, Attempt(hash="0xmore", raw=b"more"))
        mine(journal, row, transaction_hash=f"0xhash {row}")
        assert journal.rows()[0]["transaction_hash"] == f"0xhash {row}"


# Reorgs and finality


def test_a_block_that_is_gone_takes_back_what_was_mined_in_it_and_nothing_else() -> None:
    with Journal(":memory:") as journal:
        gone, other, final = (row_at(journal, "sent") for _ in range(3))
        mine(journal, gone, 110)
        mine(journal, other, 109)
        mine(journal, final, 110)
        journal.finalise(final)
        assert journal.unmine_block("0x110", at_s=5) == 1
        [row] = journal.rows(id=gone)
        taken_back = ("outcome", "trade_id", "detail", "block_number", "block_hash")
        assert (row["state"], [row[name] for name in taken_back]) == ("sent", [None] * 5)
        assert (state_of(journal, other), state_of(journal, final)) == ("mined", "final")
        assert [left.id for left in journal.unfinished()] == [gone]
        assert journal.note_counts() == {"reorged": 1}
        assert journal.unmine_block("0x110", at_s=6) == 0


def test_mined_again_it_may_end_otherwise() -> None:
    with Journal(":memory:") as journal:
        row = row_at(journal, "mined")
        journal.unmine_block("0x110", at_s=5)
        mine(journal, row, 112, "reverted", trade_id=None)
        [found] = journal.rows()
        assert (found["outcome"], found["trade_id"], found["block_number"]) == ("reverted", None, 112)


def adopt(journal: Journal, **over: Any) -> int:
    fields: dict[str, Any] = {
        "vault": VAULT, "sequence": 8, "block": 110, "block_hash": "0x110", "explanation_hash": "0xwhy",
        "trade_id": "0xforeign", "transaction_hash": "0xtheirs", "at_s": 7,
    }  # fmt: skip
    return journal.adopt(**fields | over)


def test_an_adopted_trade_counts_and_vanishes_with_its_block() -> None:
    with Journal(":memory:") as journal:
        adopted, ours = adopt(journal), row_at(journal, "mined")
        assert state_of(journal, adopted) == "mined"
        assert journal.known_trades(["0xforeign", f"0xtrade {ours}", "0xelse"]) == {"0xforeign", f"0xtrade {ours}"}
        assert journal.trades(up_to_block=110) == {VAULT: 2}
        assert journal.mined_up_to(110) == [adopted, ours]
        assert [row.id for row in journal.mined_with_transactions(110)] == [ours]
        assert journal.unmine_block("0x110", at_s=8) == 2
        assert [(row["id"], row["state"]) for row in journal.rows()] == [(ours, "sent")]
        assert journal.known_trades(["0xforeign"]) == set()


def test_what_is_deep_enough_is_final_and_the_checkpoint_only_goes_on() -> None:
    with Journal(":memory:") as journal:
        row = row_at(journal, "mined")
        assert (journal.mined_up_to(109), journal.mined_up_to(110)) == ([], [row])
        journal.finalise(row, checkpoint=CHECKPOINT)
        assert journal.fact("checkpoint") == {"number": 90, "hash": "0x90"}
        journal.finalise(checkpoint=BlockRef(number=80, hash="0x80", timestamp_s=1))
        assert journal.fact("checkpoint")["number"] == 90
        journal.finalise(checkpoint=BlockRef(number=91, hash="0x91", timestamp_s=1))
        assert journal.fact("checkpoint")["number"] == 91
        assert (journal.mined_blocks(), journal.mined_up_to(110)) == ([], [])


def test_what_was_final_is_looked_at_again_after_a_repair() -> None:
    with Journal(":memory:") as journal:
        early, late = (row_at(journal, "sent") for _ in range(2))
        mine(journal, early, 50)
        mine(journal, late, 60)
        journal.finalise(early, late, checkpoint=CHECKPOINT)
        journal.set_fact("ledger cursor", 70)
        journal.set_fact("chain id", 1)
        assert journal.reopen(50, at_s=9) == 1
        assert (state_of(journal, early), state_of(journal, late)) == ("final", "mined")
        assert [journal.fact(name) for name in ("checkpoint", "ledger cursor", "chain id")] == [None, None, 1]
        assert journal.note_counts() == {"repaired": 1}


def test_only_an_end_as_replaced_may_turn_out_to_be_wrong() -> None:
    with Journal(":memory:") as journal:
        replaced, traded = (row_at(journal, "sent") for _ in range(2))
        mine(journal, replaced, outcome="replaced", trade_id=None)
        mine(journal, traded)
        assert [row.id for row in journal.replaced()] == [replaced]
        journal.finalise(replaced)
        assert journal.replaced() == []


def test_a_vault_is_in_flight_until_its_order_is_in_a_block_that_the_reader_has() -> None:
    with Journal(":memory:") as journal:
        for state in STATES:
            row_at(journal, state, vault=f"0x{state}")
        assert journal.in_flight(110) == {"0xsigned", "0xsent"}
        assert journal.in_flight(109) == {"0xsigned", "0xsent", "0xmined"}


def test_trades_are_counted_by_vault_up_to_a_block_without_those_on_paper() -> None:
    with Journal(":memory:") as journal:
        for block, outcome in ((110, "traded"), (111, "traded"), (111, "reverted"), (111, "replaced")):
            mine(journal, row_at(journal, "sent"), block, outcome)
        paper = row_at(journal, "reviewed")
        journal.sign(paper, account=PAPER, account_nonce=0, raw=b"", transaction_hash="")
        journal.mined(paper, "traded")
        assert [journal.trades(up_to_block=block) for block in (109, 110, 111)] == [{}, {VAULT: 1}, {VAULT: 2}]


def test_a_filler_is_a_transaction_and_no_decision() -> None:
    with Journal(":memory:") as journal:
        row = journal.open_filler(vault=VAULT, block=9, at_s=90)
        assert (journal.rows()[0]["kind"], state_of(journal, row)) == ("filler", "reviewed")
        sign(journal, row, nonce=5)
        assert [left.account_nonce for left in journal.unfinished()] == [5]
        assert journal.last_decided() == {}


# Transactions


def together(journal: Journal, *steps: Callable[[], object]) -> None:
    with journal.transaction():
        for step in steps:
            with journal.transaction():
                step()


def fail() -> None:
    raise ZeroDivisionError


def test_what_is_written_together_is_there_together_or_not_at_all(path: Path) -> None:
    with Journal(path) as journal:
        with pytest.raises(ZeroDivisionError):
            together(journal, lambda: open_row(journal), lambda: open_row(journal), fail)
        assert journal.rows() == []
        together(journal, lambda: open_row(journal), lambda: open_row(journal))
        assert len(journal.rows()) == 2


def test_an_error_that_was_caught_inside_a_transaction_still_undoes_it() -> None:
    """Else half of what belongs together might be on disk."""
    with Journal(":memory:") as journal:
        row = row_at(journal, "signed")

        def caught() -> None:
            with pytest.raises(ValueError, match="can't become final"):
                journal.finalise(row)

        with pytest.raises(ValueError, match="a part of this transaction failed"):
            together(journal, caught, lambda: open_row(journal))
        assert len(journal.rows()) == 1
        open_row(journal)
        assert len(journal.rows()) == 2


def test_several_rows_are_sent_all_or_none() -> None:
    with Journal(":memory:") as journal:
        signed, intent = row_at(journal, "signed"), row_at(journal, "intent")
        with pytest.raises(ValueError, match=f"row {intent} can't become sent"):
            journal.sent(signed, intent)
        assert state_of(journal, signed) == "signed"


def test_threads_see_only_what_is_committed(path: Path) -> None:
    seen: list[int] = []
    with Journal(path) as journal:
        reader = threading.Thread(target=lambda: seen.append(len(journal.rows())))
        with journal.transaction():
            open_row(journal)
            reader.start()
            reader.join(0.05)
            assert seen == []
        reader.join()
        assert seen == [1]


def test_threads_write_without_losing_anything(path: Path) -> None:
    with Journal(path) as journal:
        threads = [
            threading.Thread(target=lambda: [row_at(journal, "reviewed") for _ in range(10)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert journal.counts() == {"reviewed": 40}


# Where a fault laboratory dies

STEPS: dict[str, tuple[str, str, Callable[[Journal, int], object]]] = {
    "intent": ("", "intent", lambda journal, _: open_row(journal)),
    "reviewed": ("intent", "reviewed", lambda journal, row: journal.reviewed(row)),
    "refused": ("reviewed", "refused", lambda journal, row: journal.refuse(row, [])),
    "abandoned": ("reviewed", "abandoned", lambda journal, _: journal.abandon_unsigned(at_s=1)),
    "signed": ("reviewed", "signed", lambda journal, row: sign(journal, row)),
    "bumped": ("sent", "sent", lambda journal, row: journal.bump(row, Attempt(hash="0x+", raw=b"+"))),
    "sent": ("signed", "sent", lambda journal, row: journal.sent(row)),
    "mined": ("sent", "mined", lambda journal, row: mine(journal, row)),
    "unmined": ("mined", "sent", lambda journal, _: journal.unmine_block("0x110", at_s=1)),
    "final": ("mined", "final", lambda journal, row: journal.finalise(row)),
    "adopted": ("", "mined", lambda journal, _: adopt(journal)),
}


def everything(journal: Journal) -> list[Any]:
    attempts = [journal.attempts(row["id"]) for row in journal.rows()]
    return [journal.rows(), attempts, journal.notes(), journal.fact("checkpoint")]


@pytest.mark.parametrize("point", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_death_before_or_after_a_transition_leaves_all_of_it_or_nothing(path: Path, point: str, when: str) -> None:
    before, after, step = STEPS[point]
    visited: list[str] = []

    def at(visit: str) -> None:
        visited.append(visit)
        if visit == f"{when} {point}":
            raise Crash

    with Journal(path) as journal:
        row = row_at(journal, before) if before else 0
        kept = everything(journal)
    with Journal(path, at=at) as journal, pytest.raises(Crash):
        step(journal, row)
    assert f"{when} {point}" in visited
    with Journal(path) as journal:
        if when == "before":
            assert everything(journal) == kept
        else:
            assert [r["state"] for r in journal.rows()] == [after]
            assert everything(journal) != kept


def test_the_points_of_a_larger_transaction_come_with_its_end() -> None:
    visited: list[str] = []
    with Journal(":memory:", at=visited.append) as journal:
        with journal.transaction():
            row = open_row(journal)
            journal.reviewed(row)
            assert visited == []
        assert visited == ["before intent", "before reviewed", "after intent", "after reviewed"]
        visited.clear()
        with pytest.raises(ZeroDivisionError):
            together(journal, lambda: sign(journal, row), fail)
        journal.note(Note.STUCK, "", "", at_s=1)
        assert visited == []


def _write_for_ever(path: Path, ready: Any) -> None:
    with Journal(path) as journal:
        while True:
            with journal.transaction():
                row = row_at(journal, "reviewed")
                sign(journal, row, nonce=journal.next_nonce(ACCOUNT, 0))
            ready.set()


def test_a_kill_in_the_middle_leaves_a_whole_journal(path: Path) -> None:
    """Each row has its transaction, and the nonces follow each other."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    writer = context.Process(target=_write_for_ever, args=(path, ready))
    writer.start()
    assert ready.wait(30)
    os.kill(writer.pid or 0, signal.SIGKILL)
    writer.join()
    with Journal(path) as journal:
        journal.check()
        left = journal.unfinished()
        assert [row.account_nonce for row in left] == list(range(len(left)))
        assert len(journal.rows()) == len(left) > 0


# After a restart


def test_what_is_written_survives_a_restart(path: Path) -> None:
    with Journal(path) as journal:
        for state in STATES:
            row_at(journal, state)
        written = everything(journal)
    with Journal(path) as journal:
        assert everything(journal) == written


def test_what_is_written_is_there_when_the_process_dies(path: Path) -> None:
    """Never closed: another connection sees all of it at once."""
    journal = Journal(path)
    row_at(journal, "signed")
    with Journal(path) as other:
        assert everything(other) == everything(journal)
    journal.close()


def test_signed_and_sent_transactions_are_unfinished_oldest_first(path: Path) -> None:
    with Journal(path) as journal:
        rows = {state: row_at(journal, state, deadline_s=77) for state in ("final", "mined", "sent", "signed")}
    with Journal(path) as journal:
        assert [(left.id, left.state, left.deadline_s) for left in journal.unfinished()] == [
            (rows["sent"], "sent", 77), (rows["signed"], "signed", 77)
        ]  # fmt: skip
        [mined] = journal.unfinished("mined")
        assert (mined.block_number, mined.block_hash, mined.outcome) == (110, "0x110", "traded")
        for row in (rows["sent"], rows["signed"]):
            mine(journal, row)
        assert journal.unfinished() == []


def test_what_is_on_paper_only_is_never_sent_after_a_restart() -> None:
    with Journal(":memory:") as journal:
        row = row_at(journal, "reviewed")
        journal.sign(row, account=PAPER, account_nonce=0, raw=b"", transaction_hash="")
        assert journal.unfinished() == []


# Beside the decisions


def test_controls_are_kept_until_they_are_taken_back(path: Path) -> None:
    with Journal(path) as journal:
        journal.set_control("paused", "for lunch", at_s=1)
        journal.set_control("paused", {"because": "dinner"}, at_s=2)
        journal.set_control("close all", True, at_s=3)
    with Journal(path) as journal:
        assert journal.controls() == {"paused": {"because": "dinner"}, "close all": True}
        journal.set_control("paused", None, at_s=4)
        journal.set_control("never set", None, at_s=4)
        assert journal.controls() == {"close all": True}


def test_facts_and_notes_are_kept(path: Path) -> None:
    with Journal(path) as journal:
        assert journal.fact("genesis") is None
        journal.set_fact("genesis", "0x1")
        journal.set_fact("genesis", "0x2")
        for number in range(3):
            journal.note(Note.FOREIGN, f"subject {number}", "detail", at_s=number)
        journal.note(Note.STUCK, "subject", "detail", at_s=9)
    with Journal(path) as journal:
        assert journal.fact("genesis") == "0x2"
        assert [note["kind"] for note in journal.notes(2)] == ["stuck", "foreign"]
        assert journal.notes(2)[0] == {"id": 4, "at_s": 9, "kind": "stuck", "subject": "subject", "detail": "detail"}
        assert journal.note_counts() == {"foreign": 3, "stuck": 1}


# One daemon


def _hold(path: Path, ready: Any, done: Any) -> None:
    with Journal(path, exclusive=True) as journal:
        open_row(journal)
        ready.set()
        done.wait(30)


def test_a_second_daemon_is_refused_until_the_first_is_gone_however_it_went(path: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    first = context.Process(target=_hold, args=(path, ready, done))
    first.start()
    assert ready.wait(30)
    (tmp_path / "link").symlink_to(path.parent)
    for name in (path, str(path), tmp_path / "link" / path.name):
        with pytest.raises(Misconfigured, match="another daemon runs on the journal"):
            Journal(name, exclusive=True)
    with Journal(path) as command:
        command.set_control("paused", "", at_s=1)  # an operator's command
        assert len(command.rows()) == 1
    os.kill(first.pid or 0, signal.SIGKILL)
    first.join()
    for _ in range(2):
        with Journal(path, exclusive=True) as journal:
            assert len(journal.rows()) == 1


def test_a_daemon_that_could_not_open_its_journal_holds_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_text("no database at all\n" * 100)
    for _ in range(2):
        with pytest.raises(Misconfigured, match="file is not a database"):
            Journal(path, exclusive=True)
    path.unlink()
    Journal(path, exclusive=True).close()


# A journal of the first version

_VERSION_1 = """
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
INSERT INTO decisions VALUES
    (1, '0xv', 0, 10, 100, '0xa', 'intent', '[]', NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (2, '0xv', 0, 11, 110, '0xb', 'refused', '[["dust", "1"]]', NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (3, '0xv', 0, 12, 120, '0xc', 'signed', '[]', '0xk', 5, x'0203', '0xh3', NULL, NULL, NULL),
    (4, '0xv', 0, 13, 130, '0xd', 'sent', '[]', '0xk', 6, x'0204', '0xh4', NULL, NULL, NULL),
    (5, '0xv', 0, 14, 140, '0xe', 'mined', '[]', '0xk', 4, x'0205', '0xh5', 'traded', '0xt', ''),
    (6, '0xv', 1, 15, 150, '0xf', 'mined', '[]', 'paper', 0, x'', '', 'traded', NULL, 'paper: 1'),
    (7, '0xv', 1, 16, 160, '0xf', 'mined', '[]', 'paper', 0, x'', '', 'traded', NULL, 'paper: 1');
"""


@pytest.fixture
def old(path: Path) -> Path:
    path.parent.mkdir()
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    db.executescript(_VERSION_1)
    db.close()
    return path


def test_a_journal_of_version_1_is_taken_over_with_everything_in_it(old: Path) -> None:
    """What was mined is asked for again: version 1 did not write down in which block."""
    with Journal(old) as journal:
        rows = {row["id"]: row for row in journal.rows()}
        states = [row["state"] for row in rows.values()]
        assert states == ["intent", "refused", "signed", "sent", "sent", "mined", "mined"]
        assert (rows[2]["broken"], rows[5]["explanation_hash"]) == ('[["dust", "1"]]', "0xe")
        assert (rows[5]["outcome"], rows[5]["trade_id"]) == (None, None)
        assert [(left.id, left.account_nonce, left.last.raw) for left in journal.unfinished()] == [
            (3, 5, b"\2\3"), (4, 6, b"\2\4"), (5, 4, b"\2\5")
        ]  # fmt: skip
        assert journal.next_nonce("0xk", 0) == 7
        assert journal.trades(up_to_block=10**9) == {}
        mine(journal, 5, 15)
        assert journal.trades(up_to_block=15) == {"0xv": 1}
        assert open_row(journal) == 8


def test_a_taken_over_journal_is_as_a_new_one(old: Path, tmp_path: Path) -> None:
    Journal(old).close()
    Journal(tmp_path / "new").close()
    schemas = []
    for path in (old, tmp_path / "new"):
        db = sqlite3.connect(path)
        schemas.append(sorted(db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()))
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        db.close()
    assert schemas[0] == schemas[1]


def test_a_journal_of_version_2_keeps_its_transactions_which_are_good_for_ever(path: Path, tmp_path: Path) -> None:
    with Journal(path) as journal:
        row = row_at(journal, "sent")
    db = sqlite3.connect(path)
    db.execute("ALTER TABLE transactions DROP COLUMN last_valid_block_height")
    db.execute("PRAGMA user_version = 2")
    db.close()
    with Journal(path) as journal:
        [left] = journal.unfinished()
        assert left.last == Attempt(hash=f"0xhash {row}", raw=b"\x02raw %d" % row, last_valid_block_height=0)
        sign(journal, later := row_at(journal, "reviewed"), last_valid_block_height=300)
        journal.bump(later, Attempt(hash="0xanew", raw=b"3", last_valid_block_height=450))
        assert [attempt.last_valid_block_height for attempt in journal.attempts(later)] == [300, 450]
        assert journal.notes()[0]["detail"] == f"decision {later}: good up to block height 450"


def test_a_version_1_that_can_not_be_taken_over_is_left_as_it_is(old: Path) -> None:
    db = sqlite3.connect(old)
    db.execute("UPDATE decisions SET account_nonce = 5 WHERE id = 4")  # two decisions with one nonce
    db.commit()
    before = db.execute("SELECT * FROM decisions").fetchall()
    with pytest.raises(Misconfigured, match="name another file"):
        Journal(old)
    assert db.execute("SELECT * FROM decisions").fetchall() == before
    db.close()


def test_a_journal_of_a_newer_program_is_left_alone(path: Path) -> None:
    Journal(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(Misconfigured, match=f"is of version {SCHEMA_VERSION + 1}, .* use the newer program"):
        Journal(path)


# A file that can't be used


def test_a_path_that_can_not_be_made_is_misconfigured_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path / "file" / "journal.sqlite", tmp_path):
        with pytest.raises(Misconfigured, match=f"the journal {path} can't be used: .*; name another file") as caught:
            Journal(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(Misconfigured, match=r"can't be locked: .*; name another file"):
        Journal(tmp_path / "file" / "journal.sqlite", exclusive=True)


def test_a_file_that_is_no_journal_is_misconfigured_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, and no database\n" * 100)
    with pytest.raises(Misconfigured, match="file is not a database"):
        Journal(path)
    assert path.read_text().startswith("these are my notes")


def test_a_damaged_file_is_misconfigured_wherever_the_damage_is(path: Path) -> None:
    with Journal(path) as journal:
        for _ in range(300):
            row_at(journal, "signed")
        journal.check()
    damaged = bytearray(path.read_bytes())
    page = 4096
    for start in range(2 * page, len(damaged), page):
        damaged[start : start + 200] = b"\xff" * 200
    path.write_bytes(damaged)
    with Journal(path) as journal:
        with pytest.raises(Misconfigured, match=r"is damaged|malformed"):
            journal.check()
        with pytest.raises(Misconfigured, match="can't be used"):
            journal.rows()


def test_a_closed_journal_says_so(path: Path) -> None:
    journal = Journal(path)
    journal.close()
    journal.close()
    with pytest.raises(Misconfigured, match="closed"):
        journal.rows()


def test_a_full_disk_halts_until_there_is_room_and_writes_nothing_half(path: Path) -> None:
    with Journal(path) as journal:
        row, other = row_at(journal, "reviewed"), row_at(journal, "reviewed")
        kept = everything(journal)
        _allow_no_more_pages(journal)
        with pytest.raises(Halted, match=r"can't be written or read: .*full; make room on its disk"):
            sign(journal, row, raw=b"x" * 100_000)
        with pytest.raises(Halted, match="full"):
            together(journal, lambda: sign(journal, other), lambda: sign(journal, row, raw=b"x" * 100_000))
        assert everything(journal) == kept
        _make_room(journal)
        sign(journal, row, raw=b"x" * 100_000)
        assert state_of(journal, row) == "signed"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_IOERR, Halted), (sqlite3.SQLITE_IOERR_FSYNC, Halted), (sqlite3.SQLITE_FULL, Halted),
        (sqlite3.SQLITE_CORRUPT, Misconfigured), (sqlite3.SQLITE_READONLY, Misconfigured),
        (sqlite3.SQLITE_CANTOPEN, Misconfigured), (sqlite3.SQLITE_NOTADB, Misconfigured),
        (sqlite3.SQLITE_BUSY, Retryable),
    ],
)  # fmt: skip
def test_only_what_no_wait_ends_is_misconfigured(path: Path, code: int, kind: type[Exception]) -> None:
    error = sqlite3.OperationalError("what the disk said")
    error.sqlite_errorcode = code
    with Journal(path) as journal, pytest.raises(kind), journal._usable():
        raise error


def _allow_no_more_pages(journal: Journal) -> None:
    """As a disk that is full: SQLite's own limit has the same effect."""
    assert journal._db is not None
    journal._db.execute("PRAGMA max_page_count = 1")


def _make_room(journal: Journal) -> None:
    assert journal._db is not None
    journal._db.execute("PRAGMA max_page_count = 1000000")


# A long life

ROWS = 100_000


def test_a_hundred_thousand_trades_are_opened_and_searched_by_index(path: Path) -> None:
    """What is asked at every head looks at what is open, not at all that ever was."""
    with Journal(path) as journal, journal.transaction():
        assert journal._db is not None
        journal._db.executemany(
            "INSERT INTO decisions (vault, sequence, block, decided_at_s, explanation_hash, state, account,"
            " account_nonce, transaction_hash, block_number, block_hash, outcome, trade_id)"
            " VALUES (?, ?, ?, ?, ?, 'final', 'k', ?, ?, ?, ?, 'traded', ?)",
            ((f"0x{i % 1000}", i, i, i, f"e{i}", i, f"h{i}", i, f"b{i}", f"t{i}") for i in range(ROWS)),
        )
    with Journal(path) as journal:
        assert journal._db is not None
        row = row_at(journal, "sent")
        asked: list[str] = []
        journal._db.set_trace_callback(asked.append)
        assert [left.id for left in journal.unfinished()] == [row]
        assert (journal.replaced(), journal.mined_blocks(), journal.mined_up_to(ROWS)) == ([], [], [])
        assert journal.mined_with_transactions(ROWS) == []
        assert journal.in_flight(ROWS) == {VAULT}
        assert journal.next_nonce("k", 0) == ROWS
        assert journal.known_trades(["t5", "none"]) == {"t5"}
        journal._db.set_trace_callback(None)
        for statement in asked:
            plan = [detail for *_, detail in journal._db.execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert not [line for line in plan if line.startswith("SCAN")], (statement, plan)
        assert journal.counts() == {"final": ROWS, "sent": 1}
        assert sum(journal.trades(up_to_block=ROWS).values()) == ROWS


def test_a_journal_that_another_process_does_not_let_go_of_is_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is no reason to end the daemon for good."""
    monkeypatch.setattr("agents.journal._BUSY_TIMEOUT_S", 0.01)
    with Journal(path) as journal:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(Retryable, match="another process writes the journal"):
                open_row(journal)
            assert journal.rows() == [], "who only looks need not wait"
            with Journal(path) as looking:
                assert looking.rows() == []
        finally:
            other.close()
        open_row(journal)
