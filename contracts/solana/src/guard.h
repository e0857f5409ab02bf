/* What one call knows of a vault, and the limits of a trade: StrategyVault.sol and GuardMath.sol for one asset.
 *
 * The state is derived first in every call, then written down. A price that is missing is a reason to reduce, never an
 * error of the derivation. All rounding favours the vault. */
#ifndef GUARD_H
#define GUARD_H

#include "oracle.h"
#include "reward.h"

typedef struct {
    const Config *config;
    Vault *vault;
    Agent *agent;
    i64 now_s;
    Price base, quote;
    u64 price_e8; /* of the base token in quote tokens; 0: nobody knows */
    int is_quote_healthy, is_priced, is_day_lost;
    u64 value;       /* of what has a price */
    u64 unit_price, peak, reference;
    i64 profit, worst_profit;
    u32 reasons;
} Measure;

INLINE int value_down(const Vault *v, u64 amount, u64 price_e8, u64 *to) {
    return mul_div_down(amount, price_e8, v->unit * (100000000UL / v->quote_unit), to);
}
INLINE int value_up(const Vault *v, u64 amount, u64 price_e8, u64 *to) {
    return mul_div_up(amount, price_e8, v->unit * (100000000UL / v->quote_unit), to);
}
INLINE int share_down(u64 value, u64 bps, u64 *to) { return mul_div_down(value, bps, BPS, to); }

/* Value of one unit x 1e9; one for a vault without units. */
INLINE int unit_price_down(u64 value, u64 units, u64 *to) {
    *to = ONE;
    return units == 0 || mul_div_down(value, ONE, units, to);
}

/* What is left of a decaying sum: it loses cap / duration each second. */
static NOINLINE int decayed(const Bucket *bucket, u64 cap, i64 now_s, u64 duration_s, u64 *to) {
    u64 elapsed_s = now_s > bucket->written_s ? (u64)(now_s - bucket->written_s) : 0, lost;
    *to = 0;
    if (elapsed_s >= duration_s) return TRUE;
    if (!mul_div_down(cap, elapsed_s, duration_s, &lost)) return FALSE;
    *to = sub_or_0(bucket->level, lost);
    return TRUE;
}

/* The stricter of what was voted for the vault and of what binds everybody now. */
INLINE u32 limit(const Measure *m, u64 index) {
    u32 own = ((const u32 *)&m->vault->manifest.limits)[index], ceiling = ((const u32 *)&m->config->ceilings)[index];
    return own < ceiling ? own : ceiling;
}
enum {
    POSITION, TRADE_SLIPPAGE, CUMULATIVE_SLIPPAGE, REDUCE_SLIPPAGE, REDUCE_CUMULATIVE_SLIPPAGE, TRADES_PER_DAY,
    DAILY_TURNOVER, MAX_DAILY_LOSS, MAX_DRAWDOWN, HARD_DRAWDOWN
};

static u32 today(const Measure *m) { return (u32)((u64)m->now_s / DAY_S); }

/* The last unit prices before today and before yesterday, as they are once the day has been rolled. */
static void rolled(const Measure *m, u64 *before_today, u64 *before_yesterday) {
    const Guard *g = &m->vault->guard;
    *before_today = g->before_today;
    *before_yesterday = g->before_yesterday;
    if (today(m) == g->day) return;
    *before_today = g->last_unit_price;
    *before_yesterday = today(m) == g->day + 1 ? g->before_today : g->last_unit_price;
}

/* The least that the capital can be worth when the guard has done its work: at the hard drawdown, after a further gap. */
static NOINLINE int worst_profit(const Measure *m, u64 unit_price, u64 peak, i64 *to) {
    const Vault *v = m->vault;
    u64 worst, now;
    i64 value;
    if (!mul_div_down(v->units, peak, ONE, &worst)) return FALSE;
    if (!share_down(worst, BPS - limit(m, HARD_DRAWDOWN), &worst)) return FALSE;
    if (!share_down(worst, BPS - m->config->gap_allowance_bps, &worst)) return FALSE;
    if (!mul_div_down(v->units, unit_price, ONE, &now)) return FALSE;
    return to_i64(min_u64(worst, now), &value) && add_i64(value, v->net_flow, to);
}

/* The accounts are those that were decided: else whoever sends an instruction could make a price missing. */
static u64 check_feeds(const Vault *v, const Config *config, const Account *base_feed, const Account *quote_feed) {
    CHECK(is_same(base_feed->key, &v->manifest.feed.source), WRONG_ADDRESS);
    CHECK(is_same(quote_feed->key, &config->quote_feed.source), WRONG_ADDRESS);
    return 0;
}

/* Nobody chooses among the prices that are fresh enough: what was published before the newest that the vault has used is
 * no price. */
