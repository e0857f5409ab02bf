// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

/// @title Identity, keys and stake of agents
/// @notice One ERC-721 token for each agent, shaped like ERC-8004's identity registry. Its owner is the controller:
/// it rotates the signing key, posts bond (protocol token) and deposit (quote), and is paid. Stake moves with the token.
interface IAgentRegistry {
    struct Agent {
        address signingKey;
        uint64 registeredAt;
        uint128 bond;
        uint128 deposit;
    }

    error AgentRegistryUnauthorized(address caller);
    error AgentRegistryUnknownAgent(uint64 agentId);
    error AgentRegistryInvalidKey();
    error AgentRegistryUnsettled(uint64 agentId);
    error AgentRegistryNotReleasable(uint64 agentId, uint256 requested, uint256 releasable);
    error AgentRegistryZeroAmount();

    event Registered(uint256 indexed agentId, string agentURI, address indexed owner);
    event SigningKeySet(uint64 indexed agentId, address indexed signingKey);
    event MetadataSet(uint256 indexed agentId, string indexed indexedMetadataKey, string metadataKey, bytes metadataValue);
    event BondPosted(uint64 indexed agentId, address indexed from, uint256 amount);
    event BondWithdrawn(uint64 indexed agentId, address indexed to, uint256 amount);
    event BondSeized(uint64 indexed agentId, address indexed to, uint256 amount);
    event DepositPosted(uint64 indexed agentId, address indexed from, uint256 amount);
    event DepositWithdrawn(uint64 indexed agentId, address indexed to, uint256 amount);
    event DepositAwarded(uint64 indexed agentId, address indexed to, uint256 amount);

    /// @notice Mints the next agent to the caller.
    function register(string calldata agentURI, address signingKey) external returns (uint64 agentId);

    /// @notice The only key that trades for the agent from now on. Controller only.
    function setSigningKey(uint64 agentId, address signingKey) external;

    function setAgentURI(uint64 agentId, string calldata agentURI) external;
    function setMetadata(uint64 agentId, string calldata key, bytes calldata value) external;

    /// @notice Adds to an agent's bond; anyone may.
    function postBond(uint64 agentId, uint256 amount) external;

    /// @notice Withdraws bond beyond the collateral. Controller only, and only when everything is settled.
    function withdrawBond(uint64 agentId, uint256 amount) external;

    function postDeposit(uint64 agentId, uint256 amount) external;
    function withdrawDeposit(uint64 agentId, uint256 amount) external;

    /// @notice Moves bond to the reward pool for a loss. Pool only.
    function seizeBond(uint64 agentId, uint256 amount) external;

    /// @notice Moves bond to the treasury for a proven lie. Timelock only.
    function slashBond(uint64 agentId, uint256 amount) external;

    /// @notice Moves deposit into the agent's live vault as new capital, or to the treasury when there is none that takes
    /// capital now. Timelock only.
    function awardDeposit(uint64 agentId, uint256 amount) external;

    function agentOf(uint64 agentId) external view returns (Agent memory);
    function controllerOf(uint64 agentId) external view returns (address);
    function getMetadata(uint64 agentId, string calldata key) external view returns (bytes memory);
}
