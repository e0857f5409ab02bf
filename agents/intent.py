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
    # Worth of what is sold at the observed price, base units of quote, rounded up: what the guard counts as turnover.
    value: int


def weight_bps(vault: VaultReading, asset: str) -> int:
    """Share of the vault's value that is in the asset, rounded down; 0 for an empty vault."""
    return vault.asset_value(asset) * BPS // vault.value if vault.value else 0


def plan_intent(vault: VaultReading, asset: str, decision: Decision) -> Intent | None:
    """The trade that brings the asset to the decided weight, or None when there is nothing to trade, or no price.

    A sale never exceeds what is held, a purchase never the quote there is, and neither what is left of the day's
    turnover. A vault that may only reduce sells everything it holds of the asset, whatever the policy wants. The least
    to be received is the least that the vault's own slippage limit takes at the observed price.
    """
    held = vault.position(asset)
    if held.price_wad == 0:
        return None
    if vault.is_reducing:
        return _sale(vault, asset, held.amount)
    if not decision.is_rebalance:
        return None
    turnover_left = vault.value * vault.limits.max_daily_turnover_bps // BPS - vault.turnover_today
    difference = vault.value * decision.target_weight_bps // BPS - vault.asset_value(asset)
    if difference > 0:
        return _purchase(vault, asset, min(difference, turnover_left, vault.quote_held))
    if decision.target_weight_bps == 0 and vault.value_up(asset, held.amount) <= turnover_left:
        return _sale(vault, asset, held.amount)
    to_sell = min(-difference, turnover_left)
    return _sale(vault, asset, min(to_sell * held.unit * WAD // (held.price_wad * vault.quote_unit), held.amount))


def _purchase(vault: VaultReading, asset: str, amount: int) -> Intent | None:
    held = vault.position(asset)
    price = held.price_wad * vault.quote_unit
    at_oracle = amount * held.unit * WAD // price
    # The least whose worth, rounded down as the guard does, is within the limit.
    least = -(-_least_worth(vault, amount) * held.unit * WAD // price)
    return _intent(asset, is_buy=True, amount_in=amount, at_oracle=at_oracle, least=least, value=amount)


def _sale(vault: VaultReading, asset: str, amount: int) -> Intent | None:
    at_oracle, value = vault.value_of(asset, amount), vault.value_up(asset, amount)
    least = _least_worth(vault, value)
    return _intent(asset, is_buy=False, amount_in=amount, at_oracle=at_oracle, least=least, value=value)


def _least_worth(vault: VaultReading, value: int) -> int:
    limits = vault.limits
    slippage_bps = limits.max_reduce_slippage_bps if vault.is_emergency else limits.max_trade_slippage_bps
    return value - value * slippage_bps // BPS


def _intent(asset: str, *, is_buy: bool, amount_in: int, at_oracle: int, least: int, value: int) -> Intent | None:
    if amount_in <= 0 or at_oracle < least:  # so little that rounding alone is more than the limit allows
        return None
    return Intent(asset=asset, is_buy=is_buy, amount_in=amount_in, min_amount_out=least, value=value)
