// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {AssetSpec, Limits, VaultState} from "../libraries/Types.sol";

/// @title Custody and guard of one strategy
/// @notice The vault holds the DAO's capital, lets one agent trade it through one venue, and checks every limit in the
/// same transaction as the trade. In every call but `recall` and `skim` the state is derived first, then persisted.
/// Value is counted from the vault's own books, never above its token balances: donations are not profit.
/// @custom:kill A vote halts or recalls; the guardian stops to REDUCING; the drawdown limits stop by themselves.
interface IStrategyVault {
    struct Init {
        bytes32 strategyId;
        bytes32 artefactHash;
        address venue;
        uint64 agentId;
        Limits limits;
        AssetSpec[] assets;
    }

    /// @param route the venue's key, as voted
    struct Asset {
        address token;
        uint64 route;
        uint8 decimals;
    }

    /// @param amount what the vault's books hold
    /// @param lastPriceWad last accepted price: whole quote tokens x 1e18 per whole token
    struct Position {
        uint128 amount;
        uint128 lastPriceWad;
    }

    /// @param units shares of the capital; flows mint and burn them at the unit price, which they leave unchanged
    /// @param netFlow recalled - allocated, base units of quote: P = value + netFlow
    struct Book {
        uint128 units;
        uint128 quoteHeld;
        int128 netFlow;
        uint64 emptiedAt;
    }

    /// @notice A decaying net sum of shortfalls, base units of quote.
    struct Bucket {
        uint128 level;
        uint64 updatedAt;
    }

    /// @notice The guard's memory. Prices are unit prices x 1e18. What a trade writes is in three slots.
    /// @param beforeToday,beforeYesterday the last unit price before today, before yesterday
    /// @param turnoverToday base units of quote; the type holds 2e13 whole tokens of 18 decimals
    /// @param day,dayBreachedOn days since 1970: today, and when the daily loss was last exceeded
    struct Guard {
        uint128 peak;
        uint128 lastUnitPrice;
        uint128 beforeToday;
        uint128 beforeYesterday;
        uint104 turnoverToday;
        uint40 nonce;
        uint40 haltedAt;
        uint16 day;
        uint16 dayBreachedOn;
        uint16 tradesToday;
        uint16 reasons;
        bool drawdownLatched;
        Bucket slippage;
        Bucket reduceSlippage;
    }

    /// @param buy true: sell quote for `asset`; false: sell `asset` for quote
    /// @param nonce the vault's next sequence number; consumed by executed trades only
    struct Order {
        address asset;
        bool buy;
        uint64 nonce;
        uint64 deadline;
        uint256 amountIn;
        uint256 minAmountOut;
        bytes32 artefactHash;
        bytes32 explanationHash;
        bytes32 observationHash;
    }

    /// @notice A vault's condition now, derived from prices. `value` counts priced assets only.
    struct Status {
        VaultState state;
        uint16 reasons;
        bool priced;
        uint256 value;
        uint256 unitPriceWad;
        int256 profit;
        uint256 requiredDeposit;
    }

    error VaultUnauthorized(address caller);
    error VaultAlreadyInitialised();
    error VaultNotSigningKey(address caller, address signingKey);
    error VaultDeadlinePassed(uint64 deadline, uint256 now_);
    error VaultWrongNonce(uint64 expected, uint64 given);
    error VaultWrongArtefact(bytes32 expected, bytes32 given);
    error VaultUnexplained();
    error VaultZeroAmount();
    error VaultUnknownAsset(address token);
    error VaultInsufficientHoldings(address token, uint256 held, uint256 needed);
    error VaultSlippageExceeded(int256 shortfall, uint256 allowed);
    error VaultCumulativeSlippageExceeded(uint256 level, uint256 cap);
    error VaultTurnoverExceeded(uint256 turnover, uint256 allowed);
    error VaultTradeCountExceeded(uint32 trades, uint32 allowed);
    error VaultPositionExceeded(address asset, uint256 positionValue, uint256 allowed);
    error VaultDailyLossExceeded(uint256 unitPriceWad, uint256 refPriceWad, uint256 limitBps);
    error VaultDrawdownExceeded(uint256 unitPriceWad, uint256 peakWad, uint256 limitBps);
    error VaultNotPriced(uint16 reasons);
    error VaultHalted();
    error VaultNotHalted();
    error VaultFallbackPriceTooHigh(uint256 priceWad, uint256 lastPriceWad);
    error VaultAuctionNeedsNewerRound(uint64 updatedAt, uint64 since);
    error VaultAuctionTooDear(uint256 quoteIn, uint256 maxQuoteIn);
    error VaultShortPaid(uint256 received, uint256 due);

