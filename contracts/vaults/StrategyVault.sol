// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Memory} from "@openzeppelin/contracts/utils/Memory.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IAgentRegistry} from "../interfaces/IAgentRegistry.sol";
import {IConstitution} from "../interfaces/IConstitution.sol";
import {IPriceOracle} from "../interfaces/IPriceOracle.sol";
import {IRewardPool} from "../interfaces/IRewardPool.sol";
import {IStrategyVault} from "../interfaces/IStrategyVault.sol";
import {ITradeLedger} from "../interfaces/ITradeLedger.sol";
import {IVenue} from "../interfaces/IVenue.sol";
import {GuardMath} from "../libraries/GuardMath.sol";
import {Reasons} from "../libraries/Reasons.sol";
import {AssetSpec, Limits, Protocol, Rules, VaultState} from "../libraries/Types.sol";

// slither-disable-start uninitialized-local -- zero is meant: a Measure is filled as the call goes on
// slither-disable-start timestamp,incorrect-equality -- seconds can't bend days; a donation moves no booked amount
/// @title StrategyVault
/// @notice Documented in {IStrategyVault}.
/// @dev Deployed once; every strategy is a clone. Assumes that the venue, the oracle and the protocol's own contracts
/// are those named in the constructor or voted in; a wrong venue could take what is approved to it (money), a wrong
/// oracle could stop trading or misjudge limits (money and liveness), and `recall` depends on neither.
contract StrategyVault is IStrategyVault, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;
    using SafeCast for int256;

    /// @dev One listed asset, as this call sees it.
    struct Line {
        address token;
        uint64 route;
        uint8 decimals;
        uint256 held; // what the books hold, but not above a balance that can be read
        uint256 balance;
        uint256 price; // base units of quote x 1e18 per whole token; zero without a fresh price
        uint256 lastPriceWad;
        uint80 roundId;
        uint64 updatedAt;
        int256 answer;
    }

    /// @dev Everything one call knows about the world, read once.
    struct Measure {
        address asset; // one that the call is about, held or not
        address observer; // who earns the bounty for observing
        uint24 version;
        Limits limits;
        Rules rules;
        IAgentRegistry.Agent agent;
        Line[] lines; // of the assets that are held, or that the call is about
        IPriceOracle.Reading quote;
        uint256 quoteHeld;
        uint256 quoteBalance;
        uint256 value;
        uint256 unpriced; // worth of what has no fresh price, at its last one: for the guard only
        uint256 unitPrice;
        uint256 peak;
        uint256 refPrice; // the higher of the last unit prices before today and before yesterday
        uint16 reasons;
        bool stopped;
        bool quoteHealthy;
        bool priced; // every held asset has a fresh price
        bool dayLossNow;
    }

    struct Auction {
        uint128 lot;
        uint64 haltedAt; // the halt that this lot belongs to
        uint64 filledAt;
    }

    /// @dev A token that needs more to tell a balance is treated as dead.
    uint256 private constant BALANCE_GAS = 100_000;

    IERC20 public immutable quote;
    /// @dev One whole quote token in base units.
    uint256 private immutable quoteUnit;
    address public immutable treasury;
    address public immutable factory;
    address public immutable strategies;
    IConstitution public immutable constitution;
    IPriceOracle public immutable oracle;
    IAgentRegistry public immutable agents;
    ITradeLedger public immutable ledger;
    IRewardPool public immutable pool;

    /// @inheritdoc IStrategyVault
    bytes32 public strategyId;
    /// @inheritdoc IStrategyVault
    bytes32 public artefactHash;
    /// @inheritdoc IStrategyVault
    address public venue;
    /// @inheritdoc IStrategyVault
    uint64 public agentId;
    /// @dev The constitution's version that `_effective` and `_rules` are of; zero: of none.
    uint24 private _version;
    uint8 private _assetCount;
    Limits private _limits;
    Limits private _effective;
    Rules private _rules;
    Book private _book;
    Guard private _guard;
    mapping(uint256 index => Asset) private _assets;
    mapping(address token => Position) private _positions;
    mapping(address token => Auction) private _auctions;

    modifier only(address authority) {
        if (msg.sender != authority) revert VaultUnauthorized(msg.sender);
        _;
    }

    constructor(Protocol memory p) {
        quote = IERC20(p.quote);
        quoteUnit = 10 ** IERC20Metadata(p.quote).decimals();
        treasury = p.treasury;
        factory = p.factory;
        strategies = p.strategies;
        constitution = IConstitution(p.constitution);
        oracle = IPriceOracle(p.oracle);
        agents = IAgentRegistry(p.agents);
        ledger = ITradeLedger(p.ledger);
        pool = IRewardPool(p.pool);
    }

    // ----------------------------------------------------------------- the agent

    /// @inheritdoc IStrategyVault
    function trade(Order calldata order) external nonReentrant returns (uint256 amountOut) {
        Measure memory m;
        m.asset = order.asset;
        _sync(m);
        _authorize(order, m.agent.signingKey);
        Line memory line = _lineOf(m, order.asset);
        uint16 refusal = m.reasons;
        if (line.price == 0) refusal |= Reasons.PRICE_MISSING;
        bool halted = refusal & (Reasons.HALTED | Reasons.QUOTE_UNHEALTHY) != 0;
        if (halted || line.price == 0 || (order.buy && refusal != 0)) {
            emit TradeRefused(order.nonce, order.asset, order.buy, refusal, order.explanationHash);
            return 0;
        }
        uint256 held = order.buy ? m.quoteHeld : line.held;
        if (order.amountIn > held) {
            revert VaultInsufficientHoldings(order.buy ? address(quote) : order.asset, held, order.amountIn);
        }
        (uint256 spent, uint256 received) = _swap(order, line, m.quoteBalance);
        int256 shortfall = _settleSwap(order.buy, line, m, spent, received);
        ++_guard.nonce;
        _record(order, m, spent, received, shortfall);
        return received;
    }

    // ------------------------------------------------------------------- anybody

    /// @inheritdoc IStrategyVault
    function poke() external nonReentrant {
        Measure memory m;
        m.observer = msg.sender;
        _sync(m);
    }

    /// @inheritdoc IStrategyVault
    function fillAuction(address asset, uint256 maxQuoteIn)
        external
        nonReentrant
        returns (uint256 amount, uint256 quoteIn)
    {
        Measure memory m;
        m.asset = asset;
        _sync(m);
        if (m.reasons & Reasons.HALTED == 0) revert VaultNotHalted();
        Line memory line = _lineOf(m, asset);
        if (line.price == 0) revert VaultNotPriced(m.reasons);
        uint64 since = _auctionedSince(asset);
        if (line.updatedAt <= since) revert VaultAuctionNeedsNewerRound(line.updatedAt, since);
        uint256 discountBps;
        (amount, quoteIn, discountBps) = _auctionTerms(line, m.rules);
        if (amount == 0) revert VaultZeroAmount();
        if (quoteIn > maxQuoteIn) revert VaultAuctionTooDear(quoteIn, maxQuoteIn);

        _auctions[asset] = Auction({
            lot: _lotOf(line, m.rules).toUint128(),
            haltedAt: _guard.haltedAt,
            filledAt: uint64(block.timestamp)
        });
        _positions[asset].amount -= amount.toUint128();
        _book.quoteHeld += quoteIn.toUint128();
        emit AuctionFilled(asset, msg.sender, amount, quoteIn, discountBps);
        _pull(quoteIn);
        IERC20(asset).safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc IStrategyVault
    function skim(address token) external nonReentrant returns (uint256 amount) {
        uint256 booked = token == address(quote) ? _book.quoteHeld : _positions[token].amount;
        amount = Math.saturatingSub(IERC20(token).balanceOf(address(this)), booked);
        emit Skimmed(token, amount);
        IERC20(token).safeTransfer(treasury, amount);
    }

    // ------------------------------------------------- the protocol's contracts

    /// @inheritdoc IStrategyVault
    function initialize(Init calldata init) external only(factory) {
        if (strategyId != 0) revert VaultAlreadyInitialised();
        strategyId = init.strategyId;
        artefactHash = init.artefactHash;
        venue = init.venue;
        agentId = init.agentId;
        _limits = init.limits;
        emit VaultInitialised(init.strategyId, init.agentId, init.artefactHash);
        _listAssets(init.assets);
    }

    /// @inheritdoc IStrategyVault
    function update(bytes32 artefactHash_, Limits calldata limits_, AssetSpec[] calldata assets_)
        external
        only(strategies)
        nonReentrant
    {
        Measure memory m;
        _sync(m);
        artefactHash = artefactHash_;
        _limits = limits_;
        _version = 0;
        emit VaultUpdated(artefactHash_, limits_);
        _listAssets(assets_);
    }

    /// @inheritdoc IStrategyVault
    function allocate(uint256 amount) external nonReentrant {
        if (msg.sender != treasury && msg.sender != address(agents)) revert VaultUnauthorized(msg.sender);
        Measure memory m;
        _sync(m);
        if (!m.priced) revert VaultNotPriced(m.reasons);
        if (m.reasons & Reasons.HALTED != 0) revert VaultHalted();
        uint256 units = _book.units;
        if (units == 0) _startGuard();
        uint256 unitPrice = units == 0 ? GuardMath.WAD : m.unitPrice;
        uint256 minted = GuardMath.unitsDown(amount, unitPrice);
        _book.units = (units + minted).toUint128();
        _book.quoteHeld += amount.toUint128();
        _book.netFlow -= int256(amount).toInt128();
        emit Allocated(amount, minted, unitPrice);
        _pull(amount);
    }

    /// @inheritdoc IStrategyVault
    /// @dev Derives no state and depends on no price: whatever is broken, what can be transferred can leave.
    function recall(address token, uint256 amount, uint256 fallbackPriceWad)
        external
        only(treasury)
        nonReentrant
        returns (uint256 sent)
    {
        Measure memory m;
        _measure(m);
        uint256 total = m.quoteHeld;
        uint256 value;
        if (token == address(quote)) (sent, value) = (Math.min(amount, total), Math.min(amount, total));
        for (uint256 i; i < m.lines.length; ++i) {
            Line memory line = m.lines[i];
            uint256 price = line.price == 0 ? line.lastPriceWad * quoteUnit : line.price;
            if (line.token == token) {
                if (line.price == 0) {
                    if (fallbackPriceWad > line.lastPriceWad) {
                        revert VaultFallbackPriceTooHigh(fallbackPriceWad, line.lastPriceWad);
                    }
                    price = fallbackPriceWad * quoteUnit;
                }
                sent = Math.min(amount, line.held);
                value = GuardMath.valueDown(sent, price, line.decimals);
            }
            total += GuardMath.valueDown(line.held, price, line.decimals);
        }
        if (sent == 0) return 0;

        if (token == address(quote)) _book.quoteHeld -= sent.toUint128();
        else _positions[token].amount -= sent.toUint128();
        uint256 units = total == 0 ? 0 : Math.mulDiv(_book.units, value, total);
        if (isEmpty()) {
            units = _book.units;
            _book.emptiedAt = uint64(block.timestamp);
        }
        _book.units -= units.toUint128();
        _book.netFlow += int256(value).toInt128();
        emit Recalled(token, sent, value, units);
        IERC20(token).safeTransfer(treasury, sent);
    }

    /// @inheritdoc IStrategyVault
    function halt() external only(strategies) nonReentrant {
        Measure memory m;
        _sync(m);
        if (m.reasons & Reasons.HALTED != 0) return;
        _guard.haltedAt = uint40(block.timestamp);
        _setReasons(m.reasons | Reasons.HALTED, m.unitPrice);
    }

    /// @inheritdoc IStrategyVault
    function resume() external only(strategies) nonReentrant {
        Measure memory m;
        _sync(m);
        if (!m.priced) revert VaultNotPriced(m.reasons);
        _guard.haltedAt = 0;
        _guard.drawdownLatched = false;
        _guard.peak = m.unitPrice.toUint128();
        emit Resumed(m.unitPrice);
        _setReasons(m.reasons & ~(Reasons.HALTED | Reasons.DRAWDOWN), m.unitPrice);
    }

    /// @inheritdoc IStrategyVault
    function writeOff(address token) external only(strategies) nonReentrant {
        uint256 amount = _positions[token].amount;
        if (amount == 0) revert VaultZeroAmount();
        _positions[token].amount = 0;
        emit WrittenOff(token, amount);
        if (isEmpty()) {
            _book.units = 0;
            _book.emptiedAt = uint64(block.timestamp);
        }
        Measure memory m;
        _sync(m);
    }

    // --------------------------------------------------------------------- views

    /// @inheritdoc IStrategyVault
    function status() external view nonReentrantView returns (Status memory s) {
        Measure memory m;
        _derive(m);
        m.reasons |= pool.standing(address(this), _worstProfit(m), m.agent.bond);
        s.reasons = m.reasons;
        s.state = _stateOf(m.reasons);
        s.priced = m.priced;
        s.value = m.value;
        s.unitPriceWad = m.unitPrice;
        s.profit = m.value.toInt256() + _book.netFlow;
        s.requiredDeposit = _requiredDeposit(m);
    }

    /// @inheritdoc IStrategyVault
    function worstProfit() external view returns (int256) {
        Measure memory m;
        _readRegime(m);
        (m.peak, m.unitPrice) = (_guard.peak, _guard.lastUnitPrice);
        return _worstProfit(m);
    }

    /// @inheritdoc IStrategyVault
    /// @dev The recorded peak: from a higher one that nobody has poked, the guard would not halt the vault in time.
    function exposure() external view nonReentrantView returns (bool priced, int256 worst) {
        Measure memory m;
        _measure(m);
        (m.peak, m.unitPrice) = (_guard.peak, GuardMath.unitPriceDown(m.value, _book.units));
        return (m.priced, _worstProfit(m));
    }

    /// @inheritdoc IStrategyVault
    function isEmpty() public view returns (bool) {
        if (_book.quoteHeld > 0) return false;
        uint256 count = _assetCount;
        for (uint256 i; i < count; ++i) {
            if (_positions[_assets[i].token].amount > 0) return false;
        }
        return true;
    }

    /// @inheritdoc IStrategyVault
    function book() external view returns (Book memory) {
        return _book;
    }

    /// @inheritdoc IStrategyVault
    function guard() external view returns (Guard memory) {
        return _guard;
    }

    /// @inheritdoc IStrategyVault
    function positionOf(address token) external view returns (Position memory) {
        return _positions[token];
    }

    /// @inheritdoc IStrategyVault
    function assets() external view returns (Asset[] memory listed) {
        listed = new Asset[](_assetCount);
        for (uint256 i; i < listed.length; ++i) {
            listed[i] = _assets[i];
        }
    }

    /// @inheritdoc IStrategyVault
    function limits() external view returns (Limits memory) {
        return _limits;
    }

    /// @inheritdoc IStrategyVault
    function auctionQuote(address asset) external view returns (uint256 amount, uint256 quoteIn, uint256 discountBps) {
        Measure memory m;
        m.asset = asset;
        _measure(m);
        Line memory line = _lineOf(m, asset);
        if (_guard.haltedAt == 0 || line.price == 0 || line.updatedAt <= _auctionedSince(asset)) return (0, 0, 0);
        return _auctionTerms(line, m.rules);
    }

    // ---------------------------------------------------------- deriving the state

    /// @dev Derives, persists, and tells the pool. Never reverts because of a feed or a token.
    function _sync(Measure memory m) private {
        _derive(m);
        // slither-disable-next-line reentrancy-no-eth,reentrancy-benign -- what writes is locked (nonReentrant)
        m.reasons |=
            pool.sync(m.value.toInt256() + _book.netFlow, _worstProfit(m), m.priced, m.agent.bond, m.observer);
        _persist(m);
    }

    // slither-disable-next-line cyclomatic-complexity -- one line for each reason, none nested in another
    function _derive(Measure memory m) private view {
        _measure(m);
        m.agent = agents.agentOf(agentId);
        (m.peak, m.refPrice) = (_guard.peak, _referencePrice());
        m.unitPrice = m.priced ? GuardMath.unitPriceDown(m.value, _book.units) : _guard.lastUnitPrice;

        uint16 reasons;
        if (_book.units > 0) {
            // An asset without a price counts at its last one here, so that a dead feed of dust blinds no limit.
            uint256 unitPrice = GuardMath.unitPriceDown(m.value + m.unpriced, _book.units);
            if (m.priced) m.peak = Math.max(m.peak, unitPrice);
            m.dayLossNow = GuardMath.isBelowBy(unitPrice, m.refPrice, m.limits.maxDailyLossBps);
            if (GuardMath.isBelowBy(unitPrice, m.peak, m.limits.maxDrawdownBps)) reasons |= Reasons.DRAWDOWN;
            if (GuardMath.isBelowBy(unitPrice, m.peak, m.limits.hardDrawdownBps)) reasons |= Reasons.HALTED;
        }
        if (m.dayLossNow || _guard.dayBreachedOn == _today()) reasons |= Reasons.DAY_LOSS;
        if (_guard.drawdownLatched) reasons |= Reasons.DRAWDOWN;
        if (_guard.haltedAt != 0) reasons |= Reasons.HALTED;
        if (m.agent.deposit < _requiredDeposit(m)) reasons |= Reasons.DEPOSIT;
        if (m.agent.bond < m.rules.minBond) reasons |= Reasons.COLLATERAL;
        if (m.stopped) reasons |= Reasons.GUARDIAN;
        if (!m.quoteHealthy) reasons |= Reasons.QUOTE_UNHEALTHY;
        if (!m.priced) reasons |= Reasons.PRICE_MISSING;
        m.reasons = reasons;
    }

    /// @dev The constitution is asked for all of it only after a change: what binds at once is paid for once.
    function _readRegime(Measure memory m) private view {
        (m.version, m.stopped) = constitution.standing(address(this));
        if (m.version == _version) (m.limits, m.rules) = (_effective, _rules);
        else (m.limits, m.rules) = constitution.regime(_limits);
    }

    /// @dev Lines of the assets that are held, and of the one that the call is about; others have no part in the value.
    function _openLines(Measure memory m) private view returns (address[] memory tokens) {
        uint256 count;
        uint256 listedCount = _assetCount;
        for (uint256 i; i < listedCount; ++i) {
            if (_isOpen(_assets[i].token, m.asset)) ++count;
        }
        m.lines = new Line[](count);
        tokens = new address[](count);
        uint256 next;
        for (uint256 i; next < count; ++i) {
            Asset memory listed = _assets[i];
            if (!_isOpen(listed.token, m.asset)) continue;
            Line memory line = m.lines[next];
            (line.token, line.route, line.decimals) = (listed.token, listed.route, listed.decimals);
            tokens[next++] = listed.token;
        }
    }

    function _isOpen(address token, address asset) private view returns (bool) {
        return token == asset || _positions[token].amount > 0;
    }

    /// @dev Reads limits, books, balances and prices.
    function _measure(Measure memory m) private view {
        _readRegime(m);
        address[] memory tokens = _openLines(m);
        IPriceOracle.Reading[] memory readings;
        (m.quote, readings) = oracle.readMany(tokens);

        bool alive;
        (alive, m.quoteBalance, m.quoteHeld) = _holdingOf(address(quote), _book.quoteHeld);
        m.quoteHealthy = alive && m.quote.status == IPriceOracle.PriceStatus.OK;
        m.priced = m.quoteHealthy;
        m.value = m.quoteHeld;
        for (uint256 i; i < tokens.length; ++i) {
            Line memory line = m.lines[i];
            Position memory position = _positions[line.token];
            (line.roundId, line.updatedAt, line.answer) =
                (readings[i].roundId, readings[i].updatedAt, readings[i].answer);
            (alive, line.balance, line.held) = _holdingOf(line.token, position.amount);
            line.lastPriceWad = position.lastPriceWad;
            if (alive) line.price = readings[i].priceWad * quoteUnit;
            if (line.price == 0 && position.amount > 0) {
                m.priced = false;
                m.unpriced += GuardMath.valueDown(line.held, line.lastPriceWad * quoteUnit, line.decimals);
            }
            m.value += GuardMath.valueDown(line.held, line.price, line.decimals);
        }
    }

    function _persist(Measure memory m) private {
        if (m.version != _version) (_version, _effective, _rules) = (m.version, m.limits, m.rules);
        uint16 today = _today();
        if (today != _guard.day) {
            (_guard.beforeYesterday, _guard.beforeToday) = _rolledReferences();
            (_guard.day, _guard.tradesToday, _guard.turnoverToday) = (today, 0, 0);
        }
        if (m.dayLossNow) _guard.dayBreachedOn = today;
        if (m.reasons & Reasons.DRAWDOWN != 0) _guard.drawdownLatched = true;
        if (m.reasons & Reasons.HALTED != 0 && _guard.haltedAt == 0) _guard.haltedAt = uint40(block.timestamp);
        if (m.priced && _book.units > 0) {
            (_guard.peak, _guard.lastUnitPrice) = (m.peak.toUint128(), m.unitPrice.toUint128());
        }
        for (uint256 i; i < m.lines.length; ++i) {
            Line memory line = m.lines[i];
            if (line.price != 0) _positions[line.token].lastPriceWad = (line.price / quoteUnit).toUint128();
        }
        _setReasons(m.reasons, m.unitPrice);
    }

    function _setReasons(uint16 reasons, uint256 unitPrice) private {
        if (_guard.reasons == reasons) return;
        _guard.reasons = reasons;
        emit StateChanged(_stateOf(reasons), reasons, unitPrice);
    }

    // -------------------------------------------------------------- passing the guard

    function _authorize(Order calldata order, address signingKey) private view {
        if (msg.sender != signingKey) revert VaultNotSigningKey(msg.sender, signingKey);
        if (block.timestamp > order.deadline) revert VaultDeadlinePassed(order.deadline, block.timestamp);
        if (order.nonce != _guard.nonce) revert VaultWrongNonce(_guard.nonce, order.nonce);
        if (order.artefactHash != artefactHash) revert VaultWrongArtefact(artefactHash, order.artefactHash);
        if (order.explanationHash == 0 || order.observationHash == 0) revert VaultUnexplained();
        if (order.amountIn == 0) revert VaultZeroAmount();
    }

    /// @dev Spent is what left the balance; received is what arrived, but not above what the market says it paid.
    function _swap(Order calldata order, Line memory line, uint256 quoteBalance)
        private
        returns (uint256 spent, uint256 received)
    {
        (address tokenIn, address tokenOut) = order.buy ? (address(quote), line.token) : (line.token, address(quote));
        (uint256 inBefore, uint256 outBefore) =
            order.buy ? (quoteBalance, line.balance) : (line.balance, quoteBalance);
        IERC20(tokenIn).forceApprove(venue, order.amountIn);
        uint256 paid = IVenue(venue).swap(tokenIn, tokenOut, line.route, order.amountIn, order.minAmountOut);
        // Between trades the venue can take nothing, whatever it turns into.
        if (IERC20(tokenIn).allowance(address(this), venue) > 0) IERC20(tokenIn).forceApprove(venue, 0);
        spent = inBefore - IERC20(tokenIn).balanceOf(address(this));
        received = Math.min(paid, IERC20(tokenOut).balanceOf(address(this)) - outBefore);
        if (spent > order.amountIn) revert VaultInsufficientHoldings(tokenIn, order.amountIn, spent);
        if (received < order.minAmountOut) revert VaultShortPaid(received, order.minAmountOut);
        if (spent == 0 || received == 0) revert VaultZeroAmount();
    }

    /// @dev Checks every limit of an executed swap and writes it into the books.
    function _settleSwap(bool buy, Line memory line, Measure memory m, uint256 spent, uint256 received)
        private
        returns (int256 shortfall)
    {
        bool reducing = m.reasons != 0;
        // Every window's end leaves a vault unsettled for a moment: no emergency, so no emergency's slippage.
        bool emergency = m.reasons & ~Reasons.UNSETTLED != 0;
        uint256 base = buy ? spent : GuardMath.valueUp(spent, line.price, line.decimals);
        uint256 got = buy ? GuardMath.valueDown(received, line.price, line.decimals) : received;
        shortfall = base.toInt256() - got.toInt256();
        _checkSlippage(shortfall, base, m, emergency);
        if (!reducing) _checkActivity(base, m);

        uint256 heldBefore = line.held;
        if (buy) {
            _book.quoteHeld -= spent.toUint128();
            _positions[line.token].amount += received.toUint128();
            line.held += received;
        } else {
            _book.quoteHeld += received.toUint128();
            _positions[line.token].amount -= spent.toUint128();
            line.held -= spent;
        }
        uint256 position = GuardMath.valueDown(line.held, line.price, line.decimals);
        m.value = m.value + position - GuardMath.valueDown(heldBefore, line.price, line.decimals);
        m.value = buy ? m.value - spent : m.value + received;
        if (m.priced) {
            m.unitPrice = GuardMath.unitPriceDown(m.value, _book.units);
            _guard.lastUnitPrice = m.unitPrice.toUint128();
        }
        if (!reducing) _checkOutcome(buy, line.token, position, m);
    }

    function _checkSlippage(int256 shortfall, uint256 base, Measure memory m, bool emergency) private {
        Limits memory l = m.limits;
        uint256 allowed = GuardMath.shareDown(base, emergency ? l.maxReduceSlippageBps : l.maxTradeSlippageBps);
        if (shortfall > allowed.toInt256()) revert VaultSlippageExceeded(shortfall, allowed);

        Bucket storage bucket = emergency ? _guard.reduceSlippage : _guard.slippage;
        uint256 cap = GuardMath.shareDown(
            m.value, emergency ? l.maxReduceCumulativeSlippageBps : l.maxCumulativeSlippageBps
        );
        uint256 level =
            GuardMath.decayed(bucket.level, cap, block.timestamp - bucket.updatedAt, m.rules.slippageDecayS);
        level = shortfall > 0 ? level + uint256(shortfall) : Math.saturatingSub(level, uint256(-shortfall));
        if (shortfall > 0 && level > cap) revert VaultCumulativeSlippageExceeded(level, cap);
        (bucket.level, bucket.updatedAt) = (level.toUint128(), uint64(block.timestamp));
    }

    function _checkActivity(uint256 base, Measure memory m) private {
        uint16 trades = _guard.tradesToday + 1;
        if (trades > m.limits.maxTradesPerDay) revert VaultTradeCountExceeded(trades, m.limits.maxTradesPerDay);
        uint256 turnover = _guard.turnoverToday + base;
        uint256 allowed = GuardMath.shareDown(m.value, m.limits.maxDailyTurnoverBps);
        if (turnover > allowed) revert VaultTurnoverExceeded(turnover, allowed);
        (_guard.tradesToday, _guard.turnoverToday) = (trades, turnover.toUint104());
    }

    function _checkOutcome(bool buy, address asset, uint256 position, Measure memory m) private pure {
        uint256 allowed = GuardMath.shareDown(m.value, m.limits.maxPositionBps);
        if (buy && position > allowed) revert VaultPositionExceeded(asset, position, allowed);
        if (GuardMath.isBelowBy(m.unitPrice, m.refPrice, m.limits.maxDailyLossBps)) {
            revert VaultDailyLossExceeded(m.unitPrice, m.refPrice, m.limits.maxDailyLossBps);
        }
        if (GuardMath.isBelowBy(m.unitPrice, m.peak, m.limits.maxDrawdownBps)) {
            revert VaultDrawdownExceeded(m.unitPrice, m.peak, m.limits.maxDrawdownBps);
        }
    }

    function _record(Order calldata order, Measure memory m, uint256 spent, uint256 received, int256 shortfall)
        private
    {
        ITradeLedger.PricePoint[] memory prices = new ITradeLedger.PricePoint[](m.lines.length + 1);
        prices[0] = ITradeLedger.PricePoint(address(quote), m.quote.roundId, m.quote.answer);
        for (uint256 i; i < m.lines.length; ++i) {
            prices[i + 1] = ITradeLedger.PricePoint(m.lines[i].token, m.lines[i].roundId, m.lines[i].answer);
        }
        ITradeLedger.Trade memory entry;
        entry.agentId = agentId;
        entry.sequence = order.nonce;
        entry.reasons = m.reasons;
        entry.strategyId = strategyId;
        entry.artefactHash = order.artefactHash;
        entry.explanationHash = order.explanationHash;
        entry.observationHash = order.observationHash;
        entry.tokenIn = order.buy ? address(quote) : order.asset;
        entry.tokenOut = order.buy ? order.asset : address(quote);
        entry.amountIn = spent;
        entry.amountOut = received;
        entry.shortfall = shortfall;
        entry.netAssetValue = m.value;
        entry.prices = prices;
        // slither-disable-next-line unused-return -- the id is in the ledger's event
        ledger.record(entry);
    }

    // ------------------------------------------------------------------- internal

    function _listAssets(AssetSpec[] calldata specs) private {
        _assetCount = specs.length.toUint8();
        for (uint256 i; i < specs.length; ++i) {
            address token = specs[i].token;
            // slither-disable-next-line calls-loop -- eight assets at most, and voted in
            _assets[i] = Asset(token, specs[i].route, IERC20Metadata(token).decimals());
        }
    }

    /// @dev The guard's memory when a vault's first capital arrives: nothing has been gained or lost yet.
    function _startGuard() private {
        uint128 one = uint128(GuardMath.WAD);
        (_guard.peak, _guard.lastUnitPrice) = (one, one);
        (_guard.beforeToday, _guard.beforeYesterday) = (one, one);
    }

    function _pull(uint256 amount) private {
        uint256 before = quote.balanceOf(address(this));
        quote.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = quote.balanceOf(address(this)) - before;
        if (received < amount) revert VaultShortPaid(received, amount);
    }

    /// @dev The last unit prices before yesterday and before today, as they are once the day has been rolled.
    function _rolledReferences() private view returns (uint128 beforeYesterday, uint128 beforeToday) {
        beforeToday = _guard.lastUnitPrice;
        beforeYesterday = _today() == uint256(_guard.day) + 1 ? _guard.beforeToday : beforeToday;
    }

    function _referencePrice() private view returns (uint256) {
        if (_today() == _guard.day) return Math.max(_guard.beforeToday, _guard.beforeYesterday);
        (uint128 beforeYesterday, uint128 beforeToday) = _rolledReferences();
        return Math.max(beforeToday, beforeYesterday);
    }

    function _today() private view returns (uint16) {
        return uint16(block.timestamp / 1 days);
    }

    function _lineOf(Measure memory m, address asset) private pure returns (Line memory) {
        for (uint256 i; i < m.lines.length; ++i) {
            if (m.lines[i].token == asset) return m.lines[i];
        }
        revert VaultUnknownAsset(asset);
    }

    function _stateOf(uint16 reasons) private pure returns (VaultState) {
        if (reasons & Reasons.HALTED != 0) return VaultState.HALTED;
        return reasons == 0 ? VaultState.ACTIVE : VaultState.REDUCING;
    }

    /// @dev Both slippage sums can be taken before the DAO can react; and what was taken stays covered when value leaves.
    function _requiredDeposit(Measure memory m) private view returns (uint256) {
        return _coverOf(_guard.slippage, GuardMath.shareUp(m.value, m.limits.maxCumulativeSlippageBps), m.rules)
            + _coverOf(_guard.reduceSlippage, GuardMath.shareUp(m.value, m.limits.maxReduceCumulativeSlippageBps), m.rules);
    }

    function _coverOf(Bucket storage bucket, uint256 share, Rules memory rules) private view returns (uint256) {
        uint256 elapsedS = block.timestamp - bucket.updatedAt;
        return Math.max(share, GuardMath.decayed(bucket.level, share, elapsedS, rules.slippageDecayS));
    }

    function _worstProfit(Measure memory m) private view returns (int256) {
        uint256 units = _book.units;
        uint256 worst = GuardMath.worstValueDown(
            GuardMath.unitsValueDown(units, m.peak),
            m.limits.hardDrawdownBps,
            m.rules.auctionMaxDiscountBps,
            m.rules.gapAllowanceBps
        );
        return Math.min(worst, GuardMath.unitsValueDown(units, m.unitPrice)).toInt256() + _book.netFlow;
    }

    /// @return When the halt began, or the asset's last fill in it.
    function _auctionedSince(address asset) private view returns (uint64) {
        Auction memory auction = _auctions[asset];
        return auction.haltedAt == _guard.haltedAt ? auction.filledAt : _guard.haltedAt;
    }

    function _lotOf(Line memory line, Rules memory rules) private view returns (uint256) {
        Auction memory auction = _auctions[line.token];
        if (auction.haltedAt == _guard.haltedAt) return auction.lot;
        return Math.ceilDiv(line.held * rules.auctionLotBps, GuardMath.BPS);
    }

    /// @dev The discount starts at zero with the halt and again after each fill, so a late first buyer is cheap once only.
    function _auctionTerms(Line memory line, Rules memory rules)
        private
        view
        returns (uint256 amount, uint256 quoteIn, uint256 discountBps)
    {
        uint256 elapsedS = Math.min(block.timestamp - _auctionedSince(line.token), rules.auctionDurationS);
        discountBps = rules.auctionMaxDiscountBps * elapsedS / rules.auctionDurationS;
        amount = Math.min(_lotOf(line, rules), line.held);
        quoteIn = GuardMath.valueUp(amount, line.price, line.decimals);
        quoteIn = GuardMath.shareUp(quoteIn, GuardMath.BPS - discountBps);
    }

    /// @dev A token that can't tell its balance has no price; what the books hold of it can still be recalled.
    function _holdingOf(address token, uint256 booked)
        private
        view
        returns (bool alive, uint256 balance, uint256 held)
    {
        bytes memory data;
        Memory.Pointer free = Memory.getFreeMemoryPointer();
        // slither-disable-next-line low-level-calls,return-bomb -- so that it can't revert; gas bounds what it answers
        (alive, data) = token.staticcall{gas: BALANCE_GAS}(abi.encodeCall(IERC20.balanceOf, (address(this))));
        alive = alive && data.length >= 32;
        if (alive) balance = abi.decode(data, (uint256));
        Memory.unsafeSetFreeMemoryPointer(free); // or the floods of several tokens would add up
        held = alive ? Math.min(booked, balance) : booked;
    }
}
// slither-disable-end uninitialized-local
// slither-disable-end timestamp,incorrect-equality
