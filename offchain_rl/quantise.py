"""From a trained network of floats to the integers of an artefact, and what those integers cost on a chain.

The trainer does not matter: weights and biases come as numpy arrays, `(W[outputs, inputs], b[outputs])` for each
layer, tanh after every layer but the last, one output. How far the integers can be from the floats is not measured
here but proven, in `error_bound`.

A layer gets the finest power of two its int16 weights and the format's biases allow, up to 2**-24. The rounding is to
the nearest, so a weight is off by at most half of that. One scale for each layer, as the format has it: on four trained
networks (10 inputs, 16 to 64 units) a scale for each row would have made the proven bound of 7 to 58 basis points
smaller by 2 to 27 %, and weights of any size smaller by 41 to 65 %: the rest is the q12 of the activations. That is not
worth another format, and a shift for each row on the chain, while the bound is far below any deadband.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from offchain_rl.artefact import MAX_BIAS, MAX_LAYERS, MAX_WEIGHT_BITS, MAX_WIDTH, Artefact, Layer
from offchain_rl.fixedpoint import INT16_MAX, Q12_BITS, TANH_TABLE

FloatArray = npt.NDArray[np.floating[Any]]
# Weights [outputs, inputs] and biases [outputs] of one layer.
FloatLayer = tuple[FloatArray, FloatArray]

# The EVM's prices since Berlin: a first look at a contract, a word of its code copied into memory (3) that grows (3),
# a byte of code stored for good, creating a contract, a byte of a transaction that is not zero.
_COLD_ACCOUNT_GAS: Final = 2_600
_COPIED_WORD_GAS: Final = 6
_STORED_BYTE_GAS: Final = 200
_CREATE_GAS: Final = 53_000
_SENT_BYTE_GAS: Final = 16
# EIP-170.
_MOST_CODE_BYTES: Final = 24_576
# Counted from the instructions of a Yul loop unrolled eight times, one weight at a time. A product: two loads, shift,
# sign extension, multiplication, addition (22), the stack (18), the loop's share (5). A unit: its bias, shift and
# store. A tanh: absolute value, clip, two entries of the table, interpolation, sign.
_PRODUCT_GAS: Final = 45
_UNIT_GAS: Final = 80
_TANH_GAS: Final = 220
_BIAS_BYTES: Final = 6
_TANH_ENTRY_BYTES: Final = 3
_WEIGHT_BYTES: Final = {"int8": 1, "int16": 2}

HIDDEN_ACTIVATION: Final = "tanh"
LAST_ACTIVATION: Final = "identity"


class NotQuantisable(ValueError):
    """A network that the artefact's integers can't stand for."""


def quantise(
    weights: Sequence[FloatLayer], scale_bits: int, *, activations: Sequence[str] | None = None
) -> tuple[Layer, ...]:
    """The network as int16 layers, each with the finest power-of-two scale its weights and biases allow.

    `weights`: (W[outputs, inputs], b[outputs]) of each layer, first to last, for inputs in units of 1.0.
    `scale_bits`: the observation's, 1.0 in it is 2**scale_bits. `activations`: one name for each layer, checked when
    given: "tanh", and "identity" for the last. Raises NotQuantisable.
    """
    exact = checked_network(weights)
    _check_activations(activations, len(exact))
    layers, input_bits = [], scale_bits
    for number, (weight, bias) in enumerate(exact):
        layers.append(_rounded(weight, bias, input_bits, f"layer {number}"))
        input_bits = Q12_BITS
    return tuple(layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainCost:
    """What a network would cost on a chain. Sizes are exact; gas is an estimate, no contract was measured."""

    # Multiplications of a weight and an activation for one decision.
    products: int
    # Evaluations of tanh, the last squash included.
    tanhs: int
    # Weights as they are stored, biases in 48 bits, the table of tanh in 24 bits an entry.
    packed_bytes: int
    # To store these bytes as the code of contracts, once.
    store_gas: int
    # To read them and compute one decision, inside a transaction that is under way.
    decision_gas: int
    # How many contracts it takes to hold the bytes.
    contracts: int

    def to_dict(self) -> dict[str, int]:
        """The figures by name."""
        return asdict(self)


def describe_cost(artefact: Artefact) -> ChainCost:
    """What evaluating the artefact's network in Solidity would cost; all zero for a kind without a network.

    The gas is counted from instructions (see the constants above), not measured: expect it to be right within a factor
    of two. Several weights packed into one multiplication would make it less. Refuses nothing.
    """
    layers = artefact.layers
    if not layers:
        return ChainCost(products=0, tanhs=0, packed_bytes=0, store_gas=0, decision_gas=0, contracts=0)
    weights = [len(layer.weights) * len(layer.weights[0]) for layer in layers]
    products, units = sum(weights), sum(len(layer.biases) for layer in layers)
    packed = sum(count * _WEIGHT_BYTES[layer.storage] for count, layer in zip(weights, layers, strict=True))
    packed += units * _BIAS_BYTES + len(TANH_TABLE) * _TANH_ENTRY_BYTES
    contracts, words = -(-packed // _MOST_CODE_BYTES), -(-packed // 32)
    reading = contracts * _COLD_ACCOUNT_GAS + words * _COPIED_WORD_GAS + words * words // 512
    return ChainCost(
        products=products,
        tanhs=units,
        packed_bytes=packed,
        store_gas=contracts * _CREATE_GAS + packed * (_STORED_BYTE_GAS + _SENT_BYTE_GAS),
        decision_gas=reading + products * _PRODUCT_GAS + units * (_UNIT_GAS + _TANH_GAS),
        contracts=contracts,
    )


def checked_network(weights: Sequence[FloatLayer]) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """The same numbers as float64, after it is sure that they are a network the format can hold.

    Raises NotQuantisable for shapes that do not follow from each other, and for what is not finite.
    """
    _check(1 <= len(weights) <= MAX_LAYERS, f"a network has 1 to {MAX_LAYERS} layers, not {len(weights)}")
    exact, inputs = [], None
    for number, layer in enumerate(weights):
        where = f"layer {number}"
        weight, bias = _as_floats(layer, where)
        _check(
            weight.ndim == 2 and weight.size > 0 and bias.shape == weight.shape[:1],
            f"{where}: weights are a matrix [outputs, inputs] and biases one for each output, not {weight.shape} and "
            f"{bias.shape}",
        )
        _check(
            inputs in (None, weight.shape[1]), f"{where} takes {weight.shape[1]} inputs, the one before gives {inputs}"
        )
        _check(weight.shape[0] <= MAX_WIDTH, f"{where} has {weight.shape[0]} outputs, the most is {MAX_WIDTH}")
        _check(
            bool(np.isfinite(weight).all() and np.isfinite(bias).all()),
            f"{where}: the network has weights that are not finite; training has diverged",
        )
        exact.append((weight, bias))
        inputs = weight.shape[0]
    _check(inputs == 1, f"the last layer has {inputs} outputs, expected 1")
    return exact


def _as_floats(layer: Any, where: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    try:
        weight, bias = (np.asarray(part) for part in layer)
    except (TypeError, ValueError):
        raise NotQuantisable(f"{where} is no pair of weights and biases") from None
    _check(weight.dtype.kind in "fiu" and bias.dtype.kind in "fiu", f"{where}: weights and biases are real numbers")
    return weight.astype(np.float64), bias.astype(np.float64)


def _check_activations(activations: Sequence[str] | None, layers: int) -> None:
    expected = [HIDDEN_ACTIVATION] * (layers - 1) + [LAST_ACTIVATION]
    _check(
        activations is None or list(activations) == expected,
        f"activations are {', '.join(activations or ())}; the integers have {', '.join(expected)}",
    )


def _rounded(weight: npt.NDArray[np.float64], bias: npt.NDArray[np.float64], input_bits: int, where: str) -> Layer:
    bits = next((bits for bits in range(MAX_WEIGHT_BITS, -1, -1) if _fits(weight, bias, bits, input_bits)), None)
    if bits is None:
        raise NotQuantisable(
            f"{where}: a weight of {np.abs(weight).max():.6g} or a bias of {np.abs(bias).max():.6g} is too large for "
            f"int16 weights and 48-bit biases; use weight decay, or clip them while training"
        )
    rows = np.rint(np.ldexp(weight, bits)).astype(np.int64)
    biases = np.rint(np.ldexp(bias, bits + input_bits)).astype(np.int64)
    return Layer(weights=tuple(map(tuple, rows.tolist())), biases=tuple(biases.tolist()), weight_bits=bits)


def _fits(weight: npt.NDArray[np.float64], bias: npt.NDArray[np.float64], bits: int, input_bits: int) -> bool:
    with np.errstate(over="ignore"):  # what overflows does not fit
        most_weight = np.abs(np.rint(np.ldexp(weight, bits))).max()
        most_bias = np.abs(np.rint(np.ldexp(bias, bits + input_bits))).max()
    return bool(most_weight <= INT16_MAX and most_bias <= MAX_BIAS)


def _check(condition: bool, reason: str) -> None:
    if not condition:
        raise NotQuantisable(reason)
