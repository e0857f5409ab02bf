"""A deployment that is interrupted goes on: the same final state, nothing twice.

`make deploy-campaign` does it at every transaction; here are a few of them, and what else comes between: a fee that is
too low, a foreign transaction, a reorg.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from eth_account import Account as Keys
from web3 import HTTPProvider, Web3

from agents.chain import RemoteChain
from agents.commands.deploy import free_run
from agents.deploying import Deploying, Patience, Progress, ProgressFile, begin, next_run
from agents.errors import Misconfigured, Retryable
from agents.genesis import load_genesis
from agents.localnet.anvil import find_anvil
from agents.localnet.evm import mnemonic_accounts
from tests.e2e.interrupted import ETHER, FOUNDER, NETWORKS, Kill, Network, Point, Processes, Quirks

pytestmark = pytest.mark.skipif(find_anvil() is None, reason="anvil is not installed")

STEPS = 28


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    started = Processes(tmp_path_factory.mktemp("home"))
    yield started
    started.close()


def start(quirks: Quirks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with Network(quirks, tmp_path_factory.mktemp(quirks.name) / "deployments") as network:
        yield network


@pytest.fixture(scope="module")
def amoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Long block headers, a high tip, and the CREATE2 proxy."""
    yield from start(NETWORKS["polygon-amoy"], tmp_path_factory)


@pytest.fixture(scope="module")
def plain_chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """No CREATE2 proxy: addresses depend on the nonce."""
    yield from start(NETWORKS["optimism-sepolia"], tmp_path_factory)


@pytest.fixture(scope="module")
def undisturbed(amoy: Network, processes: Processes) -> dict[str, Any]:
    amoy.restart()
    ended = amoy.deploy(processes)
    assert ended.code == 0, ended.output
    return amoy.state()


class Stopped(Exception):
    """What a test raises in the middle of a deployment."""


class InProcess:
    """A deployment in this process, with what a command would have asked already."""

    def __init__(self, network: Network) -> None:
        network.restart()
        self.network, self.file = network, ProgressFile(network.partial)
        w3 = Web3(HTTPProvider(network.gate.url))
        if network.quirks.has_long_headers:
            from web3.middleware import ExtraDataToPOAMiddleware

            w3.middleware_onion.inject(ExtraDataToPOAMiddleware, layer=0)
        self.chain = RemoteChain(w3)
        self.decided_at_s = self.chain.now_s()
        path = network.folder / "genesis" / f"{network.quirks.name}.toml"
        self.genesis = load_genesis(path, market=network.book, people={}, now_s=self.decided_at_s)
        run = next_run(self.chain, FOUNDER.address) if network.quirks.has_proxy else None
        self.file.save(
            begin(
                self.chain, deployer=FOUNDER.address, genesis=self.genesis, book=network.book,
                decided_at_s=self.decided_at_s, gas=[1] * STEPS, run=run, nonce=0,
            )
        )  # fmt: skip

    @property
    def progress(self) -> Progress:
        found = self.file.load()
        assert found is not None
        return found

    def run(self, at: int = 0, act: Callable[[], None] = lambda: None, **patience: Any) -> Deploying:
        """To the end; `act` follows the step of that number."""

        def say(line: str) -> None:
            if line.startswith(f"  {at}/"):
                act()

        deploying = Deploying(
            self.chain, FOUNDER, self.file, self.progress, self.genesis, patience=Patience(**patience), say=say
        )
        deploying.run()
        return deploying

    def stop_after(self, at: int) -> None:
        def stop() -> None:
            raise Stopped

        with pytest.raises(Stopped):
            self.run(at, stop)

    @property
    def sent(self) -> int:
        """Transactions of the account that were mined."""
        return self.chain.w3.eth.get_transaction_count(FOUNDER.address)

    def foreign(self, value: int = 1, nonce: int | None = None) -> None:
        """Somebody else with the same key sends something."""
        transaction = {
            "to": mnemonic_accounts(3)[2].address, "value": value, "gas": 21_000, "chainId": self.chain.chain_id,
            "nonce": self.sent if nonce is None else nonce, "gasPrice": 200 * 10**9,
        }  # fmt: skip
        self.chain.w3.eth.send_raw_transaction(Keys.sign_transaction(transaction, FOUNDER.key).raw_transaction)


# Killed


