// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {Multicall3} from "@chainlink/contracts/src/v0.8/vendor/multicall/ebd8b64/src/Multicall3.sol";

/// @title Multicall3, which public chains have at a fixed address, for chains that have just begun
contract LocalMulticall is Multicall3 {}
