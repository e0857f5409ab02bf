"""No call's gas grows with the number of agents, strategies, proposals, trades or epochs.

A world on revm, where a thousand agents are registered, bonded and voted in within seconds, is copied to py-evm, where
a transaction is charged to the unit: at 1, 100 and 1,000 agents, and after 1, 10 and 100 epochs full of trades. What is
compared is the gas of executing: the transaction's less its 21,000 and its call data, whose price depends on how many
bytes of an address or a hash happen to be zero. It has to be the same to the unit.

The exceptions are BISECTIONS: four calls that look something up in OpenZeppelin's list of checkpoints, by bisection.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log2
from typing import Any

import pytest
from eth_keys import keys

from agents.contracts import decode_logs
from agents.localnet.evm import BALANCE_WEI, CHAIN_ID, GENESIS_S, Account, LocalEvm
from agents.localnet.market import LocalMarket
from agents.localnet.pyevm_node import PyEvmNode
from benchmarks.economy.crowd import Crowd
from benchmarks.economy.revm_node import BLOCK_GAS_LIMIT, RevmNode, start_revm
from tests.contracts.gas_table import undone
from tests.contracts.world import (
    DAY_S,
    RULES,
    Strategy,
    World,
    eth,
    one,
    struct,
    tokens,
    usd,
)

CROWDS = (1, 100, 1000)  # others, beside the one that is measured
EPOCHS = (1, 10, 100)
TRADES_PER_EPOCH = 10  # so that 100 epochs have a thousand trades
# How many bisections a row makes in OpenZeppelin's checkpoints, one of which each outflow of the treasury and each
# payment of stake or reward leaves behind: of the treasury's outflows, and of the votes that the quorum counts.
BISECTIONS = {
    "allocate": 1,
    "deployApproved: queue": 1,
    "deployApproved: execute (deploy and allocate)": 2,
    "castVote: late, on a proposal that passes": 1,
}
GAS_OF_A_STEP = 2_600  # a cold slot, and the arithmetic around it

Gas = dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Town:
    """A world on revm with one strategy that is measured, and a crowd that grows around it."""

    node: RevmNode
    world: World
    subject: Strategy
    crowd: Crowd


def create_town() -> Town:
    evm, node = start_revm(block_per_transaction=True)
    world = World(evm, rules=replace(RULES, min_bond_wei=tokens(100)))
    agent_id = world.register_agent()
    manifest = world.manifest(agent_id)
    world.pass_proposal(world.propose_strategy(manifest))
    strategy_id = bytes(world.view(world.strategies.functions.liveStrategyOf(agent_id)))
    subject = Strategy(strategy_id, world.vault_of(strategy_id), agent_id, manifest)
    world.buy(subject, usd(300_000))
    world.market.give_quote(world.other_controller, usd(1_000_000))
    crowd = Crowd(
        node,
        world.d,
        sponsor=world.other_controller.address,
        proposer=world.proposer.address,
        voter=world.voter_a.address,
        publish=world.refresh,
    )
    return Town(node=node, world=world, subject=subject, crowd=crowd)


def grow(town: Town, others: int) -> None:
    """Until there are that many other agents with running vaults."""
    has = int(town.world.view(town.world.agents.functions.agentCount())) - 1
    manifest = town.world.manifest(0, capital=usd(1000), rewardCap=tokens(10))
    members = list(town.crowd.add([manifest] * (others - has), bond_wei=tokens(100), deposit=usd(100), first_seed=has))
    assert len({member.vault for member in members}) == others - has


def live_through(town: Town, epochs: int) -> None:
    """Epochs in which the subject trades and is settled each time."""
    world, s = town.world, town.subject
    for _ in range(epochs):
        world.travel(DAY_S)
        order = world.order(s, 0, buy=True)
        for trade in range(TRADES_PER_EPOCH):
            buy = trade % 2 == 0
            order |= {"buy": buy, "amountIn": usd(10) if buy else eth("0.004")}
            town.crowd.wire.send(world.signer.address, ("StrategyVault", s.vault.address), "trade", struct(order))
            order["nonce"] += 1
        world.settle(s)


def on_py_evm(town: Town) -> World:
    """The same world, as it is now, on the engine that charges to the unit."""
    old = town.world
    node = PyEvmNode(
        [keys.PrivateKey(bytes(account.key)) for account in old.evm.accounts],
        chain_id=CHAIN_ID,
        timestamp_s=GENESIS_S,
        block_gas_limit=BLOCK_GAS_LIMIT,
        balance_wei=BALANCE_WEI,
    )
    town.node.copy_to(node)
    world = copy.copy(old)
    world.evm = LocalEvm("py-evm", node, old.evm.accounts, block_gas_limit=BLOCK_GAS_LIMIT)
    world.w3 = world.evm.w3
    world.market = LocalMarket(world.evm, old.book, deployer=old.deployer)
    world.evm.impersonate(world.d.timelock)
    assert world.status(town.subject) == old.status(town.subject)
    return world


class Meter:
    """What calls cost to execute, from one state that no measurement changes."""

    def __init__(self, world: World) -> None:
        self.world, self.gas = world, Gas()

    def take(self, row: str, call: Any, sender: Account | str) -> Any:
        """Measures the call, which stays; its receipt."""
        receipt = self.world.evm.send(call, sender)
        data = bytes.fromhex(call._encode_transaction_data()[2:])
        assert row not in self.gas
        self.gas[row] = int(receipt["gasUsed"]) - 21_000 - sum(16 if byte else 4 for byte in data)
        return receipt


def measure(world: World, s: Strategy) -> Gas:
    """Gas of executing every call that changes something, from the same point of an epoch."""
    world.as_timelock(world.constitution.functions.appointGuardian(world.guardian.address, world.now_s() + 180 * DAY_S))
    world.set_price("ETH", 2000)
    for _ in range(2):  # the first may have missed windows to make up for
        world.settle(s)
    world.set_price("ETH", 2100)
    assert world.settle(s) > 0
    world.travel(DAY_S)
    world.buy(s, usd(1000))
    meter = Meter(world)
    for story in (trades, stakes, registration, votes, account, capital, auction, retirement):
        with undone(world):
            story(meter, s)
    return meter.gas


def trades(meter: Meter, s: Strategy) -> None:
    world, trade = meter.world, s.vault.functions.trade
    meter.take("trade: buy", trade(struct(world.order(s, usd(1000), buy=True))), world.signer)
    meter.take("trade: sell", trade(struct(world.order(s, eth("0.1"), buy=False))), world.signer)
    meter.take("poke: outside a window", s.vault.functions.poke(), world.stranger)
    meter.take("skim", s.vault.functions.skim(world.book.quote), world.stranger)
    meter.take("syncPhase", world.oracle.functions.syncPhase(world.token_of("ETH")), world.stranger)
    stop = world.constitution.functions.stopVault(s.vault.address, DAY_S)
    meter.take("stopVault", stop, world.guardian)


def stakes(meter: Meter, s: Strategy) -> None:
    world, agents = meter.world, meter.world.agents.functions
    world.send(world.token.functions.approve(world.d.agents, tokens(10)), world.controller)
    world.market.give_quote(world.controller, usd(10))
    world.send(world.quote.functions.approve(world.d.agents, usd(10)), world.controller)
    meter.take("postBond", agents.postBond(s.agent_id, tokens(10)), world.controller)
    meter.take("withdrawBond", agents.withdrawBond(s.agent_id, tokens(10)), world.controller)
    meter.take("postDeposit", agents.postDeposit(s.agent_id, usd(10)), world.controller)
    meter.take("withdrawDeposit", agents.withdrawDeposit(s.agent_id, usd(10)), world.controller)
    meter.take("slashBond", agents.slashBond(s.agent_id, tokens(10)), world.d.timelock)
    meter.take("awardDeposit", agents.awardDeposit(s.agent_id, usd(10)), world.d.timelock)
    meter.take("setSigningKey", agents.setSigningKey(s.agent_id, world.bidder.address), world.controller)
    transfer = agents.transferFrom(world.controller.address, world.stranger.address, s.agent_id)
    meter.take("transfer of an agent", transfer, world.controller)


def registration(meter: Meter, s: Strategy) -> None:
    world = meter.world
    meter.take("register", world.agents.functions.register("ipfs://agent", world.signer.address), world.stranger)


def votes(meter: Meter, s: Strategy) -> None:
    """A new agent's strategy from its proposal to its deployment, by the verbs."""
    world, dao = meter.world, meter.world.dao.functions
    agent_id = world.register_agent(world.other_controller, world.other_signer, bond_wei=tokens(30_000))
    manifest = world.manifest(agent_id, capital=usd(1000), rewardCap=tokens(10))
    verb = dao.proposeStrategy(struct(manifest), "a strategy")
    receipt = meter.take("proposeStrategy", verb, world.proposer)
    proposal = one(decode_logs(receipt), "StrategyProposed")["proposalId"]
    world.to_voting(proposal)
    meter.take("castVote: a proposal's first", dao.castVote(proposal, 1), world.voter_a)
    meter.take("castVote: a later one", dao.castVote(proposal, 1), world.voter_b)
    world.travel_to(int(world.view(dao.proposalDeadline(proposal))) - 60)
    meter.take("castVote: late, on a proposal that passes", dao.castVote(proposal, 1), world.small_holder)
    world.to_deadline(proposal)
    meter.take("deployApproved: queue", dao.deployApproved(proposal), world.stranger)
    world.travel_to(int(world.view(dao.proposalEta(proposal))) + 1)
    meter.take("deployApproved: execute (deploy and allocate)", dao.deployApproved(proposal), world.stranger)


