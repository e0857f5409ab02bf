"""Feeds and tokens that were voted in and turn hostile: burning all gas, answering without end.

A vault that holds eight assets, the most there can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import Listing
from tests.contracts.vaults import DEAD_CODE, Reason, State, condition, faulty_feed
from tests.contracts.world import DAY_S, WAD, Strategy, World, one, usd

OTHERS = [f"A{index}" for index in range(6)]
# What one transaction may use since Osaka: https://eips.ethereum.org/EIPS/eip-7825
TRANSACTION_GAS_CAP = 2**24
ALL = ["ETH", "BTC", *OTHERS]
# PUSH3 size, PUSH0, RETURN: about all that the gas given can buy.
RETURN_250_KIB, RETURN_200_KIB = bytes.fromhex("6203eb005ff3"), bytes.fromhex("620323005ff3")
REVERT_250_KIB = bytes.fromhex("6203eb005ffd")


@pytest.fixture
def full(world: World, monkeypatch: pytest.MonkeyPatch) -> Strategy:
    Listing(world, monkeypatch)
    for symbol in OTHERS:
        world.market.add_asset(symbol, price_usd=Decimal(100), pool_fee=500)
    world.book = world.market.book
    for symbol in OTHERS:
        asset = world.book.asset(symbol)
        world.as_timelock(world.oracle.functions.setFeed(asset.token, asset.feed, DAY_S, 1, 10**16))
    s = world.deploy_strategy(assets=ALL)
    for symbol in ALL:
        world.buy(s, usd(10_000), symbol=symbol)
    return s


def feeds_of(world: World) -> list[str]:
    return [world.book.quote_feed, *(world.book.asset(symbol).feed for symbol in ALL)]


def become(world: World, addresses: Sequence[str], code: bytes) -> None:
    for address in addresses:
        world.evm.set_code(address, code)


def gas_of_recall(world: World, s: Strategy, token: str, amount: int) -> int:
    call = world.treasury.functions.recall(s.id, token, amount, 0)
    gas = world.evm.block_gas_limit
    return int(world.evm.send(call, world.d.timelock, gas=gas)["gasUsed"])


def test_a_feed_that_burns_all_gas_takes_its_own_asset_away(world: World, attack: Report, strategy: Strategy) -> None:
    """The feed of an asset that the vault holds burns what it is given. The asset is recalled, the strategy goes on
    with another one by an update, and nobody needs the feed."""
    s = world.deploy_strategy(
        world.register_agent(world.other_controller, world.other_signer), assets=("ETH", "BTC"), salt=b"\x01" * 32
    )
    world.buy(s, usd(100_000), sender=world.other_signer)
    before = world.evm.send(s.vault.functions.poke(), world.stranger)["gasUsed"]
    feed = faulty_feed(world, "ETH")
    world.evm.set_code(feed.address, DEAD_CODE)
    assert one(world.poke(s), "StateChanged")["reasons"] == Reason.PRICE_MISSING
    after = world.evm.send(s.vault.functions.poke(), world.stranger)["gasUsed"]
    assert after - before < 160_000
    held = world.held(s)
    world.as_timelock(world.treasury.functions.recall(s.id, world.token_of("ETH"), held, 2000 * WAD))
    assert condition(world, s) == (State.ACTIVE, Reason(0))

    smaller = {"updates": s.id, "assets": s.manifest["assets"][1:], "capital": 0}
    update = world.submit(s.manifest | smaller)
    world.as_timelock(world.strategies.functions.approve(update))
    world.as_timelock(world.strategies.functions.applyUpdate(update))
    traded = one(world.buy(s, usd(100_000), symbol="BTC", sender=world.other_signer), "TradeRecorded")["trade"]
    assert traded["amountIn"] == usd(100_000)
    attack.outcome(
        gained="nothing", cost=f"{after - before:,} gas more for each call, until it is voted out",
        stopped_by="PRICE_MISSING, recall, an update",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "how"),
    [(DEAD_CODE, "burns"), (RETURN_250_KIB, "floods"), (REVERT_250_KIB, "floods while reverting")],
    ids=["burn", "flood", "flood-in-revert"],
)
def test_nine_hostile_feeds_at_once_trap_nothing(
    world: World, full: Strategy, attack: Report, code: bytes, how: str
) -> None:
    become(world, feeds_of(world), code)
    held = world.held(full)
    gas = gas_of_recall(world, full, world.token_of("ETH"), held)
    assert world.market.balance(world.token_of("ETH"), world.d.treasury) == held
    poke = int(world.evm.send(full.vault.functions.poke(), world.stranger, gas=world.evm.block_gas_limit)["gasUsed"])
    assert max(gas, poke) < TRANSACTION_GAS_CAP * 9 // 10
    attack.outcome(
        gained="nothing", cost=f"each of nine feeds {how}: recall takes {gas:,} gas, poke {poke:,}",
        stopped_by="FEED_GAS",
    )  # fmt: skip


def test_feeds_and_tokens_that_flood_at_once_trap_nothing(world: World, full: Strategy, attack: Report) -> None:
    """Everything that a vault may read answers as much as its gas allowance can buy, but the one token that is
    recalled."""
    become(world, feeds_of(world), RETURN_250_KIB)
    become(world, [world.token_of(symbol) for symbol in ALL[1:]], RETURN_200_KIB)
    held = world.held(full)
    gas = gas_of_recall(world, full, world.token_of("ETH"), held)
    assert world.market.balance(world.token_of("ETH"), world.d.treasury) == held
    attack.outcome(gained="nothing", cost=f"recall takes {gas:,} gas", stopped_by="FEED_GAS, BALANCE_GAS")
    assert gas < TRANSACTION_GAS_CAP * 9 // 10, "with a tenth left for the vote's way through DAO and timelock"


def test_a_hostile_feed_of_what_is_not_held_costs_nothing(world: World, attack: Report) -> None:
    """A listed asset that nobody has bought is not asked for its price."""
    s = world.deploy_strategy(assets=("ETH", "BTC"))
    world.buy(s, usd(100_000))
    world.poke(s)
    before = int(world.evm.send(s.vault.functions.poke(), world.stranger)["gasUsed"])
    become(world, [world.book.asset("BTC").feed], DEAD_CODE)
    after = int(world.evm.send(s.vault.functions.poke(), world.stranger)["gasUsed"])
    assert after == before
    assert condition(world, s) == (State.ACTIVE, Reason(0))
    refused = one(world.buy(s, usd(1000), symbol="BTC"), "TradeRefused")
    assert refused["reasons"] == Reason.PRICE_MISSING
    attack.outcome(gained="nothing", cost=f"{after - before} gas more", stopped_by="only what is held is read")
