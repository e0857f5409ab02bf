"""One peer in a process of its own, in an environment of peers.py: its figures, as JSON in the last line of the output.

    .venv-bench/bin/python -m benchmarks.rl.peer gym-anytrading '{"prices": "prices.npy", ...}'

Every peer gets the same closing prices, is used as its own documentation shows, and is spared what its fastest use
spares it: no info that it need not build, no wrapper that it runs without, actions that were drawn beforehand.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.rl.measure import Request, request_from

# Steps between two looks at the clock, of environments that are stepped one at a time.
_BATCH = 2_000
_DRAWN = 16
_EPISODE_STEPS = 1_000


def main() -> None:
    answer = PEERS[sys.argv[1]](request_from(sys.argv[2]))
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


def frame(request: Request) -> Any:
    """The closing prices as a data frame of bars; each opens where the last one closed."""
    import numpy as np
    import pandas as pd

    closes = request.closes()
    opens = np.concatenate([closes[:1], closes[:-1]])
    index = pd.date_range("2018-01-01", periods=len(closes), freq=f"{request.bar_s}s")
    columns = {"open": opens, "high": np.maximum(opens, closes), "low": np.minimum(opens, closes), "close": closes}
    return pd.DataFrame({**columns, "volume": np.ones(len(closes))}, index=index)


# Environments


def gym_anytrading(request: Request) -> list[dict[str, Any]]:
    """Its StocksEnv without gymnasium's wrappers: the fastest that it is."""
    import numpy as np
    from gym_anytrading.envs import StocksEnv

    bars = frame(request).rename(columns=str.capitalize)
    env = StocksEnv(df=bars, window_size=10, frame_bound=(10, len(bars)))
    actions = np.random.default_rng(0).integers(0, 2, _BATCH).tolist()
    env.reset(seed=0)

    def work() -> int:
        for action in actions:
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return len(actions)

    return [asdict(request.figure("env", "gym-anytrading, raw", "steps", work, "window of 10 x 2"))]


def gym_trading_env(request: Request) -> list[dict[str, Any]]:
    """Its TradingEnv over all bars in one episode, with a fee."""
    import numpy as np
    from gym_trading_env.environments import TradingEnv

    bars = frame(request)
    for back in (1, 2, 4, 8):
        bars[f"feature_{back}"] = bars["close"].pct_change(back).fillna(0.0)
    env = TradingEnv(df=bars, positions=[0, 1], trading_fees=request.fee, verbose=0)
    actions = np.random.default_rng(0).integers(0, 2, _BATCH).tolist()
    env.reset(seed=0)

    def work() -> int:
        for action in actions:
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return len(actions)

    return [asdict(request.figure("env", "gym-trading-env, raw", "steps", work, "4 features + 2"))]


def torchtrade(request: Request) -> list[dict[str, Any]]:
    """Its vectorised spot environment: windows of 10 bars, random starts, a fee."""
    import torch
    from torchtrade.envs.offline.vectorized_sequential import (
        VectorizedSequentialTradingEnv,
        VectorizedSequentialTradingEnvConfig,
    )

    torch.set_num_threads(1)
    bars = frame(request).reset_index(names="timestamp")
    figures = []
    for size in request.sizes:
        config = VectorizedSequentialTradingEnvConfig(
            num_envs=size, time_frames=f"{request.bar_s // 60}Min", execute_on=f"{request.bar_s // 60}Min",
            window_sizes=10, action_levels=[0, 0.5, 1], transaction_fee=request.fee, max_traj_length=_EPISODE_STEPS,
        )  # fmt: skip
        env = VectorizedSequentialTradingEnv(bars, config)
        actions = [torch.randint(0, 3, (size,)) for _ in range(_DRAWN)]
        now = [env.reset()]

        def work(env: Any = env, actions: Any = actions, now: Any = now, size: int = size) -> int:
            state = now[0]
            for action in actions:
                state["action"] = action
                _, state = env.step_and_maybe_reset(state)
            now[0] = state
            return size * len(actions)

        name = f"TorchTrade, N = {size:,}"
        with torch.no_grad():
            figures.append(asdict(request.figure("env", name, "steps", work, "window of 10 x 5 + 6")))
    return figures


