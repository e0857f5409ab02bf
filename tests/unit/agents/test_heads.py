"""New heads: by WebSocket, by asking when that fails, each once, and nothing is left behind."""

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from agents.errors import Misconfigured
from agents.heads import HeadStream
from agents.localnet.anvil import find_anvil
from agents.localnet.evm import CHAIN_ID, LocalEvm, start_evm
from agents.rpc import EndpointPool
from oracle.chain import BlockRef, fetch_block

pytestmark = pytest.mark.skipif(find_anvil() is None, reason="anvil is not installed")

SECRET = "KEY0123456789"
LONG_S = 60.0
FAST = {"poll_s": 0.02, "first_backoff_s": 0.02}
HEADS = [BlockRef(number=number, hash="0x" + f"{number:02x}" * 32, timestamp_s=1000 + number) for number in range(20)]

Serve = Callable[[ServerConnection], Awaitable[None]]


@pytest.fixture
def evm() -> Iterator[LocalEvm]:
    with start_evm("anvil") as started:
        yield started


@pytest.fixture
def pool(evm: LocalEvm) -> Iterator[EndpointPool]:
    with EndpointPool([evm.url], chain_id=CHAIN_ID) as opened:
        yield opened


def ws_url(evm: LocalEvm) -> str:
    return evm.url.replace("http", "ws")


