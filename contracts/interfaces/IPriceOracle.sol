// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

/// @title Chainlink prices, or the reason why there is none
/// @notice Reading never reverts, whatever a feed does: a missing price is a reason to reduce, not an error.
/// @custom:kill `removeFeed` by the timelock: the asset has no price from then on.
interface IPriceOracle {
    enum PriceStatus {
        OK,
        NO_FEED,
        CALL_FAILED, // reverted, ran out of its gas allowance, or answered malformed data
        INVALID_ANSWER, // zero, negative, no round, or never updated
        FUTURE_DATED,
        STALE,
        OUT_OF_BOUNDS, // at or beyond the bounds: a floored feed is not a price
        DECIMALS_CHANGED,
        SEQUENCER_DOWN,
        SEQUENCER_GRACE,
        QUOTE_UNHEALTHY // the asset's own feed is fine, the quote token's is not
    }

    /// @param maxAgeS heartbeat plus margin, seconds
    /// @param minAnswer,maxAnswer exclusive bounds in the feed's own decimals
    /// @param phaseId the aggregator phase whose decimals were last checked
    struct Feed {
        address aggregator;
        uint32 maxAgeS;
        uint8 feedDecimals;
        uint16 phaseId;
        uint128 minAnswer;
        uint128 maxAnswer;
    }

    /// @notice A feed as the deployment lists it.
    struct FeedInit {
        address token;
        address aggregator;
        uint32 maxAgeS;
        uint128 minAnswer;
        uint128 maxAnswer;
    }

    /// @param priceWad whole quote tokens x 1e18 per whole token; zero unless status is OK
    struct Reading {
        PriceStatus status;
        uint80 roundId;
        int256 answer;
        uint64 updatedAt;
        uint256 priceWad;
    }

    error PriceOracleUnauthorized(address caller);
    error PriceOracleInvalidFeed(address token, address aggregator, PriceStatus status);
    error PriceOracleInvalidBounds(uint128 minAnswer, uint128 maxAnswer, uint32 maxAgeS);

    event FeedSet(address indexed token, address indexed aggregator, uint32 maxAgeS, uint128 minAnswer, uint128 maxAnswer);
    event FeedRemoved(address indexed token);
    event FeedPhaseSynced(address indexed token, uint16 phaseId);

    /// @notice Lists a token, or changes its feed. Timelock only. Refuses a feed that has no usable answer now.
    function setFeed(address token, address aggregator, uint32 maxAgeS, uint128 minAnswer, uint128 maxAnswer) external;

    /// @notice Delists a token. Timelock only.
    function removeFeed(address token) external;

    /// @notice Records the feed's new aggregator phase after checking its decimals, which saves each reader that check.
    function syncPhase(address token) external;

    /// @notice The quote token's own reading (`priceWad`: USD x 1e18) and the readings of `tokens` in quote.
    function readMany(address[] calldata tokens) external view returns (Reading memory quote, Reading[] memory readings);

    /// @notice One token's reading, in quote; of the quote token itself, in USD.
    function read(address token) external view returns (Reading memory);

    function feedOf(address token) external view returns (Feed memory);
}
