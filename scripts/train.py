"""ape run train: an artefact from a price series, and a report of how the same training did on bars it had not seen."""

from agents.commands.train import cli as cli
