"""Moving the pool's price around the vault's trade, all in one transaction where the attacker can arrange that.

The pool is another one of ETH, with a fee of 0.01 % and 400 million dollars in it: cheap to push, which favours the
attacker. The vault may lose 0.6 % of a trade, and 1 % of its million in seven days.
"""

from __future__ import annotations

from typing import Any

import pytest

from agents.localnet.evm import TransactionReverted
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import Attacker, Listing, dollars
from tests.contracts.vaults import guard
from tests.contracts.world import ANY, Strategy, World, eth, one, usd

CHEAP = "CHEAP"
TRADE = usd(500_000)


@pytest.fixture
def market(world: World, monkeypatch: pytest.MonkeyPatch) -> Listing:
    listing = Listing(world, monkeypatch)
    listing.second_pool("ETH", fee=100, price_usd="2000", liquidity_usd=400_000_000, name=CHEAP)
    return listing


@pytest.fixture
def attacker(world: World, market: Listing) -> Attacker:
    attacker = Attacker(world)
    attacker.fund(quote=usd(50_000_000), base=eth(25_000), symbol=CHEAP)
    return attacker


def test_a_stranger_sandwiches_a_trade_that_asks_for_no_minimum(
    world: World, attacker: Attacker, attack: Report
) -> None:
    """Before and after the agent's transaction, in a pool that the stranger can push for almost nothing."""
    s = world.deploy_strategy(assets=(CHEAP,))
    wealth, push = attacker.wealth(CHEAP), usd(280_000)
    [bought] = attacker.simulate([attacker.swap(push, buy=True, symbol=CHEAP)])
    attacker.run([attacker.swap(push, buy=True, symbol=CHEAP)])
    trade = one(world.buy(s, TRADE, symbol=CHEAP), "TradeRecorded")["trade"]
    attacker.run([attacker.swap(int.from_bytes(bought, "big"), buy=False, symbol=CHEAP)])
    gained = attacker.wealth(CHEAP) - wealth
    assert 0 < gained < trade["shortfall"] < TRADE * 60 // 10_000

    fair = one(world.buy(s, usd(1000), symbol=CHEAP), "TradeRecorded")["trade"]
    assert fair["shortfall"] < usd(10)
    with world.reverts("VaultSlippageExceeded", shortfall=ANY, allowed=usd(300)):
        attacker.run([attacker.swap(5 * push, buy=True, symbol=CHEAP)])
        world.buy(s, usd(50_000), symbol=CHEAP)
    attack.outcome(
        gained=f"{dollars(gained)} once; the vault lost {dollars(trade['shortfall'])} of {dollars(TRADE)}",
        cost="a pool's fee twice, and nobody else in the block",
        stopped_by="VaultSlippageExceeded above 0.6 % of the trade, or the agent's own minimum below that",
    )


def test_an_agent_sandwiches_its_own_vault_until_it_is_stopped(
    world: World, attacker: Attacker, attack: Report
) -> None:
    """The signing key is a contract that pushes, lets the vault trade and pulls back; a fourth time undoes all of
    it."""
    s = world.deploy_strategy(world.register_agent(signer=attacker.contract), assets=(CHEAP,))
    wealth, calls = attacker.wealth(CHEAP), []
    up, down = (usd(300_000), usd(490_000)), (eth(150), eth(243))
    for nonce, (push, amount) in enumerate((up, down, up)):
        trade = attacker.trade(s, amount, buy=nonce != 1, symbol=CHEAP, nonce=nonce)
        calls = attacker.sandwich(trade, push, buy=nonce != 1, symbol=CHEAP, before=calls)
    one_more = attacker.trade(s, down[1], buy=False, symbol=CHEAP, nonce=3)
    with world.reverts("VaultCumulativeSlippageExceeded", level=ANY, cap=ANY):
        attacker.run([*calls, attacker.swap(down[0], buy=False, symbol=CHEAP), one_more])
    assert (attacker.wealth(CHEAP), world.status(s).value) == (wealth, usd(1_000_000))

    receipt = attacker.run(calls)
    gained, lost = attacker.wealth(CHEAP) - wealth, usd(1_000_000) - world.status(s).value
    cap = usd(1_000_000) // 100
    assert cap * 7 // 10 < gained < lost <= guard(world, s).slippage.level + 10 <= cap
    deposit = world.view(world.agents.functions.agentOf(s.agent_id)).deposit
    assert deposit >= world.status(s).requiredDeposit > 3 * lost
    attack.outcome(
        gained=f"{dollars(gained)} in one transaction of {receipt['gasUsed']:,} gas; the vault lost {dollars(lost)}",
        cost=f"a deposit of {dollars(world.status(s).requiredDeposit)} that a vote can award",
        stopped_by="VaultCumulativeSlippageExceeded at 1 % of value",
    )


