// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {ITradeLedger, TradeId} from "../interfaces/ITradeLedger.sol";

/// @title TradeLedger
/// @notice Documented in {ITradeLedger}.
contract TradeLedger is ITradeLedger {
    address public immutable factory;

    /// @inheritdoc ITradeLedger
    mapping(address vault => bytes32) public headOf;

    constructor(address factory_) {
        // slither-disable-next-line missing-zero-check -- computed by the deployment, not typed: test_deployment
        factory = factory_;
    }

    /// @inheritdoc ITradeLedger
    function openBook(address vault) external {
        if (msg.sender != factory) revert TradeLedgerUnauthorized(msg.sender);
        if (headOf[vault] != 0) revert TradeLedgerBookExists(vault);
        headOf[vault] = genesisOf(vault);
        emit BookOpened(vault, headOf[vault]);
    }

    /// @inheritdoc ITradeLedger
    function record(Trade calldata trade) external returns (TradeId id) {
        bytes32 head = headOf[msg.sender];
        if (head == 0) revert TradeLedgerUnknownVault(msg.sender);
        head = keccak256(abi.encode(head, trade));
        headOf[msg.sender] = head;
        id = TradeId.wrap(head);
        emit TradeRecorded(id, msg.sender, trade.agentId, trade);
    }

    /// @inheritdoc ITradeLedger
    function genesisOf(address vault) public view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), vault));
    }
}
