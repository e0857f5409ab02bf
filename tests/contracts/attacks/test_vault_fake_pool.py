"""A route to a pool that is not the market: empty, uninitialised, or the attacker's own at a price of his choice.

A route is voted; these are votes that looked harmless: another fee tier of the same pair in the genuine factory.
"""

from __future__ import annotations

import pytest

from agents.contracts import third_party
from agents.localnet import uniswap
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import Listing, dollars
from tests.contracts.vaults import book, guard
from tests.contracts.world import ANY, Strategy, World, one, usd

FAKE = "FAKE"


@pytest.fixture
def listing(world: World, monkeypatch: pytest.MonkeyPatch) -> Listing:
    return Listing(world, monkeypatch)


def untouched(world: World, s: Strategy) -> bool:
    return world.status(s).value == usd(1_000_000) == book(world, s).quoteHeld and guard(world, s).nonce == 0


def test_a_pool_without_liquidity_takes_nothing(world: World, listing: Listing, attack: Report) -> None:
    listing.second_pool("ETH", fee=10_000, price_usd="2000", liquidity_usd=0, name=FAKE)
    s = world.deploy_strategy(assets=(FAKE,))
    with world.reverts("VaultZeroAmount"):
        world.buy(s, usd(100_000), symbol=FAKE)
    assert untouched(world, s)
    attack.outcome(gained="nothing", cost="a pool and a vote", stopped_by="VaultZeroAmount")


def test_a_pool_that_was_never_initialised_takes_nothing(world: World, listing: Listing, attack: Report) -> None:
    """Its code is there, which is all that a route's check can ask."""
    factory = world.evm.at(third_party("UniswapV3Factory"), world.book.factory)
    pair = uniswap.sort_tokens(world.token_of("ETH"), world.book.quote)
    world.send(factory.functions.createPool(*pair, 3000), world.stranger)
    listing.know("ETH", fee=3000, name=FAKE)
    s = world.deploy_strategy(assets=(FAKE,))
    with world.reverts("Error", message="LOK"):  # Uniswap's: it is locked until it has a price
        world.buy(s, usd(100_000), symbol=FAKE)
    assert untouched(world, s)
    attack.outcome(gained="nothing", cost="a pool and a vote", stopped_by="Uniswap itself")


@pytest.mark.parametrize("price_usd", ["2013", "4000", "1000000"])
def test_the_attacker_s_own_pool_sells_too_dear(world: World, listing: Listing, attack: Report, price_usd: str) -> None:
    """He is its only provider, so all that a trade loses there is his."""
    listing.second_pool("ETH", fee=3000, price_usd=price_usd, liquidity_usd=2_000_000_000, name=FAKE)
    s = world.deploy_strategy(assets=(FAKE,))
    with world.reverts("VaultSlippageExceeded", shortfall=ANY, allowed=usd(600)):
        world.buy(s, usd(100_000), symbol=FAKE)
    assert untouched(world, s)
    attack.outcome(gained="nothing", cost="a pool and a vote", stopped_by="VaultSlippageExceeded")


def test_a_pool_that_takes_only_a_little_is_judged_by_what_it_took(
    world: World, listing: Listing, attack: Report
) -> None:
    """An order for half a million, a pool with ten thousand dollars in it: what it can't fill at a fair price it may
    not fill at any."""
    listing.second_pool("ETH", fee=3000, price_usd="2000", liquidity_usd=20_000, name=FAKE)
    s = world.deploy_strategy(assets=(FAKE,))
    with world.reverts("VaultSlippageExceeded", shortfall=ANY, allowed=usd(3000)):
        world.buy(s, usd(500_000), symbol=FAKE)
    small = one(world.buy(s, usd(20), symbol=FAKE), "TradeRecorded")["trade"]
    assert small["shortfall"] < usd("0.12")
    attack.outcome(
        gained=f"{dollars(small['shortfall'])} of $20", cost="liquidity at the oracle's price",
        stopped_by="VaultSlippageExceeded on all that is larger",
    )  # fmt: skip


@pytest.mark.parametrize("route", [2**24 + 500, 2**64 - 1, 123])
def test_a_route_that_only_looks_like_the_market_s_is_no_route(world: World, attack: Report, route: int) -> None:
    """Cut to Uniswap's 24 bits, the first would be the genuine pool's."""
    weth = world.token_of("ETH")
    manifest = world.manifest(world.register_agent()) | {"assets": [(weth, route)]}
    with world.reverts("VenueNoPool", tokenIn=world.book.quote, tokenOut=weth, route=route):
        world.submit(manifest)
    attack.outcome(gained="nothing", cost="gas", stopped_by="VenueNoPool")
