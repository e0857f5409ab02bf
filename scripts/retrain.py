"""ape run retrain: trains challengers; one that passes the gate takes the champion's place. No chain is touched."""

from agents.commands.retrain import cli as cli
