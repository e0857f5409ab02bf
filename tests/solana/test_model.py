"""The program beside its model: whatever is tried in whatever order, both answer the same and keep the same books.

The program runs in Solana's own virtual machine. After every instruction the outcome (or the error), all events, every
account that the program keeps and every token balance must be what the model says. MARKETFLOW_SOLANA_SEQUENCES raises the
number of sequences, each of up to 60 steps.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from solders.account import Account as Stored
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from agents.solana_program import NO_HEAD, next_head
from agents.solana_program import Event as Said
from tests.solana import model
from tests.solana.model import (
    BPS,
    DAY_S,
    HALTED,
    MOST_I64,
    MOST_U64,
    NOBODY,
    ONE,
    Decision,
    Feeds,
    Ledger,
    Market,
    Order,
    Round,
    Tokens,
    Update,
)  # fmt: skip
from tests.solana.world import (
    CHAINLINK,
    EXPLAINED,
    OBSERVED,
    PYTH,
    QUOTE,
    TOKEN,
    Sent,
    World,
    keccak,
    price_update,
    transmissions,
)  # fmt: skip

SEQUENCES = int(os.environ.get("MARKETFLOW_SOLANA_SEQUENCES", "120"))
SYSTEM = Pubkey.default()
PYTH_ID = Pubkey.from_bytes(bytes(range(1, 33)))
# Left to the comparison of the words themselves.
UNSEEN = {"reserved", "bump", "digest"}
FEE_BPS = 5


def plain(value: Any) -> Any:
    """The model's and anchorpy's structures as the same dictionaries, numbers and bytes."""
    if value is NOBODY:
        return SYSTEM
    if isinstance(value, list):
        return bytes(value) if all(isinstance(item, int) for item in value) else [plain(item) for item in value]
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name not in UNSEEN}
    if hasattr(value, "__dict__") and not isinstance(value, type):
        return {name: plain(item) for name, item in vars(value).items() if name not in UNSEEN}
    return value


def modelled(kind: type, value: Any) -> Any:
    """The model's structure of that kind, from anchorpy's."""
    nested = {"quote_feed": model.Feed, "feed": model.Feed, "ceilings": model.Limits, "limits": model.Limits}
    taken = {}
    for f in fields(kind):
        item = getattr(value, f.name)
        taken[f.name] = modelled(nested[f.name], item) if f.name in nested else plain(item)
    return kind(**taken)


@dataclass
class Strategist:
    """An agent's people, and the vaults that were opened for it, oldest first."""

    controller: Keypair
    signer: Keypair
    agent: Pubkey
    vaults: list[Pubkey] = field(default_factory=list)


@dataclass(frozen=True)
class Setting:
    """What the sequences of one kind begin with."""

    base_decimals: int = 9
    base_price_e8: int = 2_000 * 10**8
    is_pyth: bool = False
    rate: int = 10**4
    cap: int = 10**4 * TOKEN
    capital: int = 10_000 * QUOTE
    depth: int = 10**6 * QUOTE
    config: tuple[tuple[str, Any], ...] = ()


SETTINGS = {
    "ether by Chainlink": Setting(),
    "a token of a millionth by Pyth": Setting(6, 173, is_pyth=True, rate=7, cap=3 * 10**6, depth=10**5 * QUOTE),
    "a bitcoin on a thin market": Setting(
        8, 60_000 * 10**8, rate=10**6, cap=900 * TOKEN, depth=120_000 * QUOTE,
        config=(("max_unsettled", 1), ("slippage_decay_s", 3600), ("vesting_s", 7200), ("budget_per_epoch", 2000 * TOKEN)),
    ),
    "so large that sums do not fit": Setting(
        0, 10**13, rate=10**6, cap=MOST_U64 // 4, capital=MOST_I64 // 3, depth=MOST_I64 // 3,
        config=(("budget_per_epoch", MOST_U64),),
    ),
}  # fmt: skip


