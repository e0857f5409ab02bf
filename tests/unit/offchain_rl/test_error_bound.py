"""No search finds an observation for which integers and floats differ by more than the proof allows."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offchain_rl.artefact import ActionSpec, Layer
from offchain_rl.error_bound import (
    Box,
    ErrorBound,
    _products,
    _tanh_error,
    describe_error_bound,
    error_bound,
    table_error,
)
from offchain_rl.fixedpoint import IntArray, tanh_q12
from offchain_rl.observation import DEFAULT_FEATURES, ObservationSpec
from offchain_rl.policy import MlpPolicy
from offchain_rl.quantise import FloatLayer, NotQuantisable, quantise

SPEC = ObservationSpec()
ACTION = ActionSpec(max_weight_bps=10_000)
FEATURES = len(DEFAULT_FEATURES)
# What float64 adds to the formula it stands in for here.
FLOAT64 = 1e-6
Gaps = npt.NDArray[np.float64]


def create_network(*widths: int, size: float = 1.0, seed: int = 1) -> list[FloatLayer]:
    """Weights of the size that training leaves: rows of about unit length, a small last layer."""
    rng, layers = np.random.default_rng(seed), []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        spread = size / math.sqrt(inputs) * (0.3 if outputs == 1 else 1)
        weight, bias = rng.normal(0, spread, (outputs, inputs)), rng.normal(0, 0.2, outputs)
        layers.append((weight.astype(np.float32), bias.astype(np.float32)))
    return layers


def train_network(seed: int = 1) -> list[FloatLayer]:
    """10-16-16-1, taught a rule (hold while trends agree) by gradient descent until it has learnt it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (2_000, FEATURES))
    wanted = np.tanh(2 * x[:, 0] + x[:, 3] * x[:, 5])[:, None]
    network = [
        (w.astype(np.float64), b.astype(np.float64)) for w, b in create_network(FEATURES, 16, 16, 1, seed=seed)
    ]
    for _ in range(300):
        values = [x]
        for i, (weight, bias) in enumerate(network):
            sums = values[-1] @ weight.T + bias
            values.append(np.tanh(sums) if i < len(network) - 1 else sums)
        back = (values[-1] - wanted) / len(x)
        for i in reversed(range(len(network))):
            weight, bias = network[i]
            network[i] = (weight - 0.5 * back.T @ values[i], bias - 0.5 * back.sum(axis=0))
            back = back @ weight * (1 - values[i] ** 2) if i else back
    assert np.mean((values[-1] - wanted) ** 2) < 0.5 * np.var(wanted)
    return [(w.astype(np.float32), b.astype(np.float32)) for w, b in network]


def outputs(network: list[FloatLayer], vectors: IntArray, scale_bits: int = 12) -> Gaps:
    """The float network, evaluated in float64."""
    values = vectors / 2.0**scale_bits
    for i, (weight, bias) in enumerate(network):
        values = values @ weight.astype(np.float64).T + bias
        if i < len(network) - 1:
            values = np.tanh(values)
    return values[:, 0]


def gaps(network: list[FloatLayer], layers: tuple[Layer, ...], vectors: IntArray, bits: int = 12) -> tuple[Gaps, Gaps]:
    """How far z, in units of q12, and the weight, in basis points, are from the floats."""
    features = tuple(f"return_z:{n + 1}" for n in range(vectors.shape[1]))
    policy = MlpPolicy(replace(SPEC, features=features, scale_bits=bits), ACTION, layers)
    exact = outputs(network, vectors, bits)
    weight = ACTION.max_weight_bps * (1 + np.tanh(exact)) / 2
    return np.abs(exact * 4096 - policy.output_q12_array(vectors)), np.abs(
        weight - policy.wanted_weight_bps_array(vectors)
    )


