"""One local EVM with two engines behind the same interface: anvil (a process) and py-evm (in this process).

Both run the Prague rules with chain id 31337, the same accounts, no base fee, one block for each transaction, and block
times that only move when told: each block is one second after the one before, unless travelled. So a scenario gives the
same addresses, transaction hashes, timestamps, balances and gas on both, every time. Block hashes and PREVRANDAO are
repeatable on py-evm only.
"""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from eth_account import Account as EthAccount
from eth_account.hdaccount import HDPath, seed_from_mnemonic
from eth_keys import keys
from eth_utils import to_bytes, to_checksum_address
from hexbytes import HexBytes
from web3 import Web3
from web3.contract import Contract
from web3.datastructures import AttributeDict

from agents.contracts import Artifact, RevertReason, decode_outputs, decode_revert, load_artifact
from agents.localnet.anvil import AnvilProcess, AnvilProvider, EvmUnavailable, PortTaken

__all__ = [
    "CHAIN_ID",
    "DEFAULT_GAS",
    "GENESIS_S",
    "MNEMONIC",
    "CallReverted",
    "EvmUnavailable",
    "LocalEvm",
    "PortTaken",
    "TransactionReverted",
    "attach_evm",
    "start_evm",
]

Kind = Literal["auto", "anvil", "py-evm"]
Receipt = Any

# The mnemonic every local Ethereum node uses; its keys are public, never send them money.
MNEMONIC = "test test test test test test test test test test test junk"
CHAIN_ID = 31337
# 2025-01-01T00:00:00Z: fixed, so that a run can be repeated.
GENESIS_S = 1_735_689_600
BALANCE_WEI = 10_000 * 10**18
GAS_PRICE_WEI = 10**9
# Enough for the largest contract; given with every transaction so that no estimate is needed.
DEFAULT_GAS = 15_000_000
# Keeps the hashes of 8,191 blocks (EIP-2935). anvil computes its storage trie anew for every block, so that the
# thousandth takes ten times as long as the first; py-evm's chain begins without it.
_HISTORY_CONTRACT = "0x0000F90827F1C53a10cb7A02335B175320002935"
_MINING_TIMEOUT_S = 60
_DROPPED_AFTER_S = 0.25


