"""The treasury emptied slowly: in small payments, in parallel proposals, with a raised cap, or in votes."""

from __future__ import annotations

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import (
    AGAINST,
    FOR,
    OUTFLOW_CAP,
    QUORUM,
    TREASURY_QUOTE,
    Attacker,
    amount,
    attacker,
    days,
    deadline_s,
    dollars,
    drain,
    not_deployable,
)
from tests.contracts.world import DAY_S, GOVERNANCE, World, tokens, usd

PERIOD_S = 30 * DAY_S


@pytest.fixture
def minority(world: World) -> Attacker:
    """The quorum, and nobody else votes until they notice."""
    return attacker(world, QUORUM)


def queued(world: World, minority: Attacker, *proposals: int) -> None:
    world.to_voting(proposals[-1])
    for each in proposals:
        minority.votes(each)
    world.to_deadline(proposals[-1])
    for each in proposals:
        minority.does(world.dao.functions.deployApproved(each))
    world.travel_to(world.view(world.dao.functions.proposalEta(proposals[-1])) + 1)


def test_a_hundred_small_payments_are_one_large_one(world: World, minority: Attacker, attack: Report):
    """In one proposal, none of them remarkable: the one that would exceed the cap takes all of them back."""
    each = OUTFLOW_CAP // 99
    parts = [drain(world, minority.address, each) for _ in range(100)]
    proposal_id = minority.proposes(parts, "expenses")
    queued(world, minority, proposal_id)
    left = OUTFLOW_CAP - 99 * each
    exceeded = {"token": world.book.quote, "amount": each, "available": left}
    minority.fails(world.dao.functions.deployApproved(proposal_id), "TreasuryOutflowExceeded", **exceeded)
    assert minority.quote == 0
    attack.outcome(
        gained="$0",
        cost=f"{amount(QUORUM)} at one snapshot, {minority.gas:,} gas",
        stopped_by="TreasuryOutflowExceeded",
    )


def test_proposals_side_by_side_share_one_cap_and_what_is_left_expires(
    world: World, minority: Attacker, attack: Report
):
    """Five times four million: two are paid, and the cap has room again long after the others have expired."""
    part = usd(4_000_000)
    proposals = [minority.proposes([drain(world, minority.address, part)], f"grant {i}") for i in range(5)]
    queued(world, minority, *proposals)
    for paid in proposals[:2]:
        minority.does(world.dao.functions.deployApproved(paid))
    exceeded = {"token": world.book.quote, "amount": part, "available": OUTFLOW_CAP - 2 * part}
    for refused in proposals[2:]:
        minority.fails(world.dao.functions.deployApproved(refused), "TreasuryOutflowExceeded", **exceeded)
    assert GOVERNANCE.grace_s < PERIOD_S
    world.evm.travel(PERIOD_S)
    for refused in proposals[2:]:
        minority.fails(
            world.dao.functions.deployApproved(refused), "DaoNotDeployable", **not_deployable(refused, "Expired")
        )
    assert minority.quote == 2 * part <= OUTFLOW_CAP
    attack.outcome(
        gained=f"{dollars(minority.quote)} of {dollars(5 * part)} when nobody answers",
        cost=f"{amount(QUORUM)} at five snapshots, {minority.gas:,} gas",
        stopped_by="TreasuryOutflowExceeded, then expiry",
    )


def test_a_cap_raised_in_silence_is_known_for_thirty_days(world: World, minority: Attacker, attack: Report):
    """Raise the cap first, take everything later: the raise waits for a month, in which one vote takes it back."""
    treasury = world.treasury.functions
    raise_id = minority.proposes([treasury.setOutflowCap(world.book.quote, TREASURY_QUOTE)], "a technicality")
    queued(world, minority, raise_id)
    minority.does(world.dao.functions.deployApproved(raise_id))
    raised_s = world.now_s()
    # Prepared at the same time, the payment would be stale before the cap is up.
    early = minority.proposes([drain(world, minority.address, TREASURY_QUOTE)], "prepared")
    queued(world, minority, early)
    exceeded = {"token": world.book.quote, "amount": TREASURY_QUOTE, "available": OUTFLOW_CAP}
    minority.fails(world.dao.functions.deployApproved(early), "TreasuryOutflowExceeded", **exceeded)
    # The community notices three weeks later, which is early enough.
    world.travel_to(raised_s + 21 * DAY_S)
    world.pass_proposal(world.propose([treasury.setOutflowCap(world.book.quote, usd(1_000_000))], "take it back"))
    assert world.now_s() < raised_s + PERIOD_S
    world.travel_to(raised_s + PERIOD_S + DAY_S)
    late = minority.proposes([drain(world, minority.address, TREASURY_QUOTE)], "now")
    queued(world, minority, late)
    exceeded["available"] = usd(1_000_000)
    minority.fails(world.dao.functions.deployApproved(late), "TreasuryOutflowExceeded", **exceeded)
    assert minority.quote == 0
    attack.outcome(
        gained="$0",
        cost=f"{amount(QUORUM)} at three snapshots, {days(world.now_s() - raised_s)}, {minority.gas:,} gas",
        stopped_by="a raise takes effect 30 days later; TreasuryOutflowExceeded",
    )


def test_tokens_that_one_unanswered_vote_pays_out_do_not_win_the_next(world: World, minority: Attacker, attack: Report):
    """The treasury holds two thirds of all tokens. Paid out, they vote: so their outflow is capped too."""
    cap = tokens(1_000_000)
    greedy = minority.proposes([world.treasury.functions.pay(world.d.token, minority.address, 4 * cap)], "too many")
    capped = minority.proposes([world.treasury.functions.pay(world.d.token, minority.address, cap)], "as many as may")
    queued(world, minority, greedy, capped)
    exceeded = {"token": world.d.token, "amount": 4 * cap, "available": cap}
    minority.fails(world.dao.functions.deployApproved(greedy), "TreasuryOutflowExceeded", **exceeded)
    minority.does(world.dao.functions.deployApproved(capped))
    theft = minority.proposes([drain(world, minority.address)], "and now the money")
    world.to_voting(theft)
    assert minority.votes(theft, FOR) == QUORUM + cap
    world.evm.travel_to(deadline_s(world, theft) - 60)
    world.vote(theft, AGAINST)
    world.to_deadline(theft)
    minority.fails(world.dao.functions.deployApproved(theft), "DaoNotDeployable", **not_deployable(theft, "Defeated"))
    assert minority.quote == 0
    attack.outcome(
        gained=f"{amount(cap)}, when nobody answers the first vote",
        cost=f"{amount(QUORUM)} at two snapshots, {minority.gas:,} gas",
        stopped_by="the tokens' own outflow cap, below what the active voters hold",
    )
