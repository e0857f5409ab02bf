"""What a transaction may cost: EIP-1559 fees under a ceiling, and what it takes to replace one that is stuck."""

from __future__ import annotations

from dataclasses import dataclass

from agents.errors import Retryable

# Nodes take a transaction in another's place when both its fees are a tenth higher (geth's --txpool.pricebump); some
# ask for an eighth.
_REPLACEMENT_PERCENT = 113


class FeeTooHigh(Retryable):
    """Gas costs more now than the operator allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fees:
    """Wei for a unit of gas."""

    tip_wei: int
    max_fee_wei: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FeePolicy:
    """How much is offered for a unit of gas. Nothing above `max_fee_wei` is ever signed."""

    max_fee_wei: int = 500 * 10**9
    min_tip_wei: int = 0
    max_tip_wei: int = 50 * 10**9
    # Room for the base fee to rise, by an eighth each full block: 2 x lasts for six of them.
    base_fee_percent: int = 200

    def __post_init__(self) -> None:
        if not 0 <= self.min_tip_wei <= self.max_tip_wei or self.max_fee_wei <= 0 or self.base_fee_percent < 100:
            raise ValueError(
                f"{self}: tips are from 0 up to a maximum, the fee is positive, the percentage at least 100"
            )

    def first(self, base_fee_wei: int, suggested_tip_wei: int) -> Fees:
        """For a new transaction. Raises FeeTooHigh when the ceiling is below what the next block asks."""
        tip = min(max(suggested_tip_wei, self.min_tip_wei), self.max_tip_wei)
        if base_fee_wei + self.min_tip_wei > self.max_fee_wei:
            raise FeeTooHigh(
                f"a unit of gas costs {base_fee_wei} wei, MARKETFLOW_MAX_FEE_WEI allows {self.max_fee_wei}: "
                "trading waits until it is cheaper, or raise the setting"
            )
        max_fee = min(base_fee_wei * self.base_fee_percent // 100 + tip, self.max_fee_wei)
        return Fees(tip_wei=min(tip, max_fee), max_fee_wei=max_fee)

    def higher(self, before: Fees, base_fee_wei: int, suggested_tip_wei: int) -> Fees | None:
        """To take the place of a transaction that waits: enough for nodes to accept it, and for the next block.

        None when the ceiling of the fee, or that of the tip, does not allow as much: then it waits.
        """
        tip = max(_raised(before.tip_wei), min(max(suggested_tip_wei, self.min_tip_wei), self.max_tip_wei))
        least = _raised(before.max_fee_wei)
        wanted = max(least, base_fee_wei * self.base_fee_percent // 100 + tip)
        max_fee = min(wanted, self.max_fee_wei)
        if max_fee < least or tip > min(max_fee, self.max_tip_wei):
            return None
        return Fees(tip_wei=tip, max_fee_wei=max_fee)


def _raised(fee_wei: int) -> int:
    return -(-fee_wei * _REPLACEMENT_PERCENT // 100) + 1
