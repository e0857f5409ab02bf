// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

/// @title What the DAO has decided for programs on other chains
/// @notice Append-only. Guardians carry decisions over: each signs the digest of one that it finds here in a final block,
/// and the program there checks the signatures. Anyone can compare what was carried out with what is written here.
interface IDecisionOutbox {
    error DecisionOutboxUnauthorized(address caller);
    error DecisionOutboxBadPayload(uint256 size);
    error DecisionOutboxBadTtl(uint64 ttlS);

    /// @param program that the decision is for, and `protocol` its account there
    /// @param nonce decisions of a protocol are carried out in this order
    /// @param expiresAt unix seconds; afterwards it is passed over
    /// @param payload the instruction's eight first bytes, the account that it is about, and its arguments
    /// @param digest what guardians sign, as an EIP-191 message
    event DecisionSent(
        bytes32 indexed program,
        bytes32 indexed protocol,
        uint64 indexed nonce,
        uint64 expiresAt,
        bytes payload,
        bytes32 digest
    );

    /// @notice Decides: by vote only.
    /// @param ttlS how long it may be carried out, from now, in seconds
    function send(bytes32 program, bytes32 protocol, uint64 ttlS, bytes calldata payload)
        external
        returns (uint64 nonce, bytes32 digest);

    /// @return The number of decisions for a protocol, which is the next one's nonce.
    function countOf(bytes32 program, bytes32 protocol) external view returns (uint64);

    /// @return The digest of a decision, zero when there is none of that nonce.
    function digestOf(bytes32 program, bytes32 protocol, uint64 nonce) external view returns (bytes32);
}
