// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {FeedAggregator} from "./FeedAggregator.sol";

/// @title The address consumers read, shaped like Chainlink's EACAggregatorProxy
/// @notice A round id carries the phase in its upper bits, `phaseId << 64 | aggregatorRoundId`, so that rounds of
/// earlier aggregators stay readable after the owner has moved to a new one.
/// @dev https://docs.chain.link/data-feeds/historical-data#roundid-in-proxy
contract FeedProxy {
    address public immutable owner;
    uint16 public phaseId;
    FeedAggregator public proposedAggregator;
    mapping(uint16 phase => FeedAggregator) public phaseAggregators;

    event AggregatorProposed(address indexed current, address indexed proposed);
    event AggregatorConfirmed(address indexed previous, address indexed latest);

    error FeedProxyUnauthorized(address caller);
    error FeedProxyNotProposed(address aggregator);

    modifier onlyOwner() {
        if (msg.sender != owner) revert FeedProxyUnauthorized(msg.sender);
        _;
    }

    constructor(FeedAggregator first, address owner_) {
        owner = owner_;
        _setAggregator(first);
    }

    function proposeAggregator(FeedAggregator next) external onlyOwner {
        proposedAggregator = next;
        emit AggregatorProposed(address(aggregator()), address(next));
    }

    /// @notice Begin a new phase with the proposed aggregator.
    function confirmAggregator(FeedAggregator next) external onlyOwner {
        if (next != proposedAggregator) revert FeedProxyNotProposed(address(next));
        delete proposedAggregator;
        _setAggregator(next);
    }

    function aggregator() public view returns (FeedAggregator) {
        return phaseAggregators[phaseId];
    }

    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80) {
        (uint80 id, int256 answer, uint256 startedAt, uint256 updatedAt, uint80 answeredIn) =
            aggregator().latestRoundData();
        return (_withPhase(phaseId, id), answer, startedAt, updatedAt, _withPhase(phaseId, answeredIn));
    }

    function getRoundData(uint80 roundId) external view returns (uint80, int256, uint256, uint256, uint80) {
        uint16 phase = uint16(roundId >> 64);
        (uint80 id, int256 answer, uint256 startedAt, uint256 updatedAt, uint80 answeredIn) =
            phaseAggregators[phase].getRoundData(uint64(roundId));
        return (_withPhase(phase, id), answer, startedAt, updatedAt, _withPhase(phase, answeredIn));
    }

    function latestRound() external view returns (uint256) {
        return _withPhase(phaseId, uint80(aggregator().latestRound()));
    }

    function decimals() external view returns (uint8) {
        return aggregator().decimals();
    }

    function description() external view returns (string memory) {
        return aggregator().description();
    }

    function version() external view returns (uint256) {
        return aggregator().version();
    }

    function _setAggregator(FeedAggregator next) private {
        address previous = address(aggregator());
        phaseAggregators[++phaseId] = next;
        emit AggregatorConfirmed(previous, address(next));
    }

    function _withPhase(uint16 phase, uint80 round) private pure returns (uint80) {
        return uint80(phase) << 64 | uint80(uint64(round));
    }
}
