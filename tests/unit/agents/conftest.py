"""Tests that check our files with another project's program are left out where that can't be had, and counted."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest


def find_program(name: str) -> str | None:
    """On the path, or beside this Python."""
    beside_python = Path(sys.executable).parent / name
    return shutil.which(name) or (str(beside_python) if beside_python.exists() else None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    lacking = [
        item for item in items
        if (marker := item.get_closest_marker("program")) is not None and find_program(marker.args[0]) is None
    ]  # fmt: skip
    if lacking:
        config.hook.pytest_deselected(items=lacking)
        items[:] = [item for item in items if item not in lacking]
