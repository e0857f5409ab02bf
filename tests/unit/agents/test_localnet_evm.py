"""Both EVMs behave alike, say why they refuse, keep exact time, and leave nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from eth_account import Account as Keys
from web3.exceptions import ContractCustomError

from agents.contracts import decode_logs, third_party
from agents.localnet import anvil
from agents.localnet.evm import (
    BALANCE_WEI,
    CHAIN_ID,
    GENESIS_S,
    CallReverted,
    EvmUnavailable,
    LocalEvm,
    PortTaken,
    TransactionRefused,
    TransactionReverted,
    start_evm,
)

KINDS = [
    pytest.param("anvil", marks=pytest.mark.skipif(anvil.find_anvil() is None, reason="anvil is not installed")),
    "py-evm",
]
NOBODY = "0x" + "11" * 20
ETHER = 10**18


@pytest.fixture(params=KINDS)
def evm(request: pytest.FixtureRequest) -> Iterator[LocalEvm]:
    with start_evm(request.param) as started:
        yield started


@pytest.fixture
def token(evm: LocalEvm):
    return evm.deploy("MockToken", "Token", "TKN", 18, sender=evm.accounts[0])


# Refusals


def test_anvil_missing_names_the_way_out(monkeypatch):
    monkeypatch.setattr(anvil, "node_modules_roots", lambda: iter(()))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EvmUnavailable, match=r"make install.*py-evm"):
        start_evm("anvil")


def test_auto_without_anvil_is_py_evm(monkeypatch):
    monkeypatch.setattr(anvil, "find_anvil", lambda: None)
    with start_evm("auto") as evm:
        assert evm.name == "py-evm"
        assert evm.url is None


@pytest.mark.parametrize("kind", KINDS[:1])
def test_a_taken_port_is_refused(kind: str):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortTaken, match=str(other.getsockname()[1])):
            start_evm(kind, port=other.getsockname()[1])


def test_an_anvil_that_does_not_start_says_what_it_said(monkeypatch, tmp_path):
    broken = tmp_path / "anvil"
    broken.write_text("#!/bin/sh\necho no such option >&2\nexit 2\n")
    broken.chmod(0o755)
    monkeypatch.setattr(anvil, "find_anvil", lambda: broken)
    with pytest.raises(EvmUnavailable, match="no such option"):
        start_evm("anvil")
    with start_evm("auto") as evm:
        assert evm.name == "py-evm"


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="ganache"):
        start_evm("ganache")  # type: ignore[arg-type]


def test_a_reverted_transaction_says_which_error_with_its_arguments(evm: LocalEvm, token):
    depositor = evm.accounts[1]
    with pytest.raises(TransactionReverted) as caught:
        evm.send(token.functions.transfer(NOBODY, 5), depositor)
    assert caught.value.reason.name == "ERC20InsufficientBalance"
    assert caught.value.reason.args == {"sender": depositor.address, "balance": 0, "needed": 5}
    assert caught.value.receipt.status == 0


def test_a_transaction_out_of_gas_has_no_reason_and_used_all_its_gas(evm: LocalEvm, token):
    with pytest.raises(TransactionReverted, match="30000 of 30000") as caught:
        evm.send(token.functions.mint(NOBODY, 5), evm.accounts[0], gas=30_000)
    assert caught.value.reason.name == "NoReason"


def test_a_reverted_call_says_which_error(evm: LocalEvm, token):
    with pytest.raises(CallReverted) as caught:
        evm.call(token.functions.transfer(NOBODY, 5), evm.accounts[1])
    assert caught.value.reason.name == "ERC20InsufficientBalance"


def test_web3_itself_sees_the_custom_error(evm: LocalEvm, token):
    with pytest.raises(ContractCustomError) as caught:
        token.functions.transfer(NOBODY, 5).call({"from": evm.accounts[1].address})
    assert str(caught.value.data).startswith("0xe450d38c")


def test_a_reverted_constructor_says_why(evm: LocalEvm):
    nothing = "0x" + "00" * 20
    wallet = evm.deploy("SmartWallet", evm.accounts[0].address, sender=evm.accounts[0])
    with pytest.raises(TransactionReverted) as caught:
        evm.send(wallet.functions.execute(nothing, b""), evm.accounts[1])
    assert caught.value.reason.args == {"caller": evm.accounts[1].address}


@pytest.mark.parametrize(
    ("changes", "sender", "why"),
    [
        ({"value": 10**30}, None, "funds|balance"),
        ({"gas": 100}, None, "intrinsic gas"),
        ({"gas": 40_000_000}, None, "gas"),
        ({}, NOBODY, "[Ss]igner|key"),
    ],
)
def test_what_the_node_does_not_take_is_refused_and_mines_nothing(evm: LocalEvm, changes: dict, sender, why: str):
    with pytest.raises(TransactionRefused, match=why):
        evm.send({"to": NOBODY}, sender or evm.accounts[0], **changes)
    assert evm.w3.eth.block_number == 0


def test_a_raw_transaction_with_a_used_or_future_nonce_is_not_mined(evm: LocalEvm):
    sender = evm.accounts[0]
    order = {"to": NOBODY, "value": 1, "gas": 21_000, "gasPrice": 10**9, "chainId": CHAIN_ID, "nonce": 0}
    signed = Keys.sign_transaction(order, sender.key)
    assert evm.send_raw(signed.raw_transaction).transactionHash == signed.hash
    with pytest.raises(TransactionRefused, match=r"already|nonce"):
        evm.send_raw(signed.raw_transaction)
    other = Keys.sign_transaction({**order, "value": 2}, sender.key)
    with pytest.raises(TransactionRefused, match="nonce"):
        evm.send_raw(other.raw_transaction)
    future = Keys.sign_transaction({**order, "nonce": 5}, sender.key)
    with pytest.raises(TransactionRefused, match="nonce"):
        evm.send_raw(future.raw_transaction)
    assert evm.w3.eth.block_number == 1


def test_a_raw_transaction_for_another_chain_is_refused(evm: LocalEvm):
    order = {"to": NOBODY, "value": 1, "gas": 21_000, "gasPrice": 10**9, "chainId": 1, "nonce": 0}
    with pytest.raises(TransactionRefused):
        evm.send_raw(Keys.sign_transaction(order, evm.accounts[0].key).raw_transaction)


def test_rubbish_is_refused(evm: LocalEvm):
    with pytest.raises(TransactionRefused, match="decode"):
        evm.send_raw(b"\x01\x02")


def test_time_does_not_go_back_or_stand_still(evm: LocalEvm):
    for moment in (GENESIS_S - 1, GENESIS_S):
        with pytest.raises(ValueError, match="cannot travel"):
            evm.travel_to(moment)


def test_a_contract_larger_than_the_limit_is_refused(evm: LocalEvm):
    # PUSH2 24577, PUSH1 0, RETURN
    with pytest.raises(TransactionReverted):
        evm.send({"data": "0x6160015f f3".replace(" ", "")}, evm.accounts[0])
    assert evm.send({"data": "0x6160005ff3"}, evm.accounts[0]).status == 1


def test_an_interface_cannot_be_deployed(evm: LocalEvm):
    abstract = type(third_party("WETH9"))("IThing", [], b"")
    with pytest.raises(ValueError, match="IThing"):
        evm.deploy(abstract, sender=evm.accounts[0])


def test_an_unknown_snapshot_is_refused(evm: LocalEvm):
    with pytest.raises(KeyError):
        evm.revert(1)


# Time


def test_each_block_is_one_second_after_the_one_before(evm: LocalEvm, token):
    assert evm.now_s() == GENESIS_S + 1
    receipt = evm.send(token.functions.mint(NOBODY, 1), evm.accounts[0])
    assert evm.w3.eth.get_block(receipt.blockNumber)["timestamp"] == evm.now_s() == GENESIS_S + 2
    evm.mine(3)
    assert evm.now_s() == GENESIS_S + 5


def test_travelling_is_exact_and_blocks_go_on_from_there(evm: LocalEvm):
    evm.travel_to(GENESIS_S + 1000)
    assert evm.now_s() == GENESIS_S + 1000
    evm.travel(86_400)
    assert evm.now_s() == GENESIS_S + 87_400
    evm.send({"to": NOBODY}, evm.accounts[0])
    assert evm.now_s() == GENESIS_S + 87_401
    evm.next_block_at(GENESIS_S + 90_000)
    evm.send({"to": NOBODY}, evm.accounts[0])
    assert evm.now_s() == GENESIS_S + 90_000


def test_a_chain_can_begin_at_any_time(evm: LocalEvm):
    with start_evm(evm.name, timestamp_s=1_583_971_200) as then:  # type: ignore[arg-type]
        assert then.now_s() == 1_583_971_200


def test_a_call_sees_the_time_of_the_block_it_is_pinned_to(evm: LocalEvm):
    evm.travel_to(GENESIS_S + 500)
    timestamp = {"data": "0x425f5260205ff3"}  # TIMESTAMP, PUSH0, MSTORE, PUSH1 32, PUSH0, RETURN
    assert int.from_bytes(evm.call(timestamp), "big") == GENESIS_S + 500
    assert int.from_bytes(evm.call(timestamp, block=0), "big") == GENESIS_S


def test_a_snapshot_brings_back_state_and_time_any_number_of_times(evm: LocalEvm, token):
    owner = evm.accounts[0]
    evm.send(token.functions.mint(owner.address, 5), owner)
    snapshot, then_s, block = evm.snapshot(), evm.now_s(), evm.w3.eth.block_number
    for _ in range(3):
        evm.next_block_at(then_s + 100)
        evm.send(token.functions.transfer(NOBODY, 3), owner)
        evm.travel(1000)
        inner = evm.snapshot()
        evm.revert(snapshot)
        assert evm.call(token.functions.balanceOf(owner.address)) == 5
        assert evm.now_s() == then_s
        assert evm.w3.eth.block_number == block
        with pytest.raises(KeyError):
            evm.revert(inner)
    evm.mine()
    assert evm.now_s() == then_s + 1


def test_time_set_for_the_next_block_is_forgotten_by_a_revert(evm: LocalEvm):
    snapshot = evm.snapshot()
    evm.next_block_at(GENESIS_S + 1000)
    evm.revert(snapshot)
    evm.mine()
    assert evm.now_s() == GENESIS_S + 1


# State and calls


def test_accounts_are_those_of_the_test_mnemonic_and_funded(evm: LocalEvm):
    assert evm.accounts[0].address == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    assert len(evm.accounts) == 20
    assert [Keys.from_key(a.key).address for a in evm.accounts] == [a.address for a in evm.accounts]
    assert evm.w3.eth.get_balance(evm.accounts[19].address) == BALANCE_WEI
    assert evm.w3.eth.chain_id == CHAIN_ID
    assert list(evm.w3.eth.accounts) == [a.address for a in evm.accounts]


def test_earlier_blocks_can_be_read_as_they_were(evm: LocalEvm, token):
    owner = evm.accounts[0]
    balances = {}
    for _ in range(4):
        receipt = evm.send(token.functions.mint(owner.address, 5), owner)
        balances[receipt.blockNumber] = evm.call(token.functions.balanceOf(owner.address))
    for block, balance in balances.items():
        assert evm.call(token.functions.balanceOf(owner.address), block=block) == balance
        assert token.functions.balanceOf(owner.address).call(block_identifier=block) == balance
        assert evm.w3.eth.get_transaction_count(owner.address, block) == block
    assert evm.w3.eth.get_code(token.address, 0) == b""


def test_ether_and_code_can_be_put_anywhere(evm: LocalEvm):
    evm.set_balance(NOBODY, 7 * ETHER)
    evm.set_code(NOBODY, bytes.fromhex("602a5f5260205ff3"))
    assert evm.w3.eth.get_balance(NOBODY) == 7 * ETHER
    assert int.from_bytes(evm.call({"to": NOBODY}), "big") == 42
    assert evm.w3.eth.block_number == 0


def test_an_impersonated_contract_can_send(evm: LocalEvm, token):
    evm.send(token.functions.mint(token.address, 5), evm.accounts[0])
    evm.impersonate(token.address)
    receipt = evm.send(token.functions.transfer(NOBODY, 5), token.address)
    assert receipt["from"] == token.address
    assert evm.call(token.functions.balanceOf(NOBODY)) == 5


def test_receipts_logs_and_blocks_agree_with_web3(evm: LocalEvm, token):
    receipt = evm.send(token.functions.mint(NOBODY, 5), evm.accounts[0])
    assert [(log.name, log.args["value"]) for log in decode_logs(receipt)] == [("Transfer", 5)]
    from_web3 = evm.w3.eth.get_transaction_receipt(receipt.transactionHash)
    assert all(from_web3[key] == value for key, value in receipt.items() if key != "logs")
    assert token.events.Transfer().process_receipt(receipt) == token.events.Transfer().process_receipt(from_web3)
    assert token.events.Transfer().get_logs(from_block=0)[0]["args"]["value"] == 5
    assert token.events.Transfer().get_logs(from_block=0, argument_filters={"to": token.address}) == []
    transaction = evm.w3.eth.get_transaction(receipt.transactionHash)
    assert (transaction["from"], transaction["to"]) == (evm.accounts[0].address, token.address)
    block = evm.w3.eth.get_block(receipt.blockNumber, full_transactions=True)
    assert block["transactions"][0]["hash"] == receipt.transactionHash
    assert evm.w3.eth.get_block(block["hash"])["number"] == receipt.blockNumber


def test_web3_can_send_with_its_own_estimate_and_fees(evm: LocalEvm, token):
    mint, sender = token.functions.mint(NOBODY, 5), {"from": evm.accounts[3].address}
    estimate = mint.estimate_gas(sender)
    receipt = evm.w3.eth.wait_for_transaction_receipt(mint.transact(sender), poll_latency=0.01)
    assert receipt["status"] == 1
    assert receipt["type"] == 2
    assert receipt["gasUsed"] <= estimate < receipt["gasUsed"] * 1.1


# Repeatable


def scenario(evm: LocalEvm) -> list[object]:
    """Everything a run can be told by: hashes, gas, logs, times, balances."""
    owner, other = evm.accounts[:2]
    token = evm.deploy("FaultyToken", "Token", "TKN", 18, sender=owner)
    rebasing = evm.deploy("RebasingToken", 6, sender=owner)
    wallet = evm.deploy("SmartWallet", owner.address, sender=owner)
    weth = evm.deploy(third_party("WETH9"), sender=owner)
    give = rebasing.encode_abi("transfer", [NOBODY, 5])
    evm.deploy(third_party("UniswapV3Factory"), sender=owner)
    steps = [
        lambda: evm.send(token.functions.mint(owner.address, 1000), owner),
        lambda: evm.send(token.functions.setFeeBps(100), owner),
        lambda: evm.send(token.functions.transfer(other.address, 1000), owner),
        # Storage set and cleared in one transaction, and a call inside that reverts.
        lambda: evm.send(token.functions.setHook(weth.address, weth.encode_abi("withdraw", [1])), owner),
        lambda: evm.send(token.functions.transfer(owner.address, 990), other),
        lambda: evm.send(token.functions.setDead(True), owner),
        lambda: evm.send(token.functions.transfer(owner.address, 1), owner),
        lambda: evm.send(token.functions.setDead(False), owner),
        lambda: evm.send(weth.functions.deposit(), owner, value=ETHER),
        lambda: evm.send(weth.functions.withdraw(ETHER), owner),
        lambda: evm.send(rebasing.functions.mint(wallet.address, 10**6), other),
        lambda: evm.send(rebasing.functions.rebase(5 * 10**17), owner),
        lambda: evm.send(wallet.functions.execute(rebasing.address, give), owner),
        lambda: evm.send({"to": NOBODY, "data": b"\xff" * 500}, other, value=3),
        lambda: evm.send({"data": "0x5b5f56"}, owner, gas=100_000),
        # More than half a block of gas would raise the base fee if there were one.
        lambda: evm.send({"data": "0xfe"}, owner, gas=20_000_000),
        lambda: evm.send({"to": NOBODY}, other, value=3),
        lambda: evm.impersonate(weth.address),
        lambda: evm.send(token.functions.approve(NOBODY, 1), weth.address),
        lambda: evm.send({"to": NOBODY}, other, value=3),
        lambda: evm.travel(3600),
        lambda: evm.send({"to": wallet.address}, other, value=3),
    ]
    told: list[object] = []
    for step in steps:
        try:
            receipt = step()
        except TransactionReverted as error:
            receipt = error.receipt
            told.append(str(error))
        if receipt:
            logs = [(log["address"], [t.hex() for t in log["topics"]], log["data"].hex()) for log in receipt["logs"]]
            # What an impersonated sender signs with is each node's own affair.
            name = receipt.transactionHash.hex() if receipt["from"] != weth.address else ""
            told.append((name, receipt.status, receipt.gasUsed, logs))
        told += [evm.now_s(), evm.w3.eth.get_block("latest")["baseFeePerGas"]]
    told += [evm.w3.eth.get_balance(who) for who in (owner.address, other.address, NOBODY, "0x" + "00" * 20)]
    return told


def test_two_runs_tell_the_same_to_the_last_bit(evm: LocalEvm):
    with start_evm(evm.name) as again:  # type: ignore[arg-type]
        assert scenario(evm) == scenario(again)


@pytest.mark.parametrize("kind", KINDS[:1])
def test_both_evms_tell_the_same_to_the_last_bit(kind: str):
    with start_evm(kind) as process, start_evm("py-evm") as inside:
        assert scenario(process) == scenario(inside)


def test_on_py_evm_the_block_hashes_repeat_too():
    with start_evm("py-evm") as one, start_evm("py-evm") as two:
        scenario(one)
        scenario(two)
        assert one.w3.eth.get_block("latest") == two.w3.eth.get_block("latest")


# Nothing left behind

STARTS_ANVIL = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a background job of a shell inherits ignores it
from agents.localnet import start_evm
evm = start_evm("anvil")
if sys.argv[1] == "fork" and os.fork() == 0:
    time.sleep(3)  # holds copies of every pipe for a while
    os._exit(0)
print(evm.url.rsplit(":", 1)[1], flush=True)
if sys.argv[1] == "raise":
    with evm:
        raise RuntimeError
if sys.argv[1] == "fork":
    evm.close()
    print("closed", flush=True)
time.sleep(60)
"""


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("kind", KINDS[:1])
@pytest.mark.parametrize("end", ["kill", "terminate", "interrupt", "raise", "fork"])
def test_no_anvil_outlives_its_parent(kind: str, end: str):
    command = [sys.executable, "-c", STARTS_ANVIL, end]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        if end == "fork":
            assert parent.stdout.readline() == b"closed\n"
            assert not listens(port)
        else:
            assert end == "raise" or listens(port)
        if end in ("kill", "terminate", "interrupt"):
            number = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}[end]
            os.kill(parent.pid, number)
        elif end == "fork":
            parent.kill()
        parent.wait(timeout=30)
        deadline = time.monotonic() + 10
        while listens(port) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not listens(port)


