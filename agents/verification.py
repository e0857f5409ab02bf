"""What an explorer needs to see for itself that a contract is made of our sources: Sourcify and Etherscan alike.

For each contract the standard JSON input of solc, with the sources that it is made of and no others, and the
constructor arguments as the chain has them. https://docs.soliditylang.org/en/latest/using-the-compiler.html#input-description
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from eth_abi import decode
from eth_utils import keccak, to_checksum_address

from agents.contracts import load_artifact, node_modules_roots
from agents.deployment import CONTRACTS, Chain, Deployment
from agents.errors import Misconfigured
from agents.logs import fetch_logs

ROOT = Path(__file__).resolve().parents[1]
_IMPORT = re.compile(r"""^\s*import\s+(?:[^"';]*\sfrom\s+)?["']([^"']+)["']\s*;""", re.MULTILINE)
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_OUTPUTS = ["abi", "evm.bytecode.object", "evm.deployedBytecode.object", "evm.deployedBytecode.immutableReferences"]
_DEPLOYED = "0x" + keccak(text="Deployed(address,bytes32,address)").hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """One contract, as an explorer asks for it."""

    # Its name in the deployment.
    name: str
    contract: str
    address: str
    # Path and name of the contract, such as contracts/token/MarketFlowToken.sol:MarketFlowToken.
    identifier: str
    # As solc names itself, without the leading v.
    compiler: str
    # ABI-encoded, without 0x; empty when the constructor takes none.
    arguments: str
    transaction_hash: str
    standard_json: Mapping[str, Any]

    def sourcify(self) -> dict[str, Any]:
        """The body of POST /v2/verify/{chainId}/{address}: https://docs.sourcify.dev/docs/api/"""
        return {
            "stdJsonInput": self.standard_json,
            "compilerVersion": self.compiler,
            "contractIdentifier": self.identifier,
            "creationTransactionHash": self.transaction_hash,
        }

    def etherscan(self) -> dict[str, str]:
        """The form of `action=verifysourcecode`, but for the key and `sourceCode`, which is the standard JSON input."""
        return {
            "module": "contract",
            "action": "verifysourcecode",
            "codeformat": "solidity-standard-json-input",
            "contractaddress": self.address,
            "contractname": self.identifier,
            "compilerversion": f"v{self.compiler}",
            "constructorArguments": self.arguments,
        }


def standard_json(contract: str) -> dict[str, Any]:
    """solc's input for one of our contracts: its own sources, and the settings that the repository's code was made
    with. Raises Misconfigured where the sources are not at hand."""
    artifact = _artifact(contract)
    sources = {name: {"content": content} for name, content in sorted(_sources(artifact["sourceName"]).items())}
    return {
        "language": "Solidity",
        "sources": sources,
        "settings": {**artifact["settings"], "outputSelection": {"*": {"*": _OUTPUTS}}},
    }


def verifications(chain: Chain, d: Deployment) -> Iterator[Verification]:
    """Every contract of a deployment, in the order in which they were made."""
    names = {getattr(d, name): (name, contract) for name, contract in CONTRACTS.items()}
    names |= {address: (f"grant-{i}", "TokenGrant") for i, address in enumerate(d.grants)}
    yield _verification("deployer_contract", "Deployer", d.deployer_contract, b"", "")
    own = "0x" + d.deployer[2:].lower().rjust(64, "0")
    for log in fetch_logs(chain, d.deployer_contract, [_DEPLOYED, own], from_block=d.deployed_at_block):
        address = to_checksum_address(bytes(log["data"])[12:32])
        if address in names:
            name, contract = names.pop(address)
            sent = chain.w3.eth.get_transaction(log["transactionHash"])
            _, code = decode(["bytes32", "bytes"], bytes(sent["input"])[4:])
            yield _verification(name, contract, address, code, "0x" + bytes(log["transactionHash"]).hex())
    if names:
        missing = ", ".join(name for name, _ in names.values())
        raise Misconfigured(f"the node has no event of how {missing} were made: ask one that keeps all events")


def _verification(name: str, contract: str, address: str, code: bytes, transaction_hash: str) -> Verification:
    artifact, made_of = _artifact(contract), load_artifact(contract).bytecode
    if code and not code.startswith(made_of):
        raise Misconfigured(
            f"{name} at {address} was made of other code than the repository's {contract}: check out the version that "
            "was deployed"
        )
    return Verification(
        name=name, contract=contract, address=address, identifier=f"{artifact['sourceName']}:{contract}",
        compiler=artifact["compiler"], arguments=code[len(made_of) :].hex(), transaction_hash=transaction_hash,
        standard_json=standard_json(contract),
    )  # fmt: skip


def write(found: Verification, chain_id: int, folder: Path) -> None:
    """`<name>.json`, solc's input; `<name>.sourcify.json`, the body of a request; `<name>.etherscan.json`, the form."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, content in (
        ("json", found.standard_json),
        ("sourcify.json", found.sourcify()),
        ("etherscan.json", {"chainid": chain_id, **found.etherscan()}),
    ):
        (folder / f"{found.name}.{suffix}").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# Sources


def _sources(start: str) -> dict[str, str]:
    """A source and everything that it imports, by the names under which solc knows them."""
    found: dict[str, str] = {}
    waiting = [start]
    while waiting:
        unit = waiting.pop()
        if unit not in found:
            found[unit] = _read(unit)
            waiting += [_resolve(unit, path) for path in _IMPORT.findall(_COMMENT.sub("", found[unit]))]
    return found


def _resolve(unit: str, path: str) -> str:
    """https://docs.soliditylang.org/en/latest/path-resolution.html"""
    return posixpath.normpath(posixpath.join(posixpath.dirname(unit), path)) if path.startswith(".") else path


def _read(unit: str) -> str:
    for root in (ROOT, *node_modules_roots()):
        if (path := root / unit).is_file():
            return path.read_text(encoding="utf-8")
    raise Misconfigured(
        f"source {unit} is not here: this needs the repository with its contracts/, and the node_modules that "
        "`make install` makes"
    )


def _artifact(contract: str) -> dict[str, Any]:
    load_artifact(contract)  # says what to do when it is missing
    raw: dict[str, Any] = json.loads(files("agents").joinpath(f"abi/{contract}.json").read_text(encoding="utf-8"))
    return raw


