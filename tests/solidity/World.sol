// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {IUniswapV3Pool} from "@uniswap/v3-core/contracts/interfaces/IUniswapV3Pool.sol";
import {Test} from "forge-std/Test.sol";
import {AgentRegistry} from "contracts/agents/AgentRegistry.sol";
import {Constitution} from "contracts/constitution/Constitution.sol";
import {Deployer} from "contracts/governance/Deployer.sol";
import {MARKETFLOW_DAO} from "contracts/governance/MARKETFLOW_DAO.sol";
import {Timelock} from "contracts/governance/Timelock.sol";
import {Treasury} from "contracts/governance/Treasury.sol";
import {IPriceOracle} from "contracts/interfaces/IPriceOracle.sol";
import {IRewardPool} from "contracts/interfaces/IRewardPool.sol";
import {IStrategyVault} from "contracts/interfaces/IStrategyVault.sol";
import {TradeLedger} from "contracts/ledger/TradeLedger.sol";
import {AssetSpec, Limits, Protocol, Rules, StrategyManifest} from "contracts/libraries/Types.sol";
import {FeedAggregator} from "contracts/mocks/FeedAggregator.sol";
import {FeedProxy} from "contracts/mocks/FeedProxy.sol";
import {MockToken} from "contracts/mocks/MockToken.sol";
import {QuoteToken} from "contracts/mocks/QuoteToken.sol";
import {PriceOracle} from "contracts/oracle/PriceOracle.sol";
import {RewardPool} from "contracts/rewards/RewardPool.sol";
import {StrategyRegistry} from "contracts/strategies/StrategyRegistry.sol";
import {MarketFlowToken} from "contracts/token/MarketFlowToken.sol";
import {StrategyVault} from "contracts/vaults/StrategyVault.sol";
import {UniswapV3Venue} from "contracts/vaults/UniswapV3Venue.sol";
import {VaultFactory} from "contracts/vaults/VaultFactory.sol";

/// @dev What the tests use of Uniswap's and WETH9's byte code, which comes from their npm packages.
interface IPositions {
    struct MintParams {
        address token0;
        address token1;
        uint24 fee;
        int24 tickLower;
        int24 tickUpper;
        uint256 amount0Desired;
        uint256 amount1Desired;
        uint256 amount0Min;
        uint256 amount1Min;
        address recipient;
        uint256 deadline;
    }

    function createAndInitializePoolIfNecessary(address token0, address token1, uint24 fee, uint160 sqrtPriceX96)
        external
        returns (address pool);
    function mint(MintParams calldata params) external returns (uint256, uint128, uint256, uint256);
}

interface IRouter {
    struct ExactInputSingleParams {
        address tokenIn;
        address tokenOut;
        uint24 fee;
        address recipient;
        uint256 deadline;
        uint256 amountIn;
        uint256 amountOutMinimum;
        uint160 sqrtPriceLimitX96;
    }

    function exactInputSingle(ExactInputSingleParams calldata params) external payable returns (uint256 amountOut);
}

interface IWrapped {
    function deposit() external payable;
}

