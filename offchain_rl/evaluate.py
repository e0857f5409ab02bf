"""Walk-forward evaluation: train on one stretch, test on the next, move on, join the tests.

    |<------- train_bars ------->|<- purge ->|<- test_bars ->|
                     |<------- train_bars ------->|<- purge ->|<- test_bars ->|

The purge is the lookback of the observation, so that nothing a test decision looks at was trained on.
Each test starts a new vault in cash. The joined tests are one series of values, all of it out of sample
and after fees, slippage and gas, beside buy-and-hold, a moving-average rule and cash.

What such a report is not: a promise. It says how the procedure did on this data. Whoever tried many
procedures and shows the best has shown less than one who tried one; `trials` says how many it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from offchain_rl.artefact import ActionSpec
from offchain_rl.backtest import Backtest, BacktestConfig, Performance, measure, run_backtest
from offchain_rl.observation import BPS, BadObservation, ObservationSpec
from offchain_rl.policy import BuyAndHold, MovingAverageRule, Policy
from offchain_rl.prices import Bars
from offchain_rl.spot_vault import UNLIMITED

DISCLAIMER: Final = (
    "Out of sample, after fees, slippage and gas, on past prices. "
    "It describes what happened; it promises nothing about what will."
)
_BASELINE_SPEC: Final = ObservationSpec(lookback=337, vol_window=336, features=("ma_cross_z:48:336", "weight"))

# Gives the policy for a fold, trained on the bars it gets and on nothing else.
MakePolicy = Callable[[Bars], Policy]


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkForwardConfig:
    """Windows in bars. The defaults are a year and two months of half-hour bars."""

    train_bars: int = 17_520
    test_bars: int = 2_880
    backtest: BacktestConfig = field(default_factory=BacktestConfig)
    # Configurations tried on this or similar data before the one that is reported.
    trials: int = 1

    def __post_init__(self) -> None:
        if min(self.train_bars, self.test_bars, self.trials) < 1:
            raise ValueError("train_bars, test_bars and trials are at least 1")


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
    buy_and_hold_bps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkForwardReport:
    """The joined tests of a policy and of what it is compared with."""

    source: str
    purge_bars: int
    config: WalkForwardConfig
    policy: Performance
    moving_average: Performance
    buy_and_hold: Performance
    folds: tuple[FoldResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as it stands in an artefact: integers and texts."""
        costs, limits = self.config.backtest.costs, self.config.backtest.limits
        return {
            "buy_and_hold": self.buy_and_hold.to_dict(),
            "cash": {"max_drawdown_bps": 0, "total_return_bps": 0},
            "costs": {name: getattr(costs, name) for name in costs.__slots__},
            "disclaimer": DISCLAIMER,
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
        }

    def to_text(self) -> str:
        """A table for people."""
        return format_report(self.to_dict())


def plan_folds(total_bars: int, lookback: int, config: WalkForwardConfig) -> tuple[Fold, ...]:
    """The windows that fit, each test starting where the last one ended.

    A test decides first at `train_end + lookback - 1`: the bars it then sees are all after the train
    window. Raises BadObservation when not even one fold fits.
    """
    folds = []
    train_start = 0
    while True:
        train_end = train_start + config.train_bars
        test_start = train_end + lookback - 1
        test_end = test_start + config.test_bars + 1
        if test_end > total_bars:
            break
        folds.append(Fold(train_start=train_start, train_end=train_end, test_start=test_start, test_end=test_end))
        train_start += config.test_bars
    if not folds:
        needed = config.train_bars + lookback + config.test_bars
        raise BadObservation(f"{total_bars} bars, one fold of the walk-forward evaluation needs {needed}")
    return tuple(folds)


