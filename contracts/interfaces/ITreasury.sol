// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

/// @title The DAO's money
/// @notice Everything that leaves, allocations included, counts against the token's cap over any window of `PERIOD_S`.
/// @custom:kill `setOutflowCap(token, 0)` works at once; raising a cap takes effect one period later.
interface ITreasury {
    error TreasuryUnauthorized(address caller);
    error TreasuryOutflowExceeded(address token, uint256 amount, uint256 available);
    error TreasuryUnknownStrategy(bytes32 strategyId);
    error TreasuryInvalidRecipient();

    event OutflowCapSet(address indexed token, uint256 cap, uint64 effectiveAt);
    event Paid(address indexed token, address indexed to, uint256 amount);
    event CapitalAllocated(bytes32 indexed strategyId, address indexed vault, uint256 amount);
    event CapitalRecalled(bytes32 indexed strategyId, address indexed token, uint256 amount);

    function allocate(bytes32 strategyId, uint256 amount) external;
    function recall(bytes32 strategyId, address token, uint256 amount, uint256 fallbackPriceWad) external;
    function pay(address token, address to, uint256 amount) external;
    function fundRewards(uint256 amount) external;
    function fundBounties(uint256 amount) external;
    function setOutflowCap(address token, uint208 cap) external;

    /// @notice The cap in force now, and what may still leave.
    function outflowOf(address token) external view returns (uint256 cap, uint256 available);
}
