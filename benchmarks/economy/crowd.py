"""Agents with vaults by the hundred, each voted in: proposal, vote, queue, execution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from eth_utils import keccak, to_checksum_address

from agents.deployment import CONTRACTS, Deployment
from benchmarks.economy.revm_node import RevmNode
from benchmarks.economy.wire import Wire

FOR = 1
# Proposals that wait for the same vote together.
BATCH = 250


@dataclass(frozen=True, slots=True)
class Member:
    """A registered agent with a running vault. Its controller is its signing key too."""

    agent_id: int
    controller: str
    strategy_id: bytes
    vault: str


class Crowd:
    """Voters and a sponsor who let agents in. `publish` is called after each travel: prices must stay fresh."""

    def __init__(
        self,
        node: RevmNode,
        d: Deployment,
        *,
        sponsor: str,
        proposer: str,
        voter: str,
        publish: Callable[[], None],
    ) -> None:
        self.node, self.wire, self.d = node, Wire(node), d
        self.sponsor, self.proposer, self.voter, self.publish = sponsor, proposer, voter, publish
        self.wire.send(sponsor, self.at("token"), "approve", d.agents, 2**255)
        self.wire.send(sponsor, ("QuoteToken", d.quote), "approve", d.agents, 2**255)

    def at(self, name: str) -> tuple[str, str]:
        """A protocol contract by its field of `Deployment`, as `Wire` takes it."""
        return CONTRACTS[name], getattr(self.d, name)

    def add(
        self, manifests: Iterable[Mapping[str, Any]], *, bond_wei: int, deposit: int, first_seed: int
    ) -> Iterator[Member]:
        """Registers an agent for each manifest, posts its stakes, and votes its strategy in.

        The manifest's `agentId` is filled in here; controllers' addresses follow from `first_seed`.
        """
        waiting, seed = iter(manifests), first_seed
        while batch := list(islice(waiting, BATCH)):
            controllers = [address_of(f"controller {seed + i}") for i in range(len(batch))]
            seed += len(batch)
            agent_ids = [self._register(controller, bond_wei, deposit) for controller in controllers]
            proposals = [
                self._propose({**manifest, "agentId": agent_id})
                for manifest, agent_id in zip(batch, agent_ids, strict=True)
            ]
            self.pass_all(proposals)
            for agent_id, controller in zip(agent_ids, controllers, strict=True):
                strategy_id = self.wire.view(self.at("strategies"), "liveStrategyOf", agent_id)
                vault = self.wire.view(self.at("strategies"), "vaultOf", strategy_id)
                yield Member(agent_id, controller, bytes(strategy_id), vault)

    def propose(self, calls: list[tuple[str, bytes]], description: str) -> int:
        """A generic proposal of (target, call data)."""
        targets, datas = [target for target, _ in calls], [data for _, data in calls]
        return self.wire.send(self.proposer, self.at("dao"), "propose", targets, [0] * len(calls), datas, description)

    def pass_all(self, proposals: list[int]) -> None:
        """Votes for proposals made in this block, waits, queues, waits, executes."""
        dao = self.at("dao")
        self.travel_to(int(self.wire.view(dao, "proposalSnapshot", proposals[-1])) + 1)
        for proposal in proposals:
            self.vote(proposal)
        self.travel_to(int(self.wire.view(dao, "proposalDeadline", proposals[-1])) + 1)
        for proposal in proposals:
            self.advance(proposal)
        self.travel_to(int(self.wire.view(dao, "proposalEta", proposals[-1])) + 1)
        for proposal in proposals:
            self.advance(proposal)

    def vote(self, proposal: int) -> None:
        self.wire.send(self.voter, self.at("dao"), "castVote", proposal, FOR)

    def advance(self, proposal: int) -> None:
        """Queues what was voted for, or executes what was queued."""
        self.wire.send(self.proposer, self.at("dao"), "deployApproved", proposal)

    def travel_to(self, timestamp_s: int) -> None:
        self.node.travel_to(timestamp_s)
        self.publish()

    def _register(self, controller: str, bond_wei: int, deposit: int) -> int:
        agents = self.at("agents")
        agent_id = self.wire.send(controller, agents, "register", "ipfs://agent", controller)
        self.wire.send(self.sponsor, agents, "postBond", agent_id, bond_wei)
        self.wire.send(self.sponsor, agents, "postDeposit", agent_id, deposit)
        return int(agent_id)

    def _propose(self, manifest: Mapping[str, Any]) -> int:
        description = f"the strategy of agent {manifest['agentId']}"
        arguments = (tuple(manifest.values()), description)
        return int(self.wire.send(self.proposer, self.at("dao"), "proposeStrategy", *arguments))


def address_of(name: str) -> str:
    """An address nobody has the key of: on revm it needs none."""
    return to_checksum_address(keccak(text=name)[12:])
