"""Programs that never outlive this one."""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

# Runs a program. A line on standard input, or its end, which comes when the parent dies in whatever way, ends it. When
# it has ended, by that or by itself, what it leaves behind goes: a folder, and the rest of its process group, in case
# it is a wrapper that started another. The shell gives up its own output, so end of output means that it has died.
_WATCHDOG = """
signal=$1 folder=$2; shift 2
exec 3<&0
"$@" </dev/null 3<&- & child=$!
exec >/dev/null 2>&1
{ read -r _ <&3; kill -"$signal" "$child"; } &
wait "$child"; rm -rf "$folder"; kill -9 0
"""

# Below those that the kernel gives to outgoing connections, one of which could take it before the server does.
_PORTS = range(20_000, 32_768)


class OwnedProcess:
    """A running program: killed by `close`, or when this process ends, however it ends.

    `kill_with`: QUIT for what must end its own children, and heeds it. `folder` is removed when the program has ended.
    More options are those of `subprocess.Popen`.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        kill_with: Literal["KILL", "QUIT"] = "KILL",
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        watched = ["/bin/sh", "-c", _WATCHDOG, Path(command[0]).name, kill_with, str(folder or ""), *map(str, command)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
        self._watchdog = subprocess.Popen(watched, stdin=subprocess.PIPE, start_new_session=True, env=env, **options)
        assert self._watchdog.stdin is not None
        self.stdin, self.stdout = self._watchdog.stdin, self._watchdog.stdout

    @property
    def has_ended(self) -> bool:
        """Whether the program has ended, and what it left behind is gone."""
        return self._watchdog.poll() is not None

    def close(self) -> None:
        """End the program and wait until it is gone. Calling it again does nothing."""
        if not self.stdin.closed:
            # A line, because a forked child of ours may hold the pipe open.
            with contextlib.suppress(BrokenPipeError):
                self._watchdog.communicate("\n")


def is_taken(port: int) -> bool:
    """Whether something listens on that port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def free_port() -> int:
    """One that nobody listens on."""
    while is_taken(port := secrets.choice(_PORTS)):
        pass
    return port
