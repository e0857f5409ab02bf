/* Generated from marketflow_pool.json by tools/build_solana.py. */
#ifndef GENERATED_POOL_H
#define GENERATED_POOL_H

/* What instructions, accounts and events begin with: eight bytes, as a little-endian number. */
#define IX_CREATE_POOL 0xbc4068cf8ed192e9UL
#define IX_ADD_LIQUIDITY 0x4834b68f43599db5UL
#define IX_REMOVE_LIQUIDITY 0x6cb1ce1848d15550UL
#define IX_SWAP 0xc88775e1919ec6f8UL
#define ACCOUNT_POOL 0xbc6db111046d9af1UL
#define EVENT_SWAPPED 0x6d608793533434d9UL

enum {
    UNKNOWN_INSTRUCTION = 6000,
    MALFORMED,
    MISSING_SIGNATURE,
    NOT_WRITABLE,
    WRONG_OWNER,
    WRONG_ADDRESS,
    WRONG_PROGRAM,
    WRONG_ACCOUNT_TYPE,
    ALREADY_EXISTS,
    WRONG_MINT,
    WRONG_TOKEN_ACCOUNT,
    OVERFLOW,
    BAD_FEE,
    NOT_MAKER,
    ZERO_AMOUNT,
    SHORT_PAID,
};

#endif
