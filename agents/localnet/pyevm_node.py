"""An Ethereum node inside the process: py-evm's Prague rules behind the JSON-RPC methods that MarketFlow uses.

eth-tester is not used for it because its block times follow the wall clock, its PREVRANDAO is random, and most of
its time goes into validation and Merkle tries. Here one transaction is one block, the state lies in dictionaries with
an undo log, and two runs give identical blocks. `stateRoot` and the other roots are zero: there are no Merkle proofs.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eth.abc import SignedTransactionAPI
from eth.constants import BLANK_ROOT_HASH, EMPTY_SHA3, ZERO_ADDRESS, ZERO_HASH32
from eth.exceptions import Revert
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.prague import PragueVM
from eth.vm.forks.prague.state import PragueState
from eth_keys.datatypes import PrivateKey
from eth_utils import ValidationError, big_endian_to_int, keccak, to_bytes
from web3.providers import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

_ZERO_HASH = "0x" + "00" * 32
_NO_BLOOM = "0x" + "00" * 256
_TIP = 10**9
_PAST_STATES = 8


class RpcError(Exception):
    """What the node answers instead of a result: a JSON-RPC code, a message, and revert data when there is some."""

    def __init__(self, code: int, message: str, data: bytes | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


class DictAccounts:
    """py-evm's account database as dictionaries with an undo log, so that any earlier state can be returned to."""

    def __init__(self) -> None:
        self.balances: dict[bytes, int] = {}
        self.nonces: dict[bytes, int] = {}
        self.codes: dict[bytes, bytes] = {}
        self.slots: dict[tuple[bytes, int], int] = {}
        self.undo_log: list[tuple[dict[Any, Any], Any, Any]] = []
        self._original: dict[tuple[bytes, int], int] = {}
        self._warm: dict[Any, Any] = {}
        self._transient: dict[tuple[bytes, int], bytes] = {}
        self._code_hashes: dict[bytes, bytes] = {b"": EMPTY_SHA3}

    # Writing and undoing. Everything written goes through _set.

    def _set(self, where: dict[Any, Any], key: Any, value: Any) -> None:
        self.undo_log.append((where, key, where.get(key)))
        if value is None:
            where.pop(key, None)
        else:
            where[key] = value

    def record(self) -> int:
        return len(self.undo_log)

    def discard(self, checkpoint: int) -> None:
        log = self.undo_log
        while len(log) > checkpoint:
            where, key, old = log.pop()
            if old is None:
                where.pop(key, None)
            else:
                where[key] = old

    def commit(self, checkpoint: int) -> None:
        """Nothing to do: what is not discarded stays."""

    def lock_changes(self) -> None:
        """A transaction begins: gas of SSTORE counts from the values of now, and every address is cold."""
        self._original.clear()
        self._warm.clear()
        self._transient.clear()

    def forget_transient(self, checkpoint: int) -> None:
        """A transaction is over: its warm marks and transient storage need no undoing any more."""
        passing = (id(self._warm), id(self._transient))
        self.undo_log[checkpoint:] = [entry for entry in self.undo_log[checkpoint:] if id(entry[0]) not in passing]
        self.lock_changes()

    def rewound(self, checkpoint: int) -> DictAccounts:
        """A copy as it was at that checkpoint."""
        copy = DictAccounts()
        mine = (self.balances, self.nonces, self.codes, self.slots)
        theirs = (copy.balances, copy.nonces, copy.codes, copy.slots)
        twin = {id(a): b for a, b in zip(mine, theirs, strict=True)}
        for a, b in zip(mine, theirs, strict=True):
            b.update(a)
        copy.undo_log = [
            (twin[id(where)], key, old) for where, key, old in self.undo_log[checkpoint:] if id(where) in twin
        ]
        copy.discard(0)
        return copy

    # Storage

    def get_storage(self, address: bytes, slot: int, from_journal: bool = True) -> int:
        key = (address, slot)
        value = self.slots.get(key, 0)
        return value if from_journal else self._original.get(key, value)

    def set_storage(self, address: bytes, slot: int, value: int) -> None:
        key = (address, slot)
        self._original.setdefault(key, self.slots.get(key, 0))
        self._set(self.slots, key, value or None)

    def delete_storage(self, address: bytes) -> None:
        for key in [key for key in self.slots if key[0] == address]:
            self._set(self.slots, key, None)

    def is_storage_warm(self, address: bytes, slot: int) -> bool:
        return (address, slot) in self._warm

    def mark_storage_warm(self, address: bytes, slot: int) -> None:
        if (address, slot) not in self._warm:
            self._set(self._warm, (address, slot), True)

    def get_transient(self, address: bytes, slot: int) -> bytes:
        return self._transient.get((address, slot), b"")

    def set_transient(self, address: bytes, slot: int, value: bytes) -> None:
        self._set(self._transient, (address, slot), value)

    # Accounts

    def get_balance(self, address: bytes) -> int:
        return self.balances.get(address, 0)

    def set_balance(self, address: bytes, balance: int) -> None:
        self._set(self.balances, address, balance)

    def get_nonce(self, address: bytes) -> int:
        return self.nonces.get(address, 0)

    def set_nonce(self, address: bytes, nonce: int) -> None:
        self._set(self.nonces, address, nonce)

    def increment_nonce(self, address: bytes) -> None:
        self.set_nonce(address, self.get_nonce(address) + 1)

    def get_code(self, address: bytes) -> bytes:
        return self.codes.get(address, b"")

    def set_code(self, address: bytes, code: bytes) -> None:
        self._set(self.codes, address, code)

    def delete_code(self, address: bytes) -> None:
        self._set(self.codes, address, None)

    def get_code_hash(self, address: bytes) -> bytes:
        if not self.account_exists(address):
            return b""
        code = self.get_code(address)
        if code not in self._code_hashes:
            self._code_hashes[code] = keccak(code)
        return self._code_hashes[code]

    def account_has_code_or_nonce(self, address: bytes) -> bool:
        return bool(self.get_nonce(address) or self.get_code(address))

    def delete_account(self, address: bytes) -> None:
        self.delete_storage(address)
        for where in (self.balances, self.nonces, self.codes):
            self._set(where, address, None)

    def account_exists(self, address: bytes) -> bool:
        return not self.account_is_empty(address)

    def account_is_empty(self, address: bytes) -> bool:
        return not (self.get_balance(address) or self.account_has_code_or_nonce(address))

    def touch_account(self, address: bytes) -> None:
        """Nothing to do: an empty account (EIP-161) is not there anyway."""

    def is_address_warm(self, address: bytes) -> bool:
        return address in self._warm

    def mark_address_warm(self, address: bytes) -> None:
        if address not in self._warm:
            self._set(self._warm, address, True)

    # Roots: kept constant, nothing reads them.

    @property
    def state_root(self) -> bytes:
        return BLANK_ROOT_HASH

    @state_root.setter
    def state_root(self, value: bytes) -> None:
        """Constant."""


