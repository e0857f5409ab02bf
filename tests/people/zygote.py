"""`marketflow` and `ape` for a shell, started quickly: one process imports them, and forks for each that is started.

    python -m tests.people.zygote SOCKET BIN      until it is terminated; BIN gets the two programs

Each is a process of its own with the shell's folder, environment, arguments and terminal; only the imports were done
before. That the installed programs start, `tests/unit/agents/test_cli_group.py` shows.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import click

# What commands import when they run.
LATER = (
    "agents.service", "agents.assembly", "agents.operator_look", "agents.operator_view", "agents.operator_repair",
    "agents.signer", "agents.page_server", "agents.relayer_app", "offchain_rl.train_ppo", "uvicorn", "ape._cli",
    "IPython.terminal.ipapp", "agents.console_session", "agents.console_views", "ape_node", "ape_console._cli",
)  # fmt: skip
CLIENT = """#!{python} -SI
import json, os, signal, socket, sys
talk = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
talk.connect({socket!r})
wanted = {{"argv": sys.argv, "cwd": os.getcwd(), "env": dict(os.environ)}}
socket.send_fds(talk, [json.dumps(wanted).encode()], [0, 1, 2])
pid = int(talk.recv(20))
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(pid, number))
code = int(talk.recv(20))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def main() -> None:
    where, programs = sys.argv[1], Path(sys.argv[2])
    runs = import_all()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(where)
        listener.listen(16)
        for name in runs:
            (programs / name).write_text(CLIENT.format(python=sys.executable, socket=where))
            (programs / name).chmod(0o755)
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
        while True:
            talk, _ = listener.accept()
            if not os.fork():
                listener.close()
                attend(talk, runs)
            talk.close()


def import_all() -> dict[str, Callable[[], None]]:
    """The programs, with everything that their commands use."""
    from agents.cli import CHAPTERS, run
    from agents.cli import main as group

    context = click.Context(group)
    for chapter in CHAPTERS.values():
        for name in chapter:
            group.get_command(context, name)
    for module in LATER:
        with suppress(ImportError):
            import_module(module)
    from ape._cli import cli as ape

    signal.signal(signal.SIGINT, signal.default_int_handler)
    return {"marketflow": run, "ape": ape}


def attend(talk: socket.socket, runs: dict[str, Callable[[], None]]) -> None:
    """Starts one program, and says how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    raw, files, _, _ = socket.recv_fds(talk, 1 << 20, 3)
    if not (pid := os.fork()):
        talk.close()
        be(json.loads(raw), files, runs)
    for file in files:
        os.close(file)
    talk.send(str(pid).encode())
    _, status = os.waitpid(pid, 0)
    with suppress(OSError):
        talk.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def be(wanted: dict[str, object], files: list[int], runs: dict[str, Callable[[], None]]) -> None:
    """That program, to its end."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(wanted["env"])  # type: ignore[arg-type, call-overload]
    os.chdir(str(wanted["cwd"]))
    sys.argv = list(wanted["argv"])  # type: ignore[call-overload]
    code = 70
    try:
        runs[Path(sys.argv[0]).name]()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
