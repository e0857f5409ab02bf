"""A promise about the promises: every error and event of ours is named by a test, every test that the constitution's
page names exists, and every contract fits on a chain.

Ours is what contracts/ declares, mocks apart; what OpenZeppelin declares is OpenZeppelin's to test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from agents.contracts import artifact_names, load_artifact
from tools.build_artifacts import MAX_DEPLOYED_BYTES

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests" / "contracts"
DECLARATION = re.compile(r"^\s*(error|event)\s+(\w+)\s*\(", re.MULTILINE)


def own_sources() -> Iterator[Path]:
    folder = ROOT / "contracts"
    return (
        path
        for path in sorted(folder.rglob("*.sol"))
        if path.relative_to(folder).parts[0] not in ("mocks", ".cache")
    )


@cache
def solidity() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in own_sources())


def declared(kind: str) -> set[str]:
    return {name for found, name in DECLARATION.findall(solidity()) if found == kind}


def own_contracts() -> list[str]:
    """Names of our deployable contracts: what has an artefact and a source file of that name."""
    sources = {path.stem for path in own_sources()}
    return [name for name in artifact_names() if name in sources]


def in_abis(kind: str) -> set[str]:
    return {abi["name"] for name in own_contracts() for abi in load_artifact(name).abi if abi["type"] == kind}


@cache
def said_by_tests() -> str:
    files = (path for path in TESTS.rglob("*.py") if path != Path(__file__))
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(files))


def unnamed(names: set[str]) -> list[str]:
    """Those that no test names in quotes."""
    return sorted(name for name in names if f'"{name}"' not in said_by_tests())


def test_our_errors_and_events_are_found() -> None:
    """Otherwise the tests below would pass for lack of names."""
    assert {"VaultUnauthorized", "RewardPnlMismatch", "DaoNotDeployable"} <= declared("error")
    assert {"TradeRecorded", "FeedSet", "ObjectionPeriodOpened"} <= declared("event")
    assert {"StrategyVault", "MARKETFLOW_DAO", "Constitution"} <= set(own_contracts())


@pytest.mark.parametrize("kind", ["error", "event"])
def test_every_one_that_is_declared_can_be_read_from_an_abi(kind: str) -> None:
    assert sorted(declared(kind) - in_abis(kind)) == []


@pytest.mark.parametrize("kind", ["error", "event"])
def test_none_is_declared_that_is_never_used(kind: str) -> None:
    statement = {"error": "revert", "event": "emit"}[kind]
    used = set(re.findall(rf"\b{statement}\s+(?:\w+\.)?(\w+)\s*\(", solidity()))
    assert sorted(declared(kind) - used) == []


@pytest.mark.parametrize("kind", ["error", "event"])
def test_every_one_is_named_by_a_test(kind: str) -> None:
    missing = unnamed(declared(kind))
    assert not missing, f"no test of tests/contracts names the {kind}s " + ", ".join(missing)


@pytest.mark.parametrize(("page", "folder"), [("constitution", "unit"), ("security", "attacks")])
def test_every_test_that_a_page_names_exists(page: str, folder: str) -> None:
    named = re.findall(r"`([\w/.]+\.py)::(\w+)`", (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in source_of(file, folder)]
    assert len(named) > 30
    assert not missing, missing


def source_of(file: str, folder: str) -> str:
    path = ROOT / file if "/" in file else TESTS / folder / file
    return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.mark.parametrize("name", own_contracts())
def test_every_contract_fits_on_a_chain(name: str) -> None:
    """EIP-170."""
    assert 0 < len(load_artifact(name).deployed_bytecode) <= MAX_DEPLOYED_BYTES
