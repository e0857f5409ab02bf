"""Explanations are named by what they say: what is forged, missing or unreadable is found out."""

from __future__ import annotations

import json
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from eth_utils import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.errors import Misconfigured
from agents.explanation import DocumentStore, ExplanationForged, ExplanationMissing, explanation_hash, plain
from offchain_rl.artefact import canonical_bytes

DOCUMENT = {"format": "marketflow/explanation/1", "text": "Because — of ÷ prices.", "prices": [{"answer": "1"}]}


@pytest.fixture
def store(tmp_path: Path) -> DocumentStore:
    return DocumentStore(tmp_path / "explanations")


def file_of(tmp_path: Path, name: str) -> Path:
    return tmp_path / "explanations" / f"{name}.json"


# Content addressed


def test_a_document_is_found_by_the_hash_of_its_canonical_bytes(store: DocumentStore, tmp_path: Path) -> None:
    name = store.put(DOCUMENT)
    assert name == explanation_hash(DOCUMENT) == "0x" + keccak(canonical_bytes(DOCUMENT)).hex()
    assert store.get(name) == DOCUMENT
    assert file_of(tmp_path, name).read_bytes() == canonical_bytes(DOCUMENT)


def test_the_order_of_keys_makes_no_other_document(store: DocumentStore) -> None:
    assert store.put(dict(reversed(DOCUMENT.items()))) == store.put(DOCUMENT)


@settings(max_examples=30)
@given(number=st.integers(-(2**256), 2**256))
def test_numbers_of_any_size_survive_as_text(number: int) -> None:
    assert int(json.loads(canonical_bytes(plain({"n": number})))["n"]) == number


def test_values_become_what_a_document_can_hold() -> None:
    class Colour(IntEnum):
        RED = 1

    value: dict[str, Any] = {"a": (1, True, None, "x", b"\xab"), "b": {"c": Colour.RED}}
    assert plain(value) == {"a": ["1", True, None, "x", "0xab"], "b": {"c": "1"}}
    with pytest.raises(TypeError, match="no place for a float"):
        plain({"a": 0.5})


# Nothing is overwritten


def test_what_is_there_is_not_written_again(store: DocumentStore, tmp_path: Path) -> None:
    name = store.put(DOCUMENT)
    before = file_of(tmp_path, name).stat()
    assert store.put(DOCUMENT) == name
    after = file_of(tmp_path, name).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_what_was_forged_is_not_repaired_in_silence(store: DocumentStore, tmp_path: Path) -> None:
    name = store.put(DOCUMENT)
    file_of(tmp_path, name).write_bytes(b"{}")
    with pytest.raises(ExplanationForged):
        store.put(DOCUMENT)
    assert file_of(tmp_path, name).read_bytes() == b"{}"


def test_what_a_crash_left_half_written_is_no_document(store: DocumentStore, tmp_path: Path) -> None:
    name = explanation_hash(DOCUMENT)
    file_of(tmp_path, name).with_suffix(".partial").write_bytes(b'{"format":')
    with pytest.raises(ExplanationMissing):
        store.get(name)
    assert store.put(DOCUMENT) == name
    assert store.get(name) == DOCUMENT


# Missing, forged, unreadable


def test_a_missing_document_is_told_apart_from_a_forged_one(store: DocumentStore) -> None:
    with pytest.raises(ExplanationMissing, match="no document 0x11"):
        store.get("0x" + "11" * 32)


def test_a_forged_document_is_found_out_and_what_it_says_is_kept(store: DocumentStore, tmp_path: Path) -> None:
    name = store.put(DOCUMENT)
    forged = DOCUMENT | {"text": "Because I say so."}
    file_of(tmp_path, name).write_bytes(canonical_bytes(forged))
    with pytest.raises(ExplanationForged, match=f"stored as {name} hashes to {explanation_hash(forged)}") as caught:
        store.get(name)
    assert caught.value.document == forged


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b'"text"'])
def test_bytes_that_are_no_document_are_forged_even_under_their_own_hash(
    store: DocumentStore, tmp_path: Path, content: bytes
) -> None:
    for name in ("0x" + "22" * 32, "0x" + keccak(content).hex()):
        file_of(tmp_path, name).write_bytes(content)
        with pytest.raises(ExplanationForged) as caught:
            store.get(name)
        assert caught.value.document is None


@settings(max_examples=50, deadline=None)
@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_no_byte_can_be_changed_unseen(tmp_path_factory: pytest.TempPathFactory, position: int, flip: int) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = DocumentStore(folder)
    name = store.put(DOCUMENT)
    content = bytearray(canonical_bytes(DOCUMENT))
    content[position % len(content)] ^= flip
    (folder / f"{name}.json").write_bytes(content)
    with pytest.raises(ExplanationForged):
        store.get(name)


# A folder that can't be used


def test_a_folder_that_can_not_be_made_is_misconfigured_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(Misconfigured, match=r"can't be kept in .*; name another folder or make room") as caught:
        DocumentStore(tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_a_folder_that_has_gone_is_misconfigured_when_it_is_needed(store: DocumentStore, tmp_path: Path) -> None:
    (tmp_path / "explanations").rmdir()
    with pytest.raises(Misconfigured, match="explanations can't be kept in"):
        store.put(DOCUMENT)
