"""Tokens as they are: of any decimals, with fees, without return values, rebasing, calling back; in genuine pools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal

import pytest
from eth_utils import keccak
from web3.contract import Contract

from agents.localnet import feeds, uniswap
from agents.localnet.evm import start_evm
from agents.localnet.market import AssetAddresses
from tests.contracts.vaults import (
    MAX_UINT,
    Desk,
    Reason,
    State,
    allocate,
    book,
    condition,
    guard,
    halt,
    recall,
    turn_faulty,
)
from tests.contracts.world import ANY, HOUR_S, LIMITS, WAD, Strategy, World, eth, none_of, one, struct, tokens, usd

POOL_FEE = 500
BUSY = keccak(text="ReentrancyGuardReentrantCall()")[:4]

Lister = Callable[..., Contract]


@pytest.fixture
def list_token(world: World) -> Iterator[Lister]:
    """Lists a new token, of any of the mocks, with a feed and a deep pool at its price."""
    market, before = world.market, world.market.book

    def build(name: str, *args: object, price_usd: str = "2", decimals: int = 18) -> Contract:
        token = world.evm.deploy(name, *args, sender=world.deployer)
        feed = feeds.deploy_feed(world.evm, "T / USD", 8, owner=world.deployer, transmitter=market.publisher)
        answer = feeds.to_answer(Decimal(price_usd), 8)
        feeds.publish(world.evm, feed, answer, transmitter=market.publisher)
        asset = AssetAddresses(
            symbol="T", token=token.address, decimals=decimals, feed=feed, pool=token.address, pool_fee=POOL_FEE
        )
        pair, price = (token.address, before.quote), market._target_sqrt_x96(asset)
        pool = uniswap.create_pool(world.evm, before.uniswap, pair, POOL_FEE, price, sender=world.deployer)
        asset = replace(asset, pool=pool)
        market._add_liquidity(asset, Decimal(price_usd), Decimal(2_000_000_000))
        market.book = world.book = replace(before, assets=(*before.assets, asset))
        bounds = (1, 10**16)
        world.as_timelock(world.oracle.functions.setFeed(token.address, feed, 2 * HOUR_S, *bounds))
        return token

    yield build
    market.book = world.book = before


def deploy(world: World, symbol: str = "T", **options: object) -> Strategy:
    return world.deploy_strategy(assets=(symbol,), **options)


# Decimals

KINDS = [(0, "300"), (6, "1.2345"), (8, "60000.00000001"), (18, "2000"), (18, "0.00001234"), (24, "17.5")]


@pytest.mark.parametrize(("decimals", "price"), KINDS)
def test_a_token_of_any_decimals_is_bought_valued_sold_and_recalled(
    world: World, list_token: Lister, decimals: int, price: str
) -> None:
    token = list_token("MockToken", "Token", "T", decimals, price_usd=price, decimals=decimals)
    s = deploy(world)
    lost = 0

    trade = one(world.buy(s, usd(300_000), symbol="T"), "TradeRecorded")["trade"]
    lost += trade["shortfall"]
    assert trade["amountOut"] == world.held(s, "T") == world.market.balance(token.address, s.vault.address)
    worth = int(world.held(s, "T") * Decimal(price) * 10**6) // 10**decimals
    assert world.status(s).value == usd(700_000) + worth == usd(1_000_000) - lost
    # 0.05 % is the pool's fee, 0.03 % what the trade moves it; the rest, what a base unit is worth.
    assert usd(149) < lost < usd(240) + usd(price) // 10**decimals

    one(recall(world, s, token.address, world.held(s, "T") // 3), "Recalled")
    assert abs(world.status(s).profit + lost) <= 1

    lost += one(world.sell(s, world.held(s, "T"), symbol="T"), "TradeRecorded")["trade"]["shortfall"]
    assert world.held(s, "T") == 0
    # What the ledger says was lost is what the vault has lost: rounding costs it a base unit a time at most.
    assert 0 <= lost + world.status(s).profit <= 3


# A fee on every transfer


def test_a_token_that_keeps_a_fee_is_booked_as_it_arrives(world: World, list_token: Lister) -> None:
    token = list_token("FaultyToken", "Fee", "T", 18)
    s = deploy(world)
    world.send(token.functions.setFeeBps(10), world.deployer)
    trade = one(world.buy(s, usd(100_000), symbol="T"), "TradeRecorded")["trade"]
    assert trade["amountOut"] == world.held(s, "T") == world.market.balance(token.address, s.vault.address)
    # 0.1 % for the token, 0.05 % for the pool.
    assert usd(149) < trade["shortfall"] < usd(165)
    assert world.status(s).profit == -trade["shortfall"]


def test_a_token_s_fee_counts_against_the_guard_and_the_agent_s_minimum(world: World, list_token: Lister) -> None:
    token = list_token("FaultyToken", "Fee", "T", 18)
    s = deploy(world)
    world.send(token.functions.setFeeBps(100), world.deployer)
    with world.reverts("VaultSlippageExceeded", shortfall=ANY, allowed=usd(600)):
        world.buy(s, usd(100_000), symbol="T")
    with world.reverts("VaultShortPaid", received=ANY, due=eth(49_900)):
        world.buy(s, usd(100_000), symbol="T", minAmountOut=eth(49_900))


def test_a_token_whose_fee_the_market_does_not_take_can_still_be_recalled(world: World, list_token: Lister) -> None:
    token = list_token("FaultyToken", "Fee", "T", 18)
    s = deploy(world)
    world.buy(s, usd(100_000), symbol="T")
    world.send(token.functions.setFeeBps(10), world.deployer)
    with world.reverts("Error", message="IIA"):  # Uniswap's: it was paid too little
        world.sell(s, eth(100), symbol="T")
    held = world.held(s, "T")
    assert one(recall(world, s, token.address), "Recalled")["amount"] == held
    assert world.market.balance(token.address, world.d.treasury) == held - held // 1000


# No return values


def test_a_token_without_return_values_trades_leaves_and_is_auctioned(world: World, list_token: Lister) -> None:
    """As USDT: it also takes no new allowance before the old one is zero."""
    token = list_token("NoReturnToken", 6, decimals=6)
    s = deploy(world)
    world.buy(s, usd(300_000), symbol="T")
    world.sell(s, usd(10_000), symbol="T")
    one(recall(world, s, token.address, usd(10_000)), "Recalled")
    world.evm.impersonate(world.d.strategies)
    m = s.manifest
    world.send(s.vault.functions.update(m["artefactHash"], m["limits"], m["assets"]), world.d.strategies)
    world.sell(s, usd(10_000), symbol="T")

    halt(world, s)
    world.market.give_quote(world.bidder, usd(1_000_000))
    world.send(world.quote.functions.approve(s.vault.address, MAX_UINT), world.bidder)
    world.new_round("T")
    filled = one(world.send(s.vault.functions.fillAuction(token.address, MAX_UINT), world.bidder), "AuctionFilled")
    assert world.market.balance(token.address, world.bidder) == filled["amount"] > 0


# Rebasing


@pytest.fixture
def rebasing(world: World, list_token: Lister) -> tuple[Strategy, Contract]:
    """A strategy that holds 149,925 of a rebasing token worth two dollars each, about 300,000."""
    token = list_token("RebasingToken", 18)
    s = deploy(world)
    world.buy(s, usd(300_000), symbol="T")
    return s, token


def rebase(world: World, token: Contract, percent: int) -> None:
    world.send(token.functions.rebase(WAD * percent // 100), world.deployer)


def test_a_balance_that_grows_by_itself_is_no_profit(world: World, rebasing: tuple[Strategy, Contract]) -> None:
    s, token = rebasing
    before, held = world.status(s), world.held(s, "T")
    rebase(world, token, 110)
    assert world.status(s) == before
    with world.reverts("VaultInsufficientHoldings", token=token.address, held=held, needed=held + 1):
        world.sell(s, held + 1, symbol="T")
    skimmed = one(world.send(s.vault.functions.skim(token.address), world.stranger), "Skimmed")["amount"]
    assert abs(skimmed - held // 10) <= 1
    assert world.status(s) == before


def test_a_balance_that_shrinks_is_a_loss(world: World, rebasing: tuple[Strategy, Contract]) -> None:
    s, token = rebasing
    before = world.status(s)
    rebase(world, token, 90)
    balance = world.market.balance(token.address, s.vault.address)
    status = world.status(s)
    assert status.value == usd(700_000) + balance * 2 // 10**12
    assert before.profit - status.profit == pytest.approx(usd(30_000), rel=0.001)
    with world.reverts("VaultInsufficientHoldings", token=token.address, held=balance, needed=balance + 1):
        world.sell(s, balance + 1, symbol="T")


def test_what_a_rebase_took_is_written_off_before_the_vault_is_empty(
    world: World, rebasing: tuple[Strategy, Contract]
) -> None:
    s, token = rebasing
    held = world.held(s, "T")
    rebase(world, token, 90)
    balance = world.market.balance(token.address, s.vault.address)
    assert one(recall(world, s, token.address), "Recalled")["amount"] == balance
    recall(world, s, world.book.quote)
    assert not world.view(s.vault.functions.isEmpty())
    assert world.held(s, "T") == held - balance
    world.as_timelock(world.strategies.functions.writeOff(s.id, token.address))
    assert world.view(s.vault.functions.isEmpty())
    assert book(world, s).units == 0


# Calling back


def calls_of(world: World, s: Strategy, token: str) -> dict[str, bytes]:
    f = s.vault.functions
    order = struct(world.order(s, usd(1), buy=True, asset=token))
    calls = {
        "trade": f.trade(order),
        "poke": f.poke(),
        "fillAuction": f.fillAuction(token, MAX_UINT),
        "skim": f.skim(token),
        "status": f.status(),
    }
    return {name: bytes.fromhex(call._encode_transaction_data()[2:]) for name, call in calls.items()}


CALLS = ["trade", "poke", "fillAuction", "skim", "status"]


def assert_turned_away(world: World, token: Contract) -> None:
    assert not world.view(token.functions.hookSucceeded())
    assert bytes(world.view(token.functions.hookAnswer())) == BUSY


@pytest.mark.parametrize("call", CALLS)
def test_a_token_calling_back_during_a_trade_is_turned_away(world: World, list_token: Lister, call: str) -> None:
    token = list_token("FaultyToken", "Hook", "T", 18)
    s = deploy(world)
    world.send(token.functions.setHook(s.vault.address, calls_of(world, s, token.address)[call]), world.deployer)
    trade = one(world.buy(s, usd(100_000), symbol="T"), "TradeRecorded")["trade"]
    assert_turned_away(world, token)
    assert world.held(s, "T") == trade["amountOut"]
    assert guard(world, s).nonce == 1


@pytest.mark.parametrize("flow", ["recall", "skim", "fill"])
def test_a_token_calling_back_while_it_leaves_is_turned_away(world: World, list_token: Lister, flow: str) -> None:
    token = list_token("FaultyToken", "Hook", "T", 18)
    s = deploy(world)
    world.buy(s, usd(100_000), symbol="T")
    halt(world, s)
    world.market.give_quote(world.bidder, usd(1_000_000))
    world.send(world.quote.functions.approve(s.vault.address, MAX_UINT), world.bidder)
    world.send(token.functions.mint(s.vault.address, 1), world.deployer)
    world.send(token.functions.setHook(s.vault.address, calls_of(world, s, token.address)["status"]), world.deployer)
    if flow == "recall":
        recall(world, s, token.address, 1)
    else:
        f = s.vault.functions
        world.new_round("T")
        call = f.skim(token.address) if flow == "skim" else f.fillAuction(token.address, MAX_UINT)
        world.send(call, world.bidder)
    assert_turned_away(world, token)


@pytest.mark.parametrize("call", CALLS)
def test_a_quote_token_calling_back_during_a_flow_is_turned_away(world: World, strategy: Strategy, call: str) -> None:
    quote = turn_faulty(world, world.book.quote, 6)
    data = calls_of(world, strategy, world.token_of("ETH"))[call]
    world.send(quote.functions.setHook(strategy.vault.address, data), world.deployer)
    allocate(world, strategy, usd(1000))
    assert_turned_away(world, quote)
    recall(world, strategy, quote.address, usd(1000))
    assert_turned_away(world, quote)


# Dying in the middle of things


def test_a_token_that_refuses_transfers_stops_its_own_trades_only(world: World) -> None:
    desk = Desk(world, assets=("ETH", "BTC"))
    desk.buy(usd(60_000), 10**8, symbol="BTC")
    token = turn_faulty(world, world.token_of("BTC"), 8)
    world.send(token.functions.setRefusing(True), world.deployer)
    with world.reverts("SafeERC20FailedOperation", token=token.address):
        desk.sell(10**8, usd(60_000), symbol="BTC")
    desk.buy(usd(2000), eth(1))
    assert condition(world, desk.s) == (State.ACTIVE, Reason(0))


def test_a_token_without_a_balance_to_read_is_refused_like_one_without_a_price(world: World) -> None:
    desk = Desk(world, assets=("ETH", "BTC"))
    desk.buy(usd(60_000), 10**8, symbol="BTC")
    token = turn_faulty(world, world.token_of("BTC"), 8)
    world.send(token.functions.setBalanceHidden(True), world.deployer)
    refused = one(desk.sell(10**8, usd(60_000), symbol="BTC"), "TradeRefused")
    assert refused["reasons"] == Reason.PRICE_MISSING
    halt(world, desk.s)
    with world.reverts("VaultNotPriced", reasons=Reason.PRICE_MISSING | Reason.HALTED):
        world.send(desk.s.vault.functions.fillAuction(token.address, MAX_UINT), world.bidder)


# A quote token of 18 decimals


def test_the_same_story_with_a_quote_token_of_18_decimals() -> None:
    """Deployed, funded, traded, reduced, resumed, settled and recalled. A base unit of quote is then 1e-18 dollars, so
    the smallest reward is one token a dollar."""
    dollars = eth
    with start_evm() as evm:
        world = World(evm, quote_decimals=18)
        agent_id = world.register_agent(bond_wei=tokens(50_000), deposit=dollars(6000))
        s = world.deploy_strategy(agent_id, limits=LIMITS, capital=dollars(100_000), rewardRate=1)
        assert book(world, s).units == dollars(100_000) * 10**12

        trade = one(world.buy(s, dollars(50_000)), "TradeRecorded")["trade"]
        assert trade["amountIn"] == dollars(50_000)
        assert dollars(25) < trade["shortfall"] < dollars(28)
        status = world.status(s)
        assert status.value == trade["netAssetValue"] == dollars(100_000) - trade["shortfall"]
        assert status.requiredDeposit == -(-status.value * 4 // 100)
        with world.reverts("VaultPositionExceeded", asset=world.token_of("ETH"), positionValue=ANY, allowed=ANY):
            world.buy(s, dollars(20_000))

        world.set_price("ETH", 1700)  # 7.5 % lost
        assert condition(world, s) == (State.REDUCING, Reason.DAY_LOSS)
        assert one(world.buy(s, dollars(1)), "TradeRefused")["reasons"] == Reason.DAY_LOSS
        assert none_of(world.sell(s, eth(1)), "TradeRefused")

        world.set_price("ETH", 2200)
        move = world.settle(s)
        assert move == min(world.status(s).profit, s.manifest["rewardCap"])
        profit = world.status(s).profit
        for token in (world.token_of("ETH"), world.book.quote):
            recall(world, s, token)
        assert book(world, s)[:2] == (0, 0)
        assert abs(world.status(s).profit - profit) <= 1
        assert world.market.balance(world.book.quote, world.d.treasury) > dollars(19_950_000)
