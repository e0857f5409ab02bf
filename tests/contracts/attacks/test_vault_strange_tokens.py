"""Tokens with manners of their own, listed by a vote or changed after it: what they take from a vault, and how it
leaves."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from agents.localnet import uniswap
from agents.localnet.evm import LocalEvm, TransactionReverted, start_evm
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import Listing, dollars, fund_bidder
from tests.contracts.vaults import MAX_UINT, Reason, allocate, book, condition, halt, recall, turn_faulty
from tests.contracts.world import ANY, WAD, Strategy, World, eth, one, tokens, usd


@pytest.fixture
def listing(world: World, monkeypatch: pytest.MonkeyPatch) -> Listing:
    return Listing(world, monkeypatch)


# An asset that begins to take a fee


def test_an_asset_that_begins_to_take_a_fee_while_it_is_held(world: World, listing: Listing, attack: Report) -> None:
    """Its owner, who gets the fee, turns it on after the vault has bought. Uniswap no longer takes the token; the
    treasury does, less the fee once."""
    token = listing.token("FaultyToken", "Fee", "T", 18)
    s = world.deploy_strategy(assets=("T",))
    world.buy(s, usd(300_000), symbol="T")
    held = world.held(s, "T")
    world.send(token.functions.setFeeBps(500), world.deployer)
    with world.reverts("Error", message="IIA"):
        world.sell(s, held, symbol="T")
    with world.reverts("VaultSlippageExceeded", shortfall=ANY, allowed=usd(60)):
        world.buy(s, usd(10_000), symbol="T")
    before = world.market.balance(token.address, world.d.treasury)
    recall(world, s, token.address)
    arrived = world.market.balance(token.address, world.d.treasury) - before
    lost = (held - arrived) * 2 * 10**6 // 10**18
    assert arrived == held - held * 500 // 10_000
    assert world.held(s, "T") == 0
    attack.outcome(
        gained=f"{dollars(lost)}, the fee on what was held, once", cost="a vote to list the token",
        stopped_by="VaultSlippageExceeded for more of it; maxPositionBps bounds what is held",
    )  # fmt: skip


def test_a_bidder_of_a_fee_taking_asset_pays_for_all_of_it(world: World, listing: Listing, attack: Report) -> None:
    """In an auction the fee is the bidder's: the vault is paid for what leaves it."""
    token = listing.token("FaultyToken", "Fee", "T", 18)
    s = world.deploy_strategy(assets=("T",))
    world.buy(s, usd(300_000), symbol="T")
    halt(world, s)
    fund_bidder(world, s)
    world.send(token.functions.setFeeBps(500), world.deployer)
    value = world.status(s).value
    world.travel(60)
    world.market.publish("T", Decimal(2))
    filled = one(world.send(s.vault.functions.fillAuction(token.address, MAX_UINT), world.bidder), "AuctionFilled")
    got = world.market.balance(token.address, world.bidder)
    assert got == filled["amount"] - filled["amount"] * 500 // 10_000
    assert filled["quoteIn"] >= filled["amount"] * 2 * 9900 // 10_000 // 10**12
    assert value - world.status(s).value <= usd(1500)
    attack.outcome(
        gained="nothing", cost=f"{dollars(filled['quoteIn'])} for a twentieth less", stopped_by="the vault's books"
    )


# Rounding


@pytest.mark.parametrize(("decimals", "price"), [(0, "300"), (6, "1.2345"), (8, "60000"), (18, "0.00001234")])
def test_rounding_is_never_the_agent_s(
    world: World, listing: Listing, attack: Report, decimals: int, price: str
) -> None:
    """Ten dust trades with tokens whose smallest unit is worth much, or nothing: the vault may lose a base unit of
    quote in each, and where a unit is worth more than slippage allows nothing is traded."""
    listing.token("MockToken", "Token", "T", decimals, price_usd=price, decimals=decimals)
    s = world.deploy_strategy(assets=("T",))
    traded = 0
    for amount in (1, 2, 3, 500, 999, 1999, usd("0.5"), usd(1), usd("299.99"), usd("449")):
        traded += _try_to_buy(world, s, amount)
    lost = usd(1_000_000) - world.status(s).value
    assert 0 <= lost <= traded * 60 // 10_000
    assert world.market.balance(world.book.quote, s.vault.address) == book(world, s).quoteHeld
    attack.outcome(
        gained=f"{lost} base units ({dollars(lost)}) of {dollars(traded)} traded", cost="ten trades",
        stopped_by="rounding in the vault's favour; VaultZeroAmount, VaultSlippageExceeded",
    )  # fmt: skip


def _try_to_buy(world: World, s: Strategy, amount: int) -> int:
    """What was spent: nothing if a unit of the token is worth too much for slippage, or the market pays none."""
    try:
        world.buy(s, amount, symbol="T")
    except TransactionReverted as refused:
        if refused.reason.name not in {"VaultZeroAmount", "VaultSlippageExceeded"}:
            raise
        return 0
    return amount


# The quote token


