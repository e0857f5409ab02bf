// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";
import {IRewardPool} from "../interfaces/IRewardPool.sol";
import {IStrategyRegistry} from "../interfaces/IStrategyRegistry.sol";
import {IStrategyVault} from "../interfaces/IStrategyVault.sol";
import {ITradeLedger} from "../interfaces/ITradeLedger.sol";
import {IVaultFactory} from "../interfaces/IVaultFactory.sol";
import {Protocol, StrategyManifest} from "../libraries/Types.sol";

/// @title VaultFactory
/// @notice Documented in {IVaultFactory}.
contract VaultFactory is IVaultFactory {
    address public immutable timelock;
    IStrategyRegistry public immutable strategies;
    ITradeLedger public immutable ledger;
    IRewardPool public immutable pool;

    constructor(Protocol memory p) {
        timelock = p.timelock;
        strategies = IStrategyRegistry(p.strategies);
        ledger = ITradeLedger(p.ledger);
        pool = IRewardPool(p.pool);
    }

    /// @inheritdoc IVaultFactory
    function deployVault(bytes32 strategyId) external returns (address vault) {
        if (msg.sender != timelock) revert VaultFactoryUnauthorized(msg.sender);
        StrategyManifest memory m = strategies.manifestOf(strategyId);
        if (m.updates != 0 || strategies.stageOf(strategyId) != IStrategyRegistry.Stage.APPROVED) {
            revert VaultFactoryNotApproved(strategyId);
        }
        strategies.check(m);
        vault = Clones.cloneDeterministic(m.vaultImplementation, strategyId);
        emit VaultCreated(strategyId, vault, m.vaultImplementation);
        IStrategyVault(vault).initialize(
            IStrategyVault.Init({
                strategyId: strategyId,
                artefactHash: m.artefactHash,
                venue: m.venue,
                agentId: uint64(m.agentId),
                limits: m.limits,
                assets: m.assets
            })
        );
        ledger.openBook(vault);
        pool.registerVault(vault, uint64(m.agentId), m.rewardRate, m.rewardCap);
        strategies.markDeployed(strategyId, vault);
    }

    /// @inheritdoc IVaultFactory
    function predictVault(address implementation, bytes32 strategyId) external view returns (address) {
        return Clones.predictDeterministicAddress(implementation, strategyId);
    }
}
