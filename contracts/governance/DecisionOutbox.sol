// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IDecisionOutbox} from "../interfaces/IDecisionOutbox.sol";

/// @title DecisionOutbox: the DAO's decisions for programs on other chains
contract DecisionOutbox is IDecisionOutbox {
    /// @dev More does not fit into one of Solana's transactions, beside the signatures.
    uint256 public constant MAX_PAYLOAD_BYTES = 900;
    /// @dev An instruction's eight first bytes and the account that it is about.
    uint256 public constant MIN_PAYLOAD_BYTES = 40;
    /// @dev What can't be carried out holds up what comes after it for so long at most.
    uint64 public constant MAX_TTL_S = 30 days;
    uint64 public constant MIN_TTL_S = 1 hours;

    address public immutable timelock;

    mapping(bytes32 program => mapping(bytes32 protocol => bytes32[])) private _digests;

    constructor(address timelock_) {
        // slither-disable-next-line missing-zero-check -- a mistake makes an outbox that nobody can use
        timelock = timelock_;
    }

    /// @inheritdoc IDecisionOutbox
    function send(bytes32 program, bytes32 protocol, uint64 ttlS, bytes calldata payload)
        external
        returns (uint64 nonce, bytes32 digest)
    {
        if (msg.sender != timelock) revert DecisionOutboxUnauthorized(msg.sender);
        if (payload.length < MIN_PAYLOAD_BYTES || payload.length > MAX_PAYLOAD_BYTES) {
            revert DecisionOutboxBadPayload(payload.length);
        }
        if (ttlS < MIN_TTL_S || ttlS > MAX_TTL_S) revert DecisionOutboxBadTtl(ttlS);
        bytes32[] storage digests = _digests[program][protocol];
        nonce = uint64(digests.length);
        uint64 expiresAt = uint64(block.timestamp) + ttlS;
        digest = _digest(program, protocol, nonce, expiresAt, payload);
        digests.push(digest);
        emit DecisionSent(program, protocol, nonce, expiresAt, payload, digest);
    }

    /// @inheritdoc IDecisionOutbox
    function countOf(bytes32 program, bytes32 protocol) external view returns (uint64) {
        return uint64(_digests[program][protocol].length);
    }

    /// @inheritdoc IDecisionOutbox
    function digestOf(bytes32 program, bytes32 protocol, uint64 nonce) external view returns (bytes32) {
        bytes32[] storage digests = _digests[program][protocol];
        return nonce < digests.length ? digests[nonce] : bytes32(0);
    }

    /// @dev The byte after the words is the kind: zero, a decision of the DAO.
    function _digest(bytes32 program, bytes32 protocol, uint64 nonce, uint64 expiresAt, bytes calldata payload)
        private
        view
        returns (bytes32)
    {
        return keccak256(
            abi.encodePacked(
                "MarketFlow decision v1",
                uint8(0),
                program,
                protocol,
                uint64(block.chainid),
                address(this),
                nonce,
                expiresAt,
                keccak256(payload)
            )
        );
    }
}
