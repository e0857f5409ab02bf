"""The program beside its model: whatever is tried in whatever order, both answer the same and keep the same books.

The program runs in Solana's own virtual machine. After every instruction its outcome or error, all events, every
account that the program keeps and every token balance must be what the model says. MARKETFLOW_SOLANA_SEQUENCES raises
the number of sequences, each of 60 steps; MARKETFLOW_SOLANA_FIRST_SEQUENCE is the number of the first.
"""

from __future__ import annotations

import copy
import hashlib
import os
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Any

import pytest
from solders.account import Account as Stored
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from agents.solana_program import Event as Said
from agents.solana_program import verify_chain
from oracle.solana_feeds import pyth_account_of
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
    Refused,
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

SEQUENCES = int(os.environ.get("MARKETFLOW_SOLANA_SEQUENCES", "180"))
FIRST = int(os.environ.get("MARKETFLOW_SOLANA_FIRST_SEQUENCE", "0"))
SYSTEM = Pubkey.default()
ANOTHER = Pubkey.from_bytes(bytes(range(1, 33)))
PYTH_ID, PYTH_SHARD = bytes(range(2, 34)), 3
PYTH_ACCOUNT = Pubkey.from_string(pyth_account_of(PYTH_ID, PYTH_SHARD))
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

    @property
    def bond(self) -> int:
        """What covers the worst case of the capital."""
        return self.rate * self.capital * 3 // 10


