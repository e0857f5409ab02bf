// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

/// @title Pays for verified profit: epochs, the signed account, vesting and claw-back
/// @notice Epoch e is [genesis + e L, genesis + (e + 1) L); its observation window is the W seconds that follow it.
/// Every observation in the window narrows the range [lowest, highest] of the vault's cumulative profit P. Closing the
/// window freezes one result, the move of the agent's account A: up to the lowest P if that is above A (at most
/// `cap / rate`), down to the highest P if that is below A, otherwise zero. Applying the result pays `rate` x move, or
/// takes as much from what is unclaimed and then from the bond; A moves only by what was paid or taken. Hence
/// paid - taken = rate x A, exactly, always.
/// @custom:kill The guardian stops claims for a bounded time; the timelock withdraws what is not owed.
interface IRewardPool {
    /// @param rate token wei per base unit of quote, fixed for the vault's life
    /// @param cap token wei per epoch at most
    /// @param credited A, base units of quote
    /// @param earmark token wei set aside for this vault's next gain
    /// @param unvested,vested token wei owed to the agent
    /// @param nextEpoch the first epoch that has not been settled
    struct Account {
        uint128 rate;
        int128 credited;
        uint128 cap;
        uint128 earmark;
        uint128 unvested;
        uint128 vested;
        uint64 vestUpdatedAt;
        uint64 vestEndsAt;
        uint64 agentId;
        uint32 nextEpoch;
        bool live;
        bool pending;
        int128 pendingMove;
    }

    /// @param epoch the epoch whose window was observed last
    struct Window {
        uint32 epoch;
        uint32 observations;
        uint64 lastBountyAt;
        int128 lowest;
        int128 highest;
    }

    error RewardPoolUnauthorized(address caller);
    error RewardPoolUnknownVault(address vault);
    error RewardPoolAgentBusy(uint64 agentId, address vault);
    error RewardPoolBudgetExceeded(uint256 caps, uint256 budget);
    error RewardPoolUnderfunded(uint256 needed, uint256 free);
    error RewardPoolNothingToClose(address vault, uint32 nextEpoch);
    error RewardPoolResultPending(address vault, int256 move);
    error RewardPoolNoResult(uint64 agentId);
    error RewardPoolWindowMissed(address vault, uint32 epoch);
    error RewardPoolNotOverdue(address vault, uint32 missed, uint32 needed);
    error RewardPoolMoveMustNotPay(int256 move);
    error RewardPnlMismatch(int256 claimed, int256 settled);
    error RewardPoolUnsettled(address vault);
    error RewardPoolClaimsStopped();
    error RewardPoolNothingToClaim(address vault);
    error RewardPoolInvalidSchedule();

    event VaultRegistered(address indexed vault, uint64 indexed agentId, uint128 rate, uint128 cap);
    event CapSet(address indexed vault, uint128 cap);
    event VaultReleased(address indexed vault, uint64 indexed agentId);
    event BudgetSet(uint256 budgetPerEpoch);
    event Funded(address indexed from, uint256 amount);
    event BountyFunded(address indexed from, uint256 amount);
    event Withdrawn(address indexed to, uint256 amount);
    event ProfitObserved(address indexed vault, uint32 indexed epoch, int256 profit, address observer);
    event WindowClosed(address indexed vault, uint32 indexed epoch, int256 move, bool missedBefore, bool byVote);
    event Rewarded(address indexed vault, uint64 indexed agentId, int256 pnl, uint256 reward, int256 credited);
    event ClawedBack(
        address indexed vault,
        uint64 indexed agentId,
        int256 pnl,
        uint256 fromUnclaimed,
        uint256 fromBond,
        int256 credited
    );
    event Claimed(address indexed vault, uint64 indexed agentId, address indexed to, uint256 amount);
    event BountyEarned(address indexed observer, uint256 amount);
    event BountyClaimed(address indexed observer, uint256 amount);

    // ------------------------------------------------ by the protocol's contracts

    /// @notice Opens a vault's account and sets `cap` aside, all of it. Factory only.
    function registerVault(address vault, uint64 agentId, uint128 rate, uint128 cap) external;

    /// @notice Changes a live vault's cap and sets aside what there is of it: an underfunded pool never holds up an
    /// update of limits. Strategy registry only.
    function setCap(address vault, uint128 cap) external;

    /// @notice Ends a vault's reservations; its account, vesting and debts stay. Strategy registry only.
    function releaseVault(address vault) external;

    /// @notice Called by a vault with its profit at fresh prices (`priced`), or without.
    /// @param worstProfit P when the guard has done its work in a crash
    /// @param bond the agent's, as the vault has just read it
    /// @param observer who earns the bounty for observing, or zero
    /// @return reasons UNSETTLED and COLLATERAL bits of `Reasons`
    function sync(int256 profit, int256 worstProfit, bool priced, uint256 bond, address observer)
        external
        returns (uint16 reasons);

    // ------------------------------------------------------------------- anyone

    /// @notice Freezes the result of the last ended window. A result of zero needs no application.
    function closeWindow(address vault) external returns (int256 move);

    /// @notice Applies the frozen result, once. `pnl` must be that result, to the unit.
    function applyResult(uint64 agentId, int256 pnl) external;

    /// @notice Pays what has vested to the agent's controller, as far as the collateral allows. Per vault, because an
    /// agent's earlier vault may still be vesting.
    function claim(address vault) external returns (uint256 amount);

    function claimBounty() external returns (uint256 amount);

    function fund(uint256 amount) external;
    function fundBounties(uint256 amount) external;

    // --------------------------------------------------------------- governance

    /// @notice The sum of live caps can never exceed this. Timelock only.
    function setBudget(uint256 budgetPerEpoch) external;

    /// @notice Closes after `maxUnsettled` windows that could not complete, the last of them included; the move must not
    /// pay. Timelock only.
    function closeByVote(address vault, int256 move) external;

    /// @notice Returns what is neither owed nor set aside to the treasury. Timelock only.
    function withdraw(uint256 amount) external;

    // -------------------------------------------------------------------- views

    function accountOf(address vault) external view returns (Account memory);
    function windowOf(address vault) external view returns (Window memory);
    function vaultOf(uint64 agentId) external view returns (address);

    /// @notice Every ended window of the agent's live vault is closed and its result applied.
    function isSettled(uint64 agentId) external view returns (bool);

    /// @notice The same bits as `sync`, for views.
    function standing(address vault, int256 worstProfit, uint256 bond) external view returns (uint16 reasons);

    /// @notice Token wei of the bond that is not needed as collateral now.
    function releasableBond(uint64 agentId) external view returns (uint256);

    /// @notice Base units of quote by which the account of the agent's last vault stands above its profit and was not
    /// collected; while that vault is live, above its worst profit.
    function debtOf(uint64 agentId) external view returns (uint256);

    /// @notice The last settled window began at or after `since` and nothing is pending.
    function settledSince(address vault, uint64 since) external view returns (bool);

    function vestedOf(address vault) external view returns (uint256 vested, uint256 unvested);
}
