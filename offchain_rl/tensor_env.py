"""The environment of `env` on tensors, for an accelerator: the same integers, for thousands of episodes at once.

What `spot_vault` and `episode` say for one vault is said here for all of them, with masks in the place of branches, in
whole numbers of 64 bits; on any device that torch knows, without a copy to the host in a step. Vaults, observations,
starts and ends are equal to those of the compiled environment bit for bit; rewards, which take a logarithm, to 1e-12.
On a CPU the compiled environment is many times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from offchain_rl.env import EnvConfig, all_starts, check_series
from offchain_rl.episode import CLOSE_E8, CLOSE_S, OPEN_E8, OPEN_S, WEIGHT_STEPS, Params, build_market
from offchain_rl.fixedpoint import INT16_MAX, INT16_MIN
from offchain_rl.prices import Bars
from offchain_rl.reward import LEAST_GROWTH
from offchain_rl.spot_vault import BPS, BUY, DAY_S, NOTHING, PRICE_SCALE, SELL, Planned, Terms, Vault

_MASK: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorStep:
    """What a step of all environments brought, on the environment's device; see `env.VectorStep`."""

    # int16 [N, F].
    observations: Tensor
    # float64 [N].
    rewards: Tensor
    # bool [N].
    is_terminated: Tensor
    is_truncated: Tensor
    # int16 [N, F].
    final_observations: Tensor


