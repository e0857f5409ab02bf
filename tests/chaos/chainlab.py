"""What can happen to a chain, done to a real anvil: reorgs, foreign transactions, full mempools, fees, clocks.

What anvil 1.7.1 does by itself, and what this makes of it:

- A base fee of 0, which LocalEvm starts with, stays 0. `set_base_fee` gives the next block another; from then on it
  moves as EIP-1559 says, down an eighth with every empty block. LocalEvm's own `send` pays 1 gwei: more is refused.
- What pays less than the next block's base fee is refused at the door, and what is in the pool already is thrown out
  without a word by the block that costs more than it pays. geth keeps it waiting; so does `congest`, whose blocks have
  no room for anything.
- A transaction of the same nonce replaces another when it pays one wei more of `maxFeePerGas`, whatever its tip.
  The proxy's `as_geth` wants the 10 % that other nodes want.
- A replaced, dropped or thrown out transaction is unknown: no receipt, no transaction by its hash.
- anvil_dropTransaction also drops the account's later nonces. All of them may be sent again.
- What a reorg took out is unknown too, and does not return to the pool: Fate.RETURNED sends it again. The pool itself
  is left alone by a reorg.
- anvil_reorg gives its blocks one second each after the fork, whatever time had passed, and forgets a timestamp that
  was set; `reorg` mines the blocks one by one instead, with the times and base fees of those they replace.
- `safe` is 32 blocks back and `finalized` 64, so neither is ever reorganised by what a campaign does.
- A block with the content, time, fee and miner of another has its hash: `reorg` changes the miner.
- A reorg is refused ("Required data unavailable") at LocalEvm's `history_blocks` and deeper; the default is 1,000.
- A transaction of an impersonated account has no valid signature: a reorg sends it again by its sender's name.
- Automatic mining answers first and mines then: `settle` waits for it.
- With mining held, LocalEvm's `send` waits for ever: it waits for the receipt.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import Any, Final

from eth_account import Account as EthAccount
from eth_keys.exceptions import BadSignature

from agents.localnet.evm import CHAIN_ID, LocalEvm

__all__ = ["GWEI", "ChainLab", "Fate", "LabError", "Mined", "Pending", "Reorged"]

GWEI: Final = 10**9
PLAIN_GAS: Final = 21_000
_REQUEST: Final = ("from", "to", "nonce", "gas", "value", "input")
_FEES: Final = (("gasPrice",), ("maxFeePerGas", "maxPriorityFeePerGas"))
# A transaction to be sent: signed, in hex, or a request to the node.
_Item = str | Mapping[str, Any]
_SETTLED_S: Final = 10
# More than any node asks for a replacement.
_REPLACEMENT_PERCENT: Final = 130
# Addresses of nobody, and of no precompile. No two reorgs of a process share one, not even when a snapshot is restored
# between them: anvil finds past states by their block's hash, and forgets them with the oldest block that had it.
_rival_miners = count(0xC4A05 << 64)


class LabError(RuntimeError):
    """The node refused something; `message` is what it said."""

    def __init__(self, method: str, error: Mapping[str, Any]) -> None:
        super().__init__(f"{method}: {error['message']}")
        self.code, self.message = int(error.get("code", 0)), str(error["message"])


class Fate(StrEnum):
    """What becomes of a transaction whose block is replaced."""

    # In the new block at the same height.
    KEPT = "kept"
    # In the last of the new blocks.
    LATER = "later"
    # In the first of them, if its nonce allows.
    SOONER = "sooner"
    # Nowhere: the node has never heard of it.
    DROPPED = "dropped"
    # Back in the pool. Unless mining is held, it is mined at once, in one block more.
    RETURNED = "returned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mined:
    """A transaction in a block, with what it takes to send it again."""

    hash: str
    sender: str
    nonce: int
    block: int
    # None for an impersonated sender, whose signature nobody could check.
    raw: bytes | None
    # As the node's own `eth_sendTransaction` wants it.
    request: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A transaction in the pool. `fee_wei` is the highest for a unit of gas."""

    hash: str
    sender: str
    nonce: int
    fee_wei: int
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reorged:
    """What a reorg did: block hashes of before and after, oldest first, and which transactions are in no block now."""

    first_block: int
    old_hashes: tuple[str, ...]
    new_hashes: tuple[str, ...]
    gone: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slot:
    """One block as it was: when, at which base fee."""

    hash: str
    timestamp_s: int
    base_fee_wei: int


