"""From a wanted weight to an order: what would be traded, before anybody says whether it may.

Integers only, and a function of readings that can be read again, so that an audit arrives at the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

from offchain_rl.policy import Decision
from oracle.vault_state import VaultReading

BPS = 10_000
WAD = 10**18


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """One trade that is wanted: quote for an asset (`is_buy`) or an asset for quote."""

    asset: str
    is_buy: bool
    # Base units of what is sold.
    amount_in: int
    # Base units of what is bought; less is refused by the venue.
    min_amount_out: int
    # Worth of the trade at the observed price, base units of quote.
    value: int


def weight_bps(vault: VaultReading, asset: str) -> int:
    """Share of the vault's value that is in the asset, rounded down; 0 for an empty vault."""
    return vault.asset_value(asset) * BPS // vault.value if vault.value else 0


def plan_intent(vault: VaultReading, asset: str, decision: Decision) -> Intent | None:
    """The trade that brings the asset to the decided weight, or None when there is nothing to trade.

    A sale never exceeds what is held, a purchase never the quote there is, and neither what is left of
    the day's turnover. A vault that may only reduce sells everything it holds of the asset, whatever the policy wants. The
    least to be received is what the vault's own slippage limit leaves of the observed price, rounded up.
    """
    held = vault.position(asset)
    if vault.is_reducing:
        return _sale(vault, asset, held.amount) if held.amount else None
    if not decision.is_rebalance:
        return None
    if held.price_wad == 0:
        return None
    turnover_left = vault.value * vault.limits.max_daily_turnover_bps // BPS - vault.turnover_today
    difference = vault.value * decision.target_weight_bps // BPS - vault.asset_value(asset)
    if difference > 0:
        return _purchase(vault, asset, min(difference, turnover_left, vault.quote_held))
    if decision.target_weight_bps == 0 and vault.asset_value(asset) <= turnover_left:
        return _sale(vault, asset, held.amount)
    to_sell = min(-difference, turnover_left)
    return _sale(vault, asset, min(to_sell * held.unit * WAD // (held.price_wad * vault.quote_unit), held.amount))


def _purchase(vault: VaultReading, asset: str, amount: int) -> Intent | None:
    held = vault.position(asset)
    at_oracle = amount * held.unit * WAD // (held.price_wad * vault.quote_unit)
    return _intent(vault, asset, is_buy=True, amount_in=amount, at_oracle=at_oracle, value=amount)


def _sale(vault: VaultReading, asset: str, amount: int) -> Intent | None:
    value = vault.value_of(asset, amount)
    return _intent(vault, asset, is_buy=False, amount_in=amount, at_oracle=value, value=value)


def _intent(
    vault: VaultReading, asset: str, *, is_buy: bool, amount_in: int, at_oracle: int, value: int
) -> Intent | None:
    if amount_in <= 0 or at_oracle <= 0:
        return None
    limits = vault.limits
    slippage_bps = limits.max_reduce_slippage_bps if vault.is_reducing else limits.max_trade_slippage_bps
    least = -(-at_oracle * (BPS - slippage_bps) // BPS)
    return Intent(asset=asset, is_buy=is_buy, amount_in=amount_in, min_amount_out=least, value=value)
