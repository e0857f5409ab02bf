"""A local chain has what no other has: a market made for it, money for everybody, and a clock that waits."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from agents.commands._chain import Connection, say
from agents.demo import PEOPLE
from agents.deployment import Deployment, Genesis
from agents.localnet.evm import LocalEvm, attach_evm, mnemonic_accounts
from agents.localnet.market import AddressBook, LocalMarket

# What a local market opens with; `ape run travel` publishes others.
PRICES_USD = {"ETH": Decimal(2000), "BTC": Decimal(60_000)}
LIQUIDITY_USD = Decimal(200_000_000)
POOL_FEE = 500
# Whole quote tokens.
TREASURY, STAKE = 5_000_000, 100_000
# The local market's own: none of the people, and none of the market's publisher and arbitrageur.
MARKET_MAKER = 17


def local_people() -> dict[str, str]:
    """Who is who on a local chain: TEST::0 is the deployer, TEST::1 alice, and so on."""
    return {name: a.address for name, a in zip(PEOPLE, mnemonic_accounts(len(PEOPLE)), strict=True)}


class Local:
    """What only a local chain has: its market, and money for everybody. On any other chain it does nothing."""

    def __init__(self, evm: LocalEvm | None) -> None:
        self._evm = evm

    @classmethod
    def attach(cls, here: Connection) -> Local:
        """Raises EvmUnavailable when the local chain is none that a market can be made on."""
        return cls(attach_evm(here.url) if here.is_local else None)

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_: object) -> None:
        if self._evm:
            self._evm.close()

    def deploy_market(self) -> AddressBook:
        """A market with two assets."""
        assert self._evm is not None, "a public network has a market file"
        say("making a local market")
        return make_market(self._evm).book

    def furnish(self, d: Deployment, book: AddressBook, genesis: Genesis, people: Mapping[str, str]) -> None:
        """Quote for the treasury and the holders, whose votes are delegated to themselves."""
        if self._evm is None or book.quote_symbol != "MUSD":
            return
        market = LocalMarket(self._evm, book, deployer=self._evm.accounts[MARKET_MAKER])
        unit = 10**book.quote_decimals
        market.give_quote(d.treasury, TREASURY * unit)
        token = d.contract(self._evm, "token")
        for holder in genesis.holders:
            if holder in people.values():
                market.give_quote(holder, STAKE * unit)
                self._evm.send(token.functions.delegate(holder), holder)


def make_market(evm: LocalEvm) -> LocalMarket:
    """ETH and BTC against quote, with pools that are deep enough for every strategy."""
    (symbol, price_usd), *others = PRICES_USD.items()
    depth: dict[str, Any] = {"pool_fee": POOL_FEE, "liquidity_usd": LIQUIDITY_USD}
    market = LocalMarket.deploy(
        evm, base_price_usd=price_usd, symbol=symbol, deployer=evm.accounts[MARKET_MAKER], **depth
    )
    for other, price in others:
        market.add_asset(other, price_usd=price, decimals=8, **depth)
    return market
