"""An Ethereum node inside the process: revm (Rust) behind the JSON-RPC methods that `LocalEvm` uses.

For what needs a hundred thousand transactions and no history: a hundred times faster than py-evm. Only the latest block
can be asked for, and any account without code may send. Through JSON-RPC one transaction is one block, one second after
the last, as on the other two engines; `transact` adds to the latest block, unless told to begin one each time.

All transactions share one journal, in which storage once touched stays warm: `gasUsed` is too low. What transactions
cost is measured elsewhere, on the state that `copy_to` hands over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from eth_utils import keccak
from pyrevm import EVM, AccountInfo, BlockEnv
from web3.providers import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from agents.localnet.evm import BALANCE_WEI, CHAIN_ID, GENESIS_S, LocalEvm, mnemonic_accounts
from agents.localnet.pyevm_node import PyEvmNode

BLOCK_GAS_LIMIT = 30_000_000
ZERO_ADDRESS = "0x" + "00" * 20
_TOUCHED_SLOT = re.compile(r"StorageChange \{ address: (0x[0-9a-f]{40}), key: (\d+)")
_OUTPUT = re.compile(r"output: 0x([0-9a-f]*)")


class Reverted(Exception):
    """A transaction or a call failed: the revert data, empty when there was none."""

    def __init__(self, text: str) -> None:
        super().__init__(text[:300])
        found = _OUTPUT.search(text)
        self.data = bytes.fromhex(found[1]) if found else b""


class RevmNode(JSONBaseProvider):
    """JSON-RPC provider with a chain of its own; `transact` and `call` are the quick way, past JSON."""

    def __init__(self, *, timestamp_s: int = GENESIS_S, block_per_transaction: bool = False) -> None:
        super().__init__()
        self.block_per_transaction = block_per_transaction
        self._evm = EVM(spec_id="PRAGUE", gas_limit=BLOCK_GAS_LIMIT)
        self.number, self.timestamp_s = 0, timestamp_s
        self._next_s: int | None = None
        self._revert_data: dict[str, bytes] = {}
        self._set_block()
        self._methods: Mapping[str, Callable[..., Any]] = {
            "anvil_impersonateAccount": lambda address: None,  # who has no code may send anyway
            "anvil_setBalance": lambda address, balance: self._evm.set_balance(address, int(balance, 16)),
            "anvil_setCode": self._set_code,
            "anvil_setBlockTimestampInterval": lambda seconds: None,  # one second, as it is
            "eth_blockNumber": lambda: hex(self.number),
            "eth_call": self._eth_call,
            "eth_chainId": lambda: hex(CHAIN_ID),
            "eth_getBalance": lambda address, _: hex(self._evm.get_balance(address)),
            "eth_getBlockByNumber": lambda *_: {"number": hex(self.number), "timestamp": hex(self.timestamp_s)},
            "eth_getCode": lambda address, _: "0x" + self.code_of(address).hex(),
            "eth_sendTransactionSync": self._eth_send,
            "evm_mine": lambda: self._begin_block(),
            "evm_setNextBlockTimestamp": self._set_next,
            "ots_getTransactionError": lambda tx_hash: "0x" + self._revert_data[tx_hash].hex(),
        }

    # Acting

    def transact(self, sender: str, to: str, data: bytes) -> bytes:
        """Mines a transaction; what it returned. Raises Reverted."""
        if self.block_per_transaction:
            self._begin_block()
        return self._execute(sender, to, data)

    def call(self, to: str, data: bytes, sender: str = ZERO_ADDRESS) -> bytes:
        """What the call returns; nothing stays. Raises Reverted."""
        before = self._evm.snapshot()
        try:
            return self._execute(sender, to, data)
        finally:
            self._evm.revert(before)

    def logs(self) -> list[Any]:
        """Of the last transaction."""
        return self._evm.result.logs

    def travel_to(self, timestamp_s: int) -> None:
        """A block at that time, empty so far. Raises ValueError unless it is later."""
        if timestamp_s <= self.timestamp_s:
            raise ValueError(f"cannot travel to {timestamp_s}: it is {self.timestamp_s} already")
        self._set_next(timestamp_s)
        self._begin_block()

    def copy_to(self, node: PyEvmNode) -> None:
        """Makes the other engine's state and time this one's: accounts, code and storage."""
        accounts = node._accounts
        for address in self._evm.journal_state:
            raw = bytes.fromhex(address[2:])
            accounts.set_balance(raw, self._evm.get_balance(address))
            accounts.set_nonce(raw, self._evm.basic(address).nonce)
            accounts.set_code(raw, self.code_of(address))
        for address, slot in set(_TOUCHED_SLOT.findall(self._evm.journal_str)):
            accounts.set_storage(bytes.fromhex(address[2:]), int(slot), self._evm.storage(address, int(slot)))
        node.set_next_timestamp(hex(self.timestamp_s))
        node.mine()

    # Blocks

    def _set_next(self, timestamp_s: str | int) -> None:
        self._next_s = int(timestamp_s, 16) if isinstance(timestamp_s, str) else timestamp_s

    def _begin_block(self) -> str:
        self.number += 1
        self.timestamp_s = self.timestamp_s + 1 if self._next_s is None else self._next_s
        self._next_s = None
        self._set_block()
        return "0x0"

    def _set_block(self) -> None:
        block = BlockEnv(number=self.number, timestamp=self.timestamp_s, basefee=0, gas_limit=BLOCK_GAS_LIMIT)
        self._evm.set_block_env(block)

    def _execute(self, sender: str, to: str, data: bytes, value: int = 0) -> bytes:
        try:
            return self._evm.message_call(sender, to, data, value, BLOCK_GAS_LIMIT)
        except RuntimeError as error:
            raise Reverted(str(error)) from None

    # JSON-RPC

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """The JSON-RPC answer. Errors are in the answer, as from a node."""
        try:
            return {"jsonrpc": "2.0", "id": 1, "result": self._methods[method](*params)}
        except Reverted as error:
            problem = {"code": 3, "message": str(error), "data": "0x" + error.data.hex()}
            return {"jsonrpc": "2.0", "id": 1, "error": problem}  # type: ignore[typeddict-item]

    def is_connected(self, show_traceback: bool = False) -> bool:
        return True

    def code_of(self, address: str) -> bytes:
        """revm answers with its own padding of STOPs behind the code."""
        padded, code_hash = self._evm.get_code(address) or b"", self._evm.basic(address).code_hash
        for padding in range(64):
            code = padded[: max(0, len(padded) - padding)]
            if keccak(code) == code_hash:
                return code
        raise AssertionError(f"code of {address}")

    def _set_code(self, address: str, code: str) -> None:
        self._evm.insert_account_info(address, AccountInfo(nonce=1, code=bytes.fromhex(code[2:])))

    def _eth_call(self, request: dict[str, str], _: str) -> str:
        return "0x" + self.call(request["to"], _data(request), request.get("from", ZERO_ADDRESS)).hex()

    def _eth_send(self, request: dict[str, str]) -> dict[str, Any]:
        self._begin_block()
        sender, data, value = request["from"], _data(request), int(request["value"], 16)
        created, failed = None, None
        try:
            if request.get("to"):
                self._execute(sender, request["to"], data, value)
            else:
                created = self._deploy(sender, data, value)
        except Reverted as error:
            failed = error
        tx_hash = "0x" + keccak(self.number.to_bytes(32, "big")).hex()
        if failed:
            self._revert_data[tx_hash] = failed.data
        place = {"blockNumber": hex(self.number), "blockHash": tx_hash}
        place |= {"transactionHash": tx_hash, "transactionIndex": "0x0"}
        gas_used = hex(0 if failed else self._evm.result.gas_used)
        return {
            **place,
            "type": "0x0",
            "status": "0x0" if failed else "0x1",
            "from": sender,
            "to": request.get("to"),
            "contractAddress": created,
            "gasUsed": gas_used,
            "cumulativeGasUsed": gas_used,
            "effectiveGasPrice": "0x0",
            "logs": [] if failed else [_log(log, index, place) for index, log in enumerate(self.logs())],
        }

    def _deploy(self, sender: str, code: bytes, value: int) -> str:
        try:
            return self._evm.deploy(sender, code, value, BLOCK_GAS_LIMIT)
        except RuntimeError as error:
            raise Reverted(str(error)) from None


def start_revm(*, accounts: int = 20, block_per_transaction: bool = False) -> tuple[LocalEvm, RevmNode]:
    """A fresh chain with the accounts every local chain here has, and its node."""
    node = RevmNode(block_per_transaction=block_per_transaction)
    known = mnemonic_accounts(accounts)
    for account in known:
        node._evm.set_balance(account.address, BALANCE_WEI)
    return LocalEvm("revm", node, known, block_gas_limit=BLOCK_GAS_LIMIT), node


def _data(request: Mapping[str, str]) -> bytes:
    return bytes.fromhex(request.get("data", "0x")[2:])


def _log(log: Any, index: int, place: dict[str, str]) -> dict[str, Any]:
    _, data = log.data
    return {
        **place,
        "address": log.address,
        "topics": log.topics,
        "data": "0x" + bytes(data).hex(),
        "logIndex": hex(index),
        "removed": False,
    }
