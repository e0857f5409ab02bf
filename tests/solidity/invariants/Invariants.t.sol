// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {Test} from "forge-std/Test.sol";
import {Actors} from "./Actors.sol";
import {Promises} from "./Promises.sol";

/// @title Stateful fuzzing: random acts of everybody, and after each of them every promise
/// @notice Four casts of actors, so that long stories of each kind come about. `tools/fuzz.py` runs them and counts.
abstract contract Campaign is Test {
    Promises internal world;

    function setUp() public {
        world = Promises(deployCode("Promises.sol:Promises"));
        world.begin();
        targetContract(address(world));
        targetSelector(FuzzSelector({addr: address(world), selectors: cast_()}));
        targetSender(address(0xFACADE));
    }

    function cast_() internal view virtual returns (bytes4[] memory);

    function invariant_every_promise_holds() public {
        world.check();
    }

    function afterInvariant() public {
        string memory tally = world.tally(); // of the story, without its end
        world.windUp();
        vm.writeLine("build/fuzz/tally.csv", tally);
    }
}

/// @notice Prices, pools and trades; limits, drawdowns, halts and auctions.
contract TradingInvariants is Campaign {
    function cast_() internal pure override returns (bytes4[] memory s) {
        s = new bytes4[](15);
        s[0] = Actors.timePasses.selector;
        s[1] = Actors.priceMoves.selector;
        s[2] = Actors.poolMoves.selector;
        s[3] = Actors.buys.selector;
        s[4] = Actors.sells.selector;
        s[5] = Actors.pokes.selector;
        s[6] = Actors.bids.selector;
        s[7] = Actors.resumes.selector;
        s[8] = Actors.allocates.selector;
        s[9] = Actors.recalls.selector;
        s[10] = Actors.feedBreaks.selector;
        s[11] = Actors.seasonPasses.selector;
        s[12] = Actors.updates.selector;
        s[13] = Actors.recallsEverythingOnTrial.selector;
        s[14] = Actors.bleeds.selector;
    }
}

/// @notice Windows, results, vesting, claims and claw-backs.
contract RewardInvariants is Campaign {
    function cast_() internal pure override returns (bytes4[] memory s) {
        s = new bytes4[](17);
        s[0] = Actors.seasonPasses.selector;
        s[1] = Actors.settlesAll.selector;
        s[2] = Actors.priceMoves.selector;
        s[3] = Actors.buys.selector;
        s[4] = Actors.sells.selector;
        s[5] = Actors.timePasses.selector;
        s[6] = Actors.toWindow.selector;
        s[7] = Actors.pokes.selector;
        s[8] = Actors.closes.selector;
        s[9] = Actors.applies.selector;
        s[10] = Actors.claims.selector;
        s[11] = Actors.claimsBounty.selector;
        s[12] = Actors.withdrawsBond.selector;
        s[13] = Actors.recalls.selector;
        s[14] = Actors.budgets.selector;
        s[15] = Actors.donates.selector;
        s[16] = Actors.postsBond.selector;
    }
}

/// @notice Strategies come, change and go; stakes and keys change hands; proposals and votes.
contract GovernanceInvariants is Campaign {
    function cast_() internal pure override returns (bytes4[] memory s) {
        s = new bytes4[](19);
        s[0] = Actors.proposes.selector;
        s[1] = Actors.votes.selector;
        s[2] = Actors.movesProposal.selector;
        s[3] = Actors.cancels.selector;
        s[4] = Actors.decides.selector;
        s[5] = Actors.deploys.selector;
        s[6] = Actors.updates.selector;
        s[7] = Actors.retires.selector;
        s[8] = Actors.finishesRetirement.selector;
        s[9] = Actors.registers.selector;
        s[10] = Actors.amendsConstitution.selector;
        s[11] = Actors.guards.selector;
        s[12] = Actors.spends.selector;
        s[13] = Actors.seasonPasses.selector;
        s[14] = Actors.buys.selector;
        s[15] = Actors.transfersAgent.selector;
        s[16] = Actors.rotatesKey.selector;
        s[17] = Actors.punishes.selector;
        s[18] = Actors.attacks.selector;
    }
}

/// @notice Everybody at once.
contract OpenInvariants is Campaign {
    function cast_() internal pure override returns (bytes4[] memory s) {
        s = new bytes4[](48);
        s[0] = Actors.timePasses.selector;
        s[1] = Actors.feedsFallSilent.selector;
        s[2] = Actors.priceMoves.selector;
        s[3] = Actors.poolMoves.selector;
        s[4] = Actors.feedBreaks.selector;
        s[5] = Actors.feedsHeal.selector;
        s[6] = Actors.buys.selector;
        s[7] = Actors.sells.selector;
        s[8] = Actors.pokes.selector;
        s[9] = Actors.toWindow.selector;
        s[10] = Actors.closes.selector;
        s[11] = Actors.applies.selector;
        s[12] = Actors.settlesAll.selector;
        s[13] = Actors.seasonPasses.selector;
        s[14] = Actors.claims.selector;
        s[15] = Actors.claimsBounty.selector;
        s[16] = Actors.postsBond.selector;
        s[17] = Actors.withdrawsBond.selector;
        s[18] = Actors.postsDeposit.selector;
        s[19] = Actors.withdrawsDeposit.selector;
        s[20] = Actors.transfersAgent.selector;
        s[21] = Actors.rotatesKey.selector;
        s[22] = Actors.registers.selector;
        s[23] = Actors.deploys.selector;
        s[24] = Actors.updates.selector;
        s[25] = Actors.allocates.selector;
        s[26] = Actors.recalls.selector;
        s[27] = Actors.halts.selector;
        s[28] = Actors.resumes.selector;
        s[29] = Actors.writesOff.selector;
        s[30] = Actors.retires.selector;
        s[31] = Actors.finishesRetirement.selector;
        s[32] = Actors.amendsConstitution.selector;
        s[33] = Actors.budgets.selector;
        s[34] = Actors.spends.selector;
        s[35] = Actors.punishes.selector;
        s[36] = Actors.proposes.selector;
        s[37] = Actors.votes.selector;
        s[38] = Actors.movesProposal.selector;
        s[39] = Actors.cancels.selector;
        s[40] = Actors.decides.selector;
        s[41] = Actors.guards.selector;
        s[42] = Actors.bids.selector;
        s[43] = Actors.donates.selector;
        s[44] = Actors.skims.selector;
        s[45] = Actors.attacks.selector;
        s[46] = Actors.recallsEverythingOnTrial.selector;
        s[47] = Actors.bleeds.selector;
    }
}
