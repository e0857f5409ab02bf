"""The ledger on Solana as a model: what StrategyVault.sol, RewardPool.sol and GuardMath.sol say, for one asset.

Integers only. Every method of `Ledger` is an instruction: it changes the books and says what happened in `events`, or
it raises `Refused` with the name of the program's error, and then nothing has changed. Amounts of quote and of the
reward token are in base units, unit prices x 1e9, prices x 1e8, times in unix seconds. What is only about which account
was sent (owners, addresses, signers) is for the attacks; here accounts are known by their keys.
"""

from __future__ import annotations

import copy
import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, NamedTuple

BPS = 10_000
DAY_S = 86_400
# A cluster's clock may lag behind the one that a price was published by.
AHEAD_S = 60
# Below it, one part in 10,000 would be lost in rounding.
LEAST_PRICE_E8 = 10_000
ONE = 10**9
PRICE_ONE = 10**8
MOST_U64, MOST_I64 = 2**64 - 1, 2**63 - 1
MOST_SIGNATURES, MOST_GUARDIANS, ADDRESS_SIZE = 5, 16, 20
LONGEST_STOP_S = 30 * DAY_S
NOTHING = bytes(32)

# Why a vault may only reduce (Reasons.sol).
DAY_LOSS, DRAWDOWN, COLLATERAL, PRICE_MISSING, UNSETTLED, HALTED, QUOTE_UNHEALTHY = 1, 2, 4, 16, 32, 128, 256

# An account's key: whatever the user of the model likes, if it tells accounts apart. NOBODY is the key of zeros.
Key = Any
NOBODY: Key = None

# What the token program and the runtime say, as the chain's world names it.
NOT_ENOUGH_TOKENS = "Error1"
SAME_ACCOUNT_TWICE = "InstructionErrorFieldless.InvalidArgument"


class Refused(Exception):
    """The program's error, by its name in the IDL."""


def check(condition: bool, error: str) -> None:
    """Raises what the program answers when a condition does not hold."""
    if not condition:
        raise Refused(error)


# --- arithmetic: what does not fit into 64 bits is refused


def u64(value: int) -> int:
    check(0 <= value <= MOST_U64, "Overflow")
    return value


def i64(value: int) -> int:
    check(-MOST_I64 - 1 <= value <= MOST_I64, "Overflow")
    return value


