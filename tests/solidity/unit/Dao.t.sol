// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IGovernor} from "@openzeppelin/contracts/governance/IGovernor.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {GovernorObjection} from "contracts/governance/GovernorObjection.sol";
import {MARKETFLOW_DAO} from "contracts/governance/MARKETFLOW_DAO.sol";
import {Timelock} from "contracts/governance/Timelock.sol";
import {IRewardPool} from "contracts/interfaces/IRewardPool.sol";
import {IStrategyRegistry} from "contracts/interfaces/IStrategyRegistry.sol";
import {StrategyManifest} from "contracts/libraries/Types.sol";
import {Unit} from "./Unit.sol";

/// @notice The four verbs on OpenZeppelin's Governor, its expiry, and the objection period.
contract DaoTest is Unit {
    uint8 private constant AGAINST = 0;
    uint8 private constant FOR = 1;
    bytes32 private constant BALLOT =
        keccak256("Ballot(uint256 proposalId,uint8 support,address voter,uint256 nonce)");
    bytes32 private constant DOMAIN =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

    // Proposing

    function test_a_strategy_is_proposed_with_the_calls_of_its_manifest() public {
        StrategyManifest memory m = manifest(registerAgent());
        bytes32 hash = keccak256(abi.encode(m));
        uint256 id = proposeStrategy(m, "a strategy");
        assertEq(dao.manifestOf(id), hash);
        (address[] memory targets, uint256[] memory values, bytes[] memory calldatas) = strategies.callsOf(hash);
        assertEq(id, dao.getProposalId(targets, values, calldatas, keccak256(_signed("a strategy", proposer))));
        _expectState(id, IGovernor.ProposalState.Pending);
        assertEq(dao.proposalProposer(id), proposer);
        assertEq(dao.proposalSnapshot(id), block.timestamp + 1 hours);
        assertEq(dao.proposalDeadline(id), block.timestamp + 1 hours + 3 days);
        assertTrue(dao.proposalNeedsQueuing(id));
    }

    function test_a_proposed_strategy_is_announced() public {
        StrategyManifest memory m = manifest(registerAgent());
        bytes32 hash = submit(m);
        (address[] memory targets, uint256[] memory values, bytes[] memory calldatas) = strategies.callsOf(hash);
        uint256 id = dao.getProposalId(targets, values, calldatas, keccak256(_signed("a strategy", proposer)));
        vm.expectEmit(address(dao));
        emit MARKETFLOW_DAO.StrategyProposed(id, hash, proposer);
        proposeStrategy(m, "a strategy");
    }

    function test_nobody_else_submits_the_same_proposal_to_cancel_it() public {
        bytes32 hash = submit(manifest(registerAgent()));
        (address[] memory targets, uint256[] memory values, bytes[] memory calldatas) = strategies.callsOf(hash);
        string memory description = string(_signed("a strategy", proposer));
        vm.prank(voterA);
        vm.expectRevert(fails(IGovernor.GovernorRestrictedProposer.selector, voterA));
        dao.propose(targets, values, calldatas, description);
    }

    function test_proposing_needs_votes() public {
        StrategyManifest memory m = manifest(registerAgent());
        assertEq(dao.proposalThreshold(), 10_000 ether);
        vm.prank(smallHolder);
        vm.expectRevert(
            fails(IGovernor.GovernorInsufficientProposerVotes.selector, smallHolder, 5_000 ether, 10_000 ether)
        );
        dao.proposeStrategy(m, "a strategy");
    }

    function test_a_proposer_cancels_before_the_vote_and_nobody_else() public {
        uint256 id = _proposal();
        vm.prank(voterA);
        vm.expectRevert(abi.encodeWithSelector(IGovernor.GovernorUnableToCancel.selector, id, voterA));
        dao.cancel(id);
        vm.expectEmit(address(dao));
        emit IGovernor.ProposalCanceled(id);
        vm.prank(proposer);
        dao.cancel(id);
        _expectState(id, IGovernor.ProposalState.Canceled);
    }

    // From a proposal to a running strategy

    function test_a_strategy_is_proposed_voted_in_and_deployed_by_anybody() public {
        StrategyManifest memory m = manifest(registerAgent());
        uint256 id = proposeStrategy(m, "a strategy");
        bytes32 strategyId = dao.manifestOf(id);
        _expectNotDeployable(id, IGovernor.ProposalState.Pending);
        toVoting(id);
        vm.prank(voterA);
        assertEq(dao.voteStrategy(id), 1_000_000 ether, "for");
        vm.prank(voterB);
        assertEq(dao.voteStrategy(id, AGAINST), 800_000 ether);
        (uint256 againstVotes, uint256 forVotes,) = dao.proposalVotes(id);
        assertEq(forVotes, 1_000_000 ether);
        assertEq(againstVotes, 800_000 ether);
        toDeadline(id);
        queue(id);
        _expectState(id, IGovernor.ProposalState.Queued);
        vm.expectPartialRevert(TimelockController.TimelockUnexpectedOperationState.selector);
        dao.deployApproved(id); // not due yet
        execute(id);

        _expectState(id, IGovernor.ProposalState.Executed);
        _expectNotDeployable(id, IGovernor.ProposalState.Executed);
        assertEq(uint8(strategies.stageOf(strategyId)), uint8(IStrategyRegistry.Stage.LIVE));
        assertEq(quote.balanceOf(strategies.vaultOf(strategyId)), CAPITAL);
    }

    function test_capital_is_recalled_and_a_strategy_retired_by_vote() public {
        Strategy memory s = deployStrategy();
        IStrategyRegistry.RecallItem[] memory items = new IStrategyRegistry.RecallItem[](1);
        items[0] = IStrategyRegistry.RecallItem(address(quote), 300_000e6, 0);
        vm.prank(proposer);
        uint256 id = dao.proposeRecall(s.id, items, "back");
        passProposal(id);
        assertEq(s.vault.book().quoteHeld, CAPITAL - 300_000e6);

        vm.prank(proposer);
        id = dao.proposeRetirement(s.id, "the end");
        passProposal(id);
        assertEq(uint8(strategies.stageOf(s.id)), uint8(IStrategyRegistry.Stage.RETIRING));
    }

    function test_a_result_is_applied_by_anybody_and_only_when_there_is_one() public {
        Strategy memory s = deployStrategy();
        vm.prank(stranger);
        vm.expectRevert(fails(IRewardPool.RewardPoolNoResult.selector, s.agentId));
        dao.rewardAgent(s.agentId, 1);
        buy(s, 500_000e6);
        setPrice(eth, 2100e8);
        assertGt(settle(s), 0); // by rewardAgent, from a stranger
        assertFalse(account(s).pending);
    }

    // Ballots by signature

    function test_a_signed_ballot_counts_once_and_for_its_voter() public {
        uint256 id = _proposal();
        toVoting(id);
        bytes memory signature = _sign("voter a", voterA, id, FOR);
        vm.prank(relayer);
        vm.expectRevert(fails(IGovernor.GovernorInvalidSignature.selector, voterA));
        dao.voteStrategyBySig(id, AGAINST, voterA, signature);
        vm.prank(relayer);
        assertEq(dao.voteStrategyBySig(id, FOR, voterA, signature), 1_000_000 ether);
        assertTrue(dao.hasVoted(id, voterA));
        assertFalse(dao.hasVoted(id, relayer));
        vm.prank(relayer);
        vm.expectRevert(fails(IGovernor.GovernorInvalidSignature.selector, voterA));
        dao.voteStrategyBySig(id, FOR, voterA, signature); // its nonce is spent
    }

    // Quorum and states

    function test_the_clock_is_the_tokens_which_is_the_timestamp() public view {
        assertEq(dao.clock(), block.timestamp);
        assertEq(dao.clock(), token.clock());
        assertEq(dao.CLOCK_MODE(), "mode=timestamp");
    }

    function test_quorum_is_a_share_of_what_circulates_and_never_below_its_floor() public view {
        uint256 at = block.timestamp - 1;
        uint256 circulating = token.totalSupply() - token.getPastVotes(address(token), at);
        assertEq(circulating, 3_005_000 ether, "treasury and pool never vote");
        assertEq(dao.quorum(at), circulating * 400 / 10_000);
        assertEq(dao.quorum(GENESIS_S - 1), 100_000 ether, "before there was anything: the floor");
    }

    function test_a_proposal_without_a_quorum_or_a_majority_is_defeated() public {
        uint256 id = _proposal();
        toVoting(id);
        vm.prank(smallHolder);
        dao.castVote(id, FOR);
        toDeadline(id);
        _expectState(id, IGovernor.ProposalState.Defeated);
        _expectNotDeployable(id, IGovernor.ProposalState.Defeated);
    }

    function test_what_succeeded_expires_when_nobody_queues_it() public {
        uint256 id = _succeeded();
        vm.warp(dao.proposalDeadline(id) + 7 days);
        _expectState(id, IGovernor.ProposalState.Succeeded);
        vm.warp(dao.proposalDeadline(id) + 7 days + 1);
        _expectState(id, IGovernor.ProposalState.Expired);
        _expectNotDeployable(id, IGovernor.ProposalState.Expired);
    }

    function test_what_was_queued_expires_when_nobody_executes_it() public {
        uint256 id = _succeeded();
        queue(id);
        vm.warp(dao.proposalEta(id) + 7 days);
        _expectState(id, IGovernor.ProposalState.Queued);
        vm.warp(dao.proposalEta(id) + 7 days + 1);
        _expectState(id, IGovernor.ProposalState.Expired);
        _expectNotDeployable(id, IGovernor.ProposalState.Expired);
    }

    function test_the_timelock_is_never_exchanged_not_even_by_vote() public {
        TimelockController other = TimelockController(payable(stranger));
        vm.prank(stranger);
        vm.expectRevert(fails(IGovernor.GovernorOnlyExecutor.selector, stranger));
        dao.updateTimelock(other);

        uint256 id = propose(address(dao), abi.encodeCall(dao.updateTimelock, (other)), "another timelock");
        toVoting(id);
        vote(id, FOR);
        toDeadline(id);
        queue(id);
        travelTo(dao.proposalEta(id) + 1);
        vm.expectRevert(fails(MARKETFLOW_DAO.DaoTimelockFixed.selector));
        dao.deployApproved(id);
        assertEq(dao.timelock(), address(timelock));
    }

    // The objection period

    function test_a_late_flip_to_passing_opens_one_objection_period() public {
        uint256 id = _proposal();
        uint256 deadline = _toLastStretch(id);
        vm.expectEmit(address(dao));
        emit GovernorObjection.ObjectionPeriodOpened(id, uint48(deadline + 1 days));
        _vote(voterA, id, FOR);
        assertEq(dao.objectionDeadline(id), deadline + 1 days);
        assertEq(dao.proposalDeadline(id), deadline + 1 days);

        travelTo(deadline + 1);
        _expectState(id, IGovernor.ProposalState.Active);
        _vote(voterB, id, AGAINST);
        toDeadline(id);
        _expectState(id, IGovernor.ProposalState.Succeeded);
    }

    function test_in_the_objection_period_only_against_counts() public {
        uint256 id = _proposal();
        uint256 deadline = _toLastStretch(id);
        _vote(voterA, id, FOR);
        travelTo(deadline + 1);
        vm.prank(voterB);
        vm.expectRevert(fails(GovernorObjection.GovernorObjectionOnlyAgainst.selector, id, uint256(FOR)));
        dao.castVote(id, FOR);
        _vote(voterB, id, AGAINST);
        _vote(proposer, id, AGAINST);
        toDeadline(id);
        _expectState(id, IGovernor.ProposalState.Defeated);
    }

    function test_no_period_opens_for_what_was_passing_before_the_last_stretch() public {
        uint256 id = _proposal();
        toVoting(id);
        vm.warp(dao.proposalDeadline(id) - 12 hours - 1);
        _vote(voterA, id, FOR);
        _toLastStretch(id);
        _vote(voterB, id, FOR);
        assertEq(dao.objectionDeadline(id), 0);
        toDeadline(id);
        _expectState(id, IGovernor.ProposalState.Succeeded);
    }

    function test_a_late_vote_that_does_not_make_it_pass_opens_nothing() public {
        uint256 id = _proposal();
        uint256 deadline = _toLastStretch(id);
        _vote(voterA, id, AGAINST);
        _vote(voterB, id, FOR);
        assertEq(dao.objectionDeadline(id), 0);
        travelTo(deadline + 1);
        vm.prank(proposer);
        vm.expectRevert(
            abi.encodeWithSelector(
                IGovernor.GovernorUnexpectedProposalState.selector,
                id,
                IGovernor.ProposalState.Defeated,
                bytes32(uint256(1) << uint8(IGovernor.ProposalState.Active))
            )
        );
        dao.castVote(id, FOR);
    }

    function test_a_second_flip_does_not_extend_the_period() public {
        vm.prank(controller);
        token.delegate(controller); // 500,000 votes more
        travel(1);
        uint256 id = _proposal();
        uint256 deadline = _toLastStretch(id);
        _vote(voterB, id, FOR);
        uint256 endsAt = dao.objectionDeadline(id);
        assertEq(endsAt, deadline + 1 days);
        vm.warp(block.timestamp + 1 hours);
        _vote(voterA, id, AGAINST);
        _vote(controller, id, FOR);
        assertEq(dao.objectionDeadline(id), endsAt);
    }

    function test_a_vote_on_nothing_is_refused() public {
        vm.expectRevert(fails(IGovernor.GovernorNonexistentProposal.selector, uint256(99)));
        dao.castVote(99, FOR);
    }

    // Settings

    function test_settings_that_could_not_work_are_refused() public {
        for (uint256 i; i < 7; ++i) {
            MARKETFLOW_DAO.Settings memory s = settings();
            if (i == 0) s.quorumBps = 10_001;
            if (i == 1) s.graceS = 0;
            if (i == 2) s.votingDelayS = 0;
            if (i == 3) s.votingDelayS = 30 days + 1;
            if (i == 4) s.lastStretchS = s.votingPeriodS + 1;
            if (i == 5) s.votingPeriodS = 30 days + 1;
            if (i == 6) s.proposalThreshold = s.quorumFloor + 1;
            vm.expectRevert(fails(MARKETFLOW_DAO.DaoInvalidSettings.selector));
            _deploy(s);
        }
        for (uint256 i; i < 2; ++i) {
            MARKETFLOW_DAO.Settings memory s = settings();
            if (i == 0) s.lastStretchS = 0;
            else s.objectionPeriodS = 0;
            vm.expectRevert(fails(GovernorObjection.GovernorObjectionInvalidPeriods.selector));
            _deploy(s);
        }
        MARKETFLOW_DAO deployed = _deploy(settings());
        assertEq(deployed.quorumBps(), 400);
        assertEq(deployed.graceS(), 7 days);
        assertEq(deployed.lastStretchS(), 12 hours);
    }

    function test_a_vote_changes_the_votes_to_come_within_bounds() public {
        _passChange(abi.encodeCall(dao.setVotingDelay, (30 days)));
        assertEq(dao.votingDelay(), 30 days);
        _passChange(abi.encodeCall(dao.setVotingPeriod, (12 hours)));
        assertEq(dao.votingPeriod(), 12 hours);
        _passChange(abi.encodeCall(dao.setProposalThreshold, (100_000 ether)));
        assertEq(dao.proposalThreshold(), 100_000 ether);
    }

    function test_no_vote_ends_all_votes() public {
        bytes memory invalid = fails(MARKETFLOW_DAO.DaoInvalidSettings.selector);
        vm.startPrank(address(timelock));
        vm.expectRevert(invalid);
        dao.setVotingDelay(0);
        vm.expectRevert(invalid);
        dao.setVotingDelay(30 days + 1);
        vm.expectRevert(invalid);
        dao.setVotingPeriod(12 hours - 1);
        vm.expectRevert(invalid);
        dao.setVotingPeriod(30 days + 1);
        vm.expectRevert(invalid);
        dao.setProposalThreshold(100_000 ether + 1);
        timelock.updateDelay(365 days);
        assertEq(timelock.getMinDelay(), 30 days, "cut to what is bearable");
    }

    function test_the_dao_keeps_its_roles_and_loses_those_it_gave_away() public {
        bytes32 proposer = timelock.PROPOSER_ROLE();
        vm.startPrank(address(timelock));
        vm.expectRevert(fails(Timelock.TimelockRoleFixed.selector, uint256(proposer)));
        timelock.revokeRole(proposer, address(dao));
        timelock.grantRole(proposer, stranger);
        timelock.revokeRole(proposer, stranger);
        vm.stopPrank();
        assertTrue(timelock.hasRole(proposer, address(dao)));
        assertFalse(timelock.hasRole(proposer, stranger));
    }

    function test_nobody_but_a_vote_changes_the_votes_to_come() public {
        bytes memory unauthorized = fails(IGovernor.GovernorOnlyExecutor.selector, address(this));
        vm.expectRevert(unauthorized);
        dao.setVotingDelay(2 hours);
        vm.expectRevert(unauthorized);
        dao.setVotingPeriod(2 days);
        vm.expectRevert(unauthorized);
        dao.setProposalThreshold(1 ether);
        assertEq(timelock.getMinDelay(), 1 days);
    }

    // Helpers

    function _deploy(MARKETFLOW_DAO.Settings memory s) private returns (MARKETFLOW_DAO) {
        return MARKETFLOW_DAO(payable(create("MARKETFLOW_DAO", abi.encode(token, timelock, strategies, pool, s))));
    }

    /// @dev Something harmless to vote on.
    function _proposal() private returns (uint256) {
        return propose(address(treasury), abi.encodeCall(treasury.fundBounties, (1 ether)), "more bounties");
    }

    function _passChange(bytes memory data) private {
        passProposal(propose(address(dao), data, "other settings"));
    }

    function _succeeded() private returns (uint256 id) {
        id = _proposal();
        toVoting(id);
        vote(id, FOR);
        toDeadline(id);
        _expectState(id, IGovernor.ProposalState.Succeeded);
    }

    /// @dev To the first second of the voting period's last stretch; returns the regular deadline.
    function _toLastStretch(uint256 id) private returns (uint256 deadline) {
        deadline = dao.proposalDeadline(id);
        vm.warp(deadline - 12 hours);
    }

    function _vote(address voter, uint256 id, uint8 support) private {
        vm.prank(voter);
        dao.castVote(id, support);
    }

    function _sign(string memory person, address voter, uint256 id, uint8 support) private view returns (bytes memory) {
        bytes32 domain = keccak256(
            abi.encode(DOMAIN, keccak256("MARKETFLOW_DAO"), keccak256("1"), block.chainid, address(dao))
        );
        bytes32 ballot = keccak256(abi.encode(BALLOT, id, support, voter, dao.nonces(voter)));
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(keyOf(person), keccak256(abi.encodePacked("\x19\x01", domain, ballot)));
        return abi.encodePacked(r, s, v);
    }

    function _signed(string memory description, address by) private pure returns (bytes memory) {
        return abi.encodePacked(description, "#proposer=", Strings.toHexString(by));
    }

    function _expectState(uint256 id, IGovernor.ProposalState state) private view {
        assertEq(uint8(dao.state(id)), uint8(state));
    }

    function _expectNotDeployable(uint256 id, IGovernor.ProposalState state) private {
        vm.expectRevert(abi.encodeWithSelector(MARKETFLOW_DAO.DaoNotDeployable.selector, id, state));
        dao.deployApproved(id);
    }
}
