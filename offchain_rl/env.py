"""The vault of `spot_vault` as environments for reinforcement learning. `episode` has what they do, as pure functions.

`TradingEnv` is one episode at a time, in plain Python; `VectorTradingEnv` thousands at once, compiled. Both have
Gymnasium's interface, and the same actions give the same integers in both. `tensor_env` is the same on tensors, for an
accelerator. Trainers step the vectorised one with `start` and `advance`, which copy nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt

from offchain_rl.artefact import ActionSpec
from offchain_rl.episode import (
    Int16Array,
    Market,
    Params,
    build_market,
    initial,
    observation,
    price_range_e8,
    reward,
    terminal,
    transition,
)
from offchain_rl.fixedpoint import INT16_MAX, INT16_MIN, IntArray
from offchain_rl.observation import BPS, ObservationSpec, feature_positions
from offchain_rl.prices import Bars
from offchain_rl.reward import RewardConfig
from offchain_rl.spot_vault import (
    MAX_GROWTH,
    Costs,
    Limits,
    Rules,
    Vault,
    check_compilable,
    drawdown_bps_of,
    terms_of,
    weight_bps_of,
)

try:
    import gymnasium
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise ImportError("the environment needs gymnasium: pip install -e '.[rl]'") from error

START_QUOTE = 100_000 * 10**6

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvConfig:
    """Everything about an episode but the prices."""

    observation: ObservationSpec = field(default_factory=ObservationSpec)
    action: ActionSpec = field(default_factory=ActionSpec)
    costs: Costs = field(default_factory=Costs)
    limits: Limits = field(default_factory=Limits)
    rules: Rules = field(default_factory=Rules)
    reward: RewardConfig = field(default_factory=RewardConfig)
    # Decisions in an episode, and bars from one decision to the next.
    episode_steps: int = 60
    bars_per_step: int = 24
    start_quote: int = START_QUOTE
    # Base units of one whole token of the asset.
    asset_unit: int = 10**8

    def __post_init__(self) -> None:
        if min(self.episode_steps, self.bars_per_step, self.start_quote, self.asset_unit) < 1:
            raise ValueError("episode_steps, bars_per_step, start_quote and asset_unit are at least 1")
        if self.costs.latency_s >= self.observation.bar_s:
            raise ValueError(f"latency_s is {self.costs.latency_s}, less than a bar of {self.observation.bar_s} s")

    @property
    def episode_bars(self) -> int:
        """Bars that pass in a full episode."""
        return self.episode_steps * self.bars_per_step

    def params(self) -> Params:
        """The numbers that `episode` takes."""
        _, columns = feature_positions(self.observation)
        return Params(
            terms=terms_of(self.costs, self.limits, self.rules, unit=self.asset_unit),
            bar_s=self.observation.bar_s,
            bars_per_step=self.bars_per_step,
            episode_steps=self.episode_steps,
            start_quote=self.start_quote,
            max_weight_bps=self.action.max_weight_bps,
            deadband_bps=self.action.deadband_bps,
            start_weight_bps=min(self.action.max_weight_bps, self.limits.max_position_bps, BPS),
            weight_column=columns.get("weight", -1),
            drawdown_column=columns.get("drawdown", -1),
            scale_bits=self.observation.scale_bits,
            drawdown_weight=float(self.reward.drawdown_weight),
            ruin_price=float(self.reward.ruin_price),
        )


def wanted_weights_bps(shares: Any, max_weight_bps: int) -> npt.NDArray[np.int64]:
    """Actions between 0 and 1 as weights, to the nearest basis point. Raises ValueError for what is not a number."""
    shares = np.asarray(shares, dtype=np.float64).reshape(-1)
    if not shares.size:
        raise ValueError("an action is missing")
    if not np.isfinite(shares).all():
        raise ValueError(f"action {int(np.flatnonzero(~np.isfinite(shares))[0])} is not a number")
    return (np.clip(shares, 0.0, 1.0) * max_weight_bps + 0.5).astype(np.int64)


class TradingEnv(gymnasium.Env[npt.NDArray[np.int16], npt.NDArray[np.float32]]):
    """One vault, one asset. The action is the share of `max_weight_bps` to hold, 0 to 1.

    The observation is the integer vector of `observation`, the reward that of `reward`. An episode
    terminates when the vault is stopped by its drawdown limit and is truncated after `episode_steps`.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (the interface wants a class attribute)

    def __init__(self, bars: Bars, config: EnvConfig | None = None) -> None:
        self.config = config or EnvConfig()
        check_series([bars], self.config, is_compiled=False)
        self._market, self._params = build_market([bars], self.config.observation), self.config.params()
        self._bars: Any = self._market.bars.tolist()
        self._first, self._last = _start_range(bars, self.config)
        self.observation_space = _observation_space(self.config)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), dtype=np.float32)
        self.bar, self._steps = self._first, 0
        self.vault = self._open(0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.int16], dict[str, Any]]:
        """A new episode from a random bar and in cash, or from `options["start"]` and `options["weight_bps"]`."""
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(self._first, self._last + 1))
        start, weight_bps = (_whole((options or {}).get(k, d), k) for k, d in (("start", drawn), ("weight_bps", 0)))
        if not self._first <= start <= self._last:
            raise ValueError(f"an episode starts between bar {self._first} and bar {self._last}, not at {start}")
        if not 0 <= weight_bps <= BPS:
            raise ValueError(f"an episode starts with a weight between 0 and {BPS} bps, not with {weight_bps}")
        self.bar, self._steps = start, 0
        self.vault = self._open(weight_bps)
        return self._observe(), self._info()

    def step(self, action: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int16], float, bool, bool, dict[str, Any]]:
        """What holding the share `action` of the largest weight brings over `bars_per_step` bars."""
        wanted_bps = int(wanted_weights_bps(action, self._params.max_weight_bps)[0])
        if self._steps >= self._params.episode_steps:
            raise RuntimeError("the episode is over: call reset() before the next step()")
        before = self.vault
        self.vault = transition(_AsLists(self._bars), self._params, before, self.bar, wanted_bps)  # type: ignore[arg-type]
        self.bar += self._params.bars_per_step
        self._steps += 1
        is_terminal = terminal(before, self.vault)
        is_truncated = self._steps >= self._params.episode_steps and not is_terminal
        return self._observe(), reward(before, self.vault, self._params), is_terminal, is_truncated, self._info()

    def _open(self, weight_bps: int) -> Vault:
        return initial(_AsLists(self._bars), self._params, self.bar, weight_bps)  # type: ignore[arg-type]

    def _observe(self) -> npt.NDArray[np.int16]:
        row = np.zeros(len(self.config.observation.features), dtype=np.int16)
        observation(self._market, self._params, self.vault, self.bar, row)
        return row

    def _info(self) -> dict[str, Any]:
        v = self.vault
        return {
            "bar": self.bar,
            "value": v.last_value,
            "weight_bps": weight_bps_of(v),
            "drawdown_bps": drawdown_bps_of(v),
            "turnover": v.turnover,
            "gas_spent": v.gas_spent,
            "shortfall": v.shortfall,
        }