SETTINGS = {
    "ether by Chainlink": Setting(),
    "a token of a thousandth by Pyth": Setting(6, 123_456, is_pyth=True, rate=7, cap=3 * 10**6, depth=10**5 * QUOTE),
    "a bitcoin on a thin market": Setting(
        8, 60_000 * 10**8, rate=10**6, cap=900 * TOKEN, depth=120_000 * QUOTE,
        config=(
            ("max_unsettled", 1), ("slippage_decay_s", 3600), ("vesting_s", 7200), ("budget_per_epoch", 2000 * TOKEN),
        ),
    ),
    "so large that sums do not fit": Setting(
        0, 10**13, rate=1, cap=MOST_U64 // 16, capital=MOST_I64 // 3, depth=MOST_I64 // 3,
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
            config_changes={"min_bond": setting.bond // 10} | dict(setting.config),
        )
        if setting.is_pyth:
            w.base_source = PYTH_ACCOUNT
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
        (self.model, self.minted, self.entries, self.donated, self.rounds, self.base_e8, self.quote_e8) = copy.deepcopy(
            self.start
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
        known = self.world.known
        known["base_feed"], known["quote_feed"] = self.world.base_source, self.world.quote_source
        for name, said in (("base_feed", base), ("quote_feed", quote)):
            address = known[name] = known[name] if said is None else said.account
            if isinstance(said, Round):
                data = transmissions([(said.round, said.published_s, said.answer)], decimals=said.decimals)
                self.world.put(address, data, CHAINLINK)
            elif isinstance(said, Update):
                data = price_update(
                    PYTH_ID if said.is_of_its_feed else bytes(32), said.price, said.published_s,
                    confidence=said.confidence, exponent=said.exponent,
                    verification=b"\x01" if said.is_full else b"\x00\x05",
                )  # fmt: skip
                self.world.put(address, data, PYTH)
            else:
                self.world.put(address, b"", self.world.market.id)

    def publish(self, at_s: int | None = None) -> None:
        """Both feeds publish their prices."""
        at_s, self.rounds = self.model.now_s if at_s is None else at_s, self.rounds + 1
        base: Round | Update = Round(self.world.base_source, self.rounds, at_s, self.base_e8)
        if self.setting.is_pyth:
            base = Update(self.world.base_source, self.base_e8 * 10**4, at_s, confidence=self.base_e8 * 7, exponent=-12)
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
        told = error or (self.model.events[-1][0] if self.model.events else "")
        self.tally[name, told] = self.tally.get((name, told), 0) + 1
        said = [e for e in sent.events if e.name != "Swapped"]
        found = [(e.name, {k: v for k, v in e.fields.items() if k not in UNSEEN}) for e in said]
        for kind, words in found:
            if kind == "DecisionMoot":
                words["error"] = self.world.ledger.error(words["error"]).name
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
        is_alone = name in ("halt", "stop_claims")
        nonce, expires_s = p.stops_ended if is_alone else p.nonce, now_s + 60
        signers, is_intact = tuple(range(p.config.threshold)), True
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
        return sent, Decision(nonce, expires_s, signers, int(is_alone), is_intact)


@cache
def beginning(name: str) -> Both:
    """A chain of that kind, made once: each sequence goes back to its start."""
    return Both(SETTINGS[name])


FLAWS = ["nonce", "late", "few", "order", "twice", "all", "forged"]
ORDER_FAULTS = ["nonce", "late", "artefact", "explanation", "observation", "key", "least", "zero"]
FEED_FAULTS = [
    "missing", "zero", "negative", "decimals", "old", "older", "edge", "ahead", "future", "huge", "partial",
    "uncertain", "edge of doubt", "another", "exponent", "of another",
]  # fmt: skip
MANIFEST_FAULTS = ["limits", "loose", "rate", "no rate", "cap", "feed", "mint", "agent"]
LIMITS_TRIED = {
    "max_position_bps": [1000, 0, 3000, 8001], "max_trades_per_day": [1, 0, 2, 50],
    "max_daily_turnover_bps": [1000, 0, 2000, 30000], "max_trade_slippage_bps": [7, 0, 3, 100],
    "max_cumulative_slippage_bps": [2, 0, 10, 400], "max_daily_loss_bps": [0, 100, 500],
    "max_drawdown_bps": [0, 200, 1000, 1999], "hard_drawdown_bps": [1001, 300, 2000],
}  # fmt: skip
CEILINGS_TRIED = {
    "max_position_bps": [2000, 8000, 10_001], "max_drawdown_bps": [400, 1000], "hard_drawdown_bps": [500, 1000, 2000],
    "max_trades_per_day": [1, 50],
}  # fmt: skip


class Chance(random.Random):
    """What is drawn for one step."""

    def seldom(self, what: list[Any], one_in: int = 12) -> Any:
        """One of those, once in a while; else nothing."""
        return self.choice(what) if self.randrange(one_in) == 0 else type(what[0])()

    def rarely(self, one_in: int = 12) -> bool:
        return self.randrange(one_in) == 0

    def who(self) -> int:
        return int(self.rarely(5))

    def flaw(self) -> str:
        return str(self.seldom(FLAWS))

    def part(self) -> int:
        """Of something, in basis points; mostly of a moderate size."""
        return self.choice([
            self.randrange(50, 3000), self.randrange(50, 3000), self.randrange(BPS), self.randrange(3 * BPS),
            self.choice([0, 1, 5, 2000, 5000, BPS, BPS + 1]),
        ])  # fmt: skip

    def some(self, tried: dict[str, list[int]]) -> dict[str, int]:
        """Some of those limits changed."""
        names = self.sample(sorted(tried), self.randrange(1, 4)) if self.randrange(2) else []
        return {name: self.choice(tried[name]) for name in names}


class Walk:
    """Any instruction after any other, at any time, at any price."""

    def __init__(self, both: Both, *, is_ready: bool) -> None:
        self.both, self.salt = both, 0
        both.reset()
        if is_ready:
            self.register(0)
            self.deposit_bond(0, BPS)
            self.fund_rewards(5000)
            self.open_vault(0, "", "", False)
            self.allocate(0, 5000, "")
            self.trade(0, True, 200, "")

    # --- short ways

    @property
    def model(self) -> Ledger:
        return self.both.model

    def vault_of(self, who: int, is_old: bool = False) -> tuple[Strategist, Pubkey, dict[str, Pubkey]] | None:
        """An agent with its newest vault, or its first; None when it has none."""
        someone = self.both.people[who]
        if not someone.vaults:
            return None
        vault = someone.vaults[0 if is_old else -1]
        return someone, vault, self.both.known(someone, vault)

    # --- time and prices

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

    def move_price(self, change_bps: int, is_followed: bool) -> None:
        both = self.both
        both.base_e8 = max(2, both.base_e8 + both.base_e8 * change_bps // BPS)
        both.publish()
        if is_followed:
            both.follow()

    def move_quote(self, quote_e8: int) -> None:
        self.both.quote_e8 = quote_e8
        self.both.publish()

    def break_feed(self, is_base: bool, what: str) -> None:
        both, now_s = self.both, self.model.now_s
        both.publish()
        good = both.base if is_base else both.quote
        is_pyth = isinstance(good, Update)
        amount = "price" if is_pyth else "answer"
        changes: dict[str, dict[str, Any]] = {
            "zero": {amount: 0},
            "negative": {amount: -(10**8)},
            "huge": {amount: MOST_I64},
            "old": {"published_s": now_s - 3601},
            "edge": {"published_s": now_s - 3600},
            "older": {"published_s": now_s - 700},
            "ahead": {"published_s": now_s + 60},
            "future": {"published_s": now_s + 61},
            "another": {"account": ANOTHER},
            "decimals": {} if is_pyth else {"decimals": 9},
            "of another": {"is_of_its_feed": False} if is_pyth else {},
            "partial": {"is_full": False} if is_pyth else {},
            "uncertain": {"confidence": getattr(good, amount) // 100 + 1} if is_pyth else {},
            "edge of doubt": {"confidence": getattr(good, amount) // 100} if is_pyth else {},
            "exponent": {"exponent": 1} if is_pyth else {},
        }
        bad = None if what == "missing" else replace(good, **changes[what])
        both.put(*((bad, both.quote) if is_base else (both.base, bad)))

    def publish(self) -> None:
        self.both.publish()

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
        if self.model.tokens[account].is_frozen or not 0 < amount < MOST_U64 - self.both.minted[mint]:
            return
        self.both.mint(account, amount)
        if name == "rewards":
            self.both.donated += amount

    def freeze(self, who: int, is_frozen: bool) -> None:
        """The base mint's authority freezes a vault's account, or lets go of it."""
        if (found := self.vault_of(who)) is None:
            return
        account = found[2]["vault_base"]
        stored = self.both.world.svm.get_account(account)
        data = bytearray(stored.data)
        data[108] = 2 if is_frozen else 1
        self.both.world.svm.set_account(account, Stored(stored.lamports, bytes(data), stored.owner, False, 0))
        self.model.tokens[account].is_frozen = is_frozen

    # --- agents

    def register(self, who: int) -> None:
        both, someone = self.both, self.both.people[who]
        known = {"controller": someone.controller.pubkey(), "agent": someone.agent}
        is_new = someone.agent not in self.model.agents
        sent = both.send("register_agent", someone.signer.pubkey(), known=known, signers=(someone.controller,))
        if is_new:
            both.made.append(someone.agent)
        both.told("register_agent", sent, self.model.register_agent, someone.agent, someone.controller.pubkey(),
                  someone.signer.pubkey())  # fmt: skip

    def set_signing_key(self, who: int, is_swapped: bool, by: int) -> None:
        both, someone, caller = self.both, self.both.people[who], self.both.people[by].controller
        key = self.both.people[1].signer.pubkey() if is_swapped else someone.signer.pubkey()
        known = {"controller": caller.pubkey(), "agent": someone.agent}
        sent = both.send("set_signing_key", key, known=known, signers=(caller,))
        both.told("set_signing_key", sent, self.model.set_signing_key, someone.agent, caller.pubkey(), key)

    def deposit_bond(self, who: int, part: int) -> None:
        both, someone = self.both, self.both.people[who]
        amount = both.setting.bond * part // BPS
        owner = both.world.payer
        known = {"owner": owner.pubkey(), "agent": someone.agent, "source": both.purse["reward"]}
        sent = both.send("deposit_bond", amount, known=known)
        both.told("deposit_bond", sent, self.model.deposit_bond, someone.agent, both.purse["reward"], amount)

    def withdraw_bond(self, who: int, part: int, is_exact: bool, by: int | None) -> None:
        both, someone = self.both, self.both.people[who]
        caller = both.people[who if by is None else by].controller
        agent = self.model.agents.get(someone.agent)
        vault = someone.vaults[-1] if someone.vaults else both.world.ledger.id
        amount = min(MOST_U64, (agent.bond if agent else 10**9) * part // BPS)
        if is_exact and agent:
            with suppress(Refused):
                amount = self.model.releasable(someone.agent, vault, both.feeds) + part % 2
        to = both.wallet_of(someone)
        known = {"controller": caller.pubkey(), "agent": someone.agent, "vault": vault, "destination": to}
        sent = both.send("withdraw_bond", amount, known=known, signers=(caller,))
        both.told(
            "withdraw_bond",
            sent,
            self.model.withdraw_bond,
            someone.agent,
            caller.pubkey(),
            vault,
            both.feeds,
            to,
            amount,
        )

    def fund_rewards(self, part: int) -> None:
        both = self.both
        amount = both.setting.cap * part // 2000
        known = {"funder": both.world.payer.pubkey(), "source": both.purse["reward"]}
        if not 0 <= amount <= MOST_U64:
            return
        sent = both.send("fund_rewards", amount, known=known)
        both.told("fund_rewards", sent, self.model.fund_rewards, both.purse["reward"], amount)

    # --- strategies

    def open_vault(self, who: int, flaw: str, fault: str, is_same: bool) -> None:
        both, w, someone = self.both, self.both.world, self.both.people[who]
        setting = both.setting
        self.salt += not is_same
        changes: dict[str, Any] = {
            "agent": someone.agent, "reward_rate": setting.rate, "reward_cap": setting.cap, "salt": self.salt,
        }  # fmt: skip
        if setting.is_pyth:
            changes["feed"] = w.feed(w.base_source, kind=2, decimals=PYTH_SHARD, max_confidence_bps=100)
        changes |= {
            "": {},
            "limits": {"limits": {"max_drawdown_bps": 900, "hard_drawdown_bps": 900}},
            "loose": {"limits": {"max_position_bps": 8001}},
            "rate": {"reward_rate": w.config.max_reward_rate + 1},
            "no rate": {"reward_rate": 0},
            "cap": {"reward_cap": min(MOST_U64, setting.cap * 7)},
            "feed": {"feed": w.feed(w.base_source, least_e8=9999)},
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
            id=self._id(manifest), agent=someone.agent, last_vault=known["last_vault"],
            quote_account=known["vault_quote"], base_account=known["vault_base"], quote_decimals=6,
            base_decimals=setting.base_decimals,
        )  # fmt: skip
        if not error and key in self.model.vaults:
            someone.vaults.append(key)

    def _id(self, manifest: Any) -> bytes:
        return hashlib.sha256(self.both.world.ledger.encode("Manifest", manifest)).digest()

    def update_vault(self, who: int, flaw: str, cap_part: int, changes: dict[str, int], word: int) -> None:
        if (found := self.vault_of(who)) is None:
            return
        someone, vault, known = found
        limits = self.both.world.manifest(limits=changes).limits
        cap, artefact = min(MOST_U64, self.both.setting.cap * cap_part // BPS), bytes([word] * 32)
        sent, decision = self.both.decide("update_vault", list(artefact), limits, cap, known=known, flaw=flaw)
        self.both.told(
            "update_vault", sent, self.model.update_vault, decision, vault, someone.agent, self.both.feeds, artefact,
            modelled(model.Limits, limits), cap,
        )  # fmt: skip

    def allocate(self, who: int, part: int, flaw: str) -> None:
        if (found := self.vault_of(who)) is None:
            return
        someone, vault, known = found
        amount = min(MOST_U64, self.both.setting.capital * part // BPS)
        sent, decision = self.both.decide("allocate", amount, known=known, flaw=flaw)
        self.both.told("allocate", sent, self.model.allocate, decision, vault, someone.agent, self.both.feeds, amount)

    def recall(
        self, who: int, is_quote: bool, part: int, fallback_part: int, where: str, flaw: str, is_old: bool
    ) -> None:
        """`where`: an account that is wrong for it, or "" for the right one."""
        if (found := self.vault_of(who, is_old)) is None:
            return
        _, vault, known = found
        both, v = self.both, self.model.vaults[vault]
        kind, other = ("quote", "base") if is_quote else ("base", "quote")
        amount = min(MOST_U64, (v.quote_held if is_quote else v.base_held) * part // BPS)
        fallback_e8 = v.last_price_e8 * fallback_part // BPS
        mint = both.world.quote_mint if is_quote else both.world.base_mint
        source, right = known["vault_" + kind], known["treasury"] if is_quote else both.kept["base"]
        to = {
            "kept": both.kept["quote"], "rewards": known["rewards"], "purse": both.purse[kind],
            "other": both.kept[other],
        }.get(where, right)  # fmt: skip
        if where == "source":
            source = known["vault_" + other]
        elif where == "mint":
            mint = both.world.reward_mint
        accounts = known | {"from": source, "to": to}
        sent, decision = both.decide("recall", mint, amount, fallback_e8, known=accounts, flaw=flaw)
        both.told("recall", sent, self.model.recall, decision, vault, both.feeds, source, to, mint, amount, fallback_e8)

    def govern(self, who: int, name: str, flaw: str) -> None:
        if (found := self.vault_of(who)) is None:
            return
        someone, vault, known = found
        sent, decision = self.both.decide(name, known=known, flaw=flaw)
        self.both.told(name, sent, getattr(self.model, name), decision, vault, someone.agent, self.both.feeds)

    def finish_retirement(self, who: int, is_old: bool) -> None:
        if (found := self.vault_of(who, is_old)) is None:
            return
        _, vault, known = found
        sent = self.both.send("finish_retirement", known=known)
        self.both.told("finish_retirement", sent, self.model.finish_retirement, vault)

    # --- the protocol's rules

    def set_guardians(self, threshold: int, flaw: str) -> None:
        guardians = self.both.world.config.guardians
        sent, decision = self.both.decide(
            "set_guardians", guardians, 3, threshold, known={}, subject="protocol", flaw=flaw
        )
        named = [bytes(guardian) for guardian in guardians]
        self.both.told("set_guardians", sent, self.model.set_guardians, decision, named, 3, threshold)

    def set_ceilings(self, changes: dict[str, int], flaw: str) -> None:
        limits = self.both.world.manifest(limits=changes).limits
        sent, decision = self.both.decide("set_ceilings", limits, known={}, subject="protocol", flaw=flaw)
        self.both.told("set_ceilings", sent, self.model.set_ceilings, decision, modelled(model.Limits, limits))

    def set_budget(self, part: int, flaw: str) -> None:
        budget = min(MOST_U64, self.both.setting.cap * part // BPS)
        sent, decision = self.both.decide("set_budget", budget, known={}, subject="protocol", flaw=flaw)
        self.both.told("set_budget", sent, self.model.set_budget, decision, budget)

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

    def withdraw_rewards(self, part: int, flaw: str) -> None:
        both, p = self.both, self.model.protocol
        assert p is not None
        amount, to = min(MOST_U64, p.free * part // BPS), both.purse["reward"]
        sent, decision = both.decide(
            "withdraw_rewards", amount, known={"destination": to}, subject="destination", flaw=flaw
        )
        both.told("withdraw_rewards", sent, self.model.withdraw_rewards, decision, to, amount)

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

    def stop_claims(self, seconds: int, flaw: str) -> None:
        until_s = self.model.now_s + seconds
        sent, decision = self.both.decide("stop_claims", until_s, known={}, subject="protocol", flaw=flaw)
        self.both.told("stop_claims", sent, self.model.stop_claims, decision, until_s)

    def allow_claims(self, flaw: str) -> None:
        sent, decision = self.both.decide("allow_claims", known={}, subject="protocol", flaw=flaw)
        self.both.told("allow_claims", sent, self.model.allow_claims, decision)

    # --- trading

    def trade(self, who: int, is_buy: bool, part: int, fault: str) -> None:
        if (found := self.vault_of(who)) is None:
            return
        v = self.model.vaults[found[1]]
        is_buy = is_buy or v.base_held == 0
        self.trade_amount(who, is_buy, (v.quote_held if is_buy else v.base_held) * part // BPS, fault)

    def trade_amount(self, who: int, is_buy: bool, amount: int, fault: str = "") -> None:
        someone, vault, known = self.vault_of(who) or pytest.fail("no vault")
        both, order = self.both, self.order(who, is_buy, amount, fault)
        signer = both.people[1 - who].controller if fault == "key" else someone.signer
        known["signing_key"] = signer.pubkey()
        words = {name: list(item) if isinstance(item, bytes) else item for name, item in plain(order).items()}
        sent_order = both.world.types["Order"](**words, reserved=[0] * 7)
        sent = both.send("trade", sent_order, known=known, signers=(signer,))
        both.told("trade", sent, self.model.trade, signer.pubkey(), vault, someone.agent, both.feeds, order)

    def order(self, who: int, is_buy: bool, amount: int, fault: str = "") -> Order:
        v = self.model.vaults[self.both.people[who].vaults[-1]]
        return Order(
            nonce=v.nonce + (fault == "nonce"), deadline_s=self.model.now_s - (fault == "late"),
            amount_in=0 if fault == "zero" else min(MOST_U64, amount), least_out=MOST_I64 if fault == "least" else 0,
            artefact_hash=bytes(32) if fault == "artefact" else v.manifest.artefact_hash,
            explanation_hash=bytes(32) if fault == "explanation" else EXPLAINED,
            observation_hash=bytes(32) if fault == "observation" else OBSERVED, is_buy=is_buy,
        )  # fmt: skip

    def trade_at_the_edge(self, who: int, is_buy: bool) -> None:
        """The largest amount that passes every limit, and one more."""
        if (found := self.vault_of(who)) is None:
            return
        someone, vault, _ = found
        v = self.model.vaults[vault]
        passes, fails = 0, (v.quote_held if is_buy else v.base_held) + 1
        while fails - passes > 1:
            amount = (passes + fails) // 2
            order = self.order(who, is_buy, amount)
            said = self.model.would(
                self.model.trade, someone.signer.pubkey(), vault, someone.agent, self.both.feeds, order
            )
            passes, fails = (amount, fails) if said == "TradeRecorded" else (passes, amount)
            if said in ("TradeRefused", "NotSigningKey"):
                break
        self.trade_amount(who, is_buy, fails)
        self.trade_amount(who, is_buy, passes)

    def observe(self, who: int, is_old: bool) -> None:
        if (found := self.vault_of(who, is_old)) is None:
            return
        someone, vault, known = found
        sent = self.both.send("observe", known=known)
        self.both.told("observe", sent, self.model.observe, vault, someone.agent, self.both.feeds)

    # --- settlement

    def close_window(self, who: int, is_old: bool) -> None:
        if (found := self.vault_of(who, is_old)) is None:
            return
        someone, vault, known = found
        sent = self.both.send("close_window", known=known)
        self.both.told("close_window", sent, self.model.close_window, vault, someone.agent)

    def reward_agent(self, who: int, off: int, is_old: bool) -> None:
        if (found := self.vault_of(who, is_old)) is None:
            return
        someone, vault, known = found
        pnl = self.model.vaults[vault].reward.pending_move + off
        sent = self.both.send("reward_agent", pnl, known=known)
        self.both.told("reward_agent", sent, self.model.reward_agent, vault, someone.agent, pnl)

    def close_by_decision(self, who: int, move: int, flaw: str) -> None:
        if (found := self.vault_of(who)) is None:
            return
        someone, vault, known = found
        sent, decision = self.both.decide("close_by_decision", move, known=known, flaw=flaw)
        self.both.told("close_by_decision", sent, self.model.close_by_decision, decision, vault, someone.agent, move)

    def claim(self, who: int, is_old: bool, is_to_another: bool) -> None:
        if (found := self.vault_of(who, is_old)) is None:
            return
        someone, vault, known = found
        to = self.both.purse["reward"] if is_to_another else self.both.wallet_of(someone)
        sent = self.both.send("claim", known=known | {"destination": to})
        self.both.told("claim", sent, self.model.claim, vault, someone.agent, self.both.feeds, to)

    def settle(self, who: int, change_bps: int, is_claimed: bool) -> None:
        """A whole epoch as it goes when everybody does his part."""
        self.wait("window", True)
        self.move_price(change_bps, True)
        self.observe(who, False)
        self.wait("end", True)
        self.close_window(who, False)
        if is_claimed:
            self.reward_agent(who, 1, False)
        self.reward_agent(who, 0, False)
        if is_claimed:
            self.wait(3599, True)
            self.claim(who, False, False)

    def crash(self, who: int, fall_bps: int, is_healed: bool) -> None:
        """The price falls below what the guard can catch; what can be taken out then, to the wei."""
        self.settle(who, 40, False)
        self.deposit_bond(who, 3 * BPS)
        self.trade(who, True, 6000, "")
        self.move_price(-fall_bps, True)
        self.withdraw_bond(who, 1, True, None)
        self.withdraw_bond(who, 2, True, None)
        self.observe(who, False)
        if is_healed:
            self.move_price(BPS * BPS // (BPS - fall_bps) - BPS, True)
            self.govern(who, "resume", "")

    def claim_when_allowed(self, who: int) -> None:
        """A second before claims are allowed again, and then."""
        self.settle(who, 300, False)
        self.wait(3600, True)
        self.stop_claims(60, "")
        for seconds in (59, 1):
            self.wait(seconds, True)
            self.claim(who, False, False)

    def blind(self, who: int, is_base: bool, what: str) -> None:
        """A feed breaks while all else is well: what can leave then."""
        self.settle(who, 40, False)
        self.break_feed(is_base, what)
        self.withdraw_bond(who, 100, False, None)
        self.claim(who, False, False)
        self.recall(who, False, 1000, BPS, "", "", False)

    def lose_base(self, who: int, is_found: bool) -> None:
        """Base is frozen for good; or it can be had after all, and comes back besides the books."""
        self.freeze(who, True)
        self.trade(who, False, 1000, "")
        self.govern(who, "write_off", "")
        self.recall(who, False, 3 * BPS, BPS, "", "", False)
        self.freeze(who, not is_found)
        self.recall_all(who)

    def recall_all(self, who: int) -> None:
        """All base that the vault's account holds, in the books or not."""
        if (found := self.vault_of(who)) is None:
            return
        _, vault, known = found
        both, mint, to = self.both, self.both.world.base_mint, self.both.kept["base"]
        source = known["vault_base"]
        accounts = known | {"from": source, "to": to}
        sent, decision = both.decide("recall", mint, MOST_U64, 0, known=accounts)
        both.told("recall", sent, self.model.recall, decision, vault, both.feeds, source, to, mint, MOST_U64, 0)

    def ruin(self, who: int) -> None:
        """After a reward the worst case, and worse than that: a debt stays, and there is no next vault."""
        self.trade(who, True, 6000, "")
        self.settle(who, 300, True)
        self.crash(who, 6000, False)
        self.move_price(-5000, True)
        self.succeed(who)

    def slide(self, who: int, falls_bps: list[int]) -> None:
        """A fall a day, each less than a day may lose."""
        for fall_bps in falls_bps:
            self.wait("day", True)
            self.move_price(-fall_bps, True)
            self.observe(who, False)

    def squeeze(self, who: int, limit: str, trades: list[tuple[bool, int]]) -> None:
        """A limit becomes tight while nothing else is wrong, then comes what it is against."""
        self.update_vault(who, "", BPS, {limit: LIMITS_TRIED[limit][0]}, 1)
        self.trade_at_the_edge(who, True)
        for is_buy, part in trades:
            self.move_price(10, True)
            self.trade(who, is_buy, part, "")

    def fall_behind(self, who: int, windows: int, is_observed: bool, move: int) -> None:
        """Windows in which nobody observed, but perhaps the last; then the DAO closes them."""
        for number in range(windows):
            self.wait("window", True)
            if is_observed and number == windows - 1:
                self.observe(who, False)
            self.wait("end", True)
        self.close_by_decision(who, move, "")

    def succeed(self, who: int, is_least: bool = False) -> None:
        """One vault's end, and the next one's beginning."""
        self.both.publish()
        self.govern(who, "retire", "")
        for is_quote in (True, False):
            self.recall(who, is_quote, 3 * BPS, BPS, "", "", False)
        self.settle(who, 0, True)
        self.settle(who, 0, True)
        self.finish_retirement(who, False)
        if is_least:
            self.withdraw_bond(who, BPS, False, None)
        self.deposit_bond(who, 1000 if is_least else BPS)
        self.wait("window", True)
        self.open_vault(who, "", "", False)
        self.observe(who, False)

    # --- what is always true, of what the program itself keeps

    def rewards_are_the_account_times_the_rate(self) -> None:
        for vault in self.model.vaults:
            kept = self.both.decoded(vault)
            r = kept["reward"]
            assert r["rewarded"] - r["clawed_back"] == kept["manifest"]["reward_rate"] * r["credited"]

    def rewards_account_holds_what_the_books_say(self) -> None:
        world = self.both.world
        p = self.both.decoded(world.protocol)
        owed = p["free"] + sum(self.both.decoded(agent)["bond"] for agent in self.model.agents)
        for vault in self.model.vaults:
            r = self.both.decoded(vault)["reward"]
            owed += r["earmark"] + r["unvested"] + r["vested"]
        assert world.balance(p["rewards"]) == owed + self.both.donated

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

    def caps_of_live_vaults_are_within_the_budget(self) -> None:
        p = self.both.decoded(self.both.world.protocol)
        live = [v for v in map(self.both.decoded, self.model.vaults) if v["reward"]["is_live"]]
        assert p["sum_of_caps"] == sum(v["manifest"]["reward_cap"] for v in live) <= p["config"]["budget_per_epoch"]

    def check_always(self) -> None:
        self.rewards_are_the_account_times_the_rate()
        self.rewards_account_holds_what_the_books_say()
        self.vaults_hold_what_their_books_say_and_no_token_is_lost()
        self.caps_of_live_vaults_are_within_the_budget()

    def check_at_the_end(self) -> None:
        """The events hash to every vault's head."""
        for vault, kept in self.model.vaults.items():
            said = self.both.entries.get(vault, [])
            verify_chain(self.both.world.ledger, said, self.both.decoded(vault)["head"])
            assert len(said) == kept.sequence


# How often, and what.
ACTIONS: dict[str, tuple[int, Callable[[Walk, Chance], None]]] = {
    "wait": (8, lambda w, c: w.wait(
        c.choice([1, 1, 60, 60, 599, 600, 3599, 3601, DAY_S, 2 * DAY_S, "window", "window", "end", "end", "day"]),
        not c.rarely(7))),
    "move price": (8, lambda w, c: w.move_price(
        c.choice([-6000, -2500, -1500, -600, 600, 2500, 9000]) if c.rarely(8) else c.randrange(-200, 220),
        not c.rarely(4))),
    "move quote": (2, lambda w, c: w.move_quote(
        c.choice([10**8] * 3 + [98 * 10**6, 98 * 10**6 - 1, 102 * 10**6, 99_123_456]))),
    "break feed": (3, lambda w, c: w.break_feed(c.rarely(2), c.choice(FEED_FAULTS))),
    "publish": (3, lambda w, c: w.publish()),
    "donate": (1, lambda w, c: w.donate(
        c.choice(["vault_quote", "vault_base", "rewards", "treasury"]), c.who(), c.randrange(10**6))),
    "register": (2, lambda w, c: w.register(c.who())),
    "set signing key": (1, lambda w, c: w.set_signing_key(c.who(), c.rarely(3), c.who())),
    "deposit bond": (3, lambda w, c: w.deposit_bond(c.who(), c.part())),
    "withdraw bond": (4, lambda w, c: w.withdraw_bond(c.who(), c.part(), c.rarely(3), 0 if c.rarely() else None)),
    "fund rewards": (3, lambda w, c: w.fund_rewards(c.part())),
    "open vault": (3, lambda w, c: w.open_vault(c.who(), c.flaw(), c.seldom(MANIFEST_FAULTS, 4), c.rarely())),
    "update vault": (3, lambda w, c: w.update_vault(
        c.who(), c.flaw(), c.choice([0, 1, 3000, BPS, BPS, BPS, 2 * BPS, 9 * BPS]), c.some(LIMITS_TRIED),
        c.randrange(1, 3))),
    "allocate": (5, lambda w, c: w.allocate(c.who(), c.part(), c.flaw())),
    "recall": (4, lambda w, c: w.recall(
        c.who(), c.rarely(2), c.part(), c.choice([0, 5000, BPS, BPS + 1]),
        c.seldom(["kept", "rewards", "purse", "other", "source", "mint"], 4), c.flaw(), c.rarely())),
    "freeze": (1, lambda w, c: w.freeze(c.who(), True)),
    "let go": (4, lambda w, c: w.freeze(c.who(), False)),
    "write off": (1, lambda w, c: w.govern(c.who(), "write_off", c.flaw())),
    "write off what is frozen": (1, lambda w, c: w.lose_base(c.who(), not c.rarely(3))),
    "resume": (5, lambda w, c: w.govern(c.who(), "resume", c.flaw())),
    "retire": (1, lambda w, c: w.govern(c.who(), "retire", c.flaw())),
    "halt": (1, lambda w, c: w.govern(c.who(), "halt", c.flaw())),
    "finish retirement": (2, lambda w, c: w.finish_retirement(c.who(), c.rarely())),
    "set guardians": (1, lambda w, c: w.set_guardians(c.choice([1, 2, 2, 3, 0, 4]), c.flaw())),
    "set ceilings": (1, lambda w, c: w.set_ceilings(c.some(CEILINGS_TRIED), c.flaw())),
    "set budget": (1, lambda w, c: w.set_budget(c.choice([0, 5000, 2 * BPS, 20 * BPS, 20 * BPS]), c.flaw())),
    "pay": (1, lambda w, c: w.pay(c.part(), c.choice(["treasury", "kept", "rewards"]), c.flaw())),
    "withdraw rewards": (1, lambda w, c: w.withdraw_rewards(c.part(), c.flaw())),
    "skip decision": (1, lambda w, c: w.skip_decision(not c.rarely(3), c.flaw())),
    "stop claims": (1, lambda w, c: w.stop_claims(c.choice([-1, 0, 0, 60, 60, 30 * DAY_S, 30 * DAY_S + 1]), c.flaw())),
    "allow claims": (2, lambda w, c: w.allow_claims(c.flaw())),
    "trade": (24, lambda w, c: w.trade(c.who(), not c.rarely(2), c.part(), c.seldom(ORDER_FAULTS, 16))),
    "observe": (6, lambda w, c: w.observe(c.who(), c.rarely())),
    "close window": (3, lambda w, c: w.close_window(c.who(), c.rarely())),
    "reward agent": (3, lambda w, c: w.reward_agent(c.who(), c.seldom([1, -1], 5), c.rarely())),
    "close by decision": (2, lambda w, c: w.close_by_decision(
        c.who(), c.choice([0, 0, 1, -1, -(10**6), -(10**9), -MOST_I64, -MOST_I64 - 1]), c.flaw())),
    "claim": (4, lambda w, c: w.claim(c.who(), c.rarely(), c.rarely())),
    "settle": (8, lambda w, c: w.settle(
        c.who(), c.choice([-700, -200, -30, 0, 40, 100, 300, 300, 900]), not c.rarely(3))),
    "squeeze": (3, lambda w, c: w.squeeze(
        c.who(), c.choice(sorted(LIMITS_TRIED)), [(not c.rarely(3), c.part()) for _ in range(3)])),
    "trade at the edge": (2, lambda w, c: w.trade_at_the_edge(c.who(), not c.rarely(3))),
    "crash": (2, lambda w, c: w.crash(c.who(), c.choice([1000, 2500, 6000]), not c.rarely(4))),
    "slide": (2, lambda w, c: w.slide(c.who(), [c.choice([0, 150, 400, 900]) for _ in range(c.randrange(1, 4))])),
    "claim when allowed": (1, lambda w, c: w.claim_when_allowed(c.who())),
    "blind": (1, lambda w, c: w.blind(c.who(), c.rarely(2), c.choice(["another", "missing", "old"]))),
    "ruin": (1, lambda w, c: w.ruin(c.who())),
    "begin anew": (1, lambda w, c: w.succeed(c.who(), c.rarely(2))),
    "fall behind": (1, lambda w, c: w.fall_behind(
        c.who(), c.randrange(1, 5), c.rarely(2), c.choice([0, -1, -(10**9)]))),
}  # fmt: skip
OFTEN = [name for name, (weight, _) in ACTIONS.items() for _ in range(weight)]
STEPS = 60

Step = tuple[str, int]


def steps_of(seed: int) -> tuple[str, bool, list[Step]]:
    """What the sequence of that number begins with, and does."""
    chance = random.Random(seed)
    steps = [(chance.choice(OFTEN), chance.randrange(2**32)) for _ in range(STEPS)]
    return chance.choice(list(SETTINGS)), chance.randrange(8) > 0, steps


def play(name: str, is_ready: bool, steps: list[Step]) -> Walk:
    """Does them; raises where program and model differ."""
    walk = Walk(beginning(name), is_ready=is_ready)
    for action, seed in steps:
        ACTIONS[action][1](walk, Chance(seed))
        walk.check_always()
    walk.check_at_the_end()
    return walk


def shortened(name: str, is_ready: bool, steps: list[Step]) -> list[Step]:
    """Of steps that end in a difference, those that are needed."""
    for place in reversed(range(len(steps))):
        fewer = steps[:place] + steps[place + 1 :]
        try:
            play(name, is_ready, fewer)
        except AssertionError:
            steps = fewer
    return steps


def test_program_and_model_agree_after_every_step_of_many_sequences() -> None:
    for number in range(SEQUENCES):
        name, is_ready, steps = steps_of(FIRST + number)
        try:
            play(name, is_ready, steps)
        except AssertionError:
            needed = shortened(name, is_ready, steps)
            print(f"sequence {FIRST + number}: play({name!r}, {is_ready}, {needed})")
            play(name, is_ready, needed)
            raise


# --- the model against numbers worked out by hand


VAULT, AGENT, NEXT_VAULT = (word.ljust(32) for word in (b"vault", b"agent", b"next vault"))
LIMITS = model.Limits(8000, 100, 400, 300, 1000, 50, 30000, 500, 1000, 2000)
START_S = 1_000 * DAY_S
EPOCH_S, WINDOW_S = 1000, 100


class Small:
    """A model of one protocol with round numbers: a rate of 10, a base token of three decimals at 2 dollars."""

    def __init__(self, capital: int = 10_000) -> None:
        feed = model.Feed("base feed", 1, 500, 0, 8, 10**4, 10**12)
        self.config = model.Config(
            cluster="cluster", evm_chain_id=1, outbox=b"", threshold=2, guardian_count=3,
            guardians=[bytes([number] * 20) for number in (1, 2, 3)] + [bytes(20)] * 13,
            quote_mint="quote", reward_mint="reward", chainlink="chainlink", pyth="pyth",
            quote_feed=model.Feed("quote feed", 1, 500, 0, 8, 98 * 10**6, 102 * 10**6), genesis_s=START_S,
            epoch_length_s=EPOCH_S, window_length_s=WINDOW_S, vesting_s=30, max_unsettled=2, budget_per_epoch=10**6,
            max_reward_rate=10, min_bond=1000, slippage_decay_s=1000, gap_allowance_bps=500, ceilings=LIMITS,
        )  # fmt: skip
        self.manifest = model.Manifest(b"\x01" * 32, AGENT, "base", feed, "venue", "pool", LIMITS, 10, 5000, 0)
        self.ledger = Ledger("protocol", START_S)
        tokens = {
            "payer's": "reward",
            "controller's": "reward",
            "pool quote": "quote",
            "pool base": "base",
            "kept": "base",
        }
        self.ledger.tokens = {name: Tokens(mint, name, 10**9) for name, mint in tokens.items()}
        self.ledger.tokens["controller's"].owner = "controller"
        self.ledger.tokens["kept"].owner = "protocol"
        self.ledger.markets["pool"] = Market("pool quote", "pool base", 100)
        self.price_e8, self.rounds = 2 * 10**8, 0
        self.ok(self.ledger.initialise, self.config, 3, id=b"", treasury="treasury", rewards="rewards")
        self.ledger.tokens["treasury"].amount = 10**9
        self.ok(self.ledger.register_agent, AGENT, "controller", "signer")
        self.ok(self.ledger.deposit_bond, AGENT, "payer's", 50_000)
        self.ok(self.ledger.fund_rewards, "payer's", 20_000)
        self.ok(self.ledger.open_vault, self.decision, self.manifest, key=VAULT, id=b"", agent=AGENT, last_vault="none",
                quote_account="vault quote", base_account="vault base", quote_decimals=3, base_decimals=3)  # fmt: skip
        if capital:
            self.ok(self.ledger.allocate, self.decision, VAULT, AGENT, self.feeds, capital)

    def ok(self, instruction: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        assert self.ledger.run(instruction, *args, **kwargs) == ""

    @property
    def decision(self) -> Decision:
        nonce = self.ledger.protocol.nonce if self.ledger.protocol else 0
        return Decision(nonce, self.ledger.now_s, (0, 2))

    @property
    def feeds(self) -> Feeds:
        now_s = self.ledger.now_s
        return Feeds(Round("base feed", 1, now_s, self.price_e8), Round("quote feed", 1, now_s, 10**8))

    @property
    def vault(self) -> model.Vault:
        return self.ledger.vaults[VAULT]

    def pay(self, amount_in: int, amount_out: int, *, is_buy: bool) -> None:
        """The market pays exactly that for it, at no fee."""
        self.ledger.markets["pool"].fee_bps = 0
        reserves = (amount_in, 2 * amount_out) if is_buy else (2 * amount_out, amount_in)
        self.ledger.tokens["pool quote"].amount, self.ledger.tokens["pool base"].amount = reserves

    def trade(self, amount_in: int, amount_out: int, *, is_buy: bool) -> str:
        self.pay(amount_in, amount_out, is_buy=is_buy)
        v = self.vault
        order = Order(
            v.nonce, self.ledger.now_s, amount_in, 0, v.manifest.artefact_hash, b"\x02" * 32, b"\x03" * 32, is_buy
        )
        return self.ledger.run(self.ledger.trade, "signer", VAULT, AGENT, self.feeds, order)

    def settle(self, *prices_e8: int) -> None:
        """The next window, observed at those prices, is closed."""
        schedule = model.Schedule(self.config)
        epoch = schedule.epoch_at(self.ledger.now_s)
        self.ledger.now_s = schedule.window_start_s(epoch)
        for self.price_e8 in prices_e8:
            self.ok(self.ledger.observe, VAULT, AGENT, self.feeds)
        self.ledger.now_s += WINDOW_S
        self.ok(self.ledger.close_window, VAULT, AGENT)


FEED = model.Feed("feed", 1, 60, 100, 8, 5, 10**10)


@pytest.mark.parametrize(
    ("account", "feed", "price_e8"),
    [
        (None, FEED, None),
        (Round("feed", 1, 161, 7), FEED, None),
        (Round("feed", 1, 160, 7), FEED, 7),
        (Round("feed", 1, 39, 7), FEED, None),
        (Round("feed", 1, 40, 7), FEED, 7),
        (Round("feed", 1, 100, 4), FEED, None),
        (Round("feed", 1, 100, 5), FEED, 5),
        (Round("feed", 1, 100, 10**10 + 1), FEED, None),
        (Round("feed", 1, 100, 0), FEED, None),
        (Round("feed", 1, 100, 1999, decimals=10), replace(FEED, decimals=10), 19),
        (Round("feed", 1, 100, 3, decimals=6), replace(FEED, decimals=6), 300),
        (Update("feed", 700, 100, 7), replace(FEED, kind=2), 700),
        (Update("feed", 700, 100, 8), replace(FEED, kind=2), None),
        (Update("feed", 799, 100, 7, exponent=-9), replace(FEED, kind=2), 79),
        (Update("feed", 2, 100, 0, exponent=0), replace(FEED, kind=2), 2 * 10**8),
        (Update("feed", 2, 100, 0, exponent=1), replace(FEED, kind=2), None),
        (Update("feed", 700, 100, 0, is_of_its_feed=False), replace(FEED, kind=2), None),
        (Update("feed", 700, 100, 0, is_full=False), replace(FEED, kind=2), None),
    ],
)
def test_model_price_is_there_or_it_is_not(account: Any, feed: model.Feed, price_e8: int | None) -> None:
    price = model.read_price(account, feed, 100)
    assert (price and price.price_e8) == price_e8


def test_model_buys_at_the_price_less_the_shortfall() -> None:
    w = Small()
    assert (w.vault.units, w.vault.quote_held, w.vault.net_flow) == (10_000, 10_000, -10_000)
    # 1,000 quote are 500 base at 2; the market pays 496, worth 992: 8 below, of at most 10 (100 bps).
    assert w.trade(1000, 496, is_buy=True) == ""
    v = w.vault
    assert (v.quote_held, v.base_held, v.nonce, v.sequence) == (9000, 496, 1, 1)
    assert (v.guard.slippage.level, v.guard.turnover_today, v.guard.trades_today) == (8, 1000, 1)
    assert v.guard.last_unit_price == 9992 * ONE // 10_000
    assert w.ledger.events[-1][1]["shortfall"] == 8
    # 1,000 base would be worth 2,000: more than is held.
    assert w.trade(1000, 2000, is_buy=False) == "InsufficientHoldings"
    assert w.trade(1000, 494, is_buy=True) == "SlippageExceeded"
    # A gain of 10 takes the 8 off the sum, and not below zero.
    assert w.trade(100, 210, is_buy=False) == ""
    assert w.vault.guard.slippage.level == 0


def test_model_adds_slippage_up_and_forgets_it_by_the_second() -> None:
    w = Small()
    w.vault.manifest.limits.max_cumulative_slippage_bps = 20  # 20 of 10,000
    w.vault.manifest.limits.max_trade_slippage_bps = 300
    w.ledger.protocol.config.ceilings.max_trade_slippage_bps = 300
    assert w.trade(1000, 490, is_buy=True) == ""
    assert w.trade(1000, 494, is_buy=True) == "CumulativeSlippageExceeded"
    # After 100 of 1,000 seconds a tenth of the cap is gone: 19 (of a value of 9,980) * 100 / 1000 = 1.
    w.ledger.now_s += 100
    assert w.trade(1000, 500, is_buy=True) == ""
    assert w.vault.guard.slippage.level == 19
    w.ledger.now_s += 400
    assert w.trade(1000, 500, is_buy=True) == ""
    assert w.vault.guard.slippage.level == 19 - 19 * 400 // 1000


def test_model_refuses_position_turnover_and_count_beyond_their_limits() -> None:
    w = Small()
    assert w.trade(8002, 4001, is_buy=True) == "PositionExceeded"
    assert w.trade(8000, 4000, is_buy=True) == ""
    # 30,000 of 10,000 may be turned over: 8,000, 8,000, 6,000, 6,000 and no 3,000 any more.
    assert w.trade(4000, 8000, is_buy=False) == ""
    assert w.trade(6000, 3000, is_buy=True) == ""
    assert w.trade(3000, 6000, is_buy=False) == ""
    assert w.trade(3000, 1500, is_buy=True) == "TurnoverExceeded"
    assert w.vault.guard.turnover_today == 28_000
    w.vault.manifest.limits.max_trades_per_day = w.vault.guard.trades_today
    assert w.trade(10, 5, is_buy=True) == "TradeCountExceeded"


def test_model_keeps_a_fall_in_mind_as_a_day_s_loss_then_a_drawdown_then_a_halt() -> None:
    w = Small()
    assert w.trade(8000, 4000, is_buy=True) == ""
    for price_e8, reasons in (
        (187_500_000, 0),  # value 9,500: exactly 500 bps below
        (187_400_000, model.DAY_LOSS),  # 9,496
        (200_000_000, model.DAY_LOSS),  # the day is over only at midnight
        (174_900_000, model.DAY_LOSS | model.DRAWDOWN),  # 8,996
        (150_000_000, model.DAY_LOSS | model.DRAWDOWN),  # 8,000: exactly the hard one
        (149_900_000, model.DAY_LOSS | model.DRAWDOWN | HALTED),
    ):
        w.price_e8 = price_e8
        w.ok(w.ledger.observe, VAULT, AGENT, w.feeds)
        assert w.vault.guard.reasons == reasons
    assert w.vault.guard.halted_at_s == START_S
    w.price_e8 = 2 * 10**8
    w.ok(w.ledger.resume, w.decision, VAULT, AGENT, w.feeds)
    assert (w.vault.guard.reasons, w.vault.guard.peak, w.vault.guard.halted_at_s) == (model.DAY_LOSS, ONE, 0)


def test_model_rolls_the_references_of_yesterday_and_today() -> None:
    w = Small()
    assert w.trade(5000, 2500, is_buy=True) == ""
    seen = []
    for days, price_e8 in ((0, 220_000_000), (1, 240_000_000), (1, 230_000_000), (3, 230_000_000)):
        w.ledger.now_s += days * DAY_S
        w.price_e8 = price_e8
        w.ok(w.ledger.observe, VAULT, AGENT, w.feeds)
        seen.append((w.vault.guard.before_today, w.vault.guard.before_yesterday))
    assert seen == [
        (ONE, ONE),
        (1_050_000_000, ONE),
        (1_100_000_000, 1_050_000_000),
        (1_075_000_000, 1_075_000_000),
    ]


def test_model_knows_the_worst_case() -> None:
    w = Small()
    # 10,000 units at 1.1 are 11,000; at the hard drawdown 8,800; after a gap of 500 bps 8,360; less 10,000.
    assert w.ledger._worst_profit(w.vault, 11 * ONE // 10, 11 * ONE // 10) == -1640
    assert w.ledger._worst_profit(w.vault, ONE // 2, ONE) == -5000


def test_model_rewards_the_lowest_of_a_window_and_takes_back_to_the_highest() -> None:
    w = Small()
    assert w.trade(5000, 2500, is_buy=True) == ""
    w.settle(212_000_000, 208_000_000, 240_000_000)
    # Profits of 300, 200 and 1,000: the account moves by 200, at a rate of 10.
    r = w.vault.reward
    assert (r.pending_move, r.window_lowest, r.window_highest, r.window_observations) == (200, 200, 1000, 3)
    assert w.ledger.run(w.ledger.reward_agent, VAULT, AGENT, 201) == "PnlMismatch"
    w.ok(w.ledger.reward_agent, VAULT, AGENT, 200)
    r = w.vault.reward
    assert (r.credited, r.rewarded, r.unvested, r.earmark, w.ledger.protocol.free) == (200, 2000, 2000, 5000, 13_000)
    # A third has vested after ten of thirty seconds.
    w.ledger.now_s += 10
    w.price_e8 = 208_000_000
    w.ok(w.ledger.claim, VAULT, AGENT, w.feeds, "controller's")
    assert w.ledger.events[-1][1]["amount"] == 666
    # Down to 50 at the highest: 1,500 are taken back, 1,334 of what is unclaimed and the rest from the bond.
    w.settle(202_000_000, 200_000_000)
    w.ok(w.ledger.reward_agent, VAULT, AGENT, -150)
    r = w.vault.reward
    assert (r.credited, r.clawed_back, r.unvested, r.vested) == (50, 1500, 0, 0)
    assert (w.ledger.agents[AGENT].bond, w.ledger.protocol.free) == (50_000 - 166, 14_500)
    assert r.rewarded - r.clawed_back == 10 * r.credited


def test_model_pays_no_more_than_the_cap_and_nothing_for_a_missed_window() -> None:
    w = Small()
    assert w.trade(5000, 2500, is_buy=True) == ""
    w.settle(250_000_000)
    assert w.vault.reward.pending_move == 500  # 5,000 / 10 of 1,250
    w.ok(w.ledger.reward_agent, VAULT, AGENT, 500)
    w.ledger.now_s += EPOCH_S
    w.settle(250_000_000)
    assert (w.ledger.events[-1][1]["is_missed"], w.vault.reward.is_pending) == (True, False)


def test_model_takes_back_whole_multiples_of_the_rate_only() -> None:
    w = Small()
    w.ledger.agents[AGENT].bond, w.vault.reward.is_pending, w.vault.reward.pending_move = 1009, True, -200
    w.vault.reward.credited = 200
    w.ok(w.ledger.reward_agent, VAULT, AGENT, -200)
    assert (w.vault.reward.credited, w.ledger.agents[AGENT].bond) == (100, 9)


def test_model_vests_at_the_mean_of_the_ends_rounded_up() -> None:
    r = model.Reward(unvested=100, vest_updated_s=0, vest_ends_s=20)
    r.vest(50, 30, now_s=10)
    # Half of 100 has vested; 50 for 10 seconds and 50 for 30 are 100 for 20.
    assert (r.vested, r.unvested, r.vest_ends_s) == (50, 100, 30)
    r.vest(1, 30, now_s=10)
    assert r.vest_ends_s == 10 + 21  # (100 * 20 + 30) / 101 = 20.09


def test_model_recalls_units_by_value_and_forgets_the_rest_when_empty() -> None:
    w = Small()
    assert w.trade(4000, 2000, is_buy=True) == ""
    w.price_e8 = 3 * 10**8
    # Of 12,000: 1,000 base are 3,000, so a quarter of the units.
    w.ok(w.ledger.recall, w.decision, VAULT, w.feeds, "vault base", "kept", "base", 1000, 0)
    assert (w.vault.units, w.vault.net_flow, w.vault.base_held) == (7500, -7000, 1000)
    missing = Feeds(None, w.feeds.quote)
    refused = w.ledger.run(
        w.ledger.recall, w.decision, VAULT, missing, "vault base", "kept", "base", 1000, 2 * 10**8 + 1
    )
    assert refused == "FallbackTooHigh"  # nobody has observed the price of 3
    w.ok(w.ledger.recall, w.decision, VAULT, missing, "vault base", "kept", "base", 1000, 10**8)
    assert (w.vault.units, w.vault.net_flow) == (7500 - 7500 * 1000 // 7000, -6000)
    w.ok(w.ledger.recall, w.decision, VAULT, missing, "vault quote", "treasury", "quote", MOST_U64, 0)
    assert (w.vault.units, w.vault.net_flow, w.vault.emptied_s) == (0, 0, START_S)


def test_model_wants_what_was_signed_in_its_turn_and_in_time() -> None:
    w = Small(capital=0)
    good = w.decision
    for bad, error in (
        (replace(good, nonce=good.nonce + 1), "BadAttestation"),
        (replace(good, is_intact=False), "BadAttestation"),
        (replace(good, kind=1), "BadAttestation"),
        (replace(good, signers=(2, 0)), "BadAttestation"),
        (replace(good, signers=(0, 0)), "BadAttestation"),
        (replace(good, signers=(0, 3)), "BadAttestation"),
        (replace(good, signers=(0,)), "NotEnoughGuardians"),
        (replace(good, expires_s=START_S - 1), "DecisionExpired"),
    ):
        before = copy.deepcopy(vars(w.ledger))
        assert w.ledger.run(w.ledger.allocate, bad, VAULT, AGENT, w.feeds, 100) == error
        assert vars(w.ledger) == before | {"events": []}
    assert w.ledger.run(w.ledger.skip_decision, good) == "DecisionNotExpired"
    w.ok(w.ledger.skip_decision, replace(good, expires_s=START_S - 1))
    assert w.ledger.run(w.ledger.allocate, good, VAULT, AGENT, w.feeds, 100) == "BadAttestation"


def test_model_pool_pays_by_the_product_less_the_fee() -> None:
    # 990 of 1,000 count: 50,000 * 990 / (100,000 + 990) = 490.1
    assert Market("", "", 100).amount_out(100_000, 50_000, 1000) == 490


def test_model_entry_has_the_bytes_of_the_event_without_kind_and_head() -> None:
    assert struct.calcsize(model._ENTRY) == 336 - 32
