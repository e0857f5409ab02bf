"""ape run status: what is going on in the protocol, from its subgraph or, without one, from the contracts' events."""

from agents.commands.status import cli as cli
