"""ape run localgraph: a graph-node of one's own, over a deployment on a running node."""

from agents.commands.localgraph import cli as cli
