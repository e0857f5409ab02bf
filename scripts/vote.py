"""ape run vote: votes on a proposal; or signs a ballot that somebody else submits; or submits somebody's."""

from agents.commands.vote import cli as cli
