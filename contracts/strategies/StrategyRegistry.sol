// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Deployer} from "../governance/Deployer.sol";
import {IAgentRegistry} from "../interfaces/IAgentRegistry.sol";
import {IConstitution} from "../interfaces/IConstitution.sol";
import {IPriceOracle} from "../interfaces/IPriceOracle.sol";
import {IRewardPool} from "../interfaces/IRewardPool.sol";
import {IStrategyRegistry} from "../interfaces/IStrategyRegistry.sol";
import {IStrategyVault} from "../interfaces/IStrategyVault.sol";
import {ITreasury} from "../interfaces/ITreasury.sol";
import {IVaultFactory} from "../interfaces/IVaultFactory.sol";
import {IVenue} from "../interfaces/IVenue.sol";
import {GuardMath} from "../libraries/GuardMath.sol";
import {AssetSpec, Protocol, Rules, StrategyManifest} from "../libraries/Types.sol";

/// @title StrategyRegistry
/// @notice Documented in {IStrategyRegistry}.
contract StrategyRegistry is IStrategyRegistry {
    /// @notice A vault reads every asset in every trade.
    uint256 public constant MAX_ASSETS = 8;
    uint8 public constant MAX_DECIMALS = 24;

    address public immutable quote;
    address public immutable timelock;
    address public immutable treasury;
    address public immutable factory;
    Deployer public immutable deployer;
    IAgentRegistry public immutable agents;
    IConstitution public immutable constitution;
    IPriceOracle public immutable oracle;
    IRewardPool public immutable pool;

    /// @inheritdoc IStrategyRegistry
    mapping(bytes32 manifestHash => Stage) public stageOf;
    /// @inheritdoc IStrategyRegistry
    mapping(uint64 agentId => bytes32) public liveStrategyOf;
    mapping(bytes32 manifestHash => StrategyManifest) private _manifests;
    /// @dev The version an update was submitted against: one that was overtaken is stale.
    mapping(bytes32 manifestHash => bytes32) private _replaces;
    mapping(bytes32 strategyId => Strategy) private _strategies;

    modifier onlyTimelock() {
        if (msg.sender != timelock) revert StrategyRegistryUnauthorized(msg.sender);
        _;
    }

    constructor(Protocol memory p, Deployer deployer_) {
        deployer = deployer_;
        quote = p.quote;
        timelock = p.timelock;
        treasury = p.treasury;
        factory = p.factory;
        agents = IAgentRegistry(p.agents);
        constitution = IConstitution(p.constitution);
        oracle = IPriceOracle(p.oracle);
        pool = IRewardPool(p.pool);
    }

    // --------------------------------------------------------------------- anybody

    /// @inheritdoc IStrategyRegistry
    function submit(StrategyManifest calldata m) external returns (bytes32 manifestHash) {
        _check(m);
        manifestHash = keccak256(abi.encode(m));
        Stage stage = stageOf[manifestHash];
        if (stage == Stage.SUBMITTED) {
            _checkNotOvertaken(manifestHash, m.updates);
            return manifestHash;
        }
        if (stage != Stage.NONE) revert StrategyRegistryWrongStage(manifestHash, stage);
        stageOf[manifestHash] = Stage.SUBMITTED;
        _manifests[manifestHash] = m;
        if (m.updates != 0) _replaces[manifestHash] = _strategies[m.updates].version;
        emit ManifestSubmitted(manifestHash, m.agentId, m.artefactHash, msg.sender);
    }

    /// @inheritdoc IStrategyRegistry
    function finishRetirement(bytes32 strategyId) external {
        Strategy storage strategy = _requireStage(strategyId, Stage.RETIRING);
        IStrategyVault vault = IStrategyVault(strategy.vault);
        if (!vault.isEmpty() || !pool.settledSince(address(vault), vault.book().emptiedAt)) {
            revert StrategyRegistryNotFinished(strategyId);
        }
        strategy.stage = Stage.RETIRED;
        stageOf[strategy.version] = Stage.RETIRED;
        delete liveStrategyOf[strategy.agentId];
        emit StrategyRetired(strategyId);
        pool.releaseVault(address(vault));
    }

    // ------------------------------------------------------------------ governance

    /// @inheritdoc IStrategyRegistry
    function approve(bytes32 manifestHash) external onlyTimelock {
        _requireManifest(manifestHash, Stage.SUBMITTED);
        _check(_manifests[manifestHash]);
        stageOf[manifestHash] = Stage.APPROVED;
        emit ManifestApproved(manifestHash);
    }

    /// @inheritdoc IStrategyRegistry
    function applyUpdate(bytes32 manifestHash) external onlyTimelock {
        _requireManifest(manifestHash, Stage.APPROVED);
        StrategyManifest memory m = _manifests[manifestHash];
        _check(m);
        Strategy storage strategy = _requireStage(m.updates, Stage.LIVE);
        _checkNotOvertaken(manifestHash, m.updates);
        stageOf[strategy.version] = Stage.SUPERSEDED;
        stageOf[manifestHash] = Stage.LIVE;
        strategy.version = manifestHash;
        emit StrategyUpdated(m.updates, manifestHash, m.artefactHash);
        IStrategyVault(strategy.vault).update(m.artefactHash, m.limits, m.assets);
        pool.setCap(strategy.vault, m.rewardCap);
    }

    /// @inheritdoc IStrategyRegistry
    function halt(bytes32 strategyId) external onlyTimelock {
        IStrategyVault(_requireStage(strategyId, Stage.LIVE).vault).halt();
    }

    /// @inheritdoc IStrategyRegistry
    function resume(bytes32 strategyId) external onlyTimelock {
        IStrategyVault(_requireStage(strategyId, Stage.LIVE).vault).resume();
    }

    /// @inheritdoc IStrategyRegistry
    function writeOff(bytes32 strategyId, address token) external onlyTimelock {
        IStrategyVault(vaultOf(strategyId)).writeOff(token);
    }

    /// @inheritdoc IStrategyRegistry
    function retire(bytes32 strategyId) external onlyTimelock {
        Strategy storage strategy = _requireStage(strategyId, Stage.LIVE);
        strategy.stage = Stage.RETIRING;
        stageOf[strategy.version] = Stage.RETIRING;
        emit StrategyRetiring(strategyId);
        IStrategyVault(strategy.vault).halt();
    }

    /// @inheritdoc IStrategyRegistry
    function markDeployed(bytes32 manifestHash, address vault) external {
        if (msg.sender != factory) revert StrategyRegistryUnauthorized(msg.sender);
        uint64 agentId = uint64(_manifests[manifestHash].agentId);
        stageOf[manifestHash] = Stage.LIVE;
        liveStrategyOf[agentId] = manifestHash;
        _strategies[manifestHash] = Strategy(manifestHash, vault, agentId, Stage.LIVE);
        emit StrategyDeployed(manifestHash, vault, agentId);
    }

    // ----------------------------------------------------------------------- views

    /// @inheritdoc IStrategyRegistry
    function check(StrategyManifest calldata m) external view {
        _check(m);
    }

    /// @inheritdoc IStrategyRegistry
    function manifestOf(bytes32 manifestHash) external view returns (StrategyManifest memory) {
        if (stageOf[manifestHash] == Stage.NONE) revert StrategyRegistryUnknownManifest(manifestHash);
        return _manifests[manifestHash];
    }

    /// @inheritdoc IStrategyRegistry
    function strategyOf(bytes32 strategyId) external view returns (Strategy memory) {
        return _strategies[strategyId];
    }

    /// @inheritdoc IStrategyRegistry
    function vaultOf(bytes32 strategyId) public view returns (address) {
        address vault = _strategies[strategyId].vault;
        if (vault == address(0)) revert StrategyRegistryUnknownManifest(strategyId);
        return vault;
    }

    /// @inheritdoc IStrategyRegistry
    function bondNeeded(StrategyManifest calldata m) external view returns (uint256) {
        return _bondNeeded(m);
    }

    /// @inheritdoc IStrategyRegistry
    function callsOf(bytes32 manifestHash)
        external
        view
        returns (address[] memory targets, uint256[] memory values, bytes[] memory calldatas)
    {
        if (stageOf[manifestHash] == Stage.NONE) revert StrategyRegistryUnknownManifest(manifestHash);
        StrategyManifest storage m = _manifests[manifestHash];
        bool isUpdate = m.updates != 0;
        uint256 count = m.capital > 0 ? 3 : 2;
        targets = new address[](count);
        calldatas = new bytes[](count);
        values = new uint256[](count);
        targets[0] = address(this);
        calldatas[0] = abi.encodeCall(this.approve, (manifestHash));
        targets[1] = isUpdate ? address(this) : factory;
        calldatas[1] = isUpdate
            ? abi.encodeCall(this.applyUpdate, (manifestHash))
            : abi.encodeCall(IVaultFactory.deployVault, (manifestHash));
        if (count == 3) {
            targets[2] = treasury;
            calldatas[2] = abi.encodeCall(ITreasury.allocate, (isUpdate ? m.updates : manifestHash, m.capital));
        }
    }

    /// @inheritdoc IStrategyRegistry
    function recallCalls(bytes32 strategyId, RecallItem[] calldata items)
        external
        view
        returns (address[] memory targets, uint256[] memory values, bytes[] memory calldatas)
    {
        vaultOf(strategyId);
        targets = new address[](items.length);
        calldatas = new bytes[](items.length);
        values = new uint256[](items.length);
        for (uint256 i; i < items.length; ++i) {
            targets[i] = treasury;
            calldatas[i] = abi.encodeCall(
                ITreasury.recall, (strategyId, items[i].token, items[i].amount, items[i].fallbackPriceWad)
            );
        }
    }

    /// @inheritdoc IStrategyRegistry
    function retireCalls(bytes32 strategyId)
        external
        view
        returns (address[] memory targets, uint256[] memory values, bytes[] memory calldatas)
    {
        vaultOf(strategyId);
        targets = new address[](1);
        calldatas = new bytes[](1);
        values = new uint256[](1);
        targets[0] = address(this);
        calldatas[0] = abi.encodeCall(this.retire, (strategyId));
    }

    // -------------------------------------------------------------------- internal

    function _check(StrategyManifest memory m) private view {
        if (m.artefactHash == 0) revert StrategyRegistryEmptyArtefact();
        constitution.checkLimits(m.limits);
        Rules memory rules = constitution.rules();
        if (m.rewardRate == 0 || m.rewardRate > rules.maxRewardRate) {
            revert StrategyRegistryRateTooHigh(m.rewardRate, rules.maxRewardRate);
        }
        if (m.rewardCap < m.rewardRate) revert StrategyRegistryCapBelowRate(m.rewardCap, m.rewardRate);
        _checkCode(m.vaultImplementation, m.vaultCodeHash);
        _checkCode(m.venue, m.venueCodeHash);
        _checkAssets(m);
        if (m.agentId == 0 || m.agentId > type(uint64).max || agents.agentOf(uint64(m.agentId)).signingKey == address(0)) {
            revert StrategyRegistryUnknownAgent(m.agentId);
        }
        if (m.updates == 0) _checkNew(m);
        else _checkUpdate(m);
        uint256 bond = agents.agentOf(uint64(m.agentId)).bond;
        uint256 needed = _bondNeeded(m);
        if (bond < needed) revert StrategyRegistryBondTooSmall(m.agentId, bond, needed);
    }

    /// @dev A hash promises nothing where code can be exchanged: an account that borrows it (EIP-7702), or a contract that is
    /// there only while it is checked (CREATE2, then SELFDESTRUCT in the same transaction). The deployer's can't be.
    function _checkCode(address target, bytes32 codeHash) private view {
        if (!deployer.isDeployed(target)) revert StrategyRegistryReplaceableCode(target);
        if (target.code.length == 0 || target.codehash != codeHash) {
            revert StrategyRegistryWrongCode(target, target.codehash);
        }
    }

    function _checkAssets(StrategyManifest memory m) private view {
        uint256 count = m.assets.length;
        if (count == 0 || count > MAX_ASSETS) revert StrategyRegistryAssetCount(count, MAX_ASSETS);
        for (uint256 i; i < count; ++i) {
            address token = m.assets[i].token;
            // slither-disable-next-line calls-loop -- eight at most; one that reverts fails its own manifest
            if (token == quote || token.code.length == 0 || IERC20Metadata(token).decimals() > MAX_DECIMALS) {
                revert StrategyRegistryBadAsset(token);
            }
            for (uint256 j; j < i; ++j) {
                if (m.assets[j].token == token) revert StrategyRegistryBadAsset(token);
            }
            // slither-disable-next-line calls-loop -- as above
            IPriceOracle.PriceStatus status = oracle.read(token).status;
            if (status != IPriceOracle.PriceStatus.OK) revert StrategyRegistryNoPrice(token, uint8(status));
            // slither-disable-next-line calls-loop -- as above
            IVenue(m.venue).checkRoute(quote, token, m.assets[i].route);
        }
    }

    function _checkNew(StrategyManifest memory m) private view {
        bytes32 live = liveStrategyOf[uint64(m.agentId)];
        if (live != 0) revert StrategyRegistryAgentBusy(m.agentId, live);
        uint256 debt = pool.debtOf(uint64(m.agentId));
        if (debt > 0) revert StrategyRegistryAgentInDebt(m.agentId, debt);
    }

    function _checkUpdate(StrategyManifest memory m) private view {
        Strategy storage strategy = _requireStage(m.updates, Stage.LIVE);
        StrategyManifest storage running = _manifests[strategy.version];
        if (m.agentId != running.agentId) revert StrategyRegistryFixedField("agentId");
        if (m.rewardRate != running.rewardRate) revert StrategyRegistryFixedField("rewardRate");
        if (m.venue != running.venue) revert StrategyRegistryFixedField("venue");
        if (m.vaultImplementation != running.vaultImplementation) {
            revert StrategyRegistryFixedField("vaultImplementation");
        }
        for (uint256 i; i < running.assets.length; ++i) {
            address token = running.assets[i].token;
            // slither-disable-next-line calls-loop -- eight assets at most, a vault of ours
            uint256 held = IStrategyVault(strategy.vault).positionOf(token).amount;
            if (held > 0 && !_contains(m.assets, token)) revert StrategyRegistryAssetStillHeld(token, held);
        }
    }

    /// @dev What was written as a change of one version would undo the next, which nobody voted for.
    function _checkNotOvertaken(bytes32 manifestHash, bytes32 updates) private view {
        if (updates == 0) return;
        bytes32 running = _strategies[updates].version;
        if (_replaces[manifestHash] != running) revert StrategyRegistryStaleUpdate(manifestHash, running);
    }

    function _contains(AssetSpec[] memory assets, address token) private pure returns (bool) {
        for (uint256 i; i < assets.length; ++i) {
            if (assets[i].token == token) return true;
        }
        return false;
    }

    /// @dev rate x the most that the guard lets the capital lose; an update's capital comes on top of what runs, for
    /// which the vault itself checks the collateral in every trade.
    function _bondNeeded(StrategyManifest memory m) private view returns (uint256) {
        Rules memory rules = constitution.rules();
        uint256 worst = GuardMath.worstValueDown(
            m.capital, m.limits.hardDrawdownBps, rules.auctionMaxDiscountBps, rules.gapAllowanceBps
        );
        return Math.max(rules.minBond, uint256(m.rewardRate) * (m.capital - worst));
    }

    function _requireManifest(bytes32 manifestHash, Stage stage) private view {
        if (stageOf[manifestHash] != stage) revert StrategyRegistryWrongStage(manifestHash, stageOf[manifestHash]);
    }

    function _requireStage(bytes32 strategyId, Stage stage) private view returns (Strategy storage strategy) {
        strategy = _strategies[strategyId];
        if (strategy.stage != stage) revert StrategyRegistryWrongStage(strategyId, strategy.stage);
    }
}
