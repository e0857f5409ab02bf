"""Money given to the vault before it is settled, to be paid for it as profit (the shape of archimedes#1136)."""

from __future__ import annotations

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import close_at, deploy_invested, say_usd
from tests.contracts.world import World, eth, usd


def test_a_donation_around_the_settlement_is_no_profit_and_is_lost(world: World, attack: Report) -> None:
    s = deploy_invested(world)
    quote_given, eth_given = usd(100_000), eth(50)
    world.to_next_window()
    [honest] = world.observe_at(s, 2010)
    give = lambda: (  # noqa: E731
        world.market.give_quote(s.vault.address, quote_given),
        world.market.give_base("ETH", s.vault.address, eth_given),
    )
    give()
    assert world.observe_at(s, 2010) == [honest], "before the observation"
    world.to_window_end()
    give()
    assert world.close(s) == honest, "between the observation and the close"
    world.apply(s, honest)

    held, treasury = world.held(s), world.market.balance(world.book.quote, world.d.treasury)
    with world.reverts("VaultInsufficientHoldings", token=world.token_of("ETH"), held=held, needed=held + 1):
        world.sell(s, held + 1)
    world.send(s.vault.functions.skim(world.book.quote), world.stranger)
    world.send(s.vault.functions.skim(world.token_of("ETH")), world.stranger)
    assert world.market.balance(world.book.quote, world.d.treasury) == treasury + 2 * quote_given
    assert world.market.balance(world.token_of("ETH"), world.d.treasury) == 2 * eth_given
    assert close_at(world, s, 2010) == 0
    given = 2 * quote_given + 2 * 50 * usd(2010)
    attack.outcome(
        gained="0 tokens",
        cost=f"{say_usd(given)} given, all of it the treasury's",
        stopped_by="the vault's own books, skim",
    )
