"""The vault of `spot_vault` as an environment for reinforcement learning.

At the close of bar t the agent sees rounds up to t and asks for a weight; the trade is filled at the
open of bar t+1, the vault is valued at the close of bar t+1. Nothing after bar t reaches an observation
of bar t.

`TradingEnv` is a Gymnasium environment that counts in integers, exactly as the backtest does.
`VectorTradingEnv` runs many episodes at once in float64 for training; its observations have the same
bits up to the last basis point of weight and drawdown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from offchain_rl.artefact import ActionSpec
from offchain_rl.fixedpoint import INT16_MAX, INT16_MIN, IntArray
from offchain_rl.observation import (
    BPS,
    ObservationSpec,
    build_market_matrix,
    feature_positions,
    fill_vault_features,
)
from offchain_rl.prices import Bars
from offchain_rl.reward import FloatArray, RewardConfig, compute_reward
from offchain_rl.spot_vault import DAY_S, Costs, Limits, SpotVault, open_vault, step_vault

try:
    import gymnasium
except ImportError as error:
    raise ImportError("the environment needs gymnasium: pip install -e '.[rl]'") from error

START_QUOTE = 100_000 * 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvConfig:
    """Everything about an episode but the prices."""

    observation: ObservationSpec = field(default_factory=ObservationSpec)
    action: ActionSpec = field(default_factory=ActionSpec)
    costs: Costs = field(default_factory=Costs)
    limits: Limits = field(default_factory=Limits)
    reward: RewardConfig = field(default_factory=RewardConfig)
    # Decisions in an episode, and bars from one decision to the next.
    episode_steps: int = 60
    bars_per_step: int = 24
    start_quote: int = START_QUOTE

    def __post_init__(self) -> None:
        if min(self.episode_steps, self.bars_per_step, self.start_quote) < 1:
            raise ValueError("episode_steps, bars_per_step and start_quote are at least 1")

    @property
    def episode_bars(self) -> int:
        """Bars that pass in a full episode."""
        return self.episode_steps * self.bars_per_step


class TradingEnv(gymnasium.Env[npt.NDArray[np.int32], npt.NDArray[np.float32]]):
    """One vault, one asset. The action is the share of `max_weight_bps` to hold, 0 to 1.

    The observation is the integer vector of `observation`, the reward that of `reward`. An episode
    terminates when the vault is stopped by its drawdown limit and is truncated after `episode_steps`.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (the interface wants a class attribute)

    def __init__(self, bars: Bars, config: EnvConfig | None = None) -> None:
        self.config = config or EnvConfig()
        self._bars = bars
        spec = self.config.observation
        self._first, self._last = _start_range(bars, self.config)
        self._matrix = build_market_matrix(spec, bars.close_e8)
        self._market, _ = feature_positions(spec)
        size = len(spec.features)
        self.observation_space = gymnasium.spaces.Box(INT16_MIN, INT16_MAX, (size,), dtype=np.int32)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), dtype=np.float32)
        self.bar = self._first
        self._steps = 0
        self.vault = self._open()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.int32], dict[str, Any]]:
        """A new episode from a random bar, or from bar `options["start"]`."""
        super().reset(seed=seed)
        start = (options or {}).get("start")
        if start is None:
            start = int(self.np_random.integers(self._first, self._last + 1))
        if not self._first <= start <= self._last:
            raise ValueError(f"an episode starts between bar {self._first} and bar {self._last}, not at {start}")
        self.bar, self._steps = start, 0
        self.vault = self._open()
        return self._observe(), self._info()

    def step(self, action: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], float, bool, bool, dict[str, Any]]:
        """What holding the share `action` of the largest weight brings over `bars_per_step` bars."""
        config = self.config
        share = float(np.clip(np.asarray(action).reshape(-1)[0], 0.0, 1.0))
        if not np.isfinite(share):
            raise ValueError(f"the action is {action!r}, not a number")
        wanted_bps = int(share * config.action.max_weight_bps + 0.5)
        is_trade = abs(wanted_bps - self.vault.weight_bps) >= max(config.action.deadband_bps, 1)
        before, was_stopped = self.vault, self.vault.is_stopped
        for i in range(config.bars_per_step):
            self.bar += 1
            self.vault = step_vault(
                self.vault,
                wanted_bps if is_trade and i == 0 else None,
                fill_price_e8=int(self._bars.open_e8[self.bar]),
                close_price_e8=int(self._bars.close_e8[self.bar]),
                close_s=int(self._bars.timestamps_s[self.bar]) + self._bars.bar_s,
                costs=config.costs,
                limits=config.limits,
            )
        self._steps += 1
        after = self.vault
        is_ruined = after.is_stopped and not was_stopped
        reward = compute_reward(
            before.value,
            after.value,
            1 - before.value / before.peak_value,
            1 - after.value / after.peak_value,
            is_ruined,
            config.reward,
        )
        return self._observe(), float(reward), is_ruined, self._steps >= config.episode_steps, self._info()

    def _open(self) -> SpotVault:
        close_s = int(self._bars.timestamps_s[self.bar]) + self._bars.bar_s
        return open_vault(quote=self.config.start_quote, price_e8=int(self._bars.close_e8[self.bar]), close_s=close_s)

    def _observe(self) -> npt.NDArray[np.int32]:
        spec = self.config.observation
        vector = [0] * len(spec.features)
        row = self._matrix[self.bar - spec.lookback + 1]
        for position, number in zip(self._market, row.tolist(), strict=True):
            vector[position] = number
        return np.array(fill_vault_features(spec, vector, self.vault.observe()), dtype=np.int32)

    def _info(self) -> dict[str, Any]:
        vault = self.vault
        return {
            "bar": self.bar,
            "value": vault.value,
            "weight_bps": vault.weight_bps,
            "drawdown_bps": vault.drawdown_bps,
            "turnover": vault.turnover,
            "costs": vault.costs,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorStep:
    """What a step of all environments brought."""

    # What the next decision sees: of the new episode where one has begun.
    observations: IntArray
    rewards: FloatArray
    is_terminated: npt.NDArray[np.bool_]
    is_truncated: npt.NDArray[np.bool_]
    # What the step ended in: the last observation of the old episode where a new one has begun.
    final_observations: IntArray


class VectorTradingEnv:
    """Many episodes at once over one or more price series, float64, each restarted when it ends.

    Follows `step_vault` rule by rule. Episodes start at random bars and, unless `starts_flat`, with a
    random weight, so that every weight is seen. `reset(seed)` makes everything that follows repeatable.
    """

    def __init__(
        self, bars: Bars | Sequence[Bars], config: EnvConfig, num_envs: int, *, starts_flat: bool = False
    ) -> None:
        series = (bars,) if isinstance(bars, Bars) else tuple(bars)
        if not series or num_envs < 1:
            raise ValueError("at least one series of bars and one environment")
        self.config, self.num_envs, self._starts_flat = config, num_envs, starts_flat
        spec = config.observation
        offsets = np.cumsum([0, *(len(one) for one in series)])
        ranges = [_start_range(one, config) for one in series]
        self._starts = np.concatenate([o + np.arange(a, b + 1) for o, (a, b) in zip(offsets, ranges, strict=False)])
        market, vault = feature_positions(spec)
        self._features = np.zeros((int(offsets[-1]), len(spec.features)), dtype=np.int64)
        for one, offset in zip(series, offsets, strict=False):
            rows = slice(int(offset) + spec.lookback - 1, int(offset) + len(one))
            self._features[rows, list(market)] = build_market_matrix(spec, one.close_e8)
        self._weight_column, self._drawdown_column = vault.get("weight"), vault.get("drawdown")
        self._open = np.concatenate([one.open_e8 for one in series]).astype(np.float64) / 1e8
        self._close = np.concatenate([one.close_e8 for one in series]).astype(np.float64) / 1e8
        self._day = np.concatenate([(one.timestamps_s + one.bar_s) // DAY_S for one in series])
        self._gas = config.costs.gas_quote / config.start_quote
        self._rng = np.random.default_rng(0)
        # Per environment: the bar, and the vault in multiples of what it started with.
        zeros = np.zeros(num_envs)
        self.bar, self._steps = np.zeros(num_envs, dtype=np.int64), np.zeros(num_envs, dtype=np.int64)
        self._quote, self._asset, self._peak = zeros.copy(), zeros.copy(), zeros.copy()
        self._day_open, self._previous_open, self._day_turnover = zeros.copy(), zeros.copy(), zeros.copy()
        self.values = zeros.copy()

    def reset(self, seed: int | None = None) -> IntArray:
        """The first observations of new episodes in all environments."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._restart(np.ones(self.num_envs, dtype=np.bool_))
        return self._observe()

    def step(self, wanted_bps: IntArray) -> VectorStep:
        """All environments one decision further."""
        config = self.config
        wanted = np.clip(np.asarray(wanted_bps, dtype=np.int64), 0, config.action.max_weight_bps)
        is_trade = np.abs(wanted - self._weight_bps()) >= max(config.action.deadband_bps, 1)
        value_before, drawdown_before = self.values.copy(), 1 - self.values / self._peak
        is_stopped = np.zeros(self.num_envs, dtype=np.bool_)
        for i in range(config.bars_per_step):
            target = wanted / BPS if i == 0 else np.zeros(self.num_envs)
            self._advance(target, is_trade & (i == 0), is_stopped)
            is_stopped |= (1 - self.values / self._peak) * BPS >= config.limits.max_drawdown_bps
        self._steps += 1
        rewards = compute_reward(
            value_before, self.values, drawdown_before, 1 - self.values / self._peak, is_stopped, config.reward
        )
        is_truncated = self._steps >= config.episode_steps
        final = self._observe()
        done = is_stopped | is_truncated
        observations = final
        if done.any():
            self._restart(done)
            observations = self._observe()
        return VectorStep(
            observations=observations,
            rewards=rewards,
            is_terminated=is_stopped,
            is_truncated=is_truncated & ~is_stopped,
            final_observations=final,
        )

    def _advance(self, target: FloatArray, is_trade: npt.NDArray[np.bool_], is_stopped: npt.NDArray[np.bool_]) -> None:
        limits = self.config.limits
        reference = np.maximum(self._day_open, self._previous_open)
        is_reducing = is_stopped | ((reference - self.values) * BPS >= limits.max_daily_loss_bps * reference)
        oracle = self._close[self.bar]
        self.bar += 1
        if (is_trade | is_reducing).any():
            self._trade(np.where(is_reducing, 0.0, target), is_trade | is_reducing, is_reducing, oracle)
        close = self._close[self.bar]
        before = self._quote + self._asset * oracle
        day, last_day = self._day[self.bar], self._day[self.bar - 1]
        is_new = day != last_day
        self._previous_open = np.where(
            is_new, np.where(day == last_day + 1, self._day_open, before), self._previous_open
        )
        self._day_open = np.where(is_new, before, self._day_open)
        self._day_turnover = np.where(is_new, 0.0, self._day_turnover)
        self.values = self._quote + self._asset * close
        self._peak = np.maximum(self._peak, self.values)

    def _trade(
        self,
        target: FloatArray,
        is_trade: npt.NDArray[np.bool_],
        is_reducing: npt.NDArray[np.bool_],
        oracle: FloatArray,
    ) -> None:
        costs, limits = self.config.costs, self.config.limits
        fill = self._open[self.bar]
        room = np.maximum(self.values * (limits.max_turnover_bps / BPS) - self._day_turnover, 0.0)
        room = np.where(is_reducing, np.inf, room)
        target = np.minimum(target, limits.max_weight_bps / BPS)
        wanted = np.clip(self.values * target - self._asset * oracle, -room, room)
        buy_at, sell_at = fill * (1 + costs.slippage_bps / BPS), fill * (1 - costs.slippage_bps / BPS)
        spent = np.minimum(wanted, self._quote - self._gas)
        sold = np.minimum(-wanted / oracle, self._asset)
        received = sold * sell_at * (1 - costs.fee_bps / BPS)
        is_buy = is_trade & (wanted > 0) & (spent > 0)
        is_sell = is_trade & (wanted < 0) & (received > self._gas)
        most = oracle * (limits.max_trade_slippage_bps / BPS)
        is_refused = (is_buy & (buy_at - oracle > most)) | (is_sell & ~is_reducing & (oracle - sell_at > most))
        is_buy, is_sell = is_buy & ~is_refused, is_sell & ~is_refused
        gas = np.where(is_buy | is_sell, self._gas, np.where(is_refused, np.minimum(self._gas, self._quote), 0.0))
        self._quote = self._quote - np.where(is_buy, spent, 0.0) + np.where(is_sell, received, 0.0) - gas
        bought = spent * (1 - costs.fee_bps / BPS) / buy_at
        self._asset = np.maximum(self._asset + np.where(is_buy, bought, 0.0) - np.where(is_sell, sold, 0.0), 0.0)
        self._day_turnover = self._day_turnover + np.where(is_buy, spent, 0.0) + np.where(is_sell, sold * fill, 0.0)

    def _restart(self, which: npt.NDArray[np.bool_]) -> None:
        count = int(which.sum())
        bars = self._starts[self._rng.integers(0, len(self._starts), count)]
        # Half of the episodes start flat, the others anywhere up to the largest weight.
        weights = np.maximum(self._rng.uniform(-1.0, 1.0, count), 0.0) * self._largest_weight()
        if self._starts_flat:
            weights[:] = 0.0
        self.bar[which], self._steps[which] = bars, 0
        self._quote[which] = 1.0 - weights
        self._asset[which] = weights / self._close[bars]
        self._day_turnover[which] = 0.0
        for values in (self.values, self._peak, self._day_open, self._previous_open):
            values[which] = 1.0

    def _largest_weight(self) -> float:
        return min(self.config.action.max_weight_bps, self.config.limits.max_weight_bps) / BPS

    def _weight_bps(self) -> IntArray:
        held = self._asset * self._close[self.bar]
        return np.floor(held / self.values * BPS + 1e-9).astype(np.int64)

    def _observe(self) -> IntArray:
        observations = self._features[self.bar]
        bits = self.config.observation.scale_bits
        if self._weight_column is not None:
            observations[:, self._weight_column] = (self._weight_bps() << bits) // BPS
        if self._drawdown_column is not None:
            drawdown_bps = np.floor((1 - self.values / self._peak) * BPS + 1e-9).astype(np.int64)
            observations[:, self._drawdown_column] = (drawdown_bps << bits) // BPS
        return observations


def _start_range(bars: Bars, config: EnvConfig) -> tuple[int, int]:
    """The first and the last bar at which an episode can start."""
    first, last = config.observation.lookback - 1, len(bars) - 1 - config.episode_bars
    if last < first:
        needed = config.observation.lookback + config.episode_bars
        raise ValueError(f"{bars.source}: {len(bars)} bars, an episode needs at least {needed}")
    return first, last
