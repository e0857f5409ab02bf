"""Trading with oneself while the feed lags behind the market: fair by the oracle, a gift by the market.

Chainlink publishes when the price has moved by the feed's deviation threshold (0.5 % for ETH/USD on mainnet,
https://data.chain.link/feeds/ethereum/mainnet/eth-usd) or its heartbeat has passed, so that far the oracle may always
be off. The slippage sums measure against the oracle and do not see that part.
"""

from __future__ import annotations

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import Attacker, Listing, dollars
from tests.contracts.vaults import book, guard
from tests.contracts.world import ANY, DAY_S, LIMITS, RULES, World, eth, usd

OWN = "OWN"
LOW, HIGH = 2000, 2010
CAPITAL = usd(1_000_000)


def test_an_agent_trades_with_itself_at_prices_that_the_market_has_left(
    world: World, monkeypatch: pytest.MonkeyPatch, attack: Report
) -> None:
    """The market swings by half a percent and the feed follows late. Before it does, the agent's contract pushes the
    pool to the feed's price and as far beyond as slippage allows, has the vault trade, and pulls the pool back: the
    vault buys high and sells low. It begins and ends in quote, so what it lost is lost for certain."""
    Listing(world, monkeypatch).second_pool("ETH", fee=100, price_usd="2000", liquidity_usd=400_000_000, name=OWN)
    attacker = Attacker(world)
    attacker.fund(quote=usd(50_000_000), base=eth(25_000), symbol=OWN)
    s = world.deploy_strategy(world.register_agent(signer=attacker.contract), assets=(OWN,))
    wealth, measured = attacker.wealth(OWN), 0

    def trade(nonce: int, amount_in: int, *, push: int) -> None:
        """The market is there already, the feed is not; then the feed comes too."""
        nonlocal measured
        buy = nonce % 2 == 0
        market, feed = (LOW, HIGH) if buy else (HIGH, LOW)
        world.set_price("ETH", market, pool_follows=False)
        world.market.arbitrage(OWN)
        world.set_price("ETH", feed, pool_follows=False)
        order = attacker.trade(s, amount_in, buy=buy, symbol=OWN, nonce=nonce)
        attacker.run(attacker.sandwich(order, push, buy=buy, symbol=OWN))
        measured = guard(world, s).slippage.level
        world.set_price("ETH", market, pool_follows=False)

    # Half a percent of a side of 200 million is half a million; what the push goes beyond that is slippage too.
    trade(0, usd(480_000), push=usd(640_000))
    trade(1, world.held(s), push=eth(320))
    trade(2, usd(480_000), push=usd(640_000))
    trade(3, world.held(s), push=eth(320))
    with world.reverts("VaultTurnoverExceeded", turnover=ANY, allowed=ANY):
        trade(4, usd(480_000), push=usd(640_000))

    gained, lost = attacker.wealth(OWN, LOW) - wealth, CAPITAL - book(world, s).quoteHeld
    assert world.held(s) == 0
    promised = CAPITAL * LIMITS.max_cumulative_slippage_bps // 10_000
    promised += promised * DAY_S // RULES.slippage_decay_s
    unseen = lost - measured
    # Two swings of half a percent on what was traded.
    swing = 2 * usd(480_000) * (HIGH - LOW) // LOW
    assert unseen == pytest.approx(swing, rel=0.05)
    assert promised < lost < promised + swing
    assert lost < world.status(s).requiredDeposit
    attack.outcome(
        gained=f"{dollars(gained)} in a day; the vault lost {dollars(lost)}, {dollars(unseen)} of it unseen by the sum",
        cost=f"a deposit of {dollars(world.status(s).requiredDeposit)}; two swings at the right moments",
        stopped_by="VaultTurnoverExceeded (half the turnover x the lag, a day); then daily loss and drawdown",
    )
