"""Tables that fit: nothing is cut off, because ids and addresses are there to be copied and compared."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agents.commands._chain import printable

# Where nobody looks, as in a file: no line is folded that a terminal of this width would show.
FILE_WIDTH = 160


def open_console() -> Console:
    """Standard output: a terminal's own width and manners (NO_COLOR, too), else plain text."""
    # Titles and reasons are other people's text: nothing in them is markup.
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else FILE_WIDTH)


def print_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; where that is too wide, a paragraph for each row, which begins with its first cell."""
    if not rows:
        console.print(f"{title}: none")
        return
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    if sum(widths) + 3 * len(widths) + 1 > console.width:
        _print_paragraphs(console, title, columns, cells)
        return
    table = Table(*columns, title=title, title_justify="left")
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _print_paragraphs(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    console.print(Text(title, style="italic"))
    for first, *rest in rows:
        # Alone and never folded: a terminal folds it without a break that would be copied.
        console.print(first, soft_wrap=True)
        said = "; ".join(f"{name} {cell}" for name, cell in zip(columns[1:], rest, strict=True) if cell)
        for line in Text(said).wrap(console, max(console.width - 2, 20)) if said else ():
            console.print("  " + line.plain.rstrip(), soft_wrap=True)
