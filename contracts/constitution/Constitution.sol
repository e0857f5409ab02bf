// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IConstitution} from "../interfaces/IConstitution.sol";
import {Limits, Rules} from "../libraries/Types.sol";

// slither-disable-start timestamp -- stops and terms are days, which seconds can't bend
/// @title Constitution
/// @notice Documented in {IConstitution}.
contract Constitution is IConstitution {
    uint64 public constant MAX_STOP_S = 7 days;
    uint64 public constant MAX_TERM_S = 365 days;
    uint16 private constant BPS = 10_000;

    address public immutable timelock;

    Limits private _ceilings;
    Rules private _rules;
    address public guardian;
    uint64 public guardianExpiresAt;
    /// @notice When the last stop ends or ended; the next may begin `MAX_STOP_S` later.
    uint64 public claimsStoppedUntil;
    /// @dev No stop of any vault ends later.
    uint64 private _vaultStopsEndBy;
    uint24 private _version;
    mapping(address vault => uint64) public vaultStoppedUntil;

    modifier onlyTimelock() {
        if (msg.sender != timelock) revert ConstitutionUnauthorized(msg.sender);
        _;
    }

    constructor(
        address timelock_,
        Limits memory ceilings_,
        Rules memory rules_,
        address guardian_,
        uint64 guardianExpiresAt_
    ) {
        // slither-disable-next-line missing-zero-check -- computed by the deployment, not typed: test_deployment
        timelock = timelock_;
        _setCeilings(ceilings_);
        _setRules(rules_);
        _appoint(guardian_, guardianExpiresAt_);
    }

    // ---------------------------------------------------------------- governance

    /// @inheritdoc IConstitution
    function setCeilings(Limits calldata ceilings_) external onlyTimelock {
        _setCeilings(ceilings_);
    }

    /// @inheritdoc IConstitution
    function setRules(Rules calldata rules_) external onlyTimelock {
        _setRules(rules_);
    }

    /// @inheritdoc IConstitution
    function appointGuardian(address guardian_, uint64 expiresAt) external onlyTimelock {
        _appoint(guardian_, expiresAt);
    }

    // ------------------------------------------------------------------- actions

    /// @inheritdoc IConstitution
    function stopVault(address vault, uint64 durationS) external {
        vaultStoppedUntil[vault] = _stopUntil(vaultStoppedUntil[vault], durationS);
        if (vaultStoppedUntil[vault] > _vaultStopsEndBy) _vaultStopsEndBy = vaultStoppedUntil[vault];
        emit VaultStopped(vault, vaultStoppedUntil[vault]);
    }

    /// @inheritdoc IConstitution
    function stopClaims(uint64 durationS) external {
        claimsStoppedUntil = _stopUntil(claimsStoppedUntil, durationS);
        emit ClaimsStopped(claimsStoppedUntil);
    }

    /// @inheritdoc IConstitution
    function liftVaultStop(address vault) external {
        _checkGuardianOrTimelock();
        if (vaultStoppedUntil[vault] > block.timestamp) vaultStoppedUntil[vault] = uint64(block.timestamp);
        emit VaultStopLifted(vault);
    }

    /// @inheritdoc IConstitution
    function liftClaimsStop() external {
        _checkGuardianOrTimelock();
        if (claimsStoppedUntil > block.timestamp) claimsStoppedUntil = uint64(block.timestamp);
        emit ClaimsStopLifted();
    }

    // --------------------------------------------------------------------- views

    /// @inheritdoc IConstitution
    function regime(Limits calldata own) external view returns (Limits memory, Rules memory) {
        return (_stricter(own, _ceilings), _rules);
    }

    /// @inheritdoc IConstitution
    function standing(address vault) external view returns (uint24 version, bool stopped) {
        return (_version, block.timestamp < _vaultStopsEndBy && block.timestamp < vaultStoppedUntil[vault]);
    }

    /// @inheritdoc IConstitution
    function ceilings() external view returns (Limits memory) {
        return _ceilings;
    }

    /// @inheritdoc IConstitution
    function rules() external view returns (Rules memory) {
        return _rules;
    }

    /// @inheritdoc IConstitution
    function claimsStopped() external view returns (bool) {
        return block.timestamp < claimsStoppedUntil;
    }

    /// @inheritdoc IConstitution
    function checkLimits(Limits calldata l) external view {
        Limits memory c = _ceilings;
        _checkCeiling("maxPositionBps", l.maxPositionBps, c.maxPositionBps);
        _checkCeiling("maxTradeSlippageBps", l.maxTradeSlippageBps, c.maxTradeSlippageBps);
        _checkCeiling("maxCumulativeSlippageBps", l.maxCumulativeSlippageBps, c.maxCumulativeSlippageBps);
        _checkCeiling("maxReduceSlippageBps", l.maxReduceSlippageBps, c.maxReduceSlippageBps);
        _checkCeiling(
            "maxReduceCumulativeSlippageBps", l.maxReduceCumulativeSlippageBps, c.maxReduceCumulativeSlippageBps
        );
        _checkCeiling("maxTradesPerDay", l.maxTradesPerDay, c.maxTradesPerDay);
        _checkCeiling("maxDailyTurnoverBps", l.maxDailyTurnoverBps, c.maxDailyTurnoverBps);
        _checkCeiling("maxDailyLossBps", l.maxDailyLossBps, c.maxDailyLossBps);
        _checkCeiling("maxDrawdownBps", l.maxDrawdownBps, c.maxDrawdownBps);
        _checkCeiling("hardDrawdownBps", l.hardDrawdownBps, c.hardDrawdownBps);
        _checkConsistent(l);
    }

    // ------------------------------------------------------------------ internal

    /// @dev A stop never extends a running one: the next may begin a full cooldown after the last has ended.
    function _stopUntil(uint64 lastUntil, uint64 durationS) private view returns (uint64) {
        if (msg.sender != guardian) revert ConstitutionUnauthorized(msg.sender);
        if (block.timestamp >= guardianExpiresAt) revert ConstitutionGuardianExpired(guardianExpiresAt);
        if (durationS == 0 || durationS > MAX_STOP_S) revert ConstitutionStopTooLong(durationS, MAX_STOP_S);
        if (lastUntil != 0 && block.timestamp < lastUntil + MAX_STOP_S) {
            revert ConstitutionStopCooldown(lastUntil + MAX_STOP_S);
        }
        uint64 until = uint64(block.timestamp) + durationS;
        return until < guardianExpiresAt ? until : guardianExpiresAt; // no stop outlives the term it was given in
    }

    function _checkGuardianOrTimelock() private view {
        bool isGuardian = msg.sender == guardian && block.timestamp < guardianExpiresAt;
        if (!isGuardian && msg.sender != timelock) revert ConstitutionUnauthorized(msg.sender);
    }

    function _appoint(address guardian_, uint64 expiresAt) private {
        uint64 latest = uint64(block.timestamp) + MAX_TERM_S;
        if (expiresAt > latest) revert ConstitutionTermTooLong(expiresAt, latest);
        guardian = guardian_;
        guardianExpiresAt = expiresAt;
        emit GuardianAppointed(guardian_, expiresAt);
    }

    function _setCeilings(Limits memory c) private {
        _checkConsistent(c);
        _ceilings = c;
        ++_version;
        emit CeilingsSet(c);
    }

    function _setRules(Rules memory r) private {
        if (r.slippageDecayS == 0) revert ConstitutionInvalidRules("slippageDecayS");
        if (r.auctionDurationS == 0) revert ConstitutionInvalidRules("auctionDurationS");
        if (r.auctionMaxDiscountBps >= BPS) revert ConstitutionInvalidRules("auctionMaxDiscountBps");
        if (r.auctionLotBps == 0 || r.auctionLotBps > BPS) revert ConstitutionInvalidRules("auctionLotBps");
        if (r.gapAllowanceBps >= BPS) revert ConstitutionInvalidRules("gapAllowanceBps");
        _rules = r;
        ++_version;
        emit RulesSet(r);
    }

    function _checkCeiling(string memory field, uint256 value, uint256 ceiling) private pure {
        if (value > ceiling) revert ConstitutionLimitTooLoose(field, value, ceiling);
    }

    /// @dev Shares below one; the soft drawdown before the hard one; sales while reducing at least as easy as before.
    function _checkConsistent(Limits memory l) private pure {
        if (l.maxPositionBps > BPS) revert ConstitutionLimitsInconsistent("maxPositionBps > 10000");
        if (l.hardDrawdownBps >= BPS) revert ConstitutionLimitsInconsistent("hardDrawdownBps >= 10000");
        if (l.maxDrawdownBps >= l.hardDrawdownBps) {
            revert ConstitutionLimitsInconsistent("maxDrawdownBps >= hardDrawdownBps");
        }
        if (l.maxDailyLossBps >= BPS) revert ConstitutionLimitsInconsistent("maxDailyLossBps >= 10000");
        if (l.maxReduceSlippageBps >= BPS) revert ConstitutionLimitsInconsistent("maxReduceSlippageBps >= 10000");
        if (l.maxTradeSlippageBps > l.maxReduceSlippageBps) {
            revert ConstitutionLimitsInconsistent("maxTradeSlippageBps > maxReduceSlippageBps");
        }
        if (uint256(l.maxCumulativeSlippageBps) + l.maxReduceCumulativeSlippageBps >= BPS) {
            revert ConstitutionLimitsInconsistent("cumulative slippage >= 10000");
        }
    }

    /// @dev Field by field.
    function _stricter(Limits memory a, Limits memory b) private pure returns (Limits memory) {
        return Limits({
            maxPositionBps: _min16(a.maxPositionBps, b.maxPositionBps),
            maxTradeSlippageBps: _min16(a.maxTradeSlippageBps, b.maxTradeSlippageBps),
            maxCumulativeSlippageBps: _min16(a.maxCumulativeSlippageBps, b.maxCumulativeSlippageBps),
            maxReduceSlippageBps: _min16(a.maxReduceSlippageBps, b.maxReduceSlippageBps),
            maxReduceCumulativeSlippageBps: _min16(a.maxReduceCumulativeSlippageBps, b.maxReduceCumulativeSlippageBps),
            maxTradesPerDay: _min16(a.maxTradesPerDay, b.maxTradesPerDay),
            maxDailyTurnoverBps: a.maxDailyTurnoverBps < b.maxDailyTurnoverBps
                ? a.maxDailyTurnoverBps
                : b.maxDailyTurnoverBps,
            maxDailyLossBps: _min16(a.maxDailyLossBps, b.maxDailyLossBps),
            maxDrawdownBps: _min16(a.maxDrawdownBps, b.maxDrawdownBps),
            hardDrawdownBps: _min16(a.hardDrawdownBps, b.hardDrawdownBps)
        });
    }

    function _min16(uint16 a, uint16 b) private pure returns (uint16) {
        return a < b ? a : b;
    }
}
// slither-disable-end timestamp
