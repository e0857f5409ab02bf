// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IStrategyVault} from "contracts/interfaces/IStrategyVault.sol";
import {StrategyManifest} from "contracts/libraries/Types.sol";
import {FaultyToken} from "contracts/mocks/FaultyToken.sol";
import {Unit} from "./Unit.sol";

/// @notice Capital in and out: at the unit price in, in kind out whatever is broken, and gifts are no profit.
contract VaultFlowsTest is Unit {
    Strategy private s;

    function setUp() public override {
        super.setUp();
        s = deployStrategy();
    }

    // Allocating

    function test_only_the_treasury_and_an_award_bring_capital() public {
        vm.prank(address(timelock));
        vm.expectRevert(fails(IStrategyVault.VaultUnauthorized.selector, address(timelock)));
        s.vault.allocate(1);
    }

    function test_capital_buys_units_at_the_unit_price_and_leaves_it_unchanged() public {
        assertEq(s.vault.book().units, CAPITAL * 1e12, "the first capital");
        assertEq(s.vault.guard().peak, 1e18);
        buy(s, 500_000e6);
        setPrice(eth, 2100e8);
        IStrategyVault.Status memory before = s.vault.status();
        uint256 minted = uint256(1_000e6) * 1e30 / before.unitPriceWad;
        vm.expectEmit(address(s.vault));
        emit IStrategyVault.Allocated(1_000e6, minted, before.unitPriceWad);
        allocate(s, 1_000e6);
        assertEq(s.vault.book().units, CAPITAL * 1e12 + minted);
        assertEq(s.vault.book().netFlow, -int256(CAPITAL + 1_000e6));
        assertApproxEqAbs(s.vault.status().unitPriceWad, before.unitPriceWad, 1e6);
        assertEq(s.vault.status().profit, before.profit, "flows are no profit");
    }

    function test_a_vault_without_a_full_price_or_halted_takes_no_capital() public {
        buy(s, 500_000e6);
        letAssetFeedsGoStale();
        vm.startPrank(address(timelock));
        vm.expectRevert(fails(IStrategyVault.VaultNotPriced.selector, uint256(PRICE_MISSING)));
        treasury.allocate(s.id, 1e6);
        vm.stopPrank();
        refresh();
        halt(s);
        vm.prank(address(timelock));
        vm.expectRevert(fails(IStrategyVault.VaultHalted.selector));
        treasury.allocate(s.id, 1e6);
    }

    function test_capital_that_does_not_arrive_whole_is_refused() public {
        vm.etch(address(quote), address(new FaultyToken("", "", 6)).code); // its proxy was changed
        FaultyToken(address(quote)).setFeeBps(100);
        vm.prank(address(timelock));
        vm.expectRevert(fails(IStrategyVault.VaultShortPaid.selector, 990e6, 1_000e6));
        treasury.allocate(s.id, 1_000e6);
    }

    // Recalling

    function test_only_the_treasury_recalls() public {
        vm.expectRevert(fails(IStrategyVault.VaultUnauthorized.selector, address(this)));
        s.vault.recall(address(quote), 1, 0);
    }

    function test_quote_leaves_at_its_amount_and_takes_its_share_of_the_units() public {
        vm.expectEmit(address(s.vault));
        emit IStrategyVault.Recalled(address(quote), 250_000e6, 250_000e6, CAPITAL * 1e12 / 4);
        recall(s, address(quote), 250_000e6);
        assertEq(s.vault.book().units, CAPITAL * 1e12 * 3 / 4);
        assertEq(s.vault.book().quoteHeld, 750_000e6);
        assertEq(s.vault.book().netFlow, -750_000e6);
        assertEq(s.vault.status().profit, 0);
    }

    function test_an_asset_leaves_in_kind_at_its_fresh_price() public {
        buy(s, 500_000e6);
        setPrice(eth, 2100e8);
        int256 profit = s.vault.status().profit;
        recall(s, eth.token, 100 ether);
        assertEq(_balanceOf(eth.token, address(treasury)), 100 ether);
        assertApproxEqAbs(s.vault.status().profit, profit, 1);
        assertEq(s.vault.book().netFlow, 210_000e6 - int256(CAPITAL));
    }

    function test_no_more_leaves_than_is_held_and_nothing_is_no_flow() public {
        recall(s, eth.token, 1 ether); // none is held
        recall(s, btc.token, 1e8); // not even listed
        assertEq(s.vault.book().netFlow, -int256(CAPITAL));
        recall(s, address(quote), type(uint256).max);
        assertEq(quote.balanceOf(address(treasury)), TREASURY_QUOTE);
        assertTrue(s.vault.isEmpty());
        assertEq(s.vault.book().units, 0);
        assertEq(s.vault.book().emptiedAt, block.timestamp);
    }

    function test_without_a_price_it_counts_at_the_votes_price_no_higher_than_the_last() public {
        buy(s, 500_000e6);
        poke(s);
        letAssetFeedsGoStale();
        uint256 last = s.vault.positionOf(eth.token).lastPriceWad;
        assertEq(last, 2000e18);
        vm.startPrank(address(timelock));
        vm.expectRevert(fails(IStrategyVault.VaultFallbackPriceTooHigh.selector, last + 1, last));
        treasury.recall(s.id, eth.token, 100 ether, last + 1);
        treasury.recall(s.id, eth.token, 100 ether, 1900e18);
        assertEq(s.vault.book().netFlow, 190_000e6 - int256(CAPITAL));
        treasury.recall(s.id, eth.token, 50 ether, 0);
        assertEq(s.vault.book().netFlow, 190_000e6 - int256(CAPITAL), "at nothing, if the vote says so");
        assertEq(_balanceOf(eth.token, address(treasury)), 150 ether);
    }

    function test_all_that_can_be_transferred_leaves_whatever_is_broken() public {
        Strategy memory two = deployStrategy(manifestOfTwo(registerOther()));
        trade(two, order(two, eth.token, true, 100_000e6));
        trade(two, order(two, btc.token, true, 100_000e6));
        uint256 bought = held(two, eth.token);
        vm.etch(btc.token, address(new FaultyToken("", "", 8)).code);
        FaultyToken(btc.token).setDead(true);
        FaultyToken(btc.token).setBalanceHidden(true);
        halt(two);
        toNextWindow();
        toWindowEnd(); // unsettled
        publish(quoteAggregator, 0.5e8); // depegged
        letAssetFeedsGoStale();

        recall(two, eth.token, type(uint128).max);
        recall(two, address(quote), type(uint128).max);
        assertEq(_balanceOf(eth.token, address(treasury)), bought);
        assertEq(quote.balanceOf(address(two.vault)), 0);
        vm.prank(address(timelock));
        vm.expectRevert(fails(FaultyToken.FaultyTokenDead.selector));
        treasury.recall(two.id, btc.token, 1, 0);
    }

    // Gifts

    function test_a_gift_is_no_profit_and_goes_to_the_treasury_only() public {
        quote.mint(address(s.vault), 77e6);
        giveBase(eth.token, address(s.vault), 2 ether);
        assertEq(s.vault.status().profit, 0);
        assertEq(s.vault.status().value, CAPITAL);
        uint256 before = quote.balanceOf(address(treasury));
        vm.expectEmit(address(s.vault));
        emit IStrategyVault.Skimmed(address(quote), 77e6);
        assertEq(s.vault.skim(address(quote)), 77e6);
        assertEq(quote.balanceOf(address(treasury)), before + 77e6);
        assertEq(s.vault.skim(eth.token), 2 ether);
        assertEq(_balanceOf(eth.token, address(treasury)), 2 ether);
        assertEq(s.vault.skim(address(quote)), 0, "what is booked stays");
    }

    // Updating

    function test_an_update_lists_other_assets_and_allows_the_venue_to_take_them() public {
        StrategyManifest memory m = manifestOfTwo(s.agentId);
        (m.updates, m.capital, m.artefactHash) = (s.id, 0, "artefact v2");
        bytes32 version = approve(m);
        vm.expectEmit(address(s.vault));
        emit IStrategyVault.VaultUpdated(m.artefactHash, m.limits);
        vm.prank(address(timelock));
        strategies.applyUpdate(version);
        IStrategyVault.Asset[] memory listed = s.vault.assets();
        assertEq(listed.length, 2);
        assertEq(abi.encode(listed[1]), abi.encode(IStrategyVault.Asset(btc.token, POOL_FEE, 8)));
        assertGt(trade(s, order(s, btc.token, true, 1_000e6)), 0);
    }

    function _balanceOf(address token_, address who) private view returns (uint256) {
        return FaultyToken(token_).balanceOf(who);
    }
}
