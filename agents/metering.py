"""What a cycle says to those who watch: metrics of a tick, of the journal and of the nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from agents.fleet import Agent, Tick
from agents.journal import Journal
from agents.node import AccountState
from agents.telemetry import OPEN_STATES, Telemetry
from oracle.vault_state import WAD, VaultReading

BPS = 10_000


def meter_start(telemetry: Telemetry, agents: Mapping[str, Agent], max_age_s: Mapping[str, int]) -> None:
    """What does not change: who there is, and how old prices may be."""
    for vault in agents:
        telemetry.begin(vault)
    for token, age_s in max_age_s.items():
        telemetry.gauge("oracle_max_age_seconds", age_s, asset=token)


def meter_accounts(telemetry: Telemetry, states: Mapping[str, AccountState], journal: Journal) -> None:
    """How far the journal's next nonce is from where the chain is, what waits in between left out."""
    waiting = Counter(row.account for row in journal.unfinished())
    for account, state in states.items():
        gap = journal.next_nonce(account, state.nonce) - state.nonce - waiting[account]
        telemetry.gauge("nonce_gap", gap, account=account)


def meter_tick(
    telemetry: Telemetry, tick: Tick, agents: Mapping[str, Agent], journal: Journal, *, now_s: float
) -> None:
    """Everything that one cycle changed."""
    telemetry.gauge("head_number", tick.head.number)
    telemetry.gauge("head_lag_seconds", max(0, int(now_s) - tick.head.timestamp_s))
    telemetry.gauge("heartbeat_timestamp_seconds", now_s)
    _count(telemetry, tick)
    for vault, reading in tick.readings.items():
        _measure(telemetry, agents[vault].name, reading)
    for token, updated_at_s in _updated(tick).items():
        telemetry.gauge("oracle_age_seconds", max(0, tick.head.timestamp_s - updated_at_s), asset=token)
    counts = journal.open_counts()
    for state in OPEN_STATES:
        telemetry.gauge("queue_depth", counts.get(state, 0), state=state)
    telemetry.gauge("journal_bytes", journal_bytes(journal.path))
    telemetry.measure_process()


def _count(telemetry: Telemetry, tick: Tick) -> None:
    followed = tick.followed
    for _, vault, outcome in followed.ended:
        telemetry.count("trades_total", vault=vault, outcome=str(outcome.ended))
    for name, value in (
        ("reorgs_total", int(followed.reorged > 0)), ("fee_bumps_total", followed.bumped),
        ("replaced_total", followed.replaced),
    ):  # fmt: skip
        if value:
            telemetry.count(name, value)
    for vault, decision in tick.decisions.items():
        telemetry.count("decisions_total", vault=vault)
        for clause, times in Counter(b.clause for decided in decision.steps for b in decided.step.broken).items():
            telemetry.count("refusals_total", times, vault=vault, clause=clause)


def _measure(telemetry: Telemetry, name: str, reading: VaultReading) -> None:
    labels = {"vault": reading.address, "agent": name}
    fall = max(reading.peak_wad - reading.unit_price_wad, 0)
    telemetry.gauge("profit_quote", Decimal(reading.profit) / reading.quote_unit, **labels)
    telemetry.gauge("unit_price", Decimal(reading.unit_price_wad) / WAD, **labels)
    telemetry.gauge("drawdown_bps", fall * BPS // reading.peak_wad if reading.peak_wad else 0, **labels)
    telemetry.gauge("drawdown_limit_bps", reading.limits.max_drawdown_bps, **labels)


def _updated(tick: Tick) -> dict[str, int]:
    found: dict[str, int] = {}
    for reading in tick.readings.values():
        for round_ in (reading.quote_round, *(p.round for p in reading.positions)):
            found[round_.token] = round_.updated_at_s
    return found


def journal_bytes(path: Path | str) -> int:
    """The file, and what is written ahead of it."""
    names = (Path(str(path) + suffix) for suffix in ("", "-wal", "-shm"))
    return sum(name.stat().st_size for name in names if name.exists())


def status_of(health: Any, agents: Mapping[str, Agent], journal: Journal) -> dict[str, Any]:
    """What `/status` answers: the daemon, its agents, and what is under way."""
    head = health.head
    return {
        "state": health.state,
        "because": health.because,
        "head": None if head is None else {"number": head.number, "hash": head.hash, "timestamp_s": head.timestamp_s},
        "cycles": health.cycles,
        "failed_cycles": health.failed_cycles,
        "last_cycle_ms": health.last_cycle_ms,
        "clock_skew_s": health.skew_s,
        "decisions": journal.open_counts(),
        "stuck": dict(health.stuck),
        "agents": [
            {
                "name": agent.name, "vault": agent.vault, "account": agent.account,
                "artefact": agent.artefact.artefact_hash, "parked_because": health.parked.get(agent.vault, ""),
            }
            for agent in agents.values()
        ],
    }  # fmt: skip
