// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {Memory} from "@openzeppelin/contracts/utils/Memory.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {AggregatorV3Interface} from "@chainlink/contracts/src/v0.8/shared/interfaces/AggregatorV3Interface.sol";
import {IPriceOracle} from "../interfaces/IPriceOracle.sol";

// slither-disable-start timestamp -- ages are compared with heartbeats of minutes and more
/// @title PriceOracle
/// @notice Documented in {IPriceOracle}.
contract PriceOracle is IPriceOracle {
    /// @dev A healthy proxy answers in about 15,000 gas; a feed that burns more has no price.
    uint256 public constant FEED_GAS = 150_000;
    /// @dev Keeps every product of an amount and a price far from overflow.
    uint256 public constant MAX_PRICE_USD = 1e12;
    uint256 public constant PEG_MIN_WAD = 0.98e18;
    uint256 public constant PEG_MAX_WAD = 1.02e18;

    address public immutable timelock;
    address public immutable quote;
    /// @notice Chainlink's L2 sequencer uptime feed; zero on chains that have none.
    address public immutable sequencerFeed;
    uint32 public immutable sequencerGraceS;

    mapping(address token => Feed) private _feeds;

    modifier onlyTimelock() {
        if (msg.sender != timelock) revert PriceOracleUnauthorized(msg.sender);
        _;
    }

    /// @param feeds the first listed tokens, the quote token among them; later ones are voted in
    constructor(
        address timelock_,
        address quote_,
        FeedInit[] memory feeds,
        address sequencerFeed_,
        uint32 sequencerGraceS_
    ) {
        // slither-disable-next-line missing-zero-check -- computed by the deployment, not typed: test_deployment
        timelock = timelock_;
        // slither-disable-next-line missing-zero-check -- without a feed of the quote token nothing trades
        quote = quote_;
        // slither-disable-next-line missing-zero-check -- zero where there is no sequencer
        sequencerFeed = sequencerFeed_;
        sequencerGraceS = sequencerGraceS_;
        for (uint256 i; i < feeds.length; ++i) {
            FeedInit memory f = feeds[i];
            _setFeed(f.token, f.aggregator, f.maxAgeS, f.minAnswer, f.maxAnswer);
        }
    }

    // ---------------------------------------------------------------- governance

    /// @inheritdoc IPriceOracle
    function setFeed(address token, address aggregator, uint32 maxAgeS, uint128 minAnswer, uint128 maxAnswer)
        external
        onlyTimelock
    {
        _setFeed(token, aggregator, maxAgeS, minAnswer, maxAnswer);
    }

    /// @inheritdoc IPriceOracle
    function removeFeed(address token) external onlyTimelock {
        delete _feeds[token];
        emit FeedRemoved(token);
    }

    // ------------------------------------------------------------------- actions

    /// @inheritdoc IPriceOracle
    function syncPhase(address token) external {
        Reading memory reading = _readUsd(token);
        if (reading.status != PriceStatus.OK) {
            revert PriceOracleInvalidFeed(token, _feeds[token].aggregator, reading.status);
        }
        _feeds[token].phaseId = uint16(reading.roundId >> 64);
        emit FeedPhaseSynced(token, uint16(reading.roundId >> 64));
    }

    // --------------------------------------------------------------------- views

    /// @inheritdoc IPriceOracle
    function readMany(address[] calldata tokens)
        external
        view
        returns (Reading memory quoteReading, Reading[] memory readings)
    {
        PriceStatus sequencer = _sequencerStatus();
        quoteReading = _readQuote(sequencer);
        readings = new Reading[](tokens.length);
        for (uint256 i; i < tokens.length; ++i) {
            readings[i] = _inQuote(tokens[i], quoteReading, sequencer);
        }
    }

    /// @inheritdoc IPriceOracle
    function read(address token) external view returns (Reading memory) {
        PriceStatus sequencer = _sequencerStatus();
        Reading memory quoteReading = _readQuote(sequencer);
        return token == quote ? quoteReading : _inQuote(token, quoteReading, sequencer);
    }

    /// @inheritdoc IPriceOracle
    function feedOf(address token) external view returns (Feed memory) {
        return _feeds[token];
    }

    // ------------------------------------------------------------------ internal

    function _setFeed(address token, address aggregator, uint32 maxAgeS, uint128 minAnswer, uint128 maxAnswer) private {
        // slither-disable-next-line calls-loop -- the genesis feeds, once
        uint8 feedDecimals = AggregatorV3Interface(aggregator).decimals();
        if (minAnswer >= maxAnswer || maxAgeS == 0 || maxAnswer > MAX_PRICE_USD * 10 ** feedDecimals) {
            revert PriceOracleInvalidBounds(minAnswer, maxAnswer, maxAgeS);
        }
        _feeds[token] = Feed({
            aggregator: aggregator,
            maxAgeS: maxAgeS,
            feedDecimals: feedDecimals,
            phaseId: 0,
            minAnswer: minAnswer,
            maxAnswer: maxAnswer
        });
        Reading memory reading = _readUsd(token);
        if (reading.status != PriceStatus.OK) revert PriceOracleInvalidFeed(token, aggregator, reading.status);
        _feeds[token].phaseId = uint16(reading.roundId >> 64);
        emit FeedSet(token, aggregator, maxAgeS, minAnswer, maxAnswer);
    }

    function _readQuote(PriceStatus sequencer) private view returns (Reading memory reading) {
        reading = _readUsd(quote);
        if (sequencer != PriceStatus.OK) reading.status = sequencer;
        if (reading.status == PriceStatus.OK && (reading.priceWad < PEG_MIN_WAD || reading.priceWad > PEG_MAX_WAD)) {
            reading.status = PriceStatus.QUOTE_UNHEALTHY;
        }
        if (reading.status != PriceStatus.OK) reading.priceWad = 0;
    }

    function _inQuote(address token, Reading memory quoteReading, PriceStatus sequencer)
        private
        view
        returns (Reading memory reading)
    {
        reading = _readUsd(token);
        if (sequencer != PriceStatus.OK) reading.status = sequencer;
        if (reading.status == PriceStatus.OK && quoteReading.status != PriceStatus.OK) {
            reading.status = PriceStatus.QUOTE_UNHEALTHY;
        }
        if (reading.status != PriceStatus.OK) {
            reading.priceWad = 0;
        } else {
            reading.priceWad = Math.mulDiv(reading.priceWad, 1e18, quoteReading.priceWad);
        }
    }

    /// @dev USD x 1e18 per whole token. Decimals are asked again only in a phase that has not been checked.
    function _readUsd(address token) private view returns (Reading memory reading) {
        Feed memory feed = _feeds[token];
        if (feed.aggregator == address(0)) {
            reading.status = PriceStatus.NO_FEED;
            return reading;
        }
        (bool ok, uint256 roundId, int256 answer,, uint256 updatedAt) = _latestRound(feed.aggregator);
        if (!ok || roundId > type(uint80).max) {
            reading.status = PriceStatus.CALL_FAILED;
            return reading;
        }
        reading.roundId = uint80(roundId);
        reading.answer = answer;
        reading.updatedAt = updatedAt > type(uint64).max ? type(uint64).max : uint64(updatedAt);
        if (answer <= 0 || updatedAt == 0 || roundId == 0) {
            reading.status = PriceStatus.INVALID_ANSWER;
        } else if (updatedAt > block.timestamp) {
            reading.status = PriceStatus.FUTURE_DATED;
        } else if (block.timestamp - updatedAt > feed.maxAgeS) {
            reading.status = PriceStatus.STALE;
        } else if (uint256(answer) <= feed.minAnswer || uint256(answer) >= feed.maxAnswer) {
            reading.status = PriceStatus.OUT_OF_BOUNDS;
        } else if (uint16(roundId >> 64) != feed.phaseId && !_hasDecimals(feed.aggregator, feed.feedDecimals)) {
            reading.status = PriceStatus.DECIMALS_CHANGED;
        } else {
            reading.priceWad = Math.mulDiv(uint256(answer), 1e18, 10 ** feed.feedDecimals);
        }
    }

    function _sequencerStatus() private view returns (PriceStatus) {
        if (sequencerFeed == address(0)) return PriceStatus.OK;
        (bool ok,, int256 answer, uint256 startedAt,) = _latestRound(sequencerFeed);
        if (!ok || answer != 0 || startedAt == 0 || startedAt > block.timestamp) return PriceStatus.SEQUENCER_DOWN;
        return block.timestamp - startedAt <= sequencerGraceS ? PriceStatus.SEQUENCER_GRACE : PriceStatus.OK;
    }

    /// @dev Words, not typed values: decoding a dirty uint80 would revert, and a revert here would trap a vault.
    function _latestRound(address aggregator)
        private
        view
        returns (bool ok, uint256 roundId, int256 answer, uint256 startedAt, uint256 updatedAt)
    {
        bytes memory data;
        Memory.Pointer free = Memory.getFreeMemoryPointer();
        // slither-disable-next-line low-level-calls,return-bomb,calls-loop -- so that it can't revert; gas bounds it
        (ok, data) = aggregator.staticcall{gas: FEED_GAS}(abi.encodeCall(AggregatorV3Interface.latestRoundData, ()));
        ok = ok && data.length >= 160;
        if (ok) (roundId, answer, startedAt, updatedAt) = abi.decode(data, (uint256, int256, uint256, uint256));
        Memory.unsafeSetFreeMemoryPointer(free); // or the floods of several feeds would add up
    }

    function _hasDecimals(address aggregator, uint8 expected) private view returns (bool has) {
        Memory.Pointer free = Memory.getFreeMemoryPointer();
        // slither-disable-next-line low-level-calls,calls-loop -- as above
        (bool ok, bytes memory data) =
            aggregator.staticcall{gas: FEED_GAS}(abi.encodeCall(AggregatorV3Interface.decimals, ()));
        has = ok && data.length >= 32 && abi.decode(data, (uint256)) == expected;
        Memory.unsafeSetFreeMemoryPointer(free);
    }
}
// slither-disable-end timestamp
