"""Whether a wanted trade may be sent: the vault's guard mirrored, and the operator's own wishes on top.

The vault has the last word and needs none of this. It is here so that an agent that means well does not pay for
refusals, and so that a refusal has a name before it costs anything. The stricter of chain and operator wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agents.intent import BPS, Intent
from oracle.consensus import Consensus
from oracle.vault_state import VaultReading, VaultState, reason_names


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorLimits:
    """What the operator of an agent wants beyond what the chain demands; the defaults want nothing."""

    max_position_bps: int = BPS
    # Largest trade, as a share of the vault's value.
    max_trade_bps: int = BPS
    # Smaller trades are not worth their gas, base units of quote.
    min_trade_value: int = 0
    max_trades_per_day: int = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenClause:
    """One clause that a trade would break, and the numbers that say so."""

    clause: str
    detail: str


def review(
    intent: Intent,
    vault: VaultReading,
    *,
    artefact_hash: str,
    operator: OperatorLimits = OperatorLimits(),
    consensus: Consensus | None = None,
) -> tuple[BrokenClause, ...]:
    """The clauses that the trade would break, none when it may be sent. No price means denied."""
    broken = [
        *_state_clauses(intent, vault, artefact_hash),
        *_size_clauses(intent, vault, operator),
    ]
    if intent.is_buy or not vault.is_emergency:
        broken += _cumulative_clauses(vault)
    if intent.is_buy or not vault.is_reducing:
        broken += _outcome_clauses(intent, vault, operator)
    return (*broken, *consensus_clauses(intent, vault, consensus))


def consensus_clauses(intent: Intent, vault: VaultReading, consensus: Consensus | None) -> tuple[BrokenClause, ...]:
    """Sources that disagree deny a trade, but not a vault that may only reduce its way out: in a fall a mean lags."""
    if consensus is None or not consensus.objection or (vault.is_reducing and not intent.is_buy):
        return ()
    return (BrokenClause(clause="consensus", detail=consensus.objection),)


def _state_clauses(intent: Intent, vault: VaultReading, artefact_hash: str) -> Sequence[BrokenClause]:
    if artefact_hash != vault.artefact_hash:
        detail = f"loaded {artefact_hash}, the DAO approved {vault.artefact_hash}"
        return [BrokenClause(clause="artefact", detail=detail)]
    reasons = ", ".join(reason_names(vault.reasons))
    if vault.state is VaultState.HALTED:
        return [BrokenClause(clause="halted", detail=reasons)]
    if vault.position(intent.asset).price_wad == 0:
        return [BrokenClause(clause="price", detail=f"no fresh price of {intent.asset}")]
    if vault.is_reducing and intent.is_buy:
        return [BrokenClause(clause="reducing", detail=reasons)]
    return []


def _size_clauses(intent: Intent, vault: VaultReading, operator: OperatorLimits) -> list[BrokenClause]:
    broken = []
    held = vault.quote_held if intent.is_buy else vault.position(intent.asset).amount
    if intent.amount_in > held:
        broken.append(BrokenClause(clause="holdings", detail=f"{intent.amount_in} of {held} held"))
    if intent.value < operator.min_trade_value:
        broken.append(BrokenClause(clause="dust", detail=f"{intent.value}, at least {operator.min_trade_value}"))
    return broken


def _cumulative_clauses(vault: VaultReading) -> list[BrokenClause]:
    """A trade that is expected to cost the fee is sent; one that could only pass with luck is not."""
    cap = vault.value * vault.limits.max_cumulative_slippage_bps // BPS
    level = _decayed_slippage(vault, cap)
    return [BrokenClause(clause="cumulative slippage", detail=f"{level}, the limit is {cap}")] if level > cap else []


def _outcome_clauses(intent: Intent, vault: VaultReading, operator: OperatorLimits) -> list[BrokenClause]:
    """What the guard checks of an executed trade, at the worst fill that `min_amount_out` lets through.

    For the position a good fill is the worst one, when the pool lags behind the oracle: it may be as much better.
    """
    limits = vault.limits
    worst_loss = intent.value * limits.max_trade_slippage_bps // BPS
    value_after = vault.value - worst_loss
    broken = []

    def check(clause: str, value: int, limit: int) -> None:
        if value > limit:
            broken.append(BrokenClause(clause=clause, detail=f"{value}, the limit is {limit}"))

    if operator.max_trade_bps < BPS:  # all there is, rounded up, is more than all there is, rounded down
        check("trade size", intent.value, vault.value * operator.max_trade_bps // BPS)
    check("trades per day", vault.trades_today + 1, min(limits.max_trades_per_day, operator.max_trades_per_day))
    check("turnover", vault.turnover_today + intent.value, vault.value * limits.max_daily_turnover_bps // BPS)
    if intent.is_buy:
        share_bps = min(limits.max_position_bps, operator.max_position_bps)
        check("position", vault.asset_value(intent.asset) + intent.value + worst_loss, vault.value * share_bps // BPS)
    if vault.value:
        unit_price = vault.unit_price_wad * value_after // vault.value
        peak = max(vault.peak_wad, vault.unit_price_wad)
        check("daily loss", vault.reference_wad * (BPS - limits.max_daily_loss_bps), unit_price * BPS)
        check("drawdown", peak * (BPS - limits.max_drawdown_bps), unit_price * BPS)
    return broken


def _decayed_slippage(vault: VaultReading, cap: int) -> int:
    elapsed_s = vault.block.timestamp_s - vault.slippage_at_s
    if elapsed_s >= vault.slippage_decay_s:
        return 0
    return max(0, vault.slippage_level - cap * elapsed_s // vault.slippage_decay_s)
