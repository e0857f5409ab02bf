"""StrategyRegistry: nothing is approved, deployed or updated that breaks a rule now, by whichever door it comes.

`WRONG` holds every way a manifest can be wrong from the start; `CHANGES` every way in which the world can make a good
one wrong after it was submitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from eth_abi import encode
from eth_utils import keccak, to_checksum_address

from agents.contracts import load_artifact, type_signature
from agents.deployment import ZERO_ADDRESS
from tests.contracts.world import (
    CEILINGS,
    HOUR_S,
    LIMITS,
    REWARD_RATE,
    RULES,
    WAD,
    Strategy,
    World,
    none_of,
    one,
    struct,
    tokens,
    usd,
)

Manifest = dict[str, Any]
Refusal = tuple[str, dict[str, Any]]

STAGES = ("NONE", "SUBMITTED", "APPROVED", "LIVE", "SUPERSEDED", "RETIRING", "RETIRED")
NO_FEED, STALE, QUOTE_UNHEALTHY = 1, 5, 10
MAX_ASSETS, MAX_DECIMALS = 8, 24
BOND = tokens(50_000)
HALTED = 2
EMPTY_CODE_HASH = keccak(b"")


def stage_of(world: World, manifest_hash: bytes) -> str:
    return STAGES[world.view(world.strategies.functions.stageOf(manifest_hash))]


def hash_of(manifest: Manifest) -> bytes:
    """keccak256(abi.encode(manifest)), computed here."""
    submit = next(f for f in load_artifact("StrategyRegistry").abi if f.get("name") == "submit")
    return keccak(encode([type_signature(submit["inputs"][0])], [struct(manifest)]))


def data_of(call: Any) -> bytes:
    return bytes.fromhex(call._encode_transaction_data().removeprefix("0x"))


def approve(world: World, manifest: Manifest) -> bytes:
    manifest_hash = world.submit(manifest)
    world.as_timelock(world.strategies.functions.approve(manifest_hash))
    return manifest_hash


def update_of(strategy: Strategy, **over: Any) -> Manifest:
    """A manifest that changes the artefact of the running strategy, and what `over` says."""
    changed = {"updates": strategy.id, "artefactHash": keccak(text="artefact v2"), "capital": 0}
    return strategy.manifest | changed | over


def apply_update(world: World, manifest: Manifest) -> list[Any]:
    return world.as_timelock(world.strategies.functions.applyUpdate(approve(world, manifest)))


def another_token(world: World, decimals: int = 18) -> str:
    return str(world.evm.deploy("MockToken", "Another", "ANO", decimals, sender=world.deployer).address)


def another(world: World, contract: str) -> dict[str, Any]:
    """The address and code hash of one more venue or vault implementation, with the same arguments as the first."""
    if contract == "UniswapV3Venue":
        arguments: tuple[Any, ...] = (world.genesis.uniswap_factory, world.genesis.pool_init_code_hash)
    else:
        names = "token quote timelock dao treasury constitution oracle agents strategies factory ledger pool".split()
        arguments = (tuple(getattr(world.d, name) for name in names),)
    address = world.deploy_code(contract, *arguments).address
    return {"address": address, "hash": keccak(world.w3.eth.get_code(address))}


# A manifest that is wrong from the start


def nothing_named(world: World, m: Manifest) -> Refusal:
    m["artefactHash"] = bytes(32)
    return "StrategyRegistryEmptyArtefact", {}


def limit_above_its_ceiling(world: World, m: Manifest) -> Refusal:
    m["limits"] = replace(LIMITS, max_position_bps=8001).as_tuple()
    return "ConstitutionLimitTooLoose", {"field": "maxPositionBps", "value": 8001, "ceiling": 8000}


def limits_that_do_not_fit(world: World, m: Manifest) -> Refusal:
    m["limits"] = replace(LIMITS, max_drawdown_bps=1500).as_tuple()
    return "ConstitutionLimitsInconsistent", {"what": "maxDrawdownBps >= hardDrawdownBps"}


def no_rate(world: World, m: Manifest) -> Refusal:
    m["rewardRate"] = 0
    return "StrategyRegistryRateTooHigh", {"rate": 0, "highest": RULES.max_reward_rate}


def rate_above_the_highest(world: World, m: Manifest) -> Refusal:
    m["rewardRate"] = RULES.max_reward_rate + 1
    return "StrategyRegistryRateTooHigh", {"rate": RULES.max_reward_rate + 1, "highest": RULES.max_reward_rate}


def cap_that_pays_for_nothing(world: World, m: Manifest) -> Refusal:
    m["rewardCap"] = REWARD_RATE - 1
    return "StrategyRegistryCapBelowRate", {"cap": REWARD_RATE - 1, "rate": REWARD_RATE}


def implementation_without_code(world: World, m: Manifest) -> Refusal:
    m |= {"vaultImplementation": world.stranger.address, "vaultCodeHash": EMPTY_CODE_HASH}
    return "StrategyRegistryReplaceableCode", {"target": world.stranger.address}


def implementation_that_does_not_exist(world: World, m: Manifest) -> Refusal:
    nowhere = to_checksum_address("0x" + 19 * "00" + "ff")
    m |= {"vaultImplementation": nowhere, "vaultCodeHash": bytes(32)}
    return "StrategyRegistryReplaceableCode", {"target": nowhere}


def other_implementation_than_named(world: World, m: Manifest) -> Refusal:
    actual = bytes(m["vaultCodeHash"])
    m["vaultCodeHash"] = keccak(text="something else")
    return "StrategyRegistryWrongCode", {"target": world.d.vault_implementation, "codeHash": actual}


def venue_without_code(world: World, m: Manifest) -> Refusal:
    m |= {"venue": world.stranger.address, "venueCodeHash": EMPTY_CODE_HASH}
    return "StrategyRegistryReplaceableCode", {"target": world.stranger.address}


def other_venue_than_named(world: World, m: Manifest) -> Refusal:
    actual = bytes(m["venueCodeHash"])
    m["venueCodeHash"] = bytes(32)
    return "StrategyRegistryWrongCode", {"target": world.d.venue, "codeHash": actual}


def borrowed_code(address: str) -> bytes:
    """What an account has that delegates to a contract: https://eips.ethereum.org/EIPS/eip-7702"""
    return bytes.fromhex("ef0100" + address.removeprefix("0x"))


