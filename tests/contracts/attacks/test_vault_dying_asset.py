"""An asset that dies while it is held: can the treasury get the rest out, and can the strategy go on?

The vault holds about 300,000 in BTC, which dies, 300,000 in ETH, and 400,000 in quote. All of it is done by votes that
are executed as the timelock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agents.contracts import EventLog, decode_logs
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import Attacker, dollars
from tests.contracts.vaults import DEAD_CODE, Reason, State, condition, faulty_feed, recall, turn_faulty
from tests.contracts.world import WAD, Strategy, World, one, tokens, usd


@pytest.fixture
def invested(world: World) -> Strategy:
    s = world.deploy_strategy(assets=("ETH", "BTC"))
    world.buy(s, usd(300_000))
    world.buy(s, usd(300_000), symbol="BTC")
    world.poke(s)
    return s


def kill_feed(world: World) -> None:
    world.evm.set_code(faulty_feed(world, "BTC").address, DEAD_CODE)


def kill_token(world: World) -> None:
    world.evm.set_code(world.token_of("BTC"), DEAD_CODE)


def blacklist(world: World) -> None:
    """It still tells balances; it transfers nothing."""
    token = turn_faulty(world, world.token_of("BTC"), 8)
    world.send(token.functions.setDead(True), world.deployer)


def hide(world: World) -> None:
    token = turn_faulty(world, world.token_of("BTC"), 8)
    world.send(token.functions.setBalanceHidden(True), world.deployer)


DEATHS: dict[str, tuple[Callable[[World], None], bool]] = {
    "its feed burns all gas": (kill_feed, True),
    "its balance is hidden": (hide, True),
    "its transfers revert": (blacklist, False),
    "its code is gone": (kill_token, False),
}


def drop_bitcoin(world: World, s: Strategy) -> list[Any]:
    """The calls of an update that lists ETH only."""
    update = world.submit(s.manifest | {"updates": s.id, "assets": s.manifest["assets"][:1], "capital": 0})
    return [world.strategies.functions.approve(update), world.strategies.functions.applyUpdate(update)]


@pytest.mark.parametrize("death", DEATHS)
def test_a_dying_asset_takes_nothing_with_it(world: World, invested: Strategy, attack: Report, death: str) -> None:
    """Everything else is recalled to the last base unit; what can be transferred at all comes too; then the vault is
    written off to empty, and its capital begins anew without the asset."""
    die, leaves = DEATHS[death]
    s, weth, bitcoin = invested, world.token_of("ETH"), world.token_of("BTC")
    held = {token: world.view(s.vault.functions.positionOf(token)).amount for token in (weth, bitcoin)}
    die(world)
    quote_before = world.market.balance(world.book.quote, world.d.treasury)
    assert one(recall(world, s, weth), "Recalled")["amount"] == held[weth]
    recall(world, s, world.book.quote)
    assert world.market.balance(world.book.quote, world.d.treasury) - quote_before == usd(400_000)
    if leaves:
        assert one(recall(world, s, bitcoin, fallback_wad=60_000 * WAD), "Recalled")["amount"] == held[bitcoin]
    else:
        world.as_timelock(world.strategies.functions.writeOff(s.id, bitcoin))
    assert world.view(s.vault.functions.isEmpty())
    for call in drop_bitcoin(world, s):
        world.as_timelock(call)
    world.as_timelock(world.treasury.functions.allocate(s.id, usd(1_000_000)))
    world.post_bond(s.agent_id, tokens(40_000))  # the loss is the agent's too
    assert condition(world, s) == (State.ACTIVE, Reason(0))
    one(world.buy(s, usd(100_000)), "TradeRecorded")
    lost = 0 if leaves else held[bitcoin] * 60_000 * 10**6 // 10**8
    attack.outcome(
        gained="nothing", cost=f"{dollars(lost)} of a million: what can't be transferred at all",
        stopped_by="recall in kind, one asset at a time; writeOff",
    )  # fmt: skip


def test_dust_kept_so_that_an_asset_can_not_be_dropped(world: World, invested: Strategy, attack: Report) -> None:
    """The DAO has voted to drop BTC. The agent's contract buys a dollar's worth in front of every execution, so that
    the update finds it held. A proposal that recalls it in the same transaction leaves no moment in between."""
    attacker = Attacker(world)
    s = invested
    world.send(world.agents.functions.setSigningKey(s.agent_id, attacker.address), world.controller)
    recall(world, s, world.token_of("BTC"))
    approve, apply = drop_bitcoin(world, s)
    world.as_timelock(approve)
    dust = one(_bought(world, attacker, s), "TradeRecorded")["trade"]["amountOut"]
    with world.reverts("StrategyRegistryAssetStillHeld", token=world.token_of("BTC"), amount=dust):
        world.as_timelock(apply)

    proposal = world.propose([world.treasury.functions.recall(s.id, world.token_of("BTC"), 2**255, 0), apply])
    world.to_voting(proposal)
    world.vote(proposal)
    world.to_deadline(proposal)
    world.queue(proposal)
    _bought(world, attacker, s)
    world.execute(proposal)
    with world.reverts("VaultUnknownAsset", token=world.token_of("BTC")):
        attacker.run([attacker.trade(s, usd(1), buy=True, symbol="BTC")])
    attack.outcome(
        gained="one execution delayed", cost=f"{dollars(usd(1))} and a trade of the day each time",
        stopped_by="a proposal that recalls and updates at once",
    )  # fmt: skip


def _bought(world: World, attacker: Attacker, s: Strategy) -> list[EventLog]:
    return decode_logs(attacker.run([attacker.trade(s, usd(1), buy=True, symbol="BTC")]))
