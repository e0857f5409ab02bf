// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IRewardPool} from "contracts/interfaces/IRewardPool.sol";
import {ITreasury} from "contracts/interfaces/ITreasury.sol";
import {Unit} from "./Unit.sol";

/// @notice The DAO's money leaves by vote, and no faster than its cap.
contract TreasuryTest is Unit {
    uint256 private constant QUOTE_CAP = 10_000_000e6;

    function test_only_the_timelock_moves_money() public {
        bytes memory unauthorized = fails(ITreasury.TreasuryUnauthorized.selector, address(this));
        vm.expectRevert(unauthorized);
        treasury.allocate(0, 1);
        vm.expectRevert(unauthorized);
        treasury.recall(0, eth.token, 1, 0);
        vm.expectRevert(unauthorized);
        treasury.pay(address(quote), stranger, 1);
        vm.expectRevert(unauthorized);
        treasury.fundRewards(1);
        vm.expectRevert(unauthorized);
        treasury.fundBounties(1);
        vm.expectRevert(unauthorized);
        treasury.setOutflowCap(address(quote), 1);
    }

    function test_the_treasury_never_votes() public view {
        assertEq(token.delegates(address(treasury)), address(token));
    }

    function test_capital_goes_to_and_comes_from_known_strategies_only() public asTimelock {
        bytes memory unknown = fails(ITreasury.TreasuryUnknownStrategy.selector, uint256(bytes32("unknown")));
        vm.expectRevert(unknown);
        treasury.allocate("unknown", 1);
        vm.expectRevert(unknown);
        treasury.recall("unknown", eth.token, 1, 0);
    }

    function test_capital_that_was_allocated_comes_back() public {
        Strategy memory s = deployStrategy();
        assertEq(quote.balanceOf(address(treasury)), TREASURY_QUOTE - CAPITAL);
        vm.expectEmit(address(treasury));
        emit ITreasury.CapitalAllocated(s.id, address(s.vault), 5e6);
        allocate(s, 5e6);
        assertEq(quote.balanceOf(address(s.vault)), CAPITAL + 5e6);
        assertEq(quote.allowance(address(treasury), address(s.vault)), 0);

        vm.expectEmit(address(treasury));
        emit ITreasury.CapitalRecalled(s.id, address(quote), CAPITAL + 5e6);
        recall(s, address(quote), type(uint128).max);
        assertEq(quote.balanceOf(address(treasury)), TREASURY_QUOTE);
    }

    function test_a_payment_goes_to_somebody_else() public asTimelock {
        vm.expectRevert(fails(ITreasury.TreasuryInvalidRecipient.selector));
        treasury.pay(address(quote), address(0), 1);
        vm.expectRevert(fails(ITreasury.TreasuryInvalidRecipient.selector));
        treasury.pay(address(quote), address(treasury), 1);
        vm.expectEmit(address(treasury));
        emit ITreasury.Paid(address(quote), stranger, 7e6);
        treasury.pay(address(quote), stranger, 7e6);
        assertEq(quote.balanceOf(stranger), 7e6);
    }

    function test_no_more_leaves_in_thirty_days_than_the_cap() public {
        vm.startPrank(address(timelock));
        treasury.pay(address(quote), stranger, QUOTE_CAP);
        _expectOutflow(QUOTE_CAP, 0);
        vm.expectRevert(fails(ITreasury.TreasuryOutflowExceeded.selector, address(quote), 1, 0));
        treasury.pay(address(quote), stranger, 1);
        vm.stopPrank();
        travel(30 days);
        _expectOutflow(QUOTE_CAP, QUOTE_CAP);
        vm.prank(address(timelock));
        treasury.pay(address(quote), stranger, QUOTE_CAP);
        assertEq(quote.balanceOf(stranger), 2 * QUOTE_CAP);
    }

    function test_a_token_without_a_cap_does_not_leave() public asTimelock {
        vm.expectRevert(fails(ITreasury.TreasuryOutflowExceeded.selector, eth.token, 1, 0));
        treasury.pay(eth.token, stranger, 1);
    }

    function test_a_lower_cap_binds_at_once() public asTimelock {
        treasury.pay(address(quote), stranger, 100e6);
        vm.expectEmit(address(treasury));
        emit ITreasury.OutflowCapSet(address(quote), 40e6, uint64(block.timestamp));
        treasury.setOutflowCap(address(quote), 40e6);
        _expectOutflow(40e6, 0);
        vm.expectRevert(fails(ITreasury.TreasuryOutflowExceeded.selector, address(quote), 1, 0));
        treasury.pay(address(quote), stranger, 1);
    }

    function test_a_higher_cap_waits_for_one_period() public {
        uint256 effectiveAt = block.timestamp + 30 days;
        vm.expectEmit(address(treasury));
        emit ITreasury.OutflowCapSet(address(quote), 2 * QUOTE_CAP, uint64(effectiveAt));
        vm.startPrank(address(timelock));
        treasury.setOutflowCap(address(quote), uint208(2 * QUOTE_CAP));
        vm.warp(effectiveAt - 1);
        _expectOutflow(QUOTE_CAP, QUOTE_CAP);
        vm.expectRevert(
            fails(ITreasury.TreasuryOutflowExceeded.selector, address(quote), QUOTE_CAP + 1, QUOTE_CAP)
        );
        treasury.pay(address(quote), stranger, QUOTE_CAP + 1);
        vm.warp(effectiveAt);
        _expectOutflow(2 * QUOTE_CAP, 2 * QUOTE_CAP);
        treasury.pay(address(quote), stranger, QUOTE_CAP + 1);
        _expectOutflow(2 * QUOTE_CAP, QUOTE_CAP - 1);
    }

    function test_a_lower_cap_ends_a_higher_one_that_waits() public {
        vm.startPrank(address(timelock));
        treasury.setOutflowCap(address(quote), uint208(2 * QUOTE_CAP));
        treasury.setOutflowCap(address(quote), 40e6);
        vm.warp(block.timestamp + 31 days);
        _expectOutflow(40e6, 40e6);
    }

    function test_rewards_and_bounties_are_funded_within_the_tokens_cap() public asTimelock {
        (uint256 free, uint256 bounties) = (pool.free(), pool.bountyFund());
        vm.expectEmit(address(treasury));
        emit ITreasury.Paid(address(token), address(pool), 5 ether);
        vm.expectEmit(address(pool));
        emit IRewardPool.Funded(address(treasury), 5 ether);
        treasury.fundRewards(5 ether);
        vm.expectEmit(address(pool));
        emit IRewardPool.BountyFunded(address(treasury), 3 ether);
        treasury.fundBounties(3 ether);
        assertEq(pool.free(), free + 5 ether);
        assertEq(pool.bountyFund(), bounties + 3 ether);
        (uint256 cap, uint256 available) = treasury.outflowOf(address(token));
        assertEq(available, cap - 8 ether);

        vm.expectRevert(fails(ITreasury.TreasuryOutflowExceeded.selector, address(token), cap, cap - 8 ether));
        treasury.fundRewards(cap);
        vm.expectRevert(fails(ITreasury.TreasuryOutflowExceeded.selector, address(token), cap, cap - 8 ether));
        treasury.fundBounties(cap);
    }

    function _expectOutflow(uint256 cap, uint256 available) private view {
        (uint256 capNow, uint256 availableNow) = treasury.outflowOf(address(quote));
        assertEq(capNow, cap);
        assertEq(availableNow, available);
    }
}
