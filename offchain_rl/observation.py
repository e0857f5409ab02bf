"""What a policy sees: a vector of integers computed from public data, the same bits everywhere.

The input is the last `lookback` answers of one asset's feed, `bar_s` apart, and four numbers read from
the vault. The output is one int16 per feature, in units of `2**-scale_bits` (4096 is 1.0 at the
default), saturated. An auditor who reads the same rounds and the same block gets the same vector.

Features (`h`, `f`, `s` count bars; L is the base-two logarithm of the price in q24; the mean of L over
`h` bars is the logarithm of a geometric moving average):

    return_z:h        (L now - L h bars ago) / (volatility * sqrt(h))
    ma_distance_z:h   (L now - mean of the last h of L) / (volatility * sqrt(h))
    ma_cross_z:f:s    (mean over f - mean over s) / (volatility * sqrt(s)), above 0 when the fast is higher
    vol_ratio:f:s     log2(volatility over f / volatility over s)
    log_vol:h         log2(volatility over h * 128): 0 is about 0.54 % a bar, each 1.0 doubles it
    weight            weight_bps / 10000
    drawdown          drawdown_bps / 10000, from the peak of the unit price

`volatility` is the root of the mean squared one-bar change of L over the last `vol_window` changes, at
least VOL_FLOOR_Q24. Every quotient rounds towards minus infinity, every mean too; square roots round
down; what does not fit an int16 saturates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, Final

import numpy as np
from eth_utils import keccak

from offchain_rl.fixedpoint import (
    Q12_BITS,
    Q24_BITS,
    Q24_ONE,
    IntArray,
    isqrt_array,
    log2_q24,
    log2_q24_array,
    saturate_int16,
    saturate_int16_array,
    sqrt_q8,
)
from offchain_rl.prices import MAX_PRICE_E8

OBSERVATION_VERSION: Final = 1
OBSERVATION_TAG: Final = b"marketflow/observation/1"
WAD: Final = 10**18
BPS: Final = 10_000

MAX_LOOKBACK: Final = 4096
MAX_FEATURES: Final = 64
MAX_BAR_S: Final = 7 * 86400
# 1e-5 in log2 units a bar, about 0.07 basis points: a price that stands still does not divide by zero.
VOL_FLOOR_Q24: Final = 168
# One bar moves a price by at most a factor of two, as far as volatility is concerned.
_STEP_LIMIT_Q24: Final = Q24_ONE
_LOG2_OF_128_Q24: Final = 7 << Q24_BITS

_HORIZONS: Final = {
    "return_z": 1,
    "ma_distance_z": 1,
    "ma_cross_z": 2,
    "vol_ratio": 2,
    "log_vol": 1,
    "weight": 0,
    "drawdown": 0,
}
VAULT_FEATURES: Final = ("weight", "drawdown")
_FEATURE_PATTERN: Final = re.compile(r"[a-z0-9_]{1,32}(:[1-9][0-9]{0,4}){0,2}\Z", re.ASCII)

# With half-hour bars: returns over one day to two weeks. Shorter ones made policies trade more and earn less.
DEFAULT_FEATURES: Final = (
    "return_z:48",
    "return_z:144",
    "return_z:336",
    "return_z:672",
    "ma_distance_z:48",
    "ma_cross_z:48:336",
    "vol_ratio:48:672",
    "log_vol:336",
    "weight",
    "drawdown",
)


class BadObservation(ValueError):
    """The numbers an observation should be built from can't be right."""


