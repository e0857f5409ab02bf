from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal, localcontext
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agents.errors import Misconfigured
from agents.live_view import render, watch
from agents.operator_view import (
    REASON_WORDS,
    agent_lines,
    agent_view,
    ago,
    amount,
    check,
    check_line,
    daemon_lines,
    daemon_view,
    exact,
    explain_lines,
    explain_view,
    nonce_check,
    parse_since,
    percent,
    pnl_lines,
    pnl_totals,
    pnl_view,
    positions_lines,
    positions_view,
    printable,
    rounded,
    trade_counts,
    why_idle,
)
from oracle.chain import BlockRef
from oracle.chainlink import Round
from oracle.vault_state import EffectiveLimits, PositionReading, Reason, VaultReading, VaultState

VAULT, ETH, QUOTE = "0x" + "11" * 20, "0x" + "22" * 20, "0x" + "33" * 20
APPROVED = "0x" + "aa" * 32
WAD = 10**18
LIMITS = EffectiveLimits(
    max_position_bps=6000, max_trade_slippage_bps=60, max_cumulative_slippage_bps=100, max_reduce_slippage_bps=200,
    max_reduce_cumulative_slippage_bps=300, max_trades_per_day=10, max_daily_turnover_bps=20_000,
    max_daily_loss_bps=500, max_drawdown_bps=1000, hard_drawdown_bps=1500,
)  # fmt: skip


def a_reading(**over: Any) -> VaultReading:
    """Half a million dollars of quote and 100 ETH at 2,000."""
    last = Round(token=ETH, round_id=7, answer=2000 * 10**8, updated_at_s=1000)
    held = PositionReading(token=ETH, unit=WAD, amount=100 * WAD, price_wad=2000 * WAD, round=last)
    fields: dict[str, Any] = {
        "block": BlockRef(number=9, hash="0x09", timestamp_s=2000), "address": VAULT, "strategy_id": "0x01",
        "artefact_hash": APPROVED, "agent_id": 1, "state": VaultState.ACTIVE, "reasons": 0, "recorded_reasons": 0,
        "value": 700_000 * 10**6, "quote_held": 500_000 * 10**6, "quote_unit": 10**6,
        "quote_round": replace(last, token=QUOTE), "unit_price_wad": 9 * WAD // 10, "peak_wad": WAD,
        "reference_wad": WAD, "profit": -1_234_567, "nonce": 3, "trades_today": 0, "turnover_today": 0,
        "slippage_level": 0, "slippage_at_s": 0, "slippage_decay_s": 1, "limits": LIMITS, "positions": (held,),
    }  # fmt: skip
    return VaultReading(**fields | over)


def a_row(**over: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": 4, "kind": "trade", "vault": VAULT, "sequence": 2, "block": 8, "decided_at_s": 1900, "deadline_s": 2500,
        "explanation_hash": "0x" + "ee" * 32, "state": "mined", "broken": "[]", "account": "0x" + "44" * 20,
        "account_nonce": 5, "transaction_hash": "0x" + "55" * 32, "block_number": 9, "block_hash": "0x09",
        "outcome": "traded", "trade_id": "0x" + "66" * 32, "detail": None,
    }  # fmt: skip
    return fields | over


# Why an agent does not trade


def idle(reading: VaultReading | str, **over: Any) -> str:
    options: dict[str, Any] = {
        "vault": VAULT, "approved": APPROVED, "is_in_flight": False, "trades": 3, "paused": None, "is_on_paper": False,
    }  # fmt: skip
    return why_idle(reading, **options | over)


@pytest.mark.parametrize(
    ("reading", "over", "said"),
    [
        ("no answer", {}, "can't be read: no answer"),
        (a_reading(), {"approved": "0xbb"}, "load the approved file"),
        (a_reading(), {"is_in_flight": True}, "under way"),
        (a_reading(), {"paused": "lunch"}, "paused: lunch"),
        (a_reading(), {"trades": 2}, "has made 3 trades, the journal has 2"),
        (a_reading(state=VaultState.HALTED, reasons=Reason.HALTED), {}, "halted"),
    ],
)
def test_an_agent_that_does_not_trade_has_a_reason(reading: Any, over: dict[str, Any], said: str) -> None:
    assert said in idle(reading, **over)


def test_an_agent_that_trades_has_no_reason_not_to() -> None:
    assert idle(a_reading()) == ""
    assert idle(a_reading(), trades=0, is_on_paper=True) == ""


