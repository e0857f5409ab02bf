"""Files that people were given, checked without a chain: a strategy, an explanation, this package's byte code."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from eth_utils import keccak

from agents.contracts import artifact_names, load_artifact
from agents.explanation import explanation_hash
from offchain_rl.artefact import ArtefactInvalid, ArtefactMismatch, load
from offchain_rl.quantise import describe_cost
from offchain_rl.verdict import read_verdict

_FILE = click.Path(path_type=Path)
_json = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")


@click.command()
@click.argument("file", type=_FILE)
@click.option("--expect", help="The hash that was voted on; another one is an error.")
@_json
def artefact(file: Path, expect: str | None, as_json: bool) -> None:
    """The hash of a strategy's FILE, and what is in it."""
    try:
        found = load(file, expected_hash=expect)
    except (ArtefactInvalid, ArtefactMismatch, OSError, ValueError) as error:
        _fail(f"{file}: {error}")
    _show(
        {
            "hash": found.artefact_hash,
            "name": found.name,
            "kind": found.kind,
            "features": list(found.observation.features),
            "largest weight, bps": found.action.max_weight_bps,
            "deadband, bps": found.action.deadband_bps,
            "verdict": _verdict(found.report),
            **({"on-chain evaluation": describe_cost(found).to_dict()} if found.layers else {}),
        },
        as_json,
    )


def _verdict(report: Mapping[str, Any]) -> str:
    try:
        verdict = read_verdict(report)
    except ValueError as error:
        return str(error)
    return verdict.outcome if verdict else "none: nobody has asked whether its results are more than luck"


@click.command()
@click.argument("file", type=_FILE)
@_json
def explanation(file: Path, as_json: bool) -> None:
    """The hash of an explanation's FILE, and what it says."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        shown = {
            "hash": explanation_hash(document),
            "text": document["text"],
            "artefact": document["artefact"]["hash"],
            "vault": document["vault"]["address"],
            "block": document["vault"]["block"]["number"],
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        _fail(f"{file} is no explanation: {error!r}")
    _show(shown, as_json)


@click.command()
@_json
def contracts(as_json: bool) -> None:
    """Every contract's deployed size, and the keccak of its code before immutables are filled in."""
    names = [name for name in artifact_names() if load_artifact(name).deployed_bytecode]
    codes = {name: load_artifact(name).deployed_bytecode for name in names}
    _show({name: f"{len(code):>6} bytes  0x{keccak(code).hex()}" for name, code in codes.items()}, as_json)


def _show(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    width = max(map(len, values))
    for name, value in values.items():
        click.echo(f"{name:<{width}}  {', '.join(value) if isinstance(value, list) else value}")


def _fail(sentence: str) -> None:
    click.echo(f"error: {sentence}", err=True)
    sys.exit(1)
