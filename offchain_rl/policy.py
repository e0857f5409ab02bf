"""From an observation to a target weight, with integers only: the same action on every machine.

How a trading cycle uses this package:

    from offchain_rl.artefact import load                       # load(path, expected_hash) -> Artefact
    from offchain_rl.observation import VaultState, build_observation, observation_hash
    from offchain_rl.policy import policy_from_artefact
    from offchain_rl.prices import Round, sample_rounds         # irregular rounds -> answers on a grid

    artefact = load("eth.json", expected_hash=hash_from_registry)   # ArtefactMismatch, ArtefactInvalid
    spec = artefact.observation                                     # spec.lookback answers, spec.bar_s apart
    policy = policy_from_artefact(artefact)
    vault = VaultState(value=…, weight_bps=…, unit_price_wad=…, peak_wad=…)
    observation = build_observation(spec, answers_e8, vault)        # one asset; oldest answer first
    decision = policy.decide(observation)                           # Decision(target_weight_bps, …)
    observation_hash(observation)                                   # 0x-hex, goes into the ledger

A vault with several assets asks once for each of them; the policy answers for one asset at a time.
Before there is an artefact, `HoldPolicy(spec)` is a policy that trades nothing.

The network. Inputs are the observation's int16 in units of 2**-scale_bits. A layer sums
`weights * inputs + bias` exactly (int64 is enough, the format's limits see to it), then shifts right to
q12, to the nearest, halves towards plus infinity. Hidden layers go through `tanh_q12`. The output z
gives the weight `max_weight_bps * (1 + tanh z) / 2`, to the nearest basis point, halves up.

Many observations at once. `output_q12_array` computes the same integers with float64 matrices, because a
processor multiplies those several times faster than int64. It may: a float64 holds every integer below 2**53, so sums
and products of integers that stay below it are exact, in whatever order, on however many threads and with or without
fused multiplication they are computed; and multiplying by a power of two loses nothing. `BatchEvaluator` works out the
largest sum its layers can reach for int16 inputs. The format's limits (256 inputs, int16 weights, biases of 48 bits)
keep it below 2**49, so every artefact is evaluated this way; layers made by hand that go beyond are evaluated with
int64, and those for which that is too small are refused. How far the integers are from the network they were
rounded from is proven in `error_bound`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from operator import add, index, mul
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from offchain_rl.artefact import ActionSpec, Artefact, Layer
from offchain_rl.fixedpoint import (
    INT16_MAX,
    INT16_MIN,
    Q12_BITS,
    Q12_ONE,
    IntArray,
    shift_right_round,
    shift_right_round_array,
    tanh_q12,
    tanh_q12_array,
)
from offchain_rl.observation import BadObservation, Observation, ObservationSpec

REBALANCE: Final = "rebalance"
WITHIN_DEADBAND: Final = "within deadband"
NOTHING_TO_DO: Final = "nothing to do"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a policy wants of one asset."""

    # The weight to have after the trade; the weight held now when nothing is to be traded.
    target_weight_bps: int
    # Whether a trade is wanted at all.
    is_rebalance: bool
    # What the policy would hold if trading were free, before the deadband.
    wanted_weight_bps: int
    # "rebalance", "within deadband" or "nothing to do".
    reason: str


class Policy(Protocol):
    """What a cycle needs of a policy."""

    spec: ObservationSpec
    action: ActionSpec

    def decide(self, observation: Observation) -> Decision:
        """What to hold of the asset, given what is known. Depends on nothing else."""
        ...

    def decide_vector(self, vector: Sequence[int], weight_bps: int) -> Decision:
        """The same for the vector of an observation and the weight held now."""
        ...


def policy_from_artefact(artefact: Artefact) -> Policy:
    """The policy an artefact describes."""
    spec, action, parameters = artefact.observation, artefact.action, artefact.parameters
    if artefact.kind == "mlp":
        return MlpPolicy(spec, action, artefact.layers)
    if artefact.kind == "moving_average":
        return MovingAverageRule(
            spec,
            action,
            feature=parameters["feature"],
            weight_above_bps=parameters["weight_above_bps"],
            weight_below_bps=parameters["weight_below_bps"],
        )
    if artefact.kind == "constant":
        return ConstantWeight(spec, action, parameters["weight_bps"])
    if artefact.kind == "buy_and_hold":
        return BuyAndHold(spec, action)
    return HoldPolicy(spec, action)


