// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {TradeLedger} from "../../../contracts/ledger/TradeLedger.sol";
import {ITradeLedger, TradeId} from "../../../contracts/interfaces/ITradeLedger.sol";
import {Symbolic} from "./Symbolic.sol";

/// @title The ledger, from any state, by any caller
contract LedgerProof is Symbolic {
    address private constant FACTORY = address(0xFAC);
    TradeLedger private ledger;

    function setUp() public {
        ledger = new TradeLedger(FACTORY);
        svm.enableSymbolicStorage(address(ledger));
    }

    /// The new head is keccak256(abi.encode(previous head, trade)), is what `record` returns, and only the caller's moves.
    function check_head_is_the_hash_of_the_last_head_and_the_trade(
        address caller,
        address other,
        ITradeLedger.Trade calldata trade
    ) external {
        bytes32 before = ledger.headOf(caller);
        bytes32 othersBefore = ledger.headOf(other);
        vm.prank(caller);
        TradeId id = ledger.record(trade);
        bytes32 expected = keccak256(abi.encode(before, trade));
        assert(ledger.headOf(caller) == expected);
        assert(TradeId.unwrap(id) == expected);
        assert(other == caller || ledger.headOf(other) == othersBefore);
    }

    /// A caller whose book was never opened records nothing.
    function check_only_registered_vaults_record(address caller, ITradeLedger.Trade calldata trade) external {
        vm.assume(ledger.headOf(caller) == 0);
        vm.prank(caller);
        (bool ok,) = address(ledger).call(abi.encodeCall(ledger.record, (trade)));
        assert(!ok);
    }

    /// Only the factory opens a book, only once, at the vault's genesis.
    function check_only_the_factory_opens_a_book_and_once(address caller, address vault, address other) external {
        bytes32 before = ledger.headOf(vault);
        bytes32 othersBefore = ledger.headOf(other);
        vm.prank(caller);
        (bool ok,) = address(ledger).call(abi.encodeCall(ledger.openBook, (vault)));
        assert(ok == (caller == FACTORY && before == 0));
        assert(ledger.headOf(vault) == (ok ? keccak256(abi.encode(block.chainid, address(ledger), vault)) : before));
        assert(other == vault || ledger.headOf(other) == othersBefore);
    }

    /// Append-only: whatever is called, a head that was set changes only by its vault's own `record`.
    function check_no_call_of_another_moves_a_head(address caller, address vault) external {
        bytes32 before = ledger.headOf(vault);
        vm.assume(before != 0 && caller != vault);
        vm.prank(caller);
        (bool ok,) = address(ledger).call(svm.createCalldata("TradeLedger"));
        ok;
        assert(ledger.headOf(vault) == before);
    }

}

/// @title Nothing can be exchanged under a head
contract LedgerCollisions {
    /// Two entries with the same head have the same predecessor and the same fields.
    function check_two_different_trades_or_heads_never_give_the_same_head(
        bytes32 headA,
        bytes32 headB,
        ITradeLedger.Trade calldata a,
        ITradeLedger.Trade calldata b
    ) external pure {
        if (keccak256(abi.encode(headA, a)) != keccak256(abi.encode(headB, b))) return;
        assert(headA == headB);
        assert(a.amountIn == b.amountIn && a.amountOut == b.amountOut && a.sequence == b.sequence);
        assert(a.explanationHash == b.explanationHash && a.prices.length == b.prices.length);
    }
}
