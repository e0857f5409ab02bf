// SPDX-License-Identifier: MIT
pragma solidity ^0.8.27;

import {Errors} from "@openzeppelin/contracts/utils/Errors.sol";
import {Test} from "forge-std/Test.sol";
import {Deployer} from "contracts/governance/Deployer.sol";
import {TradeLedger} from "contracts/ledger/TradeLedger.sol";

/// @notice An address depends on who deploys and on a salt, and on nothing else.
contract DeployerTest is Test {
    address private immutable somebody = makeAddr("somebody");
    address private immutable somebodyElse = makeAddr("somebody else");
    bytes32 private constant SALT = "ledger";
    Deployer private deployer;

    function setUp() public {
        deployer = new Deployer();
    }

    function test_a_contract_is_where_it_was_foretold_whatever_its_code() public {
        address foretold = deployer.addressOf(somebody, SALT);
        assertFalse(deployer.isDeployed(foretold));
        vm.expectEmit(address(deployer));
        emit Deployer.Deployed(somebody, SALT, foretold);
        vm.prank(somebody);
        address at = deployer.deploy(SALT, _ledger(somebodyElse));
        assertEq(at, foretold);
        assertTrue(deployer.isDeployed(at));
        assertEq(TradeLedger(at).factory(), somebodyElse, "with the code and the arguments that were sent");
    }

    function test_one_deployers_salt_is_out_of_reach_for_any_other() public {
        assertNotEq(deployer.addressOf(somebody, SALT), deployer.addressOf(somebodyElse, SALT));
        vm.prank(somebodyElse);
        assertEq(deployer.deploy(SALT, _ledger(somebody)), deployer.addressOf(somebodyElse, SALT));
        assertEq(deployer.addressOf(somebody, SALT).code.length, 0);
    }

    function test_a_salt_is_used_once_even_when_its_contract_is_gone() public {
        address at = deployer.deploy(SALT, _ledger(somebody));
        vm.expectRevert(Errors.FailedDeployment.selector);
        deployer.deploy(SALT, _ledger(somebodyElse));
        vm.etch(at, "");
        vm.expectRevert(Errors.FailedDeployment.selector);
        deployer.deploy(SALT, _ledger(somebodyElse));
    }

    function _ledger(address factory) private view returns (bytes memory) {
        return abi.encodePacked(vm.getCode("TradeLedger.sol:TradeLedger"), abi.encode(factory));
    }
}
