"""ABI data as Python values: structs as named tuples or dicts, addresses checksummed."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from eth_abi.codec import ABICodec
from eth_abi.decoding import StringDecoder, UnsignedIntegerDecoder
from eth_abi.encoding import TextStringEncoder, UnsignedIntegerEncoder
from eth_abi.registry import BaseEquals, registry
from eth_utils import to_checksum_address


def _strict_codec() -> ABICodec:
    """eth-abi as it comes, but for two things. Importing ape changes it for the whole process, to read an integer out
    of too few bytes: then no answer would be the answer 0. And anybody can put bytes on chain that are no UTF-8 into
    a string: they become U+FFFD, as they do in a subgraph, and stop nobody's reading."""
    own = registry.copy()
    own.unregister("uint")
    own.register(BaseEquals("uint"), UnsignedIntegerEncoder, UnsignedIntegerDecoder, label="uint")
    own.unregister("string")
    lenient = StringDecoder(handle_string_errors="replace")
    own.register(BaseEquals("string", with_sub=False), TextStringEncoder, lenient, label="string")
    return ABICodec(own)


CODEC = _strict_codec()


def decode_arguments(inputs: Sequence[Mapping[str, Any]], data: bytes) -> dict[str, Any]:
    """ABI-encoded `data` by parameter name, structs as dicts, addresses checksummed. Raises DecodingError."""
    values = CODEC.decode([type_signature(item) for item in inputs], data)
    names = [item["name"] or str(index) for index, item in enumerate(inputs)]
    return {name: readable(item, value, as_dict=True) for name, item, value in zip(names, inputs, values, strict=True)}


def decode_outputs(outputs: Sequence[Mapping[str, Any]], data: bytes) -> Any:
    """What a call returned: nothing, one value, or a (named) tuple; structs are named tuples, arrays lists.

    Raises DecodingError when `data` is too short for the outputs.
    """
    values = CODEC.decode([type_signature(item) for item in outputs], data)
    parts = [readable(item, value, as_dict=False) for item, value in zip(outputs, values, strict=True)]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else _tuple_type(tuple(item["name"] for item in outputs))(*parts)


def type_signature(item: Mapping[str, Any]) -> str:
    """The canonical type of an ABI parameter: a struct becomes `(type,type)`, an array keeps its brackets."""
    if not item["type"].startswith("tuple"):
        return str(item["type"])
    return f"({','.join(map(type_signature, item['components']))}){item['type'].removeprefix('tuple')}"


def readable(item: Mapping[str, Any], value: Any, *, as_dict: bool) -> Any:
    """A decoded value as its ABI parameter describes it."""
    kind = item["type"]
    if kind.endswith("]"):
        inner = {**item, "type": kind[: kind.rindex("[")]}
        return [readable(inner, element, as_dict=as_dict) for element in value]
    if kind == "address":
        return to_checksum_address(value)
    if kind != "tuple":
        return value
    parts = [readable(part, v, as_dict=as_dict) for part, v in zip(item["components"], value, strict=True)]
    names = tuple(part["name"] for part in item["components"])
    return dict(zip(names, parts, strict=True)) if as_dict else _tuple_type(names)(*parts)


@cache
def _tuple_type(names: tuple[str, ...]) -> Any:
    return namedtuple("Result", names, rename=True)