class Both:
    """The program on its chain and the model, told the same."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.world = w = World(
            base_decimals=setting.base_decimals,
            base_price_e8=setting.base_price_e8,
            config_changes=dict(setting.config),
        )
        self.model = Ledger(w.protocol, w.now_s)
        self.people = []
        for name in ("", " of the rival"):
            controller, signer = w._key("controller" + name), w._key("signer" + name)
            self.people.append(Strategist(controller, signer, w.ledger.agent(w.protocol, controller.pubkey())))
        self.made: list[Pubkey] = []
        self.minted: dict[Pubkey, int] = {}
        self.entries: dict[Pubkey, list[Said]] = {}
        self.donated = 0
        self.tally: dict[tuple[str, str], int] = {}
        self._decoded: dict[Pubkey, tuple[bytes, Any]] = {}
        self.base: Round | Update | None = None
        self.quote: Round | Update | None = None
        self.base_e8, self.quote_e8, self.rounds = setting.base_price_e8, 10**8, 0
        self._begin()

    # --- the beginning, and back to it

    def _begin(self) -> None:
        w, s = self.world, self.setting
        self.publish()
        sent = w.initialise()
        config = modelled(model.Config, w.config)
        protocol_id = w.state("protocol").id
        self.told("initialise", sent, self.model.initialise, config, 6, id=bytes(protocol_id),
                  treasury=w.known["treasury"], rewards=w.known["rewards"])  # fmt: skip
        self.purse = {
            name: self.wallet(name, owner, amount) for name, owner, amount in (
                ("quote", w.payer.pubkey(), s.capital), ("base", w.payer.pubkey(), 0),
                ("reward", w.payer.pubkey(), MOST_U64 // 2),
            )
        }  # fmt: skip
        self.kept = {name: self.wallet(name, w.protocol) for name in ("quote", "base", "reward")}
        for someone in self.people:
            self.wallet("reward", someone.controller.pubkey())
        for name in ("quote", "base"):
            self.wallet(name, w.maker.pubkey())
        made = w.make_market(s.depth, fee_bps=FEE_BPS)
        assert made.error == "", made.logs
        pool = w.known["pool"]
        self.model.markets[pool] = Market(w.known["pool_quote"], w.known["pool_base"], FEE_BPS)
        for name, mint in (("pool_quote", w.quote_mint), ("pool_base", w.base_mint)):
            self.track(w.known[name], mint, pool)
        self.mint(w.known["treasury"], 2 * s.capital)
        self.mark()

    def mark(self) -> None:
        """What `reset` goes back to: the accounts as they are now."""
        w = self.world
        addresses = {*self.model.tokens, *self.model.agents, *self.model.vaults, w.protocol, w.known["pool"]}
        self.accounts = {a: w.svm.get_account(a) for a in addresses}
        self.start = copy.deepcopy(
            (self.model, self.minted, self.entries, self.donated, self.rounds, self.base_e8, self.quote_e8)
        )
        self.start_s, self.vaults_before = w.now_s, [list(p.vaults) for p in self.people]
        self.made.clear()

    def reset(self) -> None:
        """As it was at the mark."""
        w = self.world
        for address in self.made:
            w.svm.set_account(address, Stored(0, b"", SYSTEM, False, 0))
        for address, stored in self.accounts.items():
            w.svm.set_account(address, stored)
        (self.model, self.minted, self.entries, self.donated, self.rounds, self.base_e8, self.quote_e8) = (
            copy.deepcopy(self.start)
        )
        for someone, vaults in zip(self.people, self.vaults_before, strict=True):
            someone.vaults = list(vaults)
        self.made.clear()
        self._decoded.clear()
        self.set_clock(self.start_s)
        self.publish()

    # --- the world around the program

    def wallet(self, name: str, owner: Pubkey, amount: int = 0) -> Pubkey:
        address = self.world.wallet(name, owner, amount)
        mint = {"quote": self.world.quote_mint, "base": self.world.base_mint, "reward": self.world.reward_mint}[name]
        self.track(address, mint, owner)
        return address

    def wallet_of(self, someone: Strategist) -> Pubkey:
        """Where the agent's controller is paid."""
        return self.world.wallet("reward", someone.controller.pubkey())

    def track(self, address: Pubkey, mint: Pubkey, owner: Pubkey) -> None:
        """The model learns of a token account that is there, with what is in it."""
        self.model.tokens[address] = Tokens(mint, owner, self.world.balance(address))
        self.minted[mint] = self.minted.get(mint, 0) + self.world.balance(address)

    def mint(self, account: Pubkey, amount: int) -> None:
        tokens = self.model.tokens[account]
        self.world.mint_to(account, tokens.mint, amount)
        tokens.amount += amount
        self.minted[tokens.mint] += amount

    def set_clock(self, now_s: int) -> None:
        self.world.set_clock(now_s)
        self.model.now_s = now_s

    def put(self, base: Round | Update | None, quote: Round | Update | None) -> None:
        """The two feeds' accounts say that from now on."""
        self.base, self.quote = base, quote
        for address, said in ((self.world.base_source, base), (self.world.quote_source, quote)):
            if isinstance(said, Round):
                data = transmissions([(said.round, said.published_s, said.answer)], decimals=said.decimals)
                self.world.put(address, data, CHAINLINK)
            elif isinstance(said, Update):
                data = price_update(
                    bytes(said.feed_id), said.price, said.published_s, confidence=said.confidence,
                    exponent=said.exponent, verification=b"\x01" if said.is_full else b"\x00\x05",
                )  # fmt: skip
                self.world.put(address, data, PYTH)
            else:
                self.world.put(address, b"", self.world.market.id)

    def publish(self, at_s: int | None = None) -> None:
        """Both feeds publish their prices."""
        at_s, self.rounds = self.model.now_s if at_s is None else at_s, self.rounds + 1
        base: Round | Update = Round(self.world.base_source, self.rounds, at_s, self.base_e8)
        if self.setting.is_pyth:
            base = Update(PYTH_ID, self.base_e8 * 10**4, at_s, confidence=self.base_e8 * 7, exponent=-12)
        self.put(base, Round(self.world.quote_source, self.rounds, at_s, self.quote_e8))

    def follow(self) -> None:
        """The arbitrageur: the market's price follows the feeds'."""
        w = self.world
        w.base_price_e8, w.quote_price_e8 = self.base_e8, self.quote_e8
        w.move_market()
        for name, mint in (("pool_quote", w.quote_mint), ("pool_base", w.base_mint)):
            tokens = self.model.tokens[w.known[name]]
            self.minted[mint] += w.balance(w.known[name]) - tokens.amount
            tokens.amount = w.balance(w.known[name])

    @property
    def feeds(self) -> Feeds:
        return Feeds(self.base, self.quote)

    # --- telling both, and comparing

    def told(self, name: str, sent: Sent, instruction: Callable[..., None], *args: Any, **kwargs: Any) -> str:
        """What the program answered, and the model did the same."""
        error = self.model.run(instruction, *args, **kwargs)
        assert sent.error == error, f"{name}: the program says {sent.error!r}, the model {error!r}\n{sent.logs}"
        self.tally[name, error] = self.tally.get((name, error), 0) + 1
        said = [e for e in sent.events if e.name != "Swapped"]
        found = [(e.name, {k: v for k, v in e.fields.items() if k not in UNSEEN}) for e in said]
        assert found == self.model.events, name
        for event in said:
            if event.name == "TradeRecorded":
                self.entries.setdefault(event.fields["vault"], []).append(event)
        self.compare(name)
        return error

    def decoded(self, address: Pubkey) -> Any:
        data = bytes(self.world.svm.get_account(address).data)
        before = self._decoded.get(address)
        if before is None or before[0] != data:
            self._decoded[address] = before = (data, plain(self.world.ledger.decode(data)))
        return before[1]

    def compare(self, name: str) -> None:
        """All that the program keeps, and all tokens."""
        m = self.model
        kept = {self.world.protocol: m.protocol} if m.protocol else {}
        for address, expected in (kept | m.agents | m.vaults).items():
            assert self.decoded(address) == plain(expected), name
        for address, tokens in m.tokens.items():
            assert self.world.balance(address) == tokens.amount, name

    def send(self, name: str, *args: Any, known: dict[str, Pubkey], signers: tuple[Keypair, ...] = ()) -> Sent:
        return self.world.send(self.world.ledger.instruction(name, self.world.known | known, *args), signers=signers)

    def known(self, someone: Strategist, vault: Pubkey) -> dict[str, Pubkey]:
        return self.world.ledger.known(self.world.protocol, vault=vault) | {
            "agent": someone.agent, "controller": someone.controller.pubkey(), "signing_key": someone.signer.pubkey(),
        }  # fmt: skip

    def decide(
        self, name: str, *args: Any, known: dict[str, Pubkey], subject: str = "vault", flaw: str = ""
    ) -> tuple[Sent, Decision]:
        """Sends what the guardians signed, with that flaw; and what the model is to be told of it."""
        now_s, p = self.model.now_s, self.model.protocol
        assert p is not None
        nonce, expires_s, signers, is_intact = p.nonce, now_s + 60, tuple(range(p.config.threshold)), True
        how: dict[str, Any] = {}
        if flaw == "nonce":
            nonce += 1
        elif flaw == "late":
            expires_s = now_s - 1
        elif flaw == "few":
            signers = signers[1:]
        elif flaw == "order":
            signers = (1, 0)
        elif flaw == "twice":
            signers = (0, 0)
        elif flaw == "all":
            signers = (0, 1, 2)
        elif flaw == "forged":
            is_intact, how["payload"] = False, b"something else"
        how |= {"nonce": nonce, "expires_s": expires_s, "signers": signers}
        sent = self.world.decide(name, *args, known=known, subject=subject, **how)
        return sent, Decision(nonce, expires_s, signers, 1 if name in ("halt", "stop_claims") else 0, is_intact)


