"""The compiled contracts, and how to read what they answer: artifacts, reverts, events.

ABI and byte code of our contracts are package data (`agents/abi`), written by `tools/build_artifacts.py`. Third-party
contracts (Uniswap v3, WETH9) stay in `node_modules`, where `make install` puts them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from eth_abi.exceptions import DecodingError
from eth_utils import keccak, to_bytes, to_checksum_address

from oracle.abi import decode_arguments, decode_outputs, type_signature

__all__ = [
    "Abi",
    "Artifact",
    "ArtifactMissing",
    "EventLog",
    "RevertReason",
    "artifact_names",
    "decode_arguments",
    "decode_logs",
    "decode_outputs",
    "decode_revert",
    "load_artifact",
    "node_modules_roots",
    "signature",
    "third_party",
    "type_signature",
]

Abi = list[dict[str, Any]]

_FOLDERS = ("abi", "abi/mocks")

_THIRD_PARTY = {
    "UniswapV3Factory": "@uniswap/v3-core/artifacts/contracts/UniswapV3Factory.sol/UniswapV3Factory.json",
    "UniswapV3Pool": "@uniswap/v3-core/artifacts/contracts/UniswapV3Pool.sol/UniswapV3Pool.json",
    "NonfungiblePositionManager": "@uniswap/v3-periphery/artifacts/contracts/NonfungiblePositionManager.sol/"
    "NonfungiblePositionManager.json",
    "SwapRouter": "@uniswap/v3-periphery/artifacts/contracts/SwapRouter.sol/SwapRouter.json",
    "QuoterV2": "@uniswap/v3-periphery/artifacts/contracts/lens/QuoterV2.sol/QuoterV2.json",
    "WETH9": "canonical-weth/build/contracts/WETH9.json",
}

# https://docs.soliditylang.org/en/latest/control-structures.html#panic-via-assert-and-error-via-require
_PANICS = {
    0x00: "generic panic",
    0x01: "assert failed",
    0x11: "arithmetic overflow",
    0x12: "division by zero",
    0x21: "bad enum value",
    0x22: "bad storage byte array",
    0x31: "pop of an empty array",
    0x32: "index out of bounds",
    0x41: "too much memory",
    0x51: "uninitialised function",
}


class ArtifactMissing(LookupError):
    """A contract was asked for that has not been built or installed; the message says which command does it."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled contract."""

    name: str
    abi: Abi = field(repr=False)
    # Creation code without constructor arguments; empty for interfaces and abstract contracts.
    bytecode: bytes = field(repr=False)
    # Code as it lies on chain, immutables zero; empty when the builder did not keep it.
    deployed_bytecode: bytes = field(repr=False, default=b"")


@dataclass(frozen=True, slots=True)
class RevertReason:
    """Why a call reverted: `name(args)` of a custom error, `Error` (a string), `Panic`, `Unknown`, or `NoReason`."""

    name: str
    args: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={_show(value)}' for key, value in self.args.items())})"


@dataclass(frozen=True, slots=True)
class EventLog:
    """One decoded event: the contract that emitted it, its name, its arguments by name (structs as dicts)."""

    address: str
    name: str
    args: dict[str, Any]


@cache
def load_artifact(name: str) -> Artifact:
    """Our contract (or mock) of that name. Raises ArtifactMissing; `make artifacts` writes the files."""
    for folder in _FOLDERS:
        path = files("agents").joinpath(f"{folder}/{name}.json")
        if path.is_file():
            return _parse_artifact(name, json.loads(path.read_text(encoding="utf-8")))
    raise ArtifactMissing(f"no artifact for contract {name!r} in the package's abi folder: run `make artifacts`")


def artifact_names() -> tuple[str, ...]:
    """Names of all our contracts and mocks that have been built, sorted."""
    return tuple(sorted(name for folder in _FOLDERS for name in _names_in(files("agents").joinpath(folder))))


@cache
def third_party(name: str) -> Artifact:
    """A contract of Uniswap v3 or WETH9, from `node_modules`. Raises ArtifactMissing; `make install` puts it there."""
    try:
        relative = _THIRD_PARTY[name]
    except KeyError:
        raise ArtifactMissing(f"no third-party contract {name!r}; known: {', '.join(_THIRD_PARTY)}") from None
    for root in node_modules_roots():
        if (path := root / relative).is_file():
            return _parse_artifact(name, json.loads(path.read_text(encoding="utf-8")))
    raise ArtifactMissing(f"{name}: {relative} is in no node_modules folder: run `make install`")