def search(network: list[FloatLayer], layers: tuple[Layer, ...], box: Box, rounds: int = 15) -> tuple[float, float]:
    """The largest gaps found: random observations, corners of the box, corners up and down the gradient of the rounding
    error, and steps from the worst of them."""
    rng, low, high = np.random.default_rng(3), np.array(box.low), np.array(box.high)
    size = (4_000, len(low))
    off = np.array(layers[0].weights) / 2.0 ** layers[0].weight_bits - network[0][0]
    signs = np.sign(rng.normal(0, 1, (500, len(off))) @ off)
    vectors = np.concatenate(
        [
            rng.integers(low, high + 1, size),
            np.where(rng.random(size) < 0.5, low, high),
            np.where(signs < 0, low, high),
            np.where(signs > 0, low, high),
        ]
    )
    worst = []
    for kind in (0, 1):
        best = vectors[np.argsort(-gaps(network, layers, vectors)[kind])[:32]]
        for _ in range(rounds):
            tried = np.repeat(best, 24, axis=0)
            tried = np.where(rng.random(tried.shape) < 0.2, rng.integers(low, high + 1, tried.shape), tried)
            tried = np.clip(tried + rng.integers(-2, 3, tried.shape), low, high)
            tried = np.concatenate([best, tried])
            found = gaps(network, layers, tried)[kind]
            best = tried[np.argsort(-found)[:32]]
        worst.append(float(found.max()))
    return worst[0], worst[1]


def bound_of(
    network: list[FloatLayer], layers: tuple[Layer, ...], box: Box | None = None, bits: int = 12
) -> ErrorBound:
    return error_bound(network, layers, scale_bits=bits, max_weight_bps=ACTION.max_weight_bps, box=box)


# Refusals


def test_box_that_is_empty_or_not_int16_is_refused() -> None:
    with pytest.raises(ValueError, match="feature 1 of the box goes from 5 to 4"):
        Box(low=(0, 5), high=(0, 4))
    with pytest.raises(ValueError, match="feature 0 of the box goes from 0 to 32768"):
        Box(low=(0,), high=(32768,))
    with pytest.raises(ValueError, match="1 lower ends and 2 upper ends"):
        Box(low=(0,), high=(1, 2))


def test_box_and_integers_of_another_network_are_refused() -> None:
    network = create_network(3, 4, 1)
    with pytest.raises(ValueError, match="the box has 2 features, the network takes 3"):
        bound_of(network, quantise(network, 12), Box.whole(2))
    with pytest.raises(NotQuantisable, match="the network has 2 layers, the integers have 3"):
        bound_of(network, quantise(create_network(3, 4, 4, 1), 12))
    with pytest.raises(NotQuantisable, match=r"layer 0 of the network is \(4, 3\), of the integers \(5, 3\)"):
        bound_of(network, quantise(create_network(3, 5, 1), 12))


def test_float32_of_weights_that_are_not_float32_is_refused() -> None:
    network = [(np.array([[0.1]]), np.array([0.0]))]
    with pytest.raises(NotQuantisable, match="not float32"):
        error_bound(network, quantise(network, 12), scale_bits=12, is_float32=True)


# The table of tanh


def test_table_is_within_one_unit_for_every_input() -> None:
    least, most = table_error()
    unit = 1 << 48
    assert -unit < min(least) < -0.87 * unit
    assert 0.5 * unit <= max(most) < 0.51 * unit
    assert len(least) == len(most) == 257


