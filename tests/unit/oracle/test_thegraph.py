"""The Graph client gives an answer that the schema and the chain agree with, or says who failed and what to do."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from decimal import Decimal
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import pytest
from graphql import GraphQLError, build_schema, graphql_sync
from web3 import HTTPProvider, Web3

from agents.localnet.evm import CHAIN_ID, LocalEvm, start_evm
from oracle.chain import BlockRef, fetch_block
from oracle.errors import (
    GraphBehind,
    GraphError,
    GraphForked,
    GraphIndexingFailed,
    GraphRefused,
    GraphTooLong,
    GraphUnavailable,
    ReadingFailed,
    WrongChain,
)
from oracle.thegraph import GraphAnswer, GraphClient, GraphSettings
from tests.unit.oracle.misbehaving import Asked, MisbehavingServer, Reply

# In the shape that graph-node makes of a schema.
SDL = """
scalar BigInt
scalar BigDecimal
scalar Bytes
enum Side { BUY SELL }
enum OrderDirection { asc desc }
enum Trade_orderBy { id sequence }
enum Vault_orderBy { id }
input Block_height { hash: Bytes number: Int number_gte: Int }
input Trade_filter { id_gt: Bytes amount_gt: BigInt price_lt: BigDecimal vault: String and: [Trade_filter] }
input Vault_filter { id_gt: ID }
type Vault { id: ID! name: String! }
type Trade {
  id: Bytes!
  sequence: Int!
  amount: BigInt!
  price: BigDecimal!
  side: Side!
  note: String
  vault: Vault!
}
type _Block_ { hash: Bytes number: Int! timestamp: Int }
type _Meta_ { block: _Block_! deployment: String! hasIndexingErrors: Boolean! }
type Query {
  trade(id: ID!, block: Block_height): Trade
  trades(
    first: Int = 100, orderBy: Trade_orderBy, orderDirection: OrderDirection, where: Trade_filter, block: Block_height
  ): [Trade!]!
  vaults(
    first: Int = 100, orderBy: Vault_orderBy, orderDirection: OrderDirection, where: Vault_filter, block: Block_height
  ): [Vault!]!
  _meta(block: Block_height): _Meta_
}
"""
SCHEMA = build_schema(SDL)
QUESTION = "{ trades { id sequence amount price side note vault { id } } }"
PATH = "/subgraphs/name/market"
KEY = "0123456789abcdef0123456789abcdef"
TRADE = {
    "id": "0xAB01", "sequence": 7, "amount": str(10**30), "price": "-0.10", "side": "BUY", "note": None,
    "vault": {"id": "v", "name": "first"},
}  # fmt: skip


@dataclass(slots=True)
class Indexer:
    """What graph-node answers: `_meta` and rows, whose `where` is of `id_gt` and `and` only."""

    head: BlockRef
    rows: list[dict[str, Any]] = field(default_factory=lambda: [TRADE])
    has_errors: bool = False
    deployment: str = "Qm1"
    # The `block` of each question for rows.
    blocks: list[Any] = field(default_factory=list)

    def __call__(self, asked: Asked) -> Reply:
        answer = graphql_sync(SCHEMA, asked.body["query"], self, variable_values=asked.body.get("variables"))
        return Reply(body=answer.formatted)

    def trades(self, _: Any, first: int, where: dict[str, Any] | None = None, block: Any = None, **__: Any) -> Any:
        self.blocks.append(block)
        parts = (where or {}).get("and", [where or {}])
        [after] = [part["id_gt"] for part in parts if "id_gt" in part] or [""]
        return [row for row in self.rows if row["id"] > after][:first]

    vaults = trades

    def _meta(self, _: Any, block: Any = None) -> Any:
        if block and self.head.number < block.get("number_gte", 0):
            raise GraphQLError(f"Failed to decode `block.number_gte` value: `{only_indexed(self.head.number)}`")
        at = {"number": self.head.number, "hash": self.head.hash, "timestamp": self.head.timestamp_s}
        return {"block": at, "hasIndexingErrors": self.has_errors, "deployment": self.deployment}


def only_indexed(number: int) -> str:
    return f"subgraph Qm1 has only indexed up to block number {number} and data for block number 9 is therefore not yet"


@dataclass(slots=True)
class Time:
    """A clock that moves only in sleep."""

    at_s: float = 0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at_s += seconds


@pytest.fixture(scope="module")
def shared_evm() -> Iterator[LocalEvm]:
    with start_evm("py-evm") as started:
        started.mine(5)
        yield started


@pytest.fixture
def evm(shared_evm: LocalEvm) -> Iterator[LocalEvm]:
    snapshot = shared_evm.snapshot()
    yield shared_evm
    shared_evm.revert(snapshot)


@pytest.fixture
def indexer(evm: LocalEvm) -> Indexer:
    return Indexer(fetch_block(evm))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def serve(stack: ExitStack) -> Callable[..., MisbehavingServer]:
    """A server that answers like that, or gives one answer for ever."""

    def start(answer: Callable[[Asked], Reply] | Reply) -> MisbehavingServer:
        return stack.enter_context(MisbehavingServer(answer if callable(answer) else lambda _: answer))

    return start


@pytest.fixture
def connect(stack: ExitStack, evm: LocalEvm, clock: Time) -> Callable[..., GraphClient]:
    """A client of those servers, or addresses, on the chain of the tests."""

    def made(*servers: MisbehavingServer | str, **over: Any) -> GraphClient:
        options = {
            "chain": evm, "chain_id": CHAIN_ID, "max_lag_blocks": 10, "max_age_s": 600, "timeout_s": 5, "attempts": 3,
            "settings": GraphSettings(key=None), "now_s": evm.now_s, "clock": lambda: clock.at_s, "sleep": clock.sleep,
        }  # fmt: skip
        urls = [server if isinstance(server, str) else server.url + PATH for server in servers]
        return stack.enter_context(GraphClient(urls, SDL, **{**options, **over}))

    return made


def error_answer(message: str) -> Reply:
    """GraphQL's way to fail: with status 200."""
    return Reply(body={"errors": [{"message": message}]})


