"""What the operator's commands look up: the journal, the chain at its head, and whether a daemon runs. Changes nothing.

A node that does not answer takes away what only it knows; the journal is shown all the same.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from eth_utils import keccak

from agents.assembly import Assembly, assemble
from agents.contracts import load_artifact, signature
from agents.deployments import load_deployment
from agents.errors import AgentError, Misconfigured
from agents.explanation import ExplanationForged, plain
from agents.fleet import PAUSED
from agents.interval_scores import score_explanations, score_view
from agents.journal import Journal
from agents.ledger import LedgerEntry, entries_in
from agents.manifest import load_artefact
from agents.operator_view import (
    agent_view,
    daemon_view,
    explain_view,
    in_flight_view,
    plan_view,
    pnl_totals,
    pnl_view,
    positions_view,
    trade_counts,
    why_idle,
)
from agents.reconcile import BLOCKS_PER_REQUEST
from agents.settings import AgentsFile, Settings, load_agents
from agents.signer import Ask
from offchain_rl.artefact import hash_bytes
from oracle.chain import BlockRef
from oracle.errors import OracleError
from oracle.vault_state import VaultReading

UNANSWERED = (AgentError, OracleError, OSError)
_MEMORY = Path(":memory:")
# SQLite's integers end here.
_MAX_DIGITS = 18


# The journal


def require_journal(settings: Settings) -> Path:
    """Its path. Raises Misconfigured when there is none: a command that looks must not begin one."""
    if not settings.journal.is_file():
        raise Misconfigured(
            f"there is no journal {settings.journal}: MARKETFLOW_JOURNAL names it, `marketflow agent run` begins one"
        )
    return settings.journal


def is_daemon_running(journal: Path) -> bool:
    """Whether a process holds the journal's lock."""
    try:
        with journal.with_name(journal.name + ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def journal_rows(journal: Journal) -> Iterator[dict[str, Any]]:
    """Every decision in order, one at a time: a journal may be larger than memory."""
    newest = journal.latest(1)
    for row in range(1, newest[0]["id"] + 1 if newest else 1):
        yield from journal.rows(id=row)


@contextmanager
def looking(settings: Settings, *, ask: Ask | None = None, with_keys: bool = False) -> Iterator[Assembly]:
    """An assembly that leaves the journal to a daemon; where there is no journal yet, an empty one in memory. Raises as
    `assemble`."""
    if not settings.journal.is_file():
        settings = settings.model_copy(update={"journal": _MEMORY})
    assembly = assemble(settings, ask=ask, with_keys=with_keys, exclusive=False)
    try:
        yield assembly
    finally:
        assembly.close()


# The chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The vaults at one block, or the `problem` that kept us from seeing them. `readings`: by vault, or why not."""

    head: BlockRef | None = None
    readings: Mapping[str, VaultReading | str] = field(default_factory=dict)
    problem: str = ""


def see(assembly: Assembly, block: BlockRef | None = None) -> Seen:
    """The vaults at a block, or at the head."""
    try:
        head = block or assembly.node.head()
        found = assembly.readings.fetch(head)
    except UNANSWERED as error:
        return Seen(problem=one_line(error))
    vaults = [agent.vault for agent in assembly.agents]
    readings = {v: r if isinstance(r, VaultReading) else one_line(r) for v, r in zip(vaults, found, strict=True)}
    return Seen(head=head, readings=readings)


def require_seen(assembly: Assembly) -> Seen:
    """As `see`. Raises the first error: for commands that say nothing without the chain."""
    head = assembly.node.head()
    found = assembly.readings.fetch(head)
    for reading in found:
        if isinstance(reading, Exception):
            raise reading
    readings = {reading.address: reading for reading in found if isinstance(reading, VaultReading)}
    return Seen(head=head, readings=readings)  # type: ignore[arg-type]


def ledger_entries(assembly: Assembly, last: int, *, trade_id: str | None = None) -> Iterator[LedgerEntry]:
    """The ledger's entries since the deployment, or the one of an id; as many blocks at once as public nodes answer."""
    protocol = assembly.deployment.protocol
    topics: list[Any] = [ledger_topic()] if trade_id is None else [ledger_topic(), trade_id]
    for start in range(protocol.deployed_at_block, last + 1, BLOCKS_PER_REQUEST):
        query = {
            "address": protocol.ledger, "fromBlock": start, "toBlock": min(start + BLOCKS_PER_REQUEST - 1, last),
            "topics": topics,
        }  # fmt: skip
        yield from entries_in({"logs": assembly.chain.w3.eth.get_logs(query)})  # type: ignore[arg-type]


@cache
def ledger_topic() -> str:
    """The first topic of the ledger's events of trades."""
    event = next(item for item in load_artifact("TradeLedger").abi if item.get("name") == "TradeRecorded")
    return "0x" + keccak(text=signature(event)).hex()


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def symbols_of(settings: Settings) -> dict[str, str]:
    """Names of the tokens by address; none when the deployment's file can't be read."""
    try:
        market = load_deployment(settings.deployment, chain_id=None).market
    except Misconfigured:
        return {}
    return {market.quote: market.quote_symbol} | {asset.token: asset.symbol for asset in market.assets}


def quote_decimals(settings: Settings) -> int:
    """Of the quote token; 0, so that amounts are base units, when the deployment's file can't be read."""
    try:
        return load_deployment(settings.deployment, chain_id=None).market.quote_decimals
    except Misconfigured:
        return 0


# Status


def fetch_status(
    settings: Settings, file: AgentsFile, journal: Journal, seen: Seen, *, approved: Mapping[Path, str], now_s: int
) -> dict[str, Any]:
    """Everything that `status` shows. `approved`: hashes of the loaded artefacts by file."""
    controls, unfinished = journal.controls(), journal.unfinished()
    waiting = {row.vault for row in unfinished}
    trades = journal.trades(up_to_block=seen.head.number) if seen.head else {}
    agents = []
    for entry in file.agents:
        reading = seen.readings.get(entry.vault, seen.problem or "it was not asked")
        last = journal.latest(1, vault=entry.vault)
        idle = why_idle(
            reading, vault=entry.vault, approved=approved[entry.artefact], is_in_flight=entry.vault in waiting,
            trades=trades.get(entry.vault, 0), paused=controls.get(PAUSED), is_on_paper=not entry.key,
        )  # fmt: skip
        decimals = len(str(reading.quote_unit)) - 1 if isinstance(reading, VaultReading) else 0
        agents.append(
            agent_view(name=entry.name, vault=entry.vault, reading=reading, last=last[0] if last else None,
                       idle_because=idle, decimals=decimals)
        )  # fmt: skip
    daemon = daemon_view(
        is_running=is_daemon_running(settings.journal), heartbeat=journal.fact("heartbeat"), controls=controls,
        now_s=now_s,
    )  # fmt: skip
    return {
        "daemon": daemon,
        "head": None if seen.head is None else {"number": seen.head.number, "timestamp_s": seen.head.timestamp_s},
        "problem": seen.problem,
        "decisions": journal.counts(),
        "in_flight": [in_flight_view(journal.rows(id=row.id)[0], len(row.attempts)) for row in unfinished],
        "agents": agents,
        "notes": journal.notes(10),
    }


class Watch:
    """Asks for the status again and again, with what does not change kept. A node that could not be reached is tried
    anew each time."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self._settings, self._journal = settings, journal
        self._file = load_agents(settings.agents)
        paths = {entry.artefact for entry in self._file.agents}
        self._approved = {path: load_artefact(path).artefact_hash for path in paths}
        self._assembly: Assembly | None = None
        self.symbols = symbols_of(settings)

    def fetch(self, now_s: int) -> dict[str, Any]:
        """The view of `status`."""
        return fetch_status(
            self._settings, self._file, self._journal, self._see(), approved=self._approved, now_s=now_s
        )

    def close(self) -> None:
        """Lets go of the connections."""
        if self._assembly:
            self._assembly.close()

    def _see(self) -> Seen:
        try:
            self._assembly = self._assembly or assemble(self._settings, with_keys=False, exclusive=False)
        except UNANSWERED as error:
            return Seen(problem=one_line(error))
        return see(self._assembly)


# What it would trade with


def fetch_plan(assembly: Assembly) -> dict[str, Any]:
    """Agents, vaults, accounts, balances and limits, of an assembly with keys."""
    seen, market = require_seen(assembly), assembly.deployment.market
    assert seen.head is not None
    accounts = sorted({agent.account for agent in assembly.agents if agent.account})
    balances = assembly.node.balances(accounts)
    return {
        "chain_id": assembly.chain.chain_id, "block": seen.head.number, "quote": market.quote_symbol,
        "operator": asdict(assembly.file.limits), "settings": assembly.settings.public(),
        "agents": [
            plan_view(
                seen.readings[agent.vault], name=agent.name, account=agent.account,  # type: ignore[arg-type]
                balance_wei=balances.get(agent.account), artefact=agent.artefact.artefact.name,
                artefact_hash=agent.artefact.artefact_hash,
            )
            for agent in assembly.agents
        ],
    }  # fmt: skip


# Positions and profit


def fetch_positions(assembly: Assembly) -> dict[str, Any]:
    seen, symbols = require_seen(assembly), symbols_of(assembly.settings)
    return {
        "quote": assembly.deployment.market.quote_symbol,
        "vaults": [
            positions_view(seen.readings[agent.vault], name=agent.name, symbols=symbols)  # type: ignore[arg-type]
            for agent in assembly.agents
        ],
    }


def fetch_pnl(assembly: Assembly) -> dict[str, Any]:
    """Profit by the vaults' books, at the head and at the newest block that no reorg is expected to reach."""
    seen, market = require_seen(assembly), assembly.deployment.market
    assert seen.head is not None
    [final] = assembly.node.blocks([max(seen.head.number - assembly.settings.finality_blocks, 0)])
    before = see(assembly, final) if final else Seen(problem="the node has no such block")
    vaults = [
        pnl_view(
            seen.readings[agent.vault], _reading(before.readings.get(agent.vault)), name=agent.name,  # type: ignore[arg-type]
            trades=trade_counts(assembly.journal.rows(vault=agent.vault, outcome="traded")),
        )
        for agent in assembly.agents
    ]  # fmt: skip
    return {
        "quote": market.quote_symbol, "block": seen.head.number, "final_block": final.number if final else None,
        "final_problem": before.problem, "vaults": vaults, "total": pnl_totals(vaults, market.quote_decimals),
    }  # fmt: skip


def _reading(found: VaultReading | str | None) -> VaultReading | None:
    return found if isinstance(found, VaultReading) else None


# One decision


def find_row(journal: Journal, text: str) -> dict[str, Any] | None:
    """A decision by its number, or by the hash of its trade, transaction or explanation. Raises Misconfigured for what
    is neither a number nor a hash."""
    if text.isdecimal() and len(text) <= _MAX_DIGITS:
        return _last(journal.rows(id=int(text)))
    wanted = parse_hash(text)
    decision = journal.decision_of(wanted)
    if decision is not None:
        return _last(journal.rows(id=decision))
    columns = ("trade_id", "explanation_hash", "transaction_hash")
    return next((row for column in columns if (row := _last(journal.rows(**{column: wanted})))), None)


def parse_hash(text: str) -> str:
    """0x-hex of 32 bytes, lower case. Raises Misconfigured."""
    digits = text.lower().removeprefix("0x")
    if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
        raise Misconfigured(
            f"{text!r} is no decision: give its number, or the hash of its trade, transaction or explanation"
        )
    return "0x" + digits


def _last(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    return rows[-1] if rows else None


def fetch_explanation(settings: Settings, journal: Journal, text: str) -> dict[str, Any]:
    """Everything that is known of a decision. Raises Misconfigured when neither the journal nor the ledger knows it,
    ExplanationForged when what the journal has under its hash is something else."""
    row = find_row(journal, text)
    document = None if row is None else _document(journal, row["explanation_hash"])
    attempts = [] if row is None else [_attempt(attempt, with_raw=False) for attempt in journal.attempts(row["id"])]
    try:
        with looking(settings) as assembly:
            entry, confirmations = _on_chain(assembly, row, text)
        problem = ""
    except UNANSWERED as error:
        entry, confirmations, problem = None, None, one_line(error)
    if row is None and entry is None:
        asked = f", and the chain was not asked: {problem}" if problem else ", nor does the ledger"
        raise Misconfigured(f"the journal has no decision {text}{asked}; `marketflow agent export` lists all there are")
    return explain_view(
        row, document, entry, attempts=attempts, confirmations=confirmations,
        finality_blocks=settings.finality_blocks, problem=problem,
    )  # fmt: skip


def _document(journal: Journal, name: str) -> dict[str, Any] | None:
    content = journal.document(name) if name else None
    if content is None:
        return None
    if hash_bytes(content) != name:
        raise ExplanationForged(f"what the journal has as explanation {name} hashes to {hash_bytes(content)}")
    found: dict[str, Any] = json.loads(content)
    return found


def _on_chain(
    assembly: Assembly, row: Mapping[str, Any] | None, text: str
) -> tuple[dict[str, Any] | None, int | None]:
    """The ledger's entry, and how many blocks are on top of its own."""
    head = assembly.node.head()
    if row is None:
        if text.isdecimal():
            return None, None
        found = list(ledger_entries(assembly, head.number, trade_id=parse_hash(text)))
        return (_entry(found[0]), head.number - found[0].block) if found else (None, None)
    if not row["transaction_hash"] or row["state"] not in ("mined", "final"):
        return None, None
    [receipt] = assembly.node.receipts([row["transaction_hash"]])
    if receipt is None:
        return None, None
    entries = [entry for entry in entries_in(receipt) if entry.id == row["trade_id"]]
    return (_entry(entries[0]) if entries else None), head.number - receipt["blockNumber"]


def _entry(entry: LedgerEntry) -> dict[str, Any]:
    fields: dict[str, Any] = plain(entry.fields)
    place = {name: getattr(entry, name) for name in ("id", "vault", "block", "transaction_hash")}
    return place | fields


# Intervals


def fetch_intervals(assembly: Assembly, *, since_s: int) -> dict[str, Any]:
    """What the intervals were worth that were stored with decisions made since then. Raises ExplanationForged, and what
    a node or a feed raises: without later rounds there is nothing to say."""
    head, journal = assembly.node.head(), assembly.journal
    tokens = sorted(assembly.max_age_s)
    ages = dict.fromkeys(tokens, head.timestamp_s)  # a round is not the wrong one for being old
    latest = assembly.rounds.fetch_latest(tokens, now_s=head.timestamp_s, max_age_s=ages, block=head.number)
    names = (row["explanation_hash"] for row in journal_rows(journal) if row["decided_at_s"] >= since_s)
    documents = (document for name in names if (document := _document(journal, name)) is not None)
    found = score_explanations(
        documents, assembly.rounds, latest, decimals=assembly.decimals, now_s=head.timestamp_s
    )
    return {"block": head.number, "since_s": since_s} | score_view(found)


# Export


def export_lines(journal: Journal, *, since_s: int, with_raw: bool) -> Iterator[dict[str, Any]]:
    """The journal as plain values: what it is about, its decisions by number, its notes by number."""
    facts = {name: journal.fact(name) for name in ("chain id", "genesis", "ledger", "checkpoint", "ledger cursor")}
    yield {"type": "journal", "facts": facts, "controls": journal.controls(), "since_s": since_s}
    for row in journal_rows(journal):
        if row["decided_at_s"] >= since_s:
            attempts = [_attempt(attempt, with_raw) for attempt in journal.attempts(row["id"])]
            yield {"type": "decision", **row, "broken": json.loads(row["broken"]), "attempts": attempts}
    for note in reversed(journal.notes(sum(journal.note_counts().values()))):
        if note["at_s"] >= since_s:
            yield {"type": "note", **note}


def _attempt(attempt: Any, with_raw: bool) -> dict[str, Any]:
    names = ("hash", "max_fee_wei", "tip_wei", "signed_at_s")
    raw = {"raw": "0x" + attempt.raw.hex()} if with_raw else {}
    return {name: getattr(attempt, name) for name in names} | raw
