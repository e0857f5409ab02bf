"""The local Solana chain, through solana-py: what a client may depend on, and what it is refused."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from solana.exceptions import SolanaRpcException
from solana.rpc.api import Client
from solana.rpc.commitment import Confirmed, Finalized, Processed
from solana.rpc.core import RPCException, TransactionExpiredBlockheightExceededError
from solana.rpc.types import DataSliceOpts, MemcmpOpts, TokenAccountOpts, TxOpts
from solders.account import Account
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import CreateAccountParams, TransferParams, create_account, transfer
from solders.transaction import VersionedTransaction
from spl.token.constants import MINT_LEN, TOKEN_PROGRAM_ID
from spl.token.instructions import (
    InitializeMintParams,
    MintToParams,
    create_associated_token_account,
    get_associated_token_address,
    initialize_mint,
    mint_to,
)

from agents.errors import Misconfigured
from agents.solana_node import MAX_AGE_BLOCKS, MAX_BODY_BYTES, SolanaNode

SOL = 10**9
MEMO_PROGRAM = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
NO_PREFLIGHT = TxOpts(skip_preflight=True)


@pytest.fixture
def node() -> SolanaNode:
    return SolanaNode()


@pytest.fixture
def client(node: SolanaNode) -> Client:
    return node.client()


@pytest.fixture
def payer(node: SolanaNode) -> Keypair:
    payer = Keypair()
    node.airdrop(payer.pubkey(), 10 * SOL)
    return payer


def memo(text: str) -> Instruction:
    return Instruction(MEMO_PROGRAM, text.encode(), [])


def sign(client: Client, payer: Keypair, *instructions: Instruction, others: tuple[Keypair, ...] = ()) -> Any:
    blockhash = client.get_latest_blockhash().value.blockhash
    message = Message.new_with_blockhash(list(instructions), payer.pubkey(), blockhash)
    return VersionedTransaction(message, [payer, *others])


def pay(payer: Keypair, to: Pubkey, lamports: int) -> Instruction:
    return transfer(TransferParams(from_pubkey=payer.pubkey(), to_pubkey=to, lamports=lamports))


def status(client: Client, signature: Signature) -> Any:
    return client.get_signature_statuses([signature]).value[0]


def is_valid(node: SolanaNode, blockhash: Hash) -> bool:
    return ask(node, "isBlockhashValid", str(blockhash))["result"]["value"]


def ask(node: SolanaNode, method: str, *params: Any) -> Any:
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    http_status, body = node.handle(json.dumps(request).encode())
    assert http_status == 200
    return json.loads(body)


# Refusals


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 10_000, -32700),
        (b"[]", -32600),
        (b"7", -32600),
        (b'{"id":1}', -32600),
        (b'{"id":1,"method":["getSlot"]}', -32600),
        (b'{"id":1,"method":"getNonsense"}', -32601),
        (b'{"id":1,"method":"get_slot"}', -32601),
        (b'{"id":1,"method":"getSlot","params":{}}', -32602),
        (b'{"id":1,"method":"getSlot","params":[1,2,3]}', -32602),
        (b'{"id":1,"method":"getSlot","params":[{"commitment":"sure"}]}', -32602),
        (b'{"id":1,"method":"getSlot","params":[{"minContextSlot":9999999}]}', -32016),
        (b'{"id":1,"method":"getBalance","params":["nobody"]}', -32602),
        (b'{"id":1,"method":"getBalance","params":[7]}', -32602),
        (b'{"id":1,"method":"isBlockhashValid","params":["x"]}', -32602),
        (b'{"id":1,"method":"getMinimumBalanceForRentExemption","params":[-1]}', -32602),
        (b'{"id":1,"method":"sendTransaction","params":["AAAA",{"encoding":"base64"}]}', -32602),
        (b'{"id":1,"method":"sendTransaction","params":["0OIl"]}', -32602),
        (b'{"id":1,"method":"sendTransaction","params":["AAAA",{"encoding":"hex"}]}', -32602),
        (b'{"id":1,"method":"getProgramAccounts","params":["%s",{"filters":[{}]}]}' % (b"1" * 32), -32602),
        (b'{"id":1,"method":"getTokenSupply","params":["11111111111111111111111111111111"]}', -32602),
        (b'{"id":1,"method":"getFeeForMessage","params":["AAAA"]}', -32602),
        (b'{"id":1,"method":"getBlockTime","params":[99999999]}', -32004),
    ],
)  # fmt: skip
def test_a_request_that_makes_no_sense_is_answered_with_a_json_rpc_error(
    node: SolanaNode, body: bytes, code: int
) -> None:
    http_status, answer = node.handle(body)
    assert (http_status, json.loads(answer)["error"]["code"]) == (200, code)


def test_any_bytes_for_a_transaction_are_answered(node: SolanaNode, client: Client, payer: Keypair) -> None:
    raw = bytes(sign(client, payer, memo("x")))
    for index in range(len(raw)):
        for value in (0, 127, 255):
            mangled = base64.b64encode(raw[:index] + bytes([value]) + raw[index + 1 :]).decode()
            answer = ask(node, "sendTransaction", mangled, {"encoding": "base64"})
            assert answer.get("error", {}).get("code") in (-32002, -32003, -32602, None)
    assert client.get_transaction_count().value <= 2


def test_a_transaction_larger_than_a_packet_is_refused(client: Client, payer: Keypair) -> None:
    with pytest.raises(RPCException, match="too large: 12"):
        client.send_transaction(sign(client, payer, memo("x" * 1_100)))


def test_preflight_tells_the_error_the_logs_and_the_units(node: SolanaNode, client: Client, payer: Keypair) -> None:
    transaction = sign(client, payer, memo("first"), pay(payer, Pubkey.new_unique(), 99 * SOL))
    encoded = base64.b64encode(bytes(transaction)).decode()
    error = ask(node, "sendTransaction", encoded, {"encoding": "base64"})["error"]
    assert error["code"] == -32002
    assert error["message"].endswith("Error processing Instruction 1: custom program error: 0x1")
    assert error["data"]["err"] == {"InstructionError": [1, {"Custom": 1}]}
    assert 'Program log: Memo (len 5): "first"' in error["data"]["logs"]
    assert error["data"]["unitsConsumed"] > 1_000
    with pytest.raises(RPCException) as raised:  # solana-py can read it too
        client.send_transaction(transaction)
    assert raised.value.args[0].data.err.err.code == 1
    assert status(client, transaction.signatures[0]) is None
    assert client.get_balance(payer.pubkey()).value == 10 * SOL


def test_a_wrong_signature_is_refused_and_without_preflight_never_lands(client: Client, payer: Keypair) -> None:
    message = sign(client, payer, memo("x")).message
    forged = VersionedTransaction.populate(message, [Keypair().sign_message(bytes(message))])
    with pytest.raises(RPCException, match="SignatureVerificationFailure"):
        client.send_transaction(forged)
    with pytest.raises(RPCException, match="SignatureVerificationFailure"):
        client.simulate_transaction(forged, sig_verify=True)
    assert client.simulate_transaction(forged).value.err is None
    client.send_transaction(forged, NO_PREFLIGHT)
    assert status(client, forged.signatures[0]) is None


def test_a_signature_lands_once(client: Client, payer: Keypair) -> None:
    to = Keypair().pubkey()
    transaction = sign(client, payer, pay(payer, to, SOL))
    client.send_transaction(transaction)
    with pytest.raises(RPCException, match="AlreadyProcessed"):
        client.send_transaction(transaction)
    client.send_transaction(transaction, NO_PREFLIGHT)
    assert client.get_balance(to).value == SOL
    assert client.get_balance(payer.pubkey()).value == 9 * SOL - 5_000


def test_who_has_nothing_cannot_pay_the_fee(client: Client) -> None:
    stranger = Keypair()
    with pytest.raises(RPCException, match="AccountNotFound"):
        client.send_transaction(sign(client, stranger, memo("x")))
    sent = client.send_transaction(sign(client, stranger, memo("x")), NO_PREFLIGHT)
    assert status(client, sent.value) is None


def test_who_cannot_pay_for_priority_is_refused_and_keeps_all(client: Client, node: SolanaNode) -> None:
    poor = Keypair()
    node.airdrop(poor.pubkey(), SOL)
    wish = [set_compute_unit_limit(1_000_000), set_compute_unit_price(2 * 10**9)]
    with pytest.raises(RPCException, match="InsufficientFundsForFee"):
        client.send_transaction(sign(client, poor, *wish, memo("x")))
    assert client.get_balance(poor.pubkey()).value == SOL


@pytest.mark.parametrize("program", [b"", b"\x7fELF nonsense"])
def test_what_is_no_program_is_refused(node: SolanaNode, program: bytes) -> None:
    with pytest.raises(Misconfigured, match=r"is it a \.so"):
        node.add_program(Pubkey.new_unique(), program)
    assert node.get_account(MEMO_PROGRAM) is not None


def test_a_program_can_be_called_as_soon_as_it_is_there(node: SolanaNode, client: Client, payer: Keypair) -> None:
    bundled, program = node.get_account(MEMO_PROGRAM), Pubkey.new_unique()
    assert bundled is not None
    with pytest.raises(RPCException, match="InvalidProgramForExecution"):
        client.send_transaction(sign(client, payer, Instruction(program, b"hello", [])))
    node.add_program(program, bundled.data)
    signature = client.send_transaction(sign(client, payer, Instruction(program, b"hello", []))).value
    told = client.get_transaction(signature).value.transaction.meta
    assert told is not None and 'Program log: Memo (len 5): "hello"' in (told.log_messages or [])


def test_time_does_not_go_back(node: SolanaNode) -> None:
    with pytest.raises(ValueError, match="does not go back"):
        node.warp(-1)


# Landing, expiry, crashes


def test_a_transaction_lands_at_once_and_is_final(client: Client, payer: Keypair) -> None:
    to = Keypair().pubkey()
    signature = client.send_transaction(sign(client, payer, pay(payer, to, SOL))).value
    for commitment in (Processed, Confirmed, Finalized):
        assert client.confirm_transaction(signature, commitment, sleep_seconds=0).value[0].err is None
        assert client.get_balance(to, commitment).value == SOL


def test_a_failed_transaction_lands_with_its_fee_and_nothing_else(client: Client, payer: Keypair) -> None:
    to = Keypair().pubkey()
    failing = sign(client, payer, pay(payer, to, SOL), pay(payer, to, 99 * SOL))
    signature = client.send_transaction(failing, NO_PREFLIGHT).value
    assert status(client, signature).err is not None
    assert client.get_balance(to).value == 0
    assert client.get_balance(payer.pubkey()).value == 10 * SOL - 5_000
    assert client.get_signatures_for_address(to).value[0].err is not None


def test_a_transaction_may_land_until_its_last_valid_block_and_no_longer(
    node: SolanaNode, client: Client, payer: Keypair
) -> None:
    latest = client.get_latest_blockhash().value
    assert latest.last_valid_block_height == client.get_block_height().value + MAX_AGE_BLOCKS
    first, second = (
        VersionedTransaction(Message.new_with_blockhash([memo(text)], payer.pubkey(), latest.blockhash), [payer])
        for text in ("in time", "too late")
    )
    node.warp(slots=MAX_AGE_BLOCKS)
    assert client.get_block_height().value == latest.last_valid_block_height
    assert is_valid(node, latest.blockhash)
    assert client.get_fee_for_message(second.message).value == 5_000
    client.send_transaction(first)
    node.warp(slots=1)
    assert client.get_block_height().value > latest.last_valid_block_height
    assert not is_valid(node, latest.blockhash)
    assert client.get_fee_for_message(second.message).value is None
    with pytest.raises(RPCException, match="Blockhash not found"):
        client.send_transaction(second)
    client.send_transaction(second, NO_PREFLIGHT)
    assert status(client, first.signatures[0]) is not None
    assert status(client, second.signatures[0]) is None


def test_a_blockhash_nobody_told_is_not_valid(node: SolanaNode, client: Client, payer: Keypair) -> None:
    message = Message.new_with_blockhash([memo("x")], payer.pubkey(), Hash.new_unique())
    assert not is_valid(node, message.recent_blockhash)
    with pytest.raises(RPCException, match="Blockhash not found"):
        client.send_transaction(VersionedTransaction(message, [payer]))
    assert client.simulate_transaction(VersionedTransaction(message, [payer])).value.err is not None


def test_many_transactions_may_share_a_blockhash(client: Client, payer: Keypair) -> None:
    blockhash = client.get_latest_blockhash().value.blockhash
    for index in range(200):
        message = Message.new_with_blockhash([memo(str(index))], payer.pubkey(), blockhash)
        client.send_transaction(VersionedTransaction(message, [payer]))
    assert client.get_transaction_count().value == 201


def test_the_same_instruction_can_be_sent_again_without_waiting(client: Client, payer: Keypair) -> None:
    signatures = {client.send_transaction(sign(client, payer, memo("again"))).value for _ in range(3)}
    assert len(signatures) == 3


def test_what_is_held_lands_when_released(node: SolanaNode, client: Client, payer: Keypair) -> None:
    node.hold = True
    transaction = sign(client, payer, memo("x"))
    signature = client.send_transaction(transaction).value
    assert client.send_transaction(transaction).value == signature
    assert status(client, signature) is None
    node.warp(slots=MAX_AGE_BLOCKS)
    assert node.release() == [str(signature)]
    assert status(client, signature).err is None
    assert node.release() == []


def test_what_is_held_too_long_never_lands(node: SolanaNode, client: Client, payer: Keypair) -> None:
    node.hold = True
    latest = client.get_latest_blockhash().value
    signature = client.send_transaction(sign(client, payer, memo("x"))).value
    node.warp(slots=MAX_AGE_BLOCKS + 1)
    assert node.release() == []

    async def confirm() -> None:
        async with node.async_client() as client:
            await client.confirm_transaction(signature, last_valid_block_height=latest.last_valid_block_height)

    with pytest.raises(TransactionExpiredBlockheightExceededError):
        asyncio.run(confirm())


def test_what_is_dropped_can_be_sent_again_while_its_blockhash_lives(
    node: SolanaNode, client: Client, payer: Keypair
) -> None:
    node.hold = True
    transaction = sign(client, payer, memo("x"))
    client.send_transaction(transaction)
    assert node.drop() == [str(transaction.signatures[0])]
    node.hold = False
    assert node.release() == []
    client.send_transaction(transaction)
    assert status(client, transaction.signatures[0]).err is None


def test_a_lost_answer_leaves_what_was_done(node: SolanaNode, client: Client, payer: Keypair) -> None:
    transaction = sign(client, payer, memo("x"))
    node.lost_answers = {"sendTransaction"}
    with pytest.raises(SolanaRpcException):
        client.send_transaction(transaction)
    assert status(client, transaction.signatures[0]).err is None


def test_an_unreachable_node_does_nothing(node: SolanaNode, client: Client, payer: Keypair) -> None:
    transaction = sign(client, payer, memo("x"))
    node.unreachable = True
    with pytest.raises(SolanaRpcException):
        client.send_transaction(transaction)
    node.unreachable = False
    assert status(client, transaction.signatures[0]) is None


# Time


def test_warp_moves_the_clock_and_400_ms_slots(node: SolanaNode, client: Client) -> None:
    slot, time_s = client.get_slot().value, node.time_s
    node.warp(60)
    assert (client.get_slot().value, node.time_s) == (slot + 150, time_s + 60)
    assert client.get_block_time(slot).value == time_s
    assert client.get_block_time(slot + 150).value == time_s + 60
    assert client.get_block_height().value < client.get_slot().value
    assert client.get_epoch_info().value.absolute_slot == slot + 150
    clock = node.get_account(Pubkey.from_string("SysvarC1ock11111111111111111111111111111111"))
    assert clock is not None
    assert int.from_bytes(clock.data[:8], "little") == slot + 150
    assert int.from_bytes(clock.data[32:40], "little") == time_s + 60


def test_a_chain_that_follows_a_clock_goes_on_by_itself_and_never_back() -> None:
    now_ms = 5_000
    node = SolanaNode(start_s=1_700_000_000, clock_ms=lambda: now_ms)
    slot = node.slot
    now_ms += 10_399
    assert (node.slot, node.time_s) == (slot + 25, 1_700_000_010)
    node.warp(10)
    assert (node.slot, node.time_s) == (slot + 50, 1_700_000_020)
    now_ms = 0
    assert (node.slot, node.time_s) == (slot + 50, 1_700_000_020)


def test_two_chains_are_alike_to_the_last_hash() -> None:
    seed = Keypair.from_seed(bytes(32))
    blockhashes = []
    for _ in range(2):
        node = SolanaNode()
        node.airdrop(seed.pubkey(), SOL)
        node.client().send_transaction(sign(node.client(), seed, memo("x")))
        blockhashes.append(node.client().get_latest_blockhash().value)
    assert blockhashes[0] == blockhashes[1]


# Fees


def test_priority_is_paid_by_what_may_be_used(client: Client, payer: Keypair) -> None:
    wish = [set_compute_unit_limit(30_001), set_compute_unit_price(2_000_001)]
    transaction = sign(client, payer, *wish, memo("x"))
    assert client.get_fee_for_message(transaction.message).value == 5_000 + 60_003
    signature = client.send_transaction(transaction).value
    assert client.get_balance(payer.pubkey()).value == 10 * SOL - 65_003
    told = client.get_transaction(signature).value.transaction.meta
    assert told is not None
    assert told.fee == 65_003
    assert told.pre_balances[0] - told.post_balances[0] == 65_003
    failing = sign(client, payer, *wish, pay(payer, Keypair().pubkey(), 99 * SOL))
    client.send_transaction(failing, NO_PREFLIGHT)
    assert status(client, failing.signatures[0]).err is not None
    assert client.get_balance(payer.pubkey()).value == 10 * SOL - 2 * 65_003


def test_a_compute_limit_is_kept(client: Client, payer: Keypair) -> None:
    with pytest.raises(RPCException, match="exceeded CUs meter"):
        client.send_transaction(sign(client, payer, set_compute_unit_limit(1_000), memo("x")))


def test_recent_prices_are_told_by_slot_and_by_account(node: SolanaNode, client: Client, payer: Keypair) -> None:
    busy, quiet = Keypair().pubkey(), Keypair().pubkey()
    node.warp(slots=1)
    slot = node.slot
    client.send_transaction(sign(client, payer, set_compute_unit_price(700), pay(payer, busy, SOL)))
    client.send_transaction(sign(client, payer, set_compute_unit_price(300), pay(payer, quiet, SOL)))
    node.warp(slots=1)

    def told(*accounts: Pubkey) -> dict[int, int]:
        fees = ask(node, "getRecentPrioritizationFees", [str(account) for account in accounts])["result"]
        return {one["slot"]: one["prioritizationFee"] for one in fees}

    assert told()[slot] == 300 == told(quiet)[slot]
    assert told(busy)[slot] == 700
    assert told(busy)[slot + 1] == 0
    node.going_price = 500
    assert (told(quiet)[slot], told(busy)[slot], told(busy)[slot + 1]) == (500, 700, 500)
    node.warp(slots=MAX_AGE_BLOCKS)
    assert slot not in told()
    assert len(told()) == MAX_AGE_BLOCKS


# What is told


def test_a_transaction_is_told_with_logs_balances_and_inner_instructions(
    node: SolanaNode, client: Client, payer: Keypair
) -> None:
    mint, holder = Keypair(), Keypair().pubkey()
    account = get_associated_token_address(holder, mint.pubkey())
    rent = client.get_minimum_balance_for_rent_exemption(MINT_LEN).value
    signature = client.send_transaction(
        sign(
            client, payer,
            create_account(CreateAccountParams(
                from_pubkey=payer.pubkey(), to_pubkey=mint.pubkey(), lamports=rent, space=MINT_LEN,
                owner=TOKEN_PROGRAM_ID,
            )),
            initialize_mint(InitializeMintParams(
                decimals=6, program_id=TOKEN_PROGRAM_ID, mint=mint.pubkey(), mint_authority=payer.pubkey(),
            )),
            create_associated_token_account(payer.pubkey(), holder, mint.pubkey()),
            mint_to(MintToParams(
                program_id=TOKEN_PROGRAM_ID, mint=mint.pubkey(), dest=account, mint_authority=payer.pubkey(),
                amount=1_500_000,
            )),
            others=(mint,),
        )
    ).value  # fmt: skip
    told = client.get_transaction(signature).value
    meta = told.transaction.meta
    assert meta is not None
    assert meta.err is None
    assert any("InitializeMint" in line for line in meta.log_messages or [])
    [inner] = meta.inner_instructions or []
    assert (inner.index, len(inner.instructions), inner.instructions[0].stack_height) == (2, 4, 2)
    assert meta.pre_token_balances == []
    [balance] = meta.post_token_balances or []
    assert (balance.mint, balance.owner, balance.ui_token_amount.amount) == (mint.pubkey(), holder, "1500000")
    assert meta.compute_units_consumed
    assert told.slot == node.slot and told.block_time == node.time_s
    raw = client.get_transaction(signature, "base64").value.transaction.transaction
    assert raw.signatures[0] == signature

    assert client.get_token_account_balance(account).value.ui_amount_string == "1.5"
    assert client.get_token_supply(mint.pubkey()).value.amount == "1500000"
    for which in (TokenAccountOpts(mint=mint.pubkey()), TokenAccountOpts(program_id=TOKEN_PROGRAM_ID)):
        [owned] = client.get_token_accounts_by_owner(holder, which).value
        assert owned.pubkey == account
    assert client.get_token_accounts_by_owner(payer.pubkey(), TokenAccountOpts(mint=mint.pubkey())).value == []


def test_transactions_of_an_address_are_told_newest_first_and_by_pages(client: Client, payer: Keypair) -> None:
    sent = [client.send_transaction(sign(client, payer, memo(str(index)))).value for index in range(5)][::-1]

    def told(**options: Any) -> list[Signature]:
        return [one.signature for one in client.get_signatures_for_address(MEMO_PROGRAM, **options).value]

    assert told() == sent
    assert told(limit=2) == sent[:2]
    assert told(before=sent[1], limit=2) == sent[2:4]
    assert told(until=sent[3]) == sent[:3]


def test_what_landed_long_ago_is_told_only_to_who_searches_the_history(
    node: SolanaNode, client: Client, payer: Keypair
) -> None:
    signature = client.send_transaction(sign(client, payer, memo("x"))).value
    node.warp(3_600)
    assert status(client, signature) is None
    [found] = client.get_signature_statuses([signature], search_transaction_history=True).value
    assert found is not None and found.err is None
    assert client.get_transaction(signature).value is not None


def test_history_is_not_told_of_what_is_merely_processed(client: Client, payer: Keypair) -> None:
    signature = client.send_transaction(sign(client, payer, memo("x"))).value
    with pytest.raises(RPCException, match="commitment below"):
        client.get_transaction(signature, commitment=Processed)
    with pytest.raises(RPCException, match="commitment below"):
        client.get_signatures_for_address(payer.pubkey(), commitment=Processed)


def test_accounts_of_a_program_are_found_by_size_and_content(node: SolanaNode, client: Client) -> None:
    program, [small, large, other] = Pubkey.new_unique(), [Pubkey.new_unique() for _ in range(3)]
    node.set_account(small, Account(SOL, b"\x01\x02\x03", program))
    node.set_account(large, Account(SOL, b"\x01\x09\x03" + bytes(500), program))
    node.set_account(other, Account(SOL, b"\x01\x02\x03", Pubkey.new_unique()))

    def found(*filters: Any) -> list[Pubkey]:
        return [one.pubkey for one in client.get_program_accounts(program, encoding="base64", filters=filters).value]

    assert found() == [small, large]
    assert found(3) == [small]
    assert found(MemcmpOpts(offset=1, bytes="A")) == [large]
    assert found(3, MemcmpOpts(offset=1, bytes="A")) == []
    accounts = client.get_multiple_accounts([small, Pubkey.new_unique()], encoding="base64").value
    assert accounts[0] is not None and accounts[0].data == b"\x01\x02\x03" and accounts[1] is None
    cut = client.get_account_info(large, encoding="base64", data_slice=DataSliceOpts(offset=1, length=2)).value
    assert cut is not None and cut.data == b"\x09\x03"
    with pytest.raises(RPCException, match="ask for base64"):
        client.get_account_info(large, encoding="base58")


def test_an_account_can_be_put_there_by_another_program_too(node: SolanaNode) -> None:
    feed, owner = Pubkey.new_unique(), Pubkey.new_unique()
    for refused in ({"data": "zz"}, {"lamports": -1}, {"data": "00", "executable": True}):
        assert ask(node, "surfnet_setAccount", str(feed), refused)["error"]["code"] == -32602
    assert node.get_account(feed) is None
    ask(node, "surfnet_setAccount", str(feed), {"data": "0102", "owner": str(owner)})
    ask(node, "surfnet_setAccount", str(feed), {"data": "0304"})
    account = node.get_account(feed)
    assert account is not None
    assert (account.data, account.owner, account.lamports > 0) == (b"\x03\x04", owner, True)


def test_a_simulation_tells_what_would_be_and_leaves_no_trace(client: Client, node: SolanaNode, payer: Keypair) -> None:
    to = Keypair().pubkey()
    transaction = VersionedTransaction(Message([pay(payer, to, SOL), memo("x")], payer.pubkey()), [payer])
    config = {"encoding": "base64", "replaceRecentBlockhash": True, "accounts": {"addresses": [str(to)]}}
    value = ask(node, "simulateTransaction", base64.b64encode(bytes(transaction)).decode(), config)["result"]["value"]
    assert value["err"] is None
    assert value["accounts"][0]["lamports"] == SOL
    assert value["replacementBlockhash"]["blockhash"] == str(client.get_latest_blockhash().value.blockhash)
    assert client.get_balance(to).value == 0
    assert client.get_balance(payer.pubkey()).value == 10 * SOL


def test_a_transaction_may_name_accounts_by_a_lookup_table(node: SolanaNode, client: Client, payer: Keypair) -> None:
    table, to = Pubkey.new_unique(), Keypair().pubkey()
    program = Pubkey.from_string("AddressLookupTab1e1111111111111111111111111")
    head = (1).to_bytes(4, "little") + b"\xff" * 8 + bytes(8) + bytes(1) + bytes(35)
    node.set_account(table, Account(SOL, head + bytes(to), program))
    node.warp(slots=1)
    lookup = AddressLookupTableAccount(table, [to])
    blockhash = client.get_latest_blockhash().value.blockhash
    message = MessageV0.try_compile(payer.pubkey(), [pay(payer, to, SOL)], [lookup], blockhash)
    signature = client.send_transaction(VersionedTransaction(message, [payer])).value
    assert client.get_balance(to).value == SOL
    with pytest.raises(RPCException, match="maxSupportedTransactionVersion"):
        client.get_transaction(signature)
    told = client.get_transaction(signature, max_supported_transaction_version=0).value
    assert told.transaction.version == 0
    assert told.transaction.meta.loaded_addresses.writable == [to]
    assert client.get_signatures_for_address(to).value[0].signature == signature


# Doors


def test_an_async_client_is_served_in_the_process(node: SolanaNode, payer: Keypair) -> None:
    async def send() -> Any:
        async with node.async_client() as client:
            blockhash = (await client.get_latest_blockhash()).value.blockhash
            message = Message.new_with_blockhash([memo("x")], payer.pubkey(), blockhash)
            sent = await client.send_transaction(VersionedTransaction(message, [payer]))
            return (await client.confirm_transaction(sent.value, sleep_seconds=0)).value[0]

    assert asyncio.run(send()).err is None


def test_many_threads_are_served_over_http(node: SolanaNode) -> None:
    payers = [Keypair() for _ in range(4)]
    errors: list[BaseException] = []

    def work(url: str, payer: Keypair) -> None:
        try:
            client = Client(url)
            client.request_airdrop(payer.pubkey(), SOL)
            for index in range(10):
                client.send_transaction(sign(client, payer, memo(f"{payer.pubkey()} {index}")))
            client._provider.session.close()
        except BaseException as error:
            errors.append(error)

    with node.serve() as url:
        threads = [threading.Thread(target=work, args=(url, payer)) for payer in payers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert node.client().get_transaction_count().value == 4 * 11


def _post(url: str, body: bytes) -> tuple[int, bytes]:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_http_answers_batches_and_refuses_what_is_too_large(node: SolanaNode) -> None:
    with node.serve() as url:
        assert _post(url, b" " * (MAX_BODY_BYTES + 1))[0] == 413
        assert _post(url, b'{"method":"getSlot"}') == (200, b"")
        batch = [{"id": 1, "method": "getSlot"}, 7, {"method": "getHealth"}, {"id": "b", "method": "getHealth"}]
        answers = json.loads(_post(url, json.dumps(batch).encode())[1])
        assert [answer.get("result") for answer in answers] == [node.slot, None, "ok"]
        assert [answer["id"] for answer in answers] == [1, None, "b"]
        assert json.loads(_post(url, json.dumps(batch * 100).encode())[1])["error"]["code"] == -32600
        with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
            assert answer.read() == b"ok"
        with pytest.raises(Misconfigured, match="can't be had"), node.serve(int(url.rpartition(":")[2])):
            pass


@pytest.fixture
def start() -> Any:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "agents.solana_node", *arguments]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_command_says_what_is_no_program(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("--port", "0", "--program", "nonsense")
    assert "expected ID=path.so" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


def test_the_command_prints_its_url_and_ends_when_told(
    node: SolanaNode, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    bundled, program, path = node.get_account(MEMO_PROGRAM), Pubkey.new_unique(), tmp_path / "memo.so"
    assert bundled is not None
    path.write_bytes(bundled.data)
    process = start("--port", "0", "--json", "--program", f"{program}={path}")
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    assert told["programs"] == [str(program)]
    client = Client(told["url"])
    account = client.get_account_info(program).value
    assert account is not None and account.executable
    assert abs(client.get_block_time(client.get_slot().value).value - time.time()) < 60
    client._provider.session.close()
    process.terminate()
    assert process.wait(timeout=10) == 0