def walk_forward(
    bars: Bars, make_policy: MakePolicy, spec: ObservationSpec, config: WalkForwardConfig | None = None
) -> WalkForwardReport:
    """The report of a procedure that makes a policy from train bars.

    `spec` is what the policies observe. The comparisons start at the same bars; the moving-average rule
    has the same limits and the same largest weight, buy-and-hold puts in everything and has no limits.
    """
    config = config or WalkForwardConfig()
    folds = plan_folds(len(bars), spec.lookback, config)
    runs: list[list[Backtest]] = [[], [], []]
    for fold in folds:
        policy = make_policy(bars.slice(fold.train_start, fold.train_end))
        if policy.spec != spec:
            raise BadObservation("the policy of a fold observes something else than the spec of the evaluation")
        rule, hold = baselines(policy.action, bars.bar_s)
        unlimited = BacktestConfig(
            costs=config.backtest.costs, limits=UNLIMITED, start_quote=config.backtest.start_quote
        )
        tried = ((policy, config.backtest), (rule, config.backtest), (hold, unlimited))
        for results, (candidate, backtest) in zip(runs, tried, strict=True):
            results.append(run_backtest(candidate, bars.slice(0, fold.test_end), backtest, start=fold.test_start))
    returns = [[run.performance().total_return_bps for run in results] for results in runs]
    return WalkForwardReport(
        source=bars.source,
        purge_bars=spec.lookback,
        config=config,
        policy=join_runs(runs[0]),
        moving_average=join_runs(runs[1]),
        buy_and_hold=join_runs(runs[2]),
        folds=tuple(
            FoldResult(
                start_s=run.start_s, end_s=run.end_s, policy_bps=policy, moving_average_bps=rule, buy_and_hold_bps=hold
            )
            for run, policy, rule, hold in zip(runs[0], *returns, strict=True)
        ),
    )


def baselines(action: ActionSpec, bar_s: int) -> tuple[Policy, Policy]:
    """The moving-average rule with this action's largest weight, and buy-and-hold of everything."""
    spec = replace(_BASELINE_SPEC, bar_s=bar_s)
    return MovingAverageRule(spec, action), BuyAndHold(spec, ActionSpec(max_weight_bps=BPS, deadband_bps=0))


def join_runs(runs: Sequence[Backtest]) -> Performance:
    """The figures of runs played one after the other, each with what the one before left."""
    values, weights = [runs[0].values[0]], [0]
    for run in runs:
        base = values[-1]
        values += [base * value // run.values[0] for value in run.values[1:]]
        weights += run.weights_bps[1:]
    return measure(
        values,
        weights,
        bar_s=runs[0].bar_s,
        turnover_bps=sum(run.vault.turnover * BPS // max(sum(run.values) // len(run.values), 1) for run in runs),
        costs_bps=sum(run.vault.costs * BPS // run.values[0] for run in runs),
        trades=sum(run.vault.trades for run in runs),
    )


# For people


def format_report(report: dict[str, Any]) -> str:
    """The report of an artefact as a table."""
    columns = {
        "policy": report["policy"],
        "moving average": report["moving_average"],
        "buy and hold": report["buy_and_hold"],
    }
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
        f"{report['train_bars']} bars of training and a purge of {report['purge_bars']}; cash returns 0.0 %",
        "",
        f"{'':24}" + "".join(f"{name:>16}" for name in columns),
    ]
    for title, key, show in rows:
        lines.append(f"{title:24}" + "".join(f"{show(column[key]):>16}" for column in columns.values()))
    lines.append("")
    for fold in report["folds"]:
        span = f"{_date(fold['start_s'])} {_date(fold['end_s'])}"
        returns = (fold["policy_bps"], fold["moving_average_bps"], fold["buy_and_hold_bps"])
        lines.append(f"{span:24}" + "".join(f"{_percent(number):>16}" for number in returns))
    lines += ["", f"Configurations tried before this one: {report['trials'] - 1}. {report['disclaimer']}"]
    return "\n".join(lines)


def _percent(bps: int) -> str:
    return f"{bps / 100:.1f} %"


def _date(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, tz=UTC).strftime("%Y-%m-%d")
