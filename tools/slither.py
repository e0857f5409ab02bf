"""Static analysis of contracts/ with slither; fails on a finding that is not answered beside the code: `make slither`.

    python tools/slither.py            install slither in .venv-slither if need be, compile with forge, report
    python tools/slither.py --all      list the answered findings too

An answer is a comment that slither knows, and a reason:

    // slither-disable-next-line unused-return -- the id is in the ledger's event

or `slither-disable-start` and `-end` around what one sentence answers. An answer without a reason, one that answers
nothing any more, and a function that slither could not read count as findings. contracts/mocks are instruments of
tests, some of them wrong on purpose: left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-slither"
# An environment of its own: it shares eth-abi and eth-utils with ape, and wants newer ones.
PACKAGE = "slither-analyzer==0.11.6"
BUILD = ROOT / "build" / "slither"
REPORT = BUILD / "report.json"
LEFT_OUT = ["node_modules/", "contracts/mocks/"]
ANSWER = re.compile(r"^\s*//\s*slither-disable-(?P<kind>next-line|start|end)\b(?P<rest>.*)$")
REASON = re.compile(r"^ [a-z0-9,-]+ -- \S+ \S+")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--all", action="store_true", help="list the answered findings too")
    options.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.inside:
        analyse()
        return

    from bootstrap import make_venv, once, pip, settle_environment

    def install() -> None:
        make_venv(VENV)
        pip(VENV, PACKAGE)
        settle_environment(VENV)  # so that it finds forge and the compiler
        (VENV / ".gitignore").write_text("*\n")

    once(VENV, ["tools/slither.py"], "", install)
    BUILD.mkdir(parents=True, exist_ok=True)
    # -P: there, "slither" is the package, not this file.
    done = subprocess.run(
        [VENV / "bin" / "python", "-P", __file__, "--inside"], cwd=ROOT, env=os.environ | forge_settings(), check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stdout + "slither did not run to its end")
    report = json.loads(REPORT.read_text())
    unread = re.findall(r"Impossible to generate IR for ([^\n]+?):?\n", done.stdout)
    problems = [f"{where}: slither could not read this function" for where in unread] + unreasoned()
    problems += [f"{where}: answers nothing any more" for where in report["stale"]]
    open_findings = [finding for finding in report["findings"] if not finding["answered"]]
    problems += [describe(finding) for finding in open_findings]
    if chosen.all:
        print("\n".join(describe(finding) for finding in report["findings"] if finding["answered"]))
    if problems:
        print("\n".join(problems))
    found, kinds = len(report["findings"]), len({finding["check"] for finding in report["findings"]})
    print(
        f"slither: {report['contracts']} contracts, {report['detectors']} detectors, {found} findings of {kinds} "
        f"kinds, {found - len(open_findings)} answered beside the code, {len(problems)} problems"
    )
    sys.exit(1 if problems else 0)


def forge_settings() -> dict[str, str]:
    """A build folder of our own (slither wants it clean), and no test contracts in it."""
    return {
        "FOUNDRY_VIA_IR": "false",  # it reads the syntax tree: the quickest byte code will do
        "FOUNDRY_OUT": str(BUILD / "out"),
        "FOUNDRY_CACHE_PATH": str(BUILD / "cache"),
        "FOUNDRY_TEST": str(BUILD / "none"),
        "FOUNDRY_SCRIPT": str(BUILD / "none"),
    }


def analyse() -> None:
    """Inside .venv-slither: run every detector; write each finding, whether it is answered, and stale answers."""
    from slither import Slither
    from slither.__main__ import get_detectors_and_printers

    run = Slither(".", filter_paths=LEFT_OUT, show_ignored_findings=True, compile_force_framework="foundry")
    detectors, _ = get_detectors_and_printers()
    for detector in detectors:
        run.register_detector(detector)
    found = [finding for findings in run.run_detectors() for finding in findings or []]
    report = {
        "contracts": sum(is_ours(contract.source_mapping.filename.relative) for contract in run.contracts),
        "detectors": len(detectors),
        "findings": [
            {
                "check": finding["check"],
                "impact": finding["impact"],
                "description": finding["description"],
                "answered": run.has_ignore_comment(finding),
            }
            for finding in found
        ],
        "stale": sorted(
            {
                f"{relative(unused['file'])}:{unused['line']} {','.join(unused['unused_detectors'])}"
                for unused in run.get_unused_ignore_comments()
                if is_ours(relative(unused["file"]))
            }
        ),
    }
    REPORT.write_text(json.dumps(report, indent=1))


def is_ours(path: str) -> bool:
    return path.startswith("contracts/") and not any(path.startswith(folder) for folder in LEFT_OUT)


def relative(path: str) -> str:
    return Path(path).resolve().relative_to(ROOT).as_posix() if Path(path).resolve().is_relative_to(ROOT) else path


def unreasoned() -> list[str]:
    """Answers that give no reason."""
    problems = []
    for path in sorted((ROOT / "contracts").rglob("*.sol")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            answer = ANSWER.match(line)
            if answer and answer["kind"] != "end" and not REASON.match(answer["rest"]):
                problems.append(f"{path.relative_to(ROOT)}:{number}: no reason given (`detector -- reason`)")
    return problems


def describe(finding: dict[str, Any]) -> str:
    return f"{finding['impact']} {finding['check']}: {finding['description'].strip()}"


if __name__ == "__main__":
    main()
