// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {Test} from "forge-std/Test.sol";
import {ITradeLedger, TradeId} from "contracts/interfaces/ITradeLedger.sol";
import {TradeLedger} from "contracts/ledger/TradeLedger.sol";

/// @notice One hash chain for each vault: opened once, by the factory; extended by the vault alone.
contract TradeLedgerTest is Test {
    address private immutable factory = makeAddr("factory");
    address private immutable vault = makeAddr("vault");
    TradeLedger private ledger;

    function setUp() public {
        ledger = new TradeLedger(factory);
    }

    function test_only_the_factory_opens_a_book() public {
        assertEq(ledger.factory(), factory);
        vm.expectRevert(abi.encodeWithSelector(ITradeLedger.TradeLedgerUnauthorized.selector, address(this)));
        ledger.openBook(vault);
    }

    function test_a_book_opens_once_at_a_genesis_of_its_own() public {
        bytes32 genesis = keccak256(abi.encode(block.chainid, address(ledger), vault));
        vm.expectEmit(address(ledger));
        emit ITradeLedger.BookOpened(vault, genesis);
        vm.prank(factory);
        ledger.openBook(vault);
        assertEq(ledger.headOf(vault), genesis);
        assertEq(ledger.genesisOf(vault), genesis);

        vm.prank(factory);
        vm.expectRevert(abi.encodeWithSelector(ITradeLedger.TradeLedgerBookExists.selector, vault));
        ledger.openBook(vault);
    }

    function test_who_has_no_book_records_nothing() public {
        vm.expectRevert(abi.encodeWithSelector(ITradeLedger.TradeLedgerUnknownVault.selector, address(this)));
        ledger.record(_trade(1));
    }

    function testFuzz_the_head_follows_from_the_trades_and_their_order(uint64 first, uint64 second) public {
        vm.assume(first != second);
        vm.prank(factory);
        ledger.openBook(vault);
        bytes32 head = ledger.genesisOf(vault);
        head = _recordAs(head, first);
        bytes32 both = _recordAs(head, second);
        assertEq(ledger.headOf(vault), both);
        bytes32 swapped = keccak256(abi.encode(ledger.genesisOf(vault), _trade(second)));
        assertNotEq(both, keccak256(abi.encode(swapped, _trade(first))), "the other order is another chain");
    }

    function _recordAs(bytes32 head, uint64 sequence) private returns (bytes32 next) {
        ITradeLedger.Trade memory trade = _trade(sequence);
        next = keccak256(abi.encode(head, trade));
        vm.expectEmit(address(ledger));
        emit ITradeLedger.TradeRecorded(TradeId.wrap(next), vault, trade.agentId, trade);
        vm.prank(vault);
        TradeId id = ledger.record(trade);
        assertEq(TradeId.unwrap(id), next);
        assertEq(ledger.headOf(vault), next);
    }

    function _trade(uint64 sequence) private pure returns (ITradeLedger.Trade memory trade) {
        trade.agentId = 7;
        trade.sequence = sequence;
        trade.prices = new ITradeLedger.PricePoint[](1);
        trade.prices[0] = ITradeLedger.PricePoint(address(1), 2, 3);
    }
}
