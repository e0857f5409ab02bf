// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";

/// @title An attacker's contract: does what it is told, in one transaction
/// @notice `run` makes its calls in order, all or nothing. Called back by anybody in the middle of something (a token's
/// hook), it makes the calls it was armed with, whether they succeed or not, and remembers how each ended.
contract AttackerScript {
    struct Step {
        address target;
        bytes data;
    }

    struct Outcome {
        bool succeeded;
        bytes answer;
    }

    Step[] private _armed;
    Outcome[] private _outcomes;

    function run(Step[] calldata steps) external returns (bytes[] memory answers) {
        answers = new bytes[](steps.length);
        for (uint256 i; i < steps.length; ++i) {
            answers[i] = Address.functionCall(steps[i].target, steps[i].data);
        }
    }

    function arm(Step[] calldata steps) external {
        delete _armed;
        delete _outcomes;
        for (uint256 i; i < steps.length; ++i) {
            _armed.push(steps[i]);
        }
    }

    /// @notice How the armed calls ended, of all times that this was called back.
    function outcomes() external view returns (Outcome[] memory) {
        return _outcomes;
    }

    fallback() external {
        for (uint256 i; i < _armed.length; ++i) {
            (bool succeeded, bytes memory answer) = _armed[i].target.call(_armed[i].data);
            _outcomes.push(Outcome(succeeded, answer));
        }
    }
}
