// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {Proxy} from "@openzeppelin/contracts/proxy/Proxy.sol";

/// @title Code that never changes and does what its owner's choice of today does
contract AttackProxy is Proxy {
    address public immutable owner;
    address public target;

    constructor(address owner_, address target_) {
        (owner, target) = (owner_, target_);
    }

    function pointTo(address target_) external {
        require(msg.sender == owner);
        target = target_;
    }

    function _implementation() internal view override returns (address) {
        return target;
    }
}
