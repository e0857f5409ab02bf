"""An observation is a function of public integers, the same bits one by one and all at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offchain_rl.observation import (
    BadObservation,
    BadSpec,
    ObservationSpec,
    VaultState,
    build_market_matrix,
    build_observation,
    feature_positions,
    fill_vault_features,
    market_feature_names,
    observation_hash,
)
from offchain_rl.prices import MAX_PRICE_E8, Bars

SPEC = ObservationSpec(
    lookback=9,
    vol_window=6,
    features=(
        "return_z:1",
        "return_z:8",
        "weight",
        "ma_distance_z:9",
        "ma_cross_z:2:9",
        "vol_ratio:2:8",
        "log_vol:4",
        "drawdown",
    ),
)
VAULT = VaultState(value=123_456_789, weight_bps=2_500, unit_price_wad=9 * 10**17, peak_wad=10**18)
ANSWERS = tuple(200_000_000_000 + 977_000_003 * (i * i % 7) for i in range(9))

PRICE = st.integers(1, MAX_PRICE_E8)
SHARE = st.integers(0, 30_000)
WAD = st.integers(0, 10**30)
VAULTS = st.builds(VaultState, value=WAD, weight_bps=SHARE, unit_price_wad=WAD, peak_wad=WAD)


# Refusals


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 2}, "observation spec version 2, this code knows 1"),
        ({"lookback": 1}, "lookback is 1"),
        ({"lookback": 5000}, "lookback is 5000"),
        ({"lookback": 9.0}, "lookback is 9.0"),
        ({"bar_s": 0}, "bar_s is 0"),
        ({"bar_s": True}, "bar_s is True"),
        ({"vol_window": 9}, "vol_window is 9, expected an integer from 1 to 8"),
        ({"scale_bits": 15}, "scale_bits is 15"),
        ({"features": ()}, "features is a tuple of 1 to 64 names"),
        ({"features": ["weight"]}, "features is a tuple"),
        ({"features": ("weight", "weight")}, "a feature is named twice"),
        ({"features": ("tomorrow:1",)}, "unknown feature 'tomorrow'"),
        ({"features": ("return_z",)}, "return_z takes 1 horizons, not 0"),
        ({"features": ("return_z:0",)}, "is not the name of a feature"),
        ({"features": ("return_z:١",)}, "is not the name of a feature"),
        ({"features": ("return_z:9",)}, "horizons go up to 8 with a lookback of 9"),
        ({"features": ("ma_distance_z:10",)}, "horizons go up to 9 with a lookback of 9"),
        ({"features": ("ma_cross_z:9:2",)}, "the first horizon is the shorter one"),
        ({"features": (1,)}, "1 is not the name of a feature"),
    ],
)
def test_spec_that_can_not_be_computed_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadSpec, match=sentence):
        replace(SPEC, **change)


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        (ANSWERS[1:], "8 answers, the spec asks for 9"),
        ((*ANSWERS, 1), "10 answers, the spec asks for 9"),
        ((0, *ANSWERS[1:]), "answer 0 is 0"),
        ((*ANSWERS[1:], -5), "answer 8 is -5"),
        ((*ANSWERS[1:], MAX_PRICE_E8 + 1), "answer 8 is"),
        ((*ANSWERS[1:], 2000.0), r"answer 8 is 2000\.0"),
        ((*ANSWERS[1:], True), "answer 8 is True"),
    ],
)
def test_answers_that_are_no_prices_are_refused(answers: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(BadObservation, match=sentence):
        build_observation(SPEC, answers, VAULT)


@pytest.mark.parametrize("change", [{"value": -1}, {"weight_bps": 0.5}, {"peak_wad": None}, {"value": 1 << 255}])
def test_vault_numbers_that_can_not_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadObservation, match=f"vault {next(iter(change))} is"):
        replace(VAULT, **change)


def test_series_too_short_or_without_a_price_is_refused() -> None:
    with pytest.raises(BadObservation, match="8 answers, the spec asks for 9"):
        build_market_matrix(SPEC, np.array(ANSWERS[1:]))
    with pytest.raises(BadObservation, match="not between 1 and"):
        build_market_matrix(SPEC, np.array([*ANSWERS, 0]))


# What it is


def test_observation_is_the_known_one() -> None:
    observation = build_observation(SPEC, ANSWERS, VAULT)
    assert SPEC.spec_hash().hex() == "1e120ee75e7c84973d40c24c3d567100cf5bdfadb5f700456cada76a12438722"
    assert observation.vector == (2324, 821, 1024, -511, -899, -3750, 3228, 409)
    assert observation_hash(observation) == "0xa84b4121b4d2b710c85900a729384c7c956e691ed0f55e992225952a7e9c7899"


def test_canonical_bytes_are_words_that_a_contract_can_pack() -> None:
    observation = build_observation(SPEC, ANSWERS, VAULT)
    content = observation.to_bytes()
    assert content[:24] == b"marketflow/observation/1"
    words = [int.from_bytes(content[i : i + 32], "big", signed=True) for i in range(56, len(content), 32)]
    assert words == [9, *ANSWERS, 123_456_789, 2_500, 9 * 10**17, 10**18, 8, *observation.vector]


def test_observation_hash_depends_on_every_input() -> None:
    observations = [
        build_observation(SPEC, ANSWERS, VAULT),
        build_observation(SPEC, (ANSWERS[0] + 1, *ANSWERS[1:]), VAULT),
        build_observation(replace(SPEC, bar_s=60), ANSWERS, VAULT),
        build_observation(SPEC, ANSWERS, replace(VAULT, value=VAULT.value + 1)),
        build_observation(SPEC, ANSWERS, replace(VAULT, weight_bps=2_501)),
        build_observation(SPEC, ANSWERS, replace(VAULT, unit_price_wad=VAULT.unit_price_wad + 1)),
        build_observation(SPEC, ANSWERS, replace(VAULT, peak_wad=VAULT.peak_wad + 1)),
    ]
    assert len({observation_hash(observation) for observation in observations}) == len(observations)


def test_vault_features_are_shares_of_one() -> None:
    vector = dict(zip(SPEC.features, build_observation(SPEC, ANSWERS, VAULT).vector, strict=True))
    assert vector["weight"] == 1024
    assert vector["drawdown"] == 409
    assert VaultState(value=0, weight_bps=0, unit_price_wad=0, peak_wad=0).drawdown_bps == 0


def test_price_that_stands_still_gives_zeros_and_the_lowest_volatility() -> None:
    vector = dict(zip(SPEC.features, build_observation(SPEC, (5,) * 9, VAULT).vector, strict=True))
    assert [vector[name] for name in ("return_z:1", "return_z:8", "ma_cross_z:2:9", "vol_ratio:2:8")] == [0, 0, 0, 0]
    assert vector["log_vol:4"] == -32768


def test_return_is_positive_after_a_rise_and_one_after_a_typical_move() -> None:
    steady = tuple(10**9 * 101**i // 100**i for i in range(9))
    vector = dict(zip(SPEC.features, build_observation(SPEC, steady, VAULT).vector, strict=True))
    assert abs(vector["return_z:1"] - 4096) <= 1
    assert abs(vector["return_z:8"] - 4096 * 8**0.5) < 10
    assert vector["ma_distance_z:9"] > 0
    assert vector["ma_cross_z:2:9"] > 0


def test_extreme_prices_saturate_instead_of_overflowing() -> None:
    vector = build_observation(SPEC, (1,) * 8 + (MAX_PRICE_E8,), VAULT).vector
    assert max(vector) == 32767
    assert min(vector) >= -32768


# The same bits


@given(st.lists(PRICE, min_size=9, max_size=30), VAULTS)
def test_rows_of_the_matrix_have_the_bits_of_single_observations(prices: list[int], vault: VaultState) -> None:
    matrix = build_market_matrix(SPEC, np.array(prices, dtype=np.int64))
    market, _ = feature_positions(SPEC)
    assert matrix.shape == (len(prices) - 8, len(market_feature_names(SPEC)))
    for i, row in enumerate(matrix.tolist()):
        vector = [0] * len(SPEC.features)
        for position, number in zip(market, row, strict=True):
            vector[position] = number
        expected = build_observation(SPEC, prices[i : i + 9], vault).vector
        assert tuple(fill_vault_features(SPEC, vector, vault)) == expected


@given(st.lists(PRICE, min_size=12, max_size=12), PRICE)
def test_later_price_changes_no_earlier_row(prices: list[int], other: int) -> None:
    matrix = build_market_matrix(SPEC, np.array(prices, dtype=np.int64))
    changed = build_market_matrix(SPEC, np.array([*prices[:-1], other], dtype=np.int64))
    assert matrix[:-1].tolist() == changed[:-1].tolist()


def test_default_spec_has_the_same_bits_on_a_long_series(create_bars: Callable[..., Bars]) -> None:
    spec, bars = ObservationSpec(), create_bars(1_000)
    matrix = build_market_matrix(spec, bars.close_e8)
    for bar in (672, 800, 999):
        observation = build_observation(spec, bars.close_e8[bar - 672 : bar + 1].tolist(), VAULT)
        assert observation.vector[:-2] == tuple(matrix[bar - 672].tolist())
