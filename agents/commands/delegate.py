"""ape run delegate: tokens vote only for whom they are delegated to; most people name themselves, once."""

from __future__ import annotations

import click
from eth_utils import is_address, to_checksum_address

from agents.commands._chain import Connection, on_chain, sending, show, tokens
from agents.errors import Misconfigured


@click.command()
@click.option("--to", default="", help="Who votes with the tokens. Default: the account itself.")
@sending
@on_chain
def cli(here: Connection, to: str, account: str, dry_run: bool, as_json: bool) -> None:
    """Delegate an account's votes. It counts for proposals whose voting begins later."""
    if to and not is_address(to):
        raise Misconfigured(f"--to {to!r} is no address: an address is 0x and 40 hex digits")
    protocol, signer = here.deployed().protocol, here.signer(account, unlock=not dry_run)
    token = protocol.contract(here.chain, "token")
    delegate = to_checksum_address(to or signer.address)
    held = here.chain.call(token.functions.balanceOf(signer.address))
    if not dry_run:
        here.chain.send(token.functions.delegate(delegate), signer)
    answer = {"dry_run": dry_run, "account": signer.address, "delegate": delegate, "tokens": tokens(held)}
    show(answer, as_json=as_json)
