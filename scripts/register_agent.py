"""ape run register_agent: an identity for an agent, its bond and its deposit; or more of those for one there is."""

from agents.commands.register_agent import cli as cli
