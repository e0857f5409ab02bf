"""The protocol told from its events alone: every number is the contracts', through reorgs and on stingy nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from graphql import build_schema, parse, validate
from web3 import HTTPProvider, Web3

from agents.chain import RemoteChain
from agents.localnet.evm import start_evm
from oracle.chain import ChainReader, fetch_block
from oracle.errors import GraphRefused, ReadingFailed
from oracle.protocol import Manifest, Proposal, ProposalState, Stage, Totals, Trade, Vault, open_protocol_reader
from oracle.protocol_events import EventProtocolReader
from oracle.protocol_graph import SELECTIONS, GraphProtocolReader, protocol_schema
from tests.contracts import story
from tests.contracts.truth import assert_true, event_reader, everything, graph_client
from tests.contracts.world import DAY_S, HOUR_S, RULES, World, usd
from tests.unit.oracle.misbehaving import Asked, MisbehavingServer, Reply


def reader_of(world: World, chain: ChainReader | None = None, **options: Any) -> EventProtocolReader:
    return event_reader(chain or world.evm, world.d, **options)


def tokens_of(world: World) -> list[str]:
    return [asset.token for asset in world.book.assets]


@pytest.fixture(scope="module")
def told() -> Iterator[World]:
    """After the story; for reading only. On a chain of its own, which has all its blocks' states."""
    with start_evm() as evm:
        world = World(evm)
        story.tell(world)
        yield world


# Nodes that refuse


def node_behind(world: World, refuses: Callable[[dict[str, Any]], Reply | None]) -> MisbehavingServer:
    """The world's own node, but for the requests for events that are refused."""

    def answer(asked: Asked) -> Reply:
        method, params = asked.body["method"], asked.body["params"]
        refusal = refuses(params[0]) if method == "eth_getLogs" else None
        if refusal is not None:
            return refusal
        return Reply(body={**world.w3.provider.make_request(method, params), "id": asked.body["id"]})

    return MisbehavingServer(answer)


def blocks_in(query: dict[str, Any]) -> int:
    return int(query["toBlock"], 16) - int(query["fromBlock"], 16) + 1


def too_many(message: str = "query returned more than 10000 results") -> Reply:
    return Reply(body={"jsonrpc": "2.0", "id": 1, "error": {"code": -32005, "message": message}})


def reader_through(server: MisbehavingServer, world: World, **options: Any) -> EventProtocolReader:
    return reader_of(world, RemoteChain(Web3(HTTPProvider(server.url, exception_retry_configuration=None))), **options)


def test_a_node_that_gives_no_events_at_all_is_named_with_the_block(world: World) -> None:
    with node_behind(world, lambda query: too_many("eth_getLogs is not available")) as server:
        reader = reader_through(server, world)
        first = world.d.deployed_at_block
        with pytest.raises(ReadingFailed, match=f"no events of block {first}: .*eth_getLogs is not available"):
            reader.fetch_totals(reader.fetch_head())


@pytest.mark.parametrize("refusal", [too_many(), Reply(status=413, body="too large")], ids=["error", "status"])
def test_a_node_that_limits_ranges_is_asked_for_fewer_blocks_and_says_the_same(told: World, refusal: Reply) -> None:
    progress: list[tuple[int, int]] = []
    with node_behind(told, lambda query: refusal if blocks_in(query) > 40 else None) as server:
        reader = reader_through(server, told, progress=lambda done, wanted: progress.append((done, wanted)))
        head = reader.fetch_head()
        found = everything(reader, head)
        ranges = [blocks_in(a.body["params"][0]) for a in server.asked if a.body["method"] == "eth_getLogs"]
    assert found == everything(reader_of(told), head)
    assert max(ranges[-3:]) <= 40
    assert progress == sorted(progress) and len(progress) > 2
    assert progress[-1] == (head.number, head.number)


# Reorganisations


def test_a_block_that_the_chain_has_lost_has_no_answer(world: World) -> None:
    reader, before = reader_of(world), world.evm.snapshot()
    world.register_agent()
    lost = reader.fetch_head()
    world.evm.revert(before)
    world.evm.travel(30)
    world.evm.mine(20)
    with pytest.raises(ReadingFailed, match=f"block {lost.number} is not {lost.hash} any more: read the head again"):
        reader.fetch_agents(lost)


def test_what_a_reorg_took_back_is_forgotten_and_what_replaced_it_is_read(world: World) -> None:
    reader = reader_of(world)
    s = world.deploy_strategy()
    kept = everything(reader, reader.fetch_head())
    before = world.evm.snapshot()
    world.buy(s, usd(200_000))
    assert len(reader.fetch_trades(reader.fetch_head()).items) == 1
    world.evm.revert(before)
    assert everything(reader, reader.fetch_head()) == kept
    world.evm.travel(5)
    world.buy(s, usd(100_000))
    world.register_agent(world.other_controller)
    head = reader.fetch_head()
    found = everything(reader, head)
    assert found == everything(reader_of(world), head)
    assert [trade.amount_in for trade in found[Trade].items] == [usd(100_000)]


