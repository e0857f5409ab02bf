"""The review mirrors the guard: what it lets through breaks no limit of the real vault, and what the vault refuses it
would have named. Only what the market pays is the market's."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from agents.constitution import review
from agents.execution import Order
from agents.intent import BPS, Intent, plan_intent
from agents.localnet.evm import CallReverted
from agents.vault_execution import order_tuple
from offchain_rl.policy import REBALANCE, Decision
from oracle.chain import fetch_block
from oracle.vault_state import VaultReading, VaultState
from tests.contracts.vaults import Desk, halt, stop, tighten
from tests.contracts.world import LIMITS, World, eth, usd
from tests.e2e.conftest import vault_reader

# What the vault says, and the clause under which the review would have said it.
CLAUSE_OF = {
    "VaultInsufficientHoldings": "holdings",
    "VaultTradeCountExceeded": "trades per day",
    "VaultTurnoverExceeded": "turnover",
    "VaultPositionExceeded": "position",
    "VaultDailyLossExceeded": "daily loss",
    "VaultDrawdownExceeded": "drawdown",
}
STATE_CLAUSES = {"artefact", "halted", "reducing", "price"}
# Clauses that leave room for a bad fill: at a better one the vault may let through what they deny.
CAUTIOUS = {"position", "daily loss", "drawdown", "cumulative slippage"}
FILLS = ("worst", "oracle", "best")


class Mirror:
    """A vault at a venue that fills as told, seen by the review and tried on the chain without mining."""

    def __init__(self, world: World, desk: Desk) -> None:
        self.world, self.desk = world, desk
        self.reader = vault_reader(world, desk.s)
        self.token = world.token_of("ETH")
        self.seen: Counter[str] = Counter()

    def read(self) -> VaultReading:
        return self.reader.fetch(fetch_block(self.world.evm))

    def buy(self, vault: VaultReading, value: int) -> Intent:
        asset = vault.position(self.token)
        price = asset.price_wad * vault.quote_unit
        worth = value - value * vault.limits.max_trade_slippage_bps // BPS
        least = -(-worth * asset.unit * 10**18 // price) if price else 0
        return Intent(asset=self.token, is_buy=True, amount_in=value, min_amount_out=least, value=value)

    def sell(self, vault: VaultReading, amount: int) -> Intent:
        value, limits = vault.value_up(self.token, amount), vault.limits
        slippage_bps = limits.max_reduce_slippage_bps if vault.is_reducing else limits.max_trade_slippage_bps
        least = value - value * slippage_bps // BPS
        return Intent(asset=self.token, is_buy=False, amount_in=amount, min_amount_out=least, value=value)

    def paid(self, vault: VaultReading, intent: Intent, fill: str) -> int:
        if fill == "worst":
            return intent.min_amount_out
        asset = vault.position(self.token)
        price = asset.price_wad * vault.quote_unit
        oracle = intent.amount_in * asset.unit * 10**18 // price if intent.is_buy else intent.value
        return oracle if fill == "oracle" else oracle + oracle * vault.limits.max_trade_slippage_bps // BPS

    def tried(self, vault: VaultReading, intent: Intent, fill: str) -> str:
        """What the vault answers: "" when it would trade, "refused", or the name of its error."""
        world, s = self.world, self.desk.s
        self.desk.fill(intent.amount_in, self.paid(vault, intent, fill))
        order = Order(
            intent=intent, nonce=vault.nonce, deadline_s=vault.block.timestamp_s + 600,
            artefact_hash=vault.artefact_hash, explanation_hash="0x" + "11" * 32, observation_hash="0x" + "22" * 32,
        )  # fmt: skip
        try:
            return "" if world.evm.call(s.vault.functions.trade(order_tuple(order)), world.signer) else "refused"
        except CallReverted as error:
            return error.reason.name

    def check(self, intent: Intent) -> None:
        """The promise, for one intent at every fill."""
        vault = self.read()
        broken = {b.clause for b in review(intent, vault, artefact_hash=vault.artefact_hash)}
        self.seen.update(broken or {"accepted"})
        answers = {fill: self.tried(vault, intent, fill) for fill in FILLS if vault.position(self.token).price_wad}
        for fill, answer in answers.items():
            told = f"{intent} at {fill}: the vault says {answer or 'yes'}, the review {broken or 'yes'}"
            if answer == "refused":
                assert broken & STATE_CLAUSES, told
            elif answer in CLAUSE_OF:
                assert CLAUSE_OF[answer] in broken, told
            elif answer != "VaultCumulativeSlippageExceeded":  # the market decides about that one
                assert answer == "", told
                assert broken <= CAUTIOUS, told


@pytest.fixture
def mirror(world: World) -> Mirror:
    """Half of a million dollars in ETH; a tenth of a day's turnover and two of three trades are used up."""
    desk = Desk(
        world,
        replace(
            LIMITS, max_trades_per_day=3, max_daily_turnover_bps=12_000, max_cumulative_slippage_bps=900,
            max_reduce_cumulative_slippage_bps=900, max_reduce_slippage_bps=90, max_trade_slippage_bps=60,
        ),
        agent_id=world.register_agent(deposit=usd(300_000)),
    )  # fmt: skip
    desk.buy(usd(300_000), eth(150))
    desk.buy(usd(200_000), eth(100))
    return Mirror(world, desk)