def implementation_that_borrows_its_code(world: World, m: Manifest) -> Refusal:
    code, target = borrowed_code(world.d.vault_implementation), world.stranger.address
    world.evm.set_code(target, code)
    m |= {"vaultImplementation": target, "vaultCodeHash": keccak(code)}
    return "StrategyRegistryReplaceableCode", {"target": target}


def venue_that_somebody_put_there(world: World, m: Manifest) -> Refusal:
    arguments = (world.genesis.uniswap_factory, world.genesis.pool_init_code_hash)
    twin = world.evm.deploy("UniswapV3Venue", *arguments, sender=world.stranger).address
    m |= {"venue": twin, "venueCodeHash": keccak(world.w3.eth.get_code(twin))}
    return "StrategyRegistryReplaceableCode", {"target": twin}


def venue_that_borrows_its_code(world: World, m: Manifest) -> Refusal:
    code, target = borrowed_code(world.d.venue), world.stranger.address
    world.evm.set_code(target, code)
    m |= {"venue": target, "venueCodeHash": keccak(code)}
    return "StrategyRegistryReplaceableCode", {"target": target}


def no_assets(world: World, m: Manifest) -> Refusal:
    m["assets"] = []
    return "StrategyRegistryAssetCount", {"count": 0, "most": MAX_ASSETS}


def more_assets_than_a_vault_can_read(world: World, m: Manifest) -> Refusal:
    m["assets"] = m["assets"] * (MAX_ASSETS + 1)
    return "StrategyRegistryAssetCount", {"count": MAX_ASSETS + 1, "most": MAX_ASSETS}


def quote_token_as_an_asset(world: World, m: Manifest) -> Refusal:
    m["assets"] = [*m["assets"], (world.book.quote, 500)]
    return "StrategyRegistryBadAsset", {"token": world.book.quote}


def asset_without_code(world: World, m: Manifest) -> Refusal:
    m["assets"] = [(world.stranger.address, 500)]
    return "StrategyRegistryBadAsset", {"token": world.stranger.address}


def asset_of_too_many_decimals(world: World, m: Manifest) -> Refusal:
    token = another_token(world, MAX_DECIMALS + 1)
    m["assets"] = [(token, 500)]
    return "StrategyRegistryBadAsset", {"token": token}


def same_asset_twice(world: World, m: Manifest) -> Refusal:
    eth_token, btc_token = world.token_of("ETH"), world.token_of("BTC")
    m["assets"] = [(eth_token, 500), (btc_token, 500), (eth_token, 3000)]
    return "StrategyRegistryBadAsset", {"token": eth_token}


def asset_that_is_no_token(world: World, m: Manifest) -> Refusal:
    m["assets"] = [(world.d.ledger, 500)]
    return "NoReason", {}


def asset_without_a_feed(world: World, m: Manifest) -> Refusal:
    token = another_token(world, MAX_DECIMALS)
    m["assets"] = [(token, 500)]
    return "StrategyRegistryNoPrice", {"token": token, "status": NO_FEED}


def asset_without_a_market(world: World, m: Manifest) -> Refusal:
    eth_token = world.token_of("ETH")
    m["assets"] = [(eth_token, 3000)]
    return "VenueNoPool", {"tokenIn": world.book.quote, "tokenOut": eth_token, "route": 3000}


def market_of_another_length(world: World, m: Manifest) -> Refusal:
    """A route that would be cut to that of an existing pool."""
    eth_token, route = world.token_of("ETH"), 2**24 + 500
    m["assets"] = [(eth_token, route)]
    return "VenueNoPool", {"tokenIn": world.book.quote, "tokenOut": eth_token, "route": route}


def no_agent(world: World, m: Manifest) -> Refusal:
    m["agentId"] = 0
    return "StrategyRegistryUnknownAgent", {"agentId": 0}


def agent_that_is_not_registered(world: World, m: Manifest) -> Refusal:
    m["agentId"] += 1
    return "StrategyRegistryUnknownAgent", {"agentId": m["agentId"]}


def agent_whose_number_would_wrap(world: World, m: Manifest) -> Refusal:
    m["agentId"] += 2**64
    return "StrategyRegistryUnknownAgent", {"agentId": m["agentId"]}


def capital_beyond_the_bond(world: World, m: Manifest) -> Refusal:
    m["capital"] = usd(3_000_000)
    return "StrategyRegistryBondTooSmall", {
        "agentId": m["agentId"], "bond": BOND, "needed": bond_needed(m["capital"]),
    }  # fmt: skip


def capital_beyond_all_money(world: World, m: Manifest) -> Refusal:
    m["capital"] = 2**256 - 1
    return "Panic", {"code": 0x11, "meaning": "arithmetic overflow"}


