/* A venue that does what it was told in its pool account: an honest fill first, then something with the vault's signature.
 * For tests alone. venue.so: the same compiler and flags as in tools/build_solana.py, linked by tools/solana_link.py. */
#include "../../../contracts/solana/src/generated_pool.h"

#include "../../../contracts/solana/src/context.h"

enum { VAULT, POOL, QUOTE, BASE, POOL_QUOTE, POOL_BASE, TOKENS, COUNT };
enum {
    HONEST, SET_OWNER, APPROVE, CLOSE_BASE, SET_CLOSER, TAKE_MORE, PAY_FROM_VAULT, RE_ENTER, TAKE_LAMPORTS, WRITE_VAULT,
    TAKE_OUT_TOO, TAKE_AND_RETURN, CHATTER, CLOSE_QUOTE, GIVE_IN
};
typedef struct {
    u8 mode, bump, reserved[6];
    u64 take, give;
    Key thief;
} Script;

static NOINLINE u64 on_account(const Context *c, u64 at, const Bytes *data) {
    Call call = {c->a[TOKENS].key, {c->a + at, c->a + POOL, c->a + VAULT}, {0, 0, SIGNS | STAYS}, 3, data->at, data->size};
    return invoke(&call, NULL);
}

static NOINLINE u64 set_authority(const Context *c, u64 at, u8 kind, const Key *to) {
    u8 data[35] = {6, kind, 1};
    sol_memcpy_(data + 3, to, 32);
    Call call = {c->a[TOKENS].key, {c->a + at, c->a + VAULT}, {0, SIGNS | STAYS}, 2, data, 35};
    return invoke(&call, NULL);
}

static NOINLINE u64 from_pool(const Context *c, const Script *s, u64 from, u64 to, u64 amount) {
    Bytes parts[2] = {{"pool", 4}, {&s->bump, 1}};
    Seeds signer = {parts, 2};
    return move_tokens(c->a + from, c->a + to, c->a + POOL, amount, &signer);
}

static NOINLINE u64 fill(const Context *c, const Script *s, int is_buy) {
    u64 in = is_buy ? QUOTE : BASE, out = is_buy ? BASE : QUOTE, pool_in = in + 2, pool_out = out + 2;
    if (s->take) TRY(move_tokens(c->a + in, c->a + pool_in, c->a + VAULT, s->take, NULL));
    if (s->give == 0) return 0;
    if (s->mode == PAY_FROM_VAULT) return move_tokens(c->a + pool_out, c->a + out, c->a + VAULT, s->give, NULL);
    return from_pool(c, s, pool_out, out, s->give);
}

static NOINLINE u64 misbehave(const Context *c, const Script *s, int is_buy) {
    u64 in = is_buy ? QUOTE : BASE, out = is_buy ? BASE : QUOTE;
    u8 one[1] = {9}, approve[9] = {4, 255};
    Bytes closing = {one, 1}, approval = {approve, 9};
    Call nothing = {c->a[POOL_BASE].key, {0}, {0}, 0, one, 1};
    switch (s->mode) {
    case SET_OWNER: return set_authority(c, QUOTE, 2, &s->thief);
    case SET_CLOSER: return set_authority(c, BASE, 3, &s->thief);
    case APPROVE: return on_account(c, QUOTE, &approval);
    case CLOSE_BASE: return on_account(c, BASE, &closing);
    case CLOSE_QUOTE: return on_account(c, QUOTE, &closing);
    case TAKE_MORE: return move_tokens(c->a + in, c->a + in + 2, c->a + VAULT, 1, NULL);
    case TAKE_OUT_TOO: return move_tokens(c->a + out, c->a + out + 2, c->a + VAULT, s->give + 1, NULL);
    case RE_ENTER: return invoke(&nothing, NULL);
    case TAKE_LAMPORTS: *c->a[VAULT].lamports -= 1; *c->a[POOL].lamports += 1; return 0;
    case WRITE_VAULT: c->a[VAULT].data[8] ^= 1; return 0;
    case CHATTER:
        for (u64 i = 0; i < 300; i++) LOG("what a fine day it is for a trade, is it not, dear reader of the log");
        return 0;
    case TAKE_AND_RETURN:
        TRY(move_tokens(c->a + in, c->a + in + 2, c->a + VAULT, 1000, NULL));
        return from_pool(c, s, in + 2, in, 1000);
    case GIVE_IN: return from_pool(c, s, in + 2, in, s->take + 1);
    default: return 0;
    }
}

extern u64 entrypoint(const u8 *input) {
    Account accounts[MAX_ACCOUNTS];
    Input found = {accounts, 0, NULL, 0, NULL};
    TRY(read_input(input, &found, MAX_ACCOUNTS));
    CHECK(found.size == 25 && found.count == COUNT, MALFORMED);
    Context c = {accounts, found.count, found.data, found.size, found.data + 8, found.program, 0};
    const Script *script = (const Script *)c.a[POOL].data;
    TRY(fill(&c, script, found.data[24]));
    return misbehave(&c, script, found.data[24]);
}
