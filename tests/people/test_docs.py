"""The pages for people say what works: their commands are run in order, as a shell would, and all that they name exist.

A block is one of these, by what follows its three backquotes: `bash` is run; `bash background` goes on until the end;
`bash terminal` is typed at, by somebody who answers with the passphrase; `bash not run: REASON` is not run.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import pytest

from agents.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/voter.md", "docs/engineer.md", "docs/operator.md", "docs/strategy.md", "docs/graph.md", "README.md")
# How many blocks of a page are run, and how many are not, with a reason beside them.
RUN = {
    "docs/voter.md": (7, 1), "docs/engineer.md": (8, 1), "docs/operator.md": (9, 1), "docs/strategy.md": (2, 1),
    "README.md": (3, 0),
}  # fmt: skip
PASSPHRASE = "a horse that is correct"
_BLOCK = re.compile(r"^```bash([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"(?:marketflow|ape run) ([a-z][a-z_-]*)((?:[^\n`|&]|\\\n)*)")
# Where what goes on listens when nothing else is said.
PORTS = {"node": "8545", "page": "8600", "agent": "9464"}


def free_ports() -> dict[str, str]:
    """A free one for each of them."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    found = [str(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return dict(zip(PORTS.values(), found, strict=True))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which `marketflow` and `ape` start quickly: see `tests.people.zygote`."""
    folder = tmp_path_factory.mktemp("programs")
    programs, home = folder / "bin", folder / "home"
    programs.mkdir()
    home.mkdir()
    mine = {name: value for name, value in os.environ.items() if not name.startswith("MARKETFLOW_")}
    mine.pop("APE_DATA_FOLDER", None)
    cache = os.environ.get("MARKETFLOW_CACHE_DIR", str(Path.home() / ".cache" / "marketflow"))
    environment = {
        **mine, "HOME": str(home), "PYTHONPATH": str(ROOT), "MARKETFLOW_CACHE_DIR": cache, "NUMBA_NUM_THREADS": "1",
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    zygote = subprocess.Popen(
        [sys.executable, "-m", "tests.people.zygote", str(folder / "socket"), str(programs)],
        cwd=folder, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert zygote.stdout is not None and zygote.stdout.readline() == "ready\n"
    yield environment
    zygote.terminate()
    zygote.wait()
    zygote.stdout.close()


def make_project(folder: Path) -> None:
    """What the repository's folder says to `ape console`, without the sources that ape would compile."""
    (folder / "ape-config.yaml").write_text((ROOT / "ape-config.yaml").read_text().split("dependencies:")[0])
    shutil.copy(ROOT / "ape_console_extras.py", folder)


def write_prices(path: Path) -> None:
    """A random walk, for the pages that speak of somebody's own prices."""
    walk, price, lines = random.Random(3), 2000.0, ["timestamp,open,high,low,close"]
    for index in range(3000):
        before, price = price, price * (1 + walk.gauss(0, 0.004))
        prices = f"{before:.2f},{max(before, price):.2f},{min(before, price):.2f},{price:.2f}"
        lines.append(f"{1_600_000_200 + 1800 * index},{prices}")
    path.write_text("\n".join(lines) + "\n")


def script_of(page: str, ports: dict[str, str]) -> tuple[str, int, int]:
    """The page's blocks as one script, in order, and how many of them are run and not run."""
    lines, left_out = ["set -euo pipefail"], 0
    blocks = _BLOCK.findall((ROOT / page).read_text())
    for info, block in blocks:
        kind = info.strip()
        if kind.startswith("not run: "):
            left_out += 1
        elif kind == "background":
            lines += go_on(block)
        elif kind == "terminal":
            typing = shlex.join([sys.executable, "-m", "tests.people.typist"])
            lines += [f"{typing} {command}" for command in block.strip().splitlines()]
        else:
            assert not kind, f"{page}: {kind!r} is none of background, terminal, not run: REASON"
            lines.append(block)
    script = "\n".join([*lines, "echo the end"])
    for name, port in ports.items():
        script = script.replace(name, port)
    return script, len(blocks) - left_out, left_out


def go_on(block: str) -> list[str]:
    """A command that goes on, and then what waits until it listens."""
    command = block.split("#")[0].strip()
    port = PORTS[command.split()[1]]
    # The daemon's port is a setting.
    options = "" if "agent run" in command else f"--port {port}"
    return [
        f"( {command} {options} ) > {port}.log 2>&1 &",
        f"until (: < /dev/tcp/127.0.0.1/{port}) 2>/dev/null; do",
        f"kill -0 $! || {{ cat {port}.log; exit 1; }}; sleep 0.1; done",
    ]


@pytest.mark.parametrize("page", RUN)
def test_every_command_of_the_page_works(page: str, tmp_path: Path, programs: dict[str, str]) -> None:
    ports = free_ports()
    script, is_run, left_out = script_of(page, ports)
    environment = {
        **programs, "MARKETFLOW_DEPLOYMENTS_DIR": str(tmp_path / "deployments"),
        "MARKETFLOW_HTTP_PORT": ports[PORTS["agent"]], "MARKETFLOW_KEYFILE_PASSPHRASE": PASSPHRASE,
    }  # fmt: skip
    write_prices(tmp_path / "prices.csv")
    make_project(tmp_path)
    with subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, env=environment, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as shell:  # fmt: skip
        try:
            said, _ = shell.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            said = "it does not end"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGTERM)  # what goes on is in the shell's own group
    logs = "".join(path.read_text()[-1500:] for path in tmp_path.glob("*.log"))
    assert said.rstrip().endswith("the end"), said[-3000:] + logs
    assert "Traceback" not in said + logs
    assert "error: " not in logs
    assert (is_run, left_out) == RUN[page]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_named_exists_with_its_options(page: str) -> None:
    unknown = []
    for name, rest in _NAMED.findall((ROOT / page).read_text()):
        context = click.Context(main)
        command = main.get_command(context, name)
        words = rest.split("#")[0].split()
        while isinstance(command, click.Group) and words:
            command = command.get_command(context, words.pop(0))
        if command is None:
            unknown.append(name)
        elif not isinstance(command, click.Group):
            known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
            options = [word.split("=")[0].rstrip(".,;:)") for word in words if word.startswith("--")]
            unknown += [f"{name} {option}" for option in options if option not in {*known, "--help"}]
    assert unknown == []