class DictState(PragueState):
    """Prague's rules over DictAccounts."""

    def __init__(self, accounts: DictAccounts, context: ExecutionContext) -> None:
        self.execution_context = context
        self._account_db = accounts  # type: ignore[assignment]

    def snapshot(self) -> Any:
        return BLANK_ROOT_HASH, self._account_db.record()

    def commit(self, snapshot: Any) -> None:
        """Nothing to do: what is not reverted stays."""

    def revert(self, snapshot: Any) -> None:
        self._account_db.discard(snapshot[1])

    def get_transient_storage(self, address: bytes, slot: int) -> bytes:
        return self._account_db.get_transient(address, slot)  # type: ignore[attr-defined]

    def set_transient_storage(self, address: bytes, slot: int, value: bytes) -> None:
        self._account_db.set_transient(address, slot, value)  # type: ignore[attr-defined]

    def clear_transient_storage(self) -> None:
        """DictAccounts forgets it when the transaction is over."""


class _Sent:
    """A transaction whose sender is known already, so that no signature is checked or recovered again."""

    s = 1  # for the rule that s is low, which the signature met

    def __init__(self, transaction: Any, sender: bytes) -> None:
        self._transaction = transaction
        self.sender = sender
        self.type_id = _type_of(transaction)
        self.gas, self.data, self.to = transaction.gas, transaction.data, transaction.to
        self.value, self.nonce = transaction.value, transaction.nonce
        self.intrinsic_gas = transaction.intrinsic_gas

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)

    def validate(self) -> None:
        """Gas limit against https://eips.ethereum.org/EIPS/eip-7623"""
        tokens = 4 * len(self.data) - 3 * self.data.count(0)
        if self.gas < (least := max(self.intrinsic_gas, 21_000 + 10 * tokens)):
            raise ValidationError(f"intrinsic gas too low: needs {least}, has {self.gas}")


