"""A policy is integers in, integers out: the same decision on every machine."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from dataclasses import replace
from operator import mul
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offchain_rl.artefact import ActionSpec, Artefact, Layer, parse
from offchain_rl.observation import BadObservation, ObservationSpec, VaultState, build_observation
from offchain_rl.policy import (
    NOTHING_TO_DO,
    REBALANCE,
    WITHIN_DEADBAND,
    BatchEvaluator,
    BuyAndHold,
    ConstantWeight,
    Decision,
    HoldPolicy,
    MlpPolicy,
    MovingAverageRule,
    policy_from_artefact,
    squash_to_weight_bps,
)

SPEC = ObservationSpec(lookback=9, vol_window=8, features=("return_z:1", "ma_cross_z:2:9", "weight"))
ANSWERS = tuple(200_000_000_000 + 977_000_003 * (i * i % 7) for i in range(9))
FLAT = VaultState(value=10**11, weight_bps=0, unit_price_wad=10**18, peak_wad=10**18)
# A file, byte for byte: what it decides can never change.
GOLDEN_FILE = (
    b'{"action":{"deadband_bps":250,"max_weight_bps":6000},"format":"marketflow/artefact","kind":"mlp","na'
    b'me":"golden","observation":{"bar_s":1800,"features":["return_z:1","ma_cross_z:2:9","weight"],"lookba'
    b'ck":9,"scale_bits":12,"version":1,"vol_window":8},"parameters":{"layers":[{"biases":[-645120,2813952'
    b',8568832,-8243200],"storage":"int16","weight_bits":13,"weights":[[6257,-840,-7301],[-3861,-5291,3182'
    b'],[6370,-921,3476],[8817,-5659,-830]]},{"biases":[-99328,89088,-46080],"storage":"int8","weight_bits'
    b'":6,"weights":[[4,-29,-54,96],[-1,-60,95,-82],[-65,58,58,13]]},{"biases":[-2995200],"storage":"int16'
    b'","weight_bits":12,"weights":[[-2834,-4971,-4913]]}]},"provenance":{},"report":{},"version":1}'
)
# What it makes of observations: the vector, z in q12, the weight in basis points. Computed once.
GOLDEN_VECTORS = (
    ((0, 0, 0), -2720, 1257),
    ((1, 0, 0), -2720, 1257),
    ((-1, 0, 0), -2720, 1257),
    ((4096, 4096, 4096), -5335, 413),
    ((-4096, 4096, 0), -491, 2642),
    ((800, -1600, 2048), -5281, 423),
    ((-123, 45, -678), -1402, 2011),
    ((-32768, -32768, -32768), 9454, 5941),
    ((32767, 32767, -32768), -3299, 999),
    ((32767, 32767, 32767), -10541, 34),
    ((-10957, 29546, 4514), 920, 3663),
    ((-20519, 19985, -5048), 1179, 3840),
    ((-30080, 10423, -14609), 2396, 4578),
)
# sha256 of z as little-endian int64, for 5,000 observations of `create_observations`.
GOLDEN_OUTPUTS = "d7905c2b07a3f5a8548661a84b5d1adb8e743e6b77b9cdb0b415757ec4891983"
INT16 = st.integers(-32768, 32767)

PROGRAM = """
import hashlib, sys
import numpy as np
from offchain_rl.artefact import parse
from offchain_rl.policy import policy_from_artefact
from tests.unit.offchain_rl.test_policy import GOLDEN_FILE, create_observations
z = policy_from_artefact(parse(GOLDEN_FILE)).output_q12_array(create_observations())
print(hashlib.sha256(z.astype("<i8").tobytes()).hexdigest())
"""


def create_observations(count: int = 5_000, features: int = 3) -> np.ndarray:
    """int16 [count, features], by a formula: corners first, then all over the box."""
    numbers = np.arange(count * features, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(48)
    vectors = numbers.astype(np.uint16).view(np.int16).reshape(count, features)
    vectors[:8] = np.array([[(-32768, 32767)[i >> k & 1] for k in range(features)] for i in range(8)])
    return vectors


def create_mlp(weights: list[list[list[int]]], weight_bits: int, biases: list[list[int]]) -> MlpPolicy:
    layers = [
        {"biases": b, "storage": "int16", "weight_bits": weight_bits, "weights": w}
        for w, b in zip(weights, biases, strict=True)
    ]
    artefact = Artefact(name="test", kind="mlp", observation=SPEC, parameters={"layers": layers})
    policy = policy_from_artefact(artefact)
    assert isinstance(policy, MlpPolicy)
    return policy


# Refusals


def test_observation_of_another_spec_is_refused() -> None:
    other = replace(SPEC, bar_s=60)
    with pytest.raises(BadObservation, match="another spec"):
        HoldPolicy(SPEC).decide(build_observation(other, ANSWERS, FLAT))


def test_vector_of_another_length_is_refused() -> None:
    with pytest.raises(BadObservation, match="2 numbers in the vector, the spec has 3 features"):
        HoldPolicy(SPEC).decide_vector([1, 2], 0)


def test_rule_on_a_feature_that_is_not_observed_is_refused() -> None:
    with pytest.raises(ValueError, match="not in the observation"):
        MovingAverageRule(SPEC, feature="ma_cross_z:2:8")


def test_observation_that_is_not_int16_is_refused_one_by_one_and_all_at_once() -> None:
    policy = create_mlp([[[1, 2, 3]]], 0, [[0]])
    with pytest.raises(BadObservation, match="ma_cross_z:2:9 is 32768, which is not an int16"):
        policy.decide_vector([0, 32768, 0], 0)
    with pytest.raises(BadObservation, match="row 1, weight is -32769, which is not an int16"):
        policy.output_q12_array(np.array([[0, 0, 0], [0, 0, -32769]]))
    with pytest.raises(BadObservation, match="one of these is not"):
        policy.output_q12([0.5, 0, 0])  # type: ignore[list-item]
    with pytest.raises(BadObservation, match="integers, not float64"):
        policy.output_q12_array(np.zeros((2, 3)))  # type: ignore[arg-type]


def test_observations_of_another_shape_are_refused() -> None:
    policy = create_mlp([[[1, 2, 3]]], 0, [[0]])
    with pytest.raises(BadObservation, match="2 numbers in the vector, the spec has 3 features"):
        policy.output_q12([1, 2])
    for shape in ((3,), (2, 4), (1, 2, 3)):
        with pytest.raises(BadObservation, match="expected a row of 3 features for each"):
            policy.output_q12_array(np.zeros(shape, dtype=np.int16))


def test_layers_that_leave_an_int64_are_refused() -> None:
    layer = Layer(weights=((1, 2, 3),), biases=(1 << 62,), weight_bits=12)
    with pytest.raises(ValueError, match="more than an int64 holds"):
        BatchEvaluator([layer], 12)


# Decisions


def test_golden_file_decides_as_it_always_did() -> None:
    artefact = parse(GOLDEN_FILE)
    assert artefact.artefact_hash == "0xe25d39512ebe038e243a7d8d2ed79163913ac3106bac2bf4028b10f0d2467063"
    policy = policy_from_artefact(artefact)
    observation = build_observation(artefact.observation, ANSWERS, FLAT)
    assert isinstance(policy, MlpPolicy)
    assert policy.output_q12(observation.vector) == -3347
    assert policy.decide(observation) == Decision(
        target_weight_bps=979, is_rebalance=True, wanted_weight_bps=979, reason=REBALANCE
    )


def test_golden_vectors_decide_as_they_always_did() -> None:
    policy = policy_from_artefact(parse(GOLDEN_FILE))
    assert isinstance(policy, MlpPolicy)
    for vector, output, weight_bps in GOLDEN_VECTORS:
        assert policy.output_q12(vector) == output
        assert policy.wanted_weight_bps(vector, 0) == weight_bps
    vectors, outputs, weights_bps = zip(*GOLDEN_VECTORS, strict=True)
    assert policy.output_q12_array(np.array(vectors)).tolist() == list(outputs)
    assert policy.wanted_weight_bps_array(np.array(vectors)).tolist() == list(weights_bps)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, ">i2", ">i8"])
def test_batches_of_any_size_order_and_width_have_the_golden_bits(dtype: str) -> None:
    policy, vectors = policy_from_artefact(parse(GOLDEN_FILE)), create_observations().astype(dtype)
    assert isinstance(policy, MlpPolicy)
    cuts = ([], [1], [4_999], [2_047, 2_048, 2_049], list(range(137, 5_000, 137)))
    for cut in cuts:
        outputs = np.concatenate([policy.output_q12_array(part) for part in np.split(vectors, cut)])
        assert hashlib.sha256(outputs.astype("<i8").tobytes()).hexdigest() == GOLDEN_OUTPUTS
    assert policy.output_q12_array(np.asfortranarray(vectors)).tolist() == outputs.tolist()
    assert policy.output_q12_array(vectors[::-1]).tolist() == outputs[::-1].tolist()
    assert policy.output_q12_array(vectors[:0]).shape == (0,)
    assert [policy.output_q12(vector) for vector in vectors[:200]] == outputs[:200].tolist()


def test_another_process_with_any_number_of_threads_has_the_golden_bits() -> None:
    root = Path(__file__).resolve().parents[3]
    for threads in ("1", "2"):
        variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        found = subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM],
            cwd=root, env={**os.environ, **variables}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert found.stdout.strip() == GOLDEN_OUTPUTS


def test_largest_network_of_the_format_is_exact_in_floats() -> None:
    """256 wide, all weights and biases at their limits, all inputs too: sums stay below 2**49, and equal int64's."""
    wide = Layer(weights=((32767, -32767, 32767),) * 256, biases=((1 << 48) - 1, 1 - (1 << 48)) * 128, weight_bits=24)
    deep = Layer(weights=((32767,) * 256,) * 256, biases=((1 << 48) - 1,) * 256, weight_bits=24)
    last = Layer(weights=((32767,) * 256,), biases=((1 << 48) - 1,), weight_bits=0)
    for bits in (8, 12, 14):
        evaluator = BatchEvaluator([wide, deep, last], bits)
        assert evaluator.is_float_exact
        assert evaluator.largest_sum < 1 << 53
        vectors = create_observations(300)
        assert evaluator.output_q12(vectors).tolist() == evaluator._with_integers(vectors).tolist()


