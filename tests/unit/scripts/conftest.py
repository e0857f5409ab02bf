"""Commands run in this process, with a folder of ape's own that no other test and no person has."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

# Before anything imports ape, which looks for its folder once.
_FOLDER = Path(tempfile.mkdtemp(prefix="ape-"))
os.environ["APE_DATA_FOLDER"] = str(_FOLDER)
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


Refuse = Callable[..., str]


@pytest.fixture(scope="session")
def ape_folder() -> Path:
    return _FOLDER


@pytest.fixture
def refuse() -> Refuse:
    """Runs a command that has to end in one sentence on standard error, with exit code 1; that sentence."""

    def run(command: Any, *arguments: str) -> str:
        result: Result = CliRunner(mix_stderr=False).invoke(command, list(arguments))
        assert result.exit_code == 1, result.output + result.stderr + repr(result.exception)
        assert isinstance(result.exception, SystemExit)
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
        assert not result.stdout
        return lines[0].removeprefix("error: ")

    return run
