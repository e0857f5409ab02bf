"""Strategies come, change and go by proposal, vote, queue and execution; by a verb or by hand, it is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
from web3 import Web3

from tests.contracts.world import (
    CEILINGS,
    GOVERNANCE,
    LIMITS,
    PROPOSAL_STATES,
    REWARD_RATE,
    RULES,
    Strategy,
    World,
    eth,
    none_of,
    one,
    struct,
    tokens,
    usd,
)

AGAINST, FOR = 0, 1
NO_FEED, STALE = 1, 5
NONE, LIVE, SUPERSEDED, RETIRING = 0, 3, 4, 5
ACTIVE, HALTED = 0, 2

Manifest = dict[str, Any]
Propose = Callable[[World, Manifest], int]
Refusal = tuple[str, dict[str, Any]]
MAX_VOTING_S = 30 * 86_400
NEW_ARTEFACT = Web3.keccak(text="artefact v2")


# The two paths


def by_verb(world: World, manifest: Manifest) -> int:
    return world.propose_strategy(manifest)


def by_generic_proposal(world: World, manifest: Manifest) -> int:
    """What anybody can do without the verb: submit the manifest, then propose the calls by hand."""
    return world.propose(calls_of(world, manifest, world.submit(manifest)), "a strategy")


def calls_of(world: World, manifest: Manifest, manifest_hash: bytes) -> list[Any]:
    """All that a strategy proposal may consist of."""
    strategies, updates = world.strategies.functions, manifest["updates"]
    is_update = updates != bytes(32)
    calls = [
        strategies.approve(manifest_hash),
        strategies.applyUpdate(manifest_hash) if is_update else world.factory.functions.deployVault(manifest_hash),
    ]
    if manifest["capital"]:
        calls.append(world.treasury.functions.allocate(updates if is_update else manifest_hash, manifest["capital"]))
    return calls


both_paths = pytest.mark.parametrize("propose", [by_verb, by_generic_proposal])


def pass_vote(world: World, proposal_id: int) -> None:
    """Up to the moment from which it can be executed."""
    world.to_voting(proposal_id)
    world.vote(proposal_id)
    world.to_deadline(proposal_id)
    world.queue(proposal_id)
    world.travel_to(world.view(world.dao.functions.proposalEta(proposal_id)))


def update_of(world: World, strategy: Strategy, **changes: Any) -> Manifest:
    return world.manifest(
        strategy.agent_id, updates=strategy.id, artefactHash=NEW_ARTEFACT, capital=usd(100_000), **changes
    )


# Refused: a manifest that is wrong


def camel(field: str) -> str:
    head, *tail = field.split("_")
    return head + "".join(part.capitalize() for part in tail)


@both_paths
@pytest.mark.parametrize("field", asdict(CEILINGS))
def test_each_limit_looser_than_the_constitution_is_refused_at_the_proposal(world: World, propose: Propose, field: str):
    ceiling = getattr(CEILINGS, field)
    manifest = world.manifest(world.register_agent(), limits=replace(CEILINGS, **{field: ceiling + 1}))
    with world.reverts("ConstitutionLimitTooLoose", field=camel(field), value=ceiling + 1, ceiling=ceiling):
        propose(world, manifest)


def unknown_agent(world: World, manifest: Manifest) -> Refusal:
    manifest["agentId"] = 77
    return "StrategyRegistryUnknownAgent", {"agentId": 77}


def agent_beyond_64_bits(world: World, manifest: Manifest) -> Refusal:
    """Its low bits name a real agent."""
    manifest["agentId"] += 2**64
    return "StrategyRegistryUnknownAgent", {"agentId": manifest["agentId"]}


def bond_too_small_for_the_capital(world: World, manifest: Manifest) -> Refusal:
    manifest["capital"] = usd(5_000_000)
    needed = world.view(world.strategies.functions.bondNeeded(struct(manifest)))
    return "StrategyRegistryBondTooSmall", {"agentId": manifest["agentId"], "bond": tokens(50_000), "needed": needed}


def unlisted_asset(world: World, manifest: Manifest) -> Refusal:
    token = world.evm.deploy("MockToken", "Unlisted", "UNL", 18, sender=world.stranger).address
    manifest["assets"] = [*manifest["assets"], (token, 500)]
    return "StrategyRegistryNoPrice", {"token": token, "status": NO_FEED}


def another_venue_code(world: World, manifest: Manifest) -> Refusal:
    code_hash, manifest["venueCodeHash"] = manifest["venueCodeHash"], bytes(32)
    return "StrategyRegistryWrongCode", {"target": world.d.venue, "codeHash": bytes(code_hash)}


def venue_without_code(world: World, manifest: Manifest) -> Refusal:
    manifest["venue"], manifest["venueCodeHash"] = world.stranger.address, Web3.keccak(b"")
    return "StrategyRegistryReplaceableCode", {"target": world.stranger.address}


def no_artefact(world: World, manifest: Manifest) -> Refusal:
    manifest["artefactHash"] = bytes(32)
    return "StrategyRegistryEmptyArtefact", {}


@both_paths
@pytest.mark.parametrize(
    "wrong",
    [
        unknown_agent,
        agent_beyond_64_bits,
        bond_too_small_for_the_capital,
        unlisted_asset,
        another_venue_code,
        venue_without_code,
        no_artefact,
    ],
)
def test_a_wrong_manifest_is_refused_at_the_proposal(world: World, propose: Propose, wrong):
    manifest = world.manifest(world.register_agent())
    error, arguments = wrong(world, manifest)
    with world.reverts(error, **arguments):
        propose(world, manifest)


def test_a_generic_proposal_cannot_skip_the_submission(world: World):
    manifest = world.manifest(world.register_agent(), limits=replace(CEILINGS, max_position_bps=9000))
    never_submitted = Web3.keccak(text="whatever")
    proposal_id = world.propose(calls_of(world, manifest, never_submitted))
    pass_vote(world, proposal_id)
    with world.reverts("StrategyRegistryWrongStage", id=never_submitted, stage=NONE):
        world.queue(proposal_id)


def test_a_generic_proposal_cannot_skip_the_approval(world: World):
    manifest = world.manifest(world.register_agent())
    manifest_hash = world.submit(manifest)
    proposal_id = world.propose(calls_of(world, manifest, manifest_hash)[1:])
    pass_vote(world, proposal_id)
    with world.reverts("VaultFactoryNotApproved", manifestHash=manifest_hash):
        world.queue(proposal_id)


# Refused: a world that has changed


def bond_withdrawn(world: World, manifest: Manifest) -> Refusal:
    agent_id = manifest["agentId"]
    needed = world.view(world.strategies.functions.bondNeeded(struct(manifest)))
    bond = world.view(world.agents.functions.agentOf(agent_id)).bond
    world.send(world.agents.functions.withdrawBond(agent_id, bond - needed + 1), world.controller)
    return "StrategyRegistryBondTooSmall", {"agentId": agent_id, "bond": needed - 1, "needed": needed}


def ceiling_tightened(world: World, manifest: Manifest) -> Refusal:
    ceiling = LIMITS.max_position_bps - 1
    world.as_timelock(world.constitution.functions.setCeilings(replace(CEILINGS, max_position_bps=ceiling).as_tuple()))
    return "ConstitutionLimitTooLoose", {"field": "maxPositionBps", "value": ceiling + 1, "ceiling": ceiling}


def reward_rate_capped(world: World, manifest: Manifest) -> Refusal:
    highest = REWARD_RATE - 1
    world.as_timelock(world.constitution.functions.setRules(replace(RULES, max_reward_rate=highest).as_tuple()))
    return "StrategyRegistryRateTooHigh", {"rate": REWARD_RATE, "highest": highest}


def feed_removed(world: World, manifest: Manifest) -> Refusal:
    world.as_timelock(world.oracle.functions.removeFeed(world.token_of("ETH")))
    return "StrategyRegistryNoPrice", {"token": world.token_of("ETH"), "status": NO_FEED}


def feed_gone_stale(world: World, manifest: Manifest) -> Refusal:
    world.evm.travel(3 * 3600)
    return "StrategyRegistryNoPrice", {"token": world.token_of("ETH"), "status": STALE}


def venue_code_changed(world: World, manifest: Manifest) -> Refusal:
    code = bytes(world.w3.eth.get_code(world.d.venue)) + b"\x00"
    world.evm.set_code(world.d.venue, code)
    return "StrategyRegistryWrongCode", {"target": world.d.venue, "codeHash": bytes(Web3.keccak(code))}


def implementation_gone(world: World, manifest: Manifest) -> Refusal:
    world.evm.set_code(world.d.vault_implementation, b"")
    return "StrategyRegistryWrongCode", {"target": world.d.vault_implementation, "codeHash": bytes(Web3.keccak(b""))}


def agent_took_another_strategy(world: World, manifest: Manifest) -> Refusal:
    other = world.deploy_strategy(manifest["agentId"], salt=b"\x01" * 32, capital=0)
    return "StrategyRegistryAgentBusy", {"agentId": manifest["agentId"], "strategyId": other.id}


a_change_of_the_world = pytest.mark.parametrize(
    "change",
    [
        bond_withdrawn,
        ceiling_tightened,
        reward_rate_capped,
        feed_removed,
        feed_gone_stale,
        venue_code_changed,
        implementation_gone,
        agent_took_another_strategy,
    ],
)


@both_paths
@a_change_of_the_world
def test_what_is_not_so_any_more_is_refused_at_the_proposal(world: World, propose: Propose, change):
    manifest = world.manifest(world.register_agent())
    error, arguments = change(world, manifest)
    with world.reverts(error, **arguments):
        propose(world, manifest)


@both_paths
@a_change_of_the_world
def test_what_changed_after_the_vote_is_refused_at_the_execution(world: World, propose: Propose, change):
    manifest = world.manifest(world.register_agent())
    proposal_id = propose(world, manifest)
    pass_vote(world, proposal_id)
    error, arguments = change(world, manifest)
    with world.reverts(error, **arguments):
        world.queue(proposal_id)
    assert world.state(proposal_id) == "Queued"


@a_change_of_the_world
def test_the_factory_checks_again_what_has_been_approved(world: World, change):
    manifest = world.manifest(world.register_agent())
    strategy_id = world.submit(manifest)
    world.as_timelock(world.strategies.functions.approve(strategy_id))
    error, arguments = change(world, manifest)
    with world.reverts(error, **arguments):
        world.as_timelock(world.factory.functions.deployVault(strategy_id))


def test_more_capital_than_may_leave_the_treasury_is_refused_at_the_execution(world: World):
    proposal_id = world.propose_strategy(world.manifest(world.register_agent()))
    pass_vote(world, proposal_id)
    world.as_timelock(world.treasury.functions.setOutflowCap(world.book.quote, usd(999_999)))
    with world.reverts(
        "TreasuryOutflowExceeded", token=world.book.quote, amount=usd(1_000_000), available=usd(999_999)
    ):
        world.queue(proposal_id)


def test_more_reward_than_the_budget_holds_is_refused_at_the_execution(world: World):
    proposal_id = world.propose_strategy(world.manifest(world.register_agent(), rewardCap=tokens(20_001)))
    pass_vote(world, proposal_id)
    with world.reverts("RewardPoolBudgetExceeded", caps=tokens(20_001), budget=tokens(20_000)):
        world.queue(proposal_id)


def test_a_refused_execution_strands_nothing_and_succeeds_once_the_world_is_right_again(world: World):
    agent_id = world.register_agent()
    manifest = world.manifest(agent_id)
    proposal_id = world.propose_strategy(manifest)
    pass_vote(world, proposal_id)
    error, arguments = bond_withdrawn(world, manifest)
    with world.reverts(error, **arguments):
        world.queue(proposal_id)

    world.send(world.token.functions.approve(world.d.agents, 1), world.controller)
    world.send(world.agents.functions.postBond(agent_id, 1), world.controller)
    events = world.send(world.dao.functions.deployApproved(proposal_id), world.stranger)
    assert one(events, "StrategyDeployed")["agentId"] == agent_id


def test_two_proposals_of_one_manifest_deploy_it_once(world: World):
    manifest = world.manifest(world.register_agent())
    first, second = world.propose_strategy(manifest, "first"), world.propose_strategy(manifest, "second")
    for proposal_id in (first, second):
        world.evm.travel_to(max(world.now_s(), world.view(world.dao.functions.proposalSnapshot(proposal_id))) + 1)
        world.vote(proposal_id)
    world.to_deadline(second)
    world.queue(first)
    world.queue(second)
    strategy_id = one(world.execute(first), "StrategyDeployed")["strategyId"]
    world.travel_to(world.view(world.dao.functions.proposalEta(second)) + 5)
    with world.reverts("StrategyRegistryWrongStage", id=strategy_id, stage=LIVE):
        world.queue(second)


# From proposal to execution


@both_paths
def test_a_strategy_runs_after_proposal_vote_queue_and_execution(world: World, propose: Propose):
    agent_id = world.register_agent()
    manifest = world.manifest(agent_id)
    proposal_id = propose(world, manifest)
    starts_s = world.now_s() + GOVERNANCE.voting_delay_s
    strategy_id = world.submit(manifest)
    assert world.state(proposal_id) == "Pending"
    assert world.view(world.dao.functions.proposalSnapshot(proposal_id)) == starts_s
    assert world.view(world.dao.functions.proposalDeadline(proposal_id)) == starts_s + GOVERNANCE.voting_period_s

    world.to_voting(proposal_id)
    assert world.state(proposal_id) == "Active"
    world.vote(proposal_id)
    world.to_deadline(proposal_id)
    assert world.state(proposal_id) == "Succeeded"

    queued = one(world.send(world.dao.functions.deployApproved(proposal_id), world.stranger), "ProposalQueued")
    assert queued == {"proposalId": proposal_id, "etaSeconds": world.now_s() + GOVERNANCE.timelock_delay_s}
    assert world.state(proposal_id) == "Queued"

    events = world.execute(proposal_id)
    vault = world.view(world.factory.functions.predictVault(world.d.vault_implementation, strategy_id))
    assert one(events, "ManifestApproved") == {"manifestHash": strategy_id}
    assert one(events, "VaultCreated") == {
        "strategyId": strategy_id, "vault": vault, "implementation": world.d.vault_implementation,
    }  # fmt: skip
    assert one(events, "StrategyDeployed") == {"strategyId": strategy_id, "vault": vault, "agentId": agent_id}
    assert one(events, "CapitalAllocated") == {"strategyId": strategy_id, "vault": vault, "amount": usd(1_000_000)}
    assert one(events, "ProposalExecuted") == {"proposalId": proposal_id}
    assert world.state(proposal_id) == "Executed"
    assert world.view(world.strategies.functions.stageOf(strategy_id)) == LIVE
    status = world.status(Strategy(strategy_id, world.vault_of(strategy_id), agent_id, manifest))
    assert (status.state, status.value) == (ACTIVE, usd(1_000_000))


@both_paths
def test_a_strategy_without_capital_moves_no_money(world: World, propose: Propose):
    before = world.view(world.quote.functions.balanceOf(world.d.treasury))
    events = world.pass_proposal(propose(world, world.manifest(world.register_agent(), capital=0)))
    one(events, "StrategyDeployed")
    assert none_of(events, "CapitalAllocated")
    assert world.view(world.quote.functions.balanceOf(world.d.treasury)) == before


def test_proposing_by_the_verb_submits_the_manifest_and_fixes_the_calls(world: World):
    agent_id = world.register_agent()
    manifest = world.manifest(agent_id)
    events = world.send(world.dao.functions.proposeStrategy(struct(manifest), "Trend"), world.proposer)
    start_s = world.now_s() + GOVERNANCE.voting_delay_s
    submitted, created = one(events, "ManifestSubmitted"), one(events, "ProposalCreated")
    strategy_id, proposal_id = submitted["manifestHash"], created["proposalId"]
    assert submitted == {
        "manifestHash": strategy_id, "agentId": agent_id, "artefactHash": manifest["artefactHash"],
        "submitter": world.d.dao,
    }  # fmt: skip
    targets, values, calldatas = world.view(world.strategies.functions.callsOf(strategy_id))
    by_hand = calls_of(world, manifest, strategy_id)
    assert (targets, values) == ([call.address for call in by_hand], [0, 0, 0])
    assert ["0x" + data.hex() for data in calldatas] == [call._encode_transaction_data() for call in by_hand]
    assert created == {
        "proposalId": proposal_id, "proposer": world.proposer.address, "targets": targets, "values": values,
        "signatures": ["", "", ""], "calldatas": calldatas, "voteStart": start_s,
        "voteEnd": start_s + GOVERNANCE.voting_period_s,
        "description": f"Trend#proposer={world.proposer.address.lower()}",
    }  # fmt: skip
    assert one(events, "StrategyProposed") == {
        "proposalId": proposal_id, "manifestHash": strategy_id, "proposer": world.proposer.address,
    }  # fmt: skip
    assert world.view(world.dao.functions.manifestOf(proposal_id)) == strategy_id


def test_an_already_submitted_manifest_can_be_proposed(world: World):
    manifest = world.manifest(world.register_agent())
    strategy_id = world.submit(manifest, world.stranger)
    assert world.view(world.dao.functions.manifestOf(world.propose_strategy(manifest))) == strategy_id


# Updates


def another_rate(world: World) -> Manifest:
    return {"rewardRate": REWARD_RATE + 1}


def another_agent(world: World) -> Manifest:
    return {"agentId": world.register_agent(world.other_controller, world.other_signer)}


def another_venue(world: World) -> Manifest:
    arguments = (world.book.factory, world.book.pool_init_code_hash)
    twin = world.deploy_code("UniswapV3Venue", *arguments).address
    return {"venue": twin, "venueCodeHash": Web3.keccak(world.w3.eth.get_code(twin))}


def another_implementation(world: World) -> Manifest:
    other = world.d.ledger
    return {"vaultImplementation": other, "vaultCodeHash": Web3.keccak(world.w3.eth.get_code(other))}


@both_paths
@pytest.mark.parametrize(
    ("change", "field"),
    [
        (another_rate, "rewardRate"),
        (another_agent, "agentId"),
        (another_venue, "venue"),
        (another_implementation, "vaultImplementation"),
    ],
)
def test_an_update_cannot_change_what_is_fixed_for_life(
    world: World, strategy: Strategy, propose: Propose, change, field: str
):
    manifest = update_of(world, strategy) | change(world)
    with world.reverts("StrategyRegistryFixedField", field=field):
        propose(world, manifest)


@both_paths
def test_an_update_cannot_drop_an_asset_that_is_held(world: World, strategy: Strategy, propose: Propose):
    world.buy(strategy, usd(100_000))
    with world.reverts("StrategyRegistryAssetStillHeld", token=world.token_of("ETH"), amount=world.held(strategy)):
        propose(world, update_of(world, strategy, assets=["BTC"]))


@both_paths
def test_an_update_of_nothing_that_runs_is_refused(world: World, propose: Propose):
    unknown = b"\x07" * 32
    with world.reverts("StrategyRegistryWrongStage", id=unknown, stage=NONE):
        propose(world, world.manifest(world.register_agent(), updates=unknown))


@both_paths
def test_an_update_is_refused_at_the_execution_when_the_strategy_retired_meanwhile(
    world: World, strategy: Strategy, propose: Propose
):
    proposal_id = propose(world, update_of(world, strategy))
    pass_vote(world, proposal_id)
    world.as_timelock(world.strategies.functions.retire(strategy.id))
    with world.reverts("StrategyRegistryWrongStage", id=strategy.id, stage=RETIRING):
        world.queue(proposal_id)


@both_paths
def test_an_update_changes_artefact_limits_assets_cap_and_capital(world: World, strategy: Strategy, propose: Propose):
    tighter = replace(LIMITS, max_position_bps=4000)
    manifest = update_of(world, strategy, limits=tighter, assets=["ETH", "BTC"], rewardCap=tokens(6_000))
    version = world.submit(manifest)
    events = world.pass_proposal(propose(world, manifest))

    assert one(events, "StrategyUpdated") == {
        "strategyId": strategy.id, "version": version, "artefactHash": bytes(NEW_ARTEFACT),
    }  # fmt: skip
    updated = one(events, "VaultUpdated")
    assert updated["artefactHash"] == NEW_ARTEFACT
    assert tuple(updated["limits"].values()) == tighter.as_tuple()
    assert one(events, "CapSet") == {"vault": strategy.vault.address, "cap": tokens(6_000)}
    assert one(events, "CapitalAllocated") == {
        "strategyId": strategy.id, "vault": strategy.vault.address, "amount": usd(100_000),
    }  # fmt: skip
    assert world.view(strategy.vault.functions.artefactHash()) == NEW_ARTEFACT
    assert tuple(world.view(strategy.vault.functions.limits())) == tighter.as_tuple()
    assert [a.token for a in world.view(strategy.vault.functions.assets())] == [
        world.token_of("ETH"),
        world.token_of("BTC"),
    ]
    assert world.status(strategy).value == usd(1_100_000)
    stage_of = world.strategies.functions.stageOf
    assert (world.view(stage_of(strategy.id)), world.view(stage_of(version))) == (SUPERSEDED, LIVE)
    assert world.view(world.strategies.functions.strategyOf(strategy.id)).version == version


@pytest.mark.parametrize("first", [0, 1], ids=["in the order of the votes", "the other way round"])
def test_of_two_updates_of_the_same_version_the_first_that_anyone_executes_wins(
    world: World, strategy: Strategy, first: int
):
    """What was voted last does not win by that: an urgent limit belongs into the constitution, or halts."""
    versions = [update_of(world, strategy, salt=bytes([i]) * 32) for i in (1, 2)]
    hashes = [world.submit(version) for version in versions]
    proposals = [world.propose_strategy(version) for version in versions]
    world.to_voting(proposals[1])
    for proposal_id in proposals:
        world.vote(proposal_id)
    world.to_deadline(proposals[1])
    for proposal_id in proposals:
        world.queue(proposal_id)
    world.travel_to(world.view(world.dao.functions.proposalEta(proposals[1])))
    events = world.send(world.dao.functions.deployApproved(proposals[first]), world.stranger)
    assert one(events, "StrategyUpdated")["version"] == hashes[first]
    with world.reverts("StrategyRegistryStaleUpdate", manifestHash=hashes[1 - first], running=hashes[first]):
        world.queue(proposals[1 - first])


# Recall and retirement


def recall(world: World, strategy: Strategy, *items: tuple[str, int, int]) -> int:
    [event, *_] = world.send(world.dao.functions.proposeRecall(strategy.id, items, "recall"), world.proposer)
    return int(event.args["proposalId"])


def retirement(world: World, strategy: Strategy, description: str = "retire") -> int:
    [event] = world.send(world.dao.functions.proposeRetirement(strategy.id, description), world.proposer)
    return int(event.args["proposalId"])


def test_recall_and_retirement_of_an_unknown_strategy_are_refused(world: World):
    unknown = b"\x07" * 32
    for call in (
        world.dao.functions.proposeRecall(unknown, [(world.book.quote, 1, 0)], "recall"),
        world.dao.functions.proposeRetirement(unknown, "retire"),
    ):
        with world.reverts("StrategyRegistryUnknownManifest", manifestHash=unknown):
            world.send(call, world.proposer)


def test_a_recall_of_nothing_is_no_proposal(world: World, strategy: Strategy):
    with world.reverts("GovernorInvalidProposalLength", targets=0, calldatas=0, values=0):
        recall(world, strategy)


def test_a_strategy_retires_once(world: World, strategy: Strategy):
    first, second = retirement(world, strategy, "first"), retirement(world, strategy, "second")
    world.evm.travel(GOVERNANCE.voting_delay_s + 1)
    world.vote(first)
    world.vote(second)
    world.to_deadline(second)
    world.queue(first)
    world.queue(second)
    world.travel_to(world.view(world.dao.functions.proposalEta(second)))
    world.queue(first)
    with world.reverts("StrategyRegistryWrongStage", id=strategy.id, stage=RETIRING):
        world.queue(second)


def test_capital_is_recalled_in_kind_by_proposal(world: World, strategy: Strategy):
    world.buy(strategy, usd(100_000))
    ether = world.held(strategy)
    before = world.view(world.quote.functions.balanceOf(world.d.treasury))
    proposal_id = recall(world, strategy, (world.token_of("ETH"), ether, 0), (world.book.quote, usd(250_000), 0))
    targets, values, calldatas, _ = world.view(world.dao.functions.proposalDetails(proposal_id))
    functions = world.treasury.functions
    by_hand = [
        functions.recall(strategy.id, world.token_of("ETH"), ether, 0),
        functions.recall(strategy.id, world.book.quote, usd(250_000), 0),
    ]
    assert (targets, values) == ([world.d.treasury] * 2, [0, 0])
    assert ["0x" + data.hex() for data in calldatas] == [call._encode_transaction_data() for call in by_hand]

    recalled = [e.args for e in world.pass_proposal(proposal_id) if e.name == "CapitalRecalled"]
    assert recalled == [
        {"strategyId": strategy.id, "token": world.token_of("ETH"), "amount": ether},
        {"strategyId": strategy.id, "token": world.book.quote, "amount": usd(250_000)},
    ]
    assert world.held(strategy) == 0
    weth = world.evm.at("MockToken", world.token_of("ETH"))
    assert world.view(weth.functions.balanceOf(world.d.treasury)) == ether
    assert world.view(world.quote.functions.balanceOf(world.d.treasury)) == before + usd(250_000)


def test_a_recall_succeeds_without_a_price_at_the_price_that_was_voted(world: World, strategy: Strategy):
    world.buy(strategy, usd(100_000))
    world.as_timelock(world.oracle.functions.removeFeed(world.token_of("ETH")))
    events = world.pass_proposal(recall(world, strategy, (world.token_of("ETH"), eth(10), 1500 * 10**18)))
    assert one(events, "Recalled")["value"] == usd(15_000)
    assert one(events, "CapitalRecalled")["amount"] == eth(10)


def test_a_retirement_halts_the_strategy(world: World, strategy: Strategy):
    proposal_id = retirement(world, strategy)
    targets, values, calldatas, _ = world.view(world.dao.functions.proposalDetails(proposal_id))
    assert (targets, values) == ([world.d.strategies], [0])
    assert "0x" + calldatas[0].hex() == world.strategies.functions.retire(strategy.id)._encode_transaction_data()

    events = world.pass_proposal(proposal_id)
    assert one(events, "StrategyRetiring") == {"strategyId": strategy.id}
    assert one(events, "StateChanged")["state"] == HALTED
    assert world.view(world.strategies.functions.stageOf(strategy.id)) == RETIRING
    assert world.status(strategy).state == HALTED


# `deployApproved`


def harmless(world: World) -> Any:
    return world.treasury.functions.setOutflowCap(world.book.quote, 0)


def proposal_in(world: World, state: str) -> int:
    proposal_id = world.propose([harmless(world)])
    if state == "Pending":
        return proposal_id
    if state == "Canceled":
        world.send(world.dao.functions.cancel(proposal_id), world.proposer)
        return proposal_id
    world.to_voting(proposal_id)
    if state == "Active":
        return proposal_id
    world.vote(proposal_id, AGAINST if state == "Defeated" else FOR)
    world.to_deadline(proposal_id)
    if state == "Expired":
        world.evm.travel(GOVERNANCE.grace_s)
    if state == "Executed":
        world.queue(proposal_id)
        world.execute(proposal_id)
    return proposal_id


@pytest.mark.parametrize("state", ["Pending", "Active", "Canceled", "Defeated", "Expired", "Executed"])
def test_deploy_approved_refuses_every_state_but_succeeded_and_queued(world: World, state: str):
    proposal_id = proposal_in(world, state)
    assert world.state(proposal_id) == state
    with world.reverts("DaoNotDeployable", proposalId=proposal_id, state=PROPOSAL_STATES.index(state)):
        world.send(world.dao.functions.deployApproved(proposal_id), world.proposer)


def test_deploy_approved_refuses_a_proposal_that_does_not_exist(world: World):
    with world.reverts("GovernorNonexistentProposal", proposalId=7):
        world.send(world.dao.functions.deployApproved(7), world.proposer)


def test_anyone_queues_with_one_call_and_executes_with_the_next(world: World):
    proposal_id = proposal_in(world, "Succeeded")
    world.send(world.dao.functions.deployApproved(proposal_id), world.stranger)
    assert world.state(proposal_id) == "Queued"
    world.travel_to(world.view(world.dao.functions.proposalEta(proposal_id)))
    events = world.send(world.dao.functions.deployApproved(proposal_id), world.relayer)
    assert one(events, "OutflowCapSet") == {"token": world.book.quote, "cap": 0, "effectiveAt": world.now_s()}
    assert world.state(proposal_id) == "Executed"


# `#proposer=`


def test_nobody_else_can_submit_a_proposal_that_names_its_proposer(world: World):
    manifest = world.manifest(world.register_agent())
    calls = calls_of(world, manifest, world.submit(manifest))
    seen_in_the_mempool = f"a strategy#proposer={world.proposer.address.lower()}"
    with world.reverts("GovernorRestrictedProposer", proposer=world.voter_a.address):
        world.propose(calls, seen_in_the_mempool, proposer=world.voter_a)
    assert world.state(world.propose_strategy(manifest)) == "Pending"


def test_the_verb_names_its_caller_whatever_the_description_says(world: World):
    description = f"a strategy#proposer={world.voter_a.address}"
    proposal_id = world.propose_strategy(world.manifest(world.register_agent()), description)
    [created] = [e.args for e in world.history(world.dao) if e.name == "ProposalCreated"]
    assert created["description"] == f"{description}#proposer={world.proposer.address.lower()}"
    assert world.view(world.dao.functions.proposalProposer(proposal_id)) == world.proposer.address


def test_every_proposing_verb_names_its_caller(world: World, strategy: Strategy):
    recall(world, strategy, (world.book.quote, 1, 0))
    retirement(world, strategy)
    created = [e.args["description"] for e in world.history(world.dao) if e.name == "ProposalCreated"]
    suffix = f"#proposer={world.proposer.address.lower()}"
    assert created == ["recall" + suffix, "retire" + suffix]


def test_without_the_suffix_a_proposal_can_be_taken_and_cancelled_by_another(world: World):
    """What the suffix is for: a generic proposal is only as safe as its description."""
    taken = world.propose([harmless(world)], "a plan", proposer=world.voter_a)
    world.send(world.dao.functions.cancel(taken), world.voter_a)
    with world.reverts(
        "GovernorUnexpectedProposalState",
        proposalId=taken, current=PROPOSAL_STATES.index("Canceled"), expectedStates=bytes(32),
    ):  # fmt: skip
        world.propose([harmless(world)], "a plan")


def test_verb_and_generic_proposal_of_the_same_text_are_one_proposal(world: World):
    manifest = world.manifest(world.register_agent())
    proposal_id = world.propose_strategy(manifest)
    text = f"a strategy#proposer={world.proposer.address.lower()}"
    with world.reverts(
        "GovernorUnexpectedProposalState",
        proposalId=proposal_id, current=PROPOSAL_STATES.index("Pending"), expectedStates=bytes(32),
    ):  # fmt: skip
        world.propose(calls_of(world, manifest, world.submit(manifest)), text)


def test_only_its_proposer_cancels_and_only_before_the_vote(world: World):
    proposal_id = world.propose([harmless(world)])
    with world.reverts("GovernorUnableToCancel", proposalId=proposal_id, account=world.voter_a.address):
        world.send(world.dao.functions.cancel(proposal_id), world.voter_a)
    world.to_voting(proposal_id)
    with world.reverts("GovernorUnableToCancel", proposalId=proposal_id, account=world.proposer.address):
        world.send(world.dao.functions.cancel(proposal_id), world.proposer)


# `rewardAgent`


def closed_window(world: World, strategy: Strategy, price_usd: int) -> int:
    """The frozen result of a window in which ETH stood at that price."""
    world.buy(strategy, usd(300_000))
    world.to_next_window()
    world.set_price("ETH", price_usd)
    world.poke(strategy)
    world.to_window_end()
    events = world.send(world.pool.functions.closeWindow(strategy.vault.address), world.stranger)
    return int(one(events, "WindowClosed")["move"])


def test_without_a_frozen_result_there_is_no_reward(world: World, strategy: Strategy):
    for agent_id in (strategy.agent_id, 77):
        with world.reverts("RewardPoolNoResult", agentId=agent_id):
            world.send(world.dao.functions.rewardAgent(agent_id, 0), world.stranger)


@pytest.mark.parametrize("price_usd", [2100, 1900])
def test_a_claimed_result_must_be_the_frozen_one_to_the_unit(world: World, strategy: Strategy, price_usd: int):
    settled = closed_window(world, strategy, price_usd)
    for claimed in (settled + 1, settled - 1, -settled, 0):
        with world.reverts("RewardPnlMismatch", claimed=claimed, settled=settled):
            world.send(world.dao.functions.rewardAgent(strategy.agent_id, claimed), world.controller)


def test_anyone_applies_a_gain_once(world: World, strategy: Strategy):
    gain = closed_window(world, strategy, 2100)
    assert gain > 0
    events = world.send(world.dao.functions.rewardAgent(strategy.agent_id, gain), world.stranger)
    assert one(events, "Rewarded") == {
        "vault": strategy.vault.address, "agentId": strategy.agent_id, "pnl": gain,
        "reward": gain * REWARD_RATE, "credited": gain,
    }  # fmt: skip
    with world.reverts("RewardPoolNoResult", agentId=strategy.agent_id):
        world.send(world.dao.functions.rewardAgent(strategy.agent_id, gain), world.stranger)


def test_a_loss_is_a_valid_result(world: World, strategy: Strategy):
    loss = closed_window(world, strategy, 1900)
    assert loss < 0
    events = world.send(world.dao.functions.rewardAgent(strategy.agent_id, loss), world.stranger)
    assert one(events, "ClawedBack") == {
        "vault": strategy.vault.address, "agentId": strategy.agent_id, "pnl": loss,
        "fromUnclaimed": 0, "fromBond": -loss * REWARD_RATE, "credited": loss,
    }  # fmt: skip


# What the governor is


def deploy_dao(world: World, **changes: int) -> Any:
    settings = replace(GOVERNANCE, **changes).as_tuple()
    arguments = (world.d.token, world.d.timelock, world.d.strategies, world.d.pool, settings)
    return world.evm.deploy("MARKETFLOW_DAO", *arguments, sender=world.stranger)


@pytest.mark.parametrize(
    "changes",
    [
        {"quorum_bps": 10_001},
        {"grace_s": 0},
        {"voting_delay_s": 0},
        {"last_stretch_s": GOVERNANCE.voting_period_s + 1},
        {"voting_delay_s": MAX_VOTING_S + 1},
        {"voting_period_s": MAX_VOTING_S + 1},
        {"proposal_threshold_wei": GOVERNANCE.quorum_floor_wei + 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_that_make_no_sense_are_refused(world: World, changes: dict[str, int]):
    with world.reverts("DaoInvalidSettings"):
        deploy_dao(world, **changes)


def test_a_vote_without_duration_is_refused(world: World):
    with world.reverts("GovernorInvalidVotingPeriod", votingPeriod=0):
        deploy_dao(world, voting_period_s=0)


def test_settings_at_their_bounds_are_taken(world: World):
    dao = deploy_dao(world, quorum_bps=10_000, grace_s=1, voting_delay_s=1, last_stretch_s=GOVERNANCE.voting_period_s)
    functions = dao.functions
    assert world.view(functions.quorumBps()) == 10_000
    assert world.view(functions.graceS()) == world.view(functions.votingDelay()) == 1
    assert world.view(functions.lastStretchS()) == world.view(functions.votingPeriod())


def test_the_settings_are_those_of_genesis(world: World):
    names = (
        "votingDelay votingPeriod proposalThreshold quorumFloor quorumBps lastStretchS objectionPeriodS graceS".split()
    )
    assert tuple(world.view(world.dao.functions[name]()) for name in names) == GOVERNANCE.as_tuple()
    assert world.view(world.dao.functions.strategies()) == world.d.strategies
    assert world.view(world.dao.functions.pool()) == world.d.pool
    assert world.view(world.dao.functions.timelock()) == world.d.timelock
    assert world.view(world.dao.functions.token()) == world.d.token


def test_tools_that_know_the_governor_of_openzeppelin_find_what_they_look_for(world: World):
    functions = world.dao.functions
    assert world.view(functions.name()) == "MARKETFLOW_DAO"
    assert world.view(functions.version()) == "1"
    assert world.view(functions.COUNTING_MODE()) == "support=bravo&quorum=for,abstain"
    assert world.view(functions.CLOCK_MODE()) == world.view(world.token.functions.CLOCK_MODE()) == "mode=timestamp"
    assert world.view(functions.clock()) == world.now_s()
    assert world.view(functions.supportsInterface(bytes.fromhex("65455a86")))  # IGovernor of OpenZeppelin 5.x
    assert world.view(functions.proposalNeedsQueuing(0))


@pytest.mark.parametrize(
    ("setter", "before", "after"),
    [
        ("setVotingDelay", GOVERNANCE.voting_delay_s, 1),
        ("setVotingDelay", GOVERNANCE.voting_delay_s, MAX_VOTING_S),
        ("setVotingPeriod", GOVERNANCE.voting_period_s, GOVERNANCE.last_stretch_s),
        ("setVotingPeriod", GOVERNANCE.voting_period_s, MAX_VOTING_S),
        ("setProposalThreshold", GOVERNANCE.proposal_threshold_wei, 0),
        ("setProposalThreshold", GOVERNANCE.proposal_threshold_wei, GOVERNANCE.quorum_floor_wei),
    ],
)
def test_settings_change_by_vote_only(world: World, setter: str, before: int, after: int):
    call = world.dao.functions[setter](after)
    for who in (world.proposer, world.deployer, world.guardian):
        with world.reverts("GovernorOnlyExecutor", account=who.address):
            world.send(call, who)
    # Not even by the timelock, outside of an execution.
    with world.reverts("Panic", code=0x31, meaning="pop of an empty array"):
        world.as_timelock(call)
    name = setter.removeprefix("set")
    events = world.pass_proposal(world.propose([call]))
    assert one(events, f"{name}Set") == {f"old{name}": before, f"new{name}": after}


@pytest.mark.parametrize(
    ("setter", "value"),
    [
        ("setVotingDelay", 0),
        ("setVotingDelay", MAX_VOTING_S + 1),
        ("setVotingPeriod", GOVERNANCE.last_stretch_s - 1),
        ("setVotingPeriod", MAX_VOTING_S + 1),
        ("setProposalThreshold", GOVERNANCE.quorum_floor_wei + 1),
    ],
)
def test_no_vote_can_end_all_votes(world: World, setter: str, value: int):
    """Votes that never begin, last for ever or can't be called; or that nobody has time to cast."""
    proposal_id = world.propose([world.dao.functions[setter](value)])
    pass_vote(world, proposal_id)
    with world.reverts("DaoInvalidSettings"):
        world.queue(proposal_id)


def test_the_governor_takes_no_ether(world: World):
    with world.reverts("GovernorDisabledDeposit"):
        world.evm.send({"to": world.d.dao, "data": b""}, world.stranger, value=1)