def mul_div_down(a: int, b: int, c: int) -> int:
    check(c != 0, "Overflow")
    return u64(a * b // c)


def mul_div_up(a: int, b: int, c: int) -> int:
    check(c != 0, "Overflow")
    return u64(-(-a * b // c))


def share_down(value: int, bps: int) -> int:
    return mul_div_down(value, bps, BPS)


def is_below_by(current: int, base: int, bps: int) -> bool:
    """Whether `current` is more than `bps` below `base`; exactly at the limit is within it."""
    return current * BPS < base * (BPS - min(bps, BPS))


def unit_price_down(value: int, units: int) -> int:
    """Value of one unit x 1e9; one for a vault without units."""
    return ONE if units == 0 else mul_div_down(value, ONE, units)


def saturating_sub(a: int, b: int) -> int:
    return max(0, a - b)


# --- what is decided


@dataclass(slots=True)
class Limits:
    max_position_bps: int
    max_trade_slippage_bps: int
    max_cumulative_slippage_bps: int
    max_reduce_slippage_bps: int
    max_reduce_cumulative_slippage_bps: int
    max_trades_per_day: int
    max_daily_turnover_bps: int
    max_daily_loss_bps: int
    max_drawdown_bps: int
    hard_drawdown_bps: int

    def strictest(self, other: Limits) -> Limits:
        """Of each limit the stricter."""
        return Limits(*(min(getattr(self, name), getattr(other, name)) for name in self.__slots__))

    def is_within(self, ceilings: Limits) -> bool:
        return self.strictest(ceilings) == self

    def is_consistent(self) -> bool:
        return (
            self.max_position_bps <= BPS
            and self.max_drawdown_bps < self.hard_drawdown_bps < BPS
            and self.max_daily_loss_bps < BPS
            and self.max_trade_slippage_bps <= self.max_reduce_slippage_bps < BPS
            and self.max_cumulative_slippage_bps + self.max_reduce_cumulative_slippage_bps < BPS
        )


CHAINLINK, PYTH = 1, 2


@dataclass(slots=True)
class Feed:
    # The account that carries it; of Pyth the one that its push oracle keeps for the feed and a shard.
    source: Key
    kind: int
    max_age_s: int
    max_confidence_bps: int
    decimals: int
    least_e8: int
    most_e8: int

    def is_sane(self) -> bool:
        return (
            self.kind in (CHAINLINK, PYTH)
            and self.max_age_s > 0
            and self.max_confidence_bps <= BPS
            and self.decimals <= (27 if self.kind == CHAINLINK else 0xFFFF)  # Pyth says its own: it is the shard
            and LEAST_PRICE_E8 <= self.least_e8 <= self.most_e8
        )


@dataclass(slots=True)
class Config:
    cluster: Key
    evm_chain_id: int
    outbox: bytes
    threshold: int
    guardian_count: int
    guardians: list[bytes]
    quote_mint: Key
    reward_mint: Key
    chainlink: Key
    pyth: Key
    quote_feed: Feed
    genesis_s: int
    epoch_length_s: int
    window_length_s: int
    vesting_s: int
    max_unsettled: int
    budget_per_epoch: int
    max_reward_rate: int
    min_bond: int
    slippage_decay_s: int
    gap_allowance_bps: int
    ceilings: Limits

    def is_sane(self) -> bool:
        return (
            are_guardians(self.guardians, self.guardian_count, self.threshold)
            and self.quote_feed.is_sane()
            and self.quote_mint != self.reward_mint
            and 0 <= self.genesis_s < 2**32
            and 0 < self.window_length_s < self.epoch_length_s
            and min(self.vesting_s, self.max_unsettled, self.max_reward_rate, self.slippage_decay_s) > 0
            and self.gap_allowance_bps <= BPS
        )


def are_guardians(guardians: Sequence[bytes], count: int, threshold: int) -> bool:
    """Different addresses in the first places, none behind them, and enough for the threshold."""
    if not 1 <= threshold <= min(count, MOST_SIGNATURES) or count > MOST_GUARDIANS:
        return False
    named, rest = guardians[:count], guardians[count:]
    nobody = bytes(ADDRESS_SIZE)
    return len(set(named)) == count and nobody not in named and all(place == nobody for place in rest)


@dataclass(slots=True)
class Manifest:
    artefact_hash: bytes
    agent: Key
    base_mint: Key
    feed: Feed
    venue: Key
    pool: Key
    limits: Limits
    # Wei for a base unit of profit, and wei in one epoch.
    reward_rate: int
    reward_cap: int
    salt: int


@dataclass(slots=True)
class Order:
    nonce: int
    deadline_s: int
    amount_in: int
    least_out: int
    artefact_hash: bytes
    explanation_hash: bytes
    observation_hash: bytes
    is_buy: bool


@dataclass(slots=True)
class Decision:
    """Who signed what. `is_intact`: the payload, the chain and so on are those that were signed."""

    nonce: int
    expires_s: int
    signers: tuple[int, ...]
    # 0: of the DAO's outbox. 1: of the guardians alone.
    kind: int = 0
    is_intact: bool = True


# --- prices


@dataclass(slots=True, frozen=True)
class Round:
    """A Chainlink account with its latest round."""

    account: Key
    round: int
    published_s: int
    answer: int
    decimals: int = 8


@dataclass(slots=True, frozen=True)
class Update:
    """A Pyth account."""

    account: Key
    price: int
    published_s: int
    confidence: int = 0
    exponent: int = -8
    is_full: bool = True
    # The address is the push oracle's for the shard and the feed that it tells of.
    is_of_its_feed: bool = True


class Feeds(NamedTuple):
    """The two price accounts of a call; None: nothing that the decided program owns."""

    base: Round | Update | None
    quote: Round | Update | None


@dataclass(slots=True)
class Price:
    price_e8: int = 0
    round: int = 0
    published_s: int = 0
    answer: int = 0


def read_price(account: Round | Update | None, feed: Feed, now_s: int) -> Price | None:
    """The price, or None when it is missing, old, of the future, uncertain, or out of bounds."""
    price = _read_chainlink(account, feed) if feed.kind == CHAINLINK else _read_pyth(account, feed)
    if price is None or not -AHEAD_S <= now_s - price.published_s <= feed.max_age_s:
        return None
    return price if feed.least_e8 <= price.price_e8 <= feed.most_e8 else None


def _read_chainlink(account: Round | Update | None, feed: Feed) -> Price | None:
    if not isinstance(account, Round) or account.decimals != feed.decimals:
        return None
    return _scaled(account.answer, feed.decimals, account.round, account.published_s)


def _read_pyth(account: Round | Update | None, feed: Feed) -> Price | None:
    if not isinstance(account, Update) or not account.is_full or not account.is_of_its_feed:
        return None
    if account.exponent > 0 or account.confidence > account.price * feed.max_confidence_bps // BPS:
        return None
    return _scaled(account.price, -account.exponent, account.published_s, account.published_s)


def _scaled(answer: int, decimals: int, number: int, published_s: int) -> Price | None:
    if not 0 < answer <= MOST_I64 or abs(decimals - 8) > 19:
        return None
    price_e8 = answer * PRICE_ONE // 10**decimals
    return Price(price_e8, number, published_s, answer) if price_e8 <= MOST_U64 else None


# --- what is kept


@dataclass(slots=True)
class Protocol:
    id: bytes
    config: Config
    treasury: Key
    rewards: Key
    nonce: int = 0
    sum_of_caps: int = 0
    free: int = 0
    claims_stopped_until_s: int = 0
    # By decision; what guardians sign alone is good until the next is.
    stops_ended: int = 0


@dataclass(slots=True)
class Agent:
    protocol: Key
    controller: Key
    signing_key: Key
    vault: Key = NOBODY
    bond: int = 0
    vaults_opened: int = 0


@dataclass(slots=True)
class Bucket:
    level: int = 0
    written_s: int = 0

    def decayed(self, cap: int, now_s: int, duration_s: int) -> int:
        """What is left of the sum: it loses cap / duration each second."""
        elapsed_s = now_s - self.written_s
        return 0 if elapsed_s >= duration_s else saturating_sub(self.level, mul_div_down(cap, elapsed_s, duration_s))


@dataclass(slots=True)
class Guard:
    last_unit_price: int = 0
    peak: int = 0
    before_today: int = 0
    before_yesterday: int = 0
    turnover_today: int = 0
    slippage: Bucket = field(default_factory=Bucket)
    reduce_slippage: Bucket = field(default_factory=Bucket)
    day: int = 0
    trades_today: int = 0
    # The day of the last breach + 1; 0: never.
    breached_day: int = 0
    reasons: int = 0
    halted_at_s: int = 0
    is_drawdown: bool = False

    def rolled(self, today: int) -> tuple[int, int]:
        """The last unit prices before today and before yesterday, as they are on that day."""
        if today == self.day:
            return self.before_today, self.before_yesterday
        is_next = today == self.day + 1
        return self.last_unit_price, self.before_today if is_next else self.last_unit_price


@dataclass(slots=True)
class Reward:
    credited: int = 0
    earmark: int = 0
    unvested: int = 0
    vested: int = 0
    vest_updated_s: int = 0
    vest_ends_s: int = 0
    next_epoch: int = 0
    is_live: bool = False
    is_pending: bool = False
    pending_move: int = 0
    window_epoch: int = 0
    window_observations: int = 0
    window_lowest: int = 0
    window_highest: int = 0
    rewarded: int = 0
    clawed_back: int = 0
    claimed: int = 0

    def required(self, rate: int, worst: int) -> int:
        """Wei that the worst case would take back; all there can be when it is more than that."""
        exposed = max(0, self.credited - worst)
        return MOST_U64 if exposed > MOST_I64 else min(MOST_U64, rate * exposed)

    def accrue(self, now_s: int) -> None:
        newly = self.unvested
        if now_s < self.vest_ends_s:
            newly = newly * (now_s - self.vest_updated_s) // (self.vest_ends_s - self.vest_updated_s)
        self.vested += newly
        self.unvested -= newly
        self.vest_updated_s = now_s

    def vest(self, amount: int, vesting_s: int, now_s: int) -> None:
        """What is vesting keeps its pace: the new end is the mean of the two, weighted by amount, rounded up."""
        if amount == 0:
            return
        self.accrue(now_s)
        total = u64(self.unvested + amount)
        remaining_s = saturating_sub(self.vest_ends_s, now_s)
        mean_s = -(-(self.unvested * remaining_s + amount * vesting_s) // total)
        self.unvested, self.vest_ends_s = total, now_s + mean_s

    def observe(self, epoch: int, profit: int) -> None:
        if self.window_observations == 0 or self.window_epoch != epoch:
            self.window_epoch, self.window_observations = epoch, 0
            self.window_lowest = self.window_highest = profit
        self.window_observations += 1
        self.window_lowest = min(self.window_lowest, profit)
        self.window_highest = max(self.window_highest, profit)

    def freeze(self, due: int, move: int) -> None:
        """A result of zero has nothing to apply: it is settled at once."""
        self.next_epoch, self.is_pending, self.pending_move = due + 1, move != 0, move


@dataclass(slots=True)
class Vault:
    protocol: Key
    id: bytes
    manifest: Manifest
    quote_account: Key
    base_account: Key
    # Base units of one whole base token, and of one quote token.
    unit: int
    quote_unit: int
    quote_held: int = 0
    base_held: int = 0
    units: int = 0
    last_price_e8: int = 0
    last_base_s: int = 0
    last_quote_s: int = 0
    # Recalled less allocated.
    net_flow: int = 0
    emptied_s: int = 0
    retired_s: int = 0
    nonce: int = 0
    sequence: int = 0
    head: bytes = NOTHING
    guard: Guard = field(default_factory=Guard)
    reward: Reward = field(default_factory=Reward)

    def value_down(self, amount: int, price_e8: int) -> int:
        return mul_div_down(amount, price_e8, self.unit * PRICE_ONE // self.quote_unit)

    def value_up(self, amount: int, price_e8: int) -> int:
        return mul_div_up(amount, price_e8, self.unit * PRICE_ONE // self.quote_unit)

    def is_empty(self) -> bool:
        return self.quote_held == 0 and self.base_held == 0


@dataclass(slots=True)
class Tokens:
    """A token account."""

    mint: Key
    owner: Key
    amount: int = 0
    is_frozen: bool = False


@dataclass(slots=True)
class Market:
    """The pool program's market: what it pays follows from its two token accounts."""

    quote_account: Key
    base_account: Key
    fee_bps: int

    def amount_out(self, in_reserve: int, out_reserve: int, amount_in: int) -> int:
        check(in_reserve > 0 and out_reserve > 0, "ZeroAmount")
        kept = mul_div_down(amount_in, BPS - self.fee_bps, BPS)
        return mul_div_down(out_reserve, kept, u64(in_reserve + kept))


@dataclass(slots=True)
class Measure:
    """What one call knows of a vault."""

    price_e8: int  # of the base token in quote tokens; 0: nobody knows
    base: Price
    quote: Price
    is_quote_healthy: bool
    is_priced: bool = False
    is_day_lost: bool = False
    value: int = 0
    unit_price: int = 0
    peak: int = 0
    reference: int = 0
    profit: int = 0
    worst_profit: int = 0
    reasons: int = 0


class Schedule:
    """Epochs, and the window behind each in which its result is observed."""

    def __init__(self, config: Config) -> None:
        self.genesis_s, self.epoch_s, self.window_s = config.genesis_s, config.epoch_length_s, config.window_length_s

    def epoch_at(self, at_s: int) -> int:
        return 0 if at_s < self.genesis_s else (at_s - self.genesis_s) // self.epoch_s

    def window_start_s(self, epoch: int) -> int:
        return self.genesis_s + (epoch + 1) * self.epoch_s

    def open_window(self, now_s: int) -> int | None:
        """The epoch whose window is open."""
        last = self.epoch_at(now_s) - 1
        return last if last >= 0 and now_s < self.window_start_s(last) + self.window_s else None

    def last_ended(self, now_s: int) -> int | None:
        """The last epoch whose window is over."""
        last = self.epoch_at(now_s) - 1
        if self.open_window(now_s) is not None:
            last -= 1
        return last if last >= 0 else None

    def is_settled(self, r: Reward, now_s: int) -> bool:
        """A released account owes no windows; only a frozen result can be outstanding."""
        due = self.last_ended(now_s)
        return not r.is_pending and (not r.is_live or due is None or r.next_epoch > due)


Event = tuple[str, dict[str, Any]]


def copied(value: Any) -> Any:
    """A copy of books, with the keys that they have: those never change."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if is_dataclass(value):
        return type(value)(*(copied(getattr(value, name)) for name in type(value).__slots__))  # type: ignore[attr-defined]
    return list(value) if isinstance(value, list) else value


class Ledger:
    """One protocol, the agents and vaults of it, and the token accounts that matter to them.

    Args:
        key: The protocol's.
        now_s: What the chain's clock says.
    """

    def __init__(self, key: Key, now_s: int) -> None:
        self.key, self.now_s = key, now_s
        self.protocol: Protocol | None = None
        self.agents: dict[Key, Agent] = {}
        self.vaults: dict[Key, Vault] = {}
        self.tokens: dict[Key, Tokens] = {}
        self.markets: dict[Key, Market] = {}
        self.events: list[Event] = []

    def run(self, instruction: Callable[..., None], *args: Any, **kwargs: Any) -> str:
        """Does one of the instructions. The error's name, and then nothing has changed; "" when it went well."""
        before, self.events = self._kept(), []
        try:
            instruction(*args, **kwargs)
        except Refused as refused:
            vars(self).update(before, events=[])
            return str(refused)
        return ""

    def would(self, instruction: Callable[..., None], *args: Any, **kwargs: Any) -> str:
        """What it would answer: an error's name, or that of the last event. Nothing changes."""
        before = self._kept()
        answer = self.run(instruction, *args, **kwargs) or (self.events[-1][0] if self.events else "")
        vars(self).update(before, events=[])
        return answer

    def _kept(self) -> dict[str, Any]:
        return {name: copied(getattr(self, name)) for name in ("protocol", "agents", "vaults", "tokens")}

    def _tell(self, name: str, **fields: Any) -> dict[str, Any]:
        self.events.append((name, fields))
        return fields

    # --- what every instruction looks up

    def _protocol(self) -> Protocol:
        check(self.protocol is not None, "WrongOwner")  # an account that nobody has made is the system's
        return self.protocol  # type: ignore[return-value]

    def _agent(self, key: Key) -> Agent:
        check(key in self.agents, "WrongOwner")
        return self.agents[key]

    def _vault(self, key: Key) -> Vault:
        check(key in self.vaults, "WrongOwner")
        return self.vaults[key]

    def _party(self, vault: Key, agent: Key) -> tuple[Protocol, Vault, Agent]:
        p, v, a = self._protocol(), self._vault(vault), self._agent(agent)
        check(v.manifest.agent == agent, "WrongAddress")
        return p, v, a

    def _schedule(self) -> Schedule:
        return Schedule(self._protocol().config)

    def _move_tokens(self, source: Key, destination: Key, amount: int) -> None:
        check(self.tokens[source].amount >= amount, NOT_ENOUGH_TOKENS)
        self.tokens[source].amount -= amount
        self.tokens[destination].amount = u64(self.tokens[destination].amount + amount)

    # --- decisions

    def _check_signatures(self, d: Decision, kind: int) -> None:
        """Each signature is of the guardian that it names, over what is carried out now; and there are enough."""
        p = self._protocol()
        is_signed = d.is_intact and d.kind == kind and d.nonce == (p.stops_ended if kind else p.nonce)
        least = 0
        for guardian in d.signers:
            check(least <= guardian < p.config.guardian_count and is_signed, "BadAttestation")
            least = guardian + 1
        check(len(d.signers) >= p.config.threshold, "NotEnoughGuardians")

    def _carry_out(self, d: Decision, subject: Key) -> None:
        p = self._protocol()
        check(len(d.signers) <= MOST_SIGNATURES, "Malformed")
        check(d.expires_s >= self.now_s, "DecisionExpired")
        self._check_signatures(d, kind=0)
        self._tell("DecisionCarriedOut", protocol=self.key, nonce=p.nonce, subject=subject)
        p.nonce += 1

    def _check_guardians_alone(self, d: Decision) -> None:
        check(len(d.signers) <= MOST_SIGNATURES, "Malformed")
        check(d.expires_s >= self.now_s, "DecisionExpired")
        self._check_signatures(d, kind=1)

    def _pass_over(self, error: str) -> None:
        """What came too late for what it is about is over, or it would hold up all that come after it."""
        p = self._protocol()
        self._tell("DecisionMoot", protocol=self.key, nonce=p.nonce - 1, error=error)

    def skip_decision(self, d: Decision) -> None:
        p = self._protocol()
        check(d.expires_s < self.now_s, "DecisionNotExpired")
        self._check_signatures(d, kind=0)
        self._tell("DecisionSkipped", protocol=self.key, nonce=p.nonce)
        p.nonce += 1

    # --- deriving the state

    def _limits(self, v: Vault) -> Limits:
        """The stricter of what was voted for the vault and of what binds everybody now."""
        return v.manifest.limits.strictest(self._protocol().config.ceilings)

    def _worst_profit(self, v: Vault, unit_price: int, peak: int) -> int:
        """The least that the capital can be worth when the guard has done its work, after a further gap."""
        worst = mul_div_down(v.units, peak, ONE)
        worst = share_down(worst, BPS - self._limits(v).hard_drawdown_bps)
        worst = share_down(worst, BPS - self._protocol().config.gap_allowance_bps)
        return i64(i64(min(worst, mul_div_down(v.units, unit_price, ONE))) + v.net_flow)

    def _read_prices(self, v: Vault, feeds: Feeds) -> Measure:
        """Another account than was decided is an error; what is older than the newest that was used is no price."""
        for account, feed in ((feeds.base, v.manifest.feed), (feeds.quote, self._protocol().config.quote_feed)):
            check(account is None or account.account == feed.source, "WrongAddress")
        quote = read_price(feeds.quote, self._protocol().config.quote_feed, self.now_s)
        if quote is None or quote.published_s < v.last_quote_s:
            return Measure(0, Price(), Price(), is_quote_healthy=False)
        base = read_price(feeds.base, v.manifest.feed, self.now_s)
        if base is None or base.published_s < v.last_base_s:
            return Measure(0, Price(), quote, is_quote_healthy=True)
        price_e8 = base.price_e8 * PRICE_ONE // quote.price_e8
        return Measure(price_e8 if price_e8 <= MOST_U64 else 0, base, quote, is_quote_healthy=True)

    def _derive(self, v: Vault, a: Agent, feeds: Feeds) -> Measure:
        """Everything but the reward account's opinion. A missing price is a reason, never an error."""
        m, g, limits = self._read_prices(v, feeds), v.guard, self._limits(v)
        today = self.now_s // DAY_S
        m.is_priced = m.is_quote_healthy and (m.price_e8 > 0 or v.base_held == 0)
        # What has no price counts at its last one for the limits, and for nothing in the value.
        guarded_value = u64(v.quote_held + v.value_down(v.base_held, m.price_e8 or v.last_price_e8))
        unit_price = unit_price_down(guarded_value, v.units)
        m.value = guarded_value if m.price_e8 else v.quote_held
        m.unit_price = unit_price if m.is_priced else g.last_unit_price
        m.peak, m.reference = g.peak, max(g.rolled(today))
        if v.units > 0:
            if m.is_priced:
                m.peak = max(m.peak, unit_price)
            m.is_day_lost = is_below_by(unit_price, m.reference, limits.max_daily_loss_bps)
            if is_below_by(unit_price, m.peak, limits.max_drawdown_bps):
                m.reasons |= DRAWDOWN
            if is_below_by(unit_price, m.peak, limits.hard_drawdown_bps):
                m.reasons |= HALTED
        for condition, reason in (
            (m.is_day_lost or g.breached_day == today + 1, DAY_LOSS),
            (g.is_drawdown, DRAWDOWN),
            (g.halted_at_s != 0, HALTED),
            (a.bond < self._protocol().config.min_bond, COLLATERAL),
            (not m.is_quote_healthy, QUOTE_UNHEALTHY),
            (not m.is_priced, PRICE_MISSING),
        ):
            m.reasons |= reason if condition else 0
        m.profit = i64(i64(m.value) + v.net_flow)
        m.worst_profit = self._worst_profit(v, m.unit_price, m.peak)
        return m

    def _sync(self, key: Key, feeds: Feeds) -> Measure:
        """Derives the state and keeps it; inside a window the profit, too."""
        v = self.vaults[key]
        a, r, before = self.agents[v.manifest.agent], v.reward, v.guard.reasons
        m, schedule = self._derive(v, a, feeds), self._schedule()
        epoch = schedule.open_window(self.now_s)
        if m.is_priced and epoch is not None and epoch >= r.next_epoch:
            r.observe(epoch, m.profit)
        if not schedule.is_settled(r, self.now_s):
            m.reasons |= UNSETTLED
        if u64(r.unvested + r.vested + a.bond) < r.required(v.manifest.reward_rate, m.worst_profit):
            m.reasons |= COLLATERAL
        self._persist(v, m)
        if v.guard.reasons != before:
            self._tell_state(key, m)
        return m

    def _persist(self, v: Vault, m: Measure) -> None:
        g, today = v.guard, self.now_s // DAY_S
        if today != g.day:
            g.before_today, g.before_yesterday = g.rolled(today)
            g.day, g.trades_today, g.turnover_today = today, 0, 0
        if m.is_day_lost:
            g.breached_day = today + 1
        if m.reasons & DRAWDOWN:
            g.is_drawdown = True
        if m.reasons & HALTED and g.halted_at_s == 0:
            g.halted_at_s = self.now_s
        if m.is_priced and v.units > 0:
            g.peak, g.last_unit_price = m.peak, m.unit_price
        if m.is_quote_healthy:
            v.last_quote_s = m.quote.published_s
        if m.price_e8:
            v.last_price_e8, v.last_base_s = m.price_e8, m.base.published_s
        g.reasons = m.reasons

    def _tell_state(self, vault: Key, m: Measure) -> None:
        self._tell("StateChanged", vault=vault, reasons=self.vaults[vault].guard.reasons, unit_price=m.unit_price)

    # --- the signed account's money

    def _top_up(self, v: Vault) -> None:
        """Refills a live account's earmark; an underfunded pool fills what it can, and the account waits."""
        p, r = self._protocol(), v.reward
        if r.is_live:
            amount = min(saturating_sub(v.manifest.reward_cap, r.earmark), p.free)
            p.free -= amount
            r.earmark += amount

    def _reserve(self, v: Vault) -> None:
        p = self._protocol()
        p.sum_of_caps = u64(p.sum_of_caps + v.manifest.reward_cap)
        check(p.sum_of_caps <= p.config.budget_per_epoch, "BudgetExceeded")
        v.reward.is_live = True
        self._top_up(v)

    def _unreserve(self, v: Vault) -> None:
        p = self._protocol()
        p.sum_of_caps -= v.manifest.reward_cap
        p.free = u64(p.free + v.reward.earmark)
        v.reward.earmark = 0

    def _excess(self, v: Vault, a: Agent, feeds: Feeds) -> int:
        """Collateral beyond what the worst case would take back. Without a full price nobody knows, so all stays."""
        unit_price = v.guard.last_unit_price
        if v.reward.is_live:
            m = self._derive(v, a, feeds)
            if not m.is_priced:
                return 0
            unit_price = m.unit_price
        worst = self._worst_profit(v, unit_price, v.guard.peak)
        held = u64(v.reward.unvested + v.reward.vested + a.bond)
        return saturating_sub(held, v.reward.required(v.manifest.reward_rate, worst))

    # --- beginning

    def initialise(self, config: Config, quote_decimals: int, *, id: bytes, treasury: Key, rewards: Key) -> None:
        check(config.is_sane(), "BadConfig")
        check(config.ceilings.is_consistent(), "LimitsInconsistent")
        check(quote_decimals <= 8, "BadConfig")
        check(self.protocol is None, "AlreadyExists")
        self.protocol = Protocol(id, copy.deepcopy(config), treasury, rewards)
        self.tokens[treasury] = Tokens(config.quote_mint, self.key)
        self.tokens[rewards] = Tokens(config.reward_mint, self.key)
        self._tell("ProtocolInitialised", protocol=self.key, id=id)

    # --- agents

    def register_agent(self, key: Key, controller: Key, signing_key: Key) -> None:
        self._protocol()
        check(key not in self.agents, "AlreadyExists")
        self.agents[key] = Agent(self.key, controller, signing_key)
        self._tell("AgentRegistered", protocol=self.key, agent=key, controller=controller, signing_key=signing_key)

    def set_signing_key(self, key: Key, controller: Key, signing_key: Key) -> None:
        agent = self._agent(key)
        check(agent.controller == controller, "NotController")
        agent.signing_key = signing_key
        self._tell("SigningKeySet", agent=key, signing_key=signing_key)

    def deposit_bond(self, key: Key, source: Key, amount: int) -> None:
        p, agent = self._protocol(), self._agent(key)
        agent.bond = u64(agent.bond + amount)
        check(amount > 0, "ZeroAmount")
        self._move_tokens(source, p.rewards, amount)
        self._tell("BondChanged", agent=key, bond=agent.bond)

    def withdraw_bond(self, key: Key, controller: Key, vault: Key, feeds: Feeds, destination: Key, amount: int) -> None:
        p, agent = self._protocol(), self._agent(key)
        check(agent.controller == controller, "NotController")
        check(amount > 0, "ZeroAmount")
        check(amount <= self.releasable(key, vault, feeds), "BondTooSmall")
        agent.bond -= amount
        self._move_tokens(p.rewards, destination, amount)
        self._tell("BondChanged", agent=key, bond=agent.bond)

    def releasable(self, key: Key, vault: Key, feeds: Feeds) -> int:
        """What can leave an agent's bond: a live vault keeps the least."""
        p, agent = self._protocol(), self._agent(key)
        if agent.vault is NOBODY:
            return agent.bond
        check(agent.vault == vault, "WrongAddress")
        v = self._vault(vault)
        check(self._schedule().is_settled(v.reward, self.now_s), "NotSettled")
        kept = p.config.min_bond if v.reward.is_live else 0
        return min(self._excess(v, agent, feeds), saturating_sub(agent.bond, kept))

    def fund_rewards(self, source: Key, amount: int) -> None:
        p = self._protocol()
        p.free = u64(p.free + amount)
        check(amount > 0, "ZeroAmount")
        self._move_tokens(source, p.rewards, amount)
        self._tell("RewardsFunded", protocol=self.key, amount=amount, free=p.free)

    # --- strategies, by decision

    def open_vault(
        self, d: Decision, manifest: Manifest, *, key: Key, id: bytes, agent: Key, last_vault: Key,
        quote_account: Key, base_account: Key, quote_decimals: int, base_decimals: int,
    ) -> None:  # fmt: skip
        check(key != last_vault, SAME_ACCOUNT_TWICE)
        p = self._protocol()
        self._carry_out(d, key)
        a, config = self._agent(agent), p.config
        check(manifest.feed.is_sane(), "BadConfig")
        check(manifest.limits.is_within(config.ceilings), "LimitTooLoose")
        check(manifest.limits.is_consistent(), "LimitsInconsistent")
        check(0 < manifest.reward_rate <= config.max_reward_rate, "RateTooHigh")
        check(manifest.base_mint != config.quote_mint, "WrongMint")
        check(manifest.agent == agent, "WrongAddress")
        self._check_last_vault(a, last_vault)
        if a.bond < config.min_bond:
            self._pass_over("BondTooSmall")
            return
        check(manifest.reward_cap <= p.free, "Underfunded")
        check(key not in self.vaults, "AlreadyExists")
        check(base_decimals <= 9, "WrongMint")
        v = Vault(
            self.key, id, copy.deepcopy(manifest), quote_account, base_account,
            unit=10**base_decimals, quote_unit=10**quote_decimals,
        )  # fmt: skip
        self.vaults[key] = v
        self.tokens[quote_account] = Tokens(config.quote_mint, key)
        self.tokens[base_account] = Tokens(manifest.base_mint, key)
        v.reward.next_epoch = self._schedule().epoch_at(self.now_s)
        v.reward.vest_ends_s = v.reward.vest_updated_s = self.now_s
        self._reserve(v)
        a.vault = key
        a.vaults_opened += 1
        self._tell(
            "VaultOpened", vault=key, agent=agent, artefact_hash=manifest.artefact_hash,
            reward_rate=manifest.reward_rate, reward_cap=manifest.reward_cap,
        )  # fmt: skip

    def _check_last_vault(self, a: Agent, last_vault: Key) -> None:
        """It must be over: not live, no result to be applied, no debt."""
        if a.vault is NOBODY:
            return
        check(a.vault == last_vault, "WrongAddress")
        v = self._vault(last_vault)
        worst = self._worst_profit(v, v.guard.last_unit_price, v.guard.peak)
        check(not v.reward.is_live and not v.reward.is_pending and v.reward.credited <= worst, "AgentBusy")

    def _begin_decided(self, d: Decision, vault: Key, agent: Key, feeds: Feeds) -> tuple[Protocol, Vault, Measure]:
        p, v, _ = self._party(vault, agent)
        self._carry_out(d, vault)
        return p, v, self._sync(vault, feeds)

    def update_vault(
        self, d: Decision, vault: Key, agent: Key, feeds: Feeds, artefact_hash: bytes, limits: Limits, reward_cap: int
    ) -> None:
        p, v, _ = self._begin_decided(d, vault, agent, feeds)
        check(v.reward.is_live and v.retired_s == 0, "VaultHalted")
        check(not v.reward.is_pending, "ResultPending")  # it was frozen under the old cap
        check(limits.is_within(p.config.ceilings), "LimitTooLoose")
        check(limits.is_consistent(), "LimitsInconsistent")
        self._unreserve(v)
        v.manifest.artefact_hash, v.manifest.limits, v.manifest.reward_cap = artefact_hash, limits, reward_cap
        self._reserve(v)
        self._tell("VaultUpdated", vault=vault, artefact_hash=artefact_hash, reward_cap=reward_cap)

    def allocate(self, d: Decision, vault: Key, agent: Key, feeds: Feeds, amount: int) -> None:
        p, v, m = self._begin_decided(d, vault, agent, feeds)
        g = v.guard
        check(amount > 0, "ZeroAmount")
        check(m.is_priced, "NotPriced")
        check(not m.reasons & HALTED and v.reward.is_live, "VaultHalted")
        if v.units == 0:  # nothing has been gained or lost yet
            m.unit_price = g.peak = g.last_unit_price = g.before_today = g.before_yesterday = ONE
        units = mul_div_down(amount, ONE, m.unit_price)
        v.units, v.quote_held = u64(v.units + units), u64(v.quote_held + amount)
        v.net_flow = i64(v.net_flow - i64(amount))
        self._move_tokens(p.treasury, v.quote_account, amount)
        self._tell("Allocated", vault=vault, amount=amount, units=units, unit_price=m.unit_price)

    def recall(
        self,
        d: Decision,
        vault: Key,
        feeds: Feeds,
        source: Key,
        destination: Key,
        mint: Key,
        amount: int,
        fallback_e8: int,
    ) -> None:
        """Derives no state and depends on no price: whatever is broken, what can be transferred can leave."""
        p, v = self._protocol(), self._vault(vault)
        self._carry_out(d, vault)
        m, is_quote, to = self._read_prices(v, feeds), mint == p.config.quote_mint, self.tokens[destination]
        check(is_quote or mint == v.manifest.base_mint, "WrongMint")
        check(source == (v.quote_account if is_quote else v.base_account), "WrongAddress")
        check(not self.tokens[source].is_frozen, "WrongTokenAccount")
        check(to.mint == mint, "WrongMint")
        check(to.owner == self.key, "WrongTokenAccount")
        check(not is_quote or destination == p.treasury, "WrongAddress")
        check(destination != p.rewards, "WrongTokenAccount")
        held = v.quote_held if is_quote else v.base_held
        sent, value, units = min(amount, held or self.tokens[source].amount), 0, 0
        if held > 0:  # else what is in no book: given, or written off
            value, units = self._take_out(v, m, is_quote, sent, fallback_e8)
        self._move_tokens(source, destination, sent)
        self._tell("Recalled", vault=vault, mint=mint, amount=sent, value=value, units=units)

    def _take_out(self, v: Vault, m: Measure, is_quote: bool, sent: int, fallback_e8: int) -> tuple[int, int]:
        """What leaves the books, and the units of as much value."""
        price_e8 = m.price_e8 or v.last_price_e8
        if not is_quote and m.price_e8 == 0:
            check(fallback_e8 <= v.last_price_e8, "FallbackTooHigh")
            price_e8 = fallback_e8
        value = sent if is_quote else v.value_down(sent, price_e8)
        total = u64(v.quote_held + v.value_down(v.base_held, price_e8))
        if sent == 0:
            return value, 0
        units = mul_div_down(v.units, value, total) if total else 0
        if is_quote:
            v.quote_held -= sent
        else:
            v.base_held -= sent
        if v.is_empty():
            units, v.emptied_s = v.units, self.now_s
        v.units -= units
        v.net_flow = i64(v.net_flow + i64(value))
        return value, units

    def write_off(self, d: Decision, vault: Key, agent: Key, feeds: Feeds) -> None:
        """Base that is frozen, out of the books: a vault with it could never be empty."""
        _, v, _ = self._party(vault, agent)
        self._carry_out(d, vault)
        check(v.base_held > 0, "ZeroAmount")
        check(self.tokens[v.base_account].is_frozen, "NotFrozen")
        self._tell("WrittenOff", vault=vault, amount=v.base_held)
        v.base_held = 0
        if v.is_empty():
            v.units, v.emptied_s = 0, self.now_s
        self._sync(vault, feeds)

    def resume(self, d: Decision, vault: Key, agent: Key, feeds: Feeds) -> None:
        _, v, m = self._begin_decided(d, vault, agent, feeds)
        check(v.retired_s == 0, "VaultHalted")
        check(m.is_priced, "NotPriced")
        self._protocol().stops_ended += 1
        v.guard.halted_at_s, v.guard.is_drawdown, v.guard.peak = 0, False, m.unit_price
        v.guard.reasons = m.reasons & ~(HALTED | DRAWDOWN)
        self._tell_state(vault, m)

    def _halt_now(self, vault: Key, m: Measure) -> None:
        g = self.vaults[vault].guard
        g.halted_at_s = g.halted_at_s or self.now_s
        g.reasons = m.reasons | HALTED
        self._tell_state(vault, m)

    def retire(self, d: Decision, vault: Key, agent: Key, feeds: Feeds) -> None:
        _, v, m = self._begin_decided(d, vault, agent, feeds)
        check(v.retired_s == 0, "VaultHalted")
        v.retired_s = self.now_s
        self._halt_now(vault, m)
        self._tell("VaultRetired", vault=vault, is_released=False)

    def finish_retirement(self, vault: Key) -> None:
        """A window that began after the vault was emptied has been settled: its profit is final."""
        self._protocol()
        v, schedule = self._vault(vault), self._schedule()
        r = v.reward
        check(v.retired_s != 0 and r.is_live and v.is_empty(), "NotRetired")
        check(r.next_epoch > 0 and schedule.window_start_s(r.next_epoch - 1) >= v.emptied_s, "NotRetired")
        check(schedule.is_settled(r, self.now_s), "NotSettled")
        self._unreserve(v)
        r.is_live = False
        self._tell("VaultRetired", vault=vault, is_released=True)

    # --- the protocol's own rules, by decision

    def set_guardians(self, d: Decision, guardians: list[bytes], count: int, threshold: int) -> None:
        config = self._protocol().config
        self._carry_out(d, self.key)
        check(are_guardians(guardians, count, threshold), "BadConfig")
        config.guardians, config.guardian_count, config.threshold = guardians, count, threshold

    def set_ceilings(self, d: Decision, limits: Limits) -> None:
        config = self._protocol().config
        self._carry_out(d, self.key)
        check(limits.is_consistent(), "LimitsInconsistent")
        config.ceilings = limits

    def set_budget(self, d: Decision, budget_per_epoch: int) -> None:
        p = self._protocol()
        self._carry_out(d, self.key)
        check(p.sum_of_caps <= budget_per_epoch, "BudgetExceeded")
        p.config.budget_per_epoch = budget_per_epoch

    def allow_claims(self, d: Decision) -> None:
        p = self._protocol()
        self._carry_out(d, self.key)
        p.claims_stopped_until_s = 0
        p.stops_ended += 1
        self._tell("ClaimsStopped", protocol=self.key, until_s=0)

    def pay(self, d: Decision, source: Key, destination: Key, amount: int) -> None:
        p = self._protocol()
        self._carry_out(d, destination)
        check(amount > 0, "ZeroAmount")
        check(source != p.rewards, "WrongTokenAccount")
        self._move_tokens(source, destination, amount)
        self._tell("Paid", protocol=self.key, destination=destination, amount=amount)

    def withdraw_rewards(self, d: Decision, destination: Key, amount: int) -> None:
        p = self._protocol()
        self._carry_out(d, destination)
        check(amount > 0, "ZeroAmount")
        check(amount <= p.free, "Underfunded")
        p.free -= amount
        self._move_tokens(p.rewards, destination, amount)
        self._tell("Paid", protocol=self.key, destination=destination, amount=amount)

    # --- the guardians alone

    def halt(self, d: Decision, vault: Key, agent: Key, feeds: Feeds) -> None:
        self._party(vault, agent)
        self._check_guardians_alone(d)
        self._halt_now(vault, self._sync(vault, feeds))

    def stop_claims(self, d: Decision, until_s: int) -> None:
        p = self._protocol()
        self._check_guardians_alone(d)
        check(until_s <= self.now_s + LONGEST_STOP_S, "StopTooLong")
        check(until_s > p.claims_stopped_until_s, "AlreadyStopped")  # what can be sent again only ever adds
        p.claims_stopped_until_s = until_s
        self._tell("ClaimsStopped", protocol=self.key, until_s=until_s)

    # --- trading

    def trade(self, signing_key: Key, vault: Key, agent: Key, feeds: Feeds, order: Order) -> None:
        _, v, a = self._party(vault, agent)
        m = self._sync(vault, feeds)
        check(a.signing_key == signing_key, "NotSigningKey")
        check(self.now_s <= order.deadline_s, "DeadlinePassed")
        check(order.nonce == v.nonce, "WrongNonce")
        check(order.artefact_hash == v.manifest.artefact_hash, "WrongArtefact")
        check(order.explanation_hash != NOTHING and order.observation_hash != NOTHING, "Unexplained")
        check(order.amount_in > 0, "ZeroAmount")
        reasons = m.reasons | (0 if m.price_e8 else PRICE_MISSING)
        if reasons & (HALTED | QUOTE_UNHEALTHY) or not m.price_e8 or (order.is_buy and reasons):
            self._tell(
                "TradeRefused", vault=vault, nonce=order.nonce, is_buy=order.is_buy, reasons=reasons,
                explanation_hash=order.explanation_hash,
            )  # fmt: skip
            return
        check(order.amount_in <= (v.quote_held if order.is_buy else v.base_held), "InsufficientHoldings")
        received = self._swap(v, order)
        shortfall = self._settle_swap(v, m, order.is_buy, order.amount_in, received)
        v.nonce += 1
        self._record(vault, m, order, received, shortfall)

    def _swap(self, v: Vault, order: Order) -> int:
        """What the market pays; it takes the whole amount, as markets of constant product do."""
        check(not self.tokens[v.base_account].is_frozen, "WrongTokenAccount")
        market = self.markets[v.manifest.pool]
        ours, theirs = (v.quote_account, v.base_account), (market.quote_account, market.base_account)
        if not order.is_buy:
            ours, theirs = ours[::-1], theirs[::-1]
        received = market.amount_out(*(self.tokens[key].amount for key in theirs), order.amount_in)
        check(received >= order.least_out and received > 0, "ShortPaid")
        self._move_tokens(ours[0], theirs[0], order.amount_in)
        self._move_tokens(theirs[1], ours[1], received)
        return received

    def _settle_swap(self, v: Vault, m: Measure, is_buy: bool, spent: int, received: int) -> int:
        """Checks every limit of an executed swap and writes it into the books. The shortfall below the price."""
        limits, is_reducing = self._limits(v), m.reasons != 0
        base = spent if is_buy else v.value_up(spent, m.price_e8)
        got = v.value_down(received, m.price_e8) if is_buy else received
        shortfall = i64(i64(base) - i64(got))
        # Every window's end leaves a vault unsettled for a moment: no emergency, so no emergency's slippage.
        self._check_slippage(v, m, limits, shortfall, base, is_emergency=bool(m.reasons & ~UNSETTLED))
        if not is_reducing:
            self._check_activity(v, m, limits, base)
        if is_buy:
            v.quote_held, v.base_held = v.quote_held - spent, u64(v.base_held + received)
        else:
            v.quote_held, v.base_held = u64(v.quote_held + received), v.base_held - spent
        position = v.value_down(v.base_held, m.price_e8)
        m.value = u64(v.quote_held + position)
        if m.is_priced:
            m.unit_price = v.guard.last_unit_price = unit_price_down(m.value, v.units)
        if not is_reducing:
            allowed = share_down(m.value, limits.max_position_bps)
            check(not is_buy or position <= allowed, "PositionExceeded")
            check(not is_below_by(m.unit_price, m.reference, limits.max_daily_loss_bps), "DailyLossExceeded")
            check(not is_below_by(m.unit_price, m.peak, limits.max_drawdown_bps), "DrawdownExceeded")
        return shortfall

    def _check_slippage(
        self, v: Vault, m: Measure, limits: Limits, shortfall: int, base: int, *, is_emergency: bool
    ) -> None:
        bucket, of_one, of_all = v.guard.slippage, limits.max_trade_slippage_bps, limits.max_cumulative_slippage_bps
        if is_emergency:
            bucket, of_one = v.guard.reduce_slippage, limits.max_reduce_slippage_bps
            of_all = limits.max_reduce_cumulative_slippage_bps
        check(shortfall <= share_down(base, of_one), "SlippageExceeded")
        cap = share_down(m.value, of_all)
        level = bucket.decayed(cap, self.now_s, self._protocol().config.slippage_decay_s)
        level = u64(level + shortfall) if shortfall > 0 else saturating_sub(level, -shortfall)
        check(shortfall <= 0 or level <= cap, "CumulativeSlippageExceeded")
        bucket.level, bucket.written_s = level, self.now_s

    def _check_activity(self, v: Vault, m: Measure, limits: Limits, base: int) -> None:
        check(v.guard.trades_today + 1 <= limits.max_trades_per_day, "TradeCountExceeded")
        turnover = u64(v.guard.turnover_today + base)
        check(turnover <= share_down(m.value, limits.max_daily_turnover_bps), "TurnoverExceeded")
        v.guard.trades_today, v.guard.turnover_today = v.guard.trades_today + 1, turnover

    def _record(self, key: Key, m: Measure, order: Order, received: int, shortfall: int) -> None:
        v = self.vaults[key]
        entry = self._tell(
            "TradeRecorded", vault=key, agent=v.manifest.agent, sequence=v.sequence, nonce=order.nonce,
            amount_in=order.amount_in, amount_out=received, shortfall=shortfall, price_e8=m.price_e8,
            base_answer=m.base.answer,
            base_round=m.base.round, base_published_s=m.base.published_s, quote_answer=m.quote.answer,
            quote_round=m.quote.round, quote_published_s=m.quote.published_s, value=m.value, unit_price=m.unit_price,
            quote_held=v.quote_held, base_held=v.base_held, traded_at_s=self.now_s, artefact_hash=order.artefact_hash,
            explanation_hash=order.explanation_hash, observation_hash=order.observation_hash, is_buy=order.is_buy,
        )  # fmt: skip
        v.head = entry["head"] = next_head(v.head, entry)
        v.sequence += 1

    def observe(self, vault: Key, agent: Key, feeds: Feeds) -> None:
        self._party(vault, agent)
        self._sync(vault, feeds)

    # --- settlement and rewards

    def _check_last(self, v: Vault, vault: Key) -> None:
        """A result of a vault that a new one has superseded could not be applied."""
        check(self.agents[v.manifest.agent].vault == vault, "NothingToClose")

    def _due(self, v: Vault) -> int:
        """The epoch whose window is to be closed."""
        r = v.reward
        check(not r.is_pending, "ResultPending")
        due = self._schedule().last_ended(self.now_s)
        if due is None or r.next_epoch > due:
            raise Refused("NothingToClose")
        return due

    def close_window(self, vault: Key, agent: Key) -> None:
        _, v, _ = self._party(vault, agent)
        self._check_last(v, vault)
        r, due = v.reward, self._due(v)
        check(r.window_epoch == due and r.window_observations > 0, "WindowMissed")
        is_missed = r.next_epoch < due
        self._top_up(v)
        move = self._move_of(v)
        if is_missed and move > 0:  # a missed window is made up for downwards only
            move = 0
        r.freeze(due, move)
        self._tell("WindowClosed", vault=vault, epoch=due, move=move, is_missed=is_missed, is_by_decision=False)

    @staticmethod
    def _move_of(v: Vault) -> int:
        """Up to the lowest that was observed, as far as it can be paid; down to the highest; else nothing."""
        r = v.reward
        if r.window_lowest > r.credited:
            most = min(v.manifest.reward_cap, r.earmark) // v.manifest.reward_rate
            return min(i64(r.window_lowest - r.credited), most)
        return i64(r.window_highest - r.credited) if r.window_highest < r.credited else 0

    def close_by_decision(self, d: Decision, vault: Key, agent: Key, move: int) -> None:
        p, v, _ = self._party(vault, agent)
        self._carry_out(d, vault)
        r = v.reward
        self._check_last(v, vault)
        check(not r.is_pending, "ResultPending")
        try:
            due = self._due(v)
            check(due + 1 - r.next_epoch >= p.config.max_unsettled, "NotOverdue")
            check(r.window_epoch != due or r.window_observations == 0, "NotOverdue")
        except Refused as refused:
            self._pass_over(str(refused))
            return
        check(-MOST_I64 <= move <= 0, "MoveMustNotPay")
        r.freeze(due, move)
        self._tell("WindowClosed", vault=vault, epoch=due, move=move, is_missed=True, is_by_decision=True)

    def reward_agent(self, vault: Key, agent: Key, pnl: int) -> None:
        _, v, _ = self._party(vault, agent)
        r = v.reward
        check(r.is_pending, "NoResult")
        check(pnl == r.pending_move, "PnlMismatch")
        r.is_pending, r.pending_move = False, 0
        if pnl < 0:
            self._claw_back(vault, agent, pnl)
        else:
            self._reward(vault, agent, pnl)
        self._top_up(v)

    def _reward(self, vault: Key, agent: Key, move: int) -> None:
        v = self.vaults[vault]
        r, reward = v.reward, u64(v.manifest.reward_rate * move)
        r.credited = i64(r.credited + move)
        check(reward <= r.earmark, "Underfunded")
        r.earmark -= reward
        r.rewarded = u64(r.rewarded + reward)
        r.vest(reward, self._protocol().config.vesting_s, self.now_s)
        self._tell("Rewarded", vault=vault, agent=agent, move=move, reward=reward, credited=r.credited)

    def _claw_back(self, vault: Key, agent: Key, move: int) -> None:
        """Takes whole multiples of the rate only, so that the account stays exact; the rest stays open."""
        p, v, a = self._party(vault, agent)
        r, rate = v.reward, v.manifest.reward_rate
        r.accrue(self.now_s)
        unclaimed = r.unvested + r.vested
        taken = min(-move, u64(unclaimed + a.bond) // rate)
        r.credited = i64(r.credited - taken)
        taken *= rate
        from_unclaimed = min(taken, unclaimed)
        from_unvested = min(from_unclaimed, r.unvested)
        r.unvested -= from_unvested
        r.vested -= from_unclaimed - from_unvested
        a.bond -= taken - from_unclaimed
        r.clawed_back += taken
        p.free = u64(p.free + taken)
        self._tell(
            "ClawedBack", vault=vault, agent=agent, move=move, from_unclaimed=from_unclaimed,
            from_bond=taken - from_unclaimed, credited=r.credited,
        )  # fmt: skip

    def claim(self, vault: Key, agent: Key, feeds: Feeds, destination: Key) -> None:
        p, v, a = self._party(vault, agent)
        r, to = v.reward, self.tokens[destination]
        check(self.now_s >= p.claims_stopped_until_s, "ClaimsStopped")
        check(self._schedule().is_settled(r, self.now_s), "NotSettled")
        check(to.mint == p.config.reward_mint, "WrongMint")
        check(to.owner == a.controller, "WrongTokenAccount")
        r.accrue(self.now_s)
        amount = min(r.vested, self._excess(v, a, feeds))
        check(amount > 0, "NothingToClaim")
        r.vested -= amount
        r.claimed = u64(r.claimed + amount)
        self._move_tokens(p.rewards, destination, amount)
        self._tell("Claimed", vault=vault, agent=agent, destination=destination, amount=amount)


# The widths of an entry's fields, in order, as Borsh writes them.
_ENTRY = "<32s32s4Qq3Qq2Qq4Qq32s32s32sB7x"


def next_head(head: bytes, entry: dict[str, Any]) -> bytes:
    """The hash chain's next link: sha256(head ‖ entry)."""
    values = (bytes(value) if not isinstance(value, int) else value for value in entry.values())
    return hashlib.sha256(head + struct.pack(_ENTRY, *values)).digest()