@pytest.mark.parametrize(
    ("point", "number"), [("before-send", 3), ("after-send", 17), ("after-receipt", 26)]
)
def test_a_killed_deployment_goes_on_to_the_same_state(
    amoy: Network, processes: Processes, undisturbed: dict[str, Any], point: Point, number: int
):
    amoy.restart()
    killed = amoy.deploy(processes, kill=Kill(point, number))
    assert killed.code == -9, killed.output
    assert not amoy.file.exists()
    resumed = amoy.deploy(processes)
    assert resumed.code == 0, resumed.output
    assert amoy.state() == undisturbed
    assert not amoy.partial.exists()


def test_without_its_file_a_deployment_is_found_on_the_chain(
    amoy: Network, processes: Processes, undisturbed: dict[str, Any]
):
    amoy.restart()
    assert amoy.deploy(processes, kill=Kill("after-receipt", 20)).code == -9
    amoy.partial.unlink()
    resumed = amoy.deploy(processes)
    assert resumed.code == 0, resumed.output
    assert "the chain has a deployment that this account began" in resumed.output
    found = amoy.state()
    assert {**found, "file": undisturbed["file"]} == undisturbed
    checked = amoy.check(processes)
    assert (checked.code, "no difference" in checked.output) == (0, True), checked.output


def test_a_deployment_that_began_otherwise_is_not_continued(amoy: Network, processes: Processes):
    amoy.restart()
    assert amoy.deploy(processes, kill=Kill("after-send", 4)).code == -9
    genesis = amoy.folder / "genesis" / "polygon-amoy.toml"
    before = genesis.read_text()
    genesis.write_text(before.replace('symbol = "MFLOW"', 'symbol = "FLOW"'))
    try:
        refused = amoy.deploy(processes)
        assert refused.code == 1
        assert 'since then: genesis.token_symbol was "MFLOW", is "FLOW". Put that back to finish it' in refused.output
        kept = amoy.partial.read_text()
        amoy.partial.unlink()
        refused = amoy.deploy(processes)
        assert "was begun with another configuration: token: symbol is MFLOW, expected is FLOW" in refused.output
        amoy.partial.write_text(kept)
        first = json.loads(kept)["deployer_contract"]
        anew = amoy.deploy(processes, "--again")
        assert anew.code == 0, anew.output
    finally:
        genesis.write_text(before)
    assert json.loads(amoy.file.read_text())["protocol"]["deployer_contract"] != first
    assert (amoy.folder / "polygon-amoy.partial.1.json").read_text() == kept


def test_a_nonce_that_was_taken_moves_everything_while_nothing_is_there(plain_chain: Network, processes: Processes):
    plain_chain.restart()
    assert plain_chain.deploy(processes, kill=Kill("before-send", 1)).code == -9
    first = json.loads(plain_chain.partial.read_text())["deployer_contract"]
    plain_chain.gate.watch.kill = None
    plain_chain.gate.watch.pid = 0
    here = InProcess.__new__(InProcess)
    here.chain = RemoteChain(Web3(HTTPProvider(plain_chain.gate.url)))
    here.foreign()
    resumed = plain_chain.deploy(processes)
    assert resumed.code == 0, resumed.output
    assert "everything will be at other addresses" in resumed.output
    found = plain_chain.state()
    assert found["file"]["protocol"]["deployer_contract"] != first
    assert (int(found["transactions"], 16), found["made"], found["deployers"]) == (1 + STEPS, 14, 1)


# What comes between


def test_a_transaction_that_no_block_takes_is_offered_more_with_the_same_nonce(amoy: Network):
    here = InProcess(amoy)
    here.stop_after(6)
    amoy.rpc("evm_setAutomine", False)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if sum("offering more" in line for line in said) == 3 and "offering more" in line:
            amoy.rpc("evm_setAutomine", True)
            amoy.rpc("evm_mine")

    patience = Patience(bump_after_s=0.05)
    try:
        Deploying(here.chain, FOUNDER, here.file, here.progress, here.genesis, patience=patience, say=say).run()
    finally:
        amoy.rpc("evm_setAutomine", True)
    seventh = [attempt for attempt in here.progress.attempts if attempt.nonce == 6]
    assert len({attempt.step for attempt in seventh}) == 1
    assert len(seventh) >= 3
    fees = [attempt.max_fee_wei for attempt in seventh]
    assert all(later * 10 >= earlier * 11 for earlier, later in zip(fees, fees[1:], strict=False))
    assert here.sent == STEPS


