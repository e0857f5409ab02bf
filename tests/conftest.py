"""What holds for every test: under CI nothing is skipped quietly.

Tests that check our files with another project's program (`program`) are left out where that can't be had, and counted.

A skip that nobody sees is a promise that nobody keeps. With CI=true a skipped test has failed, unless it is marked
`gpu`, `fork` or `shared_data`: what those need is not on every machine.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

MAY_BE_SKIPPED = ("gpu", "fork", "shared_data")


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"{reason}\nNot allowed under CI: see tests/conftest.py"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not any(item.get_closest_marker(name) for name in MAY_BE_SKIPPED):
        fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips itself while it is imported has no markers yet: mark its tests instead."""
    report = yield
    fail_if_skipped(report)
    return report


def find_program(name: str) -> str | None:
    """On the path, or beside this Python."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}{os.pathsep}{Path(sys.executable).parent}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    lacking = [
        item for item in items
        if (marker := item.get_closest_marker("program")) is not None and find_program(marker.args[0]) is None
    ]  # fmt: skip
    if lacking:
        config.hook.pytest_deselected(items=lacking)
        items[:] = [item for item in items if item not in lacking]
