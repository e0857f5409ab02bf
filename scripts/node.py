"""ape run node: a local chain to try the other commands on. It forgets everything when it ends."""

from agents.commands.node import cli as cli
