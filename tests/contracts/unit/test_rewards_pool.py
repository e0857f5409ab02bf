"""RewardPool, its money: the budget that caps are reserved from, what is free, bounties, and who may do what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from agents.deployment import ZERO_ADDRESS, Limits
from tests.contracts.world import (
    EPOCH_S,
    LIMITS,
    REWARD_RATE,
    VESTING_S,
    WINDOW_S,
    EventLog,
    Strategy,
    World,
    eth,
    none_of,
    one,
    struct,
    tokens,
    usd,
)  # fmt: skip

BOUNTY = tokens(1)
SPACING_S = WINDOW_S // 4
CAP = tokens(5_000)
BUDGET = tokens(20_000)


@pytest.fixture(autouse=True)
def books_balance(world: World) -> Iterator[None]:
    yield
    world.assert_books_balance()


def another_agent(world: World) -> int:
    """With the least that a strategy needs, so that one controller can afford many."""
    return world.register_agent(world.other_controller, world.other_signer, bond_wei=tokens(25_000))


def approved(world: World, **manifest_options: Any) -> bytes:
    strategy_id = world.submit(world.manifest(another_agent(world), **manifest_options))
    world.as_timelock(world.strategies.functions.approve(strategy_id))
    return strategy_id


def deploy_vault(world: World, strategy_id: bytes) -> list[EventLog]:
    return world.as_timelock(world.factory.functions.deployVault(strategy_id))


def update_cap(world: World, s: Strategy, cap: int) -> list[EventLog]:
    update_id = world.submit(s.manifest | {"updates": s.id, "capital": 0, "rewardCap": cap})
    world.as_timelock(world.strategies.functions.approve(update_id))
    return world.as_timelock(world.strategies.functions.applyUpdate(update_id))


def read(world: World, name: str, *args: Any) -> Any:
    return world.view(world.pool.functions[name](*args))


def token_balance(world: World, who: str) -> int:
    return int(world.view(world.token.functions.balanceOf(who)))


def settle_at(world: World, s: Strategy, price_usd: int) -> int:
    world.set_price("ETH", price_usd, pool_follows=False)
    move = world.settle(s)
    world.assert_books_balance()
    return move


# ------------------------------------------------------------------------------ schedule


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochLengthS": WINDOW_S},
        {"epochLengthS": WINDOW_S - 1},
        {"windowLengthS": 0},
        {"windowLengthS": EPOCH_S},
        {"vestingS": 0},
        {"maxUnsettled": 0},
    ],
    ids=str,
)
def test_a_schedule_that_cannot_work_is_not_deployed(world: World, wrong: dict[str, int]) -> None:
    with world.reverts("RewardPoolInvalidSchedule"):
        deploy_pool(world, **wrong)


def test_the_shortest_schedule_that_can_work_is_deployed(world: World) -> None:
    pool = deploy_pool(world, epochLengthS=2, windowLengthS=1, vestingS=1, maxUnsettled=1)
    assert world.view(pool.functions.epochLengthS()) == 2


def test_a_new_pool_says_its_budget(world: World) -> None:
    assert [e.args for e in world.history(world.pool) if e.name == "BudgetSet"] == [{"budgetPerEpoch": BUDGET}]


def deploy_pool(world: World, **schedule: int) -> Any:
    d = world.d
    protocol = (
        d.token, d.quote, d.timelock, d.dao, d.treasury, d.constitution, d.oracle, d.agents, d.strategies, d.factory,
        d.ledger, d.pool,
    )  # fmt: skip
    fields = {
        "genesis": world.now_s(), "epochLengthS": EPOCH_S, "windowLengthS": WINDOW_S, "vestingS": VESTING_S,
        "maxUnsettled": 3, "bounty": BOUNTY, "budgetPerEpoch": BUDGET,
    }  # fmt: skip
    return world.evm.deploy("RewardPool", protocol, struct(fields | schedule), sender=world.deployer)


# ------------------------------------------------------------------------- who may do what


def test_strangers_do_not_govern_the_pool(world: World, strategy: Strategy) -> None:
    vault, pool = strategy.vault.address, world.pool.functions
    for call in (
        pool.registerVault(world.stranger.address, 1, REWARD_RATE, CAP),
        pool.setCap(vault, 0),
        pool.releaseVault(vault),
        pool.setBudget(0),
        pool.closeByVote(vault, 0),
        pool.withdraw(1),
    ):
        with world.reverts("RewardPoolUnauthorized", caller=world.stranger.address):
            world.send(call, world.stranger)


def test_not_even_the_timelock_registers_or_releases_a_vault(world: World, strategy: Strategy) -> None:
    vault, pool = strategy.vault.address, world.pool.functions
    for call in (pool.registerVault(vault, 1, 1, 1), pool.setCap(vault, 0), pool.releaseVault(vault)):
        with world.reverts("RewardPoolUnauthorized", caller=world.d.timelock):
            world.as_timelock(call)


@pytest.mark.parametrize("function", ["setCap", "releaseVault"])
def test_only_a_live_vault_has_a_cap_to_change_or_release(world: World, function: str) -> None:
    """The registry asks for live strategies only; the pool does not rely on that."""
    world.evm.impersonate(world.d.strategies)
    arguments = (world.stranger.address, 0) if function == "setCap" else (world.stranger.address,)
    with world.reverts("RewardPoolUnknownVault", vault=world.stranger.address):
        world.send(world.pool.functions[function](*arguments), world.d.strategies)


# -------------------------------------------------------------------------------- budget


def test_registration_sets_the_cap_aside(world: World) -> None:
    free = read(world, "free")
    strategy_id = approved(world)
    registered = one(deploy_vault(world, strategy_id), "VaultRegistered")
    vault = world.vault_of(strategy_id).address
    assert registered == {"vault": vault, "agentId": 1, "rate": REWARD_RATE, "cap": CAP}
    account = world.view(world.pool.functions.accountOf(vault))
    assert (account.cap, account.earmark, account.rate, account.live) == (CAP, CAP, REWARD_RATE, True)
    assert (read(world, "free"), read(world, "sumOfCaps")) == (free - CAP, CAP)


def test_caps_never_exceed_the_budget(world: World) -> None:
    for _ in range(4):
        deploy_vault(world, approved(world))
    assert read(world, "sumOfCaps") == BUDGET
    one_more = approved(world, rewardCap=REWARD_RATE)
    with world.reverts("RewardPoolBudgetExceeded", caps=BUDGET + REWARD_RATE, budget=BUDGET):
        deploy_vault(world, one_more)
    world.as_timelock(world.pool.functions.setBudget(BUDGET + REWARD_RATE))
    deploy_vault(world, one_more)


def test_the_budget_is_not_lowered_below_the_caps_that_run(world: World, strategy: Strategy) -> None:
    with world.reverts("RewardPoolBudgetExceeded", caps=CAP, budget=CAP - 1):
        world.as_timelock(world.pool.functions.setBudget(CAP - 1))
    events = world.as_timelock(world.pool.functions.setBudget(CAP))
    assert one(events, "BudgetSet") == {"budgetPerEpoch": CAP}
    assert read(world, "budgetPerEpoch") == CAP


def test_a_vote_changes_a_cap_within_the_budget(world: World, strategy: Strategy) -> None:
    free = read(world, "free")
    with world.reverts("RewardPoolBudgetExceeded", caps=BUDGET + 1, budget=BUDGET):
        update_cap(world, strategy, BUDGET + 1)
    changed = one(update_cap(world, strategy, 2 * CAP), "CapSet")
    assert changed == {"vault": strategy.vault.address, "cap": 2 * CAP}
    account = world.account(strategy)
    assert (account.cap, account.earmark) == (2 * CAP, 2 * CAP)
    assert (read(world, "free"), read(world, "sumOfCaps")) == (free - CAP, 2 * CAP)


def test_a_lower_cap_frees_what_was_set_aside(world: World, strategy: Strategy) -> None:
    free = read(world, "free")
    update_cap(world, strategy, tokens(1_000))
    assert (read(world, "free"), read(world, "sumOfCaps")) == (free + tokens(4_000), tokens(1_000))
    world.buy(strategy, usd(500_000))
    assert settle_at(world, strategy, 2400) == tokens(1_000) // REWARD_RATE


def test_limits_can_be_tightened_without_touching_the_account(world: World, strategy: Strategy) -> None:
    world.buy(strategy, usd(500_000))
    settle_at(world, strategy, 2100)
    before = world.account(strategy)
    tighter = Limits(**{f: getattr(LIMITS, f) for f in Limits.__slots__} | {"max_trades_per_day": 1})
    update_id = world.submit(strategy.manifest | {"updates": strategy.id, "capital": 0, "limits": tighter.as_tuple()})
    world.as_timelock(world.strategies.functions.approve(update_id))
    world.as_timelock(world.strategies.functions.applyUpdate(update_id))
    assert world.account(strategy) == before


# -------------------------------------------------------------------------------- funding


def test_anybody_funds_rewards(world: World) -> None:
    free = read(world, "free")
    world.send(world.token.functions.approve(world.d.pool, tokens(7)), world.small_holder)
    funded = one(world.send(world.pool.functions.fund(tokens(7)), world.small_holder), "Funded")
    assert funded == {"from": world.small_holder.address, "amount": tokens(7)}
    assert read(world, "free") == free + tokens(7)


def test_nobody_funds_with_what_he_does_not_give(world: World) -> None:
    for call in (world.pool.functions.fund(1), world.pool.functions.fundBounties(1)):
        with world.reverts(
            "ERC20InsufficientAllowance", spender=world.d.pool, allowance=0, needed=1
        ):
            world.send(call, world.small_holder)


def test_only_what_is_free_is_withdrawn_and_only_to_the_treasury(world: World, strategy: Strategy) -> None:
    free, treasury = read(world, "free"), token_balance(world, world.d.treasury)
    with world.reverts("RewardPoolUnderfunded", needed=free + 1, free=free):
        world.as_timelock(world.pool.functions.withdraw(free + 1))
    events = world.as_timelock(world.pool.functions.withdraw(free))
    assert one(events, "Withdrawn") == {"to": world.d.treasury, "amount": free}
    assert token_balance(world, world.d.treasury) == treasury + free
    assert read(world, "free") == 0
    assert world.account(strategy).earmark == CAP, "what is set aside stays"


def test_a_vault_is_not_registered_with_a_cap_that_is_not_there(world: World) -> None:
    poor = World(world.evm, reward_fund_wei=tokens(6_000))
    poor.deploy_strategy()
    second = approved(poor)
    with poor.reverts("RewardPoolUnderfunded", needed=CAP, free=tokens(1_000)):
        deploy_vault(poor, second)
    fund(poor, tokens(4_000))
    deploy_vault(poor, second)
    poor.assert_books_balance()


def test_an_underfunded_pool_does_not_hold_up_an_update(world: World) -> None:
    """Limits may have to be tightened just then: what there is of the cap is set aside, the rest when it comes."""
    poor = World(world.evm, reward_fund_wei=tokens(6_000))
    s = poor.deploy_strategy()
    poor.buy(s, usd(500_000))
    settle_at(poor, s, 2400)
    for cap, earmark in ((CAP, tokens(1_000)), (tokens(400), tokens(400)), (2 * CAP, tokens(1_000))):
        events = update_cap(poor, s, cap)
        assert one(events, "CapSet")["cap"] == cap
        assert (poor.account(s).cap, poor.account(s).earmark) == (cap, earmark)
        assert read(poor, "free") == tokens(1_000) - earmark
        poor.assert_books_balance()
    fund(poor, tokens(50_000))
    settle_at(poor, s, 2400)
    assert poor.account(s).earmark == 2 * CAP


def fund(world: World, amount: int) -> None:
    world.send(world.token.functions.approve(world.d.pool, amount), world.voter_a)
    world.send(world.pool.functions.fund(amount), world.voter_a)


def test_an_underfunded_pool_pays_less_and_the_account_waits(world: World) -> None:
    poor = World(world.evm, reward_fund_wei=tokens(6_000))
    s = poor.deploy_strategy()
    poor.buy(s, usd(500_000))
    assert settle_at(poor, s, 2400) == CAP // REWARD_RATE
    assert poor.account(s).earmark == tokens(1_000), "all that is left"
    assert settle_at(poor, s, 2400) == tokens(1_000) // REWARD_RATE
    assert settle_at(poor, s, 2400) == 0, "nothing is left, and nothing is lost"
    fund(poor, tokens(50_000))
    waited = int(poor.status(s).profit) - poor.account(s).credited
    assert waited > 0
    assert settle_at(poor, s, 2400) == waited
    assert poor.account(s).earmark == CAP


def test_what_is_taken_from_one_vault_funds_the_next_gain(world: World) -> None:
    poor = World(world.evm, reward_fund_wei=tokens(5_000))
    s = poor.deploy_strategy()
    poor.buy(s, usd(500_000))
    settle_at(poor, s, 2400)
    assert (poor.account(s).earmark, read(poor, "free")) == (0, 0)
    taken = -settle_at(poor, s, 2100) * REWARD_RATE
    assert (poor.account(s).earmark, read(poor, "free")) == (taken, 0)
    assert settle_at(poor, s, 2400) == taken // REWARD_RATE


# ------------------------------------------------------------------------------- bounties


def test_observers_earn_at_most_four_bounties_in_a_window(world: World, strategy: Strategy) -> None:
    start_s = world.epoch_start_s(world.current_epoch() + 1)
    paid_at = []
    for offset_s in range(0, WINDOW_S, SPACING_S // 3):
        world.travel_to(start_s + offset_s - 30)
        world.evm.next_block_at(start_s + offset_s)
        events = world.poke(strategy, world.observer)
        assert one(events, "ProfitObserved")["observer"] == world.observer.address
        if not none_of(events, "BountyEarned"):
            assert one(events, "BountyEarned") == {"observer": world.observer.address, "amount": BOUNTY}
            paid_at.append(offset_s)
    assert paid_at == [0, SPACING_S, 2 * SPACING_S, 3 * SPACING_S]
    assert read(world, "bountyOf", world.observer.address) == 4 * BOUNTY


def test_a_second_early_earns_nothing(world: World, strategy: Strategy) -> None:
    world.to_next_window()
    world.poke(strategy, world.observer)
    first_s = world.now_s()
    world.travel_to(first_s + SPACING_S - 60)
    world.evm.next_block_at(first_s + SPACING_S - 1)
    assert none_of(world.poke(strategy, world.observer), "BountyEarned")
    assert one(world.poke(strategy, world.observer), "BountyEarned")


def test_observing_outside_a_window_earns_nothing(world: World, strategy: Strategy) -> None:
    assert none_of(world.poke(strategy, world.observer), "BountyEarned")


def test_each_vault_has_its_own_bounties(world: World, strategy: Strategy) -> None:
    other = world.deploy_strategy(another_agent(world))
    world.to_next_window()
    for s in (strategy, other):
        assert one(world.poke(s, world.observer), "BountyEarned")


def test_trades_and_flows_observe_without_a_bounty(world: World, strategy: Strategy) -> None:
    world.to_next_window()
    flow = world.as_timelock(world.treasury.functions.allocate(strategy.id, usd(1)))
    for events in (world.buy(strategy, usd(1_000)), world.sell(strategy, eth("0.1")), flow):
        assert one(events, "ProfitObserved")["observer"] == ZERO_ADDRESS
        assert none_of(events, "BountyEarned")


def test_closing_a_window_earns_one_bounty(world: World, strategy: Strategy) -> None:
    world.to_next_window()
    world.poke(strategy, world.observer)
    world.to_window_end()
    close = world.pool.functions.closeWindow(strategy.vault.address)
    assert one(world.send(close, world.relayer), "BountyEarned") == {
        "observer": world.relayer.address, "amount": BOUNTY,
    }  # fmt: skip
    assert read(world, "bountyFund") == tokens(1_000) - 2 * BOUNTY


def test_closing_by_vote_earns_nothing(world: World, strategy: Strategy) -> None:
    for _ in range(3):
        world.to_next_window()
    world.to_window_end()
    events = world.as_timelock(world.pool.functions.closeByVote(strategy.vault.address, 0))
    assert none_of(events, "BountyEarned")


def test_bounties_are_claimed_by_who_earned_them(world: World, strategy: Strategy) -> None:
    world.to_next_window()
    world.poke(strategy, world.observer)
    claimed = one(world.send(world.pool.functions.claimBounty(), world.observer), "BountyClaimed")
    assert claimed == {"observer": world.observer.address, "amount": BOUNTY}
    assert token_balance(world, world.observer.address) == BOUNTY
    assert read(world, "bountyOf", world.observer.address) == 0
    assert one(world.send(world.pool.functions.claimBounty(), world.observer), "BountyClaimed")["amount"] == 0
    assert token_balance(world, world.observer.address) == BOUNTY


def test_an_exhausted_bounty_fund_pays_nothing_and_stops_nothing(world: World) -> None:
    poor = World(world.evm, bounty_fund_wei=2 * BOUNTY - 1)
    s = poor.deploy_strategy()
    poor.buy(s, usd(500_000))
    epoch = poor.to_next_window()
    assert one(poor.poke(s, poor.observer), "BountyEarned")
    poor.travel_to(poor.now_s() + SPACING_S)
    poor.set_price("ETH", 2100, pool_follows=False)
    late = poor.poke(s, poor.observer)
    assert none_of(late, "BountyEarned")
    assert one(late, "ProfitObserved")["epoch"] == epoch
    poor.to_window_end()
    closed = poor.send(poor.pool.functions.closeWindow(s.vault.address), poor.relayer)
    assert one(closed, "WindowClosed")["epoch"] == epoch
    assert none_of(closed, "BountyEarned")
    assert read(poor, "bountyFund") == BOUNTY - 1
    poor.assert_books_balance()


def test_anybody_funds_bounties(world: World) -> None:
    world.send(world.token.functions.approve(world.d.pool, BOUNTY), world.small_holder)
    funded = one(world.send(world.pool.functions.fundBounties(BOUNTY), world.small_holder), "BountyFunded")
    assert funded == {"from": world.small_holder.address, "amount": BOUNTY}
    assert read(world, "bountyFund") == tokens(1_000) + BOUNTY


def test_a_pool_without_bounties_settles_all_the_same(world: World) -> None:
    plain = World(world.evm, rewards=replace(world.genesis.rewards, bounty_wei=0))
    s = plain.deploy_strategy()
    plain.to_next_window()
    assert none_of(plain.poke(s), "BountyEarned")
    plain.to_window_end()
    assert plain.close(s) == 0


# ----------------------------------------------------------------------------- no votes


def test_what_the_pool_holds_never_votes(world: World) -> None:
    assert world.view(world.token.functions.delegates(world.d.pool)) == world.d.token
    assert world.view(world.token.functions.getVotes(world.d.pool)) == 0
