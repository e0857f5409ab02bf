"""The genesis configuration: a TOML file as `agents.deployment.Genesis`.

Whole tokens in the file become base units here; names of people become addresses.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal, InvalidOperation, localcontext
from pathlib import Path
from typing import Any

from web3 import Web3

from agents.deployment import Feed, Genesis, Governance, Grant, Limits, Rewards, Rules
from agents.errors import Misconfigured
from agents.localnet.market import AddressBook

TOKEN_DECIMALS = 18
FEED_DECIMALS = 8
_EXAMPLE = "deployments/genesis/local.toml has all there are"


def load_genesis(path: Path, *, market: AddressBook, people: Mapping[str, str], now_s: int) -> Genesis:
    """What the file decides, on a given market. `people`: addresses by the names the file uses.

    Raises Misconfigured naming the file and the key.
    """
    if not path.exists():
        raise Misconfigured(
            f"genesis configuration {path} does not exist: check the path, or copy deployments/genesis/testnet.toml "
            "there"
        )
    raw = read_toml(path, "genesis configuration")
    try:
        return _genesis(raw, market, people, now_s)
    except KeyError as error:
        raise Misconfigured(f"genesis configuration {path} lacks {error}: {_EXAMPLE}") from error
    except (TypeError, AttributeError) as error:
        raise Misconfigured(f"genesis configuration {path}: {error}: {_EXAMPLE}") from error


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The content of a TOML file. Raises Misconfigured naming it as `what`."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Misconfigured(f"{what} {path} does not exist: check the path") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Misconfigured(f"{what} {path} can't be read ({error}): correct the file") from error


def _genesis(raw: Mapping[str, Any], market: AddressBook, people: Mapping[str, str], now_s: int) -> Genesis:
    for section in ("token", "rewards", "governance", "guardian", "ceilings", "rules", "feeds", "outflow_caps"):
        if not isinstance(raw[section], Mapping):
            raise TypeError(f"{section} is {raw[section]!r}, not a table")
    token, rewards, governance, rules = raw["token"], raw["rewards"], raw["governance"], raw["rules"]
    return Genesis(
        token_name=token["name"],
        token_symbol=token["symbol"],
        supply_wei=_tokens(token["supply"]),
        holders=_holders(token["holders"], people),
        grants=[
            Grant(
                beneficiary=_who(grant["beneficiary"], people),
                amount_wei=_tokens(grant["amount"]),
                start_s=now_s + _whole(grant["start_in_s"], "a grant's start_in_s"),
                duration_s=_whole(grant["duration_s"], "a grant's duration_s"),
            )
            for grant in token.get("grants", ())
        ],
        reward_fund_wei=_tokens(rewards["fund"]),
        bounty_fund_wei=_tokens(rewards["bounty_fund"]),
        governance=Governance(
            proposal_threshold_wei=_tokens(governance["proposal_threshold"]),
            quorum_floor_wei=_tokens(governance["quorum_floor"]),
            **_integers(Governance, governance, "governance", given=("proposal_threshold", "quorum_floor")),
        ),
        ceilings=Limits(**_integers(Limits, raw["ceilings"], "ceilings")),
        rules=Rules(
            # Token wei for one base unit of quote.
            max_reward_rate=_tokens(rules["max_reward_rate"]) // 10**market.quote_decimals,
            min_bond_wei=_tokens(rules["min_bond"]),
            **_integers(Rules, rules, "rules", given=("max_reward_rate", "min_bond")),
        ),
        rewards=Rewards(
            genesis_s=now_s,
            bounty_wei=_tokens(rewards["bounty"]),
            budget_per_epoch_wei=_tokens(rewards["budget_per_epoch"]),
            **_integers(Rewards, rewards, "rewards", given=("fund", "bounty_fund", "bounty", "budget_per_epoch")),
        ),
        guardian=_who(raw["guardian"]["account"], people),
        guardian_term_s=_whole(raw["guardian"]["term_s"], "[guardian] term_s"),
        quote=market.quote,
        feeds=[
            _feed(market.quote, market.quote_feed, raw["feeds"]["quote"]),
            *(_feed(asset.token, asset.feed, raw["feeds"]["asset"]) for asset in market.assets),
        ],
        **({"sequencer_feed": market.sequencer_feed} if market.sequencer_feed else {}),
        outflow_caps={
            market.quote: to_units(raw["outflow_caps"]["quote"], market.quote_decimals),
            None: _tokens(raw["outflow_caps"]["token"]),
        },
        uniswap_factory=market.factory,
        pool_init_code_hash=market.pool_init_code_hash,
    )


def _holders(raw: Mapping[str, Any], people: Mapping[str, str]) -> dict[str, int]:
    """Token wei by address. Raises TypeError when two names are one address: a share would be lost."""
    holders: dict[str, int] = {}
    for name, amount in raw.items():
        address = _who(name, people)
        if address in holders:
            raise TypeError(f"token.holders: {name!r} is {address}, which is named already")
        holders[address] = _tokens(amount)
    return holders


def _integers(kind: type, raw: Mapping[str, Any], section: str, given: tuple[str, ...] = ()) -> dict[str, int]:
    """The whole numbers of a section that fill a dataclass, apart from what is `given` otherwise. Raises TypeError."""
    names = [f.name for f in fields(kind) if f.name.removesuffix("_wei") not in given and f.name != "genesis_s"]
    missing, unknown = set(names) - set(raw), set(raw) - set(names) - set(given)
    if missing or unknown:
        raise TypeError(f"[{section}] " + (f"lacks {min(missing)}" if missing else f"has the unknown {min(unknown)}"))
    return {name: _whole(raw[name], f"[{section}] {name}") for name in names}


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{where} is {value!r}, not a whole number")
    return value


def _feed(token: str, aggregator: str, raw: Mapping[str, Any]) -> Feed:
    return Feed(
        token=token,
        aggregator=aggregator,
        max_age_s=_whole(raw["max_age_s"], "a feed's max_age_s"),
        min_answer=to_units(raw["min_usd"], FEED_DECIMALS),
        max_answer=to_units(raw["max_usd"], FEED_DECIMALS),
    )


def _who(name: str, people: Mapping[str, str]) -> str:
    if name in people:
        return people[name]
    if Web3.is_address(name):
        return Web3.to_checksum_address(name)
    known = f", and no role of {', '.join(people)}" if people else ": on a public network a name is an address"
    raise TypeError(f"{name!r} is no address{known}")


def _tokens(amount: str) -> int:
    return to_units(amount, TOKEN_DECIMALS)


def to_units(amount: str | int, decimals: int) -> int:
    """Whole tokens, as text, as base units. Raises TypeError for what is negative, finer than a base unit, or no
    number."""
    try:
        with localcontext(prec=100):
            units = Decimal(amount).scaleb(decimals)
        if isinstance(amount, float | bool) or units != units.to_integral_value() or not 0 <= units < 2**128:
            raise ValueError
        return int(units)
    except (InvalidOperation, ValueError, OverflowError, TypeError):
        raise TypeError(f"{amount!r} is not an amount, as text, with at most {decimals} decimals") from None
