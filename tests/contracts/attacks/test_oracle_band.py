"""The quote token's band, and feeds that say the price of something else.

Within [0.98, 1.02] the quote token counts as healthy, and assets are priced in it: ETH/USD through quote/USD.
"""

from __future__ import annotations

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import Attacker, Listing, dollars
from tests.contracts.vaults import Reason, condition, guard
from tests.contracts.world import ANY, HOUR_S, Strategy, World, eth, one, usd

OWN = "OWN"


def own_market(world: World, monkeypatch: pytest.MonkeyPatch) -> tuple[Attacker, Strategy]:
    """A strategy of which an attacker's contract is the key, with about 240 ETH bought at the market's price."""
    Listing(world, monkeypatch).second_pool("ETH", fee=100, price_usd="2000", liquidity_usd=400_000_000, name=OWN)
    attacker = Attacker(world)
    attacker.fund(quote=usd(50_000_000), base=eth(25_000), symbol=OWN)
    s = world.deploy_strategy(world.register_agent(signer=attacker.contract), assets=(OWN,))
    attacker.run([attacker.trade(s, usd(480_000), buy=True, symbol=OWN)])
    world.market.arbitrage(OWN)
    return attacker, s


@pytest.mark.parametrize(("quote_usd", "trades"), [("1.02", True), ("1.02000001", False)])
def test_selling_to_oneself_while_the_quote_s_feed_is_off(
    world: World, monkeypatch: pytest.MonkeyPatch, attack: Report, quote_usd: str, trades: bool
) -> None:
    """The quote token's feed says 1.02 while its market says 1: by the oracle ETH is worth 2 % less. The agent pushes
    the pool there, has the vault sell, and pulls it back. One step of the feed further there is no price."""
    attacker, s = own_market(world, monkeypatch)
    wealth, held, before = attacker.wealth(OWN), world.held(s), world.status(s).value
    level = guard(world, s).slippage.level
    world.set_price("MUSD", quote_usd)
    order = attacker.trade(s, held, buy=False, symbol=OWN)
    if trades:
        attacker.run(attacker.sandwich(order, eth(900), buy=False, symbol=OWN))
    else:
        attacker.run([order])
        assert condition(world, s)[1] & Reason.QUOTE_UNHEALTHY
    world.set_price("MUSD", "1")
    gained, lost = attacker.wealth(OWN, 2000) - wealth, before - world.status(s).value
    # 2 % of what was held, and slippage on top, which the sum does see.
    seen = guard(world, s).slippage.level - level if trades else 0
    assert (world.held(s) == 0) == trades
    assert lost == pytest.approx(held * 2000 // 10**12 * 2 // 102 + seen, rel=0.02) if trades else lost == 0
    assert gained <= lost
    attack.outcome(
        gained=f"{dollars(gained)}; the vault lost {dollars(lost)}, of which {dollars(seen)} were seen",
        cost="a quote feed that is wrong by 2 %", stopped_by="QUOTE_UNHEALTHY" if not trades else "the band, turnover",
    )  # fmt: skip


def test_moving_the_quote_within_its_band_prints_no_reward(world: World, strategy: Strategy, attack: Report) -> None:
    """At 0.98 the ETH in the vault are worth 2 % more of it. The window pays on its lowest observation, so one poke at
    one dollar is enough."""
    world.buy(strategy, usd(500_000))
    world.to_next_window()
    profits = []
    for quote_usd in ("0.98", "1", "0.98"):
        world.set_price("MUSD", quote_usd)
        profits.append(int(one(world.poke(strategy), "ProfitObserved")["profit"]))
    assert max(profits) > usd(9000) > 0 > min(profits)
    world.to_window_end()
    assert world.close(strategy) <= 0
    attack.outcome(
        gained=f"nothing; {dollars(max(profits))} on paper", cost="a depeg that lasts for all of a window",
        stopped_by="the lowest observation",
    )  # fmt: skip


def test_a_worthless_token_that_was_listed_with_another_s_feed(
    world: World, monkeypatch: pytest.MonkeyPatch, attack: Report
) -> None:
    """Two assets with one feed: the voters list the agent's own token with ETH's. It sells its token to the vault at
    2,000 dollars, from its own pool. Nothing in a vault can see that; weight bounds what is lost."""
    Listing(world, monkeypatch).token(symbol="T", price_usd="2000", liquidity_usd=200_000_000)
    feed = world.book.asset("ETH").feed
    token = world.token_of("T")
    world.as_timelock(world.oracle.functions.setFeed(token, feed, 2 * HOUR_S, 10**8, 10**14))
    attacker = Attacker(world)
    attacker.fund(base=eth(1_000_000), symbol="T")
    s = world.deploy_strategy(world.register_agent(signer=attacker.contract), assets=("T", "ETH"))
    for paid, sold in ((usd(300_000), eth(150)), (usd(290_000), eth(145))):
        buy = attacker.trade(s, paid, buy=True, symbol="T")
        attacker.run([buy, attacker.swap(sold, buy=False, symbol="T")])
    taken = world.market.balance(world.book.quote, attacker.address)
    with world.reverts("VaultPositionExceeded", asset=token, positionValue=ANY, allowed=ANY):
        attacker.run([attacker.trade(s, usd(50_000), buy=True, symbol="T")])
    assert usd(585_000) < taken < usd(600_000)
    assert world.status(s).value > usd(997_000)
    attack.outcome(
        gained=f"{dollars(taken)} of a million", cost="two votes: a feed and a manifest with the agent's own token",
        stopped_by="maxPositionBps only: voters list feeds and tokens",
    )  # fmt: skip
