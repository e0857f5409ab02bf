"""How people started this program, for messages that name a command. Imports nothing heavy."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def is_marketflow() -> bool:
    """Whether it is `marketflow`, and not `ape` or another program."""
    return Path(sys.argv[0]).name == "marketflow"


def in_this_program(text: str) -> str:
    """Commands in a text as whoever reads it started this one: `ape run deploy_approved` or `marketflow
    deploy-approved`."""
    if not is_marketflow():
        return text
    return re.sub(r"\bape run (\w+)", lambda found: f"marketflow {found[1].replace('_', '-')}", text)
