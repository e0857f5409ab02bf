from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from eth_utils import keccak

from agents.cli import main
from agents.contracts import load_artifact
from agents.demo import buy_and_hold
from agents.explanation import DocumentStore
from offchain_rl.artefact import save


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_another_artefact_than_the_voted_one_is_refused_with_both_hashes(tmp_path: Path) -> None:
    path, voted = tmp_path / "a.json", "0x" + 64 * "1"
    own = save(buy_and_hold(1000), path)
    result = run("artefact", path, "--expect", voted)
    assert result.exit_code == 1
    assert voted in result.output
    assert own in result.output


@pytest.mark.parametrize("command", ["artefact", "explanation"])
@pytest.mark.parametrize("content", [None, "not json", "[]", '{"text": 1}'])
def test_what_is_no_such_file_ends_in_one_sentence_that_names_it(
    command: str, content: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_text(content)
    result = run(command, path)
    assert result.exit_code == 1
    assert str(path) in result.output
    assert "Traceback" not in result.output


def test_an_artefact_is_shown_with_the_hash_that_is_voted_on(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    own = save(buy_and_hold(1000), path)
    assert json.loads(run("artefact", path, "--expect", own, "--json").output)["hash"] == own


def test_an_explanation_is_shown_with_the_hash_that_is_in_the_ledger(tmp_path: Path) -> None:
    document = {
        "text": "why", "artefact": {"hash": "0x01"}, "vault": {"address": "0x02", "block": {"number": "3"}},
    }  # fmt: skip
    name = DocumentStore(tmp_path).put(document)
    shown = json.loads(run("explanation", tmp_path / f"{name}.json", "--json").output)
    assert shown == {"hash": name, "text": "why", "artefact": "0x01", "vault": "0x02", "block": "3"}


def test_the_shipped_byte_code_is_listed_by_its_hash() -> None:
    code = load_artifact("StrategyVault").deployed_bytecode
    assert keccak(code).hex() in json.loads(run("contracts", "--json").output)["StrategyVault"]
