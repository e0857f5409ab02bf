"""The whole circle on anvil and on py-evm, with the same numbers at its end: to the wei, the second and the gas.

Whoever has no anvil runs everything on py-evm; this is why that is as good.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from eth_utils import keccak

from agents.localnet import anvil
from agents.localnet.evm import start_evm
from tests.contracts.world import DAY_S, HOUR_S, REWARD_RATE, WAD, Strategy, World, none_of, one, tokens, usd

KINDS = [
    pytest.param("anvil", marks=pytest.mark.skipif(anvil.find_anvil() is None, reason="anvil is not installed")),
    "py-evm",
]
AGAINST, FOR = 0, 1
REDUCING, HALTED = 1, 2
PRICE_MISSING, GUARDIAN, QUOTE_UNHEALTHY = 16, 64, 256
EVERYTHING = 2**128 - 1


# The story


@cache
def tell_story(kind: str) -> dict[str, Any]:
    """One strategy from its proposal to its end; returns every number that is left then."""
    with start_evm(kind) as evm:
        world = World(evm)
        strategy = vote_in(world)
        trade_and_be_refused(world, strategy)
        earn_and_give_back(world, strategy)
        recall_by_vote(world, strategy)
        retire(world, strategy)
        world.assert_books_balance()
        return numbers_of(world, strategy)


def vote_in(world: World) -> Strategy:
    """Proposed by its verb, voted for directly twice and once by signature, queued and executed by anybody."""
    agent_id, dao = world.register_agent(), world.dao
    manifest = world.manifest(agent_id)
    proposal = world.propose_strategy(manifest, "Buy the dip")
    assert world.state(proposal) == "Pending"
    world.to_voting(proposal)
    world.send(dao.get_function_by_signature("voteStrategy(uint256)")(proposal), world.voter_a)
    world.send(dao.get_function_by_signature("voteStrategy(uint256,uint8)")(proposal, FOR), world.voter_b)
    ballot = world.sign_ballot(world.small_holder, proposal, AGAINST)
    by_signature = dao.functions.voteStrategyBySig(proposal, AGAINST, world.small_holder.address, ballot)
    cast = one(world.send(by_signature, world.relayer), "VoteCast")
    assert (cast["voter"], cast["weight"]) == (world.small_holder.address, tokens(5000))
    assert world.view(dao.functions.proposalVotes(proposal)) == (tokens(5000), tokens(1_800_000), 0)

    world.to_deadline(proposal)
    assert world.state(proposal) == "Succeeded"
    world.queue(proposal)
    assert world.state(proposal) == "Queued"
    events = world.execute(proposal)
    assert world.state(proposal) == "Executed"
    strategy_id = one(events, "StrategyDeployed")["strategyId"]
    assert one(events, "Allocated")["amount"] == manifest["capital"]
    return Strategy(strategy_id, world.vault_of(strategy_id), agent_id, manifest)


def trade_and_be_refused(world: World, strategy: Strategy) -> None:
    assert one(world.buy(strategy, usd(300_000)), "TradeRecorded")["trade"]["amountIn"] == usd(300_000)
    artefact, other = bytes(strategy.manifest["artefactHash"]), keccak(text="artefact v2")
    with world.reverts("VaultWrongArtefact", expected=artefact, given=other):
        world.buy(strategy, usd(1000), artefactHash=other)
    world.send(world.constitution.functions.stopVault(strategy.vault.address, DAY_S), world.guardian)
    events = world.buy(strategy, usd(1000))
    assert one(events, "TradeRefused")["reasons"] == GUARDIAN
    assert none_of(events, "TradeRecorded")
    world.send(world.constitution.functions.liftVaultStop(strategy.vault.address), world.guardian)
    assert one(world.buy(strategy, usd(1000)), "TradeRecorded")["trade"]["sequence"] == 1


def earn_and_give_back(world: World, strategy: Strategy) -> None:
    """A gain is paid and begins to vest; the loss after it is taken back at the same rate, to the unit."""
    world.set_price("ETH", 2120)
    gain = world.settle(strategy)
    account = world.account(strategy)
    assert gain > 0
    assert (account.credited, account.unvested) == (gain, REWARD_RATE * gain)

    world.travel(DAY_S)
    claimed = one(world.send(world.pool.functions.claim(strategy.vault.address), world.stranger), "Claimed")
    assert claimed["to"] == world.controller.address
    world.set_price("ETH", 2060)
    loss = world.settle(strategy)
    assert -gain < loss < 0
    assert world.account(strategy).credited == gain + loss


def recall_by_vote(world: World, strategy: Strategy) -> None:
    items = [(world.book.quote, usd(100_000), 0)]
    propose = world.dao.functions.proposeRecall(strategy.id, items, "Take some back")
    proposal = one(world.send(propose, world.proposer), "ProposalCreated")["proposalId"]
    recalled = one(world.pass_proposal(proposal), "Recalled")
    assert (recalled["token"], recalled["amount"]) == (world.book.quote, usd(100_000))


def retire(world: World, strategy: Strategy) -> None:
    """By vote; a quarter is sold by auction, the rest recalled in kind; the last window settles, the bond is free."""
    propose = world.dao.functions.proposeRetirement(strategy.id, "Thank you")
    proposal = one(world.send(propose, world.proposer), "ProposalCreated")["proposalId"]
    events = world.pass_proposal(proposal)
    assert one(events, "StrategyRetiring") == {"strategyId": strategy.id}
    assert world.status(strategy).state == HALTED

    world.travel(HOUR_S)
    fill_auction(world, strategy)
    for token in (world.token_of("ETH"), world.book.quote):
        world.as_timelock(world.treasury.functions.recall(strategy.id, token, EVERYTHING, 0))
    world.settle(strategy)
    finish = world.strategies.functions.finishRetirement(strategy.id)
    assert one(world.send(finish, world.stranger), "StrategyRetired") == {"strategyId": strategy.id}
    releasable = world.view(world.pool.functions.releasableBond(strategy.agent_id))
    world.send(world.agents.functions.withdrawBond(strategy.agent_id, releasable), world.controller)


def fill_auction(world: World, strategy: Strategy) -> dict[str, Any]:
    world.market.give_quote(world.bidder, usd(1_000_000))
    world.send(world.quote.functions.approve(strategy.vault.address, usd(1_000_000)), world.bidder)
    fill = strategy.vault.functions.fillAuction(world.token_of("ETH"), usd(1_000_000))
    return one(world.send(fill, world.bidder), "AuctionFilled")


def numbers_of(world: World, strategy: Strategy) -> dict[str, Any]:
    holders = {
        "treasury": world.d.treasury, "pool": world.d.pool, "agents": world.d.agents,
        "vault": strategy.vault.address, "controller": world.controller.address, "bidder": world.bidder.address,
    }  # fmt: skip
    listed = {"quote": world.book.quote, "eth": world.token_of("ETH"), "token": world.d.token}
    blocks = [world.w3.eth.get_block(number) for number in range(world.w3.eth.block_number + 1)]
    return {
        "block": len(blocks),
        "now": world.now_s(),
        "gas of every block": [block["gasUsed"] for block in blocks],
        "head": bytes(world.view(world.ledger.functions.headOf(strategy.vault.address))).hex(),
        "account": world.account(strategy)._asdict(),
        "book": world.view(strategy.vault.functions.book())._asdict(),
        "guard": world.view(strategy.vault.functions.guard())._asdict(),
        "balances": {
            (holder, name): world.market.balance(token, address)
            for holder, address in holders.items()
            for name, token in listed.items()
        },
    }


@pytest.mark.parametrize("kind", KINDS)
def test_one_strategy_from_its_proposal_to_its_retirement(kind: str) -> None:
    numbers = tell_story(kind)
    assert numbers["balances"]["vault", "quote"] == numbers["balances"]["vault", "eth"] == 0
    assert numbers["book"]["units"] == 0
    assert not numbers["account"]["live"]


@pytest.mark.skipif(anvil.find_anvil() is None, reason="anvil is not installed")
def test_both_evms_end_the_story_with_the_same_numbers() -> None:
    on_anvil, on_py_evm = tell_story("anvil"), tell_story("py-evm")
    assert on_anvil == on_py_evm


# What an engine could get wrong, on both


@pytest.fixture(scope="module", params=KINDS)
def deployed(request: pytest.FixtureRequest) -> Iterator[World]:
    """In place of the session's: the fixtures `world` and `strategy` build on this one."""
    with start_evm(request.param) as evm:
        yield World(evm)


