"""An agent chooses the moment at which its profit is measured."""

from __future__ import annotations

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import branch, credited, deploy_invested, paid_less_taken, say_tokens, settle_at
from tests.contracts.world import REWARD_RATE, Strategy, World

# ETH during one window; a walk that ends where it began.
PATH = (2050, 2080, 2040, 2095, 2060, 2050)
BEST = max(PATH)


def window(world: World, s: Strategy, *observed: int) -> int:
    """What is credited after that window and, at the walk's end, the next: the advantage, and what becomes of it."""
    with branch(world):
        settle_at(world, s, *observed)
        return credited(world, s)


def test_the_best_moment_is_worth_a_week_and_one_observer_undoes_it(world: World, attack: Report) -> None:
    """Over every moment at which one honest observer may look: the exact sum, no sample."""
    s = deploy_invested(world)
    settle_at(world, s, 2000)
    alone = window(world, s, BEST)
    honest = [window(world, s, price) for price in PATH]
    beside = [window(world, s, *((BEST, price) if PATH.index(price) > 3 else (price, BEST))) for price in PATH]
    assert beside == honest, "the lower of two observations counts, so the honest one alone decides"
    advantage = alone - sum(honest) // len(honest)
    assert advantage > 0, "alone, the agent has the best moment of six hours"

    settle_at(world, s, BEST)
    settle_at(world, s, PATH[-1])
    ended = credited(world, s)
    assert ended == honest[-1]
    assert paid_less_taken(world, s) == ended * REWARD_RATE, "and a week later it is gone"
    attack.outcome(
        gained=f"{say_tokens(advantage * REWARD_RATE)} for a week when nobody else observes, else 0; 0 in the end",
        cost="gas",
        stopped_by="one honest observation, and the next window",
    )


def test_a_loss_is_taken_at_its_best_moment_and_the_rest_in_the_next_window(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    settle_at(world, s, 2000)
    settle_at(world, s, 1900, 1950, 1920)
    spared = credited(world, s)
    settle_at(world, s, 1900)
    assert credited(world, s) < spared
    assert paid_less_taken(world, s) == credited(world, s) * REWARD_RATE
    delayed = (spared - credited(world, s)) * REWARD_RATE
    attack.outcome(
        gained=f"0 tokens; {say_tokens(delayed)} of claw-back a week later",
        cost="gas",
        stopped_by="the next window",
    )
