// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {VestingWallet} from "@openzeppelin/contracts/finance/VestingWallet.sol";
import {IVotes} from "@openzeppelin/contracts/governance/utils/IVotes.sol";

/// @title TokenGrant: linear vesting whose unvested tokens never vote
contract TokenGrant is VestingWallet {
    constructor(address token, address beneficiary, uint64 start, uint64 durationS)
        VestingWallet(beneficiary, start, durationS)
    {
        IVotes(token).delegate(token);
    }
}
