"""What is deployed, compared with what the repository, the genesis configuration and the market file say it is.

Byte code is compared with the immutable values left out, and each of those has to be one that this deployment has a
use for: an address of its own, a number of its configuration. What has a name is asked by that name too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from eth_utils import keccak, to_bytes, to_checksum_address

from agents.contracts import load_artifact
from agents.deploying import fetch_handed_out
from agents.deployment import CONTRACTS, Chain, Deployment, Genesis, contract_at, shares
from agents.deployments import _foreign_roles, _missing_code, check_market
from agents.errors import Misconfigured
from agents.localnet.market import AddressBook

# What only a vote changes after the deployment: a difference there is no fault by itself.
BY_VOTE = "a vote may have changed it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not as it is written down."""

    where: str
    what: str
    expected: str
    found: str
    # What may explain it; empty when nothing does.
    note: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what} is {self.found}, expected is {self.expected}"


def find_differences(
    chain: Chain, d: Deployment, genesis: Genesis, *, decided_at_s: int, present_only: bool = False
) -> list[Difference]:
    """Everything that differs; empty when nothing does. `present_only`: of a deployment that is not finished, only what
    is there."""
    there = [name for name in CONTRACTS if not present_only or _code(chain, getattr(d, name))]
    grants = [i for i, address in enumerate(d.grants) if not present_only or _code(chain, address)]
    found = [*_addresses(d), *_codes(chain, d, genesis, decided_at_s, there, grants)]
    if not present_only and any(_missing_code(chain, d)):
        return found  # asking what is not there says nothing more
    found += _wiring(chain, d, there)
    for name, check in _SETTINGS.items():
        if name in there:
            found += check(chain, d, genesis, decided_at_s)
    found += (difference for i in grants for difference in _grant(chain, d, genesis, i))
    if present_only:
        return [*found, *(_shares_begun(chain, d, genesis) if "token" in there else ())]
    roles = (Difference(where="timelock", what=fault, expected="the DAO alone", found="otherwise")
             for fault in _foreign_roles(chain, d))  # fmt: skip
    return [*found, *roles, *_shares(chain, d, genesis)]


def find_market_differences(chain: Chain, deployed: AddressBook, written: AddressBook) -> list[Difference]:
    """Between the market of the deployment and the market file; and what is not so on the chain."""
    before, now = deployed.to_dict(), written.to_dict()
    found = [
        Difference(where="market", what=key, expected=_show(now[key]), found=_show(before[key]))
        for key in now
        if before[key] != now[key]
    ]
    try:
        check_market(chain, deployed)
    except Misconfigured as error:
        found.append(Difference(where="market", what=str(error), expected="as written down", found="otherwise"))
    return found


# Addresses and code


def _addresses(d: Deployment) -> Iterator[Difference]:
    """Each address follows from the Deployer's and from who deployed."""
    places = {name: getattr(d, name) for name in CONTRACTS}
    places |= {f"grant-{i}": address for i, address in enumerate(d.grants)}
    for name, address in places.items():
        expected = contract_at(d.deployer_contract, d.deployer, name)
        yield from _compare(name, "address", expected, address)


def _codes(
    chain: Chain, d: Deployment, genesis: Genesis, decided_at_s: int, there: Sequence[str], grants: Sequence[int]
) -> Iterator[Difference]:
    known = _known_values(chain, d, genesis, decided_at_s)
    yield from _code_of(chain, "deployer_contract", "Deployer", d.deployer_contract, known)
    for name in there:
        yield from _code_of(chain, name, CONTRACTS[name], getattr(d, name), known)
    for i in grants:
        yield from _code_of(chain, f"grant-{i}", "TokenGrant", d.grants[i], known)


def _code_of(chain: Chain, name: str, contract: str, address: str, known: frozenset[bytes]) -> Iterator[Difference]:
    code, expected = _code(chain, address), load_artifact(contract).deployed_bytecode
    if not code:
        yield Difference(where=name, what="code", expected=contract, found=f"nothing at {address}")
        return
    places = _immutables(contract)
    if strip(code, places) != expected:
        found, metadata = _digest(strip(code, places)), ""
        if _without_metadata(strip(code, places)) == _without_metadata(expected):
            metadata = "only the compiler's metadata at the end differs"
        yield Difference(where=name, what="code", expected=_digest(expected), found=found, note=metadata)
        return
    for value in {code[start : start + length] for start, length in places}:
        if value not in known | _own_values(chain, contract, address):
            found = "0x" + value.hex()
            yield Difference(where=name, what="an immutable value", expected="one of this deployment", found=found)


