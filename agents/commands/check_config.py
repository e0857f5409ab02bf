"""ape run check_config: what is deployed, compared with the repository, the genesis configuration and the market file.

Exit code 1 when anything differs: then nobody should vote, trade or deposit before it is explained.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from agents.commands._chain import Connection, at, on_chain, say
from agents.commands._local import local_people
from agents.commands._tables import open_console, print_table
from agents.config_check import Difference, find_differences, find_market_differences
from agents.deployments import NetworkDeployment, load_market
from agents.genesis import load_genesis


@click.command()
@click.option("--genesis", type=click.Path(path_type=Path), help="Default: deployments/genesis/<network>.toml.")
@click.option("--market", type=click.Path(path_type=Path), help="Default: deployments/market/<network>.json.")
@on_chain
def cli(here: Connection, genesis: Path | None, market: Path | None, as_json: bool) -> None:
    """Compare what is deployed with what is written down, and print every difference."""
    deployed = here.deployed()
    path = genesis or here.configuration("genesis", ".toml")
    decided_at_s = int(here.chain.call(deployed.protocol.contract(here.chain, "pool").functions.genesis()))
    found = check(here, deployed, path, market, decided_at_s)
    if as_json:
        compared = {"network": here.name, "deployment": str(here.file), "genesis": str(path)}
        lines = [asdict(difference) for difference in found]
        click.echo(json.dumps({**compared, "decided_at_s": decided_at_s, "differences": lines}, indent=2))
    else:
        say(f"{here.file} against {path}, decided {at(decided_at_s)}")
        show(found)
    sys.exit(1 if found else 0)


def check(
    here: Connection, deployed: NetworkDeployment, genesis: Path, market: Path | None, decided_at_s: int
) -> list[Difference]:
    """Every difference. The market file is left out on a local chain, whose market was made for it."""
    people = local_people() if here.is_local else {}
    configuration = load_genesis(genesis, market=deployed.market, people=people, now_s=decided_at_s)
    written = deployed.market
    if market is not None or not here.is_local:
        written = load_market(market or here.configuration("market", ".json"), chain_id=here.chain.chain_id)
    return [
        *find_market_differences(here.chain, deployed.market, written),
        *find_differences(here.chain, deployed.protocol, configuration, decided_at_s=decided_at_s),
    ]


def show(found: Sequence[Difference]) -> None:
    """A table, or one line when there is nothing to put in it."""
    if not found:
        click.echo("no difference")
        return
    print_table(
        open_console(), f"{len(found)} differences", ("where", "what", "expected", "found", "may be because"),
        [[str(value) for value in asdict(difference).values()] for difference in found],
    )  # fmt: skip