def test_patience_ends_and_the_next_run_waits_for_the_same_transaction(amoy: Network):
    here = InProcess(amoy)
    here.stop_after(2)
    amoy.rpc("evm_setAutomine", False)
    with pytest.raises(Retryable, match="no block took transaction 0x"):
        here.run(bump_after_s=60, give_up_after_s=0.1)
    signed = here.progress.attempts[-1]
    amoy.rpc("evm_setAutomine", True)
    amoy.rpc("evm_mine")
    here.stop_after(5)
    assert here.sent == 5
    assert [attempt.hash for attempt in here.progress.attempts if attempt.step == signed.step] == [signed.hash]


def test_foreign_use_of_the_key_doubles_nothing(amoy: Network):
    here = InProcess(amoy)
    here.stop_after(18)
    before = here.progress
    here.foreign()
    # And one in place of a transfer that is signed and not sent.
    deploying = Deploying(here.chain, FOUNDER, here.file, before, here.genesis)
    deploying._sign(deploying.steps[18], here.sent)
    here.foreign()
    done = here.run()
    assert here.sent == STEPS + 2
    token = done.deployment.contract(here.chain, "token").functions
    for holder, wei in here.genesis.holders.items():
        assert here.chain.call(token.balanceOf(holder)) == wei
    assert here.chain.call(token.balanceOf(FOUNDER.address)) == 0


def test_a_reorg_that_takes_the_last_transactions_back_has_them_sent_again_as_they_were(amoy: Network):
    here = InProcess(amoy)
    snapshots: list[int] = []
    happened: list[bool] = []
    here.stop_after(20)
    snapshots.append(amoy.evm.snapshot())

    def reorg() -> None:
        if not happened:
            happened.append(True)
            amoy.evm.revert(snapshots[0])

    here.run(STEPS, reorg)
    assert happened
    assert here.sent == STEPS
    assert len({attempt.hash for attempt in here.progress.attempts}) == len(here.progress.attempts) == STEPS


def test_code_that_a_node_shows_late_is_not_deployed_again(amoy: Network):
    """A node behind another that has given the receipt already."""
    here = InProcess(amoy)
    here.stop_after(6)
    late = Deploying(here.chain, FOUNDER, here.file, here.progress, here.genesis).steps[5].address
    asked: list[str] = []

    def get_code(params: list[Any]) -> Any:
        asked.append(params[0])
        return "0x" if params[0] == late and asked.count(late) <= 2 else amoy.rpc("eth_getCode", *params)

    amoy.gate.answers["eth_getCode"] = get_code
    try:
        here.stop_after(9)
    finally:
        amoy.gate.answers.clear()
    assert asked.count(late) == 3
    assert here.sent == 9 == len(here.progress.attempts)


def test_what_was_signed_for_a_lower_base_fee_is_signed_again_with_the_same_nonce(amoy: Network):
    here = InProcess(amoy)
    here.stop_after(7)
    deploying = Deploying(here.chain, FOUNDER, here.file, here.progress, here.genesis)
    cheap = deploying._sign(deploying.steps[7], here.sent)
    amoy.rpc("anvil_setNextBlockBaseFeePerGas", hex(4 * cheap.max_fee_wei))
    amoy.evm.mine()
    here.stop_after(10)
    both = [attempt for attempt in here.progress.attempts if attempt.step == cheap.step]
    assert [attempt.nonce for attempt in both] == [cheap.nonce, cheap.nonce]
    assert both[1].max_fee_wei > 4 * cheap.max_fee_wei
    assert here.sent == 10


def test_the_end_waits_for_blocks_that_make_a_reorg_unlikely(amoy: Network):
    here = InProcess(amoy)
    waited: list[int] = []

    def say(line: str) -> None:
        if "waiting for block" in line:
            waited.append(int(amoy.rpc("eth_blockNumber"), 16))

    def number(_: list[Any]) -> Any:
        if waited:  # a block for each time that somebody looks whether there is one
            amoy.evm.mine()
        return amoy.rpc("eth_blockNumber")

    amoy.gate.answers["eth_blockNumber"] = number
    patience = Patience(confirmations=2)
    try:
        Deploying(here.chain, FOUNDER, here.file, here.progress, here.genesis, patience=patience, say=say).run()
    finally:
        amoy.gate.answers.clear()
    assert int(amoy.rpc("eth_blockNumber"), 16) >= waited[0] + 2