class _Base(ABC):
    """What all policies share: the check of the spec and the deadband."""

    def __init__(self, spec: ObservationSpec, action: ActionSpec | None = None) -> None:
        self.spec = spec
        self.action = action or ActionSpec()

    def decide(self, observation: Observation) -> Decision:
        """What to hold of the asset. Raises BadObservation when it was made for another spec."""
        if observation.spec != self.spec:
            raise BadObservation("the observation was built for another spec than this policy's")
        return self.decide_vector(observation.vector, observation.vault.weight_bps)

    def decide_vector(self, vector: Sequence[int], weight_bps: int) -> Decision:
        """The decision for the vector of an observation and the weight held now."""
        if len(vector) != len(self.spec.features):
            raise BadObservation(
                f"{len(vector)} numbers in the vector, the spec has {len(self.spec.features)} features"
            )
        wanted_bps = self.wanted_weight_bps(vector, weight_bps)
        if wanted_bps == weight_bps:
            reason = NOTHING_TO_DO
        elif abs(wanted_bps - weight_bps) < self.action.deadband_bps:
            reason = WITHIN_DEADBAND
        else:
            reason = REBALANCE
        is_rebalance = reason == REBALANCE
        return Decision(
            target_weight_bps=wanted_bps if is_rebalance else weight_bps,
            is_rebalance=is_rebalance,
            wanted_weight_bps=wanted_bps,
            reason=reason,
        )

    @abstractmethod
    def wanted_weight_bps(self, vector: Sequence[int], weight_bps: int) -> int:
        """What the policy would hold if trading were free."""


class HoldPolicy(_Base):
    """Trades nothing."""

    def wanted_weight_bps(self, vector: Sequence[int], weight_bps: int) -> int:
        return weight_bps


class ConstantWeight(_Base):
    """Holds one weight, always."""

    def __init__(self, spec: ObservationSpec, action: ActionSpec | None = None, weight_bps: int = 5_000) -> None:
        super().__init__(spec, action)
        self._weight_bps = min(weight_bps, self.action.max_weight_bps)

    def wanted_weight_bps(self, vector: Sequence[int], weight_bps: int) -> int:
        return self._weight_bps


class BuyAndHold(_Base):
    """Buys as much as is allowed when it holds next to nothing, and then keeps it."""

    def wanted_weight_bps(self, vector: Sequence[int], weight_bps: int) -> int:
        return self.action.max_weight_bps if weight_bps < self.action.max_weight_bps // 100 else weight_bps


class MovingAverageRule(_Base):
    """One weight while a feature is above zero, another while it is not: trend following, the baseline."""

    def __init__(
        self,
        spec: ObservationSpec,
        action: ActionSpec | None = None,
        *,
        feature: str = "ma_cross_z:48:336",
        weight_above_bps: int | None = None,
        weight_below_bps: int = 0,
    ) -> None:
        super().__init__(spec, action)
        if feature not in spec.features:
            raise ValueError(f"the rule looks at {feature}, which is not in the observation")
        self._position = spec.features.index(feature)
        self._above_bps = self.action.max_weight_bps if weight_above_bps is None else weight_above_bps
        self._below_bps = weight_below_bps

    def wanted_weight_bps(self, vector: Sequence[int], weight_bps: int) -> int:
        return self._above_bps if vector[self._position] > 0 else self._below_bps


