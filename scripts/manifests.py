"""ape run manifests: the subgraph, built, with a manifest for each network that the protocol is deployed on."""

from agents.commands.manifests import cli as cli
