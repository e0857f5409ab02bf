"""The genesis configuration: a TOML file as `agents.deployment.Genesis`.

Whole tokens in the file become base units here; names of people become addresses.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from web3 import Web3

from agents.deployment import Feed, Genesis, Governance, Grant, Limits, Rewards, Rules
from agents.errors import Misconfigured
from agents.localnet.market import AddressBook

TOKEN_DECIMALS = 18
FEED_DECIMALS = 8


def load_genesis(path: Path, *, market: AddressBook, people: Mapping[str, str], now_s: int) -> Genesis:
    """What the file decides, on a given market. `people`: addresses by the names the file uses.

    Raises Misconfigured naming the file and the key.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Misconfigured(f"genesis configuration {path} does not exist") from None
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"genesis configuration {path} can't be read: {error}") from error
    try:
        return _genesis(raw, market, people, now_s)
    except KeyError as error:
        raise Misconfigured(f"genesis configuration {path} lacks {error}") from error
    except (TypeError, InvalidOperation) as error:
        raise Misconfigured(f"genesis configuration {path}: {error}") from error


def _genesis(raw: Mapping[str, Any], market: AddressBook, people: Mapping[str, str], now_s: int) -> Genesis:
    token, rewards, governance, rules = raw["token"], raw["rewards"], raw["governance"], raw["rules"]
    return Genesis(
        token_name=token["name"],
        token_symbol=token["symbol"],
        supply_wei=_tokens(token["supply"]),
        holders={_who(name, people): _tokens(amount) for name, amount in token["holders"].items()},
        grants=[
            Grant(
                beneficiary=_who(grant["beneficiary"], people),
                amount_wei=_tokens(grant["amount"]),
                start_s=now_s + grant["start_in_s"],
                duration_s=grant["duration_s"],
            )
            for grant in token.get("grants", ())
        ],
        reward_fund_wei=_tokens(rewards["fund"]),
        bounty_fund_wei=_tokens(rewards["bounty_fund"]),
        governance=Governance(
            proposal_threshold_wei=_tokens(governance["proposal_threshold"]),
            quorum_floor_wei=_tokens(governance["quorum_floor"]),
            **{k: v for k, v in governance.items() if k not in ("proposal_threshold", "quorum_floor")},
        ),
        ceilings=Limits(**raw["ceilings"]),
        rules=Rules(
            # Token wei for one base unit of quote.
            max_reward_rate=_tokens(rules["max_reward_rate"]) // 10**market.quote_decimals,
            min_bond_wei=_tokens(rules["min_bond"]),
            **{k: v for k, v in rules.items() if k not in ("max_reward_rate", "min_bond")},
        ),
        rewards=Rewards(
            genesis_s=now_s,
            bounty_wei=_tokens(rewards["bounty"]),
            budget_per_epoch_wei=_tokens(rewards["budget_per_epoch"]),
            **{
                k: v
                for k, v in rewards.items()
                if k in ("epoch_length_s", "window_length_s", "vesting_s", "max_unsettled")
            },
        ),
        guardian=_who(raw["guardian"]["account"], people),
        guardian_term_s=raw["guardian"]["term_s"],
        quote=market.quote,
        feeds=[
            _feed(market.quote, market.quote_feed, raw["feeds"]["quote"]),
            *(_feed(asset.token, asset.feed, raw["feeds"]["asset"]) for asset in market.assets),
        ],
        **({"sequencer_feed": market.sequencer_feed} if market.sequencer_feed else {}),
        outflow_caps={
            market.quote: _units(raw["outflow_caps"]["quote"], market.quote_decimals),
            None: _tokens(raw["outflow_caps"]["token"]),
        },
        uniswap_factory=market.factory,
        pool_init_code_hash=market.pool_init_code_hash,
    )


def _feed(token: str, aggregator: str, raw: Mapping[str, Any]) -> Feed:
    return Feed(
        token=token,
        aggregator=aggregator,
        max_age_s=raw["max_age_s"],
        min_answer=_units(raw["min_usd"], FEED_DECIMALS),
        max_answer=_units(raw["max_usd"], FEED_DECIMALS),
    )


def _who(name: str, people: Mapping[str, str]) -> str:
    if name in people:
        return people[name]
    if Web3.is_address(name):
        return Web3.to_checksum_address(name)
    raise KeyError(f"an address for {name!r}")


def _tokens(amount: str) -> int:
    return _units(amount, TOKEN_DECIMALS)


def _units(amount: str, decimals: int) -> int:
    units = Decimal(amount).scaleb(decimals)
    if units != units.to_integral_value() or units < 0:
        raise TypeError(f"{amount!r} is not an amount with at most {decimals} decimals")
    return int(units)
