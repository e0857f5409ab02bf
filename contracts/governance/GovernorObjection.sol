// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {Governor} from "@openzeppelin/contracts/governance/Governor.sol";
import {GovernorCountingSimple} from "@openzeppelin/contracts/governance/extensions/GovernorCountingSimple.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

/// @title GovernorObjection: a late flip to passing can be answered
/// @notice When a vote turns a proposal from failing to passing after the last stretch of the voting period has begun,
/// one objection period follows the deadline in which only Against counts. It opens at most once for each proposal, so
/// there is no chain of extensions, and nobody can snipe at its end, because nothing in it can make a proposal pass.
abstract contract GovernorObjection is Governor, GovernorCountingSimple {
    uint48 public immutable lastStretchS;
    uint48 public immutable objectionPeriodS;

    mapping(uint256 proposalId => uint48) private _objectionEndsAt;

    event ObjectionPeriodOpened(uint256 indexed proposalId, uint48 endsAt);

    error GovernorObjectionOnlyAgainst(uint256 proposalId, uint8 support);
    error GovernorObjectionInvalidPeriods();

    constructor(uint48 lastStretchS_, uint48 objectionPeriodS_) {
        if (lastStretchS_ == 0 || objectionPeriodS_ == 0) revert GovernorObjectionInvalidPeriods();
        lastStretchS = lastStretchS_;
        objectionPeriodS = objectionPeriodS_;
    }

    /// @notice The deadline, after the objection period if one was opened.
    function proposalDeadline(uint256 proposalId) public view virtual override returns (uint256) {
        uint256 deadline = super.proposalDeadline(proposalId);
        if (clock() + lastStretchS < deadline) return deadline; // none can have been opened yet: spares a slot
        uint256 endsAt = _objectionEndsAt[proposalId];
        return endsAt == 0 ? deadline : endsAt;
    }

    /// @notice When the objection period ends; zero while none was opened.
    function objectionDeadline(uint256 proposalId) external view returns (uint256) {
        return _objectionEndsAt[proposalId];
    }

    /// @dev The regular deadline is read from the base, so a vote cast in the objection period is seen as such.
    function _castVote(uint256 proposalId, address account, uint8 support, string memory reason, bytes memory params)
        internal
        virtual
        override
        returns (uint256 weight)
    {
        uint256 deadline = super.proposalDeadline(proposalId);
        bool late = deadline != 0 && clock() + lastStretchS >= deadline;
        if (!late) return super._castVote(proposalId, account, support, reason, params);

        if (clock() > deadline && support != uint8(VoteType.Against) && _objectionEndsAt[proposalId] != 0) {
            revert GovernorObjectionOnlyAgainst(proposalId, support);
        }
        bool passedBefore = _isPassing(proposalId);
        weight = super._castVote(proposalId, account, support, reason, params);
        if (!passedBefore && _isPassing(proposalId) && _objectionEndsAt[proposalId] == 0) {
            uint48 endsAt = SafeCast.toUint48(deadline) + objectionPeriodS;
            _objectionEndsAt[proposalId] = endsAt;
            emit ObjectionPeriodOpened(proposalId, endsAt);
        }
    }

    function _isPassing(uint256 proposalId) private view returns (bool) {
        return _quorumReached(proposalId) && _voteSucceeded(proposalId);
    }
}