def update_of_nothing(world: World, m: Manifest) -> Refusal:
    m["updates"] = keccak(text="never proposed")
    return "StrategyRegistryWrongStage", {"id": m["updates"], "stage": STAGES.index("NONE")}


WRONG = (
    nothing_named, limit_above_its_ceiling, limits_that_do_not_fit, no_rate, rate_above_the_highest,
    cap_that_pays_for_nothing, implementation_without_code, implementation_that_does_not_exist,
    other_implementation_than_named, venue_without_code, other_venue_than_named,
    implementation_that_borrows_its_code, venue_that_borrows_its_code,
    venue_that_somebody_put_there, no_assets,
    more_assets_than_a_vault_can_read, quote_token_as_an_asset, asset_without_code, asset_of_too_many_decimals,
    same_asset_twice, asset_that_is_no_token, asset_without_a_feed, asset_without_a_market,
    market_of_another_length, no_agent, agent_that_is_not_registered, agent_whose_number_would_wrap,
    capital_beyond_the_bond, capital_beyond_all_money, update_of_nothing,
)  # fmt: skip


@pytest.mark.parametrize("spoil", WRONG, ids=lambda spoil: spoil.__name__)
def test_a_wrong_manifest_is_refused_at_every_door(world: World, spoil: Callable[[World, Manifest], Refusal]) -> None:
    manifest = world.manifest(world.register_agent(bond_wei=BOND))
    error, arguments = spoil(world, manifest)
    with world.reverts(error, **arguments):
        world.view(world.strategies.functions.check(struct(manifest)))
    with world.reverts(error, **arguments):
        world.send(world.strategies.functions.submit(struct(manifest)), world.stranger)
    with world.reverts(error, **arguments):
        world.propose_strategy(manifest)
    assert stage_of(world, hash_of(manifest)) == "NONE"


# A world that changes under a good manifest


def tighter_ceiling(world: World, m: Manifest) -> Refusal:
    ceilings = replace(CEILINGS, max_position_bps=5999).as_tuple()
    world.as_timelock(world.constitution.functions.setCeilings(ceilings))
    return "ConstitutionLimitTooLoose", {"field": "maxPositionBps", "value": 6000, "ceiling": 5999}


def lower_highest_rate(world: World, m: Manifest) -> Refusal:
    rules = replace(RULES, max_reward_rate=REWARD_RATE - 1).as_tuple()
    world.as_timelock(world.constitution.functions.setRules(rules))
    return "StrategyRegistryRateTooHigh", {"rate": REWARD_RATE, "highest": REWARD_RATE - 1}


def higher_smallest_bond(world: World, m: Manifest) -> Refusal:
    rules = replace(RULES, min_bond_wei=BOND + 1).as_tuple()
    world.as_timelock(world.constitution.functions.setRules(rules))
    return "StrategyRegistryBondTooSmall", {"agentId": m["agentId"], "bond": BOND, "needed": BOND + 1}


def slashed_bond(world: World, m: Manifest) -> Refusal:
    needed = world.view(world.strategies.functions.bondNeeded(struct(m)))
    world.as_timelock(world.agents.functions.slashBond(m["agentId"], BOND - needed + 1))
    return "StrategyRegistryBondTooSmall", {"agentId": m["agentId"], "bond": needed - 1, "needed": needed}


def feed_delisted(world: World, m: Manifest) -> Refusal:
    world.as_timelock(world.oracle.functions.removeFeed(world.token_of("ETH")))
    return "StrategyRegistryNoPrice", {"token": world.token_of("ETH"), "status": NO_FEED}


def feed_stale(world: World, m: Manifest) -> Refusal:
    world.evm.travel(2 * HOUR_S + 1)
    return "StrategyRegistryNoPrice", {"token": world.token_of("ETH"), "status": STALE}


def quote_off_its_peg(world: World, m: Manifest) -> Refusal:
    world.set_price("MUSD", "0.97")
    return "StrategyRegistryNoPrice", {"token": world.token_of("ETH"), "status": QUOTE_UNHEALTHY}


def venue_code_gone(world: World, m: Manifest) -> Refusal:
    world.evm.set_code(world.d.venue, b"")
    return "StrategyRegistryWrongCode", {"target": world.d.venue, "codeHash": EMPTY_CODE_HASH}


def venue_code_exchanged(world: World, m: Manifest) -> Refusal:
    world.evm.set_code(world.d.venue, b"\x00")
    return "StrategyRegistryWrongCode", {"target": world.d.venue, "codeHash": keccak(b"\x00")}


def implementation_code_exchanged(world: World, m: Manifest) -> Refusal:
    world.evm.set_code(world.d.vault_implementation, b"\x00")
    return "StrategyRegistryWrongCode", {"target": world.d.vault_implementation, "codeHash": keccak(b"\x00")}


def market_gone(world: World, m: Manifest) -> Refusal:
    world.evm.set_code(world.book.asset("ETH").pool, b"")
    return "VenueNoPool", {"tokenIn": world.book.quote, "tokenOut": world.token_of("ETH"), "route": 500}


CHANGES = (
    tighter_ceiling, lower_highest_rate, higher_smallest_bond, slashed_bond, feed_delisted, feed_stale,
    quote_off_its_peg, venue_code_gone, venue_code_exchanged, implementation_code_exchanged, market_gone,
)  # fmt: skip


def agent_busy(world: World, m: Manifest) -> Refusal:
    rival = world.deploy_strategy(m["agentId"], salt=keccak(text="rival"))
    return "StrategyRegistryAgentBusy", {"agentId": m["agentId"], "strategyId": rival.id}


