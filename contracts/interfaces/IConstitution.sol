// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {Limits, Rules} from "../libraries/Types.sol";

/// @title The DAO's ceilings on every vault, and the guardian's brake
/// @notice A vault reads the constitution in every trade, so a tightened ceiling binds running vaults at once.
/// The guardian can only stop: one vault to REDUCING, or claims; for at most `MAX_STOP_S`, with as long a cooldown
/// after each stop, and only until its term ends. It can never halt a vault into a sale.
interface IConstitution {
    error ConstitutionUnauthorized(address caller);
    error ConstitutionLimitTooLoose(string field, uint256 value, uint256 ceiling);
    error ConstitutionLimitsInconsistent(string what);
    error ConstitutionInvalidRules(string field);
    error ConstitutionTermTooLong(uint64 expiresAt, uint64 latest);
    error ConstitutionGuardianExpired(uint64 expiredAt);
    error ConstitutionStopTooLong(uint64 durationS, uint64 longestS);
    error ConstitutionStopCooldown(uint64 allowedFrom);

    event CeilingsSet(Limits ceilings);
    event RulesSet(Rules rules);
    event GuardianAppointed(address indexed guardian, uint64 expiresAt);
    event VaultStopped(address indexed vault, uint64 until);
    event ClaimsStopped(uint64 until);
    event VaultStopLifted(address indexed vault);
    event ClaimsStopLifted();

    /// @notice Replaces the ceilings. Timelock only.
    // slither-disable-next-line shadowing-local -- there is no body to confuse
    function setCeilings(Limits calldata ceilings) external;

    /// @notice Replaces the other parameters. Timelock only.
    // slither-disable-next-line shadowing-local -- there is no body to confuse
    function setRules(Rules calldata rules) external;

    /// @notice Appoints or renews the guardian until `expiresAt`, at most `MAX_TERM_S` away. Timelock only.
    function appointGuardian(address guardian, uint64 expiresAt) external;

    function stopVault(address vault, uint64 durationS) external;
    function stopClaims(uint64 durationS) external;

    /// @notice Ends a stop early. Guardian or timelock; the cooldown counts from now.
    function liftVaultStop(address vault) external;
    function liftClaimsStop() external;

    /// @notice Reverts with the first limit that is looser than its ceiling, or inconsistent with another.
    function checkLimits(Limits calldata limits) external view;

    /// @notice What binds a vault: the stricter of its own limits and the ceilings, field by field, and the other
    /// parameters.
    // slither-disable-next-line shadowing-local -- there is no body to confuse
    function regime(Limits calldata own) external view returns (Limits memory effective, Rules memory rules);

    /// @return version grows whenever ceilings or rules change, so that a vault may keep `regime` until then
    /// @return stopped whether the guardian has stopped the vault
    function standing(address vault) external view returns (uint24 version, bool stopped);

    function ceilings() external view returns (Limits memory);
    function rules() external view returns (Rules memory);
    function claimsStopped() external view returns (bool);
}
