"""What holds for every command: ape finds it, it can be tried dry, takes no keys, and says which network it lacks."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from tests.unit.scripts.conftest import Refuse

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py") if not path.stem.startswith("_"))
ON_CHAIN = (
    "audit check_config delegate deploy deploy_approved explain localgraph page propose register_agent relayer reward "
    "sign status travel verify_inputs vote"
).split()
# `page` and `relayer` send when somebody asks them to; they have --dry-run, too.
READING = "audit check_config explain localgraph page relayer sign status travel verify_inputs".split()
SENDING = [name for name in ON_CHAIN if name not in READING]
HASH = "0x" + "11" * 32
ARGUMENTS = {"audit": [HASH], "explain": [HASH], "sign": ["1"], "deploy_approved": ["1"], "reward": ["1"]}
ARGUMENTS |= {"travel": ["1h"]}


def load(name: str) -> click.Command:
    """The command as `ape run` finds it: the file is executed, and is no module of its own."""
    kept = sys.modules.pop(f"scripts.{name}", None)  # another test may have imported it, which ape does not
    try:
        found = runpy.run_module(f"scripts.{name}")["cli"]
    finally:
        if kept is not None:
            sys.modules[f"scripts.{name}"] = kept
    assert isinstance(found, click.Command)
    return found


def options(command: click.Command) -> dict[str, click.Option]:
    found = (parameter for parameter in command.params if isinstance(parameter, click.Option))
    return {name: option for option in found for name in option.opts}


def test_these_are_the_commands():
    others = "check_data demo feeds history manifests node retrain train".split()
    assert {*ON_CHAIN, *others} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_found_as_ape_finds_it_and_says_what_it_does(name: str):
    command = load(name)
    assert command.help
    assert "--json" in options(command)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_imports_another_because_ape_would_run_it_twice(name: str):
    tree = ast.parse((ROOT / "scripts" / f"{name}.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert not {module for module in imported if module.removeprefix("scripts.") in COMMANDS and "." in module}


@pytest.mark.parametrize("name", SENDING)
def test_what_sends_can_be_tried_dry_and_takes_an_alias(name: str):
    assert {"--dry-run", "--account"} <= set(options(load(name)))


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_takes_a_key(name: str):
    telling = [o for o in options(load(name)) if any(word in o for word in ("key", "passphrase", "mnemonic", "secret"))]
    assert set(telling) <= {"--signing-key"}  # an address


@pytest.mark.parametrize("name", ON_CHAIN)
def test_without_a_network_the_sentence_says_how_to_name_one(name: str, refuse: Refuse):
    sentence = refuse(load(name), *ARGUMENTS.get(name, []))
    assert sentence.startswith("no network: add --network NETWORK, such as ethereum:sepolia:node")


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("http://127.0.0.1:1", "no node answers at http://127.0.0.1:1"),
        ("ethereum:nowhere:node", "No network in 'ethereum' named 'nowhere'"),
        ("bogus", "No ecosystem named 'bogus'"),
        ("ethereum:sepolia:nobody", "No provider named 'nobody' in network 'sepolia' in ecosystem 'ethereum'"),
        ("pid://x", "Invalid PID: x"),
    ],
)
def test_a_wrong_network_is_named_with_a_way_out(network: str, says: str, refuse: Refuse):
    sentence = refuse(load("reward"), "1", "--network", network)
    assert sentence.startswith(f"--network {network}: {says}")
    assert "`ape run node` starts" in sentence


def test_a_deployment_that_is_missing_says_so(tmp_path: Path, refuse: Refuse, in_process: str):
    sentence = refuse(load("reward"), "1", "--network", in_process, "--deployments", str(tmp_path))
    assert sentence == f"{tmp_path}/local.json does not exist: run `ape run deploy` on this network first"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is not a deployment (Expecting value"),
        ("[]", "is not a deployment (list indices"),
        ("{}", "is not a deployment ('protocol')"),
        ('{"protocol": {"dao": 1}, "market": {}}', "is not a deployment ('grants')"),
        (b"\xff\xfe", "is not a deployment ("),
    ],
)
def test_a_malformed_deployment_says_so(content: Any, says: str, tmp_path: Path, refuse: Refuse, in_process: str):
    file = tmp_path / "local.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    sentence = refuse(load("reward"), "1", "--network", in_process, "--deployments", str(tmp_path))
    assert sentence.startswith(f"{file} {says}")
    assert sentence.endswith("restore the file, or deploy again")


@pytest.fixture
def in_process() -> str:
    """ape's own chain: it starts in no time, and has nothing on it."""
    return "ethereum:local:test"


# Sentences about what people type


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("vote", [], "vote on what?"),
        ("vote", ["1"], "vote how?"),
        ("vote", ["1", "--for", "--against"], "vote how?"),
        ("vote", ["1", "--submit", "ballot.json"], "--submit relays what the ballot says"),
        ("propose", ["--recall", HASH, "--retire", HASH], "--update, --recall and --retire are three proposals"),
        ("propose", ["--item", "ETH=1"], "--item says what to recall: add --recall"),
        ("delegate", ["--to", "bob"], "--to 'bob' is no address"),
        ("register_agent", ["--signing-key", "0x12"], "--signing-key '0x12' is no address"),
        ("register_agent", ["--agent", "1", "--uri", "x"], "--agent adds stake only"),
        ("audit", ["7"], "local.json does not exist"),
        ("deploy", ["--genesis", "nowhere.toml"], "whose account signs? add --account ALIAS"),
    ],
)
def test_contradictions_and_gaps_are_named(
    name: str, arguments: list[str], says: str, refuse: Refuse, in_process: str, tmp_path: Path
):
    sentence = refuse(load(name), *arguments, "--network", in_process, "--deployments", str(tmp_path))
    assert says in sentence
