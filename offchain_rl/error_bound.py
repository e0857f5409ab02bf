"""How far the integers of an artefact can be from the network they were rounded from: proven, not sampled.

The float network is read in real arithmetic: its float32 or float64 weights are rational numbers, its sums and tanh are
exact. (What a trainer computes in float32 is itself a little off that; `is_float32` adds a bound for it.) The claim is
for *every* observation in a box: by default all int16, or what the features really take.

Notation. x is the observation, an integer vector; its real value is x / 2**s. For one unit of one layer, a is the
real sum and p the integer one in q12; h = tanh(a) and t = tanh_q12(p). Carried from layer to layer are, for each unit,
an interval of the integer t and an interval of the error e = t / 4096 - h.

 1. Weights. p's sum before the shift is sum(V t) + c with integers V and c. Written in real numbers it differs from
    the float network's a = sum(W h) + b by exactly sum(W e) + sum((V / 2**k - W) t) / 2**i + (c / 2**(k+i) - b),
    where i is the bits of the input and k of the weight: substitute h = t / 2**i - e. The first sum is bounded by the
    sign of each W, the second by its largest and smallest value in the box, reached at corners; the third is a number.
    This holds whatever V and c are: a wrong quantiser gets a large bound, not a wrong one.
 2. Shift. To the nearest, halves up: p lies at most 1/2 above, and 1/2 - 2**-shift below, the sum / 2**shift. A shift
    of zero bits, or to the left, is exact.
 3. tanh. t / 4096 - tanh(a) = [t / 4096 - tanh(p / 4096)] + sech(u)**2 * (p / 4096 - a), with u between a and p / 4096
    (mean value theorem). The first bracket is the error of the table: not estimated, but the worst of all 32,769
    inputs from 0 to 8.0, which `table_error` goes through (beyond 8, where t is 4096, 1 - tanh falls; below 0 both
    are odd). sech**2 falls with |u| and is at most 1, so it is largest at the end of u's interval nearest to zero.
    Both are bounded separately in each of the table's 256 steps that p's interval reaches, and the worst step counts.
    p's interval comes from the integer network itself: rounding and tanh_q12 never change an order.
 4. Squash. The weight is M (1 + t) / 2 with t = tanh_q12(z), rounded to the nearest basis point, halves up: M / 2 times
    the error of 3., and at most 1/2 from the rounding. |integers - reals| <= E + 1/2 before the reals are rounded to
    basis points too; afterwards it is at most the integer above E. The bound given here, rounded up, is both.

 5. Both ways. Carried forward, the errors of a layer all count with |W| in every unit that follows, although the same
    error reaches the output with both signs. So the output's error is also written as one sum over all its sources
    (for each unit its rounded weights, bias, shift and table), each times its derivative: the product of the W and the
    sech(u)**2 on all its ways to the output, the same u as in 3., summed over the ways. Of each u only the interval is
    known; so of each derivative, from the output back to the input, an interval. What adds up with both signs cancels
    there before the absolute value is taken. The smaller of both bounds counts.

Everything is computed with integers: exact where a float is a fraction of two, else in units of 2**-60, rounded
outward. tanh comes from exp by its Taylor series with the remainder bounded, in units of 2**-128.

Float32. A dot product of n terms with a bias, added in any order, with or without fused multiplication, is off by at
most g * (sum |W| |h| + |b|), with g = m u / (1 - m u), m = n + 2, u = 2**-24 (Higham, Accuracy and Stability of
Numerical Algorithms, 2002, section 3.1), and 2**-126 for each term that underflows. That tanhf is within 2**-22 is not
proven but assumed: it is twice what mathematical libraries state for theirs.

What is not promised: that the bound is reached. Errors of different units are taken to add up at their worst, so for
trained networks it is several times what a search finds. See `benchmarks/evaluator.py` for how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from math import ceil
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from offchain_rl.artefact import ActionSpec, Layer
from offchain_rl.fixedpoint import INT16_MAX, INT16_MIN, Q12_BITS, Q12_ONE, IntArray, shift_right_round, tanh_q12
from offchain_rl.observation import BPS, ObservationSpec
from offchain_rl.quantise import FloatLayer, NotQuantisable, checked_network

# Errors are integers in units of 2**-60, rounded outward.
_BITS: Final = 60
_ONE: Final = 1 << _BITS
_EXP_BITS: Final = 128
# Inputs of tanh_q12 from 0 to 8.0, in steps of the table: 256 of them, and one for all that lies above.
_TANH_END: Final = 8 << Q12_BITS
_STEP: Final = 128
_FLOAT32_TANH: Final = _ONE >> 22

Exact = npt.NDArray[np.object_]  # Python integers, of any size


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """All observations with `low[i] <= x[i] <= high[i]`, int16."""

    low: tuple[int, ...]
    high: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high):
            raise ValueError(f"a box has {len(self.low)} lower ends and {len(self.high)} upper ends")
        for place, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if not INT16_MIN <= low <= high <= INT16_MAX:
                raise ValueError(f"feature {place} of the box goes from {low} to {high}, expected an int16 interval")

    @classmethod
    def whole(cls, features: int) -> Box:
        """Every observation there can be."""
        return cls(low=(INT16_MIN,) * features, high=(INT16_MAX,) * features)

    @classmethod
    def around(cls, vectors: IntArray) -> Box:
        """The smallest box around observations [rows, features]."""
        return cls(low=tuple(vectors.min(axis=0).tolist()), high=tuple(vectors.max(axis=0).tolist()))


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBound:
    """What the difference between the integers and the reals never exceeds, for all observations of a box."""

    # |z - output_q12 / 4096|, z the float network's output: in units of 1.0.
    output: Fraction
    # |weight - integer weight| for the given most weight, basis points.
    weight: Fraction
    # The largest error of a hidden activation, layer by layer: says where it comes from.
    hidden: tuple[Fraction, ...]

    @property
    def output_q12(self) -> int:
        """The bound of the output in units of q12, rounded up."""
        return ceil(self.output * Q12_ONE)

    @property
    def weight_bps(self) -> int:
        """The bound of the weight in basis points, rounded up."""
        return ceil(self.weight)

    def to_dict(self) -> dict[str, int]:
        """As it stands in the provenance of an artefact."""
        return {"output_q12": self.output_q12, "weight_bps": self.weight_bps}


def describe_error_bound(
    weights: Sequence[FloatLayer],
    layers: Sequence[Layer],
    spec: ObservationSpec,
    action: ActionSpec,
    vectors: IntArray | None = None,
) -> dict[str, Any]:
    """For the provenance of an artefact: the bound over all observations, and over those around `vectors`."""
    result: dict[str, Any] = {}
    boxes = {"every_observation": Box.whole(len(spec.features))}
    if vectors is not None:
        boxes["observed"] = Box.around(vectors)
    for name, box in boxes.items():
        bound = error_bound(
            weights, layers, scale_bits=spec.scale_bits, max_weight_bps=action.max_weight_bps, box=box
        )
        result[name] = bound.to_dict()
    if vectors is not None:
        result["observed"] |= {"high": list(boxes["observed"].high), "low": list(boxes["observed"].low)}
    return result


def error_bound(
    weights: Sequence[FloatLayer],
    layers: Sequence[Layer],
    *,
    scale_bits: int,
    max_weight_bps: int = BPS,
    box: Box | None = None,
    is_float32: bool = False,
) -> ErrorBound:
    """A proven bound of |float network - integer network|, over all observations of the box, int16 by default.

    `weights`: (W[outputs, inputs], b[outputs]) of each layer. `layers`: what is to stand for them; they need not come
    from `quantise`. `is_float32`: the network as evaluated in float32, instead of in real arithmetic. Raises
    NotQuantisable when the layers are not of the network's shape, ValueError for a box of other features.
    """
    network = checked_network(weights)
    _check_same_shape(network, layers)
    box = box or Box.whole(network[0][0].shape[1])
    if len(box.low) != network[0][0].shape[1]:
        raise ValueError(f"the box has {len(box.low)} features, the network takes {network[0][0].shape[1]}")
    if is_float32:
        _check_float32(network)
    state = _State.of_box(box, scale_bits)
    traces, hidden = [], []
    for (weight, bias), layer in zip(network, layers, strict=True):
        traces.append(_trace(state, weight, bias, layer, is_float32))
        state = _activated(traces[-1].sums, is_float32)
        hidden.append(state.worst())
    sums = _narrowed(traces[-1].sums, *_error_seen_from_output(traces, is_float32))
    squashed = _activated(sums, is_float32=False)
    return ErrorBound(
        output=sums.worst(), weight=_weight_error(squashed, max_weight_bps), hidden=tuple(hidden[:-1])
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """Of each unit: an interval of its integer, in units of 2**-bits, and of its error, in units of 2**-60."""

    bits: int
    low: Exact
    high: Exact
    error_low: Exact
    error_high: Exact

    @classmethod
    def of_box(cls, box: Box, scale_bits: int) -> _State:
        none = _exact([0] * len(box.low))
        return cls(bits=scale_bits, low=_exact(box.low), high=_exact(box.high), error_low=none, error_high=none)

    def worst(self) -> Fraction:
        """The largest error of all units."""
        return Fraction(max(*(-self.error_low).tolist(), *self.error_high.tolist(), 0), _ONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trace:
    """One layer on the way forward, and all that the way back needs of it."""

    inputs: _State
    # The integers p before tanh, and how far p / 4096 is from the float network's sum.
    sums: _State
    # The float weights, and what the integer ones differ from them: Python integers, and in how many bits.
    weights: tuple[Exact, int]
    differences: tuple[Exact, int]
    # What each unit adds by itself: its bias and its shift. Lowest and highest, units of 2**-60.
    own: tuple[Exact, Exact]


# Steps 1 and 2: sums and their shift


def _trace(state: _State, weight: npt.NDArray[Any], bias: npt.NDArray[Any], layer: Layer, is_float32: bool) -> _Trace:
    integers, constants = _exact_rows(layer.weights), _exact(layer.biases)
    bits, shift = state.bits + layer.weight_bits, state.bits + layer.weight_bits - Q12_BITS
    low, high = _interval(integers, state.low, state.high)

    # W = tops / 2**w_bits and b = bias_tops / 2**b_bits, exactly.
    tops, w_bits = _as_fractions(weight)
    bias_tops, b_bits = _as_fractions(bias)
    carried = _interval(tops, state.error_low, state.error_high)
    common = max(w_bits, layer.weight_bits)
    differences = (integers << (common - layer.weight_bits)) - (tops << (common - w_bits))
    rounded = _interval(differences, state.low, state.high)
    b_common = max(b_bits, bits)
    bias_rounded = (constants << (b_common - bits)) - (bias_tops << (b_common - b_bits))

    shift_low, shift_high = _shift_error(shift)
    noise = _float32_noise(state, tops, w_bits, bias_tops, b_bits) if is_float32 else 0
    own = _down(bias_rounded, b_common) + shift_low - noise, _up(bias_rounded, b_common) + shift_high + noise
    sums = _State(
        bits=Q12_BITS,
        low=_shifted(low + constants, shift),
        high=_shifted(high + constants, shift),
        error_low=_down(carried[0], w_bits + _BITS) + _down(rounded[0], common + state.bits) + own[0],
        error_high=_up(carried[1], w_bits + _BITS) + _up(rounded[1], common + state.bits) + own[1],
    )
    return _Trace(inputs=state, sums=sums, weights=(tops, w_bits), differences=(differences, common), own=own)


def _interval(matrix: Exact, low: Exact, high: Exact) -> tuple[Exact, Exact]:
    """The smallest and the largest value of matrix @ x with x between low and high: each reached at a corner."""
    positive, negative = np.maximum(matrix, 0), np.minimum(matrix, 0)
    return positive @ low + negative @ high, positive @ high + negative @ low


def _shift_error(shift: int) -> tuple[int, int]:
    """What rounding to q12 adds: to the nearest, halves up. Nothing where no bit is lost."""
    if shift <= 0:
        return 0, 0
    half = 1 << (_BITS - Q12_BITS - 1)
    return (2 * half >> shift) - half, half


def _shifted(sums: Exact, shift: int) -> Exact:
    return _exact([shift_right_round(total, shift) if shift >= 0 else total << -shift for total in sums.tolist()])


def _float32_noise(state: _State, tops: Exact, w_bits: int, bias_tops: Exact, b_bits: int) -> Exact:
    """What sums in float32 add to the error, whatever their order: see the top of the module."""
    terms = len(state.low) + 2
    largest = np.maximum(-state.low, state.high) * (1 << (_BITS - state.bits))
    largest = largest + np.maximum(-state.error_low, state.error_high)
    sizes = _up(np.abs(tops) @ largest, w_bits + _BITS) + _up(np.abs(bias_tops), b_bits)
    # terms / (2**24 - terms) is Higham's gamma; one more unit covers what underflows.
    return -(-sizes * terms // ((1 << 24) - terms)) + 1


# Steps 3 and 4: tanh and the squash


def _activated(sums: _State, is_float32: bool) -> _State:
    """The activations of a layer and their error."""
    errors = [_tanh_error(*unit) for unit in zip(sums.low, sums.high, sums.error_low, sums.error_high, strict=True)]
    noise = _FLOAT32_TANH if is_float32 else 0
    return _State(
        bits=Q12_BITS,
        low=_exact([tanh_q12(low) for low in sums.low]),
        high=_exact([tanh_q12(high) for high in sums.high]),
        error_low=_exact([low - noise for low, _ in errors]),
        error_high=_exact([high + noise for _, high in errors]),
    )


def _tanh_error(low: int, high: int, error_low: int, error_high: int) -> tuple[int, int]:
    """The interval of t / 4096 - tanh(a) for p from low to high, when p / 4096 - a lies in the interval of the error.

    The worst of all steps of the table that p reaches, on both sides of zero.
    """
    below, above = min(error_low, 0), max(error_high, 0)
    found = []
    if high >= 0:
        found += _step_errors(max(low, 0), high, below, above)
    if low < 0:
        # tanh and tanh_q12 are odd: the same question about -p and -a, with the errors turned round.
        mirrored = _step_errors(max(-high, 1), -low, -above, -below)
        found += [(-most, -least) for least, most in mirrored]
    return min(least for least, _ in found), max(most for _, most in found)


def _step_errors(low: int, high: int, below: int, above: int) -> list[tuple[int, int]]:
    """`_tanh_error` for each step of the table that 0 <= low <= p <= high reaches; below <= 0 <= above."""
    table_low, table_high = table_error()
    # u lies between p / 4096 and p / 4096 - error: in q12 at most this much below p when the error is positive, at most
    # that much above it when it is negative.
    nearer = -(-above >> (_BITS - Q12_BITS))
    farther = -(below >> (_BITS - Q12_BITS))
    last = len(table_low) - 1
    errors = []
    for step in range(min(low // _STEP, last), min(high // _STEP, last) + 1):
        first, final = max(low, step * _STEP), high if step == last else min(high, (step + 1) * _STEP)
        least = table_low[step] + (_steepest(first, final + farther) * below >> _BITS)
        most = table_high[step] - (-_steepest(first - nearer, final) * above >> _BITS)
        errors.append((least, most))
    return errors


def _steepest(low: int, high: int) -> int:
    """At least the largest sech(u)**2 for u from low to high, in q12."""
    if low <= 0 <= high:
        return _ONE
    nearest = min(max(low, -high), _TANH_END)
    lower = _tanh_bounds()[0][nearest]
    return _ONE - (lower * lower >> _BITS)


def _weight_error(state: _State, max_weight_bps: int) -> Fraction:
    """Basis points: the squashed output's error, and what rounding to a whole basis point adds."""
    rounding = Fraction(1, 2) if max_weight_bps else Fraction(0)
    return state.worst() * max_weight_bps / 2 + rounding


