"""Every clause of the review, just inside and just outside. That it mirrors the vault is shown on a chain, in e2e."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from agents.constitution import BrokenClause, OperatorLimits, review
from agents.intent import Intent
from oracle.consensus import Consensus, ConsensusRules, SourcePrice, compare
from oracle.vault_state import Reason, VaultReading, VaultState
from tests.unit.oracle.readings import ARTEFACT_HASH, BTC, ETH, NOW_S, USD, WAD, position, reading

MILLION = 1_000_000 * USD
DAY_S = 86_400


def buy(value: int) -> Intent:
    return Intent(asset=ETH, is_buy=True, amount_in=value, min_amount_out=0, value=value)


def sell(eth: int, *, value: int | None = None) -> Intent:
    """`eth` in wei; worth 2,000 dollars for a whole one."""
    worth = -(-eth * 2000 * USD // WAD) if value is None else value
    return Intent(asset=ETH, is_buy=False, amount_in=eth, min_amount_out=0, value=worth)


def broken(intent: Intent, vault: VaultReading, *, artefact: str = ARTEFACT_HASH, **operator: int) -> list[str]:
    found = review(intent, vault, artefact_hash=artefact, operator=OperatorLimits(**operator))
    assert all(isinstance(b, BrokenClause) and b.detail for b in found)
    return [b.clause for b in found]


def rich(**over: Any) -> VaultReading:
    """A million dollars, 400,000 of it in ETH."""
    return reading(position(amount=200 * WAD), quote_held=600_000 * USD, **over)


def test_a_modest_trade_breaks_nothing() -> None:
    assert broken(buy(1000 * USD), rich()) == []
    assert broken(sell(WAD), rich()) == []


# What the vault is


def test_another_artefact_than_the_approved_one_is_denied_and_both_are_named() -> None:
    other = "0x" + "77" * 32
    [clause] = review(buy(USD), rich(), artefact_hash=other)
    assert clause == BrokenClause(clause="artefact", detail=f"loaded {other}, the DAO approved {ARTEFACT_HASH}")


@pytest.mark.parametrize("intent", [buy(USD), sell(WAD)])
def test_a_halted_vault_denies_everything(intent: Intent) -> None:
    vault = rich(state=VaultState.HALTED, reasons=int(Reason.HALTED | Reason.DRAWDOWN))
    assert broken(intent, vault)[0] == "halted"
    assert review(intent, vault, artefact_hash=ARTEFACT_HASH)[0].detail == "DRAWDOWN, HALTED"


@pytest.mark.parametrize("intent", [buy(USD), sell(WAD)])
@pytest.mark.parametrize("state", [VaultState.ACTIVE, VaultState.REDUCING])
def test_no_price_means_denied(intent: Intent, state: VaultState) -> None:
    vault = reading(position(amount=200 * WAD, price_usd=0), state=state)
    assert "price" in broken(intent, vault)


def test_a_reducing_vault_denies_purchases_and_takes_sales_beyond_every_limit_of_size() -> None:
    vault = rich(
        state=VaultState.REDUCING, reasons=int(Reason.DAY_LOSS), trades_today=99, turnover_today=99 * MILLION,
        slippage_level=MILLION, slippage_at_s=NOW_S, unit_price_wad=WAD // 2,
    )  # fmt: skip
    assert "reducing" in broken(buy(USD), vault)
    assert broken(sell(200 * WAD), vault, max_trade_bps=1, max_trades_per_day=1) == []


# What the sources say


def test_sources_that_disagree_deny_a_trade_but_no_way_out_of_a_vault_that_may_only_reduce() -> None:
    def consensus(*prices: int) -> Consensus:
        readings = [SourcePrice(source=f"source {p}", price=Fraction(p), age_s=0) for p in prices]
        return compare(ETH, rich().block, readings, ConsensusRules(min_sources=2))

    def clauses(intent: Intent, vault: VaultReading, *prices: int) -> list[str]:
        found = review(intent, vault, artefact_hash=ARTEFACT_HASH, consensus=consensus(*prices))
        return [b.clause for b in found]

    reducing = rich(state=VaultState.REDUCING, reasons=int(Reason.DAY_LOSS))
    for intent in (buy(USD), sell(WAD)):
        assert clauses(intent, rich(), 2000, 2001) == []
        assert clauses(intent, rich(), 2000, 3000) == ["consensus"]
    assert clauses(sell(WAD), reducing, 2000, 3000) == []
    assert clauses(buy(USD), reducing, 2000, 3000) == ["reducing", "consensus"]


# What is traded


def test_no_more_is_sold_than_is_held() -> None:
    assert broken(sell(200 * WAD), rich()) == []
    assert broken(sell(200 * WAD + 1), rich()) == ["holdings"]
    poor = reading(position(), position(BTC, amount=500 * WAD), quote_held=1000 * USD)
    assert broken(buy(1000 * USD), poor) == []
    assert broken(buy(1000 * USD + 1), poor) == ["holdings"]


def test_a_trade_smaller_than_the_operator_wants_is_dust() -> None:
    assert broken(buy(1000 * USD), rich(), min_trade_value=1000 * USD) == []
    assert broken(buy(1000 * USD - 1), rich(), min_trade_value=1000 * USD) == ["dust"]


def test_a_trade_larger_than_the_operator_wants_is_denied() -> None:
    assert broken(buy(10_000 * USD), rich(), max_trade_bps=100) == []
    assert broken(buy(10_000 * USD + 1), rich(), max_trade_bps=100) == ["trade size"]


# What the day allows: the stricter of chain and operator


@pytest.mark.parametrize(
    ("today", "operator", "expected"),
    [(9, 99, []), (10, 99, ["trades per day"]), (2, 3, []), (3, 3, ["trades per day"])],
)
def test_the_trades_of_a_day_are_counted(today: int, operator: int, expected: list[str]) -> None:
    assert broken(buy(USD), rich(trades_today=today), max_trades_per_day=operator) == expected


@pytest.mark.parametrize("intent", [buy(1000 * USD), sell(WAD // 2)])
def test_the_turnover_of_a_day_ends_at_its_share_of_the_value(intent: Intent) -> None:
    limit = 2 * MILLION
    assert broken(intent, rich(turnover_today=limit - 1000 * USD)) == []
    assert broken(intent, rich(turnover_today=limit - 1000 * USD + 1)) == ["turnover"]


# What the trade leaves behind


def test_a_position_ends_at_its_share_even_at_a_fill_better_than_the_oracle() -> None:
    """400,000 held; 600,000 are the limit. A fill 0.6 % better makes 198,807.157058 of quote worth 200,000."""
    most = 198_807_157_058
    assert broken(buy(most), rich()) == []
    assert broken(buy(most + 1), rich()) == ["position"]


def test_the_operator_can_want_a_smaller_position_but_no_larger_one() -> None:
    assert broken(buy(1000 * USD), rich(), max_position_bps=4000) == ["position"]
    assert broken(buy(300_000 * USD), rich(), max_position_bps=10_000) == ["position"]


def test_a_sale_is_never_too_large_a_position() -> None:
    assert broken(sell(WAD), rich(limits={"max_position_bps": 100})) == []


def test_slippage_of_the_past_is_counted_as_far_as_it_has_not_decayed() -> None:
    cap = MILLION // 100
    at_once = {"slippage_at_s": NOW_S}
    assert broken(buy(USD), rich(slippage_level=cap, **at_once)) == []
    assert broken(buy(USD), rich(slippage_level=cap + 1, **at_once)) == ["cumulative slippage"]
    a_day_ago = {"slippage_at_s": NOW_S - DAY_S}  # a seventh of the cap has decayed, rounded down
    decayed = cap // 7
    assert broken(buy(USD), rich(slippage_level=cap + decayed, **a_day_ago)) == []
    assert broken(buy(USD), rich(slippage_level=cap + decayed + 1, **a_day_ago)) == ["cumulative slippage"]
    assert broken(buy(USD), rich(slippage_level=10 * cap, slippage_at_s=NOW_S - 7 * DAY_S)) == []


def test_a_sale_has_the_sum_of_every_day_unless_there_is_an_emergency() -> None:
    """A window that is not settled yet is none; `StrategyVault._checkSlippage` would refuse the sale."""
    full = {"slippage_level": MILLION // 100 + 1, "slippage_at_s": NOW_S, "state": VaultState.REDUCING}
    assert broken(sell(WAD), rich(**full, reasons=int(Reason.UNSETTLED))) == ["cumulative slippage"]
    assert broken(sell(WAD), rich(**full, reasons=int(Reason.UNSETTLED | Reason.DAY_LOSS))) == []


@pytest.mark.parametrize(
    ("clause", "reference", "limit_bps"), [("daily loss", "reference_wad", 500), ("drawdown", "peak_wad", 1000)]
)
@pytest.mark.parametrize("intent", [buy(100_000 * USD), sell(50 * WAD)])
def test_a_loss_limit_holds_at_the_worst_fill_that_is_let_through(
    clause: str, reference: str, limit_bps: int, intent: Intent
) -> None:
    """100,000 traded at 0.6 % below the oracle cost 600 of a million, six basis points."""
    worst_wad = WAD * 9994 // 10_000
    edge = worst_wad * 10_000 // (10_000 - limit_bps)
    far = {"reference_wad": WAD, "peak_wad": WAD}
    assert broken(intent, rich(**far | {reference: edge})) == []
    assert broken(intent, rich(**far | {reference: edge + 2})) == [clause]


def test_a_price_above_the_peak_is_the_peak() -> None:
    vault = rich(unit_price_wad=2 * WAD, reference_wad=2 * WAD, limits={"max_drawdown_bps": 5})
    assert broken(buy(100_000 * USD), vault) == ["drawdown"]
    assert broken(buy(80_000 * USD), vault) == []


def test_a_vault_without_value_denies_without_dividing_by_it() -> None:
    empty = reading(quote_held=0)
    assert set(broken(buy(USD), empty)) >= {"holdings", "turnover", "position"}


def test_every_broken_clause_is_told_at_once() -> None:
    vault = rich(trades_today=10, turnover_today=2 * MILLION)
    assert broken(buy(700_000 * USD), vault) == ["holdings", "trades per day", "turnover", "position"]


def test_reviewing_changes_nothing() -> None:
    vault = rich()
    before = replace(vault)
    review(buy(700_000 * USD), vault, artefact_hash=ARTEFACT_HASH)
    assert vault == before
