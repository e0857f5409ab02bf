// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {AggregatorV3Interface} from "@chainlink/contracts/src/v0.8/shared/interfaces/AggregatorV3Interface.sol";
import {Test} from "forge-std/Test.sol";
import {IPriceOracle} from "contracts/interfaces/IPriceOracle.sol";
import {IRewardPool} from "contracts/interfaces/IRewardPool.sol";
import {ITradeLedger, TradeId} from "contracts/interfaces/ITradeLedger.sol";
import {GuardMath} from "contracts/libraries/GuardMath.sol";
import {Limits} from "contracts/libraries/Types.sol";
import {World} from "../World.sol";

/// @title The guard's arithmetic, over the whole range of its inputs
contract GuardMathProperties is Test {
    uint256 private constant BPS = 10_000;
    uint256 private constant HIGHEST_PRICE = 1e48; // 1e12 USD, a quote token of 18 decimals, x 1e18

    /// @dev Modulo 2^256, and with the remainder below the divisor, the equation below has one solution.
    function test_value_down_and_up_enclose_the_exact_value(uint128 amount, uint256 price, uint8 decimals)
        external
        pure
    {
        price = _bound(price, 0, HIGHEST_PRICE);
        decimals = uint8(_bound(decimals, 0, 24));
        uint256 down = GuardMath.valueDown(amount, price, decimals);
        uint256 divisor = 10 ** (18 + uint256(decimals));
        uint256 remainder = mulmod(amount, price, divisor);
        unchecked {
            assertEq(down * divisor + remainder, amount * price);
        }
        assertEq(GuardMath.valueUp(amount, price, decimals), remainder == 0 ? down : down + 1);
    }

    function test_units_never_turn_into_more_than_was_paid_for_them(uint128 value, uint128 unitPrice) external pure {
        vm.assume(unitPrice > 0);
        uint256 back = GuardMath.unitsValueDown(GuardMath.unitsDown(value, unitPrice), unitPrice);
        assertLe(back, value);
        assertLe(value - back, uint256(unitPrice) / 1e30 + 1);
    }

    function test_unit_price_times_units_is_the_value_to_rounding(uint128 value, uint128 units) external pure {
        vm.assume(units > 0);
        uint256 back = GuardMath.unitsValueDown(units, GuardMath.unitPriceDown(value, units));
        assertLe(back, value);
        assertLe(value - back, uint256(units) / 1e30 + 1);
    }

    /// @notice The first payment and what others add later share in proportion: a flow moves nobody's unit price up.
    function test_a_flow_leaves_the_unit_price_to_rounding(uint96 value, uint96 units, uint96 flow) external pure {
        vm.assume(units > 0 && value > 0);
        uint256 before = GuardMath.unitPriceDown(value, units);
        vm.assume(before > 0 && before < type(uint128).max);
        uint256 minted = GuardMath.unitsDown(flow, before);
        uint256 total = uint256(units) + minted;
        uint256 afterwards = GuardMath.unitPriceDown(uint256(value) + flow, total);
        // One unit of rounding in the price before moves what was minted by at most a part in `before`.
        uint256 tolerance = Math.mulDiv(afterwards, 2, before) + 2 + Math.mulDiv(before, before, 1e30) + 1e30 / total;
        assertApproxEqAbs(afterwards, before, tolerance);
    }

    function test_two_shares_make_the_whole(uint128 value, uint256 bps) external pure {
        bps = _bound(bps, 0, BPS);
        assertEq(GuardMath.shareDown(value, bps) + GuardMath.shareUp(value, BPS - bps), value);
    }

    function test_below_by_more_is_below_by_less(uint128 current, uint128 base, uint16 bps, uint16 less, uint128 lower)
        external
        pure
    {
        bool below = GuardMath.isBelowBy(current, base, bps);
        assertEq(below, bps < BPS && uint256(current) * BPS < uint256(base) * (BPS - bps));
        if (below) {
            assertTrue(GuardMath.isBelowBy(current, base, _bound(less, 0, bps)));
            assertTrue(GuardMath.isBelowBy(_bound(lower, 0, current), base, bps));
        }
    }

    function test_a_sum_decays_to_nothing_and_no_faster_in_two_steps(
        uint128 level,
        uint128 cap,
        uint32 first,
        uint32 second,
        uint32 duration
    ) external pure {
        vm.assume(duration > 0);
        level = uint128(_bound(level, 0, cap));
        uint256 once = GuardMath.decayed(level, cap, uint256(first) + second, duration);
        uint256 twice = GuardMath.decayed(GuardMath.decayed(level, cap, first, duration), cap, second, duration);
        assertLe(once, level);
        assertGe(twice, once);
        assertLe(twice, once + 1);
        assertEq(GuardMath.decayed(level, cap, duration, duration), 0);
    }

    function test_the_worst_value_falls_with_each_allowance(
        uint128 value,
        uint128 more,
        uint16 hard,
        uint16 discount,
        uint16 gap
    ) external pure {
        (hard, discount, gap) =
            (uint16(_bound(hard, 0, 9999)), uint16(_bound(discount, 0, 9999)), uint16(_bound(gap, 0, 9999)));
        uint256 worst = GuardMath.worstValueDown(value, hard, discount, gap);
        assertLe(worst, value);
        assertLe(worst, GuardMath.worstValueDown(_bound(more, value, type(uint128).max), hard, discount, gap));
        assertGe(worst, GuardMath.worstValueDown(value, uint256(hard) + 1, discount, gap));
        assertGe(worst, GuardMath.worstValueDown(value, hard, uint256(discount) + 1, gap));
        assertGe(worst, GuardMath.worstValueDown(value, hard, discount, uint256(gap) + 1));
        uint256 exact = uint256(value) * (BPS - hard) * (BPS - discount) * (BPS - gap) / BPS ** 3;
        assertLe(worst, exact);
        assertLe(exact - worst, 3);
    }
}