def account(meter: Meter, s: Strategy) -> None:
    """A gain, a loss and a claim."""
    world = meter.world
    for row, price_usd in (("a gain", 2150), ("a loss", 2120)):
        world.set_price("ETH", price_usd)
        world.to_next_window()
        meter.take(f"poke: before {row}, the window's first", s.vault.functions.poke(), world.observer)
        world.travel(60)
        meter.take(f"poke: before {row}, a later one", s.vault.functions.poke(), world.observer)
        world.to_window_end()
        close = world.pool.functions.closeWindow(s.vault.address)
        move = one(decode_logs(meter.take(f"closeWindow: {row}", close, world.observer)), "WindowClosed")["move"]
        assert (move > 0) == (row == "a gain")
        meter.take(f"rewardAgent: {row}", world.dao.functions.rewardAgent(s.agent_id, move), world.stranger)
    meter.take("claim", world.pool.functions.claim(s.vault.address), world.controller)
    meter.take("claimBounty", world.pool.functions.claimBounty(), world.observer)
    world.send(world.token.functions.approve(world.d.pool, tokens(1)), world.controller)
    meter.take("fund", world.pool.functions.fund(tokens(1)), world.controller)


def capital(meter: Meter, s: Strategy) -> None:
    world, treasury = meter.world, meter.world.treasury.functions
    meter.take("allocate", treasury.allocate(s.id, usd(10)), world.d.timelock)
    meter.take("recall: quote", treasury.recall(s.id, world.book.quote, usd(10), 0), world.d.timelock)
    meter.take("recall: an asset", treasury.recall(s.id, world.token_of("ETH"), eth("0.001"), 0), world.d.timelock)


