"""A Solana chain of one's own, for tests and the demo: LiteSVM behind the JSON-RPC methods that MarketFlow uses.

    node = SolanaNode()
    node.add_program(program_id, Path("program.so"))
    client = node.client()             # an ordinary solana-py Client inside the process; `async_client` likewise
    with node.serve() as url: ...      # the same over HTTP, for other programs
    python -m agents.solana_node --port 8899 --program ID=program.so

What a client's safety hangs on is as on a public chain: a blockhash is good for 150 blocks, a signature lands once, a
failed transaction pays its fee, preflight answers -32002 with the program's logs. `hold` keeps transactions from
landing, `lost_answers` and `unreachable` are a bad connection. Time stands still but for `warp`, or follows a clock.

What is not as there: everything is final at once; there are no forks, votes, rewards, durable nonces, WebSockets, and
no parsed accounts; two transactions in the same slot may have different blockhashes, so that the same instruction can
be sent twice without waiting. getProgramAccounts knows accounts that a transaction or `set_account` named.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import inspect
import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import based58
import httpx
from solana.rpc.api import Client
from solana.rpc.async_api import AsyncClient
from solders.account import Account
from solders.clock import Clock
from solders.hash import Hash
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message, MessageV0, from_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from agents.errors import Misconfigured

SLOT_MS = 400
# A transaction may land while the block height is at most its blockhash's plus this.
MAX_AGE_BLOCKS = 150
LAMPORTS_PER_SIGNATURE = 5_000
MAX_TRANSACTION_BYTES = 1_232
# As a validator's, which is 50 KiB.
MAX_BODY_BYTES = 50 * 1024
MAX_BATCH = 100
_FIRST_SLOT = 1_000
# A public chain skips slots: its height is less than its slot. Who mixes them up should notice here.
_SKIPPED_SLOTS = 100
_SLOTS_PER_EPOCH = 432_000
# For so long a validator keeps a signature's status at hand.
_RECENT_SLOTS = 300
_DEFAULT_START_S = 1_760_000_000
_VERSION = {"solana-core": "2.2.0", "feature-set": 0}
_SYSTEM_PROGRAM = Pubkey.default()
_COMPUTE_BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
_TOKEN_PROGRAMS = [
    Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"),
    Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"),
]
# Compute units that an instruction may use when the transaction names no limit; those of the runtime itself get less.
_DEFAULT_UNITS, _BUILTIN_UNITS, _MAX_UNITS = 200_000, 3_000, 1_400_000
_BUILTINS = {_SYSTEM_PROGRAM, _COMPUTE_BUDGET} | {
    Pubkey.from_string(text)
    for text in (
        "Vote111111111111111111111111111111111111111", "AddressLookupTab1e1111111111111111111111111",
        "BPFLoader1111111111111111111111111111111111", "BPFLoader2111111111111111111111111111111111",
        "BPFLoaderUpgradeab1e11111111111111111111111",
    )
}  # fmt: skip
_ERROR_TEXTS = {
    "AlreadyProcessed": "This transaction has already been processed",
    "AccountNotFound": "Attempt to debit an account but found no record of a prior credit.",
    "InvalidProgramForExecution": "This program may not be used for executing instructions",
}


class RpcError(Exception):
    """What the node answers instead of a result: a JSON-RPC code, a message, and data when there are some."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of running a transaction. `included`: a block has it, failed or not, and its fee is paid."""

    err: Any
    meta: dict[str, Any]
    included: bool
    accounts: dict[Pubkey, Account]


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """A transaction in a block, and what getTransaction tells of its effects."""

    transaction: VersionedTransaction
    slot: int
    time_s: int
    meta: dict[str, Any]


