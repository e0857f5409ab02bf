"""What attacks on vaults and oracles share: an attacker's contract, tokens and pools of one's own, and sums of
money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from web3.contract import Contract

from agents.contracts import third_party
from agents.localnet import feeds, uniswap
from agents.localnet.evm import Account
from agents.localnet.market import AssetAddresses
from tests.contracts.vaults import MAX_UINT
from tests.contracts.world import HOUR_S, Strategy, World, struct

POOL_FEE = 500


def dollars(amount: int | Decimal, *, decimals: int = 6) -> str:
    """Base units of quote, as a report says it."""
    return f"${Decimal(amount).scaleb(-decimals):,.2f}"


def data_of(call: Any) -> bytes:
    """The call data of a bound contract function."""
    return bytes.fromhex(call._encode_transaction_data()[2:])


class Attacker:
    """A contract that does everything in one transaction, and has all the money it could borrow: loans cost nothing
    here, which favours it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.contract = world.evm.deploy("AttackerScript", sender=world.stranger)
        self.address = self.contract.address

    def run(self, calls: Sequence[Any]) -> Any:
        """All the calls or none; returns the receipt."""
        return self.world.evm.send(self._run(calls), self.world.stranger)

    def simulate(self, calls: Sequence[Any]) -> list[bytes]:
        """What the calls would answer."""
        return [bytes(answer) for answer in self.world.evm.call(self._run(calls), self.world.stranger)]

    def arm(self, calls: Sequence[Any]) -> None:
        """From now on it makes these calls whenever it is called back."""
        steps = [(call.address, data_of(call)) for call in calls]
        self.world.send(self.contract.functions.arm(steps), self.world.stranger)

    def _run(self, calls: Sequence[Any]) -> Any:
        return self.contract.functions.run([(call.address, data_of(call)) for call in calls])

    def outcomes(self) -> list[tuple[bool, bytes]]:
        return [(done, bytes(answer)) for done, answer in self.world.view(self.contract.functions.outcomes())]

    def approve(self, token: str, spender: str) -> None:
        self.run([uniswap.erc20(self.world.evm, token).functions.approve(spender, MAX_UINT)])

    def fund(self, *, quote: int = 0, base: int = 0, symbol: str = "ETH") -> None:
        """Money, and the router's allowance to swap it."""
        world = self.world
        if quote:
            world.market.give_quote(self.address, quote)
        if base:
            world.market.give_base(symbol, self.address, base)
        for token in (world.book.quote, world.token_of(symbol)):
            self.approve(token, world.book.router)

    def swap(self, amount_in: int, *, buy: bool, symbol: str = "ETH") -> Any:
        """A call of Uniswap's router: quote for the asset, or back."""
        asset, quote = self.world.book.asset(symbol), self.world.book.quote
        path = (quote, asset.token) if buy else (asset.token, quote)
        order = (*path, asset.pool_fee, self.address, uniswap.FOREVER_S, amount_in, 0, 0)
        return self.world.evm.at(third_party("SwapRouter"), self.world.book.router).functions.exactInputSingle(order)

    def trade(self, s: Strategy, amount_in: int, *, buy: bool, **over: Any) -> Any:
        """A call of the vault, whose signing key this contract is."""
        return s.vault.functions.trade(struct(self.world.order(s, amount_in, buy=buy, **over)))

    def sandwich(self, trade: Any, push: int, *, buy: bool, symbol: str, before: Sequence[Any] = ()) -> list[Any]:
        """The calls before, and then: push the pool the way the vault trades, the vault's trade, and all the way
        back."""
        calls = [*before, self.swap(push, buy=buy, symbol=symbol), trade]
        answers = self.simulate(calls)
        moved = sum(int.from_bytes(answer, "big") for answer in answers[-2:])
        return [*calls, self.swap(moved, buy=not buy, symbol=symbol)]

    def wealth(self, symbol: str = "ETH", price_usd: int | str | Decimal | None = None) -> int:
        """Its quote, and its asset at a price (default: the feeds'), in base units of quote."""
        world, asset = self.world, self.world.book.asset(symbol)
        price = world.market.oracle_price(symbol) if price_usd is None else Decimal(price_usd)
        held = Decimal(world.market.balance(asset.token, self.address)).scaleb(-asset.decimals)
        return world.market.balance(world.book.quote, self.address) + int(
            (held * price).scaleb(world.book.quote_decimals)
        )


