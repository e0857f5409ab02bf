"""An order on Solana becomes one trade or none, whatever dies, is lost, late or refused in between.

Every test trades on the real programs, through a node that can hold, drop and forget what it was given.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from solana.rpc.api import Client
from solders.account import Account
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from agents.errors import Halted, Misconfigured, Retryable
from agents.execution import Ended, Order, Outcome
from agents.intent import Intent
from agents.journal import Journal, Note
from agents.secrets import Redactor
from agents.settings import load_settings
from agents.signer import SigningRefused
from agents.solana_execution import (
    Courier,
    FeePayer,
    SendRules,
    SolanaExecution,
    SolanaKeeper,
    fetch_accounts,
    open_execution,
    unsealed,
    vault_nonce,
    with_limits,
    writable_accounts,
)
from agents.solana_node import MAX_AGE_BLOCKS, SolanaNode
from agents.solana_program import verify_chain
from agents.solana_rpc import NodeFault, NotTaken, Rpc
from agents.solana_signer import TRADE, TradeSigner, load_key_file, units_and_price
from tests.solana.world import CHAINLINK, QUOTE, World, transmissions

AMOUNT = 100 * QUOTE
MAX_PRICE = 50_000
RULES = SendRules(max_priority_fee_micro_lamports=MAX_PRICE)


class Crash(BaseException):
    """The process dies."""


@pytest.fixture(scope="module")
def world() -> World:
    """A vault with capital and a market. No test changes it: each has a node with a copy."""
    return World.trading()


class Bench:
    """A node with the world's accounts, an agent with a journal on disk, and how often each method was asked."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.node = SolanaNode(start_s=world.now_s)
        for program in (world.ledger, world.market):
            self.node.add_program(program.id, program.binary)
        for key in {*world.known.values(), world.signer.pubkey()} - {world.ledger.id, world.market.id}:
            if (account := world.svm.get_account(key)) and not account.executable:
                self.node.set_account(key, account)
        self.asked: list[str] = []
        # Called before each question with its method; its answer, if any, is the node's.
        self.answer: Callable[[httpx.Request, dict[str, Any]], httpx.Response | None] = lambda _, __: None
        # Called at each point of execution and of the journal, and before each pause.
        self.at: Callable[[str], None] = lambda _: None
        self.on_sleep: Callable[[], None] = lambda: None
        self.rpc = Rpc(self.client())
        self.journal = Journal(folder / "journal.sqlite", at=lambda point: self.at(point))
        self.execution = self.start()

    def client(self) -> Client:
        client = self.node.client()
        inner = client._provider.session._transport

        def handle(request: httpx.Request) -> httpx.Response:
            body = json.loads(request.read())
            self.asked.append(body["method"])
            return self.answer(request, body) or inner.handle_request(request)

        client._provider.session = httpx.Client(transport=httpx.MockTransport(handle))
        return client

    def rpc_raw(self, request: httpx.Request) -> dict[str, Any]:
        """What the node itself says."""
        return json.loads(self.node.handle(request.content)[1])

    def sleep(self, seconds: float) -> None:
        self.on_sleep()
        self.node.warp(max(1, round(seconds)))

    def start(
        self, journal: Journal | None = None, rules: SendRules = RULES, key: Keypair | None = None
    ) -> SolanaExecution:
        """As after a restart."""
        ledger, known = self.world.ledger, self.world.known
        courier = Courier(self.rpc, ledger, venue=self.world.market, rules=rules, sleep=self.sleep)
        signer = TradeSigner(
            key or self.world.signer, ledger=ledger, vault=known["vault"], max_priority_fee_micro_lamports=MAX_PRICE
        )
        return SolanaExecution(
            courier, known=known, signer=signer, journal=journal or self.journal, clock=lambda: self.node.time_s,
            at=lambda point: self.at(point),
        )  # fmt: skip

    def restart(self, **how: Any) -> SolanaExecution:
        """Another process with the same file."""
        self.at = lambda _: None
        self.journal.close()
        self.journal = Journal(self.folder / "journal.sqlite", at=lambda point: self.at(point))
        self.execution = self.start(**how)
        return self.execution

    def order(self, *, amount_in: int = AMOUNT, is_buy: bool = True, least_out: int = 0, **changes: Any) -> Order:
        asset = str(self.world.base_mint)
        intent = Intent(asset=asset, is_buy=is_buy, amount_in=amount_in, min_amount_out=least_out, value=amount_in)
        hashes = {"artefact_hash": b"artefact", "explanation_hash": b"why", "observation_hash": b"what"}
        fields: dict[str, Any] = {name: "0x" + word.hex().ljust(64, "7") for name, word in hashes.items()}
        fields["artefact_hash"] = "0x" + bytes(self.vault().manifest.artefact_hash).hex()
        fields |= {"intent": intent, "nonce": self.vault().nonce, "deadline_s": self.node.time_s + 600}
        return Order(**fields | changes)

    def row(self, journal: Journal | None = None) -> int:
        journal = journal or self.journal
        row = journal.open_intent(
            vault=str(self.world.known["vault"]), sequence=self.vault().nonce, block=self.node.slot,
            decided_at_s=self.node.time_s, explanation_hash="0xwhy",
        )  # fmt: skip
        journal.reviewed(row)
        return row

    def submit(self, **order: Any) -> Outcome:
        return self.execution.submit(self.order(**order), journal_row=self.row())

    def crash(self, point: str, **order: Any) -> None:
        """The process dies at that point of a trade."""
        wanted, row = self.order(**order), self.row()

        def die(reached: str) -> None:
            if reached == point:
                raise Crash(point)

        self.at = die
        with pytest.raises(Crash):
            self.execution.submit(wanted, journal_row=row)
        self.at = lambda _: None

    def vault(self) -> Any:
        return self.world.ledger.decode(bytes(self.node.get_account(self.world.known["vault"]).data))

    def publish(self, *, base_e8: int | None = None, quote_e8: int | None = None) -> None:
        """A round of both feeds."""
        world = self.world
        feeds = ((world.base_source, base_e8 or world.base_price_e8), (world.quote_source, quote_e8 or 10**8))
        for source, price in feeds:
            data = transmissions([(9, self.node.time_s, price)])
            self.node.set_account(source, Account(10**9, data, CHAINLINK, False, 0))

    def decision(self, row: int = 1) -> dict[str, Any]:
        return self.journal.rows(id=row)[0]

    def count(self, method: str) -> int:
        return self.asked.count(method)

    def check_books(self, *, trades: int) -> None:
        """The chain made so many trades, and the journal knows each of them as one decision."""
        assert (self.vault().nonce, self.vault().sequence) == (trades, trades)
        done = self.journal.rows(outcome="traded")
        assert len(done) == trades
        told = [landed for landed, _ in self.execution.trades()][::-1]
        assert [row["transaction_hash"] for row in done] == [landed.signature for landed in told]
        events = [event for landed in told for event in landed.events if event.name == "TradeRecorded"]
        verify_chain(self.world.ledger, events, bytes(self.vault().head))
        assert not self.journal.unfinished()


