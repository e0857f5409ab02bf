"""The network that `ape console` is connected to, and who signs there. Quick to import, for the greeting."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ape
from ape_accounts.accounts import KeyfileAccount

from agents.chain import ApeSigner, RemoteChain
from agents.commands._chain import DEPLOYMENTS, Connection
from agents.console_errors import plainly
from agents.errors import Misconfigured

DEPLOYMENTS_VARIABLE = "MARKETFLOW_DEPLOYMENTS_DIR"


@plainly
def connected() -> ConsoleConnection:
    """What ape is connected to. Raises Refused when that is nothing."""
    provider = ape.networks.active_provider
    if provider is None:
        raise Misconfigured("no network is connected: start `ape console --network NETWORK`")
    folder = Path(os.environ.get(DEPLOYMENTS_VARIABLE) or DEPLOYMENTS)
    return ConsoleConnection(chain=RemoteChain(provider.web3), provider=provider, folder=folder)


@plainly
def greeting() -> str:
    """One line. Raises Refused, with what to do, where there is no protocol."""
    here = connected()
    where = f"MarketFlow on {here.name} (chain {here.chain.chain_id}), DAO {here.deployed().protocol.dao}"
    return f"{where}: help_marketflow() says what is in scope"


class ConsoleConnection(Connection):
    """A connection that also takes accounts of ape's as they are, not only their aliases."""

    __slots__ = ()

    def signer(self, alias: Any, *, unlock: bool = True) -> ApeSigner:
        if isinstance(alias, ApeSigner):
            return alias
        if isinstance(alias, str):
            return super().signer(alias, unlock=unlock)
        if getattr(alias, "address", None) is None or not hasattr(alias, "sign_transaction"):
            raise Misconfigured(f"{alias!r} is no account: give an alias, or an account such as accounts.load('alice')")
        known = str(getattr(alias, "alias", "") or "")
        if known.upper().startswith("TEST::") or isinstance(alias, KeyfileAccount):
            return super().signer(known, unlock=unlock)
        return ApeSigner(alias, self.provider)
