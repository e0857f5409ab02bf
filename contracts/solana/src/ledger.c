/* marketflow_ledger: vaults of a DAO that decides on an EVM chain. What each instruction does, who may call it and its
 * accounts: marketflow_ledger.json. What must be true: docs/solana.md.
 *
 * Every handler reads its accounts by their places there, checks each, and changes nothing before it has. */
#include "generated_ledger.h"

#include "guard.h"
#include "decision.h"

/* --- accounts of one vault */

typedef struct {
    Protocol *protocol;
    Vault *vault;
    Agent *agent;
} Party;

static NOINLINE u64 load_protocol(const Context *c, u64 at, int is_written, Protocol **to) {
    TRY(load(c, at, ACCOUNT_PROTOCOL, sizeof(Protocol), is_written));
    *to = (Protocol *)c->a[at].data;
    return 0;
}

static NOINLINE u64 load_vault(const Context *c, u64 protocol, u64 at, int is_written, Vault **to) {
    TRY(load(c, at, ACCOUNT_VAULT, sizeof(Vault), is_written));
    *to = (Vault *)c->a[at].data;
    CHECK(is_same(&(*to)->protocol, c->a[protocol].key), WRONG_PROTOCOL);
    return 0;
}

static NOINLINE u64 load_agent(const Context *c, u64 protocol, u64 at, int is_written, Agent **to) {
    TRY(load(c, at, ACCOUNT_AGENT, sizeof(Agent), is_written));
    *to = (Agent *)c->a[at].data;
    CHECK(is_same(&(*to)->protocol, c->a[protocol].key), WRONG_PROTOCOL);
    return 0;
}

/* A vault and the agent that it was approved for. */
static NOINLINE u64 load_party(const Context *c, u64 protocol, u64 vault, u64 agent, Party *to) {
    TRY(load_protocol(c, protocol, FALSE, &to->protocol));
    TRY(load_vault(c, protocol, vault, FALSE, &to->vault));
    TRY(load_agent(c, protocol, agent, FALSE, &to->agent));
    CHECK(is_same(&to->vault->manifest.agent, c->a[agent].key), WRONG_ADDRESS);
    return 0;
}

static void measure_of(const Context *c, const Party *x, Measure *m) {
    sol_memset_(m, 0, sizeof(*m));
    m->config = &x->protocol->config;
    m->vault = x->vault;
    m->agent = x->agent;
    m->now_s = c->now_s;
}

typedef struct PACKED {
    u64 kind;
    Key vault;
    u32 reasons;
    u64 unit_price;
} StateChanged;

static NOINLINE void tell_state(const Key *vault, const Measure *m) {
    StateChanged event = {EVENT_STATE_CHANGED, *vault, m->vault->guard.reasons, m->unit_price};
    EMIT(event);
}

/* Derives the state and keeps it: what every call about a running vault does first. */
static NOINLINE u64 sync_at(const Context *c, const Party *x, u64 vault, u64 base_feed, Measure *m) {
    u32 before = x->vault->guard.reasons;
    CHECK(c->a[vault].is_writable, NOT_WRITABLE);
    measure_of(c, x, m);
    TRY(sync(m, c->a + base_feed, c->a + base_feed + 1));
    if (x->vault->guard.reasons != before) tell_state(c->a[vault].key, m);
    return 0;
}

INLINE int is_empty(const Vault *v) { return v->quote_held == 0 && v->base_held == 0; }

