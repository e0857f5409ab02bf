"""A short life of the protocol in which everything happens at least once, for what reads it afterwards."""

from __future__ import annotations

from dataclasses import replace

from tests.contracts.world import DAY_S, HOUR_S, LIMITS, RULES, Strategy, World, eth, tokens, usd

AGAINST, FOR, ABSTAIN = range(3)


def tell(world: World) -> tuple[Strategy, Strategy]:
    """Votes that end in every way, two strategies from their proposal to an update and to retirement."""
    first = vote_in(world)
    trade_and_be_refused(world, first)
    earn_and_lose(world, first)
    update_and_recall(world, first)
    second = live_and_retire(world)
    proposals_that_fail(world)
    return first, second


def vote_in(world: World) -> Strategy:
    """Proposed by the verb; voted by its holders, by signature, and with a reason."""
    agent_id = world.register_agent()
    manifest = world.manifest(agent_id, assets=("ETH", "BTC"))
    proposal_id = world.propose_strategy(manifest)
    dao = world.dao.functions
    world.to_voting(proposal_id)
    world.send(dao.castVoteWithReason(proposal_id, FOR, "it was tested"), world.voter_a)
    signature = world.sign_ballot(world.voter_b, proposal_id, AGAINST)
    world.send(dao.voteStrategyBySig(proposal_id, AGAINST, world.voter_b.address, signature), world.relayer)
    world.send(dao.castVoteWithReasonAndParams(proposal_id, ABSTAIN, "", b"\x01"), world.small_holder)
    world.to_deadline(proposal_id)
    world.queue(proposal_id)
    world.execute(proposal_id)
    strategy_id = bytes(world.view(dao.manifestOf(proposal_id)))
    return Strategy(strategy_id, world.vault_of(strategy_id), agent_id, manifest)


def trade_and_be_refused(world: World, s: Strategy) -> None:
    """Two assets are bought, one is sold; the guardian stops the vault, which refuses, and goes on."""
    world.buy(s, usd(200_000))
    world.buy(s, usd(100_000), symbol="BTC")
    world.sell(s, eth(40))
    world.send(world.constitution.functions.stopVault(s.vault.address, DAY_S), world.guardian)
    world.buy(s, usd(1_000))
    world.as_timelock(world.constitution.functions.liftVaultStop(s.vault.address))
    world.poke(s)
    agents = world.agents.functions
    world.send(agents.setAgentURI(s.agent_id, "ipfs://agent-2"), world.controller)
    world.send(agents.setSigningKey(s.agent_id, world.other_signer.address), world.controller)
    world.send(agents.setSigningKey(s.agent_id, world.signer.address), world.controller)


def earn_and_lose(world: World, s: Strategy) -> None:
    """A gain, another while that vests, a claim of a part, a loss that takes the rest and from the bond, a gain."""
    world.set_price("ETH", 2300)
    world.settle(s)
    world.travel(2 * DAY_S)
    world.set_price("ETH", 2320)
    world.settle(s)
    world.send(world.pool.functions.claim(s.vault.address), world.stranger)
    world.set_price("ETH", 1750)
    world.settle(s)
    world.set_price("ETH", 2050)
    world.settle(s)


def live_and_retire(world: World) -> Strategy:
    """Another agent's strategy: halted and auctioned, resumed, written off, recalled, retired, and its agent sold."""
    agent_id = world.register_agent(world.other_controller, world.other_signer)
    s = world.deploy_strategy(agent_id, limits=replace(LIMITS, max_position_bps=5000), capital=usd(400_000))
    registry, treasury = world.strategies.functions, world.treasury.functions
    world.buy(s, usd(100_000), sender=world.other_signer)
    world.as_timelock(registry.halt(s.id))
    world.travel(2 * HOUR_S)
    eth_token = world.token_of("ETH")
    _, quote_in, _ = world.view(s.vault.functions.auctionQuote(eth_token))
    world.market.give_quote(world.bidder, quote_in)
    world.send(world.quote.functions.approve(s.vault.address, quote_in), world.bidder)
    world.send(s.vault.functions.fillAuction(eth_token, quote_in), world.bidder)
    world.as_timelock(registry.resume(s.id))
    world.as_timelock(world.agents.functions.awardDeposit(agent_id, usd(5_000)))
    world.as_timelock(registry.retire(s.id))
    world.as_timelock(treasury.recall(s.id, eth_token, eth(10), 0))
    world.as_timelock(treasury.recall(s.id, world.book.quote, usd(10_000_000), 0))
    world.as_timelock(registry.writeOff(s.id, eth_token))
    world.market.give_quote(s.vault.address, usd(7))
    world.send(s.vault.functions.skim(world.book.quote), world.stranger)
    world.to_next_window()
    world.settle(s)
    world.send(registry.finishRetirement(s.id), world.stranger)
    agents, owner = world.agents.functions, world.other_controller.address
    world.send(agents.withdrawDeposit(agent_id, usd(1_000)), world.other_controller)
    world.send(agents.withdrawBond(agent_id, tokens(100)), world.other_controller)
    world.send(agents.transferFrom(owner, world.bidder.address, agent_id), world.other_controller)
    return s


def update_and_recall(world: World, s: Strategy) -> None:
    """A new version with other limits and more capital, part of which comes back; one that is only submitted; and a
    result that nobody applies."""
    changed = s.manifest | {
        "updates": s.id, "artefactHash": b"\x02" * 32, "capital": usd(100_000),
        "limits": replace(LIMITS, max_trades_per_day=9).as_tuple(),
    }  # fmt: skip
    version = world.submit(changed)
    world.as_timelock(world.strategies.functions.approve(version))
    world.as_timelock(world.strategies.functions.applyUpdate(version))
    world.as_timelock(world.treasury.functions.allocate(s.id, usd(100_000)))
    world.as_timelock(world.treasury.functions.recall(s.id, world.book.quote, usd(50_000), 0))
    world.submit(changed | {"salt": b"\x07" * 32})
    world.set_price("ETH", 2100)
    world.to_next_window()
    world.poke(s)
    world.to_window_end()
    assert world.close(s) > 0


def proposals_that_fail(world: World) -> None:
    """One is canceled, one voted down, one without a quorum, one turned down in its objection period, one expires, and
    one is still to be voted on."""
    rules = world.constitution.functions.setRules(RULES.as_tuple())
    canceled, down, ignored, flipped, passed = (world.propose([rules], f"proposal {i}") for i in range(5))
    arguments = ([rules.address], [0], [rules._encode_transaction_data()], world.w3.keccak(text="proposal 0"))
    world.send(world.dao.functions.cancel(*arguments), world.proposer)
    assert world.state(canceled) == "Canceled"
    world.to_voting(ignored)
    world.vote(down, AGAINST)
    world.vote(passed)
    world.vote(flipped, AGAINST, [world.voter_b])
    deadline_s = int(world.view(world.dao.functions.proposalDeadline(flipped)))
    world.travel_to(deadline_s - HOUR_S)
    world.vote(flipped, FOR, [world.voter_a])
    world.travel_to(deadline_s + 60)
    world.vote(flipped, AGAINST, [world.proposer])
    world.travel_to(deadline_s + 8 * DAY_S)
    world.propose([rules], "the last one")


