"""What people without votes and with little money put on chain stops neither reader, and both read the same of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from eth_abi import encode
from web3 import Web3

from agents.deployment import ZERO_ADDRESS
from agents.localnet.evm import Account, start_evm
from agents.localnet.graphnode import LocalGraph
from agents.subgraph import write_local_manifest
from oracle.protocol_graph import GraphProtocolReader
from tests.contracts.truth import Truth, event_reader, everything, graph_client
from tests.contracts.vaults import MAX_UINT, recall
from tests.contracts.world import DAY_S, RULES, Strategy, World, eth, struct, tokens, usd
from tests.graph.conftest import Graph

TEXTS = (b"", b"\0", b"\xff\xfe", b"a\0b\xed\xa0\x80\xf0\x9f", b"\x1b[2J", b"\xe2\x80\xae" * 500, b"\x01" * 5_000)
# Returns all ones to `balanceOf`, and one to everything else.
ENDLESS_TOKEN = "5f3560e01c6370a08231145f036001175f5260205ff3"
# Returns ERC-1271's magic value to everything.
CREDULOUS_WALLET = "631626ba7e60e01b5f5260205ff3"
BLOCK_GAS = 30_000_000


class Hostile:
    """A world of its own, indexed from its beginning, and somebody who sends what nobody should."""

    def __init__(self, world: World, graph: Graph, by_graph: GraphProtocolReader) -> None:
        self.world, self.graph, self.by_graph = world, graph, by_graph

    def send(self, to: str, signature: str, *arguments: Any, sender: Account | None = None) -> None:
        """Text as bytes, because it may be none."""
        types = signature.partition("(")[2][:-1].replace("string", "bytes").split(",")
        self.send_data(to, Web3.keccak(text=signature)[:4] + encode(types, arguments), sender)

    def send_data(self, to: str | None, data: bytes | str, sender: Account | None = None) -> Any:
        eth_ = self.world.w3.eth
        transaction = {"from": (sender or self.world.stranger).address, "data": data, "gas": BLOCK_GAS - 1}
        sent = eth_.send_transaction(transaction | ({"to": to} if to else {}))
        receipt = eth_.wait_for_transaction_receipt(sent)
        assert receipt["status"] == 1, "refused"
        return receipt

    def deploy(self, code: str) -> str:
        size = f"60{len(code) // 2:02x}"
        return str(self.send_data(None, f"0x{size}600a5f39{size}5ff3{code}")["contractAddress"])

    def in_one_transaction(self, *calls: Any, sender: Account | None = None) -> None:
        """Through Multicall3, whoever may call."""
        packed = [(call.address, False, bytes.fromhex(call._encode_transaction_data()[2:])) for call in calls]
        data = Web3.keccak(text="aggregate3((address,bool,bytes)[])")[:4] + encode(["(address,bool,bytes)[]"], [packed])
        self.send_data(self.world.book.multicall, data, sender)

    def assert_the_same(self) -> None:
        """Both readers, and the contracts, at the newest block."""
        world = self.world
        self.graph.wait()
        head = self.by_graph.fetch_head()
        by_events = everything(event_reader(world.evm, world.d), head)
        for kind, answer in everything(self.by_graph, head).items():
            assert answer == by_events[kind], kind.__name__


@pytest.fixture(scope="module")
def hostile() -> Iterator[Hostile]:
    with start_evm("anvil") as evm:
        world = World(evm)
        with (
            LocalGraph(str(evm.url), [write_local_manifest(world.d)]) as node,
            graph_client(node.endpoint(), evm) as client,
        ):
            yield Hostile(world, Graph(node, evm), GraphProtocolReader(client, dao=world.d.dao))


def test_a_protocol_in_which_nothing_has_happened_yet_is_read(hostile: Hostile) -> None:
    hostile.assert_the_same()


def test_text_that_is_none_stops_neither_reader(hostile: Hostile) -> None:
    """Anybody registers agents, changes their URIs, and gives reasons for votes that weigh nothing."""
    world, agents, dao = hostile.world, hostile.world.d.agents, hostile.world.d.dao
    proposal_id = propose(hostile, b"\0\xff\x1b]0;title\x07\xe2\x80\xae")
    world.to_voting(proposal_id)
    for number, (text, voter) in enumerate(zip(TEXTS, world.evm.accounts[-len(TEXTS) :], strict=True), start=1):
        hostile.send(agents, "register(string,address)", text, voter.address)
        hostile.send(agents, "setAgentURI(uint64,string)", number, text[::-1])
        with_params = "castVoteWithReasonAndParams(uint256,uint8,string,bytes)"
        hostile.send(dao, with_params, proposal_id, number % 3, text, text, sender=voter)
    hostile.send(dao, "castVoteWithReason(uint256,uint8,string)", proposal_id, 1, b"\xff\0")
    hostile.assert_the_same()


def propose(hostile: Hostile, description: bytes) -> int:
    """With a call that no index row could hold."""
    world, types = hostile.world, "propose(address[],uint256[],bytes[],string)"
    calls = [ZERO_ADDRESS], [MAX_UINT], [Web3.keccak(text="noise") * 300]
    hostile.send(world.d.dao, types, *calls, description, sender=world.proposer)
    count = world.view(world.dao.functions.proposalCount())
    return int(world.view(world.dao.functions.proposalDetailsAt(count - 1))[0])


def test_calls_in_odd_encodings_are_indexed(hostile: Hostile) -> None:
    """Solidity takes arguments that overlap and text that is none; the mapping reads the same call again."""
    world = hostile.world
    proposal_id = world.propose([world.constitution.functions.setRules(RULES.as_tuple())], "odd encodings")
    world.to_voting(proposal_id)
    first, second = hostile.deploy(CREDULOUS_WALLET), hostile.deploy(CREDULOUS_WALLET)
    overlapping = encode(["uint256", "uint8", "address", "uint256"], [proposal_id, 1, first, 0x20])
    hostile.send_data(world.d.dao, Web3.keccak(text="castVoteBySig(uint256,uint8,address,bytes)")[:4] + overlapping)
    hostile.send(
        world.d.dao, "castVoteWithReasonAndParamsBySig(uint256,uint8,address,string,bytes,bytes)",
        proposal_id, 2, second, b"\xff\0", b"", b"signed",
    )  # fmt: skip
    hostile.assert_the_same()
    votes = hostile.graph.query(f'{{ votes(where: {{proposal: "{proposal_id}"}}) {{ voter signature }} }}')["votes"]
    found = {vote["voter"]: vote["signature"] for vote in votes}
    assert found == {first.lower(): "0x00", second.lower(): "0x" + b"signed".hex()}


def test_odd_transfers_delegations_and_stops_leave_every_number_right(hostile: Hostile) -> None:
    world = hostile.world
    token, holder = world.token.functions, world.small_holder
    for call in (
        token.transfer(holder.address, 0),
        token.transfer(holder.address, tokens(1)),
        token.transfer(world.d.token, tokens(1)),
        token.delegate(ZERO_ADDRESS),
        token.delegate(ZERO_ADDRESS),
        token.delegate(world.d.dao),
        token.delegate(holder.address),
        world.pool.functions.fund(0),
        world.pool.functions.fundBounties(0),
        world.pool.functions.claimBounty(),
    ):
        world.send(call, holder)
    for address in (ZERO_ADDRESS, world.d.constitution, world.stranger.address):
        world.send(world.constitution.functions.stopVault(address, DAY_S), world.guardian)
        world.send(world.constitution.functions.liftVaultStop(address), world.guardian)
    agent_id = world.register_agent(bond_wei=0, deposit=0)
    world.send(world.agents.functions.withdrawBond(agent_id, 0), world.controller)
    world.send(
        world.agents.functions.transferFrom(world.controller.address, world.d.agents, agent_id), world.controller
    )
    hostile.assert_the_same()
    rows = hostile.graph.query("{ tokenHolders(first: 1000) { id balance } delegates(first: 1000) { id votes } }")
    assert sum(int(row["balance"]) for row in rows["tokenHolders"]) == world.view(token.totalSupply())
    for row in rows["tokenHolders"]:
        assert int(row["balance"]) == world.view(token.balanceOf(Web3.to_checksum_address(row["id"])))
    for row in rows["delegates"]:
        assert int(row["votes"]) == world.view(token.getVotes(Web3.to_checksum_address(row["id"])))


def test_a_vault_with_many_events_of_a_kind_in_one_transaction_is_told_to_the_last_digit(hostile: Hostile) -> None:
    """Through Multicall3, which anybody can call, and which an agent may make its signing key."""
    world = hostile.world
    s = world.deploy_strategy(assets=("ETH", "BTC"))
    vault, pool = s.vault.functions, world.pool.functions
    world.send(world.agents.functions.setSigningKey(s.agent_id, world.book.multicall), world.controller)
    trade_often(hostile, s)
    endless = hostile.deploy(ENDLESS_TOKEN)
    hostile.in_one_transaction(vault.skim(endless), vault.skim(endless), vault.skim(world.d.token), vault.poke())
    world.to_next_window()
    world.set_price("ETH", 2060)
    hostile.in_one_transaction(vault.poke(), vault.poke(), pool.claimBounty(), vault.poke())
    world.to_window_end()
    move = world.view(pool.closeWindow(s.vault.address))
    assert move > 0
    hostile.in_one_transaction(
        vault.poke(), pool.closeWindow(s.vault.address), vault.poke(),
        world.dao.functions.rewardAgent(s.agent_id, move), vault.poke(), pool.claimBounty(),
    )  # fmt: skip
    hostile.assert_the_same()
    empty_and_fill_again(hostile, s)
    hostile.assert_the_same()
    begin_anew(hostile, s)
    hostile.assert_the_same()
    head = hostile.by_graph.fetch_head()
    truth = Truth(world.evm, world.d, head)
    for told in hostile.by_graph.fetch_vaults(head).items:
        truth.vault(told, [asset.token for asset in world.book.assets])
    assert truth.check()


def trade_often(hostile: Hostile, s: Strategy) -> None:
    world = hostile.world
    trade: Callable[..., Any] = lambda *a, **over: s.vault.functions.trade(struct(world.order(s, *a, **over)))  # noqa: E731
    hostile.in_one_transaction(
        s.vault.functions.poke(),
        trade(usd(100_000), buy=True, nonce=0),
        trade(eth(10), buy=False, nonce=1),
        trade(usd(50_000), buy=True, nonce=2, symbol="BTC"),
        s.vault.functions.poke(),
    )


def empty_and_fill_again(hostile: Hostile, s: Strategy) -> None:
    """All of it recalled, and new capital."""
    world = hostile.world
    for token in (*(world.token_of(symbol) for symbol in ("ETH", "BTC")), world.book.quote):
        recall(world, s, token)
    assert world.view(s.vault.functions.isEmpty())
    world.poke(s)
    world.as_timelock(world.treasury.functions.allocate(s.id, usd(10_000)))
    world.poke(s)


def begin_anew(hostile: Hostile, s: Strategy) -> None:
    """Retired, and the same agent's next strategy."""
    world = hostile.world
    world.as_timelock(world.strategies.functions.retire(s.id))
    recall(world, s, world.book.quote)
    world.settle(s)
    world.settle(s)
    world.send(world.strategies.functions.finishRetirement(s.id), world.stranger)
    world.poke(s)
    second = world.deploy_strategy(s.agent_id, salt=b"\x01" * 32, capital=usd(10_000))
    world.to_next_window()
    world.poke(second)
    world.poke(s)


def test_uris_that_cost_more_to_read_than_one_call_may_cost_stop_neither_reader(hostile: Hostile) -> None:
    """Zeros cost less to store than text, and as much to read: each of these can be read, but not both at once."""
    agents = hostile.world.d.agents
    for _ in range(2):
        hostile.send(agents, "register(string,address)", b"short", hostile.world.stranger.address)
        number = hostile.world.view(hostile.world.agents.functions.agentCount())
        hostile.send(agents, "setAgentURI(uint64,string)", number, bytes(300_000))
    hostile.assert_the_same()
