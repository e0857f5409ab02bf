"""The running protocol of the contract tests, for what reads it."""

from tests.contracts.conftest import deployed, evm, world
from tests.unit.offchain_rl.conftest import shared_data

__all__ = ["deployed", "evm", "shared_data", "world"]
