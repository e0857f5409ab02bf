// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @dev Halmos' own cheat codes: a value that stands for every value of its type.
interface SVM {
    function enableSymbolicStorage(address target) external;
    function createUint(uint256 bits, string memory name) external returns (uint256);
    function createAddress(string memory name) external returns (address);
    function createCalldata(string memory contractName) external returns (bytes memory);
}

interface VM {
    function assume(bool condition) external;
    function prank(address sender) external;
    function warp(uint256 timestamp) external;
    function load(address target, bytes32 slot) external view returns (bytes32);
    function store(address target, bytes32 slot, bytes32 value) external;
}

/// @title What every symbolic proof uses
abstract contract Symbolic {
    SVM internal constant svm = SVM(0xF3993A62377BCd56AE39D773740A5390411E8BC9);
    VM internal constant vm = VM(0x7109709ECfa91a80626fF3989D68f67F5b1DD12D);

    /// @dev The address that this contract's `ahead`-th next creation will have.
    function _next(address last, uint160 ahead) internal pure returns (address) {
        return address(uint160(last) + ahead);
    }
}

/// @title The protocol's token without its votes: nothing in the proofs asks for them
contract PlainToken is ERC20("Token", "T") {
    function delegate(address) external {}
}

/// @title Any vault at all: its storage is symbolic, so it answers whatever can be answered
contract AnyVault {
    int256 public worstProfit;
    int256 private exposed;
    bool private priced;

    function exposure() external view returns (bool, int256) {
        return (priced, exposed);
    }
}