def in_turn(*answers: Callable[[Asked], Reply] | Reply) -> Callable[[Asked], Reply]:
    """Each answer once, the last one for ever."""
    left = list(answers)

    def answer(asked: Asked) -> Reply:
        found = left.pop(0) if len(left) > 1 else left[0]
        return found(asked) if callable(found) else found

    return answer


def changed(indexer: Indexer, change: Callable[[Any], Any]) -> Callable[[Asked], Reply]:
    """What the indexer says, falsified."""

    def answer(asked: Asked) -> Reply:
        body = indexer(asked).body
        change(body["data"])
        return Reply(body=body)

    return answer


def rows(count: int) -> list[dict[str, Any]]:
    return [{**TRADE, "id": f"0x{number:064x}", "sequence": number} for number in range(count)]


# Questions that are never sent


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ("{ trades { id profit } }", "Cannot query field 'profit' on type 'Trade'"),
        ("{ strategies { id } }", "Cannot query field 'strategies'"),
        ('{ trades(where: {profit_gt: "1"}) { id } }', "unknown field 'profit_gt'"),
        ('{ trades(where: {amount_gt: "1.5"}) { id } }', "is not of this type"),
        ("{ trades(orderBy: profit) { id } }", "does not exist in 'Trade_orderBy'"),
        ("{ trades(block: {number: 1}) { id } }", "only one argument named 'block'"),
        ("query ($block: Block_height) { trades { id } }", "only one variable named '\\$block'"),
        ("{ trades { id }", "not GraphQL: Syntax Error"),
        ("query A { vaults { id } } query B { vaults { id } }", "one query, and nothing else"),
        ("mutation { trades { id } }", "one query, and nothing else"),
    ],
)
def test_a_question_that_the_schema_does_not_know_is_not_sent(
    serve: Any, connect: Any, indexer: Indexer, question: str, why: str
) -> None:
    server = serve(indexer)
    with pytest.raises(GraphRefused, match=why):
        connect(server).query(question)
    assert server.asked == []


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({}, "Variable '\\$id' has invalid value"),
        ({"id": "0x01", "profit": 1}, "no variable profit"),
        ({"id": "0x01", "block": {"number": 1}}, "no variable block"),
        ({"id": "0x01", "more_than": 1.5}, "more_than"),
        ({"id": "0x01", "more_than": True}, "more_than"),
    ],
)
def test_variables_that_the_question_does_not_have_are_not_sent(
    serve: Any, connect: Any, indexer: Indexer, variables: dict[str, Any], why: str
) -> None:
    server = serve(indexer)
    question = """
        query ($id: ID!, $more_than: BigInt) { trade(id: $id) { id } trades(where: {amount_gt: $more_than}) { id } }
    """
    with pytest.raises(GraphRefused, match=why):
        connect(server).query(question, variables)
    assert server.asked == []


def test_a_node_of_another_chain_is_refused_before_anything_is_asked(
    serve: Any, connect: Any, indexer: Indexer
) -> None:
    server = serve(indexer)
    client = connect(server, chain_id=1)
    for ask in (lambda: client.query(QUESTION), lambda: client.wait_for_block(1, 0)):
        with pytest.raises(WrongChain, match=f"of chain {CHAIN_ID}, configured is 1"):
            ask()
    assert server.asked == []


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (f"https://gateway.thegraph.com/api/{KEY}/subgraphs/id/5z", "holds a key: write .*MARKETFLOW_GRAPH_KEY"),
        (f"https://graph.example/{KEY}/x", "holds a key"),
        (f"https://graph.example/x?api_key={KEY}", "holds a key"),
        (f"https://me:{KEY}@graph.example/x", "holds a key"),
        ("http://gateway.thegraph.com/api/subgraphs/id/5z", "in the clear"),
        ("graph.example/x", "begins with https"),
    ],
)
def test_an_address_that_gives_the_key_away_is_refused(connect: Any, address: str, why: str) -> None:
    with pytest.raises(GraphRefused, match=why) as refused:
        connect(address, settings=GraphSettings(key=KEY))
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "graph.example/api/abc/subgraphs/id/5z",
        "graph.example/api/abc/deployments/id/Qm",
        "graph.example/x?api_key=abc",
        "me:secret@graph.example/x",
    ],
)
def test_an_address_that_looks_like_it_holds_a_key_is_refused_though_none_is_configured(
    connect: Any, address: str
) -> None:
    with pytest.raises(GraphRefused, match=r"at graph\.example holds a key"):
        connect(f"https://{address}")
    connect("https://graph.example/api/subgraphs/id/5z")


