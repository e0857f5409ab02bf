// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {Test} from "forge-std/Test.sol";
import {MarketFlowToken} from "contracts/token/MarketFlowToken.sol";
import {TokenGrant} from "contracts/token/TokenGrant.sol";

/// @notice A fixed supply, votes by the clock, a sink that nobody leaves, and grants that do not vote.
contract MarketFlowTokenTest is Test {
    uint256 private constant SUPPLY = 1_000_000e18;
    bytes32 private constant PERMIT =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
    address private immutable holder = makeAddr("holder");
    address private immutable voter = makeAddr("voter");
    MarketFlowToken private token;

    function setUp() public {
        vm.warp(1_800_000_000);
        token = new MarketFlowToken("MarketFlow", "FLOW", holder, SUPPLY);
    }

    function test_the_whole_supply_is_the_first_holders() public view {
        assertEq(token.totalSupply(), SUPPLY);
        assertEq(token.balanceOf(holder), SUPPLY);
        assertEq(token.name(), "MarketFlow");
        assertEq(token.symbol(), "FLOW");
    }

    function test_votes_are_counted_by_timestamp() public {
        assertEq(token.clock(), block.timestamp);
        assertEq(token.CLOCK_MODE(), "mode=timestamp");
        vm.prank(holder);
        token.delegate(voter);
        uint256 before = block.timestamp;
        vm.warp(before + 10);
        vm.prank(holder);
        token.transfer(voter, 1e18);
        assertEq(token.getVotes(voter), SUPPLY - 1e18, "what moved to an undelegated account votes no more");
        assertEq(token.getPastVotes(voter, before), SUPPLY);
    }

    function test_who_delegates_to_the_token_does_so_for_good() public {
        vm.startPrank(holder);
        token.delegate(voter);
        token.delegate(address(token));
        assertEq(token.getVotes(voter), 0);
        assertEq(token.getVotes(address(token)), SUPPLY);
        vm.expectRevert(abi.encodeWithSelector(MarketFlowToken.MarketFlowTokenDelegatedForGood.selector, holder));
        token.delegate(voter);
    }

    function test_a_permit_uses_its_nonce() public {
        (address owner, uint256 key) = makeAddrAndKey("owner");
        uint256 deadline = block.timestamp;
        bytes32 hash = keccak256(abi.encode(PERMIT, owner, voter, 5e18, token.nonces(owner), deadline));
        bytes32 digest = keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), hash));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        token.permit(owner, voter, 5e18, deadline, v, r, s);
        assertEq(token.allowance(owner, voter), 5e18);
        assertEq(token.nonces(owner), 1);

        vm.expectPartialRevert(ERC20Permit.ERC2612InvalidSigner.selector);
        token.permit(owner, voter, 5e18, deadline, v, r, s);
        assertEq(token.nonces(owner), 1);
    }

    function test_a_grant_vests_by_the_second_and_never_votes_before() public {
        uint64 start = uint64(block.timestamp);
        TokenGrant grant = new TokenGrant(address(token), voter, start, 100 days);
        vm.prank(holder);
        token.transfer(address(grant), 100e18);
        assertEq(token.delegates(address(grant)), address(token));
        assertEq(token.getVotes(address(token)), 100e18, "in the sink");

        vm.warp(start + 25 days);
        assertEq(grant.releasable(address(token)), 25e18);
        grant.release(address(token));
        assertEq(token.balanceOf(voter), 25e18);
        assertEq(token.getVotes(address(token)), 75e18);
        assertEq(grant.owner(), voter);
        assertEq(grant.end(), start + 100 days);
    }
}
