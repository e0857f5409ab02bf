// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {Test} from "forge-std/Test.sol";
import {GuardMathHarness} from "contracts/mocks/GuardMathHarness.sol";

/// @notice The guard's arithmetic: every result is the exact one, rounded the way its name says.
contract GuardMathTest is Test {
    uint256 private constant BPS = 10_000;
    uint256 private constant WAD = 1e18;
    GuardMathHarness private math;

    function setUp() public {
        math = new GuardMathHarness();
    }

    function test_a_value_is_rounded_down_for_what_is_held_and_up_for_what_is_owed() public view {
        assertEq(math.valueDown(1e18, 2000e24, 18), 2000e6, "one ether at 2,000 dollars of six decimals");
        assertEq(math.valueUp(1e18, 2000e24, 18), 2000e6);
        assertEq(math.valueDown(1, 2000e24, 18), 0, "one wei of ether is worth less than a base unit");
        assertEq(math.valueUp(1, 2000e24, 18), 1);
    }

    function testFuzz_up_and_down_are_one_base_unit_apart_at_most(uint128 amount, uint128 price, uint8 decimals)
        public
        view
    {
        decimals = uint8(bound(decimals, 0, 24));
        uint256 down = math.valueDown(amount, price, decimals);
        uint256 scale = 10 ** (18 + uint256(decimals));
        bool exact = mulmod(amount, price, scale) == 0;
        assertEq(math.valueUp(amount, price, decimals), exact ? down : down + 1);
        assertEq(down, uint256(amount) * price / scale, "128 bit factors fit");
    }

    function test_a_unit_of_a_vault_without_units_costs_one() public view {
        assertEq(math.unitPriceDown(123, 0), WAD);
        assertEq(math.unitPriceDown(2e6, 1e18), 2 * WAD, "two dollars in the units that one dollar bought");
        assertEq(math.unitPriceDown(1, 3e12), WAD / 3, "rounded down");
    }

    function testFuzz_units_bought_are_never_worth_more_than_was_paid(uint128 value, uint256 unitPrice) public view {
        unitPrice = bound(unitPrice, 1, 1e24);
        uint256 units = math.unitsDown(value, unitPrice);
        assertEq(units, uint256(value) * 1e30 / unitPrice);
        assertLe(math.unitsValueDown(units, unitPrice), value);
    }

    function test_a_share_is_rounded_as_its_name_says() public view {
        assertEq(math.shareDown(9999, 1), 0);
        assertEq(math.shareUp(9999, 1), 1);
        assertEq(math.shareDown(20_000, 5000), 10_000);
        assertEq(math.shareUp(20_000, 5000), 10_000);
    }

    function test_exactly_at_a_limit_is_within_it() public view {
        assertFalse(math.isBelowBy(95, 100, 500));
        assertTrue(math.isBelowBy(94, 100, 500));
        assertFalse(math.isBelowBy(0, 100, BPS), "nothing lies more than everything below");
        assertFalse(math.isBelowBy(0, 100, BPS + 1), "nor more than more than everything");
    }

    function test_a_decaying_sum_loses_its_cap_in_its_duration() public view {
        assertEq(math.decayed(100, 100, 0, 1000), 100);
        assertEq(math.decayed(100, 100, 250, 1000), 75);
        assertEq(math.decayed(60, 100, 700, 1000), 0, "a smaller sum is gone sooner and does not turn negative");
        assertEq(math.decayed(type(uint128).max, 100, 1000, 1000), 0, "after its duration nothing is left of any sum");
        assertEq(math.decayed(type(uint128).max, 100, 999, 1000), uint256(type(uint128).max) - 99);
    }

    function test_the_worst_case_is_drawdown_then_discount_then_gap() public view {
        assertEq(math.worstValueDown(1_000_000, 1500, 500, 500), 767_125);
        assertEq(math.worstValueDown(1_000_000, 0, 0, 0), 1_000_000);
        assertEq(math.worstValueDown(1_000_000, BPS, 500, 500), 0, "a drawdown of everything leaves nothing");
        assertEq(math.worstValueDown(1_000_000, BPS + 1, 0, 0), 0);
    }
}