def test_only_blocks_that_are_new_are_read(world: World) -> None:
    with node_behind(world, lambda query: None) as server:
        reader = reader_through(server, world)
        first = reader.fetch_head()
        reader.fetch_agents(first)
        server.asked.clear()
        world.register_agent()
        head = reader.fetch_head()
        assert len(reader.fetch_agents(head).items) == 1
        asked = [a.body["params"][0] for a in server.asked if a.body["method"] == "eth_getLogs"]
    assert asked
    assert {(int(q["fromBlock"], 16), int(q["toBlock"], 16)) for q in asked} == {(first.number + 1, head.number)}


def test_an_earlier_block_is_told_as_it_was_then(world: World) -> None:
    s = world.deploy_strategy()
    world.buy(s, usd(100_000))
    reader = reader_of(world)
    then = reader.fetch_head()
    before = everything(reader, then)
    world.buy(s, usd(50_000))
    later = reader.fetch_head()
    assert len(reader.fetch_trades(later).items) == 2
    assert everything(reader, then) == before
    assert everything(reader_of(world), then) == before


# What it says


def test_after_a_life_in_which_everything_happened_every_number_is_the_contracts(told: World) -> None:
    reader = reader_of(told)
    head = reader.fetch_head()
    assert assert_true(told.evm, told.d, reader, head, tokens_of(told)) > 100


def test_it_holds_at_blocks_all_through_that_life(told: World) -> None:
    reader = reader_of(told)
    last = reader.fetch_head().number
    for number in range(told.d.deployed_at_block + 20, last, 7):
        assert_true(told.evm, told.d, reader, fetch_block(told.evm, number), tokens_of(told))


def test_the_life_had_everything_that_readers_tell_of(told: World) -> None:
    reader = reader_of(told)
    found = {kind: answer.items for kind, answer in everything(reader, reader.fetch_head()).items()}
    assert all(found.values())
    states = {p.state_at(told.now_s()) for p in found[Proposal]}
    assert states >= {ProposalState.EXECUTED, ProposalState.CANCELED, ProposalState.DEFEATED, ProposalState.EXPIRED}
    assert {m.stage for m in found[Manifest]} == {Stage.SUBMITTED, Stage.SUPERSEDED, Stage.LIVE, Stage.RETIRED}
    totals = found[Totals][0]
    assert all(getattr(totals, name) > 0 for name in totals.__dataclass_fields__)
    assert any(p.objection_ends_at_s for p in found[Proposal])
    assert any(v.account.pending_move for v in found[Vault])
    assert any(v.stopped_until_s for v in found[Vault])


def test_a_ballot_that_somebody_else_brought_names_voter_and_submitter(told: World) -> None:
    reader = reader_of(told)
    votes = [vote for p in reader.fetch_proposals(reader.fetch_head()).items for vote in p.votes]
    brought = [vote for vote in votes if vote.submitter != vote.voter]
    assert [(v.voter, v.submitter) for v in brought] == [(told.voter_b.address, told.relayer.address)]
    assert [vote.reason for vote in votes if vote.reason] == ["it was tested"]


# The states of a proposal


def moments(p: Proposal) -> Iterator[int]:
    """The seconds at which its state may change, and those after them."""
    for turn_s in (p.vote_start_s, p.deadline_s, p.deadline_s + p.grace_s, *([p.eta_s + p.grace_s] if p.eta_s else [])):
        yield from (turn_s, turn_s + 1)


def assert_predicted(world: World, proposal_id: int) -> list[str]:
    """To the second, `state_at` of a reading made now is what the contract says then; returns the states, in order."""
    reader = reader_of(world)
    [p] = [p for p in reader.fetch_proposals(reader.fetch_head()).items if p.id == proposal_id]
    before, seen = world.evm.snapshot(), [p.state_at(world.now_s()).name.title()]
    for moment_s in sorted(t for t in set(moments(p)) if t > world.now_s()):
        world.evm.travel_to(moment_s)
        seen.append(p.state_at(moment_s).name.title())
        assert seen[-1] == world.state(proposal_id), f"at {moment_s}"
    world.evm.revert(before)
    return list(dict.fromkeys(seen))


def proposed(world: World) -> int:
    return world.propose([world.constitution.functions.setRules(RULES.as_tuple())])


def test_without_votes_it_is_pending_active_and_defeated(world: World) -> None:
    assert assert_predicted(world, proposed(world)) == ["Pending", "Active", "Defeated"]


