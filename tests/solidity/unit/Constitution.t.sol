// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IConstitution} from "contracts/interfaces/IConstitution.sol";
import {Limits, Rules} from "contracts/libraries/Types.sol";
import {Unit} from "./Unit.sol";

/// @notice The DAO's ceilings bind every vault at once, and the guardian can only stop, for a bounded time.
contract ConstitutionTest is Unit {
    uint16 private constant BPS = 10_000;
    address private immutable vault = makeAddr("vault");
    uint64 private start;
    uint64 private termEnd;

    function setUp() public override {
        super.setUp();
        start = uint64(block.timestamp);
        termEnd = constitution.guardianExpiresAt();
    }

    // Authority

    function test_only_the_timelock_changes_the_constitution() public {
        bytes memory unauthorized = fails(IConstitution.ConstitutionUnauthorized.selector, guardian);
        vm.startPrank(guardian);
        vm.expectRevert(unauthorized);
        constitution.setCeilings(ceilings());
        vm.expectRevert(unauthorized);
        constitution.setRules(rules());
        vm.expectRevert(unauthorized);
        constitution.appointGuardian(guardian, termEnd);
    }

    function test_the_constitution_starts_as_it_was_deployed() public view {
        assertEq(constitution.timelock(), address(timelock));
        assertEq(constitution.guardian(), guardian);
        assertEq(termEnd, GENESIS_S + 180 days);
        assertEq(abi.encode(constitution.ceilings()), abi.encode(ceilings()));
        assertEq(abi.encode(constitution.rules()), abi.encode(rules()));
        assertFalse(constitution.claimsStopped());
    }

    // Ceilings

    function test_no_limit_is_looser_than_its_ceiling() public {
        constitution.checkLimits(ceilings());
        for (uint256 field; field < 10; ++field) {
            Limits memory limits = ceilings();
            (string memory name, uint256 value) = _loosen(limits, field);
            vm.expectRevert(
                abi.encodeWithSelector(IConstitution.ConstitutionLimitTooLoose.selector, name, value, value - 1)
            );
            constitution.checkLimits(limits);
        }
    }

    function test_ceilings_that_contradict_each_other_are_refused() public {
        Limits memory l = ceilings();
        l.maxPositionBps = BPS + 1;
        _expectInconsistent(l, "maxPositionBps > 10000");
        l = ceilings();
        l.hardDrawdownBps = BPS;
        _expectInconsistent(l, "hardDrawdownBps >= 10000");
        l = ceilings();
        l.maxDrawdownBps = l.hardDrawdownBps;
        _expectInconsistent(l, "maxDrawdownBps >= hardDrawdownBps");
        l = ceilings();
        l.maxDailyLossBps = BPS;
        _expectInconsistent(l, "maxDailyLossBps >= 10000");
        l = ceilings();
        l.maxReduceSlippageBps = BPS;
        _expectInconsistent(l, "maxReduceSlippageBps >= 10000");
        l = ceilings();
        l.maxTradeSlippageBps = l.maxReduceSlippageBps + 1;
        _expectInconsistent(l, "maxTradeSlippageBps > maxReduceSlippageBps");
        l = ceilings();
        l.maxCumulativeSlippageBps = BPS - l.maxReduceCumulativeSlippageBps;
        _expectInconsistent(l, "cumulative slippage >= 10000");
    }

    function test_a_strategy_within_its_ceilings_must_still_fit_itself() public {
        Limits memory l = ceilings();
        (l.maxDrawdownBps, l.hardDrawdownBps) = (1500, 1500);
        vm.expectRevert(
            fails(IConstitution.ConstitutionLimitsInconsistent.selector, "maxDrawdownBps >= hardDrawdownBps")
        );
        constitution.checkLimits(l);
    }

    function test_what_binds_a_vault_is_the_stricter_field_by_field() public {
        Limits memory own = ceilings();
        for (uint256 field; field < 10; ++field) {
            _loosen(own, field);
        }
        (Limits memory effective, Rules memory effectiveRules) = constitution.regime(own);
        assertEq(abi.encode(effective), abi.encode(ceilings()), "the ceilings, where the vault's own are looser");
        assertEq(abi.encode(effectiveRules), abi.encode(rules()));

        vm.expectEmit(address(constitution));
        emit IConstitution.CeilingsSet(own);
        vm.prank(address(timelock));
        constitution.setCeilings(own);
        assertEq(abi.encode(constitution.ceilings()), abi.encode(own));
        (effective,) = constitution.regime(ceilings());
        assertEq(abi.encode(effective), abi.encode(ceilings()), "its own, where these are tighter");
    }

    // Rules

    function test_rules_that_could_not_work_are_refused() public {
        Rules memory r = rules();
        r.slippageDecayS = 0;
        _expectInvalid(r, "slippageDecayS");
        r = rules();
        r.auctionDurationS = 0;
        _expectInvalid(r, "auctionDurationS");
        r = rules();
        r.auctionMaxDiscountBps = BPS;
        _expectInvalid(r, "auctionMaxDiscountBps");
        r = rules();
        r.auctionLotBps = 0;
        _expectInvalid(r, "auctionLotBps");
        r.auctionLotBps = BPS + 1;
        _expectInvalid(r, "auctionLotBps");
        r = rules();
        r.gapAllowanceBps = BPS;
        _expectInvalid(r, "gapAllowanceBps");
    }

    function test_a_vote_changes_the_rules() public {
        Rules memory r = rules();
        (r.auctionLotBps, r.minBond) = (BPS, 0);
        vm.expectEmit(address(constitution));
        emit IConstitution.RulesSet(r);
        vm.prank(address(timelock));
        constitution.setRules(r);
        assertEq(abi.encode(constitution.rules()), abi.encode(r));
    }

    function test_every_change_of_what_binds_is_another_version() public {
        (uint24 atGenesis,) = constitution.standing(vault);
        assertGt(atGenesis, 0, "zero is the version of a vault that has kept nothing yet");
        vm.startPrank(address(timelock));
        constitution.setRules(rules());
        (uint24 version,) = constitution.standing(vault);
        assertEq(version, atGenesis + 1);
        constitution.setCeilings(ceilings());
        (version,) = constitution.standing(vault);
        assertEq(version, atGenesis + 2);
        constitution.appointGuardian(guardian, termEnd);
        (version,) = constitution.standing(vault);
        assertEq(version, atGenesis + 2, "the guardian binds by stops, not by limits");
    }

    // The guardian

    function test_a_term_is_a_year_at_most_and_renewed_by_vote_only() public {
        uint64 latest = uint64(block.timestamp) + 365 days;
        vm.startPrank(address(timelock));
        vm.expectRevert(
            fails(IConstitution.ConstitutionTermTooLong.selector, latest + 1, latest)
        );
        constitution.appointGuardian(guardian, latest + 1);
        address next = makeAddr("next guardian");
        vm.expectEmit(address(constitution));
        emit IConstitution.GuardianAppointed(next, latest);
        constitution.appointGuardian(next, latest);
        assertEq(constitution.guardian(), next);
        assertEq(constitution.guardianExpiresAt(), latest);
        vm.stopPrank();

        vm.prank(guardian);
        vm.expectRevert(fails(IConstitution.ConstitutionUnauthorized.selector, guardian));
        constitution.stopClaims(1);
    }

    function test_a_stop_lasts_as_long_as_it_says_and_ends_by_itself() public {
        vm.expectEmit(address(constitution));
        emit IConstitution.VaultStopped(vault, start + 2 days);
        vm.prank(guardian);
        constitution.stopVault(vault, 2 days);
        vm.expectEmit(address(constitution));
        emit IConstitution.ClaimsStopped(start + 7 days);
        vm.prank(guardian);
        constitution.stopClaims(7 days);

        vm.warp(start + 2 days - 1);
        assertTrue(_isStopped(vault));
        assertFalse(_isStopped(makeAddr("another vault")), "one vault's stop is no other's");
        assertTrue(constitution.claimsStopped());
        vm.warp(start + 2 days);
        assertFalse(_isStopped(vault));
        vm.warp(start + 7 days);
        assertFalse(constitution.claimsStopped());
    }

    function test_a_stop_is_a_week_at_most_and_never_nothing() public {
        vm.startPrank(guardian);
        vm.expectRevert(fails(IConstitution.ConstitutionStopTooLong.selector, 0, 7 days));
        constitution.stopVault(vault, 0);
        vm.expectRevert(fails(IConstitution.ConstitutionStopTooLong.selector, 7 days + 1, 7 days));
        constitution.stopClaims(7 days + 1);
    }

    function test_the_next_stop_waits_a_week_after_the_last_has_ended() public {
        vm.startPrank(guardian);
        constitution.stopVault(vault, 1 days);
        uint64 allowedFrom = start + 8 days;
        vm.warp(allowedFrom - 1);
        vm.expectRevert(fails(IConstitution.ConstitutionStopCooldown.selector, allowedFrom));
        constitution.stopVault(vault, 1 days);
        vm.warp(allowedFrom);
        constitution.stopVault(vault, 1 days);
        assertTrue(_isStopped(vault));
    }

    function test_a_shorter_stop_of_one_vault_ends_no_longer_one_of_another() public {
        address other = makeAddr("another vault");
        vm.startPrank(guardian);
        constitution.stopVault(vault, 5 days);
        constitution.stopVault(other, 1 days);
        vm.warp(start + 5 days - 1);
        assertTrue(_isStopped(vault));
        assertFalse(_isStopped(other));
    }

    function test_no_stop_outlives_the_guardians_term() public {
        vm.startPrank(guardian);
        vm.warp(termEnd - 1 days);
        constitution.stopClaims(7 days);
        assertEq(constitution.claimsStoppedUntil(), termEnd);
        vm.warp(termEnd);
        vm.expectRevert(fails(IConstitution.ConstitutionGuardianExpired.selector, termEnd));
        constitution.stopVault(vault, 1);
    }

    function test_guardian_and_timelock_lift_a_stop_and_nobody_else() public {
        vm.startPrank(guardian);
        constitution.stopVault(vault, 3 days);
        constitution.stopClaims(3 days);
        vm.stopPrank();
        bytes memory unauthorized = fails(IConstitution.ConstitutionUnauthorized.selector, address(this));
        vm.expectRevert(unauthorized);
        constitution.liftVaultStop(vault);
        vm.expectRevert(unauthorized);
        constitution.liftClaimsStop();

        vm.warp(start + 1 days);
        vm.expectEmit(address(constitution));
        emit IConstitution.VaultStopLifted(vault);
        vm.prank(guardian);
        constitution.liftVaultStop(vault);
        assertEq(constitution.vaultStoppedUntil(vault), start + 1 days, "the cooldown counts from now");
        vm.expectEmit(address(constitution));
        emit IConstitution.ClaimsStopLifted();
        vm.prank(address(timelock));
        constitution.liftClaimsStop();
        assertEq(constitution.claimsStoppedUntil(), start + 1 days);
        assertFalse(_isStopped(vault));
        assertFalse(constitution.claimsStopped());
    }

    function test_lifting_what_has_ended_does_not_begin_the_cooldown_anew() public {
        vm.startPrank(guardian);
        constitution.stopVault(vault, 1 days);
        constitution.stopClaims(1 days);
        vm.warp(start + 3 days);
        constitution.liftVaultStop(vault);
        constitution.liftClaimsStop();
        assertEq(constitution.vaultStoppedUntil(vault), start + 1 days);
        assertEq(constitution.claimsStoppedUntil(), start + 1 days);

        vm.warp(termEnd);
        vm.expectRevert(fails(IConstitution.ConstitutionUnauthorized.selector, guardian));
        constitution.liftVaultStop(vault);
    }

    // Helpers

    function _expectInconsistent(Limits memory l, string memory what) private {
        vm.prank(address(timelock));
        vm.expectRevert(fails(IConstitution.ConstitutionLimitsInconsistent.selector, what));
        constitution.setCeilings(l);
    }

    function _expectInvalid(Rules memory r, string memory field) private {
        vm.prank(address(timelock));
        vm.expectRevert(fails(IConstitution.ConstitutionInvalidRules.selector, field));
        constitution.setRules(r);
    }

    function _isStopped(address which) private view returns (bool stopped) {
        (, stopped) = constitution.standing(which);
    }

    /// @dev Raises one field by one; returns its name and its new value.
    function _loosen(Limits memory l, uint256 field) private pure returns (string memory, uint256) {
        if (field == 0) return ("maxPositionBps", ++l.maxPositionBps);
        if (field == 1) return ("maxTradeSlippageBps", ++l.maxTradeSlippageBps);
        if (field == 2) return ("maxCumulativeSlippageBps", ++l.maxCumulativeSlippageBps);
        if (field == 3) return ("maxReduceSlippageBps", ++l.maxReduceSlippageBps);
        if (field == 4) return ("maxReduceCumulativeSlippageBps", ++l.maxReduceCumulativeSlippageBps);
        if (field == 5) return ("maxTradesPerDay", ++l.maxTradesPerDay);
        if (field == 6) return ("maxDailyTurnoverBps", ++l.maxDailyTurnoverBps);
        if (field == 7) return ("maxDailyLossBps", ++l.maxDailyLossBps);
        if (field == 8) return ("maxDrawdownBps", ++l.maxDrawdownBps);
        return ("hardDrawdownBps", ++l.hardDrawdownBps);
    }
}