class _AsLists:
    """A market's bars as Python integers, of any size: numpy's would wrap where the model multiplies."""

    def __init__(self, rows: list[list[int]]) -> None:
        self._rows = rows

    @property
    def bars(self) -> _AsLists:
        return self

    def __getitem__(self, at: tuple[int, int]) -> int:
        return self._rows[at[0]][at[1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorStep:
    """What a step of all environments brought. The arrays are used again by the next one: copy what is kept."""

    # int16 [N, F]: what the next decision sees, of the new episode where one has begun.
    observations: Int16Array
    # float64 [N].
    rewards: npt.NDArray[np.float64]
    # bool [N].
    is_terminated: BoolArray
    is_truncated: BoolArray
    # int16 [N, F]: what the step ended in, of the old episode where a new one has begun.
    final_observations: Int16Array


class VectorTradingEnv(VectorEnv[Any, Any, Any]):
    """Many episodes at once over one or more price series, each restarted when it ends (`SAME_STEP`).

    Episodes start at random bars of `start_bars` and, unless `starts_flat`, half of them with a random weight, so that
    every weight is seen. A seed makes everything that follows repeatable, on every machine.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        bars: Bars | Sequence[Bars],
        config: EnvConfig | None = None,
        num_envs: int = 1024,
        *,
        starts_flat: bool = False,
    ) -> None:
        self.config = config or EnvConfig()
        series = (bars,) if isinstance(bars, Bars) else tuple(bars)
        if not series or num_envs < 1:
            raise ValueError("at least one series of bars and one environment")
        check_series(series, self.config)
        self.num_envs, self._starts_flat = num_envs, starts_flat
        self._market, self._params = build_market(series, self.config.observation), self.config.params()
        self._packed = self._params.packed()
        self._fingerprint = _fingerprint(self._market, self._params)
        self.start_bars = all_starts(series, self.config)
        self._starts = self.start_bars
        self.single_observation_space = _observation_space(self.config)
        self.single_action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), dtype=np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seed, self._is_started = 0, False
        self._state = _State.empty(num_envs)
        size = len(self.config.observation.features)
        self._out = VectorStep(
            observations=np.zeros((num_envs, size), dtype=np.int16),
            rewards=np.zeros(num_envs),
            is_terminated=np.zeros(num_envs, dtype=np.bool_),
            is_truncated=np.zeros(num_envs, dtype=np.bool_),
            final_observations=np.zeros((num_envs, size), dtype=np.int16),
        )

    # For trainers

    def start(self, seed: int | None = None) -> Int16Array:
        """New episodes in all environments, and what they see first. Without a seed, the next ones of the last seed."""
        from offchain_rl import compiled  # numba: half a second to import

        if seed is not None:
            if not 0 <= int(seed) < 1 << 63:
                raise ValueError(f"seed {seed} lies outside 0 and 2**63")
            self._seed = int(seed)
            self._state.counts[:] = 0
        s, self._is_started = self._state, True
        compiled.restart_all(
            *self._market[:2], *self._packed, self._starts, self._seed, self._starts_flat, s.columns, s.bars, s.steps,
            s.counts, self._out.observations,
        )  # fmt: skip
        return self._out.observations

    def advance(self, wanted_bps: npt.NDArray[np.integer[Any]]) -> VectorStep:
        """All environments one decision further. `wanted_bps`: weights, integers [N]; clipped to what is allowed."""
        from offchain_rl import compiled

        wanted_bps = np.asarray(wanted_bps)
        if wanted_bps.shape != (self.num_envs,) or wanted_bps.dtype.kind != "i":
            raise ValueError(
                f"wanted_bps is {wanted_bps.dtype} of shape {wanted_bps.shape}: give integers, [{self.num_envs}]"
            )
        if not self._is_started:
            raise RuntimeError("nothing has begun: call start() or reset() first")
        s, out = self._state, self._out
        largest = compiled.step_all(
            *self._market[:2], *self._packed, self._starts, self._seed, self._starts_flat, wanted_bps, s.columns,
            s.bars, s.steps, s.counts, out.observations, out.final_observations, out.rewards, out.is_terminated,
            out.is_truncated,
        )  # fmt: skip
        if largest > MAX_GROWTH * self.config.start_quote:
            raise OverflowError(f"a vault grew to {largest}, more than {MAX_GROWTH} times its start")
        return out

    def set_starts(self, bars: IntArray) -> None:
        """From now on episodes start at these bars only, numbers among `start_bars`."""
        bars = np.asarray(bars, dtype=np.int64)
        if bars.size == 0 or not np.isin(bars, self.start_bars).all():
            raise ValueError("episodes start at bars that are in start_bars, at least one of them")
        self._starts = bars

    def snapshot(self) -> dict[str, npt.NDArray[Any]]:
        """Everything that the next step depends on, copied."""
        s = self._state
        return {
            "bars": s.bars.copy(),
            "counts": s.counts.copy(),
            "market": self._fingerprint.copy(),
            "observations": self._out.observations.copy(),
            "rows": s.rows.copy(),
            "seed": np.array([self._seed]),
            "starts": self._starts.copy(),
            "steps": s.steps.copy(),
        }

    def restore(self, snapshot: Mapping[str, npt.NDArray[Any]]) -> None:
        """Goes on from a snapshot of an environment of the same size, series and configuration.

        Raises ValueError for any other, and leaves everything as it was.
        """
        now = self.snapshot()
        for name, array in now.items():
            found = snapshot.get(name)
            if found is None or found.dtype != array.dtype or (name != "starts" and found.shape != array.shape):
                shape = "nothing" if found is None else f"{found.dtype} {found.shape}"
                raise ValueError(f"the snapshot has {shape} for {name}, here it is {array.dtype} {array.shape}")
        if not np.array_equal(snapshot["market"], now["market"]):
            raise ValueError("the snapshot is of other series or of another configuration")
        left = (self.config.episode_steps - snapshot["steps"]) * self.config.bars_per_step
        least = min(snapshot["bars"].min(), left.min(), snapshot["counts"].min())
        if least < 0 or (snapshot["bars"] + left).max() >= len(self._market.bars):
            raise ValueError("the snapshot is at bars that the series does not have")
        self.set_starts(snapshot["starts"])
        s = self._state
        for name, target in (("bars", s.bars), ("counts", s.counts), ("rows", s.rows), ("steps", s.steps)):
            target[:] = snapshot[name]
        self._out.observations[:] = snapshot["observations"]
        self._seed, self._is_started = int(snapshot["seed"][0]), True

    @property
    def vaults(self) -> list[Vault]:
        """The vaults as they are now."""
        return [Vault(*row) for row in self._state.rows.tolist()]

    @property
    def bars_now(self) -> IntArray:
        """The bar each environment is at, a number in the series one after the other."""
        return self._state.bars.copy()

    # Gymnasium's interface

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Int16Array, dict[str, Any]]:
        """New episodes in all environments. Of a list of seeds the first counts: one makes everything repeatable."""
        if isinstance(seed, list):
            seed = seed[0]
        super().reset(seed=seed)
        return self.start(seed).copy(), {}

    def step(self, actions: Any) -> tuple[Int16Array, Any, BoolArray, BoolArray, dict[str, Any]]:
        """One decision in all environments; `final_obs` in the information where an episode has ended."""
        out = self.advance(wanted_weights_bps(actions, self._params.max_weight_bps))
        done = out.is_terminated | out.is_truncated
        info: dict[str, Any] = {}
        if done.any():
            info = {"final_obs": out.final_observations.copy(), "_final_obs": done}
        return out.observations.copy(), out.rewards.copy(), out.is_terminated.copy(), out.is_truncated.copy(), info


@dataclass(frozen=True, slots=True)
class _State:
    """Of each environment: the vault, the bar, decisions so far in the episode, and episodes so far."""

    # [VAULT_WIDTH, N]: the same number of all vaults side by side, so that eight vaults are computed at once.
    columns: IntArray
    bars: IntArray
    steps: IntArray
    counts: IntArray

    @property
    def rows(self) -> IntArray:
        """One vault in each row, [N, VAULT_WIDTH]."""
        return self.columns.T

    @staticmethod
    def empty(num_envs: int) -> _State:
        numbers = [np.zeros(num_envs, dtype=np.int64) for _ in range(3)]
        return _State(np.zeros((len(Vault._fields), num_envs), dtype=np.int64), *numbers)


def _fingerprint(market: Market, params: Params) -> npt.NDArray[np.uint8]:
    """32 bytes that differ for other prices, features or numbers."""
    digest = hashlib.sha256(market.bars.tobytes() + market.features.tobytes() + repr(params).encode()).digest()
    return np.frombuffer(digest, dtype=np.uint8)


def _whole(value: Any, name: str) -> int:
    try:
        return index(value)
    except TypeError:
        raise ValueError(f"options[{name!r}] is {value!r}, not a whole number") from None


def _observation_space(config: EnvConfig) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(INT16_MIN, INT16_MAX, (len(config.observation.features),), dtype=np.int16)


def check_series(series: Sequence[Bars], config: EnvConfig, *, is_compiled: bool = True) -> None:
    """Raises ValueError for bars of another length, or with prices that do not fit the compiled code."""
    for one in series:
        if one.bar_s != config.observation.bar_s:
            raise ValueError(
                f"{one.source} has bars of {one.bar_s} s, the observation asks for {config.observation.bar_s} s"
            )
        if is_compiled:
            check_compilable(config.start_quote, config.asset_unit, *price_range_e8(one))


def all_starts(series: Sequence[Bars], config: EnvConfig) -> IntArray:
    offsets = np.cumsum([0, *(len(one) for one in series)])
    ranges = (_start_range(one, config) for one in series)
    return np.concatenate([offset + np.arange(a, b + 1) for offset, (a, b) in zip(offsets, ranges, strict=False)])


def _start_range(bars: Bars, config: EnvConfig) -> tuple[int, int]:
    """The first and the last bar at which an episode can start."""
    first, last = config.observation.lookback - 1, len(bars) - 1 - config.episode_bars
    if last < first:
        needed = config.observation.lookback + config.episode_bars
        raise ValueError(f"{bars.source}: {len(bars)} bars, an episode needs at least {needed}")
    return first, last
