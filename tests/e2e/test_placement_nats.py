"""The store of a placement against a real NATS server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import nats
import pytest
from nats.js.api import StorageType

from agents.errors import Misconfigured, Retryable
from agents.localnet.nats import LocalNats
from agents.localnet.process import free_port
from agents.placement import Entry, Write
from agents.placement_nats import NatsLeaseStore


@pytest.fixture(scope="module")
def server() -> Iterator[LocalNats]:
    with LocalNats() as started:
        yield started


def test_a_server_that_does_not_answer_is_retryable() -> None:
    with pytest.raises(Retryable, match="no NATS server"):
        asyncio.run(NatsLeaseStore.connect([f"nats://127.0.0.1:{free_port()}"], timeout_s=0.3))


@pytest.mark.parametrize("forgetful", [{"ttl": 60}, {"storage": StorageType.MEMORY}])
def test_a_bucket_that_forgets_by_itself_is_refused(server: LocalNats, forgetful: dict[str, object]) -> None:
    bucket = f"forgets-{'-'.join(forgetful)}"

    async def run() -> None:
        client = await nats.connect(server.url)
        await client.jetstream().create_key_value(bucket=bucket, **forgetful)
        await client.close()
        await NatsLeaseStore.connect([server.url], bucket=bucket)

    with pytest.raises(Misconfigured, match=bucket):
        asyncio.run(run())


def test_a_value_is_written_only_after_the_revision_that_was_known(server: LocalNats) -> None:
    async def run() -> None:
        async with await NatsLeaseStore.connect([server.url], bucket="writes") as store:
            assert await store.read("key.0x1") is None
            first = await store.write(Write(name="key.0x1", value=b"one", after=0))
            assert first is not None
            assert await store.write(Write(name="key.0x1", value=b"two", after=0)) is None
            assert await store.write(Write(name="key.0x1", value=b"two", after=first + 1)) is None
            other = await store.write(Write(name="key.0x2", value=b"two", after=0))
            assert other is not None and other > first
            assert await store.read("key.0x1") == Entry(name="key.0x1", revision=first, value=b"one")

    asyncio.run(run())


def test_changes_begin_with_what_is_there_and_survive_a_killed_server() -> None:
    async def run(own: LocalNats) -> None:
        async with await NatsLeaseStore.connect([own.url]) as store:
            first = await store.write(Write(name="key.0x1", value=b"one", after=0))
            await asyncio.to_thread(own.kill)
            await asyncio.to_thread(own.start)
            changes = store.changes()
            assert await anext(changes) == Entry(name="key.0x1", revision=first, value=b"one")
            assert first is not None
            await store.write(Write(name="key.0x1", value=b"two", after=first))
            assert (await anext(changes)).value == b"two"
            await changes.aclose()

    with LocalNats() as own:
        asyncio.run(run(own))
