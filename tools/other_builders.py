"""Build contracts/ with another tool and compare its code with agents/abi/: `make forge`, `make brownie`.

    python tools/other_builders.py forge
    python tools/other_builders.py brownie     and then brownie/tests, on an anvil of its own

Whoever audits a deployment may use any of the three; ape, forge and brownie must agree on what the sources are.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import yaml
from build_artifacts import ABI, ROOT, artifact_files

BUILD = ROOT / "build"
# Brownie can't leave out solc's hash over comments and file names (build_artifacts.py does): 51 bytes become 10.
WITH_HASH = re.compile("a2646970667358221220[0-9a-f]{64}(64736f6c6343[0-9a-f]{6})0033$")


def main() -> None:
    tool = sys.argv[1] if len(sys.argv) == 2 else ""
    if tool == "forge":
        run("forge", "build", "--offline")
        compare(tool, {path.stem: forge_code(path) for path in BUILD.glob("forge/out/*.sol/*.json")})
    elif tool == "brownie":
        brownie = ROOT / ".venv-brownie" / "bin" / "brownie"
        environment = os.environ | {"HOME": str(brownie_home())}
        run(brownie, "compile", "--all", env=environment)
        compare(tool, {path.stem: brownie_code(path) for path in ROOT.glob("brownie/build/contracts/*.json")})
        run(brownie, "test", "brownie/tests", "--network", "development", env=environment)
    else:
        sys.exit(__doc__)


def compare(tool: str, built: dict[str, str]) -> None:
    """End the program unless `tool` built the code of every artefact; foreign ones only if it lists them."""
    ours = {path.stem: json.loads(path.read_text()) for path in artifact_files()}
    expected = {name: content for name, content in ours.items() if name in built or is_own(content)}
    different = [name for name, content in expected.items() if built.get(name) != content["deployedBytecode"]]
    if different:
        sys.exit(f"{tool} builds other code than {ABI.relative_to(ROOT)}/ has: {', '.join(sorted(different))}")
    print(f"{tool} builds the code that {ABI.relative_to(ROOT)}/ has: {len(expected)} contracts.")


def is_own(artifact: dict) -> bool:
    return ".cache" not in artifact["sourceName"]


def forge_code(path: Path) -> str:
    return json.loads(path.read_text())["deployedBytecode"]["object"]


def brownie_code(path: Path) -> str:
    return "0x" + WITH_HASH.sub(r"a1\g<1>000a", json.loads(path.read_text())["deployedBytecode"])


def brownie_home() -> Path:
    """A home folder for brownie: its network list is per user, and the one here names a port that is free now."""
    home = BUILD / "brownie-home"
    (home / ".brownie").mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"port": port, "accounts": 10, "chain_id": 31337, "base_fee": 0, "gas_limit": 30_000_000}
    anvil = {"id": "development", "name": "anvil", "cmd": "anvil", "host": "http://127.0.0.1", "cmd_settings": settings}
    networks = {"live": [], "development": [anvil]}
    (home / ".brownie" / "network-config.yaml").write_text(yaml.safe_dump(networks))
    return home


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    if code := subprocess.run([str(part) for part in command], cwd=ROOT, env=env).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