static NOINLINE void read_prices(Measure *m, const Account *base_feed, const Account *quote_feed) {
    const Vault *v = m->vault;
    m->is_quote_healthy = read_price(quote_feed, &m->config->quote_feed, m->config, m->now_s, &m->quote) &&
                          m->quote.published_s >= v->last_quote_s;
    m->price_e8 = 0;
    if (m->is_quote_healthy && read_price(base_feed, &v->manifest.feed, m->config, m->now_s, &m->base) &&
        m->base.published_s >= v->last_base_s) {
        if (!mul_div_down(m->base.price_e8, 100000000UL, m->quote.price_e8, &m->price_e8)) m->price_e8 = 0;
    }
}

/* Everything but the reward account's opinion. */
static NOINLINE u64 derive(Measure *m) {
    const Vault *v = m->vault;
    const Guard *g = &v->guard;
    u64 base_value, before_today, before_yesterday, unit_price;
    i64 value;
    m->is_priced = m->is_quote_healthy && (m->price_e8 != 0 || v->base_held == 0);
    /* Without a price it counts at its last one for the limits, and for nothing in the value. */
    CHECK(value_down(v, v->base_held, m->price_e8 ? m->price_e8 : v->last_price_e8, &base_value), OVERFLOW);
    CHECK(add_u64(v->quote_held, base_value, &m->value), OVERFLOW);
    CHECK(unit_price_down(m->value, v->units, &unit_price), OVERFLOW);
    if (m->price_e8 == 0) m->value = v->quote_held;
    m->unit_price = m->is_priced ? unit_price : g->last_unit_price;
    m->peak = g->peak;
    rolled(m, &before_today, &before_yesterday);
    m->reference = max_u64(before_today, before_yesterday);
    m->reasons = 0;
    m->is_day_lost = FALSE;
    if (v->units > 0) {
        if (m->is_priced) m->peak = max_u64(m->peak, unit_price);
        m->is_day_lost = is_below_by(unit_price, m->reference, limit(m, MAX_DAILY_LOSS));
        if (is_below_by(unit_price, m->peak, limit(m, MAX_DRAWDOWN))) m->reasons |= DRAWDOWN;
        if (is_below_by(unit_price, m->peak, limit(m, HARD_DRAWDOWN))) m->reasons |= HALTED;
    }
    if (m->is_day_lost || g->breached_day == today(m) + 1) m->reasons |= DAY_LOSS;
    if (g->is_drawdown) m->reasons |= DRAWDOWN;
    if (g->halted_at_s != 0) m->reasons |= HALTED;
    if (m->agent->bond < m->config->min_bond) m->reasons |= COLLATERAL;
    if (!m->is_quote_healthy) m->reasons |= QUOTE_UNHEALTHY;
    if (!m->is_priced) m->reasons |= PRICE_MISSING;
    CHECK(to_i64(m->value, &value) && add_i64(value, v->net_flow, &m->profit), OVERFLOW);
    CHECK(worst_profit(m, m->unit_price, m->peak, &m->worst_profit), OVERFLOW);
    return 0;
}

static NOINLINE void persist(Measure *m) {
    Vault *v = m->vault;
    Guard *g = &v->guard;
    if (today(m) != g->day) {
        u64 before_today, before_yesterday;
        rolled(m, &before_today, &before_yesterday);
        g->before_today = before_today;
        g->before_yesterday = before_yesterday;
        g->day = today(m);
        g->trades_today = 0;
        g->turnover_today = 0;
    }
    if (m->is_day_lost) g->breached_day = today(m) + 1;
    if (m->reasons & DRAWDOWN) g->is_drawdown = TRUE;
    if ((m->reasons & HALTED) && g->halted_at_s == 0) g->halted_at_s = m->now_s;
    if (m->is_priced && v->units > 0) {
        g->peak = m->peak;
        g->last_unit_price = m->unit_price;
    }
    if (m->is_quote_healthy) v->last_quote_s = m->quote.published_s;
    if (m->price_e8) {
        v->last_price_e8 = m->price_e8;
        v->last_base_s = m->base.published_s;
    }
    g->reasons = m->reasons;
}

/* What every call does first. */
static NOINLINE u64 sync(Measure *m, const Account *base_feed, const Account *quote_feed) {
    TRY(check_feeds(m->vault, m->config, base_feed, quote_feed));
    read_prices(m, base_feed, quote_feed);
    TRY(derive(m));
    Reward *r = &m->vault->reward;
    if (m->is_priced) observe(r, m->config, m->now_s, m->profit);
    if (!is_settled(r, m->config, m->now_s)) m->reasons |= UNSETTLED;
    u64 needed, held;
    needed = required(r, m->vault->manifest.reward_rate, m->worst_profit);
    CHECK(add_u64(r->unvested, r->vested, &held) && add_u64(held, m->agent->bond, &held), OVERFLOW);
    if (held < needed) m->reasons |= COLLATERAL;
    persist(m);
    return 0;
}

