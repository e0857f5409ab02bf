// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

/// @title Why a vault is not ACTIVE, as bits of one word
library Reasons {
    uint16 internal constant DAY_LOSS = 1;
    uint16 internal constant DRAWDOWN = 2;
    uint16 internal constant COLLATERAL = 4;
    uint16 internal constant DEPOSIT = 8;
    uint16 internal constant PRICE_MISSING = 16;
    uint16 internal constant UNSETTLED = 32;
    uint16 internal constant GUARDIAN = 64;
    uint16 internal constant HALTED = 128;
    uint16 internal constant QUOTE_UNHEALTHY = 256;
}
