"""The trades of a vault as the ledger's events tell them, and the proof that none is missing or changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from eth_abi import encode
from eth_utils import keccak
from hexbytes import HexBytes

from agents.contracts import EventLog, decode_logs, load_artifact
from oracle.abi import type_signature


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One trade. `fields` are those of ITradeLedger.Trade, in the contract's names and units."""

    id: str
    vault: str
    block: int
    transaction_hash: str
    fields: dict[str, Any]


class LedgerBroken(ValueError):
    """The events do not hash to the head: one is missing, added or changed."""


def fetch_entries(
    chain: Any, ledger: Any, vault: str, *, from_block: int = 0, to_block: int | str = "latest"
) -> list[LedgerEntry]:
    """All trades of a vault, oldest first."""
    logs = chain.w3.eth.get_logs(
        {
            "address": ledger.address, "fromBlock": from_block, "toBlock": to_block,
            "topics": ["0x" + trade_topic().hex(), None, "0x" + vault[2:].lower().rjust(64, "0")],
        }
    )  # fmt: skip
    return [_entry(decoded, log) for log in logs for decoded in decode_logs({"logs": [log]})]


def entries_in(receipt: Any) -> Iterator[LedgerEntry]:
    """The trades that one transaction recorded."""
    for log in receipt["logs"]:
        if is_trade(log):
            for decoded in decode_logs({"logs": [log]}):
                yield _entry(decoded, log)


@cache
def trade_topic() -> bytes:
    """What the first topic of TradeRecorded is."""
    event = next(item for item in load_artifact("TradeLedger").abi if item.get("name") == "TradeRecorded")
    return keccak(text=f"TradeRecorded({','.join(type_signature(i) for i in event['inputs'])})")


def is_trade(log: Any) -> bool:
    """Whether a log is a ledger's TradeRecorded; without decoding it, which takes a while."""
    topics = log["topics"]
    return len(topics) > 1 and HexBytes(topics[0]) == trade_topic()


def verify_chain(entries: Sequence[LedgerEntry], *, genesis: bytes, head: bytes) -> None:
    """Recomputes the hash chain from the events. Raises LedgerBroken naming the first entry that does not fit."""
    running = genesis
    for entry in entries:
        running = next_head(running, entry.fields)
        if "0x" + running.hex() != entry.id:
            raise LedgerBroken(
                f"trade {entry.fields['sequence']} of vault {entry.vault}: its id does not follow from it"
            )
    if running != head:
        raise LedgerBroken(f"{len(entries)} events hash to 0x{running.hex()}, the ledger's head is 0x{head.hex()}")


def next_head(head: bytes, fields: dict[str, Any]) -> bytes:
    """keccak256(abi.encode(head, trade)), as TradeLedger.record computes it."""
    record = next(item for item in load_artifact("TradeLedger").abi if item.get("name") == "record")
    [trade] = record["inputs"]
    return keccak(encode(["bytes32", type_signature(trade)], [head, _values(trade, fields)]))


def _values(item: Any, value: Any) -> Any:
    if item["type"].endswith("[]"):
        return [_values({**item, "type": item["type"][:-2]}, element) for element in value]
    if item["type"] == "tuple":
        return tuple(_values(part, value[part["name"]]) for part in item["components"])
    return value


def _entry(decoded: EventLog, log: Any) -> LedgerEntry:
    block, transaction = log["blockNumber"], bytes(log["transactionHash"])
    return LedgerEntry(
        id="0x" + decoded.args["id"].hex(), vault=decoded.args["vault"], block=block,
        transaction_hash="0x" + transaction.hex(), fields=decoded.args["trade"],
    )  # fmt: skip
