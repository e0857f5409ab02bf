"""`marketflow` as a whole: what it lists, imports, suggests and says when it is stopped."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from agents import cli
from agents.cli import CHAPTERS, Lazy, LazyGroup, load, main
from agents.commands._program import in_this_program

ROOT = Path(__file__).resolve().parents[3]
MARKETFLOW = Path(sys.executable).with_name("marketflow")
NAMES = [name for chapter in CHAPTERS.values() for name in chapter]
# What takes seconds to import.
HEAVY = ("ape", "web3", "torch", "numpy", "numba", "fastapi", "rich", "matplotlib")


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """The program that people have, in a process of its own."""
    return subprocess.Popen(
        [str(MARKETFLOW), *arguments], env={**os.environ, **environment}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    said, complained = process.communicate(timeout=60)
    return process.returncode, said, complained


def imported_by(arguments: Sequence[str]) -> set[str]:
    """The heavy modules that a command line has imported at its end."""
    code = (
        "import sys\nfrom agents.cli import main\n"
        f"try: main({list(arguments)!r}, standalone_mode=False)\nexcept SystemExit: pass\n"
        f"print('heavy', *({set(HEAVY)!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.rpartition("heavy")[2].split())


# Refusals


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("vot", "no such command 'vot': did you mean vote?"),
        ("deploy_aproved", "did you mean deploy-approved?"),
        ("chekdata", "did you mean check-data?"),
        ("xyzzy", "no such command 'xyzzy': --help lists those there are"),
    ],
)
def test_a_name_that_there_is_not_suggests_the_nearest_and_exits_with_2(typed: str, says: str):
    result = CliRunner().invoke(main, [typed])
    assert result.exit_code == 2
    assert says in result.output


def test_a_wrong_option_exits_with_2_and_what_people_can_put_right_with_1():
    assert finish(start("contracts", "--jsn"))[0] == 2
    code, said, complained = finish(start("artefact", "nowhere.json"))
    assert (code, said) == (1, "")
    assert complained.startswith("error: nowhere.json") and complained.count("\n") == 1


def test_a_command_that_can_not_be_imported_says_so_and_breaks_no_other(monkeypatch: pytest.MonkeyPatch):
    broken = {"Voting": {"page": Lazy("no_such_module:cli", "The page."), **CHAPTERS["Looking"]}}
    monkeypatch.setattr(cli, "CHAPTERS", broken)
    result = CliRunner().invoke(main, ["page"])
    assert result.exit_code == 1
    assert "page can't be loaded (No module named 'agents.commands.no_such_module')" in result.output
    assert CliRunner().invoke(main, ["--help"]).exit_code == 0
    assert CliRunner().invoke(main, ["contracts"]).exit_code == 0


@pytest.mark.parametrize("arguments", [["node", "--port", "0"], ["agent", "top"]])
def test_an_interrupt_before_anything_runs_ends_in_a_line_and_130(arguments: list[str]):
    """It comes while modules are imported, which is when ape would end without a word."""
    code = (
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('agents.localnet.anvil', 'agents.operator_look'): os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        f"sys.argv = ['marketflow', *{arguments!r}]\n"
        "from agents.cli import run\n"
        "run()\n"
    )
    environment = {**os.environ, "MARKETFLOW_JOURNAL": "nowhere.sqlite"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert (done.returncode, done.stdout, done.stderr.split()) == (130, "", ["interrupted"])


def test_an_interrupt_in_a_command_is_not_made_a_silent_exit_by_ape(monkeypatch: pytest.MonkeyPatch):
    before, made = signal.getsignal(signal.SIGINT), ModuleType("agents.commands.made")
    made.cli = click.Command("made")  # type: ignore[attr-defined]

    def import_module(_: str) -> ModuleType:
        signal.signal(signal.SIGINT, lambda *_: sys.exit(130))  # as ape does
        return made

    monkeypatch.setattr(cli, "import_module", import_module)
    try:
        assert load("made", Lazy("made:cli", "")) is made.cli
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("arguments", [["contracts", "--json"], ["--help"]])
def test_whoever_stops_reading_hears_no_complaint(arguments: list[str]):
    process = start(*arguments)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    complained = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert complained == ""


# What there is


def test_help_lists_every_command_once_under_its_chapter_and_fits_80_columns():
    result = CliRunner().invoke(main, ["--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert all(f"\n{title}:\n" in result.output for title in CHAPTERS)
    assert all(result.output.count(f"\n  {name} ") == 1 for name in NAMES)
    assert max(map(len, result.output.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["agent", "--help"], ["agent", "run", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]):
    assert imported_by(arguments) == set()


def test_the_hash_of_a_file_needs_neither_ape_nor_web3_nor_torch(tmp_path: Path):
    assert imported_by(["artefact", str(tmp_path / "none.json")]).isdisjoint({"ape", "web3", "torch", "fastapi"})


@pytest.mark.parametrize("name", NAMES)
def test_every_command_says_what_it_does_and_shows_examples(name: str):
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    if name != "agent":  # whose own commands have them
        assert result.output.count(f"    marketflow {name}") >= 2


@pytest.mark.parametrize(
    ("name", "example"),
    [(name, example) for chapter in CHAPTERS.values() for name, lazy in chapter.items() for example in lazy.examples],
)
def test_every_example_is_understood(name: str, example: str):
    words = shlex.split(example.partition(" > ")[0])
    command = main.get_command(click.Context(main), words[0])
    assert command is not None and words[0] == name
    with suppress(click.exceptions.Exit):  # of an option that does all of it
        command.make_context(name, words[1:])


def test_names_may_be_written_as_ape_has_them():
    ours = main.get_command(click.Context(main), "deploy-approved")
    assert ours is not None and ours is main.get_command(click.Context(main), "deploy_approved")


def test_every_command_of_ape_is_there_under_its_name_with_hyphens():
    scripts = {path.stem.replace("_", "-") for path in (ROOT / "scripts").glob("*.py")}
    assert scripts <= set(NAMES)


def test_a_shell_completes_names_without_importing_a_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cli, "import_module", lambda name: pytest.fail(f"{name} was imported"))
    shell = BashComplete(main, {}, "marketflow", "_MARKETFLOW_COMPLETE")
    assert [item.value for item in shell.get_completions([], "de")] == ["delegate", "deploy-approved", "deploy", "demo"]
    assert isinstance(main, LazyGroup)


def test_a_shell_completes_the_options_of_a_command():
    shell = BashComplete(main, {}, "marketflow", "_MARKETFLOW_COMPLETE")
    assert "--expect" in [item.value for item in shell.get_completions(["artefact"], "--e")]


def test_the_program_completes_in_a_shell():
    environment = {"_MARKETFLOW_COMPLETE": "bash_complete", "COMP_WORDS": "marketflow tra", "COMP_CWORD": "1"}
    assert finish(start(**environment))[:2] == (0, "plain,train\nplain,travel\n")


# Which program it is


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        ("/usr/bin/marketflow", "run `marketflow deploy-approved --dry-run` or `marketflow vote`"),
        ("/usr/bin/ape", "run `ape run deploy_approved --dry-run` or `ape run vote`"),
        ("pytest", "run `ape run deploy_approved --dry-run` or `ape run vote`"),
    ],
)
def test_a_hint_names_the_program_that_was_started(program: str, shown: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", [program])
    assert in_this_program("run `ape run deploy_approved --dry-run` or `ape run vote`") == shown


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["agent", "run"], "MARKETFLOW_"),
        (["reward", "1"], "for the one that `marketflow node` starts"),
    ],
)
def test_errors_name_the_program_that_was_started(arguments: list[str], names: str):
    environment = {name: "" for name in os.environ if name.startswith("MARKETFLOW_")}
    code, _, complained = finish(start(*arguments, **environment))
    assert code in (1, 78)
    assert names in complained
    assert "ape run" not in complained


def test_network_and_account_come_from_the_environment_where_no_option_says_otherwise():
    given = {"MARKETFLOW_NETWORK": "http://127.0.0.1:1", "MARKETFLOW_ACCOUNT": "alice"}
    vote = main.get_command(click.Context(main), "vote")
    assert vote is not None
    taken = CliRunner(env=given).isolation()
    with taken:
        context = vote.make_context("vote", ["1", "--for"])
        own = vote.make_context("vote", ["1", "--for", "--network", "x", "--account", "bob"])
    found = SimpleNamespace(**{name: context.params[name] for name in ("network", "account")})
    assert (found.network, found.account) == ("http://127.0.0.1:1", "alice")
    assert (own.params["network"], own.params["account"]) == ("x", "bob")
