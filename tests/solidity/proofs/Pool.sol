// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {AgentRegistry} from "../../../contracts/agents/AgentRegistry.sol";
import {Constitution} from "../../../contracts/constitution/Constitution.sol";
import {IRewardPool} from "../../../contracts/interfaces/IRewardPool.sol";
import {RewardPool} from "../../../contracts/rewards/RewardPool.sol";
import {Limits, Protocol, Rules} from "../../../contracts/libraries/Types.sol";
import {AnyVault, PlainToken, Symbolic} from "./Symbolic.sol";

/// @title The real pool, agent registry and constitution, in any state, at any time
abstract contract PoolWorld is Symbolic {
    address internal constant TIMELOCK = address(0x71);
    address internal constant TREASURY = address(0x72);
    address internal constant FACTORY = address(0x73);
    address internal constant STRATEGIES = address(0x74);

    PlainToken internal token;
    AgentRegistry internal agents;
    Constitution internal constitution;
    RewardPool internal pool;
    AnyVault internal vault;

    /// @dev Read from the storage words, because a call for each getter makes every path ten times as long. That the words
    /// are where they are taken from is a proof of its own: `check_the_words_read_are_the_getters`.
    struct Books {
        uint256 free;
        uint256 bountyFund;
        uint256 bounty; // owed to `observer`
        uint256[5] account; // the words of the vault's account
        uint256 owed; // earmark + unvested + vested of the vault
        uint256 total;
        uint256 balance;
        uint256[5] other; // the words of another vault's account
        uint256 otherBounty;
    }

    address internal observer;
    address internal other;
    address internal otherObserver;

    function setUp() public {
        token = new PlainToken();
        Protocol memory p;
        (p.token, p.quote, p.timelock, p.treasury) = (address(token), address(token), TIMELOCK, TREASURY);
        (p.factory, p.strategies) = (FACTORY, STRATEGIES);
        Limits memory limits;
        (limits.hardDrawdownBps, limits.maxDrawdownBps) = (2, 1);
        Rules memory rules;
        (rules.slippageDecayS, rules.auctionDurationS, rules.auctionLotBps) = (1, 1, 1);
        constitution = new Constitution(TIMELOCK, limits, rules, address(0), 0);
        p.constitution = address(constitution);
        (p.agents, p.pool) = (_next(p.constitution, 1), _next(p.constitution, 2));
        agents = new AgentRegistry(p);
        pool = new RewardPool(p, _schedule());
        assert(address(agents) == p.agents && address(pool) == p.pool);
        vault = new AnyVault();
        svm.enableSymbolicStorage(address(token));
        svm.enableSymbolicStorage(address(constitution));
        svm.enableSymbolicStorage(address(agents));
        svm.enableSymbolicStorage(address(pool));
        svm.enableSymbolicStorage(address(vault));
        (observer, other) = (svm.createAddress("observer"), svm.createAddress("other"));
        otherObserver = svm.createAddress("otherObserver");
        vm.assume(other != address(vault) && otherObserver != observer);
        vm.assume(observer != address(pool)); // the pool calls neither itself nor a vault's `poke`
        vm.warp(svm.createUint(40, "time")); // to the year 36,000
    }

    /// @dev Powers of two, which cost a solver a shift and no multiplication: epochs of 12 days, windows of 36 hours.
    function _schedule() internal pure returns (RewardPool.Schedule memory s) {
        (s.genesis, s.epochLengthS, s.windowLengthS) = (2 ** 30, 2 ** 20, 2 ** 17);
        (s.vestingS, s.maxUnsettled, s.bounty) = (2 ** 21, 3, 2 ** 60);
    }

    function _word(address target, uint256 slot) internal view returns (uint256) {
        return uint256(vm.load(target, bytes32(slot)));
    }

    function _slotOf(address key, uint256 mappingSlot) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode(key, mappingSlot)));
    }

    function _accountWords(address of_) internal view returns (uint256[5] memory words) {
        uint256 slot = _slotOf(of_, 6);
        unchecked {
            for (uint256 i; i < 5; ++i) {
                words[i] = _word(address(pool), slot + i);
            }
        }
    }

    function _books() internal view returns (Books memory b) {
        (b.free, b.bountyFund) = (_word(address(pool), 2), _word(address(pool), 3));
        b.bounty = _word(address(pool), _slotOf(observer, 4));
        b.account = _accountWords(address(vault));
        unchecked {
            b.owed = (b.account[1] >> 128) + uint128(b.account[2]) + (b.account[2] >> 128);
            b.total = b.free + b.bountyFund + b.bounty + b.owed;
        }
        b.balance = _word(address(token), _slotOf(address(pool), 0));
        b.other = _accountWords(other);
        b.otherBounty = _word(address(pool), _slotOf(otherObserver, 4));
    }

    /// Nobody holds 2^96 wei of the token, nor has a vault gained or lost 2^96 base units of quote: 79 billion tokens, and
    /// more than all the money there is. For the solver: fewer bits, fewer cases.
    function _assumeAmountsFit(Books memory a) internal {
        uint64 agentId = uint64(a.account[3] >> 128);
        uint256 stakes = _word(address(agents), uint256(keccak256(abi.encode(agentId, uint256(8)))) + 1);
        uint256 amounts = a.free | a.account[1] >> 128 | uint128(a.account[1]) | a.account[2] >> 128;
        amounts |= uint128(a.account[2]) | uint128(stakes);
        int256 credited = int256(a.account[0]) >> 128;
        int256 pending = int128(int256(a.account[4]));
        amounts |= uint256(credited ^ credited >> 255) | uint256(pending ^ pending >> 255);
        vm.assume(amounts >> 96 == 0);
    }

    /// The agent of the vault's account, whose vault this is: of every such state, not of a state in which the two differ.
    /// @dev Written down instead of assumed, so that the account has one address for the solver and not two that are equal.
    function _agentOfVault(Books memory a) internal returns (uint64 agentId) {
        agentId = uint64(a.account[3] >> 128);
        bytes32 slot = keccak256(abi.encode(agentId, uint256(5)));
        vm.store(address(pool), slot, bytes32(uint256(uint160(address(vault)))));
        assert(pool.vaultOf(agentId) == address(vault));
    }

    function _owedToAgent(Books memory b) internal pure returns (uint256) {
        unchecked {
            return uint128(b.account[2]) + (b.account[2] >> 128);
        }
    }

    /// What the pool owes and has set aside changes by exactly what its token balance changes by, and nobody else's share.
    /// @dev One assertion, without short circuits: each further branch would be a further path.
    function _assertConserved(Books memory a, Books memory b) internal pure {
        unchecked {
            uint256 difference = (b.total - a.total) ^ (b.balance - a.balance);
            difference |= a.otherBounty ^ b.otherBounty;
            for (uint256 i; i < 5; ++i) {
                difference |= a.other[i] ^ b.other[i];
            }
            assert(difference == 0);
        }
    }
}

