"""Accounts, names of networks, and the words in which commands end."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from eth_abi.exceptions import DecodingError
from eth_account import Account

from agents.commands import _chain
from agents.commands._chain import (
    Connection,
    amount,
    connect,
    explain_revert,
    in_one_sentence,
    network_name,
    parse_amount,
    parse_hash,
    parse_id,
    printable,
    show,
)
from agents.contracts import RevertReason, load_artifact
from agents.errors import Misconfigured
from agents.localnet.evm import mnemonic_accounts

KEY = "0x" + "42" * 32


def here(chain_id: int = 31337) -> Connection:
    network = SimpleNamespace(name="custom", ecosystem=SimpleNamespace(name="ethereum"))
    chain: Any = SimpleNamespace(chain_id=chain_id)
    return Connection(chain=chain, provider=SimpleNamespace(network=network), folder=Path("deployments"))


# Networks


@pytest.mark.parametrize(
    ("chain_id", "name"),
    [
        (31337, "local"), (1337, "local"), (1, "ethereum-mainnet"), (11155111, "ethereum-sepolia"),
        (987654321, "chain-987654321"),
    ],
)  # fmt: skip
def test_a_network_has_one_name_however_it_is_reached(chain_id: int, name: str):
    assert network_name(chain_id) == name
    assert here(chain_id).file == Path(f"deployments/{name}.json")


def test_no_answer_is_not_the_answer_zero():
    with connect("ethereum:local:test", Path("deployments")) as connection:
        token = connection.chain.at("MarketFlowToken", "0x" + "11" * 20)
        with pytest.raises(DecodingError):
            connection.chain.call(token.functions.totalSupply())


# Accounts


@pytest.fixture
def keyfile(ape_folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The alias of an account whose passphrase is `open sesame`."""
    folder = ape_folder / "accounts"
    folder.mkdir(parents=True, exist_ok=True)
    encrypted = Account.encrypt(KEY, "open sesame", kdf="pbkdf2", iterations=1)
    (folder / "teller.json").write_text(json.dumps(encrypted))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    return "teller"


def test_an_account_has_to_be_named():
    with pytest.raises(Misconfigured, match=r"whose account signs\? add --account ALIAS: `ape accounts list`"):
        here().signer("")


def test_an_unknown_account_says_how_to_make_one():
    with pytest.raises(Misconfigured, match=r"there is no account 'nobody'.*`ape accounts generate nobody` makes one"):
        here().signer("nobody")


def test_a_locked_account_without_a_terminal_names_the_variable(keyfile: str):
    with pytest.raises(Misconfigured, match="teller is locked: set APE_ACCOUNTS_teller_PASSPHRASE, or run in a term"):
        here().signer(keyfile)


def test_a_wrong_passphrase_is_a_sentence(keyfile: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("APE_ACCOUNTS_teller_PASSPHRASE", "open barley")
    with pytest.raises(Misconfigured, match="passphrase does not open account teller"):
        here().signer(keyfile)


def test_a_locked_account_has_an_address_and_that_is_all_a_dry_run_needs(keyfile: str):
    assert here().signer(keyfile, unlock=False).address == Account.from_key(KEY).address


def test_an_account_opens_with_its_variable_and_signs_without_being_asked_again(
    keyfile: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("APE_ACCOUNTS_teller_PASSPHRASE", "open sesame")
    signer = here().signer(keyfile)
    domain, types = {"name": "x"}, {"Note": [{"name": "text", "type": "string"}]}
    signed = signer.sign_typed_data(domain, types, {"text": "hello"})
    assert signed.signature == Account.sign_typed_data(KEY, domain, types, {"text": "hello"}).signature


def test_a_test_account_is_the_same_one_that_the_local_node_has():
    assert here().signer("TEST::12").address == mnemonic_accounts(13)[12].address


@pytest.mark.parametrize("alias", ["TEST::", "TEST::x", "TEST::-1"])
def test_a_test_account_has_a_number(alias: str):
    with pytest.raises(Misconfigured, match="test accounts are TEST::0, TEST::1 and so on"):
        here().signer(alias)


def test_a_key_that_everybody_has_signs_on_no_public_chain():
    with pytest.raises(Misconfigured, match="everybody has the key of TEST::0, and this is chain 1: use one of your"):
        here(1).signer("TEST::0")


# Reading


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "0x1"])
def test_an_id_is_a_whole_number(text: str):
    with pytest.raises(Misconfigured, match="is no proposal: give its whole number"):
        parse_id(text, "proposal")


