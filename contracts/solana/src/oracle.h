/* Prices of Chainlink and Pyth, read in the program from the accounts that their programs own.
 *
 * Chainlink: https://github.com/smartcontractkit/chainlink-solana, contracts/programs/store, `Transmissions` version 2.
 * Pyth: https://github.com/pyth-network/pyth-crosschain, target_chains/solana, `PriceUpdateV2`. */
#ifndef ORACLE_H
#define ORACLE_H

#include "state.h"

/* sha256("account:Transmissions") and sha256("account:PriceUpdateV2"), the first eight bytes. */
#define TRANSMISSIONS 0x754981804245b360UL
#define PRICE_UPDATE 0xcdf47e9d6323f122UL
#define PRICE_DECIMALS 8
#define CHAINLINK_HEADER 192
#define CHAINLINK_ROUND 48
#define PYTH_VERIFIED_FULLY 1
/* Pyth's push oracle, pythWSnswVUd12oZpeFP8e9CVaEqJg25g1Vtc2biRsT: it keeps one account for each feed and shard, at their
 * address, and writes nothing older into it. */
static const Key PUSH_ORACLE = {{0xe1d3958e12a04a0cUL, 0xeba985c501a52a62UL, 0x0bea08c15473b307UL, 0x36a3eec76d451b79UL}};
/* A cluster's clock may lag behind the one that a price was published by. */
#define AHEAD_S 60

static int pow10_u64(u64 exponent, u64 *to) {
    if (exponent > 19) return FALSE;
    *to = 1;
    while (exponent--) *to *= 10;
    return TRUE;
}

/* `amount` with `from` decimals, as one with eight; rounded down. FALSE when it does not fit. */
static NOINLINE int scale_price(u64 amount, u64 from, u64 *to) {
    u64 factor;
    if (!pow10_u64(from > PRICE_DECIMALS ? from - PRICE_DECIMALS : PRICE_DECIMALS - from, &factor)) return FALSE;
    if (from > PRICE_DECIMALS) *to = amount / factor;
    return from > PRICE_DECIMALS ? TRUE : mul_u64(amount, factor, to);
}

static NOINLINE int read_chainlink(const Account *a, const Feed *feed, Price *to) {
    const u8 *header = a->data + 8;
    if (size_of(a) < 8 + CHAINLINK_HEADER) return FALSE;
    if (*(const u64 *)a->data != TRANSMISSIONS || header[0] != 2 || header[130] != feed->decimals) return FALSE;
    u64 length = read_u32(header + 140), cursor = read_u32(header + 144);
    if (length == 0 || cursor >= length || 8 + CHAINLINK_HEADER + length * CHAINLINK_ROUND > size_of(a)) return FALSE;
    const u8 *round = header + CHAINLINK_HEADER + (cursor ? cursor - 1 : length - 1) * CHAINLINK_ROUND;
    to->published_s = read_u32(round + 8);
    to->round = read_u32(header + 135);
    to->answer = read_u64(round + 16);
    /* 128 bits with a sign: what has more than 63 is no price of ours. */
    if (read_u64(round + 24) != 0 || to->answer == 0 || to->answer >> 63) return FALSE;
    return scale_price(to->answer, feed->decimals, &to->price_e8);
}

/* The account is the push oracle's for the feed that it tells of: one that somebody made could be given another feed's
 * price. `decimals` has the shard. */
static NOINLINE int is_of_its_feed(const Account *a, const u8 *feed_id, u32 shard) {
    Key found;
    u8 bump, little_endian[2] = {(u8)shard, (u8)(shard >> 8)};
    Bytes seeds[2] = {{little_endian, 2}, {feed_id, sizeof(Key)}};
    return sol_try_find_program_address(seeds, 2, &PUSH_ORACLE, &found, &bump) == 0 && is_same(a->key, &found);
}

static NOINLINE int read_pyth(const Account *a, const Feed *feed, Price *to) {
    u64 confidence, widest;
    if (size_of(a) < 134 || *(const u64 *)a->data != PRICE_UPDATE || a->data[40] != PYTH_VERIFIED_FULLY) return FALSE;
    const u8 *message = a->data + 41;
    if (!is_of_its_feed(a, message, feed->decimals)) return FALSE;
    to->answer = read_u64(message + 32);
    confidence = read_u64(message + 40);
    u32 exponent = read_u32(message + 48);
    to->published_s = (i64)read_u64(message + 52);
    to->round = (u64)to->published_s;
    /* An exponent is not positive: -8 for most. */
    if (to->answer == 0 || to->answer >> 63 || (exponent != 0 && !(exponent >> 31))) return FALSE;
    if (!mul_div_down(to->answer, feed->max_confidence_bps, BPS, &widest) || confidence > widest) return FALSE;
    return scale_price(to->answer, (u32)(0 - exponent), &to->price_e8);
}

/* The price of a feed's account; FALSE when it is of another owner, too old, of the future, too uncertain, or out of bounds.
 * A missing price is a reason to reduce, never an error: so nothing is said about which it is. Which account it is, is not
 * the caller's to choose: check_feeds. */
static NOINLINE int read_price(const Account *a, const Feed *feed, const Config *config, i64 now_s, Price *to) {
    sol_memset_(to, 0, sizeof(*to));
    int is_chainlink = feed->kind == FEED_CHAINLINK;
    if (!is_same(a->owner, is_chainlink ? &config->chainlink : &config->pyth)) return FALSE;
    if (!(is_chainlink ? read_chainlink(a, feed, to) : read_pyth(a, feed, to))) return FALSE;
    if (to->published_s > now_s + AHEAD_S || now_s - to->published_s > (i64)feed->max_age_s) return FALSE;
    return to->price_e8 >= feed->least_e8 && to->price_e8 <= feed->most_e8;
}

#endif