def test_no_endpoint_and_a_key_that_is_none_are_refused(connect: Any) -> None:
    with pytest.raises(GraphRefused, match="no Graph endpoint"):
        connect()
    with pytest.raises(GraphRefused, match="MARKETFLOW_GRAPH_KEY is not a key") as refused:
        connect("https://gateway.thegraph.com/x", settings=GraphSettings(key=f"{KEY}\n"))
    assert KEY not in str(refused.value)


# Servers that fail


TEMPORARY = {
    "hangs up": Reply(hangs_up=True),
    "too late": Reply(delay_s=5),
    "byte by byte": Reply(body="{" * 100, drip_s=0.05),
    "half an answer": Reply(body='{"data": {"trades": []}}', cut_at=12),
    "truncated JSON": Reply(body='{"data": {"trades": ['),
    "HTML": Reply(body="<!DOCTYPE html><title>Sign in</title>"),
    "JSON, but a list": Reply(body=[1]),
    "neither data nor errors": Reply(body={"message": "hello"}),
    "brackets without end": Reply(body="[" * 100_000),
    "429": Reply(status=429, body={"errors": [{"message": "slow down"}]}),
    "500": Reply(status=500),
    "502": Reply(status=502, body="<html>bad gateway"),
    "503": Reply(status=503, headers={"Retry-After": "rubbish"}),
    **{
        message: error_answer(message)
        for message in (
            "bad indexers: {0x01: Timeout, 0x02: BadResponse(auth error)}",
            "Store error: database unavailable",
            "Query timed out",
            "the chain was reorganized while executing the query",
            "service is overloaded and can not run the query right now. Please try again in a few minutes",
            "something that nobody has listed",
        )
    },
    "errors that are no list": Reply(body={"errors": 5}),
}


@pytest.mark.parametrize("reply", TEMPORARY.values(), ids=TEMPORARY)
def test_what_may_pass_is_tried_again_and_then_called_unavailable(
    serve: Any, connect: Any, clock: Time, reply: Reply
) -> None:
    server = serve(reply)
    with pytest.raises(GraphUnavailable) as failed:
        connect(server, timeout_s=0.2).query(QUESTION)
    assert str(failed.value).startswith(server.url.removeprefix("http://") + PATH)
    assert len(str(failed.value)) < 500
    assert len(server.asked) == 3
    assert clock.slept == [0.5, 1]


