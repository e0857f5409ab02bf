// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IGovernor} from "@openzeppelin/contracts/governance/IGovernor.sol";
import {Vm} from "forge-std/Vm.sol";
import {IRewardPool} from "contracts/interfaces/IRewardPool.sol";
import {IStrategyRegistry} from "contracts/interfaces/IStrategyRegistry.sol";
import {IStrategyVault} from "contracts/interfaces/IStrategyVault.sol";
import {ITradeLedger} from "contracts/interfaces/ITradeLedger.sol";
import {Reasons} from "contracts/libraries/Reasons.sol";
import {AssetSpec, Limits, Rules, StrategyManifest, VaultState} from "contracts/libraries/Types.sol";
import {FeedAggregator} from "contracts/mocks/FeedAggregator.sol";
import {StrategyVault} from "contracts/vaults/StrategyVault.sol";
import {Ghosts} from "./Ghosts.sol";

/// @title Everybody who acts, one function for each verb
/// @notice An actor chooses what makes sense to it, so that most acts succeed; what the protocol refuses reverts here
/// too, and forge counts it. What a verb must hold afterwards is checked in the verb.
abstract contract Actors is Ghosts {
    struct Proposal {
        uint256 id;
        uint256 madeAt;
        IGovernor.ProposalState last;
    }

    address internal attacker = makeAddr("attacker");
    address[] internal owners; // who may own agents
    address[] internal keys; // who may sign for them
    Proposal[] internal proposals;
    bytes[] private _attacks;
    address[] private _attacked;
    uint256 private _madeUp;
    uint256 private _ceilingPercent = 100; // of the genesis ceilings
    mapping(address vault => mapping(address token => uint256)) private _soldAt;

    modifier as_(bytes32 name) {
        verb = name;
        _;
        verb = 0;
    }

    /// @notice Deploys the world, three agents and their strategies; all of it goes through the second books too.
    function begin() public {
        vm.recordLogs();
        deployWorld();
        (owners, keys) = ([controller, otherController], [signer, otherSigner]);
        vm.prank(deployer);
        quote.mint(otherController, 1);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        treasuryOf[address(quote)] = TREASURY_QUOTE;
        treasuryOf[address(token)] = token.balanceOf(address(treasury));
        quoteCap = 10_000_000e6;
        _absorb(logs);
        (ceilingsHash, rulesHash) = (_hash(ceilings()), keccak256(abi.encode(rules())));
        _register(controller, signer, 50_000 ether, 70_000e6);
        _register(otherController, otherSigner, 50_000 ether, 60_000e6);
        _register(controller, signer, 30_000 ether, 30_000e6);
        _deploy(manifest(1));
        StrategyManifest memory m = manifestOfTwo(2);
        m.capital = 500_000e6;
        _deploy(m);
        m = manifestOfTwo(3);
        (m.capital, m.rewardRate, m.limits.maxDrawdownBps, m.limits.hardDrawdownBps) = (250_000e6, 3e11, 500, 900);
        _deploy(m);
        _listAttacks();
        _provideFor(bidder, eth.token);
        _provideFor(bidder, btc.token);
    }

    /// @dev forge likes small numbers; what an actor chooses by the higher bits should vary as well.
    function _mixed(uint256 seed) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed))) >> 1;
    }

    /// @dev Nothing to do for this actor now: forge discards the act, which counts neither as done nor as refused.
    function _nothingToDo() private pure {
        vm.assume(false);
    }

    // -------------------------------------------------------------------- choosing

    function _one(uint256 seed) internal view returns (Strategy memory) {
        return fleet[seed % fleet.length];
    }

    /// @dev Mostly one that runs, else any.
    function _running(uint256 seed) internal view returns (Strategy memory s) {
        for (uint256 i; i < fleet.length; ++i) {
            s = fleet[(seed + i) % fleet.length];
            if (strategies.strategyOf(s.id).stage == IStrategyRegistry.Stage.LIVE) return s;
        }
    }

    /// @dev An asset the strategy may hold.
    function _assetOf(Strategy memory s, uint256 seed) internal view returns (Asset memory) {
        IStrategyVault.Asset[] memory listed = s.vault.assets();
        return listed[(seed >> 8) % listed.length].token == eth.token ? eth : btc;
    }

    function _anyAsset(uint256 seed) internal view returns (Asset memory) {
        return seed >> 9 & 1 == 0 ? eth : btc;
    }

    function _effective(Strategy memory s) internal view returns (Limits memory l) {
        (l,) = constitution.regime(s.vault.limits());
    }

    // ------------------------------------------------------------------------ market

    function timePasses(uint256 seed) external as_("timePasses") {
        seed = _mixed(seed);
        _maybeHeal(seed);
        travel(_bound(seed >> 16, 60, seed % 4 == 0 ? 3 days : 3 hours));
    }

    /// @notice Time without a round: first ETH and BTC go stale, after a day the quote token too.
    function feedsFallSilent(uint256 seed) external as_("feedsFallSilent") {
        seed = _mixed(seed);
        vm.warp(block.timestamp + _bound(seed, 1 hours, seed % 3 == 0 ? 30 hours : 3 hours));
    }

    function priceMoves(uint256 seed, uint256 move) external as_("priceMoves") {
        seed = _mixed(seed);
        Asset memory asset = _anyAsset(seed);
        uint256 bps = seed % 8 == 0 ? _bound(move, 7000, 14_000) : _bound(move, 9300, 10_700);
        uint256 price = uint256(marketPrice[asset.aggregator]) * bps / 10_000;
        marketPrice[asset.aggregator] = int256(_bound(price, 10e8, 1_000_000e8));
        refresh();
        if (seed % 5 != 0 && priceOf(asset) > 0) arbitrage(asset);
    }

    /// @notice Somebody pushes the pool away from the market's price; an arbitrageur may come later.
    function poolMoves(uint256 seed, uint256 move) external as_("poolMoves") {
        seed = _mixed(seed);
        Asset memory asset = _anyAsset(seed);
        if (seed % 3 == 0) {
            if (faultOf[asset.aggregator] == Fault.NONE && faultOf[quoteAggregator] == Fault.NONE) arbitrage(asset);
            return;
        }
        if (answerOf(asset.aggregator) <= 0 || answerOf(quoteAggregator) <= 0) _nothingToDo();
        _pushPool(asset, seed >> 12 & 1 == 0, _bound(move, 0, 80));
    }

    function feedBreaks(uint256 seed) external as_("feedBreaks") {
        seed = _mixed(seed);
        if (seed >> 16 & 3 != 0) _nothingToDo(); // or nothing else would be tried
        FeedAggregator feed = [eth.aggregator, btc.aggregator, quoteAggregator][seed % 3];
        faultOf[feed] = Fault(1 + (seed >> 8) % 3);
        refresh();
        if (faultOf[feed] == Fault.SILENT) travel(2 hours + 1);
    }

    function feedsHeal() external as_("feedsHeal") {
        _heal();
    }

    function _heal() internal {
        faultOf[eth.aggregator] = faultOf[btc.aggregator] = faultOf[quoteAggregator] = Fault.NONE;
        refresh();
        arbitrage(eth);
        arbitrage(btc);
    }

    function _maybeHeal(uint256 seed) private {
        if (seed % 3 != 0) _heal();
    }

    // ------------------------------------------------------------------------- trader

    function buys(uint256 seed, uint256 amount) external as_("buys") {
        seed = _mixed(seed);
        Strategy memory s = _running(seed);
        Asset memory asset = _assetOf(s, seed);
        if (seed >> 5 & 1 == 0) _heal();
        if (seed % 8 != 0 && s.vault.status().reasons == Reasons.UNSETTLED) _settleAll(10_000);
        (bool known, uint256 value) = valueOf(s);
        uint256 most = s.vault.book().quoteHeld;
        if (known && seed % 6 != 0) {
            // Within the weight, as a sane policy would stay.
            uint256 room = value * _effective(s).maxPositionBps / 10_000;
            uint256 has = worth(asset, held(s, asset.token));
            if (room > has && room - has < most) most = (room - has) * 99 / 100;
        }
        if (seed % 3 > 0) most = _bound(most / 3, 1, most + 1);
        _trades(s, asset, true, _bound(amount, 1, most + 1));
    }

    function sells(uint256 seed, uint256 amount) external as_("sells") {
        seed = _mixed(seed);
        (Strategy memory s, Asset memory asset) = _whereHeld(seed);
        uint256 most = held(s, asset.token);
        if (most == 0) _nothingToDo();
        _trades(s, asset, false, seed % 4 == 0 ? most : _bound(amount, 1, seed % 8 == 1 ? most + 1 : most));
    }

    /// @notice An agent that trades against itself: each time it pushes the pool as far as the slippage limit lets it.
    function bleeds(uint256 seed) external as_("bleeds") {
        seed = _mixed(seed);
        Strategy memory s = _running(seed);
        Asset memory asset = _assetOf(s, seed);
        _heal();
        if (s.vault.status().reasons == Reasons.UNSETTLED) _settleAll(10_000);
        (bool known, uint256 value) = valueOf(s);
        if (!known || value < 1000e6 || s.vault.status().reasons != 0) _nothingToDo();
        for (uint256 i; i <= seed % 6; ++i) {
            if (i % 3 == 2) travel(1 days); // or the day's turnover would be the end of it
            bool buy_ = worth(asset, held(s, asset.token)) * 10 < value;
            uint256 slippageBps = _effective(s).maxTradeSlippageBps;
            _pushPool(asset, buy_, slippageBps > 8 ? slippageBps - 8 : 1); // the pool's fee and the trade's own impact
            uint256 size = value * _effective(s).maxPositionBps / 11_000;
            if (size > s.vault.book().quoteHeld) size = s.vault.book().quoteHeld;
            _trades(s, asset, buy_, buy_ ? size : held(s, asset.token));
        }
        arbitrage(asset);
    }

    /// @dev To `bps` above or below the market's price.
    function _pushPool(Asset memory asset, bool up, uint256 bps) private {
        (uint160 now_,,,,,,) = asset.pool.slot0();
        bool higher = up == (asset.token < address(quote));
        uint256 market = targetSqrt(asset);
        uint160 target = uint160(higher ? market * (20_000 + bps) / 20_000 : market * 20_000 / (20_000 + bps));
        if (target == now_) return;
        bool zeroForOne = target < now_;
        swapInPool(arbitrageur, asset, zeroForOne != (asset.token < address(quote)), 1e27, target);
    }

    /// @dev A strategy that holds something and what it holds, if there is one.
    function _whereHeld(uint256 seed) internal view returns (Strategy memory s, Asset memory asset) {
        for (uint256 i; i < 2 * fleet.length; ++i) {
            s = fleet[(seed + i) % fleet.length];
            asset = i < fleet.length == (seed >> 9 & 1 == 0) ? eth : btc;
            if (held(s, asset.token) > 0) return (s, asset);
        }
        s = _one(seed);
        asset = _assetOf(s, seed);
    }

    function _trades(Strategy memory s, Asset memory asset, bool buy_, uint256 amount) private {
        IStrategyVault.Status memory before = s.vault.status();
        bytes32 bookBefore = keccak256(abi.encode(s.vault.book()));
        uint256 quoteBefore = _balance(address(quote), address(s.vault));
        uint256 assetBefore = _balance(asset.token, address(s.vault));
        IStrategyVault.Order memory o = order(s, asset.token, buy_, amount);
        _act(agents.agentOf(s.agentId).signingKey, address(s.vault), abi.encodeCall(s.vault.trade, (o)));
        if (traded == address(0)) {
            _promise(refusedTrade, "T8: neither traded nor refused");
            _promise(before.reasons != 0 || priceOf(asset) == 0, "T8: refused without a reason");
            bool same = bookBefore == keccak256(abi.encode(s.vault.book())) && s.vault.guard().nonce == o.nonce;
            _promise(same, "T8: a refused trade changed the books");
            return;
        }
        _promise(before.state == VaultState.ACTIVE || !buy_, "T5: a vault that was not ACTIVE bought");
        _promise(before.state != VaultState.HALTED, "T6: a halted vault traded");
        _promise(tradedReasons == before.reasons, "L4: the ledger tells another state");
        _measure(s, asset, buy_, quoteBefore, assetBefore);
    }

    /// @dev The guard's limits, by what left and what arrived, at the feeds' prices.
    function _measure(Strategy memory s, Asset memory asset, bool buy_, uint256 quoteBefore, uint256 assetBefore)
        private
    {
        uint256 quoteNow = _balance(address(quote), address(s.vault));
        uint256 assetNow = _balance(asset.token, address(s.vault));
        uint256 spent = buy_ ? quoteBefore - quoteNow : worth(asset, assetBefore - assetNow);
        uint256 got = buy_ ? worth(asset, assetNow - assetBefore) : quoteNow - quoteBefore;
        // An unsettled window alone is no reason to let a sale lose more.
        if (tradedReasons & ~Reasons.UNSETTLED == 0) _checkSlippage(s, spent, got);
        else _checkReduceSlippage(s, spent, got);
        if (tradedReasons != 0) return;
        _checkLimits(s, spent, got);
        uint256 weight = worth(asset, held(s, asset.token));
        uint256 largest = s.vault.status().value * _effective(s).maxPositionBps / 10_000;
        _promise(!buy_ || weight <= largest + 1, "T3: a buy past the largest weight");
    }

    function _checkSlippage(Strategy memory s, uint256 spent, uint256 got) private {
        Limits memory l = _effective(s);
        _promise(spent <= got + spent * l.maxTradeSlippageBps / 10_000 + 1, "T1: a trade lost more than its slippage");
        uint256 cap = _valueBefore(s, spent, got) * l.maxCumulativeSlippageBps / 10_000;
        bool within = spent <= got || s.vault.guard().slippage.level <= cap;
        _promise(within, "T1: all trades together lost more than the sum allows");
    }

    function _checkReduceSlippage(Strategy memory s, uint256 spent, uint256 got) private {
        Limits memory l = _effective(s);
        _promise(spent <= got + spent * l.maxReduceSlippageBps / 10_000 + 1, "T1: a sale lost more than its slippage");
        uint256 cap = _valueBefore(s, spent, got) * l.maxReduceCumulativeSlippageBps / 10_000;
        bool within = spent <= got || s.vault.guard().reduceSlippage.level <= cap;
        _promise(within, "T1: all sales together lost more than the sum allows");
    }

    /// @dev Sums and turnover are shares of what the vault was worth before the trade; two base units for rounding.
    function _valueBefore(Strategy memory s, uint256 spent, uint256 got) private view returns (uint256 value) {
        (, value) = valueOf(s);
        value = value + spent + 2 - got;
    }

    function _checkLimits(Strategy memory s, uint256 spent, uint256 got) private {
        Limits memory l = _effective(s);
        IStrategyVault.Status memory now_ = s.vault.status();
        uint16 forbidden = Reasons.DAY_LOSS | Reasons.DRAWDOWN | Reasons.HALTED;
        _promise(now_.reasons & forbidden == 0, "T2: a trade took the vault past a loss limit");
        uint256 day = block.timestamp / 1 days;
        uint256 trades = ++activeTradesOn[address(s.vault)][day];
        uint256 turnover = activeTurnoverOn[address(s.vault)][day] += spent;
        _promise(trades <= l.maxTradesPerDay, "T4: more trades than a day has");
        uint256 most = _valueBefore(s, spent, got) * l.maxDailyTurnoverBps / 10_000;
        _promise(turnover <= most, "T4: more turnover than a day has");
    }

    // -------------------------------------------------------------- observer and settler

    function pokes(uint256 seed) external as_("pokes") {
        seed = _mixed(seed);
        _poke(_one(seed));
    }

    function _poke(Strategy memory s) internal {
        _act(observer, address(s.vault), abi.encodeCall(s.vault.poke, ()));
    }

    /// @notice Into the next observation window, or on in the open one.
    function toWindow(uint256 seed) external as_("toWindow") {
        seed = _mixed(seed);
        _maybeHeal(seed);
        uint256 startS = epochStartS(currentEpoch());
        if (currentEpoch() == 0 || block.timestamp >= startS + WINDOW_S) startS += EPOCH_S;
        uint256 at = startS + _bound(seed >> 8, 0, WINDOW_S - 1);
        travelTo(at > block.timestamp ? at : block.timestamp);
    }

    /// @notice Closes what is due; when nothing is, the next window is observed for one strategy only, and closed.
    function closes(uint256 seed) external as_("closes") {
        seed = _mixed(seed);
        Strategy memory s;
        for (uint256 i; i < fleet.length; ++i) {
            s = _one(seed + i);
            if (_isDue(s)) return _close(s);
        }
        if (account(s).pending && seed % 8 != 0) _nothingToDo();
        _maybeHeal(seed);
        if (!_inWindow()) toNextWindow();
        _poke(s);
        toWindowEnd();
        _close(s);
    }

    function _inWindow() private view returns (bool) {
        return currentEpoch() > 0 && block.timestamp < epochStartS(currentEpoch()) + WINDOW_S;
    }

    /// @dev Whether the window that ended last can be closed.
    function _isDue(Strategy memory s) private view returns (bool) {
        uint256 current = currentEpoch();
        if (_inWindow()) current -= 1;
        if (current == 0 || account(s).pending || pool.vaultOf(s.agentId) != address(s.vault)) return false;
        return observedIn[address(s.vault)][current - 1] && !pool.isSettled(s.agentId);
    }

    function _close(Strategy memory s) internal {
        _act(observer, address(pool), abi.encodeCall(pool.closeWindow, (address(s.vault))));
    }

    function applies(uint256 seed) external as_("applies") {
        seed = _mixed(seed);
        Strategy memory s = _one(seed);
        for (uint256 i; i < fleet.length && !account(s).pending; ++i) {
            s = _one(seed + i);
        }
        if (!account(s).pending && seed % 16 != 0) _nothingToDo();
        _apply(s);
    }

    function _apply(Strategy memory s) internal {
        bytes memory call = abi.encodeCall(dao.rewardAgent, (s.agentId, account(s).pendingMove));
        _act(relayer, address(dao), call);
    }

    /// @notice A whole settlement of everybody: what is pending, the next window, its end, the results.
    function settlesAll(uint256 seed, uint256 move) external as_("settlesAll") {
        seed = _mixed(seed);
        _settleAll(seed % 2 == 0 ? _bound(move, 9800, 10_200) : 10_000);
    }

    /// @param secondBps the price of a second observation, of which only the range to the first counts
    function _settleAll(uint256 secondBps) private {
        _heal();
        if (!_inWindow() || block.timestamp >= epochStartS(currentEpoch()) + WINDOW_S - 1 hours) toNextWindow();
        for (uint256 i; i < fleet.length; ++i) {
            if (account(fleet[i]).pending && pool.vaultOf(fleet[i].agentId) == address(fleet[i].vault)) {
                _apply(fleet[i]);
            }
            _poke(fleet[i]);
        }
        if (secondBps != 10_000) {
            marketPrice[eth.aggregator] = marketPrice[eth.aggregator] * int256(secondBps) / 10_000;
            travel(10 minutes);
            arbitrage(eth);
            for (uint256 i; i < fleet.length; ++i) {
                _poke(fleet[i]);
            }
        }
        toWindowEnd();
        for (uint256 i; i < fleet.length; ++i) {
            if (!_isDue(fleet[i])) continue;
            _close(fleet[i]);
            if (account(fleet[i]).pending) _apply(fleet[i]);
        }
    }

    /// @notice Whoever may buys, the market moves, and everybody is settled: a season of gains or of losses.
    function seasonPasses(uint256 seed, uint256 move) external as_("seasonPasses") {
        seed = _mixed(seed);
        _settleAll(10_000);
        for (uint256 i; i < fleet.length; ++i) {
            Strategy memory s = fleet[i];
            Asset memory asset = _assetOf(s, seed);
            if (s.vault.status().reasons != 0) continue;
            (, uint256 value) = valueOf(s);
            uint256 size = value * (seed % 3 == 0 ? 55 : 15) / 100;
            uint256 room = value * _effective(s).maxPositionBps / 10_500;
            if (room < size) size = room;
            bool wanted = worth(asset, held(s, asset.token)) * 20 < size && s.vault.book().quoteHeld > size;
            if (wanted && size > 1e6) _trades(s, asset, true, size);
        }
        // Now and then a gap beyond what the collateral covers.
        uint256 bps = _bound(move, seed % 4 == 0 ? 3000 : 8000, 12_500);
        marketPrice[eth.aggregator] = int256(_bound(uint256(marketPrice[eth.aggregator]) * bps / 10_000, 10e8, 1e13));
        marketPrice[btc.aggregator] = int256(_bound(uint256(marketPrice[btc.aggregator]) * bps / 10_000, 10e8, 1e13));
        _settleAll(10_000);
    }

    // ----------------------------------------------------------------------- claimants

    function claims(uint256 seed) external as_("claims") {
        seed = _mixed(seed);
        Strategy memory s = _one(seed);
        for (uint256 i; i < fleet.length; ++i) {
            s = _one(seed + i);
            IRewardPool.Account memory a = account(s);
            if (a.unvested + a.vested > 0) break;
        }
        if (account(s).unvested + account(s).vested == 0 && seed % 16 != 0) _nothingToDo();
        if (seed % 3 > 0) travel(seed % 3 * 1 days);
        address owner = agents.ownerOf(s.agentId);
        uint256 before = token.balanceOf(owner);
        bytes memory result = _act(relayer, address(pool), abi.encodeCall(pool.claim, (address(s.vault))));
        uint256 amount = abi.decode(result, (uint256));
        _promise(token.balanceOf(owner) == before + amount, "R9: a claim arrived elsewhere");
        _promise(!constitution.claimsStopped(), "R9: claimed while claims were stopped");
        _promise(!account(s).pending && pool.isSettled(s.agentId), "R9: claimed while unsettled");
        _promise(_covered(s), "S2: a claim left the worst case uncovered");
    }

    function claimsBounty(uint256 seed) external as_("claimsBounty") {
        seed = _mixed(seed);
        _act(seed % 4 == 0 ? relayer : observer, address(pool), abi.encodeCall(pool.claimBounty, ()));
    }

    // ---------------------------------------------------------------- controllers of agents

    function postsBond(uint256 seed, uint256 amount) external as_("postsBond") {
        seed = _mixed(seed);
        uint64 agentId = _agent(seed);
        address owner = agents.ownerOf(agentId);
        uint256 has = token.balanceOf(owner);
        amount = _bound(amount, 1, has > 20_000 ether ? 20_000 ether : has);
        vm.prank(owner);
        token.approve(address(agents), amount);
        _act(owner, address(agents), abi.encodeCall(agents.postBond, (agentId, amount)));
    }

    function withdrawsBond(uint256 seed, uint256 amount) external as_("withdrawsBond") {
        seed = _mixed(seed);
        uint64 agentId = _agent(seed);
        uint256 most = pool.releasableBond(agentId);
        amount = _bound(amount, 0, seed % 8 == 0 ? most + 1 : most);
        _act(agents.ownerOf(agentId), address(agents), abi.encodeCall(agents.withdrawBond, (agentId, amount)));
        address vault = pool.vaultOf(agentId);
        if (vault == address(0) || amount == 0) return;
        _promise(_covered(fleet[placeOf[vault] - 1]), "S2: a withdrawn bond left the worst case uncovered");
        bool live = pool.accountOf(vault).live;
        bool kept = agents.agentOf(agentId).bond >= constitution.rules().minBond;
        _promise(!live || kept, "S3: a live agent took its bond below the least");
    }

    function postsDeposit(uint256 seed, uint256 amount) external as_("postsDeposit") {
        seed = _mixed(seed);
        uint64 agentId = _agent(seed);
        amount = _bound(amount, 1, 100_000e6);
        address owner = agents.ownerOf(agentId);
        quote.mint(owner, amount);
        vm.prank(owner);
        quote.approve(address(agents), amount);
        _act(owner, address(agents), abi.encodeCall(agents.postDeposit, (agentId, amount)));
    }

    function withdrawsDeposit(uint256 seed, uint256 amount) external as_("withdrawsDeposit") {
        seed = _mixed(seed);
        uint64 agentId = _agent(seed);
        uint256 has = agents.agentOf(agentId).deposit;
        address vault = pool.vaultOf(agentId);
        bool live = vault != address(0) && pool.accountOf(vault).live;
        uint256 required = live ? StrategyVault(vault).status().requiredDeposit : 0;
        uint256 most = has > required ? has - required : 0;
        amount = _bound(amount, 0, seed % 8 == 0 ? most + 1 : most);
        _act(agents.ownerOf(agentId), address(agents), abi.encodeCall(agents.withdrawDeposit, (agentId, amount)));
        if (!live || amount == 0) return;
        (bool known, uint256 value) = valueOf(fleet[placeOf[vault] - 1]);
        Limits memory l = _effective(fleet[placeOf[vault] - 1]);
        uint256 bps = uint256(l.maxCumulativeSlippageBps) + l.maxReduceCumulativeSlippageBps;
        bool covers = agents.agentOf(agentId).deposit * 10_000 >= value * bps;
        _promise(known && covers, "S4: a withdrawn deposit left the slippage sums uncovered");
    }

    /// @notice The agent's token and its stake change hands.
    function transfersAgent(uint256 seed) external as_("transfersAgent") {
        seed = _mixed(seed);
        uint64 agentId = _agent(seed);
        address from = agents.ownerOf(agentId);
        address to = from == owners[0] ? owners[1] : owners[0];
        _act(from, address(agents), abi.encodeWithSelector(agents.transferFrom.selector, from, to, agentId));
        _promise(pool.isSettled(agentId), "S5: an unsettled agent changed hands");
    }

    function rotatesKey(uint256 seed) external as_("rotatesKey") {
        seed = _mixed(seed);
        uint64 agentId = _agent(seed);
        bytes memory call = abi.encodeCall(agents.setSigningKey, (agentId, keys[(seed >> 8) % 2]));
        _act(agents.ownerOf(agentId), address(agents), call);
    }

    function registers(uint256 seed) external as_("registers") {
        seed = _mixed(seed);
        if (agentIds.length >= 6) _nothingToDo();
        _register(owners[seed % 2], keys[seed % 2], _bound(seed >> 8, 2_000 ether, 30_000 ether), 30_000e6);
    }

    function _register(address owner, address key, uint256 bond, uint256 deposit) private {
        bytes memory result = _act(owner, address(agents), abi.encodeCall(agents.register, ("ipfs://agent", key)));
        uint64 agentId = abi.decode(result, (uint64));
        vm.prank(owner);
        token.approve(address(agents), bond);
        _act(owner, address(agents), abi.encodeCall(agents.postBond, (agentId, bond)));
        quote.mint(owner, deposit);
        vm.prank(owner);
        quote.approve(address(agents), deposit);
        _act(owner, address(agents), abi.encodeCall(agents.postDeposit, (agentId, deposit)));
    }

    function _agent(uint256 seed) internal view returns (uint64) {
        return agentIds[(seed >> 3) % agentIds.length];
    }

    // ---------------------------------------------------- what a vote decides, done at once

    function deploys(uint256 seed) external as_("deploys") {
        seed = _mixed(seed);
        uint64 agentId = _agent(seed);
        for (uint256 i; i < agentIds.length && strategies.liveStrategyOf(agentId) != 0; ++i) {
            agentId = agentIds[(seed + i) % agentIds.length];
        }
        if (strategies.liveStrategyOf(agentId) != 0 && seed % 8 != 0) _nothingToDo();
        StrategyManifest memory m = seed % 2 == 0 ? manifest(agentId) : manifestOfTwo(agentId);
        m.capital = _bound(seed >> 8, 0, 50_000e6);
        m.rewardCap = 2_000 ether;
        m.limits = _scaled(_bound(seed >> 16, 20, seed % 5 == 0 ? 100 : _ceilingPercent));
        m.salt = bytes32(++_madeUp);
        _deploy(m);
    }

    function _deploy(StrategyManifest memory m) private {
        bytes32 id = abi.decode(_act(relayer, address(strategies), abi.encodeCall(strategies.submit, (m))), (bytes32));
        _asTimelock(address(strategies), abi.encodeCall(strategies.approve, (id)));
        _asTimelock(address(factory), abi.encodeCall(factory.deployVault, (id)));
        if (m.capital > 0) _asTimelock(address(treasury), abi.encodeCall(treasury.allocate, (id, m.capital)));
    }

    function updates(uint256 seed) external as_("updates") {
        seed = _mixed(seed);
        Strategy memory s = _running(seed);
        StrategyManifest memory m = strategies.manifestOf(strategies.strategyOf(s.id).version);
        m.updates = s.id;
        m.artefactHash = keccak256(abi.encode(seed));
        m.limits = _scaled(_bound(seed >> 16, 20, seed % 5 == 0 ? 100 : _ceilingPercent));
        m.rewardCap = uint128(_bound(seed >> 24, m.rewardRate, 8_000 ether));
        m.capital = 0;
        m.salt = bytes32(++_madeUp);
        if (seed % 3 == 0) m.assets = manifestOfTwo(1).assets;
        bytes memory result = _act(relayer, address(strategies), abi.encodeCall(strategies.submit, (m)));
        bytes32 hash = abi.decode(result, (bytes32));
        _asTimelock(address(strategies), abi.encodeCall(strategies.approve, (hash)));
        _asTimelock(address(strategies), abi.encodeCall(strategies.applyUpdate, (hash)));
    }

    /// @dev Everything within the genesis ceilings, and consistent.
    function _scaled(uint256 percent) internal pure returns (Limits memory l) {
        l = ceilings();
        l.maxPositionBps = uint16(l.maxPositionBps * percent / 100);
        l.maxTradeSlippageBps = uint16(l.maxTradeSlippageBps * percent / 100);
        l.maxCumulativeSlippageBps = uint16(l.maxCumulativeSlippageBps * percent / 100);
        l.maxReduceSlippageBps = uint16(l.maxReduceSlippageBps * percent / 100);
        l.maxReduceCumulativeSlippageBps = uint16(l.maxReduceCumulativeSlippageBps * percent / 100);
        l.maxTradesPerDay = uint16(l.maxTradesPerDay * percent / 100);
        l.maxDailyTurnoverBps = uint32(l.maxDailyTurnoverBps * percent / 100);
        l.maxDailyLossBps = uint16(l.maxDailyLossBps * percent / 100);
        l.maxDrawdownBps = uint16(l.maxDrawdownBps * percent / 100);
        l.hardDrawdownBps = uint16(l.hardDrawdownBps * percent / 100);
    }

    function allocates(uint256 seed, uint256 amount) external as_("allocates") {
        seed = _mixed(seed);
        Strategy memory s = _running(seed);
        (uint256 priceBefore, int256 profitBefore, bool first) = _neutral(s);
        (, uint256 available) = treasury.outflowOf(address(quote));
        amount = _bound(amount, 1, available > 300_000e6 ? 300_000e6 : available + 1);
        _asTimelock(address(treasury), abi.encodeCall(treasury.allocate, (s.id, amount)));
        (uint256 priceNow, int256 profitNow,) = _neutral(s);
        _promise(profitNow == profitBefore, "V4: an allocation made profit or loss");
        _promise(first || _same(s, priceBefore, priceNow), "V4: an allocation moved the unit price");
    }

    function recalls(uint256 seed, uint256 amount) external as_("recalls") {
        seed = _mixed(seed);
        (Strategy memory s, address what, uint256 most) = _somethingHeld(seed);
        amount = seed % 5 == 0 ? most : _bound(amount, 0, most / 2 + 1);
        bytes memory call = _recallCall(s, what, amount, seed % 4);
        _recall(s, what, amount > most ? most : amount, call);
    }

    function _somethingHeld(uint256 seed) private view returns (Strategy memory s, address what, uint256 most) {
        Asset memory asset;
        (s, asset) = _whereHeld(seed);
        if (seed % 3 != 0) return (s, asset.token, held(s, asset.token));
        s = _one(seed);
        return (s, address(quote), s.vault.book().quoteHeld);
    }

    /// @dev `thirds` of the last accepted price; four are too many where that price is needed.
    function _recallCall(Strategy memory s, address what, uint256 amount, uint256 thirds)
        private
        view
        returns (bytes memory)
    {
        uint256 fallbackPrice = uint256(s.vault.positionOf(what).lastPriceWad) * (thirds == 1 ? 4 : thirds) / 3;
        return abi.encodeCall(treasury.recall, (s.id, what, amount, fallbackPrice));
    }

    function _recall(Strategy memory s, address what, uint256 sent, bytes memory call) private {
        (uint256 priceBefore, int256 profitBefore,) = _neutral(s);
        bool known = s.vault.status().priced;
        uint256 before = _balance(what, address(treasury));
        _asTimelock(address(treasury), call);
        _promise(_balance(what, address(treasury)) == before + sent, "M1: a recall sent something else");
        if (!known || quoteUsd() == 0) return;
        (uint256 priceNow, int256 profitNow, bool empty) = _neutral(s);
        int256 difference = profitNow - profitBefore;
        _promise(difference <= 3 && difference >= -3, "V4: a recall made profit or loss");
        _promise(empty || _same(s, priceBefore, priceNow), "V4: a recall moved the unit price");
    }

    function _neutral(Strategy memory s) private view returns (uint256, int256, bool) {
        IStrategyVault.Status memory status = s.vault.status();
        return (status.unitPriceWad, status.profit, s.vault.book().units == 0);
    }

    /// @dev The same up to what rounding of the value by a few base units makes of it.
    function _same(Strategy memory s, uint256 a, uint256 b) private view returns (bool) {
        uint256 units = s.vault.book().units;
        (uint256 worthA, uint256 worthB) = (units * a / 1e30, units * b / 1e30);
        return worthA > worthB ? worthA - worthB <= 4 : worthB - worthA <= 4;
    }

    function halts(uint256 seed) external as_("halts") {
        seed = _mixed(seed);
        if (seed % 3 != 0) _nothingToDo(); // a market alone halts often enough
        _asTimelock(address(strategies), abi.encodeCall(strategies.halt, (_running(seed >> 8).id)));
    }

    function resumes(uint256 seed) external as_("resumes") {
        seed = _mixed(seed);
        Strategy memory s = _running(seed);
        for (uint256 i; i < fleet.length && s.vault.guard().reasons & 130 == 0; ++i) {
            s = _running(seed + i);
        }
        _asTimelock(address(strategies), abi.encodeCall(strategies.resume, (s.id)));
        _promise(s.vault.guard().peak == s.vault.status().unitPriceWad, "T7: resumed with another peak than now");
    }

    function writesOff(uint256 seed) external as_("writesOff") {
        seed = _mixed(seed);
        (Strategy memory s, Asset memory asset) = _whereHeld(seed);
        if (seed % 2 != 0 || held(s, asset.token) == 0) _nothingToDo(); // rare: it is a loss
        _asTimelock(address(strategies), abi.encodeCall(strategies.writeOff, (s.id, asset.token)));
    }

    function retires(uint256 seed) external as_("retires") {
        seed = _mixed(seed);
        if (seed % 4 != 0) _nothingToDo(); // or nobody would be left
        _asTimelock(address(strategies), abi.encodeCall(strategies.retire, (_running(seed >> 8).id)));
    }

    /// @notice Recalls all that a retiring strategy has, and finishes when a window has passed.
    function finishesRetirement(uint256 seed) external as_("finishesRetirement") {
        seed = _mixed(seed);
        for (uint256 i; i < fleet.length; ++i) {
            Strategy memory s = _one(seed + i);
            if (strategies.strategyOf(s.id).stage != IStrategyRegistry.Stage.RETIRING) continue;
            if (!s.vault.isEmpty()) return _recallAll(s);
            _act(relayer, address(strategies), abi.encodeCall(strategies.finishRetirement, (s.id)));
            return;
        }
        _nothingToDo();
    }

    function _recallAll(Strategy memory s) internal {
        address[3] memory what = [address(quote), eth.token, btc.token];
        for (uint256 i; i < 3; ++i) {
            bytes memory call = abi.encodeCall(treasury.recall, (s.id, what[i], type(uint128).max, 0));
            _asTimelock(address(treasury), call);
        }
        _promise(s.vault.isEmpty() && s.vault.book().units == 0, "M1: something stayed after a full recall");
    }

    function amendsConstitution(uint256 seed) external as_("amendsConstitution") {
        seed = _mixed(seed);
        if (seed % 2 == 0) {
            _ceilingPercent = _bound(seed >> 8, 25, 100);
            Limits memory l = _scaled(_ceilingPercent); // often below what runs
            ceilingsHash = _hash(l);
            _asTimelock(address(constitution), abi.encodeCall(constitution.setCeilings, (l)));
            return;
        }
        Rules memory r = rules();
        r.minBond = uint128(_bound(seed >> 8, 500 ether, 3_000 ether));
        r.slippageDecayS = uint32(_bound(seed >> 16, 1 days, 14 days));
        r.auctionDurationS = uint32(_bound(seed >> 24, 1 hours, 1 days));
        r.auctionMaxDiscountBps = uint16(_bound(seed >> 32, 0, 1000));
        r.auctionLotBps = uint16(_bound(seed >> 40, 500, 10_000));
        r.gapAllowanceBps = uint16(_bound(seed >> 48, 0, 1000));
        rulesHash = keccak256(abi.encode(r));
        _asTimelock(address(constitution), abi.encodeCall(constitution.setRules, (r)));
    }

    function budgets(uint256 seed, uint256 amount) external as_("budgets") {
        seed = _mixed(seed);
        uint256 kind = seed % 5;
        if (kind == 0) {
            amount = _bound(amount, pool.sumOfCaps() * 9 / 10, 2 * BUDGET);
            _asTimelock(address(pool), abi.encodeCall(pool.setBudget, (amount)));
        } else if (kind == 1) {
            // Now and then nearly all of it: an underfunded pool.
            amount = seed % 3 == 0 ? pool.free() : _bound(amount, 0, 1_000 ether);
            _asTimelock(address(pool), abi.encodeCall(pool.withdraw, (amount)));
        } else if (kind == 2) {
            amount = _bound(amount, 1, 100_000 ether);
            _asTimelock(address(treasury), abi.encodeCall(treasury.fundRewards, (amount)));
        } else if (kind == 3) {
            _asTimelock(address(treasury), abi.encodeCall(treasury.fundBounties, (_bound(amount, 1, 100 ether))));
        } else {
            Strategy memory s = _one(seed >> 8);
            int256 move = -int256(_bound(amount, 0, 20_000e6));
            _asTimelock(address(pool), abi.encodeCall(pool.closeByVote, (address(s.vault), move)));
        }
    }

    function spends(uint256 seed, uint256 amount) external as_("spends") {
        seed = _mixed(seed);
        if (seed % 3 == 0) {
            uint208 cap = uint208(_bound(amount, 1_000_000e6, 12_000_000e6));
            _asTimelock(address(treasury), abi.encodeCall(treasury.setOutflowCap, (address(quote), cap)));
            return;
        }
        (, uint256 available) = treasury.outflowOf(address(quote));
        amount = _bound(amount, 0, seed % 7 == 0 ? available + 1 : available / 2);
        _asTimelock(address(treasury), abi.encodeCall(treasury.pay, (address(quote), relayer, amount)));
    }

    function punishes(uint256 seed, uint256 amount) external as_("punishes") {
        seed = _mixed(seed);
        uint64 agentId = _agent(seed);
        if (seed % 2 == 0) {
            amount = _bound(amount, 0, agents.agentOf(agentId).bond / 4);
            _asTimelock(address(agents), abi.encodeCall(agents.slashBond, (agentId, amount)));
        } else {
            amount = _bound(amount, 0, agents.agentOf(agentId).deposit / 4);
            _asTimelock(address(agents), abi.encodeCall(agents.awardDeposit, (agentId, amount)));
        }
    }

    // ------------------------------------------------------------------ proposals and votes

    function proposes(uint256 seed) external as_("proposes") {
        seed = _mixed(seed);
        _propose(seed);
    }

    function _propose(uint256 seed) private returns (uint256 id) {
        Strategy memory s = _running(seed);
        uint256 kind = seed % 3;
        bytes memory call;
        string memory why = vm.toString(++_madeUp);
        if (kind == 0) {
            StrategyManifest memory m = strategies.manifestOf(strategies.strategyOf(s.id).version);
            (m.updates, m.capital, m.salt) = (s.id, 0, bytes32(_madeUp));
            m.limits = _scaled(_bound(seed >> 16, 20, seed % 5 == 0 ? 100 : _ceilingPercent));
            call = abi.encodeCall(dao.proposeStrategy, (m, why));
        } else if (kind == 1) {
            IStrategyRegistry.RecallItem[] memory items = new IStrategyRegistry.RecallItem[](1);
            items[0] = IStrategyRegistry.RecallItem(address(quote), _bound(seed >> 8, 1, 50_000e6), 0);
            call = abi.encodeCall(dao.proposeRecall, (s.id, items, why));
        } else {
            (address[] memory targets, uint256[] memory values, bytes[] memory calls) =
                (new address[](1), new uint256[](1), new bytes[](1));
            targets[0] = address(treasury);
            calls[0] = abi.encodeCall(treasury.fundRewards, (_bound(seed >> 8, 1, 1_000 ether)));
            call = abi.encodeCall(dao.propose, (targets, values, calls, why));
        }
        id = abi.decode(_act(proposer, address(dao), call), (uint256));
        proposals.push(Proposal(id, block.timestamp, IGovernor.ProposalState.Pending));
    }

    function votes(uint256 seed) external as_("votes") {
        seed = _mixed(seed);
        if (proposals.length == 0) _nothingToDo();
        (uint256 id, bool found) = _proposalIn(seed, IGovernor.ProposalState.Active);
        if (!found) {
            (id, found) = _proposalIn(seed, IGovernor.ProposalState.Pending);
            if (found) travelTo(dao.proposalSnapshot(id) + 1 + _bound(seed >> 32, 0, 3 days - 2));
            else _nothingToDo();
        }
        address voter = [proposer, voterA, voterB, smallHolder][(seed >> 8) % 4];
        if (dao.hasVoted(id, voter)) _nothingToDo();
        uint8 support = (seed >> 16) % 4 == 0 ? uint8(0) : uint8(1);
        bool late = block.timestamp > dao.proposalSnapshot(id) + dao.votingPeriod();
        bytes memory call = abi.encodeWithSignature("voteStrategy(uint256,uint8)", id, support);
        _act(voter, address(dao), call);
        _promise(!late || support == 0, "G5: a vote for counted in the objection period");
    }

    /// @notice Lets a proposal's next date come and moves it on.
    function movesProposal(uint256 seed) external as_("movesProposal") {
        seed = _mixed(seed);
        (uint256 id, bool found) = _proposalIn(seed, IGovernor.ProposalState.Succeeded);
        if (!found) {
            (id, found) = _proposalIn(seed, IGovernor.ProposalState.Queued);
            if (found && block.timestamp < dao.proposalEta(id)) travelTo(dao.proposalEta(id));
        }
        if (!found) {
            (id, found) = _proposalIn(seed, IGovernor.ProposalState.Active);
            if (!found) _nothingToDo();
            travelTo(dao.proposalDeadline(id) + 1);
            if (dao.state(id) != IGovernor.ProposalState.Succeeded) return;
        }
        bool updating = dao.manifestOf(id) != 0;
        if (updating) verb = "updates";
        _act(relayer, address(dao), abi.encodeCall(dao.deployApproved, (id)));
    }

    /// @notice A proposal's whole way: made, voted, queued, executed.
    function decides(uint256 seed) external as_("updates") {
        seed = _mixed(seed);
        uint256 id = _propose(seed);
        travelTo(dao.proposalSnapshot(id) + 1);
        bytes memory call = abi.encodeWithSignature("voteStrategy(uint256)", id);
        _act(voterA, address(dao), call);
        if (seed >> 8 & 1 == 0) travelTo(dao.proposalDeadline(id) - 1 hours); // late: an objection period opens or not
        _act(voterB, address(dao), call);
        travelTo(dao.proposalDeadline(id) + 1);
        call = abi.encodeCall(dao.deployApproved, (id));
        _act(relayer, address(dao), call);
        travelTo(dao.proposalEta(id));
        _act(relayer, address(dao), call);
    }

    function cancels(uint256 seed) external as_("cancels") {
        seed = _mixed(seed);
        (uint256 id, bool found) = _proposalIn(seed, IGovernor.ProposalState.Pending);
        if (!found) _nothingToDo();
        _act(proposer, address(dao), abi.encodeWithSignature("cancel(uint256)", id));
    }

    function _proposalIn(uint256 seed, IGovernor.ProposalState wanted) private view returns (uint256 id, bool found) {
        for (uint256 i; i < proposals.length && !found; ++i) {
            id = proposals[(seed + i) % proposals.length].id;
            found = dao.state(id) == wanted;
        }
    }

    // --------------------------------------------------------------------------- guardian

    function guards(uint256 seed) external as_("guards") {
        seed = _mixed(seed);
        uint64 duration = uint64(_bound(seed >> 8, 1, 7 days));
        address vault = address(_one(seed >> 80).vault);
        uint256 kind = seed % 5;
        if (kind == 0) {
            uint64 last = constitution.vaultStoppedUntil(vault);
            _act(guardian, address(constitution), abi.encodeCall(constitution.stopVault, (vault, duration)));
            _checkStop(last, constitution.vaultStoppedUntil(vault));
        } else if (kind == 1) {
            uint64 last = constitution.claimsStoppedUntil();
            _act(guardian, address(constitution), abi.encodeCall(constitution.stopClaims, (duration)));
            _checkStop(last, constitution.claimsStoppedUntil());
        } else if (kind == 2) {
            _act(guardian, address(constitution), abi.encodeCall(constitution.liftVaultStop, (vault)));
        } else if (kind == 3) {
            _act(guardian, address(constitution), abi.encodeCall(constitution.liftClaimsStop, ()));
        } else {
            uint64 until = uint64(block.timestamp + _bound(seed >> 8, 1, 365 days));
            _asTimelock(
                address(constitution), abi.encodeCall(constitution.appointGuardian, (guardian, until))
            );
        }
    }

    function _checkStop(uint64 last, uint64 until) private {
        _promise(until <= block.timestamp + 7 days, "G6: a stop of more than a week");
        _promise(last == 0 || block.timestamp >= last + 7 days, "G6: a stop within the cooldown");
        _promise(until <= constitution.guardianExpiresAt(), "G6: a stop outlives the guardian's term");
    }

    // --------------------------------------------------------------------- bidder and donor

    function bids(uint256 seed) external as_("bids") {
        seed = _mixed(seed);
        (Strategy memory s, Asset memory asset) = (_one(seed), eth);
        for (uint256 i; i < fleet.length; ++i) {
            s = _one(seed + i);
            asset = held(s, eth.token) > 0 ? eth : btc;
            if (s.vault.guard().haltedAt != 0 && held(s, asset.token) > 0) break;
        }
        if (s.vault.guard().haltedAt == 0 || held(s, asset.token) == 0) _nothingToDo();
        uint256 heldBefore = held(s, asset.token);
        if (seed % 8 != 0) _laterAndWell(seed); // a lot is sold at a round after the halt, or the last
        vm.prank(bidder);
        quote.approve(address(s.vault), type(uint256).max);
        bytes memory call = abi.encodeCall(s.vault.fillAuction, (asset.token, type(uint256).max));
        (uint256 amount, uint256 paid) = abi.decode(_act(bidder, address(s.vault), call), (uint256, uint256));
        uint256 least = 10_000 - constitution.rules().auctionMaxDiscountBps;
        _promise(paid * 10_000 >= worth(asset, amount) * least, "T9: sold below the largest discount");
        _promise(heldBefore - held(s, asset.token) == amount, "T9: a lot that is not what the books say");
        (,,, uint256 roundAt,) = asset.feed.latestRoundData();
        uint256 soldAt = _soldAt[address(s.vault)][asset.token];
        bool newer = roundAt > soldAt && roundAt > s.vault.guard().haltedAt;
        _promise(newer, "T9: one round sold two lots, or one of before the halt");
        _soldAt[address(s.vault)][asset.token] = block.timestamp;
    }

    function _laterAndWell(uint256 seed) private {
        travel(_bound(seed >> 16, 1, 5 hours));
        _maybeHeal(seed);
    }

    function donates(uint256 seed, uint256 amount) external as_("donates") {
        seed = _mixed(seed);
        address what = [address(quote), eth.token, btc.token][seed % 3];
        address to = address(_one(seed >> 8).vault);
        if (seed % 5 == 0) (what, to) = (address(quote), address(agents));
        Strategy memory s = _one(seed >> 8);
        (, int256 before,) = _neutral(s);
        _give(to, what, _bound(amount, 1, 1e12));
        (, int256 now_,) = _neutral(s);
        _promise(now_ == before, "V2: a gift was counted as profit");
    }

    function skims(uint256 seed) external as_("skims") {
        seed = _mixed(seed);
        Strategy memory s = _one(seed >> 8);
        address what = [address(quote), eth.token, btc.token][seed % 3];
        uint256 before = _balance(what, address(treasury));
        uint256 surplus = gifts[address(s.vault)][what];
        _act(relayer, address(s.vault), abi.encodeCall(s.vault.skim, (what)));
        _promise(_balance(what, address(treasury)) == before + surplus, "V2: skimmed other than what was given");
    }

    // ------------------------------------------------------------------------------ attacker

    /// @notice Calls what is not its to call; nothing may succeed.
    function attacks(uint256 seed) external as_("attacks") {
        seed = _mixed(seed);
        for (uint256 i; i < 6; ++i) {
            _attack((seed + i) % (_attacks.length + 9), seed);
        }
    }

    function _attack(uint256 which, uint256 seed) internal {
        Strategy memory s = _one(seed >> 8);
        (address target, bytes memory data) = which < _attacks.length
            ? (_attacked[which], _attacks[which])
            : (address(s.vault), _onVault(which - _attacks.length, s));
        vm.prank(attacker);
        (bool ok,) = target.call(data);
        _promise(!ok, string.concat("A1: an outsider's call succeeded: ", vm.toString(which)));
    }

    function _onVault(uint256 which, Strategy memory s) private view returns (bytes memory) {
        StrategyVault v = s.vault;
        if (which == 0) return abi.encodeCall(v.trade, (order(s, eth.token, true, 1e6)));
        if (which == 1) return abi.encodeCall(v.allocate, (0));
        if (which == 2) return abi.encodeCall(v.recall, (address(quote), 1, 0));
        if (which == 3) return abi.encodeCall(v.halt, ());
        if (which == 4) return abi.encodeCall(v.resume, ());
        if (which == 5) return abi.encodeCall(v.writeOff, (eth.token));
        if (which == 6) return abi.encodeCall(v.update, (bytes32(uint256(1)), _scaled(100), new AssetSpec[](0)));
        AssetSpec[] memory none = new AssetSpec[](0);
        if (which == 7) {
            return abi.encodeCall(
                v.initialize,
                (IStrategyVault.Init(bytes32(uint256(9)), bytes32(uint256(9)), attacker, 1, _scaled(100), none))
            );
        }
        return abi.encodeCall(v.recall, (eth.token, type(uint256).max, 0));
    }

    function _listAttacks() private {
        bytes32 id = fleet[0].id;
        address vault = address(fleet[0].vault);
        _list(address(constitution), abi.encodeCall(constitution.setCeilings, (_scaled(100))));
        _list(address(constitution), abi.encodeCall(constitution.setRules, (rules())));
        _list(address(constitution), abi.encodeCall(constitution.appointGuardian, (attacker, 0)));
        _list(address(constitution), abi.encodeCall(constitution.stopVault, (vault, 1)));
        _list(address(constitution), abi.encodeCall(constitution.stopClaims, (1)));
        _list(address(constitution), abi.encodeCall(constitution.liftVaultStop, (vault)));
        _list(address(constitution), abi.encodeCall(constitution.liftClaimsStop, ()));
        _list(address(oracle), abi.encodeCall(oracle.setFeed, (eth.token, address(btc.feed), 7200, 1e8, 1e14)));
        _list(address(oracle), abi.encodeCall(oracle.removeFeed, (eth.token)));
        _list(address(agents), abi.encodeCall(agents.setSigningKey, (1, attacker)));
        _list(address(agents), abi.encodeCall(agents.withdrawBond, (1, 1)));
        _list(address(agents), abi.encodeCall(agents.withdrawDeposit, (1, 1)));
        _list(address(agents), abi.encodeCall(agents.seizeBond, (1, 1)));
        _list(address(agents), abi.encodeCall(agents.slashBond, (1, 1)));
        _list(address(agents), abi.encodeCall(agents.awardDeposit, (1, 1)));
        _list(address(agents), abi.encodeWithSelector(agents.transferFrom.selector, controller, attacker, 1));
        _list(address(agents), abi.encodeCall(agents.setAgentURI, (1, "")));
        _list(address(agents), abi.encodeCall(agents.setMetadata, (1, "", "")));
        _list(address(pool), abi.encodeCall(pool.registerVault, (attacker, 1, 1, 1)));
        _list(address(pool), abi.encodeCall(pool.setCap, (vault, 1)));
        _list(address(pool), abi.encodeCall(pool.releaseVault, (vault)));
        _list(address(pool), abi.encodeCall(pool.sync, (1e12, 0, true, 0, attacker)));
        _list(address(pool), abi.encodeCall(pool.setBudget, (1e30)));
        _list(address(pool), abi.encodeCall(pool.closeByVote, (vault, 0)));
        _list(address(pool), abi.encodeCall(pool.withdraw, (0)));
        _list(address(pool), abi.encodeCall(pool.applyResult, (1, 1)));
        _list(address(dao), abi.encodeCall(dao.rewardAgent, (1, type(int256).max)));
        _list(address(pool), abi.encodeCall(pool.fund, (1)));
        _list(address(strategies), abi.encodeCall(strategies.approve, (id)));
        _list(address(strategies), abi.encodeCall(strategies.applyUpdate, (id)));
        _list(address(strategies), abi.encodeCall(strategies.halt, (id)));
        _list(address(strategies), abi.encodeCall(strategies.resume, (id)));
        _list(address(strategies), abi.encodeCall(strategies.writeOff, (id, eth.token)));
        _list(address(strategies), abi.encodeCall(strategies.retire, (id)));
        _list(address(strategies), abi.encodeCall(strategies.markDeployed, (id, attacker)));
        _list(address(factory), abi.encodeCall(factory.deployVault, (id)));
        _list(address(ledger), abi.encodeCall(ledger.openBook, (attacker)));
        ITradeLedger.Trade memory t;
        _list(address(ledger), abi.encodeCall(ledger.record, (t)));
        _list(address(treasury), abi.encodeCall(treasury.allocate, (id, 0)));
        _list(address(treasury), abi.encodeCall(treasury.recall, (id, address(quote), 0, 0)));
        _list(address(treasury), abi.encodeCall(treasury.pay, (address(quote), attacker, 0)));
        _list(address(treasury), abi.encodeCall(treasury.fundRewards, (0)));
        _list(address(treasury), abi.encodeCall(treasury.fundBounties, (0)));
        _list(address(treasury), abi.encodeCall(treasury.setOutflowCap, (address(quote), 0)));
        _list(address(timelock), abi.encodeCall(timelock.schedule, (attacker, 0, "", 0, 0, 1 days)));
        _list(address(timelock), abi.encodeCall(timelock.execute, (attacker, 0, "", 0, 0)));
        _list(address(timelock), abi.encodeCall(timelock.grantRole, (0, attacker)));
        _list(address(timelock), abi.encodeCall(timelock.updateDelay, (0)));
        _list(address(dao), abi.encodeCall(dao.setVotingDelay, (1)));
        _list(address(dao), abi.encodeCall(dao.setProposalThreshold, (0)));
        _list(address(dao), abi.encodeCall(dao.relay, (attacker, 0, "")));
        _list(address(dao), abi.encodeCall(dao.updateTimelock, (timelock)));
        bytes memory payer = abi.encode(vault, quote, eth.token, uint64(POOL_FEE));
        _list(address(venue), abi.encodeCall(venue.uniswapV3SwapCallback, (1, 0, payer)));
        bytes memory transfer = abi.encodeCall(IERC20.transferFrom, (vault, attacker, 1));
        _list(address(quote), transfer);
        _list(address(vaultImplementation), abi.encodeCall(vaultImplementation.halt, ()));
    }

    function _list(address target, bytes memory data) private {
        _attacked.push(target);
        _attacks.push(data);
    }

    function _attackCount() internal view returns (uint256) {
        return _attacks.length + 9;
    }

    // ----------------------------------------------------------------------------- probes

    /// @notice Whatever the state is: the treasury can have everything back, and only what is transferable stays.
    function recallsEverythingOnTrial(uint256 seed) external as_("recallsEverythingOnTrial") {
        seed = _mixed(seed);
        _onTrial(_one(seed));
    }

    function _onTrial(Strategy memory s) internal {
        try this.trial(s) {}
        catch (bytes memory result) {
            bool recalled = result.length == 32 && abi.decode(result, (uint256)) == 1;
            _promise(recalled, "M1: the treasury can't recall everything");
        }
    }

    /// @notice Undone by its own revert; 1 says that everything arrived.
    function trial(Strategy calldata s) external {
        address[3] memory what = [address(quote), eth.token, btc.token];
        uint256 allCame = 1;
        for (uint256 i; i < 3; ++i) {
            uint256 booked = i == 0 ? s.vault.book().quoteHeld : held(s, what[i]);
            uint256 before = _balance(what[i], address(treasury));
            vm.prank(address(timelock));
            treasury.recall(s.id, what[i], type(uint128).max, 0);
            if (_balance(what[i], address(treasury)) != before + booked) allCame = 0;
        }
        if (!s.vault.isEmpty() || s.vault.book().units != 0) allCame = 0;
        assembly ("memory-safe") {
            mstore(0, allCame)
            revert(0, 32)
        }
    }

    // --------------------------------------------------------------- what collateral covers

    /// @dev rate x (A - P at the guard's end of a crash), with one rounding where the contract has several.
    function needed(Strategy memory s) internal view returns (uint256) {
        IRewardPool.Account memory a = account(s);
        Limits memory l = _effective(s);
        Rules memory r = constitution.rules();
        IStrategyVault.Book memory b = s.vault.book();
        IStrategyVault.Guard memory g = s.vault.guard();
        (bool known, uint256 value) = valueOf(s);
        uint256 atPeak = uint256(b.units) * g.peak / 1e30;
        if (known && value > atPeak) atPeak = value;
        uint256 worst = atPeak * (10_000 - l.hardDrawdownBps) / 10_000 * (10_000 - r.auctionMaxDiscountBps) / 10_000;
        worst = worst * (10_000 - r.gapAllowanceBps) / 10_000;
        uint256 present = known ? value : uint256(b.units) * g.lastUnitPrice / 1e30;
        if (present < worst) worst = present;
        int256 exposed = int256(a.credited) - int256(worst) - b.netFlow;
        return exposed > 3 ? uint256(exposed - 3) * a.rate : 0; // three base units of rounding
    }

    function _covered(Strategy memory s) internal view returns (bool) {
        IRewardPool.Account memory a = account(s);
        return uint256(a.unvested) + a.vested + agents.agentOf(s.agentId).bond >= needed(s);
    }
}
