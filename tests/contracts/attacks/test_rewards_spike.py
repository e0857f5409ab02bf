"""A wrong price for one round, in the window that settles: once, or at each of its ends."""

from __future__ import annotations

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import (
    MOST,
    branch,
    claim,
    credited,
    deploy_invested,
    least_bond,
    paid_less_taken,
    profit,
    releasable,
    say_tokens,
    settle_at,
    unclaimed,
    withdraw_bond,
)
from tests.contracts.world import DAY_S, REWARD_RATE, WINDOW_S, Strategy, World, one

SPIKE = 2400


def spikes_at_both_ends(world: World, s: Strategy, *, honest_between: bool) -> int:
    """The move of a window whose first and last observations are at a wrong price; prices are right in between."""
    epoch = world.to_next_window()
    world.observe_at(s, SPIKE)
    world.set_price("ETH", 2000, pool_follows=False)
    end_s = world.epoch_start_s(epoch + 1) + WINDOW_S
    world.travel_to(end_s - WINDOW_S // 2)
    if honest_between:
        world.poke(s, world.observer)
    world.travel_to(end_s - 60)
    world.observe_at(s, SPIKE)
    world.set_price("ETH", 2000, pool_follows=False)
    world.to_window_end()
    return world.close(s)


def test_one_spike_moves_nothing_beside_one_honest_observation(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    start = settle_at(world, s, 2000)
    for window in ((SPIKE, 2000), (2000, SPIKE), (SPIKE, 2000, SPIKE), (1600, 2000), (2000, 1600, 2000)):
        with branch(world):
            assert settle_at(world, s, *window) == 0
            assert credited(world, s) == start
    attack.outcome(gained="0 tokens for a spike of 20 %", cost="gas", stopped_by="up to the lowest observation only")


def test_a_spike_at_each_end_moves_nothing_beside_one_honest_observation(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    settle_at(world, s, 2000)
    assert spikes_at_both_ends(world, s, honest_between=True) == 0
    attack.outcome(gained="0 tokens", cost="two wrong rounds six hours apart", stopped_by="the observation between")


def test_spikes_that_are_alone_in_their_window_are_taken_back(world: World, attack: Report) -> None:
    """Nobody honest observes. The agent, at its least bond, takes out at once all that it can, and still pays."""
    agent_id = world.register_agent(bond_wei=(bond := least_bond(world)))
    s = deploy_invested(world, agent_id=agent_id)
    start = settle_at(world, s, 2000)
    move = spikes_at_both_ends(world, s, honest_between=False)
    assert move == MOST, "the cap"
    world.apply(s, move)
    # Until the next window: what can be carried away?
    world.travel(3 * DAY_S)
    carried = claim(world, s)
    withdraw_bond(world, s, releasable(world, s))
    carried += bond + start * REWARD_RATE - world.bond_of(agent_id)
    exposed = credited(world, s) - profit(world, s)
    left = unclaimed(world, s) + world.bond_of(agent_id)
    assert left >= exposed * REWARD_RATE, "what stays covers what the spike paid, several times"
    settle_at(world, s, 2000)
    world.assert_books_balance()
    assert credited(world, s) == start
    assert paid_less_taken(world, s) == start * REWARD_RATE, "as if nothing had been"
    attack.outcome(
        gained=f"0 tokens in the end; {say_tokens(MOST * REWARD_RATE)} credited for a week, "
        f"{say_tokens(carried)} of its own stake freed early",
        cost="two wrong rounds, and that nobody else observes for six hours",
        stopped_by="claw-back in the next window",
    )


def test_a_spike_of_a_drawdown_s_size_stops_the_vault_that_used_it(world: World, attack: Report) -> None:
    """What lifts the observation lifts the guard's peak too."""
    s = deploy_invested(world)
    world.to_next_window()
    world.observe_at(s, 2500)
    events = world.send(s.vault.functions.poke(), world.stranger)
    assert one(events, "ProfitObserved")
    world.observe_at(s, 2000)
    world.to_window_end()
    assert world.close(s) == 0, "no gain from it"
    refused = one(world.buy(s, 10**6), "TradeRefused")
    assert refused["reasons"] & 2, "DRAWDOWN, until a vote"
    attack.outcome(gained="0 tokens", cost="the vault only reduces until a vote", stopped_by="the drawdown latch")