def strip(code: bytes, places: Sequence[tuple[int, int]]) -> bytes:
    """Code with zeros where the constructor wrote immutable values."""
    bare = bytearray(code)
    for start, length in places:
        bare[start : start + length] = bytes(len(bare[start : start + length]))
    return bytes(bare)


@cache
def _immutables(contract: str) -> tuple[tuple[int, int], ...]:
    raw = json.loads(files("agents").joinpath(f"abi/{contract}.json").read_text(encoding="utf-8"))
    return tuple((p["start"], p["length"]) for places in raw["immutableReferences"].values() for p in places)


def _without_metadata(code: bytes) -> bytes:
    """https://docs.soliditylang.org/en/latest/metadata.html: its length is in the last two bytes."""
    length = int.from_bytes(code[-2:], "big") + 2
    return code[:-length] if length <= len(code) else code


def _known_values(chain: Chain, d: Deployment, genesis: Genesis, decided_at_s: int) -> frozenset[bytes]:
    """Every value that a constructor of this deployment had reason to keep."""
    addresses = [d.quote, d.deployer_contract, genesis.uniswap_factory, genesis.sequencer_feed]
    addresses += [getattr(d, name) for name in CONTRACTS]
    g, r = genesis.governance, genesis.rewards
    numbers = [
        d.chain_id, g.quorum_floor_wei, g.quorum_bps, g.last_stretch_s, g.objection_period_s, g.grace_s,
        r.epoch_length_s, r.window_length_s, r.vesting_s, r.max_unsettled, r.bounty_wei, genesis.sequencer_grace_s,
        decided_at_s if r.genesis_s is None else r.genesis_s,
        *(value for grant in genesis.grants for value in (grant.start_s, grant.duration_s)),
    ]  # fmt: skip
    quote = chain.at("MockToken", d.quote).functions
    numbers.append(10 ** int(chain.call(quote.decimals())))
    values = [to_bytes(hexstr=address).rjust(32, b"\0") for address in addresses]
    values += [number.to_bytes(32, "big") for number in numbers]
    return frozenset([*values, to_bytes(hexstr=genesis.pool_init_code_hash)])


_DOMAIN = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"


def _own_values(chain: Chain, contract: str, address: str) -> frozenset[bytes]:
    """What OpenZeppelin's EIP712 keeps: the contract's own address, its name and version, and the domain of those."""
    own = to_bytes(hexstr=address).rjust(32, b"\0")
    if "eip712Domain" not in {item.get("name") for item in load_artifact(contract).abi}:
        return frozenset([own])
    domain = chain.call(chain.at(contract, address).functions.eip712Domain())
    name, version = domain.name, domain.version
    parts = [keccak(text=_DOMAIN), keccak(text=name), keccak(text=version), domain.chainId.to_bytes(32, "big"), own]
    short = [text.encode().ljust(31, b"\0") + bytes([len(text)]) for text in (name, version) if len(text) < 32]
    return frozenset([own, *parts[1:3], keccak(b"".join(parts)), *short])


def _code(chain: Chain, address: str) -> bytes:
    return bytes(chain.w3.eth.get_code(to_checksum_address(address)))


def _digest(code: bytes) -> str:
    return f"{len(code)} bytes, 0x{keccak(code).hex()[:16]}…"


# What the contracts say of themselves


def _wiring(chain: Chain, d: Deployment, there: Sequence[str]) -> Iterator[Difference]:
    """Each getter that is named like a part of the deployment has to answer with that part."""
    parts = {**{name: getattr(d, name) for name in CONTRACTS}, "quote": d.quote, "governor": d.dao}
    parts["deployer"] = d.deployer_contract
    for name in there:
        contract = d.contract(chain, name)
        for item in contract.abi:
            known = item.get("name") if item["type"] == "function" and not item["inputs"] else None
            if known in parts and item["outputs"][0]["type"] == "address" and (name, known) != (_VAULT, "venue"):
                found = chain.call(contract.functions[known]())
                yield from _compare(name, known, parts[known], found)


