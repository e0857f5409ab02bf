"""`ape console` loads this file: see `agents.console` for what it then has in scope."""

from agents.console import ape_init_extras

__all__ = ["ape_init_extras"]
