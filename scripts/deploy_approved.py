"""ape run deploy_approved: takes a proposal that was voted in one step on: into the timelock, and out of it."""

from agents.commands.deploy_approved import cli as cli