/* The seeds by which the program signs for an account of its own. */
#define SIGN_AS(name, word, protocol_key, id_at, bump_at)                                                                \
    Bytes name##_parts[4] = {{word, sizeof(word) - 1}, {protocol_key, 32}, {id_at, 32}, {bump_at, 1}};                    \
    Seeds name = {name##_parts, 4}
#define SIGN_AS_VAULT(name, v) SIGN_AS(name, "vault", &(v)->protocol, &(v)->id, &(v)->bump)
#define SIGN_AS_PROTOCOL(name, p)                                                                                        \
    Bytes name##_parts[3] = {{"protocol", 8}, {&(p)->id, 32}, {&(p)->bump, 1}};                                           \
    Seeds name = {name##_parts, 3}

/* The token program and no other, at that place. */
static u64 check_token_program(const Context *c, u64 at) {
    return is_same(c->a[at].key, &TOKEN_PROGRAM) ? 0 : WRONG_PROGRAM;
}

/* The account is the one that was written down when it was made, and nobody else can move what is in it. */
static NOINLINE u64 check_own_token(const Context *c, u64 at, const Key *expected, const Key *mint, const Key *owner) {
    CHECK(is_same(c->a[at].key, expected), WRONG_ADDRESS);
    CHECK(c->a[at].is_writable, NOT_WRITABLE);
    return check_token(c->a + at, mint, owner);
}

static u64 check_system_program(const Context *c, u64 at) { return is_zero(c->a[at].key) ? 0 : WRONG_PROGRAM; }

/* --- what is decided, and whether it makes sense */

static u64 check_feed(const Feed *f) {
    CHECK(f->kind == FEED_CHAINLINK || f->kind == FEED_PYTH, BAD_CONFIG);
    CHECK(f->max_age_s > 0 && f->max_confidence_bps <= BPS, BAD_CONFIG);
    CHECK(f->decimals <= (f->kind == FEED_PYTH ? 0xffff : 27), BAD_CONFIG);
    CHECK(f->least_e8 >= LEAST_PRICE_E8 && f->least_e8 <= f->most_e8, BAD_CONFIG);
    return 0;
}

static u64 check_consistent(const Limits *l) {
    CHECK(l->max_position_bps <= BPS && l->hard_drawdown_bps < BPS, LIMITS_INCONSISTENT);
    CHECK(l->max_drawdown_bps < l->hard_drawdown_bps && l->max_daily_loss_bps < BPS, LIMITS_INCONSISTENT);
    CHECK(l->max_reduce_slippage_bps < BPS, LIMITS_INCONSISTENT);
    CHECK(l->max_trade_slippage_bps <= l->max_reduce_slippage_bps, LIMITS_INCONSISTENT);
    CHECK((u64)l->max_cumulative_slippage_bps + l->max_reduce_cumulative_slippage_bps < BPS, LIMITS_INCONSISTENT);
    return 0;
}

static u64 check_limits(const Limits *l, const Limits *ceilings) {
    for (u64 i = 0; i < LIMIT_COUNT; i++) CHECK(((const u32 *)l)[i] <= ((const u32 *)ceilings)[i], LIMIT_TOO_LOOSE);
    return check_consistent(l);
}

static NOINLINE u64 check_guardians(const u8 (*guardians)[ADDRESS], u64 count, u64 threshold) {
    static const u8 nobody[ADDRESS] = {0};
    CHECK(threshold >= 1 && threshold <= MAX_THRESHOLD && threshold <= count && count <= MAX_GUARDIANS, BAD_CONFIG);
    for (u64 i = 0; i < MAX_GUARDIANS; i++) {
        CHECK(is_equal(guardians[i], nobody, ADDRESS) == (i >= count), BAD_CONFIG);
        for (u64 j = 0; j < i && i < count; j++) CHECK(!is_equal(guardians[i], guardians[j], ADDRESS), BAD_CONFIG);
    }
    return 0;
}

static NOINLINE u64 check_config(const Config *config) {
    TRY(check_guardians(config->guardians, config->guardian_count, config->threshold));
    TRY(check_feed(&config->quote_feed));
    TRY(check_consistent(&config->ceilings));
    CHECK(config->reserved[0] == 0 && config->reserved[1] == 0, BAD_CONFIG);
    CHECK(!is_same(&config->quote_mint, &config->reward_mint), BAD_CONFIG);
    CHECK(config->genesis_s >= 0 && config->genesis_s <= 0xffffffffL, BAD_CONFIG);
    CHECK(config->window_length_s > 0 && config->window_length_s < config->epoch_length_s, BAD_CONFIG);
    CHECK(config->vesting_s > 0 && config->max_unsettled > 0 && config->max_reward_rate > 0, BAD_CONFIG);
    CHECK(config->slippage_decay_s > 0 && config->gap_allowance_bps <= BPS, BAD_CONFIG);
    return 0;
}

/* --- beginning */

typedef struct {
    u64 kind;
    Key protocol, id;
} ProtocolInitialised;

static NOINLINE u64 make_protocol_token(const Context *c, u64 at, u64 mint, const char *word, u64 length) {
    u8 bump;
    Bytes seeds[3] = {{word, length}, {c->a[1].key, 32}, {&bump, 1}};
    TRY(check_address(c, at, seeds, 2, &bump));
    Seeds signer = {seeds, 3};
    return make_token(c->a, c->a + at, c->a + mint, c->a[1].key, &signer);
}

static NOINLINE u64 initialise(const Context *c) {
    enum { PAYER, PROTOCOL, QUOTE_MINT, REWARD_MINT, TREASURY, REWARDS, TOKENS, SYSTEM, COUNT };
    TRY(expect(c, COUNT, sizeof(Config)));
    const Config *config = (const Config *)c->args;
    ProtocolInitialised event;
    u8 bump;
    TRY(check_config(config));
    TRY(check_token_program(c, TOKENS));
    TRY(check_system_program(c, SYSTEM));
    TRY(check_mint(c->a + QUOTE_MINT));
    TRY(check_mint(c->a + REWARD_MINT));
    CHECK(is_same(c->a[QUOTE_MINT].key, &config->quote_mint), WRONG_MINT);
    CHECK(is_same(c->a[REWARD_MINT].key, &config->reward_mint), WRONG_MINT);
    CHECK(c->a[QUOTE_MINT].data[44] <= PRICE_DECIMALS, BAD_CONFIG);
    Bytes whole = {config, sizeof(Config)};
    sol_sha256(&whole, 1, (u8 *)&event.id);
    Bytes seeds[3] = {{"protocol", 8}, {&event.id, 32}, {&bump, 1}};
    TRY(check_address(c, PROTOCOL, seeds, 2, &bump));
    Seeds signer = {seeds, 3};
    TRY(make_account(c->a + PAYER, c->a + PROTOCOL, sizeof(Protocol), c->program, &signer));
    TRY(make_protocol_token(c, TREASURY, QUOTE_MINT, "treasury", 8));
    TRY(make_protocol_token(c, REWARDS, REWARD_MINT, "rewards", 7));
    Protocol *p = (Protocol *)c->a[PROTOCOL].data;
    p->discriminator = ACCOUNT_PROTOCOL;
    p->id = event.id;
    sol_memcpy_(&p->config, config, sizeof(Config));
    p->treasury = *c->a[TREASURY].key;
    p->rewards = *c->a[REWARDS].key;
    p->bump = bump;
    event.kind = EVENT_PROTOCOL_INITIALISED;
    event.protocol = *c->a[PROTOCOL].key;
    EMIT(event);
    return 0;
}

/* --- agents and what they put at stake */

typedef struct {
    u64 kind;
    Key protocol, agent, controller, signing_key;
} AgentRegistered;

static NOINLINE u64 register_agent(const Context *c) {
    enum { CONTROLLER, PROTOCOL, AGENT, SYSTEM, COUNT };
    TRY(expect(c, COUNT, sizeof(Key)));
    Protocol *p;
    u8 bump;
    TRY(check_signer(c->a + CONTROLLER));
    TRY(load_protocol(c, PROTOCOL, FALSE, &p));
    TRY(check_system_program(c, SYSTEM));
    Bytes seeds[4] = {{"agent", 5}, {c->a[PROTOCOL].key, 32}, {c->a[CONTROLLER].key, 32}, {&bump, 1}};
    TRY(check_address(c, AGENT, seeds, 3, &bump));
    Seeds signer = {seeds, 4};
    TRY(make_account(c->a + CONTROLLER, c->a + AGENT, sizeof(Agent), c->program, &signer));
    Agent *agent = (Agent *)c->a[AGENT].data;
    agent->discriminator = ACCOUNT_AGENT;
    agent->protocol = *c->a[PROTOCOL].key;
    agent->controller = *c->a[CONTROLLER].key;
    agent->signing_key = *(const Key *)c->args;
    agent->bump = bump;
    AgentRegistered event = {
        EVENT_AGENT_REGISTERED, agent->protocol, *c->a[AGENT].key, agent->controller, agent->signing_key,
    };
    EMIT(event);
    return 0;
}

typedef struct {
    u64 kind;
    Key agent, signing_key;
} SigningKeySet;

static NOINLINE u64 set_signing_key(const Context *c) {
    enum { CONTROLLER, AGENT, COUNT };
    TRY(expect(c, COUNT, sizeof(Key)));
    TRY(check_signer(c->a + CONTROLLER));
    TRY(load(c, AGENT, ACCOUNT_AGENT, sizeof(Agent), TRUE));
    Agent *agent = (Agent *)c->a[AGENT].data;
    CHECK(is_same(&agent->controller, c->a[CONTROLLER].key), NOT_CONTROLLER);
    agent->signing_key = *(const Key *)c->args;
    SigningKeySet event = {EVENT_SIGNING_KEY_SET, *c->a[AGENT].key, agent->signing_key};
    EMIT(event);
    return 0;
}

typedef struct {
    u64 kind;
    Key agent;
    u64 bond;
} BondChanged;

static void tell_bond(const Key *key, const Agent *agent) {
    BondChanged event = {EVENT_BOND_CHANGED, *key, agent->bond};
    EMIT(event);
}

/* Takes tokens from whoever signs: the accounts from `source` on are his, the rewards', and the token program. */
static NOINLINE u64 take_in(const Context *c, const Protocol *p, u64 source, u64 amount) {
    const Account *rewards = c->a + source + 1;
    CHECK(amount > 0, ZERO_AMOUNT);
    TRY(check_signer(c->a));
    TRY(check_token_program(c, source + 2));
    CHECK(is_same(rewards->key, &p->rewards), WRONG_ADDRESS);
    return move_tokens(c->a + source, rewards, c->a, amount, NULL);
}

static NOINLINE u64 deposit_bond(const Context *c) {
    enum { OWNER, PROTOCOL, AGENT, SOURCE, REWARDS, TOKENS, COUNT };
    TRY(expect(c, COUNT, 8));
    Protocol *p;
    Agent *agent;
    u64 amount = *(const u64 *)c->args;
    TRY(load_protocol(c, PROTOCOL, FALSE, &p));
    TRY(load_agent(c, PROTOCOL, AGENT, TRUE, &agent));
    CHECK(add_u64(agent->bond, amount, &agent->bond), OVERFLOW);
    TRY(take_in(c, p, SOURCE, amount));
    tell_bond(c->a[AGENT].key, agent);
    return 0;
}

/* What the agent's bond and its unclaimed rewards are more than the worst case of that vault would take back. While the
 * vault is live and without a full price nobody knows, so all of it stays. The recorded peak counts: from a higher one that
 * nobody has observed, the guard would not halt the vault in time. */
static NOINLINE u64 excess_of(Measure *m, const Account *base_feed, const Account *quote_feed, u64 *to) {
    const Vault *v = m->vault;
    const Reward *r = &v->reward;
    i64 worst;
    u64 needed, held;
    *to = 0;
    if (r->is_live) {
        TRY(check_feeds(v, m->config, base_feed, quote_feed));
        read_prices(m, base_feed, quote_feed);
        TRY(derive(m));
        if (!m->is_priced) return 0;
    } else {
        m->unit_price = v->guard.last_unit_price;
    }
    CHECK(worst_profit(m, m->unit_price, v->guard.peak, &worst), OVERFLOW);
    needed = required(r, v->manifest.reward_rate, worst);
    CHECK(add_u64(r->unvested, r->vested, &held) && add_u64(held, m->agent->bond, &held), OVERFLOW);
    *to = sub_or_0(held, needed);
    return 0;
}

/* Pays out of the account at `rewards`; behind it are the destination and the token program. */
static NOINLINE u64 pay_out(const Context *c, const Protocol *p, u64 protocol, u64 rewards, u64 amount) {
    SIGN_AS_PROTOCOL(signer, p);
    TRY(check_token_program(c, rewards + 2));
    TRY(check_own_token(c, rewards, &p->rewards, &p->config.reward_mint, c->a[protocol].key));
    return move_tokens(c->a + rewards, c->a + rewards + 1, c->a + protocol, amount, &signer);
}

/* What can leave the bond: a live vault keeps the least. */
static NOINLINE u64 releasable(const Context *c, const Party *x, u64 base_feed, u64 *to) {
    Measure m;
    measure_of(c, x, &m);
    CHECK(is_settled(&x->vault->reward, m.config, c->now_s), NOT_SETTLED);
    TRY(excess_of(&m, c->a + base_feed, c->a + base_feed + 1, to));
    *to = min_u64(*to, sub_or_0(x->agent->bond, x->vault->reward.is_live ? m.config->min_bond : 0));
    return 0;
}

static NOINLINE u64 withdraw_bond(const Context *c) {
    enum { CONTROLLER, PROTOCOL, AGENT, VAULT, BASE_FEED, QUOTE_FEED, REWARDS, DESTINATION, TOKENS, COUNT };
    TRY(expect(c, COUNT, 8));
    Party x;
    u64 amount = *(const u64 *)c->args, most;
    TRY(check_signer(c->a + CONTROLLER));
    TRY(load_protocol(c, PROTOCOL, FALSE, &x.protocol));
    TRY(load_agent(c, PROTOCOL, AGENT, TRUE, &x.agent));
    CHECK(is_same(&x.agent->controller, c->a[CONTROLLER].key), NOT_CONTROLLER);
    CHECK(amount > 0, ZERO_AMOUNT);
    most = x.agent->bond;
    if (!is_zero(&x.agent->vault)) {
        CHECK(is_same(&x.agent->vault, c->a[VAULT].key), WRONG_ADDRESS);
        TRY(load_vault(c, PROTOCOL, VAULT, FALSE, &x.vault));
        TRY(releasable(c, &x, BASE_FEED, &most));
    }
    CHECK(amount <= most, BOND_TOO_SMALL);
    x.agent->bond -= amount;
    TRY(pay_out(c, x.protocol, PROTOCOL, REWARDS, amount));
    tell_bond(c->a[AGENT].key, x.agent);
    return 0;
}

typedef struct {
    u64 kind;
    Key protocol;
    u64 amount, free;
} RewardsFunded;

static NOINLINE u64 fund_rewards(const Context *c) {
    enum { FUNDER, PROTOCOL, SOURCE, REWARDS, TOKENS, COUNT };
    TRY(expect(c, COUNT, 8));
    Protocol *p;
    u64 amount = *(const u64 *)c->args;
    TRY(load_protocol(c, PROTOCOL, TRUE, &p));
    CHECK(add_u64(p->free, amount, &p->free), OVERFLOW);
    TRY(take_in(c, p, SOURCE, amount));
    RewardsFunded event = {EVENT_REWARDS_FUNDED, *c->a[PROTOCOL].key, amount, p->free};
    EMIT(event);
    return 0;
}

/* --- strategies, by decision */

typedef struct {
    u64 kind;
    Key vault, agent;
    u8 artefact_hash[HASH];
    u64 reward_rate, reward_cap;
} VaultOpened;

/* The agent's last vault, which must be over: not live, no result to be applied, no debt. */
static NOINLINE u64 check_last_vault(const Context *c, Party *x, u64 at) {
    Measure m;
    i64 worst;
    if (is_zero(&x->agent->vault)) return 0; /* there is none yet: the account is not looked at */
    CHECK(is_same(&x->agent->vault, c->a[at].key), WRONG_ADDRESS);
    TRY(load_vault(c, 0, at, FALSE, &x->vault));
    measure_of(c, x, &m);
    const Reward *r = &x->vault->reward;
    CHECK(worst_profit(&m, x->vault->guard.last_unit_price, x->vault->guard.peak, &worst), OVERFLOW);
    CHECK(!r->is_live && !r->is_pending && r->credited <= worst, AGENT_BUSY);
    return 0;
}

static NOINLINE u64 check_manifest(const Config *config, const Manifest *m) {
    TRY(check_feed(&m->feed));
    TRY(check_limits(&m->limits, &config->ceilings));
    CHECK(m->reward_rate > 0 && m->reward_rate <= config->max_reward_rate, RATE_TOO_HIGH);
    CHECK(!is_same(&m->base_mint, &config->quote_mint), WRONG_MINT);
    return 0;
}

static NOINLINE u64 make_vault_token(const Context *c, u64 at, u64 mint, const char *word) {
    enum { PAYER = 1, VAULT = 4 };
    u8 bump;
    Bytes seeds[3] = {{word, word[0] == 'q' ? 5 : 4}, {c->a[VAULT].key, 32}, {&bump, 1}};
    TRY(check_address(c, at, seeds, 2, &bump));
    Seeds signer = {seeds, 3};
    return make_token(c->a + PAYER, c->a + at, c->a + mint, c->a[VAULT].key, &signer);
}

static NOINLINE u64 make_vault(const Context *c, const Manifest *manifest) {
    enum { PROTOCOL, PAYER, AGENT, LAST_VAULT, VAULT, VAULT_QUOTE, VAULT_BASE, QUOTE_MINT, BASE_MINT };
    Key id;
    u8 bump;
    Bytes whole = {manifest, sizeof(Manifest)};
    sol_sha256(&whole, 1, (u8 *)&id);
    Bytes seeds[4] = {{"vault", 5}, {c->a[PROTOCOL].key, 32}, {&id, 32}, {&bump, 1}};
    TRY(check_address(c, VAULT, seeds, 3, &bump));
    Seeds signer = {seeds, 4};
    TRY(make_account(c->a + PAYER, c->a + VAULT, sizeof(Vault), c->program, &signer));
    TRY(make_vault_token(c, VAULT_QUOTE, QUOTE_MINT, "quote"));
    TRY(make_vault_token(c, VAULT_BASE, BASE_MINT, "base"));
    Vault *v = (Vault *)c->a[VAULT].data;
    v->discriminator = ACCOUNT_VAULT;
    v->protocol = *c->a[PROTOCOL].key;
    v->id = id;
    sol_memcpy_(&v->manifest, manifest, sizeof(Manifest));
    v->quote_account = *c->a[VAULT_QUOTE].key;
    v->base_account = *c->a[VAULT_BASE].key;
    v->bump = bump;
    CHECK(pow10_u64(c->a[QUOTE_MINT].data[44], &v->quote_unit), OVERFLOW);
    CHECK(c->a[BASE_MINT].data[44] <= 9 && pow10_u64(c->a[BASE_MINT].data[44], &v->unit), WRONG_MINT);
    return 0;
}

static NOINLINE u64 open_vault(const Context *c) {
    enum { PROTOCOL, PAYER, AGENT, LAST_VAULT, VAULT, VAULT_QUOTE, VAULT_BASE, QUOTE_MINT, BASE_MINT, TOKENS, SYSTEM, COUNT };
    CHECK(c->count == COUNT && c->size >= 8 + sizeof(Manifest), MALFORMED);
    const Manifest *manifest = (const Manifest *)c->args;
    Party x;
    TRY(load_protocol(c, PROTOCOL, TRUE, &x.protocol));
    TRY(carry_out(c, x.protocol, VAULT, sizeof(Manifest)));
    TRY(load_agent(c, PROTOCOL, AGENT, TRUE, &x.agent));
    TRY(check_token_program(c, TOKENS));
    TRY(check_system_program(c, SYSTEM));
    const Config *config = &x.protocol->config;
    TRY(check_manifest(config, manifest));
    CHECK(is_same(&manifest->agent, c->a[AGENT].key), WRONG_ADDRESS);
    TRY(check_mint(c->a + BASE_MINT));
    CHECK(is_same(&manifest->base_mint, c->a[BASE_MINT].key), WRONG_MINT);
    CHECK(is_same(&config->quote_mint, c->a[QUOTE_MINT].key), WRONG_MINT);
    TRY(check_last_vault(c, &x, LAST_VAULT));
    if (x.agent->bond < config->min_bond) return pass_over(c, x.protocol, BOND_TOO_SMALL);
    CHECK(manifest->reward_cap <= x.protocol->free, UNDERFUNDED);
    TRY(make_vault(c, manifest));
    x.vault = (Vault *)c->a[VAULT].data;
    x.vault->reward.next_epoch = epoch_at(config, c->now_s);
    x.vault->reward.vest_ends_s = x.vault->reward.vest_updated_s = c->now_s;
    TRY(reserve(x.protocol, &x.vault->reward, manifest->reward_cap));
    x.agent->vault = *c->a[VAULT].key;
    x.agent->vaults_opened += 1;
    VaultOpened event = {EVENT_VAULT_OPENED, *c->a[VAULT].key, *c->a[AGENT].key, {0}, manifest->reward_rate, manifest->reward_cap};
    sol_memcpy_(event.artefact_hash, manifest->artefact_hash, HASH);
    EMIT(event);
    return 0;
}

typedef struct {
    u64 kind;
    Key vault;
    u8 artefact_hash[HASH];
    u64 reward_cap;
} VaultUpdated;

/* A decision about a vault whose accounts begin with protocol, vault, agent, base feed, quote feed: carried out, and the
 * state derived. */
static NOINLINE u64 begin_decided(const Context *c, u64 count, u64 size, Party *x, Measure *m) {
    CHECK(c->count == count && c->size >= 8 + size, MALFORMED);
    TRY(load_party(c, 0, 1, 2, x));
    CHECK(c->a[0].is_writable, NOT_WRITABLE);
    TRY(carry_out(c, x->protocol, 1, size));
    return sync_at(c, x, 1, count == 8 ? 5 : 3, m);
}

static NOINLINE u64 update_vault(const Context *c) {
    enum { PROTOCOL, VAULT, AGENT, BASE_FEED, QUOTE_FEED, COUNT };
    enum { SIZE = HASH + sizeof(Limits) + 8 };
    Party x;
    Measure m;
    TRY(begin_decided(c, COUNT, SIZE, &x, &m));
    const Limits *limits = (const Limits *)(c->args + HASH);
    u64 cap = read_u64(c->args + HASH + sizeof(Limits));
    Manifest *manifest = &x.vault->manifest;
    Reward *r = &x.vault->reward;
    CHECK(r->is_live && x.vault->retired_s == 0, VAULT_HALTED);
    CHECK(!r->is_pending, RESULT_PENDING); /* it was frozen under the old cap */
    TRY(check_limits(limits, &m.config->ceilings));
    TRY(unreserve(x.protocol, r, manifest->reward_cap));
    sol_memcpy_(manifest->artefact_hash, c->args, HASH);
    sol_memcpy_(&manifest->limits, limits, sizeof(Limits));
    manifest->reward_cap = cap;
    TRY(reserve(x.protocol, r, cap));
    VaultUpdated event = {EVENT_VAULT_UPDATED, *c->a[VAULT].key, {0}, cap};
    sol_memcpy_(event.artefact_hash, c->args, HASH);
    EMIT(event);
    return 0;
}

typedef struct {
    u64 kind;
    Key vault;
    u64 amount, units, unit_price;
} Allocated;

static NOINLINE u64 allocate(const Context *c) {
    enum { PROTOCOL, VAULT, AGENT, TREASURY, VAULT_QUOTE, BASE_FEED, QUOTE_FEED, TOKENS, COUNT };
    Party x;
    Measure m;
    u64 units;
    i64 flow;
    TRY(begin_decided(c, COUNT, 8, &x, &m));
    u64 amount = read_u64(c->args);
    Vault *v = x.vault;
    CHECK(amount > 0, ZERO_AMOUNT);
    CHECK(m.is_priced, NOT_PRICED);
    CHECK(!(m.reasons & HALTED) && v->reward.is_live, VAULT_HALTED);
    TRY(check_token_program(c, TOKENS));
    TRY(check_own_token(c, TREASURY, &x.protocol->treasury, &m.config->quote_mint, c->a[PROTOCOL].key));
    TRY(check_own_token(c, VAULT_QUOTE, &v->quote_account, &m.config->quote_mint, c->a[VAULT].key));
    if (v->units == 0) {
        Guard *g = &v->guard;
        m.unit_price = g->peak = g->last_unit_price = g->before_today = g->before_yesterday = ONE;
    }
    CHECK(mul_div_down(amount, ONE, m.unit_price, &units), OVERFLOW);
    CHECK(add_u64(v->units, units, &v->units) && add_u64(v->quote_held, amount, &v->quote_held), OVERFLOW);
    CHECK(to_i64(amount, &flow) && sub_i64(v->net_flow, flow, &v->net_flow), OVERFLOW);
    SIGN_AS_PROTOCOL(signer, x.protocol);
    TRY(move_tokens(c->a + TREASURY, c->a + VAULT_QUOTE, c->a + PROTOCOL, amount, &signer));
    Allocated event = {EVENT_ALLOCATED, *c->a[VAULT].key, amount, units, m.unit_price};
    EMIT(event);
    return 0;
}

typedef struct {
    u64 kind;
    Key vault, mint;
    u64 amount, value, units;
} Recalled;

/* Derives no state and depends on no price: whatever is broken, what can be transferred can leave. */
static NOINLINE u64 take_out(Measure *m, int is_quote, u64 amount, u64 fallback_e8, Recalled *done) {
    Vault *v = m->vault;
    u64 price = m->price_e8 ? m->price_e8 : v->last_price_e8, total, base_value;
    i64 flow;
    if (!is_quote && m->price_e8 == 0) {
        CHECK(fallback_e8 <= v->last_price_e8, FALLBACK_TOO_HIGH);
        price = fallback_e8;
    }
    u64 *held = is_quote ? &v->quote_held : &v->base_held;
    done->amount = done->value = min_u64(amount, *held);
    if (!is_quote) CHECK(value_down(v, done->amount, price, &done->value), OVERFLOW);
    CHECK(value_down(v, v->base_held, price, &base_value) && add_u64(v->quote_held, base_value, &total), OVERFLOW);
    if (done->amount == 0) return 0;
    *held -= done->amount;
    if (total) CHECK(mul_div_down(v->units, done->value, total, &done->units), OVERFLOW);
    if (is_empty(v)) {
        done->units = v->units;
        v->emptied_s = m->now_s;
    }
    v->units -= done->units;
    CHECK(to_i64(done->value, &flow) && add_i64(v->net_flow, flow, &v->net_flow), OVERFLOW);
    return 0;
}

static NOINLINE u64 recall(const Context *c) {
    enum { PROTOCOL, VAULT, FROM, TO, BASE_FEED, QUOTE_FEED, TOKENS, COUNT };
    enum { SIZE = 32 + 16 };
    CHECK(c->count == COUNT && c->size >= 8 + SIZE, MALFORMED);
    Party x;
    Measure m;
    Recalled event;
    TRY(load_protocol(c, PROTOCOL, TRUE, &x.protocol));
    TRY(load_vault(c, PROTOCOL, VAULT, TRUE, &x.vault));
    x.agent = NULL;
    TRY(carry_out(c, x.protocol, VAULT, SIZE));
    measure_of(c, &x, &m);
    Vault *v = x.vault;
    TRY(check_feeds(v, m.config, c->a + BASE_FEED, c->a + QUOTE_FEED));
    read_prices(&m, c->a + BASE_FEED, c->a + QUOTE_FEED);
    sol_memset_(&event, 0, sizeof(event));
    sol_memcpy_(&event.mint, c->args, sizeof(Key));
    int is_quote = is_same(&event.mint, &m.config->quote_mint);
    CHECK(is_quote || is_same(&event.mint, &v->manifest.base_mint), WRONG_MINT);
    TRY(check_token_program(c, TOKENS));
    TRY(check_own_token(c, FROM, is_quote ? &v->quote_account : &v->base_account, &event.mint, c->a[VAULT].key));
    TRY(check_token(c->a + TO, &event.mint, c->a[PROTOCOL].key));
    /* Quote to the treasury; what else the protocol may have has accounts that anybody can make for it. */
    CHECK(!is_quote || is_same(c->a[TO].key, &x.protocol->treasury), WRONG_ADDRESS);
    CHECK(!is_same(c->a[TO].key, &x.protocol->rewards), WRONG_TOKEN_ACCOUNT);
    u64 amount = read_u64(c->args + 32), held = is_quote ? v->quote_held : v->base_held;
    if (held == 0) {
        event.amount = min_u64(amount, token_amount(c->a + FROM)); /* what is in no book: given, or written off */
    } else {
        TRY(take_out(&m, is_quote, amount, read_u64(c->args + 40), &event));
    }
    SIGN_AS_VAULT(signer, v);
    if (event.amount) TRY(move_tokens(c->a + FROM, c->a + TO, c->a + VAULT, event.amount, &signer));
    event.kind = EVENT_RECALLED;
    event.vault = *c->a[VAULT].key;
    EMIT(event);
    return 0;
}

typedef struct {
    u64 kind;
    Key vault;
    u64 amount;
} WrittenOff;

/* Base that is frozen, out of the books: a vault with it could never be empty. */
static NOINLINE u64 write_off(const Context *c) {
    enum { PROTOCOL, VAULT, AGENT, BASE_FEED, QUOTE_FEED, VAULT_BASE, COUNT };
    Party x;
    Measure m;
    CHECK(c->count == COUNT && c->size >= 8, MALFORMED);
    TRY(load_party(c, PROTOCOL, VAULT, AGENT, &x));
    CHECK(c->a[PROTOCOL].is_writable && c->a[VAULT].is_writable, NOT_WRITABLE);
    TRY(carry_out(c, x.protocol, VAULT, 0));
    Vault *v = x.vault;
    CHECK(v->base_held > 0, ZERO_AMOUNT);
    CHECK(is_same(c->a[VAULT_BASE].key, &v->base_account), WRONG_ADDRESS);
    CHECK(c->a[VAULT_BASE].data[108] == 2, NOT_FROZEN);
    WrittenOff event = {EVENT_WRITTEN_OFF, *c->a[VAULT].key, v->base_held};
    v->base_held = 0;
    if (is_empty(v)) {
        v->units = 0;
        v->emptied_s = c->now_s;
    }
    EMIT(event);
    return sync_at(c, &x, VAULT, BASE_FEED, &m);
}

static NOINLINE u64 resume(const Context *c) {
    enum { PROTOCOL, VAULT, AGENT, BASE_FEED, QUOTE_FEED, COUNT };
    Party x;
    Measure m;
    TRY(begin_decided(c, COUNT, 0, &x, &m));
    Guard *g = &x.vault->guard;
    CHECK(x.vault->retired_s == 0, VAULT_HALTED);
    CHECK(m.is_priced, NOT_PRICED);
    x.protocol->stops_ended += 1;
    g->halted_at_s = 0;
    g->is_drawdown = FALSE;
    g->peak = m.unit_price;
    g->reasons = m.reasons & ~(u32)(HALTED | DRAWDOWN);
    tell_state(c->a[VAULT].key, &m);
    return 0;
}

/* Whatever else is wrong with the vault. */
static void halt_now(Measure *m) {
    Guard *g = &m->vault->guard;
    if (g->halted_at_s == 0) g->halted_at_s = m->now_s;
    g->reasons = m->reasons | HALTED;
}

typedef struct PACKED {
    u64 kind;
    Key vault;
    u8 is_released;
} VaultRetired;

static NOINLINE u64 retire(const Context *c) {
    enum { PROTOCOL, VAULT, AGENT, BASE_FEED, QUOTE_FEED, COUNT };
    Party x;
    Measure m;
    TRY(begin_decided(c, COUNT, 0, &x, &m));
    CHECK(x.vault->retired_s == 0, VAULT_HALTED);
    x.vault->retired_s = c->now_s;
    halt_now(&m);
    tell_state(c->a[VAULT].key, &m);
    VaultRetired event = {EVENT_VAULT_RETIRED, *c->a[VAULT].key, FALSE};
    EMIT(event);
    return 0;
}

static NOINLINE u64 finish_retirement(const Context *c) {
    enum { PROTOCOL, VAULT, COUNT };
    TRY(expect(c, COUNT, 0));
    Protocol *p;
    Vault *v;
    TRY(load_protocol(c, PROTOCOL, TRUE, &p));
    TRY(load_vault(c, PROTOCOL, VAULT, TRUE, &v));
    Reward *r = &v->reward;
    CHECK(v->retired_s != 0 && r->is_live && is_empty(v), NOT_RETIRED);
    CHECK(r->next_epoch > 0 && window_start_s(&p->config, r->next_epoch - 1) >= v->emptied_s, NOT_RETIRED);
    CHECK(is_settled(r, &p->config, c->now_s), NOT_SETTLED);
    TRY(unreserve(p, r, v->manifest.reward_cap));
    r->is_live = FALSE;
    VaultRetired event = {EVENT_VAULT_RETIRED, *c->a[VAULT].key, TRUE};
    EMIT(event);
    return 0;
}

/* --- the protocol's own rules, by decision */

static NOINLINE u64 begin_protocol(const Context *c, u64 count, u64 size, u64 subject, Protocol **p) {
    CHECK(c->count == count && c->size >= 8 + size, MALFORMED);
    TRY(load_protocol(c, 0, TRUE, p));
    return carry_out(c, *p, subject, size);
}

static NOINLINE u64 set_guardians(const Context *c) {
    enum { PROTOCOL, COUNT };
    enum { GUARDIANS = MAX_GUARDIANS * ADDRESS };
    Protocol *p;
    TRY(begin_protocol(c, COUNT, GUARDIANS + 2, PROTOCOL, &p));
    u8 count = c->args[GUARDIANS], threshold = c->args[GUARDIANS + 1];
    TRY(check_guardians((const u8(*)[ADDRESS])c->args, count, threshold));
    sol_memcpy_(p->config.guardians, c->args, GUARDIANS);
    p->config.guardian_count = count;
    p->config.threshold = threshold;
    return 0;
}

static NOINLINE u64 set_ceilings(const Context *c) {
    enum { PROTOCOL, COUNT };
    Protocol *p;
    TRY(begin_protocol(c, COUNT, sizeof(Limits), PROTOCOL, &p));
    TRY(check_consistent((const Limits *)c->args));
    sol_memcpy_(&p->config.ceilings, c->args, sizeof(Limits));
    return 0;
}

static NOINLINE u64 set_budget(const Context *c) {
    enum { PROTOCOL, COUNT };
    Protocol *p;
    TRY(begin_protocol(c, COUNT, 8, PROTOCOL, &p));
    u64 budget = read_u64(c->args);
    CHECK(p->sum_of_caps <= budget, BUDGET_EXCEEDED);
    p->config.budget_per_epoch = budget;
    return 0;
}

typedef struct {
    u64 kind;
    Key protocol, destination;
    u64 amount;
} Paid;

static void tell_paid(const Context *c, u64 destination, u64 amount) {
    Paid event = {EVENT_PAID, *c->a[0].key, *c->a[destination].key, amount};
    EMIT(event);
}

static NOINLINE u64 pay(const Context *c) {
    enum { PROTOCOL, SOURCE, DESTINATION, TOKENS, COUNT };
    Protocol *p;
    TRY(begin_protocol(c, COUNT, 8, DESTINATION, &p));
    u64 amount = read_u64(c->args);
    CHECK(amount > 0, ZERO_AMOUNT);
    CHECK(!is_same(c->a[SOURCE].key, &p->rewards), WRONG_TOKEN_ACCOUNT);
    TRY(check_token_program(c, TOKENS));
    SIGN_AS_PROTOCOL(signer, p);
    TRY(move_tokens(c->a + SOURCE, c->a + DESTINATION, c->a + PROTOCOL, amount, &signer));
    tell_paid(c, DESTINATION, amount);
    return 0;
}

static NOINLINE u64 withdraw_rewards(const Context *c) {
    enum { PROTOCOL, REWARDS, DESTINATION, TOKENS, COUNT };
    Protocol *p;
    TRY(begin_protocol(c, COUNT, 8, DESTINATION, &p));
    u64 amount = read_u64(c->args);
    CHECK(amount > 0, ZERO_AMOUNT);
    CHECK(sub_u64(p->free, amount, &p->free), UNDERFUNDED);
    TRY(pay_out(c, p, PROTOCOL, REWARDS, amount));
    tell_paid(c, DESTINATION, amount);
    return 0;
}

typedef struct {
    u64 kind;
    Key protocol;
    u64 nonce;
    u8 digest[HASH];
} DecisionSkipped;

static NOINLINE u64 skip_decision(const Context *c) {
    enum { PROTOCOL, COUNT };
    CHECK(c->count == COUNT && c->size >= 8 + HASH, MALFORMED);
    Protocol *p;
    DecisionSkipped event;
    TRY(load_protocol(c, PROTOCOL, TRUE, &p));
    Attested x = {OF_THE_DAO, PROTOCOL, HASH, c->args, 0, {0}, {0}};
    TRY(check_decision(c, p, &x));
    sol_memcpy_(event.digest, x.digest, HASH);
    event.kind = EVENT_DECISION_SKIPPED;
    event.protocol = *c->a[PROTOCOL].key;
    event.nonce = p->nonce;
    p->nonce += 1;
    EMIT(event);
    return 0;
}

/* --- what the guardians may do alone: stop */

static NOINLINE u64 halt(const Context *c) {
    enum { PROTOCOL, VAULT, AGENT, BASE_FEED, QUOTE_FEED, COUNT };
    CHECK(c->count == COUNT, MALFORMED);
    Party x;
    Measure m;
    TRY(load_party(c, PROTOCOL, VAULT, AGENT, &x));
    TRY(check_guardians_alone(c, x.protocol, VAULT, 0));
    TRY(sync_at(c, &x, VAULT, BASE_FEED, &m));
    halt_now(&m);
    tell_state(c->a[VAULT].key, &m);
    return 0;
}

typedef struct {
    u64 kind;
    Key protocol;
    i64 until_s;
} ClaimsStopped;

static u64 stop_claims_until(const Context *c, Protocol *p, i64 until_s) {
    p->claims_stopped_until_s = until_s;
    ClaimsStopped event = {EVENT_CLAIMS_STOPPED, *c->a[0].key, until_s};
    EMIT(event);
    return 0;
}

static NOINLINE u64 stop_claims(const Context *c) {
    enum { PROTOCOL, COUNT };
    CHECK(c->count == COUNT && c->size >= 16, MALFORMED);
    Protocol *p;
    TRY(load_protocol(c, PROTOCOL, TRUE, &p));
    TRY(check_guardians_alone(c, p, PROTOCOL, 8));
    i64 until_s = (i64)read_u64(c->args);
    CHECK(until_s <= c->now_s + 30 * DAY_S, STOP_TOO_LONG);
    /* What guardians sign alone can be sent again, in any order: it only ever adds. */
    CHECK(until_s > p->claims_stopped_until_s, ALREADY_STOPPED);
    return stop_claims_until(c, p, until_s);
}

static NOINLINE u64 allow_claims(const Context *c) {
    enum { PROTOCOL, COUNT };
    Protocol *p;
    TRY(begin_protocol(c, COUNT, 0, PROTOCOL, &p));
    p->stops_ended += 1;
    return stop_claims_until(c, p, 0);
}

/* --- trading */

typedef struct PACKED {
    u64 kind;
    Key vault;
    u64 nonce;
    u8 is_buy;
    u32 reasons;
    u8 explanation_hash[HASH];
} TradeRefused;

typedef struct {
    u64 kind;
    Key vault, agent;
    u64 sequence, nonce, amount_in, amount_out;
    i64 shortfall;
    u64 price_e8, base_answer, base_round;
    i64 base_published_s;
    u64 quote_answer, quote_round;
    i64 quote_published_s;
    u64 value, unit_price, quote_held, base_held;
    i64 traded_at_s;
    u8 artefact_hash[HASH], explanation_hash[HASH], observation_hash[HASH];
    u8 is_buy, reserved[7];
    u8 head[HASH];
} TradeRecorded;
SIZE_CHECK(TradeRecorded, 8 + 336);

/* How Anchor marks an event that is the data of a call: sha256("anchor:event"), its first eight bytes, the last first. */
#define EVENT_TAG 0x1d9acb512ea545e4UL
typedef struct {
    u64 tag;
    TradeRecorded event;
} Entry;

enum {
    T_SIGNING_KEY, T_PROTOCOL, T_VAULT, T_AGENT, T_VAULT_QUOTE, T_VAULT_BASE, T_BASE_FEED, T_QUOTE_FEED, T_VENUE, T_POOL,
    T_POOL_QUOTE, T_POOL_BASE, T_TOKENS, T_LEDGER, T_COUNT
};

static NOINLINE u64 authorise(const Context *c, const Party *x, const Order *order) {
    static const u8 nothing[HASH] = {0};
    CHECK(is_same(&x->agent->signing_key, c->a[T_SIGNING_KEY].key), NOT_SIGNING_KEY);
    CHECK(c->now_s <= order->deadline_s, DEADLINE_PASSED);
    CHECK(order->nonce == x->vault->nonce, WRONG_NONCE);
    CHECK(is_equal(order->artefact_hash, x->vault->manifest.artefact_hash, HASH), WRONG_ARTEFACT);
    CHECK(!is_equal(order->explanation_hash, nothing, HASH), UNEXPLAINED);
    CHECK(!is_equal(order->observation_hash, nothing, HASH), UNEXPLAINED);
    CHECK(order->amount_in > 0, ZERO_AMOUNT);
    return 0;
}

static NOINLINE u64 check_both_tokens(const Context *c, const Party *x) {
    const Key *vault = c->a[T_VAULT].key;
    TRY(check_own_token(c, T_VAULT_QUOTE, &x->vault->quote_account, &x->protocol->config.quote_mint, vault));
    return check_own_token(c, T_VAULT_BASE, &x->vault->base_account, &x->vault->manifest.base_mint, vault);
}

/* The interface of a venue: marketflow_pool.json, instruction `swap`. */
#define VENUE_SWAP 0xc88775e1919ec6f8UL /* sha256("global:swap"), its first eight bytes */
typedef struct PACKED {
    u64 kind, amount_in, least_out;
    u8 is_buy;
} SwapCall;

/* Spent is what left the vault's account, received what arrived: nothing is believed of what the venue says. It has the
 * vault's signature while it is called, so afterwards both accounts must be as they were but for the two amounts. */
static NOINLINE u64 swap(const Context *c, const Party *x, const Order *order, Swap *s) {
    const Account *quote = c->a + T_VAULT_QUOTE, *base = c->a + T_VAULT_BASE;
    const Account *in = order->is_buy ? quote : base, *out = order->is_buy ? base : quote;
    CHECK(is_same(c->a[T_VENUE].key, &x->vault->manifest.venue) && c->a[T_VENUE].is_executable, WRONG_PROGRAM);
    CHECK(is_same(c->a[T_POOL].key, &x->vault->manifest.pool), WRONG_ADDRESS);
    CHECK(is_same(c->a[T_POOL].owner, c->a[T_VENUE].key), WRONG_OWNER);
    CHECK(is_same(c->a[T_LEDGER].key, c->program), WRONG_PROGRAM);
    TRY(check_token_program(c, T_TOKENS));
    TRY(check_both_tokens(c, x));
    u64 in_before = token_amount(in), out_before = token_amount(out);
    SwapCall data = {VENUE_SWAP, order->amount_in, order->least_out, order->is_buy};
    Call call = {
        c->a[T_VENUE].key,
        {c->a + T_VAULT, c->a + T_POOL, quote, base, c->a + T_POOL_QUOTE, c->a + T_POOL_BASE, c->a + T_TOKENS},
        {SIGNS | STAYS, 0, 0, 0, 0, 0, STAYS}, 7, (const u8 *)&data, sizeof(data),
    };
    SIGN_AS_VAULT(signer, x->vault);
    TRY(invoke(&call, &signer));
    CHECK(check_both_tokens(c, x) == 0, VENUE_OVERREACHED);
    CHECK(sub_u64(in_before, token_amount(in), &s->spent) && s->spent <= order->amount_in, VENUE_OVERREACHED);
    CHECK(sub_u64(token_amount(out), out_before, &s->received), VENUE_OVERREACHED);
    CHECK(s->received >= order->least_out, SHORT_PAID);
    CHECK(s->spent > 0 && s->received > 0, ZERO_AMOUNT);
    return 0;
}

/* A log is cut when it is full, and whoever calls can fill it: an entry must not be lost that way. So it is the data of a
 * call of this program by itself, which transactions keep whole, with the vault's signature, which nobody else has. */
static NOINLINE u64 record(const Context *c, const Measure *m, const Order *order, const Swap *s) {
    Vault *v = m->vault;
    Entry entry;
    TradeRecorded *e = &entry.event;
    entry.tag = EVENT_TAG;
    e->kind = EVENT_TRADE_RECORDED;
    e->vault = *c->a[T_VAULT].key;
    e->agent = *c->a[T_AGENT].key;
    e->sequence = v->sequence;
    e->nonce = order->nonce;
    e->amount_in = s->spent;
    e->amount_out = s->received;
    e->shortfall = s->shortfall;
    e->price_e8 = m->price_e8;
    e->base_answer = m->base.answer;
    e->base_round = m->base.round;
    e->base_published_s = m->base.published_s;
    e->quote_answer = m->quote.answer;
    e->quote_round = m->quote.round;
    e->quote_published_s = m->quote.published_s;
    e->value = m->value;
    e->unit_price = m->unit_price;
    e->quote_held = v->quote_held;
    e->base_held = v->base_held;
    e->traded_at_s = m->now_s;
    sol_memcpy_(e->artefact_hash, order->artefact_hash, 3 * HASH);
    sol_memset_(&e->is_buy, 0, 8);
    e->is_buy = order->is_buy;
    Bytes parts[2] = {{v->head, HASH}, {&e->vault, sizeof(*e) - 8 - HASH}};
    sol_sha256(parts, 2, e->head);
    sol_memcpy_(v->head, e->head, HASH);
    v->sequence += 1;
    SIGN_AS_VAULT(signer, v);
    Call call = {c->program, {c->a + T_VAULT}, {SIGNS | STAYS}, 1, (const u8 *)&entry, sizeof(entry)};
    return invoke(&call, &signer);
}

/* That call: nothing is done, the data is what matters. */
static NOINLINE u64 keep_entry(const Context *c) {
    CHECK(c->count == 1, MALFORMED);
    TRY(check_signer(c->a));
    return load(c, 0, ACCOUNT_VAULT, sizeof(Vault), FALSE);
}

static NOINLINE void refuse(const Context *c, const Order *order, u32 reasons) {
    TradeRefused event = {EVENT_TRADE_REFUSED, *c->a[T_VAULT].key, order->nonce, order->is_buy, reasons, {0}};
    sol_memcpy_(event.explanation_hash, order->explanation_hash, HASH);
    EMIT(event);
}

static NOINLINE u64 trade(const Context *c) {
    TRY(expect(c, T_COUNT, sizeof(Order)));
    const Order *order = (const Order *)c->args;
    Party x;
    Measure m;
    Swap s;
    TRY(check_signer(c->a + T_SIGNING_KEY));
    CHECK(order->is_buy <= 1 && *(const u64 *)&order->is_buy <= 1, MALFORMED);
    TRY(load_party(c, T_PROTOCOL, T_VAULT, T_AGENT, &x));
    TRY(sync_at(c, &x, T_VAULT, T_BASE_FEED, &m));
    TRY(authorise(c, &x, order));
    u32 reasons = m.reasons | (m.price_e8 ? 0 : PRICE_MISSING);
    if ((reasons & (HALTED | QUOTE_UNHEALTHY)) || m.price_e8 == 0 || (order->is_buy && reasons)) {
        refuse(c, order, reasons);
        return 0;
    }
    CHECK(order->amount_in <= (order->is_buy ? x.vault->quote_held : x.vault->base_held), INSUFFICIENT_HOLDINGS);
    TRY(swap(c, &x, order, &s));
    TRY(settle_swap(&m, order->is_buy, &s));
    x.vault->nonce += 1;
    return record(c, &m, order, &s);
}

static NOINLINE u64 observe_vault(const Context *c) {
    enum { PROTOCOL, VAULT, AGENT, BASE_FEED, QUOTE_FEED, COUNT };
    TRY(expect(c, COUNT, 0));
    Party x;
    Measure m;
    TRY(load_party(c, PROTOCOL, VAULT, AGENT, &x));
    return sync_at(c, &x, VAULT, BASE_FEED, &m);
}

/* --- settlement and rewards */

typedef struct PACKED {
    u64 kind;
    Key vault;
    u32 epoch;
    i64 move;
    u8 is_missed, is_by_decision;
} WindowClosed;

static void tell_closed(const Key *vault, const Reward *r, i64 move, int is_missed, int is_by_decision) {
    WindowClosed event = {EVENT_WINDOW_CLOSED, *vault, r->next_epoch - 1, move, (u8)is_missed, (u8)is_by_decision};
    EMIT(event);
}

/* The vault is its agent's last: a result of an earlier one could not be applied. */
static u64 check_last(const Context *c, const Party *x, u64 vault) {
    return is_same(&x->agent->vault, c->a[vault].key) ? 0 : NOTHING_TO_CLOSE;
}

static NOINLINE u64 close(const Context *c) {
    enum { PROTOCOL, VAULT, AGENT, COUNT };
    TRY(expect(c, COUNT, 0));
    Party x;
    i64 move;
    TRY(load_party(c, PROTOCOL, VAULT, AGENT, &x));
    CHECK(c->a[PROTOCOL].is_writable && c->a[VAULT].is_writable, NOT_WRITABLE);
    TRY(check_last(c, &x, VAULT));
    u32 next = x.vault->reward.next_epoch;
    TRY(close_window(x.protocol, x.vault, c->now_s, &move));
    tell_closed(c->a[VAULT].key, &x.vault->reward, move, next + 1 < x.vault->reward.next_epoch, FALSE);
    return 0;
}

static NOINLINE u64 close_by_decision(const Context *c) {
    enum { PROTOCOL, VAULT, AGENT, COUNT };
    CHECK(c->count == COUNT && c->size >= 16, MALFORMED);
    Party x;
    u32 due;
    TRY(load_party(c, PROTOCOL, VAULT, AGENT, &x));
    CHECK(c->a[PROTOCOL].is_writable && c->a[VAULT].is_writable, NOT_WRITABLE);
    TRY(carry_out(c, x.protocol, VAULT, 8));
    TRY(check_last(c, &x, VAULT));
    i64 move = (i64)read_u64(c->args);
    Reward *r = &x.vault->reward;
    CHECK(!r->is_pending, RESULT_PENDING); /* anybody can apply it: no reason to pass over what the DAO wants */
    u64 error = check_due(r, &x.protocol->config, c->now_s, &due);
    if (error) return pass_over(c, x.protocol, error);
    int is_observed = r->window_epoch == due - 1 && r->window_observations > 0;
    if (is_observed || due - r->next_epoch < x.protocol->config.max_unsettled) return pass_over(c, x.protocol, NOT_OVERDUE);
    CHECK(move <= 0 && move != (i64)(1UL << 63), MOVE_MUST_NOT_PAY);
    freeze(r, due, move);
    tell_closed(c->a[VAULT].key, r, move, TRUE, TRUE);
    return 0;
}

typedef struct {
    u64 kind;
    Key vault, agent;
    i64 move;
    u64 reward;
    i64 credited;
} Rewarded;

typedef struct {
    u64 kind;
    Key vault, agent;
    i64 move;
    u64 from_unclaimed, from_bond;
    i64 credited;
} ClawedBack;

static NOINLINE u64 reward_agent(const Context *c) {
    enum { PROTOCOL, AGENT, VAULT, COUNT };
    TRY(expect(c, COUNT, 8));
    Party x;
    Applied done;
    i64 pnl = *(const i64 *)c->args;
    TRY(load_party(c, PROTOCOL, VAULT, AGENT, &x));
    for (u64 i = 0; i < COUNT; i++) TRY(check_writable(c->a + i));
    Reward *r = &x.vault->reward;
    CHECK(r->is_pending, NO_RESULT);
    CHECK(pnl == r->pending_move, PNL_MISMATCH);
    TRY(apply_result(x.protocol, x.vault, x.agent, c->now_s, &done));
    if (pnl > 0) {
        Rewarded event = {EVENT_REWARDED, *c->a[VAULT].key, *c->a[AGENT].key, pnl, done.reward, r->credited};
        EMIT(event);
    } else {
        ClawedBack event = {
            EVENT_CLAWED_BACK, *c->a[VAULT].key, *c->a[AGENT].key, pnl, done.from_unclaimed, done.from_bond, r->credited,
        };
        EMIT(event);
    }
    return 0;
}

typedef struct {
    u64 kind;
    Key vault, agent, destination;
    u64 amount;
} Claimed;

static NOINLINE u64 claim(const Context *c) {
    enum { PROTOCOL, VAULT, AGENT, BASE_FEED, QUOTE_FEED, REWARDS, DESTINATION, TOKENS, COUNT };
    TRY(expect(c, COUNT, 0));
    Party x;
    Measure m;
    u64 amount;
    TRY(load_party(c, PROTOCOL, VAULT, AGENT, &x));
    TRY(check_writable(c->a + VAULT));
    CHECK(c->now_s >= x.protocol->claims_stopped_until_s, CLAIMS_STOPPED);
    Reward *r = &x.vault->reward;
    CHECK(is_settled(r, &x.protocol->config, c->now_s), NOT_SETTLED);
    TRY(check_token(c->a + DESTINATION, &x.protocol->config.reward_mint, &x.agent->controller));
    TRY(accrue(r, c->now_s));
    measure_of(c, &x, &m);
    TRY(excess_of(&m, c->a + BASE_FEED, c->a + QUOTE_FEED, &amount));
    amount = min_u64(amount, r->vested);
    CHECK(amount > 0, NOTHING_TO_CLAIM);
    r->vested -= amount;
    CHECK(add_u64(r->claimed, amount, &r->claimed), OVERFLOW);
    TRY(pay_out(c, x.protocol, PROTOCOL, REWARDS, amount));
    Claimed event = {EVENT_CLAIMED, *c->a[VAULT].key, *c->a[AGENT].key, *c->a[DESTINATION].key, amount};
    EMIT(event);
    return 0;
}

/* --- the door */

static u64 dispatch(const Context *c) {
    switch (*(const u64 *)c->data) {
    case IX_INITIALISE: return initialise(c);
    case IX_REGISTER_AGENT: return register_agent(c);
    case IX_SET_SIGNING_KEY: return set_signing_key(c);
    case IX_DEPOSIT_BOND: return deposit_bond(c);
    case IX_WITHDRAW_BOND: return withdraw_bond(c);
    case IX_FUND_REWARDS: return fund_rewards(c);
    case IX_OPEN_VAULT: return open_vault(c);
    case IX_UPDATE_VAULT: return update_vault(c);
    case IX_ALLOCATE: return allocate(c);
    case IX_RECALL: return recall(c);
    case IX_WRITE_OFF: return write_off(c);
    case IX_RESUME: return resume(c);
    case IX_RETIRE: return retire(c);
    case IX_FINISH_RETIREMENT: return finish_retirement(c);
    case IX_CLOSE_BY_DECISION: return close_by_decision(c);
    case IX_SET_GUARDIANS: return set_guardians(c);
    case IX_SET_CEILINGS: return set_ceilings(c);
    case IX_SET_BUDGET: return set_budget(c);
    case IX_PAY: return pay(c);
    case IX_WITHDRAW_REWARDS: return withdraw_rewards(c);
    case IX_SKIP_DECISION: return skip_decision(c);
    case IX_HALT: return halt(c);
    case IX_STOP_CLAIMS: return stop_claims(c);
    case IX_ALLOW_CLAIMS: return allow_claims(c);
    case IX_TRADE: return trade(c);
    case IX_OBSERVE: return observe_vault(c);
    case IX_CLOSE_WINDOW: return close(c);
    case IX_REWARD_AGENT: return reward_agent(c);
    case IX_CLAIM: return claim(c);
    case EVENT_TAG: return keep_entry(c);
    default: return UNKNOWN_INSTRUCTION;
    }
}

extern u64 entrypoint(const u8 *input) {
    Account accounts[MAX_ACCOUNTS];
    Input found = {accounts, 0, NULL, 0, NULL};
    Clock clock;
    TRY(read_input(input, &found, MAX_ACCOUNTS));
    CHECK(found.size >= 8, UNKNOWN_INSTRUCTION);
    CHECK(sol_get_clock_sysvar(&clock) == 0 && clock.unix_timestamp >= 0, INVALID_DATA);
    Context c = {accounts, found.count, found.data, found.size, found.data + 8, found.program, clock.unix_timestamp};
    return dispatch(&c);
}