def test_a_refusal_says_the_same_in_a_call_and_in_a_transaction(world: World, strategy: Strategy) -> None:
    halt = world.strategies.functions.halt(strategy.id)
    for act in (lambda: world.evm.call(halt, world.stranger), lambda: world.send(halt, world.stranger)):
        with world.reverts("StrategyRegistryUnauthorized", caller=world.stranger.address):
            act()


def test_a_vault_is_a_minimal_clone_where_it_was_predicted(world: World, strategy: Strategy) -> None:
    predict = world.factory.functions.predictVault(world.d.vault_implementation, strategy.id)
    assert world.view(predict) == strategy.vault.address
    implementation = world.d.vault_implementation.removeprefix("0x").lower()
    code = f"363d3d373d3d3d363d73{implementation}5af43d82803e903d91602b57fd5bf3"
    assert world.w3.eth.get_code(strategy.vault.address).hex().removeprefix("0x") == code


def test_a_feed_that_burns_all_gas_takes_only_its_price_away(world: World, strategy: Strategy) -> None:
    feed = world.evm.deploy("FaultyFeed", 8, "FAULTY / USD", sender=world.deployer)
    now_s = world.now_s()
    world.send(feed.functions.setRound((1, 2000 * 10**8, now_s, now_s, 1)), world.stranger)
    world.as_timelock(world.oracle.functions.setFeed(world.token_of("ETH"), feed.address, DAY_S, 10**8, 10**14))
    world.buy(strategy, usd(1000))
    world.send(feed.functions.setMode(2), world.stranger)
    changed = one(world.poke(strategy), "StateChanged")
    assert (changed["state"], changed["reasons"]) == (REDUCING, PRICE_MISSING)


