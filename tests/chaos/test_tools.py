"""The fault laboratory does what it says, to a real node, real connections, a real file and a real process."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_utils import keccak

from agents.localnet.evm import LocalEvm, start_evm
from tests.chaos.chainlab import GWEI, ChainLab, Fate, LabError, Mined
from tests.chaos.faults import Crash, CrashPoints, FullDisk, SkewedClock, full_sqlite
from tests.chaos.proxy import ChaosProxy, Decision, Fault, Kind, Plan, decide, kind_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def node() -> Iterator[LocalEvm]:
    with start_evm("anvil", accounts=6) as evm:
        yield evm


@pytest.fixture
def evm(node: LocalEvm) -> Iterator[LocalEvm]:
    """As it was when it started, with a pool that is empty."""
    lab, snapshot = ChainLab(node), node.snapshot()
    yield node
    lab.drop_all()
    lab.release_mining()
    node.revert(snapshot)
    lab.set_base_fee(0)


@pytest.fixture
def lab(evm: LocalEvm) -> ChainLab:
    return ChainLab(evm)


@pytest.fixture
def key(evm: LocalEvm) -> bytes:
    """The agent's."""
    return bytes(evm.accounts[0].key)


@pytest.fixture
def agent(evm: LocalEvm) -> str:
    return evm.accounts[0].address


def mined(lab: ChainLab, key: bytes, count: int, **fields: Any) -> list[str]:
    """Transactions in a block each."""
    return [lab.foreign_transaction(key, **fields) for _ in range(count)]


# Reorgs


def test_reorg_deeper_than_the_chain_is_refused(lab: ChainLab) -> None:
    lab.mine()
    with pytest.raises(ValueError, match="reorg of 9 blocks"):
        lab.reorg(9)


def test_reorg_replaces_the_blocks_and_forgets_what_was_in_them(lab: ChainLab, key: bytes, agent: str) -> None:
    first, *lost = mined(lab, key, 4)
    head = lab.head()
    reorged = lab.reorg(3)
    assert set(reorged.old_hashes).isdisjoint(reorged.new_hashes) and len(reorged.new_hashes) == 3
    assert reorged.gone == tuple(lost) and (lab.head(), lab.nonce(agent)) == (head, 1)
    assert lab.receipt(first) and not lab.pool()
    assert all(lab.rpc("eth_getTransactionByHash", gone) is None for gone in lost)


def test_reorg_takes_back_what_the_transactions_did(lab: ChainLab, evm: LocalEvm, key: bytes) -> None:
    before = evm.w3.eth.get_balance(evm.accounts[1].address)
    mined(lab, key, 2, to=evm.accounts[1].address, value_wei=5)
    lab.reorg(1)
    assert evm.w3.eth.get_balance(evm.accounts[1].address) == before + 5


@pytest.mark.parametrize("depth", range(1, 7))
def test_reorg_keeps_transactions_in_other_blocks_at_the_same_height(lab: ChainLab, key: bytes, depth: int) -> None:
    hashes = mined(lab, key, 6)
    before = [lab.receipt(each) for each in hashes]
    assert lab.reorg(depth, Fate.KEPT).gone == ()
    after = [lab.receipt(each) for each in hashes]
    assert [each["blockNumber"] for each in before if each] == [each["blockNumber"] for each in after if each]
    assert [a and b and a["blockHash"] == b["blockHash"] for a, b in zip(before, after, strict=True)] == (
        [True] * (6 - depth) + [False] * depth
    )


def test_reorg_keeps_times_and_base_fees_but_in_one_step_only_the_first_fee(lab: ChainLab, key: bytes) -> None:
    lab.set_base_fee(8 * GWEI)
    mined(lab, key, 1)
    lab.jump_clock(3_600)
    mined(lab, key, 1)
    lab.jump_clock(600)
    before, next_fee_wei, miner = (
        [lab._slot(number) for number in range(1, 5)],
        lab.base_fee_wei(),
        lab.rpc("eth_coinbase"),
    )
    lab.reorg(4, Fate.KEPT)
    assert (lab.base_fee_wei(), lab.rpc("eth_coinbase")) == (next_fee_wei, miner)
    after = [lab._slot(number) for number in range(1, 5)]
    assert [(b.timestamp_s, b.base_fee_wei) for b in after] == [(b.timestamp_s, b.base_fee_wei) for b in before]
    lab.reorg(4, Fate.KEPT, exact_times=False)
    at_once = [lab._slot(number) for number in range(1, 5)]
    assert at_once[0].base_fee_wei == 8 * GWEI
    assert [b.timestamp_s - at_once[0].timestamp_s for b in at_once] == [0, 1, 2, 3]


