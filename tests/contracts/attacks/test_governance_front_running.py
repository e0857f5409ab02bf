"""OpenZeppelin GHSA-5h3x-9wvq-w4m2: a proposal seen in the mempool, sent first by somebody else, and cancelled.

The attacker holds the threshold, sees every transaction before it is mined, and always gets in first.
"""

from __future__ import annotations

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import FOR, THRESHOLD, Attacker, amount, attacker, in_state, proposal
from tests.contracts.world import World, one, struct


@pytest.fixture
def front_runner(world: World) -> Attacker:
    return attacker(world, THRESHOLD)


def cancelled_first(world: World, front_runner: Attacker, text: str) -> None:
    """The victim's generic proposal, taken and cancelled before it is mined."""
    calls = [world.treasury.functions.setOutflowCap(world.book.quote, 0)]
    taken = front_runner.proposes(calls, text)
    front_runner.does(world.dao.functions.cancel(taken))
    with world.reverts("GovernorUnexpectedProposalState", **in_state(taken, "Canceled")):
        world.propose(calls, text)


def test_griefing_ends_when_the_victim_names_itself(world: World, front_runner: Attacker, attack: Report):
    """A generic proposal without a suffix can be taken as often as it is tried; with it, not once."""
    for attempt in range(3):
        cancelled_first(world, front_runner, f"lower the cap, attempt {attempt}")
    calls = [world.treasury.functions.setOutflowCap(world.book.quote, 0)]
    text = f"lower the cap#proposer={world.proposer.address.lower()}"
    front_runner.fails(
        world.dao.functions.propose(*proposal(calls, text)), "GovernorRestrictedProposer", proposer=front_runner.address
    )
    proposal_id = world.propose(calls, text)
    front_runner.fails(
        world.dao.functions.cancel(proposal_id),
        "GovernorUnableToCancel",
        proposalId=proposal_id,
        account=front_runner.address,
    )
    assert one(world.pass_proposal(proposal_id), "OutflowCapSet")["cap"] == 0
    attack.outcome(
        gained="three attempts that were not signed with the proposer's name",
        cost=f"{amount(THRESHOLD)} while it lasts, {front_runner.gas:,} gas",
        stopped_by="GovernorRestrictedProposer",
    )


def test_a_strategy_s_proposal_cannot_be_taken_by_copying_the_verb(
    world: World, front_runner: Attacker, attack: Report
):
    """Same manifest, same description, sent first, cancelled, and tried with every spelling of the victim's suffix."""
    manifest = world.manifest(world.register_agent())
    verb = world.dao.functions.proposeStrategy(struct(manifest), "a strategy")
    copy = int(one(front_runner.does(verb), "StrategyProposed")["proposalId"])
    manifest_hash = bytes(world.view(world.dao.functions.manifestOf(copy)))
    front_runner.does(world.dao.functions.cancel(copy))

    targets, values, calldatas = world.view(world.strategies.functions.callsOf(manifest_hash))
    victim = world.proposer.address
    for spelling in (victim.lower(), victim, "0x" + victim[2:].upper()):
        generic = world.dao.functions.propose(targets, values, calldatas, f"a strategy#proposer={spelling}")
        front_runner.fails(generic, "GovernorRestrictedProposer", proposer=front_runner.address)

    proposal_id = world.propose_strategy(manifest)
    assert proposal_id != copy
    world.pass_proposal(proposal_id)
    assert world.view(world.strategies.functions.stageOf(manifest_hash)) == 3  # LIVE
    attack.outcome(
        gained="nothing: the victim's proposal is another one",
        cost=f"{amount(THRESHOLD)} while it lasts, {front_runner.gas:,} gas",
        stopped_by="the caller's name in the proposal's id; GovernorRestrictedProposer",
    )


def test_a_copy_that_is_voted_in_first_deploys_the_victim_s_strategy_for_the_victim_s_agent(
    world: World, front_runner: Attacker, attack: Report
):
    """Taking the credit: whoever's copy is executed first, agent, limits and capital are those of the manifest."""
    agent_id = world.register_agent()
    manifest = world.manifest(agent_id)
    verb = world.dao.functions.proposeStrategy(struct(manifest), "a strategy")
    copy = int(one(front_runner.does(verb), "StrategyProposed")["proposalId"])
    original = world.propose_strategy(manifest)
    world.to_voting(original)
    for each in (copy, original):
        world.vote(each, FOR)
    world.to_deadline(original)
    for each in (copy, original):
        world.queue(each)
    events = world.execute(copy)
    deployed = one(events, "StrategyDeployed")
    assert deployed["agentId"] == agent_id
    with world.reverts("StrategyRegistryWrongStage", id=world.view(world.dao.functions.manifestOf(original)), stage=3):
        world.queue(original)
    attack.outcome(
        gained="their name on somebody else's strategy",
        cost=f"{amount(THRESHOLD)} while it lasts, {front_runner.gas:,} gas",
        stopped_by="the manifest, which names the agent: StrategyRegistryWrongStage for the second",
    )


@pytest.mark.parametrize("when", ["voting", "succeeded", "queued", "expired"])
def test_a_proposer_who_changes_sides_cannot_cancel_any_more(
    world: World, front_runner: Attacker, attack: Report, when: str
):
    """A trusted proposer, bribed once people have voted."""
    proposal_id = front_runner.proposes([world.treasury.functions.setOutflowCap(world.book.quote, 0)], "as promised")
    world.to_voting(proposal_id)
    world.vote(proposal_id)
    if when != "voting":
        world.to_deadline(proposal_id)
    if when == "queued":
        world.queue(proposal_id)
    if when == "expired":
        world.evm.travel(world.view(world.dao.functions.graceS()))
    expected = {"voting": "Active"}.get(when, when.capitalize())
    assert world.state(proposal_id) == expected
    front_runner.fails(
        world.dao.functions.cancel(proposal_id),
        "GovernorUnableToCancel",
        proposalId=proposal_id,
        account=front_runner.address,
    )
    assert world.state(proposal_id) == expected
    attack.outcome(
        gained="nothing", cost=f"{front_runner.gas:,} gas", stopped_by="GovernorUnableToCancel once the vote has begun"
    )
