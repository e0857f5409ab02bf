// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {GuardMath} from "../../../contracts/libraries/GuardMath.sol";

/// @title Expressions of the contracts that stand in private functions, each with the operands' declared types
/// @dev `from` names the file and the exact text there; prove.py refuses to run when that text is no longer in it.
contract Expressions {
    struct Feed {
        uint8 feedDecimals;
    }

    struct Rules {
        uint16 auctionMaxDiscountBps;
        uint32 auctionDurationS;
        uint16 auctionLotBps;
    }

    // from oracle/PriceOracle.sol: Math.mulDiv(uint256(answer), 1e18, 10 ** feed.feedDecimals)
    function priceUsd(int256 answer, uint8 feedDecimals) external pure returns (uint256) {
        Feed memory feed = Feed(feedDecimals);
        return Math.mulDiv(uint256(answer), 1e18, 10 ** feed.feedDecimals);
    }

    // from oracle/PriceOracle.sol: Math.mulDiv(reading.priceWad, 1e18, quoteReading.priceWad)
    function priceInQuote(uint256 priceWad, uint256 quotePriceWad) external pure returns (uint256) {
        return Math.mulDiv(priceWad, 1e18, quotePriceWad);
    }

    // from rewards/RewardPool.sol: Math.mulDiv(account.unvested, elapsedS, account.vestEndsAt - account.vestUpdatedAt)
    function newlyVested(uint128 unvested, uint256 elapsedS, uint64 spanS) external pure returns (uint256) {
        return Math.mulDiv(unvested, elapsedS, spanS);
    }

    // from vaults/StrategyVault.sol: rules.auctionMaxDiscountBps * elapsedS / rules.auctionDurationS
    function discountBps(uint16 most, uint256 elapsedS, uint32 durationS) external pure returns (uint256) {
        Rules memory rules = Rules(most, durationS, 0);
        return rules.auctionMaxDiscountBps * elapsedS / rules.auctionDurationS;
    }

    // from vaults/StrategyVault.sol: Math.ceilDiv(line.held * rules.auctionLotBps, GuardMath.BPS)
    function lot(uint256 held, uint16 lotBps) external pure returns (uint256) {
        return Math.ceilDiv(held * lotBps, GuardMath.BPS);
    }

    // from vaults/StrategyVault.sol: Math.mulDiv(_book.units, value, total)
    function burned(uint128 units, uint256 value, uint256 total) external pure returns (uint256) {
        return Math.mulDiv(units, value, total);
    }

    // from libraries/GuardMath.sol: Math.mulDiv(
    function mulDiv(uint256 x, uint256 y, uint256 denominator) external pure returns (uint256) {
        return Math.mulDiv(x, y, denominator);
    }

    // from rewards/RewardPool.sol: Math.ceilDiv(
    function ceilDiv(uint256 a, uint256 b) external pure returns (uint256) {
        return Math.ceilDiv(a, b);
    }

    // from rewards/RewardPool.sol: Math.min(
    function minimum(uint256 a, uint256 b) external pure returns (uint256) {
        return Math.min(a, b);
    }

    // from libraries/GuardMath.sol: Math.saturatingSub(
    function saturatingSub(uint256 a, uint256 b) external pure returns (uint256) {
        return Math.saturatingSub(a, b);
    }

    // from vaults/StrategyVault.sol: Math.max(
    function maximum(uint256 a, uint256 b) external pure returns (uint256) {
        return Math.max(a, b);
    }
}
