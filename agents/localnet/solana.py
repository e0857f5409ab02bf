"""A local Solana chain with what the protocol needs around it: tokens, price feeds, and a market kept at their price.

Every change is a transaction of a key, but for the feeds: they belong to Chainlink's program, so their accounts are
written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, Final

from solana.rpc.api import Client
from solders.account import Account
from solders.compute_budget import set_compute_unit_limit
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, create_account
from solders.transaction import VersionedTransaction
from spl.token.instructions import (
    InitializeAccountParams,
    InitializeMintParams,
    MintToParams,
    initialize_account,
    initialize_mint,
    mint_to,
)

from agents.errors import AgentError
from agents.solana_local_feeds import chainlink_account
from agents.solana_node import SolanaNode
from agents.solana_program import TOKEN_PROGRAM, Event, Ledger, Pool, failure
from oracle.solana_feeds import CHAINLINK_STORE, PYTH_RECEIVER

BPS: Final = 10_000
PRICE_ONE: Final = 10**8
QUOTE_DECIMALS, BASE_DECIMALS, TOKEN_DECIMALS = 6, 9, 9
CHAINLINK, PYTH = Pubkey.from_string(CHAINLINK_STORE), Pubkey.from_string(PYTH_RECEIVER)
# Of a mint and of a token account.
_MINT_BYTES, _ACCOUNT_BYTES = 82, 165
_UNITS: Final = 1_000_000
_SOL: Final = 10**9


class SolanaRefused(AgentError):
    """The chain refused a transaction; says which program, and why."""


def local_key(name: str) -> Keypair:
    """A key that belongs to a name on a local chain, and to nobody anywhere else."""
    return Keypair.from_seed(hashlib.sha256(f"MarketFlow's local Solana: {name}".encode()).digest())


def program_id(name: str) -> Pubkey:
    """Where a program lies on a local chain."""
    return local_key(f"program {name}").pubkey()


@dataclass(frozen=True, slots=True)
class Round:
    """One round of a feed."""

    number: int
    at_s: int
    answer_e8: int


class LocalSolana:
    """The chain, its people and their tokens. Amounts are base units; prices dollars x 1e8.

    Args:
        node: The chain.
        base_price_e8: What the market begins at.
        liquidity: Quote in the market, in base units; base is worth as much.
    """

    def __init__(self, node: SolanaNode, *, base_price_e8: int, liquidity: int, fee_bps: int = 5) -> None:
        self.node, self.client = node, Client("http://solana.invalid")
        self.client = node.client()
        self.ledger, self.market = Ledger(program_id("ledger")), Pool(program_id("pool"))
        for program in (self.ledger, self.market):
            node.add_program(program.id, program.binary)
        self.authority, self.maker, self.trader = (self.person(name) for name in ("authority", "maker", "arbitrageur"))
        self.quote, self.base, self.token = (
            self._mint(name, decimals)
            for name, decimals in (("quote", QUOTE_DECIMALS), ("base", BASE_DECIMALS), ("token", TOKEN_DECIMALS))
        )
        self.feeds: Mapping[str, Pubkey] = {name: local_key(f"feed {name}").pubkey() for name in ("base", "quote")}
        self._rounds: dict[str, list[Round]] = {"base": [], "quote": []}
        self.price_e8 = base_price_e8
        self._open_market(liquidity, fee_bps)

    # People and transactions

    def person(self, name: str) -> Keypair:
        """A key with lamports."""
        key = local_key(name)
        if self.node.get_account(key.pubkey()) is None:
            self.node.airdrop(key.pubkey(), 1000 * _SOL)
        return key

    def send(self, *instructions: Instruction, signers: Sequence[Keypair]) -> list[Event]:
        """One transaction, paid by the first signer; the events of the ledger's program. Raises SolanaRefused."""
        blockhash = self.client.get_latest_blockhash().value.blockhash
        wanted = [set_compute_unit_limit(_UNITS), *instructions]
        message = Message.new_with_blockhash(wanted, signers[0].pubkey(), blockhash)
        transaction = VersionedTransaction(message, list(signers))
        simulated = self.client.simulate_transaction(transaction).value
        logs = simulated.logs or []
        if simulated.err is not None:
            raise SolanaRefused(str(failure(logs, self.ledger, self.market) or simulated.err))
        self.client.send_transaction(transaction)
        return list(self.ledger.events(logs))

    # Tokens

    def _mint(self, name: str, decimals: int) -> Pubkey:
        key = local_key(f"mint {name}")
        self.send(
            self._create(key, _MINT_BYTES),
            initialize_mint(
                InitializeMintParams(
                    decimals=decimals,
                    program_id=TOKEN_PROGRAM,
                    mint=key.pubkey(),
                    mint_authority=self.authority.pubkey(),
                    freeze_authority=None,
                )
            ),
            signers=[self.authority, key],
        )
        return key.pubkey()

    def _create(self, key: Keypair, size: int) -> Instruction:
        lamports = self.client.get_minimum_balance_for_rent_exemption(size).value
        return create_account(
            CreateAccountParams(
                from_pubkey=self.authority.pubkey(),
                to_pubkey=key.pubkey(),
                lamports=lamports,
                space=size,
                owner=TOKEN_PROGRAM,
            )
        )

    def wallet(self, mint: Pubkey, owner: Pubkey) -> Pubkey:
        """That owner's account for a token."""
        key = local_key(f"wallet {mint} {owner}")
        if self.node.get_account(key.pubkey()) is None:
            params = InitializeAccountParams(program_id=TOKEN_PROGRAM, account=key.pubkey(), mint=mint, owner=owner)
            self.send(self._create(key, _ACCOUNT_BYTES), initialize_account(params), signers=[self.authority, key])
        return key.pubkey()

    def give(self, mint: Pubkey, account: Pubkey, amount: int) -> None:
        """Mints."""
        params = MintToParams(
            program_id=TOKEN_PROGRAM, mint=mint, dest=account, mint_authority=self.authority.pubkey(), amount=amount
        )
        self.send(mint_to(params), signers=[self.authority])

    def balance(self, account: Pubkey) -> int:
        """Tokens in an account."""
        return int(self.client.get_token_account_balance(account).value.amount)

    def state(self, account: Pubkey) -> Any:
        """What an account of the ledger's program holds."""
        stored = self.node.get_account(account)
        if stored is None:
            raise SolanaRefused(f"there is no account {account}")
        return self.ledger.decode(bytes(stored.data))

    # Prices

    def publish(self, *, base_e8: int, quote_e8: int = PRICE_ONE, at_s: int) -> None:
        """A round of both feeds; time moves there."""
        self.node.warp(max(0, at_s - self.node.time_s))
        self.price_e8 = base_e8 * PRICE_ONE // quote_e8
        for name, answer in (("base", base_e8), ("quote", quote_e8)):
            rounds = self._rounds[name]
            rounds.append(Round(len(rounds) + 1, at_s, answer))
            data = chainlink_account([(r.number, r.at_s, r.answer_e8) for r in rounds], decimals=8)
            self.node.set_account(self.feeds[name], Account(10**9, data, CHAINLINK, False, 0))

    # The market

    @property
    def pool(self) -> dict[str, Pubkey]:
        """The accounts of the market."""
        return self.market.known(self.maker.pubkey(), self.quote, self.base)

    def _open_market(self, liquidity: int, fee_bps: int) -> None:
        base = liquidity * 10**BASE_DECIMALS * PRICE_ONE // (self.price_e8 * 10**QUOTE_DECIMALS)
        for owner, times in ((self.maker, 1), (self.trader, 1000)):
            for mint, amount in ((self.quote, liquidity), (self.base, base)):
                self.give(mint, self.wallet(mint, owner.pubkey()), min(amount * times, 2**62))
        known = self.pool | {
            "quote_source": self.wallet(self.quote, self.maker.pubkey()),
            "base_source": self.wallet(self.base, self.maker.pubkey()),
        }
        self.send(self.market.instruction("create_pool", known, fee_bps), signers=[self.maker])
        self.send(self.market.instruction("add_liquidity", known, liquidity, base), signers=[self.maker])

    def arbitrage(self) -> None:
        """Somebody trades until the market is at the feeds' price, as far as its fee leaves anything in it."""
        pool, trader = self.pool, self.trader.pubkey()
        quote, base = self.balance(pool["pool_quote"]), self.balance(pool["pool_base"])
        # Reserves of that product whose ratio is the price.
        scale = 10 ** (BASE_DECIMALS - QUOTE_DECIMALS) * PRICE_ONE
        wanted = isqrt(quote * base * self.price_e8 // scale)
        is_buy = wanted > quote
        amount = wanted - quote if is_buy else quote * base // wanted - base
        if amount * BPS < (quote if is_buy else base) * 5:
            return
        known = pool | {
            "owner": trader,
            "owner_quote": self.wallet(self.quote, trader),
            "owner_base": self.wallet(self.base, trader),
        }
        self.send(self.market.instruction("swap", known, amount, 0, is_buy), signers=[self.trader])