def pufferlib(request: Request) -> list[dict[str, Any]]:
    """C environments of pufferlib's, one call for all: no market, but what C reaches, small observations and large."""
    import numpy as np

    from benchmarks.rl import peers

    folder = peers.VENV / "c-environments"
    kinds: dict[str, tuple[Any, ...]] = {
        "cartpole": ((4,), np.float32, np.float32, {"continuous": 0}),
        "squared": ((121,), np.uint8, np.int32, {"size": 11}),
    }
    figures = []
    for kind, (shape, observed, acted, settings) in kinds.items():
        binding = _load_binding(folder / kind)
        for size in request.sizes:
            observations, actions = np.zeros((size, *shape), observed), np.zeros(size, acted)
            rewards, ended, cut = np.zeros(size, np.float32), np.zeros(size, np.uint8), np.zeros(size, np.uint8)
            handle = binding.vec_init(observations, actions, rewards, ended, cut, size, 0, **settings)
            binding.vec_reset(handle, 0)
            drawn = np.random.default_rng(0).integers(0, 2, (_DRAWN, size)).astype(acted)

            def work(b: Any = binding, h: Any = handle, a: Any = actions, drawn: Any = drawn, n: int = size) -> int:
                for each in drawn:
                    a[:] = each
                    b.vec_step(h)
                return n * len(drawn)

            name = f"pufferlib C {kind}, N = {size:,}"
            note = f"no market; {observations[0].nbytes} bytes"
            figures.append(asdict(request.figure("env", name, "steps", work, note)))
            binding.vec_close(handle)
    return figures


def _load_binding(folder: Path) -> Any:
    [path] = folder.glob("binding*.so")
    spec = importlib.util.spec_from_file_location("binding", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no module of this Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Trainer


def stable_baselines3(request: Request) -> list[dict[str, Any]]:
    """Its PPO on our environment, with the network, the batches and the epochs of `contest.PPO`."""
    import gymnasium
    import numpy as np
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecEnv

    from benchmarks.rl import contest

    torch.set_num_threads(1)
    shared = contest.make_shared_env(contest.load_market(request.prices, request.bar_s))
    sizes = contest.PPO

    class Ours(VecEnv):  # type: ignore[misc]
        """`SharedEnv` with the interface that Stable-Baselines3 wants."""

        def __init__(self) -> None:
            space = gymnasium.spaces.Box(-np.inf, np.inf, (shared.width,), np.float32)
            super().__init__(shared.num_envs, space, gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32))
            # Read only: one for all that have nothing to say.
            self._nothing: list[dict[str, Any]] = [{} for _ in range(shared.num_envs)]

        def reset(self) -> Any:
            return shared.start(0)

        def step_async(self, actions: Any) -> None:
            self._actions = actions

        def step_wait(self) -> Any:
            step = shared.advance(self._actions)
            infos = self._nothing
            ended = step.is_terminated | step.is_truncated
            if ended.any():
                infos = infos.copy()
                for at in np.flatnonzero(ended):
                    infos[at] = {
                        "terminal_observation": step.finals[at], "TimeLimit.truncated": bool(step.is_truncated[at])
                    }  # fmt: skip
            return step.observations, step.rewards, ended, infos

        def close(self) -> None:
            """Nothing is open."""

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [getattr(self, attr_name, None)] * shared.num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            setattr(self, attr_name, value)

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            raise NotImplementedError(method_name)

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * shared.num_envs

    layers = [sizes.hidden] * 2
    model = PPO(
        "MlpPolicy", Ours(), n_steps=sizes.rollout_steps, batch_size=sizes.minibatch, n_epochs=sizes.epochs,
        learning_rate=sizes.learning_rate, gamma=sizes.gamma, gae_lambda=sizes.gae_lambda, clip_range=sizes.clip,
        ent_coef=0.0, vf_coef=sizes.value_weight, max_grad_norm=sizes.max_grad_norm, seed=1, device="cpu",
        policy_kwargs={"net_arch": {"pi": layers, "vf": layers}, "activation_fn": torch.nn.Tanh},
    )  # fmt: skip

    def work() -> int:
        model.learn(sizes.batch, reset_num_timesteps=False)
        return sizes.batch

    return [asdict(request.figure("ppo", "Stable-Baselines3", "steps", work))]


