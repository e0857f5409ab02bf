// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

/// @title The only door from a vault to a market
/// @notice A venue holds nothing between calls and can take only from its caller, up to what the caller has approved.
/// @custom:kill A venue has no switch; the constitution or a vote stops the vaults that use it.
interface IVenue {
    error VenueUnknownPool(address caller);
    error VenueNoPool(address tokenIn, address tokenOut, uint64 route);
    error VenueInsufficientOutput(uint256 amountOut, uint256 minAmountOut);

    /// @notice Sells exactly `amountIn`, or what the market takes of it, from the caller to the caller.
    /// @return amountOut what the market says it paid; the caller measures for itself
    function swap(address tokenIn, address tokenOut, uint64 route, uint256 amountIn, uint256 minAmountOut)
        external
        returns (uint256 amountOut);

    /// @notice Reverts unless the market exists.
    function checkRoute(address tokenA, address tokenB, uint64 route) external view;
}
