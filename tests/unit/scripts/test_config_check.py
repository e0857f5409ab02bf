"""What is deployed is compared with what is written down, and what explorers are given makes the same code again."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.commands._local import local_people, make_market
from agents.config_check import Difference, find_differences, find_market_differences
from agents.contracts import load_artifact
from agents.deploying import code_hashes, differences, plain
from agents.deployment import CONTRACTS, Deployment, Genesis, deploy_protocol
from agents.deployments import load_market
from agents.errors import Misconfigured
from agents.genesis import load_genesis
from agents.localnet.evm import Account, LocalEvm, start_evm
from agents.localnet.market import AddressBook
from agents.verification import Verification, standard_json, verifications, write

ROOT = Path(__file__).resolve().parents[3]
GENESIS = ROOT / "deployments" / "genesis" / "local.toml"
NETWORKS = {
    "ethereum-sepolia": 11_155_111,
    "arbitrum-sepolia": 421_614,
    "base-sepolia": 84_532,
    "optimism-sepolia": 11_155_420,
}


class Deployed:
    """A local market and the protocol on it, decided in one moment."""

    def __init__(self, evm: LocalEvm) -> None:
        self.evm, self.market = evm, make_market(evm).book
        self.deployer: Account = evm.accounts[0]
        self.genesis: Genesis = load_genesis(GENESIS, market=self.market, people=local_people(), now_s=evm.now_s())
        self.protocol: Deployment = deploy_protocol(evm, self.genesis, sender=self.deployer)
        constitution = self.protocol.contract(evm, "constitution").functions
        self.decided_at_s = evm.call(constitution.guardianExpiresAt()) - self.genesis.guardian_term_s

    def differences(self, genesis: Genesis | None = None, **over: Any) -> list[Difference]:
        d = replace(self.protocol, **over)
        return find_differences(self.evm, d, genesis or self.genesis, decided_at_s=self.decided_at_s)

    def as_timelock(self, name: str, function: str, *arguments: Any) -> None:
        """What a vote would do."""
        self.evm.impersonate(self.protocol.timelock)
        call = self.protocol.contract(self.evm, name).functions[function](*arguments)
        self.evm.send(call, self.protocol.timelock)


@pytest.fixture(scope="module")
def shared() -> Iterator[Deployed]:
    with start_evm("py-evm") as evm:
        yield Deployed(evm)


@pytest.fixture
def world(shared: Deployed) -> Iterator[Deployed]:
    snapshot = shared.evm.snapshot()
    yield shared
    shared.evm.revert(snapshot)


# What is deployed


def test_a_deployment_as_it_is_written_down_has_no_difference(world: Deployed):
    assert world.differences() == []


def patched(code: bytes, old: bytes, new: bytes) -> bytes:
    assert old in code
    return code.replace(old, new)


def test_other_byte_code_is_a_difference(world: Deployed):
    pool = world.protocol.pool
    code = bytes(world.evm.w3.eth.get_code(pool))
    world.evm.set_code(pool, patched(code, b"\x60\x80\x60\x40", b"\x60\x80\x60\x41"))
    [difference] = [d for d in world.differences() if d.what == "code"]
    assert (difference.where, difference.note) == ("pool", "")


def test_a_foreign_immutable_is_a_difference_even_without_a_getter(world: Deployed):
    """The vault keeps its quote's unit, which nothing tells."""
    vault, stranger = world.protocol.vault_implementation, world.evm.accounts[9].address
    code = bytes(world.evm.w3.eth.get_code(vault))
    unit = (10**6).to_bytes(32, "big")
    world.evm.set_code(vault, patched(code, unit, (10**7).to_bytes(32, "big")))
    [difference] = world.differences()
    assert (difference.where, difference.what) == ("vault_implementation", "an immutable value")
    assert int(difference.found, 16) == 10**7

    ledger = bytes(world.evm.w3.eth.get_code(world.protocol.ledger))
    factory = bytes.fromhex(world.protocol.factory[2:])
    world.evm.set_code(world.protocol.ledger, patched(ledger, factory, bytes.fromhex(stranger[2:])))
    found = {(d.where, d.what) for d in world.differences()}
    assert {("ledger", "an immutable value"), ("ledger", "factory")} <= found


def test_one_part_of_this_deployment_in_place_of_another_is_a_difference(world: Deployed):
    """Its value is known, so only the getter tells."""
    ledger = bytes(world.evm.w3.eth.get_code(world.protocol.ledger))
    swap = [bytes.fromhex(address[2:]) for address in (world.protocol.factory, world.protocol.pool)]
    world.evm.set_code(world.protocol.ledger, patched(ledger, *swap))
    [difference] = world.differences()
    assert str(difference) == f"ledger: factory is {world.protocol.pool}, expected is {world.protocol.factory}"


