"""What can go wrong, grouped by what the operator does about it.

AgentError
├── Retryable        try again in the next cycle: a node that did not answer, a price that is late
├── Misconfigured    stop; the message says which setting, file or address, and the way out
└── Halted           the DAO, the guardian or the breaker said stop
"""

from __future__ import annotations


class AgentError(Exception):
    """Base of all errors that the agent's own code raises."""


class Retryable(AgentError):
    """Nothing is wrong with what was asked; it could not be done now."""


class Misconfigured(AgentError):
    """Nothing will work until somebody changes the named setting."""


class Halted(AgentError):
    """Trading was stopped by those who may stop it."""