def test_with_votes_but_no_quorum_it_is_defeated(world: World) -> None:
    proposal_id = proposed(world)
    world.to_voting(proposal_id)
    world.vote(proposal_id, voters=[world.small_holder])
    assert assert_predicted(world, proposal_id) == ["Active", "Defeated"]


def test_as_many_against_as_for_is_defeated(world: World) -> None:
    proposal_id = proposed(world)
    world.send(world.token.functions.transfer(world.voter_b.address, 100_000 * 10**18), world.voter_a)
    world.to_voting(proposal_id)
    world.vote(proposal_id, 1, [world.voter_a])
    world.vote(proposal_id, 0, [world.voter_b])
    assert assert_predicted(world, proposal_id) == ["Active", "Defeated"]


def test_voted_in_it_succeeds_and_expires_when_nobody_queues_it(world: World) -> None:
    proposal_id = proposed(world)
    world.to_voting(proposal_id)
    world.vote(proposal_id)
    assert assert_predicted(world, proposal_id) == ["Active", "Succeeded", "Expired"]


def test_queued_it_waits_and_expires_when_nobody_executes_it(world: World) -> None:
    proposal_id = proposed(world)
    world.to_voting(proposal_id)
    world.vote(proposal_id)
    world.to_deadline(proposal_id)
    world.queue(proposal_id)
    assert assert_predicted(world, proposal_id) == ["Queued", "Expired"]
    world.execute(proposal_id)
    assert assert_predicted(world, proposal_id) == ["Executed"]


def test_a_late_flip_keeps_it_active_through_the_objection_period(world: World) -> None:
    proposal_id = proposed(world)
    world.to_voting(proposal_id)
    world.travel_to(int(world.view(world.dao.functions.proposalDeadline(proposal_id))) - HOUR_S)
    world.vote(proposal_id)
    reader = reader_of(world)
    [p] = reader.fetch_proposals(reader.fetch_head()).items
    assert p.deadline_s == p.vote_end_s + DAY_S
    assert assert_predicted(world, proposal_id) == ["Active", "Succeeded", "Expired"]


def test_canceled_it_stays_so(world: World) -> None:
    proposal_id = proposed(world)
    [p] = reader_of(world).fetch_proposals(fetch_block(world.evm)).items
    arguments = (list(p.targets), list(p.values_wei), list(p.calldatas), Web3.keccak(text=p.description))
    world.send(world.dao.functions.cancel(*arguments), world.proposer)
    assert assert_predicted(world, proposal_id) == ["Canceled"]


def test_quorum_counts_the_votes_that_circulated_at_the_snapshot(world: World) -> None:
    """Bonds that are posted later lower what circulates, and not the quorum of this vote."""
    proposal_id = proposed(world)
    world.register_agent()
    world.to_voting(proposal_id)
    world.register_agent(world.other_controller)
    reader = reader_of(world)
    [p] = reader.fetch_proposals(reader.fetch_head()).items
    assert p.quorum_wei == world.view(world.dao.functions.quorum(p.vote_start_s))
    assert p.quorum_wei > world.view(world.dao.functions.quorum(world.now_s() - 1))


# Where there is a Graph endpoint


@contextmanager
def graph_that_answers(world: World, reply: Reply) -> Iterator[GraphProtocolReader]:
    with (
        MisbehavingServer(lambda asked: reply) as server,
        graph_client(server.url, world.evm, attempts=1) as client,
    ):
        yield GraphProtocolReader(client, dao=world.d.dao)


def test_every_question_is_one_to_the_schema_of_the_api() -> None:
    asked = " ".join(f"{field} {{ id {selection} }}" for field, selection in SELECTIONS.items())
    assert validate(build_schema(protocol_schema()), parse(f"{{ {asked} }}")) == []


def test_without_an_endpoint_the_events_are_read(world: World) -> None:
    events = reader_of(world)
    assert open_protocol_reader(events=events, graph=None, warn=pytest.fail) is events


def test_an_endpoint_that_does_not_answer_is_replaced_by_the_events_and_the_reason_is_said(world: World) -> None:
    warnings: list[str] = []
    with graph_that_answers(world, Reply(status=503, body="maintenance")) as graph:
        reader = open_protocol_reader(events=reader_of(world), graph=graph, warn=warnings.append)
        head = reader.fetch_head()
        assert reader.fetch_totals(head) == reader_of(world).fetch_totals(head)
    assert reader.source == "the contracts' events"
    [warning] = warnings
    assert "maintenance" in warning and "reading the contracts' events instead" in warning


def test_an_endpoint_that_will_never_answer_is_for_the_operator_to_correct(world: World) -> None:
    with graph_that_answers(world, Reply(status=404, body="no such subgraph")) as graph:
        reader = open_protocol_reader(events=reader_of(world), graph=graph, warn=pytest.fail)
        with pytest.raises(GraphRefused, match="no such subgraph"):
            reader.fetch_head()