def test_an_answer_without_bounds_is_not_read_to_its_end(
    serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oracle.thegraph.MAX_ANSWER_BYTES", 2**21)
    server = serve(Reply(body=b" " * 2**24))
    with pytest.raises(GraphTooLong, match="ask for less at once"):
        connect(server).query(QUESTION)
    assert len(server.asked) == 1, "the same question would get the same answer"


def test_a_server_that_is_not_there_is_unavailable(serve: Any, connect: Any) -> None:
    server = serve(Reply())
    server.close()
    with pytest.raises(GraphUnavailable, match="Connection refused"):
        connect(server).query(QUESTION)


FINAL = {
    message: error_answer(message)
    for message in (
        "auth error: missing authorization header",
        "auth error: malformed API key",
        "auth error: API key not found",
        "auth error: spend limit exceeded for this API key",
        "auth error: payment required for subsequent requests for this API key",
        "subgraph not found: 5z",
        "no indexers found",
        "bad query: query contains unknown fields",
        "deployment `market` does not exist",
        "The `first` argument must be between 0 and 1000, but is 5000",
        "Type `Trade` has no field `note`",
        "Failed to decode `BigInt` value: `invalid digit found in string`",
        "Failed to decode `block.number` value: `subgraph Qm1 only has data starting at block number 5",
        "query is too expensive",
    )
} | {f"status {status}": Reply(status=status, body="no") for status in (301, 400, 401, 403, 404, 413)}


@pytest.mark.parametrize("reply", FINAL.values(), ids=FINAL)
def test_what_will_never_pass_is_asked_once(serve: Any, connect: Any, clock: Time, reply: Reply) -> None:
    server = serve(reply)
    with pytest.raises(GraphRefused, match=f"{PATH}: .*: "):
        connect(server).query(QUESTION)
    assert len(server.asked) == 1
    assert clock.slept == []


def test_a_wrong_key_and_a_wrong_address_say_so(serve: Any, connect: Any) -> None:
    for reply in (error_answer("auth error: API key not found"), Reply(status=401)):
        with pytest.raises(GraphRefused, match="check MARKETFLOW_GRAPH_KEY"):
            connect(serve(reply)).query(QUESTION)
    for reply in (error_answer("subgraph not found: 5z"), Reply(status=404)):
        with pytest.raises(GraphRefused, match="check the address"):
            connect(serve(reply)).query(QUESTION)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda data: data.pop("trades"), "trades: it is missing"),
        (lambda data: data["trades"][0].pop("note"), "trades.0.note: it is missing"),
        (lambda data: data["trades"][0].update(amount=5), "trades.0.amount: 5 is not of this type"),
        (lambda data: data["trades"][0].update(amount="1e3"), "trades.0.amount"),
        (lambda data: data["trades"][0].update(price="NaN"), "trades.0.price"),
        (lambda data: data["trades"][0].update(id="0xabc"), "trades.0.id"),
        (lambda data: data["trades"][0].update(sequence="7"), "trades.0.sequence"),
        (lambda data: data["trades"][0].update(sequence=None), "trades.0.sequence"),
        (lambda data: data["trades"][0].update(note=["x"]), "trades.0.note"),
        (lambda data: data["trades"][0].update(side="HOLD"), "trades.0.side"),
        (lambda data: data["trades"][0].update(vault="v"), "trades.0.vault.id"),
        (lambda data: data.update(trades={}), "trades"),
        (lambda data: data.update(trades=None), "trades"),
        (lambda data: data.pop("_indexer"), "_indexer"),
        (lambda data: data["_indexer"]["block"].update(number="5"), "_indexer.block.number"),
    ],
)
def test_an_answer_that_the_schema_does_not_know_is_refused(
    serve: Any, connect: Any, indexer: Indexer, change: Callable[[Any], Any], where: str
) -> None:
    server = serve(changed(indexer, change))
    with pytest.raises(GraphRefused, match=f"{PATH} answered what our schema does not say, {where}"):
        connect(server).query(QUESTION)


def test_no_data_at_all_is_refused(serve: Any, connect: Any) -> None:
    with pytest.raises(GraphRefused, match="what our schema does not say"):
        connect(serve(Reply(body={"data": None}))).query(QUESTION)


@pytest.mark.parametrize("change", [{"hash": None}, {"timestamp": None}])
def test_an_indexer_that_does_not_say_where_it_is_is_refused(
    serve: Any, connect: Any, indexer: Indexer, change: dict[str, Any]
) -> None:
    server = serve(changed(indexer, lambda data: data["_indexer"]["block"].update(change)))
    with pytest.raises(GraphBehind, match="does not say which block it is at"):
        connect(server).query(QUESTION)
    server = serve(changed(indexer, lambda data: data.update(_indexer=None)))
    with pytest.raises(GraphBehind, match="does not say which block it is at"):
        connect(server).query(QUESTION)


def test_an_indexer_that_has_just_begun_is_asked_again(serve: Any, connect: Any, indexer: Indexer) -> None:
    """graph-node knows no block until it has indexed one."""
    beginning = changed(indexer, lambda data: data.update(_indexer=None))
    assert connect(serve(in_turn(beginning, indexer))).query(QUESTION).block == indexer.head


def test_a_subgraph_whose_handler_failed_is_not_believed(serve: Any, connect: Any, indexer: Indexer) -> None:
    indexer.has_errors = True
    for server in (serve(indexer), serve(error_answer("indexing_error"))):
        with pytest.raises(GraphIndexingFailed, match=f"{PATH}.*has to be corrected"):
            connect(server).query(QUESTION)
        assert len(server.asked) == 1


# Indexers that are elsewhere


def test_an_indexer_a_thousand_blocks_behind_is_refused(
    serve: Any, connect: Any, evm: LocalEvm, indexer: Indexer
) -> None:
    client = connect(serve(indexer), max_age_s=10**6)
    evm.mine(10)
    assert client.query(QUESTION).block == indexer.head, "ten are allowed"
    evm.mine(990)
    with pytest.raises(GraphBehind, match="1000 behind the chain, 10 are allowed"):
        client.query(QUESTION)


def test_an_indexer_whose_block_is_old_is_refused_though_the_chain_has_none_newer(
    serve: Any, connect: Any, indexer: Indexer
) -> None:
    now_s = indexer.head.timestamp_s
    server = serve(indexer)
    assert connect(server, now_s=lambda: now_s + 600).query(QUESTION)
    for chain in ({}, {"chain": None}):
        with pytest.raises(GraphBehind, match="is 601 s old, 600 s are allowed"):
            connect(server, now_s=lambda: now_s + 601, **chain).query(QUESTION)


