"""A strategy as one file whose hash is what gets approved.

The file is canonical JSON, so that equal content means equal bytes: RFC 8785 restricted to objects,
arrays, strings, booleans and integers. Keys are sorted and ASCII, there is no white space, text is
UTF-8, integers lie strictly between -2**53 and 2**53, and there is no float and no null. The artefact
hash is keccak256 of those bytes. A reader refuses any file whose bytes are not exactly the canonical ones.

    format        "marketflow/artefact"
    version       1
    name          1 to 64 of a-z, 0-9, "-", "."
    kind          mlp | moving_average | constant | buy_and_hold | hold
    observation   what the policy sees: `ObservationSpec`
    action        what it may want: `ActionSpec`
    parameters    what `kind` needs, see below
    provenance    where it comes from: data hash, source and span, code version, seed, configuration
    report        how it did out of sample, integers

Parameters of `mlp`: `layers`, each with `weights` (a row of integers for each output), `biases`,
`weight_bits` and `storage` ("int8" or "int16", the range of the weights). A weight w means
w / 2**weight_bits; a bias is in units of the sum it is added to (input bits + weight_bits).
Of `moving_average`: `feature`, `weight_above_bps`, `weight_below_bps`. Of `constant`: `weight_bps`.
`buy_and_hold` and `hold` take none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from eth_utils import keccak

from offchain_rl.fixedpoint import INT8_MAX, INT16_MAX
from offchain_rl.observation import BPS, BadSpec, ObservationSpec

FORMAT: Final = "marketflow/artefact"
FORMAT_VERSION: Final = 1
KINDS: Final = ("mlp", "moving_average", "constant", "buy_and_hold", "hold")
MAX_ARTEFACT_BYTES: Final = 1 << 20
MAX_LAYERS: Final = 8
MAX_WIDTH: Final = 256
MAX_WEIGHT_BITS: Final = 24
# Far more than a sum of 256 products of two int16 can need, and far from the edge of an int64.
MAX_BIAS: Final = (1 << 48) - 1
STORAGE_LIMITS: Final = {"int8": INT8_MAX, "int16": INT16_MAX}

_INTEGER_LIMIT: Final = 1 << 53
_MAX_DEPTH: Final = 32
_NAME_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}\Z", re.ASCII)
_TOP_KEYS: Final = {"format", "version", "name", "kind", "observation", "action", "parameters", "provenance", "report"}


class ArtefactInvalid(ValueError):
    """The bytes are not an artefact this version accepts."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ArtefactMismatch(ValueError):
    """The artefact is not the one that was approved."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"artefact {actual} is not the expected {expected}")
        self.expected = expected
        self.actual = actual


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSpec:
    """What the policy may ask for, basis points of the vault's value."""

    max_weight_bps: int = 5_000
    # A target closer than this to the weight held is not worth a trade.
    deadband_bps: int = 1_000

    def __post_init__(self) -> None:
        _check(_is_int(self.max_weight_bps, 0, BPS), "action.max_weight_bps is an integer from 0 to 10000")
        _check(_is_int(self.deadband_bps, 0, BPS), "action.deadband_bps is an integer from 0 to 10000")

    def to_dict(self) -> dict[str, Any]:
        """The spec as it stands in the artefact."""
        return {"deadband_bps": self.deadband_bps, "max_weight_bps": self.max_weight_bps}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One integer layer: `sum(weights[o][i] * x[i]) + biases[o]`, in units of 2**-(input bits + weight_bits)."""

    weights: tuple[tuple[int, ...], ...]
    biases: tuple[int, ...]
    weight_bits: int
    storage: str = "int16"

    def to_dict(self) -> dict[str, Any]:
        """The layer as it stands in the artefact."""
        return {
            "biases": list(self.biases),
            "storage": self.storage,
            "weight_bits": self.weight_bits,
            "weights": [list(row) for row in self.weights],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A validated strategy. Build it with its fields, or with `parse` or `load` from bytes."""

    name: str
    kind: str
    observation: ObservationSpec
    action: ActionSpec = field(default_factory=ActionSpec)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    # The layers of an `mlp`, read from the parameters; empty for other kinds.
    layers: tuple[Layer, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        _check(
            isinstance(self.name, str) and bool(_NAME_PATTERN.match(self.name)), "name is 1 to 64 of a-z, 0-9, - and ."
        )
        _check(self.kind in KINDS, f"unknown kind {self.kind!r}; known are {', '.join(KINDS)}")
        for part in ("parameters", "provenance", "report"):
            _check(isinstance(getattr(self, part), Mapping), f"{part} is an object")
        _check(len(self.to_bytes()) <= MAX_ARTEFACT_BYTES, f"the artefact is larger than {MAX_ARTEFACT_BYTES} bytes")
        object.__setattr__(self, "layers", _parse_parameters(self))
        for part in ("parameters", "provenance", "report"):
            object.__setattr__(self, part, _freeze(getattr(self, part)))

    def to_dict(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "action": self.action.to_dict(),
            "format": FORMAT,
            "kind": self.kind,
            "name": self.name,
            "observation": self.observation.to_dict(),
            "parameters": self.parameters,
            "provenance": self.provenance,
            "report": self.report,
            "version": FORMAT_VERSION,
        }

    def to_bytes(self) -> bytes:
        """The canonical bytes: the file itself."""
        return canonical_bytes(self.to_dict())

    @property
    def artefact_hash(self) -> str:
        """keccak256 of the canonical bytes, 0x-hex."""
        return hash_bytes(self.to_bytes())


def load(path: str | Path, expected_hash: str | bytes | None = None) -> Artefact:
    """The artefact in a file.

    With `expected_hash` (0x-hex or 32 bytes) anything else raises ArtefactMismatch before it is even
    read as JSON. Raises ArtefactInvalid for what is not a canonical, known and well-shaped artefact,
    OSError when there is no such file.
    """
    with Path(path).open("rb") as file:
        content = file.read(MAX_ARTEFACT_BYTES + 1)
    return parse(content, expected_hash)


def parse(content: bytes, expected_hash: str | bytes | None = None) -> Artefact:
    """The artefact in these bytes; raises as `load` does."""
    _check(len(content) <= MAX_ARTEFACT_BYTES, f"the artefact is larger than {MAX_ARTEFACT_BYTES} bytes")
    if expected_hash is not None:
        expected, actual = _normalise_hash(expected_hash), hash_bytes(content)
        if actual != expected:
            raise ArtefactMismatch(expected, actual)
    document = _parse_json(content)
    _check(isinstance(document, dict), "the top level is not an object")
    _check(document.get("format") == FORMAT, f"format is not {FORMAT!r}")
    version = document.get("version")
    _check(
        _is_int(version, FORMAT_VERSION, FORMAT_VERSION),
        f"unknown version {version!r}, this code knows {FORMAT_VERSION}",
    )
    _check_keys(document, _TOP_KEYS, "the artefact")
    _check(canonical_bytes(document) == content, "the bytes are not canonical JSON")
    return Artefact(
        name=document["name"],
        kind=document["kind"],
        observation=_parse_observation(document["observation"]),
        action=_parse_action(document["action"]),
        parameters=document["parameters"],
        provenance=document["provenance"],
        report=document["report"],
    )


def save(artefact: Artefact, path: str | Path) -> str:
    """The artefact hash, after its canonical bytes were written to `path`."""
    Path(path).write_bytes(artefact.to_bytes())
    return artefact.artefact_hash


def require_writable(path: Path) -> None:
    """Raises OSError when no file can be made at `path`: asked before minutes are spent on what goes there."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file")
    probe = path.with_name(f"{path.name}.probe")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"{path} can't be written ({error.strerror}): name another file") from error


def canonical_bytes(document: Any) -> bytes:
    """The one way to write a document down. Raises ArtefactInvalid for what has no canonical form."""
    _check_value(document, "", 0)
    text = json.dumps(_plain(document), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ArtefactInvalid(f"a text is not valid Unicode ({error.reason})") from error


def hash_bytes(content: bytes) -> str:
    """keccak256 as 0x-hex, 32 bytes."""
    return "0x" + keccak(content).hex()


def code_version() -> str:
    """keccak256 of this package's source files: which code trained and judged an artefact."""
    folder = Path(__file__).parent
    sources = sorted(folder.glob("*.py"))
    parts = [path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n") for path in sources]
    return hash_bytes(b"\0".join(parts))


# Reading


def _parse_json(content: bytes) -> Any:
    try:
        return json.loads(
            content.decode("utf-8"),
            parse_float=_refuse_float,
            parse_constant=_refuse_float,
            object_pairs_hook=_object_without_duplicates,
        )
    except ArtefactInvalid:
        raise
    except RecursionError:
        raise ArtefactInvalid(f"nested more than {_MAX_DEPTH} deep") from None
    except ValueError as error:
        raise ArtefactInvalid(f"not JSON: {error}") from None


def _refuse_float(text: str) -> Any:
    raise ArtefactInvalid(f"{text} is not an integer; an artefact has no floats")


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    _check(len(result) == len(pairs), "a key is given twice")
    return result


def _parse_observation(value: Any) -> ObservationSpec:
    _check(isinstance(value, dict), "observation is not an object")
    _check_keys(value, {"bar_s", "features", "lookback", "scale_bits", "version", "vol_window"}, "observation")
    _check(isinstance(value["features"], list), "observation.features is not a list")
    try:
        return ObservationSpec(**{**value, "features": tuple(value["features"])})
    except (BadSpec, TypeError) as error:
        raise ArtefactInvalid(f"observation: {error}") from error


def _parse_action(value: Any) -> ActionSpec:
    _check(isinstance(value, dict), "action is not an object")
    _check_keys(value, {"deadband_bps", "max_weight_bps"}, "action")
    return ActionSpec(**value)


def _parse_parameters(artefact: Artefact) -> tuple[Layer, ...]:
    parameters = artefact.parameters
    if artefact.kind == "mlp":
        _check_keys(parameters, {"layers"}, "parameters")
        return _parse_layers(parameters["layers"], inputs=len(artefact.observation.features))
    if artefact.kind == "moving_average":
        _check_keys(parameters, {"feature", "weight_above_bps", "weight_below_bps"}, "parameters")
        _check(parameters["feature"] in artefact.observation.features, "parameters.feature is not in the observation")
        for key in ("weight_above_bps", "weight_below_bps"):
            _check_weight(parameters[key], key, artefact.action)
    elif artefact.kind == "constant":
        _check_keys(parameters, {"weight_bps"}, "parameters")
        _check_weight(parameters["weight_bps"], "weight_bps", artefact.action)
    else:
        _check_keys(parameters, set(), "parameters")
    return ()


def _check_weight(value: Any, key: str, action: ActionSpec) -> None:
    most = action.max_weight_bps
    _check(_is_int(value, 0, most), f"parameters.{key} is {value!r}, expected an integer from 0 to {most}")


def _parse_layers(value: Any, *, inputs: int) -> tuple[Layer, ...]:
    _check(isinstance(value, list | tuple) and 1 <= len(value) <= MAX_LAYERS, f"layers is a list of 1 to {MAX_LAYERS}")
    layers = []
    for number, item in enumerate(value):
        layer = _parse_layer(item, f"layer {number}", inputs)
        inputs = len(layer.biases)
        layers.append(layer)
    _check(inputs == 1, f"the last layer has {inputs} outputs, expected 1")
    return tuple(layers)


def _parse_layer(value: Any, where: str, inputs: int) -> Layer:
    _check(isinstance(value, Mapping), f"{where} is not an object")
    _check_keys(value, {"biases", "storage", "weight_bits", "weights"}, where)
    _check(value["storage"] in tuple(STORAGE_LIMITS), f"{where}: storage is {' or '.join(STORAGE_LIMITS)}")
    limit = STORAGE_LIMITS[value["storage"]]
    weights, biases = value["weights"], value["biases"]
    _check(
        isinstance(weights, list | tuple) and 1 <= len(weights) <= MAX_WIDTH,
        f"{where}: 1 to {MAX_WIDTH} rows of weights",
    )
    for row in weights:
        _check(isinstance(row, list | tuple) and len(row) == inputs, f"{where}: each row has {inputs} weights")
        _check(all(_is_int(w, -limit, limit) for w in row), f"{where}: a weight is not an integer within {limit}")
    _check(isinstance(biases, list | tuple) and len(biases) == len(weights), f"{where}: {len(weights)} biases")
    _check(all(_is_int(b, -MAX_BIAS, MAX_BIAS) for b in biases), f"{where}: a bias is not an integer within {MAX_BIAS}")
    bits = value["weight_bits"]
    _check(_is_int(bits, 0, MAX_WEIGHT_BITS), f"{where}: weight_bits is an integer from 0 to {MAX_WEIGHT_BITS}")
    return Layer(
        weights=tuple(tuple(row) for row in weights), biases=tuple(biases), weight_bits=bits, storage=value["storage"]
    )


# Canonical form


def _check_value(value: Any, where: str, depth: int) -> None:
    _check(depth <= _MAX_DEPTH, f"nested more than {_MAX_DEPTH} deep")
    if isinstance(value, bool | str):
        return
    if isinstance(value, int):
        _check(
            -_INTEGER_LIMIT < value < _INTEGER_LIMIT, f"{where or 'a value'} does not fit 53 bits; write it as a text"
        )
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check(isinstance(key, str) and key.isascii(), f"{where}: the key {key!r} is not an ASCII text")
            _check_value(item, f"{where}.{key}" if where else key, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_value(item, where, depth + 1)
    else:
        raise ArtefactInvalid(
            f"{where or 'a value'} is a {type(value).__name__}; an artefact has integers and texts only"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _freeze(value: Any) -> Any:
    if isinstance(value, Mapping):
        return MappingProxyType({key: _freeze(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(_freeze(item) for item in value)
    return value


def _normalise_hash(value: str | bytes) -> str:
    text = "0x" + value.hex() if isinstance(value, bytes) else value.lower()
    if not re.fullmatch(r"0x[0-9a-f]{64}", text, re.ASCII):
        raise ValueError(f"an artefact hash is 32 bytes, 0x and 64 hex digits, not {value!r}")
    return text


def _check_keys(value: Mapping[str, Any], keys: set[str], where: str) -> None:
    missing, unknown = keys - set(value), set(value) - keys
    _check(not missing, f"{where} has no {', '.join(sorted(missing))}")
    _check(not unknown, f"{where} has the unknown {', '.join(sorted(map(str, unknown)))}")


def _is_int(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _check(condition: bool, reason: str) -> None:
    if not condition:
        raise ArtefactInvalid(reason)
