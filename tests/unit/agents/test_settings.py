"""Settings come from one place, name what is wrong with them, and never say a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.constitution import OperatorLimits
from agents.errors import Misconfigured
from agents.settings import AGENTS_EXAMPLE, AgentEntry, load_agents, load_settings

VAULT, OTHER = "0x" + "11" * 20, "0x" + "22" * 20
SECRET = "s3cret-access-key"
AGENT = f'[[agent]]\nname = "one"\nvault = "{VAULT}"\nartefact = "a.json"\n'


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("MARKETFLOW_")]:
        monkeypatch.delenv(name)


def write(folder: Path, text: str) -> Path:
    path = folder / "agents.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHAIN_ID", "main"), ("CHAIN_ID", "-1"), ("MAX_FEE_WEI", "0"), ("FINALITY_BLOCKS", "0"), ("POLL_S", "0"),
        ("HTTP_PORT", "70000"), ("MIN_TIP_WEI", "-1"), ("BREAKER_AFTER", "0"), ("SIMULATE", "perhaps"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MARKETFLOW_{name}", value)
    with pytest.raises(Misconfigured, match=f"MARKETFLOW_{name}: .*: correct it in the environment"):
        load_settings()


def test_no_node_is_refused_when_one_is_needed() -> None:
    with pytest.raises(Misconfigured, match="MARKETFLOW_RPC_URLS is empty"):
        load_settings().urls()


def test_secrets_are_in_no_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKETFLOW_RPC_URLS", f"https://node.example/{SECRET}, http://127.0.0.1:8545")
    for name in ("WS_URL", "KEYFILE_PASSPHRASE", "WEBHOOK_URL", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"MARKETFLOW_{name}", f"wss://{SECRET}")
    settings = load_settings()
    assert settings.urls() == [f"https://node.example/{SECRET}", "http://127.0.0.1:8545"]
    for text in (repr(settings), str(settings), str(settings.public())):
        assert SECRET not in text


def test_a_wrong_secret_is_not_repeated_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKETFLOW_CHAIN_ID", SECRET)
    with pytest.raises(Misconfigured) as caught:
        load_settings()
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_passphrase_may_be_a_file_among_the_services_credentials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "marketflow_keyfile_passphrase").write_text(SECRET)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    found = load_settings().keyfile_passphrase
    assert found is not None
    assert found.get_secret_value() == SECRET
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "not there"))
    assert load_settings().keyfile_passphrase is None


def test_an_argument_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKETFLOW_RPC_URLS", "http://a")
    monkeypatch.setenv("MARKETFLOW_CHAIN_ID", "5")
    settings = load_settings(rpc_urls="http://b", chain_id=7)
    assert (settings.urls(), settings.chain_id) == (["http://b"], 7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[agent]", "can't be read"),
        ("", "lists no agent"),
        ("agent = 3", "lists no agent"),
        ("agents = 3", "agents is unknown"),
        (AGENT.replace('name = "one"\n', ""), "agent 1: name is missing"),
        (AGENT.replace("artefact", "artifact"), "agent 1: artifact is unknown"),
        (AGENT.replace('"one"', "1"), "agent 1: every field is a text"),
        (AGENT.replace(VAULT, "0xabc"), "agent 1: 0xabc is no address with a right checksum"),
        (AGENT + AGENT, "two agents have the name one"),
        (AGENT + AGENT.replace('"one"', '"two"'), f"two agents have the vault {VAULT}"),
        (AGENT + "[limits]\nmax_trade = 1", "max_trade is no limit; there are max_"),
        (AGENT + "[limits]\nmax_trade_bps = -1", "max_trade_bps is -1, expected a whole number of at least 0"),
        (AGENT + "[limits]\nmax_trade_bps = true", "max_trade_bps is True"),
    ],
)
def test_a_wrong_file_of_agents_is_refused_with_its_fault(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        load_agents(write(tmp_path, text))


def test_a_missing_file_of_agents_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="does not exist: MARKETFLOW_AGENTS names"):
        load_agents(tmp_path / "none.toml")


def test_the_file_says_who_trades_and_what_the_operator_wants(tmp_path: Path) -> None:
    second = f'[[agent]]\nname = "two"\nvault = "{OTHER}"\nartefact = "b.json"\n'
    keys: dict[str, Any] = {"": "", 'key = "k.json#7"\n': str(tmp_path / "k.json#7"), 'key = "ape:me"\n': "ape:me"}
    for line, expected in keys.items():
        found = load_agents(write(tmp_path, f"{AGENT}{line}{second}[limits]\nmax_trade_bps = 7\n"))
        assert found.limits == OperatorLimits(max_trade_bps=7)
        assert found.agents == (
            AgentEntry(name="one", vault=VAULT, artefact=tmp_path / "a.json", key=expected),
            AgentEntry(name="two", vault=OTHER, artefact=tmp_path / "b.json"),
        )


def test_the_example_is_a_file_of_agents(tmp_path: Path) -> None:
    found = load_agents(write(tmp_path, AGENTS_EXAMPLE))
    assert [agent.name for agent in found.agents] == ["eth-trend"]
    assert found.limits.max_trade_bps == 2500
