"""What the DAO votes on, in Python: manifests as the contracts take them, and as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from web3 import Web3

from agents.deployment import Chain, Deployment, Limits
from agents.errors import Misconfigured
from agents.genesis import TOKEN_DECIMALS, to_units
from agents.localnet.market import AddressBook
from offchain_rl.artefact import Artefact, ArtefactInvalid, ArtefactMismatch, load
from offchain_rl.verdict import verdict_warnings

NEW_STRATEGY = "0x" + 64 * "0"
_BASELINES = ("moving_average", "buy_and_hold")
# Limits are uint16 on chain, all but this one.
_WIDTHS = {"max_daily_turnover_bps": 2**32}
_KINDS = {int: "a whole number", list: "a list", dict: "a table", str: "a text"}

EXAMPLE = """\
# A strategy to propose. Amounts are whole tokens, as text.
artefact = "eth.artefact.json"   # beside this file; its hash is what gets approved
# artefact_hash = "0x..."        # refuse any other content
agent = 1
assets = ["ETH"]                 # symbols of the network's market
capital = "500000"               # quote from the treasury
reward_rate = "0.1"              # tokens for one quote token of profit
reward_cap = "8000"              # tokens an epoch
description = "Trade ETH with a policy trained on two years of bars"

[limits]                         # basis points; none looser than the constitution's
max_position_bps = 6000
max_trade_slippage_bps = 80
max_cumulative_slippage_bps = 250
max_reduce_slippage_bps = 250
max_reduce_cumulative_slippage_bps = 500
max_trades_per_day = 24          # a count
max_daily_turnover_bps = 20000
max_daily_loss_bps = 1200
max_drawdown_bps = 2000
hard_drawdown_bps = 3000
"""


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

    @property
    def deposit_needed(self) -> int:
        """Base units of quote without which a vault worth the capital may only reduce, rounded up: what slippage may
        take by its own limits. StrategyVault._requiredDeposit."""
        bps = self.limits.max_cumulative_slippage_bps + self.limits.max_reduce_cumulative_slippage_bps
        return -(-self.capital * bps // 10_000)

    def as_tuple(self) -> tuple[Any, ...]:
        """The struct as web3 takes it."""
        return (
            _bytes(self.artefact_hash), self.agent_id, _bytes(self.updates),
            self.vault_implementation, _bytes(self.vault_code_hash), self.venue, _bytes(self.venue_code_hash),
            list(self.assets), self.limits.as_tuple(),
            self.reward_rate, self.reward_cap_wei, self.capital, _bytes(self.salt),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyRequest:
    """A strategy as a person writes it down: symbols, and amounts in whole tokens as text."""

    artefact: Path
    # Refuse any other content; None: whatever the file holds.
    artefact_hash: str | None = None
    agent: int
    assets: tuple[str, ...]
    capital: str = "0"
    reward_rate: str
    reward_cap: str
    description: str
    limits: Limits

    def amounts(self, market: AddressBook) -> dict[str, Any]:
        """What `build_manifest` takes, in base units. Raises Misconfigured for an amount that is none, KeyError for an
        asset that the market does not have."""
        assets = [market.asset(symbol) for symbol in self.assets]
        try:
            # Token wei for a whole quote token, hence for a base unit of it.
            rate, remainder = divmod(to_units(self.reward_rate, TOKEN_DECIMALS), 10**market.quote_decimals)
            if remainder:
                raise TypeError(f"{self.reward_rate!r} is finer than a wei for a base unit of quote")
            return {
                "agent_id": self.agent,
                "assets": [(asset.token, asset.pool_fee) for asset in assets],
                "limits": self.limits,
                "reward_rate": rate,
                "reward_cap_wei": to_units(self.reward_cap, TOKEN_DECIMALS),
                "capital": to_units(self.capital, market.quote_decimals),
            }
        except TypeError as error:
            raise Misconfigured(f"the strategy's amounts: {error}") from error


def read_request(raw: Mapping[str, Any], *, folder: Path, where: str) -> StrategyRequest:
    """A request from the values of a file or of options; a relative artefact is looked for in `folder`.

    Raises Misconfigured naming the value.
    """
    names = [f.name for f in fields(StrategyRequest)]
    missing = [n for n in names if n not in raw and n not in ("artefact_hash", "capital")]
    if wrong := sorted(set(raw) - set(names)) or missing:
        kind = "lacks" if wrong is missing else "has the unknown"
        raise Misconfigured(f"{where} {kind} {wrong[0]}: `ape run propose --example` shows what there is")
    kinds: dict[str, type] = {"agent": int, "assets": list, "limits": dict}
    for name, value in raw.items():
        kind = kinds.get(name, str)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise Misconfigured(f"{where}: {name} is {value!r}, expected is {_KINDS[kind]}")
    limits = _read_limits(raw["limits"], where)
    parsed = {"artefact": folder / raw["artefact"], "assets": tuple(map(str, raw["assets"])), "limits": limits}
    return StrategyRequest(**{**raw, **parsed})


def _read_limits(raw: Mapping[str, Any], where: str) -> Limits:
    names = [f.name for f in fields(Limits)]
    missing, unknown = sorted(set(names) - set(raw)), sorted(set(raw) - set(names))
    if missing or unknown:
        what = f"has the unknown {unknown[0]}" if unknown else f"lacks {missing[0]}"
        raise Misconfigured(f"{where}: [limits] {what}; there are {', '.join(names)}")
    for name, value in raw.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _WIDTHS.get(name, 2**16):
            raise Misconfigured(f"{where}: limit {name} is {value!r}, not a whole number that fits")
    return Limits(**raw)


def load_artefact(path: Path, expected_hash: str | None = None) -> Artefact:
    """The artefact in a file. Raises Misconfigured when it can't be read, is malformed, or has another hash."""
    try:
        return load(path, expected_hash)
    except OSError as error:
        raise Misconfigured(f"artefact {path} can't be read ({error.strerror}): check the path") from error
    except ArtefactMismatch as error:
        raise Misconfigured(
            f"{path} has the hash {error.actual}, expected is {error.expected}: it is another artefact, or was changed"
        ) from error
    except ArtefactInvalid as error:
        raise Misconfigured(f"{path} is no artefact ({error}): train one with `ape run train`") from error
    except ValueError as error:  # an expected hash that is none
        raise Misconfigured(str(error)) from error


def report_warnings(artefact: Artefact) -> list[str]:
    """What a voter should know about how the artefact did out of sample; empty for a report whose verdict is PASS."""
    report = artefact.report
    if not report:
        return [f"artefact {artefact.name} has no report: nobody has measured it out of sample"]
    found = verdict_warnings(artefact.name, report)
    return found if "verdict" in report else found + _worse_returns(artefact.name, report)


def _worse_returns(name: str, report: Mapping[str, Any]) -> list[str]:
    """Without a verdict the bare returns are all there is to go by."""
    try:
        earned = report["policy"]["total_return_bps"]
        others = {"holding cash": 0, **{n.replace("_", " "): report[n]["total_return_bps"] for n in _BASELINES}}
    except (KeyError, TypeError):
        return []
    return [
        f"out of sample, artefact {name} returned {earned / 100:.1f} %, {what} {other / 100:.1f} %"
        for what, other in others.items()
        if earned <= other
    ]


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
