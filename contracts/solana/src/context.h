/* What a handler is given, and how it asks for its accounts: by their places in the IDL, each checked once. */
#ifndef CONTEXT_H
#define CONTEXT_H

#include "accounts.h"

#define MAX_ACCOUNTS 16

typedef struct {
    const Account *a;
    u64 count;
    const u8 *data; /* with the discriminator */
    u64 size;
    const u8 *args;
    const Key *program;
    i64 now_s;
} Context;

/* The instruction has this many accounts and arguments of this size. */
INLINE u64 expect(const Context *c, u64 accounts, u64 size) {
    CHECK(c->count >= accounts, NOT_ENOUGH_KEYS);
    CHECK(c->count == accounts && c->size == 8 + size, MALFORMED);
    return 0;
}

static NOINLINE u64 load(const Context *c, u64 at, u64 kind, u64 size, int is_written) {
    const Account *a = c->a + at;
    CHECK(is_same(a->owner, c->program), WRONG_OWNER);
    CHECK(size_of(a) == size && *(const u64 *)a->data == kind, WRONG_ACCOUNT_TYPE);
    CHECK(!is_written || a->is_writable, NOT_WRITABLE);
    return 0;
}

/* The account at that place has the address of these seeds, and `bump` is the highest that gives it. */
static NOINLINE u64 check_address(const Context *c, u64 at, const Bytes *seeds, u64 count, u8 *bump) {
    Key found;
    CHECK(sol_try_find_program_address(seeds, count, c->program, &found, bump) == 0, WRONG_ADDRESS);
    CHECK(is_same(c->a[at].key, &found), WRONG_ADDRESS);
    return 0;
}

/* What anybody can read afterwards, as Anchor's events: the kind, then the fields in Borsh. */
static NOINLINE void emit(const void *event, u64 size) {
    Bytes field = {event, size};
    sol_log_data(&field, 1);
}
#define EMIT(event) emit(&(event), sizeof(event))
#define PACKED __attribute__((packed))

#endif
