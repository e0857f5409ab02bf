"""VaultFactory: a vault is created once, for an approved manifest, where everybody could know it would be."""

from __future__ import annotations

from typing import Any

import pytest
from eth_utils import keccak, to_canonical_address, to_checksum_address

from agents.deployment import ZERO_ADDRESS
from tests.contracts.world import LIMITS, REWARD_RATE, Strategy, World, one, tokens

# EIP-1167: the code that creates a clone, around the implementation's address.
CLONE_HEAD = bytes.fromhex("3d602d80600a3d3981f3363d3d373d3d3d363d73")
CLONE_TAIL = bytes.fromhex("5af43d82803e903d91602b57fd5bf3")
CLONE_CODE_BEGINS = 10


def clone_address(factory: str, implementation: str, salt: bytes) -> str:
    """EIP-1014 over EIP-1167, computed here."""
    code_hash = keccak(clone_code(implementation, creation=True))
    return to_checksum_address(keccak(b"\xff" + to_canonical_address(factory) + salt + code_hash)[12:])


def clone_code(implementation: str, *, creation: bool = False) -> bytes:
    code = CLONE_HEAD + to_canonical_address(implementation) + CLONE_TAIL
    return code if creation else code[CLONE_CODE_BEGINS:]


def approve(world: World, manifest: dict[str, Any]) -> bytes:
    manifest_hash = world.submit(manifest)
    world.as_timelock(world.strategies.functions.approve(manifest_hash))
    return manifest_hash


def deploy_vault(world: World, strategy_id: bytes) -> Any:
    return world.factory.functions.deployVault(strategy_id)


# Refusals


def test_only_the_timelock_creates_vaults(world: World) -> None:
    approved = approve(world, world.manifest(world.register_agent()))
    for caller in (world.stranger, world.controller, world.guardian, world.deployer):
        with world.reverts("VaultFactoryUnauthorized", caller=caller.address):
            world.send(deploy_vault(world, approved), caller)


def test_no_vault_without_a_manifest(world: World) -> None:
    unknown = keccak(text="never submitted")
    with world.reverts("StrategyRegistryUnknownManifest", manifestHash=unknown):
        world.as_timelock(deploy_vault(world, unknown))


def test_no_vault_without_an_approval(world: World) -> None:
    submitted = world.submit(world.manifest(world.register_agent()))
    with world.reverts("VaultFactoryNotApproved", manifestHash=submitted):
        world.as_timelock(deploy_vault(world, submitted))


def test_no_second_vault_for_the_same_manifest(world: World, strategy: Strategy) -> None:
    with world.reverts("VaultFactoryNotApproved", manifestHash=strategy.id):
        world.as_timelock(deploy_vault(world, strategy.id))


def test_no_vault_for_an_update(world: World, strategy: Strategy) -> None:
    changed = {"updates": strategy.id, "artefactHash": keccak(text="artefact v2")}
    update = approve(world, strategy.manifest | changed)
    with world.reverts("VaultFactoryNotApproved", manifestHash=update):
        world.as_timelock(deploy_vault(world, update))


def test_no_vault_whose_reward_the_epoch_s_budget_can_not_hold(world: World) -> None:
    budget = world.genesis.rewards.budget_per_epoch_wei
    approved = approve(world, world.manifest(world.register_agent(), rewardCap=budget + 1))
    with world.reverts("RewardPoolBudgetExceeded", caps=budget + 1, budget=budget):
        world.as_timelock(deploy_vault(world, approved))


def test_a_refused_deployment_leaves_nothing_behind(world: World) -> None:
    manifest = world.manifest(world.register_agent(), rewardCap=world.genesis.rewards.budget_per_epoch_wei + 1)
    approved = approve(world, manifest)
    address = world.view(world.factory.functions.predictVault(manifest["vaultImplementation"], approved))
    with world.reverts("RewardPoolBudgetExceeded", caps=manifest["rewardCap"], budget=manifest["rewardCap"] - 1):
        world.as_timelock(deploy_vault(world, approved))
    assert world.w3.eth.get_code(address) == b""
    assert world.view(world.ledger.functions.headOf(address)) == bytes(32)
    assert world.view(world.pool.functions.vaultOf(manifest["agentId"])) == ZERO_ADDRESS
    world.as_timelock(world.pool.functions.setBudget(manifest["rewardCap"]))
    world.as_timelock(deploy_vault(world, approved))


