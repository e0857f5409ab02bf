"""Alerts reach a real receiver, signed and once; and whatever the receiver does, the daemon does not notice."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agents.alerts import SIGNATURE_HEADER, Notifier, Systemd, Webhook, WebhookRules, sign
from agents.errors import Misconfigured

FAST = WebhookRules(timeout_s=5.0, quiet_s=300.0, retry_after_s=(0.0, 0.0, 0.0))
PATH = "/services/T0/topsecret"


class Receiver:
    """A real HTTP server: what came, and the statuses it answers with, the last one for ever."""

    def __init__(self) -> None:
        self.came: list[tuple[str, bytes, dict[str, str]]] = []
        self.statuses = [200]
        self.hold = threading.Event()
        self.hold.set()
        self._arrived = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver._note(self.path, body, dict(self.headers))
                receiver.hold.wait(30)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{PATH}"

    def _note(self, path: str, body: bytes, headers: dict[str, str]) -> int:
        with self._arrived:
            self.came.append((path, body, headers))
            self._arrived.notify_all()
            return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    def wait_for(self, number: int) -> list[dict[str, Any]]:
        """The messages, once so many came."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.came) >= number, timeout=30)
            return [json.loads(body) for _, body, _ in self.came]

    def close(self) -> None:
        self.hold.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def webhook(receiver: Receiver, clock: Clock) -> Iterator[Callable[..., Webhook]]:
    made: list[Webhook] = []

    def make(**options: Any) -> Webhook:
        made.append(Webhook(**{"url": receiver.url, "chain_id": 31337, "rules": FAST, "clock": clock, **options}))
        return made[-1]

    yield make
    receiver.hold.set()
    for hook in made:
        hook.close()


# Refusals


@pytest.mark.parametrize(
    "url", ["", "ftp://topsecret", "topsecret", "https://", "http://host:topsecret/", "//topsecret", "http://[topsecret"]
)
def test_an_address_that_is_none_is_refused_without_being_told(url: str) -> None:
    with pytest.raises(Misconfigured, match="MARKETFLOW_WEBHOOK_URL") as refused:
        Webhook(url, chain_id=1)
    assert "topsecret" not in str(refused.value)


