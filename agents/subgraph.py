"""The subgraph's manifests, and its build: one for all networks, because the module knows no addresses.

    subgraph/subgraph.template.yaml    what is written by hand
    subgraph/abis, generated, build    what `build` makes of it, `schema.graphql` and `src`
    subgraph/subgraph.<network>.yaml   what `ape run manifests` makes for each file of `deployments/`
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from agents.contracts import Abi, ArtifactMissing, load_artifact, node_modules_roots, third_party
from agents.deployment import CONTRACTS, Deployment
from agents.errors import Misconfigured
from agents.localnet.graphnode import NETWORK, SUBGRAPH, find_gnd, read_manifest

# What The Graph calls the chains, by chain id: https://thegraph.com/docs/en/supported-networks/
NETWORKS = {
    1: "mainnet",
    10: "optimism",
    137: "matic",
    8453: "base",
    42161: "arbitrum-one",
    80002: "polygon-amoy",
    84532: "base-sepolia",
    421614: "arbitrum-sepolia",
    11155111: "sepolia",
    11155420: "optimism-sepolia",
    # Local ones.
    1337: NETWORK,
    31337: NETWORK,
}
_PLACEHOLDER = re.compile(r"\{\{(\w+)(?:\.(address|startBlock))?}}")
_ABI_FILE = re.compile(r"\./abis/(\w+)\.json")


class BuildFailed(RuntimeError):
    """The mappings do not compile; the message has what the compiler said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgraph:
    """A folder with `subgraph.template.yaml`, `schema.graphql` and `src`."""

    folder: Path
    # By data source: where each contract is in the tests of handlers.
    test_addresses: Mapping[str, str]

    @property
    def template(self) -> str:
        return (self.folder / "subgraph.template.yaml").read_text(encoding="utf-8")


_SOURCES = (
    "MarketFlowToken MARKETFLOW_DAO Timelock StrategyRegistry AgentRegistry Constitution Treasury PriceOracle "
    "VaultFactory TradeLedger RewardPool"
).split()
PROTOCOL = Subgraph(
    folder=SUBGRAPH,
    test_addresses={name: f"0x{index:040x}" for index, name in enumerate(_SOURCES, start=0xA0)},
)
# Uniswap v3 on any chain, named like the hosted one.
POOLS = Subgraph(
    folder=SUBGRAPH / "pools",
    test_addresses={"UniswapV3Factory": "0x1f98431c8ad98523631ae4a59f267346ea31f984"},
)


def graph_network(chain_id: int) -> str:
    """What The Graph calls a chain. Raises Misconfigured when it does not index it."""
    if chain_id not in NETWORKS:
        raise Misconfigured(f"chain {chain_id} is none that The Graph indexes: {', '.join(map(str, NETWORKS))} are")
    return NETWORKS[chain_id]


def render_manifest(subgraph: Subgraph, *, network: str, addresses: Mapping[str, str], start_block: int) -> str:
    """The template with its placeholders filled. Raises Misconfigured naming a contract without an address."""

    def fill(found: re.Match[str]) -> str:
        name, field = found.groups()
        if field == "startBlock":
            return str(start_block)
        if field == "address" and name in addresses:
            return addresses[name]
        if name == "network":
            return network
        raise Misconfigured(f"the subgraph's template asks for {found[0]}, and there is no such contract")

    return _PLACEHOLDER.sub(fill, subgraph.template)


def protocol_addresses(deployment: Deployment) -> dict[str, str]:
    """Address by contract, for `render_manifest`."""
    return {contract: getattr(deployment, field) for field, contract in CONTRACTS.items()}


def write_manifest(deployment: Deployment, into: Path) -> Path:
    """What `graph deploy` takes for one network; its paths are relative to the subgraph's folder."""
    text = render_manifest(
        PROTOCOL,
        network=graph_network(deployment.chain_id),
        addresses=protocol_addresses(deployment),
        start_block=deployment.deployed_at_block,
    )
    into.write_text(text, encoding="utf-8")
    return into


def write_built_manifest(
    into: Path, *, addresses: Mapping[str, str], start_block: int, subgraph: Subgraph = PROTOCOL
) -> Path:
    """What a local graph-node takes, for any chain; builds first when something has changed since the last time."""
    folder = build(subgraph)
    manifest = read_manifest(folder / "subgraph.yaml")
    manifest["schema"]["file"] = str(folder / manifest["schema"]["file"])
    for source in manifest["dataSources"]:
        source["source"] |= {"address": addresses[source["name"]], "startBlock": start_block}
    for source in (*manifest["dataSources"], *manifest.get("templates", ())):
        for file in (source["mapping"], *source["mapping"]["abis"]):
            file["file"] = str(folder / file["file"])
    into.write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
    return into


def write_local_manifest(deployment: Deployment) -> Path:
    """What a local graph-node takes of a deployment, in the build folder."""
    return write_built_manifest(
        build() / f"{deployment.dao}.yaml",
        addresses=protocol_addresses(deployment),
        start_block=deployment.deployed_at_block,
    )


def build(subgraph: Subgraph = PROTOCOL, *, into: Path | None = None) -> Path:
    """The folder with the module, the ABIs, and a manifest with the addresses of the tests. Nothing is done when the
    sources are those of the last time. Raises BuildFailed, Misconfigured."""
    folder, program = subgraph.folder, find_gnd()
    into = into or folder / "build"
    with _alone(folder / ".build.lock"):
        text = render_manifest(subgraph, network=NETWORK, addresses=subgraph.test_addresses, start_block=0)
        _write_if_new(folder / "subgraph.yaml", text)
        _collect_abis(text, folder / "abis")
        digest, stamp = _digest(folder), into / "marketflow.stamp"
        if stamp.exists() and stamp.read_text() == digest:
            return into
        stamp.unlink(missing_ok=True)
        if not (folder / "node_modules").exists():
            (folder / "node_modules").symlink_to(SUBGRAPH / "node_modules")
        for command in (("codegen",), ("build", "--output-dir", str(into))):
            _run_gnd(program, command, folder)
        stamp.write_text(digest)
    return into


def _run_gnd(program: Path, command: tuple[str, ...], folder: Path) -> None:
    done = subprocess.run(
        [program, *command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    if done.returncode:
        raise BuildFailed(f"gnd {command[0]} in {folder}: {done.stdout.strip()[-3000:]}")


def _collect_abis(manifest: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in sorted(set(_ABI_FILE.findall(manifest))):
        _write_if_new(folder / f"{name}.json", json.dumps(_find_abi(name)))


def _find_abi(name: str) -> Abi:
    """Ours, Uniswap's, or OpenZeppelin's."""
    for load in (load_artifact, third_party):
        try:
            return load(name).abi
        except ArtifactMissing:
            continue
    for root in node_modules_roots():
        if (path := root / "@openzeppelin" / "contracts" / "build" / "contracts" / f"{name}.json").is_file():
            return list(json.loads(path.read_text(encoding="utf-8"))["abi"])
    raise ArtifactMissing(f"no contract {name!r} for the subgraph: run `make install`")


def _digest(folder: Path) -> str:
    """Of everything that the build depends on."""
    sources = [*folder.glob("src/**/*.ts"), *folder.glob("abis/*.json"), folder / "subgraph.yaml"]
    sources += [folder / "schema.graphql", SUBGRAPH / "package-lock.json"]
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _write_if_new(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