class MlpPolicy(_Base):
    """A small network of integers."""

    def __init__(self, spec: ObservationSpec, action: ActionSpec | None, layers: Sequence[Layer]) -> None:
        super().__init__(spec, action)
        self._layers = tuple(layers)

    def wanted_weight_bps(self, vector: Sequence[int], weight_bps: int) -> int:
        return squash_to_weight_bps(self.output_q12(vector), self.action.max_weight_bps)

    def output_q12(self, vector: Sequence[int]) -> int:
        """The network's output z before it is squashed, q12. Raises BadObservation as `output_q12_array`."""
        values, bits = _checked_vector(vector, self.spec), self.spec.scale_bits
        for i, layer in enumerate(self._layers):
            shift = bits + layer.weight_bits - Q12_BITS
            sums = [sum(map(mul, row, values)) + bias for row, bias in zip(layer.weights, layer.biases, strict=True)]
            values = [_to_q12(total, shift) for total in sums]
            if i < len(self._layers) - 1:
                values = [tanh_q12(value) for value in values]
            bits = Q12_BITS
        return values[0]

    def output_q12_array(self, vectors: npt.NDArray[np.integer[Any]]) -> IntArray:
        """`output_q12` of each row of a matrix of integers [rows, features], the same bits: int64 [rows].

        Raises BadObservation for another shape, for floats, and for a number that is not an int16.
        """
        return self._batch.output_q12(_checked_matrix(vectors, self.spec))

    def wanted_weight_bps_array(self, vectors: npt.NDArray[np.integer[Any]]) -> IntArray:
        """`wanted_weight_bps` of each row, the same bits; raises as `output_q12_array`."""
        squashed = tanh_q12_array(self.output_q12_array(vectors))
        return (self.action.max_weight_bps * (squashed + Q12_ONE) + Q12_ONE) >> (Q12_BITS + 1)

    @cached_property
    def _batch(self) -> BatchEvaluator:
        return BatchEvaluator(self._layers, self.spec.scale_bits)


# Many at once

# Rows evaluated together: what a layer of 64 makes of them fits a processor's second cache.
_CHUNK_ROWS: Final = 2048
# tanh_q12 is the same for all inputs beyond these.
_TANH_END: Final = 8 << Q12_BITS
_EXACT_FLOAT64: Final = 1 << 53
_SAFE_INT64: Final = 1 << 62


class BatchEvaluator:
    """The layers of a network, prepared for many int16 observations at once. Has the bits of `MlpPolicy.output_q12`."""

    def __init__(self, layers: Sequence[Layer], scale_bits: int) -> None:
        """Raises ValueError for layers whose sums could leave an int64; an artefact's never do."""
        self._shifts = [scale_bits + layers[0].weight_bits - Q12_BITS, *(layer.weight_bits for layer in layers[1:])]
        inputs = (-INT16_MIN, *(Q12_ONE for _ in layers[1:]))
        self.largest_sum = max(map(_largest_sum, layers, self._shifts, inputs))
        if self.largest_sum >= _SAFE_INT64:
            raise ValueError(f"a sum of these layers can reach {self.largest_sum}, more than an int64 holds safely")
        # Whether float64 holds every sum exactly.
        self.is_float_exact = self.largest_sum < _EXACT_FLOAT64
        self._integers = [
            (np.array(layer.weights, dtype=np.int64).T.copy(), np.array(layer.biases, dtype=np.int64))
            for layer in layers
        ]
        self._floats = self._scaled() if self.is_float_exact else []

    def output_q12(self, vectors: npt.NDArray[np.integer[Any]]) -> IntArray:
        """z of each row of [rows, features], in q12."""
        result = np.empty(len(vectors), dtype=np.int64)
        evaluate = self._with_floats if self.is_float_exact else self._with_integers
        for start in range(0, len(vectors), _CHUNK_ROWS):
            result[start : start + _CHUNK_ROWS] = evaluate(vectors[start : start + _CHUNK_ROWS])
        return result

    def _scaled(self) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        """Weights and biases times 2**-shift: then a sum's floor is the shifted integer.

        The bias has half a unit more, which makes the floor a rounding to the nearest, halves up. Of hidden layers it
        also has the place of zero in the table, so that the sum is an index of it.
        """
        scaled = []
        for number, ((weights, biases), shift) in enumerate(zip(self._integers, self._shifts, strict=True)):
            half = 0.5 if shift > 0 else 0.0
            zero = _TANH_END if number < len(self._integers) - 1 else 0
            scaled.append((np.ldexp(weights, -shift), np.ldexp(biases, -shift) + (half + zero)))
        return scaled

    def _with_floats(self, vectors: npt.NDArray[np.integer[Any]]) -> IntArray:
        values, table = vectors.astype(np.float64), _tanh_table()
        for weights, biases in self._floats[:-1]:
            sums = values @ weights
            sums += biases
            # What lies below the table's first entry or above its last is clipped to it. A conversion cuts towards
            # zero, so it is the floor from zero up, and below zero the clip makes no difference of it.
            values = table.take(sums.astype(np.int64), mode="clip")
        weights, biases = self._floats[-1]
        return np.floor((values @ weights + biases)[:, 0]).astype(np.int64)

    def _with_integers(self, vectors: npt.NDArray[np.integer[Any]]) -> IntArray:
        values = vectors.astype(np.int64)
        for number, ((weights, biases), shift) in enumerate(zip(self._integers, self._shifts, strict=True)):
            sums = values @ weights + biases
            values = shift_right_round_array(sums, shift) if shift >= 0 else sums << -shift
            if number < len(self._integers) - 1:
                values = tanh_q12_array(values)
        return values[:, 0]


