"""RewardPool, what is earned becomes payable: linear vesting, claims, and the order in which losses take it back.

`VestingModel` says in integers what the contract must answer at every second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.contracts.world import (
    DAY_S,
    HOUR_S,
    REWARD_RATE,
    VESTING_S,
    EventLog,
    Strategy,
    World,
    eth,
    none_of,
    one,
    tokens,
    usd,
)  # fmt: skip


@dataclass
class VestingModel:
    """Token wei that vest linearly until one common end; a new amount moves the end to the mean weighted by amount."""

    unvested: int = 0
    vested: int = 0
    updated_s: int = 0
    ends_s: int = 0

    def newly_vested(self, now_s: int) -> int:
        if now_s >= self.ends_s:
            return self.unvested
        return self.unvested * (now_s - self.updated_s) // (self.ends_s - self.updated_s)

    def accrue(self, now_s: int) -> None:
        newly = self.newly_vested(now_s)
        self.vested, self.unvested, self.updated_s = self.vested + newly, self.unvested - newly, now_s

    def add(self, amount: int, now_s: int) -> None:
        self.accrue(now_s)
        remaining_s, total = max(0, self.ends_s - now_s), self.unvested + amount
        self.ends_s = now_s - -(self.unvested * remaining_s + amount * VESTING_S) // total  # rounded up
        self.unvested = total

    def take(self, amount: int, now_s: int) -> int:
        """From what has not vested first, then from what has; returns what neither could give."""
        self.accrue(now_s)
        from_unvested = min(amount, self.unvested)
        from_vested = min(amount - from_unvested, self.vested)
        self.unvested, self.vested = self.unvested - from_unvested, self.vested - from_vested
        return amount - from_unvested - from_vested

    def at(self, now_s: int) -> tuple[int, int]:
        """(vested, unvested)"""
        newly = self.newly_vested(now_s)
        return self.vested + newly, self.unvested - newly


@pytest.fixture
def invested(world: World, strategy: Strategy) -> Strategy:
    world.buy(strategy, usd(500_000))
    return strategy


@pytest.fixture(autouse=True)
def books_balance(world: World) -> Iterator[None]:
    yield
    world.assert_books_balance()


@pytest.fixture
def model() -> VestingModel:
    return VestingModel()


def settle_at(world: World, s: Strategy, price_usd: int, model: VestingModel | None = None) -> int:
    """Settles the next window at that price; the model is told."""
    world.to_next_window()
    world.observe_at(s, price_usd)
    world.to_window_end()
    if move := world.close(s):
        world.apply(s, move)
        if model and move > 0:
            model.add(move * REWARD_RATE, world.now_s())
        elif model:
            model.take(-move * REWARD_RATE, world.now_s())
    return move


def vested_of(world: World, s: Strategy) -> tuple[int, int]:
    answer = world.view(world.pool.functions.vestedOf(s.vault.address))
    return answer.vested, answer.unvested


def claim(world: World, s: Strategy) -> list[EventLog]:
    return world.send(world.pool.functions.claim(s.vault.address), world.relayer)


def balance(world: World, who: str) -> int:
    return int(world.view(world.token.functions.balanceOf(who)))


# ----------------------------------------------------------------------- claims refused


def test_an_unknown_vault_owes_nothing(world: World) -> None:
    with world.reverts("RewardPoolUnknownVault", vault=world.stranger.address):
        world.send(world.pool.functions.claim(world.stranger.address), world.stranger)


def test_there_is_nothing_to_claim_before_anything_was_earned(world: World, invested: Strategy) -> None:
    with world.reverts("RewardPoolNothingToClaim", vault=invested.vault.address):
        claim(world, invested)


def test_there_is_nothing_to_claim_twice_at_the_end(world: World, invested: Strategy) -> None:
    settle_at(world, invested, 2100)
    world.to_next_window()
    for _ in range(5):
        world.settle(invested)
    claim(world, invested)
    assert sum(vested_of(world, invested)) == 0
    with world.reverts("RewardPoolNothingToClaim", vault=invested.vault.address):
        claim(world, invested)


def test_the_guardian_stops_claims_for_a_while(world: World, invested: Strategy) -> None:
    settle_at(world, invested, 2100)
    world.travel(DAY_S)
    world.send(world.constitution.functions.stopClaims(DAY_S), world.guardian)
    with world.reverts("RewardPoolClaimsStopped"):
        claim(world, invested)
    world.travel(DAY_S)
    assert one(claim(world, invested), "Claimed")["amount"] > 0


def test_claims_stopped_do_not_stop_earning(world: World, invested: Strategy) -> None:
    world.send(world.constitution.functions.stopClaims(7 * DAY_S), world.guardian)
    assert settle_at(world, invested, 2100) > 0


# ------------------------------------------------------------------------------ vesting


def test_a_reward_vests_linearly_to_the_wei(world: World, invested: Strategy, model: VestingModel) -> None:
    reward = settle_at(world, invested, 2100, model) * REWARD_RATE
    begun_s = world.now_s()
    assert vested_of(world, invested) == (0, reward)
    for elapsed_s in (1, 60, HOUR_S, DAY_S, VESTING_S // 2, VESTING_S - 1):
        world.evm.travel_to(begun_s + elapsed_s)
        vested = reward * elapsed_s // VESTING_S
        assert vested_of(world, invested) == model.at(begun_s + elapsed_s) == (vested, reward - vested)
    for elapsed_s in (VESTING_S, VESTING_S + 1, 2 * VESTING_S):
        world.evm.travel_to(begun_s + elapsed_s)
        assert vested_of(world, invested) == model.at(begun_s + elapsed_s) == (reward, 0)


def test_a_second_gain_moves_the_end_to_the_weighted_mean(
    world: World, invested: Strategy, model: VestingModel
) -> None:
    settle_at(world, invested, 2050, model)
    first_end_s = world.account(invested).vestEndsAt
    assert first_end_s == model.ends_s == world.now_s() + VESTING_S
    settle_at(world, invested, 2090, model)
    account = world.account(invested)
    assert (account.unvested, account.vested) == (model.unvested, model.vested)
    assert (account.vestUpdatedAt, account.vestEndsAt) == (model.updated_s, model.ends_s)
    assert first_end_s < account.vestEndsAt < world.now_s() + VESTING_S
    for _ in range(3):
        world.travel(DAY_S)
        assert vested_of(world, invested) == model.at(world.now_s())


def test_a_gain_after_everything_has_vested_vests_from_the_start(
    world: World, invested: Strategy, model: VestingModel
) -> None:
    first = settle_at(world, invested, 2050, model) * REWARD_RATE
    for _ in range(5):
        world.settle(invested)
    second = settle_at(world, invested, 2100, model) * REWARD_RATE
    assert world.account(invested).vestEndsAt == world.now_s() + VESTING_S == model.ends_s
    assert vested_of(world, invested) == (first, second)


# ------------------------------------------------------------------------------- claims


def test_anybody_claims_and_the_controller_is_paid(world: World, invested: Strategy, model: VestingModel) -> None:
    settle_at(world, invested, 2100, model)
    world.travel(2 * DAY_S)
    before = balance(world, world.controller.address), balance(world, world.relayer.address)
    events = claim(world, invested)
    model.accrue(world.now_s())
    assert one(events, "Claimed") == {
        "vault": invested.vault.address,
        "agentId": invested.agent_id,
        "to": world.controller.address,
        "amount": model.vested,
    }
    after = balance(world, world.controller.address), balance(world, world.relayer.address)
    assert after == (before[0] + model.vested, before[1])
    assert (world.account(invested).vested, world.account(invested).unvested) == (0, model.unvested)


def test_claims_change_nothing_about_what_vests_later(world: World, invested: Strategy) -> None:
    reward = settle_at(world, invested, 2100) * REWARD_RATE
    begun_s, claimed = world.now_s(), 0
    for _ in range(5):
        world.travel(DAY_S)
        claimed += one(claim(world, invested), "Claimed")["amount"]
        expected = reward * (world.now_s() - begun_s) // VESTING_S
        assert expected - 5 <= claimed <= expected, "a wei of rounding for each claim at most, in the pool's favour"


def test_the_buyer_of_an_agent_is_paid(world: World, invested: Strategy) -> None:
    settle_at(world, invested, 2100)
    world.travel(DAY_S)
    buyer = world.other_controller.address
    transfer = world.agents.functions.transferFrom(world.controller.address, buyer, invested.agent_id)
    world.send(transfer, world.controller)
    assert one(claim(world, invested), "Claimed")["to"] == buyer


def test_a_claim_leaves_what_the_worst_case_would_take_back(world: World) -> None:
    s = world.deploy_strategy(world.register_agent(bond_wei=tokens(23_300)))
    world.buy(s, usd(500_000))
    settle_at(world, s, 2100)
    for _ in range(5):
        world.settle(s)
    vested, _ = vested_of(world, s)
    account = world.account(s)
    required = account.rate * max(0, account.credited - world.view(s.vault.functions.worstProfit()))
    excess = vested + world.bond_of(s.agent_id) - required
    assert 0 < excess < vested
    assert one(claim(world, s), "Claimed")["amount"] == excess
    with world.reverts("RewardPoolNothingToClaim", vault=s.vault.address):
        claim(world, s)
    world.post_bond(s.agent_id, tokens(50))
    assert one(claim(world, s), "Claimed")["amount"] == tokens(50), "more bond, more of it"


def test_a_claim_counts_a_fall_that_nobody_has_poked_yet(world: World) -> None:
    s = world.deploy_strategy(world.register_agent(bond_wei=tokens(24_000)))
    world.buy(s, usd(500_000))
    settle_at(world, s, 2100)
    for _ in range(5):
        world.settle(s)
    world.set_price("ETH", 1100, pool_follows=False)
    vested, _ = vested_of(world, s)
    account = world.account(s)
    owed = account.rate * (account.credited - world.status(s).profit)
    excess = vested + world.bond_of(s.agent_id) - owed
    assert 0 < excess < vested
    assert one(claim(world, s), "Claimed")["amount"] == excess


def test_without_a_price_nothing_is_claimed(world: World, invested: Strategy) -> None:
    world.set_price("ETH", 2100)
    settle_at(world, invested, 2100)
    world.sell(invested, world.held(invested) - eth(1))  # what is left is covered if it were worth nothing
    world.evm.travel(DAY_S)
    with world.reverts("RewardPoolNothingToClaim", vault=invested.vault.address):
        claim(world, invested)
    world.refresh()
    assert one(claim(world, invested), "Claimed")["amount"] > 0


# ----------------------------------------------------------------------------- claw-back


def test_a_loss_takes_the_unvested_first(world: World, invested: Strategy, model: VestingModel) -> None:
    settle_at(world, invested, 2100, model)
    world.to_next_window()
    world.observe_at(invested, 2090)
    world.to_window_end()
    move = world.close(invested)
    events = world.apply(invested, move)
    clawed = one(events, "ClawedBack")
    assert (clawed["fromUnclaimed"], clawed["fromBond"]) == (-move * REWARD_RATE, 0)
    assert none_of(events, "BondSeized")
    assert model.take(-move * REWARD_RATE, world.now_s()) == 0
    account = world.account(invested)
    assert (account.unvested, account.vested) == (model.unvested, model.vested)
    assert account.vested > 0, "what had vested is untouched"
    assert account.vestEndsAt == model.ends_s, "and the rest keeps its pace"


def test_then_the_vested_and_only_then_the_bond(world: World, invested: Strategy, model: VestingModel) -> None:
    bond = world.bond_of(invested.agent_id)
    settle_at(world, invested, 2100, model)
    settle_at(world, invested, 2008, model)
    account = world.account(invested)
    assert account.unvested == model.unvested == 0, "more than the unvested was taken"
    assert 0 < account.vested == model.vested
    assert world.bond_of(invested.agent_id) == bond

    left = model.vested
    world.to_next_window()
    world.observe_at(invested, 1900)
    world.to_window_end()
    move = world.close(invested)
    events = world.apply(invested, move)
    clawed = one(events, "ClawedBack")
    assert (clawed["fromUnclaimed"], clawed["fromBond"]) == (left, -move * REWARD_RATE - left)
    assert one(events, "BondSeized")["amount"] == clawed["fromBond"]
    assert world.bond_of(invested.agent_id) == bond - clawed["fromBond"]
    assert vested_of(world, invested) == (0, 0)


def test_what_was_claimed_stays_claimed_and_the_bond_answers_for_it(world: World, invested: Strategy) -> None:
    reward = settle_at(world, invested, 2100) * REWARD_RATE
    for _ in range(5):
        world.settle(invested)
    assert one(claim(world, invested), "Claimed")["amount"] == reward
    world.to_next_window()
    world.observe_at(invested, 2000)
    world.to_window_end()
    move = world.close(invested)
    clawed = one(world.apply(invested, move), "ClawedBack")
    assert (clawed["fromUnclaimed"], clawed["fromBond"]) == (0, -move * REWARD_RATE)


def test_vesting_after_a_claw_back_follows_the_model(world: World, invested: Strategy, model: VestingModel) -> None:
    for price in (2080, 2050, 2090, 2030, 1990, 2060):
        settle_at(world, invested, price, model)
        account = world.account(invested)
        assert (account.unvested, account.vested) == (model.unvested, model.vested)
        world.travel(DAY_S)
        assert vested_of(world, invested) == model.at(world.now_s())
