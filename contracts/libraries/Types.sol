// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

/// @title Shared shapes of the protocol
/// @notice Shares are basis points of the vault's value unless the name says otherwise; money is in base units of the
/// protocol's one quote token; times are unix seconds.

/// @notice What a vault enforces on its agent. Packed into one slot. Every field is an upper bound.
struct Limits {
    uint16 maxPositionBps; // weight of one asset after a buy
    uint16 maxTradeSlippageBps; // shortfall of one trade against the oracle
    uint16 maxCumulativeSlippageBps; // decaying net sum of the shortfalls
    uint16 maxReduceSlippageBps; // shortfall of one sale while REDUCING
    uint16 maxReduceCumulativeSlippageBps; // decaying net sum of those
    uint16 maxTradesPerDay;
    uint32 maxDailyTurnoverBps; // may exceed 10,000
    uint16 maxDailyLossBps; // below the last unit price before today, or before yesterday
    uint16 maxDrawdownBps; // below the guard's peak: the vault may only reduce
    uint16 hardDrawdownBps; // below the guard's peak: nobody trades, the assets are auctioned
}

/// @notice The constitution's parameters that are not ceilings of a single vault's limits. All that a vault needs is in
/// the first slot.
struct Rules {
    uint128 minBond; // token wei an agent with a live vault keeps bonded
    uint32 slippageDecayS; // time in which a full slippage sum decays to zero
    uint32 auctionDurationS; // time in which the auction's discount grows from zero to its largest
    uint16 auctionMaxDiscountBps;
    uint16 auctionLotBps; // share of the halted position sold in one fill
    uint16 gapAllowanceBps; // price gap beyond the hard drawdown that collateral covers
    uint128 maxRewardRate; // token wei per base unit of quote
}

/// @notice One asset a strategy may hold. `route` is the venue's own key for the market (Uniswap v3: the fee tier).
struct AssetSpec {
    address token;
    uint64 route;
}

/// @notice What the DAO votes on. Its hash, `keccak256(abi.encode(manifest))`, is what is approved.
struct StrategyManifest {
    bytes32 artefactHash; // content hash of spec + policy
    uint256 agentId; // who trades
    bytes32 updates; // zero for a new strategy, else the id of the running one that changes
    address vaultImplementation;
    bytes32 vaultCodeHash;
    address venue;
    bytes32 venueCodeHash;
    AssetSpec[] assets;
    Limits limits;
    uint128 rewardRate; // token wei paid (and taken back) per base unit of quote
    uint128 rewardCap; // token wei per epoch at most
    uint256 capital; // quote moved from the treasury on deployment or update
    bytes32 salt; // makes two otherwise equal manifests differ
}

/// @notice Where everything is. Addresses are known before deployment, so that each contract can hold them immutably.
struct Protocol {
    address token;
    address quote;
    address timelock;
    address dao;
    address treasury;
    address constitution;
    address oracle;
    address agents;
    address strategies;
    address factory;
    address ledger;
    address pool;
}

/// @notice ACTIVE trades within all limits; REDUCING sells assets for quote only; HALTED is sold by auction.
enum VaultState {
    ACTIVE,
    REDUCING,
    HALTED
}
