/* Decisions of a DAO on an EVM chain, carried over by its guardians.
 *
 * The DAO's timelock sends a payload to its outbox there; a guardian that finds it in a final block signs its digest, and
 * whoever likes sends it here with signatures of the threshold. They are carried out in the outbox's order. What the
 * guardians may do alone (halt, stop claims) is signed with another kind, uses up no decision, and can be sent until the DAO
 * ends a stop; so no decision that is carried out first makes a halt void. */
#ifndef DECISION_H
#define DECISION_H

#include "context.h"

enum { OF_THE_DAO = 0, OF_GUARDIANS = 1 };
#define SIGNATURE_SIZE 66 /* guardian, recovery id, r and s */
#define DECISION_HEAD 12  /* expiry, number of signatures */

typedef struct {
    u64 kind;
    Key protocol;
    u64 nonce;
    u8 digest[HASH];
    Key subject;
} DecisionCarriedOut;
SIZE_CHECK(DecisionCarriedOut, 112);

static void write_big_endian(u8 *to, u64 value) {
    for (int i = 7; i >= 0; i--, value >>= 8) to[i] = (u8)value;
}

/* What is attested: a payload, which is this instruction's own about the account at `subject`, with `size` bytes of
 * arguments; or by its hash another's, which is to be passed over because it is too old. */
typedef struct {
    u8 kind;
    u64 subject, size;
    const u8 *skipped;
    i64 expires_s;
    u8 payload_hash[HASH], digest[HASH];
} Attested;

/* keccak256 over the words that DecisionOutbox.sol packs. */
static NOINLINE void digest_of(const Context *c, const Protocol *p, Attested *x) {
    u8 chain[8], nonce[8], expiry[8];
    write_big_endian(chain, p->config.evm_chain_id);
    write_big_endian(nonce, x->kind == OF_THE_DAO ? p->nonce : p->stops_ended);
    write_big_endian(expiry, (u64)x->expires_s);
    Bytes parts[9] = {
        {"MarketFlow decision v1", 22}, {&x->kind, 1}, {c->program, 32}, {c->a[0].key, 32}, {chain, 8},
        {p->config.outbox, ADDRESS}, {nonce, 8}, {expiry, 8}, {x->payload_hash, HASH},
    };
    sol_keccak256(parts, 9, x->digest);
}

/* The signatures are of that many different guardians, at least, over the digest as wallets sign it (EIP-191). */
static NOINLINE u64 check_signatures(const Config *config, const u8 *signatures, u64 count, const u8 *digest) {
    u8 message[HASH], key[64], hash[HASH];
    Bytes parts[2] = {{"\x19" "Ethereum Signed Message:\n32", 28}, {digest, HASH}};
    sol_keccak256(parts, 2, message);
    Bytes whole = {key, 64};
    u64 next = 0;
    for (u64 i = 0; i < count; i++, signatures += SIGNATURE_SIZE) {
        u64 guardian = signatures[0];
        CHECK(guardian >= next && guardian < config->guardian_count && signatures[1] < 4, BAD_ATTESTATION);
        CHECK(sol_secp256k1_recover(message, signatures[1], signatures + 2, key) == 0, BAD_ATTESTATION);
        sol_keccak256(&whole, 1, hash);
        CHECK(is_equal(hash + 12, config->guardians[guardian], ADDRESS), BAD_ATTESTATION);
        next = guardian + 1;
    }
    CHECK(count >= config->threshold, NOT_ENOUGH_GUARDIANS);
    return 0;
}

/* The decision stands behind the arguments and ends the data. The protocol is the first account. */
static NOINLINE u64 check_decision(const Context *c, const Protocol *p, Attested *x) {
    const u8 *decision = c->args + x->size;
    CHECK(c->size >= 8 + x->size + DECISION_HEAD, MALFORMED);
    x->expires_s = (i64)read_u64(decision);
    u64 count = read_u32(decision + 8);
    CHECK(count <= MAX_THRESHOLD && c->size == 8 + x->size + DECISION_HEAD + count * SIGNATURE_SIZE, MALFORMED);
    if (x->skipped) {
        CHECK(x->expires_s < c->now_s, DECISION_NOT_EXPIRED);
        sol_memcpy_(x->payload_hash, x->skipped, HASH);
    } else {
        CHECK(x->expires_s >= c->now_s, DECISION_EXPIRED);
        Bytes parts[3] = {{c->data, 8}, {c->a[x->subject].key, 32}, {c->args, x->size}};
        sol_keccak256(parts, 3, x->payload_hash);
    }
    digest_of(c, p, x);
    return check_signatures(&p->config, decision + DECISION_HEAD, count, x->digest);
}

/* What the DAO decided, in its turn. */
static NOINLINE u64 carry_out(const Context *c, Protocol *p, u64 subject, u64 size) {
    Attested x = {OF_THE_DAO, subject, size, NULL, 0, {0}, {0}};
    DecisionCarriedOut event;
    TRY(check_decision(c, p, &x));
    event.kind = EVENT_DECISION_CARRIED_OUT;
    event.protocol = *c->a[0].key;
    event.nonce = p->nonce;
    event.subject = *c->a[subject].key;
    sol_memcpy_(event.digest, x.digest, HASH);
    p->nonce += 1;
    EMIT(event);
    return 0;
}

/* What the guardians say alone. */
static NOINLINE u64 check_guardians_alone(const Context *c, const Protocol *p, u64 subject, u64 size) {
    Attested x = {OF_GUARDIANS, subject, size, NULL, 0, {0}, {0}};
    return check_decision(c, p, &x);
}

typedef struct PACKED {
    u64 kind;
    Key protocol;
    u64 nonce;
    u32 error;
} DecisionMoot;

/* A decision that came too late for what it is about is over, or it would hold up all that come after it. Only where nobody
 * else can choose the moment: what waits for a price, or for another vault to end, is refused and can be sent again. */
static NOINLINE u64 pass_over(const Context *c, const Protocol *p, u64 error) {
    DecisionMoot event = {EVENT_DECISION_MOOT, *c->a[0].key, p->nonce - 1, (u32)error};
    EMIT(event);
    return 0;
}

#endif
