// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IConstitution} from "contracts/interfaces/IConstitution.sol";
import {IPriceOracle} from "contracts/interfaces/IPriceOracle.sol";
import {IStrategyRegistry} from "contracts/interfaces/IStrategyRegistry.sol";
import {ITreasury} from "contracts/interfaces/ITreasury.sol";
import {IVaultFactory} from "contracts/interfaces/IVaultFactory.sol";
import {IVenue} from "contracts/interfaces/IVenue.sol";
import {AssetSpec, StrategyManifest} from "contracts/libraries/Types.sol";
import {MockToken} from "contracts/mocks/MockToken.sol";
import {Unit} from "./Unit.sol";

/// @notice What is voted on is a hash; what it stands for is checked when it is submitted, approved, deployed and applied.
contract StrategyRegistryTest is Unit {
    uint64 private agentId;

    function setUp() public override {
        super.setUp();
        agentId = registerAgent();
    }

    // Authority

    function test_only_the_timelock_governs_strategies() public {
        bytes memory unauthorized = fails(IStrategyRegistry.StrategyRegistryUnauthorized.selector, address(this));
        vm.expectRevert(unauthorized);
        strategies.approve(0);
        vm.expectRevert(unauthorized);
        strategies.applyUpdate(0);
        vm.expectRevert(unauthorized);
        strategies.halt(0);
        vm.expectRevert(unauthorized);
        strategies.resume(0);
        vm.expectRevert(unauthorized);
        strategies.writeOff(0, eth.token);
        vm.expectRevert(unauthorized);
        strategies.retire(0);
    }

    function test_only_the_factory_says_that_a_vault_exists() public {
        vm.prank(address(timelock));
        vm.expectRevert(fails(IStrategyRegistry.StrategyRegistryUnauthorized.selector, address(timelock)));
        strategies.markDeployed(0, stranger);
    }

    // Submitting

    function test_a_manifest_is_known_by_its_hash() public {
        StrategyManifest memory m = manifestOfTwo(agentId);
        bytes32 hash = keccak256(abi.encode(m));
        vm.expectEmit(address(strategies));
        emit IStrategyRegistry.ManifestSubmitted(hash, agentId, m.artefactHash, stranger);
        vm.prank(stranger);
        assertEq(strategies.submit(m), hash);
        assertEq(abi.encode(strategies.manifestOf(hash)), abi.encode(m));
        _expectStage(hash, IStrategyRegistry.Stage.SUBMITTED);
        assertEq(strategies.submit(m), hash, "again: the same, and nothing changes");
        _expectStage(hash, IStrategyRegistry.Stage.SUBMITTED);

        vm.prank(address(timelock));
        strategies.approve(hash);
        vm.expectRevert(_wrongStage(hash, IStrategyRegistry.Stage.APPROVED));
        strategies.submit(m);
    }

    function test_an_unknown_manifest_has_no_content_no_calls_and_no_vault() public {
        bytes32 id = "unknown";
        bytes memory unknown = fails(IStrategyRegistry.StrategyRegistryUnknownManifest.selector, uint256(id));
        vm.expectRevert(unknown);
        strategies.manifestOf(id);
        vm.expectRevert(unknown);
        strategies.callsOf(id);
        vm.expectRevert(unknown);
        strategies.vaultOf(id);
        vm.expectRevert(unknown);
        strategies.retireCalls(id);
        vm.expectRevert(unknown);
        strategies.recallCalls(id, new IStrategyRegistry.RecallItem[](1));
        assertEq(strategies.strategyOf(id).vault, address(0));
    }

    function test_a_manifest_names_an_artefact() public {
        StrategyManifest memory m = manifest(agentId);
        m.artefactHash = 0;
        _expectRefused(m, fails(IStrategyRegistry.StrategyRegistryEmptyArtefact.selector));
    }

    function test_a_manifests_limits_are_within_the_constitution() public {
        StrategyManifest memory m = manifest(agentId);
        m.limits.maxPositionBps = 8001;
        _expectRefused(
            m, abi.encodeWithSelector(IConstitution.ConstitutionLimitTooLoose.selector, "maxPositionBps", 8001, 8000)
        );
    }

    function test_the_rate_is_something_and_no_more_than_the_constitution_allows() public {
        StrategyManifest memory m = manifest(agentId);
        m.rewardRate = 0;
        _expectRefused(m, fails(IStrategyRegistry.StrategyRegistryRateTooHigh.selector, uint256(0), 1e12));
        m.rewardRate = 1e12 + 1;
        _expectRefused(m, fails(IStrategyRegistry.StrategyRegistryRateTooHigh.selector, 1e12 + 1, 1e12));
        m.rewardRate = RATE;
        m.rewardCap = RATE - 1;
        _expectRefused(m, fails(IStrategyRegistry.StrategyRegistryCapBelowRate.selector, uint256(RATE) - 1, RATE));
    }

    function test_vault_and_venue_have_the_code_that_was_voted_on() public {
        StrategyManifest memory m = manifest(agentId);
        m.vaultCodeHash = "another";
        _expectRefused(m, _wrongCode(address(vaultImplementation)));
        m = manifest(agentId);
        m.venueCodeHash = address(vaultImplementation).codehash;
        _expectRefused(m, _wrongCode(address(venue)));
    }

    function test_code_that_has_destroyed_itself_is_no_code_whatever_its_hash() public {
        StrategyManifest memory m = manifest(agentId);
        vm.etch(address(venue), "");
        m.venueCodeHash = address(venue).codehash;
        _expectRefused(m, _wrongCode(address(venue)));
    }

    function test_vault_and_venue_are_where_no_other_code_can_ever_be() public {
        address copy = makeAddr("the same code, deployed otherwise");
        vm.etch(copy, address(venue).code);
        StrategyManifest memory m = manifest(agentId);
        (m.venue, m.venueCodeHash) = (copy, copy.codehash);
        _expectRefused(m, fails(IStrategyRegistry.StrategyRegistryReplaceableCode.selector, copy));
        m = manifest(agentId);
        (m.vaultImplementation, m.vaultCodeHash) = (copy, copy.codehash);
        _expectRefused(m, fails(IStrategyRegistry.StrategyRegistryReplaceableCode.selector, copy));
    }

    function test_a_manifest_lists_one_to_eight_assets() public {
        StrategyManifest memory m = manifest(agentId);
        m.assets = new AssetSpec[](0);
        _expectRefused(m, fails(IStrategyRegistry.StrategyRegistryAssetCount.selector, uint256(0), 8));
        m.assets = new AssetSpec[](9);
        _expectRefused(m, fails(IStrategyRegistry.StrategyRegistryAssetCount.selector, uint256(9), 8));
    }

    function test_an_asset_is_a_token_other_than_quote_and_listed_once() public {
        StrategyManifest memory m = manifest(agentId);
        m.assets[0].token = address(quote);
        _expectBadAsset(m, address(quote));
        m.assets[0].token = stranger;
        _expectBadAsset(m, stranger);
        m.assets[0].token = address(new MockToken("Many decimals", "MANY", 25));
        _expectBadAsset(m, m.assets[0].token);
        m = manifestOfTwo(agentId);
        m.assets[1] = m.assets[0];
        _expectBadAsset(m, eth.token);
    }

    function test_an_asset_has_a_price_now() public {
        letAssetFeedsGoStale();
        StrategyManifest memory m = manifest(agentId);
        _expectRefused(
            m,
            abi.encodeWithSelector(
                IStrategyRegistry.StrategyRegistryNoPrice.selector, eth.token, IPriceOracle.PriceStatus.STALE
            )
        );
    }

    function test_an_asset_has_a_market() public {
        StrategyManifest memory m = manifest(agentId);
        m.assets[0].route = 3000;
        _expectRefused(
            m, abi.encodeWithSelector(IVenue.VenueNoPool.selector, address(quote), eth.token, uint256(3000))
        );
    }

    function test_a_manifests_agent_is_registered() public {
        uint256[3] memory unknown = [uint256(0), agentId + 1, uint256(1) << 64 | agentId];
        for (uint256 i; i < unknown.length; ++i) {
            StrategyManifest memory m = manifest(agentId);
            m.agentId = unknown[i];
            _expectRefused(m, fails(IStrategyRegistry.StrategyRegistryUnknownAgent.selector, unknown[i]));
        }
    }

    function test_an_agent_has_one_live_strategy() public {
        Strategy memory s = deployStrategy(manifest(agentId));
        StrategyManifest memory m = manifest(agentId);
        m.salt = "another";
        _expectRefused(m, fails(IStrategyRegistry.StrategyRegistryAgentBusy.selector, agentId, uint256(s.id)));
    }

    function test_the_bond_covers_what_the_guard_lets_the_capital_lose() public {
        uint64 poor = registerAgent(otherController, otherSigner, 1_000 ether, 0);
        StrategyManifest memory m = manifest(poor);
        m.capital = 1_000_000e6;
        // After 15 % drawdown, 5 % discount and a gap of 5 % there are 767,125 of a million dollars.
        uint256 needed = uint256(RATE) * 232_875e6;
        assertEq(strategies.bondNeeded(m), needed);
        _expectRefused(
            m, fails(IStrategyRegistry.StrategyRegistryBondTooSmall.selector, uint256(poor), 1_000 ether, needed)
        );
        m.capital = 0;
        assertEq(strategies.bondNeeded(m), 1_000 ether, "never less than the constitution's least");
        strategies.check(m);
    }

    // Approving and deploying

    function test_only_what_was_submitted_is_approved() public {
        vm.prank(address(timelock));
        vm.expectRevert(_wrongStage("never", IStrategyRegistry.Stage.NONE));
        strategies.approve("never");

        bytes32 id = submit(manifest(agentId));
        vm.expectEmit(address(strategies));
        emit IStrategyRegistry.ManifestApproved(id);
        vm.prank(address(timelock));
        strategies.approve(id);
        _expectStage(id, IStrategyRegistry.Stage.APPROVED);
    }

    function test_what_has_become_wrong_since_is_not_approved() public {
        bytes32 id = submit(manifest(agentId));
        vm.startPrank(address(timelock));
        agents.slashBond(agentId, 50_000 ether);
        vm.expectPartialRevert(IStrategyRegistry.StrategyRegistryBondTooSmall.selector);
        strategies.approve(id);
    }

    function test_a_deployed_strategy_is_live_and_its_agents_only_one() public {
        bytes32 id = approve(manifest(agentId));
        address vault = factory.predictVault(address(vaultImplementation), id);
        vm.expectEmit(address(strategies));
        emit IStrategyRegistry.StrategyDeployed(id, vault, agentId);
        vm.prank(address(timelock));
        factory.deployVault(id);
        assertEq(strategies.vaultOf(id), vault);
        assertEq(strategies.liveStrategyOf(agentId), id);
        assertEq(
            abi.encode(strategies.strategyOf(id)),
            abi.encode(IStrategyRegistry.Strategy(id, vault, agentId, IStrategyRegistry.Stage.LIVE))
        );
    }

    // The calls that a vote executes

    function test_a_new_strategys_calls_approve_deploy_and_allocate() public {
        StrategyManifest memory m = manifest(agentId);
        bytes32 id = submit(m);
        (address[] memory targets, uint256[] memory values, bytes[] memory calldatas) = strategies.callsOf(id);
        assertEq(targets.length, 3);
        assertEq(targets[0], address(strategies));
        assertEq(calldatas[0], abi.encodeCall(strategies.approve, (id)));
        assertEq(targets[1], address(factory));
        assertEq(calldatas[1], abi.encodeCall(IVaultFactory.deployVault, (id)));
        assertEq(targets[2], address(treasury));
        assertEq(calldatas[2], abi.encodeCall(ITreasury.allocate, (id, CAPITAL)));
        assertEq(values[0] + values[1] + values[2], 0);
    }

    function test_an_updates_calls_approve_and_apply_and_allocate_only_new_capital() public {
        Strategy memory s = deployStrategy(manifest(agentId));
        StrategyManifest memory m = _updateOf(s);
        bytes32 id = submit(m);
        (address[] memory targets,, bytes[] memory calldatas) = strategies.callsOf(id);
        assertEq(targets.length, 2);
        assertEq(targets[1], address(strategies));
        assertEq(calldatas[1], abi.encodeCall(strategies.applyUpdate, (id)));

        m.capital = 5e6;
        id = submit(m);
        (targets,, calldatas) = strategies.callsOf(id);
        assertEq(targets.length, 3);
        assertEq(calldatas[2], abi.encodeCall(ITreasury.allocate, (s.id, 5e6)), "into the vault that runs");
    }

    function test_recalls_and_retirements_have_fixed_calls_too() public {
        Strategy memory s = deployStrategy(manifest(agentId));
        IStrategyRegistry.RecallItem[] memory items = new IStrategyRegistry.RecallItem[](2);
        items[0] = IStrategyRegistry.RecallItem(eth.token, 5, 7);
        items[1] = IStrategyRegistry.RecallItem(address(quote), 9, 0);
        (address[] memory targets, uint256[] memory values, bytes[] memory calldatas) =
            strategies.recallCalls(s.id, items);
        assertEq(targets.length, 2);
        for (uint256 i; i < 2; ++i) {
            assertEq(targets[i], address(treasury));
            assertEq(values[i], 0);
        }
        assertEq(calldatas[0], abi.encodeCall(ITreasury.recall, (s.id, eth.token, 5, 7)));
        assertEq(calldatas[1], abi.encodeCall(ITreasury.recall, (s.id, address(quote), 9, 0)));

        (targets, values, calldatas) = strategies.retireCalls(s.id);
        assertEq(targets.length, 1);
        assertEq(targets[0], address(strategies));
        assertEq(values[0], 0);
        assertEq(calldatas[0], abi.encodeCall(strategies.retire, (s.id)));
    }

    // Updates

    function test_an_update_is_a_new_artefact_with_new_limits_assets_and_cap() public {
        Strategy memory s = deployStrategy(manifest(agentId));
        StrategyManifest memory m = _updateOf(s);
        m.artefactHash = "artefact v2";
        m.assets = manifestOfTwo(agentId).assets;
        m.limits.maxTradesPerDay = 3;
        m.rewardCap = 2 * CAP;
        bytes32 version = approve(m);
        vm.expectEmit(address(strategies));
        emit IStrategyRegistry.StrategyUpdated(s.id, version, m.artefactHash);
        vm.prank(address(timelock));
        strategies.applyUpdate(version);

        _expectStage(s.id, IStrategyRegistry.Stage.SUPERSEDED);
        _expectStage(version, IStrategyRegistry.Stage.LIVE);
        assertEq(strategies.strategyOf(s.id).version, version);
        assertEq(strategies.vaultOf(s.id), address(s.vault), "the same vault");
        assertEq(s.vault.artefactHash(), m.artefactHash);
        assertEq(abi.encode(s.vault.limits()), abi.encode(m.limits));
        assertEq(s.vault.assets().length, 2);
        assertEq(account(s).cap, 2 * CAP);
    }

    function test_only_an_approved_manifest_is_applied_and_only_to_a_live_strategy() public {
        Strategy memory s = deployStrategy(manifest(agentId));
        bytes32 version = submit(_updateOf(s));
        vm.prank(address(timelock));
        vm.expectRevert(_wrongStage(version, IStrategyRegistry.Stage.SUBMITTED));
        strategies.applyUpdate(version);

        StrategyManifest memory m = _updateOf(s);
        m.updates = "nothing that runs";
        _expectRefused(m, _wrongStage(m.updates, IStrategyRegistry.Stage.NONE));
    }

    function test_agent_rate_venue_and_implementation_are_fixed_for_a_vaults_life() public {
        uint64 other = registerOther();
        Strategy memory s = deployStrategy(manifest(agentId));
        StrategyManifest memory m = _updateOf(s);
        m.agentId = other;
        _expectFixed(m, "agentId");
        m = _updateOf(s);
        m.rewardRate = RATE - 1;
        _expectFixed(m, "rewardRate");
        m = _updateOf(s);
        address venue2 = deployByDeployer("UniswapV3Venue", abi.encode(uniswapFactory, poolInitCodeHash));
        (m.venue, m.venueCodeHash) = (venue2, venue2.codehash);
        _expectFixed(m, "venue");
        m = _updateOf(s);
        (m.vaultImplementation, m.vaultCodeHash) = (address(venue), address(venue).codehash);
        _expectFixed(m, "vaultImplementation");
    }

    function test_an_asset_that_is_held_is_not_dropped() public {
        Strategy memory s = deployStrategy(manifestOfTwo(agentId));
        uint256 bought = buy(s, 10_000e6);
        StrategyManifest memory m = _updateOf(s);
        m.assets = new AssetSpec[](1);
        m.assets[0] = AssetSpec(btc.token, POOL_FEE);
        _expectRefused(m, fails(IStrategyRegistry.StrategyRegistryAssetStillHeld.selector, eth.token, bought));
        m.assets = new AssetSpec[](2);
        m.assets[0] = AssetSpec(btc.token, POOL_FEE);
        m.assets[1] = AssetSpec(eth.token, POOL_FEE);
        strategies.check(m); // kept, wherever it stands in the list
        m.assets = new AssetSpec[](1);
        m.assets[0] = AssetSpec(btc.token, POOL_FEE);
        sell(s, bought);
        update(m);
        assertEq(s.vault.assets().length, 1);
        assertEq(s.vault.assets()[0].token, btc.token);
    }

    function test_an_update_that_another_has_overtaken_is_stale() public {
        Strategy memory s = deployStrategy(manifest(agentId));
        (StrategyManifest memory first, StrategyManifest memory second) = (_updateOf(s), _updateOf(s));
        (first.artefactHash, second.artefactHash) = ("first", "second");
        bytes32 submittedOnly = submit(first);
        bytes32 stale = approve(second);
        StrategyManifest memory third = _updateOf(s);
        third.artefactHash = "third";
        bytes32 running = update(third);

        vm.prank(address(timelock));
        vm.expectRevert(fails(IStrategyRegistry.StrategyRegistryStaleUpdate.selector, uint256(stale), uint256(running)));
        strategies.applyUpdate(stale);
        vm.expectRevert(
            fails(IStrategyRegistry.StrategyRegistryStaleUpdate.selector, uint256(submittedOnly), uint256(running))
        );
        strategies.submit(first);
    }

    // Halting, writing off, retiring

    function test_only_a_live_strategy_is_halted_resumed_or_retired() public asTimelock {
        bytes memory wrong = _wrongStage("never", IStrategyRegistry.Stage.NONE);
        vm.expectRevert(wrong);
        strategies.halt("never");
        vm.expectRevert(wrong);
        strategies.resume("never");
        vm.expectRevert(wrong);
        strategies.retire("never");
        vm.expectRevert(wrong);
        strategies.finishRetirement("never");
        vm.expectRevert(fails(IStrategyRegistry.StrategyRegistryUnknownManifest.selector, uint256(bytes32("never"))));
        strategies.writeOff("never", eth.token);
    }

    function test_a_retirement_ends_when_the_vault_is_empty_and_its_last_window_is_settled() public {
        Strategy memory s = deployStrategy(manifest(agentId));
        vm.expectEmit(address(strategies));
        emit IStrategyRegistry.StrategyRetiring(s.id);
        retire(s);
        _expectStage(s.id, IStrategyRegistry.Stage.RETIRING);
        assertEq(s.vault.guard().haltedAt, block.timestamp);

        bytes memory notFinished = fails(IStrategyRegistry.StrategyRegistryNotFinished.selector, uint256(s.id));
        vm.expectRevert(notFinished); // not empty
        strategies.finishRetirement(s.id);
        recallAll(s);
        vm.expectRevert(notFinished); // nothing settled since it became empty
        strategies.finishRetirement(s.id);

        settle(s);
        vm.expectEmit(address(strategies));
        emit IStrategyRegistry.StrategyRetired(s.id);
        strategies.finishRetirement(s.id);
        _expectStage(s.id, IStrategyRegistry.Stage.RETIRED);
        assertEq(uint8(strategies.strategyOf(s.id).stage), uint8(IStrategyRegistry.Stage.RETIRED));
        assertEq(strategies.liveStrategyOf(agentId), 0);
        assertFalse(account(s).live);
        strategies.check(_another()); // the agent may begin anew
    }

    function test_an_agent_that_still_owes_can_not_begin_anew() public {
        Strategy memory s = deployStrategy(manifest(agentId));
        buy(s, 400_000e6);
        setPrice(eth, 1900e8);
        retire(s);
        recallAll(s);
        vm.prank(address(timelock));
        agents.slashBond(agentId, 50_000 ether); // so that nothing is left to take
        assertLt(settle(s), 0);
        strategies.finishRetirement(s.id);

        uint256 debt = pool.debtOf(agentId);
        assertEq(int256(debt), -s.vault.worstProfit());
        assertGt(debt, 19_000e6, "5 % of 400,000, and what trading cost");
        postBond(agentId, 50_000 ether, controller);
        _expectRefused(
            _another(), fails(IStrategyRegistry.StrategyRegistryAgentInDebt.selector, uint256(agentId), debt)
        );
    }

    // Helpers

    /// @dev An update that changes nothing yet.
    function _updateOf(Strategy memory s) private view returns (StrategyManifest memory m) {
        m = manifest(agentId);
        (m.updates, m.capital) = (s.id, 0);
    }

    function _another() private view returns (StrategyManifest memory m) {
        m = manifest(agentId);
        m.salt = "another";
    }

    function _expectRefused(StrategyManifest memory m, bytes memory error) private {
        vm.expectRevert(error);
        strategies.check(m);
        vm.expectRevert(error);
        strategies.submit(m);
    }

    function _expectBadAsset(StrategyManifest memory m, address asset) private {
        _expectRefused(m, fails(IStrategyRegistry.StrategyRegistryBadAsset.selector, asset));
    }

    function _expectFixed(StrategyManifest memory m, string memory field) private {
        _expectRefused(m, fails(IStrategyRegistry.StrategyRegistryFixedField.selector, field));
    }

    function _expectStage(bytes32 id, IStrategyRegistry.Stage stage) private view {
        assertEq(uint8(strategies.stageOf(id)), uint8(stage));
    }

    function _wrongStage(bytes32 id, IStrategyRegistry.Stage stage) private pure returns (bytes memory) {
        return abi.encodeWithSelector(IStrategyRegistry.StrategyRegistryWrongStage.selector, id, stage);
    }

    function _wrongCode(address target) private view returns (bytes memory) {
        return abi.encodeWithSelector(IStrategyRegistry.StrategyRegistryWrongCode.selector, target, target.codehash);
    }
}
