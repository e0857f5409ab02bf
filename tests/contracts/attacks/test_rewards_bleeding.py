"""An agent trades its vault's money into its own hands within the slippage limits (the shape of BoringVault#16): how
much in how long, until what stops it, and what the deposit covers.

It is the pool's only provider and its sandwicher, so that all the vault loses is its own. Limits: 0.6 % a trade and 1 %
in all (decaying in 7 days) while ACTIVE; 2 % a sale and 3 % in all while REDUCING; drawdown 10 %.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from agents.localnet.evm import TransactionReverted
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import (
    OwnPool,
    branch,
    deploy_at,
    deposit_of,
    paid_less_taken,
    profit,
    say_tokens,
    say_usd,
)
from tests.contracts.vaults import MAX_UINT, Reason, State, condition, guard
from tests.contracts.world import ANY, DAY_S, LIMITS, RULES, Strategy, World, one, usd

CAPITAL = usd(1_000_000)
LOT_USD, BPS = 300_000, 58


@pytest.fixture
def own_pool(world: World) -> OwnPool:
    return OwnPool(world, world.controller)


@pytest.fixture
def bleeding(world: World, own_pool: OwnPool) -> Strategy:
    return deploy_at(world, own_pool)


def bleed(world: World, pool: OwnPool, s: Strategy) -> int:
    """Trades to and fro at the worst price allowed until the slippage sum is full; what the vault lost."""
    lost = 0
    while True:
        value = world.status(s).value
        sums, cap = guard(world, s).slippage, value * LIMITS.max_cumulative_slippage_bps // 10_000
        level = max(0, sums.level - cap * (world.now_s() - sums.updatedAt) // RULES.slippage_decay_s)
        room = (cap - level) * 10_000 // BPS * 98 // 100
        lot = min(LOT_USD, room // 10**6)
        if lot < 20_000:
            return lost
        lost += pool.deal(s, lot, buy=world.held(s) == 0, shortfall_bps=BPS)


def into_reducing(world: World, pool: OwnPool, s: Strategy) -> int:
    """The agent's own way there: it takes out all the deposit that it may, and a little profit leaves too little."""
    spare = deposit_of(world, s) - world.status(s).requiredDeposit
    world.send(world.agents.functions.withdrawDeposit(s.agent_id, spare), world.controller)
    given = pool.deal(s, 20_000, buy=False, shortfall_bps=-20)
    assert condition(world, s) == (State.REDUCING, Reason.DEPOSIT)
    return given