class BadSpec(ValueError):
    """An observation spec that this version does not know or can't compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationSpec:
    """What to observe. Part of the artefact, so part of what was voted on."""

    version: int = OBSERVATION_VERSION
    # Seconds between two answers.
    bar_s: int = 1800
    # Answers needed, oldest first.
    lookback: int = 673
    # One-bar changes in the volatility that returns are divided by.
    vol_window: int = 336
    # 1.0 in the vector is 2**scale_bits.
    scale_bits: int = Q12_BITS
    features: tuple[str, ...] = DEFAULT_FEATURES

    def __post_init__(self) -> None:
        if self.version != OBSERVATION_VERSION:
            raise BadSpec(f"observation spec version {self.version}, this code knows {OBSERVATION_VERSION}")
        _require_range("bar_s", self.bar_s, 1, MAX_BAR_S)
        _require_range("lookback", self.lookback, 2, MAX_LOOKBACK)
        _require_range("vol_window", self.vol_window, 1, self.lookback - 1)
        _require_range("scale_bits", self.scale_bits, 8, 14)
        if not isinstance(self.features, tuple) or not 1 <= len(self.features) <= MAX_FEATURES:
            raise BadSpec(f"features is a tuple of 1 to {MAX_FEATURES} names")
        for feature in self.features:
            _parse_feature(feature, self.lookback)
        if len(set(self.features)) != len(self.features):
            raise BadSpec("a feature is named twice")

    def to_dict(self) -> dict[str, Any]:
        """The spec as it stands in the artefact."""
        return {
            "bar_s": self.bar_s,
            "features": list(self.features),
            "lookback": self.lookback,
            "scale_bits": self.scale_bits,
            "version": self.version,
            "vol_window": self.vol_window,
        }

    def spec_hash(self) -> bytes:
        """32 bytes: keccak256 of one ASCII line, the fields in the order version … features."""
        line = (
            f"{self.version};{self.bar_s};{self.lookback};{self.vol_window};{self.scale_bits};{','.join(self.features)}"
        )
        return keccak(line.encode("ascii"))


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultState:
    """What the observation takes from the vault, read at one block."""

    # Value of everything in the vault, base units of the quote token.
    value: int
    # Share of the value that is in this asset.
    weight_bps: int
    # Value of one unit and the guard's peak of it, 1e18 = 1 quote token.
    unit_price_wad: int
    peak_wad: int

    def __post_init__(self) -> None:
        for name in ("value", "weight_bps", "unit_price_wad", "peak_wad"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 1 << 255:
                raise BadObservation(
                    f"vault {name} is {number!r}, expected an integer of at least 0 that fits 256 bits"
                )

    @property
    def drawdown_bps(self) -> int:
        """How far the unit price is below its peak, rounded down; 0 without a peak."""
        if self.unit_price_wad >= self.peak_wad:
            return 0
        return (self.peak_wad - self.unit_price_wad) * BPS // self.peak_wad


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The vector and everything it was computed from."""

    spec: ObservationSpec
    answers_e8: tuple[int, ...]
    vault: VaultState
    vector: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """Canonical bytes: the tag, then 32-byte big-endian two's complement words.

        Words: spec hash; number of answers and the answers, oldest first; value, weight_bps,
        unit_price_wad, peak_wad; length of the vector and the vector. Solidity's
        `abi.encodePacked` of the same values as int256 gives the same bytes.
        """
        vault = self.vault
        numbers = [len(self.answers_e8), *self.answers_e8]
        numbers += [vault.value, vault.weight_bps, vault.unit_price_wad, vault.peak_wad]
        numbers += [len(self.vector), *self.vector]
        words = b"".join(number.to_bytes(32, "big", signed=True) for number in numbers)
        return OBSERVATION_TAG + self.spec.spec_hash() + words


def build_observation(spec: ObservationSpec, answers_e8: Sequence[int], vault: VaultState) -> Observation:
    """The observation of one asset from its last `spec.lookback` answers, oldest first.

    Answers have 8 decimals. Raises BadObservation when there are too few or too many of them, or when
    one is not between 1 and MAX_PRICE_E8.
    """
    answers = tuple(answers_e8)
    if len(answers) != spec.lookback:
        raise BadObservation(f"{len(answers)} answers, the spec asks for {spec.lookback}")
    for i, answer in enumerate(answers):
        if isinstance(answer, bool) or not isinstance(answer, int) or not 1 <= answer <= MAX_PRICE_E8:
            raise BadObservation(f"answer {i} is {answer!r}, expected an integer from 1 to {MAX_PRICE_E8}")
    logs = _Logs([log2_q24(answer) for answer in answers], spec)
    vector = []
    for feature in spec.features:
        kind, horizons = _parse_feature(feature, spec.lookback)
        exact = _vault_feature(kind, vault, spec) if kind in VAULT_FEATURES else logs.feature(kind, horizons)
        vector.append(saturate_int16(exact))
    return Observation(spec=spec, answers_e8=answers, vault=vault, vector=tuple(vector))


