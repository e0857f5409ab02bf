// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

/// @title A price feed that misbehaves as told
/// @notice Answers `latestRoundData()` and `getRoundData(uint80)` (any round) according to its mode.
contract FaultyFeed {
    enum Mode {
        /// the round given to `setRound`, whatever it is
        Answer,
        /// revert with `FaultyFeedDown()`
        Revert,
        /// use up all the gas that was forwarded
        BurnGas,
        /// four words instead of five
        ShortData,
        /// a round id that does not fit into uint80
        OversizedRoundId,
        /// no data at all, as an address without code would
        Empty
    }

    Mode public mode;
    uint8 public decimals;
    string public description;
    uint256 public constant version = 4;

    struct Round {
        uint80 roundId;
        int256 answer;
        uint256 startedAt;
        uint256 updatedAt;
        uint80 answeredInRound;
    }

    Round private _round;

    error FaultyFeedDown();

    constructor(uint8 decimals_, string memory description_) {
        decimals = decimals_;
        description = description_;
    }

    function setMode(Mode mode_) external {
        mode = mode_;
    }

    function setDecimals(uint8 decimals_) external {
        decimals = decimals_;
    }

    function setRound(Round calldata round) external {
        _round = round;
    }

    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80) {
        return _answer();
    }

    function getRoundData(uint80) external view returns (uint80, int256, uint256, uint256, uint80) {
        return _answer();
    }

    /// @dev A compiler-made return can't be malformed, so the malformed ones are made by hand.
    function _answer()
        private
        view
        returns (uint80 roundId, int256 answer, uint256 startedAt, uint256 updatedAt, uint80 answeredInRound)
    {
        if (mode == Mode.Revert) revert FaultyFeedDown();
        if (mode == Mode.BurnGas) {
            bytes memory tooMuch = new bytes(1 << 40);
            answer = int256(tooMuch.length);
        }
        if (mode == Mode.ShortData) _return(abi.encode(_round.roundId, _round.answer, _round.startedAt, _round.updatedAt));
        if (mode == Mode.OversizedRoundId) {
            _return(abi.encode(uint256(1) << 80, _round.answer, _round.startedAt, _round.updatedAt, uint256(1) << 80));
        }
        if (mode == Mode.Empty) _return("");
        Round memory r = _round;
        return (r.roundId, r.answer, r.startedAt, r.updatedAt, r.answeredInRound);
    }

    function _return(bytes memory data) private pure {
        assembly ("memory-safe") {
            return(add(data, 32), mload(data))
        }
    }
}
