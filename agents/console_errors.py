"""Errors as a console shows them: one sentence with the way out, without the insides of web3."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from agents.errors import AgentError, Misconfigured

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Refused(Misconfigured):
    """What was asked can't be done. `reason`: the chain's, with name and arguments, where it was the chain."""

    def __init__(self, sentence: str, reason: Any = None) -> None:
        super().__init__(sentence)
        self.reason = reason

    def _render_traceback_(self) -> list[str]:
        """What IPython prints instead of a traceback."""
        return [f"error: {self}"]


def plainly(function: _Function) -> _Function:
    """What it raises becomes Refused, if a person can put it right; mistakes of the program stay what they are."""

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Refused:
            raise
        except Exception as error:
            found = explained(error)
            if found is None:
                raise
            raise found from None

    return run  # type: ignore[return-value]


def explained(error: Exception) -> Refused | None:
    """The error in a sentence; None where it is none of those that a person can put right."""
    import click
    from ape.exceptions import ApeException
    from eth_abi.exceptions import DecodingError
    from requests import RequestException
    from web3.exceptions import Web3Exception

    from agents.commands._chain import explain_revert, printable
    from agents.contracts import ArtifactMissing
    from agents.localnet.evm import CallReverted, TransactionRefused, TransactionReverted
    from oracle.errors import OracleError

    def refuse(sentence: str, reason: Any = None) -> Refused:
        return Refused(printable(" ".join(sentence.split())), reason)

    if isinstance(error, CallReverted | TransactionReverted):
        return refuse(explain_revert(error.reason), error.reason)
    if isinstance(error, RequestException):
        return refuse(f"the node does not answer ({type(error).__name__}): is it running? start the console again")
    if isinstance(error, DecodingError):
        return refuse(f"a contract gave no answer that can be read ({error}): has the chain forgotten it?")
    if isinstance(error, click.ClickException):
        return refuse(error.format_message())
    if isinstance(error, Web3Exception):
        return refuse(f"the node or web3 refuses: {error}")
    if isinstance(error, LookupError) and error.args:
        return refuse(str(error.args[0]))
    own = (AgentError, OracleError, ApeException, TransactionRefused, ArtifactMissing, ValueError, OSError)
    return refuse(str(error)) if isinstance(error, (*own, RuntimeError)) else None
