"""What a procedure that makes a policy is worth on bars it has not seen, beside the simple things to do instead.

Walk-forward: train on one stretch, test on the next, move on, join the tests.

    |<------- train_bars ------->|<- purge ->|<- embargo ->|<- test_bars ->|
                     |<------- train_bars ------->|<- purge ->|<- embargo ->|<- test_bars ->|

The purge is the lookback of the observation, so that nothing a test decision looks at was trained on; the embargo
is for what prices remember for longer. Each test starts a new vault in cash. The joined tests are one series of
values, all of it out of sample and after fees, slippage and gas, beside buy-and-hold, a moving-average rule,
volatility-targeted holding and cash.

`cross_validate` tests on every pair of groups of bars and trains on the others, purged and embargoed, which gives
several records of the same time instead of one (combinatorial purged cross-validation).

What such a report is not: a promise. It says how the procedure did on this data. Whoever tried many
procedures and shows the best has shown less than one who tried one; `trials` says how many it was, and the
verdict (`offchain_rl.verdict`) is the stricter the more there were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from offchain_rl.artefact import ActionSpec, Artefact
from offchain_rl.backtest import Backtest, BacktestConfig, Performance, measure, run_backtest
from offchain_rl.fixedpoint import Q12_BITS, Q24_BITS, IntArray, log2_q24
from offchain_rl.observation import BPS, MAX_LOOKBACK, BadObservation, ObservationSpec
from offchain_rl.policy import BuyAndHold, MovingAverageRule, Policy, _Base
from offchain_rl.prices import Bars
from offchain_rl.spot_vault import UNLIMITED
from offchain_rl.statistics import Trials, combinatorial_splits, sharpe, yearly
from offchain_rl.verdict import DAY_S, YEAR_S, Evidence, Verdict, judge

DISCLAIMER: Final = (
    "Out of sample, after fees, slippage and gas, on past prices. "
    "It describes what happened; it promises nothing about what will."
)
# What baselines may hold at least, however little the policy wants: several deadbands, or they would not trade.
LEAST_WEIGHT_BPS: Final = 4_000
# More than anybody tries; the expected best of so many is still a number.
MAX_TRIALS: Final = 10**9
POLICY: Final = "policy"
BUY_AND_HOLD: Final = "buy and hold"
MOVING_AVERAGE: Final = "moving average"
VOLATILITY_TARGET: Final = "volatility target"
BASELINES: Final = (MOVING_AVERAGE, VOLATILITY_TARGET, BUY_AND_HOLD)
# Yearly volatility that volatility-targeted holding aims at: half of what a large coin has.
TARGET_VOLATILITY_BPS: Final = 4_000

# log2(ln 2) in q24: from the deviation of a logarithm to base two to that of a return.
_LOG2_LN2_Q24: Final = -8_871_228
_LOG2_OF_128_Q24: Final = 7 << Q24_BITS
# Two weeks in the longest feature of the default observation.
_LONGEST_UNITS: Final = 14
_SHORTEST_UNIT: Final = 6

# Gives the policy for a fold, trained on the bars it gets and on nothing else.
MakePolicy = Callable[[Bars], Policy]
# The same from several stretches of bars that do not touch.
MakePolicyFromRuns = Callable[[Sequence[Bars]], Policy]


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkForwardConfig:
    """Windows in bars. The defaults are a year, two months and a day of half-hour bars."""

    train_bars: int = 17_520
    test_bars: int = 2_880
    # Left out between training and test, besides the purge.
    embargo_bars: int = 48
    backtest: BacktestConfig = field(default_factory=BacktestConfig)
    # Configurations and seeds tried on this or similar data, the one that is reported included.
    trials: int = 1
    # Whether chance has a part in making the policy, so that one seed is not enough for a verdict.
    is_trained: bool = True

    def __post_init__(self) -> None:
        if min(self.train_bars, self.test_bars, self.trials) < 1 or self.embargo_bars < 0:
            raise ValueError("train_bars, test_bars and trials are at least 1, and embargo_bars is not negative")
        if self.trials > MAX_TRIALS:
            raise ValueError(f"trials is {self.trials}, at most {MAX_TRIALS} can be counted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """One train window and the test after it, as numbers of bars; ends are not included."""

    train_start: int
    train_end: int
    # First bar at whose close the policy decides.
    test_start: int
    test_end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldResult:
    """Returns of one test window, basis points."""

    start_s: int
    end_s: int
    policy_bps: int
    moving_average_bps: int
    volatility_target_bps: int
    buy_and_hold_bps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The joined tests of one policy, all of them out of sample and after costs."""

    name: str
    # Close of each bar, unix seconds, and what the vault was worth then; the first is where the first test begins.
    times_s: tuple[int, ...]
    values: tuple[int, ...]
    performance: Performance
    fold_returns_bps: tuple[int, ...]

    def daily(self) -> tuple[IntArray, list[float]]:
        """The end of each UTC day with a bar in it, unix seconds, and the return up to its last bar."""
        return daily_returns(self.times_s, self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Walk-forward records of policies and baselines over the same bars."""

    source: str
    config: WalkForwardConfig
    purge_bars: int
    # Start and end of each test, unix seconds.
    spans_s: tuple[tuple[int, int], ...]
    policies: Mapping[str, Record]
    baselines: Mapping[str, Record]

    def evidence(
        self, chosen: str, *, seeds: Sequence[str] = (), paths: Sequence[float] = (), needs_paths: bool = False
    ) -> Evidence:
        """What the verdict on the policy `chosen` rests on; every other policy of the walk is a trial too."""
        record, limits = self.policies[chosen], self.config.backtest.limits
        return Evidence(
            source=self.source,
            trials=as_trials(self.policies),
            chosen=chosen,
            seeds=tuple(seeds),
            is_trained=self.config.is_trained,
            baselines=as_trials(self.baselines),
            trials_made=max(self.config.trials, len(self.policies)),
            trades=record.performance.trades,
            max_drawdown_bps=record.performance.max_drawdown_bps,
            drawdown_limit_bps=limits.max_drawdown_bps,
            paths=tuple(paths),
            needs_paths=needs_paths,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkForwardReport:
    """The joined tests of a policy and of what it is compared with."""

    source: str
    purge_bars: int
    config: WalkForwardConfig
    policy: Performance
    moving_average: Performance
    volatility_target: Performance
    buy_and_hold: Performance
    folds: tuple[FoldResult, ...]
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """The report as it stands in an artefact: integers and texts."""
        costs, limits = self.config.backtest.costs, self.config.backtest.limits
        return {
            "buy_and_hold": self.buy_and_hold.to_dict(),
            "cash": {"max_drawdown_bps": 0, "total_return_bps": 0},
            "costs": {name: getattr(costs, name) for name in costs.__slots__},
            "disclaimer": DISCLAIMER,
            "embargo_bars": self.config.embargo_bars,
            "folds": [{name: getattr(fold, name) for name in fold.__slots__} for fold in self.folds],
            "limits": {name: getattr(limits, name) for name in limits.__slots__},
            "method": "walk-forward",
            "moving_average": self.moving_average.to_dict(),
            "policy": self.policy.to_dict(),
            "purge_bars": self.purge_bars,
            "source": self.source,
            "start_quote": self.config.backtest.start_quote,
            "test_bars": self.config.test_bars,
            "train_bars": self.config.train_bars,
            "trials": self.config.trials,
            "verdict": self.verdict.to_dict(),
            "volatility_target": self.volatility_target.to_dict(),
        }

    def to_text(self) -> str:
        """A table for people."""
        return format_report(self.to_dict())


def plan_folds(total_bars: int, lookback: int, config: WalkForwardConfig) -> tuple[Fold, ...]:
    """The windows that fit, each test starting where the last one ended.

    A test decides first at `train_end + embargo_bars + lookback - 1`: the bars it then sees are all after
    the train window and the embargo. Raises BadObservation when not even one fold fits.
    """
    folds = []
    train_start = 0
    while True:
        train_end = train_start + config.train_bars
        test_start = train_end + config.embargo_bars + lookback - 1
        test_end = test_start + config.test_bars + 1
        if test_end > total_bars:
            break
        folds.append(Fold(train_start=train_start, train_end=train_end, test_start=test_start, test_end=test_end))
        train_start += config.test_bars
    if not folds:
        needed = config.train_bars + config.embargo_bars + lookback + config.test_bars
        raise BadObservation(f"{total_bars} bars, one fold of the walk-forward evaluation needs {needed}")
    return tuple(folds)


def walk_forward(
    bars: Bars,
    make_policy: MakePolicy,
    spec: ObservationSpec,
    config: WalkForwardConfig | None = None,
    *,
    other_seeds: Sequence[MakePolicy] = (),
) -> WalkForwardReport:
    """The report of a procedure that makes a policy from train bars, and the verdict on it.

    `spec` is what the policies observe. `other_seeds` are the same procedure with other seeds: without two of
    them the verdict on a trained policy is NOT ENOUGH DATA. The comparisons start at the same bars; the
    moving-average rule and volatility-targeted holding have the same limits and the same largest weight,
    buy-and-hold puts in everything and has no limits.
    """
    makers = {POLICY: make_policy} | {f"seed {k + 2}": maker for k, maker in enumerate(other_seeds)}
    walk = walk_all(bars, makers, spec, config)
    policy, baselines = walk.policies[POLICY], walk.baselines
    returns = zip(*(r.fold_returns_bps for r in (policy, *(baselines[name] for name in BASELINES))), strict=True)
    return WalkForwardReport(
        source=walk.source,
        purge_bars=walk.purge_bars,
        config=walk.config,
        policy=policy.performance,
        moving_average=baselines[MOVING_AVERAGE].performance,
        volatility_target=baselines[VOLATILITY_TARGET].performance,
        buy_and_hold=baselines[BUY_AND_HOLD].performance,
        folds=tuple(
            FoldResult(
                start_s=start_s, end_s=end_s, policy_bps=own, moving_average_bps=rule,
                volatility_target_bps=target, buy_and_hold_bps=hold,
            )
            for (start_s, end_s), (own, rule, target, hold) in zip(walk.spans_s, returns, strict=True)
        ),
        verdict=judge(walk.evidence(POLICY, seeds=tuple(makers) if walk.config.is_trained else ())),
    )  # fmt: skip


def walk_all(
    bars: Bars,
    makers: Mapping[str, MakePolicy],
    spec: ObservationSpec,
    config: WalkForwardConfig | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> Walk:
    """The records of several procedures that make policies of one spec, and of the baselines.

    `progress` is told after each fold of each procedure. Raises BadObservation when there are too few bars, or
    when a policy observes something else.
    """
    config = config or WalkForwardConfig()
    require_days(bars)
    folds = plan_folds(len(bars), spec.lookback, config)
    runs: dict[str, list[Backtest]] = {name: [] for name in (*makers, *BASELINES)}
    for number, fold in enumerate(folds):
        seen, action = bars.slice(0, fold.test_end), None
        for name, maker in makers.items():
            policy = maker(bars.slice(fold.train_start, fold.train_end))
            if policy.spec != spec:
                raise BadObservation("the policy of a fold observes something else than the spec of the evaluation")
            action = action or policy.action
            runs[name].append(run_backtest(policy, seen, config.backtest, start=fold.test_start))
            if progress:
                progress(f"{bars.source}: {name}, fold {number + 1} of {len(folds)}")
        for name, (rule, backtest) in simple_policies(action or ActionSpec(), bars.bar_s, config.backtest).items():
            runs[name].append(run_backtest(rule, seen, backtest, start=fold.test_start))
    times = [(bars.timestamps_s[fold.test_start : fold.test_end] + bars.bar_s).tolist() for fold in folds]
    records = {name: join_record(name, results, times) for name, results in runs.items()}
    return Walk(
        source=bars.source,
        config=config,
        purge_bars=spec.lookback,
        spans_s=tuple((span[0], span[-1]) for span in times),
        policies={name: records[name] for name in makers},
        baselines={name: records[name] for name in BASELINES},
    )


# The simple things to do instead


def baselines(action: ActionSpec, bar_s: int) -> tuple[Policy, Policy]:
    """The moving-average rule with this action's largest weight, and buy-and-hold of everything."""
    spec = baseline_spec(bar_s)
    rule = MovingAverageRule(spec, action, feature=spec.features[0])
    return rule, BuyAndHold(spec, ActionSpec(max_weight_bps=BPS, deadband_bps=0))


def simple_policies(
    action: ActionSpec, bar_s: int, backtest: BacktestConfig
) -> dict[str, tuple[Policy, BacktestConfig]]:
    """What a strategy has to be better than, each with the vault that it runs in. Cash needs no vault."""
    # Only the largest weight is the policy's: its deadband, or a weight too small to pay for gas, would decide how good
    # the others are.
    action = ActionSpec(max_weight_bps=max(action.max_weight_bps, LEAST_WEIGHT_BPS))
    rule, hold = baselines(action, bar_s)
    return {
        MOVING_AVERAGE: (rule, backtest),
        VOLATILITY_TARGET: (VolatilityTarget(baseline_spec(bar_s), action), backtest),
        BUY_AND_HOLD: (hold, replace(backtest, limits=UNLIMITED)),
    }


def day_unit(bar_s: int) -> int:
    """Bars of a day, but few enough that two weeks of them can be observed and enough for an average."""
    return min(max(DAY_S // bar_s, _SHORTEST_UNIT), (MAX_LOOKBACK - 1) // _LONGEST_UNITS)


def baseline_spec(bar_s: int) -> ObservationSpec:
    """What the rules look at: averages over a day and a week, and the volatility of a week."""
    day, week = day_unit(bar_s), 7 * day_unit(bar_s)
    features = (f"ma_cross_z:{day}:{week}", f"log_vol:{week}", "weight")
    return ObservationSpec(bar_s=bar_s, lookback=week + 1, vol_window=week, features=features)


class VolatilityTarget(_Base):
    """Holds the largest weight while the market is calm, and as much less as it is wilder than the target.

    weight = largest weight * min(1, target / volatility), both yearly, in integers to about 0.3 %. The
    volatility is the feature `log_vol` with the longest horizon of the spec.
    """

    def __init__(
        self, spec: ObservationSpec, action: ActionSpec | None = None, *, target_bps: int = TARGET_VOLATILITY_BPS
    ) -> None:
        super().__init__(spec, action)
        found = [(int(f.split(":")[1]), i) for i, f in enumerate(spec.features) if f.startswith("log_vol:")]
        if not found or not 0 < target_bps <= 100 * BPS:
            raise ValueError("volatility-targeted holding observes log_vol and has a target from 1 to 1000000 bps")
        self._position = max(found)[1]
        # log2(128 * target of one bar), as the feature has it.
        level_q24 = log2_q24(target_bps) - log2_q24(BPS) - log2_q24(YEAR_S // spec.bar_s) // 2 - _LOG2_LN2_Q24
        self._level = (level_q24 + _LOG2_OF_128_Q24) >> (Q24_BITS - spec.scale_bits)

    def wanted_weight_bps(self, vector: Sequence[int], weight_bps: int) -> int:
        excess = max(vector[self._position] - self._level, 0) << Q24_BITS >> self.spec.scale_bits
        return self.action.max_weight_bps * exp2_q12(excess >> (Q24_BITS - Q12_BITS)) >> Q12_BITS


def exp2_q12(excess_q12: int) -> int:
    """2**-x for x >= 0, both q12: a parabola through the exact values at 0, 0.5 and 1 more than a whole, to 0.0023."""
    whole, part = excess_q12 >> Q12_BITS, excess_q12 & ((1 << Q12_BITS) - 1)
    # 1 - 0.6716 x + 0.1716 x^2, rounded once so that it never rises.
    fall = ((2751 << Q12_BITS) - 703 * part) * part >> 2 * Q12_BITS
    return ((1 << Q12_BITS) - fall) >> whole


# Joining


def join_record(name: str, runs: Sequence[Backtest], times_s: Sequence[Sequence[int]]) -> Record:
    """The tests as one record; `times_s` are the closes of the bars of each."""
    values = join_values(runs)
    moments_s = [times_s[0][0]] + [moment for span in times_s for moment in span[1:]]
    return Record(
        name=name,
        times_s=tuple(moments_s),
        values=tuple(values),
        performance=join_runs(runs),
        fold_returns_bps=tuple(run.performance().total_return_bps for run in runs),
    )


def join_values(runs: Sequence[Backtest]) -> list[int]:
    """The values of runs played one after the other, each with what the one before left."""
    values = [runs[0].values[0]]
    for run in runs:
        base = values[-1]
        values += [base * value // run.values[0] for value in run.values[1:]]
    return values


def join_runs(runs: Sequence[Backtest]) -> Performance:
    """The figures of runs played one after the other, each with what the one before left."""
    weights = [0]
    for run in runs:
        weights += run.weights_bps[1:]
    return measure(
        join_values(runs),
        weights,
        bar_s=runs[0].bar_s,
        turnover_bps=sum(run.vault.turnover * BPS // max(sum(run.values) // len(run.values), 1) for run in runs),
        costs_bps=sum(run.vault.costs * BPS // run.values[0] for run in runs),
        trades=sum(run.vault.trades for run in runs),
    )


# Kinds with nothing in them that could be chosen to fit the bars.
_WITHOUT_CHOICE: Final = ("hold", "buy_and_hold")
_YEAR_10000_S: Final = 253_402_300_800


def seen_until_s(artefact: Artefact) -> int:
    """When the last bar that the artefact was made from ends. Raises BadObservation when it does not say so."""
    if artefact.kind in _WITHOUT_CHOICE:
        return 0
    try:
        ends_s = [one["end_s"] for one in artefact.provenance["data"]]
        if not all(isinstance(end_s, int) and 0 < end_s < _YEAR_10000_S for end_s in ends_s):
            raise TypeError
        return max(ends_s)
    except (KeyError, TypeError, ValueError):
        raise BadObservation(
            f"artefact {artefact.name} does not say which bars it was made from, so none is unseen: its provenance has "
            "no list `data` with an `end_s` for each"
        ) from None


def require_days(bars: Bars) -> None:
    """Raises BadObservation for bars that are longer than a day: what is judged is the returns of days."""
    if bars.bar_s > DAY_S:
        raise BadObservation(f"{bars.source} has bars of {bars.bar_s} s: give bars of a day ({DAY_S} s) or shorter")


def daily_returns(times_s: Sequence[int], values: Sequence[int]) -> tuple[IntArray, list[float]]:
    """The end of each UTC day with a bar in it, unix seconds, and the return since the last bar before that day.

    A close at midnight belongs to the day that ends. Days without a bar are not there: what moved in them is
    in the return of the next.
    """
    days = -(-np.asarray(times_s[1:], dtype=np.int64) // DAY_S)
    last = np.flatnonzero(np.append(np.diff(days) > 0, True)) + 1
    ends = [values[0], *(values[i] for i in last.tolist())]
    return days[last - 1] * DAY_S, [b / a - 1 if a else 0.0 for a, b in zip(ends, ends[1:], strict=False)]


def as_trials(records: Mapping[str, Record]) -> Trials:
    """The daily returns of records over the same bars."""
    days = {name: record.daily() for name, record in records.items()}
    return Trials(next(iter(days.values()))[0], {name: returns for name, (_, returns) in days.items()})


# Combinatorial purged cross-validation


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidationConfig:
    """Bars in `groups`, tested on `test_groups` of them at a time: 6 and 2 are 15 trainings and 5 paths."""

    groups: int = 6
    test_groups: int = 2
    embargo_bars: int = 48
    # A stretch to train on that is shorter than this is left out.
    min_train_bars: int = 0
    backtest: BacktestConfig = field(default_factory=BacktestConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathResult:
    """One record of all bars, put together from tests of policies that had not seen them. Yearly Sharpe ratios."""

    sharpe: float
    best_baseline: str
    best_baseline_sharpe: float
    total_return_bps: int
    max_drawdown_bps: int

    @property
    def excess(self) -> float:
        """Sharpe ratio less that of the best baseline on the same path; cash has 0."""
        return self.sharpe - self.best_baseline_sharpe


def cross_validate(
    bars: Bars,
    make_policy: MakePolicyFromRuns,
    spec: ObservationSpec,
    config: CrossValidationConfig | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> tuple[PathResult, ...]:
    """The paths of combinatorial purged cross-validation.

    The purge is the lookback. A policy may have been trained on bars after those it is tested on: this asks
    how much a result depends on the stretch of history, not how it would have been to live through it. Raises
    BadObservation when a training has no stretch left, BadRecord when groups are too short.
    """
    config = config or CrossValidationConfig()
    splits = combinatorial_splits(
        len(bars), groups=config.groups, test_groups=config.test_groups,
        purge_bars=spec.lookback, embargo_bars=config.embargo_bars,
    )  # fmt: skip
    paths: dict[int, dict[int, tuple[IntArray, Policy]]] = {}
    for number, split in enumerate(splits):
        runs = [bars.slice(a, b) for a, b in split.train_runs() if b - a >= max(config.min_train_bars, 1)]
        if not runs:
            raise BadObservation(f"split {number + 1} has no {config.min_train_bars} bars in a row to train on")
        policy = make_policy(runs)
        for group, path in zip(split.tests, split.paths, strict=True):
            paths.setdefault(path, {})[int(group[0])] = (group, policy)
        if progress:
            progress(f"{bars.source}: cross-validation, split {number + 1} of {len(splits)}")
    ordered = [[paths[path][first] for first in sorted(paths[path])] for path in sorted(paths)]
    # Every path tests the same groups of bars, so the baselines do the same on each.
    best = _best_baseline(bars, [group for group, _ in ordered[0]], ordered[0][0][1], config)
    return tuple(_run_path(bars, groups, best, config) for groups in ordered)


def _best_baseline(
    bars: Bars, groups: Sequence[IntArray], policy: Policy, config: CrossValidationConfig
) -> tuple[str, float]:
    """Name and yearly Sharpe ratio of the baseline that did best over all groups, cash included."""
    sharpes = {"cash": 0.0}
    for name, (rule, backtest) in simple_policies(policy.action, bars.bar_s, config.backtest).items():
        tests = [_test_group(bars, group, rule, policy.spec.lookback, backtest) for group in groups]
        sharpes[name] = _yearly_sharpe(join_record(name, *zip(*tests, strict=True)))
    return max(sharpes.items(), key=lambda item: (item[1], item[0]))


def _run_path(
    bars: Bars, groups: Sequence[tuple[IntArray, Policy]], best: tuple[str, float], config: CrossValidationConfig
) -> PathResult:
    tests = [_test_group(bars, group, policy, policy.spec.lookback, config.backtest) for group, policy in groups]
    record = join_record(POLICY, *zip(*tests, strict=True))
    return PathResult(
        sharpe=_yearly_sharpe(record),
        best_baseline=best[0],
        best_baseline_sharpe=best[1],
        total_return_bps=record.performance.total_return_bps,
        max_drawdown_bps=record.performance.max_drawdown_bps,
    )


def _test_group(
    bars: Bars, group: IntArray, policy: Policy, lookback: int, backtest: BacktestConfig
) -> tuple[Backtest, list[int]]:
    """A run over one group of bars, and their closes. The first group begins when there is history for everybody."""
    least = max(lookback, baseline_spec(bars.bar_s).lookback) - 1
    start, seen = max(int(group[0]), least), bars.slice(0, int(group[-1]) + 1)
    return run_backtest(policy, seen, backtest, start=start), (seen.timestamps_s[start:] + bars.bar_s).tolist()


def _yearly_sharpe(record: Record) -> float:
    return yearly(sharpe(np.array(record.daily()[1])), YEAR_S / DAY_S)


# For people


def format_report(report: dict[str, Any]) -> str:
    """The report of an artefact as a table."""
    # Artefacts from before volatility-targeted holding have no figures of it.
    names = [name for name in (POLICY, *BASELINES) if _key(name) in report]
    columns = {name: report[_key(name)] for name in names}
    rows = (
        ("total return", "total_return_bps", _percent),
        ("largest drawdown", "max_drawdown_bps", _percent),
        ("Sharpe ratio, yearly", "sharpe_e2", lambda number: f"{number / 100:.2f}"),
        ("bars that gained", "hit_rate_bps", _percent),
        ("turnover a year", "yearly_turnover_bps", lambda number: f"{number / BPS:.1f} x"),
        ("costs paid", "costs_bps", _percent),
        ("mean weight", "mean_weight_bps", _percent),
        ("trades", "trades", str),
    )
    lines = [
        f"{report['source']}: {len(report['folds'])} tests of {report['test_bars']} bars, each after "
        f"{report['train_bars']} bars of training and a purge of {report['purge_bars']} and "
        f"an embargo of {report.get('embargo_bars', 0)}; cash returns 0.0 %",
        "",
        f"{'':24}" + "".join(f"{name:>19}" for name in columns),
    ]
    for title, key, show in rows:
        lines.append(f"{title:24}" + "".join(f"{show(column[key]):>19}" for column in columns.values()))
    lines.append("")
    for fold in report["folds"]:
        span = f"{_date(fold['start_s'])} {_date(fold['end_s'])}"
        returns = (fold[f"{_key(name)}_bps"] for name in names)
        lines.append(f"{span:24}" + "".join(f"{_percent(number):>19}" for number in returns))
    if "verdict" in report:
        verdict = report["verdict"]
        lines += ["", f"Verdict: {verdict['outcome']}", *(f"  {reason}" for reason in verdict["reasons"])]
    lines += ["", f"Configurations tried before this one: {report['trials'] - 1}. {report['disclaimer']}"]
    return "\n".join(lines)


def _key(name: str) -> str:
    return name.replace(" ", "_")


def _percent(bps: int) -> str:
    return f"{bps / 100:.1f} %"


def _date(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, tz=UTC).strftime("%Y-%m-%d")
