"""What one core of this machine does at most, by the kind of work that holds each of ours."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numba
import numpy as np

from benchmarks.rl.contest import PPO
from benchmarks.rl.measure import measure_rates

# Working sets: in the second level of cache, in the third, in memory.
COPIED_BYTES = (256 << 10, 4 << 20, 128 << 20)
_ROW_BYTES = 20
_ROWS = 1 << 16
_CHAIN = 1_000_000
# Cycles of an integer multiplication and an exclusive or that wait for each other, on x86-64 and Armv8 of today. With
# an addition instead, a compiler may do many links at once.
_CYCLES_PER_LINK = 4
# Rows of a matrix product: few enough to stay in cache.
_CHUNK = 2048


def measure(repetitions: int, least_s: float) -> dict[str, float]:
    """Medians. copy_GBps_<bytes>: read plus written; gather_rows_per_s: of 20 bytes; gflops_<shape>; clock_GHz."""

    def rate(work: Callable[[], int]) -> float:
        return statistics.median(measure_rates(work, repetitions=repetitions, least_s=least_s))

    figures = {f"copy_GBps_{size}": rate(_copying(size)) / 1e9 for size in COPIED_BYTES}
    figures["gather_rows_per_s"] = rate(_gathering())
    for name, rows, inner, columns in matrix_shapes():
        figures[f"gflops_{name}"] = rate(_multiplying(rows, inner, columns)) / 1e9
    figures["clock_GHz"] = rate(_chained) * _CYCLES_PER_LINK / 1e9
    return figures


def matrix_shapes() -> list[tuple[str, int, int, int]]:
    """Of the products of a hidden layer: forward, and the gradient of its weights; whole minibatches and chunks."""
    wide, rows = PPO.hidden, PPO.minibatch
    return [
        ("forward_minibatch", rows, wide, wide),
        ("forward_chunk", _CHUNK, wide, wide),
        ("weights_minibatch", wide, rows, wide),
        ("weights_chunk", wide, _CHUNK, wide),
    ]


def best_gflops(figures: dict[str, float]) -> float:
    """Of the shapes that were measured: the bound is the best of them."""
    return max(value for name, value in figures.items() if name.startswith("gflops_"))


def copy_rate(figures: dict[str, float], working_set_bytes: float) -> float:
    """GB/s read plus written for the smallest measured working set that is not smaller."""
    fitting = [size for size in COPIED_BYTES if size >= working_set_bytes] or [COPIED_BYTES[-1]]
    return figures[f"copy_GBps_{fitting[0]}"]


def _copying(size: int) -> Callable[[], int]:
    # Both together are the working set.
    source, target = np.ones(size // 16), np.zeros(size // 16)
    times = max((16 << 20) // size, 1)

    def work() -> int:
        for _ in range(times):
            np.copyto(target, source)
        return 2 * source.nbytes * times

    return work


def _gathering() -> Callable[[], int]:
    rng = np.random.default_rng(0)
    rows = np.zeros(_ROWS, dtype=np.dtype((np.void, _ROW_BYTES)))
    wanted, out = rng.integers(0, _ROWS, _ROWS), np.zeros_like(rows)

    def work() -> int:
        np.take(rows, wanted, out=out, mode="clip")
        return _ROWS

    return work


def _multiplying(rows: int, inner: int, columns: int) -> Callable[[], int]:
    import torch

    torch.set_num_threads(1)
    left, right, out = torch.rand(rows, inner), torch.rand(inner, columns), torch.empty(rows, columns)
    times = max((1 << 28) // (2 * rows * inner * columns), 1)

    def work() -> int:
        for _ in range(times):
            torch.mm(left, right, out=out)
        return 2 * rows * inner * columns * times

    return work


@numba.njit
def _chain(x: int) -> int:
    for _ in range(_CHAIN):
        x = (x * 6364136223846793005) ^ 1442695040888963407
    return x


def _chained() -> int:
    _chain(np.int64(1))
    return _CHAIN