def test_sums_at_the_edge_of_a_float_are_computed_with_integers() -> None:
    """The sum 2**53 + 1 has no float64: a product of floats would give its neighbour."""
    layers = [Layer(weights=((1, 0, 0),), biases=(1 << 53,), weight_bits=0)]
    evaluator = BatchEvaluator(layers, 12)
    assert not evaluator.is_float_exact
    vectors = np.array([[1, 0, 0], [-1, 5, 5]], dtype=np.int16)
    assert evaluator.output_q12(vectors).tolist() == [(1 << 53) + 1, (1 << 53) - 1]
    assert MlpPolicy(SPEC, None, layers).output_q12([1, 0, 0]) == (1 << 53) + 1


@given(st.integers(-(1 << 47), 1 << 47), st.integers(0, 24), st.sampled_from([8, 12, 14]))
def test_halves_and_ends_of_the_table_round_alike_one_by_one_and_all_at_once(bias: int, bits: int, scale: int) -> None:
    """One unit whose sum is the bias: over all shifts it meets halves, negative zeros and both ends of the table."""
    spec = replace(SPEC, scale_bits=scale)
    shift = max(scale + bits - 12, 0)
    step = 1 << shift
    places = [bias, *(place * step + half for place in (-32769, -1, 0, 32768) for half in (0, step // 2, -(step // 2)))]
    for place in places:
        first = Layer(weights=((-1, 0, 1),), biases=(place,), weight_bits=bits)
        last = Layer(weights=((3,),), biases=(0,), weight_bits=1)
        policy = MlpPolicy(spec, None, [first, last])
        vectors = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1]], dtype=np.int16)
        assert policy.output_q12_array(vectors).tolist() == [policy.output_q12(vector) for vector in vectors]


