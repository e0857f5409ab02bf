// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IVotes} from "@openzeppelin/contracts/governance/utils/IVotes.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {ERC721URIStorage} from "@openzeppelin/contracts/token/ERC721/extensions/ERC721URIStorage.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IAgentRegistry} from "../interfaces/IAgentRegistry.sol";
import {IRewardPool} from "../interfaces/IRewardPool.sol";
import {IStrategyVault} from "../interfaces/IStrategyVault.sol";
import {Protocol, VaultState} from "../libraries/Types.sol";

/// @title AgentRegistry
/// @notice Documented in {IAgentRegistry}.
contract AgentRegistry is IAgentRegistry, ERC721URIStorage {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;

    IERC20 public immutable token;
    IERC20 public immutable quote;
    address public immutable timelock;
    address public immutable treasury;
    IRewardPool public immutable pool;

    uint64 public agentCount;
    mapping(uint64 agentId => Agent) private _agents;
    mapping(uint64 agentId => mapping(string key => bytes)) private _metadata;

    modifier only(address authority) {
        if (msg.sender != authority) revert AgentRegistryUnauthorized(msg.sender);
        _;
    }

    modifier onlyController(uint64 agentId) {
        if (msg.sender != controllerOf(agentId)) revert AgentRegistryUnauthorized(msg.sender);
        _;
    }

    constructor(Protocol memory p) ERC721("MarketFlow Agent", "MFAGENT") {
        token = IERC20(p.token);
        quote = IERC20(p.quote);
        timelock = p.timelock;
        treasury = p.treasury;
        pool = IRewardPool(p.pool);
        IVotes(p.token).delegate(p.token); // the sink: bonds never vote
    }

    // -------------------------------------------------------------- the controller

    /// @inheritdoc IAgentRegistry
    function register(string calldata agentURI, address signingKey) external returns (uint64 agentId) {
        agentId = ++agentCount;
        _agents[agentId].registeredAt = uint64(block.timestamp);
        emit Registered(agentId, agentURI, msg.sender);
        _setKey(agentId, signingKey);
        _mint(msg.sender, agentId);
        _setTokenURI(agentId, agentURI);
    }

    /// @inheritdoc IAgentRegistry
    function setSigningKey(uint64 agentId, address signingKey) external onlyController(agentId) {
        _setKey(agentId, signingKey);
    }

    /// @inheritdoc IAgentRegistry
    function setAgentURI(uint64 agentId, string calldata agentURI) external onlyController(agentId) {
        _setTokenURI(agentId, agentURI);
    }

    /// @inheritdoc IAgentRegistry
    function setMetadata(uint64 agentId, string calldata key, bytes calldata value) external onlyController(agentId) {
        _metadata[agentId][key] = value;
        emit MetadataSet(agentId, key, key, value);
    }

    /// @inheritdoc IAgentRegistry
    function postBond(uint64 agentId, uint256 amount) external {
        _checkPost(agentId, amount);
        _agents[agentId].bond += amount.toUint128();
        emit BondPosted(agentId, msg.sender, amount);
        token.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @inheritdoc IAgentRegistry
    function withdrawBond(uint64 agentId, uint256 amount) external onlyController(agentId) {
        _checkSettled(agentId);
        uint256 releasable = pool.releasableBond(agentId);
        if (amount > releasable) revert AgentRegistryNotReleasable(agentId, amount, releasable);
        _agents[agentId].bond -= amount.toUint128();
        emit BondWithdrawn(agentId, msg.sender, amount);
        token.safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc IAgentRegistry
    function postDeposit(uint64 agentId, uint256 amount) external {
        _checkPost(agentId, amount);
        uint256 before = quote.balanceOf(address(this));
        quote.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = quote.balanceOf(address(this)) - before;
        _agents[agentId].deposit += received.toUint128();
        emit DepositPosted(agentId, msg.sender, received);
    }

    /// @inheritdoc IAgentRegistry
    function withdrawDeposit(uint64 agentId, uint256 amount) external onlyController(agentId) {
        _checkSettled(agentId);
        uint256 releasable = _releasableDeposit(agentId);
        if (amount > releasable) revert AgentRegistryNotReleasable(agentId, amount, releasable);
        _agents[agentId].deposit -= amount.toUint128();
        emit DepositWithdrawn(agentId, msg.sender, amount);
        quote.safeTransfer(msg.sender, amount);
    }

    // --------------------------------------------------- the pool and the timelock

    /// @inheritdoc IAgentRegistry
    function seizeBond(uint64 agentId, uint256 amount) external only(address(pool)) {
        _takeBond(agentId, address(pool), amount);
    }

    /// @inheritdoc IAgentRegistry
    function slashBond(uint64 agentId, uint256 amount) external only(timelock) {
        controllerOf(agentId); // exists
        _takeBond(agentId, treasury, Math.min(amount, _agents[agentId].bond));
    }

    /// @inheritdoc IAgentRegistry
    function awardDeposit(uint64 agentId, uint256 amount) external only(timelock) {
        controllerOf(agentId); // exists
        amount = Math.min(amount, _agents[agentId].deposit);
        address vault = pool.vaultOf(agentId);
        address to = _takesCapital(vault) ? vault : treasury;
        _agents[agentId].deposit -= amount.toUint128();
        emit DepositAwarded(agentId, to, amount);
        if (to == treasury) {
            quote.safeTransfer(treasury, amount);
            return;
        }
        quote.forceApprove(vault, amount);
        IStrategyVault(vault).allocate(amount);
    }

    // ----------------------------------------------------------------------- views

    /// @inheritdoc IAgentRegistry
    function agentOf(uint64 agentId) external view returns (Agent memory) {
        return _agents[agentId];
    }

    /// @inheritdoc IAgentRegistry
    function controllerOf(uint64 agentId) public view returns (address) {
        address controller = _ownerOf(agentId);
        if (controller == address(0)) revert AgentRegistryUnknownAgent(agentId);
        return controller;
    }

    /// @inheritdoc IAgentRegistry
    function getMetadata(uint64 agentId, string calldata key) external view returns (bytes memory) {
        return _metadata[agentId][key];
    }

    // -------------------------------------------------------------------- internal

    /// @dev An agent changes hands only when its account is settled: nobody buys or sells an open loss unseen.
    function _update(address to, uint256 tokenId, address auth) internal override returns (address from) {
        from = super._update(to, tokenId, auth);
        if (from != address(0)) _checkSettled(uint64(tokenId));
    }

    function _setKey(uint64 agentId, address signingKey) private {
        if (signingKey == address(0)) revert AgentRegistryInvalidKey();
        _agents[agentId].signingKey = signingKey;
        emit SigningKeySet(agentId, signingKey);
    }

    function _takeBond(uint64 agentId, address to, uint256 amount) private {
        uint256 bond = _agents[agentId].bond;
        if (amount > bond) revert AgentRegistryNotReleasable(agentId, amount, bond);
        _agents[agentId].bond -= amount.toUint128();
        emit BondSeized(agentId, to, amount);
        token.safeTransfer(to, amount);
    }

    function _checkPost(uint64 agentId, uint256 amount) private view {
        controllerOf(agentId);
        if (amount == 0) revert AgentRegistryZeroAmount();
    }

    function _checkSettled(uint64 agentId) private view {
        if (!pool.isSettled(agentId)) revert AgentRegistryUnsettled(agentId);
    }

    /// @dev A halted vault takes no capital, nor one without a full price; neither may protect the agent's deposit.
    function _takesCapital(address vault) private view returns (bool) {
        if (vault == address(0) || !pool.accountOf(vault).live) return false;
        IStrategyVault.Status memory status = IStrategyVault(vault).status();
        return status.priced && status.state != VaultState.HALTED;
    }

    /// @dev Without a full price nobody knows what the deposit has to cover, so all of it stays. A released vault is empty,
    /// so its prices don't matter, but what its slippage sums hold stays covered.
    function _releasableDeposit(uint64 agentId) private view returns (uint256) {
        uint256 deposit = _agents[agentId].deposit;
        address vault = pool.vaultOf(agentId);
        if (vault == address(0)) return deposit;
        IStrategyVault.Status memory status = IStrategyVault(vault).status();
        if (!status.priced && pool.accountOf(vault).live) return 0;
        return Math.saturatingSub(deposit, status.requiredDeposit);
    }
}
