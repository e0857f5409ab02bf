"""Compile contracts/ and keep ABI and byte code in agents/abi/, so that running MarketFlow needs no compiler.

    python tools/build_artifacts.py                  compile and write (`make artifacts`)
    python tools/build_artifacts.py --check          compare hashes with agents/abi/manifest.json; compiles nothing
    python tools/build_artifacts.py --check --full   compile and compare byte for byte (`make test`)

The request to solc is the one `ape compile` makes, with one setting more: `bytecodeHash: none`. By default solc ends
the code with a hash over comments and file names; without it the code hash that the DAO approves can be reproduced by
any tool, from any folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ROOT / "contracts"
ABI = ROOT / "agents" / "abi"
MANIFEST = ABI / "manifest.json"
METADATA = {"bytecodeHash": "none"}
# EIP-170: a node refuses to deploy more.
MAX_DEPLOYED_BYTES = 24_576
OUTPUTS = ["abi", "metadata", "evm.bytecode.object", "evm.bytecode.linkReferences", "evm.deployedBytecode"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--check", action="store_true", help="write nothing; fail if agents/abi/ is out of date")
    options.add_argument("--full", action="store_true", help="with --check: compile too")
    chosen = options.parse_args()

    if chosen.check:
        problems = compare(compile_artifacts()) if chosen.full else check()
        if problems:
            sys.exit("agents/abi/ is not what contracts/ compiles to (`make artifacts`):\n  " + "\n  ".join(problems))
        print(f"agents/abi/ is up to date: {len(artifact_files())} artefacts.")
    else:
        write(compile_artifacts())
        if problems := too_big():
            sys.exit("Written, but not deployable:\n  " + "\n  ".join(problems))


def check() -> list[str]:
    """What is out of date, judged by hashes alone, or too big; an empty list if all is well."""
    manifest = read_manifest()
    recorded, current = manifest["inputs"], input_hashes()
    problems = [f"{name}: changed" for name in sorted(current) if recorded.get(name, current[name]) != current[name]]
    problems += [f"{name}: new" for name in sorted(current.keys() - recorded.keys())]
    problems += [f"{name}: gone" for name in sorted(recorded.keys() - current.keys())]
    present = {path.relative_to(ABI).as_posix(): sha256(path.read_bytes()) for path in artifact_files()}
    expected = manifest["artifacts"]
    for name in sorted(present.keys() | expected.keys()):
        if present.get(name) != expected.get(name):
            problems.append(f"agents/abi/{name}: not the file that was built")
    return problems + too_big()


def too_big() -> list[str]:
    sizes = {path: deployed_bytes(json.loads(path.read_text())) for path in artifact_files()}
    return [
        f"{path.stem}: {size:,} bytes of code, a node takes {MAX_DEPLOYED_BYTES:,}"
        for path, size in sizes.items()
        if size > MAX_DEPLOYED_BYTES
    ]


def input_hashes() -> dict[str, str]:
    """Hashes of everything that decides the byte code: own sources, settings, and the locked npm packages."""
    hashes = {path.relative_to(ROOT).as_posix(): sha256(path.read_bytes()) for path in own_sources()}
    config = yaml.safe_load((ROOT / "ape-config.yaml").read_text())
    hashes["settings"] = digest([config["solidity"], config["dependencies"], METADATA])
    lock = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    packages = [dependency["npm"] for dependency in config["dependencies"]] + ["solc"]
    for package in packages:
        hashes[f"npm {package}"] = lock[f"node_modules/{package}"]["integrity"]
    return hashes


def compile_artifacts() -> dict[str, dict]:
    """Compile all of contracts/: artefacts by their path below agents/abi/. Ends the program on a compiler error."""
    import ape
    import solcx
    from solcx.exceptions import SolcError

    project = ape.Project(ROOT)
    compiler = ape.compilers.registered_compilers[".sol"]
    # A project below the temporary folder is compiled in place, and keeps there what its dependencies once were.
    shutil.rmtree(CONTRACTS / ".cache", ignore_errors=True)
    with project.isolate_in_tempdir() as isolated:
        sources = [isolated.path / path.relative_to(ROOT) for path in own_sources()]
        [(version, request)] = compiler.get_standard_input_json(sources, project=isolated).items()
        names = [path.relative_to(isolated.path).as_posix() for path in sources]
        request["settings"] |= {"metadata": METADATA, "outputSelection": {name: {"*": OUTPUTS} for name in names}}
        try:
            output = solcx.compile_standard(
                request, solc_version=version.base_version, base_path=isolated.path, allow_paths=isolated.path
            )
        except SolcError as error:
            sys.exit(error.message)  # str(error) would add all of the output
    own = {path.relative_to(ROOT).as_posix() for path in own_sources()}
    for message in output.get("errors", []):
        if message.get("sourceLocation", {}).get("file") in own:
            print(message["formattedMessage"], file=sys.stderr)

    artifacts: dict[str, dict] = {}
    for source, contracts in output["contracts"].items():
        for name, compiled in contracts.items():
            if not is_deployable(compiled) or source not in own:
                continue
            path = f"mocks/{name}.json" if source.startswith("contracts/mocks/") else f"{name}.json"
            if path in artifacts:
                sys.exit(f"Two contracts are called {name}: {artifacts[path]['sourceName']} and {source}")
            artifacts[path] = artifact(name, source, compiled, str(version))
    return artifacts


def is_deployable(compiled: dict) -> bool:
    """No interface, no abstract contract, no library of internal functions."""
    kinds = {item["type"] for item in compiled["abi"]}
    return bool(compiled["evm"]["bytecode"]["object"] and kinds & {"function", "constructor", "fallback", "receive"})


def artifact(name: str, source: str, compiled: dict, version: str) -> dict:
    if compiled["evm"]["bytecode"]["linkReferences"]:
        sys.exit(f"{name} calls an external library, but artefacts are finished byte code: make its functions internal")
    metadata = json.loads(compiled["metadata"])
    settings = metadata["settings"]
    return {
        "contractName": name,
        "sourceName": source,
        "compiler": version,
        "settings": {key: settings[key] for key in ("evmVersion", "optimizer", "viaIR", "metadata")},
        # Over the contract's own file and all that it imports.
        "sourcesHash": digest({file: entry["keccak256"] for file, entry in metadata["sources"].items()}),
        "abi": compiled["abi"],
        "bytecode": "0x" + compiled["evm"]["bytecode"]["object"],
        "deployedBytecode": "0x" + compiled["evm"]["deployedBytecode"]["object"],
        # Where the constructor writes: to compare code on a chain, zero these places first.
        "immutableReferences": compiled["evm"]["deployedBytecode"].get("immutableReferences", {}),
    }


def deployed_bytes(artifact: dict) -> int:
    return len(bytes.fromhex(artifact["deployedBytecode"].removeprefix("0x")))


def compare(artifacts: dict[str, dict]) -> list[str]:
    """What differs between fresh artefacts and the files."""
    fresh = {path: serialise(content) for path, content in artifacts.items()}
    present = {path.relative_to(ABI).as_posix(): path.read_text() for path in artifact_files()}
    paths = sorted(fresh.keys() | present.keys())
    return [f"agents/abi/{path}" for path in paths if fresh.get(path) != present.get(path)] + check()


def write(artifacts: dict[str, dict]) -> None:
    for path in artifact_files():
        path.unlink()
    for path, content in artifacts.items():
        (ABI / path).parent.mkdir(parents=True, exist_ok=True)
        (ABI / path).write_text(serialise(content))
    hashes = {path: sha256(serialise(content).encode()) for path, content in sorted(artifacts.items())}
    MANIFEST.write_text(serialise({"inputs": input_hashes(), "artifacts": hashes}))
    for path in sorted(artifacts, key=lambda path: -deployed_bytes(artifacts[path])):
        print(f"{deployed_bytes(artifacts[path]):>7,} bytes  {path.removesuffix('.json')}")


def own_sources() -> list[Path]:
    return sorted(path for path in CONTRACTS.rglob("*.sol") if ".cache" not in path.relative_to(CONTRACTS).parts)


def artifact_files() -> list[Path]:
    return sorted(path for path in ABI.rglob("*.json") if path != MANIFEST)


def read_manifest() -> dict:
    return json.loads(MANIFEST.read_text()) if MANIFEST.exists() else {"inputs": {}, "artifacts": {}}


def serialise(content: dict) -> str:
    return json.dumps(content, indent=1) + "\n"


def digest(content: object) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    main()
