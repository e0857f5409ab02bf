"""ape run demo: the whole circle on a local chain with real prices. See `agents/demo.py` for who does what."""

from agents.commands.demo import cli as cli
