// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {StrategyManifest} from "contracts/libraries/Types.sol";
import {World} from "../World.sol";

/// @title What the unit tests share beyond the world itself: what a vote could do, done at once
abstract contract Unit is World {
    /// @dev Bits of `Reasons`, as numbers that a reader of events sees.
    uint16 internal constant DAY_LOSS = 1;
    uint16 internal constant DRAWDOWN = 2;
    uint16 internal constant COLLATERAL = 4;
    uint16 internal constant DEPOSIT = 8;
    uint16 internal constant PRICE_MISSING = 16;
    uint16 internal constant UNSETTLED = 32;
    uint16 internal constant GUARDIAN = 64;
    uint16 internal constant HALTED = 128;
    uint16 internal constant QUOTE_UNHEALTHY = 256;

    function setUp() public virtual {
        deployWorld();
    }

    modifier asTimelock() {
        vm.startPrank(address(timelock));
        _;
        vm.stopPrank();
    }

    function halt(Strategy memory s) internal asTimelock {
        strategies.halt(s.id);
    }

    function resume(Strategy memory s) internal asTimelock {
        strategies.resume(s.id);
    }

    function retire(Strategy memory s) internal asTimelock {
        strategies.retire(s.id);
    }

    function recall(Strategy memory s, address asset, uint256 amount) internal asTimelock {
        treasury.recall(s.id, asset, amount, 0);
    }

    /// @dev Everything that a strategy of ETH holds, at fresh prices.
    function recallAll(Strategy memory s) internal {
        recall(s, eth.token, type(uint128).max);
        recall(s, address(quote), type(uint128).max);
    }

    function allocate(Strategy memory s, uint256 amount) internal asTimelock {
        treasury.allocate(s.id, amount);
    }

    function approve(StrategyManifest memory m) internal returns (bytes32 id) {
        id = submit(m);
        vm.prank(address(timelock));
        strategies.approve(id);
    }

    function update(StrategyManifest memory m) internal returns (bytes32 version) {
        version = approve(m);
        vm.prank(address(timelock));
        strategies.applyUpdate(version);
    }

    /// @dev Another agent with stake enough, of another controller.
    function registerOther() internal returns (uint64) {
        return registerAgent(otherController, otherSigner, 50_000 ether, 60_000e6);
    }

    /// @dev A contract of ours at an address that can never have other code: what vaults and venues must be.
    function deployByDeployer(string memory name, bytes memory arguments) internal returns (address) {
        bytes memory code = vm.getCode(string.concat(name, ".sol:", name));
        return deployerContract.deploy(keccak256(bytes(name)), bytes.concat(code, arguments));
    }

    /// @dev `new`, without another copy of the code in the test.
    function create(string memory name, bytes memory arguments) internal returns (address at) {
        bytes memory initCode = bytes.concat(vm.getCode(string.concat(name, ".sol:", name)), arguments);
        assembly ("memory-safe") {
            at := create(0, add(initCode, 32), mload(initCode))
        }
    }

    /// @dev Every listed asset's feed is older than it may be; the quote token's is not.
    function letAssetFeedsGoStale() internal {
        vm.warp(block.timestamp + 2 hours + 1);
    }

    function reasonsOf(Strategy memory s) internal view returns (uint16) {
        return s.vault.status().reasons;
    }

    function fails(bytes4 selector) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector);
    }

    function fails(bytes4 selector, address a) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, a);
    }

    function fails(bytes4 selector, uint256 a) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, a);
    }

    function fails(bytes4 selector, uint256 a, uint256 b) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, a, b);
    }

    function fails(bytes4 selector, uint256 a, uint256 b, uint256 c) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, a, b, c);
    }

    function fails(bytes4 selector, address a, uint256 b) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, a, b);
    }

    function fails(bytes4 selector, address a, uint256 b, uint256 c) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, a, b, c);
    }

    function fails(bytes4 selector, string memory a) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, a);
    }
}
