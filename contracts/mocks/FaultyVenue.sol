// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IVenue} from "../interfaces/IVenue.sol";

/// @title A venue that fills as told, whatever was asked for
/// @notice Pays from its own stock, which tests give it. An honest fill can be told to the base unit; so can a lie.
contract FaultyVenue is IVenue {
    using SafeERC20 for IERC20;

    /// what the next swaps take of `tokenIn`, pay of `tokenOut`, and claim to have paid
    uint256 public takes;
    uint256 public pays;
    uint256 public claims;

    function fill(uint256 takes_, uint256 pays_, uint256 claims_) external {
        (takes, pays, claims) = (takes_, pays_, claims_);
    }

    function swap(address tokenIn, address tokenOut, uint64, uint256, uint256) external returns (uint256) {
        if (takes > 0) IERC20(tokenIn).safeTransferFrom(msg.sender, address(this), takes);
        if (pays > 0) IERC20(tokenOut).safeTransfer(msg.sender, pays);
        return claims;
    }

    function checkRoute(address, address, uint64) external view {}
}
