// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {Governor} from "@openzeppelin/contracts/governance/Governor.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
import {GovernorCountingSimple} from "@openzeppelin/contracts/governance/extensions/GovernorCountingSimple.sol";
import {GovernorSettings} from "@openzeppelin/contracts/governance/extensions/GovernorSettings.sol";
import {GovernorStorage} from "@openzeppelin/contracts/governance/extensions/GovernorStorage.sol";
import {GovernorTimelockControl} from "@openzeppelin/contracts/governance/extensions/GovernorTimelockControl.sol";
import {GovernorVotes} from "@openzeppelin/contracts/governance/extensions/GovernorVotes.sol";
import {IVotes} from "@openzeppelin/contracts/governance/utils/IVotes.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {Time} from "@openzeppelin/contracts/utils/types/Time.sol";
import {IRewardPool} from "../interfaces/IRewardPool.sol";
import {IStrategyRegistry} from "../interfaces/IStrategyRegistry.sol";
import {StrategyManifest} from "../libraries/Types.sol";
import {GovernorObjection} from "./GovernorObjection.sol";

// slither-disable-start naming-convention -- the name that the protocol was given
/// @title MARKETFLOW_DAO: OpenZeppelin's Governor and the four verbs
/// @notice A verb is a convenience. A generic proposal reaches the same registry, factory, vault, treasury and pool, and
/// they refuse the same things.
/// @custom:kill Votes can be lost, not stopped; the timelock's only proposer, executor and canceller is this contract.
// solhint-disable-next-line contract-name-camelcase
contract MARKETFLOW_DAO is
    Governor,
    GovernorSettings,
    GovernorCountingSimple,
    GovernorStorage,
    GovernorVotes,
    GovernorTimelockControl,
    GovernorObjection
{
    /// @param quorumBps share of the circulating votes
    /// @param quorumFloor token wei
    /// @param graceS how long a succeeded proposal can be queued, and a queued one executed once it is due
    struct Settings {
        uint48 votingDelayS;
        uint32 votingPeriodS;
        uint256 proposalThreshold;
        uint256 quorumFloor;
        uint16 quorumBps;
        uint48 lastStretchS;
        uint48 objectionPeriodS;
        uint48 graceS;
    }

    /// @notice No vote can make the next one start later, or last longer.
    uint32 public constant MAX_VOTING_S = 30 days;

    IStrategyRegistry public immutable strategies;
    IRewardPool public immutable pool;
    uint256 public immutable quorumFloor;
    uint16 public immutable quorumBps;
    uint48 public immutable graceS;

    /// @notice The manifest of a proposal made by `proposeStrategy`.
    mapping(uint256 proposalId => bytes32) public manifestOf;

    event StrategyProposed(uint256 indexed proposalId, bytes32 indexed manifestHash, address indexed proposer);

    error DaoNotDeployable(uint256 proposalId, ProposalState state);
    error DaoInvalidSettings();
    error DaoTimelockFixed();

    constructor(
        IVotes token_,
        TimelockController timelock_,
        IStrategyRegistry strategies_,
        IRewardPool pool_,
        Settings memory s
    )
        Governor("MARKETFLOW_DAO")
        GovernorSettings(s.votingDelayS, s.votingPeriodS, s.proposalThreshold)
        GovernorVotes(token_)
        GovernorTimelockControl(timelock_)
        GovernorObjection(s.lastStretchS, s.objectionPeriodS)
    {
        _require(s.quorumBps <= 10_000 && s.graceS > 0);
        _require(s.votingDelayS > 0 && s.votingDelayS <= MAX_VOTING_S);
        _require(s.votingPeriodS >= s.lastStretchS && s.votingPeriodS <= MAX_VOTING_S);
        _require(s.proposalThreshold <= s.quorumFloor);
        strategies = strategies_;
        pool = pool_;
        quorumFloor = s.quorumFloor;
        quorumBps = s.quorumBps;
        graceS = s.graceS;
    }

    // ------------------------------------------------------------------- the verbs

    /// @notice Proposes to deploy a new strategy, or to update a running one (`manifest.updates`).
    /// @dev `#proposer=0x...` is appended, so that nobody else can submit the same proposal and cancel it.
    function proposeStrategy(StrategyManifest calldata manifest, string calldata description)
        external
        returns (uint256 proposalId)
    {
        bytes32 manifestHash = strategies.submit(manifest);
        (address[] memory targets, uint256[] memory values, bytes[] memory calldatas) =
            strategies.callsOf(manifestHash);
        proposalId = propose(targets, values, calldatas, _signed(description));
        manifestOf[proposalId] = manifestHash;
        emit StrategyProposed(proposalId, manifestHash, msg.sender);
    }

    /// @notice Proposes to take capital back in kind.
    function proposeRecall(
        bytes32 strategyId,
        IStrategyRegistry.RecallItem[] calldata items,
        string calldata description
    ) external returns (uint256) {
        (address[] memory targets, uint256[] memory values, bytes[] memory calldatas) =
            strategies.recallCalls(strategyId, items);
        return propose(targets, values, calldatas, _signed(description));
    }

    /// @notice Proposes to halt a strategy for good; what it holds is then auctioned or recalled.
    function proposeRetirement(bytes32 strategyId, string calldata description) external returns (uint256) {
        (address[] memory targets, uint256[] memory values, bytes[] memory calldatas) =
            strategies.retireCalls(strategyId);
        return propose(targets, values, calldatas, _signed(description));
    }

    /// @notice Votes for.
    function voteStrategy(uint256 proposalId) external returns (uint256 weight) {
        return _castVote(proposalId, msg.sender, uint8(VoteType.For), "");
    }

    /// @param support 0 against, 1 for, 2 abstain
    function voteStrategy(uint256 proposalId, uint8 support) external returns (uint256 weight) {
        return _castVote(proposalId, msg.sender, support, "");
    }

    /// @notice Casts a ballot signed by `voter` (EIP-712 Ballot of OpenZeppelin's Governor; ERC-1271 for contracts).
    function voteStrategyBySig(uint256 proposalId, uint8 support, address voter, bytes memory signature)
        external
        returns (uint256 weight)
    {
        return castVoteBySig(proposalId, support, voter, signature);
    }

    /// @notice Queues a succeeded proposal, or executes a queued one that is due. Anyone.
    function deployApproved(uint256 proposalId) external {
        ProposalState current = state(proposalId);
        if (current == ProposalState.Succeeded) queue(proposalId);
        else if (current == ProposalState.Queued) execute(proposalId);
        else revert DaoNotDeployable(proposalId, current);
    }

    /// @notice Applies the frozen result of the agent's last closed window, once. Anyone. `pnl` must be that result.
    function rewardAgent(uint64 agentId, int256 pnl) external {
        pool.applyResult(agentId, pnl);
    }

    // ------------------------------------------------------------------ its own rules

    /// @inheritdoc GovernorSettings
    /// @dev Within bounds, as the next two: one vote, or one slip in a unit, must not end all votes.
    function setVotingDelay(uint48 delayS) public override {
        _require(delayS > 0 && delayS <= MAX_VOTING_S);
        super.setVotingDelay(delayS);
    }

    /// @inheritdoc GovernorSettings
    function setVotingPeriod(uint32 periodS) public override {
        _require(periodS >= lastStretchS && periodS <= MAX_VOTING_S);
        super.setVotingPeriod(periodS);
    }

    /// @inheritdoc GovernorSettings
    function setProposalThreshold(uint256 threshold) public override {
        _require(threshold <= quorumFloor);
        super.setProposalThreshold(threshold);
    }

    // ----------------------------------------------------------------------- views

    /// @notice max(floor, share of the votes that circulated at `timepoint`); the sink's votes don't circulate.
    function quorum(uint256 timepoint) public view override returns (uint256) {
        uint256 circulating =
            token().getPastTotalSupply(timepoint) - token().getPastVotes(address(token()), timepoint);
        return Math.max(quorumFloor, Math.mulDiv(circulating, quorumBps, 10_000));
    }

    /// @notice The token's clock (ERC-6372), which is the timestamp and can't change: not asked again for every vote.
    function clock() public view override(Governor, GovernorVotes) returns (uint48) {
        return Time.timestamp();
    }

    /// @notice OpenZeppelin's states, and Expired for what was not queued or executed within the grace period.
    function state(uint256 proposalId)
        public
        view
        override(Governor, GovernorTimelockControl)
        returns (ProposalState current)
    {
        current = super.state(proposalId);
        if (current == ProposalState.Succeeded && clock() > proposalDeadline(proposalId) + graceS) {
            return ProposalState.Expired;
        }
        if (current == ProposalState.Queued && clock() > proposalEta(proposalId) + graceS) {
            return ProposalState.Expired;
        }
    }

    /// @notice Refused: every other contract holds the timelock immutably, so another one would govern nothing.
    function updateTimelock(TimelockController) public override onlyGovernance {
        revert DaoTimelockFixed();
    }

    // ----------------------------------------------- overrides required by Solidity

    function proposalDeadline(uint256 proposalId)
        public
        view
        override(Governor, GovernorObjection)
        returns (uint256)
    {
        return super.proposalDeadline(proposalId);
    }

    function proposalNeedsQueuing(uint256 proposalId)
        public
        view
        override(Governor, GovernorTimelockControl)
        returns (bool)
    {
        return super.proposalNeedsQueuing(proposalId);
    }

    function proposalThreshold() public view override(Governor, GovernorSettings) returns (uint256) {
        return super.proposalThreshold();
    }

    function _castVote(uint256 proposalId, address account, uint8 support, string memory reason, bytes memory params)
        internal
        override(Governor, GovernorObjection)
        returns (uint256)
    {
        return super._castVote(proposalId, account, support, reason, params);
    }

    function _propose(
        address[] memory targets,
        uint256[] memory values,
        bytes[] memory calldatas,
        string memory description,
        address proposer
    ) internal override(Governor, GovernorStorage) returns (uint256) {
        return super._propose(targets, values, calldatas, description, proposer);
    }

    function _queueOperations(
        uint256 proposalId,
        address[] memory targets,
        uint256[] memory values,
        bytes[] memory calldatas,
        bytes32 descriptionHash
    ) internal override(Governor, GovernorTimelockControl) returns (uint48) {
        return super._queueOperations(proposalId, targets, values, calldatas, descriptionHash);
    }

    function _executeOperations(
        uint256 proposalId,
        address[] memory targets,
        uint256[] memory values,
        bytes[] memory calldatas,
        bytes32 descriptionHash
    ) internal override(Governor, GovernorTimelockControl) {
        super._executeOperations(proposalId, targets, values, calldatas, descriptionHash);
    }

    function _cancel(
        address[] memory targets,
        uint256[] memory values,
        bytes[] memory calldatas,
        bytes32 descriptionHash
    ) internal override(Governor, GovernorTimelockControl) returns (uint256) {
        return super._cancel(targets, values, calldatas, descriptionHash);
    }

    function _executor() internal view override(Governor, GovernorTimelockControl) returns (address) {
        return super._executor();
    }

    function _require(bool isSane) private pure {
        if (!isSane) revert DaoInvalidSettings();
    }

    function _signed(string calldata description) private view returns (string memory) {
        return string.concat(description, "#proposer=", Strings.toHexString(msg.sender));
    }
}
// slither-disable-end naming-convention
