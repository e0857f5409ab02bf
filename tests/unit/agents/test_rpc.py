"""The pool of RPC endpoints: what it refuses, where it goes next, and what it never says."""

import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from eth_account import Account
from web3 import Web3
from web3.exceptions import MethodNotSupported, Web3RPCError

from agents import rpc
from agents.chain import RemoteChain
from agents.errors import Misconfigured, Retryable
from agents.localnet.anvil import AnvilProcess, find_anvil
from agents.localnet.evm import CHAIN_ID, GENESIS_S, MNEMONIC, CallReverted, LocalEvm, start_evm
from agents.rpc import BlockNotReached, EndpointPool, NoAnswer, RpcError
from tests.unit.oracle.misbehaving import Asked, MisbehavingServer, Reply

pytestmark = pytest.mark.skipif(find_anvil() is None, reason="anvil is not installed")

KEY = "v3/0123456789abcdefSECRET"
WHOLE = '{"jsonrpc":"2.0","id":%d,"result":"0x2a"}'
BROKEN_OFF = Reply(body=WHOLE % 1, cut_at=20)
HASH = "0x" + "ab" * 32
NOBODY = "0x" + "11" * 20

# Of 127.0.0.1, signed by itself, until 2126. The key is no secret: everybody has it.
CERTIFICATE_AND_KEY = """\
-----BEGIN CERTIFICATE-----
MIIBkDCCATagAwIBAgIUaUnOJXK6Rgn8AYFs0AldpvlYkLEwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJMTI3LjAuMC4xMCAXDTI2MTEyMjE4MzUzN1oYDzIxMjYxMDI5
MTgzNTM3WjAUMRIwEAYDVQQDDAkxMjcuMC4wLjEwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASIguoRyzC6npgsAByMMJFwYjtAf2gucm918m6btTiKpJkXgPuSF73I
h5IxFWdRiwNWZ9ab/vjVJVLE62m0zdl8o2QwYjAdBgNVHQ4EFgQUtn5w9FIK21rb
dEIza6fDws9FzDswHwYDVR0jBBgwFoAUtn5w9FIK21rbdEIza6fDws9FzDswDwYD
VR0TAQH/BAUwAwEB/zAPBgNVHREECDAGhwR/AAABMAoGCCqGSM49BAMCA0gAMEUC
IQCa3NBywwQE4E4RU+cjGzBQVEi1yF9FuzOM9HNvp6JLdAIgRvPfhTmg9SC3ceqE
WQs+0PYX+V8mMNrkfSo5Nm8yCho=
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQggcY0JhnXgecWfH+t
RUvPUpMdUq55Thn7X2zhmrcFehihRANCAASIguoRyzC6npgsAByMMJFwYjtAf2gu
cm918m6btTiKpJkXgPuSF73Ih5IxFWdRiwNWZ9ab/vjVJVLE62m0zdl8
-----END PRIVATE KEY-----
"""