def test_table_error_holds_against_another_tanh() -> None:
    """Every input against float64, whose tanh is off by about 1e-16; and some against 40 digits."""
    lowest, highest = table_error()
    least, most = np.array(lowest) / 2.0**60, np.array(highest) / 2.0**60
    inputs = np.arange(0, 40_000)
    error = np.array([tanh_q12(p) for p in inputs.tolist()]) / 4096 - np.tanh(inputs / 4096)
    step = np.minimum(inputs // 128, 256)
    assert (error <= most[step] + 1e-15).all()
    assert (error >= least[step] - 1e-15).all()
    with localcontext(prec=40):
        for p in range(1, 32_768, 997):
            e = (Decimal(2 * p) / 4096).exp()
            exact = (Fraction(tanh_q12(p), 4096) - Fraction((e - 1) / (e + 1))) * (1 << 60)
            assert lowest[p // 128] <= exact <= highest[p // 128]


@settings(max_examples=150, deadline=None)
@given(st.integers(-36_000, 36_000), st.integers(0, 400), st.integers(-500, 500), st.integers(0, 500))
def test_error_of_tanh_holds_for_every_input_and_error(low: int, size: int, error: int, more: int) -> None:
    """Errors in units of q12. tanh is monotone, so an input's worst error is at an end of the error's interval."""
    inputs = np.arange(low, low + size + 1)
    ends = (error << 48, (error + more) << 48)
    least, most = (end / 2.0**60 for end in _tanh_error(low, low + size, *ends))
    table = np.array([tanh_q12(p) for p in inputs.tolist()]) / 4096
    gaps_of = table - np.tanh((inputs - np.array([[error], [error + more]])) / 4096)
    assert least <= gaps_of.min() + 1e-12
    assert gaps_of.max() - 1e-12 <= most
    # Not looser than the slope changes within one step of the table and the errors, and than no error at all.
    slack = (2 + 0.8 * (128 + max(abs(error), abs(error + more))) / 4096 * max(abs(error), abs(error + more))) / 4096
    assert min(gaps_of.min(), table_least()) - slack <= least
    assert most <= max(gaps_of.max(), -table_least()) + slack


def table_least() -> float:
    return min(table_error()[0]) / 2.0**60


@given(st.lists(st.integers(-9, 9), min_size=4, max_size=4))
def test_interval_of_a_product_is_reached_whatever_the_signs(ends: list[int]) -> None:
    (a, b), (c, d) = sorted(ends[:2]), sorted(ends[2:])
    low, high = _products((one(a), one(b)), (one(c), one(d)))
    every = [x * y for x in range(a, b + 1) for y in range(c, d + 1)]
    assert (low.tolist(), high.tolist()) == ([min(every)], [max(every)])


def one(number: int) -> npt.NDArray[np.object_]:
    return np.array([number], dtype=object)


# The bound


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.5, 2, 8]), st.sampled_from([8, 12, 14]), st.data())
def test_no_observation_exceeds_the_bound(seed: int, size: float, bits: int, data: st.DataObject) -> None:
    widths = data.draw(st.lists(st.integers(1, 6), min_size=0, max_size=3))
    network = create_network(3, *widths, 1, size=size, seed=seed)
    ends = data.draw(st.lists(st.tuples(*[st.integers(-32768, 32767)] * 2).map(sorted), min_size=3, max_size=3))
    box = Box(low=tuple(low for low, _ in ends), high=tuple(high for _, high in ends))
    layers = quantise(network, bits)
    bound = bound_of(network, layers, box, bits)
    rng = np.random.default_rng(seed)
    inside = rng.integers(box.low, np.array(box.high) + 1, (500, 3))
    corners = np.where(rng.random((100, 3)) < 0.5, box.low, box.high)
    output_gaps, weight_gaps = gaps(network, layers, np.concatenate([inside, corners]), bits)
    assert output_gaps.max() <= float(bound.output * 4096) + FLOAT64
    assert weight_gaps.max() <= float(bound.weight) + FLOAT64


def test_bound_holds_on_every_observation_of_a_small_box() -> None:
    """All 4,096 of them, and the bound is close: within a factor of three of the worst."""
    network = create_network(2, 3, 1, seed=5)
    layers, box = quantise(network, 8), Box(low=(100, -40), high=(163, 23))
    grid = np.stack(np.meshgrid(np.arange(100, 164), np.arange(-40, 24)), axis=-1).reshape(-1, 2)
    worst = gaps(network, layers, grid, 8)[0].max()
    assert worst <= float(bound_of(network, layers, box, 8).output * 4096) < 3 * worst


