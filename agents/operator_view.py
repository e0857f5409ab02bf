"""What an operator is shown, as plain values: pure functions of journal rows, readings, and what else was looked up.

Each view is a mapping that JSON can have; beside it are the lines that say the same to people. Amounts in a view are
base units with the decimals beside them, and the same in whole tokens as text: `exact`, never a float.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from enum import StrEnum
from typing import Any, Final

from agents.errors import Misconfigured
from agents.intent import BPS, weight_bps
from oracle.vault_state import Reason, VaultReading, VaultState, reason_names

# A daemon whose last cycle ended longer ago than this is looked at twice.
QUIET_AFTER_S: Final = 120
# What each bit of a vault's reasons means, and who can change it.
REASON_WORDS: Final[Mapping[Reason, str]] = {
    Reason.DAY_LOSS: "lost more since yesterday than its limit: until the day ends",
    Reason.DRAWDOWN: "fell further from its peak than its limit: until the DAO resumes it",
    Reason.COLLATERAL: "the agent's bond is below what the constitution demands: post more",
    Reason.DEPOSIT: "the agent's deposit does not cover what may be lost: post more",
    Reason.PRICE_MISSING: "an asset has no fresh price",
    Reason.UNSETTLED: "too many epochs wait to be settled",
    Reason.GUARDIAN: "the guardian stopped it",
    Reason.HALTED: "halted: until the DAO resumes it",
    Reason.QUOTE_UNHEALTHY: "the quote token is off its price",
}
STATE_WORDS: Final = {
    VaultState.ACTIVE: "active", VaultState.REDUCING: "may only reduce", VaultState.HALTED: "halted",
}  # fmt: skip


# Texts and figures


def printable(text: str) -> str:
    """Without what a terminal would obey or write from right to left: others' text must not rewrite what is near it."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)


def exact(units: int, decimals: int) -> str:
    """Base units as whole tokens, every digit."""
    with localcontext(prec=100):
        return f"{Decimal(units).scaleb(-decimals):f}"


def amount(units: int, decimals: int) -> str:
    """Base units as whole tokens for people: thousands apart, no zeros at the end."""
    with localcontext(prec=100):
        text = f"{Decimal(units).scaleb(-decimals):,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def rounded(units: int, decimals: int, places: int = 2) -> str:
    """Base units as whole tokens, towards zero, for a table: `exact` is what is accounted with."""
    scale = 10 ** max(decimals - places, 0)
    shown = abs(units) // scale * (1 if units >= 0 else -1)
    with localcontext(prec=100):
        return f"{Decimal(shown).scaleb(-min(places, decimals)):,f}"


def percent(bps: int) -> str:
    return f"{'-' if bps < 0 else ''}{abs(bps) // 100}.{abs(bps) % 100:02d} %"


def change_text(log2_q24: int) -> str:
    """A return, given as base-two logarithm in q24, in percent of the price before; for people only."""
    with localcontext(prec=30):
        share = Decimal(2) ** (Decimal(log2_q24) / (1 << 24)) - 1
        return f"{share * 100:+.2f} %"


