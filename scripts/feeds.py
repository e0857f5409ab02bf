"""ape run feeds: the Chainlink feeds that are known on a network, and whether they are what they should be."""

from agents.commands.feeds import cli as cli