def test_adversarial_search_stays_below_a_bound_that_says_something() -> None:
    network = train_network()
    layers = quantise(network, 12)
    everything, seen = Box.whole(FEATURES), Box(low=(-16_384,) * FEATURES, high=(16_384,) * FEATURES)
    whole, near = bound_of(network, layers, everything), bound_of(network, layers, seen)
    for bound, box in ((whole, everything), (near, seen)):
        output, weight = search(network, layers, box)
        assert output <= float(bound.output * 4096) + FLOAT64
        assert weight <= float(bound.weight) + FLOAT64
        assert float(bound.output * 4096) < 20 * output
    assert near.output < whole.output
    assert near.weight_bps <= whole.weight_bps < 60


def test_float32_is_within_its_own_bound() -> None:
    network = train_network()
    layers = quantise(network, 12)
    real = bound_of(network, layers)
    float32 = error_bound(network, layers, scale_bits=12, is_float32=True)
    assert real.output < float32.output < real.output + Fraction(1, 4096)
    vectors = np.random.default_rng(1).integers(-32768, 32768, (20_000, FEATURES))
    values = (vectors / 4096).astype(np.float32)
    for i, (weight, bias) in enumerate(network):
        values = values @ weight.T + bias
        values = np.tanh(values) if i < len(network) - 1 else values
    assert values.dtype == np.float32
    integers = MlpPolicy(SPEC, ACTION, layers).output_q12_array(vectors)
    assert np.abs(values[:, 0].astype(np.float64) * 4096 - integers).max() <= float(float32.output * 4096)
    difference = np.abs(values[:, 0] - outputs(network, vectors)).max()
    assert difference <= float(float32.output - real.output)


def test_float32_sums_that_cancel_are_within_their_bound() -> None:
    """One layer has no tanh to hide behind: what float32 adds is the rounding of its sums."""
    rng = np.random.default_rng(2)
    weight = rng.normal(0, 1, (1, FEATURES)).astype(np.float32)
    network: list[FloatLayer] = [(weight, np.array([3.0], dtype=np.float32))]
    layers = quantise(network, 12)
    added = error_bound(network, layers, scale_bits=12, is_float32=True).output - bound_of(network, layers).output
    vectors = rng.integers(-32768, 32768, (20_000, FEATURES))
    values = ((vectors / 4096).astype(np.float32) @ weight.T + network[0][1])[:, 0]
    found = np.abs(values - outputs(network, vectors)).max()
    assert 0 < found <= float(added) < 100 * found


def test_integers_that_stand_for_themselves_leave_only_the_rounding_of_basis_points() -> None:
    network = [(np.array([[0.5]]), np.array([0.25]))]
    bound = bound_of(network, quantise(network, 12))
    # Half a unit of q12 from the shift, then half a basis point: nothing else is rounded before the squash.
    assert bound.output == Fraction(1, 8192)
    assert 0.5 < float(bound.weight) < 0.5 + 5_000 * (1 + 0.88 + 0.5) / 4096
    assert bound.hidden == ()


def test_no_weight_to_be_had_means_no_error() -> None:
    network = create_network(3, 4, 1)
    assert error_bound(network, quantise(network, 12), scale_bits=12, max_weight_bps=0).weight_bps == 0


# Wrong integers


def with_layer(layers: tuple[Layer, ...], place: int, **changed: object) -> tuple[Layer, ...]:
    return tuple(replace(layer, **changed) if i == place else layer for i, layer in enumerate(layers))  # type: ignore[arg-type]


