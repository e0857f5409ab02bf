// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IVotes} from "@openzeppelin/contracts/governance/utils/IVotes.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IAgentRegistry} from "../interfaces/IAgentRegistry.sol";
import {IConstitution} from "../interfaces/IConstitution.sol";
import {IRewardPool} from "../interfaces/IRewardPool.sol";
import {IStrategyVault} from "../interfaces/IStrategyVault.sol";
import {Reasons} from "../libraries/Reasons.sol";
import {Protocol} from "../libraries/Types.sol";

// slither-disable-start timestamp,incorrect-equality -- seconds can't bend epochs; what is compared are their numbers
/// @title RewardPool
/// @notice Documented in {IRewardPool}.
/// @dev Balance = free + bountyFund + bounties owed + sum over vaults of (earmark + unvested + vested).
contract RewardPool is IRewardPool {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;
    using SafeCast for int256;

    struct Schedule {
        uint64 genesis;
        uint32 epochLengthS;
        uint32 windowLengthS;
        uint32 vestingS;
        uint32 maxUnsettled;
        uint128 bounty;
        uint128 budgetPerEpoch;
    }

    /// @dev Bounties of one window are at least this fraction of the window apart.
    uint256 private constant BOUNTIES_PER_WINDOW = 4;

    IERC20 public immutable token;
    address public immutable timelock;
    address public immutable treasury;
    address public immutable factory;
    address public immutable strategies;
    IAgentRegistry public immutable agents;
    IConstitution public immutable constitution;
    uint64 public immutable genesis;
    uint32 public immutable epochLengthS;
    uint32 public immutable windowLengthS;
    uint32 public immutable vestingS;
    uint32 public immutable maxUnsettled;
    /// @notice Token wei for one observation, or for closing a window.
    uint128 public immutable bounty;

    uint256 public budgetPerEpoch;
    uint256 public sumOfCaps;
    /// @notice Token wei neither owed nor set aside.
    uint256 public free;
    uint256 public bountyFund;
    mapping(address observer => uint256) public bountyOf;
    /// @inheritdoc IRewardPool
    mapping(uint64 agentId => address) public vaultOf;
    mapping(address vault => Account) private _accounts;
    mapping(address vault => Window) private _windows;

    modifier only(address authority) {
        if (msg.sender != authority) revert RewardPoolUnauthorized(msg.sender);
        _;
    }

    constructor(Protocol memory p, Schedule memory s) {
        if (s.epochLengthS <= s.windowLengthS || s.windowLengthS == 0 || s.vestingS == 0 || s.maxUnsettled == 0) {
            revert RewardPoolInvalidSchedule();
        }
        token = IERC20(p.token);
        timelock = p.timelock;
        treasury = p.treasury;
        factory = p.factory;
        strategies = p.strategies;
        agents = IAgentRegistry(p.agents);
        constitution = IConstitution(p.constitution);
        (genesis, epochLengthS, windowLengthS) = (s.genesis, s.epochLengthS, s.windowLengthS);
        (vestingS, maxUnsettled, bounty) = (s.vestingS, s.maxUnsettled, s.bounty);
        budgetPerEpoch = s.budgetPerEpoch;
        emit BudgetSet(s.budgetPerEpoch);
        IVotes(p.token).delegate(p.token); // the sink: what is held here never votes
    }

    // ------------------------------------------------ by the protocol's contracts

    /// @inheritdoc IRewardPool
    function registerVault(address vault, uint64 agentId, uint128 rate, uint128 cap) external only(factory) {
        address previous = vaultOf[agentId];
        if (previous != address(0) && (_accounts[previous].live || _accounts[previous].pending)) {
            revert RewardPoolAgentBusy(agentId, previous);
        }
        if (cap > free) revert RewardPoolUnderfunded(cap, free);
        vaultOf[agentId] = vault;
        Account storage account = _accounts[vault];
        account.rate = rate;
        account.agentId = agentId;
        account.live = true;
        account.nextEpoch = _epochAt(block.timestamp);
        _reserve(account, cap);
        emit VaultRegistered(vault, agentId, rate, cap);
    }

    /// @inheritdoc IRewardPool
    function setCap(address vault, uint128 cap) external only(strategies) {
        Account storage account = _accounts[vault];
        if (!account.live) revert RewardPoolUnknownVault(vault);
        if (account.pending) revert RewardPoolResultPending(vault, account.pendingMove); // it was frozen under the old cap
        _unreserve(account);
        _reserve(account, cap); // as far as the pool can: an underfunded one must not keep limits from being tightened
        emit CapSet(vault, cap);
    }

    /// @inheritdoc IRewardPool
    function releaseVault(address vault) external only(strategies) {
        Account storage account = _accounts[vault];
        if (!account.live) revert RewardPoolUnknownVault(vault);
        _unreserve(account);
        account.live = false;
        emit VaultReleased(vault, account.agentId);
    }

    /// @inheritdoc IRewardPool
    function sync(int256 profit, int256 worstProfit, bool priced, uint256 bond, address observer)
        external
        returns (uint16 reasons)
    {
        Account storage account = _accounts[msg.sender];
        if (account.rate == 0) revert RewardPoolUnknownVault(msg.sender);
        (bool open, uint32 epoch) = _openWindow();
        if (open && priced && epoch >= account.nextEpoch) _observe(account, epoch, profit.toInt128(), observer);
        return _standing(account, worstProfit, bond);
    }

    // --------------------------------------------------------------------- anyone

    /// @inheritdoc IRewardPool
    function closeWindow(address vault) external returns (int256 move) {
        Account storage account = _accounts[vault];
        Window memory window = _windows[vault];
        uint32 due = _checkDue(account, vault);
        if (window.epoch != due || window.observations == 0) revert RewardPoolWindowMissed(vault, due);

        bool missedBefore = account.nextEpoch < due;
        _topUp(account);
        move = _moveOf(account, window.lowest, window.highest);
        if (missedBefore && move > 0) move = 0;
        _freeze(account, vault, due, move, missedBefore, false);
        _payBounty(account, msg.sender);
    }

    /// @inheritdoc IRewardPool
    function applyResult(uint64 agentId, int256 pnl) external {
        address vault = vaultOf[agentId];
        Account storage account = _accounts[vault];
        if (!account.pending) revert RewardPoolNoResult(agentId);
        int128 move = account.pendingMove;
        if (pnl != move) revert RewardPnlMismatch(pnl, move);
        account.pending = false;
        account.pendingMove = 0;

        if (move < 0) {
            _collect(account, vault, move);
        } else {
            uint256 reward = uint256(account.rate) * uint128(move);
            account.credited += move;
            account.earmark -= reward.toUint128();
            _vest(account, reward);
            _topUp(account);
            emit Rewarded(vault, agentId, move, reward, account.credited);
        }
    }

    /// @inheritdoc IRewardPool
    function claim(address vault) external returns (uint256 amount) {
        Account storage account = _accounts[vault];
        if (account.rate == 0) revert RewardPoolUnknownVault(vault);
        if (constitution.claimsStopped()) revert RewardPoolClaimsStopped();
        if (!_isSettled(account)) revert RewardPoolUnsettled(vault);
        _accrue(account);
        amount = Math.min(account.vested, _excess(account, vault));
        if (amount == 0) revert RewardPoolNothingToClaim(vault);
        account.vested -= amount.toUint128();
        address to = agents.controllerOf(account.agentId);
        emit Claimed(vault, account.agentId, to, amount);
        token.safeTransfer(to, amount);
    }

    /// @inheritdoc IRewardPool
    function claimBounty() external returns (uint256 amount) {
        amount = bountyOf[msg.sender];
        bountyOf[msg.sender] = 0;
        emit BountyClaimed(msg.sender, amount);
        token.safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc IRewardPool
    function fund(uint256 amount) external {
        free += amount;
        emit Funded(msg.sender, amount);
        token.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @inheritdoc IRewardPool
    function fundBounties(uint256 amount) external {
        bountyFund += amount;
        emit BountyFunded(msg.sender, amount);
        token.safeTransferFrom(msg.sender, address(this), amount);
    }

    // ----------------------------------------------------------------- governance

    /// @inheritdoc IRewardPool
    function setBudget(uint256 budget) external only(timelock) {
        if (sumOfCaps > budget) revert RewardPoolBudgetExceeded(sumOfCaps, budget);
        budgetPerEpoch = budget;
        emit BudgetSet(budget);
    }

    /// @inheritdoc IRewardPool
    function closeByVote(address vault, int256 move) external only(timelock) {
        Account storage account = _accounts[vault];
        uint32 due = _checkDue(account, vault);
        uint32 missed = due + 1 - account.nextEpoch;
        if (missed < maxUnsettled || _windows[vault].epoch == due && _windows[vault].observations > 0) {
            revert RewardPoolNotOverdue(vault, missed, maxUnsettled);
        }
        if (move > 0) revert RewardPoolMoveMustNotPay(move);
        _freeze(account, vault, due, move, true, true);
    }

    /// @inheritdoc IRewardPool
    function withdraw(uint256 amount) external only(timelock) {
        if (amount > free) revert RewardPoolUnderfunded(amount, free);
        free -= amount;
        emit Withdrawn(treasury, amount);
        token.safeTransfer(treasury, amount);
    }

    // ---------------------------------------------------------------------- views

    /// @inheritdoc IRewardPool
    function accountOf(address vault) external view returns (Account memory) {
        return _accounts[vault];
    }

    /// @inheritdoc IRewardPool
    function windowOf(address vault) external view returns (Window memory) {
        return _windows[vault];
    }

    /// @inheritdoc IRewardPool
    function isSettled(uint64 agentId) external view returns (bool) {
        return _isSettled(_accounts[vaultOf[agentId]]);
    }

    /// @inheritdoc IRewardPool
    function standing(address vault, int256 worstProfit, uint256 bond) external view returns (uint16) {
        return _standing(_accounts[vault], worstProfit, bond);
    }

    /// @inheritdoc IRewardPool
    function releasableBond(uint64 agentId) external view returns (uint256) {
        address vault = vaultOf[agentId];
        uint256 bond = agents.agentOf(agentId).bond;
        if (vault == address(0)) return bond;
        Account storage account = _accounts[vault];
        uint256 kept = account.live ? constitution.rules().minBond : 0;
        return Math.min(_excess(account, vault), Math.saturatingSub(bond, kept));
    }

    /// @inheritdoc IRewardPool
    function debtOf(uint64 agentId) external view returns (uint256) {
        address vault = vaultOf[agentId];
        if (vault == address(0)) return 0;
        int256 debt = int256(_accounts[vault].credited) - IStrategyVault(vault).worstProfit();
        return debt > 0 ? uint256(debt) : 0;
    }

    /// @inheritdoc IRewardPool
    function settledSince(address vault, uint64 since) external view returns (bool) {
        Account storage account = _accounts[vault];
        return account.nextEpoch > 0 && _windowStart(account.nextEpoch - 1) >= since && _isSettled(account);
    }

    /// @inheritdoc IRewardPool
    function vestedOf(address vault) external view returns (uint256 vested, uint256 unvested) {
        Account storage account = _accounts[vault];
        uint256 newly = _newlyVested(account);
        return (account.vested + newly, account.unvested - newly);
    }

    // ------------------------------------------------------------------- internal

    function _epochAt(uint256 at) private view returns (uint32) {
        return at < genesis ? 0 : uint32((at - genesis) / epochLengthS);
    }

    function _windowStart(uint256 epoch) private view returns (uint256) {
        return genesis + (epoch + 1) * epochLengthS;
    }

    /// @dev The epoch whose window is open now.
    function _openWindow() private view returns (bool open, uint32 epoch) {
        uint32 current = _epochAt(block.timestamp);
        if (current == 0) return (false, 0);
        return (block.timestamp < _windowStart(current - 1) + windowLengthS, current - 1);
    }

    /// @dev The last epoch whose window has ended.
    function _lastEnded() private view returns (bool any, uint32 epoch) {
        uint32 current = _epochAt(block.timestamp);
        (bool open,) = _openWindow();
        uint32 ended = open ? current - 1 : current;
        return ended == 0 ? (false, 0) : (true, ended - 1);
    }

    /// @dev A released vault owes no windows: its profit is constant, and only a frozen result can be outstanding.
    function _isSettled(Account storage account) private view returns (bool) {
        if (account.pending) return false;
        (bool any, uint32 due) = _lastEnded();
        return !account.live || !any || account.nextEpoch > due;
    }

    function _checkDue(Account storage account, address vault) private view returns (uint32 due) {
        if (account.rate == 0) revert RewardPoolUnknownVault(vault);
        if (account.pending) revert RewardPoolResultPending(vault, account.pendingMove);
        bool any;
        (any, due) = _lastEnded();
        bool superseded = vaultOf[account.agentId] != vault; // by a new vault: a result could not be applied any more
        if (!any || account.nextEpoch > due || superseded) revert RewardPoolNothingToClose(vault, account.nextEpoch);
    }

    function _observe(Account storage account, uint32 epoch, int128 profit, address observer) private {
        Window storage window = _windows[msg.sender];
        if (window.observations == 0 || window.epoch != epoch) {
            window.epoch = epoch;
            window.observations = 1;
            (window.lowest, window.highest) = (profit, profit);
        } else {
            window.observations += 1;
            if (profit < window.lowest) window.lowest = profit;
            if (profit > window.highest) window.highest = profit;
        }
        emit ProfitObserved(msg.sender, epoch, profit, observer);
        if (observer != address(0) && block.timestamp >= window.lastBountyAt + windowLengthS / BOUNTIES_PER_WINDOW) {
            window.lastBountyAt = uint64(block.timestamp);
            _payBounty(account, observer);
        }
    }

    /// @dev Bounties are owed, never sent: an observer that can't receive must not stop a vault. The windows of a
    /// released vault can still be observed and closed, to collect a debt, but would cost a bounty for ever.
    function _payBounty(Account storage account, address observer) private {
        if (bountyFund < bounty || bounty == 0 || !account.live) return;
        bountyFund -= bounty;
        bountyOf[observer] += bounty;
        emit BountyEarned(observer, bounty);
    }

    function _moveOf(Account storage account, int128 lowest, int128 highest) private view returns (int128) {
        int256 credited = account.credited;
        if (lowest > credited) {
            uint256 most = Math.min(account.cap, account.earmark) / account.rate;
            return Math.min(uint256(lowest - credited), most).toInt256().toInt128();
        }
        int256 fall = highest - credited;
        return fall < 0 ? fall.toInt128() : int128(0);
    }

    function _freeze(Account storage account, address vault, uint32 epoch, int256 move, bool missed, bool byVote)
        private
    {
        account.nextEpoch = epoch + 1;
        account.pending = move != 0; // nothing to apply: settled at once
        account.pendingMove = move.toInt128();
        emit WindowClosed(vault, epoch, move, missed, byVote);
    }

    /// @dev Takes whole multiples of the rate only, so that the account stays exact; the rest stays open.
    function _collect(Account storage account, address vault, int128 move) private {
        _accrue(account);
        uint256 unclaimed = uint256(account.unvested) + account.vested;
        uint256 collectable = (unclaimed + agents.agentOf(account.agentId).bond) / account.rate;
        uint256 taken = Math.min(uint256(-int256(move)), collectable);
        account.credited -= int256(taken).toInt128();
        taken *= account.rate;
        uint256 fromUnclaimed = Math.min(taken, unclaimed);
        uint256 fromBond = taken - fromUnclaimed;
        uint128 fromUnvested = Math.min(fromUnclaimed, account.unvested).toUint128();

        account.unvested -= fromUnvested;
        account.vested -= fromUnclaimed.toUint128() - fromUnvested;
        free += taken;
        emit ClawedBack(vault, account.agentId, move, fromUnclaimed, fromBond, account.credited);
        _topUp(account);
        if (fromBond > 0) agents.seizeBond(account.agentId, fromBond);
    }

    /// @dev What is vesting keeps its pace: the new end is the mean of the two ends, weighted by amount.
    function _vest(Account storage account, uint256 amount) private {
        if (amount == 0) return;
        _accrue(account);
        uint256 remainingS = Math.saturatingSub(account.vestEndsAt, block.timestamp);
        uint256 total = account.unvested + amount;
        uint256 meanS = Math.ceilDiv(account.unvested * remainingS + amount * vestingS, total);
        account.unvested = total.toUint128();
        account.vestEndsAt = uint64(block.timestamp + meanS);
    }

    function _accrue(Account storage account) private {
        uint128 newly = _newlyVested(account).toUint128();
        account.vested += newly;
        account.unvested -= newly;
        account.vestUpdatedAt = uint64(block.timestamp);
    }

    function _newlyVested(Account storage account) private view returns (uint256) {
        if (block.timestamp >= account.vestEndsAt) return account.unvested;
        uint256 elapsedS = block.timestamp - account.vestUpdatedAt;
        return Math.mulDiv(account.unvested, elapsedS, account.vestEndsAt - account.vestUpdatedAt);
    }

    function _reserve(Account storage account, uint128 cap) private {
        sumOfCaps += cap;
        if (sumOfCaps > budgetPerEpoch) revert RewardPoolBudgetExceeded(sumOfCaps, budgetPerEpoch);
        account.cap = cap;
        _topUp(account);
    }

    function _unreserve(Account storage account) private {
        sumOfCaps -= account.cap;
        free += account.earmark;
        account.cap = 0;
        account.earmark = 0;
    }

    /// @dev Refills a live vault's earmark; an underfunded pool fills what it can and the account waits.
    function _topUp(Account storage account) private {
        uint256 amount = Math.min(Math.saturatingSub(account.cap, account.earmark), free);
        free -= amount;
        account.earmark += amount.toUint128();
    }

    function _required(Account storage account, int256 worstProfit) private view returns (uint256) {
        int256 exposed = int256(account.credited) - worstProfit;
        return exposed > 0 ? uint256(account.rate) * uint256(exposed) : 0;
    }

    function _standing(Account storage account, int256 worstProfit, uint256 bond)
        private
        view
        returns (uint16 reasons)
    {
        if (!_isSettled(account)) reasons |= Reasons.UNSETTLED;
        uint256 required = _required(account, worstProfit);
        if (bond < required && bond + account.unvested + account.vested < required) reasons |= Reasons.COLLATERAL;
    }

    /// @dev Collateral beyond what the worst case would take back. A fall in price that nobody has poked yet counts;
    /// without a full price nobody knows what the collateral has to cover, so all of it stays.
    function _excess(Account storage account, address vault) private view returns (uint256) {
        int256 worst;
        if (account.live) {
            bool priced;
            (priced, worst) = IStrategyVault(vault).exposure();
            if (!priced) return 0;
        } else {
            worst = IStrategyVault(vault).worstProfit();
        }
        uint256 unclaimed = uint256(account.unvested) + account.vested;
        uint256 held = unclaimed + agents.agentOf(account.agentId).bond;
        return Math.saturatingSub(held, _required(account, worst));
    }
}
// slither-disable-end timestamp,incorrect-equality
