// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IStrategyVault} from "contracts/interfaces/IStrategyVault.sol";
import {ITradeLedger, TradeId} from "contracts/interfaces/ITradeLedger.sol";
import {StrategyManifest} from "contracts/libraries/Types.sol";
import {FaultyToken} from "contracts/mocks/FaultyToken.sol";
import {FaultyVenue} from "contracts/mocks/FaultyVenue.sol";
import {Unit} from "./Unit.sol";

/// @notice What one trade must pass: the order, the market, and every limit, to the base unit.
/// @dev `s` trades on Uniswap; `told`'s venue fills as told, so that a limit can be met exactly.
contract VaultTradeTest is Unit {
    uint256 private constant WAD = 1e18;
    Strategy private s;
    Strategy private told;
    FaultyVenue private faulty;

    function setUp() public override {
        super.setUp();
        s = deployStrategy();
        faulty = FaultyVenue(deployByDeployer("FaultyVenue", ""));
        StrategyManifest memory m = manifest(registerOther());
        (m.venue, m.venueCodeHash) = (address(faulty), address(faulty).codehash);
        told = deployStrategy(m);
        giveBase(eth.token, address(faulty), 10_000 ether);
        quote.mint(address(faulty), 10_000_000e6);
    }

    // The order

    function test_only_the_signing_key_trades() public {
        IStrategyVault.Order memory o = order(s, eth.token, true, 1_000e6);
        vm.prank(controller);
        vm.expectRevert(abi.encodeWithSelector(IStrategyVault.VaultNotSigningKey.selector, controller, signer));
        s.vault.trade(o);
    }

    function test_an_order_has_a_deadline_and_is_the_next() public {
        IStrategyVault.Order memory o = order(s, eth.token, true, 1_000e6);
        o.deadline = uint64(block.timestamp - 1);
        _expectRefused(s, o, fails(IStrategyVault.VaultDeadlinePassed.selector, o.deadline, block.timestamp));
        o.deadline = uint64(block.timestamp);
        o.nonce = 1;
        _expectRefused(s, o, fails(IStrategyVault.VaultWrongNonce.selector, uint256(0), 1));
        o.nonce = 0;
        assertGt(trade(s, o), 0);
        _expectRefused(s, o, fails(IStrategyVault.VaultWrongNonce.selector, uint256(1), 0));
    }

    function test_an_order_names_the_artefact_and_says_why_and_on_what() public {
        IStrategyVault.Order memory o = order(s, eth.token, true, 1_000e6);
        o.artefactHash = "another";
        _expectRefused(
            s,
            o,
            fails(IStrategyVault.VaultWrongArtefact.selector, uint256(s.vault.artefactHash()), uint256(o.artefactHash))
        );
        o = order(s, eth.token, true, 1_000e6);
        o.explanationHash = 0;
        _expectRefused(s, o, fails(IStrategyVault.VaultUnexplained.selector));
        o = order(s, eth.token, true, 1_000e6);
        o.observationHash = 0;
        _expectRefused(s, o, fails(IStrategyVault.VaultUnexplained.selector));
    }

    function test_an_order_is_of_a_listed_asset_and_of_something_that_is_held() public {
        _expectRefused(s, order(s, eth.token, true, 0), fails(IStrategyVault.VaultZeroAmount.selector));
        _expectRefused(
            s, order(s, btc.token, true, 1), fails(IStrategyVault.VaultUnknownAsset.selector, btc.token)
        );
        _expectRefused(
            s,
            order(s, eth.token, true, CAPITAL + 1),
            fails(IStrategyVault.VaultInsufficientHoldings.selector, address(quote), CAPITAL, CAPITAL + 1)
        );
        _expectRefused(
            s,
            order(s, eth.token, false, 1),
            fails(IStrategyVault.VaultInsufficientHoldings.selector, eth.token, 0, 1)
        );
    }

    // What a trade does

    function test_a_trade_is_booked_and_recorded_as_it_happened() public {
        _fill(100_000e6, 49.9 ether);
        ITradeLedger.Trade memory entry = _entry();
        bytes32 head = keccak256(abi.encode(ledger.genesisOf(address(told.vault)), entry));
        vm.expectEmit(address(ledger));
        emit ITradeLedger.TradeRecorded(TradeId.wrap(head), address(told.vault), told.agentId, entry);
        assertEq(buy(told, 100_000e6), 49.9 ether);

        IStrategyVault.Guard memory guard = told.vault.guard();
        assertEq(held(told, eth.token), 49.9 ether);
        assertEq(told.vault.book().quoteHeld, CAPITAL - 100_000e6);
        assertEq(guard.nonce, 1);
        assertEq(guard.tradesToday, 1);
        assertEq(guard.turnoverToday, 100_000e6);
        assertEq(guard.slippage.level, 200e6, "0.1 ether short");
        assertEq(guard.lastUnitPrice, 0.9998e18);
        assertEq(told.vault.status().value, CAPITAL - 200e6);

        _fill(10 ether, 20_000e6);
        assertEq(sell(told, 10 ether), 20_000e6);
        assertEq(held(told, eth.token), 39.9 ether);
        assertEq(told.vault.book().quoteHeld, CAPITAL - 80_000e6);
        assertEq(told.vault.guard().turnoverToday, 120_000e6);
    }

    function test_a_trade_on_uniswap_costs_its_fee() public {
        uint256 bought = buy(s, 100_000e6);
        assertApproxEqRel(bought, 50 ether, 0.001e18);
        assertLt(bought, 50 ether);
        uint256 returned = sell(s, bought);
        assertApproxEqRel(returned, 100_000e6, 0.002e18);
        assertEq(held(s, eth.token), 0);
        assertEq(s.vault.guard().nonce, 2);
    }

    // The market's answer is measured, not believed

    function test_a_market_may_not_take_more_than_was_ordered() public {
        _fill(100_000e6 + 1, 50 ether);
        _expectRefused(
            told,
            order(told, eth.token, true, 100_000e6),
            fails(IERC20Errors.ERC20InsufficientAllowance.selector, address(faulty), 100_000e6, 100_000e6 + 1)
        );
    }

    function test_a_token_may_not_take_more_than_was_ordered() public {
        vm.etch(address(quote), address(new FaultyToken("", "", 6)).code); // its proxy was changed
        FaultyToken taking = FaultyToken(address(quote)); // one base unit of the vault's with every transfer
        taking.setHook(address(taking), abi.encodeCall(taking.burn, (address(told.vault), 1)));
        _fill(100_000e6, 50 ether);
        _expectRefused(
            told,
            order(told, eth.token, true, 100_000e6),
            fails(IStrategyVault.VaultInsufficientHoldings.selector, address(quote), 100_000e6, 100_000e6 + 1)
        );
    }

    function test_what_was_received_is_neither_more_than_arrived_nor_more_than_was_said() public {
        IStrategyVault.Order memory o = order(told, eth.token, true, 100_000e6);
        o.minAmountOut = 50 ether;
        faulty.fill(100_000e6, 50 ether, 50 ether - 1); // it says less
        _expectRefused(told, o, fails(IStrategyVault.VaultShortPaid.selector, 50 ether - 1, 50 ether));
        faulty.fill(100_000e6, 50 ether - 1, 50 ether); // it says more
        _expectRefused(told, o, fails(IStrategyVault.VaultShortPaid.selector, 50 ether - 1, 50 ether));
        faulty.fill(100_000e6, 50 ether, 50 ether);
        assertEq(trade(told, o), 50 ether);
    }

    function test_a_fill_of_nothing_is_no_trade() public {
        bytes memory zero = fails(IStrategyVault.VaultZeroAmount.selector);
        _fill(0, 1 ether);
        _expectRefused(told, order(told, eth.token, true, 1_000e6), zero);
        _fill(1_000e6, 0);
        _expectRefused(told, order(told, eth.token, true, 1_000e6), zero);
    }

    function test_between_trades_the_venue_can_take_nothing() public {
        assertEq(quote.allowance(address(told.vault), address(faulty)), 0);
        _fill(60_000e6, 50 ether); // less than it was offered
        IStrategyVault.Order memory o = order(told, eth.token, true, 100_000e6);
        vm.expectCall(address(quote), abi.encodeCall(quote.approve, (address(faulty), 100_000e6)));
        trade(told, o);
        assertEq(quote.allowance(address(told.vault), address(faulty)), 0);
        _fill(10 ether, 20_000e6);
        sell(told, 10 ether);
        assertEq(IERC20(eth.token).allowance(address(told.vault), address(faulty)), 0);
    }

    // Limits

    function test_one_trade_may_fall_short_of_the_oracle_by_its_slippage_and_no_more() public {
        _fill(100_000e6, 49.7 ether - 1); // 0.6 % of 100,000 dollars
        _expectRefused(
            told,
            order(told, eth.token, true, 100_000e6),
            fails(IStrategyVault.VaultSlippageExceeded.selector, 600e6 + 1, 600e6)
        );
        _fill(100_000e6, 49.7 ether);
        buy(told, 100_000e6);
        assertEq(told.vault.guard().slippage.level, 600e6);
    }

    function test_all_trades_together_may_lose_the_cumulative_slippage_and_no_more() public {
        for (uint256 i; i < 3; ++i) {
            _buyAndSellShort(); // 2,900 dollars each
        }
        uint256 level = told.vault.guard().slippage.level;
        assertEq(level, 8_700e6);
        // The cap is 1 % of what the vault is worth before the swap: 9,913 dollars.
        uint256 cap = (CAPITAL - level) / 100;
        _fill(300_000e6, 149.393 ether); // 1,214 dollars short
        _expectRefused(
            told,
            order(told, eth.token, true, 300_000e6),
            fails(IStrategyVault.VaultCumulativeSlippageExceeded.selector, level + 1_214e6, cap)
        );
        _buyShort(300_000e6, 149.3935 ether); // 1,213: exactly the cap
        assertEq(told.vault.guard().slippage.level, cap);

        travel(1 days); // a seventh of the time in which a full sum decays
        uint256 decayed = cap - told.vault.status().value / 100 / 7;
        _fill(10 ether, 20_000e6); // short of nothing
        sell(told, 10 ether);
        assertEq(told.vault.guard().slippage.level, decayed);
    }

    function test_gains_against_the_oracle_are_netted_but_never_saved_up() public {
        _buyShort(100_000e6, 49.8 ether); // 400 short
        _fill(10 ether, 20_100e6); // 100 gained
        sell(told, 10 ether);
        assertEq(told.vault.guard().slippage.level, 300e6);
        _fill(10 ether, 21_000e6); // 1,000 gained
        sell(told, 10 ether);
        assertEq(told.vault.guard().slippage.level, 0);
    }

    function test_trades_of_a_day_are_counted() public {
        for (uint256 i; i < 10; ++i) {
            buy(s, 1_000e6);
        }
        _expectRefused(
            s, order(s, eth.token, true, 1_000e6), fails(IStrategyVault.VaultTradeCountExceeded.selector, uint256(11), 10)
        );
        travel(1 days);
        buy(s, 1_000e6);
        assertEq(s.vault.guard().tradesToday, 1);
    }

    function test_turnover_of_a_day_is_a_multiple_of_value() public {
        for (uint256 i; i < 2; ++i) {
            _fill(500_000e6, 250 ether);
            buy(told, 500_000e6);
            _fill(250 ether, 500_000e6);
            sell(told, 250 ether);
        }
        _fill(2_000, 1e12);
        _expectRefused(
            told,
            order(told, eth.token, true, 2_000),
            fails(IStrategyVault.VaultTurnoverExceeded.selector, 2 * CAPITAL + 2_000, 2 * CAPITAL)
        );
        travel(1 days);
        buy(told, 2_000);
        assertEq(told.vault.guard().turnoverToday, 2_000);
    }

    function test_a_buy_leaves_no_asset_above_its_weight() public {
        _fill(600_000e6 + 2_000, 300 ether + 1e12);
        _expectRefused(
            told,
            order(told, eth.token, true, 600_000e6 + 2_000),
            fails(IStrategyVault.VaultPositionExceeded.selector, eth.token, 600_000e6 + 2_000, 600_000e6)
        );
        _fill(600_000e6, 300 ether);
        buy(told, 600_000e6);
        assertEq(held(told, eth.token), 300 ether);
    }

    function test_a_trade_brings_no_loss_of_the_day_past_its_limit() public {
        _fill(500_000e6, 250 ether);
        buy(told, 500_000e6);
        setPrice(eth, 1800.8e8); // 4.98 % of the vault
        _fill(100 ether, 180_080e6 - 300e6); // and 0.03 % more
        _expectRefused(
            told,
            order(told, eth.token, false, 100 ether),
            fails(IStrategyVault.VaultDailyLossExceeded.selector, 0.9499 * 1e18, WAD, 500)
        );
        _fill(100 ether, 180_080e6 - 200e6);
        sell(told, 100 ether);
        assertEq(told.vault.guard().lastUnitPrice, 0.95e18);
    }

    function test_a_trade_brings_no_drawdown_past_its_limit() public {
        _fill(500_000e6, 250 ether);
        buy(told, 500_000e6);
        // Slowly enough for the daily limit: 0.955, 0.951, 0.9105, 0.9105, 0.9003 of the peak.
        uint256[5] memory prices = [uint256(1820e8), 1804e8, 1642e8, 1642e8, 1601.2e8];
        for (uint256 i; i < prices.length; ++i) {
            travel(1 days);
            setPrice(eth, prices[i]);
            poke(told);
            assertEq(told.vault.guard().reasons, 0);
        }
        _fill(100 ether, 160_120e6 - 400e6);
        _expectRefused(
            told,
            order(told, eth.token, false, 100 ether),
            fails(IStrategyVault.VaultDrawdownExceeded.selector, 0.8999 * 1e18, WAD, 1000)
        );
        _fill(100 ether, 160_120e6 - 300e6);
        sell(told, 100 ether);
        assertEq(told.vault.guard().lastUnitPrice, 0.9e18);
    }

    // Refusals

    function test_past_a_limit_a_buy_is_refused_and_told_and_a_sale_goes_through() public {
        buy(s, 500_000e6);
        setPrice(eth, 1780e8);
        IStrategyVault.Order memory o = order(s, eth.token, true, 1_000e6);
        vm.expectEmit(address(s.vault));
        emit IStrategyVault.TradeRefused(1, eth.token, true, DAY_LOSS, EXPLANATION);
        assertEq(trade(s, o), 0);
        assertEq(s.vault.guard().nonce, 1, "not consumed");
        assertEq(s.vault.guard().reasons, DAY_LOSS, "the flip is kept");
        assertEq(s.vault.guard().dayBreachedOn, block.timestamp / 1 days);

        assertGt(sell(s, 100 ether), 0);
        assertEq(s.vault.guard().nonce, 2);
        assertEq(s.vault.guard().tradesToday, 1, "sales that reduce are not counted");
        assertGt(s.vault.guard().reduceSlippage.level, 0);
    }

    function test_while_a_window_is_unsettled_a_sale_may_lose_no_more_than_on_any_day() public {
        _fill(100_000e6, 50 ether);
        buy(told, 100_000e6);
        toNextWindow();
        toWindowEnd();
        assertEq(reasonsOf(told), UNSETTLED);
        _fill(10 ether, 19_880e6 - 1); // 0.6 % of 20,000 dollars, and one base unit
        _expectRefused(
            told,
            order(told, eth.token, false, 10 ether),
            fails(IStrategyVault.VaultSlippageExceeded.selector, 120e6 + 1, 120e6)
        );
        _fill(10 ether, 19_880e6);
        sell(told, 10 ether);
        assertEq(told.vault.guard().slippage.level, 120e6);
        assertEq(told.vault.guard().reduceSlippage.level, 0);
    }

    function test_in_an_emergency_a_sale_may_lose_more() public {
        _fill(500_000e6, 250 ether);
        buy(told, 500_000e6);
        setPrice(eth, 1780e8); // a loss of the day
        _fill(10 ether, 17_444e6 - 1); // 2 % of 17,800 dollars, and one base unit
        _expectRefused(
            told,
            order(told, eth.token, false, 10 ether),
            fails(IStrategyVault.VaultSlippageExceeded.selector, 356e6 + 1, 356e6)
        );
        _fill(10 ether, 17_444e6);
        sell(told, 10 ether);
        assertEq(told.vault.guard().reduceSlippage.level, 356e6);
        assertEq(told.vault.guard().slippage.level, 0);
    }

    function test_nothing_trades_that_has_no_price() public {
        buy(s, 500_000e6);
        letAssetFeedsGoStale();
        vm.expectEmit(address(s.vault));
        emit IStrategyVault.TradeRefused(1, eth.token, false, PRICE_MISSING, EXPLANATION);
        assertEq(sell(s, 1 ether), 0);
    }

    function test_an_asset_that_is_not_held_needs_a_price_to_be_bought() public {
        letAssetFeedsGoStale();
        assertEq(reasonsOf(s), 0, "it is missed by nobody");
        vm.expectEmit(address(s.vault));
        emit IStrategyVault.TradeRefused(0, eth.token, true, PRICE_MISSING, EXPLANATION);
        assertEq(buy(s, 1_000e6), 0);
        assertEq(s.vault.guard().reasons, 0);
    }

    function test_a_halted_vault_trades_nothing_not_even_to_reduce() public {
        buy(s, 500_000e6);
        halt(s);
        vm.expectEmit(address(s.vault));
        emit IStrategyVault.TradeRefused(1, eth.token, false, HALTED, EXPLANATION);
        assertEq(sell(s, 1 ether), 0);
    }

    function test_while_the_quote_token_is_off_its_peg_nothing_trades() public {
        buy(s, 500_000e6);
        publish(quoteAggregator, 0.97e8);
        vm.expectEmit(address(s.vault));
        emit IStrategyVault.TradeRefused(1, eth.token, false, QUOTE_UNHEALTHY | PRICE_MISSING, EXPLANATION);
        assertEq(sell(s, 1 ether), 0);
    }

    function test_what_has_a_price_is_sold_while_another_asset_has_none() public {
        StrategyManifest memory m = manifestOfTwo(registerAgent());
        Strategy memory two = deployStrategy(m);
        trade(two, order(two, eth.token, true, 100_000e6));
        trade(two, order(two, btc.token, true, 100_000e6));
        uint256 lastUnitPrice = two.vault.guard().lastUnitPrice;
        letAssetFeedsGoStale();
        publish(eth.aggregator, 1900e8);
        arbitrage(eth);
        assertGt(trade(two, order(two, eth.token, false, 10 ether)), 0);
        assertEq(two.vault.guard().reasons, PRICE_MISSING);
        assertEq(two.vault.guard().lastUnitPrice, lastUnitPrice, "a value without BTC is no unit price");
    }

    // Helpers

    function _fill(uint256 takes, uint256 pays) private {
        faulty.fill(takes, pays, pays);
    }

    /// @dev Buys for 250,000 dollars, 1,500 short, and sells again, 1,400 short.
    function _buyAndSellShort() private {
        _buyShort(250_000e6, 124.25 ether);
        _fill(124.25 ether, 248_500e6 - 1_400e6);
        sell(told, 124.25 ether);
    }

    function _buyShort(uint256 amount, uint256 received) private {
        _fill(amount, received);
        buy(told, amount);
    }

    function _expectRefused(Strategy memory who, IStrategyVault.Order memory o, bytes memory error) private {
        address key = agents.agentOf(who.agentId).signingKey;
        vm.prank(key);
        vm.expectRevert(error);
        who.vault.trade(o);
    }

    /// @dev What the ledger is told of a buy of 49.9 ether for 100,000 dollars, `told`'s first.
    function _entry() private view returns (ITradeLedger.Trade memory entry) {
        (uint80 quoteRound, int256 quoteAnswer,,,) = quoteFeed.latestRoundData();
        (uint80 ethRound, int256 ethAnswer,,,) = eth.feed.latestRoundData();
        entry.agentId = told.agentId;
        entry.strategyId = told.id;
        entry.artefactHash = told.vault.artefactHash();
        (entry.explanationHash, entry.observationHash) = (EXPLANATION, OBSERVATION);
        (entry.tokenIn, entry.tokenOut) = (address(quote), eth.token);
        (entry.amountIn, entry.amountOut) = (100_000e6, 49.9 ether);
        (entry.shortfall, entry.netAssetValue) = (200e6, CAPITAL - 200e6);
        entry.prices = new ITradeLedger.PricePoint[](2);
        entry.prices[0] = ITradeLedger.PricePoint(address(quote), quoteRound, quoteAnswer);
        entry.prices[1] = ITradeLedger.PricePoint(eth.token, ethRound, ethAnswer);
    }
}