/// @title The storage words that the proofs read
contract PoolWords is PoolWorld {
    function check_the_words_read_are_the_getters() external view {
        Books memory b = _books();
        IRewardPool.Account memory account = pool.accountOf(address(vault));
        uint256 difference = (b.free ^ pool.free()) | (b.bountyFund ^ pool.bountyFund());
        difference |= (b.bounty ^ pool.bountyOf(observer)) | (b.balance ^ token.balanceOf(address(pool)));
        difference |= b.account[0] ^ (account.rate | uint256(uint128(account.credited)) << 128);
        difference |= b.account[1] ^ (account.cap | uint256(account.earmark) << 128);
        difference |= b.account[2] ^ (account.unvested | uint256(account.vested) << 128);
        difference |= uint128(b.account[4]) ^ uint128(account.pendingMove);
        uint256 last = account.vestUpdatedAt | uint256(account.vestEndsAt) << 64 | uint256(account.agentId) << 128;
        last |= uint256(account.nextEpoch) << 192;
        difference |= uint224(b.account[3] ^ last);
        assert(difference == 0);
    }
}

/// @title Conservation: one check for each function that changes the pool
contract PoolConservation is PoolWorld {
    function check_registerVault_conserves(address caller, uint64 agentId, uint128 rate, uint128 cap) external {
        Books memory a = _books();
        vm.prank(caller);
        pool.registerVault(address(vault), agentId, rate, cap);
        _assertConserved(a, _books());
    }

    function check_setCap_conserves(address caller, uint128 cap) external {
        Books memory a = _books();
        vm.prank(caller);
        pool.setCap(address(vault), cap);
        _assertConserved(a, _books());
    }

    function check_releaseVault_conserves(address caller) external {
        Books memory a = _books();
        vm.prank(caller);
        pool.releaseVault(address(vault));
        _assertConserved(a, _books());
    }

    function check_sync_conserves(int256 profit, int256 worst, bool priced, uint256 bond) external {
        Books memory a = _books();
        vm.prank(address(vault));
        pool.sync(profit, worst, priced, bond, observer);
        _assertConserved(a, _books());
    }

    function check_closeWindow_conserves() external {
        Books memory a = _books();
        vm.prank(observer);
        pool.closeWindow(address(vault));
        _assertConserved(a, _books());
    }

    function check_applyResult_conserves(address caller, int256 pnl) external {
        Books memory a = _books();
        _assumeAmountsFit(a);
        vm.prank(caller);
        pool.applyResult(_agentOfVault(a), pnl);
        _assertConserved(a, _books());
    }

    /// Where the agent's token is not owned by the pool itself: such a claim would leave its tokens here, owed to nobody.
    function check_claim_conserves(address caller) external {
        Books memory a = _books();
        _assumeAmountsFit(a);
        vm.assume(agents.controllerOf(uint64(a.account[3] >> 128)) != address(pool));
        vm.prank(caller);
        pool.claim(address(vault));
        _assertConserved(a, _books());
    }

    function check_claimBounty_conserves() external {
        Books memory a = _books();
        vm.prank(observer);
        pool.claimBounty();
        _assertConserved(a, _books());
    }

    function check_fund_conserves(address caller, uint256 amount) external {
        vm.assume(caller != address(pool));
        Books memory a = _books();
        vm.prank(caller);
        pool.fund(amount);
        _assertConserved(a, _books());
    }

    function check_fundBounties_conserves(address caller, uint256 amount) external {
        vm.assume(caller != address(pool));
        Books memory a = _books();
        vm.prank(caller);
        pool.fundBounties(amount);
        _assertConserved(a, _books());
    }

    function check_setBudget_conserves(address caller, uint256 budget) external {
        Books memory a = _books();
        vm.prank(caller);
        pool.setBudget(budget);
        _assertConserved(a, _books());
    }

    function check_closeByVote_conserves(address caller, int256 move) external {
        Books memory a = _books();
        vm.prank(caller);
        pool.closeByVote(address(vault), move);
        _assertConserved(a, _books());
    }

    function check_withdraw_conserves(address caller, uint256 amount) external {
        Books memory a = _books();
        vm.prank(caller);
        pool.withdraw(amount);
        _assertConserved(a, _books());
    }
}