def test_only_the_compiler_s_metadata_is_said_to_be_only_that(world: Deployed):
    factory = world.protocol.factory
    code = bytearray(world.evm.w3.eth.get_code(factory))
    code[-5] ^= 1
    world.evm.set_code(factory, bytes(code))
    [difference] = world.differences()
    assert difference.note == "only the compiler's metadata at the end differs"


def test_missing_code_and_a_wrong_address_are_differences(world: Deployed):
    nobody = world.evm.accounts[9].address
    found = {(d.where, d.what): d.found for d in world.differences(treasury=nobody)}
    assert found["treasury", "address"] == nobody
    assert found["treasury", "code"] == f"nothing at {nobody}"


def changed(genesis: Genesis, part: str, **values: Any) -> Genesis:
    return replace(genesis, **{part: replace(getattr(genesis, part), **values)})


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        (lambda g: changed(g, "ceilings", max_daily_loss_bps=1), "constitution", "ceilings.maxDailyLossBps"),
        (lambda g: changed(g, "rules", auction_lot_bps=1), "constitution", "rules.auctionLotBps"),
        (lambda g: replace(g, guardian="0x" + "11" * 20), "constitution", "guardian"),
        (lambda g: replace(g, guardian_term_s=1), "constitution", "guardianExpiresAt"),
        (lambda g: changed(g, "governance", voting_delay_s=1), "dao", "votingDelay"),
        (lambda g: changed(g, "governance", voting_period_s=1), "dao", "votingPeriod"),
        (lambda g: changed(g, "governance", proposal_threshold_wei=1), "dao", "proposalThreshold"),
        (lambda g: changed(g, "governance", quorum_floor_wei=1), "dao", "quorumFloor"),
        (lambda g: changed(g, "governance", quorum_bps=1), "dao", "quorumBps"),
        (lambda g: changed(g, "governance", last_stretch_s=1), "dao", "lastStretchS"),
        (lambda g: changed(g, "governance", objection_period_s=1), "dao", "objectionPeriodS"),
        (lambda g: changed(g, "governance", grace_s=1), "dao", "graceS"),
        (lambda g: changed(g, "governance", timelock_delay_s=1), "timelock", "delay, s"),
        (lambda g: changed(g, "rewards", genesis_s=1), "pool", "genesis"),
        (lambda g: changed(g, "rewards", epoch_length_s=1), "pool", "epochLengthS"),
        (lambda g: changed(g, "rewards", window_length_s=1), "pool", "windowLengthS"),
        (lambda g: changed(g, "rewards", vesting_s=1), "pool", "vestingS"),
        (lambda g: changed(g, "rewards", max_unsettled=9), "pool", "maxUnsettled"),
        (lambda g: changed(g, "rewards", bounty_wei=9), "pool", "bounty"),
        (lambda g: changed(g, "rewards", budget_per_epoch_wei=1), "pool", "budgetPerEpoch"),
        (lambda g: replace(g, sequencer_feed="0x" + "11" * 20), "oracle", "sequencerFeed"),
        (lambda g: replace(g, sequencer_grace_s=1), "oracle", "sequencerGraceS"),
        (lambda g: replace(g, uniswap_factory="0x" + "11" * 20), "venue", "uniswapFactory"),
        (lambda g: replace(g, pool_init_code_hash="0x" + "11" * 32), "venue", "poolInitCodeHash"),
        (lambda g: replace(g, token_name="Other"), "token", "name"),
        (lambda g: replace(g, token_symbol="OTHER"), "token", "symbol"),
        (lambda g: replace(g, reward_fund_wei=g.reward_fund_wei - 1), "pool", "rewards from the deployer, wei"),
        (lambda g: replace(g, bounty_fund_wei=g.bounty_fund_wei - 1), "pool", "bounties from the deployer, wei"),
        (lambda g: replace(g, grants=[replace(g.grants[0], duration_s=1)]), "grant-0", "duration"),
        (lambda g: replace(g, grants=[replace(g.grants[0], beneficiary="0x" + "11" * 20)]), "grant-0", "owner"),
    ],
)
def test_each_setting_is_compared(world: Deployed, change: Callable[[Genesis], Genesis], where: str, what: str):
    assert (where, what) in {(d.where, d.what) for d in world.differences(change(world.genesis))}


