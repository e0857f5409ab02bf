"""What we decode: strict about numbers, whatever ape changes in eth-abi, and unmoved by others' text."""

from __future__ import annotations

import subprocess
import sys

from eth_abi import encode

from oracle.abi import decode_arguments

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


def test_bytes_that_are_no_text_do_not_keep_anybody_from_reading_the_rest() -> None:
    data = encode(["bytes", "uint256"], [b"a\xffb", 7])
    inputs = [{"type": "string", "name": "reason"}, {"type": "uint256", "name": "weight"}]
    assert decode_arguments(inputs, data) == {"reason": "a\ufffdb", "weight": 7}
