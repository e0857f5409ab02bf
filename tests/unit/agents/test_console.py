"""What the console costs before it is used, and how it shows things: no chain is needed for these."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# Before anything imports ape, which looks for its folder once.
if "APE_DATA_FOLDER" not in os.environ:
    os.environ["APE_DATA_FOLDER"] = tempfile.mkdtemp(prefix="ape-")
    atexit.register(shutil.rmtree, os.environ["APE_DATA_FOLDER"], ignore_errors=True)

import ape
import click
from ape_accounts.accounts import generate_account

from agents import console, console_session
from agents.commands import propose
from agents.console_connection import ConsoleConnection
from agents.console_errors import Refused, plainly
from agents.console_views import Amount, Collection, Grid, LimitsView, View, fall_bps
from agents.errors import Retryable
from oracle.vault_state import EffectiveLimits

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("web3", "ape", "eth_abi", "numpy", "requests", "rich", "click", "torch")


def limits(**over: int) -> EffectiveLimits:
    return EffectiveLimits(**{**dict.fromkeys(EffectiveLimits.__dataclass_fields__, 100), **over})


# Starting


def test_loading_the_names_imports_nothing_heavy_and_says_nothing():
    code = (
        "import sys, ape_console_extras as e; names = e.ape_init_extras(); "
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), 'dao' in names)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[] True\n", "")


def test_without_a_network_every_name_is_there_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ape.networks, "active_provider", None)
    names = console.ape_init_extras()
    for name in console.NAMES:
        assert repr(names[name]) == "error: no network is connected: start `ape console --network NETWORK`", name
        assert dir(names[name]) == []
        assert names[name]
    with pytest.raises(Refused, match="no network is connected"):
        names["vaults"][0]
    with pytest.raises(Refused, match="no network is connected"):
        names["status"]()


def test_every_name_and_function_is_in_scope_and_explained(capsys: pytest.CaptureFixture[str]):
    names = console.ape_init_extras()
    wanted = "dao token ledger vaults agents oracle treasury constitution strategies pool proposals"
    assert {*wanted.split(), "propose", "vote", "explain"} <= set(names)
    console.help_marketflow()
    said = capsys.readouterr().out
    assert all(name in said for name in names)


def test_completion_has_the_names_before_they_are_used(monkeypatch: pytest.MonkeyPatch):
    space: dict[str, Any] = {"dao": "mine"}
    monkeypatch.setattr(console, "_shell", lambda: SimpleNamespace(user_ns=space))
    console.ape_init_extras()
    assert space["dao"] == "mine"
    assert isinstance(space["vaults"], console.Later)


def test_names_are_loaded_when_the_shell_starts_also_without_the_projects_file():
    space: dict[str, Any] = {}
    console.load_ipython_extension(SimpleNamespace(user_ns=space))
    assert isinstance(space["dao"], console.Later)


# Errors


def test_what_a_person_can_put_right_is_a_sentence_and_a_mistake_of_the_program_is_not():
    def fail(error: Exception) -> Any:
        def raises() -> None:
            raise error

        return plainly(raises)

    for error in (Retryable("no\nanswer"), click.UsageError("no such\x1b[2J option"), ConnectionError("gone")):
        with pytest.raises(Refused) as refused:
            fail(error)()
        assert refused.value._render_traceback_() == [f"error: {refused.value}"]
        assert all(sign.isprintable() for sign in str(refused.value))
    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError())()


# Who signs


def test_an_account_that_one_call_unlocked_signs_no_other(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    generate_account("console-test", "a passphrase")
    account: Any = ape.accounts.load("console-test")
    request.addfinalizer(account.keyfile_path.unlink)
    monkeypatch.setenv("APE_ACCOUNTS_console-test_PASSPHRASE", "a passphrase")
    here = ConsoleConnection(chain=None, provider=None, folder=Path())  # type: ignore[arg-type]
    with pytest.raises(RuntimeError), console_session.relocked("console-test"):  # noqa: PT012
        assert here.signer(account).address == account.address
        assert not account.locked
        raise RuntimeError("whatever happens")
    assert account.locked


def test_keys_that_everybody_has_sign_nothing_on_a_public_chain():
    chain: Any = SimpleNamespace(chain_id=11155111)
    here = ConsoleConnection(chain=chain, provider=None, folder=Path())
    with pytest.raises(Exception, match="everybody has the key of TEST::3, and this is chain 11155111"):
        here.signer("TEST::3")
    with pytest.raises(Exception, match="everybody has the key of TEST::3"):
        here.signer(SimpleNamespace(address="0x", sign_transaction=None, alias="TEST::3"))


def test_without_a_terminal_nobody_says_yes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    monkeypatch.setattr("click.confirm", lambda *_, **__: pytest.fail("asked"))
    assert not console_session.is_wanted(console_session.Answer({"dry_run": True}))


def test_proposing_gives_the_command_every_option_that_it_has(monkeypatch: pytest.MonkeyPatch):
    said: dict[str, Any] = {}

    class Recorder:
        def run(self, name: str, arguments: list[str], *, sender: Any, dry_run: bool | None) -> None:
            with propose.cli.make_context(name, arguments) as context:
                said.update(context.params, sender=sender, dry=dry_run)

    monkeypatch.setattr(console, "_session", Recorder)
    console.propose(
        "-s.toml", update="0x1", recall="0x2", items=["MUSD=1"], retire="0x3", artefact="a.json", artefact_hash="0x4",
        agent=0, assets=["ETH", "BTC"], limits={"max_position_bps": 5}, capital="-1", reward_rate="2", reward_cap="3",
        description="--help", sender="alice",
    )  # fmt: skip
    assert str(said["file"]) == "-s.toml"
    assert (said["update"], said["recall"], said["retire"], said["items"]) == ("0x1", "0x2", "0x3", ("MUSD=1",))
    assert (said["artefact"], said["artefact_hash"], said["agent"]) == ("a.json", "0x4", "0")
    assert (said["assets"], said["limits"]) == (("ETH", "BTC"), ("max_position_bps=5",))
    assert (said["capital"], said["reward_rate"], said["reward_cap"]) == ("-1", "2", "3")
    assert (said["description"], said["sender"], said["dry"]) == ("--help", "alice", None)


# Showing


def test_an_amount_is_exact_however_many_digits_it_has():
    wei = 2**256 - 1
    amount = Amount(wei, 18, "MFLOW")
    assert amount == Decimal(f"{wei}e-18")
    assert (amount.raw, amount.symbol) == (wei, "MFLOW")
    assert repr(Amount(1_234_500_000, 6, "MUSD")) == f"{Amount(1_234_500_000, 6, 'MUSD')}" == "1,234.5 MUSD"
    assert f"{Amount(1_500_000, 6, 'MUSD'):.1f}" == "1.5"
    assert Amount(1, 0, "a\x1b[2Jb").__repr__() == "1 a\ufffd[2Jb"


def test_an_amount_goes_to_a_contract_in_base_units():
    assert console_session._argument([Amount(5 * 10**18, 18, "MFLOW"), (Amount(7, 6, "MUSD"),)]) == [5 * 10**18, [7]]
    with pytest.raises(ValueError, match="base units"):
        console_session._argument(Decimal(5))


def test_the_stricter_of_limit_and_ceiling_is_in_force():
    view = LimitsView(own=limits(max_position_bps=50, max_drawdown_bps=900), ceilings=limits(max_drawdown_bps=800))
    assert (view.in_force.max_position_bps, view.in_force.max_drawdown_bps) == (50, 800)
    assert "max_drawdown_bps                    900  800      800" in repr(view)


@pytest.mark.parametrize(("before", "after", "bps"), [(0, 5, 0), (100, 120, 0), (10_000, 9_999, 1), (3, 2, 3333)])
def test_a_fall_is_counted_and_a_rise_is_none(before: int, after: int, bps: int):
    assert fall_bps(before, after) == bps


def test_other_peoples_text_can_not_steer_the_terminal():
    grid = Grid(title="a\x1b[2J\u202eb", columns=("x",), rows=[["new\nline\x07"]])
    assert grid.plain() == "a\ufffd[2J\ufffdb\n  x\n  new line\ufffd"
    assert [str(cell) for cell in grid.rich().columns[0].cells] == ["new line\ufffd"]


class Thing(View):
    columns = ("id",)

    def summary(self) -> tuple[str]:
        return (str(self.data.id),)


def things(count: int, **options: Any) -> Collection:
    items = [Thing(None, SimpleNamespace(id=f"0xA{i}", name=f"n{i}"), None) for i in range(count)]
    return Collection("thing", lambda: items, Thing, "id", also=("name",), **options)


def test_things_are_found_by_number_key_or_name_and_nothing_else_is():
    some = things(3)
    assert some[0].id == some["0xa0"].id == some["n0"].id == "0xA0"
    assert some[-1].id == "0xA2"
    assert [thing.id for thing in some[1:]] == ["0xA1", "0xA2"]
    for missing in (3, "0xA", None, True, b"\x00"):
        with pytest.raises(Refused, match=r"there is no thing .*: of the 3 the last are 0xA0, 0xA1, 0xA2"):
            some[missing]
    with pytest.raises(Refused, match="there are no things yet"):
        things(0)[0]
    with pytest.raises(AttributeError):
        some.call()


def test_a_long_table_says_what_it_leaves_out_and_an_empty_one_that_it_is_empty():
    assert repr(things(0)) == "0 things"
    assert things(0)._rich() == "0 things"
    long = repr(things(41)).splitlines()
    assert long[0] == "41 things, the last 40"
    assert len(long) == 42
    assert "  0xA40" in long and "  0xA0" not in long


def test_a_document_of_a_daemon_is_believed_only_if_it_hashes_to_its_name(monkeypatch: pytest.MonkeyPatch):
    from agents.explanation import ExplanationForged, ExplanationMissing
    from offchain_rl.artefact import hash_bytes

    answers: dict[str, bytes | None] = {}
    monkeypatch.setattr(console_session, "_download", lambda url: answers.get(url))
    with pytest.raises(ExplanationMissing):
        console_session.fetch_document("http://a/", "0x" + 64 * "0")
    for content, problem in ((b"{}", ""), (b"[]", "no document"), (b"<html>", "no document")):
        name = hash_bytes(content)
        answers[f"http://a/explanations/{name}"] = content
        if not problem:
            assert console_session.fetch_document("http://a/", name) == {}
            answers[f"http://a/explanations/{name}"] = b"{} "
            problem = "hashes to"
        with pytest.raises(ExplanationForged, match=problem):
            console_session.fetch_document("http://a/", name)
