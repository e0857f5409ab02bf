"""What a policy wanted and what it brought, written down: the data that offline training learns from.

A step is one decision: what was observed, the weight that was wanted, and the reward until the next decision of the
same vault. The observation it led to is the next row. A vault's last row is *terminal* (the vault may never buy again)
or *timeout* (the log ends there); a timeout row has no next observation, so nothing is learnt from it.

Steps come from two places: from runs of any policy over past bars (`log_runs`), and from the trades that a ledger
recorded and their explanations (`agents.logged_trades`). Both end in the same checked arrays, and nothing is filled in:
what is missing, not a number or out of order is refused with the vault and the row.

The wanted weight is the one before the deadband and the vault's limits: both belong to the market that is learnt, as
they do in `env`. Needs neither torch nor gymnasium.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from eth_utils import keccak

from offchain_rl.artefact import ActionSpec, ArtefactInvalid
from offchain_rl.backtest import BacktestConfig, run_backtest
from offchain_rl.fixedpoint import INT16_MAX, INT16_MIN, IntArray
from offchain_rl.observation import BPS, BadObservation, BadSpec, ObservationSpec
from offchain_rl.policy import HoldPolicy, Policy
from offchain_rl.prices import Bars
from offchain_rl.reward import RewardConfig, step_reward

FORMAT: Final = "marketflow/logged-steps"
FORMAT_VERSION: Final = 1
SUFFIX: Final = ".steps.npz"
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

_HEADER: Final = "header"
# Array, its type in the file and in memory. In the order in which they are hashed.
_ARRAYS: Final = {
    "vault_of": ">i4",
    "times_s": ">i8",
    "observations": ">i2",
    "weights_bps": ">i4",
    "rewards": ">f8",
    "is_terminal": "?",
    "is_timeout": "?",
}
_LARGEST_FILE: Final = 1 << 30


class BadSteps(ValueError):
    """Steps that nothing can honestly be learnt from; the sentence names the vault, the row or the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transitions:
    """Steps with what they led to, in the units of a learner. `n` rows of float32; `F` features."""

    # [n, F], 1.0 is 2**scale_bits.
    observations: npt.NDArray[np.float32]
    # [n], -1 is nothing and 1 the largest weight: tanh of a network's output, as the artefact's `mlp` has it.
    actions: npt.NDArray[np.float32]
    rewards: npt.NDArray[np.float32]
    # [n, F]; the step's own observation where it was the vault's last.
    next_observations: npt.NDArray[np.float32]
    # [n], the next step's; 0 where there is none.
    next_actions: npt.NDArray[np.float32]
    is_terminal: npt.NDArray[np.float32]
    # [n], time to the next decision, in `step_s`.
    intervals: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedSteps:
    """Checked steps of one or more vaults, `n` rows; the arrays are read-only. Raises BadSteps."""

    # Where they come from, for people.
    source: str
    spec: ObservationSpec
    # What the policies that were logged could ask for.
    action: ActionSpec
    # The usual time between two decisions, seconds: discounts count in it.
    step_s: int
    # Each name once; `vault_of` [n] are positions in it. A vault's rows follow each other.
    vaults: tuple[str, ...]
    vault_of: npt.NDArray[np.int32]
    # [n], when it was decided, unix seconds, strictly rising in a vault.
    times_s: IntArray
    # [n, F], int16, the columns of `spec.features`.
    observations: npt.NDArray[np.int16]
    # [n], what was wanted, 0 to `action.max_weight_bps`.
    weights_bps: npt.NDArray[np.int32]
    # [n], from this decision to the next one of the vault, as `reward.step_reward`; 0 in a timeout row.
    rewards: FloatArray
    is_terminal: BoolArray
    is_timeout: BoolArray

    def __post_init__(self) -> None:
        if not isinstance(self.step_s, int) or isinstance(self.step_s, bool) or self.step_s < 1:
            raise BadSteps(f"{self.source}: step_s is {self.step_s!r}, expected a positive number of seconds")
        for name, kind in _ARRAYS.items():
            object.__setattr__(self, name, _as_array(self.source, name, getattr(self, name), kind))
        _check_shapes(self)
        _check_numbers(self)
        _check_order(self)

    def __len__(self) -> int:
        return len(self.times_s)

    def describe(self, row: int) -> str:
        """A row's place, for people."""
        return f"{self.source}, row {row} (vault {self.vaults[self.vault_of[row]]}, {int(self.times_s[row])} s)"

    def transitions(self) -> Transitions:
        """What can be learnt from: every row that is no timeout. Raises BadSteps when there is none."""
        rows = np.flatnonzero(~self.is_timeout)
        if not len(rows):
            raise BadSteps(f"{self.source}: not one step has a next one, there is nothing to learn from")
        is_terminal = self.is_terminal[rows]
        following = np.where(is_terminal, rows, np.minimum(rows + 1, len(self) - 1))
        observations = self.observations.astype(np.float32) / np.float32(1 << self.spec.scale_bits)
        actions = (2.0 * self.weights_bps / max(self.action.max_weight_bps, 1) - 1.0).astype(np.float32)
        intervals = np.where(is_terminal, 1.0, (self.times_s[following] - self.times_s[rows]) / self.step_s)
        return Transitions(
            observations=observations[rows],
            actions=actions[rows],
            rewards=self.rewards[rows].astype(np.float32),
            next_observations=observations[following],
            next_actions=np.where(is_terminal, 0.0, actions[following]).astype(np.float32),
            is_terminal=is_terminal.astype(np.float32),
            intervals=intervals.astype(np.float32),
        )

    def until(self, end_s: int) -> LoggedSteps:
        """What was known at `end_s`: the steps decided and over by then. Raises BadSteps when there are none.

        A terminal step counts as over after `step_s`; a step whose end came later is a timeout.
        """
        rows = np.flatnonzero(self.times_s <= end_s)
        if not len(rows):
            raise BadSteps(f"{self.source}: no step was decided until {end_s} s")
        ends_s = self.times_s + self.step_s
        ends_s[:-1] = np.where(self.is_terminal | self.is_timeout, ends_s, np.roll(self.times_s, -1))[:-1]
        is_cut = (self.is_timeout | (ends_s > end_s))[rows]
        present, vault_of = np.unique(self.vault_of[rows], return_inverse=True)
        return replace(
            self,
            vaults=tuple(self.vaults[i] for i in present),
            vault_of=vault_of.astype(np.int32),
            times_s=self.times_s[rows],
            observations=self.observations[rows],
            weights_bps=self.weights_bps[rows],
            rewards=np.where(is_cut, 0.0, self.rewards[rows]),
            is_terminal=self.is_terminal[rows] & ~is_cut,
            is_timeout=is_cut,
        )

    def data_hash(self) -> str:
        """keccak256 of everything but `source`, 0x-hex: a header line, then the arrays, big-endian."""
        line = f"{self.spec.spec_hash().hex()};{self.action.max_weight_bps};{self.action.deadband_bps};{self.step_s}"
        names = "".join(f";{len(name.encode())}:{name}" for name in self.vaults)
        body = b"".join(getattr(self, name).astype(kind).tobytes() for name, kind in _ARRAYS.items())
        return "0x" + keccak(b"marketflow/logged-steps/1" + (line + names).encode() + b"\0" + body).hex()

    def save(self, path: Path) -> str:
        """The data hash, after the steps were written to `path` (numpy's npz). Equal steps make equal bytes."""
        header = {
            "format": FORMAT, "version": FORMAT_VERSION, "source": self.source, "step_s": self.step_s,
            "observation": self.spec.to_dict(), "action": self.action.to_dict(), "vaults": list(self.vaults),
            "data_hash": self.data_hash(),
        }  # fmt: skip
        text = json.dumps(header, sort_keys=True).encode()
        arrays = {_HEADER: np.frombuffer(text, dtype=np.uint8)}
        arrays |= {name: getattr(self, name).astype(kind) for name, kind in _ARRAYS.items()}
        partial = path.with_name(path.name + ".partial")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)
        partial.replace(path)
        return str(header["data_hash"])


