"""Decisions a second on one core: the integers of an artefact, the same network in torch's float32, int64 matrices.

    OMP_NUM_THREADS=1 python -m benchmarks.evaluator             decisions a second of CPU time
    OMP_NUM_THREADS=1 python -m benchmarks.evaluator --bound     what is proven of the error, and what a search finds
    ... --bound --weights net.npz                                the same of a trained network: W0, b0, W1, b1, …

torch is told to use one thread; numpy reads its number of threads when it is loaded, hence the variable. Observations
are random int16, so activations are spread over the whole table of tanh, which is its worst case.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from offchain_rl.artefact import ActionSpec, Layer
from offchain_rl.error_bound import Box, error_bound
from offchain_rl.observation import ObservationSpec
from offchain_rl.policy import BatchEvaluator, MlpPolicy
from offchain_rl.quantise import FloatLayer, quantise

NETWORKS = ((16, 16), (32, 32), (64, 64))
BATCHES = (1, 64, 1024, 16_384)
SPEC = ObservationSpec()
ACTION = ActionSpec(max_weight_bps=10_000)
Int16Array = npt.NDArray[np.int16]
Figures = list[dict[str, Any]]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bound", action="store_true", help="how tight the proven bound is, instead of speed")
    parser.add_argument("--weights", type=Path, help="a network in an npz file: W0, b0, W1, b1, …")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    networks = [load_network(asked.weights)] if asked.weights else [create_network(hidden) for hidden in NETWORKS]
    torch.set_num_threads(1)
    figures = measure_bounds(networks) if asked.bound else measure_speeds(networks)
    if asked.json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
        return
    for row in figures:
        sys.stdout.write("  ".join(f"{name} {_shown(value)}" for name, value in row.items()) + "\n")


def create_network(hidden: tuple[int, ...], seed: int = 1) -> list[FloatLayer]:
    """Random weights of the size that training leaves."""
    rng, layers, inputs = np.random.default_rng(seed), [], len(SPEC.features)
    for outputs in (*hidden, 1):
        weight = rng.normal(0, (0.1 if outputs == 1 else 1) / inputs**0.5, (outputs, inputs))
        layers.append((weight.astype(np.float32), rng.normal(0, 0.2, outputs).astype(np.float32)))
        inputs = outputs
    return layers


def load_network(path: Path) -> list[FloatLayer]:
    """The layers in an npz file."""
    with np.load(path) as stored:
        count = sum(name.startswith("W") for name in stored.files)
        return [(stored[f"W{i}"], stored[f"b{i}"]) for i in range(count)]


def hidden_of(network: list[FloatLayer]) -> str:
    """The widths of its hidden layers, as 16x16."""
    return "x".join(str(len(bias)) for _, bias in network[:-1])


# Speed


def measure_speeds(networks: list[list[FloatLayer]]) -> Figures:
    """Decisions a second of CPU time, for each network and batch."""
    figures = []
    for network in networks:
        layers = quantise(network, SPEC.scale_bits)
        for rows in BATCHES:
            vectors = np.random.default_rng(rows).integers(-32768, 32768, (rows, len(SPEC.features)), dtype=np.int16)
            figures.append({"hidden": hidden_of(network), "rows": rows, **compare(network, layers, vectors)})
    return figures


def compare(network: list[FloatLayer], layers: tuple[Layer, ...], vectors: Int16Array) -> dict[str, float]:
    """Million decisions a second of each way to evaluate the network on these rows."""
    policy, evaluator = MlpPolicy(SPEC, ACTION, layers), BatchEvaluator(layers, SPEC.scale_bits)
    floats, values = torch_network(network), vectors.astype(np.int64)
    assert (policy.output_q12_array(vectors) == evaluator._with_integers(values)).all()

    def in_torch() -> None:
        with torch.no_grad():
            floats(torch.from_numpy(vectors).float() / 4096)

    ways: dict[str, Callable[[], object]] = {
        "integers": lambda: policy.output_q12_array(vectors),
        "torch": in_torch,
        "int64": lambda: evaluator._with_integers(values),
    }
    if len(vectors) == 1:
        only = vectors[0].tolist()
        ways["scalar"] = lambda: policy.output_q12(only)
    speeds = {f"{name}_millions": len(vectors) / cpu_s(way) / 1e6 for name, way in ways.items()}
    return {**speeds, "ratio_to_torch": speeds["integers_millions"] / speeds["torch_millions"]}


def torch_network(network: list[FloatLayer]) -> torch.nn.Sequential:
    """The same weights in torch, float32."""
    modules: list[torch.nn.Module] = []
    for weight, bias in network:
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
        modules += [linear, torch.nn.Tanh()]
    return torch.nn.Sequential(*modules[:-1])


def cpu_s(way: Callable[[], object], repeats: int = 7, least_s: float = 0.1) -> float:
    """CPU seconds of one call: the best of some rounds."""
    way()
    best = float("inf")
    for _ in range(repeats):
        calls, started = 0, time.process_time()
        while (taken_s := time.process_time() - started) < least_s:
            way()
            calls += 1
        best = min(best, taken_s / calls)
    return best


# The bound


def measure_bounds(networks: list[list[FloatLayer]]) -> Figures:
    """What is proven, and the worst that a search finds, over all int16 observations and over those within 4.0."""
    figures = []
    features = len(SPEC.features)
    for network in networks:
        layers = quantise(network, SPEC.scale_bits)
        near = Box(low=(-16_384,) * features, high=(16_384,) * features)
        for name, box in (("every", Box.whole(features)), ("within_4", near)):
            started = time.process_time()
            bound = error_bound(network, layers, scale_bits=SPEC.scale_bits, box=box)
            row = {"hidden": hidden_of(network), "box": name, "proof_s": time.process_time() - started}
            found_q12, found_bps = search(network, layers, box)
            row |= {"proven_q12": float(bound.output * 4096), "found_q12": found_q12}
            figures.append(row | {"proven_bps": float(bound.weight), "found_bps": found_bps})
    return figures


def search(network: list[FloatLayer], layers: tuple[Layer, ...], box: Box, seed: int = 1) -> tuple[float, float]:
    """The largest differences found: of z in units of q12, of the weight in basis points."""
    rng, low, high = np.random.default_rng(seed), np.array(box.low), np.array(box.high)
    policy, size = MlpPolicy(SPEC, ACTION, layers), (200_000, len(box.low))

    def gaps(vectors: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        values = vectors / 2.0**SPEC.scale_bits
        for i, (weight, bias) in enumerate(network):
            values = values @ weight.astype(np.float64).T + bias
            values = np.tanh(values) if i < len(network) - 1 else values
        exact, weight_bps = values[:, 0], ACTION.max_weight_bps * (1 + np.tanh(values[:, 0])) / 2
        return np.abs(exact * 4096 - policy.output_q12_array(vectors)), np.abs(
            weight_bps - policy.wanted_weight_bps_array(vectors)
        )

    start = np.concatenate([rng.integers(low, high + 1, size), np.where(rng.random(size) < 0.5, low, high)])
    worst = []
    for kind in (0, 1):
        best = start[np.argsort(-gaps(start)[kind])[:64]]
        for _ in range(60):
            tried = np.repeat(best, 32, axis=0)
            tried = np.where(rng.random(tried.shape) < 0.2, rng.integers(low, high + 1, tried.shape), tried)
            tried = np.concatenate([best, np.clip(tried + rng.integers(-3, 4, tried.shape), low, high)])
            found = gaps(tried)[kind]
            best = tried[np.argsort(-found)[:64]]
        worst.append(float(found.max()))
    return worst[0], worst[1]


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
