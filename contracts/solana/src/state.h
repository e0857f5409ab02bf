/* What the program keeps, in accounts of its own. The layouts are Borsh's and have no holes, so Anchor's clients read them
 * by the IDL. Amounts: `quote` in base units of the quote mint, `wei` in base units of the reward mint, unit prices x 1e9,
 * times unix seconds, `_bps` 1/10,000. */
#ifndef STATE_H
#define STATE_H

#include "errors.h"
#include "math.h"

#define MAX_GUARDIANS 16
#define LEAST_PRICE_E8 10000UL /* below it, one part in 10,000 would be lost in rounding */
#define MAX_THRESHOLD 5 /* more signatures do not fit into a transaction */
#define ADDRESS 20 /* of an Ethereum account */
#define HASH 32
#define DAY_S 86400
/* Unit price when a vault's first capital arrives, and units for each base unit of quote. */
#define ONE 1000000000UL

enum { FEED_CHAINLINK = 1, FEED_PYTH = 2 };

/* Why a vault may only reduce: bits as in Reasons.sol. */
enum {
    DAY_LOSS = 1, DRAWDOWN = 2, COLLATERAL = 4, PRICE_MISSING = 16, UNSETTLED = 32, HALTED = 128, QUOTE_UNHEALTHY = 256
};

typedef struct {
    u32 max_position_bps, max_trade_slippage_bps, max_cumulative_slippage_bps, max_reduce_slippage_bps;
    u32 max_reduce_cumulative_slippage_bps, max_trades_per_day, max_daily_turnover_bps, max_daily_loss_bps;
    u32 max_drawdown_bps, hard_drawdown_bps;
} Limits;
SIZE_CHECK(Limits, 40);
#define LIMIT_COUNT 10

/* Where a price comes from, and when it is good enough. Bounds are in 1e-8 dollars, both included. */
typedef struct {
    Key source; /* the feed's account: of Pyth the one that its push oracle keeps */
    u32 kind, max_age_s;
    u32 max_confidence_bps; /* Pyth's half interval; Chainlink has none */
    u32 decimals;           /* Chainlink's answers have these. Pyth says its own exponent: here its shard */
    u64 least_e8, most_e8;
} Feed;
SIZE_CHECK(Feed, 64);

/* Everything that is decided when a protocol begins. Its hash is part of the protocol's address: whoever sends it, the same
 * words make the same protocol, and another's words another. */
typedef struct {
    Key cluster; /* Solana's own: the hash of its genesis. Only so that another cluster has other addresses */
    u64 evm_chain_id;
    u8 outbox[ADDRESS]; /* the contract whose decisions the guardians carry over */
    u8 threshold, guardian_count, reserved[2];
    u8 guardians[MAX_GUARDIANS][ADDRESS];
    Key quote_mint, reward_mint;
    Key chainlink, pyth; /* the programs that own feeds */
    Feed quote_feed;
    i64 genesis_s;
    u32 epoch_length_s, window_length_s, vesting_s, max_unsettled;
    u64 budget_per_epoch, max_reward_rate, min_bond;
    u32 slippage_decay_s, gap_allowance_bps;
    Limits ceilings;
} Config;
SIZE_CHECK(Config, 672);

typedef struct {
    u64 discriminator;
    Key id; /* sha256 of the first configuration: the seed of this account's address */
    Config config;
    Key treasury, rewards; /* token accounts */
    u64 nonce;             /* decisions carried out so far */
    u64 stops_ended;       /* by decision; what guardians sign alone is good until the next is */
    u64 sum_of_caps, free;
    i64 claims_stopped_until_s;
    u8 bump, reserved[7];
} Protocol;
SIZE_CHECK(Protocol, 824);

typedef struct {
    u64 discriminator;
    Key protocol, controller, signing_key;
    Key vault; /* the live one, or zeros */
    u64 bond;
    u64 vaults_opened;
    u8 bump, reserved[7];
} Agent;
SIZE_CHECK(Agent, 160);

/* What is voted on. */
typedef struct {
    u8 artefact_hash[HASH];
    Key agent, base_mint;
    Feed feed;
    Key venue, pool; /* the exchange's program, and its market of base and quote */
    Limits limits;
    u64 reward_rate; /* wei for a base unit of profit */
    u64 reward_cap;  /* wei in one epoch */
    u64 salt;
} Manifest;
SIZE_CHECK(Manifest, 288);

typedef struct {
    u64 level;
    i64 written_s;
} Bucket;

/* The guard's memory: Guard of StrategyVault.sol. */
typedef struct {
    u64 last_unit_price, peak, before_today, before_yesterday;
    u64 turnover_today;
    Bucket slippage, reduce_slippage;
    u32 day, trades_today;
    u32 breached_day; /* + 1; 0: never */
    u32 reasons;      /* as of the last call */
    i64 halted_at_s;  /* 0: is not */
    u8 is_drawdown, reserved[7];
} Guard;
SIZE_CHECK(Guard, 104);

/* The signed account: RewardPool.sol. What was rewarded less what was taken back is rate x credited, always. */
typedef struct {
    i64 credited;
    u64 earmark, unvested, vested;
    i64 vest_updated_s, vest_ends_s;
    u32 next_epoch;
    u8 is_live, is_pending, reserved[2];
    i64 pending_move;
    u32 window_epoch, window_observations;
    i64 window_lowest, window_highest;
    u64 rewarded, clawed_back, claimed;
} Reward;
SIZE_CHECK(Reward, 112);

typedef struct {
    u64 discriminator;
    Key protocol;
    Key id; /* sha256 of the manifest: the seed of this account's address */
    Manifest manifest;
    Key quote_account, base_account;
    u64 unit;       /* base units of one whole base token */
    u64 quote_unit; /* of one quote token */
    u64 quote_held, base_held, units;
    u64 last_price_e8; /* of the base token in quote tokens */
    i64 last_base_s, last_quote_s; /* when the newest prices used so far were published: an older one is none */
    i64 net_flow;      /* recalled less allocated */
    i64 emptied_s, retired_s; /* 0: never */
    u64 nonce;     /* the next order's */
    u64 sequence;  /* trades in the ledger */
    u8 head[HASH]; /* of the hash chain over them */
    Guard guard;
    Reward reward;
    u8 bump, reserved[7];
} Vault;
SIZE_CHECK(Vault, 8 + 64 + 288 + 64 + 13 * 8 + 32 + 104 + 112 + 8);

/* What is the agent's wish. */
typedef struct {
    u64 nonce;
    i64 deadline_s;
    u64 amount_in, least_out;
    u8 artefact_hash[HASH], explanation_hash[HASH], observation_hash[HASH];
    u8 is_buy, reserved[7];
} Order;
SIZE_CHECK(Order, 136);

/* A price as an oracle gave it. */
typedef struct {
    u64 price_e8;
    u64 round; /* Chainlink: the round's number. Pyth: when it was published */
    i64 published_s;
    u64 answer; /* as it was, positive */
} Price;

#endif
