"""Money in and out of a vault, by vote only: flows change neither the price of a unit nor the profit, recall works
whatever is broken, and what was never booked belongs to nobody's performance.

P = value + recalled - allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agents.contracts import EventLog
from agents.deployment import ZERO_ADDRESS
from tests.contracts.vaults import (
    DEAD_CODE,
    MAX_UINT,
    UNITS_PER_QUOTE,
    Desk,
    Reason,
    State,
    allocate,
    book,
    condition,
    faulty_feed,
    guard,
    halt,
    limits,
    recall,
    resume,
    stop,
    turn_faulty,
    unit_price_wad,
)
from tests.contracts.world import (
    DAY_S,
    HOUR_S,
    LIMITS,
    WAD,
    WINDOW_S,
    Strategy,
    World,
    eth,
    one,
    usd,
)

btc = 10**8


@pytest.fixture
def desk(world: World) -> Desk:
    """Half in ETH, half in quote."""
    desk = Desk(world)
    desk.buy(usd(500_000), eth(250))
    return desk


@pytest.fixture
def two_assets(world: World) -> Desk:
    """400,000 in ETH, 300,000 in BTC, 300,000 in quote."""
    desk = Desk(world, assets=("ETH", "BTC"))
    desk.buy(usd(400_000), eth(200))
    desk.buy(usd(300_000), 5 * btc, symbol="BTC")
    return desk


def call_as(world: World, address: str, call: Any) -> list[EventLog]:
    world.evm.impersonate(address)
    return world.send(call, address)


def profit(world: World, s: Strategy) -> int:
    return int(world.status(s).profit)


# Whose word counts


@pytest.mark.parametrize("role", ["stranger", "signer", "controller", "guardian", "deployer"])
def test_nobody_but_the_protocol_s_contracts_governs_a_vault(world: World, strategy: Strategy, role: str) -> None:
    caller, f = getattr(world, role), strategy.vault.functions
    init = (strategy.id, bytes(32), world.d.venue, strategy.agent_id, LIMITS.as_tuple(), [])
    for call in (
        f.initialize(init),
        f.update(b"\x01" * 32, LIMITS.as_tuple(), []),
        f.allocate(1),
        f.recall(world.book.quote, 1, 0),
        f.halt(),
        f.resume(),
        f.writeOff(world.token_of("ETH")),
    ):
        with world.reverts("VaultUnauthorized", caller=caller.address):
            world.send(call, caller)


AUTHORITIES = {
    "initialize": {"factory"},
    "update": {"strategies"},
    "allocate": {"treasury", "agents"},
    "recall": {"treasury"},
    "halt": {"strategies"},
    "resume": {"strategies"},
    "writeOff": {"strategies"},
}


@pytest.mark.parametrize("function", AUTHORITIES)
def test_each_contract_has_its_own_say_only(world: World, strategy: Strategy, function: str) -> None:
    """Not even the timelock speaks to a vault directly."""
    f = strategy.vault.functions
    init = (strategy.id, bytes(32), world.d.venue, strategy.agent_id, LIMITS.as_tuple(), [])
    call = {
        "initialize": f.initialize(init),
        "update": f.update(b"\x01" * 32, LIMITS.as_tuple(), []),
        "allocate": f.allocate(1),
        "recall": f.recall(world.book.quote, 1, 0),
        "halt": f.halt(),
        "resume": f.resume(),
        "writeOff": f.writeOff(world.token_of("ETH")),
    }[function]
    everybody = {"factory", "strategies", "treasury", "agents", "pool", "ledger", "dao", "timelock", "constitution"}
    for name in sorted(everybody - AUTHORITIES[function]):
        address = getattr(world.d, name)
        with world.reverts("VaultUnauthorized", caller=address):
            call_as(world, address, call)


def test_a_vault_is_initialised_once(world: World, strategy: Strategy) -> None:
    again = (b"\x01" * 32, bytes(32), world.d.venue, 99, LIMITS.as_tuple(), [])
    with world.reverts("VaultAlreadyInitialised"):
        call_as(world, world.d.factory, strategy.vault.functions.initialize(again))


def test_the_implementation_itself_belongs_to_nobody(world: World) -> None:
    implementation = world.d.vault(world.evm, world.d.vault_implementation)
    init = (b"\x01" * 32, bytes(32), world.d.venue, 1, LIMITS.as_tuple(), [])
    with world.reverts("VaultUnauthorized", caller=world.stranger.address):
        world.send(implementation.functions.initialize(init), world.stranger)
    with world.reverts("RewardPoolUnknownVault", vault=implementation.address):
        world.send(implementation.functions.poke(), world.stranger)
    assert world.view(implementation.functions.venue()) == ZERO_ADDRESS


def test_a_vault_is_what_its_manifest_says(world: World) -> None:
    manifest = world.manifest(world.register_agent(), assets=("ETH", "BTC"))
    strategy_id = world.submit(manifest)
    world.as_timelock(world.strategies.functions.approve(strategy_id))
    events = world.as_timelock(world.factory.functions.deployVault(strategy_id))
    vault = world.vault_of(strategy_id)
    initialised = one(events, "VaultInitialised")
    assert initialised == {
        "strategyId": strategy_id, "agentId": manifest["agentId"], "artefactHash": manifest["artefactHash"],
    }  # fmt: skip
    f = vault.functions
    assert world.view(f.strategyId()) == strategy_id
    assert world.view(f.artefactHash()) == manifest["artefactHash"]
    assert world.view(f.agentId()) == manifest["agentId"]
    assert world.view(f.venue()) == manifest["venue"]
    assert tuple(world.view(f.limits())) == manifest["limits"]
    eth_, btc_ = world.book.asset("ETH"), world.book.asset("BTC")
    assert world.view(f.assets()) == [(eth_.token, eth_.pool_fee, 18), (btc_.token, btc_.pool_fee, 8)]
    assert world.view(f.isEmpty())


# An update of a running strategy


def update(world: World, s: Strategy, **changed: Any) -> list[EventLog]:
    m = s.manifest | changed
    call = s.vault.functions.update(m["artefactHash"], m["limits"], m["assets"])
    return call_as(world, world.d.strategies, call)


def test_an_update_binds_the_next_trade(world: World, desk: Desk) -> None:
    old, new = desk.s.manifest["artefactHash"], b"\x42" * 32
    tighter = limits(max_trade_slippage_bps=10)
    updated = one(update(world, desk.s, artefactHash=new, limits=tighter.as_tuple()), "VaultUpdated")
    assert updated["artefactHash"] == new
    assert tuple(updated["limits"].values()) == tighter.as_tuple()
    with world.reverts("VaultWrongArtefact", expected=new, given=old):
        desk.sell(eth(1), usd(2000), artefactHash=old)
    with world.reverts("VaultSlippageExceeded", shortfall=usd(2) + 1, allowed=usd(2)):
        desk.sell(eth(1), usd(1998) - 1)
    desk.sell(eth(1), usd(1998))


def test_an_update_lists_and_drops_assets(world: World, desk: Desk) -> None:
    desk.sell(eth(250), usd(500_000))
    world.market.give_base("BTC", desk.venue.address, 10 * btc)
    bitcoin = world.token_of("BTC")
    update(world, desk.s, assets=[(bitcoin, 500)])
    with world.reverts("VaultUnknownAsset", token=world.token_of("ETH")):
        desk.buy(usd(2000), eth(1))
    desk.buy(usd(60_000), btc, symbol="BTC")
    assert world.view(desk.s.vault.functions.assets()) == [(bitcoin, 500, 8)]
    assert world.status(desk.s).value == usd(1_000_000)


def test_an_update_keeps_books_and_guard(world: World, desk: Desk) -> None:
    before = book(world, desk.s), world.held(desk.s), world.status(desk.s).profit, guard(world, desk.s).nonce
    update(world, desk.s, artefactHash=b"\x42" * 32)
    assert before == (book(world, desk.s), world.held(desk.s), profit(world, desk.s), guard(world, desk.s).nonce)


# Capital in


def test_first_capital_makes_units_of_one_dollar(world: World) -> None:
    s = world.deploy_strategy(capital=0)
    allocated = one(allocate(world, s, usd(1_000_000)), "Allocated")
    units = usd(1_000_000) * UNITS_PER_QUOTE
    assert allocated == {"amount": usd(1_000_000), "units": units, "unitPriceWad": WAD}
    assert book(world, s) == (units, usd(1_000_000), -usd(1_000_000), 0)
    remembered = guard(world, s)
    assert {remembered.peak, remembered.lastUnitPrice, remembered.beforeToday, remembered.beforeYesterday} == {WAD}
    assert world.market.balance(world.book.quote, s.vault.address) == usd(1_000_000)
    assert profit(world, s) == 0


def test_no_capital_goes_to_a_halted_vault(world: World, desk: Desk) -> None:
    halt(world, desk.s)
    with world.reverts("VaultHalted"):
        allocate(world, desk.s, usd(1))


def test_no_capital_is_counted_at_a_price_that_is_not_fresh(world: World, desk: Desk) -> None:
    world.evm.travel(2 * HOUR_S)
    with world.reverts("VaultNotPriced", reasons=Reason.PRICE_MISSING):
        allocate(world, desk.s, usd(1))


def test_a_quote_token_that_keeps_a_fee_does_not_arrive_as_capital(world: World, desk: Desk) -> None:
    fee = turn_faulty(world, world.book.quote, 6)
    world.send(fee.functions.setFeeBps(1), world.deployer)
    with world.reverts("VaultShortPaid", received=usd(9999), due=usd(10_000)):
        allocate(world, desk.s, usd(10_000))


def test_a_reducing_vault_takes_capital(world: World, desk: Desk) -> None:
    stop(world, desk.s)
    allocate(world, desk.s, usd(100_000))
    assert condition(world, desk.s) == (State.REDUCING, Reason.GUARDIAN)


def test_an_agent_s_award_comes_in_as_capital_not_as_profit(world: World, desk: Desk) -> None:
    award = world.agents.functions.awardDeposit(desk.s.agent_id, usd(10_000))
    allocated = one(world.as_timelock(award), "Allocated")
    assert allocated["amount"] == usd(10_000)
    assert profit(world, desk.s) == 0
    assert world.status(desk.s).value == usd(1_010_000)


# Flows are neutral

PRICES = ["2400", "1999.87654321", "1712.345678", "2000.00000001"]
AMOUNTS = [usd(500_000), 333_333_333_333, 1, usd("123456.789012")]


@pytest.mark.parametrize("price", PRICES)
def test_capital_in_changes_neither_unit_price_nor_profit(world: World, desk: Desk, price: str) -> None:
    world.set_price("ETH", price, pool_follows=False)
    for amount in AMOUNTS:
        before = world.status(desk.s)
        units = book(world, desk.s).units
        allocated = one(allocate(world, desk.s, amount), "Allocated")
        minted = amount * WAD * UNITS_PER_QUOTE // before.unitPriceWad
        assert allocated == {"amount": amount, "units": minted, "unitPriceWad": before.unitPriceWad}
        after = world.status(desk.s)
        assert after.profit == before.profit
        assert after.value == before.value + amount
        assert book(world, desk.s).units == units + minted
        assert abs(after.unitPriceWad - before.unitPriceWad) <= 1


@pytest.mark.parametrize("price", PRICES)
@pytest.mark.parametrize("in_kind", [True, False])
def test_capital_out_changes_neither_unit_price_nor_profit(world: World, desk: Desk, price: str, in_kind: bool) -> None:
    world.set_price("ETH", price, pool_follows=False)
    token = world.token_of("ETH") if in_kind else world.book.quote
    for amount in (eth("33.333333333333333333"), 1, 10**9 + 7) if in_kind else (usd("123456.789012"), 1):
        before, (units, _, net_flow, _) = world.status(desk.s), book(world, desk.s)
        recalled = one(recall(world, desk.s, token, amount), "Recalled")
        value = amount * int(price.replace(".", "").ljust(12, "0")) // 10**20 if in_kind else amount
        burned = units * value // before.value
        assert recalled == {"token": token, "amount": amount, "value": value, "units": burned}
        after = world.status(desk.s)
        # One base unit may be lost when amounts become values, none is ever gained.
        assert before.profit - 1 <= after.profit <= before.profit
        assert abs(after.unitPriceWad - before.unitPriceWad) <= 2 * 10**6
        assert book(world, desk.s).netFlow == net_flow + value


def test_flows_move_neither_the_peak_nor_the_day_s_reference(world: World, desk: Desk) -> None:
    world.set_price("ETH", 2400, pool_follows=False)
    world.poke(desk.s)
    world.set_price("ETH", 1960, pool_follows=False)  # 0.99: exactly 10 % below the peak
    remembered = guard(world, desk.s)
    allocate(world, desk.s, usd(198_000))
    recall(world, desk.s, world.book.quote, usd(99_000))
    after = guard(world, desk.s)
    assert (after.peak, after.beforeToday) == (remembered.peak, remembered.beforeToday)
    assert condition(world, desk.s) == (State.ACTIVE, Reason(0))
    world.set_price("ETH", 1959, pool_follows=False)
    assert condition(world, desk.s) == (State.REDUCING, Reason.DRAWDOWN)


def test_the_loss_of_new_capital_is_measured_like_that_of_the_old(world: World, desk: Desk) -> None:
    world.set_price("ETH", 1800, pool_follows=False)  # 0.95
    allocate(world, desk.s, usd(9_000_000))
    status = world.status(desk.s)
    assert status.profit == -usd(50_000)
    assert status.unitPriceWad == WAD * 95 // 100


# What was never booked


@pytest.mark.parametrize("symbol", ["MUSD", "ETH", "BTC"])
def test_a_donation_is_no_profit_and_goes_to_the_treasury_only(world: World, desk: Desk, symbol: str) -> None:
    """BTC is not even listed."""
    token = world.book.quote if symbol == "MUSD" else world.token_of(symbol)
    before, holdings = world.status(desk.s), (book(world, desk.s), world.held(desk.s))
    if symbol == "MUSD":
        world.market.give_quote(desk.s.vault.address, usd(123))
    else:
        world.market.give_base(symbol, desk.s.vault.address, usd(123))
    assert world.status(desk.s) == before
    treasury = world.market.balance(token, world.d.treasury)
    skimmed = one(world.send(desk.s.vault.functions.skim(token), world.stranger), "Skimmed")
    assert skimmed == {"token": token, "amount": usd(123)}
    assert world.market.balance(token, world.d.treasury) == treasury + usd(123)
    assert world.status(desk.s) == before
    assert (book(world, desk.s), world.held(desk.s)) == holdings


def test_what_is_booked_can_not_be_skimmed(world: World, desk: Desk) -> None:
    for token in (world.book.quote, world.token_of("ETH")):
        assert one(world.send(desk.s.vault.functions.skim(token), world.stranger), "Skimmed")["amount"] == 0
    assert world.status(desk.s).value == usd(1_000_000)


# Capital out


def test_a_recall_sends_what_there_is_and_no_more(world: World, desk: Desk) -> None:
    weth, treasury = world.token_of("ETH"), world.d.treasury
    recalled = one(recall(world, desk.s, weth, MAX_UINT), "Recalled")
    assert recalled == {
        "token": weth, "amount": eth(250), "value": usd(500_000), "units": usd(500_000) * UNITS_PER_QUOTE,
    }  # fmt: skip
    assert world.market.balance(weth, treasury) == eth(250)
    assert recall(world, desk.s, weth, MAX_UINT)[0].args["amount"] == 0


def test_a_recall_of_what_is_not_held_sends_nothing(world: World, desk: Desk) -> None:
    before = book(world, desk.s)
    for token in (world.token_of("BTC"), world.d.token):
        [only] = recall(world, desk.s, token, 1)
        assert (only.name, only.args["amount"]) == ("CapitalRecalled", 0)
    assert book(world, desk.s) == before


def test_an_emptied_vault_has_no_units_and_says_since_when(world: World, desk: Desk) -> None:
    world.set_price("ETH", 2400, pool_follows=False)
    recall(world, desk.s, world.token_of("ETH"))
    units = book(world, desk.s).units
    assert not world.view(desk.s.vault.functions.isEmpty())
    assert one(recall(world, desk.s, world.book.quote), "Recalled")["units"] == units
    assert world.view(desk.s.vault.functions.isEmpty())
    assert book(world, desk.s) == (0, 0, usd(100_000), world.now_s())
    assert profit(world, desk.s) == usd(100_000)
    assert world.status(desk.s).unitPriceWad == WAD


def test_a_vault_emptied_of_what_counted_for_nothing_has_no_units_either(world: World, desk: Desk) -> None:
    recall(world, desk.s, world.book.quote)
    world.evm.travel(3 * HOUR_S)
    recalled = one(recall(world, desk.s, world.token_of("ETH"), MAX_UINT, 0), "Recalled")
    assert (recalled["value"], recalled["units"]) == (0, usd(500_000) * UNITS_PER_QUOTE)
    assert book(world, desk.s) == (0, 0, -usd(500_000), world.now_s())


def test_an_emptied_vault_begins_anew_but_its_profit_does_not(world: World, desk: Desk) -> None:
    world.set_price("ETH", 1900, pool_follows=False)
    recall(world, desk.s, world.token_of("ETH"))
    recall(world, desk.s, world.book.quote)
    allocated = one(allocate(world, desk.s, usd(100_000)), "Allocated")
    assert allocated["unitPriceWad"] == WAD
    assert guard(world, desk.s).peak == WAD
    assert profit(world, desk.s) == -usd(25_000)
    assert condition(world, desk.s) == (State.ACTIVE, Reason(0))


def test_emptying_ends_no_drawdown(world: World, desk: Desk) -> None:
    world.set_price("ETH", 1500, pool_follows=False)
    world.poke(desk.s)
    recall(world, desk.s, world.token_of("ETH"))
    recall(world, desk.s, world.book.quote)
    allocate(world, desk.s, usd(100_000))
    assert condition(world, desk.s)[1] & Reason.DRAWDOWN


# Whatever is broken


def set_mode(world: World, symbol: str, mode: int) -> None:
    world.send(faulty_feed(world, symbol).functions.setMode(mode), world.deployer)


def hide_balance(world: World) -> None:
    token = turn_faulty(world, world.token_of("BTC"), 8)
    world.send(token.functions.setBalanceHidden(True), world.deployer)


BROKEN: dict[str, Callable[[World, Strategy], Any]] = {
    "stale feeds": lambda world, s: world.evm.travel(3 * HOUR_S),
    "a reverting feed": lambda world, s: set_mode(world, "BTC", 1),
    "a feed that burns gas": lambda world, s: set_mode(world, "BTC", 2),
    "a feed that talks nonsense": lambda world, s: set_mode(world, "BTC", 4),
    "a delisted asset": lambda world, s: world.as_timelock(world.oracle.functions.removeFeed(world.token_of("BTC"))),
    "a depegged quote token": lambda world, s: world.set_price("MUSD", "0.5"),
    "a stale quote token": lambda world, s: world.evm.travel(26 * HOUR_S),
    "an unsettled epoch": lambda world, s: world.travel_to(world.epoch_start_s(1) + WINDOW_S),
    "a halted vault": halt,
    "a stopped vault": stop,
    "a token that hides its balance": lambda world, s: hide_balance(world),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_recall_works_whatever_is_broken(world: World, two_assets: Desk, broken: str) -> None:
    s = two_assets.s
    BROKEN[broken](world, s)
    tokens = {world.token_of("ETH"): 2000, world.token_of("BTC"): 60_000, world.book.quote: 1}
    values = [400_000, 300_000, 300_000]
    for (token, last_price), value in zip(tokens.items(), values, strict=True):
        recalled = one(recall(world, s, token, MAX_UINT, last_price * WAD), "Recalled")
        assert (recalled["value"], recalled["units"]) == (usd(value), usd(value) * UNITS_PER_QUOTE)
    assert world.market.balance(world.token_of("ETH"), world.d.treasury) == eth(200)
    if "hides" not in broken:
        assert world.market.balance(world.token_of("BTC"), world.d.treasury) == 5 * btc
    assert world.view(s.vault.functions.isEmpty())
    assert book(world, s).netFlow == 0  # counted at the last prices, which were those paid


def test_without_a_fresh_price_a_recall_counts_at_the_proposal_s_up_to_the_last_accepted(
    world: World, desk: Desk
) -> None:
    weth, last = world.token_of("ETH"), 2000 * WAD
    world.evm.travel(3 * HOUR_S)
    with world.reverts("VaultFallbackPriceTooHigh", priceWad=last + 1, lastPriceWad=last):
        recall(world, desk.s, weth, eth(1), last + 1)
    assert one(recall(world, desk.s, weth, eth(1), last), "Recalled")["value"] == usd(2000)
    assert one(recall(world, desk.s, weth, eth(1), last // 2), "Recalled")["value"] == usd(1000)
    assert one(recall(world, desk.s, weth, eth(1), 0), "Recalled")["value"] == 0
    world.set_price("ETH", 2000, pool_follows=False)
    assert profit(world, desk.s) == -usd(3000)


def test_the_last_accepted_price_is_that_of_the_last_call(world: World, desk: Desk) -> None:
    world.set_price("ETH", 1900, pool_follows=False)
    world.poke(desk.s)
    world.set_price("ETH", 1950, pool_follows=False)  # a round that no call has seen
    world.evm.travel(3 * HOUR_S)
    with world.reverts("VaultFallbackPriceTooHigh", priceWad=1900 * WAD + 1, lastPriceWad=1900 * WAD):
        recall(world, desk.s, world.token_of("ETH"), 1, 1900 * WAD + 1)


def test_with_a_fresh_price_the_proposal_s_does_not_matter(world: World, desk: Desk) -> None:
    world.set_price("ETH", 2200, pool_follows=False)
    recalled = one(recall(world, desk.s, world.token_of("ETH"), eth(1), 10**30), "Recalled")
    assert recalled["value"] == usd(2200)


def test_a_recall_of_one_token_burns_its_share_of_units_though_another_has_no_price(
    world: World, two_assets: Desk
) -> None:
    set_mode(world, "BTC", 1)
    recalled = one(recall(world, two_assets.s, world.token_of("ETH")), "Recalled")
    # BTC counts at its last price: a part of value leaves, and as large a part of units.
    assert (recalled["value"], recalled["units"]) == (usd(400_000), usd(400_000) * UNITS_PER_QUOTE)


# A dead token


def kill(world: World, token: str) -> object:
    return world.send(turn_faulty(world, token, 8).functions.setDead(True), world.deployer)


DEATHS: dict[str, tuple[Callable[[World, str], object], str]] = {
    "transfers revert": (kill, "FaultyTokenDead"),
    "every call burns all gas": (lambda world, token: world.evm.set_code(token, DEAD_CODE), "NoReason"),
    "its code is gone": (lambda world, token: world.evm.set_code(token, b""), "SafeERC20FailedOperation"),
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_dead_token_traps_nothing_else(world: World, two_assets: Desk, death: str) -> None:
    s, bitcoin = two_assets.s, world.token_of("BTC")
    die, error = DEATHS[death]
    die(world, bitcoin)
    # A token that burns all it is given is given little.
    assert world.evm.send(s.vault.functions.poke(), world.stranger)["gasUsed"] < 500_000
    for token, amount in ((world.token_of("ETH"), eth(200)), (world.book.quote, usd(300_000))):
        assert one(recall(world, s, token), "Recalled")["amount"] == amount
    with world.reverts(error, **({"token": bitcoin} if "SafeERC20" in error else {})):
        recall(world, s, bitcoin)
    # What is left of the vault is the dead token, and its units.
    assert book(world, s).units == usd(300_000) * UNITS_PER_QUOTE
    assert not world.view(s.vault.functions.isEmpty())


def test_a_token_without_a_balance_to_read_has_no_price_but_can_leave(world: World, two_assets: Desk) -> None:
    token = turn_faulty(world, world.token_of("BTC"), 8)
    world.send(token.functions.setBalanceHidden(True), world.deployer)
    assert one(world.poke(two_assets.s), "StateChanged")["reasons"] == Reason.PRICE_MISSING
    assert world.status(two_assets.s).value == usd(700_000)
    recalled = one(recall(world, two_assets.s, token.address, MAX_UINT, 60_000 * WAD), "Recalled")
    assert (recalled["amount"], recalled["value"]) == (5 * btc, usd(300_000))
    world.send(token.functions.setBalanceHidden(False), world.deployer)
    assert world.market.balance(token.address, world.d.treasury) == 5 * btc


def test_a_dead_token_is_written_off_at_zero_by_vote(world: World, two_assets: Desk) -> None:
    s, bitcoin = two_assets.s, world.token_of("BTC")
    world.evm.set_code(bitcoin, DEAD_CODE)
    events = world.as_timelock(world.strategies.functions.writeOff(s.id, bitcoin))
    assert one(events, "WrittenOff") == {"token": bitcoin, "amount": 5 * btc}
    expected = Reason.DAY_LOSS | Reason.DRAWDOWN | Reason.HALTED  # 30 % are lost
    assert one(events, "StateChanged")["reasons"] == expected
    status = world.status(s)
    assert (status.priced, status.value, status.profit) == (True, usd(700_000), -usd(300_000))
    assert status.unitPriceWad == unit_price_wad(usd(700_000), usd(1_000_000) * UNITS_PER_QUOTE)


def test_nothing_can_be_written_off_twice_or_without_being_held(world: World, two_assets: Desk) -> None:
    write_off = world.strategies.functions.writeOff
    world.as_timelock(write_off(two_assets.s.id, world.token_of("BTC")))
    for token in (world.token_of("BTC"), world.book.quote, world.d.token):
        with world.reverts("VaultZeroAmount"):
            world.as_timelock(write_off(two_assets.s.id, token))


def test_a_vault_left_with_a_dead_token_only_is_empty_once_that_is_written_off(world: World, two_assets: Desk) -> None:
    s, bitcoin = two_assets.s, world.token_of("BTC")
    world.evm.set_code(bitcoin, DEAD_CODE)
    for token in (world.token_of("ETH"), world.book.quote):
        recall(world, s, token)
    world.as_timelock(world.strategies.functions.writeOff(s.id, bitcoin))
    assert world.view(s.vault.functions.isEmpty())
    assert book(world, s) == (0, 0, -usd(300_000), world.now_s())
    assert profit(world, s) == -usd(300_000)


def test_what_comes_back_to_life_after_it_was_written_off_goes_to_the_treasury(world: World, two_assets: Desk) -> None:
    bitcoin = world.token_of("BTC")
    world.as_timelock(world.strategies.functions.writeOff(two_assets.s.id, bitcoin))
    before = profit(world, two_assets.s)
    skimmed = one(world.send(two_assets.s.vault.functions.skim(bitcoin), world.stranger), "Skimmed")
    assert skimmed["amount"] == 5 * btc
    assert profit(world, two_assets.s) == before


def test_a_vault_can_resume_after_what_was_dead_is_written_off(world: World, two_assets: Desk) -> None:
    world.evm.set_code(world.token_of("BTC"), DEAD_CODE)
    with world.reverts("VaultNotPriced", reasons=Reason.PRICE_MISSING):
        resume(world, two_assets.s)
    world.as_timelock(world.strategies.functions.writeOff(two_assets.s.id, world.token_of("BTC")))
    world.travel(2 * DAY_S)
    resume(world, two_assets.s)
    assert condition(world, two_assets.s) == (State.ACTIVE, Reason(0))
    two_assets.sell(eth(1), usd(2000))


def test_the_quote_token_itself_can_hide_its_balance_and_still_leave(world: World, desk: Desk) -> None:
    token = turn_faulty(world, world.book.quote, 6)
    world.send(token.functions.setBalanceHidden(True), world.deployer)
    assert condition(world, desk.s)[1] & Reason.QUOTE_UNHEALTHY
    assert one(recall(world, desk.s, token.address), "Recalled")["amount"] == usd(500_000)
    world.send(token.functions.setBalanceHidden(False), world.deployer)
    assert book(world, desk.s).quoteHeld == world.market.balance(token.address, desk.s.vault.address) == 0


# The venue's allowance


def test_between_trades_the_venue_may_take_nothing(world: World, desk: Desk) -> None:
    def allowed(token: str) -> int:
        contract = world.evm.at("MockToken", token)
        return int(world.view(contract.functions.allowance(desk.s.vault.address, desk.venue.address)))

    tokens = (world.book.quote, world.token_of("ETH"))
    assert [allowed(token) for token in tokens] == [0, 0]
    desk.fill(usd(9000), eth(5))  # less than the order lets it take
    world.buy(desk.s, usd(10_000))
    desk.sell(eth(1), usd(2000))
    assert [allowed(token) for token in tokens] == [0, 0]
