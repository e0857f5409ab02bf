"""Our side, each part in a process of its own like the peers, answering as they do. See benchmarks.rl.peer."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.rl import contest
from benchmarks.rl.measure import Figure, Request, measure_rates, request_from

_DRAWN = 16
# An accelerator has other sizes, and another clock: nothing is divided by what is measured in processor time.
ACCELERATOR_SIZES = (65_536, 1_048_576)
WALL_STEPS = "steps of wall time"
# Decimals of the asset in the backtest's books; a share of 1e-12 of it is lost to rounding.
_FINE_UNIT = 10**12


def main() -> None:
    answer = PARTS[sys.argv[1]](request_from(sys.argv[2]))
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


# Environment


def environment(request: Request) -> list[dict[str, Any]]:
    """`advance` with random weights and with one that is held, and Gymnasium's `step`, for each size."""
    from offchain_rl.env import VectorTradingEnv

    config = contest.env_config(request.bar_s)
    market, largest = contest.load_market(request.prices, request.bar_s), config.action.max_weight_bps
    rng, figures = np.random.default_rng(0), []
    for size in request.sizes:
        env = VectorTradingEnv(market, config, size)
        env.start(1)
        random = rng.integers(0, largest + 1, (_DRAWN, size)).astype(np.int32)
        held = np.full((_DRAWN, size), largest, dtype=np.int32)
        shares = (random / largest).astype(np.float32).reshape(_DRAWN, size, 1)
        for name, call, actions in (
            ("random weights", env.advance, random),
            ("one weight held", env.advance, held),
            ("gymnasium step", env.step, shares),
        ):
            work = _stepping(call, actions, size)
            figures.append(_figure(request, "env", f"ours, {name}, N = {size:,}", "steps", work))
    return [asdict(figure) for figure in figures]


def accelerator(request: Request, device: str = "cuda") -> list[dict[str, Any]]:
    """The same environment on tensors, steps per second of wall time; nothing where there is no such device."""
    import torch

    from offchain_rl.tensor_env import TensorTradingEnv

    if device == "cuda" and not torch.cuda.is_available():
        return []
    config, figures = contest.env_config(request.bar_s), []
    market, largest = contest.load_market(request.prices, request.bar_s), config.action.max_weight_bps
    label = torch.cuda.get_device_name() if device == "cuda" else device
    for size in ACCELERATOR_SIZES if device == "cuda" else request.sizes:
        env = TensorTradingEnv(market, config, size, device=device)
        env.start(1)
        actions = torch.randint(0, largest + 1, (_DRAWN, size), device=device)

        def work(env: TensorTradingEnv = env, actions: torch.Tensor = actions, size: int = size) -> int:
            for each in actions:
                env.advance(each)
            if device == "cuda":
                torch.cuda.synchronize()
            return size * len(actions)

        rates = measure_rates(work, repetitions=request.repetitions, least_s=request.least_s, clock=time.perf_counter)
        name = f"ours on tensors, {label}, N = {size:,}"
        figures.append(Figure(section="env", name=name, unit=WALL_STEPS, rates=tuple(rates), note="wall time"))
    return [asdict(figure) for figure in figures]


def _stepping(call: Callable[[Any], Any], actions: npt.NDArray[Any], size: int) -> Callable[[], int]:
    def work() -> int:
        for each in actions:
            call(each)
        return size * len(actions)

    return work


def touched_bytes() -> int:
    """Bytes that a step reads and writes for one environment, as far as they can be counted from outside.

    The vault's row, the bar and the counters, read and written; the market's rows of two bars, read; the
    observation's row of the market, read, and both observations, reward and flags, written; the action, read.
    """
    from offchain_rl.env import VectorTradingEnv
    from offchain_rl.episode import build_market

    size, config = 2, contest.env_config()
    market = contest.market_of(np.full(2000, 100.0), config.observation.bar_s)
    env = VectorTradingEnv(market, config, size)
    env.start(1)
    state = env.snapshot()
    kept = sum(state[name].nbytes for name in ("rows", "bars", "steps")) // size
    out = env.advance(np.zeros(size, dtype=np.int32))
    written = sum(array.nbytes for array in asdict(out).values()) // size
    shared = build_market([market], config.observation)
    return 2 * kept + written + 2 * shared.bars[0].nbytes + shared.features[0].nbytes + 4


# Trainers


def ppo(request: Request) -> list[dict[str, Any]]:
    """`train_agent` with the contest's sizes, from one update's end to the next one's: without what a start costs."""
    from offchain_rl.train_ppo import TrainConfig, train_agent

    sizes, market = contest.PPO, contest.load_market(request.prices, request.bar_s)
    hidden = (sizes.hidden, sizes.hidden)
    updates = _updates(request)
    config = TrainConfig(
        total_steps=sizes.batch * updates, num_envs=sizes.num_envs, rollout_steps=sizes.rollout_steps,
        update_epochs=sizes.epochs, minibatches=sizes.batch // sizes.minibatch, learning_rate=sizes.learning_rate,
        gamma=sizes.gamma, gae_lambda=sizes.gae_lambda, clip=sizes.clip, value_weight=sizes.value_weight,
        max_grad_norm=sizes.max_grad_norm, hidden=hidden, critic_hidden=hidden, reward_scale=sizes.reward_scale,
        # As the peers: all starts from the beginning, all bars to train on, the last weights.
        curriculum=(), validation_share=0.0, env=contest.env_config(request.bar_s),
    )  # fmt: skip
    marks: list[float] = []
    train_agent([market], config, on_update=lambda report: marks.append(time.process_time()))
    return [asdict(_trained("ours, train_ppo", marks, is_ours=True))]