@pytest.mark.parametrize("exact_times", [True, False])
def test_reorg_moves_transactions_between_blocks(lab: ChainLab, evm: LocalEvm, exact_times: bool) -> None:
    (early,), (late,) = (mined(lab, bytes(account.key), 1) for account in evm.accounts[:2])
    swap: Callable[[Mined], Fate] = lambda tx: Fate.LATER if tx.hash == early else Fate.SOONER  # noqa: E731
    reorged = lab.reorg(2, swap, exact_times=exact_times)
    assert reorged.gone == ()
    assert [int(lab.receipt(each)["blockNumber"], 16) - reorged.first_block for each in (early, late)] == [1, 0]  # type: ignore[index]


def test_reorg_in_one_step_orders_a_block_as_told(lab: ChainLab, evm: LocalEvm) -> None:
    with lab.held_mining():
        sent = [mined(lab, bytes(account.key), 1)[0] for account in evm.accounts[:3]]
        lab.mine()
    order = [tx.hash for tx in lab.transactions(1, 1)]
    rivals = [tx.raw for tx in reversed(lab.transactions(1, 1)) if tx.raw]
    lab.reorg(1, insert=rivals, exact_times=False)
    assert sorted(order) == sorted(sent) and [tx.hash for tx in lab.transactions(1, 1)] == order[::-1]


def test_reorg_returns_transactions_to_the_pool_while_mining_is_held(lab: ChainLab, key: bytes, agent: str) -> None:
    hashes = mined(lab, key, 3)
    lab.hold_mining()
    reorged = lab.reorg(2, Fate.RETURNED)
    assert reorged.gone == tuple(hashes[1:]) == tuple(tx.hash for tx in lab.pool())
    assert (lab.nonce(agent), lab.nonce(agent, pending=True)) == (1, 3)
    lab.mine()
    assert all(lab.receipt(each) for each in hashes)


def test_reorg_can_put_a_rival_with_the_same_nonce_in_the_place_of_what_was_mined(lab: ChainLab, key: bytes) -> None:
    (ours,) = mined(lab, key, 1)
    rival = lab.sign(key, nonce=0, value_wei=1)
    reorged = lab.reorg(1, Fate.KEPT, insert=[rival], exact_times=False)
    assert reorged.gone == (ours,) and lab.receipt("0x" + keccak(rival).hex())
    with pytest.raises(LabError, match="nonce too low"):
        lab.send_raw(lab.sign(key, nonce=0))


@pytest.mark.parametrize("exact_times", [True, False])
def test_reorg_keeps_what_an_impersonated_account_did(lab: ChainLab, evm: LocalEvm, exact_times: bool) -> None:
    nobody = "0x" + "ab" * 20
    evm.set_balance(nobody, 10**18)
    evm.impersonate(nobody)
    sent = [evm.send({"to": evm.accounts[1].address}, nobody, value=7) for _ in range(2)]
    assert lab.reorg(2, Fate.KEPT, exact_times=exact_times).gone == ()
    assert all(lab.receipt("0x" + receipt["transactionHash"].hex()) for receipt in sent)


def test_reorg_leaves_the_pool_alone_and_may_end_in_a_longer_chain(lab: ChainLab, evm: LocalEvm, key: bytes) -> None:
    mined(lab, key, 2)
    with lab.held_mining():
        (waiting,) = mined(lab, bytes(evm.accounts[1].key), 1)
        for exact_times in (True, False):
            head = lab.head()
            lab.reorg(2, longer_by=1, exact_times=exact_times)
            assert lab.head() == head + 1 and [tx.hash for tx in lab.pool()] == [waiting]
    assert lab.receipt(waiting)


def test_a_shortened_chain_is_a_prefix_of_what_it_was(lab: ChainLab) -> None:
    lab.mine(5)
    hashes = [lab.block_hash(number) for number in range(4)]
    lab.shorten(2)
    assert lab.head() == 3 and [lab.block_hash(number) for number in range(4)] == hashes


# The pool, nonces, fees


