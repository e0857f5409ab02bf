"""What happened in a demo run, read back from the chain: a table, a picture, and report.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.contracts import EventLog, decode_logs
from agents.demo import Demo, Strategy, count_by_name
from agents.interval_scores import score_explanations, score_lines, score_view
from agents.ledger import LedgerEntry, fetch_entries, verify_chain
from oracle.vault_state import Reason, VaultState, reason_names

_STATES = ("Pending", "Active", "Canceled", "Defeated", "Succeeded", "Queued", "Expired", "Executed")
_BATCH = 5000


def read_report(demo: Demo, *, evm_name: str, timing_s: dict[str, float]) -> dict[str, Any]:
    """The figures of a run. Amounts are base units: quote 1e-6, token wei; shares basis points."""
    events = fetch_events(demo)
    strategies = [s for s in demo.strategies_by_name.values() if s.vault is not None]
    entries = {s.name: fetch_entries(demo.evm, demo.ledger, s.vault.address) for s in strategies}
    return {
        "bars": demo.config.bars,
        "evm": evm_name,
        "strategies": [_strategy(demo, s, entries[s.name]) for s in strategies],
        "proposals": _proposals(demo, events),
        "votes": _votes(demo, events),
        "trades": sum(len(found) for found in entries.values()),
        "refusals": _refusals(demo, events),
        "reviewed_refusals": _reviewed_refusals(demo),
        "reductions": _state_changes(events, VaultState.REDUCING, Reason.DAY_LOSS | Reason.DRAWDOWN),
        "halts": _state_changes(events, VaultState.HALTED, Reason.HALTED),
        "auction_fills": _count(events, "AuctionFilled"),
        "updates": _count(events, "StrategyUpdated"),
        "recalls": _count(events, "CapitalRecalled"),
        "settlements": _settlements(events),
        "audit": _audit(demo, strategies, entries),
        "intervals": _intervals(demo, strategies),
        **({"solana": demo.solana.report()} if demo.solana else {}),
        "timing": {name: round(seconds, 1) for name, seconds in timing_s.items()},
    }


def fetch_events(demo: Demo) -> list[EventLog]:
    """Every event of our contracts since the protocol was deployed, in order."""
    first, last = demo.d.deployed_at_block, demo.evm.w3.eth.block_number
    ours = {str(v) for v in demo.d.to_dict().values() if isinstance(v, str)}
    ours |= {s.vault.address for s in demo.strategies_by_name.values() if s.vault is not None}
    found: list[EventLog] = []
    for start in range(first, last + 1, _BATCH):
        logs = demo.evm.w3.eth.get_logs(
            {"fromBlock": start, "toBlock": min(start + _BATCH - 1, last), "address": sorted(ours)}  # type: ignore[typeddict-item]
        )
        found += decode_logs({"logs": logs})
    return found


def write_report(report: dict[str, Any], path: Path) -> None:
    """As JSON with sorted keys: two equal runs give equal bytes."""
    path.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _strategy(demo: Demo, s: Strategy, entries: Sequence[LedgerEntry]) -> dict[str, Any]:
    status = demo.evm.call(s.vault.functions.status())
    account = demo.evm.call(demo.pool.functions.accountOf(s.vault.address))
    guard = demo.evm.call(s.vault.functions.guard())
    return {
        "name": s.name,
        "kind": s.kind,
        "artefact_hash": "0x" + bytes(demo.evm.call(s.vault.functions.artefactHash())).hex(),
        "agent_id": s.agent_id,
        "vault": s.vault.address,
        "state": VaultState(status.state).name,
        "trades": len(entries),
        "value": status.value,
        "profit": status.profit,
        "unit_price_wad": status.unitPriceWad,
        "peak_wad": guard.peak,
        "account": account.credited,
    }


def _proposals(demo: Demo, events: Sequence[EventLog]) -> list[dict[str, Any]]:
    names = {s.proposal_id: s.name for s in demo.strategies_by_name.values()}
    manifests = {e.args["proposalId"]: e.args["manifestHash"] for e in events if e.name == "StrategyProposed"}
    return [
        {
            # As text: JSON readers lose digits of larger numbers.
            "id": str(e.args["proposalId"]),
            "description": e.args["description"].split("#proposer=")[0],
            "strategy": names.get(e.args["proposalId"], ""),
            "manifest_hash": "0x" + manifests.get(e.args["proposalId"], b"").hex(),
            "state": _STATES[demo.evm.call(demo.dao.functions.state(e.args["proposalId"]))],
        }
        for e in events
        if e.name == "ProposalCreated"
    ]


def _votes(demo: Demo, events: Sequence[EventLog]) -> dict[str, int]:
    """A vote is by signature when somebody else than the voter sent it: the voter's ballot nonce was used."""
    voters = [e.args["voter"] for e in events if e.name == "VoteCast"]
    signed = sum(demo.evm.call(demo.dao.functions.nonces(voter)) for voter in sorted(set(voters)))
    return {"direct": len(voters) - signed, "by_signature": signed}