@dataclass(slots=True)
class Block:
    """A mined block, and where the undo log stood after it."""

    number: int
    timestamp_s: int
    parent_hash: bytes
    gas_used: int
    checkpoint: int
    hash: bytes
    # At most one each; plain JSON-RPC objects.
    transaction: dict[str, Any] | None = None
    receipt: dict[str, Any] | None = None
    revert_data: bytes = b""


@dataclass(slots=True)
class _Snapshot:
    height: int
    checkpoint: int
    interval_s: int


class PyEvmNode(JSONBaseProvider):
    """JSON-RPC provider with its own chain: one block for each transaction, one second (by default) for each block."""

    def __init__(
        self, keys: Sequence[PrivateKey], *, chain_id: int, timestamp_s: int, block_gas_limit: int, balance_wei: int
    ) -> None:
        super().__init__()
        self.chain_id = chain_id
        self.block_gas_limit = block_gas_limit
        self._keys = {key.public_key.to_canonical_address(): key for key in keys}
        self._accounts = DictAccounts()
        for address in self._keys:
            self._accounts.set_balance(address, balance_wei)
        self._builder = PragueVM.get_transaction_builder()
        self._blocks: list[Block] = []
        self._by_hash: dict[bytes, int] = {}
        self._by_transaction: dict[bytes, int] = {}
        self._snapshots: list[_Snapshot] = []
        self._impersonated: dict[bytes, PrivateKey] = {}
        self._lock = threading.RLock()
        self._interval_s = 1
        self._next_timestamp_s: int | None = None
        # States of earlier blocks that were asked for last, by block hash.
        self._past: dict[bytes, DictAccounts] = {}
        self._append(self._seal(0, timestamp_s, ZERO_HASH32))
        self._methods = {name: getattr(self, method) for name, method in _METHODS.items()}

    # Provider

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """The JSON-RPC answer. Errors are in the answer, as from a node."""
        try:
            handler = self._methods.get(str(method))
            if handler is None:
                raise RpcError(-32601, f"the py-evm node has no method {method}")
            with self._lock:
                return {"jsonrpc": "2.0", "id": 1, "result": handler(*params)}
        except RpcError as error:
            answer: dict[str, Any] = {"code": error.code, "message": error.message}
            if error.data is not None:
                answer["data"] = _hex(error.data)
            return {"jsonrpc": "2.0", "id": 1, "error": answer}  # type: ignore[typeddict-item]

    def is_connected(self, show_traceback: bool = False) -> bool:
        return True

    # Blocks

    @property
    def _head(self) -> Block:
        return self._blocks[-1]

    def _context(self, block: Block | None = None, *, timestamp_s: int = 0) -> ExecutionContext:
        """Of a mined block, for calls; without one, of the block about to be mined at `timestamp_s`."""
        number = block.number if block else self._head.number + 1
        return ExecutionContext(
            coinbase=ZERO_ADDRESS,
            timestamp=block.timestamp_s if block else timestamp_s,
            block_number=number,
            difficulty=0,
            mix_hash=keccak(number.to_bytes(32, "big")),
            gas_limit=self.block_gas_limit,
            prev_hashes=(b.hash for b in reversed(self._blocks[max(0, number - 256) : number])),
            chain_id=self.chain_id,
            base_fee_per_gas=0,
            excess_blob_gas=0,
        )

    def _seal(self, number: int, timestamp_s: int, parent_hash: bytes, **rest: Any) -> Block:
        content = json.dumps([number, timestamp_s, rest.get("receipt")], sort_keys=True)
        block = Block(
            number=number,
            timestamp_s=timestamp_s,
            parent_hash=parent_hash,
            gas_used=int(rest["receipt"]["gasUsed"], 16) if rest.get("receipt") else 0,
            checkpoint=self._accounts.record(),
            hash=keccak(parent_hash + content.encode()),
            **rest,
        )
        for entry in (block.transaction, block.receipt, *(block.receipt["logs"] if block.receipt else ())):
            if entry is not None:
                entry["blockHash"] = _hex(block.hash)
        return block

    def _append(self, block: Block) -> None:
        self._blocks.append(block)
        self._by_hash[block.hash] = block.number
        if block.transaction:
            self._by_transaction[to_bytes(hexstr=block.transaction["hash"])] = block.number
        self._next_timestamp_s = None

    def _timestamp_of_next(self) -> int:
        return self._head.timestamp_s + self._interval_s if self._next_timestamp_s is None else self._next_timestamp_s

    def _mine_empty(self, timestamp_s: int) -> None:
        self._accounts.lock_changes()
        head = self._head
        self._append(self._seal(head.number + 1, timestamp_s, head.hash))

    def _find(self, where: Any) -> Block | None:
        if where in (None, "latest", "pending", "safe", "finalized"):
            return self._head
        number = 0 if where == "earliest" else _int(where)
        return self._blocks[number] if number < len(self._blocks) else None

    def _require(self, where: Any) -> Block:
        if isinstance(where, dict):
            where = self._by_hash.get(to_bytes(hexstr=where["blockHash"]), len(self._blocks))
        block = self._find(where)
        if block is None:
            raise RpcError(-32602, f"block {where} is not on this chain")
        return block

    # Transactions

    def _execute(self, transaction: SignedTransactionAPI, sender: bytes) -> str:
        """Mine a block with this transaction. Raises RpcError when it is invalid (a revert is not invalid)."""
        timestamp_s, head = self._timestamp_of_next(), self._head
        if transaction.gas > self.block_gas_limit:
            raise RpcError(-32003, "transaction gas limit exceeds the block's")
        state = DictState(self._accounts, self._context(timestamp_s=timestamp_s))
        self._accounts.lock_changes()
        start = self._accounts.record()
        try:
            computation = state.apply_transaction(_Sent(transaction, sender))
        except ValidationError as error:
            self._accounts.discard(start)
            raise RpcError(-32003, str(error)) from None
        self._accounts.forget_transient(start)
        gas_left = computation.get_gas_remaining()
        refund = state.get_transaction_executor().calculate_gas_refund(computation, transaction.gas - gas_left)
        gas_used = transaction.gas - gas_left - refund + computation.data_floor_gas
        number, tx_hash = head.number + 1, _hex(transaction.hash)
        price = state.get_transaction_context(transaction).gas_price
        place = {"blockNumber": hex(number), "transactionHash": tx_hash, "transactionIndex": "0x0", "blockHash": ""}
        created = computation.msg.storage_address if computation.msg.is_create else None
        logs = () if computation.is_error else computation.get_log_entries()
        receipt = {
            **place,
            "type": hex(_type_of(transaction)),
            "status": "0x0" if computation.is_error else "0x1",
            "from": _hex(sender),
            "to": _hex(transaction.to) if transaction.to else None,
            "contractAddress": _hex(created) if created else None,
            "gasUsed": hex(gas_used),
            "cumulativeGasUsed": hex(gas_used),
            "effectiveGasPrice": hex(price),
            "logsBloom": _NO_BLOOM,
            "logs": [
                {
                    **place,
                    "address": _hex(address),
                    "topics": ["0x" + topic.to_bytes(32, "big").hex() for topic in topics],
                    "data": _hex(data),
                    "logIndex": hex(index),
                    "removed": False,
                }
                for index, (address, topics, data) in enumerate(logs)
            ],
        }
        block = self._seal(
            number,
            timestamp_s,
            head.hash,
            receipt=receipt,
            transaction=self._describe(transaction, sender, place, price),
            revert_data=_revert_data(computation) if computation.is_error else b"",
        )
        self._append(block)
        return tx_hash

    def _describe(
        self, transaction: SignedTransactionAPI, sender: bytes, place: dict[str, Any], price: int
    ) -> dict[str, Any]:
        kind = _type_of(transaction)
        fees = {"gasPrice": hex(price)}
        if kind >= 2:
            fees |= {
                "maxFeePerGas": hex(transaction.max_fee_per_gas),
                "maxPriorityFeePerGas": hex(transaction.max_priority_fee_per_gas),
            }
        position = {key: value for key, value in place.items() if key != "transactionHash"}
        return {
            **position,
            **fees,
            "hash": place["transactionHash"],
            "type": hex(kind),
            "chainId": hex(self.chain_id),
            "from": _hex(sender),
            "to": _hex(transaction.to) if transaction.to else None,
            "value": hex(transaction.value),
            "input": _hex(transaction.data),
            "nonce": hex(transaction.nonce),
            "gas": hex(transaction.gas),
            "v": hex(transaction.y_parity if kind else transaction.v),
            "r": hex(transaction.r),
            "s": hex(transaction.s),
        }

    def _unsigned(self, request: dict[str, Any], *, gas: int, nonce: int) -> Any:
        fields = {
            "nonce": nonce,
            "gas": gas,
            "to": to_bytes(hexstr=request["to"]) if request.get("to") else b"",
            "value": _int(request.get("value", 0)),
            "data": to_bytes(hexstr=request.get("data") or request.get("input") or "0x"),
        }
        if "gasPrice" in request:
            return self._builder.create_unsigned_transaction(gas_price=_int(request["gasPrice"]), **fields)
        tip = _int(request.get("maxPriorityFeePerGas", _TIP))
        return self._builder.new_unsigned_dynamic_fee_transaction(
            chain_id=self.chain_id,
            max_priority_fee_per_gas=tip,
            max_fee_per_gas=_int(request.get("maxFeePerGas", tip)),
            access_list=(),
            **fields,
        )

    def _simulate(self, request: dict[str, Any], block: Block, gas: int) -> Any:
        accounts = self._state_after(block)
        sender = to_bytes(hexstr=request["from"]) if request.get("from") else ZERO_ADDRESS
        # Free of charge: the fee fields stay zero, so the sender needs no ether.
        free = {key: request[key] for key in ("to", "value", "data", "input") if request.get(key)} | {"gasPrice": 0}
        start = accounts.record()
        accounts.lock_changes()
        try:
            unsigned = self._unsigned(free, gas=gas, nonce=accounts.get_nonce(sender))
            return DictState(accounts, self._context(block)).apply_transaction(_Sent(unsigned, sender))
        except ValidationError as error:
            raise RpcError(-32003, str(error)) from None
        finally:
            accounts.discard(start)

    # Methods

    def call(self, request: dict[str, Any], where: Any = "latest", *_: Any) -> str:
        gas = _int(request["gas"]) if request.get("gas") else self.block_gas_limit
        computation = self._simulate(request, self._require(where), min(gas, self.block_gas_limit))
        if computation.is_error:
            raise _failure(computation)
        return _hex(computation.output)

    def estimate_gas(self, request: dict[str, Any], where: Any = "latest", *_: Any) -> str:
        """Smallest gas limit that succeeds, to 1/64."""
        block = self._require(where)
        computation = self._simulate(request, block, self.block_gas_limit)
        if computation.is_error:
            raise _failure(computation)
        low, high = 21_000 - 1, self.block_gas_limit
        guess = (self.block_gas_limit - computation.get_gas_remaining()) * 64 // 63
        while high - low > max(1, high // 64):
            try:
                failed = self._simulate(request, block, guess).is_error
            except RpcError:
                failed = True
            low, high = (guess, high) if failed else (low, guess)
            guess = (low + high) // 2
        return hex(high)

    def send_transaction(self, request: dict[str, Any]) -> str:
        sender = to_bytes(hexstr=request["from"])
        key = self._keys.get(sender) or self._impersonated.get(sender)
        if key is None:
            raise RpcError(-32000, f"no key for sender {request['from']}")
        gas = _int(request["gas"]) if request.get("gas") else _int(self.estimate_gas(request))
        expected = self._accounts.get_nonce(sender)
        nonce = _int(request["nonce"]) if request.get("nonce") is not None else expected
        unsigned = self._unsigned(request, gas=gas, nonce=nonce)
        signed = unsigned.as_signed_transaction(key, *(() if _type_of(unsigned) else (self.chain_id,)))
        return self._execute(signed, sender)

    def send_raw_transaction(self, raw: str) -> str:
        try:
            transaction = self._builder.decode(to_bytes(hexstr=raw))
            transaction.validate()
            sender = transaction.sender
        except Exception as error:  # whatever the decoder says, the sender hears "invalid"
            raise RpcError(-32602, f"transaction cannot be decoded: {error}") from None
        if transaction.chain_id not in (None, self.chain_id):
            raise RpcError(-32000, f"transaction is for chain {transaction.chain_id}, not {self.chain_id}")
        if transaction.hash in self._by_transaction:
            raise RpcError(-32000, "already known")
        if transaction.nonce != (expected := self._accounts.get_nonce(sender)):
            low = transaction.nonce < expected
            raise RpcError(-32003, f"nonce too {'low' if low else 'high'}: next is {expected}")
        return self._execute(transaction, sender)

    def send_sync(self, request: dict[str, Any]) -> dict[str, Any] | None:
        return self.get_receipt(self.send_transaction(request))

    def get_receipt(self, tx_hash: str) -> dict[str, Any] | None:
        number = self._by_transaction.get(to_bytes(hexstr=tx_hash))
        return self._blocks[number].receipt if number is not None else None

    def get_transaction(self, tx_hash: str) -> dict[str, Any] | None:
        number = self._by_transaction.get(to_bytes(hexstr=tx_hash))
        return self._blocks[number].transaction if number is not None else None

    def get_revert_data(self, tx_hash: str) -> str:
        number = self._by_transaction.get(to_bytes(hexstr=tx_hash))
        return _hex(self._blocks[number].revert_data) if number is not None else "0x"

    def get_block(self, where: Any, full: bool = False) -> dict[str, Any] | None:
        block = self._find(where)
        if block is None:
            return None
        transactions = [block.transaction if full else block.transaction["hash"]] if block.transaction else []
        return {
            "number": hex(block.number),
            "hash": _hex(block.hash),
            "parentHash": _hex(block.parent_hash),
            "timestamp": hex(block.timestamp_s),
            "gasLimit": hex(self.block_gas_limit),
            "gasUsed": hex(block.gas_used),
            "baseFeePerGas": "0x0",
            "transactions": transactions,
            "miner": _hex(ZERO_ADDRESS),
            "difficulty": "0x0",
            "totalDifficulty": "0x0",
            "extraData": "0x",
            "size": "0x0",
            "nonce": "0x0000000000000000",
            "mixHash": _hex(keccak(block.number.to_bytes(32, "big"))),
            "logsBloom": _NO_BLOOM,
            "uncles": [],
            "withdrawals": [],
            **dict.fromkeys(("sha3Uncles", "stateRoot", "transactionsRoot", "receiptsRoot"), _ZERO_HASH),
        }

    def get_block_by_hash(self, block_hash: str, full: bool = False) -> dict[str, Any] | None:
        number = self._by_hash.get(to_bytes(hexstr=block_hash))
        return self.get_block(number, full) if number is not None else None

    def get_logs(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        if "blockHash" in query:
            number = self._require({"blockHash": query["blockHash"]}).number
            blocks: Sequence[Block] = self._blocks[number : number + 1]
        else:
            first = self._find(query.get("fromBlock", "latest"))
            last = self._find(query.get("toBlock", "latest")) or self._head
            blocks = self._blocks[first.number : last.number + 1] if first else ()
        wanted = _log_filter(query.get("address"), query.get("topics") or ())
        return [log for block in blocks if block.receipt for log in block.receipt["logs"] if wanted(log)]

    def get_balance(self, address: str, where: Any = "latest") -> str:
        return hex(self._state_at(where).get_balance(to_bytes(hexstr=address)))

    def get_nonce(self, address: str, where: Any = "latest") -> str:
        return hex(self._state_at(where).get_nonce(to_bytes(hexstr=address)))

    def get_code(self, address: str, where: Any = "latest") -> str:
        return _hex(self._state_at(where).get_code(to_bytes(hexstr=address)))

    def get_storage(self, address: str, slot: Any, where: Any = "latest") -> str:
        value = self._state_at(where).get_storage(to_bytes(hexstr=address), _int(slot))
        return "0x" + value.to_bytes(32, "big").hex()

    def _state_at(self, where: Any) -> DictAccounts:
        return self._state_after(self._require(where))

    def _state_after(self, block: Block) -> DictAccounts:
        if block is self._head:
            return self._accounts
        if block.hash not in self._past:
            self._past[block.hash] = self._accounts.rewound(block.checkpoint)
            if len(self._past) > _PAST_STATES:
                del self._past[next(iter(self._past))]
        return self._past[block.hash]

    def fee_history(self, count: Any, newest: Any, percentiles: Sequence[float] = ()) -> dict[str, Any]:
        last = self._require(newest).number
        blocks = self._blocks[max(0, last + 1 - _int(count)) : last + 1]
        return {
            "oldestBlock": hex(blocks[0].number),
            "baseFeePerGas": ["0x0"] * (len(blocks) + 1),
            "gasUsedRatio": [b.gas_used / self.block_gas_limit for b in blocks],
            "reward": [["0x0"] * len(percentiles) for _ in blocks],
        }

    # Time and state, by the names anvil uses

    def mine(self, count: Any = 1, interval_s: Any = None) -> None:
        for index in range(_int(count)):
            step = self._interval_s if interval_s is None else _int(interval_s)
            self._mine_empty(self._timestamp_of_next() if index == 0 else self._head.timestamp_s + step)

    def evm_mine(self, *_: Any) -> str:
        self.mine(1)
        return "0x0"

    def set_next_timestamp(self, timestamp_s: Any) -> None:
        if (wanted := _int(timestamp_s)) <= self._head.timestamp_s:
            raise RpcError(-32602, f"{wanted} is not after the last block's timestamp {self._head.timestamp_s}")
        self._next_timestamp_s = wanted

    def set_interval(self, seconds: Any) -> None:
        self._interval_s = _int(seconds)

    def set_balance(self, address: str, balance_wei: Any) -> None:
        self._accounts.set_balance(to_bytes(hexstr=address), _int(balance_wei))

    def set_code(self, address: str, code: str) -> None:
        self._accounts.set_code(to_bytes(hexstr=address), to_bytes(hexstr=code))

    def impersonate(self, address: str) -> None:
        """Its transactions are signed with a key made up for it, and executed as from the address."""
        raw = to_bytes(hexstr=address)
        self._impersonated[raw] = PrivateKey(keccak(raw))

    def snapshot(self) -> str:
        self._accounts.lock_changes()
        self._snapshots.append(_Snapshot(len(self._blocks), self._accounts.record(), self._interval_s))
        return hex(len(self._snapshots) - 1)

    def revert(self, snapshot: Any) -> bool:
        """As anvil: the snapshot and all later ones are used up by it."""
        index = _int(snapshot)
        if index >= len(self._snapshots):
            return False
        found = self._snapshots[index]
        del self._snapshots[index:]
        self._accounts.lock_changes()
        self._accounts.discard(found.checkpoint)
        for block in self._blocks[found.height :]:
            del self._by_hash[block.hash]
            if block.transaction:
                del self._by_transaction[to_bytes(hexstr=block.transaction["hash"])]
        del self._blocks[found.height :]
        self._past.clear()
        self._interval_s, self._next_timestamp_s = found.interval_s, None
        return True

    # Constants

    def get_accounts(self) -> list[str]:
        return [_hex(address) for address in self._keys]

    def get_chain_id(self) -> str:
        return hex(self.chain_id)

    def get_network(self) -> str:
        return str(self.chain_id)

    def get_version(self) -> str:
        return "MarketFlow/py-evm"

    def get_gas_price(self) -> str:
        return hex(_TIP)

    def get_tip(self) -> str:
        return hex(_TIP)

    def get_block_number(self) -> str:
        return hex(self._head.number)

    def get_syncing(self) -> bool:
        return False


_METHODS = {
    "anvil_impersonateAccount": "impersonate",
    "anvil_mine": "mine",
    "anvil_setBalance": "set_balance",
    "anvil_setCode": "set_code",
    "anvil_setBlockTimestampInterval": "set_interval",
    "eth_accounts": "get_accounts",
    "eth_blockNumber": "get_block_number",
    "eth_call": "call",
    "eth_chainId": "get_chain_id",
    "eth_estimateGas": "estimate_gas",
    "eth_feeHistory": "fee_history",
    "eth_gasPrice": "get_gas_price",
    "eth_getBalance": "get_balance",
    "eth_getBlockByHash": "get_block_by_hash",
    "eth_getBlockByNumber": "get_block",
    "eth_getCode": "get_code",
    "eth_getLogs": "get_logs",
    "eth_getStorageAt": "get_storage",
    "eth_getTransactionByHash": "get_transaction",
    "eth_getTransactionCount": "get_nonce",
    "eth_getTransactionReceipt": "get_receipt",
    "eth_maxPriorityFeePerGas": "get_tip",
    "eth_sendRawTransaction": "send_raw_transaction",
    "eth_sendTransaction": "send_transaction",
    "eth_sendTransactionSync": "send_sync",
    "eth_syncing": "get_syncing",
    "evm_mine": "evm_mine",
    "evm_revert": "revert",
    "evm_setNextBlockTimestamp": "set_next_timestamp",
    "evm_snapshot": "snapshot",
    "net_version": "get_network",
    "ots_getTransactionError": "get_revert_data",
    "web3_clientVersion": "get_version",
}


def _hex(value: bytes) -> str:
    return "0x" + bytes(value).hex()


def _int(value: Any) -> int:
    if isinstance(value, str):
        return int(value, 16) if value.startswith("0x") else int(value)
    return big_endian_to_int(value) if isinstance(value, bytes) else int(value)


def _type_of(transaction: Any) -> int:
    return int(getattr(transaction, "type_id", None) or 0)


def _revert_data(computation: Any) -> bytes:
    return bytes(computation.output) if isinstance(computation.error, Revert) else b""


def _failure(computation: Any) -> RpcError:
    if isinstance(computation.error, Revert):
        return RpcError(3, "execution reverted", bytes(computation.output))
    return RpcError(-32003, f"execution failed: {type(computation.error).__name__}: {computation.error}")


def _log_filter(addresses: Any, topics: Sequence[Any]) -> Callable[[dict[str, Any]], bool]:
    """https://ethereum.org/developers/docs/apis/json-rpc#eth_newfilter, topics by position."""
    among = {a.lower() for a in ([addresses] if isinstance(addresses, str) else addresses or ())}
    asked = [None if t is None else {t.lower()} if isinstance(t, str) else {x.lower() for x in t} for t in topics]

    def wanted(log: dict[str, Any]) -> bool:
        if among and log["address"] not in among:
            return False
        if len(log["topics"]) < len(asked):
            return False
        return all(want is None or have in want for have, want in zip(log["topics"], asked, strict=False))

    return wanted