_VAULT = "vault_implementation"


def _token(chain: Chain, d: Deployment, genesis: Genesis, _: int) -> Iterator[Difference]:
    token = d.contract(chain, "token").functions
    yield from _compare("token", "name", genesis.token_name, chain.call(token.name()))
    yield from _compare("token", "symbol", genesis.token_symbol, chain.call(token.symbol()))
    yield from _compare("token", "supply, wei", genesis.supply_wei, chain.call(token.totalSupply()))


def _timelock(chain: Chain, d: Deployment, genesis: Genesis, _: int) -> Iterator[Difference]:
    found = chain.call(d.contract(chain, "timelock").functions.getMinDelay())
    yield from _compare("timelock", "delay, s", genesis.governance.timelock_delay_s, found, BY_VOTE)


def _dao(chain: Chain, d: Deployment, genesis: Genesis, _: int) -> Iterator[Difference]:
    dao, g = d.contract(chain, "dao").functions, genesis.governance
    for what, expected in (
        ("votingDelay", g.voting_delay_s), ("votingPeriod", g.voting_period_s),
        ("proposalThreshold", g.proposal_threshold_wei),
    ):  # fmt: skip
        yield from _compare("dao", what, expected, chain.call(dao[what]()), BY_VOTE)
    for what, expected in (
        ("quorumFloor", g.quorum_floor_wei), ("quorumBps", g.quorum_bps), ("lastStretchS", g.last_stretch_s),
        ("objectionPeriodS", g.objection_period_s), ("graceS", g.grace_s),
    ):  # fmt: skip
        yield from _compare("dao", what, expected, chain.call(dao[what]()))


def _constitution(chain: Chain, d: Deployment, genesis: Genesis, decided_at_s: int) -> Iterator[Difference]:
    constitution = d.contract(chain, "constitution").functions
    for what, expected in (("ceilings", genesis.ceilings), ("rules", genesis.rules)):
        found = chain.call(constitution[what]())
        for name, want, have in zip(found._fields, _by_fields(expected, found), found, strict=True):
            yield from _compare("constitution", f"{what}.{name}", want, have, BY_VOTE)
    guardian = chain.call(constitution.guardian())
    yield from _compare("constitution", "guardian", genesis.guardian, guardian, BY_VOTE)
    until_s = chain.call(constitution.guardianExpiresAt())
    expected_s = decided_at_s + genesis.guardian_term_s
    yield from _compare("constitution", "guardianExpiresAt", expected_s, until_s, BY_VOTE)


def _by_fields(wanted: Any, found: Any) -> tuple[int, ...]:
    values: tuple[int, ...] = wanted.as_tuple()
    assert len(values) == len(found), "the structures of Types.sol and of agents.deployment differ"
    return values


def _oracle(chain: Chain, d: Deployment, genesis: Genesis, _: int) -> Iterator[Difference]:
    oracle = d.contract(chain, "oracle").functions
    yield from _compare("oracle", "sequencerFeed", genesis.sequencer_feed, chain.call(oracle.sequencerFeed()))
    yield from _compare("oracle", "sequencerGraceS", genesis.sequencer_grace_s, chain.call(oracle.sequencerGraceS()))
    for feed in genesis.feeds:
        found = chain.call(oracle.feedOf(feed.token))
        for what, expected in (
            ("aggregator", feed.aggregator), ("maxAgeS", feed.max_age_s), ("minAnswer", feed.min_answer),
            ("maxAnswer", feed.max_answer),
        ):  # fmt: skip
            yield from _compare("oracle", f"feed of {feed.token}, {what}", expected, getattr(found, what), BY_VOTE)


