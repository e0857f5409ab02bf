"""An order as the vault reads it, and what receipts say."""

from __future__ import annotations

from typing import Any

import pytest
from eth_utils import keccak, to_checksum_address
from hypothesis import given
from hypothesis import strategies as st
from web3 import Web3

from agents.contracts import RevertReason, load_artifact
from agents.execution import TRADE, Ended, Order, call_data, outcome_of, reverted
from agents.intent import Intent
from agents.vault_execution import order_tuple
from oracle.abi import type_signature

VAULT = Web3().eth.contract(address="0x" + "11" * 20, abi=load_artifact("StrategyVault").abi)  # type: ignore[arg-type]
uint256, uint64 = st.integers(0, 2**256 - 1), st.integers(0, 2**64 - 1)
hashes = st.binary(min_size=32, max_size=32).map(lambda data: "0x" + data.hex())


@st.composite
def orders(draw: st.DrawFn) -> Order:
    asset = to_checksum_address(draw(st.binary(min_size=20, max_size=20)))
    intent = Intent(**_intent(asset, draw(st.booleans()), draw(uint256), draw(uint256)))
    return Order(
        intent=intent, nonce=draw(uint64), deadline_s=draw(uint64), artefact_hash=draw(hashes),
        explanation_hash=draw(hashes), observation_hash=draw(hashes),
    )  # fmt: skip


def _intent(asset: str, is_buy: bool, amount_in: int, min_amount_out: int) -> dict[str, Any]:
    return {"asset": asset, "is_buy": is_buy, "amount_in": amount_in, "min_amount_out": min_amount_out, "value": 1}


def test_the_selector_is_that_of_trade() -> None:
    trade = next(item for item in load_artifact("StrategyVault").abi if item.get("name") == "trade")
    signature = f"trade({','.join(type_signature(item) for item in trade['inputs'])})"
    assert keccak(text=signature)[:4] == TRADE


@given(order=orders())
def test_the_call_is_encoded_as_web3_does(order: Order) -> None:
    assert call_data(order) == bytes.fromhex(VAULT.encode_abi("trade", [order_tuple(order)])[2:])


def test_what_does_not_fit_a_word_is_refused() -> None:
    intent = Intent(**_intent("0x" + "1" * 40, True, 2**256, 0))
    order = Order(
        intent=intent, nonce=0, deadline_s=0, artefact_hash="0x" + "0" * 64, explanation_hash="0x" + "0" * 64,
        observation_hash="0x" + "0" * 64,
    )  # fmt: skip
    with pytest.raises(OverflowError):
        call_data(order)


def test_a_receipt_without_events_filled_a_nonce() -> None:
    assert outcome_of({"logs": []}).ended is Ended.FILLED


def test_what_reverted_has_its_error_and_no_trade() -> None:
    outcome = reverted(RevertReason("VaultWrongNonce", {"expected": 1, "given": 0}))
    assert (outcome.ended, outcome.error, outcome.trade_id) == (Ended.REVERTED, "VaultWrongNonce", None)
    assert outcome.detail == "VaultWrongNonce(expected=1, given=0)"
