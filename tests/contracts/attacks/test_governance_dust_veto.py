"""An agent that likes an asset holds dust of it, since an update may not drop what the vault holds."""

from __future__ import annotations

from typing import Any

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import Attacker, days, step
from tests.contracts.world import Strategy, World, one, struct, usd

DUST = usd("0.10")


def keep(world: World, agent: Attacker, strategy: Strategy) -> None:
    """Ten cents of bitcoin, whenever there is none."""
    if not world.held(strategy, "BTC"):
        order = world.order(strategy, DUST, buy=True, symbol="BTC")
        agent.does(strategy.vault.functions.trade(struct(order)))


def test_dust_delays_an_update_that_drops_its_asset_and_does_not_stop_it(world: World, attack: Report):
    """The agent buys again after every recall. What ends it: submitting in the recall's own transaction, and a vote on
    recall and update together."""
    strategy = world.deploy_strategy(assets=("ETH", "BTC"))
    agent, bitcoin = Attacker(world, world.signer), world.token_of("BTC")
    began_s = world.now_s()
    keep(world, agent, strategy)
    without = world.manifest(strategy.agent_id, assets=("ETH",), updates=strategy.id, capital=0)

    def refused() -> None:
        with world.reverts("StrategyRegistryAssetStillHeld", token=bitcoin, amount=world.held(strategy, "BTC")):
            world.propose_strategy(without)

    refused()
    recall: Any = world.treasury.functions.recall(strategy.id, bitcoin, 2**128 - 1, 0)
    world.pass_proposal(world.propose([recall], "recall the dust"))
    keep(world, agent, strategy)
    refused()

    # The second recall is executed by a contract that submits the update before anybody can buy.
    second = world.propose([recall], "recall the dust again")
    world.to_voting(second)
    world.vote(second)
    world.to_deadline(second)
    world.queue(second)
    world.travel_to(world.view(world.dao.functions.proposalEta(second)) + 1)
    together = [
        step(world.dao.functions.deployApproved(second)),
        step(world.strategies.functions.submit(struct(without))),
    ]
    batch = world.evm.deploy("AttackFlashLoan", sender=world.relayer)
    manifest_hash = one(world.send(batch.functions.run(together), world.relayer), "ManifestSubmitted")["manifestHash"]
    keep(world, agent, strategy)
    targets, values, calldatas = world.view(world.strategies.functions.callsOf(manifest_hash))
    update = world.dao.functions.propose(
        [recall.address, *targets], [0, *values], [recall._encode_transaction_data(), *calldatas], "recall, then update"
    )
    created = world.send(update, world.proposer)[0].args["proposalId"]
    keep(world, agent, strategy)
    world.pass_proposal(created)
    assert [listed.token for listed in world.view(strategy.vault.functions.assets())] == [world.token_of("ETH")]
    with world.reverts("VaultUnknownAsset", token=bitcoin):
        world.buy(strategy, DUST, symbol="BTC")
    delay_s = world.now_s() - began_s
    attack.outcome(
        gained=f"{days(delay_s)} with an asset that one vote of four days could have dropped",
        cost=f"dust of $0.10 three times, {agent.gas:,} gas",
        stopped_by="recall and update in one proposal",
    )