def load_steps(path: Path) -> LoggedSteps:
    """The steps in a file, or of all `*.steps.npz` in a folder, joined. Raises BadSteps naming the file."""
    if path.is_dir():
        files = sorted(path.glob(f"*{SUFFIX}"))
        if not files:
            raise BadSteps(
                f"{path} has no file that ends in {SUFFIX}: name the folder that the ledger's trades were written to"
            )
        return join_steps([_load(file) for file in files])
    return _load(path)


def join_steps(parts: Sequence[LoggedSteps]) -> LoggedSteps:
    """Several logs as one. Raises BadSteps when they observed different things, or name one vault twice."""
    if not parts:
        raise BadSteps("there are no steps to join")
    first = parts[0]
    for part in parts[1:]:
        for name, what in (("spec", "observation"), ("action", "action"), ("step_s", "time between decisions")):
            if getattr(part, name) != getattr(first, name):
                raise BadSteps(
                    f"{part.source} has another {what} than {first.source}: train on logs of one kind at a time"
                )
    offsets = np.cumsum([0, *(len(part.vaults) for part in parts)])
    joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    joined["vault_of"] = np.concatenate([p.vault_of + o for p, o in zip(parts, offsets, strict=False)])
    return LoggedSteps(
        source=first.source if len(parts) == 1 else f"{first.source} and {len(parts) - 1} more",
        spec=first.spec,
        action=first.action,
        step_s=first.step_s,
        vaults=tuple(name for part in parts for name in part.vaults),
        **joined,
    )


