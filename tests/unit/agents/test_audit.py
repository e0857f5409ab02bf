"""What the auditor does where a chain can hardly be brought to: several things in the block of one trade."""

from __future__ import annotations

from types import SimpleNamespace

from agents.audit import Auditor
from oracle.chain import BlockRef
from tests.unit.oracle.readings import BTC, ETH, NOW_S, QUOTE, USD, WAD, position, reading


def test_an_asset_that_was_dropped_in_the_block_of_the_trade_is_no_error() -> None:
    """Recalled and dropped by an update after the trade: the vault is not as the trade left it, and that is all."""
    before, after = reading(position(ETH, WAD), position(BTC, 5)), reading(position(ETH, 2 * WAD), nonce=1)
    readings = {9: before, 10: after}
    auditor = Auditor(
        chain_id=1, artefacts={}, rounds=None, documents=None, decimals={},
        vaults=SimpleNamespace(fetch=lambda block: readings[block.number]),
        fetch_block=lambda number: BlockRef(number=number, hash="0x", timestamp_s=NOW_S),
    )  # fmt: skip
    fields = {"tokenIn": QUOTE, "tokenOut": ETH, "amountIn": 2000 * USD, "amountOut": WAD, "sequence": 0, "prices": []}
    assert auditor._is_as_left(after, SimpleNamespace(block=10, fields=fields)) is False