@cache
def beginning(name: str) -> Both:
    """A chain of that kind, made once: each sequence goes back to its start."""
    return Both(SETTINGS[name])


flaws = st.sampled_from([""] * 24 + ["nonce", "late", "few", "order", "twice", "all", "forged"])
whose = st.sampled_from([0, 0, 0, 1])
parts = st.one_of(st.integers(0, 3 * BPS), st.sampled_from([0, 1, 5, 50, 500, 2000, 5000, BPS, BPS + 1]))
seldom = st.sampled_from([False] * 12 + [True])


class ProgramAndModel(RuleBasedStateMachine):
    """Any instruction after any other, at any time, at any price."""

    both: Both

    @initialize(name=st.sampled_from(list(SETTINGS)), is_ready=st.sampled_from([True] * 5 + [False]))
    def begin(self, name: str, is_ready: bool) -> None:
        self.both = beginning(name)
        self.both.reset()
        self.salt = 0
        if is_ready:
            self.register(0)
            self.deposit_bond(0, 3 * BPS)
            self.fund_rewards(5000)
            self.open_vault(0, "", "", False)
            self.allocate(0, 5000, "")

    # --- short ways

    @property
    def model(self) -> Ledger:
        return self.both.model

    @property
    def is_ready(self) -> bool:
        return any(someone.vaults for someone in self.both.people)

    def vault_of(self, who: int, is_old: bool = False) -> tuple[Strategist, Pubkey, dict[str, Pubkey]] | None:
        """An agent with its newest vault, or its first; None when it has none."""
        someone = self.both.people[who]
        if not someone.vaults:
            return None
        vault = someone.vaults[0 if is_old else -1]
        return someone, vault, self.both.known(someone, vault)

    # --- time and prices

    @rule(
        step=st.sampled_from([1, 60, 599, 600, 3599, 3601, DAY_S, 2 * DAY_S, "window", "window", "end", "end", "day"]),
        is_published=st.sampled_from([True] * 6 + [False]),
    )
    def wait(self, step: int | str, is_published: bool) -> None:
        config, now_s = self.both.world.config, self.model.now_s
        into_epoch_s = (now_s - config.genesis_s) % config.epoch_length_s
        if step == "window":
            step = config.epoch_length_s - into_epoch_s
        elif step == "end":
            step = (config.window_length_s - into_epoch_s - 1) % config.epoch_length_s + 1
        elif step == "day":
            step = DAY_S - now_s % DAY_S
        self.both.set_clock(now_s + int(step))
        if is_published:
            self.both.publish()

    @rule(
        change_bps=st.one_of(st.integers(-300, 300), st.sampled_from([-6000, -2500, -1500, -600, 600, 2500, 9000])),
        is_followed=st.sampled_from([True, True, True, False]),
    )
    def move_price(self, change_bps: int, is_followed: bool) -> None:
        both = self.both
        both.base_e8 = max(2, both.base_e8 + both.base_e8 * change_bps // BPS)
        both.publish()
        if is_followed:
            both.follow()

    @rule(quote_e8=st.sampled_from([10**8, 10**8, 10**8, 98 * 10**6, 98 * 10**6 - 1, 102 * 10**6, 99_123_456]))
    def move_quote(self, quote_e8: int) -> None:
        self.both.quote_e8 = quote_e8
        self.both.publish()

    @rule(
        is_base=st.booleans(),
        what=st.sampled_from(["missing", "zero", "negative", "decimals", "old", "older", "edge", "future", "huge", "partial",
                              "uncertain", "edge of doubt", "another", "exponent"]),
    )  # fmt: skip
    def break_feed(self, is_base: bool, what: str) -> None:
        both, now_s = self.both, self.model.now_s
        both.publish()
        good = both.base if is_base else both.quote
        is_pyth = isinstance(good, Update)
        amount, source = ("price", "feed_id") if is_pyth else ("answer", "account")
        changes: dict[str, dict[str, Any]] = {
            "zero": {amount: 0},
            "negative": {amount: -(10**8)},
            "huge": {amount: MOST_I64},
            "old": {"published_s": now_s - 3601},
            "edge": {"published_s": now_s - 3600},
            "older": {"published_s": now_s - 700},
            "future": {"published_s": now_s + 1},
            "another": {source: Pubkey.from_bytes(bytes([7] * 32))},
            "decimals": {} if is_pyth else {"decimals": 9},
            "partial": {"is_full": False} if is_pyth else {},
            "uncertain": {"confidence": getattr(good, amount) // 100 + 1} if is_pyth else {},
            "edge of doubt": {"confidence": getattr(good, amount) // 100} if is_pyth else {},
            "exponent": {"exponent": 1} if is_pyth else {},
        }
        if what == "another" and not is_pyth:
            return  # the account would be at another place: one of the attacks
        bad = None if what == "missing" else replace(good, **changes[what])
        both.put(*((bad, both.quote) if is_base else (both.base, bad)))

    @rule()
    def publish(self) -> None:
        self.both.publish()

    @rule(name=st.sampled_from(["vault_quote", "vault_base", "rewards", "treasury"]), who=whose, amount=parts)
    def donate(self, name: str, who: int, amount: int) -> None:
        """Somebody sends tokens unasked."""
        known = dict(self.both.world.known)
        if name.startswith("vault"):
            found = self.vault_of(who)
            if found is None:
                return
            known = found[2]
        account = known[name]
        mint = self.model.tokens[account].mint
        if not 0 < amount < MOST_U64 - self.both.minted[mint]:
            return
        self.both.mint(account, amount)
        if name == "rewards":
            self.both.donated += amount

    # --- agents

    @rule(who=whose)
    def register(self, who: int) -> None:
        both, someone = self.both, self.both.people[who]
        known = {"controller": someone.controller.pubkey(), "agent": someone.agent}
        is_new = someone.agent not in self.model.agents
        sent = both.send("register_agent", someone.signer.pubkey(), known=known, signers=(someone.controller,))
        if is_new:
            both.made.append(someone.agent)
        both.told("register_agent", sent, self.model.register_agent, someone.agent, someone.controller.pubkey(),
                  someone.signer.pubkey())  # fmt: skip

    @rule(who=whose, is_swapped=st.booleans(), by=whose)
    def set_signing_key(self, who: int, is_swapped: bool, by: int) -> None:
        both, someone, caller = self.both, self.both.people[who], self.both.people[by].controller
        key = self.both.people[1].signer.pubkey() if is_swapped else someone.signer.pubkey()
        known = {"controller": caller.pubkey(), "agent": someone.agent}
        sent = both.send("set_signing_key", key, known=known, signers=(caller,))
        both.told("set_signing_key", sent, self.model.set_signing_key, someone.agent, caller.pubkey(), key)

    @rule(who=whose, part=parts)
    def deposit_bond(self, who: int, part: int) -> None:
        both, someone = self.both, self.both.people[who]
        amount = 1000 * TOKEN * part // BPS if part <= 3 * BPS else MOST_U64
        owner = both.world.payer
        known = {"owner": owner.pubkey(), "agent": someone.agent, "source": both.purse["reward"]}
        sent = both.send("deposit_bond", amount, known=known)
        both.told("deposit_bond", sent, self.model.deposit_bond, someone.agent, both.purse["reward"], amount)

    @rule(who=whose, part=parts, is_exact=st.booleans(), by=st.sampled_from([None] * 8 + [0]))
    def withdraw_bond(self, who: int, part: int, is_exact: bool, by: int | None) -> None:
        both, someone = self.both, self.both.people[who]
        caller = both.people[who if by is None else by].controller
        agent = self.model.agents.get(someone.agent)
        bond = agent.bond if agent else 10**9
        amount = min(MOST_U64, bond * part // BPS)
        if is_exact and agent:
            amount = max(0, bond - both.world.config.min_bond + part % 2)
        vault = someone.vaults[-1] if someone.vaults else both.world.ledger.id
        to = both.wallet_of(someone)
        known = {"controller": caller.pubkey(), "agent": someone.agent, "vault": vault, "destination": to}
        sent = both.send("withdraw_bond", amount, known=known, signers=(caller,))
        both.told("withdraw_bond", sent, self.model.withdraw_bond, someone.agent, caller.pubkey(), vault, both.feeds, to,
                  amount)  # fmt: skip

    @rule(part=parts)
    def fund_rewards(self, part: int) -> None:
        both = self.both
        amount = both.setting.cap * part // 2000
        known = {"funder": both.world.payer.pubkey(), "source": both.purse["reward"]}
        if not 0 <= amount <= MOST_U64:
            return
        sent = both.send("fund_rewards", amount, known=known)
        both.told("fund_rewards", sent, self.model.fund_rewards, both.purse["reward"], amount)

    # --- strategies

    @rule(
        who=whose,
        flaw=flaws,
        fault=st.sampled_from([""] * 6 + ["limits", "loose", "rate", "no rate", "cap", "feed", "mint", "agent"]),
        is_same=seldom,
    )
    def open_vault(self, who: int, flaw: str, fault: str, is_same: bool) -> None:
        both, w, someone = self.both, self.both.world, self.both.people[who]
        setting = both.setting
        self.salt += not is_same
        changes: dict[str, Any] = {
            "agent": someone.agent, "reward_rate": setting.rate, "reward_cap": setting.cap, "salt": self.salt,
        }  # fmt: skip
        if setting.is_pyth:
            changes["feed"] = w.feed(PYTH_ID, kind=2, max_confidence_bps=100)
        changes |= {
            "": {},
            "limits": {"limits": {"max_drawdown_bps": 900, "hard_drawdown_bps": 900}},
            "loose": {"limits": {"max_position_bps": 8001}},
            "rate": {"reward_rate": w.config.max_reward_rate + 1},
            "no rate": {"reward_rate": 0},
            "cap": {"reward_cap": min(MOST_U64, setting.cap * 7)},
            "feed": {"feed": w.feed(w.base_source, least_e8=0)},
            "mint": {"base_mint": w.quote_mint},
            "agent": {"agent": both.people[1 - who].agent},
        }[fault]
        manifest = w.manifest(**changes)
        key = w.ledger.vault(w.protocol, manifest)
        known = both.known(someone, key)
        agent = self.model.agents.get(someone.agent)
        known["last_vault"] = w.ledger.id if agent is None or agent.vault is NOBODY else agent.vault
        is_new = key not in self.model.vaults
        if fault == "mint":
            known["base_mint"] = w.base_mint
        sent, decision = both.decide("open_vault", manifest, known=known, flaw=flaw)
        if is_new:
            both.made += [key, known["vault_quote"], known["vault_base"]]
        error = both.told(
            "open_vault", sent, self.model.open_vault, decision, modelled(model.Manifest, manifest), key=key,
            id=self._id(manifest), agent=someone.agent, last_vault=known["last_vault"], quote_account=known["vault_quote"],
            base_account=known["vault_base"], quote_decimals=6, base_decimals=setting.base_decimals,
        )  # fmt: skip
        if not error:
            someone.vaults.append(key)

    def _id(self, manifest: Any) -> bytes:
        return hashlib.sha256(self.both.world.ledger.encode("Manifest", manifest)).digest()

    @precondition(lambda self: self.is_ready)
    @rule(
        who=whose,
        flaw=flaws,
        cap_part=st.sampled_from([0, 1, 3000, BPS, BPS, 2 * BPS, 9 * BPS]),
        changes=st.fixed_dictionaries(
            {},
            optional={
                "max_position_bps": st.sampled_from([0, 3000, 8000, 8001]),
                "max_trades_per_day": st.sampled_from([0, 2, 50]),
                "max_daily_turnover_bps": st.sampled_from([0, 2000, 30000]),
                "max_trade_slippage_bps": st.sampled_from([0, 3, 100]),
                "max_cumulative_slippage_bps": st.sampled_from([0, 10, 400]),
                "max_daily_loss_bps": st.sampled_from([0, 100, 500]),
                "max_drawdown_bps": st.sampled_from([0, 200, 1000, 1999]),
                "hard_drawdown_bps": st.sampled_from([300, 1001, 2000]),
            },
        ),
        word=st.sampled_from([1, 2]),
    )
    def update_vault(self, who: int, flaw: str, cap_part: int, changes: dict[str, int], word: int) -> None:
        if (found := self.vault_of(who)) is None:
            return
        someone, vault, known = found
        limits = self.both.world.manifest(limits=changes).limits
        cap, artefact = min(MOST_U64, self.both.setting.cap * cap_part // BPS), bytes([word] * 32)
        sent, decision = self.both.decide("update_vault", list(artefact), limits, cap, known=known, flaw=flaw)
        self.both.told("update_vault", sent, self.model.update_vault, decision, vault, someone.agent, self.both.feeds, artefact,
                       modelled(model.Limits, limits), cap)  # fmt: skip

    @precondition(lambda self: self.is_ready)
    @rule(who=whose, part=parts, flaw=flaws)
    def allocate(self, who: int, part: int, flaw: str) -> None:
        if (found := self.vault_of(who)) is None:
            return
        someone, vault, known = found
        amount = min(MOST_U64, self.both.setting.capital * part // BPS)
        sent, decision = self.both.decide("allocate", amount, known=known, flaw=flaw)
        self.both.told("allocate", sent, self.model.allocate, decision, vault, someone.agent, self.both.feeds, amount)

    @precondition(lambda self: self.is_ready)
    @rule(
        who=whose,
        is_quote=st.booleans(),
        part=st.one_of(parts, st.just(3 * BPS)),
        fallback_part=st.sampled_from([0, 5000, BPS, BPS + 1]),
        where=st.sampled_from(["treasury", "kept", "kept", "kept", "rewards", "purse"]),
        flaw=flaws,
        is_old=seldom,
    )
    def recall(
        self, who: int, is_quote: bool, part: int, fallback_part: int, where: str, flaw: str, is_old: bool
    ) -> None:
        if (found := self.vault_of(who, is_old)) is None:
            return
        _, vault, known = found
        both, v = self.both, self.model.vaults[vault]
        kind = "quote" if is_quote else "base"
        amount = min(MOST_U64, (v.quote_held if is_quote else v.base_held) * part // BPS)
        fallback_e8 = v.last_price_e8 * fallback_part // BPS
        source = known["vault_" + kind]
        to = {
            "treasury": known["treasury"], "kept": both.kept[kind], "rewards": known["rewards"], "purse": both.purse[kind],
        }[where]  # fmt: skip
        sent, decision = both.decide(
            "recall", amount, fallback_e8, known=known | {"from": source, "to": to}, flaw=flaw, **self.recall_subject
        )
        both.told("recall", sent, self.model.recall, decision, vault, both.feeds, source, to, amount, fallback_e8)

    recall_subject: dict[str, str] = {}

    @precondition(lambda self: self.is_ready)
    @rule(who=whose, name=st.sampled_from(["resume", "resume", "retire", "halt"]), flaw=flaws)
    def govern(self, who: int, name: str, flaw: str) -> None:
        if (found := self.vault_of(who)) is None:
            return
        someone, vault, known = found
        if name == "retire" and self.salt % 2:
            name = "resume"
        sent, decision = self.both.decide(name, known=known, flaw=flaw)
        self.both.told(name, sent, getattr(self.model, name), decision, vault, someone.agent, self.both.feeds)

    @precondition(lambda self: self.is_ready)
    @rule(who=whose, is_old=seldom)
    def finish_retirement(self, who: int, is_old: bool) -> None:
        if (found := self.vault_of(who, is_old)) is None:
            return
        _, vault, known = found
        sent = self.both.send("finish_retirement", known=known)
        self.both.told("finish_retirement", sent, self.model.finish_retirement, vault)

    # --- the protocol's rules

    @rule(threshold=st.sampled_from([1, 2, 2, 3, 0, 4]), flaw=flaws)
    def set_guardians(self, threshold: int, flaw: str) -> None:
        guardians = self.both.world.config.guardians
        sent, decision = self.both.decide("set_guardians", guardians, 3, threshold, known={}, subject="protocol", flaw=flaw)
        named = [bytes(guardian) for guardian in guardians]
        self.both.told("set_guardians", sent, self.model.set_guardians, decision, named, 3, threshold)

    @rule(
        changes=st.fixed_dictionaries(
            {},
            optional={
                "max_position_bps": st.sampled_from([2000, 8000, 10_001]),
                "max_drawdown_bps": st.sampled_from([400, 1000]),
                "hard_drawdown_bps": st.sampled_from([500, 1000, 2000]),
                "max_trades_per_day": st.sampled_from([1, 50]),
            },
        ),
        flaw=flaws,
    )
    def set_ceilings(self, changes: dict[str, int], flaw: str) -> None:
        limits = self.both.world.manifest(limits=changes).limits
        sent, decision = self.both.decide("set_ceilings", limits, known={}, subject="protocol", flaw=flaw)
        self.both.told("set_ceilings", sent, self.model.set_ceilings, decision, modelled(model.Limits, limits))

    @rule(part=st.sampled_from([0, 5000, BPS, 2 * BPS, 20 * BPS]), flaw=flaws)
    def set_budget(self, part: int, flaw: str) -> None:
        budget = min(MOST_U64, self.both.setting.cap * part // BPS)
        sent, decision = self.both.decide("set_budget", budget, known={}, subject="protocol", flaw=flaw)
        self.both.told("set_budget", sent, self.model.set_budget, decision, budget)

    @rule(part=parts, source=st.sampled_from(["treasury", "kept", "rewards"]), flaw=flaws)
    def pay(self, part: int, source: str, flaw: str) -> None:
        both = self.both
        kind = "reward" if source == "rewards" else "quote"
        account = both.kept["quote"] if source == "kept" else both.world.known[source]
        amount = min(MOST_U64, self.model.tokens[account].amount * part // BPS)
        to = both.purse[kind]
        sent, decision = both.decide(
            "pay", amount, known={"source": account, "destination": to}, subject="destination", flaw=flaw
        )
        both.told("pay", sent, self.model.pay, decision, account, to, amount)

    @rule(part=parts, flaw=flaws)
    def withdraw_rewards(self, part: int, flaw: str) -> None:
        both, p = self.both, self.model.protocol
        assert p is not None
        amount, to = min(MOST_U64, p.free * part // BPS), both.purse["reward"]
        sent, decision = both.decide("withdraw_rewards", amount, known={"destination": to}, subject="destination", flaw=flaw)
        both.told("withdraw_rewards", sent, self.model.withdraw_rewards, decision, to, amount)

    @rule(is_expired=st.booleans(), flaw=flaws)
    def skip_decision(self, is_expired: bool, flaw: str) -> None:
        both, p, now_s = self.both, self.model.protocol, self.model.now_s
        assert p is not None
        expires_s, signers = now_s - 1 if is_expired else now_s, tuple(range(p.config.threshold))
        nonce = p.nonce + (flaw == "nonce")
        payload, signed = b"what cannot be carried out", b"another" if flaw == "forged" else None
        sent = both.world.decide(
            "skip_decision", list(keccak(payload)), subject="protocol", payload=signed or payload, nonce=nonce,
            expires_s=expires_s, signers=signers,
        )  # fmt: skip
        both.told("skip_decision", sent, self.model.skip_decision,
                  Decision(nonce, expires_s, signers, is_intact=signed is None))  # fmt: skip

    @rule(seconds=st.sampled_from([-1, 0, 0, 60, 30 * DAY_S, 30 * DAY_S + 1]), flaw=flaws)
    def stop_claims(self, seconds: int, flaw: str) -> None:
        until_s = self.model.now_s + seconds
        sent, decision = self.both.decide("stop_claims", until_s, known={}, subject="protocol", flaw=flaw)
        self.both.told("stop_claims", sent, self.model.stop_claims, decision, until_s)

    # --- trading

    @precondition(lambda self: self.is_ready)
    @rule(
        who=whose,
        is_buy=st.booleans(),
        part=parts,
        fault=st.sampled_from([""] * 14 + ["nonce", "late", "artefact", "explanation", "observation", "key", "least", "zero"]),
    )
    def trade(self, who: int, is_buy: bool, part: int, fault: str) -> None:
        if (found := self.vault_of(who)) is None:
            return
        someone, vault, known = found
        both, v = self.both, self.model.vaults[vault]
        amount = min(MOST_U64, (v.quote_held if is_buy else v.base_held) * part // BPS)
        order = Order(
            nonce=v.nonce + (fault == "nonce"), deadline_s=self.model.now_s - (fault == "late"),
            amount_in=0 if fault == "zero" else amount, least_out=MOST_I64 if fault == "least" else 0,
            artefact_hash=bytes(32) if fault == "artefact" else v.manifest.artefact_hash,
            explanation_hash=bytes(32) if fault == "explanation" else EXPLAINED,
            observation_hash=bytes(32) if fault == "observation" else OBSERVED, is_buy=is_buy,
        )  # fmt: skip
        signer = both.people[1 - who].controller if fault == "key" else someone.signer
        known["signing_key"] = signer.pubkey()
        sent_order = both.world.types["Order"](
            **{name: list(item) if isinstance(item, bytes) else item for name, item in plain(order).items()},
            reserved=[0] * 7,
        )
        sent = both.send("trade", sent_order, known=known, signers=(signer,))
        both.told("trade", sent, self.model.trade, signer.pubkey(), vault, someone.agent, both.feeds, order)

    @precondition(lambda self: self.is_ready)
    @rule(who=whose, is_old=seldom)
    def observe(self, who: int, is_old: bool) -> None:
        if (found := self.vault_of(who, is_old)) is None:
            return
        someone, vault, known = found
        sent = self.both.send("observe", known=known)
        self.both.told("observe", sent, self.model.observe, vault, someone.agent, self.both.feeds)

    # --- settlement

    @precondition(lambda self: self.is_ready)
    @rule(who=whose, is_old=seldom)
    def close_window(self, who: int, is_old: bool) -> None:
        if (found := self.vault_of(who, is_old)) is None:
            return
        someone, vault, known = found
        sent = self.both.send("close_window", known=known)
        self.both.told("close_window", sent, self.model.close_window, vault, someone.agent)

    @precondition(lambda self: self.is_ready)
    @rule(who=whose, off=st.sampled_from([0, 0, 0, 0, 1, -1]), is_old=seldom)
    def reward_agent(self, who: int, off: int, is_old: bool) -> None:
        if (found := self.vault_of(who, is_old)) is None:
            return
        someone, vault, known = found
        pnl = self.model.vaults[vault].reward.pending_move + off
        sent = self.both.send("reward_agent", pnl, known=known)
        self.both.told("reward_agent", sent, self.model.reward_agent, vault, someone.agent, pnl)

    @precondition(lambda self: self.is_ready)
    @rule(
        who=whose,
        move=st.sampled_from([0, 0, 1, -1, -(10**6), -(10**9), -MOST_I64, -MOST_I64 - 1]),
        flaw=flaws,
    )
    def close_by_decision(self, who: int, move: int, flaw: str) -> None:
        if (found := self.vault_of(who)) is None:
            return
        someone, vault, known = found
        sent, decision = self.both.decide("close_by_decision", move, known=known, flaw=flaw)
        self.both.told("close_by_decision", sent, self.model.close_by_decision, decision, vault, someone.agent, move)

    @precondition(lambda self: self.is_ready)
    @rule(who=whose, is_old=seldom, is_to_another=seldom)
    def claim(self, who: int, is_old: bool, is_to_another: bool) -> None:
        if (found := self.vault_of(who, is_old)) is None:
            return
        someone, vault, known = found
        to = self.both.purse["reward"] if is_to_another else self.both.wallet_of(someone)
        sent = self.both.send("claim", known=known | {"destination": to})
        self.both.told("claim", sent, self.model.claim, vault, someone.agent, self.both.feeds, to)

    @precondition(lambda self: self.is_ready)
    @rule(who=whose, change_bps=st.sampled_from([-700, -200, -30, 0, 40, 300, 900]), is_claimed=st.booleans())
    def settle(self, who: int, change_bps: int, is_claimed: bool) -> None:
        """A whole epoch as it goes when everybody does his part."""
        self.wait("window", True)
        self.move_price(change_bps, True)
        self.observe(who, False)
        self.wait("end", True)
        self.close_window(who, False)
        self.reward_agent(who, 0, False)
        if is_claimed:
            self.claim(who, False, False)

    @precondition(lambda self: self.is_ready)
    @rule(who=st.just(0))
    def succeed(self, who: int) -> None:
        """One vault's end, and the next one's beginning."""
        self.salt += self.salt % 2
        self.both.publish()
        self.govern(who, "retire", "")
        for is_quote in (True, False):
            self.recall(who, is_quote, 3 * BPS, BPS, "kept", "", False)
        self.settle(who, 0, True)
        self.settle(who, 0, True)
        self.finish_retirement(who, False)
        self.open_vault(who, "", "", False)

    # --- what is always true, of what the program itself keeps

    @invariant()
    def rewards_are_the_account_times_the_rate(self) -> None:
        for vault in self.model.vaults:
            kept = self.both.decoded(vault)
            r = kept["reward"]
            assert r["rewarded"] - r["clawed_back"] == kept["manifest"]["reward_rate"] * r["credited"]

    @invariant()
    def rewards_account_holds_what_the_books_say(self) -> None:
        world = self.both.world
        p = self.both.decoded(world.protocol)
        owed = p["free"] + sum(self.both.decoded(agent)["bond"] for agent in self.model.agents)
        for vault in self.model.vaults:
            r = self.both.decoded(vault)["reward"]
            owed += r["earmark"] + r["unvested"] + r["vested"]
        assert world.balance(p["rewards"]) == owed + self.both.donated

    @invariant()
    def vaults_hold_what_their_books_say_and_no_token_is_lost(self) -> None:
        world = self.both.world
        for vault in self.model.vaults:
            kept = self.both.decoded(vault)
            assert world.balance(kept["quote_account"]) >= kept["quote_held"]
            assert world.balance(kept["base_account"]) >= kept["base_held"]
        sums = dict.fromkeys(self.both.minted, 0)
        for address, tokens in self.model.tokens.items():
            sums[tokens.mint] += world.balance(address)
        assert sums == self.both.minted

    @invariant()
    def caps_of_live_vaults_are_within_the_budget(self) -> None:
        p = self.both.decoded(self.both.world.protocol)
        live = [v for v in map(self.both.decoded, self.model.vaults) if v["reward"]["is_live"]]
        assert p["sum_of_caps"] == sum(v["manifest"]["reward_cap"] for v in live) <= p["config"]["budget_per_epoch"]

    def teardown(self) -> None:
        """The events hash to every vault's head."""
        if not hasattr(self, "both"):
            return
        for vault, kept in self.model.vaults.items():
            head, said = NO_HEAD, self.both.entries.get(vault, [])
            for entry in said:
                head = next_head(self.both.world.ledger, head, entry)
                assert entry.fields["head"] == head
            assert (len(said), head) == (kept.sequence, self.both.decoded(vault)["head"])


ProgramAndModel.TestCase.settings = settings(
    max_examples=SEQUENCES,
    stateful_step_count=60,
    deadline=None,
    derandomize="MARKETFLOW_SOLANA_SEQUENCES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestProgramAndModel = ProgramAndModel.TestCase
