"""Tables of commands: nothing that is there to be copied is cut off, and nobody else's text is obeyed."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from agents.commands._tables import print_table

PROPOSAL, VAULT = "9" * 77, "0x" + "Ab" * 20
COLUMNS = ("id", "title", "vault")


def printed(width: int, rows: list[tuple[str, ...]]) -> str:
    file = StringIO()
    console = Console(file=file, width=width, highlight=False, markup=False, emoji=False)
    print_table(console, "proposals", COLUMNS, rows)
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_no_width_cuts_off_what_is_to_be_copied(width: int):
    said = printed(width, [(PROPOSAL, "Smaller limits", VAULT)])
    assert PROPOSAL in said
    assert VAULT in said.replace("\n  ", "")
    assert "…" not in said


def test_eighty_columns_are_enough():
    said = printed(80, [(PROPOSAL, "a long title " * 20, VAULT), ("1", "", "")])
    assert max(map(len, said.splitlines())) <= 80
    assert f"; vault {VAULT}" in " ".join(said.split())
    assert said.endswith("\n1\n")


def test_what_fits_is_a_table():
    said = printed(80, [("1", "Smaller limits", VAULT)])
    assert said.startswith("proposals")
    assert "┃ id ┃ title" in said


def test_where_there_is_nothing_it_says_so():
    assert printed(80, []) == "proposals: none\n"


@pytest.mark.parametrize("width", [40, 200])
def test_titles_of_others_are_text(width: int):
    said = printed(width, [("1", "[red]all[/red] :smile: \x1b[2Jgone \u202etxt", VAULT)])
    assert "[red]all[/red]" in said and ":smile:" in said
    assert "\x1b" not in said and "\u202e" not in said
