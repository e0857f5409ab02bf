"""The DAO's money leaves by vote only, and no faster than its cap over any thirty days."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from web3 import Web3

from tests.contracts.world import DAY_S, Strategy, World, eth, none_of, one, tokens, usd

PERIOD_S = 30 * DAY_S
CAP, TOKEN_CAP = usd(10_000_000), tokens(1_000_000)
UNKNOWN = b"\x07" * 32


def pay(world: World, amount: int, asset: str | None = None, to: str | None = None) -> Any:
    return world.treasury.functions.pay(asset or world.book.quote, to or world.stranger.address, amount)


def set_cap(world: World, cap: int, asset: str | None = None) -> dict[str, Any]:
    """Sets the cap and returns its event."""
    call = world.treasury.functions.setOutflowCap(asset or world.book.quote, cap)
    return one(world.as_timelock(call), "OutflowCapSet")


def outflow(world: World, asset: str | None = None) -> tuple[int, int]:
    """(cap, available)."""
    return tuple(world.view(world.treasury.functions.outflowOf(asset or world.book.quote)))


def available(world: World) -> int:
    return outflow(world)[1]


def balance(world: World, who: str, token: Any = None) -> int:
    return int(world.view((token or world.quote).functions.balanceOf(who)))


def exceeded(world: World, amount: int, available: int, asset: str | None = None) -> dict[str, Any]:
    return {"token": asset or world.book.quote, "amount": amount, "available": available}


# Who


def every_function(world: World) -> list[Any]:
    functions, quote = world.treasury.functions, world.book.quote
    return [
        functions.allocate(UNKNOWN, 1),
        functions.recall(UNKNOWN, quote, 1, 0),
        functions.pay(quote, world.stranger.address, 1),
        functions.fundRewards(1),
        functions.fundBounties(1),
        functions.setOutflowCap(quote, 0),
    ]


def test_nobody_but_the_timelock_moves_anything(world: World):
    people = (world.deployer, world.guardian, world.proposer, world.voter_a, world.controller, world.stranger)
    contracts = (world.d.dao, world.d.treasury, world.d.strategies, world.d.factory, world.d.pool, world.d.agents)
    for call in every_function(world):
        for who in (*(person.address for person in people), *contracts):
            with world.reverts("TreasuryUnauthorized", caller=who):
                world.evm.call(call, who)


def test_no_other_function_changes_anything(world: World):
    changing = {f["name"] for f in world.treasury.abi if f["type"] == "function" and f["stateMutability"] != "view"}
    assert changing == {call.fn_name for call in every_function(world)}


def test_the_treasury_takes_no_ether(world: World):
    with world.reverts("NoReason"):
        world.evm.send({"to": world.d.treasury}, world.stranger, value=1)


# Paying


@pytest.mark.parametrize("to", ["nobody", "itself"])
def test_a_payment_to_nobody_or_to_itself_is_refused(world: World, to: str):
    recipient = {"nobody": "0x" + "00" * 20, "itself": world.d.treasury}[to]
    with world.reverts("TreasuryInvalidRecipient"):
        world.as_timelock(pay(world, 1, to=recipient))


def test_a_payment_of_more_than_there_is_is_refused(world: World):
    btc = world.token_of("BTC")
    set_cap(world, 5, btc)
    world.evm.travel(PERIOD_S)
    with world.reverts("ERC20InsufficientBalance", sender=world.d.treasury, balance=0, needed=1):
        world.as_timelock(pay(world, 1, btc))
    assert outflow(world, btc) == (5, 5)


def test_a_payment_says_what_it_paid(world: World):
    held = balance(world, world.d.treasury)
    events = world.as_timelock(pay(world, usd(5)))
    assert one(events, "Paid") == {"token": world.book.quote, "to": world.stranger.address, "amount": usd(5)}
    assert balance(world, world.stranger.address) == usd(5)
    assert balance(world, world.d.treasury) == held - usd(5)


@pytest.mark.parametrize(
    ("function", "funded", "fund"), [("fundRewards", "Funded", "free"), ("fundBounties", "BountyFunded", "bountyFund")]
)
def test_funding_the_pool_is_a_payment_to_it(world: World, function: str, funded: str, fund: str):
    before, held = world.view(world.pool.functions[fund]()), balance(world, world.d.pool, world.token)
    events = world.as_timelock(world.treasury.functions[function](tokens(70)))
    assert one(events, "Paid") == {"token": world.d.token, "to": world.d.pool, "amount": tokens(70)}
    assert one(events, funded) == {"from": world.d.treasury, "amount": tokens(70)}
    assert world.view(world.pool.functions[fund]()) == before + tokens(70)
    assert balance(world, world.d.pool, world.token) == held + tokens(70)
    assert world.view(world.token.functions.allowance(world.d.treasury, world.d.pool)) == 0


# Allocating and recalling


def test_an_unknown_strategy_gets_nothing_and_gives_nothing(world: World):
    with world.reverts("TreasuryUnknownStrategy", strategyId=UNKNOWN):
        world.as_timelock(world.treasury.functions.allocate(UNKNOWN, usd(1)))
    with world.reverts("TreasuryUnknownStrategy", strategyId=UNKNOWN):
        world.as_timelock(world.treasury.functions.recall(UNKNOWN, world.book.quote, usd(1), 0))


def test_a_strategy_that_is_only_submitted_gets_nothing(world: World):
    strategy_id = world.submit(world.manifest(world.register_agent()))
    with world.reverts("TreasuryUnknownStrategy", strategyId=strategy_id):
        world.as_timelock(world.treasury.functions.allocate(strategy_id, usd(1)))


def test_a_strategy_that_retires_gets_nothing(world: World, strategy: Strategy):
    world.as_timelock(world.strategies.functions.retire(strategy.id))
    with world.reverts("VaultHalted"):
        world.as_timelock(world.treasury.functions.allocate(strategy.id, usd(1)))


def test_an_allocation_moves_quote_into_the_vault(world: World, strategy: Strategy):
    held, vault = balance(world, world.d.treasury), strategy.vault.address
    events = world.as_timelock(world.treasury.functions.allocate(strategy.id, usd(500)))
    assert one(events, "CapitalAllocated") == {"strategyId": strategy.id, "vault": vault, "amount": usd(500)}
    assert none_of(events, "Paid")
    assert balance(world, vault) == usd(1_000_500)
    assert balance(world, world.d.treasury) == held - usd(500)
    assert world.view(world.quote.functions.allowance(world.d.treasury, vault)) == 0


def test_an_allocation_that_a_vault_does_not_take_cannot_be_taken_later(world: World):
    """A vault of other code could wait until the window has slid, and then take it on top of the cap."""
    code_that_does_nothing, salt = bytes.fromhex("6001600c60003960016000f300"), b"\x01" * 32
    deployer = world.evm.at("Deployer", world.d.deployer_contract)
    world.send(deployer.functions.deploy(salt, code_that_does_nothing), world.stranger)
    idle = world.view(deployer.functions.addressOf(world.stranger.address, salt))
    code_hash = Web3.keccak(world.w3.eth.get_code(idle))
    strategy = world.deploy_strategy(vaultImplementation=idle, vaultCodeHash=code_hash, capital=usd(1000))
    assert balance(world, strategy.vault.address) == 0
    assert world.view(world.quote.functions.allowance(world.d.treasury, strategy.vault.address)) == 0


def test_a_recall_says_what_came_back_not_what_was_asked_for(world: World, strategy: Strategy):
    recall, held = world.treasury.functions.recall, balance(world, world.d.treasury)
    events = world.as_timelock(recall(strategy.id, world.book.quote, usd(2_000_000), 0))
    assert one(events, "CapitalRecalled") == {
        "strategyId": strategy.id, "token": world.book.quote, "amount": usd(1_000_000),
    }  # fmt: skip
    assert balance(world, world.d.treasury) == held + usd(1_000_000)
    events = world.as_timelock(recall(strategy.id, world.token_of("ETH"), eth(1), 0))
    assert one(events, "CapitalRecalled")["amount"] == 0


def test_a_recall_is_not_limited_and_gives_no_room_back(world: World, strategy: Strategy):
    assert set_cap(world, 0)["cap"] == 0
    assert outflow(world) == (0, 0)
    events = world.as_timelock(world.treasury.functions.recall(strategy.id, world.book.quote, usd(1_000_000), 0))
    assert one(events, "CapitalRecalled")["amount"] == usd(1_000_000)
    assert outflow(world) == (0, 0)


# The cap


def by_payment(world: World, strategy: Strategy, amount: int) -> Any:
    return pay(world, amount)


def by_allocation(world: World, strategy: Strategy, amount: int) -> Any:
    return world.treasury.functions.allocate(strategy.id, amount)


@pytest.mark.parametrize("out", [by_payment, by_allocation])
def test_quote_leaves_up_to_its_cap_whichever_way(world: World, strategy: Strategy, out: Callable[..., Any]):
    assert outflow(world) == (CAP, CAP - usd(1_000_000))  # the strategy's capital
    world.as_timelock(pay(world, usd(4_000_000)))
    left = usd(5_000_000)
    with world.reverts("TreasuryOutflowExceeded", **exceeded(world, left + 1, left)):
        world.as_timelock(out(world, strategy, left + 1))
    assert outflow(world) == (CAP, left)  # what was refused does not count
    world.as_timelock(out(world, strategy, left))
    assert outflow(world) == (CAP, 0)
    with world.reverts("TreasuryOutflowExceeded", **exceeded(world, 1, 0)):
        world.as_timelock(out(world, strategy, 1))


@pytest.mark.parametrize("out", ["pay", "fundRewards", "fundBounties"])
def test_tokens_leave_up_to_their_cap_whichever_way(world: World, out: str):
    functions = world.treasury.functions
    last = {
        "pay": lambda amount: pay(world, amount, world.d.token),
        "fundRewards": functions.fundRewards,
        "fundBounties": functions.fundBounties,
    }[out]
    world.as_timelock(pay(world, tokens(400_000), world.d.token))
    world.as_timelock(functions.fundRewards(tokens(300_000)))
    world.as_timelock(functions.fundBounties(tokens(200_000)))
    left = tokens(100_000)
    with world.reverts("TreasuryOutflowExceeded", **exceeded(world, left + 1, left, world.d.token)):
        world.as_timelock(last(left + 1))
    world.as_timelock(last(left))
    assert outflow(world, world.d.token) == (TOKEN_CAP, 0)
    assert outflow(world) == (CAP, CAP)  # every token has a cap of its own


def test_a_token_without_a_cap_does_not_leave(world: World):
    weth = world.token_of("ETH")
    assert outflow(world, weth) == (0, 0)
    with world.reverts("TreasuryOutflowExceeded", **exceeded(world, 1, 0, weth)):
        world.as_timelock(pay(world, 1, weth))


def test_what_has_left_counts_for_thirty_days_to_the_second(world: World):
    world.as_timelock(pay(world, CAP))
    paid_s = world.now_s()
    world.evm.next_block_at(paid_s + PERIOD_S - 1)
    with world.reverts("TreasuryOutflowExceeded", **exceeded(world, 1, 0)):
        world.as_timelock(pay(world, 1))
    world.as_timelock(pay(world, CAP))
    assert world.now_s() == paid_s + PERIOD_S
    assert balance(world, world.stranger.address) == 2 * CAP


def test_the_window_slides_so_that_no_thirty_days_see_more_than_the_cap(world: World):
    half = CAP // 2
    world.as_timelock(pay(world, half))
    first_s = world.now_s()
    world.evm.next_block_at(first_s + 29 * DAY_S)
    world.as_timelock(pay(world, half))
    second_s = world.now_s()

    world.evm.travel_to(first_s + PERIOD_S - 1)
    assert available(world) == 0
    world.evm.travel(1)
    assert available(world) == half  # a fixed month would have begun anew, with all of it
    world.as_timelock(pay(world, half))
    with world.reverts("TreasuryOutflowExceeded", **exceeded(world, 1, 0)):
        world.as_timelock(pay(world, 1))

    world.evm.travel_to(second_s + PERIOD_S - 1)
    assert available(world) == 0
    world.evm.travel(1)
    assert available(world) == half


def test_many_small_payments_are_counted_together(world: World):
    for _ in range(5):
        world.as_timelock(pay(world, CAP // 5))
        world.evm.travel(DAY_S)
    assert available(world) == 0
    world.evm.travel(PERIOD_S - 5 * DAY_S)
    assert available(world) == CAP // 5
    world.evm.travel(DAY_S + 10)
    assert available(world) == 2 * CAP // 5


# Changing the cap


def test_the_caps_of_genesis_hold_at_once(world: World):
    deployed = world.history(world.treasury)
    assert [e.name for e in deployed] == ["OutflowCapSet", "OutflowCapSet"]
    assert {e.args["token"]: e.args["cap"] for e in deployed} == {world.book.quote: CAP, world.d.token: TOKEN_CAP}
    assert all(e.args["effectiveAt"] < world.now_s() for e in deployed)
    assert outflow(world) == (CAP, CAP)
    assert outflow(world, world.d.token) == (TOKEN_CAP, TOKEN_CAP)


def test_a_lower_cap_holds_at_once(world: World):
    event = set_cap(world, usd(100))
    assert event == {"token": world.book.quote, "cap": usd(100), "effectiveAt": world.now_s()}
    assert outflow(world) == (usd(100), usd(100))
    with world.reverts("TreasuryOutflowExceeded", **exceeded(world, usd(101), usd(100))):
        world.as_timelock(pay(world, usd(101)))


def test_a_cap_below_what_has_left_leaves_nothing(world: World):
    world.as_timelock(pay(world, usd(200)))
    set_cap(world, usd(100))
    assert outflow(world) == (usd(100), 0)
    with world.reverts("TreasuryOutflowExceeded", **exceeded(world, 1, 0)):
        world.as_timelock(pay(world, 1))


def test_a_higher_cap_holds_one_period_later_to_the_second(world: World):
    event = set_cap(world, 2 * CAP)
    effective_s = world.now_s() + PERIOD_S
    assert event == {"token": world.book.quote, "cap": 2 * CAP, "effectiveAt": effective_s}
    world.evm.travel_to(effective_s - 2)
    assert outflow(world) == (CAP, CAP)
    with world.reverts("TreasuryOutflowExceeded", **exceeded(world, CAP + 1, CAP)):
        world.as_timelock(pay(world, CAP + 1))
    assert world.now_s() == effective_s - 1
    world.as_timelock(pay(world, CAP + 1))
    assert outflow(world) == (2 * CAP, CAP - 1)


def test_the_first_cap_of_a_token_is_a_raise(world: World):
    weth = world.token_of("ETH")
    assert set_cap(world, eth(5), weth)["effectiveAt"] == world.now_s() + PERIOD_S
    assert outflow(world, weth) == (0, 0)
    world.evm.travel(PERIOD_S)
    assert outflow(world, weth) == (eth(5), eth(5))


def test_what_left_before_a_raise_counts_after_it(world: World):
    set_cap(world, 2 * CAP)
    world.evm.travel(PERIOD_S - DAY_S)
    world.as_timelock(pay(world, CAP))
    world.evm.travel(DAY_S)
    assert outflow(world) == (2 * CAP, CAP)


@pytest.mark.parametrize("cap", [CAP - 1, CAP], ids=["lower", "the same"])
def test_lowering_again_cancels_a_raise(world: World, cap: int):
    set_cap(world, 2 * CAP)
    world.evm.travel(10 * DAY_S)
    assert set_cap(world, cap)["effectiveAt"] == world.now_s()
    world.evm.travel(2 * PERIOD_S)
    assert outflow(world) == (cap, cap)
    with world.reverts("TreasuryOutflowExceeded", **exceeded(world, cap + 1, cap)):
        world.as_timelock(pay(world, cap + 1))


def test_another_raise_replaces_the_first_and_waits_a_period_of_its_own(world: World):
    set_cap(world, 2 * CAP)
    world.evm.travel(10 * DAY_S)
    set_cap(world, CAP + 1)
    world.evm.travel(PERIOD_S - 10)
    assert outflow(world) == (CAP, CAP)
    world.evm.travel(10)
    assert outflow(world) == (CAP + 1, CAP + 1)


def test_a_raise_that_is_due_is_what_the_next_change_is_compared_with(world: World):
    set_cap(world, 2 * CAP)
    world.evm.travel(PERIOD_S)
    between = CAP + CAP // 2
    assert set_cap(world, between)["effectiveAt"] == world.now_s()
    assert outflow(world) == (between, between)
    assert set_cap(world, between + 1)["effectiveAt"] == world.now_s() + PERIOD_S


# Where it belongs


def test_the_treasury_knows_its_timelock_and_its_period(world: World):
    functions = world.treasury.functions
    assert world.view(functions.timelock()) == world.d.timelock
    assert world.view(functions.PERIOD_S()) == PERIOD_S
    assert world.view(functions.token()) == world.d.token
    assert world.view(functions.quote()) == world.book.quote
    assert world.view(functions.strategies()) == world.d.strategies
    assert world.view(functions.pool()) == world.d.pool