def test_a_foreign_transaction_has_to_stay_before_a_step_is_signed_with_another_nonce(amoy: Network):
    """Until then a reorg could bring both to be mined: the one that was signed first, and the one that replaces it."""
    here = InProcess(amoy)
    here.stop_after(18)
    deploying = Deploying(here.chain, FOUNDER, here.file, here.progress, here.genesis)
    first = deploying._sign(deploying.steps[18], here.sent)
    here.foreign()
    taken_in = here.chain.w3.eth.block_number
    looked: list[int] = []

    def count(params: list[Any]) -> Any:
        if params[1] == "latest":  # once in each look at what became of it
            looked.append(here.chain.w3.eth.block_number)
            if len(looked) % 2 == 0:
                amoy.evm.mine()
        return amoy.rpc("eth_getTransactionCount", *params)

    def say(line: str) -> None:
        if "waiting for block" in line:
            amoy.evm.mine(5)

    amoy.gate.answers["eth_getTransactionCount"] = count
    patience = Patience(confirmations=5)
    try:
        Deploying(here.chain, FOUNDER, here.file, here.progress, here.genesis, patience=patience, say=say).run()
    finally:
        amoy.gate.answers.clear()
    second = next(a for a in here.progress.attempts if a.step == first.step and a.nonce != first.nonce)
    assert here.chain.w3.eth.get_transaction_receipt(second.hash)["blockNumber"] > taken_in + 5


def test_a_number_that_something_was_signed_for_is_not_used_again(amoy: Network):
    """Its transactions may be mined yet, and put a contract of the abandoned configuration where the new one's goes."""
    here = InProcess(amoy)
    connection: Any = SimpleNamespace(name=amoy.quirks.name, chain=here.chain)
    here.file.set_aside()
    assert next_run(here.chain, FOUNDER.address) == 0
    assert free_run(connection, here.file, FOUNDER.address) == 1
    assert free_run(connection, here.file, mnemonic_accounts(1)[0].address) == 0


def test_want_of_ether_halfway_is_said_and_made_up_for(amoy: Network):
    here = InProcess(amoy)
    here.stop_after(9)
    amoy.evm.set_balance(FOUNDER.address, 10**12)
    with pytest.raises(Misconfigured, match=r"ether on chain 80002, up to 0\.\d+ are needed: send it some"):
        here.run()
    assert here.sent == 9
    amoy.evm.set_balance(FOUNDER.address, ETHER)
    here.stop_after(12)
    assert here.sent == 12


def test_a_node_that_dies_costs_nothing(amoy: Network):
    here = InProcess(amoy)

    def die() -> None:
        amoy.gate.watch.is_down = True

    with pytest.raises(requests.RequestException):
        here.run(11, die)
    amoy.gate.watch.is_down = False
    here.stop_after(14)
    assert here.sent == 14


def test_nothing_is_sent_that_can_not_be_written_down_before(amoy: Network, monkeypatch: pytest.MonkeyPatch):
    here = InProcess(amoy)
    here.stop_after(3)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Misconfigured, match=r"No space left on device.*nothing more was sent"):
        here.run()
    monkeypatch.undo()
    assert here.sent == 3
    here.stop_after(6)
    assert here.sent == 6


def test_two_processes_do_not_deploy_from_one_folder(tmp_path: Path):
    file = ProgressFile(tmp_path / "x.partial.json")
    with (
        file.locked(),
        pytest.raises(Misconfigured, match="another process deploys from"),
        ProgressFile(tmp_path / "x.partial.json").locked(),
    ):
        raise AssertionError
    with file.locked():
        pass


def test_a_progress_file_that_can_not_be_read_is_no_reason_to_begin_anew(tmp_path: Path):
    path = tmp_path / "x.partial.json"
    path.write_text('{"format": "marketflow/deploying/1", "chain_id"')
    with pytest.raises(Misconfigured, match=r"is not the progress of a deployment .*: restore it, or move it away"):
        ProgressFile(path).load()
    assert ProgressFile(tmp_path / "none.json").load() is None
