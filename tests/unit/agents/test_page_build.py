"""The committed voting page is what its sources give, strict enough for any static host, and checked cheaply."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE, BUILD = ROOT / "agents/page", ROOT / "agents/voting_page"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_page", ROOT / "tools/build_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources and the build elsewhere, without the packages that are only needed to build."""
    for folder in ("agents/page", "agents/voting_page", "agents/abi"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("node_modules"))
    tool.write_lock(tmp_path, tool.source_hashes(tmp_path))
    tool.check(tmp_path, full=False)
    return tmp_path


def test_a_changed_source_makes_the_build_old(copy: Path):
    with (copy / "agents/page/src/chain/reader.ts").open("a") as file:
        file.write("// later\n")
    with pytest.raises(tool.PageOutdated, match=r"older than agents/page/src/chain/reader\.ts: run `python"):
        tool.check(copy, full=False)


def test_a_new_source_makes_the_build_old(copy: Path):
    (copy / "agents/page/src/more.ts").write_text("export {};\n")
    with pytest.raises(tool.PageOutdated, match="src/more"):
        tool.check(copy, full=False)


def test_a_contract_with_another_interface_makes_the_build_old(copy: Path):
    path = copy / "agents/abi/Treasury.json"
    content = json.loads(path.read_text())
    content["abi"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(tool.PageOutdated, match="abi/Treasury"):
        tool.check(copy, full=False)


def test_another_byte_code_of_the_same_interface_does_not(copy: Path):
    path = copy / "agents/abi/Treasury.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "bytecode": "0x00"}))
    tool.check(copy, full=False)


def test_a_build_that_was_edited_by_hand_is_found(copy: Path):
    script = next((copy / "agents/voting_page").rglob("*.js"))
    script.write_text(script.read_text() + "\nfetch('https://example.org')")
    with pytest.raises(tool.PageOutdated, match="is not what the sources give"):
        tool.check(copy, full=False)


def test_a_file_that_was_put_beside_the_build_is_found(copy: Path):
    (copy / "agents/voting_page/more.js").write_text("")
    with pytest.raises(tool.PageOutdated, match=r"voting_page/more\.js"):
        tool.check(copy, full=False)


@pytest.mark.parametrize(
    ("content", "says"), [(None, "never built"), ("{", "is not JSON"), ('{"format": "old"}', "has the format 'old'")]
)
def test_a_lock_file_that_is_none_is_named(copy: Path, content: str | None, says: str):
    lock = copy / "agents/page/build.lock"
    lock.unlink()
    if content is not None:
        lock.write_text(content)
    with pytest.raises(tool.PageOutdated, match=says):
        tool.check(copy, full=False)


def test_without_npm_nothing_is_built_and_the_way_out_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(tool.BuildImpossible, match="install Node"):
        tool.build(copy)


def test_the_committed_build_is_what_the_sources_give(capsys: pytest.CaptureFixture[str]):
    assert tool.main(["--check"]) == 0, capsys.readouterr().err


def test_the_page_runs_no_inline_code_and_asks_nobody_else():
    html = (BUILD / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)", html)
    assert not re.search(r"\son[a-z]+=|javascript:", html, re.IGNORECASE)
    for address in re.findall(r"(?:src|href)=\"([^\"]+)\"", html):
        assert address.startswith(("./", "data:")), address


def test_no_script_of_the_page_makes_code_of_text():
    scripts = list(BUILD.rglob("*.js"))
    assert scripts
    for script in scripts:
        assert not re.search(r"\beval\(|new Function\(", script.read_text(encoding="utf-8")), script.name


def test_every_dependency_is_pinned_and_has_its_reason():
    manifest = json.loads((PAGE / "package.json").read_text())
    dependencies = manifest["dependencies"] | manifest["devDependencies"]
    assert set(dependencies) == set(manifest["//"])
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in dependencies.values())
    locked = json.loads((PAGE / "package-lock.json").read_text())["packages"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in dependencies} == dependencies
    assert all("integrity" in package for name, package in locked.items() if name)
