"""ape run manifests: the subgraph, built, with a manifest for each network that the protocol is deployed on."""

from __future__ import annotations

from pathlib import Path

import click

from agents.commands._chain import DEPLOYMENTS, in_one_sentence, show
from agents.deployments import load_deployment
from agents.subgraph import PROTOCOL, build, write_manifest


@click.command()
@click.option(
    "--deployments", "folder", type=click.Path(path_type=Path), default=DEPLOYMENTS, show_default="deployments",
    envvar="MARKETFLOW_DEPLOYMENTS_DIR", help="Folder of the files that say where things are.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@in_one_sentence
def cli(folder: Path, as_json: bool) -> None:
    """Build the subgraph, and write subgraph/subgraph.<network>.yaml for each file of the deployments' folder: what
    `graph deploy` takes."""
    deployed = {file.stem: load_deployment(file, chain_id=None).protocol for file in sorted(folder.glob("*.json"))}
    written = {"build": build()}
    for name, protocol in deployed.items():
        written[name] = write_manifest(protocol, PROTOCOL.folder / f"subgraph.{name}.yaml")
    show(written, as_json=as_json)
