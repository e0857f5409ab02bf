"""RewardPool, what an agent must leave behind: collateral for the worst case, retirement, debt, and the next vault.

Collateral (bond + unclaimed) covers rate x max(0, A - Pmin), where Pmin is P at the hard drawdown limit, less the
auction's largest discount and a gap allowance, or P itself where that is lower.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from oracle.vault_state import Reason, VaultState
from tests.contracts.world import (
    DAY_S,
    LIMITS,
    REWARD_RATE,
    RULES,
    WAD,
    EventLog,
    Strategy,
    World,
    none_of,
    one,
    struct,
    tokens,
    usd,
)  # fmt: skip

EVERYTHING = 2**255
BPS = 10_000


def worst_value(value: int) -> int:
    """What capital is worth when the guard has done its work, each step rounded down."""
    for loss_bps in (LIMITS.hard_drawdown_bps, RULES.auction_max_discount_bps, RULES.gap_allowance_bps):
        value = value * (BPS - loss_bps) // BPS
    return value


def worst_profit(world: World, s: Strategy) -> int:
    book, guard = world.view(s.vault.functions.book()), world.view(s.vault.functions.guard())
    value_at = lambda unit_price: book.units * unit_price // (WAD * 10**12)  # noqa: E731
    return min(worst_value(value_at(guard.peak)), value_at(guard.lastUnitPrice)) + book.netFlow


def required(world: World, s: Strategy) -> int:
    account = world.account(s)
    return account.rate * max(0, account.credited - worst_profit(world, s))


def releasable(world: World, s: Strategy) -> int:
    return int(world.view(world.pool.functions.releasableBond(s.agent_id)))


def withdraw_bond(world: World, s: Strategy, amount: int) -> list[EventLog]:
    return world.send(world.agents.functions.withdrawBond(s.agent_id, amount), world.controller)


def slash_to(world: World, s: Strategy, bond: int) -> None:
    world.as_timelock(world.agents.functions.slashBond(s.agent_id, world.bond_of(s.agent_id) - bond))


def settle_at(world: World, s: Strategy, price_usd: int) -> int:
    world.set_price("ETH", price_usd, pool_follows=False)
    return world.settle(s)


@pytest.fixture
def invested(world: World, strategy: Strategy) -> Strategy:
    world.buy(strategy, usd(500_000))
    return strategy


@pytest.fixture
def thinly_bonded(world: World) -> Strategy:
    s = world.deploy_strategy(world.register_agent(bond_wei=tokens(24_000)))
    world.buy(s, usd(500_000))
    return s


@pytest.fixture(autouse=True)
def books_balance(world: World) -> Iterator[None]:
    yield
    world.assert_books_balance()


# --------------------------------------------------------------------------- collateral


def test_bond_needed_for_a_new_vault_is_the_worst_case_of_its_capital(world: World, strategy: Strategy) -> None:
    expected = REWARD_RATE * (usd(1_000_000) - worst_value(usd(1_000_000)))
    assert required(world, strategy) == expected
    other = world.register_agent(world.other_controller, world.other_signer, bond_wei=0)
    needed = world.view(world.strategies.functions.bondNeeded(struct(world.manifest(other))))
    assert needed == expected
    assert releasable(world, strategy) == world.bond_of(strategy.agent_id) - expected


@pytest.mark.parametrize("prices", [(2100,), (1950,), (2100, 2050), (1900, 2000), (2150, 2150, 1700), (1000,)])
def test_releasable_bond_follows_the_formula_after_every_settlement(
    world: World, invested: Strategy, prices: tuple[int, ...]
) -> None:
    for price in prices:
        settle_at(world, invested, price)
        account, bond = world.account(invested), world.bond_of(invested.agent_id)
        assert world.view(invested.vault.functions.worstProfit()) == worst_profit(world, invested)
        held = account.unvested + account.vested + bond
        excess = max(0, held - required(world, invested))
        assert releasable(world, invested) == min(excess, max(0, bond - RULES.min_bond_wei))


def test_flows_change_what_must_be_covered(world: World, invested: Strategy) -> None:
    before = required(world, invested)
    world.as_timelock(world.treasury.functions.allocate(invested.id, usd(500_000)))
    more = required(world, invested) - before
    at_par = REWARD_RATE * (usd(500_000) - worst_value(usd(500_000)))
    assert at_par * 99 // 100 < more < at_par, "the new units' peak is above what was paid for them"
    assert releasable(world, invested) == world.bond_of(invested.agent_id) - before - more
    world.as_timelock(world.treasury.functions.recall(invested.id, world.book.quote, usd(500_000), 0))
    assert before <= required(world, invested) <= before + REWARD_RATE


@pytest.mark.parametrize("missing", [0, 1])
def test_below_its_collateral_a_vault_only_reduces(world: World, invested: Strategy, missing: int) -> None:
    slash_to(world, invested, required(world, invested) - missing)
    status = world.status(invested)
    expected = (VaultState.REDUCING, Reason.COLLATERAL) if missing else (VaultState.ACTIVE, 0)
    assert (status.state, status.reasons) == expected
    events = world.buy(invested, usd(1_000))
    assert none_of(events, "TradeRefused") == (not missing)


def test_more_bond_ends_the_lack_of_collateral(world: World, invested: Strategy) -> None:
    slash_to(world, invested, required(world, invested) - 1)
    assert world.status(invested).reasons == Reason.COLLATERAL
    world.post_bond(invested.agent_id, 1, world.controller)
    assert world.status(invested).reasons == 0


def test_what_is_unclaimed_counts_as_collateral(world: World, invested: Strategy) -> None:
    settle_at(world, invested, 2100)
    account = world.account(invested)
    slash_to(world, invested, required(world, invested) - account.unvested - account.vested)
    assert world.status(invested).reasons == 0
    assert releasable(world, invested) == 0
    with world.reverts("RewardPoolNothingToClaim", vault=invested.vault.address):
        world.send(world.pool.functions.claim(invested.vault.address), world.controller)


# ----------------------------------------------------------------------- bond withdrawal


def test_more_than_the_excess_is_not_released(world: World, invested: Strategy) -> None:
    excess = world.bond_of(invested.agent_id) - required(world, invested)
    with world.reverts(
        "AgentRegistryNotReleasable", agentId=invested.agent_id, requested=excess + 1, releasable=excess
    ):
        withdraw_bond(world, invested, excess + 1)


def test_the_excess_is_released(world: World, invested: Strategy) -> None:
    needed = required(world, invested)
    excess = world.bond_of(invested.agent_id) - needed
    before = world.view(world.token.functions.balanceOf(world.controller.address))
    withdrawn = one(withdraw_bond(world, invested, excess), "BondWithdrawn")
    assert withdrawn == {"agentId": invested.agent_id, "to": world.controller.address, "amount": excess}
    assert world.view(world.token.functions.balanceOf(world.controller.address)) == before + excess
    assert world.bond_of(invested.agent_id) == needed
    assert world.status(invested).reasons == 0, "exactly enough is enough"
    with world.reverts("AgentRegistryNotReleasable", agentId=invested.agent_id, requested=1, releasable=0):
        withdraw_bond(world, invested, 1)


def test_a_live_vault_keeps_the_least_bond_however_little_it_risks(world: World) -> None:
    s = world.deploy_strategy(capital=usd(10_000))
    assert required(world, s) < RULES.min_bond_wei
    excess = tokens(50_000) - RULES.min_bond_wei
    assert releasable(world, s) == excess
    withdraw_bond(world, s, excess)
    with world.reverts("AgentRegistryNotReleasable", agentId=s.agent_id, requested=1, releasable=0):
        withdraw_bond(world, s, 1)


def test_bond_release_counts_a_fall_that_nobody_has_poked_yet(world: World, invested: Strategy) -> None:
    before = releasable(world, invested)
    world.set_price("ETH", 1000, pool_follows=False)
    loss = -world.status(invested).profit
    expected = tokens(50_000) - loss * REWARD_RATE
    assert releasable(world, invested) == expected < before
    with world.reverts(
        "AgentRegistryNotReleasable", agentId=invested.agent_id, requested=before, releasable=expected
    ):
        withdraw_bond(world, invested, before)


def test_without_a_price_no_bond_is_released(world: World, strategy: Strategy) -> None:
    world.buy(strategy, usd(1_000))  # little enough to be covered if it were worth nothing
    world.evm.travel(DAY_S)
    with world.reverts("AgentRegistryNotReleasable", agentId=strategy.agent_id, requested=1, releasable=0):
        withdraw_bond(world, strategy, 1)
    world.refresh()
    withdraw_bond(world, strategy, 1)


def test_bond_without_a_vault_is_free(world: World) -> None:
    agent_id = world.register_agent()
    assert world.view(world.pool.functions.releasableBond(agent_id)) == tokens(50_000)
    assert world.view(world.pool.functions.debtOf(agent_id)) == 0
    world.send(world.agents.functions.withdrawBond(agent_id, tokens(50_000)), world.controller)
    assert world.bond_of(agent_id) == 0


# --------------------------------------------------------------------------- retirement


def retire(world: World, s: Strategy) -> None:
    world.as_timelock(world.strategies.functions.retire(s.id))


def recall_everything(world: World, s: Strategy) -> None:
    for token in (world.token_of("ETH"), world.book.quote):
        world.as_timelock(world.treasury.functions.recall(s.id, token, EVERYTHING, 0))


def finish(world: World, s: Strategy) -> list[EventLog]:
    return world.send(world.strategies.functions.finishRetirement(s.id), world.stranger)


def retire_fully(world: World, s: Strategy) -> None:
    retire(world, s)
    recall_everything(world, s)
    world.settle(s)
    finish(world, s)


def test_a_vault_that_holds_something_is_not_finished(world: World, invested: Strategy) -> None:
    retire(world, invested)
    world.settle(invested)
    with world.reverts("StrategyRegistryNotFinished", strategyId=invested.id):
        finish(world, invested)


def test_an_empty_vault_is_not_finished_before_a_window_was_settled(world: World, invested: Strategy) -> None:
    world.settle(invested)
    retire(world, invested)
    recall_everything(world, invested)
    with world.reverts("StrategyRegistryNotFinished", strategyId=invested.id):
        finish(world, invested)
    world.to_next_window()
    world.poke(invested)
    world.to_window_end()
    with world.reverts("StrategyRegistryNotFinished", strategyId=invested.id):
        finish(world, invested)


def test_the_window_in_which_a_vault_was_emptied_does_not_finish_it(world: World, invested: Strategy) -> None:
    retire(world, invested)
    world.to_next_window()
    world.observe_at(invested, 2000)
    recall_everything(world, invested)
    world.to_window_end()
    world.apply(invested, world.close(invested))
    with world.reverts("StrategyRegistryNotFinished", strategyId=invested.id):
        finish(world, invested)
    world.settle(invested)
    finish(world, invested)


@pytest.mark.parametrize(("second", "is_whole"), [(-1, True), (0, True), (1, False)])
def test_a_window_counts_from_its_first_second(world: World, invested: Strategy, second: int, is_whole: bool) -> None:
    retire(world, invested)
    start_s = world.epoch_start_s(world.current_epoch() + 1)
    world.travel_to(start_s - 60)
    world.as_timelock(world.treasury.functions.recall(invested.id, world.token_of("ETH"), EVERYTHING, 0))
    world.evm.next_block_at(start_s + second)
    world.as_timelock(world.treasury.functions.recall(invested.id, world.book.quote, EVERYTHING, 0))
    world.poke(invested)
    world.to_window_end()
    world.apply(invested, world.close(invested))
    if is_whole:
        assert one(finish(world, invested), "StrategyRetired")
        return
    with world.reverts("StrategyRegistryNotFinished", strategyId=invested.id):
        finish(world, invested)


def test_a_last_result_must_be_applied_before_retirement_ends(world: World, invested: Strategy) -> None:
    retire(world, invested)
    recall_everything(world, invested)
    world.to_next_window()
    world.poke(invested)
    world.to_window_end()
    move = world.close(invested)
    with world.reverts("StrategyRegistryNotFinished", strategyId=invested.id):
        finish(world, invested)
    world.apply(invested, move)
    finish(world, invested)


def test_while_it_retires_the_bond_covers_what_is_not_settled(world: World, invested: Strategy) -> None:
    settle_at(world, invested, 2100)
    retire(world, invested)
    world.set_price("ETH", 1900, pool_follows=False)
    recall_everything(world, invested)
    account = world.account(invested)
    loss = account.credited - world.status(invested).profit
    unclaimed = account.unvested + account.vested
    assert loss * REWARD_RATE > unclaimed
    assert releasable(world, invested) == tokens(50_000) + unclaimed - loss * REWARD_RATE


def test_retirement_is_finished_by_anybody_and_frees_bond_and_budget(world: World, invested: Strategy) -> None:
    settle_at(world, invested, 2100)
    retire(world, invested)
    recall_everything(world, invested)
    world.settle(invested)
    free, caps = world.view(world.pool.functions.free()), world.view(world.pool.functions.sumOfCaps())
    events = finish(world, invested)
    assert one(events, "VaultReleased") == {"vault": invested.vault.address, "agentId": invested.agent_id}
    assert one(events, "StrategyRetired") == {"strategyId": invested.id}
    account = world.account(invested)
    assert (account.live, account.cap, account.earmark) == (False, 0, 0)
    assert world.view(world.pool.functions.free()) == free + tokens(5_000)
    assert world.view(world.pool.functions.sumOfCaps()) == caps - tokens(5_000)
    bond = world.bond_of(invested.agent_id)
    assert releasable(world, invested) == bond
    withdraw_bond(world, invested, bond)
    deposit = world.view(world.agents.functions.agentOf(invested.agent_id)).deposit
    world.send(world.agents.functions.withdrawDeposit(invested.agent_id, deposit), world.controller)


def test_a_vault_sold_by_auction_retires_with_the_auction_in_its_profit(world: World, invested: Strategy) -> None:
    retire(world, invested)
    world.travel(3600)  # the discount has begun to grow
    world.market.give_quote(world.bidder, usd(1_000_000))
    world.send(world.quote.functions.approve(invested.vault.address, usd(1_000_000)), world.bidder)
    while world.held(invested):
        fill = invested.vault.functions.fillAuction(world.token_of("ETH"), usd(1_000_000))
        world.send(fill, world.bidder)
        world.new_round()
    world.as_timelock(world.treasury.functions.recall(invested.id, world.book.quote, EVERYTHING, 0))
    recalled = world.view(invested.vault.functions.book()).netFlow
    assert world.settle(invested) == recalled < 0, "all of it is realised"
    finish(world, invested)
    assert world.account(invested).credited == recalled


def test_a_released_vault_owes_no_windows(world: World, invested: Strategy) -> None:
    retire_fully(world, invested)
    world.to_next_window()
    world.to_window_end()
    assert world.view(world.pool.functions.isSettled(invested.agent_id))
    withdraw_bond(world, invested, world.bond_of(invested.agent_id))


def test_a_released_vault_earns_nobody_a_bounty(world: World, invested: Strategy) -> None:
    retire_fully(world, invested)
    fund = world.view(world.pool.functions.bountyFund())
    world.to_next_window()
    assert one(world.poke(invested, world.observer), "ProfitObserved"), "it may be observed"
    world.to_window_end()
    assert world.close(invested) == 0, "and closed"
    assert world.view(world.pool.functions.bountyFund()) == fund


def test_a_vault_that_cannot_be_observed_retires_by_vote(world: World, invested: Strategy) -> None:
    retire(world, invested)
    recall_everything(world, invested)
    for _ in range(3):
        world.to_next_window()
        world.set_price(world.book.quote_symbol, "0.90")
        assert none_of(world.poke(invested), "ProfitObserved"), "the quote token has lost its peg"
    world.to_window_end()
    loss = world.view(invested.vault.functions.book()).netFlow
    world.as_timelock(world.pool.functions.closeByVote(invested.vault.address, loss))
    world.apply(invested, loss)
    finish(world, invested)
    withdraw_bond(world, invested, world.bond_of(invested.agent_id))


# ------------------------------------------------------------------------ the next vault


def second_manifest(world: World, s: Strategy) -> dict:
    return world.manifest(s.agent_id, salt=b"second".ljust(32, b"\0"))


def deploy_second(world: World, s: Strategy) -> Strategy:
    return world.deploy_strategy(s.agent_id, salt=b"second".ljust(32, b"\0"))


def test_an_agent_with_a_live_vault_gets_no_second_one(world: World, invested: Strategy) -> None:
    with world.reverts("StrategyRegistryAgentBusy", agentId=invested.agent_id, strategyId=invested.id):
        world.submit(second_manifest(world, invested))


def test_of_two_approved_strategies_of_one_agent_only_one_is_deployed(world: World) -> None:
    agent_id = world.register_agent()
    first, second = (world.submit(world.manifest(agent_id, salt=bytes([n]) * 32)) for n in (1, 2))
    for strategy_id in (first, second):
        world.as_timelock(world.strategies.functions.approve(strategy_id))
    world.as_timelock(world.factory.functions.deployVault(first))
    with world.reverts("StrategyRegistryAgentBusy", agentId=agent_id, strategyId=first):
        world.as_timelock(world.factory.functions.deployVault(second))


def test_a_retiring_vault_is_still_the_agents_only_one(world: World, invested: Strategy) -> None:
    retire(world, invested)
    recall_everything(world, invested)
    world.settle(invested)
    with world.reverts("StrategyRegistryAgentBusy", agentId=invested.agent_id, strategyId=invested.id):
        world.submit(second_manifest(world, invested))


def test_the_next_vault_begins_a_new_account(world: World, invested: Strategy) -> None:
    settle_at(world, invested, 2100)
    retire_fully(world, invested)
    second = deploy_second(world, invested)
    assert world.view(world.pool.functions.vaultOf(invested.agent_id)) == second.vault.address
    account = world.account(second)
    assert (account.credited, account.unvested, account.vested, account.live) == (0, 0, 0, True)


def test_what_an_old_vault_owes_is_still_paid_after_the_agent_has_a_new_one(world: World, invested: Strategy) -> None:
    settle_at(world, invested, 2100)
    retire_fully(world, invested)
    second = deploy_second(world, invested)
    world.buy(second, usd(100_000))
    old = world.account(invested)
    for _ in range(5):
        world.settle(second)
    claimed = one(world.send(world.pool.functions.claim(invested.vault.address), world.relayer), "Claimed")
    assert claimed == {
        "vault": invested.vault.address, "agentId": invested.agent_id, "to": world.controller.address,
        "amount": old.unvested + old.vested,
    }  # fmt: skip


def test_a_loss_of_the_new_vault_is_not_taken_from_the_old_ones_vesting(world: World, invested: Strategy) -> None:
    settle_at(world, invested, 2100)
    retire_fully(world, invested)
    second = deploy_second(world, invested)
    world.buy(second, usd(500_000))
    old = world.account(invested)
    assert settle_at(world, second, 1900) < 0
    now = world.account(invested)
    assert (now.unvested, now.vested, now.credited) == (old.unvested, old.vested, old.credited)


def test_a_superseded_vault_cannot_freeze_a_result_that_nobody_could_apply(world: World, invested: Strategy) -> None:
    settle_at(world, invested, 2100)
    retire_fully(world, invested)
    deploy_second(world, invested)
    next_epoch = world.account(invested).nextEpoch
    for _ in range(3):
        world.to_next_window()
        world.poke(invested)
    world.to_window_end()
    with world.reverts("RewardPoolNothingToClose", vault=invested.vault.address, nextEpoch=next_epoch):
        world.as_timelock(world.pool.functions.closeByVote(invested.vault.address, -1))
    with world.reverts("RewardPoolNothingToClose", vault=invested.vault.address, nextEpoch=next_epoch):
        world.close(invested)
    assert one(world.send(world.pool.functions.claim(invested.vault.address), world.relayer), "Claimed")


def test_a_result_of_the_old_vault_is_applied_before_there_is_a_new_one(world: World, invested: Strategy) -> None:
    settle_at(world, invested, 2100)
    retire_fully(world, invested)
    second_id = world.submit(second_manifest(world, invested))
    for _ in range(3):
        world.to_next_window()
    world.to_window_end()
    world.as_timelock(world.pool.functions.closeByVote(invested.vault.address, -usd(100)))
    world.as_timelock(world.strategies.functions.approve(second_id))
    with world.reverts("RewardPoolAgentBusy", agentId=invested.agent_id, vault=invested.vault.address):
        world.as_timelock(world.factory.functions.deployVault(second_id))
    world.apply(invested, -usd(100))
    world.as_timelock(world.factory.functions.deployVault(second_id))


# ---------------------------------------------------------------------------------- debt


@pytest.fixture
def in_debt(world: World, thinly_bonded: Strategy) -> Strategy:
    """Retired after a gap that its bond could not cover."""
    settle_at(world, thinly_bonded, 1000)
    retire_fully(world, thinly_bonded)
    return thinly_bonded


def debt_of(world: World, s: Strategy) -> int:
    return int(world.view(world.pool.functions.debtOf(s.agent_id)))


def test_debt_is_what_could_not_be_collected(world: World, in_debt: Strategy) -> None:
    recalled = world.view(in_debt.vault.functions.book()).netFlow
    assert debt_of(world, in_debt) == world.account(in_debt).credited - recalled > usd(10_000)


def test_an_agent_in_debt_gets_no_new_vault(world: World, in_debt: Strategy) -> None:
    world.post_bond(in_debt.agent_id, tokens(40_000))
    debt = debt_of(world, in_debt)
    with world.reverts("StrategyRegistryAgentInDebt", agentId=in_debt.agent_id, debt=debt):
        world.submit(second_manifest(world, in_debt))


def test_bond_posted_by_a_debtor_is_held_for_the_debt(world: World, in_debt: Strategy) -> None:
    world.post_bond(in_debt.agent_id, tokens(40_000))
    assert releasable(world, in_debt) == tokens(40_000) - debt_of(world, in_debt) * REWARD_RATE


def test_a_debt_is_collected_from_later_bond_and_ends(world: World, in_debt: Strategy) -> None:
    debt = debt_of(world, in_debt)
    world.post_bond(in_debt.agent_id, tokens(40_000))
    assert world.settle(in_debt) == -debt, "the released vault's window, closed by anybody"
    assert world.bond_of(in_debt.agent_id) == tokens(40_000) - debt * REWARD_RATE
    assert debt_of(world, in_debt) == 0
    second = deploy_second(world, in_debt)
    assert world.account(second).live


def test_a_debt_stays_with_the_agent_when_it_is_sold(world: World, in_debt: Strategy) -> None:
    debt = debt_of(world, in_debt)
    sale = world.agents.functions.transferFrom(
        world.controller.address, world.other_controller.address, in_debt.agent_id
    )
    world.send(sale, world.controller)
    assert debt_of(world, in_debt) == debt
    with world.reverts("StrategyRegistryAgentInDebt", agentId=in_debt.agent_id, debt=debt):
        world.submit(second_manifest(world, in_debt))


def test_a_gap_beyond_the_collateral_leaves_the_vault_reducing_but_settled(
    world: World, thinly_bonded: Strategy
) -> None:
    settle_at(world, thinly_bonded, 1000)
    status = world.status(thinly_bonded)
    assert status.reasons & Reason.COLLATERAL, "it has none left"
    assert not status.reasons & Reason.UNSETTLED