@pytest.fixture
def bench(world: World, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(world, tmp_path)
    yield bench
    bench.journal.close()


# Refused before anything is signed


def test_an_order_for_another_asset_is_refused_before_the_node_is_asked_to_try(bench: Bench) -> None:
    intent = Intent(asset="0x" + "1" * 40, is_buy=True, amount_in=1, min_amount_out=0, value=1)
    with pytest.raises(Misconfigured, match=r"the order is for 0x1+, vault .* trades"):
        bench.submit(intent=intent)
    assert bench.decision()["state"] == "refused"
    assert bench.count("simulateTransaction") == bench.count("sendTransaction") == 0


@pytest.mark.parametrize(
    ("order", "name"),
    [
        ({"nonce": 5}, "WrongNonce"),
        ({"deadline_s": 1}, "DeadlinePassed"),
        ({"artefact_hash": "0x" + "1" * 64}, "WrongArtefact"),
        ({"observation_hash": "0x" + "0" * 64}, "Unexplained"),
        ({"amount_in": 9_000 * QUOTE}, "PositionExceeded"),
        ({"is_buy": False}, "InsufficientHoldings"),
    ],
)
def test_what_the_program_would_refuse_is_neither_signed_nor_sent(
    bench: Bench, order: dict[str, Any], name: str
) -> None:
    outcome = bench.submit(**order)
    assert (outcome.ended, outcome.error) == (Ended.REVERTED, name)
    assert bench.decision()["state"] == "refused"
    assert json.loads(bench.decision()["broken"]) == [[name, outcome.detail]]
    assert bench.journal.attempts(1) == []
    assert bench.count("sendTransaction") == 0


def test_what_the_venue_refuses_has_the_name_the_venue_gives_it(bench: Bench) -> None:
    """Its number passes through the vault's program, where it means something else."""
    outcome = bench.submit(least_out=10**15)
    assert (outcome.error, outcome.detail) == ("ShortPaid", "the venue: the pool would pay less than the least")


@pytest.mark.parametrize(
    ("lamports", "says"),
    [
        (0, "can't pay for a transaction .*: send it some SOL"),
        (895_000, "can't pay for a transaction .*: send it some SOL"),
        (897_000, r"has 897000 lamports, a transaction needs \d+: send it some SOL"),
    ],
)
def test_a_key_without_lamports_is_told_before_anything_is_signed(bench: Bench, lamports: int, says: str) -> None:
    key, bench.node.going_price = bench.world.signer.pubkey(), MAX_PRICE
    bench.node.set_account(key, Account(lamports, b"", bench.world.known["system_program"], False, 0))
    with pytest.raises(Misconfigured, match=says):
        bench.submit()
    assert bench.decision()["broken"].startswith('[["account"')
    assert (bench.decision()["state"], bench.journal.attempts(1)) == ("refused", [])


def test_a_cluster_without_the_vault_or_the_program_is_misconfigured(bench: Bench) -> None:
    order, row = bench.order(), bench.row()
    bench.node, full = SolanaNode(start_s=bench.world.now_s), bench.node
    bench.rpc = Rpc(bench.client())
    with pytest.raises(Misconfigured, match=r"there is no vault \w+ on this cluster"):
        bench.start().submit(order, journal_row=row)
    with pytest.raises(Misconfigured, match=r"is not deployed there .*: is it the right cluster"):
        _keeper(bench).observe()
    bench.node = full


def test_a_node_that_does_not_answer_refuses_the_order_and_signs_nothing(bench: Bench) -> None:
    order, row = bench.order(), bench.row()
    bench.node.unreachable = True
    with pytest.raises(Retryable, match="HTTP 503"):
        bench.execution.submit(order, journal_row=row)
    assert (bench.decision()["state"], bench.decision()["account"]) == ("refused", None)
    bench.node.unreachable = False
    assert bench.submit().ended is Ended.TRADED


def test_a_journal_of_another_cluster_or_program_is_refused(bench: Bench) -> None:
    assert bench.submit().ended is Ended.TRADED
    bench.journal.set_fact("genesis", "another")
    with pytest.raises(Misconfigured, match="the journal is about the genesis another"):
        bench.restart().recover()


# Refused by the vault and by the chain


def test_a_vault_past_a_limit_refuses_keeps_that_and_the_nonce_stays(bench: Bench) -> None:
    bench.publish(quote_e8=90 * 10**6)
    outcome = bench.submit()
    assert (outcome.ended, outcome.error) == (Ended.REFUSED, "TradeRefused")
    assert "QUOTE_UNHEALTHY" in outcome.detail
    assert (bench.decision()["state"], bench.decision()["outcome"]) == ("final", "refused")
    assert bench.decision()["detail"] == outcome.detail
    bench.publish()
    assert bench.submit().ended is Ended.TRADED
    assert [(row["account_nonce"], row["outcome"]) for row in bench.journal.rows()] == [(0, "refused"), (1, "traded")]
    bench.check_books(trades=1)


def test_the_same_order_twice_in_a_slot_is_two_transactions(bench: Bench) -> None:
    """Else the second would be known already, and never land."""
    bench.publish(quote_e8=90 * 10**6)
    blockhash = bench.rpc.latest_blockhash()
    bench.rpc.latest_blockhash = lambda: blockhash  # type: ignore[method-assign]
    order = bench.order()
    assert [bench.execution.submit(order, journal_row=bench.row()).ended for _ in range(3)] == [Ended.REFUSED] * 3
    assert len({row["transaction_hash"] for row in bench.journal.rows()}) == 3


def test_what_the_program_refuses_when_it_lands_is_reverted_with_its_name(bench: Bench) -> None:
    def move(point: str) -> None:
        if point == "signed, not sent":
            bench.publish(base_e8=1_900 * 10**8)

    bench.at = move
    outcome = bench.submit()
    assert (outcome.ended, outcome.error) == (Ended.REVERTED, "SlippageExceeded")
    assert outcome.receipt["meta"]["err"] is not None
    row = bench.decision()
    assert (row["state"], row["outcome"], row["block_number"]) == ("final", "reverted", outcome.receipt["slot"])
    assert row["detail"].startswith("SlippageExceeded: ")
    bench.at = lambda _: None
    bench.publish()
    assert bench.submit().ended is Ended.TRADED
    bench.check_books(trades=1)


def test_too_few_compute_units_end_the_order_and_not_the_daemon(bench: Bench) -> None:
    rules = SendRules(max_priority_fee_micro_lamports=MAX_PRICE, units_margin_percent=-60, units_margin=0)
    outcome = bench.start(rules=rules).submit(bench.order(), journal_row=bench.row())
    assert outcome.ended is Ended.REVERTED
    assert "exceeded CUs meter" in outcome.detail or "Computational" in outcome.error
    assert bench.vault().nonce == 0


# Traded


def test_a_trade_is_told_with_its_entry_and_journalled_final(bench: Bench) -> None:
    outcome = bench.submit()
    assert outcome.ended is Ended.TRADED and outcome.entry is not None
    entry, vault = outcome.entry, bench.vault()
    assert entry.id == outcome.trade_id == "0x" + bytes(vault.head).hex()
    assert (entry.vault, entry.block) == (str(bench.world.known["vault"]), bench.node.slot)
    assert (entry.fields["nonce"], entry.fields["amount_in"], entry.fields["is_buy"]) == (0, AMOUNT, True)
    assert entry.fields["amount_out"] == vault.base_held > 0
    row = bench.decision()
    [attempt] = bench.journal.attempts(1)
    assert (row["state"], row["outcome"]) == ("final", "traded")
    assert (row["account"], row["account_nonce"]) == (str(bench.world.signer.pubkey()), 0)
    assert (row["trade_id"], row["block_number"]) == (entry.id, entry.block)
    assert row["transaction_hash"] == entry.transaction_hash == attempt.hash
    assert attempt.last_valid_block_height == bench.node.block_height + MAX_AGE_BLOCKS
    assert vault_nonce(attempt.raw) == 0
    assert bench.journal.trades(up_to_block=entry.block) == {entry.vault: 1}
    bench.check_books(trades=1)


def test_buying_and_selling_again_and_again_makes_one_chain(bench: Bench) -> None:
    for _ in range(2):
        assert bench.submit().ended is Ended.TRADED
        assert bench.submit(is_buy=False, amount_in=bench.vault().base_held // 2).ended is Ended.TRADED
    bench.check_books(trades=4)
    assert [row["account_nonce"] for row in bench.journal.rows()] == [0, 1, 2, 3]


def test_the_accounts_of_a_vault_are_found_by_its_address(bench: Bench) -> None:
    world = bench.world
    found = fetch_accounts(bench.rpc, world.ledger, world.known["vault"])
    assert {name: world.known[name] for name in found} == found
    assert {*world.ledger.accounts_of("trade"), "base_mint"} - {"signing_key"} <= found.keys()
    for other in (world.known["agent"], world.known["vault_quote"], Keypair().pubkey()):
        with pytest.raises(Misconfigured, match="is no vault of program"):
            fetch_accounts(bench.rpc, world.ledger, other)


def test_it_trades_over_http(bench: Bench) -> None:
    with bench.node.serve() as url:
        bench.rpc = Rpc(Client(url))
        assert bench.start().submit(bench.order(), journal_row=bench.row()).ended is Ended.TRADED
        bench.rpc.close()
    bench.check_books(trades=1)


# What it costs


def test_units_are_what_it_took_and_a_margin_and_the_price_is_what_others_paid(bench: Bench) -> None:
    bench.node.going_price = 7_000
    bench.submit()
    message = VersionedTransaction.from_bytes(bench.journal.attempts(1)[0].raw).message
    units, price = units_and_price(message)
    used = bench.rpc.transaction(bench.decision()["transaction_hash"])["meta"]["computeUnitsConsumed"]
    assert used < units <= used * 125 // 100 + 10_000 + 1_000
    assert price == 7_000


def test_no_price_above_the_operators_is_offered(bench: Bench) -> None:
    bench.node.going_price = 10 * MAX_PRICE
    bench.submit()
    assert units_and_price(VersionedTransaction.from_bytes(bench.journal.attempts(1)[0].raw).message)[1] == MAX_PRICE


def test_the_price_is_the_percentile_of_the_accounts_that_are_written_to(bench: Bench) -> None:
    asked = []

    def fees(_: httpx.Request, body: dict[str, Any]) -> httpx.Response | None:
        if body["method"] != "getRecentPrioritizationFees":
            return None
        asked.extend(body["params"][0])
        paid = [{"slot": slot, "prioritizationFee": slot} for slot in (40, 10, 30, 20)]
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": body["id"], "result": paid})

    bench.answer = fees
    bench.submit()
    assert units_and_price(VersionedTransaction.from_bytes(bench.journal.attempts(1)[0].raw).message)[1] == 30
    names = ("vault", "vault_quote", "vault_base", "pool", "pool_quote", "pool_base")
    assert set(asked) == {str(bench.world.known[name]) for name in names} | {str(bench.world.signer.pubkey())}


# Lost, late, dropped


def test_an_answer_that_was_lost_is_no_second_trade(bench: Bench) -> None:
    bench.node.lost_answers = {"sendTransaction"}
    assert bench.submit().ended is Ended.TRADED
    assert len(bench.journal.attempts(1)) == 1
    bench.check_books(trades=1)


def test_a_node_that_goes_away_after_the_signature_is_waited_for(bench: Bench) -> None:
    pauses = itertools.count(1)

    def leave(point: str) -> None:
        bench.node.unreachable = bench.node.unreachable or point == "signed, not sent"

    def come_back() -> None:
        if next(pauses) == 20:
            bench.node.unreachable = False

    bench.at, bench.on_sleep = leave, come_back
    assert bench.submit().ended is Ended.TRADED
    bench.check_books(trades=1)


def test_a_dropped_transaction_is_sent_again_with_the_same_bytes(bench: Bench) -> None:
    bench.node.hold = True
    pauses = itertools.count(1)

    def drop() -> None:
        if (number := next(pauses)) % 3 == 0:
            bench.node.drop()
        bench.node.hold = number < 12

    bench.on_sleep = drop
    assert bench.submit().ended is Ended.TRADED
    assert len(bench.journal.attempts(1)) == 1
    assert bench.count("sendTransaction") >= 4
    bench.check_books(trades=1)


def test_it_is_signed_anew_only_when_the_first_can_land_no_longer(bench: Bench) -> None:
    bench.node.hold = True
    bench.node.going_price = 1_000
    heights = []

    def anew(point: str) -> None:
        if point == "signed anew, not sent":
            heights.append(bench.node.block_height)
            assert bench.node.release() == []  # what was held came too late
            bench.node.hold = False

    bench.at = anew
    assert bench.submit().ended is Ended.TRADED
    first, second = bench.journal.attempts(1)
    assert len(heights) == 1 and heights[0] > first.last_valid_block_height
    assert (vault_nonce(first.raw), vault_nonce(second.raw)) == (0, 0)
    messages = [VersionedTransaction.from_bytes(attempt.raw).message for attempt in (first, second)]
    assert bytes(messages[0].instructions[2].data) == bytes(messages[1].instructions[2].data)
    assert [units_and_price(message)[1] for message in messages] == [1_000, 2_000]
    assert bench.decision()["transaction_hash"] == second.hash
    assert [note["kind"] for note in bench.journal.notes()] == [Note.BUMPED]
    assert bench.count("sendTransaction") > 20
    bench.check_books(trades=1)


def test_an_order_that_never_lands_ends_and_the_next_one_may_be_made(bench: Bench) -> None:
    bench.node.hold = True
    bench.on_sleep = lambda: bench.node.drop()
    outcome = bench.submit()
    assert (outcome.ended, outcome.error) == (Ended.REVERTED, "Expired")
    assert "signed 3 times" in outcome.detail
    assert (bench.decision()["state"], bench.decision()["block_number"]) == ("final", None)
    assert len(bench.journal.attempts(1)) == 3
    bench.node.hold = False
    assert bench.submit().ended is Ended.TRADED
    bench.check_books(trades=1)


def test_an_order_past_its_deadline_is_not_signed_anew(bench: Bench) -> None:
    bench.node.hold = True
    outcome = bench.submit(deadline_s=bench.node.time_s + 20)
    assert (outcome.ended, outcome.error) == (Ended.REVERTED, "DeadlinePassed")
    assert len(bench.journal.attempts(1)) == 1
    assert bench.vault().nonce == 0


def test_a_nonce_that_another_used_meanwhile_is_told_with_its_transaction(bench: Bench, tmp_path: Path) -> None:
    """The same key in two hands: what must not be, and still is no double trade."""
    foreign = Journal(tmp_path / "foreign.sqlite")
    bench.crash("signed, not sent")
    order = bench.order(amount_in=QUOTE)
    assert bench.start(foreign).submit(order, journal_row=bench.row(foreign)).ended is Ended.TRADED
    bench.node.warp(slots=MAX_AGE_BLOCKS + 10)
    [outcome] = bench.restart().recover()
    [other] = foreign.rows()
    assert outcome.ended is Ended.REPLACED
    assert outcome.detail == f"transaction {other['transaction_hash']} used the vault's nonce 0"
    assert (bench.decision()["state"], bench.decision()["outcome"]) == ("final", "replaced")
    assert (bench.vault().nonce, len(bench.journal.attempts(1))) == (1, 1)
    foreign.close()


def test_of_two_transactions_with_one_vault_nonce_the_program_takes_one(bench: Bench, tmp_path: Path) -> None:
    foreign = Journal(tmp_path / "foreign.sqlite")
    bench.crash("signed, not sent")
    order = bench.order(amount_in=QUOTE)
    assert bench.start(foreign).submit(order, journal_row=bench.row(foreign)).ended is Ended.TRADED
    [outcome] = bench.restart().recover()
    assert (outcome.ended, outcome.error) == (Ended.REVERTED, "WrongNonce")
    assert bench.vault().nonce == 1
    foreign.close()


def test_a_node_that_forgot_the_status_does_not_bring_about_a_second_trade(bench: Bench) -> None:
    bench.crash("before mined")
    bench.node.warp(slots=MAX_AGE_BLOCKS + 10)

    def forget(_: httpx.Request, body: dict[str, Any]) -> httpx.Response | None:
        if body["method"] != "getSignatureStatuses":
            return None
        told = {"context": {"slot": bench.node.slot}, "value": [None]}
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": body["id"], "result": told})

    bench.answer = forget
    [outcome] = bench.restart().recover()
    assert outcome.ended is Ended.TRADED
    bench.check_books(trades=1)


def test_a_node_without_history_stops_the_agent_instead_of_guessing(bench: Bench) -> None:
    bench.crash("before mined")
    bench.node.warp(slots=MAX_AGE_BLOCKS + 10)

    def forget(_: httpx.Request, body: dict[str, Any]) -> httpx.Response | None:
        told: dict[str, Any] = {
            "getSignatureStatuses": {"context": {"slot": bench.node.slot}, "value": [None]},
            "getSignaturesForAddress": [],
        }
        if body["method"] not in told:
            return None
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": body["id"], "result": told[body["method"]]})

    bench.answer = forget
    with pytest.raises(Misconfigured, match="keeps the history of transactions"):
        bench.restart().recover()
    assert bench.decision()["state"] == "sent"


def test_a_node_that_is_behind_is_not_believed_that_nothing_landed(bench: Bench) -> None:
    """One machine of a provider says how high the chain is, another that is behind says nothing landed."""
    bench.crash("before mined")
    slot = bench.node.slot - 1
    bench.node.warp(slots=MAX_AGE_BLOCKS + 10)

    def behind(_: httpx.Request, body: dict[str, Any]) -> httpx.Response | None:
        if body["method"] != "getSignatureStatuses":
            return None
        told = {"context": {"slot": slot}, "value": [None]}
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": body["id"], "result": told})

    bench.answer = behind
    with pytest.raises(Retryable, match=r"neither final nor past after 18\d s: the node looks from slot"):
        bench.restart().recover()
    assert len(bench.journal.attempts(1)) == 1
    bench.answer = lambda _, __: None
    [outcome] = bench.execution.recover()
    assert outcome.ended is Ended.TRADED
    bench.check_books(trades=1)


def test_what_landed_between_two_questions_is_found_by_asking_again(bench: Bench) -> None:
    bench.publish(quote_e8=90 * 10**6)
    bench.crash("before mined")  # refused by the vault: its nonce tells nothing
    bench.node.warp(slots=MAX_AGE_BLOCKS + 10)
    nothing_yet = {"jsonrpc": "2.0", "id": 1, "result": {"context": {"slot": bench.node.slot}, "value": [None]}}
    first = iter([httpx.Response(200, json=nothing_yet)])
    bench.answer = lambda _, body: next(first, None) if body["method"] == "getSignatureStatuses" else None
    assert [outcome.ended for outcome in bench.restart().recover()] == [Ended.REFUSED]
    assert bench.count("getSignatureStatuses") == 3
    assert len(bench.journal.attempts(1)) == 1


def test_the_vaults_nonce_is_read_where_the_height_was_read_or_later(bench: Bench) -> None:
    bench.crash("signed, not sent")
    bench.node.warp(slots=MAX_AGE_BLOCKS + 10)
    asked: list[dict[str, Any]] = []
    bench.answer = lambda _, body: asked.append(body["params"][-1]) if body["method"] == "getAccountInfo" else None
    slot = bench.node.slot
    assert [outcome.ended for outcome in bench.restart().recover()] == [Ended.TRADED]
    assert asked[0] == {"encoding": "base64", "commitment": "finalized", "minContextSlot": slot}


def test_nothing_is_signed_anew_on_a_blockhash_that_is_as_old(bench: Bench) -> None:
    bench.crash("signed, not sent")
    old = bench.rpc.latest_blockhash()
    bench.node.warp(slots=MAX_AGE_BLOCKS + 10)
    latest, bench.rpc.latest_blockhash = bench.rpc.latest_blockhash, lambda: old  # type: ignore[method-assign]
    with pytest.raises(Retryable, match="the node's latest blockhash is an old one"):
        bench.restart().recover()
    assert len(bench.journal.attempts(1)) == 1
    bench.rpc.latest_blockhash = latest  # type: ignore[method-assign]
    assert [outcome.ended for outcome in bench.execution.recover()] == [Ended.TRADED]


def test_what_is_in_a_block_that_is_not_final_is_neither_told_nor_sent_again(bench: Bench) -> None:
    level = ["processed"]

    def early(_: httpx.Request, body: dict[str, Any]) -> httpx.Response | None:
        if body["method"] != "getSignatureStatuses":
            return None
        status = {"slot": 1, "confirmations": 1, "err": None, "confirmationStatus": level[0]}
        told = {"context": {"slot": bench.node.slot}, "value": [status]}
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": body["id"], "result": told})

    bench.answer = early
    with pytest.raises(Retryable, match="neither final nor past"):
        bench.submit()
    assert (bench.decision()["state"], bench.count("sendTransaction")) == ("sent", 1)
    level[0] = "finalized"
    assert [outcome.ended for outcome in bench.execution.recover()] == [Ended.TRADED]
    bench.check_books(trades=1)


def test_nothing_else_is_ordered_while_an_order_is_open(bench: Bench) -> None:
    bench.crash("signed, not sent")
    bench.restart()
    order, row = bench.order(), bench.row()
    bench.node.unreachable = True
    with pytest.raises(Retryable):
        bench.execution.submit(order, journal_row=row)
    assert [row["state"] for row in bench.journal.rows()] == ["signed", "refused"]
    bench.node.unreachable = False
    row = bench.row()
    outcome = bench.execution.submit(order, journal_row=row)  # decided before the first one was known to have traded
    assert (outcome.ended, outcome.error) == (Ended.REVERTED, "WrongNonce")
    assert bench.decision()["outcome"] == "traded"
    bench.check_books(trades=1)


def test_a_key_that_was_replaced_signs_nothing_anew(bench: Bench) -> None:
    bench.crash("signed, not sent")
    bench.node.warp(slots=MAX_AGE_BLOCKS + 10)
    [outcome] = bench.restart(key=Keypair()).recover()
    assert (outcome.ended, outcome.error) == (Ended.REVERTED, "Expired")
    assert "a key that is used no longer" in outcome.detail


def test_what_a_cut_log_does_not_tell_the_vault_does(bench: Bench) -> None:
    cut = {"n": 0}

    def cut_off(request: httpx.Request, body: dict[str, Any]) -> httpx.Response | None:
        if body["method"] != "getTransaction" or cut["n"]:
            return None
        told = bench.rpc_raw(request)
        told["result"]["meta"]["logMessages"] = ["Log truncated"]
        return httpx.Response(200, json=told)

    bench.answer = cut_off
    outcome = bench.submit()
    # An entry is no log, so whoever fills the log can't hide it.
    assert (outcome.ended, outcome.entry and outcome.entry.fields["sequence"]) == (Ended.TRADED, 0)
    bench.publish(quote_e8=90 * 10**6)
    outcome = bench.submit()
    assert (outcome.ended, outcome.detail) == (Ended.REFUSED, "the log was cut off before the reasons")
    cut["n"] = 1
    assert bench.restart().recover() == []
    bench.check_books(trades=1)


# A journal that was lost


def test_trades_that_the_journal_does_not_have_are_taken_over(bench: Bench, tmp_path: Path) -> None:
    for _ in range(3):
        bench.submit(amount_in=QUOTE)
    told = [row["trade_id"] for row in bench.journal.rows()]
    bench.folder = tmp_path / "new"
    assert bench.restart().recover() == []
    rows = bench.journal.rows()
    assert [(row["state"], row["sequence"], row["trade_id"]) for row in rows] == [
        ("final", number, trade_id) for number, trade_id in enumerate(told)
    ]
    assert bench.execution.adopt() == 0
    bench.check_books(trades=3)
    assert bench.submit(is_buy=False, amount_in=bench.vault().base_held).ended is Ended.TRADED
    bench.check_books(trades=4)


def test_a_trade_that_a_node_denied_is_put_right_by_the_ledger(bench: Bench) -> None:
    bench.submit()
    with bench.journal.transaction():
        bench.journal._execute("UPDATE decisions SET outcome = 'reverted', trade_id = NULL")
    assert bench.restart().recover() == []
    bench.check_books(trades=1)
    assert bench.decision()["detail"] == "put right by the ledger"


def test_a_ledger_that_can_not_be_read_whole_halts_the_agent(bench: Bench, tmp_path: Path) -> None:
    bench.submit(amount_in=QUOTE)
    bench.folder = tmp_path / "new"
    bench.answer = lambda _, body: (
        httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": []})
        if body["method"] == "getSignaturesForAddress"
        else None
    )
    with pytest.raises(Halted, match="has made 1 trades, the journal has 0"):
        bench.restart().recover()
    order, row = bench.order(), bench.row()
    with pytest.raises(Halted):
        bench.execution.submit(order, journal_row=row)
    assert bench.decision(row)["state"] == "refused"


# Crashes

POINTS = [
    "before signed", "after signed", "signed, not sent", "sent, not journalled", "before sent", "after sent",
    "before mined", "before final", "after final",
]  # fmt: skip


def _nothing(_: Bench) -> None:
    """The restart comes at once."""


def _late(bench: Bench) -> None:
    bench.node.warp(slots=MAX_AGE_BLOCKS + 10)


def _dropped(bench: Bench) -> None:
    bench.node.drop()
    bench.node.hold = False


def _dropped_late(bench: Bench) -> None:
    _dropped(bench)
    _late(bench)


def _released(bench: Bench) -> None:
    bench.node.release()
    bench.node.hold = False


def _released_late(bench: Bench) -> None:
    _released(bench)
    _late(bench)


HELD = (_dropped, _dropped_late, _released, _released_late)
CRASHES = [*itertools.product(POINTS, (_nothing, _late)), *itertools.product(POINTS[:6], HELD)]


@pytest.mark.parametrize(("point", "then"), CRASHES, ids=lambda one: one if isinstance(one, str) else one.__name__[1:])
def test_after_a_crash_at_any_point_there_is_one_trade_or_none(
    bench: Bench, point: str, then: Callable[[Bench], None]
) -> None:
    bench.node.hold = then in HELD
    bench.crash(point)
    then(bench)
    is_signed = point != "before signed"
    outcomes = bench.restart().recover()
    bench.journal.abandon_unsigned(at_s=bench.node.time_s)
    assert bench.execution.recover() == []
    bench.check_books(trades=int(is_signed))
    assert [outcome.ended for outcome in outcomes] == [Ended.TRADED] * (is_signed and point != "after final")
    # The next order is the next trade.
    assert bench.submit().ended is Ended.TRADED
    bench.check_books(trades=1 + is_signed)


def test_what_was_sent_before_a_crash_is_asked_for_before_it_is_sent_again(bench: Bench) -> None:
    bench.crash("sent, not journalled")
    bench.asked.clear()
    assert [outcome.ended for outcome in bench.restart().recover()] == [Ended.TRADED]
    assert bench.asked == ["getGenesisHash", "getSignatureStatuses", "getTransaction", "getAccountInfo"]


def test_a_crash_after_it_was_signed_anew_loses_neither(bench: Bench) -> None:
    bench.node.hold = True
    bench.crash("signed anew, not sent")
    bench.node.hold = False
    assert [outcome.ended for outcome in bench.restart().recover()] == [Ended.TRADED]
    assert len(bench.journal.attempts(1)) == 2
    bench.check_books(trades=1)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_goes_wrong_the_books_are_right_in_the_end(bench: Bench, seed: int) -> None:
    """Faults at random, while an order waits and when the process dies."""
    rng, node = Random(seed), bench.node

    def disturb() -> None:
        fault = rng.randrange(12)
        node.hold = (node.hold or fault == 0) and fault != 1
        node.unreachable = (node.unreachable or fault == 2) and fault != 3
        node.lost_answers = {"sendTransaction"} if fault == 4 else set()
        if fault in (5, 6):
            node.drop() if fault == 5 else node.release()
        if fault == 7:
            node.warp(slots=rng.randrange(2 * MAX_AGE_BLOCKS))
        if fault == 8:
            bench.publish(base_e8=rng.choice([1_950, 2_000, 2_050]) * 10**8)

    def die(point: str) -> None:
        if rng.random() < 0.08:
            raise Crash(point)

    for _ in range(4):
        before = bench.vault().nonce
        order, row = bench.order(amount_in=rng.randrange(1, 100) * QUOTE), bench.row()
        bench.at, bench.on_sleep = die, disturb
        for attempt in range(8):
            try:
                if attempt == 0:
                    bench.execution.submit(order, journal_row=row)
                elif attempt == 7:
                    bench.on_sleep = lambda: None
                    node.hold, node.unreachable, node.lost_answers = False, False, set()
                    bench.restart().recover()
                else:
                    bench.restart()
                    bench.at = die
                    bench.execution.recover()
            except (Crash, Retryable):
                continue
        bench.journal.abandon_unsigned(at_s=node.time_s)
        node.drop()
        assert before <= bench.vault().nonce <= before + 1
        assert (bench.decision(row)["outcome"] == "traded") == (bench.vault().nonce > before)
        assert bench.decision(row)["state"] in ("refused", "abandoned", "final")
        bench.check_books(trades=bench.vault().nonce)


AGENT = """
import sys
from solders.pubkey import Pubkey
from agents.execution import Order
from agents.intent import Intent
from agents.journal import Journal
from agents.settings import load_settings
from agents.solana_execution import fetch_accounts, open_execution
from agents.solana_program import Ledger
program, vault, artefact, deadline_s = sys.argv[1:]
ledger = Ledger(Pubkey.from_string(program))
settings = load_settings()
journal = Journal(settings.journal, exclusive=True)
key = Pubkey.from_string(vault)
execution = open_execution(settings, ledger=ledger, vault=key, journal=journal)
ended = [outcome.ended for outcome in execution.recover()]
print("recovered", *ended, flush=True)
if not ended:
    row = journal.open_intent(vault=vault, sequence=0, block=1, decided_at_s=1, explanation_hash="0xwhy")
    journal.reviewed(row)
    asset = str(fetch_accounts(execution.rpc, ledger, key)["base_mint"])
    intent = Intent(asset=asset, is_buy=True, amount_in=10**8, min_amount_out=0, value=10**8)
    hashes = {name: "0x" + "7" * 64 for name in ("explanation_hash", "observation_hash")}
    order = Order(intent=intent, nonce=0, deadline_s=int(deadline_s), artefact_hash=artefact, **hashes)
    print(execution.submit(order, journal_row=row).ended, flush=True)
"""


@pytest.mark.parametrize("is_lost", [False, True], ids=["landed", "lost"])
def test_a_daemon_that_is_killed_while_it_waits_goes_on_where_it_was(
    bench: Bench, tmp_path: Path, is_lost: bool
) -> None:
    """Another process, by its settings, over HTTP; and no way to say goodbye."""
    key_file = _write(tmp_path / "id.json", bench.world.signer.to_json())
    artefact = "0x" + bytes(bench.vault().manifest.artefact_hash).hex()
    bench.node.hold = True
    with bench.node.serve() as url:
        environment = {
            **os.environ, "MARKETFLOW_SOLANA_RPC_URL": url, "MARKETFLOW_SOLANA_KEY_FILE": str(key_file),
            "MARKETFLOW_JOURNAL": str(bench.folder / "journal.sqlite"),
        }  # fmt: skip
        names = [str(bench.world.ledger.id), str(bench.world.known["vault"]), artefact, str(bench.node.time_s + 600)]
        command = [sys.executable, "-c", AGENT, *names]
        first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert first.stdout is not None and first.stdout.readline() == "recovered\n"
        patience_s = time.monotonic() + 60
        while not bench.journal.rows(state="sent"):
            assert first.poll() is None and time.monotonic() < patience_s
            time.sleep(0.05)
        first.kill()
        first.communicate()
        bench.node.drop() if is_lost else bench.node.release()
        bench.node.hold = False
        said = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, timeout=60, check=True
        ).stdout
    assert said == "recovered traded\n"
    assert len(bench.journal.attempts(1)) == 1
    bench.check_books(trades=1)


def test_settings_that_are_missing_are_named(bench: Bench) -> None:
    ledger, vault = bench.world.ledger, bench.world.known["vault"]
    with pytest.raises(Misconfigured, match="MARKETFLOW_SOLANA_RPC_URL is empty"):
        open_execution(load_settings(), ledger=ledger, vault=vault, journal=bench.journal)
    settings = load_settings(solana_rpc_url="https://node.example")
    with pytest.raises(Misconfigured, match="MARKETFLOW_SOLANA_KEY_FILE is empty"):
        open_execution(settings, ledger=ledger, vault=vault, journal=bench.journal)


# A node's faults


def test_who_is_asked_to_wait_waits(bench: Bench) -> None:
    slept: list[float] = []
    told = iter([httpx.Response(429, headers={"Retry-After": "7"}, text="slow down")] * 3)
    bench.answer = lambda _, body: next(told, None) if body["method"] == "sendTransaction" else None
    courier = Courier(
        bench.rpc, bench.world.ledger, rules=RULES, sleep=lambda pause_s: (slept.append(pause_s), bench.node.warp(1))[0]
    )
    signer = TradeSigner(
        bench.world.signer, ledger=bench.world.ledger, vault=bench.world.known["vault"],
        max_priority_fee_micro_lamports=MAX_PRICE,
    )  # fmt: skip
    execution = SolanaExecution(courier, known=bench.world.known, signer=signer, journal=bench.journal)
    assert execution.submit(bench.order(), journal_row=bench.row()).ended is Ended.TRADED
    assert slept == [7.0, 7.0, 7.0]
    bench.check_books(trades=1)


def _error(code: int, message: str = "no", data: Any = None) -> dict[str, Any]:
    return {"code": code, "message": message} | ({} if data is None else {"data": data})


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (httpx.Response(429, text="slow"), NodeFault, "HTTP 429"),
        (httpx.Response(502, text="<html>"), NodeFault, "HTTP 502"),
        (httpx.Response(200, text="<html>"), NodeFault, "no JSON-RPC"),
        (httpx.Response(200, json=[]), NodeFault, "no JSON-RPC"),
        (httpx.Response(200, json={"error": "text"}), NodeFault, "sendTransaction"),
        (_error(-32005, "Node is behind by 42 slots"), NodeFault, "behind by 42"),
        (_error(-32016, "Minimum context slot"), NodeFault, "-32016"),
        (_error(-32603, "Internal error"), NodeFault, "-32603"),
        (_error(-32429, "max usage reached"), NodeFault, "max usage"),
        (_error(-32002, "Transaction simulation failed: Blockhash not found"), NotTaken, "Blockhash not found"),
        (_error(-32002, "no", {"err": "BlockhashNotFound", "logs": []}), NotTaken, "-32002"),
        (httpx.Response(401, text="no"), Misconfigured, "MARKETFLOW_SOLANA_RPC_URL"),
        (httpx.Response(404, text="no"), Misconfigured, "MARKETFLOW_SOLANA_RPC_URL"),
        (httpx.Response(413, text="no"), Misconfigured, "too large"),
        (_error(-32601, "Method not found"), Misconfigured, "name a node that can"),
        (_error(-32011, "Transaction history is not available from this node"), Misconfigured, "history"),
    ],
)
def test_a_fault_is_told_by_what_is_done_about_it(answer: Any, kind: type[Exception], says: str) -> None:
    if isinstance(answer, dict):
        body = {"jsonrpc": "2.0", "id": 1, "error": answer}
        answer = httpx.Response(400 if answer["code"] == -32603 else 200, json=body)
    client = Client("https://node.example/very-secret-key")
    client._provider.session = httpx.Client(transport=httpx.MockTransport(lambda _: answer))
    with pytest.raises(kind, match=says) as caught:
        Rpc(client).send(b"raw")
    assert type(caught.value) is kind
    assert "secret" not in str(caught.value)