def test_nothing_that_goes_wrong_says_the_address_or_the_secret(
    webhook: Callable[..., Webhook], receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.statuses = [500]
    nobody = socket.socket()
    nobody.bind(("127.0.0.1", 0))  # and does not listen
    for url in (receiver.url, f"http://user:topsecret@127.0.0.1:{nobody.getsockname()[1]}{PATH}?key=topsecret"):
        hook = webhook(url=url, secret="topsecret")
        assert hook.send("stopped", "critical", "no key")
        hook.close(30)
        assert "topsecret" not in repr(hook)
    nobody.close()
    assert "stopped was not told: status 500" in caplog.text
    assert "stopped was not told: ClientConnectorError" in caplog.text
    assert "topsecret" not in caplog.text


def test_a_receiver_that_hangs_does_not_hold_up_who_sends(webhook: Callable[..., Webhook], receiver: Receiver) -> None:
    receiver.hold.clear()
    hook = webhook()
    assert all(hook.send(f"event {number}", "info", "") for number in range(20))
    assert len(receiver.wait_for(1)) == 1


def test_a_receiver_that_hangs_is_left_after_the_time_limit(
    webhook: Callable[..., Webhook], receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.hold.clear()
    hook = webhook(rules=WebhookRules(timeout_s=0.1, retry_after_s=()))
    hook.send("stopped", "critical", "")
    hook.close(30)
    assert "stopped was not told: TimeoutError" in caplog.text


def test_more_messages_than_may_wait_are_dropped_and_logged(
    webhook: Callable[..., Webhook], receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.hold.clear()
    hook = webhook(rules=WebhookRules(max_waiting=3))
    hook.send("first", "info", "")
    receiver.wait_for(1)  # it is being delivered: the queue is empty
    assert [hook.send(f"event {number}", "info", "") for number in range(5)] == [True] * 3 + [False] * 2
    assert "event 4 was not told, too many messages wait" in caplog.text
    receiver.hold.set()
    receiver.wait_for(4)  # the last that waited: the queue is empty again
    assert hook.send("event 4", "info", "")


def test_what_the_receiver_refuses_is_not_sent_again(
    webhook: Callable[..., Webhook], receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.statuses = [403]
    hook = webhook()
    hook.send("stopped", "critical", "")
    hook.close(30)
    assert len(receiver.came) == 1
    assert "stopped was not told: status 403" in caplog.text


def test_a_redirect_is_not_followed(webhook: Callable[..., Webhook], receiver: Receiver) -> None:
    receiver.statuses = [302]
    hook = webhook(secret="s")
    hook.send("stopped", "critical", "")
    hook.close(30)
    assert [path for path, _, _ in receiver.came] == [PATH]


def test_it_gives_up_after_the_last_try(webhook: Callable[..., Webhook], receiver: Receiver) -> None:
    receiver.statuses = [500]
    hook = webhook()
    hook.send("lost", "info", "")
    assert len(receiver.wait_for(4)) == 4
    receiver.statuses = [200]
    hook.send("next", "info", "")
    assert [message["event"] for message in receiver.wait_for(5)] == ["lost"] * 4 + ["next"]


def test_after_closing_nothing_is_taken(webhook: Callable[..., Webhook], receiver: Receiver) -> None:
    hook = webhook()
    hook.close()
    assert not hook.send("late", "info", "")
    hook.close()
    assert receiver.came == []


# What is told


def test_a_message_has_what_a_person_needs(webhook: Callable[..., Webhook], receiver: Receiver) -> None:
    hook: Notifier = webhook()
    assert hook.send("halted", "critical", "the DAO said stop")
    [message] = receiver.wait_for(1)
    assert message == {
        "event": "halted", "severity": "critical", "text": "the DAO said stop", "at_s": 1_700_000_000, "agent": "",
        "chain_id": 31337,
    }  # fmt: skip
    path, _, headers = receiver.came[0]
    assert (path, headers["Content-Type"]) == (PATH, "application/json")
    assert SIGNATURE_HEADER not in headers


def test_a_message_is_signed_with_the_secret_over_its_bytes(
    webhook: Callable[..., Webhook], receiver: Receiver
) -> None:
    webhook(secret="shared").send("halted", "critical", "почему")
    receiver.wait_for(1)
    _, body, headers = receiver.came[0]
    assert headers[SIGNATURE_HEADER] == "sha256=" + hmac.new(b"shared", body, hashlib.sha256).hexdigest()
    assert headers[SIGNATURE_HEADER] != sign(body, "another")


def test_the_same_event_is_told_once_until_the_quiet_time_is_over(
    webhook: Callable[..., Webhook], receiver: Receiver, clock: Clock
) -> None:
    hook = webhook()
    assert [hook.send("stuck", "warning", str(n)) for n in range(3)] == [True, False, False]
    clock.now_s += 299
    assert not hook.send("stuck", "warning", "")
    clock.now_s += 1
    assert hook.send("stuck", "warning", "")
    assert len(receiver.wait_for(2)) == 2


def test_another_event_or_agent_is_not_kept_quiet(webhook: Callable[..., Webhook], receiver: Receiver) -> None:
    hook = webhook()
    assert hook.send("stuck", "warning", "", agent="one")
    assert hook.send("stuck", "warning", "", agent="two")
    assert hook.send("reorg", "warning", "", agent="one")
    assert len(receiver.wait_for(3)) == 3


def test_a_clock_that_was_set_back_does_not_keep_an_event_quiet(webhook: Callable[..., Webhook], clock: Clock) -> None:
    hook = webhook()
    assert hook.send("stuck", "warning", "")
    clock.now_s -= 86_400
    assert hook.send("stuck", "warning", "")


def test_events_without_end_are_not_remembered_for_ever(
    webhook: Callable[..., Webhook], receiver: Receiver, clock: Clock
) -> None:
    receiver.hold.clear()
    hook = webhook(rules=WebhookRules(max_waiting=10_000, retry_after_s=(), timeout_s=5.0, quiet_s=10.0))
    for number in range(3_000):
        clock.now_s += 1
        hook.send(f"event {number}", "info", "")
    assert len(hook._told_at) <= 1_001
    assert not hook.send("event 2999", "info", "")
    with hook._waiting.mutex:
        hook._waiting.queue.clear()


def test_an_event_that_was_not_delivered_is_told_when_it_happens_again(
    webhook: Callable[..., Webhook], receiver: Receiver
) -> None:
    receiver.statuses = [403, 200]
    hook = webhook()
    hook.send("stopped", "critical", "")
    while not hook.send("stopped", "critical", "again"):
        threading.Event().wait(0.01)
    assert receiver.wait_for(2)[1]["text"] == "again"


def test_a_receiver_that_comes_back_gets_the_message(webhook: Callable[..., Webhook], receiver: Receiver) -> None:
    receiver.statuses = [500, 429, 200]
    webhook().send("halted", "critical", "why")
    assert [message["text"] for message in receiver.wait_for(3)] == ["why"] * 3


def test_closing_delivers_what_waits(webhook: Callable[..., Webhook], receiver: Receiver) -> None:
    hook = webhook()
    for number in range(5):
        hook.send(f"event {number}", "info", "")
    hook.close(30)
    assert [message["event"] for message in receiver.wait_for(5)] == [f"event {number}" for number in range(5)]


def test_closing_does_not_wait_for_the_next_try(webhook: Callable[..., Webhook], receiver: Receiver) -> None:
    receiver.statuses = [500]
    hook = webhook(rules=WebhookRules(retry_after_s=(3_600.0, 3_600.0)))
    hook.send("lost", "info", "")
    receiver.wait_for(1)
    hook.close(30)
    assert not hook._thread.is_alive()
    assert len(receiver.came) == 2


def test_a_long_text_is_cut(webhook: Callable[..., Webhook], receiver: Receiver) -> None:
    webhook().send("halted", "critical", "x" * 1_000_000)
    assert len(receiver.wait_for(1)[0]["text"]) == 2_000


# systemd


@pytest.fixture(params=["file", "abstract"])
def systemd_socket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """What systemd listens on: a file, or a name without one, which it writes with an @."""
    address = str(tmp_path / "notify") if request.param == "file" else f"@marketflow-{tmp_path.name}-{id(request)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind("\0" + address[1:] if address.startswith("@") else address)
        channel.settimeout(10)
        yield address, channel


def test_systemd_hears_that_the_daemon_is_ready_lives_and_stops(systemd_socket: tuple[str, socket.socket]) -> None:
    address, channel = systemd_socket
    systemd = Systemd(address)
    assert all((systemd.ready(), systemd.alive(), systemd.status("halted:\nno price"), systemd.stopping()))
    heard = [channel.recv(1024) for _ in range(4)]
    assert heard == [b"READY=1", b"WATCHDOG=1", b"STATUS=halted: no price", b"STOPPING=1"]


def test_without_systemd_nobody_is_told_and_nothing_happens() -> None:
    assert not Systemd(None).ready()
    assert not Systemd("").alive()


def test_a_systemd_that_does_not_listen_is_logged_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not Systemd(str(tmp_path / "nobody")).ready()
    assert "systemd was not told READY=1" in caplog.text


def test_a_systemd_that_does_not_read_does_not_hold_up_the_daemon(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        systemd = Systemd(address)
        assert any(not systemd.alive() for _ in range(2_000))