def run(story: Callable[[], Awaitable[None]]) -> None:
    """Runs it; afterwards there are no tasks but its own."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await story()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(bounded())


async def mine(evm: LocalEvm, blocks: int = 1) -> BlockRef:
    await asyncio.to_thread(evm.mine, blocks)
    return await asyncio.to_thread(fetch_block, evm)


async def until(heads: HeadStream, wanted: BlockRef) -> list[BlockRef]:
    """All heads up to that one."""
    seen = []
    async for head in heads:
        seen.append(head)
        if head == wanted:
            break
    return seen


async def settled(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.005)


class Link:
    """A way to a node that can be cut and mended, for a WebSocket only."""

    def __init__(self, evm: LocalEvm) -> None:
        self._target, self._port = evm._process.port, 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._port}/"

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._open |= {writer, far_writer}
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        self._tasks.discard(task)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        finally:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def misbehaving(then: Serve, *, chain_id: str = hex(CHAIN_ID)) -> AsyncIterator[str]:
    """A WebSocket that takes the subscription, and does what it is told to then."""

    async def handle(connection: ServerConnection) -> None:
        with contextlib.suppress(Exception):
            await reply(connection, chain_id)
            await reply(connection, "0x" + "1" * 32)
            await then(connection)

    async with serve(handle, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/{SECRET}"


@contextlib.asynccontextmanager
async def following(pool: EndpointPool, then: Serve) -> AsyncIterator[HeadStream]:
    """A stream that asks the node once, and hears of the rest by a misbehaving WebSocket."""
    async with misbehaving(then) as url, HeadStream(pool, ws_urls=[url], silence_s=LONG_S, poll_s=LONG_S) as heads:
        yield heads


async def reply(connection: ServerConnection, result: str) -> None:
    asked = json.loads(await connection.recv())
    await connection.send(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}))


def notification(head: BlockRef) -> str:
    block = {"number": hex(head.number), "hash": head.hash, "timestamp": hex(head.timestamp_s)}
    params = {"subscription": "0x1", "result": block}
    return json.dumps({"jsonrpc": "2.0", "method": "eth_subscription", "params": params})


def sending(*messages: BlockRef | str | bytes) -> Serve:
    async def then(connection: ServerConnection) -> None:
        for message in messages:
            await connection.send(notification(message) if isinstance(message, BlockRef) else message)
        await connection.wait_closed()

    return then


# Refusals


@pytest.mark.parametrize(
    "url", ["", "http://a.example/KEY", "ws:///KEY", "ws://a:port/KEY", "wss://a/#KEY", "ws://a/ KEY"]
)
def test_an_address_that_is_none_is_refused_without_being_said(pool, url):
    with pytest.raises(Misconfigured, match="WebSocket 1 is no address") as refused:
        HeadStream(pool, ws_urls=[url])
    assert "KEY" not in str(refused.value)


def test_a_websocket_of_another_chain_ends_the_stream_and_is_named(pool):
    async def story() -> None:
        async with misbehaving(sending(), chain_id="0x5") as url, HeadStream(pool, ws_urls=[url], **FAST) as heads:
            with pytest.raises(
                Misconfigured, match=r"127\.0\.0\.1:\d+ is on chain 5, expected is chain 31337"
            ) as refused:
                await until(heads, HEADS[19])
            assert SECRET not in str(refused.value)

    run(story)


def test_a_node_of_another_chain_ends_the_stream(evm):
    async def story() -> None:
        with EndpointPool([evm.url], chain_id=5) as pool:
            async with HeadStream(pool, **FAST) as heads:
                with pytest.raises(Misconfigured, match="is on chain 31337"):
                    await anext(heads)

    run(story)


def test_a_stream_that_was_not_opened_says_so(pool):
    async def story() -> None:
        heads = HeadStream(pool)
        with pytest.raises(RuntimeError, match="async with"):
            await anext(heads)
        await heads.aclose()

    run(story)


NO_HEADS = {
    "no JSON": "<html>",
    "deep JSON": "[" * 100_000,
    "a list": "[]",
    "no text": b"\xff\xfe",
    "no params": json.dumps({"method": "eth_subscription"}),
    "no block": json.dumps({"method": "eth_subscription", "params": {"result": []}}),
    "no hash": json.dumps({"method": "eth_subscription", "params": {"result": {"number": "0x1", "timestamp": "0x1"}}}),
    "a short hash": notification(BlockRef(number=1, hash="0x12", timestamp_s=1)),
    "a number below zero": notification(BlockRef(number=-1, hash=HEADS[1].hash, timestamp_s=1)),
    "too long": "x" * 2**21,
}


@pytest.mark.parametrize("message", NO_HEADS.values(), ids=NO_HEADS.keys())
def test_a_websocket_that_sends_no_heads_is_made_anew_and_the_node_asked(evm, pool, message):
    async def story() -> None:
        async with misbehaving(sending(message)) as url, HeadStream(pool, ws_urls=[url], **FAST) as heads:
            await settled(lambda: heads.connections >= 2)
            await until(heads, await mine(evm))
            assert heads.source == "polling"

    run(story)


def test_addresses_are_in_no_log(pool, caplog):
    caplog.set_level(logging.DEBUG)

    async def story() -> None:
        broken = f"ws://127.0.0.1:1/{SECRET}"
        html = misbehaving(sending("<html>"))
        async with html as url, HeadStream(pool, ws_urls=[url, broken], **FAST) as heads:
            await settled(lambda: heads.connections >= 2)

    run(story)
    assert "sent what is no JSON" in caplog.text
    assert "127.0.0.1:1: refused the connection" in caplog.text
    # The test's own server logs what it is asked for.
    said = [record.getMessage() for record in caplog.records if not record.name.startswith("websockets.server")]
    assert SECRET not in "".join(said)


# Heads


def test_heads_come_from_polling_without_a_websocket(evm, pool):
    async def story() -> None:
        async with HeadStream(pool, **FAST) as heads:
            assert (await anext(heads)).number == 0
            seen = await until(heads, await mine(evm, 3))
            assert [head.number for head in seen] == sorted({head.number for head in seen})

    run(story)


def test_heads_come_by_websocket_without_asking(evm, pool):
    async def story() -> None:
        async with HeadStream(pool, ws_urls=[ws_url(evm)], poll_s=LONG_S) as heads:
            await anext(heads)
            await settled(lambda: heads.connections == 1)
            seen: list[BlockRef] = []
            while not seen:  # the subscription may begin after the first
                await mine(evm)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        seen.append(await anext(heads))
            assert heads.source == "websocket"
            assert (await until(heads, await mine(evm, 2)))[-1].number == evm.w3.eth.block_number

    run(story)


def test_nodes_are_not_asked_while_the_websocket_brings_heads(pool):
    async def story() -> None:
        then = misbehaving(sending(HEADS[5]))
        async with then as url, HeadStream(pool, ws_urls=[url], silence_s=LONG_S, **FAST) as heads:
            await settled(lambda: heads.source == "websocket")
            await asyncio.sleep(0.1)  # for a question that was begun
            [before] = pool.heads().values()
            await asyncio.sleep(0.2)
            [after] = pool.heads().values()
            assert after.requests == before.requests

    run(story)


def test_polling_goes_on_when_the_websocket_is_cut_and_stops_when_it_is_back(evm, pool):
    async def story() -> None:
        link = Link(evm)
        await link.mend()
        async with HeadStream(pool, ws_urls=[link.url], silence_s=LONG_S, **FAST) as heads:
            while heads.source != "websocket":
                await until(heads, await mine(evm))
            await link.cut()
            await settled(lambda: heads.source == "polling")
            await until(heads, await mine(evm))
            before = heads.connections
            await link.mend()
            await settled(lambda: heads.connections > before)
            while heads.source != "websocket":
                await until(heads, await mine(evm))
        await link.cut()

    run(story)


def test_polling_takes_over_when_the_websocket_is_silent(evm, pool):
    async def story() -> None:
        url = misbehaving(sending(HEADS[1]))
        async with url as silent, HeadStream(pool, ws_urls=[silent], silence_s=0.1, **FAST) as heads:
            await until(heads, HEADS[1])
            await until(heads, await mine(evm, 5))
            await settled(lambda: heads.connections >= 2)

    run(story)


def test_each_head_comes_once(evm, pool):
    async def story() -> None:
        async def then(connection: ServerConnection) -> None:
            for head in (HEADS[5], HEADS[5], HEADS[6], HEADS[6], HEADS[7]):
                await connection.send(notification(head))
                await asyncio.sleep(0.02)  # for the consumer
            await connection.wait_closed()

        async with following(pool, then) as heads:
            seen = await until(heads, HEADS[7])
            assert len(seen) == len({head.hash for head in seen})

    run(story)


def test_a_slow_consumer_gets_the_newest_only(pool):
    async def story() -> None:
        async with following(pool, sending(*HEADS[1:])) as heads:
            await settled(lambda: heads._newest == HEADS[19])
            assert await anext(heads) == HEADS[19]

    run(story)


def test_another_block_at_the_same_height_is_delivered(pool):
    async def story() -> None:
        other = BlockRef(number=7, hash="0x" + "ee" * 32, timestamp_s=7)
        release = asyncio.Event()

        async def then(connection: ServerConnection) -> None:
            await connection.send(notification(HEADS[7]))
            await release.wait()
            await connection.send(notification(other))
            await connection.wait_closed()

        async with following(pool, then) as heads:
            await until(heads, HEADS[7])
            release.set()
            assert await anext(heads) == other

    run(story)


@pytest.mark.parametrize("by_websocket", [False, True])
def test_a_chain_that_went_back_is_delivered(evm, pool, by_websocket):
    async def story() -> None:
        start = evm.snapshot()
        urls = [ws_url(evm)] if by_websocket else []
        async with HeadStream(pool, ws_urls=urls, silence_s=LONG_S, **FAST) as heads:
            while heads.source != ("websocket" if by_websocket else "polling"):
                await until(heads, await mine(evm))
            await until(heads, await mine(evm, 5))
            await asyncio.to_thread(evm.revert, start)
            await asyncio.to_thread(evm.travel, 100)
            lower = await mine(evm)
            assert lower.number < 5
            assert (await until(heads, lower))[-1] == lower

    run(story)


def test_a_lower_head_of_a_node_that_is_only_late_is_not_delivered(evm, pool):
    async def story() -> None:
        blocks = [await mine(evm) for _ in range(5)]
        release = asyncio.Event()

        async def then(connection: ServerConnection) -> None:
            await release.wait()
            for late in (blocks[1], blocks[2], blocks[4]):
                await connection.send(notification(late))
            await connection.wait_closed()

        async with following(pool, then) as heads:
            assert await anext(heads) == blocks[4]
            release.set()
            await settled(lambda: heads.source == "websocket")
            assert heads._waiting is None

    run(story)


# Endings


def test_a_killed_node_ends_nothing_and_heads_go_on_when_it_is_back(evm, pool):
    port = evm._process.port

    async def story() -> None:
        async with HeadStream(pool, ws_urls=[ws_url(evm)], **FAST) as heads:
            await anext(heads)
            await asyncio.to_thread(evm.close)
            await settled(lambda: pool.heads()[f"127.0.0.1:{port}"].failures > 0)
            with start_evm("anvil", port=port) as again:
                await until(heads, await mine(again, 2))

    run(story)


def test_a_cancelled_consumer_leaves_no_task_and_no_thread(evm, pool):
    async def consume() -> None:
        async with HeadStream(pool, ws_urls=[ws_url(evm)], **FAST) as heads:
            async for _ in heads:
                pass

    async def story() -> None:
        consumer = asyncio.create_task(consume())
        await asyncio.sleep(0.1)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer

    run(story)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("heads")]


def test_closing_waits_for_the_question_in_the_thread(pool, monkeypatch):
    """And does not take an end for it: the thread is gone afterwards."""
    begun, may_end = threading.Event(), threading.Event()

    def ask(*_: Any) -> Any:
        begun.set()
        may_end.wait()
        return {"result": None}

    monkeypatch.setattr(pool, "make_request", ask)

    async def story() -> None:
        heads = HeadStream(pool, **FAST)
        await heads.__aenter__()
        await asyncio.to_thread(begun.wait)
        closing = asyncio.create_task(heads.aclose())
        await asyncio.sleep(0.02)
        assert not closing.done()
        may_end.set()
        await closing
        await heads.aclose()

    run(story)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("heads")]
