"""A training's state in one file, from which it goes on bit for bit.

An uncompressed .npz of arrays and one JSON text. The text has the state's plain numbers and the identity of what it is
the state of: code, libraries, data and configuration. With another identity nothing is loaded: a training that goes on
under other circumstances ends in weights that nobody can make again.

The file is written beside its final name, flushed to disk and moved there, so that at every moment, whatever is killed,
the name holds the last whole state or none.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

FORMAT: Final = "marketflow/checkpoint/1"

_TEXT: Final = "text"
# What each part of an identity is called in a sentence, and what to do when it is another one.
_MADE_WITH: Final = {
    "code": ("by another version of the code", "check that version out"),
    "libraries": ("with other libraries", "install those"),
    "data": ("from other data", "give the same --data and companions"),
    "configuration": ("with another configuration", "give the same options"),
}

Arrays = dict[str, npt.NDArray[Any]]


# What zipfile, numpy and json raise for bytes that were cut or changed.
_DAMAGED: Final = (
    OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class CheckpointRefused(ValueError):
    """There is no going on from this file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a state is the state of. Everything in plain integers, texts, lists and objects."""

    code: str
    libraries: Mapping[str, str]
    # A hash for each series.
    data: tuple[str, ...]
    configuration: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the file."""
        parts = {"code": self.code, "configuration": self.configuration, "data": self.data, "libraries": self.libraries}
        result: dict[str, Any] = json.loads(json.dumps(parts))
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is kept: arrays, and numbers and texts that fit JSON."""

    arrays: Arrays
    plain: dict[str, Any]


def save_checkpoint(path: Path, state: State, identity: Identity) -> None:
    """Writes the state whole or not at all. Raises OSError when the disk is full or the folder is not there."""
    text = json.dumps({"format": FORMAT, "identity": identity.to_dict(), "plain": state.plain}, sort_keys=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, **state.arrays, **{_TEXT: np.frombuffer(text.encode(), dtype=np.uint8)})  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _flush_folder(path.parent)


def load_checkpoint(path: Path, identity: Identity) -> State:
    """The state in the file. Raises CheckpointRefused, in one sentence, for one of something else and for no state."""
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        text = json.loads(arrays.pop(_TEXT).tobytes())
        if text["format"] != FORMAT:
            raise CheckpointRefused(f"{path}: the checkpoint has format {text['format']}, this code reads {FORMAT}")
        found, plain = text["identity"], text["plain"]
    except FileNotFoundError:
        raise CheckpointRefused(f"{path}: there is no such checkpoint to go on from; leave --resume out") from None
    except CheckpointRefused:
        raise
    except _DAMAGED as error:
        raise CheckpointRefused(f"{path}: not a whole checkpoint ({error}); start again without --resume") from None
    _require_same(path, found, identity.to_dict())
    return State(arrays=arrays, plain=plain)


def _require_same(path: Path, found: Any, expected: dict[str, Any]) -> None:
    for part, (how, way_out) in _MADE_WITH.items():
        before, now = found.get(part), expected[part]
        if before != now:
            what = _first_difference(before, now)
            raise CheckpointRefused(f"{path}: the checkpoint was made {how} ({what}): {way_out}, or start again")


def _first_difference(before: Any, now: Any, where: str = "") -> str:
    """The first setting that differs, and how, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                return _first_difference(before.get(key), now.get(key), f"{where}.{key}" if where else key)
    return f"{where + ' ' if where else ''}{_short(before)} there, {_short(now)} here"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _flush_folder(folder: Path) -> None:
    """A rename is only on disk when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
