"""What the attacks on rewards share: settling at told prices, what was paid, branches, a pool of one's own.

`invested` below means half of a vault's million in ETH at 2,000 USD, so a dollar of ETH is about 250 dollars of profit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from agents.contracts import third_party
from agents.localnet import uniswap
from agents.localnet.evm import Account
from tests.contracts.vaults import MAX_UINT
from tests.contracts.world import REWARD_RATE, WAD, Strategy, World, eth, one, struct, tokens, usd

CAP = tokens(5_000)
# The furthest one window can move an account upwards: 50,000 dollars.
MOST = CAP // REWARD_RATE


def say_tokens(wei: int) -> str:
    return f"{Decimal(wei) / WAD:,.2f} tokens"


def say_usd(amount: int) -> str:
    return f"{Decimal(amount) / 10**6:,.2f} USD"


# Strategies


def invest(world: World, s: Strategy, amount: int = usd(500_000), **over: Any) -> Strategy:
    world.buy(s, amount, **over)
    return s


def deploy_invested(world: World, amount: int = usd(500_000), **options: Any) -> Strategy:
    """A running strategy of the first agent, half of it in ETH."""
    return invest(world, world.deploy_strategy(**options), amount)


def least_bond(world: World, **manifest_options: Any) -> int:
    """What an agent must have bonded for a manifest, to the wei."""
    agent_id = world.register_agent(bond_wei=0, deposit=0)
    return int(world.view(world.strategies.functions.bondNeeded(struct(world.manifest(agent_id, **manifest_options)))))


def retire_fully(world: World, s: Strategy, *symbols: str) -> None:
    """Halted, recalled in kind, settled a last time and released: as votes and anybody would do it."""
    world.as_timelock(world.strategies.functions.retire(s.id))
    for token in (*map(world.token_of, symbols or ("ETH",)), world.book.quote):
        world.as_timelock(world.treasury.functions.recall(s.id, token, MAX_UINT, 0))
    world.settle(s)
    world.send(world.strategies.functions.finishRetirement(s.id), world.stranger)


# Windows and payments


def close_at(world: World, s: Strategy, *prices_usd: int | Decimal, symbol: str = "ETH") -> int:
    """The result of the next window, observed once at each price; it is not applied."""
    world.to_next_window()
    world.observe_at(s, *prices_usd, symbol=symbol)
    world.to_window_end()
    return world.close(s)


def settle_at(world: World, s: Strategy, *prices_usd: int | Decimal, symbol: str = "ETH") -> int:
    if move := close_at(world, s, *prices_usd, symbol=symbol):
        world.apply(s, move)
    return move


def credited(world: World, s: Strategy) -> int:
    return int(world.account(s).credited)


def profit(world: World, s: Strategy) -> int:
    return int(world.status(s).profit)


def paid_less_taken(world: World, s: Strategy) -> int:
    """Token wei, told from the pool's events alone; checked against rate x account."""
    total = 0
    for event in world.history(world.pool):
        if event.args.get("vault") != s.vault.address:
            continue
        if event.name == "Rewarded":
            total += event.args["reward"]
        elif event.name == "ClawedBack":
            total -= event.args["fromUnclaimed"] + event.args["fromBond"]
    account = world.account(s)
    assert total == account.rate * account.credited, "it does not telescope"
    return total


def unclaimed(world: World, s: Strategy) -> int:
    account = world.account(s)
    return int(account.unvested + account.vested)


def releasable(world: World, s: Strategy) -> int:
    return int(world.view(world.pool.functions.releasableBond(s.agent_id)))


def withdraw_bond(world: World, s: Strategy, amount: int, controller: Account | None = None) -> None:
    world.send(world.agents.functions.withdrawBond(s.agent_id, amount), controller or world.controller)


def claim(world: World, s: Strategy) -> int:
    return int(one(world.send(world.pool.functions.claim(s.vault.address), world.relayer), "Claimed")["amount"])


def deposit_of(world: World, s: Strategy) -> int:
    return int(world.view(world.agents.functions.agentOf(s.agent_id)).deposit)


@contextmanager
def branch(world: World) -> Iterator[None]:
    """What happens inside has not happened afterwards: one of the ways that the story can go on."""
    fork = world.evm.snapshot()
    yield
    world.evm.revert(fork)


# Pools


