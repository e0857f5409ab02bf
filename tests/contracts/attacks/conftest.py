"""What every attack here reports: what the attacker gained, what it cost, and what stopped it (`make attacks`)."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

OUTCOMES = pytest.StashKey[list[str]]()


@dataclass(slots=True)
class Report:
    """The outcome of one attack, in the words of the table."""

    name: str
    lines: list[str] = field(default_factory=list)

    def outcome(self, *, gained: str, cost: str, stopped_by: str) -> None:
        """`gained` and `cost`: figures that the test asserted, with units; `stopped_by`: the error or the rule."""
        self.lines.append(f"{self.name}: gained {gained}; cost {cost}; stopped by {stopped_by}")


@pytest.fixture
def attack(request: pytest.FixtureRequest) -> Report:
    """Every attack must report: a test that shows no cost has not shown that the attack fails."""
    report, failed_before = Report(request.node.name.removeprefix("test_")), request.session.testsfailed
    yield report
    if request.session.testsfailed == failed_before:
        assert report.lines, "an attack reports its outcome"
    request.config.stash.setdefault(OUTCOMES, []).extend(report.lines)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    outcomes = config.stash.get(OUTCOMES, [])
    if outcomes:
        terminalreporter.section("attacks: gained, cost, stopped by")
        for line in outcomes:
            terminalreporter.write_line(line)
