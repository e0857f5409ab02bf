"""A Solana chain in the process with a protocol, an agent, a vault and a market, and short ways to use them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils import keccak
from solders.account import Account as Stored
from solders.clock import Clock
from solders.compute_budget import set_compute_unit_limit
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, create_account
from solders.transaction import Transaction
from solders.transaction_metadata import FailedTransactionMetadata
from spl.token.instructions import (
    InitializeAccountParams,
    InitializeMintParams,
    MintToParams,
    initialize_account,
    initialize_mint,
    mint_to,
)

from agents.solana_program import TOKEN_PROGRAM, Event, Ledger, Pool, failure

GENESIS_S = 1_790_000_000 // 86400 * 86400
EPOCH_S, WINDOW_S, VESTING_S = 7200, 600, 30 * 86400
CHAINLINK = Pubkey.from_string("HEvSKofvBgfaexv23kMabbYqxasxU3mQ4ibBMEmJWHny")
PYTH = Pubkey.from_string("rec5EKMGg6MxZYaMdyBfgwp4d5rB9T1VQH5pJv5LtFJ")
CEILINGS = {
    "max_position_bps": 8000,
    "max_trade_slippage_bps": 100,
    "max_cumulative_slippage_bps": 400,
    "max_reduce_slippage_bps": 300,
    "max_reduce_cumulative_slippage_bps": 1000,
    "max_trades_per_day": 50,
    "max_daily_turnover_bps": 30000,
    "max_daily_loss_bps": 500,
    "max_drawdown_bps": 1000,
    "hard_drawdown_bps": 2000,
}
QUOTE, TOKEN = 10**6, 10**9
ARTEFACT, EXPLAINED, OBSERVED = (
    hashlib.sha256(word).digest() for word in (b"artefact", b"explanation", b"observation")
)
UNITS_LIMIT = 1_400_000


@dataclass(frozen=True)
class Sent:
    """What became of a transaction. `error`: the program's name for it, or what the runtime says; empty if well."""

    error: str
    logs: list[str]
    units: int
    events: list[Event]

    def event(self, name: str) -> dict[str, Any]:
        """The fields of the one event of that name."""
        [found] = [event for event in self.events if event.name == name]
        return found.fields


def guardian_keys(count: int) -> list[Any]:
    """Keys of guardians, always the same."""
    return [Account.from_key(keccak(text=f"guardian {number}")) for number in range(count)]


def transmissions(
    rounds: Sequence[tuple[int, int, int]], *, decimals: int = 8, version: int = 2, length: int = 8
) -> bytes:
    """A Chainlink account whose live ring got those (round, time, answer)."""
    latest = rounds[-1][0] if rounds else 0
    ring = [bytes(48)] * length
    for number, (_, at_s, answer) in enumerate(rounds):
        ring[number % length] = struct.pack("<QI4x", 1, at_s) + answer.to_bytes(16, "little", signed=True) + bytes(16)
    header = bytearray(192)
    header[0], header[130] = version, decimals
    struct.pack_into("<IBII", header, 135, latest, 0, length, len(rounds) % length)
    kind = hashlib.sha256(b"account:Transmissions").digest()[:8]
    return kind + bytes(header) + b"".join(ring)


def price_update(
    feed_id: bytes,
    price: int,
    published_s: int,
    *,
    confidence: int = 0,
    exponent: int = -8,
    verification: bytes = b"\x01",
) -> bytes:
    """A Pyth account."""
    message = feed_id + struct.pack(
        "<qQiqqqQ", price, confidence, exponent, published_s, published_s, price, confidence
    )
    kind = hashlib.sha256(b"account:PriceUpdateV2").digest()[:8]
    return (kind + bytes(32) + verification + message + struct.pack("<Q", 1)).ljust(134, b"\0")


