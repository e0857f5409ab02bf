"""The venue, the only door to the market: it knows genuine pools only, takes from its caller only, keeps nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from eth_abi import encode
from web3.contract import Contract

from agents.contracts import third_party
from agents.localnet import uniswap
from agents.localnet.evm import Account
from agents.localnet.market import AssetAddresses
from tests.contracts.vaults import MAX_UINT, book, guard, limits
from tests.contracts.world import World, eth, one, usd

FEE = 500


@pytest.fixture
def trader(world: World) -> Account:
    """Has quote and ETH, and lets the venue take both."""
    world.market.give_quote(world.stranger, usd(1_000_000))
    world.market.give_base("ETH", world.stranger, eth(500))
    for token in (world.book.quote, world.token_of("ETH")):
        uniswap.approve(world.evm, token, world.d.venue, MAX_UINT, owner=world.stranger)
    return world.stranger


def pool_of(world: World, symbol: str = "ETH") -> Contract:
    return world.evm.at(third_party("UniswapV3Pool"), world.book.asset(symbol).pool)


def callback_data(world: World, payer: str) -> bytes:
    words = [payer, world.book.quote, world.token_of("ETH"), FEE]
    return encode(["address", "address", "address", "uint64"], words)


# Refusals


@pytest.mark.parametrize("payer", ["trader", "venue"])
def test_a_stranger_can_not_call_back(world: World, trader: Account, payer: str) -> None:
    victim = trader.address if payer == "trader" else world.d.venue
    thief = world.relayer
    call = world.venue.functions.uniswapV3SwapCallback(usd(1000), -1, callback_data(world, victim))
    with world.reverts("VenueUnknownPool", caller=thief.address):
        world.send(call, thief)


def test_a_pool_of_other_tokens_can_not_call_back(world: World, trader: Account) -> None:
    """A genuine pool, but not the one that the data names."""
    other = pool_of(world, "BTC").address
    world.evm.impersonate(other)
    call = world.venue.functions.uniswapV3SwapCallback(usd(1000), -1, callback_data(world, trader.address))
    with world.reverts("VenueUnknownPool", caller=other):
        world.send(call, other)


def test_nobody_reaches_the_venue_through_a_genuine_pool(world: World, trader: Account) -> None:
    """A pool calls back whoever called it: a thief calls himself."""
    data = callback_data(world, trader.address)
    for zero_for_one, limit in ((True, 4_295_128_740), (False, uniswap.sqrt_price_x96(2**127, 1))):
        swap = pool_of(world).functions.swap(world.relayer.address, zero_for_one, usd(1000), limit, data)
        with world.reverts("NoReason"):
            world.send(swap, world.relayer)


def test_a_swap_takes_from_its_caller_only(world: World, trader: Account) -> None:
    """What others let the venue take is not for the caller to spend."""
    thief, quote, weth = world.relayer, world.book.quote, world.token_of("ETH")
    swap = world.venue.functions.swap(quote, weth, FEE, usd(1000), 0)
    with world.reverts("ERC20InsufficientAllowance", spender=world.d.venue, allowance=0, needed=usd(1000)):
        world.send(swap, thief)
    uniswap.approve(world.evm, quote, world.d.venue, MAX_UINT, owner=thief)
    with world.reverts("ERC20InsufficientBalance", sender=thief.address, balance=0, needed=usd(1000)):
        world.send(swap, thief)
    assert world.market.balance(quote, trader) == usd(1_000_000)


@pytest.mark.parametrize("buy", [True, False])
def test_less_than_was_asked_for_is_refused(world: World, trader: Account, buy: bool) -> None:
    quote, weth = world.book.quote, world.token_of("ETH")
    token_in, token_out, amount = (quote, weth, usd(20_000)) if buy else (weth, quote, eth(10))
    swap = world.venue.functions.swap
    best = world.evm.call(swap(token_in, token_out, FEE, amount, 0), trader)
    with world.reverts("VenueInsufficientOutput", amountOut=best, minAmountOut=best + 1):
        world.send(swap(token_in, token_out, FEE, amount, best + 1), trader)
    world.send(swap(token_in, token_out, FEE, amount, best), trader)


def test_a_market_that_does_not_exist_is_no_route(world: World) -> None:
    quote, weth = world.book.quote, world.token_of("ETH")
    check = world.venue.functions.checkRoute
    for token_a, token_b, route in (
        (quote, weth, 3000),
        (weth, quote, 3000),
        (quote, world.d.token, FEE),
        (quote, quote, FEE),
        (quote, weth, 0),
        (quote, weth, 2**24 + FEE),  # cut to 24 bits it would be the pool of another route
        (quote, weth, 2**64 - 1),
    ):
        with world.reverts("VenueNoPool", tokenIn=token_a, tokenOut=token_b, route=route):
            world.view(check(token_a, token_b, route))
    world.view(check(quote, weth, FEE))
    world.view(check(weth, quote, FEE))


def test_a_swap_in_no_pool_reverts(world: World, trader: Account) -> None:
    with world.reverts("NoReason"):
        world.send(world.venue.functions.swap(world.book.quote, world.token_of("ETH"), 3000, usd(1), 0), trader)


def test_a_swap_of_nothing_reverts(world: World, trader: Account) -> None:
    with world.reverts("Error", message="AS"):  # Uniswap's: amount specified
        world.send(world.venue.functions.swap(world.book.quote, world.token_of("ETH"), FEE, 0, 0), trader)


# A swap


@pytest.mark.parametrize("symbol", ["ETH", "BTC"])
def test_a_pool_is_found_without_asking_the_factory(world: World, symbol: str) -> None:
    asset = world.book.asset(symbol)
    for pair in ((asset.token, world.book.quote), (world.book.quote, asset.token)):
        assert world.view(world.venue.functions.poolOf(*pair, asset.pool_fee)) == asset.pool


@pytest.mark.parametrize("buy", [True, False])
def test_a_swap_pays_the_caller_what_the_market_pays(world: World, trader: Account, buy: bool) -> None:
    quote, weth = world.book.quote, world.token_of("ETH")
    token_in, token_out, amount = (quote, weth, usd(20_000)) if buy else (weth, quote, eth(10))
    quoter = world.evm.at(third_party("QuoterV2"), world.book.quoter)
    expected = world.view(quoter.functions.quoteExactInputSingle((token_in, token_out, amount, FEE, 0))).amountOut
    before = {token: world.market.balance(token, trader) for token in (token_in, token_out)}

    swap = world.venue.functions.swap(token_in, token_out, FEE, amount, expected)
    assert world.evm.call(swap, trader) == expected
    world.send(swap, trader)

    assert world.market.balance(token_in, trader) == before[token_in] - amount
    assert world.market.balance(token_out, trader) == before[token_out] + expected


def test_the_venue_keeps_nothing(world: World, trader: Account) -> None:
    quote, weth = world.book.quote, world.token_of("ETH")
    world.send(world.venue.functions.swap(quote, weth, FEE, usd(20_000), 0), trader)
    world.send(world.venue.functions.swap(weth, quote, FEE, eth(10), 0), trader)
    assert world.market.balance(quote, world.d.venue) == world.market.balance(weth, world.d.venue) == 0


# Where liquidity ends


@pytest.fixture
def shallow(world: World) -> Iterator[AssetAddresses]:
    """ETH in another pool, known as SHALLOW: about 300,000 dollars between two prices 0.6 % apart."""
    before, asset, fee = world.book, world.book.asset("ETH"), 3000
    pair = (world.book.quote, asset.token)
    price = world.view(pool_of(world).functions.slot0()).sqrtPriceX96
    pool = uniswap.create_pool(world.evm, world.book.uniswap, pair, fee, price, sender=world.deployer)

    amounts = {world.book.quote: usd(300_000), asset.token: eth(150)}
    world.market.give_quote(world.deployer, usd(300_000))
    world.market.give_base("ETH", world.deployer, eth(150))
    for token, amount in amounts.items():
        uniswap.approve(world.evm, token, world.book.positions, amount, owner=world.deployer)
    token0, token1 = uniswap.sort_tokens(*pair)
    spacing = uniswap.TICK_SPACING[fee]
    tick = world.view(world.evm.at(third_party("UniswapV3Pool"), pool).functions.slot0()).tick // spacing * spacing
    position = (token0, token1, fee, tick, tick + spacing, amounts[token0], amounts[token1], 0, 0)
    positions = world.evm.at(third_party("NonfungiblePositionManager"), world.book.positions)
    world.send(positions.functions.mint((*position, world.deployer.address, uniswap.FOREVER_S)), world.deployer)

    listed = replace(asset, symbol="SHALLOW", pool=pool, pool_fee=fee)
    world.book = replace(before, assets=(*before.assets, listed))
    yield listed
    world.book = before


def test_a_market_takes_what_it_can_and_leaves_the_rest(world: World, trader: Account, shallow: AssetAddresses) -> None:
    quote = world.book.quote
    in_pool, before = world.market.balance(shallow.token, shallow.pool), world.market.balance(quote, trader)
    swap = world.venue.functions.swap(quote, shallow.token, shallow.pool_fee, usd(900_000), 0)
    said = world.evm.call(swap, trader)
    world.send(swap, trader)
    assert 0 < before - world.market.balance(quote, trader) < usd(310_000)
    assert said == pytest.approx(in_pool, rel=1e-6)
    assert world.market.balance(quote, world.d.venue) == 0


def test_a_vault_books_what_the_market_took_where_liquidity_ends(world: World, shallow: AssetAddresses) -> None:
    s = world.deploy_strategy(assets=("SHALLOW",), limits=limits(max_trade_slippage_bps=100))
    trade = one(world.buy(s, usd(600_000), symbol="SHALLOW"), "TradeRecorded")["trade"]
    quote, vault = world.book.quote, s.vault.address
    assert 0 < trade["amountIn"] < usd(310_000)
    assert book(world, s).quoteHeld == world.market.balance(quote, vault) == usd(1_000_000) - trade["amountIn"]
    assert world.held(s) == world.market.balance(shallow.token, vault) == trade["amountOut"]
    assert guard(world, s).turnoverToday == trade["amountIn"]
    assert trade["netAssetValue"] == world.status(s).value == usd(1_000_000) - trade["shortfall"]