/* --- an executed swap against every limit */

typedef struct {
    u64 spent, received;
    i64 shortfall; /* in quote, below the oracle's price */
    u64 base;      /* what was given, in quote */
} Swap;

static NOINLINE u64 check_slippage(Measure *m, const Swap *s, int is_emergency) {
    Guard *g = &m->vault->guard;
    u64 allowed, cap, level, change = s->shortfall < 0 ? (u64)-s->shortfall : (u64)s->shortfall;
    CHECK(share_down(s->base, limit(m, is_emergency ? REDUCE_SLIPPAGE : TRADE_SLIPPAGE), &allowed), OVERFLOW);
    CHECK(s->shortfall <= 0 || change <= allowed, SLIPPAGE_EXCEEDED);
    Bucket *bucket = is_emergency ? &g->reduce_slippage : &g->slippage;
    CHECK(share_down(m->value, limit(m, is_emergency ? REDUCE_CUMULATIVE_SLIPPAGE : CUMULATIVE_SLIPPAGE), &cap), OVERFLOW);
    CHECK(decayed(bucket, cap, m->now_s, m->config->slippage_decay_s, &level), OVERFLOW);
    if (s->shortfall > 0) {
        CHECK(add_u64(level, change, &level), OVERFLOW);
        CHECK(level <= cap, CUMULATIVE_SLIPPAGE_EXCEEDED);
    } else {
        level = sub_or_0(level, change);
    }
    bucket->level = level;
    bucket->written_s = m->now_s;
    return 0;
}

static NOINLINE u64 check_activity(Measure *m, u64 base) {
    Guard *g = &m->vault->guard;
    u64 turnover, allowed;
    CHECK(g->trades_today < limit(m, TRADES_PER_DAY), TRADE_COUNT_EXCEEDED);
    CHECK(add_u64(g->turnover_today, base, &turnover), OVERFLOW);
    CHECK(share_down(m->value, limit(m, DAILY_TURNOVER), &allowed), OVERFLOW);
    CHECK(turnover <= allowed, TURNOVER_EXCEEDED);
    g->trades_today += 1;
    g->turnover_today = turnover;
    return 0;
}

static NOINLINE u64 check_outcome(const Measure *m, int is_buy, u64 position) {
    u64 allowed;
    CHECK(share_down(m->value, limit(m, POSITION), &allowed), OVERFLOW);
    CHECK(!is_buy || position <= allowed, POSITION_EXCEEDED);
    CHECK(!is_below_by(m->unit_price, m->reference, limit(m, MAX_DAILY_LOSS)), DAILY_LOSS_EXCEEDED);
    CHECK(!is_below_by(m->unit_price, m->peak, limit(m, MAX_DRAWDOWN)), DRAWDOWN_EXCEEDED);
    return 0;
}

/* Checks every limit of an executed swap and writes it into the books. `s` has what was spent and received. */
static NOINLINE u64 settle_swap(Measure *m, int is_buy, Swap *s) {
    Vault *v = m->vault;
    u64 got, position;
    i64 given, taken;
    int is_reducing = m->reasons != 0;
    /* Every window's end leaves a vault unsettled for a moment: no emergency, so no emergency's slippage. */
    int is_emergency = (m->reasons & ~(u32)UNSETTLED) != 0;
    s->base = s->spent;
    got = s->received;
    if (is_buy) CHECK(value_down(v, s->received, m->price_e8, &got), OVERFLOW);
    else CHECK(value_up(v, s->spent, m->price_e8, &s->base), OVERFLOW);
    CHECK(to_i64(s->base, &given) && to_i64(got, &taken) && sub_i64(given, taken, &s->shortfall), OVERFLOW);
    TRY(check_slippage(m, s, is_emergency));
    if (!is_reducing) TRY(check_activity(m, s->base));
    u64 *in = is_buy ? &v->quote_held : &v->base_held, *out = is_buy ? &v->base_held : &v->quote_held;
    CHECK(sub_u64(*in, s->spent, in), INSUFFICIENT_HOLDINGS);
    CHECK(add_u64(*out, s->received, out), OVERFLOW);
    CHECK(value_down(v, v->base_held, m->price_e8, &position), OVERFLOW);
    CHECK(add_u64(v->quote_held, position, &m->value), OVERFLOW);
    if (m->is_priced) {
        CHECK(unit_price_down(m->value, v->units, &m->unit_price), OVERFLOW);
        v->guard.last_unit_price = m->unit_price;
    }
    return is_reducing ? 0 : check_outcome(m, is_buy, position);
}

#endif