# Success


def test_a_vault_is_where_it_was_predicted_to_be_and_nothing_but_a_clone(world: World) -> None:
    manifest = world.manifest(world.register_agent())
    strategy_id, implementation = approve(world, manifest), manifest["vaultImplementation"]
    expected = clone_address(world.d.factory, implementation, strategy_id)
    assert world.view(world.factory.functions.predictVault(implementation, strategy_id)) == expected
    events = world.as_timelock(deploy_vault(world, strategy_id))
    assert one(events, "VaultCreated") == {
        "strategyId": strategy_id, "vault": expected, "implementation": implementation,
    }  # fmt: skip
    assert world.w3.eth.get_code(expected) == clone_code(implementation)


def test_one_transaction_opens_vault_book_and_account(world: World) -> None:
    agent_id = world.register_agent()
    manifest = world.manifest(agent_id, assets=("ETH", "BTC"))
    strategy_id = approve(world, manifest)
    events = world.as_timelock(deploy_vault(world, strategy_id))
    vault = one(events, "VaultCreated")["vault"]
    assert one(events, "VaultInitialised") == {
        "strategyId": strategy_id, "agentId": agent_id, "artefactHash": bytes(manifest["artefactHash"]),
    }  # fmt: skip
    genesis = world.view(world.ledger.functions.genesisOf(vault))
    assert one(events, "BookOpened") == {"vault": vault, "genesis": genesis}
    assert one(events, "VaultRegistered") == {
        "vault": vault, "agentId": agent_id, "rate": REWARD_RATE, "cap": tokens(5000),
    }  # fmt: skip
    assert one(events, "StrategyDeployed") == {"strategyId": strategy_id, "vault": vault, "agentId": agent_id}

    deployed = world.vault_of(strategy_id).functions
    assert world.view(deployed.strategyId()) == strategy_id
    assert world.view(deployed.agentId()) == agent_id
    assert world.view(deployed.venue()) == world.d.venue
    assert world.view(deployed.artefactHash()) == bytes(manifest["artefactHash"])
    assert tuple(world.view(deployed.limits())) == LIMITS.as_tuple()
    assert [tuple(asset) for asset in world.view(deployed.assets())] == [
        (world.token_of("ETH"), 500, 18), (world.token_of("BTC"), 500, 8),
    ]  # fmt: skip
    assert world.view(deployed.isEmpty())
    assert world.view(world.ledger.functions.headOf(vault)) == genesis
    assert world.view(world.pool.functions.vaultOf(agent_id)) == vault


def test_equal_manifests_but_for_their_salt_get_different_vaults(world: World) -> None:
    first = world.deploy_strategy(world.register_agent())
    other_agent = world.register_agent(world.other_controller, world.other_signer)
    second = world.deploy_strategy(other_agent)
    assert first.vault.address != second.vault.address


# What was created stays as it was created


@pytest.mark.parametrize("who", ["stranger", "timelock", "strategies"])
def test_nobody_but_the_factory_initialises_a_vault(world: World, strategy: Strategy, who: str) -> None:
    caller = world.stranger.address if who == "stranger" else getattr(world.d, who)
    world.evm.impersonate(caller)
    init = (keccak(text="mine"), bytes(32), world.stranger.address, 1, LIMITS.as_tuple(), [])
    implementation = world.d.vault(world.evm, world.d.vault_implementation)
    for vault in (strategy.vault, implementation):
        with world.reverts("VaultUnauthorized", caller=caller):
            world.send(vault.functions.initialize(init), caller)


def test_a_vault_is_initialised_once(world: World, strategy: Strategy) -> None:
    world.evm.impersonate(world.d.factory)
    init = (keccak(text="mine"), bytes(32), world.d.venue, 1, LIMITS.as_tuple(), [])
    with world.reverts("VaultAlreadyInitialised"):
        world.send(strategy.vault.functions.initialize(init), world.d.factory)
    assert world.view(strategy.vault.functions.strategyId()) == strategy.id