def _refusals(demo: Demo, events: Sequence[EventLog]) -> dict[str, int]:
    """Per error: transactions that reverted, asked for their reason again, and refusals that left an event."""
    names = [demo.evm.revert_reason(transaction).name for transaction in demo.reverted]
    return count_by_name(names + [e.name for e in events if e.name == "TradeRefused"])


def _reviewed_refusals(demo: Demo) -> dict[str, int]:
    """Per clause: intents that the agents' own review denied before anything was sent."""
    rows = demo.journal.rows(state="refused")
    return count_by_name([clause for row in rows for clause, _ in json.loads(row["broken"])])


def _state_changes(events: Sequence[EventLog], state: VaultState, reasons: Reason) -> int:
    """How often a vault came into a state for one of these reasons."""
    changes = (e.args for e in events if e.name == "StateChanged")
    return sum(1 for change in changes if change["state"] == state and change["reasons"] & reasons)


def _count(events: Sequence[EventLog], name: str) -> int:
    return sum(1 for e in events if e.name == name)


def _settlements(events: Sequence[EventLog]) -> list[dict[str, Any]]:
    return [
        {
            "agent": e.args["agentId"],
            "pnl": e.args["pnl"],
            "reward": e.args.get("reward", 0),
            "clawed_back": e.args.get("fromUnclaimed", 0) + e.args.get("fromBond", 0),
        }
        for e in events
        if e.name in ("Rewarded", "ClawedBack")
    ]


def _audit(demo: Demo, strategies: Sequence[Strategy], entries: dict[str, list[LedgerEntry]]) -> dict[str, Any]:
    """What the auditor found as it followed, after proving that the ledger's chain has exactly the trades it saw.

    The rogue's trades name explanations that nobody has: unexplained, never fine.
    """
    demo.audit_new_trades()
    for s in strategies:
        verify_chain(
            entries[s.name],
            genesis=bytes(demo.evm.call(demo.ledger.functions.genesisOf(s.vault.address))),
            head=bytes(demo.evm.call(demo.ledger.functions.headOf(s.vault.address))),
        )
    verdicts = [(entry, demo.findings[entry.id]) for found in entries.values() for entry in found]
    unexplained = [e for e, findings in verdicts if any(f.field == "explanation" for f in findings)]
    explained = [(e, findings) for e, findings in verdicts if e not in unexplained]
    failed = [{"trade": e.id, "field": f.field} for e, findings in explained for f in findings]
    return {
        "checked": len(explained),
        "failed": len({item["trade"] for item in failed}),
        "unexplained": len(unexplained),
        "findings": failed,
    }


def _intervals(demo: Demo, strategies: Sequence[Strategy]) -> dict[str, Any]:
    """What the intervals were worth that the agents stored with every decision, denied ones too."""
    names = [step.explanation_hash for s in strategies for _, step in s.steps if step.explanation_hash]
    now_s = demo.evm.now_s()
    tokens = [asset.token for asset in demo.market.book.assets]
    latest = demo.rounds.fetch_latest(tokens, now_s=now_s, max_age_s=dict.fromkeys(tokens, now_s))
    documents = (demo.documents.get(name) for name in names)
    return score_view(score_explanations(documents, demo.rounds, latest, decimals=demo.decimals, now_s=now_s))


