"""ape run deploy: puts the protocol on a chain, after saying what that decides."""

from agents.commands.deploy import cli as cli