# Step 5: the same errors, seen from the output


def _error_seen_from_output(traces: Sequence[_Trace], is_float32: bool) -> tuple[int, int]:
    """An interval of the output's error, units of 2**-60: each source of error times the interval of its derivative."""
    seen_low = seen_high = _exact([_ONE])
    least = most = 0
    for trace, before in zip(reversed(traces), [*reversed(traces[:-1]), None], strict=True):
        inputs, (differences, d_bits), (weights, w_bits) = trace.inputs, trace.differences, trace.weights
        by_input = _interval(differences.T, seen_low, seen_high)
        found = [(_products(by_input, (inputs.low, inputs.high)), d_bits + inputs.bits + _BITS)]
        found.append((_products((seen_low, seen_high), trace.own), 2 * _BITS))
        if before is not None:
            through = _interval(weights.T, seen_low, seen_high)
            through = _down(through[0], w_bits + _BITS), _up(through[1], w_bits + _BITS)
            found.append((_products(through, _table_errors(before.sums, is_float32)), 2 * _BITS))
            seen = _products(through, _slopes(before.sums))
            seen_low, seen_high = _down(seen[0], 2 * _BITS), _up(seen[1], 2 * _BITS)
        least += sum(_down(low, bits).sum() for (low, _), bits in found)
        most += sum(_up(high, bits).sum() for (_, high), bits in found)
    return least, most


