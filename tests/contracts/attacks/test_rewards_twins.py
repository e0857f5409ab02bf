"""Twins of one person that bet against each other: one of them must win. Both ways of the market, exactly."""

from __future__ import annotations

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import branch, least_bond, paid_less_taken, profit, say_tokens
from tests.contracts.world import REWARD_RATE, World, usd


def test_twins_that_bet_against_each_other_earn_their_fees_with_a_minus(world: World, attack: Report) -> None:
    """Vaults can't be short; a rise of ETH against BTC, or of BTC against ETH, makes each the other's opposite."""
    twins = {}
    for symbol in ("ETH", "BTC"):
        agent_id = world.register_agent(bond_wei=least_bond(world))
        twins[symbol] = world.deploy_strategy(agent_id, assets=(symbol,))
        world.buy(twins[symbol], usd(500_000), symbol=symbol)
    fees = sum(profit(world, s) for s in twins.values())
    assert fees < 0
    totals = []
    for eth_usd, btc_usd in ((2100, 57_000), (1900, 63_000)):
        with branch(world):
            world.set_price("ETH", eth_usd, pool_follows=False)
            world.set_price("BTC", btc_usd, pool_follows=False)
            world.to_next_window()
            for s in twins.values():
                world.poke(s)
            world.to_window_end()
            for s in twins.values():
                world.apply(s, world.close(s))
            results = [paid_less_taken(world, s) for s in twins.values()]
            assert min(results) < 0 < max(results), "one of them won"
            assert sum(results) == sum(profit(world, s) for s in twins.values()) * REWARD_RATE
            totals.append(sum(results))
    assert abs(sum(totals) - 2 * fees * REWARD_RATE) <= 4 * REWARD_RATE
    attack.outcome(
        gained=f"{say_tokens(sum(totals) // 2)} expected",
        cost="fees of buying, and twice the stake",
        stopped_by="linear: what one is paid, the other loses",
    )


def test_a_twin_in_cash_adds_nothing_to_one_at_risk(world: World, attack: Report) -> None:
    """The nearest to a short that a vault can be. Both ways of the market, exactly."""
    risky = world.deploy_strategy(world.register_agent(bond_wei=least_bond(world)))
    world.buy(risky, usd(500_000))
    cash = world.deploy_strategy(world.register_agent(bond_wei=least_bond(world)))
    fee = profit(world, risky)
    total = 0
    for price in (2150, 1850):
        with branch(world):
            world.set_price("ETH", price, pool_follows=False)
            world.to_next_window()
            for s in (risky, cash):
                world.poke(s)
            world.to_window_end()
            assert world.close(cash) == 0
            world.apply(risky, world.close(risky))
            total += paid_less_taken(world, risky)
    assert abs(total - 2 * fee * REWARD_RATE) <= 4 * REWARD_RATE and total < 0
    attack.outcome(gained=f"{say_tokens(total // 2)} expected", cost="the fee of buying", stopped_by="linear both ways")