def agent_in_debt(world: World, m: Manifest) -> Refusal:
    debt = leave_a_debt(world, m["agentId"])
    return "StrategyRegistryAgentInDebt", {"agentId": m["agentId"], "debt": debt}


def leave_a_debt(world: World, agent_id: int) -> int:
    """An earlier strategy of the agent ends with a loss that nothing was left to pay for; the debt in quote."""
    rival = world.deploy_strategy(agent_id, salt=keccak(text="rival"), limits=replace(LIMITS, max_daily_loss_bps=1000))
    world.buy(rival, usd(500_000))
    world.set_price("ETH", 1900)
    world.as_timelock(world.agents.functions.slashBond(agent_id, BOND))
    retire_and_empty(world, rival)
    loss = world.settle(rival)
    world.send(world.strategies.functions.finishRetirement(rival.id), world.stranger)
    world.send(world.token.functions.approve(world.d.agents, BOND), world.controller)
    world.send(world.agents.functions.postBond(agent_id, BOND), world.controller)
    assert loss < 0
    return -loss


def retire_and_empty(world: World, strategy: Strategy) -> None:
    world.as_timelock(world.strategies.functions.retire(strategy.id))
    for token in (world.token_of("ETH"), world.token_of("BTC"), world.book.quote):
        world.as_timelock(world.treasury.functions.recall(strategy.id, token, 2**128 - 1, 0))


@pytest.mark.parametrize("change", [*CHANGES, agent_busy, agent_in_debt], ids=lambda change: change.__name__)
def test_a_strategy_the_world_has_made_wrong_is_neither_approved_nor_deployed(
    world: World, change: Callable[[World, Manifest], Refusal]
) -> None:
    agent_id = world.register_agent(bond_wei=BOND)
    submitted, approved = world.manifest(agent_id), world.manifest(agent_id, salt=keccak(text="voted in time"))
    submitted_hash, approved_hash = world.submit(submitted), approve(world, approved)
    error, arguments = change(world, submitted)
    with world.reverts(error, **arguments):
        world.as_timelock(world.strategies.functions.approve(submitted_hash))
    with world.reverts(error, **arguments):
        world.as_timelock(world.factory.functions.deployVault(approved_hash))
    with world.reverts(error, **arguments):
        world.send(world.strategies.functions.submit(struct(submitted)), world.stranger)
    assert (stage_of(world, submitted_hash), stage_of(world, approved_hash)) == ("SUBMITTED", "APPROVED")


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_an_update_the_world_has_made_wrong_is_neither_approved_nor_applied(
    world: World, change: Callable[[World, Manifest], Refusal]
) -> None:
    strategy = world.deploy_strategy(world.register_agent(bond_wei=BOND))
    submitted, approved = update_of(strategy), update_of(strategy, salt=keccak(text="voted in time"))
    submitted_hash, approved_hash = world.submit(submitted), approve(world, approved)
    error, arguments = change(world, submitted)
    with world.reverts(error, **arguments):
        world.as_timelock(world.strategies.functions.approve(submitted_hash))
    with world.reverts(error, **arguments):
        world.as_timelock(world.strategies.functions.applyUpdate(approved_hash))
    assert stage_of(world, strategy.id) == "LIVE"


# Submitting


def test_a_manifest_is_stored_under_the_hash_of_its_encoding(world: World) -> None:
    manifest = world.manifest(world.register_agent(), assets=("ETH", "BTC"))
    events = world.send(world.strategies.functions.submit(struct(manifest)), world.stranger)
    assert one(events, "ManifestSubmitted") == {
        "manifestHash": hash_of(manifest),
        "agentId": manifest["agentId"],
        "artefactHash": bytes(manifest["artefactHash"]),
        "submitter": world.stranger.address,
    }
    stored = world.view(world.strategies.functions.manifestOf(hash_of(manifest)))
    assert stored._asdict() == {
        **manifest, "artefactHash": bytes(manifest["artefactHash"]),
        "vaultCodeHash": bytes(manifest["vaultCodeHash"]), "venueCodeHash": bytes(manifest["venueCodeHash"]),
    }  # fmt: skip


def test_the_same_manifest_may_come_twice_and_is_one(world: World) -> None:
    manifest = world.manifest(world.register_agent())
    first = world.submit(manifest)
    assert world.submit(manifest, sender=world.proposer) == first == hash_of(manifest)
    events = world.send(world.strategies.functions.submit(struct(manifest)), world.stranger)
    assert none_of(events, "ManifestSubmitted")
    assert stage_of(world, first) == "SUBMITTED"


def test_nobody_blocks_a_proposal_by_submitting_its_manifest_first(world: World) -> None:
    manifest = world.manifest(world.register_agent())
    world.submit(manifest, sender=world.stranger)
    assert world.propose_strategy(manifest)


def test_a_salt_makes_two_manifests_of_one(world: World) -> None:
    manifest = world.manifest(world.register_agent())
    assert world.submit(manifest) != world.submit(manifest | {"salt": keccak(text="salt")})


def test_a_manifest_that_was_approved_can_not_be_submitted_again(world: World, strategy: Strategy) -> None:
    waiting = world.manifest(world.register_agent(world.other_controller, world.other_signer))
    running = update_of(strategy)
    approve(world, waiting)
    apply_update(world, running)
    for manifest, stage in ((waiting, "APPROVED"), (running, "LIVE")):
        with world.reverts("StrategyRegistryWrongStage", id=hash_of(manifest), stage=STAGES.index(stage)):
            world.send(world.strategies.functions.submit(struct(manifest)), world.stranger)


