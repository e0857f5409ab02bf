"""How long `ape console` takes to start with and without the protocol's names, on a local chain that has the protocol.

    python -m benchmarks.console                    seconds of wall clock and of CPU time, and their ratios
    python -m benchmarks.console --repetitions 15 --json

Four consoles take turns, in another order each round, so that whatever else the machine does meets all of them. Two run
`-c pass`: a bare one, in a folder that has only `ape-config.yaml`, and one with `ape_console_extras.py`. Two are given
`exit()` as if it were typed: a bare one, and one as a person sees it, which reads the deployments file, asks the chain
for its code, and prints a line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agents.commands._local import local_people, make_market
from agents.deployment import deploy_protocol
from agents.deployments import NetworkDeployment
from agents.genesis import load_genesis
from agents.localnet.evm import LocalEvm, start_evm

ROOT = Path(__file__).resolve().parents[1]
APE = Path(sys.executable).with_name("ape")
LOADS_AT_START = '["agents.console"]'


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to start the console."""

    folder: Path
    arguments: tuple[str, ...] = ()
    typed: str | None = None
    plugins: str = "[]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Of one start, until the process has ended."""

    wall_s: float
    cpu_s: float


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7, help="of each; the first of each is not counted")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    with ExitStack() as stack:
        evm = stack.enter_context(start_evm("anvil"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        deploy(evm, folder / "deployments")
        figures = summarise(measure(variants(folder), str(evm.url), folder, max(1, asked.repetitions)))
    sys.stdout.write(json.dumps(figures, indent=2) + "\n" if asked.json else as_text(figures))


def deploy(evm: LocalEvm, folder: Path) -> None:
    """The whole protocol, and the file that says where it is."""
    market = make_market(evm)
    path = ROOT / "deployments" / "genesis" / "local.toml"
    genesis = load_genesis(path, market=market.book, people=local_people(), now_s=evm.now_s())
    protocol = deploy_protocol(evm, genesis, sender=evm.accounts[0])
    NetworkDeployment(protocol=protocol, market=market.book).save(folder / "local.json")


def variants(folder: Path) -> dict[str, Variant]:
    """The four consoles, by name."""
    bare, ours = folder / "bare", folder / "ours"
    for project in (bare, ours):
        project.mkdir()
        # Without its dependencies and its compiler: neither is needed to start.
        (project / "ape-config.yaml").write_text("name: start\n", encoding="utf-8")
    shutil.copy(ROOT / "ape_console_extras.py", ours)
    command = ("-c", "pass")
    return {
        "bare": Variant(folder=bare, arguments=command),
        "with the names": Variant(folder=ours, arguments=command),
        "bare, interactive": Variant(folder=bare, typed="exit()\n"),
        "with the names, interactive": Variant(folder=ours, typed="exit()\n", plugins=LOADS_AT_START),
    }


def measure(
    wanted: Mapping[str, Variant], network: str, folder: Path, repetitions: int
) -> dict[str, list[Timing]]:
    """Each in turn; a first round, which writes byte code and ape's own files, is not counted."""
    timings: dict[str, list[Timing]] = {name: [] for name in wanted}
    for round_ in range(repetitions + 1):
        for name, variant in sorted(wanted.items(), key=lambda item: (hash_of(item[0], round_), item[0])):
            timing = start(variant, network, folder)
            if round_:
                timings[name].append(timing)
    return timings


def hash_of(name: str, round_: int) -> int:
    """For an order that is another one each round and the same each time."""
    return zlib.crc32(f"{round_} {name}".encode())


def start(variant: Variant, network: str, folder: Path) -> Timing:
    """One start. Raises RuntimeError when the console fails, or does not have what it is to have."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    environment = {
        **os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT), "APE_CONSOLE_PLUGINS": variant.plugins,
        "MARKETFLOW_DEPLOYMENTS_DIR": str(folder / "deployments"), "PYTHONPYCACHEPREFIX": str(folder / "byte code"),
    }  # fmt: skip
    for variable in ("APE_DATA_FOLDER", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(variable, None)
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(
        [str(APE), "console", "--network", network, *variant.arguments], cwd=variant.folder, env=environment,
        input=variant.typed, capture_output=True, text=True,
    )  # fmt: skip
    wall_s, after = time.perf_counter() - began, os.times()
    is_greeted = "MarketFlow on local" in done.stderr
    if done.returncode or is_greeted is not (variant.plugins == LOADS_AT_START):
        raise RuntimeError(f"ape console ended with {done.returncode}: {done.stderr}")
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return Timing(wall_s=wall_s, cpu_s=cpu_s)


def summarise(timings: Mapping[str, list[Timing]]) -> dict[str, dict[str, float]]:
    """Medians, and what each takes of the bare console that it is like."""
    medians = {
        name: {
            "wall_s": statistics.median(t.wall_s for t in each), "cpu_s": statistics.median(t.cpu_s for t in each),
            "wall_spread_s": max(t.wall_s for t in each) - min(t.wall_s for t in each),
        }
        for name, each in timings.items()
    }  # fmt: skip
    for name, figures in medians.items():
        bare = medians[name.replace("with the names", "bare")]
        figures |= {f"{kind}_ratio": figures[f"{kind}_s"] / bare[f"{kind}_s"] for kind in ("wall", "cpu")}
    return medians


def as_text(figures: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"{'console':<28}{'wall s':>8}{'spread':>8}{'ratio':>7}{'CPU s':>8}{'ratio':>7}"]
    lines += [
        f"{name:<28}{f['wall_s']:>8.2f}{f['wall_spread_s']:>8.2f}{f['wall_ratio']:>7.3f}{f['cpu_s']:>8.2f}"
        f"{f['cpu_ratio']:>7.3f}"
        for name, f in figures.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