    event VaultInitialised(bytes32 indexed strategyId, uint64 indexed agentId, bytes32 artefactHash);
    event VaultUpdated(bytes32 artefactHash, Limits limits);
    event StateChanged(VaultState state, uint16 reasons, uint256 unitPriceWad);
    event TradeRefused(uint64 indexed nonce, address indexed asset, bool buy, uint16 reasons, bytes32 explanationHash);
    event Allocated(uint256 amount, uint256 units, uint256 unitPriceWad);
    event Recalled(address indexed token, uint256 amount, uint256 value, uint256 units);
    event WrittenOff(address indexed token, uint256 amount);
    event AuctionFilled(address indexed asset, address indexed buyer, uint256 amount, uint256 quoteIn, uint256 discountBps);
    event Skimmed(address indexed token, uint256 amount);
    event Resumed(uint256 peakWad);

    // ----------------------------------------------------------------- the agent

    /// @notice Executes one trade within all limits, by the agent's signing key.
    /// @return amountOut zero when the trade was refused because the vault is already past a limit: then the flip is
    /// persisted, `TradeRefused` is emitted, and the nonce is not consumed. Breaking a limit of the trade reverts.
    function trade(Order calldata order) external returns (uint256 amountOut);

    // ------------------------------------------------------------------- anybody

    /// @notice Derives and persists the state, and observes the profit inside a window, for a bounty.
    function poke() external;

    /// @notice Buys one lot of a halted vault's asset at oracle x (1 - discount); the discount grows with the time since
    /// the halt or the asset's last fill. The price must be of a round after both, so that one wrong round sells one lot.
    function fillAuction(address asset, uint256 maxQuoteIn) external returns (uint256 amount, uint256 quoteIn);

    /// @notice Sends what the vault's token balance holds above its books to the treasury.
    function skim(address token) external returns (uint256 amount);

    // ------------------------------------------------------- the protocol's contracts

    /// @notice Once, by the factory, in the transaction that creates the clone.
    function initialize(Init calldata init) external;

    /// @notice New artefact, limits and assets of a running strategy. Registry only, which
    /// refuses to drop an asset that is still held.
    // slither-disable-next-line shadowing-local -- there is no body to confuse
    function update(bytes32 artefactHash, Limits calldata limits, AssetSpec[] calldata assets) external;

    /// @notice Adds `amount` of quote from the caller as capital. Treasury, or the agent registry for an award.
    function allocate(uint256 amount) external;

    /// @notice Sends up to `amount` of one token back in kind, whatever is stale, unsettled, halted or depegged.
    /// @param fallbackPriceWad the price it counts at when there is no fresh one; at most the last accepted price
    function recall(address token, uint256 amount, uint256 fallbackPriceWad) external returns (uint256 sent);

    /// @notice Stops all trading and opens the auction. Registry only, by vote.
    function halt() external;

    /// @notice Ends HALTED and REDUCING (drawdown), and makes the current unit price the guard's peak.
    /// Registry only, by vote.
    function resume() external;

    /// @notice Takes a dead token out of the books at zero. Registry only, by vote.
    function writeOff(address token) external;

    // --------------------------------------------------------------------- views

    function status() external view returns (Status memory);

    /// @notice P when the guard has done its work: hard drawdown, auction's largest discount, gap allowance. Reads no feed.
    function worstProfit() external view returns (int256);

    /// @notice The same with the prices of now, which nobody may have poked yet: what the agent's collateral must cover.
    /// @return priced whether every held asset has a fresh price; if not, nobody knows
    // slither-disable-next-line shadowing-local -- there is no body to confuse
    function exposure() external view returns (bool priced, int256 worstProfit);

    function isEmpty() external view returns (bool);
    function book() external view returns (Book memory);
    function guard() external view returns (Guard memory);
    function positionOf(address token) external view returns (Position memory);
    function assets() external view returns (Asset[] memory);
    function limits() external view returns (Limits memory);
    function strategyId() external view returns (bytes32);
    function artefactHash() external view returns (bytes32);
    function agentId() external view returns (uint64);
    function venue() external view returns (address);

    /// @notice What the next fill of `asset` would give and cost; zero without a halt or a newer round.
    function auctionQuote(address asset) external view returns (uint256 amount, uint256 quoteIn, uint256 discountBps);
}