def test_what_was_never_submitted_has_no_manifest_calls_or_vault(world: World) -> None:
    unknown = keccak(text="never submitted")
    registry = world.strategies.functions
    for call in (
        registry.manifestOf(unknown),
        registry.callsOf(unknown),
        registry.recallCalls(unknown, []),
        registry.retireCalls(unknown),
        registry.vaultOf(unknown),
    ):
        with world.reverts("StrategyRegistryUnknownManifest", manifestHash=unknown):
            world.view(call)
    assert world.view(registry.strategyOf(unknown)) == (bytes(32), ZERO_ADDRESS, 0, STAGES.index("NONE"))


@pytest.mark.parametrize(
    "at", [{"rewardRate": RULES.max_reward_rate, "capital": 0}, {"rewardCap": REWARD_RATE}], ids=["rate", "cap"]
)
def test_rate_and_cap_may_reach_their_bounds(world: World, at: dict[str, int]) -> None:
    assert world.submit(world.manifest(world.register_agent(), **at))


# The bond


def bond_needed(capital: int) -> int:
    """The most that the guard lets the capital lose, times the rate: rounded against the agent at every step."""
    worst = capital
    for bps in (LIMITS.hard_drawdown_bps, RULES.auction_max_discount_bps, RULES.gap_allowance_bps):
        worst = worst * (10_000 - bps) // 10_000
    return max(RULES.min_bond_wei, REWARD_RATE * (capital - worst))


@pytest.mark.parametrize("capital", [0, 1, usd(42_000), 43_000_000_019, usd(1_000_000), 777_777_777_777])
def test_the_bond_covers_the_most_that_the_guard_lets_the_capital_lose(world: World, capital: int) -> None:
    needed = bond_needed(capital)
    agent_id = world.register_agent(bond_wei=needed - 1)
    manifest = world.manifest(agent_id, capital=capital)
    assert world.view(world.strategies.functions.bondNeeded(struct(manifest))) == needed
    with world.reverts("StrategyRegistryBondTooSmall", agentId=agent_id, bond=needed - 1, needed=needed):
        world.submit(manifest)
    world.send(world.token.functions.approve(world.d.agents, 1), world.controller)
    world.send(world.agents.functions.postBond(agent_id, 1), world.controller)
    assert world.submit(manifest)


# Authority and stages


def test_only_the_timelock_governs_strategies(world: World, strategy: Strategy) -> None:
    registry = world.strategies.functions
    for caller in (world.stranger, world.guardian, world.controller, world.signer):
        for call in (
            registry.approve(strategy.id),
            registry.applyUpdate(strategy.id),
            registry.halt(strategy.id),
            registry.resume(strategy.id),
            registry.writeOff(strategy.id, world.token_of("ETH")),
            registry.retire(strategy.id),
        ):
            with world.reverts("StrategyRegistryUnauthorized", caller=caller.address):
                world.send(call, caller)


def test_only_the_factory_marks_a_strategy_as_deployed(world: World) -> None:
    manifest_hash = approve(world, world.manifest(world.register_agent()))
    for caller in (world.stranger.address, world.d.timelock):
        with world.reverts("StrategyRegistryUnauthorized", caller=caller):
            world.send(world.strategies.functions.markDeployed(manifest_hash, world.stranger.address), caller)


def test_only_what_is_submitted_is_approved_and_only_once(world: World) -> None:
    unknown = keccak(text="never submitted")
    with world.reverts("StrategyRegistryWrongStage", id=unknown, stage=STAGES.index("NONE")):
        world.as_timelock(world.strategies.functions.approve(unknown))
    manifest_hash = world.submit(world.manifest(world.register_agent()))
    events = world.as_timelock(world.strategies.functions.approve(manifest_hash))
    assert one(events, "ManifestApproved") == {"manifestHash": manifest_hash}
    with world.reverts("StrategyRegistryWrongStage", id=manifest_hash, stage=STAGES.index("APPROVED")):
        world.as_timelock(world.strategies.functions.approve(manifest_hash))


def test_only_a_running_strategy_is_halted_resumed_or_retired(world: World, strategy: Strategy) -> None:
    registry = world.strategies.functions
    waiting = approve(world, world.manifest(world.register_agent(world.other_controller, world.other_signer)))
    calls = (registry.halt, registry.resume, registry.retire)
    for call in calls:
        with world.reverts("StrategyRegistryWrongStage", id=waiting, stage=STAGES.index("NONE")):
            world.as_timelock(call(waiting))
    world.as_timelock(registry.retire(strategy.id))
    for call in calls:
        with world.reverts("StrategyRegistryWrongStage", id=strategy.id, stage=STAGES.index("RETIRING")):
            world.as_timelock(call(strategy.id))
    with world.reverts("StrategyRegistryUnknownManifest", manifestHash=waiting):
        world.as_timelock(registry.writeOff(waiting, world.token_of("ETH")))


