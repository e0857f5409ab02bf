"""A policy run over past bars with the fills, costs and limits of `spot_vault`. Integers throughout.

The decision at the close of bar t is made from rounds up to t and filled in bar t+1, as in `env`. `run_backtest` asks
any policy, bar by bar; a policy that is a network or a rule of the artefact format runs compiled (`run_compiled`), a
hundred times as fast. `agents.backtest` runs the live cycle's own code over the same bars. All three give the same
integers, in every process and on every machine. Needs neither torch nor gymnasium.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from eth_utils import keccak

from offchain_rl.episode import CLOSE_E8, CLOSE_S, OPEN_E8, Market, Params, build_market, price_range_e8
from offchain_rl.fixedpoint import Q12_BITS, IntArray
from offchain_rl.observation import (
    BPS,
    WAD,
    BadObservation,
    VaultState,
    build_market_matrix,
    feature_positions,
    fill_vault_features,
)
from offchain_rl.policy import BuyAndHold, ConstantWeight, HoldPolicy, MlpPolicy, MovingAverageRule, Policy
from offchain_rl.prices import Bars
from offchain_rl.spot_vault import (
    MAX_GROWTH,
    Costs,
    Limits,
    Rules,
    Vault,
    check_compilable,
    open_vault,
    pass_bar,
    terms_of,
    weight_bps_of,
)

START_QUOTE: Final = 100_000 * 10**6
YEAR_S: Final = 365 * 86400
_RETURN_SCALE: Final = 10**12


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestConfig:
    """The market and the vault a policy is tried in."""

    costs: Costs = field(default_factory=Costs)
    limits: Limits = field(default_factory=Limits)
    rules: Rules = field(default_factory=Rules)
    # Value of the vault at the start, base units of the quote token.
    start_quote: int = START_QUOTE
    # Base units of one whole token of the asset.
    asset_unit: int = 10**8


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
    """A run: the value at the close of each bar from the first decision on, less gas, and the vault at the end."""

    bar_s: int
    start_s: int
    end_s: int
    values: tuple[int, ...]
    # Weight of the asset after each bar.
    weights_bps: tuple[int, ...]
    # What the policy asked for at each bar; None where it did not want to trade.
    targets_bps: tuple[int | None, ...]
    vault: Vault

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
    if type(policy) in COMPILED_POLICIES and is_compilable(bars, config):
        with suppress(OverflowError):  # a vault that grew beyond what the compiled code can count
            return run_compiled(policy, bars, config, start=start)
    return run_plain(policy, bars, config, start=start)


def is_compilable(bars: Bars, config: BacktestConfig) -> bool:
    """Whether prices and amounts fit the compiled code."""
    try:
        check_compilable(config.start_quote, config.asset_unit, *price_range_e8(bars))
    except ValueError:
        return False
    return True


def run_plain(
    policy: Policy, bars: Bars, config: BacktestConfig | None = None, *, start: int | None = None
) -> Backtest:
    """`run_backtest` in plain Python, for any policy; raises as it does."""
    config = config or BacktestConfig()
    spec = policy.spec
    start = _first_bar(policy, bars, start)
    terms = terms_of(config.costs, config.limits, config.rules, unit=config.asset_unit)
    rows = build_market_matrix(spec, bars.close_e8[start - spec.lookback + 1 :]).tolist()
    opens, closes = bars.open_e8.tolist(), bars.close_e8.tolist()
    opens_s, closes_s = bars.timestamps_s.tolist(), (bars.timestamps_s + bars.bar_s).tolist()
    market, _ = feature_positions(spec)
    vector = [0] * len(spec.features)
    vault = open_vault(config.start_quote, 0, closes[start], closes_s[start], config.asset_unit)
    values, weights, targets = [vault.equity], [0], []
    for bar in range(start, len(bars) - 1):
        for position, number in zip(market, rows[bar - start], strict=True):
            vector[position] = number
        state = vault_state(vault, config.start_quote)
        decision = policy.decide_vector(fill_vault_features(spec, vector, state), state.weight_bps)
        vault = pass_bar(
            vault, decision.is_rebalance, decision.target_weight_bps, closes_s[bar], opens_s[bar + 1], opens[bar + 1],
            closes[bar + 1], closes_s[bar + 1], bars.bar_s, terms,
        )  # fmt: skip
        values.append(vault.equity)
        weights.append(weight_bps_of(vault))
        targets.append(decision.target_weight_bps if decision.is_rebalance else None)
    return Backtest(
        bar_s=bars.bar_s,
        start_s=closes_s[start],
        end_s=closes_s[-1],
        values=tuple(values),
        weights_bps=tuple(weights),
        targets_bps=tuple(targets),
        vault=vault,
    )


def vault_state(vault: Vault, start_value: int) -> VaultState:
    """What an observation reads from the vault; one unit was worth 1e18 when it was worth `start_value`."""
    return VaultState(
        value=vault.last_value,
        weight_bps=weight_bps_of(vault),
        unit_price_wad=vault.last_value * WAD // start_value,
        peak_wad=vault.peak_value * WAD // start_value,
    )


def _first_bar(policy: Policy, bars: Bars, start: int | None) -> int:
    spec = policy.spec
    if bars.bar_s != spec.bar_s and not isinstance(policy, HoldPolicy):  # which looks at nothing
        raise BadObservation(f"{bars.source} has bars of {bars.bar_s} s, the observation asks for {spec.bar_s} s")
    first = spec.lookback - 1
    start = first if start is None else start
    if not first <= start < len(bars) - 1:
        raise BadObservation(
            f"a backtest of {len(bars)} bars starts between bar {first} and bar {len(bars) - 2}, not {start}"
        )
    return start


# Compiled


COMPILED_POLICIES: Final = (MlpPolicy, MovingAverageRule, ConstantWeight, BuyAndHold, HoldPolicy)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FastRun:
    """What `Backtest` has, as arrays: equity int64 [T+1], weights int32 [T+1], targets int32 [T], -1 for none."""

    values: IntArray
    weights_bps: npt.NDArray[np.int32]
    targets_bps: npt.NDArray[np.int32]
    vault: Vault


def run_compiled(
    policy: Policy, bars: Bars, config: BacktestConfig | None = None, *, start: int | None = None
) -> Backtest:
    """`run_backtest` for one of COMPILED_POLICIES; raises as it does, ValueError for prices and amounts that do not fit
    the compiled code, and OverflowError for a vault that outgrows it."""
    config = config or BacktestConfig()
    start = _first_bar(policy, bars, start)
    cut = bars.slice(start - policy.spec.lookback + 1, len(bars))
    run = run_policy(policy, build_market([cut], policy.spec), bars.bar_s, policy.spec.lookback - 1, config)
    return Backtest(
        bar_s=bars.bar_s,
        start_s=int(bars.timestamps_s[start]) + bars.bar_s,
        end_s=bars.end_s,
        values=tuple(run.values.tolist()),
        weights_bps=tuple(run.weights_bps.tolist()),
        targets_bps=tuple(None if target < 0 else target for target in run.targets_bps.tolist()),
        vault=run.vault,
    )


def run_policy(policy: Policy, market: Market, bar_s: int, first: int, config: BacktestConfig) -> FastRun:
    """One of COMPILED_POLICIES over a market that is built once and used for many: for sweeps.

    Decides first at the close of bar `first`, which has history enough. Raises OverflowError as `run_compiled`.
    """
    program = _program_of(policy, market, first)
    return _run(program, market, _params(policy, bar_s, config), first)


def run_targets(
    targets_bps: npt.NDArray[np.integer[Any]],
    market: Market,
    bar_s: int,
    config: BacktestConfig,
    *,
    deadband_bps: int = 0,
) -> FastRun:
    """A run that asks for the weight `targets_bps[t]` at the close of bar t, whatever the vault holds, [T - 1]."""
    if len(targets_bps) < len(market.bars) - 1:
        raise ValueError(f"{len(targets_bps)} targets for {len(market.bars)} bars: give one for each bar but the last")
    params = _params(None, bar_s, config)._replace(deadband_bps=deadband_bps)
    return _run(_Program(wanted=targets_bps), market, params, 0)


def cross_targets_bps(close_e8: IntArray, fast: int, slow: int, *, wanted_bps: int = BPS) -> npt.NDArray[np.int32]:
    """What `run_targets` takes for a crossing of moving averages, int32 [T - 1]: `wanted_bps` at each close where the
    mean of the last `fast` closes is above that of the last `slow`, 0 elsewhere and before there are so many. Exact."""
    from offchain_rl import compiled

    if not 0 < fast < slow:
        raise ValueError(f"the fast mean is of {fast} closes and the slow one of {slow}: give 0 < fast < slow")
    if int(close_e8.max()) * fast * slow >= 1 << 62:
        raise ValueError(f"means of {fast} and {slow} closes are too long for prices as high as {close_e8.max()}e-8")
    targets = np.empty(len(close_e8) - 1, dtype=np.int32)
    compiled.cross(close_e8, fast, slow, wanted_bps, targets)
    return targets


@dataclass(frozen=True, slots=True, kw_only=True)
class _Program:
    """A policy as the compiled loop takes it: weights wanted at each bar, or a network, or buy and hold."""

    wanted: Any = None
    shape: IntArray = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    weights: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    biases: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    shifts: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


def _program_of(policy: Policy, market: Market, first: int) -> _Program:
    if isinstance(policy, MlpPolicy):
        return _network(policy)
    if isinstance(policy, BuyAndHold):
        return _Program()
    vectors = market.features[first:-1]
    if isinstance(policy, MovingAverageRule):
        wanted = np.where(vectors[:, policy._position] > 0, policy._above_bps, policy._below_bps)
    else:
        wanted = np.full(len(vectors), policy._weight_bps if isinstance(policy, ConstantWeight) else 0)
    return _Program(wanted=wanted.astype(np.int32))


def _network(policy: MlpPolicy) -> _Program:
    layers, bits = policy._layers, policy.spec.scale_bits
    shifts = [(bits if i == 0 else Q12_BITS) + layer.weight_bits - Q12_BITS for i, layer in enumerate(layers)]
    return _Program(
        shape=np.array([len(policy.spec.features), *(len(layer.biases) for layer in layers)], dtype=np.int64),
        weights=np.concatenate([np.array(layer.weights, dtype=np.int64).reshape(-1) for layer in layers]),
        biases=np.concatenate([np.array(layer.biases, dtype=np.int64) for layer in layers]),
        shifts=np.array(shifts, dtype=np.int64),
    )


def _params(policy: Policy | None, bar_s: int, config: BacktestConfig) -> Params:
    _, columns = feature_positions(policy.spec) if policy else ((), {})
    return Params(
        terms=terms_of(config.costs, config.limits, config.rules, unit=config.asset_unit),
        bar_s=bar_s,
        bars_per_step=1,
        episode_steps=1,
        start_quote=config.start_quote,
        max_weight_bps=policy.action.max_weight_bps if policy else BPS,
        # A rule that never trades is one that no distance is enough for.
        deadband_bps=BPS + 1 if isinstance(policy, HoldPolicy) else policy.action.deadband_bps if policy else 0,
        start_weight_bps=0,
        weight_column=columns.get("weight", -1),
        drawdown_column=columns.get("drawdown", -1),
        scale_bits=policy.spec.scale_bits if policy else Q12_BITS,
        drawdown_weight=0.0,
        ruin_price=0.0,
    )


def _run(program: _Program, market: Market, params: Params, first: int) -> FastRun:
    from offchain_rl import compiled

    _check_prices(market, params, first)
    steps = len(market.bars) - 1 - first
    price_e8, close_s = (int(market.bars[first, column]) for column in (CLOSE_E8, CLOSE_S))
    vault = open_vault(params.start_quote, 0, price_e8, close_s, params.terms.unit)
    book = np.array(vault, dtype=np.int64).reshape(-1, 1)
    values, weights, targets = np.empty(steps + 1, np.int64), np.empty(steps + 1, np.int32), np.empty(steps, np.int32)
    written = (book, values, weights, targets)
    if program.wanted is not None:
        compiled.run_wanted(market.bars, *params.packed(), first, program.wanted, *written)
    else:
        network = (program.shape, program.weights, program.biases, program.shifts)
        compiled.run_decided(market.bars, market.features, *params.packed(), first, *network, *written)
    vault = Vault(*book[:, 0].tolist())
    if vault.peak_value > MAX_GROWTH * params.start_quote:
        raise OverflowError(f"a vault grew to {vault.peak_value}, more than {MAX_GROWTH} times its start")
    return FastRun(values=values, weights_bps=weights, targets_bps=targets, vault=vault)


def _check_prices(market: Market, params: Params, first: int) -> None:
    """`check_compilable` for the bars from `first` on, which is all right when it is so for all bars."""
    try:
        check_compilable(params.start_quote, params.terms.unit, *market.range_e8)
    except ValueError:
        prices_e8 = market.bars[first:, [OPEN_E8, CLOSE_E8]]
        check_compilable(params.start_quote, params.terms.unit, int(prices_e8.min()), int(prices_e8.max()))


# Figures


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
