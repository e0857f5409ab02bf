// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

/// @title What OpenZeppelin's Math computes, written the short way
/// @dev The symbolic runs of the pool, the ledger and the oracle are built with this in the place of OpenZeppelin's
/// library, whose 512-bit and branchless code no solver takes apart again in every path. That both give the same results
/// is proved by itself: `mulDiv` and `ceilDiv` in arithmetic.py, the others in Lemmas.sol. A product that does not fit 256
/// bits reverts here; arithmetic.py shows that in the contracts proved with this no product gets there.
library Math {
    enum Rounding {
        Floor,
        Ceil,
        Trunc,
        Expand
    }

    function mulDiv(uint256 x, uint256 y, uint256 denominator) internal pure returns (uint256) {
        return x * y / denominator;
    }

    function ceilDiv(uint256 a, uint256 b) internal pure returns (uint256) {
        return a == 0 ? 0 : (a - 1) / b + 1;
    }

    function min(uint256 a, uint256 b) internal pure returns (uint256) {
        return a < b ? a : b;
    }

    function max(uint256 a, uint256 b) internal pure returns (uint256) {
        return a > b ? a : b;
    }

    function saturatingSub(uint256 a, uint256 b) internal pure returns (uint256) {
        return a > b ? a - b : 0;
    }
}