@pytest.mark.parametrize(
    "message",
    [
        f"Failed to decode `block.number` value: `{only_indexed(5)}`",
        "bad indexers: {0x01: Unavailable(missing block: 9, latest: 5)}",
        "bad indexers: {0x01: Unavailable(too far behind)}",
    ],
)
def test_an_indexer_that_says_it_is_behind_is_believed(serve: Any, connect: Any, message: str) -> None:
    server = serve(error_answer(message))
    with pytest.raises(GraphBehind, match="wait, or name another endpoint"):
        connect(server).query(QUESTION)
    assert len(server.asked) == 3


def test_an_indexer_on_a_reorganised_block_is_refused_until_it_follows(
    serve: Any, connect: Any, evm: LocalEvm, indexer: Indexer, clock: Time
) -> None:
    before = evm.snapshot()
    evm.mine()
    indexer.head = orphan = fetch_block(evm)
    evm.revert(before)
    evm.travel(5)
    client = connect(serve(indexer))
    with pytest.raises(GraphForked, match=f"{PATH} is at block {orphan.number}, which is {orphan.hash} there and 0x"):
        client.query(QUESTION)
    client._sleep = lambda _: setattr(indexer, "head", fetch_block(evm))
    assert client.query(QUESTION).block == fetch_block(evm)


def test_an_indexer_on_a_block_that_the_chain_does_not_have_is_refused(
    serve: Any, connect: Any, indexer: Indexer
) -> None:
    indexer.head = replace(indexer.head, number=indexer.head.number + 1)
    with pytest.raises(GraphForked, match=f"{PATH} is at block {indexer.head.number}, the chain has"):
        connect(serve(indexer)).query(QUESTION)


def test_an_endpoint_whose_head_goes_back_further_than_a_reorg_is_refused(
    serve: Any, connect: Any, evm: LocalEvm, indexer: Indexer
) -> None:
    heads = [fetch_block(evm, number) for number in (5, 4, 3, 2)]
    client = connect(serve(indexer), max_reorg_blocks=2)
    for indexer.head in heads[:3]:
        assert client.query(QUESTION).block == indexer.head
    indexer.head = heads[3]
    with pytest.raises(GraphBehind, match="went back from block 5 to 2"):
        client.query(QUESTION)


def test_a_node_that_fails_is_not_taken_for_a_failing_indexer(serve: Any, connect: Any, indexer: Indexer) -> None:
    node = serve(Reply(status=500))
    provider = HTTPProvider(node.url, exception_retry_configuration=None)
    server = serve(indexer)
    for over in ({"chain_id": None}, {}):
        with pytest.raises(ReadingFailed, match="the node"):
            connect(server, server, chain=SimpleNamespace(w3=Web3(provider)), **over).query(QUESTION)
    assert len(server.asked) == 1


# Trying again, and elsewhere


def test_a_fault_that_passes_costs_one_pause(serve: Any, connect: Any, indexer: Indexer, clock: Time) -> None:
    server = serve(in_turn(Reply(hangs_up=True), indexer))
    assert connect(server).query(QUESTION).block == indexer.head
    assert clock.slept == [0.5]


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_waited_for(
    serve: Any, connect: Any, indexer: Indexer, clock: Time, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = in_turn(Reply(status=status, headers={"Retry-After": "7"}, body={"errors": []}), indexer)
    assert connect(serve(limited)).query(QUESTION)
    assert clock.slept == [7]
    monkeypatch.setattr("urllib3.util.retry.time.time", lambda: 1000)
    as_date = {"Retry-After": formatdate(1020, usegmt=True)}
    assert connect(serve(in_turn(Reply(status=status, headers=as_date), indexer))).query(QUESTION)
    assert clock.slept == [7, 20]


def test_whoever_wants_a_long_rest_is_not_waited_for_and_not_asked_meanwhile(
    serve: Any, connect: Any, indexer: Indexer, clock: Time
) -> None:
    server = serve(in_turn(Reply(status=429, headers={"Retry-After": "3600"}), indexer))
    client = connect(server)
    with pytest.raises(GraphUnavailable, match="status 429"):
        client.query(QUESTION)
    with pytest.raises(GraphUnavailable, match="left alone for 3600 s"):
        client.query(QUESTION)
    assert len(server.asked) == 1
    assert clock.slept == []
    clock.at_s = 3600
    assert client.query(QUESTION)


def test_endpoints_are_asked_in_order_and_the_one_that_answered_first_next_time(
    serve: Any, connect: Any, indexer: Indexer, clock: Time
) -> None:
    first = serve(in_turn(Reply(status=500), indexer))
    second = serve(in_turn(indexer, indexer, error_answer("auth error: API key not found")))
    third = serve(indexer)
    client = connect(first, second, third)
    answered = [client.query(QUESTION).endpoint.removesuffix(PATH) for _ in range(3)]
    assert answered == [server.url.removeprefix("http://") for server in (second, second, first)]
    assert [len(server.asked) for server in (first, second, third)] == [2, 3, 0]
    assert clock.slept == []


def test_another_endpoint_is_asked_while_one_rests(serve: Any, connect: Any, indexer: Indexer, clock: Time) -> None:
    first = serve(in_turn(Reply(status=429, headers={"Retry-After": "9"}), indexer))
    second = serve(in_turn(indexer, Reply(status=401)))
    client = connect(first, second)
    client.query(QUESTION)
    assert clock.slept == []
    client.query(QUESTION)
    assert clock.slept == [9], "the second one failed, so the first one was waited for"
    assert [len(server.asked) for server in (first, second)] == [2, 2]


def test_another_endpoint_answers_for_one_that_is_behind_forked_failed_or_wrong(
    serve: Any, connect: Any, evm: LocalEvm, indexer: Indexer, clock: Time
) -> None:
    behind = replace(indexer, head=fetch_block(evm))
    forked = replace(indexer, head=replace(indexer.head, hash="0x" + "00" * 32))
    failed = replace(indexer, has_errors=True)
    wrong = changed(indexer, lambda data: data.pop("trades"))
    evm.mine(11)
    indexer.head = fetch_block(evm)
    for bad in (behind, forked, failed, wrong):
        assert connect(serve(bad), serve(indexer)).query(QUESTION).block == indexer.head
    assert clock.slept == []


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ((Reply(status=404), Reply(status=503)), GraphUnavailable),
        ((error_answer(only_indexed(5)), Reply(status=404)), GraphBehind),
        ((Reply(status=404), error_answer("indexing_error")), GraphIndexingFailed),
        ((Reply(status=404), Reply(status=401)), GraphRefused),
    ],
)
def test_of_several_failures_the_most_hopeful_one_counts_and_all_are_named(
    serve: Any, connect: Any, replies: tuple[Reply, Reply], kind: type[GraphError]
) -> None:
    servers = [serve(reply) for reply in replies]
    with pytest.raises(GraphError) as failed:
        connect(*servers).query(QUESTION)
    assert type(failed.value) is kind
    for server in servers:
        assert f"{server.url.removeprefix('http://')}{PATH}: " in str(failed.value)


