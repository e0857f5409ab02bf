"""`marketflow agent …`: what an operator does with the daemon, by the settings of `MARKETFLOW_*`.

    run, status, positions, pnl, top            the daemon, and what it is doing
    check-accounts, repair                      whether everything agrees, and making it so
    pause, resume, close-all                    asking a running daemon, through its journal
    explain, intervals, export                  why, how well it was foreseen, and everything
    new-key, new-keyring                        encrypted keys

What is heavy is imported by the command that needs it: help comes at once.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any, Final

import click

from agents.errors import AgentError, Misconfigured

if TYPE_CHECKING:
    from agents.assembly import Assembly
    from agents.fleet import Tick
    from agents.journal import Journal
    from agents.settings import Settings

EXIT_PROBLEM: Final = 1
# A supervisor need not start it again: `agents.daemon.EXIT_STOPPED`.
EXIT_MISCONFIGURED: Final = 78
CLOSE_WAIT_S: Final = 300
KEYRING_SHOWN: Final = 3


@click.group(name="agent")
def agent() -> None:
    """Runs agents, and shows what they do. Settings come from the environment: MARKETFLOW_RPC_URLS, _CHAIN_ID,
    _DEPLOYMENT, _AGENTS, _JOURNAL and others."""


def operating(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command with `--json`, which ends in one sentence when something is wrong that a person can put right."""

    @click.option("--json", "as_json", is_flag=True, help="JSON on standard output; the rest on standard error.")
    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except (BrokenPipeError, click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Misconfigured as error:
            fail(str(error), EXIT_MISCONFIGURED)
        except Exception as error:
            if not _is_foreseen(error):
                raise
            fail(str(error) or type(error).__name__, EXIT_PROBLEM)

    return run


def _is_foreseen(error: Exception) -> bool:
    """Whether a person or a node can cause it; anything else is a bug, and has a traceback."""
    if isinstance(error, AgentError | OSError):
        return True
    from web3.exceptions import Web3Exception

    from agents.explanation import ExplanationForged
    from agents.ledger import LedgerBroken
    from agents.localnet.evm import CallReverted
    from offchain_rl.calibration import BadInterval
    from oracle.errors import OracleError

    return isinstance(
        error, OracleError | Web3Exception | CallReverted | LedgerBroken | ExplanationForged | BadInterval
    )


def fail(sentence: str, code: int) -> None:
    """Ends after one sentence on standard error."""
    from agents.commands._program import in_this_program
    from agents.operator_view import printable

    click.echo(f"error: {printable(in_this_program(' '.join(sentence.split())))}", err=True)
    sys.exit(code)


def show(view: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """The view as JSON, or its lines."""
    from agents.operator_view import printable

    if as_json:
        click.echo(json.dumps(view, indent=2))
        return
    for line in lines:
        click.echo(printable(line))


def say(*lines: str) -> None:
    """To standard error: plans and progress, which are no part of the answer."""
    from agents.commands._program import in_this_program
    from agents.operator_view import printable

    for line in lines:
        click.echo(printable(in_this_program(line)), err=True)


def _settings() -> Settings:
    from agents.settings import load_settings

    return load_settings()


@contextmanager
def _journal(settings: Settings) -> Iterator[Journal]:
    """The journal that there is, beside a daemon. Raises Misconfigured when there is none."""
    from agents.journal import Journal
    from agents.operator_look import require_journal

    with Journal(require_journal(settings)) as journal:
        yield journal


def _ask() -> Callable[[str], str] | None:
    """Who is asked for passphrases: whoever sits at the terminal."""
    import getpass

    return getpass.getpass if sys.stdin.isatty() else None


def _agrees(question: str, *, yes: bool) -> bool:
    """Whether to do it: by the flag, or by whoever sits at the terminal."""
    return yes or (sys.stdin.isatty() and click.confirm(question, err=True))


# The daemon


@agent.command()
@click.option("--dry-run", is_flag=True, help="Show what it would trade with; send and change nothing.")
@click.option("--once", is_flag=True, help="One cycle at the newest block, then end.")
@click.option("--log-json", is_flag=True, help="The log as JSON lines.")
@operating
def run(dry_run: bool, once: bool, log_json: bool, as_json: bool) -> None:
    """Runs the agents until it is told to stop. It first brings its journal to where the chain is.

    \b
    marketflow agent run --dry-run
    marketflow agent run --log-json
    """
    settings = _settings()
    if dry_run:
        _dry_run(settings, as_json=as_json)
    elif once:
        _run_once(settings, log_json=log_json, as_json=as_json)
    else:
        from agents.service import run as serve

        sys.exit(serve(settings, ask=_ask(), as_json=log_json))


def _dry_run(settings: Settings, *, as_json: bool) -> None:
    from agents.operator_look import fetch_plan, looking

    with looking(settings, ask=_ask(), with_keys=True) as assembly:
        view = fetch_plan(assembly)
    from agents.operator_view import plan_lines

    show(view, plan_lines(view), as_json=as_json)


def _run_once(settings: Settings, *, log_json: bool, as_json: bool) -> None:
    from agents.assembly import assemble
    from agents.secrets import forbid_core_dumps
    from agents.service import redactor_of, start_logging

    forbid_core_dumps()
    redactor = redactor_of(settings)
    start_logging(redactor, as_json=log_json)
    assembly = assemble(settings, ask=_ask(), redactor=redactor)
    try:
        head = assembly.node.head()
        found = assembly.fleet.reconcile(head)
        tick = assembly.fleet.tick(head)
    finally:
        assembly.close()
    view = {"abandoned": found.abandoned, "adopted": found.adopted, **_tick_view(tick)}
    show(view, _tick_lines(view), as_json=as_json)


def _tick_view(tick: Tick) -> dict[str, Any]:
    ended = [{"decision": row, "vault": vault, "outcome": str(end.ended)} for row, vault, end in tick.followed.ended]
    placed = [
        {
            "decision": placed.row, "transaction_hash": placed.transaction_hash, "is_sent": placed.is_sent,
            "not_sent_because": str(placed.refused or placed.waits_because or ""),
        }
        for placed in tick.placed
    ]  # fmt: skip
    return {"block": tick.head.number, "ended": ended, "placed": placed, "parked": tick.parked}


def _tick_lines(view: Mapping[str, Any]) -> Iterator[str]:
    yield f"one cycle at block {view['block']}"
    for ended in view["ended"]:
        yield f"decision {ended['decision']} of {ended['vault']}: {ended['outcome']}"
    for placed in view["placed"]:
        what = f"sent as {placed['transaction_hash']}" if placed["transaction_hash"] else "not sent"
        yield f"decision {placed['decision']}: {what} {placed['not_sent_because']}".rstrip()
    for vault, reason in view["parked"].items():
        yield f"{vault} does not trade: {reason}"
    if not view["placed"]:
        yield "nothing was ordered"


@agent.command()
@operating
def status(as_json: bool) -> None:
    """Whether a daemon runs, what is under way, and how each agent and its vault are. Works without a node.

    \b
    marketflow agent status
    """
    from agents.operator_view import status_lines

    with _watching(_settings()) as watch:
        view = watch.fetch(int(time()))
        show(view, status_lines(view, watch.symbols), as_json=as_json)


@agent.command()
@click.option("--every", "interval_s", type=click.FloatRange(min=0.2), default=2.0, show_default=True,
              help="Seconds between two looks.")  # fmt: skip
@operating
def top(interval_s: float, as_json: bool) -> None:
    """The status, looked at again and again; q ends it. Printed once where there is no terminal.

    \b
    marketflow agent top --every 5
    """
    with _watching(_settings()) as watch:
        if as_json:
            show(watch.fetch(int(time())), (), as_json=True)
            return
        from agents.live_view import watch as draw

        draw(lambda: watch.fetch(int(time())), watch.symbols, interval_s=interval_s)


@contextmanager
def _watching(settings: Settings) -> Iterator[Any]:
    from agents.operator_look import Watch

    with _journal(settings) as journal:
        watch = Watch(settings, journal)
        try:
            yield watch
        finally:
            watch.close()


@agent.command()
@operating
def positions(as_json: bool) -> None:
    """What each vault holds by its own books, and what that is worth.

    \b
    marketflow agent positions --json
    """
    from agents.operator_look import fetch_positions, looking
    from agents.operator_view import positions_lines

    with looking(_settings()) as assembly:
        view = fetch_positions(assembly)
    lines = (line for vault in view["vaults"] for line in positions_lines(vault, view["quote"]))
    show(view, lines, as_json=as_json)


@agent.command()
@operating
def pnl(as_json: bool) -> None:
    """Profit by each vault's books: what is final, and what a reorg could still take.

    \b
    marketflow agent pnl
    """
    from agents.operator_look import fetch_pnl, looking, require_journal
    from agents.operator_view import pnl_lines

    settings = _settings()
    require_journal(settings)
    with looking(settings) as assembly:
        view = fetch_pnl(assembly)
    if view["final_problem"]:
        say(f"the final profit is not known: {view['final_problem']}")
    lines = (line for part in (*view["vaults"], view["total"]) for line in pnl_lines(part, view["quote"]))
    show(view, lines, as_json=as_json)


# Whether everything agrees


@agent.command("check-accounts")
@operating
def check_accounts(as_json: bool) -> None:
    """Whether each agent can trade: its key, its ether, its nonces, its artefact; and whether ledger, journal and vault
    tell the same story. Exit code 1 on a problem.

    \b
    marketflow agent check-accounts
    """
    from agents.operator_checks import check_accounts as fetch_checks
    from agents.operator_look import looking
    from agents.operator_view import Verdict, check_line

    with looking(_settings()) as assembly:
        lines = fetch_checks(assembly, _ask())
    problems = sum(line["verdict"] == Verdict.PROBLEM for line in lines)
    show({"problems": problems, "checks": lines}, map(check_line, lines), as_json=as_json)
    if problems:
        sys.exit(EXIT_PROBLEM)


@agent.command()
@click.option("--yes", is_flag=True, help="Do it; without it, only say what would be done.")
@operating
def repair(yes: bool, as_json: bool) -> None:
    """Brings the journal to where the chain is, after what a start does not put right: a reorg deeper than expected, a
    journal that lacks trades, a nonce that nobody uses. Checks first, and refuses while a daemon runs.

    \b
    marketflow agent repair
    marketflow agent repair --yes
    """
    from agents.assembly import assemble
    from agents.operator_look import require_journal

    settings = _settings()
    require_journal(settings)
    assembly = assemble(settings, ask=_ask())
    try:
        _repair(assembly, yes=yes, as_json=as_json)
    finally:
        assembly.close()


def _repair(assembly: Assembly, *, yes: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from agents.operator_repair import carry_out, plan_repair

    plan = plan_repair(assembly)
    if plan.is_empty:
        show({"plan": plan.view(), "done": None}, ("nothing to repair: journal and chain agree",), as_json=as_json)
        return
    say("every precondition holds; this would be done:", *(f"  {line}" for line in plan.lines()))
    if not _agrees("Do it?", yes=yes):
        show({"plan": plan.view(), "done": None}, ("nothing was done: add --yes",), as_json=as_json)
        return
    done = asdict(carry_out(assembly, plan, pause=lambda: sleep(assembly.settings.poll_s)))
    said = ", ".join(f"{number} {what}" for what, number in done.items())
    show({"plan": plan.view(), "done": done}, (f"repaired: {said}",), as_json=as_json)


# Asking a running daemon


@agent.command()
@click.argument("reason", nargs=-1)
@operating
def pause(reason: tuple[str, ...], as_json: bool) -> None:
    """Nothing new is decided until `resume`; what was sent is followed to its end. REASON is shown in the status.

    \b
    marketflow agent pause "new keys"
    """
    from agents.fleet import PAUSED

    settings, said = _settings(), " ".join(reason) or "by the operator"
    with _journal(settings) as journal:
        journal.set_control(PAUSED, said, at_s=int(time()))
        in_flight = len(journal.unfinished())
    view = {"paused": said, "in_flight": in_flight, "daemon_is_running": _is_running(settings)}
    show(view, _pause_lines(view), as_json=as_json)


def _pause_lines(view: Mapping[str, Any]) -> Iterator[str]:
    from agents.operator_view import count

    yield f"paused: {view['paused']}"
    yield f"{count(view['in_flight'], 'order')} under way: followed to the end, sent again and bumped as always"
    yield "positions stay as they are, also those of vaults that may only reduce; `close-all` sells, `resume` goes on"
    if not view["daemon_is_running"]:
        yield "no daemon runs on this journal: the next one begins paused"


@agent.command()
@operating
def resume(as_json: bool) -> None:
    """Takes `pause` and `close-all` back.

    \b
    marketflow agent resume
    """
    from agents.fleet import CLOSE_ALL, CLOSE_VAULTS, PAUSED

    settings, taken_back = _settings(), (PAUSED, CLOSE_ALL, CLOSE_VAULTS)
    with _journal(settings) as journal, journal.transaction():
        before = {name: value for name, value in journal.controls().items() if name in taken_back}
        for name in before:
            journal.set_control(name, None, at_s=int(time()))
    said = ", ".join(f"{name} ({value})" for name, value in before.items())
    lines = [f"taken back: {said}; the next cycle decides again" if before else "nothing was paused"]
    if not (is_running := _is_running(settings)):
        lines.append("no daemon runs on this journal: `marketflow agent run` starts one")
    show({"taken_back": before, "daemon_is_running": is_running}, lines, as_json=as_json)


@agent.command("close-all")
@click.option("--vault", "vaults", multiple=True, help="Only this vault, which stays closed; may be repeated.")
@click.option("--yes", is_flag=True, help="Do it; without it, only say what would be sold.")
@click.option("--wait", "wait_s", type=click.IntRange(min=0), default=CLOSE_WAIT_S, show_default=True,
              help="Seconds to wait until everything is sold.")  # fmt: skip
@operating
def close_all(vaults: tuple[str, ...], yes: bool, wait_s: int, as_json: bool) -> None:
    """Has the daemon sell every position, then stay paused. It goes on selling when this command is ended.

    \b
    marketflow agent close-all
    marketflow agent close-all --yes
    """
    from agents.operator_look import fetch_positions, looking

    settings = _settings()
    with _journal(settings) as journal, looking(settings) as assembly:
        wanted = _vaults_to_close(assembly, vaults)
        held = _held(fetch_positions(assembly), wanted)
        say(*(f"  {line}" for line in held) if held else ("nothing is held",))
        if not _agrees("Sell everything?", yes=yes):
            show({"asked": False, "held": held}, ("nothing was asked for: add --yes",), as_json=as_json)
            return
        _ask_to_close(journal, wanted if vaults else None)
        is_running = _is_running(settings)
        if is_running:
            held = _wait_until_sold(assembly, journal, wanted, settings, wait_s)
    view = {"asked": True, "daemon_is_running": is_running, "held": held}
    show(view, _close_lines(view, is_all=not vaults), as_json=as_json)
    if held:
        sys.exit(EXIT_PROBLEM)


def _vaults_to_close(assembly: Assembly, vaults: tuple[str, ...]) -> list[str]:
    """Those named, else all that this operator has a key for. Raises Misconfigured for others."""
    ours = [entry.vault for entry in assembly.file.agents if entry.key]
    if strange := [vault for vault in vaults if vault not in ours]:
        there = f"there are {', '.join(ours)}" if ours else "there is none"
        raise Misconfigured(f"{strange[0]} is no vault of an agent with a key in MARKETFLOW_AGENTS: {there}")
    if not ours:
        raise Misconfigured("every agent trades on paper: name a key in MARKETFLOW_AGENTS, or nothing can be sold")
    return list(dict.fromkeys(vaults)) or ours


def _held(view: Mapping[str, Any], vaults: Iterable[str]) -> list[str]:
    wanted = set(vaults)
    return [
        f"{vault['name']}: {held['amount_exact']} {held['symbol'] or held['token']}"
        for vault in view["vaults"]
        if vault["vault"] in wanted
        for held in vault["positions"]
        if held["amount"]
    ]


def _ask_to_close(journal: Journal, vaults: list[str] | None) -> None:
    """For all vaults also paused, in the same transaction: whatever ends this command, nothing is bought again. Single
    vaults stay closed until `resume`, while the others trade."""
    from agents.fleet import CLOSE_ALL, CLOSE_VAULTS, PAUSED

    at_s = int(time())
    with journal.transaction():
        if vaults is None:
            journal.set_control(CLOSE_ALL, True, at_s=at_s)
            journal.set_control(PAUSED, "everything is being closed", at_s=at_s)
        else:
            before = journal.controls().get(CLOSE_VAULTS, [])
            journal.set_control(CLOSE_VAULTS, list(dict.fromkeys([*before, *vaults])), at_s=at_s)


def _wait_until_sold(
    assembly: Assembly, journal: Journal, vaults: list[str], settings: Settings, wait_s: int
) -> list[str]:
    """What is still held, or under way: a purchase that was sent before may be mined yet. The wish stays until
    `resume`, so whatever comes in later is sold too."""
    from agents.operator_look import fetch_positions

    until, held, under_way = monotonic() + wait_s, ["nothing was looked at"], list[str]()
    while monotonic() < until:
        under_way = sorted(journal.in_flight(assembly.node.head().number).intersection(vaults))
        held = _held(fetch_positions(assembly), vaults)
        if not held and not under_way:
            return []
        sleep(settings.poll_s)
    return [*held, *(f"{vault}: an order is under way" for vault in under_way)]


def _close_lines(view: Mapping[str, Any], *, is_all: bool) -> Iterator[str]:
    after = "the daemon is paused" if is_all else "the vault stays closed"
    if not view["held"]:
        yield f"everything is sold, and {after}: `marketflow agent resume` lets it trade again"
    elif view["daemon_is_running"]:
        yield f"still held: {'; '.join(view['held'])}; the daemon goes on, `marketflow agent status` says why it waits"
    else:
        yield "no daemon runs on this journal: the next one sells; `marketflow agent run --once` does it now, one order"
        yield "for each vault at a time: repeat it until `marketflow agent positions` shows nothing"


def _is_running(settings: Settings) -> bool:
    from agents.operator_look import is_daemon_running

    return is_daemon_running(settings.journal)


# Why, and everything


@agent.command()
@click.argument("trade")
@operating
def explain(trade: str, as_json: bool) -> None:
    """Why a TRADE was made or held back, and what became of it. TRADE: a decision's number, or the hash of its trade,
    transaction or explanation.

    \b
    marketflow agent explain 42
    """
    from agents.operator_look import fetch_explanation, quote_decimals, symbols_of
    from agents.operator_view import explain_lines

    settings = _settings()
    with _journal(settings) as journal:
        view = fetch_explanation(settings, journal, trade)
    lines = explain_lines(view, symbols_of(settings), quote_decimals(settings))
    show(view, lines, as_json=as_json)


@agent.command()
@click.option("--since", default="0", help="Only what was decided from then on: unix seconds, or a date (UTC).")
@operating
def intervals(since: str, as_json: bool) -> None:
    """How well the next moves of prices were foreseen: the intervals that explanations hold, by the rounds that came
    after them. It says how often prices stayed inside, how wide the intervals were, and their interval score.

    \b
    marketflow agent intervals --since 2026-01-01
    """
    from agents.interval_scores import score_lines
    from agents.operator_look import fetch_intervals, looking, require_journal
    from agents.operator_view import parse_since

    settings, since_s = _settings(), parse_since(since)
    require_journal(settings)
    with looking(settings) as assembly:
        view = fetch_intervals(assembly, since_s=since_s)
    show(view, score_lines(view), as_json=as_json)


@agent.command()
@click.option("--since", default="0", help="Only what was decided from then on: unix seconds, or a date (UTC).")
@click.option("--raw", "with_raw", is_flag=True, help="With the signed bytes of every attempt.")
@click.option("--documents", type=click.Path(path_type=Path, file_okay=False),
              help="A folder for the explanations, one file for each, named by hash.")  # fmt: skip
@operating
def export(since: str, with_raw: bool, documents: Path | None, as_json: bool) -> None:
    """The whole journal as JSON lines, in the order in which it was written. It is JSON with and without --json.

    \b
    marketflow agent export --since 2026-01-01 --documents explanations > journal.jsonl
    """
    from agents.operator_look import export_lines
    from agents.operator_view import parse_since

    since_s = parse_since(since)
    with _journal(_settings()) as journal:
        for line in export_lines(journal, since_s=since_s, with_raw=with_raw):
            if documents and line.get("explanation_hash"):
                _write_document(documents, journal, line["explanation_hash"])
            click.echo(json.dumps(line))


def _write_document(folder: Path, journal: Journal, name: str) -> None:
    """Whole or not at all; one that is there is left alone."""
    path = folder / f"{name}.json"
    if path.exists() or (content := journal.document(name)) is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)


# Keys


@agent.command("new-key")
@click.argument("path", type=click.Path(path_type=Path))
@operating
def new_key(path: Path, as_json: bool) -> None:
    """Makes an encrypted keyfile at PATH, for `key` of an agent. Asks for its passphrase, twice.

    \b
    marketflow agent new-key keys/eth-trend.json
    """
    from agents.signer import create_keyfile

    address = create_keyfile(path, _new_passphrase(path))
    lines = (f"{path} holds the key of {address}", "register that account as signing key, and send it ether for gas")
    show({"path": str(path), "address": address}, lines, as_json=as_json)


@agent.command("new-keyring")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--show", "shown", type=click.IntRange(min=0), default=KEYRING_SHOWN, show_default=True,
              help="How many of its accounts to show.")  # fmt: skip
@operating
def new_keyring(path: Path, shown: int, as_json: bool) -> None:
    """Makes an encrypted keyring at PATH: one file with the keys of a fleet, named PATH#0, PATH#1 and so on. Asks for
    its passphrase, twice.

    \b
    marketflow agent new-keyring keys/fleet.json
    """
    from coincurve import PrivateKey

    from agents.signer import Keyring, address_of, create_keyfile

    passphrase, root = _new_passphrase(path), PrivateKey()
    create_keyfile(path, passphrase, key=root)
    ring = Keyring(root)
    accounts = {f"{path}#{index}": address_of(ring.key(index)) for index in range(shown)}
    lines = [f"{path} is a keyring; its first accounts:", *(f"{name}  {account}" for name, account in accounts.items())]
    show({"path": str(path), "accounts": accounts}, lines, as_json=as_json)


def _new_passphrase(path: Path) -> Any:
    """Asked for twice. Raises Misconfigured where nobody sits at a terminal, or the file exists."""
    from pydantic import SecretStr

    if not sys.stdin.isatty():
        raise Misconfigured("the passphrase is asked for, never taken from a flag or a pipe: run it in a terminal")
    if path.exists():
        raise Misconfigured(f"{path} exists and is not overwritten: move it, or name another file")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    asked = f"Passphrase of {path} (8 or more characters)"
    said = click.prompt(asked, hide_input=True, confirmation_prompt="Once more", err=True)
    return SecretStr(said)
