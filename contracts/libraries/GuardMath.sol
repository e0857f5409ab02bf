// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title The guard's arithmetic: pure, and named by rounding
/// @dev Amounts are below 2^128, so products with basis points and unit scales stay far from 2^256; where a product of
/// two amounts appears, `mulDiv` carries 512 bits.
library GuardMath {
    uint256 internal constant BPS = 10_000;
    /// @dev Units per base unit of quote when a vault's first capital arrives; dust of a flow is 1e-12 of a base unit.
    uint256 internal constant UNITS_PER_QUOTE = 1e12;
    uint256 internal constant WAD = 1e18;

    /// @return Base units of quote that `amount` of a token is worth at `price`: base units of quote x 1e18 per whole token.
    function valueDown(uint256 amount, uint256 price, uint8 decimals) internal pure returns (uint256) {
        return Math.mulDiv(amount, price, 10 ** (18 + uint256(decimals)));
    }

    function valueUp(uint256 amount, uint256 price, uint8 decimals) internal pure returns (uint256) {
        return Math.mulDiv(amount, price, 10 ** (18 + uint256(decimals)), Math.Rounding.Ceil);
    }

    /// @return Value of one unit x 1e18; one for a vault without units.
    function unitPriceDown(uint256 value, uint256 units) internal pure returns (uint256) {
        return units == 0 ? WAD : Math.mulDiv(value, WAD * UNITS_PER_QUOTE, units);
    }

    function unitsDown(uint256 value, uint256 unitPriceWad) internal pure returns (uint256) {
        return Math.mulDiv(value, WAD * UNITS_PER_QUOTE, unitPriceWad);
    }

    function unitsValueDown(uint256 units, uint256 unitPriceWad) internal pure returns (uint256) {
        return Math.mulDiv(units, unitPriceWad, WAD * UNITS_PER_QUOTE);
    }

    function shareDown(uint256 value, uint256 bps) internal pure returns (uint256) {
        return value * bps / BPS;
    }

    function shareUp(uint256 value, uint256 bps) internal pure returns (uint256) {
        return Math.ceilDiv(value * bps, BPS);
    }

    /// @return True when `current` lies more than `bps` below `base`; exactly at the limit is within it.
    function isBelowBy(uint256 current, uint256 base, uint256 bps) internal pure returns (bool) {
        return current * BPS < base * (BPS - Math.min(bps, BPS));
    }

    /// @return What is left of a decaying sum: it loses `cap / durationS` each second.
    function decayed(uint256 level, uint256 cap, uint256 elapsedS, uint256 durationS) internal pure returns (uint256) {
        return elapsedS >= durationS ? 0 : Math.saturatingSub(level, Math.mulDiv(cap, elapsedS, durationS));
    }

    /// @return The least that capital of `value` can be worth when the guard has done its work: at the hard drawdown,
    /// auctioned at the largest discount, after a further price gap.
    function worstValueDown(uint256 value, uint256 hardDrawdownBps, uint256 discountBps, uint256 gapBps)
        internal
        pure
        returns (uint256)
    {
        value = shareDown(value, BPS - Math.min(hardDrawdownBps, BPS));
        value = shareDown(value, BPS - discountBps);
        return shareDown(value, BPS - gapBps);
    }
}
