"""ape run travel: lets time pass on a local chain, where it passes only when told, and publishes every price anew."""

from agents.commands.travel import cli as cli
