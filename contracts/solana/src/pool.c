/* marketflow_pool: a market of two tokens whose product of reserves never falls, for local chains, and the example of a venue
 * that a vault can trade through. Instructions and accounts: marketflow_pool.json. */
#include "generated_pool.h"

#include "context.h"

typedef struct {
    u64 discriminator;
    Key maker, quote_mint, base_mint, quote_account, base_account;
    u32 fee_bps;
    u8 bump, reserved[3];
    u64 swaps;
} Pool;
SIZE_CHECK(Pool, 184);

typedef struct PACKED {
    u64 kind;
    Key pool;
    u8 is_buy;
    u64 amount_in, amount_out, quote_reserve, base_reserve;
} Swapped;

static NOINLINE u64 make_reserve(const Context *c, u64 at, u64 mint, const char *word, u64 length) {
    u8 bump;
    Bytes seeds[3] = {{word, length}, {c->a[1].key, 32}, {&bump, 1}};
    TRY(check_address(c, at, seeds, 2, &bump));
    Seeds signer = {seeds, 3};
    return make_token(c->a, c->a + at, c->a + mint, c->a[1].key, &signer);
}

static NOINLINE u64 create_pool(const Context *c) {
    enum { MAKER, POOL, QUOTE_MINT, BASE_MINT, POOL_QUOTE, POOL_BASE, TOKENS, SYSTEM, COUNT };
    TRY(expect(c, COUNT, 4));
    u32 fee_bps = *(const u32 *)c->args;
    u8 bump;
    TRY(check_signer(c->a + MAKER));
    CHECK(fee_bps < BPS, BAD_FEE);
    CHECK(is_same(c->a[TOKENS].key, &TOKEN_PROGRAM) && is_zero(c->a[SYSTEM].key), WRONG_PROGRAM);
    TRY(check_mint(c->a + QUOTE_MINT));
    TRY(check_mint(c->a + BASE_MINT));
    Bytes seeds[5] = {
        {"pool", 4}, {c->a[MAKER].key, 32}, {c->a[QUOTE_MINT].key, 32}, {c->a[BASE_MINT].key, 32}, {&bump, 1},
    };
    TRY(check_address(c, POOL, seeds, 4, &bump));
    Seeds signer = {seeds, 5};
    TRY(make_account(c->a + MAKER, c->a + POOL, sizeof(Pool), c->program, &signer));
    TRY(make_reserve(c, POOL_QUOTE, QUOTE_MINT, "quote", 5));
    TRY(make_reserve(c, POOL_BASE, BASE_MINT, "base", 4));
    Pool *pool = (Pool *)c->a[POOL].data;
    pool->discriminator = ACCOUNT_POOL;
    pool->maker = *c->a[MAKER].key;
    pool->quote_mint = *c->a[QUOTE_MINT].key;
    pool->base_mint = *c->a[BASE_MINT].key;
    pool->quote_account = *c->a[POOL_QUOTE].key;
    pool->base_account = *c->a[POOL_BASE].key;
    pool->fee_bps = fee_bps;
    pool->bump = bump;
    return 0;
}

static NOINLINE u64 load_pool(const Context *c, u64 at, u64 quote, u64 base, u64 tokens, Pool **to) {
    TRY(load(c, at, ACCOUNT_POOL, sizeof(Pool), FALSE));
    *to = (Pool *)c->a[at].data;
    CHECK(is_same(c->a[quote].key, &(*to)->quote_account), WRONG_TOKEN_ACCOUNT);
    CHECK(is_same(c->a[base].key, &(*to)->base_account), WRONG_TOKEN_ACCOUNT);
    CHECK(is_same(c->a[tokens].key, &TOKEN_PROGRAM), WRONG_PROGRAM);
    return 0;
}

static NOINLINE u64 move_out(const Context *c, const Pool *pool, u64 from, u64 to, u64 at, u64 amount) {
    Bytes parts[5] = {
        {"pool", 4}, {&pool->maker, 32}, {&pool->quote_mint, 32}, {&pool->base_mint, 32}, {&pool->bump, 1},
    };
    Seeds signer = {parts, 5};
    return move_tokens(c->a + from, c->a + to, c->a + at, amount, &signer);
}