# Backtests


def vectorbt(request: Request) -> dict[str, Any]:
    """Its signals and portfolio; and once more with the fee of a pool, which is taken from what is paid in."""
    import numpy as np
    import vectorbt as vbt

    from benchmarks.rl import contest

    closes = request.closes()
    fast, slow, start = contest.FAST, contest.SLOW, contest.START_USD
    settings = {"init_cash": start, "freq": f"{request.bar_s}s"}

    def signals() -> tuple[Any, Any]:
        quick, steady = vbt.MA.run(closes, fast), vbt.MA.run(closes, slow)
        return quick.ma_crossed_above(steady), quick.ma_crossed_below(steady)

    def work() -> int:
        entries, exits = signals()
        portfolio = vbt.Portfolio.from_signals(closes, entries, exits, fees=request.fee, **settings)
        portfolio.final_value()
        return len(closes)

    figure = request.figure("backtest", "vectorbt", "bars", work, "averages, signals, portfolio")
    entries, exits = (np.asarray(each).reshape(-1).copy() for each in signals())
    # What is decided at the last close is filled after it, if ever.
    entries[-1] = exits[-1] = False
    own = vbt.Portfolio.from_signals(closes, entries, exits, fees=request.fee, **settings)
    # A pool keeps the fee of what comes in: 1 - fee of the cash buys. vectorbt adds its fee: 1 / (1 + fee) of it buys.
    fees = np.where(entries, request.fee / (1 - request.fee), request.fee)
    pool = vbt.Portfolio.from_signals(closes, entries, exits, fees=fees, **settings)
    return {
        "figures": [asdict(figure)],
        "own_fee": {"final": float(own.final_value()), "round_trips": int(own.trades.count())},
        "pool_fee": {"final": float(pool.final_value()), "round_trips": int(pool.trades.count())},
    }


def backtesting_py(request: Request) -> dict[str, Any]:
    """backtesting.py, on as many of the bars as it takes for a second or two: whole units of the asset only."""
    import numpy as np
    from backtesting import Backtest, Strategy
    from backtesting.lib import crossover

    from benchmarks.rl import contest

    bars = frame(request).rename(columns=str.capitalize)

    def average(values: Any, bars: int) -> Any:
        # Each mean by itself: sums that roll on for half a million bars once see a crossing a bar late.
        means = np.lib.stride_tricks.sliding_window_view(np.asarray(values), bars).mean(axis=1)
        return np.concatenate([np.full(bars - 1, np.nan), means])

    class Cross(Strategy):  # type: ignore[misc]
        def init(self) -> None:
            self.quick = self.I(average, self.data.Close, contest.FAST)
            self.steady = self.I(average, self.data.Close, contest.SLOW)

        def next(self) -> None:
            if crossover(self.quick, self.steady):
                self.buy(size=0.9999999)
            elif crossover(self.steady, self.quick):
                self.position.close()

    # Prices small against the capital, so that whole units are as good as fractions.
    small = bars / 1e9
    found: dict[str, Any] = {}

    def work() -> int:
        result = Backtest(
            small, Cross, cash=contest.START_USD, commission=request.fee, trade_on_close=True, finalize_trades=True
        ).run()
        found["final"], found["round_trips"] = float(result["Equity Final [$]"]), int(result["# Trades"])
        return len(small)

    figure = request.figure("backtest", "backtesting.py", "bars", work, "whole units")
    return {"figures": [asdict(figure)], "own_fee": found}


PEERS: dict[str, Callable[[Request], Any]] = {
    "gym-anytrading": gym_anytrading,
    "gym-trading-env": gym_trading_env,
    "torchtrade": torchtrade,
    "pufferlib": pufferlib,
    "stable-baselines3": stable_baselines3,
    "vectorbt": vectorbt,
    "backtesting.py": backtesting_py,
}


if __name__ == "__main__":
    main()
