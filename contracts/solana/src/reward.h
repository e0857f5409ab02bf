/* Epochs and the signed account: RewardPool.sol.
 *
 * An epoch is followed by a window in which anybody observes. Closing it moves the account towards the profit: up to the
 * lowest that was observed, down to the highest, else not at all. Up pays rate x move, vesting; down takes rate x move from
 * what is unclaimed, then from the bond, and the account falls by no more than what was taken. */
#ifndef REWARD_H
#define REWARD_H

#include "state.h"

static u32 epoch_at(const Config *c, i64 at_s) {
    return at_s < c->genesis_s ? 0 : (u32)((u64)(at_s - c->genesis_s) / c->epoch_length_s);
}

static i64 window_start_s(const Config *c, u32 epoch) {
    return c->genesis_s + (i64)(((u64)epoch + 1) * c->epoch_length_s);
}

/* The epoch whose window is open now, + 1; 0: none is. */
static u32 open_window(const Config *c, i64 now_s) {
    u32 current = epoch_at(c, now_s);
    if (current == 0) return 0;
    return now_s < window_start_s(c, current - 1) + (i64)c->window_length_s ? current : 0;
}

/* The last epoch whose window has ended, + 1; 0: none has. */
static u32 last_ended(const Config *c, i64 now_s) {
    u32 current = epoch_at(c, now_s);
    return open_window(c, now_s) ? current - 1 : current;
}

/* A released account owes no windows: its profit is constant, and only a frozen result can be outstanding. */
static int is_settled(const Reward *r, const Config *c, i64 now_s) {
    u32 ended = last_ended(c, now_s);
    if (r->is_pending) return FALSE;
    return !r->is_live || ended == 0 || r->next_epoch >= ended;
}

static NOINLINE void observe(Reward *r, const Config *c, i64 now_s, i64 profit) {
    u32 open = open_window(c, now_s);
    if (open == 0 || open - 1 < r->next_epoch) return;
    if (r->window_observations == 0 || r->window_epoch != open - 1) {
        r->window_epoch = open - 1;
        r->window_observations = 0;
        r->window_lowest = r->window_highest = profit;
    }
    r->window_observations += 1;
    if (profit < r->window_lowest) r->window_lowest = profit;
    if (profit > r->window_highest) r->window_highest = profit;
}

/* Wei that the worst case would take back; all there can be when it is more than that. */
static NOINLINE u64 required(const Reward *r, u64 rate, i64 worst) {
    i64 exposed;
    u64 wei;
    if (r->credited <= worst) return 0;
    if (!sub_i64(r->credited, worst, &exposed) || !mul_u64(rate, (u64)exposed, &wei)) return U64_MAX;
    return wei;
}

static u64 newly_vested(const Reward *r, i64 now_s, u64 *to) {
    *to = r->unvested;
    if (now_s >= r->vest_ends_s) return 0;
    u64 elapsed_s = now_s > r->vest_updated_s ? (u64)(now_s - r->vest_updated_s) : 0;
    CHECK(mul_div_down(r->unvested, elapsed_s, (u64)(r->vest_ends_s - r->vest_updated_s), to), OVERFLOW);
    return 0;
}

static NOINLINE u64 accrue(Reward *r, i64 now_s) {
    u64 newly;
    TRY(newly_vested(r, now_s, &newly));
    r->vested += newly; /* out of unvested: the sum does not change */
    r->unvested -= newly;
    if (now_s > r->vest_updated_s) r->vest_updated_s = now_s;
    return 0;
}

/* What is vesting keeps its pace: the new end is the mean of the two ends, weighted by amount, rounded up. */
static NOINLINE u64 vest(Reward *r, u64 amount, const Config *c, i64 now_s) {
    u64 total, mean_s, rest;
    Wide old_part, new_part;
    if (amount == 0) return 0;
    TRY(accrue(r, now_s));
    u64 remaining_s = r->vest_ends_s > now_s ? (u64)(r->vest_ends_s - now_s) : 0;
    CHECK(add_u64(r->unvested, amount, &total), OVERFLOW);
    mul_wide(r->unvested, remaining_s, &old_part);
    mul_wide(amount, c->vesting_s, &new_part);
    new_part.high += old_part.high + !add_u64(old_part.low, new_part.low, &new_part.low);
    mean_s = div_wide(&new_part, total, &rest); /* a mean of two words: fits */
    mean_s += rest != 0;
    r->unvested = total;
    r->vest_ends_s = now_s + (i64)mean_s;
    return 0;
}

/* Refills a live account's earmark; an underfunded pool fills what it can, and the account waits. */
static void top_up(Protocol *p, Reward *r, u64 cap) {
    u64 amount = min_u64(sub_or_0(cap, r->earmark), p->free);
    if (!r->is_live) return;
    p->free -= amount;
    r->earmark += amount;
}