def test_the_stages_of_a_life(world: World) -> None:
    registry, agent_id = world.strategies.functions, world.register_agent()
    manifest = world.manifest(agent_id)
    strategy_id = hash_of(manifest)
    assert stage_of(world, strategy_id) == "NONE"
    world.submit(manifest)
    assert stage_of(world, strategy_id) == "SUBMITTED"
    world.as_timelock(registry.approve(strategy_id))
    assert stage_of(world, strategy_id) == "APPROVED"
    assert world.view(registry.liveStrategyOf(agent_id)) == bytes(32)

    events = world.as_timelock(world.factory.functions.deployVault(strategy_id))
    vault = world.view(registry.vaultOf(strategy_id))
    assert one(events, "StrategyDeployed") == {"strategyId": strategy_id, "vault": vault, "agentId": agent_id}
    assert stage_of(world, strategy_id) == "LIVE"
    assert world.view(registry.strategyOf(strategy_id)) == (strategy_id, vault, agent_id, STAGES.index("LIVE"))
    assert world.view(registry.liveStrategyOf(agent_id)) == strategy_id

    strategy = Strategy(strategy_id, world.vault_of(strategy_id), agent_id, manifest)
    update = update_of(strategy)
    apply_update(world, update)
    version = hash_of(update)
    assert (stage_of(world, strategy_id), stage_of(world, version)) == ("SUPERSEDED", "LIVE")
    assert world.view(registry.strategyOf(strategy_id)) == (version, vault, agent_id, STAGES.index("LIVE"))
    assert world.view(registry.liveStrategyOf(agent_id)) == strategy_id, "a strategy keeps its id"

    assert one(world.as_timelock(registry.retire(strategy_id)), "StrategyRetiring") == {"strategyId": strategy_id}
    assert (stage_of(world, strategy_id), stage_of(world, version)) == ("SUPERSEDED", "RETIRING")
    assert world.view(strategy.vault.functions.status()).state == HALTED

    world.settle(strategy)
    events = world.send(registry.finishRetirement(strategy_id), world.stranger)
    assert one(events, "StrategyRetired") == {"strategyId": strategy_id}
    assert one(events, "VaultReleased") == {"vault": vault, "agentId": agent_id}
    assert stage_of(world, version) == "RETIRED"
    assert world.view(registry.strategyOf(strategy_id)) == (version, vault, agent_id, STAGES.index("RETIRED"))
    assert world.view(registry.liveStrategyOf(agent_id)) == bytes(32)


# Updates


@pytest.mark.parametrize("field", ["agentId", "rewardRate", "venue", "vaultImplementation"])
def test_what_a_vault_was_built_from_can_not_be_updated(world: World, strategy: Strategy, field: str) -> None:
    if field == "agentId":
        changed = {"agentId": world.register_agent(world.other_controller, world.other_signer)}
    elif field == "rewardRate":
        changed = {"rewardRate": REWARD_RATE - 1}
    elif field == "venue":
        venue = another(world, "UniswapV3Venue")
        changed = {"venue": venue["address"], "venueCodeHash": venue["hash"]}
    else:
        implementation = another(world, "StrategyVault")
        changed = {"vaultImplementation": implementation["address"], "vaultCodeHash": implementation["hash"]}
    with world.reverts("StrategyRegistryFixedField", field=field):
        world.submit(update_of(strategy, **changed))


def test_an_asset_that_is_held_can_not_be_dropped(world: World) -> None:
    strategy = world.deploy_strategy(assets=("ETH", "BTC"))
    world.buy(strategy, usd(10_000), symbol="BTC")
    without_btc = update_of(strategy, assets=strategy.manifest["assets"][:1])
    held = world.held(strategy, "BTC")
    with world.reverts("StrategyRegistryAssetStillHeld", token=world.token_of("BTC"), amount=held):
        world.submit(without_btc)

    world.sell(strategy, held, symbol="BTC")
    manifest_hash = approve(world, without_btc)
    world.buy(strategy, usd(10_000), symbol="BTC")
    held = world.held(strategy, "BTC")
    with world.reverts("StrategyRegistryAssetStillHeld", token=world.token_of("BTC"), amount=held):
        world.as_timelock(world.strategies.functions.applyUpdate(manifest_hash))
    world.sell(strategy, held, symbol="BTC")
    world.as_timelock(world.strategies.functions.applyUpdate(manifest_hash))
    assert [asset.token for asset in world.view(strategy.vault.functions.assets())] == [world.token_of("ETH")]
    with world.reverts("VaultUnknownAsset", token=world.token_of("BTC")):
        world.buy(strategy, usd(10_000), symbol="BTC")


def test_only_an_approved_update_is_applied_and_only_to_a_running_strategy(world: World, strategy: Strategy) -> None:
    registry = world.strategies.functions
    submitted = world.submit(update_of(strategy))
    with world.reverts("StrategyRegistryWrongStage", id=submitted, stage=STAGES.index("SUBMITTED")):
        world.as_timelock(registry.applyUpdate(submitted))
    world.as_timelock(registry.approve(submitted))
    world.as_timelock(registry.retire(strategy.id))
    with world.reverts("StrategyRegistryWrongStage", id=strategy.id, stage=STAGES.index("RETIRING")):
        world.as_timelock(registry.applyUpdate(submitted))


def test_an_update_that_another_has_overtaken_is_neither_proposed_nor_applied(world: World, strategy: Strategy) -> None:
    """It was written as a change of the version before, and would quietly undo what the other changed."""
    submitted = update_of(strategy, salt=keccak(text="submitted"))
    approved = update_of(strategy, salt=keccak(text="approved"))
    submitted_hash, approved_hash = world.submit(submitted), approve(world, approved)
    winner = update_of(strategy, artefactHash=keccak(text="artefact v3"))
    apply_update(world, winner)
    apply_approved = world.strategies.functions.applyUpdate(approved_hash)
    for manifest_hash, act in (
        (submitted_hash, lambda: world.submit(submitted)),
        (submitted_hash, lambda: world.propose_strategy(submitted)),
        (approved_hash, lambda: world.as_timelock(apply_approved)),
    ):
        with world.reverts("StrategyRegistryStaleUpdate", manifestHash=manifest_hash, running=hash_of(winner)):
            act()
    assert world.view(strategy.vault.functions.artefactHash()) == bytes(winner["artefactHash"])
    apply_update(world, submitted | {"salt": keccak(text="written anew")})