def format_report(report: dict[str, Any]) -> str:
    """The table for people."""
    lines = [f"{'strategy':<18}{'kind':<10}{'trades':>7}{'profit':>13}{'state':>10}  artefact"]
    lines += [
        f"{s['name']:<18}{s['kind']:<10}{s['trades']:>7}{s['profit'] / 10**6:>+13,.2f}{s['state']:>10}"
        f"  {s['artefact_hash'][:14]}…"
        for s in report["strategies"]
    ]
    paid = sum(s["reward"] for s in report["settlements"]) / 10**18
    taken = sum(s["clawed_back"] for s in report["settlements"]) / 10**18
    audit, votes = report["audit"], report["votes"]
    lines += [
        "",
        f"votes       {votes['direct']} sent by the voter, {votes['by_signature']} signed and relayed",
        f"trades      {report['trades']} in the ledger; audit: {audit['checked']} decided again, "
        f"{audit['failed']} failed, {audit['unexplained']} unexplained (the rogue's)",
        f"refused     {', '.join(f'{name} {count}' for name, count in report['refusals'].items()) or 'nothing'}",
        f"guard       {report['reductions']} times reduce-only, {report['halts']} halted, "
        f"{report['auction_fills']} lots auctioned",
        f"rewards     {paid:,.0f} tokens paid, {taken:,.0f} taken back in {len(report['settlements'])} settlements",
        *score_lines(report["intervals"]),
        *solana_lines(report),
    ]
    return "\n".join(lines)


def solana_lines(report: dict[str, Any]) -> list[str]:
    """What happened on Solana, when anything was to."""
    told = report.get("solana")
    if not told:
        return []
    if not told["vault"]:
        return ["Solana      the vote was not over in time: no vault yet"]
    state = ", ".join(reason_names(told["reasons"])) or "ACTIVE"
    return [
        f"Solana      {told['decisions_carried_over']} decisions carried over; {told['trades']} trades in the ledger, "
        f"{told['explained']} explained; profit {told['profit'] / 10**6:+,.2f}, {state}",
        f"            rewards {told['rewarded'] / 10**9:,.0f} tokens paid, {told['clawed_back'] / 10**9:,.0f} taken "
        f"back; paid less taken is rate x account: {'yes' if told['is_exact'] else 'NO'}",
    ]


def draw_picture(demo: Demo, report: dict[str, Any], path: Path) -> None:
    """Equity against buy-and-hold, trades, refusals, and drawdown against its limit, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    strategies = [s for s in (*demo.strategies_by_name.values(), demo.solana) if s and any(s.equity)]
    bars = range(demo.config.bars)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(11, 8), sharex=True, height_ratios=(2, 1), layout="constrained")
    for symbol, grey in zip(demo.symbols, ("0.55", "0.8"), strict=False):
        prices = demo.prices[symbol][-demo.config.bars :]
        top.plot(bars, [p / prices[0] for p in prices], color=grey, linewidth=0.9, label=f"{symbol}, bought and held")
    for s in strategies:
        values = [None if v is None else v / 10**18 for v in s.equity]
        [line] = top.plot(bars, values, linewidth=1.4, label=s.name)
        for is_buy, marker in ((True, "^"), (False, "v")):
            at = [bar for bar, step in s.steps if step.outcome and step.outcome.entry and step.intent.is_buy is is_buy]
            top.plot(at, [values[bar] for bar in at], marker, color=line.get_color(), markersize=5)
        refused = [bar for bar, step in s.steps if step.broken or (step.outcome and step.outcome.error)]
        denied = [bar for bar in refused if bar - 1 not in refused]  # the first of a row
        top.plot(denied, [values[bar] for bar in denied], "x", color="black", markersize=4)
        peak, drawdown = 0.0, []
        for value in values:
            peak = max(peak, value or 0.0)
            drawdown.append(None if value is None else (value / peak - 1) * 100)
        bottom.plot(bars, drawdown, color=line.get_color(), linewidth=1.2)
        bottom.axhline(-s.limits.max_drawdown_bps / 100, color=line.get_color(), linewidth=0.8, linestyle=":")
    top.set_ylabel("unit price (1.0 at the start)")
    title = f"{demo.config.bars} bars of real prices on {report['evm']}; ▲ bought, ▼ sold, × refused"
    top.set_title(title, fontsize=11)
    top.legend(loc="upper left", fontsize=8)
    bottom.set_ylabel("drawdown, %; dotted: its limit")
    bottom.set_xlabel(f"bars of {demo.config.series[demo.symbols[0]].bar_s // 60} minutes")
    for axis in (top, bottom):
        axis.grid(alpha=0.25)
    figure.savefig(path, dpi=130)
    plt.close(figure)
