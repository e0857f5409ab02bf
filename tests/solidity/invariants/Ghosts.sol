// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IGovernor} from "@openzeppelin/contracts/governance/IGovernor.sol";
import {Vm} from "forge-std/Vm.sol";
import {IAgentRegistry} from "contracts/interfaces/IAgentRegistry.sol";
import {IRewardPool} from "contracts/interfaces/IRewardPool.sol";
import {IStrategyRegistry} from "contracts/interfaces/IStrategyRegistry.sol";
import {IStrategyVault} from "contracts/interfaces/IStrategyVault.sol";
import {ITradeLedger} from "contracts/interfaces/ITradeLedger.sol";
import {ITreasury} from "contracts/interfaces/ITreasury.sol";
import {Limits, StrategyManifest} from "contracts/libraries/Types.sol";
import {FeedAggregator} from "contracts/mocks/FeedAggregator.sol";
import {StrategyVault} from "contracts/vaults/StrategyVault.sol";
import {World} from "../World.sol";

/// @title A second set of books, kept from the events and from the feeds alone
/// @notice Every act goes through `_act`. It absorbs the act's events into sums, and compares what the act did to each
/// vault with what its verb may do. What must not happen is written down by `_broken` with the promise's id from
/// `docs/invariants.md`, and stays.
abstract contract Ghosts is World {
    enum Fault {
        NONE,
        SILENT,
        ZERO,
        OFF_BOUNDS
    }

    /// @dev What events say about one vault.
    struct VaultBooks {
        int256 netFlow;
        bytes32 head;
        uint64 trades;
        uint256 paid;
        uint256 takenFromUnclaimed;
        uint256 takenFromBond;
        uint256 claimed;
        uint256 nextEpoch; // one past the last closed
        bool pending;
        int256 pendingMove;
        uint256 lastPaidAt;
    }

    /// @dev What a vault looked like after the last act.
    struct Seen {
        uint256 amountEth;
        uint256 amountBtc;
        uint256 units;
        uint64 nonce;
        uint64 haltedAt;
        uint128 peak;
        bool latched;
        bytes32 limitsHash;
    }

    struct Outflow {
        uint256 at;
        uint256 amount;
    }

    Strategy[] internal fleet;
    mapping(address vault => uint256) internal placeOf; // in `fleet`, from 1
    uint64[] internal agentIds;
    string public violation; // the first; empty while every promise holds
    bytes32 internal verb;

    mapping(address vault => VaultBooks) internal books;
    mapping(address vault => Seen) internal seen;
    mapping(address vault => mapping(uint256 epoch => bool)) internal observedIn;
    mapping(address vault => mapping(uint256 epoch => int256)) internal lowestIn;
    mapping(address vault => mapping(uint256 epoch => int256)) internal highestIn;
    mapping(address vault => mapping(uint256 day => uint256)) internal activeTradesOn;
    mapping(address vault => mapping(uint256 day => uint256)) internal activeTurnoverOn;
    mapping(address holder => mapping(address token => uint256)) internal gifts; // given, not skimmed
    mapping(uint64 agentId => uint256) internal bondOf;
    mapping(uint64 agentId => uint256) internal depositOf;
    mapping(address token => uint256) internal treasuryOf;
    mapping(address observer => uint256) internal bountyOwed;
    uint256 internal bountiesOwed;
    uint256 internal funded;
    uint256 internal seizedForPool;
    uint256 internal leftPool;
    uint256 internal budget;
    bytes32 internal ceilingsHash;
    bytes32 internal rulesHash;
    Outflow[] internal outflows; // of quote
    uint256 internal quoteCap;
    uint256 internal quoteCapRaised;
    uint256 internal quoteCapRaisedFrom;
    // How often what matters came about; `tally` prints it.
    uint256 internal bought;
    uint256 internal sold;
    uint256 internal refusals;
    uint256 internal soldReducing;
    uint256 internal fills;
    uint256 internal rewards;
    uint256 internal clawBacks;
    uint256 internal fromBonds;
    uint256 internal claimsMade;
    uint256 internal haltsSeen;
    uint256 internal retired;
    uint256 internal updated;
    uint256 internal executed;
    // Of the act that is going on.
    address internal traded;
    address internal tradedIn; // the token that was sold
    uint16 internal tradedReasons;
    bool internal refusedTrade;

    mapping(FeedAggregator => Fault) internal faultOf;
    mapping(FeedAggregator => int256) internal marketPrice;

    function _broken(string memory what) internal {
        if (bytes(violation).length == 0) violation = what;
    }

    function _promise(bool holds, string memory what) internal {
        if (!holds) _broken(what);
    }

    // -------------------------------------------------------------------- feeds

    /// @dev A feed that works publishes the market's price; one that does not is silent, or says something else.
    function refresh() internal override {
        _refresh(quoteAggregator);
        _refresh(eth.aggregator);
        _refresh(btc.aggregator);
    }

    function _refresh(FeedAggregator feed) private {
        if (marketPrice[feed] == 0) marketPrice[feed] = answerOf(feed);
        Fault fault = faultOf[feed];
        if (fault == Fault.NONE) publish(feed, marketPrice[feed]);
        else if (fault == Fault.ZERO) publish(feed, 0);
        else if (fault == Fault.OFF_BOUNDS) publish(feed, feed == quoteAggregator ? int256(0.97e8) : int256(1e14));
    }

    /// @dev USD x 1e18, or zero: told from the round itself, without the oracle.
    function _usd(FeedAggregator feed, uint256 maxAgeS, uint256 low, uint256 high) private view returns (uint256) {
        (, int256 answer,, uint256 updatedAt,) = feed.latestRoundData();
        if (answer <= 0 || block.timestamp > updatedAt + maxAgeS) return 0;
        return uint256(answer) > low && uint256(answer) < high ? uint256(answer) * 1e10 : 0;
    }

    function quoteUsd() internal view returns (uint256 price) {
        price = _usd(quoteAggregator, 25 hours, 1e7, 1e9);
        if (price < 0.98e18 || price > 1.02e18) price = 0;
    }

    /// @dev Whole quote tokens x 1e18 for a whole token, or zero.
    function priceOf(Asset memory asset) internal view returns (uint256) {
        uint256 inUsd = _usd(asset.aggregator, 2 hours, 1e8, 1e14);
        uint256 quotePrice = quoteUsd();
        return quotePrice == 0 ? 0 : inUsd * 1e18 / quotePrice;
    }

    function worth(Asset memory asset, uint256 amount) internal view returns (uint256) {
        return amount * priceOf(asset) * 1e6 / 10 ** (18 + asset.decimals);
    }

    /// @return known whether everything the vault holds has a price, and quote too
    /// @return value base units of quote
    function valueOf(Strategy memory s) internal view returns (bool known, uint256 value) {
        (uint256 inEth, uint256 inBtc) = (held(s, eth.token), held(s, btc.token));
        known = quoteUsd() > 0 && (inEth == 0 || priceOf(eth) > 0) && (inBtc == 0 || priceOf(btc) > 0);
        value = s.vault.book().quoteHeld + worth(eth, inEth) + worth(btc, inBtc);
    }

    // --------------------------------------------------------------------- acts

    /// @dev A refusal that carries a reason is passed on, so that forge counts it; one without, or a panic, is a bug.
    function _act(address who, address target, bytes memory data) internal returns (bytes memory) {
        delete traded;
        delete refusedTrade;
        vm.recordLogs();
        vm.prank(who);
        (bool ok, bytes memory result) = target.call(data);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        if (!ok) {
            if (result.length < 4 || bytes4(result) == 0x4e487b71) {
                _broken(string.concat("A3: panic in ", _word(verb)));
                return result;
            }
            assembly ("memory-safe") {
                revert(add(result, 32), mload(result))
            }
        }
        _absorb(logs);
        for (uint256 i; i < fleet.length; ++i) {
            _compare(fleet[i]);
        }
        return result;
    }

    function _asTimelock(address target, bytes memory data) internal returns (bytes memory) {
        return _act(address(timelock), target, data);
    }

    /// @dev What no verb but the right one may do to a vault.
    function _compare(Strategy memory s) internal {
        address vault = address(s.vault);
        IStrategyVault.Guard memory g = s.vault.guard();
        Seen memory before = seen[vault];
        Seen memory now_ = Seen({
            amountEth: held(s, eth.token),
            amountBtc: held(s, btc.token),
            units: s.vault.book().units,
            nonce: g.nonce,
            haltedAt: g.haltedAt,
            peak: g.peak,
            latched: g.drawdownLatched,
            limitsHash: keccak256(abi.encode(s.vault.limits()))
        });
        seen[vault] = now_;
        if (now_.haltedAt != before.haltedAt && now_.haltedAt != 0) ++haltsSeen;
        if (before.limitsHash == 0) return; // new
        bool grew = now_.amountEth > before.amountEth || now_.amountBtc > before.amountBtc;
        bool boughtActive = traded == vault && tradedIn == address(quote) && tradedReasons == 0;
        _promise(!grew || boughtActive, "T5: exposure grew without a purchase by an ACTIVE vault");
        _promise(before.haltedAt == 0 || now_.nonce == before.nonce, "T6: a halted vault traded");
        bool resumed = verb == "resumes";
        bool stillHalted = before.haltedAt == 0 || now_.haltedAt == before.haltedAt;
        _promise(resumed || stillHalted, "T6: a halt ended without a vote");
        _promise(resumed || !before.latched || now_.latched, "T7: a drawdown ended without a vote");
        bool begins = before.units == 0;
        _promise(resumed || begins || now_.peak >= before.peak, "T7: the peak fell without a vote");
        _promise(verb == "updates" || now_.limitsHash == before.limitsHash, "G1: limits changed without an update");
        _promise(now_.nonce == books[vault].trades, "L2: the nonce is not the number of trades");
    }

    // -------------------------------------------------------------------- events

    function _absorb(Vm.Log[] memory logs) internal {
        for (uint256 i; i < logs.length; ++i) {
            address from = logs[i].emitter;
            if (logs[i].topics.length == 0) continue;
            if (from == address(pool)) _absorbPool(logs[i]);
            else if (from == address(ledger)) _absorbLedger(logs[i]);
            else if (from == address(agents)) _absorbAgents(logs[i]);
            else if (from == address(treasury)) _absorbTreasury(logs[i]);
            else if (from == address(strategies)) _absorbStrategies(logs[i]);
            else if (placeOf[from] > 0) _absorbVault(from, logs[i]);
            else if (from == address(dao) && logs[i].topics[0] == IGovernor.ProposalExecuted.selector) ++executed;
        }
    }

    function _absorbStrategies(Vm.Log memory log) private {
        if (log.topics[0] == IStrategyRegistry.StrategyRetired.selector) ++retired;
        if (log.topics[0] == IStrategyRegistry.StrategyUpdated.selector) ++updated;
        if (log.topics[0] != IStrategyRegistry.StrategyDeployed.selector) return;
        (address vault, uint64 agentId) = (_address(log.topics[2]), uint64(uint256(log.topics[3])));
        fleet.push(Strategy(log.topics[1], StrategyVault(vault), agentId));
        placeOf[vault] = fleet.length;
    }

    function _absorbVault(address vault, Vm.Log memory log) private {
        bytes32 name = log.topics[0];
        if (name == IStrategyVault.Allocated.selector) {
            (uint256 amount,,) = abi.decode(log.data, (uint256, uint256, uint256));
            books[vault].netFlow -= int256(amount);
        } else if (name == IStrategyVault.Recalled.selector) {
            (uint256 amount, uint256 value,) = abi.decode(log.data, (uint256, uint256, uint256));
            books[vault].netFlow += int256(value);
            treasuryOf[_address(log.topics[1])] += amount;
        } else if (name == IStrategyVault.Skimmed.selector) {
            (address what, uint256 amount) = (_address(log.topics[1]), abi.decode(log.data, (uint256)));
            treasuryOf[what] += amount;
            _promise(gifts[vault][what] >= amount, "V2: skimmed more than was given");
            gifts[vault][what] -= amount;
        } else if (name == IStrategyVault.AuctionFilled.selector) {
            ++fills;
        } else if (name == IStrategyVault.TradeRefused.selector) {
            refusedTrade = true;
            ++refusals;
        } else if (name == IStrategyVault.WrittenOff.selector) {
            (address what, uint256 amount) = (_address(log.topics[1]), abi.decode(log.data, (uint256)));
            gifts[vault][what] += amount; // outside the books from now on
        }
    }

    function _absorbLedger(Vm.Log memory log) private {
        if (log.topics[0] == ITradeLedger.BookOpened.selector) {
            address opened = _address(log.topics[1]);
            books[opened].head = keccak256(abi.encode(block.chainid, address(ledger), opened));
            return;
        }
        if (log.topics[0] != ITradeLedger.TradeRecorded.selector) return;
        address vault = _address(log.topics[2]);
        ITradeLedger.Trade memory t = abi.decode(log.data, (ITradeLedger.Trade));
        VaultBooks storage b = books[vault];
        b.head = keccak256(abi.encode(b.head, t));
        _promise(t.sequence == b.trades, "L2: a gap in the sequence");
        b.trades += 1;
        t.tokenIn == address(quote) ? ++bought : ++sold;
        if (t.reasons != 0) ++soldReducing;
        (traded, tradedIn, tradedReasons) = (vault, t.tokenIn, t.reasons);

        IStrategyRegistry.Strategy memory s = strategies.strategyOf(t.strategyId);
        StrategyManifest memory m = strategies.manifestOf(s.version);
        bool approved = strategies.stageOf(s.version) == IStrategyRegistry.Stage.LIVE && s.vault == vault;
        _promise(approved && t.artefactHash == m.artefactHash, "L3: a trade without an approved, matching artefact");
        _promise(t.agentId == s.agentId && t.explanationHash != 0 && t.observationHash != 0, "L3: a trade unexplained");
        (, int256 answer,,,) = quoteFeed.latestRoundData();
        _promise(t.prices[0].token == address(quote) && t.prices[0].answer == answer, "L4: the quote's round");
        for (uint256 i = 1; i < t.prices.length; ++i) {
            Asset memory asset = t.prices[i].token == eth.token ? eth : btc;
            (uint80 id, int256 latest,,,) = asset.feed.latestRoundData();
            _promise(t.prices[i].roundId == id && t.prices[i].answer == latest, "L4: an asset's round");
        }
    }

    function _absorbPool(Vm.Log memory log) private {
        bytes32 name = log.topics[0];
        if (name == IRewardPool.Funded.selector || name == IRewardPool.BountyFunded.selector) {
            funded += abi.decode(log.data, (uint256));
        } else if (name == IRewardPool.Withdrawn.selector) {
            uint256 amount = abi.decode(log.data, (uint256));
            leftPool += amount;
            treasuryOf[address(token)] += amount;
        } else if (name == IRewardPool.BountyEarned.selector) {
            uint256 amount = abi.decode(log.data, (uint256));
            bountyOwed[_address(log.topics[1])] += amount;
            bountiesOwed += amount;
        } else if (name == IRewardPool.BountyClaimed.selector) {
            address who = _address(log.topics[1]);
            uint256 amount = abi.decode(log.data, (uint256));
            _promise(amount == bountyOwed[who], "R8: a bounty other than what was earned");
            bountyOwed[who] = 0;
            bountiesOwed -= amount;
            leftPool += amount;
        } else if (name == IRewardPool.BudgetSet.selector) {
            budget = abi.decode(log.data, (uint256));
        } else {
            _absorbAccount(_address(log.topics[1]), name, log);
        }
    }

    function _absorbAccount(address vault, bytes32 name, Vm.Log memory log) private {
        VaultBooks storage b = books[vault];
        if (name == IRewardPool.ProfitObserved.selector) {
            uint256 epoch = uint256(log.topics[2]);
            (int256 profit,) = abi.decode(log.data, (int256, address));
            uint256 startS = epochStartS(epoch + 1);
            bool inside = block.timestamp >= startS && block.timestamp < startS + WINDOW_S;
            _promise(inside, "R6: an observation outside its window");
            if (!observedIn[vault][epoch] || profit < lowestIn[vault][epoch]) lowestIn[vault][epoch] = profit;
            if (!observedIn[vault][epoch] || profit > highestIn[vault][epoch]) highestIn[vault][epoch] = profit;
            observedIn[vault][epoch] = true;
        } else if (name == IRewardPool.WindowClosed.selector) {
            _absorbClosing(vault, b, uint256(log.topics[2]), log.data);
        } else if (name == IRewardPool.Rewarded.selector) {
            (int256 pnl, uint256 reward, int256 credited) = abi.decode(log.data, (int256, uint256, int256));
            _promise(b.pending && pnl == b.pendingMove && pnl >= 0, "R5: a result that is not the frozen one");
            _promise(credited <= lowestIn[vault][b.nextEpoch - 1], "R2: paid beyond the lowest observed profit");
            b.pending = false;
            b.paid += reward;
            ++rewards;
            if (reward > 0) b.lastPaidAt = block.timestamp;
        } else if (name == IRewardPool.ClawedBack.selector) {
            (int256 pnl, uint256 fromUnclaimed, uint256 fromBond, int256 credited) =
                abi.decode(log.data, (int256, uint256, uint256, int256));
            _promise(b.pending && pnl == b.pendingMove && pnl < 0, "R5: a result that is not the frozen one");
            b.pending = false;
            b.takenFromUnclaimed += fromUnclaimed;
            b.takenFromBond += fromBond;
            ++clawBacks;
            if (fromBond > 0) ++fromBonds;
            seizedForPool += fromBond;
            uint256 epoch = b.nextEpoch - 1;
            bool inFull = fromUnclaimed + fromBond == uint256(-pnl) * pool.accountOf(vault).rate;
            _promise(
                !inFull || !observedIn[vault][epoch] || credited <= highestIn[vault][epoch],
                "R2: after full collection the account is above the highest observed profit"
            );
            _promise(
                !observedIn[vault][epoch] || credited >= highestIn[vault][epoch],
                "R2: taken beyond the highest observed profit"
            );
        } else if (name == IRewardPool.Claimed.selector) {
            uint256 amount = abi.decode(log.data, (uint256));
            b.claimed += amount;
            ++claimsMade;
            leftPool += amount;
            _promise(_address(log.topics[3]) == agents.ownerOf(uint256(log.topics[2])), "R9: claimed by another");
        }
    }

    function _absorbClosing(address vault, VaultBooks storage b, uint256 epoch, bytes memory data) private {
        (int256 move, bool missedBefore, bool byVote) = abi.decode(data, (int256, bool, bool));
        _promise(!b.pending, "R5: closed over a result that was not applied");
        _promise(epoch + 1 > b.nextEpoch, "R5: an epoch was closed twice");
        _promise(block.timestamp >= epochStartS(epoch + 1) + WINDOW_S, "R6: closed before its window ended");
        _promise(byVote || observedIn[vault][epoch], "R6: closed without an observation");
        _promise(move <= 0 || !(missedBefore || byVote), "R6: a missed window paid");
        IRewardPool.Account memory a = pool.accountOf(vault);
        _promise(move <= 0 || uint256(move) * a.rate <= a.cap, "R4: a result above the cap");
        (b.nextEpoch, b.pending, b.pendingMove) = (epoch + 1, move != 0, move);
    }

    function _absorbAgents(Vm.Log memory log) private {
        bytes32 name = log.topics[0];
        if (name == IAgentRegistry.Registered.selector) {
            agentIds.push(uint64(uint256(log.topics[1])));
            return;
        }
        bool bond = name == IAgentRegistry.BondPosted.selector || name == IAgentRegistry.BondWithdrawn.selector
            || name == IAgentRegistry.BondSeized.selector;
        bool deposit = name == IAgentRegistry.DepositPosted.selector || name == IAgentRegistry.DepositWithdrawn.selector
            || name == IAgentRegistry.DepositAwarded.selector;
        if (!bond && !deposit) return;
        uint64 agentId = uint64(uint256(log.topics[1]));
        address counterpart = _address(log.topics[2]);
        uint256 amount = abi.decode(log.data, (uint256));
        bool posted = name == IAgentRegistry.BondPosted.selector || name == IAgentRegistry.DepositPosted.selector;
        mapping(uint64 => uint256) storage stake = bond ? bondOf : depositOf;
        _promise(posted || stake[agentId] >= amount, "S1: more stake left than there was");
        stake[agentId] = posted ? stake[agentId] + amount : stake[agentId] - amount;
        if (!posted && counterpart == address(treasury)) treasuryOf[bond ? address(token) : address(quote)] += amount;
    }

    function _absorbTreasury(Vm.Log memory log) private {
        bytes32 name = log.topics[0];
        address what = address(quote);
        if (name == ITreasury.Paid.selector) what = _address(log.topics[1]);
        else if (name == ITreasury.OutflowCapSet.selector) return _absorbCap(log);
        else if (name != ITreasury.CapitalAllocated.selector) return;
        uint256 amount = abi.decode(log.data, (uint256));
        treasuryOf[what] -= amount;
        if (what != address(quote)) return;
        outflows.push(Outflow(block.timestamp, amount));
        uint256 sum;
        for (uint256 i = outflows.length; i > 0 && outflows[i - 1].at + 30 days > block.timestamp; --i) {
            sum += outflows[i - 1].amount;
        }
        _promise(amount == 0 || sum <= _quoteCapNow(), "M2: more left the treasury in 30 days than its cap");
    }

    /// @dev A raised cap counts from later on, and a lowered one takes back a raise that waits.
    function _absorbCap(Vm.Log memory log) private {
        if (_address(log.topics[1]) != address(quote)) return;
        _quoteCapNow();
        (uint256 cap, uint64 from) = abi.decode(log.data, (uint256, uint64));
        _promise(cap <= quoteCap || from >= block.timestamp + 30 days, "M2: a cap was raised at once");
        if (from <= block.timestamp) (quoteCap, quoteCapRaised, quoteCapRaisedFrom) = (cap, 0, 0);
        else (quoteCapRaised, quoteCapRaisedFrom) = (cap, from);
    }

    function _quoteCapNow() private returns (uint256) {
        if (quoteCapRaisedFrom != 0 && block.timestamp >= quoteCapRaisedFrom) {
            (quoteCap, quoteCapRaisedFrom) = (quoteCapRaised, 0);
        }
        return quoteCap;
    }

    /// @notice Counts of this run, `name=number` each, for `tools/fuzz.py`.
    function tally() external view returns (string memory line) {
        string[13] memory names = [
            "bought", "sold", "sold-while-reducing", "trades-refused", "auction-fills", "rewards", "claw-backs",
            "from-bonds", "claims", "halts", "retirements", "updates", "proposals-executed"
        ];
        uint256[13] memory numbers = [
            bought, sold, soldReducing, refusals, fills, rewards, clawBacks,
            fromBonds, claimsMade, haltsSeen, retired, updated, executed
        ];
        for (uint256 i; i < 13; ++i) {
            line = string.concat(line, names[i], "=", vm.toString(numbers[i]), " ");
        }
    }

    function _address(bytes32 topic) internal pure returns (address) {
        return address(uint160(uint256(topic)));
    }

    function _give(address holder, address what, uint256 amount) internal {
        what == address(quote) ? quote.mint(holder, amount) : giveBase(what, holder, amount);
        gifts[holder][what] += amount;
        if (holder == address(treasury)) treasuryOf[what] += amount;
    }

    function _word(bytes32 word) private pure returns (string memory) {
        uint256 length;
        while (length < 32 && word[length] != 0) ++length;
        bytes memory out = new bytes(length);
        for (uint256 i; i < length; ++i) {
            out[i] = word[i];
        }
        return string(out);
    }

    function _hash(Limits memory l) internal pure returns (bytes32) {
        return keccak256(abi.encode(l));
    }

    function _balance(address what, address holder) internal view returns (uint256) {
        return IERC20(what).balanceOf(holder);
    }
}