@pytest.fixture
def dice() -> random.Random:
    return random.Random(20_260_101)


def near(dice: random.Random, limit: int) -> Iterator[int]:
    """The limit, its neighbours, and some to either side."""
    yield from (limit - 1, limit, limit + 1)
    for side in (-1, 1, -1, 1):
        yield limit + side * dice.randint(2, limit // 50)


@pytest.fixture(autouse=True)
def ceilings_apart(world: World) -> None:
    tighten(
        world, max_cumulative_slippage_bps=2000, max_reduce_cumulative_slippage_bps=2000, max_trade_slippage_bps=100
    )


def test_purchases_near_the_position_limit(mirror: Mirror, dice: random.Random) -> None:
    """The review's own limit leaves room for a fill as much better as it may be worse; the vault's is further."""
    vault = mirror.read()
    room = vault.value * vault.limits.max_position_bps // BPS - vault.asset_value(mirror.token)
    careful = room * BPS // (BPS + vault.limits.max_trade_slippage_bps)
    for value in (*near(dice, room), *near(dice, careful)):
        mirror.check(mirror.buy(vault, value))
    assert mirror.seen["position"] >= 7
    assert mirror.seen["accepted"] >= 3


@pytest.mark.parametrize("is_buy", [True, False])
def test_trades_near_the_turnover_limit(mirror: Mirror, dice: random.Random, is_buy: bool) -> None:
    """700,000 dollars are left of the day; what is sold counts rounded up."""
    if is_buy:
        tighten(mirror.world, max_position_bps=10_000, max_cumulative_slippage_bps=2000, max_daily_turnover_bps=7000)
    else:
        tighten(mirror.world, max_cumulative_slippage_bps=2000, max_daily_turnover_bps=7000)
    vault = mirror.read()
    left = vault.value * vault.limits.max_daily_turnover_bps // BPS - vault.turnover_today
    assert left == usd(200_000)
    for value in near(dice, left):
        mirror.check(mirror.buy(vault, value) if is_buy else mirror.sell(vault, value * eth(1) // usd(2000)))
    if not is_buy:
        for wei in (-1, 0, 1):
            mirror.check(mirror.sell(vault, eth(100) + wei))
    assert mirror.seen["turnover"] >= 3


@pytest.mark.parametrize("is_buy", [True, False])
def test_trades_near_what_is_held(mirror: Mirror, dice: random.Random, is_buy: bool) -> None:
    tighten(mirror.world, max_position_bps=10_000)
    vault = mirror.read()
    held = vault.quote_held if is_buy else vault.position(mirror.token).amount
    for amount in near(dice, held):
        mirror.check(mirror.buy(vault, amount) if is_buy else mirror.sell(vault, amount))
    assert mirror.seen["holdings"] >= 3


def test_the_last_trade_of_the_day_and_the_one_after(mirror: Mirror) -> None:
    vault = mirror.read()
    for intent in (mirror.buy(vault, usd(1000)), mirror.sell(vault, eth(1))):
        mirror.check(intent)
    assert mirror.seen == {"accepted": 2}
    mirror.desk.buy(usd(1000), eth("0.5"))
    vault = mirror.read()
    for intent in (mirror.buy(vault, usd(1000)), mirror.sell(vault, eth(1))):
        mirror.check(intent)
    assert mirror.seen["trades per day"] == 2
    mirror.world.travel(86_400)
    mirror.check(mirror.buy(mirror.read(), usd(1000)))
    assert mirror.seen["accepted"] == 3


@pytest.mark.parametrize(("clause", "limit_bps"), [("daily loss", 500), ("drawdown", 1000)])
def test_trades_near_a_loss_limit(mirror: Mirror, dice: random.Random, clause: str, limit_bps: int) -> None:
    """ETH has fallen so far that a bad fill would be one too many. It is half of the vault."""
    world = mirror.world
    if clause == "drawdown":
        tighten(world, max_daily_loss_bps=1000, max_drawdown_bps=500, max_cumulative_slippage_bps=2000)
        limit_bps = 500
    fallen = 2 * limit_bps - 14  # ETH by 9.86 %, the vault by 4.93 %
    world.set_price("ETH", Decimal(2000) * (BPS - fallen) / BPS, pool_follows=False)
    vault = mirror.read()
    assert vault.state is VaultState.ACTIVE
    for value in near(dice, usd(70_000) * BPS // 6000):  # at 0.6 % of it, the seven basis points that are left
        mirror.check(mirror.buy(vault, min(value, usd(60_000))))
        mirror.check(mirror.sell(vault, value * eth(1) // usd(1800)))
    assert mirror.seen[clause] >= 3
    assert mirror.seen["accepted"] >= 3


def stale(world: World, desk: Desk) -> None:
    world.evm.travel(2 * 3600 + 1)


def dead_quote(world: World, desk: Desk) -> None:
    world.set_price(world.book.quote_symbol, "0.97")


@pytest.mark.parametrize(
    "spoil",
    [lambda world, desk: stop(world, desk.s), lambda world, desk: halt(world, desk.s), stale, dead_quote],
    ids=["stopped by the guardian", "halted", "stale price", "quote depegged"],
)
def test_states_in_which_the_vault_does_not_trade(mirror: Mirror, spoil: Callable[[World, Desk], Any]) -> None:
    spoil(mirror.world, mirror.desk)
    vault = mirror.read()
    for intent in (mirror.buy(vault, usd(1000)), mirror.sell(vault, eth(1)), mirror.sell(vault, eth(250))):
        mirror.check(intent)
    assert mirror.seen["accepted"] in (0, 2)
    assert not set(mirror.seen) - STATE_CLAUSES - {"accepted", "position"}


def test_any_trade_of_a_long_day(mirror: Mirror, dice: random.Random) -> None:
    """Sizes of every order of magnitude, prices that move, trades in between."""
    world = mirror.world
    for _ in range(6):
        world.set_price("ETH", dice.randint(1900, 2100), pool_follows=False)
        vault = mirror.read()
        for _ in range(5):
            size = dice.choice([10**4, 10**6, usd(1000), usd(50_000), usd(200_000), usd(900_000)])
            value = dice.randint(size // 2, size)
            is_buy = dice.random() < 0.5
            mirror.check(mirror.buy(vault, value) if is_buy else mirror.sell(vault, value * eth(1) // usd(2000)))
    assert set(mirror.seen) >= {"accepted", "position", "holdings"}


# The least to be received


@pytest.mark.parametrize(("is_buy", "is_reducing"), [(True, False), (False, False), (False, True)])
def test_the_least_to_be_received_is_what_the_real_vault_takes(
    mirror: Mirror, dice: random.Random, is_buy: bool, is_reducing: bool
) -> None:
    world, desk = mirror.world, mirror.desk
    world.set_price("ETH", "1987.654321", pool_follows=False)
    if is_reducing:
        stop(world, desk.s)
    for _ in range(5):
        vault = mirror.read()
        target = dice.randint(5100, 5900) if is_buy else dice.randint(0, 4500)
        intent = plan_intent(vault, mirror.token, wants(target))
        assert intent is not None
        assert mirror.tried(vault, intent, "worst") == ""
        less = replace(intent, min_amount_out=0)
        desk.fill(intent.amount_in, intent.min_amount_out - 1)
        with pytest.raises(CallReverted) as caught:
            world.evm.call(desk.s.vault.functions.trade(order_tuple(_order(vault, less))), world.signer)
        assert caught.value.reason.name == "VaultSlippageExceeded"


def wants(target_bps: int) -> Decision:
    return Decision(
        target_weight_bps=target_bps, is_rebalance=True, wanted_weight_bps=target_bps, reason=REBALANCE
    )


def _order(vault: VaultReading, intent: Intent) -> Order:
    return Order(
        intent=intent, nonce=vault.nonce, deadline_s=vault.block.timestamp_s + 600,
        artefact_hash=vault.artefact_hash, explanation_hash="0x" + "11" * 32, observation_hash="0x" + "22" * 32,
    )  # fmt: skip


# On the real market


def test_what_is_planned_and_reviewed_is_traded_by_the_real_vault(world: World, dice: random.Random) -> None:
    """Uniswap fills within a few basis points of the oracle; day after day, whatever weight is wanted."""
    s = world.deploy_strategy(assets=("ETH", "BTC"))
    reader = vault_reader(world, s)
    tokens, traded = [world.token_of(symbol) for symbol in ("ETH", "BTC")], Counter[bool]()
    for _ in range(25):
        world.travel(dice.choice([600, 3600, 40_000]))
        world.set_price("ETH", dice.randint(1990, 2010))
        world.set_price("BTC", dice.randint(59_800, 60_200))
        vault = reader.fetch(fetch_block(world.evm))
        token = dice.choice(tokens)
        intent = plan_intent(vault, token, wants(dice.choice([0, dice.randint(0, 5900)])))
        if intent is None or review(intent, vault, artefact_hash=vault.artefact_hash):
            continue
        world.send(s.vault.functions.trade(order_tuple(_order(vault, intent))), world.signer)  # raises when it reverts
        assert world.view(s.vault.functions.guard()).nonce == vault.nonce + 1, "nor is it refused"
        traded[intent.is_buy] += 1
    assert min(traded[True], traded[False]) >= 5