def _products(first: tuple[Exact, Exact], second: tuple[Exact, Exact]) -> tuple[Exact, Exact]:
    """The interval of the product of two intervals, element by element."""
    ends = [a * b for a in first for b in second]
    return np.minimum.reduce(ends), np.maximum.reduce(ends)


def _table_errors(sums: _State, is_float32: bool) -> tuple[Exact, Exact]:
    """Of each unit, the interval of the first bracket of step 3: the error of its tanh alone."""
    noise = _FLOAT32_TANH if is_float32 else 0
    errors = [_tanh_error(low, high, 0, 0) for low, high in zip(sums.low, sums.high, strict=True)]
    return _exact([low - noise for low, _ in errors]), _exact([high + noise for _, high in errors])


def _slopes(sums: _State) -> tuple[Exact, Exact]:
    """Of each unit, the interval of sech(u)**2 with u between a and p / 4096."""
    down = _BITS - Q12_BITS
    lows = [low - max(-(-error >> down), 0) for low, error in zip(sums.low, sums.error_high, strict=True)]
    highs = [high + max(-(error >> down), 0) for high, error in zip(sums.high, sums.error_low, strict=True)]
    ends = list(zip(lows, highs, strict=True))
    return _exact([_flattest(*end) for end in ends]), _exact([_steepest(*end) for end in ends])


