"""`deployments/<network>.json`: where the protocol and its market are on one chain, and whether they really are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eth_utils import is_checksum_address, to_checksum_address
from web3.utils.address import get_create_address

from agents.contracts import decode_logs, third_party
from agents.deployment import CONTRACTS, Chain, Deployment, Genesis, contract_at
from agents.errors import Misconfigured
from agents.genesis import FEED_DECIMALS
from agents.localnet.market import AddressBook

_TIMELOCK_ROLES = ("PROPOSER_ROLE", "EXECUTOR_ROLE", "CANCELLER_ROLE")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDeployment:
    """The protocol, and the tokens, feeds and pools it was deployed on."""

    protocol: Deployment
    market: AddressBook

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".partial")
        temporary.write_text(self.to_json(), encoding="utf-8")
        temporary.replace(path)

    def to_json(self) -> str:
        """The content of the file."""
        return json.dumps({"protocol": self.protocol.to_dict(), "market": self.market.to_dict()}, indent=2) + "\n"


def load_deployment(path: Path, *, chain_id: int | None) -> NetworkDeployment:
    """What was deployed. Raises Misconfigured when the file is missing, unreadable, or of another chain (with `None`,
    of whichever)."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = NetworkDeployment(
            protocol=Deployment.from_dict(raw["protocol"]), market=AddressBook.from_dict(raw["market"])
        )
    except FileNotFoundError:
        raise Misconfigured(f"{path} does not exist: run `ape run deploy` on this network first") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Misconfigured(f"{path} is not a deployment ({error}): restore the file, or deploy again") from error
    if chain_id not in (None, found.protocol.chain_id):
        raise Misconfigured(
            f"{path} is of chain {found.protocol.chain_id}, the node is on chain {chain_id}: check --network"
        )
    return found


# Beside a market's addresses in its file: where each was found, and what to know of it. Nothing reads them.
_ABOUT = ("sources", "notes")
_OPTIONAL = ("sequencer_feed",)