def moment(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(seconds: int) -> str:
    """How long ago, roughly."""
    for size, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {name} ago"
    return f"{max(seconds, 0)} s ago"


def count(number: int, what: str) -> str:
    """`1 order`, `2 orders`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def reason_words(reasons: int) -> list[str]:
    """The set bits in words, with the name that the contracts use."""
    return [f"{words} ({bit.name})" for bit, words in REASON_WORDS.items() if reasons & bit]


def parse_since(text: str) -> int:
    """Unix seconds of a whole number, or of a date as ISO 8601 has it, UTC where it does not say. Raises
    Misconfigured."""
    if text.isdecimal():
        return int(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Misconfigured(f"{text!r} is no time: give unix seconds, or a date such as 2026-01-31T12:00") from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


# The daemon


def daemon_view(
    *, is_running: bool, heartbeat: Mapping[str, Any] | None, controls: Mapping[str, Any], now_s: int
) -> dict[str, Any]:
    """Whether a daemon has the journal, and when its last cycle ended. `now_s`: the machine's clock."""
    age_s = None if heartbeat is None else max(0, now_s - int(heartbeat["at_s"]))
    if not is_running:
        state = "not running"
    elif age_s is None:
        state = "starting"
    else:
        state = "running" if age_s <= QUIET_AFTER_S else "quiet"
    return {
        "state": state, "last_cycle_age_s": age_s,
        "last_block": None if heartbeat is None else heartbeat.get("block"),
        "pid": heartbeat.get("pid") if heartbeat and is_running else None,
        "paused": controls.get("paused"), "closing": controls.get("close all") or controls.get("close vaults"),
    }  # fmt: skip


def daemon_lines(view: Mapping[str, Any]) -> Iterator[str]:
    age = view["last_cycle_age_s"]
    last = "no cycle has ended" if age is None else f"last cycle {ago(age)}, at block {view['last_block']}"
    said = {
        "running": f"running (process {view['pid']}), {last}",
        "starting": f"running, {last} yet: it is starting, or something holds it up, which its log says",
        "quiet": f"running (process {view['pid']}), but {last}: halted, or waiting for a node; its log says which",
        "not running": f"not running, {last}: `marketflow agent run` starts it",
    }
    yield f"daemon      {said[view['state']]}"
    if view["paused"]:
        yield f"            paused: {view['paused']}; `marketflow agent resume` goes on"
    if view["closing"]:
        yield f"            closing {_closing(view['closing'])}; `marketflow agent resume` ends that"


def _closing(value: Any) -> str:
    return count(len(value), "vault") if isinstance(value, list) else "every position"


# Status


def why_idle(
    reading: VaultReading | str,
    *, vault: str, approved: str, is_in_flight: bool, trades: int, paused: str | None, is_on_paper: bool,
) -> str:  # fmt: skip
    """Why an agent would not trade now; empty when it would. `approved`: hash of the artefact that is loaded; `trades`:
    how many the journal has."""
    if isinstance(reading, str):
        return f"its vault can't be read: {reading}"
    if reading.artefact_hash != approved:
        return f"the DAO approved artefact {reading.artefact_hash}, loaded is {approved}: load the approved file"
    if is_in_flight:
        return "an order is under way"
    if paused:
        return f"paused: {paused}"
    if not is_on_paper and reading.nonce != trades:
        return (
            f"vault {vault} has made {count(reading.nonce, 'trade')}, the journal has {trades}: "
            "the next cycle looks, or `marketflow agent repair`"
        )
    return "the vault is halted" if reading.state is VaultState.HALTED else ""


def last_view(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A decision as status shows it."""
    if row is None:
        return None
    return {
        "decision": row["id"], "state": row["state"], "outcome": row["outcome"], "decided_at_s": row["decided_at_s"],
        "detail": row_detail(row), "transaction_hash": row["transaction_hash"], "trade_id": row["trade_id"],
    }  # fmt: skip


def row_detail(row: Mapping[str, Any]) -> str:
    """Why a decision ended as it did: the broken clauses, or what the vault said."""
    broken = "; ".join(f"{clause}: {detail}" for clause, detail in json.loads(row["broken"] or "[]"))
    return broken or row["detail"] or ""


def agent_view(
    *, name: str, vault: str, reading: VaultReading | str, last: Mapping[str, Any] | None, idle_because: str,
    decimals: int,
) -> dict[str, Any]:  # fmt: skip
    """One agent: its vault as it is, and what it did last."""
    view: dict[str, Any] = {
        "name": name, "vault": vault, "last": last_view(last), "idle_because": idle_because, "state": None,
        "reasons": [], "weights_bps": {}, "value": None, "decimals": decimals,
    }  # fmt: skip
    if isinstance(reading, VaultReading):
        view |= {
            "state": reading.state.name, "state_words": STATE_WORDS[reading.state],
            "reasons": reason_names(reading.reasons), "reason_words": reason_words(reading.reasons),
            "weights_bps": {p.token: weight_bps(reading, p.token) for p in reading.positions},
            "value": reading.value, "block": reading.block.number,
        }  # fmt: skip
    return view


def agent_lines(view: Mapping[str, Any], symbols: Mapping[str, str]) -> Iterator[str]:
    weights = ", ".join(f"{symbols.get(t, t)} {percent(bps)}" for t, bps in view["weights_bps"].items())
    state = f"{view['state_words']}, {weights}" if view["state"] else "unknown"
    worth = "" if view["value"] is None else f", worth {rounded(view['value'], view['decimals'])}"
    yield f"{view['name']}  {view['vault']}  {state}{worth}"
    for words in view.get("reason_words", ()):
        yield f"    because: {words}"
    if view["idle_because"]:
        yield f"    does not trade: {view['idle_because']}"
    if last := view["last"]:
        ended = f" ({last['outcome']})" if last["outcome"] else ""
        detail = f": {last['detail']}" if last["detail"] else ""
        said = f"decision {last['decision']} of {moment(last['decided_at_s'])}, {last['state']}{ended}{detail}"
        yield f"    last: {said}"
    else:
        yield "    last: no trade was wanted yet"


def in_flight_view(row: Mapping[str, Any], attempts: int) -> dict[str, Any]:
    """An order that was signed and is not mined."""
    return {key: row[key] for key in ("id", "vault", "state", "account", "account_nonce", "transaction_hash")} | {
        "attempts": attempts, "deadline_s": row["deadline_s"],
    }  # fmt: skip


def status_lines(view: Mapping[str, Any], symbols: Mapping[str, str]) -> Iterator[str]:
    """Everything that `status` and `top` say."""
    yield from daemon_lines(view["daemon"])
    head, problem = view["head"], view["problem"]
    at = f"block {head['number']} of {moment(head['timestamp_s'])}" if head else ""
    yield f"chain       {problem or at}"
    states = ", ".join(f"{number} {state}" for state, number in view["decisions"].items())
    yield f"decisions   {states or 'none yet'}"
    for row in view["in_flight"]:
        bumps = f", {row['attempts']} attempts" if row["attempts"] > 1 else ""
        yield f"in flight   decision {row['id']} of {row['vault']}: {row['state']} as {row['transaction_hash']}{bumps}"
    for agent in view["agents"]:
        yield from agent_lines(agent, symbols)


# What a daemon would trade with


def plan_view(
    reading: VaultReading, *, name: str, account: str, balance_wei: int | None, artefact: str, artefact_hash: str
) -> dict[str, Any]:
    """One agent before it trades. `account`: empty on paper."""
    decimals = len(str(reading.quote_unit)) - 1
    return {
        "name": name, "vault": reading.address, "account": account or None, "balance_wei": balance_wei,
        "artefact": artefact, "artefact_hash": artefact_hash, "is_approved": artefact_hash == reading.artefact_hash,
        "state": reading.state.name, "reasons": reason_names(reading.reasons), "decimals": decimals,
        "value": reading.value, "value_exact": exact(reading.value, decimals), "limits": asdict(reading.limits),
    }  # fmt: skip


def plan_lines(view: Mapping[str, Any]) -> Iterator[str]:
    """Of all agents, and of the operator."""
    yield f"chain {view['chain_id']}, block {view['block']}; nothing is sent or written"
    yield f"operator's limits: {_pairs(view['operator'])}"
    for agent in view["agents"]:
        worth = amount(agent["value"], agent["decimals"])
        yield f"{agent['name']}  {agent['vault']}  {agent['state'].lower()}, worth {worth} {view['quote']}"
        ether = "" if agent["balance_wei"] is None else f", {amount(agent['balance_wei'], 18)} ether"
        yield f"    account   {agent['account'] or 'none: it trades on paper'}{ether}"
        approved = "as the DAO approved" if agent["is_approved"] else "which the DAO has NOT approved: it won't trade"
        yield f"    artefact  {agent['artefact']} {agent['artefact_hash']}, {approved}"
        yield f"    limits    {_pairs(agent['limits'])}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


# Positions


def positions_view(reading: VaultReading, *, name: str, symbols: Mapping[str, str]) -> dict[str, Any]:
    """What a vault holds by its own books. Worth is None without a fresh price."""
    decimals = len(str(reading.quote_unit)) - 1
    return {
        "name": name, "vault": reading.address, "block": reading.block.number, "decimals": decimals,
        "value": reading.value, "value_exact": exact(reading.value, decimals),
        "quote_held": reading.quote_held, "quote_held_exact": exact(reading.quote_held, decimals),
        "positions": [_position(reading, p, decimals, symbols) for p in reading.positions],
    }  # fmt: skip


def _position(reading: VaultReading, held: Any, decimals: int, symbols: Mapping[str, str]) -> dict[str, Any]:
    own = len(str(held.unit)) - 1
    worth = reading.asset_value(held.token) if held.price_wad else None
    return {
        "token": held.token, "symbol": symbols.get(held.token, ""), "amount": held.amount,
        "amount_exact": exact(held.amount, own), "decimals": own,
        "price": exact(held.price_wad, 18) if held.price_wad else None,
        "worth": worth, "worth_exact": None if worth is None else exact(worth, decimals),
        "weight_bps": weight_bps(reading, held.token),
    }  # fmt: skip


def positions_lines(view: Mapping[str, Any], quote: str) -> Iterator[str]:
    decimals = view["decimals"]
    yield f"{view['name']}  {view['vault']}  worth {amount(view['value'], decimals)} {quote} at block {view['block']}"
    yield f"    {quote:<8} {amount(view['quote_held'], decimals)}"
    for held in view["positions"]:
        worth = "no fresh price" if held["worth"] is None else f"worth {amount(held['worth'], decimals)}"
        name = held["symbol"] or held["token"]
        yield f"    {name:<8} {amount(held['amount'], held['decimals'])}  {worth}, {percent(held['weight_bps'])}"


# Profit


def trade_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many trades are final, and how many a reorg could still take; those on paper are neither."""
    traded = [row for row in rows if row["outcome"] == "traded" and row["account"] != "paper"]
    final = sum(row["state"] == "final" for row in traded)
    return {"final": final, "not_final": len(traded) - final}


def pnl_view(
    reading: VaultReading, final: VaultReading | None, *, name: str, trades: Mapping[str, int]
) -> dict[str, Any]:
    """A vault's profit by its own books, now and at the block that no reorg is expected to reach. `final`: the reading
    at that block, None where there is none."""
    decimals = len(str(reading.quote_unit)) - 1
    fall_wad = max(reading.peak_wad - reading.unit_price_wad, 0)
    return {
        "name": name, "vault": reading.address, "decimals": decimals,
        "profit": reading.profit, "profit_exact": exact(reading.profit, decimals),
        "profit_final": None if final is None else final.profit,
        "profit_final_exact": None if final is None else exact(final.profit, decimals),
        "value": reading.value, "unit_price": exact(reading.unit_price_wad, 18),
        "drawdown_bps": fall_wad * BPS // reading.peak_wad if reading.peak_wad else 0,
        "drawdown_limit_bps": reading.limits.max_drawdown_bps,
        "trades_final": trades["final"], "trades_not_final": trades["not_final"],
    }  # fmt: skip


def pnl_totals(vaults: Sequence[Mapping[str, Any]], decimals: int) -> dict[str, Any]:
    """Sums over the vaults; the final profit is None when one vault's is not known."""
    profit = sum(view["profit"] for view in vaults)
    known = [view["profit_final"] for view in vaults]
    final = None if any(found is None for found in known) else sum(known)
    return {
        "profit": profit, "profit_exact": exact(profit, decimals), "decimals": decimals,
        "profit_final": final, "profit_final_exact": None if final is None else exact(final, decimals),
        "trades_final": sum(view["trades_final"] for view in vaults),
        "trades_not_final": sum(view["trades_not_final"] for view in vaults),
    }  # fmt: skip


def pnl_lines(view: Mapping[str, Any], quote: str) -> Iterator[str]:
    """Of a vault, or of the total."""
    decimals = view["decimals"]
    final = "not known" if view["profit_final"] is None else f"{amount(view['profit_final'], decimals)} {quote}"
    yield f"{view['name']}  {view['vault']}" if "vault" in view else "total"
    yield f"    final      {final} with {count(view['trades_final'], 'trade')}"
    yield (
        f"    now        {amount(view['profit'], decimals)} {quote}, of which a reorg could still take "
        f"{count(view['trades_not_final'], 'trade')}"
    )
    if "drawdown_bps" in view:
        fall, limit = percent(view["drawdown_bps"]), percent(view["drawdown_limit_bps"])
        yield f"    drawdown   {fall} of {limit}, worth {amount(view['value'], decimals)} {quote}"


# One check of an account


class Verdict(StrEnum):
    """`note` is nothing to repair, but something to know."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


def check(agent: str, what: str, verdict: Verdict, found: str, way_out: str = "") -> dict[str, str]:
    """One line of `check-accounts`. `way_out`: the command or setting that helps."""
    return {"agent": agent, "check": what, "verdict": str(verdict), "found": found, "help": way_out}


def check_line(view: Mapping[str, str]) -> str:
    way_out = f": {view['help']}" if view["help"] else ""
    return f"{view['verdict']:<8} {view['agent']:<12} {view['check']:<12} {view['found']}{way_out}"


def nonce_check(
    agent: str, *, latest: int, pending: int, given: Sequence[int], waiting: Sequence[int]
) -> list[dict[str, str]]:
    """What an account's nonces say. `latest`, `pending`: the node's; `given`: nonces that the journal gave out;
    `waiting`: those of them whose transaction is not mined."""
    following = max(latest, max(given, default=-1) + 1)
    figures = f"chain {latest}, with pending {pending}, journal next {following}"
    found = []
    if pending > following:
        text = f"{figures}: {count(pending - following, 'pending transaction')} of this key not the journal's"
        found.append(check(agent, "nonce", Verdict.PROBLEM, text, "wait until they are mined; who else has the key?"))
    elif waiting and min(waiting) > latest and pending <= latest:
        text = f"{figures}: nobody uses nonce {latest}, so that what is sent can't be mined"
        found.append(check(agent, "nonce", Verdict.PROBLEM, text, "`marketflow agent repair` uses it up"))
    else:
        found.append(check(agent, "nonce", Verdict.OK, figures))
    if foreign := sorted(set(range(min(given, default=latest), latest)) - set(given)):
        text = f"nonces {_some(foreign)} were used by transactions that are not the journal's"
        way_out = "when they are not yours, take another key: the controller calls setSigningKey"
        found.append(check(agent, "foreign", Verdict.NOTE, text, way_out))
    return found


def _some(numbers: Sequence[int], most: int = 5) -> str:
    shown = ", ".join(map(str, numbers[:most]))
    return f"{shown} and {len(numbers) - most} more" if len(numbers) > most else shown


# One decision


def explain_view(
    row: Mapping[str, Any] | None, document: Mapping[str, Any] | None, entry: Mapping[str, Any] | None, *,
    attempts: Sequence[Mapping[str, Any]] = (), confirmations: int | None = None, finality_blocks: int = 0,
    problem: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Everything that is known of one decision. `entry`: fields of the ledger's entry; `confirmations`: blocks on top
    of its own, None when it is not known to be mined; `problem`: why the chain was not asked."""
    is_final = row is not None and row["state"] == "final"
    return {
        "decision": None if row is None else {**row, "broken": json.loads(row["broken"] or "[]")},
        "attempts": list(attempts), "explanation": document, "ledger_entry": entry,
        "confirmations": confirmations, "finality_blocks": finality_blocks,
        "is_final": is_final or (confirmations is not None and confirmations >= finality_blocks),
        "problem": problem,
    }  # fmt: skip


def explain_lines(view: Mapping[str, Any], symbols: Mapping[str, str], decimals: int) -> Iterator[str]:
    row, document, entry = view["decision"], view["explanation"], view["ledger_entry"]
    if row is None:
        yield "This journal knows nothing of it; what follows is the chain's ledger."
    else:
        kind = "a poke that used up a nonce" if row["kind"] == "filler" else f"trade {row['sequence']}"
        yield f"Decision {row['id']} of {moment(row['decided_at_s'])}, block {row['block']}: {kind} of {row['vault']}."
    if document is not None:
        yield from _document_lines(document)
    elif row is not None and row["kind"] != "filler":
        yield f"Explanation {row['explanation_hash'] or '(none)'} is not in the journal."
    if row is not None:
        yield from _row_lines(row, view["attempts"])
    if entry is not None:
        yield from _entry_lines(entry, symbols, decimals)
    yield _finality_line(view)


def _document_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """Seen, decided, reviewed."""
    observation, decision, vault = document["observation"], document["decision"], document["vault"]
    seen = ", ".join(f"{name} {value}" for name, value in observation["features"].items())
    yield f"Seen: {seen}; round {observation['last_round'].get('round_id', '?')}, vault {vault['state'].lower()}."
    wanted = percent(int(decision["wanted_weight_bps"]))
    yield f"Decided: a weight of {wanted} by {document['artefact']['name']}: {decision['reason']}."
    if said := document.get("interval"):
        low, high = (change_text(int(said[name])) for name in ("low_q24", "high_q24"))
        share = percent(int(said["coverage_bps"]))
        yield f"Expected: a move of {low} to {high} within {said['horizon_s']} s, in {share} of all cases."
    broken = "; ".join(f"{clause['clause']} ({clause['detail']})" for clause in document["review"])
    yield f"Reviewed: {f'denied by {broken}' if broken else 'nothing against it'}."
    yield f"In its words: {document['text']}"


def _row_lines(row: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    detail = row_detail({**row, "broken": json.dumps(row["broken"])})
    ended = f", {row['outcome']}" if row["outcome"] else ""
    yield f"Journal: {row['state']}{ended}{f': {detail}' if detail else ''}."
    for index, attempt in enumerate(attempts):
        what = "Signed" if index == 0 else "Signed again at a higher fee"
        yield f"{what}: {attempt['hash']}, nonce {row['account_nonce']} of {row['account']}."


def _entry_lines(entry: Mapping[str, Any], symbols: Mapping[str, str], decimals: int) -> Iterator[str]:
    token_in, token_out = (symbols.get(entry[key], entry[key]) for key in ("tokenIn", "tokenOut"))
    yield f"Ledger: entry {entry['id']} in block {entry['block']}, transaction {entry['transaction_hash']}:"
    yield f"    {entry['amountIn']} of {token_in} for {entry['amountOut']} of {token_out} (base units),"
    yield f"    vault worth {amount(int(entry['netAssetValue']), decimals)} afterwards, shortfall {entry['shortfall']}."


def _finality_line(view: Mapping[str, Any]) -> str:
    if view["problem"]:
        return f"The chain was not asked: {view['problem']}"
    if view["confirmations"] is None:
        return "It is in no block."
    if view["is_final"]:
        return f"Final: {count(view['confirmations'], 'block')} on top of its own."
    return f"Not final: {view['confirmations']} of {count(view['finality_blocks'], 'block')} on top of its own."