def test_each_kind_of_artefact_makes_its_policy() -> None:
    kinds = {
        "hold": HoldPolicy,
        "buy_and_hold": BuyAndHold,
        "constant": ConstantWeight,
        "moving_average": MovingAverageRule,
    }
    parameters = {
        "constant": {"weight_bps": 300},
        "moving_average": {"feature": "ma_cross_z:2:9", "weight_above_bps": 4_000, "weight_below_bps": 100},
    }
    for kind, expected in kinds.items():
        artefact = Artefact(
            name=kind.replace("_", "-"), kind=kind, observation=SPEC, parameters=parameters.get(kind, {})
        )
        policy = policy_from_artefact(artefact)
        assert type(policy) is expected
        assert (policy.spec, policy.action) == (SPEC, artefact.action)


@given(st.integers(0, 10_000))
def test_hold_policy_never_trades(weight_bps: int) -> None:
    decision = HoldPolicy(SPEC).decide_vector([0, 0, 0], weight_bps)
    assert decision == Decision(
        target_weight_bps=weight_bps, is_rebalance=False, wanted_weight_bps=weight_bps, reason=NOTHING_TO_DO
    )


def test_deadband_keeps_small_wishes_from_trading() -> None:
    policy = ConstantWeight(SPEC, ActionSpec(max_weight_bps=5_000, deadband_bps=500), 3_000)
    near = policy.decide_vector([0, 0, 0], 2_501)
    assert (near.reason, near.is_rebalance, near.target_weight_bps, near.wanted_weight_bps) == (
        WITHIN_DEADBAND,
        False,
        2_501,
        3_000,
    )
    far = policy.decide_vector([0, 0, 0], 2_500)
    assert (far.reason, far.is_rebalance, far.target_weight_bps) == (REBALANCE, True, 3_000)