class CallReverted(Exception):
    """A call (nothing was mined) reverted; `reason` is decoded."""

    def __init__(self, reason: RevertReason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class TransactionReverted(Exception):
    """A transaction was mined and reverted; `reason` is decoded, `receipt` has its gas."""

    def __init__(self, reason: RevertReason, receipt: Receipt, *, gas_limit: int) -> None:
        super().__init__(f"{reason} (gas used {receipt['gasUsed']} of {gas_limit})")
        self.reason, self.receipt = reason, receipt


class TransactionRefused(Exception):
    """The node took no transaction at all: unknown sender, too little ether, wrong nonce."""


@dataclass(frozen=True, slots=True)
class Account:
    """A prefunded account of the test mnemonic. The node signs for it; `key` is for what tests sign themselves."""

    address: str
    key: HexBytes


@cache
def mnemonic_accounts(count: int) -> tuple[Account, ...]:
    """The first `count` accounts of the test mnemonic."""
    seed = seed_from_mnemonic(MNEMONIC, "")
    derived = (HDPath(f"m/44'/60'/0'/0/{index}").derive(seed) for index in range(count))
    return tuple(Account(keys.PrivateKey(k).public_key.to_checksum_address(), HexBytes(k)) for k in derived)


def start_evm(
    kind: Kind = "auto",
    *,
    accounts: int = 20,
    timestamp_s: int | None = None,
    block_gas_limit: int = 30_000_000,
    history_blocks: int = 1000,
    port: int | None = None,
) -> LocalEvm:
    """A fresh chain: use it in a `with`, or call `close()`.

    `auto` is anvil when it is installed and runs here, else py-evm. `timestamp_s` is the genesis block's (default
    GENESIS_S). Of anvil only: `port` (default: a free one), and `history_blocks`, how many blocks back state can be
    read (each costs a copy of the whole state; py-evm reads all). Raises EvmUnavailable when anvil is asked for and
    missing, PortTaken.
    """
    genesis_s = GENESIS_S if timestamp_s is None else timestamp_s
    if kind == "auto":
        options = {"accounts": accounts, "timestamp_s": genesis_s, "block_gas_limit": block_gas_limit}
        try:
            return start_evm("anvil", **options, history_blocks=history_blocks, port=port)
        except PortTaken:
            raise
        except EvmUnavailable:
            return start_evm("py-evm", **options)
    if kind == "anvil":
        process = AnvilProcess(
            mnemonic=MNEMONIC,
            accounts=accounts,
            chain_id=CHAIN_ID,
            timestamp_s=genesis_s,
            block_gas_limit=block_gas_limit,
            history_blocks=history_blocks,
            port=port,
        )
        provider = AnvilProvider("127.0.0.1", process.port)
        return LocalEvm(
            "anvil", provider, mnemonic_accounts(accounts), block_gas_limit=block_gas_limit, process=process
        )
    if kind != "py-evm":
        raise ValueError(f"kind is auto, anvil or py-evm, not {kind!r}")
    from agents.localnet.pyevm_node import PyEvmNode  # py-evm takes half a second to import: only who uses it pays

    node = PyEvmNode(
        [keys.PrivateKey(bytes(account.key)) for account in mnemonic_accounts(accounts)],
        chain_id=CHAIN_ID,
        timestamp_s=genesis_s,
        block_gas_limit=block_gas_limit,
        balance_wei=BALANCE_WEI,
    )
    return LocalEvm("py-evm", node, mnemonic_accounts(accounts), block_gas_limit=block_gas_limit)


def attach_evm(url: str, *, accounts: int = 20) -> LocalEvm:
    """An anvil that runs already, with its clock and its base fee as they are; `close` leaves it running.

    Raises EvmUnavailable when what answers is no anvil, or does not hold that many accounts of the test mnemonic.
    """
    where = urlsplit(url)
    if where.scheme != "http" or not where.hostname:
        raise EvmUnavailable(f"{url or 'a chain inside a process'} is no local node: one at http://127.0.0.1:8545 is")
    provider, wanted = AnvilProvider(where.hostname, where.port or 80), mnemonic_accounts(accounts)
    try:
        _require_anvil(provider, url, wanted)
        block = provider.request_raw("eth_getBlockByNumber", ["latest", False])["result"]
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        provider.close()
        raise EvmUnavailable(f"no node answers at {url} ({error}): start one with `ape run node`") from error
    except EvmUnavailable:
        provider.close()
        raise
    return LocalEvm("anvil", provider, wanted, block_gas_limit=int(block["gasLimit"], 16), attached_to=url)


def _require_anvil(provider: AnvilProvider, url: str, wanted: tuple[Account, ...]) -> None:
    version = str(provider.request_raw("web3_clientVersion", []).get("result"))
    if not version.startswith("anvil/"):
        raise EvmUnavailable(f"the node at {url} is {version}, not anvil: start one with `ape run node`")
    held = {to_checksum_address(address) for address in provider.request_raw("eth_accounts", [])["result"]}
    if missing := [account.address for account in wanted if account.address not in held]:
        raise EvmUnavailable(
            f"the anvil at {url} lacks {len(missing)} of the {len(wanted)} accounts that are needed: start it with "
            f"`ape run node`, or `anvil --accounts {len(wanted)}` and its own mnemonic"
        )


class LocalEvm:
    """A local chain: time, snapshots, and transactions whose failures say why."""

    def __init__(
        self,
        name: str,
        provider: Any,
        accounts: tuple[Account, ...],
        *,
        block_gas_limit: int,
        process: AnvilProcess | None = None,
        attached_to: str | None = None,
    ) -> None:
        self.name = name
        self.accounts = accounts
        self.block_gas_limit = block_gas_limit
        self._impersonated: set[str] = set()
        self._provider, self._process, self._attached_to = provider, process, attached_to
        self._snapshots: dict[int, str] = {}
        self._next_snapshot = 1
        self._contracts: dict[tuple[str, str], Contract] = {}
        self.w3 = Web3(provider)
        if process:
            self._rpc("anvil_setLoggingEnabled", False)
            self.set_code(_HISTORY_CONTRACT, b"")
        if not attached_to:
            self._rpc("anvil_setBlockTimestampInterval", 1)

    @property
    def url(self) -> str | None:
        """Where others can connect to; None for py-evm, which is in this process only."""
        return f"http://127.0.0.1:{self._process.port}" if self._process else self._attached_to

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the node, unless it was only attached to. Calling it again does nothing."""
        if self._process or self._attached_to:
            self._provider.close()
        if self._process:
            self._process.close()

    # Time

    def now_s(self) -> int:
        """Timestamp of the latest block; also what `block.timestamp` is in calls."""
        return int(self._rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)

    def next_block_at(self, timestamp_s: int) -> None:
        """The next transaction's block gets exactly this timestamp. Raises ValueError unless it is after now."""
        if timestamp_s <= (now_s := self.now_s()):
            raise ValueError(f"cannot travel to {timestamp_s}: it is {now_s} already")
        self._rpc("evm_setNextBlockTimestamp", timestamp_s)

    def travel_to(self, timestamp_s: int) -> None:
        """Mine an empty block with exactly this timestamp. Raises ValueError unless it is after now."""
        self.next_block_at(timestamp_s)
        self._rpc("evm_mine")

    def travel(self, seconds: int) -> None:
        """Mine an empty block that many seconds after the latest."""
        self.travel_to(self.now_s() + seconds)

    def mine(self, blocks: int = 1) -> None:
        """Mine empty blocks, one second apart."""
        for _ in range(blocks):
            self._rpc("evm_mine")

    # State

    def snapshot(self) -> int:
        """An id for the state and time of now; any number of `revert`s may return to it."""
        identity, self._next_snapshot = self._next_snapshot, self._next_snapshot + 1
        self._snapshots[identity] = self._rpc("evm_snapshot")
        return identity

    def revert(self, snapshot: int) -> None:
        """Return to a snapshot, which stays valid; later ones are gone. Raises KeyError for an unknown id."""
        if not self._rpc("evm_revert", self._snapshots[snapshot]):
            raise KeyError(snapshot)
        self._snapshots = {key: value for key, value in self._snapshots.items() if key < snapshot}
        self._snapshots[snapshot] = self._rpc("evm_snapshot")

    def set_balance(self, address: str, balance_wei: int) -> None:
        """Give an address exactly that much ether; no block is mined."""
        self._rpc("anvil_setBalance", address, hex(balance_wei))

    def set_code(self, address: str, code: bytes) -> None:
        """Put deployed code at an address; no block is mined."""
        self._rpc("anvil_setCode", address, "0x" + code.hex())

    def impersonate(self, address: str) -> None:
        """Let `send` act as any address, a contract's too; its transactions cost nothing."""
        self._rpc("anvil_impersonateAccount", address)
        self._impersonated.add(to_checksum_address(address))

    # Transactions and calls

    def send(
        self,
        what: Any,
        sender: str | Account,
        *,
        value: int = 0,
        gas: int | None = None,
        gas_price: int | None = None,
    ) -> Receipt:
        """Mine a transaction and return its receipt.

        `what` is a bound contract function or constructor, or a dict with `to` and `data`; `sender` one of the
        accounts or an impersonated address. `value` and `gas_price` in wei. Raises TransactionReverted with the decoded
        reason, TransactionRefused when the node does not take it.
        """
        address = _address(sender)
        if gas_price is None:
            gas_price = 0 if address in self._impersonated else GAS_PRICE_WEI
        if gas is None:
            gas = min(DEFAULT_GAS, self.block_gas_limit)
        fees = {"value": hex(value), "gas": hex(gas), "gasPrice": hex(gas_price)}
        answer = self._request("eth_sendTransactionSync", [{**_target(what), "from": address, **fees}])
        if error := answer.get("error"):
            raise TransactionRefused(error["message"])
        return self._succeeded(answer["result"], gas)

    def sign(self, what: Any, sender: Account, *, value: int = 0) -> tuple[bytes, str, int]:
        """A transaction signed with the account's key and not sent: raw bytes, hash, and the nonce it uses."""
        nonce = int(self._rpc("eth_getTransactionCount", sender.address, "latest"), 16)
        target = {key: item for key, item in _target(what).items() if item}
        transaction = {**target, "nonce": nonce, "value": value, "gas": min(DEFAULT_GAS, self.block_gas_limit)}
        transaction |= {"gasPrice": GAS_PRICE_WEI, "chainId": CHAIN_ID}
        signed = EthAccount.sign_transaction(transaction, sender.key)
        return bytes(signed.raw_transaction), "0x" + bytes(signed.hash).hex(), nonce

    def send_raw(self, raw: bytes) -> Receipt:
        """Mine a transaction signed elsewhere. Raises as `send`; refused too when its nonce is not the next."""
        answer = self._request("eth_sendRawTransaction", ["0x" + bytes(raw).hex()])
        if error := answer.get("error"):
            raise TransactionRefused(error["message"])
        receipt = self._wait_for_receipt(answer["result"])
        return self._succeeded(receipt, int(self._rpc("eth_getTransactionByHash", answer["result"])["gas"], 16))

    def revert_reason(self, transaction_hash: bytes) -> RevertReason:
        """Why a mined transaction reverted; NoReason when it ran out of gas or gave none."""
        data = self._rpc("ots_getTransactionError", "0x" + bytes(transaction_hash).hex())
        return decode_revert(to_bytes(hexstr=data or "0x"))

    def deploy(
        self, artifact: Artifact | str, *args: Any, sender: str | Account, value: int = 0, gas: int | None = None
    ) -> Contract:
        """Deploy a contract (by name: one of ours) with constructor arguments. Raises as `send`."""
        found = load_artifact(artifact) if isinstance(artifact, str) else artifact
        if not found.bytecode:
            raise ValueError(f"{found.name} has no byte code: it is an interface, abstract, or an internal library")
        factory = self.w3.eth.contract(abi=found.abi, bytecode=found.bytecode)
        receipt = self.send(factory.constructor(*args), sender, value=value, gas=gas)
        return self.at(found, receipt["contractAddress"])

    def at(self, artifact: Artifact | str, address: str) -> Contract:
        """The contract of that artifact (by name: one of ours) that lies at an address."""
        found = load_artifact(artifact) if isinstance(artifact, str) else artifact
        key = (found.name, to_checksum_address(address))
        if key not in self._contracts:  # web3 takes milliseconds to make one
            self._contracts[key] = self.w3.eth.contract(address=key[1], abi=found.abi)
        return self._contracts[key]

    def call(
        self, what: Any, sender: str | Account | None = None, *, value: int = 0, block: int | str = "latest"
    ) -> Any:
        """What a contract function returns (named tuples for structs and for several values), mining nothing.

        For a dict with `to` and `data` the returned bytes. Raises CallReverted with the decoded reason.
        """
        request: dict[str, Any] = {**_target(what), "value": hex(value)}
        if sender is not None:
            request["from"] = _address(sender)
        answer = self._request("eth_call", [request, block if isinstance(block, str) else hex(block)])
        if error := answer.get("error"):
            if "data" not in error and error.get("code") != 3:
                raise CallReverted(RevertReason("NoReason", {"node": error["message"]}))
            raise CallReverted(decode_revert(to_bytes(hexstr=error.get("data") or "0x")))
        data = to_bytes(hexstr=answer["result"])
        return data if isinstance(what, Mapping) else decode_outputs(what.abi["outputs"], data)

    # The node

    def _succeeded(self, raw: Mapping[str, Any], gas_limit: int) -> Receipt:
        receipt = _receipt(raw)
        if receipt["status"] == 1:
            return receipt
        raise TransactionReverted(self.revert_reason(receipt["transactionHash"]), receipt, gas_limit=gas_limit)

    def _wait_for_receipt(self, transaction_hash: str) -> Mapping[str, Any]:
        """anvil answers first and mines then; its method that waits would wait for ever for a nonce to come."""
        start_s = time.monotonic()
        for attempt in range(sys.maxsize):
            if found := self._rpc("eth_getTransactionReceipt", transaction_hash):
                return found
            waited_s = time.monotonic() - start_s
            if waited_s > _MINING_TIMEOUT_S:
                raise TransactionRefused(f"not mined within {_MINING_TIMEOUT_S} s")
            if waited_s > _DROPPED_AFTER_S:
                self._refuse_if_stuck(transaction_hash)
            time.sleep(min(attempt * 0.0002, 0.01))
        raise AssertionError

    def _refuse_if_stuck(self, transaction_hash: str) -> None:
        """anvil drops what is for another chain without a word, and keeps what has a later nonce waiting."""
        pending = self._rpc("eth_getTransactionByHash", transaction_hash)
        if pending is None:
            raise TransactionRefused("the node dropped it: is it for another chain?")
        expected = int(self._rpc("eth_getTransactionCount", pending["from"], "latest"), 16)
        if pending["blockHash"] is None and int(pending["nonce"], 16) > expected:
            self._rpc("anvil_dropTransaction", transaction_hash)
            raise TransactionRefused(f"nonce too high: next is {expected}")

    def _rpc(self, method: str, *params: Any) -> Any:
        answer = self._request(method, list(params))
        if error := answer.get("error"):
            raise RuntimeError(f"{self.name}: {method}: {error['message']}")
        return answer["result"]

    def _request(self, method: str, params: list[Any]) -> Any:
        if self._process or self._attached_to:
            return self._provider.request_raw(method, params)
        return self._provider.make_request(method, params)


def _address(who: str | Account) -> str:
    return who.address if isinstance(who, Account) else str(who)


def _target(what: Any) -> dict[str, str]:
    """`to` and `data` of a bound contract function, a bound constructor, or a dict."""
    if isinstance(what, Mapping):
        data = what.get("data", b"")
        target = {"data": data if isinstance(data, str) else "0x" + bytes(data).hex()}
        return target | ({"to": what["to"]} if what.get("to") else {})
    if hasattr(what, "data_in_transaction"):
        return {"data": str(what.data_in_transaction)}
    return {"to": what.address, "data": str(what._encode_transaction_data())}


_QUANTITIES = ("blockNumber", "transactionIndex", "gasUsed", "cumulativeGasUsed", "effectiveGasPrice", "status", "type")
_HASHES = ("blockHash", "transactionHash")


def _receipt(raw: Mapping[str, Any]) -> Receipt:
    """As web3 returns it, without going through its formatters."""
    receipt: dict[str, Any] = {key: int(raw[key], 16) for key in _QUANTITIES}
    receipt |= {key: HexBytes(raw[key]) for key in _HASHES}
    receipt |= {key: to_checksum_address(raw[key]) if raw[key] else None for key in ("from", "to", "contractAddress")}
    return AttributeDict({**receipt, "logs": [_log(log) for log in raw["logs"]]})


def _log(raw: Mapping[str, Any]) -> AttributeDict[str, Any]:
    return AttributeDict(
        {
            "address": to_checksum_address(raw["address"]),
            "topics": [HexBytes(topic) for topic in raw["topics"]],
            "data": HexBytes(raw["data"]),
            "blockNumber": int(raw["blockNumber"], 16),
            "logIndex": int(raw["logIndex"], 16),
            "transactionIndex": int(raw["transactionIndex"], 16),
            "blockHash": HexBytes(raw["blockHash"]),
            "transactionHash": HexBytes(raw["transactionHash"]),
            "removed": False,
        }
    )
