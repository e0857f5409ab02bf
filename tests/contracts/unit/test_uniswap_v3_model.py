"""The pool model against Uniswap's own byte code: the same actions leave both with the same state, to the last unit.

Every example is one call that changes nothing: a script contract initialises a fresh pool, mints, swaps and burns, and
reads the pool after each action. The pool calls it back for payment, and it mints what is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from eth_abi import decode
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from web3.contract import Contract

from agents.contracts import third_party
from agents.localnet.evm import CallReverted, LocalEvm, start_evm
from offchain_rl.uniswap_v3 import (
    MAX_SQRT_RATIO,
    MAX_TICK,
    MIN_SQRT_RATIO,
    MIN_TICK,
    LiquidityChange,
    PoolState,
    Swap,
    burn,
    empty_pool,
    max_liquidity_per_tick,
    mint,
    sqrt_ratio_at_tick,
    swap,
    tick_at_sqrt_ratio,
)

# More than any swap of any liquidity costs, and little enough to be minted for every callback.
PLENTY = 2**200
SPACINGS = {500: 10, 3000: 60, 10_000: 200}

# The pool's price, in ticks around it, and powers of two: what an action means depends on where the pool is by then.
places = st.one_of(st.integers(-12, 12), st.integers(-12, 12), st.integers(-5000, 5000))
mints = st.tuples(st.just("mint"), places, places, st.floats(0, 96))
burns = st.tuples(st.just("burn"), st.integers(0, 7), st.floats(0, 1))
limits = st.one_of(st.none(), st.none(), st.floats(-300, 300), st.integers(-300, 300))
swaps = st.tuples(st.just("swap"), st.booleans(), st.booleans(), st.floats(0, 120), limits)
reaches = st.tuples(st.just("reach"), st.booleans(), st.integers(-40, 40), st.integers(-1, 1))
actions = st.lists(st.one_of(mints, burns, swaps, reaches, reaches), min_size=1, max_size=12)
ticks = st.one_of(st.integers(-300, 300), st.integers(MIN_TICK + 20_000, MAX_TICK - 20_000))
protocols = st.sampled_from([(0, 0), (4, 0), (10, 7)])


class Chain:
    """A pool for each fee tier, not initialised, and the script that acts on them."""

    def __init__(self, evm: LocalEvm) -> None:
        self.evm, self.owner = evm, evm.accounts[0]
        self.factory = evm.deploy(third_party("UniswapV3Factory"), sender=self.owner)
        self.tokens = [evm.deploy("MockToken", "T", "T", 18, sender=self.owner) for _ in range(2)]
        self.script = evm.deploy("AttackerScript", sender=self.owner)
        self.pools = {fee: self._create_pool(fee) for fee in SPACINGS}
        # Who owns the factory sets the protocol's fees, and the script has to do so in the middle of a call.
        evm.send(self.factory.functions.setOwner(self.script.address), self.owner)

    def _create_pool(self, fee: int) -> Contract:
        pair = [token.address for token in self.tokens]
        self.evm.send(self.factory.functions.createPool(*pair, fee), self.owner)
        address = self.evm.call(self.factory.functions.getPool(*pair, fee))
        return self.evm.at(third_party("UniswapV3Pool"), address)

    def run(self, pool: Contract, calls: list[Any]) -> list[Any]:
        """What each call answers, decoded. Raises CallReverted when one of them does."""
        pay = [token.functions.mint(pool.address, PLENTY) for token in self.tokens]
        arm = self.script.functions.arm([_step(call) for call in pay])
        run = self.script.functions.run([_step(arm), *(_step(call) for call in calls)])
        answers = self.evm.call(run, sender=self.owner)[1:]
        return [decode([o["type"] for o in c.abi["outputs"]], a) for c, a in zip(calls, answers, strict=True)]


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    """A chain of its own: it must not move the other tests' addresses."""
    with start_evm() as evm:
        yield Chain(evm)


def _step(call: Any) -> tuple[str, str]:
    return call.address, call._encode_transaction_data()


def _watch(pool: Contract) -> list[Any]:
    """What a pool can be asked about its state."""
    f = pool.functions
    return [f.slot0(), f.liquidity(), f.feeGrowthGlobal0X128(), f.feeGrowthGlobal1X128(), f.protocolFees()]


def _seen(pool: PoolState) -> list[tuple[int, ...]]:
    """The same of the model."""
    return [
        (pool.sqrt_price_x96, pool.tick),
        (pool.liquidity,),
        (pool.fee_growth_global0_x128,),
        (pool.fee_growth_global1_x128,),
        (pool.protocol_fees0, pool.protocol_fees1),
    ]


