"""ape run check_data: what a price series is like, and whether anything may be learnt from it."""

from agents.commands.check_data import cli as cli
