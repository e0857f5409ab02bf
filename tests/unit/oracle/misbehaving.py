"""An HTTP server on loopback that answers as it is told to: late, half, wrongly, or not at all."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request. `headers` have lower-case names; `body` is read as JSON."""

    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer. A `body` that is not text or bytes is sent as JSON."""

    body: Any = ""
    status: int = 200
    reason: str = "Whatever"
    headers: Mapping[str, str] = field(default_factory=dict)
    # Before anything is sent.
    delay_s: float = 0
    # The body comes in pieces of one byte with that much time between them.
    drip_s: float = 0
    # How much of the body is sent before the connection is closed.
    cut_at: int | None = None
    # A connection that is closed after those last words, which need not be HTTP.
    hangs_up: bool = False
    last_words: bytes = b""


class MisbehavingServer:
    """Answers each POST with what `answer` says. `asked` is what came, in order. For a `with`."""

    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self._is_closing = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Ends waiting answers, too."""
        self._is_closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(path=self.path, headers=headers, body=body)
                server.asked.append(asked)
                reply = server.answer(asked)
                server._is_closing.wait(reply.delay_s)
                try:
                    self._send(reply)
                except OSError:  # whoever asked had enough
                    self.close_connection = True

            def _send(self, reply: Reply) -> None:
                if reply.hangs_up:
                    self.wfile.write(reply.last_words)
                    self.close_connection = True
                    return
                text = reply.body if isinstance(reply.body, str | bytes) else json.dumps(reply.body)
                body = text.encode() if isinstance(text, str) else text
                self.send_response(reply.status, reply.reason)
                for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if reply.cut_at is not None:
                    self.close_connection = True
                    body = body[: reply.cut_at]
                step = 1 if reply.drip_s else max(len(body), 1)
                for start in range(0, len(body), step):
                    self.wfile.write(body[start : start + step])
                    self.wfile.flush()
                    if server._is_closing.wait(reply.drip_s):
                        return

            def log_message(self, *_: Any) -> None:
                """Tests read `asked`."""

        return Handler
