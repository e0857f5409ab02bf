"""ape run delegate: tokens vote only for whom they are delegated to; most people name themselves, once."""

from agents.commands.delegate import cli as cli