def _near(sqrt_price_x96: int, ticks_away: float) -> int:
    """A price so many ticks away; exactly a tick's own price for a whole number."""
    if isinstance(ticks_away, int):
        tick = tick_at_sqrt_ratio(sqrt_price_x96) + ticks_away
        return sqrt_ratio_at_tick(min(max(tick, MIN_TICK), MAX_TICK))
    return min(int(sqrt_price_x96 * 1.00005**ticks_away), 2**160 - 1)


class Twins:
    """A model, the calls that bring the real pool to the same state, and what these have to answer."""

    def __init__(self, chain: Chain, fee: int, sqrt_price_x96: int, shares: tuple[int, int]) -> None:
        self.pool, self.me = chain.pools[fee], chain.script.address
        fresh = empty_pool(fee=fee, tick_spacing=SPACINGS[fee], sqrt_price_x96=sqrt_price_x96)
        self.state = replace(fresh, fee_protocol0=shares[0], fee_protocol1=shares[1])
        self.next_call: Any = None
        self.calls = [self.pool.functions.initialize(sqrt_price_x96), self.pool.functions.setFeeProtocol(*shares)]
        self.answers: list[Any] = [(), ()]
        # A real burn is of a range that its owner minted, as a whole or in part.
        self.minted: dict[tuple[int, int], int] = {}

    def mint(self, a: int, b: int, power: float) -> None:
        spacing, edge = self.state.tick_spacing, MAX_TICK // self.state.tick_spacing
        middle = self.state.tick // spacing
        lower, upper = ((min(max(middle + x, -edge), edge)) * spacing for x in sorted((a, b)))
        liquidity = int(2**power)
        self.next_call = self.pool.functions.mint(self.me, lower, upper, liquidity, b"")
        done = mint(self.state, tick_lower=lower, tick_upper=upper, liquidity=liquidity)
        self.minted[lower, upper] = self.minted.get((lower, upper), 0) + liquidity
        self._did(done)

    def burn(self, which: int, part: float) -> None:
        (lower, upper), held = list(self.minted.items())[which % len(self.minted)]
        liquidity = int(held * part)
        self.next_call = self.pool.functions.burn(lower, upper, liquidity)
        done = burn(self.state, tick_lower=lower, tick_upper=upper, liquidity=liquidity)
        self.minted[lower, upper] = held - liquidity
        self._did(done)

    def swap(self, zero_for_one: bool, is_output: bool, power: float, place: float | None) -> None:
        limit = None if place is None else _near(self.state.sqrt_price_x96, place)
        self._swap(zero_for_one, int(2**power) * (-1 if is_output else 1), limit)

    def _swap(self, zero_for_one: bool, amount: int, limit: int | None) -> None:
        edge = MIN_SQRT_RATIO + 1 if zero_for_one else MAX_SQRT_RATIO - 1
        self.next_call = self.pool.functions.swap(self.me, zero_for_one, amount, limit or edge, b"")
        done = swap(self.state, zero_for_one=zero_for_one, amount_specified=amount, sqrt_price_limit_x96=limit)
        event(f"a swap crosses {min(done.ticks_crossed, 4)} ticks")
        self._did(done)

    def reach(self, is_output: bool, ticks_away: int, more: int) -> None:
        """A swap of just what it takes to the price of a tick, or of one unit more or less."""
        limit = _near(self.state.sqrt_price_x96, ticks_away)
        zero_for_one = limit < self.state.sqrt_price_x96
        there = swap(self.state, zero_for_one=zero_for_one, amount_specified=PLENTY, sqrt_price_limit_x96=limit)
        least, most = sorted((there.amount0, there.amount1))
        self._swap(zero_for_one, (least - more if is_output else most + more), None)

    def _did(self, done: Swap | LiquidityChange) -> None:
        self.state = done.pool
        self.calls += [self.next_call, *_watch(self.pool)]
        self.answers += [(done.amount0, done.amount1), *_seen(done.pool)]

    def look_at_ticks(self) -> None:
        self.calls += [self.pool.functions.ticks(row.index) for row in self.state.ticks.rows]
        self.answers += [(row.liquidity_gross, row.liquidity_net) for row in self.state.ticks.rows]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(fee=st.sampled_from(sorted(SPACINGS)), start=ticks, offset=st.floats(0, 0.99), shares=protocols, todo=actions)
