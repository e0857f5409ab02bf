// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IAgentRegistry} from "contracts/interfaces/IAgentRegistry.sol";
import {Unit} from "./Unit.sol";

/// @notice One token for each agent; whoever owns it is the controller, and stake moves with it.
contract AgentRegistryTest is Unit {
    uint64 private agentId;

    function setUp() public override {
        super.setUp();
        agentId = registerAgent();
    }

    // Identity

    function test_registering_mints_the_next_agent_to_the_caller() public {
        vm.expectEmit(address(agents));
        emit IAgentRegistry.Registered(agentId + 1, "ipfs://another", otherController);
        vm.expectEmit(address(agents));
        emit IAgentRegistry.SigningKeySet(agentId + 1, otherSigner);
        vm.prank(otherController);
        uint64 other = agents.register("ipfs://another", otherSigner);
        assertEq(other, agentId + 1);
        assertEq(agents.agentCount(), other);
        assertEq(agents.ownerOf(other), otherController);
        assertEq(agents.controllerOf(other), otherController);
        assertEq(agents.tokenURI(other), "ipfs://another");
        assertEq(
            abi.encode(agents.agentOf(other)),
            abi.encode(IAgentRegistry.Agent(otherSigner, uint64(block.timestamp), 0, 0))
        );
    }

    function test_no_agent_is_without_a_signing_key() public {
        vm.expectRevert(fails(IAgentRegistry.AgentRegistryInvalidKey.selector));
        agents.register("ipfs://agent", address(0));
        vm.prank(controller);
        vm.expectRevert(fails(IAgentRegistry.AgentRegistryInvalidKey.selector));
        agents.setSigningKey(agentId, address(0));
    }

    function test_only_the_controller_changes_an_agent() public {
        vm.startPrank(stranger);
        bytes memory unauthorized = fails(IAgentRegistry.AgentRegistryUnauthorized.selector, stranger);
        vm.expectRevert(unauthorized);
        agents.setSigningKey(agentId, stranger);
        vm.expectRevert(unauthorized);
        agents.setAgentURI(agentId, "ipfs://stolen");
        vm.expectRevert(unauthorized);
        agents.setMetadata(agentId, "key", "value");
        vm.expectRevert(unauthorized);
        agents.withdrawBond(agentId, 1);
        vm.expectRevert(unauthorized);
        agents.withdrawDeposit(agentId, 1);
    }

    function test_the_controller_changes_key_uri_and_metadata() public {
        vm.startPrank(controller);
        vm.expectEmit(address(agents));
        emit IAgentRegistry.SigningKeySet(agentId, otherSigner);
        agents.setSigningKey(agentId, otherSigner);
        agents.setAgentURI(agentId, "ipfs://new");
        vm.expectEmit(address(agents));
        emit IAgentRegistry.MetadataSet(agentId, "wallet", "wallet", hex"0102");
        agents.setMetadata(agentId, "wallet", hex"0102");
        assertEq(agents.agentOf(agentId).signingKey, otherSigner);
        assertEq(agents.tokenURI(agentId), "ipfs://new");
        assertEq(agents.getMetadata(agentId, "wallet"), hex"0102");
        assertEq(agents.getMetadata(agentId, "another"), "");
    }

    function test_an_agent_that_was_never_registered_has_no_controller_and_takes_no_stake() public {
        bytes memory unknown = fails(IAgentRegistry.AgentRegistryUnknownAgent.selector, uint256(99));
        vm.expectRevert(unknown);
        agents.controllerOf(99);
        vm.expectRevert(unknown);
        agents.postBond(99, 1);
        vm.expectRevert(unknown);
        agents.postDeposit(99, 1);
    }

    function test_an_agent_with_an_open_window_can_not_be_sold() public {
        deployStrategy(manifest(agentId));
        toNextWindow();
        toWindowEnd();
        vm.startPrank(controller);
        vm.expectRevert(fails(IAgentRegistry.AgentRegistryUnsettled.selector, agentId));
        agents.transferFrom(controller, otherController, agentId);
    }

    function test_stake_and_authority_move_with_the_token() public {
        vm.prank(controller);
        agents.transferFrom(controller, otherController, agentId);
        assertEq(agents.controllerOf(agentId), otherController);
        assertEq(agents.agentOf(agentId).signingKey, signer, "the buyer rotates it");
        vm.prank(otherController);
        agents.withdrawBond(agentId, 50_000 ether);
        assertEq(token.balanceOf(otherController), 550_000 ether);
    }

    // Bond

    function test_anybody_may_add_to_a_bond_but_nothing_is_not_an_amount() public {
        vm.startPrank(proposer);
        token.approve(address(agents), 5 ether);
        vm.expectRevert(fails(IAgentRegistry.AgentRegistryZeroAmount.selector));
        agents.postBond(agentId, 0);
        vm.expectEmit(address(agents));
        emit IAgentRegistry.BondPosted(agentId, proposer, 5 ether);
        agents.postBond(agentId, 5 ether);
        assertEq(agents.agentOf(agentId).bond, 50_005 ether);
        assertEq(token.balanceOf(address(agents)), 50_005 ether);
    }

    function test_bonds_never_vote() public view {
        assertEq(token.delegates(address(agents)), address(token));
    }

    function test_a_bond_leaves_beyond_the_collateral_only() public {
        deployStrategy(manifest(agentId));
        uint256 releasable = pool.releasableBond(agentId);
        assertGt(releasable, 0);
        assertLt(releasable, 50_000 ether);
        vm.startPrank(controller);
        vm.expectRevert(
            fails(IAgentRegistry.AgentRegistryNotReleasable.selector, agentId, releasable + 1, releasable)
        );
        agents.withdrawBond(agentId, releasable + 1);
        vm.expectEmit(address(agents));
        emit IAgentRegistry.BondWithdrawn(agentId, controller, releasable);
        agents.withdrawBond(agentId, releasable);
        assertEq(agents.agentOf(agentId).bond, 50_000 ether - releasable);
        assertEq(pool.releasableBond(agentId), 0);
    }

    function test_while_a_window_is_open_no_stake_leaves() public {
        deployStrategy(manifest(agentId));
        toNextWindow();
        toWindowEnd();
        vm.startPrank(controller);
        vm.expectRevert(fails(IAgentRegistry.AgentRegistryUnsettled.selector, agentId));
        agents.withdrawBond(agentId, 1);
        vm.expectRevert(fails(IAgentRegistry.AgentRegistryUnsettled.selector, agentId));
        agents.withdrawDeposit(agentId, 1);
    }

    function test_only_the_pool_seizes_and_only_the_timelock_slashes() public {
        bytes memory unauthorized = fails(IAgentRegistry.AgentRegistryUnauthorized.selector, address(this));
        vm.expectRevert(unauthorized);
        agents.seizeBond(agentId, 1);
        vm.expectRevert(unauthorized);
        agents.slashBond(agentId, 1);
        vm.expectRevert(unauthorized);
        agents.awardDeposit(agentId, 1);

        uint256 before = token.balanceOf(address(pool));
        vm.expectEmit(address(agents));
        emit IAgentRegistry.BondSeized(agentId, address(pool), 3 ether);
        vm.prank(address(pool));
        agents.seizeBond(agentId, 3 ether);
        assertEq(token.balanceOf(address(pool)), before + 3 ether);

        before = token.balanceOf(address(treasury));
        vm.expectEmit(address(agents));
        emit IAgentRegistry.BondSeized(agentId, address(treasury), 7 ether);
        vm.prank(address(timelock));
        agents.slashBond(agentId, 7 ether);
        assertEq(token.balanceOf(address(treasury)), before + 7 ether);
        assertEq(agents.agentOf(agentId).bond, 49_990 ether);
    }

    function test_the_pool_seizes_no_more_than_there_is() public {
        vm.prank(address(pool));
        vm.expectRevert(
            fails(IAgentRegistry.AgentRegistryNotReleasable.selector, agentId, 50_001 ether, 50_000 ether)
        );
        agents.seizeBond(agentId, 50_001 ether);
    }

    function test_a_vote_on_more_stake_than_is_left_takes_what_is_left() public {
        uint256 before = token.balanceOf(address(treasury));
        vm.startPrank(address(timelock));
        vm.expectEmit(address(agents));
        emit IAgentRegistry.BondSeized(agentId, address(treasury), 50_000 ether);
        agents.slashBond(agentId, 50_001 ether);
        assertEq(token.balanceOf(address(treasury)), before + 50_000 ether);
        assertEq(agents.agentOf(agentId).bond, 0);

        before = quote.balanceOf(address(treasury));
        vm.expectEmit(address(agents));
        emit IAgentRegistry.DepositAwarded(agentId, address(treasury), 60_000e6);
        agents.awardDeposit(agentId, 60_000e6 + 1);
        assertEq(quote.balanceOf(address(treasury)), before + 60_000e6);
        assertEq(agents.agentOf(agentId).deposit, 0);
    }

    // Deposit

    function test_without_a_vault_the_whole_deposit_is_the_controllers() public {
        vm.startPrank(controller);
        vm.expectRevert(fails(IAgentRegistry.AgentRegistryNotReleasable.selector, agentId, 60_000e6 + 1, 60_000e6));
        agents.withdrawDeposit(agentId, 60_000e6 + 1);
        vm.expectEmit(address(agents));
        emit IAgentRegistry.DepositWithdrawn(agentId, controller, 60_000e6);
        agents.withdrawDeposit(agentId, 60_000e6);
        assertEq(quote.balanceOf(controller), 60_000e6);
        assertEq(agents.agentOf(agentId).deposit, 0);
    }

    function test_with_a_live_vault_the_deposit_leaves_beyond_what_is_required() public {
        Strategy memory s = deployStrategy(manifest(agentId));
        assertEq(s.vault.status().requiredDeposit, 40_000e6, "4 % of a million: both slippage sums");
        vm.startPrank(controller);
        vm.expectRevert(fails(IAgentRegistry.AgentRegistryNotReleasable.selector, agentId, 20_000e6 + 1, 20_000e6));
        agents.withdrawDeposit(agentId, 20_000e6 + 1);
        agents.withdrawDeposit(agentId, 20_000e6);
        assertEq(agents.agentOf(agentId).deposit, 40_000e6);
    }

    function test_without_a_full_price_all_of_the_deposit_stays() public {
        Strategy memory s = deployStrategy(manifest(agentId));
        buy(s, 100_000e6);
        letAssetFeedsGoStale();
        vm.prank(controller);
        vm.expectRevert(fails(IAgentRegistry.AgentRegistryNotReleasable.selector, agentId, 1, 0));
        agents.withdrawDeposit(agentId, 1);
    }

    function test_an_award_goes_into_the_live_vault_as_capital() public {
        Strategy memory s = deployStrategy(manifest(agentId));
        vm.expectEmit(address(agents));
        emit IAgentRegistry.DepositAwarded(agentId, address(s.vault), 10_000e6);
        vm.prank(address(timelock));
        agents.awardDeposit(agentId, 10_000e6);
        assertEq(s.vault.book().quoteHeld, CAPITAL + 10_000e6);
        assertEq(s.vault.book().netFlow, -int256(CAPITAL + 10_000e6), "no profit of the agent's");
        assertEq(agents.agentOf(agentId).deposit, 50_000e6);
    }

    function test_an_award_goes_to_the_treasury_when_no_vault_takes_capital() public {
        _awardToTreasury(); // no vault yet

        Strategy memory s = deployStrategy(manifest(agentId));
        buy(s, 100_000e6);
        letAssetFeedsGoStale();
        _awardToTreasury(); // no full price
        refresh();

        halt(s);
        _awardToTreasury(); // halted
        recallAll(s);
        _finish(s);
        _awardToTreasury(); // retired
    }

    function _awardToTreasury() private {
        uint256 before = quote.balanceOf(address(treasury));
        uint256 deposit = agents.agentOf(agentId).deposit;
        address vault = pool.vaultOf(agentId);
        uint256 inVault = quote.balanceOf(vault);
        vm.expectEmit(address(agents));
        emit IAgentRegistry.DepositAwarded(agentId, address(treasury), 1_000e6);
        vm.prank(address(timelock));
        agents.awardDeposit(agentId, 1_000e6);
        assertEq(quote.balanceOf(address(treasury)), before + 1_000e6);
        assertEq(agents.agentOf(agentId).deposit, deposit - 1_000e6);
        assertEq(quote.balanceOf(vault), inVault);
    }

    function _finish(Strategy memory s) private {
        retire(s);
        settle(s);
        strategies.finishRetirement(s.id);
        assertFalse(account(s).live);
    }
}