/// @title Properties of single contracts of a deployed world
contract ProtocolProperties is World {
    Strategy private _rewarded;
    uint256 private _reward;
    address private _vault = makeAddr("a vault of its own");

    function setUp() public {
        deployWorld();
        _rewarded = deployStrategy();
        buy(_rewarded, 500_000e6);
        setPrice(eth, 2_200e8);
        _reward = uint256(settle(_rewarded)) * RATE;
        uint64 agentId = registerAgent(otherController, otherSigner, 10_000 ether, 0);
        vm.startPrank(address(factory));
        pool.registerVault(_vault, agentId, RATE, CAP);
        ledger.openBook(_vault);
        vm.stopPrank();
    }

    function test_what_binds_is_field_by_field_the_stricter(Limits memory own) external view {
        (Limits memory l,) = constitution.regime(own);
        Limits memory c = ceilings();
        assertEq(l.maxPositionBps, Math.min(own.maxPositionBps, c.maxPositionBps));
        assertEq(l.maxTradeSlippageBps, Math.min(own.maxTradeSlippageBps, c.maxTradeSlippageBps));
        assertEq(l.maxCumulativeSlippageBps, Math.min(own.maxCumulativeSlippageBps, c.maxCumulativeSlippageBps));
        assertEq(l.maxReduceSlippageBps, Math.min(own.maxReduceSlippageBps, c.maxReduceSlippageBps));
        assertEq(
            l.maxReduceCumulativeSlippageBps,
            Math.min(own.maxReduceCumulativeSlippageBps, c.maxReduceCumulativeSlippageBps)
        );
        assertEq(l.maxTradesPerDay, Math.min(own.maxTradesPerDay, c.maxTradesPerDay));
        assertEq(l.maxDailyTurnoverBps, Math.min(own.maxDailyTurnoverBps, c.maxDailyTurnoverBps));
        assertEq(l.maxDailyLossBps, Math.min(own.maxDailyLossBps, c.maxDailyLossBps));
        assertEq(l.maxDrawdownBps, Math.min(own.maxDrawdownBps, c.maxDrawdownBps));
        assertEq(l.hardDrawdownBps, Math.min(own.hardDrawdownBps, c.hardDrawdownBps));
        try constitution.checkLimits(own) {
            assertEq(keccak256(abi.encode(l)), keccak256(abi.encode(own)), "passed and yet not the stricter");
        } catch {}
    }

    function test_a_price_is_that_of_a_valid_round_or_none(uint80 roundId, int256 answer, uint256 updatedAt, uint8 kind)
        external
    {
        if (kind % 2 == 0) answer = int256(_bound(uint256(answer), 1e8 - 2, 1e14 + 2));
        if (kind % 3 > 0) updatedAt = _bound(updatedAt, block.timestamp - 2 hours - 2, block.timestamp + 2);
        roundId = uint80(uint256(roundId) | (kind % 5 == 0 ? 0 : 1)) % (1 << 64) + (1 << 64);
        _answer(abi.encode(roundId, answer, updatedAt, updatedAt, roundId));
        IPriceOracle.Reading memory r = oracle.read(eth.token);
        bool fresh = updatedAt > 0 && updatedAt <= block.timestamp && block.timestamp - updatedAt <= 2 hours;
        bool valid = fresh && answer > 1e8 && answer < 1e14;
        assertEq(r.status == IPriceOracle.PriceStatus.OK, valid);
        assertEq(r.priceWad, valid ? uint256(answer) * 1e10 : 0);
    }

    function test_whatever_a_feed_answers_reading_does_not_revert(bytes memory data) external {
        _answer(data);
        IPriceOracle.Reading memory r = oracle.read(eth.token);
        assertEq(r.priceWad > 0, r.status == IPriceOracle.PriceStatus.OK);
        _rewarded.vault.poke();
        vm.prank(address(timelock));
        treasury.recall(_rewarded.id, eth.token, type(uint128).max, 0);
        assertEq(held(_rewarded, eth.token), 0);
    }

    function _answer(bytes memory data) private {
        vm.mockCall(address(eth.feed), abi.encodeCall(AggregatorV3Interface.latestRoundData, ()), data);
    }

    /// @notice Against the rule of the account written as three lines.
    function test_the_account_follows_the_windows_exactly(int48[3] memory profits, uint40[3] memory widths) external {
        int256 account_;
        uint256 bond = 10_000 ether / RATE;
        for (uint256 i; i < 3; ++i) {
            (int256 low, int256 high) = (profits[i], int256(profits[i]) + int256(uint256(widths[i])));
            vm.warp(epochStartS(currentEpoch() + 1));
            vm.startPrank(_vault);
            pool.sync(high, high, true, 10_000 ether, address(0));
            pool.sync(low, low, true, 10_000 ether, address(0));
            vm.stopPrank();
            vm.warp(block.timestamp + WINDOW_S);
            int256 move = pool.closeWindow(_vault);
            int256 expected = low > account_ ? low - account_ : high < account_ ? high - account_ : int256(0);
            if (expected > int256(uint256(CAP / RATE))) expected = int256(uint256(CAP / RATE));
            assertEq(move, expected, "move");
            if (move != 0) pool.applyResult(2, move);
            // Down as far as what is unclaimed and the bond reach: together they are the bond + A here.
            account_ += move;
            if (account_ < -int256(bond)) account_ = -int256(bond);
            assertEq(pool.accountOf(_vault).credited, account_, "A");
        }
        IRewardPool.Account memory a = pool.accountOf(_vault);
        uint256 left = uint256(a.unvested) + a.vested + agents.agentOf(2).bond;
        assertEq(int256(left) - 10_000 ether, account_ * int256(uint256(RATE)), "paid - taken = rate x A");
    }

    function test_when_one_claims_changes_nothing_of_what_one_gets(uint32[4] memory waits) external {
        uint256 claimed;
        uint256 startedAt = block.timestamp;
        for (uint256 i; i < 4; ++i) {
            // Within the epoch: later nothing is claimed before the next window is settled.
            vm.warp(block.timestamp + _bound(waits[i], 0, 30 hours));
            refresh();
            try pool.claim(address(_rewarded.vault)) returns (uint256 amount) {
                claimed += amount;
            } catch {}
            uint256 elapsed = block.timestamp - startedAt;
            (uint256 vested, uint256 unvested) = pool.vestedOf(address(_rewarded.vault));
            assertEq(claimed + vested + unvested, _reward, "created or lost");
            assertApproxEqAbs(claimed + vested, _reward * elapsed / VESTING_S, 5, "not linear");
            assertLe(claimed + vested, _reward * elapsed / VESTING_S + 1, "too early");
        }
        vm.warp(startedAt + VESTING_S);
        (uint256 all, uint256 rest) = pool.vestedOf(address(_rewarded.vault));
        assertEq(rest, 0);
        assertEq(claimed + all, _reward);
    }

    function test_every_field_is_under_the_head(ITradeLedger.Trade memory t, uint8 field, bytes32 other) external {
        vm.assume(t.prices.length > 0);
        bytes32 before = ledger.headOf(_vault);
        bytes32 original = keccak256(abi.encode(before, t));
        uint256 snapshot = vm.snapshotState();
        vm.prank(_vault);
        assertEq(TradeId.unwrap(ledger.record(t)), original);
        assertEq(ledger.headOf(_vault), original);
        vm.revertToState(snapshot);
        bytes32 was = keccak256(abi.encode(t));
        _exchange(t, field % 14, other);
        vm.prank(_vault);
        bytes32 changed = TradeId.unwrap(ledger.record(t));
        assertEq(changed == original, was == keccak256(abi.encode(t)));
    }

    function _exchange(ITradeLedger.Trade memory t, uint256 field, bytes32 x) private pure {
        uint256 number = uint256(x);
        if (field == 0) t.agentId = uint64(number);
        if (field == 1) t.sequence = uint64(number);
        if (field == 2) t.reasons = uint16(number);
        if (field == 3) t.strategyId = x;
        if (field == 4) t.artefactHash = x;
        if (field == 5) t.explanationHash = x;
        if (field == 6) t.observationHash = x;
        if (field == 7) t.tokenIn = address(uint160(number));
        if (field == 8) t.tokenOut = address(uint160(number));
        if (field == 9) t.amountIn = number;
        if (field == 10) t.amountOut = number;
        if (field == 11) t.shortfall = int256(number);
        if (field == 12) t.netAssetValue = number;
        if (field == 13) t.prices[0].answer = int256(number);
    }

    function test_in_no_30_days_does_more_leave_the_treasury_than_the_cap(
        uint32[5] memory waits,
        uint64[5] memory amounts
    ) external {
        uint256[5] memory at;
        uint256 cap = 10_000_000e6;
        for (uint256 i; i < 5; ++i) {
            vm.warp(block.timestamp + _bound(waits[i], 0, 20 days));
            at[i] = block.timestamp;
            amounts[i] = uint64(_bound(amounts[i], 0, 6_000_000e6));
            vm.prank(address(timelock));
            try treasury.pay(address(quote), stranger, amounts[i]) {}
            catch {
                amounts[i] = 0;
            }
            uint256 sum = at[i] < firstEpochS + 30 days + 1 hours ? CAPITAL : 0; // allocated in `setUp`
            for (uint256 j; j <= i; ++j) {
                if (at[j] + 30 days > at[i]) sum += amounts[j];
            }
            assertLe(sum, cap);
        }
    }

    function test_the_venue_finds_one_pool_for_a_pair_in_either_order(address a, address b, uint24 fee) external view {
        assertEq(venue.poolOf(a, b, fee), venue.poolOf(b, a, fee));
    }
}