def test_the_key_is_used_from_outside(lab: ChainLab, key: bytes, agent: str) -> None:
    ours = lab.sign(key, nonce=0, value_wei=1)
    foreign = lab.foreign_transaction(key)
    assert lab.receipt(foreign) and lab.nonce(agent) == 1
    with pytest.raises(LabError, match=r"^eth_sendRawTransaction: nonce too low$"):
        lab.send_raw(ours)


def test_held_mining_lets_transactions_wait_and_then_mines_them(lab: ChainLab, key: bytes, agent: str) -> None:
    with lab.held_mining():
        hashes = mined(lab, key, 3)
        assert [tx.hash for tx in lab.pool()] == hashes and not any(map(lab.receipt, hashes))
        assert (lab.nonce(agent), lab.nonce(agent, pending=True)) == (0, 3)
    assert all(map(lab.receipt, hashes))


def test_a_dropped_transaction_takes_later_nonces_with_it_and_may_come_again(lab: ChainLab, key: bytes) -> None:
    lab.hold_mining()
    hashes = mined(lab, key, 3)
    raws = {tx.hash: tx.raw for tx in lab.pool()}
    assert lab.drop_transaction(hashes[1]) == {hashes[1], hashes[2]}
    lab.mine()
    assert lab.receipt(hashes[0]) and lab.rpc("eth_getTransactionByHash", hashes[1]) is None
    assert [lab.send_raw(raws[each]) for each in hashes[1:]] == hashes[1:]
    lab.mine()
    assert all(map(lab.receipt, hashes))


def test_a_pending_transaction_is_replaced_by_another_of_its_nonce(lab: ChainLab, key: bytes, agent: str) -> None:
    lab.hold_mining()
    (ours,) = mined(lab, key, 1)
    other = lab.replace_pending(ours, key)
    assert [tx.hash for tx in lab.pool()] == [other]
    lab.mine()
    assert lab.receipt(other) and lab.rpc("eth_getTransactionByHash", ours) is None and lab.nonce(agent) == 1
    with pytest.raises(KeyError):
        lab.replace_pending(other, key)


def test_a_base_fee_above_what_a_transaction_pays_leaves_it_stuck_until_it_is_bumped(lab: ChainLab, key: bytes) -> None:
    lab.hold_mining()
    lab.set_base_fee(GWEI)
    stuck = lab.foreign_transaction(key, fee_wei=2 * GWEI, tip_wei=GWEI)
    lab.congest(5 * GWEI, blocks=3)
    assert [tx.hash for tx in lab.pool()] == [stuck] and lab.base_fee_wei() == 5 * GWEI
    with pytest.raises(LabError, match="max fee per gas less than block base fee"):
        lab.send_raw(lab.sign(key, nonce=0, fee_wei=4 * GWEI))
    bumped = lab.send_raw(lab.sign(key, nonce=0, fee_wei=9 * GWEI, tip_wei=2 * GWEI))
    lab.mine()
    assert lab.receipt(bumped) and not lab.receipt(stuck) and not lab.pool()


def test_a_block_with_room_throws_out_what_pays_too_little(lab: ChainLab, key: bytes, agent: str) -> None:
    lab.hold_mining()
    lab.set_base_fee(GWEI)
    cheap = lab.foreign_transaction(key, fee_wei=2 * GWEI)
    lab.set_base_fee(5 * GWEI)
    lab.mine()
    assert not lab.pool() and lab.rpc("eth_getTransactionByHash", cheap) is None
    assert lab.nonce(agent, pending=True) == 0


def test_the_base_fee_moves_by_an_eighth_and_zero_stays(lab: ChainLab) -> None:
    lab.mine(2)
    assert lab.base_fee_wei() == 0
    lab.set_base_fee(8 * GWEI)
    lab.mine()
    assert lab.base_fee_wei() == 7 * GWEI


REFUSALS = {
    "nonce too low": {"nonce": 0},
    "replacement transaction underpriced": {"nonce": 1, "value_wei": 1, "fee_wei": 20 * GWEI},
    "transaction already imported": {"nonce": 1, "fee_wei": 20 * GWEI},
    "Insufficient funds for gas * price + value": {"nonce": 2, "value_wei": 10**30},
    "max fee per gas less than block base fee": {"nonce": 2, "fee_wei": GWEI},
    "intrinsic gas too low": {"nonce": 2, "gas": 20_000},
    "invalid chain id for signer": {"nonce": 2, "chain_id": 1},
}


