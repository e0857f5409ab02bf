"""ape run relayer: takes signed ballots over HTTP and pays for their transactions."""

from agents.commands.relayer import cli as cli