enum { MAKER, POOL, OUR_QUOTE, OUR_BASE, POOL_QUOTE, POOL_BASE, TOKENS, COUNT }; /* and of `swap`: the owner is first */

static NOINLINE u64 change_liquidity(const Context *c, int is_adding) {
    TRY(expect(c, COUNT, 16));
    Pool *pool;
    const u64 *amounts = (const u64 *)c->args;
    TRY(check_signer(c->a + MAKER));
    TRY(load_pool(c, POOL, POOL_QUOTE, POOL_BASE, TOKENS, &pool));
    CHECK(is_same(c->a[MAKER].key, &pool->maker), NOT_MAKER);
    CHECK(amounts[0] | amounts[1], ZERO_AMOUNT);
    for (u64 i = 0; i < 2; i++) {
        if (amounts[i] == 0) continue;
        u64 ours = OUR_QUOTE + i, pools = POOL_QUOTE + i;
        if (is_adding) TRY(move_tokens(c->a + ours, c->a + pools, c->a + MAKER, amounts[i], NULL));
        else TRY(move_out(c, pool, pools, ours, POOL, amounts[i]));
    }
    return 0;
}

/* What `amount_in` buys: reserves and product as in Uniswap v2 (https://docs.uniswap.org/contracts/v2/concepts/protocol-overview/how-uniswap-works),
 * the fee taken from what comes in. Rounded down twice. */
static NOINLINE int amount_out(u64 in_reserve, u64 out_reserve, u64 amount_in, u64 fee_bps, u64 *to) {
    u64 kept, sum;
    if (!mul_div_down(amount_in, BPS - fee_bps, BPS, &kept) || !add_u64(in_reserve, kept, &sum)) return FALSE;
    return mul_div_down(out_reserve, kept, sum, to);
}

static NOINLINE u64 swap(const Context *c) {
    TRY(expect(c, COUNT, 17));
    Pool *pool;
    u64 amount_in = read_u64(c->args), least_out = read_u64(c->args + 8), out;
    int is_buy = c->args[16];
    CHECK(is_buy <= 1, MALFORMED);
    CHECK(amount_in > 0, ZERO_AMOUNT);
    TRY(check_signer(c->a + MAKER));
    TRY(load_pool(c, POOL, POOL_QUOTE, POOL_BASE, TOKENS, &pool));
    TRY(check_writable(c->a + POOL));
    u64 pool_in = is_buy ? POOL_QUOTE : POOL_BASE, pool_out = is_buy ? POOL_BASE : POOL_QUOTE;
    u64 in_reserve = token_amount(c->a + pool_in), out_reserve = token_amount(c->a + pool_out);
    CHECK(in_reserve > 0 && out_reserve > 0, ZERO_AMOUNT);
    CHECK(amount_out(in_reserve, out_reserve, amount_in, pool->fee_bps, &out), OVERFLOW);
    CHECK(out >= least_out && out > 0, SHORT_PAID);
    TRY(move_tokens(c->a + (is_buy ? OUR_QUOTE : OUR_BASE), c->a + pool_in, c->a + MAKER, amount_in, NULL));
    TRY(move_out(c, pool, pool_out, is_buy ? OUR_BASE : OUR_QUOTE, POOL, out));
    pool->swaps += 1;
    Swapped event = {
        EVENT_SWAPPED, *c->a[POOL].key, (u8)is_buy, amount_in, out,
        token_amount(c->a + POOL_QUOTE), token_amount(c->a + POOL_BASE),
    };
    EMIT(event);
    return 0;
}

extern u64 entrypoint(const u8 *input) {
    Account accounts[MAX_ACCOUNTS];
    Input found = {accounts, 0, NULL, 0, NULL};
    TRY(read_input(input, &found, MAX_ACCOUNTS));
    CHECK(found.size >= 8, UNKNOWN_INSTRUCTION);
    Context c = {accounts, found.count, found.data, found.size, found.data + 8, found.program, 0};
    switch (*(const u64 *)c.data) {
    case IX_CREATE_POOL: return create_pool(&c);
    case IX_ADD_LIQUIDITY: return change_liquidity(&c, TRUE);
    case IX_REMOVE_LIQUIDITY: return change_liquidity(&c, FALSE);
    case IX_SWAP: return swap(&c);
    default: return UNKNOWN_INSTRUCTION;
    }
}
