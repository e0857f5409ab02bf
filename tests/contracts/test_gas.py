"""Nobody's transaction grows unnoticed: gas_snapshot.json is what `gas_table.py` measured last.

A row that moved is either a mistake, or meant: then `make gas` writes the snapshot anew, and its diff is part of the
change.
"""

from __future__ import annotations

import pytest

from agents.localnet.anvil import find_anvil
from tests.contracts.gas_table import RATIOS, TOLERANCE_BPS, Gas, measure, moved, read_snapshot, table


@pytest.fixture(scope="module")
def measured() -> Gas:
    return measure("py-evm")


def test_no_transaction_costs_more_or_less_than_its_snapshot(measured: Gas) -> None:
    changed = moved(read_snapshot(), measured)
    assert not changed, "\n".join(
        [f"moved by more than {TOLERANCE_BPS / 100:g} %; if that is meant, run `make gas`:", *changed]
    )


@pytest.mark.skipif(find_anvil() is None, reason="anvil is not installed")
def test_both_evms_charge_the_same_to_the_unit(measured: Gas) -> None:
    assert measure("anvil") == measured


def test_a_row_that_is_new_gone_or_further_off_than_the_tolerance_is_named() -> None:
    before, now = {"a": 10_000, "b": 10_000, "c": 10_000, "d": 5}, {"a": 10_200, "b": 10_201, "c": 9_799, "e": 7}
    assert moved(before, now) == [
        "b: 10,000 -> 10,201 (+2.0%)", "c: 10,000 -> 9,799 (-2.0%)", "d: gone, was 5", "e: new, 7",
    ]  # fmt: skip
    assert moved(before, before) == []


def test_the_table_shows_a_trade_as_a_multiple_of_a_bare_swap() -> None:
    swap, trade = "bare swap: buy", "trade: buy, one asset"
    assert RATIOS[trade] == swap
    lines = table({trade: 250, swap: 100}, before={trade: 260}).splitlines()
    assert lines[1].split()[-3:] == ["250", "2.50", "-10"]
