"""`deployments/<network>.json`: where the protocol and its market are on one chain."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.deployment import Deployment
from agents.errors import Misconfigured
from agents.localnet.market import AddressBook


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDeployment:
    """The protocol, and the tokens, feeds and pools it was deployed on."""

    protocol: Deployment
    market: AddressBook

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"protocol": self.protocol.to_dict(), "market": self.market.to_dict()}
        temporary = path.with_suffix(".partial")
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)


def load_deployment(path: Path, *, chain_id: int) -> NetworkDeployment:
    """What was deployed. Raises Misconfigured when the file is missing, unreadable, or of another chain."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = NetworkDeployment(
            protocol=Deployment.from_dict(raw["protocol"]), market=AddressBook.from_dict(raw["market"])
        )
    except FileNotFoundError:
        raise Misconfigured(f"{path} does not exist: run `ape run deploy` on this network first") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise Misconfigured(f"{path} is not a deployment ({error}): deploy again, or restore the file") from error
    if found.protocol.chain_id != chain_id:
        raise Misconfigured(
            f"{path} is of chain {found.protocol.chain_id}, the node is on chain {chain_id}: check --network"
        )
    return found
