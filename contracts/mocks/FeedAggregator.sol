// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

/// @title One phase of a price feed, shaped like Chainlink's off-chain reporting aggregator
/// @notice Rounds are numbered from 1 and packed into one slot each. As with the original, a round that is not there
/// reads as zeros.
/// @dev https://docs.chain.link/data-feeds/historical-data
contract FeedAggregator {
    struct Transmission {
        int192 answer;
        uint64 timestamp;
    }

    uint256 public constant version = 4;

    uint8 public immutable decimals;
    address public immutable transmitter;
    string public description;

    uint32 private _latestRound;
    mapping(uint32 round => Transmission) private _transmissions;

    event AnswerUpdated(int256 indexed current, uint256 indexed roundId, uint256 updatedAt);
    event NewRound(uint256 indexed roundId, address indexed startedBy, uint256 startedAt);

    error FeedAggregatorUnauthorized(address caller);
    error FeedAggregatorTimestampOutOfOrder(uint64 updatedAt, uint64 previous, uint256 blockTimestamp);

    constructor(uint8 decimals_, string memory description_, address transmitter_) {
        decimals = decimals_;
        description = description_;
        transmitter = transmitter_;
    }

    /// @notice Publish the next round.
    /// @param answer The price, in units of 10^-decimals.
    /// @param updatedAt When it was observed, unix seconds: not before the last round's, not in the future; 0 is now.
    function transmit(int192 answer, uint64 updatedAt) external returns (uint32 round) {
        if (msg.sender != transmitter) revert FeedAggregatorUnauthorized(msg.sender);
        uint64 previous = _transmissions[_latestRound].timestamp;
        if (updatedAt == 0) updatedAt = uint64(block.timestamp);
        if (updatedAt < previous || updatedAt > block.timestamp) {
            revert FeedAggregatorTimestampOutOfOrder(updatedAt, previous, block.timestamp);
        }
        round = ++_latestRound;
        _transmissions[round] = Transmission(answer, updatedAt);
        emit NewRound(round, msg.sender, updatedAt);
        emit AnswerUpdated(answer, round, updatedAt);
    }

    function latestRound() external view returns (uint256) {
        return _latestRound;
    }

    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80) {
        return _read(_latestRound);
    }

    function getRoundData(uint80 roundId) external view returns (uint80, int256, uint256, uint256, uint80) {
        require(roundId <= type(uint32).max, "No data present");
        return _read(uint32(roundId));
    }

    function _read(uint32 round)
        private
        view
        returns (uint80 roundId, int256 answer, uint256 startedAt, uint256 updatedAt, uint80 answeredInRound)
    {
        Transmission memory found = _transmissions[round];
        return (round, found.answer, found.timestamp, found.timestamp, round);
    }
}