@pytest.mark.parametrize("words", REFUSALS)
def test_the_nodes_words_for_what_it_refuses(lab: ChainLab, key: bytes, words: str) -> None:
    lab.set_base_fee(5 * GWEI)
    mined(lab, key, 1)
    lab.hold_mining()
    lab.foreign_transaction(key, fee_wei=20 * GWEI)
    with pytest.raises(LabError) as refused:
        lab.send_raw(lab.sign(key, **REFUSALS[words]))
    assert refused.value.message == words


def test_one_wei_more_is_a_replacement_for_anvil_but_not_as_geth(lab: ChainLab, key: bytes) -> None:
    lab.hold_mining()
    lab.foreign_transaction(key, fee_wei=20 * GWEI, tip_wei=GWEI)
    lab.send_raw(lab.sign(key, nonce=0, fee_wei=20 * GWEI + 1, tip_wei=GWEI))
    with ChaosProxy(lab.evm.url or "", 1, Plan(as_geth=True)) as proxy:
        little, tipless, enough = (
            lab.sign(key, nonce=0, fee_wei=fee * GWEI, tip_wei=tip)
            for fee, tip in ((21, 2 * GWEI), (23, GWEI), (23, 2 * GWEI))
        )
        words = [send(proxy, raw).get("error", {}).get("message") for raw in (little, tipless, enough, enough)]
    underpriced = "replacement transaction underpriced"
    assert words == [underpriced, underpriced, None, "already known"]
    assert [tx.hash for tx in lab.pool()] == ["0x" + keccak(enough).hex()]


# The clock of the chain


@pytest.mark.parametrize("seconds", [86_400, -600])
def test_the_chains_clock_jumps(lab: ChainLab, evm: LocalEvm, seconds: int) -> None:
    lab.mine(2)
    before_s = evm.now_s()
    after_s = lab.jump_clock(seconds)
    assert abs(after_s - before_s - seconds) <= 1


# The proxy


def post(proxy: ChaosProxy, asked: Any) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body. Raises ConnectionResetError and what else a client meets."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    try:
        connection.request("POST", "/", json.dumps(asked), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def ask(proxy: ChaosProxy, method: str, *params: Any) -> Any:
    """The whole answer."""
    return json.loads(post(proxy, call(method, *params))[2])


def call(method: str, *params: Any, identity: int = 7) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identity, "method": method, "params": list(params)}


def send(proxy: ChaosProxy, raw: bytes) -> Any:
    return ask(proxy, "eth_sendRawTransaction", "0x" + raw.hex())


@pytest.fixture
def proxy(evm: LocalEvm) -> Iterator[ChaosProxy]:
    """Does nothing of itself."""
    with ChaosProxy(evm.url or "", 1) as proxy:
        yield proxy


def test_without_a_plan_the_proxy_is_the_node(proxy: ChaosProxy, evm: LocalEvm) -> None:
    assert ask(proxy, "eth_chainId") == {"jsonrpc": "2.0", "id": 7, "result": "0x7a69"}
    batch = json.loads(post(proxy, [call("eth_chainId", identity=1), call("eth_blockNumber", identity=2)])[2])
    assert [each["id"] for each in batch] == [1, 2] and not proxy.faults()
    assert b"error" in post(proxy, "no call")[2]


def test_a_drop_before_leaves_the_node_unaware_and_a_drop_after_does_not(
    proxy: ChaosProxy, lab: ChainLab, key: bytes
) -> None:
    raw = lab.sign(key, nonce=0)
    for fault, receipt in ((Fault.DROP_BEFORE, False), (Fault.DROP_AFTER, True)):
        proxy.force("eth_sendRawTransaction", fault)
        with pytest.raises(ConnectionResetError) as reset:
            send(proxy, raw)
        assert reset.type is ConnectionResetError  # http.client's own for an orderly end is a kind of it
        lab.settle()
        assert bool(lab.receipt("0x" + keccak(raw).hex())) is receipt
    assert send(proxy, raw)["error"]["message"] == "nonce too low"


def test_a_swallowed_transaction_is_answered_with_its_hash_and_never_arrives(
    proxy: ChaosProxy, lab: ChainLab, key: bytes
) -> None:
    raw = lab.sign(key, nonce=0)
    proxy.force("eth_sendRawTransaction", Fault.SWALLOW)
    assert send(proxy, raw)["result"] == "0x" + keccak(raw).hex()
    assert lab.receipt("0x" + keccak(raw).hex()) is None and not lab.pool()
    sent = send(proxy, raw)["result"]
    lab.settle()
    assert lab.receipt(sent)


