"""A policy run over past bars with the fills, costs and limits of `spot_vault`. Integers throughout.

The decision at the close of bar t is made from rounds up to t and filled at the open of bar t+1, as in
`env`. The result is the same, byte for byte, in every process and on every machine. Needs neither torch
nor gymnasium.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import Final

from eth_utils import keccak

from offchain_rl.observation import (
    BPS,
    BadObservation,
    build_market_matrix,
    feature_positions,
    fill_vault_features,
)
from offchain_rl.policy import Policy
from offchain_rl.prices import Bars
from offchain_rl.spot_vault import Costs, Limits, SpotVault, open_vault, step_vault

START_QUOTE: Final = 100_000 * 10**6
YEAR_S: Final = 365 * 86400
_RETURN_SCALE: Final = 10**12


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestConfig:
    """The market and the vault a policy is tried in."""

    costs: Costs = field(default_factory=Costs)
    limits: Limits = field(default_factory=Limits)
    # Value of the vault at the start, base units of the quote token.
    start_quote: int = START_QUOTE


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """How a run of values did. Basis points and integers; `sharpe_e2` is the Sharpe ratio times 100."""

    total_return_bps: int
    max_drawdown_bps: int
    # Mean over deviation of one-bar returns, times the root of the bars in a year; cash earns nothing here.
    sharpe_e2: int
    # Bars with a gain, of the bars with a gain or a loss.
    hit_rate_bps: int
    # What was traded, in basis points of the mean value, for a year.
    yearly_turnover_bps: int
    # Fees, slippage and gas in basis points of the value at the start.
    costs_bps: int
    mean_weight_bps: int
    trades: int
    bars: int

    def to_dict(self) -> dict[str, int]:
        """The figures as they stand in a report."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """A run: the value at the close of each bar from the first decision on, and the vault at the end."""

    bar_s: int
    start_s: int
    end_s: int
    values: tuple[int, ...]
    # Weight of the asset after each bar.
    weights_bps: tuple[int, ...]
    # What the policy asked for at each bar; None where it did not want to trade.
    targets_bps: tuple[int | None, ...]
    vault: SpotVault

    def performance(self) -> Performance:
        """The figures of this run."""
        mean_value = max(sum(self.values) // len(self.values), 1)
        return measure(
            self.values,
            self.weights_bps,
            bar_s=self.bar_s,
            turnover_bps=self.vault.turnover * BPS // mean_value,
            costs_bps=self.vault.costs * BPS // self.values[0],
            trades=self.vault.trades,
        )

    def run_hash(self) -> str:
        """keccak256 of values and targets, 0x-hex: equal runs have equal hashes."""
        lines = [
            f"{value},{'' if target is None else target}"
            for value, target in zip(self.values[1:], self.targets_bps, strict=True)
        ]
        return "0x" + keccak("\n".join([str(self.values[0]), *lines]).encode("ascii")).hex()


def run_backtest(
    policy: Policy, bars: Bars, config: BacktestConfig | None = None, *, start: int | None = None
) -> Backtest:
    """The policy over `bars`, from a vault in cash at the close of bar `start` to the last bar.

    `start` is the first bar with enough history unless given. Raises BadObservation when there is not
    enough history or no bar to trade in.
    """
    config = config or BacktestConfig()
    spec = policy.spec
    first = spec.lookback - 1
    start = first if start is None else start
    if not first <= start < len(bars) - 1:
        raise BadObservation(
            f"a backtest of {len(bars)} bars starts between bar {first} and bar {len(bars) - 2}, not {start}"
        )
    rows = build_market_matrix(spec, bars.close_e8[start - first :]).tolist()
    opens, closes = bars.open_e8.tolist(), bars.close_e8.tolist()
    closes_s = (bars.timestamps_s + bars.bar_s).tolist()
    market, _ = feature_positions(spec)
    vector = [0] * len(spec.features)
    vault = open_vault(quote=config.start_quote, price_e8=closes[start], close_s=closes_s[start])
    values, weights, targets = [vault.value], [0], []
    for bar in range(start, len(bars) - 1):
        for position, number in zip(market, rows[bar - start], strict=True):
            vector[position] = number
        state = vault.observe()
        decision = policy.decide_vector(fill_vault_features(spec, vector, state), state.weight_bps)
        target = decision.target_weight_bps if decision.is_rebalance else None
        vault = step_vault(
            vault,
            target,
            fill_price_e8=opens[bar + 1],
            close_price_e8=closes[bar + 1],
            close_s=closes_s[bar + 1],
            costs=config.costs,
            limits=config.limits,
        )
        values.append(vault.value)
        weights.append(vault.weight_bps)
        targets.append(target)
    return Backtest(
        bar_s=bars.bar_s,
        start_s=closes_s[start],
        end_s=closes_s[-1],
        values=tuple(values),
        weights_bps=tuple(weights),
        targets_bps=tuple(targets),
        vault=vault,
    )


def measure(
    values: Sequence[int], weights_bps: Sequence[int], *, bar_s: int, turnover_bps: int, costs_bps: int, trades: int
) -> Performance:
    """The figures of a series of values, all rounded towards minus infinity.

    `turnover_bps` is what was traded, in basis points of the mean value.
    """
    bars = len(values) - 1
    gains = sum(b > a for a, b in zip(values, values[1:], strict=False))
    losses = sum(b < a for a, b in zip(values, values[1:], strict=False))
    return Performance(
        total_return_bps=(values[-1] - values[0]) * BPS // values[0],
        max_drawdown_bps=max_drawdown_bps(values),
        sharpe_e2=sharpe_e2(values, bar_s=bar_s),
        hit_rate_bps=gains * BPS // (gains + losses) if gains + losses else 0,
        yearly_turnover_bps=turnover_bps * YEAR_S // (bars * bar_s),
        costs_bps=costs_bps,
        mean_weight_bps=sum(weights_bps) // len(weights_bps),
        trades=trades,
        bars=bars,
    )


def max_drawdown_bps(values: Sequence[int]) -> int:
    """The largest loss from a peak so far, rounded up."""
    peak, worst = values[0], 0
    for value in values:
        peak = max(peak, value)
        worst = max(worst, -((value - peak) * BPS // peak))
    return worst


def sharpe_e2(values: Sequence[int], *, bar_s: int) -> int:
    """The yearly Sharpe ratio times 100 of one-bar returns over cash at zero; 0 when nothing moved.

    mean / deviation * sqrt(bars a year), the deviation with n - 1 (Sharpe 1994).
    """
    returns = [(b - a) * _RETURN_SCALE // a for a, b in zip(values, values[1:], strict=False)]
    n = len(returns)
    total = sum(returns)
    # n * (n - 1) * variance, exactly.
    spread = n * sum(r * r for r in returns) - total * total
    if n < 2 or spread <= 0:
        return 0
    # mean / deviation = (total / n) * sqrt(n * (n - 1) / spread)
    squared = total * total * (n - 1) * YEAR_S * BPS // (n * spread * bar_s)
    return isqrt(squared) if total >= 0 else -isqrt(squared)