def test_no_error_tells_the_nodes_address() -> None:
    def time_out(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout(f"{request.url}")

    client = Client("https://node.example/very-secret-key")
    client._provider.session = httpx.Client(transport=httpx.MockTransport(time_out))
    with pytest.raises(NodeFault, match="did not answer getGenesisHash: ReadTimeout") as caught:
        Rpc(client).genesis()
    assert caught.value.__cause__ is None and "secret" not in str(caught.value)
    with pytest.raises(Misconfigured, match="is no address of a node"):
        Rpc(Client("node.example")).genesis()


def test_answers_without_sense_are_faults_and_no_crashes(bench: Bench) -> None:
    result: list[Any] = [None]
    bench.answer = lambda _, body: httpx.Response(200, json={"jsonrpc": "2.0", "id": body["id"], "result": result[0]})
    key = bench.world.known["vault"]
    unsent = unsealed(Instruction(key, b"", []), bench.world.signer.pubkey())
    rpc = bench.rpc
    questions: list[Callable[[], Any]] = [
        rpc.final_block,
        rpc.latest_blockhash,
        lambda: rpc.account(key),
        lambda: rpc.balance(key),
        lambda: rpc.priority_fees([key]),
        lambda: rpc.statuses(["1"]),
        lambda: rpc.transaction("1"),
        lambda: rpc.signatures_for(key),
        lambda: rpc.simulate(unsent),
    ]
    several = {"value": [None, None], "context": {}}
    for result[0] in (None, 7, "text", [1], {"value": 7}, {"value": {"blockhash": "no"}}, several):
        for ask in questions:
            if result[0] == {"value": 7} and ask is questions[3]:
                continue  # a balance
            with pytest.raises(NodeFault):
                ask()


# Keys


def _write(path: Path, content: str, mode: int = 0o600) -> Path:
    path.write_text(content)
    path.chmod(mode)
    return path


def test_the_key_of_the_solana_cli_is_read_and_never_told(tmp_path: Path) -> None:
    key, redactor = Keypair(), Redactor()
    path = _write(tmp_path / "id.json", key.to_json())
    assert load_key_file(path, redactor=redactor).pubkey() == key.pubkey()
    for secret in (key.to_json(), str(key), bytes(key)[:32].hex(), ", ".join(map(str, bytes(key)))):
        assert redactor.redact(f"it is {secret}.") == "it is [removed]." or "[removed]" in redactor.redact(secret)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o700, 0o660])
