"""The pages for people say what works: their commands are run, or at least exist with the options that are named."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest

from agents.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/voter.md", "docs/engineer.md", "docs/operator.md", "docs/strategy.md", "README.md")
RUN = ("docs/voter.md", "docs/engineer.md")
_BLOCK = re.compile(r"^```bash([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"(?:marketflow|ape run) ([a-z][a-z_-]*)((?:[^\n`|]|\\\n)*)")
# Where the commands of the pages listen when nothing else is said.
PORTS = ("8545", "8600")


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def script_of(page: str, ports: dict[str, str]) -> tuple[str, int]:
    """The page's blocks as one script, in order, and how many of them are not run."""
    lines, left_out = ["set -e"], 0
    for info, block in _BLOCK.findall((ROOT / page).read_text()):
        if info.strip().startswith("not run:"):
            left_out += 1
        elif info.strip() == "background":
            name = "8545" if "marketflow node" in block else "8600"
            lines.append(f"( {block.strip().split('#')[0]} --port {name} ) > {name}.log 2>&1 &")
            lines.append(f"until (: < /dev/tcp/127.0.0.1/{name}) 2>/dev/null; do sleep 0.1; done")
        else:
            assert not info.strip(), f"{page}: a block is bash, bash background, or bash not run: REASON"
            lines.append(block)
    script = "\n".join([*lines, "echo the end"])
    for name, port in ports.items():
        script = script.replace(name, port)
    return script, left_out


@pytest.mark.parametrize(("page", "not_run"), [("docs/voter.md", 1), ("docs/engineer.md", 1)])
def test_every_command_of_the_page_works(page: str, not_run: int, tmp_path: Path) -> None:
    script, left_out = script_of(page, {name: free_port() for name in PORTS})
    environment = {
        **os.environ, "HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MARKETFLOW_DEPLOYMENTS_DIR": str(tmp_path / "deployments"), "NUMBA_NUM_THREADS": "1",
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
    }  # fmt: skip
    (tmp_path / "ape-config.yaml").write_text((ROOT / "ape-config.yaml").read_text().split("dependencies:")[0])
    (tmp_path / "ape_console_extras.py").write_text("from agents.console import ape_init_extras as ape_init_extras\n")
    with subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    ) as shell:  # fmt: skip
        try:
            said, _ = shell.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            said = "timeout"
        finally:
            subprocess.run(["pkill", "-TERM", "-s", str(shell.pid)], check=False)
    assert said.rstrip().endswith("the end"), said[-3000:]
    assert "Traceback" not in said
    assert left_out == not_run


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
