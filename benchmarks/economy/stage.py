"""The market, the protocol and the verbs that a simulation needs, on a revm node.

Each asset has a feed (proxy and aggregator) and two Uniswap v3 pools against the quote token: a public one, which an
arbitrageur keeps at the feed's price, and a private one, whose only liquidity is an accomplice's: what a vault loses
there, the accomplice gains to the last unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from eth_utils import keccak

from agents.contracts import decode_revert
from agents.deployment import CONTRACTS, Deployment, Feed, Genesis, Governance, Limits, Rewards, Rules, deploy_protocol
from agents.localnet import uniswap
from agents.localnet.evm import Account
from agents.localnet.market import AssetAddresses, LocalMarket
from benchmarks.economy.crowd import Crowd, address_of
from benchmarks.economy.revm_node import Reverted, RevmNode, start_revm
from benchmarks.economy.wire import Wire, selector_of

HOUR_S, DAY_S = 3600, 86_400
EPOCH_S, WINDOW_S, VESTING_S = 7 * DAY_S, 6 * HOUR_S, 30 * DAY_S
USD, WAD, BPS = 10**6, 10**18, 10_000
MAX_UINT128 = 2**128 - 1

CAPITAL = 100_000 * USD
REWARD_RATE = 10**11  # 0.1 token for each dollar
REWARD_CAP = 5_000 * WAD
PUBLIC_FEE, PRIVATE_FEE = 500, 3000
LIQUIDITY_USD = Decimal(200_000_000)
LIMITS = Limits(
    max_position_bps=6000,
    max_trade_slippage_bps=60,
    max_cumulative_slippage_bps=100,
    max_reduce_slippage_bps=200,
    max_reduce_cumulative_slippage_bps=300,
    max_trades_per_day=10,
    max_daily_turnover_bps=20_000,
    max_daily_loss_bps=1000,
    max_drawdown_bps=2000,
    hard_drawdown_bps=3000,
)
RULES = Rules(
    max_reward_rate=10**12,
    min_bond_wei=1000 * WAD,
    slippage_decay_s=7 * DAY_S,
    auction_duration_s=4 * HOUR_S,
    auction_max_discount_bps=500,
    auction_lot_bps=2500,
    gap_allowance_bps=500,
)
GOVERNANCE = Governance(
    voting_delay_s=HOUR_S,
    voting_period_s=3 * DAY_S,
    proposal_threshold_wei=10_000 * WAD,
    quorum_floor_wei=100_000 * WAD,
    quorum_bps=400,
    last_stretch_s=12 * HOUR_S,
    objection_period_s=DAY_S,
    grace_s=7 * DAY_S,
    timelock_delay_s=DAY_S,
)
SPONSOR, PROPOSER, VOTER, GUARDIAN, KEEPER, ARBITRAGEUR = map(
    address_of, ("sponsor", "proposer", "voter", "guardian", "keeper", "arbitrageur")
)
_ORDER_TAIL = (b"\x11" * 32, b"\x22" * 32)  # an explanation and an observation


@dataclass(slots=True)
class Pool:
    """A Uniswap v3 pool of an asset against the quote token, with liquidity over the whole range of prices."""

    address: str
    fee: int
    # Quote, in base units, on the quote side at the first price.
    depth: float


@dataclass(slots=True)
class Asset:
    """An asset as the simulation sees it: its price is the last round's, in quote for a whole token."""

    addresses: AssetAddresses
    aggregator: str
    accomplice: str
    public: Pool
    private: Pool
    price: float = 100.0

    @property
    def token(self) -> str:
        return self.addresses.token


@dataclass(slots=True)
class Vault:
    """An agent with its vault. `held` and `quote` mirror the vault's books, in base units."""

    agent_id: int
    controller: str
    strategy_id: bytes
    address: str
    asset: Asset
    pool: Pool
    held: int = 0
    quote: int = 0
    nonce: int = 0
    trades: int = 0
    # Refusals and reverts of its trades, by name.
    refused: dict[str, int] = field(default_factory=dict)
    # Shortfall of each trade against the oracle in base units of quote, with its time.
    shortfalls: list[tuple[int, float]] = field(default_factory=list)

    @property
    def at(self) -> tuple[str, str]:
        return "StrategyVault", self.address

    @property
    def value(self) -> float:
        """Base units of quote."""
        return self.quote + self.held_value

    @property
    def held_value(self) -> float:
        return self.held * self.asset.price * USD / WAD


