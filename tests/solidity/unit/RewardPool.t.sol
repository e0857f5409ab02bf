// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IRewardPool} from "contracts/interfaces/IRewardPool.sol";
import {Protocol, StrategyManifest} from "contracts/libraries/Types.sol";
import {RewardPool} from "contracts/rewards/RewardPool.sol";
import {Unit} from "./Unit.sol";

/// @notice Pays for verified profit, takes as much back for a loss, and everything paid less everything taken is
/// rate x account.
contract RewardPoolTest is Unit {
    Strategy private s;

    function setUp() public override {
        super.setUp();
        s = deployStrategy();
    }

    // Deployment and authority

    function test_a_schedule_that_could_not_work_is_refused() public {
        Protocol memory p;
        p.token = address(token);
        for (uint256 i; i < 4; ++i) {
            RewardPool.Schedule memory schedule =
                RewardPool.Schedule(uint64(block.timestamp), EPOCH_S, WINDOW_S, VESTING_S, MAX_UNSETTLED, BOUNTY, BUDGET);
            if (i == 0) schedule.epochLengthS = WINDOW_S;
            if (i == 1) schedule.windowLengthS = 0;
            if (i == 2) schedule.vestingS = 0;
            if (i == 3) schedule.maxUnsettled = 0;
            vm.expectRevert(fails(IRewardPool.RewardPoolInvalidSchedule.selector));
            create("RewardPool", abi.encode(p, schedule));
        }
    }

    function test_each_authority_is_one_contracts() public {
        bytes memory unauthorized = fails(IRewardPool.RewardPoolUnauthorized.selector, address(this));
        vm.expectRevert(unauthorized);
        pool.registerVault(stranger, 1, 1, 1);
        vm.expectRevert(unauthorized);
        pool.setCap(address(s.vault), 1);
        vm.expectRevert(unauthorized);
        pool.releaseVault(address(s.vault));
        vm.expectRevert(unauthorized);
        pool.setBudget(1);
        vm.expectRevert(unauthorized);
        pool.closeByVote(address(s.vault), 0);
        vm.expectRevert(unauthorized);
        pool.withdraw(1);
    }

    function test_a_vault_that_was_never_registered_has_no_account() public {
        bytes memory unknown = fails(IRewardPool.RewardPoolUnknownVault.selector, stranger);
        vm.prank(stranger);
        vm.expectRevert(unknown);
        pool.sync(1, 1, true, 0, stranger);
        vm.expectRevert(unknown);
        pool.closeWindow(stranger);
        vm.expectRevert(unknown);
        pool.claim(stranger);
        vm.startPrank(address(strategies));
        vm.expectRevert(unknown);
        pool.setCap(stranger, 1);
        vm.expectRevert(unknown);
        pool.releaseVault(stranger);
        vm.stopPrank();
        vm.prank(address(timelock));
        vm.expectRevert(unknown);
        pool.closeByVote(stranger, 0);
        assertEq(pool.debtOf(99), 0);
        assertFalse(pool.settledSince(stranger, 0));
    }

    // Reservations

    function test_a_vaults_cap_is_set_aside_and_released_again() public {
        assertEq(account(s).earmark, CAP);
        assertEq(pool.free(), REWARD_FUND - CAP);
        assertEq(pool.sumOfCaps(), CAP);
        vm.expectEmit(address(pool));
        emit IRewardPool.CapSet(address(s.vault), CAP / 2);
        vm.prank(address(strategies));
        pool.setCap(address(s.vault), CAP / 2);
        assertEq(account(s).earmark, CAP / 2);
        assertEq(pool.free(), REWARD_FUND - CAP / 2);

        vm.expectEmit(address(pool));
        emit IRewardPool.VaultReleased(address(s.vault), s.agentId);
        vm.prank(address(strategies));
        pool.releaseVault(address(s.vault));
        assertEq(pool.free(), REWARD_FUND);
        assertEq(pool.sumOfCaps(), 0);
        assertFalse(account(s).live);
    }

    function test_an_agent_has_one_account_at_a_time() public {
        vm.prank(address(factory));
        vm.expectRevert(
            abi.encodeWithSelector(IRewardPool.RewardPoolAgentBusy.selector, s.agentId, address(s.vault))
        );
        pool.registerVault(stranger, s.agentId, RATE, CAP);
    }

    function test_the_sum_of_caps_stays_within_the_budget() public {
        vm.prank(address(factory));
        vm.expectRevert(
            fails(IRewardPool.RewardPoolBudgetExceeded.selector, uint256(BUDGET) + 1, BUDGET)
        );
        pool.registerVault(stranger, 99, RATE, BUDGET - CAP + 1);

        vm.startPrank(address(timelock));
        vm.expectRevert(fails(IRewardPool.RewardPoolBudgetExceeded.selector, uint256(CAP), CAP - 1));
        pool.setBudget(CAP - 1);
        vm.expectEmit(address(pool));
        emit IRewardPool.BudgetSet(CAP);
        pool.setBudget(CAP);
        assertEq(pool.budgetPerEpoch(), CAP);
    }

    function test_no_vault_is_registered_whose_cap_the_pool_does_not_hold() public {
        uint256 free = pool.free();
        vm.startPrank(address(timelock));
        vm.expectRevert(fails(IRewardPool.RewardPoolUnderfunded.selector, free + 1, free));
        pool.withdraw(free + 1);
        uint256 before = token.balanceOf(address(treasury));
        vm.expectEmit(address(pool));
        emit IRewardPool.Withdrawn(address(treasury), free - 5 ether);
        pool.withdraw(free - 5 ether);
        vm.stopPrank();
        assertEq(token.balanceOf(address(treasury)), before + free - 5 ether);

        vm.prank(address(factory));
        vm.expectRevert(fails(IRewardPool.RewardPoolUnderfunded.selector, 5 ether + 1, 5 ether));
        pool.registerVault(stranger, 99, RATE, 5 ether + 1);
    }

    // Windows

    function test_a_window_is_observed_only_while_it_is_open() public {
        poke(s);
        assertEq(pool.windowOf(address(s.vault)).observations, 0, "in the first epoch no window is open");
        buy(s, 500_000e6);
        toNextWindow();
        uint256 observed = block.timestamp;
        int256 profit = s.vault.status().profit;
        vm.expectEmit(address(pool));
        emit IRewardPool.ProfitObserved(address(s.vault), 0, profit, observer);
        poke(s);
        IRewardPool.Window memory window = pool.windowOf(address(s.vault));
        assertEq(window.observations, 1);
        assertEq(window.lowest, profit);
        assertEq(window.highest, profit);
        assertEq(window.lastBountyAt, observed);

        setPrice(eth, 1990e8);
        poke(s);
        setPrice(eth, 2010e8);
        poke(s);
        setPrice(eth, 2000e8);
        poke(s);
        window = pool.windowOf(address(s.vault));
        assertEq(window.observations, 4);
        assertLt(window.lowest, profit);
        assertGt(window.highest, profit);
        toWindowEnd();
        poke(s);
        assertEq(pool.windowOf(address(s.vault)).observations, 4, "the window is over");
    }

    function test_without_a_full_price_nothing_is_observed() public {
        buy(s, 500_000e6);
        toNextWindow();
        letAssetFeedsGoStale();
        poke(s);
        assertEq(pool.windowOf(address(s.vault)).observations, 0);
    }

    function test_a_window_is_closed_once_after_its_end() public {
        _expectNothingToClose(0); // nothing has ended
        toNextWindow();
        poke(s);
        _expectNothingToClose(0); // still open
        toWindowEnd();
        vm.expectEmit(address(pool));
        emit IRewardPool.WindowClosed(address(s.vault), 0, 0, false, false);
        assertEq(close(s), 0);
        assertFalse(account(s).pending, "a result of zero needs no application");
        assertTrue(pool.isSettled(s.agentId));
        _expectNothingToClose(1);
    }

    function test_before_the_first_epoch_nothing_is_open_or_due() public {
        Protocol memory p;
        (p.token, p.factory) = (address(token), address(factory));
        uint64 later = uint64(block.timestamp + 1 days);
        RewardPool.Schedule memory schedule =
            RewardPool.Schedule(later, EPOCH_S, WINDOW_S, VESTING_S, MAX_UNSETTLED, BOUNTY, BUDGET);
        RewardPool early = RewardPool(create("RewardPool", abi.encode(p, schedule)));
        vm.prank(address(factory));
        early.registerVault(stranger, 1, RATE, 0);
        assertEq(early.accountOf(stranger).nextEpoch, 0);
        assertTrue(early.isSettled(1));
        vm.expectRevert(fails(IRewardPool.RewardPoolNothingToClose.selector, stranger, 0));
        early.closeWindow(stranger);
    }

    function test_a_window_without_an_observation_is_missed() public {
        toNextWindow();
        toWindowEnd();
        vm.expectRevert(fails(IRewardPool.RewardPoolWindowMissed.selector, address(s.vault), 0));
        pool.closeWindow(address(s.vault));
        assertFalse(pool.isSettled(s.agentId));
        assertEq(reasonsOf(s), UNSETTLED);
    }

    function test_a_missed_window_is_made_up_down_but_never_up() public {
        buy(s, 500_000e6);
        toNextWindow();
        toWindowEnd();
        setPrice(eth, 2100e8);
        toNextWindow();
        poke(s);
        toWindowEnd();
        vm.expectEmit(address(pool));
        emit IRewardPool.WindowClosed(address(s.vault), 1, 0, true, false);
        assertEq(close(s), 0);
    }

    // Results

    function test_a_gain_pays_rate_times_the_move_and_vests() public {
        int256 move = _gain();
        assertEq(account(s).pendingMove, move);
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.RewardPnlMismatch.selector, move + 1, move));
        pool.applyResult(s.agentId, move + 1);
        uint256 reward = uint256(move) * RATE;
        vm.expectEmit(address(pool));
        emit IRewardPool.Rewarded(address(s.vault), s.agentId, move, reward, move);
        pool.applyResult(s.agentId, move);
        assertEq(account(s).credited, move);
        assertEq(account(s).unvested, reward);
        assertEq(account(s).earmark, CAP, "set aside anew");
        vm.expectRevert(fails(IRewardPool.RewardPoolNoResult.selector, s.agentId));
        pool.applyResult(s.agentId, move);

        vm.warp(block.timestamp + VESTING_S / 4);
        (uint256 vested, uint256 unvested) = pool.vestedOf(address(s.vault));
        assertApproxEqAbs(vested, reward / 4, 1);
        assertEq(vested + unvested, reward);
        vm.warp(block.timestamp + VESTING_S);
        (vested, unvested) = pool.vestedOf(address(s.vault));
        assertEq(vested, reward);
        assertEq(unvested, 0);
    }

    function test_what_the_cap_cuts_is_paid_in_a_later_epoch() public {
        allocate(s, 1_000_000e6);
        postDeposit(s.agentId, 60_000e6, controller);
        buy(s, 1_000_000e6);
        setPrice(eth, 2240e8); // about 120,000 dollars, of which the cap pays for 50,000
        int256 most = int256(uint256(CAP / RATE));
        assertEq(settle(s), most);
        assertEq(settle(s), most);
        int256 rest = settle(s);
        assertGt(rest, 0);
        assertLt(rest, most);
        assertEq(account(s).credited, 2 * most + rest);
    }

    function test_an_unapplied_result_holds_up_the_next_window_the_cap_and_the_claims() public {
        int256 move = _gain();
        bytes memory pending =
            abi.encodeWithSelector(IRewardPool.RewardPoolResultPending.selector, address(s.vault), move);
        vm.expectRevert(pending);
        pool.closeWindow(address(s.vault));
        vm.prank(address(strategies));
        vm.expectRevert(pending);
        pool.setCap(address(s.vault), 1);
        vm.expectRevert(fails(IRewardPool.RewardPoolUnsettled.selector, address(s.vault)));
        pool.claim(address(s.vault));
        assertFalse(pool.isSettled(s.agentId));
    }

    function test_a_second_gain_keeps_the_pace_of_what_is_vesting() public {
        applyResult(s, _gain());
        uint64 firstEnd = account(s).vestEndsAt;
        setPrice(eth, 2200e8);
        assertGt(settle(s), 0);
        uint64 meanEnd = account(s).vestEndsAt;
        assertGt(meanEnd, firstEnd);
        assertLt(meanEnd, block.timestamp + VESTING_S);
    }

    function test_a_loss_takes_from_what_is_unvested_first() public {
        int256 gain = _gain();
        applyResult(s, gain);
        setPrice(eth, 2050e8);
        toNextWindow();
        poke(s);
        toWindowEnd();
        int256 loss = close(s);
        assertLt(loss, 0);
        uint256 taken = uint256(-loss) * RATE;
        uint256 free = pool.free();
        vm.expectEmit(address(pool));
        emit IRewardPool.ClawedBack(address(s.vault), s.agentId, loss, taken, 0, gain + loss);
        applyResult(s, loss);
        assertEq(account(s).credited, gain + loss);
        assertEq(pool.free(), free + taken);
        (uint256 vested, uint256 unvested) = pool.vestedOf(address(s.vault));
        assertEq(vested + unvested, uint256(gain + loss) * RATE, "paid less taken is rate x account");
    }

    function test_a_loss_beyond_what_is_unclaimed_takes_the_bond() public {
        buy(s, 500_000e6);
        setPrice(eth, 1950e8);
        toNextWindow();
        poke(s);
        toWindowEnd();
        int256 loss = close(s);
        uint256 taken = uint256(-loss) * RATE;
        vm.expectEmit(address(pool));
        emit IRewardPool.ClawedBack(address(s.vault), s.agentId, loss, 0, taken, loss);
        applyResult(s, loss);
        assertEq(agents.agentOf(s.agentId).bond, 50_000 ether - taken);
        assertEq(account(s).credited, loss);
    }

    function test_what_could_not_be_collected_stays_open() public {
        buy(s, 500_000e6);
        setPrice(eth, 1950e8);
        vm.prank(address(timelock));
        agents.slashBond(s.agentId, 49_000 ether);
        assertLt(settle(s), 0);
        int256 collected = -int256(1_000 ether / uint256(RATE));
        assertEq(account(s).credited, collected);
        int256 open = settle(s);
        assertEq(open, s.vault.status().profit - collected, "due again");
        assertEq(account(s).credited, collected, "and nothing left to take");
        assertEq(pool.debtOf(s.agentId), uint256(collected - s.vault.worstProfit()));
    }

    // Claims

    function test_vested_rewards_go_to_the_controller() public {
        _gainAndVest();
        (uint256 vested,) = pool.vestedOf(address(s.vault));
        uint256 before = token.balanceOf(controller);
        vm.expectEmit(address(pool));
        emit IRewardPool.Claimed(address(s.vault), s.agentId, controller, vested);
        assertEq(pool.claim(address(s.vault)), vested);
        assertEq(token.balanceOf(controller), before + vested);
        vm.expectRevert(fails(IRewardPool.RewardPoolNothingToClaim.selector, address(s.vault)));
        pool.claim(address(s.vault));
    }

    function test_the_guardian_stops_claims_for_a_while() public {
        _gainAndVest();
        vm.prank(guardian);
        constitution.stopClaims(1 days);
        vm.expectRevert(fails(IRewardPool.RewardPoolClaimsStopped.selector));
        pool.claim(address(s.vault));
        travel(1 days);
        pool.claim(address(s.vault));
    }

    function test_without_a_full_price_nothing_is_claimed() public {
        _gainAndVest();
        letAssetFeedsGoStale();
        vm.expectRevert(fails(IRewardPool.RewardPoolNothingToClaim.selector, address(s.vault)));
        pool.claim(address(s.vault));
        assertEq(pool.releasableBond(s.agentId), 0);
    }

    function test_after_retirement_what_is_vested_needs_no_price() public {
        _gainAndVest();
        sell(s, held(s, eth.token));
        retire(s);
        recallAll(s);
        if (settle(s) != 0) refresh();
        strategies.finishRetirement(s.id);
        letAssetFeedsGoStale();
        assertGt(pool.claim(address(s.vault)), 0);
        assertEq(pool.releasableBond(s.agentId), agents.agentOf(s.agentId).bond, "no least bond without a vault");
    }

    // Bounties

    function test_an_observer_earns_four_bounties_a_window_at_most() public {
        toNextWindow();
        poke(s);
        assertEq(pool.bountyOf(observer), BOUNTY);
        poke(s);
        assertEq(pool.bountyOf(observer), BOUNTY, "a quarter of the window apart");
        travel(WINDOW_S / 4);
        vm.expectEmit(address(pool));
        emit IRewardPool.BountyEarned(observer, BOUNTY);
        poke(s);
        assertEq(pool.bountyOf(observer), 2 * BOUNTY);
        assertEq(pool.bountyFund(), BOUNTY_FUND - 2 * BOUNTY);

        vm.expectEmit(address(pool));
        emit IRewardPool.BountyClaimed(observer, 2 * BOUNTY);
        vm.prank(observer);
        assertEq(pool.claimBounty(), 2 * BOUNTY);
        assertEq(token.balanceOf(observer), 2 * BOUNTY);
        assertEq(pool.bountyOf(observer), 0);
    }

    function test_what_the_protocol_does_itself_earns_no_bounty() public {
        toNextWindow();
        buy(s, 1_000e6);
        assertEq(pool.windowOf(address(s.vault)).observations, 1, "it observes");
        assertEq(pool.bountyFund(), BOUNTY_FUND);
    }

    function test_an_empty_bounty_fund_stops_nothing() public {
        _emptyBountyFund();
        uint256 owed = pool.bountyOf(observer);
        toNextWindow();
        poke(s);
        assertEq(pool.windowOf(address(s.vault)).observations, 1);
        assertEq(pool.bountyOf(observer), owed);
        toWindowEnd();
        close(s);
        assertTrue(pool.isSettled(s.agentId));
    }

    // Closing by vote

    function test_a_vote_closes_what_nobody_could_observe_but_never_pays() public {
        for (uint256 i; i < MAX_UNSETTLED; ++i) {
            toNextWindow();
            toWindowEnd();
            if (i + 1 == MAX_UNSETTLED) break;
            vm.prank(address(timelock));
            vm.expectRevert(
                fails(IRewardPool.RewardPoolNotOverdue.selector, address(s.vault), i + 1, MAX_UNSETTLED)
            );
            pool.closeByVote(address(s.vault), 0);
        }
        vm.startPrank(address(timelock));
        vm.expectRevert(fails(IRewardPool.RewardPoolMoveMustNotPay.selector, uint256(1)));
        pool.closeByVote(address(s.vault), 1);
        vm.expectEmit(address(pool));
        emit IRewardPool.WindowClosed(address(s.vault), MAX_UNSETTLED - 1, -5e6, true, true);
        pool.closeByVote(address(s.vault), -5e6);
        vm.stopPrank();
        applyResult(s, -5e6);
        assertEq(account(s).credited, -5e6);
        assertEq(agents.agentOf(s.agentId).bond, 50_000 ether - 5e6 * uint256(RATE));
    }

    function test_a_vote_does_not_close_what_anybody_can() public {
        toNextWindow();
        toWindowEnd();
        toNextWindow();
        toWindowEnd();
        toNextWindow();
        poke(s);
        toWindowEnd();
        vm.prank(address(timelock));
        vm.expectRevert(fails(IRewardPool.RewardPoolNotOverdue.selector, address(s.vault), 3, MAX_UNSETTLED));
        pool.closeByVote(address(s.vault), 0);
        assertEq(close(s), 0);
    }

    function test_a_vault_that_a_new_one_has_followed_closes_no_more() public {
        retire(s);
        recallAll(s);
        settle(s);
        strategies.finishRetirement(s.id);
        StrategyManifest memory m = manifest(s.agentId);
        m.salt = "the next";
        Strategy memory next = deployStrategy(m);
        assertEq(pool.vaultOf(s.agentId), address(next.vault));
        toNextWindow();
        s.vault.poke();
        toWindowEnd();
        vm.expectRevert(
            fails(IRewardPool.RewardPoolNothingToClose.selector, address(s.vault), account(s).nextEpoch)
        );
        pool.closeWindow(address(s.vault));
    }

    // Collateral

    function test_an_agent_without_a_vault_may_take_all_of_its_bond() public {
        assertEq(pool.releasableBond(registerOther()), 50_000 ether);
    }

    function test_a_bond_that_does_not_cover_the_worst_case_reduces() public {
        assertEq(reasonsOf(s), 0);
        uint256 releasable = pool.releasableBond(s.agentId);
        vm.prank(address(timelock));
        agents.slashBond(s.agentId, releasable);
        uint256 needed = agents.agentOf(s.agentId).bond;
        assertEq(reasonsOf(s), 0, "exactly enough");
        vm.prank(address(timelock));
        agents.slashBond(s.agentId, 1);
        assertEq(reasonsOf(s), COLLATERAL);
        int256 worst = s.vault.worstProfit();
        assertEq(pool.standing(address(s.vault), worst, needed - 1), COLLATERAL);
        assertEq(pool.standing(address(s.vault), worst, needed), 0);
    }

    // Helpers

    /// @dev Some 25,000 dollars of profit, frozen and not yet applied.
    function _gain() private returns (int256 move) {
        buy(s, 500_000e6);
        setPrice(eth, 2100e8);
        toNextWindow();
        poke(s);
        toWindowEnd();
        move = close(s);
        assertGt(move, 20_000e6);
    }

    function _gainAndVest() private {
        applyResult(s, _gain());
        for (uint256 i; i < 5; ++i) {
            settle(s);
        }
    }

    /// @dev Four observations and a closing a window, until less than one bounty is left.
    function _emptyBountyFund() private {
        while (pool.bountyFund() >= BOUNTY) {
            toNextWindow();
            for (uint256 i; i < 4; ++i) {
                if (i > 0) travel(WINDOW_S / 4);
                poke(s);
            }
            toWindowEnd();
            close(s);
        }
        assertEq(pool.bountyOf(observer) + pool.bountyOf(stranger), BOUNTY_FUND);
    }

    function _expectNothingToClose(uint256 nextEpoch) private {
        vm.expectRevert(fails(IRewardPool.RewardPoolNothingToClose.selector, address(s.vault), nextEpoch));
        pool.closeWindow(address(s.vault));
    }
}