@pytest.mark.parametrize("kind", KINDS[:1])
def test_an_anvil_behind_a_wrapper_goes_too(kind: str, monkeypatch, tmp_path):
    wrapper = tmp_path / "anvil"
    wrapper.write_text(f'#!/bin/sh\n"{anvil.find_anvil()}" "$@"\nexit $?\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(anvil, "find_anvil", lambda: wrapper)
    with start_evm(kind) as evm:  # type: ignore[arg-type]
        assert evm.url
        port = int(evm.url.rsplit(":", 1)[1])
        assert listens(port)
    deadline = time.monotonic() + 10
    while listens(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not listens(port)


@pytest.mark.parametrize("kind", KINDS[:1])
def test_anvil_leaves_no_files_and_refuses_blocks_it_has_forgotten(kind: str, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with start_evm(kind, history_blocks=5) as evm:  # type: ignore[arg-type]
        evm.mine(20)
        assert evm.call({"to": NOBODY}, block=16) == b""
        with pytest.raises(CallReverted, match="BlockOutOfRange"):
            evm.call({"to": NOBODY}, block=10)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_closing_again_does_nothing(evm: LocalEvm):
    evm.close()
    evm.close()
    assert evm.url is None or not listens(int(evm.url.rsplit(":", 1)[1]))
