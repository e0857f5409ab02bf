// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {IUniswapV3Pool} from "@uniswap/v3-core/contracts/interfaces/IUniswapV3Pool.sol";
import {IUniswapV3FlashCallback} from "@uniswap/v3-core/contracts/interfaces/callback/IUniswapV3FlashCallback.sol";

/// @title Borrows a token from a Uniswap v3 pool, does what it is told while it has it, and repays, in one transaction
contract AttackFlashLoan is IUniswapV3FlashCallback {
    using SafeERC20 for IERC20;

    struct Step {
        address target;
        bytes data;
    }

    /// @notice The steps without a loan.
    function run(Step[] memory steps) public {
        for (uint256 i; i < steps.length; ++i) {
            Address.functionCall(steps[i].target, steps[i].data);
        }
    }

    function borrow(IUniswapV3Pool pool, address token, uint256 amount, Step[] calldata steps) external {
        bool first = pool.token0() == token;
        bytes memory data = abi.encode(token, amount, steps);
        pool.flash(address(this), first ? amount : 0, first ? 0 : amount, data);
    }

    function uniswapV3FlashCallback(uint256 fee0, uint256 fee1, bytes calldata data) external {
        (address token, uint256 amount, Step[] memory steps) = abi.decode(data, (address, uint256, Step[]));
        run(steps);
        IERC20(token).safeTransfer(msg.sender, amount + fee0 + fee1);
    }
}