/// @title The world that tests in Solidity live in
/// @notice The whole protocol, deployed as `agents/deployment.py` deploys it, on real Uniswap v3 byte code and feeds
/// shaped like Chainlink's; the people, numbers and verbs of `tests/contracts/world.py`. Prices are 2,000 USD for ETH
/// and 60,000 USD for BTC until a test says otherwise. Call `deployWorld()` in `setUp`.
abstract contract World is Test {
    struct Asset {
        string symbol;
        address token;
        uint8 decimals;
        FeedProxy feed;
        FeedAggregator aggregator;
        IUniswapV3Pool pool;
    }

    struct Strategy {
        bytes32 id;
        StrategyVault vault;
        uint64 agentId;
    }

    uint256 internal constant GENESIS_S = 1_750_000_000;
    uint24 internal constant POOL_FEE = 500;
    uint256 internal constant LIQUIDITY_USD = 2_000_000_000; // both sides together
    uint32 internal constant EPOCH_S = 7 days;
    uint32 internal constant WINDOW_S = 6 hours;
    uint32 internal constant VESTING_S = 30 days;
    uint32 internal constant MAX_UNSETTLED = 3;
    uint128 internal constant BOUNTY = 1 ether;
    uint128 internal constant BUDGET = 20_000 ether;
    uint128 internal constant RATE = 1e11; // 0.1 token for each dollar
    uint128 internal constant CAP = 5_000 ether;
    uint256 internal constant CAPITAL = 1_000_000e6;
    uint256 internal constant TREASURY_QUOTE = 20_000_000e6;
    uint256 internal constant SUPPLY = 10_000_000 ether;
    uint256 internal constant REWARD_FUND = 300_000 ether;
    uint256 internal constant BOUNTY_FUND = 1_000 ether;
    bytes32 internal constant EXPLANATION = bytes32(uint256(1));
    bytes32 internal constant OBSERVATION = bytes32(uint256(2));
    uint160 private constant MIN_SQRT_RATIO = 4_295_128_739;
    uint256 private constant PLENTY = 1e33;

    // People, named for what they do; `keyOf` has their keys.
    address internal deployer = makeAddr("deployer");
    address internal guardian = makeAddr("guardian");
    address internal proposer = makeAddr("proposer");
    address internal voterA = makeAddr("voter a");
    address internal voterB = makeAddr("voter b");
    address internal smallHolder = makeAddr("small holder");
    address internal controller = makeAddr("controller");
    address internal signer = makeAddr("signer");
    address internal otherController = makeAddr("other controller");
    address internal otherSigner = makeAddr("other signer");
    address internal stranger = makeAddr("stranger");
    address internal relayer = makeAddr("relayer");
    address internal observer = makeAddr("observer");
    address internal bidder = makeAddr("bidder");
    address internal publisher = makeAddr("publisher");
    address internal arbitrageur = makeAddr("arbitrageur");

    // The market.
    address internal weth;
    address internal uniswapFactory;
    bytes32 internal poolInitCodeHash;
    IRouter internal router;
    IPositions internal positions;
    QuoteToken internal quote;
    FeedProxy internal quoteFeed;
    FeedAggregator internal quoteAggregator;
    Asset internal eth;
    Asset internal btc;

    // The protocol.
    Deployer internal deployerContract;
    MarketFlowToken internal token;
    Timelock internal timelock;
    MARKETFLOW_DAO internal dao;
    Treasury internal treasury;
    Constitution internal constitution;
    PriceOracle internal oracle;
    AgentRegistry internal agents;
    StrategyRegistry internal strategies;
    VaultFactory internal factory;
    TradeLedger internal ledger;
    RewardPool internal pool;
    StrategyVault internal vaultImplementation;
    UniswapV3Venue internal venue;
    uint256 internal firstEpochS;

    function deployWorld() internal {
        vm.warp(GENESIS_S);
        _deployMarket();
        _deployProtocol(_predictProtocol());
        _distribute();
        quote.mint(address(treasury), TREASURY_QUOTE);
        address[4] memory voters = [proposer, voterA, voterB, smallHolder];
        for (uint256 i; i < voters.length; ++i) {
            vm.prank(voters[i]);
            token.delegate(voters[i]);
        }
        travel(1 hours);
    }

    // -------------------------------------------------------------------- numbers

    function ceilings() internal pure virtual returns (Limits memory) {
        return Limits({
            maxPositionBps: 8000,
            maxTradeSlippageBps: 100,
            maxCumulativeSlippageBps: 300,
            maxReduceSlippageBps: 400,
            maxReduceCumulativeSlippageBps: 600,
            maxTradesPerDay: 50,
            maxDailyTurnoverBps: 40_000,
            maxDailyLossBps: 1000,
            maxDrawdownBps: 2000,
            hardDrawdownBps: 3000
        });
    }

    function limits() internal pure virtual returns (Limits memory) {
        return Limits({
            maxPositionBps: 6000,
            maxTradeSlippageBps: 60,
            maxCumulativeSlippageBps: 100,
            maxReduceSlippageBps: 200,
            maxReduceCumulativeSlippageBps: 300,
            maxTradesPerDay: 10,
            maxDailyTurnoverBps: 20_000,
            maxDailyLossBps: 500,
            maxDrawdownBps: 1000,
            hardDrawdownBps: 1500
        });
    }

    function rules() internal pure virtual returns (Rules memory) {
        return Rules({
            maxRewardRate: 1e12,
            minBond: 1000 ether,
            slippageDecayS: 7 days,
            auctionDurationS: 4 hours,
            auctionMaxDiscountBps: 500,
            auctionLotBps: 2500,
            gapAllowanceBps: 500
        });
    }

    function settings() internal pure virtual returns (MARKETFLOW_DAO.Settings memory) {
        return MARKETFLOW_DAO.Settings({
            votingDelayS: 1 hours,
            votingPeriodS: 3 days,
            proposalThreshold: 10_000 ether,
            quorumFloor: 100_000 ether,
            quorumBps: 400,
            lastStretchS: 12 hours,
            objectionPeriodS: 1 days,
            graceS: 7 days
        });
    }

    function keyOf(string memory person) internal pure returns (uint256) {
        return uint256(keccak256(abi.encodePacked(person)));
    }

    // --------------------------------------------------------------- time and prices

    /// @notice Lets time pass and has all feeds publish their last price again, so that nothing is stale.
    function travel(uint256 seconds_) internal {
        travelTo(block.timestamp + seconds_);
    }

    function travelTo(uint256 timestampS) internal {
        vm.warp(timestampS);
        refresh();
    }

    function refresh() internal virtual {
        publish(quoteAggregator, answerOf(quoteAggregator));
        publish(eth.aggregator, answerOf(eth.aggregator));
        publish(btc.aggregator, answerOf(btc.aggregator));
    }

    function publish(FeedAggregator aggregator, int256 answer) internal {
        vm.prank(publisher);
        aggregator.transmit(int192(answer), 0);
    }

    function answerOf(FeedAggregator aggregator) internal view returns (int256 answer) {
        (, answer,,,) = aggregator.latestRoundData();
    }

    /// @notice A new Chainlink round, and an arbitrageur who brings the pool there.
    function setPrice(Asset memory asset, uint256 priceUsdE8) internal {
        publish(asset.aggregator, int256(priceUsdE8));
        arbitrage(asset);
    }

    /// @notice The pool price that equals the oracle's.
    function targetSqrt(Asset memory asset) internal view returns (uint160) {
        uint256 quoteAmount = uint256(answerOf(asset.aggregator)) * 10 ** quote.decimals();
        uint256 baseAmount = uint256(answerOf(quoteAggregator)) * 10 ** asset.decimals;
        (uint256 amount1, uint256 amount0) =
            asset.token < address(quote) ? (quoteAmount, baseAmount) : (baseAmount, quoteAmount);
        return uint160(Math.sqrt(Math.mulDiv(amount1, 1 << 192, amount0)));
    }

    /// @notice Swaps until the pool's price is the oracle's, unless it is within the pool's fee of it.
    function arbitrage(Asset memory asset) internal {
        (uint160 now_,,,,,,) = asset.pool.slot0();
        uint160 target = targetSqrt(asset);
        (uint256 low, uint256 high) = now_ < target ? (now_, target) : (target, now_);
        if ((high - low) * 2e6 <= low * POOL_FEE) return;
        bool zeroForOne = target < now_;
        bool baseIn = zeroForOne == (asset.token < address(quote));
        swapInPool(arbitrageur, asset, !baseIn, PLENTY / 1e6, target);
    }

    /// @notice A swap of anybody's through Uniswap's own router. `buy`: quote for the asset.
    function swapInPool(address who, Asset memory asset, bool buy_, uint256 amountIn, uint160 limitX96)
        internal
        returns (uint256)
    {
        vm.prank(who);
        return router.exactInputSingle(
            IRouter.ExactInputSingleParams({
                tokenIn: buy_ ? address(quote) : asset.token,
                tokenOut: buy_ ? asset.token : address(quote),
                fee: POOL_FEE,
                recipient: who,
                deadline: type(uint256).max,
                amountIn: amountIn,
                amountOutMinimum: 0,
                sqrtPriceLimitX96: limitX96
            })
        );
    }

    // ---------------------------------------------------------- agents and strategies

    function registerAgent() internal returns (uint64) {
        return registerAgent(controller, signer, 50_000 ether, 60_000e6);
    }

    function registerAgent(address controller_, address signer_, uint256 bond, uint256 deposit)
        internal
        returns (uint64 agentId)
    {
        vm.prank(controller_);
        agentId = agents.register("ipfs://agent", signer_);
        if (bond > 0) postBond(agentId, bond, controller_);
        if (deposit > 0) postDeposit(agentId, deposit, controller_);
    }

    function postBond(uint64 agentId, uint256 amount, address sender) internal {
        vm.startPrank(sender);
        token.approve(address(agents), amount);
        agents.postBond(agentId, amount);
        vm.stopPrank();
    }

    function postDeposit(uint64 agentId, uint256 amount, address sender) internal {
        quote.mint(sender, amount);
        vm.startPrank(sender);
        quote.approve(address(agents), amount);
        agents.postDeposit(agentId, amount);
        vm.stopPrank();
    }

    /// @notice A manifest within the constitution: ETH only, a million dollars.
    function manifest(uint64 agentId) internal view returns (StrategyManifest memory m) {
        m.artefactHash = keccak256("artefact v1");
        m.agentId = agentId;
        m.vaultImplementation = address(vaultImplementation);
        m.vaultCodeHash = address(vaultImplementation).codehash;
        m.venue = address(venue);
        m.venueCodeHash = address(venue).codehash;
        m.assets = new AssetSpec[](1);
        m.assets[0] = AssetSpec(eth.token, POOL_FEE);
        m.limits = limits();
        m.rewardRate = RATE;
        m.rewardCap = CAP;
        m.capital = CAPITAL;
    }

    /// @notice The same, of ETH and BTC.
    function manifestOfTwo(uint64 agentId) internal view returns (StrategyManifest memory m) {
        m = manifest(agentId);
        m.assets = new AssetSpec[](2);
        m.assets[0] = AssetSpec(eth.token, POOL_FEE);
        m.assets[1] = AssetSpec(btc.token, POOL_FEE);
    }

    function submit(StrategyManifest memory m) internal returns (bytes32) {
        vm.prank(stranger);
        return strategies.submit(m);
    }

    function deployStrategy() internal returns (Strategy memory) {
        return deployStrategy(manifest(registerAgent()));
    }

    /// @notice A running strategy, deployed as the timelock would: for tests that begin after the vote.
    function deployStrategy(StrategyManifest memory m) internal returns (Strategy memory) {
        bytes32 id = submit(m);
        vm.startPrank(address(timelock));
        strategies.approve(id);
        address vault = factory.deployVault(id);
        if (m.capital > 0) treasury.allocate(id, m.capital);
        vm.stopPrank();
        return Strategy(id, StrategyVault(vault), uint64(m.agentId));
    }

    // --------------------------------------------------------------------- trading

    /// @notice An order that only its size can make wrong.
    function order(Strategy memory s, address asset, bool buy_, uint256 amountIn)
        internal
        view
        returns (IStrategyVault.Order memory)
    {
        return IStrategyVault.Order({
            asset: asset,
            buy: buy_,
            nonce: s.vault.guard().nonce,
            deadline: uint64(block.timestamp + 1 hours),
            amountIn: amountIn,
            minAmountOut: 0,
            artefactHash: s.vault.artefactHash(),
            explanationHash: EXPLANATION,
            observationHash: OBSERVATION
        });
    }

    function trade(Strategy memory s, IStrategyVault.Order memory o) internal returns (uint256) {
        vm.prank(agents.agentOf(s.agentId).signingKey);
        return s.vault.trade(o);
    }

    function buy(Strategy memory s, uint256 quoteAmount) internal returns (uint256) {
        return trade(s, order(s, eth.token, true, quoteAmount));
    }

    function sell(Strategy memory s, uint256 assetAmount) internal returns (uint256) {
        return trade(s, order(s, eth.token, false, assetAmount));
    }

    function held(Strategy memory s, address asset) internal view returns (uint256) {
        return s.vault.positionOf(asset).amount;
    }

    function poke(Strategy memory s) internal {
        vm.prank(observer);
        s.vault.poke();
    }

    // ---------------------------------------------------------------------- epochs

    function epochStartS(uint256 epoch) internal view returns (uint256) {
        return firstEpochS + epoch * EPOCH_S;
    }

    function currentEpoch() internal view returns (uint256) {
        return (block.timestamp - firstEpochS) / EPOCH_S;
    }

    /// @notice Travels to just inside the next observation window; returns the epoch that it observes.
    function toNextWindow() internal returns (uint256 epoch) {
        epoch = currentEpoch();
        travelTo(epochStartS(epoch + 1) + 60);
    }

    /// @notice Travels to just after the window that is open now.
    function toWindowEnd() internal {
        travelTo(epochStartS(currentEpoch()) + WINDOW_S + 1);
    }

    /// @notice Observes the next window, closes it and applies its result; returns the result.
    function settle(Strategy memory s) internal returns (int256 move) {
        toNextWindow();
        poke(s);
        toWindowEnd();
        move = close(s);
        if (move != 0) applyResult(s, move);
    }

    function close(Strategy memory s) internal returns (int256) {
        vm.prank(stranger);
        return pool.closeWindow(address(s.vault));
    }

    function applyResult(Strategy memory s, int256 pnl) internal {
        vm.prank(stranger);
        dao.rewardAgent(s.agentId, pnl);
    }

    function account(Strategy memory s) internal view returns (IRewardPool.Account memory) {
        return pool.accountOf(address(s.vault));
    }

    // ---------------------------------------------------------------------- voting

    /// @notice A generic proposal of one call.
    function propose(address target, bytes memory data, string memory description) internal returns (uint256) {
        (address[] memory targets, uint256[] memory values, bytes[] memory calldatas) =
            (new address[](1), new uint256[](1), new bytes[](1));
        (targets[0], calldatas[0]) = (target, data);
        vm.prank(proposer);
        return dao.propose(targets, values, calldatas, description);
    }

    function proposeStrategy(StrategyManifest memory m, string memory description) internal returns (uint256) {
        vm.prank(proposer);
        return dao.proposeStrategy(m, description);
    }

    function toVoting(uint256 proposalId) internal {
        travelTo(dao.proposalSnapshot(proposalId) + 1);
    }

    function vote(uint256 proposalId, uint8 support) internal {
        vm.prank(voterA);
        dao.castVote(proposalId, support);
        vm.prank(voterB);
        dao.castVote(proposalId, support);
    }

    /// @notice Travels to just after the deadline, as it is now.
    function toDeadline(uint256 proposalId) internal {
        travelTo(dao.proposalDeadline(proposalId) + 1);
    }

    function queue(uint256 proposalId) internal {
        vm.prank(stranger);
        dao.deployApproved(proposalId);
    }

    /// @notice Waits for the timelock and executes.
    function execute(uint256 proposalId) internal {
        travelTo(dao.proposalEta(proposalId) + 1);
        vm.prank(stranger);
        dao.deployApproved(proposalId);
    }

    /// @notice Votes a proposal in and executes it.
    function passProposal(uint256 proposalId) internal {
        toVoting(proposalId);
        vote(proposalId, 1);
        toDeadline(proposalId);
        queue(proposalId);
        execute(proposalId);
    }

    // ------------------------------------------------------------------- deployment

    function _deployMarket() private {
        weth = _deployForeign("canonical-weth/build/contracts/WETH9.json", "");
        uniswapFactory = _deployForeign(_core("UniswapV3Factory"), "");
        poolInitCodeHash = keccak256(_foreignCode(_core("UniswapV3Pool")));
        router = IRouter(_deployForeign(_periphery("SwapRouter"), abi.encode(uniswapFactory, weth)));
        positions = IPositions(
            _deployForeign(_periphery("NonfungiblePositionManager"), abi.encode(uniswapFactory, weth, address(0)))
        );
        vm.prank(deployer);
        quote = QuoteToken(_create(vm.getCode("QuoteToken.sol:QuoteToken"), abi.encode(uint8(6))));
        (quoteFeed, quoteAggregator) = _deployFeed("MUSD / USD", 1e8);
        eth = _addAsset("ETH", weth, 18, 2000);
        address wbtc = _create(vm.getCode("MockToken.sol:MockToken"), abi.encode("WBTC", "WBTC", uint8(8)));
        btc = _addAsset("BTC", wbtc, 8, 60_000);
    }

    function _addAsset(string memory symbol, address base, uint8 decimals, uint256 priceUsd)
        private
        returns (Asset memory asset)
    {
        (FeedProxy feed, FeedAggregator aggregator) =
            _deployFeed(string.concat(symbol, " / USD"), int256(priceUsd * 1e8));
        asset = Asset(symbol, base, decimals, feed, aggregator, IUniswapV3Pool(address(0)));
        (address token0, address token1) = base < address(quote) ? (base, address(quote)) : (address(quote), base);
        asset.pool = IUniswapV3Pool(
            positions.createAndInitializePoolIfNecessary(token0, token1, POOL_FEE, targetSqrt(asset))
        );
        _provideFor(deployer, base);
        _provideFor(arbitrageur, base);
        uint256 baseAmount = LIQUIDITY_USD / 2 * 10 ** decimals / priceUsd;
        uint256 quoteAmount = LIQUIDITY_USD / 2 * 10 ** quote.decimals();
        vm.prank(deployer);
        positions.mint(
            IPositions.MintParams({
                token0: token0,
                token1: token1,
                fee: POOL_FEE,
                tickLower: -887_270,
                tickUpper: 887_270,
                amount0Desired: base < address(quote) ? baseAmount : quoteAmount,
                amount1Desired: base < address(quote) ? quoteAmount : baseAmount,
                amount0Min: 0,
                amount1Min: 0,
                recipient: deployer,
                deadline: type(uint256).max
            })
        );
    }

    /// @dev Plenty of both tokens, and allowances for Uniswap.
    function _provideFor(address who, address base) internal {
        giveBase(base, who, PLENTY);
        quote.mint(who, PLENTY);
        vm.startPrank(who);
        IERC20(base).approve(address(router), type(uint256).max);
        IERC20(base).approve(address(positions), type(uint256).max);
        quote.approve(address(router), type(uint256).max);
        quote.approve(address(positions), type(uint256).max);
        vm.stopPrank();
    }

    /// @notice Mints an asset's token; WETH9: wraps new ether.
    function giveBase(address base, address to, uint256 amount) internal {
        if (base != weth) {
            MockToken(base).mint(to, amount);
            return;
        }
        vm.deal(to, to.balance + amount);
        vm.prank(to);
        IWrapped(weth).deposit{value: amount}();
    }

    function _deployFeed(string memory description, int256 answer)
        private
        returns (FeedProxy feed, FeedAggregator aggregator)
    {
        aggregator = FeedAggregator(
            _create(vm.getCode("FeedAggregator.sol:FeedAggregator"), abi.encode(uint8(8), description, publisher))
        );
        feed = FeedProxy(_create(vm.getCode("FeedProxy.sol:FeedProxy"), abi.encode(aggregator, deployer)));
        publish(aggregator, answer);
    }

    /// @dev Addresses follow from the deployer and a salt alone, so they are known before the first transaction.
    function _predictProtocol() private returns (Protocol memory p) {
        vm.prank(deployer);
        deployerContract = Deployer(_create(vm.getCode("Deployer.sol:Deployer"), ""));
        p.token = _addressOf("token");
        p.quote = address(quote);
        p.timelock = _addressOf("timelock");
        p.dao = _addressOf("dao");
        p.treasury = _addressOf("treasury");
        p.constitution = _addressOf("constitution");
        p.oracle = _addressOf("oracle");
        p.agents = _addressOf("agents");
        p.strategies = _addressOf("strategies");
        p.factory = _addressOf("factory");
        p.ledger = _addressOf("ledger");
        p.pool = _addressOf("pool");
    }

    function _deployProtocol(Protocol memory p) private {
        _deployFirst(p);
        _deployAt("agents", "AgentRegistry", abi.encode(p));
        agents = AgentRegistry(p.agents);
        firstEpochS = block.timestamp;
        _deployAt(
            "pool",
            "RewardPool",
            abi.encode(
                p,
                RewardPool.Schedule(
                    uint64(firstEpochS), EPOCH_S, WINDOW_S, VESTING_S, MAX_UNSETTLED, BOUNTY, BUDGET
                )
            )
        );
        pool = RewardPool(p.pool);
        _deployAt("strategies", "StrategyRegistry", abi.encode(p, deployerContract));
        strategies = StrategyRegistry(p.strategies);
        _deployAt("factory", "VaultFactory", abi.encode(p));
        factory = VaultFactory(p.factory);
        Treasury.GenesisCap[] memory caps = new Treasury.GenesisCap[](2);
        caps[0] = Treasury.GenesisCap(p.quote, 10_000_000e6);
        caps[1] = Treasury.GenesisCap(p.token, 1_000_000 ether);
        _deployAt("treasury", "Treasury", abi.encode(p, caps));
        treasury = Treasury(p.treasury);
        vaultImplementation = StrategyVault(_deployAt("vault_implementation", "StrategyVault", abi.encode(p)));
        venue = UniswapV3Venue(_deployAt("venue", "UniswapV3Venue", abi.encode(uniswapFactory, poolInitCodeHash)));
        _deployAt("dao", "MARKETFLOW_DAO", abi.encode(p.token, p.timelock, p.strategies, p.pool, settings()));
        dao = MARKETFLOW_DAO(payable(p.dao));
    }

    /// @dev What later constructors call: the token and the feeds; and what names only the timelock or the factory.
    function _deployFirst(Protocol memory p) private {
        _deployAt("token", "MarketFlowToken", abi.encode("MarketFlow", "MFLOW", deployer, SUPPLY));
        token = MarketFlowToken(p.token);
        _deployAt("timelock", "Timelock", abi.encode(1 days, p.dao));
        timelock = Timelock(payable(p.timelock));
        uint64 guardianUntil = uint64(block.timestamp + 180 days);
        _deployAt(
            "constitution", "Constitution", abi.encode(p.timelock, ceilings(), rules(), guardian, guardianUntil)
        );
        constitution = Constitution(p.constitution);
        IPriceOracle.FeedInit[] memory feeds = new IPriceOracle.FeedInit[](3);
        feeds[0] = IPriceOracle.FeedInit(p.quote, address(quoteFeed), 25 hours, 1e7, 1e9);
        feeds[1] = IPriceOracle.FeedInit(eth.token, address(eth.feed), 2 hours, 1e8, 1e14);
        feeds[2] = IPriceOracle.FeedInit(btc.token, address(btc.feed), 2 hours, 1e8, 1e14);
        _deployAt("oracle", "PriceOracle", abi.encode(p.timelock, p.quote, feeds, address(0), uint32(3600)));
        oracle = PriceOracle(p.oracle);
        _deployAt("ledger", "TradeLedger", abi.encode(p.factory));
        ledger = TradeLedger(p.ledger);
    }

    function _distribute() private {
        vm.startPrank(deployer);
        token.transfer(proposer, 200_000 ether);
        token.transfer(voterA, 1_000_000 ether);
        token.transfer(voterB, 800_000 ether);
        token.transfer(smallHolder, 5_000 ether);
        token.transfer(controller, 500_000 ether);
        token.transfer(otherController, 500_000 ether);
        token.transfer(address(treasury), token.balanceOf(deployer) - REWARD_FUND - BOUNTY_FUND);
        token.approve(address(pool), REWARD_FUND + BOUNTY_FUND);
        pool.fund(REWARD_FUND);
        pool.fundBounties(BOUNTY_FUND);
        vm.stopPrank();
    }

    function _deployAt(string memory name, string memory contractName, bytes memory arguments)
        private
        returns (address at)
    {
        bytes memory code = vm.getCode(string.concat(contractName, ".sol:", contractName));
        vm.prank(deployer);
        at = deployerContract.deploy(_salt(name), bytes.concat(code, arguments));
        assertEq(at, _addressOf(name), "CREATE3");
    }

    function _addressOf(string memory name) private view returns (address) {
        return deployerContract.addressOf(deployer, _salt(name));
    }

    function _salt(string memory name) private pure returns (bytes32) {
        return keccak256(bytes(string.concat("marketflow.v1.", name)));
    }

    function _core(string memory name) private pure returns (string memory) {
        return string.concat("@uniswap/v3-core/artifacts/contracts/", name, ".sol/", name, ".json");
    }

    function _periphery(string memory name) private pure returns (string memory) {
        return string.concat("@uniswap/v3-periphery/artifacts/contracts/", name, ".sol/", name, ".json");
    }

    function _foreignCode(string memory path) private view returns (bytes memory) {
        return vm.parseJsonBytes(vm.readFile(string.concat("node_modules/", path)), ".bytecode");
    }

    function _deployForeign(string memory path, bytes memory arguments) private returns (address) {
        return _create(_foreignCode(path), arguments);
    }

    function _create(bytes memory code, bytes memory arguments) private returns (address at) {
        bytes memory initCode = bytes.concat(code, arguments);
        assembly ("memory-safe") {
            at := create(0, add(initCode, 32), mload(initCode))
        }
        assertTrue(at != address(0), "create");
    }
}
