// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IRewardPool} from "contracts/interfaces/IRewardPool.sol";
import {IStrategyVault} from "contracts/interfaces/IStrategyVault.sol";
import {IVaultFactory} from "contracts/interfaces/IVaultFactory.sol";
import {StrategyManifest} from "contracts/libraries/Types.sol";
import {StrategyVault} from "contracts/vaults/StrategyVault.sol";
import {Unit} from "./Unit.sol";

/// @notice Only what was approved is deployed, by the timelock, where it was foretold.
contract VaultFactoryTest is Unit {
    function test_only_the_timelock_deploys() public {
        vm.expectRevert(fails(IVaultFactory.VaultFactoryUnauthorized.selector, address(this)));
        factory.deployVault(0);
    }

    function test_neither_a_mere_submission_nor_an_update_is_deployed() public {
        uint64 agentId = registerAgent();
        bytes32 submitted = submit(manifest(agentId));
        vm.prank(address(timelock));
        vm.expectRevert(fails(IVaultFactory.VaultFactoryNotApproved.selector, uint256(submitted)));
        factory.deployVault(submitted);

        Strategy memory s = deployStrategy(manifest(registerOther()));
        StrategyManifest memory m = manifest(s.agentId);
        (m.updates, m.capital) = (s.id, 0);
        bytes32 approved = approve(m);
        vm.prank(address(timelock));
        vm.expectRevert(fails(IVaultFactory.VaultFactoryNotApproved.selector, uint256(approved)));
        factory.deployVault(approved);
    }

    function test_a_vault_is_where_it_was_foretold_with_book_and_account_open() public {
        StrategyManifest memory m = manifest(registerAgent());
        bytes32 id = approve(m);
        address foretold = factory.predictVault(address(vaultImplementation), id);
        vm.expectEmit(address(factory));
        emit IVaultFactory.VaultCreated(id, foretold, address(vaultImplementation));
        vm.expectEmit(foretold);
        emit IStrategyVault.VaultInitialised(id, uint64(m.agentId), m.artefactHash);
        vm.expectEmit(address(pool));
        emit IRewardPool.VaultRegistered(foretold, uint64(m.agentId), RATE, CAP);
        vm.prank(address(timelock));
        assertEq(factory.deployVault(id), foretold);

        StrategyVault vault = StrategyVault(foretold);
        assertEq(vault.strategyId(), id);
        assertEq(vault.artefactHash(), m.artefactHash);
        assertEq(vault.agentId(), m.agentId);
        assertEq(vault.venue(), address(venue));
        assertEq(abi.encode(vault.limits()), abi.encode(m.limits));
        assertEq(vault.assets()[0].token, eth.token);
        assertEq(ledger.headOf(foretold), ledger.genesisOf(foretold));
        assertEq(pool.vaultOf(uint64(m.agentId)), foretold);
        assertTrue(pool.accountOf(foretold).live);
        assertEq(pool.accountOf(foretold).earmark, CAP);
    }

    function test_a_vault_is_initialised_once_and_by_the_factory_only() public {
        Strategy memory s = deployStrategy();
        IStrategyVault.Init memory init;
        vm.expectRevert(fails(IStrategyVault.VaultUnauthorized.selector, address(this)));
        s.vault.initialize(init);
        vm.prank(address(factory));
        vm.expectRevert(fails(IStrategyVault.VaultAlreadyInitialised.selector));
        s.vault.initialize(init);
    }
}
