"""Telling somebody: messages to a webhook, and signs of life to systemd. Neither may hold up or end the daemon.

A webhook's address is itself a secret (most services put a token in its path), so only its host is ever named.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import queue
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import time
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import aiohttp

from agents.errors import Misconfigured

log = logging.getLogger("marketflow.alerts")

SIGNATURE_HEADER: Final = "X-MarketFlow-Signature"
_MAX_TEXT: Final = 2_000
_MAX_REMEMBERED: Final = 1_000


class Notifier(Protocol):
    """Tells an operator. Returns at once; whether it is on its way. Raises nothing."""

    def send(self, event: str, severity: str, text: str) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRules:
    """How a webhook is told. Times are seconds."""

    # Of one try, all in all.
    timeout_s: float = 10.0
    # An event is not told again within this.
    quiet_s: float = 300.0
    # Waited before each further try; then it is given up.
    retry_after_s: tuple[float, ...] = (1.0, 5.0, 30.0, 120.0)
    max_waiting: int = 100


def sign(body: bytes, secret: str) -> str:
    """The signature header's value: the receiver computes it from the bytes that came, and compares."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class Webhook:
    """Posts JSON to a URL, from a thread of its own.

    The body is {event, severity, text, at_s, agent, chain_id}. An event of an agent is told once in `quiet_s`, however
    often it happens. What could not be delivered is tried again, then dropped and logged. Redirects are not followed.
    Not promised: that a message arrives, or arrives once.
    """

    def __init__(
        self,
        url: str,
        *,
        chain_id: int,
        secret: str | None = None,
        rules: WebhookRules | None = None,
        clock: Callable[[], float] = time,
    ) -> None:
        self.host = _host_of(url)
        self._url, self._secret, self._chain_id = url, secret, chain_id
        self._rules, self._clock = rules or WebhookRules(), clock
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue(self._rules.max_waiting)
        self._told_at: dict[tuple[str, str], float] = {}
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._deliver_all, name="webhook", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"Webhook({self.host})"

    def send(self, event: str, severity: str, text: str, *, agent: str = "") -> bool:
        """Queues a message; whether it was. From any thread, in no time, without an error."""
        now_s, key = self._clock(), (event, agent)
        with self._lock:
            if self._closing.is_set() or self._is_quiet(key, now_s):
                return False
            message = {
                "event": event, "severity": severity, "text": text[:_MAX_TEXT], "at_s": int(now_s), "agent": agent,
                "chain_id": self._chain_id,
            }  # fmt: skip
            try:
                self._waiting.put_nowait(message)
            except queue.Full:
                log.warning("%s: %s was not told, too many messages wait", self.host, event)
                return False
            self._told_at[key] = now_s
        return True

    def close(self, timeout_s: float = 5.0) -> None:
        """Tries once more to deliver what waits, for so long; then leaves it."""
        with self._lock:
            self._closing.set()
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            log.debug("the queue is full: its thread sees that it ends")
        self._thread.join(timeout_s)

    def _is_quiet(self, key: tuple[str, str], now_s: float) -> bool:
        told_at_s = self._told_at.get(key)
        if len(self._told_at) >= _MAX_REMEMBERED:
            self._told_at = {k: at for k, at in self._told_at.items() if 0 <= now_s - at < self._rules.quiet_s}
        # A clock that was set back must not keep an event quiet.
        return told_at_s is not None and 0 <= now_s - told_at_s < self._rules.quiet_s

    def _deliver_all(self) -> None:
        while True:
            message = self._waiting.get()
            if message is not None:
                self._deliver(message)
            if self._closing.is_set() and self._waiting.empty():
                return

    def _deliver(self, message: dict[str, Any]) -> None:
        said, again = self._try(message)
        for pause_s in self._rules.retry_after_s:
            if not again:
                break
            is_last = self._closing.wait(pause_s)
            said, again = self._try(message)
            if is_last:
                break
        if said:
            log.warning("%s: %s was not told: %s", self.host, message["event"], said)
            with self._lock:  # so that it is told when it happens again
                self._told_at.pop((message["event"], message["agent"]), None)

    def _try(self, message: dict[str, Any]) -> tuple[str, bool]:
        """What went wrong, and whether it may go better later. No exception's text: it may hold the address."""
        try:
            status = asyncio.run(self._post(json.dumps(message).encode()))
        except Exception as error:
            return type(error).__name__, True
        if 200 <= status < 300:
            return "", False
        return f"status {status}", status in (408, 425, 429) or status >= 500

    async def _post(self, body: bytes) -> int:
        headers = {"Content-Type": "application/json", "User-Agent": "marketflow-agent"}
        if self._secret:
            headers[SIGNATURE_HEADER] = sign(body, self._secret)
        limit = aiohttp.ClientTimeout(total=self._rules.timeout_s)
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status


def _host_of(url: str) -> str:
    """Raises Misconfigured without saying the URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise Misconfigured("MARKETFLOW_WEBHOOK_URL is no http or https address: correct it, or unset it")
    return f"{host}:{port}" if port else host


class Systemd:
    """Tells systemd how a service of `Type=notify` is. `address`: what it put into NOTIFY_SOCKET; None does nothing."""

    def __init__(self, address: str | None) -> None:
        # A name that begins with @ is one without a file.
        self._address = "\0" + address[1:] if address and address.startswith("@") else address

    def ready(self) -> bool:
        """It has started."""
        return self._tell("READY=1")

    def alive(self) -> bool:
        """To be told more often than every half of WatchdogSec."""
        return self._tell("WATCHDOG=1")

    def status(self, text: str) -> bool:
        """What `systemctl status` shows."""
        return self._tell("STATUS=" + " ".join(text.split()))

    def stopping(self) -> bool:
        """It ends because it was asked to."""
        return self._tell("STOPPING=1")

    def _tell(self, said: str) -> bool:
        """Whether systemd was told. An error is logged: systemd acts on silence by itself."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(0.25)
                channel.connect(self._address)
                channel.sendall(said.encode())
        except OSError as error:
            log.warning("systemd was not told %s: %s", said, error)
            return False
        return True
