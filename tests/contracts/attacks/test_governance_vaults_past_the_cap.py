"""The treasury's outflow is capped; what it has allocated lies in vaults. Does a captured vote get that out as well?"""

from __future__ import annotations

from decimal import Decimal

from agents.localnet import feeds
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import OUTFLOW_CAP, QUORUM, amount, attacker, dollars, drain
from tests.contracts.world import DAY_S, Strategy, World, usd

HELD = usd(500_000)


def test_a_captured_vote_sells_what_vaults_hold_at_a_feed_of_its_own_beyond_the_cap(
    world: World, strategy: Strategy, attack: Report
):
    """A known limitation. One vote: a feed of the attacker's own for what the vault holds, a halt, and as much as may
    leave. The auction then sells the vault's assets at the attacker's price. The allocation was counted a month ago."""
    world.buy(strategy, HELD)
    world.travel(31 * DAY_S)
    minority = attacker(world, QUORUM)
    held, price_usd = world.held(strategy), Decimal(2000)
    feed = feeds.deploy_feed(world.evm, "ETH / USD", 8, owner=minority.account, transmitter=minority.account)

    def publish() -> None:
        feeds.publish(world.evm, feed, 2 * 10**8, transmitter=minority.account)

    publish()
    proposal_id = minority.proposes(
        [
            world.oracle.functions.setFeed(world.token_of("ETH"), feed, 30 * DAY_S, 10**8, 10**14),
            world.strategies.functions.halt(strategy.id),
            drain(world, minority.address),
        ],
        "a better feed",
    )
    world.to_voting(proposal_id)
    minority.votes(proposal_id)
    world.to_deadline(proposal_id)
    minority.does(world.dao.functions.deployApproved(proposal_id))
    world.travel_to(world.view(world.dao.functions.proposalEta(proposal_id)))
    minority.does(world.dao.functions.deployApproved(proposal_id))

    minority.does(world.quote.functions.approve(strategy.vault.address, OUTFLOW_CAP))
    asset = world.token_of("ETH")
    while world.held(strategy):
        publish()  # each lot takes a newer round
        minority.does(strategy.vault.functions.fillAuction(asset, OUTFLOW_CAP))
    paid = OUTFLOW_CAP - minority.quote
    bought = world.market.balance(asset, minority.account)
    worth = int(bought * price_usd) // 10**12
    attack.outcome(
        gained=f"{dollars(minority.quote + worth)}: {dollars(worth)} of a vault's assets beyond the cap",
        cost=f"{dollars(paid)} in the auction, {amount(QUORUM)} at one snapshot, {minority.gas:,} gas",
        stopped_by="nothing but the voters: feeds are theirs to list",
    )
    assert bought == held
    assert OUTFLOW_CAP < minority.quote + worth <= OUTFLOW_CAP + HELD