@example(fee=500, start=0, offset=0.0, shares=(0, 0), todo=[("mint", -3, 3, 64.0), ("swap", True, False, 200.0, None)])
@example(fee=500, start=0, offset=0.0, shares=(4, 5), todo=[("swap", True, False, 99.0, -20), ("mint", -2, 0, 60.0)])
def test_a_pool_and_its_model_agree_after_every_action(
    chain: Chain, fee: int, start: int, offset: float, shares: tuple[int, int], todo: list[tuple[Any, ...]]
) -> None:
    twins = Twins(chain, fee, _near(sqrt_ratio_at_tick(start), offset), shares)
    for kind, *arguments in [("mint", -8, 8, 70.0), ("mint", -2, 3, 68.0), *todo]:
        twins.next_call = None
        try:
            getattr(twins, kind)(*arguments)
        except ValueError:
            if twins.next_call is None:  # the tick to reach is where the price is
                continue
            event(f"a {kind} is refused")
            with pytest.raises(CallReverted):
                chain.run(twins.pool, [*twins.calls, twins.next_call])
    twins.look_at_ticks()
    answers = chain.run(twins.pool, twins.calls)
    for call, got, expected in zip(twins.calls, answers, twins.answers, strict=True):
        assert got[: len(expected)] == expected, call


@settings(max_examples=60, deadline=None, derandomize=True)
@given(price=st.floats(32.01, 159.9).map(lambda power: int(2**power)))
@example(price=MIN_SQRT_RATIO)
@example(price=MAX_SQRT_RATIO - 1)
def test_any_price_has_the_tick_that_the_pool_gives_it(chain: Chain, price: int) -> None:
    pool = chain.pools[500]
    slot0 = chain.run(pool, [pool.functions.initialize(price), pool.functions.slot0()])[1]
    assert slot0[:2] == (price, tick_at_sqrt_ratio(price))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(tick=st.integers(MIN_TICK, MAX_TICK - 1))
@example(tick=MIN_TICK)
@example(tick=MAX_TICK - 1)
def test_a_tick_begins_exactly_at_its_price(chain: Chain, tick: int) -> None:
    """One less is the tick before: the pool's own answer at the price and just below it."""
    pool, price = chain.pools[500], sqrt_ratio_at_tick(tick)
    ask = [pool.functions.initialize(price), pool.functions.slot0()]
    assert chain.run(pool, ask)[1][1] == tick
    if tick > MIN_TICK:
        assert chain.run(pool, [pool.functions.initialize(price - 1), pool.functions.slot0()])[1][1] == tick - 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("swap", {"zero_for_one": True, "amount_specified": 0}),
        ("swap", {"zero_for_one": True, "amount_specified": 1, "sqrt_price_limit_x96": 2**96}),
        ("swap", {"zero_for_one": True, "amount_specified": 1, "sqrt_price_limit_x96": MIN_SQRT_RATIO}),
        ("swap", {"zero_for_one": False, "amount_specified": 1, "sqrt_price_limit_x96": 2**96}),
        ("swap", {"zero_for_one": False, "amount_specified": 1, "sqrt_price_limit_x96": MAX_SQRT_RATIO}),
        ("mint", {"tick_lower": 60, "tick_upper": 60, "liquidity": 1}),
        ("mint", {"tick_lower": -887_280, "tick_upper": 60, "liquidity": 1}),
        ("mint", {"tick_lower": 60, "tick_upper": 887_280, "liquidity": 1}),
        ("mint", {"tick_lower": 61, "tick_upper": 120, "liquidity": 1}),
        ("mint", {"tick_lower": 60, "tick_upper": 121, "liquidity": 1}),
        ("mint", {"tick_lower": 60, "tick_upper": 120, "liquidity": 0}),
        ("mint", {"tick_lower": 60, "tick_upper": 120, "liquidity": max_liquidity_per_tick(60) + 1}),
        ("burn", {"tick_lower": -60, "tick_upper": 60, "liquidity": 10**18 + 1}),
    ],
)
def test_what_the_model_refuses_the_pool_refuses_too(chain: Chain, name: str, arguments: dict[str, Any]) -> None:
    pool, me = chain.pools[3000], chain.script.address
    state = mint(
        empty_pool(fee=3000, tick_spacing=60, sqrt_price_x96=2**96), tick_lower=-60, tick_upper=60, liquidity=10**18
    ).pool
    with pytest.raises(ValueError, match=r"\d"):
        {"swap": swap, "mint": mint, "burn": burn}[name](state, **arguments)
    values = list(arguments.values())
    if name == "swap":
        limit = arguments.get("sqrt_price_limit_x96", MIN_SQRT_RATIO + 1)
        call = pool.functions.swap(me, *values[:2], limit, b"")
    elif name == "mint":
        call = pool.functions.mint(me, *values, b"")
    else:
        call = pool.functions.burn(*values)
    before = [pool.functions.initialize(2**96), pool.functions.mint(me, -60, 60, 10**18, b"")]
    chain.run(pool, before)
    with pytest.raises(CallReverted):
        chain.run(pool, [*before, call])