def vector_of(features: Mapping[str, Any], spec: ObservationSpec, where: str) -> list[int]:
    """The observation's numbers in the order of the spec, from names and values (integers or decimal text).

    Raises BadSteps when a feature is unknown, missing, or not an int16.
    """
    unknown, missing = set(features) - set(spec.features), set(spec.features) - set(features)
    if unknown or missing:
        what = f"has the unknown {', '.join(sorted(unknown))}" if unknown else f"lacks {', '.join(sorted(missing))}"
        raise BadSteps(f"{where}: the observation {what}; the spec has {', '.join(spec.features)}")
    try:
        vector = [int(features[name]) for name in spec.features]
    except (TypeError, ValueError) as error:
        raise BadSteps(f"{where}: a feature is not an integer ({error})") from None
    if not all(INT16_MIN <= number <= INT16_MAX for number in vector):
        raise BadSteps(f"{where}: a feature does not fit an int16")
    return vector


# Steps of a policy over past bars


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """How a behaviour is run to be logged."""

    backtest: BacktestConfig = field(default_factory=BacktestConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    # Decisions in a run, each of which starts a vault in cash, and bars from one decision to the next.
    episode_steps: int = 60
    bars_per_step: int = 24
    # Share of decisions in which the behaviour wants a random weight instead, basis points. Without any, only what
    # the behaviour always does is in the log, and nobody can learn from it what else would have been better.
    explore_bps: int = 3_000
    # Times that the bars are gone through, each from another bar on.
    passes: int = 4
    seed: int = 1

    def __post_init__(self) -> None:
        if min(self.episode_steps, self.bars_per_step, self.passes) < 1:
            raise ValueError("episode_steps, bars_per_step and passes are at least 1")
        if not 0 <= self.explore_bps <= BPS:
            raise ValueError("explore_bps lies between 0 and 10000")


def log_runs(policy: Policy, bars: Bars | Sequence[Bars], config: LogConfig | None = None) -> LoggedSteps:
    """The steps of a behaviour in backtests over one or more price series.

    Each run decides every `bars_per_step` bars and holds in between. It ends early, in a terminal step, when the vault
    reaches its drawdown limit. Same policy, bars and configuration give the same steps. Raises BadObservation when a
    series is too short for one run.
    """
    config = config or LogConfig()
    series = (bars,) if isinstance(bars, Bars) else tuple(bars)
    rng = np.random.default_rng([config.seed, 0x6C6F67])
    runs = [run for one in series for run in _runs_of(policy, one, config, rng)]
    names = [name for name, _ in runs]
    rows = {key: np.concatenate([run[key] for _, run in runs]) for key in _ARRAYS if key != "vault_of"}
    return LoggedSteps(
        source=f"{type(policy).__name__} over {', '.join(one.source for one in series)}",
        spec=policy.spec,
        action=policy.action,
        step_s=series[0].bar_s * config.bars_per_step,
        vaults=tuple(names),
        vault_of=np.repeat(np.arange(len(runs), dtype=np.int32), [len(run["times_s"]) for _, run in runs]),
        **rows,
    )


class _Recorder(HoldPolicy):
    """A behaviour that is asked every few bars, sometimes explores, and has what it saw and wanted written down."""

    def __init__(self, inner: Policy, config: LogConfig, rng: np.random.Generator) -> None:
        super().__init__(inner.spec, inner.action)
        self._inner, self._config, self._rng = inner, config, rng
        self.asked = 0
        self.vectors: list[tuple[int, ...]] = []
        self.wanted_bps: list[int] = []

    def wanted_weight_bps(self, vector: Sequence[int], weight_bps: int) -> int:
        is_due = self.asked % self._config.bars_per_step == 0
        self.asked += 1
        if not is_due:
            return weight_bps
        wanted_bps = self._inner.decide_vector(vector, weight_bps).wanted_weight_bps
        if self._rng.integers(BPS) < self._config.explore_bps:
            wanted_bps = int(self._rng.integers(self.action.max_weight_bps + 1))
        self.vectors.append(tuple(vector))
        self.wanted_bps.append(wanted_bps)
        return wanted_bps


def _runs_of(
    policy: Policy, bars: Bars, config: LogConfig, rng: np.random.Generator
) -> list[tuple[str, dict[str, npt.NDArray[Any]]]]:
    """The runs over one series, by name."""
    first, length = policy.spec.lookback - 1, config.episode_steps * config.bars_per_step
    last = len(bars) - 2 - length
    if last < first:
        raise BadObservation(f"{bars.source}: {len(bars)} bars, a logged run needs {first + length + 2}")
    shift = -(-length // config.passes)
    starts = [s for number in range(config.passes) for s in range(first + number * shift, last + 1, length)]
    return [(f"{bars.source} from bar {start}", _run(policy, bars, start, length, config, rng)) for start in starts]


def _run(
    policy: Policy, bars: Bars, start: int, length: int, config: LogConfig, rng: np.random.Generator
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of one run; its last row is the one after the last whole step."""
    recorder, every = _Recorder(policy, config, rng), config.bars_per_step
    # One bar more than the steps take, so that the last observation is recorded too.
    first = policy.spec.lookback - 1
    needed = bars.slice(start - first, start + length + 2)
    result = run_backtest(recorder, needed, config.backtest, start=first)
    if recorder.asked != length + 1:
        raise BadSteps(f"{bars.source}: the backtest asked {recorder.asked} times in {length + 1} bars")
    values = np.array(result.values, dtype=np.float64)
    peaks = np.maximum.accumulate(values)
    # The vault latches its drawdown; when it did, its values tell.
    is_stopped = values * BPS < peaks * (BPS - config.backtest.limits.max_drawdown_bps)
    is_stopped[-1] = True
    is_stopped &= result.vault.is_drawdown == 1
    at = np.arange(0, length + 1, every)
    is_ruined = np.maximum.accumulate(is_stopped)[at[1:]]
    rows = int(np.argmax(is_ruined)) + 1 if is_ruined.any() else len(at)
    seen = zip(values[at].tolist(), (1 - values / peaks)[at].tolist(), [False, *is_ruined.tolist()], strict=True)
    weights = (config.reward.drawdown_weight, config.reward.ruin_price)
    pairs = pairwise(seen)
    rewards = [step_reward(v, w, d, e, ruined, *weights) for (v, d, _), (w, e, ruined) in pairs] + [0.0]
    is_terminal, is_timeout = np.zeros(rows, dtype=np.bool_), np.zeros(rows, dtype=np.bool_)
    (is_terminal if is_ruined.any() else is_timeout)[-1] = True
    return {
        "times_s": bars.timestamps_s[start + at[:rows]] + bars.bar_s,
        "observations": np.array(recorder.vectors[:rows], dtype=np.int64),
        "weights_bps": np.array(recorder.wanted_bps[:rows], dtype=np.int32),
        "rewards": np.array(rewards[:rows]),
        "is_terminal": is_terminal,
        "is_timeout": is_timeout,
    }


# Checks


def _as_array(source: str, name: str, value: Any, kind: str) -> npt.NDArray[Any]:
    """A read-only copy in the machine's byte order. Refuses what the type can't hold."""
    array, wanted = np.asarray(value), np.dtype(kind).newbyteorder("=")
    if wanted.kind == "i" and array.dtype.kind not in "iu":
        raise BadSteps(f"{source}: {name} has numbers of type {array.dtype}, expected integers")
    if wanted.kind == "b" and array.dtype.kind != "b":
        raise BadSteps(f"{source}: {name} has values of type {array.dtype}, expected true and false")
    if wanted.kind == "i" and array.size:
        limits = np.iinfo(wanted)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise BadSteps(f"{source}: {name} has a number outside {limits.min} to {limits.max}")
    try:
        copy = np.array(array, dtype=wanted)
    except (TypeError, ValueError):
        raise BadSteps(f"{source}: {name} has values of type {array.dtype}, expected {wanted}") from None
    copy.flags.writeable = False
    return copy


def _check_shapes(steps: LoggedSteps) -> None:
    rows = len(steps.times_s) if steps.times_s.ndim == 1 else -1
    if rows == 0:
        raise BadSteps(f"{steps.source}: there are no steps")
    for name in _ARRAYS:
        shape = getattr(steps, name).shape
        expected = (rows, len(steps.spec.features)) if name == "observations" else (rows,)
        if shape != expected:
            raise BadSteps(f"{steps.source}: {name} has shape {shape}, expected {expected}")


def _check_numbers(steps: LoggedSteps) -> None:
    count = len(steps.vaults)
    if len(set(steps.vaults)) != count:
        twice = next(name for name in steps.vaults if steps.vaults.count(name) > 1)
        raise BadSteps(f"{steps.source}: vault {twice} is named twice; its steps must come in one piece")
    if not (0 <= int(steps.vault_of.min()) and int(steps.vault_of.max()) < count):
        raise BadSteps(f"{steps.source}: vault_of has a number outside the {count} vaults that are named")
    if len(bad := np.flatnonzero(~np.isfinite(steps.rewards))):
        raise BadSteps(f"{steps.describe(bad[0])}: the reward is {steps.rewards[bad[0]]}, not a number")
    most = steps.action.max_weight_bps
    if len(bad := np.flatnonzero((steps.weights_bps < 0) | (steps.weights_bps > most))):
        found = steps.weights_bps[bad[0]]
        raise BadSteps(f"{steps.describe(bad[0])}: a weight of {found} bps, allowed are 0 to {most}")
    if len(bad := np.flatnonzero(steps.is_terminal & steps.is_timeout)):
        raise BadSteps(f"{steps.describe(bad[0])}: a step is terminal or a timeout, not both")


def _check_order(steps: LoggedSteps) -> None:
    changes = np.flatnonzero(np.diff(steps.vault_of)) + 1
    if len(changes) + 1 != len(np.unique(steps.vault_of)):
        raise BadSteps(f"{steps.source}: the steps of a vault do not follow each other; sort them by vault and time")
    is_same = np.diff(steps.vault_of) == 0
    passed_s = np.diff(steps.times_s)
    if len(bad := np.flatnonzero(is_same & (passed_s <= 0)) + 1):
        what = "is there twice" if passed_s[bad[0] - 1] == 0 else "comes before the step above it"
        raise BadSteps(f"{steps.describe(bad[0])}: the step {what}")
    ends = np.append(~is_same, True)
    if len(bad := np.flatnonzero(ends & ~(steps.is_terminal | steps.is_timeout))):
        raise BadSteps(f"{steps.describe(bad[0])}: a vault's last step is terminal or a timeout, this one is neither")


# Reading


def _load(path: Path) -> LoggedSteps:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise BadSteps(f"{path} is larger than {_LARGEST_FILE} bytes")
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, BadSteps):
            raise
        raise BadSteps(f"{path} can't be read as logged steps ({error})") from None
    if missing := {_HEADER, *_ARRAYS} - set(found):
        raise BadSteps(f"{path} has no {', '.join(sorted(missing))}")
    header = _header(path, found[_HEADER])
    try:
        fields = dict(header["observation"])
        spec = ObservationSpec(**fields | {"features": tuple(fields["features"])})
        steps = LoggedSteps(
            source=path.name,
            spec=spec,
            action=ActionSpec(**header["action"]),
            step_s=header["step_s"],
            vaults=tuple(map(str, header["vaults"])),
            **{name: found[name] for name in _ARRAYS},
        )
    except (BadSpec, ArtefactInvalid, KeyError, TypeError) as error:
        raise BadSteps(f"{path}: {error}") from None
    if steps.data_hash() != header.get("data_hash"):
        raise BadSteps(f"{path}: the steps hash to {steps.data_hash()}, the file says {header.get('data_hash')}")
    return steps


def _header(path: Path, content: npt.NDArray[Any]) -> dict[str, Any]:
    try:
        header = json.loads(bytes(content))
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise BadSteps(f"{path} is not a file of logged steps")
    if header.get("version") != FORMAT_VERSION:
        raise BadSteps(f"{path} has version {header.get('version')!r}, this code knows {FORMAT_VERSION}")
    return header
