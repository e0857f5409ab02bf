// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title Timelock: OpenZeppelin's, with a delay that can't lock everything for ever
/// @notice Nobody administers it; the DAO is its only proposer, executor and canceller.
contract Timelock is TimelockController {
    uint256 public constant MAX_DELAY_S = 30 days;

    constructor(uint256 delayS, address[] memory proposers, address[] memory executors)
        TimelockController(delayS, proposers, executors, address(0))
    {}

    /// @notice The delay that was voted, but never more than `MAX_DELAY_S`.
    function getMinDelay() public view override returns (uint256) {
        return Math.min(super.getMinDelay(), MAX_DELAY_S);
    }
}
