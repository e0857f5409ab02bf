// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IGovernor} from "@openzeppelin/contracts/governance/IGovernor.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {IAgentRegistry} from "contracts/interfaces/IAgentRegistry.sol";
import {IRewardPool} from "contracts/interfaces/IRewardPool.sol";
import {IStrategyRegistry} from "contracts/interfaces/IStrategyRegistry.sol";
import {IStrategyVault} from "contracts/interfaces/IStrategyVault.sol";
import {Reasons} from "contracts/libraries/Reasons.sol";
import {Limits, StrategyManifest, VaultState} from "contracts/libraries/Types.sol";
import {Actors} from "./Actors.sol";

/// @title What holds after every act, whatever the sequence: `docs/invariants.md` says each as a sentence
/// @notice Promises about single acts are checked where they act, in `Actors` and `Ghosts`, and kept in `violation`.
contract Promises is Actors {
    /// @dev All seven OpenZeppelin states from which there is no way on.
    uint256 private constant FINAL_STATES = 1 << uint256(IGovernor.ProposalState.Canceled)
        | 1 << uint256(IGovernor.ProposalState.Defeated) | 1 << uint256(IGovernor.ProposalState.Expired)
        | 1 << uint256(IGovernor.ProposalState.Executed);

    /// @dev What a promise needs to know of one vault, read once: from the vault, and from the feeds.
    struct View {
        Strategy s;
        IStrategyVault.Status status;
        IStrategyVault.Book book;
        IRewardPool.Account account;
        bool known;
        uint256 value;
    }

    mapping(bytes32 version => bytes32) private _votedHash;

    /// @notice Reverts with the id and the words of the first promise that does not hold.
    function check() external {
        require(bytes(violation).length == 0, violation);
        for (uint256 i; i < fleet.length; ++i) {
            View memory v = _view(fleet[i]);
            promise_V1_units_times_unit_price_is_the_value_of_custody(v);
            promise_G7_what_binds_is_the_stricter_of_limits_and_ceilings_at_once(v);
            promise_T6_T7_what_only_a_vote_ends_shows_in_the_state(v);
            promise_V2_balances_are_the_books_and_gifts(v);
            promise_V3_profit_is_value_plus_recalled_less_allocated(v);
            promise_R1_paid_less_taken_is_rate_times_account(v);
            promise_R3_what_is_owed_is_what_was_paid_less_taken_and_claimed(v);
            promise_R7_nothing_vests_later_than_the_last_payment_says(v);
            promise_L1_the_head_recomputes_from_the_events(v);
            promise_S2_an_active_vault_is_covered(v);
            promise_G1_limits_are_those_of_the_approved_version(v);
            promise_G3_stages_vaults_and_accounts_agree(v);
        }
        promise_R4_caps_are_within_the_budget();
        promise_R10_the_pool_holds_what_it_owes_and_what_is_free();
        promise_S1_stakes_are_what_was_posted_less_what_left();
        promise_M3_no_token_is_created();
        promise_M4_the_treasury_has_what_came_less_what_left();
        promise_G2_the_constitution_is_what_the_timelock_said();
        promise_G4_proposals_only_move_on();
        promise_A2_an_outsider_has_gained_nothing();
    }

    function _view(Strategy memory s) private view returns (View memory v) {
        (v.s, v.status, v.book, v.account) = (s, s.vault.status(), s.vault.book(), account(s));
        (v.known, v.value) = valueOf(s);
    }

    // ------------------------------------------------------------------------- vaults

    function promise_V1_units_times_unit_price_is_the_value_of_custody(View memory v) internal view {
        assertEq(v.status.priced, v.known, "V1: priced");
        assertEq(v.status.value, v.value, "V1: value");
        uint256 units = v.book.units;
        if (v.book.quoteHeld == 0 && v.s.vault.isEmpty()) assertEq(units, 0, "V1: units of an empty vault");
        if (!v.known || units == 0) return;
        assertEq(v.status.unitPriceWad, v.value * 1e30 / units, "V1: unit price");
        uint256 back = units * v.status.unitPriceWad / 1e30;
        assertLe(back, v.value, "V1: rounding favours the vault");
        assertGe(back + 1 + units / 1e30, v.value, "V1: to rounding");
    }

    function promise_T6_T7_what_only_a_vote_ends_shows_in_the_state(View memory v) internal view {
        IStrategyVault.Guard memory g = v.s.vault.guard();
        bool halted = v.status.state == VaultState.HALTED;
        assertTrue(g.haltedAt == 0 || halted, "T6: halted, and the state says otherwise");
        bool reducing = v.status.reasons & (Reasons.DRAWDOWN | Reasons.HALTED) != 0;
        assertTrue(!g.drawdownLatched || reducing, "T7: a drawdown, and the state says otherwise");
    }

    function promise_G7_what_binds_is_the_stricter_of_limits_and_ceilings_at_once(View memory v) internal view {
        Limits memory own = v.s.vault.limits();
        Limits memory c = constitution.ceilings();
        IStrategyVault.Guard memory g = v.s.vault.guard();
        uint256 bps = Math.min(own.maxCumulativeSlippageBps, c.maxCumulativeSlippageBps);
        uint256 reduceBps = Math.min(own.maxReduceCumulativeSlippageBps, c.maxReduceCumulativeSlippageBps);
        uint256 required = _cover(v.value, bps, g.slippage) + _cover(v.value, reduceBps, g.reduceSlippage);
        assertEq(v.status.requiredDeposit, required, "G7: the deposit that is required");
    }

    /// @dev One slippage sum: what may be taken at most, or what is left of what was taken when the vault was larger.
    function _cover(uint256 value, uint256 bps, IStrategyVault.Bucket memory sum) private view returns (uint256) {
        uint256 share = Math.ceilDiv(value * bps, 10_000);
        (uint256 elapsed, uint256 decay) = (block.timestamp - sum.updatedAt, constitution.rules().slippageDecayS);
        if (elapsed >= decay) return share;
        uint256 faded = share * elapsed / decay;
        return Math.max(share, sum.level > faded ? sum.level - faded : 0);
    }

    function promise_V2_balances_are_the_books_and_gifts(View memory v) internal view {
        address vault = address(v.s.vault);
        uint256 inQuote = v.book.quoteHeld + gifts[vault][address(quote)];
        assertEq(_balance(address(quote), vault), inQuote, "V2: quote");
        assertEq(_balance(eth.token, vault), held(v.s, eth.token) + gifts[vault][eth.token], "V2: eth");
        assertEq(_balance(btc.token, vault), held(v.s, btc.token) + gifts[vault][btc.token], "V2: btc");
    }

    function promise_V3_profit_is_value_plus_recalled_less_allocated(View memory v) internal view {
        int256 flow = books[address(v.s.vault)].netFlow;
        assertEq(v.book.netFlow, flow, "V3: flows");
        assertEq(v.status.profit, int256(v.value) + flow, "V3: profit");
    }

    // ------------------------------------------------------------------------ rewards

    function promise_R1_paid_less_taken_is_rate_times_account(View memory v) internal view {
        VaultBooks storage b = books[address(v.s.vault)];
        IRewardPool.Account memory a = v.account;
        int256 net = int256(b.paid) - int256(b.takenFromUnclaimed) - int256(b.takenFromBond);
        assertEq(net, int256(uint256(a.rate)) * a.credited, "R1: paid - taken = rate x A");
        assertEq(a.pending, b.pending, "R5: pending");
        assertEq(a.pendingMove, b.pendingMove * (b.pending ? int256(1) : int256(0)), "R5: the frozen move");
    }

    function promise_R3_what_is_owed_is_what_was_paid_less_taken_and_claimed(View memory v) internal view {
        VaultBooks storage b = books[address(v.s.vault)];
        IRewardPool.Account memory a = v.account;
        uint256 owed = b.paid - b.takenFromUnclaimed - b.claimed;
        assertEq(uint256(a.unvested) + a.vested, owed, "R3: owed");
    }

    function promise_R4_caps_are_within_the_budget() internal view {
        uint256 sum;
        for (uint256 i; i < fleet.length; ++i) {
            IRewardPool.Account memory a = account(fleet[i]);
            if (!a.live) assertEq(uint256(a.cap) + a.earmark, 0, "R4: a released vault reserves");
            assertLe(a.earmark, a.cap, "R4: more set aside than the cap");
            sum += a.cap;
        }
        assertEq(pool.sumOfCaps(), sum, "R4: the sum of caps");
        assertEq(pool.budgetPerEpoch(), budget, "R4: the budget is what was voted");
        assertLe(sum, budget, "R4: the sum of caps exceeds the budget");
    }

    function promise_R7_nothing_vests_later_than_the_last_payment_says(View memory v) internal view {
        IRewardPool.Account memory a = v.account;
        (uint256 vested, uint256 unvested) = pool.vestedOf(address(v.s.vault));
        assertEq(vested + unvested, uint256(a.unvested) + a.vested, "R7: vesting creates or loses");
        assertLe(a.vestEndsAt, books[address(v.s.vault)].lastPaidAt + VESTING_S, "R7: vests too late");
        if (block.timestamp >= a.vestEndsAt) assertEq(unvested, 0, "R7: not all vested");
    }

    function promise_R10_the_pool_holds_what_it_owes_and_what_is_free() internal view {
        uint256 sum = pool.free() + pool.bountyFund() + bountiesOwed;
        for (uint256 i; i < fleet.length; ++i) {
            IRewardPool.Account memory a = account(fleet[i]);
            sum += uint256(a.earmark) + a.unvested + a.vested;
        }
        uint256 balance = token.balanceOf(address(pool));
        assertEq(balance, sum, "R10: free, owed and set aside");
        assertEq(balance, funded + seizedForPool - leftPool, "R10: funded + seized - left");
        assertEq(pool.bountyOf(observer), bountyOwed[observer], "R8: the observer's bounties");
    }

    // ------------------------------------------------------------------------- ledger

    function promise_L1_the_head_recomputes_from_the_events(View memory v) internal view {
        assertEq(ledger.headOf(address(v.s.vault)), books[address(v.s.vault)].head, "L1: head");
        assertEq(v.s.vault.guard().nonce, books[address(v.s.vault)].trades, "L2: sequence");
    }

    // -------------------------------------------------------------------------- stakes

    function promise_S1_stakes_are_what_was_posted_less_what_left() internal view {
        (uint256 bonds, uint256 deposits) = (0, gifts[address(agents)][address(quote)]);
        for (uint256 i; i < agentIds.length; ++i) {
            IAgentRegistry.Agent memory a = agents.agentOf(agentIds[i]);
            assertEq(a.bond, bondOf[agentIds[i]], "S1: bond");
            assertEq(a.deposit, depositOf[agentIds[i]], "S1: deposit");
            bonds += a.bond;
            deposits += a.deposit;
        }
        assertEq(token.balanceOf(address(agents)), bonds, "S1: bonds are there");
        assertEq(quote.balanceOf(address(agents)), deposits, "S1: deposits are there");
    }

    function promise_S2_an_active_vault_is_covered(View memory v) internal view {
        if (v.status.reasons == 0) assertTrue(_covered(v.s), "S2: ACTIVE beyond its collateral");
    }

    // --------------------------------------------------------------------------- money

    function promise_M3_no_token_is_created() internal view {
        uint256 sum = token.balanceOf(address(treasury)) + token.balanceOf(address(pool));
        sum += token.balanceOf(address(agents)) + token.balanceOf(proposer) + token.balanceOf(voterA);
        sum += token.balanceOf(voterB) + token.balanceOf(smallHolder) + token.balanceOf(controller);
        sum += token.balanceOf(otherController) + token.balanceOf(observer) + token.balanceOf(relayer);
        assertEq(token.totalSupply(), SUPPLY, "M3: supply");
        assertEq(sum, SUPPLY, "M3: somebody else has tokens");
        uint256 sink = token.balanceOf(address(treasury)) + token.balanceOf(address(pool));
        assertEq(token.getVotes(address(token)), sink + token.balanceOf(address(agents)), "M5: votes in the sink");
    }

    function promise_M4_the_treasury_has_what_came_less_what_left() internal view {
        address[4] memory what = [address(quote), address(token), eth.token, btc.token];
        for (uint256 i; i < 4; ++i) {
            assertEq(_balance(what[i], address(treasury)), treasuryOf[what[i]], "M4: the treasury's balance");
            assertEq(_balance(what[i], address(timelock)), 0, "M4: the timelock holds nothing");
        }
    }

    // ---------------------------------------------------------------------- governance

    function promise_G1_limits_are_those_of_the_approved_version(View memory v) internal {
        bytes32 version = strategies.strategyOf(v.s.id).version;
        if (_votedHash[version] == 0) {
            StrategyManifest memory m = strategies.manifestOf(version);
            _votedHash[version] = keccak256(abi.encode(m.limits, m.artefactHash));
        }
        bytes32 runs = keccak256(abi.encode(v.s.vault.limits(), v.s.vault.artefactHash()));
        assertEq(runs, _votedHash[version], "G1: limits or artefact other than voted");
    }

    function promise_G2_the_constitution_is_what_the_timelock_said() internal view {
        assertEq(_hash(constitution.ceilings()), ceilingsHash, "G2: ceilings");
        assertEq(keccak256(abi.encode(constitution.rules())), rulesHash, "G2: rules");
    }

    function promise_G3_stages_vaults_and_accounts_agree(View memory v) internal view {
        IStrategyRegistry.Strategy memory r = strategies.strategyOf(v.s.id);
        bool lives = r.stage == IStrategyRegistry.Stage.LIVE || r.stage == IStrategyRegistry.Stage.RETIRING;
        assertEq(v.account.live, lives, "G3: pool and registry disagree");
        assertEq(strategies.liveStrategyOf(v.s.agentId) == v.s.id, lives, "G3: one live strategy for each agent");
        if (lives) assertEq(pool.vaultOf(v.s.agentId), address(v.s.vault), "G3: the agent's vault");
        if (r.stage == IStrategyRegistry.Stage.RETIRING) {
            assertTrue(v.s.vault.guard().haltedAt != 0, "G3: retiring and not halted");
        }
        if (r.stage == IStrategyRegistry.Stage.RETIRED) assertTrue(v.s.vault.isEmpty(), "G3: retired and not empty");
    }

    function promise_G4_proposals_only_move_on() internal {
        for (uint256 i; i < proposals.length; ++i) {
            Proposal memory p = proposals[i];
            IGovernor.ProposalState now_ = dao.state(p.id);
            assertTrue(_mayFollow(p.last, now_), "G4: a proposal went back");
            proposals[i].last = now_;
            uint256 regular = dao.proposalSnapshot(p.id) + dao.votingPeriod();
            uint256 deadline = dao.proposalDeadline(p.id);
            assertTrue(deadline == regular || deadline == regular + 1 days, "G5: more than one objection period");
            // Delay, vote, objection, grace, timelock, grace.
            if (block.timestamp > p.madeAt + 1 hours + 3 days + 1 days + 7 days + 1 days + 7 days) {
                assertTrue(FINAL_STATES >> uint256(now_) & 1 == 1, "G4: a proposal never ends");
            }
        }
    }

    function _mayFollow(IGovernor.ProposalState a, IGovernor.ProposalState b) private pure returns (bool) {
        if (a == b) return true;
        if (FINAL_STATES >> uint256(a) & 1 == 1) return false;
        if (a == IGovernor.ProposalState.Queued) {
            return b == IGovernor.ProposalState.Executed || b == IGovernor.ProposalState.Expired
                || b == IGovernor.ProposalState.Canceled;
        }
        if (a == IGovernor.ProposalState.Succeeded) {
            // An objection can't come any more: the deadline has passed.
            return b == IGovernor.ProposalState.Queued || b == IGovernor.ProposalState.Expired
                || b == IGovernor.ProposalState.Executed || b == IGovernor.ProposalState.Canceled;
        }
        return b != IGovernor.ProposalState.Pending;
    }

    // ------------------------------------------------------------------------ authority

    function promise_A2_an_outsider_has_gained_nothing() internal view {
        assertEq(quote.balanceOf(attacker) + token.balanceOf(attacker), 0, "A2: the outsider has money");
        assertEq(_balance(eth.token, attacker) + _balance(btc.token, attacker), 0, "A2: the outsider has assets");
        assertEq(pool.bountyOf(attacker) + agents.balanceOf(attacker), 0, "A2: the outsider has claims");
    }

    // --------------------------------------------------------------------- the end of a run

    /// @notice At the end of each run: whatever happened, everything can be recalled now; every outsider's call fails;
    /// and once feeds are well again, every strategy can be retired, every agent gets what is its own, and every
    /// proposal ends.
    function windUp() external {
        for (uint256 i; i < fleet.length; ++i) {
            _onTrial(fleet[i]);
        }
        for (uint256 i; i < _attackCount(); ++i) {
            _attack(i, i << 8);
        }
        _heal();
        for (uint256 i; i < fleet.length; ++i) {
            _end(fleet[i]);
        }
        _finish();
        travel(40 days);
        for (uint256 i; i < fleet.length; ++i) {
            _takeOut(fleet[i]);
        }
        for (uint256 i; i < proposals.length; ++i) {
            bool ended = FINAL_STATES >> uint256(dao.state(proposals[i].id)) & 1 == 1;
            require(ended, "G4: a proposal never ends");
        }
        require(bytes(violation).length == 0, violation);
    }

    function _end(Strategy memory s) private {
        if (strategies.strategyOf(s.id).stage == IStrategyRegistry.Stage.LIVE) {
            _asTimelock(address(strategies), abi.encodeCall(strategies.retire, (s.id)));
        }
        if (strategies.strategyOf(s.id).stage == IStrategyRegistry.Stage.RETIRING) _recallAll(s);
    }

    /// @dev One whole window settles what was missed before; another pays nothing more.
    function _finish() private {
        for (uint256 round; round < 2; ++round) {
            toNextWindow();
            for (uint256 i; i < fleet.length; ++i) {
                if (pool.vaultOf(fleet[i].agentId) != address(fleet[i].vault)) continue;
                if (account(fleet[i]).pending) _apply(fleet[i]);
                _poke(fleet[i]);
            }
            toWindowEnd();
            for (uint256 i; i < fleet.length; ++i) {
                if (pool.vaultOf(fleet[i].agentId) != address(fleet[i].vault)) continue;
                _close(fleet[i]);
                if (account(fleet[i]).pending) _apply(fleet[i]);
            }
        }
        for (uint256 i; i < fleet.length; ++i) {
            if (strategies.strategyOf(fleet[i].id).stage != IStrategyRegistry.Stage.RETIRING) continue;
            _act(relayer, address(strategies), abi.encodeCall(strategies.finishRetirement, (fleet[i].id)));
        }
    }

    /// @dev What is vested and not needed for a debt is paid; the bond beyond a debt can be withdrawn.
    function _takeOut(Strategy memory s) private {
        address vault = address(s.vault);
        (uint256 vested, uint256 unvested) = pool.vestedOf(vault);
        require(unvested == 0, "W1: not all vested");
        bool debt = int256(account(s).credited) > s.vault.worstProfit();
        if (vested > 0 && !debt) _act(relayer, address(pool), abi.encodeCall(pool.claim, (vault)));
        if (debt) return;
        require(uint256(account(s).vested) + account(s).unvested == 0, "W1: an agent can't have its reward");
        if (pool.vaultOf(s.agentId) != vault) return;
        uint256 bond = agents.agentOf(s.agentId).bond;
        bytes memory call = abi.encodeCall(agents.withdrawBond, (s.agentId, bond));
        _act(agents.ownerOf(s.agentId), address(agents), call);
        require(agents.agentOf(s.agentId).bond == 0, "W1: an agent can't have its bond");
    }
}