def broken_integers(network: list[FloatLayer]) -> dict[str, tuple[Layer, ...]]:
    """What a quantiser with one mistake would make of the network."""
    right = quantise(network, 12)
    first = right[0]
    cut = tuple(tuple(math.floor(w * 2.0**first.weight_bits) for w in row) for row in network[0][0].tolist())
    last = len(right) - 1
    return {
        "shift off by one": with_layer(right, last, weight_bits=right[last].weight_bits - 1),
        "first shift off by one": with_layer(right, 0, weight_bits=first.weight_bits + 1),
        "weights cut instead of rounded": with_layer(right, 0, weights=cut),
        "bias in units of the weight": with_layer(right, 0, biases=tuple(b >> 12 for b in first.biases)),
        "matrix upside down": with_layer(right, 0, weights=first.weights[::-1]),
        "one sign lost": with_layer(right, last, weights=(tuple(map(abs, right[last].weights[0])),)),
    }


def test_wrong_integers_exceed_the_bound_of_the_right_ones() -> None:
    """The search is strong enough to see a mistake: some observation is beyond what was proven of the right ones."""
    network = train_network()
    bound = bound_of(network, quantise(network, 12))
    broken = broken_integers(network)
    del broken["weights cut instead of rounded"]
    for name, layers in broken.items():
        assert search(network, layers, Box.whole(FEATURES), 2)[0] > float(bound.output * 4096), name


def test_cut_weights_exceed_the_bound_of_rounded_ones() -> None:
    """A small mistake, seen where the bound is reached: in one layer, at the corner that all errors point to."""
    network, box = create_network(FEATURES, 1, seed=4), Box.whole(FEATURES)
    layers = quantise(network, 12)
    bound = float(bound_of(network, layers, box).output * 4096)
    assert 0.8 * bound < search(network, layers, box)[0] <= bound + FLOAT64
    cut = broken_integers(network)["weights cut instead of rounded"]
    assert search(network, cut, box)[0] > 1.2 * bound


def test_bound_of_wrong_integers_is_wide_enough_for_them() -> None:
    """The proof is about the integers there are, not about how they should have been made."""
    network = train_network()
    right = bound_of(network, quantise(network, 12))
    for name, layers in broken_integers(network).items():
        bound = bound_of(network, layers)
        assert bound.output > right.output, name
        assert search(network, layers, Box.whole(FEATURES), 2)[0] <= float(bound.output * 4096) + FLOAT64, name


def test_table_off_by_one_entry_breaks_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    network = train_network()
    bound = bound_of(network, quantise(network, 12))
    layers, vectors = quantise(network, 12), np.random.default_rng(1).integers(-8_192, 8_193, (2_000, FEATURES))
    assert gaps(network, layers, vectors)[0].max() <= float(bound.output * 4096)
    shifted = np.concatenate([policy_table()[128:], np.full(128, 4096.0)])
    monkeypatch.setattr("offchain_rl.policy._tanh_table", lambda: shifted)
    assert gaps(network, layers, vectors)[0].max() > float(bound.output * 4096)


def policy_table() -> npt.NDArray[np.float64]:
    return np.array([tanh_q12(p) for p in range(-32_768, 32_769)], dtype=np.float64)


# The artefact


def test_description_for_the_artefact_is_integers_rounded_up() -> None:
    network = create_network(FEATURES, 8, 1)
    layers = quantise(network, 12)
    vectors = np.random.default_rng(1).integers(-4_096, 4_097, (50, FEATURES))
    described = describe_error_bound(network, layers, SPEC, ACTION, vectors)
    bound = bound_of(network, layers, Box.around(vectors))
    assert described["observed"] == {
        "high": vectors.max(axis=0).tolist(),
        "low": vectors.min(axis=0).tolist(),
        "output_q12": math.ceil(bound.output * 4096),
        "weight_bps": math.ceil(bound.weight),
    }
    assert described["every_observation"] == bound_of(network, layers).to_dict()
    assert set(describe_error_bound(network, layers, SPEC, ACTION)) == {"every_observation"}