/// @title No double claim, and the signed account
contract PoolClaims is PoolWorld {
    /// The same vested tokens are never paid twice: a second claim, while the vault's standing is as it was, pays nothing.
    function check_a_second_claim_pays_nothing(address caller, address again) external {
        _assumeAmountsFit(_books());
        vm.prank(caller);
        pool.claim(address(vault));
        vm.prank(again);
        (bool ok,) = address(pool).call(abi.encodeCall(pool.claim, (address(vault))));
        assert(!ok);
    }

    /// A bounty is paid once.
    function check_a_second_claim_of_a_bounty_pays_nothing() external {
        vm.prank(observer);
        pool.claimBounty();
        vm.prank(observer);
        assert(pool.claimBounty() == 0);
    }

    /// A result that was applied can't be applied again.
    function check_a_result_is_applied_once(uint64 agentId, int256 pnl, int256 again) external {
        vm.assume(pool.vaultOf(agentId) == address(vault));
        pool.applyResult(agentId, pnl);
        (bool ok,) = address(pool).call(abi.encodeCall(pool.applyResult, (agentId, again)));
        assert(!ok);
    }

    /// One step of the telescoping sum, from any account: a gain pays exactly rate x the account's move out of the
    /// earmark, whatever `free` adds to it again, and takes nothing.
    function check_a_gain_pays_exactly_rate_times_the_move(int256 pnl) external {
        vm.assume(pnl > 0);
        Books memory a = _books();
        _assumeAmountsFit(a);
        uint64 agentId = _agentOfVault(a);
        pool.applyResult(agentId, pnl);
        Books memory b = _books();
        unchecked {
            int256 move = int256(int128(int256(b.account[0] >> 128))) - int256(int128(int256(a.account[0] >> 128)));
            uint256 paid = _owedToAgent(b) - _owedToAgent(a);
            uint256 rate = uint128(a.account[0]);
            assert(move == pnl);
            assert(paid == rate * uint256(uint128(a.account[4]))); // the pending move: the very word that the pool reads
        }
    }

    /// The move that a window freezes lies between the account and the window: never above the lowest profit observed,
    /// never below the highest.
    function check_a_window_moves_the_account_into_its_range() external {
        _assumeAmountsFit(_books());
        int256 account = int256(_word(address(pool), _slotOf(address(vault), 6))) >> 128;
        int256 lowest = int256(_word(address(pool), _slotOf(address(vault), 7))) >> 128;
        int256 highest = int128(int256(_word(address(pool), _slotOf(address(vault), 7) + 1)));
        vm.assume(lowest <= highest && lowest >> 96 == lowest >> 255 && highest >> 96 == highest >> 255);
        int256 move = pool.closeWindow(address(vault));
        unchecked {
            account += move;
        }
        bool up = move > 0 && account <= lowest;
        bool down = move < 0 && account == highest;
        assert(up || down || (move == 0 && account <= highest));
    }
}