def bleed_reducing(world: World, pool: OwnPool, s: Strategy) -> int:
    """Sells everything at the worst price that a reducing vault allows; what the vault lost."""
    lost = 0
    while held := world.held(s):
        if condition(world, s)[0] is State.ACTIVE:
            lost += into_reducing(world, pool, s)
        else:
            lost += pool.deal(s, min(LOT_USD, held * 2000 // 10**18 + 1), buy=False, shortfall_bps=190)
    return lost


def sandwich(world: World, s: Strategy, amount: int) -> tuple[int, int]:
    """What the attacker gains, and the vault loses, when the vault buys so much in the world's deep pool (a thousand
    millions a side, 0.05 %) between a purchase and a sale of 2,400,000 USD."""
    attacker = world.stranger
    world.market.give_quote(attacker, usd(2_400_000))
    before = world.market.balance(world.book.quote, attacker)
    bought = world.market.buy("ETH", usd(2_400_000), sender=attacker)
    shortfall = one(world.buy(s, amount), "TradeRecorded")["trade"]["shortfall"]
    world.market.sell("ETH", bought, sender=attacker)
    return world.market.balance(world.book.quote, attacker) - before, shortfall


def test_sandwiches_in_a_pool_of_others_pay_its_providers_first(world: World, attack: Report) -> None:
    """A sandwich pays two fees on what it takes to move the price; the bait must be larger than fee x depth."""
    s = world.deploy_strategy()
    gained, lost = {}, {}
    for size in (250_000, 500_000, 590_000):
        with branch(world):
            gained[size], lost[size] = sandwich(world, s, usd(size))
        assert 0 < lost[size] <= usd(size) * LIMITS.max_trade_slippage_bps // 10_000
    assert gained[250_000] < -usd(1_000), "fee x depth is 500,000 USD"
    assert abs(gained[500_000]) < usd(20)
    assert 0 < gained[590_000] < usd(600) < lost[590_000], "most of it is the providers'"
    world.market.give_quote(world.stranger, usd(5_000_000))
    world.market.buy("ETH", usd(5_000_000), sender=world.stranger)
    with world.reverts("VaultSlippageExceeded", shortfall=ANY, allowed=usd(90_000) * 60 // 10_000):
        world.buy(s, usd(90_000))
    told = ", ".join(f"{say_usd(gained[size])} of {say_usd(lost[size])} on a trade of {size:,}" for size in gained)
    attack.outcome(
        gained=told,
        cost="two fees on 2,400,000 USD",
        stopped_by="VaultSlippageExceeded; it pays only where a trade is larger than fee x depth",
    )


def test_bleeding_goes_as_fast_as_the_sum_decays_until_the_drawdown(
    world: World, own_pool: OwnPool, bleeding: Strategy, attack: Report
) -> None:
    wealth, bond = own_pool.wealth(), world.bond_of(bleeding.agent_id)
    started_s, weekly, stop = world.now_s(), [], ""
    while condition(world, bleeding)[0] is State.ACTIVE:
        try:
            weekly.append(bleed(world, own_pool, bleeding))
        except TransactionReverted as stopped:
            stop = stopped.reason.name
            break
        elapsed_s = world.now_s() - started_s
        most = CAPITAL * LIMITS.max_cumulative_slippage_bps // 10_000
        assert sum(weekly) <= most + most * elapsed_s // RULES.slippage_decay_s, "cap x (1 + t / decay)"
        world.settle(bleeding)
    assert stop == "VaultDrawdownExceeded"
    active = own_pool.wealth() - wealth
    assert abs(active + profit(world, bleeding)) <= 1000, (
        "what the vault lost, the agent has, to a thousandth of a dollar"
    )
    assert usd(85_000) < active <= CAPITAL * LIMITS.max_drawdown_bps // 10_000
    # The last bite: a reducing vault may sell at more slippage.
    if world.held(bleeding) == 0:
        own_pool.deal(bleeding, 530_000, buy=True, shortfall_bps=0)
    taken = active + bleed_reducing(world, own_pool, bleeding)
    assert taken < usd(110_000)
    deposit = deposit_of(world, bleeding)
    world.settle(bleeding)
    paid = -paid_less_taken(world, bleeding)
    assert world.bond_of(bleeding.agent_id) == bond - paid
    attack.outcome(
        gained=f"{say_usd(active)} of 1,000,000 in {len(weekly)} weeks ({say_usd(weekly[0])} in the first), "
        f"and {say_usd(taken - active)} in a last sale, if no vote stops it",
        cost=f"{say_tokens(paid)} of its bond, and up to {say_usd(deposit)} of deposit by vote",
        stopped_by="VaultCumulativeSlippageExceeded each week, VaultDrawdownExceeded in the end",
    )


def bleed_at_once(world: World, pool: OwnPool, s: Strategy) -> int:
    """Both sums within two days: to and fro while ACTIVE, then all sold while REDUCING."""
    world.travel_to(world.epoch_start_s(world.current_epoch() + 1) - DAY_S)
    lost = bleed(world, pool, s)
    world.to_next_window()
    world.poke(s)
    while (held := world.held(s) * 2000 // 10**18) < 550_000:
        pool.deal(s, min(LOT_USD, 560_000 - held), buy=True, shortfall_bps=0)
    lost += bleed_reducing(world, pool, s)
    world.poke(s)
    world.to_window_end()
    world.apply(s, world.close(s))
    return lost


def until_executable(world: World, calls: list[Any]) -> int:
    """A proposal that is voted in and queued at once; ten minutes before it may be executed."""
    proposal_id = world.propose(calls)
    world.to_voting(proposal_id)
    world.vote(proposal_id)
    world.to_deadline(proposal_id)
    world.queue(proposal_id)
    world.travel_to(int(world.view(world.dao.functions.proposalEta(proposal_id))) - 600)
    return proposal_id


def test_the_deposit_covers_what_is_taken_before_a_vote_can_act(
    world: World, own_pool: OwnPool, bleeding: Strategy, attack: Report
) -> None:
    """Everything at once, and on, while a proposal to halt and to award the deposit goes its way."""
    lost = bleed_at_once(world, own_pool, bleeding)
    seen_s, award = world.now_s(), usd(38_000)
    calls = [
        world.strategies.functions.halt(bleeding.id),
        world.agents.functions.awardDeposit(bleeding.agent_id, award),
    ]
    proposal_id = until_executable(world, calls)
    lost += bleed(world, own_pool, bleeding)
    deposit, required = deposit_of(world, bleeding), world.status(bleeding).requiredDeposit
    releasable = deposit - required
    with world.reverts(
        "AgentRegistryNotReleasable", agentId=bleeding.agent_id, requested=releasable + 1, releasable=releasable
    ):
        world.send(world.agents.functions.withdrawDeposit(bleeding.agent_id, releasable + 1), world.controller)
    world.send(world.agents.functions.withdrawDeposit(bleeding.agent_id, releasable), world.controller)
    events = world.execute(proposal_id)
    assert one(events, "DepositAwarded")["amount"] == award > lost
    days = Decimal(world.now_s() - seen_s) / DAY_S
    attack.outcome(
        gained=f"{say_usd(lost)}, the last of it in the {days:.1f} days that a vote takes",
        cost=f"{say_usd(award)} of deposit and {say_tokens(-paid_less_taken(world, bleeding))}",
        stopped_by="AgentRegistryNotReleasable; the vote awards the deposit",
    )


@pytest.mark.parametrize("stake", ["deposit", "bond"])
def test_a_vote_on_all_of_the_stake_takes_what_is_left_of_it(
    world: World, own_pool: OwnPool, bleeding: Strategy, attack: Report, stake: str
) -> None:
    """The vote names all that was there when it was proposed; the agent takes out the little that it may."""
    agents, agent_id = world.agents.functions, bleeding.agent_id
    lost = bleed_at_once(world, own_pool, bleeding)
    held = deposit_of(world, bleeding) if stake == "deposit" else world.bond_of(agent_id)
    take = agents.awardDeposit(agent_id, held) if stake == "deposit" else agents.slashBond(agent_id, held)
    proposal_id = until_executable(world, [take])
    world.send((agents.withdrawDeposit if stake == "deposit" else agents.withdrawBond)(agent_id, 1), world.controller)
    taken = one(world.execute(proposal_id), "DepositAwarded" if stake == "deposit" else "BondSeized")["amount"]
    assert taken == held - 1, "what is left, and the vote does not fail"
    left = deposit_of(world, bleeding) if stake == "deposit" else world.bond_of(agent_id)
    assert left == 0
    attack.outcome(
        gained=f"{say_usd(lost)}, and one unit of its {stake}",
        cost=say_usd(taken) if stake == "deposit" else say_tokens(taken),
        stopped_by="a vote takes what is left when more is named",
    )


def test_a_recall_and_the_award_in_one_vote_leave_no_gap(
    world: World, own_pool: OwnPool, bleeding: Strategy, attack: Report
) -> None:
    lost = bleed_at_once(world, own_pool, bleeding)
    award = usd(35_000)
    calls = [
        world.agents.functions.awardDeposit(bleeding.agent_id, award),
        world.treasury.functions.recall(bleeding.id, world.book.quote, MAX_UINT, 0),
    ]
    events = world.execute(until_executable(world, calls))
    assert one(events, "DepositAwarded")["amount"] == award > lost
    assert world.view(bleeding.vault.functions.isEmpty())
    attack.outcome(gained=say_usd(lost), cost=say_usd(award), stopped_by="award and recall in one proposal")


def test_a_recall_does_not_free_the_deposit_of_an_agent_that_just_bled_its_vault(
    world: World, own_pool: OwnPool, bleeding: Strategy, attack: Report
) -> None:
    """The first that voters do is to save the money; the verb for it recalls and does nothing else."""
    lost = bleed_at_once(world, own_pool, bleeding)
    events = world.send(
        world.dao.functions.proposeRecall(bleeding.id, [(world.book.quote, MAX_UINT, 0)], "save it"), world.proposer
    )
    world.pass_proposal(int(one(events, "ProposalCreated")["proposalId"]))
    deposit = deposit_of(world, bleeding)
    sums = guard(world, bleeding)
    still = sums.slippage.level + sums.reduceSlippage.level
    assert world.status(bleeding).value == 0
    if not world.view(world.pool.functions.isSettled(bleeding.agent_id)):
        world.apply(bleeding, world.close(bleeding))
    releasable = deposit - world.status(bleeding).requiredDeposit
    assert deposit - releasable == still > lost * 9 // 10, "all but what had decayed between its trades"
    with world.reverts(
        "AgentRegistryNotReleasable", agentId=bleeding.agent_id, requested=deposit, releasable=releasable
    ):
        world.send(world.agents.functions.withdrawDeposit(bleeding.agent_id, deposit), world.controller)
    attack.outcome(
        gained=f"{say_usd(lost)}, and {say_usd(releasable)} of its deposit back",
        cost=f"{say_usd(deposit - releasable)} of deposit stay for the award, and "
        f"{say_tokens(-paid_less_taken(world, bleeding))} of bond",
        stopped_by="AgentRegistryNotReleasable: the deposit covers what the slippage sums hold",
    )