class Listing:
    """Markets that are listed for one test only: `world.book` must not outlive the test's chain."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        for holder in (world, world.market):
            monkeypatch.setattr(holder, "book", world.book)

    def token(
        self,
        contract: str = "MockToken",
        *args: object,
        symbol: str = "T",
        price_usd: str | Decimal = "2",
        decimals: int = 18,
        fee: int = POOL_FEE,
        liquidity_usd: int = 2_000_000_000,
        bounds: tuple[int, int] = (1, 10**16),
    ) -> Contract:
        """A new token of any of the mocks, with a proxy-and-aggregator feed and a pool at its price."""
        world, market = self.world, self.world.market
        token = world.evm.deploy(contract, *(args or ("Token", symbol, decimals)), sender=world.deployer)
        feed = feeds.deploy_feed(world.evm, f"{symbol} / USD", 8, owner=world.deployer, transmitter=market.publisher)
        answer = feeds.to_answer(Decimal(price_usd), 8)
        feeds.publish(world.evm, feed, answer, transmitter=market.publisher)
        self._pool(AssetAddresses(
            symbol=symbol, token=token.address, decimals=decimals, feed=feed, pool=token.address, pool_fee=fee
        ), Decimal(price_usd), liquidity_usd)  # fmt: skip
        world.as_timelock(world.oracle.functions.setFeed(token.address, feed, 2 * HOUR_S, *bounds))
        return token

    def second_pool(self, symbol: str, *, fee: int, price_usd: str, liquidity_usd: int, name: str) -> AssetAddresses:
        """Another pool of a listed asset, at any price, known as `name`. No liquidity at all is allowed."""
        return self._pool(self.know(symbol, fee=fee, name=name), Decimal(price_usd), liquidity_usd)

    def know(self, symbol: str, *, fee: int, name: str) -> AssetAddresses:
        """Another fee tier of a listed asset, known as `name`, whatever there is in it."""
        asset = replace(self.world.book.asset(symbol), symbol=name, pool_fee=fee)
        self._remember(asset)
        return asset

    def _remember(self, asset: AssetAddresses) -> None:
        kept = (other for other in self.world.book.assets if other.symbol != asset.symbol)
        self.world.market.book = self.world.book = replace(self.world.book, assets=(*kept, asset))

    def _pool(self, asset: AssetAddresses, price_usd: Decimal, liquidity_usd: int) -> AssetAddresses:
        world, market = self.world, self.world.market
        factory = world.evm.at(third_party("UniswapV3Factory"), world.book.factory)
        if not world.view(factory.functions.feeAmountTickSpacing(asset.pool_fee)):  # as its owner has done on mainnet
            spacing = uniswap.TICK_SPACING[asset.pool_fee]
            world.send(factory.functions.enableFeeAmount(asset.pool_fee, spacing), world.deployer)
        unit_quote, unit_base = int(price_usd * 10**world.book.quote_decimals * 10**9), 10**asset.decimals * 10**9
        pair = (asset.token, world.book.quote)
        is_token0 = uniswap.sort_tokens(*pair)[0] == asset.token
        amounts = (unit_quote, unit_base) if is_token0 else (unit_base, unit_quote)
        sqrt_x96 = uniswap.sqrt_price_x96(*amounts)
        pool = uniswap.create_pool(world.evm, world.book.uniswap, pair, asset.pool_fee, sqrt_x96, sender=world.deployer)
        asset = replace(asset, pool=pool)
        if liquidity_usd:
            market._add_liquidity(asset, price_usd, Decimal(liquidity_usd))
        self._remember(asset)
        return asset


def fund_bidder(world: World, s: Strategy, bidder: Account | None = None) -> None:
    """A bidder who can pay for everything."""
    bidder = bidder or world.bidder
    world.market.give_quote(bidder, 10**7 * 10**world.book.quote_decimals)
    world.send(world.quote.functions.approve(s.vault.address, MAX_UINT), bidder)
