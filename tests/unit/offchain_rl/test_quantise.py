"""A network of floats becomes integers to the nearest, or is refused with the reason; and what the integers cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offchain_rl.artefact import MAX_BIAS, Artefact
from offchain_rl.observation import ObservationSpec
from offchain_rl.quantise import FloatLayer, NotQuantisable, describe_cost, quantise

ROOT = Path(__file__).resolve().parents[3]
SPEC = ObservationSpec(lookback=9, vol_window=8, features=("return_z:1", "ma_cross_z:2:9", "weight"))


def create_network(*widths: int, size: float = 0.5, seed: int = 1) -> list[FloatLayer]:
    rng, layers = np.random.default_rng(seed), []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        layers.append((rng.normal(0, size, (outputs, inputs)), rng.normal(0, size, outputs)))
    return layers


# Refusals


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_network_that_diverged_is_refused(bad: float) -> None:
    for part in (0, 1):
        network = create_network(3, 4, 1)
        network[1][part].flat[0] = bad
        with pytest.raises(NotQuantisable, match=r"layer 1: .* not finite; training has diverged"):
            quantise(network, 12)


def test_weight_too_large_for_an_int16_is_refused_and_not_cut() -> None:
    network = create_network(3, 4, 1)
    network[0][0][0, 0] = 40_000
    with pytest.raises(NotQuantisable, match=r"layer 0: a weight of 40000 .* use weight decay"):
        quantise(network, 12)


def test_bias_too_large_for_the_format_is_refused() -> None:
    network = create_network(3, 1)
    network[0][1][0] = 2.0**40
    with pytest.raises(NotQuantisable, match="too large"):
        quantise(network, 12)


def test_layers_that_do_not_follow_from_each_other_are_refused() -> None:
    with pytest.raises(NotQuantisable, match="layer 1 takes 5 inputs, the one before gives 4"):
        quantise([*create_network(3, 4), *create_network(5, 1)], 12)


def test_network_without_layers_or_with_two_outputs_or_too_wide_is_refused() -> None:
    with pytest.raises(NotQuantisable, match="1 to 8 layers, not 0"):
        quantise([], 12)
    with pytest.raises(NotQuantisable, match="last layer has 2 outputs"):
        quantise(create_network(3, 4, 2), 12)
    with pytest.raises(NotQuantisable, match="layer 0 has 257 outputs, the most is 256"):
        quantise(create_network(3, 257, 1), 12)


def test_biases_of_another_shape_are_refused() -> None:
    (weight, bias), last = create_network(3, 4, 1)
    with pytest.raises(NotQuantisable, match="layer 0: weights are a matrix"):
        quantise([(weight, bias[:, None]), last], 12)
    with pytest.raises(NotQuantisable, match="layer 0: weights are a matrix"):
        quantise([(weight.ravel(), bias), last], 12)


def test_activations_that_the_integers_do_not_have_are_refused() -> None:
    network = create_network(3, 4, 1)
    for names in (["relu", "identity"], ["tanh", "tanh"], ["tanh"]):
        with pytest.raises(NotQuantisable, match="the integers have tanh, identity"):
            quantise(network, 12, activations=names)
    assert quantise(network, 12, activations=["tanh", "identity"]) == quantise(network, 12)


# Rounding


@given(st.integers(0, 10**6), st.integers(-18, 12), st.sampled_from([8, 12, 14]))
def test_every_weight_and_bias_is_the_nearest_and_the_scale_the_finest(seed: int, power: int, bits: int) -> None:
    network = create_network(3, 4, 1, size=2.0**power, seed=seed)
    layers, input_bits = quantise(network, bits), bits
    for (weight, bias), layer in zip(network, layers, strict=True):
        weights, biases = np.array(layer.weights), np.array(layer.biases)
        assert np.abs(weight * 2.0**layer.weight_bits - weights).max() <= 0.5
        assert np.abs(bias * 2.0 ** (layer.weight_bits + input_bits) - biases).max() <= 0.5
        finer = 2.0 ** (layer.weight_bits + 1)
        assert (
            layer.weight_bits == 24
            or np.abs(np.rint(weight * finer)).max() > 32767
            or np.abs(np.rint(bias * finer * 2.0**input_bits)).max() > MAX_BIAS
        )
        input_bits = 12


def test_integers_are_an_artefact_and_the_same_from_float32() -> None:
    network = [(weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in create_network(3, 4, 1)]
    layers = quantise(network, 12)
    assert layers == quantise([(w.astype(np.float64), b.astype(np.float64)) for w, b in network], 12)
    artefact = Artefact(
        name="net", kind="mlp", observation=SPEC, parameters={"layers": [layer.to_dict() for layer in layers]}
    )
    assert artefact.layers == layers


def test_no_torch_is_needed() -> None:
    program = "import sys, offchain_rl.quantise, offchain_rl.error_bound; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, check=False).returncode == 0


# Cost


def test_cost_counts_products_and_bytes() -> None:
    layers = [layer.to_dict() for layer in quantise(create_network(3, 4, 1), 12)]
    layers[1]["storage"] = "int8"
    layers[1]["weights"] = [[1, 2, 3, 4]]
    artefact = Artefact(name="net", kind="mlp", observation=SPEC, parameters={"layers": layers})
    cost = describe_cost(artefact)
    assert (cost.products, cost.tanhs, cost.contracts) == (16, 5, 1)
    assert cost.packed_bytes == 12 * 2 + 4 + 5 * 6 + 257 * 3
    assert cost.to_dict()["decision_gas"] == cost.decision_gas > 16 * 45


def test_cost_grows_over_several_contracts_and_is_nothing_without_a_network() -> None:
    layers = [layer.to_dict() for layer in quantise(create_network(3, 256, 128, 1), 12)]
    artefact = Artefact(name="net", kind="mlp", observation=SPEC, parameters={"layers": layers})
    assert describe_cost(artefact).contracts == 3
    assert set(describe_cost(Artefact(name="hold", kind="hold", observation=SPEC)).to_dict().values()) == {0}
