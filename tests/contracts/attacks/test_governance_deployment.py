"""Somebody acts between every two transactions of the deployment, or waits for what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from web3 import Web3

from agents.deployment import Deployment, deploy_protocol
from agents.localnet.evm import TransactionReverted
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import Attacker, dollars
from tests.contracts.world import World, one, tokens, usd

STOP = bytes.fromhex("600160005360016000f3")  # creation code of a contract that is one STOP
NAMES = (
    "token timelock constitution oracle ledger agents pool strategies factory treasury vault_implementation venue dao"
).split()
ROLES = [bytes(32), *(bytes(Web3.keccak(text=f"{name}_ROLE")) for name in ("PROPOSER", "EXECUTOR", "CANCELLER"))]


class Watched:
    """A chain on which somebody else's transaction follows each of the deployment's."""

    def __init__(self, world: World, act: Callable[[], None]) -> None:
        self._evm, self._act = world.evm, act
        self.deployer: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._evm, name)

    def deploy(self, name: str, *arguments: Any, sender: Any) -> Any:
        deployed = self._evm.deploy(name, *arguments, sender=sender)
        self.deployer = deployed
        self._act()
        return deployed

    def send(self, call: Any, sender: Any, **options: Any) -> Any:
        receipt = self._evm.send(call, sender, **options)
        self._act()
        return receipt


def salt(name: str) -> bytes:
    return bytes(Web3.keccak(text=f"marketflow.v1.{name}"))


def attempts(world: World, at: dict[str, str], thief: str) -> list[Any]:
    """What the watcher would like to do to contracts that exist, or are about to."""
    contract = lambda name, kind: world.evm.at(kind, at[name]).functions  # noqa: E731
    limits = world.genesis.ceilings.as_tuple()
    init = (b"\x01" * 32, b"\x01" * 32, thief, 1, limits, [])
    timelock, token = contract("timelock", "Timelock"), contract("token", "MarketFlowToken")
    return [
        contract("vault_implementation", "StrategyVault").initialize(init),
        contract("factory", "VaultFactory").deployVault(b"\x01" * 32),
        contract("strategies", "StrategyRegistry").markDeployed(b"\x01" * 32, thief),
        contract("pool", "RewardPool").registerVault(thief, 1, 1, 1),
        contract("pool", "RewardPool").withdraw(1),
        contract("treasury", "Treasury").pay(at["token"], thief, tokens(1)),
        contract("constitution", "Constitution").appointGuardian(thief, world.now_s() + 1000),
        contract("oracle", "PriceOracle").removeFeed(world.book.quote),
        contract("ledger", "TradeLedger").openBook(thief),
        *(timelock.grantRole(role, thief) for role in ROLES),
        timelock.schedule(at["treasury"], 0, b"", bytes(32), bytes(32), 0),
        token.transferFrom(world.deployer.address, thief, 1),
        contract("dao", "MARKETFLOW_DAO").propose([at["treasury"]], [0], [b""], "first"),
    ]


def test_acting_between_any_two_transactions_of_the_deployment_gets_nothing(world: World, attack: Report):
    """After each: every salt for oneself, and every act that only the protocol may do."""
    thief = Attacker(world, world.stranger)
    tried = {"salts": 0, "refused": 0, "into the void": 0}

    def act() -> None:
        deployer = watched.deployer.functions
        at = {n: str(world.view(deployer.addressOf(world.deployer.address, salt(n)))) for n in NAMES}
        if not tried["salts"]:
            for name in NAMES:
                tried["salts"] += 1
                taken = one(thief.does(deployer.deploy(salt(name), STOP)), "Deployed")["at"]
                assert taken != at[name]
        for call in attempts(world, at, thief.address):
            exists = bool(world.w3.eth.get_code(call.address))
            try:
                thief.does(call)
            except TransactionReverted as refusal:
                thief.gas += refusal.receipt["gasUsed"]
                tried["refused"] += 1
            else:
                # Nothing is there yet: the call went to an empty address.
                assert not exists, call.fn_name
                tried["into the void"] += 1

    watched = Watched(world, act)
    d: Deployment = deploy_protocol(watched, world.genesis, sender=world.deployer)

    token, timelock = d.contract(world.evm, "token"), d.contract(world.evm, "timelock")
    for holder, share in world.genesis.holders.items():
        assert world.view(token.functions.balanceOf(holder)) == share
    for who in (thief.address, world.deployer.address, d.deployer_contract):
        assert world.view(token.functions.balanceOf(who)) == 0
        assert not any(world.view(timelock.functions.hasRole(role, who)) for role in ROLES)
    assert world.view(d.contract(world.evm, "constitution").functions.guardian()) == world.guardian.address
    assert world.view(world.evm.at("StrategyVault", d.vault_implementation).functions.strategyId()) == bytes(32)
    assert world.view(d.contract(world.evm, "strategies").functions.liveStrategyOf(1)) == bytes(32)
    attack.outcome(
        gained="nothing: addresses, roles and balances are those of an undisturbed deployment",
        cost=f"{thief.gas:,} gas for {sum(tried.values())} attempts, {tried['into the void']} of them into the void",
        stopped_by="salts of one's own, addresses fixed beforehand, no initialiser",
    )


def test_a_deployer_s_stolen_key_is_worth_nothing_afterwards(world: World, attack: Report):
    """Everything the deployer could do while it deployed, tried again by whoever has its key."""
    thief = Attacker(world, world.deployer)
    deployer = world.evm.at("Deployer", world.d.deployer_contract)
    for name in NAMES:
        thief.fails(deployer.functions.deploy(salt(name), STOP), "FailedDeployment", gas=200_000)
    at = {name: getattr(world.d, name) for name in NAMES}
    for call in attempts(world, at, thief.address):
        with pytest.raises(TransactionReverted) as refused:
            thief.does(call)
        assert refused.value.reason.name != "NoReason", call.fn_name
        thief.gas += refused.value.receipt["gasUsed"]
    assert world.view(world.token.functions.allowance(thief.address, world.d.pool)) == 0
    attack.outcome(
        gained="nothing", cost=f"{thief.gas:,} gas", stopped_by="no owner, no admin, no initialiser; FailedDeployment"
    )


def test_money_sent_to_a_vault_before_it_exists_is_a_gift_to_the_treasury(world: World, attack: Report):
    """The address of a vault is known as soon as its manifest is. Money there is neither capital nor profit."""
    patron = Attacker(world, world.stranger)
    gift = usd(250_000)
    agent_id = world.register_agent()
    strategy_id = world.submit(world.manifest(agent_id))
    vault = world.view(world.factory.functions.predictVault(world.d.vault_implementation, strategy_id))
    world.market.give_quote(patron.account, gift)
    patron.does(world.quote.functions.transfer(vault, gift))
    world.pass_proposal(world.propose_strategy(world.manifest(agent_id)))
    running = world.vault_of(strategy_id)
    assert running.address == vault
    status = world.view(running.functions.status())
    assert (status.value, status.profit) == (usd(1_000_000), 0)
    patron.does(running.functions.skim(world.book.quote))
    assert world.market.balance(world.book.quote, world.d.treasury) == usd(19_000_000) + gift
    attack.outcome(
        gained="no profit and no unit",
        cost=f"{dollars(gift)} and {patron.gas:,} gas",
        stopped_by="the vault's own books",
    )
