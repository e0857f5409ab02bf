"""Ctrl-C in what runs for minutes: one line that says what became of it, and 130, never a traceback."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from offchain_rl import bias, canaries, continual, report


@pytest.mark.parametrize(
    ("program", "works_in", "arguments", "says"),
    [
        (report, "run", [], "interrupted: no report was written"),
        (continual, "perform", ["champions"], "interrupted: without a decision the champion stays"),
        (bias, "load", ["--artefact", "a.json"], "interrupted: nothing was found out"),
        (canaries, "_run", [], "interrupted: the rates that were finished are above"),
    ],
)
def test_an_interrupt_ends_in_a_line_and_130(
    program: ModuleType, works_in: str, arguments: list[str], says: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, works_in, interrupt)
    assert program.main(arguments) == 130
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", says + "\n")