def test_each_feed_cap_and_share_is_compared(world: Deployed):
    g = world.genesis
    feeds = [replace(g.feeds[0], max_age_s=1), *g.feeds[1:]]
    caps = {token: cap + 1 for token, cap in g.outflow_caps.items()}
    [first, *_] = g.holders
    other = replace(g, feeds=feeds, outflow_caps=caps, holders={**g.holders, first: g.holders[first] - 1})
    found = {d.what for d in world.differences(other)}
    assert f"feed of {g.quote}, maxAgeS" in found
    assert {f"outflow cap of {g.quote}", f"outflow cap of {world.protocol.token}"} <= found
    assert {f"share of {first}, wei", f"share of {world.protocol.treasury}, wei"} <= found


def test_what_a_vote_changed_is_a_difference_that_says_so(world: Deployed):
    world.as_timelock("pool", "setBudget", 1)
    [difference] = world.differences()
    assert (difference.what, difference.found, difference.note) == ("budgetPerEpoch", "1", "a vote may have changed it")


def test_a_role_of_anybody_else_is_a_difference(world: Deployed):
    stranger = world.evm.accounts[7].address
    role = world.evm.call(world.protocol.contract(world.evm, "timelock").functions.PROPOSER_ROLE())
    world.as_timelock("timelock", "grantRole", role, stranger)
    assert [d.what for d in world.differences()] == [f"{stranger} has the timelock's PROPOSER_ROLE"]


def test_what_holders_do_with_their_shares_is_no_difference(world: Deployed):
    token = world.protocol.contract(world.evm, "token").functions
    world.evm.send(token.transfer(world.evm.accounts[9].address, 5), world.evm.accounts[1])
    world.evm.send(token.transfer(world.deployer.address, 5), world.evm.accounts[1])
    assert world.differences() == []


def test_what_the_deployer_keeps_or_allows_is_a_difference(world: Deployed):
    token = world.protocol.contract(world.evm, "token").functions
    world.evm.send(token.approve(world.protocol.pool, 3), world.deployer)
    assert [d.what for d in world.differences()] == ["the pool's allowance from the deployer, wei"]


def test_a_market_file_that_says_otherwise_is_a_difference(world: Deployed):
    assert find_market_differences(world.evm, world.market, world.market) == []
    other = replace(world.market, factory=world.evm.accounts[9].address)
    [difference] = find_market_differences(world.evm, world.market, other)
    assert (difference.what, difference.found) == ("factory", world.market.factory)
    [difference] = find_market_differences(world.evm, other, other)
    assert "has no code on chain" in difference.what


# What was begun, and what is wanted now


def test_what_has_changed_since_a_deployment_began_is_named(world: Deployed):
    before = plain(world.genesis)
    assert list(differences(before, plain(world.genesis))) == []
    assert json.loads(json.dumps(before)) == before
    now = plain(changed(replace(world.genesis, token_symbol="X"), "governance", quorum_bps=5))
    assert list(differences(before, now, "genesis")) == [
        'genesis.token_symbol was "MFLOW", is "X"', "genesis.governance.quorum_bps was 400, is 5",
    ]  # fmt: skip


def test_the_byte_code_that_a_deployment_began_with_is_known(world: Deployed):
    found = code_hashes(world.genesis)
    assert set(found) == {"Deployer", "TokenGrant", *CONTRACTS.values()}
    assert len(set(found.values())) == len(found)


# Networks


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_s_market_is_complete_and_every_address_has_a_source(name: str):
    path = ROOT / "deployments" / "market" / f"{name}.json"
    book = load_market(path, chain_id=NETWORKS[name])
    raw = json.loads(path.read_text())
    named = [key for key, value in raw.items() if isinstance(value, str) and value.startswith("0x")]
    named += [f"{asset.symbol}'s {part}" for asset in book.assets for part in ("token", "feed", "pool")]
    assert set(named) <= set(raw["sources"])
    assert all(len(source) > 20 for source in raw["sources"].values())
    assert book.assets[0].pool == pool_of(book)


def pool_of(book: AddressBook) -> str:
    """Where the factory puts the pool of the first asset."""
    from eth_abi import encode
    from eth_utils import keccak, to_canonical_address, to_checksum_address

    tokens = sorted((book.quote, book.assets[0].token), key=lambda address: int(address, 16))
    key = keccak(encode(["address", "address", "uint24"], [*tokens, book.assets[0].pool_fee]))
    code_hash = bytes.fromhex(book.pool_init_code_hash[2:])
    return to_checksum_address(keccak(b"\xff" + to_canonical_address(book.factory) + key + code_hash)[12:])


def test_an_address_that_nobody_knows_is_asked_for():
    path = ROOT / "deployments" / "market" / "polygon-amoy.json"
    says = "has no address for weth, factory, router, positions, quoter, ETH's token, ETH's pool: none is known"
    with pytest.raises(Misconfigured, match=says):
        load_market(path, chain_id=80_002)


