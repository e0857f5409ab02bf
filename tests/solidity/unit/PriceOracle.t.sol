// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {Test} from "forge-std/Test.sol";
import {IPriceOracle} from "contracts/interfaces/IPriceOracle.sol";
import {FaultyFeed} from "contracts/mocks/FaultyFeed.sol";
import {FeedAggregator} from "contracts/mocks/FeedAggregator.sol";
import {FeedProxy} from "contracts/mocks/FeedProxy.sol";
import {PriceOracle} from "contracts/oracle/PriceOracle.sol";

/// @notice A fresh Chainlink price, or the reason why there is none. Reading never reverts because of a feed.
/// @dev `quote` has a real proxy and aggregator; `asset`'s feed answers what it is told. Bounds are exclusive, ages
/// inclusive.
contract PriceOracleTest is Test {
    uint32 private constant MAX_AGE_S = 1 hours;
    uint128 private constant FLOOR = 1e8;
    uint128 private constant CEILING = 1e10;
    uint80 private constant ROUND = 1 << 64 | 7;
    int256 private constant ANSWER = 5e8;

    address private immutable timelock = makeAddr("timelock");
    address private immutable quote = makeAddr("quote");
    address private immutable asset = makeAddr("asset");
    FeedAggregator private dollars;
    FeedProxy private quoteFeed;
    FaultyFeed private feed;
    PriceOracle private oracle;

    function setUp() public {
        vm.warp(1_800_000_000);
        dollars = new FeedAggregator(8, "MUSD / USD", address(this));
        dollars.transmit(1e8, 0);
        quoteFeed = new FeedProxy(dollars, address(this));
        feed = new FaultyFeed(8, "TOLD / USD");
        _tell(ROUND, ANSWER, block.timestamp);
        oracle = _deploy(address(0));
    }

    // Listing a feed

    function test_only_the_timelock_lists_and_delists() public {
        bytes memory unauthorized = abi.encodeWithSelector(IPriceOracle.PriceOracleUnauthorized.selector, address(this));
        vm.expectRevert(unauthorized);
        oracle.setFeed(asset, address(feed), MAX_AGE_S, FLOOR, CEILING);
        vm.expectRevert(unauthorized);
        oracle.removeFeed(asset);
    }

    function test_bounds_that_bound_nothing_are_refused() public {
        uint128 trillion = uint128(1e12 * 1e8);
        _expectInvalidBounds(CEILING, CEILING, MAX_AGE_S);
        _expectInvalidBounds(FLOOR, CEILING, 0);
        _expectInvalidBounds(FLOOR, trillion + 1, MAX_AGE_S);
        vm.prank(timelock);
        oracle.setFeed(asset, address(feed), MAX_AGE_S, FLOOR, trillion);
        assertEq(oracle.feedOf(asset).maxAnswer, trillion);
    }

    function test_a_listed_feed_is_remembered_with_its_decimals_and_phase() public {
        feed.setDecimals(10);
        _tell(3 << 64 | 9, 5e10, block.timestamp);
        vm.expectEmit(address(oracle));
        emit IPriceOracle.FeedSet(asset, address(feed), 77, 1, 1e12);
        vm.prank(timelock);
        oracle.setFeed(asset, address(feed), 77, 1, 1e12);
        IPriceOracle.Feed memory listed = oracle.feedOf(asset);
        assertEq(abi.encode(listed), abi.encode(IPriceOracle.Feed(address(feed), 77, 10, 3, 1, 1e12)));
        assertEq(oracle.read(asset).priceWad, 5e18);
    }

    function test_a_feed_without_a_usable_answer_is_not_listed() public {
        _tell(ROUND, 0, block.timestamp);
        vm.prank(timelock);
        _expectInvalidFeed(IPriceOracle.PriceStatus.INVALID_ANSWER);
        oracle.setFeed(asset, address(feed), MAX_AGE_S, FLOOR, CEILING);
    }

    function test_a_delisted_token_has_no_price_and_no_phase() public {
        vm.expectEmit(address(oracle));
        emit IPriceOracle.FeedRemoved(asset);
        vm.prank(timelock);
        oracle.removeFeed(asset);
        IPriceOracle.Reading memory reading = oracle.read(asset);
        assertEq(abi.encode(reading), abi.encode(IPriceOracle.Reading(IPriceOracle.PriceStatus.NO_FEED, 0, 0, 0, 0)));
        vm.expectRevert(
            abi.encodeWithSelector(
                IPriceOracle.PriceOracleInvalidFeed.selector, asset, address(0), IPriceOracle.PriceStatus.NO_FEED
            )
        );
        oracle.syncPhase(asset);
    }

    // One feed: each status, just inside and just outside

    function test_a_price_says_which_round_it_is_from() public view {
        assertEq(
            abi.encode(oracle.read(asset)),
            abi.encode(
                IPriceOracle.Reading(IPriceOracle.PriceStatus.OK, ROUND, ANSWER, uint64(block.timestamp), 5e18)
            )
        );
    }

    function test_an_answer_is_a_price_until_it_is_too_old() public {
        _tell(ROUND, ANSWER, block.timestamp - MAX_AGE_S);
        _expectStatus(IPriceOracle.PriceStatus.OK);
        _tell(ROUND, ANSWER, block.timestamp - MAX_AGE_S - 1);
        _expectStatus(IPriceOracle.PriceStatus.STALE);
    }

    function test_an_answer_from_the_future_is_no_price() public {
        _tell(ROUND, ANSWER, block.timestamp + 1);
        _expectStatus(IPriceOracle.PriceStatus.FUTURE_DATED);
        _tell(ROUND, ANSWER, uint256(type(uint64).max) + 12);
        _expectStatus(IPriceOracle.PriceStatus.FUTURE_DATED);
        assertEq(oracle.read(asset).updatedAt, type(uint64).max, "cut, not wrapped");
    }

    function test_an_answer_that_is_none_is_no_price_but_is_told() public {
        _tell(ROUND, 0, block.timestamp);
        _expectStatus(IPriceOracle.PriceStatus.INVALID_ANSWER);
        _tell(ROUND, -3, block.timestamp);
        _expectStatus(IPriceOracle.PriceStatus.INVALID_ANSWER);
        assertEq(oracle.read(asset).answer, -3);
        _tell(ROUND, ANSWER, 0);
        _expectStatus(IPriceOracle.PriceStatus.INVALID_ANSWER);
        _tell(0, ANSWER, block.timestamp);
        _expectStatus(IPriceOracle.PriceStatus.INVALID_ANSWER);
    }

    function test_an_answer_at_its_bounds_is_no_price() public {
        _tell(ROUND, int256(uint256(FLOOR)), block.timestamp);
        _expectStatus(IPriceOracle.PriceStatus.OUT_OF_BOUNDS);
        _tell(ROUND, int256(uint256(FLOOR)) + 1, block.timestamp);
        _expectStatus(IPriceOracle.PriceStatus.OK);
        _tell(ROUND, int256(uint256(CEILING)) - 1, block.timestamp);
        _expectStatus(IPriceOracle.PriceStatus.OK);
        _tell(ROUND, int256(uint256(CEILING)), block.timestamp);
        _expectStatus(IPriceOracle.PriceStatus.OUT_OF_BOUNDS);
    }

    function test_a_feed_that_can_not_be_read_is_no_price() public {
        FaultyFeed.Mode[5] memory modes = [
            FaultyFeed.Mode.Revert,
            FaultyFeed.Mode.BurnGas,
            FaultyFeed.Mode.ShortData,
            FaultyFeed.Mode.OversizedRoundId,
            FaultyFeed.Mode.Empty
        ];
        for (uint256 i; i < modes.length; ++i) {
            feed.setMode(modes[i]);
            _expectStatus(IPriceOracle.PriceStatus.CALL_FAILED);
        }
        feed.setMode(FaultyFeed.Mode.Answer);
        _expectStatus(IPriceOracle.PriceStatus.OK);
    }

    // Phases

    function test_a_new_aggregator_keeps_pricing_and_anyone_records_its_phase() public {
        assertEq(oracle.feedOf(quote).phaseId, 1);
        FeedAggregator next = new FeedAggregator(8, "MUSD / USD", address(this));
        quoteFeed.proposeAggregator(next);
        quoteFeed.confirmAggregator(next);
        assertEq(uint8(oracle.read(quote).status), uint8(IPriceOracle.PriceStatus.INVALID_ANSWER), "no round yet");
        next.transmit(1.01e8, 0);
        assertEq(oracle.read(quote).priceWad, 1.01e18);

        vm.expectEmit(address(oracle));
        emit IPriceOracle.FeedPhaseSynced(quote, 2);
        oracle.syncPhase(quote);
        assertEq(oracle.feedOf(quote).phaseId, 2);
        assertEq(oracle.read(quote).priceWad, 1.01e18);
    }

    function test_decimals_that_change_with_the_phase_are_no_price() public {
        feed.setDecimals(18);
        _expectStatus(IPriceOracle.PriceStatus.OK); // not asked again within a phase: an aggregator's are immutable
        _tell(2 << 64 | 1, ANSWER, block.timestamp);
        _expectStatus(IPriceOracle.PriceStatus.DECIMALS_CHANGED);
        _expectInvalidFeed(IPriceOracle.PriceStatus.DECIMALS_CHANGED);
        oracle.syncPhase(asset);
        feed.setDecimals(8);
        _expectStatus(IPriceOracle.PriceStatus.OK);
    }

    function test_a_phase_that_can_not_tell_its_decimals_is_no_price() public {
        _tell(2 << 64 | 1, ANSWER, block.timestamp);
        bytes memory question = abi.encodeCall(feed.decimals, ());
        vm.mockCallRevert(address(feed), question, "");
        _expectStatus(IPriceOracle.PriceStatus.DECIMALS_CHANGED);
        vm.mockCall(address(feed), question, hex"08");
        _expectStatus(IPriceOracle.PriceStatus.DECIMALS_CHANGED);
        vm.mockCall(address(feed), question, abi.encode(uint256(1) << 255 | 8));
        _expectStatus(IPriceOracle.PriceStatus.DECIMALS_CHANGED);
    }

    // The quote token

    function test_prices_are_in_quote_tokens_not_in_dollars() public {
        dollars.transmit(0.99e8, 0);
        assertEq(oracle.read(asset).priceWad, uint256(5e18) * 1e18 / 0.99e18);
        assertEq(oracle.read(quote).priceWad, 0.99e18);
    }

    function test_a_quote_token_off_its_peg_takes_every_price_away() public {
        dollars.transmit(0.98e8, 0);
        _expectStatus(IPriceOracle.PriceStatus.OK);
        dollars.transmit(0.98e8 - 1, 0);
        _expectStatus(IPriceOracle.PriceStatus.QUOTE_UNHEALTHY);
        dollars.transmit(1.02e8, 0);
        _expectStatus(IPriceOracle.PriceStatus.OK);
        dollars.transmit(1.02e8 + 1, 0);
        _expectStatus(IPriceOracle.PriceStatus.QUOTE_UNHEALTHY);
        assertEq(oracle.read(quote).priceWad, 0);
        assertEq(oracle.read(quote).answer, 1.02e8 + 1, "what the feed said is still told");
    }

    function test_an_asset_keeps_its_own_reason_when_the_quote_token_has_one_too() public {
        dollars.transmit(0.5e8, 0);
        _tell(ROUND, 0, block.timestamp);
        _expectStatus(IPriceOracle.PriceStatus.INVALID_ANSWER);
    }

    function test_reading_many_is_reading_each() public {
        address[] memory tokens = new address[](3);
        (tokens[0], tokens[1], tokens[2]) = (asset, makeAddr("unlisted"), asset);
        (IPriceOracle.Reading memory quoteReading, IPriceOracle.Reading[] memory readings) = oracle.readMany(tokens);
        assertEq(abi.encode(quoteReading), abi.encode(oracle.read(quote)));
        assertEq(readings.length, 3);
        for (uint256 i; i < readings.length; ++i) {
            assertEq(abi.encode(readings[i]), abi.encode(oracle.read(tokens[i])));
        }
        assertEq(uint8(readings[1].status), uint8(IPriceOracle.PriceStatus.NO_FEED));
    }

    // The L2 sequencer

    function test_while_the_sequencer_is_down_nothing_has_a_price() public {
        FaultyFeed uptime = _withSequencer();
        _expectStatus(IPriceOracle.PriceStatus.OK);
        _tell(uptime, 1, 1, block.timestamp - 1 days);
        _expectStatus(IPriceOracle.PriceStatus.SEQUENCER_DOWN);
        assertEq(uint8(oracle.read(quote).status), uint8(IPriceOracle.PriceStatus.SEQUENCER_DOWN));
        assertEq(oracle.read(quote).priceWad, 0);
        _tell(uptime, 1, 0, 0);
        _expectStatus(IPriceOracle.PriceStatus.SEQUENCER_DOWN);
        _tell(uptime, 1, 0, block.timestamp + 1);
        _expectStatus(IPriceOracle.PriceStatus.SEQUENCER_DOWN);
        uptime.setMode(FaultyFeed.Mode.Revert);
        _expectStatus(IPriceOracle.PriceStatus.SEQUENCER_DOWN);
    }

    function test_after_an_outage_nothing_has_a_price_until_the_grace_has_passed() public {
        FaultyFeed uptime = _withSequencer();
        _tell(uptime, 2, 0, block.timestamp - 1 hours);
        _expectStatus(IPriceOracle.PriceStatus.SEQUENCER_GRACE);
        _tell(uptime, 2, 0, block.timestamp - 1 hours - 1);
        _expectStatus(IPriceOracle.PriceStatus.OK);
    }

    // Helpers

    function _deploy(address sequencer) private returns (PriceOracle) {
        IPriceOracle.FeedInit[] memory feeds = new IPriceOracle.FeedInit[](2);
        feeds[0] = IPriceOracle.FeedInit(quote, address(quoteFeed), 25 hours, 1e7, 1e9);
        feeds[1] = IPriceOracle.FeedInit(asset, address(feed), MAX_AGE_S, FLOOR, CEILING);
        return new PriceOracle(timelock, quote, feeds, sequencer, 1 hours);
    }

    /// @dev From now on `oracle` is one on a chain with a sequencer that has been up for a day.
    function _withSequencer() private returns (FaultyFeed uptime) {
        uptime = new FaultyFeed(0, "L2 sequencer uptime");
        _tell(uptime, 1, 0, block.timestamp - 1 days);
        oracle = _deploy(address(uptime));
        assertEq(oracle.sequencerFeed(), address(uptime));
    }

    function _tell(uint80 round, int256 answer, uint256 updatedAt) private {
        _tell(feed, round, answer, updatedAt);
    }

    function _tell(FaultyFeed which, uint80 round, int256 answer, uint256 at) private {
        which.setRound(FaultyFeed.Round(round, answer, at, at, round));
    }

    function _expectStatus(IPriceOracle.PriceStatus expected) private view {
        IPriceOracle.Reading memory reading = oracle.read(asset);
        assertEq(uint8(reading.status), uint8(expected));
        assertEq(reading.priceWad > 0, expected == IPriceOracle.PriceStatus.OK);
    }

    function _expectInvalidBounds(uint128 low, uint128 high, uint32 maxAgeS) private {
        vm.prank(timelock);
        vm.expectRevert(abi.encodeWithSelector(IPriceOracle.PriceOracleInvalidBounds.selector, low, high, maxAgeS));
        oracle.setFeed(asset, address(feed), maxAgeS, low, high);
    }

    function _expectInvalidFeed(IPriceOracle.PriceStatus status) private {
        vm.expectRevert(
            abi.encodeWithSelector(IPriceOracle.PriceOracleInvalidFeed.selector, asset, address(feed), status)
        );
    }
}
