"""ape run propose: asks the DAO for a strategy, for a change of one, for its capital back, or for its end."""

from agents.commands.propose import cli as cli