class OwnPool:
    """A genuine pool of ETH and quote at another fee tier whose only provider is its owner: what a vault loses there,
    he has, fees included. He moves its price at will, since he trades with himself only."""

    def __init__(self, world: World, owner: Account, *, fee: int = 3000, liquidity_usd: int = 400_000_000) -> None:
        self.world, self.owner, self.fee, self.liquidity_usd = world, owner, fee, liquidity_usd
        self.weth, self.quote = world.token_of("ETH"), world.book.quote
        price = world.market.oracle_price("ETH")
        amounts = {
            self.quote: usd(liquidity_usd) // 2,
            self.weth: int((Decimal(liquidity_usd) / 2 / price).scaleb(18)),
        }
        self.address = uniswap.create_pool(
            world.evm, world.book.uniswap, (self.weth, self.quote), fee, self._sqrt_of(price), sender=owner
        )
        # Twice as much: the half that stays outside moves the price.
        world.market.give_quote(owner, 2 * amounts[self.quote])
        world.market.give_base("ETH", owner, 2 * amounts[self.weth])
        uniswap.add_liquidity(world.evm, world.book.uniswap, amounts, fee, provider=owner)

    def move_to(self, price_usd: Decimal | int) -> None:
        """The owner swaps until the pool's price, before its fee, is this."""
        now, target = self._sqrt(), self._sqrt_of(Decimal(price_usd))
        if now == target:
            return
        low, high = uniswap.sort_tokens(self.weth, self.quote)
        path = (high, low) if target > now else (low, high)
        amount_in = uniswap.balance(self.world.evm, path[0], self.owner.address)
        uniswap.swap(
            self.world.evm, self.world.book.uniswap, path, self.fee, amount_in, sender=self.owner, sqrt_limit_x96=target
        )
        assert self._sqrt() == target, "the owner's money reached"

    def deal(self, s: Strategy, amount_usd: int, *, buy: bool, shortfall_bps: int) -> int:
        """Has the vault trade about that much at a price worse than the oracle's by so much, fee and price impact
        included (better when negative); what the vault lost by it, in base units of quote. At 2,000 USD for ETH."""
        side = 1 if buy else -1
        worse = (
            Decimal(shortfall_bps) / 10_000
            - Decimal(self.fee) / 10**6
            - Decimal(amount_usd) / (self.liquidity_usd // 2)
        )
        self.move_to(2000 * (1 + side * worse))
        held = self.world.held(s)
        amount = usd(amount_usd) if buy else min(held, eth(amount_usd) // 2000)
        return int(one(self.world.trade(s, amount, buy=buy), "TradeRecorded")["trade"]["shortfall"])

    def wealth(self) -> int:
        """All that the owner has, in the pool and outside, at the oracle's price, in base units of quote."""
        held = lambda token: sum(  # noqa: E731
            uniswap.balance(self.world.evm, token, where) for where in (self.owner.address, self.address)
        )
        price = self.world.market.oracle_price("ETH")
        return held(self.quote) + int(held(self.weth) * price * 10**6 / eth(1))

    def _sqrt(self) -> int:
        pool = self.world.evm.at(third_party("UniswapV3Pool"), self.address)
        return int(self.world.view(pool.functions.slot0()).sqrtPriceX96)

    def _sqrt_of(self, price: Decimal) -> int:
        quote_amount, base_amount = int(price * 10**12), eth(1) * 10**6
        if uniswap.sort_tokens(self.weth, self.quote)[0] == self.weth:
            return uniswap.sqrt_price_x96(quote_amount, base_amount)
        return uniswap.sqrt_price_x96(base_amount, quote_amount)


def deploy_at(world: World, pool: OwnPool, *, bond_wei: int = tokens(50_000), **options: Any) -> Strategy:
    """A running strategy that trades ETH in that pool: the voters did not look whose it is."""
    agent_id = world.register_agent(bond_wei=bond_wei)
    manifest = world.manifest(agent_id, **options) | {"assets": [(pool.weth, pool.fee)]}
    strategy_id = world.submit(manifest)
    world.as_timelock(world.strategies.functions.approve(strategy_id))
    world.as_timelock(world.factory.functions.deployVault(strategy_id))
    world.as_timelock(world.treasury.functions.allocate(strategy_id, manifest["capital"]))
    return Strategy(strategy_id, world.vault_of(strategy_id), agent_id, manifest)
