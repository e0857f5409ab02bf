"""A market to test and demonstrate on: feeds, tokens, Uniswap v3 pools with liquidity, and an arbitrageur.

    with start_evm() as evm:
        market = LocalMarket.deploy(evm, base_price_usd=Decimal(3000))
        market.add_asset("BTC", price_usd=Decimal(60_000), decimals=8)
        market.publish("ETH", Decimal(3100))
        market.arbitrage("ETH")

It remembers addresses only; prices, balances and rounds are read from the chain whenever they are needed, so that a
snapshot's revert is all it takes to go back. (An asset added after the snapshot has to be added again.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any, Self

from agents.contracts import load_artifact, third_party
from agents.localnet import feeds, uniswap
from agents.localnet.evm import Account, LocalEvm
from oracle.pool_state import PoolReader

# Where public chains have it: https://www.multicall3.com
MULTICALL3 = "0xcA11bde05977b3631167028862bE2a173976CA11"
FEED_DECIMALS = 8
# How much more than needed the arbitrageur is given, so that it is not given some for every swap.
_FUNDING_FACTOR = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetAddresses:
    """A base asset: its token, its USD feed, and its pool against the quote token."""

    symbol: str
    token: str
    decimals: int
    feed: str
    pool: str
    # In hundredths of a basis point, as Uniswap counts.
    pool_fee: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressBook:
    """Where a market is, on a local chain or a public one. Addresses are checksummed."""

    chain_id: int
    quote: str
    quote_symbol: str
    quote_decimals: int
    quote_feed: str
    weth: str
    factory: str
    router: str
    positions: str
    quoter: str
    pool_init_code_hash: str
    multicall: str
    # The L2 sequencer's uptime feed; none on chains without a sequencer.
    sequencer_feed: str | None = None
    assets: tuple[AssetAddresses, ...] = ()

    @property
    def uniswap(self) -> uniswap.UniswapAddresses:
        return uniswap.UniswapAddresses(self.factory, self.router, self.positions, self.quoter)

    def asset(self, symbol: str) -> AssetAddresses:
        """The asset of that symbol. Raises KeyError with those there are."""
        for found in self.assets:
            if found.symbol == symbol:
                return found
        raise KeyError(f"no asset {symbol!r}; there are: {', '.join(a.symbol for a in self.assets)}")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for `deployments/`."""
        return {**asdict(self), "assets": [asdict(asset) for asset in self.assets]}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises TypeError on missing or unknown keys."""
        return cls(**{**raw, "assets": tuple(AssetAddresses(**asset) for asset in raw["assets"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What is known when a bar closes: prices by symbol, in USD; an asset left out publishes no round."""

    close_at_s: int
    prices_usd: Mapping[str, Decimal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arbitrage:
    """One swap of the arbitrageur. Amounts in base units, prices in quote tokens for one base token."""

    symbol: str
    # True when it bought the asset, which was too cheap in the pool.
    is_buy: bool
    amount_out: int
    price_before: Decimal
    price_after: Decimal


class LocalMarket:
    """A market on a local chain. All sending is done by its own three accounts, the last of the chain's."""

    def __init__(self, evm: LocalEvm, book: AddressBook, *, deployer: Account) -> None:
        self.evm, self.book, self.deployer = evm, book, deployer
        # Publishes rounds; swaps towards the oracle price.
        self.publisher, self.arbitrageur = evm.accounts[-2], evm.accounts[-1]

    @classmethod
    def deploy(
        cls,
        evm: LocalEvm,
        *,
        base_price_usd: Decimal,
        deployer: Account | None = None,
        quote_price_usd: Decimal = Decimal(1),
        symbol: str = "ETH",
        base: str = "WETH9",
        base_decimals: int = 18,
        pool_fee: int = 3000,
        liquidity_usd: Decimal = Decimal(20_000_000),
        quote_decimals: int = 6,
        has_sequencer: bool = False,
    ) -> Self:
        """A market of one asset, its pool at the feed price with `liquidity_usd` in it (both sides together).

        `base` is WETH9, or the name of a token to be made with `base_decimals`; feeds are "<symbol> / USD" and
        "MUSD / USD" with 8 decimals. `deployer` (default: the chain's first account) also owns the liquidity.
        `has_sequencer` adds an L2 uptime feed that says up. Raises ArtifactMissing when something is not built.
        """
        deployer = deployer or evm.accounts[0]
        weth = str(evm.deploy(third_party("WETH9"), sender=deployer).address)
        addresses = uniswap.deploy_uniswap(evm, weth=weth, deployer=deployer)
        quote = str(evm.deploy("QuoteToken", quote_decimals, sender=deployer).address)
        evm.set_code(MULTICALL3, load_artifact("LocalMulticall").deployed_bytecode)
        book = AddressBook(
            chain_id=evm.w3.eth.chain_id,
            quote=quote,
            quote_symbol="MUSD",
            quote_decimals=quote_decimals,
            quote_feed=_deploy_feed(evm, "MUSD / USD", FEED_DECIMALS, deployer),
            weth=weth,
            **asdict(addresses),
            pool_init_code_hash=uniswap.pool_init_code_hash(),
            multicall=MULTICALL3,
            sequencer_feed=_deploy_feed(evm, "L2 Sequencer Uptime Status Feed", 0, deployer) if has_sequencer else None,
        )
        market = cls(evm, book, deployer=deployer)
        market.publish(book.quote_symbol, quote_price_usd)
        if has_sequencer:
            market.publish_sequencer(is_up=True)
        market.add_asset(
            symbol,
            price_usd=base_price_usd,
            token=base,
            decimals=base_decimals,
            pool_fee=pool_fee,
            liquidity_usd=liquidity_usd,
        )
        return market

    def add_asset(
        self,
        symbol: str,
        *,
        price_usd: Decimal,
        token: str | None = None,
        decimals: int = 18,
        pool_fee: int = 3000,
        liquidity_usd: Decimal = Decimal(20_000_000),
    ) -> AssetAddresses:
        """Add an asset as `deploy` does: token ("WETH9", or made and called W<symbol>), feed, first round, pool."""
        evm, book = self.evm, self.book
        name = token or f"W{symbol}"
        if name == "WETH9":
            address, decimals = book.weth, 18
        else:
            address = str(evm.deploy("MockToken", name, name, decimals, sender=self.deployer).address)
        feed = _deploy_feed(evm, f"{symbol} / USD", FEED_DECIMALS, self.deployer)
        asset = AssetAddresses(
            symbol=symbol, token=address, decimals=decimals, feed=feed, pool="0x" + "00" * 20, pool_fee=pool_fee
        )
        feeds.publish(evm, feed, feeds.to_answer(price_usd, FEED_DECIMALS), transmitter=self.publisher)
        target = self._target_sqrt_x96(asset)
        pool = uniswap.create_pool(
            evm, book.uniswap, (address, book.quote), pool_fee, target, sender=self.deployer
        )
        asset = replace(asset, pool=pool)
        self._add_liquidity(asset, price_usd, liquidity_usd)
        kept = (other for other in book.assets if other.symbol != symbol)
        self.book = replace(book, assets=(*kept, asset))
        return asset

    def remember(self, symbol: str, observations: int) -> None:
        """Give the pool room for so many observations, at one for each block that trades: what its means reach back."""
        pool = self.evm.at(third_party("UniswapV3Pool"), self.book.asset(symbol).pool)
        self.evm.send(pool.functions.increaseObservationCardinalityNext(observations), self.deployer)

    # Feeds

    def publish(self, symbol: str, price_usd: Decimal, at_s: int | None = None) -> int:
        """Publish a round for an asset or the quote token; its id as consumers see it.

        `at_s` is when the price was observed, unix seconds (default: the round's block). Raises TransactionReverted
        when that is before the last round or in the future.
        """
        answer = feeds.to_answer(price_usd, FEED_DECIMALS)
        return feeds.publish(self.evm, self._feed_of(symbol), answer, transmitter=self.publisher, at_s=at_s)

    def publish_sequencer(self, *, is_up: bool, at_s: int | None = None) -> int:
        """Publish whether the L2 sequencer is up. Raises ValueError on a market without one."""
        if self.book.sequencer_feed is None:
            raise ValueError("this market was deployed without a sequencer feed")
        status = feeds.SEQUENCER_UP if is_up else feeds.SEQUENCER_DOWN
        return feeds.publish(self.evm, self.book.sequencer_feed, status, transmitter=self.publisher, at_s=at_s)

    def begin_phase(self, symbol: str) -> str:
        """Put a new aggregator, without rounds, behind the symbol's feed; its address."""
        feed = self._feed_of(symbol)
        return feeds.begin_phase(self.evm, feed, owner=self.deployer, transmitter=self.publisher)

    def oracle_price(self, symbol: str) -> Decimal:
        """Quote tokens for one base token by the latest rounds of both feeds, whatever their age."""
        asset = self.book.asset(symbol)
        return Decimal(self._answer(asset.feed)) / self._answer(self.book.quote_feed)

    # Pools

    def pool_price(self, symbol: str) -> Decimal:
        """Quote tokens for one base token at the pool's present price, without its fee."""
        asset = self.book.asset(symbol)
        return self._price_of(asset, self._slot0(asset).sqrtPriceX96)

    def arbitrage(self, symbol: str) -> Arbitrage | None:
        """Swap until the pool's price is the oracle's; None when it is within the pool's fee of it already."""
        asset = self.book.asset(symbol)
        now, target = self._slot0(asset).sqrtPriceX96, self._target_sqrt_x96(asset)
        before, wanted = self._price_of(asset, now), self._price_of(asset, target)
        if abs(before - wanted) * uniswap.FEE_UNIT <= wanted * asset.pool_fee:
            return None
        pool = self.evm.at(third_party("UniswapV3Pool"), asset.pool)
        needed = uniswap.amount_in_to_reach(now, target, self.evm.call(pool.functions.liquidity()), asset.pool_fee)
        is_buy = before < wanted
        path = (self.book.quote, asset.token) if is_buy else (asset.token, self.book.quote)
        # One part in a thousand more than needed: the limit stops the swap, not the amount.
        amount_in = needed + needed // 1000 + 1
        if uniswap.balance(self.evm, path[0], self.arbitrageur.address) < amount_in:
            self._give(path[0], self.arbitrageur, amount_in * _FUNDING_FACTOR)
        amount_out = uniswap.swap(
            self.evm,
            self.book.uniswap,
            path,
            asset.pool_fee,
            amount_in,
            sender=self.arbitrageur,
            sqrt_limit_x96=target,
        )
        return Arbitrage(
            symbol=symbol,
            is_buy=is_buy,
            amount_out=amount_out,
            price_before=before,
            price_after=self.pool_price(symbol),
        )

    def buy(self, symbol: str, quote_amount: int, *, sender: Account, min_out: int = 0) -> int:
        """Swap quote for the asset through the router; base units received. Raises TransactionReverted."""
        asset = self.book.asset(symbol)
        path = (self.book.quote, asset.token)
        return uniswap.swap(
            self.evm, self.book.uniswap, path, asset.pool_fee, quote_amount, sender=sender, min_out=min_out
        )

    def sell(self, symbol: str, base_amount: int, *, sender: Account, min_out: int = 0) -> int:
        """Swap the asset for quote through the router; base units received. Raises TransactionReverted."""
        asset = self.book.asset(symbol)
        path = (asset.token, self.book.quote)
        return uniswap.swap(
            self.evm, self.book.uniswap, path, asset.pool_fee, base_amount, sender=sender, min_out=min_out
        )

    # Tokens

    def give_quote(self, to: Account | str, amount: int) -> None:
        """Mint quote tokens, in base units."""
        self._give(self.book.quote, to, amount)

    def give_base(self, symbol: str, to: Account | str, amount: int) -> None:
        """Mint the asset's token (WETH9: wrap new ether), in base units."""
        self._give(self.book.asset(symbol).token, to, amount)

    def balance(self, token: str, owner: Account | str) -> int:
        """Base units of a token address that an account holds."""
        return uniswap.balance(self.evm, token, owner.address if isinstance(owner, Account) else owner)

    # Replay

    def replay(self, bars: Iterable[Bar], on_bar: Callable[[Bar], None] | None = None) -> Iterator[Bar]:
        """For each bar: go to its close, publish its rounds, arbitrage the assets it names, then yield it.

        The first round's block has exactly the close's timestamp, and all rounds say they are from then. The quote
        token's feed is published with every bar, at its last price unless the bar has another. `on_bar` is called
        before yielding. Raises ValueError when bars are not in order, or so dense that sending took longer.
        """
        for bar in bars:
            quote = self.book.quote_symbol
            prices = {quote: feeds.fetch_price(self.evm, self.book.quote_feed), **bar.prices_usd}
            self.evm.next_block_at(bar.close_at_s)
            for symbol, price_usd in prices.items():
                self.publish(symbol, price_usd, at_s=bar.close_at_s)
            for symbol in prices:
                if symbol != quote:
                    self.arbitrage(symbol)
            if on_bar:
                on_bar(bar)
            yield bar

    def _feed_of(self, symbol: str) -> str:
        return self.book.quote_feed if symbol == self.book.quote_symbol else self.book.asset(symbol).feed

    def _answer(self, feed: str) -> int:
        """The latest answer. Raises ValueError when a pool could not be brought to it."""
        if (answer := feeds.fetch_round(self.evm, feed).answer) <= 0:
            raise ValueError(f"the latest answer of feed {feed} is {answer}, no price")
        return answer

    def _slot0(self, asset: AssetAddresses) -> Any:
        return self.evm.call(self.evm.at(third_party("UniswapV3Pool"), asset.pool).functions.slot0())

    def _is_token0(self, asset: AssetAddresses) -> bool:
        return uniswap.sort_tokens(asset.token, self.book.quote)[0] == asset.token

    def _price_of(self, asset: AssetAddresses, sqrt_x96: int) -> Decimal:
        return uniswap.price_of(
            sqrt_x96,
            base_is_token0=self._is_token0(asset),
            base_decimals=asset.decimals,
            quote_decimals=self.book.quote_decimals,
        )

    def _target_sqrt_x96(self, asset: AssetAddresses) -> int:
        """The pool price that equals the oracle's. Both feeds have the same decimals, so answers divide as they are."""
        quote_amount = self._answer(asset.feed) * 10**self.book.quote_decimals
        base_amount = self._answer(self.book.quote_feed) * 10**asset.decimals
        if self._is_token0(asset):
            return uniswap.sqrt_price_x96(quote_amount, base_amount)
        return uniswap.sqrt_price_x96(base_amount, quote_amount)

    def _add_liquidity(self, asset: AssetAddresses, price_usd: Decimal, liquidity_usd: Decimal) -> None:
        half_usd = liquidity_usd / 2
        quote_usd = feeds.fetch_price(self.evm, self.book.quote_feed)
        amounts = {
            asset.token: int((half_usd / price_usd).scaleb(asset.decimals)),
            self.book.quote: int((half_usd / quote_usd).scaleb(self.book.quote_decimals)),
        }
        for token, amount in amounts.items():
            self._give(token, self.deployer, amount)
        uniswap.add_liquidity(self.evm, self.book.uniswap, amounts, asset.pool_fee, provider=self.deployer)

    def _give(self, token: str, to: Account | str, amount: int) -> None:
        address = to.address if isinstance(to, Account) else to
        if token != self.book.weth:
            self.evm.send(uniswap.erc20(self.evm, token).functions.mint(address, amount), self.deployer)
            return
        # The deployer wraps for others, so that an address without a key can be given some too.
        weth = self.evm.at(third_party("WETH9"), token)
        self.evm.set_balance(self.deployer.address, self.evm.w3.eth.get_balance(self.deployer.address) + amount)
        self.evm.send(weth.functions.deposit(), self.deployer, value=amount)
        if address != self.deployer.address:
            self.evm.send(weth.functions.transfer(address, amount), self.deployer)


def pool_readers(chain: Any, book: AddressBook) -> dict[str, PoolReader]:
    """Readers of the book's pools by the token that they price. `chain`: a LocalEvm or a RemoteChain."""
    pool = third_party("UniswapV3Pool")
    return {asset.token: PoolReader(chain, chain.at(pool, asset.pool)) for asset in book.assets}


def _deploy_feed(evm: LocalEvm, description: str, decimals: int, deployer: Account) -> str:
    return feeds.deploy_feed(evm, description, decimals, owner=deployer, transmitter=evm.accounts[-2])