def cleanrl_style(request: Request) -> list[dict[str, Any]]:
    """`plain_ppo` on the same environment."""
    import torch

    from benchmarks.rl import plain_ppo

    torch.set_num_threads(1)
    env = contest.make_shared_env(contest.load_market(request.prices, request.bar_s))
    marks: list[float] = []
    plain_ppo.train(env, _updates(request), on_update=lambda reward: marks.append(time.process_time()))
    return [asdict(_trained("CleanRL-style", marks, is_ours=False))]


def _updates(request: Request) -> int:
    """One to warm up, then one for each repetition; two at least."""
    return 1 + max(request.repetitions, 2)


def _trained(name: str, marks: list[float], *, is_ours: bool) -> Figure:
    rates = tuple(contest.PPO.batch / (after - before) for before, after in zip(marks, marks[1:], strict=False))
    if not rates:
        raise RuntimeError(f"{name} reported {len(marks)} updates, which is no time between two")
    return Figure(section="ppo", name=name, unit="steps", rates=rates, is_ours=is_ours)


# Backtest


def backtest(request: Request) -> dict[str, Any]:
    """The rule through the compiled books of the vault, the same integers as the live cycle's backtest."""
    from offchain_rl.backtest import run_targets
    from offchain_rl.episode import build_market
    from offchain_rl.observation import ObservationSpec

    bars = contest.load_market(request.prices, request.bar_s)
    spec = ObservationSpec(bar_s=request.bar_s, lookback=2, vol_window=1, features=("weight",))
    market, config = build_market([bars], spec), _same_fills(request)

    def work() -> int:
        run = run_targets(cross_targets(bars.close_e8), market, request.bar_s, config, deadband_bps=5_000)
        found.update(final=int(run.values[-1]) / 1e6, round_trips=(run.vault.trades + 1) // 2)
        return len(bars)

    found: dict[str, Any] = {}
    figure = _figure(request, "backtest", "ours, run_targets", "bars", work, "averages, vault with guard, equity")
    return {"figures": [asdict(figure)], "pool_fee": found}


def cross_targets(close_e8: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """What the rule asks for at the close of each bar but the last, basis points, int32 [T - 1]; exact integers.

    All in while the mean of the last FAST closes is above that of the last SLOW, once it has crossed: a market that
    begins above is not entered.
    """
    sums = np.cumsum(close_e8)
    fast, slow = contest.FAST, contest.SLOW
    # From bar `slow` on, so that there is one before to cross from.
    of_fast, of_slow = sums[slow:] - sums[slow - fast : -fast], sums[slow:] - sums[:-slow]
    above = of_fast * (slow // fast) > of_slow
    begins_above = int(sums[slow - 1] - sums[slow - fast - 1]) * (slow // fast) > int(sums[slow - 1])
    if begins_above:
        above[: int(np.argmin(above)) if not above.all() else len(above)] = False
    targets = np.zeros(len(close_e8) - 1, dtype=np.int32)
    np.multiply(above[:-1], 10_000, out=targets[slow:], casting="unsafe")
    return targets


def _same_fills(request: Request) -> Any:
    """A vault that stops nobody, with a pool so deep that no trade moves it, filled at the close: vectorbt's rule."""
    from offchain_rl.backtest import BacktestConfig
    from offchain_rl.spot_vault import UNLIMITED, Costs

    # The next bar opens where this one closed, and the order is filled as it opens.
    costs = Costs(fee_bps=request.fee_bps, slippage_bps=0, gas_quote=0, depth_quote=1 << 59, latency_s=0)
    # Not its 100 %: a sale of everything, its worth rounded up, could then cost a unit more than the vault has.
    limits = replace(UNLIMITED, max_trade_slippage_bps=5_000)
    return BacktestConfig(
        costs=costs, limits=limits, start_quote=contest.START_USD * 10**6, asset_unit=_FINE_UNIT
    )  # fmt: skip


def _figure(request: Request, section: str, name: str, unit: str, work: Callable[[], int], note: str = "") -> Figure:
    return request.figure(section, name, unit, work, note, is_ours=True)


# The machine


def machine(request: Request) -> dict[str, Any]:
    """What this core does at most: bytes copied, rows gathered, matrix products, and its clock."""
    from benchmarks.rl import bounds

    return {**bounds.measure(request.repetitions, request.least_s), "env_bytes_per_step": touched_bytes()}


PARTS: dict[str, Callable[[Request], Any]] = {
    "env": environment,
    "accelerator": accelerator,
    "ppo": ppo,
    "cleanrl": cleanrl_style,
    "backtest": backtest,
    "machine": machine,
}


if __name__ == "__main__":
    main()