def test_every_reason_of_a_vault_is_told_in_words_with_its_name() -> None:
    assert set(REASON_WORDS) == set(Reason)
    reading = a_reading(state=VaultState.REDUCING, reasons=Reason.DRAWDOWN | Reason.GUARDIAN)
    view = agent_view(name="one", vault=VAULT, reading=reading, last=None, idle_because="", decimals=6)
    said = "\n".join(agent_lines(view, {ETH: "ETH"}))
    assert "(DRAWDOWN)" in said
    assert "(GUARDIAN)" in said
    assert "may only reduce" in said
    assert "ETH 28.57 %" in said


# The daemon


@pytest.mark.parametrize(
    ("is_running", "age_s", "state"),
    [(False, None, "not running"), (False, 5, "not running"), (True, None, "starting"), (True, 5, "running"),
     (True, 500, "quiet")],
)  # fmt: skip
def test_a_daemon_is_known_by_its_lock_and_its_last_cycle(is_running: bool, age_s: int | None, state: str) -> None:
    heartbeat = None if age_s is None else {"at_s": 1000 - age_s, "block": 3, "pid": 8}
    view = daemon_view(is_running=is_running, heartbeat=heartbeat, controls={}, now_s=1000)
    assert (view["state"], view["last_cycle_age_s"]) == (state, age_s)
    assert view["pid"] == (8 if is_running and heartbeat else None)


def test_what_the_operator_asked_for_is_shown_with_its_end() -> None:
    controls = {"paused": "lunch", "close all": [VAULT]}
    view = daemon_view(is_running=True, heartbeat=None, controls=controls, now_s=0)
    said = "\n".join(daemon_lines(view))
    assert "paused: lunch" in said
    assert "closing 1 vault" in said
    assert said.count("agent resume") == 2


# Nonces


def nonces(**over: Any) -> dict[str, dict[str, str]]:
    options: dict[str, Any] = {"latest": 5, "pending": 5, "given": [3, 4], "waiting": []}
    return {line["check"]: line for line in nonce_check("one", **options | over)}


def test_pending_transactions_that_are_not_ours_are_a_problem() -> None:
    line = nonces(pending=7)["nonce"]
    assert line["verdict"] == "problem"
    assert "2 pending transactions" in line["found"]
    assert nonces(pending=7, given=[3, 4, 5, 6], waiting=[5, 6])["nonce"]["verdict"] == "ok"


def test_a_nonce_that_nobody_uses_is_a_problem_that_repair_solves() -> None:
    line = nonces(given=[3, 4, 6], waiting=[6])["nonce"]
    assert line["verdict"] == "problem"
    assert "nonce 5" in line["found"]
    assert "repair" in line["help"]


def test_nonces_that_others_used_are_noted_but_not_those_before_the_journal() -> None:
    found = nonces(latest=9, pending=9, given=[3, 4, 8])
    assert "nonces 5, 6, 7 " in found["foreign"]["found"]
    assert found["foreign"]["verdict"] == "note"
    assert "foreign" not in nonces()
    assert "foreign" not in nonces(latest=900, pending=900, given=[])


def test_many_foreign_nonces_are_not_all_listed() -> None:
    assert "and 93 more" in nonces(latest=99, pending=99, given=[0])["foreign"]["found"]


def test_a_check_is_one_line_with_what_helps() -> None:
    assert check_line(check("one", "ether", "problem", "none", "send some")) == (  # type: ignore[arg-type]
        "problem  one          ether        none: send some"
    )


# Positions and profit


def test_a_position_without_a_price_has_no_worth() -> None:
    reading = a_reading()
    blind = replace(reading, positions=(replace(reading.positions[0], price_wad=0),))
    [held] = positions_view(blind, name="one", symbols={})["positions"]
    assert (held["worth"], held["price"], held["amount_exact"]) == (None, None, "100.000000000000000000")
    assert "no fresh price" in "\n".join(positions_lines(positions_view(blind, name="one", symbols={}), "USDC"))


def test_positions_are_exact_in_base_units_and_whole_tokens() -> None:
    view = positions_view(a_reading(), name="one", symbols={ETH: "ETH"})
    [held] = view["positions"]
    assert (held["worth"], held["worth_exact"], held["weight_bps"]) == (200_000 * 10**6, "200000.000000", 2857)
    assert view["quote_held_exact"] == "500000.000000"


def test_trades_on_paper_are_neither_final_nor_not() -> None:
    rows = [a_row(), a_row(state="final"), a_row(account="paper", state="final"), a_row(outcome="refused")]
    assert trade_counts([*rows, a_row(state="final", account=None)]) == {"final": 2, "not_final": 1}


