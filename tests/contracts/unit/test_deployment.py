"""Addresses are known beforehand, the genesis supply is handed out to the wei, and the deployer keeps nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from web3.contract import Contract

from agents.contracts import load_artifact
from agents.deployment import CONTRACTS, ZERO_ADDRESS, Deployment, DeploymentFailed, Grant, deploy_protocol
from tests.contracts.world import DAY_S, World, one, tokens

SALT = b"\x05" * 32
YEAR_S = 365 * DAY_S
# A contract whose code is one STOP.
STOP = bytes.fromhex("6001600c60003960016000f300")


@pytest.fixture
def deployer(world: World) -> Contract:
    return world.evm.deploy("Deployer", sender=world.stranger)


def predicted(world: World, deployer: Contract, who: str, salt: bytes = SALT) -> str:
    return str(world.view(deployer.functions.addressOf(who, salt)))


def token_code(world: World, holder: str) -> bytes:
    artifact = load_artifact("MarketFlowToken")
    factory = world.w3.eth.contract(abi=artifact.abi, bytecode=artifact.bytecode)
    return bytes.fromhex(factory.constructor("T", "T", holder, 5).data_in_transaction.removeprefix("0x"))


# Deployer


def test_one_salt_serves_once(world: World, deployer: Contract):
    world.send(deployer.functions.deploy(SALT, STOP), world.deployer)
    with world.reverts("FailedDeployment"):
        world.send(deployer.functions.deploy(SALT, STOP), world.deployer)


def test_nothing_cannot_be_deployed(world: World, deployer: Contract):
    with world.reverts("Create3EmptyBytecode"):
        world.send(deployer.functions.deploy(SALT, b""), world.deployer)


def test_what_a_constructor_reverts_with_is_passed_on_and_the_salt_stays_free(world: World, deployer: Contract):
    with world.reverts("ERC20InvalidReceiver", receiver=ZERO_ADDRESS):
        world.send(deployer.functions.deploy(SALT, token_code(world, ZERO_ADDRESS)), world.deployer)
    world.send(deployer.functions.deploy(SALT, STOP), world.deployer)


def test_a_contract_lies_where_it_was_predicted_whatever_its_code(world: World, deployer: Contract):
    expected = predicted(world, deployer, world.deployer.address)
    before = world.evm.snapshot()
    for code in (STOP, token_code(world, world.deployer.address)):
        events = world.send(deployer.functions.deploy(SALT, code), world.deployer)
        assert one(events, "Deployed") == {"deployer": world.deployer.address, "salt": SALT, "at": expected}
        assert world.w3.eth.get_code(expected)
        world.evm.revert(before)


def test_nobody_takes_the_salt_of_another(world: World, deployer: Contract):
    mine = predicted(world, deployer, world.deployer.address)
    events = world.send(deployer.functions.deploy(SALT, STOP), world.stranger)
    taken = one(events, "Deployed")
    assert taken["at"] == predicted(world, deployer, world.stranger.address) != mine
    assert not world.w3.eth.get_code(mine)
    world.send(deployer.functions.deploy(SALT, STOP), world.deployer)
    assert world.w3.eth.get_code(mine)


# What is refused


def test_a_genesis_that_exceeds_the_supply_is_refused_before_anything_is_sent(world: World):
    to_treasury = world.view(world.token.functions.balanceOf(world.d.treasury))
    too_much = Grant(
        beneficiary=world.stranger.address, amount_wei=to_treasury + 1, start_s=world.now_s(), duration_s=YEAR_S
    )
    block = world.w3.eth.block_number
    with pytest.raises(DeploymentFailed, match=r"hands out 1 wei more than the supply of 10{25}\b"):
        deploy_protocol(world.evm, replace(world.genesis, grants=[too_much]), sender=world.deployer)
    assert world.w3.eth.block_number == block


@pytest.mark.parametrize("field", ["reward_fund_wei", "bounty_fund_wei"])
def test_the_funds_of_the_pool_are_part_of_the_supply(world: World, field: str):
    with pytest.raises(DeploymentFailed):
        deploy_protocol(world.evm, replace(world.genesis, **{field: world.genesis.supply_wei}), sender=world.deployer)


class Forgetful:
    """A chain that answers well and does nothing."""

    def __init__(self, world: World) -> None:
        self._evm = world.evm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._evm, name)

    def send(self, call: Any, sender: Any, value: int = 0) -> Any:
        return None


def test_a_contract_that_is_not_where_it_was_meant_to_be_stops_the_deployment(world: World):
    with pytest.raises(DeploymentFailed, match="MarketFlowToken is not at 0x"):
        deploy_protocol(Forgetful(world), world.genesis, sender=world.deployer)


# What is deployed


def test_every_contract_lies_where_deployer_and_salt_say(world: World):
    deployer = world.evm.at("Deployer", world.d.deployer_contract)
    for name in CONTRACTS:
        salt = world.w3.keccak(text=f"marketflow.v1.{name}")
        assert getattr(world.d, name) == predicted(world, deployer, world.deployer.address, salt)
        assert world.w3.eth.get_code(getattr(world.d, name))
    deployed = {e.args["at"] for e in world.history(deployer)}
    assert deployed == {getattr(world.d, name) for name in CONTRACTS}


def test_every_contract_knows_the_others(world: World):
    """Each immutable address that is named like a contract of the deployment is that contract."""
    asked = 0
    for name in CONTRACTS:
        contract = world.d.contract(world.evm, name)
        for function in contract.abi:
            known = function.get("name") if function["type"] == "function" and not function["inputs"] else None
            if known in (*CONTRACTS, "quote") and function["outputs"][0]["type"] == "address" and known != "venue":
                asked += 1
                assert world.view(contract.functions[known]()) == getattr(world.d, known), f"{name}.{known}"
    assert asked > 30


def test_the_deployment_is_remembered_as_plain_json(world: World):
    assert Deployment.from_dict(world.d.to_dict()) == world.d
    assert world.d.chain_id == world.w3.eth.chain_id
    assert world.d.deployer == world.deployer.address
    assert world.d.quote == world.book.quote


# The distribution


def balance(world: World, token: Contract, who: str) -> int:
    return int(world.view(token.functions.balanceOf(who)))


def test_the_genesis_supply_is_handed_out_to_the_wei(world: World):
    genesis = world.genesis
    for holder, amount_wei in genesis.holders.items():
        assert balance(world, world.token, holder) == amount_wei
    to_pool = genesis.reward_fund_wei + genesis.bounty_fund_wei
    assert balance(world, world.token, world.d.pool) == to_pool
    assert world.view(world.pool.functions.free()) == genesis.reward_fund_wei
    assert world.view(world.pool.functions.bountyFund()) == genesis.bounty_fund_wei
    rest = genesis.supply_wei - sum(genesis.holders.values()) - to_pool
    assert balance(world, world.token, world.d.treasury) == rest


def test_the_deployer_keeps_nothing(world: World):
    assert balance(world, world.token, world.deployer.address) == 0
    assert balance(world, world.token, world.d.deployer_contract) == 0
    for spender in (world.d.pool, world.d.deployer_contract):
        assert world.view(world.token.functions.allowance(world.deployer.address, spender)) == 0
    has_role = world.timelock.functions.hasRole
    for role in ("DEFAULT_ADMIN_ROLE", "PROPOSER_ROLE", "EXECUTOR_ROLE", "CANCELLER_ROLE"):
        for who in (world.deployer.address, world.d.deployer_contract):
            assert not world.view(has_role(world.view(world.timelock.functions[role]()), who))


def test_grants_are_predicted_filled_and_vest_to_whom_they_were_given(world: World):
    start_s = world.now_s() + DAY_S
    grants = [
        Grant(beneficiary=who.address, amount_wei=amount_wei, start_s=start_s, duration_s=YEAR_S)
        for who, amount_wei in ((world.stranger, tokens(730)), (world.relayer, tokens(365)))
    ]
    d = deploy_protocol(world.evm, replace(world.genesis, grants=grants), sender=world.deployer)
    token, deployer = d.contract(world.evm, "token"), world.evm.at("Deployer", d.deployer_contract)
    assert len(d.grants) == 2
    for i, (address, grant) in enumerate(zip(d.grants, grants, strict=True)):
        salt = world.w3.keccak(text=f"marketflow.v1.grant-{i}")
        assert address == predicted(world, deployer, world.deployer.address, salt)
        vesting = world.evm.at("TokenGrant", address).functions
        assert world.view(vesting.owner()) == grant.beneficiary
        assert (world.view(vesting.start()), world.view(vesting.duration())) == (start_s, YEAR_S)
        assert balance(world, token, address) == grant.amount_wei
        assert world.view(token.functions.delegates(address)) == d.token
    before = balance(world, world.token, world.d.treasury)
    assert balance(world, token, d.treasury) == before - tokens(1095)
    assert Deployment.from_dict(d.to_dict()) == d


def test_a_genesis_may_hand_out_the_whole_supply(world: World):
    to_treasury = balance(world, world.token, world.d.treasury)
    holders = {**world.genesis.holders, world.stranger.address: to_treasury}
    d = deploy_protocol(world.evm, replace(world.genesis, holders=holders), sender=world.deployer)
    token = d.contract(world.evm, "token")
    assert balance(world, token, d.treasury) == balance(world, token, world.deployer.address) == 0
    assert balance(world, token, world.stranger.address) == to_treasury


def test_a_deployer_who_is_a_holder_keeps_their_share_and_no_more(world: World):
    holders = {**world.genesis.holders, world.deployer.address: tokens(123)}
    d = deploy_protocol(world.evm, replace(world.genesis, holders=holders), sender=world.deployer)
    assert balance(world, d.contract(world.evm, "token"), world.deployer.address) == tokens(123)


def test_one_sender_deploys_a_second_protocol_elsewhere(world: World):
    second = deploy_protocol(world.evm, world.genesis, sender=world.deployer)
    assert not {getattr(second, name) for name in CONTRACTS} & {getattr(world.d, name) for name in CONTRACTS}
