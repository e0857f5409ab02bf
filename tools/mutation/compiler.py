"""The warm compiler, and what it says about the contracts: syntax trees, byte code, who imports and who calls whom.

Mutants, and all that they are tested with, are compiled without solc's IR pipeline, which the shipped byte code goes
through: the same meaning in a third of the time. The vault is then bigger than a real chain takes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from build_artifacts import ABI, CONTRACTS, ROOT, artifact_files, sha256

from mutation.operators import Node, walk

Code = tuple[str, str]


class Compiler:
    """One node process that stays. Ask with `start`, take the answer with `finish`: mutants compile while tests run."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [shutil.which("node") or "node", Path(__file__).with_suffix(".js"), ROOT],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        settings = json.loads((ABI / "StrategyVault.json").read_text())["settings"]
        self.settings = {key: settings[key] for key in ("evmVersion", "optimizer", "metadata")}  # and no viaIR

    def fileno(self) -> int:
        return self._process.stdout.fileno()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def start(self, targets: dict[str, list[str]], replace: dict[str, str]) -> None:
        """Compile contracts, by file and name, with some files' texts replaced."""
        wanted = ["evm.bytecode.object", "evm.deployedBytecode.object"]
        select = {file: dict.fromkeys(names, wanted) for file, names in targets.items()}
        self._send(sorted(targets), replace, select)

    def finish(self) -> dict[str, Code] | None:
        """Creation and deployed code by contract; None when it does not compile."""
        output = self._receive()
        if any(error["severity"] == "error" for error in output.get("errors", [])):
            return None
        return {
            name: (found["evm"]["bytecode"]["object"], found["evm"]["deployedBytecode"]["object"])
            for contracts in output["contracts"].values()
            for name, found in contracts.items()
            if found.get("evm")
        }

    def trees(self, files: Iterable[str]) -> dict[str, Node]:
        """The syntax trees of files and of all they import; each with its `source`."""
        self._send(list(files), {}, {"*": {"": ["ast"]}})
        found = {name: source["ast"] for name, source in self._receive()["sources"].items()}
        for name, tree in found.items():
            tree["source"] = next(p for p in (ROOT / name, ROOT / "node_modules" / name) if p.exists()).read_bytes()
        return found

    def _send(self, sources: list[str], replace: dict[str, str], select: dict[str, Any]) -> None:
        request = {"sources": sources, "replace": replace, "settings": {**self.settings, "outputSelection": select}}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        return json.loads(self._process.stdout.readline())["output"]


class Contracts:
    """The project as it is: byte code, trees, and what a change of a file or a function can reach."""

    def __init__(self, compiler: Compiler, kept: Path) -> None:
        """`kept`: a folder for the byte code, which takes a minute to compile."""
        sources = {path.stem: json.loads(path.read_text())["sourceName"] for path in artifact_files()}
        own = sorted(p.relative_to(ROOT).as_posix() for p in CONTRACTS.rglob("*.sol") if ".cache" not in p.parts)
        self.trees = compiler.trees(own)
        # Of whatever the project deploys: the file it is in, by its name.
        self.files = {name: source for name, source in sources.items() if source in own}
        self.codes = self._compile(compiler, kept)
        protocol = sorted(name for name, file in self.files.items() if "/mocks/" not in file)
        # Of the protocol's byte code: results are kept for as long as this is the same.
        self.key = sha256("".join(f"{name}{self.codes[name]}" for name in protocol).encode())[:12]

    def _compile(self, compiler: Compiler, kept: Path) -> dict[str, Code]:
        sources = [f"{name}{tree['source']}" for name, tree in sorted(self.trees.items())]
        path = kept / f"codes-{sha256(json.dumps([sources, compiler.settings]).encode())[:12]}.json"
        if not path.exists():
            targets: dict[str, list[str]] = defaultdict(list)
            for name, file in self.files.items():
                targets[file].append(name)
            compiler.start(targets, {})
            if (codes := compiler.finish()) is None:
                sys.exit("contracts/ does not compile without viaIR")
            path.write_text(json.dumps(codes))
        return {name: tuple(code) for name, code in json.loads(path.read_text()).items()}

    def targets_of(self, file: str) -> dict[str, list[str]]:
        """The deployable contracts that a file is part of, by their own file."""
        found: dict[str, list[str]] = defaultdict(list)
        for name, own in self.files.items():
            if file in self._imports(own):
                found[own].append(name)
        return dict(found)

    def entries_to(self, declaration: int) -> set[str] | None:
        """Selectors of the external functions that reach a function, modifier or variable; None: every deployment."""
        if not declaration:
            return None
        reached, ahead = set(), {declaration}
        while ahead:
            reached |= ahead
            ahead = {caller for callee in ahead for caller in self._callers[callee]} - reached
        functions = [self._functions[one] for one in reached]
        if any(function.get("kind") == "constructor" for function in functions):
            return None
        return {function["functionSelector"] for function in functions if function.get("functionSelector")}

    def _imports(self, file: str) -> set[str]:
        seen, ahead = set(), {file}
        while ahead:
            seen |= ahead
            nodes = [node for name in ahead for node in self.trees[name]["nodes"]]
            ahead = {node["absolutePath"] for node in nodes if node["nodeType"] == "ImportDirective"} - seen
        return seen

    @cached_property
    def _functions(self) -> dict[int, Node]:
        """Functions and modifiers, and the variables that have a value from the start."""
        nodes = [node for tree in self.trees.values() for node in walk(tree)]
        kinds = ("FunctionDefinition", "ModifierDefinition")
        return {n["id"]: n for n in nodes if n["nodeType"] in kinds or (n.get("stateVariable") and n.get("value"))}

    @cached_property
    def _callers(self) -> dict[int, set[int]]:
        """Who names a function, modifier or variable; naming one that is overridden names the overrides too."""
        overrides: dict[int, set[int]] = defaultdict(set)
        for function in self._functions.values():
            for base in function.get("baseFunctions", []) + function.get("baseModifiers", []):
                overrides[base].add(function["id"])
        callers: dict[int, set[int]] = defaultdict(set)
        for caller, function in self._functions.items():
            named = {node.get("referencedDeclaration") for node in walk(function)} & self._functions.keys()
            while named:
                for callee in named:
                    callers[callee].add(caller)
                further = {override for callee in named for override in overrides[callee]}
                named = {callee for callee in further if caller not in callers[callee]}
        return callers
