"""What a review of the first version found, each as the promise that holds now."""

from __future__ import annotations

from decimal import Decimal

from oracle.vault_state import Reason, VaultState
from tests.contracts.world import DAY_S, LIMITS, Strategy, World, one, tokens, usd


def submit_update(world: World, s: Strategy, **over: object) -> bytes:
    return world.submit(world.manifest(s.agent_id, updates=s.id, capital=0, **over))


def apply_update(world: World, manifest_hash: bytes) -> None:
    world.as_timelock(world.strategies.functions.approve(manifest_hash))
    world.as_timelock(world.strategies.functions.applyUpdate(manifest_hash))


def test_a_dead_feed_of_dust_does_not_blind_the_drawdown_limits(world: World) -> None:
    s = world.deploy_strategy(assets=("ETH", "BTC"))
    world.buy(s, usd(500_000))
    world.buy(s, usd(2), symbol="BTC")
    world.evm.travel(3 * 3600)
    world.market.publish(world.book.quote_symbol, Decimal(1))
    world.market.publish("ETH", Decimal(1000))  # BTC stays silent
    world.poke(s)
    status = world.status(s)
    assert not status.priced
    assert status.state == VaultState.HALTED
    assert status.reasons & Reason.PRICE_MISSING


def test_an_asset_that_merely_lost_its_price_halts_nothing(world: World) -> None:
    s = world.deploy_strategy(assets=("ETH", "BTC"))
    world.buy(s, usd(500_000))
    world.evm.travel(3 * 3600)
    world.market.publish(world.book.quote_symbol, Decimal(1))
    world.poke(s)
    assert world.status(s).reasons == Reason.PRICE_MISSING


def test_an_agent_whose_bond_was_slashed_below_the_least_may_only_reduce(world: World, strategy: Strategy) -> None:
    world.as_timelock(world.agents.functions.slashBond(strategy.agent_id, tokens(49_500)))
    assert world.status(strategy).reasons & Reason.COLLATERAL
    refused = one(world.buy(strategy, usd(1000)), "TradeRefused")
    assert refused["reasons"] & Reason.COLLATERAL


def test_limits_can_be_tightened_while_the_pool_is_short_of_funds(world: World, strategy: Strategy) -> None:
    free = world.view(world.pool.functions.free())
    world.as_timelock(world.pool.functions.withdraw(free))
    world.buy(strategy, usd(500_000))
    world.set_price("ETH", 2100)
    assert world.settle(strategy) > 0  # paid from what was set aside, which nothing refills
    assert world.account(strategy).earmark < strategy.manifest["rewardCap"]
    apply_update(world, submit_update(world, strategy, artefactHash=b"\x02" * 32))
    assert world.view(strategy.vault.functions.artefactHash()) == b"\x02" * 32


def test_a_lower_cap_frees_what_was_set_aside_above_it(world: World, strategy: Strategy) -> None:
    free = world.view(world.pool.functions.free())
    apply_update(world, submit_update(world, strategy, rewardCap=tokens(1000)))
    assert world.account(strategy).earmark == tokens(1000)
    assert world.view(world.pool.functions.free()) == free + tokens(4000)


def test_a_cap_above_the_budget_is_refused(world: World, strategy: Strategy) -> None:
    update = submit_update(world, strategy, rewardCap=tokens(20_001))
    world.as_timelock(world.strategies.functions.approve(update))
    with world.reverts("RewardPoolBudgetExceeded", caps=tokens(20_001), budget=tokens(20_000)):
        world.as_timelock(world.strategies.functions.applyUpdate(update))


def test_an_update_that_was_overtaken_by_another_is_refused(world: World, strategy: Strategy) -> None:
    older = submit_update(world, strategy, artefactHash=b"\x02" * 32)
    newer = submit_update(world, strategy, artefactHash=b"\x03" * 32)
    apply_update(world, newer)
    world.as_timelock(world.strategies.functions.approve(older))
    with world.reverts("StrategyRegistryStaleUpdate", manifestHash=older, running=newer):
        world.as_timelock(world.strategies.functions.applyUpdate(older))


def test_a_window_that_completed_is_never_closed_by_vote(world: World, strategy: Strategy) -> None:
    for _ in range(3):
        world.to_next_window()
        world.to_window_end()
    world.to_next_window()
    world.poke(strategy)
    world.to_window_end()
    with world.reverts("RewardPoolNotOverdue", vault=strategy.vault.address, missed=4, needed=3):
        world.as_timelock(world.pool.functions.closeByVote(strategy.vault.address, 0))
    world.send(world.pool.functions.closeWindow(strategy.vault.address), world.stranger)


def test_a_guardian_s_stop_ends_with_its_term(world: World, strategy: Strategy) -> None:
    expires_at = world.view(world.constitution.functions.guardianExpiresAt())
    world.travel_to(expires_at - 3600)
    stop = world.constitution.functions.stopVault(strategy.vault.address, 7 * DAY_S)
    assert one(world.send(stop, world.guardian), "VaultStopped")["until"] == expires_at


def test_the_timelock_is_set_once_and_no_vote_replaces_it(world: World) -> None:
    proposal_id = world.propose([world.dao.functions.updateTimelock(world.stranger.address)])
    world.to_voting(proposal_id)
    world.vote(proposal_id)
    world.to_deadline(proposal_id)
    world.queue(proposal_id)
    with world.reverts("DaoTimelockFixed"):
        world.execute(proposal_id)
    assert world.view(world.dao.functions.timelock()) == world.d.timelock


def test_looser_limits_are_still_refused_in_an_update(world: World, strategy: Strategy) -> None:
    from dataclasses import replace

    manifest = world.manifest(
        strategy.agent_id, updates=strategy.id, capital=0, limits=replace(LIMITS, max_daily_loss_bps=1001)
    )
    with world.reverts("ConstitutionLimitTooLoose", field="maxDailyLossBps", value=1001, ceiling=1000):
        world.submit(manifest)
