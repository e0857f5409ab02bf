// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

/// @notice Head of a vault's hash chain after a trade, and so the trade's identity.
type TradeId is bytes32;

/// @title Append-only record of every trade
/// @notice One storage slot for each vault's hash-chain head, one event for each trade. Given the events anyone
/// recomputes the chain; given the head anyone detects an omission.
interface ITradeLedger {
    /// @param token priced token; the quote token's point is the first of a trade's prices
    /// @param answer as published, in the feed's own decimals; zero with `roundId` zero when the feed had none
    struct PricePoint {
        address token;
        uint80 roundId;
        int256 answer;
    }

    /// @param sequence the vault's client nonce that the trade consumed
    /// @param shortfall base units of quote that the execution lost against the oracle; negative when it gained
    /// @param netAssetValue base units of quote after the trade, at the recorded prices
    /// @param reasons why the vault was REDUCING, zero when it was ACTIVE
    struct Trade {
        uint64 agentId;
        uint64 sequence;
        uint16 reasons;
        bytes32 strategyId;
        bytes32 artefactHash;
        bytes32 explanationHash;
        bytes32 observationHash;
        address tokenIn;
        address tokenOut;
        uint256 amountIn;
        uint256 amountOut;
        int256 shortfall;
        uint256 netAssetValue;
        PricePoint[] prices;
    }

    error TradeLedgerUnauthorized(address caller);
    error TradeLedgerUnknownVault(address caller);
    error TradeLedgerBookExists(address vault);

    event BookOpened(address indexed vault, bytes32 genesis);
    event TradeRecorded(TradeId indexed id, address indexed vault, uint64 indexed agentId, Trade trade);

    /// @notice Starts a vault's chain at `genesisOf(vault)`. Factory only.
    function openBook(address vault) external;

    /// @notice Appends a trade to the calling vault's chain: head' = keccak256(abi.encode(head, trade)).
    function record(Trade calldata trade) external returns (TradeId id);

    function headOf(address vault) external view returns (bytes32);

    /// @return keccak256(abi.encode(chain id, ledger, vault)): chains of two deployments can't be confused.
    function genesisOf(address vault) external view returns (bytes32);
}