class SolanaNode:
    """The chain and its JSON-RPC methods. Any thread may call; one at a time is served."""

    def __init__(self, *, start_s: int = _DEFAULT_START_S, clock_ms: Callable[[], int] | None = None) -> None:
        """`start_s`: the first block's time. `clock_ms`: the chain's time goes on as this does; None: it stands."""
        # Transactions are taken in and answered with their signature, but wait: for `release`, or for `drop`.
        self.hold = False
        # Methods that are carried out, and whose answer the client does not get.
        self.lost_answers: set[str] = set()
        # Nothing is carried out, nobody is answered.
        self.unreachable = False
        # Micro-lamports a compute unit that the least payer of every recent block is said to have paid.
        self.going_price = 0
        self._lock = threading.RLock()
        self._svm = LiteSVM().with_blockhash_check(False).with_transaction_history(8)
        self._start_s, self._clock_ms, self._warped_ms = start_s, clock_ms, 0
        self._clock_start_ms = clock_ms() if clock_ms else 0
        self._slot = self._time_s = -1
        # Last valid block height of each blockhash that was told.
        self._blockhashes: dict[Hash, int] = {}
        self._landed: dict[str, Landed] = {}
        self._held: dict[str, VersionedTransaction] = {}
        self._signatures: dict[Pubkey, list[str]] = {}
        # A dict as an ordered set.
        self._known: dict[Pubkey, None] = {}
        # By slot: what each transaction paid, micro-lamports a compute unit, and what it could write to.
        self._prices: dict[int, list[tuple[int, set[Pubkey]]]] = {}
        self.genesis = _hash("MarketFlow's local Solana chain")
        self._faucet = Keypair.from_seed(bytes(_hash("faucet")))
        self._svm.set_account(self._faucet.pubkey(), Account(2**62, b"", _SYSTEM_PROGRAM))
        self._keep_time()

    # For tests and the demo

    @property
    def slot(self) -> int:
        with self._lock:
            self._keep_time()
            return self._slot

    @property
    def time_s(self) -> int:
        """What programs read from the clock, unix seconds."""
        with self._lock:
            self._keep_time()
            return self._time_s

    @property
    def block_height(self) -> int:
        return self.slot - _SKIPPED_SLOTS

    def warp(self, seconds: int = 0, *, slots: int = 0) -> None:
        """Moves time on, by seconds or by slots of 400 ms."""
        if seconds < 0 or slots < 0:
            raise ValueError("a chain's time does not go back")
        with self._lock:
            self._warped_ms += seconds * 1_000 + slots * SLOT_MS
            self._keep_time()

    def set_account(self, pubkey: Pubkey, account: Account) -> None:
        """Puts an account on the chain as it is, without a transaction: a price feed, a mint."""
        with self._lock:
            self._svm.set_account(pubkey, account)
            self._known[pubkey] = None

    def get_account(self, pubkey: Pubkey) -> Account | None:
        """None where there is none, and where it has no lamports."""
        with self._lock:
            account = self._svm.get_account(pubkey)
            return account if account and account.lamports else None

    def add_program(self, program_id: Pubkey, program: Path | bytes) -> None:
        """Puts a program on the chain, as if deployed. Raises Misconfigured when the SVM refuses it."""
        with self._lock:
            try:
                elf = program if isinstance(program, bytes) else program.read_bytes()
                with _panics():
                    self._svm.add_program(program_id, elf)
            except Exception as error:  # no such file, or one of various from solders
                name = f"{len(program)} bytes" if isinstance(program, bytes) else program
                raise Misconfigured(f"program {program_id}: the SVM can't run {name}; is it a .so? {error}") from error
            self._known[program_id] = None

    def airdrop(self, pubkey: Pubkey, lamports: int) -> Signature:
        """Pays from the faucet by a transaction, which lands even while others are held."""
        with self._lock:
            ix = transfer(TransferParams(from_pubkey=self._faucet.pubkey(), to_pubkey=pubkey, lamports=lamports))
            message = Message.new_with_blockhash([ix], self._faucet.pubkey(), self._latest_blockhash())
            transaction = VersionedTransaction(message, [self._faucet])
            if err := self._land(transaction).err:
                raise RpcError(-32603, f"the faucet can't pay {lamports} lamports: {error_text(err)}")
            return transaction.signatures[0]

    def release(self) -> list[str]:
        """Lands what is held, in the order it came, where it still may. Returns the signatures that landed."""
        with self._lock:
            held, self._held = self._held, {}
            return [text for text, transaction in held.items() if self._land(transaction).included]

    def drop(self) -> list[str]:
        """Forgets what is held, as a validator that was restarted. Returns its signatures."""
        with self._lock:
            held, self._held = self._held, {}
            return list(held)

    # Doors

    def client(self) -> Client:
        """A solana-py client whose requests stay in the process."""
        client = Client("http://solana.invalid")
        client._provider.session.close()
        client._provider.session = httpx.Client(transport=_Transport(self))
        return client

    def async_client(self) -> AsyncClient:
        """As `client`, for asyncio. Each request holds up the event loop while it is served."""
        client = AsyncClient("http://solana.invalid")
        client._provider.session = httpx.AsyncClient(transport=_Transport(self))
        return client

    @contextlib.contextmanager
    def serve(self, port: int = 0) -> Iterator[str]:
        """Serves HTTP on the loopback interface meanwhile; the URL. Port 0: any that is free."""
        handler = type("Handler", (_Handler,), {"node": self})
        try:
            server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError as error:
            raise Misconfigured(f"port {port} can't be had ({error}): name another, or 0 for any") from error
        server.daemon_threads, server.block_on_close = True, False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def handle(self, body: bytes) -> tuple[int, bytes]:
        """The HTTP status and the body that answer a JSON-RPC request or batch."""
        if len(body) > MAX_BODY_BYTES:
            return 413, b"the request is too large"
        with self._lock:
            if self.unreachable:
                return 503, b"unreachable"
            try:
                asked = json.loads(body)
            except (ValueError, RecursionError):
                return _as_json(_refusal(None, -32700, "Parse error"))
            requests = asked if isinstance(asked, list) else [asked]
            if not requests or len(requests) > MAX_BATCH:
                return _as_json(_refusal(None, -32600, f"Invalid request: a batch holds 1 to {MAX_BATCH}"))
            answers = [answer for answer in map(self._answer, requests) if answer is not None]
            if any(isinstance(one, dict) and str(one.get("method")) in self.lost_answers for one in requests):
                return 503, b"the answer was lost"
        return _as_json(answers if isinstance(asked, list) else answers[0]) if answers else (200, b"")

    def _answer(self, request: Any) -> dict[str, Any] | None:
        """None for a notification, which wants none."""
        if not isinstance(request, dict) or not isinstance(name := request.get("method"), str):
            return _refusal(None, -32600, "Invalid request")
        answer: dict[str, Any]
        try:
            answer = {"jsonrpc": "2.0", "result": self._call(name, request.get("params")), "id": request.get("id")}
        except RpcError as error:
            answer = _refusal(request.get("id"), error.code, error.message, error.data)
        return answer if "id" in request else None

    def _call(self, name: str, params: Any) -> Any:
        if name == "surfnet_setAccount":
            method = self.rpc_set_account
        else:
            snake = re.sub("[A-Z]", lambda found: "_" + found[0].lower(), name)
            method = getattr(self, f"rpc_{snake}", None) if re.fullmatch("[a-z]+([A-Z][a-z0-9]+)+", name) else None
        if method is None:
            raise RpcError(-32601, f"Method not found: {name}")
        if not isinstance(params, list | None):
            raise RpcError(-32602, "Invalid params: expected an array")
        try:
            arguments = inspect.signature(method).bind(*(params or []))
        except TypeError as error:
            raise RpcError(-32602, f"Invalid params: {error}") from error
        self._keep_time()
        try:
            with _panics():
                for config in arguments.arguments.values():
                    if isinstance(config, dict):
                        self._check_config(config)
                return method(*arguments.args)
        except RpcError:
            raise
        except Exception as error:  # what the request named makes no sense, or the SVM refuses it
            raise RpcError(-32602, f"Invalid params: {error}") from error

    def _check_config(self, config: dict[str, Any]) -> None:
        for key in ("commitment", "preflightCommitment"):
            if config.get(key) not in (None, "processed", "confirmed", "finalized"):
                raise ValueError(f"{key} is {config[key]!r}, not processed, confirmed or finalized")
        if (config.get("minContextSlot") or 0) > self._slot:
            raise RpcError(-32016, "Minimum context slot has not been reached", {"contextSlot": self._slot})

    # The chain

    def _keep_time(self) -> None:
        """Brings the SVM's clock to where it should be by now."""
        passed_ms = self._warped_ms + (self._clock_ms() - self._clock_start_ms if self._clock_ms else 0)
        # A clock that was set back must not take the chain along.
        slot = max(self._slot, _FIRST_SLOT + passed_ms // SLOT_MS)
        time_s = max(self._time_s, self._start_s + passed_ms // 1_000)
        if (slot, time_s) != (self._slot, self._time_s):
            self._slot, self._time_s = slot, time_s
            epoch, in_epoch = divmod(slot, _SLOTS_PER_EPOCH)
            began_s = max(self._start_s, time_s - in_epoch * SLOT_MS // 1_000)
            self._svm.set_clock(Clock(slot, began_s, epoch, epoch + 1, time_s))

    def _latest_blockhash(self) -> Hash:
        """Another after each slot and after each transaction that landed."""
        blockhash = _hash(f"{self.genesis} {self._slot} {len(self._landed)}")
        if blockhash not in self._blockhashes:
            height = self._slot - _SKIPPED_SLOTS
            # Told in this order, they also expire in this order.
            while self._blockhashes and self._blockhashes[oldest := next(iter(self._blockhashes))] < height:
                del self._blockhashes[oldest]
            self._blockhashes[blockhash] = height + MAX_AGE_BLOCKS
        return blockhash

    def _is_valid(self, blockhash: Hash) -> bool:
        return self._blockhashes.get(blockhash, -1) >= self._slot - _SKIPPED_SLOTS

    def _run(
        self, transaction: VersionedTransaction, *, dry: bool, verify: bool = True, any_blockhash: bool = False
    ) -> Outcome:
        """Runs a transaction on the present state; `dry`: without a trace."""
        message = transaction.message
        if not any_blockhash:
            if str(transaction.signatures[0]) in self._landed:
                return _not_run("AlreadyProcessed")
            if not self._is_valid(message.recent_blockhash):
                return _not_run("BlockhashNotFound")
        # LiteSVM takes no fee for priority: it is taken before, and given back where the transaction left no trace.
        payer, priority_fee = message.account_keys[0], _fee(message) - _base_fee(message)
        before = self._svm.get_account(payer)
        if priority_fee and before:
            if before.lamports < priority_fee:
                return _not_run("InsufficientFundsForFee")
            self._svm.set_account(payer, _with_lamports(before, before.lamports - priority_fee))
        self._svm.with_sigverify(verify)
        included = False
        try:
            if dry:
                result = self._svm.simulate_transaction(transaction)
            else:
                result = self._svm.send_transaction(transaction)
                included = self._svm.get_transaction(transaction.signatures[0]) is not None
        finally:
            if priority_fee and before and not included:
                self._svm.set_account(payer, before)
        meta = json.loads((result.meta() if hasattr(result, "meta") else result).to_json())
        err = json.loads(result.to_json())["err"] if hasattr(result, "err") else None
        accounts = dict(result.post_accounts()) if hasattr(result, "post_accounts") else {}
        return Outcome(err=err, meta=meta, included=included, accounts=accounts)

    def _land(self, transaction: VersionedTransaction) -> Outcome:
        """Runs a transaction and keeps what came of it. One that came too late or can't pay is never heard of again."""
        keys, writable = self._keys(transaction.message)
        before = [self.get_account(key) for key in keys]
        outcome = self._run(transaction, dry=False)
        if not outcome.included:
            return outcome
        after = [self.get_account(key) for key in keys]
        message, text = transaction.message, str(transaction.signatures[0])
        static = len(message.account_keys)
        loaded = list(zip(keys, writable, strict=True))[static:]
        meta = _told(outcome) | {
            "status": {"Err": outcome.err} if outcome.err else {"Ok": None},
            "fee": _fee(message),
            "preBalances": [account.lamports if account else 0 for account in before],
            "postBalances": [account.lamports if account else 0 for account in after],
            "preTokenBalances": self._token_balances(keys, before),
            "postTokenBalances": self._token_balances(keys, after),
            "rewards": [],
            "loadedAddresses": {
                "writable": [str(key) for key, may in loaded if may],
                "readonly": [str(key) for key, may in loaded if not may],
            },
            "computeUnitsConsumed": outcome.meta["compute_units_consumed"],
            "logMessages": outcome.meta["logs"],
        }
        self._landed[text] = Landed(transaction=transaction, slot=self._slot, time_s=self._time_s, meta=meta)
        for key in dict.fromkeys(keys):
            self._known[key] = None
            self._signatures.setdefault(key, []).append(text)
        paid = self._prices.setdefault(self._slot, [])
        paid.append((_price(message)[0], {key for key, may in zip(keys, writable, strict=True) if may}))
        for slot in [slot for slot in self._prices if slot <= self._slot - MAX_AGE_BLOCKS]:
            del self._prices[slot]
        return outcome

    def _keys(self, message: Message | MessageV0) -> tuple[list[Pubkey], list[bool]]:
        """Every account of a transaction, also those from lookup tables, and whether it may be written to."""
        keys, header = list(message.account_keys), message.header
        signed = header.num_required_signatures
        last = (signed - header.num_readonly_signed_accounts, len(keys) - header.num_readonly_unsigned_accounts)
        writable = [i < last[0] if i < signed else i < last[1] for i in range(len(keys))]
        lookups = message.address_table_lookups if isinstance(message, MessageV0) else []
        tables = [account.data[56:] if (account := self.get_account(one.account_key)) else b"" for one in lookups]
        for may in (True, False):
            for one, table in zip(lookups, tables, strict=True):
                for index in one.writable_indexes if may else one.readonly_indexes:
                    if len(key := table[index * 32 : index * 32 + 32]) == 32:
                        keys.append(Pubkey(key))
                        writable.append(may)
        return keys, writable

    def _token_balances(self, keys: Sequence[Pubkey], accounts: Sequence[Account | None]) -> list[dict[str, Any]]:
        return [
            {
                "accountIndex": index, "mint": str(Pubkey(account.data[:32])),
                "owner": str(Pubkey(account.data[32:64])), "programId": str(account.owner),
                "uiTokenAmount": self._token_amount(keys[index], account),
            }
            for index, account in enumerate(accounts) if account and _holds_tokens(account)
        ]  # fmt: skip

    def _token_amount(self, pubkey: Pubkey, account: Account | None) -> dict[str, Any]:
        """Of a token account, or a mint's supply."""
        if account is None or account.owner not in _TOKEN_PROGRAMS:
            raise RpcError(-32602, f"Invalid param: could not find token account or mint {pubkey}")
        mint = self.get_account(Pubkey(account.data[:32])) if _holds_tokens(account) else account
        amount = int.from_bytes(account.data[64:72] if _holds_tokens(account) else account.data[36:44], "little")
        decimals = mint.data[44] if mint else 0
        number = Decimal(amount).scaleb(-decimals)
        text = f"{number:f}".rstrip("0").rstrip(".") if decimals else str(amount)
        return {"amount": str(amount), "decimals": decimals, "uiAmount": float(number), "uiAmountString": text}

    def _context(self, value: Any) -> dict[str, Any]:
        return {"context": {"apiVersion": _VERSION["solana-core"], "slot": self._slot}, "value": value}

    # JSON-RPC methods: getSlot is rpc_get_slot. `config` is the dictionary that comes last in most.

    def rpc_get_health(self) -> str:
        return "ok"

    def rpc_get_version(self) -> dict[str, Any]:
        return _VERSION

    def rpc_get_genesis_hash(self) -> str:
        return str(self.genesis)

    def rpc_get_slot(self, config: Any = None) -> int:
        return self._slot

    def rpc_get_block_height(self, config: Any = None) -> int:
        return self._slot - _SKIPPED_SLOTS

    def rpc_get_transaction_count(self, config: Any = None) -> int:
        return len(self._landed)

    def rpc_get_epoch_info(self, config: Any = None) -> dict[str, int]:
        epoch, index = divmod(self._slot, _SLOTS_PER_EPOCH)
        return {
            "absoluteSlot": self._slot, "blockHeight": self._slot - _SKIPPED_SLOTS, "epoch": epoch,
            "slotIndex": index, "slotsInEpoch": _SLOTS_PER_EPOCH, "transactionCount": len(self._landed),
        }  # fmt: skip

    def rpc_get_block_time(self, slot: int) -> int:
        if not _FIRST_SLOT <= slot <= self._slot:
            raise RpcError(-32004, f"Block not available for slot {slot}")
        return self._time_s - (self._slot - slot) * SLOT_MS // 1_000

    def rpc_get_minimum_balance_for_rent_exemption(self, size: int, config: Any = None) -> int:
        return self._svm.minimum_balance_for_rent_exemption(size)

    def rpc_get_latest_blockhash(self, config: Any = None) -> Any:
        blockhash = self._latest_blockhash()
        return self._context({"blockhash": str(blockhash), "lastValidBlockHeight": self._blockhashes[blockhash]})

    def rpc_is_blockhash_valid(self, blockhash: str, config: Any = None) -> Any:
        return self._context(self._is_valid(_parse(Hash, blockhash)))

    def rpc_get_fee_for_message(self, message: str, config: Any = None) -> Any:
        parsed = from_bytes_versioned(base64.b64decode(message, validate=True))
        return self._context(_fee(parsed) if self._is_valid(parsed.recent_blockhash) else None)

    def rpc_get_recent_prioritization_fees(self, pubkeys: list[str] | None = None) -> list[dict[str, int]]:
        """The least price that landed in each recent block, of transactions that wrote to one of those accounts."""
        if len(asked := [_parse(Pubkey, text) for text in pubkeys or []]) > 128:
            raise ValueError("at most 128 accounts")
        return [
            {"slot": slot, "prioritizationFee": max([self.going_price, *_least_prices(self._prices.get(slot), asked)])}
            for slot in range(max(_FIRST_SLOT, self._slot - MAX_AGE_BLOCKS + 1), self._slot + 1)
        ]

    def rpc_get_balance(self, pubkey: str, config: Any = None) -> Any:
        return self._context(account.lamports if (account := self.get_account(_parse(Pubkey, pubkey))) else 0)

    def rpc_get_account_info(self, pubkey: str, config: Any = None) -> Any:
        return self._context(_encode(self.get_account(_parse(Pubkey, pubkey)), config))

    def rpc_get_multiple_accounts(self, pubkeys: list[str], config: Any = None) -> Any:
        if len(pubkeys) > 100:
            raise ValueError("at most 100 accounts")
        return self._context([_encode(self.get_account(_parse(Pubkey, text)), config) for text in pubkeys])

    def rpc_get_program_accounts(self, program: str, config: Any = None) -> Any:
        config = config or {}
        owner, tests = _parse(Pubkey, program), [_filter(one) for one in config.get("filters") or []]
        found = self._encoded(lambda account: account.owner == owner and all(t(account.data) for t in tests), config)
        return self._context(found) if config.get("withContext") else found

    def rpc_get_token_accounts_by_owner(self, owner: str, by: dict[str, str], config: Any = None) -> Any:
        holder = bytes(_parse(Pubkey, owner))
        mint = bytes(_parse(Pubkey, by["mint"])) if "mint" in by else None
        programs = _TOKEN_PROGRAMS if mint else [_parse(Pubkey, by["programId"])]

        def fits(account: Account) -> bool:
            mine = account.owner in programs and _holds_tokens(account) and account.data[32:64] == holder
            return mine and mint in (None, account.data[:32])

        return self._context(self._encoded(fits, config))

    def _encoded(self, fits: Callable[[Account], bool], config: Any) -> list[dict[str, Any]]:
        accounts = [(key, account) for key in self._known if (account := self.get_account(key))]
        return [{"pubkey": str(key), "account": _encode(account, config)} for key, account in accounts if fits(account)]

    def rpc_get_token_account_balance(self, pubkey: str, config: Any = None) -> Any:
        account = self.get_account(key := _parse(Pubkey, pubkey))
        return self._context(self._token_amount(key, account if account and _holds_tokens(account) else None))

    def rpc_get_token_supply(self, pubkey: str, config: Any = None) -> Any:
        account = self.get_account(key := _parse(Pubkey, pubkey))
        return self._context(self._token_amount(key, None if account and _holds_tokens(account) else account))

    def rpc_request_airdrop(self, pubkey: str, lamports: int, config: Any = None) -> str:
        return str(self.airdrop(_parse(Pubkey, pubkey), lamports))

    def rpc_set_account(self, pubkey: str, update: dict[str, Any]) -> Any:
        """`surfnet_setAccount`, as Surfpool calls it: lamports, data in hex, owner; what is left out stays."""
        old = self.get_account(key := _parse(Pubkey, pubkey)) or Account(0, b"", _SYSTEM_PROGRAM)
        data = bytes.fromhex(update["data"]) if "data" in update else old.data
        owner = _parse(Pubkey, update["owner"]) if "owner" in update else old.owner
        lamports = update.get("lamports", old.lamports or self._svm.minimum_balance_for_rent_exemption(len(data)))
        self.set_account(key, Account(lamports, data, owner, update.get("executable", old.executable)))
        return self._context(None)

    def rpc_send_transaction(self, encoded: str, config: Any = None) -> str:
        config = config or {}
        transaction = _parse_transaction(encoded, config.get("encoding") or "base58")
        if not config.get("skipPreflight"):
            outcome = self._run(transaction, dry=True)
            if outcome.err == "SignatureFailure":
                raise RpcError(-32003, "Transaction signature verification failure")
            if outcome.err:
                text = f"Transaction simulation failed: {error_text(outcome.err)}"
                raise RpcError(-32002, text, self._simulated(outcome, None))
        if self.hold:
            self._held.setdefault(str(transaction.signatures[0]), transaction)
        else:
            self._land(transaction)
        return str(transaction.signatures[0])

    def rpc_simulate_transaction(self, encoded: str, config: Any = None) -> Any:
        config = config or {}
        transaction = _parse_transaction(encoded, config.get("encoding") or "base58")
        replace, verify = bool(config.get("replaceRecentBlockhash")), bool(config.get("sigVerify"))
        if replace and verify:
            raise ValueError("sigVerify may not be used with replaceRecentBlockhash")
        outcome = self._run(transaction, dry=True, verify=verify, any_blockhash=replace)
        if outcome.err == "SignatureFailure":
            raise RpcError(-32003, "Transaction signature verification failure")
        value = self._simulated(outcome, config.get("accounts"), inner=bool(config.get("innerInstructions")))
        if replace:
            value["replacementBlockhash"] = self.rpc_get_latest_blockhash()["value"]
        return self._context(value)

    def _simulated(self, outcome: Outcome, wanted: Any, *, inner: bool = False) -> dict[str, Any]:
        value = _told(outcome) | {"logs": outcome.meta["logs"], "unitsConsumed": outcome.meta["compute_units_consumed"]}
        value["innerInstructions"] = value["innerInstructions"] if inner else None
        keys = [_parse(Pubkey, text) for text in wanted["addresses"]] if wanted else []
        accounts = [None if outcome.err else outcome.accounts.get(key) or self.get_account(key) for key in keys]
        encoding = {"encoding": wanted.get("encoding") or "base64"} if wanted else None
        return value | {"accounts": [_encode(account, encoding) for account in accounts] if wanted else None}

    def rpc_get_signature_statuses(self, signatures: list[str], config: Any = None) -> Any:
        """Of recent transactions only, as a validator does, unless asked to search its history."""
        if len(signatures) > 256:
            raise ValueError("at most 256 signatures")
        everything = bool((config or {}).get("searchTransactionHistory"))
        found = [self._landed.get(str(_parse(Signature, text))) for text in signatures]
        found = [one if one and (everything or one.slot > self._slot - _RECENT_SLOTS) else None for one in found]
        return self._context([
            one and {
                "slot": one.slot, "confirmations": None, "err": one.meta["err"], "status": one.meta["status"],
                "confirmationStatus": "finalized",
            }
            for one in found
        ])  # fmt: skip

    def rpc_get_signatures_for_address(self, pubkey: str, config: Any = None) -> list[dict[str, Any]]:
        """Newest first."""
        config = config or {}
        _refuse_processed(config)
        if not 1 <= (limit := config.get("limit") or 1_000) <= 1_000:
            raise ValueError("limit is not within 1 to 1000")
        texts = self._signatures.get(_parse(Pubkey, pubkey), [])[::-1]
        if before := config.get("before"):
            texts = texts[texts.index(before) + 1 :] if before in texts else []
        if (until := config.get("until")) in texts:
            texts = texts[: texts.index(until)]
        return [
            {
                "signature": text, "slot": (one := self._landed[text]).slot, "err": one.meta["err"], "memo": None,
                "blockTime": one.time_s, "confirmationStatus": "finalized",
            }
            for text in texts[:limit]
        ]  # fmt: skip

    def rpc_get_transaction(self, signature: str, config: Any = None) -> Any:
        config = {"encoding": config} if isinstance(config, str) else config or {}
        _refuse_processed(config)
        one = self._landed.get(str(_parse(Signature, signature)))
        if one is None:
            return None
        versioned = isinstance(one.transaction.message, MessageV0)
        if versioned and config.get("maxSupportedTransactionVersion") is None:
            text = 'try again with the configuration parameter "maxSupportedTransactionVersion": 0'
            raise RpcError(-32015, f"Transaction version (0) is not supported by the requesting client: {text}")
        answer = {
            "slot": one.slot, "blockTime": one.time_s, "meta": one.meta,
            "transaction": _encode_transaction(one.transaction, config.get("encoding") or "json"),
        }  # fmt: skip
        if config.get("maxSupportedTransactionVersion") is not None:
            answer["version"] = 0 if versioned else "legacy"
        return answer


def error_text(err: Any) -> str:
    """A transaction's error in the words of a validator."""
    if isinstance(err, dict) and "InstructionError" in err:
        index, why = err["InstructionError"]
        if isinstance(why, dict) and "Custom" in why:
            return f"Error processing Instruction {index}: custom program error: {why['Custom']:#x}"
        return f"Error processing Instruction {index}: {error_text(why)}"
    if isinstance(err, dict):
        return f"{error_text(next(iter(err)))}: {json.dumps(next(iter(err.values())))}"
    return _ERROR_TEXTS.get(err) or re.sub("(?<!^)[A-Z]", lambda found: " " + found[0].lower(), err)


def _hash(text: str) -> Hash:
    return Hash(hashlib.sha256(text.encode()).digest())


@contextlib.contextmanager
def _panics() -> Iterator[None]:
    """The SVM's panics are no Exceptions: they would end a thread, or pytest."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RpcError(-32603, f"Internal error: {error}") from None


def _refuse_processed(config: dict[str, Any]) -> None:
    if config.get("commitment") == "processed":
        raise RpcError(-32602, "Method does not support commitment below `confirmed`")


def _as_json(answer: Any) -> tuple[int, bytes]:
    return 200, json.dumps(answer, separators=(",", ":")).encode()


def _refusal(request_id: Any, code: int, message: str, data: Any = None) -> dict[str, Any]:
    error = {"code": code, "message": message} | ({} if data is None else {"data": data})
    return {"jsonrpc": "2.0", "error": error, "id": request_id}


def _parse(kind: Any, text: str) -> Any:
    """A Pubkey, Hash or Signature."""
    try:
        return kind.from_string(text)
    except Exception as error:  # solders raises various
        raise RpcError(-32602, f"Invalid param: {text!r} is no {kind.__name__.lower()}: {error}") from error


def _parse_transaction(encoded: str, encoding: str) -> VersionedTransaction:
    if encoding not in ("base58", "base64"):
        raise RpcError(-32602, f"unsupported encoding: {encoding}. Supported encodings: base58, base64")
    try:
        raw = base64.b64decode(encoded, validate=True) if encoding == "base64" else based58.b58decode(encoded.encode())
    except ValueError as error:
        raise RpcError(-32602, f"invalid {encoding} encoding: {error}") from error
    if len(raw) > MAX_TRANSACTION_BYTES:
        size = f"{len(raw)} bytes (max: {MAX_TRANSACTION_BYTES} bytes)"
        raise RpcError(-32602, f"decoded solana_transaction::versioned::VersionedTransaction too large: {size}")
    try:
        transaction = VersionedTransaction.from_bytes(raw)
        transaction.sanitize()
    except Exception as error:  # solders raises various
        raise RpcError(-32602, f"invalid transaction: {error}") from error
    return transaction


def _encode_transaction(transaction: VersionedTransaction, encoding: str) -> Any:
    if encoding == "base64":
        return [base64.b64encode(bytes(transaction)).decode(), "base64"]
    if encoding == "base58":
        return [based58.b58encode(bytes(transaction)).decode(), "base58"]
    if encoding != "json":
        raise RpcError(-32602, f"this node encodes transactions as json, base64 or base58, not {encoding}")
    message = transaction.message
    header = message.header
    told: dict[str, Any] = {
        "accountKeys": [str(key) for key in message.account_keys],
        "header": {
            "numRequiredSignatures": header.num_required_signatures,
            "numReadonlySignedAccounts": header.num_readonly_signed_accounts,
            "numReadonlyUnsignedAccounts": header.num_readonly_unsigned_accounts,
        },
        "recentBlockhash": str(message.recent_blockhash),
        "instructions": [_told_instruction(ix.program_id_index, ix.accounts, ix.data) for ix in message.instructions],
    }
    if isinstance(message, MessageV0):
        told["addressTableLookups"] = [
            {
                "accountKey": str(one.account_key), "writableIndexes": list(one.writable_indexes),
                "readonlyIndexes": list(one.readonly_indexes),
            }
            for one in message.address_table_lookups
        ]  # fmt: skip
    return {"signatures": [str(one) for one in transaction.signatures], "message": told}


def _told_instruction(program: int, accounts: Any, data: Any, stack_height: int | None = None) -> dict[str, Any]:
    text = based58.b58encode(bytes(data)).decode() if len(data) else ""
    return {"programIdIndex": program, "accounts": list(accounts), "data": text, "stackHeight": stack_height}


def _told(outcome: Outcome) -> dict[str, Any]:
    """What getTransaction and simulateTransaction tell alike. (Lists in the SVM's JSON begin with their length.)"""
    calls = [
        {
            "index": index,
            "instructions": [
                _told_instruction(ix["programIdIndex"], ix["accounts"][1:], ix["data"][1:], call["stackHeight"])
                for call in inner
                for ix in [call["instruction"]]
            ],
        }
        for index, inner in enumerate(outcome.meta["inner_instructions"])
        if inner
    ]
    told: dict[str, Any] = {"err": outcome.err, "innerInstructions": calls, "returnData": None}
    if data := outcome.meta["return_data"]["data"]:
        program = str(Pubkey(bytes(outcome.meta["return_data"]["program_id"])))
        told["returnData"] = {"programId": program, "data": [base64.b64encode(bytes(data)).decode(), "base64"]}
    return told


def _not_run(err: str) -> Outcome:
    meta = {"logs": [], "inner_instructions": [], "compute_units_consumed": 0, "return_data": {"data": []}}
    return Outcome(err=err, meta=meta, included=False, accounts={})


def _with_lamports(account: Account, lamports: int) -> Account:
    return Account(lamports, account.data, account.owner, account.executable, account.rent_epoch)


def _price(message: Message | MessageV0) -> tuple[int, int]:
    """Micro-lamports that a transaction offers for each compute unit, and the units it may use."""
    price, limit, default = 0, None, 0
    for one in message.instructions:
        keys, data = message.account_keys, bytes(one.data)
        program = keys[one.program_id_index] if one.program_id_index < len(keys) else None
        default += _BUILTIN_UNITS if program in _BUILTINS else _DEFAULT_UNITS
        if program == _COMPUTE_BUDGET and data[:1] == b"\x02":
            limit = int.from_bytes(data[1:5], "little")
        elif program == _COMPUTE_BUDGET and data[:1] == b"\x03":
            price = int.from_bytes(data[1:9], "little")
    return price, min(_MAX_UNITS, default if limit is None else limit)


def _base_fee(message: Message | MessageV0) -> int:
    return LAMPORTS_PER_SIGNATURE * message.header.num_required_signatures


def _fee(message: Message | MessageV0) -> int:
    """Lamports, by what the transaction may use, not by what it does use."""
    price, units = _price(message)
    return _base_fee(message) - -price * units // 10**6


def _least_prices(paid: list[tuple[int, set[Pubkey]]] | None, pubkeys: Sequence[Pubkey]) -> list[int]:
    if not paid:
        return [0]
    by_account = [[price for price, writable in paid if key in writable] for key in pubkeys]
    return [min(price for price, _ in paid), *(min(prices) for prices in by_account if prices)]


def _holds_tokens(account: Account) -> bool:
    """Whether it is a token account; Token-2022 puts the kind behind the 165 bytes where there are extensions."""
    size = len(account.data)
    return account.owner in _TOKEN_PROGRAMS and (size == 165 or (size > 165 and account.data[165] == 2))


def _filter(one: dict[str, Any]) -> Callable[[bytes], bool]:
    if "dataSize" in one:
        size = int(one["dataSize"])
        return lambda data: len(data) == size
    memcmp = one["memcmp"]
    wanted, start = memcmp["bytes"], int(memcmp["offset"])
    if memcmp.get("encoding") == "base64":
        wanted = base64.b64decode(wanted, validate=True)
    else:
        wanted = based58.b58decode(wanted.encode()) if isinstance(wanted, str) else bytes(wanted)
    return lambda data: data[start : start + len(wanted)] == wanted


def _encode(account: Account | None, config: dict[str, Any] | None) -> dict[str, Any] | None:
    """`jsonParsed` is answered as base64, as a validator does for accounts it can't parse."""
    if account is None:
        return None
    encoding, data = (config or {}).get("encoding") or "base58", account.data
    if cut := (config or {}).get("dataSlice"):
        data = data[cut["offset"] : cut["offset"] + cut["length"]]
    if encoding == "base58":
        if len(data) > 128:
            raise RpcError(-32600, "Encoded binary (base 58) data should be less than 128 bytes: ask for base64")
        text = based58.b58encode(data).decode() if data else ""
    elif encoding in ("base64", "jsonParsed"):
        encoding, text = "base64", base64.b64encode(data).decode()
    else:
        raise RpcError(-32602, f"this node encodes accounts as base64 or base58, not {encoding}")
    return {
        "lamports": account.lamports, "data": [text, encoding], "owner": str(account.owner),
        "executable": account.executable, "rentEpoch": account.rent_epoch, "space": len(account.data),
    }  # fmt: skip


class _Transport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """httpx's way to the node without a network."""

    def __init__(self, node: SolanaNode) -> None:
        self._node = node

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        status, body = self._node.handle(request.read())
        return httpx.Response(status, headers={"Content-Type": "application/json"}, content=body)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return self.handle_request(request)


class _Handler(BaseHTTPRequestHandler):
    """Answers leave in one packet and at once: written bit by bit, each call would take 40 ms."""

    node: SolanaNode
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    # An idle connection is closed.
    timeout = 60

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            self._send(413 if length.isdecimal() else 411, b"the request is too large, or does not say its size")
        else:
            self._send(*self.node.handle(self.rfile.read(int(length))))

    def do_GET(self) -> None:
        self._send(*((200, b"ok") if self.path == "/health" else (405, b"ask by POST")))

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves a chain that follows the wall clock until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m agents.solana_node", description=main.__doc__)
    parser.add_argument("--port", type=int, default=8899, help="0: any that is free")
    parser.add_argument("--program", action="append", default=[], metavar="ID=path.so", help="may be given repeatedly")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a sentence")
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        now_ms = time.time_ns() // 10**6
        node = SolanaNode(start_s=now_ms // 1_000, clock_ms=lambda: time.time_ns() // 10**6)
        programs = dict(_program(text) for text in options.program)
        for program_id, path in programs.items():
            node.add_program(program_id, path)
        with node.serve(options.port) as url:
            told = {"url": url, "genesis": str(node.genesis), "programs": [str(one) for one in programs]}
            print(json.dumps(told) if options.json else f"A local Solana chain answers at {url}", flush=True)
            stop.wait()
    except Misconfigured as error:
        parser.exit(2, f"{error}\n")


def _program(text: str) -> tuple[Pubkey, Path]:
    name, _, path = text.partition("=")
    try:
        return Pubkey.from_string(name), Path(path)
    except ValueError as error:
        raise Misconfigured(f"--program {text}: expected ID=path.so, the ID in base58 ({error})") from error


if __name__ == "__main__":
    main()
