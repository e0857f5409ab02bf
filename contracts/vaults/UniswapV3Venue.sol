// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Create2} from "@openzeppelin/contracts/utils/Create2.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IUniswapV3Pool} from "@uniswap/v3-core/contracts/interfaces/IUniswapV3Pool.sol";
import {IUniswapV3SwapCallback} from "@uniswap/v3-core/contracts/interfaces/callback/IUniswapV3SwapCallback.sol";
import {IVenue} from "../interfaces/IVenue.sol";

/// @title UniswapV3Venue: swaps in one pool of a genuine Uniswap v3 factory
/// @notice `route` is the pool's fee tier in hundredths of a basis point.
contract UniswapV3Venue is IVenue, IUniswapV3SwapCallback {
    using SafeERC20 for IERC20;

    /// @dev The ends of Uniswap's price range, exclusive: the oracle bounds the price, not this contract.
    uint160 private constant MIN_SQRT_RATIO = 4_295_128_739;
    uint160 private constant MAX_SQRT_RATIO = 1_461_446_703_485_210_103_287_273_052_203_988_822_378_723_970_342;

    address public immutable uniswapFactory;
    bytes32 public immutable poolInitCodeHash;

    constructor(address uniswapFactory_, bytes32 poolInitCodeHash_) {
        // slither-disable-next-line missing-zero-check -- with a wrong factory no route passes `checkRoute`
        uniswapFactory = uniswapFactory_;
        poolInitCodeHash = poolInitCodeHash_;
    }

    /// @inheritdoc IVenue
    function swap(address tokenIn, address tokenOut, uint64 route, uint256 amountIn, uint256 minAmountOut)
        external
        returns (uint256 amountOut)
    {
        bool zeroForOne = tokenIn < tokenOut;
        (int256 amount0, int256 amount1) = IUniswapV3Pool(poolOf(tokenIn, tokenOut, route)).swap(
            msg.sender,
            zeroForOne,
            SafeCast.toInt256(amountIn),
            zeroForOne ? MIN_SQRT_RATIO + 1 : MAX_SQRT_RATIO - 1,
            abi.encode(msg.sender, tokenIn, tokenOut, route)
        );
        amountOut = uint256(-(zeroForOne ? amount1 : amount0));
        if (amountOut < minAmountOut) revert VenueInsufficientOutput(amountOut, minAmountOut);
    }

    /// @inheritdoc IUniswapV3SwapCallback
    /// @dev A genuine pool calls back only the one who called it, with the data that one passed: `swap` above.
    function uniswapV3SwapCallback(int256 amount0Delta, int256 amount1Delta, bytes calldata data) external {
        (address payer, address tokenIn, address tokenOut, uint64 route) =
            abi.decode(data, (address, address, address, uint64));
        if (msg.sender != poolOf(tokenIn, tokenOut, route)) revert VenueUnknownPool(msg.sender);
        // slither-disable-next-line arbitrary-send-erc20 -- the pool is genuine, so the payer is who called `swap`
        IERC20(tokenIn).safeTransferFrom(
            payer, msg.sender, uint256(amount0Delta > 0 ? amount0Delta : amount1Delta)
        );
    }

    /// @inheritdoc IVenue
    function checkRoute(address tokenA, address tokenB, uint64 route) external view {
        bool isFee = route <= type(uint24).max; // Uniswap's own type: a longer one would be cut to another pool's
        if (!isFee || poolOf(tokenA, tokenB, route).code.length == 0) revert VenueNoPool(tokenA, tokenB, route);
    }

    /// @notice The pool's address, whether or not it exists: Uniswap's own CREATE2 rule.
    function poolOf(address tokenA, address tokenB, uint64 route) public view returns (address) {
        (address token0, address token1) = tokenA < tokenB ? (tokenA, tokenB) : (tokenB, tokenA);
        return Create2.computeAddress(
            keccak256(abi.encode(token0, token1, uint24(route))), poolInitCodeHash, uniswapFactory
        );
    }
}
