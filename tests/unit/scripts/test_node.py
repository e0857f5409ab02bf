"""`ape run node` and `ape run travel`: what a person may type, and a node that is not to be had."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from agents.commands import node
from agents.commands.travel import parse_duration_s, parse_price
from agents.errors import Misconfigured
from agents.localnet.anvil import find_anvil
from agents.localnet.evm import EvmUnavailable, attach_evm, start_evm
from tests.unit.scripts.conftest import Refuse

ROOT = Path(__file__).resolve().parents[3]
needs_anvil = pytest.mark.skipif(find_anvil() is None, reason="anvil is not installed")


def test_without_anvil_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, refuse: Refuse):
    monkeypatch.setattr(node, "find_anvil", lambda: None)
    assert refuse(node.cli) == "anvil is not installed: run `make install`"


@needs_anvil
def test_a_port_that_is_taken_is_named(refuse: Refuse):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert refuse(node.cli, "--port", str(port)).startswith(f"port {port} is taken: choose another")


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_can_not_be_is_named(port: str, refuse: Refuse):
    assert refuse(node.cli, "--port", port).startswith(f"--port {port} is none")


@needs_anvil
def test_a_node_runs_until_it_is_interrupted_and_leaves_nothing_behind():
    program = "import sys; from agents.commands.node import cli; sys.argv = ['node', '--port', '0']; cli()"
    environment = {**os.environ, "PYTHONPATH": "."}
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment
    ) as started:
        assert started.stdout is not None
        url = started.stdout.readline().split()[1]
        assert "deployer" in started.stdout.readline()
        with attach_evm(url) as evm:
            assert evm.w3.eth.chain_id == 31337
        started.send_signal(signal.SIGINT)
        started.wait(timeout=20)
    with pytest.raises(EvmUnavailable, match="no node answers at"):
        attach_evm(url)


# Attaching


@needs_anvil
def test_an_attached_chain_is_left_as_it_was():
    with start_evm("anvil") as evm:
        assert evm.url
        with attach_evm(evm.url) as attached:
            attached.set_balance(attached.accounts[0].address, 5)
            assert attached.url == evm.url
            assert attached.block_gas_limit == evm.block_gas_limit
        assert evm.w3.eth.get_balance(evm.accounts[0].address) == 5  # it runs on


@needs_anvil
def test_an_anvil_with_too_few_accounts_is_refused():
    with start_evm("anvil", accounts=10) as evm, pytest.raises(EvmUnavailable, match="lacks 10 of the 20 accounts"):
        attach_evm(str(evm.url))


@pytest.mark.parametrize("url", ["", "https://example.org", "127.0.0.1:8545", "/tmp/geth.ipc"])
def test_only_a_url_of_this_machine_can_be_attached_to(url: str):
    with pytest.raises(EvmUnavailable, match="is no local node: one at http:"):
        attach_evm(url)


# Time and prices


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("90", 90), ("90s", 90), ("6h", 21_600), ("2d", 172_800)])
def test_a_duration_has_a_unit(text: str, seconds: int):
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1", "1.5h", "1y", "1 h"])
def test_a_duration_that_is_none_is_named(text: str):
    with pytest.raises(Misconfigured, match="is no duration: 90, 10m, 6h or 2d are"):
        parse_duration_s(text)


def test_a_price_is_of_a_symbol():
    assert parse_price("ETH=1999.5", {"ETH": "0x1"}) == ("ETH", Decimal("1999.5"))


@pytest.mark.parametrize("text", ["", "ETH", "ETH=", "ETH=x", "ETH=0", "ETH=-1", "ETH=nan", "ETH=inf", "DOGE=1"])
def test_a_price_that_is_none_is_named(text: str):
    with pytest.raises(Misconfigured, match="give one such as ETH=2000, of ETH"):
        parse_price(text, {"ETH": "0x1"})