def observation_hash(observation: Observation) -> str:
    """keccak256 of the canonical bytes, 0x-hex."""
    return "0x" + keccak(observation.to_bytes()).hex()


# The same for a whole series at once


def market_feature_names(spec: ObservationSpec) -> tuple[str, ...]:
    """The features that depend on prices only, in the order of the spec."""
    return tuple(f for f in spec.features if _parse_feature(f, spec.lookback)[0] not in VAULT_FEATURES)


def build_market_matrix(spec: ObservationSpec, answers_e8: IntArray) -> IntArray:
    """The price features at every bar that has enough history, int64, one row per bar.

    Row `i` belongs to bar `i + lookback - 1` and has the same bits as `build_observation` on the
    answers up to that bar; the columns are `market_feature_names(spec)`.
    """
    answers = np.asarray(answers_e8, dtype=np.int64)
    if len(answers) < spec.lookback:
        raise BadObservation(f"{len(answers)} answers, the spec asks for {spec.lookback}")
    if int(answers.min()) < 1 or int(answers.max()) > MAX_PRICE_E8:
        raise BadObservation(f"an answer is not between 1 and {MAX_PRICE_E8}")
    series = _LogSeries(log2_q24_array(answers), spec)
    names = market_feature_names(spec)
    matrix = np.empty((len(answers) - spec.lookback + 1, len(names)), dtype=np.int64)
    for column, name in enumerate(names):
        matrix[:, column] = saturate_int16_array(series.feature(*_parse_feature(name, spec.lookback)))
    return matrix


def feature_positions(spec: ObservationSpec) -> tuple[tuple[int, ...], dict[str, int]]:
    """Where the columns of the market matrix go in the vector, and where each vault feature goes."""
    market = tuple(i for i, f in enumerate(spec.features) if f not in VAULT_FEATURES)
    return market, {f: i for i, f in enumerate(spec.features) if f in VAULT_FEATURES}


def fill_vault_features(spec: ObservationSpec, vector: list[int], vault: VaultState) -> list[int]:
    """The vector with its vault features set from `vault`; the list is changed in place."""
    for i, feature in enumerate(spec.features):
        if feature in VAULT_FEATURES:
            vector[i] = saturate_int16(_vault_feature(feature, vault, spec))
    return vector


# One observation, plain integers


