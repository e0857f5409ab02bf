// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {GuardMath} from "../libraries/GuardMath.sol";

/// @title The guard's arithmetic, to be called from outside
contract GuardMathHarness {
    function valueDown(uint256 amount, uint256 price, uint8 decimals) external pure returns (uint256) {
        return GuardMath.valueDown(amount, price, decimals);
    }

    function valueUp(uint256 amount, uint256 price, uint8 decimals) external pure returns (uint256) {
        return GuardMath.valueUp(amount, price, decimals);
    }

    function unitPriceDown(uint256 value, uint256 units) external pure returns (uint256) {
        return GuardMath.unitPriceDown(value, units);
    }

    function unitsDown(uint256 value, uint256 unitPriceWad) external pure returns (uint256) {
        return GuardMath.unitsDown(value, unitPriceWad);
    }

    function unitsValueDown(uint256 units, uint256 unitPriceWad) external pure returns (uint256) {
        return GuardMath.unitsValueDown(units, unitPriceWad);
    }

    function shareDown(uint256 value, uint256 bps) external pure returns (uint256) {
        return GuardMath.shareDown(value, bps);
    }

    function shareUp(uint256 value, uint256 bps) external pure returns (uint256) {
        return GuardMath.shareUp(value, bps);
    }

    function isBelowBy(uint256 current, uint256 base, uint256 bps) external pure returns (bool) {
        return GuardMath.isBelowBy(current, base, bps);
    }

    function decayed(uint256 level, uint256 cap, uint256 elapsedS, uint256 durationS) external pure returns (uint256) {
        return GuardMath.decayed(level, cap, elapsedS, durationS);
    }

    function worstValueDown(uint256 value, uint256 hardDrawdownBps, uint256 discountBps, uint256 gapBps)
        external
        pure
        returns (uint256)
    {
        return GuardMath.worstValueDown(value, hardDrawdownBps, discountBps, gapBps);
    }
}
