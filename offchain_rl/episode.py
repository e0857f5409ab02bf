"""An episode of trading as five pure functions: initial, transition, observation, reward, terminal.

Each takes tuples, integers and the market's arrays and answers with new ones; nothing is kept between calls. The same
source runs as plain Python in `env.TradingEnv`, and compiled, thousands of episodes at once, in `env.VectorTradingEnv`.

At the close of bar t the agent sees rounds up to t and asks for a weight. The order is filled in bar t+1, `latency_s`
after it opens; the vault is valued at each close. Nothing after bar t reaches an observation of bar t.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from offchain_rl.fixedpoint import INT16_MAX, INT16_MIN, IntArray
from offchain_rl.observation import ObservationSpec, build_market_matrix, feature_positions
from offchain_rl.prices import Bars
from offchain_rl.reward import step_reward
from offchain_rl.spot_vault import (
    BPS,
    Terms,
    Vault,
    asset_for_down,
    drawdown_bps_of,
    open_vault,
    pass_bar,
    value_div_down,
    weight_bps_of,
    worth_down,
)

Int16Array = npt.NDArray[np.int16]

# Columns of `Market.bars`.
OPEN_E8: Final = 0
CLOSE_E8: Final = 1
OPEN_S: Final = 2
CLOSE_S: Final = 3
_MASK: Final = (1 << 64) - 1
WEIGHT_STEPS: Final = 1 << 15


class Market(NamedTuple):
    """What all episodes share, read only: one or more price series, one after the other."""

    # int64 [T, 4]: open and close in 1e-8 dollars, and when the bar opens and closes, unix seconds.
    bars: IntArray
    # int16 [T, F]: the observation of each bar with zeros where the vault's features go.
    features: Int16Array
    # The lowest and the highest price in `bars`.
    range_e8: tuple[int, int]


class Params(NamedTuple):
    """What an episode depends on besides prices, as plain numbers. See `env.EnvConfig`."""

    terms: Terms
    bar_s: int
    bars_per_step: int
    episode_steps: int
    start_quote: int
    max_weight_bps: int
    deadband_bps: int
    # Of the largest weight that an episode may start with.
    start_weight_bps: int
    # Where the vault's features are in an observation; -1: not in it.
    weight_column: int
    drawdown_column: int
    scale_bits: int
    drawdown_weight: float
    ruin_price: float

    def packed(self) -> tuple[IntArray, npt.NDArray[np.float64]]:
        """The whole numbers and the others in order: an array goes into compiled code faster than many numbers do."""
        whole, others = self[1:-2], self[-2:]
        return np.array([*self.terms, *whole], dtype=np.int64), np.array(others, dtype=np.float64)


def build_market(series: Sequence[Bars], spec: ObservationSpec) -> Market:
    """The series one after the other. Bars without enough history have zeros for features; nobody may start there."""
    total = sum(len(one) for one in series)
    bars = np.empty((total, 4), dtype=np.int64)
    features = np.zeros((total, len(spec.features)), dtype=np.int16)
    market, _ = feature_positions(spec)
    offset = 0
    for one in series:
        rows = slice(offset, offset + len(one))
        bars[rows, OPEN_E8], bars[rows, CLOSE_E8] = one.open_e8, one.close_e8
        bars[rows, OPEN_S], bars[rows, CLOSE_S] = one.timestamps_s, one.timestamps_s + one.bar_s
        first = offset + spec.lookback - 1
        features[first : offset + len(one), list(market)] = build_market_matrix(spec, one.close_e8)
        offset += len(one)
    ranges = [price_range_e8(one) for one in series]
    return Market(bars, features, (min(low for low, _ in ranges), max(high for _, high in ranges)))


def price_range_e8(bars: Bars) -> tuple[int, int]:
    """The lowest and the highest price at which anything is filled or valued."""
    columns = bars.open_e8, bars.close_e8
    return min(int(column.min()) for column in columns), max(int(column.max()) for column in columns)


def initial(market: Market, p: Params, bar: int, weight_bps: int) -> Vault:
    """A vault worth `start_quote` with this weight of the asset at the close of `bar`."""
    price_e8 = market.bars[bar, CLOSE_E8]
    unit = p.terms.unit
    asset = asset_for_down(p.start_quote * weight_bps // BPS, price_e8, unit)
    quote = p.start_quote - worth_down(asset, price_e8, unit)
    return open_vault(quote, asset, price_e8, market.bars[bar, CLOSE_S], unit)


def transition(market: Market, p: Params, v: Vault, bar: int, wanted_bps: int) -> Vault:
    """The vault `bars_per_step` bars after `bar`, at whose close `wanted_bps` was asked for."""
    wanted_bps = clipped_weight(wanted_bps, p)
    is_rebalance = is_far(weight_bps_of(v), wanted_bps, p)
    v = next_bar(market, p, v, bar, is_rebalance, wanted_bps)
    return v if p.bars_per_step == 1 else hold(market, p, v, bar + 1, p.bars_per_step - 1)


def clipped_weight(wanted_bps: int, p: Params) -> int:
    """The nearest weight that may be asked for."""
    return min(max(wanted_bps, 0), p.max_weight_bps)


def is_far(weight_bps: int, wanted_bps: int, p: Params) -> bool:
    """Whether the weight is far enough from the wanted one to trade."""
    distance = abs(wanted_bps - weight_bps)
    return distance > 0 and distance >= p.deadband_bps


def hold(market: Market, p: Params, v: Vault, bar: int, count: int) -> Vault:
    """The vault `count` bars after `bar`, with nothing decided in between."""
    for i in range(count):
        v = next_bar(market, p, v, bar + i, False, 0)
    return v


def next_bar(market: Market, p: Params, v: Vault, bar: int, is_rebalance: bool, wanted_bps: int) -> Vault:
    """The vault one bar after `bar`, at whose close this was decided."""
    return pass_bar(
        v,
        is_rebalance,
        wanted_bps,
        market.bars[bar, CLOSE_S],
        market.bars[bar + 1, OPEN_S],
        market.bars[bar + 1, OPEN_E8],
        market.bars[bar + 1, CLOSE_E8],
        market.bars[bar + 1, CLOSE_S],
        p.bar_s,
        p.terms,
    )


def observation(market: Market, p: Params, v: Vault, bar: int, row: Any) -> None:
    """The observation at the close of `bar`, written into `row`, int16 [F]: the same bits as `build_observation`."""
    for i in range(market.features.shape[1]):
        row[i] = market.features[bar, i]
    if p.weight_column >= 0:
        row[p.weight_column] = share_feature(weight_bps_of(v), p)
    if p.drawdown_column >= 0:
        row[p.drawdown_column] = share_feature(drawdown_bps_of(v), p)


def share_feature(share_bps: int, p: Params) -> int:
    """A share as an observation has it."""
    return saturated(value_div_down(share_bps, 1 << p.scale_bits, BPS))


def reward(before: Vault, after: Vault, p: Params) -> float:
    """What a step brought: see `offchain_rl.reward`. Gas counts, though the vault does not pay it."""
    return step_reward(
        before.last_value - before.gas_spent,
        after.last_value - after.gas_spent,
        1.0 - before.last_value / before.peak_value,
        1.0 - after.last_value / after.peak_value,
        terminal(before, after),
        p.drawdown_weight,
        p.ruin_price,
    )


def terminal(before: Vault, after: Vault) -> bool:
    """Whether the step ended in the vault's drawdown limit: nothing is bought again."""
    return after.is_drawdown == 1 and before.is_drawdown == 0


def saturated(value: int) -> int:
    """The nearest int16."""
    return min(max(value, INT16_MIN), INT16_MAX)


# Where an episode starts: a function of seed, environment and the number of the episode there, so that no generator
# has to be shared, and the same on every device.


def random_bits(seed: int, index: int, count: int) -> int:
    """63 bits that look random: splitmix64 (Steele, Lea, Flood 2014) of the three numbers."""
    x = (seed * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9 + count * 0x94D049BB133111EB) & _MASK
    for _ in range(2):
        x = (x + 0x9E3779B97F4A7C15) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        x = x ^ (x >> 31)
    return x >> 1


def draw_start(starts: IntArray, p: Params, seed: int, index: int, count: int) -> tuple[int, int]:
    """The bar and the weight that an episode starts with: half of them flat, the others up to the largest weight."""
    bar = starts[random_bits(seed, index, 2 * count) % len(starts)]
    step = random_bits(seed, index, 2 * count + 1) % (2 * WEIGHT_STEPS)
    weight_bps = max(step - WEIGHT_STEPS, 0) * p.start_weight_bps // WEIGHT_STEPS
    return bar, weight_bps
