"""Constitution: the DAO's ceilings bind every vault at once, and the guardian can only stop, for a bounded time.

`CEILINGS` and `RULES` of the world are in force; each is consistent and stays so with one field changed, unless a test
says otherwise.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.deployment import ZERO_ADDRESS, Limits, Rules
from tests.contracts.world import CEILINGS, DAY_S, LIMITS, RULES, Strategy, World, none_of, one, tokens, usd

BPS = 10_000
MAX_STOP_S = 7 * DAY_S
MAX_TERM_S = 365 * DAY_S
GUARDIAN_REASON = 64
ACTIVE, REDUCING = 0, 1

# Solidity names of the limits, by ours.
FIELDS = {
    "max_position_bps": "maxPositionBps",
    "max_trade_slippage_bps": "maxTradeSlippageBps",
    "max_cumulative_slippage_bps": "maxCumulativeSlippageBps",
    "max_reduce_slippage_bps": "maxReduceSlippageBps",
    "max_reduce_cumulative_slippage_bps": "maxReduceCumulativeSlippageBps",
    "max_trades_per_day": "maxTradesPerDay",
    "max_daily_turnover_bps": "maxDailyTurnoverBps",
    "max_daily_loss_bps": "maxDailyLossBps",
    "max_drawdown_bps": "maxDrawdownBps",
    "hard_drawdown_bps": "hardDrawdownBps",
}
LARGEST = {name: 2**32 - 1 if name == "max_daily_turnover_bps" else 2**16 - 1 for name in FIELDS}


def check_limits(world: World, limits: Limits) -> None:
    world.view(world.constitution.functions.checkLimits(limits.as_tuple()))


def set_ceilings(world: World, ceilings: Limits) -> Any:
    return world.constitution.functions.setCeilings(ceilings.as_tuple())


def set_rules(world: World, rules: Rules) -> Any:
    return world.constitution.functions.setRules(rules.as_tuple())


def regime(world: World, limits: Limits) -> Any:
    return world.view(world.constitution.functions.regime(limits.as_tuple()))


def is_stopped(world: World, vault: str) -> bool:
    return bool(world.view(world.constitution.functions.standing(vault)).stopped)


def term_end_s(world: World) -> int:
    return int(world.view(world.constitution.functions.guardianExpiresAt()))


# Authority


def test_only_the_timelock_changes_the_constitution(world: World) -> None:
    constitution = world.constitution.functions
    for caller in (world.stranger, world.guardian, world.deployer, world.proposer):
        for call in (
            set_ceilings(world, CEILINGS),
            set_rules(world, RULES),
            constitution.appointGuardian(caller.address, world.now_s() + DAY_S),
        ):
            with world.reverts("ConstitutionUnauthorized", caller=caller.address):
                world.send(call, caller)


# Limits of one strategy


@pytest.mark.parametrize("name", FIELDS)
def test_no_limit_may_be_looser_than_its_ceiling(world: World, name: str) -> None:
    ceiling = getattr(CEILINGS, name)
    for value in (ceiling + 1, LARGEST[name]):
        with world.reverts("ConstitutionLimitTooLoose", field=FIELDS[name], value=value, ceiling=ceiling):
            check_limits(world, replace(CEILINGS, **{name: value}))


def test_every_limit_may_be_as_loose_as_its_ceiling(world: World) -> None:
    check_limits(world, CEILINGS)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"max_drawdown_bps": 1500, "hard_drawdown_bps": 1500}, "maxDrawdownBps >= hardDrawdownBps"),
        ({"max_drawdown_bps": 1501, "hard_drawdown_bps": 1500}, "maxDrawdownBps >= hardDrawdownBps"),
        ({"max_drawdown_bps": 0, "hard_drawdown_bps": 0}, "maxDrawdownBps >= hardDrawdownBps"),
        ({"max_trade_slippage_bps": 61, "max_reduce_slippage_bps": 60}, "maxTradeSlippageBps > maxReduceSlippageBps"),
    ],
)
def test_limits_within_their_ceilings_must_still_fit_each_other(
    world: World, changed: dict[str, int], what: str
) -> None:
    with world.reverts("ConstitutionLimitsInconsistent", what=what):
        check_limits(world, replace(LIMITS, **changed))


def test_the_tightest_consistent_limits_are_allowed(world: World) -> None:
    zeros = dict.fromkeys(FIELDS, 0)
    check_limits(world, Limits(**{**zeros, "hard_drawdown_bps": 1}))
    check_limits(world, replace(LIMITS, max_trade_slippage_bps=60, max_reduce_slippage_bps=60))


# Ceilings


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"max_position_bps": BPS + 1}, "maxPositionBps > 10000"),
        ({"hard_drawdown_bps": BPS}, "hardDrawdownBps >= 10000"),
        ({"max_drawdown_bps": 3000}, "maxDrawdownBps >= hardDrawdownBps"),
        ({"max_daily_loss_bps": BPS}, "maxDailyLossBps >= 10000"),
        ({"max_reduce_slippage_bps": BPS}, "maxReduceSlippageBps >= 10000"),
        ({"max_trade_slippage_bps": 401}, "maxTradeSlippageBps > maxReduceSlippageBps"),
        (
            {"max_cumulative_slippage_bps": 5000, "max_reduce_cumulative_slippage_bps": 5000},
            "cumulative slippage >= 10000",
        ),
        (
            {"max_cumulative_slippage_bps": 2**16 - 1, "max_reduce_cumulative_slippage_bps": 2**16 - 1},
            "cumulative slippage >= 10000",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_ceilings_that_can_not_be_kept_are_refused(world: World, changed: dict[str, int], what: str) -> None:
    with world.reverts("ConstitutionLimitsInconsistent", what=what):
        world.as_timelock(set_ceilings(world, replace(CEILINGS, **changed)))
    assert tuple(world.view(world.constitution.functions.ceilings())) == CEILINGS.as_tuple()


def test_the_loosest_ceilings_there_can_be(world: World) -> None:
    loosest = Limits(
        max_position_bps=BPS,
        max_trade_slippage_bps=BPS - 1,
        max_cumulative_slippage_bps=5000,
        max_reduce_slippage_bps=BPS - 1,
        max_reduce_cumulative_slippage_bps=4999,
        max_trades_per_day=2**16 - 1,
        max_daily_turnover_bps=2**32 - 1,
        max_daily_loss_bps=BPS - 1,
        max_drawdown_bps=BPS - 2,
        hard_drawdown_bps=BPS - 1,
    )
    events = world.as_timelock(set_ceilings(world, loosest))
    assert one(events, "CeilingsSet") == {
        "ceilings": {FIELDS[f.name]: getattr(loosest, f.name) for f in fields(Limits)}
    }
    check_limits(world, loosest)
    assert tuple(world.view(world.constitution.functions.ceilings())) == loosest.as_tuple()


def test_a_tightened_ceiling_binds_a_running_vault_at_once(world: World, strategy: Strategy) -> None:
    world.as_timelock(set_ceilings(world, replace(CEILINGS, max_position_bps=1000)))
    status = world.status(strategy)
    measures = position_of_buying(world, strategy, 150_000)
    with world.reverts("VaultPositionExceeded", asset=world.token_of("ETH"), **measures):
        world.buy(strategy, usd(150_000))
    world.buy(strategy, usd(99_000))
    assert world.status(strategy).state == status.state == ACTIVE


def position_of_buying(world: World, strategy: Strategy, dollars: int) -> dict[str, int]:
    """What the vault would hold after the purchase and may hold, both in quote: tried out under looser limits."""
    snapshot = world.evm.snapshot()
    world.as_timelock(set_ceilings(world, CEILINGS))
    world.buy(strategy, usd(dollars))
    value = world.held(strategy) * usd(2000) // 10**18
    allowed = world.status(strategy).value * 1000 // BPS
    world.evm.revert(snapshot)
    return {"positionValue": value, "allowed": allowed}


def test_a_loosened_ceiling_does_not_loosen_a_strategy_s_own_limits(world: World, strategy: Strategy) -> None:
    world.as_timelock(set_ceilings(world, replace(CEILINGS, max_position_bps=BPS)))
    effective, _ = regime(world, LIMITS)
    assert tuple(effective) == LIMITS.as_tuple()


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(own=st.fixed_dictionaries({name: st.integers(0, largest) for name, largest in LARGEST.items()}))
def test_what_binds_is_the_stricter_of_limit_and_ceiling_field_by_field(world: World, own: dict[str, int]) -> None:
    effective, rules = regime(world, Limits(**own))
    assert tuple(effective) == tuple(min(own[name], getattr(CEILINGS, name)) for name in FIELDS)
    assert tuple(rules) == RULES.as_tuple()


# Rules


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"slippage_decay_s": 0}, "slippageDecayS"),
        ({"auction_duration_s": 0}, "auctionDurationS"),
        ({"auction_max_discount_bps": BPS}, "auctionMaxDiscountBps"),
        ({"auction_lot_bps": 0}, "auctionLotBps"),
        ({"auction_lot_bps": BPS + 1}, "auctionLotBps"),
        ({"gap_allowance_bps": BPS}, "gapAllowanceBps"),
    ],
    ids=str,
)
def test_rules_under_which_nothing_would_work_are_refused(world: World, changed: dict[str, int], field: str) -> None:
    with world.reverts("ConstitutionInvalidRules", field=field):
        world.as_timelock(set_rules(world, replace(RULES, **changed)))
    assert tuple(world.view(world.constitution.functions.rules())) == RULES.as_tuple()


def test_rules_at_their_bounds_are_in_force_at_once(world: World, strategy: Strategy) -> None:
    bounds = Rules(
        min_bond_wei=2**128 - 1,
        slippage_decay_s=1,
        auction_duration_s=1,
        auction_max_discount_bps=BPS - 1,
        auction_lot_bps=BPS,
        gap_allowance_bps=BPS - 1,
        max_reward_rate=0,
    )
    events = world.as_timelock(set_rules(world, bounds))
    names = (
        "minBond slippageDecayS auctionDurationS auctionMaxDiscountBps auctionLotBps gapAllowanceBps maxRewardRate"
    ).split()
    assert one(events, "RulesSet") == {"rules": dict(zip(names, bounds.as_tuple(), strict=True))}
    assert tuple(world.view(world.constitution.functions.rules())) == bounds.as_tuple()
    assert tuple(regime(world, LIMITS)[1]) == bounds.as_tuple()


def test_deployment_refuses_what_a_vote_could_not_set(world: World) -> None:
    def deploy(ceilings: Limits = CEILINGS, rules: Rules = RULES, term_s: int = 0) -> None:
        until = world.now_s() + 1 + term_s
        arguments = (world.d.timelock, ceilings.as_tuple(), rules.as_tuple(), world.guardian.address, until)
        world.evm.deploy("Constitution", *arguments, sender=world.deployer)

    with world.reverts("ConstitutionLimitsInconsistent", what="maxPositionBps > 10000"):
        deploy(ceilings=replace(CEILINGS, max_position_bps=BPS + 1))
    with world.reverts("ConstitutionInvalidRules", field="slippageDecayS"):
        deploy(rules=replace(RULES, slippage_decay_s=0))
    latest = world.now_s() + 1 + MAX_TERM_S
    with world.reverts("ConstitutionTermTooLong", expiresAt=latest + 1, latest=latest):
        deploy(term_s=MAX_TERM_S + 1)
    deploy(term_s=MAX_TERM_S)


# The guardian's term


def test_a_term_ends_after_a_year_at_the_latest(world: World) -> None:
    latest = world.now_s() + 1 + MAX_TERM_S
    appoint = world.constitution.functions.appointGuardian
    with world.reverts("ConstitutionTermTooLong", expiresAt=latest + 1, latest=latest):
        world.as_timelock(appoint(world.guardian.address, latest + 1))
    latest += 1  # the refusal was mined too
    events = world.as_timelock(appoint(world.stranger.address, latest))
    assert one(events, "GuardianAppointed") == {"guardian": world.stranger.address, "expiresAt": latest}
    assert world.view(world.constitution.functions.guardian()) == world.stranger.address
    assert term_end_s(world) == latest


def test_a_guardian_s_power_ends_with_its_term_unless_a_vote_renews_it(world: World, strategy: Strategy) -> None:
    constitution, vault = world.constitution.functions, strategy.vault.address
    ends_at = term_end_s(world)
    world.travel_to(ends_at - 10)
    world.evm.next_block_at(ends_at - 1)
    world.send(constitution.stopVault(vault, DAY_S), world.guardian)
    world.evm.next_block_at(ends_at)
    with world.reverts("ConstitutionGuardianExpired", expiredAt=ends_at):
        world.send(constitution.stopClaims(DAY_S), world.guardian)
    for lift in (constitution.liftVaultStop(vault), constitution.liftClaimsStop()):
        with world.reverts("ConstitutionUnauthorized", caller=world.guardian.address):
            world.send(lift, world.guardian)

    proposal = world.propose([constitution.appointGuardian(world.guardian.address, ends_at + 200 * DAY_S)])
    events = world.pass_proposal(proposal)
    assert one(events, "GuardianAppointed") == {
        "guardian": world.guardian.address, "expiresAt": ends_at + 200 * DAY_S,
    }  # fmt: skip
    world.send(constitution.stopClaims(DAY_S), world.guardian)


@pytest.mark.parametrize("what", ["vault", "claims"])
def test_a_stop_ends_with_the_term_in_which_it_was_given(world: World, strategy: Strategy, what: str) -> None:
    constitution, vault = world.constitution.functions, strategy.vault.address
    ends_at = term_end_s(world)
    world.travel_to(ends_at - MAX_STOP_S)
    stop = constitution.stopVault(vault, MAX_STOP_S) if what == "vault" else constitution.stopClaims(MAX_STOP_S)
    [stopped] = world.send(stop, world.guardian)
    assert stopped.args["until"] == ends_at < world.now_s() + MAX_STOP_S
    world.evm.travel_to(ends_at)
    assert not is_stopped(world, vault)
    assert not world.view(constitution.claimsStopped())


def test_a_replaced_guardian_has_no_power_left(world: World, strategy: Strategy) -> None:
    constitution = world.constitution.functions
    world.as_timelock(constitution.appointGuardian(world.stranger.address, world.now_s() + DAY_S))
    with world.reverts("ConstitutionUnauthorized", caller=world.guardian.address):
        world.send(constitution.stopVault(strategy.vault.address, DAY_S), world.guardian)


def test_a_vote_can_do_without_a_guardian(world: World) -> None:
    world.as_timelock(world.constitution.functions.appointGuardian(ZERO_ADDRESS, 0))
    with world.reverts("ConstitutionUnauthorized", caller=world.guardian.address):
        world.send(world.constitution.functions.stopClaims(DAY_S), world.guardian)


# The guardian's brake: a vault to REDUCING, or claims


def test_nobody_but_the_guardian_stops(world: World, strategy: Strategy) -> None:
    constitution = world.constitution.functions
    for caller in (world.stranger.address, world.signer.address, world.d.timelock):
        for stop in (constitution.stopVault(strategy.vault.address, DAY_S), constitution.stopClaims(DAY_S)):
            with world.reverts("ConstitutionUnauthorized", caller=caller):
                world.send(stop, caller)


@pytest.mark.parametrize("duration_s", [0, MAX_STOP_S + 1, 2**64 - 1])
def test_a_stop_lasts_up_to_a_week(world: World, strategy: Strategy, duration_s: int) -> None:
    constitution = world.constitution.functions
    for stop in (constitution.stopVault(strategy.vault.address, duration_s), constitution.stopClaims(duration_s)):
        with world.reverts("ConstitutionStopTooLong", durationS=duration_s, longestS=MAX_STOP_S):
            world.send(stop, world.guardian)


def test_a_stopped_vault_only_sells_until_the_stop_ends(world: World, strategy: Strategy) -> None:
    world.buy(strategy, usd(100_000))
    vault = strategy.vault.address
    events = world.send(world.constitution.functions.stopVault(vault, MAX_STOP_S), world.guardian)
    until = world.now_s() + MAX_STOP_S
    assert one(events, "VaultStopped") == {"vault": vault, "until": until}
    status = world.status(strategy)
    assert (status.state, status.reasons) == (REDUCING, GUARDIAN_REASON)

    events = world.buy(strategy, usd(1000))
    assert one(events, "StateChanged")["reasons"] == GUARDIAN_REASON
    assert one(events, "TradeRefused")["reasons"] == GUARDIAN_REASON
    assert none_of(events, "TradeRecorded")
    events = world.sell(strategy, world.held(strategy) // 2)
    assert one(events, "TradeRecorded")["trade"]["reasons"] == GUARDIAN_REASON

    world.evm.travel_to(until - 1)
    assert is_stopped(world, vault)
    world.evm.travel_to(until)
    assert not is_stopped(world, vault)


def test_a_stop_never_halts_so_nothing_is_ever_sold_by_the_guardian(world: World, strategy: Strategy) -> None:
    world.buy(strategy, usd(100_000))
    world.send(world.constitution.functions.stopVault(strategy.vault.address, DAY_S), world.guardian)
    world.poke(strategy)
    assert world.view(strategy.vault.functions.guard()).haltedAt == 0
    assert world.view(strategy.vault.functions.auctionQuote(world.token_of("ETH"))) == (0, 0, 0)
    with world.reverts("VaultNotHalted"):
        world.send(strategy.vault.functions.fillAuction(world.token_of("ETH"), usd(10**6)), world.bidder)
    for caller in (world.guardian.address, world.d.constitution):
        world.evm.impersonate(caller)
        with world.reverts("StrategyRegistryUnauthorized", caller=caller):
            world.send(world.strategies.functions.halt(strategy.id), caller)
        with world.reverts("VaultUnauthorized", caller=caller):
            world.send(strategy.vault.functions.halt(), caller)


def test_a_stop_of_one_vault_is_no_stop_of_another(world: World, strategy: Strategy) -> None:
    other = world.deploy_strategy(world.register_agent(world.other_controller, world.other_signer))
    world.send(world.constitution.functions.stopVault(strategy.vault.address, DAY_S), world.guardian)
    assert world.status(other).state == ACTIVE
    world.send(world.constitution.functions.stopVault(other.vault.address, DAY_S), world.guardian)
    assert world.status(other).reasons == GUARDIAN_REASON


@pytest.mark.parametrize("what", ["vault", "claims"])
def test_after_a_stop_has_ended_the_next_waits_a_week(world: World, strategy: Strategy, what: str) -> None:
    constitution, vault = world.constitution.functions, strategy.vault.address
    stop = constitution.stopVault(vault, DAY_S) if what == "vault" else constitution.stopClaims(DAY_S)
    world.send(stop, world.guardian)
    allowed_from = world.now_s() + DAY_S + MAX_STOP_S
    for at_s in (world.now_s() + 1, allowed_from - MAX_STOP_S, allowed_from - 1):
        world.evm.next_block_at(at_s)
        with world.reverts("ConstitutionStopCooldown", allowedFrom=allowed_from):
            world.send(stop, world.guardian)
    world.evm.next_block_at(allowed_from)
    [stopped] = world.send(stop, world.guardian)
    assert stopped.args["until"] == allowed_from + DAY_S


def test_a_new_guardian_waits_as_long_as_the_old_one(world: World, strategy: Strategy) -> None:
    constitution, vault = world.constitution.functions, strategy.vault.address
    world.send(constitution.stopVault(vault, DAY_S), world.guardian)
    world.as_timelock(constitution.appointGuardian(world.stranger.address, world.now_s() + DAY_S))
    allowed_from = world.view(constitution.vaultStoppedUntil(vault)) + MAX_STOP_S
    with world.reverts("ConstitutionStopCooldown", allowedFrom=allowed_from):
        world.send(constitution.stopVault(vault, DAY_S), world.stranger)


def test_only_guardian_and_timelock_lift_a_stop(world: World, strategy: Strategy) -> None:
    constitution, vault = world.constitution.functions, strategy.vault.address
    world.send(constitution.stopVault(vault, DAY_S), world.guardian)
    for caller in (world.stranger, world.controller, world.signer):
        for lift in (constitution.liftVaultStop(vault), constitution.liftClaimsStop()):
            with world.reverts("ConstitutionUnauthorized", caller=caller.address):
                world.send(lift, caller)


@pytest.mark.parametrize("lifter", ["guardian", "timelock"])
def test_a_lifted_stop_is_over_and_the_cooldown_counts_from_then(
    world: World, strategy: Strategy, lifter: str
) -> None:
    constitution, vault = world.constitution.functions, strategy.vault.address
    sender = world.guardian if lifter == "guardian" else world.d.timelock
    world.send(constitution.stopVault(vault, MAX_STOP_S), world.guardian)
    world.send(constitution.stopClaims(MAX_STOP_S), world.guardian)

    events = world.send(constitution.liftVaultStop(vault), sender)
    assert one(events, "VaultStopLifted") == {"vault": vault}
    lifted_at = world.now_s()
    assert world.status(strategy).state == ACTIVE
    with world.reverts("ConstitutionStopCooldown", allowedFrom=lifted_at + MAX_STOP_S):
        world.send(constitution.stopVault(vault, DAY_S), world.guardian)

    assert one(world.send(constitution.liftClaimsStop(), sender), "ClaimsStopLifted") == {}
    assert not world.view(constitution.claimsStopped())
    assert world.view(constitution.claimsStoppedUntil()) == world.now_s()


def test_lifting_what_has_ended_does_not_restart_the_cooldown(world: World, strategy: Strategy) -> None:
    constitution, vault = world.constitution.functions, strategy.vault.address
    world.send(constitution.stopVault(vault, DAY_S), world.guardian)
    until = world.view(constitution.vaultStoppedUntil(vault))
    world.travel_to(until + DAY_S)
    world.send(constitution.liftVaultStop(vault), world.guardian)
    assert world.view(constitution.vaultStoppedUntil(vault)) == until


def test_stopped_claims_wait_and_are_not_lost(world: World, strategy: Strategy) -> None:
    world.buy(strategy, usd(500_000))
    world.set_price("ETH", 2200)
    assert world.settle(strategy) > 0
    world.travel(5 * DAY_S)
    constitution = world.constitution.functions
    events = world.send(constitution.stopClaims(DAY_S), world.guardian)
    until = world.now_s() + DAY_S
    assert one(events, "ClaimsStopped") == {"until": until}
    claim = world.pool.functions.claim(strategy.vault.address)
    with world.reverts("RewardPoolClaimsStopped"):
        world.send(claim, world.controller)
    assert world.status(strategy).state == ACTIVE, "claims stop, trading goes on"

    world.evm.travel_to(until - 1)
    assert world.view(constitution.claimsStopped())
    world.travel_to(until)
    assert not world.view(constitution.claimsStopped())
    before = world.view(world.token.functions.balanceOf(world.controller.address))
    assert one(world.send(claim, world.controller), "Claimed")["amount"] > tokens(1)
    assert world.view(world.token.functions.balanceOf(world.controller.address)) > before