def test_a_push_too_far_costs_the_attacker_only(world: World, attacker: Attacker, attack: Report) -> None:
    """Sent as three transactions, because no agent's trade can be put into a stranger's: the trade reverts, the fee is
    paid."""
    s = world.deploy_strategy(assets=(CHEAP,))
    wealth, push = attacker.wealth(CHEAP), usd(2_000_000)
    [bought] = attacker.simulate([attacker.swap(push, buy=True, symbol=CHEAP)])
    attacker.run([attacker.swap(push, buy=True, symbol=CHEAP)])
    with pytest.raises(TransactionReverted) as refused:
        world.buy(s, TRADE, symbol=CHEAP)
    assert refused.value.reason.name == "VaultSlippageExceeded"
    attacker.run([attacker.swap(int.from_bytes(bought, "big"), buy=False, symbol=CHEAP)])
    lost = wealth - attacker.wealth(CHEAP)
    assert lost == pytest.approx(push * 2 // 10_000, rel=0.02)
    assert world.status(s).value == usd(1_000_000)
    attack.outcome(
        gained="one trade that did not happen", cost=f"{dollars(lost)} of fees for each block of delay",
        stopped_by="VaultSlippageExceeded",
    )  # fmt: skip


def _around_a_poke(attacker: Attacker, s: Strategy, push: int, *, buy: bool) -> list[Any]:
    pushing = attacker.swap(push, buy=buy, symbol=CHEAP)
    pushed = int.from_bytes(attacker.simulate([pushing])[0], "big")
    return [pushing, s.vault.functions.poke(), attacker.swap(pushed, buy=not buy, symbol=CHEAP)]


def test_values_limits_and_profit_follow_no_pool(world: World, attacker: Attacker, attack: Report) -> None:
    """The pool is pushed by a fifth and pulled back around pokes: neither state, value nor profit is the pool's."""
    s = world.deploy_strategy(assets=(CHEAP,))
    world.buy(s, TRADE, symbol=CHEAP)
    before, wealth = world.status(s), attacker.wealth(CHEAP)
    for buy, push in ((True, usd(20_000_000)), (False, eth(10_000))):
        attacker.run(_around_a_poke(attacker, s, push, buy=buy))
        assert world.status(s) == before
    assert guard(world, s).peak == 10**18
    cost = wealth - attacker.wealth(CHEAP)
    assert cost > 0
    attack.outcome(gained="nothing", cost=f"{dollars(cost)} of fees", stopped_by="values at Chainlink's prices only")


def test_spent_and_received_are_measured_while_the_pool_is_pushed(
    world: World, attacker: Attacker, attack: Report
) -> None:
    """A gift of quote to the vault in the middle of the same transaction: it does not make a bad fill look good."""
    s = world.deploy_strategy(world.register_agent(signer=attacker.contract), assets=(CHEAP,))
    gift = world.quote.functions.transfer(s.vault.address, usd(10_000))
    trade = attacker.trade(s, TRADE, buy=True, symbol=CHEAP)
    calls = [gift, attacker.swap(usd(1_500_000), buy=True, symbol=CHEAP), trade]
    with world.reverts("VaultSlippageExceeded", shortfall=ANY, allowed=usd(3000)):
        attacker.run(calls)
    attacker.run(attacker.sandwich(trade, usd(250_000), buy=True, symbol=CHEAP, before=[gift]))
    skimmed = one(world.send(s.vault.functions.skim(world.book.quote), world.stranger), "Skimmed")["amount"]
    assert skimmed == usd(10_000)
    assert world.status(s).value == usd(1_000_000) - guard(world, s).slippage.level
    attack.outcome(
        gained="nothing", cost=f"{dollars(skimmed)}, which the treasury has now", stopped_by="the vault's own books"
    )
