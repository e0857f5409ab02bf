"""ape run node: a local chain to try the other commands on. It forgets everything when it ends."""

from __future__ import annotations

import threading

import click

from agents.commands._chain import in_one_sentence, show
from agents.commands._local import local_people
from agents.errors import Misconfigured
from agents.localnet.anvil import find_anvil
from agents.localnet.evm import start_evm


@click.command()
@click.option("--port", default=8545, show_default=True, help="Where it listens, on this machine only.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@in_one_sentence
def cli(port: int, as_json: bool) -> None:
    """Start anvil, say where it is and who has which account, and wait to be interrupted."""
    if not 0 <= port < 65_536:
        raise Misconfigured(f"--port {port} is none: give one below 65536, or 0 for any that is free")
    if find_anvil() is None:
        raise Misconfigured("anvil is not installed: run `make install`")
    with start_evm("anvil", port=port or None) as evm:
        people = {f"TEST::{index}": f"{who} {at}" for index, (who, at) in enumerate(local_people().items())}
        show({"url": evm.url, **people}, as_json=as_json)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("ended", err=True)
