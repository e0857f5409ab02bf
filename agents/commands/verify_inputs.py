"""ape run verify_inputs: what Sourcify and Etherscan need to verify every contract of a deployment.

Writes files and sends nothing: explorers want an account, or at least to be asked by a person. Each contract gets
solc's standard JSON input, the body of Sourcify's request, and the form of Etherscan's.
"""

from __future__ import annotations

from pathlib import Path

import click

from agents.commands._chain import Connection, on_chain, say, show
from agents.verification import Verification, verifications, write

HOW = (
    "Sourcify: curl -X POST https://sourcify.dev/server/v2/verify/CHAIN/ADDRESS -H 'Content-Type: application/json' "
    "-d @NAME.sourcify.json"
)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Default: verify/<network> beside the deployment's file.")
@on_chain
def cli(here: Connection, out: Path | None, as_json: bool) -> None:
    """Write what explorers need to verify what is deployed."""
    deployed = here.deployed()
    folder = out or here.folder / "verify" / here.name
    found = list(verifications(here.chain, deployed.protocol))
    for verification in found:
        write(verification, here.chain.chain_id, folder)
    say(HOW.replace("CHAIN", str(here.chain.chain_id)))
    contracts = {verification.name: describe(verification) for verification in found}
    show({"folder": str(folder), **contracts}, as_json=as_json)


def describe(found: Verification) -> dict[str, str]:
    """One contract, for people and for programs."""
    return {
        "address": found.address,
        "contract": found.identifier,
        "compiler": f"v{found.compiler}",
        "arguments": found.arguments,
        "transaction": found.transaction_hash,
    }
