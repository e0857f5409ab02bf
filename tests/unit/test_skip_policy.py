"""Under CI a skipped test has failed, unless it is marked gpu, fork or shared_data (tests/conftest.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = "pytester"

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
# Each inner run would import them anew.
WITHOUT_PLUGINS = [
    "-p",
    "no:ape_test",
    "-p",
    "no:pytest_anchorpy",
    "-p",
    "no:hypothesispytest",
    "-p",
    "no:anyio",
    "-p",
    "no:timeout",
]
MARKERS = "[pytest]\nmarkers =\n  gpu\n  fork\n  shared_data\n  slow\n"


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Run a test module under our conftest, with CI set or not."""

    def run(code: str, *, ci: bool) -> pytest.RunResult:
        monkeypatch.setenv("CI", "true") if ci else monkeypatch.delenv("CI", raising=False)
        pytester.makeconftest(CONFTEST.read_text())
        pytester.makeini(MARKERS)
        pytester.makepyfile("import pytest\n" + code)
        return pytester.runpytest_inprocess(*WITHOUT_PLUGINS)

    return run


@pytest.mark.parametrize(
    "skip",
    [
        "def test_it():\n    pytest.skip('no reason')",
        "@pytest.mark.skip(reason='no reason')\ndef test_it(): pass",
        "@pytest.mark.slow\n@pytest.mark.skipif(True, reason='no reason')\ndef test_it(): pass",
    ],
)
def test_skip_fails_under_ci_only(run, skip: str) -> None:
    failed = run(skip, ci=True)
    assert failed.ret == pytest.ExitCode.TESTS_FAILED
    failed.stdout.fnmatch_lines(["*no reason*", "*Not allowed under CI*"])
    run(skip, ci=False).assert_outcomes(skipped=1)


def test_module_that_skips_itself_fails_under_ci(run) -> None:
    module = "pytest.importorskip('no_such_module')\ndef test_it(): pass"
    run(module, ci=True).assert_outcomes(errors=1)
    assert run(module, ci=False).parseoutcomes() == {"skipped": 1}


@pytest.mark.parametrize("marker", ["gpu", "fork", "shared_data"])
def test_marked_test_may_be_skipped_under_ci(run, marker: str) -> None:
    run(f"@pytest.mark.{marker}\ndef test_it():\n    pytest.skip('not here')", ci=True).assert_outcomes(skipped=1)


def test_expected_failure_is_no_skip(run) -> None:
    run("@pytest.mark.xfail\ndef test_it():\n    assert False", ci=True).assert_outcomes(xfailed=1)
