"""An agent has a window go by unobserved, because a loss or a gain would settle better in the next one.

The market goes up or down as much with the same chance: what counts is the total of both ways.
"""

from __future__ import annotations

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import branch, credited, deploy_invested, paid_less_taken, say_tokens, settle_at
from tests.contracts.world import Strategy, World, one


def skip(world: World) -> None:
    world.to_next_window()
    world.to_window_end()


def both_ways(world: World, s: Strategy, first: int, *, skips: bool) -> list[int]:
    """Token wei paid less taken, when the price goes to `first` and from there up or down by 100 dollars."""
    totals = []
    for second in (first + 100, first - 100):
        with branch(world):
            world.set_price("ETH", first, pool_follows=False)
            if skips:
                skip(world)
            else:
                settle_at(world, s, first)
            settle_at(world, s, second)
            totals.append(paid_less_taken(world, s))
            world.assert_books_balance()
    return totals


@pytest.mark.parametrize("first", [1900, 2100])
def test_a_window_skipped_on_purpose_pays_nothing_over_both_ways_of_the_market(
    world: World, attack: Report, first: int
) -> None:
    s = deploy_invested(world)
    settle_at(world, s, 2000)
    honest, skipped = both_ways(world, s, first, skips=False), both_ways(world, s, first, skips=True)
    assert sum(skipped) <= sum(honest)
    if first < 2000:
        assert skipped == honest, "a loss is taken all the same, and what came back was never lost"
    else:
        assert skipped[0] < honest[0], "the window after a missed one does not pay"
        assert skipped[1] == honest[1], "and what fell again was not kept by settling either"
    attack.outcome(
        gained=f"{say_tokens(sum(skipped) - sum(honest))} over both ways, after a move to {first}",
        cost="no buys, claims or withdrawals meanwhile",
        stopped_by="missed windows are made up for downwards, never upwards",
    )


def test_while_a_window_is_skipped_nothing_can_be_bought_or_taken_out(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    settle_at(world, s, 2090)
    start = credited(world, s)
    skip(world)
    assert one(world.buy(s, 10**6), "TradeRefused")["reasons"] == 32
    with world.reverts("RewardPoolUnsettled", vault=s.vault.address):
        world.send(world.pool.functions.claim(s.vault.address), world.controller)
    with world.reverts("AgentRegistryUnsettled", agentId=s.agent_id):
        world.send(world.agents.functions.withdrawBond(s.agent_id, 1), world.controller)
    with world.reverts("RewardPoolWindowMissed", vault=s.vault.address, epoch=world.account(s).nextEpoch):
        world.close(s)
    settle_at(world, s, 2095)
    assert credited(world, s) == start, "the window after a missed one does not pay"
    assert settle_at(world, s, 2095) > 0, "the one after that does"
    attack.outcome(gained="0 tokens", cost="a week without trading or claims", stopped_by="UNSETTLED")