def auction(meter: Meter, s: Strategy) -> None:
    world = meter.world
    meter.take("halt", world.strategies.functions.halt(s.id), world.d.timelock)
    world.market.give_quote(world.bidder, usd(2_000_000))
    world.send(world.quote.functions.approve(s.vault.address, usd(2_000_000)), world.bidder)
    world.travel(600)
    fill = s.vault.functions.fillAuction(world.token_of("ETH"), usd(1_000_000))
    meter.take("fillAuction", fill, world.bidder)
    meter.take("resume", world.strategies.functions.resume(s.id), world.d.timelock)


def retirement(meter: Meter, s: Strategy) -> None:
    world, strategies = meter.world, meter.world.strategies.functions
    meter.take("retire", strategies.retire(s.id), world.d.timelock)
    for token in (world.book.quote, world.token_of("ETH")):
        world.as_timelock(world.treasury.functions.recall(s.id, token, 2**128 - 1, 0))
    world.settle(s)
    world.settle(s)
    meter.take("finishRetirement", strategies.finishRetirement(s.id), world.stranger)


@pytest.fixture(scope="module")
def by_crowd() -> dict[int, Gas]:
    town, measured = create_town(), {}
    for others in CROWDS:
        grow(town, others)
        measured[others] = measure(on_py_evm(town), town.subject)
    return measured


@pytest.fixture(scope="module")
def by_epochs() -> dict[int, Gas]:
    town, measured, lived = create_town(), {}, 0
    for epochs in EPOCHS:
        live_through(town, epochs - lived)
        lived = epochs
        measured[epochs] = measure(on_py_evm(town), town.subject)
    return measured


def rows_that_differ(measured: dict[int, Gas]) -> dict[str, list[int]]:
    least, *more = measured.values()
    differ = [row for row in least if row not in BISECTIONS and any(gas[row] != least[row] for gas in more)]
    return {row: [gas[row] for gas in measured.values()] for row in differ}


def test_no_call_costs_more_with_a_hundred_or_a_thousand_agents_than_with_one(by_crowd: dict[int, Gas]) -> None:
    assert len(by_crowd[1]) > 35
    assert rows_that_differ(by_crowd) == {}


def test_no_call_costs_more_after_a_hundred_epochs_and_a_thousand_trades(by_epochs: dict[int, Gas]) -> None:
    assert rows_that_differ(by_epochs) == {}


def test_what_bisects_a_history_grows_by_a_step_for_each_doubling(by_crowd: dict[int, Gas]) -> None:
    for (few, before), (many, after) in pairwise(by_crowd.items()):
        for row, bisections in BISECTIONS.items():
            grown, steps = after[row] - before[row], log2(many / few) + 1
            assert 0 <= grown <= bisections * steps * GAS_OF_A_STEP, f"{row}: {grown:,} from {few} to {many} agents"


def test_what_bisects_a_history_costs_no_more_when_only_time_has_passed(by_epochs: dict[int, Gas]) -> None:
    for before, after in pairwise(by_epochs.values()):
        assert all(after[row] <= before[row] for row in BISECTIONS)
