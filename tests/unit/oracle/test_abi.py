"""ape changes eth-abi for the whole process when it is imported; what we decode stays strict."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import ape.utils.abi
from eth_abi.exceptions import DecodingError
from oracle.abi import decode_outputs
try:
    print(decode_outputs([{"type": "uint256", "name": ""}], b"\\x01"))
except DecodingError:
    print("refused")
"""


def test_an_answer_cut_short_is_refused_after_ape_was_imported_too() -> None:
    found = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "refused"
