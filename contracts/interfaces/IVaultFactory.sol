// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

/// @title Creates vaults for approved strategies
interface IVaultFactory {
    error VaultFactoryUnauthorized(address caller);
    error VaultFactoryNotApproved(bytes32 manifestHash);

    event VaultCreated(bytes32 indexed strategyId, address indexed vault, address indexed implementation);

    /// @notice Clones, initialises, opens the ledger's book and the reward account. Timelock only. Every check of the
    /// manifest is made again, code hashes included.
    function deployVault(bytes32 strategyId) external returns (address vault);

    /// @notice Where a strategy's vault is or will be.
    function predictVault(address implementation, bytes32 strategyId) external view returns (address);
}
