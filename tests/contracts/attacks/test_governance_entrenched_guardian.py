"""A guardian that never lets go: it stops whenever it may, and would rather not be dismissed."""

from __future__ import annotations

import pytest

from agents.deployment import ZERO_ADDRESS
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import Attacker, days
from tests.contracts.world import DAY_S, Strategy, World

WEEK_S = 7 * DAY_S


@pytest.fixture
def guardian(world: World) -> Attacker:
    return Attacker(world, world.guardian)


def stopped_until(world: World, strategy: Strategy) -> int:
    return int(world.view(world.constitution.functions.vaultStoppedUntil(strategy.vault.address)))


def test_a_guardian_that_stops_whenever_it_may_holds_a_vault_half_of_its_term(
    world: World, strategy: Strategy, guardian: Attacker, attack: Report
):
    """It tries every day, with the longest stop there is, and again at once after lifting its own."""
    term_ends_s = int(world.view(world.constitution.functions.guardianExpiresAt()))
    began_s, stopped_s, stops = world.now_s(), 0, 0
    stop = world.constitution.functions.stopVault(strategy.vault.address, WEEK_S)
    while world.now_s() < term_ends_s:
        ended_s = stopped_until(world, strategy)
        if ended_s == 0 or world.now_s() + 1 >= ended_s + WEEK_S:
            guardian.does(stop)
            stopped_s += stopped_until(world, strategy) - world.now_s()
            stops += 1
        else:
            guardian.fails(stop, "ConstitutionStopCooldown", allowedFrom=ended_s + WEEK_S)
        world.evm.travel(DAY_S)
    guardian.fails(stop, "ConstitutionGuardianExpired", expiredAt=term_ends_s)
    share = stopped_s / (term_ends_s - began_s)
    assert stops == 13 and stopped_s <= 13 * WEEK_S
    assert stopped_until(world, strategy) <= term_ends_s
    attack.outcome(
        gained=f"a vault that only reduces {share:.0%} of {days(term_ends_s - began_s)}, in {stops} stops",
        cost=f"{guardian.gas:,} gas, and its office",
        stopped_by="ConstitutionStopCooldown, then ConstitutionGuardianExpired",
    )


def test_short_stops_give_no_more_than_long_ones(world: World, strategy: Strategy, guardian: Attacker, attack: Report):
    """Stop, lift, stop again: the cooldown counts from the end, so lifting early only wastes the stop."""
    stop = world.constitution.functions.stopVault(strategy.vault.address, WEEK_S)
    lift = world.constitution.functions.liftVaultStop(strategy.vault.address)
    guardian.does(stop)
    world.evm.travel(DAY_S)
    guardian.does(lift)
    lifted_s = world.now_s()
    guardian.fails(stop, "ConstitutionStopCooldown", allowedFrom=lifted_s + WEEK_S)
    world.evm.travel_to(lifted_s + WEEK_S - 2)
    guardian.fails(stop, "ConstitutionStopCooldown", allowedFrom=lifted_s + WEEK_S)
    guardian.does(stop)
    attack.outcome(
        gained=f"{days(DAY_S)} of stop in {days(WEEK_S + DAY_S)}",
        cost=f"{guardian.gas:,} gas",
        stopped_by="ConstitutionStopCooldown",
    )


def test_a_guardian_cannot_hold_up_its_own_dismissal(
    world: World, strategy: Strategy, guardian: Attacker, attack: Report
):
    """It has no say in the vote, stops everything in the last second of its office, and is outlived by one call."""
    constitution = world.constitution.functions
    began_s = world.now_s()
    dismissal = world.propose(
        [
            constitution.appointGuardian(ZERO_ADDRESS, 0),
            constitution.liftVaultStop(strategy.vault.address),
            constitution.liftClaimsStop(),
        ],
        "dismiss the guardian",
    )
    guardian.fails(
        world.dao.functions.cancel(dismissal),
        "GovernorUnableToCancel",
        proposalId=dismissal,
        account=guardian.address,
    )
    world.to_voting(dismissal)
    assert guardian.votes(dismissal, 0) == 0
    world.vote(dismissal)
    world.to_deadline(dismissal)
    world.queue(dismissal)
    world.travel_to(world.view(world.dao.functions.proposalEta(dismissal)))
    guardian.does(constitution.stopVault(strategy.vault.address, WEEK_S))
    guardian.does(constitution.stopClaims(WEEK_S))
    world.queue(dismissal)
    took_s = world.now_s() - began_s
    assert stopped_until(world, strategy) == world.now_s()
    assert not world.view(constitution.claimsStopped())
    for attempt in (constitution.stopVault(strategy.vault.address, WEEK_S), constitution.stopClaims(1)):
        guardian.fails(attempt, "ConstitutionUnauthorized", caller=guardian.address)
    attack.outcome(
        gained="a stop of a few seconds",
        cost=f"{guardian.gas:,} gas, and its office after {days(took_s)}",
        stopped_by="ConstitutionUnauthorized; the dismissal lifts what it stopped",
    )