class Clock:
    """Time that passes when somebody sleeps, or is told."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


class FakeNode:
    """A node at a height, whose answers to one method can be replaced: by a Reply, an error, or a function of both."""

    def __init__(self, *, head: int = 100, chain_id: int = CHAIN_ID) -> None:
        self.head, self.chain_id = head, chain_id
        self.instead: dict[str, Any] = {}
        self.takes_batches = True
        self.server = MisbehavingServer(self.answer)

    def __call__(self, asked: Asked) -> Reply:
        return self.answer(asked)

    def answer(self, asked: Asked) -> Reply:
        if isinstance(asked.body, list):
            if "batch" in self.instead:
                return self.instead["batch"](asked.body)
            if not self.takes_batches:
                return Reply(body={"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no batches"}})
            answers = [self.answer_one(body) for body in asked.body]
            return Reply(body=[answer for answer in answers if not isinstance(answer, Reply)])
        answer = self.answer_one(asked.body)
        return answer if isinstance(answer, Reply) else Reply(body=answer)

    def answer_one(self, body: dict[str, Any]) -> Any:
        told = self.instead.get(body["method"], self.usual(body))
        if callable(told):
            told = told(body)
        if isinstance(told, Reply):
            return told
        member = "error" if isinstance(told, dict) and "code" in told else "result"
        return {"jsonrpc": "2.0", "id": body["id"], member: told}

    def usual(self, body: dict[str, Any]) -> Any:
        match body["method"]:
            case "eth_chainId":
                return hex(self.chain_id)
            case "eth_blockNumber":
                return hex(self.head)
            case "eth_sendRawTransaction":
                return HASH
        return "0x2a"

    def asked_for(self, method: str) -> int:
        bodies = [body for a in self.server.asked for body in (a.body if isinstance(a.body, list) else [a.body])]
        return sum(body["method"] == method for body in bodies)


Build = Callable[..., EndpointPool]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def create_node(stack: ExitStack) -> Callable[..., FakeNode]:
    def create(**options: Any) -> FakeNode:
        node = FakeNode(**options)
        stack.enter_context(node.server)
        return node

    return create


@pytest.fixture
def create_pool(stack: ExitStack, clock: Clock) -> Build:
    def create(*nodes: Any, path: str = "", **options: Any) -> EndpointPool:
        urls = [node if isinstance(node, str) else f"{node.server.url}/{path}" for node in nodes]
        options = {"chain_id": CHAIN_ID, "clock": clock, "sleep": clock.sleep} | options
        return stack.enter_context(EndpointPool(urls, **options))

    return create


@pytest.fixture
def evm() -> Iterator[LocalEvm]:
    with start_evm("anvil") as started:
        yield started


def host(node: FakeNode) -> str:
    return node.server.url.removeprefix("http://")


def prefer(pool: EndpointPool, node: FakeNode) -> None:
    """Lets all others have been slow."""
    pool.check()
    for endpoint in pool._endpoints:
        endpoint.latency_s = 0.0 if endpoint.name == host(node) else 100.0


def start_anvil(*, chain_id: int = CHAIN_ID, port: int | None = None) -> AnvilProcess:
    return AnvilProcess(
        mnemonic=MNEMONIC,
        accounts=1,
        chain_id=chain_id,
        timestamp_s=GENESIS_S,
        block_gas_limit=30_000_000,
        history_blocks=10,
        port=port,
    )


def balance(pool: EndpointPool, block: str = "latest") -> Any:
    return pool.make_request("eth_getBalance", [NOBODY, block])["result"]


def raw_transactions(evm: LocalEvm, count: int) -> list[bytes]:
    fields = {"to": NOBODY, "value": 1, "gas": 21_000, "gasPrice": 10**9, "chainId": CHAIN_ID}
    key = evm.accounts[0].key
    return [bytes(Account.sign_transaction({**fields, "nonce": n}, key).raw_transaction) for n in range(count)]


# Addresses and what is never said


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example",
        "ftp://a.example/KEY",
        "https:///KEY",
        "https://a.example:port/KEY",
        "https://[::1/KEY",
        "https://a.example/K\tEY",
        "https://a.example/KEÝ",
    ],
)
def test_an_address_that_is_none_is_refused_without_being_said(url):
    with pytest.raises(Misconfigured, match="RPC endpoint 2 is no address") as refused:
        EndpointPool(["http://127.0.0.1:1", url], chain_id=1)
    assert "KE" not in str(refused.value)


def test_no_address_at_all_is_refused():
    with pytest.raises(Misconfigured, match="name at least one"):
        EndpointPool([], chain_id=1)


@pytest.mark.parametrize("requests_per_s", [0, -1])
def test_a_rate_at_which_nothing_is_sent_is_refused(requests_per_s):
    with pytest.raises(Misconfigured, match="requests per second"):
        EndpointPool(["http://127.0.0.1:1"], chain_id=1, requests_per_s=requests_per_s)


def test_path_query_and_user_are_in_no_message_log_or_repr(create_node, create_pool, caplog):
    caplog.set_level(logging.DEBUG)
    node = create_node()
    address = f"http://USERSECRET:PASSSECRET@{host(node)}/{KEY}?token=QUERYSECRET"
    echo = f"bad gateway for {address}"
    pool = create_pool(address, "http://USERSECRET:PASSSECRET@127.0.0.1:1/" + KEY)
    said = [repr(pool), str(pool), repr(pool._endpoints[0])]
    node.instead["eth_getBalance"] = {"code": -32603, "message": echo}
    with pytest.raises(Retryable) as retryable:
        balance(pool)
    node.instead["eth_getBalance"] = {"code": -32000, "message": f"insufficient funds, {address}", "data": address}
    said.append(str(pool.make_request("eth_getBalance", [NOBODY, "latest"])))
    node.instead["eth_getBalance"] = Reply(status=401, body=echo)
    with pytest.raises(Retryable) as refused:
        balance(pool)
    # urllib3 would log the whole address for a header that can't be read.
    node.instead["eth_getBalance"] = Reply(headers={"X": "y\r\n no header\r\nat all"}, body="{}")
    with pytest.raises(Retryable):
        balance(pool)
    node.chain_id = 5
    with pytest.raises(Misconfigured) as misconfigured:
        create_pool(address).check()
    for error in (retryable.value, refused.value, misconfigured.value):
        said += [str(error), repr(error), repr(error.__cause__)]
    said += [repr(pool.heads()), caplog.text]
    assert host(node) in str(retryable.value)
    assert "SECRET" not in "".join(said)


def test_user_and_password_are_sent_as_a_header(create_node, create_pool):
    node = create_node()
    balance(create_pool(f"http://us%40er:pass@{host(node)}/"))
    assert node.server.asked[-1].headers["authorization"] == "Basic dXNAZXI6cGFzcw=="
    assert node.server.asked[-1].headers["host"] == host(node)


def test_two_addresses_of_one_host_have_two_names(create_node, create_pool):
    node = create_node()
    pool = create_pool(f"{node.server.url}/KEY1", f"{node.server.url}/KEY2")
    assert list(pool.heads()) == [host(node), f"{host(node)}#2"]


# TLS


@pytest.fixture
def tls_node(create_node, tmp_path) -> FakeNode:
    node = create_node()
    (tmp_path / "own.pem").write_text(CERTIFICATE_AND_KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem")
    # On the first read, in the connection's thread: who does not trust it must not end the server.
    http = node.server._server
    http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
    http.handle_error = lambda *_: None
    return node


def test_a_certificate_that_nobody_vouches_for_is_refused(tls_node, create_pool):
    with pytest.raises(Retryable, match="its certificate is not valid"):
        balance(create_pool(tls_node.server.url.replace("http:", "https:")))
    assert tls_node.server.asked == []


def test_an_endpoint_with_tls_is_asked(tls_node, create_pool, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))
    pool = create_pool(tls_node.server.url.replace("http:", "https:"))
    assert [balance(pool) for _ in range(3)] == ["0x2a"] * 3
    # The connection is kept.
    assert tls_node.asked_for("eth_chainId") == 1


def test_an_endpoint_without_tls_is_not_asked_for_what_needs_it(create_node, create_pool):
    with pytest.raises(Retryable, match="does not speak TLS"):
        balance(create_pool(create_node().server.url.replace("http:", "https:")))


# The chain


def test_an_endpoint_on_another_chain_is_never_used_and_named(create_node, create_pool):
    good, other = create_node(), create_node(chain_id=5)
    pool = create_pool(good, other)
    for _ in range(2):
        with pytest.raises(Misconfigured, match=rf"{host(other)} is on chain 5, expected is chain {CHAIN_ID}"):
            balance(pool)
    assert other.asked_for("eth_getBalance") == 0
    assert not pool.is_connected()


def test_an_endpoint_that_comes_back_on_another_chain_is_not_used(create_pool, stack):
    first = start_anvil()
    stack.callback(first.close)
    pool = create_pool(f"http://127.0.0.1:{first.port}/?{KEY}")
    assert balance(pool) == "0x0"
    first.close()
    second = start_anvil(chain_id=5, port=first.port)
    stack.callback(second.close)
    with pytest.raises(Misconfigured, match="is on chain 5"):
        balance(pool)
    assert pool.heads()[f"127.0.0.1:{first.port}"].wrong_chain_id == 5


def test_a_pool_goes_on_without_the_endpoint_that_came_back_on_another_chain(create_node, create_pool, clock):
    first, second = create_node(), create_node()
    pool = create_pool(first, second)
    prefer(pool, first)
    first.instead["eth_getBalance"] = BROKEN_OFF
    balance(pool)
    del first.instead["eth_getBalance"]
    first.chain_id = 5
    second.instead["eth_getBalance"] = Reply(status=500)
    with pytest.raises(Retryable, match=rf"{host(first)} \(is on chain 5"):
        balance(pool)
    del second.instead["eth_getBalance"]
    assert balance(pool) == "0x2a"
    assert first.asked_for("eth_getBalance") == 1


def test_an_answer_over_a_new_connection_to_another_chain_is_not_believed(create_node, create_pool):
    node = create_node()
    pool = create_pool(node)
    balance(pool)
    [kept] = [connection for connection in pool._endpoints[0].http.pool.queue if connection]
    kept.sock.shutdown(socket.SHUT_RDWR)
    node.chain_id = 5
    with pytest.raises(Misconfigured, match="is on chain 5"):
        balance(pool)
    assert pool.heads()[host(node)].head is None


def test_an_endpoint_that_was_mended_is_used_again(create_node, create_pool, clock):
    node = create_node()
    pool = create_pool(node)
    balance(pool)
    node.instead["eth_chainId"], node.instead["eth_getBalance"] = "0x5", BROKEN_OFF
    with pytest.raises(Retryable):
        balance(pool)
    with pytest.raises(Misconfigured):
        balance(pool)
    node.instead.clear()
    clock.now_s += rpc.LONGEST_BACKOFF_S
    assert balance(pool) == "0x2a"
    assert pool.heads()[host(node)].wrong_chain_id is None


# What is an answer, and what is not

NOT_AN_ANSWER = {
    "hangs up": Reply(hangs_up=True),
    "no HTTP": Reply(hangs_up=True, last_words=b"SSH-2.0-OpenSSH\r\n\r\n"),
    "cut": BROKEN_OFF,
    "cut behind the JSON": lambda body: Reply(body=WHOLE % body["id"] + " " * 9, cut_at=len(WHOLE % body["id"])),
    "HTML": Reply(body="<html>captcha</html>"),
    "half JSON": Reply(body='{"jsonrpc":"2.0","id":'),
    "deep JSON": Reply(body="[" * 100_000),
    "a list": Reply(body=[]),
    "a number": Reply(body="7"),
    "no UTF-8": Reply(body=b"\xff\xfe"),
    "empty": Reply(body=""),
    "HTTP 500": Reply(status=500),
    "HTTP 502": Reply(status=502, body="<html>"),
    "HTTP 401": Reply(status=401, body="no"),
    "HTTP 301": Reply(status=301, headers={"Location": "http://127.0.0.1:1/"}),
    "HTTP 429": Reply(status=429),
    "wrong id": Reply(body={"jsonrpc": "2.0", "id": 999_999, "result": "0x2a"}),
    "id is true": Reply(body={"jsonrpc": "2.0", "id": True, "result": "0x2a"}),
    "no result": lambda body: Reply(body={"jsonrpc": "2.0", "id": body["id"]}),
    "both": lambda body: Reply(
        body={"jsonrpc": "2.0", "id": body["id"], "result": "0x1", "error": {"code": 1, "message": "x"}}
    ),
    "error is text": lambda body: Reply(body={"jsonrpc": "2.0", "id": body["id"], "error": "no"}),
    "error without code": lambda body: Reply(body={"jsonrpc": "2.0", "id": body["id"], "error": {"message": "no"}}),
    "error without words": lambda body: Reply(body={"jsonrpc": "2.0", "id": body["id"], "error": {"code": 1}}),
    "result is null": lambda body: Reply(body={"jsonrpc": "2.0", "id": body["id"], "result": None}),
    "result is a list": lambda body: Reply(body={"jsonrpc": "2.0", "id": body["id"], "result": ["0x2a"]}),
    "result is no hex": lambda body: Reply(body={"jsonrpc": "2.0", "id": body["id"], "result": "0xzz"}),
    "limit exceeded": {"code": -32005, "message": "limit exceeded"},
    "rate limited": {"code": -32000, "message": "Rate limit reached, slow down"},
    "header not found": {"code": -32000, "message": "header not found"},
    "trie node": {"code": -32603, "message": "missing trie node 0xabc (path )"},
    "internal error": {"code": -32603, "message": "Internal error"},
    "geth's timeout": {"code": -32002, "message": "too slow"},
    "nodes behind it": {"code": -32603, "message": "upstream unavailable"},
}


@pytest.mark.parametrize("answer", NOT_AN_ANSWER.values(), ids=NOT_AN_ANSWER.keys())
def test_what_is_no_answer_leads_to_the_next_endpoint(create_node, create_pool, answer):
    bad, good = create_node(), create_node()
    bad.instead["eth_getBalance"] = answer
    pool = create_pool(bad, good)
    prefer(pool, bad)
    assert balance(pool) == "0x2a"
    assert (bad.asked_for("eth_getBalance"), good.asked_for("eth_getBalance")) == (1, 1)
    pool = create_pool(bad)
    with pytest.raises(Retryable, match=rf"no endpoint answered eth_getBalance: {host(bad)} \("):
        balance(pool)


@pytest.mark.parametrize(
    "error",
    [
        {"code": 3, "message": "execution reverted: rate limit exceeded", "data": "0x08c379a0"},
        {"code": -32000, "message": "execution reverted: header not found"},
        {"code": -32003, "message": "nonce too low"},
        {"code": -32000, "message": "already known"},
        {"code": -32000, "message": "insufficient funds for gas * price + value"},
        {"code": -32005, "message": "query returned more than 10000 results"},
        {"code": -32601, "message": "the method eth_foo does not exist"},
        {"code": -32602, "message": "invalid argument 0"},
    ],
    ids=lambda error: error["message"],
)
def test_a_refusal_is_an_answer_and_nobody_else_is_asked(create_node, create_pool, error):
    nodes = [create_node(), create_node()]
    for node in nodes:
        node.instead["eth_sendRawTransaction"] = error
    pool = create_pool(*nodes)
    assert pool.make_request("eth_sendRawTransaction", ["0x00"])["error"] == error
    assert sum(node.asked_for("eth_sendRawTransaction") for node in nodes) == 1
    assert all(health.consecutive_errors == 0 for health in pool.heads().values())


def test_when_every_endpoint_fails_each_is_named_with_its_reason(create_node, create_pool):
    limited, broken = create_node(), create_node()
    pool = create_pool(limited, broken, "http://127.0.0.1:1/" + KEY)
    limited.instead["eth_getBalance"], broken.instead["eth_getBalance"] = Reply(status=429), Reply(body="<html>")
    with pytest.raises(Retryable) as failed:
        balance(pool)
    assert rf"{host(limited)} (HTTP 429" in str(failed.value)
    assert rf"{host(broken)} (answered with no JSON)" in str(failed.value)
    assert "127.0.0.1:1 (refused the connection" in str(failed.value)


@pytest.mark.parametrize("block", [[], {}, "0x1", {"number": 1}, {"number": "0x1", "hash": None, "timestamp": "0x1"}])
def test_a_block_that_is_none_never_surfaces_as_a_key_error(create_node, create_pool, block):
    node = create_node()
    node.instead["eth_getBlockByNumber"] = block
    with pytest.raises(Retryable, match="answered eth_getBlockByNumber with what is none"):
        Web3(create_pool(node)).eth.get_block("latest")


def test_an_answer_that_drips_ends_at_the_deadline(create_node, create_pool):
    node = create_node()
    node.instead["eth_getBalance"] = Reply(body="x" * 1000, drip_s=0.05)
    pool = create_pool(node, timeout_s=0.3, clock=time.monotonic, sleep=time.sleep)
    with pytest.raises(Retryable, match="did not answer in time"):
        balance(pool)


def test_an_answer_without_end_is_refused(create_node, create_pool, monkeypatch):
    monkeypatch.setattr(rpc, "MAX_ANSWER_BYTES", 10_000)
    node = create_node()
    node.instead["eth_getBalance"] = Reply(body="x" * 20_000)
    with pytest.raises(Retryable, match="answered with too much"):
        balance(create_pool(node))


# What may be sent twice


def test_a_raw_transaction_goes_to_the_next_endpoint_when_the_answer_was_lost(evm, create_pool, create_node):
    [raw] = raw_transactions(evm, 1)
    liar = create_node(head=0)
    liar.instead["eth_sendRawTransaction"] = Reply(hangs_up=True)
    pool = create_pool(liar, evm.url)
    prefer(pool, liar)
    assert pool.make_request("eth_sendRawTransaction", [raw])["result"] == Web3.to_hex(Web3.keccak(raw))


def test_what_must_not_be_done_twice_is_not_repeated_when_the_answer_was_lost(create_node, create_pool):
    first, second = create_node(), create_node()
    first.instead["evm_mine"] = second.instead["evm_mine"] = Reply(hangs_up=True)
    pool = create_pool(first, second)
    with pytest.raises(Retryable, match=r"was sent evm_mine and hung up: it may be done"):
        pool.make_request("evm_mine", [])
    assert first.asked_for("evm_mine") + second.asked_for("evm_mine") == 1


def test_what_must_not_be_done_twice_goes_on_when_it_was_not_begun(create_node, create_pool):
    first, second = create_node(), create_node()
    first.instead["evm_mine"] = Reply(status=429)
    pool = create_pool(first, second)
    prefer(pool, first)
    assert pool.make_request("evm_mine", [])["result"] == "0x2a"


def test_a_batch_refuses_what_must_not_be_done_twice(create_node, create_pool):
    with pytest.raises(ValueError, match="eth_sendTransaction may not be repeated"):
        create_pool(create_node()).batch([("eth_blockNumber", []), ("eth_sendTransaction", [{}])])


@pytest.mark.parametrize("method", ["eth_newFilter", "eth_getFilterChanges", "eth_subscribe"])
def test_what_lives_in_one_node_is_refused(create_node, create_pool, method):
    with pytest.raises(MethodNotSupported, match="one node of several"):
        create_pool(create_node()).make_request(method, [])


# Health


def test_a_killed_node_is_left_for_the_next_in_mid_use(create_pool):
    with start_evm("anvil") as first, start_evm("anvil") as second:
        chain = RemoteChain(Web3(create_pool(first.url, second.url)), chain_id=CHAIN_ID)
        assert chain.now_s() == GENESIS_S
        first.close()
        assert [chain.now_s() for _ in range(3)] == [GENESIS_S] * 3


def test_a_circuit_opens_and_the_endpoint_is_left_alone_until_its_pause_is_over(create_node, create_pool, clock):
    node = create_node()
    pool = create_pool(node)
    node.instead["eth_getBalance"] = Reply(status=500)
    for _ in range(rpc.FAILURES_TO_OPEN):
        with pytest.raises(Retryable):
            balance(pool)
    opened = pool.heads()[host(node)]
    assert (opened.circuit, opened.consecutive_errors) == ("open", rpc.FAILURES_TO_OPEN)
    assert opened.rests_s == rpc.FIRST_BACKOFF_S
    clock.now_s += opened.rests_s
    assert pool.heads()[host(node)].circuit == "half-open"
    del node.instead["eth_getBalance"]
    checks = node.asked_for("eth_chainId")
    assert balance(pool) == "0x2a"
    assert node.asked_for("eth_chainId") == checks + 1
    assert (pool.heads()[host(node)].circuit, pool.heads()[host(node)].consecutive_errors) == ("closed", 0)


def test_the_pause_of_a_circuit_grows_to_a_bound(create_node, create_pool, clock):
    node = create_node()
    pool = create_pool(node)
    balance(pool)
    node.instead["eth_getBalance"] = node.instead["eth_chainId"] = Reply(status=500)
    pauses = []
    for _ in range(14):
        with pytest.raises(Retryable):
            balance(pool)
        pauses.append(pool.heads()[host(node)].rests_s)
        clock.now_s += pauses[-1]
    assert pauses[2:5] == [0.5, 1.0, 2.0]
    assert pauses[-1] == rpc.LONGEST_BACKOFF_S


def test_an_open_circuit_is_not_asked_and_a_long_rest_is_not_waited_for(create_node, create_pool, clock):
    node = create_node()
    pool = create_pool(node)
    node.instead["eth_getBalance"] = Reply(status=503, headers={"Retry-After": "30"})
    for _ in range(5):
        with pytest.raises(Retryable, match=r"HTTP 503"):
            balance(pool)
    assert node.asked_for("eth_getBalance") == 1
    assert clock.slept == []


@pytest.mark.parametrize(
    ("retry_after", "rest_s"),
    [
        ("7", 7),
        ("100000", rpc.LONGEST_REST_S),
        ("9" * 5000, rpc.DEFAULT_REST_S),
        ("soon", rpc.DEFAULT_REST_S),
        ("-5", rpc.DEFAULT_REST_S),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
    ],
    ids=["seconds", "capped", "absurd", "no number", "negative", "a past date"],
)
def test_retry_after_is_honoured_and_capped(create_node, create_pool, retry_after, rest_s):
    node = create_node()
    pool = create_pool(node)
    node.instead["eth_getBalance"] = Reply(status=429, headers={"Retry-After": retry_after})
    with pytest.raises(Retryable):
        balance(pool)
    assert pool.heads()[host(node)].rests_s == rest_s


@pytest.mark.parametrize("calls", [1, 3])
def test_a_limit_that_is_said_without_an_id_is_a_limit_and_no_refusal_of_batches(create_node, create_pool, calls):
    node = create_node()
    pool = create_pool(node)
    limit = Reply(body={"jsonrpc": "2.0", "id": None, "error": {"code": -32005, "message": "limit exceeded"}})
    node.instead["eth_getBalance"], node.instead["batch"] = limit, lambda _: limit
    with pytest.raises(Retryable, match="said -32005"):
        pool.batch([("eth_getBalance", [NOBODY, "latest"])] * calls)
    assert pool.heads()[host(node)].rests_s == rpc.DEFAULT_REST_S
    assert len(node.server.asked) == 3


def test_retry_after_as_a_date_is_counted_from_the_answers_own_date(create_node, create_pool):
    node = create_node()
    pool = create_pool(node)
    # The server's own Date header is the machine's time.
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    node.instead["eth_getBalance"] = Reply(status=503, headers={"Retry-After": until})
    with pytest.raises(Retryable):
        balance(pool)
    assert 25 <= pool.heads()[host(node)].rests_s <= 30


def test_a_short_rest_is_waited_for(create_node, create_pool, clock):
    node = create_node()
    pool = create_pool(node)
    replies = iter([Reply(status=429, headers={"Retry-After": "1"})])
    node.instead["eth_getBalance"] = lambda _: next(replies, "0x7")
    with pytest.raises(Retryable):
        balance(pool)
    assert balance(pool) == "0x7"
    assert clock.slept == [1.0]


def test_the_endpoint_that_failed_is_asked_last(create_node, create_pool):
    first, second = create_node(), create_node()
    pool = create_pool(first, second)
    prefer(pool, first)
    first.instead["eth_getBalance"] = Reply(status=500)
    for _ in range(4):
        assert balance(pool) == "0x2a"
    assert first.asked_for("eth_getBalance") == 1
    assert second.asked_for("eth_getBalance") == 4


def test_a_much_faster_endpoint_is_preferred(create_node, create_pool):
    slow, fast = create_node(), create_node()
    slow.instead["eth_chainId"] = lambda body: Reply(
        body={"jsonrpc": "2.0", "id": body["id"], "result": hex(CHAIN_ID)}, delay_s=0.1
    )
    pool = create_pool(slow, fast, clock=time.monotonic, sleep=time.sleep)
    balance(pool)
    assert slow.asked_for("eth_getBalance") == 0


def test_the_endpoint_that_was_asked_last_is_kept_unless_another_is_twice_as_fast(create_node, create_pool):
    first, second = create_node(), create_node()
    pool = create_pool(first, second)
    prefer(pool, first)
    balance(pool)
    pool._endpoints[0].latency_s, pool._endpoints[1].latency_s = 1.5, 1.0
    balance(pool)
    assert (first.asked_for("eth_getBalance"), second.asked_for("eth_getBalance")) == (2, 0)
    pool._endpoints[0].latency_s = 2.5
    balance(pool)
    assert (first.asked_for("eth_getBalance"), second.asked_for("eth_getBalance")) == (2, 1)


def test_a_circuit_is_closed_by_a_look_but_opens_at_the_next_failure(create_node, create_pool, clock):
    node = create_node()
    pool = create_pool(node)
    node.instead["eth_getBalance"] = Reply(status=500)
    for _ in range(rpc.FAILURES_TO_OPEN):
        with pytest.raises(Retryable):
            balance(pool)
    assert pool.heads()[host(node)].circuit == "open"
    clock.now_s += rpc.FIRST_BACKOFF_S
    pool._look_at(pool._endpoints[0])
    assert pool.heads()[host(node)].circuit == "closed"
    with pytest.raises(Retryable):
        balance(pool)
    again = pool.heads()[host(node)]
    assert (again.circuit, again.rests_s) == ("open", 2 * rpc.FIRST_BACKOFF_S)


def test_a_request_is_counted_with_host_method_and_outcome(create_node, create_pool):
    told: list[tuple[str, str, str]] = []
    node = create_node()
    pool = create_pool(node, on_request=lambda *one: told.append((one[0], one[1], one[3])))
    balance(pool)
    node.instead["eth_getBalance"] = {"code": -32000, "message": "nonce too low"}
    pool.make_request("eth_getBalance", [NOBODY, "latest"])
    node.instead["eth_getBalance"] = Reply(status=429)
    with pytest.raises(Retryable):
        balance(pool)
    outcomes = [outcome for name, method, outcome in told if (name, method) == (host(node), "eth_getBalance")]
    assert outcomes == ["ok", "error", "limited"]


def test_a_counter_that_fails_stops_nothing(create_node, create_pool):
    assert balance(create_pool(create_node(), on_request=lambda *_: 1 / 0)) == "0x2a"


# Heads


def test_an_endpoint_that_lags_is_not_asked(create_node, create_pool):
    late, early = create_node(head=96), create_node(head=100)
    assert balance(create_pool(late, early)) == "0x2a"
    assert late.asked_for("eth_getBalance") == 0
    assert balance(create_pool(late, early, max_head_lag_blocks=4)) == "0x2a"


def test_an_endpoint_that_lags_is_not_asked_when_the_best_is_down(create_node, create_pool):
    late, early = create_node(head=50), create_node(head=100)
    pool = create_pool(late, early)
    early.instead["eth_getBalance"] = Reply(status=500)
    with pytest.raises(Retryable, match=rf"{host(late)} \(is 50 blocks behind\)"):
        balance(pool)
    assert late.asked_for("eth_getBalance") == 0


def test_one_that_makes_heads_up_does_not_shut_the_others_out(create_node, create_pool):
    honest, second, liar = create_node(head=100), create_node(head=101), create_node(head=10**9)
    liar.instead["eth_getBalance"] = Reply(status=500)
    pool = create_pool(honest, second, liar)
    prefer(pool, liar)
    assert balance(pool) == "0x2a"
    assert honest.asked_for("eth_getBalance") + second.asked_for("eth_getBalance") == 1


def test_an_endpoint_that_has_caught_up_is_asked(create_node, create_pool, clock):
    late, early = create_node(head=50), create_node(head=100)
    pool = create_pool(late, early)
    pool.check()
    early.instead["eth_getBalance"] = Reply(status=500)
    late.head = 99
    assert balance(pool) == "0x2a"
    assert pool.heads()[host(late)].head == 99


def test_a_raw_transaction_is_given_to_one_that_lags_rather_than_to_nobody(create_node, create_pool):
    late, early = create_node(head=50), create_node(head=100)
    early.instead["eth_sendRawTransaction"] = Reply(status=500)
    pool = create_pool(late, early)
    assert pool.make_request("eth_sendRawTransaction", ["0x00"])["result"] == HASH
    assert early.asked_for("eth_sendRawTransaction") == 1


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_call", [{"to": NOBODY}, "0x64"]),
        ("eth_call", [{"to": NOBODY}, {"blockNumber": "0x64"}]),
        ("eth_call", [{"to": NOBODY}, 100]),
        ("eth_getBalance", [NOBODY, "0x64"]),
        ("eth_getStorageAt", [NOBODY, "0x0", "0x64"]),
        ("eth_getLogs", [{"fromBlock": "0x1", "toBlock": "0x64"}]),
        ("eth_getLogs", [{"fromBlock": "0x64", "toBlock": "latest"}]),
    ],
)
def test_a_read_pinned_to_a_block_is_never_sent_below_it(create_node, create_pool, method, params):
    late, early = create_node(head=99), create_node(head=100)
    for node in (late, early):
        node.instead["eth_getLogs"] = []
        node.instead["eth_call"] = node.instead["eth_getStorageAt"] = "0x"
    pool = create_pool(late, early)
    pool.make_request(method, params)
    assert (late.asked_for(method), early.asked_for(method)) == (0, 1)
    with pytest.raises(BlockNotReached, match=rf"{host(late)} \(is at block 99, not yet at 100\)"):
        create_pool(late).make_request(method, params)
    assert late.asked_for(method) == 0


def test_a_block_that_comes_soon_is_waited_for(create_node, create_pool, clock):
    node = create_node(head=99)
    heads = iter([99, 99, 100])
    node.instead["eth_blockNumber"] = lambda _: hex(next(heads, 100))
    assert balance(create_pool(node), "0x64") == "0x2a"
    assert 0 < sum(clock.slept) <= rpc.PATIENCE_S


def test_tags_and_hashes_are_not_taken_for_numbers(create_node, create_pool):
    pool = create_pool(create_node(head=0))
    for block in ("latest", "pending", "finalized", {"blockHash": HASH}, True):
        assert pool.make_request("eth_getBalance", [NOBODY, block])["result"] == "0x2a"


def test_a_block_that_nobody_has_is_none(evm, create_pool):
    evm.mine(3)
    with start_evm("anvil") as other:
        other.mine(2)
        pool = create_pool(evm.url, other.url)
        [third, fourth] = pool.batch([("eth_getBlockByNumber", [hex(number), False]) for number in (3, 4)])
        assert third["number"] == "0x3"
        assert fourth is None


def test_a_block_that_an_endpoint_showed_is_not_none_when_that_one_is_down(create_node, create_pool):
    late, early = create_node(head=98), create_node(head=100)
    late.instead["eth_getBlockByNumber"], early.instead["eth_getBlockByNumber"] = None, Reply(status=500)
    with pytest.raises(Retryable, match=rf"{host(late)} \(has no block 100\)"):
        create_pool(late, early).make_request("eth_getBlockByNumber", ["0x64", False])


def test_an_endpoint_that_lacks_a_block_below_its_head_is_not_believed(create_node, create_pool):
    node = create_node(head=100)
    node.instead["eth_getBlockByNumber"] = None
    with pytest.raises(Retryable, match="with what is none"):
        create_pool(node).make_request("eth_getBlockByNumber", ["0x63", False])


def test_heads_are_learned_in_the_background(create_node, create_pool, clock):
    node, other = create_node(head=100), create_node(head=100)
    pool = create_pool(node, other)
    balance(pool)
    other.head = 123
    clock.now_s += rpc.HEAD_REFRESH_S
    balance(pool)
    pool._looks.shutdown(wait=True)
    assert pool.heads()[host(other)].head == 123


# Rates


def test_no_more_is_sent_than_the_rate_allows(create_node, create_pool, clock):
    node = create_node()
    pool = create_pool(node, requests_per_s=5)
    started_s = clock.now_s
    for _ in range(50):
        balance(pool)
    sent = len(node.server.asked)
    assert sent <= 5 + 5 * (clock.now_s - started_s) + 1
    assert clock.now_s - started_s >= (sent - 6) / 5


def test_a_rate_is_spread_over_the_endpoints(create_node, create_pool, clock):
    nodes = [create_node(), create_node()]
    pool = create_pool(*nodes, requests_per_s=10)
    for _ in range(16):
        balance(pool)
    assert clock.slept == []
    assert all(node.asked_for("eth_getBalance") for node in nodes)


def test_a_batch_counts_its_calls(create_node, create_pool, clock):
    node = create_node()
    pool = create_pool(node, requests_per_s=10)
    started_s = clock.now_s
    assert pool.batch([("eth_getBalance", [NOBODY, "latest"])] * 100) == ["0x2a"] * 100
    assert clock.now_s - started_s >= 9


def test_whoever_would_wait_longer_than_for_an_answer_is_told(create_node, create_pool):
    pool = create_pool(create_node(), requests_per_s=0.05, timeout_s=5)
    pool.check()
    with pytest.raises(Retryable, match="as often as requests_per_s allows"):
        balance(pool)


# Batches


def test_a_thousand_raw_transactions_go_in_one_batch(evm, create_pool):
    raws = raw_transactions(evm, 1000)
    pool = create_pool(evm.url)
    hashes = pool.batch([("eth_sendRawTransaction", [raw]) for raw in raws])
    assert hashes == [Web3.to_hex(Web3.keccak(raw)) for raw in raws]
    while evm.w3.eth.get_transaction_count(evm.accounts[0].address) < 1000:
        time.sleep(0.01)  # anvil answers first and mines then
    assert pool.heads()[evm.url.removeprefix("http://")].requests < 20


def test_a_batch_has_refusals_as_values_in_their_place(evm, create_pool):
    [raw] = raw_transactions(evm, 1)
    sent, again, number = create_pool(evm.url).batch(
        [("eth_sendRawTransaction", [raw]), ("eth_sendRawTransaction", [raw]), ("eth_blockNumber", [])]
    )
    assert sent == Web3.to_hex(Web3.keccak(raw))
    assert isinstance(again, RpcError)
    assert again.message
    assert number in ("0x0", "0x1")


def test_answers_are_matched_by_id_whatever_their_order(create_node, create_pool):
    node = create_node()

    def backwards(bodies: list[dict[str, Any]]) -> Reply:
        answers = [{"jsonrpc": "2.0", "id": body["id"], "result": body["params"][0]} for body in bodies]
        return Reply(body=answers[::-1])

    node.instead["batch"] = backwards
    found = create_pool(node).batch([("trace_x", [number]) for number in range(250)])
    assert found == list(range(250))


@pytest.mark.parametrize(
    "refusal",
    [
        Reply(status=400, body="bad request"),
        Reply(status=413),
        Reply(status=501),
        Reply(body={"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "batch too large"}}),
        Reply(body={"jsonrpc": "2.0", "id": 1, "result": "0x1"}),
    ],
)
def test_an_endpoint_that_refuses_batches_gets_single_requests(create_node, create_pool, refusal):
    node = create_node()
    node.instead["batch"] = lambda _: refusal
    pool = create_pool(node)
    assert pool.batch([("eth_getBalance", [NOBODY, "latest"])] * 30) == ["0x2a"] * 30
    node.server.asked.clear()
    pool.batch([("eth_getBalance", [NOBODY, "latest"])] * 3)
    assert [isinstance(asked.body, list) for asked in node.server.asked] == [False] * 3


def test_an_endpoint_that_takes_shorter_batches_gets_them(create_node, create_pool):
    node = create_node()

    def short_only(bodies: list[dict[str, Any]]) -> Reply:
        if len(bodies) > 10:
            return Reply(status=413)
        return Reply(body=[node.answer_one(body) for body in bodies])

    node.instead["batch"] = short_only
    pool = create_pool(node)
    assert pool.batch([("eth_getBalance", [NOBODY, "latest"])] * 100) == ["0x2a"] * 100
    assert sum(isinstance(asked.body, list) for asked in node.server.asked) == 11


def test_what_a_batch_lacks_is_asked_of_the_next_endpoint(create_node, create_pool):
    first, second = create_node(), create_node()
    limit = {"code": -32005, "message": "limit exceeded"}
    first.instead["eth_getBalance"] = lambda body: limit if body["params"][0] == "0x3" else body["params"][0]
    second.instead["eth_getBalance"] = lambda body: body["params"][0]
    pool = create_pool(first, second)
    prefer(pool, first)
    wanted = [hex(number) for number in range(10)]
    assert pool.batch([("eth_getBalance", [number, "latest"]) for number in wanted]) == wanted
    assert (first.asked_for("eth_getBalance"), second.asked_for("eth_getBalance")) == (10, 1)


def test_what_nobody_answered_has_its_place_in_the_batch(create_node, create_pool):
    node = create_node()
    node.instead["batch"] = lambda bodies: Reply(body=[node.answer_one(body) for body in bodies[:-1]])
    found = create_pool(node).batch([("eth_getBalance", [NOBODY, "latest"])] * 3)
    assert found[:2] == ["0x2a", "0x2a"]
    assert isinstance(found[2], NoAnswer)
    assert host(node) in found[2].message


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=500),
        Reply(body="<html>"),
        Reply(body=[]),
        Reply(status=401),
        Reply(hangs_up=True),
        Reply(body=[1, None, {}, {"id": []}]),
    ],
)
def test_a_batch_that_nobody_answers_is_retryable(create_node, create_pool, reply):
    node = create_node()
    node.instead["batch"] = lambda _: reply
    with pytest.raises(Retryable, match="no endpoint answered the batch"):
        create_pool(node).batch([("eth_getBalance", [NOBODY, "latest"])] * 3)


def test_an_empty_batch_asks_nobody():
    with EndpointPool(["http://127.0.0.1:1"], chain_id=1) as pool:
        assert pool.batch([]) == []


# As a provider


def test_web3_and_remote_chain_work_over_a_pool(evm, create_pool):
    w3 = Web3(create_pool(evm.url))
    chain = RemoteChain(w3, chain_id=CHAIN_ID)
    keys = Account.from_key(evm.accounts[0].key)
    token = chain.deploy("MockToken", "Token", "TKN", 18, sender=keys)
    assert chain.call(token.functions.symbol()) == "TKN"
    with pytest.raises(CallReverted):
        chain.call(token.functions.transfer(NOBODY, 1), keys)
    chain.send({"to": NOBODY, "data": b""}, keys, value=7)
    assert w3.eth.get_balance(NOBODY) == 7
    assert w3.is_connected()
    with pytest.raises(Web3RPCError):
        w3.eth.send_raw_transaction(b"\x00")


def test_several_threads_share_a_pool(evm, create_pool):
    pool = create_pool(evm.url, clock=time.monotonic, sleep=time.sleep)
    wanted = [hex(number) for number in range(400)]
    found: list[str] = []

    def ask(part: list[str]) -> None:
        for number in part:
            answer = pool.make_request("eth_getStorageAt", [NOBODY, number, "latest"])
            found.append(number if int(answer["result"], 16) == 0 else "wrong")

    threads = [threading.Thread(target=ask, args=(wanted[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(wanted)


def test_connections_are_kept(create_pool, stack):
    """Against a server that counts connections, and answers whatever comes."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    accepted: list[socket.socket] = []

    def serve() -> None:
        connection, _ = listener.accept()
        accepted.append(connection)
        stream = connection.makefile("rb")
        while line := stream.readline():
            length = 0
            while line.strip():
                length = int(line.split(b":")[1]) if line.lower().startswith(b"content-length") else length
                line = stream.readline()
            body = json.loads(stream.read(length))
            result = {"eth_chainId": hex(CHAIN_ID)}.get(body["method"], "0x1")
            answer = json.dumps({"jsonrpc": "2.0", "id": body["id"], "result": result}).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
        stream.close()
        connection.close()

    server = threading.Thread(target=serve)
    server.start()
    pool = create_pool(f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert [balance(pool) for _ in range(5)] == ["0x1"] * 5
    pool.close()
    server.join()
    assert len(accepted) == 1


def test_a_kept_connection_that_was_closed_is_opened_again(create_node, create_pool):
    node = create_node()
    pool = create_pool(node)
    balance(pool)
    [kept] = [connection for connection in pool._endpoints[0].http.pool.queue if connection]
    kept.sock.shutdown(socket.SHUT_RDWR)
    checks = node.asked_for("eth_chainId")
    # Not begun on the old one, so that it is not in doubt whether it was done; who listens now may be another node.
    assert pool.make_request("evm_mine", [])["result"] == "0x2a"
    assert node.asked_for("eth_chainId") == checks + 1
    assert pool.heads()[host(node)].failures == 0


def test_a_closed_pool_leaves_no_thread_and_no_connection(create_node, create_pool):
    before = set(threading.enumerate())
    pool = create_pool(create_node(), create_node())
    balance(pool)
    pool.close()
    ours = [t for t in set(threading.enumerate()) - before if t.name.startswith("rpc-heads")]
    assert ours == []
    assert all(endpoint.http.pool is None for endpoint in pool._endpoints)
