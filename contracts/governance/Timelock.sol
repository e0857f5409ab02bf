// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title Timelock: OpenZeppelin's, which no vote can lock for ever
/// @notice Nobody administers it; the DAO is its only proposer, executor and canceller, and stays it.
contract Timelock is TimelockController {
    uint256 public constant MAX_DELAY_S = 30 days;

    address public immutable governor;

    error TimelockRoleFixed(bytes32 role);

    constructor(uint256 delayS, address governor_)
        TimelockController(delayS, _only(governor_), _only(governor_), address(0))
    {
        // slither-disable-next-line missing-zero-check -- computed by the deployment, not typed: test_deployment
        governor = governor_;
    }

    /// @notice The delay that was voted, but never more than `MAX_DELAY_S`.
    function getMinDelay() public view override returns (uint256) {
        return Math.min(super.getMinDelay(), MAX_DELAY_S);
    }

    /// @dev Without its roles the DAO could carry out nothing any more, not even giving them back.
    function _revokeRole(bytes32 role, address account) internal override returns (bool) {
        if (account == governor) revert TimelockRoleFixed(role);
        return super._revokeRole(role, account);
    }

    function _only(address account) private pure returns (address[] memory list) {
        list = new address[](1);
        list[0] = account;
    }
}
