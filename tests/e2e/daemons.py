"""A daemon of one's own: the files and settings that an operator would have, for agents of a test's world."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coincurve import PrivateKey
from pydantic import SecretStr

from agents.assembly import Assembly, assemble
from agents.deployments import NetworkDeployment
from agents.localnet.evm import Account
from agents.settings import Settings
from agents.signer import create_keyfile
from offchain_rl.artefact import Artefact, save
from tests.contracts.world import World

PASSPHRASE = "correct horse battery"


def write_files(
    world: World, folder: Path, agents: Sequence[tuple[str, Any, Artefact, Account | None]], *, limits: str = ""
) -> Settings:
    """`agents`: name, vault contract, artefact and key; without one on paper. Weakly encrypted keys are fast ones."""
    folder.mkdir(parents=True, exist_ok=True)
    NetworkDeployment(protocol=world.d, market=world.book).save(folder / "deployment.json")
    lines = [f"[limits]\n{limits}"]
    for name, vault, artefact, key in agents:
        save(artefact, folder / f"{artefact.name}.json")
        lines.append(f'[[agent]]\nname = "{name}"\nvault = "{vault.address}"\nartefact = "{artefact.name}.json"')
        if key is not None:
            path = folder / f"{key.address}.key.json"
            if not path.exists():
                create_keyfile(path, SecretStr(PASSPHRASE), key=PrivateKey(bytes(key.key)), scrypt_n=2)
            lines.append(f'key = "{path.name}"')
    (folder / "agents.toml").write_text("\n".join(lines), encoding="utf-8")
    return settings_for(folder, world.evm.url or "", world.d.chain_id)


def settings_for(folder: Path, url: str, chain_id: int, **over: Any) -> Settings:
    """Settings of a daemon whose files are in a folder."""
    options: dict[str, Any] = {
        "rpc_urls": (url,), "chain_id": chain_id, "deployment": folder / "deployment.json",
        "agents": folder / "agents.toml", "journal": folder / "journal.sqlite", "keyfile_passphrase": PASSPHRASE,
        "http_port": None, "finality_blocks": 3, "consensus": False,
    }  # fmt: skip
    return Settings(**options | over)


def start(settings: Settings, **over: Any) -> Assembly:
    """An assembly; the caller closes it."""
    return assemble(settings, **over)
