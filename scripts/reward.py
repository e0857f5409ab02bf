"""ape run reward: keeps an agent settled. Observes in a window, closes it afterwards, applies the frozen result."""

from agents.commands.reward import cli as cli
