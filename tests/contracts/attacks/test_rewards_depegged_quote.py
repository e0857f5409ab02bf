"""The quote token loses its peg: assets are worth more of it, and that looks like profit."""

from __future__ import annotations

from decimal import Decimal

from oracle.vault_state import Reason
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import (
    credited,
    deploy_invested,
    paid_less_taken,
    profit,
    releasable,
    say_tokens,
    say_usd,
    settle_at,
    unclaimed,
)
from tests.contracts.vaults import condition
from tests.contracts.world import DAY_S, REWARD_RATE, World, none_of, one


def publish_quote(world: World, price: str) -> None:
    world.market.publish(world.book.quote_symbol, Decimal(price))


def test_a_depeg_beyond_the_band_observes_nothing_and_frees_nothing(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    settle_at(world, s, 2090)
    start = credited(world, s)
    world.to_next_window()
    for price in ("0.9799", "0.5", "1.0201"):
        publish_quote(world, price)
        assert none_of(world.poke(s), "ProfitObserved")
        assert condition(world, s)[1] & Reason.QUOTE_UNHEALTHY
        assert releasable(world, s) == 0
        with world.reverts("RewardPoolNothingToClaim", vault=s.vault.address):
            world.send(world.pool.functions.claim(s.vault.address), world.controller)
        assert one(world.buy(s, 10**6), "TradeRefused")["reasons"] & Reason.QUOTE_UNHEALTHY
    world.to_window_end()
    with world.reverts("RewardPoolWindowMissed", vault=s.vault.address, epoch=world.current_epoch() - 1):
        world.close(s)
    assert credited(world, s) == start
    attack.outcome(gained="0 tokens", cost="nothing leaves while it lasts", stopped_by="QUOTE_UNHEALTHY")


def test_a_depeg_within_the_band_prints_two_percent_of_the_assets_and_takes_it_back(
    world: World, attack: Report
) -> None:
    """The worst of the band, seen by every observer of a window, and then the peg is back."""
    s = deploy_invested(world)
    start = settle_at(world, s, 2000)
    publish_quote(world, "0.98000001")
    printed = settle_at(world, s, 2000)
    position = Decimal(world.held(s)) * 2000 / 10**12
    assert abs(printed - position * (1 / Decimal("0.98000001") - 1)) < 10
    stake = unclaimed(world, s) + world.bond_of(s.agent_id) - releasable(world, s)
    assert stake > printed * REWARD_RATE
    world.travel(DAY_S)
    publish_quote(world, "1")
    assert settle_at(world, s, 2000) == -printed
    assert credited(world, s) == start == profit(world, s)
    assert paid_less_taken(world, s) == start * REWARD_RATE
    attack.outcome(
        gained=f"0 tokens in the end; {say_tokens(printed * REWARD_RATE)} for {say_usd(printed)} printed, until "
        "the peg is back",
        cost="a depeg of 2 % for a whole window",
        stopped_by="the band of 2 %, and claw-back at the peg",
    )


def test_a_depeg_within_the_band_is_not_harvested_twice(world: World, attack: Report) -> None:
    """Off and on again, through six windows: each time what was printed is taken back."""
    s = deploy_invested(world)
    start = settle_at(world, s, 2000)
    for price in ("0.981", "1", "0.985", "1.019", "0.981", "1"):
        publish_quote(world, price)
        settle_at(world, s, 2000)
        assert credited(world, s) == profit(world, s)
    assert credited(world, s) == start
    attack.outcome(gained="0 tokens after three depegs", cost="gas", stopped_by="the signed account")
