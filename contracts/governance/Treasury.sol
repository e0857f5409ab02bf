// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IVotes} from "@openzeppelin/contracts/governance/utils/IVotes.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {RateLimiter} from "@openzeppelin/contracts/utils/RateLimiter.sol";
import {IRewardPool} from "../interfaces/IRewardPool.sol";
import {IStrategyRegistry} from "../interfaces/IStrategyRegistry.sol";
import {IStrategyVault} from "../interfaces/IStrategyVault.sol";
import {ITreasury} from "../interfaces/ITreasury.sol";
import {Protocol} from "../libraries/Types.sol";

// slither-disable-start timestamp,incorrect-equality -- periods are days; what is compared is a cap, set by vote
/// @title Treasury
/// @notice Documented in {ITreasury}.
contract Treasury is ITreasury {
    using SafeERC20 for IERC20;
    using RateLimiter for RateLimiter.SlidingWindow;

    struct PendingCap {
        uint208 cap;
        uint48 effectiveAt;
    }

    struct GenesisCap {
        address token;
        uint208 cap;
    }

    uint48 public constant PERIOD_S = 30 days;
    bytes32 private constant KEY = 0;

    address public immutable timelock;
    IERC20 public immutable token;
    IERC20 public immutable quote;
    IStrategyRegistry public immutable strategies;
    IRewardPool public immutable pool;

    mapping(address token => RateLimiter.SlidingWindow) private _outflows;
    mapping(address token => uint208) private _caps;
    mapping(address token => PendingCap) private _pending;

    modifier onlyTimelock() {
        if (msg.sender != timelock) revert TreasuryUnauthorized(msg.sender);
        _;
    }

    constructor(Protocol memory p, GenesisCap[] memory caps) {
        timelock = p.timelock;
        token = IERC20(p.token);
        quote = IERC20(p.quote);
        strategies = IStrategyRegistry(p.strategies);
        pool = IRewardPool(p.pool);
        for (uint256 i; i < caps.length; ++i) {
            _setCap(caps[i].token, caps[i].cap);
            emit OutflowCapSet(caps[i].token, caps[i].cap, uint64(block.timestamp));
        }
        IVotes(p.token).delegate(p.token); // the sink: the treasury never votes
    }

    // ------------------------------------------------------------------ governance

    /// @inheritdoc ITreasury
    function allocate(bytes32 strategyId, uint256 amount) external onlyTimelock {
        address vault = _vaultOf(strategyId);
        _consume(address(quote), amount);
        emit CapitalAllocated(strategyId, vault, amount);
        quote.forceApprove(vault, amount);
        IStrategyVault(vault).allocate(amount);
        quote.forceApprove(vault, 0); // what a vault does not take now, it can't take when it counts no longer
    }

    /// @inheritdoc ITreasury
    function recall(bytes32 strategyId, address asset, uint256 amount, uint256 fallbackPriceWad)
        external
        onlyTimelock
    {
        // slither-disable-next-line reentrancy-events -- it says what was sent; only the timelock calls
        uint256 sent = IStrategyVault(_vaultOf(strategyId)).recall(asset, amount, fallbackPriceWad);
        emit CapitalRecalled(strategyId, asset, sent);
    }

    /// @inheritdoc ITreasury
    function pay(address asset, address to, uint256 amount) external onlyTimelock {
        if (to == address(0) || to == address(this)) revert TreasuryInvalidRecipient();
        _consume(asset, amount);
        emit Paid(asset, to, amount);
        IERC20(asset).safeTransfer(to, amount);
    }

    /// @inheritdoc ITreasury
    function fundRewards(uint256 amount) external onlyTimelock {
        _consume(address(token), amount);
        emit Paid(address(token), address(pool), amount);
        token.forceApprove(address(pool), amount);
        pool.fund(amount);
    }

    /// @inheritdoc ITreasury
    function fundBounties(uint256 amount) external onlyTimelock {
        _consume(address(token), amount);
        emit Paid(address(token), address(pool), amount);
        token.forceApprove(address(pool), amount);
        pool.fundBounties(amount);
    }

    /// @inheritdoc ITreasury
    function setOutflowCap(address asset, uint208 cap) external onlyTimelock {
        _applyPending(asset);
        if (cap <= _caps[asset]) {
            delete _pending[asset];
            _setCap(asset, cap);
            emit OutflowCapSet(asset, cap, uint64(block.timestamp));
        } else {
            uint48 effectiveAt = uint48(block.timestamp) + PERIOD_S;
            _pending[asset] = PendingCap(cap, effectiveAt);
            emit OutflowCapSet(asset, cap, effectiveAt);
        }
    }

    // ----------------------------------------------------------------------- views

    /// @inheritdoc ITreasury
    function outflowOf(address asset) external view returns (uint256 cap, uint256 available) {
        cap = _capNow(asset);
        // slither-disable-next-line unused-return -- what is free depends on the cap, which may be due for a change
        (uint256 used,) = _outflows[asset].state(KEY);
        available = used >= cap ? 0 : cap - used;
    }

    // -------------------------------------------------------------------- internal

    function _consume(address asset, uint256 amount) private {
        _applyPending(asset);
        if (!_outflows[asset].tryConsume(KEY, amount)) {
            revert TreasuryOutflowExceeded(asset, amount, _outflows[asset].available(KEY));
        }
    }

    function _applyPending(address asset) private {
        uint208 cap = _capNow(asset);
        if (cap == _caps[asset]) return;
        delete _pending[asset];
        _setCap(asset, cap);
    }

    function _setCap(address asset, uint208 cap) private {
        _caps[asset] = cap;
        _outflows[asset].updateSettings(PERIOD_S, cap);
    }

    function _capNow(address asset) private view returns (uint208) {
        PendingCap memory pending = _pending[asset];
        bool due = pending.effectiveAt != 0 && block.timestamp >= pending.effectiveAt;
        return due ? pending.cap : _caps[asset];
    }

    function _vaultOf(bytes32 strategyId) private view returns (address vault) {
        vault = strategies.strategyOf(strategyId).vault;
        if (vault == address(0)) revert TreasuryUnknownStrategy(strategyId);
    }
}
// slither-disable-end timestamp,incorrect-equality
