"""What the scripts share: the chain that `--network` names, signers from ape's accounts, and one way to end in an error."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ape
import click

from agents.chain import ApeSigner, RemoteChain
from agents.deployments import NetworkDeployment, load_deployment
from agents.errors import AgentError, Misconfigured
from agents.localnet.evm import CallReverted, TransactionReverted

DEPLOYMENTS = Path(__file__).resolve().parents[1] / "deployments"


def connected() -> RemoteChain:
    """The chain of `ape run … --network …`. Raises Misconfigured when ape is connected to none."""
    provider = ape.networks.active_provider
    if provider is None:
        raise Misconfigured("no network: add --network, such as --network ethereum:sepolia:node or http://127.0.0.1:8545")
    return RemoteChain(provider.web3)


def network_file() -> Path:
    """`deployments/<network>.json` of the connected network; a node given as a URL is called by its chain id."""
    provider = ape.networks.active_provider
    network = provider.network
    known = network.name not in ("custom", "local", "adhoc")
    name = f"{network.ecosystem.name}-{network.name}" if known else f"chain-{provider.chain_id}"
    return DEPLOYMENTS / f"{name}.json"


def deployed(chain: RemoteChain) -> NetworkDeployment:
    """Where the protocol is on the connected network."""
    return load_deployment(network_file(), chain_id=chain.chain_id)


def signer(alias: str) -> ApeSigner:
    """An ape account by alias, or TEST::n of ape's test mnemonic. Raises Misconfigured naming the way out."""
    try:
        if alias.upper().startswith("TEST::"):
            account = ape.accounts.test_accounts[int(alias[6:])]
        else:
            account = ape.accounts.load(alias)
    except (KeyError, IndexError, ValueError):
        raise Misconfigured(
            f"no account {alias!r}: `ape accounts list` shows those there are, `ape accounts generate {alias}` makes one"
        ) from None
    return ApeSigner(account, ape.networks.active_provider)


def in_one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """Ends a command with one sentence and exit code 1 when something is wrong that a person can put right."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except (CallReverted, TransactionReverted) as error:
            fail(f"the chain refused: {error.reason}")
        except (AgentError, ValueError, OSError, LookupError, RuntimeError) as error:
            fail(str(error))

    return run


def fail(sentence: str) -> None:
    """Exit code 1 after one sentence on stderr."""
    click.echo(f"error: {sentence}", err=True)
    sys.exit(1)


def show(values: dict[str, Any], *, as_json: bool) -> None:
    """Values as JSON, or one line for each."""
    if as_json:
        click.echo(json.dumps(values, indent=2, default=str))
        return
    width = max(map(len, values), default=0)
    for name, value in values.items():
        click.echo(f"{name:<{width}}  {value}")