class ChainLab:
    """Does things to the anvil behind a LocalEvm that it would not do by itself."""

    def __init__(self, evm: LocalEvm) -> None:
        if evm.name != "anvil":
            raise ValueError(f"the fault laboratory needs anvil, not {evm.name}")
        self.evm = evm
        self._request = evm.w3.provider.request_raw  # type: ignore[attr-defined]

    def rpc(self, method: str, *params: Any) -> Any:
        """The result of a call. Raises LabError with the node's words."""
        answer = self._request(method, list(params))
        if error := answer.get("error"):
            raise LabError(method, error)
        return answer["result"]

    # What there is

    def head(self) -> int:
        """The latest block's number."""
        return int(self.rpc("eth_blockNumber"), 16)

    def block_hash(self, number: int) -> str:
        """The hash of the block at that height. Raises LabError when there is none."""
        return str(self._block(number)["hash"])

    def base_fee_wei(self) -> int:
        """What the next block takes for a unit of gas."""
        return int(self.rpc("eth_getBlockByNumber", "pending", False)["baseFeePerGas"], 16)

    def nonce(self, address: str, *, pending: bool = False) -> int:
        """An account's next nonce: after what is mined, or after what is pending."""
        return int(self.rpc("eth_getTransactionCount", address, "pending" if pending else "latest"), 16)

    def receipt(self, transaction_hash: str) -> Mapping[str, Any] | None:
        """As the node has it, or None."""
        found: Mapping[str, Any] | None = self.rpc("eth_getTransactionReceipt", transaction_hash)
        return found

    def pool(self) -> tuple[Pending, ...]:
        """What waits to be mined, each account's in the order of nonces; what waits for an earlier nonce, too."""
        content = self.rpc("txpool_content")
        found = [tx for part in ("pending", "queued") for of in content[part].values() for tx in of.values()]
        return tuple(self._pending(tx) for tx in sorted(found, key=lambda tx: (tx["from"], int(tx["nonce"], 16))))

    def executable(self) -> int:
        """How many transactions wait for nothing but a block; what waits for an earlier nonce is left out."""
        return int(self.rpc("txpool_status")["pending"], 16)

    def transactions(self, first: int, last: int) -> tuple[Mined, ...]:
        """What is in those blocks, in the order of the chain."""
        return tuple(self._mined(tx) for number in range(first, last + 1) for tx in self._block(number)["transactions"])

    # Blocks

    def reorg(
        self,
        depth: int,
        fate: Fate | Callable[[Mined], Fate] = Fate.DROPPED,
        *,
        insert: Sequence[bytes] = (),
        longer_by: int = 0,
        exact_times: bool = True,
    ) -> Reorged:
        """Replace the last `depth` blocks by as many others, and `longer_by` empty ones on top.

        `fate` says what becomes of each transaction; `insert` are signed ones that come before all of them: a rival
        with the nonce of one that was mined, for instance. Each block keeps the time and the base fee of the one it
        replaces, but is mined by itself: for a moment the chain is shorter (the proxy's `held` hides that), and within
        a block the best paying comes first. With `exact_times=False` it is one step, in the order given, but the blocks
        follow each other by one second. Raises LabError for a depth that the node has no state for.
        """
        self.settle()
        head = self.head()
        if not 0 < depth <= head:
            raise ValueError(f"a reorg of {depth} blocks on a chain of {head}")
        first = head - depth + 1
        slots = [self._slot(number) for number in range(first, head + 1)]
        old = self.transactions(first, head)
        fates = {tx.hash: fate if isinstance(fate, Fate) else fate(tx) for tx in old}
        contents = _contents(old, fates, depth, first)
        contents[0] = [*map(_hex, insert), *contents[0]]
        with self.held_mining(), self._another_miner():
            (self._replace_one_by_one if exact_times else self._replace_at_once)(slots, contents)
            self._mine_without_the_pool(longer_by)
            self._send_again([_again(tx) for tx in old if fates[tx.hash] is Fate.RETURNED])
        gone = tuple(tx.hash for tx in old if self.receipt(tx.hash) is None)
        new = tuple(self.block_hash(number) for number in range(first, head + 1))
        return Reorged(first_block=first, old_hashes=tuple(slot.hash for slot in slots), new_hashes=new, gone=gone)

    def shorten(self, blocks: int) -> None:
        """Take the last blocks away and put none in their place: a node restored from a backup."""
        self.rpc("anvil_rollback", blocks)

    @contextlib.contextmanager
    def held_mining(self) -> Iterator[None]:
        """Meanwhile what is sent waits; afterwards, if mining was automatic, what waits is mined at once."""
        was_automatic = self.rpc("anvil_getAutomine")
        self.rpc("evm_setAutomine", False)
        try:
            yield
        finally:
            self.rpc("evm_setAutomine", was_automatic)
            self.settle()

    def hold_mining(self) -> None:
        """What is sent waits until `mine`, or until `release_mining`."""
        self.rpc("evm_setAutomine", False)

    def release_mining(self) -> None:
        """Mine what waits, and from now on each transaction when it comes."""
        self.rpc("evm_setAutomine", True)
        self.settle()

    def settle(self) -> None:
        """Wait until automatic mining, which answers first and mines then, has caught up. Held: no wait."""
        deadline = time.monotonic() + _SETTLED_S
        while self.rpc("anvil_getAutomine") and self.executable():
            if time.monotonic() > deadline:
                raise LabError("txpool_status", {"message": f"what is pending was not mined in {_SETTLED_S} s"})
            time.sleep(0.001)

    def mine(self, blocks: int = 1) -> int:
        """Mine what waits; the new head. What pays less than the base fee is thrown out of the pool: see `congest`."""
        self.evm.mine(blocks)
        return self.head()

    # Fees

    def set_base_fee(self, wei: int) -> None:
        """The next block takes that much for a unit of gas; the ones after it as EIP-1559 says. 0 stays 0."""
        self.rpc("anvil_setNextBlockBaseFeePerGas", hex(wei))

    def congest(self, base_fee_wei: int, blocks: int = 1) -> None:
        """Mine full blocks that cost that much, as the next one will: what pays less is stuck in the pool.

        A bump that pays it replaces what is stuck. The next block that has room throws out what still pays less.
        """
        self._mine_without_the_pool(blocks, base_fee_wei=base_fee_wei)

    # Transactions

    def sign(
        self,
        key: bytes,
        *,
        nonce: int,
        to: str | None = None,
        value_wei: int = 0,
        data: bytes = b"",
        gas: int = PLAIN_GAS,
        fee_wei: int | None = None,
        tip_wei: int = 1,
        chain_id: int = CHAIN_ID,
    ) -> bytes:
        """A signed EIP-1559 transaction, by default of nothing to itself, for twice the base fee and a gwei."""
        fee_wei = 2 * self.base_fee_wei() + GWEI if fee_wei is None else fee_wei
        fields = {"nonce": nonce, "to": to or EthAccount.from_key(key).address, "value": value_wei, "data": data}
        fields |= {"gas": gas, "maxFeePerGas": fee_wei, "maxPriorityFeePerGas": min(tip_wei, fee_wei)}
        return bytes(EthAccount.sign_transaction({**fields, "chainId": chain_id}, key).raw_transaction)

    def send_raw(self, raw: bytes) -> str:
        """Hand it to the node, without waiting for a block; its hash. Raises LabError with the node's words."""
        return str(self.rpc("eth_sendRawTransaction", _hex(raw)))

    def foreign_transaction(self, key: bytes, *, nonce: int | None = None, **fields: Any) -> str:
        """Use somebody's key behind his back; the hash. `nonce`: by default the next after what is pending.

        Mined when this returns, unless mining is held. Other fields are those of `sign`. Raises LabError with the
        node's words.
        """
        if nonce is None:
            nonce = self.nonce(EthAccount.from_key(key).address, pending=True)
        sent = self.send_raw(self.sign(key, nonce=nonce, **fields))
        self.settle()
        return sent

    def replace_pending(self, transaction_hash: str, key: bytes, **fields: Any) -> str:
        """Put another transaction with the same nonce in the place of one that waits; its hash.

        It pays 30 % more of fee and tip, unless `fields` (those of `sign`) say otherwise. Raises LabError, KeyError
        when nothing of that hash waits.
        """
        there = self.rpc("eth_getTransactionByHash", transaction_hash)
        if there is None or there["blockNumber"] is not None:
            raise KeyError(transaction_hash)
        fee, tip = (int(there.get(name) or there["gasPrice"], 16) for name in ("maxFeePerGas", "maxPriorityFeePerGas"))
        more = {"fee_wei": fee * _REPLACEMENT_PERCENT // 100 + 1, "tip_wei": tip * _REPLACEMENT_PERCENT // 100 + 1}
        return self.send_raw(self.sign(key, nonce=int(there["nonce"], 16), **{**more, **fields}))

    def drop_transaction(self, transaction_hash: str) -> frozenset[str]:
        """The pool forgets it; the hashes of all that went, which are the account's later nonces too."""
        before = {tx.hash for tx in self.pool()}
        self.rpc("anvil_dropTransaction", transaction_hash)
        return frozenset(before - {tx.hash for tx in self.pool()})

    def drop_all(self) -> None:
        """A node that restarts without its mempool."""
        self.rpc("anvil_dropAllTransactions")

    # Time

    def jump_clock(self, seconds: int) -> int:
        """Mine an empty block that much after the latest, or before it; its time.

        Forwards is what happens after an outage. Backwards breaks Ethereum's rules, which anvil lets pass: for code
        that must refuse such a node.
        """
        now_s = self.evm.now_s()
        if seconds > 0:
            self._mine_without_the_pool(1, timestamp_s=now_s + seconds)
        else:
            self.rpc("evm_setTime", now_s + seconds)
            self._mine_without_the_pool(1)
        return self.evm.now_s()

    # How

    def _block(self, number: int) -> Mapping[str, Any]:
        found: Mapping[str, Any] | None = self.rpc("eth_getBlockByNumber", hex(number), True)
        if found is None:
            raise LabError("eth_getBlockByNumber", {"message": f"there is no block {number}"})
        return found

    def _slot(self, number: int) -> _Slot:
        block = self._block(number)
        fee = int(block.get("baseFeePerGas") or "0x0", 16)
        return _Slot(hash=block["hash"], timestamp_s=int(block["timestamp"], 16), base_fee_wei=fee)

    def _raw(self, transaction_hash: str) -> bytes:
        return bytes.fromhex(str(self.rpc("eth_getRawTransactionByHash", transaction_hash))[2:])

    def _mined(self, tx: Mapping[str, Any]) -> Mined:
        nonce, block, raw = int(tx["nonce"], 16), int(tx["blockNumber"], 16), self._raw(tx["hash"])
        own = raw if _is_signed_by(raw, tx["from"]) else None
        request = {name: tx[name] for name in (*_REQUEST, *_FEES[tx["type"] == "0x2"]) if tx.get(name) is not None}
        return Mined(hash=tx["hash"], sender=tx["from"], nonce=nonce, block=block, raw=own, request=request)

    def _pending(self, tx: Mapping[str, Any]) -> Pending:
        fee = int(tx.get("maxFeePerGas") or tx["gasPrice"], 16)
        nonce = int(tx["nonce"], 16)
        return Pending(hash=tx["hash"], sender=tx["from"], nonce=nonce, fee_wei=fee, raw=self._raw(tx["hash"]))

    @contextlib.contextmanager
    def _another_miner(self) -> Iterator[None]:
        """Blocks of the same content, time and fee have the same hash: those of another miner have not."""
        miner = self.rpc("eth_coinbase")
        self.rpc("anvil_setCoinbase", f"0x{next(_rival_miners):040x}")
        try:
            yield
        finally:
            self.rpc("anvil_setCoinbase", miner)

    def _replace_at_once(self, slots: Sequence[_Slot], contents: Sequence[Sequence[_Item]]) -> None:
        self.set_base_fee(slots[0].base_fee_wei)
        pairs = [[item, at] for at, items in enumerate(contents) for item in items]
        self.rpc("anvil_reorg", len(slots), pairs)

    def _replace_one_by_one(self, slots: Sequence[_Slot], contents: Sequence[Sequence[_Item]]) -> None:
        next_fee_wei, waiting = self.base_fee_wei(), [_hex(tx.raw) for tx in self.pool()]
        self.drop_all()
        self.rpc("anvil_rollback", len(slots))
        for slot, items in zip(slots, contents, strict=True):
            self.set_base_fee(slot.base_fee_wei)
            self._send_again(items)
            with contextlib.suppress(LabError):  # it was before its parent: somebody had set the clock back
                self.rpc("evm_setNextBlockTimestamp", slot.timestamp_s)
            self.rpc("evm_mine")
        self.set_base_fee(next_fee_wei)
        self._send_again(waiting)

    def _send_again(self, items: Sequence[_Item]) -> None:
        """What the node takes no more is lost, as it would be anywhere."""
        for item in items:
            with contextlib.suppress(LabError):
                self.rpc("eth_sendRawTransaction" if isinstance(item, str) else "eth_sendTransaction", item)

    def _mine_without_the_pool(
        self, blocks: int, *, base_fee_wei: int | None = None, timestamp_s: int | None = None
    ) -> None:
        """Blocks with no room: anvil throws out what it cannot take for another reason, and keeps what does not fit."""
        if not blocks:
            return
        limit = self._block(self.head())["gasLimit"]
        self.rpc("evm_setBlockGasLimit", "0x0")
        try:
            if timestamp_s is not None:
                self.rpc("evm_setNextBlockTimestamp", timestamp_s)
            for _ in range(blocks):
                if base_fee_wei is not None:
                    self.set_base_fee(base_fee_wei)
                self.rpc("evm_mine")
        finally:
            self.rpc("evm_setBlockGasLimit", limit)


def _contents(old: Sequence[Mined], fates: Mapping[str, Fate], depth: int, first: int) -> list[list[_Item]]:
    """What each new block is to hold."""
    blocks: list[list[_Item]] = [[] for _ in range(depth)]
    places = {Fate.KEPT: lambda tx: tx.block - first, Fate.SOONER: lambda tx: 0, Fate.LATER: lambda tx: depth - 1}
    for tx in old:
        if place := places.get(fates[tx.hash]):
            blocks[place(tx)].append(_again(tx))
    return blocks


def _again(tx: Mined) -> _Item:
    return dict(tx.request) if tx.raw is None else _hex(tx.raw)


def _hex(raw: bytes) -> str:
    return "0x" + bytes(raw).hex()


def _is_signed_by(raw: bytes, sender: str) -> bool:
    try:
        return str(EthAccount.recover_transaction(raw)).lower() == sender.lower()
    except (ValueError, BadSignature):
        return False
