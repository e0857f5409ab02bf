"""The set-up keeps its promises: our names are ours, what is shipped is what the sources say, versions are pinned."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path

import pytest

from tools import build_artifacts, build_solana

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("package-lock.json", "subgraph/package-lock.json")
GENERATED = re.compile(r"^(\.git|\.venv.*|node_modules|build|\.build|\.solcx|.*cache.*|\.hypothesis|.*\.egg-info)$")


def project_files(folder: Path = ROOT) -> Iterator[Path]:
    """Every file of the project's own, tracked or about to be."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and not GENERATED.match(path.name):
            yield from project_files(path)
        elif path.is_file():
            yield path


@pytest.mark.parametrize("package", ["agents", "oracle", "offchain_rl"])
def test_package_is_ours_and_nobody_elses(package: str) -> None:
    """`openai-agents`, for one, installs a package called agents too."""
    assert Path(importlib.import_module(package).__file__).is_relative_to(ROOT)
    assert set(metadata.packages_distributions().get(package, [])) <= {"marketflow"}


def test_version_is_readable() -> None:
    assert metadata.version("marketflow") == PYPROJECT["project"]["version"]


def test_artifacts_are_what_the_sources_compile_to() -> None:
    assert build_artifacts.check() == []


def test_solana_programs_are_what_the_sources_compile_to() -> None:
    build_solana.check(ROOT)


def test_solana_programs_can_be_read_from_the_package() -> None:
    folder = resources.files("agents") / "solana_programs"
    for name in build_solana.PROGRAMS:
        assert (folder / build_solana.file_name(name)).read_bytes().startswith(b"\x7fELF")
        assert json.loads((folder / f"marketflow_{name}.json").read_text())["name"] == f"marketflow_{name}"


def test_artifacts_can_be_read_from_the_package() -> None:
    manifest = json.loads((resources.files("agents") / "abi" / "manifest.json").read_text())
    assert manifest["artifacts"]
    for name in manifest["artifacts"]:
        artifact = json.loads((resources.files("agents") / "abi" / name).read_text())
        assert artifact["abi"]
        assert build_artifacts.deployed_bytes(artifact) <= build_artifacts.MAX_DEPLOYED_BYTES


def test_who_does_not_use_solana_never_loads_it() -> None:
    """Its packages take half a second, and a newer one of them must not stop the rest."""
    ask = "import sys, agents.cli, agents.daemon; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "agents" in loaded.split()
    assert not {"anchorpy", "solana", "solders", "spl"} & set(loaded.split())


def test_every_dependency_is_pinned_and_says_why() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    for requirement in all_requirements():
        [line] = [line for line in lines if f'"{requirement}"' in line]
        assert re.search(r"==\S+$", requirement), f"{requirement} is not pinned"
        assert re.search(r'",\s+# \w+', line), f"{requirement} has no comment"


def test_constraints_hold_every_direct_dependency() -> None:
    constraints = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").splitlines()
    missing = [name for name in all_requirements() if re.sub(r"\[.*]", "", name).lower() not in constraints]
    assert missing == [], "run `make lock`"


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_no_server_and_hashes_everything(lock: str) -> None:
    packages = {path: entry for path, entry in json.loads((ROOT / lock).read_text())["packages"].items() if path}
    assert [path for path, entry in packages.items() if "resolved" in entry] == []
    assert [path for path, entry in packages.items() if "integrity" not in entry] == []


def test_no_package_registry_is_named() -> None:
    """Which registry serves the packages is the machine's choice, made in pip's and npm's own configuration."""
    hosts = re.compile(
        rb"pypi\." rb"org|python" rb"hosted\.org|npmjs\." rb"org|npmjs\." rb"com|debian\." rb"org/debian"
    )
    assert [str(path) for path in project_files() if hosts.search(path.read_bytes())] == []


def all_requirements() -> list[str]:
    project = PYPROJECT["project"]
    return [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