def test_a_keyfile_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = _write(tmp_path / "id.json", Keypair().to_json(), mode)
    with pytest.raises(Misconfigured, match=f"has mode {mode:04o}, others can use it: `chmod 600"):
        load_key_file(path)


def test_what_is_no_keyfile_is_refused_without_telling_what_it_is(tmp_path: Path) -> None:
    numbers = list(bytes(Keypair()))
    wrong = ["", "{}", "secret", json.dumps(numbers[:32]), json.dumps([*numbers[:63], 256]), json.dumps([True] * 64),
             json.dumps([1.0] * 64), json.dumps("x" * 64)]  # fmt: skip
    for content in wrong:
        with pytest.raises(Misconfigured, match="is no keyfile: expected a JSON list of 64 bytes") as caught:
            load_key_file(_write(tmp_path / "id.json", content))
        assert "secret" not in str(caught.value)
    with pytest.raises(Misconfigured, match="its public key is not that of its secret key"):
        load_key_file(_write(tmp_path / "id.json", json.dumps([*numbers[:63], numbers[63] ^ 1])))
    with pytest.raises(Misconfigured, match=r"MARKETFLOW_SOLANA_KEY_FILE: .* can't be read"):
        load_key_file(tmp_path / "missing.json")
    with pytest.raises(Misconfigured, match="is no keyfile"):
        load_key_file(tmp_path)
    with pytest.raises(Misconfigured, match="MARKETFLOW_SOLANA_KEY_FILE is empty"):
        load_key_file(None)