def test_the_feeds_of_networks_are_those_of_the_oracle_s_list():
    known = json.loads((ROOT / "oracle" / "feeds.json").read_text())["networks"]
    book = load_market(ROOT / "deployments" / "market" / "ethereum-sepolia.json", chain_id=11_155_111)
    listed = {feed["description"]: feed["address"] for feed in known["11155111"]["feeds"]}
    assert (book.quote_feed, book.assets[0].feed) == (listed["USDC / USD"], listed["ETH / USD"])


def test_the_template_of_a_test_network_is_complete_but_for_its_addresses(world: Deployed, tmp_path: Path):
    template = (ROOT / "deployments" / "genesis" / "testnet.toml").read_text()
    path = tmp_path / "testnet.toml"
    path.write_text(template)
    with pytest.raises(Misconfigured, match="'HOLDER-1: 0x and 40 digits' is no address"):
        load_genesis(path, market=world.market, people={}, now_s=world.evm.now_s())
    addresses = iter(account.address for account in world.evm.accounts)
    path.write_text(re.sub(r'"[A-Z0-9-]+: 0x[^"]*"', lambda _: f'"{next(addresses)}"', template))
    genesis = load_genesis(path, market=world.market, people={}, now_s=world.evm.now_s())
    deployed = deploy_protocol(world.evm, genesis, sender=world.deployer)
    assert deployed.grants


# Explorers


@pytest.fixture(scope="module")
def found(shared: Deployed) -> dict[str, Verification]:
    return {v.name: v for v in verifications(shared.evm, shared.protocol)}


def test_every_contract_can_be_verified(shared: Deployed, found: dict[str, Verification]):
    assert set(found) == {"deployer_contract", *CONTRACTS, "grant-0"}
    assert found["dao"].address == shared.protocol.dao
    assert found["dao"].identifier == "contracts/governance/MARKETFLOW_DAO.sol:MARKETFLOW_DAO"
    assert all(re.fullmatch(r"0\.8\.30\+commit\.[0-9a-f]{8}", v.compiler) for v in found.values())
    assert found["ledger"].arguments == shared.protocol.factory[2:].lower().rjust(64, "0")


def test_what_an_explorer_is_given_makes_the_code_on_the_chain(
    shared: Deployed, found: dict[str, Verification], tmp_path: Path
):
    """Compiled from the file alone, put together with the arguments alone, run by a chain: the code at the address."""
    ledger = found["ledger"]
    write(ledger, 31337, tmp_path)
    request = json.loads((tmp_path / "ledger.sourcify.json").read_text())
    form = json.loads((tmp_path / "ledger.etherscan.json").read_text())
    assert (form["contractaddress"], form["compilerversion"]) == (ledger.address, f"v{ledger.compiler}")
    solc = [str(ROOT / ".solcx" / "solc-v0.8.30"), "--standard-json"]
    done = subprocess.run(solc, input=json.dumps(request["stdJsonInput"]), capture_output=True, text=True, check=True)
    path, name = request["contractIdentifier"].split(":")
    compiled = json.loads(done.stdout)["contracts"][path][name]["evm"]
    creation = bytes.fromhex(compiled["bytecode"]["object"] + form["constructorArguments"])
    snapshot = shared.evm.snapshot()
    receipt = shared.evm.send({"data": creation}, shared.deployer)
    made = bytes(shared.evm.w3.eth.get_code(receipt["contractAddress"]))
    shared.evm.revert(snapshot)
    assert made == bytes(shared.evm.w3.eth.get_code(ledger.address))


def test_inputs_have_the_sources_they_need_and_no_others():
    sources = standard_json("UniswapV3Venue")["sources"]
    assert "contracts/vaults/UniswapV3Venue.sol" in sources
    assert any(name.startswith("@uniswap/v3-core/") for name in sources)
    assert not any(name.startswith("contracts/governance") for name in sources)
    assert len(standard_json("Deployer")["sources"]) < 10


def test_other_code_than_the_repository_s_is_not_passed_off_as_its(
    shared: Deployed, monkeypatch: pytest.MonkeyPatch
):
    real = load_artifact

    def other(name: str) -> Any:
        return replace(real(name), bytecode=b"\x00" + real(name).bytecode) if name == "Timelock" else real(name)

    monkeypatch.setattr("agents.verification.load_artifact", other)
    with pytest.raises(Misconfigured, match=r"timelock at 0x.* was made of other code than the repository's Timelock"):
        list(verifications(shared.evm, shared.protocol))