@dataclass
class World:
    """One protocol with one agent; `open_vault` and `fund` bring it to where it trades."""

    quote_price_e8: int = 10**8
    base_price_e8: int = 2_000 * 10**8
    base_decimals: int = 9
    start_s: int = GENESIS_S + 100
    config_changes: dict[str, Any] = field(default_factory=dict)
    svm: LiteSVM = field(default_factory=lambda: LiteSVM().with_blockhash_check(False).with_transaction_history(0))

    # Told what is about to be sent, and by whom: for tests that try something else first.
    before_send: Callable[[Sequence[Instruction], Sequence[Keypair]], None] | None = None

    def __post_init__(self) -> None:
        self.ledger = Ledger(Pubkey.from_bytes(hashlib.sha256(b"marketflow_ledger").digest()))
        self.market = Pool(Pubkey.from_bytes(hashlib.sha256(b"marketflow_pool").digest()))
        for program in (self.ledger, self.market):
            self.svm.add_program(program.id, program.binary)
        self.now_s, self.rounds = self.start_s, 0
        self.set_clock(self.now_s)
        self.payer, self.controller, self.signer, self.maker = (
            self._key(name) for name in ("payer", "controller", "signer", "maker")
        )
        self.guardians = guardian_keys(3)
        self.quote_mint, self.base_mint, self.reward_mint = (
            self.mint(name, decimals) for name, decimals in (("quote", 6), ("base", self.base_decimals), ("reward", 9))
        )
        self.base_source, self.quote_source = (
            Pubkey.from_bytes(hashlib.sha256(word).digest()) for word in (b"feed base", b"feed quote")
        )
        self.outbox = bytes(range(20))
        self.config = self.types["Config"](**(self._config() | self.config_changes))
        self.protocol = self.ledger.protocol(self.config)
        self.known = self.ledger.known(self.protocol) | {
            "payer": self.payer.pubkey(),
            "quote_mint": self.quote_mint,
            "reward_mint": self.reward_mint,
            "base_mint": self.base_mint,
            "controller": self.controller.pubkey(),
            "signing_key": self.signer.pubkey(),
            "base_feed": self.base_source,
            "quote_feed": self.quote_source,
            "venue": self.market.id,
            "agent": self.ledger.agent(self.protocol, self.controller.pubkey()),
        }
        self.publish()

    @property
    def types(self) -> Any:
        return self.ledger.types

    # --- the chain

    def _key(self, name: str) -> Keypair:
        key = Keypair.from_seed(hashlib.sha256(name.encode()).digest())
        self.svm.airdrop(key.pubkey(), 10**12)
        return key

    def set_clock(self, now_s: int) -> None:
        """Moves the chain's clock."""
        self.now_s = now_s
        self.svm.set_clock(Clock(1, 0, 0, 0, now_s))

    def send(self, *instructions: Instruction, signers: Sequence[Keypair] = (), payer: Keypair | None = None) -> Sent:
        """Sends one transaction, signed by the payer and whoever else must."""
        payer = payer or self.payer
        if self.before_send:
            self.before_send(instructions, [payer, *signers])
        self.svm.expire_blockhash()
        message = Message([set_compute_unit_limit(UNITS_LIMIT), *instructions], payer.pubkey())
        keys = list({bytes(key.pubkey()): key for key in (payer, *signers)}.values())
        result = self.svm.send_transaction(Transaction(keys, message, self.svm.latest_blockhash()))
        failed = isinstance(result, FailedTransactionMetadata)
        meta = result.meta() if failed else result
        logs = meta.logs()
        events = [] if failed else [e for p in (self.ledger, self.market) for e in p.events(logs)]
        if not failed:
            keys = message.account_keys
            calls = [
                (keys[c.instruction().program_id_index], bytes(c.instruction().data))
                for group in meta.inner_instructions()
                for c in group
            ]
            events += self.ledger.entries(calls)
        return Sent(self._error(result.err(), logs) if failed else "", logs, meta.compute_units_consumed(), events)

    def _error(self, error: Any, logs: Sequence[str]) -> str:
        """The name of the error of the program that refused, or what the runtime says."""
        found = failure(logs, self.ledger, self.market)
        return found.name if found else str(getattr(error, "err", error))

    def mint(self, name: str, decimals: int) -> Pubkey:
        """Makes a mint whose authority is the payer."""
        self._key(f"mint {name}")
        rent = self.svm.minimum_balance_for_rent_exemption(82)
        key2 = Keypair.from_seed(hashlib.sha256(f"mint account {name}".encode()).digest())
        made = self.send(
            create_account(
                CreateAccountParams(
                    from_pubkey=self.payer.pubkey(),
                    to_pubkey=key2.pubkey(),
                    lamports=rent,
                    space=82,
                    owner=TOKEN_PROGRAM,
                )
            ),
            initialize_mint(
                InitializeMintParams(
                    decimals=decimals,
                    program_id=TOKEN_PROGRAM,
                    mint=key2.pubkey(),
                    mint_authority=self.payer.pubkey(),
                    freeze_authority=None,
                )
            ),
            signers=[key2],
        )
        assert made.error == "", made.logs
        return key2.pubkey()

    def token_account(self, name: str, mint: Pubkey, owner: Pubkey, amount: int = 0) -> Pubkey:
        """Makes a token account, with newly minted tokens in it."""
        key = Keypair.from_seed(hashlib.sha256(f"token {name}".encode()).digest())
        rent = self.svm.minimum_balance_for_rent_exemption(165)
        instructions = [
            create_account(
                CreateAccountParams(
                    from_pubkey=self.payer.pubkey(),
                    to_pubkey=key.pubkey(),
                    lamports=rent,
                    space=165,
                    owner=TOKEN_PROGRAM,
                )
            ),
            initialize_account(
                InitializeAccountParams(program_id=TOKEN_PROGRAM, account=key.pubkey(), mint=mint, owner=owner)
            ),
        ]
        made = self.send(*instructions, signers=[key])
        assert made.error == "", made.logs
        if amount:
            self.mint_to(key.pubkey(), mint, amount)
        return key.pubkey()

    def mint_to(self, account: Pubkey, mint: Pubkey, amount: int) -> None:
        """Mints tokens into an account."""
        params = MintToParams(
            program_id=TOKEN_PROGRAM, mint=mint, dest=account, mint_authority=self.payer.pubkey(), amount=amount
        )
        made = self.send(mint_to(params))
        assert made.error == "", made.logs

    def balance(self, account: Pubkey) -> int:
        """Tokens in an account."""
        return int.from_bytes(self.svm.get_account(account).data[64:72], "little")

    def state(self, name: str) -> Any:
        """One of the program's accounts, decoded: "protocol", "agent" or "vault"."""
        return self.ledger.decode(bytes(self.svm.get_account(self.known[name]).data))

    def put(self, address: Pubkey, data: bytes, owner: Pubkey) -> None:
        """Writes an account that other programs would."""
        self.svm.set_account(address, Stored(10**9, data, owner, False, 0))

    # --- prices

    def publish(self, base_e8: int | None = None, quote_e8: int | None = None, *, at_s: int | None = None) -> None:
        """A round of both feeds, now."""
        self.base_price_e8, self.quote_price_e8 = base_e8 or self.base_price_e8, quote_e8 or self.quote_price_e8
        self.rounds += 1
        for source, price in ((self.base_source, self.base_price_e8), (self.quote_source, self.quote_price_e8)):
            self.put(source, transmissions([(self.rounds, at_s or self.now_s, price)]), CHAINLINK)

    def wait(self, seconds: int) -> None:
        """Time passes, and the feeds say the same again."""
        self.set_clock(self.now_s + seconds)
        self.publish()

    # --- what is decided

    def feed(self, source: Pubkey, **changes: Any) -> Any:
        """A Chainlink feed that may be an hour old."""
        fields = {
            "source": source,
            "kind": 1,
            "max_age_s": 3600,
            "max_confidence_bps": 100,
            "decimals": 8,
            "least_e8": 10**4,
            "most_e8": 10**14,
        }
        return self.types["Feed"](**(fields | changes))

    def _config(self) -> dict[str, Any]:
        guardians = [list(bytes.fromhex(key.address[2:])) for key in self.guardians]
        return {
            "cluster": Pubkey.default(),
            "evm_chain_id": 31337,
            "outbox": list(self.outbox),
            "threshold": 2,
            "guardian_count": 3,
            "reserved": [0, 0],
            "guardians": guardians + [[0] * 20] * (16 - len(guardians)),
            "quote_mint": self.quote_mint,
            "reward_mint": self.reward_mint,
            "chainlink": CHAINLINK,
            "pyth": PYTH,
            "quote_feed": self.feed(self.quote_source, least_e8=98 * 10**6, most_e8=102 * 10**6),
            "genesis_s": GENESIS_S,
            "epoch_length_s": EPOCH_S,
            "window_length_s": WINDOW_S,
            "vesting_s": VESTING_S,
            "max_unsettled": 3,
            "budget_per_epoch": 10**6 * TOKEN,
            "max_reward_rate": 10**6,
            "min_bond": 100 * TOKEN,
            "slippage_decay_s": 86400,
            "gap_allowance_bps": 500,
            "ceilings": self.types["Limits"](**CEILINGS),
        }

    def manifest(self, **changes: Any) -> Any:
        """A strategy of the world's agent on the world's market, within the ceilings."""
        limits = self.types["Limits"](**(CEILINGS | changes.pop("limits", {})))
        fields = {
            "artefact_hash": list(ARTEFACT),
            "agent": self.known["agent"],
            "base_mint": self.base_mint,
            "feed": self.feed(self.base_source),
            "venue": self.market.id,
            "pool": self.market.known(self.maker.pubkey(), self.quote_mint, self.base_mint)["pool"],
            "limits": limits,
            "reward_rate": 10**4,
            "reward_cap": 10**4 * TOKEN,
            "salt": 0,
        }
        return self.types["Manifest"](**(fields | changes))

    def attest(
        self,
        instruction: Instruction,
        subject: Pubkey,
        *,
        kind: int = 0,
        nonce: int | None = None,
        expires_s: int | None = None,
        signers: Sequence[int] = (0, 1),
        payload: bytes | None = None,
    ) -> Any:
        """The guardians' word for an instruction that was built with an empty decision."""
        expires_s = self.now_s + 3600 if expires_s is None else expires_s
        state = self.state("protocol")
        nonce = (state.stops_ended if kind else state.nonce) if nonce is None else nonce
        data = bytes(instruction.data)
        payload = data[:8] + bytes(subject) + data[8:-12] if payload is None else payload
        digest = keccak(
            b"MarketFlow decision v1"
            + bytes([kind])
            + bytes(self.ledger.id)
            + bytes(self.protocol)
            + self.config.evm_chain_id.to_bytes(8, "big")
            + self.outbox
            + nonce.to_bytes(8, "big")
            + expires_s.to_bytes(8, "big")
            + keccak(payload)
        )
        signatures = []
        for number in signers:
            signed = self.guardians[number].sign_message(encode_defunct(digest))
            rs = signed.r.to_bytes(32, "big") + signed.s.to_bytes(32, "big")
            signatures.append(self.types["Signature"](guardian=number, recovery_id=signed.v - 27, signature=list(rs)))
        return self.types["Decision"](expires_s=expires_s, signatures=signatures)

    def decided(
        self, name: str, *args: Any, subject: str = "vault", known: dict[str, Pubkey] | None = None, **how: Any
    ) -> Instruction:
        """An instruction by decision, attested."""
        known = self.known | (known or {})
        empty = self.types["Decision"](expires_s=0, signatures=[])
        bare = self.ledger.instruction(name, known, *args, empty)
        kind = 1 if name in ("halt", "stop_claims") else 0
        return self.ledger.instruction(name, known, *args, self.attest(bare, known[subject], kind=kind, **how))

    def decide(self, name: str, *args: Any, **how: Any) -> Sent:
        """Sends it."""
        return self.send(self.decided(name, *args, **how))

    def call(self, name: str, *args: Any, signers: Sequence[Keypair] = (), **known: Pubkey) -> Sent:
        """Sends an instruction that needs no decision."""
        return self.send(self.ledger.instruction(name, self.known | known, *args), signers=signers)

    # --- the way to a vault that trades

    def initialise(self) -> Sent:
        """The protocol begins."""
        return self.call("initialise", self.config)

    def register(self, bond: int = 30_000 * TOKEN) -> Sent:
        """The agent, with a bond."""
        sent = self.call("register_agent", self.signer.pubkey(), signers=[self.controller])
        if bond and not sent.error:
            sent = self.bond(bond)
        return sent

    def bond(self, amount: int) -> Sent:
        """More bond, newly minted."""
        source = self.wallet("reward", self.payer.pubkey(), amount)
        known = self.known | {"owner": self.payer.pubkey(), "source": source}
        return self.send(self.ledger.instruction("deposit_bond", known, amount))

    def fund_rewards(self, amount: int) -> Sent:
        """What rewards are paid from, newly minted."""
        source = self.wallet("reward", self.payer.pubkey(), amount)
        return self.call("fund_rewards", amount, funder=self.payer.pubkey(), source=source)

    def wallet(self, token: str, owner: Pubkey, amount: int = 0) -> Pubkey:
        """That owner's account of "quote", "base" or "reward", with that much more in it."""
        mint = {"quote": self.quote_mint, "base": self.base_mint, "reward": self.reward_mint}[token]
        name = f"{token} of {owner}"
        address = Keypair.from_seed(hashlib.sha256(f"token {name}".encode()).digest()).pubkey()
        if self.svm.get_account(address) is None:
            return self.token_account(name, mint, owner, amount)
        if amount:
            self.mint_to(address, mint, amount)
        return address

    def open_vault(self, **changes: Any) -> Sent:
        """The DAO approves a strategy; the world's vault is from then on the new one."""
        manifest = self.manifest(**changes)
        last = self.state("agent").vault
        known = self.ledger.known(self.protocol, vault=self.ledger.vault(self.protocol, manifest))
        known["last_vault"] = self.ledger.id if last == Pubkey.default() else last
        sent = self.decide("open_vault", manifest, known=known)
        if not sent.error:
            self.known |= known
        return sent

    def allocate(self, amount: int) -> Sent:
        """Capital from the treasury, newly minted."""
        self.mint_to(self.known["treasury"], self.quote_mint, amount)
        return self.decide("allocate", amount)

    def recall(self, token: str, amount: int = 2**64 - 1, fallback_e8: int = 0, **known: Pubkey) -> Sent:
        """Quote back to the treasury, or base to an account of the protocol's."""
        mint = self.quote_mint if token == "quote" else self.base_mint
        to = self.known["treasury"] if token == "quote" else self.wallet("base", self.protocol)
        accounts = {"from": self.known[f"vault_{token}"], "to": to} | {k.rstrip("_"): v for k, v in known.items()}
        return self.decide("recall", mint, amount, fallback_e8, known=accounts)

    def make_market(self, quote: int, fee_bps: int = 5) -> Sent:
        """A pool at the feeds' price, so deep."""
        base = quote * 10**self.base_decimals * self.quote_price_e8 // (self.base_price_e8 * QUOTE)
        known = self.market.known(self.maker.pubkey(), self.quote_mint, self.base_mint) | {"payer": self.payer.pubkey()}
        known |= {
            "quote_source": self.wallet("quote", self.maker.pubkey(), quote),
            "base_source": self.wallet("base", self.maker.pubkey(), base),
        }
        self.known |= {name: known[name] for name in ("pool", "pool_quote", "pool_base")}
        made = self.send(self.market.instruction("create_pool", known, fee_bps), signers=[self.maker])
        if made.error:
            return made
        return self.send(self.market.instruction("add_liquidity", known, quote, base), signers=[self.maker])

    def move_market(self) -> None:
        """The arbitrageur: the pool's reserves follow the feeds, at the same depth in quote."""
        quote = self.balance(self.known["pool_quote"])
        base = quote * 10**self.base_decimals * self.quote_price_e8 // (self.base_price_e8 * QUOTE)
        self.set_reserves(quote, base)

    def set_reserves(self, quote: int, base: int) -> None:
        """The pool has that much of both."""
        for name, amount in (("pool_quote", quote), ("pool_base", base)):
            stored = self.svm.get_account(self.known[name])
            data = bytearray(stored.data)
            data[64:72] = amount.to_bytes(8, "little")
            self.svm.set_account(self.known[name], Stored(stored.lamports, bytes(data), stored.owner, False, 0))

    def order(self, amount_in: int, *, is_buy: bool, **changes: Any) -> Any:
        """The agent's next order."""
        fields = {
            "nonce": self.state("vault").nonce,
            "deadline_s": self.now_s + 60,
            "amount_in": amount_in,
            "least_out": 0,
            "artefact_hash": list(ARTEFACT),
            "explanation_hash": list(EXPLAINED),
            "observation_hash": list(OBSERVED),
            "is_buy": is_buy,
            "reserved": [0] * 7,
        }
        return self.types["Order"](**(fields | changes))

    def trade(
        self,
        amount_in: int,
        *,
        is_buy: bool,
        signer: Keypair | None = None,
        known: dict[str, Pubkey] | None = None,
        **changes: Any,
    ) -> Sent:
        """The agent trades."""
        signer = signer or self.signer
        known = self.known | {"signing_key": signer.pubkey()} | (known or {})
        order = self.order(amount_in, is_buy=is_buy, **changes)
        return self.send(self.ledger.instruction("trade", known, order), signers=[signer])

    @classmethod
    def trading(cls, capital: int = 10_000 * QUOTE, **kwargs: Any) -> World:
        """A world whose vault has capital and a market."""
        world = cls(**kwargs)
        steps = (
            world.initialise,
            world.register,
            lambda: world.fund_rewards(10**5 * TOKEN),
            world.open_vault,
            lambda: world.allocate(capital),
            lambda: world.make_market(10**6 * QUOTE),
        )
        for step in steps:
            sent = step()
            assert sent.error == "", (sent.error, sent.logs)
        return world
