"""ape run explain: why a trade was made, or each of a vault's, checked against the hash that the ledger has."""

from agents.commands.explain import cli as cli
