"""Others use up what the pool has, so that nothing is left for an agent that earned it."""

from __future__ import annotations

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import CAP, paid_less_taken, say_tokens
from tests.contracts.world import Strategy, World, tokens, usd


def test_others_can_not_use_up_what_is_set_aside_for_one(world: World, attack: Report) -> None:
    """Three vaults of one person and a victim, a pool with exactly four caps. The person settles first, every time."""
    poor = World(world.evm, reward_fund_wei=4 * CAP)
    vaults = [poor.deploy_strategy(poor.register_agent()) for _ in range(3)]
    victim = poor.deploy_strategy(poor.register_agent(poor.other_controller, poor.other_signer))
    for s in vaults:
        poor.buy(s, usd(500_000))
    poor.buy(victim, usd(500_000), sender=poor.other_signer)
    fifth = poor.manifest(poor.register_agent(), rewardCap=CAP)
    fifth_id = poor.submit(fifth)
    poor.as_timelock(poor.strategies.functions.approve(fifth_id))
    with poor.reverts("RewardPoolUnderfunded", needed=CAP, free=0):
        poor.as_timelock(poor.factory.functions.deployVault(fifth_id))

    def window(price: int, order: list[Strategy]) -> list[int]:
        poor.to_next_window()
        poor.set_price("ETH", price, pool_follows=False)
        for s in order:
            poor.poke(s)
        poor.to_window_end()
        for s in order:
            if move := poor.close(s):
                poor.apply(s, move)
        return [paid_less_taken(poor, s) for s in order]

    assert window(2500, [*vaults, victim]) == [CAP] * 4, "in whatever order"
    assert window(2500, [*vaults, victim]) == [CAP] * 4, "the pool is empty: all wait"
    poor.send(poor.token.functions.approve(poor.d.pool, CAP), poor.voter_a)
    poor.send(poor.pool.functions.fund(CAP), poor.voter_a)
    paid = window(2500, [*vaults, victim])
    assert paid == [2 * CAP, CAP, CAP, CAP], "first come, when less is there than was promised"
    poor.send(poor.token.functions.approve(poor.d.pool, 3 * CAP), poor.voter_a)
    poor.send(poor.pool.functions.fund(3 * CAP), poor.voter_a)
    assert window(2500, [victim, *vaults])[0] == 2 * CAP, "what was not paid is paid later"
    poor.assert_books_balance()
    attack.outcome(
        gained=f"{say_tokens(CAP)} a week or more earlier than others, once the pool is short",
        cost="profit that must be real, with three stakes",
        stopped_by="a cap is set aside when a vault is registered; an empty pool delays, it does not take",
    )


def test_no_vote_promises_more_than_an_epoch_s_budget(world: World, attack: Report) -> None:
    for number in range(4):
        world.deploy_strategy(world.register_agent(), salt=number.to_bytes(32), rewardCap=tokens(5_000))
    manifest = world.manifest(world.register_agent(), rewardCap=tokens(5_000))
    manifest_id = world.submit(manifest)
    world.as_timelock(world.strategies.functions.approve(manifest_id))
    with world.reverts("RewardPoolBudgetExceeded", caps=tokens(25_000), budget=tokens(20_000)):
        world.as_timelock(world.factory.functions.deployVault(manifest_id))
    attack.outcome(gained="0 tokens", cost="a vote", stopped_by="RewardPoolBudgetExceeded")