def test_a_ballot_of_a_contract_counts(world: World) -> None:
    """ERC-1271 through the governor, and secp256k1 inside it."""
    wallet = world.evm.deploy("SmartWallet", world.voter_a.address, sender=world.voter_a)
    world.send(world.token.functions.delegate(wallet.address), world.voter_a)
    world.travel(1)
    proposal = world.propose([world.oracle.functions.removeFeed(world.token_of("BTC"))])
    world.to_voting(proposal)
    ballot = world.sign_ballot(world.voter_a, proposal, FOR, signatory=wallet.address)
    call = world.dao.functions.voteStrategyBySig(proposal, FOR, wallet.address, ballot)
    cast = one(world.send(call, world.relayer), "VoteCast")
    assert (cast["voter"], cast["weight"]) == (wallet.address, tokens(1_000_000))


def test_an_auction_grows_cheaper_by_the_second(world: World, strategy: Strategy) -> None:
    world.buy(strategy, usd(400_000))
    world.as_timelock(world.strategies.functions.halt(strategy.id))
    halted_at = world.now_s()
    duration_s, discount_bps = world.genesis.rules.auction_duration_s, world.genesis.rules.auction_max_discount_bps
    for elapsed_s in (duration_s // 4, duration_s, 2 * duration_s):
        world.travel_to(halted_at + elapsed_s - 10)
        world.evm.travel_to(halted_at + elapsed_s)
        amount, quote_in, bps = world.view(strategy.vault.functions.auctionQuote(world.token_of("ETH")))
        assert bps == discount_bps * min(elapsed_s, duration_s) // duration_s
        worth = -(-amount * usd(2000) // WAD)
        assert quote_in == -(-worth * (10_000 - bps) // 10_000)
    assert fill_auction(world, strategy)["discountBps"] == discount_bps


def test_time_alone_ends_a_stop_and_a_depeg_stops_everything(world: World, strategy: Strategy) -> None:
    world.send(world.constitution.functions.stopVault(strategy.vault.address, HOUR_S), world.guardian)
    assert world.status(strategy).reasons == GUARDIAN
    world.travel(HOUR_S)
    assert world.status(strategy).reasons == 0
    world.set_price("MUSD", "0.97")
    assert world.status(strategy).reasons == QUOTE_UNHEALTHY | PRICE_MISSING