def test_a_quote_token_that_begins_to_take_a_fee(world: World, strategy: Strategy, attack: Report) -> None:
    world.buy(strategy, usd(300_000))
    quote = turn_faulty(world, world.book.quote, 6)
    world.send(quote.functions.setFeeBps(100), world.deployer)
    with world.reverts("VaultShortPaid", received=usd(990), due=usd(1000)):
        allocate(world, strategy, usd(1000))
    with world.reverts("Error", message="IIA"):
        world.buy(strategy, usd(1000))
    with world.reverts("VaultSlippageExceeded", shortfall=ANY, allowed=ANY):
        world.sell(strategy, eth(10))
    units = book(world, strategy).units
    held, before = book(world, strategy).quoteHeld, world.market.balance(world.book.quote, world.d.treasury)
    recall(world, strategy, world.book.quote)
    arrived = world.market.balance(world.book.quote, world.d.treasury) - before
    assert arrived == held * 99 // 100
    assert one(recall(world, strategy, world.token_of("ETH")), "Recalled")["units"] < units
    assert world.view(strategy.vault.functions.isEmpty())
    attack.outcome(
        gained=f"{dollars(held - arrived)}, the fee on one recall", cost="the quote token itself",
        stopped_by="VaultShortPaid, VaultSlippageExceeded; recall in kind",
    )  # fmt: skip


def test_a_quote_token_that_takes_balance_away(world: World, strategy: Strategy, attack: Report) -> None:
    """A rebase, or an issuer who confiscates a tenth: a loss at once, which limits see; what is left can leave. The
    phantom in the books is cleared by sending the vault as much and recalling it, in one vote that costs nothing."""
    s, taken = strategy, usd(100_000)
    world.poke(s)
    world.evm.impersonate(s.vault.address)
    world.send(world.quote.functions.transfer(world.stranger.address, taken), s.vault.address)
    assert world.status(s).value == usd(900_000)
    assert condition(world, s)[1] & Reason.DAY_LOSS
    before = world.market.balance(world.book.quote, world.d.treasury)
    recall(world, s, world.book.quote)
    assert world.market.balance(world.book.quote, world.d.treasury) - before == usd(900_000)
    assert not world.view(s.vault.functions.isEmpty())
    world.as_timelock(world.treasury.functions.pay(world.book.quote, s.vault.address, taken))
    recall(world, s, world.book.quote)
    assert world.view(s.vault.functions.isEmpty())
    assert world.market.balance(world.book.quote, world.d.treasury) - before == usd(900_000)
    attack.outcome(
        gained=dollars(taken), cost="the quote token itself", stopped_by="value never above the balance; recall"
    )


@pytest.fixture
def strange_quote(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A chain and a protocol of their own, with another quote token in the place of the usual one."""
    contract, decimals = request.param
    deploy = LocalEvm.deploy

    def deploy_instead(self: LocalEvm, artifact: Any, *args: Any, **options: Any) -> Any:
        return deploy(self, contract if artifact == "QuoteToken" else artifact, *args, **options)

    approve = uniswap.approve

    def approve_from_zero(evm: LocalEvm, token: str, spender: str, amount: int, *, owner: Any) -> None:
        """The market's own people know their token."""
        approve(evm, token, spender, 0, owner=owner)
        approve(evm, token, spender, amount, owner=owner)

    monkeypatch.setattr(LocalEvm, "deploy", deploy_instead)
    monkeypatch.setattr(uniswap, "approve", approve_from_zero)
    with start_evm() as evm:
        yield World(evm, quote_decimals=decimals)


@pytest.mark.parametrize("strange_quote", [("NoReturnToken", 6), ("QuoteToken", 8)], indirect=True, ids=str)
def test_a_quote_token_without_return_values_or_of_other_decimals_traps_nothing(
    strange_quote: World, attack: Report
) -> None:
    """As USDT: transfers answer nothing, and allowances change from or to zero only. Everything that moves quote
    does."""
    world = strange_quote
    unit = 10**world.book.quote_decimals
    agent_id = world.register_agent(bond_wei=tokens(60_000), deposit=60_000 * unit)
    s = world.deploy_strategy(agent_id, capital=1_000_000 * unit, rewardRate=10**17 // unit)
    allocate(world, s, 1000 * unit)
    world.buy(s, 300_000 * unit)
    world.sell(s, eth(10))
    world.market.give_quote(s.vault.address, unit)
    skimmed = one(world.send(s.vault.functions.skim(world.book.quote), world.stranger), "Skimmed")
    assert skimmed["amount"] == unit
    world.as_timelock(world.agents.functions.awardDeposit(agent_id, 10 * unit))
    halt(world, s)
    fund_bidder(world, s)
    world.travel(60)
    one(world.send(s.vault.functions.fillAuction(world.token_of("ETH"), MAX_UINT), world.bidder), "AuctionFilled")
    lost = 1_001_010 * unit - world.status(s).value
    assert 0 < lost < 1000 * unit
    before = world.market.balance(world.book.quote, world.d.treasury)
    held = book(world, s).quoteHeld
    for token in (world.book.quote, world.token_of("ETH")):
        recall(world, s, token, fallback_wad=2000 * WAD)
    assert world.market.balance(world.book.quote, world.d.treasury) - before == held
    assert world.view(s.vault.functions.isEmpty())
    attack.outcome(
        gained=f"nothing; the market's fees took {dollars(lost, decimals=world.book.quote_decimals)}", cost="nothing",
        stopped_by="SafeERC20 wherever quote moves",
    )  # fmt: skip