def load_market(path: Path, *, chain_id: int) -> AddressBook:
    """The tokens, feeds and pools to deploy on. Raises Misconfigured when the file is missing, malformed, lacks an
    address, or is of another chain."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw = {key: value for key, value in raw.items() if key not in _ABOUT}
        if missing := _missing_fields(raw):
            raise Misconfigured(_say_what_is_missing(path, missing))
        found = AddressBook.from_dict(raw)
        addresses = [found.quote, found.quote_feed, found.weth, found.factory, found.router, found.positions]
        addresses += [address for asset in found.assets for address in (asset.token, asset.feed, asset.pool)]
        addresses += [found.sequencer_feed] if found.sequencer_feed else []
        if wrong := [address for address in addresses if not is_checksum_address(address)]:
            raise ValueError(f"{wrong[0]} is no checksummed address")
    except FileNotFoundError:
        raise Misconfigured(f"market file {path} does not exist: write one, or name it with --market") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Misconfigured(f"market file {path} is malformed ({error}): correct it") from error
    if found.chain_id != chain_id:
        raise Misconfigured(f"market file {path} is of chain {found.chain_id}, the node is on chain {chain_id}")
    return found


def _missing_fields(raw: Mapping[str, Any]) -> list[str]:
    """What is null, since nobody found where it is."""
    own = [key for key, value in raw.items() if value is None and key not in _OPTIONAL]
    return own + [
        f"{asset.get('symbol')}'s {key}" for asset in raw["assets"] for key, value in asset.items() if value is None
    ]


def _say_what_is_missing(path: Path, missing: Sequence[str]) -> str:
    return (
        f"market file {path} has no address for {', '.join(missing)}: none is known on this network. Copy the file, "
        "give them there (its notes say what they have to be), and name the copy with --market"
    )


def check_market(chain: Chain, market: AddressBook) -> None:
    """Raises Misconfigured naming the first address that is not what the market file says: no code, other decimals, a
    feed that does not have 8, a pool that the factory does not know."""
    named = {"quote": market.quote, "quote_feed": market.quote_feed, "factory": market.factory}
    named |= {f"{asset.symbol}'s {part}": getattr(asset, part) for asset in market.assets for part in ("token", "feed")}
    if market.sequencer_feed:
        named["sequencer_feed"] = market.sequencer_feed
    for name, address in named.items():
        if not chain.w3.eth.get_code(to_checksum_address(address)):
            raise Misconfigured(f"the market's {name} {address} has no code on chain {market.chain_id}: correct it")
    decimals = {market.quote: market.quote_decimals, market.quote_feed: FEED_DECIMALS}
    decimals |= {asset.token: asset.decimals for asset in market.assets}
    decimals |= {asset.feed: FEED_DECIMALS for asset in market.assets}
    for address, expected in decimals.items():
        found = chain.call(chain.at("MockToken", address).functions.decimals())
        if found != expected:
            raise Misconfigured(f"the market's {address} has {found} decimals, expected are {expected}: correct it")
    factory = chain.at(third_party("UniswapV3Factory"), market.factory)
    for asset in market.assets:
        pool = chain.call(factory.functions.getPool(asset.token, market.quote, asset.pool_fee))
        if pool != asset.pool:
            absent = "there is none" if int(pool, 16) == 0 else f"it is {pool}"
            raise Misconfigured(
                f"the factory's pool of {asset.symbol}, fee {asset.pool_fee}: {absent}, the market file has "
                f"{asset.pool}: create it with the position manager, or name another fee"
            )


def predict_addresses(deployer: str, nonce: int, *, grants: int) -> dict[str, Any]:
    """Where `deploy_protocol` will put everything when `nonce` is the deployer's next: addresses by field of
    `Deployment`."""
    return predict_from(get_create_address(to_checksum_address(deployer), nonce), deployer, grants=grants)


def predict_from(deployer_contract: str, deployer: str, *, grants: int) -> dict[str, Any]:
    """The same for a `Deployer` at a known address."""
    names = [*CONTRACTS, *(f"grant-{index}" for index in range(grants))]
    found: dict[str, Any] = {name: contract_at(deployer_contract, deployer, name) for name in names}
    return {
        "deployer_contract": to_checksum_address(deployer_contract),
        **{name: found[name] for name in CONTRACTS},
        "grants": [found[f"grant-{index}"] for index in range(grants)],
    }


def find_faults(
    chain: Chain, deployment: Deployment, genesis: Genesis, *, handed_out: Mapping[str, int] | None = None
) -> list[str]:
    """What is not as it has to be after a deployment; an empty list when everything is.

    Code at every address; each share of the supply where it was meant to go, and none beyond it with the deployer; the
    timelock run by the DAO alone. With `handed_out`, what the deployer transferred to whom, a share that was received
    is right, wherever it is now.
    """
    return [
        *_missing_code(chain, deployment),
        *_wrong_shares(chain, deployment, genesis, handed_out),
        *_foreign_roles(chain, deployment),
    ]


def _missing_code(chain: Chain, d: Deployment) -> Iterator[str]:
    places = {name: getattr(d, name) for name in ("deployer_contract", *CONTRACTS)}
    places |= {f"grant {index}": address for index, address in enumerate(d.grants)}
    for name, address in places.items():
        if not chain.w3.eth.get_code(to_checksum_address(address)):
            yield f"{name} has no code at {address}"


def _wrong_shares(
    chain: Chain, d: Deployment, genesis: Genesis, handed_out: Mapping[str, int] | None
) -> Iterator[str]:
    shares = {**genesis.holders, **dict(zip(d.grants, (g.amount_wei for g in genesis.grants), strict=True))}
    shares[d.pool] = genesis.reward_fund_wei + genesis.bounty_fund_wei
    shares[d.treasury] = genesis.supply_wei - sum(shares.values())
    token = d.contract(chain, "token")
    for holder, expected in {d.deployer: 0, **shares}.items():
        found = chain.call(token.functions.balanceOf(holder))
        if found != expected and (handed_out is None or not _was_right(holder, expected, d, genesis, handed_out)):
            yield f"{holder} has {found} wei of the token, its share is {expected}"
    if (supply := chain.call(token.functions.totalSupply())) != genesis.supply_wei:
        yield f"the token's supply is {supply} wei, not {genesis.supply_wei}"


def _was_right(holder: str, expected: int, d: Deployment, genesis: Genesis, handed_out: Mapping[str, int]) -> bool:
    """Whether the holder received its share; of the deployer, whether it gave away everything else."""
    if holder == d.deployer:
        return sum(handed_out.values()) == genesis.supply_wei - expected
    return handed_out.get(holder) == expected


def _foreign_roles(chain: Chain, d: Deployment) -> Iterator[str]:
    """Read from the timelock's events: every role that was ever granted, and to whom."""
    timelock = d.contract(chain, "timelock")
    names = {bytes(chain.call(timelock.functions[name]())): name for name in ("DEFAULT_ADMIN_ROLE", *_TIMELOCK_ROLES)}
    logs = chain.w3.eth.get_logs({"address": timelock.address, "fromBlock": d.deployed_at_block})
    granted = {
        (bytes(e.args["role"]), e.args["account"]) for e in decode_logs({"logs": logs}) if e.name == "RoleGranted"
    }
    held = {(role, who) for role, who in granted if chain.call(timelock.functions.hasRole(role, who))}
    meant = {(role, d.timelock if name == "DEFAULT_ADMIN_ROLE" else d.dao) for role, name in names.items()}
    for role, who in sorted(held - meant):
        yield f"{who} has the timelock's {names.get(role, '0x' + role.hex())}"
    for role, who in sorted(meant - held):
        yield f"{who} lacks the timelock's {names[role]}"


def describe_faults(faults: Sequence[str]) -> str:
    """One sentence."""
    return f"the deployment is not as it has to be: {'; '.join(faults)}"