def _largest_sum(layer: Layer, shift: int, largest_input: int) -> int:
    """What no partial sum of the layer exceeds, in units of its last bit, what rounding and the table add included."""
    products = (sum(map(abs, row)) * largest_input for row in layer.weights)
    largest = max(map(add, products, map(abs, layer.biases))) + ((2 * _TANH_END) << max(shift, 0))
    return largest << max(-shift, 0)


@cache
def _tanh_table() -> npt.NDArray[np.float64]:
    """tanh_q12 of every integer from -8.0 to 8.0 in q12; beyond, it is the same as at the end."""
    table = tanh_q12_array(np.arange(-_TANH_END, _TANH_END + 1)).astype(np.float64)
    table.flags.writeable = False
    return table


def _checked_vector(vector: Sequence[int], spec: ObservationSpec) -> list[int]:
    """As Python's own integers: those of numpy would overflow."""
    try:
        values = [index(number) for number in vector]
    except TypeError:
        raise BadObservation("an observation is integers, and one of these is not") from None
    if len(values) != len(spec.features):
        raise BadObservation(f"{len(values)} numbers in the vector, the spec has {len(spec.features)} features")
    if min(values) < INT16_MIN or max(values) > INT16_MAX:
        place = next(i for i, number in enumerate(values) if not INT16_MIN <= number <= INT16_MAX)
        raise BadObservation(f"{spec.features[place]} is {values[place]}, which is not an int16")
    return values


def _checked_matrix(vectors: npt.NDArray[np.integer[Any]], spec: ObservationSpec) -> npt.NDArray[np.integer[Any]]:
    vectors = np.asarray(vectors)
    if not np.issubdtype(vectors.dtype, np.integer):
        raise BadObservation(f"observations are integers, not {vectors.dtype}")
    if vectors.ndim != 2 or vectors.shape[1] != len(spec.features):
        raise BadObservation(
            f"observations of shape {list(vectors.shape)}, expected a row of {len(spec.features)} features for each"
        )
    if vectors.dtype != np.int16 and (outside := np.argwhere((vectors < INT16_MIN) | (vectors > INT16_MAX))).size:
        row, place = outside[0].tolist()
        raise BadObservation(f"row {row}, {spec.features[place]} is {vectors[row, place]}, which is not an int16")
    return vectors


def squash_to_weight_bps(output_q12: int, max_weight_bps: int) -> int:
    """`max_weight_bps * (1 + tanh z) / 2` for z in q12, to the nearest basis point, halves up."""
    return (max_weight_bps * (tanh_q12(output_q12) + Q12_ONE) + Q12_ONE) >> (Q12_BITS + 1)


def _to_q12(total: int, shift: int) -> int:
    return shift_right_round(total, shift) if shift >= 0 else total << -shift