# The key


def test_the_key_comes_from_the_environment_and_goes_to_its_host_only(
    serve: Any, connect: Any, indexer: Indexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKETFLOW_GRAPH_KEY", KEY)
    server = serve(indexer)
    connect(server, settings=None).query(QUESTION)
    connect(server, settings=GraphSettings(key_host="27.0.0.1")).query(QUESTION)
    connect(server, settings=GraphSettings(key_host="127.0.0.1")).query(QUESTION)
    connect(server, settings=GraphSettings(key_host="0.0.1")).query(QUESTION)
    assert [asked.headers.get("authorization") for asked in server.asked] == [None, None, *[f"Bearer {KEY}"] * 2]
    assert {asked.path for asked in server.asked} == {PATH}


def test_a_redirection_is_not_followed(serve: Any, connect: Any, indexer: Indexer) -> None:
    elsewhere = serve(indexer)
    moved = serve(Reply(status=307, headers={"Location": elsewhere.url + PATH}))
    with pytest.raises(GraphRefused, match=r"status 307: .*check the address"):
        connect(moved, settings=GraphSettings(key=KEY, key_host="127.0.0.1")).query(QUESTION)
    assert elsewhere.asked == []


ECHOES = {
    "GraphQL error": error_answer(f"auth error: API key {KEY.upper()} not found"),
    "HTML": Reply(body=f"<html>{KEY.upper()} is unknown"),
    "status and headers": Reply(status=401, reason=KEY, headers={"X-Key": KEY}, body={"error": KEY}),
    "retried": Reply(status=503, reason=KEY, body=KEY),
    "wrong type": Reply(body={"data": {"trades": [{**TRADE, "amount": KEY}]}}),
    "redirection": Reply(status=302, headers={"Location": f"/{KEY}"}),
    "broken header": Reply(headers={"Content-Length": KEY}),
    "no HTTP at all": Reply(hangs_up=True, last_words=f"{KEY.upper()}\r\n".encode()),
}


@pytest.mark.parametrize("reply", ECHOES.values(), ids=ECHOES)
def test_the_key_is_shown_nowhere_though_the_server_repeats_it(
    serve: Any, connect: Any, caplog: pytest.LogCaptureFixture, reply: Reply
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = GraphSettings(key=KEY, key_host="127.0.0.1")
    server = serve(reply)
    client = connect(server, settings=settings, timeout_s=0.2)
    with pytest.raises(GraphError) as failed:
        client.query(QUESTION)
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
    shown = [repr(client), repr(settings), repr(failed.value), *traceback.format_exception(failed.value), caplog.text]
    assert KEY not in "\n".join(shown).lower()


# What comes back


def test_an_answer_comes_in_python_s_types_with_its_block_and_its_endpoint(
    serve: Any, connect: Any, indexer: Indexer
) -> None:
    server = serve(indexer)
    answer = connect(server).query(QUESTION)
    assert answer == GraphAnswer(
        data={"trades": [{**TRADE, "id": "0xab01", "amount": 10**30, "price": Decimal("-0.10"), "vault": {"id": "v"}}]},
        block=indexer.head, endpoint=f"{server.url.removeprefix('http://')}{PATH}", deployment="Qm1",
    )  # fmt: skip
    assert isinstance(answer.data["trades"][0]["amount"], int)
    assert isinstance(answer.data["trades"][0]["price"], Decimal)
    assert len(server.asked) == 1, "the block comes with the answer"


def test_aliases_fragments_and_one_s_own_meta_are_understood(serve: Any, connect: Any, indexer: Indexer) -> None:
    question = """
        query Named { sold: trades { ...amounts ... on Trade { price } } bought: trades { side } _meta { deployment } }
        fragment amounts on Trade { amount }
    """
    data = connect(serve(indexer)).query(question).data
    assert data == {
        "sold": [{"amount": 10**30, "price": Decimal("-0.10")}],
        "bought": [{"side": "BUY"}],
        "_meta": {"deployment": "Qm1"},
    }


def test_large_numbers_and_bytes_are_sent_as_the_graph_reads_them(serve: Any, connect: Any, indexer: Indexer) -> None:
    server = serve(indexer)
    client = connect(server)
    question = """
        query ($n: BigInt, $price: BigDecimal, $after: Bytes, $first: Int) {
          trades(first: $first, where: {amount_gt: $n, price_lt: $price, id_gt: $after}) { id }
        }
    """
    client.query(question, {"n": 2**200, "price": Decimal("1E+3"), "after": b"\xab", "first": 5})
    client.query(question, {"n": str(2**200), "price": 1000, "after": "0xAB", "first": 5})
    sent = {"n": str(2**200), "price": "1000", "after": "0xab", "first": 5, "block": None}
    assert [asked.body["variables"] for asked in server.asked] == [sent, sent]


def test_without_a_chain_the_indexer_s_word_is_taken(serve: Any, connect: Any, indexer: Indexer) -> None:
    indexer.head = replace(indexer.head, number=10**6)
    assert connect(serve(indexer), chain=None).query(QUESTION).block == indexer.head


# One block


def test_a_question_is_pinned_by_number_hash_or_reference(
    serve: Any, connect: Any, evm: LocalEvm, indexer: Indexer
) -> None:
    wanted = fetch_block(evm, 3)
    client = connect(serve(indexer))
    for block in (3, wanted.hash, wanted):
        assert client.query(QUESTION, block=block).block == wanted
    assert indexer.blocks == [{"number": 3}] * 3
    assert connect(serve(indexer), chain=None).query(QUESTION, block=wanted).block == wanted


def test_a_block_that_the_chain_does_not_have_is_not_asked_for(serve: Any, connect: Any, indexer: Indexer) -> None:
    server = serve(indexer)
    for unknown in (99, "0x" + "00" * 32):
        with pytest.raises(GraphForked, match=f"the chain has no block {unknown}"):
            connect(server).query(QUESTION, block=unknown)
    with pytest.raises(GraphRefused, match="give a BlockRef"):
        connect(server, chain=None).query(QUESTION, block=3)
    assert server.asked == []


def test_a_block_that_the_chain_has_no_longer_is_refused(
    serve: Any, connect: Any, evm: LocalEvm, indexer: Indexer
) -> None:
    gone = replace(fetch_block(evm, 3), hash="0x" + "00" * 32)
    with pytest.raises(GraphForked, match="the chain was reorganised"):
        connect(serve(indexer)).query(QUESTION, block=gone)


def test_an_indexer_that_answers_for_a_block_it_has_not_reached_is_refused(
    serve: Any, connect: Any, evm: LocalEvm, indexer: Indexer
) -> None:
    evm.mine()
    wanted = fetch_block(evm)
    with pytest.raises(GraphBehind, match=f"is only at {wanted.number - 1}, not at {wanted.number}"):
        connect(serve(indexer)).query(QUESTION, block=wanted)


# Every row


def test_every_row_comes_once_at_one_block_while_the_chain_grows(
    serve: Any, connect: Any, evm: LocalEvm, indexer: Indexer
) -> None:
    first, indexer.rows, progress = indexer.head, rows(2500), []

    def grow(asked: Asked) -> Reply:
        reply = indexer(asked)
        evm.mine()
        indexer.head = fetch_block(evm)
        return reply

    answer = connect(serve(grow)).fetch_all("trades", "sequence", on_progress=progress.append)
    assert [row["sequence"] for row in answer.data["trades"]] == list(range(2500))
    assert answer.block == first
    assert indexer.blocks == [None, {"number": first.number}, {"number": first.number}]
    assert progress == [1000, 2000, 2500]


def test_a_reorg_in_the_middle_of_paging_gives_no_rows(
    serve: Any, connect: Any, evm: LocalEvm, indexer: Indexer
) -> None:
    before = evm.snapshot()
    evm.mine()
    indexer.head, indexer.rows = fetch_block(evm), rows(2500)

    def reorganise(asked: Asked) -> Reply:
        reply = indexer(asked)
        evm.revert(before)
        evm.travel(5)
        evm.mine()
        indexer.head = fetch_block(evm)
        return reply

    client = connect(serve(in_turn(indexer, reorganise, indexer)))
    with pytest.raises(GraphForked):
        client.fetch_all("trades", "sequence")
    assert len(client.fetch_all("trades", "sequence").data["trades"]) == 2500, "once more, and it is right"


def test_long_rows_come_in_shorter_pages(
    serve: Any, connect: Any, indexer: Indexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else anybody's long text on chain would keep everybody from reading what is beside it."""
    monkeypatch.setattr("oracle.thegraph.MAX_ANSWER_BYTES", 2**14)
    monkeypatch.setattr("oracle.thegraph.LONG_ANSWER_BYTES", 2**13)
    indexer.rows = rows(500)
    answer = connect(serve(indexer)).fetch_all("trades", "sequence")
    assert [row["sequence"] for row in answer.data["trades"]] == list(range(500))


def test_a_row_that_is_too_long_alone_is_refused(
    serve: Any, connect: Any, indexer: Indexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oracle.thegraph.MAX_ANSWER_BYTES", 100)
    monkeypatch.setattr("oracle.thegraph.LONG_ANSWER_BYTES", 100)
    with pytest.raises(GraphTooLong, match="ask for less at once"):
        connect(serve(indexer)).fetch_all("trades", "sequence")


def test_pages_are_of_one_deployment(serve: Any, connect: Any, indexer: Indexer) -> None:
    indexer.rows = rows(1000)
    first = serve(in_turn(indexer, Reply(status=503)))
    second = serve(replace(indexer, deployment="Qm2"))
    with pytest.raises(GraphRefused, match="another deployment than"):
        connect(first, second).fetch_all("trades", "sequence")


def test_paging_goes_on_at_another_endpoint(serve: Any, connect: Any, indexer: Indexer) -> None:
    indexer.rows = rows(2500)
    answer = connect(serve(in_turn(indexer, Reply(status=503))), serve(indexer)).fetch_all("trades", "sequence")
    assert [row["sequence"] for row in answer.data["trades"]] == list(range(2500))


def test_a_server_that_gives_the_same_page_for_ever_is_refused(serve: Any, connect: Any, indexer: Indexer) -> None:
    indexer.rows = rows(1000)
    same = changed(indexer, lambda data: data.update(trades=indexer.rows))
    with pytest.raises(GraphRefused, match="in the order of their ids"):
        connect(serve(same)).fetch_all("trades", "sequence")


def test_a_filter_of_one_s_own_and_a_block_go_with_every_page(serve: Any, connect: Any, indexer: Indexer) -> None:
    indexer.rows = rows(1000)
    server = serve(indexer)
    assert connect(server).fetch_all("trades", "sequence", where={"amount_gt": 5}, block=3).block.number == 3
    assert [asked.body["variables"] for asked in server.asked] == [
        {"where": {"and": [{"amount_gt": "5"}, {"id_gt": last}]}, "block": {"number": 3}}
        for last in ("0x", indexer.rows[-1]["id"])
    ]


def test_ids_that_are_text_are_paged_from_the_empty_one(serve: Any, connect: Any, indexer: Indexer) -> None:
    indexer.rows = [{"id": text, "name": text} for text in sorted(str(number) for number in range(1500))]
    server = serve(indexer)
    answer = connect(server).fetch_all("vaults", "name")
    assert answer.data["vaults"] == indexer.rows
    assert server.asked[0].body["variables"]["where"] == {"id_gt": ""}


@pytest.mark.parametrize("name", ["trade", "_meta", "strategies"])
def test_only_fields_with_rows_are_paged(serve: Any, connect: Any, indexer: Indexer, name: str) -> None:
    with pytest.raises(GraphRefused, match=f"no rows called {name}"):
        connect(serve(indexer)).fetch_all(name, "id")


# After a write


def test_waiting_ends_when_the_indexer_has_the_block(
    serve: Any, connect: Any, evm: LocalEvm, indexer: Indexer, clock: Time
) -> None:
    evm.mine()
    written = fetch_block(evm)
    catching_up = replace(indexer, head=written)
    server = serve(in_turn(indexer, Reply(status=503), catching_up))
    assert connect(server).wait_for_block(written.number, 5) == written
    assert clock.slept == [0.5, 0.5]
    assert server.asked[0].body["variables"] == {"block": {"number_gte": written.number}}


def test_waiting_ends_with_the_reason_when_it_takes_too_long(
    serve: Any, connect: Any, indexer: Indexer, clock: Time
) -> None:
    server = serve(indexer)
    with pytest.raises(GraphBehind, match="has only indexed up to"):
        connect(server).wait_for_block(indexer.head.number + 1, 5)
    assert clock.at_s == 5
    heedless = serve(lambda asked: indexer(replace(asked, body={**asked.body, "variables": {}})))
    with pytest.raises(GraphBehind, match="is only at"):
        connect(heedless).wait_for_block(indexer.head.number + 1, 1)
