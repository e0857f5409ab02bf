"""The leases of a placement in NATS JetStream: a key-value bucket, written by compare-and-set of revisions.

The bucket has no time limit of its own: JetStream's would go by the servers' wall clocks. Whoever may write to it can
take keys away from a node (not the keys themselves): give the nodes an account of their own, and TLS.

JetStream confirms a write before it is on the disk. For `LeaseStore` set `sync_interval: always` in the server's
`jetstream` block; without it a power failure can undo confirmed writes. (https://github.com/nats-io/nats-server/issues/7564)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Self

import nats
import nats.errors
from nats.aio.client import Client
from nats.js.api import DeliverPolicy, StorageType
from nats.js.errors import BucketNotFoundError, KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue

from agents.errors import Misconfigured, Retryable
from agents.placement import Entry, Write

log = logging.getLogger("marketflow.placement")

_NO_MESSAGE = 10037  # JetStream's code
_LONG_S = 3600.0  # who waits has a limit of their own


class NatsLeaseStore:
    """A `LeaseStore`, for an `async with`. Made by `connect`; connects again by itself, for as long as it takes."""

    def __init__(self, client: Client, bucket: str, replicas: int) -> None:
        self._client, self._bucket_name, self._replicas = client, bucket, replicas
        self._jetstream = client.jetstream()
        self._bucket: KeyValue | None = None

    @classmethod
    async def connect(
        cls,
        servers: Sequence[str],
        *,
        bucket: str = "marketflow-leases",
        replicas: int = 1,
        timeout_s: float = 10.0,
        **options: Any,
    ) -> Self:
        """`options`: of `nats.connect`, such as `user_credentials` and `tls`. The bucket is made if there is none.

        Raises Retryable when no server answers, Misconfigured for a bucket that loses leases by itself.
        """
        try:
            async with asyncio.timeout(timeout_s):
                client = await nats.connect(
                    list(servers), max_reconnect_attempts=-1, reconnect_time_wait=0.25, connect_timeout=2,
                    error_cb=_log, name="marketflow", **options,
                )  # fmt: skip
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise Retryable(f"no NATS server answers: {error or 'timeout'}") from None
        store = cls(client, bucket, replicas)
        try:
            with _retryable():
                await store._open()
        except BaseException:
            await client.close()
            raise
        return store

    async def close(self) -> None:
        """The leases stay: end the placement first. Waits no longer than two seconds for a server that is away."""
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            async with asyncio.timeout(2):
                await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def write(self, write: Write) -> int | None:
        with _retryable():
            bucket = self._bucket or await self._open()
            try:
                return await bucket.update(write.name, write.value, last=write.after)
            except KeyWrongLastSequenceError:
                return None

    async def read(self, name: str) -> Entry | None:
        with _retryable():
            try:
                found = await self._jetstream.get_last_msg(f"KV_{self._bucket_name}", self._subject(name))
            except NotFoundError as error:
                if error.err_code == _NO_MESSAGE:  # else it is the stream that is not there, or not yet
                    return None
                raise
        return Entry(name=name, revision=found.seq or 0, value=found.data or b"")

    async def changes(self) -> AsyncIterator[Entry]:
        with _retryable():
            await self._open()  # again: a server that lost its disk has no bucket
            messages = await self._jetstream.subscribe(
                self._subject(">"), stream=f"KV_{self._bucket_name}", ordered_consumer=True,
                deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            )  # fmt: skip
        try:
            while True:
                with _retryable():
                    found = await messages.next_msg(timeout=_LONG_S)
                name = found.subject.removeprefix(self._subject(""))
                yield Entry(name=name, revision=found.metadata.sequence.stream, value=found.data)
        finally:
            with contextlib.suppress(nats.errors.Error, OSError):
                await messages.unsubscribe()

    def _subject(self, name: str) -> str:
        return f"$KV.{self._bucket_name}.{name}"

    async def _open(self) -> KeyValue:
        try:
            bucket = await self._jetstream.key_value(self._bucket_name)
        except BucketNotFoundError:
            bucket = await self._jetstream.create_key_value(
                bucket=self._bucket_name, history=1, storage=StorageType.FILE, replicas=self._replicas
            )
        config = (await bucket.status()).stream_info.config
        if config.max_age or config.storage != StorageType.FILE:
            raise Misconfigured(
                f"the bucket {self._bucket_name} forgets leases, by age or in a restart: name another one"
            )
        self._bucket = bucket
        return bucket


@contextlib.contextmanager
def _retryable() -> Iterator[None]:
    try:
        yield
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise Retryable(f"NATS: {error or type(error).__name__}") from error


async def _log(error: Exception) -> None:
    log.debug("NATS: %s", error)