def test_moving_average_rule_is_long_above_zero_only() -> None:
    rule = MovingAverageRule(SPEC, ActionSpec(max_weight_bps=5_000, deadband_bps=0), feature="ma_cross_z:2:9")
    assert [rule.wanted_weight_bps([0, cross, 0], 0) for cross in (-1, 0, 1)] == [0, 0, 5_000]


def test_buy_and_hold_buys_once() -> None:
    policy = BuyAndHold(SPEC, ActionSpec(max_weight_bps=5_000, deadband_bps=0))
    assert policy.decide_vector([0, 0, 0], 0).target_weight_bps == 5_000
    assert not policy.decide_vector([0, 0, 0], 7_000).is_rebalance
    assert not policy.decide_vector([0, 0, 0], 2_000).is_rebalance


@pytest.mark.parametrize(("output", "expected"), [(-40_000, 0), (0, 2_500), (40_000, 5_000), (1 << 60, 5_000)])
def test_weight_stays_within_its_limits(output: int, expected: int) -> None:
    assert squash_to_weight_bps(output, 5_000) == expected


@given(st.integers(-40_000, 40_000))
def test_weight_is_within_two_basis_points_of_the_real_formula(output: int) -> None:
    exact = 10_000 * (1 + math.tanh(output / 4096)) / 2
    assert abs(squash_to_weight_bps(output, 10_000) - exact) < 2


@given(st.data())
def test_one_by_one_and_all_at_once_have_the_same_bits(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 4))
    rows = st.lists(INT16.filter(lambda w: w > -32768), min_size=3, max_size=3)
    first = data.draw(st.lists(rows, min_size=width, max_size=width))
    second = data.draw(st.lists(INT16.filter(lambda w: w > -32768), min_size=width, max_size=width))
    bias = st.integers(-(1 << 40), 1 << 40)
    biases = [data.draw(st.lists(bias, min_size=width, max_size=width)), [data.draw(bias)]]
    policy = create_mlp([first, [second]], data.draw(st.integers(0, 24)), biases)
    vectors = data.draw(st.lists(st.tuples(INT16, INT16, INT16), min_size=1, max_size=5))
    matrix = np.array(vectors, dtype=np.int64)
    assert policy.output_q12_array(matrix).tolist() == [policy.output_q12(vector) for vector in vectors]
    assert policy.wanted_weight_bps_array(matrix).tolist() == [policy.wanted_weight_bps(v, 0) for v in vectors]


@given(st.lists(INT16, min_size=3, max_size=3))
def test_scale_of_the_observation_is_part_of_the_meaning(vector: list[int]) -> None:
    """A network that passes one input through gives it back, whatever the scale it is observed in."""
    for bits in (8, 12, 14):
        spec = replace(SPEC, scale_bits=bits)
        layer = {"biases": [0], "storage": "int16", "weight_bits": 0, "weights": [[1, 0, 0]]}
        artefact = Artefact(name="pass", kind="mlp", observation=spec, parameters={"layers": [layer]})
        policy = policy_from_artefact(artefact)
        assert isinstance(policy, MlpPolicy)
        assert abs(policy.output_q12(vector) / 4096 - vector[0] / (1 << bits)) <= 1 / 8192


@given(st.lists(INT16, min_size=3, max_size=3))
def test_golden_network_is_close_to_the_same_network_in_floats(vector: list[int]) -> None:
    """Each rounding is at most half a unit of q12, and a table entry at most one: the weight differs by little."""
    artefact = parse(GOLDEN_FILE)
    values = [number / 4096 for number in vector]
    for i, layer in enumerate(artefact.layers):
        biases = [bias / 2.0 ** (12 + layer.weight_bits) for bias in layer.biases]
        rows = [[weight / 2.0**layer.weight_bits for weight in row] for row in layer.weights]
        sums = [sum(map(mul, row, values)) + bias for row, bias in zip(rows, biases, strict=True)]
        values = [math.tanh(total) for total in sums] if i < len(artefact.layers) - 1 else sums
    exact_bps = artefact.action.max_weight_bps * (1 + math.tanh(values[0])) / 2
    policy = policy_from_artefact(artefact)
    assert abs(policy.decide_vector(vector, 0).wanted_weight_bps - exact_bps) < 10
