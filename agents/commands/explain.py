"""ape run explain: why a trade was made, or each of a vault's, checked against the hash that the ledger has.

Exit code 1 when an explanation can't be had or is not what was hashed: such a trade is unexplained.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from agents.commands._chain import Connection, at, on_chain, printable, say
from agents.commands.audit import fetch_all, find
from agents.errors import Misconfigured
from agents.explanation import ExplanationForged, check_document, fetch_document
from agents.journal import Journal
from agents.ledger import LedgerEntry


@click.command()
@click.argument("what")
@click.option(
    "--explanations", default="", envvar="MARKETFLOW_EXPLANATIONS",
    help="Folder of the agent's explanations, its daemon's URL, or its journal's file; else MARKETFLOW_EXPLANATIONS.",
)  # fmt: skip
@on_chain
def cli(here: Connection, what: str, explanations: str, as_json: bool) -> None:
    """Explain a trade, or every trade of a strategy: WHAT is the id of either, or a vault's address."""
    source = explanation_source(explanations)
    found = here.deployed()
    vault, only = find(here, found, what)
    entries = [entry for entry in fetch_all(here, found, vault) if only in (None, entry.id)]
    answers = [explain(entry, source) for entry in entries]
    if not entries:
        say(f"vault {vault} has not traded: there is nothing to explain")
    if as_json:
        click.echo(json.dumps({"vault": vault, "trades": answers}, indent=2))
    else:
        for answer in answers:
            click.echo(printable(_as_text(answer)))
    if any(answer["status"] != "matches" for answer in answers):
        sys.exit(1)


def explanation_source(text: str) -> Path | str:
    """A folder, a journal's file, or a URL. Raises Misconfigured."""
    if text.startswith(("http://", "https://")):
        return text
    if not text or not Path(text).exists():
        said = f"--explanations {text} is not there" if text else "trades name explanations by hash"
        raise Misconfigured(
            f"{said}: give --explanations the folder where the agent kept them, its journal, or its daemon's URL"
        )
    return Path(text)


def fetch(source: Path | str, name: str) -> bytes | None:
    """The bytes of an explanation. Raises Misconfigured when a file that should be a journal is none."""
    if isinstance(source, Path) and source.is_file():
        if not source.read_bytes()[:16].startswith(b"SQLite format 3"):
            raise Misconfigured(f"--explanations {source} is no journal: name the daemon's, or a folder")
        with Journal(source) as journal:
            return journal.document(name)
    return fetch_document(source, name)


def explain(entry: LedgerEntry, source: Path | str) -> dict[str, Any]:
    """What the explanation of a trade says. `status`: matches, absent, or differs from what was hashed."""
    name = "0x" + bytes(entry.fields["explanationHash"]).hex()
    answer: dict[str, Any] = {"trade": entry.id, "sequence": entry.fields["sequence"], "explanation": name}
    if (content := fetch(source, name)) is None:
        return answer | {"status": "absent", "text": None, "document": None}
    try:
        document = check_document(content, name)
    except ExplanationForged as error:
        return answer | {"status": "differs", "text": None, "document": None, "problem": str(error)}
    return answer | {"status": "matches", "text": str(document.get("text", "")), "document": document}


def _as_text(answer: dict[str, Any]) -> str:
    head = f"trade {answer['sequence']}  {answer['trade']}"
    if answer["status"] != "matches":
        why = answer.get("problem", f"no document {answer['explanation']} can be had")
        return f"{head}\n  UNEXPLAINED: {why}"
    block = answer["document"].get("vault", {}).get("block", {})
    when = f" (decided at block {block['number']}, {at(int(block['timestamp_s']))})" if "timestamp_s" in block else ""
    return f"{head}{when}\n  {answer['text']}"
