"""ape run page: the voting page, for this machine or as files for a static host; with a relayer if asked for."""

from agents.commands.page import cli as cli
