/* What is checked of accounts, how they are made, and the calls of other programs. */
#ifndef ACCOUNTS_H
#define ACCOUNTS_H

#include "state.h"

/* The system program's key is all zeros. */
static const Key TOKEN_PROGRAM = {{0x93a165d7e1f6dd06UL, 0xac79ebce46e1cbd9UL, 0x91375b5fed85b41cUL, 0xa900ff7e85f58c3aUL}};
#define TOKEN_ACCOUNT_SIZE 165
#define MINT_SIZE 82

static u64 check_signer(const Account *a) { return a->is_signer ? 0 : MISSING_SIGNATURE; }
static u64 check_writable(const Account *a) { return a->is_writable ? 0 : NOT_WRITABLE; }

static NOINLINE u64 check_mint(const Account *a) {
    CHECK(is_same(a->owner, &TOKEN_PROGRAM) && size_of(a) == MINT_SIZE && a->data[45] == 1, WRONG_MINT);
    return 0;
}

INLINE u64 token_amount(const Account *a) { return *(const u64 *)(a->data + 64); }

/* A token account of that mint that only `owner` can move: no delegate, nobody who may close it, not frozen. */
static NOINLINE u64 check_token(const Account *a, const Key *mint, const Key *owner) {
    CHECK(is_same(a->owner, &TOKEN_PROGRAM) && size_of(a) == TOKEN_ACCOUNT_SIZE, WRONG_TOKEN_ACCOUNT);
    CHECK(is_same((const Key *)a->data, mint), WRONG_MINT);
    CHECK(is_same((const Key *)(a->data + 32), owner), WRONG_TOKEN_ACCOUNT);
    CHECK(read_u32(a->data + 72) == 0 && a->data[108] == 1 && read_u32(a->data + 129) == 0, WRONG_TOKEN_ACCOUNT);
    return 0;
}

/* Calls another program with accounts that the instruction got; their number is at most 8. `signer`: seeds, or NULL. */
enum { SIGNS = 1, STAYS = 2 }; /* what an account does in a call; one that stays can't be written to */
typedef struct {
    const Key *program;
    const Account *accounts[8];
    u8 roles[8];
    u64 count;
    const u8 *data;
    u64 size;
} Call;

static NOINLINE u64 invoke(const Call *call, const Seeds *signer) {
    CpiAccount accounts[8];
    CpiMeta metas[8];
    for (u64 i = 0; i < call->count; i++) {
        for_cpi(call->accounts[i], accounts + i);
        metas[i].key = call->accounts[i]->key;
        metas[i].is_writable = call->accounts[i]->is_writable && !(call->roles[i] & STAYS);
        metas[i].is_signer = call->roles[i] & SIGNS;
    }
    CpiInstruction instruction = {call->program, metas, call->count, call->data, call->size};
    return sol_invoke_signed_c(&instruction, accounts, call->count, signer, signer ? 1 : 0);
}

/* An account of `size` bytes at a program's address, owned by `owner` and free of rent. One to which somebody sent
 * lamports before is made, too; one that has an owner is refused. */
static NOINLINE u64 make_account(const Account *payer, const Account *made, u64 size, const Key *owner, const Seeds *seeds) {
    static const Key system = {{0, 0, 0, 0}};
    u8 data[52];
    Rent rent;
    CHECK(is_zero(made->owner) && size_of(made) == 0, ALREADY_EXISTS);
    TRY(check_signer(payer));
    TRY(check_writable(made));
    sol_get_rent_sysvar(&rent);
    u64 years = rent.exemption_threshold == ONE_YEAR ? 1 : 2; /* what rent-exempt means, before Agave 4 and since */
    u64 needed = (128 + size) * rent.lamports_per_byte_year * years;
    if (*made->lamports < needed) {
        *(u32 *)data = 2; /* Transfer */
        u64 missing = needed - *made->lamports;
        sol_memcpy_(data + 4, &missing, 8);
        Call transfer = {&system, {payer, made}, {SIGNS, 0}, 2, data, 12};
        TRY(invoke(&transfer, NULL));
    }
    *(u32 *)data = 8; /* Allocate */
    sol_memcpy_(data + 4, &size, 8);
    Call allocate = {&system, {made}, {SIGNS}, 1, data, 12};
    TRY(invoke(&allocate, seeds));
    *(u32 *)data = 1; /* Assign */
    sol_memcpy_(data + 4, owner, 32);
    Call assign = {&system, {made}, {SIGNS}, 1, data, 36};
    return invoke(&assign, seeds);
}

/* A token account at a program's address: InitializeAccount3. */
static NOINLINE u64 make_token(const Account *payer, const Account *made, const Account *mint, const Key *owner, const Seeds *seeds) {
    u8 data[33];
    TRY(make_account(payer, made, TOKEN_ACCOUNT_SIZE, &TOKEN_PROGRAM, seeds));
    data[0] = 18;
    sol_memcpy_(data + 1, owner, 32);
    Call call = {&TOKEN_PROGRAM, {made, mint}, {0, 0}, 2, data, 33};
    return invoke(&call, NULL);
}

/* Moves tokens. `authority` signs itself, or with `seeds`. */
static NOINLINE u64 move_tokens(const Account *from, const Account *to, const Account *authority, u64 amount, const Seeds *seeds) {
    u8 data[9];
    data[0] = 3; /* Transfer */
    sol_memcpy_(data + 1, &amount, 8);
    Call call = {&TOKEN_PROGRAM, {from, to, authority}, {0, 0, SIGNS | STAYS}, 3, data, 9};
    return invoke(&call, seeds);
}

#endif