@pytest.fixture(scope="module")
def signer(world: World) -> TradeSigner:
    return TradeSigner(
        world.signer, ledger=world.ledger, vault=world.known["vault"], max_priority_fee_micro_lamports=MAX_PRICE
    )


def test_the_signer_signs_nothing_but_trades_of_its_vault(world: World, signer: TradeSigner) -> None:
    own, other = world.signer.pubkey(), Keypair().pubkey()
    order = world.order(AMOUNT, is_buy=True)
    trade = world.ledger.instruction("trade", world.known, order)
    assert signer.sign(unsealed(trade, own)).verify_with_results() == [True]
    pay = transfer(TransferParams(from_pubkey=own, to_pubkey=other, lamports=1))
    elsewhere = world.ledger.instruction("trade", world.known | {"vault": other}, order)
    observe = world.ledger.instruction("observe", world.known)
    fake = Instruction(other, bytes(trade.data), trade.accounts)
    limits = [*unsealed(trade, own).instructions[:2]]
    refused = [
        (unsealed(pay, own), "not one trade"),
        (unsealed(observe, own), "not one trade"),
        (unsealed(fake, own), "not one trade"),
        (Message([trade], own), "not one trade"),
        (Message([trade, trade, trade], own), "not one trade"),
        (unsealed(Instruction(world.ledger.id, TRADE, trade.accounts[:2]), own), "is not of vault"),
        (unsealed(elsewhere, own), "is not of vault"),
        (unsealed(trade, other), "alone"),
        (with_limits(unsealed(trade, own), price=MAX_PRICE + 1), "MARKETFLOW_MAX_PRIORITY_FEE_MICRO_LAMPORTS"),
        (with_limits(unsealed(trade, own), units=1_400_001), "compute units"),
        (with_limits(unsealed(trade, own), units=0), "compute units"),
    ]
    assert len(limits) == 2
    for message, says in refused:
        with pytest.raises(SigningRefused, match=says):
            signer.sign(message)


