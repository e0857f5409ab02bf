// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {Create3} from "@openzeppelin/contracts/utils/Create3.sol";

/// @title Deployer: addresses that depend on who deploys and on a salt, and on nothing else
/// @notice The protocol's contracts hold each other's addresses immutably; this makes those known beforehand.
contract Deployer {
    /// @notice Addresses that were given code here. A salt serves once, even if its contract has destroyed itself since, so
    /// none of them can ever have other code.
    mapping(address at => bool) public isDeployed;

    event Deployed(address indexed deployer, bytes32 indexed salt, address at);

    function deploy(bytes32 salt, bytes calldata initCode) external returns (address at) {
        at = Create3.deploy(0, _own(msg.sender, salt), initCode);
        isDeployed[at] = true;
        emit Deployed(msg.sender, salt, at);
    }

    function addressOf(address deployer, bytes32 salt) external view returns (address) {
        return Create3.computeAddress(_own(deployer, salt));
    }

    /// @dev A salt of one deployer is out of reach for any other.
    function _own(address deployer, bytes32 salt) private pure returns (bytes32) {
        return keccak256(abi.encode(deployer, salt));
    }
}