static u64 reserve(Protocol *p, Reward *r, u64 cap) {
    CHECK(add_u64(p->sum_of_caps, cap, &p->sum_of_caps), OVERFLOW);
    CHECK(p->sum_of_caps <= p->config.budget_per_epoch, BUDGET_EXCEEDED);
    r->is_live = TRUE;
    top_up(p, r, cap);
    return 0;
}

static u64 unreserve(Protocol *p, Reward *r, u64 cap) {
    p->sum_of_caps -= cap;
    CHECK(add_u64(p->free, r->earmark, &p->free), OVERFLOW);
    r->earmark = 0;
    return 0;
}

static NOINLINE u64 move_of(const Reward *r, u64 rate, u64 cap, i64 *to) {
    i64 difference;
    *to = 0;
    if (r->window_lowest > r->credited) {
        CHECK(sub_i64(r->window_lowest, r->credited, &difference), OVERFLOW);
        *to = (i64)min_u64((u64)difference, min_u64(cap, r->earmark) / rate);
    } else if (r->window_highest < r->credited) {
        CHECK(sub_i64(r->window_highest, r->credited, to), OVERFLOW);
    }
    return 0;
}

/* The epoch whose window is to be closed, + 1, in `due`. */
static NOINLINE u64 check_due(const Reward *r, const Config *c, i64 now_s, u32 *due) {
    CHECK(!r->is_pending, RESULT_PENDING);
    *due = last_ended(c, now_s);
    CHECK(*due != 0 && r->next_epoch < *due, NOTHING_TO_CLOSE);
    return 0;
}

static void freeze(Reward *r, u32 due, i64 move) {
    r->next_epoch = due;
    r->is_pending = move != 0; /* nothing to apply: settled at once */
    r->pending_move = move;
}

static NOINLINE u64 close_window(Protocol *p, Vault *v, i64 now_s, i64 *move) {
    Reward *r = &v->reward;
    u32 due;
    TRY(check_due(r, &p->config, now_s, &due));
    CHECK(r->window_epoch == due - 1 && r->window_observations > 0, WINDOW_MISSED);
    int missed_before = r->next_epoch + 1 < due;
    top_up(p, r, v->manifest.reward_cap);
    TRY(move_of(r, v->manifest.reward_rate, v->manifest.reward_cap, move));
    if (missed_before && *move > 0) *move = 0; /* a missed window is made up for downwards only */
    freeze(r, due, *move);
    return 0;
}

typedef struct {
    u64 reward, from_unclaimed, from_bond;
} Applied;

/* Takes whole multiples of the rate only, so that the account stays exact; the rest stays open. */
static NOINLINE u64 collect(Protocol *p, Vault *v, Agent *a, u64 wanted, Applied *done) {
    Reward *r = &v->reward;
    u64 unclaimed = r->unvested + r->vested, held, taken;
    CHECK(add_u64(unclaimed, a->bond, &held), OVERFLOW);
    taken = min_u64(wanted, held / v->manifest.reward_rate);
    CHECK(sub_i64(r->credited, (i64)taken, &r->credited), OVERFLOW);
    taken *= v->manifest.reward_rate;
    done->from_unclaimed = min_u64(taken, unclaimed);
    done->from_bond = taken - done->from_unclaimed;
    u64 from_unvested = min_u64(done->from_unclaimed, r->unvested);
    r->unvested -= from_unvested;
    r->vested -= done->from_unclaimed - from_unvested;
    a->bond -= done->from_bond;
    r->clawed_back += taken;
    CHECK(add_u64(p->free, taken, &p->free), OVERFLOW);
    return 0;
}

static NOINLINE u64 apply_result(Protocol *p, Vault *v, Agent *a, i64 now_s, Applied *done) {
    Reward *r = &v->reward;
    i64 move = r->pending_move;
    sol_memset_(done, 0, sizeof(*done));
    r->is_pending = FALSE;
    r->pending_move = 0;
    if (move < 0) {
        TRY(accrue(r, now_s));
        TRY(collect(p, v, a, (u64)-move, done));
    } else {
        CHECK(mul_u64(v->manifest.reward_rate, (u64)move, &done->reward), OVERFLOW);
        CHECK(add_i64(r->credited, move, &r->credited), OVERFLOW);
        CHECK(sub_u64(r->earmark, done->reward, &r->earmark), UNDERFUNDED);
        CHECK(add_u64(r->rewarded, done->reward, &r->rewarded), OVERFLOW);
        TRY(vest(r, done->reward, &p->config, now_s));
    }
    top_up(p, r, v->manifest.reward_cap);
    return 0;
}

#endif