def _pool(chain: Chain, d: Deployment, genesis: Genesis, decided_at_s: int) -> Iterator[Difference]:
    pool, r = d.contract(chain, "pool").functions, genesis.rewards
    for what, expected in (
        ("genesis", decided_at_s if r.genesis_s is None else r.genesis_s), ("epochLengthS", r.epoch_length_s),
        ("windowLengthS", r.window_length_s), ("vestingS", r.vesting_s), ("maxUnsettled", r.max_unsettled),
        ("bounty", r.bounty_wei),
    ):  # fmt: skip
        yield from _compare("pool", what, expected, chain.call(pool[what]()))
    budget = chain.call(pool.budgetPerEpoch())
    yield from _compare("pool", "budgetPerEpoch", r.budget_per_epoch_wei, budget, BY_VOTE)


def _treasury(chain: Chain, d: Deployment, genesis: Genesis, _: int) -> Iterator[Difference]:
    treasury = d.contract(chain, "treasury").functions
    for token, cap in genesis.outflow_caps.items():
        found = chain.call(treasury.outflowOf(token or d.token)).cap
        yield from _compare("treasury", f"outflow cap of {token or d.token}", cap, found, BY_VOTE)


def _venue(chain: Chain, d: Deployment, genesis: Genesis, _: int) -> Iterator[Difference]:
    venue = d.contract(chain, "venue").functions
    yield from _compare("venue", "uniswapFactory", genesis.uniswap_factory, chain.call(venue.uniswapFactory()))
    found = "0x" + bytes(chain.call(venue.poolInitCodeHash())).hex()
    yield from _compare("venue", "poolInitCodeHash", genesis.pool_init_code_hash.lower(), found)


_SETTINGS = {
    "token": _token,
    "timelock": _timelock,
    "dao": _dao,
    "constitution": _constitution,
    "oracle": _oracle,
    "pool": _pool,
    "treasury": _treasury,
    "venue": _venue,
}


def _grant(chain: Chain, d: Deployment, genesis: Genesis, index: int) -> Iterator[Difference]:
    vesting, grant = chain.at("TokenGrant", d.grants[index]).functions, genesis.grants[index]
    for what, expected in (("start", grant.start_s), ("duration", grant.duration_s)):
        yield from _compare(f"grant-{index}", what, expected, chain.call(vesting[what]()))
    owner = chain.call(vesting.owner())
    yield from _compare(f"grant-{index}", "owner", grant.beneficiary, owner, "a beneficiary may pass it on")


# Who got what


def _shares_begun(chain: Chain, d: Deployment, genesis: Genesis) -> Iterator[Difference]:
    """Shares that were handed out already, and should not have been, or not so."""
    expected = {**shares(genesis, d), d.pool: genesis.reward_fund_wei + genesis.bounty_fund_wei}
    for receiver, wei in fetch_handed_out(chain, d).shares.items():
        if receiver != d.pool or wei > expected[d.pool]:
            yield from _compare("token", f"share of {receiver}, wei", expected.get(receiver, 0), wei)


def _shares(chain: Chain, d: Deployment, genesis: Genesis) -> Iterator[Difference]:
    """What the deployer handed out; where it is now is the holders' business."""
    handed_out = fetch_handed_out(chain, d)
    given = dict(handed_out.shares)
    in_pool = given.pop(d.pool, 0)
    expected = shares(genesis, d)
    for receiver in dict.fromkeys((*expected, *given)):
        yield from _compare("token", f"share of {receiver}, wei", expected.get(receiver, 0), given.get(receiver, 0))
    yield from _compare("pool", "rewards from the deployer, wei", genesis.reward_fund_wei, handed_out.fund_wei)
    yield from _compare("pool", "bounties from the deployer, wei", genesis.bounty_fund_wei, handed_out.bounties_wei)
    to_pool = genesis.reward_fund_wei + genesis.bounty_fund_wei
    yield from _compare("pool", "tokens from the deployer, wei", to_pool, in_pool)
    token = d.contract(chain, "token").functions
    allowed = chain.call(token.allowance(d.deployer, d.pool))
    yield from _compare("token", "the pool's allowance from the deployer, wei", 0, allowed)


def _compare(where: str, what: str, expected: Any, found: Any, note: str = "") -> Iterator[Difference]:
    if expected != found:
        yield Difference(where=where, what=what, expected=_show(expected), found=_show(found), note=note)


def _show(value: Any) -> str:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    return json.dumps(value) if isinstance(value, list | Mapping) else str(value)
