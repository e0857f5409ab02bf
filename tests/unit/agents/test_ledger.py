"""The hash chain: an entry that is omitted, added, moved or changed is found out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from eth_utils import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.ledger import LedgerBroken, LedgerEntry, next_head, verify_chain

GENESIS = b"\x01" * 32
VAULT, QUOTE, ETH = ("0x" + digit * 40 for digit in "e31")


def trade(sequence: int, **over: Any) -> dict[str, Any]:
    return {
        "agentId": 1, "sequence": sequence, "reasons": 0, "strategyId": b"\x0a" * 32, "artefactHash": b"\x0b" * 32,
        "explanationHash": b"\x0c" * 32, "observationHash": b"\x0d" * 32, "tokenIn": QUOTE, "tokenOut": ETH,
        "amountIn": 10**9, "amountOut": 5 * 10**17, "shortfall": -3, "netAssetValue": 10**12,
        "prices": [
            {"token": QUOTE, "roundId": 2**64 + 1, "answer": 10**8},
            {"token": ETH, "roundId": 2**64 + 9, "answer": 2000 * 10**8},
        ],
    } | over  # fmt: skip


def chain_of(*trades: dict[str, Any]) -> list[LedgerEntry]:
    """Entries as the ledger records them, ids included."""
    entries, head = [], GENESIS
    for number, fields in enumerate(trades):
        head = next_head(head, fields)
        entries.append(
            LedgerEntry(id="0x" + head.hex(), vault=VAULT, block=number, transaction_hash="0x", fields=fields)
        )
    return entries


def head_of(entries: list[LedgerEntry]) -> bytes:
    return bytes.fromhex(entries[-1].id[2:]) if entries else GENESIS


CHAIN = chain_of(*(trade(n, amountIn=10**9 + n) for n in range(4)))


def test_the_chain_of_what_happened_holds() -> None:
    verify_chain(CHAIN, genesis=GENESIS, head=head_of(CHAIN))
    verify_chain([], genesis=GENESIS, head=GENESIS)


def test_the_head_is_the_hash_of_the_former_and_the_trade() -> None:
    """keccak256(abi.encode(head, trade)), told without the code under test for the simplest of trades."""
    fields = trade(0, prices=[])
    word = lambda number: (number % 2**256).to_bytes(32, "big")  # noqa: E731
    address = lambda text: bytes(12) + bytes.fromhex(text[2:])  # noqa: E731
    hashes = [fields[name] for name in ("strategyId", "artefactHash", "explanationHash", "observationHash")]
    static = [word(1), word(0), word(0), *hashes]
    static += [address(QUOTE), address(ETH), word(10**9), word(5 * 10**17), word(-3), word(10**12), word(14 * 32)]
    assert next_head(GENESIS, fields) == keccak(b"".join([GENESIS, word(64), *static, word(0)]))


@pytest.mark.parametrize("missing", range(4))
def test_an_omitted_entry_is_found_out(missing: int) -> None:
    with pytest.raises(LedgerBroken):
        verify_chain(CHAIN[:missing] + CHAIN[missing + 1 :], genesis=GENESIS, head=head_of(CHAIN))


def test_an_omitted_last_entry_is_found_out_by_the_head() -> None:
    with pytest.raises(LedgerBroken, match=f"3 events hash to {CHAIN[2].id}, the ledger's head is {CHAIN[3].id}"):
        verify_chain(CHAIN[:3], genesis=GENESIS, head=head_of(CHAIN))


@pytest.mark.parametrize("at", range(5))
def test_an_added_entry_is_found_out(at: int) -> None:
    before = head_of(CHAIN[:at])
    added = trade(9)
    forged = LedgerEntry(
        id="0x" + next_head(before, added).hex(), vault=VAULT, block=0, transaction_hash="0x", fields=added
    )
    with pytest.raises(LedgerBroken):
        verify_chain([*CHAIN[:at], forged, *CHAIN[at:]], genesis=GENESIS, head=head_of(CHAIN))


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 3), (2, 3)])
def test_entries_in_another_order_are_found_out(a: int, b: int) -> None:
    swapped = list(CHAIN)
    swapped[a], swapped[b] = swapped[b], swapped[a]
    with pytest.raises(LedgerBroken):
        verify_chain(swapped, genesis=GENESIS, head=head_of(CHAIN))


CHANGES: dict[str, Any] = {
    "agentId": 2, "sequence": 7, "reasons": 1, "strategyId": b"\x1a" * 32, "artefactHash": b"\x1b" * 32,
    "explanationHash": b"\x1c" * 32, "observationHash": b"\x1d" * 32, "tokenIn": ETH, "tokenOut": QUOTE,
    "amountIn": 10**9 + 77, "amountOut": 5 * 10**17 + 1, "shortfall": 3, "netAssetValue": 10**12 + 1,
    "prices": trade(0)["prices"][:1],
}  # fmt: skip


def test_every_field_of_an_entry_is_tried() -> None:
    assert set(CHANGES) == set(trade(0))


@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize("at", [0, 3])
def test_a_changed_field_is_found_out_and_the_entry_named(field: str, at: int) -> None:
    changed = list(CHAIN)
    changed[at] = replace(CHAIN[at], fields=CHAIN[at].fields | {field: CHANGES[field]})
    sequence = changed[at].fields["sequence"]
    with pytest.raises(LedgerBroken, match=f"trade {sequence} of vault {VAULT}: its id does not follow from it"):
        verify_chain(changed, genesis=GENESIS, head=head_of(CHAIN))


@pytest.mark.parametrize("field", CHANGES)
def test_a_changed_entry_with_a_new_id_is_found_out_too(field: str) -> None:
    """Whoever changes an entry can hash it again, and all that follow: then they do not end at the ledger's head."""
    trades = [entry.fields for entry in CHAIN]
    trades[1] = trades[1] | {field: CHANGES[field]}
    with pytest.raises(LedgerBroken, match="4 events hash to"):
        verify_chain(chain_of(*trades), genesis=GENESIS, head=head_of(CHAIN))


def test_the_chain_of_another_vault_or_ledger_does_not_fit() -> None:
    with pytest.raises(LedgerBroken):
        verify_chain(CHAIN, genesis=b"\x02" * 32, head=head_of(CHAIN))


@settings(max_examples=30, deadline=None)
@given(amounts=st.lists(st.integers(0, 2**128), max_size=5), shortfall=st.integers(-(2**255), 2**255 - 1))
def test_any_history_holds(amounts: list[int], shortfall: int) -> None:
    entries = chain_of(*(trade(n, amountIn=a, shortfall=shortfall) for n, a in enumerate(amounts)))
    verify_chain(entries, genesis=GENESIS, head=head_of(entries))