def test_a_new_strategy_can_not_be_applied_as_an_update(world: World) -> None:
    manifest_hash = approve(world, world.manifest(world.register_agent()))
    with world.reverts("StrategyRegistryWrongStage", id=bytes(32), stage=STAGES.index("NONE")):
        world.as_timelock(world.strategies.functions.applyUpdate(manifest_hash))


def test_an_update_names_the_strategy_not_its_latest_version(world: World, strategy: Strategy) -> None:
    update = update_of(strategy)
    apply_update(world, update)
    version = hash_of(update)
    with world.reverts("StrategyRegistryWrongStage", id=version, stage=STAGES.index("NONE")):
        world.submit(update_of(strategy, updates=version, salt=keccak(text="another")))


def test_an_update_is_a_new_artefact_with_new_limits_assets_and_cap(world: World, strategy: Strategy) -> None:
    limits = replace(LIMITS, max_position_bps=2000, max_trades_per_day=3)
    update = update_of(
        strategy,
        limits=limits.as_tuple(),
        assets=[*strategy.manifest["assets"], (world.token_of("BTC"), 500)],
        rewardCap=tokens(7000),
    )
    events = apply_update(world, update)
    version, vault = hash_of(update), strategy.vault.address
    artefact = bytes(update["artefactHash"])
    assert one(events, "StrategyUpdated") == {
        "strategyId": strategy.id, "version": version, "artefactHash": artefact,
    }  # fmt: skip
    updated = one(events, "VaultUpdated")
    assert (updated["artefactHash"], tuple(updated["limits"].values())) == (artefact, limits.as_tuple())
    assert one(events, "CapSet") == {"vault": vault, "cap": tokens(7000)}

    assert world.view(strategy.vault.functions.artefactHash()) == artefact
    assert tuple(world.view(strategy.vault.functions.limits())) == limits.as_tuple()
    assert world.account(strategy).cap == tokens(7000)
    assert [asset.token for asset in world.view(strategy.vault.functions.assets())] == [
        world.token_of("ETH"), world.token_of("BTC"),
    ]  # fmt: skip
    with world.reverts("VaultWrongArtefact", expected=artefact, given=bytes(strategy.manifest["artefactHash"])):
        world.buy(strategy, usd(1000), artefactHash=bytes(strategy.manifest["artefactHash"]))
    trade = one(world.buy(strategy, usd(1000), symbol="BTC"), "TradeRecorded")["trade"]
    assert (trade["artefactHash"], trade["strategyId"]) == (artefact, strategy.id)


def test_an_update_keeps_money_account_and_nonce(world: World, strategy: Strategy) -> None:
    world.buy(strategy, usd(100_000))
    before = (
        world.view(strategy.vault.functions.book()),
        world.held(strategy),
        world.view(strategy.vault.functions.guard()).nonce,
        world.account(strategy),
    )
    apply_update(world, update_of(strategy))
    after = (
        world.view(strategy.vault.functions.book()),
        world.held(strategy),
        world.view(strategy.vault.functions.guard()).nonce,
        world.account(strategy),
    )
    assert after == before


def test_the_earlier_version_comes_back_only_as_a_new_manifest(world: World, strategy: Strategy) -> None:
    first, second = update_of(strategy), update_of(strategy, artefactHash=keccak(text="artefact v3"))
    apply_update(world, first)
    apply_update(world, second)
    assert [stage_of(world, hash_of(m)) for m in (first, second)] == ["SUPERSEDED", "LIVE"]
    with world.reverts("StrategyRegistryWrongStage", id=hash_of(first), stage=STAGES.index("SUPERSEDED")):
        world.submit(first)
    apply_update(world, first | {"salt": keccak(text="again")})
    assert world.view(strategy.vault.functions.artefactHash()) == bytes(first["artefactHash"])


# Halt, resume, write off


def test_a_vote_halts_and_resumes(world: World, strategy: Strategy) -> None:
    events = world.as_timelock(world.strategies.functions.halt(strategy.id))
    assert one(events, "StateChanged")["state"] == HALTED
    assert one(world.buy(strategy, usd(1000)), "TradeRefused")
    events = world.as_timelock(world.strategies.functions.resume(strategy.id))
    assert one(events, "Resumed") == {"peakWad": WAD}
    assert one(world.buy(strategy, usd(1000)), "TradeRecorded")


def test_a_vote_writes_a_token_off_even_while_a_strategy_retires(world: World, strategy: Strategy) -> None:
    world.buy(strategy, usd(1000))
    held = world.held(strategy)
    with world.reverts("VaultZeroAmount"):
        world.as_timelock(world.strategies.functions.writeOff(strategy.id, world.token_of("BTC")))
    world.as_timelock(world.strategies.functions.retire(strategy.id))
    events = world.as_timelock(world.strategies.functions.writeOff(strategy.id, world.token_of("ETH")))
    assert one(events, "WrittenOff") == {"token": world.token_of("ETH"), "amount": held}


# Retirement


