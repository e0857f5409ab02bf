"""Starts daemons quickly: imports them once, then forks one for each line it reads.

A line is {folder, url, chain_id, plan, log}; the answer is the daemon's process id. Each daemon is a real process with
its own memory, files and threads, that can be killed; only the import was done before.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from agents.errors import AgentError
from agents.service import run
from tests.chaos.faults import CrashPoints
from tests.e2e.daemons import settings_for


def main() -> None:
    """Until standard input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    for line in sys.stdin:
        wanted = json.loads(line)
        if not (pid := os.fork()):
            _be_daemon(wanted)
        print(pid, flush=True)


def _be_daemon(wanted: dict[str, str]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with Path(wanted["log"]).open("a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 2)
    os.close(0)
    folder = Path(wanted["folder"])
    settings = settings_for(
        folder, wanted["url"], int(wanted["chain_id"]), poll_s=0.03, breaker_after=50, finality_blocks=8,
        watchdog_s=60.0,
    )  # fmt: skip
    code = 1
    try:
        code = run(settings, at=CrashPoints.parse(wanted["plan"]))
    except AgentError as error:
        print(f"refused to start: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
