"""Why a trade was made: a canonical document, named by its hash, written before the trade is sent.

The hash goes into the ledger with the trade. The document names the rounds and the block it was decided from, so that
whoever has the artefact can decide again. A document that can't be had makes its trade *unexplained*, never fine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import requests

from agents.errors import Misconfigured
from offchain_rl.artefact import canonical_bytes, hash_bytes

FORMAT = "marketflow/explanation/2"
# What agents wrote before explanations had the interval of the next return; audited as it was.
FORMAT_WITHOUT_INTERVAL = "marketflow/explanation/1"
# Explanations are some kilobytes; more than this is not read from a daemon.
MAX_DOCUMENT_BYTES: Final = 1 << 20
DAEMON_TIMEOUT_S: Final = 10


class ExplanationMissing(LookupError):
    """No document of that hash can be had; its trade is unexplained."""


class ExplanationForged(ValueError):
    """What is found under a hash is not what was hashed, or no document. `document`: what it says, if anything."""

    def __init__(self, message: str, document: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.document = document


def plain(value: Any) -> Any:
    """A value as documents have it: integers as decimal text (JSON readers lose digits of large ones), bytes as
    0x-hex."""
    kind = type(value)  # most are exactly one of these two: asked first, it takes half the time
    if kind is str:
        return value
    if kind is int:
        return str(value)
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    raise TypeError(f"a document has no place for a {type(value).__name__}")


def explanation_hash(document: Mapping[str, Any]) -> str:
    """keccak256 of the canonical bytes, 0x-hex."""
    return hash_bytes(canonical_bytes(document))


class DocumentStore:
    """Documents in a folder, one file for each, named by hash. What is there is never changed.

    Raises Misconfigured when the folder can't be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with self._usable():
            folder.mkdir(parents=True, exist_ok=True)

    def put(self, document: Mapping[str, Any]) -> str:
        """Writes a document and returns its hash; on disk, not only in a cache, when it returns.

        Raises ExplanationForged when other bytes lie in its place: a trade must not name what can't be had.
        """
        content = canonical_bytes(document)
        name = hash_bytes(content)
        path = self._path(name)
        with self._usable():
            if path.exists():
                self.get(name)
            else:
                _write(path, content)
        return name

    def get(self, name: str) -> dict[str, Any]:
        """The document of that hash. Raises ExplanationMissing or ExplanationForged."""
        try:
            content = self._path(name).read_bytes()
        except FileNotFoundError:
            raise ExplanationMissing(f"no document {name} in {self._folder}") from None
        return check_document(content, name)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"explanations can't be kept in {self._folder}: {error}; name another folder or make room"
            raise Misconfigured(message) from error


def fetch_document(source: Path | str, name: str) -> bytes | None:
    """The bytes that a folder, or a daemon at a URL, has under that hash; None when it has none, or does not answer.

    Whether they are what was asked for, the reader checks.
    """
    if isinstance(source, Path):
        path = source / f"{name}.json"
        return path.read_bytes() if path.is_file() else None
    try:
        answer = requests.get(
            f"{source.rstrip('/')}/explanations/{name}", timeout=DAEMON_TIMEOUT_S, stream=True, allow_redirects=False
        )
        with answer:
            content: bytes = answer.raw.read(MAX_DOCUMENT_BYTES + 1, decode_content=True)
        return content if answer.status_code == 200 and len(content) <= MAX_DOCUMENT_BYTES else None
    except (requests.RequestException, OSError):
        return None


def check_document(content: bytes, name: str) -> dict[str, Any]:
    """The document in the bytes. Raises ExplanationForged when they hash to something else, or are none."""
    document = _parse(content)
    if hash_bytes(content) != name:
        raise ExplanationForged(f"the document stored as {name} hashes to {hash_bytes(content)}", document)
    if document is None:
        raise ExplanationForged(f"what is stored as {name} is no document")
    return document


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, and the folder knows it."""
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _parse(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content)
    except ValueError:  # UnicodeDecodeError and JSONDecodeError too
        return None
    return found if isinstance(found, dict) else None
