"""`ape run localgraph` and `ape run manifests`: what they refuse before they start or build anything."""

from __future__ import annotations

from pathlib import Path

from agents.commands import localgraph, manifests
from tests.unit.scripts.conftest import Refuse


def test_a_chain_without_a_url_can_not_be_indexed(refuse: Refuse):
    sentence = refuse(localgraph.cli, "--network", "ethereum:local:test")
    assert sentence.startswith("graph-node needs the URL of a node: --network http://127.0.0.1:8545")


def test_a_file_that_is_no_deployment_is_named(refuse: Refuse, tmp_path: Path):
    (tmp_path / "somewhere.json").write_text("{}")
    sentence = refuse(manifests.cli, "--deployments", str(tmp_path))
    assert sentence.startswith(f"{tmp_path}/somewhere.json is not a deployment ('protocol')")