def test_a_duplicate_reaches_the_node_twice(proxy: ChaosProxy, lab: ChainLab, key: bytes) -> None:
    lab.hold_mining()
    answers = []
    for nonce in range(6):
        proxy.force("eth_sendRawTransaction", Fault.DUPLICATE)
        answers.append(send(proxy, lab.sign(key, nonce=nonce)))
    told = Counter("error" in each and each["error"]["message"] for each in answers)
    assert set(told) == {False, "transaction already imported"} and len(lab.pool()) == 6


def test_a_held_back_request_arrives_after_a_later_one(evm: LocalEvm, lab: ChainLab, key: bytes) -> None:
    lab.hold_mining()
    arrived: list[str] = []
    with ChaosProxy(evm.url or "", 1, Plan(hold_ms=20_000)) as proxy:
        proxy.force("eth_sendRawTransaction", Fault.REORDER, None)
        held = threading.Thread(target=lambda: arrived.append(send(proxy, lab.sign(key, nonce=0))["result"]))
        held.start()
        while not proxy.log:
            pass
        later = send(proxy, lab.sign(key, nonce=1))["result"]
        assert later == lab.pool()[-1].hash
        held.join()
    assert [tx.hash for tx in lab.pool()] == [*arrived, later]


@pytest.mark.parametrize("fault", [Fault.TRUNCATED, Fault.EMPTY, Fault.BAD_GATEWAY])
def test_a_spoiled_answer_is_no_json(proxy: ChaosProxy, fault: Fault) -> None:
    proxy.force("eth_chainId", fault)
    status, headers, body = post(proxy, call("eth_chainId"))
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|Extra"):
        json.loads(body)
    assert (status, headers["Content-Type"]) == (
        (502, "text/html") if fault is Fault.BAD_GATEWAY else (200, "application/json")
    )


def test_an_answer_has_another_id_or_another_digit(proxy: ChaosProxy) -> None:
    proxy.force("eth_chainId", Fault.WRONG_ID, Fault.BIT_FLIP)
    assert ask(proxy, "eth_chainId")["id"] == 8
    flipped = int(ask(proxy, "eth_chainId")["result"], 16) ^ 0x7A69
    assert flipped.bit_count() == 1


def test_a_rate_limit_says_when_to_come_again(proxy: ChaosProxy) -> None:
    proxy.force("eth_chainId", Fault.RATE_LIMIT)
    status, headers, body = post(proxy, call("eth_chainId"))
    assert (status, headers["Retry-After"], json.loads(body)["error"]["code"]) == (429, "1", -32005)


def test_a_node_that_is_behind_is_behind_in_all_it_says(
    proxy: ChaosProxy, lab: ChainLab, key: bytes, agent: str
) -> None:
    (late,) = mined(lab, key, 3)[-1:]
    proxy.lag(2)
    assert ask(proxy, "eth_blockNumber")["result"] == "0x1"
    assert ask(proxy, "eth_getBlockByNumber", "latest", False)["result"]["hash"] == lab.block_hash(1)
    assert ask(proxy, "eth_getBlockByNumber", "0x2", False)["result"] is None
    assert ask(proxy, "eth_getTransactionCount", agent, "latest")["result"] == "0x1"
    assert ask(proxy, "eth_getTransactionReceipt", late)["result"] is None
    assert ask(proxy, "eth_call", {"to": agent}, "0x3")["error"]["message"] == "header not found"
    proxy.lag(0)
    assert ask(proxy, "eth_getTransactionReceipt", late)["result"]["blockNumber"] == "0x3"
    proxy.force("eth_blockNumber", Fault.BEHIND)
    assert int(ask(proxy, "eth_blockNumber")["result"], 16) < 3


def test_a_batch_is_dropped_as_a_whole_and_lied_to_call_by_call(proxy: ChaosProxy, lab: ChainLab) -> None:
    lab.mine(9)
    batch = [call("eth_blockNumber", identity=1), call("eth_chainId", identity=2), call("eth_chainId", identity=3)]
    proxy.force("eth_chainId", None, Fault.DROP_AFTER)
    with pytest.raises(ConnectionResetError):
        post(proxy, batch)
    proxy.force("eth_blockNumber", Fault.BEHIND)
    proxy.force("eth_chainId", Fault.WRONG_ID, None)
    head, *others = json.loads(post(proxy, batch)[2])
    assert int(head["result"], 16) < 9 and [each["id"] for each in others] == [3, 3]