def test_the_signer_can_not_be_changed_copied_or_printed(world: World, signer: TradeSigner) -> None:
    with pytest.raises(AttributeError):
        signer.vault = Keypair().pubkey()
    with pytest.raises(TypeError):
        pickle.dumps(signer)
    with pytest.raises(TypeError):
        copy.copy(signer)
    assert str(world.signer) not in repr(signer)


def test_a_message_with_other_limits_is_otherwise_the_same(world: World) -> None:
    trade = world.ledger.instruction("trade", world.known, world.order(AMOUNT, is_buy=True))
    message = unsealed(trade, world.signer.pubkey())
    changed = with_limits(message, units=77_000, price=5)
    assert units_and_price(changed) == (77_000, 5)
    assert with_limits(changed, units=1_400_000, price=0) == message
    written = {meta.pubkey for meta in trade.accounts if meta.is_writable} | {world.signer.pubkey()}
    assert set(writable_accounts(message)) == written


# What anybody may ask


def _keeper(bench: Bench) -> SolanaKeeper:
    payer = Keypair()
    bench.node.airdrop(payer.pubkey(), 10**9)
    courier = Courier(bench.rpc, bench.world.ledger, rules=RULES, sleep=bench.sleep)
    return SolanaKeeper(courier, known=bench.world.known, payer=FeePayer(payer), clock=lambda: bench.node.time_s)