@pytest.mark.parametrize("text", ["", "0x", "1", "0x" + "1" * 63, "0x" + "g" * 64])
def test_a_strategy_is_a_hash(text: str):
    with pytest.raises(Misconfigured, match="is no strategy: give its id, 0x and 64 hex digits"):
        parse_hash(text, "strategy")


@pytest.mark.parametrize("text", ["", "x", "-1", "1e400", "nan", "inf", "0.0000001", "1,000"])
def test_an_amount_is_exact(text: str):
    with pytest.raises(Misconfigured, match=r"--bond: .* is not an amount, as text, with at most 6 decimals"):
        parse_amount(text, 6, "--bond")


def test_amounts_go_there_and_back_to_the_last_digit():
    wei = 123_456_789_012_345_678_901_234_567_890_123_456_789
    shown = amount(wei, 18)
    assert shown == "123,456,789,012,345,678,901.234567890123456789"
    assert parse_amount(shown.replace(",", ""), 18, "--bond") == wei
    assert [amount(units, 6) for units in (0, 1_000_000, 1_500_000, -2_000_001)] == ["0", "1", "1.5", "-2.000001"]


# Ending


def test_every_way_out_is_of_an_error_that_our_contracts_have():
    names = "MARKETFLOW_DAO StrategyRegistry AgentRegistry Constitution RewardPool".split()
    abis = [entry for name in names for entry in load_artifact(name).abi if entry["type"] == "error"]
    errors = {abi["name"]: {item["name"]: _sample(item["type"]) for item in abi["inputs"]} for abi in abis}
    for name in _chain._WAYS_OUT:
        sentence = explain_revert(RevertReason(name, errors.get(name, {})))
        assert ":" in sentence or "already" in sentence or name == "NoReason", sentence


def test_an_error_without_a_way_out_is_told_as_it_is():
    assert explain_revert(RevertReason("Odd", {"by": 3})) == "the chain refuses: Odd(by=3)"


def test_values_are_shown_as_json_or_one_to_a_line(capsys: pytest.CaptureFixture[str]):
    values = {"a": 1, "longer": ["x", "y"], "table": {"k": "v"}}
    show(values, as_json=True)
    assert json.loads(capsys.readouterr().out) == values
    show(values, as_json=False)
    assert capsys.readouterr().out == "a       1\nlonger  x, y\ntable   k v\n"


def _sample(kind: str) -> Any:
    return 1 if "int" in kind else b"\x11" * 32 if kind == "bytes32" else "0x" + "11" * 20


@pytest.mark.parametrize("sign", ["\x1b", "\x9b", "\u202e", "\r", "\x07"])
def test_others_text_does_not_steer_the_terminal(sign: str, capsys: pytest.CaptureFixture[str]):
    assert printable(f"a{sign}[2Kb") == "a\ufffd[2Kb"
    show({"title": f"a{sign}b"}, as_json=False)
    _chain.say(f"a{sign}b")
    _chain.warn([f"a{sign}b"])
    with pytest.raises(SystemExit):
        _chain.fail(f"x{sign}y")
    said = capsys.readouterr()
    assert sign not in said.out + said.err.replace("x y", "")


def test_a_reader_who_has_gone_is_no_error_of_the_command():
    @in_one_sentence
    def command() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        command()
