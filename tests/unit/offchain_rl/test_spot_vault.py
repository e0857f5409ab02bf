"""The model of the vault never gives value away, and its limits bind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offchain_rl.spot_vault import DAY_S, UNLIMITED, Costs, Limits, SpotVault, open_vault, step_vault

PRICE = 2_000 * 10**8
START = 100_000 * 10**6
FREE = Costs(fee_bps=0, slippage_bps=0, gas_quote=0)
COSTS = Costs(fee_bps=30, slippage_bps=20, gas_quote=10**6)
NOON = 19_000 * DAY_S + DAY_S // 2


def create_vault(**changes: Any) -> SpotVault:
    return open_vault(quote=START, price_e8=PRICE, close_s=changes.pop("close_s", NOON))


def step(vault: SpotVault, target_bps: int | None, **changes: Any) -> SpotVault:
    arguments: dict[str, Any] = {
        "fill_price_e8": vault.price_e8,
        "close_price_e8": vault.price_e8,
        "close_s": NOON + 1800,
        "costs": FREE,
        "limits": UNLIMITED,
    }
    return step_vault(vault, target_bps, **{**arguments, **changes})


# Refusals


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Costs(fee_bps=10_000), "fee_bps lies between"),
        (lambda: Costs(slippage_bps=-1), "slippage_bps lies between"),
        (lambda: Costs(gas_quote=-1), "gas_quote is not negative"),
        (lambda: Limits(max_weight_bps=10_001), "max_weight_bps lies between"),
        (lambda: Limits(max_drawdown_bps=0), "max_drawdown_bps lies between"),
        (lambda: open_vault(quote=0, price_e8=1, close_s=0), "a vault starts with some quote"),
    ],
)
def test_impossible_settings_are_refused(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def test_fill_too_far_from_the_round_does_not_happen_but_costs_gas() -> None:
    limits = Limits(max_trade_slippage_bps=100)
    vault = step(create_vault(), 5_000, fill_price_e8=PRICE * 102 // 100, limits=limits, costs=COSTS)
    assert (vault.asset_wad, vault.quote, vault.refused, vault.trades) == (0, START - 10**6, 1, 0)
    holding = step(create_vault(), 5_000)
    vault = step(holding, 0, fill_price_e8=PRICE * 98 // 100, limits=limits, costs=COSTS)
    assert (vault.asset_wad, vault.refused) == (holding.asset_wad, 1)


def test_nothing_is_bought_above_the_largest_weight() -> None:
    assert step(create_vault(), 9_000, limits=Limits(max_weight_bps=4_000)).weight_bps == 4_000


def test_day_turns_over_no_more_than_allowed_and_the_next_day_again() -> None:
    limits = Limits(max_turnover_bps=3_000)
    vault = step(create_vault(), 5_000, limits=limits)
    assert vault.weight_bps == 3_000
    assert step(vault, 5_000, limits=limits).weight_bps == 3_000
    assert step(vault, 0, limits=limits).weight_bps == 3_000
    tomorrow = step(vault, None, limits=limits, close_s=NOON + DAY_S)
    assert step(tomorrow, 5_000, limits=limits, close_s=NOON + DAY_S).weight_bps == 5_000


def test_past_the_daily_loss_the_asset_is_sold_and_bought_again_only_tomorrow() -> None:
    limits = Limits(max_daily_loss_bps=300, max_turnover_bps=6_000, max_drawdown_bps=5_000)
    vault = step(create_vault(), 5_000, close_price_e8=PRICE * 93 // 100, limits=limits)
    assert vault.is_past_daily_loss(limits)
    # The sale is exempt from turnover.
    sold = step(vault, 5_000, limits=limits)
    assert (sold.asset_wad, sold.is_stopped) == (0, False)
    assert step(sold, 5_000, limits=limits).asset_wad == 0
    # The reference covers today and yesterday; the day after tomorrow the loss is history.
    tomorrow = step(sold, None, limits=limits, close_s=NOON + DAY_S)
    later = step(tomorrow, None, limits=limits, close_s=NOON + 2 * DAY_S)
    assert step(tomorrow, 5_000, limits=limits, close_s=NOON + DAY_S).asset_wad == 0
    assert step(later, 5_000, limits=limits, close_s=NOON + 2 * DAY_S).asset_wad > 0


def test_past_the_drawdown_limit_nothing_is_bought_any_more() -> None:
    limits = Limits(max_drawdown_bps=500, max_daily_loss_bps=10_000)
    vault = step(create_vault(), 5_000, close_price_e8=PRICE * 89 // 100, limits=limits)
    assert vault.is_stopped
    sold = step(vault, None, limits=limits)
    assert sold.asset_wad == 0
    recovered = step(sold, 5_000, close_price_e8=2 * PRICE, limits=limits, close_s=NOON + 30 * DAY_S)
    assert (recovered.asset_wad, recovered.is_stopped) == (0, True)


# What a trade does


def test_trade_pays_fee_slippage_and_gas() -> None:
    vault = step(create_vault(), 5_000, costs=COSTS)
    spent = START // 2
    assert vault.quote == START - spent - 10**6
    assert vault.asset_wad == spent * 9_970 // 10_000 * 10**20 // (PRICE * 10_020 // 10_000)
    assert vault.costs == START - vault.value or abs(vault.costs - (START - vault.value)) <= 1
    assert (vault.turnover, vault.trades) == (spent, 1)


def test_fill_price_and_not_the_close_is_what_is_paid() -> None:
    vault = step(create_vault(), 5_000, fill_price_e8=PRICE * 2, close_price_e8=PRICE * 4)
    assert vault.asset_wad == START // 2 * 10**20 // (2 * PRICE)
    assert vault.value == START // 2 * 3


def test_all_money_can_be_spent_but_not_the_gas() -> None:
    vault = step(create_vault(), 10_000, costs=COSTS)
    assert vault.quote == 0
    assert vault.asset_wad > 0


def test_sale_that_does_not_pay_for_its_gas_is_not_made() -> None:
    vault = step(create_vault(), 1)
    assert step(vault, 0, costs=Costs(gas_quote=START)) == vault


def test_drawdown_and_observation_follow_the_value() -> None:
    vault = step(create_vault(), 10_000, close_price_e8=PRICE * 9 // 10)
    state = vault.observe()
    assert (state.value, state.weight_bps, state.drawdown_bps) == (START * 9 // 10, 10_000, 1_000)
    assert (state.unit_price_wad, state.peak_wad) == (9 * 10**17, 10**18)


STEPS = st.lists(
    st.tuples(
        st.none() | st.integers(-500, 11_000),
        st.integers(-2_000, 2_000),
        st.integers(-2_000, 2_000),
        st.integers(1, 200),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150)
@given(
    STEPS,
    st.builds(Costs, fee_bps=st.integers(0, 300), slippage_bps=st.integers(0, 300), gas_quote=st.integers(0, 10**9)),
)
def test_vault_never_owes_never_exceeds_its_weight_by_trading_and_accounts_for_every_unit(
    steps: list[tuple[int | None, int, int, int]], costs: Costs
) -> None:
    limits = Limits(max_weight_bps=6_000, max_trade_slippage_bps=5_000)
    vault, close_s = create_vault(), NOON
    for target, gap_bps, move_bps, half_hours in steps:
        close_s += 1800 * half_hours
        fill = vault.price_e8 * (10_000 + gap_bps) // 10_000
        traded = step(vault, target, fill_price_e8=fill, limits=limits, costs=costs, close_s=close_s)
        assert traded.quote >= 0
        assert traded.asset_wad >= 0
        # At the price it was filled at, a trade costs exactly what is booked as costs, up to rounding.
        at_fill = [v.quote + v.asset_wad * fill // 10**20 for v in (vault, traded)]
        assert 0 <= at_fill[0] - at_fill[1] <= traded.costs - vault.costs + 2
        if traded.asset_wad > vault.asset_wad and gap_bps >= 0:
            assert (
                traded.weight_bps
                <= 6_000 + costs.fee_bps + costs.slippage_bps + costs.gas_quote * 10_000 // traded.value + 1
            )
        assert traded.peak_value >= traded.value
        vault = step(
            traded,
            None,
            close_price_e8=fill * (10_000 + move_bps) // 10_000,
            limits=limits,
            costs=costs,
            close_s=close_s,
        )