def _wait_until(bench: Bench, seconds_into_epoch: int) -> None:
    config = bench.world.config
    passed = (bench.node.time_s - config.genesis_s) % config.epoch_length_s
    bench.node.warp((seconds_into_epoch - passed) % config.epoch_length_s)


def test_anybody_brings_a_vaults_profit_from_the_window_to_the_claim(bench: Bench) -> None:
    keeper, config = _keeper(bench), bench.world.config
    assert bench.submit(amount_in=1_000 * QUOTE).ended is Ended.TRADED
    assert keeper.pending() is None
    assert keeper.close_window().refusal.name == "NothingToClose"
    assert keeper.reward(0).refusal.name == "NoResult"
    _wait_until(bench, 10)
    bench.publish(base_e8=2_040 * 10**8)
    assert keeper.observe().refusal is None
    _wait_until(bench, config.window_length_s + 1)
    closed = keeper.close_window()
    assert [event.name for event in closed.events] == ["WindowClosed"]
    pnl = keeper.pending()
    assert pnl == closed.events[0].fields["move"] > 0
    assert keeper.reward(pnl + 1).refusal.name == "PnlMismatch"
    assert [event.name for event in keeper.reward(pnl).events] == ["Rewarded"]
    assert keeper.reward(pnl).refusal.name == "NoResult"
    assert keeper.pending() is None
    wrong = keeper.claim(bench.world.known["vault_quote"])
    assert wrong.refusal is not None and wrong.signature == ""


def test_what_a_keeper_asks_lands_once_though_answers_are_lost_and_blocks_pass(bench: Bench) -> None:
    keeper, pauses = _keeper(bench), itertools.count(1)
    bench.node.lost_answers = {"sendTransaction"}
    assert keeper.observe().signature
    bench.node.lost_answers = set()
    bench.node.hold = True

    def drop() -> None:
        bench.node.drop()
        bench.node.hold = next(pauses) < 70  # past the first blockhash

    bench.on_sleep = drop
    assert keeper.observe().refusal is None
    bench.node.hold = True
    bench.on_sleep = lambda: bench.node.drop()
    with pytest.raises(Retryable, match="no block took observe, though it was signed 3 times"):
        keeper.observe()


def test_a_trade_takes_little_time_beyond_the_chains(bench: Bench) -> None:
    begun_s = time.perf_counter()
    for _ in range(5):
        assert bench.submit(amount_in=QUOTE).ended is Ended.TRADED
    assert time.perf_counter() - begun_s < 5
    assert len(bench.asked) / 5 < 10
