"""ape run verify_inputs: what explorers need to verify every contract of a deployment."""

from agents.commands.verify_inputs import cli as cli
