// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IStrategyVault} from "contracts/interfaces/IStrategyVault.sol";
import {Rules} from "contracts/libraries/Types.sol";
import {Unit} from "./Unit.sol";

/// @notice A halted vault is sold in lots to anybody, at the oracle's price less a discount that grows with time, and each
/// lot at a round of its own.
contract VaultAuctionTest is Unit {
    Strategy private s;
    uint256 private position;

    function setUp() public override {
        super.setUp();
        s = deployStrategy();
        position = buy(s, 500_000e6);
        quote.mint(bidder, 10_000_000e6);
        vm.prank(bidder);
        quote.approve(address(s.vault), type(uint256).max);
    }

    function test_nothing_is_sold_before_a_halt() public {
        _expectTerms(0, 0, 0);
        vm.prank(bidder);
        vm.expectRevert(fails(IStrategyVault.VaultNotHalted.selector));
        s.vault.fillAuction(eth.token, type(uint256).max);
    }

    function test_nothing_is_sold_without_a_price() public {
        halt(s);
        letAssetFeedsGoStale();
        _expectTerms(0, 0, 0);
        vm.prank(bidder);
        vm.expectRevert(fails(IStrategyVault.VaultNotPriced.selector, uint256(HALTED | PRICE_MISSING)));
        s.vault.fillAuction(eth.token, type(uint256).max);
    }

    function test_the_discount_grows_from_nothing_to_its_largest() public {
        uint256 haltedAt = block.timestamp;
        _haltAndPublish();
        uint256 lot = (position * 2500 + 9_999) / 10_000;
        uint256 worth = (lot * 2000e6 + 1e18 - 1) / 1e18;
        _expectTerms(lot, worth, 0);
        travelTo(haltedAt + 2 hours);
        _expectTerms(lot, (worth * 9750 + 9_999) / 10_000, 250);
        travel(1 days);
        _expectTerms(lot, (worth * 9500 + 9_999) / 10_000, 500);
    }

    function test_a_fill_moves_one_lot_and_its_price() public {
        halt(s);
        travel(2 hours);
        (uint256 amount, uint256 quoteIn, uint256 discountBps) = s.vault.auctionQuote(eth.token);
        uint256 quoteHeld = s.vault.book().quoteHeld;
        uint256 before = quote.balanceOf(bidder);
        vm.expectEmit(address(s.vault));
        emit IStrategyVault.AuctionFilled(eth.token, bidder, amount, quoteIn, discountBps);
        _fill(quoteIn);
        assertEq(IERC20(eth.token).balanceOf(bidder), amount);
        assertEq(quote.balanceOf(bidder), before - quoteIn);
        assertEq(held(s, eth.token), position - amount);
        assertEq(s.vault.book().quoteHeld, quoteHeld + quoteIn);
        travel(1);
        (, uint256 nextIn, uint256 nextBps) = s.vault.auctionQuote(eth.token);
        assertEq(nextBps, 0, "from nothing again");
        assertGt(nextIn, quoteIn);
    }

    function test_a_bid_that_is_too_low_buys_nothing() public {
        _haltAndPublish();
        (, uint256 quoteIn,) = s.vault.auctionQuote(eth.token);
        vm.prank(bidder);
        vm.expectRevert(fails(IStrategyVault.VaultAuctionTooDear.selector, quoteIn, quoteIn - 1));
        s.vault.fillAuction(eth.token, quoteIn - 1);
    }

    function test_one_round_sells_one_lot() public {
        halt(s);
        _expectNeedsNewerRound(); // the round that it was halted at
        travel(1);
        _fill(type(uint256).max);
        _expectNeedsNewerRound(); // the round of the last fill
        travel(1);
        _fill(type(uint256).max);
    }

    function test_lots_keep_their_size_within_one_halt_until_nothing_is_left() public {
        _haltAndPublish();
        (uint256 lot,,) = s.vault.auctionQuote(eth.token);
        for (uint256 i; i < 3; ++i) {
            assertEq(_fill(type(uint256).max), lot);
            travel(1);
        }
        assertEq(_fill(type(uint256).max), position - 3 * lot, "the rest");
        assertEq(held(s, eth.token), 0);
        travel(1);
        vm.prank(bidder);
        vm.expectRevert(fails(IStrategyVault.VaultZeroAmount.selector));
        s.vault.fillAuction(eth.token, type(uint256).max);
    }

    function test_another_halt_has_lots_of_its_own() public {
        _haltAndPublish();
        uint256 lot = _fill(type(uint256).max);
        travel(1 days);
        resume(s);
        _expectTerms(0, 0, 0);
        _haltAndPublish();
        (uint256 next,, uint256 discountBps) = s.vault.auctionQuote(eth.token);
        assertEq(next, ((position - lot) * 2500 + 9_999) / 10_000);
        assertEq(discountBps, 0);
    }

    function test_only_listed_assets_are_sold() public {
        halt(s);
        vm.prank(bidder);
        vm.expectRevert(fails(IStrategyVault.VaultUnknownAsset.selector, btc.token));
        s.vault.fillAuction(btc.token, type(uint256).max);
    }

    function test_the_constitutions_lots_may_be_the_whole_position() public {
        Rules memory r = rules();
        r.auctionLotBps = 10_000;
        vm.prank(address(timelock));
        constitution.setRules(r);
        _haltAndPublish();
        assertEq(_fill(type(uint256).max), position);
    }

    /// @dev And the first round after the halt.
    function _haltAndPublish() private {
        halt(s);
        travel(1);
    }

    function _expectNeedsNewerRound() private {
        _expectTerms(0, 0, 0);
        vm.prank(bidder);
        vm.expectRevert(
            fails(IStrategyVault.VaultAuctionNeedsNewerRound.selector, block.timestamp, block.timestamp)
        );
        s.vault.fillAuction(eth.token, type(uint256).max);
    }

    function _fill(uint256 maxQuoteIn) private returns (uint256 amount) {
        vm.prank(bidder);
        (amount,) = s.vault.fillAuction(eth.token, maxQuoteIn);
    }

    function _expectTerms(uint256 amount, uint256 quoteIn, uint256 discountBps) private view {
        (uint256 amountNow, uint256 quoteInNow, uint256 discountNow) = s.vault.auctionQuote(eth.token);
        assertEq(amountNow, amount);
        assertEq(quoteInNow, quoteIn);
        assertEq(discountNow, discountBps);
    }
}