def _flattest(low: int, high: int) -> int:
    """At most the smallest sech(u)**2 for u from low to high, in q12."""
    farthest = max(high, -low)
    if farthest > _TANH_END:
        return 0
    upper = _tanh_bounds()[1][farthest]
    return _ONE - (upper * upper + _ONE - 1 >> _BITS)


def _narrowed(sums: _State, error_low: int, error_high: int) -> _State:
    """The last layer's sums with the error known from both sides."""
    return replace(
        sums,
        error_low=np.maximum(sums.error_low, error_low),
        error_high=np.minimum(sums.error_high, error_high),
    )


@cache
def table_error() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The smallest and the largest t / 4096 - tanh(p / 4096) in each step of the table, in units of 2**-60, outward.

    Goes through every p from 0 to 8.0. The last entry is for all p from 8.0 on.
    """
    lower, upper = _tanh_bounds()
    least, most = [], []
    for start in range(0, _TANH_END, _STEP):
        inputs = range(start, start + _STEP + 1)
        least.append(min((tanh_q12(p) << (_BITS - Q12_BITS)) - upper[p] for p in inputs))
        most.append(max((tanh_q12(p) << (_BITS - Q12_BITS)) - lower[p] for p in inputs))
    return (*least, 0), (*most, _ONE - lower[_TANH_END])


@cache
def _tanh_bounds() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """For p from 0 to 8.0 in q12: what tanh(p / 4096) is at least and at most, in units of 2**-60.

    tanh(x) = (E - 1) / (E + 1) with E = exp(2x), and E of the next p is E times exp(1 / 2048): rounded down all along
    for the one, up for the other.
    """
    one = 1 << _EXP_BITS
    factor_low, factor_high = _exp_bounds(Q12_ONE // 2)
    low, high = one, one
    lower, upper = [], []
    for _ in range(_TANH_END + 1):
        lower.append(((low - one) << _BITS) // (low + one))
        upper.append(-(-((high - one) << _BITS) // (high + one)))
        low, high = low * factor_low >> _EXP_BITS, -(-high * factor_high >> _EXP_BITS)
    return tuple(lower), tuple(upper)


def _exp_bounds(part: int) -> tuple[int, int]:
    """exp(1 / part) in units of 2**-128, rounded down and up.

    Every term of the Taylor series comes out less than two units too small (one from its own rounding, and a 2048th
    of the error of the term before); from the first that is zero on, all of them together are less than two.
    """
    term = total = 1 << _EXP_BITS
    n = 1
    while term:
        term //= part * n
        total += term
        n += 1
    return total, total + 2 * n


# Exact numbers


def _exact(values: Sequence[int]) -> Exact:
    result = np.empty(len(values), dtype=object)
    result[:] = [int(value) for value in values]
    return result


def _exact_rows(rows: Sequence[Sequence[int]]) -> Exact:
    return np.array([[int(value) for value in row] for row in rows], dtype=object)


def _as_fractions(values: npt.NDArray[Any]) -> tuple[Exact, int]:
    """Integers n and one number of bits k with values = n / 2**k, exactly: every finite float is such a fraction."""
    ratios = [float(value).as_integer_ratio() for value in values.ravel()]
    bits = max(bottom.bit_length() - 1 for _, bottom in ratios)
    tops = np.empty(len(ratios), dtype=object)
    tops[:] = [top << (bits - bottom.bit_length() + 1) for top, bottom in ratios]
    return tops.reshape(values.shape), bits


def _down(tops: Exact, bits: int) -> Exact:
    """tops / 2**bits in units of 2**-60, rounded down."""
    return tops >> (bits - _BITS) if bits >= _BITS else tops << (_BITS - bits)


def _up(tops: Exact, bits: int) -> Exact:
    """tops / 2**bits in units of 2**-60, rounded up."""
    return -_down(-tops, bits)


# Refusals


def _check_same_shape(network: Sequence[tuple[Any, Any]], layers: Sequence[Layer]) -> None:
    if len(network) != len(layers):
        raise NotQuantisable(f"the network has {len(network)} layers, the integers have {len(layers)}")
    for number, ((weight, _), layer) in enumerate(zip(network, layers, strict=True)):
        shape = (len(layer.biases), len(layer.weights[0]))
        if shape != weight.shape:
            raise NotQuantisable(f"layer {number} of the network is {weight.shape}, of the integers {shape}")


def _check_float32(network: Sequence[tuple[Any, Any]]) -> None:
    for number, arrays in enumerate(network):
        if any((array.astype(np.float32) != array).any() for array in arrays):
            raise NotQuantisable(f"layer {number} has weights that are not float32 numbers")
