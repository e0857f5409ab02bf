// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title A token that misbehaves as told; without being told, an ordinary one
/// @notice Switches can be combined. Minting and burning are never touched by them.
contract FaultyToken is ERC20 {
    uint8 private immutable _decimals;

    /// transfers revert
    bool public isDead;
    /// `balanceOf` reverts
    bool public isBalanceHidden;
    /// transfers answer `false` and move nothing
    bool public isRefusing;
    /// share of every transfer that is burned on the way, in basis points
    uint16 public feeBps;
    /// called with `hookData` in the middle of every transfer when not zero
    address public hookTarget;
    bytes public hookData;
    /// whether the last hook call succeeded, and what it answered
    bool public hookSucceeded;
    bytes public hookAnswer;

    error FaultyTokenDead();
    error FaultyTokenBalanceHidden(address owner);

    constructor(string memory name_, string memory symbol_, uint8 decimals_) ERC20(name_, symbol_) {
        _decimals = decimals_;
    }

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function burn(address from, uint256 amount) external {
        _burn(from, amount);
    }

    function setDead(bool isDead_) external {
        isDead = isDead_;
    }

    function setBalanceHidden(bool isBalanceHidden_) external {
        isBalanceHidden = isBalanceHidden_;
    }

    function setRefusing(bool isRefusing_) external {
        isRefusing = isRefusing_;
    }

    function setFeeBps(uint16 feeBps_) external {
        feeBps = feeBps_;
    }

    /// @notice Call `target` in the middle of every transfer from now on; the zero address ends that.
    function setHook(address target, bytes calldata data) external {
        hookTarget = target;
        hookData = data;
    }

    function decimals() public view override returns (uint8) {
        return _decimals;
    }

    function balanceOf(address owner) public view override returns (uint256) {
        if (isBalanceHidden) revert FaultyTokenBalanceHidden(owner);
        return super.balanceOf(owner);
    }

    function transfer(address to, uint256 amount) public override returns (bool) {
        return !isRefusing && super.transfer(to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) public override returns (bool) {
        return !isRefusing && super.transferFrom(from, to, amount);
    }

    function _update(address from, address to, uint256 amount) internal override {
        if (from == address(0) || to == address(0)) return super._update(from, to, amount);
        if (isDead) revert FaultyTokenDead();
        uint256 fee = amount * feeBps / 10_000;
        if (fee > 0) super._update(from, address(0), fee);
        super._update(from, to, amount - fee);
        // Once only while inside it: a hook that transfers must not call itself for ever.
        address target = hookTarget;
        if (target != address(0)) {
            hookTarget = address(0);
            (hookSucceeded, hookAnswer) = target.call(hookData);
            hookTarget = target;
        }
    }
}
