"""What the DAO votes on, in Python: manifests as the contracts take them, and as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from web3 import Web3

from agents.deployment import Chain, Deployment, Limits

NEW_STRATEGY = "0x" + 64 * "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`StrategyManifest` of Types.sol. Hashes are 0x-hex; `assets` are (token, venue route) pairs."""

    artefact_hash: str
    agent_id: int
    updates: str = NEW_STRATEGY
    vault_implementation: str
    vault_code_hash: str
    venue: str
    venue_code_hash: str
    assets: tuple[tuple[str, int], ...]
    limits: Limits
    # Token wei for a base unit of quote; token wei for an epoch; base units of quote.
    reward_rate: int
    reward_cap_wei: int
    capital: int
    salt: str = NEW_STRATEGY

    def as_tuple(self) -> tuple[Any, ...]:
        """The struct as web3 takes it."""
        return (
            _bytes(self.artefact_hash), self.agent_id, _bytes(self.updates),
            self.vault_implementation, _bytes(self.vault_code_hash), self.venue, _bytes(self.venue_code_hash),
            list(self.assets), self.limits.as_tuple(),
            self.reward_rate, self.reward_cap_wei, self.capital, _bytes(self.salt),
        )  # fmt: skip


def build_manifest(
    chain: Chain,
    deployment: Deployment,
    *,
    artefact_hash: str,
    agent_id: int,
    assets: Sequence[tuple[str, int]],
    limits: Limits,
    reward_rate: int,
    reward_cap_wei: int,
    capital: int,
    updates: str = NEW_STRATEGY,
) -> Manifest:
    """A manifest for the deployment's own vault implementation and venue, bound to their code as it is now."""
    return Manifest(
        artefact_hash=artefact_hash,
        agent_id=agent_id,
        updates=updates,
        vault_implementation=deployment.vault_implementation,
        vault_code_hash=_code_hash(chain, deployment.vault_implementation),
        venue=deployment.venue,
        venue_code_hash=_code_hash(chain, deployment.venue),
        assets=tuple(assets),
        limits=limits,
        reward_rate=reward_rate,
        reward_cap_wei=reward_cap_wei,
        capital=capital,
    )


def _code_hash(chain: Chain, address: str) -> str:
    return "0x" + bytes(Web3.keccak(chain.w3.eth.get_code(Web3.to_checksum_address(address)))).hex()


def _bytes(value: str) -> bytes:
    return bytes.fromhex(value[2:])
