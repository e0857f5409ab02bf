"""ape run check_config: what is deployed, compared with what is written down."""

from agents.commands.check_config import cli as cli
