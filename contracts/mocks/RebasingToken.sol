// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

/// @title A token whose owner can scale every balance at once
/// @notice Balances are shares times `scaleWad`, rounded down.
contract RebasingToken {
    string public constant name = "Rebasing Token";
    string public constant symbol = "REB";
    uint8 public immutable decimals;
    address public immutable owner;

    uint256 public scaleWad = 1e18;
    uint256 public totalShares;
    mapping(address account => uint256) public sharesOf;
    mapping(address owner => mapping(address spender => uint256)) public allowance;

    event Transfer(address indexed from, address indexed to, uint256 value);
    event Approval(address indexed owner, address indexed spender, uint256 value);
    event Rebased(uint256 scaleWad);

    error RebasingTokenUnauthorized(address caller);

    constructor(uint8 decimals_) {
        decimals = decimals_;
        owner = msg.sender;
    }

    /// @notice Every balance becomes its shares times this (1e18 is one).
    function rebase(uint256 scaleWad_) external {
        if (msg.sender != owner) revert RebasingTokenUnauthorized(msg.sender);
        scaleWad = scaleWad_;
        emit Rebased(scaleWad_);
    }

    function mint(address to, uint256 amount) external {
        uint256 shares = _toShares(amount);
        totalShares += shares;
        sharesOf[to] += shares;
        emit Transfer(address(0), to, amount);
    }

    function approve(address spender, uint256 amount) external returns (bool) {
        allowance[msg.sender][spender] = amount;
        emit Approval(msg.sender, spender, amount);
        return true;
    }

    function transfer(address to, uint256 amount) external returns (bool) {
        return _move(msg.sender, to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) external returns (bool) {
        allowance[from][msg.sender] -= amount;
        return _move(from, to, amount);
    }

    function balanceOf(address account) external view returns (uint256) {
        return sharesOf[account] * scaleWad / 1e18;
    }

    function totalSupply() external view returns (uint256) {
        return totalShares * scaleWad / 1e18;
    }

    function _move(address from, address to, uint256 amount) private returns (bool) {
        uint256 shares = _toShares(amount);
        sharesOf[from] -= shares;
        sharesOf[to] += shares;
        emit Transfer(from, to, amount);
        return true;
    }

    function _toShares(uint256 amount) private view returns (uint256) {
        return amount * 1e18 / scaleWad;
    }
}
