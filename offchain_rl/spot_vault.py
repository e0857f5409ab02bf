"""A vault with one asset, in integers: what a trade does to it and what its limits allow.

The model the environment, the backtest and the evaluation share. It mirrors the guard of the vault on
chain, as far as one asset goes:

    position      a buy never brings the asset above `max_weight_bps`
    turnover      what is traded in one UTC day is at most `max_turnover_bps` of the value; a larger
                  order is cut to what is left
    slippage      a fill further than `max_trade_slippage_bps` from the last round, against the vault,
                  does not happen, and its gas is paid
    daily loss    below the day's reference by `max_daily_loss_bps`: the asset is sold, and nothing is
                  bought until the next day
    drawdown      below the peak by `max_drawdown_bps`: the asset is sold, and nothing is bought again

On chain the vault only forbids what does not reduce; that the asset is then sold is what a careful
agent does, and what is assumed here. Such a sale is exempt from the turnover and the slippage limit.

Amounts: quote in 1e-6 units, asset in 1e-18 units, prices in 1e-8 dollars with one quote token worth
one dollar. All divisions round down and all of them against the vault.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from offchain_rl.observation import BPS, WAD, VaultState

# asset_wad * price_e8 / this = quote in 1e-6 units.
_ASSET_PRICE_TO_QUOTE: Final = 10**20
DAY_S: Final = 86400


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What trading costs. The defaults are a 0.05 % pool, 0.05 % slippage and half a dollar of gas."""

    fee_bps: int = 5
    slippage_bps: int = 5
    # For each trade, base units of the quote token.
    gas_quote: int = 500_000

    def __post_init__(self) -> None:
        _require(0 <= self.fee_bps < BPS, "fee_bps lies between 0 and 9999")
        _require(0 <= self.slippage_bps < BPS, "slippage_bps lies between 0 and 9999")
        _require(self.gas_quote >= 0, "gas_quote is not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the vault enforces, basis points. `UNLIMITED` is a vault that enforces nothing."""

    max_weight_bps: int = 10_000
    max_turnover_bps: int = 20_000
    max_trade_slippage_bps: int = 200
    max_daily_loss_bps: int = 500
    max_drawdown_bps: int = 2_000

    def __post_init__(self) -> None:
        _require(0 <= self.max_weight_bps <= BPS, "max_weight_bps lies between 0 and 10000")
        _require(self.max_turnover_bps > 0, "max_turnover_bps is positive")
        _require(self.max_trade_slippage_bps > 0, "max_trade_slippage_bps is positive")
        _require(0 < self.max_daily_loss_bps <= BPS, "max_daily_loss_bps lies between 1 and 10000")
        _require(0 < self.max_drawdown_bps <= BPS, "max_drawdown_bps lies between 1 and 10000")


UNLIMITED: Final = Limits(
    max_turnover_bps=10**9, max_trade_slippage_bps=10**9, max_daily_loss_bps=BPS, max_drawdown_bps=BPS
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotVault:
    """The state of the vault at the close of a bar. It never changes: a step answers with a new one."""

    quote: int
    asset_wad: int
    # The last round, at which everything is valued.
    price_e8: int
    # Value at the start; one unit was worth 1e18 then.
    start_value: int
    peak_value: int
    # UTC day number of the last bar, and values at the last price before that day and the day before.
    day: int
    day_open_value: int
    previous_open_value: int
    day_turnover: int = 0
    # Past the drawdown limit: nothing is bought any more.
    is_stopped: bool = False
    trades: int = 0
    refused: int = 0
    turnover: int = 0
    # Fees, slippage and gas so far.
    costs: int = 0

    @property
    def value(self) -> int:
        """Value of quote and asset at the last round, base units of the quote token."""
        return self.quote + self.asset_value

    @property
    def asset_value(self) -> int:
        """Value of the asset alone, rounded down."""
        return self.asset_wad * self.price_e8 // _ASSET_PRICE_TO_QUOTE

    @property
    def weight_bps(self) -> int:
        """Share of the asset in the value, rounded down."""
        return self.asset_value * BPS // self.value if self.value else 0

    @property
    def drawdown_bps(self) -> int:
        """Loss from the peak, rounded down."""
        return max(self.peak_value - self.value, 0) * BPS // self.peak_value

    def is_past_daily_loss(self, limits: Limits) -> bool:
        """Whether the day's loss has reached its limit."""
        reference = max(self.day_open_value, self.previous_open_value)
        return (reference - self.value) * BPS >= limits.max_daily_loss_bps * reference

    def observe(self) -> VaultState:
        """What an observation reads from the vault."""
        return VaultState(
            value=self.value,
            weight_bps=self.weight_bps,
            unit_price_wad=self.value * WAD // self.start_value,
            peak_wad=self.peak_value * WAD // self.start_value,
        )


def open_vault(*, quote: int, price_e8: int, close_s: int) -> SpotVault:
    """A vault that holds `quote` and no asset at the close of the bar that ends at `close_s`."""
    _require(quote > 0, "a vault starts with some quote")
    return SpotVault(
        quote=quote,
        asset_wad=0,
        price_e8=price_e8,
        start_value=quote,
        peak_value=quote,
        day=close_s // DAY_S,
        day_open_value=quote,
        previous_open_value=quote,
    )


def step_vault(
    vault: SpotVault,
    target_weight_bps: int | None,
    *,
    fill_price_e8: int,
    close_price_e8: int,
    close_s: int,
    costs: Costs,
    limits: Limits,
) -> SpotVault:
    """The vault one bar later: trade to the target at the fill price, then value at the close.

    `target_weight_bps` None trades nothing, unless a limit is broken. `close_s` is when the bar
    closes. The trade belongs to the day of the decision.
    """
    is_reducing = vault.is_stopped or vault.is_past_daily_loss(limits)
    if is_reducing:
        target_weight_bps = 0
    if target_weight_bps is not None:
        vault = _trade(vault, target_weight_bps, fill_price_e8, costs, limits, is_reducing=is_reducing)
    return _mark(vault, close_price_e8, close_s, limits)


def _trade(
    vault: SpotVault, target_weight_bps: int, fill_price_e8: int, costs: Costs, limits: Limits, *, is_reducing: bool
) -> SpotVault:
    value = vault.value
    target_value = value * min(max(target_weight_bps, 0), limits.max_weight_bps) // BPS
    wanted = target_value - vault.asset_value
    if not is_reducing:
        room = max(value * limits.max_turnover_bps // BPS - vault.day_turnover, 0)
        wanted = max(min(wanted, room), -room)
    if wanted > 0:
        return _buy(vault, min(wanted, vault.quote - costs.gas_quote), fill_price_e8, costs, limits)
    sells_all = target_value == 0 and -wanted == vault.asset_value
    amount_wad = vault.asset_wad if sells_all else -wanted * _ASSET_PRICE_TO_QUOTE // vault.price_e8
    return _sell(vault, min(amount_wad, vault.asset_wad), fill_price_e8, costs, limits, is_exempt=is_reducing)


def _buy(vault: SpotVault, spent: int, fill_price_e8: int, costs: Costs, limits: Limits) -> SpotVault:
    if spent <= 0:
        return vault
    exec_price_e8 = -(-fill_price_e8 * (BPS + costs.slippage_bps) // BPS)
    if _is_too_far(exec_price_e8 - vault.price_e8, vault, limits):
        return _refuse(vault, costs)
    bought_wad = spent * (BPS - costs.fee_bps) // BPS * _ASSET_PRICE_TO_QUOTE // exec_price_e8
    fair = bought_wad * fill_price_e8 // _ASSET_PRICE_TO_QUOTE
    return _book(vault, quote=-spent, asset_wad=bought_wad, traded=spent, paid=spent - fair, costs=costs)


def _sell(
    vault: SpotVault, sold_wad: int, fill_price_e8: int, costs: Costs, limits: Limits, *, is_exempt: bool
) -> SpotVault:
    exec_price_e8 = fill_price_e8 * (BPS - costs.slippage_bps) // BPS
    fair = sold_wad * fill_price_e8 // _ASSET_PRICE_TO_QUOTE
    received = sold_wad * exec_price_e8 // _ASSET_PRICE_TO_QUOTE * (BPS - costs.fee_bps) // BPS
    # A sale that does not pay for its own gas is not made.
    if received <= costs.gas_quote:
        return vault
    if not is_exempt and _is_too_far(vault.price_e8 - exec_price_e8, vault, limits):
        return _refuse(vault, costs)
    return _book(vault, quote=received, asset_wad=-sold_wad, traded=fair, paid=fair - received, costs=costs)


def _is_too_far(shortfall_e8: int, vault: SpotVault, limits: Limits) -> bool:
    return shortfall_e8 * BPS > limits.max_trade_slippage_bps * vault.price_e8


def _refuse(vault: SpotVault, costs: Costs) -> SpotVault:
    gas = min(costs.gas_quote, vault.quote)
    return replace(vault, quote=vault.quote - gas, refused=vault.refused + 1, costs=vault.costs + gas)


def _book(vault: SpotVault, *, quote: int, asset_wad: int, traded: int, paid: int, costs: Costs) -> SpotVault:
    return replace(
        vault,
        quote=vault.quote + quote - costs.gas_quote,
        asset_wad=vault.asset_wad + asset_wad,
        day_turnover=vault.day_turnover + traded,
        turnover=vault.turnover + traded,
        trades=vault.trades + 1,
        costs=vault.costs + paid + costs.gas_quote,
    )


def _mark(vault: SpotVault, price_e8: int, close_s: int, limits: Limits) -> SpotVault:
    before = vault.value
    day = close_s // DAY_S
    if day != vault.day:
        # After more than a day without a bar, both references are the value before the new day.
        previous = vault.day_open_value if day == vault.day + 1 else before
        vault = replace(vault, day=day, previous_open_value=previous, day_open_value=before, day_turnover=0)
    value = vault.quote + vault.asset_wad * price_e8 // _ASSET_PRICE_TO_QUOTE
    vault = replace(vault, price_e8=price_e8, peak_value=max(vault.peak_value, value))
    lost = vault.peak_value - value
    return replace(vault, is_stopped=vault.is_stopped or lost * BPS >= limits.max_drawdown_bps * vault.peak_value)
