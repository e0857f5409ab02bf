"""The same strategy on the same prices, settled on an EVM and on Solana: the same books, ledger, results and rewards.

The EVM's side is the real protocol on Uniswap v3. What its market pays is the only thing that another market would
do otherwise, so the pool on Solana is given reserves that pay the same, and everything else is each chain's own: prices
from its feeds, the guard, the account, what is paid. The two round differently, and by no more than this:

    a value         two base units of quote: prices have 8 decimals here and 18 there
    a unit price    3e-9 of it: 9 decimals here and 18 there
    a result        two base units of quote, and its reward two times the rate
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from agents.localnet.evm import start_evm
from tests.contracts.world import CEILINGS, LIMITS, REWARD_RATE, RULES, VESTING_S, Strategy, one, usd
from tests.contracts.world import EPOCH_S as EVM_EPOCH_S
from tests.contracts.world import WINDOW_S as EVM_WINDOW_S
from tests.contracts.world import World as EvmWorld
from tests.solana.world import TOKEN, World

CAPITAL = usd(1_000_000)
VALUE_UNITS, UNIT_PRICE_PARTS = 2, 3
# What a reward of one chain is in tokens of the other: 18 decimals there, 9 here.
DECIMALS = 10**9
BTC = 10**8
# The reasons that both know: the EVM has a deposit in quote, and a guardian with a switch of its own.
COMMON = 1 | 2 | 4 | 16 | 32 | 128 | 256


class Twins:
    """One strategy on two chains, at one time."""

    def __init__(self, evm: EvmWorld) -> None:
        self.evm = evm
        self.s: Strategy = evm.deploy_strategy(assets=("BTC",))
        limits = {"max_" + k[4:] if k.startswith("max_") else k: v for k, v in vars_of(LIMITS).items()}
        changes = {
            "genesis_s": evm.first_epoch_s,
            "epoch_length_s": EVM_EPOCH_S,
            "window_length_s": EVM_WINDOW_S,
            "vesting_s": VESTING_S,
            "slippage_decay_s": RULES.slippage_decay_s,
            "max_reward_rate": 10**4,
            "min_bond": 1000 * TOKEN,
            # The auction's largest discount and the gap, one after the other, rounded up.
            "gap_allowance_bps": 975 + 1,
        }
        self.sol = World(base_price_e8=60_000 * 10**8, base_decimals=8, start_s=evm.now_s(), config_changes=changes)
        self.sol.config.ceilings = self.sol.types["Limits"](**vars_of(CEILINGS))
        self.sol.protocol = self.sol.ledger.protocol(self.sol.config)
        self.sol.known |= self.sol.ledger.known(self.sol.protocol)
        self.sol.known["agent"] = self.sol.ledger.agent(self.sol.protocol, self.sol.controller.pubkey())
        manifest = {
            "limits": limits,
            "reward_rate": REWARD_RATE // DECIMALS,
            "reward_cap": 5_000 * TOKEN,
        }
        steps = (
            self.sol.initialise,
            lambda: self.sol.register(bond=50_000 * TOKEN),
            lambda: self.sol.fund_rewards(300_000 * TOKEN),
            lambda: self.sol.open_vault(**manifest),
            lambda: self.sol.allocate(CAPITAL),
            lambda: self.sol.make_market(10**12, fee_bps=0),
        )
        assert [step().error for step in steps] == [""] * 6

    def price(self, price_usd: Decimal) -> None:
        """The same round on both chains."""
        self.evm.refresh()
        self.evm.set_price("BTC", price_usd)
        self.sol.set_clock(self.evm.now_s())
        self.sol.publish(base_e8=int(price_usd.scaleb(8)))

    def trade(self, amount_in: int, *, is_buy: bool) -> dict[str, Any] | None:
        """The order on both; the entries must agree. None when both refuse."""
        events = self.evm.trade(self.s, amount_in, buy=is_buy, symbol="BTC")
        self.sol.set_clock(self.evm.now_s())
        traded = [e.args for e in events if e.name == "TradeRecorded"]
        if not traded:
            reasons = one(events, "TradeRefused")["reasons"]
            assert self.sol.trade(amount_in, is_buy=is_buy).event("TradeRefused")["reasons"] == reasons & COMMON
            return None
        [there] = traded
        # Reserves that pay exactly what the other market paid: in = amount, out = twice the payment.
        spent, paid = there["trade"]["amountIn"], there["trade"]["amountOut"]
        self.sol.set_reserves(*((spent, 2 * paid) if is_buy else (2 * paid, spent)))
        sent = self.sol.trade(amount_in, is_buy=is_buy)
        assert sent.error == "", (sent.error, sent.logs)
        here = sent.event("TradeRecorded")
        assert (here["amount_in"], here["amount_out"]) == (spent, paid)
        assert abs(here["value"] - there["trade"]["netAssetValue"]) <= VALUE_UNITS
        self.compare()
        return here

    def compare(self) -> None:
        """Books to the base unit, what is valued within the rounding."""
        status = self.evm.status(self.s)
        vault = self.sol.state("vault")
        book = self.evm.view(self.s.vault.functions.book())
        assert (vault.quote_held, vault.base_held) == (book.quoteHeld, self.evm.held(self.s, "BTC"))
        assert vault.net_flow == book.netFlow
        guard = self.evm.view(self.s.vault.functions.guard())
        assert vault.guard.reasons == guard.reasons & COMMON
        for ours, theirs in (
            (vault.guard.last_unit_price, guard.lastUnitPrice),
            (vault.guard.peak, guard.peak),
            (vault.guard.before_today, guard.beforeToday),
            (vault.guard.before_yesterday, guard.beforeYesterday),
        ):
            assert abs(ours * 10**9 - theirs) <= UNIT_PRICE_PARTS * 10**9, (vault.guard, guard)
        assert vault.guard.trades_today == guard.tradesToday
        assert abs(vault.guard.turnover_today - guard.turnoverToday) <= VALUE_UNITS * max(1, guard.tradesToday)
        assert abs(vault.guard.slippage.level - guard.slippage.level) <= VALUE_UNITS * (vault.sequence + 1)
        assert status.reasons & COMMON == vault.guard.reasons

    def poke(self) -> None:
        """Anybody observes, on both."""
        self.evm.poke(self.s)
        self.sol.set_clock(self.evm.now_s())
        assert self.sol.call("observe").error == ""
        self.compare()

    def settle(self, *prices_usd: Decimal) -> tuple[int, int]:
        """Observes at those prices in the next window, closes it, applies the results: (there, here)."""
        self.evm.to_next_window()
        for price_usd in prices_usd:
            self.price(price_usd)
            self.poke()
        self.evm.to_window_end()
        there = self.evm.close(self.s)
        self.sol.set_clock(self.evm.now_s())
        assert self.sol.call("close_window").error == ""
        here = self.sol.state("vault").reward.pending_move
        assert abs(there - here) <= VALUE_UNITS
        if there:
            self.evm.apply(self.s, there)
            self.sol.set_clock(self.evm.now_s())
        if here:
            assert self.sol.call("reward_agent", here).error == ""
        return there, here


def vars_of(limits: Any) -> dict[str, int]:
    """Limits by name."""
    names = list(CEILINGS.__dataclass_fields__)
    return {name: getattr(limits, name) for name in names}


@pytest.fixture(scope="module")
def twins() -> Iterator[Twins]:
    with start_evm() as evm:
        yield Twins(EvmWorld(evm))


def test_ledger_and_rewards_agree_over_weeks_of_trading_up_and_down(twins: Twins) -> None:
    chance = random.Random(11)
    price = Decimal(60_000)
    results: list[tuple[int, int]] = []
    trades = refusals = 0
    for week, drift in enumerate((Decimal("1.006"), Decimal("0.994"), Decimal("1.004"), Decimal("0.99"))):
        for _ in range(10):
            twins.evm.evm.travel(chance.randrange(3600, 30_000))
            price = (price * drift * Decimal(chance.randrange(990, 1011)) / 1000).quantize(Decimal("0.01"))
            twins.price(price)
            twins.poke()
            vault = twins.sol.state("vault")
            is_buy = chance.random() < 0.55
            share = chance.randrange(5, 30)
            amount = vault.quote_held * share // 100 if is_buy else vault.base_held * share // 50
            if amount == 0 or vault.guard.reasons & 128:
                continue
            if is_buy and vault.base_held * int(price) // BTC + amount // 10**6 > 550_000:
                continue
            if twins.trade(amount, is_buy=is_buy):
                trades += 1
            else:
                refusals += 1
        results.append(twins.settle(price, price * Decimal("1.01"), price * Decimal("0.995")))
        assert twins.sol.state("vault").reward.is_live, week
    assert trades >= 12
    assert any(there > 0 for there, _ in results)
    assert any(there < 0 for there, _ in results)

    account, here = twins.evm.account(twins.s), twins.sol.state("vault").reward
    rate = REWARD_RATE // DECIMALS
    assert abs(account.credited - here.credited) <= VALUE_UNITS
    assert here.rewarded - here.clawed_back == rate * here.credited
    moved = VALUE_UNITS * rate * len(results)
    unclaimed_there = (account.unvested + account.vested) // DECIMALS
    assert abs(unclaimed_there - here.unvested - here.vested) <= moved
    assert abs(twins.evm.bond_of(twins.s.agent_id) // DECIMALS - twins.sol.state("agent").bond) <= moved


def test_what_has_vested_is_claimed_in_the_same_amounts(twins: Twins) -> None:
    twins.price(Decimal(90_000))
    twins.poke()
    twins.settle(Decimal(90_000))
    twins.settle(Decimal(90_000))
    twins.evm.evm.travel(2 * 86400)
    twins.price(Decimal(90_000))
    claimed = one(twins.evm.send(twins.evm.pool.functions.claim(twins.s.vault.address), twins.evm.stranger), "Claimed")
    twins.sol.set_clock(twins.evm.now_s())
    wallet = twins.sol.wallet("reward", twins.sol.controller.pubkey())
    sent = twins.sol.call("claim", destination=wallet)
    assert sent.error == "", sent.error
    rate = REWARD_RATE // DECIMALS
    assert abs(claimed["amount"] // DECIMALS - sent.event("Claimed")["amount"]) <= 6 * VALUE_UNITS * rate
    assert twins.sol.balance(wallet) == sent.event("Claimed")["amount"] > 0
