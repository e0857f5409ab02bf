"""The running protocol of the contract tests, for what reads it."""

from tests.contracts.conftest import deployed, evm, world

__all__ = ["deployed", "evm", "world"]
