// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";

/// @title MarketFlowToken: fixed supply, votes by timestamp, no mint function
/// @notice Whoever delegates to the token itself can never delegate elsewhere: this is the sink in which the treasury,
/// the pool, bonds and unvested grants keep their votes, and which the quorum leaves out. The token has no way to vote.
contract MarketFlowToken is ERC20, ERC20Permit, ERC20Votes {
    error MarketFlowTokenDelegatedForGood(address account);

    /// @param holder receives the whole supply and distributes it as the genesis configuration says
    constructor(string memory name_, string memory symbol_, address holder, uint256 supply)
        ERC20(name_, symbol_)
        ERC20Permit(name_)
    {
        _mint(holder, supply);
    }

    function clock() public view override returns (uint48) {
        return uint48(block.timestamp);
    }

    // solhint-disable-next-line func-name-mixedcase
    // slither-disable-next-line naming-convention -- ERC-6372 names it
    function CLOCK_MODE() public pure override returns (string memory) {
        return "mode=timestamp";
    }

    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }

    function _delegate(address account, address delegatee) internal override {
        if (delegates(account) == address(this)) revert MarketFlowTokenDelegatedForGood(account);
        super._delegate(account, delegatee);
    }

    function _update(address from, address to, uint256 value) internal override(ERC20, ERC20Votes) {
        super._update(from, to, value);
    }
}
