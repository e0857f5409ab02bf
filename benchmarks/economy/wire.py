"""Contract calls as bytes and back, without web3: what a simulation does a hundred thousand times."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from eth_utils import keccak

from agents.contracts import decode_outputs, load_artifact, signature, third_party
from benchmarks.economy.revm_node import RevmNode
from oracle.abi import CODEC, type_signature


class Wire:
    """Contracts on a revm node, by artifact name and address."""

    def __init__(self, node: RevmNode) -> None:
        self.node = node

    def send(self, sender: str, at: tuple[str, str], function: str, *args: Any) -> Any:
        """Adds a transaction to the latest block; what it returned, decoded. Raises Reverted."""
        abi, selector, types = _function(at[0], function)
        return decode_outputs(abi["outputs"], self.node.transact(sender, at[1], selector + CODEC.encode(types, args)))

    def view(self, at: tuple[str, str], function: str, *args: Any) -> Any:
        """What a call returns now, decoded. Raises Reverted."""
        abi, selector, types = _function(at[0], function)
        return decode_outputs(abi["outputs"], self.node.call(at[1], selector + CODEC.encode(types, args)))


def encode(contract: str, function: str, *args: Any) -> bytes:
    """Call data."""
    _, selector, types = _function(contract, function)
    return selector + CODEC.encode(types, args)


def selector_of(contract: str, function: str) -> bytes:
    return _function(contract, function)[1]


@cache
def _function(contract: str, function: str) -> tuple[Mapping[str, Any], bytes, list[str]]:
    """By name, or by signature where the name has several."""
    artifact = third_party(contract) if contract in _FOREIGN else load_artifact(contract)
    for abi in artifact.abi:
        if abi["type"] == "function" and function in (abi["name"], signature(abi)):
            return abi, keccak(text=signature(abi))[:4], [type_signature(item) for item in abi["inputs"]]
    raise LookupError(f"{contract} has no function {function}")


_FOREIGN = frozenset({"UniswapV3Factory", "UniswapV3Pool", "NonfungiblePositionManager", "SwapRouter", "WETH9"})
