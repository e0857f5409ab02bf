"""ape run audit: decides every trade again, from the chain and the artefact, and says what does not hold."""

from agents.commands.audit import cli as cli