def test_a_cut_line_and_a_held_one_come_back(proxy: ChaosProxy, lab: ChainLab) -> None:
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        ask(proxy, "eth_chainId")
    proxy.cut(off=False)
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(ask(proxy, "eth_blockNumber")["result"]))
    with proxy.held():
        waiting.start()
        waiting.join(0.05)
        lab.mine(3)
    waiting.join()
    assert answers == ["0x3"]


def test_a_node_that_is_gone_is_a_bad_gateway(lab: ChainLab) -> None:
    with start_evm("anvil", accounts=1) as gone:
        url = gone.url or ""
    with ChaosProxy(url, 1) as proxy:
        assert post(proxy, call("eth_chainId"))[0] == 502


def tried(evm: LocalEvm, seed: int, plan: Plan) -> tuple[tuple[Decision, ...], list[str]]:
    """What was decided, and what the client met."""
    met = []
    with ChaosProxy(evm.url or "", seed, plan) as proxy:
        for count in range(60):
            method = ("eth_chainId", "eth_getTransactionReceipt")[count % 2]
            try:
                met.append(repr(post(proxy, call(method, *["0x" + "1" * 64] * (count % 2)))[::2]))
            except OSError as error:
                met.append(type(error).__name__)
        return proxy.log, met


def test_the_same_seed_does_the_same_again_and_another_does_not(evm: LocalEvm) -> None:
    plan = Plan.evenly(5_000, delay_ms=(0, 3), hold_ms=3)
    assert tried(evm, 5, plan) == tried(evm, 5, plan)
    assert tried(evm, 5, plan)[0] != tried(evm, 6, plan)[0]


def test_faults_come_as_often_as_planned_whatever_else_is_asked() -> None:
    plan = Plan(rates_bps={Kind.SEND: {Fault.SWALLOW: 1_000}, Kind.READ: {Fault.DELAY: 500, Fault.EMPTY: 500}})
    count = Counter(decide(3, plan, "eth_sendRawTransaction", each).fault for each in range(10_000))
    assert 800 < count[Fault.SWALLOW] < 1_200 and set(count) == {None, Fault.SWALLOW}
    count = Counter(decide(3, plan, "eth_call", each).fault for each in range(10_000))
    assert 350 < count[Fault.DELAY] < 650 and 350 < count[Fault.EMPTY] < 650
    calls, balances = (
        [decide(3, plan, method, n).fault for n in range(99)] for method in ("eth_call", "eth_getBalance")
    )
    assert calls != balances
    assert kind_of("eth_getTransactionReceipt") is Kind.RECEIPT
    assert {decide(3, plan, "eth_getTransactionReceipt", each).fault for each in range(100)} == {None}


def test_a_plan_that_does_not_add_up_is_refused(proxy: ChaosProxy) -> None:
    with pytest.raises(ValueError, match="10001 bps"):
        Plan(rates_bps={Kind.READ: {Fault.DELAY: 10_001}})
    with pytest.raises(ValueError, match="swallow means nothing for eth_call"):
        proxy.force("eth_call", Fault.SWALLOW)


@pytest.mark.parametrize("fault", [Fault.DELAY, Fault.REORDER])
def test_stopping_ends_what_waits(evm: LocalEvm, fault: Fault) -> None:
    proxy = ChaosProxy(evm.url or "", 1, Plan(delay_ms=(600_000, 600_000), hold_ms=600_000)).start()
    idle = http.client.HTTPConnection("127.0.0.1", proxy.port)
    idle.request("POST", "/", json.dumps(call("eth_blockNumber")))
    idle.getresponse().read()
    proxy.force("eth_chainId", fault)

    def wait() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            ask(proxy, "eth_chainId")

    waiting = threading.Thread(target=wait)
    waiting.start()
    while len(proxy.log) < 2:
        pass
    proxy.stop()
    waiting.join()
    idle.close()
    with pytest.raises(RuntimeError, match="not started"):
        proxy.url  # noqa: B018


# Faults in the process


def steps(crash_here: Callable[[str], None]) -> None:
    for _ in range(3):
        crash_here("signed")
        crash_here("sent")
    crash_here("final")


def test_without_a_plan_nothing_crashes_and_visits_are_counted() -> None:
    points = CrashPoints()
    steps(points)
    assert points.visits == {"signed": 3, "sent": 3, "final": 1} and not points.crashed