def node_modules_roots() -> Iterator[Path]:
    """`node_modules` folders to look in: beside the package first, then upwards from the working directory."""
    here = Path(__file__).resolve().parents[1]
    cwd = Path.cwd()
    for folder in dict.fromkeys((here, cwd, *cwd.parents)):
        if (found := folder / "node_modules").is_dir():
            yield found


def decode_revert(data: bytes) -> RevertReason:
    """The reason in revert data: never raises; data of no known error becomes `Unknown(selector, data)`."""
    if not data:
        return RevertReason("NoReason")
    selector, body = bytes(data[:4]), bytes(data[4:])
    for abi in _errors().get(selector, ()):
        try:
            args = decode_arguments(abi["inputs"], body)
        except DecodingError:
            continue
        if abi["name"] == "Panic":
            args["meaning"] = _PANICS.get(args["code"], "unknown panic")
        return RevertReason(abi["name"], args)
    return RevertReason("Unknown", {"selector": "0x" + selector.hex(), "data": "0x" + bytes(data).hex()})


def decode_logs(receipt: Mapping[str, Any]) -> list[EventLog]:
    """Events of our contracts in a receipt, in order; logs of foreign contracts with unknown topics are left out."""
    decoded = (_decode_log(log) for log in receipt["logs"])
    return [event for event in decoded if event is not None]


def signature(abi: Mapping[str, Any]) -> str:
    """`name(type,type)` of a function, event or error."""
    return f"{abi['name']}({','.join(map(type_signature, abi['inputs']))})"


def _parse_artifact(name: str, raw: Mapping[str, Any]) -> Artifact:
    return Artifact(name, raw["abi"], _code(raw.get("bytecode")), _code(raw.get("deployedBytecode")))


def _code(value: Any) -> bytes:
    text = value.get("object", "") if isinstance(value, Mapping) else value or ""
    return to_bytes(hexstr=text)


def _names_in(folder: Traversable) -> Iterator[str]:
    if folder.is_dir():
        names = (path.name for path in folder.iterdir())
        yield from (n.removesuffix(".json") for n in names if n.endswith(".json") and n != "manifest.json")


@cache
def _errors() -> dict[bytes, list[dict[str, Any]]]:
    """Error ABIs by selector, the two built-in ones included."""
    builtin = [
        {"name": "Error", "inputs": [{"name": "message", "type": "string"}]},
        {"name": "Panic", "inputs": [{"name": "code", "type": "uint256"}]},
    ]
    return _by_key([*builtin, *_entries("error")], lambda abi: keccak(text=signature(abi))[:4])


@cache
def _events() -> dict[bytes, list[dict[str, Any]]]:
    """Event ABIs by topic; several when contracts index the same event differently (ERC-20 and ERC-721 Transfer)."""
    events = [abi for abi in _entries("event") if not abi.get("anonymous")]
    return _by_key(events, lambda abi: keccak(text=signature(abi)))


def _entries(kind: str) -> Iterator[dict[str, Any]]:
    return (abi for name in artifact_names() for abi in load_artifact(name).abi if abi["type"] == kind)


def _by_key(entries: Sequence[dict[str, Any]], key: Any) -> dict[bytes, list[dict[str, Any]]]:
    found: dict[bytes, list[dict[str, Any]]] = {}
    for abi in entries:
        same = found.setdefault(key(abi), [])
        if all(_indexed(abi) != _indexed(other) for other in same):
            same.append(abi)
    return found


def _indexed(abi: Mapping[str, Any]) -> tuple[bool, ...]:
    return tuple(bool(item.get("indexed")) for item in abi["inputs"])


def _decode_log(log: Mapping[str, Any]) -> EventLog | None:
    topics = [to_bytes(hexstr=t) if isinstance(t, str) else bytes(t) for t in log["topics"]]
    data = to_bytes(hexstr=log["data"]) if isinstance(log["data"], str) else bytes(log["data"])
    for abi in _events().get(topics[0], ()) if topics else ():
        indexed = [item for item in abi["inputs"] if item["indexed"]]
        if len(indexed) != len(topics) - 1:
            continue
        try:
            found = decode_arguments([i for i in abi["inputs"] if not i["indexed"]], data)
            for item, topic in zip(indexed, topics[1:], strict=True):
                found |= decode_arguments([_as_topic(item)], topic)
        except DecodingError:
            continue
        args = {name: found[name] for name in (item["name"] for item in abi["inputs"]) if name in found}
        return EventLog(to_checksum_address(log["address"]), abi["name"], args)
    return None


def _as_topic(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """An indexed string, bytes, array or struct is only its hash."""
    dynamic = item["type"] in ("string", "bytes") or item["type"].endswith("]") or item["type"].startswith("tuple")
    return {"name": item["name"], "type": "bytes32"} if dynamic else item


def _show(value: Any) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)
