// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {StrategyManifest} from "../libraries/Types.sol";

/// @title What was proposed, what was approved, what runs
/// @notice Stores manifests, checks them, and builds the only calls a strategy proposal may consist of. The same checks
/// run when a manifest is submitted, approved and deployed, whichever way the calls arrive.
interface IStrategyRegistry {
    /// @notice SUBMITTED: stored and checked. APPROVED: voted, in the batch that deploys it. LIVE: its vault runs this
    /// version. SUPERSEDED: an update replaced it. RETIRING: halted for good, being sold. RETIRED: empty and settled.
    enum Stage {
        NONE,
        SUBMITTED,
        APPROVED,
        LIVE,
        SUPERSEDED,
        RETIRING,
        RETIRED
    }

    /// @param version the manifest that the vault runs now
    /// @param vault the clone
    struct Strategy {
        bytes32 version;
        address vault;
        uint64 agentId;
        Stage stage;
    }

    struct RecallItem {
        address token;
        uint256 amount;
        uint256 fallbackPriceWad;
    }

    error StrategyRegistryUnauthorized(address caller);
    error StrategyRegistryUnknownManifest(bytes32 manifestHash);
    error StrategyRegistryWrongStage(bytes32 id, Stage stage);
    error StrategyRegistryUnknownAgent(uint256 agentId);
    error StrategyRegistryAgentBusy(uint256 agentId, bytes32 strategyId);
    error StrategyRegistryAgentInDebt(uint256 agentId, uint256 debt);
    error StrategyRegistryBondTooSmall(uint256 agentId, uint256 bond, uint256 needed);
    error StrategyRegistryRateTooHigh(uint256 rate, uint256 highest);
    error StrategyRegistryCapBelowRate(uint256 cap, uint256 rate);
    error StrategyRegistryReplaceableCode(address target);
    error StrategyRegistryWrongCode(address target, bytes32 codeHash);
    error StrategyRegistryAssetCount(uint256 count, uint256 most);
    error StrategyRegistryBadAsset(address token);
    error StrategyRegistryNoPrice(address token, uint8 status);
    error StrategyRegistryEmptyArtefact();
    error StrategyRegistryAssetStillHeld(address token, uint256 amount);
    error StrategyRegistryFixedField(string field);
    error StrategyRegistryStaleUpdate(bytes32 manifestHash, bytes32 running);
    error StrategyRegistryNotFinished(bytes32 strategyId);

    event ManifestSubmitted(bytes32 indexed manifestHash, uint256 indexed agentId, bytes32 artefactHash, address submitter);
    event ManifestApproved(bytes32 indexed manifestHash);
    event StrategyDeployed(bytes32 indexed strategyId, address indexed vault, uint256 indexed agentId);
    event StrategyUpdated(bytes32 indexed strategyId, bytes32 indexed version, bytes32 artefactHash);
    event StrategyRetiring(bytes32 indexed strategyId);
    event StrategyRetired(bytes32 indexed strategyId);

    // --------------------------------------------------------------------- anybody

    /// @notice Stores a manifest after checking it. The same manifest may be submitted again.
    /// @return manifestHash keccak256(abi.encode(manifest)); a new strategy's id is its first manifest's hash
    function submit(StrategyManifest calldata manifest) external returns (bytes32 manifestHash);

    /// @notice Ends a retirement once the vault is empty and a whole observation window after that is settled.
    function finishRetirement(bytes32 strategyId) external;

    // ------------------------------------------------------- governance (timelock)

    function approve(bytes32 manifestHash) external;
    function applyUpdate(bytes32 manifestHash) external;
    function halt(bytes32 strategyId) external;
    function resume(bytes32 strategyId) external;
    function writeOff(bytes32 strategyId, address token) external;
    function retire(bytes32 strategyId) external;

    // ------------------------------------------------------------------ the factory

    function markDeployed(bytes32 manifestHash, address vault) external;

    // ------------------------------------------------------------------------ views

    /// @notice Reverts with the first thing that is wrong with a manifest now.
    function check(StrategyManifest calldata manifest) external view;

    function manifestOf(bytes32 manifestHash) external view returns (StrategyManifest memory);
    function stageOf(bytes32 manifestHash) external view returns (Stage);
    function strategyOf(bytes32 strategyId) external view returns (Strategy memory);
    function liveStrategyOf(uint64 agentId) external view returns (bytes32);
    function vaultOf(bytes32 strategyId) external view returns (address);

    /// @notice Token wei an agent must have bonded for the manifest's capital.
    function bondNeeded(StrategyManifest calldata manifest) external view returns (uint256);

    /// @notice The calls of a proposal to deploy or update.
    function callsOf(bytes32 manifestHash)
        external
        view
        returns (address[] memory targets, uint256[] memory values, bytes[] memory calldatas);

    /// @notice The calls of a proposal to recall capital, one for each item.
    function recallCalls(bytes32 strategyId, RecallItem[] calldata items)
        external
        view
        returns (address[] memory targets, uint256[] memory values, bytes[] memory calldatas);

    /// @notice The calls of a proposal to retire a strategy.
    function retireCalls(bytes32 strategyId)
        external
        view
        returns (address[] memory targets, uint256[] memory values, bytes[] memory calldatas);
}