class _Logs:
    """Features of one window of logarithms."""

    def __init__(self, logs_q24: list[int], spec: ObservationSpec) -> None:
        self._logs = logs_q24
        self._spec = spec
        steps = (b - a for a, b in zip(logs_q24, logs_q24[1:], strict=False))
        self._squares = [min(max(step, -_STEP_LIMIT_Q24), _STEP_LIMIT_Q24) ** 2 for step in steps]
        self._volatility = self.volatility(spec.vol_window)

    def volatility(self, window: int) -> int:
        return max(isqrt(sum(self._squares[-window:]) // window), VOL_FLOOR_Q24)

    def mean(self, window: int) -> int:
        return sum(self._logs[-window:]) // window

    def feature(self, kind: str, horizons: tuple[int, ...]) -> int:
        bits, now = self._spec.scale_bits, self._logs[-1]
        if kind == "vol_ratio":
            fast, slow = (log2_q24(self.volatility(h)) for h in horizons)
            return (fast - slow) >> (Q24_BITS - bits)
        if kind == "log_vol":
            level = log2_q24(self.volatility(horizons[0])) - (Q24_BITS << Q24_BITS) + _LOG2_OF_128_Q24
            return level >> (Q24_BITS - bits)
        if kind == "return_z":
            change = now - self._logs[-1 - horizons[0]]
        elif kind == "ma_distance_z":
            change = now - self.mean(horizons[0])
        else:
            change = self.mean(horizons[0]) - self.mean(horizons[1])
        return (change << bits) // _typical_move(self._volatility, horizons[-1])


def _typical_move(volatility_q24: int, horizon: int) -> int:
    return max((volatility_q24 * sqrt_q8(horizon)) >> 8, 1)


def _vault_feature(kind: str, vault: VaultState, spec: ObservationSpec) -> int:
    share_bps = vault.weight_bps if kind == "weight" else vault.drawdown_bps
    return (share_bps << spec.scale_bits) // BPS


# Many observations, numpy int64. Sums stay below 2**62: squares are at most 2**48 and windows 2**12;
# a running sum may wrap, but the difference of two of them is exact modulo 2**64.


class _LogSeries:
    """Features of every full window of a series of logarithms."""

    def __init__(self, logs_q24: IntArray, spec: ObservationSpec) -> None:
        self._logs = logs_q24
        self._spec = spec
        steps = np.clip(np.diff(logs_q24), -_STEP_LIMIT_Q24, _STEP_LIMIT_Q24)
        self._sum_squares = _running_sum(steps * steps)
        self._sum_logs = _running_sum(logs_q24)
        self._count = len(logs_q24) - spec.lookback + 1
        self._volatility = self.volatility(spec.vol_window)

    def volatility(self, window: int) -> IntArray:
        total = self._sum_squares[window:] - self._sum_squares[:-window]
        return np.maximum(isqrt_array(self._last(total) // window), VOL_FLOOR_Q24)

    def mean(self, window: int) -> IntArray:
        total = self._sum_logs[window:] - self._sum_logs[:-window]
        return self._last(total) // window

    def feature(self, kind: str, horizons: tuple[int, ...]) -> IntArray:
        bits, now = self._spec.scale_bits, self._last(self._logs)
        if kind == "vol_ratio":
            fast, slow = (log2_q24_array(self.volatility(h)) for h in horizons)
            return (fast - slow) >> (Q24_BITS - bits)
        if kind == "log_vol":
            level = log2_q24_array(self.volatility(horizons[0])) - (Q24_BITS << Q24_BITS) + _LOG2_OF_128_Q24
            return level >> (Q24_BITS - bits)
        if kind == "return_z":
            change = now - self._last(self._logs[: -horizons[0]])
        elif kind == "ma_distance_z":
            change = now - self.mean(horizons[0])
        else:
            change = self.mean(horizons[0]) - self.mean(horizons[1])
        typical = np.maximum((self._volatility * sqrt_q8(horizons[-1])) >> 8, 1)
        return (change << bits) // typical

    def _last(self, values: IntArray) -> IntArray:
        return values[len(values) - self._count :]


def _running_sum(values: IntArray) -> IntArray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(values, dtype=np.int64)])


# Names and ranges


def _parse_feature(feature: str, lookback: int) -> tuple[str, tuple[int, ...]]:
    if not isinstance(feature, str) or not _FEATURE_PATTERN.match(feature):
        raise BadSpec(f"{feature!r} is not the name of a feature")
    kind, *numbers = feature.split(":")
    horizons = tuple(int(number) for number in numbers)
    if kind not in _HORIZONS:
        raise BadSpec(f"unknown feature {kind!r}; known are {', '.join(_HORIZONS)}")
    if len(horizons) != _HORIZONS[kind]:
        raise BadSpec(f"{feature}: {kind} takes {_HORIZONS[kind]} horizons, not {len(horizons)}")
    # A return over h bars and a volatility over h changes need h + 1 answers, a mean over h needs h.
    most = lookback if kind.startswith("ma_") else lookback - 1
    if any(h > most for h in horizons):
        raise BadSpec(f"{feature}: horizons go up to {most} with a lookback of {lookback}")
    if len(horizons) == 2 and horizons[0] >= horizons[1]:
        raise BadSpec(f"{feature}: the first horizon is the shorter one")
    return kind, horizons


def _require_range(name: str, number: int, low: int, high: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
        raise BadSpec(f"{name} is {number!r}, expected an integer from {low} to {high}")
