"""The peers: environments of their own to run them in, and their figures out of processes of their own.

    .venv-bench               peers.txt
    .venv-bench-torchtrade    peers-torchtrade.txt

A peer that can't be installed, built or run is a sentence in the report and not the end of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = Path(__file__).resolve().parent
VENV: Final = ROOT / ".venv-bench"
TORCHTRADE_VENV: Final = ROOT / ".venv-bench-torchtrade"
PUFFERLIB: Final = "pufferlib==3.0.0"
# Of pufferlib's environments, those that are compiled: with a small observation, and with a large one.
C_ENVIRONMENTS: Final = ("cartpole", "squared")
PATIENCE_S: Final = 1200
# What numpy, torch and numba would otherwise start threads for. Idle OpenMP threads spin, and count as work.
ONE_THREAD: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)


class PeerMissing(RuntimeError):
    """A peer could not be installed, built or run. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """An environment and what is installed in it."""

    venv: Path
    requirements: Path

    @property
    def python(self) -> Path:
        """Its interpreter, there or not."""
        return self.venv / "bin" / "python"


BENCH: Final = Home(venv=VENV, requirements=HERE / "peers.txt")
TORCHTRADE: Final = Home(venv=TORCHTRADE_VENV, requirements=HERE / "peers-torchtrade.txt")


def install(home: Home) -> None:
    """The home made, or found as it should be. Raises PeerMissing."""
    # By path: "tools" is no package, and other projects install one of that name.
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from bootstrap import make_venv, once
    finally:
        sys.path.pop(0)

    def make() -> None:
        sys.stderr.write(f"Installing {home.requirements.name} in {home.venv.name}: some minutes, once.\n")
        make_venv(home.venv)
        (home.venv / ".gitignore").write_text("*\n", encoding="utf-8")
        # -I: not from this folder, where pip would find MarketFlow itself and miss what that needs.
        pip = [str(home.python), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "--requirement", str(home.requirements)], check=False)
        if done.returncode != 0:
            raise PeerMissing(f"{home.venv.name} can't be installed: pip's own message is above")

    try:
        once(home.venv, [str(home.requirements.relative_to(ROOT))], "", make)
    except SystemExit as error:
        raise PeerMissing(f"{home.venv.name} can't be installed: {error}") from error


def ask(home: Home, peer: str, *arguments: str) -> Any:
    """What `benchmarks.rl.peer` answers when run there. Raises PeerMissing with the last line that it said."""
    return run_json(home.python, "benchmarks.rl.peer", peer, *arguments)


def run_json(python: Path, module: str, *arguments: str) -> Any:
    """The JSON that is the last line of a module's output, run from the project's folder with one thread."""
    command = [str(python), "-m", module, *arguments]
    settings = {**os.environ, **ONE_THREAD, "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissing(f"{' '.join(arguments[:1]) or module}: {error}") from error
    return parse_answer(arguments[0] if arguments else module, done.returncode, done.stdout, done.stderr)


def parse_answer(name: str, code: int, stdout: str, stderr: str) -> Any:
    """The last line of what a process wrote, as JSON. Raises PeerMissing when it failed or wrote none."""
    said = stdout.strip().splitlines()
    complaint = (stderr.strip().splitlines() or ["it said nothing"])[-1]
    if code != 0 or not said:
        raise PeerMissing(f"{name} failed ({code}): {complaint}")
    try:
        return json.loads(said[-1])
    except json.JSONDecodeError as error:
        raise PeerMissing(f"{name} answered {said[-1][:80]!r}, not figures") from error


def build_c_environments(home: Home) -> Path:
    """A folder with pufferlib's environments as modules, compiled once. Raises PeerMissing.

    Not by its own setup.py: that wants a library for browsers and one for physics from a third place, for environments
    that nobody here runs. The C files, and the raylib that their pictures need, are in the source distribution.
    """
    target = home.venv / "c-environments"
    built = {name: target / name / f"binding{sysconfig.get_config_var('EXT_SUFFIX')}" for name in C_ENVIRONMENTS}
    if all(path.exists() for path in built.values()):
        return target
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise PeerMissing("pufferlib's C environments need a C compiler on PATH, gcc or cc")
    with tempfile.TemporaryDirectory() as folder:
        source = _fetch_sources(home, Path(folder))
        for name, path in built.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _compile(compiler, home, source, name, path)
    return target


def _fetch_sources(home: Home, folder: Path) -> Path:
    """The unpacked source distribution. pip ends in an error, that of setup.py, and leaves it behind as it was told."""
    command = [
        str(home.python), "-m", "pip", "download", "--no-clean", "--no-deps", "--no-build-isolation", "--no-binary",
        ":all:", "--dest", str(folder), PUFFERLIB,
    ]  # fmt: skip
    # NO_OCEAN: fail at once instead of asking for more. CUDA_HOME: it would look for a compiler of that kind.
    environment = {**os.environ, "TMPDIR": str(folder), "NO_OCEAN": "1", "NO_TRAIN": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*/pufferlib*/pufferlib/ocean"))
    if not found:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise PeerMissing(f"the sources of {PUFFERLIB} could not be downloaded: {last}")
    return found[0].parents[1]


def _compile(compiler: str, home: Home, source: Path, name: str, path: Path) -> None:
    ask_paths = "import sysconfig, numpy; print(sysconfig.get_path('include')); print(numpy.get_include())"
    includes = subprocess.check_output([str(home.python), "-c", ask_paths], text=True).split()
    [raylib] = source.glob("raylib-*_linux_amd64") or [source]
    command = [
        # Its own flags; the linker's -flto too.
        compiler, "-shared", "-fPIC", "-O2", "-flto", "-fwrapv", "-w", "-DPLATFORM_DESKTOP",
        *(f"-I{include}" for include in (*includes, raylib / "include", source / "pufferlib/extensions")),
        str(source / "pufferlib" / "ocean" / name / "binding.c"), str(raylib / "lib" / "libraylib.a"),
        "-lm", "-ldl", "-lpthread", "-o", str(path),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        first = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
        raise PeerMissing(f"pufferlib's {name} does not compile here: {first}")


def versions(home: Home, names: Sequence[str]) -> dict[str, str]:
    """What is installed there of these distributions."""
    ask_versions = (
        "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    )
    done = subprocess.run(
        [str(home.python), "-c", ask_versions, *names], capture_output=True, text=True, check=False
    )  # fmt: skip
    return dict(parse_answer("versions", done.returncode, done.stdout, done.stderr))
