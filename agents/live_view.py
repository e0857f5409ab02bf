"""`marketflow agent top`: the status on a terminal, again and again until q or ctrl-c; printed once where there is no
terminal that could be redrawn.
"""

from __future__ import annotations

import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agents.operator_view import daemon_lines, moment, percent, printable, rounded

Fetch = Callable[[], Mapping[str, Any]]
# Of the last events.
NOTES = 8


def watch(
    fetch: Fetch, symbols: Mapping[str, str], *, interval_s: float, console: Console | None = None,
    keys: TextIO | None = None,
) -> None:  # fmt: skip
    """Draws what `fetch` answers every `interval_s`. Returns after q or ctrl-c, or at once where nothing can be
    redrawn."""
    console, keys = console or Console(highlight=False, markup=False, emoji=False), keys or sys.stdin
    if not console.is_terminal or console.is_dumb_terminal:
        console.print(render(fetch(), symbols))
        return
    with (
        suppress(KeyboardInterrupt), _key_by_key(keys) as pressed,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):  # fmt: skip
        live.update(render(fetch(), symbols), refresh=True)
        while pressed(interval_s) != "q":
            live.update(render(fetch(), symbols), refresh=True)


def render(view: Mapping[str, Any], symbols: Mapping[str, str]) -> Group:
    """The whole picture."""
    return Group(*_top(view), _agents(view, symbols), _flight(view), _notes(view))


def _top(view: Mapping[str, Any]) -> Iterator[Text]:
    for line in daemon_lines(view["daemon"]):
        yield Text(printable(line))
    head = view["head"]
    at = f"block {head['number']} of {moment(head['timestamp_s'])}" if head else view["problem"]
    states = ", ".join(f"{number} {state}" for state, number in view["decisions"].items())
    yield Text(printable(f"chain       {at}"))
    yield Text(f"decisions   {states or 'none yet'}")


def _agents(view: Mapping[str, Any], symbols: Mapping[str, str]) -> Table:
    table = _table("agents", ("agent", "vault", "state", "worth", "weights", "last", "does not trade because"))
    for agent in view["agents"]:
        last = agent["last"]
        said = "" if last is None else f"{last['decision']} {last['state']} {last['outcome'] or ''}"
        weights = ", ".join(f"{symbols.get(t, t)} {percent(bps)}" for t, bps in agent["weights_bps"].items())
        state = ", ".join([(agent["state"] or "unknown").lower(), *agent["reasons"]])
        worth = "" if agent["value"] is None else rounded(agent["value"], agent["decimals"])
        _add(table, (agent["name"], agent["vault"], state, worth, weights, said, agent["idle_because"]))
    return table


def _flight(view: Mapping[str, Any]) -> Table:
    table = _table("in flight", ("decision", "vault", "state", "nonce", "attempts", "transaction"))
    for row in view["in_flight"]:
        names = ("id", "vault", "state", "account_nonce", "attempts", "transaction_hash")
        _add(table, [str(row[name]) for name in names])
    return table


def _notes(view: Mapping[str, Any]) -> Table:
    table = _table("last events", ("when", "what", "about", "detail"))
    for note in view["notes"][:NOTES]:
        _add(table, (moment(note["at_s"]), note["kind"], note["subject"], note["detail"]))
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", expand=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _add(table: Table, cells: Sequence[str]) -> None:
    table.add_row(*(Text(printable(cell)) for cell in cells))


@contextmanager
def _key_by_key(keys: TextIO) -> Iterator[Callable[[float], str]]:
    """A function that waits so many seconds for a key, without the return that a terminal wants after it."""
    before = termios.tcgetattr(keys)
    try:
        tty.setcbreak(keys)

        def pressed(timeout_s: float) -> str:
            ready, _, _ = select.select([keys], [], [], timeout_s)
            return keys.read(1) if ready else ""

        yield pressed
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, before)
