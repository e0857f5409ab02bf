"""ape run history: download every round of a Chainlink feed to a parquet file, which `ape run train --data` takes."""

from agents.commands.history import cli as cli
