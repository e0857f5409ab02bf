"""Somebody at a terminal: runs a command in one, and answers what it asks for with MARKETFLOW_KEYFILE_PASSPHRASE.

python -m tests.people.typist COMMAND …
"""

from __future__ import annotations

import os
import pty
import sys


def main() -> int:
    """The command's exit code."""
    answer = os.environ["MARKETFLOW_KEYFILE_PASSPHRASE"].encode() + b"\n"
    pid, terminal = pty.fork()
    if not pid:
        os.execvp(sys.argv[1], sys.argv[1:])
    said = b""
    while piece := read(terminal):
        os.write(1, piece)
        said += piece
        if said.endswith(b": "):
            os.write(terminal, answer)
            said = b""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def read(terminal: int) -> bytes:
    """What was said; nothing when it has ended, which a terminal calls an error."""
    try:
        return os.read(terminal, 1024)
    except OSError:
        return b""


if __name__ == "__main__":
    sys.exit(main())