def test_the_final_profit_is_apart_from_the_one_of_now() -> None:
    trades = {"final": 2, "not_final": 1}
    view = pnl_view(a_reading(), a_reading(profit=5), name="one", trades=trades)
    assert (view["profit"], view["profit_exact"]) == (-1_234_567, "-1.234567")
    assert (view["profit_final"], view["profit_final_exact"]) == (5, "0.000005")
    assert view["drawdown_bps"] == 1000
    said = "\n".join(pnl_lines(view, "USDC"))
    assert "0.000005 USDC with 2 trades" in said
    assert "-1.234567 USDC, of which a reorg could still take 1 trade" in said


def test_a_total_is_final_only_when_every_vault_is() -> None:
    trades = {"final": 1, "not_final": 0}
    known = pnl_view(a_reading(), a_reading(profit=5), name="one", trades=trades)
    unknown = pnl_view(a_reading(), None, name="two", trades=trades)
    assert pnl_totals([known, known], 6)["profit_final"] == 10
    total = pnl_totals([known, unknown], 6)
    assert (total["profit_final"], total["profit"], total["trades_final"]) == (None, -2_469_134, 2)
    assert "not known" in "\n".join(pnl_lines(total, "USDC"))


# One decision


def said_of(**over: Any) -> str:
    options: dict[str, Any] = {"confirmations": 1, "finality_blocks": 12}
    view = explain_view(a_row(**over.pop("row", {})), over.pop("document", None), None, **options | over)
    return "\n".join(explain_lines(view, {}, 6))


def test_a_decision_is_final_only_when_the_chain_or_the_journal_says_so() -> None:
    assert "Not final: 1 of 12" in said_of()
    assert "\nFinal: 12" in said_of(confirmations=12)
    assert "\nFinal: 1 " in said_of(row={"state": "final"})
    assert "in no block" in said_of(confirmations=None)
    assert "not asked: no node" in said_of(confirmations=None, problem="no node")


def test_a_refusal_is_told_with_its_clauses() -> None:
    row = {"state": "refused", "outcome": None, "broken": json.dumps([["position", "7, the limit is 6"]])}
    said = said_of(row=row, confirmations=None)
    assert "refused: position: 7, the limit is 6" in said


def test_an_explanation_that_is_missing_is_said_to_be() -> None:
    assert "is not in the journal" in said_of()
    assert "is not in the journal" not in said_of(row={"kind": "filler"})


# Texts


def test_what_a_terminal_would_obey_is_replaced() -> None:
    assert printable("a\x1b[2Jb\u202ec\nd") == "a\ufffd[2Jb\ufffdc\nd"


@pytest.mark.parametrize("text", ["yesterday", "", "2026-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match="no time"):
        parse_since(text)


def test_a_time_is_seconds_or_a_date_in_utc() -> None:
    assert parse_since("1767225600") == parse_since("2026-01-01") == parse_since("2026-01-01T01:00+01:00")


@given(st.integers(-(10**40), 10**40), st.integers(0, 18))
def test_an_amount_keeps_every_digit(units: int, decimals: int) -> None:
    assert int(exact(units, decimals).replace(".", "")) == units
    with localcontext(prec=100):
        assert Decimal(amount(units, decimals).replace(",", "")).scaleb(decimals) == units


def test_figures_for_tables_are_cut_towards_zero() -> None:
    assert rounded(1_999_999, 6) == "1.99"
    assert rounded(-1_999_999, 6) == "-1.99"
    assert (percent(-5), percent(12_345)) == ("-0.05 %", "123.45 %")
    assert (ago(5), ago(600), ago(7200)) == ("5 s ago", "10 min ago", "2 h ago")


# The picture


def a_view() -> dict[str, Any]:
    shown = agent_view(
        name="one\x1b[2J", vault=VAULT, reading=a_reading(), last=a_row(), idle_because="lunch", decimals=6
    )
    return {
        "daemon": daemon_view(is_running=False, heartbeat=None, controls={}, now_s=0), "head": None,
        "problem": "no node", "decisions": {"mined": 1}, "in_flight": [], "agents": [shown],
        "notes": [{"at_s": 5, "kind": "foreign", "subject": "[red]x", "detail": "\x1b]0;title\x07"}],
    }  # fmt: skip


def test_the_picture_shows_everything_and_obeys_nothing() -> None:
    console = Console(file=StringIO(), width=200, highlight=False)
    console.print(render(a_view(), {ETH: "ETH"}))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in said
    assert "[red]x" in said
    for part in ("no node", "700,000.00", "ETH 28.57 %", "lunch", "foreign", "4 mined traded"):
        assert part in said


def test_where_nothing_can_be_redrawn_the_picture_is_printed_once() -> None:
    console, asked = Console(file=StringIO(), force_terminal=True, _environ={"TERM": "dumb"}), []

    def fetch() -> dict[str, Any]:
        asked.append(1)
        return a_view()

    watch(fetch, {}, interval_s=0.01, console=console)
    assert len(asked) == 1
