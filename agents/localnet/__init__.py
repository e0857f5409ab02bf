"""A whole market on this machine: an EVM (anvil or py-evm), real Uniswap v3, Chainlink-shaped feeds, an arbitrageur."""

from agents.localnet.evm import (
    Account,
    CallReverted,
    EvmUnavailable,
    LocalEvm,
    PortTaken,
    TransactionRefused,
    TransactionReverted,
    attach_evm,
    start_evm,
)
from agents.localnet.market import AddressBook, Arbitrage, AssetAddresses, Bar, LocalMarket

__all__ = [
    "Account",
    "AddressBook",
    "Arbitrage",
    "AssetAddresses",
    "Bar",
    "CallReverted",
    "EvmUnavailable",
    "LocalEvm",
    "LocalMarket",
    "PortTaken",
    "TransactionRefused",
    "TransactionReverted",
    "attach_evm",
    "start_evm",
]
