"""The subgraph's manifests: of which networks, with which addresses, and that the template is of these contracts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.contracts import load_artifact, type_signature
from agents.deployment import CONTRACTS, Deployment
from agents.errors import Misconfigured
from agents.localnet.graphnode import read_manifest
from agents.subgraph import NETWORKS, PROTOCOL, protocol_addresses, render_manifest, write_manifest

# Events that say nothing which another one does not: approvals, roles, and what OpenZeppelin's timelock repeats.
UNTOLD = {
    "AgentRegistry": {"Approval", "ApprovalForAll", "BatchMetadataUpdate", "MetadataSet"},
    "MARKETFLOW_DAO": {"EIP712DomainChanged", "TimelockChange"},
    "MarketFlowToken": {"Approval", "EIP712DomainChanged"},
    "Timelock": {
        "CallExecuted", "CallSalt", "CallScheduled", "Cancelled", "RoleAdminChanged", "RoleGranted", "RoleRevoked",
    },
}  # fmt: skip


def deployment(chain_id: int) -> Deployment:
    addresses = {name: f"0x{index:040X}" for index, name in enumerate(CONTRACTS, start=0xD00D)}
    at = "0x" + "11" * 20
    return Deployment(
        chain_id=chain_id, deployed_at_block=77, deployer=at, deployer_contract=at, quote=at, **addresses
    )


def sources(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [*manifest["dataSources"], *manifest["templates"]]


@pytest.fixture
def template() -> dict[str, Any]:
    text = render_manifest(PROTOCOL, network="mainnet", addresses=PROTOCOL.test_addresses, start_block=0)
    return dict(yaml.load(text, yaml.BaseLoader))


def test_a_chain_that_the_graph_does_not_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="chain 5 is none that The Graph indexes"):
        write_manifest(deployment(5), tmp_path / "subgraph.yaml")


def test_a_contract_without_an_address_is_named() -> None:
    with pytest.raises(Misconfigured, match=r"asks for \{\{MARKETFLOW_DAO.address}}"):
        render_manifest(PROTOCOL, network="base", addresses={"MarketFlowToken": "0x1"}, start_block=0)


@pytest.mark.parametrize("chain_id", NETWORKS)
def test_a_manifest_has_the_network_s_name_and_every_address_and_block(chain_id: int, tmp_path: Path) -> None:
    deployed = deployment(chain_id)
    found = read_manifest(write_manifest(deployed, tmp_path / "subgraph.yaml"))
    assert {source["network"] for source in sources(found)} == {NETWORKS[chain_id]}
    known = protocol_addresses(deployed)
    for source in found["dataSources"]:
        assert source["source"]["address"] == known[source["name"]]
        assert source["source"]["startBlock"] == "77"


def test_every_event_of_the_template_is_one_of_that_contract(template: dict[str, Any]) -> None:
    for source in sources(template):
        told = {handler["event"] for handler in source["mapping"]["eventHandlers"]}
        assert told <= set(events_of(source["name"]).values()), source["name"]


def test_every_event_of_the_contracts_is_told_but_for_those_that_say_nothing_new(template: dict[str, Any]) -> None:
    for source in sources(template):
        told = {handler["event"].split("(")[0] for handler in source["mapping"]["eventHandlers"]}
        assert told == events_of(source["name"]).keys() - UNTOLD.get(source["name"], set()), source["name"]


def events_of(contract: str) -> dict[str, str]:
    """By name: as manifests write them."""
    events = (entry for entry in load_artifact(contract).abi if entry["type"] == "event")
    return {e["name"]: f"{e['name']}({','.join(map(_parameter, e['inputs']))})" for e in events}


def _parameter(item: dict[str, Any]) -> str:
    return f"{'indexed ' if item['indexed'] else ''}{type_signature(item)}"
