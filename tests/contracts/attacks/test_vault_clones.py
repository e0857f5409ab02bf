"""Taking over a vault by initialising it: one's own clone, the implementation itself, a clone that is not there yet."""

from __future__ import annotations

import pytest
from eth_utils import keccak
from web3.contract import Contract

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import Attacker, dollars
from tests.contracts.world import ANY, LIMITS, Strategy, World, one, struct, usd

MINE = keccak(text="mine")


def clone_of(world: World, implementation: str) -> Contract:
    """What OpenZeppelin's `Clones.clone` deploys (https://eips.ethereum.org/EIPS/eip-1167), by a stranger."""
    code = bytes.fromhex(
        "3d602d80600a3d3981f3363d3d373d3d3d363d73" + implementation[2:] + "5af43d82803e903d91602b57fd5bf3"
    )
    receipt = world.evm.send({"data": code}, world.stranger)
    return world.d.vault(world.evm, receipt["contractAddress"])


def hostile_init(world: World, attacker: Attacker, s: Strategy) -> tuple:
    """The attacker's contract as venue, to which every token is approved."""
    return (MINE, MINE, attacker.address, s.agent_id, LIMITS.as_tuple(), s.manifest["assets"])


@pytest.mark.parametrize("which", ["a clone of one's own", "the implementation", "a running vault"])
def test_initialising_a_vault_for_oneself(world: World, strategy: Strategy, attack: Report, which: str) -> None:
    """Whoever initialises names the venue, which may take everything: only the factory can, once, as it creates."""
    attacker, implementation = Attacker(world), world.d.vault_implementation
    vaults = {
        "a clone of one's own": lambda: clone_of(world, implementation),
        "the implementation": lambda: world.d.vault(world.evm, implementation),
        "a running vault": lambda: strategy.vault,
    }
    vault = vaults[which]()
    venue = world.view(vault.functions.venue())
    init = vault.functions.initialize(hostile_init(world, attacker, strategy))
    for caller, call in ((attacker.address, lambda: attacker.run([init])),
                         (world.d.timelock, lambda: world.as_timelock(init))):  # fmt: skip
        with world.reverts("VaultUnauthorized", caller=caller):
            call()
    world.evm.impersonate(world.d.factory)
    if vault.address == strategy.vault.address:
        with world.reverts("VaultAlreadyInitialised"):
            world.send(init, world.d.factory)
    assert world.view(vault.functions.venue()) == venue
    attack.outcome(gained="nothing", cost="gas", stopped_by="VaultUnauthorized, VaultAlreadyInitialised")


def test_a_vault_of_one_s_own_trades_nothing_and_earns_nothing(
    world: World, strategy: Strategy, attack: Report
) -> None:
    """Somebody deploys a clone, gives it money, and tries to have its trades, its profit and its gifts count."""
    own = clone_of(world, world.d.vault_implementation)
    world.market.give_quote(own.address, usd(100_000))
    for call in (own.functions.poke(), own.functions.trade(struct(world.order(strategy, usd(1), buy=True)))):
        with world.reverts("RewardPoolUnknownVault", vault=own.address):
            world.send(call, world.signer)
    world.evm.impersonate(own.address)
    with world.reverts("RewardPoolUnknownVault", vault=own.address):
        world.send(world.pool.functions.sync(usd(1_000_000), 0, True, 0, world.stranger.address), own.address)
    with world.reverts("TradeLedgerUnknownVault", caller=own.address):
        world.send(world.ledger.functions.record(_entry(world)), own.address)
    with world.reverts("TreasuryUnknownStrategy", strategyId=MINE):
        world.as_timelock(world.treasury.functions.allocate(MINE, usd(1)))
    skimmed = one(world.send(own.functions.skim(world.book.quote), world.stranger), "Skimmed")["amount"]
    assert skimmed == usd(100_000)
    attack.outcome(
        gained="nothing", cost=f"{dollars(skimmed)}, which anybody sends to the treasury",
        stopped_by="RewardPoolUnknownVault, TradeLedgerUnknownVault",
    )  # fmt: skip


def _entry(world: World) -> tuple:
    zero = bytes(32)
    token = world.book.quote
    return (1, 0, 0, zero, zero, zero, zero, token, token, 1, 1, 0, 1, [])


def test_a_gift_that_waits_where_a_vault_will_be(world: World, attack: Report) -> None:
    """Clones have addresses that anybody can foretell. What lies there before is neither capital, units nor profit."""
    manifest = world.manifest(world.register_agent())
    strategy_id = world.submit(manifest)
    address = world.view(world.factory.functions.predictVault(manifest["vaultImplementation"], strategy_id))
    world.market.give_quote(address, usd(5_000_000))
    world.market.give_base("ETH", address, 10**21)
    world.as_timelock(world.strategies.functions.approve(strategy_id))
    world.as_timelock(world.factory.functions.deployVault(strategy_id))
    world.as_timelock(world.treasury.functions.allocate(strategy_id, usd(1_000_000)))
    vault = world.vault_of(strategy_id)
    assert vault.address == address
    status = world.view(vault.functions.status())
    assert (status.value, status.unitPriceWad, status.profit) == (usd(1_000_000), 10**18, 0)
    assert world.view(vault.functions.book()).units == usd(1_000_000) * 10**12
    assert one(world.send(vault.functions.skim(world.book.quote), world.stranger), "Skimmed")["amount"] == usd(
        5_000_000
    )
    attack.outcome(gained="nothing", cost="$5,000,000.00 and 1,000 ETH", stopped_by="the vault's own books, and skim")


def test_the_same_vault_deployed_twice(world: World, strategy: Strategy, attack: Report) -> None:
    """A second deployment at the same address would begin a second account; the registry knows the first."""
    with world.reverts("VaultFactoryNotApproved", manifestHash=strategy.id):
        world.as_timelock(world.factory.functions.deployVault(strategy.id))
    with world.reverts("StrategyRegistryWrongStage", id=strategy.id, stage=ANY):
        world.as_timelock(world.strategies.functions.approve(strategy.id))
    with world.reverts("VaultFactoryUnauthorized", caller=world.stranger.address):
        world.send(world.factory.functions.deployVault(strategy.id), world.stranger)
    attack.outcome(gained="nothing", cost="a vote", stopped_by="VaultFactoryNotApproved")
