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
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import Final, Protocol

import numpy as np

from offchain_rl.artefact import ActionSpec, Artefact, Layer
from offchain_rl.fixedpoint import (
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
        """The network's output z before it is squashed, q12."""
        values, bits = list(vector), self.spec.scale_bits
        for i, layer in enumerate(self._layers):
            shift = bits + layer.weight_bits - Q12_BITS
            sums = [sum(map(mul, row, values)) + bias for row, bias in zip(layer.weights, layer.biases, strict=True)]
            values = [_to_q12(total, shift) for total in sums]
            if i < len(self._layers) - 1:
                values = [tanh_q12(value) for value in values]
            bits = Q12_BITS
        return values[0]

    def output_q12_array(self, vectors: IntArray) -> IntArray:
        """`output_q12` of each row of an int64 matrix, the same bits."""
        values, bits = np.asarray(vectors, dtype=np.int64), self.spec.scale_bits
        for i, layer in enumerate(self._layers):
            shift = bits + layer.weight_bits - Q12_BITS
            sums = values @ np.array(layer.weights, dtype=np.int64).T + np.array(layer.biases, dtype=np.int64)
            values = shift_right_round_array(sums, shift) if shift >= 0 else sums << -shift
            if i < len(self._layers) - 1:
                values = tanh_q12_array(values)
            bits = Q12_BITS
        return values[:, 0]

    def wanted_weight_bps_array(self, vectors: IntArray) -> IntArray:
        """`wanted_weight_bps` of each row, the same bits."""
        squashed = tanh_q12_array(self.output_q12_array(vectors))
        return (self.action.max_weight_bps * (squashed + Q12_ONE) + Q12_ONE) >> (Q12_BITS + 1)


def squash_to_weight_bps(output_q12: int, max_weight_bps: int) -> int:
    """`max_weight_bps * (1 + tanh z) / 2` for z in q12, to the nearest basis point, halves up."""
    return (max_weight_bps * (tanh_q12(output_q12) + Q12_ONE) + Q12_ONE) >> (Q12_BITS + 1)


def _to_q12(total: int, shift: int) -> int:
    return shift_right_round(total, shift) if shift >= 0 else total << -shift
