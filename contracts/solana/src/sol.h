/* Solana's program interface for C without a library: the input of the entry point, system calls, and what a program
 * checks of an account. Layouts: https://solana.com/docs/programs/faq#input-parameter-serialization
 *
 * Written for SBPF version 0: at most five arguments, no struct returned by value, no signed division, no product of
 * 128 bits by the compiler, no variables outside of the stack. The stack of a function is 4,096 bytes. */
#ifndef SOL_H
#define SOL_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef signed int i32;
typedef signed long i64;

#define NULL ((void *)0)
#define TRUE 1
#define FALSE 0
#define NOINLINE __attribute__((noinline, unused))
#define INLINE static inline __attribute__((always_inline))
#define SIZE_CHECK(type, size) _Static_assert(sizeof(type) == (size), #type " has a hole, or another size")

typedef struct {
    u64 q[4];
} Key;

typedef struct {
    const void *at;
    u64 size;
} Bytes;

/* An account as the instruction got it. What is pointed to is the input itself: writing there changes the account. */
typedef struct {
    const Key *key;
    const Key *owner;
    u64 *lamports;
    u8 *data;
    u8 is_signer, is_writable, is_executable;
} Account;

/* How long an account's data is now: a call of another program may have changed it. */
INLINE u64 size_of(const Account *a) { return *(const u64 *)(a->data - 8); }

/* What sol_invoke_signed_c wants of each account. */
typedef struct {
    const Key *key;
    u64 *lamports;
    u64 size;
    u8 *data;
    const Key *owner;
    u64 rent_epoch;
    u8 is_signer, is_writable, is_executable;
} CpiAccount;
typedef struct {
    const Key *key;
    u8 is_writable, is_signer;
} CpiMeta;
typedef struct {
    const Key *program;
    const CpiMeta *metas;
    u64 meta_count;
    const u8 *data;
    u64 size;
} CpiInstruction;
typedef struct {
    const Bytes *seeds;
    u64 count;
} Seeds;

typedef struct {
    u64 slot;
    i64 epoch_start;
    u64 epoch, leader_schedule_epoch;
    i64 unix_timestamp;
} Clock;
typedef struct {
    u64 lamports_per_byte_year;
    u64 exemption_threshold; /* the bits of a double: years to pay for, 2.0, or 1.0 where the price is for ever */
    u8 burn_percent;
} Rent;
#define ONE_YEAR 0x3ff0000000000000UL

extern void sol_log_(const char *text, u64 size);
extern void sol_log_data(const Bytes *fields, u64 count);
extern u64 sol_sha256(const Bytes *parts, u64 count, u8 *digest);
extern u64 sol_keccak256(const Bytes *parts, u64 count, u8 *digest);
extern u64 sol_secp256k1_recover(const u8 *digest, u64 recovery_id, const u8 *signature, u8 *public_key);
extern u64 sol_create_program_address(const Bytes *seeds, u64 count, const Key *program, Key *found);
extern u64 sol_try_find_program_address(const Bytes *seeds, u64 count, const Key *program, Key *found, u8 *bump);
extern u64 sol_invoke_signed_c(
    const CpiInstruction *call, const CpiAccount *accounts, u64 account_count, const Seeds *signers, u64 signer_count
);
extern u64 sol_get_clock_sysvar(Clock *clock);
extern u64 sol_get_rent_sysvar(Rent *rent);
extern void sol_memcpy_(void *to, const void *from, u64 size);
extern void sol_memset_(void *at, u8 value, u64 size);
extern void sol_memcmp_(const void *a, const void *b, u64 size, i32 *result);

#define LOG(text) sol_log_(text, sizeof(text) - 1)

/* Errors of the runtime, as ProgramError numbers them; a program's own are below 2^32. */
#define RUNTIME_ERROR(n) ((u64)(n) << 32)
#define INVALID_ARGUMENT RUNTIME_ERROR(2)
#define INVALID_DATA RUNTIME_ERROR(3)
#define NOT_ENOUGH_KEYS RUNTIME_ERROR(11)

INLINE int is_same(const Key *a, const Key *b) {
    return a->q[0] == b->q[0] && a->q[1] == b->q[1] && a->q[2] == b->q[2] && a->q[3] == b->q[3];
}
INLINE int is_zero(const Key *a) { return (a->q[0] | a->q[1] | a->q[2] | a->q[3]) == 0; }
static NOINLINE int is_equal(const void *a, const void *b, u64 size) {
    i32 result;
    sol_memcmp_(a, b, size, &result);
    return result == 0;
}

/* Unaligned, little-endian. */
INLINE u32 read_u32(const u8 *at) { return at[0] | (u32)at[1] << 8 | (u32)at[2] << 16 | (u32)at[3] << 24; }
INLINE u64 read_u64(const u8 *at) { return (u64)read_u32(at) | (u64)read_u32(at + 4) << 32; }

/* An account appears again as a reference to its first place: `at` counts from 0. */
typedef struct {
    Account *accounts;
    u64 count;
    const u8 *data;
    u64 size;
    const Key *program;
} Input;

#define MAX_PERMITTED_INCREASE 10240

/* Reads the input. Returns 0, or an error when there are more than `most` accounts, or one is there twice: no instruction
 * of ours means the same account in two roles, and what is written through one would be stale in the other. */
static u64 read_input(const u8 *input, Input *found, u64 most) {
    u64 count = *(const u64 *)input;
    input += 8;
    if (count > most) return INVALID_ARGUMENT;
    for (u64 i = 0; i < count; i++) {
        Account *a = found->accounts + i;
        if (input[0] != 0xff) return INVALID_ARGUMENT;
        a->is_signer = input[1];
        a->is_writable = input[2];
        a->is_executable = input[3];
        a->key = (const Key *)(input + 8);
        a->owner = (const Key *)(input + 40);
        a->lamports = (u64 *)(input + 72);
        a->data = (u8 *)(input + 88);
        input += 88 + size_of(a) + MAX_PERMITTED_INCREASE;
        input = (const u8 *)(((u64)input + 7) & ~7UL) + 8; /* rent epoch */
    }
    found->count = count;
    found->size = *(const u64 *)input;
    found->data = input + 8;
    found->program = (const Key *)(input + 8 + found->size);
    return 0;
}

INLINE void for_cpi(const Account *a, CpiAccount *c) {
    c->key = a->key;
    c->lamports = a->lamports;
    c->size = size_of(a);
    c->data = a->data;
    c->owner = a->owner;
    c->rent_epoch = 0;
    c->is_signer = a->is_signer;
    c->is_writable = a->is_writable;
    c->is_executable = a->is_executable;
}

#endif
