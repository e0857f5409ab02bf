"""ape run relayer: takes signed ballots over HTTP and pays for their transactions.

    ape run relayer --account relayer --network ethereum:sepolia:node
    ape run relayer --account relayer --origin https://vote.example.org --max-ether-per-day 0.2 --network …
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from agents.commands._chain import Connection, account_option, on_chain, say, show
from agents.errors import Misconfigured
from agents.genesis import to_units

_GWEI_DECIMALS, _ETHER_DECIMALS = 9, 18


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens; a proxy speaks TLS.")
@click.option("--port", default=8601, show_default=True, help="0 takes any that is free.")
@account_option("Alias of the ape account that pays; nothing else should use it.")
@click.option("--store", type=click.Path(path_type=Path), help="Its file. Default: <network>.relayer.db.")
@click.option("--origin", "origins", multiple=True, help="A site whose page may use it; * for all; may be repeated.")
@click.option("--per-minute", default=30, show_default=True, help="Ballots that one address may send in a minute.")
@click.option("--max-fee-gwei", default="500", show_default=True, help="Highest price of a unit of gas.")
@click.option("--max-ether-per-day", default="1", show_default=True, help="What it may spend in 24 hours.")
@click.option("--dry-run", is_flag=True, help="Say whether it would take ballots, and serve nothing.")
@on_chain
def cli(
    here: Connection,
    host: str,
    port: int,
    account: str,
    store: Path | None,
    origins: tuple[str, ...],
    per_minute: int,
    max_fee_gwei: str,
    max_ether_per_day: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Serve the relayer until it is interrupted; what it took is on disk."""
    from agents.commands.page import listen
    from agents.fees import FeePolicy
    from agents.relayer import RelayerRules, Worker
    from agents.relayer_app import create_relayer_app

    if per_minute < 1:
        raise Misconfigured(f"--per-minute {per_minute} would take no ballots: give 1 or more")
    try:
        rules = RelayerRules(
            fees=FeePolicy(max_fee_wei=to_units(max_fee_gwei, _GWEI_DECIMALS)),
            max_spend_per_day_wei=to_units(max_ether_per_day, _ETHER_DECIMALS),
        )
    except (TypeError, ValueError) as error:
        raise Misconfigured(f"--max-fee-gwei or --max-ether-per-day: {error}") from error
    relayer = make_relayer(here, account, store, rules=rules)
    if dry_run:
        show({"dry_run": True, **relayer.status()}, as_json=as_json)
        return
    listener = listen(host, port)
    show({"url": f"http://{host}:{listener.getsockname()[1]}", **relayer.status()}, as_json=as_json)
    run_app(create_relayer_app(relayer, origins=origins, per_minute=per_minute), listener, Worker(relayer))


def make_relayer(here: Connection, account: str, store: Path | None, *, rules: Any = None) -> Any:
    """The relayer of this network's DAO. Raises Misconfigured naming the option."""
    from agents.relayer import Relayer
    from agents.relayer_store import RelayerStore

    if not account:
        raise Misconfigured("who pays for the ballots? add --account ALIAS: `ape accounts list` shows those there are")
    protocol, signer = here.deployed().protocol, here.signer(account)
    kept = RelayerStore(
        store or here.folder / f"{here.name}.relayer.db", chain_id=protocol.chain_id, dao=protocol.dao,
        account=signer.address,
    )  # fmt: skip
    relayer = Relayer(here.chain, protocol, signer, kept, rules=rules)
    if why := relayer.why_not():
        say(f"it takes no ballots now: {why}")
    return relayer


def run_app(app: Any, listener: Any, worker: Any) -> None:
    """Serves until it is interrupted."""
    import uvicorn

    level = os.environ.get("MARKETFLOW_LOG_LEVEL", "warning").lower()
    config = uvicorn.Config(app, log_level=level, access_log=False, server_header=False, lifespan="off", ws="none")
    if worker:
        worker.start()
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        if worker:
            worker.stop()
    say("ended")