class Stage:
    """A deployed market and protocol. Amounts are base units; prices are floats, for deciding and counting only."""

    def __init__(self, assets: int, agents: int) -> None:
        evm, node = start_revm()
        self.node: RevmNode = node
        self.wire = Wire(node)
        self.market = LocalMarket.deploy(
            evm, base_price_usd=Decimal(100), symbol="A0", base="WA0", pool_fee=PUBLIC_FEE, liquidity_usd=LIQUIDITY_USD
        )
        for index in range(1, assets):
            self.market.add_asset(f"A{index}", price_usd=Decimal(100), pool_fee=PUBLIC_FEE, liquidity_usd=LIQUIDITY_USD)
        book = self.market.book
        self.quote, self.router = ("QuoteToken", book.quote), ("SwapRouter", book.router)
        self._quote_aggregator = self._aggregator(book.quote_feed)
        self.d: Deployment = deploy_protocol(evm, self._genesis(agents), sender=evm.accounts[0])
        self.assets = [self._asset(addresses) for addresses in book.assets]
        self.wire.send(VOTER, self.at("token"), "delegate", VOTER)
        self.wire.send(PROPOSER, self.at("token"), "delegate", PROPOSER)
        for holder in (SPONSOR, self.d.treasury):
            self.wire.send(PROPOSER, self.quote, "mint", holder, 10**9 * USD)
        self._vault_code_hash = keccak(node.code_of(self.d.vault_implementation))
        self._venue_code_hash = keccak(node.code_of(self.d.venue))
        self._artefact = keccak(text="artefact")
        self._head = selector_of("StrategyVault", "trade")
        node.travel_to(node.timestamp_s + HOUR_S)
        self.publish()
        self.crowd = Crowd(node, self.d, sponsor=SPONSOR, proposer=PROPOSER, voter=VOTER, publish=self.publish)

    # Time and prices

    @property
    def now_s(self) -> int:
        return self.node.timestamp_s

    def travel_to(self, timestamp_s: int) -> None:
        """Goes there and publishes the last prices again."""
        self.node.travel_to(timestamp_s)
        self.publish()

    def publish(self) -> None:
        """A round of every feed at its asset's price, and public pools that follow."""
        transmitter = self.market.publisher.address
        self.wire.send(transmitter, ("FeedAggregator", self._quote_aggregator), "transmit", 10**8, 0)
        for asset in self.assets:
            answer = round(asset.price * 10**8)
            asset.price = answer / 10**8
            self.wire.send(transmitter, ("FeedAggregator", asset.aggregator), "transmit", answer, 0)
            self.move_pool(asset, asset.public, 1.0, ARBITRAGEUR)

    def move_pool(self, asset: Asset, pool: Pool, ratio: float, trader: str) -> None:
        """Swaps until the pool's price is `ratio` times the oracle's, as far as its fee lets that be worth a swap."""
        target = self._sqrt_x96(asset, asset.price * ratio)
        now = int.from_bytes(self.node.call(pool.address, _SLOT0)[:32], "big")
        if abs(now / target - 1) < 1e-6:
            return
        sells_token0 = now > target
        token0, token1 = uniswap.sort_tokens(asset.token, self.quote[1])
        path = (token0, token1) if sells_token0 else (token1, token0)
        order = (*path, pool.fee, trader, uniswap.FOREVER_S, 2**100, 0, target)
        self.wire.send(trader, self.router, "exactInputSingle", order)

    def swap(self, asset: Asset, trader: str, amount_in: int, *, buy: bool) -> None:
        """Swaps in the public pool, which the arbitrageur then brings back."""
        path = (self.quote[1], asset.token) if buy else (asset.token, self.quote[1])
        order = (*path, asset.public.fee, trader, uniswap.FOREVER_S, amount_in, 0, 0)
        self.wire.send(trader, self.router, "exactInputSingle", order)
        self.move_pool(asset, asset.public, 1.0, ARBITRAGEUR)

    # The agent's verbs

    def trade(self, vault: Vault, amount_in: int, *, buy: bool, arbitraged: bool = True) -> int:
        """What the vault received; zero when it was refused or reverted, which is counted by reason.

        A public pool is brought back to the oracle's price by the arbitrageur, unless somebody else is quicker."""
        if amount_in <= 0:
            return 0
        words = (vault.nonce, self.now_s, amount_in, 0)
        order = (
            self._head + bytes(12) + bytes.fromhex(vault.asset.token[2:]) + int(buy).to_bytes(32, "big")
            + b"".join(word.to_bytes(32, "big") for word in words) + self._artefact + b"".join(_ORDER_TAIL)
        )  # fmt: skip
        vault.trades += 1
        try:
            received = int.from_bytes(self.node.transact(vault.controller, vault.address, order), "big")
        except Reverted as error:
            name = decode_revert(error.data).name
            vault.refused[name] = vault.refused.get(name, 0) + 1
            return 0
        if received == 0:
            vault.refused["TradeRefused"] = vault.refused.get("TradeRefused", 0) + 1
            return 0
        vault.nonce += 1
        price = vault.asset.price * USD / WAD
        if buy:
            vault.quote, vault.held = vault.quote - amount_in, vault.held + received
            shortfall = amount_in - received * price
        else:
            vault.quote, vault.held = vault.quote + received, vault.held - amount_in
            shortfall = amount_in * price - received
        vault.shortfalls.append((self.now_s, shortfall))
        if arbitraged and vault.pool is vault.asset.public:
            self.move_pool(vault.asset, vault.pool, 1.0, ARBITRAGEUR)
        return received

    def poke(self, vault: Vault, sender: str = KEEPER) -> None:
        self.node.transact(sender, vault.address, _POKE)

    def settle(self, vault: Vault, sender: str = KEEPER) -> int | None:
        """Closes the window that ended last and applies its result, which is returned; None when there is none."""
        try:
            move = int(self.wire.send(sender, self.at("pool"), "closeWindow", vault.address))
        except Reverted:
            return None
        if move:
            self.wire.send(sender, self.at("dao"), "rewardAgent", vault.agent_id, move)
        return move

    def attempt(self, sender: str, at: tuple[str, str], function: str, *args: Any) -> bool:
        """Sends what may be refused; whether it was taken."""
        try:
            self.wire.send(sender, at, function, *args)
        except Reverted:
            return False
        return True

    # Reading

    def at(self, name: str) -> tuple[str, str]:
        """A protocol contract by its field of `Deployment`, as `Wire` takes it."""
        return CONTRACTS[name], getattr(self.d, name)

    def account(self, vault: Vault) -> Any:
        return self.wire.view(self.at("pool"), "accountOf", vault.address)

    def profit(self, vault: Vault) -> int:
        """P, base units of quote."""
        return int(self.wire.view(vault.at, "status").profit)

    def slippage_left(self, vault: Vault) -> float:
        """What trades may still lose to the oracle now, base units of quote."""
        bucket, cap = self.wire.view(vault.at, "guard").slippage, vault.value * LIMITS.max_cumulative_slippage_bps / BPS
        decayed = cap * (self.now_s - bucket.updatedAt) / RULES.slippage_decay_s
        return cap - max(0.0, bucket.level - decayed)

    def refresh(self, vault: Vault) -> None:
        """Reads the books again after a flow."""
        vault.quote = int(self.wire.view(vault.at, "book").quoteHeld)
        vault.held = int(self.wire.view(vault.at, "positionOf", vault.asset.token).amount)

    def balance(self, token: str, owner: str) -> int:
        return int.from_bytes(self.node.call(token, _BALANCE_OF + bytes(12) + bytes.fromhex(owner[2:])), "big")

    def wealth_of_accomplice(self, asset: Asset) -> float:
        """Its tokens and those in the pool that has only its liquidity, in base units of quote."""
        owners = (asset.accomplice, asset.private.address)
        held = sum(self.balance(asset.token, owner) for owner in owners)
        return sum(self.balance(self.quote[1], owner) for owner in owners) + held * asset.price * USD / WAD

    # Setting up

    def _genesis(self, agents: int) -> Genesis:
        book, caps = self.market.book, agents * REWARD_CAP
        return Genesis(
            supply_wei=10**9 * WAD,
            holders={SPONSOR: 10**8 * WAD, PROPOSER: 10**6 * WAD, VOTER: 10**8 * WAD},
            reward_fund_wei=4 * caps,
            bounty_fund_wei=10**6 * WAD,
            governance=GOVERNANCE,
            ceilings=LIMITS,
            rules=RULES,
            rewards=Rewards(
                genesis_s=None,
                epoch_length_s=EPOCH_S,
                window_length_s=WINDOW_S,
                vesting_s=VESTING_S,
                max_unsettled=3,
                bounty_wei=WAD // 100,
                budget_per_epoch_wei=caps,
            ),
            guardian=GUARDIAN,
            guardian_term_s=360 * DAY_S,
            quote=book.quote,
            feeds=[
                Feed(token=token, aggregator=feed, max_age_s=26 * HOUR_S, min_answer=10**5, max_answer=10**14)
                for token, feed in [(book.quote, book.quote_feed), *((a.token, a.feed) for a in book.assets)]
            ],
            outflow_caps={book.quote: 10**9 * USD, None: 10**7 * WAD},
            uniswap_factory=book.factory,
            pool_init_code_hash=book.pool_init_code_hash,
        )

    def _asset(self, addresses: AssetAddresses) -> Asset:
        """With its private pool; accomplice and arbitrageur get more of both tokens than they can use."""
        accomplice = address_of(f"accomplice of {addresses.symbol}")
        for trader in (accomplice, ARBITRAGEUR):
            for token, amount in ((addresses.token, 10**27), (self.quote[1], 10**17)):
                self.wire.send(trader, ("MockToken", token), "mint", trader, amount)
                self.wire.send(trader, ("MockToken", token), "approve", self.router[1], 2**256 - 1)
        evm, where = self.market.evm, self.market.book.uniswap
        pair, depth = (addresses.token, self.quote[1]), float(LIQUIDITY_USD / 2 * USD)
        sqrt = uniswap.sqrt_price_x96(100 * USD, WAD)
        if uniswap.sort_tokens(*pair)[0] != addresses.token:
            sqrt = uniswap.sqrt_price_x96(WAD, 100 * USD)
        private = uniswap.create_pool(evm, where, pair, PRIVATE_FEE, sqrt, sender=evm.accounts[0])
        amounts = {addresses.token: int(depth / USD / 100 * WAD), self.quote[1]: int(depth)}
        uniswap.add_liquidity(evm, where, amounts, PRIVATE_FEE, provider=Account(accomplice, b""))  # type: ignore[arg-type]
        return Asset(
            addresses=addresses,
            aggregator=self._aggregator(addresses.feed),
            accomplice=accomplice,
            public=Pool(addresses.pool, PUBLIC_FEE, depth),
            private=Pool(private, PRIVATE_FEE, depth),
        )

    def _aggregator(self, proxy: str) -> str:
        return str(self.wire.view(("FeedProxy", proxy), "aggregator"))

    def manifest(self, asset: Asset, pool: Pool, salt: int) -> dict[str, Any]:
        """A strategy of one asset; the agent's id is filled in when it is registered."""
        return {
            "artefactHash": self._artefact,
            "agentId": 0,
            "updates": bytes(32),
            "vaultImplementation": self.d.vault_implementation,
            "vaultCodeHash": self._vault_code_hash,
            "venue": self.d.venue,
            "venueCodeHash": self._venue_code_hash,
            "assets": [(asset.token, pool.fee)],
            "limits": LIMITS.as_tuple(),
            "rewardRate": REWARD_RATE,
            "rewardCap": REWARD_CAP,
            "capital": CAPITAL,
            "salt": salt.to_bytes(32, "big"),
        }

    def _sqrt_x96(self, asset: Asset, price: float) -> int:
        ratio = price * USD / WAD
        if uniswap.sort_tokens(asset.token, self.quote[1])[0] != asset.token:
            ratio = 1 / ratio
        return int(math.sqrt(ratio) * uniswap.Q96)


_SLOT0 = selector_of("UniswapV3Pool", "slot0")
_POKE = selector_of("StrategyVault", "poke")
_BALANCE_OF = selector_of("MockToken", "balanceOf")