class TensorTradingEnv:
    """`VectorTradingEnv` on a device. Raises RuntimeError, from torch, for a device that is not there."""

    def __init__(
        self,
        bars: Bars | Sequence[Bars],
        config: EnvConfig | None = None,
        num_envs: int = 1024,
        *,
        starts_flat: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        self.config, self.num_envs, self.device = config or EnvConfig(), num_envs, torch.device(device)
        series = (bars,) if isinstance(bars, Bars) else tuple(bars)
        if not series or num_envs < 1:
            raise ValueError("at least one series of bars and one environment")
        check_series(series, self.config)
        market = build_market(series, self.config.observation)
        self._bars = torch.from_numpy(market.bars).to(self.device)
        self._features = torch.from_numpy(market.features).to(self.device)
        self._starts = torch.from_numpy(all_starts(series, self.config)).to(self.device)
        self._params, self._starts_flat, self._seed = self.config.params(), starts_flat, 0
        self._index = torch.arange(num_envs, device=self.device)
        zeros = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self.bars_now, self._steps, self._counts = zeros, zeros, zeros
        self.vault = Vault(*[zeros] * len(Vault._fields))

    def start(self, seed: int | None = None) -> Tensor:
        """New episodes in all environments, and what they see first, int16 [N, F]."""
        if seed is not None:
            self._seed = int(seed)
            self._counts = torch.zeros_like(self._counts)
        self._restart(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        return self._observe()

    def advance(self, wanted_bps: Tensor) -> TensorStep:
        """All environments one decision further. `wanted_bps`: weights, integers [N]; clipped to what is allowed."""
        p, before = self._params, self.vault
        self.vault = transition(self._bars, p, before, self.bars_now, wanted_bps.to(torch.int64))
        self.bars_now = self.bars_now + p.bars_per_step
        self._steps = self._steps + 1
        is_terminated = (self.vault.is_drawdown == 1) & (before.is_drawdown == 0)
        is_truncated = (self._steps >= p.episode_steps) & ~is_terminated
        rewards = reward(before, self.vault, is_terminated, p)
        final = self._observe()
        self._restart(is_terminated | is_truncated)
        return TensorStep(
            observations=self._observe(),
            rewards=rewards,
            is_terminated=is_terminated,
            is_truncated=is_truncated,
            final_observations=final,
        )

    def rows(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The vaults, int64 [N, fields], on the host."""
        return torch.stack(list(self.vault), dim=1).cpu().numpy()

    def _restart(self, which: Tensor) -> None:
        p = self._params
        bits = random_bits(self._seed, self._index, 2 * self._counts)
        bars = self._starts[bits % len(self._starts)]
        step = random_bits(self._seed, self._index, 2 * self._counts + 1) % (2 * WEIGHT_STEPS)
        weight_bps = (step - WEIGHT_STEPS).clamp(min=0) * p.start_weight_bps // WEIGHT_STEPS
        if self._starts_flat:
            weight_bps = torch.zeros_like(weight_bps)
        fresh = initial(self._bars, p, bars, weight_bps)
        self.vault = choose(which, fresh, self.vault)
        self.bars_now = torch.where(which, bars, self.bars_now)
        self._steps = torch.where(which, 0, self._steps)
        self._counts = self._counts + which

    def _observe(self) -> Tensor:
        p, v = self._params, self.vault
        rows = self._features[self.bars_now]
        if p.weight_column >= 0:
            rows[:, p.weight_column] = _as_int16((weight_bps_of(v) << p.scale_bits) // BPS)
        if p.drawdown_column >= 0:
            rows[:, p.drawdown_column] = _as_int16((drawdown_bps_of(v) << p.scale_bits) // BPS)
        return rows


# The functions of `episode`


def initial(bars: Tensor, p: Params, bar: Tensor, weight_bps: Tensor) -> Vault:
    """`episode.initial` of each environment."""
    price_e8, unit, zero = bars[bar, CLOSE_E8], p.terms.unit, torch.zeros_like(bar)
    asset = mul_div_down(p.start_quote * weight_bps // BPS, unit * PRICE_SCALE, price_e8)
    held = worth_down(asset, price_e8, unit)
    quote = p.start_quote - held
    value = quote + held
    filled = {"quote": quote, "asset": asset, "price_e8": price_e8, "day": bars[bar, CLOSE_S] // DAY_S}
    filled |= dict.fromkeys(("last_value", "peak_value", "before_today", "before_yesterday"), value)
    filled["breached_day"] = zero - 1
    return Vault(*(filled.get(name, zero) for name in Vault._fields))


def transition(bars: Tensor, p: Params, v: Vault, bar: Tensor, wanted_bps: Tensor) -> Vault:
    """`episode.transition` of each environment."""
    wanted_bps = wanted_bps.clamp(0, p.max_weight_bps)
    distance = (wanted_bps - weight_bps_of(v)).abs()
    is_rebalance = (distance > 0) & (distance >= p.deadband_bps)
    never = torch.zeros_like(is_rebalance)
    for i in range(p.bars_per_step):
        row = bars[bar + i + 1]
        v = place(v, is_rebalance if i == 0 else never, wanted_bps, bars[bar + i, CLOSE_S], row, p)
        v = close_bar(v, row[:, CLOSE_E8], row[:, CLOSE_S], p.terms)
    return v


def reward(before: Vault, after: Vault, is_ruined: Tensor, p: Params) -> Tensor:
    """`episode.reward` of each environment, float64 [N]."""
    growth = (after.last_value - after.gas_spent).double() / (before.last_value - before.gas_spent).double()
    drawdown_before, drawdown_after = (1.0 - v.last_value.double() / v.peak_value.double() for v in (before, after))
    deepened = (drawdown_after - drawdown_before).clamp(min=0.0)
    return growth.clamp(min=LEAST_GROWTH).log() - p.drawdown_weight * deepened - p.ruin_price * is_ruined.double()


def random_bits(seed: int, index: Tensor, count: Tensor) -> Tensor:
    """`episode.random_bits`: products wrap at 64 bits, shifts are logical."""
    first, second, golden = (_signed(x) for x in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15))
    x = _signed(seed * 0x9E3779B97F4A7C15) + index * first + count * second
    for _ in range(2):
        x = x + golden
        x = (x ^ _shifted(x, 30)) * first
        x = (x ^ _shifted(x, 27)) * second
        x = x ^ _shifted(x, 31)
    return _shifted(x, 1)


# The functions of `spot_vault`


def mul_div_down(a: Tensor | int, b: Tensor | int, c: Tensor | int) -> Tensor:
    """`spot_vault.mul_div_down` with the limits of its compiled version: guessed in floats, put right in integers."""
    a, b, c = (torch.as_tensor(x, dtype=torch.int64) for x in (a, b, c))
    quotient = (a.double() * b.double() / c.double()).to(torch.int64)
    return quotient + torch.div(a * b - quotient * c, c, rounding_mode="floor")


def mul_div_up(a: Tensor, b: Tensor | int, c: Tensor | int) -> Tensor:
    """`spot_vault.mul_div_up`."""
    down = mul_div_down(a, b, c)
    return down + (down * c != a * b)


def worth_down(asset: Tensor, price_e8: Tensor, unit: int) -> Tensor:
    """`spot_vault.worth_down`."""
    return mul_div_down(asset, price_e8, unit * PRICE_SCALE)


def worth_up(asset: Tensor, price_e8: Tensor, unit: int) -> Tensor:
    """`spot_vault.worth_up`."""
    return mul_div_up(asset, price_e8, unit * PRICE_SCALE)


def weight_bps_of(v: Vault) -> Tensor:
    """`spot_vault.weight_bps_of`."""
    value: Any = v.last_value
    return torch.where(value > 0, mul_div_down(value - v.quote, BPS, value.clamp(min=1)), 0)


def drawdown_bps_of(v: Vault) -> Tensor:
    """`spot_vault.drawdown_bps_of`."""
    return mul_div_down(v.peak_value - v.last_value, BPS, v.peak_value)


def is_below_by(current: Tensor, base: Tensor, bps: int) -> Tensor:
    """`spot_vault.is_below_by`."""
    return current * BPS < base * (BPS - bps)


def is_reducing(v: Vault) -> Tensor:
    """`spot_vault.is_reducing`."""
    return (v.is_drawdown == 1) | (v.halted_at_s != 0) | (v.breached_day == v.day)  # type: ignore[return-value]


def choose(which: Tensor, one: Vault, other: Vault) -> Vault:
    """Each vault from `one` where `which` is true, else from `other`."""
    return Vault(*(torch.where(which, a, b) for a, b in zip(one, other, strict=True)))


def sync(v: Any, price_e8: Tensor, now_s: Tensor, t: Terms) -> Any:
    """`spot_vault.sync`."""
    value = v.quote + worth_down(v.asset, price_e8, t.unit)
    day = now_s // DAY_S
    is_new = day != v.day
    yesterday = torch.where(day == v.day + 1, v.before_today, v.last_value)
    before_yesterday = torch.where(is_new, yesterday, v.before_yesterday)
    before_today = torch.where(is_new, v.last_value, v.before_today)
    peak_value = torch.maximum(v.peak_value, value)
    is_lost = is_below_by(value, torch.maximum(before_today, before_yesterday), t.max_daily_loss_bps)
    is_hard = (v.halted_at_s == 0) & is_below_by(value, peak_value, t.hard_drawdown_bps)
    return v._replace(
        price_e8=price_e8,
        last_value=value,
        peak_value=peak_value,
        before_today=before_today,
        before_yesterday=before_yesterday,
        day=day,
        trades_today=torch.where(is_new, 0, v.trades_today),
        turnover_today=torch.where(is_new, 0, v.turnover_today),
        breached_day=torch.where(is_lost, day, v.breached_day),
        is_drawdown=torch.where(is_below_by(value, peak_value, t.max_drawdown_bps), 1, v.is_drawdown),
        halted_at_s=torch.where(is_hard, now_s, v.halted_at_s),
    )


def plan(v: Any, is_rebalance: Tensor, target_bps: Tensor, now_s: Tensor, t: Terms) -> Any:
    """`spot_vault.plan` and its review."""
    reducing, value = is_reducing(v), v.last_value
    room = mul_div_down(value, t.max_daily_turnover_bps, BPS) - v.turnover_today
    difference = value * target_bps // BPS - (value - v.quote)
    is_buy = ~reducing & (difference > 0)
    bought = torch.minimum(torch.minimum(difference, room), v.quote)
    to_sell = torch.minimum(-difference, room).clamp(min=0)
    is_all = reducing | ((target_bps == 0) & (worth_up(v.asset, v.price_e8, t.unit) <= room))
    sold = torch.minimum(mul_div_down(to_sell, t.unit * PRICE_SCALE, v.price_e8), v.asset)
    amount = torch.where(is_buy, bought, torch.where(is_all, v.asset, sold)).clamp(min=0)
    slippage_bps = torch.where(reducing, t.max_reduce_slippage_bps, t.max_trade_slippage_bps)
    worth = torch.where(is_buy, amount, worth_up(amount, v.price_e8, t.unit))
    least_worth = worth - worth * slippage_bps // BPS
    least = torch.where(is_buy, mul_div_up(least_worth, t.unit * PRICE_SCALE, v.price_e8), least_worth)
    at_oracle = torch.where(
        is_buy, mul_div_down(amount, t.unit * PRICE_SCALE, v.price_e8), worth_down(amount, v.price_e8, t.unit)
    )
    is_order = (reducing | is_rebalance) & (amount > 0) & (at_oracle >= least)
    is_allowed = is_order & (v.halted_at_s == 0) & (worth >= t.min_trade_value)
    is_allowed &= reducing | may_trade(v, is_buy, worth, now_s, t)
    side = torch.where(is_order, torch.where(is_buy, BUY, SELL), NOTHING)
    return Planned(side, amount, least, worth, is_allowed)  # type: ignore[arg-type]


def may_trade(v: Any, is_buy: Tensor, worth: Tensor, now_s: Tensor, t: Terms) -> Tensor:
    """`spot_vault._may_trade`."""
    value = v.last_value
    cap = value * t.max_cumulative_slippage_bps // BPS
    worst_loss = worth * t.max_trade_slippage_bps // BPS
    after = value - worst_loss
    is_within = decayed(v.slippage_level, cap, now_s - v.slippage_at_s, t.slippage_decay_s) <= cap
    is_within &= v.trades_today + 1 <= t.max_trades_per_day
    is_within &= v.turnover_today + worth <= mul_div_down(value, t.max_daily_turnover_bps, BPS)
    is_within &= ~is_buy | (value - v.quote + worth + worst_loss <= value * t.max_position_bps // BPS)
    is_within &= ~is_below_by(after, torch.maximum(v.before_today, v.before_yesterday), t.max_daily_loss_bps)
    return is_within & ~is_below_by(after, v.peak_value, t.max_drawdown_bps)


def decayed(level: Tensor, cap: Tensor, elapsed_s: Tensor, duration_s: int) -> Tensor:
    """`spot_vault.decayed`."""
    left = (level - mul_div_down(cap, elapsed_s.clamp(max=duration_s), duration_s)).clamp(min=0)
    return torch.where(elapsed_s >= duration_s, 0, left)


def fill(is_buy: Tensor, amount: Tensor, price_e8: Tensor, t: Terms) -> Tensor:
    """`spot_vault.fill`."""
    net = mul_div_down(amount, BPS - t.fee_bps, BPS)
    dear_e8 = mul_div_up(price_e8, BPS + t.slippage_bps, BPS)
    dear_e8 = mul_div_up(dear_e8, t.depth_quote + torch.where(is_buy, net, 0), t.depth_quote)
    bought = mul_div_down(torch.where(is_buy, net, 0), t.unit * PRICE_SCALE, dear_e8)
    cheap_e8 = mul_div_down(price_e8, BPS - t.slippage_bps, BPS)
    gross = worth_down(torch.where(is_buy, 0, net), cheap_e8, t.unit)
    return torch.where(is_buy, bought, mul_div_down(gross, t.depth_quote, t.depth_quote + gross))


def place(v: Any, is_rebalance: Tensor, target_bps: Tensor, decided_s: Tensor, row: Tensor, p: Params) -> Any:
    """`spot_vault.place`: where nothing is ordered the vault stays as it is."""
    t = p.terms
    order = plan(v, is_rebalance, target_bps, decided_s, t)
    now_s = row[:, OPEN_S] + t.latency_s
    price_e8 = row[:, OPEN_E8] + (row[:, CLOSE_E8] - row[:, OPEN_E8]) * t.latency_s // p.bar_s
    received = fill(order.side == BUY, order.amount_in, price_e8, t)  # type: ignore[arg-type]
    is_late = now_s > decided_s + t.order_lifetime_s
    traded = trade(v, order, received, now_s, is_late, t)
    return choose(order.is_allowed, traded, v)  # type: ignore[arg-type]


def trade(v: Any, order: Any, received: Tensor, now_s: Tensor, is_late: Tensor, t: Terms) -> Any:
    """`spot_vault.trade`: what is refused keeps the new state, what reverts the old one, and all pay gas."""
    m = sync(v, v.price_e8, now_s, t)
    is_buy, reducing, amount = order.side == BUY, is_reducing(m), order.amount_in
    is_refused = ~is_late & ((m.halted_at_s != 0) | (reducing & is_buy))
    base = torch.where(is_buy, amount, worth_up(amount, m.price_e8, t.unit))
    got = torch.where(is_buy, worth_down(received, m.price_e8, t.unit), received)
    shortfall = base - got
    level = slippage_after(m, shortfall, base, now_s, reducing, t)
    quote = torch.where(is_buy, m.quote - amount, m.quote + received)
    asset = torch.where(is_buy, m.asset + received, m.asset - amount)
    position = worth_down(asset, m.price_e8, t.unit)
    value = quote + position
    reference = torch.maximum(m.before_today, m.before_yesterday)
    turnover = m.turnover_today + base
    is_past_limits = (m.trades_today + 1 > t.max_trades_per_day) | (
        turnover > mul_div_down(m.last_value, t.max_daily_turnover_bps, BPS)
    )
    is_past_limits |= is_buy & (position > value * t.max_position_bps // BPS)
    is_past_limits |= is_below_by(value, reference, t.max_daily_loss_bps)
    is_past_limits |= is_below_by(value, m.peak_value, t.max_drawdown_bps)
    is_reverted = is_late | (amount > torch.where(is_buy, m.quote, m.asset)) | (received <= 0)
    is_reverted |= (received < order.least_out) | (level < 0) | (~reducing & is_past_limits)
    done = m._replace(
        quote=quote,
        asset=asset,
        last_value=value,
        trades_today=m.trades_today + ~reducing,
        turnover_today=torch.where(reducing, m.turnover_today, turnover),
        slippage_level=torch.where(reducing, m.slippage_level, level),
        slippage_at_s=torch.where(reducing, m.slippage_at_s, now_s),
        reduce_level=torch.where(reducing, level, m.reduce_level),
        reduce_at_s=torch.where(reducing, now_s, m.reduce_at_s),
        trades=m.trades + 1,
        turnover=m.turnover + base,
        shortfall=m.shortfall + shortfall,
    )
    old = v._replace(reverted=v.reverted + 1)
    result: Any = choose(is_refused, m, choose(is_reverted, old, done))
    return result._replace(gas_spent=v.gas_spent + t.gas_quote)


def slippage_after(m: Any, shortfall: Tensor, base: Tensor, now_s: Tensor, reducing: Tensor, t: Terms) -> Tensor:
    """`spot_vault.slippage_after`."""
    allowed_bps = torch.where(reducing, t.max_reduce_slippage_bps, t.max_trade_slippage_bps)
    cap_bps = torch.where(reducing, t.max_reduce_cumulative_slippage_bps, t.max_cumulative_slippage_bps)
    level = torch.where(reducing, m.reduce_level, m.slippage_level)
    at_s = torch.where(reducing, m.reduce_at_s, m.slippage_at_s)
    cap = m.last_value * cap_bps // BPS
    level = (decayed(level, cap, now_s - at_s, t.slippage_decay_s) + shortfall).clamp(min=0)
    is_refused = (shortfall > base * allowed_bps // BPS) | ((shortfall > 0) & (level > cap))
    return torch.where(is_refused, -1, level)


def close_bar(v: Any, close_e8: Tensor, close_s: Tensor, t: Terms) -> Any:
    """`spot_vault.close_bar`."""
    v = sync(v, close_e8, close_s, t)
    return choose(v.halted_at_s == 0, v, sync(auction(v, close_s, t), close_e8, close_s, t))


def auction(v: Any, now_s: Tensor, t: Terms) -> Any:
    """`spot_vault.auction`."""
    since_s = torch.maximum(v.filled_at_s, v.halted_at_s)
    is_sold = (v.halted_at_s != 0) & (v.asset != 0) & (now_s > since_s)
    lot = torch.where(v.filled_at_s > v.halted_at_s, v.lot, mul_div_up(v.asset, t.auction_lot_bps, BPS))
    amount = torch.minimum(lot, v.asset)
    elapsed_s = (now_s - since_s).clamp(0, t.auction_duration_s)
    discount_bps = t.auction_max_discount_bps * elapsed_s // t.auction_duration_s
    paid = mul_div_up(worth_up(amount, v.price_e8, t.unit), BPS - discount_bps, BPS)
    sold = v._replace(quote=v.quote + paid, asset=v.asset - amount, lot=lot, filled_at_s=now_s)
    return choose(is_sold, sold, v)


def _as_int16(values: Tensor) -> Tensor:
    return values.clamp(INT16_MIN, INT16_MAX).to(torch.int16)


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A logical shift to the right: torch's keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
