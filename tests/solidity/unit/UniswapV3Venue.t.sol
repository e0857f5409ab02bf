// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IVenue} from "contracts/interfaces/IVenue.sol";
import {Unit} from "./Unit.sol";

/// @notice Swaps in genuine pools only, takes only from its caller, and holds nothing.
contract UniswapV3VenueTest is Unit {
    function setUp() public override {
        super.setUp();
        vm.startPrank(arbitrageur); // who has plenty of everything
        quote.approve(address(venue), type(uint256).max);
        (bool ok,) = eth.token.call(abi.encodeCall(quote.approve, (address(venue), type(uint256).max)));
        assertTrue(ok);
        vm.stopPrank();
    }

    function test_a_pool_is_where_uniswap_puts_it_whichever_token_comes_first() public view {
        assertEq(venue.poolOf(eth.token, address(quote), POOL_FEE), address(eth.pool));
        assertEq(venue.poolOf(address(quote), eth.token, POOL_FEE), address(eth.pool));
        assertEq(venue.uniswapFactory(), uniswapFactory);
        assertEq(venue.poolInitCodeHash(), poolInitCodeHash);
    }

    function test_a_route_is_a_fee_tier_whose_pool_exists() public {
        venue.checkRoute(address(quote), eth.token, POOL_FEE);
        _expectNoPool(3000);
        _expectNoPool(uint64(1) << 24 | POOL_FEE); // would be cut to the existing pool's
    }

    function test_a_swap_takes_what_it_was_told_and_pays_the_caller_in_both_directions() public {
        vm.startPrank(arbitrageur);
        uint256 ethBefore = _ethOf(arbitrageur);
        uint256 quoteBefore = quote.balanceOf(arbitrageur);
        uint256 bought = venue.swap(address(quote), eth.token, POOL_FEE, 10_000e6, 0);
        assertEq(quote.balanceOf(arbitrageur), quoteBefore - 10_000e6);
        assertEq(_ethOf(arbitrageur), ethBefore + bought);
        assertApproxEqRel(bought, 5 ether, 0.001e18, "at 2,000 dollars less the fee");

        uint256 returned = venue.swap(eth.token, address(quote), POOL_FEE, bought, 0);
        assertEq(_ethOf(arbitrageur), ethBefore);
        assertEq(quote.balanceOf(arbitrageur), quoteBefore - 10_000e6 + returned);
        assertApproxEqRel(returned, 10_000e6, 0.0011e18, "less two fees");
        assertEq(quote.balanceOf(address(venue)) + _ethOf(address(venue)), 0);
    }

    function test_a_swap_that_pays_too_little_does_not_happen() public {
        uint256 snapshot = vm.snapshotState();
        vm.startPrank(arbitrageur);
        uint256 bought = venue.swap(address(quote), eth.token, POOL_FEE, 10_000e6, 0);
        vm.revertToState(snapshot);
        vm.expectRevert(fails(IVenue.VenueInsufficientOutput.selector, bought, bought + 1));
        venue.swap(address(quote), eth.token, POOL_FEE, 10_000e6, bought + 1);
        assertEq(venue.swap(address(quote), eth.token, POOL_FEE, 10_000e6, bought), bought);
    }

    function test_nobody_but_a_genuine_pool_calls_back() public {
        bytes memory data = abi.encode(arbitrageur, address(quote), eth.token, uint64(POOL_FEE));
        vm.expectRevert(fails(IVenue.VenueUnknownPool.selector, address(this)));
        venue.uniswapV3SwapCallback(1e6, -1, data);
        uint256 before = quote.balanceOf(arbitrageur);
        vm.prank(address(btc.pool)); // genuine, but of other tokens
        vm.expectRevert(fails(IVenue.VenueUnknownPool.selector, address(btc.pool)));
        venue.uniswapV3SwapCallback(1e6, -1, data);
        assertEq(quote.balanceOf(arbitrageur), before);
    }

    function _expectNoPool(uint64 route) private {
        vm.expectRevert(
            abi.encodeWithSelector(IVenue.VenueNoPool.selector, address(quote), eth.token, route)
        );
        venue.checkRoute(address(quote), eth.token, route);
    }

    function _ethOf(address who) private view returns (uint256 balance) {
        (, bytes memory data) = eth.token.staticcall(abi.encodeCall(quote.balanceOf, (who)));
        return abi.decode(data, (uint256));
    }
}