def test_a_retirement_ends_when_the_vault_is_empty_and_a_whole_window_has_settled(
    world: World, strategy: Strategy
) -> None:
    finish = world.strategies.functions.finishRetirement(strategy.id)
    with world.reverts("StrategyRegistryWrongStage", id=strategy.id, stage=STAGES.index("LIVE")):
        world.send(finish, world.stranger)
    world.buy(strategy, usd(1000))
    world.as_timelock(world.strategies.functions.retire(strategy.id))
    with world.reverts("StrategyRegistryNotFinished", strategyId=strategy.id):  # not empty
        world.send(finish, world.stranger)

    for token in (world.token_of("ETH"), world.book.quote):
        world.as_timelock(world.treasury.functions.recall(strategy.id, token, 2**128 - 1, 0))
    with world.reverts("StrategyRegistryNotFinished", strategyId=strategy.id):  # empty, no window since
        world.send(finish, world.stranger)
    world.to_next_window()
    world.poke(strategy)
    with world.reverts("StrategyRegistryNotFinished", strategyId=strategy.id):  # observed, not closed
        world.send(finish, world.stranger)
    world.to_window_end()
    [closed, *_] = world.send(world.pool.functions.closeWindow(strategy.vault.address), world.stranger)
    assert closed.args["move"] < 0, "the fee of the only trade"
    with world.reverts("StrategyRegistryNotFinished", strategyId=strategy.id):  # closed, not applied
        world.send(finish, world.stranger)
    world.send(world.dao.functions.rewardAgent(strategy.agent_id, closed.args["move"]), world.stranger)
    assert one(world.send(finish, world.stranger), "StrategyRetired") == {"strategyId": strategy.id}
    with world.reverts("StrategyRegistryWrongStage", id=strategy.id, stage=STAGES.index("RETIRED")):
        world.send(finish, world.stranger)


def test_settled_windows_do_not_end_the_retirement_of_a_vault_that_is_not_empty(
    world: World, strategy: Strategy
) -> None:
    world.as_timelock(world.strategies.functions.retire(strategy.id))
    world.settle(strategy)
    with world.reverts("StrategyRegistryNotFinished", strategyId=strategy.id):
        world.send(world.strategies.functions.finishRetirement(strategy.id), world.stranger)


def test_a_window_in_which_the_vault_was_emptied_does_not_end_a_retirement(world: World, strategy: Strategy) -> None:
    world.to_next_window()
    world.poke(strategy)
    retire_and_empty(world, strategy)
    world.to_window_end()
    world.send(world.pool.functions.closeWindow(strategy.vault.address), world.stranger)
    with world.reverts("StrategyRegistryNotFinished", strategyId=strategy.id):
        world.send(world.strategies.functions.finishRetirement(strategy.id), world.stranger)


def test_a_retired_agent_without_debt_begins_again(world: World, strategy: Strategy) -> None:
    retire_and_empty(world, strategy)
    world.settle(strategy)
    world.send(world.strategies.functions.finishRetirement(strategy.id), world.stranger)
    again = world.deploy_strategy(strategy.agent_id, salt=keccak(text="again"))
    assert world.view(world.strategies.functions.liveStrategyOf(strategy.agent_id)) == again.id
    assert again.vault.address != strategy.vault.address
    with world.reverts("StrategyRegistryWrongStage", id=strategy.id, stage=STAGES.index("RETIRED")):
        world.as_timelock(world.strategies.functions.halt(strategy.id))


def test_a_retired_strategy_s_manifest_is_used_up(world: World, strategy: Strategy) -> None:
    retire_and_empty(world, strategy)
    world.settle(strategy)
    world.send(world.strategies.functions.finishRetirement(strategy.id), world.stranger)
    with world.reverts("StrategyRegistryWrongStage", id=strategy.id, stage=STAGES.index("RETIRED")):
        world.submit(strategy.manifest)


# The calls voters can expect


@pytest.mark.parametrize("capital", [0, usd(500_000)])
def test_a_deployment_consists_of_these_calls_and_no_other(world: World, capital: int) -> None:
    manifest = world.manifest(world.register_agent(), capital=capital)
    manifest_hash = world.submit(manifest)
    expected = [
        world.strategies.functions.approve(manifest_hash),
        world.factory.functions.deployVault(manifest_hash),
        world.treasury.functions.allocate(manifest_hash, capital),
    ][: 3 if capital else 2]
    assert_calls(world, world.strategies.functions.callsOf(manifest_hash), expected)


@pytest.mark.parametrize("capital", [0, usd(500_000)])
def test_an_update_consists_of_these_calls_and_no_other(world: World, strategy: Strategy, capital: int) -> None:
    update_hash = world.submit(update_of(strategy, capital=capital))
    expected = [
        world.strategies.functions.approve(update_hash),
        world.strategies.functions.applyUpdate(update_hash),
        world.treasury.functions.allocate(strategy.id, capital),
    ][: 3 if capital else 2]
    assert_calls(world, world.strategies.functions.callsOf(update_hash), expected)


def test_a_recall_consists_of_one_call_for_each_token(world: World, strategy: Strategy) -> None:
    items = [(world.book.quote, usd(1), 0), (world.token_of("ETH"), 2**255, 1900 * WAD)]
    expected = [world.treasury.functions.recall(strategy.id, *item) for item in items]
    assert_calls(world, world.strategies.functions.recallCalls(strategy.id, items), expected)
    assert_calls(world, world.strategies.functions.recallCalls(strategy.id, []), [])


def test_a_retirement_consists_of_one_call(world: World, strategy: Strategy) -> None:
    expected = [world.strategies.functions.retire(strategy.id)]
    assert_calls(world, world.strategies.functions.retireCalls(strategy.id), expected)


def assert_calls(world: World, built: Any, expected: list[Any]) -> None:
    targets, values, calldatas = world.view(built)
    assert targets == [call.address for call in expected]
    assert values == [0] * len(expected)
    assert calldatas == [data_of(call) for call in expected]
