// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IStrategyVault} from "contracts/interfaces/IStrategyVault.sol";
import {Limits, StrategyManifest, VaultState} from "contracts/libraries/Types.sol";
import {FaultyToken} from "contracts/mocks/FaultyToken.sol";
import {Unit} from "./Unit.sol";

/// @notice Why a vault is not ACTIVE, when that begins and when it ends.
/// @dev The vault holds some 250 ETH and half a million dollars: each dollar of ETH's price is 0.025 % of it.
contract VaultStatesTest is Unit {
    Strategy private s;

    function setUp() public override {
        super.setUp();
        s = deployStrategy();
        buy(s, 500_000e6);
    }

    function test_within_its_limits_a_vault_is_active() public view {
        IStrategyVault.Status memory status = s.vault.status();
        assertEq(uint8(status.state), uint8(VaultState.ACTIVE));
        assertEq(status.reasons, 0);
        assertTrue(status.priced);
        assertApproxEqRel(status.value, CAPITAL, 0.001e18);
        assertEq(status.profit, int256(status.value) - int256(CAPITAL));
        assertEq(status.unitPriceWad, status.value * 1e18 / CAPITAL);
        assertEq(status.requiredDeposit, _shareUp(status.value, 100) + _shareUp(status.value, 300));
    }

    function test_a_loss_of_the_day_reduces_until_the_day_is_over() public {
        setPrice(eth, 1780e8);
        assertEq(reasonsOf(s), DAY_LOSS);
        _expectChange(VaultState.REDUCING, DAY_LOSS);
        poke(s);
        setPrice(eth, 2000e8);
        assertEq(reasonsOf(s), DAY_LOSS, "a better price of the same day does not end it");
        travel(1 days);
        assertEq(reasonsOf(s), 0);
        _expectChange(VaultState.ACTIVE, 0);
        poke(s);
    }

    function test_a_loss_of_two_days_counts_against_the_day_before() public {
        setPrice(eth, 1880e8); // 3 %
        poke(s);
        travel(1 days);
        setPrice(eth, 1780e8); // 5.5 % below the day before yesterday's last, 2.6 % below yesterday's
        assertEq(reasonsOf(s), DAY_LOSS, "derived before anything rolls the day");
        poke(s);
        assertEq(s.vault.guard().reasons, DAY_LOSS);
    }

    function test_after_a_day_without_a_poke_only_the_last_price_counts() public {
        setPrice(eth, 1880e8);
        poke(s);
        travel(2 days);
        setPrice(eth, 1780e8);
        assertEq(reasonsOf(s), 0);
        poke(s);
        assertEq(s.vault.guard().beforeToday, s.vault.guard().beforeYesterday);
    }

    function test_a_drawdown_reduces_until_a_vote_ends_it() public {
        setPrice(eth, 1580e8); // 10.5 %
        _expectChange(VaultState.REDUCING, DAY_LOSS | DRAWDOWN);
        poke(s);
        assertTrue(s.vault.guard().drawdownLatched);
        travel(2 days);
        setPrice(eth, 2100e8);
        assertEq(reasonsOf(s), DRAWDOWN, "neither time nor a better price ends it");

        uint256 unitPrice = s.vault.status().unitPriceWad;
        vm.expectEmit(address(s.vault));
        emit IStrategyVault.Resumed(unitPrice);
        resume(s);
        assertEq(reasonsOf(s), 0);
        assertEq(s.vault.guard().peak, unitPrice);
        assertFalse(s.vault.guard().drawdownLatched);
    }

    function test_a_drawdown_past_the_hard_limit_halts() public {
        setPrice(eth, 1380e8); // 15.5 %
        uint16 reasons = DAY_LOSS | DRAWDOWN | HALTED;
        _expectChange(VaultState.HALTED, reasons);
        poke(s);
        assertEq(s.vault.guard().haltedAt, block.timestamp);
        uint64 haltedAt = s.vault.guard().haltedAt;
        travel(1 hours);
        poke(s);
        assertEq(s.vault.guard().haltedAt, haltedAt, "a halt begins once");
    }

    function test_a_new_peak_is_remembered() public {
        setPrice(eth, 2400e8);
        poke(s);
        uint256 peak = s.vault.guard().peak;
        assertApproxEqRel(peak, 1.1e18, 0.001e18);
        travel(2 days);
        setPrice(eth, 2380e8);
        poke(s);
        assertEq(s.vault.guard().peak, peak);
    }

    function test_a_vote_halts_once_and_the_second_time_changes_nothing() public {
        _expectChange(VaultState.HALTED, HALTED);
        halt(s);
        uint64 haltedAt = s.vault.guard().haltedAt;
        assertEq(haltedAt, block.timestamp);
        travel(1 hours);
        halt(s);
        assertEq(s.vault.guard().haltedAt, haltedAt);
        _expectChange(VaultState.ACTIVE, 0);
        resume(s);
        assertEq(s.vault.guard().haltedAt, 0);
    }

    function test_a_vault_without_a_full_price_is_not_resumed() public {
        halt(s);
        letAssetFeedsGoStale();
        vm.prank(address(timelock));
        vm.expectRevert(fails(IStrategyVault.VaultNotPriced.selector, uint256(HALTED | PRICE_MISSING)));
        strategies.resume(s.id);
    }

    function test_only_the_registry_halts_resumes_updates_and_writes_off() public {
        vm.startPrank(address(timelock));
        bytes memory unauthorized = fails(IStrategyVault.VaultUnauthorized.selector, address(timelock));
        vm.expectRevert(unauthorized);
        s.vault.halt();
        vm.expectRevert(unauthorized);
        s.vault.resume();
        vm.expectRevert(unauthorized);
        s.vault.writeOff(eth.token);
        StrategyManifest memory m = manifest(s.agentId);
        vm.expectRevert(unauthorized);
        s.vault.update(0, m.limits, m.assets);
    }

    function test_the_guardian_reduces_for_as_long_as_it_said() public {
        vm.prank(guardian);
        constitution.stopVault(address(s.vault), 1 days);
        assertEq(reasonsOf(s), GUARDIAN);
        travel(1 days);
        assertEq(reasonsOf(s), 0);
    }

    function test_a_deposit_that_does_not_cover_the_slippage_reduces() public {
        vm.prank(address(timelock));
        agents.awardDeposit(s.agentId, 30_000e6);
        assertEq(reasonsOf(s), DEPOSIT);
        postDeposit(s.agentId, 30_000e6, controller);
        assertEq(reasonsOf(s), 0);
    }

    function test_what_a_slippage_sum_holds_stays_covered_when_value_leaves() public {
        uint256 level = s.vault.guard().slippage.level;
        assertGt(level, 0);
        recall(s, address(quote), s.vault.book().quoteHeld - 100e6);
        recall(s, eth.token, held(s, eth.token) - 0.05 ether);
        uint256 value = s.vault.status().value;
        assertLt(_shareUp(value, 100), level);
        assertEq(s.vault.status().requiredDeposit, level + _shareUp(value, 300));
        travel(7 days);
        assertEq(s.vault.status().requiredDeposit, _shareUp(value, 100) + _shareUp(value, 300), "decayed by now");
    }

    function test_an_exposure_is_at_the_prices_of_now() public {
        (bool priced, int256 worst) = s.vault.exposure();
        assertTrue(priced);
        assertEq(worst, s.vault.worstProfit());
        setPrice(eth, 1000e8); // and nobody pokes
        (priced, worst) = s.vault.exposure();
        assertEq(worst, s.vault.status().profit);
        assertLt(worst, s.vault.worstProfit());
        letAssetFeedsGoStale();
        (priced,) = s.vault.exposure();
        assertFalse(priced);
    }

    function test_a_tightened_ceiling_binds_a_running_vault_at_once() public {
        setPrice(eth, 1900e8); // 2.5 %
        assertEq(reasonsOf(s), 0);
        Limits memory tight = ceilings();
        tight.maxDailyLossBps = 200;
        vm.prank(address(timelock));
        constitution.setCeilings(tight);
        assertEq(reasonsOf(s), DAY_LOSS);
        poke(s); // which keeps what binds now
        assertEq(reasonsOf(s), DAY_LOSS);
        assertEq(s.vault.guard().reasons, DAY_LOSS);
    }

    function test_a_bond_below_the_constitutions_least_reduces() public {
        StrategyManifest memory m = manifest(registerOther());
        m.capital = 0;
        Strategy memory empty = deployStrategy(m);
        vm.prank(address(timelock));
        agents.slashBond(empty.agentId, 49_000 ether);
        assertEq(reasonsOf(empty), 0, "exactly the least");
        vm.prank(address(timelock));
        agents.slashBond(empty.agentId, 1);
        assertEq(reasonsOf(empty), COLLATERAL);
    }

    function test_a_missing_price_reduces_while_it_is_missing() public {
        letAssetFeedsGoStale();
        IStrategyVault.Status memory status = s.vault.status();
        assertEq(status.reasons, PRICE_MISSING);
        assertFalse(status.priced);
        assertEq(status.value, s.vault.book().quoteHeld, "what has no price counts for nothing");
        assertEq(status.unitPriceWad, s.vault.guard().lastUnitPrice, "but the unit price stays the last");
        poke(s);
        refresh();
        assertEq(reasonsOf(s), 0);
    }

    function test_an_asset_without_a_price_counts_at_its_last_one_for_the_limits() public {
        StrategyManifest memory m = manifestOfTwo(registerOther());
        Strategy memory two = deployStrategy(m);
        trade(two, order(two, eth.token, true, 500_000e6));
        trade(two, order(two, btc.token, true, 100e6));
        letAssetFeedsGoStale();
        publish(eth.aggregator, 1780e8); // dust of BTC has no price, and blinds nothing
        assertEq(reasonsOf(two), PRICE_MISSING | DAY_LOSS);
    }

    function test_a_quote_token_off_its_peg_reduces_while_it_is() public {
        publish(quoteAggregator, 0.97e8);
        assertEq(reasonsOf(s), QUOTE_UNHEALTHY | PRICE_MISSING);
        publish(quoteAggregator, 1e8);
        assertEq(reasonsOf(s), 0);
    }

    function test_a_token_that_can_not_tell_its_balance_has_no_price() public {
        Strategy memory two = _strategyWithDeadBtc();
        assertEq(reasonsOf(two), PRICE_MISSING);
        poke(two);
        assertEq(held(two, btc.token), 1e8, "the books keep it");
        FaultyToken(btc.token).setBalanceHidden(false);
        assertEq(reasonsOf(two), 0);
    }

    function test_an_unclosed_window_reduces_until_it_is_settled() public {
        toNextWindow();
        poke(s);
        toWindowEnd();
        assertEq(reasonsOf(s), UNSETTLED);
        if (close(s) != 0) applyResult(s, account(s).pendingMove);
        assertEq(reasonsOf(s), 0);
    }

    function test_the_worst_profit_is_the_hard_drawdowns_or_todays_if_that_is_lower() public {
        // 1,000,000 at the peak: 767,125 after drawdown, discount and gap.
        assertEq(s.vault.worstProfit(), 767_125e6 - int256(CAPITAL));
        setPrice(eth, 1000e8);
        poke(s);
        assertEq(s.vault.worstProfit(), s.vault.status().profit);
        assertLt(s.vault.worstProfit(), 767_125e6 - int256(CAPITAL));
    }

    function test_a_written_off_token_leaves_the_books_at_nothing() public {
        Strategy memory two = _strategyWithDeadBtc();
        uint256 units = two.vault.book().units;
        vm.expectEmit(address(two.vault));
        emit IStrategyVault.WrittenOff(btc.token, 1e8);
        vm.startPrank(address(timelock));
        strategies.writeOff(two.id, btc.token);
        assertEq(held(two, btc.token), 0);
        assertEq(two.vault.book().units, units, "the loss is the vault's");
        assertEq(two.vault.guard().reasons, DAY_LOSS, "6 % of it");
        vm.expectRevert(fails(IStrategyVault.VaultZeroAmount.selector));
        strategies.writeOff(two.id, btc.token);
    }

    function test_a_vault_whose_last_token_is_written_off_is_empty() public {
        Strategy memory two = _strategyWithDeadBtc();
        recall(two, address(quote), type(uint128).max);
        assertFalse(two.vault.isEmpty());
        vm.prank(address(timelock));
        strategies.writeOff(two.id, btc.token);
        assertTrue(two.vault.isEmpty());
        assertEq(two.vault.book().units, 0);
        assertEq(two.vault.book().emptiedAt, block.timestamp);
        assertEq(two.vault.status().unitPriceWad, 1e18, "of a vault without units");
    }

    // Helpers

    /// @dev A strategy that bought one BTC, whose token then stops telling balances.
    function _strategyWithDeadBtc() private returns (Strategy memory two) {
        two = deployStrategy(manifestOfTwo(registerOther()));
        trade(two, order(two, btc.token, true, 60_100e6));
        uint256 bought = held(two, btc.token);
        assertGt(bought, 1e8);
        trade(two, order(two, btc.token, false, bought - 1e8));
        vm.etch(btc.token, address(new FaultyToken("", "", 8)).code);
        FaultyToken(btc.token).setBalanceHidden(true);
    }

    function _shareUp(uint256 value, uint256 bps) private pure returns (uint256) {
        return (value * bps + 9_999) / 10_000;
    }

    function _expectChange(VaultState state, uint16 reasons) private {
        uint256 unitPrice = s.vault.status().unitPriceWad;
        vm.expectEmit(address(s.vault));
        emit IStrategyVault.StateChanged(state, reasons, unitPrice);
    }
}
