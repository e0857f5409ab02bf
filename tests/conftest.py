"""What holds for every test: under CI nothing is skipped quietly.

A skip that nobody sees is a promise that nobody keeps. With CI=true a skipped test has failed, unless it is marked
`gpu`, `fork` or `shared_data`: what those need is not on every machine.
"""

from __future__ import annotations

import os
from collections.abc import Generator

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