def test_a_crash_comes_at_that_visit_of_that_point_once() -> None:
    points = CrashPoints([("sent", 2)])
    with pytest.raises(Crash, match="sent:2"):
        steps(points)
    steps(points)
    assert points.crashed == [("sent", 2)] and str(points) == ""
    assert not issubclass(Crash, Exception)


def test_a_seed_draws_every_point_and_draws_it_again() -> None:
    census = {"signed": 3, "sent": 3, "final": 1, "never": 0}
    drawn = [str(CrashPoints.seeded(seed, census)) for seed in range(200)]
    assert drawn == [str(CrashPoints.seeded(seed, census)) for seed in range(200)]
    assert set(drawn) == {"final:1", *(f"{point}:{visit}" for point in ("signed", "sent") for visit in (1, 2, 3))}


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_planned_death_is_a_real_one() -> None:
    program = """
from tests.chaos.faults import CrashPoints
points = CrashPoints.parse("sent:2,final:1")
try:
    for step in range(3):
        print(step, flush=True)
        points("sent")
finally:
    print("a finally block ran", flush=True)
"""
    died = run_python(program)
    assert (died.returncode, died.stdout) == (-signal.SIGKILL, "0\n1\n")


def test_a_full_database_refuses_and_keeps_what_it_had(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE decisions (raw BLOB)")
        connection.execute("INSERT INTO decisions VALUES (zeroblob(10000))")
        tidy_up = full_sqlite(connection)
        with pytest.raises(sqlite3.OperationalError, match="database or disk is full") as full:
            connection.execute("INSERT INTO decisions VALUES (zeroblob(10000))")
        assert full.value.sqlite_errorname == "SQLITE_FULL"
        assert connection.execute("SELECT count(*) FROM decisions").fetchone() == (1,)
        tidy_up()
        connection.execute("INSERT INTO decisions VALUES (zeroblob(10000))")
    finally:
        connection.close()


def test_a_full_disk_stops_every_file_of_a_process_until_it_is_freed(tmp_path: Path) -> None:
    program = f"""
import sqlite3
from pathlib import Path
from tests.chaos.faults import FullDisk
folder = Path({str(tmp_path)!r})
connection = sqlite3.connect(folder / "journal.db", isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("CREATE TABLE decisions (raw BLOB)")
def insert():
    try:
        connection.execute("INSERT INTO decisions VALUES (zeroblob(50000))")
        return "inserted"
    except sqlite3.OperationalError as error:
        return error.sqlite_errorname
def write():
    try:
        return (folder / "explanation").write_bytes(bytes(50_000))
    except OSError as error:
        return error.strerror
with FullDisk(40_000):
    print(insert(), write())
print(insert(), write(), connection.execute("SELECT count(*) FROM decisions").fetchone()[0])
"""
    ran = run_python(program)
    sqlite_full = ("SQLITE_IOERR_WRITE File too large", "SQLITE_FULL File too large")
    first, second = ran.stdout.splitlines()
    assert first in sqlite_full and second == "inserted 50000 1", ran.stderr


def test_the_disk_of_another_process_is_filled_from_outside(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
for _ in range(2):
    input()
    try:
        print(Path({str(tmp_path / "log")!r}).write_bytes(bytes(5_000)), flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True, bufsize=1) as daemon:
        assert daemon.stdin and daemon.stdout
        with FullDisk(1_000, pid=daemon.pid):
            daemon.stdin.write("\n")
            assert daemon.stdout.readline() == "File too large\n"
        daemon.stdin.write("\n")
        assert daemon.stdout.readline() == "5000\n"


def test_a_skewed_clock_jumps_when_told_and_as_planned() -> None:
    clock = SkewedClock(lambda: 1_000.5, {2: 60, 3: -3_600})
    assert [clock(), clock(), clock()] == [1_000.5, 1_060.5, -2_539.5]
    with clock.wrong_by(3_540):
        assert clock.now_s() == 1_000
    assert clock.jumps == [60, -3_600, 3_540, -3_540]


def test_a_seeded_clock_jumps_the_same_way_again() -> None:
    def readings(seed: int) -> list[float]:
        clock = SkewedClock.seeded(seed, lambda: 0.0, jumps=4, largest_s=100, within_readings=20)
        return [clock() for _ in range(20)]

    assert readings(1) == readings(1) != readings(2)
    assert len(set(readings(1))) > 2
