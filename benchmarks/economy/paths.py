"""Price paths by the hour, seeded: made up, or cut from real prices when there are some.

`fair` paths are martingales: whatever the past, the expected price is today's. There an expected profit is nobody's
beta. `drift` paths have the drift that the source has. `gap` paths are fair too, but once in a while the price falls by
GAP between two rounds, and drifts upwards before to make up for it.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HOURS_PER_YEAR = 24 * 365
BLOCK_H = 24
# The made-up source: yearly volatility and drift, and jumps of a few per cent, some a month.
VOLATILITY, DRIFT = 0.7, 0.3
JUMPS_PER_HOUR, JUMP_SIZE = 1 / 240, 0.03
# A fall that collateral does not cover, and how many of them a year a `gap` market has.
GAP, GAPS_PER_YEAR = 0.7, 4.0
FILES = "ohlcv/binance_usdm_perp_{}USDT_1h_to_2023.csv.gz"
SYMBOLS = ("ETH", "BTC", "SOL")


@dataclass(frozen=True, slots=True)
class Source:
    """Hourly log returns to draw blocks from, and where they are from."""

    name: str
    returns: tuple[np.ndarray, ...]
    # Of each: the log of a block's mean growth, for an hour.
    drifts: tuple[float, ...]


def load_source(folder: Path | None, rng: np.random.Generator) -> Source:
    """Real hours when the folder has them, else made-up ones. Raises FileNotFoundError when the folder lacks a file."""
    if folder is None:
        return _source("made up", tuple(_made_up(rng, 24 * 1000) for _ in SYMBOLS))
    returns = tuple(np.diff(np.log(_closes(folder / FILES.format(symbol)))) for symbol in SYMBOLS)
    return _source(f"{', '.join(SYMBOLS)} by the hour", returns)


def _source(name: str, returns: tuple[np.ndarray, ...]) -> Source:
    blocks = (np.convolve(each, np.ones(BLOCK_H), mode="valid")[:-1] for each in returns)
    return Source(name, returns, tuple(math.log(float(np.mean(np.exp(sums)))) / BLOCK_H for sums in blocks))


def draw(source: Source, market: str, hours: int, rng: np.random.Generator) -> np.ndarray:
    """Prices for hours 0 to `hours`, beginning at 100."""
    chosen = rng.integers(len(source.returns))
    pool = source.returns[chosen]
    starts = rng.integers(0, len(pool) - BLOCK_H, size=-(-hours // BLOCK_H))
    returns = np.concatenate([pool[start : start + BLOCK_H] for start in starts])[:hours]
    if market != "drift":
        returns = returns - source.drifts[chosen]
    if market == "gap":
        chance = GAPS_PER_YEAR / HOURS_PER_YEAR
        falls = rng.random(hours) < chance
        returns = returns + np.where(falls, math.log(1 - GAP), 0.0) - math.log(1 - chance * GAP)
    return 100 * np.exp(np.concatenate([[0.0], np.cumsum(returns)]))


def _made_up(rng: np.random.Generator, hours: int) -> np.ndarray:
    steps = rng.normal(0, VOLATILITY / math.sqrt(HOURS_PER_YEAR), hours)
    jumps = rng.normal(0, JUMP_SIZE, hours) * (rng.random(hours) < JUMPS_PER_HOUR)
    returns = steps + jumps
    return returns - returns.mean() + DRIFT / HOURS_PER_YEAR


def _closes(path: Path) -> Sequence[float]:
    with gzip.open(path, "rt", newline="") as lines:
        return [float(row["close"]) for row in csv.DictReader(lines)]
