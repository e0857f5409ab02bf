"""What every contender gets alike: prices, the environment as float trainers take it, the sizes of PPO, the rule.

Imported in the peers' environments too, so numpy and offchain_rl only where they are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy.typing as npt

    from offchain_rl.env import EnvConfig
    from offchain_rl.prices import Bars

# The rule of the backtests: averages of so many closes; all in when the fast one crosses above, all out below.
FAST: Final = 20
SLOW: Final = 100
START_USD: Final = 20_000
RANDOM_WALK_BAR_S: Final = 3600
# Of a bar, of the random walk: 0.3 %.
_DEVIATION: Final = 0.003
_FIRST_S: Final = 1_514_764_800
_E8: Final = 10**8


@dataclass(frozen=True, slots=True, kw_only=True)
class PpoSizes:
    """The same for every trainer."""

    num_envs: int = 1024
    rollout_steps: int = 64
    minibatch: int = 16_384
    epochs: int = 4
    # Two layers so wide, of actor and of critic each, with tanh.
    hidden: int = 64
    learning_rate: float = 1e-3
    gamma: float = 0.95
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.5
    max_grad_norm: float = 0.5
    # A step's reward is hundredths of a per cent; critics learn better near one.
    reward_scale: float = 50.0

    @property
    def batch(self) -> int:
        """Steps between two updates."""
        return self.num_envs * self.rollout_steps


PPO: Final = PpoSizes()


def flops_per_step(inputs: int, sizes: PpoSizes = PPO) -> int:
    """Multiplications and additions of the networks' matrix products for one step of the environment.

    Forward 2 x weights; backward the same for the weights' gradients and the same for the activations', of which the
    first layer needs none. Actor and critic each go forward once in the rollout, and forward and backward in every
    epoch. What is element by element, such as tanh and Adam, is not counted.
    """
    weights = inputs * sizes.hidden + sizes.hidden * sizes.hidden + sizes.hidden
    forward, backward = 2 * weights, 2 * (2 * weights - inputs * sizes.hidden)
    return 2 * (forward + sizes.epochs * (forward + backward))


def env_config(bar_s: int = 1800, **changes: Any) -> EnvConfig:
    """The default configuration, but for a decision in every bar: vault, limits, costs and observation as they are."""
    from offchain_rl.env import EnvConfig
    from offchain_rl.observation import ObservationSpec

    settings = {"bars_per_step": 1, "episode_steps": 1000, "observation": ObservationSpec(bar_s=bar_s)}
    return EnvConfig(**{**settings, **changes})


def load_market(path: str, bar_s: int) -> Bars:
    """Bars of the closing prices in a file of numpy's; each opens where the last one closed."""
    import numpy as np

    return market_of(np.load(path), bar_s)


def market_of(closes: npt.NDArray[Any], bar_s: int) -> Bars:
    """Bars of closing prices, float64 [T] in dollars."""
    import numpy as np

    from offchain_rl.prices import Bars

    close = np.rint(closes * _E8).astype(np.int64)
    opens = np.concatenate([close[:1], close[:-1]])
    return Bars(
        source="benchmark", bar_s=bar_s, timestamps_s=_FIRST_S + bar_s * np.arange(len(close)), open_e8=opens,
        high_e8=np.maximum(opens, close), low_e8=np.minimum(opens, close), close_e8=close,
    )  # fmt: skip


def random_walk(bars: int, seed: int = 1) -> npt.NDArray[Any]:
    """Closing prices, float64 [T], rounded to 1e-8 dollars so that integers and floats mean the same."""
    import numpy as np

    steps = np.random.default_rng(seed).normal(0.0, _DEVIATION, bars)
    # Pulled back towards its start, so that half a million bars stay where prices are.
    logs = np.empty(bars)
    now = 0.0
    for i, step in enumerate(steps.tolist()):
        now = now * 0.9999 + step
        logs[i] = now
    return np.rint(1000.0 * np.exp(logs) * _E8) / _E8


# The environment as trainers of floats take it


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedStep:
    """Of all environments; the arrays are new."""

    # float32 [N, F], of the new episode where one has begun.
    observations: npt.NDArray[Any]
    # float32 [N], scaled.
    rewards: npt.NDArray[Any]
    # bool [N].
    is_terminated: npt.NDArray[Any]
    is_truncated: npt.NDArray[Any]
    # float32 [N, F], of the old episode where a new one has begun.
    finals: npt.NDArray[Any]


class SharedEnv:
    """Our VectorTradingEnv with float observations, and actions from -1, flat, to 1, the largest weight."""

    def __init__(self, market: Bars, config: EnvConfig, sizes: PpoSizes = PPO) -> None:
        from offchain_rl.env import VectorTradingEnv

        self._env, self.num_envs = VectorTradingEnv(market, config, sizes.num_envs), sizes.num_envs
        self.width = len(config.observation.features)
        self._scale, self._reward_scale = 1.0 / (1 << config.observation.scale_bits), sizes.reward_scale
        self._largest_bps = config.action.max_weight_bps

    def start(self, seed: int) -> npt.NDArray[Any]:
        """What new episodes see first, float32 [N, F]."""
        return self._as_floats(self._env.start(seed))

    def advance(self, actions: npt.NDArray[Any]) -> SharedStep:
        """One decision everywhere. `actions`: floats [N] or [N, 1], clipped to -1 … 1."""
        import numpy as np

        share = (np.clip(actions.reshape(-1), -1.0, 1.0) + 1.0) * 0.5
        step = self._env.advance((share * self._largest_bps + 0.5).astype(np.int32))
        return SharedStep(
            observations=self._as_floats(step.observations),
            rewards=(step.rewards * self._reward_scale).astype(np.float32),
            is_terminated=step.is_terminated.copy(),
            is_truncated=step.is_truncated.copy(),
            finals=self._as_floats(step.final_observations),
        )

    def _as_floats(self, observations: npt.NDArray[Any]) -> npt.NDArray[Any]:
        import numpy as np

        return np.multiply(observations, np.float32(self._scale), dtype=np.float32)


def make_shared_env(market: Bars, sizes: PpoSizes = PPO) -> SharedEnv:
    """The environment of the trainers' contest."""
    return SharedEnv(market, env_config(market.bar_s), sizes)
